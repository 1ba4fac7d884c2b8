//! crun refuses a hybrid tree in which cgroup2 has a controller.

use std::fs;

use coracle_integration::{Run, command};

/// On such a host the one that is there, hugetlb, moves to a v1 hierarchy for as long as this lives, if no cgroup stands
/// in its way.
pub struct Hugetlb;

impl Hugetlb {
    const DIRECTORY: &'static str = "/sys/fs/cgroup/hugetlb";

    /// Moves it, where that can be.
    pub fn move_to_v1() -> Option<Hugetlb> {
        let controllers = fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers").ok()?;
        if controllers.trim() != "hugetlb" {
            return None;
        }
        fs::create_dir_all(Self::DIRECTORY).ok()?;
        let moved = Hugetlb;
        let mount = ["-t", "cgroup", "-o", "hugetlb", "cgroup", Self::DIRECTORY];
        command("mount").args(mount).finish().ok()?.ok().ok()?;
        Some(moved)
    }
}

impl Drop for Hugetlb {
    fn drop(&mut self) {
        let _ = command("umount").arg(Self::DIRECTORY).finish();
        let _ = fs::remove_dir(Self::DIRECTORY);
    }
}
