//! Datastores that are full before, or in the middle of, what is to be written to them: it is said which,
//! nothing is lost, and all works when there is room again.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hostler_agent_api as api;
use hostler_agent_api::{VmPath, VmReport};
use hostler_endpoint::{NoParams, Problem};
use hostler_types::{ByteSize, DiskSource, DiskStatus, PowerState, SnapshotId, VmId};
use rustix::mount::MountFlags;

use crate::clones::{copy_of, copying, disk0, family, flatten_as, growing, parent, shows};
use crate::snapshots::{
    How, answers, assert_filled, assert_whole, chain, delete, delete_as, files, fill, place,
    printing, revert_as, run, running, snapshot, snapshot_as,
};
use crate::world::{World, command, eventually, long, problem};

/// A file system in memory of a size that changes.
pub(crate) struct Small(PathBuf, u64);

impl Small {
    pub(crate) fn mount(path: &Path, size: u64) -> Self {
        std::fs::create_dir(path).unwrap();
        let options = format!("size={size},mode=0711");
        let mut mount = Command::new("mount");
        let status = mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path).status();
        assert!(status.unwrap().success(), "mounting a tmpfs needs root");
        Self(path.to_owned(), size)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn resize(&self, size: u64) {
        assert!(self.try_resize(size), "{size}");
    }

    /// It cannot become smaller than what is in it.
    fn try_resize(&self, size: u64) -> bool {
        let options = std::ffi::CString::new(format!("size={size}")).unwrap();
        rustix::mount::mount_remount(&self.0, MountFlags::empty(), &*options).is_ok()
    }

    /// All room but so much is gone at once, whoever just writes.
    fn shrink(&self, leave: u64) {
        for _ in 0..100 {
            let now = rustix::fs::statvfs(&self.0).unwrap();
            if self.try_resize((now.f_blocks - now.f_bfree) * now.f_frsize + leave) {
                return;
            }
        }
        panic!("what it holds grows too fast");
    }

