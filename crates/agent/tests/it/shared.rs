//! Two hosts that share a datastore: each has it mounted at a place of its own, sees what the other
//! does, and holds the other's guests and files inviolate.
//!
//! The kernel here has no NFS server, so the second host is an agent in a mount namespace of its own,
//! where the first one's file system is mounted too. Locks are the kernel's in both cases.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use hostler_agent_api as api;
use hostler_agent_api::{DatastoreCheck, DatastorePath, DatastoreReport, VmDefinition, VmPath};
use hostler_endpoint::{ClientError, NoParams, Problem};
use hostler_types::{
    ByteSize, DatastoreState, DiskSource, ImageId, PowerState, SnapshotId, StopMode, VmId,
};

use crate::clones::{define, disk0, fill, layers, shows};
use crate::full::Small;
use crate::snapshots::{How, delete, delete_as, place, snapshot, snapshot_as};
use crate::world::{World, command, long, problem};

async fn ensure(world: &World, at: &str, create: bool) -> Result<DatastoreReport, ClientError> {
    let path = DatastorePath { datastore: world.datastore };
    let check =
        DatastoreCheck { path: world.path(at).to_str().unwrap().to_owned(), create, shared: true };
    world.client.call::<api::DatastoreEnsure>(&path, &NoParams {}, check).await
}

/// Two hosts with one datastore, which the test sees as the first one does: where the second one has
/// it mounted there is nothing in the test's eyes.
pub(crate) async fn two() -> (World, World, Small) {
    let mut one = World::prepare();
    let store = Small::mount(&one.path("store"), 1 << 30);
    one.spawn_agent().await;
    ensure(&one, "store", true).await.unwrap();
    let mut two = World::joined(&one);
    std::fs::create_dir(two.path("store")).unwrap();
    two.datastore = one.datastore;
    let mount = (one.path("store"), two.path("store"));
    two.mounts().push(mount);
    two.mounts().extend(cgroups_of_its_own());
    two.spawn_agent().await;
    let report = ensure(&two, "store", false).await.unwrap();
    assert_eq!(report.state, DatastoreState::Ready, "{report:?}");
    (one, two, store)
}

/// A host sees no processes of another. Groups that this machine has for the second one, and where
/// that looks for them.
fn cgroups_of_its_own() -> Vec<(PathBuf, PathBuf)> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let tree = |line: &str| {
        let (mount, file_system) = line.split_once(" - ")?;
        let point = PathBuf::from(mount.split(' ').nth(4)?);
        let used = ["cpu", "cpuacct", "memory", "blkio", "pids", "freezer", "unified", "cgroup"];
        let used = used.iter().any(|name| point.ends_with(name));
        (used && file_system.starts_with("cgroup")).then_some(point)
    };
    let of_its_own = |point: PathBuf| {
        let group = point.join("hostler/second-host");
        std::fs::create_dir_all(&group).unwrap();
        (group, point)
    };
    let points: BTreeSet<PathBuf> = mounts.lines().filter_map(tree).collect();
    points.into_iter().map(of_its_own).collect()
}

fn assert_untouched(two: &World) {
    let there = std::fs::read_dir(two.path("store")).unwrap().flatten();
    let there: Vec<_> = there.map(|entry| entry.path()).collect();
    assert!(there.is_empty(), "{there:?}");
}

async fn register(
    world: &World,
    epoch: u64,
    definition: &VmDefinition,
) -> Result<api::VmReport, Problem> {
    let path = VmPath { vm: definition.vm.id() };
    let request = api::VmCreateRequest { command: command(epoch), definition: definition.clone() };
    let call = world.client.call::<api::VmRegister>(&path, &NoParams {}, request).await;
    call.map_err(problem)
}

async fn start_as(world: &World, epoch: u64, vm: VmId) -> Result<api::VmReport, Problem> {
    let path = VmPath { vm };
    let call =
        world.client.call_with::<api::VmStart>(&path, &NoParams {}, command(epoch).into(), long());
    call.await.map_err(problem)
}

