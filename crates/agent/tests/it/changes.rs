//! A running VM is changed, and what does not come about is neither lost nor forgotten.

use std::time::{Duration, Instant};

use hostler_agent_api as api;
use hostler_agent_api::{NetworkDefinition, VmDefinition, VmPath, VmReport};
use hostler_endpoint::{NoParams, Problem};
use hostler_types::{
    ByteSize, ChangeWhen, Cores, DiskBus, DiskSource, DiskSpec, IoLimits, LinkState, NetworkId,
    NicSpec, PowerState, Provisioning, StopMode, VmId,
};

use crate::world::{World, command, eventually, long, nat, problem};

pub(crate) async fn define(world: &World, definition: &VmDefinition) -> Result<VmReport, Problem> {
    define_as(world, command(1), definition).await
}

async fn define_as(
    world: &World,
    command: api::VmCommand,
    definition: &VmDefinition,
) -> Result<VmReport, Problem> {
    let path = VmPath { vm: definition.vm.id() };
    let request = api::VmDefineRequest::new(command, definition.clone());
    let answer = world.client.call_with::<api::VmDefine>(&path, &NoParams {}, request, long());
    answer.await.map_err(problem)
}

fn nic(number: u8, network: NetworkId) -> NicSpec {
    NicSpec {
        name: format!("nic{number}").parse().unwrap(),
        network,
        mac: format!("52:54:00:12:34:5{number}").parse().unwrap(),
        address: None,
        link: LinkState::Up,
    }
}

fn network(subnet: &str) -> NetworkDefinition {
    NetworkDefinition { id: NetworkId::generate(), spec: nat(subnet) }
}

pub(crate) async fn guest_answers(world: &World, vm: VmId) -> VmReport {
    world.wait_for("its agent answers", vm, |r| r.guest.as_ref().is_some_and(|g| g.agent)).await
}

#[track_caller]
fn check(report: &VmReport, cpus: u32, memory: ByteSize, nics: &[&str]) {
    check_but_memory(report, cpus, nics);
    assert_eq!(report.pending, [], "{report:?}");
    let hardware = report.hardware.unwrap();
    assert_eq!(hardware.memory, memory, "{report:?}");
    let guest = report.guest.as_ref().unwrap();
    // Its kernel keeps some for itself, 64 MiB of it because memory may come above 4 GiB.
    let sees = guest.memory.unwrap().bytes();
    assert!(sees < memory.bytes() && sees + (160 << 20) > memory.bytes(), "{report:?}");
}

/// A guest keeps of its memory what it cannot move.
#[track_caller]
fn check_but_memory(report: &VmReport, cpus: u32, nics: &[&str]) {
    assert!(report.pending.iter().all(|change| change.subject == "memory"), "{report:?}");
    let guest = report.guest.as_ref().unwrap();
    assert_eq!((report.hardware.unwrap().cpus, guest.cpus), (cpus, Some(cpus)), "{report:?}");
    let seen: Vec<String> = guest.nics.iter().map(|nic| nic.mac.to_string()).collect();
    let mut expected: Vec<_> = nics.iter().map(|n| format!("52:54:00:12:34:5{n}")).collect();
    let mut seen = seen;
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected);
}

/// One CPU, 256 MiB with room for 2 GiB, a NIC, an empty CD drive.
pub(crate) async fn small(world: &World, nets: &[NetworkDefinition]) -> VmDefinition {
    let image = world.tiny_image().await;
    let mut definition = world.vm(DiskSource::Image(image));
    definition.networks = nets.to_vec();
    let spec = &mut definition.vm.spec;
    spec.max_memory = Some(ByteSize::gib(2));
    spec.nics = nets.first().map(|net| nic(0, net.id)).into_iter().collect();
    spec.cdroms =
        serde_json::from_value(serde_json::json!([{ "name": "cd0", "image": null }])).unwrap();
    definition
}

