//! VMs that a host still has though they are another host's: it was away while they went.

use std::sync::Arc;

use hostler_agent_api::{VmCommand, VmReport};
use hostler_types::{HostId, HostKind, OperationId};

use crate::world::Core;

/// Lets a host that has just connected forget what is another's under a later epoch. What runs of it
/// there is killed before it writes once more; the files are the other host's.
pub(super) fn forget_stale(core: &Arc<Core>, host: HostId, reports: &[VmReport]) {
    let snapshot = core.snapshot();
    for report in reports {
        let Some(vm) = snapshot.get(report.vm) else { continue };
        let moved = vm.status.host != host && vm.status.epoch > report.epoch;
        // A task that moves it knows better.
        if !moved || snapshot.task_on(vm.id().untyped()).is_some() {
            continue;
        }
        // It is not recorded as connected yet.
        let Some(known) = snapshot.get::<HostKind>(host) else { return };
        let Ok(link) = core.agents.link(known) else { return };
        let (vm, epoch, power) = (vm.id(), vm.status.epoch, report.power);
        tracing::warn!(%host, %vm, %power, "the host has a VM that is another host's; it forgets it");
        tokio::spawn(async move {
            let command = VmCommand { op: OperationId::generate(), epoch };
            if let Err(error) = link.vm_migration_forget(vm, command).await {
                tracing::warn!(%host, %vm, %error, "the host does not forget a VM of another host");
            }
        });
    }
}
