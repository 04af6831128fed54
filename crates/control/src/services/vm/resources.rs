//! What a VM is given within its resource pool.

use hostler_types::{VmResources, VmResourcesUpdate};

use crate::error::ServiceError;
use crate::inventory::Snapshot;
use crate::pools;

/// What a VM has, with what is asked for.
///
/// # Errors
/// `not_found`.
pub(super) fn resources(
    snapshot: &Snapshot,
    before: VmResources,
    asked: &VmResourcesUpdate,
) -> Result<VmResources, ServiceError> {
    let mut resources = before;
    if let Some(pool) = &asked.pool {
        resources.pool = pools::named(snapshot, pool)?;
    }
    let VmResourcesUpdate {
        cpu_shares, cpu_reservation, memory_shares, memory_reservation, ..
    } = asked;
    resources.cpu_shares = cpu_shares.unwrap_or(resources.cpu_shares);
    resources.cpu_reservation = cpu_reservation.unwrap_or(resources.cpu_reservation);
    resources.memory_shares = memory_shares.unwrap_or(resources.memory_shares);
    resources.memory_reservation = memory_reservation.unwrap_or(resources.memory_reservation);
    Ok(resources)
}
