//! What the engine refuses.

use hostler_store::StoreError;
use hostler_types::{ObjectId, TaskId, TaskState};

#[derive(Debug, Clone, thiserror::Error)]
pub enum TaskError {
    #[error("there is no task action `{0}`")]
    UnknownAction(String),
    #[error("the object {object} is busy: the task {by} ({action}) holds it")]
    Locked { object: ObjectId, by: TaskId, action: String },
    #[error("there is no task {0}")]
    NotFound(TaskId),
    #[error("the task {task} is already {state}")]
    Finished { task: TaskId, state: TaskState },
    #[error("the task {task} is {state}, not stuck")]
    NotStuck { task: TaskId, state: TaskState },
    #[error("the task {task} is stuck; retry or abandon it")]
    Stuck { task: TaskId },
    #[error("the task {task} has passed the point of no return and can only be completed")]
    PastNoReturn { task: TaskId },
    #[error("the task {task} is not running here; it goes on when the server has started again")]
    Interrupted { task: TaskId },
    #[error("the server is shutting down and takes no new tasks")]
    ShuttingDown,
    #[error("the store did not take the task")]
    Store(#[from] StoreError),
}
