//! Images: what was received is looked at with suspicion, made a qcow2 (or kept as an ISO), and
//! put in its place in one instant.
//!
//! ```text
//! <id>.part --recognise--> header inspected --hash--> qemu-img info, check (confined)
//!     qcow2, ISO: kept as it is                     \
//!     raw, vmdk, vhdx: converted (confined)          +--> <id>.json, <id>.qcow2 | <id>.iso
//! ```
//!
//! The format is found by content, never by name, and told to every program from then on. Nothing
//! that refers to another file is taken. On failure `<id>.part` stays as it was received, so that
//! an interrupted import can go on; the caller removes it with [`Datastore::remove_image`].

mod adopt;
mod error;
mod hash;
mod inspect;
mod recognise;

use std::convert::Infallible;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hostler_types::{ByteSize, ImageFormat, ImageId, ImageMedia, Sha256};
use serde::{Deserialize, Serialize};

use crate::datastore::Datastore;
use crate::file::{Access, open_plain, remove_if_there, set_access, sync_directory, write_atomic};
use crate::qemu_img::QemuImg;
use crate::uid::{IMAGE_GID, IMPORT_UID};

pub use adopt::adopt;
pub use error::{ImportError, Refusal};
use error::{IoContext, is_full_after};

/// The largest disk that an image may describe.
pub const MAX_VIRTUAL_SIZE: ByteSize = ByteSize(64 << 40);

/// How often the progress of a conversion is looked at; it has no event.
const LOOK: Duration = Duration::from_millis(500);

/// What an import found and made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportedImage {
    /// The format of what was received.
    pub format: ImageFormat,
    pub media: ImageMedia,
    pub virtual_size: ByteSize,
    /// Bytes on the datastore.
    pub allocated: ByteSize,
    /// Of what was received.
    pub sha256: Sha256,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportStage {
    Hashing,
    Checking,
    Converting,
}

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportProgress {
    pub stage: ImportStage,
    pub done: ByteSize,
    /// While converting, an upper bound.
    pub total: ByteSize,
}

/// Turns the received `<id>.part` into a ready image. If it is one already, says so again.
///
/// # Errors
/// [`ImportError::Refused`] when the content is not acceptable, with the reason and the way out.
///
/// # Cancel safety
/// Dropping the future stops all work and leaves only the `.part`.
pub async fn import(
    datastore: &Datastore,
    id: ImageId,
    expected: Option<&Sha256>,
    qemu_img: &QemuImg,
    on_progress: impl Fn(ImportProgress) + Send + Sync,
) -> Result<ImportedImage, ImportError> {
    datastore.check()?;
    if let Some(done) = already_imported(datastore, id)? {
        return Ok(done);
    }
    let import = Import { datastore, id, qemu_img, part: datastore.image_part(id) };
    import.run(expected, &on_progress).await
}

struct Import<'a> {
    datastore: &'a Datastore,
    id: ImageId,
    qemu_img: &'a QemuImg,
    part: PathBuf,
}

type OnProgress<'a> = &'a (dyn Fn(ImportProgress) + Send + Sync);

