//! crun refuses a hybrid tree in which cgroup2 has a controller.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use coracle_integration::{Run, command};

/// On such a host the one that is there, hugetlb, moves to a v1 hierarchy for as long as this lives, if no cgroup stands
/// in its way.
pub struct Hugetlb;

impl Hugetlb {
    const DIRECTORY: &'static str = "/sys/fs/cgroup/hugetlb";

    /// Moves it, where that can be.
    pub fn move_to_v1() -> Option<Hugetlb> {
        if !Self::is_on_v2() {
            return None;
        }
        fs::create_dir_all(Self::DIRECTORY).ok()?;
        let moved = Hugetlb;
        Self::mount().ok()?;
        Some(moved)
    }

    /// Whether cgroup2 has it, and no other controller.
    fn is_on_v2() -> bool {
        fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers")
            .is_ok_and(|all| all.trim() == "hugetlb")
    }

    fn mount() -> Result<()> {
        let mount = ["-t", "cgroup", "-o", "hugetlb", "cgroup", Self::DIRECTORY];
        command("mount").args(mount).finish()?.ok().map(drop)
    }
}

impl Drop for Hugetlb {
    fn drop(&mut self) {
        // The kernel gives the controller back when the last cgroup of the hierarchy is forgotten, which is a while after it
        // was removed, and only at the moment of an unmount.
        for _ in 0..120 {
            let _ = command("umount").arg(Self::DIRECTORY).finish();
            if Self::is_on_v2() {
                break;
            }
            sleep(Duration::from_millis(500));
            let _ = Self::mount();
        }
        let _ = fs::remove_dir(Self::DIRECTORY);
    }
}
