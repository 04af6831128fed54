//! Calls endpoints: the typed client.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header;

use crate::answer::{Answer, Receive};
use crate::body::Body;
use crate::{Endpoint, Problem, params};

/// How long a call may take when its options do not say.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The longest answer that is read into memory, unless told otherwise.
const ANSWER_LIMIT: usize = 64 << 20;
/// The longest problem that is read.
const PROBLEM_LIMIT: usize = 1 << 20;

/// Calls the endpoints of one server. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    /// Without a slash at the end.
    base: String,
    bearer: Option<String>,
    answer_limit: usize,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bearer = self.bearer.as_ref().map(|_| "[redacted]");
        f.debug_struct("Client").field("base", &self.base).field("bearer", &bearer).finish()
    }
}

/// What a call may be told beside its parameters and body.
#[derive(Debug, Clone, Default)]
pub struct CallOptions {
    /// The revision that the object must still have.
    pub if_match: Option<u64>,
    /// The same request with the same key is carried out once.
    pub idempotency_key: Option<String>,
    /// For the whole call; for event and byte streams: until the answer begins. Absent: 60 s, and
    /// no limit while a byte stream is being sent.
    pub timeout: Option<Duration>,
    /// Where an event stream goes on: sent as `Last-Event-ID`.
    pub last_event_id: Option<u64>,
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server refused, and says why.
    #[error(transparent)]
    Problem(Box<Problem>),
    #[error("cannot reach {url}: {reason}")]
    Connect { url: String, reason: String },
    /// The request may or may not have been carried out.
    #[error("{url} has not answered within {} s", .after.as_secs_f32())]
    Timeout { url: String, after: Duration },
    /// The connection broke; the request may or may not have been carried out.
    #[error("the connection to {url} broke: {reason}")]
    Broken { url: String, reason: String },
    #[error("the answer of {url} cannot be understood: {reason}")]
    Protocol { url: String, reason: String },
    /// Nothing was sent.
    #[error("{0}")]
    Request(String),
}

impl ClientError {
    /// The server's problem, if it is one.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Problem(problem) => Some(problem),
            _ => None,
        }
    }

    /// The request certainly did not reach the server.
    pub fn is_unsent(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Request(_))
    }
}

impl Client {
    /// A client of the server at `base`, such as `https://server:8443`. TLS, trust and proxies are
    /// the business of `http`.
    pub fn new(http: reqwest::Client, base: &str) -> Self {
        let base = base.trim_end_matches('/').to_owned();
        Self { http, base, bearer: None, answer_limit: ANSWER_LIMIT }
    }

    /// Sends `Authorization: Bearer <token>` with each call.
    #[must_use]
    pub fn bearer(mut self, token: impl Into<String>) -> Self {
        self.bearer = Some(token.into());
        self
    }

    /// The longest answer that is read into memory, in bytes.
    #[must_use]
    pub fn answer_limit(mut self, bytes: usize) -> Self {
        self.answer_limit = bytes;
        self
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    /// The address of an endpoint, for what is not called through here: WebSockets.
    ///
    /// # Errors
    /// [`ClientError::Request`] when a parameter cannot stand in a URL.
    pub fn url<E: Endpoint>(
        &self,
        path: &E::Path,
        query: &E::Query,
    ) -> Result<String, ClientError> {
        let path = params::fill_path(E::PATH, path).map_err(ClientError::Request)?;
        let pairs = params::pairs(query).map_err(ClientError::Request)?;
        let query = serde_urlencoded::to_string(pairs)
            .map_err(|error| ClientError::Request(error.to_string()))?;
        let mark = if query.is_empty() { "" } else { "?" };
        Ok(format!("{}{path}{mark}{query}", self.base))
    }

    /// Calls an endpoint.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn call<E>(
        &self,
        path: &E::Path,
        query: &E::Query,
        body: <E::Body as Body>::Value,
    ) -> Result<<E::Answer as Answer>::Value, ClientError>
    where
        E: Endpoint,
        E::Answer: Receive,
    {
        self.call_with::<E>(path, query, body, CallOptions::default()).await
    }

