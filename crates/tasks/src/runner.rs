//! One task on its way: runs or undoes one step after the other, each end committed before the
//! next begins.
//!
//! The runner alone writes its task's record. Whoever wants to steer the task sends a [`Command`].

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use hostler_store::{Batch, StoreError, Write};
use hostler_types::{KindName, Revision, StepState, Task};
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::context::StepContext;
use crate::definition::{Definition, Outcome, StepError, StepResult};
use crate::engine::Engine;
use crate::error::TaskError;
use crate::live::{Live, Reporter};
use crate::status::{self, Position};

/// The longest wait between two tries.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// How often a step is run again because the objects that it writes were changed meanwhile.
const CONFLICTS: u32 = 20;

#[derive(Debug)]
pub(crate) enum Command {
    Cancel { actor: String, reply: oneshot::Sender<Result<(), TaskError>> },
}

/// The task does not go on in this process; the next one recovers it.
struct Interrupted;

pub(crate) struct Runner<C: Send + Sync + 'static> {
    engine: Engine<C>,
    definition: Arc<Definition<C>>,
    task: Task,
    reporter: Reporter,
    live: watch::Receiver<Live>,
    /// What of the live progress is in the store, and since when.
    stored_sequence: u64,
    stored_at: Instant,
    /// What of it is in the task that is about to be stored.
    reported_sequence: u64,
    commands: mpsc::Receiver<Command>,
    cancelled: CancellationToken,
    ended: watch::Sender<Option<Task>>,
    /// Whether the engine still knows of this runner.
    registered: bool,
    /// Failed tries of the step or undo at work.
    tries: u32,
}

