//! The brain: it decides, records and orders. Never sees HTTP or the public API's types.
//!
//! * [`services`]: one function per thing that a client can ask for. Each authorises its
//!   [`Actor`] first, validates the request against the [`Inventory`], and answers from the
//!   inventory or hands a task to the engine. The crate `server` calls them.
//! * `tasks`: one file per verb; each opens with its steps.
//! * `controllers`: loops that re-read the world: the hosts' event streams, housekeeping.
//! * [`World`]: what all of them work with. [`World::open`] loads it, [`World::start`] recovers the
//!   unfinished tasks and starts the controllers.
//!
//! Reads are answered from memory; the store's change log feeds it, so that a client that has been
//! told of a commit finds it there.

mod actor;
mod agents;
mod attempts;
mod auth;
mod baseline;
mod controllers;
mod customize;
mod drs;
mod error;
mod idempotency;
mod inventory;
mod machine;
mod migrations;
mod move_forecast;
mod placement;
mod pools;
mod progress;
mod redact;
mod reports;
mod secret;
mod setup;
mod tasks;
mod webhook;
mod world;

pub mod services;
#[doc(hidden)]
pub mod testing;

pub use actor::{Actor, Via};
pub use agents::{AgentError, AgentLink, Connector, RemoteConnector};
pub use auth::authenticate;
pub use error::{Class, FieldError, ServiceError};
pub use inventory::{Collection, Held, Inventory, Snapshot};
pub use redact::Shown;
pub use setup::{LocalHost, ensure_local_host};
pub use webhook::WebhookRules;
pub use world::{BalancingPace, Core, Running, Settings, World, WorldOptions};
