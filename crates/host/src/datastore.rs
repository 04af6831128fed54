//! A datastore: a directory that holds images and VMs.
//!
//! ```text
//! .hostler-datastore          marker: whose directory this is
//! images/<image-id>.qcow2     (.iso for CD-ROMs, .part while it is received, .json beside it)
//! vms/<vm-id>/vm.json         the definition (vm.json.unregistered: kept, but in no inventory)
//!             <disk>.qcow2  seed.img  nvram.fd  suspend.state  console.log
//! ```
//!
//! The marker is looked at before each write, so that nothing is put on the mount point of a file
//! system that is not mounted. Paths come from typed ids alone. Directories belong to root and can
//! be passed but not listed by others (0711): a guest's process reaches its own files and cannot
//! put anything, such as a symbolic link, beside them.

mod error;
mod vm_dir;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hostler_types::{ByteSize, DatastoreId, ImageId, ImageMedia, LayerFile, VmId};
use serde::{Deserialize, Serialize};

use crate::file::{
    Access, first_closed_directory, is_stale_temporary, remove_if_there, sync_directory,
    write_atomic,
};

pub(crate) use error::is_full;
pub use error::{DatastoreError, DefinitionError};
use error::{IoContext, io_error};
pub use vm_dir::{FoundVm, VmDir};

/// An opened datastore. Clones are cheap and are the same datastore.
#[derive(Debug, Clone)]
pub struct Datastore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: DatastoreId,
    /// Absolute and free of symbolic links.
    root: PathBuf,
}

/// Sizes of the file system that a datastore is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub capacity: ByteSize,
    /// What processes without privileges may still fill.
    pub free: ByteSize,
}

#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    id: DatastoreId,
    /// Other hosts use the directory at the same time.
    #[serde(default)]
    shared: bool,
    /// It was taken out of use with files in it: whoever makes a datastore of it gets them.
    #[serde(default)]
    released: bool,
}

impl Datastore {
    /// The file that makes a directory a datastore.
    pub(crate) const MARKER: &str = ".hostler-datastore";

    /// Makes `path` the datastore `id`. A directory that already is this datastore is opened.
    ///
    /// # Errors
    /// The directory holds other things or another datastore, or guests could not reach it.
    pub fn create(path: &Path, id: DatastoreId) -> Result<Self, DatastoreError> {
        Self::make(path, id, false)
    }

    /// As [`Self::create`], of a directory that other hosts have too. The host's own root file
    /// system is refused: what was to be mounted there is not.
    ///
    /// # Errors
    /// As [`Self::create`], and [`DatastoreError::NotShared`].
    pub fn create_shared(path: &Path, id: DatastoreId) -> Result<Self, DatastoreError> {
        Self::make(path, id, true)
    }

    fn make(path: &Path, id: DatastoreId, shared: bool) -> Result<Self, DatastoreError> {
        if !path.is_absolute() {
            return Err(DatastoreError::NotAbsolute(path.to_owned()));
        }
        create_directories(path).doing("create the directory", path)?;
        match read_marker(path) {
            Ok(Some(Marker { released: false, .. })) => return Self::open(path, id),
            Ok(Some(_)) => {}
            Ok(None) => check_empty(path)?,
            Err(error) => return Err(error),
        }
        if shared {
            check_mounted(path)?;
        }
        let root = path.canonicalize().doing("resolve", path)?;
        check_traversable(&root)?;
        for name in ["images", "vms"] {
            let directory = root.join(name);
            create_directory(&directory).doing("create the directory", &directory)?;
        }
        // The marker comes last: with it, the layout is there.
        write_marker(&root, &Marker { id, shared, released: false })?;
        Self::open(&root, id)
    }

