//! Levelling load by single moves: from the busiest host, the move that is worth the most.

use std::collections::{BinaryHeap, HashMap};

use super::Why;
use super::planner::{LEAST_GAIN, Planner, WISH};
use crate::cluster::{ClassIndex, Item, Load, narrow};

/// How often hosts without a helpful move are looked at again after others have moved VMs.
const ROUNDS: usize = 6;
/// How many moves a list of targets serves before it is made anew.
const LIST_SERVES: usize = 32;

/// The least busy hosts that a class can be on, the least busy first.
#[derive(Debug)]
struct Targets {
    hosts: Vec<u32>,
    /// How many steps the plan had when it was made.
    made_at: usize,
    served: usize,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Heat {
    excess: f64,
    host: usize,
}
impl Eq for Heat {}
impl Ord for Heat {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.excess.total_cmp(&other.excess).then(other.host.cmp(&self.host))
    }
}
impl PartialOrd for Heat {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// A move that was found.
#[derive(Debug, Clone)]
struct Found {
    net: f64,
    gain: f64,
    unit: Vec<u32>,
    to: u32,
}

impl Planner<'_> {
    /// Levels load until no move is worth it.
    pub(super) fn level(&mut self) {
        self.goal = super::goal::Goal::of(self.cluster, self.settings);
        self.repack_small();
        // Until nothing helps any more, so that a second run finds nothing either.
        for _ in 0..ROUNDS {
            let before = self.drafts.len();
            let hot = self.single_moves();
            self.exchange(&hot);
            self.repack_hot(&hot);
            if self.drafts.len() == before {
                break;
            }
        }
    }

    /// Answers the hosts that no single move helps.
    fn single_moves(&mut self) -> Vec<usize> {
        let mut lists = HashMap::new();
        let mut hot: Vec<usize> = super::goal::available(self.cluster).collect();
        for _ in 0..ROUNDS {
            let before = self.drafts.len();
            hot = self.round(&hot, &mut lists);
            if self.drafts.len() == before {
                break;
            }
        }
        hot
    }

    /// Cools hosts one move at a time, always the hottest; answers those that no move helps.
    fn round(&mut self, hosts: &[usize], lists: &mut HashMap<ClassIndex, Targets>) -> Vec<usize> {
        let mut heap: BinaryHeap<_> = hosts.iter().filter_map(|host| self.heat(*host)).collect();
        let mut left = Vec::new();
        while let Some(hottest) = heap.pop() {
            // Others have moved VMs to or from it since it was put there.
            match self.heat(hottest.host) {
                Some(now) if now == hottest => {}
                Some(now) => {
                    heap.push(now);
                    continue;
                }
                None => continue,
            }
            let found = if self.steps_left() { self.best_from(hottest.host, lists) } else { None };
            let Some(found) = found else {
                left.push(hottest.host);
                continue;
            };
            let to = found.to as usize;
            self.take(hottest.host, found.unit, found.to, found.gain);
            heap.extend(self.heat(hottest.host));
            heap.extend(self.heat(to));
        }
        left.sort_unstable();
        left.dedup();
        left
    }

    fn heat(&self, host: usize) -> Option<Heat> {
        let excess = self.goal.excess(self.cluster, host, &self.cluster.room[host].load);
        // Less is not worth any move.
        (excess >= LEAST_GAIN).then_some(Heat { excess, host })
    }

    /// Moves for load, and says what for.
    pub(super) fn take(&mut self, from: usize, unit: Vec<u32>, to: u32, gain: f64) {
        let told = self.told(&unit);
        let before = [0, 1].map(|of| self.percent(from, of));
        let target_before = [0, 1].map(|of| self.percent(to as usize, of));
        let cost = self.cost(&unit);
        let (a, b) = (self.cluster.hosts[from].name.clone(), self.cluster.name_of(to).to_owned());
        let at = self.drafts.len();
        self.step(unit, to, Why::Load, String::new(), gain);
        let after = [0, 1].map(|of| self.percent(from, of));
        let target_after = [0, 1].map(|of| self.percent(to as usize, of));
        // The resource that this is about.
        let over = |of: usize| before[of] / 100.0 - self.goal.most[of];
        let (of, what) = if over(0) >= over(1) { (0, "CPU") } else { (1, "memory") };
        self.drafts[at].reason = format!(
            "the VMs of host `{a}` want {:.0} % of its {what}, the goal is {:.0} %; without {told} it \
             is {:.0} %, and host `{b}` goes from {:.0} % to {:.0} %; gains {:.1} host-seconds, costs \
             {cost:.1}",
            before[of],
            self.goal.most[of] * 100.0,
            after[of],
            target_before[of],
            target_after[of],
            gain * self.settings.stability_seconds as f64,
        );
    }

