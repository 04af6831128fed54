//! Several VMs at once: all are placed, or none.
//!
//! VMs that a `must` rule keeps on one host are one unit, with their sizes added. Units are placed
//! largest first, which is enough nearly always. If it is not:
//!
//! 1. if one rule keeps all units apart, each place (host, or rack) takes one unit at most, and a
//!    bipartite matching decides exactly whether there are enough;
//! 2. else a search with backtracking goes on, the unit with the fewest hosts first, until it finds
//!    a way, has proved that there is none, or has looked [`STEPS`] times at a host.
//!
//! Limits: VMs that are there are not moved to make room; of a host's datastores the search tries
//! only the one that [`Cluster::store_for`] names; and out of steps it says that it found no way,
//! not that there is none.

use std::collections::BTreeMap;

use hostler_types::{DatastoreId, HostId, VmId};
use serde::{Deserialize, Serialize};

use super::{Choosing, explain::explained};
use crate::cluster::{
    Bits, CPU, Cluster, ClusterVm, Item, MEMORY, SnapshotError, StoreIndex, StoreNeed, UNLIMITED,
    narrow,
};

/// How often the search may look at a host: about a second.
const STEPS: usize = 20_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    pub vm: VmId,
    pub host: HostId,
    /// `None`: it has no disks.
    pub datastore: Option<DatastoreId>,
}

/// Why VMs were not placed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchRefusal {
    #[error(transparent)]
    Input(#[from] SnapshotError),
    /// No host could take this VM even if it were alone.
    #[error("no host can take vm `{vm}`: {why}")]
    NoHost { vm: String, why: String },
    #[error(
        "rule `{rule}` keeps {vms} VMs apart, and only {places} {what} can take one of them; add hosts, or place fewer VMs"
    )]
    TooFewPlaces { rule: String, vms: usize, places: usize, what: String },
    #[error(
        "rule `{rule}` keeps vm `{vm}` apart from one that another rule keeps on its host; change one of the rules"
    )]
    Clash { rule: String, vm: String },
    /// Proved by looking at all ways.
    #[error(
        "each VM fits alone, but there is no way to place these {vms} VMs together: {why}; place fewer, or add a host"
    )]
    NoWay { vms: usize, why: String },
    #[error(
        "no way was found to place these {vms} VMs together, though there may be one; place the largest first, or fewer at once"
    )]
    NotFound { vms: usize },
}

/// Places VMs, and lists them in the cluster where they are. If they cannot all be placed, the
/// cluster is as it was.
///
/// # Errors
/// See [`BatchRefusal`].
pub fn place_all(
    cluster: &mut Cluster,
    vms: &[ClusterVm],
    choosing: Choosing,
) -> Result<Vec<Placed>, BatchRefusal> {
    let first = cluster.vms.len();
    let placed = vms
        .iter()
        .try_for_each(|vm| cluster.adopt(vm).map(|_| ()).map_err(BatchRefusal::from))
        .and_then(|()| {
            let listed: Vec<_> = (first..cluster.vms.len()).map(narrow).collect();
            place_listed(cluster, &listed, choosing)
        });
    if placed.is_err() {
        cluster.forget_from(first);
    }
    placed
}

/// Places VMs that are listed and have no host.
pub(crate) fn place_listed(
    cluster: &mut Cluster,
    vms: &[u32],
    choosing: Choosing,
) -> Result<Vec<Placed>, BatchRefusal> {
    let mut units = units_of(cluster, vms)?;
    units.sort_by(|a, b| b.weight(cluster).total_cmp(&a.weight(cluster)).then(a.vms.cmp(&b.vms)));
    if let [unit] = units.as_slice()
        && let Some((host, stores)) = unit.choose(cluster, &unit.hosts(cluster), choosing)
    {
        return Ok(unit.settle(cluster, host, &stores));
    }
    if let Some(placed) = greedy(cluster, &units, None, choosing) {
        return Ok(placed);
    }
    for unit in &units {
        if unit.choose(cluster, &unit.hosts(cluster), Choosing::thorough()).is_none() {
            let vm = cluster.vms[unit.vms[0] as usize].name.clone();
            let why = explained(cluster, &unit.item, &vm, None, choosing).filters_told();
            return Err(BatchRefusal::NoHost { vm, why });
        }
    }
    if let Some(matched) = matching(cluster, &units)? {
        return Ok(matched);
    }
    Search { left: STEPS }.run(cluster, &units, choosing)
}

/// VMs that go to one host.
#[derive(Debug)]
struct Unit {
    vms: Vec<u32>,
    item: Item,
}

