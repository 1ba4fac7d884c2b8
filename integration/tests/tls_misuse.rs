//! The host modules `rustls_client` and `wasmedge_httpsreq`, used wrongly by a guest: a number or the guest's end, and
//! nothing worse.

use std::fs;

use anyhow::Result;
use coracle_integration::{Container, Host, c};
use coracle_tls::authority::Authority;

fn guest<'h>(host: &'h Host, case: &str) -> Result<Container<'h>> {
    let container = host.empty_container(&["/tls.wasm", case])?;
    container.install(&c("tls")?, "tls.wasm")?;
    Ok(container)
}

/// With somebody to trust, and names that are not asked about anywhere.
fn trusting<'h>(host: &'h Host, case: &str) -> Result<Container<'h>> {
    let container = guest(host, case)?;
    let certificates = container.rootfs().join("etc/ssl/certs");
    fs::create_dir_all(&certificates)?;
    fs::write(certificates.join("ca-certificates.crt"), Authority::new()?.pem())?;
    fs::write(container.rootfs().join("etc/hosts"), "127.0.0.1 localhost\n")?;
    Ok(container)
}

#[test]
fn rustls_client_answers_with_numbers() -> Result<()> {
    let host = Host::new()?;
    trusting(&host, "rustls")?.run()?.ok()?.prints("ok")?;
    host.is_clean()
}

#[test]
fn httpsreq_ends_the_guest() -> Result<()> {
    let host = Host::new()?;
    for (case, reason) in [
        ("host", "out of bounds memory access"),
        ("host-length", "out of bounds memory access"),
        ("body", "out of bounds memory access"),
        ("body-length", "out of bounds memory access"),
        ("reply", "out of bounds memory access"),
        ("port", "65536 is no port"),
        ("negative-port", "4294967295 is no port"),
        ("name", "\"a b\" is no host name"),
        ("no-name", "\"\" is no host name"),
        ("bytes", "\"\u{fffd}\u{fffd}\" is no host name"),
        ("unknown", "nobody.invalid: "),
    ] {
        let ended = trusting(&host, case)?.run()?.exits(134)?.prints("before")?;
        ended.fails_with(&format!("wasm trap: wasmedge_httpsreq: {reason}"))?;
    }
    trusting(&host, "nothing")?.run()?.ok()?.prints("ok")?;
    // Memory is looked at first, then whom to trust.
    guest(&host, "host")?.run()?.exits(134)?.fails_with("out of bounds")?;
    guest(&host, "name")?.run()?.exits(134)?.fails_with("no CA certificates")?;
    host.is_clean()
}
