//! A detached disk of one VM becomes another's: what is on it, and whose it is when the agent dies.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use hostler_agent_api as api;
use hostler_agent_api::{VmCommand, VmDefinition, VmPath, VmReport};
use hostler_endpoint::{NoParams, Problem};
use hostler_types::{ByteSize, DiskBus, DiskSource, PowerState, VmId};
use serde_json::{Value, json};

use crate::changes::{define, disk, guest_answers, in_guest, small};
use crate::world::{World, command, problem};

/// `data` of `from` becomes `name` of `to`.
async fn take(
    world: &World,
    command: VmCommand,
    (to, name): (VmId, &str),
    (from, disk): (VmId, &str),
) -> Result<VmReport, Problem> {
    let (disk, name) = (disk.parse().unwrap(), name.parse().unwrap());
    let request = api::VmDiskTakeRequest { command, from, disk, name };
    let path = VmPath { vm: to };
    world.client.call::<api::VmDiskTake>(&path, &NoParams {}, request).await.map_err(problem)
}

/// A VM that is off and has a detached disk `data`, with `text` at its beginning.
async fn lender(world: &World, text: &str) -> VmDefinition {
    let mut definition = world.vm(DiskSource::Blank);
    definition.vm.metadata.name = "db01".parse().unwrap();
    let data = disk("data", ByteSize::mib(8), DiskBus::VirtioBlk);
    definition.vm.spec.disks.push(data);
    world.create(&definition).await.unwrap();
    write(&file(world, definition.vm.id(), "data"), text);
    let data = definition.vm.spec.disks.pop().unwrap();
    definition.vm.spec.detached.push(data);
    define(world, &definition).await.unwrap();
    definition
}

fn file(world: &World, vm: VmId, disk: &str) -> PathBuf {
    world.path(&format!("store/vms/{vm}/{disk}.qcow2"))
}

fn write(path: &std::path::Path, text: &str) {
    let raw = tempfile::NamedTempFile::new().unwrap();
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(8 << 20, 0);
    std::fs::write(raw.path(), bytes).unwrap();
    let converted = Command::new("qemu-img")
        .args(["convert", "-q", "-n", "-f", "raw", "-O", "qcow2"])
        .args([raw.path(), path])
        .status();
    assert!(converted.unwrap().success(), "{}", path.display());
}

fn read(path: &std::path::Path) -> String {
    let raw = tempfile::NamedTempFile::new().unwrap();
    let converted = Command::new("qemu-img")
        .args(["convert", "-q", "-f", "qcow2", "-O", "raw"])
        .args([path, raw.path()])
        .status();
    assert!(converted.unwrap().success(), "{}", path.display());
    let bytes = std::fs::read(raw.path()).unwrap();
    String::from_utf8_lossy(&bytes[..4]).into_owned()
}

/// The definition without its detached disks.
fn without(definition: &VmDefinition) -> VmDefinition {
    let mut without = definition.clone();
    without.vm.spec.detached.clear();
    without
}

fn disks(report: &VmReport) -> Vec<String> {
    report.disks.iter().flat_map(|d| &d.layers).map(|l| l.file.as_str().to_owned()).collect()
}

