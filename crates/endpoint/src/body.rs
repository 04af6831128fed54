//! Kinds of request bodies and answers. The kind decides how the router, the client and the
//! OpenAPI document treat it.

use std::fmt;
use std::pin::Pin;

pub use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;

/// A request body. Implemented by [`Empty`], [`Json`] and [`Stream`] only.
pub trait Body: Send + 'static {
    /// What a caller passes and a handler gets.
    type Value: Send;
}

/// An answer. Implemented by [`Empty`], [`Json`], [`Events`], [`Stream`] and [`WebSocket`] only.
pub trait Answer: Send + 'static {
    /// What a handler returns and a caller gets.
    type Value: Send;
}

/// No body; as an answer: 204.
#[derive(Debug, Clone, Copy)]
pub struct Empty;

/// `application/json`. Requests with unknown fields are refused by the types.
#[derive(Debug, Clone, Copy)]
pub struct Json<T>(std::marker::PhantomData<fn() -> T>);

/// Bytes as they come, in both directions at once if need be (HTTP/2).
#[derive(Debug, Clone, Copy)]
pub struct Stream;

/// Server-sent events, each with one JSON item: `id: <sequence>`, `data: <item>`. A comment line
/// every 15 s keeps the connection alive.
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

pub type ByteStream =
    Pin<Box<dyn futures::Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static>>;
pub type EventStream<T> =
    Pin<Box<dyn futures::Stream<Item = Result<Item<T>, crate::Problem>> + Send + 'static>>;

/// Bounds of what travels as JSON.
pub trait Payload: Serialize + DeserializeOwned + ToSchema + fmt::Debug + Send + 'static {}
impl<T> Payload for T where T: Serialize + DeserializeOwned + ToSchema + fmt::Debug + Send + 'static {}

impl Body for Empty {
    type Value = ();
}
impl<T: Payload> Body for Json<T> {
    type Value = T;
}
impl Body for Stream {
    type Value = ByteStream;
}

impl Answer for Empty {
    type Value = ();
}
impl<T: Payload> Answer for Json<T> {
    type Value = T;
}
impl<T: Payload> Answer for Events<T> {
    type Value = EventStream<T>;
}
impl Answer for Stream {
    type Value = ByteStream;
}
impl Answer for WebSocket {
    type Value = http::Response<axum::body::Body>;
}
