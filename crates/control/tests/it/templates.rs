//! Templates: made of VMs, made VMs again, and what is made from them.

use hostler_agent_api::{FileOwner, FileUser};
use hostler_control::services::template;
use hostler_control::services::vm::{self, CloneOf, Cloned, VmDelete, VmFilter};
use hostler_control::services::{Options, PageRequest};
use hostler_control::{Actor, ServiceError};
use hostler_sim::{Fault, Fleet};
use hostler_types::{
    ByteSize, DiskSource, LayerFile, LayerOwner, PowerState, SealWay, Task, TaskState, Template,
    TemplateCreate, TemplateRef, TemplateUpdate, Vm, VmCreate, VmUpdate,
};
use serde_json::{Value, json};

fn root() -> Actor {
    Actor::root()
}

fn reference(text: &str) -> TemplateRef {
    text.parse().unwrap()
}

fn request(value: Value) -> VmCreate {
    serde_json::from_value(value).unwrap()
}

async fn made(fleet: &Fleet, name: &str, vm: &str) -> Result<(), ServiceError> {
    made_by(fleet, name, vm, true).await
}

async fn made_by(fleet: &Fleet, name: &str, vm: &str, moves: bool) -> Result<(), ServiceError> {
    let request = TemplateCreate {
        name: name.parse().unwrap(),
        vm: vm.parse().unwrap(),
        moves,
        description: format!("of {vm}"),
        labels: hostler_types::Labels::new(),
    };
    let task = template::create(&fleet.world, &root(), &request, &Options::default()).await?;
    fleet.done(&task).await;
    Ok(())
}

fn show(fleet: &Fleet, name: &str) -> Template {
    Template::clone(&template::show(&fleet.world, &root(), &reference(name)).unwrap())
}

fn numbers(fleet: &Fleet, name: &str) -> Vec<u32> {
    show(fleet, name).status.versions.iter().map(|version| version.version).collect()
}

async fn deployed(fleet: &Fleet, value: Value) -> Result<std::sync::Arc<Vm>, ServiceError> {
    let request = request(value);
    let name = request.name.clone();
    let created = vm::create(&fleet.world, &root(), request, &Options::default()).await?;
    fleet.done(&created.task.unwrap()).await;
    Ok(fleet.show(name.as_str()))
}

async fn deleted(fleet: &Fleet, name: &str) -> Result<std::sync::Arc<Task>, ServiceError> {
    let options = Options::default();
    let task = template::delete(&fleet.world, &root(), &reference(name), &options).await?;
    fleet.done(&task).await;
    Ok(task)
}

async fn to_vm(fleet: &Fleet, name: &str, vm: Option<&str>) -> Result<(), ServiceError> {
    let (vm, options) = (vm.map(|vm| vm.parse().unwrap()), Options::default());
    let (root, reference) = (root(), reference(name));
    let task = template::to_vm(&fleet.world, &root, &reference, vm.as_ref(), &options).await?;
    fleet.done(&task).await;
    Ok(())
}

fn listed(fleet: &Fleet) -> Vec<String> {
    let filter = VmFilter::default();
    let page = vm::list(&fleet.world, &root(), &filter, &PageRequest::default()).unwrap();
    page.items.iter().map(|vm| vm.name().to_string()).collect()
}

#[tokio::test]
async fn versions_are_made_of_vms_and_counted_once() {
    let fleet = Fleet::new().await;
    for vm in ["one", "two", "three"] {
        fleet.vm(vm).await;
    }
    made(&fleet, "golden", "one").await.unwrap();
    made(&fleet, "golden", "two").await.unwrap();
    let golden = show(&fleet, "golden");
    assert_eq!(numbers(&fleet, "golden"), [1, 2]);
    assert_eq!(golden.status.versions[1].made_from.as_str(), "two");
    assert_eq!(golden.status.versions[1].description, "of two");
    assert_eq!(listed(&fleet), ["three"], "what is a template is no VM");
    assert_eq!(numbers(&fleet, "golden:1"), [1]);

    // A number is not given again.
    deleted(&fleet, "golden:2").await.unwrap();
    made(&fleet, "golden", "three").await.unwrap();
    assert_eq!(numbers(&fleet, "golden"), [1, 3]);
    let missing = template::show(&fleet.world, &root(), &reference("golden:2")).unwrap_err();
    assert_eq!(missing.message, "template `golden` has no version 2");
    assert_eq!(missing.hint.as_deref(), Some("it has 1, 3"));

    deleted(&fleet, "golden").await.unwrap();
    assert!(fleet.host.files().is_empty(), "all files are gone");
    assert!(template::show(&fleet.world, &root(), &reference("golden")).is_err());
}

