//! Changing a datastore: limits, maintenance, labels, and which hosts have a shared one.

use std::sync::Arc;

use hostler_store::Write;
use hostler_types::{
    Datastore, DatastoreKind, DatastoreLimits, HostId, HostKind, Labels, Ref, Revision, Role,
    StorageKind, validate_labels,
};

use super::{Usages, look_from, with_usage};
use crate::actor::{Actor, authorize};
use crate::error::ServiceError;
use crate::inventory::Snapshot;
use crate::services::{counted, require_revision};
use crate::world::{Core, World};

/// What is to change; absent fields stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DatastoreUpdate {
    pub labels: Option<Labels>,
    pub maintenance: Option<bool>,
    pub limits: Option<DatastoreLimits>,
    /// All hosts that have it, the first of which stays what it is.
    pub hosts: Option<Vec<Ref>>,
}

/// Changes a datastore. Maintenance keeps new disks and images away; what is there goes on.
///
/// # Errors
/// `forbidden`, `not_found`, `invalid`, `stale_revision`, `in_use` for a host that has VMs there.
pub async fn update(
    world: &World,
    actor: &Actor,
    datastore: &Ref,
    request: DatastoreUpdate,
    expected: Option<Revision>,
) -> Result<Arc<Datastore>, ServiceError> {
    authorize(actor, Role::Admin, "change datastores")?;
    let _references = world.references.write().await;
    let snapshot = world.snapshot();
    let old = snapshot.find::<DatastoreKind>(datastore)?;
    require_revision::<DatastoreKind>(old, expected)?;
    let mut new = Datastore::clone(old);
    if let Some(labels) = request.labels {
        validate_labels(&labels)
            .map_err(|reason| ServiceError::invalid_as_told("labels", reason))?;
        new.metadata.labels = labels;
    }
    new.spec.maintenance = request.maintenance.unwrap_or(old.spec.maintenance);
    if let Some(limits) = request.limits {
        limits.validate()?;
        new.spec.limits = limits;
    }
    if let Some(hosts) = &request.hosts {
        new.spec.hosts = further_hosts(&snapshot, old, hosts)?;
        new.status.hosts.retain(|told| new.spec.is_on(told.host));
    }
    new.spec.validate().map_err(|reason| ServiceError::invalid_as_told("hosts", reason))?;
    let batch = Core::batch(actor, "datastore.update").with(Write::update(&new));
    let mut snapshot = world.commit(batch).await?;
    let old_hosts: Vec<HostId> = old.spec.all_hosts().collect();
    for host in new.spec.all_hosts().filter(|host| !old_hosts.contains(host)) {
        snapshot = look_from(world, actor, &snapshot, new.id(), host).await?;
    }
    for host in old_hosts.into_iter().filter(|host| !new.spec.is_on(*host)) {
        forget_on(world, &new, host).await;
    }
    Ok(with_usage(snapshot.find(&new.reference())?, &Usages::of(&snapshot)))
}

/// The hosts beside the first one. One that has VMs there stays.
fn further_hosts(
    snapshot: &Snapshot,
    datastore: &Datastore,
    wanted: &[Ref],
) -> Result<Vec<HostId>, ServiceError> {
    if datastore.spec.kind == StorageKind::Local {
        let message = format!("datastore `{}` is local: it stays on its host", datastore.name());
        return Err(ServiceError::invalid_as_told("hosts", message));
    }
    let mut hosts = Vec::new();
    for wanted in wanted {
        let host = snapshot.find::<HostKind>(wanted)?.id();
        if host != datastore.spec.host && !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    for host in datastore.spec.hosts.iter().filter(|host| !hosts.contains(host)) {
        let there = snapshot.vms_on(*host);
        let there = there.filter(|vm| vm.status.datastore == datastore.id()).count();
        if there > 0 {
            let host = snapshot.find::<HostKind>(&Ref::by_id(*host))?;
            let message = format!(
                "host `{}` has {} on datastore `{}`",
                host.name(),
                counted(there, "VM"),
                datastore.name()
            );
            return Err(ServiceError::conflict("in_use", message).hint("delete these VMs first"));
        }
    }
    Ok(hosts)
}

/// A host that does not answer still knows it, and does no harm with that.
async fn forget_on(world: &World, datastore: &Datastore, host: HostId) {
    let Ok(link) = world.link(host) else { return };
    if let Err(error) = world.limited(link.datastore_remove(datastore.id(), false)).await {
        tracing::warn!(%error, datastore = %datastore.name(), "a host could not forget the datastore");
    }
}
