//! Serves endpoints: from types and handlers to an axum router.
//!
//! What every endpoint has in common happens here, in this order: a request id, the gate (who may
//! come in), the parameters, the body, the handler, the answer. Every refusal is a [`Problem`].

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{FromRequestParts as _, RawPathParams, Request};
use axum::middleware::Next;
use axum::response::Response;
use axum::routing::{MethodFilter, on};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, header};
use serde::de::DeserializeOwned;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::answer::Answer;
use crate::body::Body;
use crate::params::{self, ParamError};
use crate::{Endpoint, Meta, Method, Problem};

/// A request, parsed.
pub struct Call<E: Endpoint> {
    pub path: E::Path,
    pub query: E::Query,
    pub body: <E::Body as Body>::Value,
    /// The revision that the object must still have.
    pub if_match: Option<u64>,
    pub idempotency_key: Option<String>,
    /// Where an event stream goes on: `Last-Event-ID`.
    pub last_event_id: Option<u64>,
    pub request_id: String,
    pub headers: HeaderMap,
    /// What the connection and the gate have put beside the request, such as who is calling.
    pub extensions: http::Extensions,
    /// Of endpoints that answer a [`WebSocket`](crate::WebSocket), and there always.
    pub upgrade: Option<WebSocketUpgrade>,
}

impl<E: Endpoint> fmt::Debug for Call<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither body nor headers: they may hold secrets.
        f.debug_struct("Call")
            .field("endpoint", &E::ID)
            .field("path", &self.path)
            .field("request_id", &self.request_id)
            .finish_non_exhaustive()
    }
}

/// The id that a request has in the log and in its answer; among the request's extensions.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

type Gate<S> =
    Arc<dyn Fn(S, Meta, Parts) -> BoxFuture<'static, Result<Parts, Problem>> + Send + Sync>;

/// Endpoints with their handlers, on the way to a router.
pub struct Routes<S> {
    state: S,
    gate: Option<Gate<S>>,
    router: Router,
    served: Vec<Meta>,
}

impl<S> fmt::Debug for Routes<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routes").field("served", &self.served).finish_non_exhaustive()
    }
}

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    pub fn new(state: S) -> Self {
        Self { state, gate: None, router: Router::new(), served: Vec::new() }
    }

    /// What each request to the endpoints added *after* this must pass before anything of it is
    /// read: it refuses, or lets through and may leave word in the extensions.
    #[must_use]
    pub fn gate<F>(mut self, gate: impl Fn(S, Meta, Parts) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Parts, Problem>> + Send + 'static,
    {
        self.gate = Some(Arc::new(move |state, meta, parts| gate(state, meta, parts).boxed()));
        self
    }

    /// Serves an endpoint. A handler whose request changes something runs to its end even when the
    /// client goes away; one that reads or streams is dropped then.
    #[must_use]
    pub fn serve<E, F>(
        mut self,
        handler: impl Fn(S, Call<E>) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        E: Endpoint,
        F: Future<Output = Result<<E::Answer as Answer>::Value, Problem>> + Send + 'static,
    {
        let state = self.state.clone();
        let gate = self.gate.clone();
        let respond = move |request: Request| {
            let (state, gate, handler) = (state.clone(), gate.clone(), handler.clone());
            answer::<E, S, F>(state, gate, handler, request)
        };
        self.router = self.router.route(E::PATH, on(filter(E::METHOD), respond));
        self.served.push(E::meta());
        self
    }

    /// What is served so far.
    pub fn served(&self) -> &[Meta] {
        &self.served
    }

    /// The router; unknown paths and methods are answered with a [`Problem`] too.
    pub fn build(self) -> Router {
        self.router
            .fallback(unknown_path)
            .method_not_allowed_fallback(wrong_method)
            .layer(axum::middleware::from_fn(identify))
    }
}

const fn filter(method: Method) -> MethodFilter {
    match method {
        Method::Get => MethodFilter::GET,
        Method::Post => MethodFilter::POST,
        Method::Put => MethodFilter::PUT,
        Method::Patch => MethodFilter::PATCH,
        Method::Delete => MethodFilter::DELETE,
    }
}

/// Gives the request its id: the caller's if it is a UUID, else a new one.
async fn identify(mut request: Request, next: Next) -> Response {
    let given = request.headers().get("x-request-id").and_then(|value| value.to_str().ok());
    let id = given.and_then(|text| Uuid::try_parse(text).ok()).unwrap_or_else(Uuid::now_v7);
    let id = id.to_string();
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert("x-request-id", value);
    }
    // Answers may hold secrets, and what a guest says of itself: not to be kept, nor taken for HTML.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn request_id(extensions: &http::Extensions) -> String {
    extensions.get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default()
}

async fn unknown_path(request: Request) -> Response {
    let detail = format!("there is nothing at {}", request.uri().path());
    refuse(Problem::new(404, "unknown_path", detail), request_id(request.extensions()))
}

async fn wrong_method(request: Request) -> Response {
    let detail = format!("{} is not possible at {}", request.method(), request.uri().path());
    refuse(Problem::new(405, "wrong_method", detail), request_id(request.extensions()))
}

fn refuse(mut problem: Problem, request_id: String) -> Response {
    problem.request_id = Some(request_id);
    problem.response()
}