#[tokio::test]
async fn a_template_is_not_started_changed_or_deleted_as_a_vm() {
    let fleet = Fleet::new().await;
    fleet.vm("one").await;
    made(&fleet, "golden", "one").await.unwrap();
    let (world, options) = (&fleet.world, Options::default());
    let record = hostler_types::Ref::by_id(show(&fleet, "golden").status.versions[0].vm);
    let refused = |answer: Result<(), ServiceError>| {
        let error = answer.unwrap_err();
        assert_eq!(error.code, "template", "{error}");
        assert!(error.message.contains("version 1 of a template, made from vm `one`"), "{error}");
    };
    refused(vm::start(world, &root(), &record, &options).await.map(drop));
    let delete = VmDelete { force: true, stop: None, now: true };
    refused(vm::delete(world, &root(), &record, delete, &options).await.map(drop));
    let change = VmUpdate { description: Some("x".to_owned()), ..VmUpdate::default() };
    refused(vm::update(world, &root(), &record, change, None, &options).await.map(drop));
    let name = "other".parse().unwrap();
    refused(vm::rename(world, &root(), &record, name, None, &options).await.map(drop));
    refused(vm::unregister(world, &root(), &record, &options).await.map(drop));
    refused(vm::seal(world, &root(), &record, &options).await.map(drop));
    // And its own host does not start it either.
    let name = fleet.snapshot().find::<hostler_types::VmKind>(&record).unwrap().name().clone();
    assert!(fleet.host.vm(fleet.show(name.as_str()).id()).is_some());
}

#[tokio::test]
async fn only_a_vm_that_is_off_and_whole_becomes_a_template() {
    let fleet = Fleet::new().await;
    fleet.running_vm("runs").await;
    let error = made(&fleet, "golden", "runs").await.unwrap_err();
    assert_eq!(error.code, "wrong_state");
    assert!(error.message.contains("it must be stopped"), "{error}");
    fleet.vm("guarded").await;
    let protect = VmUpdate { protected: Some(true), ..VmUpdate::default() };
    let guarded = "guarded".parse().unwrap();
    let options = Options::default();
    let changed = vm::update(&fleet.world, &root(), &guarded, protect, None, &options).await;
    fleet.done(&changed.unwrap().task.unwrap()).await;
    assert_eq!(made(&fleet, "golden", "guarded").await.unwrap_err().code, "protected");
    assert!(template::show(&fleet.world, &root(), &reference("golden")).is_err());
}

#[tokio::test]
async fn a_vm_is_as_its_template_unless_it_is_said_otherwise() {
    let fleet = Fleet::new().await;
    fleet.image("tiny").await;
    let base = json!({
        "name": "base", "image": "tiny", "cpus": 2, "memory": "3GiB", "firmware": "uefi",
        "disks": [{"size": "1GiB"}],
    });
    deployed(&fleet, base).await.unwrap();
    made(&fleet, "golden", "base").await.unwrap();
    let version = show(&fleet, "golden").status.versions[0].vm;

    let plain = deployed(&fleet, json!({"name": "a", "template": "golden"})).await.unwrap();
    assert_eq!((plain.spec.cpus.count(), plain.spec.memory), (2, ByteSize::gib(3)));
    assert_eq!(plain.spec.firmware, hostler_types::Firmware::Uefi);
    assert_eq!(plain.spec.disks.len(), 2);
    for disk in &plain.spec.disks {
        let file = LayerFile::disk(version, &disk.name, 0);
        assert_eq!(disk.source, DiskSource::Linked(file));
    }
    let mac = |vm: &Vm| vm.spec.nics[0].mac;
    let record = fleet.snapshot().get(version).cloned().unwrap();
    assert_eq!(plain.spec.nics[0].network, record.spec.nics[0].network);
    assert_ne!(mac(&plain), mac(&record), "each has an address of its own");
    assert!(plain.spec.customization.is_some(), "it is told its name");

    let other = json!({
        "name": "b", "template": "golden:1", "cpus": 4, "memory": "1GiB", "disk_size": "8GiB",
        "firmware": "bios", "nics": [], "full": true, "disks": [{"size": "2GiB"}],
    });
    let other = deployed(&fleet, other).await.unwrap();
    assert_eq!((other.spec.cpus.count(), other.spec.memory), (4, ByteSize::gib(1)));
    assert_eq!(other.spec.firmware, hostler_types::Firmware::Bios);
    assert_eq!(other.spec.disks[0].size, ByteSize::gib(8));
    assert!(matches!(&other.spec.disks[1].source, DiskSource::Copy(copy)
        if copy.file.owner() == LayerOwner::Vm(version)));
    assert_eq!(other.spec.disks[2].name.as_str(), "disk2");
    assert_eq!(other.spec.nics, []);

    let refused = async |value: Value, field: &str, words: &str| {
        let error = deployed(&fleet, value).await.unwrap_err();
        assert_eq!(error.fields[0].field, field, "{error}");
        assert!(error.message.contains(words), "{error}");
    };
    let both = json!({"name": "c", "template": "golden", "image": "tiny"});
    refused(both, "template", "one of them").await;
    let small = json!({"name": "c", "template": "golden", "disk_size": "1MiB"});
    refused(small, "disk_size", "golden:1").await;
    let zero =
        json!({"name": "c", "template": "golden", "disks": [{"size": "1GiB"}, {"size": "1"}]});
    refused(zero, "disks[1].size", "1MiB to 64TiB").await;
    let error = deployed(&fleet, json!({"name": "c", "template": "golden:7"})).await.unwrap_err();
    assert_eq!(error.message, "template `golden` has no version 7");
}