    /// Opens a datastore, and finishes what a crash interrupted: removals and half-written files.
    ///
    /// # Errors
    /// [`DatastoreError::NotMounted`] without the marker.
    pub fn open(path: &Path, id: DatastoreId) -> Result<Self, DatastoreError> {
        let missing = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => DatastoreError::NotMounted(path.to_owned()),
            _ => io_error("resolve", path, error),
        };
        let root = path.canonicalize().map_err(missing)?;
        let datastore = Self(Arc::new(Inner { id, root }));
        datastore.check()?;
        check_traversable(datastore.root())?;
        datastore.sweep()?;
        Ok(datastore)
    }

    /// Takes the directory out of use, so that it can be made a datastore again: an empty one is
    /// left without a trace, one that holds files keeps them.
    ///
    /// # Errors
    /// The datastore is not mounted, or something cannot be removed.
    pub fn release(&self) -> Result<(), DatastoreError> {
        self.check()?;
        let directories = [self.images(), self.vms()];
        let empty = directories.iter().all(|directory| {
            // One that is not there: an earlier release was interrupted.
            !directory.exists() || entries(directory).is_ok_and(|entries| entries.is_empty())
        });
        let marker = self.root().join(Self::MARKER);
        if !empty {
            return write_marker(
                self.root(),
                &Marker { id: self.id(), shared: false, released: true },
            );
        }
        for directory in directories.iter().filter(|directory| directory.exists()) {
            fs::remove_dir(directory).doing("remove", directory)?;
        }
        remove_if_there(&marker).doing("remove", &marker)?;
        sync_directory(self.root()).doing("flush", self.root())
    }

    pub fn id(&self) -> DatastoreId {
        self.0.id
    }

    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// Makes sure that the directory still is this datastore.
    ///
    /// # Errors
    /// [`DatastoreError::NotMounted`] or [`DatastoreError::OtherDatastore`].
    pub fn check(&self) -> Result<(), DatastoreError> {
        let path = self.root().to_owned();
        match read_marker(&path)? {
            None => Err(DatastoreError::NotMounted(path)),
            Some(Marker { released: true, .. }) => Err(DatastoreError::Released(path)),
            Some(Marker { id, .. }) if id == self.id() => Ok(()),
            Some(Marker { id: found, .. }) => {
                Err(DatastoreError::OtherDatastore { path, found, wanted: self.id() })
            }
        }
    }

    /// # Errors
    /// The datastore is not mounted, or its file system does not answer.
    pub fn space(&self) -> Result<Space, DatastoreError> {
        self.check()?;
        let stat = rustix::fs::statvfs(self.root())
            .map_err(|error| io_error("read the free space of", self.root(), error.into()))?;
        let bytes = |blocks: u64| ByteSize(blocks.saturating_mul(stat.f_frsize));
        // Blocks that the file system keeps for root are nobody's to fill: as `df` counts.
        let used = stat.f_blocks.saturating_sub(stat.f_bfree);
        let capacity = used.saturating_add(stat.f_bavail);
        Ok(Space { capacity: bytes(capacity), free: bytes(stat.f_bavail) })
    }

    /// Where a ready image is.
    pub fn image(&self, id: ImageId, media: ImageMedia) -> PathBuf {
        let extension = match media {
            ImageMedia::Disk => "qcow2",
            ImageMedia::Cdrom => "iso",
        };
        self.images().join(format!("{id}.{extension}"))
    }

    /// Where the bytes of an image are received, before they are checked.
    pub fn image_part(&self, id: ImageId) -> PathBuf {
        self.images().join(format!("{id}.part"))
    }

    /// The target of a conversion that is under way.
    pub(crate) fn image_converted(&self, id: ImageId) -> PathBuf {
        self.images().join(format!("{id}.converting"))
    }

    /// What the import of a ready image found; beside the image.
    pub(crate) fn image_record(&self, id: ImageId) -> PathBuf {
        self.images().join(format!("{id}.json"))
    }

    /// A ready image, whatever its media.
    pub fn find_image(&self, id: ImageId) -> Option<(PathBuf, ImageMedia)> {
        [ImageMedia::Disk, ImageMedia::Cdrom]
            .into_iter()
            .map(|media| (self.image(id, media), media))
            .find(|(path, _)| path.is_file())
    }

    /// Removes an image, ready or in progress. That it is not there is as good.
    ///
    /// # Errors
    /// The datastore is not mounted, or a file cannot be removed.
    pub fn remove_image(&self, id: ImageId) -> Result<(), DatastoreError> {
        self.check()?;
        for path in [
            self.image(id, ImageMedia::Disk),
            self.image(id, ImageMedia::Cdrom),
            self.image_part(id),
            self.image_converted(id),
            self.image_record(id),
        ] {
            remove_if_there(&path).doing("remove", &path)?;
        }
        sync_directory(&self.images()).doing("flush", &self.images())
    }

    /// The directory of a VM, which may not exist.
    pub fn vm(&self, id: VmId) -> VmDir {
        VmDir::new(self.clone(), id)
    }

    /// The VMs whose definition is on the datastore, sorted by id.
    ///
    /// # Errors
    /// The datastore is not mounted or cannot be read. A definition that cannot be read is part
    /// of the answer.
    pub fn scan(&self) -> Result<Vec<FoundVm>, DatastoreError> {
        self.check()?;
        let mut ids: Vec<VmId> =
            entries(&self.vms())?.iter().filter_map(|name| name.parse().ok()).collect();
        ids.sort();
        Ok(ids.into_iter().filter_map(|id| self.vm(id).find()).collect())
    }

    /// What lies below `images` and `vms` and belongs to none of these, sorted.
    ///
    /// # Errors
    /// The datastore is not mounted or cannot be read.
    pub fn orphans(
        &self,
        vms: &HashSet<VmId>,
        images: &HashSet<ImageId>,
    ) -> Result<Vec<PathBuf>, DatastoreError> {
        self.check()?;
        let vm_known = |name: &str| name.parse().is_ok_and(|id| vms.contains(&id));
        let image_known = |name: &str| {
            let stem = name.split_once('.').map_or(name, |(stem, _)| stem);
            stem.parse().is_ok_and(|id| images.contains(&id))
        };
        let mut orphans = Vec::new();
        for name in entries(&self.vms())?.iter().filter(|name| !vm_known(name)) {
            orphans.push(self.vms().join(name));
        }
        for name in entries(&self.images())?.iter().filter(|name| !image_known(name)) {
            orphans.push(self.images().join(name));
        }
        orphans.sort();
        Ok(orphans)
    }

    /// The disk files of all images and VMs. Files that have no place in the layout are not among
    /// them; nor are images that are being imported.
    pub(crate) fn layer_files(&self) -> Result<Vec<LayerFile>, DatastoreError> {
        self.check()?;
        let mut files = Vec::new();
        for name in entries(&self.images())? {
            files.extend(format!("images/{name}").parse::<LayerFile>().ok());
        }
        let ids = entries(&self.vms())?;
        for vm in ids.iter().filter_map(|name| name.parse::<VmId>().ok()) {
            files.extend(self.vm(vm).layer_files()?);
        }
        Ok(files)
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.root().join("images")
    }

    pub(crate) fn vms(&self) -> PathBuf {
        self.root().join("vms")
    }

    /// Not on a shared one: what looks left over may be at work on another host.
    fn sweep(&self) -> Result<(), DatastoreError> {
        if read_marker(self.root())?.is_some_and(|marker| marker.shared) {
            return Ok(());
        }
        for directory in [self.root().to_owned(), self.images()] {
            sweep_temporary_files(&directory)?;
        }
        for name in entries(&self.vms())?.iter().filter(|name| VmDir::is_removed(name)) {
            let path = self.vms().join(name);
            fs::remove_dir_all(&path).doing("remove", &path)?;
        }
        Ok(())
    }
}

