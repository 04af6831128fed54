//! A store in front of another that stops answering at a chosen commit, as if the process had died.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use hostler_store::{
    Batch, Change, Committed, HeldLock, Record, Scope, Snapshot, Store, StoreError, Subscription,
};
use hostler_types::{KindName, Name, ObjectId, Revision};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    Before,
    After,
}

#[derive(Debug)]
pub(super) struct CrashingStore {
    inner: Arc<dyn Store>,
    /// Commits until the crash; 0: none is planned.
    left: AtomicU64,
    after: AtomicBool,
    crashed: CancellationToken,
}

impl CrashingStore {
    pub(super) fn new(inner: Arc<dyn Store>) -> Self {
        Self {
            inner,
            left: AtomicU64::new(0),
            after: AtomicBool::new(false),
            crashed: CancellationToken::new(),
        }
    }

    /// Plans the crash at the `number`-th commit from now.
    pub(super) fn arm(&self, number: u64, moment: Moment) {
        self.after.store(moment == Moment::After, Ordering::SeqCst);
        self.left.store(number, Ordering::SeqCst);
    }

    pub(super) async fn crashed(&self) {
        self.crashed.cancelled().await;
    }

    /// The store as the next process opens it.
    pub(super) fn survivor(&self) -> Self {
        Self::new(Arc::clone(&self.inner))
    }

    /// Nothing goes on after the crash.
    async fn die<T>(&self) -> T {
        self.crashed.cancel();
        std::future::pending().await
    }
}

#[async_trait]
impl Store for CrashingStore {
    async fn commit(&self, batch: Batch) -> Result<Committed, StoreError> {
        if self.crashed.is_cancelled() {
            return self.die().await;
        }
        let count = |left: u64| left.checked_sub(1);
        let now = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count) == Ok(1);
        if now && !self.after.load(Ordering::SeqCst) {
            return self.die().await;
        }
        let committed = self.inner.commit(batch).await;
        if now { self.die().await } else { committed }
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
        revision: Revision,
        limit: usize,
    ) -> Result<Vec<Change>, StoreError> {
        self.inner.changes_after(revision, limit).await
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
        self.inner.subscribe()
    }
}
