//! Operations of VMs that can be ended before their time. Their actors hear of nothing else meanwhile,
//! so they are told through here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use hostler_types::OperationId;
use tokio_util::sync::CancellationToken;

use crate::fault::Fault;

/// The operations that run now. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cancels(Arc<Mutex<HashMap<OperationId, CancellationToken>>>);

impl Cancels {
    /// Does `work` until it ends or the operation is cancelled; it is dropped then.
    ///
    /// # Errors
    /// That of `work`, or [`Fault::Cancelled`].
    pub(crate) async fn unless_cancelled<T>(
        &self,
        op: OperationId,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        let (token, _known) = self.begin(op);
        tokio::select! {
            biased;
            () = token.cancelled() => Err(Fault::Cancelled),
            done = work => done,
        }
    }

    /// Whether such an operation runs; it ends soon then.
    pub(crate) fn cancel(&self, op: OperationId) -> bool {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let token = table.get(&op);
        token.inspect(|token| token.cancel()).is_some()
    }

    fn begin(&self, op: OperationId) -> (CancellationToken, Known) {
        let token = CancellationToken::new();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(op, token.clone());
        (token, Known { cancels: self.clone(), op })
    }
}

struct Known {
    cancels: Cancels,
    op: OperationId,
}

impl Drop for Known {
    fn drop(&mut self) {
        self.cancels.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.op);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cancelled_operation_is_dropped_and_forgotten() {
        let (cancels, op) = (Cancels::default(), OperationId::generate());
        assert!(!cancels.cancel(op));
        let work = cancels.unless_cancelled(op, std::future::pending::<Result<(), Fault>>());
        let cancel = async { assert!(cancels.cancel(op)) };
        let (ended, ()) = tokio::join!(work, cancel);
        assert!(matches!(ended, Err(Fault::Cancelled)));
        assert!(!cancels.cancel(op), "it is known no more");
    }
}
