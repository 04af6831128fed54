//! Clones: many at once, what protects their parent, and what each gets of its own.

use std::collections::BTreeSet;
use std::sync::Arc;

use hostler_agent_api::code;
use hostler_control::services::vm::disk;
use hostler_control::services::vm::{self, CloneOf, Cloned, VmDelete, VmFlatten};
use hostler_control::services::{Options, network, task};
use hostler_control::{Actor, ServiceError};
use hostler_sim::{Fault, Fleet};
use hostler_types::{
    ByteSize, DatastoreKind, DiskSource, DiskUpdate, LayerOwner, PowerState, Ref, TaskState, Vm,
    VmClone, VmKind,
};
use serde_json::{Value, json};

fn root() -> Actor {
    Actor::root()
}

fn plain() -> Options {
    Options::default()
}

fn name(text: &str) -> Ref {
    Ref::Name(text.parse().unwrap())
}

async fn clone(fleet: &Fleet, request: Value) -> Result<Cloned, ServiceError> {
    let request: VmClone = serde_json::from_value(request).unwrap();
    vm::clone(&fleet.world, &root(), CloneOf::Vm(&name("web")), request, &plain()).await
}

/// The code and the text of a refusal.
async fn refused(fleet: &Fleet, request: Value) -> (&'static str, String) {
    let error = clone(fleet, request).await.unwrap_err();
    (error.code, error.message)
}

fn names(vms: &[Arc<Vm>]) -> Vec<&str> {
    vms.iter().map(|vm| vm.name().as_str()).collect()
}

fn vms(fleet: &Fleet) -> usize {
    fleet.snapshot().all::<VmKind>().iter().count()
}

