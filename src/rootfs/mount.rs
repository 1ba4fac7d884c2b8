//! Mounts of config.json, one after the other.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};
use rustix::fs::{CWD, Mode, OFlags, XattrFlags, fsetxattr, fstat, fstatfs, openat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_remount};
use rustix::process::fchdir;

use super::attributes::{Attributes, set_propagation};
use super::options::Options;
use super::resolve::{self, Kind, Root, clean, leave, top};
use super::{Context, Error, bind, cgroup, copyup, idmap};
use crate::log;
use crate::procfs::is_procfs;

/// Refuses by name what cannot be mounted.
pub(super) fn check(mount: &Mount, spec: &Spec) -> Result<(), Error> {
    let options = Options::of(mount);
    let refuse = |problem: String| Err(Error::Unsupported { dest: mount.destination().clone(), problem });
    if mount.destination().as_os_str().is_empty() {
        return refuse("destination is empty".into());
    }
    idmap::Idmap::of(mount, &options, spec).map_err(Error::unsupported(mount))?;
    if options.copy_symlink && (options.source_no_follow || options.dest_no_follow) {
        return refuse("copy-symlink excludes src-nofollow and dest-nofollow".into());
    }
    if options.copy_up && mount.typ().as_deref() != Some("tmpfs") {
        return refuse("tmpcopyup can be used only with tmpfs".into());
    }
    if options.bind.is_some() {
        if !options.data.is_empty() {
            let (dest, data) = (mount.destination().display(), options.data.join(","));
            log::warn(&format_args!(
                "mount {dest}: options of a file system have no effect on a bind mount: {data}"
            ));
        }
        if options.recursive_of_file_system() {
            let problem =
                "rsync, rasync, rdirsync, rmand and rnomand change a file system, which no bind mount does";
            return refuse(problem.into());
        }
        if mount.source().is_none() && !options.remount {
            return refuse("a bind mount without a source".into());
        }
    } else if mount.typ().as_deref().unwrap_or_default().is_empty() && !options.remount {
        return refuse("neither a type nor a bind mount".into());
    }
    check_proc_text(mount, &options, &clean(mount.destination()))
}

/// Where a mount goes, below the root file system. A destination that names the root file system itself is taken
/// as a path of the host, as with runc.
pub(super) fn destination(mount: &Mount, rootfs: &Path) -> PathBuf {
    let dest = clean(mount.destination());
    dest.strip_prefix(rootfs).map_or_else(|_| dest.clone(), |below| Path::new("/").join(below))
}

/// A mount by its destination and the descriptor of its top, which stays what it is wherever the path leads later.
#[derive(Debug)]
pub(super) struct Mounted {
    pub dest: PathBuf,
    pub top: OwnedFd,
}

/// The mounts that there is something left to do with.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// The procfs and sysfs that are not covered by a later mount.
    pub kernel: Vec<Mounted>,
    /// Those that become read-only at the end.
    pub read_only: Vec<Mounted>,
    /// Whether /dev is bound from the host, whose devices it has then.
    pub dev_of_host: bool,
}

impl Kept {
    fn add(&mut self, fs: &str, dest: &Path, options: &Options, top: OwnedFd) -> Result<(), Errno> {
        let mounted = |top| Mounted { dest: dest.to_owned(), top };
        if delayed_read_only(fs, dest) && options.read_only() {
            self.read_only.push(mounted(top.try_clone().map_err(|_| Errno::MFILE)?));
        }
        self.cover(dest);
        // A new file system is what its type says; what was there already may be anything.
        let kernel = match (options.bind, fs) {
            (None, "proc" | "sysfs") => true,
            (None, "tmpfs") => false,
            _ => is_kernel(top.as_fd())?,
        };
        if kernel {
            self.kernel.push(mounted(top));
        }
        Ok(())
    }

    /// Forgets what has another mount over it.
    fn cover(&mut self, dest: &Path) {
        self.kernel.retain(|earlier| !earlier.dest.starts_with(dest));
    }

    /// Makes the mounts read-only that had to be writable until now.
    pub fn make_read_only(&self) -> Result<(), Error> {
        self.read_only.iter().try_for_each(|Mounted { dest, top }| {
            let failed = |errno: Errno| Error::ReadOnly { path: dest.clone(), reason: errno.into() };
            Attributes::READ_ONLY.apply(top.as_fd(), false).map_err(failed)
        })
    }
}

