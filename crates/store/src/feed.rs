//! Following the change log: live through a [`Subscription`], without gaps through a [`Feed`].

use std::collections::VecDeque;
use std::sync::Arc;

use hostler_types::Revision;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::change::Change;
use crate::error::StoreError;
use crate::store::Store;

/// How many changes a feed reads from the log at a time.
const PAGE: usize = 256;

/// Committed changes as they happen. Bounded: who reads too slowly is told so.
#[derive(Debug)]
pub struct Subscription {
    receiver: broadcast::Receiver<Arc<Change>>,
}

/// So many changes were missed; [`Store::changes_after`] has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lagged(pub u64);

impl Subscription {
    pub fn new(receiver: broadcast::Receiver<Arc<Change>>) -> Self {
        Self { receiver }
    }

    /// The next change; `None` when the store has been closed.
    ///
    /// # Cancel safety
    /// Nothing is lost when this future is dropped.
    pub async fn next(&mut self) -> Option<Result<Arc<Change>, Lagged>> {
        match self.receiver.recv().await {
            Ok(change) => Some(Ok(change)),
            Err(RecvError::Lagged(missed)) => Some(Err(Lagged(missed))),
            Err(RecvError::Closed) => None,
        }
    }
}

/// All changes after a revision, in order, each once: from the log first, then live; after a lag
/// from the log again.
#[derive(Debug)]
pub struct Feed {
    store: Arc<dyn Store>,
    live: Subscription,
    /// Read from the log, not handed out yet.
    pending: VecDeque<Arc<Change>>,
    last: Revision,
    behind: bool,
}

impl Feed {
    /// Starts with the change after `after`.
    pub fn new(store: Arc<dyn Store>, after: Revision) -> Self {
        let live = store.subscribe();
        Self { store, live, pending: VecDeque::new(), last: after, behind: true }
    }

    /// The revision handed out last.
    pub fn last(&self) -> Revision {
        self.last
    }

    /// The next change; waits for it.
    ///
    /// # Errors
    /// [`StoreError::Closed`] when the store has been closed, or what reading the log met.
    ///
    /// # Cancel safety
    /// Nothing is lost when this future is dropped.
    pub async fn next(&mut self) -> Result<Arc<Change>, StoreError> {
        loop {
            if let Some(change) = self.pending.pop_front() {
                self.last = change.revision;
                return Ok(change);
            }
            if self.behind {
                self.read_log().await?;
                continue;
            }
            match self.live.next().await {
                None => return Err(StoreError::Closed),
                Some(Err(Lagged(_))) => self.behind = true,
                // Already read from the log.
                Some(Ok(change)) if change.revision <= self.last => {}
                Some(Ok(change)) if change.revision.0 == self.last.0 + 1 => {
                    self.last = change.revision;
                    return Ok(change);
                }
                Some(Ok(_)) => self.behind = true,
            }
        }
    }

    async fn read_log(&mut self) -> Result<(), StoreError> {
        let page = self.store.changes_after(self.last, PAGE).await?;
        self.behind = page.len() == PAGE;
        self.pending.extend(page.into_iter().map(Arc::new));
        Ok(())
    }
}
