//! Mount options as config.json writes them: one table from a name to what it does. What is not in the table
//! is data for the file system.

use oci_spec::runtime::Mount;
use rustix::mount::{MountFlags, MountPropagationFlags};

use super::attributes::Attributes;

/// What an option does.
#[derive(Clone, Copy)]
enum Effect {
    Nothing,
    Set(MountFlags),
    Clear(MountFlags),
    /// The same, for the mount and everything mounted below it.
    SetAll(MountFlags),
    ClearAll(MountFlags),
    Propagation(MountPropagationFlags),
    Bind {
        recursive: bool,
    },
    Remount,
    CopyUp,
    CopySymlink,
    SourceNoFollow,
    DestNoFollow,
    /// Only the bare name: with mappings (`idmap=uids=...`) it is not in the table, see [`Options::of`].
    Idmap {
        recursive: bool,
    },
}

use Effect::{
    Bind, Clear, ClearAll, CopySymlink, CopyUp, DestNoFollow, Idmap, Nothing, Propagation, Remount, Set,
    SetAll, SourceNoFollow,
};

const I_VERSION: MountFlags = MountFlags::from_bits_retain(1 << 23);
const MAND: MountFlags = MountFlags::PERMIT_MANDATORY_FILE_LOCKING;
const SLAVE: MountPropagationFlags = MountPropagationFlags::DOWNSTREAM;
const REC: MountPropagationFlags = MountPropagationFlags::REC;

/// The modes of updating access times exclude each other: the last one asked for holds.
const ATIME: MountFlags = MountFlags::NOATIME.union(MountFlags::RELATIME).union(MountFlags::STRICTATIME);

/// Flags of a file system, which all of its mounts share: a change of the mount alone is not possible.
const OF_FILE_SYSTEM: MountFlags = MountFlags::SYNCHRONOUS.union(MountFlags::DIRSYNC).union(MAND);

/// mount(8), "FILESYSTEM-INDEPENDENT MOUNT OPTIONS", the recursive ones of the runtime specification, and those
/// of crun(1), sorted by name.
const TABLE: [(&str, Effect); 70] = [
    ("async", Clear(MountFlags::SYNCHRONOUS)),
    ("atime", Clear(MountFlags::NOATIME)),
    ("bind", Bind { recursive: false }),
    ("copy-symlink", CopySymlink),
    ("defaults", Nothing),
    ("dest-nofollow", DestNoFollow),
    ("dev", Clear(MountFlags::NODEV)),
    ("diratime", Clear(MountFlags::NODIRATIME)),
    ("dirsync", Set(MountFlags::DIRSYNC)),
    ("exec", Clear(MountFlags::NOEXEC)),
    ("idmap", Idmap { recursive: false }),
    ("iversion", Set(I_VERSION)),
    ("lazytime", Set(MountFlags::LAZYTIME)),
    ("loud", Clear(MountFlags::SILENT)),
    ("mand", Set(MAND)),
    ("noatime", Set(MountFlags::NOATIME)),
    ("nodev", Set(MountFlags::NODEV)),
    ("nodiratime", Set(MountFlags::NODIRATIME)),
    ("noexec", Set(MountFlags::NOEXEC)),
    ("noiversion", Clear(I_VERSION)),
    ("nolazytime", Clear(MountFlags::LAZYTIME)),
    ("nomand", Clear(MAND)),
    ("norelatime", Clear(MountFlags::RELATIME)),
    ("nostrictatime", Clear(MountFlags::STRICTATIME)),
    ("nosuid", Set(MountFlags::NOSUID)),
    ("nosymfollow", Set(MountFlags::NOSYMFOLLOW)),
    ("private", Propagation(MountPropagationFlags::PRIVATE)),
    ("rasync", ClearAll(MountFlags::SYNCHRONOUS)),
    ("ratime", ClearAll(MountFlags::NOATIME)),
    ("rbind", Bind { recursive: true }),
    ("rdev", ClearAll(MountFlags::NODEV)),
    ("rdiratime", ClearAll(MountFlags::NODIRATIME)),
    ("rdirsync", SetAll(MountFlags::DIRSYNC)),
    ("relatime", Set(MountFlags::RELATIME)),
    ("remount", Remount),
    ("rexec", ClearAll(MountFlags::NOEXEC)),
    ("ridmap", Idmap { recursive: true }),
    ("rmand", SetAll(MAND)),
    ("rnoatime", SetAll(MountFlags::NOATIME)),
    ("rnodev", SetAll(MountFlags::NODEV)),
    ("rnodiratime", SetAll(MountFlags::NODIRATIME)),
    ("rnoexec", SetAll(MountFlags::NOEXEC)),
    ("rnomand", ClearAll(MAND)),
    ("rnorelatime", ClearAll(MountFlags::RELATIME)),
    ("rnostrictatime", ClearAll(MountFlags::STRICTATIME)),
    ("rnosuid", SetAll(MountFlags::NOSUID)),
    ("rnosymfollow", SetAll(MountFlags::NOSYMFOLLOW)),
    ("ro", Set(MountFlags::RDONLY)),
    ("rprivate", Propagation(MountPropagationFlags::PRIVATE.union(REC))),
    ("rrelatime", SetAll(MountFlags::RELATIME)),
    ("rro", SetAll(MountFlags::RDONLY)),
    ("rrw", ClearAll(MountFlags::RDONLY)),
    ("rshared", Propagation(MountPropagationFlags::SHARED.union(REC))),
    ("rslave", Propagation(SLAVE.union(REC))),
    ("rstrictatime", SetAll(MountFlags::STRICTATIME)),
    ("rsuid", ClearAll(MountFlags::NOSUID)),
    ("rsymfollow", ClearAll(MountFlags::NOSYMFOLLOW)),
    ("rsync", SetAll(MountFlags::SYNCHRONOUS)),
    ("runbindable", Propagation(MountPropagationFlags::UNBINDABLE.union(REC))),
    ("rw", Clear(MountFlags::RDONLY)),
    ("shared", Propagation(MountPropagationFlags::SHARED)),
    ("silent", Set(MountFlags::SILENT)),
    ("slave", Propagation(SLAVE)),
    ("src-nofollow", SourceNoFollow),
    ("strictatime", Set(MountFlags::STRICTATIME)),
    ("suid", Clear(MountFlags::NOSUID)),
    ("symfollow", Clear(MountFlags::NOSYMFOLLOW)),
    ("sync", Set(MountFlags::SYNCHRONOUS)),
    ("tmpcopyup", CopyUp),
    ("unbindable", Propagation(MountPropagationFlags::UNBINDABLE)),
];

