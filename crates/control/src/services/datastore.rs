//! Datastores: directories of hosts.

use std::sync::Arc;
use std::time::Duration;

use hostler_agent_api::{DatastoreCheck, DatastoreReport};
use hostler_store::Write;
use hostler_types::{
    ByteSize, Datastore, DatastoreId, DatastoreKind, DatastoreLimits, DatastoreOnHost,
    DatastoreSpec, DatastoreState, DatastoreStatus, HostId, HostKind, HostState, ImageKind, Labels,
    Name, Ref, Role, StorageKind, VmKind, validate_labels,
};
use jiff::Timestamp;

use super::{Page, PageRequest, counted, page};
use crate::actor::{Actor, authorize};
use crate::agents::AgentError;
use crate::error::ServiceError;
use crate::inventory::Snapshot;
use crate::world::{Core, World};

mod check;
mod judge;
mod owners;
mod update;
mod usage;

pub(crate) use check::removable;
pub use check::{adopt, check as check_files, remove_orphans};
pub(crate) use owners::{Owners, inventory_of, others_with};
pub use update::{DatastoreUpdate, update};
use usage::with_usage;
pub(crate) use usage::{Usages, require_room, require_room_for_copies};

/// For a host to look at a directory.
const PATIENCE: Duration = Duration::from_secs(30);

/// A datastore to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatastoreCreate {
    pub name: Name,
    pub labels: Labels,
    /// The first makes it; further ones have it mounted, if it is shared. Empty: the only host.
    pub hosts: Vec<Ref>,
    pub kind: StorageKind,
    pub limits: DatastoreLimits,
    /// A new or empty directory, or one that is a datastore already.
    pub path: String,
}

/// Which datastores a list is to hold.
#[derive(Debug, Clone, Default)]
pub struct DatastoreFilter {
    pub host: Option<Ref>,
}

/// # Errors
/// `forbidden`; `not_found` when the filter names what does not exist; `invalid` paging.
pub fn list(
    world: &World,
    actor: &Actor,
    filter: &DatastoreFilter,
    request: &PageRequest,
) -> Result<Page<Datastore>, ServiceError> {
    authorize(actor, Role::Viewer, "list datastores")?;
    let snapshot = world.snapshot();
    let host = filter.host.as_ref().map(|host| snapshot.find::<HostKind>(host)).transpose()?;
    page::<DatastoreKind>(&snapshot, request, |datastore| {
        host.is_none_or(|host| datastore.spec.is_on(host.id()))
    })
    .map(|mut page| {
        let usages = Usages::of(&snapshot);
        page.items = page.items.iter().map(|datastore| with_usage(datastore, &usages)).collect();
        page
    })
}

/// # Errors
/// `forbidden`, `not_found`.
pub fn show(world: &World, actor: &Actor, datastore: &Ref) -> Result<Arc<Datastore>, ServiceError> {
    authorize(actor, Role::Viewer, "see datastores")?;
    let snapshot = world.snapshot();
    Ok(with_usage(snapshot.find::<DatastoreKind>(datastore)?, &Usages::of(&snapshot)))
}

