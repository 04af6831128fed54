//! The clients against a peer that misbehaves in every way, and against QEMU itself.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

mod fake_peer;
mod guest_faults;
mod qemu_monitor;
mod qmp_faults;
