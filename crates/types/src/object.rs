//! What every object has: an id, a name, labels, a generation, a revision, times, spec and status.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::ObjectBuilder;
use utoipa::openapi::{Ref as SchemaRef, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::id::Id;
use crate::name::{Name, Ref};
use crate::operations::Revision;

/// The kinds of objects, as they appear in the change log and the event stream.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum KindName {
    Vm,
    Host,
    Image,
    Datastore,
    Network,
    Task,
    User,
    Token,
    JoinToken,
    CustomizationSpec,
    NamingRule,
    SnapshotPolicy,
    Template,
    Request,
    ApprovalRule,
    Cluster,
    Group,
    Pool,
    Rule,
}

impl KindName {
    pub const ALL: [Self; 19] = [
        Self::Vm,
        Self::Host,
        Self::Image,
        Self::Datastore,
        Self::Network,
        Self::Task,
        Self::User,
        Self::Token,
        Self::JoinToken,
        Self::CustomizationSpec,
        Self::NamingRule,
        Self::SnapshotPolicy,
        Self::Template,
        Self::Request,
        Self::ApprovalRule,
        Self::Cluster,
        Self::Pool,
        Self::Rule,
        Self::Group,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vm => "vm",
            Self::Host => "host",
            Self::Image => "image",
            Self::Datastore => "datastore",
            Self::Network => "network",
            Self::Task => "task",
            Self::User => "user",
            Self::Token => "token",
            Self::JoinToken => "join-token",
            Self::CustomizationSpec => "customization-spec",
            Self::NamingRule => "naming-rule",
            Self::SnapshotPolicy => "snapshot-policy",
            Self::Template => "template",
            Self::Request => "request",
            Self::ApprovalRule => "approval-rule",
            Self::Cluster => "cluster",
            Self::Pool => "pool",
            Self::Rule => "rule",
            Self::Group => "group",
        }
    }
}
impl fmt::Display for KindName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
impl std::str::FromStr for KindName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| format!("`{}` is not a kind of object", text.escape_debug()))
    }
}

/// A kind of object, at the type level: ties a spec to a status and an id.
pub trait Kind: fmt::Debug + Clone + PartialEq + Eq + Sized + Send + Sync + 'static {
    const NAME: KindName;
    /// The schema's name in the OpenAPI document, such as `Vm`.
    const SCHEMA: &'static str;
    type Spec: Spec;
    type Status: Spec;
}

/// Bounds that every spec and status fulfils. Blanket-implemented.
pub trait Spec:
    Serialize + DeserializeOwned + ToSchema + fmt::Debug + Clone + PartialEq + Send + Sync + 'static
{
}
impl<T> Spec for T where
    T: Serialize
        + DeserializeOwned
        + ToSchema
        + fmt::Debug
        + Clone
        + PartialEq
        + Send
        + Sync
        + 'static
{
}

/// Free-form `key: value` pairs to select objects by.
pub type Labels = BTreeMap<String, String>;

/// Checks labels: at most 64; keys 1–63 of `a-z 0-9 - _ . /`; values at most 255 characters without
/// control characters.
///
/// # Errors
/// A sentence that names the label and the rule it breaks.
pub fn validate_labels(labels: &Labels) -> Result<(), String> {
    if labels.len() > 64 {
        return Err(format!("{} labels are more than the 64 an object may have", labels.len()));
    }
    let key_char = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_./".contains(c);
    for (key, value) in labels {
        let shown = key.escape_debug();
        if key.is_empty() || key.len() > 63 || !key.chars().all(key_char) {
            return Err(format!("label key `{shown}` must be 1 to 63 of a-z, 0-9 and -_./"));
        }
        if value.chars().count() > 255 || value.chars().any(char::is_control) {
            return Err(format!(
                "the value of label `{shown}` must be at most 255 characters, none a control character"
            ));
        }
    }
    Ok(())
}

/// What every object has beside its spec and status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(bound = "")]
#[schema(bound = "")]
pub struct Metadata<K> {
    #[schema(value_type = String, format = "uuid")]
    pub id: Id<K>,
    pub name: Name,
    #[serde(default)]
    #[schema(inline)]
    pub labels: Labels,
    /// Counts the changes of the spec (and name and labels), from 1.
    pub generation: u64,
    /// The revision of the object's last change: what `If-Match` carries.
    pub revision: Revision,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// An object of the inventory: what was asked for (spec) and what is (status).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Object<K: Kind> {
    pub metadata: Metadata<K>,
    pub spec: K::Spec,
    pub status: K::Status,
}

impl<K: Kind> Object<K> {
    /// A new object, not stored yet: generation 1, revision 0.
    pub fn new(
        name: Name,
        labels: Labels,
        now: Timestamp,
        spec: K::Spec,
        status: K::Status,
    ) -> Self {
        let metadata = Metadata {
            id: Id::generate(),
            name,
            labels,
            generation: 1,
            revision: Revision(0),
            created_at: now,
            updated_at: now,
        };
        Self { metadata, spec, status }
    }

    pub fn id(&self) -> Id<K> {
        self.metadata.id
    }

    pub fn name(&self) -> &Name {
        &self.metadata.name
    }

    pub fn reference(&self) -> Ref {
        Ref::by_id(self.metadata.id)
    }
}

// The trait that `Vec<T>` and `Option<T>` ask for; utoipa derives `PartialSchema` from it.
impl<K: Kind> utoipa::__dev::ComposeSchema for Object<K> {
    fn compose(_: Vec<RefOr<Schema>>) -> RefOr<Schema> {
        ObjectBuilder::new()
            .property("metadata", SchemaRef::from_schema_name("Metadata"))
            .required("metadata")
            .property("spec", SchemaRef::from_schema_name(K::Spec::name()))
            .required("spec")
            .property("status", SchemaRef::from_schema_name(K::Status::name()))
            .required("status")
            .into()
    }
}

impl<K: Kind> ToSchema for Object<K> {
    fn name() -> Cow<'static, str> {
        K::SCHEMA.into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push(("Metadata".to_owned(), Metadata::<K>::schema()));
        schemas.push((K::Spec::name().into_owned(), K::Spec::schema()));
        schemas.push((K::Status::name().into_owned(), K::Status::schema()));
        Metadata::<K>::schemas(schemas);
        K::Spec::schemas(schemas);
        K::Status::schemas(schemas);
    }
}
