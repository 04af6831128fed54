//! What a service answers when it cannot do what was asked: one shape, stable codes.
//!
//! The server maps [`Class`] to an HTTP status and the rest to problem details. The cause beneath
//! an internal error is for the log only.

use std::error::Error;
use std::sync::Arc;

use hostler_agent_api::code;
use hostler_endpoint::Problem;
use hostler_store::StoreError;
use hostler_types::{KindName, Ref, SpecError};

/// What kind of refusal it is; in brackets the HTTP status that the server makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The request cannot be fulfilled whatever the inventory holds (400).
    Invalid,
    /// Nobody has proved to be someone (401).
    Unauthenticated,
    /// The role does not allow it (403).
    Forbidden,
    /// There is no such thing, or not for this actor (404).
    NotFound,
    /// Wrong state, stale revision, name taken, busy (409).
    Conflict,
    /// The host looked at it and refuses (422).
    Refused,
    /// Too many attempts at once (429).
    TooMany,
    /// A bug of ours (500).
    Internal,
    /// What the host tried did not work (502).
    HostFailed,
    /// Try again later (503).
    Unavailable,
    /// It took longer than allowed (504).
    Timeout,
    /// There is no room (507).
    NoCapacity,
}

/// One field of the request, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Such as `disks[0].size`.
    pub field: String,
    pub reason: String,
}

#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ServiceError {
    pub class: Class,
    /// Stable; what programs look at: `name_taken`.
    pub code: &'static str,
    /// A sentence that names the thing and the reason.
    pub message: String,
    /// The way out.
    pub hint: Option<String>,
    pub fields: Vec<FieldError>,
    /// For the log only.
    #[source]
    pub cause: Option<Arc<dyn Error + Send + Sync>>,
}

impl ServiceError {
    pub fn new(class: Class, code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { class, code, message, hint: None, fields: Vec::new(), cause: None }
    }

    /// A field of the request is wrong.
    pub fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        let (field, reason) = (field.into(), reason.into());
        let mut error = Self::new(Class::Invalid, "invalid", format!("{field}: {reason}"));
        error.fields.push(FieldError { field, reason });
        error
    }

    /// A field of the request is wrong, and `sentence` names it already.
    pub fn invalid_as_told(field: impl Into<String>, sentence: impl Into<String>) -> Self {
        let (field, reason) = (field.into(), sentence.into());
        let mut error = Self::new(Class::Invalid, "invalid", reason.clone());
        error.fields.push(FieldError { field, reason });
        error
    }

    pub fn not_found(kind: KindName, reference: &Ref) -> Self {
        Self::new(Class::NotFound, "not_found", format!("there is no {kind} `{reference}`"))
            .hint(format!("list them with `hostler {kind} list`"))
    }

    pub fn conflict(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Class::Conflict, code, message)
    }

    pub fn internal(message: impl Into<String>, cause: impl Error + Send + Sync + 'static) -> Self {
        Self::new(Class::Internal, "internal", message).caused_by(cause)
    }

    /// With the way out.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub fn caused_by(mut self, cause: impl Error + Send + Sync + 'static) -> Self {
        self.cause = Some(Arc::new(cause));
        self
    }
}

impl From<SpecError> for ServiceError {
    fn from(error: SpecError) -> Self {
        Self::invalid(error.field, error.reason)
    }
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::NameTaken { .. } => Self::conflict("name_taken", error.to_string())
                .hint("choose another name, or delete the other one first"),
            StoreError::Exists { .. } => Self::conflict("exists", error.to_string()),
            StoreError::NotFound { .. } => {
                Self::new(Class::NotFound, "not_found", error.to_string())
            }
            StoreError::Stale { .. } => Self::conflict("stale_revision", error.to_string())
                .hint("read it again and repeat the change on what it is now"),
            StoreError::Locked { by, .. } => Self::conflict("busy", error.to_string())
                .hint(format!("wait for it with `hostler task watch {by}`, then try again")),
            StoreError::Full { .. } => {
                Self::new(Class::NoCapacity, "store_full", "the server's disk is full")
                    .hint("make room in the server's state directory")
                    .caused_by(error)
            }
            StoreError::Io { .. } | StoreError::Closed => Self::new(
                Class::Unavailable,
                "store_unavailable",
                "the inventory cannot be written now",
            )
            .hint("see the server's log; try again when its disk works")
            .caused_by(error),
            StoreError::Corrupt { .. }
            | StoreError::Foreign { .. }
            | StoreError::InUse { .. }
            | StoreError::TooNew { .. }
            | StoreError::Decode { .. } => {
                Self::internal("the inventory cannot be read; see the server's log", error)
            }
        }
    }
}

/// What an agent refuses is told in its words, which are written for people.
impl From<Problem> for ServiceError {
    fn from(problem: Problem) -> Self {
        let (class, code) = match problem.code.as_str() {
            code::STALE_EPOCH => (Class::Conflict, code::STALE_EPOCH),
            code::NOT_FOUND => (Class::NotFound, code::NOT_FOUND),
            code::WRONG_STATE => (Class::Conflict, code::WRONG_STATE),
            code::IN_USE => (Class::Conflict, code::IN_USE),
            code::NO_SPACE => (Class::NoCapacity, code::NO_SPACE),
            code::DATASTORE_MISSING => (Class::Unavailable, code::DATASTORE_MISSING),
            code::IMAGE_REFUSED => (Class::Refused, code::IMAGE_REFUSED),
            code::DOWNLOAD_FAILED => (Class::HostFailed, code::DOWNLOAD_FAILED),
            code::NETWORK_UNAVAILABLE => (Class::Refused, code::NETWORK_UNAVAILABLE),
            code::GUEST_AGENT_UNAVAILABLE => (Class::Conflict, code::GUEST_AGENT_UNAVAILABLE),
            code::TIMEOUT => (Class::Timeout, code::TIMEOUT),
            code::CANCELLED => (Class::Conflict, code::CANCELLED),
            code::QEMU_FAILED => (Class::HostFailed, code::QEMU_FAILED),
            code::FORBIDDEN => (Class::Internal, "host_forbids"),
            _ => class_of_status(problem.status),
        };
        let mut error = Self::new(class, code, problem.detail);
        error.hint = problem.hint;
        error
    }
}

/// Of a problem whose code this version does not know (a newer agent's).
fn class_of_status(status: u16) -> (Class, &'static str) {
    match status {
        400 => (Class::Internal, "host_rejected_request"),
        404 => (Class::NotFound, "host_not_found"),
        409 => (Class::Conflict, "host_conflict"),
        422 => (Class::Refused, "host_refused"),
        503 => (Class::Unavailable, "host_unavailable"),
        504 => (Class::Timeout, "host_timeout"),
        507 => (Class::NoCapacity, "host_no_capacity"),
        _ => (Class::HostFailed, "host_failed"),
    }
}
