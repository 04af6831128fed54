//! What there is before anyone has asked for anything: on a single machine, the local host with a
//! datastore and a network. Nothing here comes back once it was deleted.

use hostler_store::{StoreError, Write};
use hostler_types::{
    Cluster, ClusterKind, ClusterSpec, ClusterStatus, Datastore, DatastoreSpec, DatastoreStatus,
    Host, HostId, HostKind, HostSpec, HostStatus, Ipv4Net, Labels, Name, Network, NetworkKind,
    NetworkSpec, NetworkState, NetworkStatus,
};
use jiff::Timestamp;

use crate::actor::Actor;
use crate::error::ServiceError;
use crate::services::host::validate_address;
use crate::world::{Core, World};

/// The name of the one cluster, as long as nobody gives it another.
const CLUSTER: &str = "default";

/// The machine that the server itself runs on.
#[derive(Debug, Clone)]
pub struct LocalHost {
    pub name: Name,
    /// Where its agent listens, `address:port`.
    pub address: String,
    /// The directory of its first datastore.
    pub datastore: String,
    /// Of the network `default`; one that the machine is not connected to.
    pub subnet: Ipv4Net,
}

impl LocalHost {
    /// What nobody else is likely to use.
    pub const SUBNET: &str = "10.77.0.0/24";
}

/// Makes the local host, its datastore `local` and the network `default`, if no host is in the
/// inventory yet; else finds it, and records where it listens now. The caller gives its agent a
/// certificate for the id returned.
///
/// # Errors
/// `invalid` address or path; the store's trouble; `not_found` when there are hosts, but none of
/// this name.
pub async fn ensure_local_host(world: &World, local: &LocalHost) -> Result<HostId, ServiceError> {
    validate_address(&local.address)?;
    let snapshot = world.snapshot();
    if let Some(host) = snapshot.all::<HostKind>().get_by_name(&local.name) {
        if host.spec.address != local.address {
            let mut moved = Host::clone(host);
            moved.spec.address.clone_from(&local.address);
            let batch = Core::batch(&Actor::system(), "the local agent listens elsewhere");
            world.commit(batch.with(Write::update(&moved))).await?;
        }
        return Ok(host.id());
    }
    let first = snapshot.all::<HostKind>().is_empty();
    let now = Timestamp::now();
    let spec = HostSpec::new(local.address.clone());
    let status = HostStatus::joined(now);
    let host = Host::new(local.name.clone(), Labels::new(), now, spec, status);
    let mut batch = Core::batch(&Actor::system(), "first start").with(Write::create(&host));
    if first {
        batch = batch.with(Write::create(&datastore(&host, local, now)?));
        if snapshot.all::<NetworkKind>().is_empty() {
            batch = batch.with(Write::create(&network(local, now)?));
        }
    }
    world.commit(batch).await?;
    Ok(host.id())
}

/// Makes the cluster, if there is none yet: at the first start, and at the first start of a version
/// that knows of it.
///
/// # Errors
/// The store's trouble.
pub(crate) async fn ensure_cluster(core: &Core) -> Result<(), StoreError> {
    if !core.snapshot().all::<ClusterKind>().is_empty() {
        return Ok(());
    }
    let name = CLUSTER.parse().expect("`default` is a name");
    let (spec, status) = (ClusterSpec::default(), ClusterStatus::default());
    let cluster = Cluster::new(name, Labels::new(), Timestamp::now(), spec, status);
    let batch = Core::batch(&Actor::system(), "there is a cluster");
    core.commit(batch.with(Write::create(&cluster))).await.map(drop)
}

fn datastore(host: &Host, local: &LocalHost, now: Timestamp) -> Result<Datastore, ServiceError> {
    let spec = DatastoreSpec::local(host.id(), local.datastore.clone());
    spec.validate().map_err(|reason| ServiceError::invalid_as_told("datastore", reason))?;
    let status = DatastoreStatus::unseen("its host has not connected yet");
    let name = "local".parse().expect("`local` is a name");
    Ok(Datastore::new(name, Labels::new(), now, spec, status))
}

fn network(local: &LocalHost, now: Timestamp) -> Result<Network, ServiceError> {
    let spec = NetworkSpec::Nat { subnet: local.subnet, pool: None };
    spec.validate().map_err(|reason| ServiceError::invalid_as_told("subnet", reason))?;
    let status = NetworkStatus { state: NetworkState::Ready, message: None };
    let name = "default".parse().expect("`default` is a name");
    Ok(Network::new(name, Labels::new(), now, spec, status))
}