const NAMES: [&str; TABLE.len()] = {
    let mut names = [""; TABLE.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = TABLE[i].0;
        i += 1;
    }
    names
};

/// Every mount option that is not data for a file system, for `features`.
pub const MOUNT_OPTIONS: &[&str] = &NAMES;

/// The option `idmap` or `ridmap`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Idmapped {
    pub recursive: bool,
    /// What follows `=`: crun's form of mappings.
    pub mappings: Option<String>,
}

/// A mount's options, taken together.
#[derive(Debug)]
pub(super) struct Options {
    flags: MountFlags,
    cleared: MountFlags,
    set_all: MountFlags,
    cleared_all: MountFlags,
    pub propagation: Vec<MountPropagationFlags>,
    /// A bind mount; `Some(true)` with everything below the source.
    pub bind: Option<bool>,
    pub remount: bool,
    pub copy_up: bool,
    /// Where the source is a symbolic link, make the same one instead of a mount.
    pub copy_symlink: bool,
    /// Mount a source that is a symbolic link itself.
    pub source_no_follow: bool,
    /// Mount onto a destination that is a symbolic link itself.
    pub dest_no_follow: bool,
    pub idmap: Option<Idmapped>,
    /// What is left, for the file system.
    pub data: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        let none = MountFlags::empty();
        Self {
            flags: none,
            cleared: none,
            set_all: none,
            cleared_all: none,
            propagation: Vec::new(),
            bind: None,
            remount: false,
            copy_up: false,
            copy_symlink: false,
            source_no_follow: false,
            dest_no_follow: false,
            idmap: None,
            data: Vec::new(),
        }
    }
}

impl Options {
    pub fn of(mount: &Mount) -> Self {
        let mut options = Self::default();
        for option in mount.options().iter().flatten() {
            options.add(option);
        }
        if mount.typ().as_deref() == Some("bind") {
            options.bind.get_or_insert(false);
        }
        options
    }

    fn add(&mut self, option: &str) {
        let Ok(index) = TABLE.binary_search_by_key(&option, |(name, _)| name) else {
            match option.split_once('=') {
                Some((name @ ("idmap" | "ridmap"), mappings)) => {
                    let mappings = (!mappings.is_empty()).then(|| mappings.to_owned());
                    self.idmap = Some(Idmapped { recursive: name == "ridmap", mappings });
                }
                _ if option.is_empty() => {}
                _ => self.data.push(option.to_owned()),
            }
            return;
        };
        match TABLE[index].1 {
            Nothing => {}
            Set(flag) => set(&mut self.flags, &mut self.cleared, flag),
            Clear(flag) => set(&mut self.cleared, &mut self.flags, flag),
            SetAll(flag) => set(&mut self.set_all, &mut self.cleared_all, flag),
            ClearAll(flag) => set(&mut self.cleared_all, &mut self.set_all, flag),
            Propagation(flags) => self.propagation.push(flags),
            Bind { recursive } => self.bind = Some(recursive || self.bind == Some(true)),
            Remount => self.remount = true,
            CopyUp => self.copy_up = true,
            CopySymlink => self.copy_symlink = true,
            SourceNoFollow => self.source_no_follow = true,
            DestNoFollow => self.dest_no_follow = true,
            Idmap { recursive } => self.idmap = Some(Idmapped { recursive, mappings: None }),
        }
    }

    pub fn read_only(&self) -> bool {
        self.new_mount_flags().contains(MountFlags::RDONLY)
    }

