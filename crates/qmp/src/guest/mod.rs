//! The guest agent's protocol.
//!
//! The guest is hostile. It cannot make this side hold more than a bounded line, wait longer than
//! a command's deadline, mistake an old answer for a new one, or carry control characters into a
//! log or a terminal.
//!
//! Before every command the stream is synchronised with `guest-sync-delimited` and a random id:
//! whatever an earlier command that timed out left behind is discarded, and a command is sent only
//! to an agent that answers right now. It cannot lie in a buffer and run an hour later.

mod agent;
mod command;
mod exec;
mod filesystem;
mod network;
mod session;
mod system;
mod text;

pub use agent::{GuestAgent, GuestError, GuestOptions};
pub use command::GuestCommand;
pub use exec::{ExecOutput, ExecRequest};
pub use filesystem::*;
pub use network::*;
pub use system::*;
pub use text::{GuestText, ShortList, sanitize};
