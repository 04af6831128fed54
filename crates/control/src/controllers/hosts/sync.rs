//! What is done with a host that has just connected, before its events are taken over.

use std::sync::Arc;
use std::time::Duration;

use hostler_agent_api::{DatastoreReport, VERSION};
use hostler_types::{
    ByteSize, Datastore, DatastoreKind, DatastoreState, Host, HostFacts, HostId, NetworkId,
    NetworkKind,
};

use crate::agents::{AgentError, AgentLink};
use crate::world::Core;

/// For each single thing that a host is asked to look at or set up.
const PATIENCE: Duration = Duration::from_secs(15);

/// What a host has turned out to be.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) facts: HostFacts,
    pub(super) datastores: Vec<DatastoreReport>,
    /// Why a network could not be set up, if it could not.
    pub(super) networks: Vec<(NetworkId, Result<(), String>)>,
}

/// Asks who the host is, and lets it look at its datastores and set up its networks.
pub(super) async fn prepare(
    core: &Core,
    host: &Host,
    link: &Arc<dyn AgentLink>,
) -> Result<Known, String> {
    let answer = limited(link.facts()).await.map_err(|error| error.to_string())?;
    if answer.host != host.id() {
        return Err(format!("at its address is another host, {}", answer.host));
    }
    // Server N talks to agents N and N-1.
    if answer.contract > VERSION || answer.contract + 1 < VERSION {
        return Err(format!(
            "its agent speaks version {} of the contract, this server {VERSION}; install the same \
             version of Hostler on both",
            answer.contract
        ));
    }
    let snapshot = core.snapshot();
    let datastores = snapshot.all::<DatastoreKind>().iter();
    let datastores: Vec<_> =
        datastores.filter(|datastore| datastore.spec.is_on(host.id())).cloned().collect();
    let datastores =
        datastores.iter().map(|datastore| ensure_datastore(link, datastore, host.id()));
    let networks: Vec<_> = snapshot.all::<NetworkKind>().iter().cloned().collect();
    let networks = networks.into_iter().map(|network| async move {
        let ensured = limited(link.network_ensure(network.id(), network.spec.clone())).await;
        (network.id(), ensured.map_err(|error| error.to_string()))
    });
    let (datastores, networks) =
        tokio::join!(futures::future::join_all(datastores), futures::future::join_all(networks));
    Ok(Known { facts: answer.facts, datastores, networks })
}

async fn ensure_datastore(
    link: &Arc<dyn AgentLink>,
    datastore: &Datastore,
    host: HostId,
) -> DatastoreReport {
    let check = crate::services::datastore::check(datastore, host);
    let ensured = limited(link.datastore_ensure(datastore.id(), check)).await;
    ensured.unwrap_or_else(|error| DatastoreReport {
        datastore: datastore.id(),
        state: DatastoreState::Missing,
        message: Some(error.to_string()),
        capacity: datastore.status.capacity,
        free: ByteSize(0),
    })
}

async fn limited<T>(call: impl Future<Output = Result<T, AgentError>>) -> Result<T, AgentError> {
    tokio::time::timeout(PATIENCE, call).await.unwrap_or_else(|_| {
        let reason = format!("no answer within {} s", PATIENCE.as_secs());
        Err(AgentError::Unreachable { host: "it".to_owned(), reason })
    })
}
