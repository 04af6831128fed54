//! The same request with the same key is carried out once.
//!
//! The key is kept, hashed, in the input of the task that the request led to, so it survives a
//! restart and lives as long as its task. Keys belong to who sent them: another user's equal key is
//! another key.

use hostler_types::Task;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, MutexGuard};

use crate::actor::Actor;
use crate::error::ServiceError;
use crate::inventory::Inventory;
use crate::secret;

/// Stored as `request` in a task's input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RequestMark {
    key: String,
    hash: String,
}

/// The hashed key of the request that led to a task.
pub(crate) fn request_key(task: &Task) -> Option<&str> {
    task.spec.input.get("request")?.get("key")?.as_str()
}

/// Lets one request with a key through at a time. Keys share locks, which costs waiting, not
/// correctness.
#[derive(Debug, Default)]
pub(crate) struct KeyLocks {
    locks: [Mutex<()>; 32],
}

/// A request whose key is held until its task is stored.
#[derive(Debug)]
pub(crate) struct KeyedRequest<'a> {
    pub(crate) mark: RequestMark,
    _guard: MutexGuard<'a, ()>,
}

/// What a key says about a request.
#[derive(Debug)]
pub(crate) enum Seen<'a> {
    /// It has no key, or one that was not used before.
    New(Option<KeyedRequest<'a>>),
    /// It led to this task.
    Before(std::sync::Arc<Task>),
}

impl KeyLocks {
    /// Looks a request up by its key.
    ///
    /// # Errors
    /// `idempotency_mismatch`: the key was used for another request.
    pub(crate) async fn look_up(
        &self,
        inventory: &Inventory,
        actor: &Actor,
        key: Option<&str>,
        action: &str,
        request: &impl Serialize,
    ) -> Result<Seen<'_>, ServiceError> {
        let Some(key) = key else { return Ok(Seen::New(None)) };
        if key.is_empty() || key.len() > 255 || key.chars().any(char::is_control) {
            return Err(ServiceError::invalid(
                "Idempotency-Key",
                "a key is 1 to 255 characters, none a control character",
            ));
        }
        let mark = RequestMark::new(actor, key, action, request);
        let slot = usize::from(mark.key.as_bytes()[0]) % self.locks.len();
        let guard = self.locks[slot].lock().await;
        let snapshot = inventory.snapshot();
        let before = snapshot.task_with_key(&mark.key).and_then(|task| snapshot.get(task));
        let Some(task) = before else {
            return Ok(Seen::New(Some(KeyedRequest { mark, _guard: guard })));
        };
        let stored = task.spec.input.get("request").and_then(|request| request.get("hash"));
        if stored.and_then(|hash| hash.as_str()) != Some(mark.hash.as_str()) {
            return Err(ServiceError::conflict(
                "idempotency_mismatch",
                format!(
                    "the idempotency key was used before, for another request: the task {} ({})",
                    task.id(),
                    task.spec.action,
                ),
            )
            .hint("use a new key for a new request"));
        }
        Ok(Seen::Before(task.clone()))
    }
}

impl RequestMark {
    fn new(actor: &Actor, key: &str, action: &str, request: &impl Serialize) -> Self {
        let owner = actor.user.map_or_else(|| actor.name.clone(), |user| user.to_string());
        let request = serde_json::to_string(request).expect("requests have a JSON form");
        Self {
            key: secret::hash(&format!("{owner}\n{key}")),
            hash: secret::hash(&format!("{action}\n{request}")),
        }
    }
}
