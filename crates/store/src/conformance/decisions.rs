//! Decisions that are kept for a while.

use std::sync::Arc;

use hostler_types::{DatastoreId, DecidedVm, DecisionId, HostId, KindName, Revision, VmId};

use super::{Place, batch, name_of, record, refusal, task};
use crate::batch::Write;
use crate::decision::{MOST_DECISION_BYTES, NewDecision};

fn about(vms: &[VmId], record: String) -> NewDecision {
    let decided = |id: &VmId| DecidedVm {
        id: *id,
        name: name_of("web01"),
        host: HostId::generate(),
        host_name: name_of("host01"),
        datastore: DatastoreId::generate(),
    };
    NewDecision {
        id: DecisionId::generate(),
        action: "vm.create".to_owned(),
        revision: Revision(7),
        vms: vms.iter().map(decided).collect(),
        sentences: vec!["host `host01` is the best".to_owned()],
        record,
    }
}

fn decide(decision: &NewDecision) -> Write {
    Write::Decide(Arc::new(decision.clone()))
}

pub async fn a_decision_is_kept_with_what_it_leads_to(place: &dyn Place) {
    let store = place.open().await;
    let vms = [VmId::generate(), VmId::generate()];
    let (first, second) = (about(&vms, "1 \u{1F600}".to_owned()), about(&vms[1..], "2".to_owned()));
    let id = task();
    let mut both = batch(5, [decide(&first)]);
    both.task = Some(id);
    store.commit(both).await.expect("it is kept");
    store.commit(batch(6, [decide(&second)])).await.expect("it is kept");

    let kept = store.decision(first.id).await.expect("read").expect("it is there");
    assert_eq!(kept.record, first.record, "to the byte");
    assert_eq!((kept.decision.task, kept.decision.actor.as_str()), (Some(id), "ada"));
    assert_eq!((kept.decision.revision, &kept.decision.vms), (Revision(7), &first.vms));
    assert_eq!(kept.decision.bytes, 6);
    let ids = |decisions: Vec<hostler_types::Decision>| -> Vec<DecisionId> {
        decisions.into_iter().map(|decision| decision.id).collect()
    };
    let of = async |vm, before, limit| ids(store.decisions(vm, before, limit).await.expect("read"));
    assert_eq!(of(None, None, 10).await, [second.id, first.id], "the newest first");
    assert_eq!(of(None, None, 1).await, [second.id]);
    assert_eq!(of(None, Some(second.id), 10).await, [first.id]);
    assert_eq!(of(Some(vms[0]), None, 10).await, [first.id]);
    assert_eq!(of(Some(vms[1]), None, 10).await, [second.id, first.id]);
    assert_eq!(store.revision().await.expect("read").0, 0, "decisions are not objects");

    // What is refused leaves none.
    let third = about(&vms, "3".to_owned());
    let vm = record(KindName::Vm, "web01", 1);
    let gone = Write::Delete { kind: vm.kind, id: vm.id, expected: None };
    let refused = store.commit(batch(7, [decide(&third), gone])).await;
    assert_eq!(refusal(&refused), "not found");
    assert_eq!(store.decision(third.id).await.expect("read"), None);
}

pub async fn the_oldest_decisions_go_when_their_records_are_too_large(place: &dyn Place) {
    let store = place.open().await;
    let vm = [VmId::generate()];
    // Five of them are more than is kept.
    let size = usize::try_from(MOST_DECISION_BYTES / 4).expect("it is small") - 1;
    let decisions: Vec<_> = (0..5).map(|_| about(&vm, "x".repeat(size))).collect();
    for decision in &decisions {
        store.commit(batch(1, [decide(decision)])).await.expect("it is kept");
    }
    assert_eq!(store.decision(decisions[0].id).await.expect("read"), None);
    let left = store.decisions(Some(vm[0]), None, 10).await.expect("read");
    let left: Vec<_> = left.into_iter().map(|decision| decision.id).collect();
    let expected: Vec<_> = decisions[1..].iter().rev().map(|decision| decision.id).collect();
    assert_eq!(left, expected);
}
