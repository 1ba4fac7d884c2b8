//! The certificate authorities that a container trusts.
//!
//! `SSL_CERT_FILE` names a bundle and `SSL_CERT_DIR` directories, separated by colons; if one of them is set, nothing
//! else counts. Otherwise it is the first bundle in the places where distributions have it, or the directories where
//! they have single certificates.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};

/// Bundles of Debian and Alpine, Fedora, SUSE, older Red Hats, and what is left.
const BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Directories of single certificates.
const DIRECTORIES: [&str; 2] = ["/etc/ssl/certs", "/etc/pki/tls/certs"];

/// A directory of certificates has a few hundred names.
const MAX_NAMES: usize = 10_000;

/// How a container's files are read. Neither may block, or read without bounds.
pub trait Files {
    /// The contents of a regular file.
    ///
    /// # Errors
    /// The kernel's, or that the file is no such or too large.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// The names in a directory.
    ///
    /// # Errors
    /// The kernel's.
    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>>;
}

/// Why nobody can be trusted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing in the usual places.
    #[error(
        "the container has no CA certificates: neither SSL_CERT_FILE, SSL_CERT_DIR nor any of {}",
        BUNDLES.join(", ")
    )]
    None,
    /// What the variables name is not there or cannot be read.
    #[error("CA certificates {path:?}: {reason}")]
    Read {
        /// File or directory.
        path: PathBuf,
        /// What the kernel said.
        reason: io::Error,
    },
    /// There are files, but nothing in them.
    #[error("no CA certificate in {0:?}")]
    Empty(PathBuf),
    /// The cryptography does not work.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// What TLS clients of this container are configured with. `variable` is the container's environment.
