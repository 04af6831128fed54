//! The CPU baseline: what hosts share, what running VMs keep, and that plans and moves look at the same.

use hostler_control::services::{Options, cluster, drs, host, placement, vm};
use hostler_sim::{Fleet, SimHost, guest_cpu};
use hostler_types::{ClusterUpdate, GuestCpu, HostKind, MaintenanceEnter, VmKind};

use crate::placement::{all_replay, by_name, made, on, root, several, wish};

fn plain() -> Options {
    Options::default()
}

/// A host that comes back with another CPU.
async fn has(fleet: &Fleet, host: &SimHost, cpu: Option<GuestCpu>) {
    host.disconnect();
    host.change_facts(|facts| facts.guest_cpu.clone_from(&cpu));
    host.reconnect();
    let id = host.id();
    let told = |host: &hostler_types::Host| {
        host.status.facts.as_ref().is_some_and(|facts| facts.guest_cpu == cpu)
    };
    fleet
        .until("the host has told", |all| all.get::<HostKind>(id).is_some_and(|own| told(own)))
        .await;
}

/// Waits for this baseline of the cluster.
async fn settled(fleet: &Fleet, baseline: Option<&str>) {
    let is = |all: &hostler_control::Snapshot| {
        let cluster = all.cluster().unwrap();
        cluster.status.cpu_baseline.as_ref().map(|own| own.as_str()) == baseline
    };
    fleet.until("the baseline is this one", is).await;
}

async fn set(fleet: &Fleet, baseline: &str) {
    let update =
        ClusterUpdate { cpu_baseline: Some(baseline.to_owned()), ..ClusterUpdate::default() };
    cluster::update(&fleet.world, &root(), update, None).await.unwrap();
}

async fn running(fleet: &Fleet, host: &str, name: &str) {
    let mut request = wish(name, &[]);
    (request.host, request.nics) = (Some(by_name(host)), Some(Vec::new()));
    made(fleet, request).await.unwrap();
    started(fleet, name).await;
}

async fn started(fleet: &Fleet, name: &str) {
    let start = vm::start(&fleet.world, &root(), &by_name(name), &plain()).await;
    fleet.done(&start.unwrap()).await;
}

fn cpu(fleet: &Fleet, name: &str) -> String {
    let snapshot = fleet.snapshot();
    let vm = snapshot.find::<VmKind>(&by_name(name)).unwrap();
    vm.status.cpu.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)
}

#[tokio::test]
async fn vms_get_what_all_hosts_have_and_keep_it_while_they_run() {
    let (fleet, hosts) = several(&["two"]).await;
    settled(&fleet, Some("Nehalem")).await;
    has(&fleet, &hosts[1], Some(guest_cpu("Westmere"))).await;
    let told = cluster::cpu_baseline(&fleet.world, &root()).unwrap();
    assert_eq!(told.baseline.unwrap().as_str(), "Nehalem");
    let held: Vec<_> = told.hosts.iter().map(|one| (one.host.as_str(), one.below)).collect();
    assert_eq!(held, [("sim", false)]);
    assert_eq!(told.hosts[0].missing, ["aes", "arat", "pclmulqdq"]);
    running(&fleet, "sim", "old").await;
    assert_eq!(cpu(&fleet, "old"), "Nehalem");

    set(&fleet, "Westmere").await;
    let told = cluster::cpu_baseline(&fleet.world, &root()).unwrap();
    assert_eq!((told.other_vms, told.other_vm_names), (1, vec!["old".to_owned()]));
    assert!(told.hosts[0].below && told.hosts[0].host == "sim", "{:?}", told.hosts);
    let mut there = wish("new", &[]);
    there.host = Some(by_name("sim"));
    let refused = made(&fleet, there).await.unwrap_err();
    assert!(refused.message.contains("lacks the CPU features aes, arat, pclmulqdq"), "{refused:?}");
    assert_eq!(made(&fleet, wish("new", &[])).await.unwrap(), "two");
    let why = placement::why_not(&fleet.world, &root(), &by_name("new"), &by_name("sim")).unwrap();
    let filters: Vec<_> = why.obstacles.iter().map(|one| one.filter.as_str()).collect();
    assert_eq!(filters, ["CPU baseline"], "{why:?}");
    assert_eq!(cpu(&fleet, "old"), "Nehalem", "until its power is cycled");
    all_replay(&fleet).await;
    let wrong = ClusterUpdate { cpu_baseline: Some("host".to_owned()), ..ClusterUpdate::default() };
    let error = cluster::update(&fleet.world, &root(), wrong, None).await.unwrap_err();
    assert_eq!(error.code, "invalid");
}

