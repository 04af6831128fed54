//! Kinds of request bodies. The kind decides how the router reads it, the client sends it and the
//! OpenAPI document describes it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

pub use bytes::Bytes;
use futures::TryStreamExt;
use http::HeaderMap;
use http_body_util::BodyExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use utoipa::ToSchema;

use crate::Problem;
use crate::openapi::Schemas;

/// How long a client may take to send a whole JSON body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// A request body. Implemented by [`Empty`], [`Json`] and [`Stream`] only.
pub trait Body: Send + 'static {
    /// What a caller passes and a handler gets.
    type Value: Send;

    /// The body may still be open while the answer is on its way, and may take hours.
    #[doc(hidden)]
    const STREAMING: bool = false;

    /// Reads the value from a request, as a server.
    #[doc(hidden)]
    fn read(
        headers: &HeaderMap,
        body: axum::body::Body,
        limit: usize,
    ) -> impl Future<Output = Result<Self::Value, Problem>> + Send;

    /// Puts the value into a request, as a client.
    #[doc(hidden)]
    fn send(
        value: Self::Value,
        request: reqwest::RequestBuilder,
    ) -> Result<reqwest::RequestBuilder, String>;

    /// The `requestBody` of the OpenAPI operation.
    #[doc(hidden)]
    fn describe(schemas: &mut Schemas) -> Option<serde_json::Value>;
}

/// No body; as an answer: 204.
#[derive(Debug, Clone, Copy)]
pub struct Empty;

/// `application/json`. Requests with unknown fields are refused by the types. An absent body is
/// read as `{}`, so that a body of defaults need not be sent.
#[derive(Debug, Clone, Copy)]
pub struct Json<T>(std::marker::PhantomData<fn() -> T>);

/// Bytes as they come, in both directions at once if need be (HTTP/2).
#[derive(Debug, Clone, Copy)]
pub struct Stream;

pub type ByteStream =
    Pin<Box<dyn futures::Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static>>;

/// Bounds of what travels as JSON.
pub trait Payload: Serialize + DeserializeOwned + ToSchema + fmt::Debug + Send + 'static {}
impl<T> Payload for T where T: Serialize + DeserializeOwned + ToSchema + fmt::Debug + Send + 'static {}

impl Body for Empty {
    type Value = ();

    async fn read(_: &HeaderMap, body: axum::body::Body, _: usize) -> Result<(), Problem> {
        let bytes = collect(body, 1024).await?;
        match bytes.trim_ascii() {
            b"" | b"{}" => Ok(()),
            _ => Err(Problem::new(400, "invalid", "this operation takes no body")),
        }
    }

    fn send((): (), request: reqwest::RequestBuilder) -> Result<reqwest::RequestBuilder, String> {
        Ok(request)
    }

    fn describe(_: &mut Schemas) -> Option<serde_json::Value> {
        None
    }
}

impl<T: Payload> Body for Json<T> {
    type Value = T;

    async fn read(headers: &HeaderMap, body: axum::body::Body, limit: usize) -> Result<T, Problem> {
        let bytes = collect(body, limit).await?;
        if bytes.trim_ascii().is_empty() {
            return parse_json(b"{}");
        }
        // A body of another type is not guessed at; it also keeps HTML forms of foreign sites out.
        let media_type = headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        let essence = media_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            let detail = "the body must be JSON";
            return Err(Problem::new(415, "unsupported_media_type", detail)
                .hint("send the header `Content-Type: application/json`"));
        }
        parse_json(&bytes)
    }

    fn send(value: T, request: reqwest::RequestBuilder) -> Result<reqwest::RequestBuilder, String> {
        let bytes = serde_json::to_vec(&value).map_err(|error| error.to_string())?;
        Ok(request.header(http::header::CONTENT_TYPE, "application/json").body(bytes))
    }

    fn describe(schemas: &mut Schemas) -> Option<serde_json::Value> {
        let schema = schemas.reference::<T>();
        Some(json!({"required": true, "content": {"application/json": {"schema": schema}}}))
    }
}

impl Body for Stream {
    type Value = ByteStream;
    const STREAMING: bool = true;

    async fn read(_: &HeaderMap, body: axum::body::Body, _: usize) -> Result<ByteStream, Problem> {
        Ok(Box::pin(TryStreamExt::map_err(body.into_data_stream(), std::io::Error::other)))
    }

    fn send(
        value: ByteStream,
        request: reqwest::RequestBuilder,
    ) -> Result<reqwest::RequestBuilder, String> {
        let request = request.header(http::header::CONTENT_TYPE, "application/octet-stream");
        Ok(request.body(reqwest::Body::wrap_stream(value)))
    }

    fn describe(_: &mut Schemas) -> Option<serde_json::Value> {
        let schema = json!({"type": "string", "format": "binary"});
        Some(json!({"required": true, "content": {"application/octet-stream": {"schema": schema}}}))
    }
}

/// The whole body, at most `limit` bytes of it, within [`BODY_TIMEOUT`].
async fn collect(body: axum::body::Body, limit: usize) -> Result<Bytes, Problem> {
    let limited = http_body_util::Limited::new(body, limit).collect();
    match tokio::time::timeout(BODY_TIMEOUT, limited).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            let detail = format!("the body is longer than the {limit} bytes it may have");
            Err(Problem::new(413, "too_large", detail))
        }
        Ok(Err(_)) => Err(Problem::new(400, "invalid", "the body ended before it was complete")),
        Err(_) => Err(Problem::new(408, "timeout", "the body took too long to arrive")),
    }
}

fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let field = Some(error.path().to_string()).filter(|path| path != ".");
        Problem::invalid(field, without_position(&error.into_inner()))
    })?;
    deserializer.end().map_err(|error| Problem::invalid(None, error.to_string()))?;
    Ok(value)
}

/// The message of a data error without ` at line 1 column 9`, which says nothing about one's input
/// when a program has written it. Syntax errors keep it.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if !error.is_data() {
        return text;
    }
    let position = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&position).unwrap_or(&text).to_owned()
}
