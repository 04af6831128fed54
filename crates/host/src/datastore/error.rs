//! What can go wrong with a datastore, and the way out.

use std::io;
use std::path::{Path, PathBuf};

use hostler_types::{DatastoreId, VmId};

#[derive(Debug, thiserror::Error)]
pub enum DatastoreError {
    #[error("datastore path {} is not absolute", .0.display())]
    NotAbsolute(PathBuf),
    #[error(
        "{} has no datastore marker: is its file system not mounted? Nothing is written there until it is",
        .0.display()
    )]
    NotMounted(PathBuf),
    #[error(
        "{} is the datastore {found}, not {wanted}: is another file system mounted there?",
        .path.display()
    )]
    OtherDatastore { path: PathBuf, found: DatastoreId, wanted: DatastoreId },
    #[error("{} was taken out of use as a datastore; create it again to use what it holds", .0.display())]
    Released(PathBuf),
    #[error(
        "{} is on this host's own root file system, which no other host shares; mount the shared file system there first",
        .0.display()
    )]
    NotShared(PathBuf),
    #[error("the datastore marker {} is damaged; it should read {{\"id\":\"<datastore id>\"}}", .0.display())]
    BadMarker(PathBuf),
    #[error(
        "{} holds other things, such as `{}`; a new datastore needs an empty directory",
        .root.display(), .entry.escape_debug()
    )]
    NotEmpty { root: PathBuf, entry: String },
    #[error(
        "guests, which run as users of their own, could not reach {}: {} has no execute permission for others; `chmod o+x` it or choose another place",
        .root.display(), .directory.display()
    )]
    NotTraversable { root: PathBuf, directory: PathBuf },
    #[error("cannot {action} {}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

impl DatastoreError {
    /// Whether the file system had no room left.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_full(source))
    }
}

/// A definition on a datastore that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    #[error("cannot read {}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not a plain file", .0.display())]
    NotAFile(PathBuf),
    #[error("{} is larger than the {limit} bytes a definition may have", .path.display())]
    TooLarge { path: PathBuf, limit: u64 },
    #[error("{} is not the definition of a VM", .path.display())]
    Malformed { path: PathBuf, source: serde_json::Error },
    #[error("{} is the definition of the VM {found}; it lies in the wrong directory", .path.display())]
    OtherVm { path: PathBuf, found: VmId },
}

pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

pub(crate) fn io_error(action: &'static str, path: &Path, source: io::Error) -> DatastoreError {
    DatastoreError::Io { action, path: path.to_owned(), source }
}

/// Says what was attempted, and on which path.
pub(crate) trait IoContext<T> {
    fn doing(self, action: &'static str, path: &Path) -> Result<T, DatastoreError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn doing(self, action: &'static str, path: &Path) -> Result<T, DatastoreError> {
        self.map_err(|source| io_error(action, path, source))
    }
}
