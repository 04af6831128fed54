//! Instant clones: what parent and clones share ends at the fork, and nobody loses a guest.

use std::time::{Duration, Instant};

use futures::StreamExt;
use hostler_agent_api as api;
use hostler_agent_api::{
    NetworkDefinition, VmConsoleQuery, VmCreateRequest, VmDefinition, VmForkAnswer, VmForkRequest,
    VmPath, VmReport,
};
use hostler_endpoint::{ByteStream, NoParams, Problem};
use hostler_host::volume;
use hostler_types::{
    ByteSize, CustomizationState, DiskSource, ExecAnswer, ExecRequest, NetworkId, NicSpec,
    PowerState, StopMode, VmId,
};

use crate::world::{World, command, eventually, long, nat, problem};

async fn sh(world: &World, vm: VmId, script: &str) -> String {
    let answer = try_sh(world, vm, script).await.unwrap();
    assert_eq!(answer.exit_code, Some(0), "{script}: {answer:?}");
    answer.stdout.trim().to_owned()
}

async fn try_sh(world: &World, vm: VmId, script: &str) -> Result<ExecAnswer, Problem> {
    let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    let request = ExecRequest { command, stdin: String::new(), timeout_seconds: 20 };
    let path = VmPath { vm };
    let answer = world.client.call_with::<api::VmExec>(&path, &NoParams {}, request, long());
    answer.await.map_err(problem)
}

fn nic(mac: &str, network: NetworkId) -> NicSpec {
    NicSpec {
        name: "nic0".parse().unwrap(),
        network,
        mac: mac.parse().unwrap(),
        address: None,
        link: Default::default(),
    }
}

/// A clone as a server would define it.
fn clone_of(world: &World, parent: &VmDefinition, report: &VmReport, number: u8) -> VmDefinition {
    let file = report.disks[0].layers[0].file.clone();
    let mut clone = world.vm(DiskSource::Linked(file));
    let name = format!("clone{number:02}");
    clone.vm.metadata.name = name.parse().unwrap();
    let spec = &mut clone.vm.spec;
    spec.customization.as_mut().unwrap().hostname = Some(name.parse().unwrap());
    spec.max_memory = parent.vm.spec.max_memory;
    clone.networks.clone_from(&parent.networks);
    let network = parent.networks.first();
    let mac = format!("52:54:00:12:35:{number:02}");
    spec.nics = network.map(|network| nic(&mac, network.id)).into_iter().collect();
    clone
}

pub(crate) async fn fork(
    world: &World,
    parent: VmId,
    request: &VmForkRequest,
) -> Result<VmForkAnswer, Problem> {
    let path = VmPath { vm: parent };
    let fork = world.client.call_with::<api::VmFork>(&path, &NoParams {}, request.clone(), long());
    fork.await.map_err(problem)
}

pub(crate) fn request(clones: impl IntoIterator<Item = VmDefinition>) -> VmForkRequest {
    let clone = |definition| VmCreateRequest { command: command(1), definition };
    VmForkRequest { command: command(1), clones: clones.into_iter().map(clone).collect() }
}

/// A parent that runs, with something in its memory and on its disk.
async fn parent(world: &World, networks: &[NetworkDefinition]) -> VmDefinition {
    let definition = parent_off(world, networks).await;
    let vm = definition.vm.id();
    bring_up(world, vm).await;
    definition
}

async fn parent_off(world: &World, networks: &[NetworkDefinition]) -> VmDefinition {
    let image = world.tiny_image().await;
    let mut definition = world.vm(DiskSource::Image(image));
    if networks.is_empty() {
        // Room for memory is no memory.
        definition.vm.spec.max_memory = Some(ByteSize::gib(2));
    }
    definition.networks = networks.to_vec();
    let nic0 = networks.first().map(|network| nic("52:54:00:12:34:56", network.id));
    definition.vm.spec.nics = nic0.into_iter().collect();
    world.create(&definition).await.unwrap();
    definition
}

async fn bring_up(world: &World, vm: VmId) {
    world.vm_start(vm).await.unwrap();
    world.wait_for("it is up", vm, |r| r.guest.as_ref().is_some_and(|g| g.agent)).await;
    write(world, vm, "before").await;
}

async fn define(world: &World, definition: &VmDefinition) -> VmReport {
    let request = api::VmDefineRequest::new(command(1), definition.clone());
    let path = VmPath { vm: definition.vm.id() };
    let answer = world.client.call_with::<api::VmDefine>(&path, &NoParams {}, request, long());
    answer.await.unwrap()
}