#[tokio::test]
async fn an_agent_that_does_not_tell_yet_leaves_vms_what_they_had() {
    let (fleet, hosts) = several(&["two"]).await;
    settled(&fleet, Some("Nehalem")).await;
    has(&fleet, &hosts[1], None).await;
    settled(&fleet, None).await;
    let told = cluster::cpu_baseline(&fleet.world, &root()).unwrap();
    assert!(told.message.unwrap().starts_with("two: "));
    running(&fleet, "sim", "a").await;
    assert_eq!(cpu(&fleet, "a"), "-");
    has(&fleet, &hosts[1], Some(guest_cpu("Conroe"))).await;
    settled(&fleet, Some("Conroe")).await;
}

/// Moves that the pre-check would refuse were planned, refused, and planned again every five minutes.
#[tokio::test]
async fn no_move_is_planned_that_would_be_refused() {
    let (fleet, hosts) = several(&["two"]).await;
    set(&fleet, "none").await;
    hosts[1].disconnect();
    hosts[1].change_facts(|facts| facts.qemu_version = "10.1.0".to_owned());
    hosts[1].reconnect();
    let newer = |host: &hostler_types::Host| {
        host.status.facts.as_ref().is_some_and(|facts| facts.qemu_version == "10.1.0")
    };
    let id = hosts[1].id();
    fleet.until("it has told", |all| all.get::<HostKind>(id).is_some_and(|own| newer(own))).await;
    running(&fleet, "sim", "a").await;
    let asked = vm::VmMigrate::default();
    let refused = vm::migrate(&fleet.world, &root(), &by_name("a"), &asked, &plain()).await;
    let refused = refused.unwrap_err();
    assert!(
        refused.message.contains("needs what the host does not have: QEMU 10.0.2"),
        "{refused:?}"
    );
    let dry = Options { dry_run: true, ..plain() };
    let (request, sim) = (MaintenanceEnter::default(), by_name("sim"));
    let enter = async || host::maintenance_enter(&fleet.world, &root(), &sim, &request, &dry).await;
    let told = enter().await.unwrap();
    assert!(told.steps.is_empty(), "{told:?}");
    assert!(told.blocked[0].reason.contains("QEMU 10.0.2"), "{told:?}");
    assert!(drs::recommendations(&fleet.world, &root()).await.unwrap().steps.is_empty());

    // With a baseline a newer QEMU is as good, an older one is not.
    set(&fleet, "auto").await;
    running(&fleet, "sim", "b").await;
    let moved = enter().await.unwrap();
    let moves: Vec<_> = moved.steps.iter().flat_map(|step| &step.moves).collect();
    assert_eq!(moves.iter().map(|one| one.vm.as_str()).collect::<Vec<_>>(), ["b"], "{moved:?}");
    let gone = vm::migrate(&fleet.world, &root(), &by_name("b"), &asked, &plain()).await.unwrap();
    fleet.done(&gone.task.unwrap()).await;
    assert_eq!((on(&fleet, "b"), cpu(&fleet, "b")), ("two".to_owned(), "Nehalem".to_owned()));
    let back = vm::migrate(&fleet.world, &root(), &by_name("b"), &asked, &plain()).await;
    let back = back.unwrap_err();
    assert!(back.message.contains("QEMU 10.1 or newer"), "{back:?}");
}
