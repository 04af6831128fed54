//! `template.create`: Makes a VM a template's first, or next, version. The submission has put a new
//! template into the inventory, or has given the next number of one that is there.
//!
//! 1. `define`: the agent is told that the VM is a template, and makes its files read-only; the record
//!    gets its hidden name with the step's end. Undone by telling the agent again what the VM was, and
//!    by taking a new template away.

use hostler_store::Write;
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepResult};
use hostler_types::{KindName, Name, Template, TemplateId, VersionOf, Vm, VmId, VmSpec};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::command::{Step, told_back, vm, vm_if_there};
use super::vm_recycle::tell_host;
use crate::services::Order;
use crate::world::Core;

const LIMIT: SignedDuration = SignedDuration::from_mins(10);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Input {
    vm: VmId,
    /// As it was before.
    name: Name,
    spec: VmSpec,
    version: VersionOf,
    template_name: Name,
    /// The template, if it was made for this.
    new: Option<TemplateId>,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("template.create").step(TaskStep::new("define", define).undo(put_back))
}

/// The caller adds the write of the template.
pub(crate) fn order(vm: &Vm, template: &Template, version: VersionOf, is_new: bool) -> Order {
    let input = Input {
        vm: vm.id(),
        name: vm.name().clone(),
        spec: vm.spec.clone(),
        template_name: template.name().clone(),
        new: is_new.then_some(template.id()),
        version,
    };
    let mut order = Order::new("template.create", vm, &input).limit(LIMIT);
    order.target = format!("{}/{}:{}", KindName::Template, template.name(), input.version.version);
    order.objects.push(template.id().untyped());
    order
}

async fn define(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let mut vm = vm(&step, input.vm).await?;
    let version = &input.version;
    vm.metadata.name = VersionOf::record_name(&input.template_name, version.version, vm.id());
    // A template is not what somebody has for a while.
    vm.spec.lease = None;
    vm.spec.template = Some(input.version);
    tell_host(&step, vm).await
}

async fn put_back(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let outcome = match vm_if_there(&step, input.vm).await? {
        Some(mut vm) => {
            vm.metadata.name = input.name;
            vm.spec = input.spec;
            let told = tell_host(&step, vm.clone()).await;
            told_back(&step, &vm, "define", told)?
        }
        None => Outcome::none(),
    };
    Ok(match input.new {
        Some(template) => {
            let id = template.untyped();
            outcome.with(Write::Delete { kind: KindName::Template, id, expected: None })
        }
        None => outcome,
    })
}
