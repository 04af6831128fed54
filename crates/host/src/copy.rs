//! Independent copies of disks, and disks made independent of what they lie on.
//!
//! A copy is made beside its place and put there when it is whole, so a crash leaves a temporary file
//! that the next use of the directory removes. The work is done by `qemu-img`, as the user of the VM
//! that gets the disk; how far it is, is told by what the file system has of the target.

use std::convert::Infallible;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs, io};

use hostler_types::{ByteSize, DiskSpec, Layer};
use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

use crate::datastore::{Datastore, VmDir};
use crate::file::{Access, set_access, sync_directory, temporary_in};
use crate::layers;
use crate::qemu_img::QemuImg;
use crate::uid::VmUid;
use crate::volume::{VolumeError, adopt, allocated, io_error, open_disk, set_owner, virtual_size};

/// How often progress is looked at; it has no event.
const LOOK: Duration = Duration::from_millis(100);
/// What a datastore must still have free afterwards.
const HEADROOM: ByteSize = ByteSize::mib(64);

/// What is copied of a file before anybody can end it.
const PIECE: u64 = 8 << 20;
const BUFFER: usize = 1 << 20;

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyProgress {
    pub done: ByteSize,
    /// An estimate: what the source's files have.
    pub total: ByteSize,
}

/// Makes a VM's disk as a copy of a chain of files, the active one first, which may lie on another
/// datastore. Nothing may write to them meanwhile. The disk may be there already.
///
/// # Errors
/// [`VolumeError::Full`], also before anything is copied; a source that cannot be read.
///
/// # Cancel safety
/// Dropping the future ends the work and removes what was copied.
pub async fn copy_disk(
    qemu_img: &QemuImg,
    (from, chain): (&Datastore, &[Layer]),
    vm: &VmDir,
    disk: &DiskSpec,
    owner: VmUid,
    report: impl Fn(CopyProgress) + Send,
) -> Result<(), VolumeError> {
    vm.datastore().check()?;
    let path = vm.disk(&disk.name);
    if fs::symlink_metadata(&path).is_ok() {
        return adopt(&path, disk.size, None, owner);
    }
    let Some(active) = chain.first() else { return Err(VolumeError::NotAFile(path)) };
    let source = layers::path(from, &active.file);
    let size = virtual_size(&source)?;
    if disk.size < size {
        let (name, image) = (disk.name.to_string(), size);
        return Err(VolumeError::SmallerThanImage { disk: name, size: disk.size, image });
    }
    let total = sum(chain);
    let max_size = room(vm.datastore(), total, size, &path)?;
    let temporary = temporary_in(vm.path())
        .map_err(|source| io_error("make a file beside", &path, source))?
        .into_temp_path();
    set_owner(&temporary, owner)?;
    let copying = qemu_img.copy(&source, &temporary, size, (max_size, None), owner);
    let made = tokio::select! {
        made = copying => made,
        never = watch(&temporary, ByteSize(0), total, report) => match never {},
    };
    let failed = |source| full_or(vm.datastore(), &path, source);
    made.map_err(failed)?;
    if disk.size > size {
        qemu_img.resize(&temporary, disk.size).await.map_err(failed)?;
    }
    // A long flush: not on a thread that serves others.
    let flushed =
        fs::File::open(&temporary).map(|file| tokio::task::spawn_blocking(move || file.sync_all()));
    let flushed = async { flushed?.await.map_err(std::io::Error::other)? }.await;
    flushed.map_err(|source| io_error("flush", &path, source))?;
    temporary
        .persist_noclobber(&path)
        .map_err(|error| io_error("put into place", &path, error.error))?;
    sync_directory(vm.path()).map_err(|source| io_error("flush", &path, source))
}

