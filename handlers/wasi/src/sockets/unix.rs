//! Sockets of the file system: no further than the guest's directories.
//!
//! A path is looked up as wasi-libc does it with a file's, in the preopened directory whose name is the longest in front of it.
//! bind(2) and connect(2) take no directory, so the one that holds the socket becomes the working directory, which
//! nothing else here depends on. Abstract names belong to the network namespace, where a container may meet the
//! host's: they are not offered.

use std::os::fd::AsFd;

use rustix::{net::SocketAddrUnix, process::fchdir};

use crate::{
    descriptors::{Descriptor, Preopen},
    resolve::{c_string, walk},
    state::State,
    types::{Errno, Result},
};

/// An address for the socket at `path`, good until the next call. If `follow` is set, links in the last component are
/// followed.
pub fn locate(state: &State, path: &[u8], follow: bool) -> Result<SocketAddrUnix> {
    let path = trim(path);
    let candidates = state.descriptors.iter().filter_map(|it| Some((it, beneath(it, path)?)));
    let (directory, rest) = candidates.min_by_key(|(_, rest)| rest.len()).ok_or(Errno::NotCapable)?;
    let rest = c_string(rest)?;
    let dir = directory.fd.as_fd();
    let (parent, name) = walk(dir, directory.confinement, &rest, follow)?;
    let address = SocketAddrUnix::new(name.as_c_str())?;
    fchdir(parent.get(dir))?;
    Ok(address)
}

/// What is left of the path beneath this preopened directory.
fn beneath<'a>(descriptor: &Descriptor, path: &'a [u8]) -> Option<&'a [u8]> {
    let Some(Preopen::Directory(name)) = &descriptor.preopen else { return None };
    match trim(name.to_bytes()) {
        b"" => Some(path),
        name => path.strip_prefix(name)?.strip_prefix(b"/"),
    }
    .filter(|it| !it.is_empty())
}

/// Without what means nothing in front and behind: there is one root, and it is the working directory.
fn trim(path: &[u8]) -> &[u8] {
    let mut path = path;
    loop {
        path = match path {
            [b'/', rest @ ..] | [b'.', b'/', rest @ ..] | [rest @ .., b'/'] => rest,
            b"." => b"",
            _ => return path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_means_something_is_left() {
        for (path, left) in
            [("/", ""), (".", ""), ("//run/x", "run/x"), ("./x/", "x"), ("../x", "../x"), (".x", ".x")]
        {
            assert_eq!(trim(path.as_bytes()), left.as_bytes());
        }
    }
}
