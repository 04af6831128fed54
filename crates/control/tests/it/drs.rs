//! Balancing that acts: recommendations that are carried out, and the balancer by itself.

use std::time::Duration;

use hostler_control::services::{self, Options, cluster, drs, placement, vm};
use hostler_control::{BalancingPace, Settings};
use hostler_sim::{Fault, Fleet, SimHost};
use hostler_types::{
    Automation, ClusterUpdate, DrsApply, DrsOutcome, ResourceUse, RuleRelation, Selector, Task,
    TaskKind, TaskState, VmAutomation, VmKind, VmUpdate,
};

use crate::placement::{
    all_replay, by_name, made, on, root, ruled, several, several_on, wish, with_hosts,
};

fn plain() -> Options {
    Options::default()
}

async fn started(fleet: &Fleet, vm: &str) {
    let vm = by_name(vm);
    let start = services::vm::start(&fleet.world, &root(), &vm, &plain()).await;
    fleet.done(&start.unwrap()).await;
}

async fn running(fleet: &Fleet, host: &str, vm: &str) {
    let mut request = wish(vm, &[]);
    request.host = Some(by_name(host));
    // Without a network of the host alone, which it could not leave.
    request.nics = Some(Vec::new());
    made(fleet, request).await.unwrap();
    started(fleet, vm).await;
}

async fn apply(fleet: &Fleet, ids: &[&str]) -> Option<Task> {
    let request = DrsApply { recommendations: ids.iter().map(|id| (*id).to_owned()).collect() };
    drs::apply(&fleet.world, &root(), &request, &plain()).await.unwrap().task
}

/// A rule that wants these VMs away from `sim`.
async fn away(fleet: &Fleet, vms: &[&str]) {
    let vms = Selector::Names(vms.iter().map(|vm| by_name(vm)).collect());
    let hosts = Selector::Names(vec![by_name("sim")]);
    ruled(fleet, "away", with_hosts(RuleRelation::NotRunOn, vms, hosts)).await.unwrap();
}

fn below(fleet: &Fleet, task: &Task) -> Vec<std::sync::Arc<Task>> {
    let snapshot = fleet.snapshot();
    let all = snapshot.all::<TaskKind>().iter();
    all.filter(|own| own.spec.parent == Some(task.id())).cloned().collect()
}

#[tokio::test]
async fn recommendations_are_carried_out_and_the_second_time_there_are_none() {
    let (fleet, _) = several(&["two"]).await;
    for vm in ["a", "b", "c"] {
        running(&fleet, "sim", vm).await;
    }
    away(&fleet, &["a", "b"]).await;
    let told = drs::recommendations(&fleet.world, &root()).await.unwrap();
    assert_eq!(told.steps.len(), 2, "{told:?}");
    let ids: Vec<_> = told.steps.iter().map(|step| step.id.as_str()).collect();

    let dry = Options { dry_run: true, ..plain() };
    let request = DrsApply { recommendations: vec![ids[0].to_owned()] };
    let dry = drs::apply(&fleet.world, &root(), &request, &dry).await.unwrap();
    assert_eq!((dry.task, dry.steps.len()), (None, 1));
    let unknown = DrsApply { recommendations: vec!["ffffffff".to_owned()] };
    let error = drs::apply(&fleet.world, &root(), &unknown, &plain()).await.unwrap_err();
    assert_eq!(error.code, "recommendation_gone");

    let task = apply(&fleet, &ids[..1]).await.unwrap();
    fleet.done(&task).await;
    let there: Vec<_> = ["a", "b", "c"].map(|vm| on(&fleet, vm)).into();
    assert_eq!(there.iter().filter(|host| *host == "two").count(), 1, "only what was named");
    assert!(fleet.show(&told.steps[0].moves[0].vm).status.moved_at.is_some());
    let task = apply(&fleet, &[]).await.unwrap();
    fleet.done(&task).await;
    assert_eq!((on(&fleet, "a"), on(&fleet, "b")), ("two".to_owned(), "two".to_owned()));
    assert_eq!(on(&fleet, "c"), "sim");
    assert_eq!(apply(&fleet, &[]).await, None, "nothing is left to move");

    let runs = drs::history(&fleet.world, &root(), None, None).await.unwrap();
    assert_eq!(runs.len(), 2);
    let last = &runs[0];
    assert_eq!((last.task, last.actor.as_str()), (task.id(), "root"));
    assert_eq!(last.steps[0].outcome, DrsOutcome::Moved);
    assert_eq!((last.before.broken_rules, last.after.unwrap().broken_rules), (1, 0));
    // Why it is where it is, and the decision made again.
    let why = placement::why(&fleet.world, &root(), &by_name("b")).await.unwrap();
    assert_eq!(why.decision.unwrap().action, "drs.apply");
    all_replay(&fleet).await;
}

