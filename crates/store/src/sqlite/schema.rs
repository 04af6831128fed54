//! The schema's versions. A migration is never edited after it was merged; a change is a new file.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::classify;
use crate::error::StoreError;

/// In order; the first is version 1.
pub(super) const MIGRATIONS: [(&str, &str); 4] = [
    ("0001_initial", include_str!("../../migrations/0001_initial.sql")),
    ("0002_commits", include_str!("../../migrations/0002_commits.sql")),
    ("0004_decisions", include_str!("../../migrations/0004_decisions.sql")),
    ("0006_drs_runs", include_str!("../../migrations/0006_drs_runs.sql")),
];

/// Marks the file as ours ("HSTL"), as `file` and SQLite's documentation suggest.
const APPLICATION_ID: i64 = 0x4853_544C;

pub(super) fn known() -> u32 {
    u32::try_from(MIGRATIONS.len()).expect("there are fewer than 2^32 migrations")
}

/// Refuses a file that is not a database, not ours, or newer than this program. Reads only.
pub(super) fn check(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |error| classify(path, "reading", error);
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(failed)?;
    if tables == 0 {
        return Ok(());
    }
    let application: i64 =
        connection.query_row("PRAGMA application_id", [], |row| row.get(0)).map_err(failed)?;
    if application != APPLICATION_ID {
        return Err(StoreError::Foreign { path: path.to_owned() });
    }
    let found = version(connection).map_err(failed)?;
    if found > known() {
        return Err(StoreError::TooNew { path: path.to_owned(), found, known: known() });
    }
    Ok(())
}

/// Applies the migrations that the database lacks, all in one transaction.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    apply(connection, &MIGRATIONS).map_err(|error| classify(path, "bringing up to date", error))
}

fn apply(connection: &mut Connection, migrations: &[(&str, &str)]) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(
        "CREATE TABLE IF NOT EXISTS schema_versions (
             version    INTEGER NOT NULL PRIMARY KEY,
             name       TEXT    NOT NULL,
             applied_at TEXT    NOT NULL
         ) STRICT",
    )?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    let found = version(&transaction)?;
    for (number, (name, sql)) in (1_u32..).zip(migrations) {
        if number <= found {
            continue;
        }
        transaction.execute_batch(sql)?;
        transaction.execute(
            "INSERT INTO schema_versions (version, name, applied_at) VALUES (?1, ?2, ?3)",
            params![number, name, Timestamp::now().to_string()],
        )?;
    }
    transaction.commit()
}

fn version(connection: &Connection) -> rusqlite::Result<u32> {
    let found = connection
        .query_row("SELECT max(version) FROM schema_versions", [], |row| row.get(0))
        .optional()?;
    Ok(found.flatten().unwrap_or(0))
}

/// What is wrong with the data itself; used where SQLite has no error of its own.
pub(super) fn damaged(path: &Path, message: String) -> StoreError {
    let source = Arc::new(std::io::Error::new(std::io::ErrorKind::InvalidData, message));
    StoreError::Corrupt { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(connection: &Connection) -> Vec<String> {
        let mut statement = connection
            .prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name")
            .unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn one_by_one_gives_the_same_schema_as_all_at_once() {
        let mut fresh = Connection::open_in_memory().unwrap();
        apply(&mut fresh, &MIGRATIONS).unwrap();
        let mut stepwise = Connection::open_in_memory().unwrap();
        for upto in 0..=MIGRATIONS.len() {
            apply(&mut stepwise, &MIGRATIONS[..upto]).unwrap();
        }
        assert_eq!(schema(&fresh), schema(&stepwise));
        assert_eq!(version(&fresh).unwrap(), known());
    }

    #[test]
    fn a_failing_migration_leaves_the_schema_as_it_was() {
        let mut connection = Connection::open_in_memory().unwrap();
        apply(&mut connection, &MIGRATIONS).unwrap();
        let before = schema(&connection);
        let mut broken = MIGRATIONS.to_vec();
        broken.push(("9999_broken", "CREATE TABLE half (a TEXT); CREATE TABLE objects (a TEXT);"));
        assert!(apply(&mut connection, &broken).is_err());
        assert_eq!(schema(&connection), before);
        assert_eq!(version(&connection).unwrap(), known());
    }

    #[test]
    fn the_files_and_the_list_of_migrations_agree() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let listed: Vec<String> =
            MIGRATIONS.iter().map(|(name, _)| format!("{name}.sql")).collect();
        assert_eq!(files, listed);
    }
}
