//! Loops that re-read the world: they have no input, and what they missed they find again.

use std::sync::Arc;

use hostler_tasks::Engine;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::world::Core;

mod baseline;
mod deadlines;
mod drs;
mod hosts;
mod housekeeping;
mod placement;
mod pools;
mod requests;
mod snapshots;

/// The controllers at work.
#[derive(Debug)]
pub(crate) struct Controllers {
    tracker: TaskTracker,
    stopping: CancellationToken,
}

impl Controllers {
    pub(crate) fn start(core: &Arc<Core>, engine: &Engine<Core>) -> Self {
        let (tracker, stopping) = (TaskTracker::new(), CancellationToken::new());
        let hosts = hosts::run(core.clone(), stopping.clone());
        tracker.spawn(hosts);
        let housekeeping = housekeeping::run(core.clone(), engine.clone());
        let deadlines = deadlines::run(core.clone(), engine.clone());
        let requests = requests::run(core.clone(), engine.clone());
        let snapshots = snapshots::run(core.clone(), engine.clone());
        let pools = pools::run(core.clone());
        let (placement, until) = (placement::run(core.clone()), stopping.clone());
        tracker.spawn(async move {
            // Cancel-safe: it writes nothing.
            let _stopped = until.run_until_cancelled(placement).await;
        });
        let (baseline, until) = (baseline::run(core.clone()), stopping.clone());
        tracker.spawn(async move {
            // Cancel-safe: every commit is whole.
            let _stopped = until.run_until_cancelled(baseline).await;
        });
        let drs = drs::run(core.clone(), engine.clone());
        let until = stopping.clone();
        tracker.spawn(async move {
            // Cancel-safe: a task that was handed over is stored and started without us.
            let _stopped = until.run_until_cancelled(drs).await;
        });
        let until = stopping.clone();
        tracker.spawn(async move {
            // Cancel-safe: what a host was not told, it is told after the next start.
            let _stopped = until.run_until_cancelled(pools).await;
        });
        let until = stopping.clone();
        tracker.spawn(async move {
            // Cancel-safe: a task that was handed over is stored and started without us.
            let _stopped = until.run_until_cancelled(snapshots).await;
        });
        let until = stopping.clone();
        tracker.spawn(async move {
            // Cancel-safe: every commit is whole.
            let _stopped = until.run_until_cancelled(housekeeping).await;
        });
        let until = stopping.clone();
        tracker.spawn(async move {
            // Cancel-safe: a task that was handed over is stored and started without us.
            let _stopped = until.run_until_cancelled(deadlines).await;
        });
        let until = stopping.clone();
        tracker.spawn(async move {
            // Cancel-safe, as above.
            let _stopped = until.run_until_cancelled(requests).await;
        });
        tracker.close();
        Self { tracker, stopping }
    }

    pub(crate) async fn stop(self) {
        self.stopping.cancel();
        self.tracker.wait().await;
    }
}
