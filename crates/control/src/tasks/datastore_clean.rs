//! `datastore.clean`: Removes files that no object owns from a datastore.
//!
//! 1. `check`: holds the files against the inventory once more, now that the lock on the datastore
//!    keeps anybody from adopting them.
//! 2. `remove`: once more, for the time between may have been long, and the host removes what still
//!    is nobody's. It refuses what one of its VMs has or something lies on. What is gone, and what
//!    stays and why, is told in the task's messages. There is no way back.

use std::sync::Arc;
use std::time::Duration;

use hostler_agent_api::RemoveFilesRequest;
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepError, StepResult};
use hostler_types::{ByteSize, Datastore, DatastoreId, DatastoreKind};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::command::{Step, ask, linked, operation};
use super::naming::named;
use crate::error::ServiceError;
use crate::services::Order;
use crate::services::datastore::removable;
use crate::world::Core;

/// The wait before a host that did not answer is asked again.
const AGAIN: Duration = Duration::from_secs(1);
const LIMIT: SignedDuration = SignedDuration::from_hours(1);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Input {
    datastore: DatastoreId,
    paths: Vec<String>,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("datastore.clean")
        .step(TaskStep::new("check", check))
        .step(TaskStep::new("remove", remove).no_return())
}

pub(crate) fn order(datastore: &Datastore, paths: &[String]) -> Order {
    let input = Input { datastore: datastore.id(), paths: paths.to_vec() };
    Order::new("datastore.clean", datastore, &input).limit(LIMIT)
}

async fn check(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let datastore = datastore(&step, input.datastore)?;
    removable(step.world(), &datastore, &input.paths).await.map_err(failed)?;
    Ok(Outcome::none())
}

fn datastore(step: &Step, id: DatastoreId) -> Result<Arc<Datastore>, StepError> {
    let snapshot = step.world().snapshot();
    let found = snapshot.get::<DatastoreKind>(id).cloned();
    found.ok_or_else(|| StepError::failed("not_found", "the datastore is gone"))
}

fn failed(error: ServiceError) -> StepError {
    match error.code {
        "host_disconnected" | "host_unreachable" | "timeout" => {
            StepError::retry(AGAIN, error.message)
        }
        code => StepError::failed(code, error.message),
    }
}

async fn remove(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let snapshot = step.world().snapshot();
    let datastore = datastore(&step, input.datastore)?;
    let paths = match removable(step.world(), &datastore, &input.paths).await.map_err(failed) {
        Ok(paths) => paths,
        Err(StepError::Failed { message, .. }) => {
            step.message(format!("kept everything: {}", named(&snapshot, &message)));
            return Ok(Outcome::none());
        }
        Err(retry) => return Err(retry),
    };
    if paths.is_empty() {
        return Ok(Outcome::none());
    }
    let link = linked(&step, datastore.spec.host)?;
    let op = operation(&step);
    let request = RemoveFilesRequest { op, paths };
    let answer = ask(&step, &link, op, link.datastore_remove_files(datastore.id(), request));
    let mut freed = 0u64;
    let mut refused = 0u64;
    for file in answer.await? {
        freed = freed.saturating_add(file.freed.0);
        match file.refused {
            None => step.message(format!("removed {}: {} freed", file.path, file.freed)),
            Some(why) => {
                refused += 1;
                step.message(format!("kept {}: {}", file.path, named(&snapshot, &why)));
            }
        }
    }
    Ok(Outcome::of(&json!({ "freed": ByteSize(freed), "kept": refused })))
}
