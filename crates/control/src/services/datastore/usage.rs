//! What lies on a datastore, and whether it takes more.

use std::collections::HashMap;
use std::sync::Arc;

use hostler_policy::{DatastoreCandidate, refuses, warns};
use hostler_types::{
    ByteSize, Datastore, DatastoreId, DatastoreKind, DatastoreUsage, DiskSource, DiskSpec, HostId,
    ImageKind, LayerFile, LayerOwner, PowerState, Vm, VmKind,
};

use crate::error::{Class, ServiceError};
use crate::inventory::Snapshot;

/// What lies on each datastore. VMs in the recycle bin count: their disks are still there.
#[derive(Debug, Default)]
pub(crate) struct Usages {
    all: HashMap<DatastoreId, DatastoreUsage>,
    /// Bytes that VMs which are just being made still take, in addition to what the hosts have last told.
    promised: HashMap<DatastoreId, u64>,
}

impl Usages {
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        let mut all: HashMap<DatastoreId, DatastoreUsage> = HashMap::new();
        let mut promised: HashMap<DatastoreId, u64> = HashMap::new();
        for vm in snapshot.all::<VmKind>().iter() {
            let usage = all.entry(vm.status.datastore).or_default();
            let disks = vm.spec.own_disks().map(|disk| disk.size.0);
            usage.provisioned = ByteSize(disks.fold(usage.provisioned.0, u64::saturating_add));
            usage.vms += 1;
            if vm.status.power == PowerState::Creating {
                let more = promised.entry(vm.status.datastore).or_default();
                *more = more.saturating_add(written_at_once(snapshot, vm));
            }
        }
        for image in snapshot.all::<ImageKind>().iter() {
            all.entry(image.spec.datastore).or_default().images += 1;
        }
        Self { all, promised }
    }

    pub(crate) fn get(&self, datastore: DatastoreId) -> DatastoreUsage {
        self.all.get(&datastore).cloned().unwrap_or_default()
    }

    /// What is free and promised to nobody. A host tells of free space once a minute, and when a copy is
    /// done: what is copied meanwhile, and not written yet, is not free either.
    fn free(&self, datastore: &Datastore) -> ByteSize {
        let promised = self.promised.get(&datastore.id()).copied().unwrap_or_default();
        ByteSize(datastore.status.free.bytes().saturating_sub(promised))
    }
}

/// Bytes that a VM's disks take as soon as it is made: what its copies hold, and what is reserved.
fn written_at_once(snapshot: &Snapshot, vm: &Vm) -> u64 {
    let of_disk = |disk: &DiskSpec| match &disk.source {
        DiskSource::Copy(copy) => held(snapshot, &copy.file).min(disk.size.bytes()),
        _ if !disk.provisioning.is_thin() => disk.size.bytes(),
        _ => 0,
    };
    vm.spec.disks.iter().map(of_disk).fold(0, u64::saturating_add)
}

/// What a file and those beneath it hold, as its VM's host has last told.
fn held(snapshot: &Snapshot, file: &LayerFile) -> u64 {
    let LayerOwner::Vm(owner) = file.owner() else { return 0 };
    let Some(owner) = snapshot.get::<VmKind>(owner) else { return 0 };
    let chain = owner.status.disks.iter().find_map(|disk| {
        let at = disk.layers.iter().position(|layer| layer.file == *file)?;
        Some(&disk.layers[at..])
    });
    let layers = chain.unwrap_or_default().iter();
    layers.map(|layer| layer.allocated.bytes()).fold(0, u64::saturating_add)
}

/// Refuses VMs whose copies, all together, are more than their datastore has free. Thin disks may be
/// more than that: they grow as their guests write, but a copy is written at once.
///
/// # Errors
/// `no_capacity`, with the numbers.
pub(crate) fn require_room_for_copies(snapshot: &Snapshot, vms: &[Vm]) -> Result<(), ServiceError> {
    let mut needed: HashMap<DatastoreId, u64> = HashMap::new();
    for vm in vms {
        let more = needed.entry(vm.status.datastore).or_default();
        *more = more.saturating_add(written_at_once(snapshot, vm));
    }
    needed.retain(|_, bytes| *bytes > 0);
    if needed.is_empty() {
        return Ok(());
    }
    let usages = Usages::of(snapshot);
    for (id, bytes) in needed {
        let Some(datastore) = snapshot.get::<DatastoreKind>(id) else { continue };
        let free = usages.free(datastore);
        if bytes <= free.bytes() {
            continue;
        }
        let promised = usages.promised.get(&id).copied().unwrap_or_default();
        let promised = match promised {
            0 => String::new(),
            _ => format!(", and {} promised to VMs that are being made", ByteSize(promised)),
        };
        let message = format!(
            "the copies take {} at once; datastore `{}` has {} free{promised}",
            ByteSize(bytes),
            datastore.name(),
            datastore.status.free
        );
        return Err(ServiceError::new(Class::NoCapacity, "no_capacity", message)
            .hint("choose another datastore, make room, or make linked clones"));
    }
    Ok(())
}

/// A datastore as a host has it, as placement sees it.
fn candidate(datastore: &Datastore, host: HostId, usages: &Usages) -> DatastoreCandidate {
    let (spec, status) = (&datastore.spec, &datastore.status);
    DatastoreCandidate {
        id: datastore.id(),
        name: datastore.name().to_string(),
        ready: status.is_ready_on(spec, host),
        capacity: status.capacity,
        free: usages.free(datastore),
        maintenance: spec.maintenance,
        provisioned: usages.get(datastore.id()).provisioned,
        limits: spec.limits,
    }
}

/// Refuses new disks where there may be none; answers what is worth a warning. For whoever makes a
/// disk (or an image: no disks, and it is only looked at whether there is room).
///
/// # Errors
/// `no_capacity`, with the reason.
pub(crate) fn require_room(
    snapshot: &Snapshot,
    datastore: &Datastore,
    disks: &[ByteSize],
) -> Result<Vec<String>, ServiceError> {
    let candidate = candidate(datastore, datastore.spec.host, &Usages::of(snapshot));
    let told = |what: String| format!("datastore `{}` {what}", datastore.name());
    if let Some(reason) = refuses(&candidate, disks) {
        return Err(ServiceError::new(Class::NoCapacity, "no_capacity", told(reason))
            .hint("choose another datastore, make room, or see `hostler datastore set --help`"));
    }
    Ok(warns(&candidate, disks).map(told).into_iter().collect())
}

/// The datastore with what lies on it.
pub(super) fn with_usage(datastore: &Arc<Datastore>, usages: &Usages) -> Arc<Datastore> {
    let mut shown = Datastore::clone(datastore);
    let mut usage = usages.get(datastore.id());
    let candidate = candidate(datastore, datastore.spec.host, usages);
    let worries = if datastore.status.is_ready_on(&datastore.spec, datastore.spec.host) {
        [refuses(&candidate, &[]), warns(&candidate, &[])].into_iter().flatten().collect()
    } else {
        Vec::new()
    };
    usage.warnings = worries;
    shown.status.usage = Some(usage);
    Arc::new(shown)
}
