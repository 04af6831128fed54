//! The rules by position: who is in which, and how many members are where.

use std::collections::HashMap;

use super::Matcher;
use crate::cluster::Bits;

/// A host that lacks the label of a scope.
pub(crate) const NOWHERE: u32 = u32::MAX;

#[derive(Debug, Clone, Default)]
pub(crate) struct RuleTable {
    /// Rules between VMs. A position here is what [`crate::cluster::Item::rules`] holds.
    pub(crate) between: Vec<Between>,
    pub(crate) matcher: Matcher,
    /// Rules between VMs and hosts.
    pub(crate) with_hosts: Vec<HostRule>,
    pub(crate) host_matcher: Matcher,
    /// Where hosts are: the first scope is the host itself.
    pub(crate) scopes: Vec<ScopeTable>,
}

#[derive(Debug, Clone)]
pub(crate) struct Between {
    pub(crate) name: String,
    pub(crate) must: bool,
    pub(crate) together: bool,
    pub(crate) scope: usize,
    /// How many members are in which place, by place; none has 0.
    occupied: Vec<(u32, u32)>,
}

#[derive(Debug, Clone)]
pub(crate) struct HostRule {
    pub(crate) name: String,
    pub(crate) must: bool,
    /// On which hosts its VMs may (or should) be.
    pub(crate) allowed: Bits,
    /// As the rule says it, for sentences: "must run on" or "must not run on".
    pub(crate) run_on: bool,
}

/// A kind of place, and which each host is in.
#[derive(Debug, Clone)]
pub(crate) struct ScopeTable {
    /// `None`: the host itself.
    pub(crate) label: Option<String>,
    place_of: Vec<u32>,
    names: Vec<String>,
    hosts_in: Vec<Vec<u32>>,
}

impl ScopeTable {
    pub(crate) fn hosts() -> Self {
        Self { label: None, place_of: Vec::new(), names: Vec::new(), hosts_in: Vec::new() }
    }

    /// By a label's value on each host, in the hosts' order.
    pub(crate) fn by_label<'a>(
        label: &str,
        values: impl Iterator<Item = Option<&'a String>>,
    ) -> Self {
        let (mut places, mut names, mut hosts_in) = (HashMap::new(), Vec::new(), Vec::new());
        let mut place_of = Vec::new();
        for (host, value) in (0..).zip(values) {
            place_of.push(value.map_or(NOWHERE, |value| {
                let place: u32 = *places.entry(value.clone()).or_insert_with(|| {
                    names.push(value.clone());
                    hosts_in.push(Vec::new());
                    crate::cluster::narrow(names.len() - 1)
                });
                hosts_in[place as usize].push(host);
                place
            }));
        }
        Self { label: Some(label.to_owned()), place_of, names, hosts_in }
    }

    /// [`NOWHERE`] if the host lacks the label.
    pub(crate) fn place(&self, host: usize) -> u32 {
        match self.label {
            None => crate::cluster::narrow(host),
            Some(_) => self.place_of[host],
        }
    }

    pub(crate) fn hosts_in(&self, place: u32) -> impl Iterator<Item = usize> {
        let (alone, several): (_, &[u32]) = match self.label {
            None => (Some(place as usize), &[]),
            Some(_) => (None, self.hosts_in.get(place as usize).map_or(&[], Vec::as_slice)),
        };
        alone.into_iter().chain(several.iter().map(|host| *host as usize))
    }

    /// Whether some host is in no place.
    pub(crate) fn has_nowhere(&self) -> bool {
        self.place_of.contains(&NOWHERE)
    }

    /// As in "rack `r1`"; of the host scope the caller knows the host's name.
    pub(crate) fn told(&self, place: u32) -> Option<String> {
        let label = self.label.as_ref()?;
        let name = self.names.get(place as usize)?;
        Some(format!("{label} `{name}`"))
    }

    /// How many places there are, of this many hosts.
    pub(crate) fn places(&self, hosts: usize) -> usize {
        if self.label.is_some() { self.names.len() } else { hosts }
    }
}

impl Between {
    pub(crate) fn new(name: String, must: bool, together: bool, scope: usize) -> Self {
        Self { name, must, together, scope, occupied: Vec::new() }
    }

    /// Whether those of its members that are in a place are where they should be.
    pub(crate) fn holds(&self) -> bool {
        if self.together {
            self.occupied.len() < 2
        } else {
            self.occupied.iter().all(|(_, count)| *count == 1)
        }
    }

    pub(crate) fn count(&self, place: u32) -> u32 {
        match self.occupied.binary_search_by_key(&place, |(place, _)| *place) {
            Ok(at) => self.occupied[at].1,
            Err(_) => 0,
        }
    }

    /// The places with members.
    pub(crate) fn places(&self) -> impl Iterator<Item = u32> {
        self.occupied.iter().map(|(place, _)| *place)
    }

    /// Whether one more member may be in this place. Where members are apart against the rule, it
    /// may go to any of them: it breaks nothing that is not broken.
    pub(crate) fn takes(&self, place: u32) -> bool {
        if place == NOWHERE {
            return false;
        }
        if self.together {
            self.occupied.is_empty() || self.count(place) > 0
        } else {
            self.count(place) == 0
        }
    }

    /// Who is nowhere does not bind the others.
    pub(crate) fn enter(&mut self, place: u32) {
        if place == NOWHERE {
            return;
        }
        match self.occupied.binary_search_by_key(&place, |(place, _)| *place) {
            Ok(at) => self.occupied[at].1 += 1,
            Err(at) => self.occupied.insert(at, (place, 1)),
        }
    }

    pub(crate) fn leave(&mut self, place: u32) {
        if let Ok(at) = self.occupied.binary_search_by_key(&place, |(place, _)| *place) {
            self.occupied[at].1 -= 1;
            if self.occupied[at].1 == 0 {
                self.occupied.remove(at);
            }
        }
    }
}

impl RuleTable {
    /// Whether an item of these rules may be on a host, as far as other VMs are concerned.
    pub(crate) fn allow(&self, rules: &[u32], host: usize) -> bool {
        rules.iter().all(|rule| {
            let rule = &self.between[*rule as usize];
            !rule.must || rule.takes(self.scopes[rule.scope].place(host))
        })
    }

    /// How many `should` rules between VMs an item on this host would break.
    pub(crate) fn broken_wishes(&self, rules: &[u32], host: usize) -> u32 {
        let broken = rules.iter().filter(|rule| {
            let rule = &self.between[**rule as usize];
            !rule.must && !rule.takes(self.scopes[rule.scope].place(host))
        });
        crate::cluster::narrow(broken.count())
    }

    pub(crate) fn enter(&mut self, rules: &[u32], host: usize) {
        for rule in rules {
            let rule = &mut self.between[*rule as usize];
            rule.enter(self.scopes[rule.scope].place(host));
        }
    }

    pub(crate) fn leave(&mut self, rules: &[u32], host: usize) {
        for rule in rules {
            let rule = &mut self.between[*rule as usize];
            rule.leave(self.scopes[rule.scope].place(host));
        }
    }
}
