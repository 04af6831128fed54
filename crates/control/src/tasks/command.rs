//! What the steps share: reading the VM they work on, asking its host, taking its answer over.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use hostler_agent_api::{
    AgentEvent, FileOwner, NetworkDefinition, VmCommand, VmDefinition, VmReport, code,
};
use hostler_store::Write;
use hostler_tasks::{StepContext, StepError};
use hostler_types::{
    DatastoreId, ImageKind, LayerOwner, NetworkKind, OperationId, PowerState, Vm, VmId, VmKind,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::agents::{AgentError, AgentLink};
use crate::customize;
use crate::error::ServiceError;
use crate::inventory::images;
use crate::reports::absorb;
use crate::tasks::naming::{named, named_report};
use crate::world::Core;

pub(super) type Step = StepContext<Core>;

/// The wait before an agent that did not answer is asked again.
const AGAIN: Duration = Duration::from_secs(1);
/// After so long without an answer the question is asked again, under the same operation id: the
/// agent lets it join the work still going on.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// The input of tasks that change one VM's power state.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct PowerInput {
    pub(super) vm: VmId,
    /// Put back when nothing comes of it and the host says nothing.
    pub(super) before: PowerState,
}

/// The VM, if it is still in the inventory.
pub(super) async fn vm_if_there(step: &Step, vm: VmId) -> Result<Option<Vm>, StepError> {
    Ok(step.world().stored::<VmKind>(vm).await?)
}

pub(super) async fn vm(step: &Step, vm: VmId) -> Result<Vm, StepError> {
    let found = vm_if_there(step, vm).await?;
    found.ok_or_else(|| StepError::failed("not_found", format!("the vm {vm} is gone")))
}

/// The agent of the VM's host.
pub(super) fn link(step: &Step, vm: &Vm) -> Result<Arc<dyn AgentLink>, StepError> {
    linked(step, vm.status.host)
}

pub(super) fn linked(
    step: &Step,
    host: hostler_types::HostId,
) -> Result<Arc<dyn AgentLink>, StepError> {
    step.world().link(host).map_err(from_service)
}

/// A service's refusal, for a step.
pub(super) fn from_service(error: ServiceError) -> StepError {
    match error.code {
        "host_disconnected" | "host_unreachable" => StepError::retry(AGAIN, error.message),
        code => StepError::failed(code, error.message),
    }
}

/// What every command to a VM carries.
pub(super) fn command(step: &Step, vm: &Vm) -> VmCommand {
    VmCommand { op: operation(step), epoch: vm.status.epoch }
}

/// The same until the agent has refused it; then another one.
pub(super) fn operation(step: &Step) -> OperationId {
    operation_for(step, "")
}

/// As [`operation`], of a step that gives several commands: one for each `label`.
pub(super) fn operation_for(step: &Step, label: &str) -> OperationId {
    match step.world().attempts.count(step.operation_id_for(label)) {
        0 => step.operation_id_for(label),
        refused => step.operation_id_for(&format!("{label}{refused}")),
    }
}

/// Waits for an agent's answer. A task that is to stop asks the agent to stop, and still waits for
/// how it ended.
pub(super) async fn ask<T>(
    step: &Step,
    link: &Arc<dyn AgentLink>,
    op: OperationId,
    call: impl Future<Output = Result<T, AgentError>>,
) -> Result<T, StepError> {
    ask_for(step, "", step.cancelled(), link, op, call).await
}

/// As [`ask`], of a step that gives several commands, which stop when `stop` says so.
pub(super) async fn ask_for<T>(
    step: &Step,
    label: &str,
    stop: &CancellationToken,
    link: &Arc<dyn AgentLink>,
    op: OperationId,
    call: impl Future<Output = Result<T, AgentError>>,
) -> Result<T, StepError> {
    let first = step.operation_id_for(label);
    let mut call = std::pin::pin!(tokio::time::timeout(PATIENCE, call));
    let answered = tokio::select! {
        answered = &mut call => answered,
        () = stop.cancelled() => {
            let _best_effort = tokio::time::timeout(AGAIN * 10, link.operation_cancel(op)).await;
            call.await
        }
    };
    match answered {
        Ok(Ok(answer)) => {
            step.world().attempts.done(first);
            Ok(answer)
        }
        Ok(Err(AgentError::Refused(problem))) if problem.code == code::UNSETTLED => {
            Err(StepError::retry(AGAIN, named(&step.world().snapshot(), &problem.detail)))
        }
        Ok(Err(AgentError::Refused(problem))) => {
            step.world().attempts.refused(first);
            let error = ServiceError::from(problem);
            let hint = error.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
            let message = named(&step.world().snapshot(), &format!("{}{hint}", error.message));
            Err(StepError::failed(error.code, message))
        }
        Ok(Err(error @ AgentError::Unreachable { .. })) => {
            Err(StepError::retry(AGAIN, error.to_string()))
        }
        Err(_) => Err(StepError::retry(AGAIN, "the host takes very long to answer")),
    }
}

