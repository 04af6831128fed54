//! The choice of a host: who can take it, and who of them best.
//!
//! The hosts of the item's classes are looked at in a window that begins at a place the seed says:
//! 64 of them are enough to find one that is nearly the best, and different seeds do not all
//! choose the same host. If none of the window can take it, all are looked at, so that a VM is
//! placed whenever some host can take it. Of equal hosts the one with fewer promised vCPUs wins,
//! then the older.

use std::cmp::Reverse;

use super::score::Cost;
use crate::cluster::{Bits, Cluster, Item, Spot, StoreIndex, StoreNeed};

/// How many hosts are looked at before the best of them is taken.
pub const WINDOW: usize = 64;

/// What of the choice does not come from the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choosing {
    /// Any number, kept with the decision.
    pub seed: u64,
    /// Hosts, at least 1.
    pub window: usize,
}

impl Choosing {
    pub const fn seeded(seed: u64) -> Self {
        Self { seed, window: WINDOW }
    }

    /// All hosts, and the best of all.
    pub const fn thorough() -> Self {
        Self { seed: 0, window: usize::MAX }
    }
}

impl Cluster {
    /// The best place for an item, or `None` if no host can take it now.
    pub(crate) fn choose(&self, item: &Item, choosing: Choosing) -> Option<Spot> {
        let merged;
        let hosts = match *item.classes.as_slice() {
            [class] => self.hosts_of(class),
            _ => {
                merged = self.hosts_of_all(&item.classes);
                &merged
            }
        };
        self.choose_among(item, hosts, choosing)
    }

    /// The hosts that pass the filters of all these classes.
    pub(crate) fn hosts_of_all(&self, classes: &[u32]) -> Bits {
        let mut all = Bits::all(self.hosts.len());
        for class in classes {
            all.and(self.hosts_of(*class));
        }
        all
    }

    pub(crate) fn choose_among(
        &self,
        item: &Item,
        hosts: &Bits,
        choosing: Choosing,
    ) -> Option<Spot> {
        let mut best = Best::default();
        // A rule that keeps VMs together leaves few hosts, or one.
        let binding = item.rules.iter().map(|rule| &self.rules.between[*rule as usize]);
        let binding = binding.filter(|rule| rule.must && rule.together);
        if let Some(rule) = binding.clone().find(|rule| rule.places().next().is_some()) {
            let scope = &self.rules.scopes[rule.scope];
            let places = rule.places().flat_map(|place| scope.hosts_in(place));
            for host in places.filter(|host| hosts.has(*host)) {
                best.offer(self, item, host);
            }
            return best.spot(self, item);
        }
        let start = scattered(choosing.seed) % (self.hosts.len().max(1) as u64);
        let start = usize::try_from(start).unwrap_or(0);
        self.offer_wished(item, hosts, (start, choosing.window), &mut best);
        for (seen, host) in hosts.ones_from(start).enumerate() {
            if seen >= choosing.window && best.found() {
                break;
            }
            best.offer(self, item, host);
        }
        best.spot(self, item)
    }

    /// Hosts that `should` rules point to need not be in the window.
    fn offer_wished(
        &self,
        item: &Item,
        hosts: &Bits,
        (start, window): (usize, usize),
        best: &mut Best,
    ) {
        let between = item.rules.iter().map(|rule| &self.rules.between[*rule as usize]);
        for rule in between.filter(|rule| !rule.must && rule.together) {
            let scope = &self.rules.scopes[rule.scope];
            let places = rule.places().flat_map(|place| scope.hosts_in(place));
            for host in places.filter(|host| hosts.has(*host)).take(window) {
                best.offer(self, item, host);
            }
        }
        for class in &item.classes {
            for rule in &self.classes[*class as usize].key.host_rules {
                let rule = &self.rules.with_hosts[*rule as usize];
                if !rule.must {
                    let mut wished = hosts.clone();
                    wished.and(&rule.allowed);
                    for (seen, host) in wished.ones_from(start).enumerate() {
                        if seen >= window && best.found() {
                            break;
                        }
                        best.offer(self, item, host);
                    }
                }
            }
        }
    }

    /// Whether a host of the item's classes can take it now.
    pub(crate) fn fits(&self, item: &Item, host: usize) -> bool {
        item.clash.is_none()
            && self.room[host].fits(item)
            && self.rules.allow(&item.rules, host)
            && (item.new_disks.is_none() || self.store_for(item, host).is_some())
    }

    /// The datastore of a host for disks that are to be made: the one with the most free space,
    /// then the older.
    pub(crate) fn store_for(&self, item: &Item, host: usize) -> Option<StoreIndex> {
        let disks = item.new_disks?;
        let stores = self.hosts[host].stores.iter();
        let possible = stores.filter(|(store, ready)| {
            *ready && item.store.wants(*store) && self.store_room[*store as usize].takes(disks)
        });
        let possible = possible.map(|(store, _)| *store);
        possible.max_by_key(|store| (self.stores[*store as usize].free, Reverse(*store)))
    }
}

/// The best of the hosts offered so far.
#[derive(Debug, Default)]
struct Best(Option<(Cost, i64, usize)>);

impl Best {
    fn offer(&mut self, cluster: &Cluster, item: &Item, host: usize) {
        if !cluster.fits(item, host) {
            return;
        }
        let cost = cluster.cost(item, host).total();
        let offered = (cost, cluster.room[host].promised_cpus, host);
        if self.0.as_ref().is_none_or(|best| offered < *best) {
            self.0 = Some(offered);
        }
    }

    fn found(&self) -> bool {
        self.0.is_some()
    }

    fn spot(self, cluster: &Cluster, item: &Item) -> Option<Spot> {
        let (_, _, host) = self.0?;
        let store = match (cluster.store_for(item, host), item.store) {
            (Some(store), _) => Some(store),
            (None, StoreNeed::One(store)) => Some(store),
            (None, StoreNeed::Any | StoreNeed::Nothing) => None,
        };
        Some(Spot { host: crate::cluster::narrow(host), store })
    }
}

/// Seeds that follow each other begin at places that have nothing to do with each other
/// (`SplitMix64`, Steele, Lea and Flood 2014).
fn scattered(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
