//! The disks of VMs: qcow2 files in the VM's directory, blank or an overlay on an image.
//!
//! An overlay copies no data: it names the image by a path relative to itself, so that a datastore
//! can be mounted elsewhere. A disk that exists is never overwritten. What was never written reads
//! as the image or as zeros, never as what the file system's blocks held before.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use hostler_types::{ByteSize, DatastoreId, DiskSpec, LayerFile, Provisioning, Sha256};
use rustix::fs::CWD;
use rustix::io::Errno;

use crate::datastore::{DatastoreError, VmDir, is_full};
use crate::file::{Access, is_not_plain, open_plain, set_access, sync_directory, temporary_in};
use crate::qcow2::{Header, HeaderError, empty};
use crate::qemu_img::{QemuImg, QemuImgError};
use crate::uid::{IMAGE_GID, VmUid};

#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error(transparent)]
    Datastore(#[from] DatastoreError),
    #[error("datastore {datastore} is full: {free} free, too little for {}", .path.display())]
    Full { datastore: DatastoreId, free: ByteSize, path: PathBuf },
    #[error("disk `{disk}` of {size} is smaller than its image, which has {image}")]
    SmallerThanImage { disk: String, size: ByteSize, image: ByteSize },
    #[error("{} is not an image of the same datastore", .0.display())]
    ForeignImage(PathBuf),
    #[error("{} is already there and is another disk; it is left alone", .0.display())]
    OtherDisk(PathBuf),
    #[error("{} is not a plain file of its own", .0.display())]
    NotAFile(PathBuf),
    #[error("cannot write the whole of {}", .path.display())]
    Fill { path: PathBuf, source: QemuImgError },
    #[error("cannot copy {}", .path.display())]
    Copy { path: PathBuf, source: QemuImgError },
    #[error("cannot grow {}", .path.display())]
    Grow { path: PathBuf, source: QemuImgError },
    #[error("{} is not a usable qcow2 disk: {reason}", .path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("cannot {action} {}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

/// Makes a disk that shows an image (of the virtual size `image_size`) until it is written to.
/// The disk may be there already from an attempt that a crash cut short.
///
/// # Errors
/// [`VolumeError::Full`], or a disk smaller than its image, or another disk of that name.
pub fn create_overlay(
    vm: &VmDir,
    disk: &DiskSpec,
    image: &Path,
    image_size: ByteSize,
    owner: VmUid,
) -> Result<(), VolumeError> {
    let size = disk.size;
    if size < image_size {
        let disk = disk.name.to_string();
        return Err(VolumeError::SmallerThanImage { disk, size, image: image_size });
    }
    let backing = image
        .strip_prefix(vm.datastore().root())
        .ok()
        .and_then(Path::to_str)
        .map(|relative| format!("../../{relative}"))
        .ok_or_else(|| VolumeError::ForeignImage(image.to_owned()))?;
    fs::metadata(image).map_err(|source| io_error("find the image", image, source))?;
    create(vm, &vm.disk(&disk.name), disk.size, Some(&backing), owner)
}

/// Makes an empty layer on top of another one, which must be there. It may be there already.
///
/// # Errors
/// [`VolumeError::Full`], or another file of that name.
pub fn create_layer(
    vm: &VmDir,
    file: &LayerFile,
    size: ByteSize,
    beneath: &LayerFile,
    owner: VmUid,
) -> Result<(), VolumeError> {
    let root = vm.datastore().root();
    let lower = root.join(beneath.as_str());
    fs::metadata(&lower).map_err(|source| io_error("find", &lower, source))?;
    create(vm, &root.join(file.as_str()), size, Some(&beneath.relative_to(file)), owner)
}

/// Makes an empty file of a disk, on top of another one or of nothing. It may be there already.
///
/// # Errors
/// [`VolumeError::Full`], or another file of that name.
pub fn create_file(
    vm: &VmDir,
    file: &LayerFile,
    size: ByteSize,
    beneath: Option<&LayerFile>,
    owner: VmUid,
) -> Result<(), VolumeError> {
    let backing = beneath.map(|beneath| beneath.relative_to(file));
    create(vm, &vm.datastore().root().join(file.as_str()), size, backing.as_deref(), owner)
}

/// Puts all of a disk file's length on the datastore; what it holds stays, also if it is being written to.
///
/// # Errors
/// There is no room, or it is no file.
pub fn reserve(path: &Path) -> Result<(), VolumeError> {
    let reserve = |file: File| {
        let file =
            OpenOptions::new().write(true).open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let length = file.metadata()?.len();
        let all = rustix::fs::FallocateFlags::empty();
        Ok(rustix::fs::fallocate(&file, all, 0, length.max(1))?)
    };
    reserve(open_disk(path)?).map_err(|source| io_error("reserve", path, source))
}

/// Makes a disk that reads as zeros. It may be there already.
///
/// # Errors
/// [`VolumeError::Full`], or another disk of that name.
pub fn create_blank(vm: &VmDir, disk: &DiskSpec, owner: VmUid) -> Result<(), VolumeError> {
    create(vm, &vm.disk(&disk.name), disk.size, None, owner)
}

/// As [`create_blank`], with all of its size on the datastore from the beginning. Made beside its
/// place and put there when it is whole.
///
/// # Errors
/// As [`create_blank`].
pub async fn create_whole(
    qemu_img: &QemuImg,
    vm: &VmDir,
    disk: &DiskSpec,
    owner: VmUid,
) -> Result<(), VolumeError> {
    vm.datastore().check()?;
    let path = vm.disk(&disk.name);
    if fs::symlink_metadata(&path).is_ok() {
        return adopt(&path, disk.size, None, owner);
    }
    let space = vm.datastore().space()?;
    if space.free < disk.size {
        return Err(VolumeError::Full { datastore: vm.datastore().id(), free: space.free, path });
    }
    let temporary = temporary_in(vm.path())
        .map_err(|source| io_error("make a file beside", &path, source))?
        .into_temp_path();
    let zeroed = disk.provisioning == Provisioning::Zeroed;
    let made = qemu_img.create_whole(&temporary, disk.size, zeroed).await;
    made.map_err(|source| VolumeError::Fill { path: path.clone(), source })?;
    set_owner(&temporary, owner)?;
    temporary
        .persist_noclobber(&path)
        .map_err(|error| io_error("put into place", &path, error.error))?;
    sync_directory(vm.path()).map_err(|source| io_error("flush", &path, source))
}

/// Grows a disk that no QEMU has open. One that is as large already stays as it is.
///
/// # Errors
/// [`VolumeError::Grow`], also when `size` is less than the disk has.
pub async fn grow(qemu_img: &QemuImg, disk: &Path, size: ByteSize) -> Result<(), VolumeError> {
    if read_header(disk)?.virtual_size == size.bytes() {
        return Ok(());
    }
    let grow = |source| VolumeError::Grow { path: disk.to_owned(), source };
    qemu_img.resize(disk, size).await.map_err(grow)
}

/// The SHA-256 of a file.
///
/// # Errors
/// It cannot be read.
///
/// # Cancel safety
/// Dropping the future ends the reading.
pub async fn sha256(path: &Path) -> Result<Sha256, VolumeError> {
    let file = open_disk(path)?;
    let hashed = crate::image::hash(file).await;
    hashed.map_err(|source| io_error("read", path, source))
}

/// The size of a disk as its guest sees it.
///
/// # Errors
/// The file is not a qcow2.
pub fn virtual_size(disk: &Path) -> Result<ByteSize, VolumeError> {
    Ok(ByteSize(read_header(disk)?.virtual_size))
}

/// The name of the file beneath a disk, as its header has it.
pub(crate) fn backing_of(disk: &Path) -> Result<Option<String>, VolumeError> {
    let header = read_header(disk)?;
    // A guest that has broken out of QEMU can write this into its own disk.
    if header.data_file.is_some() || header.incompatible & Header::DATA_FILE != 0 {
        let reason = "it keeps its data in another file".to_owned();
        return Err(VolumeError::Damaged { path: disk.to_owned(), reason });
    }
    Ok(header.backing)
}

/// Bytes that a file has on its file system; 0 when it is not there.
///
/// # Errors
/// It cannot be looked at.
pub fn allocated(path: &Path) -> Result<ByteSize, VolumeError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(ByteSize(metadata.blocks() * 512)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(ByteSize(0)),
        Err(source) => Err(io_error("look at", path, source)),
    }
}

