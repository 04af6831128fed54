//! What is too busy, and what a move gains.
//!
//! For CPU and memory, over 5 minutes and over an hour, a host's use is what its VMs want divided
//! by what it has. It should stay below `max(mean + margin, floor)`: the mean of the hosts that take
//! VMs, and a margin and a floor by aggressiveness. Below the floor VMs do not get in each other's
//! way, and an uneven cluster is as good as an even one. The excess is what is above, and three
//! times what is above all the host has; weighted by the host's size, in average hosts. A gain
//! counts only as far as both the last minutes and the last hour show it.

use serde::{Deserialize, Serialize};

use super::BalanceSettings;
use crate::cluster::{Cluster, HostCondition, Load};

/// Margin over the mean and floor, in parts of a host, by aggressiveness 2 to 5.
const LEVELS: [(f64, f64); 4] = [(0.20, 0.80), (0.15, 0.65), (0.10, 0.50), (0.05, 0.0)];
/// What beyond a host's capacity counts, besides its being beyond the goal.
const STARVING: f64 = 2.0;

/// How balanced a cluster is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Balance {
    /// Hosts above the goal.
    pub busy_hosts: usize,
    /// Load above the goal, in average hosts: over the last minutes or over the last hour, whichever
    /// is less. No load move makes it more, as each lessens both.
    pub excess: f64,
    /// Of the most used host, in parts of its capacity.
    pub most_cpu: f64,
    pub most_memory: f64,
    /// What the hosts should stay below; absent: there is no such goal at aggressiveness 1.
    pub goal_cpu: Option<f64>,
    pub goal_memory: Option<f64>,
    /// What VMs are entitled to and their hosts do not have, in average hosts.
    pub unmet: f64,
}

/// Measures a cluster against its goal.
pub fn measure(cluster: &Cluster, settings: &BalanceSettings) -> Balance {
    let goal = Goal::of(cluster, settings);
    let mut balance = Balance {
        busy_hosts: 0,
        excess: 0.0,
        most_cpu: 0.0,
        most_memory: 0.0,
        goal_cpu: Some(goal.most[0]).filter(|most| most.is_finite()),
        goal_memory: Some(goal.most[1]).filter(|most| most.is_finite()),
        unmet: 0.0,
    };
    let mut sums = [0.0; 2];
    for host in available(cluster) {
        let room = &cluster.room[host];
        let [now, hour] = goal.excesses(cluster, host, &room.load);
        sums = [sums[0] + now, sums[1] + hour];
        balance.busy_hosts += usize::from(now.min(hour) > 0.0);
        let used = |of: usize| room.load[of] / room.capacity[of];
        balance.most_cpu = balance.most_cpu.max(used(0));
        balance.most_memory = balance.most_memory.max(used(1));
        let unmet = |of: usize| (used(of) - 1.0).max(0.0) * goal.weight(cluster, host, of);
        balance.unmet += unmet(0) + unmet(1);
    }
    balance.excess = sums[0].min(sums[1]);
    balance
}

/// A lower bound of the single moves that bring all hosts below the goal: for each host above it,
/// how many of its largest VMs have to leave at least.
pub fn fewest_moves(cluster: &Cluster, settings: &BalanceSettings) -> usize {
    let goal = Goal::of(cluster, settings);
    let fewest = available(cluster).map(|host| {
        let room = &cluster.room[host];
        if goal.excess(cluster, host, &room.load) <= 0.0 {
            return 0;
        }
        let of = |of: usize| {
            let mut above = room.load[of] - goal.most[of] * room.capacity[of];
            let vms = cluster.vms_on[host].iter();
            let mut loads: Vec<_> = vms.map(|vm| cluster.vms[*vm as usize].item.load[of]).collect();
            loads.sort_unstable_by(|a, b| b.total_cmp(a));
            let mut leaving = 0;
            for load in loads {
                if above <= 0.0 {
                    break;
                }
                above -= load;
                leaving += 1;
            }
            leaving
        };
        of(0).max(of(1))
    });
    fewest.sum()
}

