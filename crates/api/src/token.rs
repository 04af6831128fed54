//! Tokens: what programs authenticate with.

use hostler_endpoint::{Empty, Endpoint, Json, Method, NoParams, Page};
use hostler_types::{Name, Ref, Role, SecretText, Token};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Which token.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct TokenPath {
    /// Its name or its id.
    #[param(value_type = String)]
    pub token: Ref,
}

/// Which ones, and how many at a time.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct TokenListQuery {
    /// At most this many, 1 to 10000; absent: 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 10000)]
    pub limit: Option<u32>,
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Only those with this label, `key=value`, or `key` for any value. Several: all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub label: Vec<String>,
    /// Only those whose name begins with this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only those of this user, by name or id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub user: Option<Ref>,
}

/// A token to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenCreate {
    pub name: Name,
    /// Whose it is; absent: one's own. Another's only as admin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Ref>,
    /// At most the user's role; absent: the user's role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Absent: it does not expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub lifetime_seconds: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TokenCreated {
    pub token: Token,
    /// What to send as `Authorization: Bearer …`. Shown once.
    pub secret: SecretText,
}

/// List one's own tokens, or as admin everyone's.
#[derive(Debug)]
pub struct List;

impl Endpoint for List {
    const ID: &'static str = "token_list";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/tokens";
    const SUMMARY: &'static str = "List one's own tokens, or as admin everyone's";
    const TAG: &'static str = "token";
    const ACCESS: &'static str = "viewer";
    type Path = NoParams;
    type Query = TokenListQuery;
    type Body = Empty;
    type Answer = Json<Page<Token>>;
}
/// Make a token.
#[derive(Debug)]
pub struct Create;

impl Endpoint for Create {
    const ID: &'static str = "token_create";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/tokens";
    const SUMMARY: &'static str = "Make a token";
    const TAG: &'static str = "token";
    const ACCESS: &'static str = "viewer";
    const STATUS: u16 = 201;
    type Path = NoParams;
    type Query = NoParams;
    type Body = Json<TokenCreate>;
    type Answer = Json<TokenCreated>;
}
/// End a token of one's own, or as admin anyone's.
#[derive(Debug)]
pub struct Delete;

impl Endpoint for Delete {
    const ID: &'static str = "token_delete";
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/v1/tokens/{token}";
    const SUMMARY: &'static str = "End a token of one's own, or as admin anyone's";
    const TAG: &'static str = "token";
    const ACCESS: &'static str = "viewer";
    type Path = TokenPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Empty;
}