    /// What mount(2) is told for a new file system: there is nothing below it yet, so an option for the whole
    /// tree is one for the mount.
    pub fn new_mount_flags(&self) -> MountFlags {
        let kept = if self.set_all.intersects(ATIME) { self.flags - ATIME } else { self.flags };
        (kept | self.set_all) - self.cleared_all
    }

    /// Whether an option asks for what no tree of existing mounts can be given.
    pub fn recursive_of_file_system(&self) -> bool {
        (self.set_all | self.cleared_all).intersects(OF_FILE_SYSTEM)
    }

    /// What changes on a mount that exists already.
    pub fn attributes(&self) -> Attributes {
        Attributes::new(self.flags, self.cleared)
    }

    /// What changes on a mount and everything below it.
    pub fn recursive_attributes(&self) -> Attributes {
        Attributes::new(self.set_all, self.cleared_all)
    }
}

fn set(to: &mut MountFlags, from: &mut MountFlags, flag: MountFlags) {
    if flag.intersects(ATIME) {
        to.remove(ATIME);
    }
    to.insert(flag);
    from.remove(flag);
}

/// `linux.rootfsPropagation`.
pub(super) fn propagation(name: &str) -> Option<MountPropagationFlags> {
    TABLE.iter().find_map(|(option, effect)| match effect {
        Propagation(flags) if *option == name => Some(*flags),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::MountBuilder;
    use rustix::mount::MountAttrFlags as Attr;

    fn parse(options: &[&str]) -> Options {
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        Options::of(&MountBuilder::default().destination("/x").options(options).build().unwrap())
    }

    #[test]
    fn names_are_found_by_their_order() {
        assert!(MOUNT_OPTIONS.is_sorted());
    }

    #[test]
    fn unknown_options_are_data_in_order() {
        let options = parse(&["nosuid", "mode=755", "ro", "size=65536k"]);
        assert_eq!(options.flags, MountFlags::NOSUID | MountFlags::RDONLY);
        assert_eq!(options.data, ["mode=755", "size=65536k"]);
    }

    #[test]
    fn the_last_of_two_opposites_holds() {
        assert!(!parse(&["ro", "rw"]).read_only());
        assert!(parse(&["rw", "ro"]).read_only());
        let attributes = parse(&["ro", "rw"]).attributes();
        assert_eq!((attributes.set, attributes.clear), (Attr::empty(), Attr::MOUNT_ATTR_RDONLY));
    }

    #[test]
    fn access_time_modes_replace_each_other() {
        let options = parse(&["noatime", "strictatime"]);
        assert_eq!(options.flags, MountFlags::STRICTATIME);
        let attributes = options.attributes();
        assert_eq!(
            (attributes.set, attributes.clear),
            (Attr::MOUNT_ATTR_STRICTATIME, Attr::MOUNT_ATTR__ATIME)
        );
        // Relatime is the absence of the others.
        let attributes = parse(&["relatime"]).attributes();
        assert_eq!((attributes.set, attributes.clear), (Attr::empty(), Attr::MOUNT_ATTR__ATIME));
    }

    #[test]
    fn recursive_options_are_kept_apart() {
        let options = parse(&["rbind", "rro", "nosuid"]);
        assert_eq!(options.bind, Some(true));
        assert_eq!(options.attributes().set, Attr::MOUNT_ATTR_NOSUID);
        assert_eq!(options.recursive_attributes().set, Attr::MOUNT_ATTR_RDONLY);
    }

    #[test]
    fn bind_is_recursive_when_either_says_so() {
        assert_eq!(parse(&["rbind", "bind"]).bind, Some(true));
        assert_eq!(parse(&["bind", "rbind"]).bind, Some(true));
        assert_eq!(parse(&["bind"]).bind, Some(false));
        assert_eq!(parse(&[]).bind, None);
    }

    #[test]
    fn idmap_is_not_data() {
        let options = parse(&["bind", "ridmap"]);
        assert_eq!(options.idmap, Some(Idmapped { recursive: true, mappings: None }));
        assert!(options.data.is_empty());
        let options = parse(&["bind", "idmap=uids=0-1-2"]);
        assert_eq!(options.idmap, Some(Idmapped { recursive: false, mappings: Some("uids=0-1-2".into()) }));
        assert!(options.data.is_empty());
    }

    #[test]
    fn a_new_mount_is_its_whole_tree() {
        assert_eq!(
            parse(&["noatime", "rro", "rstrictatime"]).new_mount_flags(),
            MountFlags::STRICTATIME | MountFlags::RDONLY
        );
        assert_eq!(parse(&["ro", "rrw", "nosuid"]).new_mount_flags(), MountFlags::NOSUID);
        assert!(parse(&["rbind", "rsync"]).recursive_of_file_system());
        assert!(!parse(&["rbind", "rro", "sync"]).recursive_of_file_system());
    }

    #[test]
    fn names_are_sorted_and_unique() {
        assert!(MOUNT_OPTIONS.windows(2).all(|pair| pair[0] < pair[1]), "{MOUNT_OPTIONS:?}");
    }

    #[test]
    fn propagation_names() {
        assert_eq!(propagation("rslave"), Some(SLAVE | REC));
        assert_eq!(propagation("ro"), None);
    }
}
