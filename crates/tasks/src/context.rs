//! What a step is given: the world, the task's input, earlier results, and ways to report.

use std::fmt;
use std::sync::Arc;

use hostler_store::{Store, StoreError};
use hostler_types::{
    KindName, ObjectId, OperationId, Progress, StepState, Task, TaskId, TaskKind, TaskState,
};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::definition::StepError;
use crate::engine::Engine;
use crate::error::TaskError;
use crate::ids;
use crate::live::Reporter;
use crate::submit::Submit;

/// Handed to each run and each undo of a step. Cheap to clone.
pub struct StepContext<C> {
    pub(crate) engine: Engine<C>,
    /// As it was when the step began.
    pub(crate) task: Arc<Task>,
    pub(crate) step: &'static str,
    pub(crate) undo: bool,
    pub(crate) reporter: Reporter,
    pub(crate) cancelled: CancellationToken,
}

impl<C: Send + Sync + 'static> StepContext<C> {
    /// What the steps work on.
    pub fn world(&self) -> &Arc<C> {
        self.engine.world()
    }

    /// To read objects. A step's writes belong into its outcome.
    pub fn store(&self) -> &Arc<dyn Store> {
        self.engine.store()
    }

    pub fn task_id(&self) -> TaskId {
        self.task.id()
    }

    pub fn actor(&self) -> &str {
        &self.task.spec.actor
    }

    /// The objects that the task has locked.
    pub fn objects(&self) -> &[ObjectId] {
        &self.task.spec.objects
    }

    pub fn deadline(&self) -> Option<Timestamp> {
        self.task.spec.deadline
    }

    /// # Errors
    /// The input is not a `T`; fails the task as internal.
    pub fn input<T: DeserializeOwned>(&self) -> Result<T, StepError> {
        T::deserialize(&self.task.spec.input).map_err(|error| {
            let action = &self.task.spec.action;
            StepError::internal(format!("the input of {action} cannot be read: {error}"))
        })
    }

    /// What the earlier step `step` has found out.
    ///
    /// # Errors
    /// It is not done, or its result is not a `T`; fails the task as internal.
    pub fn result<T: DeserializeOwned>(&self, step: &str) -> Result<T, StepError> {
        self.result_if_done(step)?
            .ok_or_else(|| StepError::internal(format!("the step `{step}` has no result yet")))
    }

    /// Like [`Self::result`], for an undo: a step that may not have come to its end has none.
    ///
    /// # Errors
    /// The result is not a `T`, or there is no such step.
    pub fn result_if_done<T: DeserializeOwned>(&self, step: &str) -> Result<Option<T>, StepError> {
        let steps = &self.task.status.steps;
        let record = steps.iter().find(|record| record.name == step);
        let record =
            record.ok_or_else(|| StepError::internal(format!("there is no step `{step}`")))?;
        let ended = match record.state {
            StepState::Waiting | StepState::Doing => false,
            StepState::Done => true,
            // Undoing what had not come to its end: there is no result.
            StepState::Undoing | StepState::Undone => !record.result.is_null(),
        };
        if !ended {
            return Ok(None);
        }
        T::deserialize(&record.result).map(Some).map_err(|error| {
            StepError::internal(format!("the result of `{step}` cannot be read: {error}"))
        })
    }

    /// The same each time this step is run (or undone: then another one), also after a crash: an
    /// agent that is given it twice does the work once. It has to record successes only, because a
    /// step that failed there may be tried again under the same id.
    pub fn operation_id(&self) -> OperationId {
        self.operation_id_for("")
    }

    /// For a step that gives several commands: one id per `label`.
    pub fn operation_id_for(&self, label: &str) -> OperationId {
        ids::operation(self.task.id(), self.step, self.undo, label)
    }

    /// How far the whole task is and what it is doing. As often as you like: it is stored at most
    /// twice a second.
    pub fn progress(&self, percent: impl Into<Option<u8>>, activity: impl Into<String>) {
        self.reporter.progress(percent.into(), Some(activity.into()));
    }

    /// Something worth telling whoever looks at the task.
    pub fn message(&self, text: impl Into<String>) {
        self.reporter.message(text.into());
    }

    /// Fires when the task is to stop: it was cancelled or its deadline has passed. A step that
    /// takes long should then return [`StepError::cancelled`]. Never fires during an undo.
    pub fn cancelled(&self) -> &CancellationToken {
        &self.cancelled
    }

    /// Submits a task below this one, once however often the step is repeated, and waits for its
    /// end. `label` tells several children of one step apart. The child may work on what this task
    /// has locked, has this task's deadline unless given its own, and is cancelled with it.
    ///
    /// # Errors
    /// The child could not be submitted, failed (with its code), was cancelled or is stuck.
    pub async fn run_child(&self, label: &str, submit: Submit) -> Result<Task, StepError> {
        self.submit_child(label, submit).await?;
        self.wait_child(label).await
    }

    /// The task below this one that this step has submitted under `label` on its way forward, if
    /// it has: then the world has changed already, and the order must not be planned again. Also
    /// for its undo.
    ///
    /// # Errors
    /// What the store met.
    pub async fn child(&self, label: &str) -> Result<Option<Task>, StepError> {
        let id = ids::child(self.task.id(), self.step, false, label);
        let record = self.engine.store().get(KindName::Task, id.untyped()).await?;
        let task = record.map(|record| record.object::<TaskKind>()).transpose()?;
        Ok(task.filter(|task| task.spec.parent == Some(self.task.id())))
    }

    /// The first half of [`Self::run_child`]; `None` if the child was submitted before.
    ///
    /// # Errors
    /// The child could not be submitted.
    pub async fn submit_child(
        &self,
        label: &str,
        submit: Submit,
    ) -> Result<Option<Task>, StepError> {
        let id = self.child_id(label);
        let mut submit = Submit { id, parent: Some(self.task.id()), ..submit };
        submit.deadline = submit.deadline.or(self.task.spec.deadline);
        match self.engine.submit_below(submit, &self.task.spec.objects).await {
            Ok(task) => Ok(Some(task)),
            // There already: this step is being repeated.
            Err(TaskError::Store(StoreError::Exists { .. })) => Ok(None),
            Err(error) => Err(refused(error)),
        }
    }

    /// The second half of [`Self::run_child`].
    ///
    /// # Errors
    /// The child failed (with its code), was cancelled, is stuck, or was never submitted.
    pub async fn wait_child(&self, label: &str) -> Result<Task, StepError> {
        let child = self.child_id(label);
        let ended = tokio::select! {
            ended = self.engine.wait(child) => ended,
            () = self.cancelled.cancelled() => {
                // It may have ended in the meantime; what it has become is looked at below.
                let _ended = self.engine.cancel(child, &self.task.spec.actor).await;
                self.engine.wait(child).await
            }
        };
        let child = ended.map_err(refused)?;
        if child.status.state == TaskState::Cancelled && self.cancelled.is_cancelled() {
            return Err(StepError::cancelled());
        }
        succeeded(child)
    }

    fn child_id(&self, label: &str) -> TaskId {
        ids::child(self.task.id(), self.step, self.undo, label)
    }

    /// For an undo: the step that failed, the stable code and why.
    pub fn failure(&self) -> Option<(&str, &str, &str)> {
        let status = &self.task.status;
        let begun = status.steps.iter().rfind(|step| step.state != StepState::Waiting)?;
        let (code, error) = (status.error_code.as_deref()?, status.error.as_deref()?);
        Some((&begun.name, code, error))
    }

    /// The progress of this task as it was last reported.
    pub fn current_progress(&self) -> Progress {
        self.reporter.current().progress
    }
}

