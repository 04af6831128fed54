//! An HTTP endpoint as a *type*: method, path, parameters, body and answer.
//!
//! From one `impl Endpoint` come the route ([`Routes`]), the OpenAPI operation ([`Document`]) and
//! the typed call ([`Client`]), so that the three cannot disagree. Used for the public API
//! (`hostler-api`) and for the contract between server and agent (`hostler-agent-api`).
//!
//! What it deliberately does not do: authentication, TLS, business errors. They are handed in.

mod answer;
mod body;
mod client;
mod definition;
mod openapi;
mod params;
mod problem;
mod router;
mod sse;

pub use answer::{Answer, EventStream, Events, Item, Receive, WebSocket};
pub use axum::extract::ws;
pub use body::{Body, ByteStream, Bytes, Empty, Json, Payload, Stream};
pub use client::{CallOptions, Client, ClientError};
pub use definition::{Endpoint, Meta, Method, NoParams, Page, PageQuery, Params};
pub use openapi::Document;
pub use problem::{FieldProblem, Problem};
pub use router::{Call, RequestId, Routes};
