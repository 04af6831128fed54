//! Disks that lie on another VM's, and disks that are copies of them.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hostler_agent_api as api;
use hostler_agent_api::{VmDefinition, VmPath, VmReport};
use hostler_endpoint::{NoParams, Problem};
use hostler_host::uid::{IMAGE_GID, VM_UID_BASE};
use hostler_types::{
    ByteSize, CopySource, DatastoreId, DiskSource, LayerFile, OperationId, PowerState, VmId,
};

use crate::full::Small;
use crate::world::{World, command, eventually, long, problem};

/// Writes `count` MiB of a byte from `at` MiB on.
pub(crate) fn fill(disk: &Path, byte: u8, at: u32, count: u32) {
    assert!(qemu_io(disk, &format!("write -P {byte} {at}M {count}M"), &[]), "{}", disk.display());
}

/// Whether `count` MiB from `at` MiB on are this byte.
pub(crate) fn shows(disk: &Path, byte: u8, at: u32, count: u32) -> bool {
    qemu_io(disk, &format!("read -P {byte} {at}M {count}M"), &["-r"])
}

fn qemu_io(disk: &Path, what: &str, options: &[&str]) -> bool {
    let mut qemu_io = Command::new("qemu-io");
    qemu_io.args(options).args(["-f", "qcow2", "-c", what]).arg(disk);
    qemu_io.stdout(Stdio::null()).status().unwrap().success()
}

pub(crate) fn layers(report: &VmReport) -> Vec<String> {
    report.disks[0].layers.iter().map(|layer| layer.file.to_string()).collect()
}

fn file(world: &World, file: &LayerFile) -> PathBuf {
    world.path("store").join(file.as_str())
}

pub(crate) fn disk0(vm: VmId, number: u32) -> LayerFile {
    LayerFile::disk(vm, &"disk0".parse().unwrap(), number)
}

/// User, group and mode.
fn access(path: &Path) -> (u32, u32, u32) {
    let metadata = std::fs::metadata(path).unwrap();
    (metadata.uid(), metadata.gid(), metadata.mode() & 0o777)
}

pub(crate) async fn define(
    world: &World,
    command: api::VmCommand,
    definition: &VmDefinition,
) -> Result<VmReport, Problem> {
    let request = api::VmDefineRequest::new(command, definition.clone());
    let path = VmPath { vm: definition.vm.id() };
    let answer = world.client.call_with::<api::VmDefine>(&path, &NoParams {}, request, long());
    answer.await.map_err(problem)
}

/// A VM with a disk that has something on it, off.
pub(crate) async fn parent(world: &World, mib: u32) -> VmDefinition {
    let parent = world.vm(DiskSource::Blank);
    world.create(&parent).await.unwrap();
    fill(&file(world, &disk0(parent.vm.id(), 0)), 7, 0, mib);
    parent
}

pub(crate) fn copy_of(world: &World, parent: &VmDefinition) -> VmDefinition {
    let (datastore, file) = (world.datastore, disk0(parent.vm.id(), 0));
    world.vm(DiskSource::Copy(CopySource { datastore, file }))
}

