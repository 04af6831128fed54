//! VMs that a host has and the inventory lacks: because its store was restored from a backup that is
//! older than they are, or was lost. Their guests run; they are taken into the inventory as they are.
//!
//! What may not be taken in says why. Nothing here trusts a definition further than it can be checked:
//! what it refers to has to be there, and nobody else may have what it says is its own.

use std::sync::Arc;

use futures::StreamExt as _;
use hostler_agent_api::{VmDefinition, VmReport};
use hostler_store::Write;
use hostler_types::{
    Datastore, DatastoreKind, Epoch, Host, HostId, HostKind, KindName, Name, PowerState, Ref, Role,
    Task, Vm, VmId, VmKind,
};
use serde::Serialize;

use super::files::{as_named, as_registered, expect_files, require_references};
use crate::actor::{Actor, authorize};
use crate::customize;
use crate::error::{Class, ServiceError};
use crate::inventory::Snapshot;
use crate::redact::Shown;
use crate::services::datastore::{inventory_of, others_with};
use crate::services::submit::{Ordered, Planned, order_with};
use crate::services::{Changed, Options};
use crate::tasks::vm_register_from_host;
use crate::world::World;

/// Definitions that are asked for at once.
const AT_ONCE: usize = 16;

/// Which of a host's VMs is to be taken into the inventory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VmRegisterFromHost {
    pub host: Ref,
    pub vm: VmId,
    /// Another name, if its own is taken.
    pub name: Option<Name>,
}

/// A VM that a host has and the inventory lacks.
#[derive(Debug, Clone)]
pub struct HostVm {
    pub id: VmId,
    pub power: PowerState,
    pub epoch: Epoch,
    /// As its definition says; `None` if the host does not tell.
    pub vm: Option<Arc<Vm>>,
    /// Why it cannot be registered as it is.
    pub problem: Option<String>,
}

/// The VMs that a host has and the inventory lacks, by name.
///
/// # Errors
/// `forbidden`, `not_found`, `host_disconnected`.
pub async fn on_host(
    world: &World,
    actor: &Actor,
    host: &Ref,
) -> Result<Vec<HostVm>, ServiceError> {
    authorize(actor, Role::Operator, "look for unregistered VMs")?;
    let host = world.snapshot().find::<HostKind>(host)?.clone();
    let reports = told(world, &host).await?;
    let snapshot = world.snapshot();
    let unknown: Vec<_> =
        reports.into_iter().filter(|report| snapshot.get(report.vm).is_none()).collect();
    let look = |report: VmReport| look(world, &snapshot, &host, report);
    let mut found: Vec<_> =
        futures::stream::iter(unknown).map(look).buffer_unordered(AT_ONCE).collect().await;
    found.sort_by(|a, b| (name(a), a.id).cmp(&(name(b), b.id)));
    Ok(found)
}

fn name(vm: &HostVm) -> Option<&Name> {
    vm.vm.as_ref().map(|vm| vm.called())
}

async fn look(world: &World, snapshot: &Snapshot, host: &Host, report: VmReport) -> HostVm {
    let (id, power, epoch) = (report.vm, report.power, report.epoch);
    let (vm, problem) = match defined(world, host.id(), id).await {
        Ok(definition) => {
            let request = VmRegisterFromHost { host: host.reference(), vm: id, name: None };
            let problem = taken_in(snapshot, host, &request, &definition, &report);
            (Some(VmKind::shown(&Arc::new(definition.vm))), problem.err())
        }
        Err(error) => (None, Some(error)),
    };
    let problem = problem.map(|error| match error.hint {
        Some(hint) => format!("{}; {hint}", error.message),
        None => error.message,
    });
    HostVm { id, power, epoch, vm, problem }
}

/// All that the host has.
async fn told(world: &World, host: &Host) -> Result<Vec<VmReport>, ServiceError> {
    inventory_of(world, host.id()).await.map_err(|reason| {
        let message = format!("host `{}` does not say which VMs it has: {reason}", host.name());
        ServiceError::new(Class::Unavailable, "host_disconnected", message)
            .hint("check that its agent runs and that its address is reachable")
    })
}

async fn defined(world: &World, host: HostId, vm: VmId) -> Result<VmDefinition, ServiceError> {
    world.limited(world.link(host)?.vm_defined(vm)).await
}

/// What was found out for a request before it is decided.
struct Looked {
    host: Arc<Host>,
    report: VmReport,
    definition: VmDefinition,
}

