//! From a snapshot to its index.

use std::collections::{BTreeSet, HashMap};
use std::sync::OnceLock;

use hostler_types::{ByteSize, DatastoreId, HostId, VmId};

use super::WIDER;
use super::classes::{Asked, ClassKey};
use super::state::{HostFacts, Load, Room, StoreRoom, UNLIMITED, VmFacts};
use super::{
    Bits, Class, Cluster, ClusterHost, ClusterSettings, ClusterSnapshot, ClusterVm, Contention,
    Demand, Item, Reach, StoreIndex, StoreNeed, narrow,
};
use crate::placement::{DatastoreCandidate, takes_disks};
use crate::rules::{Between, HostRule, Members, RuleKind, RuleTable, Scope, ScopeTable, Strength};

/// Why a snapshot makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    #[error("{kind} `{name}` is in the snapshot twice; remove one of the two entries")]
    Twice { kind: &'static str, name: String },
    #[error(
        "vm `{vm}` is on host {host}, which the snapshot does not list; add the host, or remove the VM's `host`"
    )]
    NoSuchHost { vm: String, host: HostId },
    #[error(
        "{kind} `{name}` has the datastore {datastore}, which the snapshot does not list; add it to `datastores`"
    )]
    NoSuchDatastore { kind: &'static str, name: String, datastore: DatastoreId },
    #[error(
        "rule `{rule}` is about the group `{group}`, which does not exist or is made of groups; give it names or labels"
    )]
    NoSuchGroup { rule: String, group: String },
    #[error("{kind} `{name}`: {reason}")]
    OutOfRange { kind: &'static str, name: String, reason: String },
}

/// No host has more MHz or vCPUs, so that sums do not overflow.
const LARGEST: u64 = 1 << 40;
/// No host or VM has more memory: 64 TiB. Overcommitted 100 times it is still exact in an `f64`.
const LARGEST_MEMORY: u64 = 1 << 46;

impl Cluster {
    /// # Errors
    /// What in the snapshot is there twice, is referred to and not there, or is out of range.
    pub fn build(snapshot: &ClusterSnapshot) -> Result<Self, SnapshotError> {
        let mut cluster = Self {
            settings: snapshot.settings.clone(),
            hosts: Vec::with_capacity(snapshot.hosts.len()),
            room: Vec::with_capacity(snapshot.hosts.len()),
            vms: Vec::with_capacity(snapshot.vms.len()),
            vms_on: vec![Vec::new(); snapshot.hosts.len()],
            ruled: Vec::new(),
            stores: Vec::new(),
            store_room: Vec::new(),
            rules: RuleTable::default(),
            classes: Vec::new(),
            class_of: HashMap::new(),
            features: Vec::new(),
            features_of: HashMap::new(),
            networks: Vec::new(),
            networks_of: HashMap::new(),
            reaching: vec![Vec::new(); snapshot.datastores.len()],
            available: OnceLock::new(),
            with_store: OnceLock::new(),
            host_of: HashMap::new(),
            vm_of: HashMap::with_capacity(snapshot.vms.len()),
            store_of: HashMap::new(),
        };
        cluster.add_stores(&snapshot.datastores)?;
        cluster.add_hosts(&snapshot.hosts)?;
        cluster.add_rules(snapshot)?;
        let mut vms: Vec<_> = snapshot.vms.iter().collect();
        vms.sort_unstable_by_key(|vm| vm.id);
        for vm in vms {
            cluster.insert(vm)?;
        }
        Ok(cluster)
    }

    fn add_stores(&mut self, stores: &[DatastoreCandidate]) -> Result<(), SnapshotError> {
        let mut sorted: Vec<_> = stores.iter().collect();
        sorted.sort_unstable_by_key(|store| store.id);
        for store in sorted {
            if self.store_of.insert(store.id, narrow(self.stores.len())).is_some() {
                return Err(SnapshotError::Twice { kind: "datastore", name: store.name.clone() });
            }
            self.stores.push(store.clone());
            self.store_room.push(StoreRoom::of(store));
        }
        Ok(())
    }

