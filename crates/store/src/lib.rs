//! Inventory objects, change log and locks: what Hostler must not forget. All SQL is here.
//!
//! A [`Store`] holds [`Record`]s (objects of every kind, untyped), one append-only log of
//! [`Change`]s, the locks that tasks hold on objects, and the last decisions. Whatever changes goes through
//! [`Store::commit`], which carries out a [`Batch`] wholly or not at all and writes the log in the
//! same transaction. Watches and the server's in-memory inventory read the log through a [`Feed`].
//!
//! [`SqliteStore`] is the only store for now; the `conformance` module (feature of that name) says
//! what any other must do. Nothing here decides anything: who may write what is `control`'s business.

mod batch;
mod change;
#[cfg(feature = "conformance")]
pub mod conformance;
mod decision;
mod error;
mod feed;
mod record;
mod sqlite;
mod store;

pub use batch::{Batch, Committed, MOST_DRS_RUNS, Write};
pub use change::Change;
pub use decision::{KeptDecision, MOST_DECISION_BYTES, MOST_DECISIONS, NewDecision};
pub use error::{Source, StoreError};
pub use feed::{Feed, Lagged, Subscription};
pub use record::{Json, Record};
pub use sqlite::SqliteStore;
pub use store::{HeldLock, Scope, Snapshot, Store};
