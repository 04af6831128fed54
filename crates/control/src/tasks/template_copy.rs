//! `template.copy`: Makes a template's first, or next, version of a copy of a VM, which goes on as it
//! is. The submission has put a new template into the inventory, or has given the next number of one
//! that is there.
//!
//! 1. `copy`: a task `vm.clone` below this one makes the record, which is the version's from the
//!    beginning, and its files; all of it or nothing. Undone by deleting it, and a new template with it.

use hostler_store::Write;
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepError, StepResult};
use hostler_types::{KindName, SnapshotId, TaskState, Template, TemplateId, TemplateKind, Vm};
use serde::{Deserialize, Serialize};

use super::command::Step;
use super::template_delete;
use super::vm_clone::{self, Cloning};
use crate::services::Order;
use crate::world::Core;

/// What the step calls the task that copies,
const COPY: &str = "copy";
/// and its undoing the one that takes the version away.
const REMOVAL: &str = "remove";

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Input {
    /// As it is to be.
    version: Box<Vm>,
    cloning: Cloning,
    /// The template, if it was made for this.
    new: Option<TemplateId>,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("template.copy").step(TaskStep::new("copy", copy).undo(forget))
}

/// The caller adds the write of the template.
pub(crate) fn order(source: &Vm, version: Vm, template: &Template, is_new: bool) -> Order {
    // A copy takes its time, and a running VM writes on: a snapshot holds what is copied.
    let hold = source.status.power.is_live().then(SnapshotId::generate);
    let vms = vec![version.id()];
    let cloning = Cloning { parent: source.id(), vms, at: None, hold, start: false };
    let number = version.spec.template.as_ref().map_or(0, |of| of.version);
    let new = is_new.then_some(template.id());
    let input = Input { version: Box::new(version), cloning, new };
    let mut order = Order::new("template.copy", template, &input);
    order.target = format!("{}:{number}", order.target);
    order
}

async fn copy(step: Step) -> StepResult {
    let Input { version, cloning, .. } = step.input()?;
    let order = vm_clone::order(std::slice::from_ref(&*version), &cloning)
        .with(Write::create(&version))
        // Whoever deletes the VM, or changes its disks, has it locked.
        .with(Write::ExpectUnlocked { object: cloning.parent.untyped() });
    step.run_child(COPY, order.submit(step.actor())).await?;
    Ok(Outcome::none())
}

async fn forget(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let copied = step.child(COPY).await?;
    if copied.is_some_and(|copy| copy.status.state == TaskState::Done) {
        remove(&step, &input).await?;
        return Ok(Outcome::none());
    }
    Ok(match input.new {
        Some(template) => {
            let (kind, id) = (KindName::Template, template.untyped());
            Outcome::none().with(Write::Delete { kind, id, expected: None })
        }
        None => Outcome::none(),
    })
}

/// Takes a version that was completed away again, and its template if it was made for it; they stay
/// if anything lies on it already.
async fn remove(step: &Step, input: &Input) -> Result<(), StepError> {
    let snapshot = step.world().snapshot();
    let of = input.version.spec.template.as_ref().map(|of| of.template);
    // If it is gone, the task that does this was here already.
    if let Some(template) = of.and_then(|id| snapshot.get::<TemplateKind>(id)) {
        let order = template_delete::order(template, &[&input.version], input.new.is_some());
        step.submit_child(REMOVAL, order.submit(step.actor())).await?;
    }
    match step.wait_child(REMOVAL).await {
        Ok(_) => Ok(()),
        Err(StepError::Failed { message, .. }) => {
            step.message(format!("it stays: {message}"));
            Ok(())
        }
        Err(error @ StepError::Retry { .. }) => Err(error),
    }
}