#[tokio::test]
async fn qemu_a_detached_disk_becomes_a_running_vms() {
    let world = World::start().await;
    let lender = lender(&world, "kept").await;
    let mut definition = small(&world, &[]).await;
    let (from, to) = (lender.vm.id(), definition.vm.id());
    world.create(&definition).await.unwrap();
    world.vm_start(to).await.unwrap();
    guest_answers(&world, to).await;

    let op = command(1);
    let report = take(&world, op, (to, "old"), (from, "data")).await.unwrap();
    assert!(disks(&report).contains(&format!("vms/{to}/old.qcow2")), "{report:?}");
    let (data, old) = (file(&world, from, "data"), file(&world, to, "old"));
    assert!(!data.exists());
    let owner = |path: &PathBuf| std::fs::metadata(path).unwrap().uid();
    assert_eq!(owner(&old), owner(&file(&world, to, "disk0")));
    // Asked again, by whoever did not hear, and by who has forgotten that it asked.
    take(&world, op, (to, "old"), (from, "data")).await.unwrap();
    take(&world, command(1), (to, "old"), (from, "data")).await.unwrap();
    // The other one forgets it, and nothing of it is lost.
    let report = define(&world, &without(&lender)).await.unwrap();
    assert_eq!(report.disks.len(), 1);
    assert_eq!(read(&old), "kept");

    let mut data = disk("old", ByteSize::mib(8), DiskBus::VirtioBlk);
    data.source = DiskSource::Blank;
    definition.vm.spec.disks.push(data);
    assert_eq!(define(&world, &definition).await.unwrap().pending, []);
    let find = "for i in $(seq 100); do \
        d=$(grep -l old /sys/block/*/serial 2>/dev/null | cut -d/ -f4); \
        [ -n \"$d\" ] && [ -b /dev/$d ] && break; sleep 0.1; done;";
    assert_eq!(in_guest(&world, to, &format!("{find} head -c 4 /dev/$d")).await, "kept");

    // What a guest has is not taken from it.
    let refused = take(&world, command(1), (from, "data"), (to, "old")).await.unwrap_err();
    assert!(refused.detail.contains("no detached disk `old`"), "{refused:?}");
    world.remove(from, false, false).await.unwrap();
    world.remove(to, false, true).await.unwrap();
    world.assert_nothing_left();
}

#[tokio::test]
async fn a_disk_that_is_needed_where_it_is_is_not_taken() {
    let mut world = World::start().await;
    let mut lender = lender(&world, "kept").await;
    let mut definition = world.vm(DiskSource::Blank);
    let (from, to) = (lender.vm.id(), definition.vm.id());
    world.create(&definition).await.unwrap();
    let refused = async |world: &World, name: &str, disk: &str| {
        let refused = take(world, command(1), (to, name), (from, disk)).await.unwrap_err();
        assert_eq!(read(&file(world, from, "data")), "kept");
        refused.detail
    };
    let text = refused(&world, "disk0", "data").await;
    assert_eq!(text, "the VM `web01` has a disk `disk0` already");
    let text = refused(&world, "data", "disk0").await;
    assert_eq!(text, "the VM `db01` has no detached disk `disk0`");
    let text = refused(&world, "data", "nothing").await;
    assert_eq!(text, "the VM `db01` has no detached disk `nothing`");

    // Part of a snapshot: it was attached when it was taken.
    let data = lender.vm.spec.detached.remove(0);
    lender.vm.spec.disks.push(data.clone());
    define(&world, &lender).await.unwrap();
    world.freeze(from, None).await.unwrap();
    // A clone lies on it.
    let mut clone = world.vm(DiskSource::Blank);
    clone.vm.metadata.name = "clone".parse().unwrap();
    let linked = DiskSource::Linked(format!("vms/{from}/data.qcow2").parse().unwrap());
    clone.vm.spec.disks[0] = hostler_types::DiskSpec { source: linked, ..data.clone() };
    world.create(&clone).await.unwrap();
    lender.vm.spec.disks.pop();
    lender.vm.spec.detached.push(data);
    define(&world, &lender).await.unwrap();
    let text = refused(&world, "data", "data").await;
    assert!(text.contains("of the VM `clone` lies on"), "{text}");
    world.remove(clone.vm.id(), false, false).await.unwrap();

    // A VM with a disk of that name of its own.
    definition.vm.spec.detached.push(disk("data", ByteSize::mib(8), DiskBus::VirtioBlk));
    definition.vm.spec.disks.push(definition.vm.spec.detached[0].clone());
    definition.vm.spec.detached.clear();
    define(&world, &definition).await.unwrap();
    let data = definition.vm.spec.disks.pop().unwrap();
    definition.vm.spec.detached.push(data);
    define(&world, &definition).await.unwrap();
    let text = refused(&world, "data", "data").await;
    assert_eq!(text, "the VM `web01` has a disk `data` already");
    for vm in [from, to] {
        world.remove(vm, false, false).await.unwrap();
    }
    world.end_agent().await;
}

