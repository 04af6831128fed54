//! Small clusters from a list of numbers, so that proptest makes a failing one smaller by making
//! numbers smaller.

use hostler_policy::DatastoreCandidate;
use hostler_policy::cluster::{
    Automation, Cluster, ClusterHost, ClusterSettings, ClusterSnapshot, ClusterVm, Demand,
    HostCondition, HostDatastore, Strategy as Scoring,
};
use hostler_policy::placement::{Choosing, place_all};
use hostler_policy::rules::{Group, Rule, RuleKind, Scope, Selector, Strength};
use hostler_types::{ByteSize, DatastoreId, DatastoreLimits, HostId, Labels, VmId};
use proptest::prelude::*;
use uuid::Uuid;

pub(crate) fn tape() -> impl Strategy<Value = Vec<u16>> {
    proptest::collection::vec(any::<u16>(), 0..400)
}

#[derive(Debug)]
pub(crate) struct Tape(std::vec::IntoIter<u16>);

impl Tape {
    pub(crate) fn new(numbers: Vec<u16>) -> Self {
        Self(numbers.into_iter())
    }

    /// 0 to `below`, which is not reached.
    pub(crate) fn next(&mut self, below: u64) -> u64 {
        u64::from(self.0.next().unwrap_or(0)) % below
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.next(count) == count - 1
    }

    fn some(&mut self, of: &[&str], one_in: u64) -> Vec<String> {
        of.iter().filter(|_| self.one_in(one_in)).map(|name| (*name).to_owned()).collect()
    }
}

fn uuid(kind: u128, number: u64) -> Uuid {
    Uuid::from_u128(kind << 100 | u128::from(number))
}

fn label(key: &str, value: &str) -> Labels {
    Labels::from([(key.to_owned(), value.to_owned())])
}

/// Hosts, datastores and rules, with no VMs.
pub(crate) fn empty_cluster(tape: &mut Tape) -> ClusterSnapshot {
    let strategies = [Scoring::Spread, Scoring::Pack];
    let mut snapshot = ClusterSnapshot {
        settings: ClusterSettings {
            strategy: strategies[usize::try_from(tape.next(2)).unwrap()],
            memory_overcommit_percent: [Some(100), Some(150), None]
                [usize::try_from(tape.next(3)).unwrap()],
            vcpus_per_cpu: [Some(2), Some(1), None][usize::try_from(tape.next(3)).unwrap()],
            baseline: tape.some(&["avx"], 6),
        },
        ..ClusterSnapshot::default()
    };
    for number in 0..1 + tape.next(3) {
        snapshot.datastores.push(DatastoreCandidate {
            id: DatastoreId::from_uuid(uuid(3, number)),
            name: format!("store{number}"),
            ready: true,
            capacity: ByteSize::gib(20 + tape.next(80)),
            free: ByteSize::gib(20),
            maintenance: tape.one_in(8),
            provisioned: ByteSize::gib(tape.next(20)),
            limits: DatastoreLimits {
                overcommit_percent: tape.one_in(3).then_some(100),
                ..DatastoreLimits::default()
            },
        });
    }
    for number in 0..1 + tape.next(5) {
        let id = HostId::from_uuid(uuid(1, tape.next(1000) << 16 | number));
        let memory = ByteSize::gib(4 + tape.next(13));
        let cpus = 2 + u32::try_from(tape.next(7)).unwrap();
        let mut host = ClusterHost::new(id, format!("host{number}"), cpus, memory);
        if !tape.one_in(8) {
            host.labels = label("rack", ["r0", "r1", "r2"][usize::try_from(tape.next(3)).unwrap()]);
        }
        host.condition = match tape.next(10) {
            8 => HostCondition::Maintenance,
            9 => HostCondition::Disconnected,
            _ => HostCondition::Available,
        };
        host.promised_memory = ByteSize::gib(tape.next(12).saturating_sub(9));
        if !tape.one_in(5) {
            host.cpu_features = vec!["avx".to_owned(), "sse".to_owned()];
        }
        host.networks = vec!["br0".to_owned()];
        host.networks.extend(tape.some(&["br1"], 2));
        for store in &snapshot.datastores {
            if !tape.one_in(4) {
                host.datastores.push(HostDatastore { id: store.id, ready: !tape.one_in(8) });
            }
        }
        host.link = format!("link{}", tape.next(2));
        snapshot.hosts.push(host);
    }
    for number in 0..tape.next(5) {
        let kind = kind(tape);
        let strength = if tape.one_in(4) { Strength::Should } else { Strength::Must };
        snapshot.rules.push(Rule { name: format!("rule{number}"), strength, kind });
    }
    snapshot
        .vm_groups
        .push(Group { name: "blue".to_owned(), members: Selector::Labels(label("app", "blue")) });
    let first = Selector::Names(vec!["host0".to_owned(), "host1".to_owned()]);
    snapshot.host_groups.push(Group { name: "first".to_owned(), members: first });
    snapshot
}

