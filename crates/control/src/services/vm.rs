//! Virtual machines.

use std::sync::Arc;

use hostler_types::{
    DatastoreKind, HostKind, ImageKind, NetworkKind, PowerState, Ref, Role, StopMode, Task, Vm,
    VmKind,
};
use serde::Serialize;

use super::submit::{Order, order};
use super::{Options, Page, PageRequest, page};
use crate::actor::{Actor, authorize};
use crate::error::ServiceError;
use crate::inventory::Snapshot;
use crate::inventory::images;
use crate::placement::require_in_service;
use crate::redact::Shown;
use crate::tasks::{vm_reset, vm_seal, vm_start, vm_stop, vm_suspend};
use crate::world::World;

mod clone;
mod create;
mod customize;
mod delete;
pub mod disk;
mod export;
mod files;
mod flatten;
mod fork;
mod from_host;
mod guest;
mod lease;
mod mac;
pub(crate) mod migrate;
mod migrate_storage;
mod resources;
pub mod snapshot;
mod template;
mod update;

pub use clone::{CloneOf, Cloned, clone};
pub use create::create;
pub(super) use create::name_taken;
pub(crate) use create::{Taking, planned, specified};
pub use customize::{VmCustomize, customize};
pub use delete::{VmDelete, delete, deletion_plan, purge, recycled, undelete};
pub(crate) use delete::{
    dependents, own_files, require_deletable, require_disk_unused, require_file_unused,
    require_unused, told_names,
};
pub use export::{export, exported, remove_export};
pub(crate) use files::expect;
pub use files::{VmRegister, register, unregister, unregistered};
pub use flatten::{VmFlatten, flatten};
pub use from_host::{HostVm, VmRegisterFromHost, on_host, register_from_host};
pub use guest::{exec, log, screenshot};
pub use lease::{Renewal, renew};
pub(crate) use mac::MacReservations;
pub use migrate::{Migration, VmMigrate, migrate};
pub(super) use template::copied;
pub use update::{plan, rename, update};

/// Which VMs a list is to hold; all that is given must fit.
#[derive(Debug, Clone, Default)]
pub struct VmFilter {
    pub power: Option<PowerState>,
    pub host: Option<Ref>,
    pub datastore: Option<Ref>,
    pub image: Option<Ref>,
    pub network: Option<Ref>,
}

/// # Errors
/// `forbidden`; `not_found` when the filter names what does not exist; `invalid` paging.
pub fn list(
    world: &World,
    actor: &Actor,
    filter: &VmFilter,
    request: &PageRequest,
) -> Result<Page<Vm>, ServiceError> {
    authorize(actor, Role::Viewer, "list VMs")?;
    let snapshot = world.snapshot();
    let find = |reference: &Option<Ref>| reference.as_ref().map(|r| snapshot.find::<HostKind>(r));
    let host = find(&filter.host).transpose()?.map(|host| host.id());
    let datastore = filter.datastore.as_ref();
    let datastore = datastore.map(|r| snapshot.find::<DatastoreKind>(r)).transpose()?;
    let image = filter.image.as_ref().map(|r| snapshot.find::<ImageKind>(r)).transpose()?;
    let network = filter.network.as_ref().map(|r| snapshot.find::<NetworkKind>(r)).transpose()?;
    page::<VmKind>(&snapshot, request, |vm| {
        !(vm.is_recycled() || vm.is_template())
            && filter.power.is_none_or(|power| vm.status.power == power)
            && host.is_none_or(|host| vm.status.host == host)
            && datastore.is_none_or(|datastore| vm.status.datastore == datastore.id())
            && image.is_none_or(|image| images(vm).any(|id| id == image.id()))
            && network.is_none_or(|net| vm.spec.nics.iter().any(|nic| nic.network == net.id()))
    })
}

/// # Errors
/// `forbidden`, `not_found`.
pub fn show(world: &World, actor: &Actor, vm: &Ref) -> Result<Arc<Vm>, ServiceError> {
    authorize(actor, Role::Viewer, "see VMs")?;
    Ok(VmKind::shown(delete::find(&world.snapshot(), vm)?))
}

/// Starts a VM; one that is suspended resumes where it was.
///
/// # Errors
/// `forbidden`, `not_found`, `wrong_state`, `busy`.
pub async fn start(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    options: &Options,
) -> Result<Arc<Task>, ServiceError> {
    authorize(actor, Role::Operator, "start VMs")?;
    let allowed = [PowerState::Stopped, PowerState::Suspended, PowerState::Failed];
    power(world, actor, options, "start", vm, &(), |vm| {
        require_power(vm, "started", &allowed)?;
        lease::require_lease(vm)?;
        world.placement.require_place(&world.inventory, vm)?;
        Ok(vm_start::order(vm).promised(world.admissions.admit(&world.inventory, [vm])?))
    })
    .await
}

/// Resumes a suspended VM where it was.
///
/// # Errors
/// As [`start`]; `wrong_state` also for a VM that is not suspended.
pub async fn resume(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    options: &Options,
) -> Result<Arc<Task>, ServiceError> {
    authorize(actor, Role::Operator, "resume VMs")?;
    power(world, actor, options, "resume", vm, &(), |vm| {
        require_power(vm, "resumed", &[PowerState::Suspended])?;
        lease::require_lease(vm)?;
        require_in_service(&world.snapshot(), vm)?;
        Ok(vm_start::order(vm).promised(world.admissions.admit(&world.inventory, [vm])?))
    })
    .await
}

/// How a VM is to be stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct VmStop {
    pub mode: StopMode,
    /// How long a graceful stop may take, in seconds: 1 to 86,400; absent: 120.
    pub timeout_seconds: Option<u32>,
}

