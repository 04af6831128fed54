//! `template.delete`: Deletes versions of a template, and the template itself if all are to go.
//!
//! 1. `check`: looks once more that no disk lies on one of them, now that the lock keeps new ones away: in
//!    the inventory, and in the headers of the files on the datastores.
//! 2. `remove`: the agents remove the files, one version after another; the records go with the
//!    step's end. There is no way back. When a host refuses one, the files of those before are gone
//!    and their records are not: a retry asks for all again, and what is gone is as good as removed.

use hostler_agent_api::{FileOwner, VmCommand, VmRemoveRequest};
use hostler_store::Write;
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepError, StepResult};
use hostler_types::{KindName, Template, TemplateId, Vm, VmId};
use serde::{Deserialize, Serialize};

use super::command::{Step, ask_for, link, operation_for, require_unneeded, vm_if_there};
use crate::services::Order;
use crate::services::vm::require_unused;
use crate::world::Core;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Input {
    versions: Vec<VmId>,
    /// If all of it goes.
    template: Option<TemplateId>,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("template.delete")
        .step(TaskStep::new("check", check))
        .step(TaskStep::new("remove", remove).no_return())
}

/// Deletes these versions; the template with them if `whole`.
pub(crate) fn order(template: &Template, versions: &[&Vm], whole: bool) -> Order {
    let input = Input {
        versions: versions.iter().map(|vm| vm.id()).collect(),
        template: whole.then_some(template.id()),
    };
    let mut order = Order::new("template.delete", template, &input);
    order.objects.extend(versions.iter().map(|vm| vm.id().untyped()));
    order
}

async fn check(step: Step) -> StepResult {
    let input: Input = step.input()?;
    // Whoever got in before the lock is in the log before it.
    let world = step.world();
    let snapshot = world.inventory.at_least(world.store.revision().await?).await;
    for id in input.versions {
        let Some(vm) = vm_if_there(&step, id).await? else { continue };
        require_unused(&snapshot, &vm)
            .map_err(|error| StepError::failed(error.code, error.message))?;
        let owner = FileOwner::Vm(vm.id());
        require_unneeded(&step, vm.status.host, vm.status.datastore, owner).await?;
    }
    Ok(Outcome::none())
}

async fn remove(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let mut outcome = Outcome::none();
    let mut gone = Vec::new();
    for id in input.versions {
        let Some(vm) = vm_if_there(&step, id).await? else { continue };
        let (link, label) = (link(&step, &vm)?, id.to_string());
        let command = VmCommand { op: operation_for(&step, &label), epoch: vm.status.epoch };
        let datastore = vm.status.datastore;
        let request = VmRemoveRequest { command, datastore, keep_files: false, force: false };
        let call = link.vm_remove(id, request);
        ask_for(&step, &label, step.cancelled(), &link, command.op, call).await?;
        step.world().reports.forget(id);
        gone.push(vm);
        let (kind, id) = (KindName::Vm, id.untyped());
        outcome = outcome.with(Write::Delete { kind, id, expected: None });
    }
    // Once, also when the host has refused one of them for a while.
    gone.iter().for_each(|vm| tell_what_went(&step, vm));
    Ok(match input.template {
        Some(template) => {
            let (kind, id) = (KindName::Template, template.untyped());
            outcome.with(Write::Delete { kind, id, expected: None })
        }
        None => outcome,
    })
}

fn tell_what_went(step: &Step, vm: &Vm) {
    let version = vm.spec.template.as_ref().map_or(0, |version| version.version);
    let freed: u64 = vm.status.disks.iter().map(|disk| disk.allocated.bytes()).sum();
    let freed = hostler_types::ByteSize(freed);
    step.message(format!("removed version {version}, made from `{}`: {freed} freed", vm.called()));
}
