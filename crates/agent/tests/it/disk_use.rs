//! What a guest uses its disks for: asked before one is taken, told when one comes or grows.

use std::path::Path;
use std::process::Command;

use hostler_agent_api as api;
use hostler_agent_api::{VmDefinition, VmPath, VmReport};
use hostler_endpoint::NoParams;
use hostler_types::{ByteSize, DiskBus, ExecAnswer, ExecRequest, VmId};

use crate::changes::{define, disk, guest_answers, in_guest, small};
use crate::world::{World, command, long, problem};

/// What the task `vm.disk_change` runs in guests.
const GROW: &str = include_str!("../../../control/src/tasks/vm_disk/grow.sh");

/// The nodes of the virtio-blk and the SCSI disk, in `$blk` and `$scsi`.
const FIND: &str = "blk=/dev/$(grep -l '^data$' /sys/block/*/serial | cut -d/ -f4); scsi=/dev/sda;";

/// Makes an ext4 file system on a disk that nothing has open; the guest has no program for it.
fn format(disk: &Path, size: ByteSize) {
    let raw = tempfile::NamedTempFile::new().unwrap();
    raw.as_file().set_len(size.bytes()).unwrap();
    let made = Command::new("mke2fs").args(["-q", "-t", "ext4"]).arg(raw.path()).status();
    assert!(made.unwrap().success(), "mke2fs");
    let into = ["convert", "-q", "-n", "-f", "raw", "-O", "qcow2"];
    let written = Command::new("qemu-img").args(into).args([raw.path(), disk]).status();
    assert!(written.unwrap().success(), "{}", disk.display());
}

/// A running VM with the disks `data` (virtio-blk) and `log` (virtio-scsi), both with a file system.
async fn with_disks(world: &World, size: ByteSize) -> VmDefinition {
    let mut definition = small(world, &[]).await;
    definition.vm.spec.disks.push(disk("data", size, DiskBus::VirtioBlk));
    definition.vm.spec.disks.push(disk("log", size, DiskBus::VirtioScsi));
    world.create(&definition).await.unwrap();
    for name in ["data", "log"] {
        let vm = definition.vm.id();
        format(&world.path(&format!("store/vms/{vm}/{name}.qcow2")), size);
    }
    world.vm_start(definition.vm.id()).await.unwrap();
    guest_answers(world, definition.vm.id()).await;
    definition
}

async fn run(world: &World, vm: VmId, script: &str, argument: &str) -> ExecAnswer {
    let command = ["/bin/sh", "-c", script, "sh", argument].map(str::to_owned).to_vec();
    let request = ExecRequest { command, stdin: String::new(), timeout_seconds: 60 };
    let path = VmPath { vm };
    world.client.call_with::<api::VmExec>(&path, &NoParams {}, request, long()).await.unwrap()
}

async fn force(world: &World, definition: &VmDefinition) -> VmReport {
    let (command, path) = (command(1), VmPath { vm: definition.vm.id() });
    let request = api::VmDefineRequest {
        force: true,
        ..api::VmDefineRequest::new(command, definition.clone())
    };
    let answer = world.client.call_with::<api::VmDefine>(&path, &NoParams {}, request, long());
    answer.await.map_err(problem).unwrap()
}

fn detach(definition: &mut VmDefinition, name: &str) {
    let disks = &mut definition.vm.spec.disks;
    let at = disks.iter().position(|disk| disk.name.as_str() == name).unwrap();
    let disk = disks.remove(at);
    definition.vm.spec.detached.push(disk);
}

