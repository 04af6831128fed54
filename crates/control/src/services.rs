//! One function per thing that a client can ask for. Resource first, verb second: `vm::start`.
//!
//! Every function's first line authorises the actor. What changes the world is handed to the task
//! engine, and the task is returned as soon as it is on disk. All that is returned has passed
//! `redact`.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use hostler_types::{Name, Object, PlacementExplanation, Revision, Task};

use crate::error::ServiceError;
use crate::inventory::Snapshot;
use crate::redact::Shown;

pub mod approval_rule;
pub mod cluster;
pub mod console;
pub mod customization_spec;
pub mod datastore;
pub mod drs;
pub mod event;
pub mod group;
pub mod host;
pub mod image;
pub mod join_token;
pub mod naming_rule;
pub mod network;
pub mod placement;
pub mod pool;
pub mod request;
pub mod rule;
pub mod snapshot_policy;
pub mod stats;
pub mod task;
pub mod template;
pub mod token;
pub mod user;
pub mod vm;
pub mod watch;

mod submit;

pub(crate) use submit::Order;

/// How a changing request is meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Check, decide and explain, and change nothing.
    pub dry_run: bool,
    /// The same key with the same request is carried out once; 1 to 255 characters.
    pub idempotency_key: Option<String>,
}

/// What a changing request about a `T` led to.
#[derive(Debug, Clone)]
pub struct Changed<T> {
    pub object: Arc<T>,
    /// The task that does the work; absent when it is done already, and for a dry run.
    pub task: Option<Arc<Task>>,
    /// What was decided and why, in sentences.
    pub explanation: Vec<String>,
    /// All filters and scores of the VMs that would be placed; only for a dry run.
    pub explained: Vec<PlacementExplanation>,
}

/// Which part of a list is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// 1 to 10,000; absent: 10,000.
    pub limit: Option<u32>,
    /// The `next` of the page before.
    pub after: Option<String>,
    /// Only objects with all of these label keys, and with the value where it matters.
    pub labels: Vec<(String, Option<String>)>,
    /// Only objects whose name begins with this.
    pub name: Option<String>,
}

#[derive(Debug, Clone)]
pub struct Page<T> {
    pub items: Vec<Arc<T>>,
    /// Where the next page begins; absent on the last one.
    pub next: Option<String>,
    /// The revision that the list was read at: watch from here without a gap.
    pub revision: Revision,
}

/// Items as they happen, until the receiver goes or an error ends it.
pub type Updates<T> = Pin<Box<dyn Stream<Item = Result<T, ServiceError>> + Send + 'static>>;

const LONGEST_PAGE: u32 = 10_000;

impl PageRequest {
    fn keeps<K: Shown>(&self, object: &Object<K>) -> bool {
        let labels = &object.metadata.labels;
        self.name.as_ref().is_none_or(|start| object.name().as_str().starts_with(start.as_str()))
            && self.labels.iter().all(|(key, wanted)| {
                let value = labels.get(key);
                value.is_some() && (wanted.is_none() || value == wanted.as_ref())
            })
    }

    fn limit(&self) -> Result<usize, ServiceError> {
        let limit = self.limit.unwrap_or(LONGEST_PAGE);
        if !(1..=LONGEST_PAGE).contains(&limit) {
            let reason = format!("{limit} is not possible; 1 to {LONGEST_PAGE}");
            return Err(ServiceError::invalid("limit", reason));
        }
        Ok(limit as usize)
    }
}

/// A page in the order of names.
fn page<K: Shown>(
    snapshot: &Snapshot,
    request: &PageRequest,
    keep: impl Fn(&Object<K>) -> bool,
) -> Result<Page<Object<K>>, ServiceError> {
    let limit = request.limit()?;
    let after: Option<Name> = match &request.after {
        Some(text) => Some(
            text.parse()
                .map_err(|_| ServiceError::invalid("after", "this is not the `next` of a page"))?,
        ),
        None => None,
    };
    let mut rest = snapshot
        .all::<K>()
        .after(after.as_ref())
        .filter(|object| request.keeps(object) && keep(object));
    let items: Vec<_> = rest.by_ref().take(limit).map(K::shown).collect();
    let more = rest.next().is_some();
    let next = items.last().filter(|_| more).map(|last| last.name().to_string());
    Ok(Page { items, next, revision: snapshot.revision })
}

/// Refuses to change what has changed since the client read it.
fn require_revision<K: Shown>(
    object: &Object<K>,
    expected: Option<Revision>,
) -> Result<(), ServiceError> {
    let actual = object.metadata.revision;
    match expected {
        Some(expected) if expected != actual => Err(ServiceError::conflict(
            "stale_revision",
            format!(
                "{} `{}` was changed by someone else: it is at revision {actual}, not {expected}",
                K::NAME,
                object.name(),
            ),
        )
        .hint("read it again and repeat the change on what it is now")),
        _ => Ok(()),
    }
}

/// `1 VM`, `2 VMs`.
pub(crate) fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}