/// Gives a file of a VM to its user, who alone may read and write it.
///
/// # Errors
/// The path is a symbolic link, not a file, or a second name of a file elsewhere.
pub fn set_owner(path: &Path, owner: VmUid) -> Result<(), VolumeError> {
    let file = open_disk(path)?;
    set_access(&file, private(owner)).map_err(|source| io_error("give away", path, source))
}

/// Lends a layer that nothing writes to any more: every VM may read it, and none may write to it,
/// its own one neither. On disk when this returns, because whoever starts its VM after a power loss
/// must see it. One that is lent already has been lent just now again, by the time of its change.
///
/// # Errors
/// As [`set_owner`].
pub fn lend(path: &Path) -> Result<(), VolumeError> {
    let file = open_disk(path)?;
    let lent = || {
        let again = file.metadata().is_ok_and(|metadata| is_access_of_lent(&metadata));
        set_access(&file, LENT)?;
        if again { Ok(()) } else { file.sync_all() }
    };
    lent().map_err(|source| io_error("lend", path, source))
}

/// Lets other VMs read a layer that its own VM still writes to, but will not much longer.
///
/// # Errors
/// As [`set_owner`].
pub fn show(path: &Path, owner: VmUid) -> Result<(), VolumeError> {
    let access = Access { mode: 0o640, uid: owner.uid(), gid: IMAGE_GID };
    set_access(&open_disk(path)?, access).map_err(|source| io_error("show", path, source))
}

