//! A commit is seen whole or not at all, however its changes come in.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hostler_control::Inventory;
use hostler_store::{
    Batch, Change, Committed, HeldLock, Record, Scope, Snapshot, SqliteStore, Store, StoreError,
    Subscription, Write,
};
use hostler_types::{HostId, KindName, Name, NetworkId, ObjectId, Revision, TaskId, VmKind};
use jiff::Timestamp;
use tokio::sync::broadcast;

use super::vm;

/// A store whose changes are told when the test says so.
#[derive(Debug)]
struct Piecemeal {
    inner: SqliteStore,
    pieces: broadcast::Sender<Arc<Change>>,
}

#[async_trait]
impl Store for Piecemeal {
    async fn commit(&self, batch: Batch) -> Result<Committed, StoreError> {
        self.inner.commit(batch).await
    }
    async fn get(&self, kind: KindName, id: ObjectId) -> Result<Option<Record>, StoreError> {
        self.inner.get(kind, id).await
    }
    async fn get_by_name(&self, kind: KindName, name: &Name) -> Result<Option<Record>, StoreError> {
        self.inner.get_by_name(kind, name).await
    }
    async fn list(
        &self,
        kind: KindName,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        self.inner.list(kind, after, limit).await
    }
    async fn load_all(&self) -> Result<Snapshot, StoreError> {
        self.inner.load_all().await
    }
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.inner.revision().await
    }
    async fn changes_after(
        &self,
        after: Revision,
        limit: usize,
    ) -> Result<Vec<Change>, StoreError> {
        self.inner.changes_after(after, limit).await
    }
    async fn as_of(&self, scope: Scope, at: Timestamp) -> Result<Snapshot, StoreError> {
        self.inner.as_of(scope, at).await
    }
    async fn locks(&self) -> Result<Vec<HeldLock>, StoreError> {
        self.inner.locks().await
    }
    async fn decision(
        &self,
        id: hostler_types::DecisionId,
    ) -> Result<Option<hostler_store::KeptDecision>, StoreError> {
        self.inner.decision(id).await
    }

    async fn decisions(
        &self,
        vm: Option<hostler_types::VmId>,
        before: Option<hostler_types::DecisionId>,
        limit: usize,
    ) -> Result<Vec<hostler_types::Decision>, StoreError> {
        self.inner.decisions(vm, before, limit).await
    }
    async fn drs_runs(
        &self,
        before: Option<hostler_types::TaskId>,
        limit: usize,
    ) -> Result<Vec<hostler_types::DrsRun>, StoreError> {
        self.inner.drs_runs(before, limit).await
    }

    fn subscribe(&self) -> Subscription {
        Subscription::new(self.pieces.subscribe())
    }
}

fn batch(vms: std::ops::Range<u32>) -> Batch {
    let (host, network) = (HostId::generate(), NetworkId::generate());
    let writes =
        vms.map(|number| Write::create(&vm(&format!("vm{number}"), host, network, number)));
    // Locks are no changes: the last change is not the last write.
    let lock = Write::Lock { object: HostId::generate().untyped(), task: TaskId::generate() };
    Batch::new("tester", "test", Timestamp::UNIX_EPOCH).with_all(writes).with(lock)
}

struct Bench {
    store: Arc<Piecemeal>,
    inventory: Arc<Inventory>,
    _directory: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let inner = SqliteStore::open(directory.path().join("hostler.db")).unwrap();
        let store = Arc::new(Piecemeal { inner, pieces: broadcast::channel(16).0 });
        let inventory = Arc::new(Inventory::load(&*store).await.unwrap());
        Self { store, inventory, _directory: directory }
    }

    fn follow(&self) {
        let (inventory, store) = (self.inventory.clone(), self.store.clone());
        tokio::spawn(async move { inventory.follow(store).await });
    }
}

#[tokio::test]
async fn half_a_commit_is_not_published() {
    let bench = Bench::new().await;
    bench.follow();
    // Its look into the log, in which there is nothing yet, comes first.
    while bench.store.pieces.receiver_count() == 0 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let committed = bench.store.commit(batch(0..3)).await.unwrap();
    for change in &committed.changes[..2] {
        bench.store.pieces.send(change.clone()).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(bench.inventory.snapshot().revision, Revision(0));
    }
    bench.store.pieces.send(committed.changes[2].clone()).unwrap();
    let whole = bench.inventory.at_least(committed.revision).await;
    assert_eq!(whole.all::<VmKind>().len(), 3);
}

/// Larger than a page of the log, and than what the inventory takes at once.
#[tokio::test]
async fn a_large_commit_is_published_whole() {
    let bench = Bench::new().await;
    let mut revisions = bench.inventory.revisions();
    bench.store.commit(batch(0..1500)).await.unwrap();
    bench.follow();
    revisions.changed().await.unwrap();
    assert_eq!(bench.inventory.snapshot().revision, Revision(1500));
}
