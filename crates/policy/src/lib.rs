//! Pure decisions: placement, rules, balancing, what-if, approvals.
//!
//! A decision is a function of plain data handed in: no clock, no I/O, no async, no randomness. So
//! a past decision can be replayed, the same code answers what-if questions, and each comes with an
//! [`Explanation`] in sentences with the numbers.
//!
//! `control` builds the input from its inventory snapshot and carries the decision out.

pub mod approval;
pub mod balance;
pub mod cluster;
pub mod entitlement;
pub mod migration;
pub mod placement;
pub mod pools;
pub mod record;
pub mod rules;
mod snapshots;
pub mod synthetic;
pub mod whatif;

pub use placement::{DatastoreCandidate, refuses, warns};
pub use snapshots::{SnapshotVerdict, further_snapshot, judge_snapshots};
