//! Snapshots from a client's view: take, go back, delete, and what comes between.

use std::sync::Arc;

use expect_test::expect;
use hostler_control::services::vm::snapshot::{
    self, SnapshotCreate, SnapshotDelete, SnapshotRevert, SnapshotUpdate,
};
use hostler_control::services::{Options, task, vm};
use hostler_control::{Actor, ServiceError};
use hostler_sim::{Fault, Fleet, describe_snapshots};
use hostler_types::{
    ByteSize, Consistency, GuestReport, KeptWhy, PowerState, Ref, Task, TaskKind, TaskState, Vm,
    VmUpdate,
};
use jiff::Timestamp;

fn root() -> Actor {
    Actor::root()
}

fn plain() -> Options {
    Options::default()
}

fn named(name: &str) -> Ref {
    name.parse().unwrap()
}

async fn ordered(fleet: &Fleet, name: &str) -> Result<Arc<Task>, ServiceError> {
    let request = SnapshotCreate { name: name.parse().ok(), ..SnapshotCreate::default() };
    snapshot::create(&fleet.world, &root(), &named("web01"), &request, &plain()).await
}

async fn take(fleet: &Fleet, name: &str) {
    fleet.done(&ordered(fleet, name).await.unwrap()).await;
}

fn of(names: &[&str]) -> SnapshotDelete {
    let snapshots = names.iter().map(|name| named(name)).collect();
    SnapshotDelete { snapshots, ..SnapshotDelete::default() }
}

async fn deleted(fleet: &Fleet, request: &SnapshotDelete) -> Result<Arc<Task>, ServiceError> {
    snapshot::delete(&fleet.world, &root(), &named("web01"), request, &plain()).await
}

async fn revert(fleet: &Fleet, to: &str, request: SnapshotRevert) -> Result<(), ServiceError> {
    let (world, vm) = (&fleet.world, named("web01"));
    let task = snapshot::revert(world, &root(), &vm, &named(to), request, &plain()).await?;
    fleet.done(&task).await;
    Ok(())
}

fn tree(fleet: &Fleet) -> String {
    describe_snapshots(&fleet.show("web01").status.snapshots)
}

/// The guest writes so many MiB to its disk.
fn write(fleet: &Fleet, vm: &Vm, mib: u64) {
    let disk = vm.spec.disks[0].name.clone();
    fleet.host.change(vm.id(), |sim| sim.storage.write(vm.id(), &disk, ByteSize::mib(mib)));
}

