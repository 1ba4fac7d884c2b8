//! Real children under [`wait`], each in a forked process of its own: signals, standard streams and the
//! subreaper belong to a whole process, and the test harness has threads.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use super::*;
use crate::console;

/// Runs `body` in a fork and gives its pid; the fork exits with what `body` returns, 250 when it panics.
fn fork(body: impl FnOnce() -> u8) -> Pid {
    // SAFETY: glibc keeps its allocator usable in the fork, and no other lock is taken there.
    match unsafe { libc::fork() } {
        0 => {
            let code = catch_unwind(AssertUnwindSafe(body)).unwrap_or(250);
            // SAFETY: ends the fork without running the harness's exit handlers.
            unsafe { libc::_exit(code.into()) }
        }
        pid => Pid::from_raw(pid).unwrap(),
    }
}

/// The fork's exit code; a fork that hangs is a failure.
fn join(pid: Pid) -> u8 {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let options = WaitOptions::NOHANG;
        if let Some((_, status)) = rustix::process::waitpid(Some(pid), options).unwrap() {
            return status.exit_status().expect("a normal exit").try_into().unwrap();
        }
        if Instant::now() > deadline {
            kill_process(pid, Signal::KILL).unwrap();
            panic!("wait() hangs");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Starts a shell script as `run` starts a container: signals blocked, restored in the child.
fn start(script: &str, mask: SavedMask, slave: Option<OwnedFd>) -> (i32, OwnedFd) {
    let script = std::ffi::CString::new(script).unwrap();
    let pid = fork(|| {
        if let Some(slave) = slave {
            console::attach(slave, false).unwrap();
        }
        restore_signals(Some(&mask));
        // SAFETY: strings end with NUL and the list with a null pointer.
        unsafe { libc::execl(c"/bin/sh".as_ptr(), c"sh".as_ptr(), c"-c".as_ptr(), script.as_ptr(), 0) };
        126
    });
    (pid.as_raw_pid(), pidfd_open(pid, PidfdFlags::empty()).unwrap())
}

/// The whole of a foreground run without a terminal.
fn run(script: &str) -> u8 {
    let mask = block_signals().unwrap();
    let (pid, pidfd) = start(script, mask, None);
    wait(pid, pidfd, None).unwrap()
}

/// The whole of a foreground run with one, with these standard streams.
fn run_on_terminal(script: &str, stdin: &File, stdout: &File) -> u8 {
    rustix::stdio::dup2_stdin(stdin).unwrap();
    rustix::stdio::dup2_stdout(stdout).unwrap();
    let mask = block_signals().unwrap();
    let console = console::open(None).unwrap();
    let (pid, pidfd) = start(script, mask, Some(console.slave));
    wait(pid, pidfd, Some(console.master)).unwrap()
}

fn signal_self(signal: i32) {
    // SAFETY: the signal is blocked or ignored here.
    unsafe { libc::kill(libc::getpid(), signal) };
}

fn pipe() -> (File, File) {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    (reader.into(), writer.into())
}

fn null() -> File {
    File::open("/dev/null").unwrap()
}

/// Runs `script` on a terminal with /dev/null as input; its exit code and output.
fn output_of(script: &str) -> (u8, String) {
    let (mut reader, writer) = pipe();
    let pid = fork(|| run_on_terminal(script, &null(), &writer));
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    (join(pid), text)
}

#[test]
fn no_exit_status_is_lost_while_signals_arrive() {
    for i in 0..300 {
        let code = u8::try_from(i % 200).unwrap();
        let runner = fork(|| {
            // The child must survive them until its own exit.
            for signal in [libc::SIGUSR1, libc::SIGTERM] {
                // SAFETY: no handler.
                unsafe { libc::signal(signal, libc::SIG_IGN) };
            }
            run(&format!("exit {code}"))
        });
        // Through the start, the child's end and ours; the runner may be gone at any time.
        for signal in [Signal::CHILD, Signal::USR1, Signal::WINCH, Signal::CONT, Signal::TERM].repeat(8) {
            if i % 2 == 0 {
                std::thread::sleep(Duration::from_micros(50));
            }
            // Before it blocks them, USR1 and TERM would kill the runner.
            if matches!(signal, Signal::CHILD | Signal::WINCH | Signal::CONT) || blocks(runner, signal) {
                kill_process(runner, signal).unwrap();
            }
        }
        assert_eq!(join(runner), code);
    }
}

/// Whether the process blocks the signal.
fn blocks(pid: Pid, signal: Signal) -> bool {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:\t")).unwrap_or("0");
    u64::from_str_radix(mask, 16).unwrap() & (1 << (signal.as_raw() - 1)) != 0
}

#[test]
fn death_by_signal_is_128_and_its_number() {
    assert_eq!(join(fork(|| run("kill -KILL $$"))), 137);
    assert_eq!(join(fork(|| run("kill -SEGV $$"))), 139);
}

#[test]
fn a_signal_that_arrives_before_the_child_exists_reaches_it() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGUSR2, libc::SIGRTMIN() + 3] {
        let code = join(fork(|| {
            let mask = block_signals().unwrap();
            signal_self(signal);
            let (pid, pidfd) = start("exec sleep 20", mask, None);
            wait(pid, pidfd, None).unwrap()
        }));
        assert_eq!(i32::from(code), 128 + signal);
    }
}

