//! A VM's files go to another datastore, while its guest runs or not, whoever dies or is full meanwhile.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hostler_agent_api as api;
use hostler_agent_api::{VmCommand, VmPath, VmReport};
use hostler_endpoint::{ClientError, NoParams, Problem};
use hostler_types::{
    ByteSize, DatastoreId, DiskSource, Firmware, LayerFile, PowerState, RestartPolicy, StopMode,
    VmId,
};

use crate::clones::{cancel, disk0, fill as fill_disk, parent, shows};
use crate::full::Small;
use crate::killed::kill_qemu;
use crate::snapshots::{
    How, answers, assert_filled, blank, chain, delete, fill, revert_as, run, running, snapshot,
};
use crate::world::{World, command, eventually, long, problem, within};

/// Slow enough to be met in the middle, in bytes a second.
const SLOW: u64 = 4 << 20;

/// Another datastore of the host, in a directory of its folder.
async fn another(world: &World, name: &str) -> DatastoreId {
    let datastore = DatastoreId::generate();
    let path = api::DatastorePath { datastore };
    let check = api::DatastoreCheck {
        path: world.path(name).to_str().unwrap().to_owned(),
        create: true,
        shared: false,
    };
    world.client.call::<api::DatastoreEnsure>(&path, &NoParams {}, check).await.unwrap();
    datastore
}

type Call = tokio::task::JoinHandle<Result<VmReport, ClientError>>;

fn begin(
    world: &World,
    vm: VmId,
    command: VmCommand,
    to: DatastoreId,
    max_rate: Option<u64>,
) -> Call {
    let (client, path) = (world.client.clone(), VmPath { vm });
    let request = api::VmDisksMoveRequest { command, datastore: to, max_rate };
    tokio::spawn(async move {
        client.call_with::<api::VmDisksMove>(&path, &NoParams {}, request, long()).await
    })
}

async fn move_to(world: &World, vm: VmId, to: DatastoreId) -> Result<VmReport, Problem> {
    begin(world, vm, command(1), to, None).await.unwrap().map_err(problem)
}

fn folder(world: &World, store: &str, vm: VmId) -> PathBuf {
    world.path(store).join("vms").join(vm.to_string())
}

fn file(world: &World, store: &str, file: &LayerFile) -> PathBuf {
    world.path(store).join(file.as_str())
}

/// Also of a VM that runs.
fn has(disk: &Path, (byte, at, mib): (u8, u32, u32)) -> bool {
    let read = format!("read -P {byte} {at}M {mib}M");
    let mut qemu_io = Command::new("qemu-io");
    qemu_io.args(["-r", "-U", "-f", "qcow2", "-c", &read]).arg(disk);
    qemu_io.stdout(Stdio::null()).status().unwrap().success()
}

/// QEMU has no file of a VM's directory open there.
fn assert_let_go(world: &World, folder: &Path) {
    for pid in world.qemu_pids() {
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
            let Ok(open) = std::fs::read_link(entry.path()) else { continue };
            let text = open.to_string_lossy().into_owned();
            // The directory may have been renamed before it was removed.
            let id = folder.file_name().unwrap().to_string_lossy().into_owned();
            let store = folder.parent().unwrap().to_string_lossy().into_owned();
            assert!(!(text.starts_with(&store) && text.contains(&id)), "{text} is still open");
        }
    }
}

/// The guest writes numbers to its data disk, each flushed, and remembers the last.
async fn write_on(world: &World, vm: VmId) {
    let script = "d=$(cat /the-disk); (n=0; while [ ! -e /tmp/enough ]; do n=$((n+1)); \
                  printf '%15d\\n' $n | busybox dd of=$d bs=16 seek=$((6291456+n)) \
                  conv=notrunc,fsync 2>/dev/null && echo $n > /tmp/last; done; \
                  echo > /tmp/done) > /dev/null 2>&1 &";
    run(world, vm, script).await;
}

