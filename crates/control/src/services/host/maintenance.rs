//! Maintenance of hosts: entering it, and leaving it again.

use std::sync::Arc;

use hostler_store::Write;
use hostler_types::{
    BlockedMove, Host, HostId, HostKind, HostMaintenance, HostState, MaintenanceEnter,
    MaintenanceExit, Ref, Role, Task,
};

use crate::actor::{Actor, authorize};
use crate::drs::{For, Planned, plan};
use crate::error::{Class, ServiceError};
use crate::inventory::Snapshot;
use crate::redact::Shown;
use crate::services::Options;
use crate::services::submit::{before, order};
use crate::tasks::{host_bring_back, host_maintenance};
use crate::world::{Core, World};

/// What became of leaving it.
#[derive(Debug, Clone)]
pub struct Left {
    pub host: Arc<Host>,
    /// Brings its VMs back; absent: that was not asked for.
    pub task: Option<Arc<Task>>,
}

/// Brings a host into maintenance: it takes no VMs, and those that run on it leave. A dry run tells who
/// would go where, and what is in the way.
///
/// # Errors
/// `forbidden`, `not_found`, `wrong_state`, `host_disconnected`, `busy`; `blocked`, with each VM that
/// cannot leave, unless it is to be waited for.
pub async fn maintenance_enter(
    world: &World,
    actor: &Actor,
    host: &Ref,
    request: &MaintenanceEnter,
    options: &Options,
) -> Result<HostMaintenance, ServiceError> {
    authorize(actor, Role::Admin, "bring hosts into maintenance")?;
    let key = (host, request);
    if let Some(task) = before(world, actor, options, host_maintenance::ACTION, &key).await? {
        let (steps, blocked, staying) = (Vec::new(), Vec::new(), Vec::new());
        return Ok(HostMaintenance { task: Some(Task::clone(&task)), steps, blocked, staying });
    }
    let id = require_open(&world.snapshot(), host)?.id();
    let planned = plan(world, For::Maintenance(id)).await?;
    let told = told(&planned, id);
    if options.dry_run {
        return Ok(told);
    }
    if !told.blocked.is_empty() && !request.wait_blocked {
        return Err(in_the_way(&planned.snapshot, host, &told.blocked));
    }
    let wait = request.wait_blocked;
    let task = order(world, actor, options, host_maintenance::ACTION, &key, |snapshot| {
        let host = require_open(snapshot, host)?;
        Ok(host_maintenance::order(host, wait))
    });
    Ok(HostMaintenance { task: Some(Task::clone(&*task.await?)), ..told })
}

fn require_open<'a>(snapshot: &'a Snapshot, host: &Ref) -> Result<&'a Arc<Host>, ServiceError> {
    let host = snapshot.find::<HostKind>(host)?;
    super::require_connected(host)?;
    let empty = host_maintenance::running(snapshot, host.id()).next().is_none();
    if host.spec.maintenance && empty {
        let message = format!("host `{}` is in maintenance already", host.name());
        return Err(ServiceError::conflict("wrong_state", message));
    }
    Ok(host)
}

fn told(planned: &Planned, host: HostId) -> HostMaintenance {
    let snapshot = &planned.snapshot;
    let name = |vm| snapshot.get::<hostler_types::VmKind>(vm).map(|vm| vm.name().to_string());
    let blocked = host_maintenance::blocked(planned, host).into_iter().map(|(vm, reason)| {
        BlockedMove { vms: name(vm).into_iter().collect(), why: "maintenance".to_owned(), reason }
    });
    let steps = host_maintenance::leaving(planned, host);
    let leaves = |vm| {
        let mut moves = steps.iter().flat_map(|at| &planned.plan.steps[*at].moves);
        moves.any(|one| one.vm == vm)
    };
    let off = snapshot.vms_on(host).filter(|vm| {
        !vm.is_recycled() && !vm.is_template() && !vm.status.power.is_live() && !leaves(vm.id())
    });
    HostMaintenance {
        task: None,
        steps: planned.recommended(&steps),
        blocked: blocked.collect(),
        staying: off.map(|vm| vm.name().to_string()).collect(),
    }
}

fn in_the_way(snapshot: &Snapshot, host: &Ref, blocked: &[BlockedMove]) -> ServiceError {
    let name = snapshot.find::<HostKind>(host).map(|host| host.name().to_string());
    let name = name.unwrap_or_else(|_| host.to_string());
    let each = blocked.iter().map(|one| format!("vm `{}`: {}", one.vms.join("`, `"), one.reason));
    let each: Vec<_> = each.collect();
    let message = format!("host `{name}` cannot be emptied: {}", each.join(". "));
    ServiceError::conflict("blocked", message).hint(format!(
        "do what each VM needs, or begin with `hostler host maintenance enter {name} --wait-blocked`, \
         which waits for them"
    ))
}

/// Ends a host's maintenance: it takes VMs again, at once; a task brings those back that left for it, if
/// that is asked for.
///
/// # Errors
/// `forbidden`, `not_found`, `wrong_state`, `busy`.
pub async fn maintenance_exit(
    world: &World,
    actor: &Actor,
    host: &Ref,
    request: &MaintenanceExit,
    options: &Options,
) -> Result<Left, ServiceError> {
    authorize(actor, Role::Admin, "end the maintenance of hosts")?;
    let opened = |snapshot: &Snapshot| {
        let old = snapshot.find::<HostKind>(host)?;
        // One that was broken off has left VMs elsewhere all the same.
        if !old.spec.maintenance && old.status.evacuated.is_empty() {
            let message = format!("host `{}` is not in maintenance", old.name());
            return Err(ServiceError::conflict("wrong_state", message));
        }
        let mut new = Host::clone(old);
        new.spec.maintenance = false;
        Ok(new)
    };
    if request.bring_back {
        let key = (host, request);
        if let Some(task) = before(world, actor, options, host_bring_back::ACTION, &key).await? {
            let host = HostKind::shown(world.snapshot().find(host)?);
            return Ok(Left { host, task: Some(task) });
        }
        let snapshot = world.snapshot();
        let old = snapshot.find::<HostKind>(host)?;
        if old.status.state != HostState::Connected {
            let message = format!("host `{}` does not answer: nothing can come back", old.name());
            return Err(ServiceError::new(Class::Unavailable, "host_disconnected", message)
                .hint("start its agent, or leave out --bring-back"));
        }
        let task = order(world, actor, options, host_bring_back::ACTION, &key, |snapshot| {
            let new = opened(snapshot)?;
            Ok(host_bring_back::order(snapshot, &new).with(Write::update(&new)))
        });
        let task = task.await?;
        let host = HostKind::shown(world.snapshot().find(host)?);
        return Ok(Left { host, task: Some(task) });
    }
    let mut new = opened(&world.snapshot())?;
    new.status.evacuated.clear();
    let batch = Core::batch(actor, "host.maintenance_exit")
        .with(Write::ExpectUnlocked { object: new.id().untyped() })
        .with(Write::update(&new));
    let snapshot = world.commit(batch).await?;
    Ok(Left { host: HostKind::shown(snapshot.find(&new.reference())?), task: None })
}
