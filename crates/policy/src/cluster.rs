//! A cluster as plain data, and its index: what placement, rules, balancing and what-if work on.
//!
//! [`ClusterSnapshot`] is what `control` builds from its inventory, a file holds, and a decision
//! record keeps: ids, names, labels, sizes; no references between its parts but ids. [`Cluster`] is
//! the same by positions in flat arrays, with residuals that are kept up to date as VMs are put and
//! taken, for 10,000 hosts and 400,000 VMs. Nothing here decides.

mod bits;
mod build;
mod classes;
mod measured;
mod part;
mod refresh;
mod state;

pub use hostler_types::{Automation, Strategy};
use hostler_types::{ByteSize, DatastoreId, HostId, Labels, VmId};
use serde::{Deserialize, Serialize};

pub(crate) use bits::Bits;
pub use build::SnapshotError;
pub(crate) use classes::{Class, ClassIndex, Filter, StoreNeed};
pub use measured::Measured;
pub use part::Concerned;
pub(crate) use state::{CPU, Item, Load, MEMORY, Size, Spot, StoreIndex, UNLIMITED};
pub use state::{Cluster, HostIndex, VmIndex};

use crate::placement::DatastoreCandidate;
use crate::rules::{Group, Rule};

/// How many CPUs a VM may have for each logical CPU of its host, where no other host has more.
pub const WIDER: u32 = 8;

