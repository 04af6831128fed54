//! Why the agent refuses or fails, and the problem that the server gets for it.

use std::error::Error;
use std::time::Duration;

use hostler_agent_api::code;
use hostler_endpoint::Problem;
use hostler_types::{DatastoreId, Epoch, ImageId, NetworkId, PowerState, SnapshotId, VmId};

/// A command that was not carried out; nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("the command is of epoch {given}, but the VM is owned under epoch {known}")]
    StaleEpoch { given: Epoch, known: Epoch },
    #[error("the VM {0} is not on this host")]
    NoVm(VmId),
    #[error("the datastore {0} is not known to this host")]
    NoDatastore(DatastoreId),
    #[error("the network {0} is not known to this host")]
    NoNetwork(NetworkId),
    #[error("the image {image} is not on the datastore {datastore}")]
    NoImage { image: ImageId, datastore: DatastoreId },
    #[error("the VM has no snapshot {0}")]
    NoSnapshot(SnapshotId),
    #[error("the VM is {power}; {action} needs it to be {needed}")]
    Power { action: &'static str, power: PowerState, needed: &'static str },
    #[error("{0}")]
    WrongState(String),
    /// Something else needs it; the text names what.
    #[error("{0}")]
    InUse(String),
    #[error("{0}")]
    NoSpace(String),
    #[error("{0}")]
    DatastoreMissing(String),
    /// What became of an earlier command is not known yet; nothing is final.
    #[error("{0}")]
    Unsettled(String),
    #[error("{0}")]
    ImageRefused(String),
    #[error("{0}")]
    Download(String),
    #[error("{0}")]
    NetworkUnavailable(String),
    #[error("{0}")]
    GuestAgent(String),
    #[error("{what} took longer than {} s", .after.as_secs())]
    Timeout { what: String, after: Duration },
    #[error("the operation was cancelled")]
    Cancelled,
    #[error("{0}")]
    Qemu(String),
    /// Another agent did not do its part.
    #[error("{0}")]
    Peer(String),
    /// Whoever asks may not.
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}")]
    Invalid(String),
    /// A bug, or a host that is broken: the text goes to the log, not to the answer.
    #[error("{0}")]
    Internal(String),
}

impl Fault {
    /// Of an error nobody can do anything about but the host's administrator.
    pub(crate) fn internal(what: &str, error: &(dyn Error + 'static)) -> Self {
        Self::Internal(format!("{what}: {}", chain(error)))
    }

    /// Of work on a datastore: if there was no room for it, says so, and where. QEMU and its tools know
    /// no more of it than the system's words.
    pub(crate) fn on(self, datastore: DatastoreId) -> Self {
        const FULL: &str = "No space left on device";
        const QUOTA: &str = "Disk quota exceeded";
        match self {
            Self::Qemu(text)
            | Self::WrongState(text)
            | Self::Internal(text)
            | Self::NoSpace(text)
                if text.contains(FULL) || text.contains(QUOTA) =>
            {
                Self::NoSpace(format!("datastore {datastore} is full: {text}"))
            }
            other => other,
        }
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        let text = fault.to_string();
        match fault {
            Fault::StaleEpoch { .. } => Self::new(409, code::STALE_EPOCH, text),
            Fault::NoVm(_)
            | Fault::NoDatastore(_)
            | Fault::NoNetwork(_)
            | Fault::NoSnapshot(_)
            | Fault::NoImage { .. } => Self::new(404, code::NOT_FOUND, text),
            Fault::Power { .. } | Fault::WrongState(_) => Self::new(409, code::WRONG_STATE, text),
            Fault::InUse(_) => Self::new(409, code::IN_USE, text),
            Fault::NoSpace(_) => Self::new(507, code::NO_SPACE, text)
                .hint("free some space, or use another datastore"),
            Fault::DatastoreMissing(_) => Self::new(503, code::DATASTORE_MISSING, text)
                .hint("mount the datastore's file system on the host"),
            Fault::Unsettled(_) => Self::new(503, code::UNSETTLED, text)
                .hint("mount the datastore's file system on the host"),
            Fault::ImageRefused(_) => Self::new(422, code::IMAGE_REFUSED, text),
            Fault::Download(_) => Self::new(502, code::DOWNLOAD_FAILED, text)
                .hint("try again: the download goes on where it stopped"),
            Fault::NetworkUnavailable(_) => Self::new(422, code::NETWORK_UNAVAILABLE, text),
            Fault::GuestAgent(_) => Self::new(409, code::GUEST_AGENT_UNAVAILABLE, text),
            Fault::Timeout { .. } => Self::new(504, code::TIMEOUT, text),
            Fault::Cancelled => Self::new(409, code::CANCELLED, text),
            Fault::Qemu(_) => Self::new(502, code::QEMU_FAILED, text),
            Fault::Peer(_) => Self::new(502, code::PEER_FAILED, text)
                .hint("look whether the two hosts reach each other"),
            Fault::Forbidden(_) => Self::new(403, code::FORBIDDEN, text),
            Fault::Invalid(_) => Self::new(400, "invalid", text),
            Fault::Internal(_) => {
                tracing::error!(error = text, "internal error");
                Self::new(500, code::INTERNAL, "the agent failed at this; its log says more")
            }
        }
    }
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
