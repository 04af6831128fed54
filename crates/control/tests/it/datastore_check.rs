//! Every file on a datastore is accounted for.

use expect_test::expect;
use hostler_agent_api::{FileOwner, FileUser, FoundFile, FoundKind};
use hostler_control::services::{Options, datastore, image, vm};
use hostler_control::{Actor, ServiceError};
use hostler_sim::{Fleet, SimStorage};
use hostler_types::{
    ByteSize, DatastoreFindings, DatastoreId, DatastoreKind, DatastoreLimits, HostKind, HostState,
    ImageId, ImageKind, Labels, LayerFile, Ref, StopMode, StorageKind, TaskState, VmId,
};
use jiff::Timestamp;

fn root() -> Actor {
    Actor::root()
}

fn local() -> Ref {
    "local".parse().unwrap()
}

fn plain() -> Options {
    Options::default()
}

fn id(fleet: &Fleet) -> DatastoreId {
    fleet.snapshot().find::<DatastoreKind>(&local()).unwrap().id()
}

async fn check(fleet: &Fleet) -> DatastoreFindings {
    datastore::check_files(&fleet.world, &root(), &local()).await.unwrap()
}

fn stray(fleet: &Fleet, path: &str, kind: FoundKind) {
    let (size, modified) = (ByteSize::mib(3), Timestamp::UNIX_EPOCH);
    let file = FoundFile { path: path.to_owned(), kind, size, allocated: size, modified };
    fleet.host.plant_file(id(fleet), file);
}

/// What was found, without ids.
fn told(findings: &DatastoreFindings, ids: &[(String, &str)]) -> String {
    let mut text = String::new();
    for orphan in &findings.orphans {
        let (kind, adopt) = (orphan.kind.as_str(), orphan.adoptable);
        let note = orphan.note.as_deref().unwrap_or("-");
        let files = orphan.files;
        text += &format!(
            "{kind} {} files {files} adopt {adopt} used by {:?}: {note}\n",
            orphan.path, orphan.used_by
        );
    }
    for damage in &findings.damaged {
        text += &format!(
            "{} {} {}: {}\n",
            damage.object,
            damage.kind.as_str(),
            damage.path,
            damage.text
        );
    }
    ids.iter().fold(text, |text, (id, name)| text.replace(id, name))
}

async fn adopt(fleet: &Fleet, path: &str, name: Option<&str>) -> Result<(), ServiceError> {
    let name = name.map(|name| name.parse().unwrap());
    let (actor, store, name) = (root(), local(), name.as_ref());
    let task = datastore::adopt(&fleet.world, &actor, &store, path, name, &plain()).await?;
    fleet.done(&task).await;
    Ok(())
}

async fn remove(fleet: &Fleet, paths: &[&str]) -> Result<(), ServiceError> {
    let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
    let (actor, store) = (root(), local());
    let task = datastore::remove_orphans(&fleet.world, &actor, &store, &paths, &plain()).await?;
    fleet.done(&task).await;
    Ok(())
}

#[tokio::test]
async fn what_is_somebodys_is_no_orphan() {
    let fleet = Fleet::new().await;
    let web = fleet.vm("web01").await;
    fleet.vm("web02").await;
    let clean = check(&fleet).await;
    assert_eq!((&clean.orphans[..], &clean.damaged[..]), (&[][..], &[][..]));
    assert!(clean.files >= 6 && clean.allocated > ByteSize(0));
    // In the recycle bin its files are still its own.
    let vm: Ref = "web02".parse().unwrap();
    let deleted = vm::delete(&fleet.world, &root(), &vm, vm::VmDelete::default(), &plain()).await;
    fleet.done(&deleted.unwrap()).await;
    assert_eq!(check(&fleet).await.orphans, []);
    // Nor is what is just being written, or what a task works on.
    let temporary = FoundFile {
        path: format!("vms/{}/.tmp-0123-abc", web.id()),
        kind: FoundKind::File,
        size: ByteSize(1),
        allocated: ByteSize(1),
        modified: Timestamp::now(),
    };
    fleet.host.plant_file(id(&fleet), temporary);
    assert_eq!(check(&fleet).await.orphans, []);
    fleet.host.fault("vm_start", hostler_sim::Fault::Hang);
    let start = vm::start(&fleet.world, &root(), &web.reference(), &plain()).await.unwrap();
    fleet.host.taken("vm_start").await;
    stray(&fleet, &format!("vms/{}/disk0.1.qcow2", web.id()), FoundKind::Base);
    let busy = check(&fleet).await;
    assert_eq!((&busy.orphans[..], &busy.busy[..]), (&[][..], &["vm/web01".to_owned()][..]));
    let reference = Ref::by_id(start.id());
    hostler_control::services::task::cancel(&fleet.world, &root(), &reference).await.unwrap();
    fleet.ended(&start).await;
    assert_eq!(check(&fleet).await.orphans.len(), 1);
}

