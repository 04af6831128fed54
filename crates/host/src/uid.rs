//! The numeric users that guests run as.
//!
//! Every VM has a uid of its own, so that one guest that breaks out of QEMU cannot touch another's
//! disks or sockets. The uids have no passwd entry. They lie above those of people (60000),
//! systemd's dynamic users (65519) and containers (up to 1,879,048,191), and below `i32::MAX`,
//! because some tools still read uids as signed. The agent remembers who has which slot.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

/// uid (and gid) of slot 0.
pub const VM_UID_BASE: u32 = 1_900_000_000;
/// Number of slots, hence the most VMs that a host can have.
pub const VM_UID_SLOTS: u32 = 65_536;
/// The group that may read image files; every QEMU is in it.
pub const IMAGE_GID: u32 = VM_UID_BASE - 1;
/// The user (and group) under which `qemu-img` looks at images nobody has checked yet.
pub const IMPORT_UID: u32 = VM_UID_BASE - 2;
/// The group that may write protect its own memory through `/dev/userfaultfd`; every QEMU is in it.
pub const USERFAULT_GID: u32 = VM_UID_BASE - 3;

/// The user of one VM: slot `0..VM_UID_SLOTS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct VmUid(u32);

impl VmUid {
    /// The user of a slot; `None` when there is no such slot.
    pub const fn from_slot(slot: u32) -> Option<Self> {
        if slot < VM_UID_SLOTS { Some(Self(slot)) } else { None }
    }
    pub const fn slot(self) -> u32 {
        self.0
    }
    pub const fn uid(self) -> u32 {
        VM_UID_BASE + self.0
    }
    /// The group of the same number.
    pub const fn gid(self) -> u32 {
        self.uid()
    }
}

impl TryFrom<u32> for VmUid {
    type Error = String;
    fn try_from(slot: u32) -> Result<Self, String> {
        Self::from_slot(slot)
            .ok_or_else(|| format!("uid slot {slot} is not one of 0 to {}", VM_UID_SLOTS - 1))
    }
}
impl From<VmUid> for u32 {
    fn from(uid: VmUid) -> Self {
        uid.slot()
    }
}

/// The lowest slot that is not used; `None` when the host is full.
pub fn next_slot(used: impl IntoIterator<Item = VmUid>) -> Option<VmUid> {
    let used: HashSet<VmUid> = used.into_iter().collect();
    (0..VM_UID_SLOTS).map(VmUid).find(|uid| !used.contains(uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_slot_is_taken() {
        let slots = |slots: &[u32]| slots.iter().map(|&slot| VmUid(slot)).collect::<Vec<_>>();
        assert_eq!(next_slot([]), Some(VmUid(0)));
        assert_eq!(next_slot(slots(&[0, 1, 3])), Some(VmUid(2)));
        assert_eq!(next_slot((0..VM_UID_SLOTS).map(VmUid)), None);
    }

    #[test]
    fn uids_stay_in_their_range() {
        let last = VmUid::from_slot(VM_UID_SLOTS - 1).unwrap();
        assert!(i32::try_from(last.uid()).is_ok());
        assert_eq!(VmUid::from_slot(VM_UID_SLOTS), None);
        assert!(serde_json::from_str::<VmUid>("65536").is_err());
        const { assert!(IMAGE_GID < VM_UID_BASE && IMPORT_UID < VM_UID_BASE) };
    }
}
