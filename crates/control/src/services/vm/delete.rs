//! Deleting VMs: into the recycle bin first, for good from there, and back.
//!
//! ```text
//!  a VM -- delete --> in the recycle bin -- its time is over, or purge --> gone
//!   ^ |                     |                                               ^
//!   | +---------------------|---------- delete, now ------------------------+
//!   +------ undelete -------+
//! ```
//!
//! In the bin a VM keeps id, disks and MAC addresses, so nothing of it is given to anyone else. Its
//! name is free at once. Every other service refuses it there (`require_idle`).

use std::net::IpAddr;
use std::sync::Arc;

use hostler_types::{
    CopySource, DeletionPlan, Dependent, DiskSource, DiskSpec, KindName, LayerFile, LayerOwner,
    Name, NetworkKind, PlannedDisk, PlannedNic, Recycled, Ref, Role, Task, Vm, VmKind,
};
use jiff::Timestamp;
use serde::Serialize;

use super::create::name_taken;
use super::files::expect;
use super::{require_free, require_host};
use crate::actor::{Actor, authorize};
use crate::error::ServiceError;
use crate::inventory::Snapshot;
use crate::placement;
use crate::services::submit::{Order, order};
use crate::services::{Options, Page, PageRequest, page};
use crate::tasks::{vm_delete, vm_recycle, vm_undelete};
use crate::world::World;

/// How a VM is to be deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct VmDelete {
    /// Also when it runs: its plug is pulled.
    pub force: bool,
    /// Also when it runs: it is stopped gracefully, within so many seconds, 1 to 86,400.
    pub stop: Option<u32>,
    /// Not into the recycle bin: for good.
    pub now: bool,
}

/// What deleting a VM would do, and why it would be refused.
///
/// # Errors
/// `forbidden`, `not_found`.
pub fn deletion_plan(world: &World, actor: &Actor, vm: &Ref) -> Result<DeletionPlan, ServiceError> {
    authorize(actor, Role::Viewer, "see what deleting a VM would do")?;
    let snapshot = world.snapshot();
    let vm = find(&snapshot, vm)?;
    let disks = vm.spec.own_disks().map(|disk| PlannedDisk {
        name: disk.name.clone(),
        size: disk.size,
        allocated: (vm.status.disks.iter())
            .find(|told| told.name == disk.name)
            .map(|told| told.allocated),
    });
    let nics = vm.spec.nics.iter().filter_map(|nic| {
        Some(PlannedNic {
            name: nic.name.clone(),
            network: snapshot.get::<NetworkKind>(nic.network)?.name().clone(),
            mac: nic.mac,
            address: reserved(vm, &nic.name),
        })
    });
    let recycled = vm.spec.recycled.as_ref();
    Ok(DeletionPlan {
        vm: vm.id(),
        name: vm.called().clone(),
        power: vm.status.power,
        disks: disks.collect(),
        nics: nics.collect(),
        labels: vm.metadata.labels.clone(),
        kept_until: match recycled {
            Some(_) => None,
            None => Some(Timestamp::now() + world.settings.retention),
        },
        used_by: dependents(&snapshot, vm),
        refused: require_deletable(&snapshot, vm).err().map(|error| error.message),
    })
}

fn reserved(vm: &Vm, nic: &Name) -> Option<IpAddr> {
    vm.status.nics.iter().find(|told| told.name == *nic)?.reserved
}

/// Deletes a VM: into the recycle bin, or for good (`now`, and when it is in the bin already). A
/// running one only if it is to be stopped or forced; a protected one never.
///
/// # Errors
/// `forbidden`, `invalid`, `not_found`, `protected`, `in_use`, `wrong_state`, `busy`.
pub async fn delete(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    request: VmDelete,
    options: &Options,
) -> Result<Arc<Task>, ServiceError> {
    authorize(actor, Role::Operator, "delete VMs")?;
    if request.stop.is_some_and(|seconds| !(1..=86_400).contains(&seconds)) {
        let reason = "a graceful stop may take 1 to 86400 seconds";
        return Err(ServiceError::invalid("timeout_seconds", reason));
    }
    order(world, actor, options, "vm.delete", &(vm, request), |snapshot| {
        let vm = find(snapshot, vm)?;
        require_deletable(snapshot, vm)?;
        require_free(snapshot, vm)?;
        require_host(snapshot, vm)?;
        let live = vm.status.power.is_live();
        if live && !request.force && request.stop.is_none() {
            let message = format!("vm `{}` is {} and is not deleted", vm.name(), vm.status.power);
            return Err(ServiceError::conflict("wrong_state", message).hint(
                "let it be stopped first with `--stop`, or force the deletion, which pulls its plug",
            ));
        }
        let down = live.then(|| vm_recycle::Down::new(request.force, request.stop));
        let mut order = if request.now || vm.is_recycled() {
            vm_delete::order(vm, down)
        } else {
            let at = Timestamp::now();
            let until = at + world.settings.retention;
            let name = vm.name().clone();
            vm_recycle::order(vm, down, Recycled { name, at, until, by: actor.name.clone() })
        };
        // Protection and power may change until the lock is there; the revision tells.
        order.writes.push(expect(vm));
        Ok(order)
    })
    .await
}

