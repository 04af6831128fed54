//! Changing a VM's spec and name.
//!
//! The new spec is in the inventory as soon as the request is answered: of two clients that change
//! the same revision, one is refused. The task then tells the host; if the host refuses, the task
//! puts the old spec back.

use std::sync::Arc;

use hostler_policy::cluster::WIDER;
use hostler_store::Write;
use hostler_types::{
    AddressPool, ByteSize, Customization, CustomizationState, Hardware, Host, HostKind, Name,
    NetworkKind, NicAddressing, NicSpec, PoolKind, PowerState, Ref, Revision, Role, Vm, VmChange,
    VmKind, VmSpec, VmUpdate, counted, plan_changes, validate_labels,
};

use super::create::{first_cdrom, migration_terms, name_taken, nics, validate};
use super::mac::ReservedMacs;
use super::resources::{resource_changes, resources};
use super::{require_host, require_idle};
use crate::actor::{Actor, authorize};
use crate::customize::{self, Customizing, GuestWish};
use crate::error::{Class, ServiceError};
use crate::inventory::{Snapshot, images};
use crate::redact::Shown;
use crate::services::naming_rule;
use crate::services::submit::{Ordered, Planned, order_with};
use crate::services::{Changed, Options, require_revision};
use crate::tasks::naming::named_change;
use crate::tasks::vm_update;
use crate::world::World;

/// Changes a VM. A guest that runs gets what it can get; the rest is pending until it is powered
/// off.
///
/// # Errors
/// `forbidden`, `not_found`, `invalid`, `stale_revision`, `wrong_state`, `busy`, `mac_taken`.
pub async fn update(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    request: VmUpdate,
    expected: Option<Revision>,
    options: &Options,
) -> Result<Changed<Vm>, ServiceError> {
    authorize(actor, Role::Operator, "change VMs")?;
    let mut macs = world.macs.begin();
    let mut customizing = world.customizing();
    // The hash of a secret must not be stored.
    let customization = request.customization.clone().map(Customization::redacted);
    let key = (vm, VmUpdate { customization, ..request.clone() });
    let ordered = order_with(world, actor, options, "vm.update", &key, |snapshot| {
        let old = snapshot.find::<VmKind>(vm)?;
        require_revision::<VmKind>(old, expected)?;
        require_idle(snapshot, old)?;
        require_host(snapshot, old)?;
        macs.release();
        customizing.release();
        let mut new = changed(world, snapshot, &mut macs, old, &request)?;
        if let Some(wanted) = &request.nics {
            addresses(snapshot, &mut customizing, old, &mut new, wanted)?;
        }
        require_changeable(old, &new)?;
        let runs = old.status.power.is_live() && old.spec.resources != new.spec.resources;
        let promises = world.admissions.admit(&world.inventory, runs.then_some(&new))?;
        let mut planned = planned(old, new);
        planned.order.promises = promises;
        Ok(planned)
    })
    .await?;
    answer(world, vm, ordered)
}

/// What [`update`] would do: each change, when it would reach the guest, and why not sooner.
///
/// # Errors
/// As [`update`], but for `busy`.
pub fn plan(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    request: &VmUpdate,
) -> Result<Vec<VmChange>, ServiceError> {
    authorize(actor, Role::Operator, "change VMs")?;
    let snapshot = world.snapshot();
    let mut macs = world.macs.begin();
    let old = snapshot.find::<VmKind>(vm)?;
    let new = changed(world, &snapshot, &mut macs, old, request)?;
    require_changeable(old, &new)?;
    let hardware = old.status.hardware.filter(|_| old.status.power.is_live());
    let mut plan = asked_changes(&old.spec, &new.spec, hardware.as_ref());
    plan.extend(resource_changes(&old.spec.resources, &new.spec.resources, |pool| {
        let pool = pool.and_then(|pool| snapshot.get::<PoolKind>(pool));
        pool.map_or("the cluster itself".to_owned(), |pool| pool.name().to_string())
    }));
    Ok(plan.into_iter().map(|change| named_change(&snapshot, change)).collect())
}