#[tokio::test]
async fn a_tree_grows_branches_and_is_pruned() {
    let fleet = Fleet::new().await;
    let vm = fleet.running_vm("web01").await;
    take(&fleet, "one").await;
    take(&fleet, "two").await;
    revert(&fleet, "one", SnapshotRevert::default()).await.unwrap();
    take(&fleet, "three").await;
    expect![[r#"[one<- "", two<one "", three<one ""] at three"#]].assert_eq(&tree(&fleet));
    assert_eq!(fleet.show("web01").status.power, PowerState::Running);

    let world = &fleet.world;
    let update =
        SnapshotUpdate { name: "base".parse().ok(), description: Some("as made".to_owned()) };
    let one = named("one");
    let task = snapshot::update(world, &root(), &vm.reference(), &one, &update, &plain()).await;
    fleet.done(&task.unwrap()).await;
    let shown = snapshot::show(world, &root(), &vm.reference(), &named("base")).unwrap();
    assert_eq!((shown.description.as_str(), shown.by.as_str()), ("as made", "root"));
    assert_eq!(snapshot::list(world, &root(), &vm.reference()).unwrap().rules.from, ["default"]);

    // The one in the middle, by its id; then one with all that descends from it.
    let middle = shown.id;
    let request = SnapshotDelete { snapshots: vec![Ref::by_id(middle)], ..of(&[]) };
    fleet.done(&deleted(&fleet, &request).await.unwrap()).await;
    expect![[r#"[two<- "", three<- ""] at three"#]].assert_eq(&tree(&fleet));
    take(&fleet, "four").await;
    let request = SnapshotDelete { children: true, ..of(&["three"]) };
    fleet.done(&deleted(&fleet, &request).await.unwrap()).await;
    expect![[r#"[two<- ""] at -"#]].assert_eq(&tree(&fleet));
    fleet.done(&deleted(&fleet, &SnapshotDelete { all: true, ..of(&[]) }).await.unwrap()).await;
    expect!["[] at -"].assert_eq(&tree(&fleet));
    let files = fleet.host.vm(vm.id()).unwrap().storage.describe(vm.id(), &vm.spec);
    assert!(files.ends_with("; 1 files"), "one file is left of all: {files}");
}

#[tokio::test]
async fn names_are_unique_and_made_from_the_time() {
    let fleet = Fleet::new().await;
    fleet.vm("web01").await;
    for _ in 0..3 {
        take(&fleet, "").await;
    }
    let names: Vec<_> = fleet.show("web01").status.snapshots.snapshots.clone();
    assert!(names.iter().all(|snapshot| snapshot.name.as_str().starts_with("snap-2")), "{names:?}");
    take(&fleet, "one").await;
    let refused = |error: ServiceError| (error.code, error.message);
    let error = ordered(&fleet, "one").await.unwrap_err();
    assert_eq!(
        refused(error),
        ("name_taken", "vm `web01` has a snapshot `one` already".to_owned())
    );
    let update = SnapshotUpdate { name: Some(names[0].name.clone()), description: None };
    let (vm, one) = (named("web01"), named("one"));
    let error = snapshot::update(&fleet.world, &root(), &vm, &one, &update, &plain()).await;
    assert_eq!(error.unwrap_err().code, "name_taken");
    let error = revert(&fleet, "two", SnapshotRevert::default()).await.unwrap_err();
    assert_eq!(error.message, "vm `web01` has no snapshot `two`");
    for (request, code) in [
        (of(&["one", "two"]), "not_found"),
        (of(&[]), "invalid"),
        (SnapshotDelete { all: true, ..of(&["one"]) }, "invalid"),
        (SnapshotDelete { max_rate: Some(0), ..of(&["one"]) }, "invalid"),
    ] {
        assert_eq!(deleted(&fleet, &request).await.unwrap_err().code, code, "{request:?}");
    }
    let description = "a\nb".to_owned();
    let request = SnapshotCreate { description, ..SnapshotCreate::default() };
    let error = snapshot::create(&fleet.world, &root(), &vm, &request, &plain()).await;
    assert_eq!(error.unwrap_err().code, "invalid");
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_the_way_out() {
    let fleet = Fleet::new().await;
    let vm = fleet.vm("web01").await;
    let asked = async |memory, quiesce| {
        let request = SnapshotCreate { memory, quiesce, ..SnapshotCreate::default() };
        let world = &fleet.world;
        let said = snapshot::create(world, &root(), &vm.reference(), &request, &plain()).await;
        said.map(drop).map_err(|error| format!("{}: {error} ({:?})", error.code, error.hint))
    };
    expect![[r#"wrong_state: vm `web01` is stopped: there is no memory to save (Some("leave out `--memory`: its disks are saved as they are"))"#]]
        .assert_eq(&asked(true, false).await.unwrap_err());
    expect![[r#"wrong_state: vm `web01` is stopped: there is no guest to freeze (Some("leave out `--quiesce`: the disks of a guest that was stopped are consistent"))"#]]
        .assert_eq(&asked(false, true).await.unwrap_err());
    let start = vm::start(&fleet.world, &root(), &vm.reference(), &plain()).await.unwrap();
    fleet.done(&start).await;
    let silent = asked(false, true).await.unwrap_err();
    assert!(silent.starts_with("guest_agent_unavailable"), "{silent}");

    let guest = GuestReport {
        agent: true,
        since: Timestamp::now(),
        hostname: None,
        os: None,
        kernel: None,
        addresses: Vec::new(),
        cpus: None,
        memory: None,
        nics: Vec::new(),
    };
    fleet.host.change(vm.id(), |sim| sim.guest = Some(guest));
    fleet.until("the agent answers", |now| now.get(vm.id()).unwrap().status.guest.is_some()).await;
    let request = SnapshotCreate { memory: true, quiesce: true, ..SnapshotCreate::default() };
    let task = snapshot::create(&fleet.world, &root(), &vm.reference(), &request, &plain()).await;
    fleet.done(&task.unwrap()).await;
    let taken = fleet.show("web01").status.snapshots.snapshots[0].clone();
    assert_eq!(taken.consistency, Consistency::Application);
    assert_eq!(taken.memory, Some(vm.spec.memory));

    let protect = VmUpdate { protected: Some(true), ..VmUpdate::default() };
    let update = vm::update(&fleet.world, &root(), &vm.reference(), protect, None, &plain()).await;
    fleet.done(&update.unwrap().task.unwrap()).await;
    let to = taken.name.as_str();
    let error = revert(&fleet, to, SnapshotRevert::default()).await.unwrap_err();
    assert_eq!(error.code, "protected");
    let off = SnapshotRevert { start: Some(false), force: true };
    revert(&fleet, to, off).await.unwrap();
    assert_eq!(fleet.show("web01").status.power, PowerState::Stopped);
    revert(&fleet, to, SnapshotRevert { start: None, force: true }).await.unwrap();
    assert_eq!(fleet.show("web01").status.power, PowerState::Running, "it has its memory again");
}

#[tokio::test]
async fn nothing_is_done_in_the_recycle_bin() {
    let fleet = Fleet::new().await;
    let vm = fleet.vm("web01").await;
    take(&fleet, "one").await;
    let request = vm::VmDelete::default();
    let delete = vm::delete(&fleet.world, &root(), &vm.reference(), request, &plain()).await;
    fleet.done(&delete.unwrap()).await;
    let (world, id, one) = (&fleet.world, vm.reference(), named("one"));
    let said = snapshot::create(world, &root(), &id, &SnapshotCreate::default(), &plain()).await;
    assert_eq!(said.unwrap_err().code, "recycled");
    let back = SnapshotRevert::default();
    let said = snapshot::revert(world, &root(), &id, &one, back, &plain()).await;
    assert_eq!(said.unwrap_err().code, "recycled");
    let said = snapshot::delete(world, &root(), &id, &of(&["one"]), &plain()).await;
    assert_eq!(said.unwrap_err().code, "recycled");
    assert_eq!(snapshot::list(world, &root(), &id).unwrap().snapshots.len(), 1, "it is shown");
}

#[tokio::test]
async fn a_plan_tells_which_files_go_where_and_how_long_it_takes() {
    let fleet = Fleet::new().await;
    let vm = fleet.running_vm("web01").await;
    for name in ["one", "two"] {
        take(&fleet, name).await;
        write(&fleet, &vm, 100);
    }
    fleet
        .until("the growth is told", |now| {
            let disks = &now.get(vm.id()).unwrap().status.disks;
            disks[0].allocated > ByteSize::mib(200)
        })
        .await;
    let plan = |names: &[&str]| {
        snapshot::plan(&fleet.world, &root(), &vm.reference(), &of(names)).unwrap()
    };
    expect![[r#"
        merge   disk0.1.qcow2 into disk0.qcow2 (100.1MiB)
    "#]]
    .assert_eq(&plan(&["one"]).files.to_string());
    expect![[r#"
        merge   disk0.2.qcow2, disk0.1.qcow2 into disk0.qcow2 (200.3MiB)
    "#]]
    .assert_eq(&plan(&["one", "two"]).files.to_string());
    assert!(plan(&[]).files.is_empty(), "nothing is left of earlier ones");
    let before = plan(&["one"]).estimate;
    assert_eq!(before.basis, "assumed: nothing was merged on datastore `local` lately");
    assert_eq!((before.bytes_per_second, before.seconds), (ByteSize::mib(100), 2));

    // What a linked clone lies on is not touched.
    let lent = vm.status.disks[0].layers[0].file.clone();
    fleet.host.change(vm.id(), |sim| assert!(sim.storage.lent.insert(lent)));
    let other = fleet.vm("web02").await;
    let files = fleet.show("web01").status.disks[0].layers.clone();
    fleet.host.change(other.id(), |sim| {
        let disk = sim.definition.vm.spec.disks[0].clone();
        sim.storage.lie_on(other.id(), &disk.name, files.last().unwrap().file.clone());
    });
    fleet
        .until("the clone is told", |now| {
            now.get(other.id()).unwrap().status.disks[0].layers.len() == 2
        })
        .await;
    let kept = plan(&["one"]).files.kept;
    assert_eq!(kept.iter().map(|kept| kept.why).collect::<Vec<_>>(), [KeptWhy::LinkedClones]);
    let error = vm::deletion_plan(&fleet.world, &root(), &vm.reference()).unwrap().refused;
    assert!(error.unwrap().contains("web02"), "it is not deleted either");
}

#[tokio::test]
async fn while_files_merge_nothing_else_is_done_and_a_stopped_merge_is_taken_up() {
    let fleet = Fleet::new().await;
    let vm = fleet.running_vm("web01").await;
    take(&fleet, "one").await;
    take(&fleet, "two").await;
    fleet.host.fault("vm_snapshot_delete", Fault::Hang);
    let merging = deleted(&fleet, &of(&["one"])).await.unwrap();
    fleet.host.taken("vm_snapshot_delete").await;
    let error = deleted(&fleet, &of(&["two"])).await.unwrap_err();
    assert_eq!(error.code, "busy");
    assert!(error.message.contains(&merging.id().to_string()), "{}", error.message);
    assert!(error.hint.unwrap().contains("hostler task cancel"));
    for code in [
        ordered(&fleet, "three").await.map(drop).unwrap_err().code,
        revert(&fleet, "two", SnapshotRevert::default()).await.unwrap_err().code,
    ] {
        assert_eq!(code, "busy");
    }
    let plan = snapshot::plan(&fleet.world, &root(), &vm.reference(), &of(&["two"])).unwrap();
    assert!(plan.refused.unwrap().contains("is being worked on"));
    fleet
        .until("its progress is told", |now| {
            now.get::<TaskKind>(merging.id()).unwrap().status.progress.percent == Some(50)
        })
        .await;

    task::cancel(&fleet.world, &root(), &merging.reference()).await.unwrap();
    let ended = fleet.ended(&merging).await;
    assert_eq!(ended.status.state, TaskState::Done, "{:?}", ended.status.error);
    let said = &ended.status.messages.last().unwrap().text;
    assert!(said.contains("hostler vm consolidate web01"), "{said}");
    expect![[r#"[two<- ""] at two"#]].assert_eq(&tree(&fleet));
    let waiting = |fleet: &Fleet| fleet.show("web01").status.disks[0].layers.len();
    assert_eq!(waiting(&fleet), 3);

    // Stopped again, a merge that was all there was to do is cancelled, and nothing is lost.
    let (world, reference) = (&fleet.world, vm.reference());
    fleet.host.fault("vm_snapshot_delete", Fault::Hang);
    let merging = snapshot::consolidate(world, &root(), &reference, None, &plain()).await.unwrap();
    fleet.host.taken("vm_snapshot_delete").await;
    task::cancel(world, &root(), &merging.reference()).await.unwrap();
    assert_eq!(fleet.ended(&merging).await.status.state, TaskState::Cancelled);
    let merging = snapshot::consolidate(world, &root(), &reference, Some(1 << 20), &plain()).await;
    fleet.done(&merging.unwrap()).await;
    assert_eq!(waiting(&fleet), 2);
}

#[tokio::test]
async fn a_deletion_that_the_host_refuses_leaves_what_the_host_says() {
    let fleet = Fleet::new().await;
    fleet.running_vm("web01").await;
    take(&fleet, "one").await;
    let full = || Fault::refuse(507, "no_space", "the datastore is full");
    fleet.host.fault("vm_snapshot_forget", full());
    let ended = fleet.ended(&deleted(&fleet, &of(&["one"])).await.unwrap()).await;
    assert_eq!(ended.status.state, TaskState::Failed);
    expect![[r#"[one<- ""] at one"#]].assert_eq(&tree(&fleet));
    // The merge fails when the name is gone already.
    fleet.host.fault("vm_snapshot_delete", full());
    let ended = fleet.ended(&deleted(&fleet, &of(&["one"])).await.unwrap()).await;
    assert_eq!(ended.status.error_code.as_deref(), Some("no_space"));
    fleet
        .until("the record agrees", |now| {
            now.find::<hostler_types::VmKind>(&named("web01")).unwrap().status.snapshots.is_empty()
        })
        .await;
    fleet.host.fault("vm_revert", Fault::refuse(502, "qemu_failed", "it does not load"));
    take(&fleet, "two").await;
    let (world, vm) = (&fleet.world, named("web01"));
    let request = SnapshotRevert::default();
    let task = snapshot::revert(world, &root(), &vm, &named("two"), request, &plain()).await;
    let ended = fleet.ended(&task.unwrap()).await;
    assert_eq!(ended.status.error_code.as_deref(), Some("qemu_failed"));
    assert_eq!(fleet.show("web01").status.power, PowerState::Running);
}

#[tokio::test]
async fn disks_are_what_they_were_at_the_snapshot() {
    let fleet = Fleet::new().await;
    let vm = fleet.vm("web01").await;
    let (world, reference) = (&fleet.world, vm.reference());
    take(&fleet, "one").await;
    let more = serde_json::json!({"name": "data", "size": "1GiB"});
    let more = serde_json::from_value(more).unwrap();
    let task = vm::disk::add(world, &root(), &reference, &more, &plain()).await;
    fleet.done(&task.unwrap()).await;
    let (first, size) = (vm.spec.disks[0].name.clone(), ByteSize::gib(3));
    let grow = hostler_types::DiskUpdate { size: Some(size), ..Default::default() };
    let task = vm::disk::update(world, &root(), &reference, &first, &grow, &plain()).await;
    fleet.done(&task.unwrap()).await;
    revert(&fleet, "one", SnapshotRevert::default()).await.unwrap();
    let now = fleet.show("web01");
    assert_eq!(now.spec.disks, vm.spec.disks, "its size is that of then");
    assert_eq!(now.spec.detached[0].name.as_str(), "data", "nothing is lost");
    let at_host = fleet.host.vm(vm.id()).unwrap().definition.vm;
    assert_eq!((at_host.spec.disks, at_host.spec.detached), {
        let spec = now.spec.clone();
        (spec.disks, spec.detached)
    });
}
