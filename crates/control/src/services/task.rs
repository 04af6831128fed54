//! Tasks: what has been ordered, how far it is, and steering it.

use std::sync::Arc;

use futures::stream;
use hostler_tasks::Live;
use hostler_types::{Object, ObjectId, Ref, Role, Task, TaskId, TaskKind, TaskState};
use tokio::sync::watch;

use super::submit::refused;
use super::{Page, PageRequest, Updates};
use crate::actor::{Actor, authorize};
use crate::error::ServiceError;
use crate::inventory::Snapshot;
use crate::redact::Shown;
use crate::world::World;

/// Which tasks a list is to hold; all that is given must fit.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    pub state: Option<TaskState>,
    /// Such as `vm.create`.
    pub action: Option<String>,
    /// Such as `vm/web01`.
    pub target: Option<String>,
    pub parent: Option<TaskId>,
    /// Only those that have not ended.
    pub active: bool,
    /// Only those that work on this object.
    pub object: Option<ObjectId>,
}

/// The newest first.
///
/// # Errors
/// `forbidden`, `invalid` paging.
pub fn list(
    world: &World,
    actor: &Actor,
    filter: &TaskFilter,
    request: &PageRequest,
) -> Result<Page<Task>, ServiceError> {
    authorize(actor, Role::Viewer, "list tasks")?;
    let limit = request.limit()?;
    let before: Option<TaskId> = match &request.after {
        Some(text) => Some(
            text.parse()
                .map_err(|_| ServiceError::invalid("after", "this is not the `next` of a page"))?,
        ),
        None => None,
    };
    let snapshot = world.snapshot();
    let mut found: Vec<_> = snapshot
        .all::<TaskKind>()
        .iter()
        .filter(|task| before.is_none_or(|before| task.id() < before))
        .filter(|task| fits(task, filter))
        .collect();
    // Ids begin with the time they were made at.
    found.sort_unstable_by_key(|task| std::cmp::Reverse(task.id()));
    let more = found.len() > limit;
    let items: Vec<_> = found.into_iter().take(limit).map(TaskKind::shown).collect();
    let next = items.last().filter(|_| more).map(|last| last.id().to_string());
    Ok(Page { items, next, revision: snapshot.revision })
}

fn fits(task: &Task, filter: &TaskFilter) -> bool {
    filter.state.is_none_or(|state| task.status.state == state)
        && filter.action.as_ref().is_none_or(|action| task.spec.action == *action)
        && filter.target.as_ref().is_none_or(|target| task.spec.target == *target)
        && filter.parent.is_none_or(|parent| task.spec.parent == Some(parent))
        && (!filter.active || !task.status.state.is_terminal())
        && filter.object.is_none_or(|object| task.spec.objects.contains(&object))
}

/// # Errors
/// `forbidden`, `not_found`.
pub fn show(world: &World, actor: &Actor, task: &Ref) -> Result<Arc<Task>, ServiceError> {
    authorize(actor, Role::Viewer, "see tasks")?;
    let snapshot = world.snapshot();
    let task = snapshot.find::<TaskKind>(task)?;
    Ok(with_live(world, task))
}

/// Asks a running task to stop; what it has done is undone.
///
/// # Errors
/// `forbidden`, `not_found`, `task_finished`, `task_stuck`, `task_no_return`.
pub async fn cancel(world: &World, actor: &Actor, task: &Ref) -> Result<Arc<Task>, ServiceError> {
    authorize(actor, Role::Operator, "cancel tasks")?;
    let id = world.snapshot().find::<TaskKind>(task)?.id();
    world.engine.cancel(id, &actor.name).await.map_err(|error| refused(world, error))?;
    current(world, id).await
}

/// Lets a stuck task try again.
///
/// # Errors
/// `forbidden`, `not_found`, `task_not_stuck`.
pub async fn retry(world: &World, actor: &Actor, task: &Ref) -> Result<Arc<Task>, ServiceError> {
    authorize(actor, Role::Operator, "retry tasks")?;
    let id = world.snapshot().find::<TaskKind>(task)?.id();
    world.engine.retry(id, &actor.name).await.map_err(|error| refused(world, error))?;
    current(world, id).await
}