/// Everything that decisions about a cluster depend on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSnapshot {
    #[serde(default)]
    pub settings: ClusterSettings,
    pub hosts: Vec<ClusterHost>,
    /// Each once; which hosts reach them is said there, and `ready` here is not looked at.
    #[serde(default)]
    pub datastores: Vec<DatastoreCandidate>,
    #[serde(default)]
    pub vms: Vec<ClusterVm>,
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// What rules mean by a group's name.
    #[serde(default)]
    pub vm_groups: Vec<Group>,
    #[serde(default)]
    pub host_groups: Vec<Group>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterSettings {
    pub strategy: Strategy,
    /// Memory that may be promised to the VMs of a host, in percent of what it has, 1 to 10,000;
    /// absent: any.
    pub memory_overcommit_percent: Option<u32>,
    /// vCPUs per logical CPU of a host, 1 to 1,000; absent: any.
    pub vcpus_per_cpu: Option<u32>,
    /// The CPU features that VMs start with that ask for none themselves.
    pub baseline: Vec<String>,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            strategy: Strategy::Spread,
            memory_overcommit_percent: Some(100),
            vcpus_per_cpu: Some(8),
            baseline: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostCondition {
    /// Connected, and takes VMs.
    #[default]
    Available,
    /// Connected; takes none, and its VMs are to leave.
    Maintenance,
    /// Does not answer: takes none, and its VMs cannot leave.
    Disconnected,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterHost {
    pub id: HostId,
    pub name: String,
    #[serde(default)]
    pub labels: Labels,
    #[serde(default)]
    pub condition: HostCondition,
    /// Logical CPUs.
    pub cpus: u32,
    /// Of each CPU, in MHz.
    #[serde(default = "default_mhz")]
    pub mhz_per_cpu: u32,
    /// What guests may have of it.
    pub memory: ByteSize,
    /// Of VMs that the snapshot does not list.
    #[serde(default)]
    pub promised_memory: ByteSize,
    #[serde(default)]
    pub promised_cpus: u64,
    #[serde(default)]
    pub promised_memory_reservation: ByteSize,
    /// In MHz.
    #[serde(default)]
    pub promised_cpu_reservation: u64,
    /// What those VMs would use: CPU (MHz) and memory (bytes) over the last 5 minutes, then both over
    /// the last hour.
    #[serde(default, skip_serializing_if = "is_none")]
    pub promised_load: [u64; 4],
    #[serde(default)]
    pub cpu_features: Vec<String>,
    /// Networks (bridges) that its guests can be on.
    #[serde(default)]
    pub networks: Vec<String>,
    #[serde(default)]
    pub datastores: Vec<HostDatastore>,
    /// What its VMs are entitled to and did not get, in MHz and bytes: measured, or from the
    /// division of the resource pools.
    #[serde(default)]
    pub deficit: Demand,
    /// The network link that its migrations go over; those of equal names share its limit.
    #[serde(default)]
    pub link: String,
}

fn is_none(load: &[u64; 4]) -> bool {
    *load == [0; 4]
}

fn default_mhz() -> u32 {
    2_000
}

impl ClusterHost {
    pub fn new(id: HostId, name: impl Into<String>, cpus: u32, memory: ByteSize) -> Self {
        Self {
            id,
            name: name.into(),
            labels: Labels::new(),
            condition: HostCondition::Available,
            cpus,
            mhz_per_cpu: default_mhz(),
            memory,
            promised_memory: ByteSize(0),
            promised_cpus: 0,
            promised_memory_reservation: ByteSize(0),
            promised_cpu_reservation: 0,
            promised_load: [0; 4],
            cpu_features: Vec::new(),
            networks: Vec::new(),
            datastores: Vec::new(),
            deficit: Demand::default(),
            link: String::new(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostDatastore {
    pub id: DatastoreId,
    /// Mounted, and answers.
    pub ready: bool,
}

/// A VM of the cluster, or one that is to be placed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterVm {
    pub id: VmId,
    pub name: String,
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Where it is; absent: it is to be placed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostId>,
    /// Of a VM to be placed: only there; absent: anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<HostId>,
    /// Where its disks are. Of a VM to be placed: where they must be, absent: anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datastore: Option<DatastoreId>,
    /// Of each disk, as the guest sees it; of a VM to be placed, those that are to be made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<ByteSize>,
    /// Datastores that its host must reach besides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reach: Vec<Reach>,
    pub cpus: u32,
    pub memory: ByteSize,
    /// In MHz.
    #[serde(default)]
    pub cpu_reservation: u64,
    #[serde(default)]
    pub memory_reservation: ByteSize,
    /// What its CPU model, and if it runs its machine, needs of the host's; empty: the cluster's baseline. CPU
    /// features, and with blanks in them others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cpu_features: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<String>,
    /// What it is entitled to and asks for, over the last 5 minutes.
    #[serde(default)]
    pub demand: Demand,
    /// The same over the last hour; absent: as the recent one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub demand_hour: Option<Demand>,
    #[serde(default)]
    pub contention: Contention,
    /// Bytes per second that its guest writes to memory.
    #[serde(default)]
    pub dirty_rate: ByteSize,
    /// Since its last migration; absent: long ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_since_move: Option<u64>,
    /// Absent: as the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub automation: Option<Automation>,
    /// It cannot be moved, and why not: a device of the host, a local disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<String>,
}

impl ClusterVm {
    pub fn new(id: VmId, name: impl Into<String>, cpus: u32, memory: ByteSize) -> Self {
        Self {
            id,
            name: name.into(),
            labels: Labels::new(),
            host: None,
            wanted: None,
            datastore: None,
            disks: Vec::new(),
            reach: Vec::new(),
            cpus,
            memory,
            cpu_reservation: 0,
            memory_reservation: ByteSize(0),
            cpu_features: Vec::new(),
            networks: Vec::new(),
            demand: Demand::default(),
            demand_hour: None,
            contention: Contention::default(),
            dirty_rate: ByteSize(0),
            seconds_since_move: None,
            automation: None,
            pinned: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reach {
    pub datastore: DatastoreId,
    pub what: ReachOf,
}

/// What lies on a datastore that a VM's host must reach, by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReachOf {
    Image(String),
    Template(String),
}

/// Of a VM or a host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Demand {
    /// In MHz.
    pub cpu: u64,
    pub memory: ByteSize,
}

/// What a VM had to do without, as measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Contention {
    /// Of the time that its vCPU threads could run, how much they waited for a CPU (run delay), in
    /// thousandths, 0 to 1,000.
    pub cpu_ready_permille: u16,
    /// Of its time, how much it stood still for memory (PSI `full`), in thousandths, 0 to 1,000.
    pub memory_stall_permille: u16,
    /// Guest memory on the host's swap.
    pub swapped: ByteSize,
    /// Taken by the balloon below what the guest is configured with.
    pub ballooned: ByteSize,
}

/// A position as it is stored: half the memory of a `usize`.
///
/// # Panics
/// Beyond 4,294,967,295, which [`Cluster::build`] refuses.
pub(crate) fn narrow(position: usize) -> u32 {
    u32::try_from(position).expect("a cluster has less than 2^32 of anything")
}
