//! QEMU's object model: back-end objects and properties.

use serde::Serialize;
use serde_json::Value;

use super::{Command, Empty};

/// Adds a back-end object: an object with `qom-type`, `id` and the type's properties.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct ObjectAdd(pub Value);
impl Command for ObjectAdd {
    const NAME: &'static str = "object-add";
    type Return = Empty;
}

/// Removes a back-end object that nothing uses.
#[derive(Debug, Serialize)]
pub struct ObjectDel {
    /// Its id.
    pub id: String,
}
impl Command for ObjectDel {
    const NAME: &'static str = "object-del";
    type Return = Empty;
}

/// Reads a property.
#[derive(Debug, Serialize)]
pub struct QomGet {
    /// The object's path, for example `/machine/peripheral/balloon0`.
    pub path: String,
    /// The property's name.
    pub property: String,
}
impl Command for QomGet {
    const NAME: &'static str = "qom-get";
    type Return = Value;
}

/// Writes a property.
#[derive(Debug, Serialize)]
pub struct QomSet {
    /// The object's path.
    pub path: String,
    /// The property's name.
    pub property: String,
    /// The new value.
    pub value: Value,
}
impl Command for QomSet {
    const NAME: &'static str = "qom-set";
    type Return = Empty;
}

/// What an object of QEMU's tree contains.
#[derive(Debug, Serialize)]
pub struct QomList {
    /// The object's path, for example `/machine/peripheral`.
    pub path: String,
}
impl Command for QomList {
    const NAME: &'static str = "qom-list";
    type Return = Vec<QomProperty>;
}

/// Part of [`QomList`]'s answer.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct QomProperty {
    /// Its name; for a device below `/machine/peripheral`, the device's id.
    pub name: String,
    /// Such as `child<virtio-blk-pci>`.
    #[serde(rename = "type")]
    pub kind: String,
}
