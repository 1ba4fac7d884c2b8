use super::*;

/// Runs `attempt` in a child that the filter confines, and returns the error it ends with, 0 for none.
fn confined(filter: &Filter, attempt: fn() -> i64) -> i32 {
    // SAFETY: the child makes system calls only, and ends by _exit.
    unsafe {
        let child = libc::fork();
        assert!(child >= 0, "fork");
        if child == 0 {
            let code = match filter.install() {
                Ok(()) if attempt() < 0 => *libc::__errno_location(),
                Ok(()) => 0,
                Err(_) => 255,
            };
            libc::_exit(code);
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        assert!(libc::WIFEXITED(status), "status {status:#x}");
        libc::WEXITSTATUS(status)
    }
}

/// A system call with arguments that the kernel may refuse and cannot misuse.
fn call(number: libc::c_long, first: i64, second: i64, third: i64) -> i64 {
    // SAFETY: see above; it happens in a child that ends right after.
    unsafe { libc::syscall(number, first, second, third, 0, 0) }
}

fn map(protection: i32, flags: i32, fd: i32) -> i64 {
    // SAFETY: a new mapping, which nothing uses.
    let address =
        unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, libc::MAP_PRIVATE | flags, fd, 0) };
    if address == libc::MAP_FAILED { -1 } else { 0 }
}