#[tokio::test]
async fn what_disks_lie_on_stays_a_template_and_says_for_whom() {
    let fleet = Fleet::new().await;
    fleet.vm("base").await;
    made(&fleet, "golden", "base").await.unwrap();
    fleet.join("other").await;
    let request = json!({"name": "web01", "template": "golden"});
    let clone = deployed(&fleet, request).await.unwrap();
    assert_eq!(clone.status.host, fleet.host.id(), "where the template's datastore is");
    let away = json!({"name": "web02", "template": "golden", "host": "other"});
    let error = deployed(&fleet, away).await.unwrap_err();
    assert!(
        error.message.contains("does not reach the datastore of template `golden:1`"),
        "{error}"
    );

    let needed =
        "template `golden:1` is needed by `web01` (its disk disk0 lies on a disk of `golden:1`)";
    for name in ["golden", "golden:1"] {
        let error = deleted(&fleet, name).await.unwrap_err();
        assert_eq!((error.code, error.message.as_str()), ("in_use", needed));
    }
    let options = Options::default();
    assert_eq!(to_vm(&fleet, "golden", None).await.unwrap_err().message, needed);
    assert_eq!(show(&fleet, "golden").status.versions[0].used_by[0].name.as_str(), "web01");

    let delete = VmDelete { force: false, stop: None, now: true };
    let task = vm::delete(&fleet.world, &root(), &clone.reference(), delete, &options).await;
    fleet.done(&task.unwrap()).await;
    // A name that somebody else has by now.
    fleet.vm("base").await;
    assert_eq!(to_vm(&fleet, "golden", None).await.unwrap_err().code, "name_taken");
    to_vm(&fleet, "golden", Some("back")).await.unwrap();
    assert_eq!(listed(&fleet), ["back", "base"]);
    let start = vm::start(&fleet.world, &root(), &"back".parse().unwrap(), &options).await;
    fleet.done(&start.unwrap()).await;
    assert_eq!(numbers(&fleet, "golden"), Vec::<u32>::new());
    let error = deployed(&fleet, json!({"name": "c", "template": "golden"})).await.unwrap_err();
    assert_eq!(error.message, "template `golden` has no version");
}

