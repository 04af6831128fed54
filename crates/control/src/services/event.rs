//! The inventory's history: what was changed, from what, to what, when, by whom and why.

use hostler_store::Change;
use hostler_types::{KindName, Name, ObjectId, Revision, Role, TaskId};
use jiff::Timestamp;
use serde_json::Value;

use crate::actor::{Actor, authorize};
use crate::error::ServiceError;
use crate::redact;
use crate::world::World;

/// Changes read from the log at a time.
const PAGE: usize = 500;
/// Changes looked at for one answer; a filter that fits few goes on with the next page.
const LOOKED_AT: usize = 20 * PAGE;

/// One change of one object, as it may be shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub revision: Revision,
    pub at: Timestamp,
    pub kind: KindName,
    pub id: ObjectId,
    pub name: Name,
    pub verb: Verb,
    pub actor: String,
    pub reason: String,
    pub task: Option<TaskId>,
    /// `metadata`, `spec` and `status` before; absent for a creation, and for tasks.
    pub old: Option<Value>,
    /// And after; absent for a deletion.
    pub new: Option<Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Created,
    Changed,
    Deleted,
}

impl Verb {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Deleted => "deleted",
        }
    }
}

/// Which events are wanted; all that is given must fit.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    pub kinds: Vec<KindName>,
    /// Of one object.
    pub id: Option<ObjectId>,
    /// Of objects of this name.
    pub name: Option<Name>,
    pub actor: Option<String>,
    pub task: Option<TaskId>,
}

/// Which part of the history is wanted.
#[derive(Debug, Clone, Default)]
pub struct EventQuery {
    pub filter: EventFilter,
    /// The first ones after this revision; absent: the last ones.
    pub after: Option<Revision>,
    /// 1 to 1,000; absent: 100.
    pub limit: Option<u32>,
}

/// Events, oldest first.
#[derive(Debug, Clone)]
pub struct Events {
    pub items: Vec<Event>,
    /// Pass it as `after` to go on; absent when the end of the log has been reached.
    pub next: Option<Revision>,
    /// The log's end when it was read.
    pub revision: Revision,
}

/// # Errors
/// `forbidden`, `invalid` limit.
pub async fn list(
    world: &World,
    actor: &Actor,
    query: &EventQuery,
) -> Result<Events, ServiceError> {
    authorize(actor, Role::Viewer, "see events")?;
    let limit = query.limit.unwrap_or(100);
    if !(1..=1000).contains(&limit) {
        let reason = format!("{limit} is not possible; 1 to 1000");
        return Err(ServiceError::invalid("limit", reason));
    }
    let limit = limit as usize;
    let filter = Filter { filter: &query.filter, actor };
    match query.after {
        Some(after) => forward(world, &filter, after, limit).await,
        None => backward(world, &filter, limit).await,
    }
}

struct Filter<'a> {
    filter: &'a EventFilter,
    actor: &'a Actor,
}

impl Filter<'_> {
    fn fits(&self, change: &Change) -> bool {
        let filter = self.filter;
        may_see(self.actor, change.kind)
            && (filter.kinds.is_empty() || filter.kinds.contains(&change.kind))
            && filter.id.is_none_or(|id| id == change.id)
            && filter.name.as_ref().is_none_or(|name| *name == change.name)
            && filter.actor.as_ref().is_none_or(|actor| *actor == change.actor)
            && filter.task.is_none_or(|task| change.task == Some(task))
    }
}

/// Users and tokens are an admin's business, in lists as in the history.
pub(super) fn may_see(actor: &Actor, kind: KindName) -> bool {
    match kind {
        KindName::User | KindName::Token | KindName::JoinToken => actor.role == Role::Admin,
        KindName::Vm
        | KindName::Host
        | KindName::Image
        | KindName::Datastore
        | KindName::Network
        | KindName::CustomizationSpec
        | KindName::NamingRule
        | KindName::Request
        | KindName::ApprovalRule
        | KindName::Cluster
        | KindName::Pool
        | KindName::Rule
        | KindName::Group
        | KindName::SnapshotPolicy
        | KindName::Template
        | KindName::Task => true,
    }
}

async fn forward(
    world: &World,
    filter: &Filter<'_>,
    after: Revision,
    limit: usize,
) -> Result<Events, ServiceError> {
    let revision = world.store.revision().await?;
    let (mut items, mut at, mut looked) = (Vec::new(), after, 0);
    while looked < LOOKED_AT {
        let page = world.store.changes_after(at, PAGE).await?;
        looked += PAGE;
        let end = page.len() < PAGE;
        for change in &page {
            at = change.revision;
            if filter.fits(change) {
                items.push(event(change));
                if items.len() == limit {
                    return Ok(Events { items, next: Some(at), revision });
                }
            }
        }
        if end {
            return Ok(Events { items, next: None, revision });
        }
    }
    Ok(Events { items, next: Some(at), revision })
}

async fn backward(
    world: &World,
    filter: &Filter<'_>,
    limit: usize,
) -> Result<Events, ServiceError> {
    let revision = world.store.revision().await?;
    let (mut found, mut to) = (Vec::new(), revision.0);
    // Newest first, page by page; turned round at the end.
    while to > 0 && found.len() < limit && revision.0 - to < LOOKED_AT as u64 {
        let from = to.saturating_sub(PAGE as u64);
        let page = world.store.changes_after(Revision(from), PAGE).await?;
        let page = page.iter().filter(|change| change.revision.0 <= to);
        found.extend(page.rev().filter(|change| filter.fits(change)).map(event));
        to = from;
    }
    found.truncate(limit);
    found.reverse();
    Ok(Events { items: found, next: None, revision })
}

pub(super) fn event(change: &Change) -> Event {
    let verb = match (&change.old, &change.new) {
        (_, None) => Verb::Deleted,
        (None, Some(new)) if new.generation == 1 && new.created_at == change.at => Verb::Created,
        (_, Some(_)) => Verb::Changed,
    };
    Event {
        revision: change.revision,
        at: change.at,
        kind: change.kind,
        id: change.id,
        name: change.name.clone(),
        verb,
        actor: change.actor.clone(),
        reason: change.reason.clone(),
        task: change.task,
        old: change.old.as_ref().map(redact::record),
        new: change.new.as_ref().map(redact::record),
    }
}
