//! Carrying out one batch inside the writer's transaction. Whoever calls rolls back on an error.

use std::path::Path;
use std::sync::Arc;

use hostler_types::{KindName, ObjectId, Revision, TaskId};
use rusqlite::{Connection, params};

use super::row::{self, RowError, nanoseconds};
use super::{decisions, drs_runs};
use crate::batch::{Batch, Write};
use crate::change::Change;
use crate::error::StoreError;
use crate::record::Record;

/// Why a batch was not carried out: refused by its own terms, or the database failed.
#[derive(Debug)]
pub(super) enum ApplyError {
    Refused(StoreError),
    Failed(RowError),
}

impl ApplyError {
    pub(super) fn told(self, path: &Path) -> StoreError {
        match self {
            Self::Refused(error) => error,
            Self::Failed(error) => error.told(path, "writing to"),
        }
    }
}
impl From<StoreError> for ApplyError {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}
impl From<RowError> for ApplyError {
    fn from(error: RowError) -> Self {
        Self::Failed(error)
    }
}
impl From<rusqlite::Error> for ApplyError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// One batch at work: numbers its changes from `last` on.
pub(super) struct Application<'a> {
    connection: &'a Connection,
    batch: &'a Batch,
    last: Revision,
    /// How many changes are still to be logged.
    left: usize,
    changes: Vec<Arc<Change>>,
}

impl<'a> Application<'a> {
    pub(super) fn new(connection: &'a Connection, batch: &'a Batch, last: Revision) -> Self {
        let left = batch.writes.iter().filter(|write| write.is_logged()).count();
        Self { connection, batch, last, left, changes: Vec::new() }
    }

    pub(super) fn carry_out(mut self) -> Result<Vec<Arc<Change>>, ApplyError> {
        let batch = self.batch;
        for write in &batch.writes {
            match write {
                Write::Create(record) => self.create(record)?,
                Write::Update { record, expected } => self.update(record, Some(*expected))?,
                Write::UpdateAny(record) => self.update(record, None)?,
                Write::Delete { kind, id, expected } => self.delete(*kind, *id, *expected)?,
                Write::Lock { object, task } => self.lock(*object, *task)?,
                Write::Unlock { task } => self.unlock(*task)?,
                Write::Expect { kind, id, revision } => {
                    self.stored(*kind, *id, *revision)?;
                }
                Write::ExpectUnlocked { object } => self.expect_unlocked(*object)?,
                Write::Decide(decision) => decisions::keep(self.connection, batch, decision)?,
                Write::KeepDrsRun(run) => drs_runs::keep(self.connection, run)?,
            }
        }
        Ok(self.changes)
    }

