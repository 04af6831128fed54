//! A VM's life, as a client sees it.

use expect_test::expect;
use futures::StreamExt as _;
use hostler_agent_api::{ConsoleKind, code};
use hostler_control::services::vm::{VmDelete, VmFilter, VmRegister, VmStop};
use hostler_control::services::{Options, PageRequest, console, task, vm};
use hostler_control::{Actor, Class};
use hostler_sim::{Fault, Fleet, vm_request};
use hostler_types::{
    ByteSize, Cores, ExecRequest, PowerState, StopMode, TaskKind, TaskState, Vm, VmKind, VmUpdate,
};

fn root() -> Actor {
    Actor::root()
}

fn plain() -> Options {
    Options::default()
}

fn off() -> VmStop {
    VmStop { mode: StopMode::PowerOff, timeout_seconds: None }
}

#[tokio::test]
async fn a_vm_is_made_started_stopped_and_deleted() {
    let fleet = Fleet::new().await;
    let made = fleet.vm("web01").await;
    assert_eq!(made.status.power, PowerState::Stopped);
    assert_eq!(made.spec.nics.len(), 1, "one NIC on the default network");
    assert!(made.status.placement[0].contains("host `sim`"), "{:?}", made.status.placement);
    let reference = made.reference();

    let started = vm::start(&fleet.world, &root(), &reference, &plain()).await.unwrap();
    fleet.done(&started).await;
    assert_eq!(fleet.show("web01").status.power, PowerState::Running);
    fleet.done(&vm::reset(&fleet.world, &root(), &reference, &plain()).await.unwrap()).await;
    fleet.done(&vm::suspend(&fleet.world, &root(), &reference, &plain()).await.unwrap()).await;
    assert_eq!(fleet.show("web01").status.power, PowerState::Suspended);
    let cpus = VmUpdate { cpus: Cores::try_from(2).ok(), ..VmUpdate::default() };
    let error = vm::update(&fleet.world, &root(), &reference, cpus, None, &plain()).await;
    assert_eq!(error.unwrap_err().code, "wrong_state", "its memory expects the same machine");
    fleet.done(&vm::resume(&fleet.world, &root(), &reference, &plain()).await.unwrap()).await;
    assert_eq!(fleet.show("web01").status.power, PowerState::Running);
    fleet.done(&vm::stop(&fleet.world, &root(), &reference, off(), &plain()).await.unwrap()).await;
    assert_eq!(fleet.show("web01").status.power, PowerState::Stopped);

    let now = VmDelete { now: true, ..VmDelete::default() };
    let gone = vm::delete(&fleet.world, &root(), &reference, now, &plain()).await.unwrap();
    fleet.done(&gone).await;
    assert!(fleet.snapshot().find::<VmKind>(&reference).is_err());
    assert!(fleet.host.files().is_empty() && fleet.host.vms().is_empty());
}

#[tokio::test]
async fn a_vm_can_be_made_and_started_in_one_request() {
    let fleet = Fleet::new().await;
    fleet.image("tiny").await;
    let mut request = vm_request("web01");
    request.start = true;
    let changed = vm::create(&fleet.world, &root(), request, &plain()).await.unwrap();
    assert_eq!(changed.object.status.power, PowerState::Creating);
    fleet.done(&changed.task.unwrap()).await;
    assert_eq!(fleet.show("web01").status.power, PowerState::Running);
}

#[tokio::test]
async fn a_vm_that_does_not_start_stays_and_the_task_tells_why() {
    let fleet = Fleet::new().await;
    fleet.image("tiny").await;
    fleet.host.fault("vm_start", Fault::refuse(502, code::QEMU_FAILED, "QEMU did not come up"));
    let mut request = vm_request("web01");
    request.start = true;
    let changed = vm::create(&fleet.world, &root(), request, &plain()).await.unwrap();
    let ended = fleet.ended(&changed.task.unwrap()).await;
    assert_eq!(ended.status.state, TaskState::Failed);
    assert_eq!(ended.status.error_code.as_deref(), Some("qemu_failed"));
    assert_eq!(ended.status.error.as_deref(), Some("QEMU did not come up"));
    let message = &ended.status.messages.last().unwrap().text;
    assert!(message.contains("stays"), "{message}");
    assert_eq!(fleet.show("web01").status.power, PowerState::Stopped);
}

