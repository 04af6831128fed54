//! Tasks: every change that takes longer than a moment.

use hostler_endpoint::{Empty, Endpoint, Events, Json, Method, NoParams, Page};
use hostler_types::{ObjectId, Task, TaskId, TaskState};
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

/// Which task.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct TaskPath {
    /// Its id.
    #[param(value_type = String)]
    pub task: TaskId,
}

/// Which ones, and how many at a time. Newest first.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct TaskListQuery {
    /// At most this many, 1 to 10000; absent: 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 10000)]
    pub limit: Option<u32>,
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Only those in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub state: Option<TaskState>,
    /// Only those that have not ended.
    #[serde(default)]
    pub active: bool,
    /// Only those of this action, such as `vm.create`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// Only those that work on the object with this id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub object: Option<ObjectId>,
    /// Only those below the task with this id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub parent: Option<TaskId>,
}

/// List tasks, newest first.
#[derive(Debug)]
pub struct List;

impl Endpoint for List {
    const ID: &'static str = "task_list";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/tasks";
    const SUMMARY: &'static str = "List tasks, newest first";
    const TAG: &'static str = "task";
    const ACCESS: &'static str = "viewer";
    type Path = NoParams;
    type Query = TaskListQuery;
    type Body = Empty;
    type Answer = Json<Page<Task>>;
}
/// Show a task.
#[derive(Debug)]
pub struct Show;

impl Endpoint for Show {
    const ID: &'static str = "task_show";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/tasks/{task}";
    const SUMMARY: &'static str = "Show a task";
    const TAG: &'static str = "task";
    const ACCESS: &'static str = "viewer";
    type Path = TaskPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Task>;

    fn revision(answer: &Task) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}
/// Ask a task to stop and undo what it did.
#[derive(Debug)]
pub struct Cancel;

impl Endpoint for Cancel {
    const ID: &'static str = "task_cancel";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/tasks/{task}/cancel";
    const SUMMARY: &'static str = "Ask a task to stop and undo what it did";
    const TAG: &'static str = "task";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    const REPEATABLE: bool = false;
    type Path = TaskPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Task>;
}
/// Try the undo of a stuck task again.
#[derive(Debug)]
pub struct Retry;

impl Endpoint for Retry {
    const ID: &'static str = "task_retry";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/tasks/{task}/retry";
    const SUMMARY: &'static str = "Try the undo of a stuck task again";
    const TAG: &'static str = "task";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    const REPEATABLE: bool = false;
    type Path = TaskPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Task>;
}
/// Give up a stuck task; what it left stays.
#[derive(Debug)]
pub struct Abandon;

impl Endpoint for Abandon {
    const ID: &'static str = "task_abandon";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/tasks/{task}/abandon";
    const SUMMARY: &'static str = "Give up a stuck task; what it left stays";
    const TAG: &'static str = "task";
    const ACCESS: &'static str = "admin";
    const STATUS: u16 = 202;
    const REPEATABLE: bool = false;
    type Path = TaskPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Task>;
}
/// Follow a task until it ends; the first event is how it stands now.
#[derive(Debug)]
pub struct Watch;

impl Endpoint for Watch {
    const ID: &'static str = "task_watch";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/tasks/{task}/watch";
    const SUMMARY: &'static str =
        "Follow a task until it ends; the first event is how it stands now";
    const TAG: &'static str = "task";
    const ACCESS: &'static str = "viewer";
    type Path = TaskPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Events<Task>;
}
