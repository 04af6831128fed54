//! What-if and records.

use hostler_policy::balance::BalanceSettings;
use hostler_policy::cluster::{Cluster, ClusterHost, ClusterSnapshot, ClusterVm, HostDatastore};
use hostler_policy::placement::{Choosing, place_all};
use hostler_policy::record::{Input, Record};
use hostler_policy::rules::{Rule, RuleKind, Scope, Selector, Strength};
use hostler_policy::whatif::{Edit, Question, edited, simulate};
use hostler_types::{ByteSize, DatastoreLimits};
use proptest::prelude::*;
use uuid::Uuid;

use crate::checker::{faults, moved, worse};
use crate::tape::{Tape, cluster, disorder, new_vm, tape};

/// `hosts` of 8 GiB that share a datastore, with one VM of 4 GiB each.
fn shared(hosts: u128) -> ClusterSnapshot {
    let mut snapshot = ClusterSnapshot::default();
    let store = hostler_types::DatastoreId::from_uuid(Uuid::from_u128(7));
    snapshot.datastores.push(hostler_policy::DatastoreCandidate {
        id: store,
        name: "nfs".to_owned(),
        ready: true,
        capacity: ByteSize::gib(1000),
        free: ByteSize::gib(900),
        maintenance: false,
        provisioned: ByteSize(0),
        limits: DatastoreLimits::default(),
    });
    for number in 0..hosts {
        let id = hostler_types::HostId::from_uuid(Uuid::from_u128(number + 1));
        let mut host = ClusterHost::new(id, format!("h{number}"), 8, ByteSize::gib(8));
        host.datastores.push(HostDatastore { id: store, ready: true });
        snapshot.hosts.push(host);
        let vm = hostler_types::VmId::from_uuid(Uuid::from_u128(100 + number));
        let mut vm = ClusterVm::new(vm, format!("v{number}"), 2, ByteSize::gib(4));
        (vm.host, vm.datastore) = (Some(id), Some(store));
        snapshot.vms.push(vm);
    }
    snapshot
}

fn asked(snapshot: &ClusterSnapshot, edits: Vec<Edit>) -> Question {
    let mut size = ClusterVm::new(snapshot.vms[0].id, "small", 1, ByteSize::gib(2));
    size.datastore = snapshot.vms[0].datastore;
    Question {
        snapshot: snapshot.clone(),
        edits,
        balance: BalanceSettings::default(),
        headroom: vec![size],
    }
}

#[test]
fn failed_and_removed_hosts_are_made_up_for_as_long_as_there_is_room() {
    let snapshot = shared(3);
    let now = simulate(&asked(&snapshot, Vec::new())).unwrap();
    assert_eq!((now.headroom[0].count, now.plan.steps.len()), (6, 0));
    let then = now.headroom[0].then.as_deref().unwrap();
    assert!(then.contains("memory: 3 of 3 hosts"), "{then}");

    let failed = Edit::FailHosts(vec!["h0".to_owned()]);
    let answer = simulate(&asked(&snapshot, vec![failed.clone()])).unwrap();
    assert_eq!((answer.placed.len(), answer.misfits.len(), answer.headroom[0].count), (1, 0, 2));

    let removed = Edit::RemoveHosts(vec!["h1".to_owned()]);
    let answer = simulate(&asked(&snapshot, vec![failed, removed.clone()])).unwrap();
    assert_eq!((answer.placed.len(), answer.headroom[0].count), (1, 0));
    assert_eq!(answer.plan.blocked.len(), 1, "{answer:?}");
    assert!(answer.plan.blocked[0].reason.contains("host `h1` is in maintenance, but no host"));

    let more = Edit::AddHosts { like: "h2".to_owned(), count: 2 };
    let answer = simulate(&asked(&snapshot, vec![removed, more])).unwrap();
    assert_eq!((answer.plan.steps.len(), answer.plan.blocked.len()), (1, 0));
    assert_eq!(answer.headroom[0].count, 10);
}

