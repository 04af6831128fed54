//! A plan in the making: the cluster as it will be, and the steps that led there.

use hostler_types::ByteSize;

use super::goal::Goal;
use super::{BalanceSettings, Blocked, Why};
use crate::cluster::{Automation, Cluster, HostCondition, Item, narrow};

/// A migration takes this long besides copying memory, in seconds: pre-checks, connecting, the last
/// pass, announcing addresses.
const FIXED_SECONDS: f64 = 10.0;
/// What a migration takes of the two hosts while it lasts, in parts of a host.
const OVERHEAD: f64 = 0.05;
/// What a broken `should` rule is worth, in parts of a host.
pub(super) const WISH: f64 = 0.05;
/// No move gains less, in parts of a host: noise of measuring would move VMs to and fro.
pub(super) const LEAST_GAIN: f64 = 0.002;

/// A step before it is put in order with the others.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) vms: Vec<u32>,
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) why: Why,
    pub(super) reason: String,
    pub(super) gain: f64,
}

#[derive(Debug)]
pub(super) struct Planner<'a> {
    pub(super) cluster: &'a mut Cluster,
    pub(super) settings: &'a BalanceSettings,
    pub(super) goal: Goal,
    /// VMs that have a step already: they move once.
    pub(super) moved: Vec<bool>,
    pub(super) drafts: Vec<Draft>,
    pub(super) blocked: Vec<Blocked>,
}

impl<'a> Planner<'a> {
    pub(super) fn new(cluster: &'a mut Cluster, settings: &'a BalanceSettings) -> Self {
        let moved = vec![false; cluster.vms.len()];
        let goal = Goal::of(cluster, settings);
        Self { cluster, settings, goal, moved, drafts: Vec::new(), blocked: Vec::new() }
    }

    pub(super) fn finish(self) -> (Vec<Draft>, Vec<Blocked>) {
        (self.drafts, self.blocked)
    }

    /// Why a VM cannot be moved whatever for, if it cannot.
    pub(super) fn stuck(&self, vm: u32) -> Option<String> {
        let facts = &self.cluster.vms[vm as usize];
        let host = facts.host?;
        if let Some(pinned) = &facts.pinned {
            return Some(format!("vm `{}` cannot be moved: {pinned}", facts.name));
        }
        if facts.automation.unwrap_or(self.settings.automation) == Automation::Disabled {
            return Some(format!(
                "vm `{}` is excluded from moves; move it by hand, or change its automation",
                facts.name
            ));
        }
        if self.cluster.hosts[host as usize].condition == HostCondition::Disconnected {
            let host = self.cluster.name_of(host);
            return Some(format!("vm `{}` is on host `{host}`, which does not answer", facts.name));
        }
        None
    }

    /// Whether a VM may be moved for what need not be.
    pub(super) fn is_free(&self, vm: u32) -> bool {
        let recent = self.cluster.vms[vm as usize].seconds_since_move;
        !self.moved[vm as usize]
            && recent.is_none_or(|seconds| seconds >= self.settings.cool_down_seconds)
            && self.stuck(vm).is_none()
    }

    /// The VMs that have to move with this one, itself included: those on its host that a `must`
    /// rule keeps with it, directly or through others.
    pub(super) fn unit(&self, vm: u32) -> Vec<u32> {
        let mut unit = vec![vm];
        let mut at = 0;
        while let Some(vm) = unit.get(at).copied() {
            at += 1;
            let facts = &self.cluster.vms[vm as usize];
            let Some(host) = facts.host else { continue };
            for rule in &facts.item.rules {
                let between = &self.cluster.rules.between[*rule as usize];
                if !(between.must && between.together && between.scope == 0) {
                    continue;
                }
                for other in &self.cluster.vms_on[host as usize] {
                    let rules = &self.cluster.vms[*other as usize].item.rules;
                    if !unit.contains(other) && rules.binary_search(rule).is_ok() {
                        unit.push(*other);
                    }
                }
            }
        }
        unit
    }

    pub(super) fn item(&self, unit: &[u32]) -> Item {
        let mut item = self.cluster.vms[unit[0] as usize].item.clone();
        for vm in &unit[1..] {
            item.merge(&self.cluster.vms[*vm as usize].item, &self.cluster.rules);
        }
        item
    }

    pub(super) fn lift(&mut self, unit: &[u32]) {
        for vm in unit {
            self.cluster.lift(*vm);
        }
    }

    pub(super) fn put(&mut self, unit: &[u32], host: u32) {
        for vm in unit {
            self.cluster.put(*vm, host);
        }
    }

