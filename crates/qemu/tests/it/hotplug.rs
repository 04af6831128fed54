//! A running guest gets more, and gives it back; what it has then survives a suspension.

use std::fs::{File, OpenOptions};
use std::time::Duration;

use hostler_qemu::hotplug::{
    self, Devices, MediumChange, Removal, balloon, change_medium, limit_disk, memory, plug_cpus,
    set_balloon, set_memory, unplug_cpus,
};
use hostler_qemu::{
    CdromPlan, LaunchPlan, PortKind, PortPlan, Room, SavedState, Start, power_off, resume_from,
    suspend_to,
};
use hostler_qmp::guest::{GetMemoryBlocks, GetVcpus};
use hostler_types::{ByteSize, Cores, DiskBus, IoLimits, Name};

use crate::guest::{BOOT, Machine};

const A_WHILE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_secs(3);

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn roomy(plan: &mut LaunchPlan) {
    plan.max_memory = Some(ByteSize::gib(2));
    plan.room = Room::for_cpus(Cores::ONE);
    plan.cdroms = vec![CdromPlan { name: name("cd0"), image: None }];
}

async fn online(machine: &Machine) -> usize {
    let vcpus = machine.guest.execute(GetVcpus).await.unwrap();
    vcpus.iter().filter(|vcpu| vcpu.online).count()
}

#[tokio::test]
async fn qemu_cpus_and_memory_come_go_and_stay() {
    let (dir, probe) = Machine::prepare().await;
    let mut machine = Machine::launch(dir, probe, |plan, _| roomy(plan)).await;
    machine.agent_opens().await;
    let qmp = machine.qmp.clone();

    // CPUs up and down. Not up again: see `Room::cpus_left`.
    assert_eq!(plug_cpus(&qmp, 4, A_WHILE).await.unwrap(), 4);
    assert_eq!(plug_cpus(&qmp, 4, A_WHILE).await.unwrap(), 4, "nothing is added twice");
    while online(&machine).await < 4 {}
    assert_eq!(unplug_cpus(&qmp, 3, A_WHILE).await.unwrap(), Removal::Gone);
    assert_eq!((hotplug::cpus(&qmp).await.unwrap(), online(&machine).await), (3, 3));

    // Memory, as far as the guest takes it.
    assert_eq!(memory(&qmp).await.unwrap(), Some(ByteSize(0)));
    let blocks = machine.guest.execute(GetMemoryBlocks).await.unwrap().len();
    let gib = ByteSize::gib(1);
    assert_eq!(set_memory(&qmp, gib, A_WHILE, A_WHILE).await.unwrap(), gib);
    assert_eq!(machine.guest.execute(GetMemoryBlocks).await.unwrap().len(), blocks + 8);
    let half = ByteSize::mib(512);
    assert_eq!(set_memory(&qmp, half, A_WHILE, A_WHILE).await.unwrap(), half);

    let all = balloon(&qmp).await.unwrap();
    assert_eq!(all, ByteSize::mib(256), "the balloon knows only the memory of the start");
    let less = ByteSize::mib(192);
    assert_eq!(set_balloon(&qmp, less, A_WHILE).await.unwrap(), less);
    assert_eq!(set_balloon(&qmp, all, A_WHILE).await.unwrap(), all);

    let limits = IoLimits { iops: Some(100), iops_burst: Some(200), ..IoLimits::default() };
    limit_disk(&qmp, &name("root"), DiskBus::VirtioBlk, &limits).await.unwrap();
    limit_disk(&qmp, &name("root"), DiskBus::VirtioBlk, &IoLimits::default()).await.unwrap();

    // A medium goes in and out, again and again.
    let iso = machine.dir.path().join("base.qcow2");
    for image in [Some(iso.as_path()), None, None, Some(iso.as_path()), Some(iso.as_path())] {
        let changed = change_medium(&qmp, &name("cd0"), image, A_WHILE).await.unwrap();
        assert_eq!(changed, MediumChange::Done);
    }

    let devices = Devices::of(&qmp).await.unwrap();
    assert_eq!(devices.free_ports().len(), 8, "{devices:?}");
    assert_eq!(devices.plugged()["disk-root"], "port-disk0");
    resumed(machine, devices).await;
}

/// Suspends a machine that has 3 CPUs and 512 MiB more than it began with, and resumes it.
async fn resumed(mut machine: Machine, devices: Devices) {
    let state = machine.dir.path().join("state");
    let written = OpenOptions::new().write(true).create_new(true).open(&state).unwrap();
    suspend_to(&machine.qmp, written.into(), BOOT).await.unwrap();
    power_off(&machine.qmp, &machine.process).await.unwrap();
    let dir = std::mem::replace(&mut machine.dir, tempfile::tempdir().unwrap());
    let again = Machine::launch(dir, machine.probe.clone(), |plan, dir| {
        roomy(plan);
        plan.cdroms[0].image = Some(dir.join("base.qcow2"));
        plan.cpus = 3.try_into().unwrap();
        plan.room.plugged_memory = ByteSize::mib(512);
        let (devices, kind) = (devices.plugged(), PortKind::Msi);
        plan.room.ports = Some(PortPlan { nics: 0, disks: 1, devices, kind });
        plan.start = Start::Resume;
    });
    let again = again.await;
    let resumed =
        resume_from(&again.qmp, File::open(&state).unwrap().into(), SavedState::Mapped, BOOT).await;
    assert!(resumed.is_ok(), "{resumed:?}: {}", again.log());
    assert_eq!(memory(&again.qmp).await.unwrap(), Some(ByteSize::mib(512)));
    assert_eq!(online(&again).await, 3);
    // And it goes on changing.
    assert_eq!(unplug_cpus(&again.qmp, 1, A_WHILE).await.unwrap(), Removal::Gone);
    let left = set_memory(&again.qmp, ByteSize(0), SHORT, SHORT).await.unwrap();
    assert!(left <= ByteSize::mib(128), "{left}");
}
