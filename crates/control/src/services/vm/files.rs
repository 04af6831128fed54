//! Taking VMs out of the inventory and back without touching their files.

use std::sync::Arc;

use hostler_store::Write;
use hostler_types::{
    DatastoreId, DatastoreKind, Epoch, HostId, HostKind, ImageKind, Name, NetworkKind, PowerState,
    Ref, Role, Task, Vm, VmId, VmKind,
};
use jiff::Timestamp;
use serde::Serialize;

use super::create::name_taken;
use super::{require_host, require_idle};
use crate::actor::{Actor, authorize};
use crate::customize;
use crate::error::ServiceError;
use crate::inventory::{Snapshot, images};
use crate::redact::Shown;
use crate::services::datastore::Owners;
use crate::services::submit::{Ordered, Planned, order, order_with};
use crate::services::{Changed, Options};
use crate::tasks::{vm_register, vm_unregister};
use crate::world::World;

/// Takes a VM out of the inventory and leaves its files for a later [`register`].
///
/// # Errors
/// `forbidden`, `not_found`, `wrong_state`, `busy`.
pub async fn unregister(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    options: &Options,
) -> Result<Arc<Task>, ServiceError> {
    authorize(actor, Role::Operator, "unregister VMs")?;
    order(world, actor, options, "vm.unregister", &vm, |snapshot| {
        let vm = snapshot.find::<VmKind>(vm)?;
        require_idle(snapshot, vm)?;
        require_host(snapshot, vm)?;
        let off = [PowerState::Stopped, PowerState::Suspended, PowerState::Failed];
        super::require_power(vm, "unregistered", &off)?;
        let mut order = vm_unregister::order(vm);
        order.writes.push(expect(vm));
        Ok(order)
    })
    .await
}

/// The commit is refused if the VM has changed since.
pub(crate) fn expect(vm: &Vm) -> Write {
    Write::Expect {
        kind: hostler_types::KindName::Vm,
        id: vm.id().untyped(),
        revision: Some(vm.metadata.revision),
    }
}

/// Which of a datastore's VMs is to be taken into the inventory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VmRegister {
    pub datastore: Ref,
    /// The name in its definition, or its id.
    pub vm: Ref,
    /// Another name, if its own is taken.
    pub name: Option<Name>,
}

/// Definitions on a datastore that are not in the inventory.
///
/// # Errors
/// `forbidden`, `not_found`, or the host's problem.
pub async fn unregistered(
    world: &World,
    actor: &Actor,
    datastore: &Ref,
) -> Result<Vec<Arc<Vm>>, ServiceError> {
    authorize(actor, Role::Operator, "look for unregistered VMs")?;
    let (owners, found) = (Owners::last_told(world), on_datastore(world, datastore).await?);
    // The datastore's own host has left out what it has.
    let host = world.snapshot().find::<DatastoreKind>(datastore)?.spec.host;
    let free = found.iter().filter(|vm| !owners.has_elsewhere(vm.id(), host));
    Ok(free.map(VmKind::shown).collect())
}

async fn on_datastore(world: &World, datastore: &Ref) -> Result<Vec<Arc<Vm>>, ServiceError> {
    let datastore = world.snapshot().find::<DatastoreKind>(datastore).cloned()?;
    let link = world.link(datastore.spec.host)?;
    let found = world.limited(link.datastore_unregistered(datastore.id())).await?;
    let snapshot = world.snapshot();
    let unknown = found.into_iter().filter(|vm| snapshot.get(vm.id()).is_none());
    Ok(unknown.map(Arc::new).collect())
}

/// Takes a VM whose files lie on a datastore into the inventory.
///
/// # Errors
/// `forbidden`, `not_found`, `name_taken`, `invalid` when it refers to what is not there, `in_use`
/// when another host has it, `host_disconnected` when one of the datastore's hosts does not say.
pub async fn register(
    world: &World,
    actor: &Actor,
    request: VmRegister,
    options: &Options,
) -> Result<Changed<Vm>, ServiceError> {
    authorize(actor, Role::Operator, "register VMs")?;
    let found = on_datastore(world, &request.datastore).await?;
    let datastore = world.snapshot().find::<DatastoreKind>(&request.datastore)?.clone();
    let owners = Owners::asked(world, &datastore).await;
    let found = found.iter().find(|vm| match &request.vm {
        Ref::Id(id) => vm.id().uuid() == *id,
        Ref::Name(name) => vm.name() == name,
    });
    let ordered = order_with(world, actor, options, "vm.register", &request, |snapshot| {
        let owners = owners.as_ref().map_err(Clone::clone)?;
        // What a host has is left out of what it finds.
        if let (None, Ref::Id(id)) = (found, &request.vm) {
            let id = VmId::from_uuid(*id);
            if snapshot.get::<VmKind>(id).is_none() {
                require_ownerless(id, &id.to_string(), owners)?;
            }
        }
        let mut vm = adopted(snapshot, &request, found.map(|vm| Vm::clone(vm)))?;
        require_ownerless(vm.id(), vm.name().as_str(), owners)?;
        customize::seal(&world.vault, vm.spec.customization.as_deref_mut());
        let mut order = vm_register::order(&vm);
        order.writes.push(Write::create(&vm));
        order.writes.extend(expect_files(&vm));
        Ok(Planned { order, object: Arc::new(vm), explanation: Vec::new() })
    })
    .await?;
    match ordered {
        Ordered::New(changed) => Ok(changed),
        Ordered::Before(task) => {
            let snapshot = world.snapshot();
            let vm = task.spec.objects.first().and_then(|id| snapshot.get::<VmKind>(id.typed()));
            let vm = vm
                .ok_or_else(|| ServiceError::not_found(hostler_types::KindName::Vm, &request.vm))?;
            Ok(Changed {
                object: VmKind::shown(vm),
                task: Some(task),
                explanation: Vec::new(),
                explained: Vec::new(),
            })
        }
    }
}

