//! Images on this host's datastores: received or downloaded, checked, put in place, removed.
//!
//! An image's record remembers where its download stands; what an import found is kept beside the
//! image itself, so that an import that is asked for again is answered again.

mod download;
mod upload;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use hostler_agent_api::{
    ImageContentAnswer, ImageImportRequest, ImageImportSource, ImageImported, OperationProgress,
};
use hostler_endpoint::{ByteStream, Problem};
use hostler_host::{Datastore, ImportError, ImportStage, ImportedImage, QemuImg};
use hostler_types::{ByteSize, DatastoreId, DiskSource, ImageId, LayerFile, OperationId};
use serde::{Deserialize, Serialize};

use crate::blocking::blocking;
use crate::datastores::Datastores;
use crate::events::Hub;
use crate::fault::{Fault, chain};
use crate::operations::Operations;
use crate::references::require_unused;
use crate::state_file;
use download::{DownloadState, percent};

/// Room that an import leaves on a datastore: a full one stops the guests on it.
const RESERVE: ByteSize = ByteSize::mib(256);

#[derive(Debug, Clone)]
pub(crate) struct Images(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    records: PathBuf,
    datastores: Datastores,
    hub: Hub,
    qemu_img: QemuImg,
    imports: Operations<ImageImported>,
    /// Images whose `.part` file somebody writes to.
    written: Mutex<HashSet<ImageId>>,
}

/// What is kept of an image beside its file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct ImageRecord {
    #[serde(default)]
    download: Option<DownloadState>,
}

impl Images {
    pub(crate) fn new(
        records: PathBuf,
        datastores: Datastores,
        hub: Hub,
        qemu_img: QemuImg,
    ) -> Self {
        let imports = Operations::new();
        let written = Mutex::default();
        Self(Arc::new(Inner { records, datastores, hub, qemu_img, imports, written }))
    }

    /// How many bytes of an upload have arrived.
    pub(crate) async fn received(
        &self,
        image: ImageId,
        datastore: DatastoreId,
    ) -> Result<ImageContentAnswer, Fault> {
        let part = self.datastore(datastore).await?.image_part(image);
        blocking(move || upload::length(&part).map(|received| ImageContentAnswer { received }))
            .await
    }

    /// Appends bytes to an upload.
    pub(crate) async fn upload(
        &self,
        image: ImageId,
        datastore: DatastoreId,
        offset: u64,
        body: ByteStream,
    ) -> Result<ImageContentAnswer, Fault> {
        let datastore = self.datastore(datastore).await?;
        let _writer = self.writer(image)?;
        let received = upload::append(&datastore, image, offset, body).await?;
        Ok(ImageContentAnswer { received })
    }

    /// Downloads (if told), checks and puts an image in place.
    pub(crate) async fn import(
        &self,
        image: ImageId,
        request: ImageImportRequest,
    ) -> Result<ImageImported, Problem> {
        let this = self.clone();
        self.0
            .imports
            .once(request.op, || async move { this.import_once(image, request).await })
            .await
    }

    /// Cancels an import; whether it was running.
    pub(crate) fn cancel(&self, op: OperationId) -> bool {
        self.0.imports.cancel(op)
    }

    /// Removes an image's files, unless a disk needs them.
    pub(crate) async fn remove(&self, image: ImageId, datastore: DatastoreId) -> Result<(), Fault> {
        let datastore = self.datastore(datastore).await?;
        let _writer = self.writer(image)?;
        let this = self.clone();
        blocking(move || {
            let layer = LayerFile::image(image);
            let condemned = [layer.clone()];
            let datastores = &this.0.datastores;
            let _condemned =
                datastores.condemn(datastore.id(), condemned, "it is being removed")?;
            if let Some(user) = this.user_of(image)? {
                return Err(Fault::InUse(user));
            }
            require_unused(&datastore, &[layer])?;
            datastore.remove_image(image)?;
            state_file::remove(&this.record_path(image))
        })
        .await
    }

    async fn import_once(
        &self,
        image: ImageId,
        request: ImageImportRequest,
    ) -> Result<ImageImported, Fault> {
        let datastore = self.datastore(request.datastore).await?;
        let _writer = self.writer(image)?;
        if request.source == ImageImportSource::Found {
            let progress = self.reporter(request.op);
            let adopted =
                hostler_host::image::adopt(&datastore, image, &self.0.qemu_img, progress).await;
            return Ok(answer(adopted?));
        }
        let there = {
            let datastore = datastore.clone();
            blocking(move || Ok(datastore.find_image(image).is_some())).await?
        };
        if !there {
            match &request.source {
                ImageImportSource::Url(url) => {
                    let mut record = self.record(image).await?.unwrap_or_default();
                    self.download(image, &datastore, url, &mut record, request.op).await?;
                }
                ImageImportSource::Uploaded(size) => complete(&datastore, image, *size).await?,
                ImageImportSource::Found => {}
            }
        }
        let imported = self.check(image, &datastore, &request).await?;
        let path = self.record_path(image);
        blocking(move || state_file::remove(&path)).await?;
        Ok(imported)
    }

