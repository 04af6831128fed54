//! A key with its certificate and CA, in memory and as one file.
//!
//! One file, because key and certificate belong together: replacing it is atomic, so no crash can
//! leave a key beside somebody else's certificate.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::file::{create_directory, write_private};
use crate::fingerprint::Fingerprint;
use crate::identity::{Identity, IdentityError};

/// How often a listener looks whether its file was replaced, at most.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("cannot use {}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("the PEM text lacks a key or a certificate, or is damaged")]
    Pem(#[source] rustls_pki_types::pem::Error),
    #[error("the CA's certificate is missing")]
    NoCa,
    #[error("the key does not belong to the certificate, or is of an unknown kind")]
    Key(#[source] rustls::Error),
    #[error("the certificate is not from the CA beside it")]
    ForeignCa(#[source] rustls::Error),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("cannot make a key or a request")]
    Generate(#[from] rcgen::Error),
}

/// Who we are, proved: identity, key, certificate, CA.
#[derive(Debug, Clone)]
pub struct Credentials {
    pem: String,
    identity: Identity,
    ca: CertificateDer<'static>,
    key: Arc<CertifiedKey>,
}

impl Credentials {
    /// Puts the parts together.
    ///
    /// # Errors
    /// They do not belong together.
    pub fn from_pem(key: &str, certificate: &str, ca: &str) -> Result<Self, CredentialsError> {
        Self::parse(format!("{}\n{}\n{}\n", key.trim(), certificate.trim(), ca.trim()))
    }

    /// # Errors
    /// The file cannot be read, or its parts do not belong together.
    pub fn load(path: &Path) -> Result<Self, CredentialsError> {
        let pem = std::fs::read_to_string(path)
            .map_err(|source| CredentialsError::File { path: path.to_owned(), source })?;
        Self::parse(pem)
    }

    /// Writes the file (0600), replacing what is there atomically. Its directory is made if need be.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), CredentialsError> {
        let save = || {
            path.parent().map_or(Ok(()), create_directory)?;
            write_private(path, &self.pem)
        };
        save().map_err(|source| CredentialsError::File { path: path.to_owned(), source })
    }

    pub fn identity(&self) -> Identity {
        self.identity
    }

    pub fn ca_fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.ca)
    }

    /// When the certificate ends.
    pub fn expires_at(&self) -> SystemTime {
        let seconds = X509Certificate::from_der(&self.key.cert[0])
            .map_or(0, |(_, certificate)| certificate.validity().not_after.timestamp());
        UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }

    /// Whether the certificate names all these addresses.
    pub fn covers(&self, addresses: &[String]) -> bool {
        let names = alternative_names(&self.key.cert[0]);
        addresses.iter().all(|address| names.contains(address))
    }

    pub(crate) fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    fn parse(pem: String) -> Result<Self, CredentialsError> {
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(CredentialsError::Pem)?;
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(CredentialsError::Pem)?;
        let ca = match chain.as_slice() {
            [_, .., ca] => ca.clone(),
            _ => return Err(CredentialsError::NoCa),
        };
        let identity = Identity::of(&chain[0])?;
        crate::verifier::chain_is_from(&ca, &chain[0]).map_err(CredentialsError::ForeignCa)?;
        Ok(Self { pem, identity, ca, key: certified(chain, key)? })
    }
}

/// A new key, and the request for its certificate that is sent to the CA.
pub struct KeyRequest {
    key: KeyPair,
    request: String,
}

impl KeyRequest {
    /// Reads randomness.
    ///
    /// # Errors
    /// There is none.
    pub fn generate() -> Result<Self, CredentialsError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let request = CertificateParams::default().serialize_request(&key)?.pem()?;
        Ok(Self { key, request })
    }

    /// PKCS#10, PEM. It names nobody: the CA decides who its sender is.
    pub fn request(&self) -> &str {
        &self.request
    }

    /// The credentials, with the certificate that the CA answered.
    ///
    /// # Errors
    /// The certificate is for another key, or not from this CA.
    pub fn complete(self, certificate: &str, ca: &str) -> Result<Credentials, CredentialsError> {
        Credentials::from_pem(&self.key.serialize_pem(), certificate, ca)
    }
}

impl std::fmt::Debug for KeyRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyRequest")
    }
}

/// Credentials in a file, for listeners and clients that live long: a replaced file is used for the
/// next connection. A file that is damaged or gone is ignored, and the last good one used.
#[derive(Debug, Clone)]
pub struct CredentialFile {
    source: Arc<Source>,
    /// As of opening. The CA and the identity do not change while the process runs.
    first: Option<Credentials>,
}

