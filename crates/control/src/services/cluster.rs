//! The cluster: what holds for all its hosts together.

use std::sync::Arc;

use hostler_store::Write;
use hostler_types::{Cluster, ClusterKind, ClusterUpdate, Revision, Role};

use super::require_revision;
use crate::actor::{Actor, authorize};
use crate::error::ServiceError;
use crate::redact::Shown;
use crate::world::{Core, World};

/// # Errors
/// `forbidden`.
pub fn show(world: &World, actor: &Actor) -> Result<Arc<Cluster>, ServiceError> {
    authorize(actor, Role::Viewer, "see the cluster")?;
    Ok(ClusterKind::shown(world.snapshot().cluster()?))
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
    let old = world.snapshot().cluster()?.clone();
    require_revision::<ClusterKind>(&old, expected)?;
    let mut new = Cluster::clone(&old);
    let spec = &mut new.spec;
    spec.description = request.description.unwrap_or_else(|| old.spec.description.clone());
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
    spec.validate()?;
    let batch = Core::batch(actor, "cluster.update").with(Write::update(&new));
    let snapshot = world.commit(batch).await?;
    Ok(ClusterKind::shown(snapshot.cluster()?))
}
