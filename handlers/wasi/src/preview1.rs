//! The functions of `wasi_snapshot_preview1`, one file per subject.
//!
//! Each takes the guest's state, its memory for the length of the call, and what the witx says: lists and strings as
//! address and length, results as the address to store them at. Errors are the guest's: none ends the program.

#![allow(clippy::too_many_arguments)] // the witx has so many

pub use self::{
    clock::{clock_res_get, clock_time_get},
    descriptor::{
        fd_advise, fd_allocate, fd_close, fd_datasync, fd_fdstat_get, fd_fdstat_set_flags,
        fd_fdstat_set_rights, fd_filestat_get, fd_filestat_set_size, fd_filestat_set_times,
        fd_prestat_dir_name, fd_prestat_get, fd_renumber, fd_sync,
    },
    io::{fd_pread, fd_pwrite, fd_read, fd_seek, fd_tell, fd_write},
    path::{
        path_create_directory, path_filestat_get, path_filestat_set_times, path_link, path_open,
        path_readlink, path_remove_directory, path_rename, path_symlink, path_unlink_file,
    },
    poll::poll_oneoff,
    process::{
        args_get, args_sizes_get, environ_get, environ_sizes_get, proc_exit, proc_raise, random_get,
        sched_yield,
    },
    readdir::fd_readdir,
    socket::{sock_accept, sock_recv, sock_send, sock_shutdown},
};

mod clock;
pub(crate) mod descriptor;
pub(crate) mod io;
pub(crate) mod path;
pub(crate) mod patience;
pub(crate) mod poll;
mod process;
mod readdir;
pub(crate) mod socket;
