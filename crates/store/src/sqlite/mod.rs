//! The store in one SQLite file: WAL, `synchronous=FULL`.
//!
//! One thread owns the connection that writes and commits in groups (`writer`); reads have
//! connections of their own (`readers`) and see what has been committed. Only one process may have
//! the file open (`files`); its schema is brought up to date when it is opened (`schema`).

mod apply;
mod decisions;
mod drs_runs;
mod fault;
mod files;
mod readers;
mod row;
mod schema;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hostler_types::{
    Decision, DecisionId, DrsRun, KindName, Name, ObjectId, Revision, TaskId, VmId,
};
use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::broadcast;

use crate::batch::{Batch, Committed};
use crate::change::Change;
use crate::decision::KeptDecision;
use crate::error::StoreError;
use crate::feed::Subscription;
use crate::record::Record;
use crate::store::{HeldLock, Scope, Snapshot, Store};

/// Changes that a subscriber may fall behind before it is told so.
const SUBSCRIPTION_CAPACITY: usize = 1024;
/// How long SQLite waits for a checkpoint or another connection before it gives up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// See the module. Dropping it ends the writer after the batches it has been given.
#[derive(Debug)]
pub struct SqliteStore {
    readers: readers::Readers,
    writer: writer::Writer,
    changes: broadcast::Sender<Arc<Change>>,
    /// Last, so that it is released after the connections are closed.
    _lock: files::Lock,
}

impl SqliteStore {
    /// Opens the database at `path` or makes it, with its directory; brings the schema up to date.
    ///
    /// Blocks for some milliseconds.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::Corrupt`], [`StoreError::Foreign`],
    /// [`StoreError::TooNew`], [`StoreError::Io`]. An existing file is then as it was.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref();
        files::prepare_directory(path)?;
        let lock = files::Lock::acquire(path)?;
        files::prepare_file(path)?;
        let connection = open_for_writing(path)?;
        let (changes, _) = broadcast::channel(SUBSCRIPTION_CAPACITY);
        Ok(Self {
            readers: readers::Readers::new(path.to_owned()),
            writer: writer::Writer::start(connection, path.to_owned(), changes.clone())?,
            changes,
            _lock: lock,
        })
    }
}

fn open_for_writing(path: &Path) -> Result<Connection, StoreError> {
    let failed = |error| classify(path, "opening", error);
    let mut connection = Connection::open(path).map_err(failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    schema::check(&connection, path)?;
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             PRAGMA foreign_keys = ON;
             PRAGMA mmap_size = 0;
             PRAGMA cache_size = -2048;
             PRAGMA journal_size_limit = 16777216;",
        )
        .map_err(failed)?;
    schema::migrate(&mut connection, path)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

#[async_trait]
impl Store for SqliteStore {
    async fn commit(&self, batch: Batch) -> Result<Committed, StoreError> {
        self.writer.commit(batch).await
    }

    async fn get(&self, kind: KindName, id: ObjectId) -> Result<Option<Record>, StoreError> {
        self.readers.read("reading an object", move |c| row::get(c, kind, id)).await
    }

    async fn get_by_name(&self, kind: KindName, name: &Name) -> Result<Option<Record>, StoreError> {
        let name = name.clone();
        self.readers.read("reading an object", move |c| row::get_by_name(c, kind, &name)).await
    }

    async fn list(
        &self,
        kind: KindName,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        let after = after.cloned();
        self.readers
            .read("listing objects", move |c| row::list(c, kind, after.as_ref(), limit))
            .await
    }

    async fn load_all(&self) -> Result<Snapshot, StoreError> {
        self.readers.read("loading the inventory", row::load_all).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.readers.read("reading the revision", row::revision).await
    }

    async fn changes_after(
        &self,
        revision: Revision,
        limit: usize,
    ) -> Result<Vec<Change>, StoreError> {
        self.readers
            .read("reading the change log", move |c| row::changes_after(c, revision, limit))
            .await
    }

    async fn as_of(&self, scope: Scope, at: Timestamp) -> Result<Snapshot, StoreError> {
        self.readers.read("reading the past", move |c| row::as_of(c, scope, at)).await
    }

    async fn locks(&self) -> Result<Vec<HeldLock>, StoreError> {
        self.readers.read("reading the locks", row::locks).await
    }

    async fn decision(&self, id: DecisionId) -> Result<Option<KeptDecision>, StoreError> {
        self.readers.read("reading a decision", move |c| decisions::get(c, id)).await
    }

    async fn decisions(
        &self,
        vm: Option<VmId>,
        before: Option<DecisionId>,
        limit: usize,
    ) -> Result<Vec<Decision>, StoreError> {
        self.readers.read("listing decisions", move |c| decisions::list(c, vm, before, limit)).await
    }

    async fn drs_runs(
        &self,
        before: Option<TaskId>,
        limit: usize,
    ) -> Result<Vec<DrsRun>, StoreError> {
        self.readers.read("listing runs", move |c| drs_runs::list(c, before, limit)).await
    }

    fn subscribe(&self) -> Subscription {
        Subscription::new(self.changes.subscribe())
    }
}

/// Names what SQLite's error means for our callers.
fn classify(path: &Path, attempt: &str, error: rusqlite::Error) -> StoreError {
    let code = error.sqlite_error_code();
    let source = Arc::new(error);
    match code {
        Some(ErrorCode::DiskFull) => StoreError::Full { source },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Corrupt { path: path.to_owned(), source }
        }
        _ => StoreError::Io { attempt: format!("{attempt} {}", path.display()), source },
    }
}

/// The path with `suffix` behind its file name, as SQLite names `-wal`.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
