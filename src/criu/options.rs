//! The flags that `checkpoint` and `restore` have in common, as CRIU's options.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::rpc::{Criu_cg_mode, Criu_network_lock_method, Criu_opts};

/// The configuration files of the peers, which hold for us too; CRIU does not mind a missing one.
const CONFIG_FILES: [&str; 2] = ["/etc/criu/crun.conf", "/etc/criu/runc.conf"];
/// Annotation that names another configuration file, or, when it is empty, none.
const CONFIG_ANNOTATION: &str = "org.criu.config";

/// What becomes of cgroups: `--manage-cgroups-mode` of criu(8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CgroupsMode {
    /// Restore the properties of cgroups that had to be made.
    Soft,
    /// Restore the properties of all.
    Full,
    /// Restore nothing into a cgroup that exists.
    Strict,
    /// Leave cgroups alone.
    Ignore,
}

/// How connections are held while they are saved: `--network-lock` of criu(8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NetworkLock {
    /// Through iptables.
    Iptables,
    /// Through nftables.
    Nftables,
    /// Not at all.
    Skip,
}

/// Flags of both commands.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Directory of CRIU's image files [default: ./checkpoint]
    #[arg(long, value_name = "DIR")]
    pub image_path: Option<PathBuf>,
    /// Directory of CRIU's log and other files [default: the images']
    #[arg(long, value_name = "DIR")]
    pub work_path: Option<PathBuf>,
    /// Save, and restore, open TCP connections
    #[arg(long)]
    pub tcp_established: bool,
    /// Allow Unix sockets that are connected to the outside
    #[arg(long)]
    pub ext_unix_sk: bool,
    /// Allow processes that belong to a terminal's session outside
    #[arg(long)]
    pub shell_job: bool,
    /// Save, and restore, file locks
    #[arg(long)]
    pub file_locks: bool,
    /// What becomes of cgroups and their limits
    #[arg(long, value_name = "MODE")]
    pub manage_cgroups_mode: Option<CgroupsMode>,
    /// How connections are held meanwhile
    #[arg(long, value_name = "METHOD")]
    pub network_lock: Option<NetworkLock>,
    /// Make this namespace new and empty; CRIU can only do so for the network, which is always done
    #[arg(long, value_name = "NAMESPACE", value_parser = ["network"])]
    pub empty_ns: Vec<String>,
    /// Remove memory pages from parent images as newer ones replace them
    #[arg(long)]
    pub auto_dedup: bool,
    /// Move memory pages only when they are needed, over userfaultfd
    #[arg(long)]
    pub lazy_pages: bool,
}

/// The open directories of images and logs. CRIU reaches them through /proc, as long as they are open.
#[derive(Debug)]
pub struct Directories {
    images: OwnedFd,
    work: Option<OwnedFd>,
    /// Where the log is written.
    pub log: PathBuf,
}

impl Options {
    /// Where the images are.
    ///
    /// # Errors
    /// The working directory is gone.
    pub fn images(&self) -> io::Result<PathBuf> {
        std::path::absolute(self.image_path.as_deref().unwrap_or(Path::new("checkpoint")))
    }

    /// Opens the directories; that of the log is made if it is missing.
    ///
    /// # Errors
    /// The directory that cannot be opened, and why.
    pub fn open(&self, log: &str) -> Result<Directories, (PathBuf, io::Error)> {
        let images = self.images().map_err(|e| (PathBuf::from("."), e))?;
        let images_fd = File::open(&images).map_err(|e| (images.clone(), e))?.into();
        let Some(work) = &self.work_path else {
            return Ok(Directories { images: images_fd, work: None, log: images.join(log) });
        };
        let opened = make_directory(work).and_then(|()| File::open(work));
        let work_fd = opened.map_err(|e| (work.clone(), e))?.into();
        Ok(Directories { images: images_fd, work: Some(work_fd), log: work.join(log) })
    }

    /// CRIU's options for them.
    pub fn request(&self, directories: &Directories, config: Option<&String>) -> Criu_opts {
        let mut opts = Criu_opts::new();
        opts.set_images_dir_fd(directories.images.as_raw_fd());
        if let Some(work) = &directories.work {
            opts.set_work_dir_fd(work.as_raw_fd());
        }
        opts.log_file = directories.log.file_name().map(|name| name.to_string_lossy().into_owned());
        opts.set_log_level(4);
        opts.set_notify_scripts(true);
        opts.set_orphan_pts_master(true);
        opts.set_tcp_established(self.tcp_established);
        opts.set_ext_unix_sk(self.ext_unix_sk);
        opts.set_shell_job(self.shell_job);
        opts.set_file_locks(self.file_locks);
        opts.set_auto_dedup(self.auto_dedup);
        opts.set_lazy_pages(self.lazy_pages);
        // Network devices are the engine's to make, before and after.
        opts.set_empty_ns(libc::CLONE_NEWNET.cast_unsigned());
        opts.set_manage_cgroups(true);
        opts.set_manage_cgroups_mode(match self.manage_cgroups_mode {
            None => Criu_cg_mode::DEFAULT,
            Some(CgroupsMode::Soft) => Criu_cg_mode::SOFT,
            Some(CgroupsMode::Full) => Criu_cg_mode::FULL,
            Some(CgroupsMode::Strict) => Criu_cg_mode::STRICT,
            Some(CgroupsMode::Ignore) => Criu_cg_mode::IGNORE,
        });
        match self.network_lock {
            None => {}
            Some(NetworkLock::Iptables) => opts.set_network_lock(Criu_network_lock_method::IPTABLES),
            Some(NetworkLock::Nftables) => opts.set_network_lock(Criu_network_lock_method::NFTABLES),
            Some(NetworkLock::Skip) => opts.set_network_lock(Criu_network_lock_method::SKIP),
        }
        opts.config_file = config_file(config);
        opts
    }
}

/// The annotation that [`Options::request`] takes its configuration file from.
pub fn config_annotation(annotations: &std::collections::HashMap<String, String>) -> Option<&String> {
    annotations.get(CONFIG_ANNOTATION)
}

fn config_file(annotation: Option<&String>) -> Option<String> {
    match annotation {
        Some(file) if file.is_empty() => None,
        Some(file) => Some(file.clone()),
        None => {
            let [first, last] = CONFIG_FILES;
            Some(if Path::new(first).exists() { first } else { last }.to_owned())
        }
    }
}

/// Makes a directory that only we can read: an image holds a container's memory.
///
/// # Errors
/// Those of mkdir(2).
pub fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_annotation_means_no_configuration_file() {
        assert_eq!(config_file(Some(&String::new())), None);
        assert_eq!(config_file(Some(&"/x.conf".to_owned())).as_deref(), Some("/x.conf"));
        assert!(CONFIG_FILES.contains(&config_file(None).unwrap_or_default().as_str()));
    }
}
