//! Requests: VMs that are asked for, approved, made and delivered.

use hostler_endpoint::{Empty, Endpoint, Json, Method, NoParams, Page};
use hostler_types::{ApprovalDecision, Ref, Request, RequestOrder};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Which request.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct RequestPath {
    /// Its name or its id.
    #[param(value_type = String)]
    pub request: Ref,
}

/// Which ones, and how many at a time.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct RequestListQuery {
    /// At most this many, 1 to 10000; absent: 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 10000)]
    pub limit: Option<u32>,
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Only those in this state, such as `pending`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Only those that this user has made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requester: Option<String>,
}

/// Someone agrees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RequestApprove {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// Someone does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestReject {
    /// Why, for whoever has asked.
    pub reason: String,
}

/// List requests.
#[derive(Debug)]
pub struct List;

impl Endpoint for List {
    const ID: &'static str = "request_list";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/requests";
    const SUMMARY: &'static str = "List requests";
    const TAG: &'static str = "request";
    const ACCESS: &'static str = "viewer";
    type Path = NoParams;
    type Query = RequestListQuery;
    type Body = Empty;
    type Answer = Json<Page<Request>>;
}
/// Ask for a VM.
#[derive(Debug)]
pub struct Create;

impl Endpoint for Create {
    const ID: &'static str = "request_create";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/requests";
    const SUMMARY: &'static str = "Ask for a VM";
    const TAG: &'static str = "request";
    const ACCESS: &'static str = "viewer";
    const STATUS: u16 = 201;
    type Path = NoParams;
    type Query = NoParams;
    type Body = Json<RequestOrder>;
    type Answer = Json<Request>;

    fn revision(answer: &Request) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}
/// Show a request.
#[derive(Debug)]
pub struct Show;

impl Endpoint for Show {
    const ID: &'static str = "request_show";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/requests/{request}";
    const SUMMARY: &'static str = "Show a request";
    const TAG: &'static str = "request";
    const ACCESS: &'static str = "viewer";
    type Path = RequestPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Request>;

    fn revision(answer: &Request) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}
/// Explain who has to agree to a request, and what is missing.
#[derive(Debug)]
pub struct Why;

impl Endpoint for Why {
    const ID: &'static str = "request_why";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/requests/{request}/why";
    const SUMMARY: &'static str = "Explain who has to agree to a request, and what is missing";
    const TAG: &'static str = "request";
    const ACCESS: &'static str = "viewer";
    type Path = RequestPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<ApprovalDecision>;
}
/// Agree to a request, as the approval rules allow.
#[derive(Debug)]
pub struct Approve;

impl Endpoint for Approve {
    const ID: &'static str = "request_approve";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/requests/{request}/approve";
    const SUMMARY: &'static str = "Agree to a request, as the approval rules allow";
    const TAG: &'static str = "request";
    const ACCESS: &'static str = "viewer";
    type Path = RequestPath;
    type Query = NoParams;
    type Body = Json<RequestApprove>;
    type Answer = Json<Request>;

    fn revision(answer: &Request) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}
/// Refuse a request, as the approval rules allow.
#[derive(Debug)]
pub struct Reject;

impl Endpoint for Reject {
    const ID: &'static str = "request_reject";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/requests/{request}/reject";
    const SUMMARY: &'static str = "Refuse a request, as the approval rules allow";
    const TAG: &'static str = "request";
    const ACCESS: &'static str = "viewer";
    type Path = RequestPath;
    type Query = NoParams;
    type Body = Json<RequestReject>;
    type Answer = Json<Request>;

    fn revision(answer: &Request) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}
/// Take back one's own request; operators: any.
#[derive(Debug)]
pub struct Cancel;

impl Endpoint for Cancel {
    const ID: &'static str = "request_cancel";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/requests/{request}/cancel";
    const SUMMARY: &'static str = "Take back one's own request; operators: any";
    const TAG: &'static str = "request";
    const ACCESS: &'static str = "viewer";
    type Path = RequestPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Request>;

    fn revision(answer: &Request) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}
/// Try one's own failed request again; operators: any.
#[derive(Debug)]
pub struct Retry;

impl Endpoint for Retry {
    const ID: &'static str = "request_retry";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/requests/{request}/retry";
    const SUMMARY: &'static str = "Try one's own failed request again; operators: any";
    const TAG: &'static str = "request";
    const ACCESS: &'static str = "viewer";
    type Path = RequestPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Request>;

    fn revision(answer: &Request) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}
