//! `image.import`: Brings an image's bytes into place. The submission has its record in the
//! inventory as `importing`.
//!
//! 1. `import`: the agent downloads (or takes what was uploaded), checks, converts and puts the
//!    image in place; undone by removing its files, then the record: an image is whole or absent.

use hostler_agent_api::{ImageImportRequest, ImageImportSource, ImageImported, ImageRemoveRequest};
use hostler_store::Write;
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepError, StepResult};
use hostler_types::{
    DatastoreId, DatastoreKind, HostId, Image, ImageId, ImageKind, ImageSource, ImageState,
    KindName,
};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::command::{Step, ask, linked, operation};
use crate::services::Order;
use crate::world::Core;

const LIMIT: SignedDuration = SignedDuration::from_hours(24);

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Input {
    image: ImageId,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("image.import").step(TaskStep::new("import", import).undo(remove))
}

/// The caller adds the write of the record.
pub(crate) fn order(image: &Image) -> Order {
    Order::new("image.import", image, &Input { image: image.id() }).limit(LIMIT)
}

async fn import(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let image = image_if_there(&step, input.image).await?;
    let image = image.ok_or_else(|| StepError::failed("not_found", "the image is gone"))?;
    let link = linked(&step, host_of(&step, image.spec.datastore)?)?;
    let op = operation(&step);
    let request = ImageImportRequest {
        op,
        datastore: image.spec.datastore,
        source: match &image.spec.source {
            ImageSource::Url(address) => ImageImportSource::Url(address.clone()),
            ImageSource::Upload(size) => ImageImportSource::Uploaded(*size),
            ImageSource::Found => ImageImportSource::Found,
        },
        sha256: image.spec.sha256.clone(),
    };
    let reporting = step.clone();
    let _listening = step.world().progress.listen(op, move |progress| {
        reporting.progress(progress.percent, progress.activity);
    });
    let imported = ask(&step, &link, op, link.image_import(image.id(), request)).await?;
    Ok(Outcome::none().with(Write::update(&ready(image, imported))))
}

pub(super) fn ready(mut image: Image, imported: ImageImported) -> Image {
    let status = &mut image.status;
    status.state = ImageState::Ready;
    status.message = None;
    status.format = Some(imported.format);
    status.media = Some(imported.media);
    status.virtual_size = imported.virtual_size;
    status.allocated = imported.allocated;
    status.sha256 = Some(imported.sha256);
    image
}

async fn remove(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let Some(image) = image_if_there(&step, input.image).await? else {
        return Ok(Outcome::none());
    };
    remove_image(&step, &image).await
}

/// Removes an image's files, and its record with the step's end.
pub(super) async fn remove_image(step: &Step, image: &Image) -> StepResult {
    let link = linked(step, host_of(step, image.spec.datastore)?)?;
    let op = operation(step);
    let request = ImageRemoveRequest { op, datastore: image.spec.datastore };
    ask(step, &link, op, link.image_remove(image.id(), request)).await?;
    let (kind, id) = (KindName::Image, image.id().untyped());
    Ok(Outcome::none().with(Write::Delete { kind, id, expected: None }))
}

pub(super) async fn image_if_there(
    step: &Step,
    image: ImageId,
) -> Result<Option<Image>, StepError> {
    Ok(step.world().stored::<ImageKind>(image).await?)
}

pub(super) fn host_of(step: &Step, datastore: DatastoreId) -> Result<HostId, StepError> {
    let snapshot = step.world().snapshot();
    let datastore = snapshot.get::<DatastoreKind>(datastore);
    let gone = || StepError::failed("not_found", "the image's datastore is gone");
    datastore.map(|datastore| datastore.spec.host).ok_or_else(gone)
}