/// # Errors
/// `forbidden`, `not_found`, `invalid`, `wrong_state`, `busy`.
pub async fn stop(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    stop: VmStop,
    options: &Options,
) -> Result<Arc<Task>, ServiceError> {
    authorize(actor, Role::Operator, "stop VMs")?;
    let seconds = stop.timeout_seconds.unwrap_or(120);
    if !(1..=86_400).contains(&seconds) {
        let reason = format!("{seconds} is not possible; 1 to 86400");
        return Err(ServiceError::invalid("timeout_seconds", reason));
    }
    power(world, actor, options, "stop", vm, &stop, |vm| {
        // Its host may be about to start a failed one again; stopping it ends that.
        let live = PowerState::LIVE.into_iter().chain([PowerState::Failed]);
        let known = live.filter(|state| *state != PowerState::Unknown);
        require_power(vm, "stopped", &known.collect::<Vec<_>>())?;
        Ok(vm_stop::order(vm, stop.mode, seconds))
    })
    .await
}

/// Presses a running VM's reset button.
///
/// # Errors
/// `forbidden`, `not_found`, `wrong_state`, `busy`.
pub async fn reset(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    options: &Options,
) -> Result<Arc<Task>, ServiceError> {
    authorize(actor, Role::Operator, "reset VMs")?;
    power(world, actor, options, "reset", vm, &(), |vm| {
        require_power(vm, "reset", &[PowerState::Running, PowerState::Paused])?;
        Ok(vm_reset::order(vm))
    })
    .await
}

/// Writes a running VM's memory to its datastore and ends QEMU.
///
/// # Errors
/// `forbidden`, `not_found`, `wrong_state`, `busy`.
pub async fn suspend(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    options: &Options,
) -> Result<Arc<Task>, ServiceError> {
    authorize(actor, Role::Operator, "suspend VMs")?;
    power(world, actor, options, "suspend", vm, &(), |vm| {
        require_power(vm, "suspended", &[PowerState::Running, PowerState::Paused])?;
        Ok(vm_suspend::order(vm))
    })
    .await
}

/// Takes out of a guest what must not be the same in two machines: one that runs through its agent,
/// and it is off then; one that is off without starting it.
///
/// # Errors
/// `forbidden`, `not_found`, `wrong_state`, `busy`.
pub async fn seal(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    options: &Options,
) -> Result<Arc<Task>, ServiceError> {
    authorize(actor, Role::Operator, "seal VMs")?;
    power(world, actor, options, "seal", vm, &(), |vm| {
        require_power(vm, "sealed", &[PowerState::Running, PowerState::Stopped])?;
        if vm.spec.protected {
            let message = format!("vm `{}` is protected, and would lose what it is", vm.name());
            return Err(ServiceError::conflict("protected", message)
                .hint(format!("first run `hostler vm set {} --no-protect`", vm.name())));
        }
        Ok(vm_seal::order(vm))
    })
    .await
}

/// Orders a change of one VM's power state.
async fn power(
    world: &World,
    actor: &Actor,
    options: &Options,
    verb: &'static str,
    reference: &Ref,
    request: &impl Serialize,
    plan: impl Fn(&Vm) -> Result<Order, ServiceError>,
) -> Result<Arc<Task>, ServiceError> {
    let request = (verb, reference, request);
    order(world, actor, options, "vm.power", &request, |snapshot| {
        let vm = delete::find(snapshot, reference)?;
        require_idle(snapshot, vm)?;
        require_host(snapshot, vm)?;
        plan(vm)
    })
    .await
}

/// Refuses what is in the recycle bin, is a template, or is being worked on.
pub(super) fn require_idle(snapshot: &Snapshot, vm: &Vm) -> Result<(), ServiceError> {
    delete::require_not_recycled(vm)?;
    require_free(snapshot, vm)
}

/// Refuses early, with names, what the lock would refuse.
pub(super) fn require_free(snapshot: &Snapshot, vm: &Vm) -> Result<(), ServiceError> {
    let Some(task) = snapshot.task_on(vm.id().untyped()) else { return Ok(()) };
    let action = snapshot.get(task).map_or("a task", |task| task.spec.action.as_str());
    let what = if vm.is_template() { "the template" } else { "vm" };
    Err(ServiceError::conflict(
        "busy",
        format!("{what} `{}` is being worked on: {action} (task {task})", vm.called()),
    )
    .hint(format!(
        "wait with `hostler task watch {task}`, or end it with `hostler task cancel {task}`"
    )))
}

/// Refuses early what a host that does not answer could not carry out.
pub(super) fn require_host(snapshot: &Snapshot, vm: &Vm) -> Result<(), ServiceError> {
    let host = snapshot.find::<HostKind>(&Ref::by_id(vm.status.host))?;
    super::host::require_connected(host)
}

pub(super) fn require_power(
    vm: &Vm,
    past: &str,
    allowed: &[PowerState],
) -> Result<(), ServiceError> {
    let power = vm.status.power;
    if allowed.contains(&power) {
        return Ok(());
    }
    let name = vm.name();
    let message = match (past, power) {
        ("started" | "resumed", PowerState::Running) => format!("vm `{name}` runs already"),
        ("stopped", PowerState::Stopped | PowerState::Suspended) => {
            format!("vm `{name}` is {power}: it does not run")
        }
        _ => {
            let states: Vec<_> = allowed.iter().map(|state| state.as_str()).collect();
            let states = states.join(" or ");
            format!("vm `{name}` is {power} and cannot be {past}; it must be {states}")
        }
    };
    Err(ServiceError::conflict("wrong_state", message))
}