///
/// # Errors
/// There are no certificates.
pub fn config(
    variable: impl Fn(&str) -> Option<OsString>,
    files: &impl Files,
) -> Result<Arc<ClientConfig>, Error> {
    let roots = roots(variable, files)?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn roots(variable: impl Fn(&str) -> Option<OsString>, files: &impl Files) -> Result<RootCertStore, Error> {
    let set = |name| variable(name).filter(|it| !it.is_empty());
    let (bundle, directories) = (set("SSL_CERT_FILE"), set("SSL_CERT_DIR"));
    let mut found = Found { store: RootCertStore::empty(), seen: BTreeSet::new() };
    if bundle.is_none() && directories.is_none() {
        // A bundle that is there but unusable is like none: the next may be a good one.
        if BUNDLES.iter().any(|it| found.file(files, Path::new(it)).is_ok())
            || DIRECTORIES.iter().any(|it| found.directory(files, Path::new(it)).is_ok())
        {
            return Ok(found.store);
        }
        return Err(Error::None);
    }
    if let Some(path) = bundle {
        found.file(files, Path::new(&path))?;
    }
    for path in directories.iter().flat_map(|it| it.as_bytes().split(|&it| it == b':')) {
        found.directory(files, Path::new(OsStr::from_bytes(path)))?;
    }
    Ok(found.store)
}

struct Found {
    store: RootCertStore,
    /// A directory has the same certificate under several names.
    seen: BTreeSet<Vec<u8>>,
}

impl Found {
    fn file(&mut self, files: &impl Files, path: &Path) -> Result<(), Error> {
        let read = |reason| Error::Read { path: path.to_owned(), reason };
        self.take(&files.read(path).map_err(read)?, path)
    }

    /// Files that are no certificates are none of an error: a README, a private key.
    fn directory(&mut self, files: &impl Files, path: &Path) -> Result<(), Error> {
        let read = |reason| Error::Read { path: path.to_owned(), reason };
        let mut any = false;
        for name in files.list(path).map_err(read)?.into_iter().take(MAX_NAMES) {
            any |= self.file(files, &path.join(name)).is_ok();
        }
        if any { Ok(()) } else { Err(Error::Empty(path.to_owned())) }
    }

    /// What a bundle has besides certificates, and certificates that cannot be understood, are left out: a bundle may
    /// have some of a kind that is not known here.
    fn take(&mut self, bundle: &[u8], path: &Path) -> Result<(), Error> {
        let mut any = false;
        for certificate in CertificateDer::pem_slice_iter(bundle).flatten() {
            any |= self.seen.contains(certificate.as_ref())
                || self.store.add(certificate.clone()).is_ok() && self.seen.insert(certificate.to_vec());
        }
        if any { Ok(()) } else { Err(Error::Empty(path.to_owned())) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::testing::Authority;

    /// Files by their paths.
    struct Tree(HashMap<PathBuf, Vec<u8>>);

    impl Tree {
        fn new<const N: usize>(files: [(&str, &str); N]) -> Self {
            Self(files.map(|(path, text)| (path.into(), text.into())).into())
        }
    }

    impl Files for Tree {
        fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
            self.0.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
        }

        fn list(&self, directory: &Path) -> io::Result<Vec<OsString>> {
            let inside = self.0.keys().filter(|it| it.parent() == Some(directory));
            let names: Vec<_> = inside.filter_map(|it| Some(it.file_name()?.to_owned())).collect();
            if names.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(names) }
        }
    }

    /// How many authorities are trusted, or why none.
    fn trusted(variables: &[(&str, &str)], tree: &Tree) -> Result<usize, String> {
        let variable = |name: &str| variables.iter().find(|it| it.0 == name).map(|it| OsString::from(it.1));
        roots(variable, tree).map(|it| it.len()).map_err(|it| it.to_string())
    }

    #[test]
    fn the_first_bundle_of_the_usual_places_counts() {
        let [a, b, c] = [(); 3].map(|()| Authority::new().unwrap().pem());
        let text = format!("# two\n{a}\nnoise\n{b}");
        let tree = Tree::new([("/etc/ssl/cert.pem", &c), ("/etc/pki/tls/certs/ca-bundle.crt", &text)]);
        assert_eq!(trusted(&[], &tree), Ok(2));
        assert_eq!(trusted(&[("SSL_CERT_FILE", "")], &tree), Ok(2));
    }

    #[test]
    fn a_useless_bundle_is_passed_over() {
        let pem = Authority::new().unwrap().pem();
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let tree = Tree::new([("/etc/ssl/certs/ca-certificates.crt", broken), ("/etc/ssl/cert.pem", &pem)]);
        assert_eq!(trusted(&[], &tree), Ok(1));
        let half = &pem[..pem.len() / 2];
        assert!(trusted(&[], &Tree::new([("/etc/ssl/cert.pem", half)])).is_err());
    }

    #[test]
    fn a_directory_counts_when_there_is_no_bundle() {
        let pem = Authority::new().unwrap().pem();
        let tree = Tree::new([
            ("/etc/ssl/certs/0a1b2c3d.0", &pem),
            ("/etc/ssl/certs/Root.pem", &pem),
            ("/etc/ssl/certs/README", "no certificate"),
        ]);
        assert_eq!(trusted(&[], &tree), Ok(1));
    }

    #[test]
    fn what_the_variables_name_counts_alone() {
        let [a, b, c] = [(); 3].map(|()| Authority::new().unwrap().pem());
        let tree =
            Tree::new([("/etc/ssl/cert.pem", &a), ("/own.pem", &b), ("/x/1.pem", &b), ("/y/2.pem", &c)]);
        assert_eq!(trusted(&[("SSL_CERT_FILE", "/own.pem")], &tree), Ok(1));
        assert_eq!(trusted(&[("SSL_CERT_DIR", "/x:/y")], &tree), Ok(2));
        let both = [("SSL_CERT_FILE", "/own.pem"), ("SSL_CERT_DIR", "/x")];
        assert_eq!(trusted(&both, &tree), Ok(1));
        let missing = trusted(&[("SSL_CERT_FILE", "/missing.pem")], &tree).expect_err("no such file");
        assert!(missing.contains("/missing.pem"), "{missing}");
        assert!(trusted(&[("SSL_CERT_DIR", "/x:/nowhere")], &tree).is_err());
    }

    #[test]
    fn nothing_is_trusted_for_want_of_certificates() {
        let none = trusted(&[], &Tree::new([])).expect_err("no certificates");
        assert!(none.contains("no CA certificates"), "{none}");
        let empty = Tree::new([("/own.pem", "")]);
        let empty = trusted(&[("SSL_CERT_FILE", "/own.pem")], &empty).expect_err("no certificates");
        assert!(empty.contains("no CA certificate in \"/own.pem\""), "{empty}");
    }
}
