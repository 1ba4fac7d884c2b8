//! Which namespaces a process enters, and the one clone3 that makes it.
//!
//! New namespaces are flags of the clone. Joining one is a setns(2) of the new process itself, with two exceptions: a pid
//! namespace only takes children, so the parent enters it for the moment of the clone; and where a user
//! namespace is involved, privileges over the joined namespaces lie on one side of it only, so a helper
//! process joins first and clones its sibling, our child, from there. A new time namespace needs a helper too:
//! its offsets are fixed when the first process is born into it (time_namespaces(7)). So does a pid namespace for a
//! parent that may not come back from it: a rootless engine's runtime is root in the engine's user namespace, to which
//! the host's pid namespace does not belong.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

use oci_spec::runtime::{LinuxNamespaceType, LinuxTimeOffset, Spec};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, PidfdFlags, Signal, WaitOptions};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::Error;
use super::sync::{Message, Socket};
use crate::config::joined_path;
use crate::procfs::Procfs;

/// clone(2); the constant of the libc crate has overflowed its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A namespace that exists already.
#[derive(Debug)]
struct Joined {
    kind: LinuxNamespaceType,
    path: PathBuf,
    file: OwnedFd,
}

/// The namespaces a container's first process gets.
#[derive(Debug, Default)]
pub struct Namespaces {
    /// Those to be made, as flags of clone(2), without the cgroup namespace.
    new: u32,
    /// A cgroup namespace shows the cgroup one is in when it is made, so that comes after joining the cgroup.
    new_cgroup: bool,
    /// The offsets of a new time namespace, as they are written to its file.
    new_time: Option<String>,
    joined: Vec<Joined>,
    /// The way back from a pid namespace that is joined.
    back: Option<WayBack>,
}

/// Our own pid namespace, to which we may come back from another one.
#[derive(Debug)]
pub struct WayBack(File);

impl WayBack {
    /// Finds out by going where we are.
    pub fn find() -> Option<Self> {
        let own = File::open("/proc/self/ns/pid").ok()?;
        set_namespace(own.as_fd(), LinuxNamespaceType::Pid).is_ok().then_some(Self(own))
    }
}

/// The process that was made.
#[derive(Debug)]
pub enum Cloned {
    /// We are the parent; this is the child.
    Parent {
        /// Its pid in our namespace.
        pid: i32,
        /// The same, as a descriptor.
        pidfd: OwnedFd,
    },
    /// We are the child.
    Child,
}