/// A name and what is attempted.
type Attempt = (&'static str, fn() -> i64);

/// What would help an intruder, and neither program needs.
const FORBIDDEN: &[Attempt] = &[
    ("execve", || call(libc::SYS_execve, c"/bin/true".as_ptr() as i64, 0, 0)),
    ("execveat", || call(libc::SYS_execveat, 0, c"".as_ptr() as i64, 0)),
    ("fork", || call(libc::SYS_fork, 0, 0, 0)),
    ("vfork", || call(libc::SYS_clone, i64::from(libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD), 0, 0)),
    ("clone", || call(libc::SYS_clone, libc::SIGCHLD.into(), 0, 0)),
    ("clone3", || call(libc::SYS_clone3, 0, 0, 0)),
    ("unshare", || call(libc::SYS_unshare, libc::CLONE_NEWUSER.into(), 0, 0)),
    ("setns", || call(libc::SYS_setns, 0, 0, 0)),
    ("ptrace", || call(libc::SYS_ptrace, libc::PTRACE_TRACEME.into(), 0, 0)),
    ("process_vm_writev", || call(libc::SYS_process_vm_writev, 1, 0, 0)),
    ("pidfd_open", || call(libc::SYS_pidfd_open, 1, 0, 0)),
    ("mount", || call(libc::SYS_mount, 0, 0, 0)),
    ("open_tree", || call(libc::SYS_open_tree, 0, 0, 0)),
    ("chroot", || call(libc::SYS_chroot, c"/".as_ptr() as i64, 0, 0)),
    ("bpf", || call(libc::SYS_bpf, 0, 0, 0)),
    ("perf_event_open", || call(libc::SYS_perf_event_open, 0, 0, 0)),
    ("io_uring_setup", || call(libc::SYS_io_uring_setup, 1, 0, 0)),
    ("userfaultfd", || call(libc::SYS_userfaultfd, 0, 0, 0)),
    ("memfd_create", || call(libc::SYS_memfd_create, c"".as_ptr() as i64, 0, 0)),
    ("add_key", || call(libc::SYS_add_key, 0, 0, 0)),
    ("keyctl", || call(libc::SYS_keyctl, 0, 0, 0)),
    ("capset", || call(libc::SYS_capset, 0, 0, 0)),
    ("setuid", || call(libc::SYS_setuid, 0, 0, 0)),
    ("personality", || call(libc::SYS_personality, 0x40_0000, 0, 0)),
    ("prlimit64", || call(libc::SYS_prlimit64, 0, libc::RLIMIT_CPU.into(), 0)),
    ("open", || call(libc::SYS_open, c"/proc/self/mem".as_ptr() as i64, libc::O_RDWR.into(), 0)),
    ("ioctl TIOCSTI", || call(libc::SYS_ioctl, 0, 0x5412, 0)),
    ("fcntl F_SETOWN", || call(libc::SYS_fcntl, 0, libc::F_SETOWN.into(), 1)),
    ("kill", || call(libc::SYS_kill, 0, 0, 0)),
    ("tgkill of another", || call(libc::SYS_tgkill, 1, 1, 0)),
    ("pkey_mprotect", || call(libc::SYS_pkey_mprotect, 0, 0, 4)),
    ("shmat", || call(libc::SYS_shmat, 0, 0, 0)),
    ("mprotect PROT_EXEC", || call(libc::SYS_mprotect, 0, 4096, libc::PROT_EXEC.into())),
    ("mmap PROT_EXEC", || map(libc::PROT_READ | libc::PROT_EXEC, libc::MAP_ANONYMOUS, -1)),
    ("mmap of a file", || map(libc::PROT_READ, 0, 0)),
];

fn socket(family: i32, kind: i32) -> i64 {
    call(libc::SYS_socket, family.into(), kind.into(), 0)
}

/// What only a module that imports functions of the network needs.
const NETWORK: &[Attempt] = &[
    ("socket", || socket(libc::AF_INET, libc::SOCK_STREAM)),
    ("unix socket", || socket(libc::AF_UNIX, libc::SOCK_DGRAM)),
    ("connect", || call(libc::SYS_connect, 0, 0, 0)),
    ("bind", || call(libc::SYS_bind, 0, 0, 0)),
    ("listen", || call(libc::SYS_listen, 0, 0, 0)),
    ("setsockopt", || call(libc::SYS_setsockopt, 0, 1, 2)),
    ("epoll_create1", || call(libc::SYS_epoll_create1, 0, 0, 0)),
];

#[test]
fn an_intruder_in_the_handler_can_start_nothing() {
    for (name, attempt) in FORBIDDEN.iter().chain(NETWORK) {
        assert_eq!(confined(&WASI, *attempt), libc::EPERM, "{name}");
    }
    let attempts: [Attempt; 3] = [
        ("fallocate with a mode", || call(libc::SYS_fallocate, 0, 3, 0)),
        ("getsockopt SO_PEERCRED", || call(libc::SYS_getsockopt, 0, 1, 17)),
        ("madvise MADV_HWPOISON", || call(libc::SYS_madvise, 0, 0, 100)),
    ];
    for (name, attempt) in attempts {
        assert_eq!(confined(&WASI, attempt), libc::EPERM, "{name}");
    }
}

#[test]
fn the_network_adds_nothing_but_sockets() {
    let attempts: [Attempt; 8] = [
        ("raw socket", || socket(libc::AF_INET, libc::SOCK_RAW)),
        ("netlink socket", || socket(libc::AF_NETLINK, libc::SOCK_DGRAM)),
        ("packet socket", || socket(libc::AF_PACKET, libc::SOCK_DGRAM)),
        ("vsock", || socket(libc::AF_VSOCK, libc::SOCK_STREAM)),
        ("socketpair", || call(libc::SYS_socketpair, libc::AF_UNIX.into(), libc::SOCK_STREAM.into(), 0)),
        ("setsockopt SO_ATTACH_FILTER", || call(libc::SYS_setsockopt, 0, 1, 26)),
        ("setsockopt IP_TRANSPARENT", || call(libc::SYS_setsockopt, 0, 0, 19)),
        ("getsockopt SO_PEERCRED", || call(libc::SYS_getsockopt, 0, 1, 17)),
    ];
    for (name, attempt) in FORBIDDEN.iter().chain(&attempts) {
        assert_eq!(confined(&WASI_NETWORK, *attempt), libc::EPERM, "{name}");
    }
    for (name, attempt) in NETWORK {
        assert_ne!(confined(&WASI_NETWORK, *attempt), libc::EPERM, "{name}");
    }
}

#[test]
fn an_intruder_in_the_compiler_can_open_nothing_either() {
    let attempts: [Attempt; 5] = [
        ("openat", || call(libc::SYS_openat, libc::AT_FDCWD.into(), c"/".as_ptr() as i64, 0)),
        ("openat2", || call(libc::SYS_openat2, 0, 0, 0)),
        ("write to another", || call(libc::SYS_write, 2, c"".as_ptr() as i64, 0)),
        ("read from another", || call(libc::SYS_read, 1, 0, 0)),
        ("sendmsg", || call(libc::SYS_sendmsg, 1, 0, 0)),
    ];
    for (name, attempt) in FORBIDDEN.iter().chain(NETWORK).chain(&attempts) {
        assert_eq!(confined(&WASMC, *attempt), libc::ENOSYS, "{name}");
    }
}

#[test]
fn what_is_needed_is_left() {
    for filter in [&WASI, &WASI_NETWORK, &WASMC] {
        assert_eq!(confined(filter, || map(libc::PROT_READ | libc::PROT_WRITE, libc::MAP_ANONYMOUS, -1)), 0);
        assert_eq!(confined(filter, || call(libc::SYS_write, 1, c"".as_ptr() as i64, 0)), 0);
        let to_itself = || {
            let own = i64::from(std::process::id());
            call(libc::SYS_tgkill, own, own, 0)
        };
        assert_eq!(confined(filter, to_itself), 0);
    }
    assert_eq!(confined(&WASMC, || i64::from(std::thread::spawn(|| ()).join().is_err())), 0);
}

/// Where reading implies executing (personality(2)), the filter would be blind.
#[test]
fn memory_is_executable_only_where_asked_for() {
    let child = std::thread::spawn(|| {
        // SAFETY: a plain integer, for this thread.
        assert!(unsafe { libc::personality(READ_IMPLIES_EXEC) } >= 0);
        confined(&WASI, || {
            let Ok(before) = std::fs::read_to_string("/proc/self/maps") else { return -1 };
            // SAFETY: a new mapping of a size that no other has, which nothing uses.
            let page = unsafe {
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                libc::mmap(std::ptr::null_mut(), 0x123_4000, libc::PROT_READ, flags, -1, 0)
            };
            let Ok(after) = std::fs::read_to_string("/proc/self/maps") else { return -1 };
            let executable = |maps: &str| maps.lines().filter(|line| line.contains("xp ")).count();
            if page != libc::MAP_FAILED && executable(&after) == executable(&before) { 0 } else { -1 }
        })
    });
    assert_eq!(child.join().ok(), Some(0));
}

/// What a filter answers: classic BPF, as far as filters use it. `None` for what is not an instruction of theirs.
fn decide(program: &[libc::sock_filter], data: &[u32; 16]) -> Option<u32> {
    let (mut at, mut value) = (0, 0);
    loop {
        let libc::sock_filter { code, jt, jf, k } = *program.get(at)?;
        let branch = |holds: bool| usize::from(if holds { jt } else { jf });
        at += 1 + match code {
            0x05 => k as usize,
            0x06 => return Some(k),
            0x15 => branch(value == k),
            0x20 => {
                value = *data.get(k as usize / 4)?;
                0
            }
            0x25 => branch(value > k),
            0x35 => branch(value >= k),
            0x54 => {
                value &= k;
                0
            }
            _ => return None,
        };
    }
}

/// The search for a number may not change what is answered to it.
#[test]
fn a_filter_answers_as_the_chain_that_it_is_made_of() {
    const ARCHITECTURE: usize = 1;
    const FIRST_ARGUMENT: usize = 4;
    let mut random = 1_u64;
    let mut below = |limit: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) as usize % limit
    };
    for (filter, chain) in [(&WASI, WASI_CHAIN), (&WASI_NETWORK, WASI_NETWORK_CHAIN), (&WASMC, WASMC_CHAIN)] {
        assert!(filter.0.len() < chain.len());
        let mut data = [0; 16];
        data[ARCHITECTURE] = chain[1].k;
        let mut allowed = 0;
        for number in (0..1024).chain([u32::MAX, 1 << 30, 1 << 30 | 1]) {
            data[0] = number;
            // What the arguments of this call are compared with, and what lies beside it.
            let at = chain.iter().position(|it| it.code == JUMP_IF_EQUAL && it.k == number);
            let of_call = &chain[at.unwrap_or(0)..][..at.map_or(1, |at| 40.min(chain.len() - at))];
            let near = |k: u32| [0, k, k.wrapping_sub(1), k.wrapping_add(1), !k];
            let values: Vec<u32> = of_call.iter().flat_map(|it| near(it.k)).collect();
            for _ in 0..if at.is_some() { 2000 } else { 1 } {
                data[FIRST_ARGUMENT..].fill_with(|| values[below(values.len())]);
                let answer = decide(filter.0, &data).expect("an answer");
                assert_eq!(Some(answer), decide(chain, &data), "{data:?}");
                allowed += u32::from(answer == libc::SECCOMP_RET_ALLOW);
            }
        }
        assert!(allowed > 10_000, "{allowed}");
        data[ARCHITECTURE] ^= 1;
        assert_eq!(decide(filter.0, &data), Some(libc::SECCOMP_RET_KILL_PROCESS));
    }
}