/// What a change from `old` to `new` changes of a VM that runs with `hardware`, without what an earlier
/// change has asked for and waits.
fn asked_changes(old: &VmSpec, new: &VmSpec, hardware: Option<&Hardware>) -> Vec<VmChange> {
    let mut running = old.clone();
    if let Some(hardware) = hardware {
        running.cpus = hardware.cpus.try_into().unwrap_or(running.cpus);
        running.memory = hardware.memory;
    }
    let waiting = plan_changes(&running, old, hardware);
    let mut plan = plan_changes(&running, new, hardware);
    let waits = |change: &VmChange| {
        waiting.iter().any(|known| known.subject == change.subject && known.to == change.to)
    };
    plan.retain(|change| !waits(change));
    plan
}

/// Gives a VM another name. Its host name is what it was customised with.
///
/// # Errors
/// `forbidden`, `not_found`, `name_taken`, `stale_revision`, `busy`.
pub async fn rename(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    name: Name,
    expected: Option<Revision>,
    options: &Options,
) -> Result<Changed<Vm>, ServiceError> {
    authorize(actor, Role::Operator, "rename VMs")?;
    let ordered = order_with(world, actor, options, "vm.rename", &(vm, &name), |snapshot| {
        let old = snapshot.find::<VmKind>(vm)?;
        require_revision::<VmKind>(old, expected)?;
        require_idle(snapshot, old)?;
        require_host(snapshot, old)?;
        let holder = snapshot.all::<VmKind>().get_by_name(&name);
        if holder.is_some_and(|holder| holder.id() != old.id()) {
            return Err(name_taken(&name));
        }
        naming_rule::require_allowed(snapshot, &name, &old.metadata.labels)?;
        let mut new = Vm::clone(old);
        new.metadata.name = name.clone();
        Ok(planned(old, new))
    })
    .await?;
    answer(world, vm, ordered)
}

/// Memory that is saved expects the machine it was saved from.
pub(super) fn require_changeable(old: &Vm, new: &Vm) -> Result<(), ServiceError> {
    let power = old.status.power;
    let settled = match power {
        PowerState::Running | PowerState::Paused | PowerState::Stopped | PowerState::Failed => true,
        PowerState::Creating
        | PowerState::Starting
        | PowerState::Stopping
        | PowerState::Suspending
        | PowerState::Suspended
        | PowerState::Unknown => false,
    };
    if settled || plan_changes(&old.spec, &new.spec, None).is_empty() {
        return Ok(());
    }
    let name = old.name();
    let message = format!(
        "vm `{name}` is {power}: only labels, description, protection and restart policy change now"
    );
    let hint = match power {
        PowerState::Suspended => format!("`hostler vm resume {name}`, then try again"),
        _ => "try again when it runs or is stopped".to_owned(),
    };
    Err(ServiceError::conflict("wrong_state", message).hint(hint))
}

fn planned(old: &Arc<Vm>, new: Vm) -> Planned<VmKind> {
    let mut order = vm_update::order(old);
    order.writes.push(Write::update(&new));
    order.writes.extend(images(&new).map(|i| Write::ExpectUnlocked { object: i.untyped() }));
    Planned { order, object: Arc::new(new), explanation: Vec::new() }
}

fn answer(
    world: &World,
    reference: &Ref,
    ordered: Ordered<VmKind>,
) -> Result<Changed<Vm>, ServiceError> {
    let task = match ordered {
        Ordered::New(changed) => return Ok(changed),
        Ordered::Before(task) => task,
    };
    let snapshot = world.snapshot();
    let by_task = task.spec.objects.first().and_then(|id| snapshot.get::<VmKind>(id.typed()));
    let vm =
        by_task.ok_or_else(|| ServiceError::not_found(hostler_types::KindName::Vm, reference))?;
    Ok(Changed {
        object: VmKind::shown(vm),
        task: Some(task),
        explanation: Vec::new(),
        explained: Vec::new(),
    })
}