fn kind(tape: &mut Tape) -> RuleKind {
    let vms = match tape.next(4) {
        0 => Selector::Names(
            (0..2 + tape.next(3)).map(|n| format!("vm{}", n * (1 + tape.next(3)))).collect(),
        ),
        1 => Selector::Labels(label("app", "red")),
        2 => Selector::Group("blue".to_owned()),
        _ => Selector::Names(vec![
            format!("new{}", tape.next(4)),
            format!("new{}", tape.next(4)),
            "vm0".to_owned(),
        ]),
    };
    let scope = if tape.one_in(3) { Scope::Label("rack".to_owned()) } else { Scope::Host };
    let hosts = match tape.next(3) {
        0 => Selector::Group("first".to_owned()),
        1 => Selector::Labels(label("rack", "r0")),
        _ => Selector::Names(vec![format!("host{}", tape.next(5))]),
    };
    match tape.next(5) {
        0 | 1 => RuleKind::AntiAffinity { vms, scope },
        2 => RuleKind::Affinity { vms, scope },
        3 => RuleKind::RunOn { vms, hosts },
        _ => RuleKind::NotRunOn { vms, hosts },
    }
}

/// A VM that is to be placed.
pub(crate) fn new_vm(tape: &mut Tape, name: String, number: u64) -> ClusterVm {
    let id = VmId::from_uuid(uuid(2, tape.next(1000) << 16 | number));
    let cpus = 1 + u32::try_from(tape.next(4)).unwrap();
    let mut vm = ClusterVm::new(id, name, cpus, ByteSize::gib(1 + tape.next(4)));
    if !tape.one_in(3) {
        vm.labels = label("app", ["blue", "red"][usize::try_from(tape.next(2)).unwrap()]);
    }
    vm.disks = (0..tape.next(3)).map(|_| ByteSize::gib(1 + tape.next(15))).collect();
    vm.memory_reservation = ByteSize::gib(tape.next(8).saturating_sub(5)).min(vm.memory);
    vm.cpu_reservation = tape.next(6).saturating_sub(3) * 1000;
    vm.networks = tape.some(&["br0", "br1"], 4);
    vm.cpu_features = tape.some(&["sse"], 6);
    vm.demand = Demand {
        cpu: tape.next(u64::from(cpus) * 2000),
        memory: ByteSize(vm.memory.0 * tape.next(101) / 100),
    };
    vm.contention.cpu_ready_permille = u16::try_from(tape.next(300).saturating_sub(200)).unwrap();
    vm.dirty_rate = ByteSize::mib(tape.next(1500));
    vm.pinned = tape.one_in(15).then(|| "it has a device of the host".to_owned());
    vm.automation = match tape.next(12) {
        10 => Some(Automation::Disabled),
        11 => Some(Automation::Manual),
        _ => None,
    };
    vm.seconds_since_move = tape.one_in(8).then_some(60);
    vm
}

/// With up to `most` VMs that have been placed one after the other.
pub(crate) fn cluster(tape: &mut Tape, most: u64) -> ClusterSnapshot {
    let mut snapshot = empty_cluster(tape);
    let mut index = Cluster::build(&snapshot).unwrap();
    for number in 0..tape.next(most + 1) {
        let vm = new_vm(tape, format!("vm{number}"), number);
        let seed = tape.next(1000);
        let choosing = Choosing { seed, window: 1 };
        if let Ok(placed) = place_all(&mut index, std::slice::from_ref(&vm), choosing) {
            let after =
                crate::checker::with_placed(&snapshot, &vm, placed[0].host, placed[0].datastore);
            snapshot = after.expect("placed");
        }
    }
    snapshot
}

/// VMs that are on hosts where some must not be.
pub(crate) fn disorder(tape: &mut Tape, most: u64) -> ClusterSnapshot {
    let mut snapshot = empty_cluster(tape);
    for number in 0..tape.next(most + 1) {
        let mut vm = new_vm(tape, format!("vm{number}"), number);
        let host =
            &snapshot.hosts[usize::try_from(tape.next(snapshot.hosts.len() as u64)).unwrap()];
        vm.host = Some(host.id);
        vm.datastore = host.datastores.first().map(|own| own.id);
        snapshot.vms.push(vm);
    }
    snapshot
}
