//! Device files, and the links programs expect in /dev.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceType, Spec};
use rustix::fs::{
    Access, AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, access, chownat, fstat, makedev, mknodat, openat,
    symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::options::Options;
use super::resolve::{Root, clean, open_plain};
use super::{Context, Error, Request, bind};

/// The devices the runtime specification demands ("Default Devices"); all are 0666.
const DEFAULT: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// The links it demands ("/dev symbolic links").
const LINKS: [(&CStr, &CStr); 5] = [
    (c"/proc/self/fd", c"fd"),
    (c"/proc/self/fd/0", c"stdin"),
    (c"/proc/self/fd/1", c"stdout"),
    (c"/proc/self/fd/2", c"stderr"),
    (c"pts/ptmx", c"ptmx"),
];

/// Refuses a device that cannot be made.
pub(super) fn check(linux: &Linux) -> Result<(), Error> {
    for device in linux.devices().iter().flatten() {
        let bad = |problem| Err(Error::BadDevice { path: device.path().clone(), problem });
        if device.path().file_name().is_none() {
            return bad("no path of a file");
        }
        if device.typ() == LinuxDeviceType::A {
            return bad("type must be b, c, u or p");
        }
        if device.typ() != LinuxDeviceType::P && rdev(device).is_none() {
            return bad("major or minor is out of range");
        }
    }
    Ok(())
}

/// Makes the default devices, those of config.json, and the links.
pub(super) fn create(ctx: &Context, root: &Root) -> Result<(), Error> {
    let (dev, _) = root.create_parent(Path::new("/dev/null")).map_err(Error::device(Path::new("/dev")))?;
    let asked = ctx.spec.linux().as_ref().and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    // A user namespace may not make device files: the runtime makes those that were asked for, and the default
    // ones are the host's. Nor may a nested runtime, which is found out by trying.
    let mut bound = ctx.user_namespace;

    for (index, device) in asked.iter().enumerate() {
        let path = clean(device.path());
        // ptmx is that of the container's own devpts.
        if path == Path::new("/dev/ptmx") {
            continue;
        }
        let (elsewhere, name) = match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) if parent == Path::new("/dev") => (None, name.to_owned()),
            _ => root
                .create_parent(&path)
                .map(|(dir, name)| (Some(dir), name))
                .map_err(Error::device(&path))?,
        };
        let dir = elsewhere.as_ref().unwrap_or(&dev);
        if ctx.user_namespace
            && let Some(made) = ctx.outside.ask(Request::Device(index))?
        {
            put(&made, dir, &name).map_err(Error::device(&path))?;
            continue;
        }
        Node::of(device).create(dir, &name, &path, &mut bound)?;
    }
    for (name, major, minor) in DEFAULT {
        let path = PathBuf::from("/dev").join(name);
        if asked.iter().any(|device| clean(device.path()) == path) {
            continue;
        }
        let node = Node {
            kind: FileType::CharacterDevice,
            mode: Mode::from_raw_mode(0o666),
            dev: makedev(major, minor),
            owner: (0, 0),
        };
        node.create(&dev, name.as_ref(), &path, &mut bound)?;
    }
    links(&dev)
}

/// Where [`create`] makes devices.
pub(super) fn paths(spec: &Spec) -> Vec<PathBuf> {
    let asked = spec.linux().iter().flat_map(|linux| linux.devices().iter().flatten());
    let mut paths: Vec<PathBuf> = asked.map(|device| clean(device.path())).collect();
    for (name, ..) in DEFAULT {
        let path = PathBuf::from("/dev").join(name);
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    paths
}

/// A device file to be made.
pub(super) struct Node {
    pub kind: FileType,
    pub mode: Mode,
    pub dev: u64,
    pub owner: (u32, u32),
}

impl Node {
    pub fn of(device: &LinuxDevice) -> Self {
        Self {
            kind: kind(device.typ()),
            mode: Mode::from_raw_mode(device.file_mode().unwrap_or(0o666) & 0o7777),
            dev: rdev(device).unwrap_or_default(),
            owner: (device.uid().unwrap_or_default(), device.gid().unwrap_or_default()),
        }
    }

    fn create(&self, dir: &OwnedFd, name: &OsStr, path: &Path, bound: &mut bool) -> Result<(), Error> {
        if !*bound {
            match mknodat(dir, name, self.kind, self.mode, self.dev) {
                // What the image brings along is kept, as with runc.
                Err(Errno::EXIST) => return Ok(()),
                Err(Errno::PERM) => *bound = true,
                result => return result.and_then(|()| self.own(dir, name)).map_err(Error::device(path)),
            }
        }
        bind_from_host(dir, name, path).map_err(Error::device(path))
    }

    fn own(&self, dir: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
        match self.owner {
            (0, 0) => Ok(()),
            (uid, gid) => {
                // Not by its name, which may be another file's by now.
                let node =
                    openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
                let stat = fstat(&node)?;
                if (FileType::from_raw_mode(stat.st_mode), stat.st_rdev) != (self.kind, self.dev) {
                    return Err(Errno::EXIST);
                }
                let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
                chownat(&node, c"", uid, gid, AtFlags::EMPTY_PATH)
            }
        }
    }
}

/// Binds the host's device of the same path.
fn bind_from_host(dir: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), Errno> {
    put(&bind::clone(CWD, path, &Options::default())?, dir, name)
}

/// Puts a detached mount of a device over an empty file.
fn put(device: &OwnedFd, dir: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    match mknodat(dir, name, FileType::RegularFile, Mode::empty(), 0) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let target = open_plain(dir.as_fd(), Path::new(name), OFlags::PATH)?;
    bind::put(device, target)
}

fn links(dev: &OwnedFd) -> Result<(), Error> {
    // Not every kernel has kcore.
    let core = access(c"/proc/kcore", Access::EXISTS).is_ok().then_some((c"/proc/kcore", c"core"));
    for (target, name) in LINKS.into_iter().chain(core) {
        match symlinkat(target, dev, name) {
            // An image may have a device there, which would be the host's terminals.
            Err(Errno::EXIST) if name == c"ptmx" => {
                unlinkat(dev, name, AtFlags::empty()).and_then(|()| symlinkat(target, dev, name))
            }
            Err(Errno::EXIST) => Ok(()),
            result => result,
        }
        .map_err(Error::device(&Path::new("/dev").join(name.to_string_lossy().as_ref())))?;
    }
    Ok(())
}

fn kind(typ: LinuxDeviceType) -> FileType {
    match typ {
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::P => FileType::Fifo,
        LinuxDeviceType::A | LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
    }
}

fn rdev(device: &LinuxDevice) -> Option<u64> {
    if device.typ() == LinuxDeviceType::P {
        return Some(0);
    }
    Some(makedev(u32::try_from(device.major()).ok()?, u32::try_from(device.minor()).ok()?))
}
