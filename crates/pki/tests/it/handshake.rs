//! A TLS handshake in memory, and a CA to play with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hostler_pki::{Ca, CredentialFile, Credentials, Identity, KeyRequest, peer_identity};
use hostler_types::HostId;
use rustls::{ClientConfig, ServerConfig};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub(crate) const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

pub(crate) struct World {
    dir: TempDir,
    pub(crate) ca: Ca,
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::create_or_open(&dir.path().join("ca")).unwrap();
        Self { dir, ca }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn server(&self) -> CredentialFile {
        self.ca.ensure_server(&self.path("server.pem"), &["localhost".to_owned()]).unwrap()
    }

    pub(crate) fn host(&self, host: HostId) -> CredentialFile {
        self.host_for(host, YEAR)
    }

    pub(crate) fn host_for(&self, host: HostId, life: Duration) -> CredentialFile {
        let path = self.path(&format!("{host}.pem"));
        self.host_credentials(host, life).save(&path).unwrap();
        CredentialFile::open(&path).unwrap()
    }

    pub(crate) fn host_credentials(&self, host: HostId, life: Duration) -> Credentials {
        let key = KeyRequest::generate().unwrap();
        let names = ["localhost".to_owned()];
        let pem = self.ca.issue_host_for(host, &names, key.request(), life).unwrap();
        key.complete(&pem, self.ca.pem()).unwrap()
    }
}

/// Who the server saw, or both sides' errors. A byte goes both ways, because with TLS 1.3 a client
/// believes to be connected before the server has looked at its certificate.
pub(crate) async fn handshake(
    client: ClientConfig,
    server: ServerConfig,
) -> Result<Option<Identity>, String> {
    let (near, far) = duplex(16 << 10);
    let accept = async {
        let mut stream = TlsAcceptor::from(Arc::new(server)).accept(far).await?;
        let byte = stream.read_u8().await?;
        stream.write_u8(byte).await?;
        stream.flush().await?;
        Ok::<_, std::io::Error>(peer_identity(stream.get_ref().1).ok())
    };
    let connect = async {
        let name = "localhost".try_into().unwrap();
        let mut stream = TlsConnector::from(Arc::new(client)).connect(name, near).await?;
        stream.write_u8(1).await?;
        stream.flush().await?;
        stream.read_u8().await
    };
    match tokio::join!(accept, connect) {
        (Ok(peer), Ok(1)) => Ok(peer),
        (server, client) => Err(format!("server: {server:?}; client: {client:?}")),
    }
}