#[tokio::test]
async fn linked_clones_are_made_in_one_task_and_protect_their_parent() {
    let fleet = Fleet::new().await;
    let parent = fleet.vm("web").await;
    let cloned = clone(&fleet, json!({"mode": "linked", "name": "web-{01..20}"})).await.unwrap();
    assert_eq!(cloned.vms.len(), 20);
    assert_eq!(names(&cloned.vms)[..2], ["web-01", "web-02"]);
    let task = cloned.task.unwrap();
    assert_eq!(task.spec.target, "vm/web-01 to web-20");

    // While they are being made, and afterwards.
    let delete = VmDelete { now: true, ..VmDelete::default() };
    let error = vm::delete(&fleet.world, &root(), &name("web"), delete, &plain()).await;
    assert_eq!(error.unwrap_err().code, "in_use");
    fleet.done(&task).await;
    let error = vm::delete(&fleet.world, &root(), &name("web"), delete, &plain()).await;
    let error = error.unwrap_err();
    assert_eq!(error.code, "in_use");
    assert!(error.message.contains("`web-01` (its disk disk0 lies on"), "{}", error.message);
    assert!(error.message.ends_with("and 15 more"), "{}", error.message);

    let (mut macs, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for made in &cloned.vms {
        let made = fleet.show(made.name().as_str());
        assert_eq!(made.status.power, PowerState::Stopped);
        let DiskSource::Linked(file) = &made.spec.disks[0].source else { panic!("{made:?}") };
        assert_eq!(file.owner(), LayerOwner::Vm(parent.id()));
        assert!(made.spec.customization.is_some(), "it is told who it is");
        macs.insert(made.spec.nics[0].mac);
        ids.insert(made.id());
    }
    macs.insert(parent.spec.nics[0].mac);
    assert_eq!((macs.len(), ids.len()), (21, 20));
    assert_eq!(fleet.host.times_done("vm_freeze"), 1);
}

#[tokio::test]
async fn flattening_frees_the_parent() {
    let fleet = Fleet::new().await;
    fleet.vm("web").await;
    let cloned = clone(&fleet, json!({"mode": "linked", "name": "web-01"})).await.unwrap();
    fleet.done(&cloned.task.unwrap()).await;
    let flatten = async || {
        let all = VmFlatten::default();
        vm::flatten(&fleet.world, &root(), &name("web-01"), &all, &plain()).await
    };
    fleet.done(&flatten().await.unwrap()).await;
    let made = fleet.show("web-01");
    assert!(matches!(made.spec.disks[0].source, DiskSource::Copy(_)), "{:?}", made.spec.disks);
    assert_eq!(flatten().await.unwrap_err().code, "independent");
    let delete = VmDelete { now: true, ..VmDelete::default() };
    let gone = vm::delete(&fleet.world, &root(), &name("web"), delete, &plain()).await.unwrap();
    fleet.done(&gone).await;
}

#[tokio::test]
async fn a_running_vm_is_held_while_it_is_copied() {
    let fleet = Fleet::new().await;
    let parent = fleet.vm("web").await;
    let started = vm::start(&fleet.world, &root(), &name("web"), &plain()).await.unwrap();
    fleet.done(&started).await;
    fleet.host.fault("vm_create", Fault::Hang);
    let request = json!({"name": "web-01", "cpus": 2, "memory": "2GiB", "start": true});
    let cloned = clone(&fleet, request).await.unwrap();
    let task = cloned.task.unwrap();
    fleet.host.taken("vm_create").await;
    let held = fleet.host.vm(parent.id()).unwrap().storage.tree;
    assert_eq!(held.snapshots.len(), 1, "a snapshot holds what is copied");
    assert!(held.snapshots[0].name.as_str().starts_with("clone-"));
    task::cancel(&fleet.world, &root(), &task.reference()).await.unwrap();
    assert_eq!(fleet.ended(&task).await.status.state, TaskState::Cancelled);
    let held = fleet.host.vm(parent.id()).unwrap().storage.tree;
    assert!(held.is_empty() && vms(&fleet) == 1);

    let request = json!({"name": "web-01", "cpus": 2, "memory": "2GiB", "start": true});
    fleet.done(&clone(&fleet, request).await.unwrap().task.unwrap()).await;
    let made = fleet.show("web-01");
    assert_eq!(made.status.power, PowerState::Running);
    assert_eq!((made.spec.cpus.count(), made.spec.memory), (2, ByteSize::gib(2)));
    assert!(matches!(made.spec.disks[0].source, DiskSource::Copy(_)));
    let held = fleet.host.vm(parent.id()).unwrap().storage.tree;
    assert!(held.is_empty(), "it goes when the clone is made");
}

/// A host tells of free space once a minute; what is promised to copies that are being made is not free.
#[tokio::test]
async fn two_big_copies_at_once_do_not_get_the_same_room() {
    let fleet = Fleet::new().await;
    let parent = fleet.vm("web").await;
    let grow = DiskUpdate { size: Some(ByteSize::gib(200)), ..DiskUpdate::default() };
    let disk0 = "disk0".parse().unwrap();
    let grown = disk::update(&fleet.world, &root(), &name("web"), &disk0, &grow, &plain()).await;
    fleet.done(&grown.unwrap()).await;
    fleet.host.change(parent.id(), |vm| {
        vm.storage.write(parent.id(), &disk0, ByteSize::gib(110));
    });
    fleet.host.set_free(parent.status.datastore, ByteSize::gib(200));
    fleet
        .until("the server has heard of it", |now| {
            let vm = now.get::<VmKind>(parent.id()).unwrap();
            let store = now.get::<DatastoreKind>(parent.status.datastore).unwrap();
            vm.status.disks.iter().any(|disk| disk.allocated > ByteSize::gib(100))
                && store.status.free == ByteSize::gib(200)
        })
        .await;
    let refusal = "the copies take 220.0GiB at once; datastore `local` has 200GiB free";
    assert_eq!(
        refused(&fleet, json!({"name": "web-{1..}", "count": 2})).await,
        ("no_capacity", refusal.to_owned())
    );
    fleet.host.fault("vm_create", Fault::Hang);
    let first = clone(&fleet, json!({"name": "web-1"})).await.unwrap().task.unwrap();
    fleet.host.taken("vm_create").await;
    let refusal = "the copies take 110.0GiB at once; datastore `local` has 200GiB free, and 110.0GiB \
                   promised to VMs that are being made";
    assert_eq!(
        refused(&fleet, json!({"name": "web-2"})).await,
        ("no_capacity", refusal.to_owned())
    );
    let linked = clone(&fleet, json!({"name": "web-3", "mode": "linked"})).await.unwrap();
    fleet.done(&linked.task.unwrap()).await;
    task::cancel(&fleet.world, &root(), &first.reference()).await.unwrap();
    fleet.ended(&first).await;
    fleet.done(&clone(&fleet, json!({"name": "web-2"})).await.unwrap().task.unwrap()).await;
}

#[tokio::test]
async fn one_that_fails_takes_the_others_along() {
    let fleet = Fleet::new().await;
    fleet.vm("web").await;
    fleet.host.fault("vm_create", Fault::refuse(507, code::NO_SPACE, "the datastore is full"));
    let request = json!({"mode": "linked", "name": "web-{1..}", "count": 12});
    let cloned = clone(&fleet, request.clone()).await.unwrap();
    let ended = fleet.ended(&cloned.task.unwrap()).await;
    assert_eq!(ended.status.error_code.as_deref(), Some("no_space"));
    assert_eq!((vms(&fleet), fleet.host.files().len()), (1, 1));
    // A lost answer is none that fails.
    fleet.host.fault("vm_create", Fault::AnswerLost);
    fleet.done(&clone(&fleet, request).await.unwrap().task.unwrap()).await;
    assert_eq!((vms(&fleet), fleet.host.files().len()), (13, 13));
}

#[tokio::test]
async fn many_requests_clone_the_same_parent_at_the_same_time() {
    let fleet = Fleet::new().await;
    fleet.vm("web").await;
    let one = |nth: u32| {
        let request = json!({"mode": "linked", "name": format!("one-{nth}")});
        clone(&fleet, request)
    };
    for cloned in futures::future::join_all((0..16).map(one)).await {
        fleet.done(&cloned.unwrap().task.unwrap()).await;
    }
    assert_eq!(vms(&fleet), 17);
}

#[tokio::test]
async fn addresses_of_a_pool_are_not_given_twice() {
    let fleet = Fleet::new().await;
    let pool = serde_json::from_value(json!({"range": "10.77.0.100-10.77.0.102"})).unwrap();
    let default = name("default");
    network::set_pool(&fleet.world, &root(), &default, Some(pool), None).await.unwrap();
    fleet.vm("web").await;
    let nics = json!([{"network": "default", "address": "pool"}]);
    let request = json!({"mode": "linked", "name": "web-{1..3}", "nics": nics});
    let cloned = clone(&fleet, request).await.unwrap();
    let given: BTreeSet<_> = (cloned.vms.iter())
        .map(|vm| vm.spec.nics[0].address.as_ref().unwrap().address.to_string())
        .collect();
    assert_eq!(given.len(), 3, "{given:?}");
    fleet.done(&cloned.task.unwrap()).await;
    let request = json!({"mode": "linked", "name": "more", "nics": nics});
    assert_eq!(refused(&fleet, request).await.0, "pool_exhausted");
}

#[tokio::test]
async fn what_cannot_be_cloned_is_refused_before_anything_is_made() {
    let fleet = Fleet::new().await;
    fleet.vm("web").await;
    let check = async |request: Value, code: &str, text: &str| {
        let (found, message) = refused(&fleet, request.clone()).await;
        assert_eq!(found, code, "{request}: {message}");
        assert!(message.contains(text), "{request}: {message}");
    };
    check(json!({"name": "web"}), "name_taken", "`web`").await;
    check(json!({"name": "a", "count": 3}), "invalid", "a-{01..}").await;
    check(json!({"name": "a-{1..}"}), "invalid", "how many").await;
    check(json!({"name": "a", "snapshot": "s"}), "not_found", "no snapshot `s`").await;
    check(json!({"name": "a", "datastore": "d"}), "not_found", "`d`").await;
    let linked = json!({"name": "a", "mode": "linked", "datastore": "local"});
    check(linked, "invalid", "lies where its parent").await;
    check(json!({"name": "a", "memory": "1MiB"}), "invalid", "memory").await;
    let mac = json!([{"network": "default", "mac": "52:54:00:00:00:09"}]);
    check(json!({"name": "a-{1..2}", "nics": mac}), "invalid", "one NIC's only").await;
    assert_eq!(vms(&fleet), 1);

    let dry = Options { dry_run: true, ..plain() };
    let request = serde_json::from_value(json!({"name": "a-{1..2}"})).unwrap();
    let cloned =
        vm::clone(&fleet.world, &root(), CloneOf::Vm(&name("web")), request, &dry).await.unwrap();
    assert_eq!(names(&cloned.vms), ["a-1", "a-2"]);
    assert!(cloned.task.is_none() && vms(&fleet) == 1);
}

#[tokio::test]
async fn the_same_request_makes_the_same_clones() {
    let fleet = Fleet::new().await;
    fleet.vm("web").await;
    let options = Options { idempotency_key: Some("k".to_owned()), ..plain() };
    let request: VmClone =
        serde_json::from_value(json!({"mode": "linked", "name": "a-{1..3}"})).unwrap();
    let (root, web) = (root(), name("web"));
    let ask = || vm::clone(&fleet.world, &root, CloneOf::Vm(&web), request.clone(), &options);
    let first = ask().await.unwrap();
    let task = first.task.unwrap();
    fleet.done(&task).await;
    let again = ask().await.unwrap();
    assert_eq!(again.task.unwrap().id(), task.id());
    assert_eq!(names(&again.vms), names(&first.vms));
    assert_eq!(vms(&fleet), 4);
}

#[tokio::test]
async fn instant_clones_begin_where_their_parent_is() {
    let fleet = Fleet::new().await;
    let parent = fleet.vm("web").await;
    let instant = || json!({"mode": "instant", "name": "ci-{01..03}"});
    let (code, message) = refused(&fleet, instant()).await;
    assert_eq!(code, "wrong_state");
    assert!(message.contains("running"), "{message}");
    let task = vm::start(&fleet.world, &root(), &name("web"), &plain()).await.unwrap();
    fleet.done(&task).await;
    let cases = [("memory", json!("2GiB")), ("datastore", json!("local")), ("cpus", json!(2))];
    for (field, value) in cases {
        let mut request = instant();
        request[field] = value;
        let (code, message) = refused(&fleet, request).await;
        assert_eq!(code, "invalid");
        assert!(message.contains(field) && message.contains("as it is"), "{message}");
    }
    let too_many = json!({"mode": "instant", "name": "ci-{001..}", "count": 101});
    assert_eq!(refused(&fleet, too_many).await.0, "invalid");

    let request: VmClone = serde_json::from_value(instant()).unwrap();
    let options = Options { idempotency_key: Some("once".to_owned()), ..plain() };
    let (actor, web) = (root(), name("web"));
    let clone = || vm::clone(&fleet.world, &actor, CloneOf::Vm(&web), request.clone(), &options);
    let cloned = clone().await.unwrap();
    assert_eq!(names(&cloned.vms), ["ci-01", "ci-02", "ci-03"]);
    fleet.done(&cloned.task.unwrap()).await;
    for made in &cloned.vms {
        let made = fleet.show(made.name().as_str());
        assert_eq!(made.status.power, PowerState::Running);
        assert_eq!(made.status.host, parent.status.host);
        let DiskSource::Linked(file) = &made.spec.disks[0].source else { panic!("{made:?}") };
        assert_eq!(file.owner(), LayerOwner::Vm(parent.id()));
        assert_ne!(made.spec.nics[0].mac, parent.spec.nics[0].mac);
    }
    assert_eq!(names(&clone().await.unwrap().vms), ["ci-01", "ci-02", "ci-03"], "not the parent");

    // One that fails leaves nothing, and its parent as it was.
    fleet.host.fault("vm_fork", Fault::refuse(502, code::QEMU_FAILED, "it cannot be frozen"));
    let before = vms(&fleet);
    let cloned = clone_one(&fleet, "late").await;
    let task = fleet.ended(&cloned.task.unwrap()).await;
    assert_eq!(task.status.state, TaskState::Failed);
    assert_eq!(vms(&fleet), before);
    assert_eq!(fleet.show("web").status.power, PowerState::Running);
}

async fn clone_one(fleet: &Fleet, called: &str) -> Cloned {
    clone(fleet, json!({"mode": "instant", "name": called})).await.unwrap()
}

#[tokio::test]
async fn what_others_lie_on_is_not_flattened_and_they_are_named() {
    let fleet = Fleet::new().await;
    fleet.vm("web").await;
    let cloned = clone(&fleet, json!({"mode": "linked", "name": "web-01"})).await.unwrap();
    fleet.done(&cloned.task.unwrap()).await;
    let (web, request) = (name("web-01"), json!({"mode": "linked", "name": "web-02"}));
    let request: VmClone = serde_json::from_value(request).unwrap();
    let cloned = vm::clone(&fleet.world, &root(), CloneOf::Vm(&web), request, &plain()).await;
    fleet.done(&cloned.unwrap().task.unwrap()).await;
    let all = VmFlatten::default();
    let error = vm::flatten(&fleet.world, &root(), &web, &all, &plain()).await.unwrap_err();
    assert_eq!(error.code, "in_use");
    assert!(error.message.contains("`web-02` (its disk disk0 lies on"), "{}", error.message);
    // The last one of the line is free to.
    let last = vm::flatten(&fleet.world, &root(), &name("web-02"), &all, &plain()).await.unwrap();
    fleet.done(&last).await;
    fleet.done(&vm::flatten(&fleet.world, &root(), &web, &all, &plain()).await.unwrap()).await;
}
