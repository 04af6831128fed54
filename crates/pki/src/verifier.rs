//! How a TLS client decides whether to trust the server it reached.
//!
//! All verifiers build on webpki for the chain, the validity and the usage; they differ in where
//! the trust comes from, and in *what is compared instead of the host name*: an identity.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::CryptoProvider;
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::fingerprint::Fingerprint;
use crate::identity::Identity;

/// Where the trust comes from.
#[derive(Debug)]
pub(crate) enum Trust {
    /// This CA.
    Roots(Arc<RootCertStore>),
    /// The CA with this fingerprint, which the peer itself presents.
    Pinned(Fingerprint),
}

/// Trusts a certificate from our CA if its identity is exactly the expected one. The address that
/// was dialled plays no part: addresses change, and another host's certificate may name it.
#[derive(Debug)]
pub(crate) struct IdentityVerifier {
    pub(crate) trust: Trust,
    pub(crate) expected: Identity,
    pub(crate) provider: Arc<CryptoProvider>,
}

#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the peer is {found}, not {expected}")]
    WrongIdentity { expected: Identity, found: Identity },
    #[error("the peer's certificate has no usable identity: {0}")]
    NoIdentity(crate::identity::IdentityError),
    #[error("the peer does not present the CA with the fingerprint {0}")]
    WrongCa(Fingerprint),
    #[error("the peer presents a host's certificate as the server's")]
    HostAsServer,
}

impl Refusal {
    fn into_error(self) -> Error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(self))))
    }
}

impl ServerCertVerifier for IdentityVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let roots = match &self.trust {
            Trust::Roots(roots) => roots.clone(),
            Trust::Pinned(pinned) => {
                let ca = intermediates.iter().find(|ca| Fingerprint::of(ca) == *pinned);
                Arc::new(roots(ca.ok_or_else(|| Refusal::WrongCa(*pinned).into_error())?)?)
            }
        };
        verify_chain(end_entity, intermediates, &roots, now, &self.provider)?;
        let found = Identity::of(end_entity).map_err(|e| Refusal::NoIdentity(e).into_error())?;
        if found != self.expected {
            return Err(Refusal::WrongIdentity { expected: self.expected, found }.into_error());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The usual checks of the web, against a CA file; and a host's certificate, which our CA signs
/// too, never passes as the server's.
#[derive(Debug)]
pub(crate) struct NameVerifier(pub(crate) Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for NameVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Ok(Identity::Host(_)) = Identity::of(end_entity) {
            return Err(Refusal::HostAsServer.into_error());
        }
        self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

pub(crate) fn roots(ca: &CertificateDer<'_>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone().into_owned())?;
    Ok(roots)
}

/// Whether `ca` signed `leaf`, whenever it was or will be valid.
pub(crate) fn chain_is_from(
    ca: &CertificateDer<'_>,
    leaf: &CertificateDer<'_>,
) -> Result<(), Error> {
    let provider = crate::tls::provider();
    match verify_chain(leaf, &[], &roots(ca)?, UnixTime::now(), &provider) {
        // A file that has expired is still the file that belongs here; TLS refuses it.
        Err(Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        )) => Ok(()),
        result => result,
    }
}

fn verify_chain(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &RootCertStore,
    now: UnixTime,
    provider: &CryptoProvider,
) -> Result<(), Error> {
    let leaf = ParsedCertificate::try_from(leaf)?;
    let algorithms = provider.signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&leaf, roots, intermediates, now, algorithms)
}