/// Mounts every entry, in order: later ones may lie on earlier ones.
pub(super) fn all(ctx: &Context, root: &mut Root) -> Result<Kept, Error> {
    let mut kept = Kept::default();
    let mounts = ctx.spec.mounts().as_deref().unwrap_or_default();
    for (index, mount) in mounts.iter().enumerate() {
        let dest = destination(mount, ctx.rootfs);
        let options = Options::of(mount);
        check_proc_text(mount, &options, &dest)?;
        kept.dev_of_host |= options.bind.is_some() && dest == Path::new("/dev");
        if root.new_around(&dest).is_none() || options.copy_symlink {
            root.set_new(None);
        }
        let fs = mount.typ().as_deref().unwrap_or_default();
        let top = match (&options, fs) {
            (Options { remount: true, .. }, _) => remount(root, &dest, &options).map(|()| None)?,
            (Options { bind: Some(_), .. }, _) => bind::mount(ctx, root, (index, mount), &dest, &options)?,
            (_, "cgroup" | "cgroup2") => Some(cgroup::mount(ctx, root, &dest, &options)?),
            _ => {
                kept.cover(&dest);
                let top = filesystem(ctx, root, mount, &dest, &options)?;
                let next = || mounts.get(index + 1).map(|next| destination(next, ctx.rootfs));
                if top.is_none() && fs == "tmpfs" && next().is_some_and(|next| next.parent() == Some(&dest)) {
                    // It is mounted on where we are.
                    let top = resolve::top(CWD).map_err(Error::mount_point(&dest))?;
                    root.set_new(Some((dest.clone(), top)));
                }
                top
            }
        };
        if let Some(top) = top {
            kept.add(fs, &dest, &options, top).map_err(Error::mount_point(&dest))?;
        }
        if dest == Path::new("/") && !options.remount {
            // The root is what lies on top now.
            *root = root.top().map_err(Error::mount_point(&dest))?;
        }
    }
    Ok(kept)
}

/// A new file system; its top if there is something left to do with it. procfs and sysfs must lie where their path says.
fn filesystem(
    ctx: &Context,
    root: &Root,
    mount: &Mount,
    dest: &Path,
    options: &Options,
) -> Result<Option<OwnedFd>, Error> {
    let fs = mount.typ().as_deref().unwrap_or_default();
    let source = mount.source().as_deref().unwrap_or(Path::new(fs));
    let (target, existed) = match fs {
        "proc" | "sysfs" => (ordinary_directory(root, dest, fs)?, true),
        _ => mount_point(root, dest, Kind::Directory)?,
    };

    let mut flags = options.new_mount_flags();
    if delayed_read_only(fs, dest) {
        flags.remove(MountFlags::RDONLY);
    }
    let label = label(ctx.spec);
    let kind = label_kind(ctx.spec)?;
    let mut data = options.data.clone();
    if fs == "tmpfs" && existed && !data.iter().any(|option| option.starts_with("mode=")) {
        // A tmpfs looks like the directory it covers, so /tmp stays 1777 and /root stays 0700.
        let mode = fstat(&target).map_err(Error::mount_point(dest))?.st_mode & 0o7777;
        data.push(format!("mode={mode:o}"));
    }
    if !matches!(fs, "proc" | "sysfs" | "mqueue") {
        data.extend(label.map(|label| format!("{kind}=\"{label}\"")));
    }
    let below = if options.copy_up { Some(copyup::open(&target, dest)?) } else { None };

    match new(&target, source, fs, flags, &data) {
        Err(Errno::PERM) if ctx.user_namespace => {
            let Some(host) = shared_with_host(ctx.spec, fs) else {
                return Err(Error::mount(source.to_string_lossy(), dest)(Errno::PERM));
            };
            let tree = bind::clone_all(CWD, Path::new(host)).map_err(Error::mount(host, dest))?;
            bind::attach(ctx, &tree, &target, dest, options, host)?;
            // What is mounted below is the host's as well.
            if options.read_only() {
                Attributes::READ_ONLY.apply(tree.as_fd(), true).map_err(Error::attributes(dest))?;
            }
            return Ok(Some(tree));
        }
        result => result.map_err(Error::mount(source.to_string_lossy(), dest))?,
    }
    let kept = matches!(fs, "proc" | "sysfs") || delayed_read_only(fs, dest) && options.read_only();
    if !kept && label.is_none() && below.is_none() && options.propagation.is_empty() {
        leave(target);
        return Ok(None);
    }
    let top = top(target.as_fd()).map_err(Error::mount_point(dest))?;
    leave(target);
    if let Some(label) = label.filter(|_| fs == "mqueue") {
        set_label(&top, label).map_err(Error::attributes(dest))?;
    }
    if let Some(below) = below {
        copyup::copy(&below, &top, dest)?;
    }
    propagate(top.as_fd(), dest, options)?;
    Ok(Some(top))
}

/// Gives a mount the propagation that it asks for.
pub(super) fn propagate(mount: BorrowedFd, dest: &Path, options: &Options) -> Result<(), Error> {
    for &propagation in &options.propagation {
        set_propagation(mount, propagation).map_err(Error::attributes(dest))?;
    }
    Ok(())
}

