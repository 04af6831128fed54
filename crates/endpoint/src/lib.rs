//! An HTTP endpoint as a *type*: method, path, parameters, body and answer.
//!
//! From one `impl Endpoint` come the route ([`router`]), the OpenAPI operation ([`openapi`]) and
//! the typed call ([`client`]), so that the three cannot disagree. Used for the public API
//! (`hostler-api`) and for the contract between server and agent (`hostler-agent-api`).
//!
//! What it deliberately does not do: authentication, TLS, business errors. They are handed in.

mod body;
mod definition;
mod problem;

pub use body::{
    Answer, Body, ByteStream, Bytes, Empty, EventStream, Events, Item, Json, Stream, WebSocket,
};
pub use definition::{Endpoint, Method, NoParams, Page, PageQuery, Params};
pub use problem::{FieldProblem, Problem};
