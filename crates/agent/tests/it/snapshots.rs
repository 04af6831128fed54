//! Snapshots of a VM that runs: taken, gone back to, deleted and merged while its guest writes, and
//! whoever dies meanwhile.

use std::path::PathBuf;
use std::time::Duration;

use hostler_agent_api as api;
use hostler_agent_api::{VmPath, VmReport};
use hostler_endpoint::{NoParams, Problem};
use hostler_types::{
    ByteSize, Consistency, DiskBus, DiskSource, DiskSpec, ExecRequest, LayerFile, Name,
    OperationId, PowerState, SnapshotId, StopMode, VmId,
};

use crate::world::{World, command, long, problem};

/// How a snapshot is taken.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct How {
    pub(crate) memory: bool,
    pub(crate) quiesce: bool,
}

pub(crate) async fn snapshot_as(
    world: &World,
    vm: VmId,
    command: api::VmCommand,
    id: SnapshotId,
    how: How,
) -> Result<VmReport, Problem> {
    let text = id.to_string();
    let request = api::VmSnapshotRequest {
        command,
        snapshot: id,
        name: format!("s-{}", &text[text.len() - 12..]).parse().unwrap(),
        description: String::new(),
        by: "admin".to_owned(),
        memory: how.memory,
        quiesce: how.quiesce,
    };
    let path = VmPath { vm };
    let answer = world.client.call_with::<api::VmSnapshot>(&path, &NoParams {}, request, long());
    answer.await.map_err(problem)
}

pub(crate) async fn snapshot(world: &World, vm: VmId, how: How) -> (SnapshotId, VmReport) {
    let id = SnapshotId::generate();
    (id, snapshot_as(world, vm, command(1), id, how).await.unwrap())
}

pub(crate) async fn revert_as(
    world: &World,
    vm: VmId,
    command: api::VmCommand,
    snapshot: SnapshotId,
    start: Option<bool>,
) -> Result<VmReport, Problem> {
    let request = api::VmRevertRequest { command, snapshot, start };
    let path = VmPath { vm };
    let answer = world.client.call_with::<api::VmRevert>(&path, &NoParams {}, request, long());
    answer.await.map_err(problem)
}

pub(crate) async fn delete_as(
    world: &World,
    vm: VmId,
    command: api::VmCommand,
    snapshots: &[SnapshotId],
    max_rate: Option<u64>,
) -> Result<VmReport, Problem> {
    let snapshots = snapshots.to_vec();
    let request = api::VmSnapshotDeleteRequest { command, snapshots, max_rate };
    let path = VmPath { vm };
    let answer =
        world.client.call_with::<api::VmSnapshotDelete>(&path, &NoParams {}, request, long());
    answer.await.map_err(problem)
}

pub(crate) async fn delete(world: &World, vm: VmId, snapshots: &[SnapshotId]) -> VmReport {
    delete_as(world, vm, command(1), snapshots, None).await.unwrap()
}

pub(crate) fn blank(name: &str, size: ByteSize) -> DiskSpec {
    DiskSpec {
        name: name.parse().unwrap(),
        size,
        source: DiskSource::Blank,
        bus: DiskBus::VirtioBlk,
        limits: Default::default(),
        provisioning: Default::default(),
    }
}

/// A VM with the tiny guest and a disk beside, which runs and whose agent answers.
pub(crate) async fn running(world: &World) -> VmId {
    let image = world.tiny_image().await;
    let mut definition = world.vm(DiskSource::Image(image));
    definition.vm.spec.disks.push(blank("data", ByteSize::gib(1)));
    let vm = definition.vm.id();
    world.create(&definition).await.unwrap();
    world.vm_start(vm).await.unwrap();
    answers(world, vm).await;
    vm
}

/// The guest's agent answers, and it is known which of its disks is `data`.
pub(crate) async fn answers(world: &World, vm: VmId) {
    world.wait_for("its agent answers", vm, |r| r.guest.as_ref().is_some_and(|g| g.agent)).await;
    let script = "for d in /sys/block/vd*; do [ \"$(cat $d/serial)\" = data ] && \
                  echo /dev/${d##*/} > /the-disk; done; grep -c vd /the-disk";
    assert_eq!(run(world, vm, script).await, "1");
}

