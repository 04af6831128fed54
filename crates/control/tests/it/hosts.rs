//! Hosts that come, go, and know better.

use std::time::{Duration, Instant};

use hostler_agent_api::VmDefinition;
use hostler_control::Actor;
use hostler_control::services::{Options, vm};
use hostler_sim::{Fleet, SimStorage, SimVm, vm_request};
use hostler_types::{
    ByteSize, DatastoreKind, Epoch, GuestReport, HostKind, HostState, PowerState, Ref, TaskState,
    Vm, VmId, VmKind,
};
use jiff::Timestamp;

fn root() -> Actor {
    Actor::root()
}

fn plain() -> Options {
    Options::default()
}

async fn power(fleet: &Fleet, vm: &Ref, power: PowerState) {
    let what = format!("{vm} is {power}");
    fleet.until(&what, |snapshot| snapshot.find::<VmKind>(vm).unwrap().status.power == power).await;
}

#[tokio::test]
async fn a_host_that_is_lost_is_known_within_5_s_and_its_vms_are_unknown() {
    let fleet = Fleet::new().await;
    let (running, stopped) = (fleet.running_vm("a").await, fleet.vm("b").await);
    let begin = Instant::now();
    fleet.host.disconnect();
    power(&fleet, &running.reference(), PowerState::Unknown).await;
    power(&fleet, &stopped.reference(), PowerState::Unknown).await;
    let state = |state| {
        let id = fleet.host.id();
        move |snapshot: &hostler_control::Snapshot| {
            snapshot.get::<HostKind>(id).unwrap().status.state == state
        }
    };
    fleet.until("the host is disconnected", state(HostState::Disconnected)).await;
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    let message = fleet.show("a").status.message.clone().unwrap();
    assert_eq!(message, "host `sim` does not answer; it was running before");

    let refused = vm::start(&fleet.world, &root(), &stopped.reference(), &plain()).await;
    assert_eq!(refused.unwrap_err().code, "host_disconnected");
    let refused = vm::create(&fleet.world, &root(), vm_request("c"), &plain()).await.unwrap_err();
    assert_eq!(
        (refused.code, refused.message.as_str()),
        ("no_host", "no host can take vm `c`: host `sim` does not answer")
    );

    fleet.host.reconnect();
    fleet.until("the host is connected", state(HostState::Connected)).await;
    power(&fleet, &running.reference(), PowerState::Running).await;
    power(&fleet, &stopped.reference(), PowerState::Stopped).await;
}

#[tokio::test]
async fn what_happened_while_the_server_was_away_is_found() {
    let fleet = Fleet::new().await;
    let (died, lost) = (fleet.running_vm("died").await, fleet.running_vm("lost").await);
    let host = fleet.host.clone();
    host.disconnect();
    power(&fleet, &died.reference(), PowerState::Unknown).await;
    host.change(died.id(), |vm| {
        vm.power = PowerState::Failed;
        vm.since = Timestamp::now();
        vm.message = Some("QEMU ended with signal 9".to_owned());
    });
    host.lose(lost.id());
    host.reconnect();
    let fleet = fleet.restart(true).await;
    power(&fleet, &died.reference(), PowerState::Failed).await;
    assert_eq!(fleet.show("died").status.message.as_deref(), Some("QEMU ended with signal 9"));
    power(&fleet, &lost.reference(), PowerState::Failed).await;
    let message = fleet.show("lost").status.message.clone().unwrap();
    assert!(message.contains("does not have this VM"), "{message}");
}

#[tokio::test]
async fn guests_are_reported_as_they_change() {
    let fleet = Fleet::new().await;
    let vm = fleet.running_vm("web01").await;
    let report = GuestReport {
        cpus: None,
        memory: None,
        nics: Vec::new(),
        agent: true,
        since: Timestamp::now(),
        hostname: Some("web01".to_owned()),
        os: Some("Debian GNU/Linux 12 (bookworm)".to_owned()),
        kernel: None,
        addresses: vec!["10.77.0.12".parse().unwrap()],
    };
    let told = report.clone();
    fleet.host.change(vm.id(), |vm| vm.guest = Some(told));
    let id = vm.id();
    fleet
        .until("the guest is known", |snapshot| {
            snapshot.get::<VmKind>(id).unwrap().status.guest.as_ref() == Some(&report)
        })
        .await;
    // The same again is no news.
    let revision = fleet.snapshot().revision;
    fleet.host.change(id, |_| {});
    fleet.host.set_free(vm.status.datastore, ByteSize::gib(400));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(fleet.snapshot().revision, revision);
    fleet.host.set_free(vm.status.datastore, ByteSize::gib(10));
    let datastore = vm.status.datastore;
    fleet
        .until("the datastore fills", |snapshot| {
            let datastore = snapshot.get::<DatastoreKind>(datastore).unwrap();
            datastore.status.free == ByteSize::gib(10)
        })
        .await;
}