#[tokio::test]
async fn a_failed_move_leaves_the_others_and_is_told() {
    let (fleet, hosts) = several(&["two"]).await;
    for vm in ["a", "b"] {
        running(&fleet, "sim", vm).await;
    }
    away(&fleet, &["a", "b"]).await;
    // One of them is refused by the host.
    hosts[0].fault("vm_migrate", Fault::refuse(502, "qemu_failed", "QEMU could not"));
    let task = apply(&fleet, &[]).await.unwrap();
    let ended = fleet.ended(&task).await;
    assert_eq!(ended.status.state, TaskState::Failed);
    assert_eq!(ended.status.error_code.as_deref(), Some("moves_failed"));
    let error = ended.status.error.as_deref().unwrap();
    assert!(error.starts_with("1 of 2 moves were made, and stay"), "{error}");
    let there = ["a", "b"].map(|vm| on(&fleet, vm));
    assert_eq!(there.iter().filter(|host| *host == "two").count(), 1, "{there:?}");
    let run = drs::history(&fleet.world, &root(), None, Some(1)).await.unwrap().remove(0);
    let mut outcomes: Vec<_> = run.steps.iter().map(|step| step.outcome.as_str()).collect();
    outcomes.sort_unstable();
    assert_eq!(outcomes, ["failed", "moved"]);
    let told: Vec<_> = run.steps.iter().filter_map(|step| step.told.as_deref()).collect();
    assert!(told.len() == 1 && told[0].contains("QEMU could not"), "{told:?}");
    assert!(run.ended_at.is_some());
}

#[tokio::test]
async fn a_step_that_the_world_forbids_by_now_is_skipped() {
    let (fleet, hosts) = several(&["two"]).await;
    for vm in ["a", "b", "c", "d"] {
        running(&fleet, "sim", vm).await;
    }
    away(&fleet, &["a", "b", "c", "d"]).await;
    // Two at a time: while these hang, the world changes for the others.
    let gate = hosts[0].hold("vm_migrate", 2);
    let task = apply(&fleet, &[]).await.unwrap();
    let two = |snapshot: &hostler_control::Snapshot| {
        let all = snapshot.all::<TaskKind>().iter();
        all.filter(|own| own.spec.parent == Some(task.id())).count() == 2
    };
    fleet.until("two moves have begun", two).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(below(&fleet, &task).len(), 2, "two at a time");
    services::rule::delete(&fleet.world, &root(), &by_name("away")).await.unwrap();
    let waiting: Vec<String> = ["a", "b", "c", "d"]
        .into_iter()
        .filter(|vm| {
            let id = fleet.show(vm).id();
            fleet.snapshot().task_on(id.untyped()).is_none()
        })
        .map(str::to_owned)
        .collect();
    let vms = Selector::Names(waiting.iter().map(|vm| by_name(vm)).collect());
    let hosts = Selector::Names(vec![by_name("two")]);
    ruled(&fleet, "stay", with_hosts(RuleRelation::NotRunOn, vms, hosts)).await.unwrap();
    drop(gate);
    let ended = fleet.ended(&task).await;
    assert_eq!(ended.status.state, TaskState::Done, "{:?}", ended.status.error);
    for vm in &waiting {
        assert_eq!(on(&fleet, vm), "sim");
    }
    let skipped = ended.status.messages.iter().filter(|one| one.text.contains("stay"));
    assert_eq!(skipped.count(), 2, "{:?}", ended.status.messages);
}