/// The place for procfs and sysfs. A directory that had to be created is opened once more, as what was created
/// may lie behind a symbolic link in the middle of the path.
fn ordinary_directory(root: &Root, dest: &Path, fs: &str) -> Result<OwnedFd, Error> {
    let failed = |errno| match errno {
        Errno::LOOP | Errno::NOTDIR => Error::NotOrdinary { dest: dest.to_owned(), fs: fs.to_owned() },
        errno => Error::mount_point(dest)(errno),
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match root.open_plain(dest, flags) {
        Err(Errno::NOENT) => {
            root.create(dest, Kind::Directory).and_then(|_| root.open_plain(dest, flags)).map_err(failed)
        }
        result => result.map_err(failed),
    }
}

/// Mounts on a descriptor. `.` is the descriptor itself, whatever its path leads to by now.
pub(super) fn new(
    target: &OwnedFd,
    source: &Path,
    fs: &str,
    flags: MountFlags,
    data: &[String],
) -> Result<(), Errno> {
    let data = CString::new(data.join(",")).map_err(|_| Errno::INVAL)?;
    fchdir(target)?;
    mount(source, c".", fs, flags, (!data.is_empty()).then_some(data.as_c_str()))
}

/// The option `remount`: other flags for what is mounted there already. Those of a file system hold for everybody who has it
/// mounted, the host too, so that no link of an image may say which it is.
fn remount(root: &Root, dest: &Path, options: &Options) -> Result<(), Error> {
    let one_mount = options.bind.is_some();
    let top = if one_mount { root.open(dest, OFlags::PATH) } else { root.open_plain(dest, OFlags::PATH) }
        .map_err(Error::mount_point(dest))?;
    if one_mount {
        options.attributes().apply(top.as_fd(), false)
    } else {
        let data = options.data.join(",");
        fchdir(&top).and_then(|()| mount_remount(c".", options.new_mount_flags(), data))
    }
    .map_err(Error::attributes(dest))
}

/// The place for a mount, created if it is missing, and whether it was there. A path through symbolic links is fine as long as it does
/// not lead into procfs or to the root itself; a path without any was checked as text.
pub(super) fn mount_point(root: &Root, dest: &Path, kind: Kind) -> Result<(OwnedFd, bool), Error> {
    let failed = |errno| Error::mount_point(dest)(errno);
    if dest == Path::new("/") {
        return Ok((root.open(dest, OFlags::PATH).map_err(failed)?, true));
    }
    if root.new_around(dest).is_some() {
        match root.make_plain(dest, kind) {
            Err(Errno::EXIST) => {}
            result => return result.map(|fd| (fd, false)).map_err(failed),
        }
    }
    let (fd, existed) = match root.open_plain(dest, OFlags::PATH) {
        Err(Errno::NOENT) => match root.make_plain(dest, kind) {
            Err(Errno::NOENT | Errno::LOOP | Errno::EXIST) => {
                (root.create(dest, kind).map_err(failed)?, false)
            }
            result => return result.map(|fd| (fd, false)).map_err(failed),
        },
        Err(Errno::LOOP) => match root.open(dest, OFlags::PATH) {
            Err(Errno::NOENT) => (root.create(dest, kind).map_err(failed)?, false),
            result => (result.map_err(failed)?, true),
        },
        result => return result.map(|fd| (fd, true)).map_err(failed),
    };
    if is_procfs(fd.as_fd()).map_err(failed)? {
        return Err(Error::InsideProc(dest.to_owned()));
    }
    // Asked for as such it is fine; a link of the image's must not lead to it.
    if existed && root.is(fd.as_fd()).map_err(failed)? {
        return Err(Error::OnRoot(dest.to_owned()));
    }
    Ok((fd, existed))
}

/// /proc is procfs, and nothing lies over its files but what lxcfs emulates: labels are set and masks are
/// proven through it. Whether a bind source is procfs is seen when it is open.
fn check_proc_text(mount: &Mount, options: &Options, dest: &Path) -> Result<(), Error> {
    const EMULATED: [&str; 10] = [
        "cpuinfo",
        "diskstats",
        "meminfo",
        "stat",
        "swaps",
        "uptime",
        "loadavg",
        "slabinfo",
        "sys/kernel/ns_last_pid",
        "sys/crypto/fips_enabled",
    ];
    let Ok(below) = dest.strip_prefix("/proc") else { return Ok(()) };
    if below.as_os_str().is_empty() {
        if options.bind.is_some() || options.remount || mount.typ().as_deref() == Some("proc") {
            return Ok(());
        }
        return Err(Error::NotProc(dest.to_owned()));
    }
    if EMULATED.iter().any(|name| below == Path::new(name)) {
        return Ok(());
    }
    Err(Error::InsideProc(dest.to_owned()))
}

/// Whether the file is one of a procfs or sysfs.
pub(super) fn is_kernel(fd: BorrowedFd) -> Result<bool, Errno> {
    const SYSFS_MAGIC: i64 = 0x6265_6572;
    Ok(matches!(fstatfs(fd)?.f_type, libc::PROC_SUPER_MAGIC | SYSFS_MAGIC))
}

/// What to show instead of a file system that a user namespace may not mount, because the namespace it is a
/// view of is the host's.
fn shared_with_host(spec: &Spec, fs: &str) -> Option<&'static str> {
    let (namespace, host) = match fs {
        "sysfs" => (LinuxNamespaceType::Network, "/sys"),
        "proc" => (LinuxNamespaceType::Pid, "/proc"),
        "mqueue" => (LinuxNamespaceType::Ipc, "/dev/mqueue"),
        _ => return None,
    };
    let own = spec.linux().iter().flat_map(|linux| linux.namespaces().iter().flatten());
    (!own.into_iter().any(|entry| entry.typ() == namespace)).then_some(host)
}

