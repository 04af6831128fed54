//! Balancing against the checker.

use std::collections::{BTreeMap, BTreeSet};

use hostler_policy::balance::{
    BalanceSettings, Plan, Wanted, Why, balance, fewest_moves, may_begin, measure, order,
};
use hostler_policy::cluster::{
    Automation, Cluster, ClusterHost, ClusterSnapshot, ClusterVm, HostCondition,
};
use hostler_policy::rules::Strength;
use proptest::prelude::*;

use crate::checker::{displaced, faults, faults_in_motion, moved, possible, worse};
use crate::tape::{Tape, cluster, disorder, tape};

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn settings(tape: &mut Tape) -> BalanceSettings {
    BalanceSettings {
        aggressiveness: u8::try_from(1 + tape.next(5)).unwrap(),
        moves_per_host: u16::try_from(1 + tape.next(2)).unwrap(),
        moves_per_link: u16::try_from(1 + tape.next(3)).unwrap(),
        targets: usize::try_from(1 + tape.next(6)).unwrap(),
        seed: tape.next(100),
        ..BalanceSettings::default()
    }
}

fn planned(snapshot: &ClusterSnapshot, settings: &BalanceSettings) -> Plan {
    balance(&mut Cluster::build(snapshot).unwrap(), settings)
}

fn carried_out(snapshot: &ClusterSnapshot, plan: &Plan) -> ClusterSnapshot {
    let mut after = snapshot.clone();
    for step in plan.steps.iter().flat_map(|step| &step.moves) {
        moved(&mut after, step.vm, step.to);
        let vm = after.vms.iter_mut().find(|vm| vm.id == step.vm).unwrap();
        vm.seconds_since_move = Some(0);
    }
    after
}

/// Carries out a plan in an order that its `after` allows, some steps at once, and stops anywhere.
/// Answers what became worse on the way.
fn cancelled_somewhere(snapshot: &ClusterSnapshot, plan: &Plan, tape: &mut Tape) -> Vec<String> {
    let (mut now, mut wrong) = (snapshot.clone(), Vec::new());
    let (mut done, mut running) = (BTreeSet::new(), Vec::<usize>::new());
    for _ in 0..3 * plan.steps.len() {
        let ready: Vec<_> = (0..plan.steps.len())
            .filter(|at| !done.contains(at) && !running.contains(at))
            .filter(|at| plan.steps[*at].after.iter().all(|other| done.contains(other)))
            .collect();
        let motion = |running: &[usize]| {
            let moves = running.iter().flat_map(|at| &plan.steps[*at].moves);
            moves.map(|step| (step.vm, step.to)).collect::<Vec<_>>()
        };
        let begin = !ready.is_empty() && running.len() < 3 && tape.next(2) == 0;
        if begin {
            let before = faults_in_motion(&now, &motion(&running));
            running.push(ready[usize::try_from(tape.next(ready.len() as u64)).unwrap()]);
            wrong.extend(worse(&before, &faults_in_motion(&now, &motion(&running))));
        } else if !running.is_empty() {
            let at = running.remove(usize::try_from(tape.next(running.len() as u64)).unwrap());
            let before = faults(&now);
            for step in &plan.steps[at].moves {
                moved(&mut now, step.vm, step.to);
            }
            wrong.extend(worse(&before, &faults(&now)));
            done.insert(at);
        }
        if tape.next(12) == 11 {
            break;
        }
    }
    wrong
}

