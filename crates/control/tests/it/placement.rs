//! Where VMs go: several hosts, rules, two at the same instant, and decisions that are made again.

use std::collections::BTreeSet;
use std::sync::Arc;

use hostler_control::services::datastore::{self, DatastoreCreate};
use hostler_control::services::group::{self, GroupCreate, GroupUpdate};
use hostler_control::services::host::{self, HostUpdate};
use hostler_control::services::placement;
use hostler_control::services::rule::{self, RuleCreate, RuleUpdate};
use hostler_control::services::{Options, drs, stats, vm};
use hostler_control::{Actor, ServiceError};
use hostler_sim::{Fleet, SimHost, vm_request};
use hostler_types::{
    DatastoreKind, DatastoreLimits, GroupKind, GroupOf, GroupSpec, HostKind, Labels, Ref,
    ResourceUse, RuleKind, RuleRelation, RuleSpec, RuleStrength, Selector, Simulation, StorageKind,
    VmCreate, VmKind,
};
use serde_json::json;

const PATH: &str = "/mnt/nfs";

pub(crate) fn root() -> Actor {
    Actor::root()
}

fn plain() -> Options {
    Options::default()
}

fn dry() -> Options {
    Options { dry_run: true, ..Options::default() }
}

pub(crate) fn by_name(text: &str) -> Ref {
    text.parse().unwrap()
}

/// `sim` and others, all with the shared datastore `nfs`.
pub(crate) async fn several(others: &[&str]) -> (Fleet, Vec<SimHost>) {
    several_on(Fleet::new().await, others).await
}

pub(crate) async fn several_on(fleet: Fleet, others: &[&str]) -> (Fleet, Vec<SimHost>) {
    let mut hosts = vec![fleet.host.clone()];
    for other in others {
        hosts.push(fleet.join(other).await);
    }
    let request = DatastoreCreate {
        name: "nfs".parse().unwrap(),
        labels: Labels::new(),
        hosts: std::iter::once(&"sim").chain(others).map(|host| by_name(host)).collect(),
        kind: StorageKind::Shared,
        limits: DatastoreLimits { overcommit_percent: Some(100), ..DatastoreLimits::default() },
        path: PATH.to_owned(),
    };
    let nfs = datastore::create(&fleet.world, &root(), request).await.unwrap();
    for host in &hosts[1..] {
        host.mount(PATH, nfs.id());
        host.disconnect();
        host.reconnect();
        let there = host.id();
        fleet
            .until("the datastore is there", |snapshot| {
                let store = snapshot.get::<DatastoreKind>(nfs.id()).unwrap();
                store.status.is_ready_on(&store.spec, there)
            })
            .await;
    }
    (fleet, hosts)
}

/// A small VM with a blank disk on the shared datastore.
pub(crate) fn wish(name: &str, labels: &[(&str, &str)]) -> VmCreate {
    let labels: Labels =
        labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    serde_json::from_value(json!({
        "name": name, "labels": labels, "datastore": "nfs", "disks": [{"size": "1GiB"}],
    }))
    .unwrap()
}

pub(crate) async fn made(fleet: &Fleet, request: VmCreate) -> Result<String, ServiceError> {
    let name = request.name.clone();
    let created = vm::create(&fleet.world, &root(), request, &plain()).await?;
    fleet.done(&created.task.unwrap()).await;
    Ok(on(fleet, name.as_str()))
}

/// The name of the host that a VM is on.
pub(crate) fn on(fleet: &Fleet, vm: &str) -> String {
    let snapshot = fleet.snapshot();
    let host = snapshot.find::<VmKind>(&by_name(vm)).unwrap().status.host;
    snapshot.get::<HostKind>(host).unwrap().name().to_string()
}

pub(crate) fn labelled(key: &str, value: &str) -> Selector {
    Selector::Labels([(key.to_owned(), value.to_owned())].into())
}

