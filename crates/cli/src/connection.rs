//! The connection to a server: typed calls, and WebSockets beside them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::TryFutureExt as _;
use hostler_endpoint::{Client, ClientError, Endpoint};
use hostler_pki::tls::{self, TlsError};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::address::{Address, Trust, origin};
use crate::error::{CliError, Exit};

/// How long reaching a server may take.
const CONNECT: Duration = Duration::from_secs(15);
/// The base of addresses behind the Unix socket; never looked up.
pub(crate) const LOCAL: &str = "http://localhost";
/// The longest message of a console.
const MESSAGE_LIMIT: usize = 1 << 20;

#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) client: Client,
    route: Route,
}

#[derive(Debug, Clone)]
enum Route {
    Socket(PathBuf),
    Tls { host: String, port: u16, config: Arc<ClientConfig> },
}

/// Bytes both ways.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

pub(crate) type Socket = WebSocketStream<Box<dyn Duplex>>;

impl Connection {
    /// Prepares calls; nothing is sent yet.
    pub(crate) fn new(address: &Address) -> Result<Self, CliError> {
        // A proxy would see nothing but TLS, yet the console could not pass it: one route for all.
        let builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .user_agent(concat!("hostler/", env!("CARGO_PKG_VERSION")));
        let (builder, base, token, route) = match address {
            Address::Socket(path) => {
                // The client insists on a TLS configuration even where it has no use for one.
                let config = ClientConfig::builder_with_provider(tls::provider())
                    .with_safe_default_protocol_versions()
                    .map_err(|error| CliError::new(Exit::Failed, error.to_string()))?
                    .with_root_certificates(rustls::RootCertStore::empty())
                    .with_no_client_auth();
                let builder = builder.tls_backend_preconfigured(config).unix_socket(path.as_path());
                (builder, LOCAL.to_owned(), None, Route::Socket(path.clone()))
            }
            Address::Server { url, trust, token } => {
                let config = trust.config().map_err(|error| {
                    CliError::new(Exit::Failed, format!("cannot set up TLS: {}", chain(&error)))
                })?;
                let route = Route::Tls {
                    host: url.host_str().unwrap_or_default().to_owned(),
                    port: url.port_or_known_default().unwrap_or(443),
                    config: Arc::new(config.clone()),
                };
                let builder = builder.tls_backend_preconfigured(config);
                (builder, origin(url), token.clone(), route)
            }
        };
        let http = builder
            .build()
            .map_err(|error| CliError::new(Exit::Failed, format!("cannot set up HTTP: {error}")))?;
        let client = Client::new(http, &base);
        let client = match token {
            Some(token) => client.bearer(token),
            None => client,
        };
        Ok(Self { client, route })
    }

    /// The server, for people.
    pub(crate) fn name(&self) -> String {
        match &self.route {
            Route::Socket(path) => path.display().to_string(),
            Route::Tls { .. } => self.client.base().to_owned(),
        }
    }

    /// Opens the WebSocket of an endpoint.
    pub(crate) async fn websocket<E: Endpoint>(
        &self,
        path: &E::Path,
        query: &E::Query,
    ) -> Result<Socket, CliError> {
        let url = self.client.url::<E>(path, query)?;
        let request = url
            .replacen("http", "ws", 1)
            .into_client_request()
            .map_err(|error| CliError::new(Exit::Failed, error.to_string()))?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_LIMIT))
            .max_frame_size(Some(MESSAGE_LIMIT));
        let opening = self.dial().and_then(|stream| async move {
            tokio_tungstenite::client_async_with_config(request, stream, Some(config))
                .await
                .map_err(|error| refused(&error))
        });
        let (socket, _) = tokio::time::timeout(CONNECT, opening).await.map_err(|_| {
            CliError::new(Exit::Timeout, "the server has not opened the console within 15 s")
        })??;
        Ok(socket)
    }

    async fn dial(&self) -> Result<Box<dyn Duplex>, CliError> {
        let unreachable = |to: &str, error: std::io::Error| {
            CliError::new(Exit::CannotConnect, format!("cannot reach {to}: {error}"))
        };
        match &self.route {
            Route::Socket(path) => {
                let stream = UnixStream::connect(path).await;
                let to = path.display().to_string();
                Ok(Box::new(stream.map_err(|error| unreachable(&to, error))?))
            }
            Route::Tls { host, port, config } => {
                let to = format!("{host}:{port}");
                let plain = host.trim_matches(['[', ']']).to_owned();
                let stream = TcpStream::connect((plain.as_str(), *port))
                    .await
                    .map_err(|error| unreachable(&to, error))?;
                let name = ServerName::try_from(plain)
                    .map_err(|error| CliError::new(Exit::Usage, format!("{to}: {error}")))?;
                // WebSockets begin in HTTP/1.1.
                let mut config = (**config).clone();
                config.alpn_protocols = vec![b"http/1.1".to_vec()];
                let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
                let stream = connector.connect(name, stream).await;
                Ok(Box::new(stream.map_err(|error| unreachable(&to, error))?))
            }
        }
    }
}

impl Trust {
    pub(crate) fn config(&self) -> Result<ClientConfig, TlsError> {
        match self {
            Self::System => tls::web_client(),
            Self::Fingerprint(fingerprint) => tls::pinned_client(*fingerprint),
            Self::Pem(pem) => tls::ca_file_client(pem),
        }
    }
}

/// The server's own words where it has answered with a problem instead of a WebSocket.
fn refused(error: &tokio_tungstenite::tungstenite::Error) -> CliError {
    if let tokio_tungstenite::tungstenite::Error::Http(response) = error
        && let Some(body) = response.body()
        && let Ok(problem) = serde_json::from_slice(body)
    {
        return CliError::from(ClientError::Problem(Box::new(problem)));
    }
    CliError::new(Exit::CannotConnect, format!("the console cannot be opened: {error}"))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
