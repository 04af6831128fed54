//! Moving a VM to another host.
//!
//! Everything that would stop it is found before anything moves, and told at once.

use std::sync::Arc;

use hostler_types::{
    DatastoreId, DatastoreKind, DatastoreState, Host, HostId, HostKind, HostState, ImageKind,
    MigrationPolicy, MigrationTerms, Name, NetworkId, NetworkKind, NetworkSpec, PowerState, Ref,
    Role, Task, Vm, VmKind,
};
use serde::Serialize;

use super::files::expect;
use super::migrate_storage::migrate_storage;
use super::{require_host, require_idle};
use crate::actor::{Actor, authorize};
use crate::error::{Class, ServiceError};
use crate::inventory::{Snapshot, images};
use crate::machine;
use crate::move_forecast::{self, Move};
use crate::services::host::require_connected;
use crate::services::submit::{Ordered, Planned, order_with};
use crate::services::{Options, Order};
use crate::tasks::vm_migrate::{self, Input};
use crate::world::World;

/// How a VM is to be moved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VmMigrate {
    /// Absent: where placement would put it; or where it is, with `datastore`.
    pub host: Option<Ref>,
    /// Its files go there; absent: they stay where they are.
    pub datastore: Option<Ref>,
    /// How long its guest may stand still, in milliseconds: 1 to 60,000; absent: as the VM says.
    pub downtime_ms: Option<u64>,
    /// Bytes a second.
    pub max_bandwidth: Option<u64>,
    /// Absent: as the VM says.
    pub policy: Option<MigrationPolicy>,
}

/// What became of it.
#[derive(Debug)]
pub struct Migration {
    /// The host that the VM goes to.
    pub host: Name,
    /// The datastore that its files go to; absent: they stay where they are.
    pub datastore: Option<Name>,
    /// Absent when it was a dry run.
    pub task: Option<Arc<Task>>,
    pub explanation: Vec<String>,
}

/// Moves a VM to another host: one that runs goes on running, of one that is off only the owner changes.
/// A dry run tells where it would go.
///
/// # Errors
/// `forbidden`, `not_found`, `invalid`, `wrong_state`, `not_movable`, `no_capacity`, `busy`,
/// `host_disconnected`.
pub async fn migrate(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    request: &VmMigrate,
    options: &Options,
) -> Result<Migration, ServiceError> {
    authorize(actor, Role::Operator, "move VMs")?;
    if request.datastore.is_some() {
        return migrate_storage(world, actor, vm, request, options).await;
    }
    let told = MigrationTerms { downtime_ms: request.downtime_ms, policy: request.policy };
    told.validate().map_err(|reason| ServiceError::invalid_as_told("downtime_ms", reason))?;
    if request.max_bandwidth == Some(0) {
        let reason = "0 is no speed; leave it out for no limit";
        return Err(ServiceError::invalid("max_bandwidth", reason));
    }
    let (mut planned, mut expected) = (None, None);
    let ordered = order_with(world, actor, options, "vm.migrate", &(vm, request), |snapshot| {
        let vm = snapshot.find::<VmKind>(vm)?;
        require_idle(snapshot, vm)?;
        require_host(snapshot, vm)?;
        let live = is_live(vm)?;
        let terms = told.or(vm.spec.migration);
        let (downtime_ms, policy) = (terms.downtime(), terms.policy.unwrap_or_default());
        let (host, mut explanation) = target(world, snapshot, vm, live, request.host.as_ref())?;
        explanation.push(match live {
            true => format!(
                "its guest goes on running, and may stand still for {downtime_ms} ms{} ({policy} if \
                 that cannot be kept)",
                if told.downtime_ms.is_none() && vm.spec.migration.downtime_ms.is_some() {
                    ", as the VM says"
                } else {
                    ""
                }
            ),
            false => "it is off: only its owner changes, nothing is copied".to_owned(),
        });
        planned = Some(host.id());
        let planned_move =
            Move { vm: vm.id(), to: host.id(), budget_ms: downtime_ms, max_bandwidth: request.max_bandwidth };
        expected = live.then_some((planned_move, policy));
        let input = Input {
            vm: vm.id(),
            from: vm.status.host,
            to: host.id(),
            epoch: vm.status.epoch,
            live,
            max_bandwidth: request.max_bandwidth,
            downtime_ms,
            policy,
        };
        let mut order = vm_migrate::order(vm, &input);
        order.writes.push(expect(vm));
        let mut moved = Vm::clone(vm);
        moved.status.host = host.id();
        Ok(Planned { order, object: Arc::new(moved), explanation })
    })
    .await?;
    let (task, mut explanation) = match ordered {
        Ordered::New(changed) => (changed.task, changed.explanation),
        Ordered::Before(task) => (Some(task), Vec::new()),
    };
    if let Some((planned, policy)) = expected.filter(|_| options.dry_run) {
        explanation.extend(foretold(world, planned, policy).await);
    }
    // The same request of before has not been planned anew.
    let to = planned.or_else(|| Some(Input::of(task.as_ref()?)?.to));
    let to = to.map_or_else(|| vm.clone(), Ref::by_id);
    let host = world.snapshot().find::<HostKind>(&to)?.name().clone();
    Ok(Migration { host, datastore: None, task, explanation })
}