/// A mounted virtio disk went at once, and what the guest had not written yet with it.
#[tokio::test]
async fn qemu_a_disk_that_the_guest_uses_stays() {
    let mut world = World::start_process().await;
    let before = with_disks(&world, ByteSize::mib(64)).await;
    let vm = before.vm.id();
    let mount = "mkdir -p /mnt/data; mount -t ext4 $blk /mnt/data && \
        mkswap $scsi >/dev/null && swapon $scsi && echo ready";
    assert_eq!(in_guest(&world, vm, &format!("{FIND} {mount}")).await, "ready");

    let mut without = before.clone();
    detach(&mut without, "data");
    detach(&mut without, "log");
    let report = define(&world, &without).await.unwrap();
    let why = |subject: &str| {
        let change = report.pending.iter().find(|change| change.subject == subject).unwrap();
        change.reason.clone().unwrap()
    };
    let text = why("disk data");
    assert!(text.contains("the guest uses it, as /dev/vd"), "{text}");
    assert!(text.contains("mounted on /mnt/data; end that in the guest"), "{text}");
    let text = why("disk log");
    assert!(text.contains("as /dev/sda: swap on /dev/sda;"), "{text}");
    let write = "echo alive >/mnt/data/file && sync && cat /mnt/data/file; wc -l </proc/swaps";
    assert_eq!(in_guest(&world, vm, write).await, "alive\n2");

    // As the server does, when the guest has not let go.
    let report = define(&world, &before).await.unwrap();
    assert_eq!(report.pending, []);
    // What is not used goes; what is, when it is forced.
    in_guest(&world, vm, "swapoff /dev/sda").await;
    let mut one = before.clone();
    detach(&mut one, "log");
    let report = define(&world, &one).await.unwrap();
    assert_eq!(report.pending, []);
    let told = report.guest_disks.unwrap();
    let told: Vec<_> = told.iter().map(|disk| (disk.disk.as_str(), disk.uses.join(", "))).collect();
    assert_eq!(told[1], ("data", "mounted on /mnt/data".to_owned()), "{told:?}");
    assert_eq!(told.len(), 2);
    assert_eq!(force(&world, &without).await.pending, []);
    let gone = "grep -l '^data$' /sys/block/*/serial; true";
    assert_eq!(in_guest(&world, vm, gone).await, "");
    world.remove(vm, false, true).await.unwrap();
    world.assert_nothing_left();
    world.end_agent().await;
}

/// It was only ever seen failing: the tiny guest has no `blkid`, and Linux no `serial` for SCSI disks.
#[tokio::test]
async fn qemu_a_mounted_file_system_grows_with_its_disk() {
    let mut world = World::start_process().await;
    let mut definition = with_disks(&world, ByteSize::mib(32)).await;
    let vm = definition.vm.id();
    let mount = "for d in $blk $scsi; do mkdir -p /mnt$d; mount -t ext4 $d /mnt$d && echo kept >/mnt$d/file && echo ready; done";
    assert_eq!(in_guest(&world, vm, &format!("{FIND} {mount}")).await, "ready\nready");
    for disk in &mut definition.vm.spec.disks[1..] {
        disk.size = ByteSize::mib(96);
    }
    let report = define(&world, &definition).await.unwrap();
    assert_eq!(report.pending, []);
    let told = report.guest_disks.unwrap();
    for (name, device) in [("data", "/dev/vd"), ("log", "/dev/sda")] {
        let disk = told.iter().find(|disk| disk.disk.as_str() == name).unwrap();
        assert!(disk.device.starts_with(device), "{disk:?}");
        assert_eq!(disk.size, Some(ByteSize::mib(96)));
        let grown = run(&world, vm, GROW, name).await;
        assert_eq!(grown.exit_code, Some(0), "{grown:?}");
        let look = format!("df -k {} | tail -n 1 | awk '{{ print $2 }}'", disk.device);
        let size: u64 = in_guest(&world, vm, &look).await.parse().unwrap();
        assert!(size > 80 << 10, "{name} has {size} KiB");
        let file = format!("cat /mnt{}/file", disk.device);
        assert_eq!(in_guest(&world, vm, &file).await, "kept");
    }
    // What cannot be done is said.
    let none = run(&world, vm, GROW, "nothing").await;
    assert_eq!(none.stderr.trim(), "no disk with the serial number nothing");
    in_guest(&world, vm, &format!("{FIND} umount $blk; rm -f /sbin/resize2fs")).await;
    let unmounted = run(&world, vm, GROW, "data").await;
    assert!(unmounted.stderr.contains("none found; it is not mounted"), "{unmounted:?}");
    let without = run(&world, vm, GROW, "log").await;
    assert_eq!(without.stderr.trim(), "the guest has no resize2fs, which grows ext4 (e2fsprogs)");
    world.remove(vm, false, true).await.unwrap();
    world.assert_nothing_left();
    world.end_agent().await;
}