/// Gives a stuck task up: what it could not undo stays as it is, and its objects are free again.
///
/// # Errors
/// `forbidden`, `not_found`, `task_not_stuck`.
pub async fn abandon(world: &World, actor: &Actor, task: &Ref) -> Result<Arc<Task>, ServiceError> {
    authorize(actor, Role::Admin, "abandon tasks")?;
    let id = world.snapshot().find::<TaskKind>(task)?.id();
    world.engine.abandon(id, &actor.name).await.map_err(|error| refused(world, error))?;
    current(world, id).await
}

/// The task as the store has it now.
async fn current(world: &World, id: TaskId) -> Result<Arc<Task>, ServiceError> {
    let revision = world.store.revision().await?;
    let snapshot = world.inventory.at_least(revision).await;
    Ok(TaskKind::shown(snapshot.find(&Ref::by_id(id))?))
}

/// The task as it is, then with each change and progress, until it has ended or is stuck.
///
/// # Errors
/// `forbidden`, `not_found`.
pub fn watch(
    world: &Arc<World>,
    actor: &Actor,
    task: &Ref,
) -> Result<Updates<Arc<Task>>, ServiceError> {
    authorize(actor, Role::Viewer, "watch tasks")?;
    let snapshot = world.snapshot();
    let id = snapshot.find::<TaskKind>(task)?.id();
    let watcher = Watcher {
        revisions: world.inventory.revisions(),
        live: world.engine.live(id),
        world: world.clone(),
        id,
        shown: None,
        ended: false,
    };
    Ok(Box::pin(stream::unfold(watcher, |mut watcher| async move {
        let item = watcher.next().await?;
        Some((item, watcher))
    })))
}

struct Watcher {
    world: Arc<World>,
    id: TaskId,
    revisions: watch::Receiver<hostler_types::Revision>,
    live: Option<watch::Receiver<Live>>,
    /// What was handed out last.
    shown: Option<Arc<Task>>,
    ended: bool,
}

impl Watcher {
    async fn next(&mut self) -> Option<Result<Arc<Task>, ServiceError>> {
        if self.ended {
            return None;
        }
        loop {
            self.revisions.borrow_and_update();
            let snapshot: Arc<Snapshot> = self.world.snapshot();
            let Some(task) = snapshot.get::<TaskKind>(self.id) else {
                self.ended = true;
                return Some(Err(ServiceError::not_found(
                    hostler_types::KindName::Task,
                    &Ref::by_id(self.id),
                )));
            };
            let state = task.status.state;
            let now = with_live(&self.world, task);
            if self.shown.as_ref() != Some(&now) {
                self.ended = state.is_terminal() || state == TaskState::Stuck;
                self.shown = Some(now.clone());
                return Some(Ok(now));
            }
            self.changed().await;
        }
    }

    async fn changed(&mut self) {
        let live = async {
            match &mut self.live {
                Some(live) => live.changed().await.is_ok(),
                None => std::future::pending().await,
            }
        };
        // Both are only told that something is new; nothing is lost when one is dropped.
        let reports = tokio::select! {
            _ = self.revisions.changed() => true,
            reports = live => reports,
        };
        if !reports {
            self.live = None;
        }
    }
}

/// With what a running task has reported since it was last stored.
fn with_live(world: &World, task: &Arc<Task>) -> Arc<Task> {
    let shown = TaskKind::shown(task);
    let live = world.engine.live(task.id()).filter(|_| !task.status.state.is_terminal());
    let Some(live) = live else { return shown };
    let mut shown: Object<TaskKind> = Arc::unwrap_or_clone(shown);
    let live = live.borrow();
    shown.status.progress = live.progress.clone();
    shown.status.messages.clone_from(&live.messages);
    Arc::new(shown)
}