/// The second host is told to run what runs on the first one, as it would be by a server that takes
/// the first for dead.
#[tokio::test]
async fn qemu_a_vm_on_a_shared_datastore_never_runs_twice() {
    let (one, two, _store) = two().await;
    let definition = one.vm(DiskSource::Blank);
    let vm = definition.vm.id();
    one.create(&definition).await.unwrap();
    let disk = place(&one, &disk0(vm, 0));
    fill(&disk, 7, 0, 4);
    one.vm_start(vm).await.unwrap();
    let first = one.qemu_pids();

    register(&two, 2, &definition).await.unwrap();
    let refused = start_as(&two, 2, vm).await.unwrap_err();
    assert!(refused.detail.contains("lock"), "{refused:?}");
    assert_eq!(two.qemu_pids(), Vec::<u32>::new());
    assert_ne!(two.report(vm).await.unwrap().power, PowerState::Running);
    // What would write to the disk without a guest is refused as well.
    let refused = snapshot_as(&two, vm, command(2), SnapshotId::generate(), How::default()).await;
    if let Ok(report) = &refused {
        assert_eq!(report.disks[0].layers.len(), 2);
    }
    assert_eq!(one.qemu_pids(), first);
    assert_eq!(one.report(vm).await.unwrap().power, PowerState::Running);

    // Once it is off, it can run on the other, and then not here.
    one.stop(vm, StopMode::PowerOff, 0).await.unwrap();
    start_as(&two, 2, vm).await.unwrap();
    let refused = one.vm_start(vm).await.unwrap_err();
    assert!(!refused.detail.is_empty());
    assert_eq!((one.qemu_pids().len(), two.qemu_pids().len()), (0, 1), "{refused:?}");
    let path = VmPath { vm };
    let request =
        api::VmStopRequest { command: command(2), mode: StopMode::PowerOff, timeout_seconds: 0 };
    two.client.call_with::<api::VmStop>(&path, &NoParams {}, request, long()).await.unwrap();
    assert_untouched(&two);
}

#[tokio::test]
async fn qemu_a_clone_on_another_host_keeps_what_it_lies_on() {
    let (one, two, _store) = two().await;
    let mut parent = one.vm(DiskSource::Blank);
    let vm = parent.vm.id();
    one.create(&parent).await.unwrap();
    let base = place(&one, &disk0(vm, 0));
    fill(&base, 7, 0, 4);
    one.freeze(vm, None).await.unwrap();
    let child = two.vm(DiskSource::Linked(disk0(vm, 0)));
    two.create(&child).await.unwrap();
    let own = place(&one, &disk0(child.vm.id(), 0));
    two.vm_start(child.vm.id()).await.unwrap();

    // The parent goes on in a layer of its own, is merged, and cannot go, as long as it is needed.
    parent.vm.spec.disks[0].size = ByteSize::gib(2);
    let report = define(&one, command(1), &parent).await.unwrap();
    assert_eq!(layers(&report).len(), 2);
    fill(&place(&one, &disk0(vm, 1)), 9, 0, 2);
    let (id, _) = snapshot(&one, vm, How::default()).await;
    let report = delete_as(&one, vm, command(1), &[id], None).await.unwrap();
    assert_eq!(layers(&report), [disk0(vm, 1).to_string(), disk0(vm, 0).to_string()]);
    let refused = one.remove(vm, false, false).await.unwrap_err();
    assert_eq!(refused.code, "in_use", "{refused:?}");
    two.stop(child.vm.id(), StopMode::PowerOff, 0).await.unwrap();
    assert!(shows(&own, 7, 0, 4));
    two.remove(child.vm.id(), false, false).await.unwrap();
    let report = delete(&one, vm, &[]).await;
    assert_eq!(layers(&report), [disk0(vm, 0).to_string()]);
    assert!(shows(&base, 9, 0, 2) && shows(&base, 7, 2, 2));
    one.remove(vm, false, false).await.unwrap();
    one.assert_nothing_left();
    assert_untouched(&two);
}

