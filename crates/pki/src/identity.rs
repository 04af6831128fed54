//! Who a certificate's holder is: the one URI of ours among its subject alternative names.

use std::fmt;
use std::str::FromStr;

use hostler_types::HostId;
use rustls::CommonState;
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

const PREFIX: &str = "urn:hostler:";

/// Who the holder of a certificate is. What it may do follows from this alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Identity {
    /// `urn:hostler:server`
    Server,
    /// `urn:hostler:host:<uuid>`
    Host(HostId),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("the peer presented no certificate")]
    NoCertificate,
    #[error("the certificate cannot be read")]
    Malformed,
    #[error("the certificate carries no Hostler identity")]
    Missing,
    #[error("the certificate carries several Hostler identities")]
    Ambiguous,
    #[error("`{0}` is not a Hostler identity")]
    Unknown(String),
}

impl Identity {
    /// Reads the identity from a certificate. Says nothing about whether to trust it.
    ///
    /// # Errors
    /// It carries none, or more than one: then nobody could say which counts.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let (_, certificate) =
            X509Certificate::from_der(certificate).map_err(|_| IdentityError::Malformed)?;
        let names = certificate
            .subject_alternative_name()
            .map_err(|_| IdentityError::Malformed)?
            .ok_or(IdentityError::Missing)?;
        let mut ours = names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) if uri.starts_with(PREFIX) => Some(*uri),
            _ => None,
        });
        let uri = ours.next().ok_or(IdentityError::Missing)?;
        match ours.next() {
            Some(_) => Err(IdentityError::Ambiguous),
            None => uri.parse(),
        }
    }
}

/// The identity of an established connection's peer, whose certificate rustls has verified.
///
/// # Errors
/// See [`Identity::of`]; and no certificate was asked for or presented.
pub fn peer_identity(connection: &CommonState) -> Result<Identity, IdentityError> {
    let certificates = connection.peer_certificates().unwrap_or_default();
    Identity::of(certificates.first().ok_or(IdentityError::NoCertificate)?)
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server => write!(f, "{PREFIX}server"),
            Self::Host(host) => write!(f, "{PREFIX}host:{host}"),
        }
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let unknown = || IdentityError::Unknown(text.escape_debug().to_string());
        let identity = match text.strip_prefix(PREFIX).ok_or_else(unknown)? {
            "server" => Self::Server,
            rest => {
                let host = rest.strip_prefix("host:").ok_or_else(unknown)?;
                Self::Host(host.parse().map_err(|_| unknown())?)
            }
        };
        // One identity has one spelling: uuids can be written in several ways.
        if identity.to_string() == text { Ok(identity) } else { Err(unknown()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_has_one_spelling() {
        let host = HostId::generate();
        for identity in [Identity::Server, Identity::Host(host)] {
            assert_eq!(identity.to_string().parse(), Ok(identity));
        }
        let upper = format!("urn:hostler:host:{}", host.to_string().to_uppercase());
        let braces = format!("urn:hostler:host:{{{host}}}");
        for bad in ["", "urn:hostler:", "urn:hostler:servers", "urn:hostler:host:", &upper, &braces]
        {
            assert!(bad.parse::<Identity>().is_err(), "{bad}");
        }
    }
}