#[tokio::test]
async fn a_deletion_that_a_host_refuses_fails_before_anything_goes_or_is_made_again() {
    let fleet = Fleet::new().await;
    let (world, options) = (&fleet.world, Options::default());
    let mut versions = Vec::new();
    for vm in ["one", "two"] {
        versions.push(fleet.vm(vm).await.id());
        made(&fleet, "golden", vm).await.unwrap();
    }
    let (golden, root) = (reference("golden"), root());
    let delete = || template::delete(world, &root, &golden, &options);
    // Of no inventory, and seen in the headers on the datastore.
    let user = FileUser { vm: None, text: "a.qcow2 lies on disk0".to_owned() };
    fleet.host.plant_user(FileOwner::Vm(versions[1]), user);
    let ended = fleet.ended(&delete().await.unwrap()).await;
    let error = ended.status.error.as_deref();
    assert_eq!((ended.status.state, error), (TaskState::Failed, Some("a.qcow2 lies on disk0")));
    assert_eq!((numbers(&fleet, "golden"), fleet.host.times_done("vm_remove")), (vec![1, 2], 0));

    // Behind the look, the second one is refused: what the first one was is gone.
    fleet.host.forget_users();
    fleet.host.fault("vm_remove", Fault::AnswerLost);
    let refusal = Fault::refuse(409, "in_use", "b.qcow2 lies on disk0");
    // The first of them befalls the repeated question, which the journal answers.
    fleet.host.fault("vm_remove", refusal.clone());
    fleet.host.fault("vm_remove", refusal);
    let task = delete().await.unwrap();
    fleet.done(&task).await;
    let told: Vec<_> = fleet.ended(&task).await.status.messages.clone();
    let told: Vec<_> = told.iter().map(|told| told.text.split(',').next().unwrap()).collect();
    let refused = "`remove` failed: b.qcow2 lies on disk0";
    assert_eq!(told, [refused, "removed version 1", "removed version 2"]);
    assert!(template::show(world, &root, &reference("golden")).is_err());
    assert!(fleet.host.files().is_empty());
}

#[tokio::test]
async fn what_was_sealed_is_kept_until_it_runs() {
    let fleet = Fleet::new().await;
    let (world, options) = (&fleet.world, Options::default());
    let runs = fleet.running_vm("base").await.reference();
    fleet.done(&vm::seal(world, &root(), &runs, &options).await.unwrap()).await;
    let sealed = fleet.show("base");
    assert_eq!(sealed.status.power, PowerState::Stopped);
    assert_eq!(sealed.status.seal.as_ref().unwrap().way, SealWay::Guest);
    made(&fleet, "golden", "base").await.unwrap();
    let kept = show(&fleet, "golden").status.versions[0].seal.clone();
    assert_eq!(kept, sealed.status.seal);
    let again = template::seal(world, &root(), &reference("golden"), &options).await.unwrap();
    assert_eq!(again.spec.target, "template/golden:1");
    fleet.done(&again).await;
    let seal = show(&fleet, "golden").status.versions[0].seal.clone().unwrap();
    assert_eq!((seal.way, seal.removed.len()), (SealWay::Offline, 1));

    to_vm(&fleet, "golden:1", None).await.unwrap();
    assert!(fleet.show("base").status.seal.is_some());
    fleet.done(&vm::start(world, &root(), &runs, &options).await.unwrap()).await;
    assert_eq!(fleet.show("base").status.seal, None);
}

#[tokio::test]
async fn a_template_is_described() {
    let fleet = Fleet::new().await;
    fleet.vm("base").await;
    made(&fleet, "golden", "base").await.unwrap();
    let world = &fleet.world;
    let name = "golden".parse().unwrap();
    let request = TemplateUpdate { description: Some("for web".to_owned()), labels: None };
    let changed = template::update(world, &root(), &name, &request, None).await.unwrap();
    assert_eq!(changed.spec.description, "for web");
    assert_eq!(changed.status.versions.len(), 1);
    let before = Some(hostler_types::Revision(1));
    let stale = template::update(world, &root(), &name, &request, before).await;
    assert_eq!(stale.unwrap_err().code, "stale_revision");
    let long = TemplateUpdate { description: Some("x".repeat(1025)), labels: None };
    assert_eq!(
        template::update(world, &root(), &name, &long, None).await.unwrap_err().code,
        "invalid"
    );
    let page = template::list(world, &root(), &PageRequest::default()).unwrap();
    assert_eq!(page.items[0].status.versions.len(), 1);
}

#[tokio::test]
async fn a_vm_that_is_copied_goes_on_as_it_is() {
    let fleet = Fleet::new().await;
    let before = fleet.running_vm("base").await;
    made_by(&fleet, "golden", "base", false).await.unwrap();
    let after = fleet.show("base");
    assert_eq!((&after.spec, after.status.power), (&before.spec, PowerState::Running));
    assert_eq!(listed(&fleet), ["base"]);
    let version = show(&fleet, "golden").status.versions.pop().unwrap();
    assert_eq!((version.made_from.as_str(), version.used_by.len()), ("base", 0));
    let record = fleet.snapshot().get(version.vm).cloned().unwrap();
    assert_eq!(record.status.power, PowerState::Stopped);
    assert_ne!(record.spec.nics[0].mac, after.spec.nics[0].mac);
    assert!(after.status.snapshots.is_empty(), "what held it is gone");
    deployed(&fleet, json!({"name": "web01", "template": "golden"})).await.unwrap();
    // The VM can go, the template stays.
    let delete = VmDelete { force: true, stop: None, now: true };
    let options = Options::default();
    let task = vm::delete(&fleet.world, &root(), &after.reference(), delete, &options).await;
    fleet.done(&task.unwrap()).await;
    assert_eq!(numbers(&fleet, "golden"), [1]);
}