/// What of a plan does not hold, whatever the cluster.
fn unsound(snapshot: &ClusterSnapshot, plan: &Plan, settings: &BalanceSettings) -> Vec<String> {
    let (mut now, mut wrong) = (snapshot.clone(), Vec::new());
    let mut per_host: BTreeMap<_, (usize, usize)> = BTreeMap::new();
    for (at, step) in plan.steps.iter().enumerate() {
        let before = faults(&now);
        for step in &step.moves {
            let vm = now.vms.iter().find(|vm| vm.id == step.vm).unwrap();
            if vm.host != Some(step.from) {
                wrong.push(format!("step {at}: {} is not there", vm.name));
            }
            let level = vm.automation.unwrap_or(settings.automation);
            if vm.pinned.is_some() || level == Automation::Disabled {
                wrong.push(format!("step {at}: {} must stay", vm.name));
            }
            moved(&mut now, step.vm, step.to);
        }
        wrong.extend(
            worse(&before, &faults(&now)).into_iter().map(|fault| format!("step {at}: {fault}")),
        );
        for other in &step.after {
            if *other >= at || plan.steps[*other].wave >= step.wave {
                wrong.push(format!("step {at} is not after {other}"));
            }
        }
        for host in step.moves.iter().flat_map(|step| [step.from, step.to]) {
            let slot = per_host.entry((step.wave, host)).or_default();
            *slot = (slot.0 + 1, slot.1.max(step.moves.len()));
        }
    }
    for ((wave, host), (count, largest)) in per_host {
        if count > usize::from(settings.moves_per_host).max(largest) {
            wrong.push(format!("{count} moves of {host} in wave {wave}"));
        }
    }
    wrong
}