impl Namespaces {
    /// Reads the configuration and opens the namespaces to join, so that a wrong path is an error before
    /// anything is made.
    ///
    /// # Errors
    /// [`Error::Namespace`].
    pub fn open(spec: &Spec) -> Result<Self, Error> {
        let mut namespaces = Self::default();
        let listed = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref());
        for namespace in listed.into_iter().flatten() {
            let kind = namespace.typ();
            if let Some(path) = joined_path(namespace) {
                let file = File::open(path).map_err(|e| Error::Namespace {
                    kind,
                    path: path.to_owned(),
                    reason: e.into(),
                })?;
                namespaces.joined.push(Joined { kind, path: path.to_owned(), file: file.into() });
            } else if kind == LinuxNamespaceType::Cgroup {
                namespaces.new_cgroup = true;
            } else if kind == LinuxNamespaceType::Time {
                namespaces.new_time = Some(time_offsets(spec));
            } else {
                namespaces.new |= clone_flag(kind);
            }
        }
        if namespaces.joins(LinuxNamespaceType::Pid) && !namespaces.change_user() {
            namespaces.back = WayBack::find();
        }
        Ok(namespaces)
    }

    /// Whether the process will be in another user namespace than we are.
    pub fn change_user(&self) -> bool {
        self.makes(LinuxNamespaceType::User) || self.joins(LinuxNamespaceType::User)
    }

    /// Whether a helper makes the process. It cannot make it in a cgroup, where it has no rights.
    pub fn needs_helper(&self) -> bool {
        let stays = self.joins(LinuxNamespaceType::Pid) && self.back.is_none();
        self.new_time.is_some() || (self.change_user() && !self.joined.is_empty()) || stays
    }

    /// Whether the process is born with ids that are not mapped yet.
    pub fn unmapped(&self) -> bool {
        self.makes(LinuxNamespaceType::User) && self.new_time.is_none()
    }

    /// Whether a namespace of this kind is new.
    pub fn makes(&self, kind: LinuxNamespaceType) -> bool {
        self.new & clone_flag(kind) != 0
    }

    fn joins(&self, kind: LinuxNamespaceType) -> bool {
        self.joined.iter().any(|j| j.kind == kind)
    }

    /// Makes the container's first process. In the child, everything is as in the parent but the
    /// namespaces; [`Self::enter`] is its first step. `map_ids` maps those of a helper that needs it, and `procfs` is
    /// the host's.
    ///
    /// # Errors
    /// [`Error::Clone`], [`Error::Namespace`], or what the helper reports.
    pub fn clone_into(
        &self,
        cgroup: Option<BorrowedFd<'_>>,
        ours: &Socket,
        theirs: &Socket,
        procfs: &Procfs,
        map_ids: impl Fn(i32) -> Result<(), Error>,
    ) -> Result<Cloned, Error> {
        if let Some(offsets) = &self.new_time {
            let join = || self.prepare_time(offsets, theirs, procfs);
            let rest = self.new & !clone_flag(LinuxNamespaceType::User);
            return with_helper(join, rest, ours, theirs, map_ids);
        }
        if self.needs_helper() {
            let join = || if self.change_user() { self.join_with_user() } else { self.join_pid() };
            return with_helper(join, self.new, ours, theirs, map_ids);
        }
        clone_into_pid_namespace(|| self.join_pid(), self.back.as_ref(), self.new, cgroup, || Ok(None))
    }

    /// What is left to enter for the new process itself, once its ids are mapped and it is in its cgroup.
    ///
    /// # Errors
    /// [`Error::Namespace`] and [`Error::Step`].
    pub fn enter(&self) -> Result<(), Error> {
        if !self.change_user() {
            let rest = self.joined.iter().filter(|j| j.kind != LinuxNamespaceType::Pid);
            // After the mount namespace, paths and root are others, so it comes last.
            let (mount, others): (Vec<_>, Vec<_>) = rest.partition(|j| j.kind == LinuxNamespaceType::Mount);
            others.into_iter().chain(mount).try_for_each(Joined::enter)?;
        }
        if self.new_cgroup { unshare(LinuxNamespaceType::Cgroup) } else { Ok(()) }
    }

    /// Makes a time namespace for the helper's child. It belongs to the container's user namespace, so that one
    /// comes first, with its ids mapped.
    fn prepare_time(&self, offsets: &str, parent: &Socket, procfs: &Procfs) -> Result<(), Error> {
        if self.change_user() {
            self.join_with_user()?;
        } else {
            self.join_pid()?;
        }
        if self.makes(LinuxNamespaceType::User) {
            unshare(LinuxNamespaceType::User)?;
        }
        if self.change_user() {
            // Our files in /proc would be the host root's otherwise (proc(5)), and neither for us to write to nor
            // for an ordinary user's runtime.
            rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)
                .map_err(|e| Error::step("become dumpable", e))?;
        }
        if self.makes(LinuxNamespaceType::User) {
            parent.send(&Message::MapIds)?;
            parent.await_continue()?;
        }
        unshare(LinuxNamespaceType::Time)?;
        procfs.write("self/timens_offsets", offsets)
    }

    fn join_pid(&self) -> Result<(), Error> {
        self.joined.iter().filter(|j| j.kind == LinuxNamespaceType::Pid).try_for_each(Joined::enter)
    }

    /// Joins everything, in the helper. Namespaces that belong to our side of the user namespace can only be
    /// joined before it, those that belong to the other side only after; which is which the kernel says.
    fn join_with_user(&self) -> Result<(), Error> {
        let (user, others): (Vec<_>, Vec<_>) =
            self.joined.iter().partition(|j| j.kind == LinuxNamespaceType::User);
        let mut refused = Vec::new();
        for namespace in others {
            match set_namespace(namespace.file.as_fd(), namespace.kind) {
                Ok(()) => {}
                Err(Errno::PERM) => refused.push(namespace),
                Err(errno) => return Err(namespace.error(errno)),
            }
        }
        for namespace in user {
            namespace.enter()?;
            become_root()?;
        }
        refused.into_iter().try_for_each(Joined::enter)
    }
}

