//! One object of the inventory as it is stored: its spec and status are JSON.
//!
//! Everything above the store works with [`Object`]; the conversion is lossless both ways.

use std::fmt;

use hostler_types::{Kind, KindName, Labels, Metadata, Name, Object, ObjectId, Revision};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::StoreError;

/// JSON that stays text until someone needs it: 5,000 VMs are loaded without building a tree for
/// each, and passed on to watchers without being parsed at all.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Json(Box<RawValue>);

impl Json {
    /// # Errors
    /// `value` has no JSON form (a map whose keys are not strings, a failing `Serialize`).
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        serde_json::value::to_raw_value(value).map(Self)
    }

    /// # Errors
    /// `text` is not one JSON value.
    pub fn from_text(text: String) -> Result<Self, serde_json::Error> {
        RawValue::from_string(text).map(Self)
    }

    /// # Errors
    /// The JSON is not what `T` expects.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.as_str())
    }

    /// The JSON as a tree, to look into without knowing the type.
    pub fn value(&self) -> serde_json::Value {
        serde_json::from_str(self.as_str()).expect("a RawValue is valid JSON")
    }

    pub fn as_str(&self) -> &str {
        self.0.get()
    }
}

/// Compares the values; the order of keys and the spacing do not matter.
impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str() || self.value() == other.value()
    }
}
impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
impl From<serde_json::Value> for Json {
    fn from(value: serde_json::Value) -> Self {
        Self::of(&value).expect("a JSON tree has a JSON form")
    }
}

/// An object of any kind.
///
/// The store itself sets `revision` (always), `generation` (counts changes of name, labels and
/// spec, from 1), `created_at` and `updated_at` (from the batch), whatever a written record says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub kind: KindName,
    pub id: ObjectId,
    pub name: Name,
    #[serde(default)]
    pub labels: Labels,
    pub generation: u64,
    pub revision: Revision,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub spec: Json,
    pub status: Json,
}

impl Record {
    /// # Panics
    /// When the spec or status of `K` has no JSON form, which none of our types lacks.
    pub fn from_object<K: Kind>(object: &Object<K>) -> Self {
        let json = |result: Result<Json, _>| result.expect("specs and statuses have a JSON form");
        let metadata = &object.metadata;
        Self {
            kind: K::NAME,
            id: metadata.id.untyped(),
            name: metadata.name.clone(),
            labels: metadata.labels.clone(),
            generation: metadata.generation,
            revision: metadata.revision,
            created_at: metadata.created_at,
            updated_at: metadata.updated_at,
            spec: json(Json::of(&object.spec)),
            status: json(Json::of(&object.status)),
        }
    }

    /// # Errors
    /// [`StoreError::Decode`]: it is of another kind, or was written by a version whose form this
    /// one does not know.
    pub fn object<K: Kind>(&self) -> Result<Object<K>, StoreError> {
        let decode = |message: String| StoreError::Decode {
            kind: self.kind,
            name: self.name.to_string(),
            message,
        };
        if self.kind != K::NAME {
            return Err(decode(format!("a {} was expected", K::NAME)));
        }
        let metadata = Metadata {
            id: self.id.typed(),
            name: self.name.clone(),
            labels: self.labels.clone(),
            generation: self.generation,
            revision: self.revision,
            created_at: self.created_at,
            updated_at: self.updated_at,
        };
        let spec = self.spec.parse().map_err(|error| decode(format!("spec: {error}")))?;
        let status = self.status.parse().map_err(|error| decode(format!("status: {error}")))?;
        Ok(Object { metadata, spec, status })
    }
}

impl<K: Kind> From<&Object<K>> for Record {
    fn from(object: &Object<K>) -> Self {
        Self::from_object(object)
    }
}
