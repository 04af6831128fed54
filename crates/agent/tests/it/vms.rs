//! VMs, from creation to removal.

use std::time::Duration;

use futures::StreamExt;
use hostler_agent_api as api;
use hostler_agent_api::{ConsoleKind, VmConsoleQuery, VmCreateRequest, VmLogQuery, VmPath};
use hostler_endpoint::{ByteStream, Bytes, NoParams};
use hostler_types::{ByteSize, DiskSource, ExecRequest, ImageId, PowerState, StopMode, VmId};

use crate::world::{World, command, long, problem, within};

async fn exec(world: &World, vm: VmId, words: &[&str]) -> hostler_types::ExecAnswer {
    let request = ExecRequest {
        command: words.iter().map(|word| (*word).to_owned()).collect(),
        stdin: String::new(),
        timeout_seconds: 20,
    };
    let answer = world.client.call::<api::VmExec>(&VmPath { vm }, &NoParams {}, request).await;
    answer.unwrap()
}

#[tokio::test]
async fn a_creation_is_done_once_and_wholly_or_not_at_all() {
    let mut world = World::start().await;
    let definition = world.vm(DiskSource::Blank);
    let (vm, create) = (definition.vm.id(), command(2));
    let first = world.create_as(create, &definition).await.unwrap();
    assert_eq!(first.power, PowerState::Stopped);
    assert_eq!(world.create_as(create, &definition).await.unwrap(), first, "the same operation");
    let again = world.create_as(command(2), &definition).await.unwrap_err();
    assert_eq!(again.code, "wrong_state");
    let stale = world.vm_start(vm).await.unwrap_err();
    assert_eq!((stale.status, stale.code.as_str()), (409, "stale_epoch"));

    // A disk without its image: nothing of the VM may stay.
    let mut broken = world.vm(DiskSource::Image(ImageId::generate()));
    let more = world.vm(DiskSource::Blank).vm.spec.disks.remove(0);
    broken.vm.spec.disks.insert(0, more);
    broken.vm.spec.disks[1].name = "disk1".parse().unwrap();
    let failed = world.create(&broken).await.unwrap_err();
    assert_eq!(failed.code, "not_found");
    assert!(world.report(broken.vm.id()).await.is_none());

    let remove = |epoch| api::VmRemoveRequest {
        command: command(epoch),
        datastore: world.datastore,
        keep_files: false,
        force: false,
    };
    let path = VmPath { vm };
    let call = |epoch| world.client.call::<api::VmRemove>(&path, &NoParams {}, remove(epoch));
    assert_eq!(problem(call(1).await.unwrap_err()).code, "stale_epoch");
    call(2).await.unwrap();
    call(2).await.unwrap();
    world.assert_nothing_left();
    world.end_agent().await;
}

#[tokio::test]
async fn files_are_kept_and_taken_in_again() {
    let mut world = World::start().await;
    let definition = world.vm(DiskSource::Blank);
    let vm = definition.vm.id();
    world.create(&definition).await.unwrap();
    world.remove(vm, true, false).await.unwrap();
    assert!(world.report(vm).await.is_none());
    let path = api::DatastorePath { datastore: world.datastore };
    let found = world.client.call::<api::DatastoreUnregistered>(&path, &NoParams {}, ()).await;
    assert_eq!(found.unwrap()[0].id(), vm);

    let request = || VmCreateRequest { command: command(1), definition: definition.clone() };
    let path = VmPath { vm };
    let register = || world.client.call::<api::VmRegister>(&path, &NoParams {}, request());
    let disk = world.path(&format!("store/vms/{vm}/disk0.qcow2"));
    let aside = world.path("aside");
    std::fs::rename(&disk, &aside).unwrap();
    assert!(register().await.is_err(), "a disk is missing");
    std::fs::rename(&aside, &disk).unwrap();
    assert_eq!(register().await.unwrap().power, PowerState::Stopped);
    world.remove(vm, false, false).await.unwrap();
    world.assert_nothing_left();
    world.end_agent().await;
}

