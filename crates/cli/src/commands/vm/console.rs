//! `hostler vm console|vnc`.
//!
//! The serial console is a WebSocket that a one-time ticket opens. While it is open, the terminal
//! is raw: each key goes to the guest, but Ctrl-], which leaves.

use std::io::{IsTerminal as _, Read as _};
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use futures::{SinkExt as _, StreamExt as _};
use hostler_api::console::{Attach, AttachQuery, ConsoleKind, CreateTicket, Ticket, TicketRequest};
use hostler_api::vm::VmPath;
use hostler_endpoint::NoParams;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::VmName;
use crate::connection::Socket;
use crate::error::{CliError, Exit};
use crate::options::Format;
use crate::output;
use crate::session::Session;
use crate::table::Cell;
use crate::terminal::Changed;
use crate::time;

/// Ctrl-]
const LEAVE: u8 = 0x1d;
/// How often the server is asked for a sign of life; after three without, it is lost.
const PING: Duration = Duration::from_secs(20);
/// Ends colours and shows the cursor, in case the guest has left it otherwise.
const AFTERWARDS: &[u8] = b"\x1b[0m\x1b[?25h\r\n";

/// Attach to a VM's serial console; Ctrl-] leaves
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  hostler vm console web01")]
pub(crate) struct Console {
    #[command(flatten)]
    vm: VmName,
}

impl Console {
    pub(super) async fn run(&self, session: &Session) -> Result<ExitCode, CliError> {
        let (path, kind) = (self.vm.path(), ConsoleKind::Serial);
        let ticket = ticket(session, &path, kind).await?.ticket;
        let query = AttachQuery { kind, ticket };
        let socket = session.connection.websocket::<Attach>(&path, &query).await?;
        let stdin = std::io::stdin();
        let terminal = stdin.is_terminal();
        if terminal {
            session.output.remark(&format!("console of {}; Ctrl-] leaves", self.vm.vm));
        }
        let raw = if terminal {
            Some(Changed::raw(&stdin).map_err(|error| {
                CliError::new(Exit::Failed, format!("cannot set up the terminal: {error}"))
            })?)
        } else {
            None
        };
        let end = attend(socket, read_keys(terminal)).await;
        if terminal {
            let _ = output::print_bytes(AFTERWARDS);
        }
        drop(raw);
        match end? {
            End::Left => Ok(ExitCode::SUCCESS),
            End::Closed(reason) => {
                session.output.remark(&format!("the console was closed{reason}"));
                Ok(ExitCode::SUCCESS)
            }
            End::Signal(number) => Ok(ExitCode::from(128 + number)),
        }
    }
}

/// Why a console ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Left,
    Closed(String),
    Signal(u8),
}

/// Passes bytes both ways until one side has had enough.
async fn attend(mut socket: Socket, mut keys: mpsc::Receiver<Bytes>) -> Result<End, CliError> {
    let lost = |error: tokio_tungstenite::tungstenite::Error| {
        CliError::new(Exit::CannotConnect, format!("the console was lost: {error}"))
    };
    let unset = |error| CliError::new(Exit::Failed, format!("cannot wait for signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unset)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(unset)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(unset)?;
    let mut quit = signal(SignalKind::quit()).map_err(unset)?;
    let mut ping = tokio::time::interval(PING);
    let mut silent = 0;
    let mut typing = true;
    // Each branch is cancel-safe: receiving from a channel, a signal, a stream or a clock.
    let end = loop {
        tokio::select! {
            key = keys.recv(), if typing => match key {
                Some(bytes) => match bytes.iter().position(|&byte| byte == LEAVE) {
                    Some(at) => {
                        socket.send(Message::Binary(bytes.slice(..at))).await.map_err(lost)?;
                        break End::Left;
                    }
                    None => socket.send(Message::Binary(bytes)).await.map_err(lost)?,
                },
                // A script's input has ended; its output goes on.
                None => typing = false,
            },
            message = socket.next() => {
                silent = 0;
                match message {
                    Some(Ok(Message::Binary(bytes))) => output::print_bytes(&bytes)?,
                    Some(Ok(Message::Text(text))) => output::print(&text)?,
                    Some(Ok(Message::Close(frame))) => {
                        let reason = frame.map(|frame| frame.reason.to_string());
                        let reason = reason.filter(|reason| !reason.is_empty());
                        break End::Closed(reason.map(|r| format!(": {r}")).unwrap_or_default());
                    }
                    Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                    Some(Err(error)) => return Err(lost(error)),
                    None => break End::Closed(String::new()),
                }
            },
            _ = ping.tick() => {
                silent += 1;
                if silent > 3 {
                    return Err(CliError::new(Exit::CannotConnect, "the console was lost: the server is silent"));
                }
                socket.send(Message::Ping(Bytes::new())).await.map_err(lost)?;
            },
            _ = interrupt.recv() => break End::Signal(2),
            _ = terminate.recv() => break End::Signal(15),
            _ = hangup.recv() => break End::Signal(1),
            _ = quit.recv() => break End::Signal(3),
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), socket.close(None)).await;
    Ok(end)
}

/// What is typed, as it comes. The thread ends with the process: reading cannot be interrupted.
fn read_keys(terminal: bool) -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            match std::io::stdin().lock().read(&mut buffer) {
                Ok(0) if terminal => {
                    // The terminal has hung up: the same as leaving.
                    let _ = sender.blocking_send(Bytes::from_static(&[LEAVE]));
                    return;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return,
                Ok(length) => {
                    let bytes = Bytes::copy_from_slice(&buffer[..length]);
                    if sender.blocking_send(bytes).is_err() {
                        return;
                    }
                }
            }
        }
    });
    receiver
}

