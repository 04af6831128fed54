//! SIGKILL of the agent in the middle of what it makes of a VM's or an image's files: an archive, an image,
//! a sealed disk. What was there is as it was, the same operation, asked for again,
//! comes to an end, and nothing is left over.
//!
//! `HOSTLER_KILLS` sets how often each is cut off, at even distances of its time.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use hostler_agent_api as api;
use hostler_agent_api::{
    ImageImportRequest, ImageImportSource, ImageImported, ImagePath, ImageRemoveRequest,
    VmExportRequest, VmPath,
};
use hostler_endpoint::{Client, ClientError, NoParams};
use hostler_types::{
    ByteSize, DatastoreId, DiskSource, ExportManifest, ImageId, OperationId, PowerState, SealWay,
    StopMode, VmId,
};

use crate::clones::{disk0, fill, shows};
use crate::killed::kill_qemu;
use crate::snapshots::place;
use crate::templates::{check, has_secret, machine_id, seal_as};
use crate::world::{World, build_appliance, command, eventually, long, problem};

/// An answer of nobody: the agent has died.
type Answer<T> = Result<T, ClientError>;

/// Kills the agent after parts of the time that `ask` takes, asks again, and hands each answer to
/// `check`. The first time nobody is killed.
async fn sweep<T, F, G>(
    world: &mut World,
    mut ask: impl FnMut(&World) -> F,
    mut again: impl FnMut(&World) -> F,
    mut check: impl AsyncFnMut(&World, T, &str) -> G,
) where
    T: Send + 'static,
    F: Future<Output = Answer<T>> + Send + 'static,
{
    let rounds = std::env::var("HOSTLER_KILLS").map_or(4, |rounds| rounds.parse().unwrap());
    let begin = Instant::now();
    let answer = ask(world).await.unwrap();
    let whole = begin.elapsed();
    check(world, answer, "nobody killed").await;
    for number in 0..rounds {
        let delay = whole * (2 * number + 1) / (2 * rounds);
        let place = format!("killed after {delay:?} of {whole:?}");
        let asking = tokio::spawn(ask(world));
        tokio::time::sleep(delay).await;
        world.end_agent().await;
        let _ = asking.await.unwrap();
        world.spawn_agent().await;
        let answer = again(world).await.unwrap_or_else(|error| panic!("{place}: {error:?}"));
        check(world, answer, &place).await;
    }
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

fn export(
    client: &Client,
    vm: VmId,
    op: OperationId,
) -> impl Future<Output = Answer<ExportManifest>> + use<> {
    let client = client.clone();
    let command = api::VmCommand { op, ..command(1) };
    async move {
        let request = VmExportRequest { command, networks: Vec::new() };
        client.call_with::<api::VmExport>(&VmPath { vm }, &NoParams {}, request, long()).await
    }
}

#[tokio::test]
async fn an_agent_killed_in_the_middle_of_an_export_leaves_the_vm_and_no_half_archive() {
    let mut world = World::start_process().await;
    let definition = world.vm(DiskSource::Blank);
    let vm = definition.vm.id();
    world.create(&definition).await.unwrap();
    let disk = place(&world, &disk0(vm, 0));
    fill(&disk, 7, 0, 192);
    let folder = disk.parent().unwrap().to_owned();
    let before = names(&folder);
    let op = std::cell::Cell::new(OperationId::generate());
    sweep(
        &mut world,
        |world| {
            op.set(OperationId::generate());
            export(&world.client, vm, op.get())
        },
        |world| export(&world.client, vm, op.get()),
        async |world, manifest: ExportManifest, place| {
            let archive = folder.join("export");
            let copy = archive.join("disk0.qcow2");
            assert!(shows(&copy, 7, 0, 192), "{place}: all of it is there");
            let size = std::fs::metadata(&copy).unwrap().len();
            assert_eq!(manifest.disks[0].file.bytes(), size, "{place}");
            assert!(names(&archive).len() <= 2, "{place}: {:?}", names(&archive));
            let path = VmPath { vm };
            world.client.call::<api::VmExportRemove>(&path, &NoParams {}, ()).await.unwrap();
            assert_eq!(names(&folder), before, "{place}: nothing is left over");
            assert!(shows(&disk, 7, 0, 192), "{place}: the VM's own disk");
            assert_eq!(world.found(vm).await.power, PowerState::Stopped, "{place}");
        },
    )
    .await;
    world.remove(vm, false, false).await.unwrap();
    world.assert_nothing_left();
}

fn import(
    client: &Client,
    datastore: DatastoreId,
    image: ImageId,
    op: OperationId,
    size: u64,
) -> impl Future<Output = Answer<ImageImported>> + use<> {
    let client = client.clone();
    async move {
        let source = ImageImportSource::Uploaded(ByteSize(size));
        let request = ImageImportRequest { op, datastore, source, sha256: None };
        client
            .call_with::<api::ImageImport>(&ImagePath { image }, &NoParams {}, request, long())
            .await
    }
}

#[tokio::test]
async fn an_agent_killed_in_the_middle_of_an_import_goes_on_with_what_was_uploaded() {
    let mut world = World::start_process().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.qcow2");
    let mut create = std::process::Command::new("qemu-img");
    create.args(["create", "-q", "-f", "qcow2"]).arg(&path).arg("256M");
    assert!(create.status().unwrap().success());
    fill(&path, 7, 0, 96);
    let bytes = std::fs::read(&path).unwrap();
    let size = bytes.len() as u64;
    let datastore = world.datastore;
    let images = world.path("store/images");
    let rounds: u32 = std::env::var("HOSTLER_KILLS").map_or(4, |rounds| rounds.parse().unwrap());
    // What an import takes, to cut the others off in its middle.
    let mut whole = Duration::ZERO;
    for number in 0..=rounds {
        let (image, op) = (ImageId::generate(), OperationId::generate());
        world.upload(image, &bytes).await;
        let asked = |world: &World| import(&world.client, datastore, image, op, size);
        let place_ = format!("round {number}, an import takes {whole:?}");
        if number == 0 {
            let begin = Instant::now();
            asked(&world).await.unwrap();
            whole = begin.elapsed();
        } else {
            let asking = tokio::spawn(asked(&world));
            tokio::time::sleep(whole * (2 * number - 1) / (2 * rounds)).await;
            world.end_agent().await;
            let _ = asking.await.unwrap();
            world.spawn_agent().await;
        }
        let imported = asked(&world).await.unwrap_or_else(|error| panic!("{place_}: {error:?}"));
        assert_eq!(imported.virtual_size, ByteSize::mib(256), "{place_}");
        // It is an image: a VM lies on it and reads what it has.
        let definition = world.vm(DiskSource::Image(image));
        let vm = definition.vm.id();
        world.create(&definition).await.unwrap();
        assert!(shows(&place(&world, &disk0(vm, 0)), 7, 0, 96), "{place_}");
        world.remove(vm, false, false).await.unwrap();
        let request = ImageRemoveRequest { op: OperationId::generate(), datastore };
        let path = ImagePath { image };
        let removed = world.client.call::<api::ImageRemove>(&path, &NoParams {}, request).await;
        removed.map_err(problem).unwrap();
        assert_eq!(names(&images), set([]), "{place_}: nothing is left over");
    }
    world.assert_nothing_left();
}

/// Asks for it, to be cut off.
fn begin_seal(
    world: &World,
    vm: VmId,
    command: api::VmCommand,
) -> tokio::task::JoinHandle<Answer<api::VmReport>> {
    let client = world.client.clone();
    tokio::spawn(async move {
        let path = VmPath { vm };
        client.call_with::<api::VmSeal>(&path, &NoParams {}, command, long()).await
    })
}

/// The guest is off: another machine cleans its disk, on a layer of its own that becomes the disk's when
/// all is done.
#[tokio::test]
async fn qemu_an_agent_killed_in_the_middle_of_sealing_a_disk_seals_it_or_has_not_begun() {
    build_appliance();
    let mut world = World::start_process().await;
    let image = world.tiny_image().await;
    let rounds: u32 = std::env::var("HOSTLER_KILLS").map_or(2, |rounds| rounds.parse().unwrap());
    let mut whole = Duration::ZERO;
    for number in 0..=rounds {
        let definition = world.vm(DiskSource::Image(image));
        let vm = definition.vm.id();
        world.create(&definition).await.unwrap();
        let first = machine_id(&world, vm).await;
        let stopped = world.stop(vm, StopMode::Graceful, 60).await.unwrap();
        assert!(has_secret(&world, &stopped));
        let (op, place_) = (command(1), format!("round {number}, sealing takes {whole:?}"));
        if number == 0 {
            let begin = Instant::now();
            seal_as(&world, vm, op).await.unwrap();
            whole = begin.elapsed();
        } else {
            let asking = begin_seal(&world, vm, op);
            tokio::time::sleep(whole * (2 * number - 1) / (2 * rounds)).await;
            world.end_agent().await;
            let _ = asking.await.unwrap();
            world.spawn_agent().await;
            let report = world.found(vm).await;
            assert_eq!(report.power, PowerState::Stopped, "{place_}: {report:?}");
            // Sealed is what says so, and nothing else.
            assert_eq!(report.seal.is_none(), has_secret(&world, &report), "{place_}");
            assert_eq!(world.qemu_pids(), Vec::<u32>::new(), "{place_}: nothing works on it");
        }
        let sealed = seal_as(&world, vm, op).await.unwrap_or_else(|e| panic!("{place_}: {e:?}"));
        check(&sealed, SealWay::Offline);
        assert!(!has_secret(&world, &sealed), "{place_}");
        assert_eq!(sealed.disks[0].layers.len(), 3, "{place_}: {sealed:?}");
        let own = names(&world.path("store/vms").join(vm.to_string()));
        let layers = own.iter().filter(|name| name.ends_with(".qcow2")).count();
        assert_eq!(layers, 2, "{place_}: {own:?}");
        assert_ne!(machine_id(&world, vm).await, first, "{place_}: it boots, as another one");
        world.remove(vm, false, true).await.unwrap();
        world.assert_nothing_left();
    }
}

/// The guest cleans itself. When the host's agent dies, the guest runs on, and what it makes anew goes the
/// second time, also if it was frozen; when QEMU dies, the guest boots again, and is cleaned again.
#[tokio::test]
async fn qemu_sealing_a_guest_that_runs_comes_to_its_end_whoever_is_killed() {
    build_appliance();
    let mut world = World::start_process().await;
    let image = world.tiny_image().await;
    let rounds: u32 = std::env::var("HOSTLER_KILLS").map_or(1, |rounds| rounds.parse().unwrap());
    let mut whole = Duration::ZERO;
    // Of two rounds one kills the agent, and one QEMU.
    for number in 0..=2 * rounds {
        let definition = world.vm(DiskSource::Image(image));
        let vm = definition.vm.id();
        world.create(&definition).await.unwrap();
        let first = machine_id(&world, vm).await;
        let qemu = number % 2 == 0;
        let (op, place_) = (command(1), format!("round {number}, sealing takes {whole:?}"));
        if number == 0 {
            let begin = Instant::now();
            seal_as(&world, vm, op).await.unwrap();
            whole = begin.elapsed();
        } else {
            let asking = begin_seal(&world, vm, op);
            tokio::time::sleep(whole * (2 * number.div_ceil(2) - 1) / (2 * rounds)).await;
            let pids = world.qemu_pids();
            if qemu {
                kill_qemu(&world);
            } else {
                world.end_agent().await;
            }
            let _ = asking.await.unwrap();
            if qemu {
                // It is started again, as its policy says, unless it was sealed by then.
                eventually("it is sealed, or runs again", Duration::from_secs(60), async || {
                    let (now, report) = (world.qemu_pids(), world.report(vm).await?);
                    let answers = report.guest.as_ref().is_some_and(|guest| guest.agent);
                    let again = !now.is_empty() && now != pids && answers;
                    let sealed = report.power == PowerState::Stopped && report.seal.is_some();
                    (again || sealed).then_some(())
                })
                .await;
            } else {
                world.spawn_agent().await;
            }
            let report = world.found(vm).await;
            let sealed = report.seal.is_some() && report.power == PowerState::Stopped;
            assert!(!sealed || !has_secret(&world, &report), "{place_}: {report:?}");
        }
        // To who asked at the agent's life the answer was that it failed, and stays so.
        let op = if qemu { command(1) } else { op };
        let sealed = seal_as(&world, vm, op).await.unwrap_or_else(|e| panic!("{place_}: {e:?}"));
        assert!(sealed.seal.is_some(), "{place_}: {sealed:?}");
        assert_eq!(sealed.power, PowerState::Stopped, "{place_}: {sealed:?}");
        assert!(!has_secret(&world, &sealed), "{place_}");
        assert_eq!(world.qemu_pids(), Vec::<u32>::new(), "{place_}");
        assert_ne!(machine_id(&world, vm).await, first, "{place_}: it boots, as another one");
        world.remove(vm, false, true).await.unwrap();
        world.assert_nothing_left();
    }
}
