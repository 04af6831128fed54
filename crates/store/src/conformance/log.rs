//! The change log: complete, in order, and what can be read from it.

use std::sync::Arc;
use std::time::Duration;

use hostler_types::{KindName, Revision};
use serde_json::json;

use super::{Place, at, batch, create, record, task};
use crate::batch::Write;
use crate::feed::{Feed, Lagged};
use crate::record::{Json, Record};
use crate::store::{Scope, Store};

const PATIENCE: Duration = Duration::from_secs(20);

pub async fn every_write_has_its_entry(place: &dyn Place) {
    let store = place.open().await;
    let vm = record(KindName::Vm, "web01", 1);
    let by = task();
    let create = batch(10, [Write::Create(vm.clone())]).task(by);
    let created = store.commit(create).await.expect("created").changes[0].clone();
    let mut bigger = created.new.clone().expect("created");
    bigger.spec = Json::from(json!({ "size": 2 }));
    let updated = store.commit(batch(20, [Write::UpdateAny(bigger)])).await.expect("updated");
    let delete = Write::Delete { kind: vm.kind, id: vm.id, expected: None };
    let deleted = store.commit(batch(30, [delete])).await.expect("deleted");

    let log = store.changes_after(Revision(0), 10).await.expect("read");
    let answered = [&created, &updated.changes[0], &deleted.changes[0]];
    assert_eq!(log.iter().collect::<Vec<_>>(), answered.map(|change| &**change));
    assert_eq!(log.iter().map(|change| change.revision.0).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(log.iter().map(|change| change.at).collect::<Vec<_>>(), [at(10), at(20), at(30)]);
    assert_eq!((log[0].task, log[1].task), (Some(by), None));
    assert_eq!((log[0].actor.as_str(), log[0].reason.as_str()), ("ada", "a test"));
    assert_eq!((&log[0].old, &log[1].old, &log[2].old), (&None, &log[0].new, &log[1].new));
    assert_eq!(log[2].new, None);
    assert_eq!((&log[2].name, log[2].id), (&vm.name, vm.id));
}

/// Locks and expectations behind the last change are no changes.
pub async fn the_log_tells_where_commits_end(place: &dyn Place) {
    let store = place.open().await;
    let mut live = store.subscribe();
    let vm = |name: &str| Write::Create(record(KindName::Vm, name, 1));
    let locked = record(KindName::Vm, "c", 1);
    let lock = Write::Lock { object: locked.id, task: task() };
    let expected = Write::Expect { kind: KindName::Vm, id: locked.id, revision: None };
    for writes in [
        vec![vm("a"), vm("b"), Write::Create(locked), lock, expected],
        vec![Write::Unlock { task: task() }],
        vec![vm("d")],
    ] {
        store.commit(batch(1, writes)).await.expect("written");
    }
    let ends = [false, false, true, true];
    let log = store.changes_after(Revision(0), 10).await.expect("read");
    assert_eq!(log.iter().map(|change| change.ends).collect::<Vec<_>>(), ends);
    for ends in ends {
        assert_eq!(live.next().await.expect("open").expect("no lag").ends, ends);
    }
}

pub async fn tasks_are_logged_without_what_they_were(place: &dyn Place) {
    let store = place.open().await;
    let first = create(&*store, record(KindName::Task, "vm-create-1", 1)).await;
    let next = Record { status: Json::from(json!({ "state": "done" })), ..first };
    store.commit(batch(2, [Write::UpdateAny(next)])).await.expect("updated");
    let log = store.changes_after(Revision(1), 10).await.expect("read");
    assert_eq!(log[0].old, None);
    let new = log[0].new.as_ref().expect("updated");
    assert_eq!(new.status.value(), json!({ "state": "done" }));
}

pub async fn pages_of_the_log_follow_each_other_without_gaps(place: &dyn Place) {
    let store = place.open().await;
    for number in 0..10 {
        let writes =
            (0..5).map(|vm| Write::Create(record(KindName::Vm, &format!("vm-{number}-{vm}"), 1)));
        store.commit(batch(number, writes)).await.expect("created");
    }
    let mut seen = Vec::new();
    loop {
        let last = Revision(seen.last().copied().unwrap_or(0));
        let page = store.changes_after(last, 7).await.expect("read");
        if page.is_empty() {
            break;
        }
        seen.extend(page.iter().map(|change| change.revision.0));
    }
    assert_eq!(seen, (1..=50).collect::<Vec<u64>>());
    assert_eq!(store.changes_after(Revision(u64::MAX), 7).await.expect("read"), []);
}

pub async fn the_past_can_be_read(place: &dyn Place) {
    let store = place.open().await;
    let vm = record(KindName::Vm, "web01", 1);
    let host = record(KindName::Host, "node1", 1);
    let commit = async |seconds, write| {
        store.commit(batch(seconds, [write])).await.expect("written");
    };
    commit(100, Write::Create(vm.clone())).await;
    commit(200, Write::Create(host.clone())).await;
    let bigger = Record { spec: Json::from(json!({ "size": 2 })), ..vm.clone() };
    commit(300, Write::UpdateAny(bigger)).await;
    commit(400, Write::Delete { kind: vm.kind, id: vm.id, expected: None }).await;

    let sizes = async |scope, seconds| {
        let snapshot = store.as_of(scope, at(seconds)).await.expect("read");
        let size = |record: &Record| format!("{}:{}", record.name, record.spec.value()["size"]);
        let text: Vec<String> = snapshot.records.iter().map(size).collect();
        (snapshot.revision.0, text.join(" "))
    };
    let one = Scope::One(KindName::Vm, vm.id);
    for (scope, seconds, expected) in [
        (Scope::All, 99, (0, "")),
        (Scope::All, 100, (1, "web01:1")),
        (Scope::All, 299, (2, "web01:1 node1:1")),
        (Scope::All, 300, (3, "web01:2 node1:1")),
        (Scope::All, 999, (4, "node1:1")),
        (Scope::Kind(KindName::Vm), 350, (3, "web01:2")),
        (Scope::Kind(KindName::Vm), 400, (4, "")),
        (Scope::Kind(KindName::Image), 400, (4, "")),
        (one, 299, (2, "web01:1")),
        (one, 300, (3, "web01:2")),
        (one, 400, (4, "")),
    ] {
        let (revision, text) = sizes(scope, seconds).await;
        assert_eq!((revision, text.as_str()), expected, "{scope:?} at {seconds}");
    }
}

pub async fn the_past_is_consistent_when_the_clock_was_set_back(place: &dyn Place) {
    let store = place.open().await;
    let vm = record(KindName::Vm, "web01", 1);
    store.commit(batch(500, [Write::Create(vm.clone())])).await.expect("created");
    let bigger = Record { spec: Json::from(json!({ "size": 2 })), ..vm.clone() };
    store.commit(batch(200, [Write::UpdateAny(bigger)])).await.expect("updated");
    let snapshot = store.as_of(Scope::All, at(300)).await.expect("read");
    assert_eq!(snapshot.revision, Revision(2));
    assert_eq!(snapshot.records[0].spec.value(), json!({ "size": 2 }));
}

pub async fn subscribers_see_changes_in_order_and_learn_that_they_lag(place: &dyn Place) {
    let store = place.open().await;
    let mut attentive = store.subscribe();
    let mut asleep = store.subscribe();
    let writes = |number: u64| {
        (0..100).map(move |vm| Write::Create(record(KindName::Vm, &format!("v{number}-{vm}"), 1)))
    };
    let mut expected = 1;
    for number in 0..50 {
        store.commit(batch(1, writes(number))).await.expect("created");
        for _ in 0..100 {
            let change = tokio::time::timeout(PATIENCE, attentive.next()).await.expect("in time");
            assert_eq!(change.expect("open").expect("no lag").revision, Revision(expected));
            expected += 1;
        }
    }
    let Some(Err(Lagged(missed))) = asleep.next().await else {
        panic!("5,000 changes behind and not told");
    };
    let next = asleep.next().await.expect("open").expect("caught up");
    assert_eq!(next.revision, Revision(missed + 1));
    drop(store);
    while attentive.next().await.is_some() {}
}

/// Feeds that start at different times, one of them slow, all see everything once.
pub async fn a_feed_has_no_gaps(place: &dyn Place) {
    const TOTAL: u64 = 4000;
    let store = place.open().await;
    let follow = |store: Arc<dyn Store>, after: u64, slow: bool| {
        tokio::spawn(async move {
            let mut feed = Feed::new(store, Revision(after));
            for expected in after + 1..=TOTAL {
                let change = feed.next().await.expect("read");
                assert_eq!(change.revision, Revision(expected));
                if slow && expected % 500 == 0 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        })
    };
    let mut followers = vec![follow(store.clone(), 0, false), follow(store.clone(), 0, true)];
    for number in 0..TOTAL / 20 {
        let writes =
            (0..20).map(|vm| Write::Create(record(KindName::Vm, &format!("v{number}-{vm}"), 1)));
        store.commit(batch(1, writes)).await.expect("created");
        if number == 50 {
            followers.push(follow(store.clone(), 0, false));
            followers.push(follow(store.clone(), 700, true));
        }
    }
    for follower in followers {
        tokio::time::timeout(PATIENCE, follower).await.expect("in time").expect("all seen");
    }
}