/// One host takes a lent file back while the other builds on it: one of them gives in.
#[tokio::test]
async fn what_another_host_builds_on_is_not_taken_back() {
    let (one, two, _store) = two().await;
    let mut parent = one.vm(DiskSource::Blank);
    let vm = parent.vm.id();
    one.create(&parent).await.unwrap();
    let base = place(&one, &disk0(vm, 0));
    fill(&base, 7, 0, 2);
    let (mut built, mut refused) = (0, 0);
    for round in 0_u8..30 {
        // A layer of its own on top of what is lent.
        one.freeze(vm, None).await.unwrap();
        parent.vm.spec.disks[0].size = ByteSize::mib(1024 + u64::from(round) + 1);
        let report = define(&one, command(1), &parent).await.unwrap();
        assert_eq!(report.disks[0].layers.len(), 2, "{report:?}");
        let active = place(&one, &report.disks[0].layers[0].file);
        fill(&active, 10 + round, 0, 1);
        let before = if round == 0 { 7 } else { 9 + round };

        let mut child = two.vm(DiskSource::Linked(disk0(vm, 0)));
        child.vm.spec.disks[0].size = ByteSize::gib(2);
        // First the one, then the other has a head start.
        let head = |of: u8| tokio::time::sleep(Duration::from_millis(u64::from(of) * 2));
        let build = async {
            head(round.saturating_sub(15)).await;
            two.create(&child).await
        };
        let merge = async {
            head(15_u8.saturating_sub(round)).await;
            delete(&one, vm, &[]).await
        };
        let (merged, made) = tokio::join!(merge, build);
        match made {
            Ok(_) => {
                built += 1;
                let own = place(&one, &disk0(child.vm.id(), 0));
                let beneath = merged.disks[0].layers.len();
                // Built on the old file, or on what it has become: never on one that is written to.
                let content = if beneath == 2 { before } else { 10 + round };
                assert!(shows(&own, content, 0, 1), "{round}: {merged:?}");
                if beneath == 1 {
                    let lent = hostler_host::volume::is_lent(&base).unwrap();
                    assert!(lent, "{round}: it is built upon, and its VM may write to it");
                }
                two.remove(child.vm.id(), false, false).await.unwrap();
            }
            Err(problem) => {
                refused += 1;
                assert_eq!(problem.code, "wrong_state", "{problem:?}");
                assert_eq!(merged.disks[0].layers.len(), 1, "{round}: nobody has won");
            }
        }
        let merged = delete(&one, vm, &[]).await;
        assert_eq!(merged.disks[0].layers.len(), 1, "{merged:?}");
        assert!(shows(&base, 10 + round, 0, 1) && shows(&base, 7, 1, 1), "{round}");
    }
    assert!(built > 0 && refused > 0, "{built} built, {refused} refused: they have not met");
    one.remove(vm, false, false).await.unwrap();
    one.assert_nothing_left();
    assert_untouched(&two);
}

/// The file system is not mounted on the second host, or is taken away from it: it writes nothing,
/// whoever asks for what.
#[tokio::test]
async fn qemu_a_host_that_lacks_the_shared_file_system_writes_nothing() {
    let (one, mut two, _store) = two().await;
    let definition = two.vm(DiskSource::Blank);
    let vm = definition.vm.id();
    two.create(&definition).await.unwrap();
    let disk = place(&one, &disk0(vm, 0));
    fill(&disk, 7, 0, 4);
    two.vm_start(vm).await.unwrap();
    two.unmount(&two.path("store"));

    let check = async |two: &World| {
        let gone = |what: &str, refused: Problem| {
            assert_eq!(refused.code, "datastore_missing", "{what}: {refused:?}");
        };
        let new = two.vm(DiskSource::Blank);
        gone("a creation", two.create(&new).await.unwrap_err());
        let asked = snapshot_as(two, vm, command(1), SnapshotId::generate(), How::default());
        gone("a snapshot", asked.await.unwrap_err());
        gone("an upload", two.upload_at(ImageId::generate(), 0, b"x").await.unwrap_err());
        // Not even if it is told that it may make one: it would be on its own file system.
        let refused = problem(ensure(two, "store", true).await.unwrap_err());
        assert!(refused.detail.contains("root file system"), "{refused:?}");
        let report = ensure(two, "store", false).await.unwrap();
        assert_eq!(report.state, DatastoreState::Missing);
        assert_untouched(two);
    };
    check(&two).await;
    assert_eq!(two.report(vm).await.unwrap().power, PowerState::Running, "it has its files open");

    // The next agent has never seen it mounted.
    let kept = std::mem::take(two.mounts());
    two.end_agent().await;
    two.spawn_agent().await;
    assert_eq!(two.found(vm).await.power, PowerState::Running);
    check(&two).await;
    two.stop(vm, StopMode::PowerOff, 0).await.unwrap();
    assert_eq!(two.vm_start(vm).await.unwrap_err().code, "datastore_missing");
    assert_untouched(&two);

    // Mounted again, it has all that it had; the other host never missed it.
    assert!(ensure(&one, "store", false).await.unwrap().state == DatastoreState::Ready);
    two.end_agent().await;
    *two.mounts() = kept;
    two.spawn_agent().await;
    two.vm_start(vm).await.unwrap();
    two.stop(vm, StopMode::PowerOff, 0).await.unwrap();
    assert!(shows(&disk, 7, 0, 4));
    two.remove(vm, false, false).await.unwrap();
    one.assert_nothing_left();
    assert_untouched(&two);
}
