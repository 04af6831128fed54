//! Kinds of answers. The kind decides how the router writes it, the client reads it and the
//! OpenAPI document describes it.

use std::future::Future;
use std::pin::Pin;

use axum::body::Body as HttpBody;
use futures::TryStreamExt as _;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

use crate::body::{ByteStream, Empty, Json, Payload, Stream};
use crate::client::{ClientError, Received};
use crate::openapi::Schemas;
use crate::{Meta, Problem, sse};

/// An answer. Implemented by [`Empty`], [`Json`], [`Events`], [`Stream`] and [`WebSocket`] only.
pub trait Answer: Send + 'static {
    /// What a handler returns and a caller gets.
    type Value: Send;

    /// The router takes the connection's upgrade out of the request for the handler.
    #[doc(hidden)]
    const WEBSOCKET: bool = false;

    /// Writes the value as a response, as a server.
    #[doc(hidden)]
    fn respond(value: Self::Value, meta: &Meta) -> Response<HttpBody>;

    /// The successful response of the OpenAPI operation: its status and description.
    #[doc(hidden)]
    fn describe(meta: &Meta, schemas: &mut Schemas) -> (u16, serde_json::Value);
}

/// An answer that [`Client::call`](crate::Client::call) can read: all but [`WebSocket`].
pub trait Receive: Answer {
    /// The answer ends by itself soon: the call's timeout covers it to its last byte.
    #[doc(hidden)]
    const BOUNDED: bool;

    /// Reads the value from a successful response, as a client.
    #[doc(hidden)]
    fn receive(received: Received)
    -> impl Future<Output = Result<Self::Value, ClientError>> + Send;
}

/// Server-sent events, each with one JSON item: `id: <sequence>`, `data: <item>`. A comment line
/// every 15 s keeps the connection alive. A stream that fails ends with an event `problem`.
#[derive(Debug, Clone, Copy)]
pub struct Events<T>(std::marker::PhantomData<fn() -> T>);

/// The connection becomes a WebSocket: the handler returns the whole HTTP response.
#[derive(Debug, Clone, Copy)]
pub struct WebSocket;

/// One item of an event stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item<T> {
    /// Where to go on: sent back as `Last-Event-ID` or a query parameter.
    pub id: u64,
    pub data: T,
}

pub type EventStream<T> =
    Pin<Box<dyn futures::Stream<Item = Result<Item<T>, Problem>> + Send + 'static>>;

impl Answer for Empty {
    type Value = ();

    fn respond((): (), meta: &Meta) -> Response<HttpBody> {
        let mut response = Response::new(HttpBody::empty());
        *response.status_mut() = status(empty_status(meta));
        response
    }

    fn describe(meta: &Meta, _: &mut Schemas) -> (u16, serde_json::Value) {
        (empty_status(meta), json!({"description": "Done."}))
    }
}

impl Receive for Empty {
    const BOUNDED: bool = true;

    async fn receive(received: Received) -> Result<(), ClientError> {
        received.bytes().await.map(drop)
    }
}

impl<T: Payload> Answer for Json<T> {
    type Value = T;

    fn respond(value: T, meta: &Meta) -> Response<HttpBody> {
        match serde_json::to_vec(&value) {
            Ok(bytes) => response(meta, "application/json", bytes),
            Err(error) => {
                tracing::error!(endpoint = meta.id, %error, "an answer cannot be written as JSON");
                Problem::internal().response()
            }
        }
    }

    fn describe(meta: &Meta, schemas: &mut Schemas) -> (u16, serde_json::Value) {
        let schema = schemas.reference::<T>();
        let mut response = json!({
            "description": "Done.",
            "content": {"application/json": {"schema": schema}},
        });
        if meta.status == 202 {
            response["description"] = "Ordered; the answer is the task that does it.".into();
        }
        (meta.status, response)
    }
}

impl<T: Payload> Receive for Json<T> {
    const BOUNDED: bool = true;

    async fn receive(received: Received) -> Result<T, ClientError> {
        let url = received.url();
        let bytes = received.bytes().await?;
        serde_json::from_slice(&bytes)
            .map_err(|error| ClientError::Protocol { url, reason: error.to_string() })
    }
}

impl<T: Payload> Answer for Events<T> {
    type Value = EventStream<T>;

    fn respond(value: EventStream<T>, meta: &Meta) -> Response<HttpBody> {
        let mut response =
            response(meta, sse::MEDIA_TYPE, HttpBody::from_stream(sse::encode(value)));
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        // Tells nginx and its like to pass events on at once.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        response
    }

    fn describe(meta: &Meta, schemas: &mut Schemas) -> (u16, serde_json::Value) {
        let schema = schemas.reference::<T>();
        let description = "Server-sent events; the data of each is one JSON item.";
        let content = json!({sse::MEDIA_TYPE: {"schema": {"type": "string"}, "x-item": schema}});
        (meta.status, json!({"description": description, "content": content}))
    }
}

impl<T: Payload> Receive for Events<T> {
    const BOUNDED: bool = false;

    async fn receive(received: Received) -> Result<EventStream<T>, ClientError> {
        Ok(sse::decode(received))
    }
}

impl Answer for Stream {
    type Value = ByteStream;

    fn respond(value: ByteStream, meta: &Meta) -> Response<HttpBody> {
        let mut response = response(meta, meta.media_type, HttpBody::from_stream(value));
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        response
    }

    fn describe(meta: &Meta, _: &mut Schemas) -> (u16, serde_json::Value) {
        let schema = json!({"type": "string", "format": "binary"});
        let content = json!({meta.media_type: {"schema": schema}});
        (meta.status, json!({"description": "The bytes, as they come.", "content": content}))
    }
}

impl Receive for Stream {
    const BOUNDED: bool = false;

    async fn receive(received: Received) -> Result<ByteStream, ClientError> {
        let bytes = received.into_inner().bytes_stream();
        Ok(Box::pin(bytes.map_err(|error| std::io::Error::other(error.without_url()))))
    }
}

impl Answer for WebSocket {
    type Value = Response<HttpBody>;
    const WEBSOCKET: bool = true;

    fn respond(value: Response<HttpBody>, _: &Meta) -> Response<HttpBody> {
        value
    }

    fn describe(_: &Meta, _: &mut Schemas) -> (u16, serde_json::Value) {
        (101, json!({"description": "The connection becomes a WebSocket."}))
    }
}

fn empty_status(meta: &Meta) -> u16 {
    if meta.status == 200 { 204 } else { meta.status }
}

fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::OK)
}

fn response(
    meta: &Meta,
    media_type: &'static str,
    body: impl Into<HttpBody>,
) -> Response<HttpBody> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status(meta.status);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}
