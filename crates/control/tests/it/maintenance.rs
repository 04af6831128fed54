//! Hosts in maintenance: who leaves, what is in the way, and who comes back.

use hostler_control::services::host::{self, Left};
use hostler_control::services::{self, Options, rule};
use hostler_control::{ServiceError, Snapshot};
use hostler_sim::Fleet;
use hostler_types::{
    HostKind, HostMaintenance, MaintenanceEnter, MaintenanceExit, RuleRelation, RuleSpec, Selector,
    TaskState, VmAutomation, VmUpdate,
};

use crate::placement::{apart, by_name, made, on, root, ruled, several, wish, with_hosts};

fn plain() -> Options {
    Options::default()
}

async fn there(fleet: &Fleet, host: &str, vm: &str, runs: bool) {
    let mut request = wish(vm, &[]);
    request.host = Some(by_name(host));
    // Without a network of the host alone, which it could not leave.
    request.nics = Some(Vec::new());
    made(fleet, request).await.unwrap();
    if runs {
        let start = services::vm::start(&fleet.world, &root(), &by_name(vm), &plain()).await;
        fleet.done(&start.unwrap()).await;
    }
}

/// On the host's own datastore, and with a network of the host alone.
async fn local(fleet: &Fleet) {
    let mut request = wish("local", &[]);
    (request.host, request.datastore) = (Some(by_name("sim")), Some(by_name("local")));
    made(fleet, request).await.unwrap();
}

async fn enter(fleet: &Fleet, wait_blocked: bool) -> Result<HostMaintenance, ServiceError> {
    let request = MaintenanceEnter { wait_blocked };
    host::maintenance_enter(&fleet.world, &root(), &by_name("sim"), &request, &plain()).await
}

async fn exit(fleet: &Fleet, bring_back: bool) -> Result<Left, ServiceError> {
    let request = MaintenanceExit { bring_back };
    host::maintenance_exit(&fleet.world, &root(), &by_name("sim"), &request, &plain()).await
}

fn is_closed(snapshot: &Snapshot) -> bool {
    snapshot.find::<HostKind>(&by_name("sim")).unwrap().spec.maintenance
}

#[tokio::test]
async fn everything_leaves_nothing_comes_and_all_of_it_returns() {
    let (fleet, hosts) = several(&["two"]).await;
    there(&fleet, "sim", "runs", true).await;
    there(&fleet, "sim", "off", false).await;
    // Simulated hosts share no files by themselves.
    let off = fleet.show("off").id();
    hosts[1].plant(hosts[0].vm(off).unwrap());
    hosts[1].lose(off);
    there(&fleet, "two", "other", true).await;
    local(&fleet).await;
    let dry = Options { dry_run: true, ..plain() };
    let (world, sim) = (&fleet.world, by_name("sim"));
    let told =
        host::maintenance_enter(world, &root(), &sim, &Default::default(), &dry).await.unwrap();
    assert_eq!((told.task, told.blocked.len()), (None, 0));
    assert_eq!(told.steps.len(), 2, "{:?}", told.steps);
    assert_eq!(told.staying, ["local"]);
    assert!(!is_closed(&fleet.snapshot()), "nothing was done");

    let entered = enter(&fleet, false).await.unwrap();
    fleet.done(&entered.task.unwrap()).await;
    assert!(is_closed(&fleet.snapshot()));
    let places = ["runs", "off", "other", "local"].map(|vm| on(&fleet, vm));
    assert_eq!(places, ["two", "two", "two", "sim"]);
    assert_eq!(enter(&fleet, false).await.unwrap_err().code, "wrong_state");
    // Nothing new, and nothing is started.
    there(&fleet, "two", "new", false).await;
    let mut request = wish("here", &[]);
    request.host = Some(sim.clone());
    let error = made(&fleet, request).await.unwrap_err();
    assert!(error.message.contains("maintenance"), "{}", error.message);
    assert_eq!(made(&fleet, wish("anywhere", &[])).await.unwrap(), "two");
    let start = services::vm::start(world, &root(), &by_name("local"), &plain()).await;
    let error = start.unwrap_err();
    assert_eq!(error.code, "host_in_maintenance");
    assert!(error.hint.unwrap().contains("hostler host maintenance exit sim"));

    let left = exit(&fleet, true).await.unwrap();
    assert!(!left.host.spec.maintenance, "at once");
    fleet.done(&left.task.unwrap()).await;
    let places = ["runs", "off", "other", "new"].map(|vm| on(&fleet, vm));
    assert_eq!(places, ["sim", "sim", "two", "two"], "only those that had left come back");
    let host = fleet.snapshot().find::<HostKind>(&sim).unwrap().clone();
    assert!(host.status.evacuated.is_empty());
    assert_eq!(exit(&fleet, false).await.unwrap_err().code, "wrong_state");
}