/// All that it has written since is there; how many.
async fn written(world: &World, vm: VmId) -> u64 {
    let script = "echo > /tmp/enough; until [ -e /tmp/done ]; do busybox sleep 0.1; done; \
                  echo 3 > /proc/sys/vm/drop_caches; n=$(cat /tmp/last); \
                  busybox dd if=$(cat /the-disk) bs=16 skip=6291457 count=$n 2>/dev/null \
                  | busybox awk '$1 != NR {bad=1} END {print bad ? \"lost\" : NR}'; \
                  rm /tmp/enough /tmp/done";
    let found = run(world, vm, script).await;
    found.parse().unwrap_or_else(|_| panic!("numbers are missing: {found}"))
}

#[tokio::test]
async fn qemu_a_running_vm_goes_to_another_datastore_with_its_snapshots() {
    let world = World::start().await;
    let other = another(&world, "other").await;
    let vm = running(&world).await;
    fill(&world, vm, "one", 0, 8).await;
    let (first, _) = snapshot(&world, vm, How::default()).await;
    fill(&world, vm, "two", 4, 8).await;
    let (second, report) = snapshot(&world, vm, How { memory: true, quiesce: false }).await;
    let chains = |report: &VmReport| (chain(report, "disk0"), chain(report, "data"));
    let before = chains(&report);
    let seed = "busybox md5sum $(for d in /sys/block/vd*; do [ \"$(cat $d/serial)\" = \
                hostler-seed ] && echo /dev/${d##*/}; done) | busybox cut -c 1-32";
    let sum = run(&world, vm, seed).await;
    write_on(&world, vm).await;
    let pids = world.qemu_pids();
    let log = std::fs::read_to_string(folder(&world, "store", vm).join("console.log")).unwrap();

    let report = move_to(&world, vm, other).await.unwrap();
    assert_eq!(report.datastore, Some(other));
    assert_eq!(report.power, PowerState::Running);
    assert_eq!(world.qemu_pids(), pids, "the same QEMU");
    let (disk0, data) = chains(&report);
    assert_eq!(data, before.1, "the chain is a chain");
    assert_eq!(disk0[..], before.0[..3], "but for the image, which is in the lowest file now");
    assert_eq!(before.0.len(), 4);
    assert!(!folder(&world, "store", vm).exists(), "nothing is left");
    assert_let_go(&world, &folder(&world, "store", vm));
    assert!(written(&world, vm).await > 10);
    run(&world, vm, "echo 3 > /proc/sys/vm/drop_caches").await;
    assert_eq!(run(&world, vm, seed).await, sum, "its seed can still be read");
    assert_filled(&world, vm, "one", 0, 4).await;
    assert_filled(&world, vm, "two", 4, 8).await;
    let moved = std::fs::read_to_string(folder(&world, "other", vm).join("console.log")).unwrap();
    assert!(!log.is_empty() && moved.starts_with(&log), "its log came along");

    // What needs its layers' names goes on: new ones, merges, other files at the next start.
    let (third, report) = snapshot(&world, vm, How::default()).await;
    assert_eq!(chain(&report, "data").len(), 4);
    fill(&world, vm, "three", 20, 4).await;
    let report = delete(&world, vm, &[first, third]).await;
    assert_eq!(chain(&report, "data").len(), 2);
    let back = move_to(&world, vm, world.datastore).await.unwrap();
    assert_eq!(chains(&back), chains(&report));
    assert_let_go(&world, &folder(&world, "other", vm));
    assert_filled(&world, vm, "three", 20, 4).await;
    revert_as(&world, vm, command(1), second, Some(true)).await.unwrap();
    answers(&world, vm).await;
    assert_filled(&world, vm, "one", 0, 4).await;
    assert_filled(&world, vm, "two", 4, 8).await;
    world.stop(vm, StopMode::PowerOff, 0).await.unwrap();
    let report = move_to(&world, vm, other).await.unwrap();
    assert_eq!(report.power, PowerState::Stopped);
    world.vm_start(vm).await.unwrap();
    answers(&world, vm).await;
    assert_filled(&world, vm, "two", 4, 8).await;
    for layer in report.disks.iter().flat_map(|disk| &disk.layers) {
        let mut check = Command::new("qemu-img");
        check.args(["check", "-q", "-U"]).arg(file(&world, "other", &layer.file));
        let status = check.status().unwrap();
        assert!(matches!(status.code(), Some(0 | 3)), "{}", layer.file);
    }
    world.remove(vm, false, true).await.unwrap();
    world.assert_nothing_left();
    assert!(!folder(&world, "other", vm).exists());
}

