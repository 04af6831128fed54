//! `image.adopt`: Takes an image that lies on a datastore into the inventory. The submission has its
//! record there as `importing`.
//!
//! 1. `inspect`: the agent looks at it with the suspicion of an import and leaves it where it is;
//!    undone by removing the record. The file stays in either case: disks may lie on it.

use hostler_agent_api::{ImageImportRequest, ImageImportSource};
use hostler_store::Write;
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepError, StepResult};
use hostler_types::{Image, ImageId, KindName};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::command::{Step, ask, linked, operation};
use super::image_import::{host_of, image_if_there, ready};
use crate::services::Order;
use crate::world::Core;

const LIMIT: SignedDuration = SignedDuration::from_hours(24);

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Input {
    image: ImageId,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("image.adopt").step(TaskStep::new("inspect", inspect).undo(forget))
}

/// The caller adds the write of the record.
pub(crate) fn order(image: &Image) -> Order {
    Order::new("image.adopt", image, &Input { image: image.id() }).limit(LIMIT)
}

async fn inspect(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let image = image_if_there(&step, input.image).await?;
    let image = image.ok_or_else(|| StepError::failed("not_found", "the image is gone"))?;
    let link = linked(&step, host_of(&step, image.spec.datastore)?)?;
    let op = operation(&step);
    let (datastore, source) = (image.spec.datastore, ImageImportSource::Found);
    let request = ImageImportRequest { op, datastore, source, sha256: None };
    let reporting = step.clone();
    let _listening = step.world().progress.listen(op, move |progress| {
        reporting.progress(progress.percent, progress.activity);
    });
    let inspected = ask(&step, &link, op, link.image_import(image.id(), request)).await?;
    Ok(Outcome::none().with(Write::update(&ready(image, inspected))))
}

async fn forget(step: Step) -> StepResult {
    let input: Input = step.input()?;
    if image_if_there(&step, input.image).await?.is_none() {
        return Ok(Outcome::none());
    }
    let (kind, id) = (KindName::Image, input.image.untyped());
    Ok(Outcome::none().with(Write::Delete { kind, id, expected: None }))
}