#[tokio::test]
async fn what_cannot_leave_is_told_vm_by_vm_and_can_be_waited_for() {
    let (fleet, _) = several(&["two"]).await;
    there(&fleet, "sim", "free", true).await;
    there(&fleet, "sim", "ruled", true).await;
    there(&fleet, "sim", "held", true).await;
    local(&fleet).await;
    let start = services::vm::start(&fleet.world, &root(), &by_name("local"), &plain()).await;
    fleet.done(&start.unwrap()).await;
    let vms = Selector::Names(vec![by_name("ruled")]);
    let rule = with_hosts(RuleRelation::RunOn, vms, Selector::Names(vec![by_name("sim")]));
    ruled(&fleet, "licence", rule).await.unwrap();
    let update = VmUpdate { automation: Some(VmAutomation::Disabled), ..VmUpdate::default() };
    let (world, held) = (&fleet.world, by_name("held"));
    let changed = services::vm::update(world, &root(), &held, update, None, &plain()).await;
    fleet.done(&changed.unwrap().task.unwrap()).await;

    let error = enter(&fleet, false).await.unwrap_err();
    assert_eq!(error.code, "blocked");
    for part in ["vm `ruled`", "licence", "vm `held`", "change its automation", "vm `local`", "nat"]
    {
        assert!(error.message.contains(part), "{part}: {}", error.message);
    }
    assert!(!error.message.contains("`free`"), "{}", error.message);
    assert!(!is_closed(&fleet.snapshot()));
    assert_eq!(on(&fleet, "free"), "sim", "nothing was done");

    let entered = enter(&fleet, true).await.unwrap();
    let task = entered.task.unwrap();
    fleet.until("what can leave has left", |_| on(&fleet, "free") == "two").await;
    assert!(is_closed(&fleet.snapshot()));
    // One gets out of the way after the other.
    rule::delete(world, &root(), &by_name("licence")).await.unwrap();
    fleet.until("the rule is gone", |_| on(&fleet, "ruled") == "two").await;
    for vm in ["held", "local"] {
        let stop =
            services::vm::VmStop { mode: hostler_types::StopMode::PowerOff, timeout_seconds: None };
        let stop = services::vm::stop(world, &root(), &by_name(vm), stop, &plain()).await;
        fleet.done(&stop.unwrap()).await;
    }
    fleet.done(&task).await;
    assert_eq!(on(&fleet, "held"), "sim", "it may not be moved, and does not run");
}

#[tokio::test]
async fn a_cancelled_maintenance_opens_the_host_again() {
    let (fleet, hosts) = several(&["two"]).await;
    for vm in ["a", "b", "c"] {
        there(&fleet, "sim", vm, true).await;
    }
    let gate = hosts[0].hold("vm_migrate", 2);
    let task = enter(&fleet, false).await.unwrap().task.unwrap();
    hosts[0].taken("vm_migrate").await;
    services::task::cancel(&fleet.world, &root(), &task.reference()).await.unwrap();
    let ended = fleet.ended(&task).await;
    assert_eq!(ended.status.state, TaskState::Cancelled, "{:?}", ended.status.error);
    assert!(!is_closed(&fleet.snapshot()));
    drop(gate);
    for vm in ["a", "b", "c"] {
        let vm = fleet.show(vm);
        let have = hosts.iter().filter(|host| host.vm(vm.id()).is_some()).count();
        assert_eq!(have, 1, "{}", vm.name());
    }
}

