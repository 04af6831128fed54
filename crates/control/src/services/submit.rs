//! From a checked request to a stored task.

use std::sync::Arc;

use hostler_store::{StoreError, Write};
use hostler_tasks::{Submit, TaskError};
use hostler_types::{KindName, Object, ObjectId, Task, TaskKind};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::Value;

use super::{Changed, Options};
use crate::actor::Actor;
use crate::error::{Class, ServiceError};
use crate::idempotency::{KeyedRequest, Seen};
use crate::inventory::Snapshot;
use crate::pools::admission::Promise;
use crate::redact::Shown;
use crate::world::World;

/// How often a plan is made again because what it was made from has just changed.
const ATTEMPTS: usize = 8;

/// A task to be, as the files in `tasks` describe it.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) action: &'static str,
    /// For people: `vm/web01`.
    pub(crate) target: String,
    pub(crate) objects: Vec<ObjectId>,
    /// A JSON object.
    pub(crate) input: Value,
    /// From now on; absent: as long as it takes.
    pub(crate) limit: Option<SignedDuration>,
    pub(crate) writes: Vec<Write>,
    /// What was promised to VMs for it: kept until the inventory has the task.
    pub(crate) promises: Vec<Promise>,
}

/// What a request will lead to.
#[derive(Debug)]
pub(crate) struct Planned<K: Shown> {
    pub(crate) order: Order,
    pub(crate) object: Arc<Object<K>>,
    pub(crate) explanation: Vec<String>,
}

#[derive(Debug)]
pub(crate) enum Ordered<K: Shown> {
    New(Changed<Object<K>>),
    /// The same request was made before, with the same idempotency key, and led to this task.
    Before(Arc<Task>),
}

impl Order {
    /// # Panics
    /// When `input` has no JSON form.
    pub(crate) fn new<K: Shown>(
        action: &'static str,
        object: &Object<K>,
        input: &impl Serialize,
    ) -> Self {
        Self {
            action,
            target: format!("{}/{}", K::NAME, object.name()),
            objects: vec![object.id().untyped()],
            input: serde_json::to_value(input).expect("the input of a task has a JSON form"),
            limit: None,
            writes: Vec::new(),
            promises: Vec::new(),
        }
    }

    pub(crate) fn limit(mut self, limit: SignedDuration) -> Self {
        self.limit = Some(limit);
        self
    }

    pub(crate) fn promised(mut self, promises: Vec<Promise>) -> Self {
        self.promises.extend(promises);
        self
    }

    pub(crate) fn with(mut self, write: Write) -> Self {
        self.writes.push(write);
        self
    }

    pub(crate) fn submit(self, actor: &str) -> Submit {
        let mut submit = Submit::new(self.action, self.target, actor, &self.input);
        submit.objects = self.objects;
        submit.writes = self.writes;
        submit.deadline = self.limit.map(|limit| Timestamp::now() + limit);
        submit
    }
}

/// The task that the same request has led to before, by its idempotency key: so that nothing is planned or
/// refused that is done already. Without a key, or for a dry run, there is none.
pub(super) async fn before(
    world: &World,
    actor: &Actor,
    options: &Options,
    action: &'static str,
    request: &impl Serialize,
) -> Result<Option<Arc<Task>>, ServiceError> {
    let key = options.idempotency_key.as_deref().filter(|_| !options.dry_run);
    match world.keys.look_up(&world.inventory, actor, key, action, request).await? {
        Seen::Before(task) => Ok(Some(TaskKind::shown(&task))),
        Seen::New(_) => Ok(None),
    }
}

/// Orders a task of which only the task itself is of interest.
pub(super) async fn order(
    world: &World,
    actor: &Actor,
    options: &Options,
    action: &'static str,
    request: &impl Serialize,
    mut plan: impl FnMut(&Snapshot) -> Result<Order, ServiceError>,
) -> Result<Arc<Task>, ServiceError> {
    if options.dry_run {
        return Err(ServiceError::invalid("dry_run", "this request has no dry run")
            .hint("its preconditions are checked before anything is done"));
    }
    let key = options.idempotency_key.as_deref();
    let key = match world.keys.look_up(&world.inventory, actor, key, action, request).await? {
        Seen::Before(task) => return Ok(TaskKind::shown(&task)),
        Seen::New(key) => key,
    };
    let _references = world.references.read().await;
    for _ in 0..ATTEMPTS {
        let order = plan(&world.snapshot())?;
        if let Some(task) = submit(world, actor, order, key.as_ref()).await? {
            return Ok(task);
        }
    }
    Err(contended())
}