pub(crate) async fn run(world: &World, vm: VmId, script: &str) -> String {
    let request = ExecRequest {
        command: ["/bin/busybox", "sh", "-c", script].map(str::to_owned).to_vec(),
        stdin: String::new(),
        timeout_seconds: 120,
    };
    let path = VmPath { vm };
    let answer = world.client.call_with::<api::VmExec>(&path, &NoParams {}, request, long());
    let answer = answer.await.unwrap();
    assert_eq!(answer.exit_code, Some(0), "{script}: {answer:?}");
    answer.stdout.trim().to_owned()
}

/// A command that prints so many MiB of what `tag` stands for. Only the first is made by `yes`: through
/// its pipe an emulated guest gets hardly 4 MiB a second.
pub(crate) fn printing(tag: &str, mib: u32) -> String {
    format!(
        "{{ yes {tag} | busybox head -c 1048576 > /tmp/mib-{tag}; \
         for i in $(busybox seq {mib}); do cat /tmp/mib-{tag}; done; rm /tmp/mib-{tag}; }}"
    )
}

/// Fills some MiB of the data disk with what `tag` stands for.
pub(crate) async fn fill(world: &World, vm: VmId, tag: &str, at: u32, mib: u32) {
    let script = format!(
        "{} > /tmp/fill && busybox dd if=/tmp/fill of=$(cat /the-disk) \
         bs=1M seek={at} conv=notrunc,fsync 2>/dev/null && rm /tmp/fill",
        printing(tag, mib)
    );
    run(world, vm, &script).await;
}

#[track_caller]
pub(crate) fn assert_filled<'a>(
    world: &'a World,
    vm: VmId,
    tag: &'a str,
    at: u32,
    mib: u32,
) -> impl Future<Output = ()> + 'a {
    let caller = std::panic::Location::caller();
    async move {
        let found = is_filled(world, vm, tag, at, mib).await;
        assert_eq!(found, "same", "{caller}: {tag} at {at} MiB: {:?}", world.report(vm).await);
    }
}

async fn is_filled(world: &World, vm: VmId, tag: &str, at: u32, mib: u32) -> String {
    let script = format!(
        "echo 3 > /proc/sys/vm/drop_caches; a=$(busybox dd if=$(cat /the-disk) bs=1M skip={at} \
         count={mib} 2>/dev/null | md5sum); b=$({} | md5sum); \
         [ \"$a\" = \"$b\" ] && echo same || echo different",
        printing(tag, mib)
    );
    run(world, vm, &script).await
}

/// The files of a disk, without its datastore's path.
pub(crate) fn chain(report: &VmReport, disk: &str) -> Vec<String> {
    let disk = report.disks.iter().find(|status| status.name.as_str() == disk).unwrap();
    disk.layers.iter().map(|layer| layer.file.file_name().to_owned()).collect()
}

/// Everything beneath the VM's directory that is a disk's file or a snapshot's.
pub(crate) fn files(world: &World, vm: VmId) -> Vec<String> {
    let names = std::fs::read_dir(world.path(&format!("store/vms/{vm}"))).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> =
        names.filter(|name| name.ends_with(".qcow2") || name.starts_with("snapshot-")).collect();
    names.sort();
    names
}

pub(crate) fn place(world: &World, file: &LayerFile) -> PathBuf {
    world.path("store").join(file.as_str())
}

