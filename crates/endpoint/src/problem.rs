//! The one shape of errors: problem details (RFC 9457) with a stable code and a way out.

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Of problem details, RFC 9457.
pub(crate) const MEDIA_TYPE: &str = "application/problem+json";

/// What went wrong, to what, and the way out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    /// `https://hostler.dev/problems/<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The HTTP reason phrase.
    pub title: String,
    pub status: u16,
    /// Stable; what programs look at: `name_taken`.
    pub code: String,
    /// A sentence that names the thing and the reason.
    pub detail: String,
    /// The way out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Finds the request in the server's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Which fields are wrong, when it is several or nested.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldProblem>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldProblem {
    /// Such as `disks[0].size`.
    pub field: String,
    pub detail: String,
}

impl Problem {
    /// A problem with this HTTP status, stable code and sentence.
    pub fn new(status: u16, code: &str, detail: impl Into<String>) -> Self {
        let title = StatusCode::from_u16(status)
            .ok()
            .and_then(|status| status.canonical_reason())
            .unwrap_or("Error");
        Self {
            kind: format!("https://hostler.dev/problems/{code}"),
            title: title.to_owned(),
            status,
            code: code.to_owned(),
            detail: detail.into(),
            hint: None,
            request_id: None,
            errors: Vec::new(),
        }
    }

    /// With the way out.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A request that cannot be read: which field, and what is wrong with it.
    pub fn invalid(field: Option<String>, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        let Some(field) = field else { return Self::new(400, "invalid", reason) };
        let mut problem = Self::new(400, "invalid", format!("{field}: {reason}"));
        problem.errors.push(FieldProblem { field, detail: reason });
        problem
    }

    /// Our bug. What happened is in the log, under the request id, and nowhere else.
    pub fn internal() -> Self {
        Self::new(500, "internal", "the server failed to answer this request")
            .hint("the server's log has the reason under this request id")
    }

    /// The problem as an HTTP response.
    pub fn response(&self) -> Response<Body> {
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        let mut response = Response::new(Body::from(bytes));
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        match self.status {
            401 => headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
            429 | 503 => headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1")),
            _ => None,
        };
        response
    }
}
