//! The rustls configurations, one function per kind of link. None of them can be told not to
//! verify.

use std::sync::Arc;

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, Error, RootCertStore, ServerConfig};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use rustls_platform_verifier::BuilderVerifierExt;

use crate::credentials::{CredentialFile, CredentialsError};
use crate::fingerprint::Fingerprint;
use crate::identity::Identity;
use crate::verifier::{IdentityVerifier, NameVerifier, Trust, roots};

/// What a connection speaks that carries a guest from one agent to another.
pub const MIGRATION: &[u8] = b"hostler-migration/1";

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("an operator's own certificate cannot be used between server and agents")]
    NoIdentity,
    #[error("the CA file holds no usable certificate")]
    CaFile(#[source] Option<rustls_pki_types::pem::Error>),
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error("TLS cannot be set up")]
    Rustls(#[from] Error),
    #[error("TLS cannot be set up")]
    Verifier(#[from] rustls::client::VerifierBuilderError),
}

/// The cryptography that every configuration here uses.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The public API: anyone may connect, HTTP/2 or 1.1.
///
/// # Errors
/// None in practice: the provider supports the versions.
pub fn public_server(credentials: &CredentialFile) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(credentials.resolver());
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// An agent's listener: only peers with a certificate from our CA get through the handshake. Which
/// of them may ask for something is decided afterwards, by [`crate::peer_identity`].
///
/// # Errors
/// The credentials are an operator's own.
pub fn agent_server(credentials: &CredentialFile) -> Result<ServerConfig, TlsError> {
    let clients = WebPkiClientVerifier::builder_with_provider(our_ca(credentials)?, provider())
        .build()
        .map_err(|error| TlsError::Rustls(Error::General(error.to_string())))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(credentials.resolver());
    config.alpn_protocols = vec![b"h2".to_vec(), MIGRATION.to_vec()];
    // Each connection is verified anew: a resumed one would outlive a replaced certificate.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// The server's calls to an agent: shows our certificate, and accepts only `expected`.
///
/// # Errors
/// The credentials are an operator's own.
pub fn agent_client(
    credentials: &CredentialFile,
    expected: Identity,
) -> Result<ClientConfig, TlsError> {
    let verifier = IdentityVerifier {
        trust: Trust::Roots(our_ca(credentials)?),
        expected,
        provider: provider(),
    };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(credentials.resolver());
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// An agent's connection to another for a guest on its way: as [`agent_client`], but for bytes that
/// nobody reads but QEMU.
///
/// # Errors
/// The credentials are an operator's own.
pub fn migration_client(
    credentials: &CredentialFile,
    expected: Identity,
) -> Result<ClientConfig, TlsError> {
    let mut config = agent_client(credentials, expected)?;
    config.alpn_protocols = vec![MIGRATION.to_vec()];
    Ok(config)
}

/// A client that knows only the CA's fingerprint: a joining host, or a CLI that pinned it. The
/// server presents the CA; its identity, not its address, is what counts.
///
/// # Errors
/// None in practice: the provider supports the versions.
pub fn pinned_client(fingerprint: Fingerprint) -> Result<ClientConfig, TlsError> {
    let verifier = IdentityVerifier {
        trust: Trust::Pinned(fingerprint),
        expected: Identity::Server,
        provider: provider(),
    };
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(public_client(config))
}

/// A client that trusts the CAs of a PEM file, and checks the server's name.
///
/// # Errors
/// The text holds no certificate.
pub fn ca_file_client(pem: &str) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.map_err(|error| TlsError::CaFile(Some(error)))?)?;
    }
    if roots.is_empty() {
        return Err(TlsError::CaFile(None));
    }
    let webpki =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build()?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(NameVerifier(webpki)))
        .with_no_client_auth();
    Ok(public_client(config))
}

/// A client of the web: trusts what the operating system trusts.
///
/// # Errors
/// The system's certificates cannot be read.
pub fn web_client() -> Result<ClientConfig, TlsError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_platform_verifier()?
        .with_no_client_auth();
    Ok(public_client(config))
}

fn public_client(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

fn our_ca(credentials: &CredentialFile) -> Result<Arc<RootCertStore>, TlsError> {
    let credentials = credentials.credentials().ok_or(TlsError::NoIdentity)?;
    Ok(Arc::new(roots(credentials.ca())?))
}
