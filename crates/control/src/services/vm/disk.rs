//! The disks of a VM, one by one. Each change is one of the VM's spec, and reaches a running guest
//! like every other; but a disk that a guest does not take, or does not let go of, is no disk that is
//! pending: the task fails and puts everything back.

use std::sync::Arc;

use hostler_store::Write;
use hostler_types::{
    ByteSize, DatastoreKind, DiskSpec, DiskUpdate, HostKind, LayerOwner, Name, Ref, Role,
    Snapshot as TakenSnapshot, Task, Vm, VmDisk, VmKind,
};
use serde::Serialize;

use super::create::{disk_spec, require_beside, validate};
use super::delete::{own_files, require_disk_unused, require_not_recycled};
use super::update::require_changeable;
use super::{require_host, require_idle};
use crate::actor::{Actor, authorize};
use crate::error::{Class, ServiceError};
use crate::inventory::{Snapshot, images};
use crate::services::Options;
use crate::services::datastore::require_room;
use crate::services::submit::{Order, order};
use crate::tasks::vm_disk::{self, Grow};
use crate::tasks::vm_disk_take;
use crate::world::World;

/// How a disk is removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Removal {
    /// Without this it is refused.
    pub delete_data: bool,
    /// Also when the guest says that it uses the disk.
    pub force: bool,
}

/// Whose disk a VM is to get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiskTake {
    pub from: Ref,
    /// Another name than it has there.
    pub name: Option<Name>,
}

/// Gives a VM another disk: blank, or on an image.
///
/// # Errors
/// `forbidden`, `not_found`, `invalid`, `name_taken`, `no_capacity`, `wrong_state`, `busy`.
pub async fn add(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    disk: &VmDisk,
    options: &Options,
) -> Result<Arc<Task>, ServiceError> {
    change(world, actor, options, "vm.disk_add", vm, disk, |snapshot, old| {
        let mut new = Vm::clone(old);
        let taken = |name: &Name| old.spec.own_disks().any(|disk| disk.name == *name);
        let free = (0..).map(numbered).find(|name| !taken(name));
        let name = disk.name.clone().or(free).unwrap_or_else(|| numbered(0));
        if taken(&name) {
            let message = format!("vm `{}` has a disk `{name}` already", old.name());
            return Err(ServiceError::conflict("name_taken", message).hint("choose another name"));
        }
        let spec = disk_spec(snapshot, disk, name, &("image".to_owned(), "size".to_owned()))?;
        require_beside(snapshot, old, &spec)?;
        room(snapshot, old, spec.size)?;
        let name = spec.name.clone();
        new.spec.disks.push(spec);
        Ok((vm_disk::order("vm.disk_add", old, &name, None), new))
    })
    .await
}

/// Grows a disk, or sets its limits anew.
///
/// # Errors
/// `forbidden`, `not_found`, `invalid`, `no_capacity`, `wrong_state`, `busy`.
pub async fn update(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    disk: &Name,
    request: &DiskUpdate,
    options: &Options,
) -> Result<Arc<Task>, ServiceError> {
    change(world, actor, options, "vm.disk_change", vm, &(disk, request), |snapshot, old| {
        let mut new = Vm::clone(old);
        let found = plugged(&mut new, disk)?;
        if let Some(size) = request.size {
            if size < found.size {
                let reason = format!(
                    "disk `{disk}` has {} and does not shrink: what lies at its end would be lost",
                    found.size
                );
                return Err(ServiceError::invalid("size", reason));
            }
            room(snapshot, old, ByteSize(size.bytes() - found.size.bytes()))?;
            found.size = size;
        }
        if let Some(limits) = request.limits {
            found.limits = limits;
        }
        let grow = request.grow_file_system.then(|| Grow { disk: disk.clone() });
        if grow.is_some() && !old.status.power.is_live() {
            let message =
                format!("vm `{}` does not run, so nobody grows its file system", old.name());
            return Err(ServiceError::conflict("wrong_state", message)
                .hint("leave it out: most guests grow their file system when they boot"));
        }
        Ok((vm_disk::order("vm.disk_change", old, disk, grow), new))
    })
    .await
}

