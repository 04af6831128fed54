//! The engine: takes tasks, runs each in a tokio task of its own, lets others wait for and steer
//! them. What one task goes through is in `runner`.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hostler_store::{Batch, Record, Store, StoreError, Write};
use hostler_types::{KindName, ObjectId, Task, TaskId, TaskState};
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::definition::{Definition, Registry};
use crate::error::TaskError;
use crate::live::{Live, Reporter};
use crate::runner::{Command, Runner};
use crate::status;
use crate::submit::Submit;

/// Finished tasks deleted in one transaction.
const PRUNE_PAGE: usize = 100;

/// How patient the engine is.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// How often an undo (or a step past the point of no return) is tried before the task is stuck.
    pub tries: u32,
    /// The wait before the second try; doubles with each further one, up to half a minute.
    pub backoff: Duration,
    /// The least time between two writes of a task's progress.
    pub progress_interval: Duration,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            tries: 5,
            backoff: Duration::from_secs(1),
            progress_interval: Duration::from_millis(500),
        }
    }
}

/// A handle; clones are the same engine.
pub struct Engine<C> {
    inner: Arc<Inner<C>>,
}

struct Inner<C> {
    store: Arc<dyn Store>,
    world: Arc<C>,
    registry: Registry<C>,
    config: EngineConfig,
    runs: Mutex<HashMap<TaskId, Run>>,
    tracker: TaskTracker,
    /// No new steps.
    stopping: CancellationToken,
    /// Drop what is running.
    killed: CancellationToken,
}

/// What the others see of a running task.
#[derive(Debug, Clone)]
struct Run {
    parent: Option<TaskId>,
    commands: mpsc::Sender<Command>,
    ended: watch::Receiver<Option<Task>>,
    live: watch::Receiver<Live>,
}

