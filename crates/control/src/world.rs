//! What services, tasks and controllers work with.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use hostler_pki::{Ca, Vault};
use hostler_store::{Batch, Store, StoreError};
use hostler_tasks::{Engine, EngineConfig, TaskError};
use hostler_types::{ApprovalNeed, HostId, HostKind, HostState, Id, Object, Ref};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{RwLock, Semaphore};
use tokio::task::JoinHandle;

use crate::actor::Actor;
use crate::agents::{AgentError, AgentLink, Agents, Connector};
use crate::attempts::Attempts;
use crate::controllers::Controllers;
use crate::customize::{Customizing, Reservations};
use crate::error::{Class, ServiceError};
use crate::idempotency::KeyLocks;
use crate::inventory::{Held, Inventory, Snapshot};
use crate::migrations::Migrations;
use crate::placement::{Placement, Placing};
use crate::pools::admission::Admissions;
use crate::pools::demand::Demands;
use crate::progress::ProgressBoard;
use crate::reports::Reports;
use crate::services::console::Tickets;
use crate::services::vm::MacReservations;
use crate::setup;
use crate::tasks;
use crate::webhook::WebhookRules;

/// How many passwords are verified at once: each takes 19 MiB and tens of milliseconds.
const LOGINS: usize = 2;
/// How long an agent may take for what it answers from memory.
const SHORT_CALL: Duration = Duration::from_secs(30);

/// What a world is made from.
#[derive(Debug)]
pub struct WorldOptions {
    pub store: Arc<dyn Store>,
    pub connector: Arc<dyn Connector>,
    pub ca: Arc<Ca>,
    pub vault: Arc<Vault>,
    /// Where hosts reach the server's API, `address:port`: written into join tokens.
    pub server_address: String,
    pub settings: Settings,
}

/// What an operator may set for the whole server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How long a deleted VM stays in the recycle bin.
    pub retention: SignedDuration,
    /// How long after the end of its lease a VM goes to the recycle bin.
    pub lease_grace: SignedDuration,
    /// Who has to agree to a request that no approval rule is about.
    pub approval: ApprovalNeed,
    /// How long a request waits for approvals.
    pub approval_wait: SignedDuration,
    /// Where requests may make the server call.
    pub webhooks: WebhookRules,
    /// A host that does not answer for so long does not get a VM that was to move there.
    pub migration_patience: Duration,
    /// How often balancing looks, and how long it watches before it acts.
    pub balancing: BalancingPace,
}

/// How often balancing looks, and how long it watches before it acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BalancingPace {
    /// Between two looks at least, however fast the inventory changes.
    pub shortest: Duration,
    /// Between two looks at most.
    pub longest: Duration,
    /// What is moved for the load's sake must have been recommended for so long without a break.
    pub steady: Duration,
    /// A VM that was to be moved is not tried again sooner.
    pub again: Duration,
    /// What of a plan could not begin after this long in which nothing else of it began or ended is passed over.
    pub patience: Duration,
}

impl Default for BalancingPace {
    fn default() -> Self {
        Self {
            shortest: Duration::from_secs(5),
            longest: Duration::from_secs(60),
            steady: Duration::from_secs(120),
            again: Duration::from_secs(300),
            patience: Duration::from_secs(600),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            retention: SignedDuration::from_hours(24),
            lease_grace: SignedDuration::from_hours(7 * 24),
            approval: ApprovalNeed::default(),
            approval_wait: SignedDuration::from_hours(7 * 24),
            webhooks: WebhookRules::default(),
            // Long enough for its agent to be started anew.
            migration_patience: Duration::from_secs(30),
            balancing: BalancingPace::default(),
        }
    }
}

/// What services, tasks and controllers share.
#[derive(Debug)]
pub struct Core {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) inventory: Arc<Inventory>,
    pub(crate) agents: Agents,
    pub(crate) reports: Reports,
    pub(crate) progress: ProgressBoard,
    pub(crate) attempts: Attempts,
    pub(crate) migrations: Migrations,
    /// Held from the last look at whether a planned move may begin until its task is in the inventory.
    pub(crate) moves: tokio::sync::Mutex<()>,
    pub(crate) vault: Arc<Vault>,
    pub(crate) settings: Settings,
    pub(crate) macs: MacReservations,
    pub(crate) admissions: Admissions,
    pub(crate) demands: Arc<Demands>,
    pub(crate) customizing: Reservations,
    pub(crate) placement: Placement,
    /// Who makes something that refers to another object (a VM to its network) holds it shared
    /// from looking at the snapshot until the commit is in the snapshot; who deletes what may be
    /// referred to holds it alone. So nothing ever refers to what is gone.
    pub(crate) references: RwLock<()>,
    /// Follows the store's change log for as long as the core lives.
    follower: JoinHandle<()>,
}

/// The server's mind: the core, the task engine that works on it, and what only services need.
#[derive(Debug)]
pub struct World {
    pub(crate) core: Arc<Core>,
    pub(crate) engine: Engine<Core>,
    pub(crate) ca: Arc<Ca>,
    pub(crate) server_address: String,
    pub(crate) keys: KeyLocks,
    pub(crate) tickets: Tickets,
    pub(crate) logins: Arc<Semaphore>,
}

/// The core is all that most of a service needs.
impl Deref for World {
    type Target = Core;
    fn deref(&self) -> &Core {
        &self.core
    }
}