/// Takes a VM out of the recycle bin, under the name it had or another one.
///
/// # Errors
/// `forbidden`, `not_found`, `ambiguous`, `name_taken`, `busy`.
pub async fn undelete(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    name: Option<&Name>,
    options: &Options,
) -> Result<Arc<Task>, ServiceError> {
    authorize(actor, Role::Operator, "undelete VMs")?;
    let mut placing = world.placing();
    order(world, actor, options, "vm.undelete", &(vm, name), |snapshot| {
        let vm = find_recycled(snapshot, vm)?;
        require_free(snapshot, vm)?;
        require_host(snapshot, vm)?;
        let name = name.unwrap_or(vm.called());
        if snapshot.all::<VmKind>().get_by_name(name).is_some() {
            return Err(name_taken(name).hint("take it out under another name with `--name`"));
        }
        placing.release();
        // Its files are where they are: that host must have room for it, and no rule against it.
        let mut wish =
            placement::wish(snapshot, vm.id(), name.as_str(), &vm.metadata.labels, &vm.spec);
        wish = placement::at_rest(wish);
        wish.wanted = Some(vm.status.host);
        (wish.datastore, wish.disks) = (Some(vm.status.datastore), Vec::new());
        let decided = placing.place(vec![wish])?;
        let mut order = vm_undelete::order(vm, name);
        order.writes.extend(decided.writes("vm.undelete"));
        Ok(order)
    })
    .await
}

/// What is in the recycle bin, in the order of names.
///
/// # Errors
/// `forbidden`, `invalid` paging.
pub fn recycled(
    world: &World,
    actor: &Actor,
    request: &PageRequest,
) -> Result<Page<Vm>, ServiceError> {
    authorize(actor, Role::Viewer, "look into the recycle bin")?;
    page::<VmKind>(&world.snapshot(), request, Vm::is_recycled)
}

/// Deletes a VM that is in the recycle bin for good.
///
/// # Errors
/// `forbidden`, `not_found`, `ambiguous`, `in_use`, `busy`.
pub async fn purge(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    options: &Options,
) -> Result<Arc<Task>, ServiceError> {
    authorize(actor, Role::Operator, "empty the recycle bin")?;
    order(world, actor, options, "vm.purge", &vm, |snapshot| purge_order(snapshot, vm)).await
}

fn purge_order(snapshot: &Snapshot, vm: &Ref) -> Result<Order, ServiceError> {
    let vm = find_recycled(snapshot, vm)?;
    require_deletable(snapshot, vm)?;
    require_free(snapshot, vm)?;
    require_host(snapshot, vm)?;
    let mut order = vm_delete::order(vm, None);
    order.writes.push(expect(vm));
    Ok(order)
}

/// The VMs whose disks need a disk of this one, as their hosts have told; those in the recycle bin
/// too.
pub(crate) fn dependents(snapshot: &Snapshot, vm: &Vm) -> Vec<Dependent> {
    dependents_on(snapshot, vm, |file| file.owner() == LayerOwner::Vm(vm.id()))
}

/// As [`dependents`], of those files of the VM that `lent` names.
fn dependents_on(
    snapshot: &Snapshot,
    vm: &Vm,
    lent: impl Fn(&LayerFile) -> bool,
) -> Vec<Dependent> {
    let others = snapshot.all::<VmKind>().iter().filter(|other| other.id() != vm.id());
    let found = others.filter_map(|other| {
        let whose = called(snapshot, vm);
        if let Some(disk) = awaiting(other, &lent) {
            let reason = format!("its disk {disk} is just being made of a disk of `{whose}`");
            return Some(Dependent { vm: other.id(), name: other.called().clone(), reason });
        }
        let what = leaning(other, &lent)?;
        let place = if other.is_recycled() { ", in the recycle bin" } else { "" };
        let reason = format!("its {what} lies on a disk of `{whose}`{place}");
        Some(Dependent { vm: other.id(), name: other.called().clone(), reason })
    });
    found.collect()
}

/// A disk of a VM in the making that is to be made of a `lent` file; its host has told nothing of it
/// yet.
fn awaiting(other: &Vm, lent: impl Fn(&LayerFile) -> bool) -> Option<&Name> {
    if !other.status.disks.is_empty() {
        return None;
    }
    let needs = |disk: &&DiskSpec| match &disk.source {
        DiskSource::Linked(file) | DiskSource::Copy(CopySource { file, .. }) => lent(file),
        DiskSource::Image(_) | DiskSource::Blank => false,
    };
    other.spec.own_disks().find(needs).map(|disk| &disk.name)
}

