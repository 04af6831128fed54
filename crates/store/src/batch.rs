//! What is asked of a store in one transaction, and its answer.

use std::sync::Arc;

use hostler_types::{DrsRun, Kind, KindName, Object, ObjectId, Revision, TaskId};
use jiff::Timestamp;

use crate::change::Change;
use crate::decision::NewDecision;
use crate::record::Record;

/// Writes that are carried out together or not at all, in this order.
#[derive(Debug, Clone)]
pub struct Batch {
    pub writes: Vec<Write>,
    /// A user's name, `root` (Unix socket) or `system`.
    pub actor: String,
    /// Why, for people: the event list shows it.
    pub reason: String,
    pub task: Option<TaskId>,
    /// The time of the change, as the log tells it.
    pub at: Timestamp,
}

#[derive(Debug, Clone)]
pub enum Write {
    Create(Record),
    Update {
        record: Record,
        expected: Revision,
    },
    /// For the one owner of an object: overwrites whatever revision is stored. It must exist.
    UpdateAny(Record),
    Delete {
        kind: KindName,
        id: ObjectId,
        expected: Option<Revision>,
    },
    /// Refused if another task holds it; done already if this one does.
    Lock {
        object: ObjectId,
        task: TaskId,
    },
    /// Releases all that the task holds.
    Unlock {
        task: TaskId,
    },
    /// Writes nothing: the batch is refused unless the object exists (at that revision).
    Expect {
        kind: KindName,
        id: ObjectId,
        revision: Option<Revision>,
    },
    /// Writes nothing: the batch is refused if any task holds the object.
    ExpectUnlocked {
        object: ObjectId,
    },
    /// Keeps a decision, by the batch's actor and task; the oldest make room for it.
    Decide(Arc<NewDecision>),
    /// Keeps what balancing does, or what has become of it; the oldest make room for it.
    KeepDrsRun(Arc<DrsRun>),
}

/// How many runs of balancing are kept. Beyond that the oldest go.
pub const MOST_DRS_RUNS: usize = 1_000;
/// And how many bytes they may be together. The newest stays however large it is.
pub(crate) const MOST_DRS_RUN_BYTES: u64 = 64 << 20;
/// A run that is so much older than the newest goes.
pub(crate) const OLDEST_DRS_RUN: jiff::SignedDuration = jiff::SignedDuration::from_hours(365 * 24);

impl Batch {
    pub fn new(actor: impl Into<String>, reason: impl Into<String>, at: Timestamp) -> Self {
        Self { writes: Vec::new(), actor: actor.into(), reason: reason.into(), task: None, at }
    }

    #[must_use]
    pub fn task(mut self, task: TaskId) -> Self {
        self.task = Some(task);
        self
    }

    #[must_use]
    pub fn with(mut self, write: Write) -> Self {
        self.writes.push(write);
        self
    }

    #[must_use]
    pub fn with_all(mut self, writes: impl IntoIterator<Item = Write>) -> Self {
        self.writes.extend(writes);
        self
    }
}

impl Write {
    /// Whether it changes an object, and so has an entry in the log.
    pub(crate) fn is_logged(&self) -> bool {
        match self {
            Self::Create(_) | Self::Update { .. } | Self::UpdateAny(_) | Self::Delete { .. } => {
                true
            }
            Self::Lock { .. }
            | Self::Unlock { .. }
            | Self::Expect { .. }
            | Self::ExpectUnlocked { .. }
            | Self::Decide(_)
            | Self::KeepDrsRun(_) => false,
        }
    }

    pub fn create<K: Kind>(object: &Object<K>) -> Self {
        Self::Create(Record::from_object(object))
    }

    /// Expects the revision that `object` was read at.
    pub fn update<K: Kind>(object: &Object<K>) -> Self {
        Self::Update { record: Record::from_object(object), expected: object.metadata.revision }
    }

    pub fn update_any<K: Kind>(object: &Object<K>) -> Self {
        Self::UpdateAny(Record::from_object(object))
    }

    /// Expects the revision that `object` was read at.
    pub fn delete<K: Kind>(object: &Object<K>) -> Self {
        Self::Delete {
            kind: K::NAME,
            id: object.id().untyped(),
            expected: Some(object.metadata.revision),
        }
    }
}

/// What a batch has changed: one entry per object written, in the batch's order.
#[derive(Debug, Clone)]
pub struct Committed {
    pub changes: Vec<Arc<Change>>,
    /// The last of these changes; for a batch without object writes, the last before it.
    pub revision: Revision,
}
