//! Keeps the inventory in step with what the hosts report.
//!
//! One loop per host:
//!
//! ```text
//!             events()              first event: everything
//!  away ------------------> syncing -----------------------> connected
//!   ^  (retry, backing off)                                      |
//!   |                                  stream ended, 1 s grace   |
//!   +------------------------------------------------------------+
//! ```
//!
//! - away: after a second the host is `disconnected` and its VMs are `unknown`.
//! - syncing: facts are asked for, datastores and networks ensured, then everything the agent has
//!   is compared with everything the inventory has.
//! - connected: each event is taken over as it comes; many at once become one commit.
//!
//! VMs that an agent has and the inventory does not are told in the log and left alone: deleting
//! what one does not know is how disks are lost.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use hostler_agent_api::AgentEvent;
use hostler_endpoint::EventStream;
use hostler_types::{Host, HostId, HostKind};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agents::AgentError;
use crate::inventory::Snapshot;
use crate::world::Core;
use converge::Converger;

mod converge;
mod stale;
mod sync;

/// A host that comes back within this was never away.
const GRACE: Duration = Duration::from_secs(1);
/// How long a host may take to answer before it counts as not answering: first while nobody knows
/// that it is away, then once that is known.
const FIRST_PATIENCE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);
const SHORTEST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Connections begun at once.
const CONNECTING: usize = 128;
/// Events taken over in one commit.
const BURST: usize = 256;

