//! All that lies on a datastore, read once: for holding it against an inventory.
//!
//! The directory may have been filled by anybody, so names are made printable, nothing is followed
//! out of it, and the walk has an end. What a file is for is not judged here.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hostler_types::{ByteSize, LayerFile, VmId};

use crate::datastore::{Datastore, DatastoreError, VmDir};
use crate::file::sync_directory;
use crate::layers;
use crate::volume::VolumeError;

/// Entries that are looked at, at most: a hundred thousand VMs of a few files each.
pub const MAX_ENTRIES: usize = 500_000;

/// What lies in one of the datastore's own places, or in a place where nothing should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Relative to the datastore, as [`printable`] makes it.
    pub path: String,
    pub what: What,
    /// 0 for what is no file.
    pub size: ByteSize,
    /// Bytes on the file system; of a directory that nobody looks into, of all in it.
    pub allocated: ByteSize,
    pub modified: SystemTime,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A disk file, and what its header names beneath it.
    Layer(Result<Option<LayerFile>, String>),
    File,
    Directory,
    /// A link, device, socket or pipe: never the work of Hostler.
    Other,
}

/// What lies on a datastore, sorted by path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    pub found: Vec<Found>,
    /// There is more; the walk ended at its limit.
    pub truncated: bool,
}

/// Walks through a datastore: its root, `images`, `vms`, and the directory of each VM. Blocks.
///
/// # Errors
/// The datastore is not mounted, or a directory cannot be listed.
pub fn survey(datastore: &Datastore) -> Result<Survey, DatastoreError> {
    survey_up_to(datastore, MAX_ENTRIES)
}

fn survey_up_to(datastore: &Datastore, most: usize) -> Result<Survey, DatastoreError> {
    datastore.check()?;
    let mut walk = Walk { datastore, found: Vec::new(), most };
    let whole = walk.root()?;
    // Names may be of any bytes; the order is only for people.
    walk.found.sort_by(|one, two| one.path.cmp(&two.path));
    Ok(Survey { found: walk.found, truncated: !whole })
}

struct Walk<'a> {
    datastore: &'a Datastore,
    found: Vec<Found>,
    most: usize,
}

impl Walk<'_> {
    /// Whether all was looked at.
    fn root(&mut self) -> Result<bool, DatastoreError> {
        let root = self.datastore.root().to_owned();
        let own = |name: &OsStr| datastore_own(name);
        Ok(self.directory(&root, "", &own)?
            && self.directory(&self.datastore.images(), "images/", &|_| false)?
            && self.vms()?)
    }

    fn vms(&mut self) -> Result<bool, DatastoreError> {
        let vms = self.datastore.vms();
        let is_vm = |name: &OsStr| vm_of(name).is_some() && is_directory(&vms.join(name));
        if !self.directory(&vms, "vms/", &is_vm)? {
            return Ok(false);
        }
        for entry in list(&vms)? {
            if let Some(vm) = vm_of(entry.as_os_str()).filter(|_| is_vm(&entry)) {
                let directory = self.datastore.vm(vm);
                let whole = self.directory(directory.path(), &format!("vms/{vm}/"), &|_| false);
                match whole {
                    Ok(true) => {}
                    // Removed meanwhile.
                    Err(_) if !directory.exists() => {}
                    ended => return ended,
                }
            }
        }
        Ok(true)
    }

    /// Takes down the entries of a directory but those that `skip` names.
    fn directory(
        &mut self,
        path: &Path,
        prefix: &str,
        skip: &dyn Fn(&OsStr) -> bool,
    ) -> Result<bool, DatastoreError> {
        for name in list(path)? {
            if skip(&name) {
                continue;
            }
            if self.found.len() >= self.most {
                return Ok(false);
            }
            let printed = format!("{prefix}{}", printable(&name));
            // What is gone by now need not be told of.
            if let Ok(metadata) = fs::symlink_metadata(path.join(&name)) {
                let entry = self.look(printed, &path.join(&name), &metadata);
                self.found.push(entry);
            }
        }
        Ok(true)
    }

    fn look(&self, path: String, place: &Path, metadata: &Metadata) -> Found {
        let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let what = if metadata.is_dir() {
            What::Directory
        } else if !metadata.is_file() {
            What::Other
        } else if let Ok(layer) = path.parse::<LayerFile>() {
            What::Layer(layers::backing(self.datastore, &layer).map_err(|error| reason(&error)))
        } else {
            What::File
        };
        let size = if metadata.is_file() { ByteSize(metadata.len()) } else { ByteSize(0) };
        Found { path, what, size, allocated: allocated(place), modified }
    }
}

/// A name as it can be shown: what is not printable ASCII is escaped, and so is the escape, so that
/// no two names look the same.
pub fn printable(name: &OsStr) -> String {
    name.as_bytes().escape_ascii().to_string()
}