fn changed(
    world: &World,
    snapshot: &Snapshot,
    macs: &mut ReservedMacs<'_>,
    old: &Vm,
    request: &VmUpdate,
) -> Result<Vm, ServiceError> {
    let mut new = old.clone();
    if let Some(labels) = &request.labels {
        validate_labels(labels)
            .map_err(|reason| ServiceError::invalid_as_told("labels", reason))?;
        naming_rule::require_allowed_anew(snapshot, old.name(), &old.metadata.labels, labels)?;
        new.metadata.labels = labels.clone();
    }
    let spec = &mut new.spec;
    set(&mut spec.description, request.description.as_ref());
    set(&mut spec.cpus, request.cpus.as_ref());
    set(&mut spec.memory, request.memory.as_ref());
    set_or_clear(&mut spec.max_memory, request.max_memory);
    set_or_clear(&mut spec.balloon, request.balloon);
    match request.cpu_limit {
        Some(0) => spec.cpu_limit = None,
        Some(limit) => {
            let limit = limit.try_into();
            spec.cpu_limit =
                Some(limit.map_err(|reason| ServiceError::invalid_as_told("cpu_limit", reason))?);
        }
        None => {}
    }
    spec.resources = resources(snapshot, spec.resources.clone(), &request.resources)?;
    set(&mut spec.automation, request.automation.map(Into::into).as_ref());
    spec.migration = migration_terms(request.migration, spec.migration)?;
    set(&mut spec.firmware, request.firmware.as_ref());
    set(&mut spec.boot_order, request.boot_order.as_ref());
    set(&mut spec.restart, request.restart.as_ref());
    set(&mut spec.protected, request.protected.as_ref());
    if let Some(limits) = request.snapshot_limits {
        limits.validate()?;
        spec.snapshot_limits = limits;
    }
    if let Some(customization) = &request.customization {
        let before = spec.customization.as_deref();
        let mut sealed = customize::sealed(&world.vault, customization, before)?;
        if before.is_some_and(|before| *before != sealed) && !is_applied(old) {
            // What the guest was told before, if anything, is to be told anew.
            sealed.run = sealed.run.saturating_add(1);
        }
        spec.customization = Some(Box::new(sealed));
    }
    if let Some(wanted) = &request.nics {
        spec.nics = nics(snapshot, macs, old.id(), Some(&kept_macs(old, wanted)))?;
    }
    if let Some(iso) = &request.iso {
        let iso = match iso.as_str() {
            "" => None,
            text => Some(
                text.parse::<Ref>()
                    .map_err(|error| ServiceError::invalid("iso", error.to_string()))?,
            ),
        };
        first_cdrom(snapshot, &mut spec.cdroms, iso.as_ref())?;
    }
    validate(spec)?;
    fits(snapshot, &new)?;
    Ok(new)
}

/// Whether the guest has proved to be what it was told. Then it is told something else only when
/// that is asked for (`vm customize`).
fn is_applied(vm: &Vm) -> bool {
    let status = vm.status.customization.as_ref();
    status.is_some_and(|status| status.state == CustomizationState::Applied)
}

/// A NIC that stays on its network keeps its address, unless another is asked for. One that goes to
/// another network gets an address there as it had one here: of the pool, if it had one of the pool and
/// there is one, else by DHCP. A static address that was chosen by hand belongs to the old network only.
fn addresses(
    snapshot: &Snapshot,
    customizing: &mut Customizing<'_>,
    old: &Vm,
    new: &mut Vm,
    wanted: &[hostler_types::VmNic],
) -> Result<(), ServiceError> {
    let mut addressing: Vec<_> = wanted.iter().map(|nic| nic.address.clone()).collect();
    addressing.resize(new.spec.nics.len(), None);
    for (nic, addressing) in new.spec.nics.iter_mut().zip(&mut addressing) {
        let before = old.spec.nics.iter().find(|before| before.name == nic.name);
        let Some(before) = before else { continue };
        if before.network == nic.network {
            nic.address.clone_from(&before.address);
        } else if addressing.is_none() && is_of_pool(snapshot, before) && has_pool(snapshot, nic) {
            *addressing = Some(NicAddressing::Pool);
        }
    }
    let wish = GuestWish {
        vm: old.id(),
        name: old.name(),
        called: None,
        spec: None,
        over: None,
        addressing: &addressing,
    };
    customizing.resolve(snapshot, &wish, &mut new.spec.nics).map(drop)
}

fn pool_of<'a>(snapshot: &'a Snapshot, nic: &NicSpec) -> Option<&'a AddressPool> {
    snapshot.get::<NetworkKind>(nic.network)?.spec.pool()
}

fn has_pool(snapshot: &Snapshot, nic: &NicSpec) -> bool {
    pool_of(snapshot, nic).is_some()
}

fn is_of_pool(snapshot: &Snapshot, nic: &NicSpec) -> bool {
    let range = pool_of(snapshot, nic).map(|pool| pool.range);
    range.zip(nic.address.as_ref()).is_some_and(|(range, had)| range.contains(had.address))
}

