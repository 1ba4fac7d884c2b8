//! `/etc/hosts`, as hosts(5) has it.

use crate::{Error, Files, Host, address, read_or_none};

/// All addresses that the file has for a name. The first name of the first line is the canonical one.
pub(crate) fn find(files: &dyn Files, name: &str) -> Result<Option<Host>, Error> {
    let Some(text) = read_or_none(files, "/etc/hosts")? else { return Ok(None) };
    let mut found: Option<Host> = None;
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(address) = words.next() else { continue };
        let Some(canonical_name) = words.clone().next() else { continue };
        if !words.any(|it| it.eq_ignore_ascii_case(name)) {
            continue;
        }
        let Some(address) = address::parse(files, address) else { continue };
        let host = found.get_or_insert_with(|| Host {
            canonical_name: canonical_name.to_owned(),
            addresses: Vec::new(),
            is_numeric: false,
        });
        host.addresses.push(address);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look_up(text: &'static str, name: &str) -> Option<(String, Vec<String>)> {
        let host = find(&|_: &str| Ok(text.as_bytes().to_vec()), name).expect("readable")?;
        Some((host.canonical_name, host.addresses.iter().map(|it| it.ip().to_string()).collect()))
    }

    #[test]
    fn names_aliases_and_comments() {
        const TEXT: &str = "# a comment\n\
            127.0.0.1\tlocalhost\n\
            10.0.0.1 Web.example.com web www # alias\n\
            nonsense web\n\
            10.0.0.9\n\
            2001:db8::1 web\r\n\
            10.0.0.3 \u{fffd}";
        let one = |name: &str, addresses: &[&str]| {
            Some((name.to_owned(), addresses.iter().map(|it| (*it).to_owned()).collect()))
        };
        assert_eq!(look_up(TEXT, "WEB"), one("Web.example.com", &["10.0.0.1", "2001:db8::1"]));
        assert_eq!(look_up(TEXT, "www"), one("Web.example.com", &["10.0.0.1"]));
        assert_eq!(look_up(TEXT, "localhost"), one("localhost", &["127.0.0.1"]));
        assert_eq!(look_up(TEXT, "alias"), None);
        assert_eq!(look_up(TEXT, "10.0.0.1"), None);
    }
}
