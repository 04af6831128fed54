//! What the end-to-end tests and the benchmark share: a whole Hostler of one's own, with real QEMU.
//!
//! Every [`Instance`] has its own directories and its own network namespace, so that many run at
//! once and nothing outlives them. The command line under test is the one that users type.

mod conversation;
mod guest_image;
mod instance;
mod lab;
mod leftovers;
mod namespace;

pub use conversation::Conversation;
pub use guest_image::{appliance_dir, build_appliance, cache_dir, debian_image, tiny_image};
pub use instance::{Instance, Settings};
pub use lab::{Lab, Link};
pub use leftovers::Leftovers;
pub use namespace::Namespace;

use std::time::{Duration, Instant};

/// Waits until `condition` holds.
///
/// # Panics
/// When it does not within `limit`; says what was waited for.
pub fn eventually(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < limit, "waited {limit:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