/// What of a VM needs a `lent` file: a disk, or a snapshot that it could go back to.
fn leaning(other: &Vm, lent: impl Fn(&LayerFile) -> bool) -> Option<String> {
    let disk = other.status.disks.iter().find(|disk| disk.layers.iter().any(|l| lent(&l.file)));
    if let Some(disk) = disk {
        return Some(format!("disk {}", disk.name));
    }
    let needs = |snapshot: &&hostler_types::Snapshot| {
        snapshot.disks.iter().any(|disk| disk.layers.iter().any(&lent))
    };
    let snapshot = other.status.snapshots.snapshots.iter().find(needs)?;
    Some(format!("snapshot {}", snapshot.name))
}

/// What people call it, be it a VM or a version of a template.
fn called(snapshot: &Snapshot, vm: &Vm) -> String {
    let version = vm.spec.template.as_ref();
    let template = version.and_then(|of| Some((snapshot.get(of.template)?, of.version)));
    match template {
        Some((template, version)) => format!("{}:{version}", template.name()),
        None => vm.called().to_string(),
    }
}

/// Refuses to delete what is protected, needed, or no VM.
pub(crate) fn require_deletable(snapshot: &Snapshot, vm: &Vm) -> Result<(), ServiceError> {
    require_no_template(vm)?;
    if vm.spec.protected {
        let message =
            format!("vm `{}` is protected and is not deleted, not even by force", vm.called());
        return Err(ServiceError::conflict("protected", message)
            .hint(format!("first run `hostler vm set {} --no-protect`", vm.called())));
    }
    require_unused(snapshot, vm)
}

/// Refuses what others' disks lie on, and names them.
pub(crate) fn require_unused(snapshot: &Snapshot, vm: &Vm) -> Result<(), ServiceError> {
    let what = if vm.is_template() { "template" } else { "vm" };
    let what = format!("{what} `{}`", called(snapshot, vm));
    require_nobody(&what, &dependents(snapshot, vm))
}

/// Refuses a disk that others' disks lie on, and names them.
pub(crate) fn require_disk_unused(
    snapshot: &Snapshot,
    vm: &Vm,
    disk: &Name,
) -> Result<(), ServiceError> {
    let files = own_files(vm, disk);
    let what = format!("disk `{disk}` of vm `{}`", vm.called());
    require_nobody(&what, &dependents_on(snapshot, vm, |file| files.contains(&file)))
}

/// Refuses to write to a file of the VM that others' disks lie on, and names them.
pub(crate) fn require_file_unused(
    snapshot: &Snapshot,
    vm: &Vm,
    disk: &Name,
    file: &LayerFile,
) -> Result<(), ServiceError> {
    let what = format!("disk `{disk}` of vm `{}`", vm.called());
    require_nobody(&what, &dependents_on(snapshot, vm, |lent| lent == file))
}

/// The files of a disk that are the VM's own, as its host has told.
pub(crate) fn own_files<'a>(vm: &'a Vm, disk: &Name) -> Vec<&'a LayerFile> {
    let status = vm.status.disks.iter().filter(|status| status.name == *disk);
    let files = status.flat_map(|status| &status.layers).map(|layer| &layer.file);
    files.filter(|file| file.owner() == LayerOwner::Vm(vm.id())).collect()
}

fn require_nobody(what: &str, users: &[Dependent]) -> Result<(), ServiceError> {
    if users.is_empty() {
        return Ok(());
    }
    let users: Vec<_> =
        users.iter().map(|user| format!("`{}` ({})", user.name, user.reason)).collect();
    let message = format!("{what} is needed by {}", listed(&users));
    Err(ServiceError::conflict("in_use", message)
        .hint("delete these VMs first, or make them independent with `hostler vm flatten`"))
}

/// A VM by name or id, or one in the recycle bin by its id.
pub(super) fn find<'a>(
    snapshot: &'a Snapshot,
    reference: &Ref,
) -> Result<&'a Arc<Vm>, ServiceError> {
    let found = snapshot.find::<VmKind>(reference);
    found.map_err(|error| match find_recycled(snapshot, reference) {
        Ok(vm) => error.hint(format!(
            "it is in the recycle bin: `hostler vm undelete {0}` or `hostler recycle-bin empty {0}`",
            vm.called()
        )),
        Err(_) => error,
    })
}

