//! `vm.undelete`: Takes a VM out of the recycle bin. The submission has given it its name.
//!
//! 1. `restore`: the agent is told that the VM may be started again; undone by putting it back into
//!    the bin, in the inventory and at the agent.

use hostler_store::Write;
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepResult};
use hostler_types::{Lease, Name, Recycled, Vm, VmId};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::command::{Step, told_back, vm, vm_if_there};
use super::vm_recycle::tell_host;
use crate::services::Order;
use crate::world::Core;

const LIMIT: SignedDuration = SignedDuration::from_mins(5);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Input {
    vm: VmId,
    recycled: Option<Recycled>,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("vm.undelete").step(TaskStep::new("restore", restore).undo(put_back))
}

pub(crate) fn order(vm: &Vm, name: &Name) -> Order {
    let mut restored = vm.clone();
    restored.metadata.name = name.clone();
    let recycled = restored.spec.recycled.take();
    // A lease that has ended would put it back at once.
    if let Some(lease) = &mut restored.spec.lease {
        let grace = lease.recycle_at.duration_since(lease.expires_at);
        if let Ok(again) = Lease::begin(lease.seconds, grace, Timestamp::now()) {
            *lease = again;
        }
    }
    Order::new("vm.undelete", &restored, &Input { vm: vm.id(), recycled })
        .limit(LIMIT)
        .with(Write::update(&restored))
}

async fn restore(step: Step) -> StepResult {
    let input: Input = step.input()?;
    tell_host(&step, vm(&step, input.vm).await?).await
}

async fn put_back(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let Some(mut vm) = vm_if_there(&step, input.vm).await? else { return Ok(Outcome::none()) };
    if let Some(recycled) = input.recycled {
        vm.metadata.name = Recycled::bin_name(&recycled.name, vm.id());
        vm.spec.recycled = Some(recycled);
    }
    let told = tell_host(&step, vm.clone()).await;
    told_back(&step, &vm, "restore", told)
}
