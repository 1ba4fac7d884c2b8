//! The root file system of an image as its own programs see it: symbolic links lead inside it, and where OSTree keeps the
//! system in a directory of its own, that is the root and the shared `/var` is in its place.

use std::cell::RefCell;
use std::collections::HashMap;

use anyhow::{Context, Result, ensure};

use crate::filesystem::{Addition, Entry, FileSystem, Kind, What};

/// As many links as the kernel follows (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// How a system is laid out on its file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The file system's root is the system's (or this directory, such as a subvolume).
    Plain(String),
    /// A deployment of OSTree: its directory, and the directory that is its `/var`.
    Ostree(String, String),
}

/// A root file system.
pub struct Tree {
    fs: Box<dyn FileSystem>,
    layout: Layout,
    /// What directories hold, by the file system's own path.
    seen: RefCell<HashMap<String, Vec<Entry>>>,
}

/// Something that was found: where the links on the way led, and what it is.
pub struct Found {
    /// The path in the system, without links on the way.
    pub path: String,
    /// What is there.
    pub entry: Entry,
}

impl Tree {
    /// A tree with a layout that is known.
    pub fn new(fs: Box<dyn FileSystem>, layout: Layout) -> Self {
        Self { fs, layout, seen: RefCell::default() }
    }

    /// Finds the system on a file system. `None` if there is none.
    ///
    /// # Errors
    /// It cannot be read, or holds more than one.
    pub fn find(fs: Box<dyn FileSystem>) -> Result<Option<Self>> {
        let mut tree = Self::new(fs, Layout::Plain(String::new()));
        // btrfs: the directories are subvolumes, by the names of Fedora's and Ubuntu's installers.
        for root in ["", "/root", "/@"] {
            if tree.is_directory(&format!("{root}/usr/bin"))? {
                tree.layout = Layout::Plain(root.to_owned());
                return Ok(Some(tree));
            }
        }
        let mut deployments = Vec::new();
        for stateroot in tree.list("/ostree/deploy")? {
            let base = format!("/ostree/deploy/{}", stateroot.name);
            let found = tree.list(&format!("{base}/deploy"))?;
            let found = found.into_iter().filter(|entry| entry.kind == Kind::Directory);
            deployments
                .extend(found.map(|entry| (format!("{base}/deploy/{}", entry.name), format!("{base}/var"))));
        }
        ensure!(
            deployments.len() < 2,
            "OSTree has more than one deployment there ({}): which of them will boot is not known here",
            deployments.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>().join(", ")
        );
        let Some((deployment, var)) = deployments.pop() else { return Ok(None) };
        tree.layout = Layout::Ostree(deployment, var);
        Ok(Some(tree))
    }

