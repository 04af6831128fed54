//! The built-in certificate authority. The server owns it; its key never leaves `<dir>/ca.key`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hostler_types::HostId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sha2::Digest;
use time::OffsetDateTime;

use crate::credentials::{CredentialFile, Credentials, CredentialsError};
use crate::file::{private_directory, write_private};
use crate::fingerprint::{Fingerprint, to_hex};
use crate::identity::Identity;

const DAY: Duration = Duration::from_secs(24 * 3600);
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const LEAF_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// Certificates are valid from a day ago, because hosts' clocks differ.
const BACKDATE: Duration = DAY;
/// A certificate is renewed when less than this is left.
const RENEW_BEFORE: Duration = Duration::from_secs(120 * 24 * 3600);

/// The authority that says who is server and who is which host.
pub struct Ca {
    pem: String,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error("cannot use {}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{} is there, but not its key {}", certificate.display(), key.display())]
    KeyMissing { certificate: PathBuf, key: PathBuf },
    #[error("{} is damaged", path.display())]
    Damaged { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the certificate request is not acceptable")]
    Request(#[source] rcgen::Error),
    #[error("`{0}` is neither an address nor a DNS name")]
    Address(String),
    #[error("cannot make a certificate")]
    Issue(#[from] rcgen::Error),
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

impl Ca {
    /// Opens the CA in `dir`, and makes it there if there is none. A creation that was interrupted
    /// at any instant is finished by the next call.
    ///
    /// # Errors
    /// The files cannot be read or written, or the key of an existing CA is missing: a new one
    /// would lock every host out, so that is for a person to decide.
    pub fn create_or_open(dir: &Path) -> Result<Self, CaError> {
        private_directory(dir).map_err(|source| CaError::File { path: dir.to_owned(), source })?;
        let (key_path, path) = (dir.join("ca.key"), dir.join("ca.pem"));
        match (read(&path)?, read(&key_path)?) {
            (Some(pem), Some(key)) => Self::open(pem, parse_key(&key_path, &key)?, &path),
            (Some(_), None) => Err(CaError::KeyMissing { certificate: path, key: key_path }),
            // The key is written first: a key without a certificate was never used.
            (None, Some(key)) => Self::create(&path, parse_key(&key_path, &key)?),
            (None, None) => {
                let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
                write(&key_path, &key.serialize_pem())?;
                Self::create(&path, key)
            }
        }
    }

    /// By which joining hosts and pinned clients recognise it.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// Its certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The server's credentials in `path`: used as they are if they are fresh, for these addresses
    /// and from this CA, else issued anew. Call it at start and daily; running listeners pick the
    /// new file up.
    ///
    /// # Errors
    /// An address is neither IP address nor DNS name, or the file cannot be written.
    pub fn ensure_server(
        &self,
        path: &Path,
        addresses: &[String],
    ) -> Result<CredentialFile, CaError> {
        if let Ok(current) = Credentials::load(path)
            && current.identity() == Identity::Server
            && current.ca_fingerprint() == self.fingerprint()
            && current.covers(addresses)
            && current.expires_at() > SystemTime::now() + RENEW_BEFORE
        {
            return Ok(CredentialFile::open(path)?);
        }
        self.issue_server(addresses)?.save(path)?;
        Ok(CredentialFile::open(path)?)
    }

    /// A new key and certificate for the server.
    ///
    /// # Errors
    /// An address is neither IP address nor DNS name.
    pub fn issue_server(&self, addresses: &[String]) -> Result<Credentials, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let params = leaf(Identity::Server, addresses, LEAF_LIFE)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Credentials::from_pem(&key.serialize_pem(), &certificate.pem(), &self.pem)?)
    }

    /// A host's certificate, PEM. Of the request only the public key is taken, and that it is
    /// signed by that key: names are ours to give.
    ///
    /// # Errors
    /// The request is malformed or its signature wrong; an address is none.
    pub fn issue_host(
        &self,
        host: HostId,
        addresses: &[String],
        request: &str,
    ) -> Result<String, CaError> {
        self.issue_host_for(host, addresses, request, LEAF_LIFE)
    }

    /// As [`Ca::issue_host`], with another life; for tests of expiry.
    #[doc(hidden)]
    pub fn issue_host_for(
        &self,
        host: HostId,
        addresses: &[String],
        request: &str,
        life: Duration,
    ) -> Result<String, CaError> {
        let request =
            CertificateSigningRequestParams::from_pem(request).map_err(CaError::Request)?;
        let params = leaf(Identity::Host(host), addresses, life)?;
        Ok(params.signed_by(&request.public_key, &self.issuer)?.pem())
    }

    fn create(path: &Path, key: KeyPair) -> Result<Self, CaError> {
        let mut params = CertificateParams::default();
        // A name of its own for each CA, so that a chain from another one fails as what it is.
        let digest = sha2::Sha256::digest(key.public_key_raw());
        let name = format!("Hostler CA {}", to_hex(&digest[..4]));
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        valid_for(&mut params, CA_LIFE);
        let pem = params.self_signed(&key)?.pem();
        write(path, &pem)?;
        Self::open(pem, key, path)
    }

    fn open(pem: String, key: KeyPair, path: &Path) -> Result<Self, CaError> {
        let certificate =
            CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| damaged(path, error))?;
        let issuer = Issuer::from_ca_cert_pem(&pem, key).map_err(|error| damaged(path, error))?;
        Ok(Self { pem, certificate, issuer })
    }
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ca({})", self.fingerprint())
    }
}

