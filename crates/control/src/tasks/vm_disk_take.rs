//! `vm.disk_take`: A detached disk of one VM becomes a disk of another one, on the same host and
//! datastore. The submission has locked both, and has put into the inventory what they are to be.
//!
//! 1. `check`: nobody's disk lies on it, now that the locks keep new ones away: in the inventory, and in
//!    the headers of the files on the datastore. Undone by putting back both records.
//! 2. `take`: the agent moves its file from one VM's directory to the other's, in one instant, where it
//!    is a detached disk. Undone by taking it back the same way, and telling the host of both VMs again.
//! 3. `forget`: the VM that had the disk gets a definition without it. Only now: a disk that is in no
//!    definition of the VM whose file it is would be deleted.
//! 4. `define`: the disk is plugged in; a guest that does not take it fails the step. Undone by
//!    detaching it again.
//!
//! Who has the file has the disk, so whenever the server or the agent dies it is one VM's, and every
//! step may be repeated.

use hostler_agent_api::{FileOwner, VmCommand, VmDefineRequest, VmDiskTakeRequest};
use hostler_store::Write;
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepError, StepResult};
use hostler_types::{KindName, Name, Vm, VmId, VmSpec};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::command::{
    Step, ask, ask_for, command, definition as define, link, operation_for, require_unneeded, told,
    vm, vm_if_there,
};
use super::vm_disk::{Wanted, define_at_host};
use crate::services::Order;
use crate::services::vm::{own_files, require_disk_unused};
use crate::world::Core;

const LIMIT: SignedDuration = SignedDuration::from_mins(30);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Input {
    /// The VM that gets the disk, and what it was before.
    vm: VmId,
    spec: VmSpec,
    /// What the disk is called there.
    name: Name,
    /// The VM that has it, and what it was before.
    from: VmId,
    from_spec: VmSpec,
    /// What the disk is called there.
    disk: Name,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("vm.disk_take")
        .step(TaskStep::new("check", check).undo(restore))
        .step(TaskStep::new("take", take).undo(give_back))
        .step(TaskStep::new("forget", forget))
        .step(TaskStep::new("define", plug).undo(unplug))
}

/// The caller adds the writes of both new specs: in `vm`'s the disk is attached, under `name`, and in
/// `from`'s it is gone.
pub(crate) fn order(vm: &Vm, name: &Name, from: &Vm, disk: &Name) -> Order {
    let input = Input {
        vm: vm.id(),
        spec: vm.spec.clone(),
        name: name.clone(),
        from: from.id(),
        from_spec: from.spec.clone(),
        disk: disk.clone(),
    };
    let mut order = Order::new("vm.disk_take", vm, &input).limit(LIMIT);
    order.objects.push(from.id().untyped());
    order.target = format!("{}/{} from {}", KindName::Vm, vm.name(), from.name());
    order
}

async fn check(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let from = vm(&step, input.from).await?;
    // Whoever got in before the locks is in the log before them.
    let world = step.world();
    let snapshot = world.inventory.at_least(world.store.revision().await?).await;
    require_disk_unused(&snapshot, &from, &input.disk)
        .map_err(|error| StepError::failed(error.code, error.message))?;
    for file in own_files(&from, &input.disk) {
        let owner = FileOwner::File(file.clone());
        require_unneeded(&step, from.status.host, from.status.datastore, owner).await?;
    }
    Ok(Outcome::none())
}

/// The host knows of nothing yet, or has been told to forget it.
async fn restore(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let mut writes = Vec::new();
    for (id, spec) in [(input.vm, input.spec), (input.from, input.from_spec)] {
        if let Some(vm) = vm_if_there(&step, id).await? {
            writes.push(Write::update(&Vm { spec, ..vm }));
        }
    }
    Ok(Outcome::none().with_all(writes))
}

async fn take(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let vm = vm(&step, input.vm).await?;
    let (link, command) = (link(&step, &vm)?, command(&step, &vm));
    let Input { from, disk, name, .. } = input;
    let request = VmDiskTakeRequest { command, from, disk, name };
    let report = ask(&step, &link, command.op, link.vm_disk_take(vm.id(), request)).await?;
    Ok(Outcome::of(&json!({ "taken": true })).with(told(&step, vm, &report)))
}

/// Whether or not the disk has been taken: it is here afterwards. In this order, as a definition
/// without a disk whose file is there deletes it.
async fn give_back(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let (Some(taker), Some(lender)) =
        (vm_if_there(&step, input.vm).await?, vm_if_there(&step, input.from).await?)
    else {
        return Ok(Outcome::none());
    };
    let (taker, lender) =
        (Vm { spec: input.spec, ..taker }, Vm { spec: input.from_spec, ..lender });
    let link = link(&step, &lender)?;
    let command = command_for(&step, &lender, "back");
    let request =
        VmDiskTakeRequest { command, from: taker.id(), disk: input.name, name: input.disk };
    let call = link.vm_disk_take(lender.id(), request);
    match ask_for(&step, "back", step.cancelled(), &link, command.op, call).await {
        // It has refused the way there as well, or it would have come to its end.
        Err(StepError::Failed { code, .. })
            if code == hostler_agent_api::code::DATASTORE_MISSING
                && step.result_if_done::<serde_json::Value>("take")?.is_none() =>
        {
            return Ok(Outcome::none().with(Write::update(&taker)).with(Write::update(&lender)));
        }
        other => other?,
    };
    let lender = redefine(&step, lender, "lender").await?;
    let taker = redefine(&step, taker, "taker").await?;
    Ok(Outcome::none().with(lender).with(taker))
}

async fn forget(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let from = vm(&step, input.from).await?;
    Ok(Outcome::none().with(redefine(&step, from, "").await?))
}

async fn plug(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let vm = vm(&step, input.vm).await?;
    let subject = format!("disk {}", input.name);
    let wanted = Wanted { subject: &subject, disk: Some(&input.name), force: false };
    define_at_host(&step, vm, Some(wanted)).await
}

/// Both records are put back when the disk is; until then it is here, detached.
async fn unplug(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let Some(mut vm) = vm_if_there(&step, input.vm).await? else { return Ok(Outcome::none()) };
    if let Some(at) = vm.spec.disks.iter().position(|known| known.name == input.name) {
        let disk = vm.spec.disks.remove(at);
        vm.spec.detached.push(disk);
    }
    define_at_host(&step, vm, None).await
}

fn command_for(step: &Step, vm: &Vm, label: &str) -> VmCommand {
    VmCommand { op: operation_for(step, label), epoch: vm.status.epoch }
}

/// Tells the host what a VM is.
async fn redefine(step: &Step, vm: Vm, label: &str) -> Result<Write, StepError> {
    let (link, command) = (link(step, &vm)?, command_for(step, &vm, label));
    let request = VmDefineRequest::new(command, define(step, &vm)?);
    let call = link.vm_define(vm.id(), request);
    let report = ask_for(step, label, step.cancelled(), &link, command.op, call).await?;
    Ok(told(step, vm, &report))
}