    /// The move from a host that is worth the most.
    fn best_from(
        &mut self,
        host: usize,
        lists: &mut HashMap<ClassIndex, Targets>,
    ) -> Option<Found> {
        let nothing: Load = [0.0; 4];
        let mut candidates: Vec<(f64, u32)> = Vec::new();
        let before = self.goal.excess(self.cluster, host, &self.cluster.room[host].load);
        for vm in &self.cluster.vms_on[host] {
            // More than the host gets rid of is not to be gained.
            let mut rest = self.cluster.room[host].load;
            let item = &self.cluster.vms[*vm as usize].item;
            rest.iter_mut().zip(item.load).for_each(|(rest, own)| *rest -= own);
            let most = before - self.goal.excess(self.cluster, host, &rest);
            let together = !item.rules.is_empty();
            if (most > 0.0 || together) && self.is_free(*vm) {
                candidates.push((most, *vm));
            }
        }
        candidates.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut best: Option<Found> = None;
        for (most, vm) in candidates {
            let unit = self.unit(vm);
            let alone = unit.len() == 1;
            let cost = self.cost(&unit);
            let bound = most * self.settings.stability_seconds as f64 - cost;
            let has_wishes = !self.cluster.vms[vm as usize].item.rules.is_empty();
            if alone && !has_wishes && best.as_ref().is_some_and(|best| best.net >= bound) {
                continue;
            }
            // A unit is looked at once, by its first VM.
            if !alone
                && (unit.iter().any(|other| *other < vm)
                    || !unit.iter().all(|vm| self.is_free(*vm)))
            {
                continue;
            }
            let item =
                if alone { self.cluster.vms[vm as usize].item.clone() } else { self.item(&unit) };
            let lifted = !item.rules.is_empty();
            if lifted {
                self.lift(&unit);
            }
            let target = self.best_target(&item, host, lists).map(|to| {
                let before = f64::from(self.cluster.broken_wishes(&item, host));
                let after = f64::from(self.cluster.broken_wishes(&item, to as usize));
                (to, (before - after) * WISH)
            });
            if lifted {
                self.put(&unit, narrow(host));
            }
            let Some((to, wishes)) = target else { continue };
            let hosts = (host, to as usize);
            let gain = self.goal.gain(self.cluster, hosts, &item.load, &nothing) + wishes;
            if let Some(net) = self.net(gain, cost)
                && best.as_ref().is_none_or(|best| net > best.net)
            {
                best = Some(Found { net, gain, unit, to });
            }
        }
        if let Some(found) = &best
            && let [vm] = *found.unit.as_slice()
            && let [class] = *self.cluster.vms[vm as usize].item.classes.as_slice()
            && let Some(list) = lists.get_mut(&class)
        {
            list.served += 1;
        }
        best
    }

    /// The best host for something that leaves another: the first of the least busy ones that stays
    /// below the goal and breaks no wish, else the one where that is least.
    fn best_target(
        &self,
        item: &Item,
        from: usize,
        lists: &mut HashMap<ClassIndex, Targets>,
    ) -> Option<u32> {
        let together = item.rules.iter().map(|rule| &self.cluster.rules.between[*rule as usize]);
        let bound = together.into_iter().any(|rule| rule.must && rule.together);
        let class = match *item.classes.as_slice() {
            [class] if !bound => class,
            _ => {
                let hosts = self.targets_of(item, bound);
                return self.best_of(item, from, &hosts);
            }
        };
        let steps = self.drafts.len();
        let fresh = |list: &Targets| list.made_at == steps;
        let stale = lists.get(&class).is_none_or(|list| list.served >= LIST_SERVES);
        if stale {
            lists.insert(class, self.list(class));
        }
        let found = self.best_of(item, from, &lists[&class].hosts);
        if found.is_some() || fresh(&lists[&class]) {
            return found;
        }
        lists.insert(class, self.list(class));
        self.best_of(item, from, &lists[&class].hosts)
    }

    fn list(&self, class: ClassIndex) -> Targets {
        let hosts = self.coldest(self.cluster.hosts_of(class).ones());
        Targets { hosts, made_at: self.drafts.len(), served: 0 }
    }

    /// The targets of what only some hosts can take: VMs that go together, or to where others are.
    fn targets_of(&self, item: &Item, bound: bool) -> Vec<u32> {
        let hosts = self.cluster.hosts_of_all(&item.classes);
        if !bound {
            return self.coldest(hosts.ones());
        }
        let allowed = hosts.ones().filter(|host| self.cluster.rules.allow(&item.rules, *host));
        self.coldest(allowed)
    }

    fn coldest(&self, hosts: impl Iterator<Item = usize>) -> Vec<u32> {
        let mut cold: Vec<(f64, u32)> = hosts
            .map(|host| (self.goal.headroom(self.cluster, host), narrow(host)))
            .filter(|(headroom, _)| *headroom > 0.0)
            .collect();
        let by_cold = |a: &(f64, u32), b: &(f64, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        let most = self.settings.targets.max(1);
        if cold.len() > most {
            cold.select_nth_unstable_by(most - 1, by_cold);
            cold.truncate(most);
        }
        cold.sort_unstable_by(by_cold);
        cold.into_iter().map(|(_, host)| host).collect()
    }

    fn best_of(&self, item: &Item, from: usize, hosts: &[u32]) -> Option<u32> {
        let mut best: Option<(f64, u32)> = None;
        for host in hosts {
            let to = *host as usize;
            if to == from || !self.cluster.fits(item, to) {
                continue;
            }
            let mut load = self.cluster.room[to].load;
            let before = self.goal.excess(self.cluster, to, &load);
            load.iter_mut().zip(item.load).for_each(|(load, own)| *load += own);
            let worse = self.goal.excess(self.cluster, to, &load) - before;
            let value = -worse - f64::from(self.cluster.broken_wishes(item, to)) * WISH;
            if best.is_none_or(|(own, _)| value > own) {
                best = Some((value, *host));
            }
            if value >= 0.0 {
                break;
            }
        }
        best.map(|(_, host)| host)
    }
}
