//! The ids that devices and nodes have within QEMU: made from a disk's or NIC's name, so that they
//! stay the same over restarts and can be found by hot-plug, snapshots and events.

use hostler_types::Name;

/// QEMU's limit for the names of block nodes.
const MAX_NODE_NAME: usize = 31;

/// virtio-blk's limit for serial numbers.
const MAX_SERIAL: usize = 20;

/// The device of a disk.
#[must_use]
pub fn disk_id(name: &Name) -> String {
    format!("disk-{name}")
}

/// The block node of a disk, which is the node of its format.
#[must_use]
pub fn disk_node(name: &Name) -> String {
    node(name, "")
}

/// A disk's serial number, as the guest sees it: its name, or as much of it as fits.
#[must_use]
pub fn disk_serial(name: &Name) -> String {
    shorten(name.as_str(), MAX_SERIAL)
}

/// The drive of a CD.
#[must_use]
pub fn cdrom_id(name: &Name) -> String {
    format!("cdrom-{name}")
}

/// The device of a NIC.
#[must_use]
pub fn nic_id(name: &Name) -> String {
    format!("nic-{name}")
}

/// The back end of a NIC.
#[must_use]
pub fn netdev_id(name: &Name) -> String {
    format!("net-{name}")
}

/// A node of a disk: `suffix` tells the nodes of one disk apart, at most 6 characters.
pub(crate) fn node(name: &Name, suffix: &str) -> String {
    let prefix = "d-";
    format!("{prefix}{}{suffix}", shorten(name.as_str(), MAX_NODE_NAME - prefix.len() - 6))
}

/// A node of a CD drive.
pub(crate) fn cdrom_node(name: &Name, suffix: &str) -> String {
    let prefix = "c-";
    format!("{prefix}{}{suffix}", shorten(name.as_str(), MAX_NODE_NAME - prefix.len() - 6))
}

/// A text of at most `most` bytes that differs for different names: the end of a long one is
/// replaced by a hash of the whole.
fn shorten(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    // FNV-1a: stable over versions, which the standard library's hashers are not.
    let hash = text
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let head: String = text.chars().take(most - 9).collect();
    format!("{head}.{hash:08x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_stay_within_limits_and_apart() {
        let long = |last: char| format!("{}{last}", "a".repeat(62)).parse::<Name>().unwrap();
        for make in [
            disk_node,
            disk_serial,
            |name: &Name| node(name, "-bfile"),
            |name: &Name| cdrom_node(name, "-file"),
        ] {
            let (a, b) = (make(&long('a')), make(&long('b')));
            assert_ne!(a, b);
            assert!(a.len() <= MAX_NODE_NAME);
        }
        assert!(disk_serial(&long('a')).len() <= MAX_SERIAL);
        // No name has a dot, so no short name is another's shortened one.
        assert_eq!(disk_serial(&"root".parse().unwrap()), "root");
        assert_eq!(disk_node(&"root".parse().unwrap()), "d-root");
    }
}