#[tokio::test]
async fn a_definition_grows_disks_and_is_kept() {
    let mut world = World::start().await;
    let mut definition = world.vm(DiskSource::Blank);
    let vm = definition.vm.id();
    world.create(&definition).await.unwrap();
    definition.vm.spec.disks[0].size = ByteSize::gib(2);
    definition.vm.metadata.name = "renamed".parse().unwrap();
    let request = api::VmDefineRequest::new(command(1), definition.clone());
    let path = VmPath { vm };
    world.client.call::<api::VmDefine>(&path, &NoParams {}, request).await.unwrap();
    let disk = world.path(&format!("store/vms/{vm}/disk0.qcow2"));
    assert_eq!(hostler_host::volume::virtual_size(&disk).unwrap(), ByteSize::gib(2));
    world.end_agent().await;
    world.start_agent().await;
    assert_eq!(world.report(vm).await.unwrap().power, PowerState::Stopped);
    world.remove(vm, false, false).await.unwrap();
    world.assert_nothing_left();
    world.end_agent().await;
}

#[tokio::test]
async fn qemu_a_guest_lives() {
    let mut world = World::start().await;
    let image = world.tiny_image().await;
    let definition = world.vm(DiskSource::Image(image));
    let vm = definition.vm.id();
    world.create(&definition).await.unwrap();

    let started = world.vm_start(vm).await.unwrap();
    assert_eq!(started.power, PowerState::Running);
    assert_eq!(world.vm_start(vm).await.unwrap().power, PowerState::Running, "runs already");
    assert!(world.remove(vm, false, false).await.is_err(), "it runs");
    assert_eq!(world.qemu_pids().len(), 1);

    let report = world
        .wait_for("the guest agent answers", vm, |report| {
            report.guest.as_ref().is_some_and(|guest| guest.agent && guest.hostname.is_some())
        })
        .await;
    assert_eq!(report.guest.unwrap().hostname.as_deref(), Some("tiny01"));
    let answer = exec(&world, vm, &["/bin/echo", "hello; world"]).await;
    assert_eq!((answer.exit_code, answer.stdout.as_str()), (Some(0), "hello; world\n"));

    see_console(&world, vm).await;
    see_screen(&world, vm).await;
    suspend_and_resume(&world, vm).await;

    let stopped = world.stop(vm, StopMode::Graceful, 60).await.unwrap();
    assert_eq!(stopped.power, PowerState::Stopped);
    assert_eq!(world.qemu_pids(), Vec::<u32>::new());
    world.remove(vm, false, false).await.unwrap();
    world.assert_nothing_left();
    world.end_agent().await;
}

async fn see_console(world: &World, vm: VmId) {
    let path = VmPath { vm };
    let log = world.client.call::<api::VmLog>(&path, &VmLogQuery { follow: false }, ()).await;
    let log: Vec<Bytes> = log.unwrap().map(Result::unwrap).collect().await;
    let log = String::from_utf8_lossy(&log.concat()).into_owned();
    assert!(log.contains("Linux version") || log.contains("tiny01"), "{log}");

    let query = VmConsoleQuery { kind: ConsoleKind::Serial };
    let (typist, typed) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(4);
    let input: ByteStream = Box::pin(futures::stream::unfold(typed, |mut typed| async move {
        typed.recv().await.map(|bytes| (bytes, typed))
    }));
    let mut output = world.client.call::<api::VmConsole>(&path, &query, input).await.unwrap();
    typist.send(Ok(Bytes::from_static(b"\necho con$((40+2))sole\n"))).await.unwrap();
    let mut seen = String::new();
    within(Duration::from_secs(20), async {
        while !seen.contains("con42sole") {
            seen.push_str(&String::from_utf8_lossy(&output.next().await.unwrap().unwrap()));
        }
    })
    .await;
}

