//! What survives the death of the agent and of QEMU.

use hostler_agent_api as api;
use hostler_agent_api::{NetworkDefinition, NetworkPath, VmPath};
use hostler_endpoint::NoParams;
use hostler_types::{DiskSource, NetworkId, NicSpec, PowerState, RestartPolicy, StopMode};

use crate::world::{World, command, long, nat};

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn qemu_a_guest_outlives_its_agent() {
    let mut world = World::start_process().await;
    let definition = world.vm(DiskSource::Blank);
    let (vm, start) = (definition.vm.id(), command(1));
    world.create(&definition).await.unwrap();
    let path = VmPath { vm };
    let call = |world: &World| {
        let client = world.client.clone();
        let path = path.clone();
        async move { client.call_with::<api::VmStart>(&path, &NoParams {}, start.into(), long()).await }
    };
    call(&world).await.unwrap();
    let pids = world.qemu_pids();
    world.end_agent().await;
    assert_eq!(world.qemu_pids(), pids, "the guest runs without its agent");

    world.spawn_agent().await;
    let report = world.found(vm).await;
    assert_eq!(report.power, PowerState::Running);
    assert_eq!(call(&world).await.unwrap().power, PowerState::Running, "the same operation");
    assert_eq!(world.qemu_pids(), pids, "it is the same QEMU");
    world.stop(vm, StopMode::PowerOff, 0).await.unwrap();
    world.remove(vm, false, false).await.unwrap();
    world.assert_nothing_left();
}

#[tokio::test]
async fn qemu_that_dies_is_started_again_if_its_policy_says_so() {
    let mut world = World::start().await;
    let mut definition = world.vm(DiskSource::Blank);
    let vm = definition.vm.id();
    world.create(&definition).await.unwrap();
    world.vm_start(vm).await.unwrap();
    let before = world.qemu_pids();
    kill(before[0]);
    world.wait_for("it fails", vm, |report| report.power == PowerState::Failed).await;
    world.wait_for("it runs again", vm, |report| report.power == PowerState::Running).await;
    assert_ne!(world.qemu_pids(), before);

    definition.vm.spec.restart = RestartPolicy::Never;
    let request = api::VmDefineRequest::new(command(1), definition);
    world.client.call::<api::VmDefine>(&VmPath { vm }, &NoParams {}, request).await.unwrap();
    kill(world.qemu_pids()[0]);
    let report = world.wait_for("it fails for good", vm, |r| r.power == PowerState::Failed).await;
    assert!(report.message.unwrap().contains("unexpectedly"));
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(world.report(vm).await.unwrap().power, PowerState::Failed);
    assert_eq!(world.qemu_pids(), Vec::<u32>::new());
    world.remove(vm, false, false).await.unwrap();
    world.assert_nothing_left();
    world.end_agent().await;
}

#[tokio::test]
async fn qemu_that_died_while_the_agent_was_away_is_noticed() {
    let mut world = World::start_process().await;
    let mut definition = world.vm(DiskSource::Blank);
    definition.vm.spec.restart = RestartPolicy::Never;
    let vm = definition.vm.id();
    world.create(&definition).await.unwrap();
    world.vm_start(vm).await.unwrap();
    world.end_agent().await;
    kill(world.qemu_pids()[0]);
    world.spawn_agent().await;
    let report = world.found(vm).await;
    assert_eq!(report.power, PowerState::Failed);
    world.remove(vm, false, false).await.unwrap();
    world.assert_nothing_left();
}

