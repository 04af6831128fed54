//! The listener: TCP, mutual TLS, HTTP/2.
//!
//! Only peers with a certificate of our CA get through the handshake; who they are goes along with
//! each request, and the router's gate decides. Everything a peer can make us hold is bounded:
//! connections, streams, headers, and the time for each step before a request is served.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hostler_pki::{Identity, IdentityError, peer_identity, tls};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::seats::Seats;

const MAX_CONNECTIONS: usize = 64;
const MAX_STREAMS: u32 = 512;
const HANDSHAKE: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Bytes under way per stream; a console or an upload needs no more.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Who sent a request; among its extensions.
#[derive(Debug, Clone)]
pub(crate) struct Peer(pub(crate) Result<Identity, IdentityError>);

pub(crate) struct Listener {
    tcp: TcpListener,
    tls: TlsAcceptor,
}

impl Listener {
    pub(crate) async fn bind(
        address: SocketAddr,
        tls: Arc<rustls::ServerConfig>,
    ) -> io::Result<Self> {
        Ok(Self { tcp: TcpListener::bind(address).await?, tls: TlsAcceptor::from(tls) })
    }

    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Serves until `stop`; then waits a moment for requests that are being answered.
    pub(crate) async fn serve(self, router: Router, seats: Seats, stop: CancellationToken) {
        let connections = TaskTracker::new();
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.tcp.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, mostly: some may be free again in a moment.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(place) = places.clone().try_acquire_owned() else {
                tracing::warn!("too many connections; one more is closed");
                continue;
            };
            let (tls, router, stop) = (self.tls.clone(), router.clone(), stop.clone());
            let seats = seats.clone();
            connections.spawn(async move {
                if let Err(reason) = serve_connection(stream, tls, router, seats, stop).await {
                    tracing::debug!(reason, "a connection ended");
                }
                drop(place);
            });
        }
        connections.close();
        let _ = tokio::time::timeout(Duration::from_secs(2), connections.wait()).await;
    }
}

async fn serve_connection(
    stream: TcpStream,
    tls: TlsAcceptor,
    router: Router,
    seats: Seats,
    stop: CancellationToken,
) -> Result<(), String> {
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let stream = tokio::time::timeout(HANDSHAKE, tls.accept(stream))
        .await
        .map_err(|_| "the TLS handshake took too long".to_owned())?
        .map_err(|error| format!("the TLS handshake failed: {error}"))?;
    let peer = Peer(peer_identity(stream.get_ref().1));
    if stream.get_ref().1.alpn_protocol() == Some(tls::MIGRATION) {
        return tokio::select! {
            served = seats.serve(stream.into(), &peer.0) => served,
            () = stop.cancelled() => Err("the agent ends".to_owned()),
        };
    }
    let service = router.map_request(move |mut request: http::Request<axum::body::Body>| {
        request.extensions_mut().insert(peer.clone());
        request
    });
    let service = service.map_err(|never: Infallible| match never {});
    let service =
        tower::util::MapRequest::new(service, |request: http::Request<hyper::body::Incoming>| {
            request.map(axum::body::Body::new)
        });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(16 << 10)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(STREAM_WINDOW as usize)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    result.map_err(|error| error.to_string())
}