    /// How the system is laid out.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// How many bytes the file system can still take.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn free(&self) -> Result<u64> {
        self.fs.free()
    }

    /// The file system's own path.
    fn inside(&self, path: &str) -> String {
        let below = |base: &str, rest: &str| {
            let whole = format!("{base}{rest}");
            if whole.is_empty() { "/".to_owned() } else { whole }
        };
        match (&self.layout, path.strip_prefix("/var")) {
            (Layout::Ostree(_, var), Some(rest)) if rest.is_empty() || rest.starts_with('/') => {
                below(var, rest)
            }
            (Layout::Plain(root) | Layout::Ostree(root, _), _) => below(root, path.trim_end_matches('/')),
        }
    }

    /// What a name in a directory is; the directory's path has no links in it.
    fn entry(&self, directory: &str, name: &str) -> Result<Option<Entry>> {
        let inside = self.inside(directory);
        if !self.seen.borrow().contains_key(&inside) {
            let entries = self.fs.list(&inside)?;
            self.seen.borrow_mut().insert(inside.clone(), entries);
        }
        let seen = self.seen.borrow();
        Ok(seen.get(&inside).and_then(|entries| entries.iter().find(|entry| entry.name == name)).cloned())
    }

    /// Looks a path up. `follow` says whether a link at its end is followed.
    ///
    /// # Errors
    /// The file system cannot be read, or links go round in circles.
    pub fn look_up(&self, path: &str, follow: bool) -> Result<Option<Found>> {
        let mut left: Vec<String> = path.rsplit('/').map(str::to_owned).collect();
        let mut links = 0;
        let mut at = String::new();
        let mut last = Entry { name: String::new(), kind: Kind::Directory, mode: 0o755 };
        while let Some(name) = left.pop() {
            match name.as_str() {
                "" | "." => continue,
                ".." => {
                    at.truncate(at.rfind('/').unwrap_or(0));
                    continue;
                }
                _ => {}
            }
            if last.kind != Kind::Directory {
                return Ok(None);
            }
            let Some(entry) = self.entry(&at, &name)? else { return Ok(None) };
            let ends = left.iter().all(String::is_empty);
            if entry.kind == Kind::Link && (follow || !ends) {
                links += 1;
                ensure!(links <= MOST_LINKS, "{path}: too many levels of symbolic links");
                let target = self.fs.target(&self.inside(&format!("{at}/{name}")))?;
                if target.starts_with('/') {
                    at.clear();
                }
                left.extend(target.rsplit('/').map(str::to_owned));
                continue;
            }
            at = format!("{at}/{name}");
            last = entry;
        }
        Ok(Some(Found { path: at, entry: last }))
    }

    /// Whether something is there, be it a link to nowhere.
    ///
    /// # Errors
    /// As [`Tree::look_up`].
    pub fn exists(&self, path: &str) -> Result<bool> {
        Ok(self.look_up(path, false)?.is_some())
    }

    /// Whether a directory is there.
    ///
    /// # Errors
    /// As [`Tree::look_up`].
    pub fn is_directory(&self, path: &str) -> Result<bool> {
        Ok(self.look_up(path, true)?.is_some_and(|found| found.entry.kind == Kind::Directory))
    }

    /// The contents of a file, or `None` if there is no regular one.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        match self.look_up(path, true)? {
            Some(Found { path, entry: Entry { kind: Kind::File, .. } }) => {
                self.fs.read(&self.inside(&path)).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The text of a file, or nothing if there is no regular one.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn text(&self, path: &str) -> Result<String> {
        Ok(self.read(path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default())
    }

    /// The names in a directory, in order; none if there is no directory.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn list(&self, path: &str) -> Result<Vec<Entry>> {
        let mut entries = match self.look_up(path, true)? {
            Some(Found { path, entry: Entry { kind: Kind::Directory, .. } }) => {
                self.fs.list(&self.inside(&path))?
            }
            _ => Vec::new(),
        };
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Adds files and links, with the directories they lack, and returns where each is in the end. `label` gives the
    /// SELinux label of a path.
    ///
    /// # Errors
    /// A directory stands where one of them is to be, or the file system cannot be written to.
    pub fn add(
        &mut self,
        files: Vec<(String, What)>,
        label: impl Fn(&str) -> Option<String>,
    ) -> Result<Vec<String>> {
        let mut additions: Vec<Addition> = Vec::new();
        let mut added = Vec::new();
        for (path, what) in files {
            let (directory, name) = path.rsplit_once('/').context("a path without a directory")?;
            let directory = self.make_directory(directory, &mut additions, &label)?;
            let place = format!("{directory}/{name}");
            let there = self.look_up(&place, false)?;
            if let Some(found) = &there {
                ensure!(found.entry.kind != Kind::Directory, "{path}: is a directory");
            }
            let label = label(&place);
            additions.push(Addition { path: self.inside(&place), what, replaces: there.is_some(), label });
            added.push(place);
        }
        self.fs.add(&additions)?;
        self.seen.borrow_mut().clear();
        Ok(added)
    }

    /// The path, without links, of a directory that is there or will be.
    fn make_directory(
        &self,
        path: &str,
        additions: &mut Vec<Addition>,
        label: &impl Fn(&str) -> Option<String>,
    ) -> Result<String> {
        if let Some(found) = self.look_up(path, true)? {
            ensure!(found.entry.kind == Kind::Directory, "{path}: is no directory");
            return Ok(found.path);
        }
        // A link that leads to nothing yet, as OSTree's /usr/local before the first boot.
        if let Some(found) = self.look_up(path, false)?
            && found.entry.kind == Kind::Link
        {
            let target = self.fs.target(&self.inside(&found.path))?;
            let above = found.path.rsplit_once('/').map_or("", |(above, _)| above);
            let target = if target.starts_with('/') { target } else { format!("{above}/{target}") };
            return self.make_directory(&normal(&target), additions, label);
        }
        let (above, name) = path.rsplit_once('/').context("a path without a directory")?;
        let above = self.make_directory(above, additions, label)?;
        let place = format!("{above}/{name}");
        let inside = self.inside(&place);
        if !additions.iter().any(|addition| addition.path == inside) {
            let label = label(&place);
            additions.push(Addition { path: inside, what: What::Directory, replaces: false, label });
        }
        Ok(place)
    }
}

/// A path without `.` and `..`, as far as its text tells.
fn normal(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;
    use crate::filesystem::Mounted;

    fn tree(root: &Path) -> Tree {
        Tree::find(Box::new(Mounted::directory(root))).unwrap().unwrap()
    }

    fn plain() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("usr/bin")).unwrap();
        fs::write(root.path().join("usr/bin/podman"), "program").unwrap();
        symlink("usr/bin", root.path().join("bin")).unwrap();
        root
    }

    #[test]
    fn links_stay_inside() {
        let root = plain();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/hostname"), "inside").unwrap();
        let links = [("a", "/etc/hostname"), ("b", "../../../../etc/hostname"), ("c", "a")];
        for (name, target) in links {
            symlink(target, root.path().join(name)).unwrap();
        }
        let tree = tree(root.path());
        for (name, _) in links {
            assert_eq!(tree.text(name).unwrap(), "inside", "{name}");
        }
        assert_eq!(tree.look_up("/bin/podman", true).unwrap().unwrap().path, "/usr/bin/podman");
        assert_eq!(tree.read("/bin/podman/x").unwrap(), None);
        assert_eq!(tree.read("/bin").unwrap(), None);
    }

    #[test]
    fn circles_are_an_error() {
        let root = plain();
        symlink("round", root.path().join("round")).unwrap();
        let tree = tree(root.path());
        assert!(tree.exists("/round").unwrap());
        assert!(tree.read("/round").unwrap_err().to_string().contains("too many levels"));
    }

    #[test]
    fn a_deployment_of_ostree_is_a_root_with_var_elsewhere() {
        let root = tempfile::tempdir().unwrap();
        let deployment = root.path().join("ostree/deploy/os/deploy/0123.0");
        fs::create_dir_all(deployment.join("usr/bin")).unwrap();
        // Empty: where the other is mounted.
        fs::create_dir(deployment.join("var")).unwrap();
        fs::create_dir_all(root.path().join("ostree/deploy/os/var/lib")).unwrap();
        fs::write(root.path().join("ostree/deploy/os/var/lib/state"), "shared").unwrap();
        symlink("../var/usrlocal", deployment.join("usr/local")).unwrap();
        let source = root.path().join("source");
        fs::write(&source, "program").unwrap();
        let mut tree = tree(root.path());
        assert_eq!(tree.text("/var/lib/state").unwrap(), "shared");
        let add = || vec![("/usr/local/bin/x".to_owned(), What::File(source.clone(), 0o755))];
        // Twice: the directories are there the second time, and the file is replaced.
        for _ in 0..2 {
            assert_eq!(tree.add(add(), |_| None).unwrap(), ["/var/usrlocal/bin/x"]);
        }
        assert_eq!(fs::read(root.path().join("ostree/deploy/os/var/usrlocal/bin/x")).unwrap(), b"program");
        assert_eq!(tree.text("/usr/local/bin/x").unwrap(), "program");
    }

    #[test]
    fn of_two_deployments_none_is_taken() {
        let root = tempfile::tempdir().unwrap();
        for name in ["a.0", "b.0"] {
            fs::create_dir_all(root.path().join("ostree/deploy/os/deploy").join(name).join("usr/bin"))
                .unwrap();
        }
        let error = Tree::find(Box::new(Mounted::directory(root.path()))).err().unwrap().to_string();
        assert!(error.contains("more than one") && error.contains("b.0"), "{error}");
    }

    #[test]
    fn other_file_systems_hold_no_system() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("lost+found")).unwrap();
        assert!(Tree::find(Box::new(Mounted::directory(root.path()))).unwrap().is_none());
    }
}