async fn cloned(fleet: &Fleet, template: &str, request: Value) -> Result<Cloned, ServiceError> {
    let (template, request) = (reference(template), serde_json::from_value(request).unwrap());
    let parent = CloneOf::Template(&template);
    vm::clone(&fleet.world, &root(), parent, request, &Options::default()).await
}

#[tokio::test]
async fn many_vms_are_made_from_a_template_in_one_task() {
    let fleet = Fleet::new().await;
    fleet.vm("base").await;
    made(&fleet, "golden", "base").await.unwrap();
    assert_eq!(show(&fleet, "golden").spec.description, "of base", "a new one is described, too");
    fleet.vm("next").await;
    made(&fleet, "golden", "next").await.unwrap();
    let version = show(&fleet, "golden").status.versions[0].vm;

    let many = json!({"mode": "linked", "name": "web-{01..}", "count": 20, "cpus": 3});
    let made = cloned(&fleet, "golden:1", many).await.unwrap();
    assert_eq!(made.vms.len(), 20);
    let task = made.task.unwrap();
    assert_eq!((task.spec.action.as_str(), task.spec.objects.len()), ("vm.clone", 20));
    fleet.done(&task).await;
    let mut macs = std::collections::BTreeSet::new();
    for made in &made.vms {
        let made = fleet.show(made.name().as_str());
        assert_eq!(made.status.power, PowerState::Stopped);
        let DiskSource::Linked(file) = &made.spec.disks[0].source else { panic!("{made:?}") };
        assert_eq!(file.owner(), LayerOwner::Vm(version));
        assert_eq!((&made.spec.template, made.spec.cpus.count()), (&None, 3), "it is a VM");
        assert!(made.spec.customization.is_some(), "it is told who it is");
        macs.insert(made.spec.nics[0].mac);
    }
    assert_eq!((macs.len(), fleet.host.times_done("vm_freeze")), (20, 0));
    assert_eq!(deleted(&fleet, "golden:1").await.unwrap_err().code, "in_use");

    // The latest, copied.
    let copies = json!({"name": "copy-{1..3}"});
    let made = cloned(&fleet, "golden", copies).await.unwrap();
    fleet.done(&made.task.unwrap()).await;
    let copy = fleet.show("copy-1");
    assert!(matches!(copy.spec.disks[0].source, DiskSource::Copy(_)), "{:?}", copy.spec.disks);
    deleted(&fleet, "golden:2").await.unwrap();
}

#[tokio::test]
async fn of_many_from_a_template_all_are_made_or_none() {
    let fleet = Fleet::new().await;
    fleet.vm("base").await;
    made(&fleet, "golden", "base").await.unwrap();
    let before = fleet.host.vms().len();
    let many = |name: &str| json!({"mode": "linked", "name": name});
    fleet.host.fault("vm_create", Fault::refuse(507, "no_space", "the datastore is full"));
    let failed = cloned(&fleet, "golden", many("web-{01..20}")).await.unwrap();
    let ended = fleet.ended(&failed.task.unwrap()).await;
    assert_eq!(ended.status.state, TaskState::Failed);
    assert_eq!((listed(&fleet), fleet.host.vms().len()), (Vec::new(), before));
    // Everything can be had again, and deleted.
    let again = cloned(&fleet, "golden", many("web-{01..20}")).await.unwrap();
    fleet.done(&again.task.unwrap()).await;
    assert_eq!(listed(&fleet).len(), 20);

    let refused = async |request: Value| {
        let error = cloned(&fleet, "golden", request).await.unwrap_err();
        (error.code, error.message)
    };
    let (code, message) = refused(json!({"mode": "instant", "name": "now"})).await;
    assert_eq!(code, "invalid");
    assert!(message.contains("a template does not run"), "{message}");
    let (code, _) = refused(json!({"mode": "linked", "name": "now", "snapshot": "s"})).await;
    assert_eq!(code, "invalid");
    assert_eq!(refused(many("web-01")).await.0, "name_taken");
    assert_eq!(cloned(&fleet, "golden:9", many("now")).await.unwrap_err().code, "not_found");
}
