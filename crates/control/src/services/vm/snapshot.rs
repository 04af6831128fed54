//! Snapshots of a VM: take, list, rename, go back, delete, merge.
//!
//! The host's agent is the only writer of a VM's snapshots; what is refused here is what would
//! certainly be refused there, and what a policy or a flag of the VM forbids.

use std::sync::Arc;

use hostler_policy::further_snapshot;
use hostler_types::{
    ByteSize, DatastoreKind, Name, PowerState, Ref, Role, Snapshot as VmSnapshot, SnapshotId,
    SnapshotLimits, SnapshotTree, Task, Vm, VmKind, VmSnapshots,
};
use jiff::{Timestamp, Zoned};
use serde::Serialize;

use super::delete::find;
use super::files::expect;
use super::lease::require_lease;
use super::{require_host, require_idle};
use crate::actor::{Actor, authorize};
use crate::error::{Class, ServiceError};
use crate::inventory::Snapshot;
use crate::services::Options;
use crate::services::datastore::require_room;
use crate::services::snapshot_policy::rules_of;
use crate::services::submit::{Order, order};
use crate::tasks::vm_snapshot::{self, Take, Words};
use crate::tasks::{vm_revert, vm_snapshot_delete};
use crate::world::World;

mod plan;

pub(crate) use plan::deletion;
pub use plan::{SnapshotDelete, plan};

/// A snapshot to be taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SnapshotCreate {
    /// Absent: made from the time.
    pub name: Option<Name>,
    pub description: String,
    /// With the guest's memory.
    pub memory: bool,
    /// With the guest's file systems frozen for the instant.
    pub quiesce: bool,
}

/// What is to change; absent fields stay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SnapshotUpdate {
    pub name: Option<Name>,
    pub description: Option<String>,
}

/// How to go back to a snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SnapshotRevert {
    /// Absent: running as before, or where its memory was saved. `false`: off.
    pub start: Option<bool>,
    /// Also when the VM is protected.
    pub force: bool,
}

/// # Errors
/// `forbidden`, `not_found`.
pub fn list(world: &World, actor: &Actor, vm: &Ref) -> Result<VmSnapshots, ServiceError> {
    authorize(actor, Role::Viewer, "list snapshots")?;
    let snapshot = world.snapshot();
    let vm = find(&snapshot, vm)?;
    let SnapshotTree { current, snapshots } = vm.status.snapshots.clone();
    Ok(VmSnapshots {
        vm: vm.id(),
        name: vm.called().clone(),
        current,
        snapshots,
        rules: rules_of(&snapshot, vm),
        warnings: vm.status.snapshot_warnings.clone(),
    })
}

/// # Errors
/// `forbidden`, `not_found`.
pub fn show(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    snapshot: &Ref,
) -> Result<VmSnapshot, ServiceError> {
    authorize(actor, Role::Viewer, "see snapshots")?;
    found(find(&world.snapshot(), vm)?, snapshot).cloned()
}

/// Takes a snapshot, of a VM that runs or not.
///
/// # Errors
/// `forbidden`, `not_found`, `invalid`, `name_taken`, `snapshot_policy`, `too_deep`, `no_capacity`,
/// `guest_agent_unavailable`, `wrong_state`, `busy`.
pub async fn create(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    request: &SnapshotCreate,
    options: &Options,
) -> Result<Arc<Task>, ServiceError> {
    authorize(actor, Role::Operator, "take snapshots")?;
    validate_description(&request.description)?;
    order(world, actor, options, "vm.snapshot", &(vm, request), |snapshot| {
        let vm = snapshot.find::<VmKind>(vm)?;
        require_idle(snapshot, vm)?;
        require_host(snapshot, vm)?;
        require_settled(vm, "has a snapshot taken")?;
        require_guest(vm, request)?;
        require_allowed(snapshot, vm)?;
        let memory = if request.memory { vm.spec.memory } else { ByteSize(0) };
        let datastore = snapshot.find::<DatastoreKind>(&Ref::by_id(vm.status.datastore))?;
        require_room(snapshot, datastore, &[])?;
        require_room_for_memory(vm, memory, datastore)?;
        let take = Take {
            snapshot: SnapshotId::generate(),
            name: name(vm, request.name.as_ref())?,
            description: request.description.clone(),
            by: actor.name.clone(),
            memory: request.memory,
            quiesce: request.quiesce,
        };
        Ok(vm_snapshot::order(vm, take).with(expect(vm)))
    })
    .await
}

/// Refuses memory that the whole datastore could not hold. What of it is in use, and so is written, is
/// known only when it is saved; a datastore that becomes full then ends the snapshot, not the guest.
fn require_room_for_memory(
    vm: &Vm,
    memory: ByteSize,
    datastore: &hostler_types::Datastore,
) -> Result<(), ServiceError> {
    let capacity = datastore.status.capacity;
    if memory <= capacity {
        return Ok(());
    }
    let (name, store) = (vm.name(), datastore.name());
    let message =
        format!("vm `{name}` has {memory} of memory, datastore `{store}` holds {capacity}");
    Err(ServiceError::new(Class::NoCapacity, "no_capacity", message)
        .hint("take the snapshot without `--memory`"))
}