#[tokio::test]
async fn a_cancelled_plan_begins_nothing_more_and_no_vm_is_torn() {
    let (fleet, hosts) = several(&["two"]).await;
    let names = ["a", "b", "c", "d"];
    for vm in names {
        running(&fleet, "sim", vm).await;
    }
    away(&fleet, &names).await;
    let gate = hosts[0].hold("vm_migrate", 2);
    let task = apply(&fleet, &[]).await.unwrap();
    let begun = |snapshot: &hostler_control::Snapshot| {
        let all = snapshot.all::<TaskKind>().iter();
        all.filter(|own| own.spec.parent == Some(task.id())).count() == 2
    };
    fleet.until("two moves have begun", begun).await;
    // Another plan has to wait.
    let error = drs::apply(&fleet.world, &root(), &DrsApply::default(), &plain()).await;
    assert_eq!(error.unwrap_err().code, "busy");
    services::task::cancel(&fleet.world, &root(), &task.reference()).await.unwrap();
    drop(gate);
    let ended = fleet.ended(&task).await;
    assert_eq!(ended.status.state, TaskState::Cancelled, "{:?}", ended.status.error);
    assert_eq!(below(&fleet, &task).len(), 2, "nothing else has begun");
    for vm in names {
        let vm = fleet.show(vm);
        let have = hosts.iter().filter(|host| host.vm(vm.id()).is_some()).count();
        assert_eq!(have, 1, "{}", vm.name());
        assert!(fleet.snapshot().task_on(vm.id().untyped()).is_none());
    }
    let run = drs::history(&fleet.world, &root(), None, Some(1)).await.unwrap().remove(0);
    let skipped = run.steps.iter().filter(|step| step.outcome == DrsOutcome::Skipped);
    assert_eq!((skipped.count(), run.ended_at.is_some()), (2, true));
}

fn fast() -> Settings {
    let milliseconds = Duration::from_millis;
    let balancing = BalancingPace {
        shortest: milliseconds(20),
        longest: milliseconds(100),
        steady: milliseconds(300),
        again: milliseconds(500),
        ..BalancingPace::default()
    };
    Settings { balancing, ..Settings::default() }
}

async fn automation(fleet: &Fleet, automation: Automation) {
    let change = ClusterUpdate {
        automation: Some(automation),
        aggressiveness: Some(5),
        ..ClusterUpdate::default()
    };
    cluster::update(&fleet.world, &root(), change, None).await.unwrap();
}

/// CPU time, in thousandths of a CPU.
fn uses(fleet: &Fleet, host: &SimHost, vm: &str, cpu: u64) {
    let used = ResourceUse {
        cpu_millicpus: cpu,
        cpu_ready_millicpus: cpu / 4,
        memory: 1 << 28,
        ..ResourceUse::default()
    };
    host.measured(fleet.show(vm).id(), used);
}

fn runs(fleet: &Fleet) -> usize {
    let snapshot = fleet.snapshot();
    snapshot.all::<TaskKind>().iter().filter(|task| task.spec.action == "drs.apply").count()
}

