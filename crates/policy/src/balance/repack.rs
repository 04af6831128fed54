//! Packing the VMs of a few hosts anew, where neither single moves nor exchanges help.
//!
//! A busy host and its least busy partners; their VMs that want the most are taken out, and a
//! branch-and-bound search puts them back so that `excess · window + cost` is least. The excess
//! only grows as VMs are put back, so that a branch that is worse than the best so far is left.
//! Rules are held against the result when its moves are put in order.

use super::Why;
use super::goal::available;
use super::planner::{LEAST_GAIN, Planner};
use crate::cluster::{Item, Load, Size, narrow};

/// Partners of a busy host.
const PARTNERS: usize = 5;
/// VMs that are put back.
const FREE: usize = 12;
/// Branches of one search, and of all of a plan: a few milliseconds, and about a second.
const BRANCHES: usize = 60_000;
const MOST_BRANCHES: usize = 6_000_000;
/// Up to so many hosts and VMs that may move the whole cluster is searched first.
const SMALL_HOSTS: usize = 6;

/// A VM that is to be put back.
struct Free {
    vm: u32,
    item: Item,
    /// Positions in [`Puzzle::hosts`]: where it was, and where it may be.
    home: usize,
    allowed: Vec<bool>,
    /// Of moving it, in host-seconds.
    cost: f64,
}

struct Puzzle {
    hosts: Vec<usize>,
    free: Vec<Free>,
    room: Vec<Size>,
    load: Vec<Load>,
    excess: Vec<f64>,
    chosen: Vec<usize>,
    best: Option<Vec<usize>>,
    least: f64,
    branches: usize,
}

