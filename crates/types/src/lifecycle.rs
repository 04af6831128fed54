//! The end of a VM: what deleting it takes away, the recycle bin, and who keeps it from going.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::VmId;
use crate::lease::Lease;
use crate::name::Name;
use crate::network::MacAddress;
use crate::object::Labels;
use crate::size::ByteSize;
use crate::vm::{PowerState, Vm};

/// A VM in the recycle bin: it keeps its id, disks and MAC addresses, has given its name back, and
/// cannot be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Recycled {
    /// What it was called, and is called again when it is taken out.
    pub name: Name,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// When it is deleted for good.
    #[schema(value_type = String, format = DateTime)]
    pub until: Timestamp,
    /// Who put it there.
    pub by: String,
}

impl Recycled {
    /// The name of a VM while it is in the bin: nobody else's, and still readable.
    ///
    /// # Panics
    /// Never: the parts make a name.
    pub fn bin_name(name: &Name, vm: VmId) -> Name {
        let simple = vm.uuid().simple().to_string();
        let kept: String = name.as_str().chars().take(40).collect();
        let text = format!("{}-deleted-{}", kept.trim_end_matches('-'), &simple[20..]);
        text.parse().expect("the start of a name, a word and hexadecimal digits are a name")
    }
}

impl Vm {
    pub fn is_recycled(&self) -> bool {
        self.spec.recycled.is_some()
    }

    /// When something is to be done with it by itself.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        match &self.spec.recycled {
            Some(recycled) => Some(recycled.until),
            None if self.is_template() => None,
            None => self.spec.lease.as_ref().map(Lease::next),
        }
    }

    /// What people call it: in the recycle bin, or as a template, the name it had before.
    pub fn called(&self) -> &Name {
        let recycled = self.spec.recycled.as_ref().map(|recycled| &recycled.name);
        let version = self.spec.template.as_ref().map(|version| &version.name);
        recycled.or(version).unwrap_or(self.name())
    }
}

/// What deleting a VM would do: nothing has been done yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeletionPlan {
    pub vm: VmId,
    pub name: Name,
    pub power: PowerState,
    pub disks: Vec<PlannedDisk>,
    pub nics: Vec<PlannedNic>,
    #[schema(inline)]
    pub labels: Labels,
    /// How long it would stay in the recycle bin; absent when it is there already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub kept_until: Option<Timestamp>,
    /// Who needs its disks: it is not deleted while there is anyone.
    pub used_by: Vec<Dependent>,
    /// Why it would be refused now; absent: it would be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedDisk {
    pub name: Name,
    /// As the guest sees it.
    pub size: ByteSize,
    /// What is freed on the datastore; absent while its host has not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocated: Option<ByteSize>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedNic {
    pub name: Name,
    pub network: Name,
    pub mac: MacAddress,
    /// What its network reserves for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
}

/// Someone whose disks lie on another VM's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Dependent {
    pub vm: VmId,
    pub name: Name,
    /// Such as `disk disk0 lies on its disk disk0`.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_the_bin_is_a_name_whatever_it_was_made_from() {
        let id = VmId::from_uuid("01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap());
        let check = |name: &str, expected: &str| {
            assert_eq!(Recycled::bin_name(&name.parse().unwrap(), id).as_str(), expected);
        };
        check("web01", "web01-deleted-b302099a8057");
        let long = format!("{}-{}", "a".repeat(39), "b".repeat(23));
        check(&long, &format!("{}-deleted-b302099a8057", "a".repeat(39)));
    }
}
