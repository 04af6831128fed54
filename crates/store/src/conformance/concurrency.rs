//! Many at once.

use std::sync::Arc;

use hostler_types::{KindName, Revision};
use serde_json::json;

use super::{Place, batch, create, record, refusal, task};
use crate::batch::Write;
use crate::error::StoreError;
use crate::record::{Json, Record};

/// Writers that read, add one and write back: none of the additions is lost.
pub async fn no_update_is_lost(place: &dyn Place) {
    const WRITERS: u64 = 8;
    const EACH: u64 = 25;
    let store = place.open().await;
    let counter = create(&*store, record(KindName::Vm, "counter", 0)).await;
    let writers = (0..WRITERS).map(|_| {
        let (store, id) = (Arc::clone(&store), counter.id);
        tokio::spawn(async move {
            let mut done = 0;
            while done < EACH {
                let seen = store.get(KindName::Vm, id).await.expect("read").expect("there");
                let size = seen.spec.value()["size"].as_u64().expect("a number");
                let spec = Json::from(json!({ "size": size + 1 }));
                let expected = seen.revision;
                let write = Write::Update { record: Record { spec, ..seen }, expected };
                match store.commit(batch(2, [write])).await {
                    Ok(_) => done += 1,
                    Err(StoreError::Stale { .. }) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("a writer has ended");
    }
    let end = store.get(KindName::Vm, counter.id).await.expect("read").expect("there");
    assert_eq!(end.spec.value(), json!({ "size": WRITERS * EACH }));
    assert_eq!(end.revision, Revision(1 + WRITERS * EACH));
}

/// Batches that are committed together do not know of each other: each refused one leaves nothing,
/// each good one is whole, and the revisions stay dense.
pub async fn a_refused_batch_does_not_hurt_its_neighbours(place: &dyn Place) {
    let store = place.open().await;
    create(&*store, record(KindName::Host, "taken", 1)).await;
    let commits = (0..200).map(|number| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let mut writes = vec![
                Write::Create(record(KindName::Vm, &format!("vm-{number}"), 1)),
                Write::Lock { object: record(KindName::Vm, "x", 1).id, task: task() },
            ];
            if number % 3 == 0 {
                writes.push(Write::Create(record(KindName::Host, "taken", 1)));
            }
            (number, store.commit(batch(2, writes)).await)
        })
    });
    let mut done = 0;
    for commit in commits.collect::<Vec<_>>() {
        let (number, result) = commit.await.expect("it has ended");
        assert_eq!(refusal(&result), if number % 3 == 0 { "name taken" } else { "done" });
        let name = super::name_of(&format!("vm-{number}"));
        let there = store.get_by_name(KindName::Vm, &name).await.expect("read");
        assert_eq!(there.is_some(), number % 3 != 0);
        done += u64::from(number % 3 != 0);
    }
    let log = store.changes_after(Revision(0), 1000).await.expect("read");
    let revisions: Vec<u64> = log.iter().map(|change| change.revision.0).collect();
    assert_eq!(revisions, (1..=done + 1).collect::<Vec<u64>>());
    assert_eq!(u64::try_from(store.locks().await.expect("read").len()), Ok(done));
}

/// Of many that want the same name, or the same lock, one gets it.
pub async fn one_of_many_wins(place: &dyn Place) {
    let store = place.open().await;
    let object = record(KindName::Vm, "web01", 1).id;
    let commits = (0..50).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let name = store.commit(batch(1, [Write::Create(record(KindName::Vm, "web01", 1))]));
            let lock = store.commit(batch(1, [Write::Lock { object, task: task() }]));
            (refusal(&name.await), refusal(&lock.await))
        })
    });
    let mut won = (0, 0);
    for commit in commits.collect::<Vec<_>>() {
        let (name, lock) = commit.await.expect("it has ended");
        assert!(["done", "name taken"].contains(&name) && ["done", "locked"].contains(&lock));
        won = (won.0 + i32::from(name == "done"), won.1 + i32::from(lock == "done"));
    }
    assert_eq!(won, (1, 1));
}

/// A caller that goes away while it waits does not undo or stop anything.
pub async fn callers_may_go_away(place: &dyn Place) {
    let store = place.open().await;
    for number in 0..50 {
        let write = Write::Create(record(KindName::Vm, &format!("vm-{number}"), 1));
        let impatient = store.commit(batch(1, [write]));
        let _left = tokio::time::timeout(std::time::Duration::ZERO, impatient).await;
    }
    create(&*store, record(KindName::Vm, "last", 1)).await;
    let log = store.changes_after(Revision(0), 1000).await.expect("read");
    let revisions: Vec<u64> = log.iter().map(|change| change.revision.0).collect();
    let last = u64::try_from(log.len()).expect("few");
    assert_eq!(revisions, (1..=last).collect::<Vec<u64>>());
    assert_eq!(log.last().expect("created").name.as_str(), "last");
}
