//! What a VM is given within its resource pool.

use std::fmt::Display;

use hostler_types::{ChangeWhen, PoolId, VmChange, VmResources, VmResourcesUpdate};

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

/// What changes for the VM within its pool, and at once: the host shares out anew, and the guest sees
/// nothing of it.
pub(super) fn resource_changes(
    old: &VmResources,
    new: &VmResources,
    pool: impl Fn(Option<PoolId>) -> String,
) -> Vec<VmChange> {
    let change = |subject: &str, from: &dyn Display, to: &dyn Display| {
        let (from, to) = (from.to_string(), to.to_string());
        let subject = subject.to_owned();
        (from != to).then_some(VmChange { subject, from, to, when: ChangeWhen::Now, reason: None })
    };
    let changes = [
        change("pool", &pool(old.pool), &pool(new.pool)),
        change("cpu-shares", &old.cpu_shares, &new.cpu_shares),
        change("cpu-reservation", &old.cpu_reservation, &new.cpu_reservation),
        change("memory-shares", &old.memory_shares, &new.memory_shares),
        change("memory-reservation", &old.memory_reservation, &new.memory_reservation),
    ];
    changes.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use hostler_types::{ByteSize, Megahertz, Shares};

    use super::*;

    #[test]
    fn what_changes_in_the_pool_is_told_and_nothing_else() {
        let old = VmResources::default();
        let new = VmResources {
            pool: Some(PoolId::generate()),
            cpu_shares: Shares::High,
            cpu_reservation: Megahertz(500),
            memory_reservation: ByteSize::mib(64),
            ..old.clone()
        };
        let pool = |pool: Option<PoolId>| pool.map_or("cluster", |_| "gold").to_owned();
        let told = resource_changes(&old, &new, pool);
        let told: Vec<_> =
            told.iter().map(|c| format!("{} {} -> {}", c.subject, c.from, c.to)).collect();
        let expected = [
            "pool cluster -> gold",
            "cpu-shares normal -> high",
            "cpu-reservation 0MHz -> 500MHz",
            "memory-reservation 0B -> 64MiB",
        ];
        assert_eq!(told, expected);
        assert_eq!(resource_changes(&new, &new, pool), []);
    }
}