#[tokio::test]
async fn a_qemu_that_dies_is_seen_at_once() {
    let fleet = Fleet::new().await;
    let vm = fleet.running_vm("web01").await;
    fleet.host.change(vm.id(), |vm| vm.power = PowerState::Failed);
    power(&fleet, &vm.reference(), PowerState::Failed).await;
    fleet.done(&vm::start(&fleet.world, &root(), &vm.reference(), &plain()).await.unwrap()).await;
    assert_eq!(fleet.show("web01").status.power, PowerState::Running);
}

#[tokio::test]
async fn a_vm_that_nobody_ordered_is_left_alone() {
    let fleet = Fleet::new().await;
    let known = fleet.vm("web01").await;
    let mut vm = Vm::clone(&known);
    vm.metadata.id = VmId::generate();
    vm.metadata.name = "orphan".parse().unwrap();
    let orphan = vm.id();
    let definition =
        VmDefinition { vm, images: Vec::new(), networks: Vec::new(), customization_hash: None };
    let (power, since) = (PowerState::Running, Timestamp::now());
    let (message, guest) = (None, None);
    let (seal, storage) = (None, SimStorage::default());
    let vm = SimVm {
        definition,
        epoch: Epoch(1),
        power,
        since,
        message,
        guest,
        storage,
        seal,
        cpu: None,
    };
    fleet.host.plant(vm);
    let fleet = fleet.restart(false).await;
    assert!(fleet.host.vm(orphan).is_some());
    assert_eq!(fleet.snapshot().all::<VmKind>().len(), 1);
}

#[tokio::test]
async fn a_task_waits_for_a_host_that_comes_back() {
    let fleet = Fleet::new().await;
    let vm = fleet.vm("web01").await;
    fleet.host.fault("vm_start", hostler_sim::Fault::Hang);
    let start = vm::start(&fleet.world, &root(), &vm.reference(), &plain()).await.unwrap();
    // The connection breaks while the agent is at work.
    fleet.host.taken("vm_start").await;
    fleet.host.disconnect();
    let host = fleet.host.id();
    fleet
        .until("the host is disconnected", |snapshot| {
            snapshot.get::<HostKind>(host).unwrap().status.state == HostState::Disconnected
        })
        .await;
    fleet.host.reconnect();
    let ended = fleet.ended(&start).await;
    assert_eq!(ended.status.state, TaskState::Done, "{:?}", ended.status.error);
    power(&fleet, &vm.reference(), PowerState::Running).await;
}

#[tokio::test]
async fn an_agent_of_the_version_before_is_taken_and_a_more_distant_one_is_told_why_not() {
    use hostler_agent_api::VERSION;
    let fleet = Fleet::new().await;
    let id = fleet.host.id();
    let is = |state: HostState, part: &'static str| {
        move |snapshot: &hostler_control::Snapshot| {
            let status = &snapshot.get::<HostKind>(id).unwrap().status;
            let message = status.message.as_deref().unwrap_or_default();
            status.state == state && message.contains(part)
        }
    };
    for distant in [VERSION + 1, VERSION + 2] {
        fleet.host.speak(distant);
        fleet.host.disconnect();
        fleet.until("it is away", is(HostState::Disconnected, "does not answer")).await;
        fleet.host.reconnect();
        fleet.until("it is told why", is(HostState::Disconnected, "of the contract")).await;
        let snapshot = fleet.snapshot();
        let message = snapshot.get::<HostKind>(id).unwrap().status.message.clone().unwrap();
        assert_eq!(
            message,
            format!(
                "its agent speaks version {distant} of the contract, this server {VERSION}; \
                 install the same version of Hostler on both"
            )
        );
        fleet.host.speak(VERSION);
        fleet.host.disconnect();
        fleet.host.reconnect();
        fleet.until("it is back", is(HostState::Connected, "")).await;
    }
    fleet.host.speak(VERSION - 1);
    fleet.host.disconnect();
    fleet.until("it is away", is(HostState::Disconnected, "does not answer")).await;
    fleet.host.reconnect();
    fleet.until("the version before is taken", is(HostState::Connected, "")).await;
}
