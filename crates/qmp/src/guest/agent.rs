//! The handle through which everybody talks to one guest agent.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::value::RawValue;
use thiserror::Error;
use tokio::{
    net::UnixStream,
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

use super::{
    command::GuestCommand,
    session::{Request, Session},
    system::{Shutdown, ShutdownMode},
    text::GuestText,
};
use crate::error::ErrorClass;

/// Requests waiting for their turn; more callers wait outside, under their own deadline.
const QUEUE: usize = 16;

/// How long an agent may take to refuse a shutdown. It does not answer if it obeys.
const SHUTDOWN_REFUSAL: Duration = Duration::from_secs(2);

/// Limits of one guest agent connection.
#[derive(Debug, Clone)]
pub struct GuestOptions {
    /// How long a command may take, synchronisation and waiting for its turn included.
    pub command_timeout: Duration,
    /// The longest answer, in bytes.
    pub max_line: usize,
}

impl Default for GuestOptions {
    fn default() -> Self {
        Self { command_timeout: Duration::from_secs(10), max_line: 1 << 20 }
    }
}

/// Why a guest agent's command has no result.
#[derive(Debug, Clone, Error)]
pub enum GuestError {
    /// No agent answered the synchronisation: none runs, or it hangs. The command was not sent.
    #[error("the guest agent did not respond within {} ms", after.as_millis())]
    Unresponsive {
        /// The limit that passed.
        after: Duration,
    },
    /// The agent was there but did not answer this command. It may have run it.
    #[error("the guest agent did not answer {command} within {} ms", after.as_millis())]
    Timeout {
        /// The command's name.
        command: &'static str,
        /// The limit that passed.
        after: Duration,
    },
    /// The agent refused the command or failed at it.
    #[error("the guest agent refused {command}: {description}")]
    Refused {
        /// The command's name.
        command: &'static str,
        /// The error's class.
        class: ErrorClass,
        /// The guest's sentence.
        description: GuestText,
    },
    /// The answer is longer than allowed.
    #[error("the guest agent's answer to {command} has more than {limit} bytes")]
    TooLong {
        /// The command's name.
        command: &'static str,
        /// The limit in bytes.
        limit: usize,
    },
    /// The answer is not what this command's answer is.
    #[error("the guest agent's answer to {command} has an unexpected form")]
    Answer {
        /// The command's name.
        command: &'static str,
        /// What did not fit.
        #[source]
        source: Arc<serde_json::Error>,
    },
    /// The arguments cannot be written as JSON; nothing was sent.
    #[error("the arguments of {command} cannot be encoded")]
    Encode {
        /// The command's name.
        command: &'static str,
        /// What did not fit.
        #[source]
        source: Arc<serde_json::Error>,
    },
    /// The agent sends line after line that answers nothing.
    #[error("the guest agent sent {lines} lines that answer nothing")]
    Babbling {
        /// How many were read before giving up.
        lines: usize,
    },
    /// A program started in the guest did not end in time. It may still run.
    #[error("the program in the guest did not end within {} ms", after.as_millis())]
    StillRunning {
        /// The limit that passed.
        after: Duration,
        /// Its process id in the guest.
        pid: i64,
    },
    /// QEMU closed the channel, which it does when it ends.
    #[error("the guest agent's channel is closed")]
    Closed,
    /// The channel's socket failed.
    #[error("the guest agent's socket failed")]
    Io(#[source] Arc<io::Error>),
}

impl GuestError {
    /// Whether the channel is gone, so that a new connection is needed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed | Self::Io(_))
    }

    /// Whether the agent does not have the command, or its administrator switched it off.
    #[must_use]
    pub fn is_command_not_found(&self) -> bool {
        matches!(self, Self::Refused { class: ErrorClass::CommandNotFound, .. })
    }
}

/// A connection to one guest's agent. Clones share it; it closes when the last is dropped.
///
/// Commands run one at a time. A failed or late one does not harm the next, so the handle is kept
/// while QEMU runs, whether or not an agent does.
#[derive(Debug, Clone)]
pub struct GuestAgent {
    requests: mpsc::Sender<Request>,
    options: GuestOptions,
}

impl GuestAgent {
    /// Takes the socket of the guest agent's channel. Nothing is sent before the first command.
    #[must_use]
    pub fn new(stream: UnixStream, options: GuestOptions) -> Self {
        let (requests, queue) = mpsc::channel(QUEUE);
        // Ends by itself: with the socket, or with the last handle.
        tokio::spawn(Session::new(stream, options.max_line).run(queue));
        Self { requests, options }
    }

    /// Runs a command under the connection's usual time limit.
    ///
    /// # Errors
    /// See [`GuestError`].
    pub async fn execute<C: GuestCommand>(&self, command: C) -> Result<C::Return, GuestError> {
        self.execute_within(command, self.options.command_timeout).await
    }

    /// Runs a command that may take `within`, synchronisation and waiting for its turn included.
    ///
    /// # Errors
    /// See [`GuestError`].
    pub async fn execute_within<C: GuestCommand>(
        &self,
        command: C,
        within: Duration,
    ) -> Result<C::Return, GuestError> {
        self.call(&command, within, self.options.max_line).await
    }

    /// Waits until the agent answers, and asks it nothing: that it answers a synchronisation says all
    /// that a `guest-ping` would, in one exchange instead of two.
    ///
    /// # Errors
    /// See [`GuestError`].
    pub async fn answers(&self, within: Duration) -> Result<(), GuestError> {
        self.request("guest-sync-delimited", None, within, self.options.max_line).await.map(drop)
    }

    /// Tells the guest to shut down or reboot. Success means that it did not refuse; the end is
    /// seen by QEMU's event.
    ///
    /// # Errors
    /// [`GuestError::Unresponsive`] if there is no agent, [`GuestError::Refused`] if it refuses.
    pub async fn shutdown(&self, mode: ShutdownMode) -> Result<(), GuestError> {
        // An agent that obeys does not answer, but it must answer the synchronisation before.
        match self.execute_within(Shutdown { mode }, SHUTDOWN_REFUSAL).await {
            Ok(_) | Err(GuestError::Timeout { .. } | GuestError::Closed) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The limits this connection was made with.
    #[must_use]
    pub fn options(&self) -> &GuestOptions {
        &self.options
    }

    pub(super) async fn call<C: GuestCommand>(
        &self,
        command: &C,
        within: Duration,
        max_line: usize,
    ) -> Result<C::Return, GuestError> {
        let answer = self.raw_call(C::NAME, command, within, max_line).await?;
        serde_json::from_str(answer.get())
            .map_err(|error| GuestError::Answer { command: C::NAME, source: Arc::new(error) })
    }

    /// The part of a call that does not depend on the answer's type.
    async fn raw_call(
        &self,
        command: &'static str,
        arguments: &impl serde::Serialize,
        within: Duration,
        max_line: usize,
    ) -> Result<Box<RawValue>, GuestError> {
        let line = super::session::encode(command, arguments)
            .map_err(|error| GuestError::Encode { command, source: Arc::new(error) })?;
        self.request(command, Some(line), within, max_line).await
    }

    async fn request(
        &self,
        command: &'static str,
        line: Option<Vec<u8>>,
        within: Duration,
        max_line: usize,
    ) -> Result<Box<RawValue>, GuestError> {
        let deadline = Instant::now() + within;
        let sent = Arc::new(AtomicBool::new(false));
        let (reply, answer) = oneshot::channel();
        let request =
            Request { command, line, deadline, within, max_line, sent: sent.clone(), reply };

        let answered = async {
            self.requests.send(request).await.map_err(|_| GuestError::Closed)?;
            answer.await.map_err(|_| GuestError::Closed)?
        };
        timeout_at(deadline, answered)
            .await
            .unwrap_or_else(|_| Err(timed_out(command, within, sent.load(Ordering::Acquire))))
    }
}

/// The error for a deadline that passed, by whether the command had been sent.
pub(super) fn timed_out(command: &'static str, after: Duration, sent: bool) -> GuestError {
    if sent { GuestError::Timeout { command, after } } else { GuestError::Unresponsive { after } }
}
