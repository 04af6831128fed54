//! The suite that every store must pass. It knows nothing of SQLite.
//!
//! A store's own tests give a [`Place`] and call each function of `objects`, `log`, `locks`, `decisions`,
//! `drs_runs` and `concurrency` in a test of its own, and [`model::agrees_with_the_model`] once. Each function
//! panics with what is wrong, and needs a place that holds nothing yet.

pub mod concurrency;
pub mod decisions;
pub mod drs_runs;
pub mod locks;
pub mod log;
pub mod model;
pub mod objects;

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use hostler_types::{Id, KindName, Labels, Name, Revision, TaskId};
use jiff::Timestamp;
use serde_json::json;

use crate::batch::{Batch, Committed, Write};
use crate::error::StoreError;
use crate::record::{Json, Record};
use crate::store::Store;

/// Where one store keeps its data.
#[async_trait]
pub trait Place: Send + Sync + Debug {
    /// Opens the store. Once more only when all handles of the last one are gone; it then holds
    /// what was committed.
    async fn open(&self) -> Arc<dyn Store>;
}

/// A record of `kind` named `name` whose spec is `{"size": <size>}`.
pub fn record(kind: KindName, name: &str, size: u64) -> Record {
    Record {
        kind,
        id: Id::generate(),
        name: name_of(name),
        labels: Labels::new(),
        generation: 1,
        revision: Revision(0),
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
        spec: Json::from(json!({ "size": size })),
        status: Json::from(json!({ "state": "new" })),
    }
}

/// A batch of `writes` by `ada`, `seconds` after 1970.
pub fn batch(seconds: i64, writes: impl IntoIterator<Item = Write>) -> Batch {
    let at = Timestamp::from_second(seconds).expect("a time in range");
    Batch::new("ada", "a test", at).with_all(writes)
}

/// Commits the creation of `record` and gives it back as it is stored.
///
/// # Panics
/// When the store refuses.
pub async fn create(store: &dyn Store, record: Record) -> Record {
    let committed = store.commit(batch(1, [Write::Create(record)])).await;
    written(&committed.expect("a new record is taken"))
}

fn written(committed: &Committed) -> Record {
    let change = committed.changes.last().expect("something was written");
    change.new.clone().expect("it was not deleted")
}

fn name_of(text: &str) -> Name {
    text.parse().expect("a valid name")
}

fn task() -> TaskId {
    TaskId::generate()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).expect("a time in range")
}

/// A short form of an error, to compare what was refused and why.
fn refusal(result: &Result<Committed, StoreError>) -> &'static str {
    match result {
        Ok(_) => "done",
        Err(StoreError::NameTaken { .. }) => "name taken",
        Err(StoreError::Exists { .. }) => "exists",
        Err(StoreError::NotFound { .. }) => "not found",
        Err(StoreError::Stale { .. }) => "stale",
        Err(StoreError::Locked { .. }) => "locked",
        Err(_) => "trouble",
    }
}