/// Positions of hosts that take VMs.
pub(super) fn available(cluster: &Cluster) -> impl Iterator<Item = usize> {
    let hosts = cluster.hosts.iter().enumerate();
    hosts.filter(|(_, facts)| facts.condition == HostCondition::Available).map(|(host, _)| host)
}

#[derive(Debug, Clone)]
pub(super) struct Goal {
    /// What hosts should stay below, in parts of their capacity, as [`Load`].
    pub(super) most: Load,
    /// The mean capacity, in MHz and bytes.
    mean: [f64; 2],
}

impl Goal {
    pub(super) fn of(cluster: &Cluster, settings: &BalanceSettings) -> Self {
        let (mut loads, mut capacity, mut hosts) = ([0.0; 4], [0.0; 2], 0.0);
        for host in available(cluster) {
            let room = &cluster.room[host];
            for (sum, load) in loads.iter_mut().zip(room.load) {
                *sum += load;
            }
            for (sum, own) in capacity.iter_mut().zip(room.capacity) {
                *sum += own;
            }
            hosts += 1.0;
        }
        let level = usize::from(settings.aggressiveness.clamp(1, 5));
        let mut most = [f64::INFINITY; 4];
        if level > 1 && hosts > 0.0 {
            let (margin, floor) = LEVELS[level - 2];
            for (of, most) in most.iter_mut().enumerate() {
                *most = (loads[of] / capacity[of % 2] + margin).max(floor);
            }
        }
        let mean = capacity.map(|sum: f64| sum / f64::max(hosts, 1.0));
        Self { most, mean }
    }

    fn weight(&self, cluster: &Cluster, host: usize, of: usize) -> f64 {
        cluster.room[host].capacity[of] / self.mean[of].max(1.0)
    }

    /// Load above the goal if the host had this load, in average hosts.
    pub(super) fn excess(&self, cluster: &Cluster, host: usize, load: &Load) -> f64 {
        let [now, hour] = self.excesses(cluster, host, load);
        now.min(hour)
    }

    /// Over the last minutes, and over the last hour.
    fn excesses(&self, cluster: &Cluster, host: usize, load: &Load) -> [f64; 2] {
        let room = &cluster.room[host];
        let mut excesses = [0.0; 2];
        for (of, load) in load.iter().enumerate() {
            let used = load / room.capacity[of % 2];
            if used > self.most[of] {
                let beyond = used - self.most[of] + STARVING * (used - 1.0).max(0.0);
                excesses[of / 2] += beyond * room.capacity[of % 2] / self.mean[of % 2].max(1.0);
            }
        }
        excesses
    }

    /// How far the host is from the goal, in its scarcest resource and of both times: positive
    /// below it.
    pub(super) fn headroom(&self, cluster: &Cluster, host: usize) -> f64 {
        let room = &cluster.room[host];
        let each = (0..4).map(|of| self.most[of].min(2.0) - room.load[of] / room.capacity[of % 2]);
        each.fold(f64::INFINITY, f64::min)
    }

    /// What it gains when load leaves one host for another, and comes back for it.
    pub(super) fn gain(
        &self,
        cluster: &Cluster,
        (from, to): (usize, usize),
        leaving: &Load,
        coming: &Load,
    ) -> f64 {
        let shifted = |host: usize, sign: f64| {
            let mut load = cluster.room[host].load;
            for (of, load) in load.iter_mut().enumerate() {
                *load += sign * (coming[of] - leaving[of]);
            }
            load
        };
        let before_from = self.excesses(cluster, from, &cluster.room[from].load);
        let before_to = self.excesses(cluster, to, &cluster.room[to].load);
        let after_from = self.excesses(cluster, from, &shifted(from, 1.0));
        let after_to = self.excesses(cluster, to, &shifted(to, -1.0));
        let gain = |at: usize| before_from[at] + before_to[at] - after_from[at] - after_to[at];
        gain(0).min(gain(1))
    }
}
