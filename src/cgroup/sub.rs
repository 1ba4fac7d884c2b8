//! Cgroups below a container's, which `exec --cgroup` names.

use std::path::{Component, Path, PathBuf};

use super::hierarchy::{Hierarchy, Version};
use super::{Cgroup, Error};
use crate::error::Os;

/// Where a process goes, from the container's cgroup on: at one place in every hierarchy, or by controller.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// The only form there is on v2.
    Everywhere(PathBuf),
    /// Controllers and their paths.
    ByController(Vec<(String, PathBuf)>),
}

impl Place {
    /// The arguments of `--cgroup`, `[CONTROLLER[,CONTROLLER...]:]PATH`; `None` without any.
    ///
    /// # Errors
    /// [`Error::SubArgument`].
    pub fn parse(arguments: &[String]) -> Result<Option<Self>, Error> {
        let wrong = |argument: &str, problem| Error::SubArgument { argument: argument.to_owned(), problem };
        let mut places: Vec<(String, PathBuf)> = Vec::new();
        for argument in arguments {
            let Some((controllers, path)) = argument.split_once(':') else {
                if arguments.len() > 1 {
                    return Err(wrong(argument, "missing <controller>: prefix"));
                }
                return Ok(Some(Self::Everywhere(argument.into())));
            };
            for controller in controllers.split(',') {
                if controller.is_empty() {
                    return Err(wrong(argument, "empty <controller> prefix"));
                }
                if places.iter().any(|(known, _)| known == controller) {
                    return Err(wrong(argument, "controller specified multiple times"));
                }
                places.push((controller.to_owned(), path.into()));
            }
        }
        Ok((!places.is_empty()).then_some(Self::ByController(places)))
    }
}

impl Cgroup {
    /// Moves a process to a place below the container's cgroup.
    ///
    /// # Errors
    /// [`Error::SubPath`], [`Error::SubController`]; [`Error::Join`] for a cgroup that is not there.
    pub fn add_below(&self, pid: i32, place: &Place) -> Result<(), Error> {
        let places = match place {
            Place::ByController(places) => places.as_slice(),
            Place::Everywhere(_) => &[],
        };
        let has = |hierarchy: &Hierarchy, controller: &str| {
            let controllers = &hierarchy.controllers;
            hierarchy.version == Version::V1
                && controllers.iter().any(|c| c == controller || c.strip_prefix("name=") == Some(controller))
        };
        let unknown = places.iter().find(|(name, _)| !self.hierarchies.iter().any(|h| has(h, name)));
        if let Some((controller, _)) = unknown {
            return Err(Error::SubController(controller.clone()));
        }
        for hierarchy in &self.hierarchies {
            let below = match place {
                Place::Everywhere(path) => Some(path),
                Place::ByController(_) => {
                    places.iter().find(|(name, _)| has(hierarchy, name)).map(|(_, path)| path)
                }
            };
            let directory = match below {
                Some(below) => resolve(&hierarchy.path, below)?,
                None => hierarchy.path.clone(),
            };
            let path = directory.join("cgroup.procs");
            let write = std::fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .and_then(|mut file| std::io::Write::write_all(&mut file, pid.to_string().as_bytes()));
            write.map_err(|e| Error::Join { pid, path, reason: Os::from(e) })?;
        }
        Ok(())
    }
}

/// `below` in `directory`; `..` may not lead out of it.
fn resolve(directory: &Path, below: &Path) -> Result<PathBuf, Error> {
    let mut depth = 0usize;
    let mut path = directory.to_owned();
    for component in below.components() {
        match component {
            Component::Normal(name) => {
                path.push(name);
                depth += 1;
            }
            Component::ParentDir => {
                depth = depth.checked_sub(1).ok_or_else(|| Error::SubPath(below.to_owned()))?;
                path.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Option<Place>, String> {
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        Place::parse(&arguments).map_err(|e| e.to_string())
    }

    #[test]
    fn arguments() {
        assert_eq!(parse(&[]), Ok(None));
        assert_eq!(parse(&["a/b"]), Ok(Some(Place::Everywhere("a/b".into()))));
        let by_controller = ["memory", "cpu", "cpuacct"].map(|c| (c.to_owned(), PathBuf::from("x"))).to_vec();
        assert_eq!(parse(&["memory:x", "cpu,cpuacct:x"]), Ok(Some(Place::ByController(by_controller))));
        for wrong in [&["a", "b"] as &[_], &[":x"], &["cpu:x", "cpu:y"]] {
            assert!(parse(wrong).is_err_and(|e| e.starts_with("invalid --cgroup argument")), "{wrong:?}");
        }
    }

    #[test]
    fn paths_stay_below() {
        let resolved = |path: &str| resolve(Path::new("/c/x"), Path::new(path)).ok();
        assert_eq!(resolved("/"), Some("/c/x".into()));
        assert_eq!(resolved("/a/../b"), Some("/c/x/b".into()));
        assert_eq!(resolved("../x"), None);
        assert_eq!(resolved("a/../.."), None);
    }
}
