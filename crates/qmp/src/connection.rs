//! The task that owns the socket: sends one command at a time, gives each answer to its caller
//! and each event to the subscribers.
//!
//! One at a time, because QEMU keeps only the file descriptors of the last message it read, and
//! because it runs commands in order anyway. A caller that stopped waiting is not forgotten: the
//! next command goes out only after the late answer has come and been discarded.

use std::{
    convert::Infallible,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use bytes::BytesMut;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::value::RawValue;
use tokio::{
    io::Interest,
    net::UnixStream,
    sync::{broadcast, mpsc, oneshot, watch},
};
use tracing::{debug, trace};

use crate::{
    client::{MAX_FDS, Options},
    error::{CloseReason, QmpError},
    event::{Event, TimedEvent},
    line::{LineBuffer, LineTooLong},
    wire::{Greeting, Message, excerpt},
};

/// One command on its way.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) command: &'static str,
    pub(crate) id: u64,
    /// What is still to be sent.
    pub(crate) line: Vec<u8>,
    /// Goes with the first byte; empty afterwards.
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) reply: oneshot::Sender<Result<Box<RawValue>, QmpError>>,
}

#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    lines: LineBuffer,
    max_line: usize,
    max_event: usize,
}

impl Connection {
    pub(crate) fn new(stream: UnixStream, options: &Options) -> Self {
        Self {
            stream,
            lines: LineBuffer::new(options.max_line),
            max_line: options.max_line,
            max_event: options.max_event,
        }
    }

    /// Reads the first line.
    pub(crate) async fn greeting(&mut self) -> Result<Greeting, CloseReason> {
        let line = loop {
            if let Some(line) = self.next_line()? {
                break line;
            }
            self.stream.readable().await.map_err(io_reason)?;
            self.read()?;
        };
        match parse(&line)? {
            Message::Greeting(greeting) => Ok(greeting),
            Message::Return { .. } | Message::Error { .. } => {
                Err(CloseReason::Unsolicited { what: "an answer" })
            }
            Message::Event { .. } => Err(CloseReason::Unsolicited { what: "an event" }),
        }
    }

    /// Serves calls until the socket or the last handle is gone.
    pub(crate) async fn run(
        mut self,
        mut queue: mpsc::Receiver<Call>,
        mut alive: oneshot::Receiver<Infallible>,
        events: broadcast::Sender<TimedEvent>,
        closer: watch::Sender<Option<CloseReason>>,
    ) {
        let reason = self.serve(&mut queue, &mut alive, &events).await;
        debug!(%reason, "QMP connection closed");
        // The reason is there before anybody can see that the connection is gone: dropping the
        // queue and the senders wakes every waiter.
        closer.send_replace(Some(reason));
    }

    async fn serve(
        &mut self,
        queue: &mut mpsc::Receiver<Call>,
        alive: &mut oneshot::Receiver<Infallible>,
        events: &broadcast::Sender<TimedEvent>,
    ) -> CloseReason {
        let mut in_flight: Option<Call> = None;
        loop {
            let unsent = in_flight.as_ref().is_some_and(|call| !call.line.is_empty());
            // Every branch is cancel safe: `recv` by contract, the others only wait.
            let result = tokio::select! {
                // Not left to `recv`, which is not asked while a command is under way.
                _ = &mut *alive => return CloseReason::Released,
                call = queue.recv(), if in_flight.is_none() => match call {
                    // Its caller gave up before it was sent: nothing has happened.
                    Some(call) if call.reply.is_closed() => Ok(()),
                    Some(call) => {
                        trace!(command = call.command, id = call.id, "QMP command");
                        self.send(in_flight.insert(call))
                    }
                    None => return CloseReason::Released,
                },
                ready = self.stream.writable(), if unsent => match (ready, &mut in_flight) {
                    (Ok(()), Some(call)) => self.send(call),
                    (Ok(()), None) => Ok(()),
                    (Err(error), _) => Err(io_reason(error)),
                },
                ready = self.stream.readable() => match ready {
                    Ok(()) => self.read_messages(&mut in_flight, events),
                    Err(error) => Err(io_reason(error)),
                },
            };
            if let Err(reason) = result {
                return reason;
            }
        }
    }

    /// Sends what the socket takes of a call.
    fn send(&self, call: &mut Call) -> Result<(), CloseReason> {
        let sent = self.stream.try_io(Interest::WRITABLE, || {
            Ok(send_with_fds(self.stream.as_fd(), &call.line, &call.fds)?)
        });
        match sent {
            Ok(count) => {
                call.line.drain(..count);
                call.fds.clear();
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            // QEMU has gone; what it said before is still to be read and says more.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                call.line.clear();
                Ok(())
            }
            Err(error) => Err(io_reason(error)),
        }
    }

    fn read_messages(
        &mut self,
        in_flight: &mut Option<Call>,
        events: &broadcast::Sender<TimedEvent>,
    ) -> Result<(), CloseReason> {
        self.read()?;
        while let Some(line) = self.next_line()? {
            match parse(&line)? {
                Message::Greeting(_) => {
                    return Err(CloseReason::Unsolicited { what: "a second greeting" });
                }
                Message::Return { id, value } => {
                    let call = answered(in_flight, id)?;
                    // An error means that the caller stopped waiting.
                    let _ = call.reply.send(Ok(value.to_owned()));
                }
                Message::Error { id, error } => {
                    let call = answered(in_flight, id)?;
                    let command = call.command;
                    let refused =
                        QmpError::Refused { command, class: error.class, description: error.desc };
                    let _ = call.reply.send(Err(refused));
                }
                Message::Event { name, data, timestamp } => {
                    if line.len() > self.max_event {
                        return Err(CloseReason::TooLong { limit: self.max_event });
                    }
                    trace!(%name, "QMP event");
                    let event = Event::parse(&name, data);
                    // An error means that nobody listens.
                    let _ = events.send(TimedEvent { timestamp, event });
                }
            }
        }
        Ok(())
    }

    /// One read from the socket, which need not yield anything.
    fn read(&mut self) -> Result<(), CloseReason> {
        match self.stream.try_read_buf(&mut self.lines.spare()) {
            Ok(0) if self.lines.is_empty() => Err(CloseReason::Ended),
            Ok(0) => Err(CloseReason::EndedInMessage),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Err(CloseReason::Ended),
            Err(error) => Err(io_reason(error)),
        }
    }

    fn next_line(&mut self) -> Result<Option<BytesMut>, CloseReason> {
        self.lines.next_line().map_err(|LineTooLong| CloseReason::TooLong { limit: self.max_line })
    }
}

/// Takes the call that an answer belongs to.
fn answered(in_flight: &mut Option<Call>, id: Option<u64>) -> Result<Call, CloseReason> {
    // QEMU repeats the id of what it could parse, and all that we send is well-formed.
    in_flight
        .take_if(|call| call.line.is_empty() && id == Some(call.id))
        .ok_or(CloseReason::Unsolicited { what: "an answer" })
}

fn parse(line: &[u8]) -> Result<Message<'_>, CloseReason> {
    Message::parse(line)
        .map_err(|error| CloseReason::Malformed { excerpt: excerpt(line), source: Arc::new(error) })
}

fn io_reason(error: io::Error) -> CloseReason {
    CloseReason::Io(Arc::new(error))
}

/// One `sendmsg`. The descriptors go with the first byte, so they are sent if anything is.
fn send_with_fds(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[OwnedFd],
) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(rustix::io::Errno::TOOMANYREFS);
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
}
