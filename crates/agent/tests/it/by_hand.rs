//! What people do to a datastore behind the agent's back: files that are deleted, a file system that
//! is unmounted. It is said what lacks; nothing is made up for it, and nothing more is lost.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hostler_agent_api as api;
use hostler_agent_api::{DatastoreCheck, DatastorePath, VmPath};
use hostler_endpoint::{NoParams, Problem};
use hostler_types::{
    ByteSize, DatastoreState, DiskSource, ImageId, PowerState, SnapshotId, StopMode, VmId,
};

use crate::clones::{define, disk0, family, fill, flatten_as, shows};
use crate::snapshots::{
    How, blank, delete, delete_as, files, place, revert_as, snapshot, snapshot_as,
};
use crate::world::{World, command, eventually, long, problem, within};

async fn off(world: &World, vm: VmId) {
    world.stop(vm, StopMode::PowerOff, 0).await.unwrap();
}

#[tokio::test]
async fn qemu_a_parent_deleted_by_hand_is_missed_by_name() {
    let world = World::start().await;
    let (parent, mut child) = family(&world, 4).await;
    let (one, two) = (parent.vm.id(), child.vm.id());
    world.vm_start(two).await.unwrap();
    let base = place(&world, &disk0(one, 0));
    let kept = std::fs::read(&base).unwrap();
    std::fs::remove_file(&base).unwrap();

    // Whose process has it open runs on; what needs to read it is refused and changes nothing.
    let missing = |what: &str, refused: Problem| {
        assert!(refused.detail.contains("disk0.qcow2"), "{what}: {refused:?}");
        assert!(refused.detail.contains(&one.to_string()), "{what}: {refused:?}");
    };
    let how = How::default();
    let refused = snapshot_as(&world, two, command(1), SnapshotId::generate(), how).await;
    missing("a snapshot", refused.unwrap_err());
    missing("a clone", world.freeze(two, None).await.unwrap_err());
    missing("flattening", flatten_as(&world, two, command(1), None).await.unwrap_err());
    let report = world.report(two).await.unwrap();
    assert_eq!((report.power, report.disks[0].layers.len()), (PowerState::Running, 2));
    off(&world, two).await;
    missing("the clone's start", world.vm_start(two).await.unwrap_err());
    missing(
        "a snapshot of it",
        snapshot_as(&world, two, command(1), SnapshotId::generate(), how).await.unwrap_err(),
    );
    missing("its flattening", flatten_as(&world, two, command(1), None).await.unwrap_err());
    missing("the parent's start", world.vm_start(one).await.unwrap_err());
    child.vm.spec.disks[0].size = ByteSize::gib(2);
    missing("the clone's growing", define(&world, command(1), &child).await.unwrap_err());
    let mut grown = parent.clone();
    grown.vm.spec.disks[0].size = ByteSize::gib(2);
    missing("the parent's growing", define(&world, command(1), &grown).await.unwrap_err());
    assert!(!base.exists(), "nobody makes up a disk for it");
    assert_eq!(files(&world, two), ["disk0.qcow2"]);

    // Put back, all is as it was.
    std::fs::write(&base, &kept).unwrap();
    hostler_host::volume::lend(&base).unwrap();
    world.vm_start(two).await.unwrap();
    off(&world, two).await;
    assert!(shows(&place(&world, &disk0(two, 0)), 7, 0, 4));

    // Without it, the clone can at least be removed, and the parent after it.
    std::fs::remove_file(&base).unwrap();
    world.remove(two, false, false).await.unwrap();
    world.remove(one, false, false).await.unwrap();
    world.assert_nothing_left();
}

