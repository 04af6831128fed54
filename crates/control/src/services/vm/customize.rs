//! Customizing a VM's guest anew.

use std::sync::Arc;

use hostler_store::Write;
use hostler_types::{Customization, NicAddressing, PowerState, Ref, Role, Task, Vm, VmKind};
use serde::Serialize;

use super::{require_host, require_idle};
use crate::actor::{Actor, authorize};
use crate::customize::{self, Customizing, GuestWish};
use crate::error::ServiceError;
use crate::inventory::Snapshot;
use crate::services::Options;
use crate::services::submit::order;
use crate::tasks::vm_customize;
use crate::world::World;

/// What the guest is to be told.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct VmCustomize {
    /// A customization spec; absent: what the VM was told before.
    pub spec: Option<Ref>,
    /// Laid over it.
    pub customization: Option<Customization>,
    /// For each NIC; absent: as the spec says, else as it is.
    pub addresses: Vec<Option<NicAddressing>>,
    /// Stop a running guest and start it again, so that it is told now.
    pub reboot: bool,
}

/// Tells a guest anew who it is, at its next start: it takes itself for a new instance.
///
/// # Errors
/// `forbidden`, `not_found`, `invalid`, `wrong_state`, `busy`, `address_taken`, `pool_exhausted`.
pub async fn customize(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    request: VmCustomize,
    options: &Options,
) -> Result<Arc<Task>, ServiceError> {
    authorize(actor, Role::Operator, "customize VMs")?;
    let over = request.customization.as_ref();
    // The hash of a secret must not be stored.
    let key = VmCustomize {
        customization: over.cloned().map(Customization::redacted),
        ..request.clone()
    };
    let mut customizing = world.customizing();
    order(world, actor, options, "vm.customize", &(vm, key), |snapshot| {
        let old = snapshot.find::<VmKind>(vm)?;
        require_idle(snapshot, old)?;
        require_host(snapshot, old)?;
        require_possible(old)?;
        customizing.release();
        let new = told_anew(world, snapshot, &mut customizing, old, &request)?;
        let reboot = request.reboot && old.status.power.is_live();
        let mut order = vm_customize::order(old, reboot);
        order.writes.push(Write::update(&new));
        Ok(order)
    })
    .await
}

fn told_anew(
    world: &World,
    snapshot: &Snapshot,
    customizing: &mut Customizing<'_>,
    old: &Vm,
    request: &VmCustomize,
) -> Result<Vm, ServiceError> {
    let mut new = old.clone();
    let before = old.spec.customization.as_deref();
    let over = request.customization.as_ref();
    let over = over.map(|over| customize::sealed(&world.vault, over, before)).transpose()?;
    let wish = GuestWish {
        vm: old.id(),
        name: old.name(),
        called: before.and_then(|before| before.hostname.as_ref()),
        spec: request.spec.as_ref(),
        over: over.as_ref(),
        addressing: &request.addresses,
    };
    let resolved = customizing.resolve(snapshot, &wish, &mut new.spec.nics)?;
    let mut customization = match (resolved, before, &request.spec) {
        // Without a spec, it is laid over what the guest was told before.
        (Some(over), Some(before), None) => customize::overlay(before.clone(), over),
        (Some(resolved), _, _) => resolved,
        (None, Some(before), _) => before.clone(),
        (None, None, _) => Customization::default(),
    };
    customization.run = before.map_or(0, |before| before.run).saturating_add(1);
    new.spec.customization = Some(Box::new(customization));
    if new.spec.nics != old.spec.nics && old.status.power.is_live() {
        let name = old.name();
        let message = format!("vm `{name}` runs, and its addresses would change");
        return Err(ServiceError::conflict("wrong_state", message)
            .hint(format!("stop it first with `hostler vm stop {name}`")));
    }
    super::create::validate(&new.spec)?;
    Ok(new)
}

fn require_possible(vm: &Vm) -> Result<(), ServiceError> {
    let (name, power) = (vm.name(), vm.status.power);
    let (why, hint) = match power {
        PowerState::Suspended => (
            "a suspended guest goes on where it was and is told nothing",
            format!("resume it with `hostler vm resume {name}` first"),
        ),
        PowerState::Unknown | PowerState::Creating => {
            ("its host has to say first what it does", format!("see `hostler vm show {name}`"))
        }
        _ => return Ok(()),
    };
    let message = format!("vm `{name}` is {power}: {why}");
    Err(ServiceError::conflict("wrong_state", message).hint(hint))
}