/// Runs a loop for each host of the inventory, for as long as it is there under its address.
pub(super) async fn run(core: Arc<Core>, stopping: CancellationToken) {
    let mut revisions = core.inventory.revisions();
    let mut loops: HashMap<HostId, (String, CancellationToken, JoinHandle<()>)> = HashMap::new();
    let connecting = Arc::new(Connecting::default());
    let mut seen = None;
    loop {
        revisions.borrow_and_update();
        let snapshot = core.snapshot();
        // Most changes are not about who is there: they cost nothing, however many hosts there are.
        if seen == Some(snapshot.host_addresses) {
            tokio::select! {
                () = stopping.cancelled() => break,
                changed = revisions.changed() => if changed.is_err() { break },
            }
            continue;
        }
        seen = Some(snapshot.host_addresses);
        let ended: Vec<HostId> = (loops.iter())
            .filter(|(id, (address, ..))| {
                snapshot.get::<HostKind>(**id).is_none_or(|host| host.spec.address != *address)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in ended {
            if let Some((_, stop, handle)) = loops.remove(&id) {
                stop.cancel();
                let _joined = handle.await;
            }
        }
        for host in snapshot.all::<HostKind>().iter() {
            loops.entry(host.id()).or_insert_with(|| {
                let stop = stopping.child_token();
                let (core, host, until) = (core.clone(), host.clone(), stop.clone());
                let connecting = connecting.clone();
                let address = host.spec.address.clone();
                // Cancel-safe: every commit is whole.
                let handle = tokio::spawn(async move {
                    let _stopped = until.run_until_cancelled(follow(core, host, connecting)).await;
                });
                (address, stop, handle)
            });
        }
    }
    for (_, (_, _, handle)) in loops {
        let _joined = handle.await;
    }
}

/// Follows one host for ever: a bug met on the way costs a second, not the host.
async fn follow(core: Arc<Core>, host: Arc<Host>, connecting: Arc<Connecting>) {
    loop {
        let follower = Follower::new(core.clone(), &host, connecting.clone());
        if AssertUnwindSafe(follower.run()).catch_unwind().await.is_err() {
            tracing::error!(host = %host.name(), "following the host panicked; it begins anew");
        }
        tokio::time::sleep(GRACE).await;
    }
}

/// How many hosts are connected to at once. Thousands at once would all be too slow to be in time,
/// and begin again. Hosts that are known to be away wait apart: they take longest, and must not keep
/// the others waiting.
struct Connecting {
    there: Semaphore,
    away: Semaphore,
}

impl Default for Connecting {
    fn default() -> Self {
        Self { there: Semaphore::new(CONNECTING), away: Semaphore::new(CONNECTING) }
    }
}

/// Follows one host.
struct Follower {
    core: Arc<Core>,
    host: Arc<Host>,
    converger: Converger,
    connecting: Arc<Connecting>,
}

impl Follower {
    fn new(core: Arc<Core>, host: &Arc<Host>, connecting: Arc<Connecting>) -> Self {
        let converger = Converger::new(core.clone(), host.id(), host.name().to_string());
        Self { core, host: host.clone(), converger, connecting }
    }

    async fn run(mut self) {
        let (mut wait, mut lost, mut known_away) = (SHORTEST_WAIT, Instant::now(), false);
        // Why an agent that answers was not taken.
        let (mut unfit, mut told): (Option<String>, Option<String>) = (None, None);
        loop {
            let patience = if known_away { PATIENCE } else { FIRST_PATIENCE };
            let places = if known_away { &self.connecting.away } else { &self.connecting.there };
            // Never closed.
            let place = places.acquire().await.ok();
            // Taken before the agent looks at what it has: a VM that is made in between is no
            // missing one.
            let before = self.core.snapshot();
            let stream = tokio::time::timeout(patience, self.connect()).await;
            drop(place);
            match stream {
                Ok(Ok(stream)) => {
                    let reason = self.follow(stream, before).await;
                    if self.converger.is_connected() {
                        (wait, lost, known_away) = (SHORTEST_WAIT, Instant::now(), false);
                        (unfit, told) = (None, None);
                    } else {
                        unfit = Some(reason.clone());
                    }
                    tracing::warn!(host = %self.host.name(), reason, "the host was lost");
                }
                Ok(Err(error)) => {
                    tracing::debug!(host = %self.host.name(), %error, "the host does not answer");
                }
                Err(_) => {
                    tracing::debug!(host = %self.host.name(), "the host does not answer in time");
                }
            }
            let is_news = known_away && unfit.is_some() && unfit != told;
            if is_news || (!known_away && lost.elapsed() >= GRACE) {
                known_away = true;
                self.converger.away(unfit.as_deref()).await;
                told = unfit.clone();
            }
            self.idle(wait).await;
            wait = (wait * 2).min(if known_away { LONGEST_WAIT } else { GRACE / 4 });
        }
    }

    async fn connect(&self) -> Result<EventStream<AgentEvent>, AgentError> {
        self.core.agents.link(&self.host)?.events().await
    }

    /// Waits; what tasks leave behind meanwhile is still converged.
    async fn idle(&mut self, wait: Duration) {
        let end = tokio::time::sleep(wait);
        let mut end = std::pin::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => return,
                () = self.converger.ready() => self.converger.write().await,
            }
        }
    }

    /// Takes events over until the stream ends; returns why it did.
    async fn follow(
        &mut self,
        mut stream: EventStream<AgentEvent>,
        before: Arc<Snapshot>,
    ) -> String {
        let first = tokio::time::timeout(PATIENCE, stream.next()).await;
        let inventory = match first {
            Ok(Some(Ok(item))) => match item.data {
                AgentEvent::Inventory(inventory) => inventory,
                other => return format!("its events do not begin with its inventory: {other:?}"),
            },
            Ok(Some(Err(problem))) => return problem.to_string(),
            Ok(None) => return "its event stream ended".to_owned(),
            Err(_) => return "it does not tell its inventory".to_owned(),
        };
        let link = match self.core.agents.link(&self.host) {
            Ok(link) => link,
            Err(error) => return error.to_string(),
        };
        let known = match sync::prepare(&self.core, &self.host, &link).await {
            Ok(known) => known,
            Err(reason) => return reason,
        };
        self.converger.connected(known, inventory, &before).await;
        // It holds on to all that has changed since, for as long as it is there.
        drop(before);
        loop {
            let event = tokio::select! {
                event = stream.next() => event,
                () = self.converger.ready() => {
                    self.converger.write().await;
                    continue;
                }
            };
            let mut events = vec![event];
            // A stream that has ended is not asked again.
            while events.len() < BURST
                && matches!(events.last(), Some(Some(Ok(_))))
                && let Some(more) = stream.next().now_or_never()
            {
                events.push(more);
            }
            for event in events {
                match event {
                    Some(Ok(item)) => self.converger.take(item.data),
                    Some(Err(problem)) => return problem.to_string(),
                    None => return "its event stream ended".to_owned(),
                }
            }
            self.converger.write().await;
        }
    }
}