#[tokio::test]
async fn a_creation_that_fails_leaves_nothing() {
    let fleet = Fleet::new().await;
    fleet.image("tiny").await;
    fleet.host.fault("vm_create", Fault::refuse(507, code::NO_SPACE, "the datastore is full"));
    let changed = vm::create(&fleet.world, &root(), vm_request("web01"), &plain()).await.unwrap();
    let ended = fleet.ended(&changed.task.unwrap()).await;
    assert_eq!(ended.status.error_code.as_deref(), Some("no_space"));
    assert!(fleet.snapshot().all::<VmKind>().is_empty());
    assert!(fleet.host.files().is_empty());
    fleet.vm("web01").await;
}

#[tokio::test]
async fn lost_connections_repeat_nothing() {
    let fleet = Fleet::new().await;
    fleet.image("tiny").await;
    fleet.host.fault("vm_create", Fault::AnswerLost);
    fleet.host.fault("vm_create", Fault::Unheard);
    let changed = vm::create(&fleet.world, &root(), vm_request("web01"), &plain()).await.unwrap();
    fleet.done(&changed.task.unwrap()).await;
    assert_eq!(fleet.host.times_done("vm_create"), 1);
}

#[tokio::test]
async fn a_hanging_start_can_be_cancelled() {
    let fleet = Fleet::new().await;
    let reference = fleet.vm("web01").await.reference();
    fleet.host.fault("vm_start", Fault::Hang);
    let start = vm::start(&fleet.world, &root(), &reference, &plain()).await.unwrap();
    assert_eq!(fleet.show("web01").status.power, PowerState::Starting);

    let busy = vm::reset(&fleet.world, &root(), &reference, &plain()).await.unwrap_err();
    assert_eq!((busy.class, busy.code), (Class::Conflict, "busy"));
    assert!(busy.message.contains("vm.start"), "{}", busy.message);

    task::cancel(&fleet.world, &root(), &start.reference()).await.unwrap();
    let ended = fleet.ended(&start).await;
    assert_eq!(ended.status.state, TaskState::Cancelled, "{:?}", ended.status.error);
    fleet
        .until("it is stopped", |snapshot| {
            let vm = snapshot.find::<VmKind>(&reference).unwrap();
            vm.status.power == PowerState::Stopped
        })
        .await;
}

#[tokio::test]
async fn a_task_is_watched_to_its_end() {
    let fleet = Fleet::new().await;
    let reference = fleet.vm("web01").await.reference();
    let start = vm::start(&fleet.world, &root(), &reference, &plain()).await.unwrap();
    let updates = task::watch(&fleet.world, &root(), &start.reference()).unwrap();
    let states: Vec<_> = updates.map(|task| task.unwrap().status.state).collect().await;
    assert_eq!(states.last(), Some(&TaskState::Done));
}

#[tokio::test]
async fn specs_and_names_change_and_come_back_when_the_host_refuses() {
    let fleet = Fleet::new().await;
    let before = fleet.vm("web01").await;
    let reference = before.reference();
    let cpus = |count: u32| VmUpdate {
        cpus: Some(Cores::try_from(count).unwrap()),
        ..VmUpdate::default()
    };
    let world = &fleet.world;
    let changed = vm::update(world, &root(), &reference, cpus(4), None, &plain()).await.unwrap();
    assert_eq!(changed.object.spec.cpus.count(), 4, "the new spec is there at once");
    fleet.done(&changed.task.unwrap()).await;
    assert_eq!(fleet.host.vm(before.id()).unwrap().definition.vm.spec.cpus.count(), 4);

    let name = "web02".parse().unwrap();
    let renamed = vm::rename(world, &root(), &reference, name, None, &plain()).await.unwrap();
    fleet.done(&renamed.task.unwrap()).await;
    assert_eq!(fleet.show("web02").id(), before.id());

    fleet.host.fault("vm_define", Fault::refuse(507, code::NO_SPACE, "the datastore is full"));
    let refused = vm::update(world, &root(), &reference, cpus(8), None, &plain()).await.unwrap();
    let ended = fleet.ended(&refused.task.unwrap()).await;
    assert_eq!(ended.status.state, TaskState::Failed);
    assert_eq!(fleet.show("web02").spec.cpus.count(), 4);
}

