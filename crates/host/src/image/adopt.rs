//! Taking an image that lies in its place, but in no inventory, for what it is.

use std::fs::File;
use std::io;

use hostler_types::{ByteSize, ImageFormat, ImageId, ImageMedia};

use super::error::IoContext;
use super::{Import, ImportError, ImportProgress, ImportedImage, Refusal, allocated, recognise};
use crate::datastore::Datastore;
use crate::file::{Access, set_access, write_atomic};
use crate::qemu_img::QemuImg;
use crate::uid::IMAGE_GID;

/// Looks at `images/<id>.qcow2` (or `.iso`) with the suspicion of an import. It stays where and what
/// it is, whatever comes of it: disks may lie on it.
///
/// # Errors
/// [`ImportError::Refused`] when it could not have been imported as it is.
///
/// # Cancel safety
/// Dropping the future stops all work and changes nothing.
pub async fn adopt(
    datastore: &Datastore,
    id: ImageId,
    qemu_img: &QemuImg,
    on_progress: impl Fn(ImportProgress) + Send + Sync,
) -> Result<ImportedImage, ImportError> {
    datastore.check()?;
    let Some((place, media)) = datastore.find_image(id) else {
        return Err(ImportError::NotReceived(datastore.image(id, ImageMedia::Disk)));
    };
    let found = Import { datastore, id, qemu_img, part: place };
    let file = found.open()?;
    let _access = Restore(file.try_clone().doing("open", &found.part)?);
    let image = found.inspect_in_place(&file, media, &on_progress).await?;
    let record = datastore.image_record(id);
    serde_json::to_vec(&image)
        .map_err(io::Error::other)
        .and_then(|bytes| write_atomic(&record, &bytes, Access::ROOT_ONLY))
        .doing("write", &record)?;
    Ok(image)
}

impl Import<'_> {
    async fn inspect_in_place(
        &self,
        file: &File,
        media: ImageMedia,
        on_progress: super::OnProgress<'_>,
    ) -> Result<ImportedImage, ImportError> {
        let length = ByteSize(file.metadata().doing("look at", &self.part)?.len());
        let format = recognise::recognise(file, &self.part)?;
        let expected = match media {
            ImageMedia::Disk => ImageFormat::Qcow2,
            ImageMedia::Cdrom => ImageFormat::Iso,
        };
        if format != expected {
            let reason = format!("it is {}, not {}", format.driver(), expected.driver());
            return Err(Refusal::Damaged(reason).into());
        }
        let header_size = super::inspect::inspect(file, &self.part, format)?;
        let sha256 = self.hash(file, length, None, on_progress).await?;
        let virtual_size = match format {
            ImageFormat::Iso => length,
            _ => self.examine(file, format, header_size).await?,
        };
        let allocated = allocated(file).doing("look at", &self.part)?;
        Ok(ImportedImage { format, media, virtual_size, allocated, sha256 })
    }
}

/// Gives the image, in the end, the access that VMs which use it rely on: while it is examined, only
/// `qemu-img` may read it.
struct Restore(File);

impl Drop for Restore {
    fn drop(&mut self) {
        if let Err(error) = set_access(&self.0, Access { mode: 0o640, uid: 0, gid: IMAGE_GID }) {
            tracing::warn!(%error, "an image keeps another owner");
        }
    }
}