proptest! {
    #![proptest_config(cases(1_500))]

    #[test]
    fn every_state_of_a_plan_is_allowed(numbers in tape(), messy in any::<bool>()) {
        let mut tape = Tape::new(numbers);
        let snapshot = if messy { disorder(&mut tape, 14) } else { cluster(&mut tape, 14) };
        let settings = settings(&mut tape);
        let plan = planned(&snapshot, &settings);
        prop_assert_eq!(unsound(&snapshot, &plan, &settings), Vec::<String>::new());
        prop_assert_eq!(cancelled_somewhere(&snapshot, &plan, &mut tape), Vec::<String>::new());
        prop_assert_eq!(&plan, &planned(&snapshot, &settings));
    }

    #[test]
    fn what_may_begin_makes_nothing_worse_whatever_is_on_its_way(numbers in tape(), messy in any::<bool>()) {
        let mut tape = Tape::new(numbers);
        let snapshot = if messy { disorder(&mut tape, 10) } else { cluster(&mut tape, 10) };
        prop_assume!(!snapshot.vms.is_empty());
        let built = Cluster::build(&snapshot).unwrap();
        let mut asked = built.clone();
        let mut moving: Vec<(hostler_types::VmId, hostler_types::HostId)> = Vec::new();
        for _ in 0..12 {
            let vm = &snapshot.vms[usize::try_from(tape.next(snapshot.vms.len() as u64)).unwrap()];
            let host = &snapshot.hosts[usize::try_from(tape.next(snapshot.hosts.len() as u64)).unwrap()];
            let known = moving.iter().any(|(own, _)| *own == vm.id);
            if known || vm.host.is_none() || vm.host == Some(host.id) {
                continue;
            }
            let index = |vm, host| (built.vm(vm).unwrap(), built.host(host).unwrap());
            let others: Vec<_> = moving
                .iter()
                .map(|(vm, host)| index(*vm, *host))
                .map(|(vm, host)| Wanted { vm, host })
                .collect();
            let (own, to) = index(vm.id, host.id);
            if !may_begin(&mut asked, &[own], to, &others).is_empty() {
                continue;
            }
            let before = faults_in_motion(&snapshot, &moving);
            moving.push((vm.id, host.id));
            let after = faults_in_motion(&snapshot, &moving);
            prop_assert_eq!(worse(&before, &after), Vec::<String>::new(), "{} to {}", vm.name, host.name);
        }
        // It was only asked.
        prop_assert_eq!(
            measure(&asked, &BalanceSettings::default()),
            measure(&built, &BalanceSettings::default())
        );
    }

    #[test]
    fn a_second_run_moves_nothing(numbers in tape()) {
        let mut tape = Tape::new(numbers);
        let mut snapshot = cluster(&mut tape, 14);
        if tape.next(2) == 0 {
            let rotten = usize::try_from(tape.next(snapshot.hosts.len() as u64)).unwrap();
            snapshot.hosts[rotten].condition = HostCondition::Maintenance;
        }
        let settings = settings(&mut tape);
        let plan = planned(&snapshot, &settings);
        let after = carried_out(&snapshot, &plan);
        let second = planned(&after, &settings);
        // What could not leave a host in maintenance is tried again.
        prop_assume!(plan.blocked.is_empty());
        prop_assert_eq!(second.steps, Vec::new());
    }

    #[test]
    fn load_moves_gain_and_never_lose(numbers in tape()) {
        let mut tape = Tape::new(numbers);
        let snapshot = cluster(&mut tape, 14);
        let settings = settings(&mut tape);
        let plan = planned(&snapshot, &settings);
        let only_load = plan.steps.iter().all(|step| step.why == Why::Load);
        if only_load {
            prop_assert!(plan.after.excess <= plan.before.excess + 1e-9, "{:?}", plan);
        }
        for step in plan.steps.iter().filter(|step| step.why == Why::Load && step.gain == 0.0) {
            let told = ["exchanged", "together"].iter().any(|word| step.reason.contains(word));
            prop_assert!(told, "{:?}", step);
        }
        if settings.aggressiveness == 1 {
            let must = [Why::Maintenance, Why::Rule, Why::Room];
            prop_assert!(plan.steps.iter().all(|step| must.contains(&step.why)));
        }
        let recent = |id| snapshot.vms.iter().any(|vm| vm.id == id && vm.seconds_since_move.is_some());
        for step in plan.steps.iter().filter(|step| step.why == Why::Load) {
            prop_assert!(!step.moves.iter().any(|step| recent(step.vm)), "{:?}", step);
        }
    }

    #[test]
    fn hosts_in_maintenance_are_emptied_or_it_is_told_why_not(numbers in tape()) {
        let mut tape = Tape::new(numbers);
        let mut snapshot = cluster(&mut tape, 10);
        let host = usize::try_from(tape.next(snapshot.hosts.len() as u64)).unwrap();
        snapshot.hosts[host].condition = HostCondition::Maintenance;
        let plan = planned(&snapshot, &settings(&mut tape));
        let after = carried_out(&snapshot, &plan);
        let told: BTreeSet<_> = plan.blocked.iter().flat_map(|blocked| &blocked.vms).collect();
        let only = plan.steps.iter().all(|step| step.why == Why::Maintenance);
        let alone = |vm: &ClusterVm| {
            let musts = snapshot.rules.iter().filter(|rule| rule.strength == Strength::Must);
            musts.count() == 0 && vm.pinned.is_none() && vm.automation != Some(Automation::Disabled)
        };
        for vm in after.vms.iter().filter(|vm| vm.host == Some(snapshot.hosts[host].id)) {
            prop_assert!(told.contains(&vm.id), "{} is left", vm.name);
            if only && alone(vm) {
                // To stay is no fault more than there was.
                let mut elsewhere = possible(&after, vm);
                elsewhere.retain(|(to, _)| Some(*to) != vm.host);
                prop_assert_eq!(elsewhere, Vec::new(), "{:?} {:?}", vm, plan);
            }
        }
    }

    #[test]
    fn what_is_wanted_is_ordered_or_left(numbers in tape()) {
        let mut tape = Tape::new(numbers);
        let snapshot = cluster(&mut tape, 10);
        // A permutation that is allowed at its end: VMs of equal needs change places.
        let mut index = Cluster::build(&snapshot).unwrap();
        let mut wanted = Vec::new();
        for _ in 0..tape.next(4) {
            if snapshot.vms.is_empty() {
                break;
            }
            let vm = &snapshot.vms[usize::try_from(tape.next(snapshot.vms.len() as u64)).unwrap()];
            let host = &snapshot.hosts[usize::try_from(tape.next(snapshot.hosts.len() as u64)).unwrap()];
            if wanted.iter().all(|own: &Wanted| Some(own.vm) != index.vm(vm.id)) {
                wanted.push(Wanted { vm: index.vm(vm.id).unwrap(), host: index.host(host.id).unwrap() });
            }
        }
        let settings = BalanceSettings::default();
        if let Ok(plan) = order(&mut index, &settings, &wanted) {
            let mut now = snapshot.clone();
            for step in &plan.steps {
                let before = faults(&now);
                for step in &step.moves {
                    moved(&mut now, step.vm, step.to);
                }
                prop_assert_eq!(worse(&before, &faults(&now)), Vec::<String>::new());
            }
            prop_assert_eq!(cancelled_somewhere(&snapshot, &plan, &mut tape), Vec::<String>::new());
            for wanted in &wanted {
                prop_assert_eq!(index.host_of(wanted.vm), index.host_at(wanted.host));
            }
        }
    }
}

