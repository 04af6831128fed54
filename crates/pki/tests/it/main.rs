//! Handshakes between all kinds of right and wrong peers.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod handshake;
mod refusals;
