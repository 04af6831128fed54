//! `template.copy`: Makes a template's first, or next, version of a copy of a VM, which goes on as it
//! is. The submission has put a new template into the inventory, or has given the next number of one
//! that is there.
//!
//! 1. `copy`: a task `vm.clone` below this one makes the record, which is the version's from the
//!    beginning, and its files; all of it or nothing. Undone by taking a new template away.

use hostler_store::Write;
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepResult};
use hostler_types::{KindName, SnapshotId, Template, TemplateId, Vm};
use serde::{Deserialize, Serialize};

use super::command::{Step, vm_if_there};
use super::vm_clone::{self, Cloning};
use crate::services::Order;
use crate::world::Core;

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
    step.run_child("copy", order.submit(step.actor())).await?;
    Ok(Outcome::none())
}

async fn forget(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let there = vm_if_there(&step, input.version.id()).await?.is_some();
    Ok(match input.new.filter(|_| !there) {
        Some(template) => {
            let (kind, id) = (KindName::Template, template.untyped());
            Outcome::none().with(Write::Delete { kind, id, expected: None })
        }
        None => Outcome::none(),
    })
}
