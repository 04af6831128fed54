//! Keeps the cluster's CPU baseline true to what its hosts have told.

use std::sync::Arc;
use std::time::Duration;

use hostler_store::{StoreError, Write};
use hostler_types::{Cluster, HostKind};

use crate::actor::Actor;
use crate::baseline;
use crate::inventory::Snapshot;
use crate::world::Core;

/// Between two looks: of many hosts that join together not each is looked at alone.
const REST: Duration = Duration::from_millis(200);

pub(super) async fn run(core: Arc<Core>) {
    let mut revisions = core.inventory.revisions();
    let mut seen: Option<Arc<Snapshot>> = None;
    loop {
        revisions.borrow_and_update();
        let snapshot = core.snapshot();
        if seen.as_ref().is_none_or(|seen| may_differ(seen, &snapshot)) {
            match pass(&core, &snapshot).await {
                Ok(()) => seen = Some(snapshot),
                // Somebody changed the cluster: the next look is at what came of it.
                Err(StoreError::Stale { .. }) => {}
                Err(error) => tracing::warn!(%error, "the CPU baseline cannot be kept now"),
            }
        } else {
            seen = Some(snapshot);
        }
        tokio::time::sleep(REST).await;
        if revisions.changed().await.is_err() {
            return;
        }
    }
}

/// Whether a host has come, gone, or told something else of its CPU; or the setting is another.
fn may_differ(old: &Snapshot, new: &Snapshot) -> bool {
    let told = |host: &hostler_types::Host| {
        let facts = host.status.facts.as_ref();
        facts.map(|facts| (facts.guest_cpu.clone(), facts.accelerator))
    };
    let clusters = (old.cluster().ok(), new.cluster().ok());
    let same = clusters.0.map(|own| (&own.spec.cpu_baseline, &own.status))
        == clusters.1.map(|own| (&own.spec.cpu_baseline, &own.status));
    let mut steps = old.all::<HostKind>().steps_to(new.all()).into_iter();
    !same
        || steps.any(|step| {
            step.old.and_then(|host| told(host)) != step.new.and_then(|host| told(host))
        })
}

async fn pass(core: &Core, snapshot: &Snapshot) -> Result<(), StoreError> {
    let Ok(old) = snapshot.cluster() else { return Ok(()) };
    let baseline = baseline::of(snapshot, &old.spec);
    if old.status.cpu_baseline == baseline {
        return Ok(());
    }
    let told = baseline.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
    tracing::info!(baseline = told, "the CPU baseline is another");
    let mut new = Cluster::clone(old);
    new.status.cpu_baseline = baseline;
    let batch = Core::batch(&Actor::system(), format!("cluster.cpu_baseline: {told}"));
    core.commit(batch.with(Write::update(&new))).await.map(drop)
}