/// Unplugs a disk; it stays the VM's. One that the guest says it uses, such as a mounted one, stays
/// plugged in but with `force`.
///
/// # Errors
/// `forbidden`, `not_found`, `wrong_state`, `busy`.
pub async fn detach(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    disk: &Name,
    force: bool,
    options: &Options,
) -> Result<Arc<Task>, ServiceError> {
    change(world, actor, options, "vm.disk_detach", vm, &(disk, force), |_, old| {
        let mut new = Vm::clone(old);
        plugged(&mut new, disk)?;
        take_out(&mut new, disk);
        Ok((vm_disk::order_detach(old, disk, force), new))
    })
    .await
}

/// Plugs a detached disk in again.
///
/// # Errors
/// `forbidden`, `not_found`, `wrong_state`, `busy`.
pub async fn attach(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    disk: &Name,
    options: &Options,
) -> Result<Arc<Task>, ServiceError> {
    change(world, actor, options, "vm.disk_attach", vm, disk, |_, old| {
        let mut new = Vm::clone(old);
        let Some(at) = new.spec.detached.iter().position(|known| known.name == *disk) else {
            plugged(&mut new, disk)?;
            let message = format!("disk `{disk}` of vm `{}` is attached already", old.name());
            return Err(ServiceError::conflict("wrong_state", message));
        };
        let found = new.spec.detached.remove(at);
        new.spec.disks.push(found);
        Ok((vm_disk::order("vm.disk_attach", old, disk, None), new))
    })
    .await
}

/// Takes a detached disk of another VM, which does not have it from then on, and plugs it in; as `name`,
/// or as it is called there.
///
/// # Errors
/// `forbidden`, `not_found`, `invalid`, `name_taken`, `in_use`, `protected`, `wrong_state`, `busy`.
pub async fn take(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    disk: &Name,
    taking: &DiskTake,
    options: &Options,
) -> Result<Arc<Task>, ServiceError> {
    let request = (disk, taking);
    change(world, actor, options, "vm.disk_take", vm, &request, |snapshot, old| {
        let lender = snapshot.find::<VmKind>(&taking.from)?;
        let name = taking.name.as_ref().unwrap_or(disk);
        require_other(snapshot, old, lender)?;
        require_not_recycled(lender)?;
        require_idle(snapshot, lender)?;
        require_free(old, name)?;
        require_leaves(snapshot, lender, disk)?;
        require_not_beneath(old, lender, disk)?;
        let (mut new, mut without) = (Vm::clone(old), Vm::clone(lender));
        let found = without.spec.detached.iter().position(|known| known.name == *disk);
        let Some(at) = found else {
            plugged(&mut without, disk)?;
            let (name, host) = (lender.name(), old.name());
            let message = format!("disk `{disk}` of vm `{name}` is attached there");
            return Err(ServiceError::conflict("wrong_state", message).hint(format!(
                "first run `hostler vm disk detach {name} {disk}`; vm `{host}` gets it then"
            )));
        };
        let spec = without.spec.detached.remove(at);
        new.spec.disks.push(DiskSpec { name: name.clone(), ..spec });
        let order = vm_disk_take::order(old, name, lender, disk);
        Ok((order.with(Write::update(&without)), new))
    })
    .await
}

/// A disk's file does not leave its host and datastore.
fn require_other(snapshot: &Snapshot, vm: &Vm, lender: &Vm) -> Result<(), ServiceError> {
    let name = vm.name();
    if vm.id() == lender.id() {
        let message = format!("vm `{name}` has its own disks");
        return Err(ServiceError::invalid("from", message)
            .hint("leave out --from to attach a disk that it has detached"));
    }
    if vm.status.datastore != lender.status.datastore {
        let called = |id| snapshot.get::<DatastoreKind>(id).map(|found| found.name().to_string());
        let theirs = called(lender.status.datastore).unwrap_or_default();
        let own = called(vm.status.datastore).unwrap_or_default();
        let message = format!(
            "vm `{}` lies on the datastore `{theirs}` and vm `{name}` on `{own}`: a disk changes \
             between VMs of one datastore",
            lender.name()
        );
        return Err(ServiceError::conflict("wrong_state", message)
            .hint("attach a new disk, and copy what is on the old one in the guests"));
    }
    if vm.status.host != lender.status.host {
        let called = |id| snapshot.get::<HostKind>(id).map(|found| found.name().to_string());
        let theirs = called(lender.status.host).unwrap_or_default();
        let own = called(vm.status.host).unwrap_or_default();
        let message = format!(
            "vm `{}` is on the host `{theirs}` and vm `{name}` on `{own}`: a disk changes between \
             VMs of one host",
            lender.name()
        );
        return Err(ServiceError::conflict("wrong_state", message).hint(
            "bring one of them to the other's host first, with `hostler vm unregister` and `register`",
        ));
    }
    Ok(())
}

