//! Stable codes of the problems that an agent answers with.

/// The command carries an older ownership epoch than the agent knows (409).
pub const STALE_EPOCH: &str = "stale_epoch";
/// No such VM, image, datastore or network here (404).
pub const NOT_FOUND: &str = "not_found";
/// The VM's power state does not allow it (409).
pub const WRONG_STATE: &str = "wrong_state";
/// Something else needs it; the detail names what (409).
pub const IN_USE: &str = "in_use";
/// The datastore is full (507).
pub const NO_SPACE: &str = "no_space";
/// The datastore's marker is not there: not mounted (503).
pub const DATASTORE_MISSING: &str = "datastore_missing";
/// What became of an earlier command cannot be told now. Unlike any other answer this is not final: ask
/// again with the same operation id (503).
pub const UNSETTLED: &str = "unsettled";
/// The image is not acceptable; the detail says why (422).
pub const IMAGE_REFUSED: &str = "image_refused";
/// The image could not be downloaded; what has arrived is kept (502).
pub const DOWNLOAD_FAILED: &str = "download_failed";
/// The network cannot be set up on this host (422).
pub const NETWORK_UNAVAILABLE: &str = "network_unavailable";
/// The guest agent does not answer (409).
pub const GUEST_AGENT_UNAVAILABLE: &str = "guest_agent_unavailable";
/// It took longer than allowed (504).
pub const TIMEOUT: &str = "timeout";
/// The operation was cancelled (409).
pub const CANCELLED: &str = "cancelled";
/// QEMU did not start or refused; the detail carries its words (502).
pub const QEMU_FAILED: &str = "qemu_failed";
/// Another host did not answer, or refused its part (502).
pub const PEER_FAILED: &str = "peer_failed";
/// The peer's certificate is not one that may ask this (403).
pub const FORBIDDEN: &str = "forbidden";
/// A bug of the agent (500).
pub const INTERNAL: &str = "internal";
