//! The tests of the task engine, with toy worlds.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bench;
mod children;
mod harness;
mod life;
mod steer;
mod toy;
