//! Templates: masters that VMs are deployed from, in numbered versions.
//!
//! ```text
//!  template debian-12 -- versions --> 1: a VM's record, hidden, never started
//!                                     2: …
//!  vm web01 --template debian-12      an overlay on the files of the latest one
//! ```
//!
//! A version is an ordinary VM record whose spec says which version of which template it is. So
//! whatever is known of VMs' files, datastores and dependents holds for templates too.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::{DatastoreId, TemplateId, VmId};
use crate::lifecycle::{Dependent, PlannedDisk};
use crate::name::{Name, NameError, Ref};
use crate::object::{Kind, KindName, Labels, Object};
use crate::seal::Seal;
use crate::size::ByteSize;
use crate::vm::{Cores, Firmware, Vm};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TemplateKind;
pub type Template = Object<TemplateKind>;

impl Kind for TemplateKind {
    const NAME: KindName = KindName::Template;
    const SCHEMA: &'static str = "Template";
    type Spec = TemplateSpec;
    type Status = TemplateStatus;
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TemplateSpec {
    pub description: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TemplateStatus {
    /// The number that was given last; none is given twice.
    pub last: u32,
    /// The oldest first. Looked up whenever it is shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<TemplateVersion>,
}

/// One version, as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TemplateVersion {
    pub version: u32,
    /// Its record.
    #[schema(value_type = String)]
    pub vm: VmId,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The VM that it was made from.
    pub made_from: Name,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    pub by: String,
    pub cpus: Cores,
    pub memory: ByteSize,
    pub firmware: Firmware,
    pub disks: Vec<PlannedDisk>,
    #[schema(value_type = String)]
    pub datastore: DatastoreId,
    /// What was taken out of the guest; absent: nobody has sealed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<Seal>,
    /// Whose disks lie on this version's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub used_by: Vec<Dependent>,
}

/// That a VM's record is a version of a template. Such a VM is not listed, started or changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VersionOf {
    #[schema(value_type = String)]
    pub template: TemplateId,
    pub version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What the VM was called, and is called again when it is one.
    pub name: Name,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Who made it.
    pub by: String,
}

impl VersionOf {
    /// The name of the record: nobody else's, and still readable.
    ///
    /// # Panics
    /// Never: the parts make a name.
    pub fn record_name(template: &Name, version: u32, vm: VmId) -> Name {
        let simple = vm.uuid().simple().to_string();
        let kept: String = template.as_str().chars().take(32).collect();
        let text = format!("{}-v{version}-{}", kept.trim_end_matches('-'), &simple[20..]);
        text.parse().expect("the start of a name, a number and hexadecimal digits are a name")
    }
}

impl Vm {
    /// Whether its record is a version of a template.
    pub fn is_template(&self) -> bool {
        self.spec.template.is_some()
    }
}

/// Which version of which template: `debian-12`, `debian-12:latest` or `debian-12:3`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TemplateRef {
    pub template: Ref,
    /// Absent: the latest.
    pub version: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateRefError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("`{0}` is no version of a template: a number from 1, or `latest`")]
    Version(String),
}

impl FromStr for TemplateRef {
    type Err = TemplateRefError;
    fn from_str(text: &str) -> Result<Self, TemplateRefError> {
        let (template, version) = match text.split_once(':') {
            None | Some((_, "latest")) => (text.split(':').next().unwrap_or_default(), None),
            Some((template, version)) => {
                let wrong = || {
                    let shown: String = version.chars().take(40).collect();
                    TemplateRefError::Version(shown.escape_debug().to_string())
                };
                let digits = version.bytes().all(|byte| byte.is_ascii_digit());
                let number = version.parse().ok().filter(|number| digits && *number > 0);
                (template, Some(number.ok_or_else(wrong)?))
            }
        };
        Ok(Self { template: template.parse()?, version })
    }
}
impl TryFrom<String> for TemplateRef {
    type Error = TemplateRefError;
    fn try_from(text: String) -> Result<Self, TemplateRefError> {
        text.parse()
    }
}
impl From<TemplateRef> for String {
    fn from(reference: TemplateRef) -> Self {
        reference.to_string()
    }
}
impl fmt::Display for TemplateRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            Some(version) => write!(f, "{}:{version}", self.template),
            None => self.template.fmt(f),
        }
    }
}

/// A template's first, or next, version to be made from a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TemplateCreate {
    /// A new template, or one that gets another version.
    pub name: Name,
    pub vm: Ref,
    /// The VM itself becomes the version, and is no VM any more; it must be off. Else it is copied,
    /// and goes on as it is.
    #[serde(default, rename = "move")]
    pub moves: bool,
    /// Of the version.
    #[serde(default)]
    pub description: String,
    /// Of the template, added to those that it has.
    #[serde(default)]
    #[schema(inline)]
    pub labels: Labels,
}

/// Changes to a template. An absent field stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TemplateUpdate {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(inline)]
    pub labels: Option<Labels>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_a_number_or_the_latest() {
        let check = |text: &str, version: Option<u32>| {
            let parsed: TemplateRef = text.parse().unwrap();
            assert_eq!((parsed.template.to_string().as_str(), parsed.version), ("deb-12", version));
        };
        check("deb-12", None);
        check("deb-12:latest", None);
        check("deb-12:3", Some(3));
        for bad in ["", "deb-12:", "deb-12:0", "deb-12:+1", "deb-12:v3", "deb-12:1:2", ":1", "D:1"]
        {
            assert!(bad.parse::<TemplateRef>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_name_of_a_record_is_one_whatever_the_template_is_called() {
        let id = VmId::from_uuid("01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap());
        let name =
            |text: &str, version| VersionOf::record_name(&text.parse().unwrap(), version, id);
        assert_eq!(name("debian-12", 3).as_str(), "debian-12-v3-b302099a8057");
        let long = name(&format!("{}-{}", "a".repeat(31), "b".repeat(31)), u32::MAX);
        assert_eq!(long.as_str(), format!("{}-v4294967295-b302099a8057", "a".repeat(31)));
    }
}
