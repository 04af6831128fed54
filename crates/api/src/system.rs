//! The server itself: version, health, features and the API document. Open to everyone.

use hostler_endpoint::{Empty, Endpoint, Json, Method, NoParams};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// The server's version.
    pub version: String,
    /// The API's: `v1`.
    pub api: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`.
    pub status: String,
}

/// Additions to `/v1` since its first release: what a client may look for before it uses them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Features {
    pub features: Vec<String>,
}

/// Tell the server's version.
#[derive(Debug)]
pub struct ShowVersion;

impl Endpoint for ShowVersion {
    const ID: &'static str = "version";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/version";
    const SUMMARY: &'static str = "Tell the server's version";
    const TAG: &'static str = "system";
    type Path = NoParams;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Version>;
}
/// Answer as long as the server lives.
#[derive(Debug)]
pub struct ShowHealth;

impl Endpoint for ShowHealth {
    const ID: &'static str = "health";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/health";
    const SUMMARY: &'static str = "Answer as long as the server lives";
    const TAG: &'static str = "system";
    type Path = NoParams;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Health>;
}
/// Answer 200 when the server can work, else 503.
#[derive(Debug)]
pub struct ShowReady;

impl Endpoint for ShowReady {
    const ID: &'static str = "ready";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/ready";
    const SUMMARY: &'static str = "Answer 200 when the server can work, else 503";
    const TAG: &'static str = "system";
    type Path = NoParams;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Health>;
}
/// List additions to the API.
#[derive(Debug)]
pub struct ListFeatures;

impl Endpoint for ListFeatures {
    const ID: &'static str = "features";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/features";
    const SUMMARY: &'static str = "List additions to the API";
    const TAG: &'static str = "system";
    type Path = NoParams;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Features>;
}
/// Answer this document.
#[derive(Debug)]
pub struct ShowDocument;

impl Endpoint for ShowDocument {
    const ID: &'static str = "openapi";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/openapi.json";
    const SUMMARY: &'static str = "Answer this document";
    const TAG: &'static str = "system";
    type Path = NoParams;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<serde_json::Value>;
}
