//! What is special about instant clones: they begin as their parent is at this moment, so nothing of
//! what a boot would settle can be asked for.

use hostler_store::Write;
use hostler_types::{PowerState, Vm, VmClone};

use super::create::expect_image;
use super::require_power;
use crate::error::ServiceError;
use crate::inventory::images;
use crate::services::Order;
use crate::tasks::vm_fork;

/// All begin at once, each in a process of its own.
const MOST: usize = 100;

pub(super) fn require_possible(parent: &Vm, request: &VmClone) -> Result<(), ServiceError> {
    require_power(parent, "cloned as it runs", &[PowerState::Running])?;
    let asked = [
        ("snapshot", request.snapshot.is_some()),
        ("cpus", request.cpus.is_some()),
        ("memory", request.memory.is_some()),
        ("nics", request.nics.is_some()),
        ("customization_spec", request.customization_spec.is_some()),
        ("customization", request.customization.is_some()),
        ("datastore", request.datastore.is_some()),
    ];
    if let Some((field, _)) = asked.into_iter().find(|(_, asked)| *asked) {
        let reason = "an instant clone goes on from where the VM is, as it is";
        return Err(ServiceError::invalid(field, reason)
            .hint("leave it out, or make linked clones, which boot"));
    }
    Ok(())
}

pub(super) fn require_number(count: usize) -> Result<(), ServiceError> {
    if count > MOST {
        let reason = format!("at most {MOST} instant clones are made at once, not {count}");
        return Err(ServiceError::invalid("count", reason));
    }
    Ok(())
}

pub(super) fn order(parent: &Vm, clones: &[Vm]) -> Order {
    let mut order = vm_fork::order(parent, clones);
    order.writes.extend(clones.iter().map(Write::create));
    let mut needed: Vec<_> = clones.iter().flat_map(images).collect();
    needed.sort_unstable();
    needed.dedup();
    order.writes.extend(needed.into_iter().map(expect_image));
    order
}