    /// Calls an endpoint with options.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn call_with<E>(
        &self,
        path: &E::Path,
        query: &E::Query,
        body: <E::Body as Body>::Value,
        options: CallOptions,
    ) -> Result<<E::Answer as Answer>::Value, ClientError>
    where
        E: Endpoint,
        E::Answer: Receive,
    {
        let url = self.url::<E>(path, query)?;
        let timeout = match options.timeout {
            None if E::Body::STREAMING => None,
            timeout => Some(timeout.unwrap_or(TIMEOUT)),
        };
        let request = self.request::<E>(&url, body, options)?;
        let whole = async {
            let received = self.send(request, &url).await?;
            if E::Answer::BOUNDED {
                return E::Answer::receive(received).await.map(Reply::Whole);
            }
            Ok(Reply::Begun(received))
        };
        let reply = match timeout {
            None => whole.await,
            Some(after) => match tokio::time::timeout(after, whole).await {
                Ok(reply) => reply,
                Err(_) => Err(ClientError::Timeout { url: url.clone(), after }),
            },
        };
        match reply? {
            Reply::Whole(value) => Ok(value),
            Reply::Begun(received) => E::Answer::receive(received).await,
        }
    }

    fn request<E: Endpoint>(
        &self,
        url: &str,
        body: <E::Body as Body>::Value,
        options: CallOptions,
    ) -> Result<reqwest::RequestBuilder, ClientError> {
        let mut request = self.http.request(E::METHOD.into(), url);
        if let Some(token) = &self.bearer {
            request = request.bearer_auth(token);
        }
        if let Some(revision) = options.if_match {
            request = request.header(header::IF_MATCH, format!("\"{revision}\""));
        }
        if let Some(key) = options.idempotency_key {
            request = request.header("idempotency-key", key);
        }
        if let Some(id) = options.last_event_id {
            request = request.header("last-event-id", id);
        }
        E::Body::send(body, request).map_err(ClientError::Request)
    }

    /// Sends a request and looks at the answer's head.
    async fn send(
        &self,
        request: reqwest::RequestBuilder,
        url: &str,
    ) -> Result<Received, ClientError> {
        let url = url.to_owned();
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) if error.is_builder() => return Err(ClientError::Request(cause(&error))),
            Err(error) if error.is_connect() => {
                return Err(ClientError::Connect { url, reason: cause(&error) });
            }
            Err(error) => return Err(ClientError::Broken { url, reason: cause(&error) }),
        };
        let status = response.status();
        if status.is_success() {
            return Ok(Received { response, url, limit: self.answer_limit });
        }
        let received = Received { response, url: url.clone(), limit: PROBLEM_LIMIT };
        match serde_json::from_slice(&received.bytes().await?) {
            Ok(problem) => Err(ClientError::Problem(Box::new(problem))),
            Err(_) => {
                let reason = format!("it is `{status}` without an explanation");
                Err(ClientError::Protocol { url, reason })
            }
        }
    }
}

enum Reply<V> {
    Whole(V),
    Begun(Received),
}

/// A successful answer whose body has not been read.
#[derive(Debug)]
pub struct Received {
    response: reqwest::Response,
    url: String,
    limit: usize,
}

impl Received {
    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    pub(crate) fn into_inner(self) -> reqwest::Response {
        self.response
    }

    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        let broken = |error| ClientError::Broken { url: self.url.clone(), reason: cause(&error) };
        self.response.chunk().await.map_err(broken)
    }

    /// The whole body, refused when it is longer than the limit.
    pub(crate) async fn bytes(mut self) -> Result<Bytes, ClientError> {
        let mut bytes = bytes::BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if bytes.len() + chunk.len() > self.limit {
                let reason = format!("it is longer than {} bytes", self.limit);
                return Err(ClientError::Protocol { url: self.url, reason });
            }
            if bytes.is_empty() {
                bytes.reserve(
                    usize::try_from(self.response.content_length().unwrap_or(0))
                        .unwrap_or(0)
                        .min(self.limit),
                );
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }
}

/// The innermost cause: what a person can act on, without the layers of HTTP around it.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
