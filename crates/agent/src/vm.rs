//! One VM on this host: an actor owns its state, everybody else sends messages.
//!
//! ```text
//!  server ──command──> Vms ──message──> Actor ── record (disk), files, networks
//!                                        │ ├──> Machine ── QEMU (monitor, process)
//!                 report (watch, hub) <──┘ └──> guest watcher ── guest agent
//!  viewer, exec, screenshot ──> Live (shared handles; they need not wait for the actor)
//! ```
//!
//! The happy path:
//! * `create`: record, directory, disks, seed, networks, definition, record again;
//! * `start`: group, taps, QEMU, record; the guest watcher begins;
//! * QEMU's events and its process's end move the power state; each change is reported;
//! * `stop`: guest agent or power button, QEMU's end, record; `remove`: files, then record.
//!
//! An operation is answered once it is in the record's journal, and repeated from there.

mod actor;
mod adopt;
mod change;
mod console;
mod copy;
mod create;
mod customize;
mod define;
mod disks_move;
mod exit;
mod flatten;
mod fork;
mod guest;
mod guest_disks;
mod hardware;
mod layers;
mod lend;
mod machine;
mod measure;
mod migrate;
mod nics;
mod power;
mod proof;
mod record;
mod registry;
mod report;
mod restart;
mod screenshot;
mod seal;
mod snapshot;
mod stop;
mod suspend;
mod take;
mod views;

pub(crate) use actor::Action;
pub(crate) use lend::answer as frozen;
pub(crate) use record::Records;
pub(crate) use registry::Vms;
pub(crate) use take::TakeOrder;
