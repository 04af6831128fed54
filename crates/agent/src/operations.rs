//! Long operations that are not a VM's: each id runs once, whoever asks how often.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use hostler_endpoint::Problem;
use hostler_types::OperationId;
use tokio_util::sync::CancellationToken;

use crate::fault::Fault;

/// Ended operations whose answer is still known.
const REMEMBERED: usize = 64;

type Running<T> = Shared<BoxFuture<'static, Result<T, Problem>>>;

/// Operations that run, and the last ones that ended.
#[derive(Clone)]
pub(crate) struct Operations<T>(Arc<Mutex<Table<T>>>);

struct Table<T> {
    running: HashMap<OperationId, (CancellationToken, Running<T>)>,
    ended: VecDeque<(OperationId, Result<T, Problem>)>,
}

impl<T: Clone + Send + Sync + 'static> Operations<T> {
    pub(crate) fn new() -> Self {
        let table = Table { running: HashMap::new(), ended: VecDeque::new() };
        Self(Arc::new(Mutex::new(table)))
    }

    /// The answer of the operation: remembered, or awaited with whoever else waits for it, or found
    /// by running `work`. It runs to its end when every caller goes away; a cancelled one is
    /// dropped at its next wait.
    pub(crate) async fn once<F>(
        &self,
        op: OperationId,
        work: impl FnOnce() -> F,
    ) -> Result<T, Problem>
    where
        F: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        let running = {
            let mut table = self.lock();
            if let Some((_, answer)) = table.ended.iter().find(|(ended, _)| *ended == op) {
                return answer.clone();
            }
            match table.running.get(&op) {
                Some((_, running)) => running.clone(),
                None => {
                    let token = CancellationToken::new();
                    let running = self.spawn(op, token.clone(), work());
                    table.running.insert(op, (token, running.clone()));
                    running
                }
            }
        };
        running.await
    }

    /// Cancels an operation; whether it was running.
    pub(crate) fn cancel(&self, op: OperationId) -> bool {
        let table = self.lock();
        let running = table.running.get(&op);
        if let Some((token, _)) = running {
            token.cancel();
        }
        running.is_some()
    }

    fn spawn<F>(&self, op: OperationId, token: CancellationToken, work: F) -> Running<T>
    where
        F: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        let table = self.clone();
        let task = tokio::spawn(async move {
            let result = tokio::select! {
                biased;
                () = token.cancelled() => Err(Fault::Cancelled),
                result = work => result,
            };
            let answer = result.map_err(Problem::from);
            table.end(op, answer.clone());
            answer
        });
        let ended = self.clone();
        async move {
            task.await.unwrap_or_else(|error| {
                let problem: Problem = Fault::internal("an operation", &error).into();
                ended.end(op, Err(problem.clone()));
                Err(problem)
            })
        }
        .boxed()
        .shared()
    }

    fn end(&self, op: OperationId, answer: Result<T, Problem>) {
        let mut table = self.lock();
        table.running.remove(&op);
        table.ended.push_back((op, answer));
        if table.ended.len() > REMEMBERED {
            table.ended.pop_front();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> std::fmt::Debug for Operations<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Operations")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_same_operation_runs_once() {
        let (operations, op) = (Operations::new(), OperationId::generate());
        let count = Arc::new(AtomicU32::new(0));
        let work = || {
            let count = count.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Ok(count.fetch_add(1, Ordering::Relaxed))
            }
        };
        let (first, second) = tokio::join!(operations.once(op, work), operations.once(op, work));
        assert_eq!((first, second), (Ok(0), Ok(0)));
        assert_eq!(operations.once(op, work).await, Ok(0));
        assert_eq!(operations.once(OperationId::generate(), work).await, Ok(1));
    }

    #[tokio::test]
    async fn a_cancelled_operation_says_so() {
        let (operations, op) = (Operations::<()>::new(), OperationId::generate());
        let waiting = tokio::spawn({
            let operations = operations.clone();
            async move { operations.once(op, futures::future::pending).await }
        });
        while !operations.cancel(op) {
            tokio::task::yield_now().await;
        }
        assert_eq!(waiting.await.unwrap().unwrap_err().code, "cancelled");
        assert!(!operations.cancel(op));
    }
}
