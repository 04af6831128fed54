//! The cluster: what holds for all its hosts together.

use std::sync::Arc;

use hostler_store::{StoreError, Write};
use hostler_types::{
    BaselineSetting, Cluster, ClusterKind, ClusterUpdate, CpuBaselineReport, Revision, Role,
};

use super::require_revision;
use crate::actor::{Actor, authorize};
use crate::baseline;
use crate::error::ServiceError;
use crate::redact::Shown;
use crate::world::{Core, World};

/// How often a change is made anew because the cluster has just changed.
const ATTEMPTS: usize = 8;

/// # Errors
/// `forbidden`.
pub fn show(world: &World, actor: &Actor) -> Result<Arc<Cluster>, ServiceError> {
    authorize(actor, Role::Viewer, "see the cluster")?;
    Ok(ClusterKind::shown(world.snapshot().cluster()?))
}

/// How the CPU baseline stands: what VMs get that start now, which hosts hold it back or are below it, and which
/// VMs run with something else.
///
/// # Errors
/// `forbidden`.
pub fn cpu_baseline(world: &World, actor: &Actor) -> Result<CpuBaselineReport, ServiceError> {
    authorize(actor, Role::Viewer, "see the cluster's CPU baseline")?;
    let snapshot = world.snapshot();
    let cluster = snapshot.cluster()?;
    Ok(baseline::report(&snapshot, &cluster.spec, cluster.status.cpu_baseline.clone()))
}

/// # Errors
/// `forbidden`, `invalid`, `stale_revision`.
pub async fn update(
    world: &World,
    actor: &Actor,
    request: ClusterUpdate,
    expected: Option<Revision>,
) -> Result<Arc<Cluster>, ServiceError> {
    authorize(actor, Role::Admin, "change the cluster")?;
    for _ in 0..ATTEMPTS {
        let (old, new) = changed(world, &request)?;
        require_revision::<ClusterKind>(&old, expected)?;
        let batch = Core::batch(actor, "cluster.update").with(Write::update(&new));
        match world.commit(batch).await {
            Ok(snapshot) => return Ok(ClusterKind::shown(snapshot.cluster()?)),
            // Its status has changed just now, by hosts: that is nobody's change to be looked at.
            Err(StoreError::Stale { actual, .. }) if expected.is_none() => {
                world.inventory.at_least(actual).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(ServiceError::conflict(
        "contended",
        "the cluster changes faster than this request can be made",
    )
    .hint("try again"))
}

/// The cluster as it is, and as it is to be.
fn changed(
    world: &World,
    request: &ClusterUpdate,
) -> Result<(Arc<Cluster>, Cluster), ServiceError> {
    let old = world.snapshot().cluster()?.clone();
    let mut new = Cluster::clone(&old);
    let spec = &mut new.spec;
    spec.description = request.description.clone().unwrap_or_else(|| old.spec.description.clone());
    spec.strategy = request.strategy.unwrap_or(old.spec.strategy);
    spec.automation = request.automation.unwrap_or(old.spec.automation);
    spec.aggressiveness = request.aggressiveness.unwrap_or(old.spec.aggressiveness);
    let any_at_zero = |asked: Option<u32>, before| match asked {
        Some(0) => None,
        Some(number) => Some(number),
        None => before,
    };
    let percent = request.memory_overcommit_percent;
    spec.memory_overcommit_percent = any_at_zero(percent, old.spec.memory_overcommit_percent);
    spec.vcpus_per_cpu = any_at_zero(request.vcpus_per_cpu, old.spec.vcpus_per_cpu);
    if let Some(baseline) = &request.cpu_baseline {
        let setting = baseline.parse::<BaselineSetting>();
        spec.cpu_baseline =
            setting.map_err(|error| ServiceError::invalid("cpu_baseline", error.to_string()))?;
    }
    spec.validate()?;
    new.status.cpu_baseline = baseline::of(&world.snapshot(), &new.spec);
    Ok((old, new))
}