/// How long it would take, and what follows from that, in sentences.
async fn foretold(world: &World, planned: Move, policy: MigrationPolicy) -> Vec<String> {
    let snapshot = world.snapshot();
    let Some(vm) = snapshot.get::<VmKind>(planned.vm) else { return Vec::new() };
    let measured = match world.link(vm.status.host) {
        Ok(source) => move_forecast::of_move(&snapshot, source.as_ref(), planned)
            .await
            .map_err(|error| error.to_string()),
        Err(error) => Err(error.message),
    };
    match measured {
        Ok(Some(forecast)) => {
            let then = move_forecast::consequence(forecast, planned.budget_ms, policy);
            [Some(format!("expected: {forecast}")), then].into_iter().flatten().collect()
        }
        Ok(None) => Vec::new(),
        Err(error) => vec![format!("how long it would take could not be measured: {error}")],
    }
}

/// The move of a VM to a host that a plan has chosen, if nothing but rules and room is in its way:
/// those are the plan's to look at.
///
/// # Errors
/// `wrong_state`, `not_movable`, `busy`, `host_disconnected`.
pub(crate) fn chosen(snapshot: &Snapshot, vm: &Vm, to: HostId) -> Result<Order, ServiceError> {
    require_idle(snapshot, vm)?;
    require_host(snapshot, vm)?;
    let live = is_live(vm)?;
    let host = snapshot.find::<HostKind>(&Ref::by_id(to))?;
    require_connected(host)?;
    let obstacles = obstacles(snapshot, vm, host, live);
    if !obstacles.is_empty() {
        let (name, host) = (vm.name(), host.name());
        let message = format!("vm `{name}` cannot go to host `{host}`: {}", obstacles.join("; "));
        return Err(ServiceError::conflict("not_movable", message));
    }
    let input = Input {
        vm: vm.id(),
        from: vm.status.host,
        to,
        epoch: vm.status.epoch,
        live,
        max_bandwidth: None,
        downtime_ms: vm.spec.migration.downtime(),
        policy: vm.spec.migration.policy.unwrap_or_default(),
    };
    let mut order = vm_migrate::order(vm, &input);
    order.writes.push(expect(vm));
    Ok(order)
}

pub(super) fn is_live(vm: &Vm) -> Result<bool, ServiceError> {
    let (name, power) = (vm.name(), vm.status.power);
    let hint = match power {
        PowerState::Running => return Ok(true),
        PowerState::Stopped | PowerState::Failed => return Ok(false),
        PowerState::Suspended | PowerState::Paused => {
            format!("go on with it first: `hostler vm resume {name}`")
        }
        _ => "try again when it is running or stopped".to_owned(),
    };
    let message =
        format!("vm `{name}` is {power}, and is moved only when it is running or stopped");
    Err(ServiceError::conflict("wrong_state", message).hint(hint))
}

/// Where it goes, and why.
fn target<'a>(
    world: &World,
    snapshot: &'a Snapshot,
    vm: &Vm,
    live: bool,
    asked: Option<&Ref>,
) -> Result<(&'a Arc<Host>, Vec<String>), ServiceError> {
    if let Some(asked) = asked {
        let host = snapshot.find::<HostKind>(asked)?;
        let name = vm.name();
        if host.id() == vm.status.host {
            let message = format!("vm `{name}` is on host `{}` already", host.name());
            return Err(ServiceError::conflict("wrong_state", message));
        }
        require_connected(host)?;
        let obstacles = obstacles(snapshot, vm, host, live);
        if !obstacles.is_empty() {
            let message = format!(
                "vm `{name}` cannot go to host `{}`: {}",
                host.name(),
                obstacles.join("; ")
            );
            return Err(ServiceError::conflict("not_movable", message)
                .hint("leave out --host to have one chosen on which it can run"));
        }
    }
    let here = vm.status.host;
    let (mut possible, mut reasons) = (Vec::new(), Vec::new());
    let asked = asked.map(|asked| snapshot.find::<HostKind>(asked).map(|host| host.id()));
    let asked = asked.transpose()?;
    for host in snapshot.all::<HostKind>().iter() {
        if host.id() == here || asked.is_some_and(|asked| asked != host.id()) {
            continue;
        }
        let obstacles = obstacles(snapshot, vm, host, live);
        match obstacles.is_empty() {
            true => possible.push(host.id()),
            false => reasons.push(format!("host `{}`: {}", host.name(), obstacles.join("; "))),
        }
    }
    if possible.is_empty() {
        let why = match reasons.is_empty() {
            true => "there is no other host".to_owned(),
            false => reasons.join(". "),
        };
        let message = format!("vm `{}` can go to no other host: {why}", vm.name());
        return Err(ServiceError::conflict("not_movable", message));
    }
    let host = choose(world, snapshot, vm, &possible)?;
    let of = match possible.len() {
        1 => "the only host that can take it".to_owned(),
        count => format!("the best of {count} hosts that can take it"),
    };
    let mut explanation = vec![format!("host `{}` is {of}", host.name())];
    explanation.extend(reasons.into_iter().map(|reason| format!("not on {reason}")));
    Ok((host, explanation))
}