#[tokio::test]
async fn qemu_a_running_guest_gets_and_gives() {
    let mut world = World::start_process().await;
    let nets = [network("10.213.78.0/24"), network("10.213.79.0/24")];
    let mut definition = small(&world, &nets).await;
    let vm = definition.vm.id();
    world.create(&definition).await.unwrap();
    world.vm_start(vm).await.unwrap();
    guest_answers(&world, vm).await;

    // Everything at once, and the guest says so.
    let spec = &mut definition.vm.spec;
    spec.cpus = Cores::try_from(3).unwrap();
    spec.memory = ByteSize::mib(768);
    spec.cpu_limit = Some("1.5".parse().unwrap());
    spec.nics.push(nic(1, nets[1].id));
    spec.nics[0].link = LinkState::Down;
    spec.disks[0].limits = IoLimits { iops: Some(5000), ..IoLimits::default() };
    spec.balloon = Some(ByteSize::mib(720));
    let report = define(&world, &definition).await.unwrap();
    check(&report, 3, ByteSize::mib(768), &["0", "1"]);
    let address = report.nics[1].reserved.unwrap();
    world
        .wait_for("the new NIC has its address", vm, |report| {
            report.guest.as_ref().is_some_and(|guest| guest.addresses.contains(&address))
        })
        .await;

    // Another agent finds all of it.
    world.end_agent().await;
    world.spawn_agent().await;
    let again = guest_answers(&world, vm).await;
    assert_eq!((again.hardware, again.pending), (report.hardware, vec![]));

    // A suspended guest resumes with what it has.
    let path = VmPath { vm };
    let suspend = world.client.call_with::<api::VmSuspend>(&path, &NoParams {}, command(1), long());
    suspend.await.unwrap();
    world.vm_start(vm).await.unwrap();
    let resumed = guest_answers(&world, vm).await;
    assert_eq!((resumed.hardware, resumed.pending), (report.hardware, vec![]));

    // Back, and the first NIC moves to the other network and is plugged in again.
    let spec = &mut definition.vm.spec;
    spec.cpus = Cores::ONE;
    spec.memory = ByteSize::mib(256);
    spec.cpu_limit = None;
    spec.balloon = None;
    spec.nics = vec![nic(0, nets[1].id)];
    let report = define(&world, &definition).await.unwrap();
    check_but_memory(&report, 1, &["0"]);
    let memory = report.hardware.unwrap().memory;
    assert!(memory <= ByteSize::mib(384), "{memory}");
    let address = report.nics[0].reserved.unwrap();
    assert!(address.to_string().starts_with("10.213.79."), "{address}");
    // The tiny guest's DHCP client does not look at its cable.
    let renew = "for p in $(pidof udhcpc); do kill -USR2 $p; kill -USR1 $p; done";
    let request = hostler_types::ExecRequest {
        command: ["/bin/sh", "-c", renew].map(str::to_owned).to_vec(),
        stdin: String::new(),
        timeout_seconds: 30,
    };
    let path = VmPath { vm };
    world.client.call_with::<api::VmExec>(&path, &NoParams {}, request, long()).await.unwrap();
    world
        .wait_for("it has an address of its new network", vm, |report| {
            report.guest.as_ref().is_some_and(|guest| guest.addresses == [address])
        })
        .await;
    // Nothing of it is left on its old network.
    let remove = |network| {
        let (client, path) = (world.client.clone(), api::NetworkPath { network });
        async move { client.call::<api::NetworkRemove>(&path, &NoParams {}, ()).await }
    };
    remove(nets[0].id).await.unwrap();
    assert!(remove(nets[1].id).await.is_err(), "the VM runs on it");

    world.stop(vm, StopMode::PowerOff, 0).await.unwrap();
    world.remove(vm, false, false).await.unwrap();
    remove(nets[1].id).await.unwrap();
    world.assert_nothing_left();
}

#[tokio::test]
async fn qemu_an_agent_killed_in_the_middle_of_a_change_goes_on_with_it() {
    let mut world = World::start_process().await;
    let nets = [network("10.213.80.0/24")];
    let mut definition = small(&world, &nets).await;
    let vm = definition.vm.id();
    world.create(&definition).await.unwrap();
    world.vm_start(vm).await.unwrap();
    guest_answers(&world, vm).await;
    for (round, delay) in [3, 20, 60, 150, 300].into_iter().enumerate() {
        let more = round % 2 == 0;
        let spec = &mut definition.vm.spec;
        // CPUs only come: an emulated machine gets none after it has lost one.
        spec.cpus = Cores::try_from(if round < 2 { 2 } else { 3 }).unwrap();
        spec.memory = ByteSize::mib(if more { 512 } else { 384 });
        spec.nics = vec![nic(0, nets[0].id)];
        if more {
            spec.nics.push(nic(1, nets[0].id));
        }
        let op = command(1);
        let path = VmPath { vm };
        let request = api::VmDefineRequest::new(op, definition.clone());
        let client = world.client.clone();
        let asking = tokio::spawn(async move {
            client.call_with::<api::VmDefine>(&path, &NoParams {}, request, long()).await
        });
        tokio::time::sleep(Duration::from_millis(delay)).await;
        world.end_agent().await;
        let _ = asking.await.unwrap();
        world.spawn_agent().await;
        assert_eq!(world.found(vm).await.power, PowerState::Running);
        guest_answers(&world, vm).await;
        let report = define_as(&world, op, &definition).await.unwrap();
        let nics: &[&str] = if more { &["0", "1"] } else { &["0"] };
        // Asked again, it may be answered from the journal, before the guest has been heard.
        let report = if report.guest.as_ref().is_some_and(|g| g.cpus.is_some()) {
            report
        } else {
            world
                .wait_for("it says what it has", vm, |r| {
                    r.guest.as_ref().is_some_and(|g| g.cpus.is_some())
                })
                .await
        };
        check_but_memory(&report, definition.vm.spec.cpus.count(), nics);
    }
    // QEMU dies: it comes back with what is asked for, from the beginning.
    let pid = world.qemu_pids()[0];
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    world.wait_for("it fails", vm, |report| report.power == PowerState::Failed).await;
    world.wait_for("it runs again", vm, |report| report.power == PowerState::Running).await;
    let report = guest_answers(&world, vm).await;
    check(&report, 3, ByteSize::mib(512), &["0", "1"]);
    assert_eq!(report.hardware.unwrap().boot_memory, ByteSize::mib(512));
    world.remove(vm, false, true).await.unwrap();
    world.assert_nothing_left();
}