    fn add_hosts(&mut self, hosts: &[ClusterHost]) -> Result<(), SnapshotError> {
        let mut sorted: Vec<_> = hosts.iter().collect();
        sorted.sort_unstable_by_key(|host| host.id);
        let mut links: HashMap<&str, u32> = HashMap::new();
        for host in sorted {
            let cpu = u64::from(host.cpus) * u64::from(host.mhz_per_cpu);
            within("host", &host.name, cpu, host.memory)?;
            within("host", &host.name, host.promised_cpus, host.promised_memory)?;
            let reserved = host.promised_memory_reservation;
            within("host", &host.name, host.promised_cpu_reservation, reserved)?;
            if self.host_of.insert(host.id, narrow(self.hosts.len())).is_some() {
                return Err(SnapshotError::Twice { kind: "host", name: host.name.clone() });
            }
            let stores = host.datastores.iter().map(|own| {
                let store = self.store("host", &host.name, own.id)?;
                Ok((store, own.ready))
            });
            let stores: Vec<_> = stores.collect::<Result<_, _>>()?;
            let position = narrow(self.hosts.len());
            for (store, ready) in &stores {
                self.reaching[*store as usize].push((position, *ready));
            }
            let next = narrow(links.len());
            self.hosts.push(HostFacts {
                id: host.id,
                name: host.name.clone(),
                condition: host.condition,
                features: host.cpu_features.iter().cloned().collect(),
                networks: host.networks.iter().cloned().collect(),
                stores,
                link: *links.entry(&host.link).or_insert(next),
            });
            self.room.push(Room::of(host, &self.settings));
        }
        self.settle_widest();
        Ok(())
    }

    /// How many CPUs a VM may have on each host, which depends on all of them.
    pub(super) fn settle_widest(&mut self) {
        let most = self.room.iter().map(|room| room.cpus).max().unwrap_or(0);
        for room in &mut self.room {
            room.widest = if room.cpus == most { room.cpus * i64::from(WIDER) } else { room.cpus };
        }
    }

    fn store(
        &self,
        kind: &'static str,
        name: &str,
        datastore: DatastoreId,
    ) -> Result<StoreIndex, SnapshotError> {
        let found = self.store_of.get(&datastore).copied();
        found.ok_or_else(|| SnapshotError::NoSuchDatastore {
            kind,
            name: name.to_owned(),
            datastore,
        })
    }

    fn add_rules(&mut self, snapshot: &ClusterSnapshot) -> Result<(), SnapshotError> {
        let mut sorted: Vec<_> = snapshot.hosts.iter().collect();
        sorted.sort_unstable_by_key(|host| host.id);
        self.rules.scopes.push(ScopeTable::hosts());
        let mut names = BTreeSet::new();
        for rule in &snapshot.rules {
            if !names.insert(&rule.name) {
                return Err(SnapshotError::Twice { kind: "rule", name: rule.name.clone() });
            }
            let missing = |group: &str| SnapshotError::NoSuchGroup {
                rule: rule.name.clone(),
                group: group.to_owned(),
            };
            let members = Members::of(rule.kind.vms(), &snapshot.vm_groups).map_err(missing)?;
            let must = rule.strength == Strength::Must;
            let name = rule.name.clone();
            match &rule.kind {
                RuleKind::Affinity { scope, .. } | RuleKind::AntiAffinity { scope, .. } => {
                    let together = matches!(rule.kind, RuleKind::Affinity { .. });
                    let scope = self.scope(scope, &sorted);
                    let position = narrow(self.rules.between.len());
                    self.rules.matcher.add(position, members);
                    self.rules.between.push(Between::new(name, must, together, scope));
                }
                RuleKind::RunOn { hosts, .. } | RuleKind::NotRunOn { hosts, .. } => {
                    let run_on = matches!(rule.kind, RuleKind::RunOn { .. });
                    let hosts = Members::of(hosts, &snapshot.host_groups).map_err(missing)?;
                    let mut allowed = Bits::none(sorted.len());
                    for (at, host) in sorted.iter().enumerate() {
                        if hosts.select(&host.name, &host.labels) == run_on {
                            allowed.insert(at);
                        }
                    }
                    self.rules.host_matcher.add(narrow(self.rules.with_hosts.len()), members);
                    self.rules.with_hosts.push(HostRule { name, must, allowed, run_on });
                }
            }
        }
        Ok(())
    }

    /// Finds or makes the table of a scope; `hosts` are in the order of their positions.
    fn scope(&mut self, scope: &Scope, hosts: &[&ClusterHost]) -> usize {
        let Scope::Label(label) = scope else { return 0 };
        let same = |table: &ScopeTable| table.label.as_ref() == Some(label);
        let scopes = &mut self.rules.scopes;
        scopes.iter().position(same).unwrap_or_else(|| {
            let values = hosts.iter().map(|host| host.labels.get(label));
            scopes.push(ScopeTable::by_label(label, values));
            scopes.len() - 1
        })
    }