fn units_of(cluster: &Cluster, vms: &[u32]) -> Result<Vec<Unit>, BatchRefusal> {
    // The first unit with a rule takes in all others that have it.
    let mut unit_of: Vec<usize> = (0..vms.len()).collect();
    let mut first_with: BTreeMap<u32, usize> = BTreeMap::new();
    for (at, vm) in vms.iter().enumerate() {
        for rule in &cluster.vms[*vm as usize].item.rules {
            let between = &cluster.rules.between[*rule as usize];
            if !(between.must && between.together && between.scope == 0) {
                continue;
            }
            let (from, to) = (unit_of[at], unit_of[*first_with.entry(*rule).or_insert(at)]);
            let (low, high) = (from.min(to), from.max(to));
            unit_of.iter_mut().filter(|unit| **unit == high).for_each(|unit| *unit = low);
        }
    }
    let mut units: BTreeMap<usize, Unit> = BTreeMap::new();
    for (at, vm) in vms.iter().enumerate() {
        let facts = &cluster.vms[*vm as usize];
        let unit = units.entry(unit_of[at]);
        let unit = unit.or_insert_with(|| Unit { vms: Vec::new(), item: facts.item.clone() });
        if !unit.vms.is_empty() {
            unit.item.merge(&facts.item, &cluster.rules);
            if let Some(rule) = unit.item.clash {
                let rule = cluster.rules.between[rule as usize].name.clone();
                return Err(BatchRefusal::Clash { rule, vm: facts.name.clone() });
            }
        }
        unit.vms.push(*vm);
    }
    Ok(units.into_values().collect())
}

type Stores = Vec<Option<StoreIndex>>;

impl Unit {
    /// How much of an average host it takes.
    fn weight(&self, cluster: &Cluster) -> f64 {
        let hosts = cluster.room.len().max(1) as f64;
        let mean = |of: usize| cluster.room.iter().map(|room| room.scale[of]).sum::<f64>() / hosts;
        let part = |of: usize| self.item.size[of] as f64 / mean(of).max(1.0);
        part(MEMORY).max(part(CPU))
    }

    fn hosts(&self, cluster: &Cluster) -> Bits {
        cluster.hosts_of_all(&self.item.classes)
    }

    /// The best host, and the datastore of each VM.
    fn choose(&self, cluster: &Cluster, hosts: &Bits, choosing: Choosing) -> Option<(u32, Stores)> {
        let spot = cluster.choose_among(&self.item, hosts, choosing)?;
        if self.vms.len() == 1 {
            return Some((spot.host, vec![spot.store]));
        }
        if let Some(stores) = self.stores(cluster, spot.host as usize) {
            return Some((spot.host, stores));
        }
        // The best one's datastores have no room for all of them.
        let possible = hosts.ones().filter(|host| cluster.fits(&self.item, *host));
        let possible = possible.filter_map(|host| Some((host, self.stores(cluster, host)?)));
        let cost = |host: usize| cluster.cost(&self.item, host).total().value();
        let best = possible.min_by(|a, b| cost(a.0).total_cmp(&cost(b.0)));
        best.map(|(host, stores)| (narrow(host), stores))
    }

    /// The datastore of each VM on a host, if all have one.
    fn stores(&self, cluster: &Cluster, host: usize) -> Option<Stores> {
        let mut taken: Vec<(StoreIndex, i64)> = Vec::new();
        let mut stores = Vec::new();
        for vm in &self.vms {
            let item = &cluster.vms[*vm as usize].item;
            let Some((sum, largest)) = item.new_disks else {
                stores.push(match item.store {
                    StoreNeed::One(store) => Some(store),
                    StoreNeed::Nothing | StoreNeed::Any => None,
                });
                continue;
            };
            let before = |store: StoreIndex| {
                taken.iter().filter(|(own, _)| *own == store).map(|(_, sum)| sum).sum::<i64>()
            };
            let own = cluster.hosts[host].stores.iter();
            let possible = own.filter(|(store, ready)| {
                *ready
                    && item.store.wants(*store)
                    && cluster.store_room[*store as usize].takes((sum + before(*store), largest))
            });
            let best = possible.map(|(store, _)| *store).max_by_key(|store| {
                (cluster.stores[*store as usize].free, std::cmp::Reverse(*store))
            })?;
            taken.push((best, sum));
            stores.push(Some(best));
        }
        Some(stores)
    }

    fn settle(&self, cluster: &mut Cluster, host: u32, stores: &Stores) -> Vec<Placed> {
        let placed = self.vms.iter().zip(stores).map(|(vm, store)| {
            cluster.put(*vm, host);
            let item = cluster.vms[*vm as usize].item.clone();
            if let Some(store) = store {
                cluster.promise_disks(&item, *store, 1);
            }
            Placed {
                vm: cluster.vms[*vm as usize].id,
                host: cluster.hosts[host as usize].id,
                datastore: store.map(|store| cluster.stores[store as usize].id),
            }
        });
        placed.collect()
    }