/// Hosts of 8 GiB with VMs of 4 GiB: two fill one.
fn full_hosts(hosts: u128, spare: bool) -> ClusterSnapshot {
    let mut snapshot = ClusterSnapshot::default();
    let gib = hostler_types::ByteSize::gib;
    for number in 0..hosts {
        let id = hostler_types::HostId::from_uuid(uuid::Uuid::from_u128(number + 1));
        snapshot.hosts.push(ClusterHost::new(id, format!("h{number}"), 8, gib(8)));
        for half in 0..if spare && number + 1 == hosts { 1 } else { 2 } {
            let vm =
                hostler_types::VmId::from_uuid(uuid::Uuid::from_u128(1000 + number * 2 + half));
            let mut vm = ClusterVm::new(vm, format!("v{number}-{half}"), 2, gib(4));
            vm.host = Some(id);
            vm.demand.cpu = 1000;
            snapshot.vms.push(vm);
        }
    }
    snapshot
}

#[test]
fn a_cycle_is_broken_through_a_spare_host() {
    let swap = |spare| {
        let snapshot = full_hosts(3, spare);
        let mut index = Cluster::build(&snapshot).unwrap();
        let wanted = [(0, 1), (2, 0)].map(|(vm, host): (usize, usize)| Wanted {
            vm: index.vm(snapshot.vms[vm].id).unwrap(),
            host: index.host(snapshot.hosts[host].id).unwrap(),
        });
        order(&mut index, &BalanceSettings::default(), &wanted)
    };
    let plan = swap(true).unwrap();
    assert_eq!(plan.steps.len(), 3, "{plan:?}");
    assert!(plan.steps[0].reason.contains("steps aside to host `h2`"), "{plan:?}");
    assert_eq!((&plan.steps[1].after, &plan.steps[2].after), (&vec![0], &vec![0, 1]));
    assert_eq!(swap(false).unwrap_err().0.len(), 2);
}

#[test]
fn two_vms_are_exchanged_where_no_single_move_fits() {
    let mut snapshot = full_hosts(3, true);
    // h0 wants 15,000 of its 16,000 MHz; h2 has room for one more VM and may not take these.
    snapshot.vms[0].demand.cpu = 7_500;
    snapshot.vms[1].demand.cpu = 7_500;
    snapshot.vms[0].contention.cpu_ready_permille = 120;
    snapshot.hosts[2].memory = hostler_types::ByteSize::gib(9);
    for vm in 0..2 {
        snapshot.vms[vm].memory = hostler_types::ByteSize(4 << 30 | 1 << 29);
    }
    snapshot.hosts[0].memory = hostler_types::ByteSize::gib(9);
    snapshot.hosts[1].memory = hostler_types::ByteSize::gib(9);
    snapshot.vms[4].memory = hostler_types::ByteSize::gib(5);
    let settings = BalanceSettings { aggressiveness: 5, ..BalanceSettings::default() };
    let plan = planned(&snapshot, &settings);
    assert!(plan.after.excess < plan.before.excess / 2.0, "{plan:?}");
    assert!(plan.steps.iter().any(|step| step.reason.contains("exchanged")), "{plan:?}");
    assert_eq!(unsound(&snapshot, &plan, &settings), Vec::<String>::new());
}

