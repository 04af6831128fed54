//! Resource pools: a tree under the cluster with shares, reservations and limits.
//!
//! A pool that is made or changed is checked against what is reserved in it and above it before it is
//! committed; until the inventory has it, nothing else is promised that it might need.

use std::sync::Arc;

use hostler_store::Write;
use hostler_types::{
    ByteSize, KindName, Megahertz, Pool, PoolCreate, PoolExplanation, PoolKind, PoolSpec,
    PoolStatus, PoolTree, PoolUpdate, Ref, Revision, Role, Vm, VmKind, counted, validate_labels,
};
use jiff::Timestamp;
use tokio::sync::Semaphore;

use super::{Page, PageRequest, page, require_revision};
use crate::actor::{Actor, authorize};
use crate::error::{Class, ServiceError};
use crate::inventory::Snapshot;
use crate::pools::admission::reserved;
use crate::pools::division::Division;
use crate::pools::{named, place};
use crate::redact::Shown;
use crate::world::{Core, World};

/// # Errors
/// `forbidden`, `invalid` paging.
pub fn list(
    world: &World,
    actor: &Actor,
    request: &PageRequest,
) -> Result<Page<Pool>, ServiceError> {
    authorize(actor, Role::Viewer, "list resource pools")?;
    page::<PoolKind>(&world.snapshot(), request, |_| true)
}

/// # Errors
/// `forbidden`, `not_found`.
pub fn show(world: &World, actor: &Actor, pool: &Ref) -> Result<Arc<Pool>, ServiceError> {
    authorize(actor, Role::Viewer, "see resource pools")?;
    Ok(PoolKind::shown(world.snapshot().find(pool)?))
}

/// # Errors
/// `forbidden`, `invalid`, `not_found`, `name_taken`, `no_capacity`.
pub async fn create(
    world: &World,
    actor: &Actor,
    request: PoolCreate,
) -> Result<Arc<Pool>, ServiceError> {
    authorize(actor, Role::Admin, "create resource pools")?;
    let PoolCreate { name, labels, description, parent, cpu, memory } = request;
    let _changing = world.admissions.changing.lock().await;
    let _references = world.references.read().await;
    let snapshot = world.snapshot();
    let parent = parent.map(|parent| named(&snapshot, &parent)).transpose()?.flatten();
    let spec = PoolSpec { description, parent, cpu, memory };
    let pool = Pool::new(name, labels, Timestamp::now(), spec, PoolStatus {});
    validate(&snapshot, &pool)?;
    let _promise = world.admissions.change_pool(&world.inventory, &pool)?;
    let batch = Core::batch(actor, "pool.create").with(Write::create(&pool));
    let snapshot = world.commit(batch).await?;
    Ok(PoolKind::shown(snapshot.find(&pool.reference())?))
}

/// Changes a pool, or moves it with all that is in it.
///
/// # Errors
/// `forbidden`, `invalid`, `not_found`, `name_taken`, `pool_cycle`, `no_capacity`, `stale_revision`.
pub async fn update(
    world: &World,
    actor: &Actor,
    pool: &Ref,
    request: PoolUpdate,
    expected: Option<Revision>,
) -> Result<Arc<Pool>, ServiceError> {
    authorize(actor, Role::Admin, "change resource pools")?;
    let _changing = world.admissions.changing.lock().await;
    let _references = world.references.read().await;
    let snapshot = world.snapshot();
    let old = snapshot.find::<PoolKind>(pool)?;
    require_revision::<PoolKind>(old, expected)?;
    let new = changed(&snapshot, old, request)?;
    validate(&snapshot, &new)?;
    let _promise = world.admissions.change_pool(&world.inventory, &new)?;
    let batch = Core::batch(actor, "pool.update").with(Write::update(&new));
    let snapshot = world.commit(batch).await?;
    Ok(PoolKind::shown(snapshot.find(&new.reference())?))
}

