//! Locks that tasks hold on objects.

use hostler_types::KindName;

use super::{Place, batch, record, refusal, task};
use crate::batch::Write;
use crate::error::StoreError;
use crate::store::HeldLock;

pub async fn an_object_is_locked_by_one_task(place: &dyn Place) {
    let store = place.open().await;
    let (first, second) = (task(), task());
    let vm = record(KindName::Vm, "web01", 1);
    let disk = record(KindName::Image, "disk", 1);
    let lock = |object, task| batch(1, [Write::Lock { object, task }]);

    assert_eq!(refusal(&store.commit(lock(vm.id, first)).await), "done");
    assert_eq!(refusal(&store.commit(lock(vm.id, first)).await), "done", "it holds it already");
    let both = [disk.id, vm.id].map(|object| Write::Lock { object, task: second });
    let Err(StoreError::Locked { object, by }) = store.commit(batch(1, both)).await else {
        panic!("a second task has locked the same object");
    };
    assert_eq!((object, by), (vm.id, first));
    let held = vec![HeldLock { object: vm.id, task: first }];
    assert_eq!(store.locks().await.expect("read"), held, "all or nothing");

    let guard = |object| batch(2, [Write::ExpectUnlocked { object }]);
    assert_eq!(refusal(&store.commit(guard(vm.id)).await), "locked");
    assert_eq!(refusal(&store.commit(guard(disk.id)).await), "done");
}

pub async fn a_task_releases_all_its_locks_and_no_others(place: &dyn Place) {
    let store = place.open().await;
    let (first, second) = (task(), task());
    let objects = [1, 2, 3].map(|number| record(KindName::Vm, &format!("vm-{number}"), 1).id);
    let writes = [(0, first), (1, first), (2, second)]
        .map(|(index, task)| Write::Lock { object: objects[index], task });
    store.commit(batch(1, writes)).await.expect("all are free");
    let unlock = [Write::Unlock { task: first }, Write::Unlock { task: task() }];
    store.commit(batch(2, unlock)).await.expect("nothing to refuse");
    let left = vec![HeldLock { object: objects[2], task: second }];
    assert_eq!(store.locks().await.expect("read"), left);
    assert_eq!(store.revision().await.expect("read").0, 0, "locks are not objects");
}
