//! Taking a copy of a VM out of the platform, as one archive.

use std::sync::Arc;
use std::time::Duration;

use hostler_endpoint::ByteStream;
use hostler_types::{PowerState, Ref, Role, Task, Vm, VmKind};

use super::files::expect;
use super::{require_host, require_idle};
use crate::actor::{Actor, authorize};
use crate::error::ServiceError;
use crate::services::Options;
use crate::services::submit::order;
use crate::tasks::vm_export;
use crate::world::World;

/// For a host to open an archive, or to remove one.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes an archive of a VM that is off: its definition and each disk, flattened. It lies beside the
/// VM's disks until it is removed, and takes as much room as what is written on them.
///
/// # Errors
/// `forbidden`, `not_found`, `wrong_state`, `busy`, `host_disconnected`.
pub async fn export(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    options: &Options,
) -> Result<Arc<Task>, ServiceError> {
    authorize(actor, Role::Operator, "export VMs")?;
    order(world, actor, options, "vm.export", &vm, |snapshot| {
        let vm = snapshot.find::<VmKind>(vm)?;
        require_idle(snapshot, vm)?;
        require_host(snapshot, vm)?;
        require_off(vm)?;
        let mut order = vm_export::order(vm);
        order.writes.push(expect(vm));
        Ok(order)
    })
    .await
}

fn require_off(vm: &Vm) -> Result<(), ServiceError> {
    let (name, power) = (vm.name(), vm.status.power);
    if [PowerState::Stopped, PowerState::Failed].contains(&power) {
        return Ok(());
    }
    let message = format!("vm `{name}` is {power}; only one that is off can be exported");
    let hint = match power {
        PowerState::Suspended => format!("resume it and stop it: `hostler vm resume {name}`"),
        _ => format!("stop it first: `hostler vm stop {name}`"),
    };
    Err(ServiceError::conflict("wrong_state", message).hint(hint))
}

/// The archive that [`export`] has made.
///
/// # Errors
/// `forbidden`, `not_found`, or the host's problem: `wrong_state` when there is none.
pub async fn exported(world: &World, actor: &Actor, vm: &Ref) -> Result<ByteStream, ServiceError> {
    authorize(actor, Role::Operator, "export VMs")?;
    let vm = world.snapshot().find::<VmKind>(vm).cloned()?;
    let link = world.link(vm.status.host)?;
    world.limited_to(PATIENCE, link.vm_export_content(vm.id())).await
}

/// Removes the archive that [`export`] has made. That there is none is as good.
///
/// # Errors
/// `forbidden`, `not_found`, `busy` while one is being made, or the host's problem.
pub async fn remove_export(world: &World, actor: &Actor, vm: &Ref) -> Result<(), ServiceError> {
    authorize(actor, Role::Operator, "export VMs")?;
    let snapshot = world.snapshot();
    let vm = snapshot.find::<VmKind>(vm)?;
    require_idle(&snapshot, vm)?;
    let link = world.link(vm.status.host)?;
    world.limited_to(PATIENCE, link.vm_export_remove(vm.id())).await
}
