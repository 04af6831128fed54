//! The tests of the SQLite store: the conformance suite, and what is SQLite's own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod conformance;
mod crash;
mod files;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use hostler_store::conformance::Place;
use hostler_store::{SqliteStore, Store};
use tempfile::TempDir;

/// A directory that goes away with the test.
#[derive(Debug)]
struct SqlitePlace(TempDir);

impl SqlitePlace {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("state/hostler.db")
    }
}

#[async_trait]
impl Place for SqlitePlace {
    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(SqliteStore::open(self.path()).unwrap())
    }
}
