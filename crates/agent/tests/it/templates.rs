//! Templates and sealing, on the tiny guest's own disk: the partition that survives its boots has
//! what tells one machine from another.

use std::process::Command;

use hostler_agent_api as api;
use hostler_agent_api::{VmCommand, VmDefinition, VmPath, VmReport};
use hostler_endpoint::{NoParams, Problem};
use hostler_types::{
    DiskSource, LayerFile, OperationId, PowerState, SealWay, StopMode, TemplateId, VersionOf, VmId,
};
use jiff::Timestamp;

use crate::world::{World, build_appliance, command, long, problem};

async fn seal(world: &World, vm: VmId) -> Result<VmReport, Problem> {
    seal_as(world, vm, command(1)).await
}

pub(crate) async fn seal_as(
    world: &World,
    vm: VmId,
    command: VmCommand,
) -> Result<VmReport, Problem> {
    let (path, none) = (VmPath { vm }, NoParams {});
    let answer = world.client.call_with::<api::VmSeal>(&path, &none, command, long()).await;
    answer.map_err(problem)
}

/// Another agent finds the record that one leaves which dies just before it pulls the plug.
async fn pretend_sealing(world: &mut World, vm: VmId, sealed: &VmReport, op: OperationId) {
    world.end_agent().await;
    let path = world.path(&format!("agent/vms/{vm}.json"));
    let mut record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    record["seal"] = serde_json::to_value(sealed.seal.as_ref()).unwrap();
    record["sealing"] = serde_json::to_value(op).unwrap();
    std::fs::write(&path, serde_json::to_vec(&record).unwrap()).unwrap();
    world.start_agent().await;
}

async fn define(world: &World, definition: &VmDefinition) -> Result<VmReport, Problem> {
    let path = VmPath { vm: definition.vm.id() };
    let request = api::VmDefineRequest::new(command(1), definition.clone());
    let call = world.client.call_with::<api::VmDefine>(&path, &NoParams {}, request, long());
    call.await.map_err(problem)
}

/// Starts it, and waits until it has what tells it from others; its machine id.
pub(crate) async fn machine_id(world: &World, vm: VmId) -> String {
    assert_eq!(world.vm_start(vm).await.unwrap().seal, None, "it runs: the seal is broken");
    world.wait_for("its agent answers", vm, |r| r.guest.as_ref().is_some_and(|g| g.agent)).await;
    // The data disk is mounted in the background; its last act is this link.
    let wait = "until [ -L /var/log ]; do sleep 0.1; done; cat /etc/machine-id; \
        echo @ >/etc/dropbear/dropbear_ed25519_host_key; mkdir -p /var/log/app; \
        for i in 1 2 3; do echo @ >/var/log/app/$i.log; done; sync";
    let wait = wait.replace('@', SECRET);
    let exec = hostler_types::ExecRequest {
        command: ["/bin/sh", "-c", &wait].map(str::to_owned).to_vec(),
        stdin: String::new(),
        timeout_seconds: 30,
    };
    let answer =
        world.client.call::<api::VmExec>(&VmPath { vm }, &NoParams {}, exec).await.unwrap();
    let id = answer.stdout.trim().to_owned();
    assert_eq!(id.len(), 32, "{answer:?}");
    id
}

/// What must not be found on a sealed disk.
const SECRET: &str = "hostler-private-key-0123456789";

/// Whether the guest's disk has the secret anywhere, as who reads all of its blocks sees it.
pub(crate) fn has_secret(world: &World, report: &VmReport) -> bool {
    let (disk, raw) = (&report.disks[0].layers[0].file, world.path("raw"));
    let disk = world.path("store").join(disk.as_str());
    let convert = ["convert", "-f", "qcow2", "-O", "raw"];
    let converted = Command::new("qemu-img").args(convert).arg(disk).arg(&raw).status().unwrap();
    assert!(converted.success());
    Command::new("grep").args(["-qaF", SECRET]).arg(&raw).status().unwrap().success()
}

/// What a report says went: kinds and paths.
pub(crate) fn check(report: &VmReport, way: SealWay) {
    let seal = report.seal.as_ref().expect("it is sealed");
    assert_eq!((seal.way, seal.os.as_str()), (way, "Hostler tiny guest"));
    let removed: Vec<_> = seal.removed.iter().map(|r| (r.what.as_str(), r.path.as_str())).collect();
    let expected = [
        ("SSH host key", "/etc/dropbear/dropbear_ed25519_host_key"),
        ("machine id", "/etc/machine-id"),
        ("log", "/var/log"),
        ("log", "/var/log/app"),
    ];
    for expected in expected {
        assert!(removed.contains(&expected), "{expected:?} is not among {removed:?}");
    }
}