/// A guest that answers nothing: its firmware finds no system.
#[tokio::test]
async fn qemu_what_a_guest_refuses_is_pending_until_it_is_powered_off() {
    let mut world = World::start().await;
    let nets = [network("10.213.81.0/24")];
    let mut definition = world.vm(DiskSource::Blank);
    definition.networks = nets.to_vec();
    let spec = &mut definition.vm.spec;
    spec.cpus = Cores::try_from(2).unwrap();
    spec.max_memory = Some(ByteSize::gib(1));
    spec.nics = vec![nic(0, nets[0].id), nic(1, nets[0].id)];
    let vm = definition.vm.id();
    world.create(&definition).await.unwrap();
    world.vm_start(vm).await.unwrap();

    let spec = &mut definition.vm.spec;
    spec.cpus = Cores::ONE;
    spec.memory = ByteSize::mib(512);
    spec.nics.remove(0);
    spec.firmware = hostler_types::Firmware::Uefi;
    let begin = Instant::now();
    let report = define(&world, &definition).await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
    assert_eq!(report.power, PowerState::Running);
    let pending: Vec<_> =
        report.pending.iter().map(|change| (change.subject.as_str(), change.when)).collect();
    use ChangeWhen::{PowerOff, WithGuest};
    let expected = [
        ("cpus", WithGuest),
        ("memory", WithGuest),
        ("firmware", PowerOff),
        ("nic nic0", WithGuest),
    ];
    assert_eq!(pending, expected, "{report:?}");
    let why = report.pending[0].reason.as_deref().unwrap();
    assert!(why.contains("does not let a CPU go"), "{why}");
    assert_eq!(report.hardware.unwrap().cpus, 2, "it keeps what it does not give");

    // Pending over the agent's death, gone with the power.
    world.end_agent().await;
    world.start_agent().await;
    let found = world.report(vm).await.unwrap();
    assert_eq!(found.pending.len(), 4, "{found:?}");
    definition.vm.spec.firmware = hostler_types::Firmware::Bios;
    world.stop(vm, StopMode::PowerOff, 0).await.unwrap();
    define(&world, &definition).await.unwrap();
    let report = world.vm_start(vm).await.unwrap();
    assert_eq!(report.pending, []);
    let hardware = report.hardware.unwrap();
    assert_eq!((hardware.cpus, hardware.boot_memory), (1, ByteSize::mib(512)));
    assert_eq!(report.nics.len(), 1);
    world.stop(vm, StopMode::PowerOff, 0).await.unwrap();
    world.remove(vm, false, false).await.unwrap();
    let path = api::NetworkPath { network: nets[0].id };
    eventually("its network is free", Duration::from_secs(10), async || {
        world.client.call::<api::NetworkRemove>(&path, &NoParams {}, ()).await.ok()
    })
    .await;
    world.assert_nothing_left();
    world.end_agent().await;
}

pub(crate) fn disk(name: &str, size: ByteSize, bus: DiskBus) -> DiskSpec {
    DiskSpec {
        name: name.parse().unwrap(),
        size,
        source: DiskSource::Blank,
        bus,
        limits: IoLimits::default(),
        provisioning: Provisioning::Thin,
    }
}

pub(crate) async fn in_guest(world: &World, vm: VmId, script: &str) -> String {
    let request = hostler_types::ExecRequest {
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        stdin: String::new(),
        timeout_seconds: 30,
    };
    let path = VmPath { vm };
    let answer = world.client.call_with::<api::VmExec>(&path, &NoParams {}, request, long());
    answer.await.unwrap().stdout.trim().to_owned()
}

/// Its size in sectors, found by its serial number.
const SECTORS: &str = "for d in /sys/block/*; do \
    [ \"$(cat $d/serial 2>/dev/null)\" = data ] && cat $d/size; done; true";