#[tokio::test]
async fn a_linked_clone_keeps_what_its_parent_had() {
    let world = World::start().await;
    let mut parent = parent(&world, 4).await;
    let (vm, base) = (parent.vm.id(), disk0(parent.vm.id(), 0));
    let private = access(&file(&world, &base));
    assert!(private.0 >= VM_UID_BASE && private.2 == 0o600, "{private:?}");

    // What may still be written to is not lain on.
    let child = world.vm(DiskSource::Linked(base.clone()));
    let refused = world.create(&child).await.unwrap_err();
    assert_eq!(refused.code, "wrong_state", "{refused:?}");
    assert!(!world.path("store/vms").join(child.vm.id().to_string()).exists());

    let frozen = world.freeze(vm, None).await.unwrap();
    assert_eq!(frozen.disks.len(), 1);
    assert_eq!(frozen.disks[0].layers, std::slice::from_ref(&base));
    assert_eq!(access(&file(&world, &base)), (0, IMAGE_GID, 0o640), "read by all, written by none");
    let report = world.create(&child).await.unwrap();
    let own = disk0(child.vm.id(), 0);
    assert_eq!(layers(&report), [own.to_string(), base.to_string()]);
    assert!(shows(&file(&world, &own), 7, 0, 4));

    // The parent goes on in a layer of its own.
    parent.vm.spec.disks[0].size = ByteSize::gib(2);
    let report = define(&world, command(1), &parent).await.unwrap();
    let active = disk0(vm, 1);
    assert_eq!(layers(&report), [active.to_string(), base.to_string()]);
    fill(&file(&world, &active), 9, 0, 4);
    assert!(shows(&file(&world, &own), 7, 0, 4), "the child does not see it");

    // A clone of the clone stands on all of them.
    world.freeze(child.vm.id(), None).await.unwrap();
    let grandchild = world.vm(DiskSource::Linked(own.clone()));
    let report = world.create(&grandchild).await.unwrap();
    let top = disk0(grandchild.vm.id(), 0);
    assert_eq!(layers(&report), [top.to_string(), own.to_string(), base.to_string()]);
    assert!(shows(&file(&world, &top), 7, 0, 4));
}

#[tokio::test]
async fn what_was_lent_is_given_back_when_nothing_lies_on_it() {
    let world = World::start().await;
    let mut parent = parent(&world, 1).await;
    let (vm, base) = (parent.vm.id(), disk0(parent.vm.id(), 0));
    let private = access(&file(&world, &base));
    world.freeze(vm, None).await.unwrap();
    let (one, two) =
        (world.vm(DiskSource::Linked(base.clone())), world.vm(DiskSource::Linked(base.clone())));
    let (first, second) = tokio::join!(world.create(&one), world.create(&two));
    first.and(second).unwrap();
    world.remove(one.vm.id(), false, false).await.unwrap();
    assert_eq!(access(&file(&world, &base)), (0, IMAGE_GID, 0o640), "the other one needs it");
    // Whoever was just lent something may not have come to use it yet: that long it stays lent.
    let lent = std::fs::metadata(file(&world, &base)).unwrap().ctime();
    eventually("the lending is some seconds old", Duration::from_secs(20), async || {
        (jiff::Timestamp::now().as_second() > lent + 6).then_some(())
    })
    .await;
    // While another VM's file says nothing of what it lies on, the parent still gets a layer.
    let damaged = world.vm(DiskSource::Blank);
    world.create(&damaged).await.unwrap();
    std::fs::write(file(&world, &disk0(damaged.vm.id(), 0)), "nonsense").unwrap();
    parent.vm.spec.disks[0].size = ByteSize::gib(2);
    let report = define(&world, command(1), &parent).await.unwrap();
    assert_eq!(layers(&report), [disk0(vm, 1).to_string(), base.to_string()]);
    world.remove(damaged.vm.id(), false, false).await.unwrap();

    world.remove(two.vm.id(), false, false).await.unwrap();
    assert_eq!(access(&file(&world, &base)), private);
}

#[tokio::test]
async fn a_full_clone_is_independent() {
    let world = World::start().await;
    let parent = parent(&world, 8).await;
    let vm = parent.vm.id();
    world.freeze(vm, None).await.unwrap();
    let mut clone = copy_of(&world, &parent);
    clone.vm.spec.disks[0].size = ByteSize::gib(3);
    let report = world.create(&clone).await.unwrap();
    let own = disk0(clone.vm.id(), 0);
    assert_eq!(layers(&report), [own.to_string()]);
    assert!(report.disks[0].allocated < ByteSize::mib(10), "{report:?}");
    let path = file(&world, &own);
    assert_eq!(hostler_host::volume::virtual_size(&path).unwrap(), ByteSize::gib(3));
    assert!(shows(&path, 7, 0, 8) && shows(&path, 0, 8, 100));
    assert_eq!(access(&path).2, 0o600);
    world.remove(vm, false, false).await.unwrap();
    assert!(shows(&path, 7, 0, 8));
}

