//! Balancing: which VMs should move where, in what order, and what each move is for.
//!
//! [`balance`] makes a [`Plan`] in three parts. Moves that must be come first: VMs leave hosts in
//! maintenance, and `must` rules that do not hold are repaired. Then `should` rules. Then load: a
//! host is too busy when its VMs want more than the cluster's mean plus a margin; what they want is
//! their entitlement and what contention took from them, not their mere use. Each move is the one
//! whose benefit over the stability window exceeds its cost the most. Where no single move helps,
//! two VMs are exchanged.
//!
//! The steps of a plan can be carried out in any order that [`Step::after`] allows, several at
//! once, and be cancelled anywhere: no `must` rule is broken and no host overfilled on the way,
//! with a VM that moves counted on both hosts.

mod check;
mod goal;
mod greedy;
mod mandatory;
mod order;
mod planner;
mod repack;
mod schedule;
mod swap;

use hostler_types::{ByteSize, HostId, VmId};
use serde::{Deserialize, Serialize};

pub use check::may_begin;
pub use goal::{Balance, fewest_moves, measure};
pub use order::{Unordered, Wanted, order};

use crate::cluster::{Automation, Cluster};
use planner::Planner;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BalanceSettings {
    /// 1 to 5. 1: only moves that must be; 5: as even as is worth the moves.
    pub aggressiveness: u8,
    /// Of VMs that say nothing themselves.
    pub automation: Automation,
    /// How long a move's benefit is counted, in seconds.
    pub stability_seconds: u64,
    /// A VM that moved stays for so long, in seconds, unless it must move.
    pub cool_down_seconds: u64,
    /// Steps of a plan, besides those that must be.
    pub most_steps: usize,
    /// Of one migration, in bytes per second.
    pub bandwidth: ByteSize,
    /// Migrations at once, in and out together.
    pub moves_per_host: u16,
    pub moves_per_link: u16,
    /// How many of the least busy hosts are looked at for each VM.
    pub targets: usize,
    pub seed: u64,
}

impl Default for BalanceSettings {
    fn default() -> Self {
        Self {
            aggressiveness: 3,
            automation: Automation::Full,
            stability_seconds: 3_600,
            cool_down_seconds: 900,
            most_steps: 100_000,
            bandwidth: ByteSize::gib(1),
            moves_per_host: 2,
            moves_per_link: 8,
            targets: 64,
            seed: 0,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// What must move and cannot, and why.
    pub blocked: Vec<Blocked>,
    pub before: Balance,
    pub after: Balance,
}

/// Moves that are made together: one VM, or those that a rule keeps on one host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub moves: Vec<Move>,
    pub why: Why,
    /// Positions of the steps that must be done before this one begins.
    pub after: Vec<usize>,
    /// Steps with the same number can be made at once, within the limits of hosts and links.
    pub wave: u32,
    /// Whether the automation level of its VMs lets it be done without asking.
    pub automatic: bool,
    pub reason: String,
    /// What it gains, in hosts' worth of load beyond the goal that is taken away. 0: it must be.
    pub gain: f64,
    /// The time its migrations need, in seconds, one after the other.
    pub seconds: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    pub vm: VmId,
    pub from: HostId,
    pub to: HostId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    Maintenance,
    Rule,
    Load,
    /// Makes room for a move that must be.
    Room,
    /// Asked for.
    Wanted,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    pub vms: Vec<VmId>,
    pub why: Why,
    pub reason: String,
}

/// How often rules and load are looked at in turn.
const ROUNDS: usize = 4;

/// Plans, and leaves the cluster as it is when all steps are done.
pub fn balance(cluster: &mut Cluster, settings: &BalanceSettings) -> Plan {
    let before = measure(cluster, settings);
    let beginning = schedule::Beginning::of(cluster);
    let mut planner = Planner::new(cluster, settings);
    planner.evacuate();
    // Each can make room for the other.
    for _ in 0..ROUNDS {
        let before = planner.steps();
        planner.repair();
        planner.level();
        if planner.steps() == before {
            break;
        }
    }
    planner.tell_what_is_broken();
    let (drafts, blocked) = planner.finish();
    let steps = schedule::schedule(&beginning, cluster, settings, drafts);
    Plan { steps, blocked, before, after: measure(cluster, settings) }
}