/// Refuses when anything lies on the files of an object, as the files say: for the last look before
/// there is no way back, at which the host would refuse. A host that cannot tell says so then.
pub(super) async fn require_unneeded(
    step: &Step,
    host: hostler_types::HostId,
    datastore: DatastoreId,
    owner: FileOwner,
) -> Result<(), StepError> {
    let link = linked(step, host)?;
    let owning = match &owner {
        FileOwner::Vm(vm) => Some(*vm),
        FileOwner::Image(_) => None,
        FileOwner::File(file) => match file.owner() {
            LayerOwner::Vm(vm) => Some(vm),
            LayerOwner::Image(_) => None,
        },
    };
    let asked = tokio::time::timeout(AGAIN * 60, link.datastore_users(datastore, owner)).await;
    let users = match asked {
        Ok(Ok(users)) => users,
        Ok(Err(AgentError::Refused(problem))) => {
            // Without a record of it the host has nothing to remove either.
            let away = problem.code == code::DATASTORE_MISSING
                && owning.is_some_and(|vm| step.world().reports.knows(vm));
            if !away {
                return Ok(());
            }
            let error = ServiceError::from(problem);
            let message = named(&step.world().snapshot(), &error.message);
            return Err(StepError::failed(error.code, message));
        }
        Ok(Err(error @ AgentError::Unreachable { .. })) => {
            return Err(StepError::retry(AGAIN, error.to_string()));
        }
        Err(_) => return Err(StepError::retry(AGAIN, "the host takes very long to answer")),
    };
    if users.is_empty() {
        return Ok(());
    }
    let texts: Vec<_> = users.into_iter().map(|user| user.text).collect();
    let message = named(&step.world().snapshot(), &texts.join("; "));
    Err(StepError::failed("in_use", message))
}

/// All that the agent needs to know of a VM.
pub(super) fn definition(step: &Step, vm: &Vm) -> Result<VmDefinition, StepError> {
    let snapshot = step.world().snapshot();
    let gone = |what: &str| StepError::failed("not_found", format!("{what} is gone"));
    let mut image_places = Vec::new();
    for id in images(vm) {
        let image = snapshot.get::<ImageKind>(id).ok_or_else(|| gone("an image of the VM"))?;
        image_places.push((id, image.spec.datastore));
    }
    let mut networks: Vec<NetworkDefinition> = Vec::new();
    for nic in &vm.spec.nics {
        let network = snapshot.get::<NetworkKind>(nic.network);
        let network = network.ok_or_else(|| gone("a network of the VM"))?;
        if networks.iter().all(|known| known.id != nic.network) {
            networks.push(NetworkDefinition { id: network.id(), spec: network.spec.clone() });
        }
    }
    let mut vm = vm.clone();
    let customization = vm.spec.customization.as_ref();
    let customization_hash =
        customization.map(|stored| hostler_customize::hash(stored, &vm.spec.nics));
    if let Some(customization) = &mut vm.spec.customization {
        customize::open(&step.world().vault, customization)
            .map_err(|error| StepError::failed("secret_unreadable", error.to_string()))?;
    }
    Ok(VmDefinition { vm, images: image_places, networks, customization_hash })
}

/// The VM's status as its host has just told it.
pub(super) fn told(step: &Step, mut vm: Vm, report: &VmReport) -> Write {
    step.world().reports.answer(vm.status.host, report);
    absorb(&mut vm.status, &named_report(&step.world().snapshot(), report));
    Write::update(&vm)
}

/// How an undo ends that has told the host again what a VM was before. A host whose datastore is away
/// refuses that; but unless the step `forward` has come to its end, it has refused the change as well,
/// and only the record is to be put back.
pub(super) fn told_back(
    step: &Step,
    before: &Vm,
    forward: &str,
    told: hostler_tasks::StepResult,
) -> hostler_tasks::StepResult {
    match told {
        Err(StepError::Failed { code, .. })
            if code == code::DATASTORE_MISSING
                && step.result_if_done::<serde_json::Value>(forward)?.is_none() =>
        {
            Ok(hostler_tasks::Outcome::none().with(Write::update(before)))
        }
        told => told,
    }
}

/// After a command that did not work: the VM is what its host last said, or what it was before.
pub(super) async fn settle(step: Step) -> hostler_tasks::StepResult {
    let settled = settled(&step).await?;
    Ok(hostler_tasks::Outcome::none().with_all(settled.map(|vm| Write::update(&vm))))
}

/// The VM as its host last said that it is, or with the power it had before.
pub(super) async fn settled(step: &Step) -> Result<Option<Vm>, StepError> {
    let input: PowerInput = step.input()?;
    let Some(mut vm) = vm_if_there(step, input.vm).await? else { return Ok(None) };
    let absorbed = match step.world().reports.last(vm.id()) {
        Some(report) => take_over(step, &mut vm, &report),
        None => refresh(step, &mut vm).await,
    };
    if !absorbed && vm.status.power != input.before {
        vm.status.power = input.before;
        vm.status.power_since = Timestamp::now();
    }
    Ok(Some(vm))
}

/// Takes over what the VM's host has to say of it now; `false` if there is nothing new.
pub(super) async fn refresh(step: &Step, vm: &mut Vm) -> bool {
    match asked(step, vm).await {
        Some(report) => take_over(step, vm, &report),
        None => false,
    }
}

fn take_over(step: &Step, vm: &mut Vm, report: &VmReport) -> bool {
    absorb(&mut vm.status, &named_report(&step.world().snapshot(), report))
}

/// Asks the host about one of its VMs.
pub(super) async fn asked(step: &Step, vm: &Vm) -> Option<VmReport> {
    const LIMIT: Duration = Duration::from_secs(10);
    let link = link(step, vm).ok()?;
    let first = async { link.events().await.ok()?.next().await };
    let first = tokio::time::timeout(LIMIT, first).await.ok()??.ok()?;
    match first.data {
        AgentEvent::Inventory(inventory) => {
            inventory.vms.into_iter().find(|report| report.vm == vm.id())
        }
        _ => None,
    }
}

/// The VM as it is while a task brings it from one power state to another.
pub(super) fn on_its_way(vm: &Vm, power: PowerState) -> Write {
    let mut vm = vm.clone();
    vm.status.power = power;
    vm.status.power_since = Timestamp::now();
    vm.status.message = None;
    Write::update(&vm)
}