/// Refuses a VM that a host has: it may run there.
fn require_ownerless(vm: VmId, name: &str, owners: &Owners) -> Result<(), ServiceError> {
    let Some(host) = owners.host_of(vm) else { return Ok(()) };
    let message = format!("vm `{name}` is not registered: host `{host}` has it, and may run it");
    Err(ServiceError::conflict("in_use", message).hint(format!(
        "perhaps the store was restored from a backup older than the VM: take it back as it is \
             with `hostler vm register --from-host {host} {vm}`"
    )))
}

/// The VM of a definition, as a new member of the inventory. What it says of itself was written
/// by an older server or another one: only what can be checked is kept.
fn adopted(
    snapshot: &Snapshot,
    request: &VmRegister,
    found: Option<Vm>,
) -> Result<Vm, ServiceError> {
    let datastore = snapshot.find::<DatastoreKind>(&request.datastore)?;
    let vm = found.ok_or_else(|| {
        ServiceError::not_found(hostler_types::KindName::Vm, &request.vm).hint(format!(
            "no such definition on datastore `{}`, or it is registered already",
            datastore.name()
        ))
    })?;
    let host = snapshot.find::<HostKind>(&Ref::by_id(datastore.spec.host))?;
    let vm = as_named(vm, request.name.as_ref());
    require_references(snapshot, &vm)?;
    let place = format!("registered from datastore `{}`", datastore.name());
    Ok(as_registered(vm, host.id(), datastore.id(), place))
}

/// Under the name that it is to have, else its own: neither in the recycle bin, nor a template's. The
/// template may not be here; the files are what they were.
pub(super) fn as_named(mut vm: Vm, name: Option<&Name>) -> Vm {
    if let Some(name) = name {
        vm.metadata.name = name.clone();
    } else if let Some(recycled) = &vm.spec.recycled {
        vm.metadata.name = recycled.name.clone();
    } else if let Some(version) = &vm.spec.template {
        vm.metadata.name = version.name.clone();
    }
    vm.spec.recycled = None;
    vm.spec.template = None;
    vm
}

/// All that it refers to is there, and nobody else has its name or a MAC address of it.
pub(super) fn require_references(snapshot: &Snapshot, vm: &Vm) -> Result<(), ServiceError> {
    if snapshot.all::<VmKind>().get_by_name(vm.name()).is_some() {
        return Err(name_taken(vm.name()).hint("give it another name with `--name`"));
    }
    if let Some(missing) = images(vm).find(|image| snapshot.get::<ImageKind>(*image).is_none()) {
        let reason = format!("its image {missing} is not in the inventory");
        return Err(ServiceError::invalid("vm", reason).hint("import the image again first"));
    }
    for (index, nic) in vm.spec.nics.iter().enumerate() {
        if snapshot.get::<NetworkKind>(nic.network).is_none() {
            let reason =
                format!("its NIC {index} is on the network {}, which is not there", nic.network);
            return Err(ServiceError::invalid("vm", reason));
        }
        if let Some(owner) = snapshot.vm_with_mac(nic.mac).and_then(|owner| snapshot.get(owner)) {
            let reason = format!("its MAC address {} belongs to vm `{}`", nic.mac, owner.name());
            return Err(ServiceError::conflict("mac_taken", reason));
        }
    }
    super::create::validate(&vm.spec)
}

/// As a new member of the inventory, under the epoch after its own. The host has the first word on
/// what it does.
pub(super) fn as_registered(mut vm: Vm, host: HostId, datastore: DatastoreId, place: String) -> Vm {
    let status = &mut vm.status;
    status.power = PowerState::Unknown;
    status.power_since = Timestamp::now();
    status.message = Some("being registered".to_owned());
    status.host = host;
    status.datastore = datastore;
    status.epoch = Epoch(status.epoch.0.saturating_add(1));
    status.guest = None;
    status.placement = vec![place];
    vm
}

/// Its files, and those beneath them, are not removed meanwhile.
pub(super) fn expect_files(vm: &Vm) -> impl Iterator<Item = Write> {
    let datastore = Write::ExpectUnlocked { object: vm.status.datastore.untyped() };
    let images = images(vm).map(|image| Write::ExpectUnlocked { object: image.untyped() });
    std::iter::once(datastore).chain(images)
}
