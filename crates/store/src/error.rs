//! What a store can refuse, and what can go wrong beneath it.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use hostler_types::{KindName, Name, ObjectId, Revision, TaskId};

/// The cause of an error; shared, because one failed transaction fails every batch in it.
pub type Source = Arc<dyn Error + Send + Sync>;

#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    #[error("there is already a {kind} named `{name}`")]
    NameTaken { kind: KindName, name: Name },
    #[error("there is already a {kind} with the id {id}")]
    Exists { kind: KindName, id: ObjectId },
    #[error("there is no {kind} with the id {id}")]
    NotFound { kind: KindName, id: ObjectId },
    #[error(
        "the {kind} {id} was changed by someone else: revision {actual} is stored, {expected} was expected"
    )]
    Stale { kind: KindName, id: ObjectId, expected: Revision, actual: Revision },
    #[error("the object {object} is locked by the task {by}")]
    Locked { object: ObjectId, by: TaskId },
    #[error("no space is left to store the change")]
    Full {
        #[source]
        source: Source,
    },
    #[error("{attempt} failed")]
    Io {
        /// What was attempted, such as "opening /var/lib/hostler/hostler.db".
        attempt: String,
        #[source]
        source: Source,
    },
    #[error(
        "{} is damaged or not a database; nothing was changed; restore it from a backup", path.display()
    )]
    Corrupt {
        path: PathBuf,
        #[source]
        source: Source,
    },
    #[error("{} is a database, but not one of Hostler; nothing was changed", path.display())]
    Foreign { path: PathBuf },
    #[error("{} is in use by another process", path.display())]
    InUse { path: PathBuf },
    #[error(
        "{} was written by a newer Hostler (schema {found}; this one knows up to {known}); install that version or restore a backup",
        path.display()
    )]
    TooNew { path: PathBuf, found: u32, known: u32 },
    #[error("the stored {kind} `{name}` cannot be read: {message}")]
    Decode { kind: KindName, name: String, message: String },
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Whether the same batch may succeed later without any change to it: the trouble is the
    /// store's, not the batch's.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::Io { .. })
    }
}
