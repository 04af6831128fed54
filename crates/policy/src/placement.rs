//! Placement: which host and datastore VMs get, one or several at once, and why.
//!
//! Hard filters first: what a host lacks makes it impossible, whatever else it has. Those left are
//! scored; see `score` for how and `choose` for which of them are looked at. There is one choice,
//! [`Cluster`]'s: [`place`] asks it for one new VM and a list of hosts, [`place_all`] for several
//! that belong together or apart, the balancer for those that leave a host.

mod batch;
mod choose;
mod datastore;
mod explain;
mod obstacle;
mod score;

use std::collections::BTreeMap;
use std::fmt;

use hostler_types::{ByteSize, DatastoreId, DatastoreLimits, HostId, ImageId, VmId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub(crate) use batch::place_listed;
pub use batch::{BatchRefusal, Placed, place_all};
pub use choose::{Choosing, WINDOW};
pub(crate) use datastore::takes_disks;
pub use datastore::{DatastoreCandidate, refuses, warns};
pub(crate) use explain::explain_item;
pub use explain::{Explained, FilterCount, Scored, WhyNot, explain, why_not};
pub use obstacle::Obstacle;
pub(crate) use obstacle::listed;

use crate::cluster::{
    Cluster, ClusterHost, ClusterSettings, ClusterSnapshot, ClusterVm, HostCondition,
    HostDatastore, Item, Reach, ReachOf, SnapshotError, Strategy,
};

/// Everything the decision depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlacementInput {
    pub wish: Wish,
    pub hosts: Vec<HostCandidate>,
}

/// What the new VM needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Wish {
    pub cpus: u32,
    pub memory: ByteSize,
    /// Of each disk, as the guest sees it.
    pub disks: Vec<ByteSize>,
    /// Only this host.
    pub host: Option<HostId>,
    /// Only this datastore.
    pub datastore: Option<DatastoreId>,
    /// The template that its disks are made from, and where it lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<(String, DatastoreId)>,
    /// Images that must be readable, with their names and where they lie.
    pub images: Vec<(ImageId, String, DatastoreId)>,
    /// Linux bridges that must exist.
    pub bridges: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostCandidate {
    pub id: HostId,
    pub name: String,
    pub connected: bool,
    /// Logical CPUs.
    pub cpus: u32,
    pub memory: ByteSize,
    /// Memory of all the VMs it owns, running or not.
    pub promised_memory: ByteSize,
    /// CPUs of all the VMs it owns.
    pub promised_cpus: u64,
    pub bridges: Vec<String>,
    pub datastores: Vec<DatastoreCandidate>,
}

/// A decision, or why there is none; and in either case why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    pub decision: Result<Decision, Refusal>,
    pub explanation: Explanation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    pub host: HostId,
    pub datastore: DatastoreId,
}

/// What kind of obstacle it is, as far as it matters to who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// There is no host, or none that answers: try again later.
    NoHost,
    /// Some host answers, and none has room.
    NoRoom,
}

/// Sentences for people, with the numbers that were compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Explanation(pub Vec<String>);

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

/// Decides where a VM goes: the host with the most memory not promised to VMs, measured after this
/// VM has been promised its own, then with the fewest promised CPUs, then the older; on it, the
/// datastore with the most free space.
pub fn place(input: &PlacementInput) -> Placement {
    let refused = |refusal, sentences| Placement {
        decision: Err(refusal),
        explanation: Explanation(sentences),
    };
    let (cluster, item) = match indexed(input) {
        Ok(indexed) => indexed,
        Err(error) => return refused(Refusal::NoRoom, vec![error.to_string()]),
    };
    let wished = |host: &&HostCandidate| input.wish.host.is_none_or(|wish| wish == host.id);
    let (mut sentences, mut possible) = (Vec::new(), 0);
    for host in input.hosts.iter().filter(wished) {
        let Some(index) = cluster.host(host.id) else { continue };
        match cluster.obstacles(&item, index.0 as usize).first() {
            None => possible += 1,
            Some(obstacle) => sentences.push(format!("host `{}` {obstacle}", host.name)),
        }
    }
    let Some(spot) = cluster.choose(&item, Choosing::thorough()) else {
        let answering = input.hosts.iter().filter(wished).any(|host| host.connected);
        if input.hosts.is_empty() {
            sentences.push("no host has joined yet".to_owned());
        }
        return refused(if answering { Refusal::NoRoom } else { Refusal::NoHost }, sentences);
    };
    let host = cluster.hosts[spot.host as usize].id;
    let host = input.hosts.iter().find(|candidate| candidate.id == host);
    let store = spot.store.map(|store| cluster.stores[store as usize].id);
    let found = host.and_then(|host| {
        let datastore = host.datastores.iter().find(|own| Some(own.id) == store)?;
        Some((host, datastore))
    });
    let (host, datastore) = found.expect("the cluster was made of these hosts");
    sentences.insert(0, chosen(host, datastore, &input.wish, possible));
    let warning = warns(datastore, &input.wish.disks);
    sentences.extend(warning.map(|what| format!("warning: datastore `{}` {what}", datastore.name)));
    let decision = Decision { host: host.id, datastore: datastore.id };
    Placement { decision: Ok(decision), explanation: Explanation(sentences) }
}

