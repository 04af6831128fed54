//! `request.provision`: Makes the VM of a request that was approved, and hands it over.
//!
//! 1. `select`: what was approved is still there, and there is room for it. Undone last, by saying
//!    in the request (and to whom it notifies) what has failed.
//! 2. `create`: a task `vm.create` below this one, through the same planning as any other; undone
//!    by deleting the VM, if the request wants that; else it stays, and another try goes on with it.
//! 3. `power-on`: a task `vm.start` below this one.
//! 4. `customize`: waits for the guest's proof. After the start, because a guest proves it running.
//! 5. `post-configure`: a task `request.action` below this one for each action.
//! 6. `validate`: a task `request.probe` below this one for each probe.
//! 7. `deliver`: the VM gets its owner, and its lease begins; with the step's end the request is
//!    delivered.
//! 8. `notify`: a task `request.action` below this one for each notification. What was delivered
//!    stays delivered, so there is no way back from here, and a failed notification is only told.
//!
//! Steps look at what is rather than at what was done, so a try after a failure passes over what
//! the one before has made.

use hostler_store::Write;
use hostler_tasks::{Definition, Step as TaskStep, StepError, Submit};
use hostler_types::{IllegalRequestEvent, Request, RequestEvent, RequestId, RequestKind, VmId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::command::Step;
use crate::services::Order;
use crate::world::Core;

mod end;
mod guest;
mod make;

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Input {
    request: RequestId,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("request.provision")
        .step(TaskStep::new("select", make::select).undo(end::settle))
        .step(TaskStep::new("create", make::create).undo(make::uncreate))
        .step(TaskStep::new("power-on", make::power_on))
        .step(TaskStep::new("customize", guest::customize))
        .step(TaskStep::new("post-configure", guest::post_configure))
        .step(TaskStep::new("validate", guest::validate))
        .step(TaskStep::new("deliver", end::deliver))
        .step(TaskStep::new("notify", end::notify).no_return())
}

/// The task, and with it the request's new state.
///
/// # Errors
/// The request is not approved.
pub(crate) fn submit(request: &Request, actor: &str) -> Result<Submit, IllegalRequestEvent> {
    let input = Input { request: request.id() };
    let mut submit = Order::new("request.provision", request, &input).submit(actor);
    let mut begun = request.clone();
    begun.status.progress.task = Some(submit.id);
    begun.status.progress.cancelled_by = None;
    submit.writes.push(after(begun, RequestEvent::Begin { task: submit.id })?);
    Ok(submit)
}

/// The request after `event`.
///
/// # Errors
/// It cannot happen now.
pub(crate) fn after(
    mut request: Request,
    event: RequestEvent,
) -> Result<Write, IllegalRequestEvent> {
    request.status.state = request.status.state.after(event)?;
    request.status.since = Timestamp::now();
    Ok(Write::update(&request))
}

async fn record(step: &Step) -> Result<Request, StepError> {
    let input: Input = step.input()?;
    let request = step.world().stored::<RequestKind>(input.request).await?;
    request.ok_or_else(|| StepError::failed("not_found", "the request is gone"))
}

/// The VM that this task, or the one before it, has made.
fn vm_of(request: &Request) -> Result<VmId, StepError> {
    request.status.progress.vm.ok_or_else(|| StepError::internal("the request has no VM yet"))
}
