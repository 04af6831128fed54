//! Getting to know a server at the first login: which CA does it present?
//!
//! The certificates are only looked at. The handshake is always refused, so nothing is ever sent to
//! a server that has not been recognised.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hostler_pki::{Fingerprint, tls};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::net::TcpStream;
use url::Url;

use crate::address::Trust;
use crate::error::{CliError, Exit};

const TIMEOUT: Duration = Duration::from_secs(15);

/// What a first look at a server finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Presented {
    /// A certificate that the operating system trusts.
    Trusted,
    /// One from a CA that only its fingerprint can vouch for.
    Unknown(Fingerprint),
}

/// Looks at the certificates that a server presents.
pub(crate) async fn look(url: &Url) -> Result<Presented, CliError> {
    if let Ok(config) = Trust::System.config()
        && handshake(url, config).await.is_ok()
    {
        return Ok(Presented::Trusted);
    }
    let seen = Arc::new(Mutex::new(None));
    let onlooker = Onlooker { seen: Arc::clone(&seen) };
    let config = ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| CliError::new(Exit::Failed, error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(onlooker))
        .with_no_client_auth();
    let result = handshake(url, config).await;
    let seen = seen.lock().ok().and_then(|mut seen| seen.take());
    match (seen, result) {
        (Some(fingerprint), _) => Ok(Presented::Unknown(fingerprint)),
        (None, Err(error)) => Err(error),
        (None, Ok(())) => Err(CliError::new(Exit::CannotConnect, "the server shows no CA")),
    }
}

async fn handshake(url: &Url, config: ClientConfig) -> Result<(), CliError> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = url.port_or_known_default().unwrap_or(443);
    let to = format!("{host}:{port}");
    let attempt = async {
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        let name = ServerName::try_from(host.clone()).map_err(std::io::Error::other)?;
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
    };
    match tokio::time::timeout(TIMEOUT, attempt).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => {
            Err(CliError::new(Exit::CannotConnect, format!("cannot reach {to}: {error}")))
        }
        Err(_) => {
            let after = TIMEOUT.as_secs();
            Err(CliError::new(Exit::Timeout, format!("{to} has not answered within {after} s")))
        }
    }
}

/// Remembers the CA, and refuses.
#[derive(Debug)]
struct Onlooker {
    seen: Arc<Mutex<Option<Fingerprint>>>,
}

impl ServerCertVerifier for Onlooker {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let (Some(ca), Ok(mut seen)) = (intermediates.last(), self.seen.lock()) {
            *seen = Some(Fingerprint::of(ca));
        }
        Err(Error::General("only looked at".to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only looked at".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only looked at".to_owned()))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::provider().signature_verification_algorithms.supported_schemes()
    }
}
