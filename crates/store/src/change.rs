//! One entry of the change log.

use hostler_types::{KindName, Name, ObjectId, Revision, TaskId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::record::Record;

/// What was changed, from what, to what, when, by whom, why and by which task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Its place in the log: 1, 2, 3, … without gaps.
    pub revision: Revision,
    pub at: Timestamp,
    pub kind: KindName,
    pub id: ObjectId,
    /// The name after the change; before it, for a deletion.
    pub name: Name,
    /// Absent for a creation, and always for tasks: they change often, and the entry before tells.
    pub old: Option<Record>,
    /// Absent for a deletion.
    pub new: Option<Record>,
    pub actor: String,
    pub reason: String,
    pub task: Option<TaskId>,
    /// Whether its commit ends with it: between two changes of one commit there is no state that
    /// anybody meant.
    pub ends: bool,
}
