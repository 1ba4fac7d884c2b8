//! passwd(5), read as a file: a static program has no name service, and a container's users are in its own file.

use std::fs;

/// The home directory of a user, from /etc/passwd of the root we are in.
pub fn home(uid: u32) -> Option<String> {
    field(&fs::read_to_string("/etc/passwd").ok()?, uid, 5)
}

/// The name of a user, from /etc/passwd of the root we are in.
pub fn name(uid: u32) -> Option<String> {
    field(&fs::read_to_string("/etc/passwd").ok()?, uid, 0)
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
    use super::field;

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
