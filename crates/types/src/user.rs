//! Users and the tokens they act with.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::UserId;
use crate::object::{Kind, KindName, Object};
use crate::operations::Role;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserKind;
pub type User = Object<UserKind>;

impl Kind for UserKind {
    const NAME: KindName = KindName::User;
    const SCHEMA: &'static str = "User";
    type Spec = UserSpec;
    type Status = UserStatus;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserSpec {
    pub role: Role,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UserStatus {
    /// Argon2id, PHC string. Never shown by the API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(ignore)]
    pub password_hash: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenKind;
pub type Token = Object<TokenKind>;

impl Kind for TokenKind {
    const NAME: KindName = KindName::Token;
    const SCHEMA: &'static str = "Token";
    type Spec = TokenSpec;
    type Status = TokenStatus;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenSpec {
    /// Whose it is; it ends with its user.
    pub user: UserId,
    /// At most its user's role.
    pub role: Role,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenStatus {
    /// SHA-256 of the secret, in hexadecimal. Never shown by the API.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(ignore)]
    pub secret_hash: String,
}
