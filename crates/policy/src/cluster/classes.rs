//! Equivalence classes: VMs that the same hosts can take, as far as that does not change with
//! what runs there.
//!
//! State, CPU features, networks, reach, `must` rules with hosts and labels of scopes are looked at
//! once per class, and give a set of hosts. The set is made when it is first asked for: of a
//! cluster's many classes, a decision needs few.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use super::state::HostFacts;
use super::{Bits, Cluster, HostCondition, ReachOf, StoreIndex};
use crate::rules::HostRule;

/// Position in [`Cluster::classes`].
pub(crate) type ClassIndex = u32;

/// What VMs of a class have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ClassKey {
    /// Positions in the tables of what VMs ask for.
    pub(crate) features: u32,
    pub(crate) networks: u32,
    pub(crate) store: StoreNeed,
    pub(crate) reach: Vec<(StoreIndex, ReachOf)>,
    /// Only this host.
    pub(crate) host: Option<u32>,
    /// Rules with hosts, in ascending order.
    pub(crate) host_rules: Vec<u32>,
    /// Scopes by label that its `must` rules need, in ascending order.
    pub(crate) scopes: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum StoreNeed {
    /// It has no disks.
    Nothing,
    Any,
    /// Its disks are there, or must be made there.
    One(StoreIndex),
}

impl StoreNeed {
    pub(crate) fn wants(self, store: StoreIndex) -> bool {
        match self {
            Self::Nothing => false,
            Self::Any => true,
            Self::One(only) => only == store,
        }
    }
}

/// CPU features or networks that VMs ask for: each distinct list once.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) needed: BTreeSet<String>,
    /// The hosts that have them all.
    pub(super) hosts: OnceLock<Bits>,
}

#[derive(Debug, Clone)]
pub(crate) struct Class {
    pub(crate) key: ClassKey,
    hosts: OnceLock<Bits>,
}

impl Class {
    pub(crate) fn new(key: ClassKey) -> Self {
        Self { key, hosts: OnceLock::new() }
    }

    pub(super) fn forget_found(&mut self) {
        self.hosts.take();
    }
}

impl Asked {
    pub(super) fn forget_found(&mut self) {
        self.hosts.take();
    }
}

/// The first thing about a host that rules it out for a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filter {
    Host,
    Condition,
    Features,
    Networks,
    /// Position in [`ClassKey::reach`].
    Reach(usize),
    Store,
    Rule(u32),
    Scope(u32),
}

impl Cluster {
    /// The hosts that pass all filters of a class.
    pub(crate) fn hosts_of(&self, class: ClassIndex) -> &Bits {
        let class = &self.classes[class as usize];
        class.hosts.get_or_init(|| self.filtered(&class.key))
    }

    /// The same as asking [`Cluster::static_filters`] for each host; but the hosts with what many
    /// classes ask for are found once.
    fn filtered(&self, key: &ClassKey) -> Bits {
        let all = self.hosts.len();
        let available = self
            .available
            .get_or_init(|| self.hosts_where(|facts| facts.condition == HostCondition::Available));
        let mut passing = available.clone();
        if let Some(host) = key.host {
            passing.and(&Bits::of(all, [host]));
        }
        let features = &self.features[key.features as usize];
        passing.and(
            features.hosts.get_or_init(|| {
                self.hosts_where(|facts| features.needed.is_subset(&facts.features))
            }),
        );
        let networks = &self.networks[key.networks as usize];
        passing.and(
            networks.hosts.get_or_init(|| {
                self.hosts_where(|facts| networks.needed.is_subset(&facts.networks))
            }),
        );
        match key.store {
            StoreNeed::Nothing => {}
            StoreNeed::Any => passing.and(self.with_store.get_or_init(|| {
                self.hosts_where(|facts| facts.stores.iter().any(|(_, ready)| *ready))
            })),
            StoreNeed::One(store) => {
                let reaching = self.reaching[store as usize].iter();
                let ready = reaching.filter(|(_, ready)| *ready).map(|(host, _)| *host);
                passing.and(&Bits::of(all, ready));
            }
        }
        for (store, _) in &key.reach {
            let reaching = self.reaching[*store as usize].iter().map(|(host, _)| *host);
            passing.and(&Bits::of(all, reaching));
        }
        for rule in &key.host_rules {
            let rule = &self.rules.with_hosts[*rule as usize];
            if rule.must {
                passing.and(&rule.allowed);
            }
        }
        for scope in &key.scopes {
            let scope = &self.rules.scopes[*scope as usize];
            let somewhere = (0..super::narrow(all))
                .filter(|host| scope.place(*host as usize) != crate::rules::NOWHERE);
            passing.and(&Bits::of(all, somewhere));
        }
        passing
    }

    fn hosts_where(&self, passes: impl Fn(&HostFacts) -> bool) -> Bits {
        let passing = (0..).zip(&self.hosts).filter(|(_, facts)| passes(facts));
        Bits::of(self.hosts.len(), passing.map(|(host, _)| host))
    }

    /// Looks at all filters but those that change with what is on the host. `failed` is told each
    /// that the host does not pass, and answers whether to go on. The answer is whether it passes
    /// all.
    pub(crate) fn static_filters(
        &self,
        key: &ClassKey,
        host: usize,
        failed: &mut dyn FnMut(Filter) -> bool,
    ) -> bool {
        let facts = &self.hosts[host];
        let mut passes = true;
        let mut fail = |filter| {
            passes = false;
            failed(filter)
        };
        if key.host.is_some_and(|only| only as usize != host) && !fail(Filter::Host) {
            return false;
        }
        if facts.condition != HostCondition::Available && !fail(Filter::Condition) {
            return false;
        }
        let missing = !self.features[key.features as usize].needed.is_subset(&facts.features);
        if missing && !fail(Filter::Features) {
            return false;
        }
        let missing = !self.networks[key.networks as usize].needed.is_subset(&facts.networks);
        if missing && !fail(Filter::Networks) {
            return false;
        }
        for (at, (store, _)) in key.reach.iter().enumerate() {
            if !facts.stores.iter().any(|(own, _)| own == store) && !fail(Filter::Reach(at)) {
                return false;
            }
        }
        let reached = key.store == StoreNeed::Nothing
            || facts.stores.iter().any(|(own, ready)| *ready && key.store.wants(*own));
        if !reached && !fail(Filter::Store) {
            return false;
        }
        for rule in &key.host_rules {
            let HostRule { must, allowed, .. } = &self.rules.with_hosts[*rule as usize];
            if *must && !allowed.has(host) && !fail(Filter::Rule(*rule)) {
                return false;
            }
        }
        for scope in &key.scopes {
            let place = self.rules.scopes[*scope as usize].place(host);
            if place == crate::rules::NOWHERE && !fail(Filter::Scope(*scope)) {
                return false;
            }
        }
        passes
    }

    /// How many `should` rules with hosts a VM of a class breaks on a host.
    pub(crate) fn broken_host_wishes(&self, class: ClassIndex, host: usize) -> u32 {
        let rules = &self.classes[class as usize].key.host_rules;
        let broken = rules.iter().filter(|rule| {
            let rule = &self.rules.with_hosts[**rule as usize];
            !rule.must && !rule.allowed.has(host)
        });
        super::narrow(broken.count())
    }
}
