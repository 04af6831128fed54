//! What tests outside of this crate need to run a task by itself, without services. Not for use.

use std::path::Path;
use std::sync::Arc;

use hostler_pki::Vault;
use hostler_store::{Store, StoreError, Write};
use hostler_tasks::{Registry, Submit};
use hostler_types::{
    HostId, Image, Name, Object, PowerState, Recycled, Request, RequestState, Snapshot, SnapshotId,
    StopMode, Template, VersionOf, Vm,
};
use jiff::Timestamp;

use crate::agents::Connector;
use crate::services::Order;
use crate::tasks;
use crate::world::{Core, Settings};

pub fn registry() -> Registry<Core> {
    tasks::registry()
}

/// # Errors
/// The store cannot be read.
pub async fn core(
    store: Arc<dyn Store>,
    connector: Arc<dyn Connector>,
) -> Result<Arc<Core>, StoreError> {
    Core::open(store, connector, Arc::new(vault()), Settings::default()).await
}

/// A vault with a key that everyone knows.
///
/// # Panics
/// Never.
pub fn vault() -> Vault {
    let line = format!("test {}=\n", "A".repeat(43));
    Vault::from_text(Path::new("/nowhere"), &line).expect("it is a key")
}

fn submit(order: Order) -> Submit {
    order.submit("tester")
}

pub fn vm_create(vm: &Vm, start: bool) -> Submit {
    submit(tasks::vm_create::order(vm, start).with(Write::create(vm)))
}
/// One clone, which `clone` is to be.
pub fn vm_clone(parent: &Vm, clone: &Vm, hold: bool) -> Submit {
    let cloning = tasks::vm_clone::Cloning {
        parent: parent.id(),
        vms: vec![clone.id()],
        at: None,
        hold: hold.then(hostler_types::SnapshotId::generate),
        start: false,
    };
    let order = tasks::vm_clone::order(std::slice::from_ref(clone), &cloning);
    submit(order.with(Write::create(clone)))
}
pub fn vm_flatten(vm: &Vm) -> Submit {
    submit(tasks::vm_flatten::order(vm, &crate::services::vm::VmFlatten::default()))
}
pub fn vm_register(vm: &Vm) -> Submit {
    submit(tasks::vm_register::order(vm).with(Write::create(vm)))
}
/// `vm` is as the host has it; its record gets another name.
///
/// # Panics
/// Never.
pub fn vm_register_from_host(vm: &Vm) -> Submit {
    let mut record = vm.clone();
    record.metadata.name = "web09".parse().expect("it is a name");
    record.status.epoch = hostler_types::Epoch(vm.status.epoch.0 + 1);
    submit(tasks::vm_register_from_host::order(vm, &record).with(Write::create(&record)))
}
/// Detaches a disk.
pub fn disk_detach(old: &Vm, new: &Vm, disk: &hostler_types::Name) -> Submit {
    submit(tasks::vm_disk::order_detach(old, disk, false).with(Write::update(new)))
}

/// Gives `disk` of a VM to another one, as `new` says.
pub fn disk_take(
    (old, new): (&Vm, &Vm),
    (lender, without): (&Vm, &Vm),
    disk: &hostler_types::Name,
) -> Submit {
    let order = tasks::vm_disk_take::order(old, disk, lender, disk);
    submit(order.with(Write::update(new)).with(Write::update(without)))
}

/// Removes a disk, which `new` has detached.
pub fn disk_remove(old: &Vm, new: &Vm, disk: &hostler_types::Name) -> Submit {
    submit(tasks::vm_disk::order_remove(old, disk, false).with(Write::update(new)))
}

