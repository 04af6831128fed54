//! Tells whoever listens what changes on the host.
//!
//! A reader first gets the whole inventory, then each change. It subscribes *before* the inventory
//! is taken, so that it may see a change twice but never misses one. A reader that does not keep up
//! is cut off and starts again: the agent's memory does not grow for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;
use hostler_agent_api::{AgentEvent, Inventory, OperationProgress};
use hostler_endpoint::{EventStream, Item, Problem};
use tokio::sync::broadcast;

/// Changes kept for a reader that is behind.
const KEPT: usize = 256;

/// Where changes are told. Clones are the same hub.
#[derive(Debug, Clone)]
pub(crate) struct Hub(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sender: broadcast::Sender<(u64, Arc<AgentEvent>)>,
    next: AtomicU64,
}

impl Hub {
    pub(crate) fn new() -> Self {
        let (sender, _) = broadcast::channel(KEPT);
        Self(Arc::new(Inner { sender, next: AtomicU64::new(1) }))
    }

    pub(crate) fn tell(&self, event: AgentEvent) {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        // Nobody listens: nobody needs to know.
        let _ = self.0.sender.send((id, Arc::new(event)));
    }

    pub(crate) fn progress(&self, progress: OperationProgress) {
        self.tell(AgentEvent::Progress(progress));
    }

    /// The inventory, as `inventory` tells it, and all that changes from then on.
    pub(crate) fn stream(&self, inventory: impl FnOnce() -> Inventory) -> EventStream<AgentEvent> {
        let receiver = self.0.sender.subscribe();
        let id = self.0.next.load(Ordering::Relaxed).saturating_sub(1);
        let first = Item { id, data: AgentEvent::Inventory(inventory()) };
        let changes = futures::stream::unfold(Some(receiver), |receiver| async move {
            let mut receiver = receiver?;
            match receiver.recv().await {
                Ok((id, event)) => {
                    let item = Item { id, data: AgentEvent::clone(&event) };
                    Some((Ok(item), Some(receiver)))
                }
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    let detail = format!("the reader is too slow: {missed} changes were missed");
                    let problem = Problem::new(503, "slow_reader", detail)
                        .hint("connect again; the stream begins with everything");
                    Some((Err(problem), None))
                }
                Err(broadcast::error::RecvError::Closed) => None,
            }
        });
        futures::stream::once(async { Ok(first) }).chain(changes).fuse().boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hostler_types::VmId;

    fn empty() -> Inventory {
        Inventory {
            vms: Vec::new(),
            datastores: Vec::new(),
            used: Vec::new(),
            host_used: None,
            elsewhere: Vec::new(),
        }
    }

    #[tokio::test]
    async fn the_inventory_comes_first_then_each_change() {
        let (hub, vm) = (Hub::new(), VmId::generate());
        hub.tell(AgentEvent::VmGone { vm: VmId::generate() });
        let mut stream = hub.stream(empty);
        hub.tell(AgentEvent::VmGone { vm });
        let first = stream.next().await.unwrap().unwrap();
        assert_eq!(first.data, AgentEvent::Inventory(empty()));
        let second = stream.next().await.unwrap().unwrap();
        assert_eq!(second.data, AgentEvent::VmGone { vm });
        assert!(second.id > first.id);
    }

    #[tokio::test]
    async fn a_slow_reader_is_cut_off() {
        let hub = Hub::new();
        let mut stream = hub.stream(empty);
        stream.next().await.unwrap().unwrap();
        for _ in 0..=KEPT {
            hub.tell(AgentEvent::VmGone { vm: VmId::generate() });
        }
        assert_eq!(stream.next().await.unwrap().unwrap_err().code, "slow_reader");
        assert!(stream.next().await.is_none());
    }
}
