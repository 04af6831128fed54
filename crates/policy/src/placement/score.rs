//! What a host costs: the less, the better.
//!
//! `total = strategy + 2 · broken wishes + 4 · deficit`. The strategy's part lies within 0 to 2, so
//! that a `should` rule weighs more than any difference in room; a VM that would starve weighs most.

use crate::cluster::{CPU, Cluster, Item, MEMORY, Strategy, UNLIMITED};

const WISH: f64 = 2.0;
const DEFICIT: f64 = 4.0;
/// Of a host, in bytes: 64 TiB.
const MOST_MEMORY: f64 = (1_u64 << 46) as f64;

/// The parts of a host's cost, for explanations.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Parts {
    /// See [`Cluster::strategy_cost`].
    pub(crate) strategy: f64,
    /// How many `should` rules would be broken.
    pub(crate) wishes: u32,
    /// Entitlement that would be unmet, in parts of the host's capacity.
    pub(crate) deficit: f64,
}

/// Ordered, and never NaN: sums of quotients whose denominators are at least 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cost(f64);

impl Parts {
    pub(crate) fn total(self) -> Cost {
        Cost(self.strategy + WISH * f64::from(self.wishes) + DEFICIT * self.deficit)
    }
}

impl Cost {
    pub(crate) fn value(self) -> f64 {
        self.0
    }
}

impl PartialOrd for Cost {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.0.total_cmp(&other.0))
    }
}

impl Cluster {
    pub(crate) fn cost(&self, item: &Item, host: usize) -> Parts {
        Parts {
            strategy: self.strategy_cost(item, host),
            wishes: self.broken_wishes(item, host),
            deficit: self.deficit_after(item, host),
        }
    }

    /// How many `should` rules an item on a host breaks.
    pub(crate) fn broken_wishes(&self, item: &Item, host: usize) -> u32 {
        let with_host = item.classes.iter().map(|class| self.broken_host_wishes(*class, host));
        self.rules.broken_wishes(&item.rules, host) + with_host.sum::<u32>()
    }

    /// Pack: how much of the host stays free, plus how unevenly (0 to 2): the residual is aligned
    /// with what VMs ask for, and no host ends with memory and no CPUs. Spread: the use of the
    /// scarcest resource, plus a hundredth of the mean. Free memory:
    /// its opposite, in parts of the most that a host can have: exact, as that is a power of 2.
    fn strategy_cost(&self, item: &Item, host: usize) -> f64 {
        let room = &self.room[host];
        // Where any may be promised, what is there counts: hosts of all sizes are filled alike.
        let free = |of: usize| match of {
            MEMORY if room.most[of] == UNLIMITED => room.memory - room.promised_memory,
            CPU if room.most[of] == UNLIMITED => room.cpus - room.promised_cpus,
            _ => room.free[of],
        };
        let left = |of: usize| (free(of) - item.size[of]) as f64 / room.scale[of];
        let (memory, cpu) = (left(MEMORY), left(CPU));
        match self.settings.strategy {
            Strategy::Pack => (memory + cpu) / 2.0 + (memory - cpu).abs(),
            Strategy::Spread => {
                let least = memory.min(cpu).min(left(2)).min(left(3));
                1.0 - least + (2.0 - memory - cpu) / 200.0
            }
            Strategy::FreeMemory => {
                1.0 - (room.memory - room.promised_memory - item.size[MEMORY]) as f64 / MOST_MEMORY
            }
        }
    }

    /// What the host's VMs lack already, and what this one's demand would be beyond its capacity.
    fn deficit_after(&self, item: &Item, host: usize) -> f64 {
        let room = &self.room[host];
        let beyond = |of: usize| {
            ((room.load[of] + item.load[of] - room.capacity[of]) / room.capacity[of]).max(0.0)
        };
        room.deficit + beyond(0) + beyond(1)
    }
}
