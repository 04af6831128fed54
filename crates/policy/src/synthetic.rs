//! Made-up fleets of any size, from a seed: for tests, benchmarks, and trying things out.
//!
//! No trace of real placements may be shipped, so that the distributions are made after what is
//! published: VMs with about 3 vCPUs in the mean and a few large ones (Azure's V2 trace: 2.9 cores
//! by VM-hour), 20 to 40 VMs a host, CPU use of a quarter in the mean and far more for some, racks
//! of 20 hosts, datastores shared by 100, two CPU generations. One VM in eight belongs to a service
//! whose VMs are kept apart, on hosts or racks; one in fifty has a companion on its host; licences
//! keep some on certain hosts.

use hostler_types::{ByteSize, DatastoreId, DatastoreLimits, HostId, Labels, VmId};
use uuid::Uuid;

use crate::cluster::{
    Cluster, ClusterHost, ClusterSettings, ClusterSnapshot, ClusterVm, Demand, HostDatastore,
    Strategy,
};
use crate::placement::{Choosing, DatastoreCandidate, place_all};
use crate::rules::{Rule, RuleKind, Scope, Selector, Strength};

/// Hosts that share datastores, and hosts of a rack.
const SLICE: usize = 100;
const RACK: usize = 20;
/// vCPUs and GiB of memory, and how many of 100 VMs have them.
const SIZES: [(u32, u64, u64); 6] =
    [(1, 2, 25), (2, 4, 25), (2, 8, 20), (4, 16, 18), (8, 32, 9), (16, 64, 3)];

/// Of 50 VMs the one that has a companion, 50 before or after it.
const PAIRED: usize = 6;

/// What a fleet is like.
#[derive(Debug, Clone, Copy)]
pub struct Fleet {
    pub hosts: usize,
    pub vms: usize,
    pub seed: u64,
    /// Logical CPUs of a host.
    pub cpus: u32,
    pub memory: ByteSize,
    pub strategy: Strategy,
}

impl Fleet {
    /// About 60 % of the memory is promised, whatever the number of VMs for each host.
    pub fn of(hosts: usize, vms: usize, seed: u64) -> Self {
        let each = (vms.div_ceil(hosts.max(1)) as u64).max(1);
        Self {
            hosts,
            vms,
            seed,
            cpus: u32::try_from(each * 3).unwrap_or(u32::MAX).max(32),
            memory: ByteSize::gib((each * 18).max(128)),
            strategy: Strategy::Spread,
        }
    }

    /// Hosts, datastores, rules; no VMs.
    pub fn empty(&self) -> ClusterSnapshot {
        let mut snapshot = ClusterSnapshot {
            settings: ClusterSettings {
                strategy: self.strategy,
                memory_overcommit_percent: Some(100),
                vcpus_per_cpu: Some(8),
                baseline: vec!["sse4-2".to_owned()],
            },
            ..ClusterSnapshot::default()
        };
        for slice in 0..self.hosts.div_ceil(SLICE) {
            for number in 0..4 {
                snapshot.datastores.push(datastore(slice, number));
            }
        }
        for number in 0..self.hosts {
            snapshot.hosts.push(self.host(number, &snapshot.datastores));
        }
        snapshot.rules = self.rules();
        snapshot
    }

    fn host(&self, number: usize, datastores: &[DatastoreCandidate]) -> ClusterHost {
        let mut host = ClusterHost::new(
            HostId::from_uuid(id(1, number)),
            format!("host-{number:05}"),
            self.cpus,
            self.memory,
        );
        host.mhz_per_cpu = 2_500;
        host.labels.insert("rack".to_owned(), format!("r{}", number / RACK));
        host.labels.insert("generation".to_owned(), (number % 3).to_string());
        host.cpu_features = vec!["sse4-2".to_owned(), "avx2".to_owned()];
        if number.is_multiple_of(3) {
            host.cpu_features.push("avx512f".to_owned());
        }
        host.networks = (0..4).map(|network| format!("br{network}")).collect();
        let first = number / SLICE * 4;
        host.datastores = datastores[first..first + 4]
            .iter()
            .map(|datastore| HostDatastore { id: datastore.id, ready: true })
            .collect();
        host.link = format!("r{}", number / RACK);
        host
    }

    fn services(&self) -> usize {
        (self.vms / 40).max(1)
    }

    fn rules(&self) -> Vec<Rule> {
        let labelled =
            |key: &str, value: String| Selector::Labels(Labels::from([(key.to_owned(), value)]));
        let mut rules = Vec::new();
        for service in 0..self.services() {
            let vms = labelled("service", format!("s{service}"));
            let scope = if service.is_multiple_of(4) {
                Scope::Label("rack".to_owned())
            } else {
                Scope::Host
            };
            let strength =
                if service.is_multiple_of(5) { Strength::Should } else { Strength::Must };
            let kind = RuleKind::AntiAffinity { vms, scope };
            rules.push(Rule { name: format!("apart-{service}"), strength, kind });
        }
        for pair in 0..self.vms / 100 {
            let vms = labelled("pair", format!("p{pair}"));
            let kind = RuleKind::Affinity { vms, scope: Scope::Host };
            rules.push(Rule { name: format!("pair-{pair}"), strength: Strength::Must, kind });
        }
        let licensed = RuleKind::RunOn {
            vms: labelled("licence", "db".to_owned()),
            hosts: labelled("generation", "0".to_owned()),
        };
        rules.push(Rule {
            name: "licence-db".to_owned(),
            strength: Strength::Must,
            kind: licensed,
        });
        let quiet = RuleKind::NotRunOn {
            vms: labelled("tier", "front".to_owned()),
            hosts: labelled("generation", "1".to_owned()),
        };
        rules.push(Rule {
            name: "front-not-on-1".to_owned(),
            strength: Strength::Should,
            kind: quiet,
        });
        rules
    }

