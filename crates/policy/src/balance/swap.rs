//! Exchanging two VMs, where no single move helps: hosts that are too busy and full of VMs that fit
//! nowhere else as things are.

use super::Why;
use super::goal::available;
use super::planner::Planner;
use crate::cluster::narrow;

/// VMs of a busy host that are looked at, those that want the most.
const OWN: usize = 12;
/// Hosts with which each is looked at, the least busy.
const PARTNERS: usize = 24;
/// Pairs that are looked at in one plan: about half a second.
const MOST_PAIRS: usize = 4_000_000;

impl Planner<'_> {
    /// Exchanges VMs of hosts that single moves do not help.
    pub(super) fn exchange(&mut self, hot: &[usize]) {
        let mut pairs = MOST_PAIRS;
        for host in hot {
            while self.steps_left() && pairs > 0 {
                let excess = self.goal.excess(self.cluster, *host, &self.cluster.room[*host].load);
                if excess <= 0.0 || !self.exchange_one(*host, &mut pairs) {
                    break;
                }
            }
        }
    }

    fn exchange_one(&mut self, host: usize, pairs: &mut usize) -> bool {
        let alone = |planner: &Self, vm: u32| planner.is_free(vm) && planner.unit(vm).len() == 1;
        let mut own: Vec<_> = self.cluster.vms_on[host].clone();
        own.retain(|vm| alone(self, *vm));
        let want = |planner: &Self, vm: u32| {
            let load = planner.cluster.vms[vm as usize].item.load;
            let capacity = planner.cluster.room[host].capacity;
            load[0] / capacity[0] + load[1] / capacity[1]
        };
        own.sort_unstable_by(|a, b| want(self, *b).total_cmp(&want(self, *a)).then(a.cmp(b)));
        own.truncate(OWN);
        let mut partners: Vec<_> = available(self.cluster)
            .filter(|other| *other != host)
            .map(|other| (self.goal.headroom(self.cluster, other), other))
            .filter(|(headroom, _)| *headroom > 0.0)
            .collect();
        partners.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut found: Vec<(f64, f64, u32, u32)> = Vec::new();
        for vm in own {
            let item = self.cluster.vms[vm as usize].item.clone();
            let hosts = self.cluster.hosts_of_all(&item.classes);
            let mut looked = 0;
            for (_, other) in &partners {
                if looked == PARTNERS || *pairs == 0 {
                    break;
                }
                if !hosts.has(*other) {
                    continue;
                }
                looked += 1;
                for back in &self.cluster.vms_on[*other] {
                    *pairs = pairs.saturating_sub(1);
                    let back_item = &self.cluster.vms[*back as usize].item;
                    let gain =
                        self.goal.gain(self.cluster, (host, *other), &item.load, &back_item.load);
                    if gain <= super::planner::LEAST_GAIN || !self.could_exchange(vm, *back) {
                        continue;
                    }
                    let cost = self.cost(&[vm]) + self.cost(&[*back]);
                    if let Some(net) = self.net(gain, cost)
                        && alone(self, *back)
                    {
                        found.push((net, gain, vm, *back));
                    }
                }
            }
        }
        found.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then((a.2, a.3).cmp(&(b.2, b.3))));
        found.into_iter().take(8).any(|(_, gain, vm, back)| self.exchanged(vm, back, gain))
    }

    /// Whether both fit when both have left, by size alone; rules are looked at on the way.
    fn could_exchange(&self, vm: u32, back: u32) -> bool {
        let facts = |vm: u32| &self.cluster.vms[vm as usize];
        let fits = |coming: u32, leaving: u32| {
            let Some(host) = facts(leaving).host else { return false };
            let room = &self.cluster.room[host as usize];
            let sizes = facts(coming).item.size.into_iter().zip(facts(leaving).item.size);
            let mut each = room.free.into_iter().zip(sizes);
            each.all(|(free, (size, leaving))| size <= (free + leaving).max(0))
        };
        fits(vm, back) && fits(back, vm)
    }

    fn exchanged(&mut self, vm: u32, back: u32, gain: f64) -> bool {
        let place = |planner: &Self, vm: u32| planner.cluster.vms[vm as usize].host;
        let (Some(here), Some(there)) = (place(self, vm), place(self, back)) else { return false };
        let mark = self.drafts.len();
        let (told, told_back) = (self.told(&[vm]), self.told(&[back]));
        let (a, b) =
            (self.cluster.name_of(here).to_owned(), self.cluster.name_of(there).to_owned());
        let (before, goal) = (self.percent(here as usize, 0), self.goal.most[0] * 100.0);
        let reason = format!(
            "the VMs of host `{a}` want {before:.0} % of its CPU (goal {goal:.0} %) and no single move \
             helps; {told} is exchanged with {told_back} of host `{b}`, which gains {:.1} host-seconds",
            gain * self.settings.stability_seconds as f64
        );
        let wanted = vec![(vec![vm], there), (vec![back], here)];
        let left = self.sequence(wanted, &|unit| {
            (Why::Load, reason.clone(), if unit == [vm] { gain } else { 0.0 })
        });
        // Where they stepped aside, the migrations cost more than was reckoned.
        let cost: f64 = self.drafts[mark..].iter().map(|draft| self.cost(&draft.vms)).sum();
        if left.is_empty() && self.net(gain, cost).is_some() {
            return true;
        }
        self.undo_to(mark);
        debug_assert_eq!(self.cluster.vms[vm as usize].host, Some(narrow(here as usize)));
        false
    }
}
