//! The host daemon: one actor per VM, inventory, reports.
//!
//! It obeys the contract in `hostler-agent-api`, which the server alone may call; it decides
//! nothing but what to do when a guest's QEMU dies while nobody is asked. It owns the QEMU processes
//! of its host, but they outlive it: everything it needs to find them again is on disk.
//!
//! * [`run`]: the daemon. Listens first, then finds its guests again, then serves.
//! * [`join`]: makes this machine a host.
//!
//! Used by the binary, `hostler agent`; a server that runs its own agent starts the same binary.

mod blocking;
mod cancel;
mod config;
mod context;
mod daemon;
mod datastores;
mod events;
mod export;
mod facts;
mod fault;
mod files;
mod image;
mod join;
mod listener;
mod measure;
mod networks;
mod operations;
mod peers;
mod references;
mod resources;
mod routes;
mod seats;
mod state_file;
mod vm;

pub use config::{AgentConfig, identity_path, ready_path};
pub use daemon::{AgentError, run, run_until_signalled};
pub use join::{JoinError, JoinRequest, join};