/// Gives a VM that is off a detached disk which a clone lies on; the clone.
async fn lend_detached(world: &World, definition: &mut VmDefinition) -> VmDefinition {
    let vm = definition.vm.id();
    let mut data = definition.vm.spec.disks[0].clone();
    data.name = DATA.parse().unwrap();
    data.source = DiskSource::Blank;
    definition.vm.spec.disks.push(data.clone());
    define(world, definition).await;
    world.freeze(vm, None).await.unwrap();
    let file = hostler_types::LayerFile::disk(vm, &data.name, 0);
    let clone = world.vm(DiskSource::Linked(file));
    world.create(&clone).await.unwrap();
    definition.vm.spec.disks.pop();
    definition.vm.spec.detached.push(data);
    define(world, definition).await;
    clone
}

const DATA: &str = "data";

/// The disk, in the guest's shell; the seed may come before it.
const DISK: &str = "d=/dev/$(grep -l disk0 /sys/block/*/serial | cut -d/ -f4)";

/// Into the guest's memory, and onto its disk past all that it needs.
async fn write(world: &World, vm: VmId, text: &str) {
    let script = format!(
        "{DISK}; echo {text} >/tmp/mark; printf %-512s {text} | dd of=$d bs=512 seek=1000000 \
         conv=notrunc 2>/dev/null; sync"
    );
    sh(world, vm, &script).await;
}

async fn read(world: &World, vm: VmId) -> (String, String) {
    let memory = sh(world, vm, "cat /tmp/mark").await;
    (memory, on_disk(world, vm).await)
}

async fn on_disk(world: &World, vm: VmId) -> String {
    let read = "dd if=$d bs=512 skip=1000000 count=1 2>/dev/null";
    sh(world, vm, &format!("{DISK}; echo 3 >/proc/sys/vm/drop_caches; {read}")).await
}

fn same(text: &str) -> (String, String) {
    (text.to_owned(), text.to_owned())
}

async fn identity(world: &World, vm: VmId) -> VmReport {
    world
        .wait_for("it has taken its identity", vm, |report| {
            let customization = report.customization.as_ref();
            customization.is_some_and(|known| known.state != CustomizationState::Pending)
        })
        .await
}

#[tokio::test]
async fn qemu_clones_of_a_running_vm_are_machines_of_their_own() {
    let mut world = World::start_process().await;
    let network = NetworkDefinition { id: NetworkId::generate(), spec: nat("10.213.81.0/24") };
    let definition = parent(&world, &[network]).await;
    let vm = definition.vm.id();
    let boot = sh(&world, vm, "cat /proc/sys/kernel/random/boot_id").await;
    let (input, mut output) = open_console(&world, vm).await;

    // Three at once.
    let report = world.report(vm).await.unwrap();
    let clones: Vec<_> = (1..=3).map(|n| clone_of(&world, &definition, &report, n)).collect();
    let order = request(clones.clone());
    let answer = fork(&world, vm, &order).await.unwrap();
    assert_eq!(answer.parent.power, PowerState::Running);
    assert!(answer.clones.iter().all(|clone| clone.power == PowerState::Running));
    assert_eq!(world.qemu_pids().len(), 4);
    assert_eq!(answer.parent.disks[0].layers.len(), 3);
    assert_eq!(answer.clones[0].disks[0].layers.len(), 3);
    let again = fork(&world, vm, &order).await.unwrap();
    assert_eq!(again.clones.len(), 3, "the same operation");
    assert_eq!(world.qemu_pids().len(), 4);

    // The parent is what it was, and whoever was connected with it still is.
    assert_eq!(sh(&world, vm, "cat /proc/sys/kernel/random/boot_id").await, boot);
    assert_eq!(read(&world, vm).await, same("before"));
    input.send(Ok("\necho still $((40 + 2))\n".into())).await.unwrap();
    let goes_on = async {
        let mut shown = String::new();
        // In pieces, cut anywhere.
        while !shown.contains("still 42") {
            let bytes = output.next().await.expect("it is open").unwrap();
            shown.push_str(&String::from_utf8_lossy(&bytes));
        }
    };
    tokio::time::timeout(Duration::from_secs(20), goes_on).await.expect("the console goes on");
    let path = VmPath { vm };
    let picture = world.client.call::<api::VmScreenshot>(&path, &NoParams {}, ()).await;
    assert!(picture.is_ok());

    // Each clone is one of its own.
    let mut seen = Vec::new();
    for (number, clone) in (1..).zip(&clones) {
        let id = clone.vm.id();
        let report = identity(&world, id).await;
        let known = report.customization.as_ref().unwrap();
        assert_eq!(known.state, CustomizationState::Applied, "{known:?}");
        assert_eq!(report.pending, []);
        let reserved = report.nics[0].reserved.unwrap();
        let report = world
            .wait_for("it has its address", id, |report| {
                report.guest.as_ref().is_some_and(|guest| guest.addresses == [reserved])
            })
            .await;
        let guest = report.guest.unwrap();
        assert_eq!(guest.hostname, Some(format!("clone{number:02}")));
        assert_eq!(guest.nics[0].mac, clone.vm.spec.nics[0].mac);
        assert_eq!(guest.nics.len(), 1);
        assert_eq!(read(&world, id).await, same("before"));
        let random = sh(&world, id, "head -c 16 /dev/urandom | od -An -tx1").await;
        assert!(!seen.contains(&random));
        seen.push(random);
    }

    // From here on nobody sees what another does.
    write(&world, vm, "parent").await;
    write(&world, clones[0].vm.id(), "clone").await;
    assert_eq!(read(&world, vm).await, same("parent"));
    assert_eq!(read(&world, clones[0].vm.id()).await, same("clone"));
    assert_eq!(read(&world, clones[1].vm.id()).await, same("before"));

    fork_again(&mut world, &definition, &clones).await;
}

