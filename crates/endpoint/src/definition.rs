//! The trait that an endpoint type implements.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::body::{Answer, Body};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

/// One operation of an HTTP API.
pub trait Endpoint: Send + Sync + 'static {
    /// Stable: the OpenAPI `operationId`, the handler's name, the word to grep for: `vm_start`.
    const ID: &'static str;
    const METHOD: Method;
    /// With parameters in braces: `/v1/vms/{vm}/start`.
    const PATH: &'static str;
    /// One line for the API document.
    const SUMMARY: &'static str;
    /// Groups operations in the API document: the resource, such as `vm`.
    const TAG: &'static str;
    /// The least role that may call it, as documented (`x-required-role`); empty: anyone. Enforced
    /// by the service behind, which alone knows the object.
    const ACCESS: &'static str = "";
    /// Of the successful answer.
    const STATUS: u16 = 200;
    /// What stands in the path.
    type Path: Params;
    type Query: Params;
    type Body: Body;
    type Answer: Answer;
}

/// Path or query parameters: a flat struct.
pub trait Params:
    Serialize + DeserializeOwned + IntoParams + std::fmt::Debug + Clone + Send + Sync + 'static
{
}
impl<T> Params for T where
    T: Serialize + DeserializeOwned + IntoParams + std::fmt::Debug + Clone + Send + Sync + 'static
{
}

/// Of endpoints without path or query parameters. Unknown query parameters are refused.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct NoParams {}

/// How a list is asked for, page by page.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    /// At most this many items, 1 to 10000; absent: 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 10000)]
    pub limit: Option<u32>,
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Pass it as `after` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The revision the list was read at: watch from here without a gap.
    pub revision: u64,
}
