//! Keeps what placement decides on near the inventory, and tells it what the hosts have measured.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::world::Core;

const PERIOD: Duration = Duration::from_secs(10);
/// It may take this part of the time: a twentieth.
const PART: u32 = 20;

pub(super) async fn run(core: Arc<Core>) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (own, begin) = (core.clone(), Instant::now());
        // Of many VMs it takes longer than others should have to wait.
        let refreshing = tokio::task::spawn_blocking(move || own.placement.refresh(&own.inventory));
        if let Err(error) = refreshing.await {
            tracing::error!(%error, "placement does not follow the inventory");
        }
        tokio::time::sleep((begin.elapsed() * PART).saturating_sub(PERIOD)).await;
    }
}
