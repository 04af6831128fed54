//! The task that owns the guest agent's channel.
//!
//! ```text
//!             request             sync answered           answer
//!   idle ───────────────▶ syncing ─────────────▶ waiting ────────▶ idle
//!                            │ deadline, babble     │ deadline, too long, malformed
//!                            ▼                      ▼
//!                          idle                   idle   (the next sync discards the rest)
//! ```
//!
//! Nothing is read while idle: what a guest sends unasked stays in the kernel's buffers and then
//! holds up the guest.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};
use tracing::{debug, trace};

use super::{
    agent::{GuestError, timed_out},
    text::GuestText,
};
use crate::{
    line::{LineBuffer, LineTooLong},
    wire::Message,
};

/// How many lines that answer nothing are read for one command. A healthy agent leaves at most one
/// for each command that timed out before it.
const MAX_STALE_LINES: usize = 1024;

/// No UTF-8 text holds it; the agent's parser starts afresh after it, and so do we.
const SENTINEL: u8 = 0xff;

/// One command on its way.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) command: &'static str,
    /// `None`: that the agent answers the synchronisation is all that is asked.
    pub(super) line: Option<Vec<u8>>,
    pub(super) deadline: Instant,
    pub(super) within: Duration,
    pub(super) max_line: usize,
    /// Set just before the command itself is written.
    pub(super) sent: Arc<AtomicBool>,
    pub(super) reply: oneshot::Sender<Result<Box<RawValue>, GuestError>>,
}

#[derive(Debug)]
pub(super) struct Session {
    stream: UnixStream,
    lines: LineBuffer,
    max_line: usize,
}

impl Session {
    pub(super) fn new(stream: UnixStream, max_line: usize) -> Self {
        Self { stream, lines: LineBuffer::new(max_line), max_line }
    }

    /// Serves requests until the socket or the last handle is gone.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        while let Some(request) = queue.recv().await {
            // Its caller gave up before its turn came.
            if request.reply.is_closed() {
                continue;
            }
            trace!(command = request.command, "guest agent command");
            let result = timeout_at(request.deadline, self.transact(&request)).await;
            let result = result.unwrap_or_else(|_| {
                Err(timed_out(
                    request.command,
                    request.within,
                    request.sent.load(Ordering::Acquire),
                ))
            });
            let closed = result.as_ref().is_err_and(GuestError::is_closed);
            // An error means that the caller stopped waiting.
            let _ = request.reply.send(result);
            if closed {
                debug!("guest agent channel closed");
                return;
            }
        }
    }

    async fn transact(&mut self, request: &Request) -> Result<Box<RawValue>, GuestError> {
        self.synchronise().await?;
        let Some(line) = &request.line else { return Ok(RawValue::NULL.to_owned()) };
        self.lines.set_limit(request.max_line);
        request.sent.store(true, Ordering::Release);
        self.write(line).await?;
        let command = request.command;
        let line = self
            .read_line()
            .await?
            .map_err(|LineTooLong| GuestError::TooLong { command, limit: request.max_line })?;
        let unexpected =
            |source| GuestError::Answer { command, source: Arc::<serde_json::Error>::new(source) };
        match Message::parse(&line).map_err(unexpected)? {
            Message::Return { value, .. } => Ok(value.to_owned()),
            Message::Error { error, .. } => {
                let description = GuestText::new(&error.desc);
                Err(GuestError::Refused { command, class: error.class, description })
            }
            Message::Greeting(_) | Message::Event { .. } => {
                Err(unexpected(serde::de::Error::custom("neither a return nor an error")))
            }
        }
    }

    /// Discards everything up to the answer to a fresh id.
    async fn synchronise(&mut self) -> Result<(), GuestError> {
        let id = i64::from(rand::random::<u32>());
        let mut line = vec![SENTINEL];
        line.extend(encode("guest-sync-delimited", &SyncArguments { id }).map_err(|error| {
            GuestError::Encode { command: "guest-sync-delimited", source: Arc::new(error) }
        })?);
        self.write(&line).await?;

        self.lines.set_limit(self.max_line);
        for _ in 0..MAX_STALE_LINES {
            match self.read_line().await? {
                Ok(line) if synchronised(&line, id) => return Ok(()),
                Ok(_) => {}
                Err(LineTooLong) => {
                    while !self.lines.discard_line() {
                        self.read().await?;
                    }
                }
            }
        }
        Err(GuestError::Babbling { lines: MAX_STALE_LINES })
    }

    async fn read_line(&mut self) -> Result<Result<BytesMut, LineTooLong>, GuestError> {
        loop {
            match self.lines.next_line() {
                Ok(Some(line)) => return Ok(Ok(line)),
                Ok(None) => self.read().await?,
                Err(too_long) => return Ok(Err(too_long)),
            }
        }
    }

    /// One read. Cancel safe: what was read is in the buffer.
    async fn read(&mut self) -> Result<(), GuestError> {
        match self.stream.read_buf(&mut self.lines.spare()).await {
            Ok(0) => Err(GuestError::Closed),
            Ok(_) => Ok(()),
            Err(error) => Err(io_error(error)),
        }
    }

    /// Writes a line. If the deadline cuts it short, the next synchronisation's sentinel makes the
    /// agent forget the piece.
    async fn write(&mut self, line: &[u8]) -> Result<(), GuestError> {
        self.stream.write_all(line).await.map_err(io_error)
    }
}

fn io_error(error: io::Error) -> GuestError {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => GuestError::Closed,
        _ => GuestError::Io(Arc::new(error)),
    }
}

#[derive(Serialize)]
struct SyncArguments {
    id: i64,
}

/// Whether a line is the answer to the synchronisation with this id, and marked as such.
fn synchronised(line: &[u8], id: i64) -> bool {
    #[derive(Deserialize)]
    struct Synchronised {
        #[serde(rename = "return")]
        id: i64,
    }
    let Some(sentinel) = line.iter().rposition(|byte| *byte == SENTINEL) else { return false };
    serde_json::from_slice(&line[sentinel + 1..]).is_ok_and(|answer: Synchronised| answer.id == id)
}

/// A command as one line, newline included. Without an id: agents before 4.0 refuse it, and the
/// synchronisation does what it would do.
pub(super) fn encode(name: &str, arguments: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    #[derive(Serialize)]
    struct Line<'a> {
        execute: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        arguments: Option<&'a RawValue>,
    }
    let arguments = serde_json::value::to_raw_value(arguments)?;
    let arguments = (arguments.get() != "null").then_some(&*arguments);
    let mut line = serde_json::to_vec(&Line { execute: name, arguments })?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_a_marked_answer_with_the_right_id_synchronises() {
        assert!(synchronised(b"\xff{\"return\": 7}", 7));
        assert!(synchronised(b"{\"return\": 6}\xff\xff{\"return\": 7}\r", 7));
        assert!(!synchronised(b"{\"return\": 7}", 7));
        assert!(!synchronised(b"\xff{\"return\": 8}", 7));
        assert!(!synchronised(b"\xff{\"return\": \"7\"}", 7));
        assert!(!synchronised(b"\xff{\"return\": 7}\xff", 7));
        assert!(!synchronised(b"", 7));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(line in prop::collection::vec(any::<u8>(), 0..200)) {
            synchronised(&line, 1);
        }
    }
}