/// Copies a disk with all beneath it into the new file `target`, which is root's alone afterwards, and
/// flushes it. Works as `owner`, the user of the VM whose disk it is, and leaves `reserve` free, however
/// much the disk makes of little: a guest that has broken out of QEMU writes its own tables. The caller
/// has made sure that the chain is what it should be.
///
/// # Errors
/// [`VolumeError::Full`], or the copy does not work.
///
/// # Cancel safety
/// Dropping the future ends the copy and leaves what was written.
pub async fn flatten(
    qemu_img: &QemuImg,
    datastore: &Datastore,
    (source, target): (&Path, &Path),
    owner: VmUid,
    (reserve, rate): (ByteSize, Option<u64>),
) -> Result<(), VolumeError> {
    datastore.check()?;
    let size = virtual_size(source)?;
    let free = datastore.space()?.free.bytes().saturating_sub(reserve.bytes());
    let max_size = ByteSize(most(size).bytes().min(free));
    let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(target);
    let file = made.map_err(|source| io_error("create", target, source))?;
    set_owner(target, owner)?;
    if let Err(error) = qemu_img.copy(source, target, size, (max_size, rate), owner).await {
        let free = datastore.space().map_or(ByteSize(0), |space| space.free);
        if free.bytes() < reserve.bytes().saturating_add(HEADROOM.bytes()) {
            let (datastore, path) = (datastore.id(), target.to_owned());
            return Err(VolumeError::Full { datastore, free, path });
        }
        return Err(VolumeError::Copy { path: source.to_owned(), source: error });
    }
    let flushed = tokio::task::spawn_blocking(move || {
        set_access(&file, Access::ROOT_ONLY)?;
        file.sync_all()
    });
    let flushed = flushed.await.map_err(std::io::Error::other).flatten();
    flushed.map_err(|source| io_error("flush", target, source))
}

/// Copies a file of a VM to `to`, a new file in another directory of the VM, with its holes, and gives it to
/// `owner`, or to whom the source belongs. What it holds is not looked at. It is flushed when this returns. `whole`: all of its length is
/// reserved. `rate` is in bytes a second; `report` is told of the bytes of each piece that was copied, and
/// says whether to go on. Whether it came to its end.
///
/// # Errors
/// [`VolumeError::Full`]; there is such a file already; the source is no file, or cannot be read.
///
/// # Cancel safety
/// A file may come into being, or be written to, for a moment after the future was dropped.
pub async fn copy_file(
    from: &Path,
    (vm, to): (&VmDir, &Path),
    owner: Option<VmUid>,
    (whole, rate): (bool, Option<u64>),
    report: impl Fn(u64) -> bool + Send,
) -> Result<bool, VolumeError> {
    let piece = rate.map_or(PIECE, |rate| (rate / 8).clamp(BUFFER as u64 / 16, PIECE));
    let opened = {
        let (from, to) = (from.to_owned(), to.to_owned());
        in_background(move || {
            let source = open_disk(&from).map_err(io::Error::other)?;
            let length = source.metadata()?.len();
            let target =
                fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&to)?;
            target.set_len(length)?;
            if whole && length > 0 {
                rustix::fs::fallocate(&target, FallocateFlags::empty(), 0, length)?;
            }
            Ok((Arc::new(source), Arc::new(target)))
        })
        .await
    };
    let failed = |source: io::Error| full_file(vm.datastore(), to, source);
    let (source, target) = opened.map_err(failed)?;
    let (begun, mut copied, mut at) = (Instant::now(), 0_u64, Some(0));
    while let Some(from) = at {
        let (source, target) = (source.clone(), target.clone());
        let done = in_background(move || copy_piece(&source, &target, (from, piece))).await;
        let (next, bytes) = done.map_err(failed)?;
        copied += bytes;
        if !report(bytes) {
            return Ok(false);
        }
        at = next;
        if let Some(rate) = rate {
            let due = Duration::from_secs_f64(copied as f64 / rate.max(1) as f64);
            tokio::time::sleep(due.saturating_sub(begun.elapsed())).await;
        }
    }
    let flushed = in_background(move || {
        let private = |owner: VmUid| Access { mode: 0o600, uid: owner.uid(), gid: owner.gid() };
        set_access(&target, owner.map_or(access_of(&source.metadata()?), private))?;
        target.sync_all()
    });
    flushed.await.map_err(failed)?;
    Ok(true)
}

/// Copies at most `most` bytes of what comes next from `at` on; where to go on, unless that was the end,
/// and the bytes copied.
fn copy_piece(
    source: &fs::File,
    target: &fs::File,
    (at, most): (u64, u64),
) -> io::Result<(Option<u64>, u64)> {
    let data = match rustix::fs::seek(source, SeekFrom::Data(at)) {
        Ok(data) => data,
        Err(Errno::NXIO) => return Ok((None, 0)),
        Err(error) => return Err(error.into()),
    };
    let hole = rustix::fs::seek(source, SeekFrom::Hole(data))?;
    let end = hole.min(data.saturating_add(most));
    let mut buffer = vec![0; BUFFER];
    let mut place = data;
    while place < end {
        let most = usize::try_from(end - place).unwrap_or(BUFFER).min(BUFFER);
        let read = source.read_at(&mut buffer[..most], place)?;
        if read == 0 {
            break;
        }
        target.write_all_at(&buffer[..read], place)?;
        place += read as u64;
    }
    // One that has become shorter meanwhile.
    let next = (place == end).then_some(place);
    Ok((next, place - data))
}

