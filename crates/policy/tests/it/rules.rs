//! Conflicts and violations against the checker.

use hostler_policy::cluster::{Cluster, ClusterSnapshot};
use hostler_policy::rules::{Strength, conflicts, violations};
use hostler_types::ByteSize;
use proptest::prelude::*;

use crate::checker::{all_possible, faults};
use crate::tape::{Tape, disorder, tape};

/// Only the rules are left to stand in the way.
fn roomy(mut snapshot: ClusterSnapshot) -> ClusterSnapshot {
    snapshot.settings.memory_overcommit_percent = None;
    snapshot.settings.vcpus_per_cpu = None;
    snapshot.settings.baseline.clear();
    for vm in &mut snapshot.vms {
        (vm.cpus, vm.memory, vm.host) = (1, ByteSize::gib(1), None);
        (vm.cpu_reservation, vm.memory_reservation) = (0, ByteSize(0));
        vm.disks.clear();
        vm.networks.clear();
        vm.cpu_features.clear();
        vm.datastore = Some(snapshot.datastores[0].id);
    }
    let store = snapshot.datastores[0].id;
    for host in &mut snapshot.hosts {
        host.condition = hostler_policy::cluster::HostCondition::Available;
        host.datastores = vec![hostler_policy::cluster::HostDatastore { id: store, ready: true }];
    }
    snapshot
}

/// Whether some assignment of all VMs keeps the rules, by trying everything.
fn satisfiable(snapshot: &ClusterSnapshot) -> bool {
    let mut empty = snapshot.clone();
    let vms = std::mem::take(&mut empty.vms);
    all_possible(&empty, &vms)
}

fn only(snapshot: &ClusterSnapshot, rules: impl Fn(&str) -> bool) -> ClusterSnapshot {
    let mut some = snapshot.clone();
    some.rules.retain(|rule| rule.strength == Strength::Must && rules(&rule.name));
    some
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn conflicts_are_real_irreducible_and_all_found(numbers in tape()) {
        let snapshot = roomy(disorder(&mut Tape::new(numbers), 4));
        let found = conflicts(&snapshot).unwrap();
        prop_assert_eq!(found.is_empty(), satisfiable(&only(&snapshot, |_| true)), "{:?}", found);
        for conflict in found {
            let within = |name: &str| conflict.rules.iter().any(|own| own == name);
            prop_assert!(!satisfiable(&only(&snapshot, within)), "{:?}", conflict);
            for rule in &conflict.rules {
                let without = |name: &str| within(name) && name != rule;
                prop_assert!(satisfiable(&only(&snapshot, without)), "{:?} without {}", conflict, rule);
            }
        }
    }

    #[test]
    fn violations_are_what_the_checker_finds(numbers in tape()) {
        let snapshot = disorder(&mut Tape::new(numbers), 10);
        let index = Cluster::build(&snapshot).unwrap();
        let mut told: Vec<_> = violations(&index)
            .into_iter()
            .filter(|violation| violation.strength == Strength::Must)
            .map(|violation| violation.rule)
            .collect();
        told.sort_unstable();
        let found = faults(&snapshot);
        let named = |name: &str| found.keys().any(|fault| fault.starts_with(&format!("rule {name}:")));
        let mut expected: Vec<_> =
            snapshot.rules.iter().filter(|rule| named(&rule.name)).map(|rule| rule.name.clone()).collect();
        expected.sort_unstable();
        prop_assert_eq!(told, expected);
    }
}