#[tokio::test]
async fn qemu_a_guest_gets_its_address_from_a_nat_network() {
    let mut world = World::start().await;
    let image = world.tiny_image().await;
    let network = NetworkId::generate();
    let spec = nat("10.213.77.0/24");
    let mut definition = world.vm(DiskSource::Image(image));
    definition.networks = vec![NetworkDefinition { id: network, spec }];
    definition.vm.spec.nics = vec![NicSpec {
        link: Default::default(),
        name: "nic0".parse().unwrap(),
        network,
        address: None,
        mac: "52:54:00:12:34:56".parse().unwrap(),
    }];
    let vm = definition.vm.id();
    let report = world.create(&definition).await.unwrap();
    let reserved = report.nics[0].reserved.unwrap();
    world.vm_start(vm).await.unwrap();
    let path = NetworkPath { network };
    let remove = || world.client.call::<api::NetworkRemove>(&path, &NoParams {}, ());
    assert!(remove().await.is_err(), "a VM runs on it");
    let report = world
        .wait_for("the guest has its address", vm, |report| {
            report.guest.as_ref().is_some_and(|guest| guest.addresses.contains(&reserved))
        })
        .await;
    assert!(report.nics[0].tap.is_some());
    world.stop(vm, StopMode::PowerOff, 0).await.unwrap();
    world.remove(vm, false, false).await.unwrap();
    remove().await.unwrap();
    world.assert_nothing_left();
    world.end_agent().await;
}

#[tokio::test]
async fn an_agent_killed_while_it_creates_leaves_all_or_nothing() {
    let mut world = World::start_process().await;
    for delay in [0, 1, 3, 5, 8, 12, 20, 40] {
        let definition = world.vm(DiskSource::Blank);
        let (vm, create) = (definition.vm.id(), command(1));
        let request = api::VmCreateRequest { command: create, definition: definition.clone() };
        let client = world.client.clone();
        let asking = tokio::spawn(async move {
            client.call::<api::VmCreate>(&VmPath { vm }, &NoParams {}, request).await
        });
        tokio::time::sleep(std::time::Duration::from_millis(delay)).await;
        world.end_agent().await;
        drop(asking.await);
        world.spawn_agent().await;

        let dir = world.path(&format!("store/vms/{vm}"));
        let there = world.report(vm).await.is_some();
        assert_eq!(dir.join("vm.json").exists(), there, "after {delay} ms");
        assert_eq!(dir.exists(), there, "nothing half made, after {delay} ms");
        let report = world.create_as(create, &definition).await.unwrap();
        assert_eq!(report.power, PowerState::Stopped, "the same operation comes to its end");
        world.remove(vm, false, false).await.unwrap();
        world.assert_nothing_left();
    }
}

#[tokio::test]
async fn qemu_runs_once_whenever_its_agent_is_killed() {
    let mut world = World::start_process().await;
    let definition = world.vm(DiskSource::Blank);
    let vm = definition.vm.id();
    world.create(&definition).await.unwrap();
    for delay in [5, 20, 60, 120, 200, 400] {
        let (path, start) = (VmPath { vm }, command(1));
        let client = world.client.clone();
        let asking = tokio::spawn(async move {
            client.call_with::<api::VmStart>(&path, &NoParams {}, start.into(), long()).await
        });
        tokio::time::sleep(std::time::Duration::from_millis(delay)).await;
        world.end_agent().await;
        drop(asking.await);
        world.spawn_agent().await;

        let power = world.report(vm).await.unwrap().power;
        let running = power == PowerState::Running;
        assert!(running || power == PowerState::Stopped, "{power} after {delay} ms");
        assert_eq!(world.qemu_pids().len(), usize::from(running), "after {delay} ms");
        let path = VmPath { vm };
        let answer =
            world.client.call_with::<api::VmStart>(&path, &NoParams {}, start.into(), long());
        assert_eq!(answer.await.unwrap().power, PowerState::Running);
        assert_eq!(world.qemu_pids().len(), 1, "one QEMU, after {delay} ms");
        world.stop(vm, StopMode::PowerOff, 0).await.unwrap();
        assert_eq!(world.qemu_pids(), Vec::<u32>::new());
    }
    world.remove(vm, false, false).await.unwrap();
    world.assert_nothing_left();
}
