//! The public API over HTTPS and a Unix socket: requests in, views out; no logic.
//!
//! The binary opens a [`World`](hostler_control::World), binds the sockets ([`bind_tcp`],
//! [`bind_unix`]) and calls [`Server::run`]. What may be asked is in `hostler-api`, what is done
//! about it in `hostler-control`; here a request is authenticated, parsed, handed over, and its
//! answer written. In the order in which a request passes:
//!
//! * `listen`: sockets, TLS, how many connections.
//! * `connection`: HTTP/1.1 and HTTP/2 on one connection.
//! * `gate`: who is calling.
//! * `routes`: one handler per endpoint.
//! * `problem`: what becomes of a service's error.

mod app;
mod connection;
mod gate;
mod limits;
mod listen;
mod peer;
mod problem;
mod routes;

use std::sync::Arc;
use std::time::Duration;

use hostler_control::World;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use listen::{ListenError, bind_tcp, bind_unix};

use crate::app::App;
use crate::limits::Guesses;
use crate::listen::Listeners;

/// How long consoles may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// What serves the API.
#[derive(Debug)]
pub struct Server {
    pub world: Arc<World>,
    pub tcp: TcpListener,
    /// As `hostler_pki::tls::public_server` makes it: HTTP/2 and HTTP/1.1 offered.
    pub tls: Arc<rustls::ServerConfig>,
    /// Root's socket on this machine.
    pub unix: Option<UnixListener>,
}

impl Server {
    /// Serves until `closing` is cancelled; then event streams and consoles end at once, and
    /// requests under way have 10 s.
    pub async fn run(self, closing: CancellationToken) {
        let consoles = TaskTracker::new();
        let app = App {
            world: self.world,
            guesses: Arc::new(Guesses::default()),
            closing: closing.clone(),
            consoles: consoles.clone(),
        };
        let router = routes::router(app);
        Listeners { tcp: self.tcp, tls: self.tls, unix: self.unix, router, closing }.run().await;
        consoles.close();
        if tokio::time::timeout(GOODBYE, consoles.wait()).await.is_err() {
            tracing::debug!(count = consoles.len(), "consoles were cut off at the end");
        }
    }
}