/// Gives a snapshot another name or description.
///
/// # Errors
/// `forbidden`, `not_found`, `invalid`, `name_taken`, `busy`.
pub async fn update(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    snapshot: &Ref,
    request: &SnapshotUpdate,
    options: &Options,
) -> Result<Arc<Task>, ServiceError> {
    authorize(actor, Role::Operator, "change snapshots")?;
    if let Some(description) = &request.description {
        validate_description(description)?;
    }
    order(world, actor, options, "vm.snapshot_update", &(vm, snapshot, request), |inventory| {
        let vm = inventory.find::<VmKind>(vm)?;
        require_idle(inventory, vm)?;
        require_host(inventory, vm)?;
        let old = found(vm, snapshot)?;
        let name = match &request.name {
            Some(name) if *name != old.name => free(vm, name)?,
            _ => old.name.clone(),
        };
        let description = request.description.as_ref().unwrap_or(&old.description).clone();
        let order = vm_snapshot::order_update(vm, old, Words { name, description });
        Ok(order.with(expect(vm)))
    })
    .await
}

/// Makes a VM what it was at a snapshot; its present state is lost, unless a snapshot holds it. A
/// protected VM only by force.
///
/// # Errors
/// `forbidden`, `not_found`, `protected`, `lease_over`, `wrong_state`, `busy`.
pub async fn revert(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    snapshot: &Ref,
    request: SnapshotRevert,
    options: &Options,
) -> Result<Arc<Task>, ServiceError> {
    authorize(actor, Role::Operator, "revert VMs")?;
    order(world, actor, options, "vm.revert", &(vm, snapshot, request), |inventory| {
        let vm = inventory.find::<VmKind>(vm)?;
        require_idle(inventory, vm)?;
        require_host(inventory, vm)?;
        require_settled(vm, "is reverted")?;
        let to = found(vm, snapshot)?;
        if vm.spec.protected && !request.force {
            let message = format!(
                "vm `{}` is protected, and what it is now would be lost by going back to `{}`",
                vm.name(),
                to.name
            );
            return Err(ServiceError::conflict("protected", message)
                .hint("take a snapshot of it first, then say `--force`"));
        }
        let runs = request.start.unwrap_or(to.memory.is_some() || vm.status.power.is_live());
        if runs {
            require_lease(vm)?;
        }
        let starts = Some(vm.as_ref()).filter(|vm| runs && !vm.status.power.is_live());
        let promises = world.admissions.admit(&world.inventory, starts)?;
        Ok(vm_revert::order(vm, to.id, request.start).with(expect(vm)).promised(promises))
    })
    .await
}

/// Takes snapshots away and merges what they held into what remains.
///
/// # Errors
/// `forbidden`, `not_found`, `invalid`, `wrong_state`, `busy`.
pub async fn delete(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    request: &SnapshotDelete,
    options: &Options,
) -> Result<Arc<Task>, ServiceError> {
    authorize(actor, Role::Operator, "delete snapshots")?;
    order(world, actor, options, "vm.snapshot_delete", &(vm, request), |snapshot| {
        let vm = snapshot.find::<VmKind>(vm)?;
        require_mergeable(snapshot, vm)?;
        let deletion = deletion(snapshot, vm, request.selected(vm)?, request.max_rate);
        Ok(vm_snapshot_delete::order(vm, deletion).with(expect(vm)))
    })
    .await
}

/// Merges what earlier deletions could not.
///
/// # Errors
/// `forbidden`, `not_found`, `wrong_state`, `busy`.
pub async fn consolidate(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    max_rate: Option<u64>,
    options: &Options,
) -> Result<Arc<Task>, ServiceError> {
    authorize(actor, Role::Operator, "merge VMs' files")?;
    order(world, actor, options, "vm.consolidate", &(vm, max_rate), |snapshot| {
        let vm = snapshot.find::<VmKind>(vm)?;
        require_mergeable(snapshot, vm)?;
        let deletion = deletion(snapshot, vm, Vec::new(), max_rate);
        Ok(vm_snapshot_delete::order_consolidate(vm, deletion).with(expect(vm)))
    })
    .await
}

/// The order by which the server itself deletes snapshots.
pub(crate) fn system_deletion(
    snapshot: &Snapshot,
    vm: &Vm,
    snapshots: Vec<SnapshotId>,
    reason: String,
) -> Result<Order, ServiceError> {
    require_mergeable(snapshot, vm)?;
    let mut deletion = deletion(snapshot, vm, snapshots, None);
    deletion.reason = Some(reason);
    Ok(vm_snapshot_delete::order(vm, deletion).with(expect(vm)))
}

fn require_mergeable(snapshot: &Snapshot, vm: &Vm) -> Result<(), ServiceError> {
    require_idle(snapshot, vm)?;
    require_host(snapshot, vm)?;
    require_settled(vm, "has its files merged")
}