#[tokio::test]
async fn the_balancer_moves_what_its_level_allows_and_no_more() {
    let fleet = Fleet::with_settings(fast()).await;
    let (fleet, _) = several_on(fleet, &["two"]).await;
    for vm in ["a", "b"] {
        running(&fleet, "sim", vm).await;
    }
    away(&fleet, &["a", "b"]).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(runs(&fleet), 0, "`partial` only recommends");
    let update = VmUpdate { automation: Some(VmAutomation::Manual), ..VmUpdate::default() };
    let (world, a) = (&fleet.world, by_name("a"));
    let changed = vm::update(world, &root(), &a, update, None, &plain()).await.unwrap();
    fleet.done(&changed.task.unwrap()).await;

    automation(&fleet, Automation::Full).await;
    let b = |snapshot: &hostler_control::Snapshot| {
        let vm = snapshot.find::<VmKind>(&by_name("b")).unwrap();
        vm.status.moved_at.is_some()
    };
    fleet.until("the balancer moves b", b).await;
    assert_eq!((on(&fleet, "a"), on(&fleet, "b")), ("sim".to_owned(), "two".to_owned()));
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!((on(&fleet, "a"), runs(&fleet)), ("sim".to_owned(), 1), "a is only recommended");
}

#[tokio::test]
async fn load_is_balanced_after_a_while_and_a_balanced_cluster_is_left_alone() {
    let fleet = Fleet::with_settings(fast()).await;
    let (fleet, hosts) = several_on(fleet, &["two"]).await;
    let names = ["a", "b", "c", "d"];
    for vm in names {
        running(&fleet, "sim", vm).await;
    }
    let everybody = || {
        for vm in names {
            let host = if on(&fleet, vm) == "sim" { &hosts[0] } else { &hosts[1] };
            uses(&fleet, host, vm, 2000);
        }
    };
    automation(&fleet, Automation::Full).await;
    everybody();
    let moved = |snapshot: &hostler_control::Snapshot| {
        let vms = snapshot.all::<VmKind>().iter();
        vms.filter(|vm| vm.status.moved_at.is_some()).count() == 2
    };
    fleet.until("half of them move", moved).await;
    let over = |snapshot: &hostler_control::Snapshot| {
        let mut tasks = snapshot.all::<TaskKind>().iter();
        tasks.all(|task| task.status.state.is_terminal())
    };
    fleet.until("the plan ends", over).await;
    let before = runs(&fleet);
    // Another peak, much later than what was steady: all who could leave have moved just now.
    everybody();
    for vm in names.into_iter().filter(|vm| on(&fleet, vm) == "two") {
        uses(&fleet, &hosts[1], vm, 8000);
    }
    tokio::time::sleep(Duration::from_millis(1000)).await;
    let last = drs::history(&fleet.world, &root(), None, None).await.unwrap();
    let again: Vec<_> =
        last.iter().flat_map(|run| &run.steps).flat_map(|step| &step.moves).collect();
    let mut vms: Vec<_> = again.iter().map(|one| one.vm.as_str()).collect();
    vms.sort_unstable();
    let all = vms.len();
    vms.dedup();
    assert_eq!(vms.len(), all, "a VM that moved just now stays: {again:?}");
    assert!(before >= 1);
    let run = last.last().unwrap();
    assert!(run.after.unwrap().most_cpu < run.before.most_cpu, "{run:?}");

    // Restarted, it still knows who has moved.
    let fleet = fleet.restart(false).await;
    let vm =
        fleet.snapshot().all::<VmKind>().iter().find(|vm| vm.status.moved_at.is_some()).cloned();
    assert!(vm.is_some());
}