#[test]
fn what_our_caller_ignores_is_not_forwarded() {
    let code = join(fork(|| {
        // SAFETY: no handler. SIGCHLD ignored would have the kernel drop the status.
        unsafe {
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
            libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        }
        let mask = block_signals().unwrap();
        signal_self(libc::SIGHUP);
        signal_self(libc::SIGURG);
        let (pid, pidfd) = start("trap 'exit 9' HUP URG; sleep 0.1; exit 3", mask, None);
        wait(pid, pidfd, None).unwrap()
    }));
    assert_eq!(code, 3);
}

#[test]
fn orphans_are_reaped() {
    let code = join(fork(|| {
        adopt_orphans().unwrap();
        let code = run("(sleep 0.05 &); sleep 0.3; exit 5");
        let left = rustix::process::wait(WaitOptions::NOHANG);
        if matches!(left, Err(Errno::CHILD)) { code } else { 1 }
    }));
    assert_eq!(code, 5);
}

#[test]
fn stopping_us_stops_us_and_not_the_exit_status() {
    let runner = fork(|| {
        rustix::process::setpgid(None, None).unwrap();
        let mask = block_signals().unwrap();
        signal_self(libc::SIGTSTP);
        let (pid, pidfd) = start("trap '' TSTP; sleep 0.1; exit 6", mask, None);
        wait(pid, pidfd, None).unwrap()
    });
    let (_, status) = rustix::process::waitpid(Some(runner), WaitOptions::UNTRACED).unwrap().unwrap();
    assert_eq!(status.stopping_signal(), Some(libc::SIGTSTP));
    std::thread::sleep(Duration::from_millis(200));
    kill_process(runner, Signal::CONT).unwrap();
    assert_eq!(join(runner), 6);
}

#[test]
fn a_terminals_output_is_complete() {
    let expected: String = (1..=3000).map(|i| format!("{i}\r\n")).collect();
    for _ in 0..100 {
        let (code, text) = output_of("seq 3000; exit 7");
        assert_eq!((code, text.len()), (7, expected.len()));
        assert_eq!(text, expected);
    }
}