#[tokio::test]
async fn what_nobody_owns_and_what_is_missing_is_told() {
    let fleet = Fleet::new().await;
    let web = fleet.vm("web01").await;
    let tiny = fleet.image("tiny").await.id();
    let (lost, image) = (VmId::generate(), ImageId::generate());
    fleet.vm("gone").await;
    let gone: Ref = "gone".parse().unwrap();
    let gone_id = fleet.show("gone").id();
    let task = vm::unregister(&fleet.world, &root(), &gone, &plain()).await.unwrap();
    fleet.done(&task).await;
    stray(&fleet, &format!("vms/{lost}/root.qcow2"), FoundKind::Overlay(LayerFile::image(image)));
    stray(&fleet, &format!("images/{image}.qcow2"), FoundKind::Base);
    stray(&fleet, &format!("images/{image}.json"), FoundKind::File);
    stray(&fleet, "images/notes.txt", FoundKind::File);
    stray(&fleet, "core", FoundKind::File);
    stray(&fleet, "vms/link", FoundKind::Other);
    stray(&fleet, &format!("vms/{}/disk0.3.qcow2", web.id()), FoundKind::Base);
    fleet.host.lose_file(&format!("vms/{}/disk0.qcow2", web.id()));
    fleet.host.lose_file(&format!("images/{tiny}.qcow2"));
    let ids = [
        (web.id().to_string(), "WEB01"),
        (gone_id.to_string(), "GONE"),
        (lost.to_string(), "LOST"),
        (image.to_string(), "IMAGE"),
        (tiny.to_string(), "TINY"),
    ];
    let mut lines: Vec<String> =
        told(&check(&fleet).await, &ids).lines().map(str::to_owned).collect();
    lines.sort();
    expect![[r#"
        file core files 1 adopt false used by []: -
        file images/notes.txt files 1 adopt false used by []: -
        file vms/WEB01/disk0.3.qcow2 files 1 adopt false used by []: in the directory of vm `web01`, which does not have it
        file vms/link files 1 adopt false used by []: no plain file and no directory
        image images/IMAGE.qcow2 files 2 adopt true used by ["vms/LOST/root.qcow2"]: -
        image/tiny missing images/TINY.qcow2: the image is missing
        vm vms/GONE files 3 adopt true used by []: -
        vm vms/LOST files 1 adopt false used by []: without a definition
        vm/web01 missing vms/WEB01/disk0.qcow2: disk disk0 needs it, and it is missing"#]].assert_eq(&lines.join("\n"));
}

#[tokio::test]
async fn orphans_are_adopted_or_removed() {
    let fleet = Fleet::new().await;
    let gone = fleet.vm("gone").await.id();
    let task = vm::unregister(&fleet.world, &root(), &"gone".parse().unwrap(), &plain()).await;
    fleet.done(&task.unwrap()).await;
    let (image, other) = (ImageId::generate(), ImageId::generate());
    let (path, other) = (format!("images/{image}.qcow2"), format!("images/{other}.qcow2"));
    stray(&fleet, &path, FoundKind::Base);
    stray(&fleet, "junk", FoundKind::File);
    stray(&fleet, &other, FoundKind::Base);
    let child = format!("vms/{}/root.qcow2", VmId::generate());
    stray(&fleet, &child, FoundKind::Overlay(other.parse().unwrap()));

    adopt(&fleet, &format!("vms/{gone}"), Some("back")).await.unwrap();
    assert_eq!(fleet.show("back").id(), gone);
    adopt(&fleet, &path, Some("found")).await.unwrap();
    let found = fleet.snapshot().find::<ImageKind>(&"found".parse().unwrap()).unwrap().clone();
    assert_eq!((found.id(), found.status.state), (image, hostler_types::ImageState::Ready));

    let refused = [
        (adopt(&fleet, "junk", None).await, "wrong_state"),
        (adopt(&fleet, "nothing", None).await, "not_found"),
        (adopt(&fleet, &other, Some("found")).await, "name_taken"),
        (remove(&fleet, &[&other]).await, "in_use"),
        (remove(&fleet, &[&format!("vms/{gone}")]).await, "not_found"),
        (remove(&fleet, &[]).await, "invalid"),
    ];
    for (number, (result, code)) in refused.into_iter().enumerate() {
        assert_eq!(result.unwrap_err().code, code, "{number}");
    }
    remove(&fleet, &["junk"]).await.unwrap();
    let left: Vec<_> = check(&fleet).await.orphans.into_iter().map(|o| o.path).collect();
    assert!(!left.contains(&"junk".to_owned()) && left.contains(&other), "{left:?}");
}

/// The store was restored from a backup that is older than a VM: its host has it, its files lie on a
/// shared datastore, and nobody else knows.
#[tokio::test]
async fn what_another_host_has_is_neither_adopted_nor_removed() {
    let fleet = Fleet::new().await;
    let other = fleet.join("other").await;
    let world = &fleet.world;
    let request = datastore::DatastoreCreate {
        name: "nfs".parse().unwrap(),
        labels: Labels::new(),
        hosts: vec!["sim".parse().unwrap(), "other".parse().unwrap()],
        kind: StorageKind::Shared,
        limits: DatastoreLimits::default(),
        path: "/mnt/nfs".to_owned(),
    };
    let nfs = datastore::create(world, &root(), request).await.unwrap();
    let (store, id) = (nfs.reference(), VmId::generate());
    let mut unknown = fleet.host.vm(fleet.vm("web01").await.id()).unwrap();
    let vm = &mut unknown.definition.vm;
    (vm.metadata.id, vm.metadata.name) = (id, "unknown".parse().unwrap());
    vm.status.datastore = nfs.id();
    vm.spec.nics.clear();
    // Its files are seen from both hosts.
    fleet.host.plant(unknown.clone());
    fleet.host.lose(id);
    other.plant(unknown);
    let path = format!("vms/{id}");
    let paths = [path.clone()];
    let (actor, plain, own) = (root(), plain(), Ref::by_id(id));
    let adopt = || datastore::adopt(world, &actor, &store, &path, None, &plain);
    let remove = || datastore::remove_orphans(world, &actor, &store, &paths, &plain);
    let register = || {
        let request = vm::VmRegister { datastore: store.clone(), vm: own.clone(), name: None };
        vm::register(world, &actor, request, &plain)
    };
    let found = async || {
        let found = datastore::check_files(world, &actor, &store).await.unwrap();
        let orphan = found.orphans.into_iter().find(|orphan| orphan.path == path).unwrap();
        (orphan.host.map(|host| host.to_string()), orphan.adoptable, orphan.registered, orphan.note)
    };

    let mut text = String::new();
    text += &format!("{}\n", adopt().await.unwrap_err().message);
    text += &format!("{}\n", remove().await.unwrap_err().message);
    text += &format!("{}\n", register().await.unwrap_err().message);
    other.change(id, |vm| vm.message = Some("it tells of itself".to_owned()));
    while found().await.0.is_none() {
        tokio::task::yield_now().await;
    }
    text += &format!("{:?}\n", found().await);
    assert_eq!(vm::unregistered(world, &actor, &store).await.unwrap(), []);

    // A host that does not answer may have it.
    other.disconnect();
    let snapshot = |state| {
        let other = other.id();
        move |now: &hostler_control::Snapshot| {
            now.get::<HostKind>(other).unwrap().status.state == state
        }
    };
    fleet.until("it is away", snapshot(HostState::Disconnected)).await;
    for error in
        [adopt().await.unwrap_err(), remove().await.unwrap_err(), register().await.unwrap_err()]
    {
        assert_eq!(error.code, "host_disconnected");
        text += &format!("{}\n", error.message.split(" since ").next().unwrap());
    }
    other.reconnect();
    fleet.until("it is back", snapshot(HostState::Connected)).await;
    assert!(fleet.host.files().contains(&id));

    // Nobody has it any more, and its definition still says that somebody does.
    other.lose(id);
    while found().await.0.is_some() {
        tokio::task::yield_now().await;
    }
    text += &format!("{:?}\n", found().await);
    fleet.done(&remove().await.unwrap()).await;
    assert!(!fleet.host.files().contains(&id));
    expect![[r#"
        `vms/UNKNOWN` cannot be adopted: host `other` has this VM, which is not in the inventory
        `vms/UNKNOWN` is in use: host `other` has this VM
        vm `unknown` is not registered: host `other` has it, and may run it
        (Some("other"), false, true, Some("host `other` has this VM, which is not in the inventory"))
        host `other` has datastore `nfs` too, and does not say which VMs it has there: the host `other` does not answer
        host `other` has datastore `nfs` too, and does not say which VMs it has there: the host `other` does not answer
        host `other` has datastore `nfs` too, and does not say which VMs it has there: the host `other` does not answer
        (None, true, true, Some("its definition says that an inventory has it"))
    "#]].assert_eq(&text.replace(&id.to_string(), "UNKNOWN"));
}

/// Its agent has started it again, on a new layer, and the server has not heard of it yet.
#[tokio::test]
async fn a_file_that_the_vms_host_has_is_not_removed() {
    let fleet = Fleet::new().await;
    let web = fleet.vm("web01").await;
    let mut grown = fleet.host.vm(web.id()).unwrap();
    grown.storage = SimStorage::with_snapshots(web.id(), &web.spec, &["one"]);
    fleet.host.plant(grown);
    let layer = format!("vms/{}/disk0.1.qcow2", web.id());
    let error = remove(&fleet, &[&layer]).await.unwrap_err();
    assert_eq!(error.code, "not_found");
    let stray_one = format!("vms/{}/disk0.7.qcow2", web.id());
    stray(&fleet, &stray_one, FoundKind::Base);
    remove(&fleet, &[&stray_one]).await.unwrap();
}

#[tokio::test]
async fn a_refused_adoption_leaves_the_file_where_it_is() {
    let fleet = Fleet::new().await;
    let path = format!("images/{}.qcow2", ImageId::generate());
    stray(&fleet, &path, FoundKind::Base);
    let problem = hostler_endpoint::Problem::new(422, "image_refused", "it needs another file");
    fleet.host.fault("image_import", hostler_sim::Fault::Refuse(problem));
    let name = "bad".parse().unwrap();
    let (world, actor, store) = (&fleet.world, root(), local());
    let task = datastore::adopt(world, &actor, &store, &path, Some(&name), &plain()).await.unwrap();
    assert_eq!(fleet.ended(&task).await.status.state, TaskState::Failed);
    assert!(fleet.snapshot().find::<ImageKind>(&"bad".parse().unwrap()).is_err());
    assert_eq!(check(&fleet).await.orphans[0].path, path);
    assert_eq!(fleet.host.times_done("image_remove"), 0);
}

#[tokio::test]
async fn a_deletion_that_the_files_forbid_fails_before_anything_is_gone() {
    let fleet = Fleet::new().await;
    let web = fleet.vm("web01").await;
    let user = |text: &str| FileUser { vm: None, text: text.to_owned() };
    fleet.host.plant_user(FileOwner::Vm(web.id()), user("a.qcow2 lies on disk0"));
    let now = vm::VmDelete { now: true, ..vm::VmDelete::default() };
    let task = vm::delete(&fleet.world, &root(), &web.reference(), now, &plain()).await.unwrap();
    let ended = fleet.ended(&task).await;
    assert_eq!(ended.status.state, TaskState::Failed, "{ended:?}");
    assert_eq!(ended.status.error_code.as_deref(), Some("in_use"));
    assert_eq!(ended.status.error.as_deref(), Some("a.qcow2 lies on disk0"));
    assert_eq!(fleet.host.times_done("vm_remove"), 0);

    let fresh = Fleet::new().await;
    let image = fresh.image("tiny").await;
    fresh.host.plant_user(FileOwner::Image(image.id()), user("b.qcow2 lies on it"));
    let task = image::delete(&fresh.world, &root(), &image.reference(), &plain()).await.unwrap();
    assert_eq!(fresh.ended(&task).await.status.error_code.as_deref(), Some("in_use"));
    assert_eq!(fresh.host.times_done("image_remove"), 0);
}

/// It has destroyed nothing, but the guest had lost its disk, and the VM was locked for good.
#[tokio::test]
async fn a_disk_that_others_lie_on_is_not_unplugged() {
    let fleet = Fleet::new().await;
    let before = fleet.running_vm("web01").await;
    let (world, actor, web) = (&fleet.world, root(), before.reference());
    let disk = "disk0".parse().unwrap();
    let file = LayerFile::disk(before.id(), &disk, 0);
    let text = "a.qcow2 lies on disk0".to_owned();
    fleet.host.plant_user(FileOwner::File(file), FileUser { vm: None, text });
    let defined = fleet.host.times_done("vm_define");
    let task = vm::disk::remove(world, &actor, &web, &disk, yes(), &plain()).await.unwrap();
    let ended = fleet.ended(&task).await;
    assert_eq!(ended.status.state, TaskState::Failed, "{ended:?}");
    assert_eq!(ended.status.error.as_deref(), Some("a.qcow2 lies on disk0"));
    assert_eq!(fleet.show("web01").spec, before.spec);
    assert_eq!(fleet.host.times_done("vm_define"), defined);

    // What the inventory knows is refused at once, by name.
    let clone = serde_json::json!({"mode": "linked", "name": "child"});
    let off = vm::VmStop { mode: StopMode::PowerOff, timeout_seconds: None };
    let stop = vm::stop(world, &actor, &web, off, &plain()).await.unwrap();
    fleet.done(&stop).await;
    let clone = serde_json::from_value(clone).unwrap();
    let cloned = vm::clone(world, &actor, vm::CloneOf::Vm(&web), clone, &plain()).await.unwrap();
    let removed = vm::disk::remove(world, &actor, &web, &disk, yes(), &plain()).await;
    let error = removed.unwrap_err();
    let message = "disk `disk0` of vm `web01` is needed by `child` (its disk disk0 is just being \
                   made of a disk of `web01`)";
    assert_eq!((error.code, error.message.as_str()), ("in_use", message));
    fleet.done(&cloned.task.unwrap()).await;
    let removed = vm::disk::remove(world, &actor, &web, &disk, yes(), &plain()).await;
    assert!(removed.unwrap_err().message.contains("`child` (its disk disk0 lies on a disk"));
}

#[tokio::test]
async fn a_datastore_that_is_not_mounted_refuses_a_deletion_at_once() {
    let fleet = Fleet::new().await;
    let web = fleet.vm("web01").await;
    let missing = hostler_endpoint::Problem::new(503, "datastore_missing", "it is not mounted");
    fleet.host.fault("datastore_users", hostler_sim::Fault::Refuse(missing));
    let now = vm::VmDelete { now: true, ..vm::VmDelete::default() };
    let task = vm::delete(&fleet.world, &root(), &web.reference(), now, &plain()).await.unwrap();
    let ended = fleet.ended(&task).await;
    assert_eq!(ended.status.error_code.as_deref(), Some("datastore_missing"), "{ended:?}");
    assert_eq!(ended.status.state, TaskState::Failed);
    assert!(fleet.host.vm(web.id()).is_some());
}

#[tokio::test]
async fn a_change_that_an_unmounted_datastore_refuses_is_taken_back() {
    let fleet = Fleet::new().await;
    let before = fleet.vm("web01").await;
    let missing = || hostler_endpoint::Problem::new(503, "datastore_missing", "it is not mounted");
    // The change, and its taking back.
    fleet.host.fault("vm_define", hostler_sim::Fault::Refuse(missing()));
    fleet.host.fault("vm_define", hostler_sim::Fault::Refuse(missing()));
    let disk = serde_json::from_value(serde_json::json!({"size": "1GiB"})).unwrap();
    let (world, actor, web) = (&fleet.world, root(), before.reference());
    let added = vm::disk::add(world, &actor, &web, &disk, &plain()).await;
    let ended = fleet.ended(&added.unwrap()).await;
    assert_eq!(ended.status.state, TaskState::Failed, "{ended:?}");
    assert_eq!(ended.status.error_code.as_deref(), Some("datastore_missing"));
    assert_eq!(fleet.show("web01").spec, before.spec);
}

fn yes() -> vm::disk::Removal {
    vm::disk::Removal { delete_data: true, force: false }
}
