//! What the handler has to say for itself, which is little.

/// Writes to standard error, if there is one.
pub fn print(text: &str) {
    let stderr = rustix::stdio::stderr();
    let mut rest = text.as_bytes();
    while let Ok(done @ 1..) = rustix::io::retry_on_intr(|| rustix::io::write(stderr, rest)) {
        rest = &rest[done..];
    }
}
