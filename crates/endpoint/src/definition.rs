//! The trait that an endpoint type implements.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Type};
use utoipa::openapi::{Ref, RefOr, Schema};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use crate::answer::Answer;
use crate::body::Body;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

impl From<Method> for http::Method {
    fn from(method: Method) -> Self {
        match method {
            Method::Get => Self::GET,
            Method::Post => Self::POST,
            Method::Put => Self::PUT,
            Method::Patch => Self::PATCH,
            Method::Delete => Self::DELETE,
        }
    }
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
    /// Of the successful answer. An [`Empty`](crate::Empty) answer turns 200 into 204.
    const STATUS: u16 = 200;
    /// Of a [`Stream`](crate::Stream) answer.
    const MEDIA_TYPE: &'static str = "application/octet-stream";
    /// The longest JSON body, in bytes.
    const BODY_LIMIT: usize = 2 << 20;
    /// Heeds `If-Match`. Elsewhere the header is refused: who sends it relies on it.
    const CONDITIONAL: bool = false;
    /// Heeds `Idempotency-Key`. Elsewhere the key is ignored, and not documented.
    const REPEATABLE: bool = Self::STATUS == 202;
    /// What stands in the path.
    type Path: Params;
    type Query: Params;
    type Body: Body;
    type Answer: Answer;

    /// The revision of the object that is answered, if it is one: becomes the `ETag`, which
    /// `If-Match` sends back.
    fn revision(_answer: &<Self::Answer as Answer>::Value) -> Option<u64> {
        None
    }

    /// The definition without its types.
    fn meta() -> Meta {
        Meta {
            id: Self::ID,
            method: Self::METHOD,
            path: Self::PATH,
            access: Self::ACCESS,
            status: Self::STATUS,
            media_type: Self::MEDIA_TYPE,
        }
    }
}

/// An endpoint's definition without its types, for what treats all endpoints alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    pub id: &'static str,
    pub method: Method,
    pub path: &'static str,
    /// See [`Endpoint::ACCESS`].
    pub access: &'static str,
    pub status: u16,
    pub media_type: &'static str,
}

/// Path or query parameters: a flat struct. Repeated parameters are a `Vec`.
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Pass it as `after` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The revision the list was read at: watch from here without a gap.
    pub revision: u64,
}

impl<T: ToSchema> PartialSchema for Page<T> {
    fn schema() -> RefOr<Schema> {
        let text = |words: &str| ObjectBuilder::new().description(Some(words.to_owned()));
        let next = text("Pass it as `after` for the next page; absent on the last one.");
        let revision = text("The revision the list was read at: watch from here without a gap.");
        ObjectBuilder::new()
            .property("items", ArrayBuilder::new().items(Ref::from_schema_name(T::name())))
            .required("items")
            .property("next", next.schema_type(Type::String))
            .property("revision", revision.schema_type(Type::Integer))
            .required("revision")
            .into()
    }
}

impl<T: ToSchema> ToSchema for Page<T> {
    fn name() -> Cow<'static, str> {
        format!("{}Page", T::name()).into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(schemas);
    }
}
