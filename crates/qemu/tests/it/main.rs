//! Command lines as golden files; processes, the probe and guests for real.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

mod command_line;
mod guest;
mod hotplug;
mod probe;
mod process;
mod snapshots;