    fn create(&mut self, record: &Record) -> Result<(), ApplyError> {
        if row::get(self.connection, record.kind, record.id)?.is_some() {
            return Err(StoreError::Exists { kind: record.kind, id: record.id }.into());
        }
        self.name_is_free(record)?;
        let record = Record {
            generation: 1,
            revision: self.next(),
            created_at: self.batch.at,
            updated_at: self.batch.at,
            ..record.clone()
        };
        self.connection
            .prepare_cached(
                "INSERT INTO objects (kind, id, name, labels, generation, revision, created_at, \
                 updated_at, spec, status) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?
            .execute(params![
                record.kind.as_str(),
                record.id.to_string(),
                record.name.as_str(),
                labels(&record),
                record.generation,
                record.revision.0,
                nanoseconds(record.created_at)?,
                nanoseconds(record.updated_at)?,
                record.spec.as_str(),
                record.status.as_str(),
            ])?;
        self.log(None, Some(record))
    }

    fn update(&mut self, record: &Record, expected: Option<Revision>) -> Result<(), ApplyError> {
        let old = self.stored(record.kind, record.id, expected)?;
        if old.name != record.name {
            self.name_is_free(record)?;
        }
        let same = old.name == record.name && old.labels == record.labels;
        let changed = !(same && old.spec == record.spec);
        let record = Record {
            generation: old.generation + u64::from(changed),
            revision: self.next(),
            created_at: old.created_at,
            updated_at: self.batch.at,
            ..record.clone()
        };
        self.connection
            .prepare_cached(
                "UPDATE objects SET name = ?3, labels = ?4, generation = ?5, revision = ?6, \
                 updated_at = ?7, spec = ?8, status = ?9 WHERE kind = ?1 AND id = ?2",
            )?
            .execute(params![
                record.kind.as_str(),
                record.id.to_string(),
                record.name.as_str(),
                labels(&record),
                record.generation,
                record.revision.0,
                nanoseconds(record.updated_at)?,
                record.spec.as_str(),
                record.status.as_str(),
            ])?;
        self.log(Some(old), Some(record))
    }

    fn delete(
        &mut self,
        kind: KindName,
        id: ObjectId,
        expected: Option<Revision>,
    ) -> Result<(), ApplyError> {
        let old = self.stored(kind, id, expected)?;
        self.connection
            .prepare_cached("DELETE FROM objects WHERE kind = ?1 AND id = ?2")?
            .execute(params![kind.as_str(), id.to_string()])?;
        self.log(Some(old), None)
    }

    fn lock(&self, object: ObjectId, task: TaskId) -> Result<(), ApplyError> {
        match row::holder(self.connection, object)? {
            Some(by) if by != task => return Err(StoreError::Locked { object, by }.into()),
            Some(_) => return Ok(()),
            None => {}
        }
        self.connection
            .prepare_cached("INSERT INTO locks (object, task) VALUES (?1, ?2)")?
            .execute([object.to_string(), task.to_string()])?;
        Ok(())
    }

    fn unlock(&self, task: TaskId) -> Result<(), ApplyError> {
        let mut statement = self.connection.prepare_cached("DELETE FROM locks WHERE task = ?1")?;
        statement.execute([task.to_string()])?;
        Ok(())
    }

    fn expect_unlocked(&self, object: ObjectId) -> Result<(), ApplyError> {
        match row::holder(self.connection, object)? {
            Some(by) => Err(StoreError::Locked { object, by }.into()),
            None => Ok(()),
        }
    }

    fn stored(
        &self,
        kind: KindName,
        id: ObjectId,
        expected: Option<Revision>,
    ) -> Result<Record, ApplyError> {
        let Some(record) = row::get(self.connection, kind, id)? else {
            return Err(StoreError::NotFound { kind, id }.into());
        };
        match expected {
            Some(expected) if expected != record.revision => {
                Err(StoreError::Stale { kind, id, expected, actual: record.revision }.into())
            }
            _ => Ok(record),
        }
    }

    fn name_is_free(&self, record: &Record) -> Result<(), ApplyError> {
        if row::get_by_name(self.connection, record.kind, &record.name)?.is_none() {
            return Ok(());
        }
        let (kind, name) = (record.kind, record.name.clone());
        Err(StoreError::NameTaken { kind, name }.into())
    }

    fn next(&self) -> Revision {
        Revision(self.last.0 + 1)
    }

    /// Appends to the log what has just been written to `objects`.
    fn log(&mut self, old: Option<Record>, new: Option<Record>) -> Result<(), ApplyError> {
        let subject = new.as_ref().or(old.as_ref()).expect("a change has a before or an after");
        let (kind, id, name) = (subject.kind, subject.id, subject.name.clone());
        self.left -= 1;
        let change = Change {
            revision: self.next(),
            at: self.batch.at,
            kind,
            id,
            name,
            old: old.filter(|_| kind != KindName::Task),
            new,
            actor: self.batch.actor.clone(),
            reason: self.batch.reason.clone(),
            task: self.batch.task,
            ends: self.left == 0,
        };
        self.connection
            .prepare_cached(
                "INSERT INTO changes (revision, at, kind, id, name, old, new, actor, reason, task, \
                 ends) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            )?
            .execute(params![
                change.revision.0,
                nanoseconds(change.at)?,
                change.kind.as_str(),
                change.id.to_string(),
                change.name.as_str(),
                change.old.as_ref().map(text),
                change.new.as_ref().map(text),
                change.actor,
                change.reason,
                change.task.map(|task| task.to_string()),
                change.ends,
            ])?;
        self.last = change.revision;
        self.changes.push(Arc::new(change));
        Ok(())
    }
}

fn labels(record: &Record) -> String {
    serde_json::to_string(&record.labels).expect("labels are text")
}

fn text(record: &Record) -> String {
    serde_json::to_string(record).expect("a record has a JSON form")
}
