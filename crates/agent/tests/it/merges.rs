//! Several things at once that concern the same layers: deletions of snapshots of one VM and of its
//! clone, and clones of all kinds that are made while their parent merges.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hostler_agent_api as api;
use hostler_agent_api::{VmDefinition, VmReport};
use hostler_types::{CopySource, DiskSource, LayerFile, PowerState, SnapshotId, StopMode, VmId};

use crate::clones::cancel;
use crate::fork::{fork, request};
use crate::snapshots::{
    How, answers, assert_filled, assert_whole, blank, chain, delete, delete_as, files, fill, place,
    revert_as, running, snapshot,
};
use crate::world::{World, command, eventually};

/// Slow enough to be met in the middle, quick enough to be waited for, in bytes a second.
const SLOW: u64 = 4 << 20;

/// A VM with as many disks as what it is made of has, in the same order.
fn made_of(
    world: &World,
    disks: &[hostler_types::SnapshotDisk],
    source: impl Fn(LayerFile) -> DiskSource,
) -> VmDefinition {
    let mut definition = world.vm(DiskSource::Blank);
    let disk = |disk: &hostler_types::SnapshotDisk| {
        let mut spec = blank(disk.name.as_str(), disk.size);
        spec.source = source(disk.layers[0].clone());
        spec
    };
    definition.vm.spec.disks = disks.iter().map(disk).collect();
    definition
}

/// As [`fill`] writes it, read from outside, whether the VM runs or not.
fn holds(disk: &Path, tag: &str, at: usize, mib: usize) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("raw");
    let status = Command::new("qemu-img")
        .args(["dd", "-U", "-f", "qcow2", "-O", "raw", "bs=1M"])
        // It counts what it skips.
        .args([format!("skip={at}"), format!("count={}", at + mib)])
        .args([format!("if={}", disk.display()), format!("of={}", raw.display())])
        .status();
    assert!(status.unwrap().success(), "{}", disk.display());
    let found = std::fs::read(raw).unwrap();
    let line = format!("{tag}\n").into_bytes();
    // Each MiB is a copy of the first.
    let same = |mib: &[u8]| mib.iter().eq(line.iter().cycle().take(mib.len()));
    found.len() == mib << 20 && found.chunks(1 << 20).all(same)
}

/// The active file of the disk `data`.
fn data(world: &World, report: &VmReport) -> std::path::PathBuf {
    let disk = report.disks.iter().find(|disk| disk.name.as_str() == "data").unwrap();
    place(world, &disk.layers[0].file)
}

/// Nothing is in the VM's directory that none of its disks needs, and nothing lacks.
async fn assert_files(world: &World, vm: VmId) {
    let report = world.report(vm).await.unwrap();
    let own = format!("vms/{vm}/");
    let layers = report.disks.iter().flat_map(|disk| &disk.layers).map(|layer| &layer.file);
    let mut known: Vec<_> = layers
        .filter(|file| file.as_str().starts_with(&own))
        .map(|file| file.file_name().to_owned())
        .collect();
    known.sort();
    assert_eq!(files(world, vm), known);
    assert_whole(world, vm).await;
}

async fn gone(world: &World, vm: VmId, snapshot: SnapshotId) {
    world.wait_for("it has left the tree", vm, |r| r.snapshots.get(snapshot).is_none()).await;
}

/// A snapshot, and something that is written after it.
async fn snapshot_then_fill(world: &World, vm: VmId, tag: &str, at: u32, mib: u32) -> SnapshotId {
    let (id, _) = snapshot(world, vm, How::default()).await;
    fill(world, vm, tag, at, mib).await;
    id
}

