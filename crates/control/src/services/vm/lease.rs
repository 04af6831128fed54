//! How long VMs may stay.

use std::sync::Arc;

use hostler_store::{StoreError, Write};
use hostler_types::{Lease, Ref, Role, Vm, VmKind};
use jiff::Timestamp;

use super::require_idle;
use crate::actor::{Actor, authorize};
use crate::error::ServiceError;
use crate::redact::Shown;
use crate::world::{Core, World};

/// What a lease is to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// As long as the one before, from now on.
    Again,
    /// So many seconds from now on.
    For(u64),
    /// The VM may stay for ever.
    Never,
}

/// Gives a VM a lease, renews the one it has, or takes it away.
///
/// # Errors
/// `forbidden`, `not_found`, `invalid`, `recycled`, `busy`.
pub async fn renew(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    renewal: Renewal,
) -> Result<Arc<Vm>, ServiceError> {
    authorize(actor, Role::Operator, "renew leases")?;
    const ATTEMPTS: usize = 8;
    for _ in 0..ATTEMPTS {
        let snapshot = world.snapshot();
        let old = snapshot.find::<VmKind>(vm)?;
        require_idle(&snapshot, old)?;
        let mut new = Vm::clone(old);
        let seconds = match (renewal, &old.spec.lease) {
            (Renewal::Never, _) => None,
            (Renewal::For(seconds), _) => Some(seconds),
            (Renewal::Again, Some(lease)) => Some(lease.seconds),
            (Renewal::Again, None) => {
                let message = format!("vm `{}` has no lease: it stays for ever", old.name());
                return Err(ServiceError::invalid_as_told("seconds", message)
                    .hint("say for how long, to give it one"));
            }
        };
        let lease = |seconds| Lease::begin(seconds, world.settings.lease_grace, Timestamp::now());
        new.spec.lease = seconds.map(lease).transpose()?;
        let batch = Core::batch(actor, "vm.renew")
            .with(Write::ExpectUnlocked { object: new.id().untyped() })
            .with(Write::update(&new));
        match world.commit(batch).await {
            Ok(snapshot) => return Ok(VmKind::shown(snapshot.find(&new.reference())?)),
            // Its host has just reported something.
            Err(StoreError::Stale { actual, .. }) => {
                world.inventory.at_least(actual).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(ServiceError::conflict("contended", "it changes faster than it can be renewed")
        .hint("try again"))
}

/// Refuses to start what has to be renewed first.
pub(super) fn require_lease(vm: &Vm) -> Result<(), ServiceError> {
    match &vm.spec.lease {
        Some(lease) if lease.is_over(Timestamp::now()) => {
            let (name, end) = (vm.name(), lease.expires_at);
            Err(ServiceError::conflict(
                "lease_over",
                format!("the lease of vm `{name}` ended at {end:.0}"),
            )
            .hint(format!("renew it with `hostler vm renew {name}`")))
        }
        _ => Ok(()),
    }
}
