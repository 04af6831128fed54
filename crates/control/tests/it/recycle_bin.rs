//! Deleting a VM, and taking it back.

use std::time::Duration;

use expect_test::expect;
use hostler_agent_api::code;
use hostler_control::services::vm::{VmDelete, VmFilter, VmRegister};
use hostler_control::services::{Options, PageRequest, image, network, vm};
use hostler_control::{Actor, ServiceError, Settings};
use hostler_sim::{Fault, Fleet};
use hostler_types::{PowerState, Ref, Task, TaskState, Vm, VmKind, VmUpdate};
use jiff::SignedDuration;

fn root() -> Actor {
    Actor::root()
}

fn plain() -> Options {
    Options::default()
}

fn bin(fleet: &Fleet) -> Vec<String> {
    let page = vm::recycled(&fleet.world, &root(), &PageRequest::default()).unwrap();
    page.items.iter().map(|vm| vm.called().to_string()).collect()
}

fn listed(fleet: &Fleet) -> Vec<String> {
    let filter = VmFilter::default();
    let page = vm::list(&fleet.world, &root(), &filter, &PageRequest::default()).unwrap();
    page.items.iter().map(|vm| vm.name().to_string()).collect()
}

async fn delete(
    fleet: &Fleet,
    vm: &Ref,
    how: VmDelete,
) -> Result<std::sync::Arc<Task>, ServiceError> {
    vm::delete(&fleet.world, &root(), vm, how, &plain()).await
}

async fn recycled(fleet: &Fleet, name: &str) -> std::sync::Arc<Vm> {
    let vm = fleet.vm(name).await;
    fleet.done(&delete(fleet, &vm.reference(), VmDelete::default()).await.unwrap()).await;
    fleet.snapshot().get::<VmKind>(vm.id()).unwrap().clone()
}

#[tokio::test]
async fn a_deleted_vm_keeps_everything_but_its_name_and_comes_back() {
    let fleet = Fleet::new().await;
    let before = fleet.vm("web01").await;
    let reference = before.reference();
    fleet
        .done(&delete(&fleet, &"web01".parse().unwrap(), VmDelete::default()).await.unwrap())
        .await;
    assert_eq!((listed(&fleet), bin(&fleet)), (Vec::new(), vec!["web01".to_owned()]));
    let kept = fleet.snapshot().get::<VmKind>(before.id()).unwrap().clone();
    assert_eq!((&kept.spec.disks, &kept.spec.nics), (&before.spec.disks, &before.spec.nics));
    assert_eq!(fleet.host.files(), [before.id()], "its disks stay");

    let error = vm::start(&fleet.world, &root(), &reference, &plain()).await.unwrap_err();
    assert_eq!(error.code, "recycled");
    let cpus = VmUpdate { cpus: Some(4.try_into().unwrap()), ..VmUpdate::default() };
    let error = vm::update(&fleet.world, &root(), &reference, cpus, None, &plain()).await;
    assert_eq!(error.unwrap_err().code, "recycled");
    let error = vm::unregister(&fleet.world, &root(), &reference, &plain()).await.unwrap_err();
    assert_eq!(error.code, "recycled");

    // Its name is free, and then it is not.
    let other = fleet.vm("web01").await;
    let web01 = "web01".parse().unwrap();
    let error = vm::undelete(&fleet.world, &root(), &web01, None, &plain()).await.unwrap_err();
    assert_eq!(error.code, "name_taken");
    let old = "web01-old".parse().unwrap();
    let task = vm::undelete(&fleet.world, &root(), &web01, Some(&old), &plain()).await.unwrap();
    fleet.done(&task).await;
    assert_eq!((listed(&fleet), bin(&fleet).len()), (vec!["web01".into(), "web01-old".into()], 0));
    let back = fleet.show("web01-old");
    assert_eq!((back.id(), &back.spec), (before.id(), &before.spec));
    assert_eq!(fleet.show("web01").id(), other.id());
    let started = vm::start(&fleet.world, &root(), &back.reference(), &plain()).await.unwrap();
    fleet.done(&started).await;
}