#[tokio::test]
async fn qemu_deletions_of_one_vm_and_of_its_clone_do_not_meet() {
    let world = World::start().await;
    let one = running(&world).await;
    fill(&world, one, "base", 0, 8).await;
    let frozen = world.freeze(one, None).await.unwrap();
    let clone = made_of(&world, &frozen.disks, DiskSource::Linked);
    let two = clone.vm.id();
    world.create(&clone).await.unwrap();
    world.vm_start(two).await.unwrap();
    let first = snapshot_then_fill(&world, one, "one", 2, 12).await;
    let second = snapshot_then_fill(&world, one, "two", 10, 12).await;
    let third = snapshot_then_fill(&world, one, "three", 40, 2).await;
    answers(&world, two).await;
    let below = snapshot_then_fill(&world, two, "uno", 4, 12).await;
    let above = snapshot_then_fill(&world, two, "due", 12, 12).await;

    // One is being merged when the next is asked for, twice; then the first is given up by who asked.
    // The clone, whose disk lies on the same file, does the same; both guests write.
    let (slow, quick) = (command(1), command(1));
    let (firsts, seconds) = ([first], [second]);
    let begun = delete_as(&world, one, slow, &seconds, Some(SLOW));
    let meanwhile = async {
        gone(&world, one, second).await;
        let again = async {
            gone(&world, one, first).await;
            cancel(&world, slow.op).await;
            let again = delete_as(&world, one, quick, &firsts, None);
            let (again, ()) = tokio::join!(again, fill(&world, one, "live", 60, 4));
            again.unwrap();
        };
        let (report, ()) = tokio::join!(delete_as(&world, one, quick, &firsts, None), again);
        report.unwrap()
    };
    let of_clone = async {
        let belows = [below];
        let deeper = delete_as(&world, two, command(1), &belows, Some(SLOW));
        let next = async {
            gone(&world, two, below).await;
            let aboves = [above];
            let (report, ()) = tokio::join!(
                delete_as(&world, two, command(1), &aboves, None),
                fill(&world, two, "vivo", 60, 4)
            );
            report.unwrap()
        };
        let (deeper, next) = tokio::join!(deeper, next);
        (deeper.unwrap(), next)
    };
    let (begun, report, (deeper, next)) = tokio::join!(begun, meanwhile, of_clone);
    assert_eq!(begun.unwrap_err().code, "cancelled", "and the other goes on");
    assert_eq!(deeper.vm, two);
    assert_eq!(chain(&report, "data"), ["data.4.qcow2", "data.1.qcow2", "data.qcow2"]);
    assert_eq!(chain(&next, "data"), ["data.qcow2", "data.qcow2"], "its own, and the parent's");
    for vm in [one, two] {
        assert_eq!(world.report(vm).await.unwrap().power, PowerState::Running);
        assert_whole(&world, vm).await;
    }
    assert_files(&world, two).await;
    assert_filled(&world, one, "base", 0, 2).await;
    assert_filled(&world, one, "one", 2, 8).await;
    assert_filled(&world, one, "two", 10, 12).await;
    assert_filled(&world, one, "three", 40, 2).await;
    assert_filled(&world, one, "live", 60, 4).await;
    assert_filled(&world, two, "base", 0, 4).await;
    assert_filled(&world, two, "uno", 4, 8).await;
    assert_filled(&world, two, "due", 12, 12).await;
    assert_filled(&world, two, "vivo", 60, 4).await;

    // The snapshot that stayed is what it was; without the clone, nothing is left of it all.
    let report = revert_as(&world, one, command(1), third, Some(false)).await.unwrap();
    let active = data(&world, &report);
    assert!(holds(&active, "base", 0, 2) && holds(&active, "one", 2, 8));
    assert!(holds(&active, "two", 10, 12) && !holds(&active, "three", 40, 2));
    let refused = world.remove(one, false, false).await.unwrap_err();
    assert_eq!(refused.code, "in_use", "{refused:?}");
    let report = delete(&world, one, &[third]).await;
    assert_eq!(report.disks[0].layers.len(), 3, "the clone needs the lowest: {report:?}");
    world.remove(two, false, true).await.unwrap();
    let report = delete(&world, one, &[]).await;
    assert_eq!(files(&world, one), ["data.qcow2", "disk0.qcow2"]);
    let active = data(&world, &report);
    assert!(holds(&active, "base", 0, 2) && holds(&active, "two", 10, 12));
    world.remove(one, false, false).await.unwrap();
    world.assert_nothing_left();
}