/// A parent that has been forked, and a clone, can be forked; after that everything can end.
async fn fork_again(world: &mut World, definition: &VmDefinition, clones: &[VmDefinition]) {
    let vm = definition.vm.id();
    // Another agent finds all of them, each as its own.
    world.end_agent().await;
    world.spawn_agent().await;
    for (id, text) in [(vm, "parent"), (clones[0].vm.id(), "clone")] {
        assert_eq!(world.found(id).await.power, PowerState::Running);
        assert_eq!(read(world, id).await, same(text));
    }
    assert_eq!(world.qemu_pids().len(), 4);
    for (number, of, text) in [(4, definition, "parent"), (5, &clones[0], "clone")] {
        let of_id = of.vm.id();
        let report = world.report(of_id).await.unwrap();
        let clone = clone_of(world, of, &report, number);
        fork(world, of_id, &request([clone.clone()])).await.unwrap();
        assert_eq!(read(world, of_id).await, same(text));
        assert_eq!(read(world, clone.vm.id()).await, same(text));
        world.remove(clone.vm.id(), false, true).await.unwrap();
    }

    // What is shared is saved and loaded as everything else.
    let path = VmPath { vm: clones[0].vm.id() };
    let suspend = world.client.call_with::<api::VmSuspend>(&path, &NoParams {}, command(1), long());
    suspend.await.unwrap();
    world.vm_start(path.vm).await.unwrap();
    assert_eq!(read(world, path.vm).await, same("clone"));

    // A clone starts from its disks, and is still itself.
    let id = clones[1].vm.id();
    world.stop(id, StopMode::PowerOff, 0).await.unwrap();
    world.vm_start(id).await.unwrap();
    let up = |report: &VmReport| report.guest.as_ref().is_some_and(|guest| guest.agent);
    let report = world.wait_for("it boots", id, up).await;
    assert_eq!(report.guest.unwrap().hostname.as_deref(), Some("clone02"));
    assert_eq!(on_disk(world, id).await, "before");

    for clone in clones {
        world.remove(clone.vm.id(), false, true).await.unwrap();
    }
    world.remove(vm, false, true).await.unwrap();
    world.assert_nothing_left();
}

pub(crate) async fn open_console(
    world: &World,
    vm: VmId,
) -> (tokio::sync::mpsc::Sender<Result<hostler_endpoint::Bytes, std::io::Error>>, ByteStream) {
    let (input, typed) = tokio::sync::mpsc::channel(4);
    let body: ByteStream =
        futures::stream::unfold(
            typed,
            |mut typed| async move { Some((typed.recv().await?, typed)) },
        )
        .boxed();
    let query = VmConsoleQuery { kind: api::ConsoleKind::Serial };
    let path = VmPath { vm };
    let output = world.client.call::<api::VmConsole>(&path, &query, body).await;
    (input, output.unwrap())
}

