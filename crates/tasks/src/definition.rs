//! What a task consists of: its steps, each with a way back.
//!
//! A file that defines a task begins with its steps, like a table of contents:
//!
//! ```ignore
//! pub fn definition() -> Definition<World> {
//!     Definition::new("vm.create")
//!         // The epoch comes first: an agent obeys only its VM's owner.
//!         .step(Step::new("reserve", reserve).undo(unreserve))
//!         .step(Step::new("make-disks", make_disks).undo(delete_disks))
//! }
//!
//! async fn reserve(step: StepContext<World>) -> StepResult { … }
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use hostler_store::{StoreError, Write};
use serde::Serialize;
use serde_json::Value;

use crate::context::StepContext;

/// All actions that an engine knows.
pub struct Registry<C> {
    definitions: BTreeMap<&'static str, Arc<Definition<C>>>,
}

impl<C> Registry<C> {
    pub fn new() -> Self {
        Self { definitions: BTreeMap::new() }
    }

    /// # Panics
    /// When the action is there already, or the definition has no steps or two of one name.
    #[must_use]
    pub fn with(mut self, definition: Definition<C>) -> Self {
        definition.check();
        let action = definition.action;
        let replaced = self.definitions.insert(action, Arc::new(definition));
        assert!(replaced.is_none(), "the action {action} is defined twice");
        self
    }

    /// For faults on purpose.
    #[cfg(feature = "harness")]
    #[must_use]
    pub(crate) fn replacing(mut self, definition: Definition<C>) -> Self {
        self.definitions.insert(definition.action, Arc::new(definition));
        self
    }

    pub fn get(&self, action: &str) -> Option<&Arc<Definition<C>>> {
        self.definitions.get(action)
    }

    pub fn actions(&self) -> impl Iterator<Item = &'static str> {
        self.definitions.keys().copied()
    }
}

/// One kind of task: an action such as `vm.create` and its steps, in order.
pub struct Definition<C> {
    pub action: &'static str,
    pub steps: Vec<Step<C>>,
}

impl<C> Definition<C> {
    pub const fn new(action: &'static str) -> Self {
        Self { action, steps: Vec::new() }
    }

    #[must_use]
    pub fn step(mut self, step: Step<C>) -> Self {
        self.steps.push(step);
        self
    }

    fn check(&self) {
        assert!(!self.steps.is_empty(), "{} has no steps", self.action);
        for (index, step) in self.steps.iter().enumerate() {
            let seen = self.steps[..index].iter().any(|earlier| earlier.name == step.name);
            assert!(!seen, "{} has two steps `{}`", self.action, step.name);
        }
    }
}

pub(crate) type StepFunction<C> =
    Arc<dyn Fn(StepContext<C>) -> BoxFuture<'static, StepResult> + Send + Sync>;

/// One step: what it does and how it is undone.
pub struct Step<C> {
    pub name: &'static str,
    pub(crate) run: StepFunction<C>,
    pub(crate) undo: Option<StepFunction<C>>,
    pub(crate) no_return: bool,
}

impl<C> Step<C> {
    /// `run` may be called again after it has happened wholly or partly (the process died before
    /// the result was stored); it then ends as if it had run once.
    pub fn new<F, R>(name: &'static str, run: F) -> Self
    where
        F: Fn(StepContext<C>) -> R + Send + Sync + 'static,
        R: Future<Output = StepResult> + Send + 'static,
    {
        Self { name, run: boxed(run), undo: None, no_return: false }
    }

    /// `undo` may be called when `run` has happened wholly, partly or not at all, and again after
    /// itself. A step without undo changes nothing that would have to be undone.
    #[must_use]
    pub fn undo<F, R>(mut self, undo: F) -> Self
    where
        F: Fn(StepContext<C>) -> R + Send + Sync + 'static,
        R: Future<Output = StepResult> + Send + 'static,
    {
        self.undo = Some(boxed(undo));
        self
    }

    /// From the moment that this step begins, the task only goes forward: it cannot be cancelled,
    /// its deadline no longer counts, and a step that fails is tried again until the task is stuck.
    /// For what cannot be undone, such as deleting a disk.
    #[must_use]
    pub fn no_return(mut self) -> Self {
        self.no_return = true;
        self
    }
}

fn boxed<C, F, R>(function: F) -> StepFunction<C>
where
    F: Fn(StepContext<C>) -> R + Send + Sync + 'static,
    R: Future<Output = StepResult> + Send + 'static,
{
    Arc::new(move |context| function(context).boxed())
}

pub type StepResult = Result<Outcome, StepError>;

/// What a step leaves behind; stored in one transaction with the step's end.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// For the steps after it and for its undo. Keep it small.
    pub result: Value,
    pub writes: Vec<Write>,
}