    fn unsettle(&self, cluster: &mut Cluster, stores: &Stores) {
        for (vm, store) in self.vms.iter().zip(stores) {
            cluster.lift(*vm);
            let item = cluster.vms[*vm as usize].item.clone();
            if let Some(store) = store {
                cluster.promise_disks(&item, *store, -1);
            }
        }
    }
}

/// Each unit where it is best, largest first; nothing is left behind if one has no place.
fn greedy(
    cluster: &mut Cluster,
    units: &[Unit],
    within: Option<&Bits>,
    choosing: Choosing,
) -> Option<Vec<Placed>> {
    let (mut done, mut all): (Vec<(&Unit, Stores)>, _) = (Vec::new(), Vec::new());
    for (at, unit) in (0..).zip(units) {
        let mut hosts = unit.hosts(cluster);
        if let Some(within) = within {
            hosts.and(within);
        }
        let seed = choosing.seed.wrapping_add(at);
        match unit.choose(cluster, &hosts, Choosing { seed, ..choosing }) {
            Some((host, stores)) => {
                all.extend(unit.settle(cluster, host, &stores));
                done.push((unit, stores));
            }
            None => {
                done.iter().rev().for_each(|(unit, stores)| unit.unsettle(cluster, stores));
                return None;
            }
        }
    }
    Some(all)
}

/// If one rule keeps all units apart: which place each takes (Kuhn's augmenting paths). `None` if
/// there is no such rule, or other rules do not allow what was found.
///
/// # Errors
/// `TooFewPlaces`: then there is no way at all.
fn matching(cluster: &mut Cluster, units: &[Unit]) -> Result<Option<Vec<Placed>>, BatchRefusal> {
    let common = units[0].item.rules.iter().copied().find(|rule| {
        let between = &cluster.rules.between[*rule as usize];
        between.must && !between.together && units.iter().all(|unit| unit.item.rules.contains(rule))
    });
    let Some(rule) = common else { return Ok(None) };
    let between = &cluster.rules.between[rule as usize];
    let scope = &cluster.rules.scopes[between.scope];
    let places = scope.places(cluster.hosts.len());
    // For each unit its best host in each place.
    let mut edges: Vec<Vec<(usize, u32)>> = Vec::new();
    for unit in units {
        let mut best: BTreeMap<usize, (f64, u32)> = BTreeMap::new();
        for host in unit.hosts(cluster).ones() {
            if cluster.fits(&unit.item, host) && unit.stores(cluster, host).is_some() {
                let cost = cluster.cost(&unit.item, host).total().value();
                let own = best.entry(scope.place(host) as usize).or_insert((cost, narrow(host)));
                if cost < own.0 {
                    *own = (cost, narrow(host));
                }
            }
        }
        edges.push(best.into_iter().map(|(place, (_, host))| (place, host)).collect());
    }
    let mut taken: Vec<Option<usize>> = vec![None; places];
    for unit in 0..units.len() {
        let mut seen = vec![false; places];
        if !augment(unit, &edges, &mut taken, &mut seen) {
            let used: std::collections::BTreeSet<_> =
                edges.iter().flatten().map(|(place, _)| *place).collect();
            return Err(BatchRefusal::TooFewPlaces {
                rule: between.name.clone(),
                vms: units.len(),
                places: used.len().min(units.len() - 1),
                what: scope
                    .label
                    .clone()
                    .map_or("hosts".to_owned(), |label| format!("values of label `{label}`")),
            });
        }
    }
    let mut host_of = vec![0; units.len()];
    for (place, unit) in taken.iter().enumerate() {
        let Some(unit) = unit else { continue };
        let edge = edges[*unit].iter().find(|(own, _)| *own == place);
        host_of[*unit] = edge.expect("matched along an edge").1;
    }
    let (mut done, mut all) = (Vec::new(), Vec::new());
    for (unit, host) in units.iter().zip(host_of) {
        let stores = unit.stores(cluster, host as usize);
        let Some(stores) = stores.filter(|_| cluster.fits(&unit.item, host as usize)) else {
            done.iter().rev().for_each(|(unit, stores): &(&Unit, Stores)| {
                unit.unsettle(cluster, stores);
            });
            return Ok(None);
        };
        all.extend(unit.settle(cluster, host, &stores));
        done.push((unit, stores));
    }
    Ok(Some(all))
}

fn augment(
    unit: usize,
    edges: &[Vec<(usize, u32)>],
    taken: &mut [Option<usize>],
    seen: &mut [bool],
) -> bool {
    for (place, _) in &edges[unit] {
        if std::mem::replace(&mut seen[*place], true) {
            continue;
        }
        if taken[*place].is_none_or(|other| augment(other, edges, taken, seen)) {
            taken[*place] = Some(unit);
            return true;
        }
    }
    false
}

