//! Making a VM's disks independent of images and of other VMs.

use std::sync::Arc;

use hostler_types::{LayerOwner, Name, PowerState, Ref, Role, Task, VmKind};
use serde::Serialize;

use super::{own_files, require_file_unused, require_host, require_idle, require_power};
use crate::actor::{Actor, authorize};
use crate::error::{Class, ServiceError};
use crate::services::Options;
use crate::services::submit::order;
use crate::tasks::vm_flatten;
use crate::world::World;

/// Which disks, and how fast.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VmFlatten {
    /// Empty: all.
    pub disks: Vec<Name>,
    /// Bytes a second at most, while the VM runs.
    pub max_rate: Option<u64>,
}

/// Copies into a VM's disks what they need of images and of other VMs' disks, while it runs or not.
///
/// # Errors
/// `forbidden`, `not_found`, `invalid`, `independent`, `in_use`, `wrong_state`, `busy`.
pub async fn flatten(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    request: &VmFlatten,
    options: &Options,
) -> Result<Arc<Task>, ServiceError> {
    authorize(actor, Role::Operator, "change VMs")?;
    if request.max_rate == Some(0) {
        let reason = "0 is no speed; leave it out for no limit";
        return Err(ServiceError::invalid("max_rate", reason));
    }
    order(world, actor, options, "vm.flatten", &(vm, request), |snapshot| {
        let vm = snapshot.find::<VmKind>(vm)?;
        require_idle(snapshot, vm)?;
        require_host(snapshot, vm)?;
        let fit =
            [PowerState::Stopped, PowerState::Failed, PowerState::Running, PowerState::Paused];
        require_power(vm, "flattened", &fit)?;
        if request.max_rate.is_some() && !vm.status.power.is_live() {
            let reason = format!("vm `{}` does not run, and copies at full speed", vm.name());
            return Err(ServiceError::invalid("max_rate", reason).hint("leave it out"));
        }
        let has = |name: &Name| vm.spec.own_disks().any(|disk| disk.name == *name);
        if let Some(unknown) = request.disks.iter().find(|name| !has(name)) {
            let message = format!("vm `{}` has no disk `{unknown}`", vm.name());
            return Err(ServiceError::new(Class::NotFound, "not_found", message)
                .hint(format!("see `hostler vm disk list {}`", vm.name())));
        }
        let chosen = |name: &Name| request.disks.is_empty() || request.disks.contains(name);
        let own = LayerOwner::Vm(vm.id());
        let dependent = vm.status.disks.iter().filter(|disk| {
            chosen(&disk.name) && disk.layers.iter().any(|layer| layer.file.owner() != own)
        });
        let mut found = false;
        for disk in dependent {
            found = true;
            // What is beneath is copied into the lowest file of its own.
            if let Some(lowest) = own_files(vm, &disk.name).last() {
                require_file_unused(snapshot, vm, &disk.name, lowest)?;
            }
        }
        if !found {
            let message = format!("the disks of vm `{}` are independent already", vm.name());
            return Err(ServiceError::conflict("independent", message));
        }
        Ok(vm_flatten::order(vm, request))
    })
    .await
}