impl Outcome {
    /// Nothing to tell and nothing to write.
    pub fn none() -> Self {
        Self::default()
    }

    /// # Panics
    /// When `result` has no JSON form; the step then counts as failed.
    pub fn of<T: Serialize + ?Sized>(result: &T) -> Self {
        let result = serde_json::to_value(result).expect("the result of a step has a JSON form");
        Self { result, writes: Vec::new() }
    }

    #[must_use]
    pub fn with(mut self, write: Write) -> Self {
        self.writes.push(write);
        self
    }

    #[must_use]
    pub fn with_all(mut self, writes: impl IntoIterator<Item = Write>) -> Self {
        self.writes.extend(writes);
        self
    }
}

/// Why a step has not been done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// It cannot be done: the task is undone. The code is stable, as in problem details.
    #[error("{message}")]
    Failed { code: String, message: String },
    /// Not now, or not known whether: the step is run again after this time.
    #[error("{message}")]
    Retry { after: Duration, message: String },
}

impl StepError {
    /// The code of a task that was cancelled.
    pub const CANCELLED: &str = "cancelled";
    /// The code of a task whose deadline has passed.
    pub const DEADLINE: &str = "deadline";
    /// The code of what is our fault, such as a panic.
    pub const INTERNAL: &str = "internal";

    pub fn failed(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Failed { code: code.into(), message: message.into() }
    }

    pub fn retry(after: Duration, message: impl Into<String>) -> Self {
        Self::Retry { after, message: message.into() }
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::failed(Self::INTERNAL, message)
    }

    /// For a step that has seen [`StepContext::cancelled`] and has stopped. Whether the task was
    /// cancelled or is beyond its deadline is the engine's to say.
    pub fn cancelled() -> Self {
        Self::failed(Self::CANCELLED, "the task was cancelled")
    }
}

/// Trouble of the store itself and a stale revision are tried again; a refusal fails the step.
impl From<StoreError> for StepError {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::NameTaken { .. } => "name_taken",
            StoreError::NotFound { .. } => "not_found",
            StoreError::Locked { .. } => "locked",
            StoreError::Stale { .. } => {
                return Self::retry(Duration::from_millis(20), error.to_string());
            }
            error if error.is_transient() => {
                return Self::retry(Duration::from_secs(1), error.to_string());
            }
            _ => Self::INTERNAL,
        };
        Self::failed(code, error.to_string())
    }
}

impl<C> Default for Registry<C> {
    fn default() -> Self {
        Self::new()
    }
}
impl<C> Clone for Step<C> {
    fn clone(&self) -> Self {
        Self {
            name: self.name,
            run: Arc::clone(&self.run),
            undo: self.undo.clone(),
            no_return: self.no_return,
        }
    }
}
impl<C> Clone for Definition<C> {
    fn clone(&self) -> Self {
        Self { action: self.action, steps: self.steps.clone() }
    }
}
impl<C> Clone for Registry<C> {
    fn clone(&self) -> Self {
        Self { definitions: self.definitions.clone() }
    }
}
impl<C> fmt::Debug for Registry<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.definitions.keys()).finish()
    }
}
impl<C> fmt::Debug for Definition<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Definition")
            .field("action", &self.action)
            .field("steps", &self.steps)
            .finish()
    }
}
impl<C> fmt::Debug for Step<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step")
            .field("name", &self.name)
            .field("has_undo", &self.undo.is_some())
            .field("no_return", &self.no_return)
            .finish_non_exhaustive()
    }
}