/// A file beneath snapshots, and the only one of a disk.
#[tokio::test]
async fn qemu_no_disk_is_made_up_in_place_of_one_that_was_deleted_by_hand() {
    let world = World::start().await;
    let mut definition = crate::clones::parent(&world, 4).await;
    let vm = definition.vm.id();
    let (id, _) = snapshot(&world, vm, How::default()).await;
    fill(&place(&world, &disk0(vm, 1)), 9, 4, 4);
    let base = place(&world, &disk0(vm, 0));
    let aside = world.path("aside");
    std::fs::rename(&base, &aside).unwrap();
    definition.vm.spec.disks[0].size = ByteSize::gib(2);
    let refusals = [
        ("growing", define(&world, command(1), &definition).await.map(drop)),
        ("a start", world.vm_start(vm).await.map(drop)),
        ("a return", revert_as(&world, vm, command(1), id, None).await.map(drop)),
        ("a merge", delete_as(&world, vm, command(1), &[id], None).await.map(drop)),
    ];
    for (what, answer) in refusals {
        let refused = answer.expect_err(what);
        assert!(refused.detail.contains("disk0.qcow2"), "{what}: {refused:?}");
    }
    assert!(!base.exists());
    std::fs::rename(&aside, &base).unwrap();
    delete(&world, vm, &[]).await;
    assert_eq!(files(&world, vm), ["disk0.qcow2"]);
    assert!(shows(&base, 7, 0, 4) && shows(&base, 9, 4, 4));

    // The only file; the VM has been changed while it ran, so that its files are looked through.
    world.vm_start(vm).await.unwrap();
    definition.vm.spec.disks[0].size = ByteSize::gib(1);
    definition.vm.spec.disks.push(blank("log", ByteSize::mib(16)));
    definition.vm.spec.firmware = hostler_types::Firmware::Uefi;
    define(&world, command(1), &definition).await.unwrap();
    off(&world, vm).await;
    std::fs::rename(&base, &aside).unwrap();
    let refused = world.vm_start(vm).await.unwrap_err();
    assert!(refused.detail.contains("disk0.qcow2"), "{refused:?}");
    let how = How::default();
    let refused = snapshot_as(&world, vm, command(1), SnapshotId::generate(), how).await;
    assert!(refused.unwrap_err().detail.contains("disk0.qcow2"));
    assert!(!base.exists());
    std::fs::rename(&aside, &base).unwrap();
    world.vm_start(vm).await.unwrap();
    off(&world, vm).await;
    assert!(shows(&base, 7, 0, 4) && shows(&base, 9, 4, 4));
    world.remove(vm, false, false).await.unwrap();
    world.assert_nothing_left();
}

/// A directory that is mounted where a datastore is, and can be taken away.
struct Mount(PathBuf);

impl Mount {
    fn bind(from: &Path, to: &Path) -> Self {
        let mut mount = Command::new("mount");
        assert!(mount.arg("--bind").args([from, to]).status().unwrap().success(), "it needs root");
        Self(to.to_owned())
    }

