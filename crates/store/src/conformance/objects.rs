//! Objects: written, read back, refused.

use hostler_types::{Id, KindName, Revision};
use jiff::Timestamp;
use serde_json::json;

use super::{Place, at, batch, create, name_of, record, refusal, written};
use crate::batch::{Batch, Write};
use crate::error::StoreError;
use crate::record::Json;

pub async fn records_come_back_as_they_were_written(place: &dyn Place) {
    let store = place.open().await;
    let now: Timestamp = "2026-11-22T20:15:30.123456789Z".parse().expect("a time");
    for kind in KindName::ALL {
        let mut new = record(kind, "web01", 7);
        new.labels.insert("owner".to_owned(), "Ærøskøbing, \"quoted\" \\ 東京".to_owned());
        new.status = Json::from(json!({ "text": "a\u{0}b\n", "float": 0.1, "deep": [[], {}] }));
        let committed =
            store.commit(Batch::new("ada", "why", now).with(Write::Create(new.clone()))).await;
        let stored = written(&committed.expect("it is taken"));
        new.revision = stored.revision;
        (new.created_at, new.updated_at) = (now, now);
        assert_eq!(stored, new);
        assert_eq!(store.get(kind, new.id).await.expect("read"), Some(new.clone()));
        let by_name = store.get_by_name(kind, &new.name).await.expect("read");
        assert_eq!(by_name, Some(new));
    }
    let nobody = store.get(KindName::Vm, Id::generate()).await.expect("read");
    assert_eq!(nobody, None);
    assert_eq!(store.get_by_name(KindName::Vm, &name_of("nobody")).await.expect("read"), None);
}

pub async fn a_name_is_unique_within_its_kind(place: &dyn Place) {
    let store = place.open().await;
    let first = create(&*store, record(KindName::Vm, "web01", 1)).await;
    create(&*store, record(KindName::Host, "web01", 1)).await;
    let second = create(&*store, record(KindName::Vm, "web02", 1)).await;

    let again = batch(2, [Write::Create(record(KindName::Vm, "web01", 2))]);
    assert!(matches!(
        store.commit(again).await,
        Err(StoreError::NameTaken { kind: KindName::Vm, name }) if name == first.name
    ));
    let mut renamed = second.clone();
    renamed.name = first.name.clone();
    let rename = store.commit(batch(2, [Write::UpdateAny(renamed.clone())])).await;
    assert_eq!(refusal(&rename), "name taken");

    // The name is free once its owner is gone, also within one batch.
    let delete = Write::Delete { kind: KindName::Vm, id: first.id, expected: None };
    let swap = store.commit(batch(2, [delete, Write::UpdateAny(renamed)])).await;
    assert_eq!(refusal(&swap), "done");
    let found = store.get_by_name(KindName::Vm, &first.name).await.expect("read");
    assert_eq!(found.expect("renamed").id, second.id);
    assert_eq!(store.get_by_name(KindName::Vm, &second.name).await.expect("read"), None);
}

pub async fn an_id_is_used_once(place: &dyn Place) {
    let store = place.open().await;
    let first = create(&*store, record(KindName::Vm, "web01", 1)).await;
    let mut other = record(KindName::Vm, "web02", 1);
    other.id = first.id;
    let again = store.commit(batch(2, [Write::Create(other)])).await;
    assert_eq!(refusal(&again), "exists");
}

pub async fn an_update_carries_the_revision_it_expects(place: &dyn Place) {
    let store = place.open().await;
    let first = create(&*store, record(KindName::Vm, "web01", 1)).await;
    let update = |size: u64, expected: Revision| {
        let record = crate::Record { spec: Json::from(json!({ "size": size })), ..first.clone() };
        batch(2, [Write::Update { record, expected }])
    };
    let second = written(&store.commit(update(2, first.revision)).await.expect("it is current"));
    let Err(error) = store.commit(update(3, first.revision)).await else {
        panic!("a stale update was taken");
    };
    assert!(
        matches!(error, StoreError::Stale { expected, actual, .. }
            if expected == first.revision && actual == second.revision),
        "{error:?}"
    );
    let stored = store.get(KindName::Vm, first.id).await.expect("read").expect("there");
    assert_eq!(stored.spec.value(), json!({ "size": 2 }));
    assert_eq!((stored.created_at, stored.updated_at), (at(1), at(2)));

    let delete = |expected| Write::Delete { kind: KindName::Vm, id: first.id, expected };
    let stale = store.commit(batch(3, [delete(Some(first.revision))])).await;
    assert_eq!(refusal(&stale), "stale");
    let current = store.commit(batch(3, [delete(Some(second.revision))])).await;
    assert_eq!(refusal(&current), "done");
    for gone in [delete(None), Write::UpdateAny(first.clone())] {
        assert_eq!(refusal(&store.commit(batch(4, [gone])).await), "not found");
    }
    let gone = store.commit(update(4, second.revision)).await;
    assert_eq!(refusal(&gone), "not found");
}

