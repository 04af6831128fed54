//! Answers for people: why a VM goes where it goes, and why not elsewhere.

use std::collections::BTreeMap;

use hostler_types::{ByteSize, HostId, VmId};
use serde::{Deserialize, Serialize};

use super::{Choosing, Obstacle, listed};
use crate::cluster::{
    CPU, Cluster, ClusterVm, HostIndex, Item, MEMORY, Size, SnapshotError, VmIndex,
};

/// What placement sees of a VM now, on all hosts: for one that has a host, as if it had none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explained {
    pub vm: String,
    /// The host that would be chosen.
    pub chosen: Option<String>,
    /// Where it is.
    pub current: Option<String>,
    pub hosts: usize,
    /// How many hosts each filter rules out; a host may be ruled out by several.
    pub filters: Vec<FilterCount>,
    /// Hosts that can take it, the best first, at most 10.
    pub candidates: Vec<Scored>,
    pub possible: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterCount {
    pub filter: String,
    pub hosts: usize,
    /// What one of them says.
    pub example: String,
}

/// A host's score. The less it costs, the better.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    pub host: String,
    pub cost: f64,
    /// From the room that is left, by the cluster's strategy.
    pub room: f64,
    /// `should` rules that would be broken.
    pub broken_wishes: u32,
    /// Entitlement that would be unmet, in parts of the host's capacity.
    pub deficit: f64,
    /// Not promised afterwards, in bytes; negative where more may be promised than there is.
    pub memory_left: i64,
    pub vcpus_left: i64,
    /// The datastore that its disks would be made on, and what is free there.
    pub datastore: Option<String>,
    pub datastore_free: Option<ByteSize>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyNot {
    pub vm: VmId,
    pub host: HostId,
    /// Empty: the host can take it.
    pub obstacles: Vec<Obstacle>,
    /// Sentences, one for each obstacle, with the way out.
    pub sentences: Vec<String>,
    /// VMs whose leaving would make room, if it is only room that lacks: as few as possible.
    pub would_fit_without: Vec<String>,
    pub smallest_change: String,
}

/// What placement sees of a VM that the cluster lists.
pub fn explain(cluster: &Cluster, vm: VmIndex, choosing: Choosing) -> Explained {
    let mut without = cluster.clone();
    let current = without.lift(vm.0);
    let facts = &cluster.vms[vm.0 as usize];
    explained(&without, &facts.item, &facts.name, current, choosing)
}

/// The same for something that is on no host.
pub(crate) fn explain_item(cluster: &Cluster, item: &Item, name: &str) -> Explained {
    explained(cluster, item, name, None, Choosing::thorough())
}

pub(super) fn explained(
    cluster: &Cluster,
    item: &Item,
    vm: &str,
    current: Option<u32>,
    choosing: Choosing,
) -> Explained {
    let mut filters: BTreeMap<&str, (usize, String)> = BTreeMap::new();
    let mut possible = Vec::new();
    // Where one host is asked for, nothing is to be said of the others.
    let only = item.classes.iter().find_map(|class| cluster.classes[*class as usize].key.host);
    let all = match only {
        Some(host) => host as usize..host as usize + 1,
        None => 0..cluster.hosts.len(),
    };
    let hosts = all.len();
    for host in all {
        let obstacles = cluster.obstacles(item, host);
        if obstacles.is_empty() {
            possible.push((cluster.cost(item, host), host));
        }
        let mut told = Vec::new();
        for obstacle in obstacles {
            let filter = obstacle.filter();
            if !told.contains(&filter) {
                told.push(filter);
                let example = || format!("host `{}` {obstacle}", cluster.hosts[host].name);
                filters.entry(filter).or_insert_with(|| (0, example())).0 += 1;
            }
        }
    }
    possible.sort_by(|a, b| {
        let by_cost = a.0.total().value().total_cmp(&b.0.total().value());
        by_cost
            .then(cluster.room[a.1].promised_cpus.cmp(&cluster.room[b.1].promised_cpus))
            .then(a.1.cmp(&b.1))
    });
    let scored = possible.iter().take(10).map(|(_, host)| scored(cluster, item, *host));
    let chosen = cluster.choose(item, choosing);
    Explained {
        vm: vm.to_owned(),
        chosen: chosen.map(|spot| cluster.name_of(spot.host).to_owned()),
        current: current.map(|host| cluster.name_of(host).to_owned()),
        hosts,
        filters: filters
            .into_iter()
            .map(|(filter, (hosts, example))| FilterCount {
                filter: filter.to_owned(),
                hosts,
                example,
            })
            .collect(),
        candidates: scored.collect(),
        possible: possible.len(),
    }
}

fn scored(cluster: &Cluster, item: &Item, host: usize) -> Scored {
    let (parts, room) = (cluster.cost(item, host), &cluster.room[host]);
    let store = cluster.store_for(item, host).map(|store| &cluster.stores[store as usize]);
    Scored {
        host: cluster.hosts[host].name.clone(),
        cost: parts.total().value(),
        room: parts.strategy,
        broken_wishes: parts.wishes,
        deficit: parts.deficit,
        memory_left: room.memory - room.promised_memory - item.size[MEMORY],
        vcpus_left: room.cpus - room.promised_cpus - item.size[CPU],
        datastore: store.map(|store| store.name.clone()),
        datastore_free: store.map(|store| store.free),
    }
}

/// The score of a host for a VM that the cluster lists, as if it had no host.
pub fn score(cluster: &Cluster, vm: VmIndex, host: HostIndex) -> Scored {
    let mut without = cluster.clone();
    without.lift(vm.0);
    scored(&without, &cluster.vms[vm.0 as usize].item, host.0 as usize)
}