/// Deletes a pool in which nothing is.
///
/// # Errors
/// `forbidden`, `not_found`, `pool_in_use`.
pub async fn delete(world: &World, actor: &Actor, pool: &Ref) -> Result<(), ServiceError> {
    authorize(actor, Role::Admin, "delete resource pools")?;
    let _changing = world.admissions.changing.lock().await;
    let _references = world.references.write().await;
    let snapshot = world.snapshot();
    let pool = snapshot.find::<PoolKind>(pool)?;
    let vms: Vec<_> = snapshot.vms_in(pool.id()).cloned().collect();
    let below = snapshot.all::<PoolKind>().iter();
    let below = below.filter(|other| other.spec.parent == Some(pool.id()));
    let below: Vec<_> = below.map(|other| other.name().to_string()).collect();
    if !vms.is_empty() || !below.is_empty() {
        return Err(in_use(pool, &vms, &below));
    }
    world.commit(Core::batch(actor, "pool.delete").with(Write::delete(pool))).await?;
    Ok(())
}

/// How the cluster, its pools and the VMs that run stand now.
///
/// # Errors
/// `forbidden`.
pub async fn tree(world: &World, actor: &Actor) -> Result<PoolTree, ServiceError> {
    authorize(actor, Role::Viewer, "see resource pools")?;
    let core = world.core.clone();
    aside(move || {
        let snapshot = core.snapshot();
        let ledger = reserved(&core.admissions, &core.inventory)?;
        let division = Division::of(&snapshot, &core.demands.wanted(&snapshot))?;
        Ok(division.shown(&snapshot, &ledger))
    })
    .await
}

/// Divides among all VMs where it holds up no other request: of 400,000 it takes about a second. Two
/// at a time; who asks meanwhile waits for them.
async fn aside<T: Send + 'static>(
    divide: impl FnOnce() -> Result<T, ServiceError> + Send + 'static,
) -> Result<T, ServiceError> {
    static AT_ONCE: Semaphore = Semaphore::const_new(2);
    let turn = AT_ONCE.acquire().await;
    // The turn ends with the work, not with the request: who asked may go away.
    let divided = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        divide()
    })
    .await;
    divided.map_err(|error| ServiceError::internal("the division was cut off", error))?
}

/// How a pool, the cluster or a VM that runs came by what it is entitled to.
///
/// # Errors
/// `forbidden`, `not_found`, `ambiguous`, `wrong_state` of a VM that does not run.
pub async fn explain(
    world: &World,
    actor: &Actor,
    what: Explained,
) -> Result<PoolExplanation, ServiceError> {
    authorize(actor, Role::Viewer, "see resource pools")?;
    let core = world.core.clone();
    aside(move || explained(&core, &what)).await
}

fn explained(core: &Core, what: &Explained) -> Result<PoolExplanation, ServiceError> {
    let snapshot = core.snapshot();
    let (pool, vm) = match what {
        Explained::Pool(pool) => (Some(named(&snapshot, pool)?), None),
        Explained::Vm(vm) => (None, Some(snapshot.find::<VmKind>(vm)?)),
        Explained::Either(name) => either(&snapshot, name)?,
    };
    let division = Division::of(&snapshot, &core.demands.wanted(&snapshot))?;
    let none = || ServiceError::internal("what was found is in no pool", std::fmt::Error);
    let Some(vm) = vm else {
        let pool = place(&snapshot, pool.flatten())?;
        return division.explain_pool(pool).ok_or_else(none);
    };
    let name = vm.called();
    division.explain_vm(vm, place(&snapshot, vm.spec.resources.pool)?).ok_or_else(|| {
        let message =
            format!("vm `{name}` is {}: only what runs is entitled to anything", vm.status.power);
        ServiceError::conflict("wrong_state", message).hint(format!("`hostler vm start {name}`"))
    })
}

/// What is to be explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Explained {
    Pool(Ref),
    Vm(Ref),
    /// Whichever has this name.
    Either(Ref),
}

type Found<'a> = (Option<Option<hostler_types::PoolId>>, Option<&'a Arc<hostler_types::Vm>>);