/// What all files of a VM take, in sectors.
fn blocks(world: &World, vm: VmId) -> u64 {
    let names = files(world, vm).into_iter();
    let paths = names.map(|name| world.path(&format!("store/vms/{vm}/{name}")));
    // One may be gone since.
    let blocks = |path| std::fs::metadata(path).map_or(0, |file: std::fs::Metadata| file.blocks());
    paths.map(blocks).sum()
}

/// Some MiB have gone from one file into another.
async fn merging(world: &World, vm: VmId, before: u64) {
    eventually("something is merged", Duration::from_secs(60), async || {
        (blocks(world, vm).abs_diff(before) > 4 << 11).then_some(())
    })
    .await;
}

#[tokio::test]
async fn qemu_clones_are_made_while_their_parent_merges() {
    let world = World::start().await;
    let image = world.tiny_image().await;
    let mut definition = world.vm(DiskSource::Image(image));
    definition.vm.spec.disks.push(blank("data", hostler_types::ByteSize::gib(1)));
    let parent = definition.vm.id();
    world.create(&definition).await.unwrap();
    world.vm_start(parent).await.unwrap();
    answers(&world, parent).await;
    fill(&world, parent, "base", 0, 8).await;
    let first = snapshot_then_fill(&world, parent, "one", 4, 20).await;
    let second = snapshot_then_fill(&world, parent, "two", 16, 8).await;
    // A linked and a full clone, and two that are linked, while data goes from one file into another.
    let before = blocks(&world, parent);
    let deletion = command(1);
    let firsts = [first];
    let merge = delete_as(&world, parent, deletion, &firsts, Some(SLOW));
    let clones = async {
        merging(&world, parent, before).await;
        let copy = |file| DiskSource::Copy(CopySource { datastore: world.datastore, file });
        tokio::join!(
            clone(&world, parent, copy),
            clone(&world, parent, DiskSource::Linked),
            clone(&world, parent, DiskSource::Linked),
            fill(&world, parent, "live", 80, 4),
        )
    };
    let (merged, (full, first_link, second_link, ())) = tokio::join!(merge, clones);
    merged.unwrap();
    let made = [full, first_link, second_link];
    let parents = assert_parent(&world, parent).await;
    for report in &made {
        assert_whole(&world, report.vm).await;
        let own = data(&world, report);
        assert!(holds(&own, "base", 0, 4) && holds(&own, "one", 4, 12), "{report:?}");
        assert!(holds(&own, "two", 16, 8), "{report:?}");
    }
    assert_eq!(chain(&made[0], "data"), ["data.qcow2"]);
    // The clones need what they lie on; the snapshot has its own.
    assert!(parents.snapshots.get(first).is_none() && parents.snapshots.get(second).is_some());

    // Now with an instant clone: another merge is in the middle.
    let third = snapshot_then_fill(&world, parent, "tri", 50, 16).await;
    let fourth = snapshot_then_fill(&world, parent, "four", 60, 2).await;
    let (before, thirds) = (blocks(&world, parent), [third]);
    let merge = delete_as(&world, parent, command(1), &thirds, Some(SLOW));
    let instant = async {
        merging(&world, parent, before).await;
        let report = world.report(parent).await.unwrap();
        let clone = instant_clone(&world, &report);
        fork(&world, parent, &request([clone.clone()])).await.unwrap();
        clone.vm.id()
    };
    let (merged, instant) = tokio::join!(merge, instant);
    merged.unwrap();
    assert_eq!(world.report(instant).await.unwrap().power, PowerState::Running);
    assert_eq!(world.qemu_pids().len(), 2);
    for vm in [parent, instant] {
        assert_whole(&world, vm).await;
        assert_filled(&world, vm, "base", 0, 4).await;
        assert_filled(&world, vm, "one", 4, 12).await;
        assert_filled(&world, vm, "two", 16, 8).await;
        assert_filled(&world, vm, "tri", 50, 10).await;
        assert_filled(&world, vm, "four", 60, 2).await;
        assert_filled(&world, vm, "tri", 62, 4).await;
    }
    fill(&world, instant, "own", 0, 4).await;
    assert_filled(&world, parent, "base", 0, 4).await;

    // All go, and with the last of them what they needed.
    world.stop(parent, StopMode::PowerOff, 0).await.unwrap();
    world.remove(instant, false, true).await.unwrap();
    for clone in &made {
        assert!(holds(&data(&world, clone), "two", 16, 8));
        world.remove(clone.vm, false, false).await.unwrap();
    }
    let report = delete(&world, parent, &[second, fourth]).await;
    assert_eq!(files(&world, parent), ["data.qcow2", "disk0.qcow2"]);
    let own = data(&world, &report);
    assert!(holds(&own, "base", 0, 4) && holds(&own, "one", 4, 12) && holds(&own, "two", 16, 8));
    assert!(holds(&own, "tri", 50, 10) && holds(&own, "four", 60, 2));
    world.remove(parent, false, false).await.unwrap();
    world.assert_nothing_left();
}

