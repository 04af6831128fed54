//! The cluster and its resource pools: what may be reserved, what is refused and why, and how the
//! tree stands.

use hostler_agent_api::HostResources;
use hostler_control::services::pool::Explained;
use hostler_control::services::{Options, cluster, pool, vm};
use hostler_control::{Actor, ServiceError};
use hostler_sim::{Fleet, vm_request};
use hostler_types::{
    ByteSize, ClusterUpdate, Cores, Megahertz, Pool, PoolCreate, PoolNodeKind, PoolUpdate,
    PowerState, Ref, ResourceUse, Shares, StopMode, TaskState, Vm, VmResourcesUpdate, VmUpdate,
};

fn root() -> Actor {
    Actor::root()
}

fn plain() -> Options {
    Options::default()
}

fn named(name: &str) -> Ref {
    name.parse().unwrap()
}

/// From JSON, as clients send it.
async fn make(
    fleet: &Fleet,
    request: serde_json::Value,
) -> Result<std::sync::Arc<Pool>, ServiceError> {
    let request: PoolCreate = serde_json::from_value(request).unwrap();
    pool::create(&fleet.world, &root(), request).await
}

async fn set(fleet: &Fleet, name: &str, change: serde_json::Value) -> Result<(), ServiceError> {
    let change: PoolUpdate = serde_json::from_value(change).unwrap();
    pool::update(&fleet.world, &root(), &named(name), change, None).await.map(drop)
}

/// A VM with 8 CPUs (the host has 8 of 2,000 MHz) that reserves so many MHz.
async fn reserving(fleet: &Fleet, name: &str, pool: Option<&str>, mhz: u64) -> std::sync::Arc<Vm> {
    fleet.image("tiny").await;
    let mut request = vm_request(name);
    request.cpus = Cores::try_from(8).ok();
    request.resources = VmResourcesUpdate {
        pool: pool.map(named),
        cpu_reservation: Some(Megahertz(mhz)),
        ..VmResourcesUpdate::default()
    };
    let created = vm::create(&fleet.world, &root(), request, &plain()).await.unwrap();
    fleet.done(&created.task.unwrap()).await;
    fleet.show(name)
}

async fn start(fleet: &Fleet, name: &str) -> Result<(), ServiceError> {
    let task = vm::start(&fleet.world, &root(), &named(name), &plain()).await?;
    fleet.done(&task).await;
    Ok(())
}

async fn stop(fleet: &Fleet, name: &str) {
    let off = vm::VmStop { mode: StopMode::PowerOff, timeout_seconds: None };
    let task = vm::stop(&fleet.world, &root(), &named(name), off, &plain()).await.unwrap();
    fleet.done(&task).await;
}

#[tokio::test]
async fn there_is_one_cluster_from_the_first_start_and_it_keeps_what_it_was_told() {
    let fleet = Fleet::new().await;
    let found = cluster::show(&fleet.world, &root()).unwrap();
    assert_eq!(found.name().as_str(), "default");
    let change = ClusterUpdate { vcpus_per_cpu: Some(4), ..ClusterUpdate::default() };
    cluster::update(&fleet.world, &root(), change, None).await.unwrap();
    let wrong = ClusterUpdate { vcpus_per_cpu: Some(1001), ..ClusterUpdate::default() };
    let error = cluster::update(&fleet.world, &root(), wrong, None).await.unwrap_err();
    assert_eq!(error.message, "vcpus_per_cpu: 1001 is not possible; 1 to 1000, or none for any");
    let fleet = fleet.restart(true).await;
    let kept = cluster::show(&fleet.world, &root()).unwrap();
    assert_eq!((kept.id(), kept.spec.vcpus_per_cpu), (found.id(), Some(4)));
}