fn either<'a>(snapshot: &'a Snapshot, name: &Ref) -> Result<Found<'a>, ServiceError> {
    match (named(snapshot, name), snapshot.find::<VmKind>(name)) {
        (Ok(_), Ok(_)) => {
            let message = format!("both a resource pool and a vm are called `{name}`");
            Err(ServiceError::conflict("ambiguous", message)
                .hint(format!("say `pool/{name}` or `vm/{name}`")))
        }
        (Ok(pool), Err(_)) => Ok((Some(pool), None)),
        (Err(_), Ok(vm)) => Ok((None, Some(vm))),
        (Err(_), Err(_)) => {
            let message = format!("there is no resource pool and no vm `{name}`");
            Err(ServiceError::new(Class::NotFound, "not_found", message)
                .hint("list them with `hostler pool tree`"))
        }
    }
}

fn in_use(pool: &Pool, vms: &[Arc<Vm>], below: &[String]) -> ServiceError {
    let name = pool.name();
    let mut holds = Vec::new();
    if !vms.is_empty() {
        let names: Vec<_> = vms.iter().map(|vm| vm.called().to_string()).collect();
        holds.push(format!("{} ({})", counted(number(&names), "VM"), some_of(&names)));
    }
    if !below.is_empty() {
        holds.push(format!("{} ({})", counted(number(below), "pool"), some_of(below)));
    }
    let message = format!("resource pool `{name}` holds {}", holds.join(" and "));
    let way = match vms.first() {
        Some(vm) if vm.is_template() => {
            format!("`{}` is a template's; delete that, or make it a VM first", vm.called())
        }
        Some(vm) if vm.is_recycled() => {
            format!("`{0}` is in the recycle bin; `hostler vm undelete {0}` first", vm.called())
        }
        Some(vm) => format!("`hostler vm set {} --pool POOL`", vm.called()),
        None => format!("`hostler pool move {} POOL`", below.first().map_or("NAME", |it| it)),
    };
    ServiceError::conflict("pool_in_use", message).hint(format!("move them elsewhere first: {way}"))
}

fn number(names: &[String]) -> u32 {
    u32::try_from(names.len()).unwrap_or(u32::MAX)
}

/// The first few names.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(", …");
    }
    text
}

fn changed(snapshot: &Snapshot, old: &Pool, request: PoolUpdate) -> Result<Pool, ServiceError> {
    let mut new = old.clone();
    if let Some(name) = request.name {
        new.metadata.name = name;
    }
    if let Some(labels) = request.labels {
        new.metadata.labels = labels;
    }
    let spec = &mut new.spec;
    if let Some(description) = request.description {
        spec.description = description;
    }
    if let Some(parent) = &request.parent {
        spec.parent = named(snapshot, parent)?;
    }
    let cpu = &mut spec.cpu;
    cpu.shares = request.cpu.shares.unwrap_or(cpu.shares);
    cpu.reservation = request.cpu.reservation.unwrap_or(cpu.reservation);
    cpu.expandable = request.cpu.expandable.unwrap_or(cpu.expandable);
    cpu.limit = match request.cpu.limit {
        Some(Megahertz(0)) => None,
        Some(limit) => Some(limit),
        None => cpu.limit,
    };
    let memory = &mut spec.memory;
    memory.shares = request.memory.shares.unwrap_or(memory.shares);
    memory.reservation = request.memory.reservation.unwrap_or(memory.reservation);
    memory.expandable = request.memory.expandable.unwrap_or(memory.expandable);
    memory.limit = match request.memory.limit {
        Some(ByteSize(0)) => None,
        Some(limit) => Some(limit),
        None => memory.limit,
    };
    Ok(new)
}

fn validate(snapshot: &Snapshot, pool: &Pool) -> Result<(), ServiceError> {
    validate_labels(&pool.metadata.labels)
        .map_err(|reason| ServiceError::invalid_as_told("labels", reason))?;
    if snapshot.cluster()?.name() == pool.name() {
        let reason = format!("`{}` is the cluster's; choose another", pool.name());
        return Err(ServiceError::invalid("name", reason));
    }
    let named = snapshot.all::<PoolKind>().get_by_name(pool.name());
    if named.is_some_and(|named| named.id() != pool.id()) {
        let message = format!("there is a {} `{}` already", KindName::Pool, pool.name());
        return Err(ServiceError::conflict("name_taken", message).hint("choose another name"));
    }
    Ok(())
}