fn refused(error: TaskError) -> StepError {
    let message = error.to_string();
    match error {
        TaskError::Store(error) => error.into(),
        TaskError::Locked { .. } => StepError::failed("locked", message),
        TaskError::Interrupted { .. } | TaskError::ShuttingDown => {
            StepError::retry(std::time::Duration::from_secs(1), message)
        }
        _ => StepError::internal(message),
    }
}

fn succeeded(child: Task) -> Result<Task, StepError> {
    let name = child.name().clone();
    let why = child.status.error.clone().unwrap_or_default();
    match child.status.state {
        TaskState::Done => Ok(child),
        TaskState::Cancelled => Err(StepError::failed(
            "child_cancelled",
            format!("the task {name} below this one was cancelled"),
        )),
        TaskState::Stuck => Err(StepError::failed(
            "child_stuck",
            format!("the task {name} below this one is stuck: {why}"),
        )),
        TaskState::Failed | TaskState::Pending | TaskState::Running | TaskState::Undoing => {
            let code = child.status.error_code.unwrap_or_else(|| StepError::INTERNAL.to_owned());
            Err(StepError::failed(code, why))
        }
    }
}

impl<C> Clone for StepContext<C> {
    fn clone(&self) -> Self {
        Self {
            engine: self.engine.clone(),
            task: Arc::clone(&self.task),
            step: self.step,
            undo: self.undo,
            reporter: self.reporter.clone(),
            cancelled: self.cancelled.clone(),
        }
    }
}
impl<C> fmt::Debug for StepContext<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepContext")
            .field("task", &self.task.id())
            .field("step", &self.step)
            .field("undo", &self.undo)
            .finish_non_exhaustive()
    }
}