impl Joined {
    fn enter(&self) -> Result<(), Error> {
        set_namespace(self.file.as_fd(), self.kind).map_err(|errno| self.error(errno))
    }

    fn error(&self, errno: Errno) -> Error {
        Error::Namespace { kind: self.kind, path: self.path.clone(), reason: errno.into() }
    }
}

fn unshare(kind: LinuxNamespaceType) -> Result<(), Error> {
    let flags = UnshareFlags::from_bits_retain(clone_flag(kind));
    // SAFETY: no flag of a namespace unshares what threads have in common, and this process has only one.
    unsafe { rustix::thread::unshare_unsafe(flags) }
        .map_err(|errno| Error::NewNamespace { kind, reason: errno.into() })
}

/// `linux.timeOffsets` as timens_offsets takes them (time_namespaces(7)).
fn time_offsets(spec: &Spec) -> String {
    let offsets = spec.linux().as_ref().and_then(|l| l.time_offsets().as_ref());
    let line = |(clock, offset): (&String, &LinuxTimeOffset)| {
        format!("{clock} {} {}\n", offset.secs().unwrap_or_default(), offset.nanosecs().unwrap_or_default())
    };
    offsets.into_iter().flatten().map(line).collect()
}

/// The flag of clone(2) for a kind of namespace.
pub fn clone_flag(kind: LinuxNamespaceType) -> u32 {
    let flag = match kind {
        LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
        LinuxNamespaceType::User => libc::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
        LinuxNamespaceType::Network => libc::CLONE_NEWNET,
        LinuxNamespaceType::Time => libc::CLONE_NEWTIME,
    };
    flag.cast_unsigned()
}

fn set_namespace(file: BorrowedFd<'_>, kind: LinuxNamespaceType) -> Result<(), Errno> {
    let kind = match kind {
        LinuxNamespaceType::Mount => LinkNameSpaceType::Mount,
        LinuxNamespaceType::Cgroup => LinkNameSpaceType::ControlGroup,
        LinuxNamespaceType::Uts => LinkNameSpaceType::HostNameAndNISDomainName,
        LinuxNamespaceType::Ipc => LinkNameSpaceType::InterProcessCommunication,
        LinuxNamespaceType::User => LinkNameSpaceType::User,
        LinuxNamespaceType::Pid => LinkNameSpaceType::ProcessID,
        LinuxNamespaceType::Network => LinkNameSpaceType::Network,
        LinuxNamespaceType::Time => LinkNameSpaceType::Time,
    };
    move_into_link_name_space(file, Some(kind))
}

/// Becomes root of the user namespace we are in. Before that our ids are those of the outside, which may
/// own nothing here. A namespace that maps no root leaves us as we are.
///
/// # Errors
/// [`Error::Step`].
pub fn become_root() -> Result<(), Error> {
    use rustix::process::{Gid, Uid};
    let outcome = rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)
        .and_then(|()| rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT));
    match outcome {
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(errno) => Err(Error::step("become root of the user namespace", errno)),
    }
}

/// Makes a process in the pid namespace that `enter` enters, if it enters one, which takes effect for children only: then
/// there has to be a way `back`. A cgroup v2 that takes no processes is replaced by the `other` one.
///
/// # Errors
/// [`Error::Clone`], or what `enter` failed with.
pub fn clone_into_pid_namespace(
    enter: impl FnOnce() -> Result<(), Error>,
    back: Option<&WayBack>,
    new: u32,
    cgroup: Option<BorrowedFd<'_>>,
    other: impl FnOnce() -> Result<Option<OwnedFd>, Error>,
) -> Result<Cloned, Error> {
    enter()?;
    let cloned = match clone3(new, cgroup) {
        Err(reason) if reason.errno() == Some(libc::EBUSY) => match other()? {
            Some(other) => clone3(new, Some(other.as_fd())),
            None => Err(reason),
        },
        result => result,
    }
    .map_err(Error::Clone)?;
    // Our other children, hooks and the compiler among them, must not be born in there.
    if let (Cloned::Parent { .. }, Some(WayBack(own))) = (&cloned, back) {
        set_namespace(own.as_fd(), LinuxNamespaceType::Pid).map_err(|e| Error::Clone(e.into()))?;
    }
    Ok(cloned)
}

