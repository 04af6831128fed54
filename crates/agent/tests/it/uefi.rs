//! The UEFI variables go back with the disks, and are never those of another time.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use hostler_agent_api::VmDefinition;
use hostler_types::{DiskSource, Firmware, PowerState, SnapshotId, StopMode, VmId};

use crate::snapshots::{How, delete, revert_as, snapshot};
use crate::world::{World, command, eventually};

/// A VM without a system: its firmware alone writes variables.
async fn empty(world: &World) -> VmDefinition {
    let mut definition = world.vm(DiskSource::Blank);
    definition.vm.spec.customization = None;
    definition.vm.spec.firmware = Firmware::Uefi;
    world.create(&definition).await.unwrap();
    definition
}

fn variables(world: &World, vm: VmId) -> PathBuf {
    world.path(&format!("store/vms/{vm}/nvram.fd"))
}

fn read(world: &World, vm: VmId) -> Vec<u8> {
    std::fs::read(variables(world, vm)).unwrap()
}

/// Changes some, as a guest's boot manager would, while the VM is off; what they are then.
fn change(world: &World, vm: VmId, byte: u8) -> Vec<u8> {
    let mut bytes = read(world, vm);
    // Behind the last variable of an almost empty store, which is 256 KiB long.
    let unused = 0x3_0000..0x3_0040;
    bytes[unused].fill(byte);
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().write(true).open(variables(world, vm)).unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    bytes
}

/// Its firmware has come as far as to write what it always writes.
async fn booted(world: &World, vm: VmId) -> Vec<u8> {
    let template = std::fs::read("/usr/share/OVMF/OVMF_VARS_4M.fd").unwrap();
    let mut last = template.clone();
    let mut same = 0;
    eventually("the firmware writes variables", Duration::from_secs(120), async || {
        let now = read(world, vm);
        same = if now == last && now != template { same + 1 } else { 0 };
        last = now;
        // For half a second.
        (same > 10).then(|| last.clone())
    })
    .await
}

async fn off(world: &World, vm: VmId) {
    world.stop(vm, StopMode::PowerOff, 0).await.unwrap();
}

#[tokio::test]
async fn qemu_uefi_variables_go_back_with_the_disks() {
    let world = World::start().await;
    let vm = empty(&world).await.vm.id();
    let (never_on, _) = snapshot(&world, vm, How::default()).await;
    assert!(!variables(&world, vm).exists());
    world.vm_start(vm).await.unwrap();
    booted(&world, vm).await;
    off(&world, vm).await;
    let first = change(&world, vm, 1);
    let (stopped, _) = snapshot(&world, vm, How::default()).await;
    change(&world, vm, 2);
    world.vm_start(vm).await.unwrap();
    let running = booted(&world, vm).await;
    assert!(running != first);
    let (live, _) = snapshot(&world, vm, How::default()).await;
    let (memory, _) = snapshot(&world, vm, How { memory: true, quiesce: false }).await;
    assert_eq!(read(&world, vm), running, "it was quiet");
    off(&world, vm).await;
    change(&world, vm, 3);

    // Off.
    for (id, expected) in [(stopped, &first), (live, &running), (stopped, &first)] {
        let report = revert_as(&world, vm, command(1), id, Some(false)).await.unwrap();
        assert_eq!(report.power, PowerState::Stopped);
        assert!(read(&world, vm) == *expected, "{id}");
    }
    // A VM that runs is not asked: its own variables are gone with it.
    world.vm_start(vm).await.unwrap();
    revert_as(&world, vm, command(1), stopped, Some(false)).await.unwrap();
    assert!(read(&world, vm) == first);
    // Those of its memory are those that the file has.
    let report = revert_as(&world, vm, command(1), memory, None).await.unwrap();
    assert_eq!(report.power, PowerState::Running);
    assert!(read(&world, vm) == running);
    off(&world, vm).await;
    assert!(read(&world, vm) == running);
    // There were none.
    revert_as(&world, vm, command(1), never_on, Some(false)).await.unwrap();
    assert!(!variables(&world, vm).exists());
    world.vm_start(vm).await.unwrap();
    assert!(variables(&world, vm).exists());
    off(&world, vm).await;
    delete(&world, vm, &[never_on, stopped, live, memory]).await;
    world.remove(vm, false, false).await.unwrap();
    world.assert_nothing_left();
}

/// Nothing is written where a directory lies.
async fn cannot_be_put_back(world: &mut World, vm: VmId, id: SnapshotId, then: &[u8]) {
    let path = variables(world, vm);
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir_all(path.join("in-the-way")).unwrap();
    let refused = revert_as(world, vm, command(1), id, None).await.unwrap_err();
    assert!(refused.detail.contains("UEFI variables"), "{refused:?}");
    let refused = world.vm_start(vm).await.unwrap_err();
    assert!(refused.detail.contains("UEFI variables"), "nothing runs without: {refused:?}");
    assert_eq!(world.qemu_pids(), Vec::<u32>::new());
    std::fs::remove_dir_all(&path).unwrap();
    // Nobody asks again, but the agent knows.
    world.end_agent().await;
    world.spawn_agent().await;
    world.found(vm).await;
    assert!(read(world, vm) == *then);
}

/// Whenever the agent is killed: the disks and the variables are of the same time.
#[tokio::test]
async fn qemu_an_agent_killed_in_a_return_puts_the_uefi_variables_back_all_the_same() {
    let mut world = World::start_process().await;
    let vm = empty(&world).await.vm.id();
    world.vm_start(vm).await.unwrap();
    booted(&world, vm).await;
    off(&world, vm).await;
    let then = change(&world, vm, 1);
    let (id, _) = snapshot(&world, vm, How::default()).await;
    let begin = Instant::now();
    revert_as(&world, vm, command(1), id, Some(false)).await.unwrap();
    let whole = begin.elapsed();
    let mut applied = 0;
    for twelfth in 0..20 {
        let delay = whole * twelfth / 12;
        let now = change(&world, vm, 2);
        let before = world.report(vm).await.unwrap().disks[0].layers[0].file.clone();
        {
            let asking = revert_as(&world, vm, command(1), id, Some(false));
            let _ = tokio::time::timeout(delay, asking).await;
        }
        world.end_agent().await;
        world.spawn_agent().await;
        // Nobody asks again.
        let report = world.found(vm).await;
        let done = report.disks[0].layers[0].file != before;
        applied += usize::from(done);
        let expected = if done { &then } else { &now };
        assert!(read(&world, vm) == *expected, "after {delay:?}; done: {done}");
    }
    assert!(applied > 0, "it was never killed late enough");
    cannot_be_put_back(&mut world, vm, id, &then).await;
    world.remove(vm, false, false).await.unwrap();
    world.assert_nothing_left();
}