/// What the record of a VM says on disk.
fn record(world: &World, vm: VmId) -> Value {
    let path = world.path(&format!("agent/vms/{vm}.json"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn set_record(world: &World, vm: VmId, record: &Value) {
    let path = world.path(&format!("agent/vms/{vm}.json"));
    std::fs::write(path, serde_json::to_vec(record).unwrap()).unwrap();
}

/// Every state that a kill can leave, made by hand: the intent alone, the file given to the other's
/// user, the file moved.
#[tokio::test]
async fn whoever_has_the_file_has_the_disk_after_a_crash() {
    let mut world = World::start().await;
    let lender = lender(&world, "kept").await;
    let definition = world.vm(DiskSource::Blank);
    let (from, to) = (lender.vm.id(), definition.vm.id());
    world.create(&definition).await.unwrap();
    let (data, taken) = (file(&world, from, "data"), file(&world, to, "data"));
    let owner = |path: &PathBuf| std::fs::metadata(path).unwrap().uid();
    let (theirs, own) = (owner(&data), owner(&file(&world, to, "disk0")));
    for moved in [false, true] {
        for given in [false, true] {
            world.end_agent().await;
            let mut intent = record(&world, to);
            intent["taking"] = json!({
                "from": format!("vms/{from}/data.qcow2"),
                "disk": lender.vm.spec.detached[0],
                "layers": [{"file": format!("vms/{to}/data.qcow2"), "allocated": 0}],
                "images": [],
            });
            set_record(&world, to, &intent);
            if given || moved {
                std::os::unix::fs::chown(&data, Some(own), Some(own)).unwrap();
            }
            if moved {
                std::fs::rename(&data, &taken).unwrap();
            }
            world.start_agent().await;
            let report = world.found(to).await;
            assert_eq!(report.power, PowerState::Stopped);
            assert_eq!(disks(&report).len(), if moved { 2 } else { 1 }, "{report:?}");
            assert_eq!(data.exists(), !moved);
            assert_eq!(taken.exists(), moved);
            assert_eq!(record(&world, to)["taking"], Value::Null);
            match moved {
                true => {
                    assert_eq!(owner(&taken), own);
                    // What the server does: it asks again, or it takes back.
                    take(&world, command(1), (to, "data"), (from, "data")).await.unwrap();
                    take(&world, command(1), (from, "data"), (to, "data")).await.unwrap();
                    define(&world, &definition).await.unwrap();
                }
                false => assert_eq!(owner(&data), theirs),
            }
            assert_eq!(read(&data), "kept");
        }
    }
    take(&world, command(1), (to, "data"), (from, "data")).await.unwrap();
    assert_eq!(read(&taken), "kept");
    for vm in [from, to] {
        world.remove(vm, false, false).await.unwrap();
    }
    world.end_agent().await;
}

/// The agent dies at any time in the middle; the server asks again, or takes back.
#[tokio::test]
async fn a_killed_agent_loses_no_disk() {
    let mut world = World::start_process().await;
    let lender = lender(&world, "kept").await;
    let definition = world.vm(DiskSource::Blank);
    let ids = [lender.vm.id(), definition.vm.id()];
    world.create(&definition).await.unwrap();
    let bare = [without(&lender), definition];
    let mut holder = 0;
    for round in 0..16_u64 {
        let (from, to) = (ids[holder], ids[1 - holder]);
        let op = command(1);
        let delay = Duration::from_micros(400 * round);
        let asked = take(&world, op, (to, "data"), (from, "data"));
        let _ = tokio::time::timeout(delay, asked).await;
        world.end_agent().await;
        let places = ids.map(|vm| file(&world, vm, "data").exists());
        assert_eq!(places.iter().filter(|there| **there).count(), 1, "round {round}");
        world.spawn_agent().await;
        world.found(to).await;
        if round % 3 == 2 {
            take(&world, command(1), (from, "data"), (to, "data")).await.unwrap();
            define(&world, &bare[1 - holder]).await.unwrap();
        } else {
            take(&world, op, (to, "data"), (from, "data")).await.unwrap();
            define(&world, &bare[holder]).await.unwrap();
            holder = 1 - holder;
        }
        assert_eq!(read(&file(&world, ids[holder], "data")), "kept", "round {round}");
        assert!(!file(&world, ids[1 - holder], "data").exists(), "round {round}");
    }
    for vm in ids {
        world.remove(vm, false, false).await.unwrap();
    }
    world.end_agent().await;
}