impl Planner<'_> {
    /// Of a small cluster: all hosts at once, before single moves go wrong ways.
    pub(super) fn repack_small(&mut self) {
        let hosts: Vec<_> = available(self.cluster).collect();
        let free = hosts.iter().flat_map(|host| &self.cluster.vms_on[*host]);
        if (2..=SMALL_HOSTS).contains(&hosts.len()) && free.count() <= FREE {
            let mut branches = BRANCHES;
            self.repack(&hosts, &mut branches);
        }
    }

    /// Hosts that are still too busy, each with its partners.
    pub(super) fn repack_hot(&mut self, hot: &[usize]) {
        let mut left = MOST_BRANCHES;
        for host in hot {
            let excess = self.goal.excess(self.cluster, *host, &self.cluster.room[*host].load);
            if excess <= 0.0 || left == 0 || !self.steps_left() {
                continue;
            }
            let mut partners: Vec<_> = available(self.cluster)
                .filter(|other| other != host)
                .map(|other| (self.goal.headroom(self.cluster, other), other))
                .collect();
            let by_cold =
                |a: &(f64, usize), b: &(f64, usize)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
            partners.sort_unstable_by(by_cold);
            let reach = |planner: &Self, other: usize| {
                let own = planner.cluster.vms_on[*host].iter();
                own.into_iter().any(|vm| {
                    let item = &planner.cluster.vms[*vm as usize].item;
                    item.classes.iter().all(|class| planner.cluster.hosts_of(*class).has(other))
                })
            };
            let partners = partners.into_iter().map(|(_, other)| other);
            let partners = partners.filter(|other| reach(self, *other)).take(PARTNERS);
            let hosts: Vec<_> = std::iter::once(*host).chain(partners).collect();
            let mut branches = BRANCHES.min(left);
            let before = branches;
            self.repack(&hosts, &mut branches);
            left -= before - branches;
        }
    }

    fn repack(&mut self, hosts: &[usize], branches: &mut usize) -> bool {
        let Some(mut puzzle) = self.puzzle(hosts) else { return false };
        puzzle.branches = *branches;
        let before: f64 = hosts
            .iter()
            .map(|host| self.goal.excess(self.cluster, *host, &self.cluster.room[*host].load))
            .sum();
        let window = self.settings.stability_seconds as f64;
        puzzle.least = (before - LEAST_GAIN) * window;
        puzzle.search(self, 0, 0.0);
        *branches = puzzle.branches;
        let Some(best) = puzzle.best else { return false };
        let moves: Vec<_> = puzzle
            .free
            .iter()
            .zip(&best)
            .filter(|(free, to)| free.home != **to)
            .map(|(free, to)| (vec![free.vm], narrow(puzzle.hosts[*to])))
            .collect();
        if let [(unit, to)] = moves.as_slice() {
            let from = puzzle
                .hosts
                .iter()
                .find(|host| self.cluster.vms[unit[0] as usize].host == Some(narrow(**host)));
            return from.is_some_and(|from| self.single(*from, unit.clone(), *to));
        }
        let (mark, count) = (self.drafts.len(), moves.len());
        let reasons: Vec<_> = moves.iter().map(|(unit, to)| self.part(unit, *to, count)).collect();
        let unit_of: Vec<_> = moves.iter().map(|(unit, _)| unit[0]).collect();
        let left = self.sequence(moves, &|unit| {
            let at = unit_of.iter().position(|vm| *vm == unit[0]).unwrap_or(0);
            (Why::Load, reasons[at].clone(), 0.0)
        });
        let after: f64 = hosts
            .iter()
            .map(|host| self.goal.excess(self.cluster, *host, &self.cluster.room[*host].load))
            .sum();
        let cost: f64 = self.drafts[mark..].iter().map(|draft| self.cost(&draft.vms)).sum();
        if left.is_empty() && self.net(before - after, cost).is_some() {
            let share = (before - after) / count as f64;
            self.drafts[mark..].iter_mut().for_each(|draft| draft.gain = share);
            return true;
        }
        self.undo_to(mark);
        false
    }

    /// The only move of a new packing.
    fn single(&mut self, from: usize, unit: Vec<u32>, to: u32) -> bool {
        let item = self.item(&unit);
        self.lift(&unit);
        let fits = self.cluster.fits(&item, to as usize);
        self.put(&unit, narrow(from));
        let gain = self.goal.gain(self.cluster, (from, to as usize), &item.load, &[0.0; 4]);
        let worth = self.net(gain, self.cost(&unit)).is_some();
        if fits && worth {
            self.take(from, unit, to, gain);
        }
        fits && worth
    }

    /// What one of several moves is for.
    fn part(&self, unit: &[u32], to: u32, count: usize) -> String {
        let from = self.cluster.vms[unit[0] as usize].host.unwrap_or(to);
        let used = |host: u32| {
            let [cpu, memory] = [0, 1].map(|of| self.percent(host as usize, of));
            format!("{cpu:.0} % CPU, {memory:.0} % memory wanted")
        };
        format!(
            "one of {count} moves that help only together: {} goes from host `{}` ({}) to host `{}` \
             ({}); the goal is {:.0} % CPU, {:.0} % memory",
            self.told(unit),
            self.cluster.name_of(from),
            used(from),
            self.cluster.name_of(to),
            used(to),
            self.goal.most[0] * 100.0,
            self.goal.most[1] * 100.0,
        )
    }

    /// The hosts without the VMs that are to be put back.
    fn puzzle(&self, hosts: &[usize]) -> Option<Puzzle> {
        let mut free = Vec::new();
        for (home, host) in hosts.iter().enumerate() {
            for vm in &self.cluster.vms_on[*host] {
                if !self.is_free(*vm) || self.unit(*vm).len() > 1 {
                    continue;
                }
                let item = self.cluster.vms[*vm as usize].item.clone();
                let classes = self.cluster.hosts_of_all(&item.classes);
                let allowed = hosts.iter().map(|other| other == host || classes.has(*other));
                let allowed: Vec<_> = allowed.collect();
                let cost = self.cost(&[*vm]);
                free.push(Free { vm: *vm, item, home, allowed, cost });
            }
        }
        let want = |free: &Free| {
            let capacity = self.cluster.room[hosts[free.home]].capacity;
            free.item.load[0] / capacity[0] + free.item.load[1] / capacity[1]
        };
        free.sort_by(|a, b| want(b).total_cmp(&want(a)).then(a.vm.cmp(&b.vm)));
        free.truncate(FREE);
        if free.len() < 2 {
            return None;
        }
        let mut room: Vec<_> = hosts.iter().map(|host| self.cluster.room[*host].free).collect();
        let mut load: Vec<_> = hosts.iter().map(|host| self.cluster.room[*host].load).collect();
        for own in &free {
            room[own.home].iter_mut().zip(own.item.size).for_each(|(room, size)| *room += size);
            load[own.home].iter_mut().zip(own.item.load).for_each(|(sum, load)| *sum -= load);
        }
        let excess = hosts.iter().zip(&load);
        let excess = excess.map(|(host, load)| self.goal.excess(self.cluster, *host, load));
        Some(Puzzle {
            hosts: hosts.to_vec(),
            excess: excess.collect(),
            chosen: vec![0; free.len()],
            free,
            room,
            load,
            best: None,
            least: 0.0,
            branches: 0,
        })
    }
}

impl Puzzle {
    fn search(&mut self, planner: &Planner<'_>, at: usize, cost: f64) {
        let window = planner.settings.stability_seconds as f64;
        let value = self.excess.iter().sum::<f64>() * window + cost;
        if value >= self.least || self.branches == 0 {
            return;
        }
        self.branches -= 1;
        if at == self.free.len() {
            self.least = value;
            self.best = Some(self.chosen.clone());
            return;
        }
        let home = self.free[at].home;
        // Home first: what need not move does not.
        for to in std::iter::once(home).chain((0..self.hosts.len()).filter(|to| *to != home)) {
            let Free { item, allowed, .. } = &self.free[at];
            let whole = &planner.cluster.room[self.hosts[to]];
            let fits = item.size.iter().zip(self.room[to]).all(|(size, room)| *size <= room.max(0));
            let large = item.cpus > whole.widest || item.memory > whole.memory;
            if to != home && (!allowed[to] || !fits || large) {
                continue;
            }
            let (room, load, excess) = (self.room[to], self.load[to], self.excess[to]);
            self.room[to].iter_mut().zip(item.size).for_each(|(room, size)| *room -= size);
            self.load[to].iter_mut().zip(item.load).for_each(|(sum, load)| *sum += load);
            self.excess[to] = planner.goal.excess(planner.cluster, self.hosts[to], &self.load[to]);
            let moving = if to == home { 0.0 } else { self.free[at].cost };
            self.chosen[at] = to;
            self.search(planner, at + 1, cost + moving);
            (self.room[to], self.load[to], self.excess[to]) = (room, load, excess);
        }
    }
}