    /// As large again as it was made.
    fn make_room(&self) {
        self.resize(self.1);
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

const PAGE: u64 = 4096;
/// Of pages, about: what a new layer needs.
const LAYER: u64 = 33;

async fn begin(size: u64) -> (World, Small) {
    let mut world = World::prepare();
    let store = Small::mount(&world.path("store"), size);
    world.start_agent().await;
    world.ensure_datastore().await.unwrap();
    (world, store)
}

/// What an undo asks for when nothing was done: the code tells it that nobody can do it now.
#[tokio::test]
async fn a_deletion_on_a_datastore_that_is_away_says_so() {
    let world = World::start().await;
    let vm = parent(&world, 1).await.vm.id();
    let (taken, _) = snapshot(&world, vm, How::default()).await;
    let (store, away) = (world.path("store"), world.path("away"));
    std::fs::rename(&store, &away).unwrap();
    for snapshots in [vec![SnapshotId::generate()], vec![taken]] {
        let answer = delete_as(&world, vm, command(1), &snapshots, None).await;
        let problem = answer.unwrap_err();
        assert_eq!(problem.code, "datastore_missing", "{problem:?}");
        assert!(!problem.detail.contains("the snapshots are gone"), "{problem:?}");
    }
    std::fs::rename(&away, &store).unwrap();
    assert_eq!(delete(&world, vm, &[taken]).await.snapshots.snapshots, []);
}

#[track_caller]
fn assert_full(world: &World, problem: &Problem) {
    assert_eq!(problem.code, "no_space", "{problem:?}");
    assert!(problem.detail.contains(&world.datastore.to_string()), "{problem:?}");
}

/// Tries with less and less lacking, until it works. What was not done has left nothing.
async fn until_it_fits<T>(
    world: &World,
    store: &Small,
    vm: VmId,
    disks: u64,
    ask: impl AsyncFn(api::VmCommand) -> Result<T, Problem>,
) -> T {
    let before = files(world, vm);
    // Each takes its time while a guest runs.
    let step = if disks == 1 { 1 } else { 4 };
    for pages in [0, 20].into_iter().chain((disks * LAYER - 3..disks * LAYER + 40).step_by(step)) {
        store.shrink(pages * PAGE);
        let answer = ask(command(1)).await;
        store.make_room();
        match answer {
            Ok(answer) => {
                assert!(pages > 0, "it needs room");
                assert_definition(world, vm).await;
                return answer;
            }
            Err(problem) => assert_full(world, &problem),
        }
        // What has been made already is taken back with the next deletion, at the latest.
        if files(world, vm) != before {
            delete(world, vm, &[]).await;
        }
        assert_eq!(files(world, vm), before, "with {pages} pages");
    }
    panic!("it does not fit into what is enough");
}

/// What lies beside the disks says what they are.
async fn assert_definition(world: &World, vm: VmId) {
    let text = std::fs::read(world.path(&format!("store/vms/{vm}/vm.json"))).unwrap();
    let definition: hostler_types::Vm = serde_json::from_slice(&text).unwrap();
    let report = world.report(vm).await.unwrap();
    for (stored, disk) in definition.status.disks.iter().zip(&report.disks) {
        let files = |disk: &DiskStatus| -> Vec<_> {
            disk.layers.iter().map(|layer| layer.file.clone()).collect()
        };
        assert_eq!(files(stored), files(disk));
    }
}

#[tokio::test]
async fn with_any_lack_of_room_all_is_done_or_nothing() {
    let (world, store) = begin(64 << 20).await;
    let parent = parent(&world, 4).await;
    let (vm, base) = (parent.vm.id(), disk0(parent.vm.id(), 0));
    let snapshot = SnapshotId::generate();
    let take = async |op| snapshot_as(&world, vm, op, snapshot, How::default()).await;
    let report = until_it_fits(&world, &store, vm, 1, take).await;
    assert_eq!(chain(&report, "disk0"), ["disk0.1.qcow2", "disk0.qcow2"]);
    crate::clones::fill(&place(&world, &disk0(vm, 1)), 9, 2, 8);

    // Its data does not fit, and is where it was.
    let before = files(&world, vm);
    store.shrink(3 << 20);
    let merged = delete_as(&world, vm, command(1), &[snapshot], None).await.unwrap_err();
    assert_full(&world, &merged);
    assert_eq!(
        files(&world, vm),
        before.iter().filter(|n| n.ends_with("2")).cloned().collect::<Vec<_>>()
    );
    assert!(shows(&place(&world, &disk0(vm, 1)), 9, 2, 8));
    assert!(shows(&place(&world, &disk0(vm, 1)), 7, 0, 2));
    store.make_room();
    assert_eq!(chain(&delete(&world, vm, &[]).await, "disk0"), ["disk0.qcow2"]);
    assert!(shows(&place(&world, &base), 7, 0, 2) && shows(&place(&world, &base), 9, 2, 8));

    let (back, _) = self::snapshot(&world, vm, How::default()).await;
    crate::clones::fill(&place(&world, &disk0(vm, 1)), 5, 0, 4);
    let go_back = async |op| revert_as(&world, vm, op, back, None).await;
    let report = until_it_fits(&world, &store, vm, 1, go_back).await;
    assert_eq!(report.disks[0].layers.len(), 2);
    assert!(shows(&place(&world, &report.disks[0].layers[0].file), 7, 0, 2));
    // It needs next to no room: only the definition is written.
    for pages in 0..8 {
        store.shrink(pages * PAGE);
        let merged = delete_as(&world, vm, command(1), &[back], None).await;
        store.make_room();
        if let Err(problem) = merged {
            assert_full(&world, &problem);
        }
        let report = world.report(vm).await.unwrap();
        assert!(shows(&place(&world, &report.disks[0].layers[0].file), 7, 0, 2));
    }
    delete(&world, vm, &[]).await;
    assert_definition(&world, vm).await;
    assert_eq!(files(&world, vm), ["disk0.qcow2"]);

    world.freeze(vm, None).await.unwrap();
    let child = world.vm(DiskSource::Linked(base.clone()));
    let make = async |op| world.create_as(op, &child).await;
    until_it_fits(&world, &store, vm, 1, make).await;
    assert!(shows(&place(&world, &disk0(child.vm.id(), 0)), 9, 2, 8));
    let mut grown = parent.clone();
    grown.vm.spec.disks[0].size = ByteSize::gib(2);
    // What has been lent in vain may have a layer: it is the VM's.
    let mut report = None;
    for pages in 28..80 {
        store.shrink(pages * PAGE);
        let answer = crate::clones::define(&world, command(1), &grown).await;
        store.make_room();
        match answer {
            Ok(done) => report = Some(done),
            Err(problem) => assert_full(&world, &problem),
        }
        if report.is_some() {
            break;
        }
    }
    let report = report.unwrap();
    assert!(shows(&place(&world, &report.disks[0].layers[0].file), 9, 2, 8));
    world.remove(child.vm.id(), false, false).await.unwrap();
    let report = delete(&world, vm, &[]).await;
    assert_eq!(chain(&report, "disk0"), ["disk0.qcow2"]);
    assert!(shows(&place(&world, &base), 9, 2, 8));
    world.remove(vm, false, false).await.unwrap();
    world.assert_nothing_left();
}

#[tokio::test]
async fn room_that_is_gone_in_the_middle_of_a_copy_harms_nobody() {
    const ROOM: u64 = 900 << 20;
    let (world, store) = begin(ROOM).await;
    let (parent, child) = family(&world, 250).await;
    let clone = copy_of(&world, &parent);
    let gone = async {
        copying(&world, clone.vm.id()).await;
        store.shrink(1 << 20);
    };
    let (refused, ()) = tokio::join!(world.create(&clone), gone);
    assert_full(&world, &refused.unwrap_err());
    assert!(!world.path("store/vms").join(clone.vm.id().to_string()).exists());
    store.resize(ROOM);
    world.create(&clone).await.unwrap();
    assert!(shows(&place(&world, &disk0(clone.vm.id(), 0)), 7, 0, 250));
    world.remove(clone.vm.id(), false, false).await.unwrap();

    let (vm, own) = (child.vm.id(), place(&world, &disk0(child.vm.id(), 0)));
    let begun = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&own).unwrap());
    let gone = async {
        growing(&own, begun).await;
        store.shrink(1 << 20);
    };
    let (refused, ()) = tokio::join!(flatten_as(&world, vm, command(1), None), gone);
    assert_full(&world, &refused.unwrap_err());
    assert!(shows(&own, 7, 0, 250));
    assert_eq!(world.report(vm).await.unwrap().disks[0].layers.len(), 2);
    store.resize(ROOM);
    let report = flatten_as(&world, vm, command(1), None).await.unwrap();
    assert_eq!(chain(&report, "disk0"), ["disk0.qcow2"]);
    world.remove(parent.vm.id(), false, false).await.unwrap();
    assert!(shows(&own, 7, 0, 250));
}