    /// Moves a unit and notes the step.
    pub(super) fn step(&mut self, unit: Vec<u32>, to: u32, why: Why, reason: String, gain: f64) {
        let from = self.cluster.vms[unit[0] as usize].host.expect("what moves is somewhere");
        self.lift(&unit);
        self.put(&unit, to);
        for vm in &unit {
            self.moved[*vm as usize] = true;
        }
        self.drafts.push(Draft { vms: unit, from, to, why, reason, gain });
    }

    /// What moving a unit costs: `(time + 10 s) · 5 %` of a host, and up to a second's worth of it
    /// for the pause that a guest feels that writes nearly as fast as the link is. In host-seconds.
    pub(super) fn cost(&self, unit: &[u32]) -> f64 {
        let each = unit.iter().map(|vm| {
            let facts = &self.cluster.vms[*vm as usize];
            let dirty = facts.dirty_rate / (self.settings.bandwidth.0 as f64).max(1.0);
            let seconds = seconds(self.cluster, *vm, self.settings);
            (seconds + FIXED_SECONDS) * OVERHEAD + dirty.min(1.0)
        });
        each.sum()
    }

    /// Whether a gain over the stability window is worth a cost: by how much it must exceed it
    /// depends on the aggressiveness.
    pub(super) fn net(&self, gain: f64, cost: f64) -> Option<f64> {
        const MARGINS: [f64; 5] = [f64::INFINITY, 4.0, 2.0, 1.5, 1.0];
        let margin = MARGINS[usize::from(self.settings.aggressiveness.clamp(1, 5)) - 1];
        let benefit = gain * self.settings.stability_seconds as f64;
        (gain >= LEAST_GAIN && benefit > cost * margin).then_some(benefit - cost)
    }

    /// As in "`web01` (3200 MHz, 4GiB, 12 % ready)".
    pub(super) fn told(&self, unit: &[u32]) -> String {
        let item = self.item(unit);
        let memory = ByteSize(u64::try_from(item.size[0]).unwrap_or(0));
        let names: Vec<_> =
            unit.iter().map(|vm| self.cluster.vms[*vm as usize].name.clone()).collect();
        let ready =
            unit.iter().map(|vm| self.cluster.vms[*vm as usize].contention.cpu_ready_permille);
        let ready = match ready.max().unwrap_or(0) / 10 {
            0 => String::new(),
            percent => format!(", {percent} % ready"),
        };
        format!("{} ({:.0} MHz, {memory}{ready})", crate::placement::listed(&names), item.load[0])
    }

    pub(super) fn percent(&self, host: usize, of: usize) -> f64 {
        let room = &self.cluster.room[host];
        room.load[of] / room.capacity[of] * 100.0
    }

    pub(super) fn blocked(&mut self, unit: &[u32], why: Why, reason: String) {
        let vms: Vec<_> = unit.iter().map(|vm| self.cluster.vms[*vm as usize].id).collect();
        // It may have been tried before.
        self.blocked.retain(|own| own.why != why || own.vms != vms);
        self.blocked.push(Blocked { vms, why, reason });
    }

    /// All VMs of a host, those that take the most first.
    pub(super) fn largest_first(&self, host: usize) -> Vec<u32> {
        let mut vms = self.cluster.vms_on[host].clone();
        let size = |vm: u32| self.cluster.vms[vm as usize].item.size;
        vms.sort_unstable_by(|a, b| size(*b).cmp(&size(*a)).then(a.cmp(b)));
        vms
    }

    /// Hosts of a unit's classes but for one.
    pub(super) fn hosts_but(&self, item: &Item, host: u32) -> crate::cluster::Bits {
        let mut hosts = self.cluster.hosts_of_all(&item.classes);
        let mut not = crate::cluster::Bits::none(self.cluster.hosts.len());
        not.insert(host as usize);
        hosts.and_not(&not);
        hosts
    }

    pub(super) fn steps(&self) -> usize {
        self.drafts.len()
    }

    pub(super) fn steps_left(&self) -> bool {
        self.drafts.len() < self.settings.most_steps
    }

    pub(super) fn seed(&self) -> u64 {
        self.settings.seed.wrapping_add(u64::from(narrow(self.drafts.len())))
    }
}

/// How long it takes to copy a VM's memory while its guest goes on writing: `m / (b − d)`, with at
/// least a tenth of the bandwidth left over, as throttling sees to.
pub(super) fn seconds(cluster: &Cluster, vm: u32, settings: &BalanceSettings) -> f64 {
    let facts = &cluster.vms[vm as usize];
    let bandwidth = (settings.bandwidth.0 as f64).max(1.0);
    facts.item.memory as f64 / (bandwidth - facts.dirty_rate).max(bandwidth / 10.0)
}