#[tokio::test]
async fn qemu_snapshots_come_and_go_while_the_guest_writes() {
    let world = World::start().await;
    let vm = running(&world).await;
    fill(&world, vm, "one", 0, 8).await;
    let (first, report) = snapshot(&world, vm, How::default()).await;
    assert_eq!(chain(&report, "data"), ["data.1.qcow2", "data.qcow2"]);
    assert_eq!(chain(&report, "disk0")[..2], ["disk0.1.qcow2", "disk0.qcow2"]);
    assert_eq!((report.power, report.snapshots.current), (PowerState::Running, Some(first)));
    fill(&world, vm, "two", 4, 8).await;

    // Frozen for the instant, and thawed.
    let (second, report) = snapshot(&world, vm, How { quiesce: true, ..How::default() }).await;
    let taken = report.snapshots.get(second).unwrap().clone();
    assert_eq!((taken.consistency, taken.parent), (Consistency::Application, Some(first)));
    assert_eq!(report.snapshots.get(first).unwrap().consistency, Consistency::Crash);
    assert!(report.snapshots.get(first).unwrap().written >= ByteSize::mib(8), "{report:?}");

    // With memory: the guest goes on from where it was.
    run(&world, vm, "echo then > /tmp/when").await;
    let (third, report) = snapshot(&world, vm, How { memory: true, ..How::default() }).await;
    let taken = report.snapshots.get(third).unwrap().clone();
    let paused = taken.paused_ms.unwrap();
    assert!(paused > 0 && paused < 3000, "{paused} ms");
    assert!(taken.memory.unwrap() > ByteSize::mib(16), "{taken:?}");
    assert_eq!(report.power, PowerState::Running);
    run(&world, vm, "echo later > /tmp/when").await;
    fill(&world, vm, "three", 8, 8).await;

    // One in the middle goes while the guest writes.
    let writing = async { fill(&world, vm, "four", 64, 24).await };
    let middle = [second];
    let (report, ()) = tokio::join!(delete(&world, vm, &middle), writing);
    assert_eq!(chain(&report, "data"), ["data.3.qcow2", "data.1.qcow2", "data.qcow2"]);
    assert_eq!(report.snapshots.get(third).unwrap().parent, Some(first));
    assert_filled(&world, vm, "one", 0, 4).await;
    assert_filled(&world, vm, "two", 4, 4).await;
    assert_filled(&world, vm, "three", 8, 8).await;
    assert_filled(&world, vm, "four", 64, 24).await;

    // Back to the memory: what was done since is undone.
    let report = revert_as(&world, vm, command(1), third, None).await.unwrap();
    assert_eq!((report.power, report.snapshots.current), (PowerState::Running, Some(third)));
    assert_eq!(run(&world, vm, "cat /tmp/when").await, "then");
    assert_filled(&world, vm, "two", 4, 8).await;
    assert_eq!(chain(&report, "data")[1..], ["data.1.qcow2", "data.qcow2"]);

    // Cancelled in the middle: the snapshots are gone, the files are not.
    fill(&world, vm, "fiv", 16, 16).await;
    let (deletion, client) = (command(1), world.client.clone());
    let slow = async { delete_as(&world, vm, deletion, &[first, third], Some(1 << 20)).await };
    let cancel = async {
        world.wait_for("the tree is empty", vm, |r| r.snapshots.is_empty()).await;
        let path = api::OperationPath { op: deletion.op };
        client.call::<api::OperationCancel>(&path, &NoParams {}, ()).await.unwrap();
    };
    let (slow, ()) = tokio::join!(slow, cancel);
    assert_eq!(slow.unwrap_err().code, "cancelled");
    fill(&world, vm, "six", 20, 4).await;
    assert_eq!(world.report(vm).await.unwrap().power, PowerState::Running);
    let report = delete(&world, vm, &[]).await;
    assert_eq!(chain(&report, "data"), ["data.qcow2"]);
    assert_eq!(chain(&report, "disk0")[0], "disk0.qcow2");
    assert_eq!(files(&world, vm), ["data.qcow2", "disk0.qcow2"]);
    assert_filled(&world, vm, "fiv", 16, 4).await;
    assert_filled(&world, vm, "six", 20, 4).await;
    assert_filled(&world, vm, "fiv", 24, 8).await;

    world.stop(vm, StopMode::PowerOff, 0).await.unwrap();
    world.remove(vm, false, false).await.unwrap();
    world.assert_nothing_left();
}

/// Of the datastore's check: nothing is missing, nothing left over, and QEMU agrees.
pub(crate) async fn assert_whole(world: &World, vm: VmId) {
    let report = world.report(vm).await.unwrap();
    for disk in &report.disks {
        for pair in disk.layers.windows(2) {
            let info = std::process::Command::new("qemu-img")
                .args(["info", "-U", "--output=json"])
                .arg(place(world, &pair[0].file))
                .output()
                .unwrap();
            let info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
            let named = info["backing-filename"].as_str().unwrap();
            assert_eq!(pair[0].file.resolve(named).unwrap(), pair[1].file, "{report:?}");
        }
    }
}

