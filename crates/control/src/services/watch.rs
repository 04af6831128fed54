//! Following the inventory from a revision on, without gaps.

use std::sync::Arc;

use futures::stream;
use hostler_store::{Feed, StoreError};
use hostler_types::{KindName, Revision, Role};

use super::Updates;
use super::event::{Event, event, may_see};
use crate::actor::{Actor, authorize};
use crate::auth::revalidate;
use crate::error::ServiceError;
use crate::inventory::Inventory;
use crate::world::World;

/// Every change after `after` to objects of `kinds` (all, if empty) that the actor may see, each
/// once and in order. It ends when the actor's token does.
///
/// # Errors
/// `forbidden`; `invalid` for a revision that is not yet.
pub fn watch(
    world: &World,
    actor: &Actor,
    after: Option<Revision>,
    kinds: Vec<KindName>,
) -> Result<Updates<Event>, ServiceError> {
    authorize(actor, Role::Viewer, "watch the inventory")?;
    let now = world.snapshot().revision;
    let after = after.unwrap_or(now);
    if after > now {
        let reason = format!("{after} is not yet; the inventory is at {now}");
        return Err(ServiceError::invalid("after", reason)
            .hint("was the server's state restored? list again and watch from that revision"));
    }
    let watcher = Watcher {
        feed: Feed::new(world.store.clone(), after),
        inventory: world.inventory.clone(),
        actor: actor.clone(),
        kinds,
        ended: false,
    };
    Ok(Box::pin(stream::unfold(watcher, |mut watcher| async move {
        let item = watcher.next().await?;
        Some((item, watcher))
    })))
}

struct Watcher {
    feed: Feed,
    inventory: Arc<Inventory>,
    actor: Actor,
    kinds: Vec<KindName>,
    ended: bool,
}

impl Watcher {
    async fn next(&mut self) -> Option<Result<Event, ServiceError>> {
        while !self.ended {
            let change = match self.feed.next().await {
                Ok(change) => change,
                Err(StoreError::Closed) => return None,
                Err(error) => return self.end(error.into()),
            };
            // Who hears of a change also finds it in the inventory.
            let snapshot = self.inventory.at_least(change.revision).await;
            match revalidate(&snapshot, &self.actor) {
                Ok(actor) => self.actor = actor,
                Err(error) => return self.end(error),
            }
            let wanted = self.kinds.is_empty() || self.kinds.contains(&change.kind);
            if wanted && may_see(&self.actor, change.kind) {
                return Some(Ok(event(&change)));
            }
        }
        None
    }

    fn end(&mut self, error: ServiceError) -> Option<Result<Event, ServiceError>> {
        self.ended = true;
        Some(Err(error))
    }
}
