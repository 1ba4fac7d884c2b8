//! The command line from end to end, on images that are made here: small trees with what the program looks for, in every
//! format and file system. Nothing is booted or downloaded. Needs root, and Debian's qemu-utils, e2fsprogs, fdisk, xfsprogs
//! and btrfs-progs.

mod build;
mod common;
mod containerfile;
mod inject;
mod inspect;
mod interrupt;
mod mounted;
mod pack;
mod refusals;
