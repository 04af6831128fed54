//! What VMs and hosts were measured to use, and what they have to do without. Nothing of it is stored:
//! it is what their hosts told last.

use hostler_types::{HostFacts, HostId, HostKind, HostStats, Ref, Role, Vm, VmKind, VmStats};

use crate::actor::{Actor, authorize};
use crate::error::ServiceError;
use crate::inventory::Snapshot;
use crate::world::World;

/// # Errors
/// `forbidden`, `not_found`.
pub fn vm(world: &World, actor: &Actor, vm: &Ref) -> Result<VmStats, ServiceError> {
    authorize(actor, Role::Viewer, "see VMs")?;
    let snapshot = world.snapshot();
    Ok(of_vm(world, &snapshot, snapshot.find::<VmKind>(vm)?))
}

/// A host and its VMs that have been measured.
///
/// # Errors
/// `forbidden`, `not_found`.
pub fn host(world: &World, actor: &Actor, host: &Ref) -> Result<HostStats, ServiceError> {
    authorize(actor, Role::Viewer, "see hosts")?;
    let snapshot = world.snapshot();
    let host = snapshot.find::<HostKind>(host)?;
    let vms = snapshot.vms_on(host.id()).map(|vm| of_vm(world, &snapshot, vm));
    let mut vms: Vec<VmStats> = vms.filter(|stats| stats.used.is_some()).collect();
    vms.sort_by(|a, b| {
        b.cpu_ready_permille.cmp(&a.cpu_ready_permille).then_with(|| a.name.cmp(&b.name))
    });
    let used = world.demands.host_use(host.id());
    Ok(HostStats { host: host.id(), name: host.name().to_string(), used, vms })
}

fn of_vm(world: &World, snapshot: &Snapshot, vm: &Vm) -> VmStats {
    let host = vm.status.host;
    let seen = world.demands.seen(host, vm.id(), mhz(snapshot, host));
    let seen = seen.filter(|_| vm.status.power.is_live());
    VmStats {
        vm: vm.id(),
        name: vm.called().to_string(),
        used: seen.map(|seen| seen.used),
        demand: seen.map(|seen| seen.demand),
        demand_hour: seen.map(|seen| seen.demand_hour),
        cpu_ready_permille: seen.map(|seen| seen.ready_permille),
    }
}

fn mhz(snapshot: &Snapshot, host: HostId) -> u64 {
    let facts = snapshot.get::<HostKind>(host).and_then(|host| host.status.facts.as_ref());
    facts.map_or_else(HostFacts::default_mhz, |facts| facts.mhz_per_cpu).into()
}
