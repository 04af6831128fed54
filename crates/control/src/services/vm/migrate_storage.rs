//! Moving a VM's files to another datastore of its host.
//!
//! Everything that would stop it is found before anything moves, and told at once, with what goes where.

use hostler_types::{
    ByteSize, Datastore, DatastoreKind, DiskStatus, HostKind, ImageKind, LayerOwner, Ref, Vm,
    VmKind,
};

use super::delete::{own_files, require_file_unused};
use super::files::expect;
use super::migrate::{Migration, VmMigrate, is_live};
use super::{require_host, require_idle};
use crate::actor::Actor;
use crate::error::ServiceError;
use crate::inventory::Snapshot;
use crate::services::Options;
use crate::services::datastore::require_room;
use crate::services::submit::{Ordered, Planned, order_with};
use crate::tasks::vm_migrate_storage::{self, Input};
use crate::world::World;

/// Moves a VM's files to another datastore of its host; its guest goes on running. Who may has been looked
/// at. A dry run tells which files go, and what is in the way.
///
/// # Errors
/// `not_found`, `invalid`, `wrong_state`, `not_movable`, `no_capacity`, `busy`, `host_disconnected`.
pub(super) async fn migrate_storage(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    request: &VmMigrate,
    options: &Options,
) -> Result<Migration, ServiceError> {
    let Some(wanted) = &request.datastore else {
        return Err(ServiceError::invalid("datastore", "it is needed"));
    };
    if request.max_bandwidth == Some(0) {
        let reason = "0 is no speed; leave it out for no limit";
        return Err(ServiceError::invalid("max_bandwidth", reason));
    }
    if request.downtime_ms.is_some() || request.policy.is_some() {
        let reason =
            "it is for a guest that goes to another host, and its files go to another datastore";
        let field = if request.downtime_ms.is_some() { "downtime_ms" } else { "policy" };
        return Err(ServiceError::invalid(field, reason).hint("leave it out"));
    }
    let ordered = order_with(world, actor, options, "vm.migrate", &(vm, request), |snapshot| {
        let vm = snapshot.find::<VmKind>(vm)?;
        require_idle(snapshot, vm)?;
        require_host(snapshot, vm)?;
        let live = is_live(vm)?;
        let datastore = snapshot.find::<DatastoreKind>(wanted)?;
        require_same_host(snapshot, vm, request)?;
        if datastore.id() == vm.status.datastore {
            let (name, store) = (vm.name(), datastore.name());
            let message = format!("vm `{name}` lies on datastore `{store}` already");
            return Err(ServiceError::conflict("wrong_state", message));
        }
        let explanation = plan(snapshot, vm, datastore, live)?;
        let input = Input {
            vm: vm.id(),
            from: vm.status.datastore,
            to: datastore.id(),
            max_rate: request.max_bandwidth,
        };
        let mut order = vm_migrate_storage::order(vm, &input);
        order.writes.push(expect(vm));
        let mut moved = Vm::clone(vm);
        moved.status.datastore = datastore.id();
        Ok(Planned { order, object: std::sync::Arc::new(moved), explanation })
    })
    .await?;
    let (task, explanation) = match ordered {
        Ordered::New(changed) => (changed.task, changed.explanation),
        Ordered::Before(task) => (Some(task), Vec::new()),
    };
    let snapshot = world.snapshot();
    let host = snapshot.find::<VmKind>(vm)?.status.host;
    let host = snapshot.find::<HostKind>(&Ref::by_id(host))?.name().clone();
    let datastore = Some(snapshot.find::<DatastoreKind>(wanted)?.name().clone());
    Ok(Migration { host, datastore, task, explanation })
}

fn require_same_host(
    snapshot: &Snapshot,
    vm: &Vm,
    request: &VmMigrate,
) -> Result<(), ServiceError> {
    let Some(wanted) = &request.host else { return Ok(()) };
    if snapshot.find::<HostKind>(wanted)?.id() == vm.status.host {
        return Ok(());
    }
    let reason = "a VM goes to another datastore of its host, or to another host that has its datastore, \
                  not both at once";
    Err(ServiceError::invalid("host", reason)
        .hint("first move it to a shared datastore, and then to the host"))
}

