//! Watching: nothing is missed, nothing comes twice, also under load.

use futures::StreamExt as _;
use hostler_control::Actor;
use hostler_control::services::{Options, event, vm, watch};
use hostler_sim::{Fleet, vm_request};
use hostler_types::{KindName, Revision};

fn root() -> Actor {
    Actor::root()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_has_no_gaps_under_load() {
    let fleet = Fleet::new().await;
    fleet.image("tiny").await;
    let from = Revision(3);
    let watched = watch::watch(&fleet.world, &root(), Some(from), Vec::new()).unwrap();
    let creations = (0..60).map(|number| {
        let world = fleet.world.clone();
        tokio::spawn(async move {
            let request = vm_request(&format!("vm{number}"));
            vm::create(&world, &root(), request, &Options::default()).await.unwrap()
        })
    });
    let creations: Vec<_> = creations.collect();
    for creation in creations {
        fleet.done(&creation.await.unwrap().task.unwrap()).await;
    }
    let last = fleet.snapshot().revision;
    let count = usize::try_from(last.0 - from.0).unwrap();
    // Began before all this, and reads only now.
    let revisions: Vec<u64> =
        watched.take(count).map(|event| event.unwrap().revision.0).collect().await;
    let expected: Vec<u64> = (from.0 + 1..=last.0).collect();
    assert_eq!(revisions, expected);
}

#[tokio::test]
async fn a_watch_of_some_kinds_passes_the_others_over() {
    let fleet = Fleet::new().await;
    let kinds = vec![KindName::Vm];
    let mut watched = watch::watch(&fleet.world, &root(), Some(Revision(0)), kinds).unwrap();
    fleet.vm("web01").await;
    let first = watched.next().await.unwrap().unwrap();
    assert_eq!((first.kind, first.verb), (KindName::Vm, event::Verb::Created));
    assert_eq!(first.new.unwrap()["metadata"]["name"], "web01");
    let beyond = Revision(fleet.snapshot().revision.0 + 1000);
    let error = watch::watch(&fleet.world, &root(), Some(beyond), Vec::new()).err().unwrap();
    assert_eq!(error.code, "invalid");
}

#[tokio::test]
async fn the_history_is_read_from_either_end() {
    let fleet = Fleet::new().await;
    let vm = fleet.vm("web01").await;
    let list =
        async |query: event::EventQuery| event::list(&fleet.world, &root(), &query).await.unwrap();
    let last = list(event::EventQuery { limit: Some(2), ..Default::default() }).await;
    assert_eq!(last.items.last().unwrap().revision, last.revision);
    assert_eq!(last.items.len(), 2);
    let filter = event::EventFilter { id: Some(vm.id().untyped()), ..Default::default() };
    let query = event::EventQuery { filter, after: Some(Revision(0)), limit: Some(1) };
    let first = list(query.clone()).await;
    assert_eq!(first.items[0].verb, event::Verb::Created);
    let second = list(event::EventQuery { after: first.next, ..query }).await;
    assert_eq!(second.items[0].verb, event::Verb::Changed);
    assert_eq!(second.items[0].old.as_ref().unwrap()["status"]["power"], "creating");
    assert_eq!(second.items[0].new.as_ref().unwrap()["status"]["power"], "stopped");
    assert!(second.items[0].task.is_some());
}
