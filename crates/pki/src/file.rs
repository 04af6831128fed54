//! Files with keys: written whole or not at all, for their owner only.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

/// Makes a directory (and its parents) that only its owner may enter. One that is there stays as
/// it is: others may have business in it.
pub(crate) fn create_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// As [`create_directory`], but closes one that was there with wider permissions.
pub(crate) fn private_directory(path: &Path) -> io::Result<()> {
    create_directory(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Replaces `path` by `text`, mode 0600. After a crash at any instant the file is either the old
/// or the new one; after return it is the new one.
pub(crate) fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let directory = path.parent().ok_or_else(|| io::Error::other("a file without a directory"))?;
    // tempfile makes its files 0600.
    let mut temporary = tempfile::Builder::new().prefix(".tmp-").tempfile_in(directory)?;
    temporary.write_all(text.as_bytes())?;
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|error| error.error)?;
    File::open(directory)?.sync_all()
}