#[tokio::test]
async fn a_copy_that_is_cut_short_leaves_nothing() {
    let mut world = World::start_process().await;
    let parent = parent(&world, 400).await;
    world.freeze(parent.vm.id(), None).await.unwrap();

    // Cancelled.
    let clone = copy_of(&world, &parent);
    let as_command = command(1);
    let (answer, ()) = tokio::join!(world.create_as(as_command, &clone), async {
        copying(&world, clone.vm.id()).await;
        cancel(&world, as_command.op).await;
    });
    assert_eq!(answer.unwrap_err().code, "cancelled");
    assert!(!world.path("store/vms").join(clone.vm.id().to_string()).exists());

    // Killed.
    let clone = copy_of(&world, &parent);
    let request = api::VmCreateRequest { command: as_command, definition: clone.clone() };
    let path = VmPath { vm: clone.vm.id() };
    let client = world.client.clone();
    let call =
        tokio::spawn(
            async move { client.call::<api::VmCreate>(&path, &NoParams {}, request).await },
        );
    copying(&world, clone.vm.id()).await;
    world.end_agent().await;
    assert!(call.await.unwrap().is_err());
    world.spawn_agent().await;
    assert!(!world.path("store/vms").join(clone.vm.id().to_string()).exists());
    let copiers = Command::new("pgrep").args(["-f", &clone.vm.id().to_string()]).output().unwrap();
    assert!(copiers.stdout.is_empty(), "the program that copied has ended with its agent");

    // Asked again.
    let report = world.create_as(command(1), &clone).await.unwrap();
    assert_eq!(report.power, PowerState::Stopped);
    assert!(shows(&file(&world, &disk0(clone.vm.id(), 0)), 7, 0, 400));
    let folder = world.path("store/vms").join(clone.vm.id().to_string());
    let hidden = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.unwrap().file_name().to_string_lossy().starts_with('.')
    };
    assert!(!std::fs::read_dir(folder).unwrap().any(hidden));
}

#[tokio::test]
async fn a_full_datastore_takes_no_copy() {
    let world = World::start().await;
    let parent = parent(&world, 60).await;
    world.freeze(parent.vm.id(), None).await.unwrap();
    let small = Small::mount(&world.path("small"), 100 << 20);
    let datastore = DatastoreId::generate();
    let check = api::DatastoreCheck {
        path: small.path().to_str().unwrap().to_owned(),
        create: true,
        shared: false,
    };
    let path = api::DatastorePath { datastore };
    world.client.call::<api::DatastoreEnsure>(&path, &NoParams {}, check).await.unwrap();
    let mut clone = copy_of(&world, &parent);
    clone.vm.status.datastore = datastore;
    let refused = world.create(&clone).await.unwrap_err();
    assert_eq!(refused.code, "no_space", "{refused:?}");
    assert_eq!(std::fs::read_dir(small.path().join("vms")).unwrap().count(), 0);

    // With room it goes across datastores.
    small.resize(300 << 20);
    world.create(&clone).await.unwrap();
    assert!(shows(&small.path().join(disk0(clone.vm.id(), 0).as_str()), 7, 0, 60));
}

pub(crate) async fn cancel(world: &World, op: OperationId) {
    let path = api::OperationPath { op };
    world.client.call::<api::OperationCancel>(&path, &NoParams {}, ()).await.unwrap();
}

/// Waits until a VM's disk is being copied: a temporary file grows in its directory.
pub(crate) async fn copying(world: &World, vm: VmId) {
    let folder = world.path("store/vms").join(vm.to_string());
    let begin = std::time::Instant::now();
    loop {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let hidden = entry.file_name().to_string_lossy().starts_with(".tmp");
            if hidden && entry.metadata().is_ok_and(|file| file.blocks() > 8 << 11) {
                return;
            }
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "nothing is being copied");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) async fn flatten_as(
    world: &World,
    vm: VmId,
    command: api::VmCommand,
    max_rate: Option<u64>,
) -> Result<VmReport, Problem> {
    let request = api::VmFlattenRequest { command, disks: Vec::new(), max_rate };
    let path = VmPath { vm };
    let answer = world.client.call_with::<api::VmFlatten>(&path, &NoParams {}, request, long());
    answer.await.map_err(problem)
}

