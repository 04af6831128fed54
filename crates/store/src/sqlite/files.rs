//! The files of a database: who may read them, and that one process has them open.
//!
//! The log holds password and token hashes, so nobody but root may read it: directory 0700, file
//! 0600 (SQLite gives the `-wal` and `-shm` files the database's mode).

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use crate::error::StoreError;

/// Makes the directory of the database.
pub(super) fn prepare_directory(path: &Path) -> Result<(), StoreError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(directory) = directory
        && !directory.exists()
    {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|error| failed("making", directory, error))?;
    }
    Ok(())
}

/// Makes an empty file, or tightens its mode. Only under the lock: closing the file here releases
/// the POSIX locks that SQLite has on it if this process has it open already.
pub(super) fn prepare_file(path: &Path) -> Result<(), StoreError> {
    private_file(path).map(drop).map_err(|error| failed("opening", path, error))
}

fn private_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

/// Held as long as the process has the database open. The kernel releases it when the process
/// dies, however it dies.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    pub(super) fn acquire(path: &Path) -> Result<Self, StoreError> {
        let lock_path = super::beside(path, ".lock");
        let file =
            private_file(&lock_path).map_err(|error| failed("opening", &lock_path, error))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => Err(failed("locking", &lock_path, error)),
        }
    }
}

fn failed(attempt: &str, path: &Path, error: io::Error) -> StoreError {
    let source = Arc::new(error);
    StoreError::Io { attempt: format!("{attempt} {}", path.display()), source }
}
