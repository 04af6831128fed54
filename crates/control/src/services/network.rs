//! Networks that NICs are plugged into.

use std::sync::Arc;

use hostler_store::Write;
use hostler_types::{
    AddressPool, HostKind, HostState, Labels, Name, Network, NetworkKind, NetworkSpec,
    NetworkState, NetworkStatus, Ref, Revision, Role, validate_labels,
};
use jiff::Timestamp;

use super::{Page, PageRequest, page, require_revision};
use crate::actor::{Actor, authorize};
use crate::error::ServiceError;
use crate::inventory::Snapshot;
use crate::redact::Shown;
use crate::world::{Core, World};

/// A network to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkCreate {
    pub name: Name,
    pub labels: Labels,
    pub spec: NetworkSpec,
}

/// # Errors
/// `forbidden`, `invalid` paging.
pub fn list(
    world: &World,
    actor: &Actor,
    request: &PageRequest,
) -> Result<Page<Network>, ServiceError> {
    authorize(actor, Role::Viewer, "list networks")?;
    page::<NetworkKind>(&world.snapshot(), request, |_| true)
}

/// # Errors
/// `forbidden`, `not_found`.
pub fn show(world: &World, actor: &Actor, network: &Ref) -> Result<Arc<Network>, ServiceError> {
    authorize(actor, Role::Viewer, "see networks")?;
    Ok(NetworkKind::shown(world.snapshot().find(network)?))
}

/// Makes a network on all connected hosts; others get it when they connect.
///
/// # Errors
/// `forbidden`, `invalid`, `name_taken`, `subnet_taken`, or a host's refusal.
pub async fn create(
    world: &World,
    actor: &Actor,
    request: NetworkCreate,
) -> Result<Arc<Network>, ServiceError> {
    authorize(actor, Role::Admin, "create networks")?;
    validate_labels(&request.labels)
        .map_err(|reason| ServiceError::invalid_as_told("labels", reason))?;
    request.spec.validate().map_err(|reason| ServiceError::invalid_as_told("spec", reason))?;
    // Alone: of two that overlap, one must be refused.
    let _references = world.references.write().await;
    let snapshot = world.snapshot();
    if snapshot.all::<NetworkKind>().get_by_name(&request.name).is_some() {
        let message = format!("there is already a network named `{}`", request.name);
        return Err(ServiceError::conflict("name_taken", message).hint("choose another name"));
    }
    refuse_overlap(&snapshot, &request.spec)?;
    let status = NetworkStatus { state: NetworkState::Ready, message: None };
    let network =
        Network::new(request.name, request.labels, Timestamp::now(), request.spec, status);
    ensure_on_hosts(world, &snapshot, &network).await?;
    let batch = Core::batch(actor, "network.create").with(Write::create(&network));
    let snapshot = world.commit(batch).await?;
    Ok(NetworkKind::shown(snapshot.find(&network.reference())?))
}

fn refuse_overlap(snapshot: &Snapshot, spec: &NetworkSpec) -> Result<(), ServiceError> {
    let NetworkSpec::Nat { subnet, .. } = spec else { return Ok(()) };
    for other in snapshot.all::<NetworkKind>().iter() {
        if let NetworkSpec::Nat { subnet: taken, .. } = other.spec
            && taken.overlaps(*subnet)
        {
            let message =
                format!("the subnet {subnet} overlaps with {taken} of network `{}`", other.name());
            return Err(ServiceError::conflict("subnet_taken", message)
                .hint("choose another subnet of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16"));
        }
    }
    Ok(())
}

/// A host that refuses (no such bridge) keeps the network from being made: it is taken down again
/// where it was set up.
async fn ensure_on_hosts(
    world: &World,
    snapshot: &Snapshot,
    network: &Network,
) -> Result<(), ServiceError> {
    let mut done = Vec::new();
    for host in snapshot.all::<HostKind>().iter() {
        if host.status.state != HostState::Connected {
            continue;
        }
        let link = world.link(host.id())?;
        let ensured = world.limited(link.network_ensure(network.id(), network.spec.clone())).await;
        done.push(link);
        if let Err(error) = ensured {
            for link in done {
                if let Err(error) = world.limited(link.network_remove(network.id())).await {
                    tracing::warn!(%error, network = %network.name(), "a network could not be taken down again");
                }
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Gives a network another address pool, or takes it away. Addresses that NICs have stay theirs.
///
/// # Errors
/// `forbidden`, `not_found`, `invalid`, `stale_revision`, or a host's refusal.
pub async fn set_pool(
    world: &World,
    actor: &Actor,
    network: &Ref,
    pool: Option<AddressPool>,
    expected: Option<Revision>,
) -> Result<Arc<Network>, ServiceError> {
    authorize(actor, Role::Admin, "change networks")?;
    let _references = world.references.write().await;
    let snapshot = world.snapshot();
    let old = snapshot.find::<NetworkKind>(network)?;
    require_revision::<NetworkKind>(old, expected)?;
    let mut new = Network::clone(old);
    match &mut new.spec {
        NetworkSpec::Nat { pool: old, .. } | NetworkSpec::Bridge { pool: old, .. } => *old = pool,
    }
    new.spec.validate().map_err(|reason| ServiceError::invalid_as_told("pool", reason))?;
    // A host that is away is told when it is back.
    for host in snapshot.all::<HostKind>().iter() {
        if host.status.state == HostState::Connected {
            let link = world.link(host.id())?;
            world.limited(link.network_ensure(new.id(), new.spec.clone())).await?;
        }
    }
    let batch = Core::batch(actor, "network.update").with(Write::update(&new));
    let snapshot = world.commit(batch).await?;
    Ok(NetworkKind::shown(snapshot.find(&new.reference())?))
}

/// Deletes a network that no VM is on.
///
/// # Errors
/// `forbidden`, `not_found`, `in_use`, or a host's refusal.
pub async fn delete(world: &World, actor: &Actor, network: &Ref) -> Result<(), ServiceError> {
    authorize(actor, Role::Admin, "delete networks")?;
    let _references = world.references.write().await;
    let snapshot = world.snapshot();
    let network = snapshot.find::<NetworkKind>(network)?;
    let users: Vec<_> = snapshot.vms_with_network(network.id()).collect();
    if !users.is_empty() {
        let users = super::vm::told_names(&users);
        let message = format!("network `{}` is used by vm {users}", network.name());
        return Err(ServiceError::conflict("in_use", message)
            .hint("delete these VMs or put their NICs on another network first"));
    }
    for host in snapshot.all::<HostKind>().iter() {
        if host.status.state == HostState::Connected {
            let link = world.link(host.id())?;
            world.limited(link.network_remove(network.id())).await?;
        }
    }
    let batch = Core::batch(actor, "network.delete").with(Write::delete(network));
    world.commit(batch).await?;
    Ok(())
}
