//! passwd(5), read as a file: a static program has no name service, and a container's users are in its own file.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

/// More than this is not read: an image decides what its file is.
const LONGEST: u64 = 16 << 20;

/// The home directory of a user, from /etc/passwd of the root we are in.
pub fn home(uid: u32) -> Option<String> {
    field(&read("/etc/passwd")?, uid, 5)
}

/// The name of a user, from /etc/passwd of the root we are in.
pub fn name(uid: u32) -> Option<String> {
    field(&read("/etc/passwd")?, uid, 0)
}

/// Reads a file, and nothing that one would wait for.
fn read(path: &str) -> Option<String> {
    if !fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let file =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path).ok()?;
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).ok()?;
    Some(text)
}

fn field(passwd: &str, uid: u32, index: usize) -> Option<String> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let found = fields.get(2)?.parse::<u32>().ok()? == uid;
        found.then(|| fields.get(index).filter(|f| !f.is_empty()).map(|f| (*f).to_owned()))?
    })
}

#[cfg(test)]
mod tests {
    use super::{field, read};

    #[test]
    fn only_files_are_read() {
        assert!(read("/etc/passwd").is_some_and(|text| text.contains("root:")));
        assert_eq!((read("/dev/zero"), read("/dev")), (None, None));
    }

    #[test]
    fn users_are_found_by_their_number() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:33::/var/www:/bin/false\nx:x:34:34:::\n";
        assert_eq!(field(passwd, 33, 5).as_deref(), Some("/var/www"));
        assert_eq!(field(passwd, 0, 0).as_deref(), Some("root"));
        assert_eq!(field(passwd, 34, 5), None);
        assert_eq!(field(passwd, 1000, 5), None);
    }
}