    /// Lists a VM that has no host yet, so that it can be placed.
    ///
    /// # Errors
    /// If it is listed already, or has or needs a datastore that is not.
    pub fn adopt(&mut self, vm: &ClusterVm) -> Result<super::VmIndex, SnapshotError> {
        let item = self.item(vm)?;
        let position = narrow(self.vms.len());
        if self.vm_of.insert(vm.id, position).is_some() {
            return Err(SnapshotError::Twice { kind: "vm", name: vm.name.clone() });
        }
        let with_hosts = |class: &u32| !self.classes[*class as usize].key.host_rules.is_empty();
        if !item.rules.is_empty() || item.classes.iter().any(with_hosts) {
            self.ruled.push(position);
        }
        self.vms.push(VmFacts {
            id: vm.id,
            name: vm.name.clone(),
            host: None,
            item,
            contention: vm.contention,
            dirty_rate: vm.dirty_rate.0 as f64,
            seconds_since_move: vm.seconds_since_move,
            automation: vm.automation,
            pinned: vm.pinned.clone(),
        });
        Ok(super::VmIndex(position))
    }

    /// What a VM needs, whether or not it is listed.
    pub(crate) fn item(&mut self, vm: &ClusterVm) -> Result<Item, SnapshotError> {
        let unknown = |host| SnapshotError::NoSuchHost { vm: vm.name.clone(), host };
        // What is somewhere is wanted nowhere else.
        let wanted = vm.wanted.filter(|_| vm.host.is_none());
        let wanted = wanted.map(|id| self.host_of.get(&id).copied().ok_or_else(|| unknown(id)));
        let host = wanted.transpose()?;
        within("vm", &vm.name, vm.cpu_reservation, vm.memory)?;
        let own = vm.datastore.map(|id| self.store("vm", &vm.name, id)).transpose()?;
        let store = match own {
            Some(store) => StoreNeed::One(store),
            None if vm.host.is_some() => StoreNeed::Nothing,
            None => StoreNeed::Any,
        };
        let mut reach = Vec::new();
        for Reach { datastore, what } in &vm.reach {
            let store = self.store("vm", &vm.name, *datastore)?;
            reach.push((store, what.clone()));
        }
        let rules = self.rules.matcher.rules_of(&vm.name, &vm.labels);
        let mut scopes: Vec<_> = (rules.iter().map(|rule| &self.rules.between[*rule as usize]))
            .filter(|rule| rule.must && rule.scope != 0)
            .map(|rule| narrow(rule.scope))
            .collect();
        scopes.sort_unstable();
        scopes.dedup();
        let needed = if vm.cpu_features.is_empty() {
            self.settings.baseline.as_slice()
        } else {
            &vm.cpu_features
        };
        let key = ClassKey {
            features: intern(&mut self.features, &mut self.features_of, needed),
            networks: intern(&mut self.networks, &mut self.networks_of, &vm.networks),
            store,
            reach,
            host,
            host_rules: self.rules.host_matcher.rules_of(&vm.name, &vm.labels),
            scopes,
        };
        let class = match self.class_of.get(&key) {
            Some(class) => *class,
            None => {
                let class = narrow(self.classes.len());
                self.classes.push(Class::new(key.clone()));
                self.class_of.insert(key, class);
                class
            }
        };
        let sum = vm.disks.iter().fold(0u64, |sum, disk| sum.saturating_add(disk.0));
        let largest = vm.disks.iter().map(|disk| disk.0).max().unwrap_or(0);
        // A VM without a host whose datastore is known and that asks for no disks has them there.
        let makes = vm.host.is_none() && !(vm.disks.is_empty() && own.is_some());
        Ok(Item {
            size: [
                signed(vm.memory.0),
                i64::from(vm.cpus),
                signed(vm.memory_reservation.0),
                signed(vm.cpu_reservation),
            ],
            cpus: i64::from(vm.cpus),
            memory: signed(vm.memory.0),
            load: load(vm),
            classes: vec![class],
            rules,
            new_disks: makes.then(|| (signed(sum), signed(largest))),
            store,
            clash: None,
        })
    }
}

/// What a VM would use if it got all that it asks for.
///
/// CPU: what it used is what is left of what it wanted after the part of the time it waited, so
/// wanted = used / (1 − ready). Memory: what was taken from it by swap and balloon is wanted too,
/// and it is asked for more by as much as it stands still; never more than it is configured with.
pub(super) fn load(vm: &ClusterVm) -> Load {
    load_of(vm.memory.0 as f64, vm.demand, vm.demand_hour, vm.contention)
}