/// Orders a task that works on one object, which is told beside it. A dry run ends with the plan.
pub(super) async fn order_with<K: Shown>(
    world: &World,
    actor: &Actor,
    options: &Options,
    action: &'static str,
    request: &impl Serialize,
    mut plan: impl FnMut(&Snapshot) -> Result<Planned<K>, ServiceError>,
) -> Result<Ordered<K>, ServiceError> {
    let key = options.idempotency_key.as_deref();
    let key = match world.keys.look_up(&world.inventory, actor, key, action, request).await? {
        Seen::Before(task) => return Ok(Ordered::Before(TaskKind::shown(&task))),
        Seen::New(key) => key,
    };
    let _references = world.references.read().await;
    for _ in 0..ATTEMPTS {
        let Planned { order, object, explanation } = plan(&world.snapshot())?;
        if options.dry_run {
            let object = K::shown(&object);
            return Ok(Ordered::New(Changed {
                object,
                task: None,
                explanation,
                explained: Vec::new(),
            }));
        }
        if let Some(task) = submit(world, actor, order, key.as_ref()).await? {
            let stored = world.snapshot().get(object.id()).map(K::shown);
            let object = stored.unwrap_or_else(|| K::shown(&object));
            return Ok(Ordered::New(Changed {
                object,
                task: Some(task),
                explanation,
                explained: Vec::new(),
            }));
        }
    }
    Err(contended())
}

/// Stores the task, and returns when the inventory has it. `None`: what the plan was made from has
/// changed; plan again.
async fn submit(
    world: &World,
    actor: &Actor,
    mut order: Order,
    key: Option<&KeyedRequest<'_>>,
) -> Result<Option<Arc<Task>>, ServiceError> {
    if let (Some(key), Some(input)) = (key, order.input.as_object_mut()) {
        let mark = serde_json::to_value(&key.mark).expect("two texts have a JSON form");
        input.insert("request".to_owned(), mark);
    }
    // Until the inventory has it, or it has been refused.
    let _promises = std::mem::take(&mut order.promises);
    let task = match world.engine.submit(order.submit(&actor.name)).await {
        Ok(task) => task,
        Err(TaskError::Store(StoreError::Stale { kind, id, actual, .. })) => {
            tracing::debug!(%kind, %id, "planning again: it has just changed");
            world.inventory.at_least(actual).await;
            return Ok(None);
        }
        Err(error) => return Err(refused(world, error)),
    };
    world.inventory.at_least(task.metadata.revision).await;
    Ok(Some(TaskKind::shown(&Arc::new(task))))
}

pub(super) fn refused(world: &World, error: TaskError) -> ServiceError {
    let message = error.to_string();
    match error {
        TaskError::Store(error) => error.into(),
        TaskError::Locked { object, by, action } => ServiceError::conflict(
            "busy",
            format!("{} is being worked on: {action} (task {by})", called(world, object)),
        )
        .hint(format!(
            "wait with `hostler task watch {by}`, or end it with `hostler task cancel {by}`"
        )),
        TaskError::NotFound(_) => ServiceError::new(Class::NotFound, "not_found", message)
            .hint("list them with `hostler task list`"),
        TaskError::Finished { .. } => ServiceError::conflict("task_finished", message),
        TaskError::NotStuck { .. } => ServiceError::conflict("task_not_stuck", message),
        TaskError::Stuck { task } => ServiceError::conflict("task_stuck", message)
            .hint(format!("`hostler task retry {task}` or `hostler task abandon {task}`")),
        TaskError::PastNoReturn { .. } => ServiceError::conflict("task_no_return", message),
        TaskError::Interrupted { .. } | TaskError::ShuttingDown => {
            ServiceError::new(Class::Unavailable, "shutting_down", message)
                .hint("try again when the server is up")
        }
        TaskError::UnknownAction(_) => ServiceError::new(Class::Internal, "internal", message),
    }
}

/// An object of any kind, as people call it.
fn called(world: &World, id: ObjectId) -> String {
    let snapshot = world.snapshot();
    if let Some(vm) = snapshot.get::<hostler_types::VmKind>(id.typed()) {
        return format!("{} `{}`", KindName::Vm, vm.name());
    }
    if let Some(image) = snapshot.get::<hostler_types::ImageKind>(id.typed()) {
        return format!("{} `{}`", KindName::Image, image.name());
    }
    if let Some(host) = snapshot.get::<hostler_types::HostKind>(id.typed()) {
        return format!("{} `{}`", KindName::Host, host.name());
    }
    if snapshot.get::<hostler_types::ClusterKind>(id.typed()).is_some() {
        return "the balance of the cluster".to_owned();
    }
    format!("the object {id}")
}

fn contended() -> ServiceError {
    ServiceError::conflict("contended", "it changes faster than this request can be made")
        .hint("try again")
}