/// Makes a host's directory a datastore.
///
/// # Errors
/// `forbidden`, `invalid`, `not_found`, `name_taken`, `path_taken`, or the first host's refusal.
pub async fn create(
    world: &World,
    actor: &Actor,
    request: DatastoreCreate,
) -> Result<Arc<Datastore>, ServiceError> {
    authorize(actor, Role::Admin, "create datastores")?;
    validate_labels(&request.labels)
        .map_err(|reason| ServiceError::invalid_as_told("labels", reason))?;
    let _references = world.references.read().await;
    let snapshot = world.snapshot();
    if snapshot.all::<DatastoreKind>().get_by_name(&request.name).is_some() {
        let message = format!("there is already a datastore named `{}`", request.name);
        return Err(ServiceError::conflict("name_taken", message).hint("choose another name"));
    }
    let spec = spec(&snapshot, &request)?;
    let status = DatastoreStatus::unseen("its host has not looked at it yet");
    let datastore = Datastore::new(request.name, request.labels, Timestamp::now(), spec, status);
    let link = world.link(datastore.spec.host)?;
    // The record comes first: if the server dies now, the host is asked when it connects again, and
    // no directory is marked for a datastore that nobody knows.
    let batch = Core::batch(actor, "datastore.create").with(Write::create(&datastore));
    let snapshot = world.commit(batch).await?;
    let looked = tokio::time::timeout(
        PATIENCE,
        link.datastore_ensure(datastore.id(), check(&datastore, datastore.spec.host)),
    );
    let mut snapshot = match looked.await {
        Ok(Ok(report)) => told(world, actor, &snapshot, datastore.spec.host, report).await?,
        Ok(Err(error @ AgentError::Refused(_))) => {
            let batch = Core::batch(actor, "datastore.create: the host has refused it");
            world.commit(batch.with(delete_any(&datastore))).await?;
            return Err(error.into());
        }
        // Its status tells, and it becomes ready as soon as the host has looked.
        Ok(Err(AgentError::Unreachable { .. })) | Err(_) => snapshot,
    };
    for host in &datastore.spec.hosts {
        snapshot = look_from(world, actor, &snapshot, datastore.id(), *host).await?;
    }
    Ok(with_usage(snapshot.find(&datastore.reference())?, &Usages::of(&snapshot)))
}

fn spec(snapshot: &Snapshot, request: &DatastoreCreate) -> Result<DatastoreSpec, ServiceError> {
    let (first, further) = match request.hosts.split_first() {
        Some((first, further)) => (snapshot.find::<HostKind>(first)?.id(), further),
        None => (the_only_host(snapshot)?.id(), &[][..]),
    };
    let path = match request.path.trim_end_matches('/') {
        "" => request.path.clone(),
        trimmed => trimmed.to_owned(),
    };
    let mut spec = DatastoreSpec::local(first, path);
    (spec.kind, spec.limits) = (request.kind, request.limits);
    for host in further {
        let host = snapshot.find::<HostKind>(host)?.id();
        if !spec.is_on(host) {
            spec.hosts.push(host);
        }
    }
    spec.validate().map_err(|reason| ServiceError::invalid_as_told("path", reason))?;
    let mut others = snapshot.all::<DatastoreKind>().iter();
    let same = |other: &&Arc<Datastore>| {
        other.spec.path == spec.path && other.spec.all_hosts().any(|host| spec.is_on(host))
    };
    if let Some(other) = others.find(same) {
        let message = format!("the directory is the datastore `{}` already", other.name());
        return Err(ServiceError::conflict("path_taken", message));
    }
    Ok(spec)
}

/// How a host is to look at a datastore: only the host that makes it marks the directory, and only
/// once. Whatever has no marker later on is the mount point of something that is not mounted.
pub(crate) fn check(datastore: &Datastore, host: HostId) -> DatastoreCheck {
    DatastoreCheck {
        path: datastore.spec.path.clone(),
        create: host == datastore.spec.host && !datastore.status.was_seen(),
        shared: datastore.spec.kind == StorageKind::Shared,
    }
}

/// Lets a further host look at a shared datastore. One that does not answer is asked when it
/// connects.
async fn look_from(
    world: &World,
    actor: &Actor,
    snapshot: &Arc<Snapshot>,
    datastore: DatastoreId,
    host: HostId,
) -> Result<Arc<Snapshot>, ServiceError> {
    let found = snapshot.find::<DatastoreKind>(&Ref::by_id(datastore))?;
    let Ok(link) = world.link(host) else { return Ok(snapshot.clone()) };
    let ensured = link.datastore_ensure(datastore, check(found, host));
    let report = match tokio::time::timeout(PATIENCE, ensured).await {
        Ok(Ok(report)) => report,
        Ok(Err(error @ AgentError::Refused(_))) => {
            let (state, message) = (DatastoreState::Missing, Some(error.to_string()));
            let (capacity, free) = (ByteSize(0), ByteSize(0));
            DatastoreReport { datastore, state, message, capacity, free }
        }
        Ok(Err(AgentError::Unreachable { .. })) | Err(_) => return Ok(snapshot.clone()),
    };
    told(world, actor, snapshot, host, report).await
}