pub(crate) fn apart(vms: Selector, scope: Option<&str>) -> RuleSpec {
    RuleSpec {
        relation: RuleRelation::AntiAffinity,
        strength: RuleStrength::Must,
        vms,
        hosts: None,
        scope: scope.map(str::to_owned),
        description: String::new(),
    }
}

pub(crate) fn with_hosts(relation: RuleRelation, vms: Selector, hosts: Selector) -> RuleSpec {
    RuleSpec { relation, hosts: Some(hosts), ..apart(vms, None) }
}

pub(crate) async fn ruled(fleet: &Fleet, name: &str, spec: RuleSpec) -> Result<Ref, ServiceError> {
    let request = RuleCreate { name: name.parse().unwrap(), labels: Labels::new(), spec };
    rule::create(&fleet.world, &root(), request).await.map(|rule| rule.reference())
}

async fn label(fleet: &Fleet, host: &str, key: &str, value: &str) {
    let labels = Some([(key.to_owned(), value.to_owned())].into());
    let update = HostUpdate { labels };
    host::update(&fleet.world, &root(), &by_name(host), update, None).await.unwrap();
}

/// All decisions that are kept come out the same when they are made again.
pub(crate) async fn all_replay(fleet: &Fleet) -> usize {
    let world = &fleet.world;
    let decisions = placement::list_decisions(world, &root(), None, None, None).await.unwrap();
    for decision in &decisions {
        let replay = placement::replay_decision(world, &root(), decision.id).await.unwrap();
        assert!(replay.same, "{decision:?}");
        assert_eq!(replay.bytes, decision.bytes);
    }
    decisions.len()
}

#[tokio::test]
async fn vms_spread_over_hosts_and_every_decision_can_be_made_again() {
    let (fleet, _) = several(&["two", "three"]).await;
    let mut hosts = BTreeSet::new();
    for number in 0..6 {
        hosts.insert(made(&fleet, wish(&format!("vm{number}"), &[])).await.unwrap());
    }
    assert_eq!(hosts.len(), 3, "two on each");
    assert_eq!(all_replay(&fleet).await, 6);
    let why = placement::why(&fleet.world, &root(), &by_name("vm5")).await.unwrap();
    let (decision, then) = (why.decision.unwrap(), why.then.unwrap());
    assert_eq!((decision.action.as_str(), decision.vms.len()), ("vm.create", 1));
    assert!(decision.task.is_some());
    assert_eq!(then.chosen.as_deref(), Some(on(&fleet, "vm5").as_str()));
    assert_eq!((then.hosts, then.possible, then.candidates.len()), (3, 3, 3));
    assert!(why.lines[0].contains("the best of 3 possible hosts"), "{:?}", why.lines);
}

#[tokio::test]
async fn a_dry_run_explains_and_leaves_nothing() {
    let (fleet, _) = several(&["two"]).await;
    fleet.host.disconnect();
    let is_gone = |snapshot: &hostler_control::Snapshot| {
        let sim = snapshot.find::<HostKind>(&by_name("sim")).unwrap();
        sim.status.state == hostler_types::HostState::Disconnected
    };
    fleet.until("a host is gone", is_gone).await;
    let created = vm::create(&fleet.world, &root(), wish("a", &[]), &dry()).await.unwrap();
    let [explained] = created.explained.as_slice() else { panic!("{:?}", created.explained) };
    assert_eq!(explained.chosen.as_deref(), Some("two"));
    assert_eq!((explained.hosts, explained.possible), (2, 1));
    assert_eq!(explained.filters[0].filter, "state");
    assert!(explained.filters[0].example.contains("host `sim` does not answer"));
    assert_eq!(explained.candidates[0].datastore.as_deref(), Some("nfs"));
    assert!(fleet.snapshot().all::<VmKind>().is_empty());
    assert_eq!(all_replay(&fleet).await, 0);
}