impl Import<'_> {
    async fn run(
        &self,
        expected: Option<&Sha256>,
        on_progress: OnProgress<'_>,
    ) -> Result<ImportedImage, ImportError> {
        let file = self.open()?;
        let length = ByteSize(file.metadata().doing("look at", &self.part)?.len());
        let format = recognise::recognise(&file, &self.part)?;
        let header_size = inspect::inspect(&file, &self.part, format)?;
        let sha256 = self.hash(&file, length, expected, on_progress).await?;
        let virtual_size = match format {
            ImageFormat::Iso => length,
            ImageFormat::Raw => ByteSize(length.bytes().next_multiple_of(512)),
            ImageFormat::Qcow2 | ImageFormat::Vmdk | ImageFormat::Vhdx => {
                on_progress(ImportProgress {
                    stage: ImportStage::Checking,
                    done: ByteSize(0),
                    total: length,
                });
                self.examine(&file, format, header_size).await?
            }
        };
        let (ready, media) = match format {
            ImageFormat::Iso => (self.part.clone(), ImageMedia::Cdrom),
            ImageFormat::Qcow2 => (self.part.clone(), ImageMedia::Disk),
            ImageFormat::Raw | ImageFormat::Vmdk | ImageFormat::Vhdx => {
                self.let_import_read(&file)?;
                let converted = self.convert(format, length, virtual_size, on_progress).await?;
                (converted, ImageMedia::Disk)
            }
        };
        self.publish(
            &ready,
            ImportedImage { format, media, virtual_size, allocated: ByteSize(0), sha256 },
        )
    }

    fn open(&self) -> Result<File, ImportError> {
        open_plain(&self.part).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ImportError::NotReceived(self.part.clone()),
            _ => ImportError::Io { action: "open", path: self.part.clone(), source },
        })
    }

    async fn hash(
        &self,
        file: &File,
        length: ByteSize,
        expected: Option<&Sha256>,
        on_progress: OnProgress<'_>,
    ) -> Result<Sha256, ImportError> {
        let file = file.try_clone().doing("read", &self.part)?;
        let report = |done| {
            on_progress(ImportProgress { stage: ImportStage::Hashing, done, total: length });
        };
        let found = hash::sha256(file, report).await.doing("read", &self.part)?;
        match expected {
            Some(expected) if *expected != found => {
                Err(ImportError::Checksum { expected: expected.clone(), found })
            }
            _ => Ok(found),
        }
    }

    /// QEMU's own view of an image whose header was found harmless. Returns the virtual size.
    async fn examine(
        &self,
        file: &File,
        format: ImageFormat,
        header_size: Option<ByteSize>,
    ) -> Result<ByteSize, ImportError> {
        self.let_import_read(file)?;
        let info =
            self.qemu_img.info(&self.part, format).await.map_err(ImportError::from_qemu_img)?;
        inspect::check_info(&info, &self.part)?;
        let virtual_size = ByteSize(info.virtual_size);
        if header_size.is_some_and(|size| size != virtual_size) {
            return Err(Refusal::Damaged("its header contradicts itself".to_owned()).into());
        }
        if format != ImageFormat::Vhdx {
            let report = self
                .qemu_img
                .check(&self.part, format)
                .await
                .map_err(ImportError::from_qemu_img)?;
            if report.corruptions > 0 || report.check_errors > 0 {
                let errors = report.corruptions + report.check_errors;
                return Err(Refusal::Inconsistent { errors }.into());
            }
        }
        Ok(virtual_size)
    }

    /// Only `qemu-img`'s user and root may read what nobody has checked.
    fn let_import_read(&self, file: &File) -> Result<(), ImportError> {
        set_access(file, Access { mode: 0o640, uid: 0, gid: IMPORT_UID })
            .doing("give away", &self.part)
    }

    async fn convert(
        &self,
        format: ImageFormat,
        length: ByteSize,
        virtual_size: ByteSize,
        on_progress: OnProgress<'_>,
    ) -> Result<PathBuf, ImportError> {
        let target = Unfinished(self.datastore.image_converted(self.id));
        remove_if_there(&target.0).doing("remove", &target.0)?;
        let file = File::create_new(&target.0).doing("create", &target.0)?;
        set_access(&file, Access { mode: 0o600, uid: IMPORT_UID, gid: IMPORT_UID })
            .doing("give away", &target.0)?;
        // Tables take far less than a thousandth of the disk. What the datastore has not, a
        // compressed image cannot unfold into.
        let most = virtual_size.bytes() + virtual_size.bytes() / 1000 + (16 << 20);
        let free = self.datastore.space()?.free;
        let max_size = ByteSize(most.min(free.bytes()));
        let convert = self.qemu_img.convert(&self.part, format, length, &target.0, max_size);
        let report = |done| {
            on_progress(ImportProgress {
                stage: ImportStage::Converting,
                done,
                total: virtual_size,
            });
        };
        let result = tokio::select! {
            result = convert => result,
            never = watch(&file, report) => match never {},
        };
        if let Err(error) = result {
            let written = ByteSize(file.metadata().map_or(0, |metadata| metadata.len()));
            if is_full_after(written, max_size, self.datastore) {
                let datastore = self.datastore.id();
                return Err(ImportError::Full { datastore, free, virtual_size });
            }
            return Err(ImportError::from_qemu_img(error));
        }
        Ok(target.keep())
    }

    /// From here on VMs may use it.
    fn publish(
        &self,
        ready: &Path,
        mut image: ImportedImage,
    ) -> Result<ImportedImage, ImportError> {
        let file = open_plain(ready).doing("open", ready)?;
        set_access(&file, Access { mode: 0o640, uid: 0, gid: IMAGE_GID }).doing("give", ready)?;
        file.sync_all().doing("flush", ready)?;
        image.allocated = allocated(&file).doing("look at", ready)?;
        let record = self.datastore.image_record(self.id);
        serde_json::to_vec(&image)
            .map_err(io::Error::other)
            .and_then(|bytes| write_atomic(&record, &bytes, Access::ROOT_ONLY))
            .doing("write", &record)?;
        let place = self.datastore.image(self.id, image.media);
        fs::rename(ready, &place).doing("put in place", ready)?;
        remove_if_there(&self.part).doing("remove", &self.part)?;
        sync_directory(&self.datastore.images()).doing("flush", &self.datastore.images())?;
        Ok(image)
    }
}

/// A crash after an image was put in place leaves it to the repeated command to find that.
fn already_imported(
    datastore: &Datastore,
    id: ImageId,
) -> Result<Option<ImportedImage>, ImportError> {
    if datastore.find_image(id).is_none() {
        return Ok(None);
    }
    let record = datastore.image_record(id);
    let bytes = fs::read(&record).doing("read", &record)?;
    let image = serde_json::from_slice(&bytes).map_err(io::Error::other).doing("read", &record)?;
    let part = datastore.image_part(id);
    remove_if_there(&part).doing("remove", &part)?;
    Ok(Some(image))
}

/// The SHA-256 of a file, off the async threads.
pub(crate) async fn hash(file: File) -> io::Result<Sha256> {
    hash::sha256(file, |_| {}).await
}

/// Reports what was written so far, and never ends.
async fn watch(target: &File, report: impl Fn(ByteSize)) -> Infallible {
    loop {
        tokio::time::sleep(LOOK).await;
        report(allocated(target).unwrap_or_default());
    }
}

/// A file that is removed unless it was finished.
struct Unfinished(PathBuf);

impl Unfinished {
    fn keep(mut self) -> PathBuf {
        std::mem::take(&mut self.0)
    }
}
impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.0.as_os_str().is_empty() {
            return;
        }
        if let Err(error) = remove_if_there(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "an unfinished file stays");
        }
    }
}

fn allocated(file: &File) -> io::Result<ByteSize> {
    use std::os::unix::fs::MetadataExt;
    Ok(ByteSize(file.metadata()?.blocks() * 512))
}
