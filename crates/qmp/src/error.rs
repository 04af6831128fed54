//! What can go wrong between this process and QEMU's monitor.

use std::{io, sync::Arc, time::Duration};

use serde::Deserialize;
use thiserror::Error;

/// Why one command has no result.
#[derive(Debug, Clone, Error)]
pub enum QmpError {
    /// QEMU understood the command and refused it, or failed at it.
    #[error("QEMU refused {command}: {description}")]
    Refused {
        /// The command's name.
        command: &'static str,
        /// QEMU's error class, the only part made for programs.
        class: ErrorClass,
        /// QEMU's sentence, for people.
        description: String,
    },
    /// No answer came in time. The command may still take effect later; its late answer is
    /// discarded.
    #[error("QEMU did not answer {command} within {} ms", after.as_millis())]
    Timeout {
        /// The command's name.
        command: &'static str,
        /// The limit that passed.
        after: Duration,
    },
    /// The connection is gone. The command may or may not have taken effect.
    #[error("the QMP connection is closed")]
    Closed(#[source] CloseReason),
    /// QEMU answered, but not in the form this command's answer has.
    #[error("QEMU's answer to {command} has an unexpected form")]
    Answer {
        /// The command's name.
        command: &'static str,
        /// What did not fit.
        #[source]
        source: Arc<serde_json::Error>,
    },
    /// The arguments cannot be written as JSON; nothing was sent.
    #[error("the arguments of {command} cannot be encoded")]
    Encode {
        /// The command's name.
        command: &'static str,
        /// What did not fit.
        #[source]
        source: Arc<serde_json::Error>,
    },
    /// More file descriptors than one message carries; nothing was sent.
    #[error("{command} cannot pass {count} file descriptors at once")]
    TooManyFds {
        /// The command's name.
        command: &'static str,
        /// How many were given.
        count: usize,
    },
    /// QEMU sent no greeting in time.
    #[error("QEMU sent no QMP greeting within {} ms", after.as_millis())]
    NoGreeting {
        /// The limit that passed.
        after: Duration,
    },
}

impl QmpError {
    /// Whether QEMU refused the command because the thing it names does not exist.
    #[must_use]
    pub fn is_device_not_found(&self) -> bool {
        matches!(self, Self::Refused { class: ErrorClass::DeviceNotFound, .. })
    }

    /// Whether QEMU does not know the command.
    #[must_use]
    pub fn is_command_not_found(&self) -> bool {
        matches!(self, Self::Refused { class: ErrorClass::CommandNotFound, .. })
    }

    /// Whether the connection is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed(_))
    }
}

/// Why a QMP connection ended. Every waiter of the connection gets the same one.
#[derive(Debug, Clone, Error)]
pub enum CloseReason {
    /// QEMU closed its end between two messages: the process ended, or is about to.
    #[error("QEMU closed the connection")]
    Ended,
    /// QEMU closed its end in the middle of a message.
    #[error("QEMU closed the connection in the middle of a message")]
    EndedInMessage,
    /// The socket failed.
    #[error("the QMP socket failed")]
    Io(#[source] Arc<io::Error>),
    /// A line that is no QMP message.
    #[error("QEMU sent a line that is no QMP message, beginning with {excerpt:?}")]
    Malformed {
        /// The line's beginning, at most 80 characters, printable.
        excerpt: String,
        /// What did not fit.
        #[source]
        source: Arc<serde_json::Error>,
    },
    /// A line longer than allowed.
    #[error("QEMU sent a line of more than {limit} bytes")]
    TooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// A well-formed message that nobody asked for.
    #[error("QEMU sent {what} that nobody asked for")]
    Unsolicited {
        /// What it was.
        what: &'static str,
    },
    /// Every [`Qmp`](crate::Qmp) handle was dropped.
    #[error("the QMP connection is no longer used")]
    Released,
}

/// QEMU's error classes. All but `GenericError` are rare.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub enum ErrorClass {
    /// Everything else.
    GenericError,
    /// The command does not exist, or not in this state.
    CommandNotFound,
    /// A device exists but has not been activated.
    DeviceNotActive,
    /// The device, node or object named does not exist.
    DeviceNotFound,
    /// A capability of the accelerator is missing.
    KVMMissingCap,
    /// A class this version does not know.
    #[serde(untagged)]
    Other(String),
}
