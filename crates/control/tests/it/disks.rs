//! A disk changes between VMs: what it leaves behind, and what keeps it where it is.

use std::sync::Arc;

use hostler_agent_api::code;
use hostler_control::services::Options;
use hostler_control::services::datastore::{self, DatastoreCreate};
use hostler_control::services::vm::disk::{self, DiskTake};
use hostler_control::services::vm::{self};
use hostler_control::{Actor, ServiceError};
use hostler_endpoint::Problem;
use hostler_sim::{Fault, Fleet};
use hostler_types::{Name, Ref, StorageKind, Task, TaskState, VmUpdate};
use serde_json::json;

fn named(text: &str) -> Ref {
    Ref::Name(text.parse().unwrap())
}

fn plain() -> Options {
    Options::default()
}

async fn take(fleet: &Fleet, from: &str, disk: &str) -> Result<Arc<Task>, ServiceError> {
    let taking = DiskTake { from: named(from), name: None };
    let (disk, actor): (Name, _) = (disk.parse().unwrap(), Actor::root());
    disk::take(&fleet.world, &actor, &named("web01"), &disk, &taking, &plain()).await
}

async fn add(fleet: &Fleet, vm: &str, disk: &str) {
    let request = serde_json::from_value(json!({"name": disk, "size": "1GiB"})).unwrap();
    let task = disk::add(&fleet.world, &Actor::root(), &named(vm), &request, &plain()).await;
    fleet.done(&task.unwrap()).await;
}

async fn detach(fleet: &Fleet, vm: &str, disk: &str) {
    let disk = disk.parse().unwrap();
    let task = disk::detach(&fleet.world, &Actor::root(), &named(vm), &disk, false, &plain()).await;
    fleet.done(&task.unwrap()).await;
}

fn disks(fleet: &Fleet, vm: &str) -> (Vec<String>, Vec<String>) {
    let vm = fleet.show(vm);
    let names = |all: &[hostler_types::DiskSpec]| all.iter().map(|d| d.name.to_string()).collect();
    (names(&vm.spec.disks), names(&vm.spec.detached))
}

/// `web01` runs, `db01` has a detached disk `data`.
async fn fleet() -> Fleet {
    let fleet = Fleet::new().await;
    fleet.running_vm("web01").await;
    fleet.vm("db01").await;
    add(&fleet, "db01", "data").await;
    detach(&fleet, "db01", "data").await;
    fleet
}

#[tokio::test]
async fn a_detached_disk_becomes_another_vms() {
    let fleet = fleet().await;
    let task = take(&fleet, "db01", "data").await.unwrap();
    assert_eq!(task.spec.target, "vm/web01 from db01");
    // Both are locked meanwhile.
    let other = detach_now(&fleet, "db01").await;
    if let Err(error) = other {
        assert_eq!(error.code, "busy");
    }
    fleet.done(&task).await;
    assert_eq!(disks(&fleet, "web01"), (vec!["disk0".into(), "data".into()], vec![]));
    assert_eq!(disks(&fleet, "db01").1, Vec::<String>::new());
    let id = fleet.show("web01").id();
    let host = fleet.host.vm(id).unwrap();
    assert!(host.definition.vm.spec.disks.iter().any(|disk| disk.name.as_str() == "data"));
    let status = &fleet.show("web01").status.disks;
    assert!(status.iter().any(|disk| disk.name.as_str() == "data"), "{status:?}");
}

async fn detach_now(fleet: &Fleet, vm: &str) -> Result<Arc<Task>, ServiceError> {
    let disk = "disk0".parse().unwrap();
    disk::detach(&fleet.world, &Actor::root(), &named(vm), &disk, false, &plain()).await
}

/// The guest has no room for it: it is back where it was, detached.
#[tokio::test]
async fn a_disk_that_the_guest_does_not_take_goes_back() {
    let fleet = fleet().await;
    let (web, db) = (fleet.show("web01"), fleet.show("db01"));
    let full = || Problem::new(502, code::QEMU_FAILED, "no port is free");
    // The third definition: of `db01`, then of `web01`.
    fleet.host.fault("vm_define", Fault::AnswerLost);
    fleet.host.fault("vm_define", Fault::Refuse(full()));
    fleet.host.fault("vm_define", Fault::Refuse(full()));
    let task = take(&fleet, "db01", "data").await.unwrap();
    let ended = fleet.ended(&task).await;
    assert_eq!(ended.status.state, TaskState::Failed, "{ended:?}");
    assert_eq!(ended.status.error.as_deref(), Some("no port is free"));
    assert_eq!(fleet.show("web01").spec, web.spec);
    assert_eq!(fleet.show("db01").spec, db.spec);
    for vm in [&web, &db] {
        let host = fleet.host.vm(vm.id()).unwrap();
        assert_eq!(host.definition.vm.spec, vm.spec);
    }
    assert_eq!(fleet.host.times_done("vm_disk_take"), 2, "there and back");
}