impl World {
    /// Loads the inventory and follows the store from then on. Nothing is started yet.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn open(options: WorldOptions) -> Result<Arc<Self>, StoreError> {
        let WorldOptions { store, connector, ca, vault, server_address, settings } = options;
        let core = Core::open(store.clone(), connector, vault, settings).await?;
        setup::ensure_cluster(&core).await?;
        let engine = Engine::new(store, core.clone(), tasks::registry(), EngineConfig::default());
        Ok(Arc::new(Self {
            core,
            engine,
            ca,
            server_address,
            keys: KeyLocks::default(),
            tickets: Tickets::default(),
            logins: Arc::new(Semaphore::new(LOGINS)),
        }))
    }

    /// Goes on with the tasks that were at work when the server ended, and starts the controllers.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn start(&self) -> Result<Running, TaskError> {
        let recovered = self.engine.recover().await?;
        if recovered > 0 {
            tracing::info!(recovered, "tasks go on where they were");
        }
        let controllers = Controllers::start(&self.core, &self.engine);
        Ok(Running { engine: self.engine.clone(), controllers })
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

async fn follow(inventory: Arc<Inventory>, store: Arc<dyn Store>) {
    if let Err(error) = inventory.follow(store).await {
        // Without it every read would be stale and every write wait for ever.
        tracing::error!(%error, "the inventory can no longer follow the store");
        std::process::abort();
    }
}

/// Tasks and controllers at work.
#[derive(Debug)]
pub struct Running {
    engine: Engine<Core>,
    controllers: Controllers,
}

impl Running {
    /// Lets the steps at work come to their end, up to `limit`; the rest goes on at the next start.
    pub async fn stop(self, limit: Duration) {
        self.controllers.stop().await;
        self.engine.shutdown(limit).await;
    }

    /// Drops everything at once, as a crash would. For tests.
    #[doc(hidden)]
    pub async fn kill(self) {
        self.controllers.stop().await;
        self.engine.kill().await;
    }
}

impl Core {
    pub(crate) async fn open(
        store: Arc<dyn Store>,
        connector: Arc<dyn Connector>,
        vault: Arc<Vault>,
        settings: Settings,
    ) -> Result<Arc<Self>, StoreError> {
        let inventory = Arc::new(Inventory::load(store.as_ref()).await?);
        let follower = tokio::spawn(follow(inventory.clone(), store.clone()));
        let demands = Arc::new(Demands::default());
        Ok(Arc::new(Self {
            store,
            inventory,
            agents: Agents::new(connector),
            reports: Reports::default(),
            progress: ProgressBoard::default(),
            attempts: Attempts::default(),
            migrations: Migrations::default(),
            moves: tokio::sync::Mutex::default(),
            vault,
            settings,
            macs: MacReservations::default(),
            admissions: Admissions::default(),
            demands: demands.clone(),
            customizing: Reservations::default(),
            placement: Placement::new(demands),
            references: RwLock::new(()),
            follower,
        }))
    }

    /// Begins to resolve the customizations of one request.
    pub(crate) fn customizing(&self) -> Customizing<'_> {
        Customizing::new(&self.vault, &self.customizing, &self.inventory)
    }

    /// Begins to decide where the VMs of one request go.
    pub(crate) fn placing(&self) -> Placing<'_> {
        self.placement.begin(&self.inventory)
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.inventory.snapshot()
    }

    /// Commits, and returns when the inventory has it: the caller reads its own writes.
    pub(crate) async fn commit(&self, batch: Batch) -> Result<Arc<Snapshot>, StoreError> {
        let committed = self.store.commit(batch).await?;
        Ok(self.inventory.at_least(committed.revision).await)
    }

    /// A batch by `actor`, now.
    pub(crate) fn batch(actor: &Actor, reason: impl Into<String>) -> Batch {
        Batch::new(actor.name.clone(), reason, Timestamp::now())
    }

    /// The object as the store has it: a step that was just submitted may be ahead of the
    /// inventory.
    pub(crate) async fn stored<K: Held>(&self, id: Id<K>) -> Result<Option<Object<K>>, StoreError> {
        let record = self.store.get(K::NAME, id.untyped()).await?;
        record.map(|record| record.object()).transpose()
    }

    /// The agent of a host that answers.
    pub(crate) fn link(&self, host: HostId) -> Result<Arc<dyn AgentLink>, ServiceError> {
        let snapshot = self.snapshot();
        let host = snapshot.find::<HostKind>(&Ref::by_id(host))?;
        if host.status.state == HostState::Disconnected {
            let since = host.status.since;
            let message = format!("the host `{}` does not answer since {since:.0}", host.name());
            return Err(ServiceError::new(Class::Unavailable, "host_disconnected", message)
                .hint("start its agent, or look into why the server cannot reach it"));
        }
        Ok(self.agents.link(host)?)
    }

    /// Waits for an agent's short answer, but not for ever.
    pub(crate) async fn limited<T>(
        &self,
        call: impl Future<Output = Result<T, AgentError>>,
    ) -> Result<T, ServiceError> {
        self.limited_to(SHORT_CALL, call).await
    }

    pub(crate) async fn limited_to<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<T, AgentError>>,
    ) -> Result<T, ServiceError> {
        match tokio::time::timeout(limit, call).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(ServiceError::new(
                Class::Timeout,
                "timeout",
                format!("the host has not answered within {} s", limit.as_secs()),
            )),
        }
    }
}