    fn unmount(&self) {
        let mut umount = Command::new("umount");
        assert!(umount.arg("--lazy").arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// An agent was killed while it made a VM, and the next one starts without the datastore: it can tell
/// neither that there is a VM nor that there is none, and does not say that it was made.
#[tokio::test]
async fn a_creation_is_open_until_its_datastore_is_back() {
    let mut world = World::prepare();
    let (real, point) = (world.path("real"), world.path("store"));
    for folder in [&real, &point] {
        std::fs::create_dir(folder).unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(folder, open).unwrap();
    }
    let mut mounted = Some(Mount::bind(&real, &point));
    world.start_agent().await;
    world.ensure_datastore().await.unwrap();
    for (case, half_made) in [("half made", true), ("made", false)] {
        let (definition, op) = (world.vm(DiskSource::Blank), command(1));
        let vm = definition.vm.id();
        world.create_as(op, &definition).await.unwrap();
        let disk = place(&world, &disk0(vm, 0));
        fill(&disk, 7, 0, 4);
        world.end_agent().await;
        if half_made {
            // Of a creation the definition is written last.
            std::fs::remove_file(disk.with_file_name("vm.json")).unwrap();
        }
        drop(mounted.take());
        world.start_agent().await;
        let open = |report: &api::VmReport| report.message.is_some();
        let report = world.wait_for("it is said that this is open", vm, open).await;
        assert_eq!(report.power, PowerState::Unknown, "{case}: {report:?}");
        assert!(report.message.unwrap().contains("datastore"), "{case}");
        for _ in 0..2 {
            let again = world.create_as(op, &definition).await.unwrap_err();
            assert_eq!(again.code, "unsettled", "{case}: {again:?}");
            assert_eq!(world.vm_start(vm).await.unwrap_err().code, "unsettled", "{case}");
        }
        mounted = Some(Mount::bind(&real, &point));
        let made = world.create_as(op, &definition).await.unwrap();
        assert_eq!(made.power, PowerState::Stopped, "{case}");
        assert_eq!(shows(&disk, 7, 0, 4), !half_made, "{case}: what is made is not made again");
        world.remove(vm, false, false).await.unwrap();
        assert!(world.report(vm).await.is_none());
    }
    drop(mounted);
}

/// Nothing is written to the mount point, the guest runs on, and all works when it is back.
#[tokio::test]
async fn qemu_an_unplugged_datastore_is_never_written_to() {
    let mut world = World::prepare();
    let (real, point) = (world.path("real"), world.path("store"));
    for folder in [&real, &point] {
        std::fs::create_dir(folder).unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(folder, open).unwrap();
    }
    let mounted = Mount::bind(&real, &point);
    world.start_agent().await;
    world.ensure_datastore().await.unwrap();
    let (parent, child) = family(&world, 4).await;
    let (one, two) = (parent.vm.id(), child.vm.id());
    let (id, _) = snapshot(&world, two, How::default()).await;
    world.vm_start(two).await.unwrap();
    mounted.unmount();

    let gone = |what: &str, refused: Problem| {
        assert_eq!(refused.code, "datastore_missing", "{what}: {refused:?}");
    };
    let (new, path) = (world.vm(DiskSource::Blank), VmPath { vm: two });
    let mut grown = parent.clone();
    grown.vm.spec.disks[0].size = ByteSize::gib(2);
    let mut plugged = child.clone();
    plugged.vm.spec.disks.push(blank("log", ByteSize::mib(16)));
    let (how, with_memory) = (How::default(), How { memory: true, quiesce: false });
    let new_id = SnapshotId::generate;
    gone("a creation", world.create(&new).await.unwrap_err());
    gone("a start", world.vm_start(one).await.unwrap_err());
    gone("growing", define(&world, command(1), &grown).await.unwrap_err());
    for how in [how, with_memory] {
        let asked = snapshot_as(&world, two, command(1), new_id(), how).await;
        gone("a snapshot", asked.unwrap_err());
    }
    gone("a return", revert_as(&world, two, command(1), id, None).await.unwrap_err());
    gone("a deletion", delete_as(&world, two, command(1), &[id], None).await.unwrap_err());
    gone("flattening", flatten_as(&world, two, command(1), None).await.unwrap_err());
    gone("lending", world.freeze(two, None).await.unwrap_err());
    gone("a removal", world.remove(one, false, false).await.unwrap_err());
    let suspend = world.client.call_with::<api::VmSuspend>(&path, &NoParams {}, command(1), long());
    gone("suspending", problem(suspend.await.unwrap_err()));
    gone("an upload", world.upload_at(ImageId::generate(), 0, b"x").await.unwrap_err());
    let _ = define(&world, command(1), &plugged).await;
    let check =
        DatastoreCheck { path: point.to_str().unwrap().to_owned(), create: false, shared: false };
    let ensure = DatastorePath { datastore: world.datastore };
    let report = world.client.call::<api::DatastoreEnsure>(&ensure, &NoParams {}, check).await;
    assert_eq!(report.unwrap().state, DatastoreState::Missing);
    assert_eq!(std::fs::read_dir(&point).unwrap().count(), 0, "nothing is on the mount point");
    let report = world.report(two).await.unwrap();
    assert_eq!(report.power, PowerState::Running, "{report:?}");

    // Another agent finds the guest as it runs, and does not take its VMs for gone.
    world.end_agent().await;
    world.start_agent().await;
    assert_eq!(world.found(two).await.power, PowerState::Running);
    assert_eq!(world.found(one).await.power, PowerState::Stopped);
    within(Duration::from_secs(60), off(&world, two)).await;
    gone("its start", world.vm_start(two).await.unwrap_err());
    assert_eq!(std::fs::read_dir(&point).unwrap().count(), 0, "nothing is on the mount point");

    let _mounted = Mount::bind(&real, &point);
    eventually("it is back", Duration::from_secs(10), async || world.vm_start(two).await.ok())
        .await;
    off(&world, two).await;
    let report = delete(&world, two, &[id]).await;
    assert_eq!(report.disks[0].layers.len(), 2, "{report:?}");
    assert!(shows(&place(&world, &disk0(two, 0)), 7, 0, 4));
    assert_eq!(files(&world, two), ["disk0.qcow2"]);
    world.remove(two, false, false).await.unwrap();
    world.remove(one, false, false).await.unwrap();
    world.assert_nothing_left();
}
