//! What every machine has: randomness and a balloon.

use serde_json::json;

use crate::argument::Arguments;

pub(crate) fn add(args: &mut Arguments) {
    args.object(&json!({ "qom-type": "rng-builtin", "id": "rng-source0" }));
    args.device(&json!({
        "driver": "virtio-rng-pci", "id": "rng0", "bus": "pcie.0", "addr": "0x5",
        "rng": "rng-source0",
    }));
    // Free pages go back to the host by themselves; an inflated balloon gives way before the
    // guest kills its programs.
    args.device(&json!({
        "driver": "virtio-balloon-pci", "id": "balloon0", "bus": "pcie.0", "addr": "0x6",
        "free-page-reporting": true, "deflate-on-oom": true,
    }));
}
