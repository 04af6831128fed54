//! Connections that read. A small pool: each has a page cache, and reads are short.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use super::row::RowError;
use super::{BUSY_TIMEOUT, classify};
use crate::error::StoreError;

/// How many reads may run at once.
const CONNECTIONS: usize = 4;

#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    permits: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        Self { path, permits, idle: Arc::default() }
    }

    /// Runs `query` on a thread that may block, inside a read transaction: all that it reads is of
    /// one revision.
    pub(super) async fn read<T, Q>(&self, attempt: &'static str, query: Q) -> Result<T, StoreError>
    where
        T: Send + 'static,
        Q: FnOnce(&Connection) -> Result<T, RowError> + Send + 'static,
    {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_| StoreError::Closed)?;
        let (idle, path) = (Arc::clone(&self.idle), self.path.clone());
        let blocking = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let pooled = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut connection = match pooled {
                Some(connection) => connection,
                None => open(&path).map_err(|error| classify(&path, "opening", error))?,
            };
            let result = in_transaction(&mut connection, query);
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            result.map_err(|error| error.told(&path, attempt))
        });
        // Fails only if the query panicked or the runtime is shutting down.
        blocking.await.unwrap_or(Err(StoreError::Closed))
    }
}

fn in_transaction<T>(
    connection: &mut Connection,
    query: impl FnOnce(&Connection) -> Result<T, RowError>,
) -> Result<T, RowError> {
    let transaction = connection.transaction()?;
    let result = query(&transaction)?;
    transaction.finish()?;
    Ok(result)
}

fn open(path: &PathBuf) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.execute_batch("PRAGMA mmap_size = 0; PRAGMA cache_size = -512;")?;
    Ok(connection)
}
