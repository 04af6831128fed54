//! Tells each host what its pools and VMs may use of it: whenever the inventory changes, and every few
//! seconds because what they want does.
//!
//! A host that was told is told again when that is something else, when it was away, and now and then;
//! its agent keeps what it was told. One that does not know the question (an agent of the version
//! before) is not asked again for the same.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hostler_agent_api::HostResources;
use hostler_types::{HostId, HostKind, HostState};
use tokio::time::Instant;

use crate::agents::AgentError;
use crate::error::ServiceError;
use crate::pools::division::Division;
use crate::pools::slices::slices;
use crate::world::Core;

/// What VMs want is divided anew after this long at the latest.
const PERIOD: Duration = Duration::from_secs(5);
/// Changes of this long are divided together.
const TOGETHER: Duration = Duration::from_millis(200);
/// A division may take this part of the time: a tenth.
const PART: u32 = 10;
/// A host that was told is told again after this long.
const AGAIN: Duration = Duration::from_mins(1);
/// How long a host may take to do as it is told.
const PATIENCE: Duration = Duration::from_secs(10);

type Told = HashMap<HostId, (Instant, HostResources)>;

pub(super) async fn run(core: Arc<Core>) {
    let mut revisions = core.inventory.revisions();
    let mut told = Told::new();
    loop {
        let begin = Instant::now();
        revisions.borrow_and_update();
        if let Err(error) = pass(&core, &mut told).await {
            tracing::warn!(%error, "resources cannot be divided");
        }
        let rest = TOGETHER.max(begin.elapsed() * PART).min(PERIOD);
        tokio::time::sleep(rest).await;
        if let Ok(Err(_closed)) = tokio::time::timeout(PERIOD - rest, revisions.changed()).await {
            return;
        }
    }
}

/// Divides once, and tells those hosts for which it makes a difference.
async fn pass(core: &Core, told: &mut Told) -> Result<(), ServiceError> {
    let snapshot = core.snapshot();
    let connected = |host: HostId| {
        let host = snapshot.get::<HostKind>(host);
        host.is_some_and(|host| host.status.state == HostState::Connected)
    };
    told.retain(|host, (at, _)| connected(*host) && at.elapsed() < AGAIN);
    // Of many VMs it takes longer than others should have to wait.
    let (divided, demands) = (snapshot.clone(), core.demands.clone());
    let dividing = tokio::task::spawn_blocking(move || {
        slices(&divided, &Division::of(&divided, &demands.wanted(&divided))?)
    });
    let slices = dividing.await;
    let mut slices =
        slices.map_err(|error| ServiceError::internal("the division was cut off", error))??;
    // A host without guests has no groups of pools to keep either.
    for host in told.keys() {
        slices.entry(*host).or_default();
    }
    let news = slices.into_iter().filter(|(host, resources)| {
        connected(*host) && told.get(host).is_none_or(|(_, before)| before != resources)
    });
    let telling = news.map(|(host, resources)| async move {
        let told = tell(core, host, &resources).await;
        (host, resources, told)
    });
    for (host, resources, has_it) in futures::future::join_all(telling).await {
        if has_it {
            told.insert(host, (Instant::now(), resources));
        } else {
            told.remove(&host);
        }
    }
    Ok(())
}

/// Whether the host need not be told the same again.
async fn tell(core: &Core, host: HostId, resources: &HostResources) -> bool {
    let Ok(link) = core.link(host) else { return false };
    match tokio::time::timeout(PATIENCE, link.resources_set(resources.clone())).await {
        Ok(Ok(())) => true,
        // Its agent is of the version before.
        Ok(Err(AgentError::Refused(problem))) if problem.status == 404 => true,
        Ok(Err(AgentError::Refused(problem))) => {
            tracing::warn!(%host, %problem, "the host cannot divide its resources as told");
            true
        }
        Ok(Err(error)) => {
            tracing::debug!(%host, %error, "the host was not told what its guests may use");
            false
        }
        Err(_) => false,
    }
}
