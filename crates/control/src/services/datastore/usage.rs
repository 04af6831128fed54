//! What lies on a datastore, and whether it takes more.

use std::collections::HashMap;
use std::sync::Arc;

use hostler_policy::{DatastoreCandidate, refuses, warns};
use hostler_types::{ByteSize, Datastore, DatastoreId, DatastoreUsage, HostId, ImageKind, VmKind};

use crate::error::{Class, ServiceError};
use crate::inventory::Snapshot;

/// What lies on each datastore. VMs in the recycle bin count: their disks are still there.
#[derive(Debug, Default)]
pub(crate) struct Usages(HashMap<DatastoreId, DatastoreUsage>);

impl Usages {
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        let mut all: HashMap<DatastoreId, DatastoreUsage> = HashMap::new();
        for vm in snapshot.all::<VmKind>().iter() {
            let usage = all.entry(vm.status.datastore).or_default();
            let disks = vm.spec.own_disks().map(|disk| disk.size.0);
            usage.provisioned = ByteSize(disks.fold(usage.provisioned.0, u64::saturating_add));
            usage.vms += 1;
        }
        for image in snapshot.all::<ImageKind>().iter() {
            all.entry(image.spec.datastore).or_default().images += 1;
        }
        Self(all)
    }

    pub(crate) fn get(&self, datastore: DatastoreId) -> DatastoreUsage {
        self.0.get(&datastore).cloned().unwrap_or_default()
    }
}

/// A datastore as a host has it, as placement sees it.
pub(crate) fn candidate(
    datastore: &Datastore,
    host: HostId,
    usage: &DatastoreUsage,
) -> DatastoreCandidate {
    let (spec, status) = (&datastore.spec, &datastore.status);
    DatastoreCandidate {
        id: datastore.id(),
        name: datastore.name().to_string(),
        ready: status.is_ready_on(spec, host),
        capacity: status.capacity,
        free: status.free,
        maintenance: spec.maintenance,
        provisioned: usage.provisioned,
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
    let usage = Usages::of(snapshot).get(datastore.id());
    let candidate = candidate(datastore, datastore.spec.host, &usage);
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
    let candidate = candidate(datastore, datastore.spec.host, &usage);
    let worries = if datastore.status.is_ready_on(&datastore.spec, datastore.spec.host) {
        [refuses(&candidate, &[]), warns(&candidate, &[])].into_iter().flatten().collect()
    } else {
        Vec::new()
    };
    usage.warnings = worries;
    shown.status.usage = Some(usage);
    Arc::new(shown)
}
