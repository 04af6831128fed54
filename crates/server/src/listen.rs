//! Accepts connections: TLS over TCP for everyone, and a Unix socket for root on this machine.
//!
//! A connection is bounded in every way before a request of it is read: how many there are, how
//! many of one address, how long the handshake and the headers may take.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::connection::serve;
use crate::limits::{Connections, Permit};
use crate::peer::Peer;

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long requests may go on after the server was told to end.
const GRACE: Duration = Duration::from_secs(10);
/// Rest after the system had no resources for another connection.
const PAUSE: Duration = Duration::from_millis(100);

/// Where the server cannot listen, and why.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("cannot listen on {address}")]
    Tcp { address: SocketAddr, source: io::Error },
    #[error("cannot listen on {}", path.display())]
    Unix { path: PathBuf, source: io::Error },
    #[error("another server listens on {}", path.display())]
    InUse { path: PathBuf },
    #[error("{} is in the way: it is not a socket", path.display())]
    NotASocket { path: PathBuf },
}

/// Listens on a TCP address.
///
/// # Errors
/// [`ListenError::Tcp`].
pub async fn bind_tcp(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| ListenError::Tcp { address, source })
}

/// Listens on a Unix socket that only root can open; takes the place of one that a dead server has
/// left.
///
/// # Errors
/// Another server listens there, or something else is in the way.
pub fn bind_unix(path: &Path) -> Result<UnixListener, ListenError> {
    let failed = |source| ListenError::Unix { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ListenError::NotASocket { path: path.to_owned() });
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(ListenError::InUse { path: path.to_owned() });
        }
        Ok(_) => std::fs::remove_file(path).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    // Between the two calls others could connect; their uid is looked at in any case.
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, private).map_err(failed)?;
    Ok(listener)
}

/// What accepts connections, and for whom.
pub(crate) struct Listeners {
    pub(crate) tcp: TcpListener,
    pub(crate) tls: Arc<rustls::ServerConfig>,
    pub(crate) unix: Option<UnixListener>,
    pub(crate) router: Router,
    /// Cancelled when the server is to end.
    pub(crate) closing: CancellationToken,
}

impl Listeners {
    /// Serves until told to end, then lets the requests under way end within [`GRACE`].
    pub(crate) async fn run(self) {
        let mut connections = JoinSet::new();
        let limits = Connections::default();
        let acceptor = TlsAcceptor::from(self.tls);
        loop {
            tokio::select! {
                () = self.closing.cancelled() => break,
                // Ended connections are reaped; their results say nothing.
                Some(_) = connections.join_next() => {}
                accepted = self.tcp.accept() => match accepted {
                    Ok((stream, address)) => {
                        let Some(permit) = limits.admit(Some(address.ip())) else { continue };
                        let (acceptor, router) = (acceptor.clone(), self.router.clone());
                        let closing = self.closing.clone();
                        connections
                            .spawn(tls(stream, address, acceptor, router, closing, permit));
                    }
                    Err(error) => pause(&error).await,
                },
                accepted = accept_unix(self.unix.as_ref()) => match accepted {
                    Ok(stream) => {
                        let Some(permit) = limits.admit(None) else { continue };
                        let (router, closing) = (self.router.clone(), self.closing.clone());
                        connections.spawn(unix(stream, router, closing, permit));
                    }
                    Err(error) => pause(&error).await,
                },
            }
        }
        drop((self.tcp, self.unix));
        let ended = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, ended).await.is_err() {
            tracing::warn!(count = connections.len(), "connections were cut off at the end");
            connections.shutdown().await;
        }
    }
}

/// The next connection to the Unix socket; never, without one.
async fn accept_unix(listener: Option<&UnixListener>) -> io::Result<UnixStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

async fn pause(error: &io::Error) {
    // A client that went away at once is no reason to wait; too many open files is.
    if error.kind() == io::ErrorKind::ConnectionAborted {
        return;
    }
    tracing::warn!(%error, "a connection could not be accepted");
    tokio::time::sleep(PAUSE).await;
}

async fn tls(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    router: Router,
    closing: CancellationToken,
    permit: Permit,
) {
    // Answers are written whole; waiting for more to send would only delay them.
    let _ = stream.set_nodelay(true);
    let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream));
    let stream = tokio::select! {
        () = closing.cancelled() => return,
        handshake = handshake => match handshake {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%address, %error, "a TLS handshake failed");
                return;
            }
            Err(_) => {
                tracing::debug!(%address, "a TLS handshake took too long");
                return;
            }
        },
    };
    serve(stream, Peer::Network(address), router, closing).await;
    drop(permit);
}

async fn unix(stream: UnixStream, router: Router, closing: CancellationToken, permit: Permit) {
    match stream.peer_cred() {
        Ok(credentials) if credentials.uid() == 0 => {
            serve(stream, Peer::Root, router, closing).await;
        }
        Ok(credentials) => {
            tracing::warn!(uid = credentials.uid(), "the socket is for root only");
        }
        Err(error) => tracing::warn!(%error, "the socket's peer cannot be told"),
    }
    drop(permit);
}