/// The hosts as a cluster, and the wish as an item of it. Anything may be promised there.
fn indexed(input: &PlacementInput) -> Result<(Cluster, Item), SnapshotError> {
    let PlacementInput { wish, hosts } = input;
    let mut datastores: BTreeMap<DatastoreId, DatastoreCandidate> = BTreeMap::new();
    for datastore in hosts.iter().flat_map(|host| &host.datastores) {
        datastores.entry(datastore.id).or_insert_with(|| datastore.clone());
    }
    let images = wish.images.iter();
    let images = images.map(|(_, name, at)| (*at, ReachOf::Image(name.clone())));
    let template = wish.template.iter();
    let template = template.map(|(name, at)| (*at, ReachOf::Template(name.clone())));
    let reach: Vec<_> =
        images.chain(template).map(|(datastore, what)| Reach { datastore, what }).collect();
    // What no host reaches is an obstacle to be told, and no mistake of the input.
    for id in reach.iter().map(|reach| reach.datastore).chain(wish.datastore) {
        datastores.entry(id).or_insert_with(|| unreached(id));
    }
    let mut cluster = Cluster::build(&ClusterSnapshot {
        settings: ClusterSettings {
            strategy: Strategy::FreeMemory,
            memory_overcommit_percent: None,
            vcpus_per_cpu: None,
            baseline: Vec::new(),
        },
        hosts: hosts.iter().map(HostCandidate::in_cluster).collect(),
        datastores: datastores.into_values().collect(),
        ..ClusterSnapshot::default()
    })?;
    let only = match wish.host {
        // A host that is not a candidate leaves none.
        Some(host) => match cluster.host(host) {
            Some(index) => Some(index.0),
            None => return Ok((Cluster::build(&ClusterSnapshot::default())?, Item::nothing())),
        },
        None => None,
    };
    let vm = ClusterVm {
        datastore: wish.datastore,
        disks: wish.disks.clone(),
        reach,
        networks: wish.bridges.clone(),
        ..ClusterVm::new(VmId::from_uuid(Uuid::nil()), "the new VM", wish.cpus, wish.memory)
    };
    let mut item = cluster.item_only_on(&vm, only)?;
    // It is new: even without disks it needs a datastore that takes some.
    item.new_disks = item.new_disks.or(Some((0, 0)));
    Ok((cluster, item))
}

fn unreached(id: DatastoreId) -> DatastoreCandidate {
    DatastoreCandidate {
        id,
        name: id.to_string(),
        ready: false,
        capacity: ByteSize(0),
        free: ByteSize(0),
        maintenance: false,
        provisioned: ByteSize(0),
        limits: DatastoreLimits::default(),
    }
}

impl HostCandidate {
    fn in_cluster(&self) -> ClusterHost {
        let datastores = self.datastores.iter();
        ClusterHost {
            condition: match self.connected {
                true => HostCondition::Available,
                false => HostCondition::Disconnected,
            },
            promised_memory: self.promised_memory,
            promised_cpus: self.promised_cpus,
            networks: self.bridges.clone(),
            datastores: datastores
                .map(|own| HostDatastore { id: own.id, ready: own.ready })
                .collect(),
            ..ClusterHost::new(self.id, self.name.clone(), self.cpus, self.memory)
        }
    }
}

/// May be negative: memory can be promised more than once.
fn free_after(host: &HostCandidate, wish: &Wish) -> i128 {
    i128::from(host.memory.bytes())
        - i128::from(host.promised_memory.bytes())
        - i128::from(wish.memory.bytes())
}

fn chosen(
    host: &HostCandidate,
    datastore: &DatastoreCandidate,
    wish: &Wish,
    possible: usize,
) -> String {
    let why = match possible {
        1 if wish.host.is_some() => "as asked for".to_owned(),
        1 => "the only host that can take it".to_owned(),
        count => format!("the most unpromised memory of {count} possible hosts"),
    };
    let memory = match u64::try_from(free_after(host, wish)) {
        Ok(left) => format!("{} of {} memory stay unpromised", ByteSize(left), host.memory),
        Err(_) => format!(
            "{} of memory are promised to VMs, more than the {} it has",
            ByteSize(host.promised_memory.bytes().saturating_add(wish.memory.bytes())),
            host.memory
        ),
    };
    format!(
        "host `{}`: {why}; {memory}; datastore `{}` has {} of {} free",
        host.name, datastore.name, datastore.free, datastore.capacity
    )
}

#[cfg(test)]
mod tests;
