//! Secondary indexes of a snapshot: VMs by what they refer to, tasks by what they hold.

use hostler_types::{
    HostId, Id, ImageId, LayerFile, MacAddress, NetworkId, ObjectId, PoolId, Task, TaskId, Vm, VmId,
};
use jiff::Timestamp;
use uuid::Uuid;

use super::addresses::Addresses;
use super::hostnames::Hostnames;
use crate::idempotency::request_key;
use crate::tasks::vm_migrate;

#[derive(Debug, Clone, Default)]
pub(super) struct Indexes {
    host: imbl::OrdSet<(HostId, VmId)>,
    image: imbl::OrdSet<(ImageId, VmId)>,
    network: imbl::OrdSet<(NetworkId, VmId)>,
    mac: imbl::OrdSet<(MacAddress, VmId)>,
    pool: imbl::OrdSet<(PoolId, VmId)>,
    reserving: imbl::OrdSet<VmId>,
    deadline: imbl::OrdSet<(Timestamp, VmId)>,
    snapshots: imbl::OrdSet<VmId>,
    task: imbl::HashMap<ObjectId, TaskId>,
    key: imbl::HashMap<String, TaskId>,
    migrating: imbl::OrdSet<TaskId>,
    pub(super) addresses: Addresses,
    pub(super) hostnames: Hostnames,
}

impl Indexes {
    pub(super) fn by_host(&self, host: HostId) -> impl Iterator<Item = VmId> {
        vms_of(&self.host, host)
    }

    pub(super) fn by_image(&self, image: ImageId) -> impl Iterator<Item = VmId> {
        vms_of(&self.image, image)
    }

    pub(super) fn by_network(&self, network: NetworkId) -> impl Iterator<Item = VmId> {
        vms_of(&self.network, network)
    }

    pub(super) fn by_mac(&self, mac: MacAddress) -> Option<VmId> {
        vms_of(&self.mac, mac).next()
    }

    pub(super) fn by_pool(&self, pool: PoolId) -> impl Iterator<Item = VmId> {
        vms_of(&self.pool, pool)
    }

    /// Those for which something is set aside while they run.
    pub(super) fn reserving(&self) -> impl Iterator<Item = VmId> {
        self.reserving.iter().copied()
    }

    /// In the order of their deadlines.
    pub(super) fn by_deadline(&self) -> impl Iterator<Item = (Timestamp, VmId)> {
        self.deadline.iter().copied()
    }

    /// The first deadline after `now`.
    pub(super) fn deadline_after(&self, now: Timestamp) -> Option<Timestamp> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = Excluded((now, Id::from_uuid(Uuid::max())));
        self.deadline.range((from, Unbounded)).next().map(|(at, _)| *at)
    }

    pub(super) fn with_snapshots(&self) -> impl Iterator<Item = VmId> {
        self.snapshots.iter().copied()
    }

    pub(super) fn task_on(&self, object: ObjectId) -> Option<TaskId> {
        self.task.get(&object).copied()
    }

    pub(super) fn task_with_key(&self, key: &str) -> Option<TaskId> {
        self.key.get(key).copied()
    }

    /// The unfinished tasks that move a VM.
    pub(super) fn migrating(&self) -> impl Iterator<Item = TaskId> {
        self.migrating.iter().copied()
    }

    pub(super) fn vm(&mut self, old: Option<&Vm>, new: Option<&Vm>) {
        self.addresses.vm(old, new);
        self.hostnames.vm(old, new);
        match new {
            Some(vm) if has_snapshots(vm) => drop(self.snapshots.insert(vm.id())),
            Some(vm) => drop(self.snapshots.remove(&vm.id())),
            None => drop(old.map(|vm| self.snapshots.remove(&vm.id()))),
        }
        if let (Some(old), Some(new)) = (old, new)
            && old.spec == new.spec
            && old.status.host == new.status.host
        {
            return;
        }
        if let Some(vm) = old {
            self.remove_vm(vm);
        }
        if let Some(vm) = new {
            self.add_vm(vm);
        }
    }

    fn add_vm(&mut self, vm: &Vm) {
        let id = vm.id();
        self.host.insert((vm.status.host, id));
        for image in images(vm) {
            self.image.insert((image, id));
        }
        for nic in &vm.spec.nics {
            self.network.insert((nic.network, id));
            self.mac.insert((nic.mac, id));
        }
        self.pool.extend(vm.spec.resources.pool.map(|pool| (pool, id)));
        if vm.spec.resources.reserves() {
            self.reserving.insert(id);
        }
        self.deadline.extend(vm.next_deadline().map(|at| (at, id)));
    }

    fn remove_vm(&mut self, vm: &Vm) {
        let id = vm.id();
        self.host.remove(&(vm.status.host, id));
        for image in images(vm) {
            self.image.remove(&(image, id));
        }
        for nic in &vm.spec.nics {
            self.network.remove(&(nic.network, id));
            self.mac.remove(&(nic.mac, id));
        }
        if let Some(pool) = vm.spec.resources.pool {
            self.pool.remove(&(pool, id));
        }
        self.reserving.remove(&id);
        if let Some(at) = vm.next_deadline() {
            self.deadline.remove(&(at, id));
        }
    }

    pub(super) fn task(&mut self, old: Option<&Task>, new: Option<&Task>) {
        self.addresses.task(old, new);
        let shown = new.or(old);
        let Some(task) = shown else { return };
        let id = task.id();
        let holds = new.is_some_and(|task| !task.status.state.is_terminal());
        if task.spec.action == vm_migrate::ACTION {
            if holds {
                self.migrating.insert(id);
            } else {
                self.migrating.remove(&id);
            }
        }
        for object in &task.spec.objects {
            if holds {
                self.task.insert(*object, id);
            } else if self.task.get(object) == Some(&id) {
                self.task.remove(object);
            }
        }
        if let Some(key) = request_key(task) {
            if new.is_some() {
                self.key.insert(key.to_owned(), id);
            } else if self.key.get(key) == Some(&id) {
                self.key.remove(key);
            }
        }
    }
}

/// The images that a VM's disks and CD-ROMs come from.
pub(crate) fn images(vm: &Vm) -> impl Iterator<Item = ImageId> {
    let disks = vm.spec.own_disks().filter_map(|disk| disk.source.image());
    disks.chain(vm.spec.cdroms.iter().filter_map(|cdrom| cdrom.image))
}

/// All files that a VM's disks and snapshots are made of, wherever they lie.
pub(crate) fn layer_files(vm: &Vm) -> impl Iterator<Item = &LayerFile> {
    let disks = vm.status.disks.iter().flat_map(|disk| &disk.layers).map(|layer| &layer.file);
    let snapshots = vm.status.snapshots.snapshots.iter().flat_map(|snapshot| &snapshot.disks);
    disks.chain(snapshots.flat_map(|disk| &disk.layers))
}

fn has_snapshots(vm: &Vm) -> bool {
    !vm.status.snapshots.is_empty() || !vm.status.snapshot_warnings.is_empty()
}

fn vms_of<T: Ord + Copy>(index: &imbl::OrdSet<(T, VmId)>, key: T) -> impl Iterator<Item = VmId> {
    let least = Id::from_uuid(Uuid::nil());
    let greatest = Id::from_uuid(Uuid::max());
    index.range((key, least)..=(key, greatest)).map(|(_, vm)| *vm)
}
