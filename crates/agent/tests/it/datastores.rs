//! Datastores, and the event stream that tells of them.

use std::time::Duration;

use futures::StreamExt;
use hostler_agent_api as api;
use hostler_agent_api::{AgentEvent, DatastoreCheck, DatastorePath};
use hostler_endpoint::NoParams;
use hostler_types::{DatastoreId, DatastoreState};

use crate::world::{World, problem, within};

#[tokio::test]
async fn events_begin_with_everything() {
    let mut world = World::start().await;
    let mut events =
        world.client.call::<api::HostEvents>(&NoParams {}, &NoParams {}, ()).await.unwrap();
    let second = Duration::from_secs(5);
    let first = within(second, events.next()).await.unwrap().unwrap();
    let AgentEvent::Inventory(inventory) = first.data else { panic!("{first:?}") };
    assert_eq!(inventory.datastores[0].datastore, world.datastore);
    assert_eq!(inventory.datastores[0].state, DatastoreState::Ready);

    let other = DatastoreId::generate();
    let path = DatastorePath { datastore: other };
    let check = DatastoreCheck {
        path: world.path("other").to_str().unwrap().to_owned(),
        create: true,
        shared: false,
    };
    world.client.call::<api::DatastoreEnsure>(&path, &NoParams {}, check).await.unwrap();
    let next = within(second, events.next()).await.unwrap().unwrap();
    assert!(matches!(next.data, AgentEvent::Datastore(report) if report.datastore == other));
    drop(events);
    world.end_agent().await;
}

#[tokio::test]
async fn strange_directories_are_refused() {
    let mut world = World::start().await;
    let full = world.path("full");
    std::fs::create_dir(&full).unwrap();
    std::fs::write(full.join("thesis.txt"), "x").unwrap();
    for (path, status) in [
        (full.to_str().unwrap(), 409),
        (world.path("store").to_str().unwrap(), 409),
        ("relative", 400),
        ("/a/../b", 400),
        ("/", 400),
    ] {
        let datastore = DatastorePath { datastore: DatastoreId::generate() };
        let check = DatastoreCheck { path: path.to_owned(), create: true, shared: false };
        let answer = world.client.call::<api::DatastoreEnsure>(&datastore, &NoParams {}, check);
        assert_eq!(problem(answer.await.unwrap_err()).status, status, "{path}");
    }
    assert!(full.join("thesis.txt").exists());
    world.end_agent().await;
}

#[tokio::test]
async fn a_datastore_that_holds_vms_is_not_removed() {
    let mut world = World::start().await;
    let definition = world.vm(hostler_types::DiskSource::Blank);
    let vm = definition.vm.id();
    world.create(&definition).await.unwrap();
    let query = api::DatastoreRemoveQuery { release: true };
    let path = DatastorePath { datastore: world.datastore };
    let refused = world.client.call::<api::DatastoreRemove>(&path, &query, ()).await;
    let refused = problem(refused.unwrap_err());
    assert_eq!(refused.code, api::code::WRONG_STATE);
    assert!(refused.detail.contains(&vm.to_string()), "{}", refused.detail);
    assert!(world.path("store/.hostler-datastore").exists());
    world.end_agent().await;
}