#[tokio::test]
async fn a_running_vm_changes_as_planned() {
    let fleet = Fleet::new().await;
    let reference = fleet.running_vm("web01").await.reference();
    let more = VmUpdate {
        cpus: Cores::try_from(2).ok(),
        memory: Some(ByteSize::gib(8)),
        cpu_limit: Some(1500),
        ..VmUpdate::default()
    };
    let plan = vm::plan(&fleet.world, &root(), &reference, &more).unwrap();
    let plan: Vec<_> = plan.iter().map(ToString::to_string).collect();
    expect![[r#"
        [
            "cpus: 1 -> 2: live, with the guest's help (the guest brings them online)",
            "cpu-limit: none -> 1.5: live now",
            "memory: 1GiB -> 8GiB: needs power off (it was started with room for 2GiB; give it room with `--max-memory` before its next start)",
        ]
    "#]]
    .assert_debug_eq(&plan);
    assert_eq!(fleet.show("web01").spec.cpus, Cores::ONE, "a plan changes nothing");
    let changed = vm::update(&fleet.world, &root(), &reference, more, None, &plain()).await;
    fleet.done(&changed.unwrap().task.unwrap()).await;
    assert_eq!(fleet.show("web01").status.hardware.unwrap().cpus, 2);
    let no_limit = VmUpdate { cpu_limit: Some(0), ..VmUpdate::default() };
    let changed = vm::update(&fleet.world, &root(), &reference, no_limit, None, &plain()).await;
    fleet.done(&changed.unwrap().task.unwrap()).await;
    assert_eq!(fleet.show("web01").spec.cpu_limit, None);
    let protect = VmUpdate { protected: Some(true), ..VmUpdate::default() };
    let changed = vm::update(&fleet.world, &root(), &reference, protect, None, &plain()).await;
    fleet.done(&changed.unwrap().task.unwrap()).await;

    let force = VmDelete { force: true, ..VmDelete::default() };
    let refused = vm::delete(&fleet.world, &root(), &reference, force, &plain()).await.unwrap_err();
    assert_eq!(refused.code, "protected");
}

#[tokio::test]
async fn a_vm_leaves_the_inventory_and_comes_back_from_its_files() {
    let fleet = Fleet::new().await;
    let before = fleet.vm("web01").await;
    let task = vm::unregister(&fleet.world, &root(), &before.reference(), &plain()).await.unwrap();
    fleet.done(&task).await;
    assert!(fleet.snapshot().all::<VmKind>().is_empty());
    assert_eq!(fleet.host.files(), [before.id()]);

    let datastore: hostler_types::Ref = "local".parse().unwrap();
    let found = vm::unregistered(&fleet.world, &root(), &datastore).await.unwrap();
    assert_eq!(found.iter().map(|vm| vm.id()).collect::<Vec<_>>(), [before.id()]);
    let request = VmRegister {
        datastore,
        vm: "web01".parse().unwrap(),
        name: Some("web07".parse().unwrap()),
    };
    let changed = vm::register(&fleet.world, &root(), request, &plain()).await.unwrap();
    fleet.done(&changed.task.unwrap()).await;
    let after: std::sync::Arc<Vm> = fleet.show("web07");
    assert_eq!((after.id(), after.status.epoch.0), (before.id(), before.status.epoch.0 + 1));
    assert_eq!(after.status.power, PowerState::Stopped);
    assert_eq!(after.spec, before.spec);
}

#[tokio::test]
async fn a_dry_run_decides_and_changes_nothing() {
    let fleet = Fleet::new().await;
    fleet.image("tiny").await;
    let revision = fleet.snapshot().revision;
    let dry = Options { dry_run: true, idempotency_key: None };
    let changed = vm::create(&fleet.world, &root(), vm_request("web01"), &dry).await.unwrap();
    assert!(changed.task.is_none() && !changed.explanation.is_empty());
    assert_eq!(fleet.snapshot().revision, revision);
    let error = vm::start(&fleet.world, &root(), &changed.object.reference(), &dry).await;
    assert_eq!(error.unwrap_err().code, "invalid");
}

#[tokio::test]
async fn a_request_is_carried_out_once_per_key_also_across_a_restart() {
    let fleet = Fleet::new().await;
    fleet.image("tiny").await;
    let keyed = Options { dry_run: false, idempotency_key: Some("k1".to_owned()) };
    let create = |fleet: &Fleet, vm: &str| {
        let (world, request, keyed) = (fleet.world.clone(), vm_request(vm), keyed.clone());
        async move { vm::create(&world, &root(), request, &keyed).await }
    };
    let first = create(&fleet, "web01").await.unwrap();
    fleet.done(first.task.as_ref().unwrap()).await;
    let second = create(&fleet, "web01").await.unwrap();
    assert_eq!(first.task.unwrap().id(), second.task.unwrap().id());
    assert_eq!(first.object.id(), second.object.id());
    assert_eq!(create(&fleet, "web02").await.unwrap_err().code, "idempotency_mismatch");

    let fleet = fleet.restart(false).await;
    let third = create(&fleet, "web01").await.unwrap();
    assert_eq!(third.object.id(), first.object.id());
    assert_eq!(fleet.snapshot().all::<VmKind>().len(), 1);
}

#[tokio::test]
async fn tasks_go_on_after_the_server_was_killed() {
    let fleet = Fleet::new().await;
    let reference = fleet.vm("web01").await.reference();
    fleet.host.fault("vm_start", Fault::Hang);
    let start = vm::start(&fleet.world, &root(), &reference, &plain()).await.unwrap();
    fleet.host.taken("vm_start").await;
    let fleet = fleet.restart(true).await;
    fleet.done(&start).await;
    assert_eq!(fleet.show("web01").status.power, PowerState::Running);
    assert_eq!(fleet.snapshot().get::<TaskKind>(start.id()).unwrap().status.state, TaskState::Done);
}

#[tokio::test]
async fn guests_are_talked_to_while_they_run() {
    let fleet = Fleet::new().await;
    let reference = fleet.vm("web01").await.reference();
    let request = || ExecRequest {
        command: vec!["uname".to_owned(), "-a".to_owned()],
        stdin: String::new(),
        timeout_seconds: 5,
    };
    let world = &fleet.world;
    let error = vm::exec(world, &root(), &reference, request()).await.unwrap_err();
    assert_eq!(error.code, "wrong_state");
    fleet.done(&vm::start(world, &root(), &reference, &plain()).await.unwrap()).await;
    let answer = vm::exec(world, &root(), &reference, request()).await.unwrap();
    assert_eq!(answer.stdout, "uname -a");
    let log = vm::log(world, &root(), &reference, false).await.unwrap();
    assert_eq!(bytes(log).await, b"login: ");
    assert!(!bytes(vm::screenshot(world, &root(), &reference).await.unwrap()).await.is_empty());

    let input = futures::stream::iter([Ok(hostler_endpoint::Bytes::from_static(b"ls\n"))]);
    let output =
        console::attach(world, &root(), &reference, ConsoleKind::Serial, Box::pin(input)).await;
    assert_eq!(bytes(output.unwrap()).await, b"ls\n");
}

async fn bytes(stream: hostler_endpoint::ByteStream) -> Vec<u8> {
    let pieces: Vec<_> = stream.map(|piece| piece.unwrap().to_vec()).collect().await;
    pieces.concat()
}

#[tokio::test]
async fn lists_are_filtered_and_paged_by_name() {
    let fleet = Fleet::new().await;
    for vm in ["c", "a", "b"] {
        fleet.vm(vm).await;
    }
    fleet.running_vm("d").await;
    let names = |filter: &VmFilter, page: &PageRequest| {
        let page = vm::list(&fleet.world, &root(), filter, page).unwrap();
        let names: Vec<_> = page.items.iter().map(|vm| vm.name().to_string()).collect();
        (names.join(" "), page.next)
    };
    let all = VmFilter::default();
    assert_eq!(names(&all, &PageRequest::default()), ("a b c d".to_owned(), None));
    let first = PageRequest { limit: Some(3), ..PageRequest::default() };
    assert_eq!(names(&all, &first), ("a b c".to_owned(), Some("c".to_owned())));
    let second = PageRequest { after: Some("c".to_owned()), ..first.clone() };
    assert_eq!(names(&all, &second), ("d".to_owned(), None));
    let running = VmFilter { power: Some(PowerState::Running), ..VmFilter::default() };
    assert_eq!(names(&running, &PageRequest::default()).0, "d");
    let labels = vec![("env".to_owned(), None)];
    assert_eq!(names(&all, &PageRequest { labels, ..PageRequest::default() }).0, "");
    let nowhere = VmFilter { host: Some("nowhere".parse().unwrap()), ..VmFilter::default() };
    let error = vm::list(&fleet.world, &root(), &nowhere, &PageRequest::default()).unwrap_err();
    assert_eq!(error.code, "not_found");
}
