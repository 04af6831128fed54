//! Many at once.

use std::collections::HashSet;

use hostler_control::Actor;
use hostler_control::services::{Options, image, network, vm};
use hostler_sim::{Fleet, vm_request};
use hostler_types::{PowerState, VmKind, VmUpdate};

fn root() -> Actor {
    Actor::root()
}

fn plain() -> Options {
    Options::default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_creations_at_once_all_work() {
    let fleet = Fleet::new().await;
    fleet.image("tiny").await;
    let creations = (0..100).map(|number| {
        let world = fleet.world.clone();
        tokio::spawn(async move {
            let request = vm_request(&format!("vm{number}"));
            vm::create(&world, &root(), request, &plain()).await.unwrap()
        })
    });
    let creations: Vec<_> = creations.collect();
    for creation in creations {
        fleet.done(&creation.await.unwrap().task.unwrap()).await;
    }
    let snapshot = fleet.snapshot();
    assert_eq!(snapshot.all::<VmKind>().len(), 100);
    assert_eq!(fleet.host.vms().len(), 100);
    let macs: HashSet<_> = snapshot.all::<VmKind>().iter().map(|vm| vm.spec.nics[0].mac).collect();
    assert_eq!(macs.len(), 100);
    let mut vms = snapshot.all::<VmKind>().iter();
    assert!(vms.all(|vm| vm.status.power == PowerState::Stopped));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_want_one_name_one_gets_it() {
    let fleet = Fleet::new().await;
    fleet.image("tiny").await;
    let all = (0..10).map(|_| {
        let world = fleet.world.clone();
        tokio::spawn(async move { vm::create(&world, &root(), vm_request("web"), &plain()).await })
    });
    let mut made = 0;
    for creation in all.collect::<Vec<_>>() {
        match creation.await.unwrap() {
            Ok(changed) => {
                made += 1;
                fleet.done(&changed.task.unwrap()).await;
            }
            Err(error) => assert_eq!(error.code, "name_taken"),
        }
    }
    assert_eq!((made, fleet.host.vms().len()), (1, 1));
}

#[tokio::test]
async fn of_two_who_change_one_revision_one_is_refused() {
    let fleet = Fleet::new().await;
    let before = fleet.vm("web01").await;
    let (reference, revision) = (before.reference(), Some(before.metadata.revision));
    let update =
        |text: &str| VmUpdate { description: Some(text.to_owned()), ..VmUpdate::default() };
    let world = &fleet.world;
    let (actor, options) = (root(), plain());
    let (a, b) = tokio::join!(
        vm::update(world, &actor, &reference, update("a"), revision, &options),
        vm::update(world, &actor, &reference, update("b"), revision, &options),
    );
    let (won, lost) = match (a, b) {
        (Ok(won), Err(lost)) | (Err(lost), Ok(won)) => (won, lost),
        other => panic!("{other:?}"),
    };
    assert!(["stale_revision", "busy"].contains(&lost.code), "{lost:?}");
    fleet.done(&won.task.unwrap()).await;
    let late = vm::update(world, &actor, &reference, update("c"), revision, &options).await;
    assert_eq!(late.unwrap_err().code, "stale_revision");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_ever_refers_to_what_is_deleted_meanwhile() {
    let fleet = Fleet::new().await;
    for round in 0..8 {
        fleet.image("tiny").await;
        let (actor, options) = (root(), plain());
        let (tiny, default) = ("tiny".parse().unwrap(), "default".parse().unwrap());
        let name = format!("vm{round}");
        let (created, image_gone, network_gone) = tokio::join!(
            vm::create(&fleet.world, &actor, vm_request(&name), &options),
            image::delete(&fleet.world, &actor, &tiny, &options),
            network::delete(&fleet.world, &actor, &default),
        );
        if let Ok(task) = image_gone {
            fleet.ended(&task).await;
        }
        let made = match created {
            Ok(changed) => {
                fleet.done(&changed.task.unwrap()).await;
                true
            }
            Err(_) => false,
        };
        let snapshot = fleet.snapshot();
        for vm in snapshot.all::<VmKind>().iter() {
            assert!(snapshot.get(vm.spec.nics[0].network).is_some(), "round {round}");
            let mut images = vm.spec.disks.iter().filter_map(|disk| disk.source.image());
            assert!(images.all(|image| snapshot.get(image).is_some()), "round {round}");
        }
        if made {
            break;
        }
        if network_gone.is_ok() {
            let spec = serde_json::json!({"mode": "nat", "subnet": "10.77.0.0/24"});
            let request = network::NetworkCreate {
                name: "default".parse().unwrap(),
                labels: hostler_types::Labels::new(),
                spec: serde_json::from_value(spec).unwrap(),
            };
            network::create(&fleet.world, &actor, request).await.unwrap();
        }
    }
}
