//! What filters do: children under them make system calls, and the kernel answers.
#![allow(
    clippy::unwrap_used,
    clippy::undocumented_unsafe_blocks,
    reason = "tests; all calls take numbers only"
)]

use std::time::Instant;

use coracle_seccomp::{Filter, Unknown};
use oci_spec::runtime::LinuxSeccomp;

/// How a child ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Exit(i32),
    Signal(i32),
}
use End::{Exit, Signal};

fn profile(text: &str) -> LinuxSeccomp {
    serde_json::from_str(text).unwrap()
}

/// Runs `call` in a child under the filter, and gives the number of its error, 0 if it has none.
fn under(filter: &Filter, call: fn() -> libc::c_long) -> End {
    // SAFETY: the child of a process with threads does nothing but system calls; `install` does not allocate.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        // SAFETY: plain system calls with numbers only.
        unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            if filter.install().is_err() {
                libc::_exit(200);
            }
            let result = call();
            // What a bare system call returns: -1 and errno through libc, or the value.
            let errno = if result < 0 { *libc::__errno_location() } else { 0 };
            // exit_group may be denied by the profile under test; exit is what is left.
            libc::syscall(libc::SYS_exit_group, errno);
            libc::syscall(libc::SYS_exit, errno);
            unreachable!()
        }
    }
    let mut status = 0;
    // SAFETY: our own child, and a place for its status.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    if libc::WIFSIGNALED(status) { Signal(libc::WTERMSIG(status)) } else { Exit(libc::WEXITSTATUS(status)) }
}

fn getppid() -> libc::c_long {
    unsafe { libc::syscall(libc::SYS_getppid) }
}

fn end(text: &str, call: fn() -> libc::c_long) -> End {
    under(&Filter::compile(&profile(text), Unknown::Skip).unwrap(), call)
}

/// Denies `getppid` with an action; the rest is allowed.
fn with_action(action: &str) -> End {
    end(
        &format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["getppid"],"action":{action}}}]}}"#
        ),
        getppid,
    )
}

