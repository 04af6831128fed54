//! Whether a datastore takes new disks.

use hostler_types::{ByteSize, DatastoreId, DatastoreLimits};
use serde::{Deserialize, Serialize};

/// What a datastore must still have free: definitions, logs and the guests' first writes.
const HEADROOM: ByteSize = ByteSize::mib(64);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatastoreCandidate {
    pub id: DatastoreId,
    pub name: String,
    pub ready: bool,
    pub capacity: ByteSize,
    pub free: ByteSize,
    /// It takes no new disks.
    pub maintenance: bool,
    /// The sizes of all its disks together.
    pub provisioned: ByteSize,
    pub limits: DatastoreLimits,
}

/// Why a datastore does not take new disks, if it does not. Disks grow as the guest writes, so their
/// sum may be beyond the free space; a single one beyond the whole datastore can never be filled.
pub fn refuses(datastore: &DatastoreCandidate, disks: &[ByteSize]) -> Option<String> {
    let sizes = disks.iter().map(|disk| disk.0);
    let sum = sizes.clone().fold(0, u64::saturating_add);
    refuses_sizes(datastore, datastore.ready, Some((sum, sizes.max().unwrap_or(0))))
}

/// The same for sizes as an item has them, sum and largest; `None`: no disks are to be made.
pub(super) fn refuses_now(
    datastore: &DatastoreCandidate,
    ready: bool,
    new_disks: Option<(i64, i64)>,
) -> Option<String> {
    let unsigned = |size: i64| u64::try_from(size).unwrap_or(0);
    let sizes = new_disks.map(|(sum, largest)| (unsigned(sum), unsigned(largest)));
    refuses_sizes(datastore, ready, sizes)
}

fn refuses_sizes(
    datastore: &DatastoreCandidate,
    ready: bool,
    new_disks: Option<(u64, u64)>,
) -> Option<String> {
    let DatastoreCandidate { capacity, free, limits, .. } = datastore;
    if !ready {
        return Some("is missing (not mounted?)".to_owned());
    }
    let (sum, largest) = new_disks?;
    if datastore.maintenance {
        return Some("is in maintenance: it takes no new disks".to_owned());
    }
    if largest > capacity.0 {
        let disk = ByteSize(largest);
        return Some(format!("holds {capacity}, {disk} more are asked for"));
    }
    // A datastore smaller than twice the headroom may be filled to the half.
    if *free < HEADROOM.min(ByteSize(capacity.0 / 2)) {
        return Some(format!("has {free} free, too little to begin with"));
    }
    let (used, most) = (used_percent(datastore), u128::from(limits.refuse_percent));
    if used >= most {
        return Some(format!(
            "is {used} % full ({free} free), and takes no new disks from {most} % on"
        ));
    }
    if let Some(overcommit) = limits.overcommit_percent {
        let promised = ByteSize(datastore.provisioned.0.saturating_add(sum));
        let allowed = u128::from(capacity.0) * u128::from(overcommit) / 100;
        if u128::from(promised.0) > allowed {
            return Some(format!(
                "would have {promised} of disks on {capacity}: more than the {overcommit} % that may be promised"
            ));
        }
    }
    None
}

/// Whether a datastore takes any new disks at all: [`refuses`] but for its being ready, which is each
/// host's own, and for what depends on the disks.
pub(crate) fn takes_disks(datastore: &DatastoreCandidate) -> bool {
    let DatastoreCandidate { capacity, free, limits, maintenance, .. } = datastore;
    !maintenance
        && *free >= HEADROOM.min(ByteSize(capacity.0 / 2))
        && used_percent(datastore) < u128::from(limits.refuse_percent)
}

/// What is worth a warning about a datastore that takes the disks.
pub fn warns(datastore: &DatastoreCandidate, disks: &[ByteSize]) -> Option<String> {
    let (used, free) = (used_percent(datastore), datastore.free);
    if used >= u128::from(datastore.limits.warn_percent) {
        return Some(format!("is {used} % full: {free} are free"));
    }
    let promised = promised(datastore, disks);
    // A limit of their own says that people know.
    let unlimited = datastore.limits.overcommit_percent.is_none();
    if unlimited && promised > datastore.capacity {
        let capacity = datastore.capacity;
        return Some(format!("has {promised} of disks on {capacity}: they cannot all be filled"));
    }
    None
}

fn used_percent(datastore: &DatastoreCandidate) -> u128 {
    let capacity = datastore.capacity.0;
    u128::from(capacity.saturating_sub(datastore.free.0)) * 100 / u128::from(capacity.max(1))
}

fn promised(datastore: &DatastoreCandidate, disks: &[ByteSize]) -> ByteSize {
    let sizes = disks.iter().map(|disk| disk.0);
    ByteSize(sizes.fold(datastore.provisioned.0, u64::saturating_add))
}