/// The search with backtracking.
struct Search {
    /// Looks at a host that are left.
    left: usize,
}

impl Search {
    fn run(
        mut self,
        cluster: &mut Cluster,
        units: &[Unit],
        choosing: Choosing,
    ) -> Result<Vec<Placed>, BatchRefusal> {
        // VMs to be kept in one rack that has none yet: a rack at a time, before the search would
        // try all hosts of a rack that is too small.
        let undecided = units.iter().flat_map(|unit| &unit.item.rules).find(|rule| {
            let between = &cluster.rules.between[**rule as usize];
            between.must
                && between.together
                && between.scope != 0
                && between.places().next().is_none()
        });
        if let Some(rule) = undecided {
            let scope = cluster.rules.between[*rule as usize].scope;
            for place in 0..cluster.rules.scopes[scope].places(cluster.hosts.len()) {
                let mut within = Bits::none(cluster.hosts.len());
                for host in cluster.rules.scopes[scope].hosts_in(narrow(place)) {
                    within.insert(host);
                }
                if units.iter().all(|unit| unit.item.rules.contains(rule))
                    && let Some(placed) = greedy(cluster, units, Some(&within), choosing)
                {
                    return Ok(placed);
                }
            }
        }
        let mut hosts: Vec<_> = units.iter().map(|unit| unit.hosts(cluster)).collect();
        let mut placed = vec![None; units.len()];
        let vms = units.iter().map(|unit| unit.vms.len()).sum();
        if self.deepen(cluster, units, &mut hosts, &mut placed) {
            let placed =
                units.iter().zip(placed).flat_map(|(unit, spot): (_, Option<(u32, Stores)>)| {
                    let (host, stores) = spot.expect("all units were placed");
                    // They are there; only their record is wanted.
                    unit.vms.iter().zip(stores).map(move |(vm, store)| (*vm, host, store))
                });
            let placed: Vec<_> = placed.collect();
            return Ok(placed
                .into_iter()
                .map(|(vm, host, store)| Placed {
                    vm: cluster.vms[vm as usize].id,
                    host: cluster.hosts[host as usize].id,
                    datastore: store.map(|store| cluster.stores[store as usize].id),
                })
                .collect());
        }
        // Other datastores than those that were tried might have had room.
        let disks = units.iter().any(|unit| {
            let items = unit.vms.iter().map(|vm| &cluster.vms[*vm as usize].item);
            items.into_iter().any(|item| item.new_disks.is_some_and(|(sum, _)| sum > 0))
        });
        let limited = cluster.store_room.iter().any(|room| room.left < UNLIMITED);
        if self.left == 0 || (disks && limited) {
            return Err(BatchRefusal::NotFound { vms });
        }
        let memory: i64 = units.iter().map(|unit| unit.item.size[MEMORY]).sum();
        let memory = hostler_types::ByteSize(u64::try_from(memory).unwrap_or(0));
        let why = format!("they need {memory} of memory, and rules or room stand between them");
        Err(BatchRefusal::NoWay { vms, why })
    }

    /// Places the units that are left, or leaves all as it was.
    fn deepen(
        &mut self,
        cluster: &mut Cluster,
        units: &[Unit],
        hosts: &mut [Bits],
        placed: &mut [Option<(u32, Stores)>],
    ) -> bool {
        let mut fewest: Option<(usize, Vec<(f64, usize)>)> = None;
        for (at, unit) in units.iter().enumerate().filter(|(at, _)| placed[*at].is_none()) {
            let looks = hosts[at].count();
            if self.left < looks {
                self.left = 0;
                return false;
            }
            self.left -= looks;
            let possible = hosts[at].ones().filter(|host| cluster.fits(&unit.item, *host));
            let possible: Vec<_> = possible
                .map(|host| (cluster.cost(&unit.item, host).total().value(), host))
                .collect();
            if fewest.as_ref().is_none_or(|(_, best)| possible.len() < best.len()) {
                fewest = Some((at, possible));
            }
        }
        let Some((at, mut possible)) = fewest else { return true };
        possible.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        for (_, host) in possible {
            let Some(stores) = units[at].stores(cluster, host) else { continue };
            units[at].settle(cluster, narrow(host), &stores);
            placed[at] = Some((narrow(host), stores.clone()));
            if self.deepen(cluster, units, hosts, placed) {
                return true;
            }
            placed[at] = None;
            units[at].unsettle(cluster, &stores);
            if self.left == 0 {
                return false;
            }
        }
        false
    }
}