/// A linked clone of a VM that has so much on its disk.
pub(crate) async fn family(world: &World, mib: u32) -> (VmDefinition, VmDefinition) {
    let parent = parent(world, mib).await;
    world.freeze(parent.vm.id(), None).await.unwrap();
    let child = world.vm(DiskSource::Linked(disk0(parent.vm.id(), 0)));
    world.create(&child).await.unwrap();
    (parent, child)
}

/// What was lent a moment ago is not given back: somebody may be about to build on it.
async fn lent_for_long(path: &Path) {
    let changed = std::fs::metadata(path).unwrap().ctime();
    let until = UNIX_EPOCH + Duration::from_secs(u64::try_from(changed).unwrap() + 6);
    if let Ok(left) = until.duration_since(SystemTime::now()) {
        tokio::time::sleep(left).await;
    }
}

#[tokio::test]
async fn a_clone_that_is_off_is_flattened_whatever_happens() {
    let mut world = World::start_process().await;
    let (parent, child) = family(&world, 400).await;
    let (base, own) = (disk0(parent.vm.id(), 0), disk0(child.vm.id(), 0));
    let path = file(&world, &own);
    fill(&path, 5, 800, 1);
    let begun = std::fs::metadata(&path).unwrap().blocks();
    let first = command(1);
    let call = begin_flatten(&world, child.vm.id(), first);
    growing(&path, begun).await;
    let busy = define(&world, command(1), &child).await.unwrap_err();
    assert_eq!(busy.code, "in_use", "{busy:?}");
    cancel(&world, first.op).await;
    assert_eq!(problem(call.await.unwrap().unwrap_err()).code, "cancelled");
    assert_eq!(layers(&world.report(child.vm.id()).await.unwrap()).len(), 2);
    assert!(shows(&path, 7, 0, 400) && shows(&path, 5, 800, 1));
    let begun = std::fs::metadata(&path).unwrap().blocks();
    let second = command(1);
    let call = begin_flatten(&world, child.vm.id(), second);
    growing(&path, begun).await;
    world.end_agent().await;
    assert!(call.await.unwrap().is_err());
    world.spawn_agent().await;
    assert!(shows(&path, 7, 0, 400) && shows(&path, 5, 800, 1));
    lent_for_long(&file(&world, &base)).await;
    let report = flatten_as(&world, child.vm.id(), second, None).await.unwrap();
    assert_eq!(layers(&report), [own.to_string()]);
    assert!(shows(&path, 7, 0, 400) && shows(&path, 5, 800, 1) && shows(&path, 0, 400, 100));
    let again = flatten_as(&world, child.vm.id(), command(1), None).await.unwrap();
    assert_eq!(layers(&again), [own.to_string()]);
    assert!(access(&file(&world, &base)).0 >= VM_UID_BASE, "it was given back");
    world.remove(parent.vm.id(), false, false).await.unwrap();
    assert!(shows(&path, 7, 0, 400));
}

/// What deletions of snapshots have left.
async fn merge(world: &World, vm: VmId) -> VmReport {
    let (snapshots, max_rate) = (Vec::new(), None);
    let request = api::VmSnapshotDeleteRequest { command: command(1), snapshots, max_rate };
    let path = VmPath { vm };
    let call =
        world.client.call_with::<api::VmSnapshotDelete>(&path, &NoParams {}, request, long());
    call.await.unwrap()
}

type Call = tokio::task::JoinHandle<Result<VmReport, hostler_endpoint::ClientError>>;

fn begin_flatten(world: &World, vm: VmId, command: api::VmCommand) -> Call {
    let (client, path) = (world.client.clone(), VmPath { vm });
    let request = api::VmFlattenRequest { command, disks: Vec::new(), max_rate: None };
    tokio::spawn(async move {
        client.call_with::<api::VmFlatten>(&path, &NoParams {}, request, long()).await
    })
}