/// Clones the VM as it is now. The merge lets it: files that have just been lent are built upon first.
async fn clone(world: &World, parent: VmId, source: impl Fn(LayerFile) -> DiskSource) -> VmReport {
    let frozen = world.freeze(parent, None).await.unwrap();
    world.create(&made_of(world, &frozen.disks, &source)).await.unwrap()
}

async fn assert_parent(world: &World, parent: VmId) -> VmReport {
    assert_whole(world, parent).await;
    assert_filled(world, parent, "base", 0, 4).await;
    assert_filled(world, parent, "one", 4, 12).await;
    assert_filled(world, parent, "two", 16, 8).await;
    assert_filled(world, parent, "live", 80, 4).await;
    let report = world.report(parent).await.unwrap();
    assert_eq!(report.power, PowerState::Running);
    report
}

/// As a server would define it, of a VM with more than one disk.
fn instant_clone(world: &World, report: &VmReport) -> VmDefinition {
    let mut clone = world.vm(DiskSource::Blank);
    clone.vm.metadata.name = "instant01".parse().unwrap();
    let disk = |disk: &hostler_types::DiskStatus| {
        let mut spec = blank(disk.name.as_str(), hostler_types::ByteSize::gib(1));
        spec.source = DiskSource::Linked(disk.layers[0].file.clone());
        spec
    };
    clone.vm.spec.disks = report.disks.iter().map(disk).collect();
    clone
}

/// A snapshot that is being deleted is no longer there to be cloned, and this is said.
#[tokio::test]
async fn a_snapshot_that_is_merged_is_not_cloned() {
    let world = World::start().await;
    let parent = crate::clones::parent(&world, 40).await;
    let vm = parent.vm.id();
    let (first, _) = snapshot(&world, vm, How::default()).await;
    let active = place(&world, &crate::clones::disk0(vm, 1));
    crate::clones::fill(&active, 9, 20, 40);
    let (deletion, firsts): (api::VmCommand, _) = (command(1), [first]);
    let merge = delete_as(&world, vm, deletion, &firsts, Some(SLOW));
    let asked = async {
        gone(&world, vm, first).await;
        world.freeze(vm, Some(first)).await.unwrap_err()
    };
    let (merged, refused) = tokio::join!(merge, asked);
    assert!(refused.detail.contains(&first.to_string()), "{refused:?}");
    assert_eq!(chain(&merged.unwrap(), "disk0"), ["disk0.qcow2"]);
    let base = place(&world, &crate::clones::disk0(vm, 0));
    assert!(crate::clones::shows(&base, 7, 0, 20) && crate::clones::shows(&base, 9, 20, 40));
    world.remove(vm, false, false).await.unwrap();
    world.assert_nothing_left();
}

