//! The change log: what, from, to, who, why, and through which task.

use hostler_endpoint::{Empty, Endpoint, Events, Json, Method, NoParams, Page};
use hostler_types::{KindName, Name, ObjectId, TaskId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// One change of one object. Secrets are left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Change {
    /// The position in the log.
    pub revision: u64,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    pub kind: KindName,
    pub id: ObjectId,
    pub name: Name,
    pub action: ChangeAction,
    /// A user's name, `root` (Unix socket) or `system`.
    pub actor: String,
    /// Such as `vm.start`, or what the host reported.
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// The object before; absent when it was created, and where only the new one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub old: Option<serde_json::Value>,
    /// The object after; absent when it was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub new: Option<serde_json::Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChangeAction {
    Created,
    Changed,
    Deleted,
}

impl ChangeAction {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Deleted => "deleted",
        }
    }
}

/// Which changes, and how many at a time.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct EventListQuery {
    /// At most this many, 1 to 1000; absent: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
    /// The revision after which to begin: the `next` of the page before, or an event's. Absent:
    /// the latest changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Only changes of objects of this kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub kind: Option<KindName>,
    /// Only changes of the object with this id, or of the one of `kind` with this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub object: Option<hostler_types::Ref>,
    /// With the objects before and after, not just what happened.
    #[serde(default)]
    pub full: bool,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct WatchQuery {
    /// The revision after which to begin, such as a list's; absent: from now on. A
    /// `Last-Event-ID` header takes precedence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// Only changes of objects of these kinds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[param(value_type = Vec<String>)]
    pub kind: Vec<KindName>,
}

/// List changes, oldest first: those after a revision, or the latest.
#[derive(Debug)]
pub struct List;

impl Endpoint for List {
    const ID: &'static str = "event_list";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/events";
    const SUMMARY: &'static str =
        "List changes, oldest first: those after a revision, or the latest";
    const TAG: &'static str = "event";
    const ACCESS: &'static str = "viewer";
    type Path = NoParams;
    type Query = EventListQuery;
    type Body = Empty;
    type Answer = Json<Page<Change>>;
}
/// Follow the change log from a revision on, without gaps. An event's id is its revision.
#[derive(Debug)]
pub struct Watch;

impl Endpoint for Watch {
    const ID: &'static str = "watch";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/watch";
    const SUMMARY: &'static str = "Follow the change log from a revision on, without gaps";
    const TAG: &'static str = "event";
    const ACCESS: &'static str = "viewer";
    type Path = NoParams;
    type Query = WatchQuery;
    type Body = Empty;
    type Answer = Events<Change>;
}
