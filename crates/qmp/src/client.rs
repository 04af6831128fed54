//! The handle through which everybody talks to one QEMU.

use std::{
    convert::Infallible,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::value::RawValue;
use tokio::{
    net::UnixStream,
    sync::{broadcast, mpsc, oneshot, watch},
    time::{Instant, timeout, timeout_at},
};

use crate::{
    command::{Command, QmpCapabilities},
    connection::{Call, Connection},
    error::{CloseReason, QmpError},
    event::TimedEvent,
    subscription::{Events, close_reason},
    wire::{self, QemuVersion},
};

/// How long QEMU may take to answer a command unless told otherwise. Its monitor answers within
/// milliseconds; what takes longer is a job with an event at its end.
pub const DEFAULT_COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// How many file descriptors one command may pass.
pub const MAX_FDS: usize = 8;

/// Commands waiting for their turn; more callers wait outside, under their own deadline.
const QUEUE: usize = 64;

/// Limits of one connection.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long to wait for the greeting, counted from the call of [`Qmp::connect`]. QEMU sends
    /// it once it runs its main loop, so this covers QEMU's start too.
    pub greeting_timeout: Duration,
    /// How long a command may take.
    pub command_timeout: Duration,
    /// The longest line, in bytes. `query-qmp-schema` answers with some 240 KB.
    pub max_line: usize,
    /// The longest event, in bytes. Real ones have a few hundred; the limit keeps the memory held
    /// for a slow reader below `max_event` times `event_queue`.
    pub max_event: usize,
    /// How many events are kept for a slow reader before it misses the oldest.
    pub event_queue: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            greeting_timeout: Duration::from_secs(10),
            command_timeout: DEFAULT_COMMAND_TIMEOUT,
            max_line: 16 << 20,
            max_event: 64 << 10,
            event_queue: 256,
        }
    }
}

/// A connection to one QEMU's monitor. Clones share it; it closes when the last is dropped.
///
/// Commands are sent one at a time, in the order of the calls: QEMU runs them in that order
/// anyway.
#[derive(Debug, Clone)]
pub struct Qmp {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    calls: mpsc::Sender<Call>,
    /// Dropped with the last handle, which ends the owner task.
    _alive: oneshot::Sender<Infallible>,
    // Weak, so that subscribers see the end when the owner task ends.
    events: broadcast::WeakSender<TimedEvent>,
    closed: watch::Receiver<Option<CloseReason>>,
    next_id: AtomicU64,
    version: QemuVersion,
    command_timeout: Duration,
}

impl Qmp {
    /// Waits for the greeting and leaves negotiation mode. The returned [`Events`] miss nothing.
    ///
    /// # Errors
    /// [`QmpError::NoGreeting`] if QEMU is silent, [`QmpError::Closed`] if it says something else
    /// or ends.
    pub async fn connect(stream: UnixStream, options: Options) -> Result<(Self, Events), QmpError> {
        let mut connection = Connection::new(stream, &options);
        let after = options.greeting_timeout;
        let greeting = timeout(after, connection.greeting())
            .await
            .map_err(|_| QmpError::NoGreeting { after })?
            .map_err(QmpError::Closed)?;

        let (calls, queue) = mpsc::channel(QUEUE);
        let (alive, watched) = oneshot::channel();
        let (events, subscription) = broadcast::channel(options.event_queue.max(1));
        let (closer, closed) = watch::channel(None);
        let shared = Shared {
            calls,
            _alive: alive,
            events: events.downgrade(),
            closed: closed.clone(),
            next_id: AtomicU64::new(1),
            version: greeting.version.qemu,
            command_timeout: options.command_timeout,
        };
        // Ends by itself: with the socket, or with the last handle.
        tokio::spawn(connection.run(queue, watched, events, closer));

        let qmp = Self { shared: Arc::new(shared) };
        qmp.execute(QmpCapabilities).await?;
        Ok((qmp, Events { events: subscription, closed }))
    }

    /// Runs a command under the connection's usual time limit.
    ///
    /// # Errors
    /// See [`QmpError`].
    ///
    /// # Cancel safety
    /// A dropped future may leave the command executed; its answer is then discarded.
    pub async fn execute<C: Command>(&self, command: C) -> Result<C::Return, QmpError> {
        self.execute_within(command, self.shared.command_timeout).await
    }

    /// Runs a command that may take `within`, waiting for its turn included.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub async fn execute_within<C: Command>(
        &self,
        command: C,
        within: Duration,
    ) -> Result<C::Return, QmpError> {
        self.call(&command, Vec::new(), within).await
    }

    /// Runs a command that takes file descriptors along (`getfd`, `add-fd`). They are closed here
    /// once sent, or if the command fails.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub async fn execute_with_fds<C: Command>(
        &self,
        command: C,
        fds: Vec<OwnedFd>,
    ) -> Result<C::Return, QmpError> {
        self.call(&command, fds, self.shared.command_timeout).await
    }

    /// A further subscription, from now on.
    #[must_use]
    pub fn subscribe(&self) -> Events {
        let events = match self.shared.events.upgrade() {
            Some(sender) => sender.subscribe(),
            // A channel whose sender is gone: closed from the start.
            None => broadcast::channel(1).1,
        };
        Events { events, closed: self.shared.closed.clone() }
    }

    /// The version QEMU gave in its greeting.
    #[must_use]
    pub fn version(&self) -> QemuVersion {
        self.shared.version
    }

    /// Waits until the connection is gone, and says why.
    pub async fn closed(&self) -> CloseReason {
        close_reason(&mut self.shared.closed.clone()).await
    }

    /// Whether the connection is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.closed.borrow().is_some()
    }

    async fn call<C: Command>(
        &self,
        command: &C,
        fds: Vec<OwnedFd>,
        within: Duration,
    ) -> Result<C::Return, QmpError> {
        let answer = self.raw_call(C::NAME, command, fds, within).await?;
        serde_json::from_str(answer.get())
            .map_err(|error| QmpError::Answer { command: C::NAME, source: Arc::new(error) })
    }

    /// The part of a call that does not depend on the answer's type.
    async fn raw_call(
        &self,
        command: &'static str,
        arguments: &impl serde::Serialize,
        fds: Vec<OwnedFd>,
        within: Duration,
    ) -> Result<Box<RawValue>, QmpError> {
        if fds.len() > MAX_FDS {
            return Err(QmpError::TooManyFds { command, count: fds.len() });
        }
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let line = wire::encode(command, arguments, id)
            .map_err(|error| QmpError::Encode { command, source: Arc::new(error) })?;
        let deadline = Instant::now() + within;
        let timed_out = |_| QmpError::Timeout { command, after: within };

        let (reply, answer) = oneshot::channel();
        let call = Call { command, id, line, fds, reply };
        let sent =
            timeout_at(deadline, self.shared.calls.send(call)).await.map_err(timed_out)?.is_ok();
        if sent && let Ok(answer) = timeout_at(deadline, answer).await.map_err(timed_out)? {
            return answer;
        }
        Err(QmpError::Closed(self.closed().await))
    }
}