#[tokio::test]
async fn pools_make_a_tree_and_what_makes_none_is_refused() {
    let fleet = Fleet::new().await;
    make(&fleet, serde_json::json!({"name": "prod"})).await.unwrap();
    make(&fleet, serde_json::json!({"name": "web", "parent": "prod"})).await.unwrap();
    make(&fleet, serde_json::json!({"name": "front", "parent": "web"})).await.unwrap();

    let error = set(&fleet, "prod", serde_json::json!({"parent": "front"})).await.unwrap_err();
    assert_eq!(error.code, "pool_cycle");
    assert_eq!(
        error.message,
        "resource pools lie in each other: `prod` in `front` in `web` in `prod`; give one of them a \
         parent that is not below it"
    );
    let error = set(&fleet, "web", serde_json::json!({"parent": "web"})).await.unwrap_err();
    assert_eq!(error.code, "pool_cycle");
    set(&fleet, "front", serde_json::json!({"parent": "default"})).await.unwrap();
    let front = pool::show(&fleet.world, &root(), &named("front")).unwrap();
    assert_eq!(front.spec.parent, None, "directly below the cluster");

    for taken in ["default", "prod"] {
        let error = make(&fleet, serde_json::json!({"name": taken})).await.unwrap_err();
        assert!(["invalid", "name_taken"].contains(&error.code), "{error:?}");
    }
    let over = serde_json::json!({"name": "x", "cpu": {"reservation": 20, "limit": 10}});
    let error = make(&fleet, over).await.unwrap_err();
    assert_eq!(error.code, "invalid", "{error:?}");

    let error = pool::delete(&fleet.world, &root(), &named("prod")).await.unwrap_err();
    assert_eq!(error.message, "resource pool `prod` holds 1 pool (web)");
    reserving(&fleet, "web01", Some("web"), 0).await;
    let error = pool::delete(&fleet.world, &root(), &named("web")).await.unwrap_err();
    assert_eq!(
        (error.code, error.message.as_str()),
        ("pool_in_use", "resource pool `web` holds 1 VM (web01)")
    );
    pool::delete(&fleet.world, &root(), &named("front")).await.unwrap();
}

#[tokio::test]
async fn a_pool_gets_no_more_than_its_parent_has() {
    let fleet = Fleet::new().await;
    make(&fleet, serde_json::json!({"name": "prod", "cpu": {"reservation": "10GHz"}}))
        .await
        .unwrap();
    let more = serde_json::json!({"name": "test", "cpu": {"reservation": "7GHz"}});
    let error = make(&fleet, more).await.unwrap_err();
    assert_eq!(error.code, "no_capacity");
    assert_eq!(
        error.message,
        "resource pool `test` is refused: resource pool `default` has 6000MHz of CPU unreserved and \
         is the root, 7000MHz are asked for: free 1000MHz of what is reserved in it, or add hosts; or \
         reserve at most 6000MHz"
    );
    let fixed = serde_json::json!({"reservation": "6GHz", "expandable": false});
    make(&fleet, serde_json::json!({"name": "test", "cpu": fixed})).await.unwrap();
    let error = set(&fleet, "prod", serde_json::json!({"cpu": {"reservation": "11GHz"}})).await;
    assert_eq!(error.unwrap_err().code, "no_capacity");
    // Its own reservation goes with it: `test` has no room for a pool of 10 GHz.
    let error = set(&fleet, "prod", serde_json::json!({"parent": "test"})).await.unwrap_err();
    assert!(error.message.contains("cannot be moved there"), "{}", error.message);
    set(&fleet, "test", serde_json::json!({"cpu": {"reservation": 0}})).await.unwrap();
    set(&fleet, "prod", serde_json::json!({"cpu": {"reservation": "11GHz"}})).await.unwrap();
}

#[tokio::test]
async fn a_start_that_nobody_can_promise_is_refused_with_what_would_help() {
    let fleet = Fleet::new().await;
    let fixed = serde_json::json!({
        "name": "web", "cpu": {"reservation": 3000, "expandable": false},
    });
    make(&fleet, fixed).await.unwrap();
    reserving(&fleet, "web01", Some("web"), 2000).await;
    reserving(&fleet, "web02", Some("web"), 2000).await;
    start(&fleet, "web01").await.unwrap();
    let error = start(&fleet, "web02").await.unwrap_err();
    assert_eq!(error.code, "no_capacity");
    assert_eq!(
        error.message,
        "vm `web02` cannot have the 2000MHz of CPU that it reserves: resource pool `web` has 1000MHz of \
         CPU unreserved and is not expandable, 2000MHz are asked for: raise its reservation by 1000MHz \
         to 4000MHz, or make it expandable; or reserve at most 1000MHz"
    );
    assert_eq!(fleet.show("web02").status.power, PowerState::Stopped);

    set(&fleet, "web", serde_json::json!({"cpu": {"expandable": true}})).await.unwrap();
    start(&fleet, "web02").await.unwrap();
    let error = set(&fleet, "web", serde_json::json!({"cpu": {"expandable": false}})).await;
    assert_eq!(error.unwrap_err().code, "no_capacity", "4000 MHz are promised in it");

    // What is powered off is given back.
    stop(&fleet, "web01").await;
    set(&fleet, "web", serde_json::json!({"cpu": {"expandable": false}})).await.unwrap();
    // After a restart it is known as before.
    let fleet = fleet.restart(true).await;
    assert_eq!(start(&fleet, "web01").await.unwrap_err().code, "no_capacity");
    stop(&fleet, "web02").await;
    start(&fleet, "web01").await.unwrap();
}