#[test]
fn what_holds_the_terminal_after_the_end_does_not_keep_us() {
    let begin = Instant::now();
    let (code, text) = output_of("trap '' HUP; sleep 20 & echo end; exit 4");
    assert_eq!((code, text.as_str()), (4, "end\r\n"));
    let (code, text) = output_of("trap '' HUP; timeout 20 yes & sleep 1; exit 4");
    assert_eq!(code, 4);
    assert!(text.starts_with("y\r\ny\r\n"));
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_terminal_closed_and_opened_again_goes_on() {
    let script = "t=$(tty); echo one; exec <&- >&- 2>&-; sleep 0.1; exec <$t >$t 2>&1; echo two";
    assert_eq!(output_of(script), (0, "one\r\ntwo\r\n".into()));
}

#[test]
fn a_terminal_hung_up_and_opened_again_goes_on() {
    let ended = join(fork(|| {
        let (mut reader, writer) = pipe();
        rustix::stdio::dup2_stdin(null()).unwrap();
        rustix::stdio::dup2_stdout(&writer).unwrap();
        let console = console::open(None).unwrap();
        let pid = fork(|| {
            let path = rustix::termios::ttyname(&console.slave, Vec::new()).unwrap();
            console::attach(console.slave.try_clone().unwrap(), false).unwrap();
            // SAFETY: ignores the hang-up's signal; then hangs the controlling terminal up.
            unsafe {
                libc::signal(libc::SIGHUP, libc::SIG_IGN);
                libc::vhangup();
            }
            std::thread::sleep(Duration::from_millis(400));
            File::options().write(true).open(path.to_str().unwrap()).unwrap().write_all(b"again\n").unwrap();
            8
        });
        drop(console.slave);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let code = wait(pid.as_raw_pid(), pidfd, Some(console.master)).unwrap();
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        // A spinning one uses all of the time that the child sleeps.
        assert!(cpu.tv_sec == 0 && cpu.tv_nsec < 200_000_000, "wait() spins: {cpu:?}");
        rustix::stdio::dup2_stdout(null()).unwrap();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        if text == "again\r\n" { code } else { 1 }
    }));
    assert_eq!(ended, 8);
}

#[test]
fn input_reaches_the_terminal_and_its_end_cuts_nothing_off() {
    let ((input, mut typed), (mut reader, writer)) = (pipe(), pipe());
    let script = "stty -echo; echo ready; read x; sleep 0.1; echo got $x";
    let runner = fork(|| run_on_terminal(script, &input, &writer));
    drop((input, writer));
    let mut ready = [0; 7];
    reader.read_exact(&mut ready).unwrap();
    typed.write_all(b"line\n").unwrap();
    drop(typed);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!((join(runner), text.as_str()), (0, "got line\r\n"));
}

#[test]
fn losing_our_output_hangs_the_terminal_up() {
    let (reader, writer) = pipe();
    let runner = fork(|| {
        // SAFETY: the fork's copy, which it does not use otherwise.
        unsafe { libc::close(reader.as_raw_fd()) };
        run_on_terminal("yes; exit 2", &null(), &writer)
    });
    drop(writer);
    std::thread::sleep(Duration::from_millis(100));
    drop(reader);
    assert_eq!(join(runner), 128 + 1);
}

#[test]
fn output_that_nobody_reads_does_not_hold_signals_up() {
    let (reader, writer) = pipe();
    let runner = fork(|| run_on_terminal("exec yes", &null(), &writer));
    std::thread::sleep(Duration::from_millis(200));
    kill_process(runner, Signal::TERM).unwrap();
    // The first ends the program, the second the wait for our reader.
    std::thread::sleep(Duration::from_millis(200));
    kill_process(runner, Signal::TERM).unwrap();
    assert_eq!(join(runner), 143);
    drop(reader);
}

/// A terminal as a user has it, our standard input and output.
fn on_a_users_terminal(script: &str, act: impl FnOnce(Pid, &mut File)) -> (u8, console::Console) {
    let outer = console::open(Some((24, 80))).unwrap();
    let slave = File::from(outer.slave.try_clone().unwrap());
    let runner = fork(|| {
        // The session that a login shell makes.
        console::attach(slave.try_clone().unwrap().into(), false).unwrap();
        run_on_terminal(script, &slave, &slave)
    });
    let mut user = File::from(outer.master.try_clone().unwrap());
    act(runner, &mut user);
    (join(runner), outer)
}

/// Reads until `text` has come.
fn expect(user: &mut File, text: &str) {
    let mut seen = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !String::from_utf8_lossy(&seen).contains(text) {
        assert!(Instant::now() < deadline, "no {text:?} in {:?}", String::from_utf8_lossy(&seen));
        let mut events = [PollFd::new(&*user, PollFlags::IN)];
        let wait = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
        if poll(&mut events, Some(&wait)).unwrap() > 0 {
            let mut byte = [0];
            let n = user.read(&mut byte).unwrap();
            seen.extend(&byte[..n]);
        }
    }
}

fn is_raw(fd: impl AsFd) -> bool {
    !rustix::termios::tcgetattr(fd).unwrap().local_modes.contains(rustix::termios::LocalModes::ICANON)
}

#[test]
fn the_users_terminal_is_raw_meanwhile_and_as_it_was_afterwards() {
    let (code, outer) = on_a_users_terminal("echo ready; read x; exit 9", |_, user| {
        expect(user, "ready");
        assert!(is_raw(&*user));
        user.write_all(b"\r").unwrap();
    });
    assert_eq!(code, 9);
    assert!(!is_raw(&outer.slave));

    // The same when a signal ends it, and ^C is the container's.
    let (code, outer) = on_a_users_terminal("echo ready; sleep 20", |_, user| {
        expect(user, "ready");
        user.write_all(b"\x03").unwrap();
    });
    assert_eq!(code, 130);
    assert!(!is_raw(&outer.slave));
    let (code, outer) = on_a_users_terminal("echo ready; exec sleep 20", |runner, user| {
        expect(user, "ready");
        kill_process(runner, Signal::TERM).unwrap();
    });
    assert_eq!(code, 143);
    assert!(!is_raw(&outer.slave));
}

#[test]
fn the_size_follows_the_users_terminal() {
    let script = "stty size; trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done";
    let (code, _outer) = on_a_users_terminal(script, |_, user| {
        expect(user, "24 80");
        expect(user, "ready");
        let size = rustix::termios::Winsize { ws_col: 100, ws_row: 30, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&*user, size).unwrap();
        expect(user, "30 100");
    });
    assert_eq!(code, 0);
}