/// A VM in the recycle bin, by the name it had, the one it has there, or its id.
fn find_recycled<'a>(snapshot: &'a Snapshot, reference: &Ref) -> Result<&'a Arc<Vm>, ServiceError> {
    let all = snapshot.all::<VmKind>();
    let not_found = || {
        ServiceError::new(
            crate::error::Class::NotFound,
            "not_found",
            format!("there is no {} `{reference}` in the recycle bin", KindName::Vm),
        )
        .hint("see `hostler recycle-bin list`")
    };
    let name = match reference {
        Ref::Id(_) => {
            let found = snapshot.find::<VmKind>(reference).ok();
            return found.filter(|vm| vm.is_recycled()).ok_or_else(not_found);
        }
        Ref::Name(name) => name,
    };
    let matching: Vec<_> = all
        .iter()
        .filter(|vm| vm.is_recycled() && (vm.called() == name || vm.name() == name))
        .collect();
    match matching.as_slice() {
        [] => Err(not_found()),
        [one] => Ok(one),
        several => {
            let ids: Vec<_> = several.iter().map(|vm| vm.id().to_string()).collect();
            let message = format!("{} VMs in the recycle bin were called `{name}`", several.len());
            Err(ServiceError::conflict("ambiguous", message)
                .hint(format!("say which by its id: {}", ids.join(", "))))
        }
    }
}

fn require_no_template(vm: &Vm) -> Result<(), ServiceError> {
    let Some(version) = &vm.spec.template else { return Ok(()) };
    let message = format!(
        "this is version {} of a template, made from vm `{}`, and no VM",
        version.version, version.name
    );
    Err(ServiceError::conflict("template", message).hint("see `hostler template --help`"))
}

/// Refuses what is no VM now: in the recycle bin, or a template.
pub(super) fn require_not_recycled(vm: &Vm) -> Result<(), ServiceError> {
    require_no_template(vm)?;
    if !vm.is_recycled() {
        return Ok(());
    }
    let name = vm.called();
    Err(ServiceError::conflict("recycled", format!("vm `{name}` is in the recycle bin"))
        .hint(format!("take it out first with `hostler vm undelete {name}`")))
}

/// VMs as they are named to people who may not know of the recycle bin: the first five.
pub(crate) fn told_names(vms: &[&Arc<Vm>]) -> String {
    let told = |vm: &&Arc<Vm>| {
        let place = match (vm.is_recycled(), vm.is_template()) {
            (true, _) => " (in the recycle bin)",
            (_, true) => " (a template)",
            _ => "",
        };
        format!("`{}`{place}", vm.called())
    };
    let mut names: Vec<_> = vms.iter().map(told).collect();
    names.sort_unstable();
    listed(&names)
}

/// The first five, and how many more there are.
fn listed(texts: &[String]) -> String {
    let more = texts.len().saturating_sub(5);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let shown: Vec<_> = texts.iter().take(5).map(String::as_str).collect();
    shown.join(", ") + &more
}

#[cfg(test)]
mod tests {
    use hostler_store::Record;
    use hostler_types::{LayerFile, Revision, VmId};
    use serde_json::json;

    use super::*;

    fn vm(name: &str, id: VmId, layers: &[LayerFile]) -> Vm {
        let layers: Vec<_> =
            layers.iter().map(|file| json!({"file": file, "allocated": "1MiB"})).collect();
        let spec = json!({"cpus": 1, "memory": "1GiB", "disks": []});
        let status = json!({
            "power": "stopped", "power_since": Timestamp::UNIX_EPOCH,
            "host": VmId::generate(), "epoch": 1, "datastore": VmId::generate(),
            "disks": [{"name": "disk0", "allocated": "1MiB", "layers": layers}],
        });
        let spec = serde_json::from_value(spec).unwrap();
        let status = serde_json::from_value(status).unwrap();
        let (name, labels) = (name.parse().unwrap(), hostler_types::Labels::new());
        let mut vm = Vm::new(name, labels, Timestamp::UNIX_EPOCH, spec, status);
        vm.metadata.id = id;
        vm
    }

    #[test]
    fn a_vm_whose_disk_others_need_is_not_deleted() {
        let (parent, child) = (VmId::generate(), VmId::generate());
        let disk = |vm| LayerFile::disk(vm, &"disk0".parse().unwrap(), 0);
        let (own, lent) = (disk(parent), disk(child));
        let parent = vm("parent", parent, std::slice::from_ref(&own));
        let child = vm("child", child, &[lent, own]);
        let records = vec![Record::from_object(&parent), Record::from_object(&child)];
        let stored = hostler_store::Snapshot { revision: Revision(1), records };
        let snapshot = Snapshot::load(stored).unwrap();
        let error = require_deletable(&snapshot, &parent).unwrap_err();
        assert_eq!(error.code, "in_use");
        assert_eq!(
            error.message,
            "vm `parent` is needed by `child` (its disk disk0 lies on a disk of `parent`)"
        );
        require_deletable(&snapshot, &child).unwrap();
    }
}