#[tokio::test]
async fn qemu_uefi_variables_go_along_with_a_guest_that_writes_them() {
    let world = World::start().await;
    let other = another(&world, "other").await;
    let mut definition = world.vm(DiskSource::Blank);
    definition.vm.spec.customization = None;
    definition.vm.spec.firmware = Firmware::Uefi;
    let vm = definition.vm.id();
    world.create(&definition).await.unwrap();
    world.vm_start(vm).await.unwrap();
    // Its firmware is just writing them.
    move_to(&world, vm, other).await.unwrap();
    assert_let_go(&world, &folder(&world, "store", vm));
    let template = std::fs::read("/usr/share/OVMF/OVMF_VARS_4M.fd").unwrap();
    let variables = folder(&world, "other", vm).join("nvram.fd");
    eventually("the firmware writes them there", Duration::from_secs(120), async || {
        (std::fs::read(&variables).unwrap() != template).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_vm_that_is_off_goes_without_what_its_disks_lay_on() {
    let world = World::start().await;
    let other = another(&world, "other").await;
    let base = parent(&world, 8).await.vm.id();
    world.freeze(base, None).await.unwrap();
    let mut definition = world.vm(DiskSource::Linked(disk0(base, 0)));
    definition.vm.spec.disks.push(blank("thick", ByteSize::mib(16)));
    definition.vm.spec.disks[1].provisioning = hostler_types::Provisioning::Reserved;
    let vm = definition.vm.id();
    world.create(&definition).await.unwrap();
    fill_disk(&file(&world, "store", &disk0(vm, 0)), 9, 100, 4);
    snapshot(&world, vm, How::default()).await;
    fill_disk(&file(&world, "store", &disk0(vm, 1)), 5, 4, 8);

    // What others lie on stays.
    let refused = move_to(&world, base, other).await.unwrap_err();
    assert_eq!(refused.code, "in_use", "{refused:?}");
    assert!(!folder(&world, "other", base).exists());
    let report = move_to(&world, vm, other).await.unwrap();
    assert_eq!(chain(&report, "disk0"), ["disk0.1.qcow2", "disk0.qcow2"]);
    assert!(!folder(&world, "store", vm).exists());
    let active = file(&world, "other", &disk0(vm, 1));
    assert!(shows(&active, 7, 0, 4) && shows(&active, 5, 4, 8) && shows(&active, 9, 100, 4));
    let lower = file(&world, "other", &disk0(vm, 0));
    assert!(shows(&lower, 7, 0, 8) && shows(&lower, 0, 8, 8), "the snapshot is as it was");
    let thick = std::fs::metadata(folder(&world, "other", vm).join("thick.qcow2")).unwrap();
    assert!(std::os::unix::fs::MetadataExt::blocks(&thick) >= 16 << 11, "all is reserved");
    // Nothing keeps the other from going now.
    move_to(&world, base, other).await.unwrap();
    assert!(shows(&file(&world, "other", &disk0(base, 0)), 7, 0, 8));
    world.vm_start(vm).await.unwrap();
}

#[tokio::test]
async fn qemu_a_cancelled_move_leaves_all_where_it_was() {
    let world = World::start().await;
    let other = another(&world, "other").await;
    let vm = running(&world).await;
    fill(&world, vm, "one", 0, 16).await;
    let (_, before) = snapshot(&world, vm, How::default()).await;
    fill(&world, vm, "two", 32, 24).await;
    write_on(&world, vm).await;
    // While plain files are copied, and while QEMU copies.
    for active in [false, true] {
        let command = command(1);
        let call = begin(&world, vm, command, other, Some(SLOW));
        let file = if active { "data.1.qcow2" } else { "disk0.qcow2" };
        let place = folder(&world, "other", vm).join(file);
        eventually("it is being copied", Duration::from_secs(60), async || {
            let blocks =
                std::fs::metadata(&place).ok().map(|m| std::os::unix::fs::MetadataExt::blocks(&m));
            blocks.filter(|blocks| *blocks > 2 << 11)
        })
        .await;
        let refused = world.freeze(vm, None).await.unwrap_err();
        assert_eq!(refused.code, "in_use", "{refused:?}");
        cancel(&world, command.op).await;
        let problem = problem(call.await.unwrap().unwrap_err());
        assert_eq!(problem.code, "cancelled", "{problem:?}");
        assert!(!folder(&world, "other", vm).exists(), "nothing is left");
        assert_let_go(&world, &folder(&world, "other", vm));
    }
    assert!(written(&world, vm).await > 10);
    assert_filled(&world, vm, "one", 0, 16).await;
    assert_filled(&world, vm, "two", 32, 24).await;
    let report = world.report(vm).await.unwrap();
    assert_eq!(chain(&report, "data"), chain(&before, "data"));
    assert_eq!(report.datastore, Some(world.datastore));
}

#[tokio::test]
async fn qemu_a_datastore_that_is_full_leaves_the_guest_running_where_it_is() {
    let world = World::start().await;
    let small = Small::mount(&world.path("small"), 400 << 20);
    let other = another(&world, "small/ds").await;
    let vm = running(&world).await;
    fill(&world, vm, "one", 0, 24).await;
    small.resize(80 << 20);
    let refused = move_to(&world, vm, other).await.unwrap_err();
    assert_eq!(refused.code, "no_space", "{refused:?}");
    assert!(refused.to_string().contains(" free"), "{refused:?}");
    small.resize(400 << 20);
    // It becomes full while QEMU copies.
    let call = begin(&world, vm, command(1), other, Some(SLOW));
    let active = folder(&world, "small/ds", vm).join("data.qcow2");
    eventually("QEMU copies", Duration::from_secs(120), async || active.exists().then_some(()))
        .await;
    std::fs::write(world.path("small/filler"), vec![1; 400 << 20]).unwrap_err();
    let full = problem(call.await.unwrap().unwrap_err());
    assert_eq!(full.code, "no_space", "{full:?}");
    assert!(!folder(&world, "small/ds", vm).exists(), "nothing is left");
    assert_filled(&world, vm, "one", 0, 24).await;
    std::fs::remove_file(world.path("small/filler")).unwrap();
    move_to(&world, vm, other).await.unwrap();
    assert_filled(&world, vm, "one", 0, 24).await;
    world.remove(vm, false, true).await.unwrap();
}

#[tokio::test]
async fn qemu_a_guest_that_is_stopped_ends_the_move() {
    let world = World::start().await;
    let other = another(&world, "other").await;
    let vm = empty(&world).await;
    let call = begin(&world, vm, command(1), other, Some(SLOW));
    let place = folder(&world, "other", vm);
    eventually("it has begun", Duration::from_secs(30), async || place.exists().then_some(()))
        .await;
    world.stop(vm, StopMode::PowerOff, 0).await.unwrap();
    let problem = problem(call.await.unwrap().unwrap_err());
    assert!(problem.to_string().contains("where they were"), "{problem:?}");
    assert!(!place.exists());
    assert!(has(&file(&world, "store", &disk0(vm, 1)), YOUNG));
    world.vm_start(vm).await.unwrap();
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Killed {
    Nobody,
    Agent,
    Qemu,
    Both,
}

const OLD: (u8, u32, u32) = (7, 0, 8);
const YOUNG: (u8, u32, u32) = (9, 8, 24);

/// A VM without a system, with a snapshot, that runs.
async fn empty(world: &World) -> VmId {
    let mut definition = world.vm(DiskSource::Blank);
    definition.vm.spec.customization = None;
    definition.vm.spec.memory = ByteSize::mib(128);
    definition.vm.spec.restart = RestartPolicy::Never;
    definition.vm.spec.disks.push(blank("data", ByteSize::mib(64)));
    let vm = definition.vm.id();
    world.create(&definition).await.unwrap();
    fill_disk(&file(world, "store", &disk0(vm, 0)), OLD.0, OLD.1, OLD.2);
    snapshot(world, vm, How::default()).await;
    fill_disk(&file(world, "store", &disk0(vm, 1)), YOUNG.0, YOUNG.1, YOUNG.2);
    world.vm_start(vm).await.unwrap();
    vm
}

/// One valid set of files, where the report says, and nothing of the other.
async fn check(world: &World, vm: VmId, other: DatastoreId, place: &str) {
    let report = world.report(vm).await.unwrap();
    let (here, there) = match report.datastore == Some(other) {
        true => ("other", "store"),
        false => ("store", "other"),
    };
    assert!(!folder(world, there, vm).exists(), "{place}: files are left in {there}");
    assert_let_go(world, &folder(world, there, vm));
    for layer in report.disks.iter().flat_map(|disk| &disk.layers) {
        assert!(file(world, here, &layer.file).exists(), "{place}: {} is gone", layer.file);
    }
    let disk = file(world, here, &disk0(vm, 1));
    assert!(has(&disk, OLD) && has(&disk, YOUNG), "{place}: {report:?}");
    assert!(has(&file(world, here, &disk0(vm, 0)), OLD), "{place}: the snapshot");
}

async fn round(
    world: &mut World,
    other: DatastoreId,
    killed: Killed,
    (delay, rate): (Duration, Option<u64>),
) -> Duration {
    let place = format!("{killed:?} killed after {delay:?}");
    let (vm, op) = (empty(world).await, command(1));
    let begun = Instant::now();
    let call = begin(world, vm, op, other, rate);
    if killed == Killed::Nobody {
        call.await.unwrap().unwrap();
    } else {
        tokio::time::sleep(delay).await;
        if killed != Killed::Qemu {
            world.end_agent().await;
        }
        if killed != Killed::Agent {
            kill_qemu(world);
        }
        let answer = within(Duration::from_secs(90), call).await.unwrap();
        if killed == Killed::Qemu {
            assert!(answer.is_ok() || matches!(answer, Err(ClientError::Problem(_))), "{place}");
        } else {
            world.spawn_agent().await;
        }
    }
    let took = begun.elapsed();
    eventually(&place, Duration::from_secs(60), async || {
        let power = world.report(vm).await?.power;
        let runs = usize::from(power == PowerState::Running);
        let settled = matches!(power, PowerState::Running | PowerState::Failed);
        (settled && world.qemu_pids().len() == runs).then_some(())
    })
    .await;
    check(world, vm, other, &place).await;
    // The same operation, asked for again, comes to an end; and so does another.
    let again = within(Duration::from_secs(90), begin(world, vm, op, other, None)).await.unwrap();
    if again.is_err() {
        move_to(world, vm, other).await.unwrap();
    }
    check(world, vm, other, &place).await;
    assert_eq!(world.report(vm).await.unwrap().datastore, Some(other), "{place}");
    if world.report(vm).await.unwrap().power == PowerState::Running {
        world.stop(vm, StopMode::PowerOff, 0).await.unwrap();
    }
    world.vm_start(vm).await.unwrap();
    world.remove(vm, false, true).await.unwrap();
    world.assert_nothing_left();
    assert!(std::fs::read_dir(world.path("other/vms")).unwrap().next().is_none(), "{place}");
    took
}

/// At even distances over the whole of it, and over its last tenths, at which the files change over.
async fn sweep(killed: Killed) {
    let rounds = std::env::var("HOSTLER_KILLS").map_or(3, |rounds| rounds.parse().unwrap());
    let mut world = World::start_process().await;
    let other = another(&world, "other").await;
    let whole = round(&mut world, other, Killed::Nobody, (Duration::ZERO, None)).await;
    for number in 0..rounds {
        let even = whole * (2 * number + 1) / (2 * rounds);
        round(&mut world, other, killed, (even, None)).await;
        let late = whole * 7 / 10 + whole * 3 * number / (10 * rounds);
        round(&mut world, other, killed, (late, None)).await;
    }
    // While QEMU copies.
    round(&mut world, other, killed, (Duration::from_secs(5), Some(SLOW))).await;
}

#[tokio::test]
async fn qemu_killed_in_a_move_leaves_one_set_of_disks() {
    sweep(Killed::Qemu).await;
}

#[tokio::test]
async fn qemu_an_agent_killed_in_a_move_leaves_one_set_of_disks() {
    sweep(Killed::Agent).await;
}

#[tokio::test]
async fn qemu_and_agent_killed_in_a_move_leave_one_set_of_disks() {
    sweep(Killed::Both).await;
}
