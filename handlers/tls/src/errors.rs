//! The numbers that `rustls_client` has for errors: those of rustls in the year of the plugin, in their order.
//!
//! rustls has since sorted some of them anew. What was one kind and is several now has the old number; what did not
//! exist has the one for everything else.

use std::io;

use rustls::{CertificateError, Error, InvalidMessage};

/// What went wrong with a codec.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A number that is no configuration or codec, or a name that is none.
    #[error("no such codec, configuration or server name")]
    Parameter,
    /// There are no certificates to trust.
    #[error("nobody is trusted")]
    Untrusting,
    /// TLS's own.
    #[error(transparent)]
    Tls(#[from] Error),
    /// There is nothing yet, or the connection was cut off.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl TlsError {
    /// The number that the guest gets, below zero.
    #[must_use]
    pub fn number(&self) -> i32 {
        match self {
            Self::Parameter => -1,
            // It did not happen to a plugin that brought its own: the one for everything else.
            Self::Untrusting => -18,
            Self::Tls(error) => number(error),
            Self::Io(error) if error.kind() == io::ErrorKind::WouldBlock => -25,
            Self::Io(_) => -26,
        }
    }
}

fn number(error: &Error) -> i32 {
    match error {
        Error::InappropriateMessage { .. } => -2,
        Error::InappropriateHandshakeMessage { .. } => -3,
        // A record that is none, against one with contents that make no sense.
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType
            | InvalidMessage::InvalidEmptyPayload
            | InvalidMessage::MessageTooLarge
            | InvalidMessage::UnknownProtocolVersion,
        ) => -4,
        Error::InvalidMessage(_) => -5,
        Error::NoCertificatesPresented => -6,
        Error::UnsupportedNameType => -7,
        Error::DecryptError => -8,
        Error::EncryptError => -9,
        Error::PeerIncompatible(_) => -10,
        Error::PeerMisbehaved(_) => -11,
        Error::AlertReceived(_) => -12,
        Error::InvalidCertificate(error) => certificate(error),
        // -17 was for signed certificate timestamps, which are not checked any more.
        Error::FailedToGetCurrentTime => -19,
        Error::FailedToGetRandomBytes => -20,
        Error::HandshakeNotComplete => -21,
        Error::PeerSentOversizedRecord => -22,
        Error::NoApplicationProtocol => -23,
        Error::BadMaxFragmentSize => -24,
        _ => -18,
    }
}

fn certificate(error: &CertificateError) -> i32 {
    match error {
        CertificateError::BadEncoding => -13,
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => -14,
        CertificateError::BadSignature => -15,
        // Expired, of another name, of an unknown issuer: it was a text then.
        _ => -16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_plugin() {
        let tls = |error: Error| TlsError::from(error).number();
        assert_eq!(TlsError::Parameter.number(), -1);
        assert_eq!(tls(Error::InvalidMessage(InvalidMessage::InvalidContentType)), -4);
        assert_eq!(tls(Error::InvalidMessage(InvalidMessage::MissingData("x"))), -5);
        assert_eq!(tls(Error::NoCertificatesPresented), -6);
        assert_eq!(tls(Error::DecryptError), -8);
        assert_eq!(tls(Error::InvalidCertificate(CertificateError::BadEncoding)), -13);
        assert_eq!(tls(Error::InvalidCertificate(CertificateError::BadSignature)), -15);
        assert_eq!(tls(Error::InvalidCertificate(CertificateError::UnknownIssuer)), -16);
        assert_eq!(tls(Error::General(String::new())), -18);
        assert_eq!(tls(Error::BadMaxFragmentSize), -24);
        let io = |kind: io::ErrorKind| TlsError::from(io::Error::from(kind)).number();
        assert_eq!((io(io::ErrorKind::WouldBlock), io(io::ErrorKind::UnexpectedEof)), (-25, -26));
    }
}
