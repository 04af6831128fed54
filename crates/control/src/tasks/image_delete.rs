//! `image.delete`: Deletes an image that no VM uses.
//!
//! 1. `check`: looks once more that no VM uses it, now that the lock keeps new ones away: in the
//!    inventory, and in the headers of the files on the datastore.
//! 2. `remove`: the agent removes the files, and the record goes with the step's end. There is no
//!    way back.

use hostler_agent_api::FileOwner;
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepError, StepResult};
use hostler_types::{Image, ImageId};
use serde::{Deserialize, Serialize};

use super::command::{Step, require_unneeded};
use super::image_import::{host_of, image_if_there, remove_image};
use crate::services::Order;
use crate::services::image::require_unused;
use crate::world::Core;

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Input {
    image: ImageId,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("image.delete")
        .step(TaskStep::new("check", check))
        .step(TaskStep::new("remove", remove).no_return())
}

pub(crate) fn order(image: &Image) -> Order {
    Order::new("image.delete", image, &Input { image: image.id() })
}

async fn check(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let Some(image) = image_if_there(&step, input.image).await? else {
        return Ok(Outcome::none());
    };
    // Whoever got in before the lock is in the log before it.
    let world = step.world();
    let snapshot = world.inventory.at_least(world.store.revision().await?).await;
    require_unused(&snapshot, &image)
        .map_err(|error| StepError::failed(error.code, error.message))?;
    let (host, owner) = (host_of(&step, image.spec.datastore)?, FileOwner::Image(image.id()));
    require_unneeded(&step, host, image.spec.datastore, owner).await?;
    Ok(Outcome::none())
}

async fn remove(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let Some(image) = image_if_there(&step, input.image).await? else {
        return Ok(Outcome::none());
    };
    remove_image(&step, &image).await
}
