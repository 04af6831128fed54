//! Names of objects: DNS labels, unique within their kind.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};
use uuid::Uuid;

use crate::id::Id;

/// A DNS label (RFC 1123): 1 to 63 of `a-z`, `0-9` and `-`, no `-` at either end.
///
/// A name that reads as a UUID is refused, so that a [`Ref`] is never ambiguous.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, min_length = 1, max_length = 63, pattern = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")]
pub struct Name(Box<str>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a name cannot be empty")]
    Empty,
    #[error("`{0}…` is longer than the 63 characters a name may have")]
    TooLong(String),
    #[error(
        "`{name}` is not a valid name: `{bad}` is not allowed; use a-z, 0-9 and `-`, and no `-` at the start or end"
    )]
    Character { name: String, bad: char },
    #[error("`{0}` cannot be a name, because it reads as an id")]
    LooksLikeId(String),
}

impl Name {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.chars().count() > 63 {
            return Err(NameError::TooLong(text.chars().take(20).collect()));
        }
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let bad = (text.chars().find(|&c| !allowed(c)))
            .or_else(|| text.starts_with('-').then_some('-'))
            .or_else(|| text.ends_with('-').then_some('-'));
        if let Some(bad) = bad {
            return Err(NameError::Character { name: text.escape_debug().to_string(), bad });
        }
        if Uuid::try_parse(text).is_ok() {
            return Err(NameError::LooksLikeId(text.to_owned()));
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}
impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.into()
    }
}
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}
impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// How people and scripts point at an object: by its name or by its id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Ref {
    Id(Uuid),
    Name(Name),
}

impl Ref {
    pub const fn by_id<K>(id: Id<K>) -> Self {
        Self::Id(id.uuid())
    }
}
impl From<Name> for Ref {
    fn from(name: Name) -> Self {
        Self::Name(name)
    }
}
impl FromStr for Ref {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        match Uuid::try_parse(text) {
            Ok(id) => Ok(Self::Id(id)),
            Err(_) => text.parse().map(Self::Name),
        }
    }
}
impl TryFrom<String> for Ref {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}
impl From<Ref> for String {
    fn from(reference: Ref) -> Self {
        reference.to_string()
    }
}
impl fmt::Display for Ref {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

// The trait that `Vec<T>` and `Option<T>` ask for; utoipa derives `PartialSchema` from it.
impl utoipa::__dev::ComposeSchema for Ref {
    fn compose(_: Vec<RefOr<Schema>>) -> RefOr<Schema> {
        String::schema()
    }
}
impl ToSchema for Ref {}

/// A text of at most `most` bytes that differs for different texts: the end of a long one is
/// replaced by a hash of the whole.
pub fn shorten(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    // FNV-1a: stable over versions, which the standard library's hashers are not.
    let bytes = text.bytes().chain([0]);
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // Of 64 bits, half are enough to tell the devices of one VM apart.
    let hash = (hash >> 32) ^ (hash & 0xffff_ffff);
    let head: String = text.chars().take(most - 9).collect();
    format!("{head}.{hash:08x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, valid: bool) {
        assert_eq!(text.parse::<Name>().is_ok(), valid, "{text:?}");
    }

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "web01", "a-b", "0", &"x".repeat(63)] {
            check(good, true);
        }
        let long = "x".repeat(64);
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "a b", "a,b=c", "a\n", "ä", "../x", &long] {
            check(bad, false);
        }
        check("01890a5d-ac96-774b-bcce-b302099a8057", false);
    }

    #[test]
    fn a_reference_is_a_name_or_an_id() {
        assert!(matches!("web01".parse(), Ok(Ref::Name(_))));
        assert!(matches!("01890a5d-ac96-774b-bcce-b302099a8057".parse(), Ok(Ref::Id(_))));
        assert!("web_01".parse::<Ref>().is_err());
    }
}