fn set<T: Clone>(field: &mut T, new: Option<&T>) {
    if let Some(new) = new {
        *field = new.clone();
    }
}

/// A size of 0 takes the setting away.
fn set_or_clear(field: &mut Option<ByteSize>, new: Option<ByteSize>) {
    match new {
        Some(ByteSize(0)) => *field = None,
        Some(size) => *field = Some(size),
        None => {}
    }
}

/// A NIC that stays under its name keeps its address.
fn kept_macs(old: &Vm, wanted: &[hostler_types::VmNic]) -> Vec<hostler_types::VmNic> {
    let keep = |(index, nic): (usize, &hostler_types::VmNic)| {
        let mut nic = nic.clone();
        let default = format!("nic{index}");
        let name = nic.name.as_ref().map_or(default.as_str(), Name::as_str);
        let before = old.spec.nics.iter().find(|old| old.name.as_str() == name);
        nic.mac = nic.mac.or(before.map(|before| before.mac));
        nic
    };
    wanted.iter().enumerate().map(keep).collect()
}

/// Refuses what its host could never run.
fn fits(snapshot: &Snapshot, vm: &Vm) -> Result<(), ServiceError> {
    let host = snapshot.find::<HostKind>(&Ref::by_id(vm.status.host))?;
    let Some(facts) = &host.status.facts else { return Ok(()) };
    let too_much = |message: String| {
        Err(ServiceError::new(Class::NoCapacity, "no_capacity", message).hint("ask for less"))
    };
    // As in placement.
    let (cpus, own) = (vm.spec.cpus.count(), counted(facts.cpus, "CPU"));
    if cpus > facts.cpus
        && let Some(wider) = wider_than(snapshot, facts.cpus)
    {
        let refused = format!("host `{}` has {own}, {cpus} are asked for", host.name());
        return Err(ServiceError::new(Class::NoCapacity, "no_capacity", refused).hint(format!(
            "ask for less, or move it first, such as to host `{}` (`hostler vm migrate`)",
            wider.name()
        )));
    }
    let most = facts.cpus.saturating_mul(WIDER);
    if cpus > most {
        return too_much(format!(
            "host `{}` has {own}, enough for VMs of up to {most}; {cpus} are asked for",
            host.name()
        ));
    }
    if vm.spec.memory > facts.memory {
        let (has, asked) = (facts.memory, vm.spec.memory);
        return too_much(format!(
            "host `{}` has {has} of memory, {asked} are asked for",
            host.name()
        ));
    }
    Ok(())
}

/// The host with the most CPUs, if it has more than these.
fn wider_than(snapshot: &Snapshot, cpus: u32) -> Option<&Arc<Host>> {
    let hosts = snapshot.all::<HostKind>();
    let cpus_of = |host: &&Arc<Host>| host.status.facts.as_ref().map_or(0, |facts| facts.cpus);
    hosts.iter().max_by_key(cpus_of).filter(|host| cpus_of(host) > cpus)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_waits_already_is_not_told_as_if_it_were_asked_for() {
        let spec = |cpus: u32, memory: &str| -> VmSpec {
            let spec = json!({"cpus": cpus, "memory": memory, "disks": []});
            serde_json::from_value(spec).expect("it is a spec")
        };
        let hardware = Hardware {
            cpus: 1,
            max_cpus: 2,
            memory: ByteSize::gib(1),
            boot_memory: ByteSize::gib(1),
            max_memory: ByteSize::gib(4),
            free_ports: 8,
        };
        let check = |old: &VmSpec, new: &VmSpec, expected: &[(&str, &str)]| {
            let plan = asked_changes(old, new, Some(&hardware));
            let told: Vec<_> =
                plan.iter().map(|it| (it.subject.as_str(), it.to.as_str())).collect();
            assert_eq!(told, expected);
        };
        // 4 CPUs wait for a power-off since before.
        let old = spec(4, "1GiB");
        check(&old, &spec(4, "2GiB"), &[("memory", "2GiB")]);
        check(&old, &spec(4, "1GiB"), &[]);
        check(&old, &spec(3, "1GiB"), &[("cpus", "3")]);
        check(&spec(1, "1GiB"), &spec(4, "1GiB"), &[("cpus", "4")]);
    }
}