fn write_marker(root: &Path, marker: &Marker) -> Result<(), DatastoreError> {
    let path = root.join(Datastore::MARKER);
    serde_json::to_vec(marker)
        .map_err(io::Error::other)
        .and_then(|bytes| write_atomic(&path, &bytes, Access::ROOT_ONLY))
        .doing("write the marker", &path)
}

/// A shared directory that is on the file system of `/` is the mount point of one that is not
/// mounted.
fn check_mounted(path: &Path) -> Result<(), DatastoreError> {
    use std::os::unix::fs::MetadataExt;
    let root = fs::metadata("/").doing("look at", Path::new("/"))?;
    let own = fs::metadata(path).doing("look at", path)?;
    if own.dev() == root.dev() {
        return Err(DatastoreError::NotShared(path.to_owned()));
    }
    Ok(())
}

fn read_marker(root: &Path) -> Result<Option<Marker>, DatastoreError> {
    let path = root.join(Datastore::MARKER);
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice::<Marker>(&bytes)
            .map(Some)
            .map_err(|_| DatastoreError::BadMarker(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read the marker", &path, error)),
    }
}

/// Temporary files of [`write_atomic`] that a crash left.
fn sweep_temporary_files(directory: &Path) -> Result<(), DatastoreError> {
    for name in entries(directory)?.iter().filter(|name| is_stale_temporary(name)) {
        let path = directory.join(name);
        remove_if_there(&path).doing("remove", &path)?;
    }
    Ok(())
}

/// Names that are not UTF-8 are nobody's of ours; they are left out.
fn entries(directory: &Path) -> Result<Vec<String>, DatastoreError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).doing("list", directory)? {
        let entry = entry.doing("list", directory)?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

/// A fresh directory or file system, or one in which an earlier [`Datastore::create`] stopped.
fn check_empty(root: &Path) -> Result<(), DatastoreError> {
    for name in entries(root)? {
        let path = root.join(&name);
        let own = match name.as_str() {
            "lost+found" => true,
            "images" | "vms" => path.is_dir() && entries(&path)?.is_empty(),
            name => is_stale_temporary(name),
        };
        if !own {
            return Err(DatastoreError::NotEmpty { root: root.to_owned(), entry: name });
        }
    }
    Ok(())
}

/// Guests run as users of their own, so all must be able to pass each directory on the way.
fn check_traversable(root: &Path) -> Result<(), DatastoreError> {
    match first_closed_directory(root).doing("look at", root)? {
        Some(directory) => Err(DatastoreError::NotTraversable { root: root.to_owned(), directory }),
        None => Ok(()),
    }
}

/// `mkdir -p` with mode 0711 for those that are new.
fn create_directories(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o711).create(path)
}

/// Makes one directory that outlives a power loss; it may be there already.
fn create_directory(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o711).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        result => {
            result?;
            // The process's umask may have taken bits away.
            fs::set_permissions(path, fs::Permissions::from_mode(0o711))?;
        }
    }
    sync_directory(crate::file::parent(path)?)
}