#[tokio::test]
async fn qemu_a_guest_outlives_a_datastore_that_becomes_full() {
    const ROOM: u64 = 700 << 20;
    let (mut world, store) = begin(ROOM).await;
    let vm = running(&world).await;
    fill(&world, vm, "one", 0, 4).await;

    // A live snapshot: with any lack of room it is there, or nothing has happened.
    let id = SnapshotId::generate();
    let take = async |op| snapshot_as(&world, vm, op, id, How::default()).await;
    let report = until_it_fits(&world, &store, vm, 2, take).await;
    world.vm_start(vm).await.unwrap();
    assert_eq!(chain(&report, "data"), ["data.1.qcow2", "data.qcow2"]);
    fill(&world, vm, "two", 2, 24).await;

    // A merge that might take the guest's last room does not begin: the snapshot is there, and nothing
    // has been copied.
    let into = world.path(&format!("store/vms/{vm}/data.qcow2"));
    let before = hostler_host::volume::allocated(&into).unwrap();
    for leave in [2 << 20, 12 << 20] {
        store.make_room();
        store.shrink(leave);
        let refused = delete_as(&world, vm, command(1), &[id], None).await.unwrap_err();
        assert_full(&world, &refused);
        assert!(refused.detail.contains("merging disk `data` may need"), "{refused:?}");
        assert!(refused.detail.contains("stop the VM and merge then"), "{refused:?}");
    }
    assert_eq!(hostler_host::volume::allocated(&into).unwrap(), before);
    assert!(world.report(vm).await.unwrap().snapshots.get(id).is_some());
    let report = world.report(vm).await.unwrap();
    assert_eq!(report.power, PowerState::Running, "{:?}", report.message);
    assert_whole(&world, vm).await;
    store.make_room();
    world.vm_start(vm).await.unwrap();
    fill(&world, vm, "new", 8, 4).await;
    let report = delete(&world, vm, &[id]).await;
    assert_eq!(chain(&report, "data"), ["data.qcow2"]);
    assert_eq!(files(&world, vm), ["data.qcow2", "disk0.qcow2"]);
    assert_filled(&world, vm, "one", 0, 2).await;
    assert_filled(&world, vm, "two", 2, 6).await;
    assert_filled(&world, vm, "new", 8, 4).await;

    // A save of its memory.
    run(&world, vm, "busybox dd if=/dev/urandom of=/tmp/much bs=1M count=60 2>/dev/null").await;
    let id = SnapshotId::generate();
    let memory = world.path(&format!("store/vms/{vm}/snapshot-{id}.memory"));
    let how = How { memory: true, quiesce: false };
    let gone = async {
        written(&memory).await;
        store.shrink(8 << 20);
    };
    let (refused, ()) = tokio::join!(snapshot_as(&world, vm, command(1), id, how), gone);
    assert_full(&world, &refused.unwrap_err());
    world.wait_for("it runs on", vm, |r| r.power == PowerState::Running).await;
    assert_eq!(run(&world, vm, "busybox du -m /tmp/much | busybox cut -f1").await, "60");
    store.resize(ROOM);
    let report = delete(&world, vm, &[]).await;
    assert_eq!(chain(&report, "data"), ["data.qcow2"]);
    assert_eq!(files(&world, vm), ["data.qcow2", "disk0.qcow2"]);
    let report = snapshot_as(&world, vm, command(1), id, how).await.unwrap();
    assert!(report.snapshots.get(id).unwrap().memory.is_some());
    delete(&world, vm, &[id]).await;
    suspend(&world, &store, vm, ROOM).await;

    // The guest itself: it stands still, says why, and goes on where it was.
    // Only after this was answered.
    let writing = format!(
        "rm /tmp/much; {} > /tmp/fill; (sleep 1; busybox dd if=/tmp/fill of=$(cat /the-disk) bs=1M seek=100 \
         conv=notrunc,fsync 2>/dev/null; echo $? > /tmp/result) </dev/null >/dev/null 2>&1 &",
        printing("big", 64)
    );
    store.shrink(16 << 20);
    run(&world, vm, &writing).await;
    let paused = world.wait_for("it is paused", vm, |r| r.power == PowerState::Paused).await;
    assert_paused(&world, "first", &paused);
    world.end_agent().await;
    world.start_agent().await;
    assert_paused(&world, "found", &world.found(vm).await);
    // Without room it is paused again.
    world.vm_start(vm).await.unwrap();
    let again = |r: &VmReport| r.since > paused.since && r.message.is_some();
    assert_paused(&world, "again", &world.wait_for("it is paused again", vm, again).await);
    store.make_room();
    world.vm_start(vm).await.unwrap();
    eventually("all is written", Duration::from_secs(60), async || {
        let result = run(&world, vm, "cat /tmp/result || echo none").await;
        assert!(["none", "", "0"].contains(&&*result), "{result}");
        (result == "0").then_some(())
    })
    .await;
    assert_filled(&world, vm, "big", 100, 64).await;
    answers(&world, vm).await;
    world.end_agent().await;
}