/// Whether a layer is lent; one that is not there is not.
///
/// # Errors
/// It cannot be looked at.
pub fn is_lent(path: &Path) -> Result<bool, VolumeError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(is_access_of_lent(&metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(io_error("look at", path, source)),
    }
}

/// As [`is_lent`], of a file that another host may just be changing: what is opened is looked at
/// anew, also where a network file system remembers what it has seen.
///
/// # Errors
/// It cannot be looked at.
pub fn is_lent_now(path: &Path) -> Result<bool, VolumeError> {
    match open_plain(path).and_then(|file| file.metadata()) {
        Ok(metadata) => Ok(is_access_of_lent(&metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound || is_not_plain(&error) => Ok(false),
        Err(source) => Err(io_error("look at", path, source)),
    }
}

/// As images have it.
const LENT: Access = Access { mode: 0o640, uid: 0, gid: IMAGE_GID };

fn is_access_of_lent(metadata: &fs::Metadata) -> bool {
    metadata.is_file() && metadata.uid() == LENT.uid && metadata.gid() == LENT.gid
}

/// Brings a disk file from another directory of the datastore into a VM's, as its user's. It is in
/// one of the two at every instant.
///
/// # Errors
/// Something of that name is there already; the datastore is not mounted or read-only; as
/// [`set_owner`]. The file is where it was then, though perhaps the new user's.
pub fn bring(from: &Path, vm: &VmDir, to: &Path, owner: VmUid) -> Result<(), VolumeError> {
    vm.datastore().check()?;
    set_owner(from, owner)?;
    let failed = |source| io_error("move", from, source);
    let flags = rustix::fs::RenameFlags::NOREPLACE;
    let moved = match rustix::fs::renameat_with(CWD, from, CWD, to, flags) {
        // NFS has no such flag. Nobody else makes files in the VM's directory.
        Err(Errno::INVAL | Errno::NOSYS) if fs::symlink_metadata(to).is_err() => {
            fs::rename(from, to)
        }
        moved => moved.map_err(io::Error::from),
    };
    moved.map_err(failed)?;
    let parent = from.parent().unwrap_or(from);
    sync_directory(vm.path()).and_then(|()| sync_directory(parent)).map_err(failed)
}

/// Makes the names in a VM's directory survive a power loss.
///
/// # Errors
/// Those of the file system.
pub fn flush_names(vm: &VmDir) -> Result<(), VolumeError> {
    sync_directory(vm.path()).map_err(|source| io_error("flush", vm.path(), source))
}

/// Removes a file of a VM. That it is not there is as good.
///
/// # Errors
/// The datastore is not mounted or read-only.
pub fn remove(vm: &VmDir, path: &Path) -> Result<(), VolumeError> {
    vm.datastore().check()?;
    crate::file::remove_if_there(path)
        .and_then(|()| sync_directory(vm.path()))
        .map_err(|source| io_error("remove", path, source))
}

fn create(
    vm: &VmDir,
    path: &Path,
    size: ByteSize,
    backing: Option<&str>,
    owner: VmUid,
) -> Result<(), VolumeError> {
    vm.datastore().check()?;
    match fs::symlink_metadata(path) {
        Ok(_) => return adopt(path, size, backing, owner),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(io_error("look at", path, source)),
    }
    write_empty(vm.path(), path, size, backing, owner).map_err(|source| {
        if is_full(&source) {
            let space = vm.datastore().space().map_or(ByteSize(0), |space| space.free);
            let datastore = vm.datastore().id();
            return VolumeError::Full { datastore, free: space, path: path.to_owned() };
        }
        io_error("create", path, source)
    })
}

fn write_empty(
    directory: &Path,
    path: &Path,
    size: ByteSize,
    backing: Option<&str>,
    owner: VmUid,
) -> io::Result<()> {
    let (bytes, length) = empty(size.bytes(), backing);
    let mut temporary = temporary_in(directory)?;
    temporary.write_all(&bytes)?;
    temporary.as_file().set_len(length)?;
    set_access(temporary.as_file(), private(owner))?;
    temporary.as_file().sync_all()?;
    temporary.persist_noclobber(path).map_err(|error| error.error)?;
    sync_directory(directory)
}

/// A disk that is there is taken only if it is what would have been made.
pub(crate) fn adopt(
    path: &Path,
    size: ByteSize,
    backing: Option<&str>,
    owner: VmUid,
) -> Result<(), VolumeError> {
    let header = read_header(path)?;
    if header.virtual_size != size.bytes() || header.backing.as_deref() != backing {
        return Err(VolumeError::OtherDisk(path.to_owned()));
    }
    set_owner(path, owner)
}

fn read_header(path: &Path) -> Result<Header, VolumeError> {
    let file = open_disk(path)?;
    Header::read(&file).map_err(|error| match error {
        HeaderError::Io(source) => io_error("read", path, source),
        other => VolumeError::Damaged { path: path.to_owned(), reason: other.to_string() },
    })
}

/// The directory may come from another host, so its entries are not trusted to be files.
pub(crate) fn open_disk(path: &Path) -> Result<File, VolumeError> {
    open_plain(path).map_err(|source| match is_not_plain(&source) {
        true => VolumeError::NotAFile(path.to_owned()),
        false => io_error("open", path, source),
    })
}

fn private(owner: VmUid) -> Access {
    Access { mode: 0o600, uid: owner.uid(), gid: owner.gid() }
}

pub(crate) fn io_error(action: &'static str, path: &Path, source: io::Error) -> VolumeError {
    VolumeError::Io { action, path: path.to_owned(), source }
}
