//! The ids that devices and nodes have within QEMU: made from a disk's or NIC's name, so that they
//! stay the same over restarts and can be found by hot-plug, snapshots and events.

use hostler_types::{LayerFile, Name, shorten};

/// QEMU's limit for the names of block nodes.
const MAX_NODE_NAME: usize = 31;

/// The device of a disk.
#[must_use]
pub fn disk_id(name: &Name) -> String {
    format!("disk-{name}")
}

/// The block node of a layer, which is the node of its format. The same file may lie beneath two
/// disks of a VM, so the disk is part of it. `moved` is how often the VM's files have gone to another
/// datastore: for a moment QEMU has those of before open, too, which are called the same.
#[must_use]
pub fn layer_node(disk: &Name, file: &LayerFile, moved: u32) -> String {
    let moves = moved.to_string();
    // A QEMU of an agent that moved nothing is still known.
    let parts = [disk.as_str(), file.as_str(), moves.as_str()];
    format!("l-{:016x}", fnv1a(if moved == 0 { &parts[..2] } else { &parts }))
}

/// The node of the file beneath a layer's node.
#[must_use]
pub fn layer_file_node(node: &str) -> String {
    format!("{node}-file")
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

/// A node of a CD drive.
pub(crate) fn cdrom_node(name: &Name, suffix: &str) -> String {
    let prefix = "c-";
    format!("{prefix}{}{suffix}", shorten(name.as_str(), MAX_NODE_NAME - prefix.len() - 6))
}

/// FNV-1a: stable over versions, which the standard library's hashers are not.
fn fnv1a(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use hostler_types::disk_serial;

    /// virtio-blk's limit for serial numbers.
    const MAX_SERIAL: usize = 20;
    use super::*;

    #[test]
    fn long_names_stay_within_limits_and_apart() {
        let long = |last: char| format!("{}{last}", "a".repeat(62)).parse::<Name>().unwrap();
        for make in [disk_serial, |name: &Name| cdrom_node(name, "-file")] {
            let (a, b) = (make(&long('a')), make(&long('b')));
            assert_ne!(a, b);
            assert!(a.len() <= MAX_NODE_NAME);
        }
        assert!(disk_serial(&long('a')).len() <= MAX_SERIAL);
        // No name has a dot, so no short name is another's shortened one.
        assert_eq!(disk_serial(&"root".parse().unwrap()), "root");
    }

    #[test]
    fn a_layer_has_a_node_in_every_disk() {
        let image = LayerFile::image("01890000-0000-7000-8000-000000000001".parse().unwrap());
        let [a, b] = ["a", "b"].map(|disk| layer_node(&disk.parse().unwrap(), &image, 0));
        assert_ne!(a, b);
        let moved = layer_node(&"a".parse().unwrap(), &image, 1);
        assert!(moved != a && moved != layer_node(&"a".parse().unwrap(), &image, 2));
        assert!(layer_file_node(&a).len() <= MAX_NODE_NAME);
    }
}