#[track_caller]
fn assert_paused(world: &World, when: &str, report: &VmReport) {
    let message = report.message.clone().unwrap_or_default();
    assert_eq!(report.power, PowerState::Paused, "{when}: {message}");
    assert!(message.contains("is full"), "{when}: {message}");
    assert!(message.contains(&world.datastore.to_string()), "{message}");
}

/// It cannot be suspended, and runs on; then it can.
async fn suspend(world: &World, store: &Small, vm: VmId, room: u64) {
    let ask = async || {
        let path = VmPath { vm };
        let answer =
            world.client.call_with::<api::VmSuspend>(&path, &NoParams {}, command(1), long());
        answer.await.map_err(problem)
    };
    let before = files(world, vm);
    let folder = world.path(&format!("store/vms/{vm}"));
    let gone = async {
        let names = || std::fs::read_dir(&folder).unwrap().flatten().map(|entry| entry.path());
        let state = eventually("its memory is saved", Duration::from_secs(30), async || {
            names().find(|path| path.to_string_lossy().contains("suspend"))
        });
        written(&state.await).await;
        store.shrink(8 << 20);
    };
    let (refused, ()) = tokio::join!(ask(), gone);
    assert_full(world, &refused.unwrap_err());
    world.wait_for("it runs on", vm, |r| r.power == PowerState::Running).await;
    run(world, vm, "true").await;
    assert_eq!(files(world, vm), before);
    store.resize(room);
    assert_eq!(ask().await.unwrap().power, PowerState::Suspended);
    world.vm_start(vm).await.unwrap();
    assert_eq!(run(world, vm, "busybox du -m /tmp/much | busybox cut -f1").await, "60");
}

/// Waits until something is in a file. Events would come too late.
async fn written(path: &Path) {
    let begin = std::time::Instant::now();
    let blocks = |path| {
        std::fs::metadata(path).map_or(0, |file| std::os::unix::fs::MetadataExt::blocks(&file))
    };
    while blocks(path) == 0 {
        assert!(begin.elapsed() < Duration::from_secs(30), "nothing is written");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
