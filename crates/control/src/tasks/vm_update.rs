//! `vm.update` (also of a rename): Tells the host what the submission has put into the inventory.
//!
//! 1. `define`: the agent replaces the VM's definition; undone by putting name, labels and spec back
//!    in the inventory and at the agent.

use hostler_agent_api::{VmDefineRequest, VmReport};
use hostler_store::Write;
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepResult};
use hostler_types::{Labels, Name, Vm, VmChange, VmId, VmSpec, plan_changes};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::command::{
    Step, ask, command, definition as define, link, told, told_back, vm, vm_if_there,
};
use super::naming::named_change;
use crate::services::Order;
use crate::world::Core;

const LIMIT: SignedDuration = SignedDuration::from_mins(5);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Input {
    vm: VmId,
    /// As it was before.
    name: Name,
    labels: Labels,
    spec: VmSpec,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("vm.update").step(TaskStep::new("define", apply).undo(put_back))
}

/// The caller adds the write of the new spec.
pub(crate) fn order(old: &Vm) -> Order {
    let input = Input {
        vm: old.id(),
        name: old.name().clone(),
        labels: old.metadata.labels.clone(),
        spec: old.spec.clone(),
    };
    Order::new("vm.update", old, &input).limit(LIMIT)
}

async fn apply(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let vm = vm(&step, input.vm).await?;
    define_at_host(&step, vm, &input.spec).await
}

async fn put_back(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let Some(mut vm) = vm_if_there(&step, input.vm).await? else { return Ok(Outcome::none()) };
    vm.metadata.name = input.name;
    vm.metadata.labels = input.labels;
    vm.spec = input.spec;
    let told = define_at_host(&step, vm.clone(), &vm.spec).await;
    told_back(&step, &vm, "define", told)
}

/// What has become of it, in the guest's own words where there are some. What waits since an earlier
/// change is not told again.
fn tell(step: &Step, report: &VmReport, asked: &[VmChange]) {
    let snapshot = step.world().snapshot();
    let is_asked = |change: &&VmChange| asked.iter().any(|it| it.subject == change.subject);
    for change in report.pending.iter().filter(is_asked) {
        step.message(format!("pending: {}", named_change(&snapshot, change.clone())));
    }
    let (Some(hardware), Some(guest)) = (&report.hardware, &report.guest) else { return };
    if let Some(cpus) = guest.cpus.filter(|cpus| guest.agent && *cpus != hardware.cpus) {
        step.message(format!("the guest uses {cpus} of its {} CPUs", hardware.cpus));
    }
}

async fn define_at_host(step: &Step, vm: Vm, before: &VmSpec) -> StepResult {
    let asked = plan_changes(before, &vm.spec, None);
    let (link, command) = (link(step, &vm)?, command(step, &vm));
    let request = VmDefineRequest::new(command, define(step, &vm)?);
    let report = ask(step, &link, command.op, link.vm_define(vm.id(), request)).await?;
    tell(step, &report, &asked);
    let write: Write = told(step, vm, &report);
    Ok(Outcome::none().with(write))
}