    /// A VM that is to be placed. Those of the same number and seed are the same.
    pub fn vm(&self, number: usize) -> ClusterVm {
        let mut draw = Draw(self.seed ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut at = draw.below(100);
        let mut size = SIZES[0];
        for own in SIZES {
            size = own;
            if at < own.2 {
                break;
            }
            at -= own.2;
        }
        let (cpus, memory, _) = size;
        let vm = VmId::from_uuid(id(2, number));
        let mut vm = ClusterVm::new(vm, format!("vm-{number:06}"), cpus, ByteSize::gib(memory));
        vm.disks = vec![ByteSize::gib(20), ByteSize::gib(memory * 4)];
        vm.networks = vec![format!("br{}", draw.below(4))];
        // Companions must not ask for different hosts.
        if draw.below(20) == 0 && number % 50 != PAIRED {
            vm.cpu_features = vec!["avx512f".to_owned()];
        }
        if draw.below(10) == 0 {
            vm.memory_reservation = ByteSize::gib(memory / 2);
            vm.cpu_reservation = u64::from(cpus) * 500;
        }
        self.label(&mut vm, number, &mut draw);
        // Cubed, so that the mean is a quarter and a few want nearly all they have.
        let part = |draw: &mut Draw| (draw.below(1_001) as f64 / 1_000.0).powi(3);
        let mhz = f64::from(cpus) * 2_500.0;
        vm.demand = Demand {
            cpu: whole(part(&mut draw) * mhz),
            memory: ByteSize(vm.memory.0 / 100 * (40 + number as u64 % 50)),
        };
        let hour = ByteSize(vm.demand.memory.0);
        vm.demand_hour = Some(Demand { cpu: vm.demand.cpu / 10 * 9, memory: hour });
        vm.dirty_rate = ByteSize::mib(draw.below(200));
        vm
    }

    fn label(&self, vm: &mut ClusterVm, number: usize, draw: &mut Draw) {
        let mut label = |key: &str, value: String| vm.labels.insert(key.to_owned(), value);
        match number % 50 {
            // Five VMs of each service.
            0..=5 => {
                let service = (number / 50 * 6 + number % 50) / 5 % self.services();
                label("service", format!("s{service}"));
            }
            PAIRED => {
                let pair = number / 100 % (self.vms / 100).max(1);
                label("pair", format!("p{pair}"));
            }
            _ => {}
        }
        match draw.below(25) {
            0 if number % 50 != PAIRED => drop(label("licence", "db".to_owned())),
            1..=4 => drop(label("tier", "front".to_owned())),
            _ => {}
        }
    }

    /// Of 100 VMs from a multiple of 100 on, the two that belong on one host.
    pub fn companions(hundred: usize) -> [usize; 2] {
        [hundred * 100 + PAIRED, hundred * 100 + 50 + PAIRED]
    }

    /// With all its VMs placed here and there by the rules; those that fit nowhere are left out.
    ///
    /// # Panics
    /// Never: the snapshot is of its own making.
    pub fn filled(&self) -> ClusterSnapshot {
        let mut snapshot = self.empty();
        let mut cluster = Cluster::build(&snapshot).expect("ids are unique and known");
        for number in 0..self.vms {
            let vm = self.vm(number);
            let choosing = Choosing { seed: self.seed.wrapping_add(number as u64), window: 1 };
            let placed = place_all(&mut cluster, std::slice::from_ref(&vm), choosing);
            if let Some(placed) = placed.ok().and_then(|placed| placed.first().copied()) {
                let (host, datastore) = (Some(placed.host), placed.datastore);
                snapshot.vms.push(ClusterVm { host, datastore, ..vm });
            }
        }
        snapshot
    }
}

fn datastore(slice: usize, number: usize) -> DatastoreCandidate {
    DatastoreCandidate {
        id: DatastoreId::from_uuid(id(3, slice * 4 + number)),
        name: format!("san-{slice}-{number}"),
        ready: true,
        capacity: ByteSize::gib(1 << 20),
        free: ByteSize::gib((1 << 19) + number as u64),
        maintenance: false,
        provisioned: ByteSize(0),
        limits: DatastoreLimits { overcommit_percent: Some(400), ..DatastoreLimits::default() },
    }
}

fn id(kind: u128, number: usize) -> Uuid {
    Uuid::from_u128(kind << 96 | number as u128)
}

fn whole(number: f64) -> u64 {
    // Numbers of MHz: far below 2^53, and not negative.
    format!("{number:.0}").parse().unwrap_or(0)
}

/// `SplitMix64`.
struct Draw(u64);

impl Draw {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % most.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_is_what_it_says_and_always_the_same() {
        let fleet = Fleet::of(200, 4_000, 7);
        let filled = fleet.filled();
        assert_eq!(filled, fleet.filled());
        assert!(filled.vms.len() > 3_900, "{}", filled.vms.len());
        let cluster = Cluster::build(&filled).unwrap();
        let broken = crate::rules::violations(&cluster);
        let must = broken.iter().filter(|own| own.strength == Strength::Must).count();
        assert_eq!(must, 0, "{broken:?}");
        let mean = |of: fn(&ClusterVm) -> u64| {
            filled.vms.iter().map(of).sum::<u64>() as f64 / filled.vms.len() as f64
        };
        let cpus = mean(|vm| u64::from(vm.cpus));
        assert!((2.5..3.5).contains(&cpus), "{cpus}");
        let used = mean(|vm| vm.demand.cpu) / (cpus * 2_500.0);
        assert!((0.2..0.3).contains(&used), "{used}");
    }
}