async fn see_screen(world: &World, vm: VmId) {
    let path = VmPath { vm };
    let picture = world.client.call::<api::VmScreenshot>(&path, &NoParams {}, ()).await.unwrap();
    let picture: Vec<Bytes> = picture.map(Result::unwrap).collect().await;
    assert!(picture.concat().starts_with(b"\x89PNG"), "a PNG");

    let query = VmConsoleQuery { kind: ConsoleKind::Vnc };
    let quiet: ByteStream = Box::pin(futures::stream::pending());
    let mut screen = world.client.call::<api::VmConsole>(&path, &query, quiet).await.unwrap();
    let hello = within(Duration::from_secs(10), screen.next()).await.unwrap().unwrap();
    assert!(hello.starts_with(b"RFB "), "{hello:?}");
}

async fn suspend_and_resume(world: &World, vm: VmId) {
    let uptime = exec(world, vm, &["/bin/cat", "/proc/sys/kernel/random/boot_id"]).await.stdout;
    let path = VmPath { vm };
    let suspend =
        || world.client.call_with::<api::VmSuspend>(&path, &NoParams {}, command(1), long());
    let report = suspend().await.unwrap();
    assert_eq!(report.power, PowerState::Suspended);
    assert_eq!(world.qemu_pids(), Vec::<u32>::new());
    assert_eq!(suspend().await.unwrap().power, PowerState::Suspended, "asked again");
    assert_eq!(world.vm_start(vm).await.unwrap().power, PowerState::Running);
    assert!(!world.path(&format!("store/vms/{vm}/suspend.state")).exists());
    world
        .wait_for("the guest agent answers again", vm, |report| {
            report.guest.as_ref().is_some_and(|guest| guest.agent)
        })
        .await;
    let same = exec(world, vm, &["/bin/cat", "/proc/sys/kernel/random/boot_id"]).await.stdout;
    assert_eq!(same, uptime, "the same boot of the guest goes on");
}

#[tokio::test]
async fn qemu_that_cannot_start_leaves_nothing() {
    let mut world = World::start().await;
    let mut definition = world.vm(DiskSource::Blank);
    definition.vm.spec.cpu_model = Some("no-such-model".to_owned());
    let vm = definition.vm.id();
    world.create(&definition).await.unwrap();
    let failed = world.vm_start(vm).await.unwrap_err();
    assert_eq!(failed.code, "qemu_failed");
    assert!(failed.detail.contains("no-such-model"), "QEMU's own words: {failed}");
    assert_eq!(world.report(vm).await.unwrap().power, PowerState::Stopped);
    assert_eq!(world.qemu_pids(), Vec::<u32>::new());
    assert_eq!(std::fs::read_dir(world.path("run/agent/vms")).unwrap().count(), 0);
    world.remove(vm, false, false).await.unwrap();
    world.assert_nothing_left();
    world.end_agent().await;
}

#[tokio::test]
async fn qemu_a_guest_that_does_not_stop_runs_on() {
    let mut world = World::start().await;
    // No system on the disk: nobody hears the power button.
    let definition = world.vm(DiskSource::Blank);
    let vm = definition.vm.id();
    world.create(&definition).await.unwrap();
    world.vm_start(vm).await.unwrap();
    let refused = world.stop(vm, StopMode::Graceful, 1).await.unwrap_err();
    assert_eq!((refused.status, refused.code.as_str()), (504, "timeout"));
    assert_eq!(world.report(vm).await.unwrap().power, PowerState::Running);
    let stopped = world.stop(vm, StopMode::GracefulThenOff, 1).await.unwrap();
    assert_eq!(stopped.power, PowerState::Stopped);
    world.vm_start(vm).await.unwrap();
    let stopped = world.stop(vm, StopMode::PowerOff, 0).await.unwrap();
    assert_eq!(stopped.power, PowerState::Stopped);
    world.vm_start(vm).await.unwrap();
    world.remove(vm, false, true).await.unwrap();
    world.assert_nothing_left();
    world.end_agent().await;
}
