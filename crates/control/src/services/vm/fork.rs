//! What is special about instant clones: they begin as their parent is at this moment, so nothing of
//! what a boot would settle can be asked for.

use hostler_store::Write;
use hostler_types::{ByteSize, Hardware, Name, PowerState, Vm, VmClone};

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
    require_own_memory(parent.name(), parent.status.hardware.as_ref())?;
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

/// Memory that was added while it runs is of another kind, which is not shared with clones.
fn require_own_memory(name: &Name, hardware: Option<&Hardware>) -> Result<(), ServiceError> {
    let Some(hardware) = hardware.filter(|it| it.memory > it.boot_memory) else { return Ok(()) };
    let added = ByteSize(hardware.memory.bytes() - hardware.boot_memory.bytes());
    let message = format!(
        "{added} of the memory of vm `{name}` was added while it ran, and added memory cannot be \
         shared with clones"
    );
    Err(ServiceError::conflict("wrong_state", message).hint(format!(
        "`hostler vm stop {name}` and start it again: it then starts with all of its memory; or make \
         linked clones"
    )))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_memory_is_told_before_anything_is_begun() {
        let mut hardware = Hardware {
            cpus: 1,
            max_cpus: 4,
            memory: ByteSize::gib(1),
            boot_memory: ByteSize::gib(1),
            max_memory: ByteSize::gib(4),
            free_ports: 8,
        };
        let name = "web".parse().expect("it is a name");
        assert!(require_own_memory(&name, Some(&hardware)).is_ok());
        assert!(require_own_memory(&name, None).is_ok());
        hardware.memory = ByteSize::gib(3);
        let error = require_own_memory(&name, Some(&hardware)).expect_err("2 GiB were added");
        assert_eq!(error.code, "wrong_state");
        assert!(error.message.starts_with("2GiB of the memory of vm `web`"), "{}", error.message);
    }
}
