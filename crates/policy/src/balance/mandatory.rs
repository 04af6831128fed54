//! Moves that must be: VMs leave hosts in maintenance, and rules are repaired.

use super::Why;
use super::planner::{Planner, WISH};
use crate::cluster::{Bits, HostCondition, Item, narrow};
use crate::placement::{Choosing, explain_item};
use crate::rules::{NOWHERE, Strength, violations};

/// How many hosts are tried when room has to be made for a VM.
const ROOM_HOSTS: usize = 64;

impl Planner<'_> {
    /// Empties the hosts in maintenance.
    pub(super) fn evacuate(&mut self) {
        let leaving = (0..self.cluster.hosts.len())
            .filter(|host| self.cluster.hosts[*host].condition == HostCondition::Maintenance);
        for host in leaving.collect::<Vec<_>>() {
            for vm in self.largest_first(host) {
                if self.cluster.vms[vm as usize].host == Some(narrow(host)) {
                    let name = self.cluster.hosts[host].name.clone();
                    let reason = format!("host `{name}` is in maintenance");
                    self.must_move(vm, None, Why::Maintenance, &reason);
                }
            }
        }
    }

    /// Repairs `must` rules, then `should` rules where that is worth a move.
    pub(super) fn repair(&mut self) {
        // A repair can only be made once per VM, so that this ends; a second look finds what the
        // first made possible.
        for _ in 0..2 {
            for violation in violations(self.cluster) {
                if violation.strength == Strength::Should && self.settings.aggressiveness < 2 {
                    continue;
                }
                let vms: Vec<_> = violation
                    .vms
                    .iter()
                    .filter_map(|id| self.cluster.vm(*id))
                    .map(|vm| vm.0)
                    .collect();
                let must = violation.strength == Strength::Must;
                match self.cluster.rules.between.iter().position(|rule| rule.name == violation.rule)
                {
                    Some(rule) if self.cluster.rules.between[rule].together => {
                        self.gather(rule, &vms, must, &violation.sentence);
                    }
                    Some(rule) => self.spread(rule, &vms, must, &violation.sentence),
                    None => {
                        for vm in vms {
                            self.repaired(vm, None, must, &violation.sentence);
                        }
                    }
                }
            }
        }
    }

    /// Notes the `must` rules that still do not hold, and were not told of with a VM.
    pub(super) fn tell_what_is_broken(&mut self) {
        for violation in violations(self.cluster) {
            if violation.strength == Strength::Must {
                let blocked = |vms: &[hostler_types::VmId]| {
                    self.blocked.iter().any(|own| own.vms.iter().any(|vm| vms.contains(vm)))
                };
                if !blocked(&violation.vms) {
                    let reason = format!("{}, and no move would repair it", violation.sentence);
                    self.blocked.push(super::Blocked {
                        vms: violation.vms,
                        why: Why::Rule,
                        reason,
                    });
                }
            }
        }
    }

    /// Brings a rule's VMs to where most of them are.
    fn gather(&mut self, rule: usize, vms: &[u32], must: bool, reason: &str) {
        let scope = self.cluster.rules.between[rule].scope;
        let place = |planner: &Self, vm: u32| {
            let host = planner.cluster.vms[vm as usize].host?;
            Some(planner.cluster.rules.scopes[scope].place(host as usize))
        };
        let mut counts = std::collections::BTreeMap::<u32, i64>::new();
        for vm in vms {
            if let Some(place) = place(self, *vm).filter(|place| *place != NOWHERE) {
                // Those that cannot move decide.
                let weight = if self.stuck(*vm).is_some() { 1 << 50 } else { 1 };
                *counts.entry(place).or_default() += weight;
            }
        }
        let mut places: Vec<_> = counts.into_iter().collect();
        places.sort_unstable_by_key(|(place, count)| (-count, *place));
        // Wherever all the others can go; a place that takes only some would be for nothing.
        for (target, _) in places {
            let others: Vec<_> =
                vms.iter().copied().filter(|vm| place(self, *vm) != Some(target)).collect();
            let mut hosts = Bits::none(self.cluster.hosts.len());
            for host in self.cluster.rules.scopes[scope].hosts_in(target) {
                hosts.insert(host);
            }
            let mark = self.drafts.len();
            let all = others.iter().all(|vm| {
                place(self, *vm) == Some(target) || self.repaired(*vm, Some(&hosts), must, reason)
            });
            if all {
                return;
            }
            self.undo_to(mark);
        }
    }

    /// Takes a rule's VMs apart: in each place one stays.
    fn spread(&mut self, rule: usize, vms: &[u32], must: bool, reason: &str) {
        let scope = self.cluster.rules.between[rule].scope;
        let mut order = vms.to_vec();
        // Those that stay are the ones that cannot move, then the largest.
        order.sort_by_key(|vm| {
            let size = self.cluster.vms[*vm as usize].item.size;
            (!(self.stuck(*vm).is_some() || self.moved[*vm as usize]), std::cmp::Reverse(size), *vm)
        });
        let mut held = std::collections::BTreeSet::new();
        for vm in order {
            let Some(host) = self.cluster.vms[vm as usize].host else { continue };
            let place = self.cluster.rules.scopes[scope].place(host as usize);
            if place != NOWHERE && held.insert(place) {
                continue;
            }
            self.repaired(vm, None, must, reason);
        }
    }

    fn repaired(&mut self, vm: u32, within: Option<&Bits>, must: bool, reason: &str) -> bool {
        if self.moved[vm as usize] {
            return false;
        }
        if must {
            return self.must_move(vm, within, Why::Rule, reason);
        }
        let unit = self.unit(vm);
        if !unit.iter().all(|vm| self.is_free(*vm)) || !self.steps_left() {
            return false;
        }
        let Some(from) = self.cluster.vms[vm as usize].host else { return false };
        let item = self.item(&unit);
        self.lift(&unit);
        let broken = self.cluster.cost(&item, from as usize).wishes;
        let hosts = self.allowed(&item, from, within);
        let spot = self.cluster.choose_among(&item, &hosts, Choosing::seeded(self.seed()));
        let better = spot.map(|spot| {
            let fewer = broken.saturating_sub(self.cluster.cost(&item, spot.host as usize).wishes);
            (spot.host, f64::from(fewer) * WISH)
        });
        self.put(&unit, from);
        let Some((to, wish)) = better else { return false };
        let load =
            self.goal.gain(self.cluster, (from as usize, to as usize), &item.load, &[0.0; 4]);
        let gain = wish + load.min(0.0);
        if wish <= 0.0 || self.net(gain, self.cost(&unit)).is_none() {
            return false;
        }
        let told = self.told(&unit);
        let name = self.cluster.name_of(to).to_owned();
        self.step(unit, to, Why::Rule, format!("{reason}; {told} goes to host `{name}`"), gain);
        true
    }

    fn allowed(&self, item: &Item, from: u32, within: Option<&Bits>) -> Bits {
        let mut hosts = self.hosts_but(item, from);
        if let Some(within) = within {
            hosts.and(within);
        }
        hosts
    }

    /// Moves a VM, and those that go with it, to the best host; making room there if need be.
    fn must_move(&mut self, vm: u32, within: Option<&Bits>, why: Why, reason: &str) -> bool {
        let unit = self.unit(vm);
        let Some(from) = self.cluster.vms[vm as usize].host else { return false };
        if let Some(stuck) = unit.iter().find_map(|vm| self.stuck(*vm)) {
            if within.is_none() {
                self.blocked(&unit, why, format!("{reason}, but {stuck}"));
            }
            return false;
        }
        if unit.iter().any(|vm| self.moved[*vm as usize]) {
            return false;
        }
        let item = self.item(&unit);
        self.lift(&unit);
        let hosts = self.allowed(&item, from, within);
        let spot = self.cluster.choose_among(&item, &hosts, Choosing::seeded(self.seed()));
        let made = if spot.is_none() { self.make_room(&item, &hosts, from) } else { None };
        let why_not = (spot.is_none() && made.is_none() && within.is_none())
            .then(|| explain_item(self.cluster, &item, "it").filters_told());
        self.put(&unit, from);
        if let Some((other, to, elsewhere)) = made {
            let name = self.cluster.name_of(to).to_owned();
            let told = self.told(&unit);
            let room = format!("{reason}; makes room on host `{name}` for {told}");
            let other = self.unit(other);
            self.step(other, elsewhere, Why::Room, room, 0.0);
            self.step(unit, to, why, format!("{reason}; {told} goes to host `{name}`"), 0.0);
            return true;
        }
        match spot {
            Some(spot) => {
                let name = self.cluster.name_of(spot.host).to_owned();
                let told = self.told(&unit);
                self.step(
                    unit,
                    spot.host,
                    why,
                    format!("{reason}; {told} goes to host `{name}`"),
                    0.0,
                );
                true
            }
            None => {
                if let Some(why_not) = why_not {
                    self.blocked(
                        &unit,
                        why,
                        format!("{reason}, but no host can take it: {why_not}"),
                    );
                }
                false
            }
        }
    }

    /// A VM that can leave a host so that an item fits there: the VM, the host, and where it goes.
    /// The smallest whose leaving is enough, on the host that lacks the least.
    /// Not to where the item still is.
    fn make_room(&mut self, item: &Item, hosts: &Bits, from: u32) -> Option<(u32, u32, u32)> {
        let lack = |planner: &Self, host: usize| {
            let room = &planner.cluster.room[host];
            let each = item.size.iter().zip(room.free).zip(room.scale);
            each.map(|((size, free), scale)| (size - free).max(0) as f64 / scale).sum::<f64>()
        };
        let mut tight: Vec<_> = hosts
            .ones()
            .filter(|host| self.cluster.rules.allow(&item.rules, *host))
            .map(|host| (lack(self, host), host))
            .collect();
        tight.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        for (_, host) in tight.into_iter().take(ROOM_HOSTS) {
            let mut others = self.largest_first(host);
            others.reverse();
            for other in others {
                let unit = self.unit(other);
                if !unit.iter().all(|vm| !self.moved[*vm as usize] && self.stuck(*vm).is_none()) {
                    continue;
                }
                let leaving = self.item(&unit);
                self.lift(&unit);
                let elsewhere = if self.cluster.fits(item, host) {
                    let mut targets = self.hosts_but(&leaving, narrow(host));
                    let mut here = Bits::none(self.cluster.hosts.len());
                    here.insert(from as usize);
                    targets.and_not(&here);
                    self.cluster.choose_among(&leaving, &targets, Choosing::seeded(self.seed()))
                } else {
                    None
                };
                self.put(&unit, narrow(host));
                if let Some(spot) = elsewhere {
                    return Some((other, narrow(host), spot.host));
                }
            }
        }
        None
    }

    /// Takes back the steps after a mark.
    pub(super) fn undo_to(&mut self, mark: usize) {
        while self.drafts.len() > mark {
            let Some(draft) = self.drafts.pop() else { return };
            self.lift(&draft.vms);
            self.put(&draft.vms, draft.from);
            for vm in &draft.vms {
                self.moved[*vm as usize] = false;
            }
        }
    }
}
