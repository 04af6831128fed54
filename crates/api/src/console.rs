//! Consoles: a ticket is asked for with a token, and spent once on a WebSocket.

use hostler_endpoint::{Empty, Endpoint, Json, Method, NoParams, WebSocket};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::vm::VmPath;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConsoleKind {
    /// The first serial port; binary messages carry its bytes.
    Serial,
    /// The screen; binary messages carry RFB (VNC).
    Vnc,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TicketRequest {
    pub kind: ConsoleKind,
}

/// Opens one console, once, before it expires.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ticket {
    pub ticket: String,
    /// The WebSocket's path and query on this server.
    pub url: String,
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

impl ConsoleKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Serial => "serial",
            Self::Vnc => "vnc",
        }
    }
}

/// Which console, and the ticket that opens it.
#[derive(Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct AttachQuery {
    #[param(value_type = String)]
    /// `serial` or `vnc`, as the ticket was asked for.
    pub kind: ConsoleKind,
    /// As given by `vm_console_ticket` for this VM.
    pub ticket: String,
}

impl std::fmt::Debug for AttachQuery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AttachQuery").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// Ask for a one-time ticket to a VM's console; it lasts 30 s.
#[derive(Debug)]
pub struct CreateTicket;

impl Endpoint for CreateTicket {
    const ID: &'static str = "vm_console_ticket";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/vms/{vm}/console";
    const SUMMARY: &'static str = "Ask for a one-time ticket to a VM's console; it lasts 30 s";
    const TAG: &'static str = "console";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 201;
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<TicketRequest>;
    type Answer = Json<Ticket>;
}
/// Open the console that a ticket is for. The ticket is the authentication.
#[derive(Debug)]
pub struct Attach;

impl Endpoint for Attach {
    const ID: &'static str = "console_attach";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/vms/{vm}/console";
    const SUMMARY: &'static str = "Open the console that a ticket is for";
    const TAG: &'static str = "console";
    type Path = VmPath;
    type Query = AttachQuery;
    type Body = Empty;
    type Answer = WebSocket;
}
