//! Datastores that are not mounted: what they refuse is taken back, and holds nobody up.

use std::sync::Arc;

use hostler_control::Actor;
use hostler_control::services::vm::snapshot::{SnapshotCreate, SnapshotUpdate};
use hostler_control::services::vm::{self, VmDelete};
use hostler_control::services::{Options, template};
use hostler_endpoint::Problem;
use hostler_sim::{Fault, Fleet};
use hostler_types::{Ref, Task, TaskState, TemplateKind, VmKind};
use serde_json::json;

/// Each asks its host for the change, which is refused, and for its taking back, which is refused as
/// well: the task fails, and the VM is as it was and free.
#[tokio::test]
async fn whatever_an_unmounted_datastore_refuses_is_taken_back() {
    let fleet = Fleet::new().await;
    let (world, actor, web, plain) =
        (&fleet.world, Actor::root(), reference("web01"), Options::default());
    fleet.vm("web01").await;
    let taken = vm::snapshot::create(world, &actor, &web, &snapshot("old"), &plain).await;
    fleet.done(&taken.unwrap()).await;
    fleet.vm("base").await;
    let made = json!({"name": "golden", "vm": "base", "move": true});
    let made = serde_json::from_value(made).unwrap();
    fleet.done(&template::create(world, &actor, &made, &plain).await.unwrap()).await;
    let (golden, off) = ("golden".parse().unwrap(), fleet.vm("off").await);
    let gone = fleet.vm("gone").await.reference();
    let deleted = vm::delete(world, &actor, &gone, bin(), &plain);
    fleet.done(&deleted.await.unwrap()).await;

    let defined = ["vm_define", "vm_define"];
    let check = async |what: &str, methods: [&'static str; 2], task: Arc<Task>| {
        let ended = fleet.ended(&task).await;
        assert_eq!(ended.status.state, TaskState::Failed, "{what} by {methods:?}: {ended:?}");
        assert_eq!(ended.status.error_code.as_deref(), Some("datastore_missing"), "{what}");
    };
    let refuse = |methods: [&'static str; 2]| {
        for method in methods {
            let missing = Problem::new(503, "datastore_missing", "not mounted");
            fleet.host.fault(method, Fault::Refuse(missing));
        }
    };
    let before = fleet.show("web01");

    refuse(["vm_snapshot", "vm_snapshot_delete"]);
    let task = vm::snapshot::create(world, &actor, &web, &snapshot("new"), &plain).await;
    check("snapshot", ["vm_snapshot", "vm_snapshot_delete"], task.unwrap()).await;
    refuse(["vm_snapshot_update", "vm_snapshot_update"]);
    let words = SnapshotUpdate { name: Some("other".parse().unwrap()), description: None };
    let task = vm::snapshot::update(world, &actor, &web, &reference("old"), &words, &plain).await;
    check("snapshot update", ["vm_snapshot_update"; 2], task.unwrap()).await;
    refuse(defined);
    let told = serde_json::from_value(json!({"description": "x"})).unwrap();
    let task = vm::update(world, &actor, &web, told, None, &plain).await.unwrap().task.unwrap();
    check("update", defined, task).await;
    refuse(defined);
    let task = vm::delete(world, &actor, &web, bin(), &plain).await;
    check("delete", defined, task.unwrap()).await;
    let after = fleet.show("web01");
    assert_eq!((&after.spec, &after.status.snapshots), (&before.spec, &before.status.snapshots));

    refuse(defined);
    let made = json!({"name": "other", "vm": "off", "move": true});
    let made = serde_json::from_value(made).unwrap();
    let task = template::create(world, &actor, &made, &plain).await;
    check("template create", defined, task.unwrap()).await;
    assert_eq!(fleet.show("off").spec, off.spec, "it is a VM as before");
    let other = fleet.snapshot().find::<TemplateKind>(&reference("other")).is_err();
    assert!(other, "the new template is gone");
    refuse(defined);
    let task = template::to_vm(world, &actor, &golden, None, &plain);
    check("template to-vm", defined, task.await.unwrap()).await;
    let shown = template::show(world, &actor, &golden).unwrap();
    assert_eq!(shown.status.versions.len(), 1, "it is a template as before");
    refuse(defined);
    let task = vm::undelete(world, &actor, &reference("gone"), None, &plain).await.unwrap();
    check("undelete", defined, task).await;
    assert_eq!(fleet.snapshot().all::<VmKind>().iter().filter(|vm| vm.is_recycled()).count(), 1);
}

fn reference(name: &str) -> Ref {
    name.parse().unwrap()
}

fn snapshot(name: &str) -> SnapshotCreate {
    let (name, description) = (Some(name.parse().unwrap()), String::new());
    SnapshotCreate { name, description, memory: false, quiesce: false }
}

fn bin() -> VmDelete {
    VmDelete::default()
}