#[tokio::test]
async fn a_running_vm_is_stopped_only_when_asked_to_be() {
    let fleet = Fleet::new().await;
    let running = fleet.running_vm("web01").await.reference();
    let error = delete(&fleet, &running, VmDelete::default()).await.unwrap_err();
    assert_eq!(error.code, "wrong_state");
    // A guest that does not follow keeps its VM.
    let refusal = Fault::refuse(504, code::TIMEOUT, "the guest has not stopped within 5 s");
    fleet.host.fault("vm_stop", refusal);
    let stop = VmDelete { stop: Some(5), ..VmDelete::default() };
    let ended = fleet.ended(&delete(&fleet, &running, stop).await.unwrap()).await;
    assert_eq!(
        (ended.status.state, fleet.show("web01").status.power),
        (TaskState::Failed, PowerState::Running)
    );
    assert!(ended.status.error.as_ref().unwrap().contains("has not stopped"), "{ended:?}");
    fleet.done(&delete(&fleet, &running, stop).await.unwrap()).await;
    assert_eq!(bin(&fleet), ["web01"]);

    let running = fleet.running_vm("web02").await.reference();
    let now = VmDelete { force: true, now: true, stop: None };
    let task = delete(&fleet, &running, now).await.unwrap();
    fleet.done(&task).await;
    let told = fleet.ended(&task).await.status.messages.clone();
    let told: Vec<_> = told.iter().map(|message| message.text.as_str()).collect();
    assert!(told[0].starts_with("removed disk disk0: 2GiB") && told.len() == 2, "{told:?}");
    assert!(fleet.snapshot().find::<VmKind>(&running).is_err());
    assert_eq!(bin(&fleet), ["web01"]);
}