#[tokio::test]
async fn a_move_that_fails_once_is_made_again_and_one_that_always_fails_opens_the_host() {
    let (fleet, hosts) = several(&["two"]).await;
    there(&fleet, "sim", "a", true).await;
    let refuse = || hostler_sim::Fault::refuse(502, "qemu_failed", "QEMU could not");
    hosts[0].fault("vm_migrate", refuse());
    let task = enter(&fleet, false).await.unwrap().task.unwrap();
    fleet.done(&task).await;
    assert_eq!(on(&fleet, "a"), "two");
    fleet.done(&exit(&fleet, true).await.unwrap().task.unwrap()).await;
    for _ in 0..20 {
        hosts[0].fault("vm_migrate", refuse());
    }
    let task = enter(&fleet, false).await.unwrap().task.unwrap();
    let ended = fleet.ended(&task).await;
    assert_eq!(ended.status.state, TaskState::Failed);
    assert_eq!(ended.status.error_code.as_deref(), Some("not_evacuated"));
    assert!(!is_closed(&fleet.snapshot()));
    assert_eq!(on(&fleet, "a"), "sim");
}

#[tokio::test]
async fn a_vm_that_is_busy_is_waited_for_and_who_left_before_a_cancel_comes_back() {
    let (fleet, hosts) = several(&["two"]).await;
    for vm in ["busy", "free"] {
        there(&fleet, "sim", vm, true).await;
    }
    let gate = hosts[0].hold("vm_snapshot", 1);
    let request = services::vm::snapshot::SnapshotCreate::default();
    let (world, busy) = (&fleet.world, by_name("busy"));
    services::vm::snapshot::create(world, &root(), &busy, &request, &plain()).await.unwrap();
    hosts[0].taken("vm_snapshot").await;
    let task = enter(&fleet, false).await.unwrap().task.unwrap();
    fleet.until("what can leave has left", |_| on(&fleet, "free") == "two").await;
    // Longer than a host that nothing may leave is tried.
    tokio::time::sleep(std::time::Duration::from_secs(8)).await;
    let still = fleet.snapshot().get::<hostler_types::TaskKind>(task.id()).unwrap().status.state;
    assert_eq!(still, TaskState::Running);
    services::task::cancel(world, &root(), &task.reference()).await.unwrap();
    assert_eq!(fleet.ended(&task).await.status.state, TaskState::Cancelled);
    drop(gate);

    assert!(!is_closed(&fleet.snapshot()));
    assert_eq!((on(&fleet, "busy").as_str(), on(&fleet, "free").as_str()), ("sim", "two"));
    fleet.done(&exit(&fleet, true).await.unwrap().task.unwrap()).await;
    assert_eq!(on(&fleet, "free"), "sim");
    assert_eq!(exit(&fleet, true).await.unwrap_err().code, "wrong_state", "nobody is left away");
}

#[tokio::test]
async fn vms_that_a_rule_keeps_together_come_back_as_one() {
    let (fleet, _) = several(&["two"]).await;
    for vm in ["a", "b"] {
        there(&fleet, "sim", vm, true).await;
    }
    there(&fleet, "sim", "alone", true).await;
    let vms = Selector::Names(vec![by_name("a"), by_name("b")]);
    let rule = RuleSpec { relation: RuleRelation::Affinity, ..apart(vms, None) };
    ruled(&fleet, "pair", rule).await.unwrap();
    let entered = enter(&fleet, false).await.unwrap();
    fleet.done(&entered.task.unwrap()).await;
    assert_eq!(["a", "b", "alone"].map(|vm| on(&fleet, vm)), ["two", "two", "two"]);
    let keyed = Options { idempotency_key: Some("back".to_owned()), ..plain() };
    let request = MaintenanceExit { bring_back: true };
    let exit = async || {
        host::maintenance_exit(&fleet.world, &root(), &by_name("sim"), &request, &keyed).await
    };
    let task = exit().await.unwrap().task.unwrap();
    fleet.done(&task).await;
    assert_eq!(["a", "b", "alone"].map(|vm| on(&fleet, vm)), ["sim", "sim", "sim"]);
    assert_eq!(exit().await.expect("it was done").task.unwrap().id(), task.id());
}