/// A clone that cannot be made, and an agent that dies: the guest runs on, in one process.
#[tokio::test]
async fn qemu_a_guest_outlives_forks_that_fail() {
    let mut world = World::start_process().await;
    let mut definition = parent_off(&world, &[]).await;
    let vm = definition.vm.id();
    let on_detached = lend_detached(&world, &mut definition).await;
    bring_up(&world, vm).await;
    let report = world.report(vm).await.unwrap();
    let chain = report.disks[0].layers.len();

    let mut clone = clone_of(&world, &definition, &report, 1);
    clone.vm.spec.disks[0].source =
        DiskSource::Linked(hostler_types::LayerFile::disk(vm, &"disk0".parse().unwrap(), 7));
    let good = clone_of(&world, &definition, &report, 2);
    let refused = fork(&world, vm, &request([clone, good.clone()])).await.unwrap_err();
    assert!(refused.detail.contains("have changed meanwhile"), "{refused:?}");
    assert_eq!(world.report(good.vm.id()).await, None);
    assert_eq!(world.report(vm).await.unwrap().disks[0].layers.len(), chain);
    assert_eq!(world.qemu_pids().len(), 1);
    assert_eq!(read(&world, vm).await, same("before"));
    let data = world.path(&format!("store/vms/{vm}/{DATA}.qcow2"));
    assert!(volume::is_lent(&data).unwrap(), "a clone lies on the detached disk");

    // As long as it takes here and now; from the second on with a move to fresh memory.
    let mut whole = 0;
    for _ in 0..2 {
        let report = world.report(vm).await.unwrap();
        let clone = clone_of(&world, &definition, &report, 9);
        let begin = Instant::now();
        fork(&world, vm, &request([clone.clone()])).await.unwrap();
        whole = u64::try_from(begin.elapsed().as_millis()).unwrap();
        world.remove(clone.vm.id(), false, true).await.unwrap();
    }
    let delays = [2, 20, 40, 60, 70, 75, 80, 84, 88, 92, 96, 100, 104, 110];
    for (round, percent) in (0_u64..).zip(delays) {
        let delay = whole * percent / 100;
        let report = world.report(vm).await.unwrap();
        let clone = clone_of(&world, &definition, &report, 3);
        let id = clone.vm.id();
        let order = request([clone]);
        let client = world.client.clone();
        let asked = tokio::spawn(async move {
            let path = VmPath { vm };
            let call = client.call_with::<api::VmFork>(&path, &NoParams {}, order, long());
            call.await.is_ok()
        });
        tokio::time::sleep(Duration::from_millis(delay)).await;
        world.end_agent().await;
        let done = asked.await.unwrap();
        world.spawn_agent().await;
        let parent = world.found(vm).await;
        assert_eq!(parent.power, PowerState::Running, "after {delay} ms: {parent:?}");
        let clone =
            eventually("the clone is known, or gone", Duration::from_secs(20), async || {
                let clone = world.report(id).await;
                clone.as_ref().is_none_or(|it| it.power != PowerState::Unknown).then_some(clone)
            })
            .await;
        assert!(clone.is_some() || !done);
        let runs = 1 + usize::from(clone.is_some());
        eventually("the others are gone", Duration::from_secs(5), async || {
            (world.qemu_pids().len() == runs).then_some(())
        })
        .await;
        let text = if round == 0 { "before".to_owned() } else { format!("r{}", round - 1) };
        assert_eq!(read(&world, vm).await, same(&text), "after {delay} ms");
        write(&world, vm, &format!("r{round}")).await;
        if clone.is_some() {
            assert_eq!(read(&world, id).await, same(&text));
            world.remove(id, false, true).await.unwrap();
        }
        let files = std::fs::read_dir(world.path("store/vms").join(vm.to_string())).unwrap();
        let disks =
            files.flatten().filter(|file| file.file_name().to_string_lossy().starts_with("disk0"));
        let own = parent.disks[0].layers.len() - 1;
        assert_eq!(disks.count(), own, "no file is left that no chain has");
    }

    // Plugged in while the guest runs, a disk that a clone lies on gets a file to write to.
    definition.vm.spec.disks.append(&mut definition.vm.spec.detached);
    let report = define(&world, &definition).await;
    assert_eq!(report.pending, []);
    let plugged = report.disks.iter().find(|disk| disk.name.as_str() == DATA).unwrap();
    assert_eq!(plugged.layers.len(), 2);
    assert!(volume::is_lent(&data).unwrap());
    world.remove(on_detached.vm.id(), false, false).await.unwrap();
    world.remove(vm, false, true).await.unwrap();
    world.assert_nothing_left();
}