#[tokio::test]
async fn qemu_disks_come_grow_and_go() {
    let mut world = World::start_process().await;
    let mut definition = small(&world, &[]).await;
    let vm = definition.vm.id();
    world.create(&definition).await.unwrap();
    world.vm_start(vm).await.unwrap();
    guest_answers(&world, vm).await;
    let folder = world.path(&format!("store/vms/{vm}"));
    let file = |name: &str| folder.join(format!("{name}.qcow2"));

    // One on each bus, one of them reserved as a whole; the guest sees it, and its limits hold.
    let mut data = disk("data", ByteSize::mib(64), DiskBus::VirtioBlk);
    data.provisioning = Provisioning::Reserved;
    data.limits.iops = Some(100);
    definition.vm.spec.disks.push(data);
    definition.vm.spec.disks.push(disk("log", ByteSize::mib(64), DiskBus::VirtioScsi));
    let report = define(&world, &definition).await.unwrap();
    assert_eq!(report.pending, []);
    assert_eq!(in_guest(&world, vm, SECTORS).await, (64 << 11).to_string());
    assert!(hostler_host::volume::allocated(&file("data")).unwrap() >= ByteSize::mib(64));
    in_guest(
        &world,
        vm,
        "d=$(grep -l data /sys/block/*/serial | cut -d/ -f4); \
        echo kept | dd of=/dev/$d bs=512 conv=sync,fsync",
    )
    .await;

    // It grows, and another agent finds it.
    definition.vm.spec.disks[1].size = ByteSize::mib(128);
    world.end_agent().await;
    world.spawn_agent().await;
    guest_answers(&world, vm).await;
    let report = define(&world, &definition).await.unwrap();
    assert_eq!(report.pending, []);
    assert_eq!(in_guest(&world, vm, SECTORS).await, (128 << 11).to_string());

    // A suspended guest resumes with its disks where they were.
    let path = VmPath { vm };
    let suspend = world.client.call_with::<api::VmSuspend>(&path, &NoParams {}, command(1), long());
    suspend.await.unwrap();
    world.vm_start(vm).await.unwrap();
    guest_answers(&world, vm).await;
    assert_eq!(in_guest(&world, vm, SECTORS).await, (128 << 11).to_string());

    // Detached it stays, attached it is as it was, removed it is gone.
    let data = definition.vm.spec.disks.remove(1);
    definition.vm.spec.detached.push(data);
    assert_eq!(define(&world, &definition).await.unwrap().pending, []);
    assert_eq!(in_guest(&world, vm, SECTORS).await, "");
    assert!(file("data").exists());
    let data = definition.vm.spec.detached.remove(0);
    definition.vm.spec.disks.push(data);
    assert_eq!(define(&world, &definition).await.unwrap().pending, []);
    // The guest makes the device's node some time after QEMU has plugged the disk in.
    let read = "for i in $(seq 100); do \
        d=$(grep -l data /sys/block/*/serial 2>/dev/null | cut -d/ -f4); \
        [ -n \"$d\" ] && [ -b /dev/$d ] && break; sleep 0.1; done; head -c 4 /dev/$d";
    assert_eq!(in_guest(&world, vm, read).await, "kept");
    definition.vm.spec.disks.truncate(1);
    let report = define(&world, &definition).await.unwrap();
    assert_eq!(report.pending, [], "{report:?}");
    assert_eq!(report.disks.len(), 3, "what was running a moment ago is not deleted yet");
    let report = define(&world, &definition).await.unwrap();
    assert_eq!(report.disks.len(), 1);
    assert!(!file("data").exists() && !file("log").exists());
    world.remove(vm, false, true).await.unwrap();
    world.assert_nothing_left();
}

#[tokio::test]
async fn a_disk_that_another_lies_on_is_not_deleted() {
    let mut world = World::start().await;
    let mut definition = world.vm(DiskSource::Blank);
    let vm = definition.vm.id();
    definition.vm.spec.detached.push(disk("data", ByteSize::mib(64), DiskBus::VirtioBlk));
    definition.vm.spec.disks.push(definition.vm.spec.detached[0].clone());
    definition.vm.spec.detached.clear();
    world.create(&definition).await.unwrap();
    let folder = world.path(&format!("store/vms/{vm}"));
    let overlay = std::process::Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "data.qcow2", "other.qcow2"])
        .current_dir(&folder)
        .status();
    assert!(overlay.unwrap().success());
    definition.vm.spec.disks.truncate(1);
    let refused = define(&world, &definition).await.unwrap_err();
    assert!(refused.detail.contains("lies on"), "{refused:?}");
    assert!(folder.join("data.qcow2").exists());
    std::fs::remove_file(folder.join("other.qcow2")).unwrap();
    define(&world, &definition).await.unwrap();
    assert!(!folder.join("data.qcow2").exists());
    world.remove(vm, false, false).await.unwrap();
    world.assert_nothing_left();
    world.end_agent().await;
}