/// What a survey has found, by the path it gave.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] when it is not there (any more), or is one of the datastore's own
/// places.
pub fn locate(datastore: &Datastore, path: &str) -> io::Result<PathBuf> {
    let (directory, name) = match path.split_once('/') {
        None => (datastore.root().to_owned(), path),
        Some(("images", name)) => (datastore.images(), name),
        Some(("vms", rest)) => match rest.split_once('/') {
            None => (datastore.vms(), rest),
            Some((vm, name)) => {
                let vm: VmId = vm.parse().map_err(|_| not_found())?;
                let directory = datastore.vm(vm);
                // A link in its place would lead away from the datastore.
                if !is_directory(directory.path()) {
                    return Err(not_found());
                }
                (directory.path().to_owned(), name)
            }
        },
        Some(_) => return Err(not_found()),
    };
    let top = directory == datastore.root();
    let mut names = list(&directory).map_err(io::Error::other)?.into_iter();
    let found = names.find(|found| printable(found) == name && !(top && datastore_own(found)));
    found.map(|name| directory.join(name)).ok_or_else(not_found)
}

/// Removes what [`locate`] has found, in one instant: a crash leaves something that the datastore's
/// next opening removes, or a next survey finds.
///
/// # Errors
/// The datastore is not mounted, or a file cannot be removed.
pub fn remove(datastore: &Datastore, place: &Path) -> Result<(), DatastoreError> {
    datastore.check()?;
    let failed = |source| DatastoreError::Io { action: "remove", path: place.to_owned(), source };
    let directory = place.parent().unwrap_or(datastore.root());
    if is_directory(place) {
        let removed = datastore.vms().join(format!("{}{}", VmDir::REMOVED, uuid::Uuid::now_v7()));
        fs::rename(place, &removed).map_err(failed)?;
        sync_directory(directory).map_err(failed)?;
        return fs::remove_dir_all(&removed).map_err(failed);
    }
    fs::remove_file(place).map_err(failed)?;
    sync_directory(directory).map_err(failed)
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

/// What makes a directory a datastore, and what file systems put there.
fn datastore_own(name: &OsStr) -> bool {
    [Datastore::MARKER, "images", "vms", "lost+found"].iter().any(|own| name == *own)
}

fn vm_of(name: &OsStr) -> Option<VmId> {
    let text = name.to_str()?;
    let vm: VmId = text.parse().ok()?;
    // Other spellings of the id are not where a VM's files are.
    (vm.to_string() == text).then_some(vm)
}

fn is_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

fn list(directory: &Path) -> Result<Vec<std::ffi::OsString>, DatastoreError> {
    let failed = |source| DatastoreError::Io { action: "list", path: directory.to_owned(), source };
    let entries = fs::read_dir(directory).map_err(failed)?;
    entries.take(MAX_ENTRIES + 1).map(|entry| Ok(entry.map_err(failed)?.file_name())).collect()
}

/// Bytes that a file, or a directory with all in it, has on the file system.
pub fn allocated(place: &Path) -> ByteSize {
    let own = fs::symlink_metadata(place).map_or(0, |metadata| metadata.blocks() * 512);
    let below = if is_directory(place) { allocated_below(place, &mut 10_000) } else { 0 };
    ByteSize(own.saturating_add(below))
}

/// Never leaves the directory; ends after so many entries.
fn allocated_below(directory: &Path, budget: &mut usize) -> u64 {
    let mut total = 0u64;
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if *budget == 0 {
            break;
        }
        *budget -= 1;
        let Ok(metadata) = fs::symlink_metadata(entry.path()) else { continue };
        total = total.saturating_add(metadata.blocks().saturating_mul(512));
        if metadata.is_dir() {
            total = total.saturating_add(allocated_below(&entry.path(), budget));
        }
    }
    total
}

fn reason(error: &VolumeError) -> String {
    let text = match error {
        VolumeError::Damaged { reason, .. } => reason.clone(),
        other => layers::with_causes(other),
    };
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    use hostler_types::DatastoreId;

    use super::*;

    #[test]
    fn a_walk_has_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        fs::set_permissions(dir.path(), open).unwrap();
        let store = Datastore::create(&dir.path().join("s"), DatastoreId::generate()).unwrap();
        for number in 0..8 {
            fs::write(store.root().join(format!("images/{number}")), "x").unwrap();
        }
        let all = survey_up_to(&store, 8).unwrap();
        assert_eq!((all.found.len(), all.truncated), (8, false));
        let some = survey_up_to(&store, 7).unwrap();
        assert_eq!((some.found.len(), some.truncated), (7, true));
    }

    #[test]
    fn no_two_names_look_the_same() {
        let names: [&[u8]; 5] = [b"a\x1b[31m", b"a\\x1b[31m", b"\xff", b"\\xff", b"\xc3\xa4"];
        let shown: std::collections::BTreeSet<String> =
            names.iter().map(|name| printable(OsStr::from_bytes(name))).collect();
        assert_eq!(shown.len(), names.len());
        assert!(shown.iter().all(|name| name.is_ascii() && !name.chars().any(char::is_control)));
    }
}