impl<C: Send + Sync + 'static> Runner<C> {
    pub(crate) fn new(
        engine: Engine<C>,
        definition: Arc<Definition<C>>,
        task: Task,
        reporter: Reporter,
        commands: mpsc::Receiver<Command>,
        ended: watch::Sender<Option<Task>>,
    ) -> Self {
        Self {
            engine,
            definition,
            task,
            live: reporter.watch(),
            reporter,
            stored_sequence: 0,
            stored_at: Instant::now(),
            reported_sequence: 0,
            commands,
            cancelled: CancellationToken::new(),
            ended,
            registered: true,
            tries: 0,
        }
    }

    pub(crate) fn task(&self) -> &Task {
        &self.task
    }

    /// Stores the task as it was submitted (or retried).
    pub(crate) async fn store_first(&mut self, batch: Batch) -> Result<Task, StoreError> {
        let committed = self.engine.store().commit(batch).await?;
        self.task.metadata.revision = committed.revision;
        Ok(self.task.clone())
    }

    pub(crate) async fn run(mut self) {
        while self.advance().await.is_ok() {
            if status::position(&self.task.status) == Position::Rest {
                tracing::info!(
                    task = %self.task.name(),
                    target = self.task.spec.target,
                    state = %self.task.status.state,
                    error = self.task.status.error,
                    "the task has ended"
                );
                // Forgotten first: who has waited for a stuck task may retry it at once.
                self.forget();
                self.ended.send_replace(Some(self.task.clone()));
                return;
            }
        }
    }

    /// One step forward or backward, or one failed try.
    async fn advance(&mut self) -> Result<(), Interrupted> {
        if self.engine.stopping().is_cancelled() {
            return Err(Interrupted);
        }
        while let Ok(command) = self.commands.try_recv() {
            self.obey(command).await;
        }
        match status::position(&self.task.status) {
            Position::Run(index) => self.run_step(index).await,
            Position::Undo(index) => self.undo_step(index).await,
            Position::Rest => Ok(()),
        }
    }

    async fn run_step(&mut self, index: usize) -> Result<(), Interrupted> {
        if let Some(error) = self.reason_to_stop() {
            return self.give_up(&error).await;
        }
        match self.execute(index, false).await {
            Ok(outcome) => self.complete(index, outcome).await,
            Err(StepError::Retry { after, message }) => {
                self.reporter.activity(Some(format!("waiting to try again: {message}")));
                self.pause(after).await
            }
            Err(error @ StepError::Failed { .. }) => self.step_failed(index, error).await,
        }
    }

    async fn step_failed(&mut self, index: usize, error: StepError) -> Result<(), Interrupted> {
        if self.past_no_return() {
            return self.failed_try(index, "", &error).await;
        }
        // A step that stopped because it was told to does not know why.
        let stopped =
            matches!(&error, StepError::Failed { code, .. } if code == StepError::CANCELLED);
        let error = self.reason_to_stop().filter(|_| stopped).unwrap_or(error);
        self.give_up(&error).await
    }

    async fn undo_step(&mut self, index: usize) -> Result<(), Interrupted> {
        match self.execute(index, true).await {
            Ok(outcome) => {
                let undoable = self.undoable();
                let mut task = self.reported();
                status::undone(&mut task.status, index, &undoable, Timestamp::now());
                let reason = format!("`{}` undone", self.definition.steps[index].name);
                match self.commit(task, outcome.writes, &reason).await? {
                    Ok(()) => Ok(()),
                    Err(error) => self.failed_try(index, "undoing ", &error).await,
                }
            }
            Err(error) => self.failed_try(index, "undoing ", &error).await,
        }
    }

    /// What must succeed has not: try again later, or wait for an operator.
    async fn failed_try(
        &mut self,
        index: usize,
        doing: &str,
        error: &StepError,
    ) -> Result<(), Interrupted> {
        self.tries += 1;
        let config = self.engine.config();
        let step = self.definition.steps[index].name;
        self.reporter.message(format!("{doing}`{step}` failed: {error}"));
        if self.tries < config.tries {
            let backoff = config.backoff.saturating_mul(1 << (self.tries - 1).min(16));
            let asked = match error {
                StepError::Retry { after, .. } => *after,
                StepError::Failed { .. } => Duration::ZERO,
            };
            return self.pause(backoff.min(LONGEST_BACKOFF).max(asked)).await;
        }
        let reason = format!("{doing}`{step}` has failed {} times: {error}", self.tries);
        let mut task = self.reported();
        status::stuck(&mut task.status, reason);
        self.commit_own(task, "stuck").await
    }

    /// Stores the end of a step, its writes and the next intent.
    async fn complete(&mut self, index: usize, outcome: Outcome) -> Result<(), Interrupted> {
        let name = self.definition.steps[index].name;
        self.reporter.activity(None);
        let mut task = self.reported();
        status::complete(&mut task.status, index, outcome.result, Timestamp::now());
        match self.commit(task, outcome.writes, &format!("`{name}` done")).await? {
            Ok(()) => Ok(()),
            // Its world was changed while it ran: it runs again and sees the new one.
            Err(StepError::Retry { after, .. }) if self.tries < CONFLICTS => {
                self.tries += 1;
                self.pause(after.saturating_mul(self.tries)).await
            }
            Err(StepError::Retry { message, .. }) => {
                self.step_failed(index, StepError::failed("conflict", message)).await
            }
            Err(error) => self.step_failed(index, error).await,
        }
    }

    /// Turns round: from here on the task is undone.
    async fn give_up(&mut self, error: &StepError) -> Result<(), Interrupted> {
        let (code, message) = match error {
            StepError::Failed { code, message } => (code.as_str(), message.as_str()),
            StepError::Retry { message, .. } => (StepError::INTERNAL, message.as_str()),
        };
        self.engine.end_children(self.task.id(), &self.task.spec.actor).await;
        let undoable = self.undoable();
        let mut task = self.reported();
        status::fail(&mut task.status, code, message, &undoable, Timestamp::now());
        self.commit_own(task, &format!("failed: {message}")).await
    }

    /// Runs or undoes a step; meanwhile stores progress, obeys commands and watches the deadline.
    async fn execute(&mut self, index: usize, undo: bool) -> StepResult {
        let step = &self.definition.steps[index];
        let context = StepContext {
            engine: self.engine.clone(),
            task: Arc::new(self.task.clone()),
            step: step.name,
            undo,
            reporter: self.reporter.clone(),
            cancelled: if undo { CancellationToken::new() } else { self.cancelled.clone() },
        };
        let function = match (&step.undo, undo) {
            (_, false) => Arc::clone(&step.run),
            (Some(undo), true) => Arc::clone(undo),
            (None, true) => return Ok(Outcome::none()),
        };
        let work = AssertUnwindSafe(async move { function(context).await }).catch_unwind();
        tokio::pin!(work);
        let may_stop = !undo && !self.past_no_return();
        loop {
            let due = self.progress_due();
            // All branches but the first are cancel-safe; the first is pinned and goes on.
            tokio::select! {
                ended = &mut work => return ended.unwrap_or_else(|panic| Err(panicked(&*panic))),
                Some(command) = self.commands.recv() => self.obey(command).await,
                () = changed(&mut self.live, self.stored_sequence, due) => {
                    self.store_progress().await;
                }
                () = deadline_passes(&self.task, &self.cancelled), if may_stop => {
                    self.cancelled.cancel();
                }
            }
        }
    }

    /// Waits before another try. A cancellation or the deadline ends the wait.
    async fn pause(&mut self, time: Duration) -> Result<(), Interrupted> {
        let until = Instant::now() + time;
        let forward = matches!(status::position(&self.task.status), Position::Run(_));
        let may_stop = forward && !self.past_no_return();
        let stopping = self.engine.stopping().clone();
        let cancelled = self.cancelled.clone();
        loop {
            let due = self.progress_due();
            tokio::select! {
                () = tokio::time::sleep_until(until) => return Ok(()),
                () = stopping.cancelled() => return Err(Interrupted),
                () = cancelled.cancelled(), if may_stop => return Ok(()),
                Some(command) = self.commands.recv() => self.obey(command).await,
                () = changed(&mut self.live, self.stored_sequence, due) => {
                    self.store_progress().await;
                }
                () = deadline_passes(&self.task, &cancelled), if may_stop => cancelled.cancel(),
            }
        }
    }

    async fn obey(&mut self, command: Command) {
        let Command::Cancel { actor, reply } = command;
        let answer = self.cancel(&actor).await;
        // Whoever asked may have gone.
        let _gone = reply.send(answer);
    }

    async fn cancel(&mut self, actor: &str) -> Result<(), TaskError> {
        if self.past_no_return() {
            return Err(TaskError::PastNoReturn { task: self.task.id() });
        }
        let running = matches!(status::position(&self.task.status), Position::Run(_));
        if !running || self.task.status.cancel_requested {
            return Ok(());
        }
        let mut task = self.reported();
        task.status.cancel_requested = true;
        let reason = format!("{}: cancel requested", task.spec.action);
        let batch =
            Batch::new(actor, reason, Timestamp::now()).task(task.id()).with(Write::update(&task));
        let committed = self.engine.store().commit(batch).await?;
        self.stored(task, committed.revision);
        self.cancelled.cancel();
        Ok(())
    }

    /// Why a task that could go forward must not.
    fn reason_to_stop(&self) -> Option<StepError> {
        if self.past_no_return() {
            return None;
        }
        if self.task.status.cancel_requested {
            return Some(StepError::cancelled());
        }
        let deadline = self.task.spec.deadline.filter(|deadline| *deadline <= Timestamp::now())?;
        let message = format!("the task was not done by its deadline, {deadline:.0}");
        Some(StepError::failed(StepError::DEADLINE, message))
    }

    fn past_no_return(&self) -> bool {
        let steps = self.definition.steps.iter().zip(&self.task.status.steps);
        steps.into_iter().any(|(step, record)| {
            step.no_return && matches!(record.state, StepState::Doing | StepState::Done)
        })
    }

    fn undoable(&self) -> Vec<bool> {
        self.definition.steps.iter().map(|step| step.undo.is_some()).collect()
    }

    /// The task with its progress and messages as they are now.
    fn reported(&mut self) -> Task {
        let live = self.reporter.current();
        self.reported_sequence = live.sequence;
        let mut task = self.task.clone();
        task.status.progress = live.progress;
        task.status.messages = live.messages;
        task
    }

    async fn commit_own(&mut self, task: Task, reason: &str) -> Result<(), Interrupted> {
        match self.commit(task, Vec::new(), reason).await? {
            Ok(()) => Ok(()),
            Err(error) => {
                tracing::error!(task = %self.task.name(), %error, "the task could not be stored");
                Err(Interrupted)
            }
        }
    }

    /// Stores `task` with `writes`; an ended task releases its locks. While the store is in trouble
    /// it is tried again; the inner error is a refusal of the writes.
    async fn commit(
        &mut self,
        task: Task,
        writes: Vec<Write>,
        reason: &str,
    ) -> Result<Result<(), StepError>, Interrupted> {
        let id = task.id();
        let unlock = task.status.state.is_terminal().then_some(Write::Unlock { task: id });
        let reason = format!("{}: {reason}", task.spec.action);
        let batch = Batch::new(&task.spec.actor, reason, Timestamp::now())
            .task(id)
            .with_all(writes)
            .with_all(unlock)
            .with(Write::update(&task));
        let mut wait = self.engine.config().backoff;
        loop {
            let error = match self.engine.store().commit(batch.clone()).await {
                Ok(committed) => {
                    self.stored(task, committed.revision);
                    self.tries = 0;
                    return Ok(Ok(()));
                }
                Err(error) => error,
            };
            match error {
                StoreError::Closed => return Err(Interrupted),
                StoreError::Stale { kind: KindName::Task, id: stale, .. }
                    if stale == id.untyped() =>
                {
                    tracing::error!(task = %task.name(), "someone else has written the task");
                    return Err(Interrupted);
                }
                error if error.is_transient() => {
                    tracing::error!(task = %task.name(), %error, "the task waits for the store");
                    let stopping = self.engine.stopping();
                    if stopping.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                        return Err(Interrupted);
                    }
                    wait = wait.saturating_mul(2).min(LONGEST_BACKOFF);
                }
                error => return Ok(Err(error.into())),
            }
        }
    }

    /// Not worth failing for: the next write of the task carries it as well.
    async fn store_progress(&mut self) {
        let task = self.reported();
        let batch = Batch::new(
            &task.spec.actor,
            format!("{}: progress", task.spec.action),
            Timestamp::now(),
        );
        let batch = batch.task(task.id()).with(Write::update(&task));
        match self.engine.store().commit(batch).await {
            Ok(committed) => self.stored(task, committed.revision),
            Err(error) => {
                tracing::warn!(task = %task.name(), %error, "progress could not be stored");
                self.stored_at = Instant::now();
            }
        }
    }

    fn progress_due(&self) -> Instant {
        self.stored_at + self.engine.config().progress_interval
    }

    fn stored(&mut self, task: Task, revision: Revision) {
        self.task = task;
        self.task.metadata.revision = revision;
        self.stored_sequence = self.reported_sequence;
        self.stored_at = Instant::now();
    }

    fn forget(&mut self) {
        if std::mem::take(&mut self.registered) {
            self.engine.forget(self.task.id());
        }
    }
}

impl<C: Send + Sync + 'static> Drop for Runner<C> {
    fn drop(&mut self) {
        self.forget();
    }
}

/// Waits until something is reported that is not stored, and then until it may be.
async fn changed(live: &mut watch::Receiver<Live>, stored: u64, due: Instant) {
    if live.wait_for(|live| live.sequence != stored).await.is_err() {
        // Nobody is left to report anything.
        std::future::pending::<()>().await;
    }
    tokio::time::sleep_until(due).await;
}

/// Ends when the deadline is over; never if there is none or the steps were told already.
async fn deadline_passes(task: &Task, cancelled: &CancellationToken) {
    match task.spec.deadline {
        Some(deadline) if !cancelled.is_cancelled() => {
            let left = Duration::try_from(deadline.duration_since(Timestamp::now()));
            // Negative when it is over.
            tokio::time::sleep(left.unwrap_or(Duration::ZERO)).await;
        }
        _ => std::future::pending().await,
    }
}

fn panicked(panic: &(dyn Any + Send)) -> StepError {
    let text = (panic.downcast_ref::<&str>().copied())
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    tracing::error!(text, "a step panicked");
    StepError::internal(format!("the step panicked: {text}"))
}