/// A VM without a system, whose snapshot is so much to merge that it takes its time: 40 MiB.
async fn with_much_to_merge(world: &World, runs: bool) -> (VmId, SnapshotId) {
    let mut definition = world.vm(DiskSource::Blank);
    definition.vm.spec.customization = None;
    definition.vm.spec.memory = hostler_types::ByteSize::mib(128);
    definition.vm.spec.restart = hostler_types::RestartPolicy::Never;
    world.create(&definition).await.unwrap();
    let vm = definition.vm.id();
    let (id, _) = snapshot(world, vm, How::default()).await;
    crate::clones::fill(&place(world, &crate::clones::disk0(vm, 1)), 9, 0, 40);
    if runs {
        world.vm_start(vm).await.unwrap();
    }
    (vm, id)
}

/// In bytes a second: 40 s for what there is to merge.
const CRAWL: u64 = 1 << 20;

#[tokio::test]
async fn qemu_who_joins_a_deletion_goes_on_at_its_own_rate_when_that_is_cancelled() {
    let world = World::start().await;
    for runs in [true, false] {
        let (vm, id) = with_much_to_merge(&world, runs).await;
        let (first, second, ids) = (command(1), command(1), [id]);
        let cancelled = async {
            gone(&world, vm, id).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let joined = delete_as(&world, vm, second, &ids, None);
            let giving_up = async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                cancel(&world, first.op).await;
                std::time::Instant::now()
            };
            let (joined, since) = tokio::join!(joined, giving_up);
            (joined, since.elapsed())
        };
        let (begun, (joined, took)) =
            tokio::join!(delete_as(&world, vm, first, &ids, Some(CRAWL)), cancelled);
        assert_eq!(begun.unwrap_err().code, "cancelled", "runs: {runs}");
        assert_eq!(chain(&joined.unwrap(), "disk0"), ["disk0.qcow2"], "runs: {runs}");
        assert!(took < Duration::from_secs(15), "runs: {runs}: it took {took:?}");
        world.remove(vm, false, true).await.unwrap();
    }
    world.assert_nothing_left();
}

/// Whoever gives a deletion up, however close to QEMU's death, has given it up: nobody merges the files
/// behind his back, which a merge without QEMU would do.
#[tokio::test]
async fn qemu_a_merge_that_was_cancelled_as_qemu_died_is_over() {
    let world = World::start().await;
    for after in [-20_i64, -2, 0, 1, 3, 10, 40, 150] {
        let (vm, id) = with_much_to_merge(&world, true).await;
        let (deletion, ids) = (command(1), [id]);
        let death = async {
            gone(&world, vm, id).await;
            tokio::time::sleep(Duration::from_millis(700)).await;
            let gap = Duration::from_millis(after.unsigned_abs());
            if after < 0 {
                cancel(&world, deletion.op).await;
                tokio::time::sleep(gap).await;
            }
            crate::killed::kill_qemu(&world);
            if after >= 0 {
                tokio::time::sleep(gap).await;
                cancel(&world, deletion.op).await;
            }
        };
        let (deleted, ()) = tokio::join!(delete_as(&world, vm, deletion, &ids, Some(CRAWL)), death);
        assert_eq!(deleted.unwrap_err().code, "cancelled", "{after} ms");
        world.wait_for("its end is known", vm, |r| r.power == PowerState::Failed).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let report = world.report(vm).await.unwrap();
        assert_eq!(chain(&report, "disk0"), ["disk0.1.qcow2", "disk0.qcow2"], "{after} ms");
        // And it is merged by who asks for it.
        delete(&world, vm, &[]).await;
        let base = place(&world, &crate::clones::disk0(vm, 0));
        assert!(crate::clones::shows(&base, 9, 0, 40), "{after} ms");
        world.remove(vm, false, true).await.unwrap();
    }
    world.assert_nothing_left();
}