#[test]
fn actions() {
    assert_eq!(with_action(r#""SCMP_ACT_ERRNO""#), Exit(libc::EPERM));
    assert_eq!(with_action(r#""SCMP_ACT_ERRNO","errnoRet":38"#), Exit(libc::ENOSYS));
    assert_eq!(with_action(r#""SCMP_ACT_KILL""#), Signal(libc::SIGSYS));
    assert_eq!(with_action(r#""SCMP_ACT_KILL_THREAD""#), Signal(libc::SIGSYS));
    assert_eq!(with_action(r#""SCMP_ACT_KILL_PROCESS""#), Signal(libc::SIGSYS));
    assert_eq!(with_action(r#""SCMP_ACT_TRAP""#), Signal(libc::SIGSYS));
    // Nobody traces the child.
    assert_eq!(with_action(r#""SCMP_ACT_TRACE""#), Exit(libc::ENOSYS));
    assert_eq!(with_action(r#""SCMP_ACT_LOG""#), Exit(0));
    assert_eq!(with_action(r#""SCMP_ACT_ALLOW""#), Exit(0));
}

/// A profile that notifies comes with a descriptor, whatever flags it has.
#[test]
fn a_listener() {
    let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_TSYNC",
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],"syscalls":[{"names":["getppid"],"action":"SCMP_ACT_NOTIFY"}]}"#;
    let filter = Filter::compile(&profile(text), Unknown::Skip).unwrap();
    assert!(filter.notifies());
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        let listener = filter.install().ok().flatten();
        let number = listener.map_or(-1, |fd| std::os::fd::AsRawFd::as_raw_fd(&fd));
        unsafe { libc::_exit(if number > 2 { 0 } else { 1 }) };
    }
    let mut status = 0;
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert_eq!(libc::WEXITSTATUS(status), 0);
}

/// socket(domain, ...) with domain 7, or whatever is in `call`.
fn with_condition(condition: &str, call: fn() -> libc::c_long) -> End {
    end(
        &format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
                {{"names":["socket"],"action":"SCMP_ACT_ERRNO","errnoRet":99,"args":[{condition}]}}]}}"#
        ),
        call,
    )
}

/// Fails by itself, with an error that no profile here gives.
fn socket_7_of_type_0() -> libc::c_long {
    unsafe { libc::syscall(libc::SYS_socket, 7, 0, 0) }
}

#[test]
fn comparisons() {
    for (condition, matches) in [
        (r#"{"index":0,"value":7,"op":"SCMP_CMP_EQ"}"#, true),
        (r#"{"index":0,"value":8,"op":"SCMP_CMP_EQ"}"#, false),
        (r#"{"index":0,"value":8,"op":"SCMP_CMP_NE"}"#, true),
        (r#"{"index":0,"value":7,"op":"SCMP_CMP_NE"}"#, false),
        (r#"{"index":0,"value":8,"op":"SCMP_CMP_LT"}"#, true),
        (r#"{"index":0,"value":7,"op":"SCMP_CMP_LT"}"#, false),
        (r#"{"index":0,"value":7,"op":"SCMP_CMP_LE"}"#, true),
        (r#"{"index":0,"value":7,"op":"SCMP_CMP_GE"}"#, true),
        (r#"{"index":0,"value":7,"op":"SCMP_CMP_GT"}"#, false),
        (r#"{"index":0,"value":6,"op":"SCMP_CMP_GT"}"#, true),
        (r#"{"index":0,"value":5,"valueTwo":5,"op":"SCMP_CMP_MASKED_EQ"}"#, true),
        (r#"{"index":0,"value":8,"valueTwo":8,"op":"SCMP_CMP_MASKED_EQ"}"#, false),
        // Two arguments: both must hold.
        (r#"{"index":0,"value":7,"op":"SCMP_CMP_EQ"},{"index":1,"value":0,"op":"SCMP_CMP_EQ"}"#, true),
        (r#"{"index":0,"value":7,"op":"SCMP_CMP_EQ"},{"index":1,"value":1,"op":"SCMP_CMP_EQ"}"#, false),
        // One argument twice: either is enough.
        (r#"{"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":0,"value":7,"op":"SCMP_CMP_EQ"}"#, true),
    ] {
        let end = with_condition(condition, socket_7_of_type_0);
        assert_eq!(end == Exit(99), matches, "{condition}: {end:?}");
    }
}

/// A default profile of the usual form: what it names is allowed, the rest is denied.
const DENY_BY_DEFAULT: &str = r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":
    ["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],"syscalls":[
    {"names":["exit","exit_group","read","write","getppid","close_range","a_call_of_the_future"],
     "action":"SCMP_ACT_ALLOW"}]}"#;

#[test]
fn calls_newer_than_the_profile_are_unknown_to_it() {
    assert_eq!(end(DENY_BY_DEFAULT, getppid), Exit(0));
    let older = || unsafe { libc::syscall(libc::SYS_getuid) };
    assert_eq!(end(DENY_BY_DEFAULT, older), Exit(libc::EPERM));
    let newer = || unsafe { libc::syscall(450, 0, 0, 0) };
    assert_eq!(end(DENY_BY_DEFAULT, newer), Exit(libc::ENOSYS));
    // Of x32, which this profile has, and whose largest call of it is the same one.
    if cfg!(target_arch = "x86_64") {
        let newer = || unsafe { libc::syscall(0x4000_0000 | 600) };
        assert_eq!(end(DENY_BY_DEFAULT, newer), Exit(libc::ENOSYS));
    }
}

/// A rule holds whatever comes before it: here a call of another architecture than the caller's.
#[test]
fn rules_behind_one_for_a_call_that_is_not_there() {
    let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":
        ["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32","SCMP_ARCH_AARCH64"],"syscalls":[
        {"names":["arm_fadvise64_64","_llseek"],"action":"SCMP_ACT_ERRNO"},
        {"names":["socket"],"action":"SCMP_ACT_ERRNO","errnoRet":99,
         "args":[{"index":0,"value":7,"op":"SCMP_CMP_EQ"}]}]}"#;
    assert_eq!(end(text, socket_7_of_type_0), Exit(99));
}

#[test]
fn flags_are_taken_by_the_kernel() {
    for flag in coracle_seccomp::FLAGS {
        let text = format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","flags":["{flag}"],
                "syscalls":[{{"names":["getppid"],"action":"SCMP_ACT_ERRNO","errnoRet":77}}]}}"#
        );
        assert_eq!(end(&text, getppid), Exit(77), "{flag}");
    }
}

/// About as many rules as engines' default profiles have.
fn large_profile() -> LinuxSeccomp {
    let mut names: Vec<String> = Vec::new();
    for number in 0..460 {
        let call = libseccomp::ScmpSyscall::from_raw_syscall(number);
        names.extend(call.get_name_by_arch(libseccomp::ScmpArch::X8664));
    }
    names.retain(|name| name != "socket" && name != "mount");
    // What x86 has instead: without it, libseccomp finds the rules for socket below contradictory.
    names.push("socketcall".into());
    let names = serde_json::to_string(&names).unwrap();
    profile(&format!(
        r#"{{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],
            "syscalls":[{{"names":{names},"action":"SCMP_ACT_ALLOW"}},
            {{"names":["socket"],"action":"SCMP_ACT_ERRNO","errnoRet":22,"args":[
                {{"index":0,"value":16,"op":"SCMP_CMP_EQ"}},{{"index":2,"value":9,"op":"SCMP_CMP_EQ"}}]}},
            {{"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{{"index":2,"value":9,"op":"SCMP_CMP_NE"}}]}},
            {{"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{{"index":0,"value":16,"op":"SCMP_CMP_NE"}}]}}]}}"#
    ))
}

#[test]
fn a_large_profile_works_and_comes_quickly_out_of_the_cache() {
    let (profile, dir) = (large_profile(), tempfile::tempdir().unwrap());
    let start = Instant::now();
    let compiled = Filter::cached(&profile, dir.path()).unwrap();
    let cold = start.elapsed();
    let start = Instant::now();
    let found = Filter::cached(&profile, dir.path()).unwrap();
    let warm = start.elapsed();
    eprintln!("compiled in {cold:?}, found in {warm:?}");
    assert_eq!(found, compiled);
    assert!(warm * 2 < cold, "{warm:?} against {cold:?}");
    assert_eq!(under(&found, getppid), Exit(0));
    let mount = || unsafe { libc::syscall(libc::SYS_mount, 0, 0, 0, 0, 0) };
    assert_eq!(under(&found, mount), Exit(libc::EPERM));
    let audit = || unsafe { libc::syscall(libc::SYS_socket, 16, 3, 9) };
    assert_eq!(under(&found, audit), Exit(libc::EINVAL));
}

/// config.json files as engines write them, in the directory that an environment variable names.
#[test]
fn profiles_of_engines() {
    let Some(dir) = std::env::var_os("CORACLE_TEST_CONFIGS") else {
        eprintln!("skipped: CORACLE_TEST_CONFIGS does not name a directory of config.json files");
        return;
    };
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let Ok(spec) = oci_spec::runtime::Spec::load(&path) else { continue };
        let Some(profile) = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) else {
            continue;
        };
        let start = Instant::now();
        let filter = Filter::compile(profile, Unknown::Skip)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        eprintln!("{}: {:?}", path.display(), start.elapsed());
        assert_eq!(under(&filter, getppid), Exit(0));
        let newer = || unsafe { libc::syscall(9999) };
        assert_eq!(under(&filter, newer), Exit(libc::ENOSYS));
    }
}
