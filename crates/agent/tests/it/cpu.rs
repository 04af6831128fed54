//! The CPU that guests see: what the agent tells of its host, and what a VM keeps.

use std::time::Duration;

use hostler_agent_api::{self as api, VmPath, VmStartRequest};
use hostler_endpoint::NoParams;
use hostler_types::cpu::{CpuBaseline, common_baseline, models};
use hostler_types::{DiskSource, GuestCpu, HostFacts, PowerState, StopMode};

use crate::killed::kill_qemu;
use crate::world::{World, command, eventually, long};

async fn facts(world: &World) -> HostFacts {
    let answer = world.client.call_with::<api::Facts>(&NoParams {}, &NoParams {}, (), long());
    answer.await.unwrap().facts
}

fn arguments(pid: u32) -> Vec<String> {
    let all = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    all.split('\0').map(str::to_owned).collect()
}

/// What QEMU was told of the CPU.
fn told(world: &World) -> Option<String> {
    let all = arguments(*world.qemu_pids().first()?);
    let at = all.iter().position(|one| one == "-cpu")?;
    all.get(at + 1).cloned()
}

#[tokio::test]
async fn qemu_what_a_host_tells_of_its_cpu_is_what_the_known_models_are_made_of() {
    let mut world = World::start().await;
    let facts = facts(&world).await;
    let GuestCpu { features, models: whole, .. } = facts.guest_cpu.clone().unwrap();
    assert!(features.is_sorted() && whole.is_sorted());
    assert!(
        whole.contains(&"qemu64".to_owned()) && whole.contains(&"Westmere".to_owned()),
        "{whole:?}"
    );
    for model in models() {
        let has_all = model.features.iter().all(|one| features.iter().any(|own| own == one));
        let is_whole = whole.iter().any(|own| own == model.name);
        // QEMU counts what is no part of a baseline as well: nested virtualization, topology.
        assert!(has_all || !is_whole, "{} lacks nothing by QEMU", model.name);
    }
    world.end_agent().await;
}

#[tokio::test]
async fn qemu_a_vm_gets_the_baseline_and_keeps_it_until_its_power_is_cycled() {
    let mut world = World::start_process().await;
    let facts = facts(&world).await;
    let cpu = facts.guest_cpu.clone().unwrap();
    let most = common_baseline(&[(&cpu, facts.accelerator)]).unwrap();
    let definition = world.vm(DiskSource::Blank);
    let vm = definition.vm.id();
    world.create(&definition).await.unwrap();
    let path = VmPath { vm };
    let start = async |world: &World, cpu: &str| {
        let request = VmStartRequest { cpu: Some(cpu.parse().unwrap()), ..command(1).into() };
        let call = world.client.call_with::<api::VmStart>(&path, &NoParams {}, request, long());
        call.await
    };
    // QEMU itself proves that the host can give all of it: it would not start otherwise.
    let report = start(&world, most.as_str()).await.unwrap();
    assert_eq!(report.cpu.as_ref(), Some(&most));
    assert_eq!(told(&world), Some(format!("{most},enforce=on")));

    // Neither another start nor the agent's end makes it another one.
    let other = start(&world, "Nehalem").await.unwrap();
    assert_eq!(other.cpu.as_ref(), Some(&most), "it runs already");
    world.end_agent().await;
    world.spawn_agent().await;
    assert_eq!(world.found(vm).await.cpu.as_ref(), Some(&most));
    // What the host starts by itself after a crash gets the same.
    let pid = world.qemu_pids()[0];
    kill_qemu(&world);
    eventually("the guest is started again", Duration::from_secs(60), async || {
        let again = world.qemu_pids().first().is_some_and(|own| *own != pid);
        (again && told(&world).is_some()).then_some(())
    })
    .await;
    assert_eq!(told(&world), Some(format!("{most},enforce=on")));
    world.wait_for("it runs", vm, |report| report.power == PowerState::Running).await;

    world.stop(vm, StopMode::PowerOff, 0).await.unwrap();
    assert_eq!(world.report(vm).await.unwrap().cpu, None);
    let next: CpuBaseline = "Nehalem".parse().unwrap();
    assert_eq!(start(&world, "Nehalem").await.unwrap().cpu, Some(next));
    world.stop(vm, StopMode::PowerOff, 0).await.unwrap();
    let refused = start(&world, "GraniteRapids").await.unwrap_err().to_string();
    assert!(
        refused.contains("host doesn't support") || refused.contains("doesn't support requested"),
        "{refused}"
    );
    world.remove(vm, false, false).await.unwrap();
    world.assert_nothing_left();
    world.end_agent().await;
}
