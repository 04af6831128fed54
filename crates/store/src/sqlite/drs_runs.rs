//! What balancing has done: one row a run.

use hostler_types::{DrsRun, TaskId};
use rusqlite::{Connection, params};

use super::row::RowError;
use crate::batch::{MOST_DRS_RUN_BYTES, MOST_DRS_RUNS, OLDEST_DRS_RUN};

/// Keeps a run, or what has become of it, and lets go of the oldest that are too many.
pub(super) fn keep(connection: &Connection, run: &DrsRun) -> Result<(), RowError> {
    let text = serde_json::to_string(run)
        .map_err(|error| RowError::Damaged(format!("a run has no JSON form: {error}")))?;
    connection
        .prepare_cached(
            "INSERT INTO drs_runs (task, run) VALUES (?1, ?2) \
             ON CONFLICT (task) DO UPDATE SET run = excluded.run",
        )?
        .execute(params![run.task.to_string(), text])?;
    connection
        .prepare_cached(
            "DELETE FROM drs_runs WHERE task IN \
             (SELECT task FROM drs_runs ORDER BY task DESC LIMIT -1 OFFSET ?1)",
        )?
        .execute(params![i64::try_from(MOST_DRS_RUNS).unwrap_or(i64::MAX)])?;
    connection
        .prepare_cached(
            "DELETE FROM drs_runs WHERE task IN (SELECT task FROM \
             (SELECT task, row_number() OVER newest AS place, \
              sum(length(CAST(run AS BLOB))) OVER newest AS bytes \
              FROM drs_runs WINDOW newest AS (ORDER BY task DESC)) \
             WHERE place > 1 AND bytes > ?1)",
        )?
        .execute(params![i64::try_from(MOST_DRS_RUN_BYTES).unwrap_or(i64::MAX)])?;
    if let Some(oldest) = run.task.begun().and_then(|at| at.checked_sub(OLDEST_DRS_RUN).ok()) {
        connection
            .prepare_cached("DELETE FROM drs_runs WHERE task < ?1")?
            .execute(params![TaskId::first_at(oldest).to_string()])?;
    }
    Ok(())
}

pub(super) fn list(
    connection: &Connection,
    before: Option<TaskId>,
    limit: usize,
) -> Result<Vec<DrsRun>, RowError> {
    // Every identifier is below it.
    let before = before.map_or_else(|| "~".to_owned(), |before| before.to_string());
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = connection
        .prepare_cached("SELECT run FROM drs_runs WHERE task < ?1 ORDER BY task DESC LIMIT ?2")?;
    let mut rows = statement.query(params![before, limit])?;
    let mut runs = Vec::new();
    while let Some(row) = rows.next()? {
        let text: String = row.get(0)?;
        let run = serde_json::from_str(&text)
            .map_err(|error| RowError::Damaged(format!("a run cannot be read: {error}")))?;
        runs.push(run);
    }
    Ok(runs)
}