/// Records what a host has said. The controller may have written the same already.
async fn told(
    world: &World,
    actor: &Actor,
    snapshot: &Snapshot,
    host: HostId,
    report: DatastoreReport,
) -> Result<Arc<Snapshot>, ServiceError> {
    let mut datastore =
        Datastore::clone(snapshot.find::<DatastoreKind>(&Ref::by_id(report.datastore))?);
    let DatastoreReport { state, message, capacity, free, .. } = report;
    let by = DatastoreOnHost { host, state, message };
    datastore.status = datastore.status.told(&datastore.spec, by, capacity, free);
    let batch = Core::batch(actor, "datastore: the host has looked");
    Ok(world.commit(batch.with(Write::update_any(&datastore))).await?)
}

fn delete_any(datastore: &Datastore) -> Write {
    let (kind, id) = (hostler_types::KindName::Datastore, datastore.id().untyped());
    Write::Delete { kind, id, expected: None }
}

fn the_only_host(snapshot: &Snapshot) -> Result<Arc<hostler_types::Host>, ServiceError> {
    let mut hosts = snapshot.all::<HostKind>().iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => Ok(host.clone()),
        _ => Err(ServiceError::invalid("host", "say which host; there is not just one")),
    }
}

/// Takes a datastore out of the inventory, and its marker off the directory, which can be used again.
/// Files that are in nobody's inventory stay where they are.
///
/// # Errors
/// `forbidden`, `not_found`, `in_use` while VMs or images lie on it.
pub async fn delete(world: &World, actor: &Actor, datastore: &Ref) -> Result<(), ServiceError> {
    authorize(actor, Role::Admin, "delete datastores")?;
    let _references = world.references.write().await;
    let snapshot = world.snapshot();
    let datastore = snapshot.find::<DatastoreKind>(datastore)?;
    let id = datastore.id();
    let vms = snapshot.all::<VmKind>().iter().filter(|vm| vm.status.datastore == id).count();
    let images = snapshot.all::<ImageKind>().iter();
    let images = images.filter(|image| image.spec.datastore == id).count();
    if vms + images > 0 {
        let message = format!(
            "datastore `{}` still holds {} and {}",
            datastore.name(),
            counted(vms, "VM"),
            counted(images, "image")
        );
        return Err(ServiceError::conflict("in_use", message)
            .hint("delete or unregister the VMs and delete the images first"));
    }
    release(world, &snapshot, datastore).await?;
    let batch = Core::batch(actor, "datastore.delete").with(Write::delete(datastore));
    world.commit(batch).await?;
    Ok(())
}

/// Lets the hosts forget it, the one that made it last: it takes the marker away. Hosts that do not
/// answer are left as they are: the datastore may be deleted because they are gone.
async fn release(
    world: &World,
    snapshot: &Snapshot,
    datastore: &Datastore,
) -> Result<(), ServiceError> {
    let hosts: Vec<HostId> = datastore.spec.all_hosts().collect();
    for host in hosts.into_iter().rev() {
        let found = snapshot.get::<HostKind>(host);
        if found.is_none_or(|host| host.status.state != HostState::Connected) {
            continue;
        }
        let release = host == datastore.spec.host;
        let link = world.link(host)?;
        match world.limited(link.datastore_remove(datastore.id(), release)).await {
            // An agent of the version before does not know how.
            Err(error) if error.code == "host_not_found" => {}
            removed => removed?,
        }
    }
    Ok(())
}