/// What placement sees of a VM that is to be placed and is not listed.
///
/// # Errors
/// What makes it one that cannot be placed at all.
pub fn explain_new(
    cluster: &mut Cluster,
    vm: &ClusterVm,
    choosing: Choosing,
) -> Result<Explained, SnapshotError> {
    let item = cluster.item(vm)?;
    Ok(explained(cluster, &item, &vm.name, None, choosing))
}

impl Explained {
    /// Which filters rule out how many hosts, in one sentence.
    pub fn filters_told(&self) -> String {
        if self.hosts == 0 {
            return "no host has joined yet".to_owned();
        }
        let told = self.filters.iter().map(|FilterCount { filter, hosts, example }| {
            match (self.hosts, hosts) {
                (1, _) => example.clone(),
                (all, 1) => format!("{filter}: {example} (1 of {all} hosts)"),
                (all, hosts) => format!("{filter}: {hosts} of {all} hosts, such as: {example}"),
            }
        });
        told.collect::<Vec<_>>().join("; ")
    }

    /// The whole in sentences.
    pub fn sentences(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        sentences.push(match &self.chosen {
            Some(host) => format!(
                "vm `{}` goes to host `{host}`: the best of those looked at; {} of {} hosts can take it",
                self.vm, self.possible, self.hosts
            ),
            None => format!("no host can take vm `{}`", self.vm),
        });
        if !self.filters.is_empty() {
            sentences.push(self.filters_told());
        }
        for scored in &self.candidates {
            let memory = match u64::try_from(scored.memory_left) {
                Ok(left) => format!("{} of memory stay unpromised", ByteSize(left)),
                Err(_) => {
                    format!(
                        "{} of memory overpromised",
                        ByteSize(scored.memory_left.unsigned_abs())
                    )
                }
            };
            let store = match (&scored.datastore, scored.datastore_free) {
                (Some(store), Some(free)) => format!("; datastore `{store}` has {free} free"),
                _ => String::new(),
            };
            sentences.push(format!(
                "host `{}` costs {:.3}: room {:.3}, broken wishes {}, unmet entitlement {:.1} %; {memory}{store}",
                scored.host,
                scored.cost,
                scored.room,
                scored.broken_wishes,
                scored.deficit * 100.0
            ));
        }
        sentences
    }
}

/// Why a VM is not, or could not be, on a host.
pub fn why_not(cluster: &Cluster, vm: VmIndex, host: HostIndex) -> WhyNot {
    let mut without = cluster.clone();
    without.lift(vm.0);
    let facts = &cluster.vms[vm.0 as usize];
    let name = cluster.name_of(host.0);
    let obstacles = without.obstacles(&facts.item, host.0 as usize);
    let sentences = obstacles
        .iter()
        .map(|obstacle| format!("host `{name}` {obstacle}; {}", obstacle.way_out()))
        .collect();
    let only_room = !obstacles.is_empty() && obstacles.iter().all(Obstacle::is_room);
    let mut leaving = if only_room { fewest_leaving(&without, &facts.item, host.0) } else { None };
    if let Some(vms) = &leaving {
        for vm in vms {
            without.lift(*vm);
        }
        // A rule may bind the VM to one of those that would leave.
        if !without.obstacles(&facts.item, host.0 as usize).is_empty() {
            leaving = None;
        }
    }
    let names = |vms: Vec<u32>| {
        vms.into_iter().map(|vm| cluster.vms[vm as usize].name.clone()).collect::<Vec<_>>()
    };
    let would_fit_without = leaving.map(names).unwrap_or_default();
    let smallest_change = match obstacles.as_slice() {
        [] => format!("none: host `{name}` can take vm `{}` now", facts.name),
        _ if !would_fit_without.is_empty() => {
            format!("move {} away from host `{name}`", listed(&would_fit_without))
        }
        [one] => one.way_out(),
        all => all.iter().map(Obstacle::way_out).collect::<Vec<_>>().join(", and "),
    };
    WhyNot {
        vm: facts.id,
        host: cluster.hosts[host.0 as usize].id,
        obstacles,
        sentences,
        would_fit_without,
        smallest_change,
    }
}

/// The fewest VMs whose leaving makes room. One if one is enough, and then the smallest such; else
/// the largest first, and then without those that were not needed: irreducible, not always fewest.
fn fewest_leaving(cluster: &Cluster, item: &Item, host: u32) -> Option<Vec<u32>> {
    let room = &cluster.room[host as usize];
    let lack: Vec<i64> = item
        .size
        .iter()
        .zip(room.free)
        .map(|(size, free)| if *size == 0 { 0 } else { size - free })
        .collect();
    let size = |vm: u32| cluster.vms[vm as usize].item.size;
    let enough = |vms: &[u32]| {
        let mut sum: Size = [0; 4];
        for vm in vms {
            sum.iter_mut().zip(size(*vm)).for_each(|(sum, size)| *sum += size);
        }
        sum.iter().zip(&lack).all(|(sum, lack)| sum >= lack)
    };
    let mut vms = cluster.vms_on[host as usize].clone();
    vms.retain(|vm| cluster.vms[*vm as usize].pinned.is_none());
    vms.sort_unstable_by_key(|vm| (size(*vm), *vm));
    let mut leaving = match vms.iter().find(|vm| enough(&[**vm])) {
        Some(one) => vec![*one],
        None => {
            let mut leaving = Vec::new();
            while !enough(&leaving) {
                leaving.push(vms.pop()?);
            }
            leaving
        }
    };
    for at in (0..leaving.len()).rev() {
        let vm = leaving.remove(at);
        if !enough(&leaving) {
            leaving.insert(at, vm);
        }
    }
    Some(leaving)
}
