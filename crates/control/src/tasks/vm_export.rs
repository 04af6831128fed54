//! `vm.export`: Makes an archive of a VM that is off.
//!
//! 1. `copy`: the agent copies each disk, flattened, beside the VM's disks, and writes the manifest
//!    last; undone by removing the copies. The lock keeps the VM from being started or changed
//!    meanwhile. The archive is then fetched, and removed, by whoever asked for it; the next export
//!    and the VM's deletion remove it too.

use std::time::Duration;

use hostler_agent_api::{VmExportRequest, code};
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepError, StepResult};
use hostler_types::{ByteSize, ExportedNetwork, NetworkKind, Vm, VmId};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::command::{Step, ask, command, link, vm, vm_if_there};
use crate::agents::AgentError;
use crate::services::{Order, counted};
use crate::world::Core;

/// The wait before a host that did not answer is asked again.
const AGAIN: Duration = Duration::from_secs(1);
const LIMIT: SignedDuration = SignedDuration::from_hours(24);

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Input {
    vm: VmId,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("vm.export").step(TaskStep::new("copy", copy).undo(remove))
}

pub(crate) fn order(vm: &Vm) -> Order {
    Order::new("vm.export", vm, &Input { vm: vm.id() }).limit(LIMIT)
}

async fn copy(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let vm = vm(&step, input.vm).await?;
    let (link, command) = (link(&step, &vm)?, command(&step, &vm));
    let snapshot = step.world().snapshot();
    let mut networks: Vec<ExportedNetwork> = Vec::new();
    for nic in &vm.spec.nics {
        if let Some(network) = snapshot.get::<NetworkKind>(nic.network)
            && networks.iter().all(|known| known.id != network.id())
        {
            networks.push(ExportedNetwork { id: network.id(), name: network.name().clone() });
        }
    }
    let reporting = step.clone();
    let _listening = step.world().progress.listen(command.op, move |progress| {
        reporting.progress(progress.percent, progress.activity);
    });
    let request = VmExportRequest { command, networks };
    let manifest = ask(&step, &link, command.op, link.vm_export(vm.id(), request)).await?;
    let bytes: u64 = manifest.disks.iter().map(|disk| disk.file.0).sum();
    step.message(format!("{} copied: {}", counted(manifest.disks.len(), "disk"), ByteSize(bytes)));
    Ok(Outcome::of(&json!({ "bytes": bytes })))
}

async fn remove(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let Some(vm) = vm_if_there(&step, input.vm).await? else { return Ok(Outcome::none()) };
    let link = link(&step, &vm)?;
    match link.vm_export_remove(vm.id()).await {
        Ok(()) => Ok(Outcome::none()),
        // Without the VM there is no export of it; and what an unmounted datastore may still hold of
        // one is replaced by the next.
        Err(AgentError::Refused(problem))
            if problem.status == 404 || problem.code == code::DATASTORE_MISSING =>
        {
            Ok(Outcome::none())
        }
        Err(AgentError::Refused(problem)) => Err(StepError::failed("host_refused", problem.detail)),
        Err(error) => Err(StepError::retry(AGAIN, error.to_string())),
    }
}