/// The name is free, also in the VM's snapshots: going back to one gives the VM its disks of then.
fn require_free(vm: &Vm, disk: &Name) -> Result<(), ServiceError> {
    let taken = |message| {
        Err(ServiceError::conflict("name_taken", message).hint("choose another name with --name"))
    };
    let name = vm.name();
    if vm.spec.own_disks().any(|known| known.name == *disk) {
        return taken(format!("vm `{name}` has a disk `{disk}` already"));
    }
    match holding(vm, disk) {
        Some(holder) => taken(format!(
            "the snapshot `{}` of vm `{name}` holds another disk `{disk}`",
            holder.name
        )),
        None => Ok(()),
    }
}

/// Nothing of its VM, and nobody else, needs the disk where it is.
fn require_leaves(snapshot: &Snapshot, lender: &Vm, disk: &Name) -> Result<(), ServiceError> {
    let name = lender.name();
    if lender.spec.protected {
        let message = format!("vm `{name}` is protected, and its disks with it");
        return Err(ServiceError::conflict("protected", message)
            .hint(format!("first run `hostler vm set {name} --no-protect`")));
    }
    if let Some(holder) = holding(lender, disk) {
        let snapshot = &holder.name;
        let message = format!("disk `{disk}` of vm `{name}` is part of its snapshot `{snapshot}`");
        return Err(ServiceError::conflict("in_use", message)
            .hint(format!("first run `hostler vm snapshot delete {name} {snapshot}`")));
    }
    require_disk_unused(snapshot, lender, disk)?;
    if own_files(lender, disk).len() > 1 {
        let message = format!("disk `{disk}` of vm `{name}` is made of several files");
        return Err(ServiceError::conflict("in_use", message)
            .hint(format!("merge them with `hostler vm snapshot consolidate {name}`")));
    }
    Ok(())
}

/// A disk that lies on a disk of the VM that is to get it would be one with it.
fn require_not_beneath(vm: &Vm, lender: &Vm, disk: &Name) -> Result<(), ServiceError> {
    let status = lender.status.disks.iter().filter(|status| status.name == *disk);
    let mut files = status.flat_map(|status| &status.layers).map(|layer| &layer.file);
    if files.all(|file| file.owner() != LayerOwner::Vm(vm.id())) {
        return Ok(());
    }
    let (from, to) = (lender.name(), vm.name());
    let message = format!("disk `{disk}` of vm `{from}` lies on a disk of vm `{to}` itself");
    Err(ServiceError::conflict("in_use", message).hint(format!(
        "make it independent first: `hostler vm disk attach {from} {disk}`, `hostler vm flatten \
         {from} --disk {disk}`, and detach it again"
    )))
}

/// A snapshot that has a disk of this name.
fn holding<'a>(vm: &'a Vm, disk: &Name) -> Option<&'a TakenSnapshot> {
    let has = |taken: &&TakenSnapshot| taken.disks.iter().any(|held| held.name == *disk);
    vm.status.snapshots.snapshots.iter().find(has)
}

