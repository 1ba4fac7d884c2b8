//! What the modules [`rustls`](crate::rustls) and [`httpsreq`](crate::httpsreq) have between calls.

use std::{
    ffi::{CStr, OsStr},
    os::unix::ffi::OsStrExt,
    sync::Arc,
};

use coracle_tls::{ClientConfig, Codecs, trust};

use crate::files::Container;

/// A guest's connections over TLS. Certificates are read when the first is made.
#[derive(Debug, Default)]
pub struct Tls {
    config: Option<Arc<ClientConfig>>,
    /// Those of `rustls_client`; none before the first.
    pub codecs: Option<Codecs>,
    /// The last reply that `wasmedge_httpsreq` got.
    pub reply: Vec<u8>,
}

impl Tls {
    /// Whom a guest with this environment trusts.
    ///
    /// # Errors
    /// Nobody.
    pub fn config(&mut self, environment: &[&CStr]) -> Result<Arc<ClientConfig>, trust::Error> {
        if let Some(config) = &self.config {
            return Ok(config.clone());
        }
        let variable = |name: &str| {
            let mut all = environment.iter().map(|it| it.to_bytes());
            let value = all.find_map(|it| it.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
            Some(OsStr::from_bytes(value).to_owned())
        };
        let config = trust::config(variable, &Container)?;
        self.config = Some(config.clone());
        Ok(config)
    }
}