impl<C: Send + Sync + 'static> Engine<C> {
    pub fn new(
        store: Arc<dyn Store>,
        world: Arc<C>,
        registry: Registry<C>,
        config: EngineConfig,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                store,
                world,
                registry,
                config,
                runs: Mutex::default(),
                tracker: TaskTracker::new(),
                stopping: CancellationToken::new(),
                killed: CancellationToken::new(),
            }),
        }
    }

    pub fn world(&self) -> &Arc<C> {
        &self.inner.world
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.inner.store
    }

    pub fn registry(&self) -> &Registry<C> {
        &self.inner.registry
    }

    /// Stores the task with its locks and its first step's intent, and starts it. One commit.
    ///
    /// # Errors
    /// [`TaskError::Locked`] names the task that holds one of the objects; a refused write comes
    /// as [`TaskError::Store`], also when a task of that id is there already.
    ///
    /// # Cancel safety
    /// The task is started once it is stored, even if this future is dropped.
    pub async fn submit(&self, submit: Submit) -> Result<Task, TaskError> {
        self.submit_below(submit, &[]).await
    }

    /// Like [`Self::submit`]; `held` are the objects that the parent has locked.
    pub(crate) async fn submit_below(
        &self,
        submit: Submit,
        held: &[ObjectId],
    ) -> Result<Task, TaskError> {
        let definition = (self.inner.registry.get(&submit.action))
            .ok_or_else(|| TaskError::UnknownAction(submit.action.clone()))?;
        let steps: Vec<&str> = definition.steps.iter().map(|step| step.name).collect();
        let now = Timestamp::now();
        let task = submit.task(&steps, now);
        let lock = |&object: &ObjectId| Write::Lock { object, task: submit.id };
        let locks: Vec<Write> =
            submit.objects.iter().filter(|object| !held.contains(object)).map(lock).collect();
        let batch = Batch::new(&submit.actor, format!("{}: submitted", submit.action), now)
            .task(submit.id)
            .with_all(locks)
            .with_all(submit.writes)
            .with(Write::create(&task));
        self.start(task, batch, Arc::clone(definition)).await
    }

    /// The task as it ends: done, failed, cancelled or stuck.
    ///
    /// # Errors
    /// [`TaskError::NotFound`], or [`TaskError::Interrupted`] when the engine stops before.
    pub async fn wait(&self, task: TaskId) -> Result<Task, TaskError> {
        let run = self.runs().get(&task).cloned();
        if let Some(mut run) = run {
            let ended = run.ended.wait_for(Option::is_some).await;
            let ended = ended.map_err(|_| TaskError::Interrupted { task })?;
            return ended.clone().ok_or(TaskError::Interrupted { task });
        }
        let stored = self.load(task).await?;
        if stored.status.state.is_terminal() || stored.status.state == TaskState::Stuck {
            return Ok(stored);
        }
        Err(TaskError::Interrupted { task })
    }

    /// Progress and messages of a running task as they are reported; `None` if it does not run.
    pub fn live(&self, task: TaskId) -> Option<watch::Receiver<Live>> {
        self.runs().get(&task).map(|run| run.live.clone())
    }

    /// Asks a running task to stop and be undone; returns when the request is stored. A task that
    /// is being undone already stays so.
    ///
    /// # Errors
    /// [`TaskError::Finished`], [`TaskError::Stuck`], [`TaskError::PastNoReturn`],
    /// [`TaskError::NotFound`].
    pub async fn cancel(&self, task: TaskId, actor: &str) -> Result<(), TaskError> {
        let run = self.runs().get(&task).cloned();
        if let Some(run) = run {
            let (reply, replied) = oneshot::channel();
            let command = Command::Cancel { actor: actor.to_owned(), reply };
            if run.commands.send(command).await.is_ok()
                && let Ok(answer) = replied.await
            {
                return answer;
            }
        }
        // It does not run, or has just ended.
        match self.load(task).await?.status.state {
            TaskState::Stuck => Err(TaskError::Stuck { task }),
            state if state.is_terminal() => Err(TaskError::Finished { task, state }),
            _ => Err(TaskError::Interrupted { task }),
        }
    }

    /// Lets a stuck task try again what it got stuck at.
    ///
    /// # Errors
    /// [`TaskError::NotStuck`], [`TaskError::UnknownAction`], [`TaskError::NotFound`].
    pub async fn retry(&self, task: TaskId, actor: &str) -> Result<Task, TaskError> {
        let mut stored = self.load_stuck(task).await?;
        let definition = self.definition_of(&stored).map_err(TaskError::UnknownAction)?;
        status::retry(&mut stored.status);
        let reason = format!("{}: retried", stored.spec.action);
        let batch =
            Batch::new(actor, reason, Timestamp::now()).task(task).with(Write::update(&stored));
        self.start(stored, batch, definition).await
    }

    /// Gives a stuck task up: it has failed, its locks are released, and its error names what was
    /// left as it is.
    ///
    /// # Errors
    /// [`TaskError::NotStuck`], [`TaskError::NotFound`].
    pub async fn abandon(&self, task: TaskId, actor: &str) -> Result<Task, TaskError> {
        let mut stored = self.load_stuck(task).await?;
        let now = Timestamp::now();
        status::abandon(&mut stored.status, now);
        let batch = Batch::new(actor, format!("{}: abandoned", stored.spec.action), now)
            .task(task)
            .with(Write::update(&stored))
            .with(Write::Unlock { task });
        let committed = self.inner.store.commit(batch).await?;
        stored.metadata.revision = committed.revision;
        Ok(stored)
    }

    /// Goes on with all tasks that were at work when the process died. Call it once, at start,
    /// when the world is ready. Returns how many there are.
    ///
    /// # Errors
    /// What reading the store met.
    pub async fn recover(&self) -> Result<usize, TaskError> {
        // Behind all that a killed engine has left in the store's queue: what is read below is
        // what was stored last.
        let barrier = Batch::new("system", "recovery", Timestamp::now());
        self.inner.store.commit(barrier).await?;
        let mut unfinished = Vec::new();
        self.each_task(|task| {
            if !task.status.state.is_terminal() && task.status.state != TaskState::Stuck {
                unfinished.push(task);
            }
        })
        .await?;
        let count = unfinished.len();
        let mut runners = Vec::new();
        for task in unfinished {
            match self.definition_of(&task) {
                Ok(definition) => runners.extend(self.register(task, definition)),
                Err(reason) => self.store_stuck(task, reason).await?,
            }
        }
        // All are registered before the first goes on: a parent finds its children.
        for runner in runners {
            tracing::info!(task = %runner.task().name(), "the task goes on after a restart");
            self.spawn(async move { runner.run().await });
        }
        Ok(count)
    }

    /// Takes no new tasks and begins no new steps; waits up to `limit` for the steps at work. What
    /// is left goes on with [`Self::recover`] in the next process.
    pub async fn shutdown(&self, limit: Duration) {
        self.inner.stopping.cancel();
        self.inner.tracker.close();
        if tokio::time::timeout(limit, self.inner.tracker.wait()).await.is_err() {
            tracing::warn!(?limit, "steps still at work are left to the next start");
        }
        self.kill().await;
    }

    /// Drops everything at once, as a crash would; for tests, and the end of a shutdown.
    pub async fn kill(&self) {
        self.inner.stopping.cancel();
        self.inner.killed.cancel();
        self.inner.tracker.close();
        self.inner.tracker.wait().await;
    }

    /// Deletes tasks that finished before `older_than`, but keeps the `keep` newest. Returns how
    /// many it deleted.
    ///
    /// # Errors
    /// What the store met.
    pub async fn prune_finished(
        &self,
        older_than: Timestamp,
        keep: usize,
    ) -> Result<usize, TaskError> {
        let mut finished = Vec::new();
        let mut unfinished = HashSet::new();
        self.each_task(|task| match task.status.finished_at {
            Some(at) => finished.push((at, task)),
            None => {
                unfinished.insert(task.id());
            }
        })
        .await?;
        finished.sort_unstable_by_key(|(at, _)| std::cmp::Reverse(*at));
        // A parent that is at work may have to look at its child again.
        let needed = |task: &Task| task.spec.parent.is_some_and(|id| unfinished.contains(&id));
        let old: Vec<Write> = finished
            .iter()
            .skip(keep)
            .filter(|(at, task)| *at < older_than && !needed(task))
            .map(|(_, task)| Write::delete(task))
            .collect();
        for page in old.chunks(PRUNE_PAGE) {
            let batch = Batch::new("system", "old tasks are deleted", Timestamp::now())
                .with_all(page.iter().cloned());
            self.inner.store.commit(batch).await?;
        }
        Ok(old.len())
    }

    pub(crate) fn config(&self) -> &EngineConfig {
        &self.inner.config
    }

    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.inner.stopping
    }

    /// Cancels the running children of `parent` and waits for their ends.
    pub(crate) async fn end_children(&self, parent: TaskId, actor: &str) {
        let children: Vec<TaskId> = (self.runs().iter())
            .filter(|(_, run)| run.parent == Some(parent))
            .map(|(id, _)| *id)
            .collect();
        for child in &children {
            // Refused when it has ended or cannot be cancelled: then it is waited for.
            let _refused = self.cancel(*child, actor).await;
        }
        for child in children {
            let _ended = self.wait(child).await;
        }
    }

    pub(crate) fn forget(&self, task: TaskId) {
        self.runs().remove(&task);
    }

    /// Commits `batch` (whose last object write is the task) and runs the task. Goes on in a tokio
    /// task of its own, so that nothing is stored and not started.
    async fn start(
        &self,
        task: Task,
        batch: Batch,
        definition: Arc<Definition<C>>,
    ) -> Result<Task, TaskError> {
        if self.inner.stopping.is_cancelled() {
            return Err(TaskError::ShuttingDown);
        }
        let id = task.id();
        let Some(mut runner) = self.register(task, definition) else {
            let (kind, id) = (KindName::Task, id.untyped());
            return Err(StoreError::Exists { kind, id }.into());
        };
        let (reply, replied) = oneshot::channel();
        self.spawn(async move {
            let stored = runner.store_first(batch).await;
            let failed = stored.is_err();
            // Whoever asked may have gone.
            let _gone = reply.send(stored);
            if !failed {
                runner.run().await;
            }
        });
        match replied.await {
            Ok(Err(StoreError::Locked { object, by })) => {
                let action = self.load(by).await.map(|task| task.spec.action);
                let action = action.unwrap_or_else(|_| "which has just ended".to_owned());
                Err(TaskError::Locked { object, by, action })
            }
            Ok(stored) => Ok(stored?),
            Err(_) => Err(TaskError::Interrupted { task: id }),
        }
    }

    /// Makes the runner and lets others find it; `None` if the task has one. It is forgotten when
    /// the runner is dropped.
    fn register(&self, task: Task, definition: Arc<Definition<C>>) -> Option<Runner<C>> {
        let (commands, orders) = mpsc::channel(8);
        let (ended, end) = watch::channel(None);
        let reporter = Reporter::new(task.status.progress.clone(), task.status.messages.clone());
        let run = Run { parent: task.spec.parent, commands, ended: end, live: reporter.watch() };
        match self.runs().entry(task.id()) {
            Entry::Occupied(_) => return None,
            Entry::Vacant(place) => place.insert(run),
        };
        Some(Runner::new(self.clone(), definition, task, reporter, orders, ended))
    }

    fn spawn(&self, run: impl Future<Output = ()> + Send + 'static) {
        let killed = self.inner.killed.clone();
        self.inner.tracker.spawn(async move {
            // Nothing is returned by either end.
            let _killed = killed.run_until_cancelled(run).await;
        });
    }

    /// The definition that a stored task follows, if it is still the same; otherwise why not.
    fn definition_of(&self, task: &Task) -> Result<Arc<Definition<C>>, String> {
        let action = &task.spec.action;
        let definition = (self.inner.registry.get(action))
            .ok_or_else(|| format!("this version does not know the action {action}"))?;
        let same = definition.steps.len() == task.status.steps.len()
            && definition.steps.iter().zip(&task.status.steps).all(|(a, b)| a.name == b.name);
        if same {
            return Ok(Arc::clone(definition));
        }
        Err(format!("{action} has other steps in this version than when the task was submitted"))
    }

    async fn store_stuck(&self, mut task: Task, reason: String) -> Result<(), TaskError> {
        tracing::error!(task = %task.name(), reason, "the task cannot go on");
        status::stuck(&mut task.status, reason);
        let batch = Batch::new("system", format!("{}: stuck", task.spec.action), Timestamp::now())
            .task(task.id())
            .with(Write::update(&task));
        self.inner.store.commit(batch).await?;
        Ok(())
    }

    async fn load(&self, task: TaskId) -> Result<Task, TaskError> {
        let record = self.inner.store.get(KindName::Task, task.untyped()).await?;
        Ok(record.ok_or(TaskError::NotFound(task))?.object()?)
    }

    async fn load_stuck(&self, task: TaskId) -> Result<Task, TaskError> {
        let stored = self.load(task).await?;
        let state = stored.status.state;
        if state == TaskState::Stuck {
            Ok(stored)
        } else {
            Err(TaskError::NotStuck { task, state })
        }
    }

    async fn each_task(&self, mut each: impl FnMut(Task)) -> Result<(), TaskError> {
        let mut after = None;
        loop {
            let page = self.inner.store.list(KindName::Task, after.as_ref(), 500).await?;
            after = page.last().map(|record: &Record| record.name.clone());
            if after.is_none() {
                return Ok(());
            }
            for record in page {
                each(record.object()?);
            }
        }
    }

    fn runs(&self) -> MutexGuard<'_, HashMap<TaskId, Run>> {
        self.inner.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C> Clone for Engine<C> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}
impl<C> fmt::Debug for Engine<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("store", &self.inner.store)
            .field("registry", &self.inner.registry)
            .finish_non_exhaustive()
    }
}
