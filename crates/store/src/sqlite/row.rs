//! Queries that read, and how a row becomes a record or a change.

use std::path::Path;
use std::str::FromStr;

use hostler_types::{Id, KindName, Name, ObjectId, Revision};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{classify, schema};
use crate::change::Change;
use crate::error::StoreError;
use crate::record::{Json, Record};
use crate::store::{HeldLock, Scope, Snapshot};

/// SQLite failed, or what it holds is not what we have written.
#[derive(Debug)]
pub(super) enum RowError {
    Sqlite(rusqlite::Error),
    Damaged(String),
}

impl RowError {
    pub(super) fn told(self, path: &Path, attempt: &str) -> StoreError {
        match self {
            Self::Sqlite(error) => classify(path, &format!("{attempt} from"), error),
            Self::Damaged(message) => schema::damaged(path, message),
        }
    }
}
impl From<rusqlite::Error> for RowError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

const OBJECT: &str = "SELECT kind, id, name, labels, generation, revision, created_at, updated_at, spec, status \
     FROM objects";
const CHANGE: &str =
    "SELECT revision, at, kind, id, name, old, new, actor, reason, task, ends FROM changes";

pub(super) fn get(
    connection: &Connection,
    kind: KindName,
    id: ObjectId,
) -> Result<Option<Record>, RowError> {
    let sql = format!("{OBJECT} WHERE kind = ?1 AND id = ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![kind.as_str(), id.to_string()])?;
    rows.next()?.map(record).transpose()
}

pub(super) fn get_by_name(
    connection: &Connection,
    kind: KindName,
    name: &Name,
) -> Result<Option<Record>, RowError> {
    let sql = format!("{OBJECT} WHERE kind = ?1 AND name = ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![kind.as_str(), name.as_str()])?;
    rows.next()?.map(record).transpose()
}

pub(super) fn list(
    connection: &Connection,
    kind: KindName,
    after: Option<&Name>,
    limit: usize,
) -> Result<Vec<Record>, RowError> {
    let sql = format!("{OBJECT} WHERE kind = ?1 AND name > ?2 ORDER BY name LIMIT ?3");
    let mut statement = connection.prepare_cached(&sql)?;
    // No name is empty, so all names come after the empty text.
    let after = after.map_or("", Name::as_str);
    collect(statement.query(params![kind.as_str(), after, limit_of(limit)])?, record)
}

pub(super) fn load_all(connection: &Connection) -> Result<Snapshot, RowError> {
    let revision = revision(connection)?;
    let mut statement = connection.prepare(OBJECT)?;
    let mut records = collect(statement.query([])?, record)?;
    records.sort_unstable_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    Ok(Snapshot { revision, records })
}

pub(super) fn revision(connection: &Connection) -> Result<Revision, RowError> {
    let mut statement = connection.prepare_cached("SELECT max(revision) FROM changes")?;
    let last: Option<u64> = statement.query_row([], |row| row.get(0))?;
    Ok(Revision(last.unwrap_or(0)))
}

pub(super) fn changes_after(
    connection: &Connection,
    revision: Revision,
    limit: usize,
) -> Result<Vec<Change>, RowError> {
    let Ok(after) = i64::try_from(revision.0) else { return Ok(Vec::new()) };
    let sql = format!("{CHANGE} WHERE revision > ?1 ORDER BY revision LIMIT ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    collect(statement.query(params![after, limit_of(limit)])?, change)
}

pub(super) fn locks(connection: &Connection) -> Result<Vec<HeldLock>, RowError> {
    let mut statement = connection.prepare_cached("SELECT object, task FROM locks")?;
    let lock = |row: &Row<'_>| Ok(HeldLock { object: parsed(row, 0)?, task: parsed(row, 1)? });
    collect(statement.query([])?, lock)
}

/// The newest entry per object up to the revision that was the last at `at`.
pub(super) fn as_of(
    connection: &Connection,
    scope: Scope,
    at: Timestamp,
) -> Result<Snapshot, RowError> {
    let last: Option<u64> = connection
        .prepare_cached(
            "SELECT revision FROM changes WHERE at <= ?1 ORDER BY at DESC, revision DESC LIMIT 1",
        )?
        .query_row([nanoseconds(at)?], |row| row.get(0))
        .optional()?;
    let revision = Revision(last.unwrap_or(0));
    let (kind, id) = match scope {
        Scope::One(kind, id) => (Some(kind.as_str()), Some(id.to_string())),
        Scope::Kind(kind) => (Some(kind.as_str()), None),
        Scope::All => (None, None),
    };
    let mut statement = connection.prepare_cached(
        "SELECT new FROM changes WHERE revision IN (
             SELECT max(revision) FROM changes
             WHERE revision <= ?1 AND (?2 IS NULL OR kind = ?2) AND (?3 IS NULL OR id = ?3)
             GROUP BY kind, id
         ) AND new IS NOT NULL",
    )?;
    let stored = |row: &Row<'_>| {
        optional_record(row, 0)?.ok_or_else(|| RowError::Damaged("an empty change".to_owned()))
    };
    let mut records = collect(statement.query(params![revision.0, kind, id])?, stored)?;
    records.sort_unstable_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    Ok(Snapshot { revision, records })
}

/// The task that holds `object`.
pub(super) fn holder<K>(
    connection: &Connection,
    object: ObjectId,
) -> Result<Option<Id<K>>, RowError> {
    let mut statement = connection.prepare_cached("SELECT task FROM locks WHERE object = ?1")?;
    let mut rows = statement.query([object.to_string()])?;
    rows.next()?.map(|row| parsed(row, 0)).transpose()
}

/// Times are stored as nanoseconds, which is as exact as a [`Timestamp`] and sorts.
pub(super) fn nanoseconds(at: Timestamp) -> Result<i64, RowError> {
    i64::try_from(at.as_nanosecond())
        .map_err(|_| RowError::Damaged(format!("the time {at} is beyond what can be stored")))
}

fn collect<T>(
    mut rows: rusqlite::Rows<'_>,
    mut each: impl FnMut(&Row<'_>) -> Result<T, RowError>,
) -> Result<Vec<T>, RowError> {
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        all.push(each(row)?);
    }
    Ok(all)
}

fn record(row: &Row<'_>) -> Result<Record, RowError> {
    let labels: String = row.get(3)?;
    let labels = serde_json::from_str(&labels)
        .map_err(|error| RowError::Damaged(format!("the labels of an object: {error}")))?;
    Ok(Record {
        kind: parsed(row, 0)?,
        id: parsed(row, 1)?,
        name: parsed(row, 2)?,
        labels,
        generation: row.get(4)?,
        revision: Revision(row.get(5)?),
        created_at: time(row, 6)?,
        updated_at: time(row, 7)?,
        spec: json(row, 8)?,
        status: json(row, 9)?,
    })
}

fn change(row: &Row<'_>) -> Result<Change, RowError> {
    let task: Option<String> = row.get(9)?;
    let task = task.map(|text| text.parse()).transpose();
    Ok(Change {
        revision: Revision(row.get(0)?),
        at: time(row, 1)?,
        kind: parsed(row, 2)?,
        id: parsed(row, 3)?,
        name: parsed(row, 4)?,
        old: optional_record(row, 5)?,
        new: optional_record(row, 6)?,
        actor: row.get(7)?,
        reason: row.get(8)?,
        task: task.map_err(|error| RowError::Damaged(format!("the task of a change: {error}")))?,
        ends: row.get(10)?,
    })
}

fn parsed<T>(row: &Row<'_>, column: usize) -> Result<T, RowError>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    let value = row.get_ref(column)?;
    let text = value.as_str().map_err(|error| RowError::Damaged(error.to_string()))?;
    text.parse().map_err(|error| RowError::Damaged(format!("`{}`: {error}", text.escape_debug())))
}

fn time(row: &Row<'_>, column: usize) -> Result<Timestamp, RowError> {
    let nanoseconds: i64 = row.get(column)?;
    Timestamp::from_nanosecond(nanoseconds.into())
        .map_err(|error| RowError::Damaged(format!("a time: {error}")))
}

fn json(row: &Row<'_>, column: usize) -> Result<Json, RowError> {
    Json::from_text(row.get(column)?)
        .map_err(|error| RowError::Damaged(format!("the JSON of an object: {error}")))
}

fn optional_record(row: &Row<'_>, column: usize) -> Result<Option<Record>, RowError> {
    let text: Option<String> = row.get(column)?;
    text.map(|text| serde_json::from_str(&text))
        .transpose()
        .map_err(|error| RowError::Damaged(format!("an object in the change log: {error}")))
}

fn limit_of(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