fn leaf(
    identity: Identity,
    addresses: &[String],
    life: Duration,
) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    for address in addresses {
        params.subject_alt_names.push(alternative_name(address)?);
    }
    let uri = identity.to_string().try_into()?;
    params.subject_alt_names.push(SanType::URI(uri));
    params.distinguished_name = rcgen::DistinguishedName::new();
    let name = match identity {
        Identity::Server => "Hostler server".to_owned(),
        Identity::Host(host) => format!("Hostler host {host}"),
    };
    params.distinguished_name.push(DnType::CommonName, name);
    // QEMU's migration TLS refuses a certificate that lacks either of the two.
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let mut serial = [0; 16];
    crate::tls::provider()
        .secure_random
        .fill(&mut serial)
        .map_err(|_| rcgen::Error::RemoteKeyError)?;
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    valid_for(&mut params, life);
    Ok(params)
}

fn alternative_name(address: &str) -> Result<SanType, CaError> {
    if let Ok(ip) = address.parse() {
        return Ok(SanType::IpAddress(ip));
    }
    let wrong = || CaError::Address(address.escape_debug().to_string());
    rustls_pki_types::DnsName::try_from(address).map_err(|_| wrong())?;
    Ok(SanType::DnsName(address.try_into().map_err(|_| wrong())?))
}

fn valid_for(params: &mut CertificateParams, life: Duration) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BACKDATE;
    params.not_after = now + life;
}

fn read(path: &Path) -> Result<Option<String>, CaError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CaError::File { path: path.to_owned(), source }),
    }
}

fn write(path: &Path, text: &str) -> Result<(), CaError> {
    write_private(path, text).map_err(|source| CaError::File { path: path.to_owned(), source })
}

fn parse_key(path: &Path, pem: &str) -> Result<KeyPair, CaError> {
    KeyPair::from_pem(pem).map_err(|error| damaged(path, error))
}

fn damaged(path: &Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> CaError {
    CaError::Damaged { path: path.to_owned(), source: error.into() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_ca_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("ca");
        let fingerprint = Ca::create_or_open(&dir).unwrap().fingerprint();
        assert_eq!(Ca::create_or_open(&dir).unwrap().fingerprint(), fingerprint);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&dir.join("ca.key"))), (0o700, 0o600));
    }

    #[test]
    fn an_interrupted_creation_is_finished() {
        let dir = tempfile::tempdir().unwrap();
        Ca::create_or_open(dir.path()).unwrap();
        let key = std::fs::read(dir.path().join("ca.key")).unwrap();
        std::fs::remove_file(dir.path().join("ca.pem")).unwrap();
        Ca::create_or_open(dir.path()).unwrap();
        assert_eq!(std::fs::read(dir.path().join("ca.key")).unwrap(), key);
    }

    #[test]
    fn a_lost_key_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        Ca::create_or_open(dir.path()).unwrap();
        std::fs::remove_file(dir.path().join("ca.key")).unwrap();
        let error = Ca::create_or_open(dir.path()).unwrap_err();
        assert!(matches!(error, CaError::KeyMissing { .. }), "{error}");
    }

    #[test]
    fn the_servers_certificate_is_renewed_when_it_must() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::create_or_open(&dir.path().join("ca")).unwrap();
        let path = dir.path().join("server.pem");
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let pem = |addresses: &[&str]| {
            ca.ensure_server(&path, &names(addresses)).unwrap();
            std::fs::read(&path).unwrap()
        };
        let first = pem(&["localhost", "127.0.0.1"]);
        assert_eq!(pem(&["127.0.0.1"]), first, "still covered");
        let second = pem(&["10.0.0.1"]);
        assert_ne!(second, first);
        assert!(ca.ensure_server(&path, &names(&["not a name"])).is_err());
    }

    #[test]
    fn a_forged_request_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::create_or_open(dir.path()).unwrap();
        let error = ca.issue_host(HostId::generate(), &[], "no request").unwrap_err();
        assert!(matches!(error, CaError::Request(_)), "{error}");
    }
}
