//! Ids that come out the same each time they are derived, so that a repeated step repeats the same
//! operation instead of ordering another.

use hostler_types::{Id, OperationId, TaskId};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The id of what `step` of `task` orders from an agent; running and undoing have different ones.
pub(crate) fn operation(task: TaskId, step: &str, undo: bool, label: &str) -> OperationId {
    let direction = if undo { "undo" } else { "run" };
    Id::from_uuid(derive(task, &["operation", step, direction, label]))
}

/// The id of the child that `step` of `task` submits under `label`.
pub(crate) fn child(task: TaskId, step: &str, undo: bool, label: &str) -> TaskId {
    let direction = if undo { "undo" } else { "run" };
    Id::from_uuid(derive(task, &["child", step, direction, label]))
}

/// A UUIDv7 with the time of the task's id, so that it sorts beside it, and a digest where there
/// would be randomness.
fn derive(task: TaskId, parts: &[&str]) -> Uuid {
    let base = task.uuid();
    let mut digest = Sha256::new_with_prefix(base.as_bytes());
    for part in parts {
        digest.update(part.len().to_be_bytes());
        digest.update(part);
    }
    let digest = digest.finalize();
    let mut bytes = *base.as_bytes();
    bytes[6..].copy_from_slice(&digest[..10]);
    bytes[6] = (bytes[6] & 0x0f) | 0x70;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    Uuid::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_ids_are_stable_and_all_different() {
        let task = TaskId::generate();
        let ids = [
            operation(task, "disk", false, "").uuid(),
            operation(task, "disk", true, "").uuid(),
            operation(task, "disk", false, "b").uuid(),
            operation(task, "diskb", false, "").uuid(),
            operation(TaskId::generate(), "disk", false, "").uuid(),
            child(task, "disk", false, "").uuid(),
        ];
        for (index, id) in ids.iter().enumerate() {
            assert_eq!(id.get_version_num(), 7);
            assert!(!ids[..index].contains(id), "{index} is not new");
        }
        assert_eq!(operation(task, "disk", false, "").uuid(), ids[0]);
        assert_eq!(ids[0].get_timestamp(), task.uuid().get_timestamp());
    }
}
