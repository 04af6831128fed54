//! The one thread that writes.
//!
//! It takes all batches that are waiting and carries them out in one transaction, each inside a
//! savepoint of its own, so that one that is refused leaves its neighbours alone. Then comes one
//! fsync for all; then the changes are published and the callers answered, in order. A hundred
//! callers at once cost a few fsyncs instead of a hundred, a single caller waits for no one.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use hostler_types::Revision;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::{broadcast, mpsc, oneshot};

use super::apply::{Application, ApplyError};
use super::fault::Faults;
use super::{classify, row};
use crate::batch::{Batch, Committed};
use crate::change::Change;
use crate::error::StoreError;

/// Batches that may wait before callers do.
const QUEUE: usize = 256;
/// Batches in one transaction at most: bounds how long the first of them waits.
const GROUP: usize = 128;

struct Request {
    batch: Batch,
    answer: oneshot::Sender<Result<Committed, StoreError>>,
}

#[derive(Debug)]
pub(super) struct Writer {
    /// Both are taken when the writer is dropped: closing the queue ends the thread.
    queue: Option<mpsc::Sender<Request>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    pub(super) fn start(
        connection: Connection,
        path: PathBuf,
        changes: broadcast::Sender<Arc<Change>>,
    ) -> Result<Self, StoreError> {
        let (queue, requests) = mpsc::channel(QUEUE);
        let faults = Faults::from_environment();
        let work = Work { connection, path, changes, faults };
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || work.run(requests))
            .map_err(|error| StoreError::Io {
                attempt: "starting the store's writer".to_owned(),
                source: Arc::new(error),
            })?;
        Ok(Self { queue: Some(queue), thread: Mutex::new(Some(thread)) })
    }

    pub(super) async fn commit(&self, batch: Batch) -> Result<Committed, StoreError> {
        let (answer, answered) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or(StoreError::Closed)?;
        queue.send(Request { batch, answer }).await.map_err(|_| StoreError::Closed)?;
        answered.await.unwrap_or(Err(StoreError::Closed))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the store's writer has panicked");
        }
    }
}

/// What the thread owns.
struct Work {
    connection: Connection,
    path: PathBuf,
    changes: broadcast::Sender<Arc<Change>>,
    faults: Faults,
}

impl Work {
    fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut group = Vec::new();
        while requests.blocking_recv_many(&mut group, GROUP) > 0 {
            let (batches, answers): (Vec<_>, Vec<_>) =
                group.drain(..).map(|request| (request.batch, request.answer)).unzip();
            let outcomes = self.commit_group(&batches);
            for (answer, outcome) in answers.into_iter().zip(outcomes) {
                // A caller that has gone does not want to know; its batch is on disk all the same.
                let _gone = answer.send(outcome);
            }
        }
    }

    /// One outcome per batch, in order.
    fn commit_group(&mut self, batches: &[Batch]) -> Vec<Result<Committed, StoreError>> {
        match self.transact(batches) {
            Ok(outcomes) => {
                for committed in outcomes.iter().flatten() {
                    for change in &committed.changes {
                        // Fails when nobody listens.
                        let _unheard = self.changes.send(Arc::clone(change));
                    }
                }
                outcomes
            }
            Err(error) => {
                self.roll_back();
                let failed = classify(&self.path, "writing to", error);
                tracing::error!(path = %self.path.display(), error = %failed, "a commit failed");
                batches.iter().map(|_| Err(failed.clone())).collect()
            }
        }
    }

    fn transact(
        &mut self,
        batches: &[Batch],
    ) -> rusqlite::Result<Vec<Result<Committed, StoreError>>> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let first = match row::revision(&self.connection) {
            Ok(revision) => revision,
            Err(row::RowError::Sqlite(error)) => return Err(error),
            Err(row::RowError::Damaged(message)) => {
                return Err(rusqlite::Error::InvalidColumnName(message));
            }
        };
        let before = self.connection.total_changes();
        let mut last = first;
        let mut outcomes = Vec::with_capacity(batches.len());
        for batch in batches {
            let outcome = self.in_savepoint(batch, last)?;
            if let Ok(committed) = &outcome {
                last = committed.revision;
            }
            outcomes.push(outcome);
        }
        let unchanged = self.connection.total_changes() == before;
        if unchanged || outcomes.iter().all(Result::is_err) {
            // Refused, or nothing but expectations: there is nothing to put on disk.
            self.connection.execute_batch("ROLLBACK")?;
            return Ok(outcomes);
        }
        self.faults.before_commit();
        self.connection.execute_batch("COMMIT")?;
        let reasons: Vec<&str> = batches.iter().map(|batch| batch.reason.as_str()).collect();
        self.faults.after_commit(Revision(first.0 + 1), last, &reasons);
        Ok(outcomes)
    }

    /// The outer error is the whole transaction's: SQLite has rolled it back or cannot go on.
    fn in_savepoint(
        &self,
        batch: &Batch,
        last: Revision,
    ) -> rusqlite::Result<Result<Committed, StoreError>> {
        self.connection.execute_batch("SAVEPOINT batch")?;
        let error = match Application::new(&self.connection, batch, last).carry_out() {
            Ok(changes) => {
                self.connection.execute_batch("RELEASE batch")?;
                let revision = changes.last().map_or(last, |change| change.revision);
                return Ok(Ok(Committed { changes, revision }));
            }
            Err(error) => error,
        };
        match error {
            ApplyError::Failed(row::RowError::Sqlite(error)) if self.meets_all(&error) => {
                return Err(error);
            }
            ApplyError::Failed(_) | ApplyError::Refused(_) => {}
        }
        self.connection.execute_batch("ROLLBACK TO batch; RELEASE batch")?;
        Ok(Err(error.told(&self.path)))
    }

    /// Whether an error is not of one batch: the transaction is gone already, or the disk fails.
    fn meets_all(&self, error: &rusqlite::Error) -> bool {
        let disk = [ErrorCode::DiskFull, ErrorCode::SystemIoFailure, ErrorCode::DatabaseCorrupt];
        self.connection.is_autocommit()
            || error.sqlite_error_code().is_some_and(|code| disk.contains(&code))
    }

    fn roll_back(&self) {
        if self.connection.is_autocommit() {
            return;
        }
        if let Err(error) = self.connection.execute_batch("ROLLBACK") {
            tracing::error!(path = %self.path.display(), %error, "a rollback failed");
        }
    }
}