/// What goes where, in sentences.
///
/// # Errors
/// `not_movable`, with all that is in the way; `no_capacity`.
fn plan(
    snapshot: &Snapshot,
    vm: &Vm,
    datastore: &Datastore,
    live: bool,
) -> Result<Vec<String>, ServiceError> {
    let (name, store) = (vm.name(), datastore.name());
    let mut obstacles = Vec::new();
    if !datastore.spec.is_on(vm.status.host) {
        obstacles.push("it is not on the VM's host".to_owned());
    } else if !datastore.status.is_ready_on(&datastore.spec, vm.status.host) {
        obstacles.push("it is not mounted on the VM's host".to_owned());
    }
    for disk in vm.spec.own_disks() {
        for file in own_files(vm, &disk.name) {
            if let Err(error) = require_file_unused(snapshot, vm, &disk.name, file) {
                obstacles.push(error.message);
                break;
            }
        }
    }
    if !obstacles.is_empty() {
        let obstacles = obstacles.join("; ");
        let message = format!("vm `{name}` cannot go to datastore `{store}`: {obstacles}");
        return Err(ServiceError::conflict("not_movable", message));
    }
    let own: Vec<ByteSize> = vm.spec.own_disks().map(|disk| disk.size).collect();
    let warnings = require_room(snapshot, datastore, &own)?;
    let needed: u64 = vm.status.disks.iter().map(|disk| bytes(&disk.layers)).sum();
    let free = datastore.status.free;
    if needed > free.bytes() {
        let needed = ByteSize(needed);
        let message = format!(
            "the disks of vm `{name}` take {needed} at once; datastore `{store}` has {free} free"
        );
        return Err(ServiceError::new(crate::error::Class::NoCapacity, "no_capacity", message)
            .hint("choose another datastore, or make room"));
    }
    let from = snapshot.get::<DatastoreKind>(vm.status.datastore);
    let from = from.map_or_else(|| "its datastore".to_owned(), |from| format!("`{}`", from.name()));
    let total = ByteSize(needed);
    let mut told = vec![format!("{total} go from {from} to `{store}`, which has {free} free")];
    told.extend(vm.status.disks.iter().map(|disk| of_disk(snapshot, vm, disk)));
    let snapshots = vm.status.snapshots.snapshots.len();
    if snapshots > 0 {
        told.push(format!("snapshots stay what they are, and come along: {snapshots}"));
    }
    told.push(match live {
        true => "its guest goes on running, and stands still for a moment at the end".to_owned(),
        false => "it is off, and cannot be started until its files are there".to_owned(),
    });
    told.extend(warnings);
    Ok(told)
}

fn bytes(layers: &[hostler_types::Layer]) -> u64 {
    layers.iter().map(|layer| layer.allocated.bytes()).sum()
}

fn of_disk(snapshot: &Snapshot, vm: &Vm, disk: &DiskStatus) -> String {
    let own = LayerOwner::Vm(vm.id());
    let at = disk.layers.iter().take_while(|layer| layer.file.owner() == own).count();
    let (files, beneath) = disk.layers.split_at(at);
    let size = ByteSize(bytes(files));
    let files = match files.len() {
        1 => "1 file".to_owned(),
        count => format!("{count} files, one by one"),
    };
    let mut text = format!("disk `{}`: {files}, {size}", disk.name);
    if let Some(top) = beneath.first() {
        let whose = match top.file.owner() {
            LayerOwner::Vm(id) => match snapshot.get::<VmKind>(id) {
                Some(vm) => format!("vm `{}`", vm.called()),
                None => format!("the VM {id}"),
            },
            LayerOwner::Image(id) => match snapshot.get::<ImageKind>(id) {
                Some(image) => format!("image `{}`", image.name()),
                None => format!("the image {id}"),
            },
        };
        let size = ByteSize(bytes(beneath));
        text.push_str(&format!(
            "; what it shows of {whose}, which stays where it is, is copied into it: up to {size}"
        ));
    }
    text
}