/// Makes a process by a helper that first does `join`: the process is the helper's sibling, so it is our child,
/// and the helper is gone when this returns. `map_ids` is called when it is in a user namespace of its own making.
///
/// # Errors
/// [`Error::Clone`], or what `join` failed with.
pub fn with_helper(
    join: impl FnOnce() -> Result<(), Error>,
    new: u32,
    ours: &Socket,
    theirs: &Socket,
    map_ids: impl Fn(i32) -> Result<(), Error>,
) -> Result<Cloned, Error> {
    let helper = match clone3(0, None).map_err(Error::Clone)? {
        Cloned::Parent { pid, .. } => pid,
        Cloned::Child => {
            let outcome = join()
                .and_then(|()| clone3(new | libc::CLONE_PARENT.cast_unsigned(), None).map_err(Error::Clone));
            let message = match outcome {
                Ok(Cloned::Child) => return Ok(Cloned::Child),
                Ok(Cloned::Parent { pid, .. }) => Message::Pid(pid),
                Err(error) => Message::Failed(error.to_string()),
            };
            // A parent that is gone needs no report.
            let _ = theirs.send(&message);
            // SAFETY: ends this process without running what the parent registered to run at its own end.
            unsafe { libc::_exit(0) }
        }
    };
    let reply = loop {
        match ours.receive() {
            Ok(Some(Message::MapIds)) => match map_ids(helper).and_then(|()| ours.send(&Message::Continue)) {
                Ok(()) => {}
                Err(error) => {
                    // It waits for us.
                    let helper = Pid::from_raw(helper);
                    let _ = helper.map(|pid| rustix::process::kill_process(pid, Signal::KILL));
                    break Err(error);
                }
            },
            reply => break reply,
        }
    };
    // The helper ends by itself; its status says nothing that its message did not.
    let _ = rustix::process::waitpid(Pid::from_raw(helper), WaitOptions::empty());
    match reply? {
        Some(Message::Pid(pid)) => {
            let found = Pid::from_raw(pid).ok_or(Error::Unexpected)?;
            let pidfd = rustix::process::pidfd_open(found, PidfdFlags::empty())
                .map_err(|e| Error::Clone(e.into()))?;
            Ok(Cloned::Parent { pid, pidfd })
        }
        Some(Message::Failed(text)) => Err(Error::Reported(text)),
        _ => Err(Error::Unexpected),
    }
}

/// clone3(2), without sharing anything: a fork into new namespaces and, on cgroup v2, into a cgroup.
///
/// # Errors
/// Those of clone3(2).
pub fn clone3(flags: u32, cgroup: Option<BorrowedFd<'_>>) -> Result<Cloned, crate::error::Os> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: clone_args is plain integers, for which zero means "not used".
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = u64::from(flags | libc::CLONE_PIDFD.cast_unsigned());
    arguments.pidfd = (&raw mut pidfd) as u64;
    // A sibling inherits the exit signal, and clone3 refuses to be told another.
    if flags & libc::CLONE_PARENT.cast_unsigned() == 0 {
        arguments.exit_signal = libc::SIGCHLD.cast_unsigned().into();
    }
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: without CLONE_VM the child has its own copy of our memory and goes on from here like after a
    // fork. This process has one thread, so no lock can be held by another one.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) };
    match i32::try_from(pid) {
        Ok(0) => Ok(Cloned::Child),
        Ok(pid) if pid > 0 => {
            // SAFETY: the kernel has just put a new descriptor there, which nobody else knows.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid, pidfd })
        }
        _ => Err(crate::error::Os::last()),
    }
}