#[tokio::test]
async fn a_balanced_cluster_moves_nothing() {
    let fleet = Fleet::with_settings(fast()).await;
    let (fleet, hosts) = several_on(fleet, &["two"]).await;
    for (vm, host) in [("a", "sim"), ("b", "two")] {
        running(&fleet, host, vm).await;
    }
    automation(&fleet, Automation::Full).await;
    for _ in 0..10 {
        uses(&fleet, &hosts[0], "a", 4000);
        uses(&fleet, &hosts[1], "b", 3900);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(runs(&fleet), 0);
}

#[tokio::test]
async fn a_plan_goes_on_when_the_server_dies_in_it() {
    let (fleet, hosts) = several(&["two"]).await;
    let names = ["a", "b", "c"];
    for vm in names {
        running(&fleet, "sim", vm).await;
    }
    away(&fleet, &names).await;
    let gate = hosts[0].hold("vm_migrate", 2);
    let task = apply(&fleet, &[]).await.unwrap();
    let begun = |snapshot: &hostler_control::Snapshot| {
        let all = snapshot.all::<TaskKind>().iter();
        all.filter(|own| own.spec.parent == Some(task.id())).count() == 2
    };
    fleet.until("two moves have begun", begun).await;
    let fleet = fleet.restart(true).await;
    drop(gate);
    fleet.done(&task).await;
    for vm in names {
        assert_eq!(on(&fleet, vm), "two");
    }
    assert_eq!(below(&fleet, &task).len(), 3, "each has moved once");
}

#[tokio::test]
async fn a_repeated_key_answers_the_first_task_though_nothing_is_recommended_any_more() {
    let (fleet, _) = several(&["two"]).await;
    running(&fleet, "sim", "a").await;
    away(&fleet, &["a"]).await;
    let told = drs::recommendations(&fleet.world, &root()).await.unwrap();
    let request = DrsApply { recommendations: vec![told.steps[0].id.clone()] };
    let keyed = Options { idempotency_key: Some("once".to_owned()), ..plain() };
    let apply = async || drs::apply(&fleet.world, &root(), &request, &keyed).await;
    let first = apply().await.unwrap().task.unwrap();
    fleet.done(&first).await;
    let again = apply().await.expect("it is not planned anew").task.unwrap();
    assert_eq!(again.id(), first.id());
}

#[tokio::test]
async fn at_the_manual_level_a_host_is_recommended_for_a_new_vm_and_at_partial_it_is_placed() {
    let (fleet, _) = several(&["two"]).await;
    let level = async |automation| {
        let update = ClusterUpdate { automation: Some(automation), ..ClusterUpdate::default() };
        cluster::update(&fleet.world, &root(), update, None).await
    };
    level(Automation::Manual).await.unwrap();
    let refused = made(&fleet, wish("a", &[])).await.unwrap_err();
    assert_eq!(refused.code, "host_needed");
    assert!(refused.message.contains("is recommended"), "{refused:?}");
    let dry = Options { dry_run: true, ..plain() };
    let dry = vm::create(&fleet.world, &root(), wish("a", &[]), &dry).await.unwrap();
    assert_eq!(dry.explained.len(), 1, "what is recommended can be looked at");
    let mut chosen = wish("a", &[]);
    chosen.host = Some(by_name("two"));
    assert_eq!(made(&fleet, chosen).await.unwrap(), "two");
    level(Automation::Partial).await.unwrap();
    made(&fleet, wish("b", &[])).await.unwrap();
}

#[tokio::test]
async fn a_step_whose_hosts_have_no_place_for_long_is_passed_over_and_the_cluster_is_free() {
    let mut settings = fast();
    settings.balancing.patience = Duration::from_millis(1500);
    let (fleet, hosts) = several_on(Fleet::with_settings(settings).await, &["two"]).await;
    for vm in ["a", "b", "c"] {
        running(&fleet, "sim", vm).await;
    }
    // Both places of the hosts are taken by moves that somebody else asked for and that do not end.
    let gate = hosts[0].hold("vm_migrate", 2);
    let mut others = Vec::new();
    for vm in ["a", "b"] {
        let asked = vm::VmMigrate::default();
        let moved = vm::migrate(&fleet.world, &root(), &by_name(vm), &asked, &plain()).await;
        others.push(moved.unwrap().task.unwrap());
    }
    away(&fleet, &["c"]).await;
    let task = apply(&fleet, &[]).await.unwrap();
    let ended = fleet.ended(&task).await;
    assert_eq!(ended.status.state, TaskState::Done, "{:?}", ended.status.error);
    let run = drs::history(&fleet.world, &root(), None, Some(1)).await.unwrap().remove(0);
    assert_eq!(run.steps[0].outcome, DrsOutcome::Skipped);
    let told = run.steps[0].told.clone().unwrap();
    assert!(told.contains("had no place for a move"), "{told}");
    drop(gate);
    for task in &others {
        fleet.done(task).await;
    }
}