/// Takes a VM that a host has into the inventory, under a new epoch and without touching its guest.
///
/// # Errors
/// `forbidden`, `not_found`, `name_taken`, `mac_taken`, `address_taken`, `invalid` when it refers to
/// what is not there, `stale_epoch` when another host has it under the same or a newer epoch,
/// `host_disconnected` when one of its datastore's hosts does not say.
pub async fn register_from_host(
    world: &World,
    actor: &Actor,
    request: VmRegisterFromHost,
    options: &Options,
) -> Result<Changed<Vm>, ServiceError> {
    authorize(actor, Role::Operator, "register VMs")?;
    let looked = find(world, &request).await;
    // Its addresses are nobody else's, until the inventory says so.
    let mut customizing = world.customizing();
    let ordered =
        order_with(world, actor, options, "vm.register_from_host", &request, |snapshot| {
            let Looked { host, report, definition } = looked.as_ref().map_err(Clone::clone)?;
            let mut vm = taken_in(snapshot, host, &request, definition, report)?;
            customizing.release();
            customizing.keep(vm.id(), host.id(), &vm.spec.nics)?;
            customize::seal(&world.vault, vm.spec.customization.as_deref_mut());
            let mut order = vm_register_from_host::order(&definition.vm, &vm);
            order.writes.push(Write::create(&vm));
            order.writes.extend(expect_files(&vm));
            let explanation = vm.status.placement.clone();
            Ok(Planned { order, object: Arc::new(vm), explanation })
        })
        .await?;
    match ordered {
        Ordered::New(changed) => Ok(changed),
        Ordered::Before(task) => before(world, task, request.vm),
    }
}

/// What an earlier request with the same key has ordered.
fn before(world: &World, task: Arc<Task>, vm: VmId) -> Result<Changed<Vm>, ServiceError> {
    let snapshot = world.snapshot();
    let found = snapshot.get::<VmKind>(vm);
    let vm = found.ok_or_else(|| ServiceError::not_found(KindName::Vm, &Ref::by_id(vm)))?;
    Ok(Changed {
        object: VmKind::shown(vm),
        task: Some(task),
        explanation: Vec::new(),
        explained: Vec::new(),
    })
}

async fn find(world: &World, request: &VmRegisterFromHost) -> Result<Looked, ServiceError> {
    let host = world.snapshot().find::<HostKind>(&request.host)?.clone();
    let report = told(world, &host).await?.into_iter().find(|report| report.vm == request.vm);
    let report = report.ok_or_else(|| {
        ServiceError::not_found(KindName::Vm, &Ref::by_id(request.vm)).hint(format!(
            "see `hostler vm register --from-host {}` for what the host has",
            host.name()
        ))
    })?;
    let definition = defined(world, host.id(), request.vm).await?;
    let snapshot = world.snapshot();
    let datastore = datastore(&snapshot, &definition.vm)?;
    require_newest(world, &datastore, &host, &report).await?;
    Ok(Looked { host, report, definition })
}

fn datastore(snapshot: &Snapshot, vm: &Vm) -> Result<Arc<Datastore>, ServiceError> {
    let id = vm.status.datastore;
    snapshot.get::<DatastoreKind>(id).cloned().ok_or_else(|| {
        let reason = format!("its datastore {id} is not in the inventory");
        ServiceError::invalid("vm", reason)
            .hint("create the datastore from its folder first: `hostler datastore create`")
    })
}

/// Of two hosts that have a VM, the one with the newer epoch is right: it was told last who owns it.
async fn require_newest(
    world: &World,
    datastore: &Datastore,
    host: &Host,
    report: &VmReport,
) -> Result<(), ServiceError> {
    for (name, other) in others_with(world, datastore, host.id(), report.vm).await? {
        if other.epoch >= report.epoch {
            let message = format!(
                "vm {} is not registered from host `{}`, which has it under epoch {}: host `{name}` has \
                 it under epoch {}, {}",
                report.vm,
                host.name(),
                report.epoch,
                other.epoch,
                other.power,
            );
            return Err(ServiceError::conflict("stale_epoch", message)
                .hint(format!("register it from host `{name}`")));
        }
    }
    Ok(())
}

/// The VM as a new member of the inventory.
fn taken_in(
    snapshot: &Snapshot,
    host: &Host,
    request: &VmRegisterFromHost,
    definition: &VmDefinition,
    report: &VmReport,
) -> Result<Vm, ServiceError> {
    let mut vm = as_named(definition.vm.clone(), request.name.as_ref());
    if let Some(known) = snapshot.get::<VmKind>(vm.id()) {
        let message = format!("vm `{}` is in the inventory already", known.called());
        return Err(ServiceError::conflict("wrong_state", message));
    }
    let datastore = datastore(snapshot, &vm)?;
    if !datastore.spec.is_on(host.id()) {
        let reason = format!(
            "its datastore `{}` is not on host `{}`, as the inventory says",
            datastore.name(),
            host.name()
        );
        return Err(ServiceError::invalid("vm", reason).hint(format!(
            "say so first: `hostler datastore set {} --add-host {}`",
            datastore.name(),
            host.name()
        )));
    }
    require_references(snapshot, &vm)?;
    vm.status.epoch = report.epoch;
    let place = format!("taken back from host `{}`", host.name());
    Ok(as_registered(vm, host.id(), datastore.id(), place))
}
