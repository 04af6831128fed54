//! QEMU's commands as types, one module per topic.
//!
//! A command is a struct whose fields are its arguments, serialised as QMP wants them. A field
//! that is `None` is left out. Answers are read leniently: unknown fields are ignored and unknown
//! names of an enumeration become its `Other`.

mod block;
mod block_job;
mod chardev;
mod cpu;
mod device;
mod display;
mod fd;
mod job;
mod memory;
mod migration;
mod object;
mod status;

pub use block::*;
pub use block_job::*;
pub use chardev::*;
pub use cpu::*;
pub use device::*;
pub use display::*;
pub use fd::*;
pub use job::*;
pub use memory::*;
pub use migration::*;
pub use object::*;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
pub use status::*;

/// Something QEMU or a guest agent can be told to do.
///
/// The value itself is serialised as the arguments; a unit struct has none.
pub trait Command: Serialize {
    /// Its name on the wire.
    const NAME: &'static str;
    /// What its answer holds.
    type Return: DeserializeOwned;
}

/// The answer of a command that only succeeds: an empty object, or whatever a later version puts
/// into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Empty {}