async fn ticket(session: &Session, path: &VmPath, kind: ConsoleKind) -> Result<Ticket, CliError> {
    session.call::<CreateTicket>(path, &NoParams {}, TicketRequest { kind }).await
}

/// Ask for a one-time ticket to a VM's screen (VNC over WebSocket); it lasts 30 s
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm vnc web01
  hostler vm vnc web01 -o json")]
pub(crate) struct Vnc {
    #[command(flatten)]
    vm: VmName,
}

impl Vnc {
    pub(super) async fn run(&self, session: &Session) -> Result<(), CliError> {
        let ticket = ticket(session, &self.vm.path(), ConsoleKind::Vnc).await?;
        // `https` becomes `wss`.
        let base = session.connection.client.base().replacen("http", "ws", 1);
        let url = format!("{base}{}", ticket.url);
        if session.output.format == Format::Name {
            return output::print(&format!("{url}\n"));
        }
        session.output.object(&ticket, &ticket.ticket, || {
            vec![
                ("URL", vec![Cell::new(&url)]),
                ("Expires", vec![Cell::new(time::show(ticket.expires_at))]),
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;
    use crate::connection::Duplex;

    async fn pair() -> (Socket, WebSocketStream<tokio::io::DuplexStream>) {
        let (near, far) = tokio::io::duplex(4096);
        let near: Box<dyn Duplex> = Box::new(near);
        futures::join!(
            WebSocketStream::from_raw_socket(near, Role::Client, None),
            WebSocketStream::from_raw_socket(far, Role::Server, None),
        )
    }

    async fn received(far: &mut WebSocketStream<tokio::io::DuplexStream>) -> Bytes {
        loop {
            match far.next().await.unwrap().unwrap() {
                Message::Binary(bytes) => return bytes,
                Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn ctrl_bracket_leaves_after_what_was_typed_before() {
        let (near, mut far) = pair().await;
        let (keys, typed) = mpsc::channel(4);
        keys.send(Bytes::from_static(b"ls\r")).await.unwrap();
        keys.send(Bytes::from_static(b"exit\x1dafter")).await.unwrap();
        let attended = tokio::spawn(attend(near, typed));
        assert_eq!(received(&mut far).await.as_ref(), b"ls\r");
        assert_eq!(received(&mut far).await.as_ref(), b"exit");
        assert!(matches!(far.next().await, Some(Ok(Message::Close(_)))));
        assert_eq!(attended.await.unwrap().unwrap(), End::Left);
    }

    #[tokio::test]
    async fn the_servers_reason_is_told() {
        use tokio_tungstenite::tungstenite::protocol::CloseFrame;
        use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
        let (near, mut far) = pair().await;
        let (_keys, typed) = mpsc::channel(4);
        let frame = CloseFrame { code: CloseCode::Normal, reason: "the VM has stopped".into() };
        far.close(Some(frame)).await.unwrap();
        let end = attend(near, typed).await.unwrap();
        assert_eq!(end, End::Closed(": the VM has stopped".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_noticed() {
        let (near, _far) = pair().await;
        let (_keys, typed) = mpsc::channel(4);
        let error = attend(near, typed).await.unwrap_err();
        assert_eq!(error.exit(), Exit::CannotConnect);
    }
}
