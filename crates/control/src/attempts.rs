//! Under which operation id a command is given that was refused before.
//!
//! An agent's refusal is final *for that operation*: it is answered again to whoever asks again. A
//! step that is tried again (an undo, or a step past the point of no return) must therefore ask
//! anew. After a broken connection it must not: nobody knows what has happened.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use hostler_types::OperationId;

/// How often each operation was refused. In memory: after a restart the first refusal is heard
/// once more, and then it goes on.
#[derive(Debug, Default)]
pub(crate) struct Attempts(Mutex<HashMap<OperationId, u32>>);

impl Attempts {
    pub(crate) fn refused(&self, operation: OperationId) {
        let mut attempts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *attempts.entry(operation).or_default() += 1;
    }

    pub(crate) fn done(&self, operation: OperationId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&operation);
    }

    pub(crate) fn count(&self, operation: OperationId) -> u32 {
        let attempts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        attempts.get(&operation).copied().unwrap_or_default()
    }
}
