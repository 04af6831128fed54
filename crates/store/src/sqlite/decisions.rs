//! Decisions: one row each, an index by VM, and a total that says when the oldest have to go.

use hostler_types::{Decision, DecisionId, VmId};
use rusqlite::{Connection, OptionalExtension, params};

use super::row::RowError;
use crate::batch::Batch;
use crate::decision::{KeptDecision, MOST_DECISION_BYTES, MOST_DECISIONS, NewDecision};

/// Keeps a decision, and lets go of the oldest that are too many.
pub(super) fn keep(
    connection: &Connection,
    batch: &Batch,
    decision: &NewDecision,
) -> Result<(), RowError> {
    let bytes = u64::try_from(decision.record.len()).unwrap_or(u64::MAX);
    let kept = Decision {
        id: decision.id,
        at: batch.at,
        action: decision.action.clone(),
        actor: batch.actor.clone(),
        task: batch.task,
        revision: decision.revision,
        vms: decision.vms.clone(),
        sentences: decision.sentences.clone(),
        bytes,
    };
    let summary = serde_json::to_string(&kept)
        .map_err(|error| RowError::Damaged(format!("a decision has no JSON form: {error}")))?;
    let id = decision.id.to_string();
    connection
        .prepare_cached(
            "INSERT INTO decisions (id, summary, record, bytes) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![id, summary, decision.record, bytes])?;
    for vm in &decision.vms {
        connection
            .prepare_cached("INSERT OR IGNORE INTO decision_vms (vm, decision) VALUES (?1, ?2)")?
            .execute(params![vm.id.to_string(), id])?;
    }
    add(connection, 1, i64::try_from(bytes).unwrap_or(i64::MAX))?;
    while is_too_much(connection)? {
        forget_oldest(connection)?;
    }
    Ok(())
}

fn add(connection: &Connection, count: i64, bytes: i64) -> Result<(), RowError> {
    connection
        .prepare_cached("UPDATE decision_totals SET count = count + ?1, bytes = bytes + ?2")?
        .execute(params![count, bytes])?;
    Ok(())
}

fn is_too_much(connection: &Connection) -> Result<bool, RowError> {
    let (count, bytes): (u64, u64) = connection
        .prepare_cached("SELECT count, bytes FROM decision_totals")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(count > MOST_DECISIONS || (count > 1 && bytes > MOST_DECISION_BYTES))
}

fn forget_oldest(connection: &Connection) -> Result<(), RowError> {
    let (id, bytes): (String, i64) = connection
        .prepare_cached("SELECT id, bytes FROM decisions ORDER BY id LIMIT 1")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    connection
        .prepare_cached("DELETE FROM decision_vms WHERE decision = ?1")?
        .execute(params![id])?;
    connection.prepare_cached("DELETE FROM decisions WHERE id = ?1")?.execute(params![id])?;
    add(connection, -1, -bytes)
}

pub(super) fn get(
    connection: &Connection,
    id: DecisionId,
) -> Result<Option<KeptDecision>, RowError> {
    let row: Option<(String, String)> = connection
        .prepare_cached("SELECT summary, record FROM decisions WHERE id = ?1")?
        .query_row(params![id.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    row.map(|(summary, record)| Ok(KeptDecision { decision: read(&summary)?, record })).transpose()
}

pub(super) fn list(
    connection: &Connection,
    vm: Option<VmId>,
    before: Option<DecisionId>,
    limit: usize,
) -> Result<Vec<Decision>, RowError> {
    // Every identifier is below it.
    let before = before.map_or_else(|| "~".to_owned(), |before| before.to_string());
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut summaries = Vec::new();
    let mut statement;
    let mut rows = match vm {
        None => {
            statement = connection.prepare_cached(
                "SELECT summary FROM decisions WHERE id < ?1 ORDER BY id DESC LIMIT ?2",
            )?;
            statement.query(params![before, limit])?
        }
        Some(vm) => {
            statement = connection.prepare_cached(
                "SELECT d.summary FROM decision_vms v JOIN decisions d ON d.id = v.decision \
                 WHERE v.vm = ?3 AND v.decision < ?1 ORDER BY v.decision DESC LIMIT ?2",
            )?;
            statement.query(params![before, limit, vm.to_string()])?
        }
    };
    while let Some(row) = rows.next()? {
        let summary: String = row.get(0)?;
        summaries.push(read(&summary)?);
    }
    Ok(summaries)
}

fn read(summary: &str) -> Result<Decision, RowError> {
    serde_json::from_str(summary)
        .map_err(|error| RowError::Damaged(format!("a decision cannot be read: {error}")))
}