/// The SELinux label for file systems, on a host that has SELinux.
pub(super) fn label(spec: &Spec) -> Option<&str> {
    let label = spec.linux().as_ref()?.mount_label().as_deref().filter(|label| !label.is_empty())?;
    crate::labels::has_selinux().then_some(label)
}

/// The mount option that the label is given as; crun's annotation chooses one (mount(8), "context").
pub(super) fn label_kind(spec: &Spec) -> Result<&str, Error> {
    const ANNOTATION: &str = "run.oci.mount_context_type";
    let kind =
        spec.annotations().as_ref().and_then(|all| all.get(ANNOTATION)).map_or("context", String::as_str);
    match kind {
        "context" | "fscontext" | "defcontext" | "rootcontext" => Ok(kind),
        _ => Err(Error::LabelKind(kind.to_owned())),
    }
}

/// mqueue takes no label as an option, so its top directory is labelled, for which it has to be open for reading.
fn set_label(fd: &OwnedFd, label: &str) -> Result<(), Errno> {
    let dir = openat(fd, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    fsetxattr(&dir, c"security.selinux", label.as_bytes(), XattrFlags::empty())
}

/// /dev and every tmpfs become read-only at the end: there are devices, links and mount points to make in them.
pub(super) fn delayed_read_only(fs: &str, dest: &Path) -> bool {
    fs == "tmpfs" || dest == Path::new("/dev")
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::MountBuilder;

    fn checked(typ: &str, dest: &str, options: &[&str]) -> Result<(), String> {
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        let mount = MountBuilder::default()
            .destination(dest)
            .typ(typ)
            .source("/src")
            .options(options)
            .build()
            .unwrap();
        check(&mount, &Spec::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn proc_is_procfs_and_stays_uncovered() {
        assert!(checked("proc", "/proc", &[]).is_ok());
        assert!(checked("proc", "proc/../proc/", &[]).is_ok());
        assert!(checked("bind", "/proc", &["rbind"]).is_ok());
        assert!(checked("bind", "/proc/meminfo", &["bind"]).is_ok());
        assert!(checked("bind", "/procs", &["bind"]).is_ok());
        assert_eq!(
            checked("tmpfs", "/proc", &[]).unwrap_err(),
            "\"/proc\" cannot be mounted because it is not of type proc"
        );
        assert_eq!(
            checked("bind", "/x/../proc/self/attr", &["bind"]).unwrap_err(),
            "\"/proc/self/attr\" cannot be mounted because it is inside /proc"
        );
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        assert!(
            checked("bind", "/x", &["bind", "copy-symlink", "src-nofollow"])
                .unwrap_err()
                .contains("excludes")
        );
        assert!(checked("bind", "/x", &["rbind", "rsync"]).unwrap_err().contains("rsync"));
        assert!(checked("proc", "/proc", &["tmpcopyup"]).unwrap_err().contains("only with tmpfs"));
        assert!(checked("bind", "/x", &["bind", "size=1"]).is_ok());
        assert_eq!(checked("", "/x", &["ro"]).unwrap_err(), "mount /x: neither a type nor a bind mount");
        assert!(checked("", "/x", &["rbind"]).is_ok());
        assert!(checked("tmpfs", "/x", &["size=1"]).is_ok());
    }

    #[test]
    fn a_tmpfs_and_dev_are_read_only_late() {
        assert!(delayed_read_only("tmpfs", Path::new("/run")));
        assert!(delayed_read_only("bind", Path::new("/dev")));
        assert!(!delayed_read_only("sysfs", Path::new("/sys")));
    }
}
