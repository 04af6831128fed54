//! Consoles: a one-time ticket, and the WebSocket that it opens.
//!
//! Tickets exist because a browser's WebSocket cannot send a token. A page of another site could
//! not know one, and its origin is refused besides.

use std::io;
use std::time::Duration;

use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use hostler_api::code;
use hostler_api::console::{Attach, ConsoleKind, CreateTicket, Ticket};
use hostler_control::services::console::{self, ConsoleKind as HostConsole};
use hostler_endpoint::ws::{CloseFrame, Message, WebSocket};
use hostler_endpoint::{ByteStream, Bytes, Call, Problem, Routes};
use http::HeaderMap;
use http::header::{HOST, ORIGIN};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::app::{App, actor};
use crate::problem::problem;

/// The longest message from a client.
const MESSAGE: usize = 1 << 20;
/// Messages on their way to the host.
const QUEUE: usize = 16;
/// How often a client is asked whether it is there, how long it may stay silent, and how long it
/// may take to receive a message.
const PING: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_secs(90);
const SEND: Duration = Duration::from_secs(30);
/// WebSocket close codes (RFC 6455, 7.4.1).
const NORMAL: u16 = 1000;
const GOING_AWAY: u16 = 1001;
const FAILED: u16 = 1011;

type Input = mpsc::Sender<Result<Bytes, io::Error>>;

pub(crate) fn add(routes: Routes<App>) -> Routes<App> {
    routes.serve::<CreateTicket, _>(ticket).serve::<Attach, _>(attach)
}

async fn ticket(app: App, call: Call<CreateTicket>) -> Result<Ticket, Problem> {
    let kind = call.body.kind;
    let actor = actor(&call.extensions)?;
    let ticket = console::ticket(&app.world, actor, &call.path.vm, host_console(kind));
    let ticket = ticket.map_err(problem)?;
    // Secrets are of characters that stand for themselves in a URL.
    let query = format!("kind={}&ticket={}", kind.as_str(), ticket.secret);
    let url = format!("/v1/vms/{}/console?{query}", call.path.vm);
    Ok(Ticket { ticket: ticket.secret, url, expires_at: ticket.expires_at })
}

async fn attach(app: App, call: Call<Attach>) -> Result<http::Response<axum::body::Body>, Problem> {
    same_origin(&call.headers)?;
    let upgrade = call.upgrade.ok_or_else(Problem::internal)?;
    let kind = host_console(call.query.kind);
    let actor = console::redeem(&app.world, &call.query.ticket, &call.path.vm, kind);
    let actor = actor.map_err(problem)?;
    let (input, received) = mpsc::channel(QUEUE);
    let received = futures::stream::unfold(received, |mut received| async move {
        received.recv().await.map(|bytes| (bytes, received))
    });
    // Before the upgrade, so that a refusal is a problem and not a closed socket.
    let output = console::attach(&app.world, &actor, &call.path.vm, kind, Box::pin(received)).await;
    let output = output.map_err(problem)?;
    let (closing, consoles) = (app.closing, app.consoles.token());
    Ok(upgrade.protocols(["binary"]).max_message_size(MESSAGE).on_upgrade(
        move |socket| async move {
            bridge(socket, input, output, closing).await;
            drop(consoles);
        },
    ))
}

const fn host_console(kind: ConsoleKind) -> HostConsole {
    match kind {
        ConsoleKind::Serial => HostConsole::Serial,
        ConsoleKind::Vnc => HostConsole::Vnc,
    }
}

/// Lets programs in, which have no origin, and pages of this very server.
fn same_origin(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().ok().and_then(|origin| origin.strip_prefix("https://"));
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    match (origin, host) {
        (Some(origin), Some(host)) if origin.eq_ignore_ascii_case(host) => Ok(()),
        _ => Err(code::FORBIDDEN.problem("a page of another site may not open a console")),
    }
}

/// Passes bytes on in both directions until either side or the server ends.
async fn bridge(socket: WebSocket, input: Input, output: ByteStream, closing: CancellationToken) {
    let (sender, receiver) = socket.split();
    // Each direction goes on while the other one waits: a guest that does not read its input
    // before its output is taken would otherwise hold up both.
    tokio::select! {
        () = to_host(receiver, input) => {}
        () = to_client(output, sender, closing) => {}
    }
}

async fn to_host(mut receiver: SplitStream<WebSocket>, input: Input) {
    while let Ok(Some(Ok(message))) = tokio::time::timeout(SILENCE, receiver.next()).await {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            Message::Ping(_) | Message::Pong(_) => continue,
            Message::Close(_) => return,
        };
        if input.send(Ok(bytes)).await.is_err() {
            // The host has gone; its output ends too, and says so.
            return std::future::pending().await;
        }
    }
}

async fn to_client(
    mut output: ByteStream,
    mut sender: SplitSink<WebSocket, Message>,
    closing: CancellationToken,
) {
    let mut ping = tokio::time::interval(PING);
    let (code, reason) = loop {
        let message = tokio::select! {
            () = closing.cancelled() => break (GOING_AWAY, "the server ends"),
            _ = ping.tick() => Message::Ping(Bytes::new()),
            part = output.next() => match part {
                Some(Ok(bytes)) => Message::Binary(bytes),
                Some(Err(error)) => {
                    tracing::debug!(%error, "a console broke");
                    break (FAILED, "the connection to the host broke");
                }
                None => break (NORMAL, "the console has ended"),
            },
        };
        if !send(&mut sender, message).await {
            return;
        }
    };
    let close = CloseFrame { code, reason: reason.into() };
    send(&mut sender, Message::Close(Some(close))).await;
}

/// Whether the client took it in time.
async fn send(sender: &mut SplitSink<WebSocket, Message>, message: Message) -> bool {
    matches!(tokio::time::timeout(SEND, sender.send(message)).await, Ok(Ok(())))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn check(origin: Option<&'static str>, allowed: bool) {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("vm.example.org:8443"));
        if let Some(origin) = origin {
            headers.insert(ORIGIN, HeaderValue::from_static(origin));
        }
        assert_eq!(same_origin(&headers).is_ok(), allowed, "{origin:?}");
    }

    #[test]
    fn only_pages_of_this_server_open_consoles() {
        check(None, true);
        check(Some("https://vm.example.org:8443"), true);
        check(Some("https://VM.example.org:8443"), true);
        for foreign in [
            "https://vm.example.org",
            "http://vm.example.org:8443",
            "https://evil.example.org",
            "https://vm.example.org:8443.evil.org",
            "null",
            "",
        ] {
            check(Some(foreign), false);
        }
    }
}
