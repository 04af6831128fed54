//! Durable tasks, as they are stored and shown. The engine is in the crate `tasks`.
//!
//! ```text
//!  pending -> running -> done
//!                |  \
//!                |   cancelling (asked) -> undoing
//!                v
//!             undoing -> failed | cancelled
//!                |
//!                v
//!              stuck -> (retry) undoing · (abandon) failed
//! ```

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::{ObjectId, TaskId};
use crate::object::{Kind, KindName, Object};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskKind;
pub type Task = Object<TaskKind>;

impl Kind for TaskKind {
    const NAME: KindName = KindName::Task;
    const SCHEMA: &'static str = "Task";
    type Spec = TaskSpec;
    type Status = TaskStatus;
}

/// What was ordered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskSpec {
    /// Such as `vm.create`.
    pub action: String,
    /// What it works on, for people: `vm/web01`.
    pub target: String,
    /// Objects it has locked while it runs.
    pub objects: Vec<ObjectId>,
    /// Who ordered it: a user's name, `root` (Unix socket) or `system`.
    pub actor: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<TaskId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub deadline: Option<Timestamp>,
    /// The engine's business; not shown by the API.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    #[schema(ignore)]
    pub input: serde_json::Value,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskStatus {
    pub state: TaskState,
    pub steps: Vec<StepRecord>,
    #[serde(default)]
    pub progress: Progress,
    /// What it found worth telling, oldest first; at most 100.
    #[serde(default)]
    pub messages: Vec<TaskMessage>,
    #[serde(default)]
    pub cancel_requested: bool,
    /// Why it failed or is being undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Why it is stuck; absent in every other state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck: Option<String>,
    /// The stable code of that error, as in problem details.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    Pending,
    Running,
    Undoing,
    Done,
    Failed,
    Cancelled,
    /// An undo keeps failing: an operator must retry or abandon it.
    Stuck,
}

impl TaskState {
    pub const TERMINAL: [Self; 3] = [Self::Done, Self::Failed, Self::Cancelled];

    pub fn is_terminal(self) -> bool {
        Self::TERMINAL.contains(&self)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Undoing => "undoing",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Stuck => "stuck",
        }
    }
}
impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StepRecord {
    pub name: String,
    pub state: StepState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    /// When it was done, or undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
    /// What the step found out, for the steps after it and for its undo; not shown by the API.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    #[schema(ignore)]
    pub result: serde_json::Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum StepState {
    Waiting,
    /// Its intent is written: it may have happened, wholly, partly or not.
    Doing,
    Done,
    Undoing,
    Undone,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// 0 to 100; absent while unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
    /// What is being done now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activity: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskMessage {
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    pub text: String,
}