/// Unplugs a disk, if it is plugged in, as [`detach`] does, and deletes its data.
///
/// # Errors
/// `forbidden`, `not_found`, `confirmation_needed`, `protected`, `in_use`, `wrong_state`, `busy`.
pub async fn remove(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    disk: &Name,
    removal: Removal,
    options: &Options,
) -> Result<Arc<Task>, ServiceError> {
    let request = (disk, removal);
    change(world, actor, options, "vm.disk_remove", vm, &request, |snapshot, old| {
        let mut new = Vm::clone(old);
        if old.spec.detached.iter().all(|known| known.name != *disk) {
            plugged(&mut new, disk)?;
        }
        if !removal.delete_data {
            let message = format!(
                "removing disk `{disk}` of vm `{}` deletes what is on it, for good",
                old.name()
            );
            return Err(ServiceError::conflict("confirmation_needed", message).hint(
                "say so with `--delete-data` (in the API: `delete_data`), or detach it and keep it",
            ));
        }
        if old.spec.protected {
            let message = format!("vm `{}` is protected, and its disks with it", old.name());
            return Err(ServiceError::conflict("protected", message)
                .hint(format!("first run `hostler vm set {} --no-protect`", old.name())));
        }
        require_disk_unused(snapshot, old, disk)?;
        require_single_file(old, disk)?;
        take_out(&mut new, disk);
        Ok((vm_disk::order_remove(old, disk, removal.force), new))
    })
    .await
}

/// Orders a change of one VM's disks. `plan` makes the order and the VM as it is to be.
async fn change(
    world: &World,
    actor: &Actor,
    options: &Options,
    action: &'static str,
    reference: &Ref,
    request: &impl Serialize,
    plan: impl Fn(&Snapshot, &Arc<Vm>) -> Result<(Order, Vm), ServiceError>,
) -> Result<Arc<Task>, ServiceError> {
    authorize(actor, Role::Operator, "change VMs")?;
    order(world, actor, options, action, &(reference, request), |snapshot| {
        let old = snapshot.find::<VmKind>(reference)?;
        require_not_recycled(old)?;
        require_idle(snapshot, old)?;
        require_host(snapshot, old)?;
        let (mut order, new) = plan(snapshot, old)?;
        require_changeable(old, &new)?;
        validate(&new.spec)?;
        order.writes.push(Write::update(&new));
        order.writes.extend(images(&new).map(|i| Write::ExpectUnlocked { object: i.untyped() }));
        Ok(order)
    })
    .await
}

fn plugged<'a>(vm: &'a mut Vm, disk: &Name) -> Result<&'a mut DiskSpec, ServiceError> {
    let name = vm.name().clone();
    let detached = vm.spec.detached.iter().any(|known| known.name == *disk);
    let names: Vec<_> = vm.spec.own_disks().map(|disk| disk.name.to_string()).collect();
    let found = vm.spec.disks.iter_mut().find(|known| known.name == *disk);
    found.ok_or_else(|| {
        if detached {
            let message = format!("disk `{disk}` of vm `{name}` is detached");
            return ServiceError::conflict("wrong_state", message)
                .hint(format!("`hostler vm disk attach {name} {disk}`"));
        }
        let message = format!("vm `{name}` has no disk `{disk}`");
        let has = if names.is_empty() { "no disk at all".to_owned() } else { names.join(", ") };
        ServiceError::new(Class::NotFound, "not_found", message).hint(format!("it has {has}"))
    })
}

/// From the plugged-in disks to the detached ones.
fn take_out(vm: &mut Vm, disk: &Name) {
    if let Some(at) = vm.spec.disks.iter().position(|known| known.name == *disk) {
        let found = vm.spec.disks.remove(at);
        vm.spec.detached.push(found);
    }
}

/// A disk of several files of the VM has states of its own (snapshots), which would be lost with it.
fn require_single_file(vm: &Vm, disk: &Name) -> Result<(), ServiceError> {
    if own_files(vm, disk).len() <= 1 {
        return Ok(());
    }
    let message = format!("disk `{disk}` of vm `{}` is part of snapshots", vm.name());
    Err(ServiceError::conflict("in_use", message).hint("delete the snapshots first, or detach it"))
}

fn room(snapshot: &Snapshot, vm: &Vm, more: ByteSize) -> Result<(), ServiceError> {
    let datastore = snapshot.find::<DatastoreKind>(&Ref::by_id(vm.status.datastore))?;
    require_room(snapshot, datastore, &[more]).map(drop)
}

fn numbered(number: usize) -> Name {
    format!("disk{number}").parse().expect("letters and digits are a name")
}
