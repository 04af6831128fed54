//! Removes what is over: old finished tasks and requests, tokens and join tokens that have expired.

use std::sync::Arc;
use std::time::Duration;

use hostler_store::{Batch, Write};
use hostler_tasks::Engine;
use hostler_types::{JoinTokenKind, RequestKind, TokenKind};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::world::Core;

const INTERVAL: Duration = Duration::from_secs(3600);
const AFTER_START: Duration = Duration::from_secs(60);
/// Finished tasks stay for so long, and idempotency keys with them,
const TASK_LIFE: SignedDuration = SignedDuration::from_hours(24 * 30);
/// or longer, as long as there are no more than these.
const TASKS_KEPT: usize = 1000;
/// What has expired stays visible for a while, so that people can see why something was refused.
const GRACE: SignedDuration = SignedDuration::from_hours(24 * 7);
/// Requests that have ended stay for so long.
const REQUEST_LIFE: SignedDuration = SignedDuration::from_hours(24 * 180);
/// Objects deleted in one transaction.
const CHUNK: usize = 100;

pub(super) async fn run(core: Arc<Core>, engine: Engine<Core>) {
    // Not while the server has better things to do.
    let mut interval = tokio::time::interval_at(Instant::now() + AFTER_START, INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let now = Timestamp::now();
        match engine.prune_finished(now - TASK_LIFE, TASKS_KEPT).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "old tasks were deleted"),
            Err(error) => tracing::warn!(%error, "old tasks could not be deleted"),
        }
        for chunk in expired(&core, now).chunks(CHUNK) {
            let batch = Batch::new("system", "what is over is deleted", now);
            if let Err(error) = core.commit(batch.with_all(chunk.iter().cloned())).await {
                tracing::warn!(%error, "what is over could not be deleted");
            }
        }
    }
}

fn expired(core: &Core, now: Timestamp) -> Vec<Write> {
    let (snapshot, before) = (core.snapshot(), now - GRACE);
    let requests = snapshot.all::<RequestKind>().iter().filter(|request| {
        !request.status.state.is_open() && request.status.since < now - REQUEST_LIFE
    });
    let tokens = snapshot.all::<TokenKind>().iter();
    let tokens = tokens.filter(|token| token.spec.expires_at.is_some_and(|at| at < before));
    let join_tokens = snapshot.all::<JoinTokenKind>().iter();
    let join_tokens = join_tokens.filter(|token| token.spec.expires_at < before);
    tokens
        .map(|token| Write::delete(token))
        .chain(join_tokens.map(|token| Write::delete(token)))
        .chain(requests.map(|request| Write::delete(request)))
        .collect()
}