#[tokio::test]
async fn must_rules_are_kept_and_the_last_place_is_told() {
    let (fleet, _) = several(&["two"]).await;
    ruled(&fleet, "apart", apart(labelled("tier", "db"), None)).await.unwrap();
    let first = made(&fleet, wish("db1", &[("tier", "db")])).await.unwrap();
    let second = made(&fleet, wish("db2", &[("tier", "db")])).await.unwrap();
    assert_ne!(first, second);
    let error = made(&fleet, wish("db3", &[("tier", "db")])).await.unwrap_err();
    assert_eq!(error.code, "no_capacity");
    assert!(error.message.contains("rule `apart` keeps it apart from `db"), "{}", error.message);
    made(&fleet, wish("web", &[])).await.unwrap();
    assert_eq!(all_replay(&fleet).await, 3);

    // A host that comes takes it, and a VM that goes makes room.
    let why =
        placement::why_not(&fleet.world, &root(), &by_name("db1"), &by_name(&second)).unwrap();
    assert!(!why.fits && why.obstacles[0].filter == "VM rules", "{why:?}");
    assert_eq!(why.smallest_change, "move `db2` away, or drop rule `apart`");
    let force = vm::VmDelete { now: true, ..vm::VmDelete::default() };
    let gone = vm::delete(&fleet.world, &root(), &by_name("db2"), force, &plain()).await.unwrap();
    fleet.done(&gone).await;
    assert_eq!(made(&fleet, wish("db3", &[("tier", "db")])).await.unwrap(), second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_the_same_instant_break_no_rule_and_take_no_room_twice() {
    let (fleet, _) = several(&["two", "three"]).await;
    ruled(&fleet, "apart", apart(labelled("tier", "db"), None)).await.unwrap();
    let make = |request: VmCreate| {
        let world = fleet.world.clone();
        tokio::spawn(async move { vm::create(&world, &root(), request, &plain()).await })
    };
    let all: Vec<_> =
        (0..10).map(|number| make(wish(&format!("db{number}"), &[("tier", "db")]))).collect();
    let (mut placed, mut refused) = (Vec::new(), 0);
    for one in all {
        match one.await.unwrap() {
            Ok(created) => placed.push(created.object.status.host),
            Err(error) => {
                assert_eq!(error.code, "no_capacity", "{error}");
                refused += 1;
            }
        }
    }
    placed.sort_unstable();
    placed.dedup();
    assert_eq!((placed.len(), refused), (3, 7), "one on each host");

    // 500 GiB of disks may be promised, and 3 GiB are: two of 200 GiB fit.
    let large = |number: u32| {
        let mut request = wish(&format!("large{number}"), &[]);
        request.disks[0].size = Some("200GiB".parse().unwrap());
        make(request)
    };
    let all: Vec<_> = (0..8).map(large).collect();
    let mut fit = 0;
    for one in all {
        fit += usize::from(one.await.unwrap().is_ok());
    }
    assert_eq!(fit, 2);
    assert_eq!(all_replay(&fleet).await, 5);
}

#[tokio::test]
async fn a_refused_request_gives_back_what_it_had_claimed() {
    let (fleet, _) = several(&[]).await;
    let mut large = wish("large", &[]);
    large.disks[0].size = Some("300GiB".parse().unwrap());
    vm::create(&fleet.world, &root(), large.clone(), &dry()).await.unwrap();
    fleet.host.fault("vm_create", hostler_sim::Fault::refuse(409, "wrong_state", "no"));
    let created = vm::create(&fleet.world, &root(), large.clone(), &plain()).await.unwrap();
    fleet.ended(&created.task.unwrap()).await;
    assert!(fleet.snapshot().all::<VmKind>().is_empty(), "it was undone");
    made(&fleet, large).await.unwrap();
}

#[tokio::test]
async fn racks_count_as_one_place_and_a_host_without_one_as_none() {
    let (fleet, _) = several(&["two", "three"]).await;
    label(&fleet, "sim", "rack", "r1").await;
    label(&fleet, "two", "rack", "r1").await;
    ruled(&fleet, "racks", apart(labelled("tier", "db"), Some("rack"))).await.unwrap();
    let first = made(&fleet, wish("db1", &[("tier", "db")])).await.unwrap();
    assert!(first == "sim" || first == "two", "{first}");
    let error = made(&fleet, wish("db2", &[("tier", "db")])).await.unwrap_err();
    assert!(error.message.contains("has no label `rack`"), "{}", error.message);
    label(&fleet, "three", "rack", "r2").await;
    assert_eq!(made(&fleet, wish("db2", &[("tier", "db")])).await.unwrap(), "three");
}

#[tokio::test]
async fn rules_with_groups_hold_and_groups_in_use_stay() {
    let (fleet, _) = several(&["two"]).await;
    let world = &fleet.world;
    label(&fleet, "two", "licence", "oracle").await;
    let members = labelled("licence", "oracle");
    let spec = GroupSpec { of: GroupOf::Hosts, members, description: String::new() };
    let request = GroupCreate { name: "licensed".parse().unwrap(), labels: Labels::new(), spec };
    let licensed = group::create(world, &root(), request).await.unwrap().reference();
    let hosts = Selector::Group(by_name("licensed"));
    let spec = with_hosts(RuleRelation::RunOn, labelled("app", "oracle"), hosts);
    let rule = ruled(&fleet, "licence", spec.clone()).await.unwrap();
    let stored = fleet.snapshot().find::<RuleKind>(&rule).unwrap().spec.hosts.clone();
    assert_eq!(stored, Some(Selector::Group(licensed.clone())), "by id");
    for number in 0..3 {
        let request = wish(&format!("db{number}"), &[("app", "oracle")]);
        assert_eq!(made(&fleet, request).await.unwrap(), "two");
    }
    let wrong =
        with_hosts(RuleRelation::RunOn, Selector::Group(licensed.clone()), labelled("a", "b"));
    let error = ruled(&fleet, "wrong", wrong).await.unwrap_err();
    assert_eq!(error.message, "vms: group `licensed` is one of hosts, not of vms");
    let error = group::delete(world, &root(), &licensed).await.unwrap_err();
    assert_eq!(error.message, "group `licensed` is named by rule `licence`");

    // The group changes, and so does what the rule means.
    let update = GroupUpdate {
        members: Some(Selector::Names(vec![by_name("sim")])),
        ..GroupUpdate::default()
    };
    group::update(world, &root(), &licensed, update, None).await.unwrap();
    assert_eq!(made(&fleet, wish("db9", &[("app", "oracle")])).await.unwrap(), "sim");
    let violations = rule::list_violations(world, &root()).unwrap();
    assert_eq!((violations.len(), violations[0].vms.len()), (1, 3), "{violations:?}");
    rule::delete(world, &root(), &rule).await.unwrap();
    assert!(rule::list_violations(world, &root()).unwrap().is_empty());
    group::delete(world, &root(), &licensed).await.unwrap();
    assert!(fleet.snapshot().all::<GroupKind>().is_empty());
    all_replay(&fleet).await;
}

#[tokio::test]
async fn rules_that_cannot_hold_together_are_refused_with_the_smallest_set() {
    let (fleet, _) = several(&["two", "three"]).await;
    for name in ["a", "b"] {
        made(&fleet, wish(name, &[])).await.unwrap();
    }
    let both = Selector::Names(vec![by_name("a"), by_name("b")]);
    let near = RuleSpec { relation: RuleRelation::Affinity, ..apart(both.clone(), None) };
    ruled(&fleet, "near", near).await.unwrap();
    let third = with_hosts(
        RuleRelation::NotRunOn,
        Selector::Names(vec![by_name("a")]),
        Selector::Names(vec![by_name("three")]),
    );
    ruled(&fleet, "unrelated", third).await.unwrap();
    let error = ruled(&fleet, "apart", apart(both.clone(), None)).await.unwrap_err();
    assert_eq!(error.code, "rule_conflict");
    assert!(
        error.message.contains("rules `near`, `apart` cannot hold together"),
        "{}",
        error.message
    );
    let should = RuleSpec { strength: RuleStrength::Should, ..apart(both, None) };
    let apart = ruled(&fleet, "apart", should).await.unwrap();
    let must = RuleUpdate { strength: Some(RuleStrength::Must), ..RuleUpdate::default() };
    let error = rule::update(&fleet.world, &root(), &apart, must, None).await.unwrap_err();
    assert_eq!(error.code, "rule_conflict");
}

#[tokio::test]
async fn a_deleted_vm_leaves_rules_and_groups_and_a_renamed_one_stays() {
    let (fleet, _) = several(&["two"]).await;
    let world = &fleet.world;
    for name in ["a", "b", "c"] {
        made(&fleet, wish(name, &[])).await.unwrap();
    }
    let (a, b) = (fleet.show("a").reference(), fleet.show("b").reference());
    let both = || Selector::Names(vec![by_name("a"), by_name("b")]);
    let members = both();
    let spec = GroupSpec { of: GroupOf::Vms, members, description: String::new() };
    let request = GroupCreate { name: "both".parse().unwrap(), labels: Labels::new(), spec };
    let group = group::create(world, &root(), request).await.unwrap().reference();
    let should = RuleSpec { strength: RuleStrength::Should, ..apart(both(), None) };
    let rule = ruled(&fleet, "apart", should).await.unwrap();
    let renamed = vm::rename(world, &root(), &a, "z".parse().unwrap(), None, &plain()).await;
    fleet.done(&renamed.unwrap().task.unwrap()).await;

    // In the recycle bin it is still a member: it may come back.
    let gone = vm::delete(world, &root(), &b, vm::VmDelete::default(), &plain()).await.unwrap();
    fleet.done(&gone).await;
    let rule_now = |fleet: &Fleet| fleet.snapshot().find::<RuleKind>(&rule).unwrap().clone();
    assert_eq!(rule_now(&fleet).spec.vms, Selector::Names(vec![a.clone(), b.clone()]));
    let task = vm::purge(world, &root(), &b, &plain()).await.unwrap();
    fleet.done(&task).await;
    assert_eq!(rule_now(&fleet).spec.vms, Selector::Names(vec![a.clone()]));
    let left = fleet.snapshot().find::<GroupKind>(&group).unwrap().spec.members.clone();
    assert_eq!(left, Selector::Names(vec![a]));
    assert_eq!(fleet.ended(&task).await.status.state, hostler_types::TaskState::Done);
}

#[tokio::test]
async fn a_vm_that_a_rule_does_not_want_there_is_not_started_nor_taken_out_of_the_bin() {
    let (fleet, _) = several(&["two"]).await;
    let world = &fleet.world;
    let host = made(&fleet, wish("a", &[])).await.unwrap();
    let vms = Selector::Names(vec![by_name("a")]);
    let hosts = Selector::Names(vec![by_name(&host)]);
    let rule = ruled(&fleet, "away", with_hosts(RuleRelation::NotRunOn, vms, hosts)).await.unwrap();
    let error = vm::start(world, &root(), &by_name("a"), &plain()).await.unwrap_err();
    assert_eq!(error.code, "rule_broken");
    let expected =
        format!("vm `a` may not run where it is: host `{host}` is forbidden by rule `away`");
    assert_eq!(error.message, expected);
    let gone =
        vm::delete(world, &root(), &by_name("a"), vm::VmDelete::default(), &plain()).await.unwrap();
    fleet.done(&gone).await;
    let error = vm::undelete(world, &root(), &by_name("a"), None, &plain()).await.unwrap_err();
    assert_eq!(error.code, "no_capacity");
    assert!(error.message.contains("is forbidden by rule `away`"), "{}", error.message);
    rule::delete(world, &root(), &rule).await.unwrap();
    let task = vm::undelete(world, &root(), &by_name("a"), None, &plain()).await.unwrap();
    fleet.done(&task).await;
    let task = vm::start(world, &root(), &by_name("a"), &plain()).await.unwrap();
    fleet.done(&task).await;
    assert_eq!(all_replay(&fleet).await, 2);
}

#[tokio::test]
async fn clones_that_are_kept_apart_are_placed_as_a_whole_or_not_at_all() {
    let (fleet, _) = several(&["two", "three"]).await;
    let world = &fleet.world;
    made(&fleet, wish("parent", &[])).await.unwrap();
    ruled(&fleet, "apart", apart(labelled("tier", "db"), None)).await.unwrap();
    let clone = async |count: u32, mode: &str| {
        let request = serde_json::from_value(json!({
            "mode": mode, "name": "db-{01..}", "count": count, "labels": {"tier": "db"},
        }));
        let parent = by_name("parent");
        let parent = vm::CloneOf::Vm(&parent);
        vm::clone(world, &root(), parent, request.unwrap(), &plain()).await
    };
    let error = clone(4, "linked").await.unwrap_err();
    assert!(
        error.message.contains("rule `apart` keeps 4 VMs apart, and only 3 hosts can take"),
        "{}",
        error.message
    );
    let cloned = clone(3, "linked").await.unwrap();
    let hosts: BTreeSet<_> = cloned.vms.iter().map(|vm| vm.status.host).collect();
    assert_eq!(hosts.len(), 3);
    fleet.done(&cloned.task.unwrap()).await;
    let decisions = placement::list_decisions(world, &root(), None, None, Some(1)).await.unwrap();
    assert_eq!((decisions[0].action.as_str(), decisions[0].vms.len()), ("vm.clone", 3));
    assert_eq!(all_replay(&fleet).await, 2);
}

#[tokio::test]
async fn the_board_follows_the_inventory_as_if_it_were_built_anew() {
    let (fleet, hosts) = several(&["two"]).await;
    for number in 0..4 {
        made(&fleet, wish(&format!("vm{number}"), &[])).await.unwrap();
    }
    // Facts change, a host goes and comes, VMs change and go: what is decided is what would be
    // decided after a restart.
    hosts[1].disconnect();
    let disconnected = |snapshot: &hostler_control::Snapshot| {
        let two = snapshot.find::<HostKind>(&by_name("two")).unwrap();
        two.status.state == hostler_types::HostState::Disconnected
    };
    fleet.until("it is gone", disconnected).await;
    assert_eq!(made(&fleet, wish("on-sim", &[])).await.unwrap(), "sim");
    hosts[1].reconnect();
    fleet.until("it is there", |snapshot| !disconnected(snapshot)).await;
    let update = hostler_types::VmUpdate {
        memory: Some("8GiB".parse().unwrap()),
        ..hostler_types::VmUpdate::default()
    };
    let changed = vm::update(&fleet.world, &root(), &by_name("vm1"), update, None, &plain()).await;
    fleet.done(&changed.unwrap().task.unwrap()).await;
    let force = vm::VmDelete { now: true, ..vm::VmDelete::default() };
    let gone = vm::delete(&fleet.world, &root(), &by_name("vm2"), force, &plain()).await.unwrap();
    fleet.done(&gone).await;
    let seen = async |fleet: &Fleet| {
        let created = vm::create(&fleet.world, &root(), wish("new", &[]), &dry()).await.unwrap();
        let mut explained = created.explained;
        explained[0].vm.clear();
        let candidates: Vec<_> = explained[0].candidates.clone();
        (created.explanation, candidates)
    };
    let before = seen(&fleet).await;
    drop(hosts);
    let fleet = fleet.restart(false).await;
    fleet.until("it is there", |snapshot| !disconnected(snapshot)).await;
    assert_eq!(seen(&fleet).await, before);
}

#[tokio::test]
async fn what_if_and_recommendations_read_only() {
    let (fleet, _) = several(&["two"]).await;
    let world = &fleet.world;
    for name in ["a", "b", "c", "d"] {
        made(&fleet, wish(name, &[])).await.unwrap();
    }
    let before = fleet.snapshot().revision;
    let nfs = fleet.snapshot().find::<DatastoreKind>(&by_name("nfs")).unwrap().id();
    let question = Simulation {
        edits: vec![json!({"remove_hosts": ["two"]})],
        balance: None,
        headroom: vec![
            json!({"id": hostler_types::VmId::generate(), "name": "small", "cpus": 1, "memory": "16GiB", "disks": ["200GiB"], "datastore": nfs}),
        ],
    };
    let answer = placement::simulate(world, &root(), question).await.unwrap();
    let moved = answer["plan"]["steps"].as_array().unwrap().len();
    let there = fleet
        .snapshot()
        .all::<VmKind>()
        .iter()
        .filter(|vm| on(&fleet, vm.name().as_str()) == "two")
        .count();
    assert_eq!((moved, there > 0), (there, true), "{answer}");
    assert_eq!(answer["headroom"][0]["count"], 2, "500 GiB of disks may be promised");
    let wrong = Simulation { edits: vec![json!({"remove_hosts": ["none"]})], ..Default::default() };
    let error = placement::simulate(world, &root(), wrong).await.unwrap_err();
    assert_eq!(error.message, "edits: edit 1: there is no host `none`; use a name of the snapshot");
    let wrong = Simulation { edits: vec![json!({"remove": 1})], ..Default::default() };
    let error = placement::simulate(world, &root(), wrong).await.unwrap_err();
    assert!(error.message.starts_with("edits[0]: unknown variant"), "{}", error.message);

    assert!(drs::recommendations(world, &root()).await.unwrap().steps.is_empty());
    assert_eq!(fleet.snapshot().revision, before);
    let (here, vms) = (on(&fleet, "a"), Selector::Names(vec![by_name("a")]));
    let hosts = Selector::Names(vec![by_name(&here)]);
    ruled(&fleet, "away", with_hosts(RuleRelation::NotRunOn, vms, hosts)).await.unwrap();
    let told = drs::recommendations(world, &root()).await.unwrap();
    let [step] = told.steps.as_slice() else { panic!("{told:?}") };
    assert_eq!((step.why.as_str(), step.moves[0].vm.as_str()), ("rule", "a"));
    assert_eq!(step.moves[0].from, here);
}

#[tokio::test]
async fn an_export_holds_no_secret_and_answers_the_same() {
    let (fleet, _) = several(&["two"]).await;
    let world = &fleet.world;
    let mut request = wish("a", &[("tier", "web")]);
    request.customization =
        Some(serde_json::from_value(json!({"user_data": "#cloud-config\n# s3cr3t"})).unwrap());
    request.description = "not for others".to_owned();
    made(&fleet, request).await.unwrap();
    let export = placement::export(world, &root()).unwrap();
    let text = serde_json::to_string(&export).unwrap();
    assert!(text.contains("\"tier\":\"web\"") && text.contains("nfs"), "{text}");
    assert!(!text.contains("s3cr3t") && !text.contains("not for others"), "{text}");
    assert!(!text.contains("127.0.0."), "no address: {text}");
    let snapshot: Arc<_> = fleet.snapshot();
    assert_eq!(export.revision, snapshot.revision);
    let _ = vm_request("unused");
}

/// A VM that runs on the first host.
async fn running(fleet: &Fleet, name: &str) -> hostler_types::VmId {
    // Without a network of the host alone, which it could not leave.
    let nics = Some(Vec::new());
    let request = VmCreate { host: Some(by_name("sim")), nics, ..wish(name, &[("tier", "db")]) };
    made(fleet, request).await.unwrap();
    let task = vm::start(&fleet.world, &root(), &by_name(name), &plain()).await.unwrap();
    fleet.done(&task).await;
    fleet.show(name).id()
}

/// What its VMs used and waited for makes a host one that others should leave; and the decisions that
/// were made with it are made again with it.
#[tokio::test]
async fn what_vms_were_measured_to_want_is_what_balancing_and_placement_see() {
    let (fleet, hosts) = several(&["two"]).await;
    let far = Some("rack");
    let soft = RuleSpec { strength: RuleStrength::Should, ..apart(labelled("tier", "db"), far) };
    ruled(&fleet, "racks", soft).await.unwrap();
    let used = ResourceUse {
        cpu_millicpus: 1000,
        cpu_ready_millicpus: 1000,
        memory: 64 << 20,
        ..ResourceUse::default()
    };
    for number in 0..4 {
        let vm = running(&fleet, &format!("busy{number}")).await;
        hosts[0].measured(vm, used);
    }
    let world = &fleet.world;
    let deficits = || {
        let export = placement::export(world, &root()).unwrap();
        let hosts = export.snapshot["hosts"].as_array().unwrap().clone();
        hosts.iter().map(|host| host["deficit"]["cpu"].as_u64().unwrap()).max()
    };
    for _ in 0..300 {
        if deficits() == Some(8000) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(deficits(), Some(8000));
    let steps = drs::recommendations(world, &root()).await.unwrap().steps;
    let first = steps.first().expect("a host on which all wait is left alone");
    assert_eq!((first.why.as_str(), first.moves[0].to.as_str()), ("load", "two"), "{first:?}");
    // 2,000 MHz in half of the time it could run.
    assert!(first.reason.contains("4000 MHz, 1GiB, 50 % ready"), "{}", first.reason);

    // What is exported says the same.
    let export = placement::export(world, &root()).unwrap();
    let busy = &export.snapshot["vms"][0];
    assert_eq!(busy["demand"], json!({"cpu": 2000, "memory": 64 << 20}), "{busy}");
    assert_eq!(busy["contention"]["cpu_ready_permille"], 500);

    // Nor is what is known lost when the board is built anew, or a VM changes.
    label(&fleet, "two", "rack", "r1").await;
    let update = hostler_types::VmUpdate {
        description: Some("other".to_owned()),
        ..hostler_types::VmUpdate::default()
    };
    vm::update(world, &root(), &by_name("busy0"), update, None, &plain()).await.unwrap();
    assert_eq!(made(&fleet, wish("new", &[("tier", "db")])).await.unwrap(), "two");
    let again = drs::recommendations(world, &root()).await.unwrap();
    assert!(!again.steps.is_empty());
    assert_eq!(all_replay(&fleet).await, 5);

    // Who is away is not asked any more, and what stops wants nothing.
    let stats = stats::vm(world, &root(), &by_name("busy0")).unwrap();
    assert_eq!((stats.used, stats.cpu_ready_permille), (Some(used), Some(500)));
    let power_off = vm::VmStop { mode: hostler_types::StopMode::PowerOff, timeout_seconds: None };
    let stop = vm::stop(world, &root(), &by_name("busy0"), power_off, &plain()).await.unwrap();
    fleet.done(&stop).await;
    assert_eq!(stats::vm(world, &root(), &by_name("busy0")).unwrap().used, None);
    assert_eq!(stats::host(world, &root(), &by_name("sim")).unwrap().vms.len(), 3);
    hosts[0].disconnect();
    let is_gone = |snapshot: &hostler_control::Snapshot| {
        let sim = snapshot.find::<HostKind>(&by_name("sim")).unwrap();
        sim.status.state == hostler_types::HostState::Disconnected
    };
    fleet.until("a host is gone", is_gone).await;
    assert!(stats::host(world, &root(), &by_name("sim")).unwrap().vms.is_empty());
}