#[test]
fn a_load_move_says_its_numbers() {
    let mut snapshot = full_hosts(2, false);
    snapshot.vms.truncate(2);
    snapshot.vms.iter_mut().for_each(|vm| vm.demand.cpu = 6_000);
    snapshot.vms[0].contention.cpu_ready_permille = 250;
    snapshot.vms[1].pinned = Some("it has a GPU".to_owned());
    let settings = BalanceSettings { aggressiveness: 5, ..BalanceSettings::default() };
    let plan = planned(&snapshot, &settings);
    let reasons: Vec<_> = plan.steps.iter().map(|step| step.reason.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "the VMs of host `h0` want 88 % of its CPU, the goal is 49 %; without `v0-0` (8000 MHz, 4GiB, \
          25 % ready) it is 38 %, and host `h1` goes from 0 % to 50 %; gains 1350.0 host-seconds, costs \
          0.7"
        ]
    );
}

/// On small clusters the excess that is left is close to the least that any assignment reaches.
#[test]
fn small_clusters_are_balanced_nearly_as_well_as_possible() {
    let (mut possible_gain, mut gained) = (0.0, 0.0);
    for seed in 0..400u64 {
        let mut state = seed;
        let numbers = std::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            u16::try_from(state >> 48).unwrap()
        });
        let mut tape = Tape::new(numbers.take(400).collect());
        let mut snapshot = cluster(&mut tape, 6);
        snapshot.vms.retain(|vm| vm.pinned.is_none());
        for vm in &mut snapshot.vms {
            (vm.automation, vm.seconds_since_move, vm.dirty_rate.0) = (None, None, 0);
        }
        snapshot.rules.retain(|rule| rule.strength == Strength::Must);
        if snapshot.hosts.iter().any(|host| host.condition != HostCondition::Available) {
            continue;
        }
        let settings = BalanceSettings {
            aggressiveness: 5,
            stability_seconds: 1 << 30,
            ..BalanceSettings::default()
        };
        let plan = planned(&snapshot, &settings);
        let best = least_excess(&snapshot, &settings);
        assert!(plan.after.excess >= best - 1e-9, "{} beats {best}", plan.after.excess);
        possible_gain += plan.before.excess - best;
        gained += plan.before.excess - plan.after.excess;
    }
    assert!(possible_gain > 5.0, "the clusters must leave something to do: {possible_gain}");
    assert!(gained >= 0.95 * possible_gain, "{gained} of {possible_gain}");
}

fn least_excess(snapshot: &ClusterSnapshot, settings: &BalanceSettings) -> f64 {
    let before = faults(snapshot);
    let mut least = f64::INFINITY;
    let (hosts, vms) = (snapshot.hosts.len(), snapshot.vms.len());
    for mut code in 0..hosts.pow(u32::try_from(vms).unwrap()) {
        let mut other = snapshot.clone();
        for vm in &mut other.vms {
            vm.host = Some(snapshot.hosts[code % hosts].id);
            code /= hosts;
        }
        let excess = measure(&Cluster::build(&other).unwrap(), settings).excess;
        if excess < least && worse(&before, &faults(&other)).is_empty() {
            least = excess;
        }
    }
    least
}

#[test]
fn no_plan_has_fewer_moves_than_the_bound() {
    let mut snapshot = full_hosts(6, true);
    for (at, vm) in snapshot.vms.iter_mut().enumerate() {
        vm.demand.cpu = if at < 4 { 6_000 } else { 500 };
        vm.memory = hostler_types::ByteSize::gib(2);
    }
    let settings = BalanceSettings { aggressiveness: 4, ..BalanceSettings::default() };
    let bound = fewest_moves(&Cluster::build(&snapshot).unwrap(), &settings);
    let plan = planned(&snapshot, &settings);
    assert_eq!(plan.after.busy_hosts, 0, "{plan:?}");
    assert_eq!((bound, plan.steps.len()), (2, 2), "{plan:?}");
    assert_eq!(displaced(&snapshot, &carried_out(&snapshot, &plan)).len(), 2);
}
