//! Certificate authorities and servers' certificates for tests, here and elsewhere (feature `testing`).

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
pub use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};

/// A certificate authority that nobody else has.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// One with a name and a key of its own.
    ///
    /// # Errors
    /// The cryptography does not work.
    pub fn new() -> Result<Self, rcgen::Error> {
        // One of the same name with another key would be one whose signature is wrong.
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let name = format!("Authority {}", NEXT.fetch_add(1, Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    /// Its certificate.
    #[must_use]
    pub fn der(&self) -> &CertificateDer<'static> {
        self.0.der()
    }

    /// Its certificate, as it stands in a bundle.
    #[must_use]
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A server of these names and addresses, with a certificate that is good until the beginning of a year.
    ///
    /// # Errors
    /// One is no name.
    pub fn server(
        &self,
        names: &[&str],
        until: i32,
    ) -> Result<Arc<ServerConfig>, Box<dyn Error + Send + Sync>> {
        let key = KeyPair::generate()?;
        let names: Vec<_> = names.iter().map(|&it| it.to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params.not_after = date_time_ymd(until, 1, 1);
        let certificate = params.signed_by(&key, &self.0)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions()?.with_no_client_auth();
        Ok(Arc::new(config.with_single_cert(vec![certificate.der().clone()], key)?))
    }
}
