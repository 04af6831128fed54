//! Where VMs go: the inventory as `policy` sees it, kept up to date, and decisions that are made on
//! it.
//!
//! [`Board`] is the cluster as `policy` indexes it, at one revision of the inventory. It is brought
//! up to date with what has changed when a decision is asked for, and is built anew only for what it
//! cannot take over (rules, hosts that come or go); no request looks at all VMs.
//!
//! A decision holds while it is carried out: what it takes is *claimed* on the board from the
//! decision on until the VM is in the inventory, so that two requests at the same instant neither
//! get the same last room nor break a rule between them. Rules are written by whoever holds
//! [`Core::references`](crate::world::Core) alone, and hosts are expected by the commit at the
//! revision that was decided on.
//!
//! What it does not do: carry anything out, or move what is there.

mod board;
mod told;
mod view;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hostler_policy::cluster::{ClusterVm, HostCondition};
use hostler_policy::placement::{BatchRefusal, Obstacle, Placed};
use hostler_policy::record::Record;
use hostler_store::{NewDecision, Write};
use hostler_types::{DatastoreId, DecidedVm, DecisionId, HostId, HostKind, Revision, Vm, VmId};

use crate::error::{Class, ServiceError};
use crate::inventory::{Inventory, Snapshot};
use crate::pools::demand::Demands;
use board::Board;

pub(crate) use told::{explanation, violation, why_not};
pub(crate) use view::{at_rest, group_for_policy, measured, rule_for_policy, whole, wish};

/// Hosts whose VMs' measurements are taken over at a time, while no decision can be made.
const HOSTS_AT_ONCE: usize = 64;

/// The board of one world.
#[derive(Debug)]
pub(crate) struct Placement {
    board: Mutex<Option<Board>>,
    demands: Arc<Demands>,
}

/// Decisions of one request, whose claims hold for as long as this lives.
#[derive(Debug)]
pub(crate) struct Placing<'a> {
    placement: &'a Placement,
    inventory: &'a Inventory,
    claimed: Vec<VmId>,
}

/// Where a VM lies and runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) host: HostId,
    pub(crate) datastore: DatastoreId,
}

/// Where VMs go, and why.
#[derive(Debug)]
pub(crate) struct Decided {
    /// In the order of the VMs.
    pub(crate) placed: Vec<Placed>,
    /// Of each VM.
    pub(crate) sentences: Vec<Vec<String>>,
    snapshot: Arc<Snapshot>,
    record: Record,
    vms: Vec<ClusterVm>,
}

impl Placement {
    pub(crate) fn new(demands: Arc<Demands>) -> Self {
        Self { board: Mutex::default(), demands }
    }

    pub(crate) fn begin<'a>(&'a self, inventory: &'a Inventory) -> Placing<'a> {
        Placing { placement: self, inventory, claimed: Vec::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Board>> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works on the board as the inventory is now.
    pub(crate) fn on_board<T>(
        &self,
        inventory: &Inventory,
        work: impl FnOnce(&mut Board) -> T,
    ) -> T {
        let mut held = self.lock();
        // Taken with the lock held: it is never older than what the board has seen.
        let newest = inventory.snapshot();
        let board = match held.take() {
            Some(mut board) => {
                board.follow(&newest);
                board
            }
            None => self.first(&newest),
        };
        work(held.insert(board))
    }

    fn first(&self, newest: &Arc<Snapshot>) -> Board {
        let mut board = Board::build(newest.clone());
        for host in self.demands.known() {
            board.measure(host, &self.demands.lately(newest, host));
        }
        board
    }

    /// Keeps the board, if there is one, near the inventory and takes over what was measured since. A
    /// board that nobody asks would hold on to everything of the inventory that has changed since it
    /// was asked last. Blocks for as long as there are VMs.
    pub(crate) fn refresh(&self, inventory: &Inventory) {
        let hosts = self.demands.known();
        for hosts in hosts.chunks(HOSTS_AT_ONCE) {
            let snapshot = inventory.snapshot();
            let lately = hosts.iter().map(|host| (*host, self.demands.lately(&snapshot, *host)));
            let lately: Vec<_> = lately.collect();
            let mut held = self.lock();
            let Some(board) = held.as_mut() else { return };
            lately.iter().for_each(|(host, vms)| board.measure(*host, vms));
        }
        let newest = inventory.snapshot();
        if let Some(board) = self.lock().as_mut() {
            board.follow(&newest);
        }
    }

    /// Refuses to start a VM where a rule or its host does not want it.
    ///
    /// # Errors
    /// `rule_broken`, with the rule and the way out.
    pub(crate) fn require_place(&self, inventory: &Inventory, vm: &Vm) -> Result<(), ServiceError> {
        let snapshot = inventory.snapshot();
        let host = snapshot.get::<HostKind>(vm.status.host);
        require_in_service(&snapshot, vm)?;
        let obstacles = self.on_board(inventory, |board| board.in_the_way(vm.id(), vm.status.host));
        let rules = obstacles.iter().filter(|obstacle| obstacle.is_rule());
        let rules: Vec<&Obstacle> = rules.collect();
        let Some(first) = rules.first() else { return Ok(()) };
        let host = host.map_or_else(String::new, |host| host.name().to_string());
        let told: Vec<_> = rules.iter().map(ToString::to_string).collect();
        let name = vm.name();
        let message =
            format!("vm `{name}` may not run where it is: host `{host}` {}", told.join("; "));
        Err(ServiceError::conflict("rule_broken", message)
            .hint(format!("{}; see `hostler vm why-not {name} {host}`", first.way_out())))
    }
}

/// Refuses to start a VM on a host in maintenance.
///
/// # Errors
/// `host_in_maintenance`, with the ways out.
pub(crate) fn require_in_service(snapshot: &Snapshot, vm: &Vm) -> Result<(), ServiceError> {
    let host = snapshot.get::<HostKind>(vm.status.host);
    let Some(host) = host.filter(|host| host.spec.maintenance) else { return Ok(()) };
    let (vm, host) = (vm.name(), host.name());
    let message = format!("vm `{vm}` cannot be started: its host `{host}` is in maintenance");
    Err(ServiceError::conflict("host_in_maintenance", message).hint(format!(
        "move it with `hostler vm migrate {vm}`, or end that with \
         `hostler host maintenance exit {host}`"
    )))
}

impl Placing<'_> {
    /// Gives all claims back, to begin anew.
    pub(crate) fn release(&mut self) {
        if self.claimed.is_empty() {
            return;
        }
        if let Some(board) = self.placement.lock().as_mut() {
            self.claimed.iter().for_each(|vm| board.release(*vm));
        }
        self.claimed.clear();
    }

    /// Places all of these VMs or none, and claims what they take.
    ///
    /// # Errors
    /// `no_host` while no host answers, `no_capacity` with what rules out which hosts.
    pub(crate) fn place(&mut self, vms: Vec<ClusterVm>) -> Result<Decided, ServiceError> {
        let decided = self.placement.on_board(self.inventory, |board| {
            let decided = board.place(vms)?;
            self.claimed.extend(decided.placed.iter().map(|placed| placed.vm));
            Ok(decided)
        });
        decided.map_err(|refused: Refused| refused.told(&self.inventory.snapshot()))
    }
}

impl Drop for Placing<'_> {
    fn drop(&mut self) {
        self.release();
    }
}

