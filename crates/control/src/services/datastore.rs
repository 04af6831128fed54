//! Datastores: directories of hosts.

use std::sync::Arc;
use std::time::Duration;

use hostler_agent_api::{DatastoreCheck, DatastoreReport};
use hostler_store::Write;
use hostler_types::{
    ByteSize, Datastore, DatastoreKind, DatastoreSpec, DatastoreState, DatastoreStatus, HostKind,
    ImageKind, Labels, Name, Ref, Role, VmKind, validate_labels,
};
use jiff::Timestamp;

use super::{Page, PageRequest, counted, page};
use crate::actor::{Actor, authorize};
use crate::agents::AgentError;
use crate::error::ServiceError;
use crate::redact::Shown;
use crate::world::{Core, World};

/// For a host to look at a directory.
const PATIENCE: Duration = Duration::from_secs(30);

/// A datastore to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatastoreCreate {
    pub name: Name,
    pub labels: Labels,
    /// Absent: the only host.
    pub host: Option<Ref>,
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
        host.is_none_or(|host| datastore.spec.host == host.id())
    })
}

/// # Errors
/// `forbidden`, `not_found`.
pub fn show(world: &World, actor: &Actor, datastore: &Ref) -> Result<Arc<Datastore>, ServiceError> {
    authorize(actor, Role::Viewer, "see datastores")?;
    Ok(DatastoreKind::shown(world.snapshot().find(datastore)?))
}

/// Makes a host's directory a datastore.
///
/// # Errors
/// `forbidden`, `invalid`, `not_found`, `name_taken`, `path_taken`, or the host's refusal.
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
    let host = match &request.host {
        Some(host) => snapshot.find::<HostKind>(host)?.clone(),
        None => the_only_host(&snapshot)?,
    };
    let path = match request.path.trim_end_matches('/') {
        "" => request.path.clone(),
        trimmed => trimmed.to_owned(),
    };
    let spec = DatastoreSpec { host: host.id(), path };
    spec.validate().map_err(|reason| ServiceError::invalid_as_told("path", reason))?;
    let mut others = snapshot.all::<DatastoreKind>().iter();
    if let Some(other) = others.find(|other| other.spec == spec) {
        let message = format!("the directory is the datastore `{}` already", other.name());
        return Err(ServiceError::conflict("path_taken", message));
    }
    let status = DatastoreStatus {
        state: DatastoreState::Missing,
        message: Some("its host has not looked at it yet".to_owned()),
        capacity: ByteSize(0),
        free: ByteSize(0),
    };
    let datastore = Datastore::new(request.name, request.labels, Timestamp::now(), spec, status);
    let link = world.link(host.id())?;
    // The record comes first: if the server dies now, the host is asked when it connects again, and
    // no directory is marked for a datastore that nobody knows.
    let batch = Core::batch(actor, "datastore.create").with(Write::create(&datastore));
    let snapshot = world.commit(batch).await?;
    let recorded = snapshot.find::<DatastoreKind>(&datastore.reference())?.clone();
    let check = DatastoreCheck { path: datastore.spec.path.clone() };
    let looked = tokio::time::timeout(PATIENCE, link.datastore_ensure(datastore.id(), check)).await;
    match looked {
        Ok(Ok(report)) => ready(world, actor, &recorded, report).await,
        Ok(Err(error @ AgentError::Refused(_))) => {
            let batch = Core::batch(actor, "datastore.create: the host has refused it");
            world.commit(batch.with(delete_any(&recorded))).await?;
            Err(error.into())
        }
        // Its status tells, and it becomes ready as soon as the host has looked.
        Ok(Err(AgentError::Unreachable { .. })) | Err(_) => Ok(recorded),
    }
}

/// The controller may have written the same already.
async fn ready(
    world: &World,
    actor: &Actor,
    recorded: &Arc<Datastore>,
    report: DatastoreReport,
) -> Result<Arc<Datastore>, ServiceError> {
    let mut ready = Datastore::clone(recorded);
    let DatastoreReport { state, message, capacity, free, .. } = report;
    ready.status = DatastoreStatus { state, message, capacity, free };
    let batch = Core::batch(actor, "datastore.create: the host has looked");
    let snapshot = world.commit(batch.with(Write::update_any(&ready))).await?;
    Ok(DatastoreKind::shown(snapshot.find(&ready.reference())?))
}

fn delete_any(datastore: &Datastore) -> Write {
    let (kind, id) = (hostler_types::KindName::Datastore, datastore.id().untyped());
    Write::Delete { kind, id, expected: None }
}

fn the_only_host(
    snapshot: &crate::inventory::Snapshot,
) -> Result<Arc<hostler_types::Host>, ServiceError> {
    let mut hosts = snapshot.all::<HostKind>().iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => Ok(host.clone()),
        _ => Err(ServiceError::invalid("host", "say which host; there is not just one")),
    }
}

/// Takes a datastore out of the inventory. Its files stay where they are.
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
    let batch = Core::batch(actor, "datastore.delete").with(Write::delete(datastore));
    world.commit(batch).await?;
    Ok(())
}