#[tokio::test]
async fn what_keeps_a_disk_is_told() {
    let fleet = fleet().await;
    let refused = async |from: &str, disk: &str| {
        let error = take(&fleet, from, disk).await.unwrap_err();
        (error.code, error.message, error.hint.unwrap_or_default())
    };
    let (code, message, hint) = refused("db01", "disk0").await;
    assert_eq!((code, message.as_str()), ("name_taken", "vm `web01` has a disk `disk0` already"));
    assert_eq!(hint, "choose another name with --name");
    let (code, message, hint) = refused("web01", "disk0").await;
    assert_eq!((code, message.as_str()), ("invalid", "from: vm `web01` has its own disks"));
    assert!(hint.contains("leave out --from"));
    let (code, message, _) = refused("db01", "nothing").await;
    assert_eq!((code, message.as_str()), ("not_found", "vm `db01` has no disk `nothing`"));

    add(&fleet, "db01", "log").await;
    let (code, message, hint) = refused("db01", "log").await;
    let expected = "disk `log` of vm `db01` is attached there";
    assert_eq!((code, message.as_str()), ("wrong_state", expected));
    assert!(hint.starts_with("first run `hostler vm disk detach db01 log`"), "{hint}");

    let protect = |yes| VmUpdate { protected: Some(yes), ..VmUpdate::default() };
    let (db, actor) = (named("db01"), Actor::root());
    let changed = vm::update(&fleet.world, &actor, &db, protect(true), None, &plain()).await;
    fleet.done(&changed.unwrap().task.unwrap()).await;
    assert_eq!(refused("db01", "data").await.0, "protected");
    let changed = vm::update(&fleet.world, &actor, &db, protect(false), None, &plain()).await;
    fleet.done(&changed.unwrap().task.unwrap()).await;

    // A snapshot of when it was attached.
    let request = vm::snapshot::SnapshotCreate {
        name: Some("before".parse().unwrap()),
        ..Default::default()
    };
    let taken = vm::snapshot::create(&fleet.world, &actor, &db, &request, &plain()).await;
    fleet.done(&taken.unwrap()).await;
    detach(&fleet, "db01", "log").await;
    let (code, message, hint) = refused("db01", "log").await;
    let expected = "disk `log` of vm `db01` is part of its snapshot `before`";
    assert_eq!((code, message.as_str()), ("in_use", expected));
    assert!(hint.contains("vm snapshot delete db01 before"), "{hint}");
}

/// The file stays on its datastore, and a datastore of a host on that host.
#[tokio::test]
async fn a_disk_does_not_leave_its_place() {
    let fleet = fleet().await;
    let (world, root) = (&fleet.world, Actor::root());
    let far = fleet.join("far").await;
    for (name, path, hosts) in [("nfs", "/nfs", vec!["sim", "far"]), ("own", "/own", vec!["sim"])] {
        far.mount(path, hostler_types::DatastoreId::generate());
        let request = DatastoreCreate {
            name: name.parse().unwrap(),
            labels: Default::default(),
            hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
            kind: if hosts.len() > 1 { StorageKind::Shared } else { StorageKind::Local },
            limits: Default::default(),
            path: path.to_owned(),
        };
        datastore::create(world, &root, request).await.unwrap();
    }
    let elsewhere = serde_json::from_value(json!({
        "name": "db02", "datastore": "own",
        "disks": [{"name": "root", "size": "1GiB"}, {"name": "data", "size": "1GiB"}],
    }));
    let made = vm::create(world, &root, elsewhere.unwrap(), &plain()).await.unwrap();
    fleet.done(&made.task.unwrap()).await;
    // Nor does a disk lie on an image that lies elsewhere.
    let on_image = serde_json::from_value(json!({"image": "tiny"})).unwrap();
    let add = disk::add(world, &root, &named("db02"), &on_image, &plain()).await;
    let error = add.unwrap_err();
    let expected = "image `tiny` lies on datastore `local`, and vm `db02` on `own`: a disk lies beside \
                    its image";
    assert!(error.message.contains(expected), "{}", error.message);
    let hint = error.hint.unwrap();
    assert!(hint.contains("hostler image import") && hint.contains("--datastore own"), "{hint}");
    assert_eq!(disks(&fleet, "db02").0, ["root", "data"], "there is no task, and no disk");
    let add = disk::add(world, &root, &named("db01"), &on_image, &plain()).await;
    fleet.done(&add.unwrap()).await;
    detach(&fleet, "db02", "data").await;
    let error = take(&fleet, "db02", "data").await.unwrap_err();
    let message = "vm `db02` lies on the datastore `own` and vm `web01` on `local`: a disk changes \
                   between VMs of one datastore";
    assert_eq!((error.code, error.message.as_str()), ("wrong_state", message));
}
