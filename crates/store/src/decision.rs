//! Decisions that are kept beside the objects, so that they can be explained and made again.

use hostler_types::{DecidedVm, Decision, DecisionId, Revision};

/// How many decisions are kept, and how large their records are together, in bytes. Beyond either
/// the oldest go; the newest stays, whatever its size.
pub const MOST_DECISIONS: u64 = 10_000;
pub const MOST_DECISION_BYTES: u64 = 256 << 20;

/// A decision that is to be kept with what it leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDecision {
    pub id: DecisionId,
    /// What it was made for, such as `vm.create`.
    pub action: String,
    /// Of the inventory that it was made from.
    pub revision: Revision,
    pub vms: Vec<DecidedVm>,
    pub sentences: Vec<String>,
    /// All that it depended on and what came out, as text that only its makers read.
    pub record: String,
}

/// A decision as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptDecision {
    pub decision: Decision,
    pub record: String,
}