#[tokio::test]
async fn what_lies_in_the_bin_is_still_used_and_says_so() {
    let fleet = Fleet::new().await;
    let kept = recycled(&fleet, "web01").await;
    let tiny = "tiny".parse().unwrap();
    let image = image::delete(&fleet.world, &root(), &tiny, &plain()).await.unwrap_err();
    let default = "default".parse().unwrap();
    let network = network::delete(&fleet.world, &root(), &default).await.unwrap_err();
    let shown = vm::show(&fleet.world, &root(), &"web01".parse().unwrap()).unwrap_err();
    let mac = kept.spec.nics[0].mac;
    let request = serde_json::json!({
        "name": "thief", "image": "tiny", "nics": [{"network": "default", "mac": mac}],
    });
    let request = serde_json::from_value(request).unwrap();
    let thief = vm::create(&fleet.world, &root(), request, &plain()).await.unwrap_err();
    assert_eq!(thief.code, "mac_taken");
    let told = |error: ServiceError| format!("{}: {}\n", error.message, error.hint.unwrap());
    expect![[r#"
        image `tiny` is used by vm `web01` (in the recycle bin): their disks lie on it: delete these VMs first
        network `default` is used by vm `web01` (in the recycle bin): delete these VMs or put their NICs on another network first
        there is no vm `web01`: it is in the recycle bin: `hostler vm undelete web01` or `hostler recycle-bin empty web01`
    "#]]
    .assert_eq(&(told(image) + &told(network) + &told(shown)));
}

#[tokio::test]
async fn two_of_one_name_are_told_apart() {
    let fleet = Fleet::new().await;
    let (one, two) = (recycled(&fleet, "web01").await, recycled(&fleet, "web01").await);
    let web01 = "web01".parse().unwrap();
    let error = vm::undelete(&fleet.world, &root(), &web01, None, &plain()).await.unwrap_err();
    assert_eq!(error.code, "ambiguous");
    let hint = error.hint.unwrap();
    assert!(hint.contains(&one.id().to_string()) && hint.contains(&two.id().to_string()), "{hint}");
    let purged = vm::purge(&fleet.world, &root(), &one.reference(), &plain()).await.unwrap();
    fleet.done(&purged).await;
    let task = vm::undelete(&fleet.world, &root(), &web01, None, &plain()).await.unwrap();
    fleet.done(&task).await;
    assert_eq!(fleet.show("web01").id(), two.id());
    let live = fleet.show("web01").reference();
    let error = vm::purge(&fleet.world, &root(), &live, &plain()).await.unwrap_err();
    assert_eq!(error.code, "not_found", "what is not in the bin is not purged");
}

#[tokio::test]
async fn the_plan_tells_what_goes_and_what_is_in_the_way() {
    let fleet = Fleet::new().await;
    let vm = fleet.vm("web01").await;
    let plan = vm::deletion_plan(&fleet.world, &root(), &vm.reference()).unwrap();
    assert_eq!((plan.disks.len(), plan.nics.len(), plan.refused), (1, 1, None));
    let protect = VmUpdate { protected: Some(true), ..VmUpdate::default() };
    let changed = vm::update(&fleet.world, &root(), &vm.reference(), protect, None, &plain()).await;
    fleet.done(&changed.unwrap().task.unwrap()).await;
    let plan = vm::deletion_plan(&fleet.world, &root(), &vm.reference()).unwrap();
    assert!(plan.refused.unwrap().contains("protected"));
}

#[tokio::test]
async fn what_is_over_goes_by_itself_also_after_a_restart() {
    let retention = SignedDuration::from_millis(300);
    let fleet = Fleet::with_settings(Settings { retention, ..Settings::default() }).await;
    let first = recycled(&fleet, "web01").await;
    fleet.until("it is gone", |now| now.get::<VmKind>(first.id()).is_none()).await;
    let second = recycled(&fleet, "web02").await;
    let fleet = fleet.restart(true).await;
    fleet.until("it is gone", |now| now.get::<VmKind>(second.id()).is_none()).await;
    assert!(fleet.host.files().is_empty());
}

#[tokio::test]
async fn a_deletion_that_fails_is_not_ordered_again_at_once() {
    let retention = SignedDuration::from_millis(50);
    let fleet = Fleet::with_settings(Settings { retention, ..Settings::default() }).await;
    let kept = recycled(&fleet, "web01").await;
    for _ in 0..50 {
        fleet.host.fault("vm_remove", Fault::refuse(409, code::WRONG_STATE, "not now"));
    }
    let stuck = |now: &hostler_control::Snapshot| {
        let task = now.task_on(kept.id().untyped()).and_then(|task| now.get(task));
        task.is_some_and(|task| task.status.state == TaskState::Stuck)
    };
    let snapshot = fleet.until("the task is stuck", stuck).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let tasks = snapshot.all::<hostler_types::TaskKind>().iter();
    assert_eq!(tasks.filter(|task| task.spec.action == "vm.delete").count(), 1);
}

#[tokio::test]
async fn a_vm_whose_files_are_registered_again_is_out_of_the_bin() {
    let fleet = Fleet::new().await;
    let kept = recycled(&fleet, "web01").await;
    let now = fleet.world.snapshot();
    assert!(now.get::<VmKind>(kept.id()).is_some());
    // As if the inventory had been lost: another server finds the files.
    let other = Fleet::new().await;
    other.image("tiny").await;
    let mut planted = fleet.host.vm(kept.id()).unwrap();
    planted.definition.vm.spec.disks.clear();
    planted.definition.vm.spec.nics.clear();
    planted.definition.vm.status.datastore = other
        .snapshot()
        .find::<hostler_types::DatastoreKind>(&"local".parse().unwrap())
        .unwrap()
        .id();
    other.host.plant(planted);
    other.host.lose(kept.id());
    let register =
        VmRegister { datastore: "local".parse().unwrap(), vm: kept.reference(), name: None };
    let made = vm::register(&other.world, &root(), register, &plain()).await.unwrap();
    other.done(&made.task.unwrap()).await;
    assert_eq!(listed(&other), ["web01"]);
}

/// Whoever looks for it by its name is told where it is.
#[tokio::test]
async fn what_is_in_the_bin_is_found_by_whoever_starts_it() {
    let fleet = Fleet::new().await;
    recycled(&fleet, "web01").await;
    let name = "web01".parse().unwrap();
    let error = vm::start(&fleet.world, &root(), &name, &plain()).await.unwrap_err();
    assert_eq!(error.code, "not_found");
    assert!(error.hint.unwrap().contains("hostler vm undelete web01"));
}