/// Refuses what is not whole, or not known.
fn require_settled(vm: &Vm, what: &str) -> Result<(), ServiceError> {
    let (name, power) = (vm.name(), vm.status.power);
    match power {
        PowerState::Creating | PowerState::Unknown => {
            let message =
                format!("vm `{name}` is {power}: it {what} once it is running or stopped");
            Err(ServiceError::conflict("wrong_state", message)
                .hint(format!("see `hostler vm show {name}`")))
        }
        _ => Ok(()),
    }
}

/// Refuses to save the memory of what has none, and to freeze what does not listen.
fn require_guest(vm: &Vm, request: &SnapshotCreate) -> Result<(), ServiceError> {
    let (name, power) = (vm.name(), vm.status.power);
    let runs = matches!(power, PowerState::Running | PowerState::Paused);
    if request.memory && !runs {
        let message = format!("vm `{name}` is {power}: there is no memory to save");
        return Err(ServiceError::conflict("wrong_state", message)
            .hint("leave out `--memory`: its disks are saved as they are"));
    }
    if request.quiesce && power != PowerState::Running {
        let message = format!("vm `{name}` is {power}: there is no guest to freeze");
        return Err(ServiceError::conflict("wrong_state", message)
            .hint("leave out `--quiesce`: the disks of a guest that was stopped are consistent"));
    }
    let answers = vm.status.guest.as_ref().is_some_and(|guest| guest.agent);
    if request.quiesce && !answers {
        let message =
            format!("the guest agent of vm `{name}` does not answer, so nobody freezes it");
        return Err(ServiceError::conflict("guest_agent_unavailable", message).hint(
            "leave out `--quiesce` (the snapshot is as after a power failure), or install \
             qemu-guest-agent in the guest",
        ));
    }
    Ok(())
}

/// Refuses what its policy refuses, and what no host could follow any more.
fn require_allowed(snapshot: &Snapshot, vm: &Vm) -> Result<(), ServiceError> {
    let (name, tree) = (vm.name(), &vm.status.snapshots);
    if tree.depth() >= SnapshotLimits::DEEPEST as usize {
        let message =
            format!("vm `{name}` has {} snapshots beneath its disks, the most", tree.depth());
        return Err(ServiceError::conflict("too_deep", message)
            .hint(format!("delete some with `hostler vm snapshot delete {name}`")));
    }
    let rules = rules_of(snapshot, vm);
    further_snapshot(tree, &rules, Timestamp::now()).map_err(|reason| {
        let from = rules.from.join(", ");
        let message = format!("vm `{name}` takes no further snapshot: {reason} (policy: {from})");
        ServiceError::conflict("snapshot_policy", message).hint(format!(
            "delete one with `hostler vm snapshot delete {name}`, or allow more with `hostler vm set \
             {name} --snapshot-max-depth`"
        ))
    })
}

/// The one asked for, if no other has it, or one made from the time.
fn name(vm: &Vm, asked: Option<&Name>) -> Result<Name, ServiceError> {
    if let Some(name) = asked {
        return free(vm, name);
    }
    let now = Zoned::now().strftime("snap-%Y%m%d-%H%M%S").to_string();
    let numbered = (2..).map(|number| format!("{now}-{number}"));
    let mut names = std::iter::once(now.clone()).chain(numbered).filter_map(|n| n.parse().ok());
    let free = names.find(|name| is_free(vm, name));
    free.ok_or_else(|| ServiceError::invalid("name", "no name can be made from the time"))
}

fn is_free(vm: &Vm, name: &Name) -> bool {
    vm.status.snapshots.snapshots.iter().all(|snapshot| snapshot.name != *name)
}

fn free(vm: &Vm, name: &Name) -> Result<Name, ServiceError> {
    if is_free(vm, name) {
        return Ok(name.clone());
    }
    let message = format!("vm `{}` has a snapshot `{name}` already", vm.name());
    Err(ServiceError::conflict("name_taken", message).hint("choose another name"))
}

fn found<'a>(vm: &'a Vm, snapshot: &Ref) -> Result<&'a VmSnapshot, ServiceError> {
    let tree = &vm.status.snapshots;
    tree.find(snapshot).ok_or_else(|| {
        let message = format!("vm `{}` has no snapshot `{snapshot}`", vm.called());
        let hint = match tree.is_empty() {
            true => "it has none at all".to_owned(),
            false => format!("list them with `hostler vm snapshot list {}`", vm.called()),
        };
        ServiceError::new(Class::NotFound, "not_found", message).hint(hint)
    })
}

fn validate_description(text: &str) -> Result<(), ServiceError> {
    const LONGEST: usize = 1024;
    if text.chars().count() > LONGEST || text.chars().any(char::is_control) {
        let reason = format!("it is one line of at most {LONGEST} characters");
        return Err(ServiceError::invalid("description", reason));
    }
    Ok(())
}
