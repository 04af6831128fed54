//! Whether rules can hold together: an assignment of their VMs to hosts, with room left aside.
//!
//! VMs that must share a host are one unit. What is wrong by itself is found first: a pair that is
//! kept together and apart, a unit without a host, more units kept apart than there are places for
//! (a bipartite matching, exact for each rule). What is left is searched, the unit with the fewest
//! hosts first. List colouring is in it, so that the search has a budget; out of it the answer is
//! that nothing was found, never a conflict.

use std::collections::BTreeMap;

use crate::cluster::Bits;

/// Steps of the search: each looks at the hosts of one unit.
const BUDGET: usize = 200_000;

#[derive(Debug, Clone)]
pub(super) enum Constraint {
    /// Of positions in [`Problem::vms`], ascending.
    Together {
        vms: Vec<usize>,
        scope: usize,
    },
    Apart {
        vms: Vec<usize>,
        scope: usize,
    },
    On {
        vms: Vec<usize>,
        allowed: Bits,
    },
}

impl Constraint {
    pub(super) fn vms(&self) -> &[usize] {
        match self {
            Self::Together { vms, .. } | Self::Apart { vms, .. } | Self::On { vms, .. } => vms,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Problem {
    pub(super) vms: Vec<String>,
    pub(super) hosts: usize,
    /// For each scope the place of each host; `None`: it has none. The first scope is the host.
    pub(super) places: Vec<Vec<Option<usize>>>,
    pub(super) constraints: Vec<Constraint>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Possible,
    /// Why not.
    Impossible(String),
    /// Out of budget.
    Unknown,
}

struct Unit {
    vms: Vec<usize>,
    hosts: Bits,
}

impl Problem {
    /// Whether the constraints at these positions can hold together.
    pub(super) fn solve(&self, active: &[usize]) -> Verdict {
        let active: Vec<_> = active.iter().map(|at| &self.constraints[*at]).collect();
        let (units, unit_of) = self.units(&active);
        for unit in &units {
            if unit.hosts.count() == 0 {
                return Verdict::Impossible(format!(
                    "no host is left for {}",
                    self.told(&unit.vms)
                ));
            }
        }
        // Places that units share, by scope: those that must be in one place are one block.
        let mut links: Vec<Link> = Vec::new();
        for constraint in &active {
            let (vms, scope, together) = match constraint {
                Constraint::Together { vms, scope } if *scope != 0 => (vms, *scope, true),
                Constraint::Apart { vms, scope } => (vms, *scope, false),
                Constraint::Together { .. } | Constraint::On { .. } => continue,
            };
            let mut members: Vec<_> = vms.iter().filter_map(|vm| unit_of[*vm]).collect();
            members.sort_unstable();
            if !together && let Some(pair) = members.windows(2).find(|pair| pair[0] == pair[1]) {
                let vms = &units[pair[0]].vms;
                let both = vms.iter().copied().filter(|vm| constraint.vms().contains(vm));
                let both: Vec<_> = both.collect();
                return Verdict::Impossible(format!(
                    "{} must be on one host and must be apart",
                    self.told(&both)
                ));
            }
            members.dedup();
            links.push(Link { members, scope, together });
        }
        if let Some(reason) = self.clash(&units, &links) {
            return Verdict::Impossible(reason);
        }
        for link in links.iter().filter(|link| !link.together) {
            if let Some(reason) = self.too_few(&units, link) {
                return Verdict::Impossible(reason);
            }
        }
        let mut search = Search { problem: self, links: &links, left: BUDGET };
        let mut hosts: Vec<_> = units.iter().map(|unit| unit.hosts.clone()).collect();
        let mut open: Vec<_> = (0..units.len()).collect();
        match search.deepen(&mut hosts, &mut open) {
            true => Verdict::Possible,
            false if search.left == 0 => Verdict::Unknown,
            false => {
                let all: Vec<_> = units.iter().flat_map(|unit| unit.vms.clone()).collect();
                Verdict::Impossible(format!(
                    "there is no way to put {} on {} hosts that keeps all of them",
                    self.told(&all),
                    self.hosts
                ))
            }
        }
    }

    fn units(&self, active: &[&Constraint]) -> (Vec<Unit>, Vec<Option<usize>>) {
        let mut leader: Vec<Option<usize>> = vec![None; self.vms.len()];
        for vm in active.iter().flat_map(|constraint| constraint.vms()) {
            leader[*vm] = Some(*vm);
        }
        for constraint in active {
            let Constraint::Together { vms, scope: 0 } = constraint else { continue };
            let leaders: Vec<_> = vms.iter().map(|vm| leader[*vm]).collect();
            let Some(lowest) = leaders.iter().min().copied() else { continue };
            leader.iter_mut().filter(|own| leaders.contains(own)).for_each(|own| *own = lowest);
        }
        let mut position: BTreeMap<usize, usize> = BTreeMap::new();
        let mut units: Vec<Unit> = Vec::new();
        let mut unit_of = vec![None; self.vms.len()];
        for (vm, leader) in leader.iter().enumerate() {
            let Some(leader) = leader else { continue };
            let unit = *position.entry(*leader).or_insert_with(|| {
                units.push(Unit { vms: Vec::new(), hosts: Bits::all(self.hosts) });
                units.len() - 1
            });
            units[unit].vms.push(vm);
            unit_of[vm] = Some(unit);
        }
        for constraint in active {
            let allowed = match constraint {
                Constraint::On { allowed, .. } => allowed.clone(),
                Constraint::Together { scope, .. } | Constraint::Apart { scope, .. } => {
                    let mut placed = Bits::none(self.hosts);
                    for (host, place) in self.places[*scope].iter().enumerate() {
                        if place.is_some() {
                            placed.insert(host);
                        }
                    }
                    placed
                }
            };
            for vm in constraint.vms() {
                if let Some(unit) = unit_of[*vm] {
                    units[unit].hosts.and(&allowed);
                }
            }
        }
        (units, unit_of)
    }

    /// Two units that must be in one place and must not.
    fn clash(&self, units: &[Unit], links: &[Link]) -> Option<String> {
        for together in links.iter().filter(|link| link.together) {
            for apart in links.iter().filter(|link| !link.together && link.scope == together.scope)
            {
                let both = together.members.iter().filter(|unit| apart.members.contains(unit));
                let both: Vec<_> = both.collect();
                if both.len() > 1 {
                    let both: Vec<_> =
                        both.into_iter().flat_map(|unit| units[*unit].vms.clone()).collect();
                    return Some(format!(
                        "{} must be in one place and must be apart",
                        self.told(&both)
                    ));
                }
            }
        }
        None
    }

    /// Fewer places than units that are kept apart.
    fn too_few(&self, units: &[Unit], link: &Link) -> Option<String> {
        let places = &self.places[link.scope];
        let count = places.iter().flatten().max().map_or(0, |most| most + 1);
        let edges: Vec<Vec<usize>> = (link.members.iter())
            .map(|unit| {
                let mut own: Vec<_> =
                    units[*unit].hosts.ones().filter_map(|host| places[host]).collect();
                own.sort_unstable();
                own.dedup();
                own
            })
            .collect();
        let mut taken = vec![None; count];
        for member in 0..edges.len() {
            let mut seen = vec![false; count];
            if !augment(member, &edges, &mut taken, &mut seen) {
                // Hall's theorem: the members that were reached share these places.
                let short: Vec<_> = (0..edges.len())
                    .filter(|other| edges[*other].iter().all(|place| seen[*place]))
                    .collect();
                let vms: Vec<_> =
                    short.iter().flat_map(|at| units[link.members[*at]].vms.clone()).collect();
                let what = if link.scope == 0 { "hosts" } else { "places" };
                let have = seen.iter().filter(|seen| **seen).count();
                return Some(format!(
                    "{} must be apart, and there are only {have} {what} for them",
                    self.told(&vms)
                ));
            }
        }
        None
    }

    fn told(&self, vms: &[usize]) -> String {
        let names: Vec<_> = vms.iter().map(|vm| self.vms[*vm].clone()).collect();
        match names.len() {
            0..=3 => crate::placement::listed(&names),
            count => format!("{count} VMs ({})", crate::placement::listed(&names)),
        }
    }
}

/// Units whose places depend on each other.
struct Link {
    members: Vec<usize>,
    scope: usize,
    together: bool,
}

fn augment(
    member: usize,
    edges: &[Vec<usize>],
    taken: &mut [Option<usize>],
    seen: &mut [bool],
) -> bool {
    for place in &edges[member] {
        if std::mem::replace(&mut seen[*place], true) {
            continue;
        }
        if taken[*place].is_none_or(|other| augment(other, edges, taken, seen)) {
            taken[*place] = Some(member);
            return true;
        }
    }
    false
}

struct Search<'a> {
    problem: &'a Problem,
    links: &'a [Link],
    left: usize,
}

impl Search<'_> {
    /// Puts the units that are open on hosts, with what the others leave them.
    fn deepen(&mut self, hosts: &mut [Bits], open: &mut Vec<usize>) -> bool {
        let Some(at) = (0..open.len()).min_by_key(|at| hosts[open[*at]].count()) else {
            return true;
        };
        let unit = open.swap_remove(at);
        let possible: Vec<_> = hosts[unit].ones().collect();
        for host in possible {
            self.left = self.left.saturating_sub(open.len() + 1);
            if self.left == 0 {
                break;
            }
            let before = self.narrow(unit, host, hosts, open);
            let alive = before.iter().all(|(other, _)| hosts[*other].count() > 0);
            if alive && self.deepen(hosts, open) {
                return true;
            }
            before.into_iter().rev().for_each(|(other, old)| hosts[other] = old);
        }
        open.push(unit);
        let last = open.len() - 1;
        open.swap(at, last);
        false
    }

    /// What a unit on a host leaves the others; and what they had before.
    fn narrow(
        &self,
        unit: usize,
        host: usize,
        hosts: &mut [Bits],
        open: &[usize],
    ) -> Vec<(usize, Bits)> {
        let mut before = Vec::new();
        for link in self.links.iter().filter(|link| link.members.contains(&unit)) {
            let places = &self.problem.places[link.scope];
            let mut same = Bits::none(self.problem.hosts);
            let here = places[host];
            for (other, place) in places.iter().enumerate() {
                if place.is_some() && *place == here {
                    same.insert(other);
                }
            }
            for other in link.members.iter().filter(|other| open.contains(other)) {
                before.push((*other, hosts[*other].clone()));
                if link.together {
                    hosts[*other].and(&same);
                } else {
                    hosts[*other].and_not(&same);
                }
            }
        }
        before
    }
}
