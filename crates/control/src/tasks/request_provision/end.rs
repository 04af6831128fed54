//! The good end and the bad one, and who is told.

use std::time::Duration;

use hostler_store::Write;
use hostler_tasks::{Outcome, StepError, StepResult};
use hostler_types::{Lease, Request, RequestEvent, VmKind};
use jiff::Timestamp;

use super::{after, record, vm_of};
use crate::tasks::command::{Step, vm};
use crate::tasks::request_action::{self, Ending, Which};
use crate::tasks::vm_update;

/// The label that says whose a VM is.
const OWNER: &str = "owner";
const CHILD: &str = "vm";
/// The wait before a VM that others work on is asked for again.
const BUSY: Duration = Duration::from_secs(1);

pub(super) async fn deliver(step: Step) -> StepResult {
    let request = record(&step).await?;
    let vm = vm_of(&request)?;
    if step.child(CHILD).await?.is_none() {
        order(&step, &request).await?;
    }
    step.wait_child(CHILD).await?;
    let delivered = after(request, RequestEvent::Deliver { vm });
    let delivered = delivered.map_err(|error| StepError::internal(error.to_string()))?;
    Ok(Outcome::none().with(delivered))
}

/// Owner and lease, at the VM's host as in the inventory.
async fn order(step: &Step, request: &Request) -> Result<(), StepError> {
    let old = vm(step, vm_of(request)?).await?;
    if old.is_recycled() {
        return Err(StepError::failed("not_found", format!("vm `{}` was deleted", old.called())));
    }
    if step.world().snapshot().task_on(old.id().untyped()).is_some() {
        return Err(StepError::retry(BUSY, format!("vm `{}` is being worked on", old.name())));
    }
    let mut new = old.clone();
    new.metadata.labels.insert(OWNER.to_owned(), request.spec.owner.clone());
    let (grace, now) = (step.world().settings.lease_grace, Timestamp::now());
    let lease = request.spec.order.vm.lease_seconds;
    let lease = lease.map(|seconds| Lease::begin(seconds, grace, now)).transpose();
    new.spec.lease = lease.map_err(|error| StepError::failed("invalid", error.to_string()))?;
    let order = vm_update::order(&old).with(Write::update(&new));
    step.submit_child(CHILD, order.submit(step.actor())).await?;
    Ok(())
}

/// What was delivered is told; whoever does not listen does not take it back.
pub(super) async fn notify(step: Step) -> StepResult {
    let request = record(&step).await?;
    tell(&step, &request, &Ending::Delivered).await?;
    Ok(Outcome::none())
}

/// The last undo: the request says which step has failed and why, or that it was cancelled.
pub(super) async fn settle(step: Step) -> StepResult {
    let request = record(&step).await?;
    let (failed, code, why) = step.failure().unwrap_or(("select", StepError::INTERNAL, ""));
    let event = if code == StepError::CANCELLED {
        let by = request.status.progress.cancelled_by.clone();
        RequestEvent::Cancel { by: by.unwrap_or_else(|| "an operator".to_owned()) }
    } else {
        let (step, reason) = (failed.to_owned(), why.to_owned());
        RequestEvent::Fail { step, reason }
    };
    if let RequestEvent::Fail { step: failed, reason } = &event {
        let end = Ending::Failed { step: failed.clone(), reason: reason.clone() };
        tell(&step, &request, &end).await?;
    }
    // A request that has ended otherwise stays as it is.
    Ok(Outcome::none().with_all(after(request, event).ok()))
}

async fn tell(step: &Step, request: &Request, end: &Ending) -> Result<(), StepError> {
    let vm = match request.status.progress.vm {
        Some(vm) => step.world().stored::<VmKind>(vm).await?.map(|vm| vm.id()),
        None => None,
    };
    for index in 0..request.spec.order.notify.len() {
        let which = Which::Notify { index, end: end.clone() };
        let order = request_action::order(request, vm, &which);
        match step.run_child(&format!("notify {index}"), order.submit(step.actor())).await {
            Ok(_) => {}
            Err(StepError::Failed { message, .. }) => {
                step.message(format!("notification {} has failed: {message}", index + 1));
            }
            Err(error @ StepError::Retry { .. }) => return Err(error),
        }
    }
    Ok(())
}
