//! Users, their passwords, and who one is.

use hostler_endpoint::{Empty, Endpoint, Json, Method, NoParams, Page};
use hostler_types::{Name, Ref, Role, SecretText, User};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Which user.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct UserPath {
    /// Its name or its id.
    #[param(value_type = String)]
    pub user: Ref,
}

/// Which ones, and how many at a time.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct UserListQuery {
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
}

/// A user to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserCreate {
    pub name: Name,
    pub role: Role,
    /// 10 to 1024 bytes; absent: acts with tokens only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretText>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PasswordChange {
    /// 10 to 1024 bytes.
    pub password: SecretText,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginRequest {
    pub user: String,
    pub password: SecretText,
}

/// A token for the session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LoginAnswer {
    pub token: SecretText,
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
}

/// Who one is, and what one may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Identity {
    /// A user's name, or `root` on the Unix socket.
    pub name: String,
    pub role: Role,
}

/// Trade a password for a token.
#[derive(Debug)]
pub struct Login;

impl Endpoint for Login {
    const ID: &'static str = "login";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/login";
    const SUMMARY: &'static str = "Trade a password for a token";
    const TAG: &'static str = "user";
    const BODY_LIMIT: usize = 16 << 10;
    type Path = NoParams;
    type Query = NoParams;
    type Body = Json<LoginRequest>;
    type Answer = Json<LoginAnswer>;
}
/// End the token that the request carries.
#[derive(Debug)]
pub struct Logout;

impl Endpoint for Logout {
    const ID: &'static str = "logout";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/logout";
    const SUMMARY: &'static str = "End the token that the request carries";
    const TAG: &'static str = "user";
    const ACCESS: &'static str = "viewer";
    type Path = NoParams;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Empty;
}
/// Tell who one is and what one may do.
#[derive(Debug)]
pub struct Whoami;

impl Endpoint for Whoami {
    const ID: &'static str = "whoami";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/whoami";
    const SUMMARY: &'static str = "Tell who one is and what one may do";
    const TAG: &'static str = "user";
    const ACCESS: &'static str = "viewer";
    type Path = NoParams;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Identity>;
}
/// List users, sorted by name.
#[derive(Debug)]
pub struct List;

impl Endpoint for List {
    const ID: &'static str = "user_list";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/users";
    const SUMMARY: &'static str = "List users, sorted by name";
    const TAG: &'static str = "user";
    const ACCESS: &'static str = "admin";
    type Path = NoParams;
    type Query = UserListQuery;
    type Body = Empty;
    type Answer = Json<Page<User>>;
}
/// Make a user.
#[derive(Debug)]
pub struct Create;

impl Endpoint for Create {
    const ID: &'static str = "user_create";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/users";
    const SUMMARY: &'static str = "Make a user";
    const TAG: &'static str = "user";
    const ACCESS: &'static str = "admin";
    const STATUS: u16 = 201;
    type Path = NoParams;
    type Query = NoParams;
    type Body = Json<UserCreate>;
    type Answer = Json<User>;

    fn revision(answer: &User) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}
/// Delete a user; the user's tokens end.
#[derive(Debug)]
pub struct Delete;

impl Endpoint for Delete {
    const ID: &'static str = "user_delete";
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/v1/users/{user}";
    const SUMMARY: &'static str = "Delete a user; the user's tokens end";
    const TAG: &'static str = "user";
    const ACCESS: &'static str = "admin";
    type Path = UserPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Empty;
}
/// Set one's own password, or as admin anyone's.
#[derive(Debug)]
pub struct SetPassword;

impl Endpoint for SetPassword {
    const ID: &'static str = "user_set_password";
    const METHOD: Method = Method::Put;
    const PATH: &'static str = "/v1/users/{user}/password";
    const SUMMARY: &'static str = "Set one's own password, or as admin anyone's";
    const TAG: &'static str = "user";
    const ACCESS: &'static str = "viewer";
    const CONDITIONAL: bool = true;
    type Path = UserPath;
    type Query = NoParams;
    type Body = Json<PasswordChange>;
    type Answer = Empty;
}
