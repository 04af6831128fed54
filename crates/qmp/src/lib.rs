//! The QMP protocol only: codec, typed commands and events; and the guest agent's protocol, which
//! is the same JSON in another dialect.
//!
//! This crate knows what can be said to a QEMU process and to a guest agent. It does not know what
//! a VM is, when to say what, or how QEMU is started: that is `hostler-qemu` and the agent.
//!
//! # QMP
//!
//! ```no_run
//! # async fn example(stream: tokio::net::UnixStream) -> Result<(), Box<dyn std::error::Error>> {
//! use hostler_qmp::{Options, Qmp, command::QueryStatus, event::Event};
//!
//! // Greeting and capabilities; the stream may have been connected before QEMU was up.
//! let (qmp, mut events) = Qmp::connect(stream, Options::default()).await?;
//! let status = qmp.execute(QueryStatus).await?;
//! println!("{:?} on QEMU {}", status.status, qmp.version());
//! while let Ok(timed) = events.recv().await {
//!     if let Event::Shutdown(shutdown) = timed.event {
//!         println!("ended, by guest: {}, {:?}", shutdown.guest, shutdown.reason);
//!     }
//! }
//! println!("connection closed: {}", qmp.closed().await);
//! # Ok(())
//! # }
//! ```
//!
//! * [`Qmp`] is a cheap handle; one task owns the socket. [`Qmp::execute`] takes any
//!   [`Command`](command::Command); [`Qmp::execute_within`] sets another time limit and
//!   [`Qmp::execute_with_fds`] passes file descriptors.
//! * [`Events`] is a bounded subscription: a slow reader is told how many events it missed.
//! * Whatever QEMU sends that is not QMP closes the connection; every waiter gets the
//!   [`CloseReason`].
//!
//! # Guest agent
//!
//! ```no_run
//! # async fn example(stream: tokio::net::UnixStream) -> Result<(), Box<dyn std::error::Error>> {
//! use hostler_qmp::guest::{ExecRequest, GetOsinfo, GuestAgent, GuestOptions};
//!
//! let guest = GuestAgent::new(stream, GuestOptions::default());
//! let os = guest.execute(GetOsinfo).await?;
//! println!("{}", os.pretty_name.unwrap_or_default());
//! let output = guest.exec(ExecRequest::new("/bin/uname").arg("-a")).await?;
//! println!("{:?}: {} bytes", output.exit_code, output.stdout.len());
//! # Ok(())
//! # }
//! ```
//!
//! The guest is hostile: every line is capped, every command has one deadline for its whole
//! duration, and every string that comes out of it is a [`guest::GuestText`], stripped of what
//! could command a terminal.

mod client;
pub mod command;
mod connection;
mod error;
pub mod event;
pub mod guest;
mod line;
mod subscription;
mod wire;

pub use client::{DEFAULT_COMMAND_TIMEOUT, MAX_FDS, Options, Qmp};
pub use error::{CloseReason, ErrorClass, QmpError};
pub use subscription::{Events, EventsError};
pub use wire::QemuVersion;