/// The best of these hosts by rules, room and the cluster's strategy.
fn choose<'a>(
    world: &World,
    snapshot: &'a Snapshot,
    vm: &Vm,
    hosts: &[HostId],
) -> Result<&'a Arc<Host>, ServiceError> {
    let (best, told) = world.placement.on_board(&world.inventory, |board| {
        let best = board.elsewhere(vm.id(), hosts);
        let first = hosts.first().filter(|_| best.is_none());
        let told = first.map(|host| (*host, board.in_the_way(vm.id(), *host)));
        (best, told)
    });
    if let Some(best) = best {
        return snapshot.find::<HostKind>(&Ref::by_id(best));
    }
    let why = told.and_then(|(host, obstacles)| {
        let told: Vec<_> = obstacles.iter().map(ToString::to_string).collect();
        Some(format!(": host `{}` {}", snapshot.get::<HostKind>(host)?.name(), told.join("; ")))
    });
    let message = format!("no host can take vm `{}`{}", vm.name(), why.unwrap_or_default());
    Err(ServiceError::new(Class::NoCapacity, "no_capacity", message)
        .hint(format!("see `hostler vm why-not {} HOST`", vm.name())))
}

/// Why the VM could not run on a host, each in a sentence; empty if it could.
fn obstacles(snapshot: &Snapshot, vm: &Vm, host: &Host, live: bool) -> Vec<String> {
    let mut found = Vec::new();
    if host.status.state != HostState::Connected {
        return vec!["it does not answer".to_owned()];
    }
    if host.spec.maintenance {
        return vec!["it is in maintenance".to_owned()];
    }
    let mut datastores = vec![vm.status.datastore];
    datastores
        .extend(images(vm).filter_map(|id| Some(snapshot.get::<ImageKind>(id)?.spec.datastore)));
    datastores.sort();
    datastores.dedup();
    found.extend(datastores.into_iter().filter_map(|id| unreachable_datastore(snapshot, id, host)));
    for nic in &vm.spec.nics {
        found.extend(absent_network(snapshot, nic.network, host, live));
    }
    if live {
        found.extend(machine::other(snapshot, vm, host));
    }
    found
}

fn unreachable_datastore(snapshot: &Snapshot, id: DatastoreId, host: &Host) -> Option<String> {
    let datastore = snapshot.get::<DatastoreKind>(id)?;
    let name = datastore.name();
    if !datastore.spec.is_on(host.id()) {
        return Some(format!(
            "datastore `{name}` is not on it, and disks are not copied between hosts yet; first bring \
             them to a shared datastore that both hosts have, with `--datastore`"
        ));
    }
    let told = datastore.status.hosts.iter().find(|told| told.host == host.id());
    let missing = told.is_none_or(|told| told.state == DatastoreState::Missing);
    missing.then(|| format!("datastore `{name}` is not mounted there"))
}

fn absent_network(snapshot: &Snapshot, id: NetworkId, host: &Host, live: bool) -> Option<String> {
    let network = snapshot.get::<NetworkKind>(id)?;
    let name = network.name();
    match &network.spec {
        NetworkSpec::Nat { .. } if live => Some(format!(
            "network `{name}` is a private one of each host (nat): the guest would lose its \
             connections; stop it first, or use a bridge network"
        )),
        NetworkSpec::Nat { .. } => None,
        NetworkSpec::Bridge { bridge, .. } => {
            let facts = host.status.facts.as_ref();
            let there = facts.is_some_and(|facts| facts.bridges.contains(bridge));
            (!there).then(|| format!("the bridge `{bridge}` of network `{name}` is not there"))
        }
    }
}