pub async fn the_generation_counts_what_was_asked_for(place: &dyn Place) {
    let store = place.open().await;
    let mut object = create(&*store, record(KindName::Vm, "web01", 1)).await;
    let mut next = async |change: &dyn Fn(&mut crate::Record)| {
        change(&mut object);
        // What the caller says does not count.
        object.generation = 99;
        let update = batch(2, [Write::UpdateAny(object.clone())]);
        written(&store.commit(update).await.expect("it is taken")).generation
    };
    assert_eq!(next(&|object| object.status = Json::from(json!({ "state": "running" }))).await, 1);
    assert_eq!(next(&|object| object.spec = Json::from(json!({ "size": 2 }))).await, 2);
    assert_eq!(next(&|object| object.name = name_of("web02")).await, 3);
    let label = |object: &mut crate::Record| {
        object.labels.insert("a".to_owned(), "b".to_owned());
    };
    assert_eq!(next(&label).await, 4);
    assert_eq!(next(&|_| {}).await, 4);
}

pub async fn a_batch_is_carried_out_wholly_or_not_at_all(place: &dyn Place) {
    let store = place.open().await;
    let there = create(&*store, record(KindName::Vm, "web01", 1)).await;
    let before = store.load_all().await.expect("read");
    let owner = super::task();
    let refused = batch(
        2,
        [
            Write::Create(record(KindName::Vm, "web02", 1)),
            Write::Delete { kind: KindName::Vm, id: there.id, expected: None },
            Write::Lock { object: there.id, task: owner },
            Write::Create(record(KindName::Host, "node1", 1)),
            Write::UpdateAny(record(KindName::Vm, "never-created", 1)),
        ],
    );
    assert_eq!(refusal(&store.commit(refused).await), "not found");
    assert_eq!(store.load_all().await.expect("read"), before);
    assert_eq!(store.locks().await.expect("read"), []);
    assert_eq!(store.revision().await.expect("read"), before.revision);
    let after = store.changes_after(before.revision, 10).await.expect("read");
    assert_eq!(after, []);
}

pub async fn an_expectation_writes_nothing(place: &dyn Place) {
    let store = place.open().await;
    let image = create(&*store, record(KindName::Image, "debian", 1)).await;
    let (kind, id) = (KindName::Image, image.id);
    let expect = |revision| Write::Expect { kind, id, revision };
    for (write, outcome) in [
        (expect(None), "done"),
        (expect(Some(image.revision)), "done"),
        (expect(Some(Revision(99))), "stale"),
        (Write::Expect { kind: KindName::Vm, id, revision: None }, "not found"),
    ] {
        let vm = Write::Create(record(KindName::Vm, "web01", 1));
        let result = store.commit(batch(2, [write, vm])).await;
        assert_eq!(refusal(&result), outcome);
        if let Ok(committed) = result {
            assert_eq!(committed.changes.len(), 1);
            let vm = written(&committed);
            let delete = Write::Delete { kind: vm.kind, id: vm.id, expected: None };
            store.commit(batch(3, [delete])).await.expect("deleted");
        }
    }
    let last = store.revision().await.expect("read");
    let only = store.commit(batch(4, [expect(None)])).await.expect("it is there");
    assert_eq!((only.changes.len(), only.revision), (0, last));
}

pub async fn lists_go_by_name_page_after_page(place: &dyn Place) {
    let store = place.open().await;
    let names: Vec<String> = (0..25).map(|number| format!("vm-{number:02}")).collect();
    for name in names.iter().rev() {
        create(&*store, record(KindName::Vm, name, 1)).await;
    }
    create(&*store, record(KindName::Host, "vm-03x", 1)).await;
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = store.list(KindName::Vm, after.as_ref(), 10).await.expect("read");
        assert!(page.len() <= 10);
        let Some(last) = page.last() else { break };
        after = Some(last.name.clone());
        seen.extend(page.iter().map(|record| record.name.to_string()));
    }
    assert_eq!(seen, names);
    assert_eq!(store.list(KindName::Vm, None, 0).await.expect("read").len(), 0);

    let all = store.load_all().await.expect("read");
    assert_eq!((all.records.len(), all.revision), (26, Revision(26)));
    let order: Vec<_> = all.records.iter().map(|record| (record.kind, &record.name)).collect();
    assert!(order.is_sorted(), "{order:?}");
}

pub async fn what_was_committed_is_there_after_reopening(place: &dyn Place) {
    let store = place.open().await;
    let vm = create(&*store, record(KindName::Vm, "web01", 1)).await;
    let owner = super::task();
    let lock = Write::Lock { object: vm.id, task: owner };
    store.commit(batch(2, [lock])).await.expect("it is free");
    let changes = store.changes_after(Revision(0), 10).await.expect("read");
    drop(store);

    let store = place.open().await;
    assert_eq!(store.get(KindName::Vm, vm.id).await.expect("read"), Some(vm.clone()));
    assert_eq!(store.changes_after(Revision(0), 10).await.expect("read"), changes);
    assert_eq!(store.locks().await.expect("read").len(), 1);
    let next = create(&*store, record(KindName::Vm, "web02", 1)).await;
    assert_eq!(next.revision, Revision(2));
}