pub(crate) async fn growing(path: &Path, before: u64) {
    eventually("it grows", Duration::from_secs(30), async || {
        let now = std::fs::metadata(path).unwrap().blocks();
        (now > before + (4 << 11)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn qemu_a_running_clone_is_flattened_beside_its_running_parent() {
    let mut world = World::start_process().await;
    let image = world.tiny_image().await;
    let parent = world.vm(DiskSource::Image(image));
    world.create(&parent).await.unwrap();
    let base = disk0(parent.vm.id(), 0);
    world.freeze(parent.vm.id(), None).await.unwrap();
    let mut child = world.vm(DiskSource::Linked(base.clone()));
    child.vm.spec.disks[0].size = ByteSize::gib(2);
    world.create(&child).await.unwrap();
    let (one, two) = (parent.vm.id(), child.vm.id());

    // Both write, and neither to the file that both stand on.
    let before = std::fs::metadata(file(&world, &base)).unwrap().mtime_nsec();
    let (first, second) = tokio::join!(world.vm_start(one), world.vm_start(two));
    let (first, _) = (first.unwrap(), second.unwrap());
    assert_eq!(layers(&first)[..2], [disk0(one, 1).to_string(), base.to_string()]);
    world.wait_for("it answers", two, |r| r.guest.as_ref().is_some_and(|g| g.agent)).await;
    assert_eq!(std::fs::metadata(file(&world, &base)).unwrap().mtime_nsec(), before);

    // A running VM goes on in a new layer, and what it had can be linked to, and is merged again when
    // nothing lies on it any more.
    let frozen = world.freeze(one, None).await.unwrap();
    assert_eq!(frozen.disks[0].layers[0], disk0(one, 1));
    assert_eq!(layers(&frozen.report)[0], disk0(one, 2).to_string());
    let mut late = world.vm(DiskSource::Linked(disk0(one, 1)));
    late.vm.spec.disks[0].size = frozen.disks[0].size;
    assert_eq!(layers(&world.create(&late).await.unwrap()).len(), 4);
    assert_eq!(layers(&merge(&world, one).await).len(), 4, "it stays, because a clone needs it");
    world.remove(late.vm.id(), false, false).await.unwrap();
    assert_eq!(
        layers(&merge(&world, one).await)[..2],
        [disk0(one, 1).to_string(), base.to_string()]
    );
    world.wait_for("it runs on", one, |r| r.guest.as_ref().is_some_and(|g| g.agent)).await;

    // Slow enough to be met in the middle, where the agent dies.
    let slow = command(1);
    let (client, path) = (world.client.clone(), VmPath { vm: two });
    let request =
        api::VmFlattenRequest { command: slow, disks: Vec::new(), max_rate: Some(1 << 20) };
    let call = tokio::spawn(async move {
        client.call_with::<api::VmFlatten>(&path, &NoParams {}, request, long()).await
    });
    let own = file(&world, &disk0(two, 0));
    growing(&own, std::fs::metadata(&own).unwrap().blocks()).await;
    world.end_agent().await;
    assert!(call.await.unwrap().is_err());
    world.spawn_agent().await;
    assert_eq!(layers(&world.found(two).await).len(), 3);

    // Nobody has to ask again: what QEMU was doing stands in nobody's way.
    let frozen = world.freeze(two, None).await.unwrap();
    let both = [disk0(two, 1).to_string(), disk0(two, 0).to_string()];
    assert_eq!(layers(&frozen.report)[..2], both);

    // Asked again, it begins with what there is; cancelled, the disk is as it was.
    let again = {
        let (client, path) = (world.client.clone(), VmPath { vm: two });
        let request =
            api::VmFlattenRequest { command: slow, disks: Vec::new(), max_rate: Some(1 << 20) };
        tokio::spawn(async move {
            client.call_with::<api::VmFlatten>(&path, &NoParams {}, request, long()).await
        })
    };
    eventually("it can be cancelled", Duration::from_secs(10), async || {
        cancel(&world, slow.op).await;
        again.is_finished().then_some(())
    })
    .await;
    assert_eq!(problem(again.await.unwrap().unwrap_err()).code, "cancelled");
    let report = flatten_as(&world, two, command(1), None).await.unwrap();
    assert_eq!(layers(&report), both);
    world.stop(two, hostler_types::StopMode::PowerOff, 10).await.unwrap();
    world.remove(one, false, true).await.unwrap();
    world.vm_start(two).await.unwrap();
    world.wait_for("it boots alone", two, |r| r.guest.as_ref().is_some_and(|g| g.agent)).await;
}

/// What was copied is on the disk when it is said to be, and when the header says so: a QEMU that is
/// killed right after has lost nothing.
#[tokio::test]
async fn qemu_killed_after_a_disk_was_made_independent_has_all_of_it() {
    let world = World::start().await;
    let (parent, child) = family(&world, 40).await;
    let vm = child.vm.id();
    for snapshots in [0, 1] {
        let two = world.vm(DiskSource::Linked(disk0(parent.vm.id(), 0)));
        let vm = if snapshots == 0 { vm } else { two.vm.id() };
        if snapshots == 1 {
            world.create(&two).await.unwrap();
            let how = crate::snapshots::How::default();
            crate::snapshots::snapshot(&world, vm, how).await;
        }
        world.vm_start(vm).await.unwrap();
        flatten_as(&world, vm, command(1), None).await.unwrap();
        crate::killed::kill_qemu(&world);
        world.wait_for("it fails", vm, |report| report.power == PowerState::Failed).await;
        world.stop(vm, hostler_types::StopMode::PowerOff, 0).await.unwrap();
        assert!(shows(&file(&world, &disk0(vm, 0)), 7, 0, 40), "{snapshots} snapshots");
        world.remove(vm, false, true).await.unwrap();
    }
    world.remove(parent.vm.id(), false, false).await.unwrap();
    world.assert_nothing_left();
}

/// The same of a merge, of a layer in the middle and of the one that is written to.
#[tokio::test]
async fn qemu_killed_after_a_merge_has_all_of_it() {
    use crate::snapshots::{How, delete, snapshot};
    let world = World::start().await;
    let vm = parent(&world, 24).await.vm.id();
    let mut snapshots = Vec::new();
    for (layer, byte) in [(1, 8), (2, 9)] {
        snapshots.push(snapshot(&world, vm, How::default()).await.0);
        fill(&file(&world, &disk0(vm, layer)), byte, 8 * layer, 24);
    }
    for (number, id) in snapshots.into_iter().enumerate() {
        world.vm_start(vm).await.unwrap();
        let report = delete(&world, vm, &[id]).await;
        assert_eq!(report.disks[0].layers.len(), 2 - number);
        crate::killed::kill_qemu(&world);
        world.wait_for("it fails", vm, |report| report.power == PowerState::Failed).await;
        world.stop(vm, hostler_types::StopMode::PowerOff, 0).await.unwrap();
        let active = file(&world, &report.disks[0].layers[0].file);
        assert!(shows(&active, 7, 0, 8) && shows(&active, 8, 8, 8), "{number}");
        assert!(shows(&active, 9, 16, 24), "{number}");
    }
    world.remove(vm, false, false).await.unwrap();
    world.assert_nothing_left();
}

#[tokio::test]
async fn a_parent_whose_file_is_gone_is_named() {
    let world = World::start().await;
    let (parent, clone) = family(&world, 1).await;
    let (parent, clone) = (parent.vm.id(), clone.vm.id());
    std::fs::remove_file(file(&world, &disk0(parent, 0))).unwrap();
    let problem = world.vm_start(clone).await.unwrap_err();
    assert_eq!(problem.code, "wrong_state");
    let (said, store) = (&problem.detail, world.datastore);
    assert!(said.contains(&format!("of VM {parent} is missing from datastore {store}")), "{said}");
    assert!(said.contains("hostler datastore check"), "{said}");
}