pub fn vm_update(old: &Vm, new: &Vm) -> Submit {
    submit(tasks::vm_update::order(old).with(Write::update(new)))
}
pub fn vm_customize(old: &Vm, new: &Vm, reboot: bool) -> Submit {
    submit(tasks::vm_customize::order(old, reboot).with(Write::update(new)))
}
pub fn vm_start(vm: &Vm) -> Submit {
    submit(tasks::vm_start::order(vm))
}
pub fn vm_stop(vm: &Vm, mode: StopMode) -> Submit {
    submit(tasks::vm_stop::order(vm, mode, 10))
}
pub fn vm_reset(vm: &Vm) -> Submit {
    submit(tasks::vm_reset::order(vm))
}
pub fn vm_seal(vm: &Vm) -> Submit {
    submit(tasks::vm_seal::order(vm))
}
/// Makes a VM the first version of a new template.
pub fn template_create(vm: &Vm, template: &Template) -> Submit {
    let version = VersionOf {
        template: template.id(),
        version: 1,
        description: String::new(),
        name: vm.name().clone(),
        at: Timestamp::UNIX_EPOCH,
        by: "tester".to_owned(),
    };
    let order = tasks::template_create::order(vm, template, version, true);
    submit(order.with(Write::create(template)))
}
/// Makes a copy of a VM, which `version` is to be, the first version of a new template.
pub fn template_copy(vm: &Vm, version: Vm, template: &Template) -> Submit {
    let order = tasks::template_copy::order(vm, version, template, true);
    submit(order.with(Write::create(template)))
}
pub fn template_to_vm(vm: &Vm) -> Submit {
    let mut restored = vm.clone();
    restored.metadata.name = vm.called().clone();
    restored.spec.template = None;
    submit(tasks::template_to_vm::order(vm, &restored).with(Write::update(&restored)))
}
pub fn template_delete(template: &Template, versions: &[&Vm]) -> Submit {
    submit(tasks::template_delete::order(template, versions, true))
}
/// Moves a VM to a host.
pub fn vm_migrate(vm: &Vm, to: HostId) -> Submit {
    let input = tasks::vm_migrate::Input {
        vm: vm.id(),
        from: vm.status.host,
        to,
        epoch: vm.status.epoch,
        live: vm.status.power == PowerState::Running,
        max_bandwidth: None,
        downtime_ms: 300,
        policy: hostler_types::MigrationPolicy::default(),
    };
    submit(tasks::vm_migrate::order(vm, &input))
}
/// Moves a VM's files to another datastore.
pub fn vm_migrate_storage(vm: &Vm, to: hostler_types::DatastoreId) -> Submit {
    let input = tasks::vm_migrate_storage::Input {
        vm: vm.id(),
        from: vm.status.datastore,
        to,
        max_rate: None,
    };
    submit(tasks::vm_migrate_storage::order(vm, &input))
}
/// All that balancing recommends now.
///
/// # Panics
/// When it cannot be planned, or there is no cluster.
pub async fn drs_apply(core: &Core) -> Submit {
    let planned = crate::drs::plan(core, crate::drs::For::Balance).await.expect("a plan");
    let snapshot = core.snapshot();
    let cluster = snapshot.cluster().expect("a cluster");
    submit(tasks::drs_apply::order(cluster, &planned, &planned.all()))
}
pub fn host_maintenance(host: &hostler_types::Host) -> Submit {
    submit(tasks::host_maintenance::order(host, false))
}
/// The host's record says who comes back.
///
/// # Panics
/// When the host is not in the inventory.
pub fn host_bring_back(core: &Core, host: HostId) -> Submit {
    let snapshot = core.snapshot();
    let host = snapshot.get::<hostler_types::HostKind>(host).expect("the host");
    submit(tasks::host_bring_back::order(&snapshot, host))
}
pub fn vm_suspend(vm: &Vm) -> Submit {
    submit(tasks::vm_suspend::order(vm))
}
/// Takes a snapshot `new`.
pub fn vm_snapshot(vm: &Vm) -> Submit {
    let take = tasks::vm_snapshot::Take {
        snapshot: SnapshotId::generate(),
        name: name("new"),
        description: String::new(),
        by: "tester".to_owned(),
        memory: false,
        quiesce: false,
    };
    submit(tasks::vm_snapshot::order(vm, take))
}

/// Calls the VM's first snapshot `other`.
pub fn vm_snapshot_update(vm: &Vm) -> Submit {
    let words = tasks::vm_snapshot::Words { name: name("other"), description: "x".to_owned() };
    submit(tasks::vm_snapshot::order_update(vm, first(vm), words))
}

/// Goes back to the VM's first snapshot.
pub fn vm_revert(vm: &Vm) -> Submit {
    submit(tasks::vm_revert::order(vm, first(vm).id, None))
}

/// Deletes the VM's first snapshot.
pub fn vm_snapshot_delete(vm: &Vm) -> Submit {
    let snapshots = vec![first(vm).id];
    let deletion = tasks::vm_snapshot_delete::Deletion { snapshots, ..Default::default() };
    submit(tasks::vm_snapshot_delete::order(vm, deletion))
}

pub fn vm_consolidate(vm: &Vm) -> Submit {
    submit(tasks::vm_snapshot_delete::order_consolidate(vm, Default::default()))
}

fn first(vm: &Vm) -> &Snapshot {
    vm.status.snapshots.snapshots.first().expect("it has a snapshot")
}

fn name(text: &str) -> Name {
    text.parse().expect("it is a name")
}

/// With the clones' records.
pub fn vm_fork(parent: &Vm, clones: &[Vm]) -> Submit {
    let order = tasks::vm_fork::order(parent, clones);
    submit(clones.iter().fold(order, |order, clone| order.with(Write::create(clone))))
}

pub fn vm_export(vm: &Vm) -> Submit {
    submit(tasks::vm_export::order(vm))
}
pub fn vm_unregister(vm: &Vm) -> Submit {
    submit(tasks::vm_unregister::order(vm))
}
pub fn vm_delete(vm: &Vm, force: bool) -> Submit {
    submit(tasks::vm_delete::order(vm, down(force)))
}
pub fn vm_recycle(vm: &Vm, force: bool) -> Submit {
    let (at, until) = (Timestamp::UNIX_EPOCH, Timestamp::MAX);
    let recycled = Recycled { name: vm.name().clone(), at, until, by: "tester".to_owned() };
    submit(tasks::vm_recycle::order(vm, down(force), recycled))
}
pub fn vm_undelete(vm: &Vm) -> Submit {
    submit(tasks::vm_undelete::order(vm, vm.called()))
}
fn down(force: bool) -> Option<tasks::vm_recycle::Down> {
    force.then(|| tasks::vm_recycle::Down::new(true, None))
}
/// Of a request that is approved, and is stored with the task.
///
/// # Panics
/// When it is not approved.
pub fn request_provision(request: &Request) -> Submit {
    let submit = tasks::request_provision::submit(request, "tester");
    let mut submit = submit.expect("the request is approved");
    let mut begun = request.clone();
    begun.status.state = RequestState::Provisioning { task: submit.id };
    submit.writes = vec![Write::create(&begun)];
    submit
}
pub fn image_import(image: &Image) -> Submit {
    submit(tasks::image_import::order(image).with(Write::create(image)))
}
pub fn image_delete(image: &Object<hostler_types::ImageKind>) -> Submit {
    submit(tasks::image_delete::order(image))
}
/// Takes an image that lies on its datastore into the inventory.
pub fn image_adopt(image: &Image) -> Submit {
    submit(tasks::image_adopt::order(image).with(Write::create(image)))
}
/// Removes files that nobody owns.
pub fn datastore_clean(datastore: &hostler_types::Datastore, paths: &[String]) -> Submit {
    submit(tasks::datastore_clean::order(datastore, paths))
}