    async fn check(
        &self,
        image: ImageId,
        datastore: &Datastore,
        request: &ImageImportRequest,
    ) -> Result<ImageImported, Fault> {
        let on_progress = self.reporter(request.op);
        let expected = request.sha256.as_ref();
        let imported =
            hostler_host::image::import(datastore, image, expected, &self.0.qemu_img, on_progress)
                .await;
        match imported {
            Ok(imported) => Ok(answer(imported)),
            Err(error) => {
                if matches!(error, ImportError::Refused(_) | ImportError::Checksum { .. }) {
                    self.discard(image, datastore.clone()).await;
                }
                Err(error.into())
            }
        }
    }

    fn reporter(
        &self,
        op: OperationId,
    ) -> impl Fn(hostler_host::ImportProgress) + Send + Sync + use<> {
        let hub = self.0.hub.clone();
        move |progress| {
            let activity = match progress.stage {
                ImportStage::Hashing => "hashing",
                ImportStage::Checking => "checking",
                ImportStage::Converting => "converting",
            };
            let percent = Some(percent(progress.done.bytes(), progress.total.bytes()));
            hub.progress(OperationProgress { op, percent, activity: activity.to_owned() });
        }
    }

    /// Bytes that were refused are of no use for a next try.
    async fn discard(&self, image: ImageId, datastore: Datastore) {
        let path = self.record_path(image);
        let discarded = blocking(move || {
            state_file::remove(&path)?;
            Ok(datastore.remove_image(image)?)
        });
        if let Err(error) = discarded.await {
            tracing::warn!(%image, %error, "cannot remove a refused image");
        }
    }

    /// A sentence about a disk that is an overlay on the image. Reads the definitions that lie on
    /// the datastores: VMs that are in no inventory need their image as well. Blocks.
    pub(crate) fn user_of(&self, image: ImageId) -> Result<Option<String>, Fault> {
        for datastore in self.0.datastores.usable() {
            for found in datastore.scan()? {
                let vm = match found.definition {
                    Ok(vm) => vm,
                    Err(error) => {
                        return Ok(Some(format!(
                            "whether the VM {} uses the image cannot be told: {}",
                            found.id,
                            chain(&error)
                        )));
                    }
                };
                let disk = vm.spec.disks.iter().find(|d| d.source == DiskSource::Image(image));
                let cdrom = vm.spec.cdroms.iter().find(|cdrom| cdrom.image == Some(image));
                let device = disk.map(|disk| &disk.name).or(cdrom.map(|cdrom| &cdrom.name));
                if let Some(device) = device {
                    let name = vm.name();
                    return Ok(Some(format!("the image is used by `{device}` of the VM `{name}`")));
                }
            }
        }
        Ok(None)
    }

    async fn datastore(&self, id: DatastoreId) -> Result<Datastore, Fault> {
        let datastores = self.0.datastores.clone();
        blocking(move || datastores.get(id)).await
    }

    fn record_path(&self, image: ImageId) -> PathBuf {
        self.0.records.join(format!("{image}.json"))
    }

    async fn record(&self, image: ImageId) -> Result<Option<ImageRecord>, Fault> {
        let path = self.record_path(image);
        blocking(move || state_file::read(&path)).await
    }

    async fn save(&self, image: ImageId, record: ImageRecord) -> Result<(), Fault> {
        let path = self.record_path(image);
        blocking(move || state_file::write(&path, &record)).await
    }

    /// The right to write the image's files, which one caller has at a time.
    fn writer(&self, image: ImageId) -> Result<Writer, Fault> {
        let mut written = self.0.written.lock().unwrap_or_else(PoisonError::into_inner);
        if !written.insert(image) {
            return Err(Fault::WrongState("somebody else is sending this image".to_owned()));
        }
        Ok(Writer { images: self.clone(), image })
    }
}

struct Writer {
    images: Images,
    image: ImageId,
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut written = self.images.0.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.remove(&self.image);
    }
}

/// Whether an upload is complete.
async fn complete(datastore: &Datastore, image: ImageId, size: ByteSize) -> Result<(), Fault> {
    let part = datastore.image_part(image);
    let received = blocking(move || upload::length(&part)).await?;
    if received == size {
        return Ok(());
    }
    Err(Fault::WrongState(format!(
        "{} of {} bytes of the image have arrived; send the rest",
        received.bytes(),
        size.bytes()
    )))
}

fn answer(imported: ImportedImage) -> ImageImported {
    ImageImported {
        format: imported.format,
        media: imported.media,
        virtual_size: imported.virtual_size,
        allocated: imported.allocated,
        sha256: imported.sha256,
    }
}

impl From<ImportError> for Fault {
    fn from(error: ImportError) -> Self {
        let text = chain(&error);
        match error {
            ImportError::Refused(_) | ImportError::Checksum { .. } => Self::ImageRefused(text),
            ImportError::Full { .. } => Self::NoSpace(text),
            ImportError::NotReceived(_) => Self::WrongState(text),
            ImportError::Datastore(error) => error.into(),
            _ => Self::Internal(text),
        }
    }
}
