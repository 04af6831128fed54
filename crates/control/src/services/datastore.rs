//! Datastores: directories of hosts.

use std::sync::Arc;

use hostler_agent_api::DatastoreCheck;
use hostler_store::Write;
use hostler_types::{
    ByteSize, Datastore, DatastoreKind, DatastoreSpec, DatastoreState, DatastoreStatus, HostKind,
    ImageKind, Labels, Name, Ref, Role, VmKind, validate_labels,
};
use jiff::Timestamp;

use super::{Page, PageRequest, counted, page};
use crate::actor::{Actor, authorize};
use crate::error::ServiceError;
use crate::redact::Shown;
use crate::world::{Core, World};

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
    let now = Timestamp::now();
    let status = DatastoreStatus {
        state: DatastoreState::Ready,
        message: None,
        capacity: ByteSize(0),
        free: ByteSize(0),
    };
    let mut datastore = Datastore::new(request.name, request.labels, now, spec, status);
    // The host looks first: nothing is recorded that does not exist. It remembers the directory by
    // the id, so a failure below leaves at most a marker file that the next try accepts.
    let link = world.link(host.id())?;
    let check = DatastoreCheck { path: datastore.spec.path.clone() };
    let report = world.limited(link.datastore_ensure(datastore.id(), check)).await?;
    // A directory that was a datastore before keeps the identity in its marker.
    datastore.metadata.id = report.datastore;
    datastore.status = DatastoreStatus {
        state: report.state,
        message: report.message,
        capacity: report.capacity,
        free: report.free,
    };
    let batch = Core::batch(actor, "datastore.create").with(Write::create(&datastore));
    let snapshot = world.commit(batch).await?;
    Ok(DatastoreKind::shown(snapshot.find(&datastore.reference())?))
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