fn access_of(metadata: &fs::Metadata) -> Access {
    Access { mode: metadata.mode() & 0o777, uid: metadata.uid(), gid: metadata.gid() }
}

async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other).flatten()
}

fn full_file(datastore: &Datastore, path: &Path, source: io::Error) -> VolumeError {
    if source.kind() == io::ErrorKind::StorageFull {
        let free = datastore.space().map_or(ByteSize(0), |space| space.free);
        return VolumeError::Full { datastore: datastore.id(), free, path: path.to_owned() };
    }
    io_error("copy to", path, source)
}

/// Makes the lowest file of a VM's own independent of the files beneath it, while no QEMU has it open.
/// `own` are the VM's files of the disk, the active one first, and `beneath` those that are not its
/// own.
///
/// # Errors
/// [`VolumeError::Full`], also before anything is copied; the disk is in use.
///
/// # Cancel safety
/// Dropping the future ends the work; what the disk shows is the same at every instant.
pub async fn make_alone(
    qemu_img: &QemuImg,
    datastore: &Datastore,
    (own, beneath): (&[Layer], &[Layer]),
    owner: VmUid,
    report: impl Fn(CopyProgress) + Send,
) -> Result<(), VolumeError> {
    datastore.check()?;
    let Some(lowest) = own.last() else { return Ok(()) };
    let path = layers::path(datastore, &lowest.file);
    let size = virtual_size(&path)?;
    let (before, total) = (allocated(&path)?, sum(beneath));
    let max_size = room(datastore, total, size, &path)?;
    let copying = qemu_img.make_alone(&path, size, max_size, owner);
    let made = tokio::select! {
        made = copying => made,
        never = watch(&path, before, total, report) => match never {},
    };
    made.map_err(|source| full_or(datastore, &path, source))?;
    let flushed = fs::File::open(&path).and_then(|file| file.sync_all());
    flushed.map_err(|source| io_error("flush", &path, source))
}

fn sum(layers: &[Layer]) -> ByteSize {
    ByteSize(layers.iter().map(|layer| layer.allocated.bytes()).sum())
}

/// What the target's file may become. Refused early when what is to be copied does not fit.
fn room(
    datastore: &Datastore,
    needed: ByteSize,
    size: ByteSize,
    path: &Path,
) -> Result<ByteSize, VolumeError> {
    let free = datastore.space()?.free;
    if free.bytes() < needed.bytes().min(size.bytes()).saturating_add(HEADROOM.bytes()) {
        let datastore = datastore.id();
        return Err(VolumeError::Full { datastore, free, path: path.to_owned() });
    }
    Ok(most(size))
}

/// What the file of a disk of this size takes at most.
fn most(size: ByteSize) -> ByteSize {
    // Tables take far less than a thousandth of the disk.
    ByteSize(size.bytes() + size.bytes() / 1000 + (16 << 20))
}

/// A program that stopped with next to nothing left on the datastore has stopped for that.
fn full_or(
    datastore: &Datastore,
    path: &Path,
    source: crate::qemu_img::QemuImgError,
) -> VolumeError {
    let free = datastore.space().map_or(ByteSize(0), |space| space.free);
    if free < HEADROOM {
        let datastore = datastore.id();
        return VolumeError::Full { datastore, free, path: path.to_owned() };
    }
    VolumeError::Copy { path: path.to_owned(), source }
}

/// Reports what was written so far, and never ends.
async fn watch(
    target: &Path,
    before: ByteSize,
    total: ByteSize,
    report: impl Fn(CopyProgress),
) -> Infallible {
    loop {
        tokio::time::sleep(LOOK).await;
        let now = allocated(target).unwrap_or(before);
        let done = ByteSize(now.bytes().saturating_sub(before.bytes()).min(total.bytes()));
        report(CopyProgress { done, total });
    }
}
