//! A root file system and a network for guests that mean harm: a thread whose root is a file system in memory, with a
//! directory that is the guest's and one that is not.
//!
//! Only that thread is inside; libFuzzer goes on outside, with its corpus. A panic inside is handed over to it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::{panic, thread};

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::net::{AddressFamily, SocketType, socket};
use rustix::process::{chroot, getegid, geteuid};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// What a run ended with.
type Outcome = Result<(), String>;

struct Inside {
    inputs: Sender<Vec<u8>>,
    outcomes: Receiver<Outcome>,
}

/// Runs `guest` with an input inside, and panics as it does.
pub fn run(input: &[u8], guest: fn(&[u8])) {
    static INSIDE: OnceLock<Mutex<Inside>> = OnceLock::new();
    let inside = INSIDE.get_or_init(|| Mutex::new(start(guest)));
    let inside = inside.lock().expect("one run at a time");
    inside.inputs.send(input.to_vec()).expect("somebody inside");
    if let Err(message) = inside.outcomes.recv().expect("somebody inside") {
        panic!("{message}");
    }
}

fn start(guest: fn(&[u8])) -> Inside {
    become_root().expect("a user namespace, for somebody who is not root");
    let (inputs, received) = channel::<Vec<u8>>();
    let (sender, outcomes) = channel();
    let inside = thread::spawn(move || {
        enter().expect("a root file system of our own");
        let panicked = sender.clone();
        // libFuzzer's hook ends the process here and now, and could not write the input down inside.
        let outer = panic::take_hook();
        let this = thread::current().id();
        panic::set_hook(Box::new(move |info| {
            if thread::current().id() != this {
                return outer(info);
            }
            let trace = std::backtrace::Backtrace::force_capture();
            let _ = panicked.send(Err(format!("{info}\n{trace}")));
            loop {
                thread::park();
            }
        }));
        while let Ok(input) = received.recv() {
            guest(&input);
            let _ = sender.send(Ok(()));
        }
    });
    drop(inside);
    Inside { inputs, outcomes }
}

/// Whoever is not root is so in a user namespace. That must be before there are threads.
fn become_root() -> io::Result<()> {
    if geteuid().is_root() {
        return Ok(());
    }
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    // SAFETY: nothing here depends on what user we are.
    unsafe { unshare_unsafe(UnshareFlags::NEWUSER) }?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))
}

/// A network with nobody else on it. Some of what a guest says to itself arrives.
fn start_loopback() -> io::Result<()> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    // SAFETY: all zeroes is a valid ifreq, and ioctl(2) reads one.
    let result = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[..2].copy_from_slice(&b"lo".map(|it| it as libc::c_char));
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Moves this thread into a file system in memory, and a network of its own. Its working directory stays, so that what
/// ends the process from here is written down outside.
fn enter() -> io::Result<()> {
    // SAFETY: the thread shares nothing with others that goes by its root or its mounts.
    unsafe { unshare_unsafe(UnshareFlags::FS | UnshareFlags::NEWNS | UnshareFlags::NEWNET) }?;
    start_loopback()?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let root = std::env::temp_dir();
    mount("tmpfs", &root, "tmpfs", MountFlags::NOSUID, Some(c"size=4m,nr_inodes=4096"))?;
    let proc = root.join("proc");
    fs::create_dir(&proc)?;
    // Read-only: should a guest get at it, the machine is to survive. Not everybody may have one.
    let _ = mount("proc", &proc, "proc", MountFlags::NOSUID | MountFlags::RDONLY, None);
    Ok(chroot(root)?)
}

/// Fills the file system anew.
pub fn fill() {
    let fill = || -> io::Result<()> {
        for entry in fs::read_dir("/")? {
            let path = entry?.path();
            if path == Path::new("/proc") {
                continue;
            }
            if path.is_dir() && !path.is_symlink() {
                fs::remove_dir_all(path)?
            } else {
                fs::remove_file(path)?
            }
        }
        fs::create_dir_all("/guest/dir/inner")?;
        fs::create_dir("/streams")?;
        fs::create_dir("/outside")?;
        fs::write("/guest/file", "some content of a file")?;
        fs::write("/guest/dir/inner/deep", "deep")?;
        fs::write("/outside/canary", "alive")?;
        symlink("file", "/guest/relative")?;
        symlink("/outside/canary", "/guest/absolute")?;
        symlink("../outside", "/guest/up")?;
        symlink("loop", "/guest/loop")?;
        symlink("..", "/guest/parent")
    };
    fill().expect("a file system that can be filled");
}

/// Standard streams.
pub fn streams() -> Vec<OwnedFd> {
    let stream = |name: &str| {
        let options = File::options().read(true).write(true).create(true).truncate(true).open(name);
        options.expect("a stream").into()
    };
    ["/streams/0", "/streams/1", "/streams/2"].map(stream).into()
}

/// What there is outside of the guest's directory.
pub fn canary() -> Vec<u8> {
    let list = |path: &str| {
        let entries =
            fs::read_dir(path).map(|all| all.flatten().map(|it| it.file_name()).collect::<Vec<_>>());
        let mut names = entries.unwrap_or_default();
        names.sort_unstable();
        format!("{names:?}")
    };
    let mut canary = fs::read("/outside/canary").unwrap_or_default();
    canary.extend(list("/").bytes().chain(list("/outside").bytes()));
    let mode = fs::metadata("/outside/canary").map(|it| {
        use std::os::unix::fs::MetadataExt;
        (it.mode(), it.mtime(), it.mtime_nsec(), it.nlink(), it.size())
    });
    canary.extend(format!("{:?}", mode.ok()).bytes());
    canary
}

/// The guest's regular files that are not too large.
pub fn contents() -> Vec<Vec<u8>> {
    let mut contents = Vec::new();
    let mut directories = vec!["/guest".into(), "/streams".into()];
    while let Some(directory) = directories.pop() {
        for entry in
            fs::read_dir::<&Path>(std::path::PathBuf::as_path(&directory)).into_iter().flatten().flatten()
        {
            match entry.metadata() {
                Ok(it) if it.is_dir() => directories.push(entry.path()),
                Ok(it) if it.is_file() && it.len() < 1 << 16 => contents.extend(fs::read(entry.path())),
                _ => {}
            }
        }
    }
    contents
}

/// Where a descriptor leads, seen from inside; as a name without a path for those that lead to no file.
pub fn path(fd: BorrowedFd<'_>) -> String {
    let link = fs::read_link(format!("/proc/thread-self/fd/{}", fd.as_raw_fd()));
    link.map(|path| path.to_string_lossy().into_owned()).unwrap_or_else(|_| "none:".to_owned())
}