async fn answer<E, S, F>(
    state: S,
    gate: Option<Gate<S>>,
    handler: impl Fn(S, Call<E>) -> F,
    request: Request,
) -> Response
where
    E: Endpoint,
    S: Clone,
    F: Future<Output = Result<<E::Answer as Answer>::Value, Problem>> + Send + 'static,
{
    let request_id = request_id(request.extensions());
    let span = tracing::info_span!("request", endpoint = E::ID, request_id);
    let begun = Instant::now();
    let result = async {
        let (mut parts, body) = request.into_parts();
        if let Some(gate) = gate {
            parts = gate(state.clone(), E::meta(), parts).await?;
        }
        let call = parse::<E>(parts, body, request_id.clone()).await?;
        let value = run::<E, F>(handler(state, call)).await?;
        let revision = E::revision(&value);
        let mut response = E::Answer::respond(value, &E::meta());
        if let Some(revision) = revision
            && let Ok(etag) = HeaderValue::from_str(&format!("\"{revision}\""))
        {
            response.headers_mut().insert(header::ETAG, etag);
        }
        Ok(response)
    };
    let result: Result<Response, Problem> = result.instrument(span.clone()).await;
    let _entered = span.enter();
    let elapsed = begun.elapsed();
    match result {
        Ok(response) => {
            tracing::debug!(status = response.status().as_u16(), ?elapsed, "answered");
            response
        }
        Err(problem) => {
            tracing::debug!(status = problem.status, code = problem.code, ?elapsed, "refused");
            refuse(problem, request_id)
        }
    }
}

/// Runs a handler so that its panic is an answer, and a changing one so that it is not cut off.
async fn run<E, F>(handling: F) -> Result<<E::Answer as Answer>::Value, Problem>
where
    E: Endpoint,
    F: Future<Output = Result<<E::Answer as Answer>::Value, Problem>> + Send + 'static,
{
    let detached = E::METHOD != Method::Get && !E::Body::STREAMING && !E::Answer::WEBSOCKET;
    if detached {
        return match tokio::spawn(handling.in_current_span()).await {
            Ok(result) => result,
            Err(error) => Err(panicked(&error.try_into_panic().unwrap_or_else(|e| Box::new(e)))),
        };
    }
    match AssertUnwindSafe(handling).catch_unwind().await {
        Ok(result) => result,
        Err(panic) => Err(panicked(&panic)),
    }
}

fn panicked(panic: &Box<dyn Any + Send>) -> Problem {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("?");
    tracing::error!(panic = text, "a handler panicked");
    Problem::internal()
}

async fn parse<E: Endpoint>(
    mut parts: Parts,
    body: axum::body::Body,
    request_id: String,
) -> Result<Call<E>, Problem> {
    let path = parse_path::<E::Path>(&mut parts).await?;
    let query = parts.uri.query().unwrap_or_default();
    let query = params::parse_query(query).map_err(|error| param_problem(error, "query"))?;
    let upgrade = if E::Answer::WEBSOCKET {
        let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
        Some(upgrade.map_err(|rejection| {
            Problem::new(426, "websocket_expected", rejection.body_text())
                .hint("this address is for WebSocket clients")
        })?)
    } else {
        None
    };
    let if_match = if_match(&parts.headers)?;
    if if_match.is_some() && !E::CONDITIONAL {
        let reason = "this operation cannot be made conditional";
        return Err(Problem::invalid(Some("if-match".to_owned()), reason));
    }
    let idempotency_key = idempotency_key(&parts.headers)?;
    let last_event_id = number(&parts.headers, "last-event-id")?;
    let body = E::Body::read(&parts.headers, body, E::BODY_LIMIT).await?;
    Ok(Call {
        path,
        query,
        body,
        if_match,
        idempotency_key,
        last_event_id,
        request_id,
        headers: parts.headers,
        extensions: parts.extensions,
        upgrade,
    })
}

async fn parse_path<P: DeserializeOwned>(parts: &mut Parts) -> Result<P, Problem> {
    let raw = RawPathParams::from_request_parts(parts, &())
        .await
        .map_err(|_| Problem::invalid(Some("path".to_owned()), "is not UTF-8"))?;
    let pairs = raw.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    params::parse(pairs).map_err(|error| param_problem(error, "path"))
}

fn param_problem(error: ParamError, place: &str) -> Problem {
    Problem::invalid(Some(error.field.unwrap_or_else(|| place.to_owned())), error.reason)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Problem> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = value.to_str();
    text.map(Some).map_err(|_| Problem::invalid(Some(name.to_owned()), "is not ASCII"))
}

fn number(headers: &HeaderMap, name: &str) -> Result<Option<u64>, Problem> {
    let Some(text) = text(headers, name)? else { return Ok(None) };
    let number = text.parse().map_err(|_| {
        Problem::invalid(Some(name.to_owned()), "must be a number that this API has given")
    })?;
    Ok(Some(number))
}

fn if_match(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(text) = text(headers, "if-match")?.filter(|text| *text != "*") else {
        return Ok(None);
    };
    let quoted = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let revision = quoted.unwrap_or(text).parse().map_err(|_| {
        let reason = "must be the `ETag` that the object had, such as \"42\"";
        Problem::invalid(Some("if-match".to_owned()), reason)
    })?;
    Ok(Some(revision))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(key) = text(headers, "idempotency-key")? else { return Ok(None) };
    if key.is_empty() || key.len() > 128 || !key.chars().all(|c| c.is_ascii_graphic()) {
        let reason = "must be 1 to 128 visible ASCII characters";
        return Err(Problem::invalid(Some("idempotency-key".to_owned()), reason));
    }
    Ok(Some(key.to_owned()))
}