#[tokio::test]
async fn qemu_whoever_dies_in_a_merge_nothing_is_lost() {
    let mut world = World::start_process().await;
    let vm = running(&world).await;
    fill(&world, vm, "one", 0, 6).await;
    let mut written = 0;
    for (round, delay) in [2_u64, 15, 40, 90, 250].into_iter().enumerate() {
        let (snapshot, _) = snapshot(&world, vm, How::default()).await;
        fill(&world, vm, &format!("round{round}"), 40 + written, 6).await;
        written += 6;
        let (client, op) = (world.client.clone(), command(1));
        let path = VmPath { vm };
        let request = api::VmSnapshotDeleteRequest {
            command: op,
            snapshots: vec![snapshot],
            max_rate: (round % 2 == 0).then_some(16 << 20),
        };
        let again = request.clone();
        let asking = tokio::spawn(async move {
            client.call_with::<api::VmSnapshotDelete>(&path, &NoParams {}, request, long()).await
        });
        tokio::time::sleep(Duration::from_millis(delay)).await;
        world.end_agent().await;
        let _ = asking.await.unwrap();
        if round >= 3 {
            // QEMU too.
            for pid in world.qemu_pids() {
                let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            }
        }
        world.spawn_agent().await;
        answers(&world, vm).await;
        assert_whole(&world, vm).await;
        fill(&world, vm, "fresh", 500, 1).await;
        let path = VmPath { vm };
        let answer =
            world.client.call_with::<api::VmSnapshotDelete>(&path, &NoParams {}, again, long());
        let report = answer.await.unwrap();
        assert_eq!(chain(&report, "data"), ["data.qcow2"], "{round}");
        assert_eq!(files(&world, vm), ["data.qcow2", "disk0.qcow2"], "{round}");
        assert_whole(&world, vm).await;
        assert_filled(&world, vm, "one", 0, 6).await;
        for before in 0..=round {
            let at = 40 + u32::try_from(before).unwrap() * 6;
            assert_filled(&world, vm, &format!("round{before}"), at, 6).await;
        }
        assert_filled(&world, vm, "fresh", 500, 1).await;
    }

    // QEMU alone, in the middle of a merge: it goes on without.
    let (snapshot, _) = snapshot(&world, vm, How::default()).await;
    fill(&world, vm, "last", 300, 12).await;
    let deletion = command(1);
    let snapshots = [snapshot];
    let slow = delete_as(&world, vm, deletion, &snapshots, Some(8 << 20));
    let kill = async {
        world.wait_for("the tree is empty", vm, |r| r.snapshots.is_empty()).await;
        for pid in world.qemu_pids() {
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
    };
    let (report, ()) = tokio::join!(slow, kill);
    assert_eq!(chain(&report.unwrap(), "data"), ["data.qcow2"]);
    world.wait_for("it runs again", vm, |r| r.power == PowerState::Running).await;
    answers(&world, vm).await;
    assert_filled(&world, vm, "last", 300, 12).await;
    world.end_agent().await;
}

#[tokio::test]
async fn qemu_an_agent_that_dies_in_a_snapshot_leaves_the_guest_running() {
    let mut world = World::start_process().await;
    let vm = running(&world).await;
    run(&world, vm, "echo kept > /tmp/kept").await;
    let mut op = OperationId::generate();
    for (round, delay) in [1_u64, 6, 12, 30, 80, 160].into_iter().enumerate() {
        op = OperationId::generate();
        let id = SnapshotId::generate();
        let how = How { memory: round % 2 == 1, quiesce: round % 3 == 0 };
        let command = api::VmCommand { op, ..command(1) };
        fill(&world, vm, &format!("round{round}"), 0, 4).await;
        {
            let asking = snapshot_as(&world, vm, command, id, how);
            let _ = tokio::time::timeout(Duration::from_millis(delay), asking).await;
        }
        world.end_agent().await;
        world.spawn_agent().await;
        answers(&world, vm).await;
        assert_whole(&world, vm).await;
        // The guest writes, so it is not frozen; and it is the same guest.
        fill(&world, vm, "after", 8, 4).await;
        assert_eq!(run(&world, vm, "sync; cat /tmp/kept").await, "kept");
        let report = snapshot_as(&world, vm, command, id, how).await.unwrap();
        assert!(report.snapshots.get(id).is_some());
        let report = delete(&world, vm, &[id]).await;
        assert_eq!(chain(&report, "data"), ["data.qcow2"], "{round}");
        assert_eq!(files(&world, vm), ["data.qcow2", "disk0.qcow2"], "{round}");
        assert_filled(&world, vm, &format!("round{round}"), 0, 4).await;
        assert_filled(&world, vm, "after", 8, 4).await;
    }
    assert!(world.report(vm).await.unwrap().snapshots.is_empty(), "{op}");
    world.end_agent().await;
}

#[tokio::test]
async fn what_a_snapshot_cannot_be_taken_of_is_said() {
    let world = World::start().await;
    let mut definition = world.vm(DiskSource::Blank);
    definition.vm.spec.customization = None;
    let vm = definition.vm.id();
    world.create(&definition).await.unwrap();
    for how in [How { memory: true, quiesce: false }, How { memory: false, quiesce: true }] {
        let refused = snapshot_as(&world, vm, command(1), SnapshotId::generate(), how).await;
        assert!(refused.unwrap_err().detail.contains("needs it to be running"), "{how:?}");
    }
    let (id, _) = snapshot(&world, vm, How::default()).await;
    let again = snapshot_as(&world, vm, command(1), id, How::default()).await.unwrap();
    assert_eq!(again.snapshots.snapshots.len(), 1, "asked twice, taken once");
    let unknown = revert_as(&world, vm, command(1), SnapshotId::generate(), None).await;
    assert_eq!(unknown.unwrap_err().code, "not_found");

    // A disk that a snapshot holds is not lost with its definition, and comes back with it.
    let data: Name = "data".parse().unwrap();
    definition.vm.spec.disks.push(blank("data", ByteSize::mib(16)));
    let define = async |definition: &api::VmDefinition| {
        let request = api::VmDefineRequest::new(command(1), definition.clone());
        let path = VmPath { vm };
        world.client.call::<api::VmDefine>(&path, &NoParams {}, request).await.map_err(problem)
    };
    define(&definition).await.unwrap();
    let (with_data, _) = snapshot(&world, vm, How::default()).await;
    definition.vm.spec.disks.pop();
    let report = define(&definition).await.unwrap();
    assert!(report.disks.iter().all(|disk| disk.name != data));
    assert!(files(&world, vm).contains(&"data.qcow2".to_owned()));
    assert!(!files(&world, vm).contains(&"data.1.qcow2".to_owned()));
    definition.vm.spec.disks.push(blank("data", ByteSize::mib(32)));
    let clash = define(&definition).await.unwrap_err();
    assert!(clash.detail.contains("holds another disk `data`"), "{clash:?}");
    definition.vm.spec.disks.pop();
    let report = revert_as(&world, vm, command(1), with_data, None).await.unwrap();
    assert!(report.disks.iter().any(|disk| disk.name == data));
    // And is only detached by going back to before it was.
    let report = revert_as(&world, vm, command(1), id, None).await.unwrap();
    assert!(report.disks.iter().any(|disk| disk.name == data), "it is the VM's still");
    delete(&world, vm, &[id, with_data]).await;

    // Another agent finds all by what lies beside the disks.
    let (kept, _) = snapshot(&world, vm, How::default()).await;
    definition.vm.spec.detached = vec![blank("data", ByteSize::mib(16))];
    define(&definition).await.unwrap();
    world.remove(vm, true, false).await.unwrap();
    let request = api::VmCreateRequest { command: command(1), definition };
    let path = VmPath { vm };
    let report = world.client.call::<api::VmRegister>(&path, &NoParams {}, request).await.unwrap();
    assert_eq!(report.snapshots.current, Some(kept));
    revert_as(&world, vm, command(1), kept, None).await.unwrap();
    world.remove(vm, false, false).await.unwrap();
    world.assert_nothing_left();
}
