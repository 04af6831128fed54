//! What decisions must hold to, against a checker that shares nothing with them but the snapshot.

#![expect(clippy::unwrap_used, reason = "a test's helper fails the test")]

mod balance;
mod checker;
mod placement;
mod rules;
mod tape;
mod whatif;