#[test]
fn edits_of_vms_rules_and_baseline_are_seen() {
    let snapshot = shared(3);
    let apart = Rule {
        name: "apart".to_owned(),
        strength: Strength::Must,
        kind: RuleKind::AntiAffinity {
            vms: Selector::Names((1..=4).map(|number| format!("db-{number}")).collect()),
            scope: Scope::Host,
        },
    };
    let mut vm = ClusterVm::new(snapshot.vms[0].id, "db", 1, ByteSize::gib(1));
    vm.datastore = snapshot.vms[0].datastore;
    let four = Edit::AddVms { vm: Box::new(vm), count: 4 };
    let answer = simulate(&asked(&snapshot, vec![Edit::SetRule(apart), four])).unwrap();
    assert_eq!((answer.placed.len(), answer.misfits.len()), (3, 1));
    assert!(answer.misfits[0].why.contains("rule `apart` keeps it apart from"), "{answer:?}");
    assert_eq!(answer.conflicts.len(), 1, "{:?}", answer.conflicts);
    assert!(answer.conflicts[0].sentence.contains("there are only 3 hosts for them"));

    let reserve =
        Edit::Reserve { vms: vec!["v0".to_owned()], cpu: None, memory: Some(ByteSize::gib(4)) };
    let after = edited(&snapshot, &[reserve, Edit::Baseline(vec!["avx9".to_owned()])]).unwrap();
    assert_eq!(after.vms[0].memory_reservation, ByteSize::gib(4));
    let answer = simulate(&asked(&after, Vec::new())).unwrap();
    assert!(answer.headroom[0].then.as_deref().unwrap().contains("lacks the CPU features avx9"));

    let wrong = simulate(&asked(&snapshot, vec![Edit::RemoveRule("nope".to_owned())]));
    assert_eq!(
        wrong.unwrap_err().to_string(),
        "edit 1: there is no rule `nope`; use a name of the snapshot"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// As it is stored and read again, a record gives the bytes that were stored.
    #[test]
    fn a_replayed_decision_gives_the_same_bytes(numbers in tape(), kind in 0..3) {
        let mut tape = Tape::new(numbers);
        let mut snapshot = disorder(&mut tape, 8);
        let vms: Vec<_> = (0..2).map(|n| new_vm(&mut tape, format!("new{n}"), 100 + n)).collect();
        let settings = BalanceSettings { aggressiveness: u8::try_from(1 + tape.next(5)).unwrap(), ..BalanceSettings::default() };
        let input = match kind {
            0 => Input::PlaceAll { snapshot, vms, seed: 3, window: 2 },
            1 => Input::Balance { snapshot, settings },
            _ => {
                snapshot.vms.extend(vms);
                let host = snapshot.hosts[0].name.clone();
                let edits = vec![Edit::FailHosts(vec![host])];
                Input::WhatIf(Question { snapshot, edits, balance: settings, headroom: Vec::new() })
            }
        };
        let bytes = Record::decide(input).unwrap().bytes().unwrap();
        let read: Record = serde_json::from_slice(&bytes).unwrap();
        prop_assert!(read.replay().unwrap().same);
        prop_assert_eq!(read.replay().unwrap().record.bytes().unwrap(), bytes);
    }

    #[test]
    fn an_answer_is_sound(numbers in tape()) {
        let mut tape = Tape::new(numbers);
        let snapshot = cluster(&mut tape, 8);
        let host = snapshot.hosts[0].name.clone();
        let question = Question {
            snapshot: snapshot.clone(),
            edits: vec![Edit::FailHosts(vec![host])],
            balance: BalanceSettings::default(),
            headroom: Vec::new(),
        };
        let answer = simulate(&question).unwrap();
        let mut now = edited(&snapshot, &question.edits).unwrap();
        let homeless = now.vms.iter().filter(|vm| vm.host.is_none()).count();
        prop_assert_eq!(homeless, answer.placed.len() + answer.misfits.len());
        let placed = answer.placed.iter().map(|placed| vec![(placed.vm, placed.host)]);
        let steps = answer.plan.steps.iter();
        let steps = steps.map(|step| step.moves.iter().map(|step| (step.vm, step.to)).collect());
        // The VMs of a step move together.
        for step in placed.chain(steps) {
            let before = faults(&now);
            step.into_iter().for_each(|(vm, to)| moved(&mut now, vm, to));
            prop_assert_eq!(worse(&before, &faults(&now)), Vec::<String>::new());
        }
    }

    /// Incremental changes of an index leave what building it anew would give.
    #[test]
    fn an_index_that_was_changed_decides_as_a_new_one(numbers in tape()) {
        let mut tape = Tape::new(numbers);
        let mut snapshot = cluster(&mut tape, 8);
        let mut index = Cluster::build(&snapshot).unwrap();
        for _ in 0..tape.next(4) {
            if snapshot.vms.is_empty() {
                break;
            }
            let gone = snapshot.vms.remove(usize::try_from(tape.next(snapshot.vms.len() as u64)).unwrap());
            index.remove(index.vm(gone.id).unwrap());
        }
        let vm = new_vm(&mut tape, "new0".to_owned(), 100);
        let of = |index: &mut Cluster| {
            let placed = place_all(index, std::slice::from_ref(&vm), Choosing::seeded(1));
            placed.map_err(|refusal| refusal.to_string())
        };
        prop_assert_eq!(of(&mut index), of(&mut Cluster::build(&snapshot).unwrap()));
    }
}
