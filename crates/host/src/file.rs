//! Files that must not be half written: replaced as a whole, and on disk when the call returns.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::io::Errno;
use tempfile::NamedTempFile;
use uuid::Uuid;

/// Who may do what with a new file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

impl Access {
    /// Only root reads and writes it.
    pub const ROOT_ONLY: Self = Self { mode: 0o600, uid: 0, gid: 0 };
}

/// Writes `bytes` as the file `path`, replacing what is there: after a crash at any instant the
/// file has either its old content or the new, and after return the new.
///
/// # Errors
/// The path's directory does not exist or cannot be written; the old file is untouched.
pub fn write_atomic(path: &Path, bytes: &[u8], access: Access) -> io::Result<()> {
    Replacement::new(path, bytes, access)?.put_durably()
}

/// A file's next content, already on the disk under another name.
#[derive(Debug)]
pub struct Replacement {
    temporary: NamedTempFile,
    path: PathBuf,
}

impl Replacement {
    /// Nothing is left of it when it is dropped.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn new(path: &Path, bytes: &[u8], access: Access) -> io::Result<Self> {
        let mut temporary = temporary_in(parent(path)?)?;
        temporary.write_all(bytes)?;
        set_access(temporary.as_file(), access)?;
        temporary.as_file().sync_all()?;
        Ok(Self { temporary, path: path.to_owned() })
    }

    /// Takes the file's place, and is on the disk when the call returns. Blocks for a flush.
    ///
    /// # Errors
    /// Those of the file system; which content is there is not known.
    pub fn put_durably(self) -> io::Result<()> {
        let path = self.path.clone();
        self.put()?;
        sync_directory(parent(&path)?)
    }

    /// Takes the file's place at once, without waiting for the disk: every process sees it from now
    /// on. After a power loss it is either content, whole.
    ///
    /// # Errors
    /// Those of the file system; the old content is still there.
    pub fn put(self) -> io::Result<()> {
        self.temporary.persist(&self.path).map(drop).map_err(|error| error.error)
    }
}

/// A new file that nobody else can open (0600), removed unless it is given a name.
pub(crate) fn temporary_in(directory: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new().prefix(&temporary_prefix()).tempfile_in(directory)
}

/// Whether a name is that of a temporary file of a process that is no more. The files of this
/// process may be in the making.
pub(crate) fn is_stale_temporary(name: &str) -> bool {
    name.starts_with(TEMPORARY) && !name.starts_with(&temporary_prefix())
}

const TEMPORARY: &str = ".tmp-";

/// Different in every process, where pids come again.
fn temporary_prefix() -> String {
    static PROCESS: OnceLock<Uuid> = OnceLock::new();
    format!("{TEMPORARY}{}-", PROCESS.get_or_init(Uuid::now_v7).simple())
}

/// Opens what must be a file of its own: no symbolic link, no device, no second name of a file
/// elsewhere. (Opening does not wait either, as a FIFO would.)
pub(crate) fn open_plain(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let file = match file {
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            return Err(not_plain());
        }
        file => file?,
    };
    let metadata = file.metadata()?;
    if metadata.is_file() && metadata.nlink() == 1 { Ok(file) } else { Err(not_plain()) }
}

fn not_plain() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "it is not a plain file of its own")
}

/// Whether [`open_plain`] refused because of what the path is.
pub(crate) fn is_not_plain(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput && error.raw_os_error().is_none()
}

/// Sets owner, then mode (changing the owner may clear bits of the mode).
pub(crate) fn set_access(file: &File, access: Access) -> io::Result<()> {
    std::os::unix::fs::fchown(file, Some(access.uid), Some(access.gid))?;
    file.set_permissions(fs::Permissions::from_mode(access.mode))
}

/// Makes names created, renamed or removed in `directory` survive a power loss.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Removes a file; that it does not exist is as good.
pub(crate) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// The first of a path's directories, from the top, that others than its owner cannot pass.
pub(crate) fn first_closed_directory(path: &Path) -> io::Result<Option<PathBuf>> {
    let mut closed = None;
    for directory in path.ancestors() {
        if fs::metadata(directory)?.permissions().mode() & 0o001 == 0 {
            closed = Some(directory.to_owned());
        }
    }
    Ok(closed)
}

pub(crate) fn parent(path: &Path) -> io::Result<&Path> {
    path.parent().ok_or_else(|| io::Error::other("a file without a directory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_with_its_access() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        write_atomic(&path, b"old", Access::ROOT_ONLY).unwrap();
        write_atomic(&path, b"new", Access { mode: 0o640, uid: 1, gid: 2 }).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), (0o640, 1, 2));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn only_other_processes_files_are_stale() {
        let directory = tempfile::tempdir().unwrap();
        let own = temporary_in(directory.path()).unwrap();
        assert!(!is_stale_temporary(own.path().file_name().unwrap().to_str().unwrap()));
        assert!(is_stale_temporary(".tmp-0123-abc"));
        assert!(!is_stale_temporary("vm.json"));
    }

    #[test]
    fn a_failed_write_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("is-a-directory");
        fs::create_dir(&path).unwrap();
        fs::create_dir(path.join("x")).unwrap();
        assert!(write_atomic(&path, b"new", Access::ROOT_ONLY).is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
