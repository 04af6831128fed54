//! Small JSON files with the agent's own knowledge: replaced atomically, root only.

use std::io;
use std::path::Path;

use hostler_host::{Access, Replacement, write_atomic};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::fault::{Fault, chain};

/// What a file of ours holds; `None` when it is not there.
///
/// # Errors
/// It cannot be read, or is not what we wrote: a person must look at it.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Fault> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", path, &error)),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| failed("understand", path, &error))
}

/// Replaces a file; on disk when the call returns. Blocks for two flushes.
///
/// # Errors
/// The old content is still there.
pub(crate) fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), Fault> {
    let bytes = serde_json::to_vec(value).map_err(|error| failed("encode", path, &error))?;
    write_atomic(path, &bytes, Access::ROOT_ONLY).map_err(|error| not_written(path, &error))
}

/// Prepares to replace a file at once; see [`Replacement`]. Blocks for a flush.
///
/// # Errors
/// As [`write`].
pub(crate) fn prepare<T: Serialize>(path: &Path, value: &T) -> Result<Replacement, Fault> {
    let bytes = serde_json::to_vec(value).map_err(|error| failed("encode", path, &error))?;
    let prepared = Replacement::new(path, &bytes, Access::ROOT_ONLY);
    prepared.map_err(|error| not_written(path, &error))
}

fn not_written(path: &Path, error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Fault::NoSpace(format!("the agent's own file system is full: {}", path.display()))
        }
        _ => failed("write", path, error),
    }
}

/// Removes a file; that it is not there is as good.
///
/// # Errors
/// It is still there.
pub(crate) fn remove(path: &Path) -> Result<(), Fault> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("remove", path, &error))
        }
        _ => Ok(()),
    }
}

fn failed(action: &str, path: &Path, error: &(dyn std::error::Error + 'static)) -> Fault {
    Fault::Internal(format!("cannot {action} {}: {}", path.display(), chain(error)))
}
