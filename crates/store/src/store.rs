//! The trait that every store implements. Its conformance suite says in tests what is said here.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use hostler_types::{
    Decision, DecisionId, DrsRun, KindName, Name, ObjectId, Revision, TaskId, VmId,
};
use jiff::Timestamp;

use crate::batch::{Batch, Committed};
use crate::change::Change;
use crate::decision::KeptDecision;
use crate::error::StoreError;
use crate::feed::Subscription;
use crate::record::Record;

/// Objects, their change log and locks.
#[async_trait]
pub trait Store: Send + Sync + Debug {
    /// Carries out all of `batch` or none of it, and returns when it is on disk.
    ///
    /// # Cancel safety
    /// Once handed over, the batch is carried out even if this future is dropped.
    async fn commit(&self, batch: Batch) -> Result<Committed, StoreError>;

    async fn get(&self, kind: KindName, id: ObjectId) -> Result<Option<Record>, StoreError>;

    async fn get_by_name(&self, kind: KindName, name: &Name) -> Result<Option<Record>, StoreError>;

    /// At most `limit` objects in the order of their names, from after `after` on.
    async fn list(
        &self,
        kind: KindName,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError>;

    /// Everything, as it is at one revision. For start-up.
    async fn load_all(&self) -> Result<Snapshot, StoreError>;

    /// The revision of the last change; 0 in a new store.
    async fn revision(&self) -> Result<Revision, StoreError>;

    /// At most `limit` changes after `revision`, in order and without gaps.
    async fn changes_after(
        &self,
        revision: Revision,
        limit: usize,
    ) -> Result<Vec<Change>, StoreError>;

    /// The objects as they were right after the last change made at or before `at`.
    async fn as_of(&self, scope: Scope, at: Timestamp) -> Result<Snapshot, StoreError>;

    /// Which task holds which object.
    async fn locks(&self) -> Result<Vec<HeldLock>, StoreError>;

    /// A decision with its record, if it is still kept.
    async fn decision(&self, id: DecisionId) -> Result<Option<KeptDecision>, StoreError>;

    /// The decisions, of one VM or of all, the newest first, at most `limit`, from before `before` on.
    async fn decisions(
        &self,
        vm: Option<VmId>,
        before: Option<DecisionId>,
        limit: usize,
    ) -> Result<Vec<Decision>, StoreError>;

    /// What balancing has done, the newest first, at most `limit`, from before `before` on.
    async fn drs_runs(
        &self,
        before: Option<TaskId>,
        limit: usize,
    ) -> Result<Vec<DrsRun>, StoreError>;

    /// Changes committed from now on, in the order of their revisions.
    fn subscribe(&self) -> Subscription;
}

/// Objects at one revision.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    pub revision: Revision,
    /// By kind, then by name.
    pub records: Vec<Record>,
}

/// Which objects [`Store::as_of`] tells about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    One(KindName, ObjectId),
    Kind(KindName),
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldLock {
    pub object: ObjectId,
    pub task: TaskId,
}

#[async_trait]
impl<S: Store + ?Sized> Store for Arc<S> {
    async fn commit(&self, batch: Batch) -> Result<Committed, StoreError> {
        (**self).commit(batch).await
    }
    async fn get(&self, kind: KindName, id: ObjectId) -> Result<Option<Record>, StoreError> {
        (**self).get(kind, id).await
    }
    async fn get_by_name(&self, kind: KindName, name: &Name) -> Result<Option<Record>, StoreError> {
        (**self).get_by_name(kind, name).await
    }
    async fn list(
        &self,
        kind: KindName,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        (**self).list(kind, after, limit).await
    }
    async fn load_all(&self) -> Result<Snapshot, StoreError> {
        (**self).load_all().await
    }
    async fn revision(&self) -> Result<Revision, StoreError> {
        (**self).revision().await
    }
    async fn changes_after(
        &self,
        revision: Revision,
        limit: usize,
    ) -> Result<Vec<Change>, StoreError> {
        (**self).changes_after(revision, limit).await
    }
    async fn as_of(&self, scope: Scope, at: Timestamp) -> Result<Snapshot, StoreError> {
        (**self).as_of(scope, at).await
    }
    async fn locks(&self) -> Result<Vec<HeldLock>, StoreError> {
        (**self).locks().await
    }
    async fn decision(&self, id: DecisionId) -> Result<Option<KeptDecision>, StoreError> {
        (**self).decision(id).await
    }
    async fn decisions(
        &self,
        vm: Option<VmId>,
        before: Option<DecisionId>,
        limit: usize,
    ) -> Result<Vec<Decision>, StoreError> {
        (**self).decisions(vm, before, limit).await
    }
    async fn drs_runs(
        &self,
        before: Option<TaskId>,
        limit: usize,
    ) -> Result<Vec<DrsRun>, StoreError> {
        (**self).drs_runs(before, limit).await
    }
    fn subscribe(&self) -> Subscription {
        (**self).subscribe()
    }
}