/// Why nothing was decided.
#[derive(Debug)]
pub(crate) struct Refused {
    refusal: BatchRefusal,
    /// The only host that was asked for.
    wanted: Option<HostId>,
}

impl Refused {
    fn told(self, snapshot: &Snapshot) -> ServiceError {
        let hosts = snapshot.all::<HostKind>().iter();
        let mut hosts = hosts.filter(|host| self.wanted.is_none_or(|wanted| wanted == host.id()));
        let message = self.refusal.to_string();
        if hosts.any(|host| view::condition(host) != HostCondition::Disconnected) {
            return ServiceError::new(Class::NoCapacity, "no_capacity", message)
                .hint("ask for less, change what stands in the way, or add a host or datastore");
        }
        ServiceError::new(Class::Unavailable, "no_host", message)
            .hint("start the host's agent, or let a host join")
    }
}

impl Decided {
    /// The place of one of the VMs.
    ///
    /// # Errors
    /// `internal`, if the decision has none: a mistake of ours.
    pub(crate) fn place(&self, at: usize) -> Result<Place, ServiceError> {
        let placed = self.placed.get(at);
        let place = placed.and_then(|placed| {
            let datastore = placed.datastore.or(self.vms.get(at)?.datastore)?;
            Some(Place { host: placed.host, datastore })
        });
        place.ok_or_else(|| {
            let none = std::io::Error::other("a VM was placed without a host or a datastore");
            ServiceError::internal("the VM has got no place", none)
        })
    }

    /// The revision of the inventory that was decided on.
    fn revision(&self) -> Revision {
        self.snapshot.revision
    }

    /// What the commit that carries it out must have: the hosts as they were, and the decision's
    /// record.
    pub(crate) fn writes(&self, action: &str) -> Vec<Write> {
        let mut hosts: Vec<_> = self.placed.iter().map(|placed| placed.host).collect();
        hosts.sort_unstable();
        hosts.dedup();
        let hosts = hosts.iter().filter_map(|id| self.snapshot.get::<HostKind>(*id));
        let expected = hosts.map(|host| Write::Expect {
            kind: hostler_types::KindName::Host,
            id: host.id().untyped(),
            revision: Some(host.metadata.revision),
        });
        let mut writes: Vec<_> = expected.collect();
        match self.decision(action) {
            Some(decision) => writes.push(Write::Decide(Arc::new(decision))),
            None => tracing::error!(action, "a decision has no record"),
        }
        writes
    }

    fn decision(&self, action: &str) -> Option<NewDecision> {
        let bytes = self.record.bytes().ok()?;
        let vms = self.vms.iter().zip(&self.placed).filter_map(|(vm, placed)| {
            Some(DecidedVm {
                id: placed.vm,
                name: vm.name.parse().ok()?,
                host: placed.host,
                host_name: self.snapshot.get::<HostKind>(placed.host)?.name().clone(),
                datastore: placed.datastore?,
            })
        });
        // Of many in one place, the first one's reasons say enough.
        let mut sentences: Vec<String> = Vec::new();
        for sentence in self.sentences.iter().flatten() {
            if !sentences.contains(sentence) {
                sentences.push(sentence.clone());
            }
        }
        Some(NewDecision {
            id: DecisionId::generate(),
            action: action.to_owned(),
            revision: self.revision(),
            vms: vms.collect(),
            sentences,
            record: String::from_utf8(bytes).ok()?,
        })
    }

    /// All filters and scores, of each VM.
    pub(crate) fn explained(&self) -> Vec<hostler_types::PlacementExplanation> {
        let explained = self.record.explain().unwrap_or_default();
        explained.into_iter().map(explanation).collect()
    }
}