/// `most_memory` is what it is configured with, in bytes.
pub(super) fn load_of(
    most_memory: f64,
    demand: Demand,
    demand_hour: Option<Demand>,
    contention: Contention,
) -> Load {
    let Contention { cpu_ready_permille, memory_stall_permille, swapped, ballooned } = contention;
    let of = |demand: Demand, ready: u16, stall: u16, taken: u64| {
        let ready = f64::from(ready.min(900)) / 1_000.0;
        let stall = f64::from(stall.min(500)) / 1_000.0;
        let memory = (demand.memory.0 as f64 + taken as f64) / (1.0 - stall);
        [(demand.cpu as f64 / (1.0 - ready)).round(), memory.round().min(most_memory)]
    };
    let taken = swapped.0.saturating_add(ballooned.0);
    let [cpu, memory] = of(demand, cpu_ready_permille, memory_stall_permille, taken);
    match demand_hour {
        None => [cpu, memory, cpu, memory],
        Some(hour) => {
            let [cpu_hour, memory_hour] = of(hour, 0, 0, 0);
            [cpu, memory, cpu_hour, memory_hour]
        }
    }
}

impl Room {
    pub(super) fn of(host: &ClusterHost, settings: &ClusterSettings) -> Self {
        let cpu = i64::from(host.cpus) * i64::from(host.mhz_per_cpu);
        let memory = signed(host.memory.0);
        let overcommit = settings.memory_overcommit_percent;
        let most_memory =
            overcommit.map_or(UNLIMITED, |percent| memory * i64::from(percent.min(10_000)) / 100);
        let ratio = settings.vcpus_per_cpu;
        let most_cpus =
            ratio.map_or(UNLIMITED, |ratio| i64::from(host.cpus) * i64::from(ratio.min(1_000)));
        let most = [most_memory, most_cpus, memory, cpu];
        let promised_memory = signed(host.promised_memory.0);
        let promised_cpus = signed(host.promised_cpus);
        let mut free = most;
        free[super::MEMORY] -= promised_memory;
        free[super::CPU] -= promised_cpus;
        free[2] -= signed(host.promised_memory_reservation.0);
        free[3] -= signed(host.promised_cpu_reservation);
        let scale = |most: i64, physical: i64| {
            (if most == UNLIMITED { physical } else { most }).max(1) as f64
        };
        let capacity = [cpu.max(1) as f64, memory.max(1) as f64];
        let deficit = deficit_of(host.deficit, capacity);
        Self {
            most,
            free,
            scale: [
                scale(most[0], memory),
                scale(most[1], i64::from(host.cpus)),
                scale(most[2], 1),
                scale(most[3], 1),
            ],
            cpus: i64::from(host.cpus),
            widest: i64::from(host.cpus),
            memory,
            promised_cpus,
            promised_memory,
            load: host.promised_load.map(|load| load as f64),
            capacity,
            deficit,
        }
    }
}

/// In parts of the capacity.
pub(super) fn deficit_of(deficit: Demand, capacity: [f64; 2]) -> f64 {
    deficit.cpu as f64 / capacity[0] + deficit.memory.0 as f64 / capacity[1]
}

impl StoreRoom {
    pub(crate) fn of(store: &DatastoreCandidate) -> Self {
        let left = match store.limits.overcommit_percent {
            None => UNLIMITED,
            Some(percent) => {
                let allowed = u128::from(store.capacity.0) * u128::from(percent) / 100;
                let left = allowed.cast_signed() - u128::from(store.provisioned.0).cast_signed();
                i64::try_from(left).unwrap_or(UNLIMITED)
            }
        };
        Self { takes_disks: takes_disks(store), largest: signed(store.capacity.0), left }
    }
}

fn intern(
    table: &mut Vec<Asked>,
    positions: &mut HashMap<Vec<String>, u32>,
    list: &[String],
) -> u32 {
    if let Some(position) = positions.get(list) {
        return *position;
    }
    let position = narrow(table.len());
    table.push(Asked { needed: list.iter().cloned().collect(), hosts: OnceLock::new() });
    positions.insert(list.to_vec(), position);
    position
}

fn within(
    kind: &'static str,
    name: &str,
    count: u64,
    memory: ByteSize,
) -> Result<(), SnapshotError> {
    let out = |reason: String| SnapshotError::OutOfRange { kind, name: name.to_owned(), reason };
    if count > LARGEST {
        return Err(out(format!(
            "{count} MHz or CPUs are more than the {LARGEST} that are possible"
        )));
    }
    if memory.0 > LARGEST_MEMORY {
        let most = ByteSize(LARGEST_MEMORY);
        return Err(out(format!("{memory} of memory are more than the {most} that are possible")));
    }
    Ok(())
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX).min(UNLIMITED)
}

/// Only for sentences: which VM has this id.
impl Cluster {
    pub fn vm_name(&self, id: VmId) -> Option<&str> {
        self.vm(id).map(|vm| self.vms[vm.0 as usize].name.as_str())
    }
}