#[tokio::test]
async fn qemu_a_guest_is_sealed_running_and_off_and_is_another_afterwards() {
    build_appliance();
    let mut world = World::start().await;
    let image = world.tiny_image().await;
    let definition = world.vm(DiskSource::Image(image));
    let vm = definition.vm.id();
    world.create(&definition).await.unwrap();
    let first = machine_id(&world, vm).await;
    let stopped = world.stop(vm, StopMode::Graceful, 60).await.unwrap();
    assert!(has_secret(&world, &stopped));

    // Off: on a layer of its own, which becomes the disk's.
    let sealed = seal(&world, vm).await.unwrap();
    check(&sealed, SealWay::Offline);
    assert_eq!((sealed.power, sealed.disks[0].layers.len()), (PowerState::Stopped, 3));
    assert!(!has_secret(&world, &sealed));
    let again = seal(&world, vm).await.unwrap();
    assert_eq!(again.seal, sealed.seal, "it has not run since: there is nothing to do");
    world.end_agent().await;
    world.start_agent().await;
    assert_eq!(world.report(vm).await.unwrap().seal, sealed.seal);
    let second = machine_id(&world, vm).await;
    assert_ne!(first, second);

    // An agent that died when it had sealed the running guest, and was never asked to go on.
    let died = OperationId::generate();
    pretend_sealing(&mut world, vm, &sealed, died).await;
    assert_eq!(world.found(vm).await.seal, None, "it runs");

    // Running: through its agent, and nothing is written any more.
    let sealed = seal(&world, vm).await.unwrap();
    check(&sealed, SealWay::Guest);
    let keys = |removed: &&hostler_types::Removed| removed.what == "SSH host key";
    let keys = sealed.seal.iter().flat_map(|seal| seal.removed.iter().filter(keys)).count();
    assert_eq!(keys, 1, "what another operation has begun is not this one's");
    assert_eq!((sealed.power, world.qemu_pids().len()), (PowerState::Stopped, 0));
    assert!(!has_secret(&world, &sealed));
    let third = machine_id(&world, vm).await;
    assert!(third != first && third != second);

    // Asked to go on, it goes through the guest again, which has run since.
    pretend_sealing(&mut world, vm, &sealed, died).await;
    assert_eq!(world.found(vm).await.power, PowerState::Running);
    let again = seal_as(&world, vm, VmCommand { op: died, ..command(1) }).await.unwrap();
    check(&again, SealWay::Guest);
    let twice = sealed.seal.as_ref().unwrap().removed.len() + 3;
    assert!(again.seal.as_ref().unwrap().removed.len() >= twice, "{again:?}");
    assert!(!has_secret(&world, &again));
    world.remove(vm, false, true).await.unwrap();
    world.assert_nothing_left();
    world.end_agent().await;
}

#[tokio::test]
async fn qemu_what_is_not_understood_is_not_sealed() {
    build_appliance();
    let mut world = World::start().await;
    let definition = world.vm(DiskSource::Blank);
    let vm = definition.vm.id();
    let made = world.create(&definition).await.unwrap();
    let refused = seal(&world, vm).await.unwrap_err();
    assert!(refused.detail.contains("there is no file system that is known"), "{refused}");
    let report = world.report(vm).await.unwrap();
    assert_eq!((report.disks[0].layers.len(), report.seal), (made.disks[0].layers.len(), None));
    assert!(!world.path(&format!("store/{}", next(vm))).exists(), "nothing is left of it");
    world.remove(vm, false, false).await.unwrap();
    world.assert_nothing_left();
    world.end_agent().await;
}

fn next(vm: VmId) -> LayerFile {
    LayerFile::disk(vm, &"disk0".parse().unwrap(), 1)
}

#[tokio::test]
async fn a_template_is_read_only_and_not_started() {
    let mut world = World::start().await;
    let mut definition = world.vm(DiskSource::Blank);
    let vm = definition.vm.id();
    world.create(&definition).await.unwrap();
    definition.vm.spec.template = Some(VersionOf {
        template: TemplateId::generate(),
        version: 1,
        description: String::new(),
        name: "web01".parse().unwrap(),
        at: Timestamp::now(),
        by: "tester".to_owned(),
    });
    define(&world, &definition).await.unwrap();
    let disk = world.path(&format!("store/vms/{vm}/disk0.qcow2"));
    assert!(hostler_host::volume::is_lent(&disk).unwrap());
    let refused = world.vm_start(vm).await.unwrap_err();
    assert_eq!(refused.code, "wrong_state");
    assert!(refused.detail.contains("it is a template"), "{refused}");

    // A linked clone lies on it, and goes; the template stays what it is.
    let source = DiskSource::Linked(LayerFile::disk(vm, &"disk0".parse().unwrap(), 0));
    let clone = world.vm(source);
    world.create(&clone).await.unwrap();
    world.remove(clone.vm.id(), false, false).await.unwrap();
    assert!(hostler_host::volume::is_lent(&disk).unwrap());

    definition.vm.spec.template = None;
    define(&world, &definition).await.unwrap();
    world.vm_start(vm).await.unwrap();
    world.remove(vm, false, true).await.unwrap();
    world.assert_nothing_left();
    world.end_agent().await;
}
