//! Typed identifiers: a `VmId` can never be passed where a `HostId` is meant.
//!
//! All are UUIDv7, so that they sort by creation. Making one needs a clock and randomness, so it
//! happens where those are allowed: `Id::generate` is called by services, never by pure code.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{RefOr, Schema};
use uuid::Uuid;

use crate::object::Kind;

/// The identifier of an object of kind `K`.
pub struct Id<K>(Uuid, PhantomData<fn() -> K>);

pub type VmId = Id<crate::VmKind>;
pub type HostId = Id<crate::HostKind>;
pub type ImageId = Id<crate::ImageKind>;
pub type DatastoreId = Id<crate::DatastoreKind>;
pub type NetworkId = Id<crate::NetworkKind>;
pub type TaskId = Id<crate::TaskKind>;
pub type UserId = Id<crate::UserKind>;
pub type TokenId = Id<crate::TokenKind>;
pub type JoinTokenId = Id<crate::JoinTokenKind>;
pub type CustomizationSpecId = Id<crate::CustomizationSpecKind>;
pub type TemplateId = Id<crate::TemplateKind>;
pub type RequestId = Id<crate::RequestKind>;
pub type PoolId = Id<crate::PoolKind>;
pub type ClusterId = Id<crate::ClusterKind>;

/// Marks the identifier of one command to an agent; the same operation is carried out once.
#[derive(Debug, Clone, Copy)]
pub struct OperationMark;
pub type OperationId = Id<OperationMark>;

/// Marks the identifier of a decision, which is kept beside the objects for a while.
#[derive(Debug, Clone, Copy)]
pub struct DecisionMark;
pub type DecisionId = Id<DecisionMark>;

/// Marks the identifier of a snapshot, which is a part of its VM.
#[derive(Debug, Clone, Copy)]
pub struct SnapshotMark;
pub type SnapshotId = Id<SnapshotMark>;

/// The identifier of an object whose kind is told beside it (change log, locks).
#[derive(Debug, Clone, Copy)]
pub struct AnyMark;
pub type ObjectId = Id<AnyMark>;

impl<K> Id<K> {
    /// A new identifier: reads the clock and randomness.
    pub fn generate() -> Self {
        Self::from_uuid(Uuid::now_v7())
    }

    /// The least of those that are generated at an instant.
    pub fn first_at(at: Timestamp) -> Self {
        let milliseconds = u64::try_from(at.as_millisecond()).unwrap_or(0);
        Self::from_uuid(
            uuid::Builder::from_unix_timestamp_millis(milliseconds, &[0; 10]).into_uuid(),
        )
    }

    /// When it was generated, to the millisecond; `None` of one that tells no time.
    pub fn begun(self) -> Option<Timestamp> {
        let (seconds, nanoseconds) = self.0.get_timestamp()?.to_unix();
        Timestamp::new(i64::try_from(seconds).ok()?, i32::try_from(nanoseconds).ok()?).ok()
    }

    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid, PhantomData)
    }

    pub const fn uuid(self) -> Uuid {
        self.0
    }
}

impl<K: Kind> Id<K> {
    /// The same identifier, for places that hold objects of every kind.
    pub const fn untyped(self) -> ObjectId {
        Id::from_uuid(self.0)
    }
}

impl ObjectId {
    /// The identifier as one of kind `K`; the caller has looked at the kind told beside it.
    pub const fn typed<K: Kind>(self) -> Id<K> {
        Id::from_uuid(self.0)
    }
}

impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for Id<K> {}
impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<K> Eq for Id<K> {}
impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}
impl<K> Hash for Id<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}
impl<K> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl<K> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl<K> FromStr for Id<K> {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::try_parse(text).map(Self::from_uuid)
    }
}
impl<K> Serialize for Id<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}
impl<'de, K> Deserialize<'de> for Id<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Uuid::deserialize(deserializer).map(Self::from_uuid)
    }
}
// The trait that `Vec<T>` and `Option<T>` ask for; utoipa derives `PartialSchema` from it.
impl<K> utoipa::__dev::ComposeSchema for Id<K> {
    fn compose(_: Vec<RefOr<Schema>>) -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::Custom("uuid".to_owned())))
            .into()
    }
}
impl<K> ToSchema for Id<K> {
    fn name() -> std::borrow::Cow<'static, str> {
        "Id".into()
    }
}