#[derive(Debug)]
struct Source {
    certificate: PathBuf,
    /// In a file of its own: the certificate was given by the operator.
    key: Option<PathBuf>,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    key: Arc<CertifiedKey>,
    modified: Option<SystemTime>,
    looked: Instant,
}

impl CredentialFile {
    /// Opens a file that [`Credentials::save`] wrote.
    ///
    /// # Errors
    /// See [`Credentials::load`].
    pub fn open(path: &Path) -> Result<Self, CredentialsError> {
        let modified = modified(path);
        let credentials = Credentials::load(path)?;
        let source = Source::new(path.to_owned(), None, credentials.key.clone(), modified);
        Ok(Self { source: Arc::new(source), first: Some(credentials) })
    }

    /// A certificate (with its chain) and key that the operator brings, for the public API only: it
    /// has no identity of ours.
    ///
    /// # Errors
    /// A file cannot be read, or the key is not the certificate's.
    pub fn open_pair(certificate: &Path, key: &Path) -> Result<Self, CredentialsError> {
        let modified = modified(certificate);
        let loaded = load_pair(certificate, key)?;
        let source = Source::new(certificate.to_owned(), Some(key.to_owned()), loaded, modified);
        Ok(Self { source: Arc::new(source), first: None })
    }

    /// What stood in the file when it was opened; `None` for an operator's own certificate.
    pub fn credentials(&self) -> Option<&Credentials> {
        self.first.as_ref()
    }

    pub(crate) fn resolver(&self) -> Arc<Resolver> {
        Arc::new(Resolver(self.source.clone()))
    }
}

impl Source {
    fn new(
        certificate: PathBuf,
        key: Option<PathBuf>,
        loaded: Arc<CertifiedKey>,
        modified: Option<SystemTime>,
    ) -> Self {
        let current = Current { key: loaded, modified, looked: Instant::now() };
        Self { certificate, key, current: Mutex::new(current) }
    }

    /// The newest good key. Costs a `stat` every few seconds.
    fn current(&self) -> Arc<CertifiedKey> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked.elapsed() >= LOOK_AGAIN {
            current.looked = Instant::now();
            let modified = modified(&self.certificate);
            if modified.is_some()
                && modified != current.modified
                && let Ok(key) = self.load()
            {
                current.key = key;
                current.modified = modified;
            }
        }
        current.key.clone()
    }

    fn load(&self) -> Result<Arc<CertifiedKey>, CredentialsError> {
        match &self.key {
            Some(key) => load_pair(&self.certificate, key),
            None => Credentials::load(&self.certificate).map(|credentials| credentials.key),
        }
    }
}

/// Gives rustls the key for each new connection.
#[derive(Debug)]
pub(crate) struct Resolver(Arc<Source>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current())
    }
}

impl ResolvesClientCert for Resolver {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current())
    }
    fn has_certs(&self) -> bool {
        true
    }
}

fn load_pair(certificate: &Path, key: &Path) -> Result<Arc<CertifiedKey>, CredentialsError> {
    let read = |path: &Path| {
        std::fs::read(path)
            .map_err(|source| CredentialsError::File { path: path.to_owned(), source })
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&read(certificate)?)
        .collect::<Result<_, _>>()
        .map_err(CredentialsError::Pem)?;
    let key = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(CredentialsError::Pem)?;
    certified(chain, key)
}

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<CertifiedKey>, CredentialsError> {
    CertifiedKey::from_der(chain, key, &crate::tls::provider())
        .map(Arc::new)
        .map_err(CredentialsError::Key)
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

fn alternative_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => address(bytes),
        _ => None,
    };
    names.value.general_names.iter().filter_map(text).collect()
}

fn address(bytes: &[u8]) -> Option<String> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(std::net::Ipv4Addr::from(v4).to_string());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| std::net::Ipv6Addr::from(v6).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ca;

    #[test]
    fn a_replaced_file_is_used_and_a_damaged_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::create_or_open(&dir.path().join("ca")).unwrap();
        let path = dir.path().join("server.pem");
        let file = ca.ensure_server(&path, &[]).unwrap();
        let now = || {
            std::thread::sleep(Duration::from_millis(20));
            let long_ago = Instant::now().checked_sub(LOOK_AGAIN).unwrap();
            file.source.current.lock().unwrap().looked = long_ago;
            file.source.current().cert[0].clone()
        };
        let first = now();
        assert_eq!(now(), first);
        ca.issue_server(&["localhost".to_owned()]).unwrap().save(&path).unwrap();
        let second = now();
        assert_ne!(second, first);
        std::fs::write(&path, "garbage").unwrap();
        assert_eq!(now(), second);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(now(), second);
    }
}
