//! Progress that agents report of long operations, handed to the step that ordered them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use hostler_agent_api::OperationProgress;
use hostler_types::OperationId;

type Listener = Arc<dyn Fn(OperationProgress) + Send + Sync>;

/// Who listens to which operation.
#[derive(Default)]
pub(crate) struct ProgressBoard(Mutex<HashMap<OperationId, Listener>>);

/// Listens until it is dropped.
#[derive(Debug)]
pub(crate) struct Listening<'a> {
    board: &'a ProgressBoard,
    op: OperationId,
}

impl ProgressBoard {
    pub(crate) fn listen(
        &self,
        op: OperationId,
        listener: impl Fn(OperationProgress) + Send + Sync + 'static,
    ) -> Listening<'_> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(op, Arc::new(listener));
        Listening { board: self, op }
    }

    pub(crate) fn tell(&self, progress: OperationProgress) {
        let listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let listener = listeners.get(&progress.op).cloned();
        drop(listeners);
        if let Some(listener) = listener {
            listener(progress);
        }
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.board.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.op);
    }
}

impl fmt::Debug for ProgressBoard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProgressBoard").finish_non_exhaustive()
    }
}
