//! Simulated hosts, and a server's mind with them, in one process: for tests of `control` and of
//! what stands on it, without QEMU, root or network.
//!
//! * [`SimHost`] keeps the agent contract (journal of operations, epochs, events that begin with the
//!   whole inventory) over a map instead of a machine, and goes wrong on demand ([`Fault`]).
//! * [`Fleet`] is a [`World`](hostler_control::World) on a fresh store with such hosts.
//!
//! * [`bulk`] writes a store with thousands of hosts, and [`serve`] answers for their agents over
//!   the network: what `hostler-fleet` puts before a real server.
//!
//! What it deliberately does not do: time. Everything is instant unless a fault holds it up.

pub mod bulk;
mod faults;
mod files;
mod fleet;
mod host;
mod link;
pub mod serve;
mod storage;

pub use faults::{Fault, Gate};
pub use fleet::{Fleet, SimConnector, vm_request};
pub use host::{SimHost, SimVm, guest_cpu};
pub use storage::{SimStorage, describe as describe_snapshots};