#[tokio::test]
async fn a_running_vm_gets_no_reservation_that_nobody_can_promise() {
    let fleet = Fleet::new().await;
    reserving(&fleet, "web01", None, 10_000).await;
    reserving(&fleet, "web02", None, 1000).await;
    start(&fleet, "web01").await.unwrap();
    start(&fleet, "web02").await.unwrap();
    let mhz = |mhz: u64| VmUpdate {
        resources: VmResourcesUpdate {
            cpu_reservation: Some(Megahertz(mhz)),
            ..VmResourcesUpdate::default()
        },
        ..VmUpdate::default()
    };
    let reference = named("web02");
    let update =
        async |change| vm::update(&fleet.world, &root(), &reference, change, None, &plain()).await;
    assert_eq!(update(mhz(7000)).await.unwrap_err().code, "no_capacity");
    fleet.done(&update(mhz(6000)).await.unwrap().task.unwrap()).await;
    assert_eq!(fleet.show("web02").spec.resources.cpu_reservation, Megahertz(6000));
    let error = update(mhz(16_001)).await.unwrap_err();
    assert!(error.message.contains("can use no more than 16000MHz"), "{}", error.message);
    let memory = VmUpdate {
        resources: VmResourcesUpdate {
            memory_reservation: Some(ByteSize::gib(2)),
            ..VmResourcesUpdate::default()
        },
        ..VmUpdate::default()
    };
    assert_eq!(update(memory).await.unwrap_err().code, "invalid", "it has 1 GiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_starts_at_once_only_so_many_are_promised_something_as_there_is() {
    let fleet = Fleet::new().await;
    for number in 0..6 {
        reserving(&fleet, &format!("vm{number}"), None, 5000).await;
    }
    for _ in 0..5 {
        let starts = (0..6).map(|number| {
            let world = fleet.world.clone();
            let reference = named(&format!("vm{number}"));
            tokio::spawn(async move { vm::start(&world, &root(), &reference, &plain()).await })
        });
        let mut started = Vec::new();
        for start in starts.collect::<Vec<_>>() {
            match start.await.unwrap() {
                Ok(task) => started.push(task),
                Err(error) => assert_eq!(error.code, "no_capacity"),
            }
        }
        // 16,000 MHz are there.
        assert_eq!(started.len(), 3);
        for task in started {
            fleet.done(&task).await;
        }
        for number in 0..6 {
            let name = format!("vm{number}");
            if fleet.show(&name).status.power.is_live() {
                stop(&fleet, &name).await;
            }
        }
    }
}

#[tokio::test]
async fn a_vm_that_is_made_and_started_needs_its_reservation_as_well() {
    let fleet = Fleet::new().await;
    reserving(&fleet, "web01", None, 15_000).await;
    start(&fleet, "web01").await.unwrap();
    let mut request = vm_request("web02");
    request.resources.cpu_reservation = Some(Megahertz(2000));
    request.start = true;
    let error = vm::create(&fleet.world, &root(), request.clone(), &plain()).await.unwrap_err();
    assert_eq!(error.code, "no_capacity", "before anything is made");
    assert!(fleet.snapshot().find::<hostler_types::VmKind>(&named("web02")).is_err());
    request.resources.cpu_reservation = Some(Megahertz(1000));
    let made = vm::create(&fleet.world, &root(), request, &plain()).await.unwrap();
    let ended = fleet.ended(&made.task.unwrap()).await;
    assert_eq!(ended.status.state, TaskState::Done);
}

#[tokio::test]
async fn the_tree_tells_what_everyone_is_entitled_to_and_explains_it() {
    let fleet = Fleet::new().await;
    make(&fleet, serde_json::json!({"name": "prod", "cpu": {"shares": "high"}})).await.unwrap();
    make(&fleet, serde_json::json!({"name": "test", "cpu": {"shares": "low"}})).await.unwrap();
    reserving(&fleet, "web01", Some("prod"), 0).await;
    reserving(&fleet, "lab01", Some("test"), 1000).await;
    start(&fleet, "web01").await.unwrap();
    start(&fleet, "lab01").await.unwrap();
    let tree = pool::tree(&fleet.world, &root()).await.unwrap();
    let lines: Vec<_> = tree
        .nodes
        .iter()
        .map(|node| format!("{} {} {}", node.depth, node.name, node.cpu.entitled))
        .collect();
    // High is to low as 4 to 1, and both want all of the host's 16,000 MHz.
    assert_eq!(
        lines,
        ["0 default 16000", "1 prod 12800", "2 web01 12800", "1 test 3200", "2 lab01 3200"]
    );
    let lab = tree.nodes.last().unwrap();
    assert_eq!((lab.kind, lab.cpu.starved, lab.cpu.used), (PoolNodeKind::Vm, 12_800, None));
    let test = &tree.nodes[3];
    assert_eq!(
        (test.cpu.shares, test.cpu.reserved, test.cpu.available),
        (Shares::Low, 1000, 15_000)
    );

    let explained =
        pool::explain(&fleet.world, &root(), Explained::Either(named("lab01"))).await.unwrap();
    assert_eq!(explained.sentences.len(), 6, "three levels, two resources");
    assert!(
        explained.sentences[2].starts_with("vm `lab01` is entitled to 3200MHz of CPU: "),
        "{}",
        explained.sentences[2]
    );
    make(&fleet, serde_json::json!({"name": "lab01"})).await.unwrap();
    let error = pool::explain(&fleet.world, &root(), Explained::Either(named("lab01"))).await;
    assert_eq!(error.unwrap_err().code, "ambiguous");
    stop(&fleet, "lab01").await;
    let error = pool::explain(&fleet.world, &root(), Explained::Vm(named("lab01"))).await;
    assert_eq!(error.unwrap_err().code, "wrong_state");
}

/// Waits until the host was told what is wished.
async fn told(fleet: &Fleet, wished: impl Fn(&HostResources) -> bool) -> HostResources {
    for _ in 0..200 {
        let resources = fleet.host.resources();
        if wished(&resources) {
            return resources;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the host is not told: {:?}", fleet.host.resources());
}

#[tokio::test]
async fn hosts_are_told_what_their_pools_and_vms_may_use() {
    let fleet = Fleet::new().await;
    let prod = serde_json::json!({"name": "prod", "cpu": {"shares": "high", "limit": "4GHz"}});
    let prod = make(&fleet, prod).await.unwrap();
    let web = make(&fleet, serde_json::json!({"name": "web", "parent": "prod"})).await.unwrap();
    reserving(&fleet, "web01", Some("web"), 500).await;
    reserving(&fleet, "lab01", None, 0).await;
    start(&fleet, "web01").await.unwrap();
    start(&fleet, "lab01").await.unwrap();
    let told_all = told(&fleet, |resources| resources.vms.len() == 2).await;
    let pools: Vec<_> = told_all
        .pools
        .iter()
        .map(|it| (it.pool, it.parent, it.slice.cpu_weight, it.slice.cpu_limit_millicpus))
        .collect();
    // Of 16,000 MHz the pool may have 4,000, which are two CPUs, and the VM beside it has the rest.
    assert_eq!(
        pools,
        [(prod.id(), None, 4000, Some(2000)), (web.id(), Some(prod.id()), 4000, None)]
    );
    let weight = |name: &str| {
        let id = fleet.show(name).id();
        told_all.vms.iter().find(|it| it.vm == id).map(|it| (it.pool, it.slice.cpu_weight)).unwrap()
    };
    assert_eq!(weight("web01"), (Some(web.id()), 4000));
    assert_eq!(weight("lab01"), (None, 12_000));

    // Again to one that was away; and what changes is told.
    fleet.host.disconnect();
    fleet.host.reconnect();
    stop(&fleet, "lab01").await;
    told(&fleet, |resources| resources.vms.len() == 1).await;
    set(&fleet, "prod", serde_json::json!({"cpu": {"limit": 0}})).await.unwrap();
    told(&fleet, |resources| {
        resources.pools.iter().all(|it| it.slice.cpu_limit_millicpus.is_none())
    })
    .await;
    pool::update(
        &fleet.world,
        &root(),
        &named("web"),
        PoolUpdate { parent: Some(named("default")), ..PoolUpdate::default() },
        None,
    )
    .await
    .unwrap();
    told(&fleet, |resources| resources.pools.len() == 1 && resources.pools[0].parent.is_none())
        .await;
}

#[tokio::test]
async fn what_a_vm_was_measured_to_want_is_what_it_demands() {
    let fleet = Fleet::new().await;
    let vm = reserving(&fleet, "web01", None, 0).await;
    reserving(&fleet, "web02", None, 0).await;
    start(&fleet, "web01").await.unwrap();
    start(&fleet, "web02").await.unwrap();
    let used = ResourceUse {
        cpu_millicpus: 1000,
        cpu_ready_millicpus: 500,
        memory: 1 << 28,
        ..ResourceUse::default()
    };
    fleet.host.measured(vm.id(), used);
    for _ in 0..200 {
        let tree = pool::tree(&fleet.world, &root()).await.unwrap();
        let node = tree.nodes.iter().find(|node| node.name == "web01").unwrap();
        if node.cpu.used.is_some() {
            // A CPU has 2,000 MHz, and half of one was waited for.
            assert_eq!((node.cpu.used, node.cpu.demand), (Some(2000), 3000));
            assert_eq!((node.memory.used, node.memory.demand), (Some(1 << 28), 1 << 28));
            let other = tree.nodes.iter().find(|node| node.name == "web02").unwrap();
            assert_eq!(other.cpu.entitled, 13_000, "what the first does not want");
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("what was measured does not arrive");
}
