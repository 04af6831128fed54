//! An order for a task, and the task as it is stored first.

use hostler_store::Write;
use hostler_types::{Labels, Metadata, Name, Object, ObjectId, Revision, Task, TaskId, TaskSpec};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use crate::status;

/// An order for a task.
#[derive(Debug, Clone)]
pub struct Submit {
    /// Generated; set it to be able to name the task in `writes`.
    pub id: TaskId,
    /// Such as `vm.create`; must be in the registry.
    pub action: String,
    /// What it works on, for people: `vm/web01`.
    pub target: String,
    /// Locked until the task ends.
    pub objects: Vec<ObjectId>,
    pub actor: String,
    pub input: Value,
    pub parent: Option<TaskId>,
    pub deadline: Option<Timestamp>,
    /// Carried out together with the submission, such as the creation of the VM's record.
    pub writes: Vec<Write>,
}

impl Submit {
    /// # Panics
    /// When `input` has no JSON form.
    pub fn new<T: Serialize + ?Sized>(
        action: impl Into<String>,
        target: impl Into<String>,
        actor: impl Into<String>,
        input: &T,
    ) -> Self {
        Self {
            id: TaskId::generate(),
            action: action.into(),
            target: target.into(),
            objects: Vec::new(),
            actor: actor.into(),
            input: serde_json::to_value(input).expect("the input of a task has a JSON form"),
            parent: None,
            deadline: None,
            writes: Vec::new(),
        }
    }

    #[must_use]
    pub fn object(mut self, object: ObjectId) -> Self {
        self.objects.push(object);
        self
    }

    #[must_use]
    pub fn deadline(mut self, deadline: Timestamp) -> Self {
        self.deadline = Some(deadline);
        self
    }

    #[must_use]
    pub fn with(mut self, write: Write) -> Self {
        self.writes.push(write);
        self
    }

    /// The task as it is stored first.
    pub(crate) fn task(&self, steps: &[&str], now: Timestamp) -> Task {
        let metadata = Metadata {
            id: self.id,
            name: name_of(&self.action, self.id),
            labels: Labels::new(),
            generation: 1,
            revision: Revision(0),
            created_at: now,
            updated_at: now,
        };
        let spec = TaskSpec {
            action: self.action.clone(),
            target: self.target.clone(),
            objects: self.objects.clone(),
            actor: self.actor.clone(),
            parent: self.parent,
            deadline: self.deadline,
            input: self.input.clone(),
        };
        Object { metadata, spec, status: status::submitted(steps, now) }
    }
}

/// `vm-create-` and the random end of the id.
fn name_of(action: &str, id: TaskId) -> Name {
    let simple = id.uuid().simple().to_string();
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let action: String = action.chars().take(40).map(letter).collect();
    let name = format!("{}-{}", action.trim_start_matches('-'), &simple[20..]);
    name.parse().unwrap_or_else(|_| {
        format!("task-{}", &simple[20..]).parse().expect("hexadecimal digits make a name")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_task_tells_its_action() {
        let id: TaskId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        for (action, name) in [
            ("vm.create", "vm-create-b302099a8057"),
            ("VM_Create", "vm-create-b302099a8057"),
            ("..", "b302099a8057"),
        ] {
            let made = name_of(action, id).to_string();
            assert!(made.ends_with(name), "{action}: {made}");
        }
        assert!(name_of(&"x".repeat(100), id).as_str().len() <= 63);
    }
}
