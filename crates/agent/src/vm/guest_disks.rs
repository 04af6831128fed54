//! What a running guest says of its disks: which it sees, how large they are to it, and what it uses
//! them for. Asked when disks change, and before one is taken from it.
//!
//! A disk of ours is known by its serial number, or, where the guest's agent tells none (it takes them
//! from udev), by the place where QEMU has plugged it in. Swap space is told by no question of the
//! agent's, so `/proc/swaps` is read where the agent lets programs run. All of this is the guest's word:
//! it keeps a guest from losing a disk by mistake, and is no protection against one that lies.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hostler_agent_api::GuestDisk;
use hostler_qemu::hotplug::{DiskPlace, disk_places};
use hostler_qmp::Qmp;
use hostler_qmp::guest::{
    ExecRequest, FilesystemDisk, FilesystemInfo, GetDisks, GetFsinfo, GuestAgent, GuestDiskInfo,
};
use hostler_types::{ByteSize, DiskSpec, Name, disk_serial};

/// How long all questions together may take.
const WITHIN: Duration = Duration::from_secs(10);
/// How much is read of `/proc/swaps` and the disks' sizes, in bytes.
const MOST: usize = 16 << 10;
/// Uses that are told of a disk; more are of no use to anyone.
const TOLD: usize = 8;
/// The unit of `/sys/block/*/size`, whatever the disk's own.
const SECTOR: u64 = 512;

/// What the guest says of these disks, which are plugged in. `None`: nobody could be asked, or the
/// answer was none.
pub(super) async fn ask(
    agent: &GuestAgent,
    qmp: &Qmp,
    disks: &[DiskSpec],
) -> Option<Vec<GuestDisk>> {
    let asked = async {
        let named: Vec<_> = disks.iter().map(|disk| (disk.name.clone(), disk.bus)).collect();
        let places = disk_places(qmp, &named).await.ok()?;
        let mounts = agent.execute(GetFsinfo).await.ok()?.0;
        // Agents of before 5.2 do not have it.
        let devices = agent.execute(GetDisks).await.map(|devices| devices.0).unwrap_or_default();
        let swaps = read(agent, vec!["/proc/swaps".to_owned()]).await.unwrap_or_default();
        let known = Known { mounts, devices, swaps: swaps_of(&swaps) };
        let mut found: Vec<_> =
            disks.iter().filter_map(|disk| known.disk(&disk.name, &places)).collect();
        add_sizes(agent, &mut found).await;
        Some(found)
    };
    tokio::time::timeout(WITHIN, asked).await.ok().flatten()
}

/// What files of the guest hold, one after the other.
async fn read(agent: &GuestAgent, files: Vec<String>) -> Option<String> {
    let request = ExecRequest::new("/bin/cat").args(files).within(WITHIN).max_output(MOST);
    let output = agent.exec(request).await.ok().filter(|output| output.exit_code == Some(0))?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

async fn add_sizes(agent: &GuestAgent, disks: &mut [GuestDisk]) {
    let file = |disk: &GuestDisk| Some(format!("/sys/block/{}/size", node(&disk.device)?));
    let Some(files) = disks.iter().map(file).collect::<Option<Vec<_>>>() else { return };
    if files.is_empty() {
        return;
    }
    let text = read(agent, files).await.unwrap_or_default();
    for (disk, line) in disks.iter_mut().zip(text.lines()) {
        let sectors: Option<u64> = line.trim().parse().ok();
        disk.size = sectors.and_then(|sectors| sectors.checked_mul(SECTOR)).map(ByteSize);
    }
}

/// The name of a Linux device node that may be part of a path.
fn node(device: &str) -> Option<&str> {
    let name = device.strip_prefix("/dev/")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (!name.is_empty() && name.chars().all(plain)).then_some(name)
}

/// The device nodes that `/proc/swaps` names.
fn swaps_of(text: &str) -> Vec<String> {
    let lines = text.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    lines.filter(|name| name.starts_with("/dev/")).map(str::to_owned).collect()
}

/// The guest's answers.
struct Known {
    mounts: Vec<FilesystemInfo>,
    devices: Vec<GuestDiskInfo>,
    swaps: Vec<String>,
}

impl Known {
    fn disk(&self, name: &Name, places: &BTreeMap<Name, DiskPlace>) -> Option<GuestDisk> {
        let serial = disk_serial(name);
        let ours = |disk: &FilesystemDisk| is_at(disk, places.get(name)) || has(disk, &serial);
        let node = self.devices.iter().find(|device| device.address.as_ref().is_some_and(ours));
        let mounted = self.mounts.iter().filter(|mount| mount.disk.iter().any(ours));
        let mounted: Vec<_> = mounted.collect();
        // Of an old agent, that of a partition.
        let dev = || mounted.first()?.disk.iter().find(|disk| ours(disk))?.dev.as_ref();
        let device = node.map(|node| &node.name).or_else(dev)?.to_string();
        let made = self.made_of(&device);
        let mut uses: Vec<String> =
            mounted.iter().map(|mount| format!("mounted on {}", mount.mountpoint)).collect();
        let others = self.mounts.iter().filter(|mount| {
            let node = format!("/dev/{}", mount.name);
            !mount.disk.iter().any(ours) && made.contains(&node)
        });
        uses.extend(others.map(|mount| format!("mounted on {}", mount.mountpoint)));
        uses.extend(self.swaps.iter().filter(|swap| made.contains(*swap)).map(|swap| {
            format!("swap on {}", swap.chars().filter(|c| !c.is_control()).collect::<String>())
        }));
        uses.extend(self.volumes(&device, &made));
        uses.dedup();
        uses.truncate(TOLD);
        Some(GuestDisk { disk: name.clone(), device, size: None, uses })
    }

    /// A disk's device node with all that is made of it: partitions, volumes on those, and so on.
    fn made_of(&self, device: &str) -> BTreeSet<String> {
        let mut made = BTreeSet::from([device.to_owned()]);
        loop {
            let before = made.len();
            for other in &self.devices {
                if other.dependencies.iter().any(|on| made.contains(&**on)) {
                    made.insert(other.name.to_string());
                }
            }
            if made.len() == before {
                return made;
            }
        }
    }

    /// What is made of a disk and is no partition: logical volumes, RAID, encryption.
    fn volumes(&self, device: &str, made: &BTreeSet<String>) -> Vec<String> {
        let volume = |other: &&GuestDiskInfo| {
            !other.partition && &*other.name != device && made.contains(&*other.name)
        };
        let told = |other: &GuestDiskInfo| match &other.alias {
            Some(alias) => format!("part of {} ({alias})", other.name),
            None => format!("part of {}", other.name),
        };
        self.devices.iter().filter(volume).map(told).collect()
    }
}

fn is_at(disk: &FilesystemDisk, place: Option<&DiskPlace>) -> bool {
    let (Some(place), Some(controller)) = (place, &disk.pci_controller) else { return false };
    let at = (place.pci.bus, place.pci.slot, place.pci.function);
    let lun = place.lun.map_or(disk.unit, i64::from);
    at == (controller.bus, controller.slot, controller.function) && lun == disk.unit
}

/// udev writes maker and model of a SCSI disk before its number.
fn has(disk: &FilesystemDisk, serial: &str) -> bool {
    let of = |told: &str| told.strip_suffix(serial).is_some_and(|before| before.ends_with('_'));
    disk.serial.as_ref().is_some_and(|told| **told == *serial || of(told))
}

#[cfg(test)]
mod tests {
    use hostler_qemu::hotplug::PciAddress;
    use serde_json::{Value, json};

    use super::*;

    fn disk(bus: i64, unit: i64, serial: Option<&str>) -> Value {
        json!({
            "bus-type": "virtio", "bus": 0, "unit": unit, "target": 0, "serial": serial,
            "pci-controller": {"domain": 0, "bus": bus, "slot": 0, "function": 0},
        })
    }

    fn known(mounts: Value, devices: Value, swaps: &str) -> Known {
        Known {
            mounts: serde_json::from_value(mounts).unwrap(),
            devices: serde_json::from_value(devices).unwrap(),
            swaps: swaps_of(&format!("Filename Type Size Used Priority\n{swaps}\n")),
        }
    }

    fn places(all: &[(&str, i64, Option<u32>)]) -> BTreeMap<Name, DiskPlace> {
        let place = |(name, bus, lun): &(&str, i64, Option<u32>)| {
            let pci = PciAddress { bus: *bus, slot: 0, function: 0 };
            (name.parse().unwrap(), DiskPlace { pci, lun: *lun })
        };
        all.iter().map(place).collect()
    }

    #[track_caller]
    fn check(known: &Known, name: &str, all: &[(&str, i64, Option<u32>)], expected: &str) {
        let told = known.disk(&name.parse().unwrap(), &places(all));
        let told = told.map(|disk| format!("{}: {}", disk.device, disk.uses.join(", ")));
        assert_eq!(told.unwrap_or_default(), expected);
    }

    /// As a guest without udev answers.
    #[test]
    fn disks_are_known_by_their_place() {
        let mounts = json!([
            {"name": "sda", "mountpoint": "/log", "type": "ext4", "disk": [disk(7, 3, None)]},
            {"name": "vdb1", "mountpoint": "/data", "type": "ext4", "disk": [disk(1, 0, None)]},
        ]);
        let devices = json!([
            {"name": "/dev/vdb1", "partition": true, "dependencies": ["/dev/vdb"]},
            {"name": "/dev/vdb", "partition": false, "address": disk(1, 0, None)},
            {"name": "/dev/sda", "partition": false, "address": disk(7, 3, None)},
            {"name": "/dev/sdb", "partition": false, "address": disk(7, 4, None)},
        ]);
        let known = known(mounts, devices, "/dev/sdb partition 65532 0 -2");
        let all = [("data", 1, None), ("log", 7, Some(3)), ("more", 7, Some(4))];
        check(&known, "data", &all, "/dev/vdb: mounted on /data");
        check(&known, "log", &all, "/dev/sda: mounted on /log");
        check(&known, "more", &all, "/dev/sdb: swap on /dev/sdb");
        check(&known, "data", &[("data", 2, None)], "");
        check(&known, "log", &[("log", 7, Some(5))], "");
    }

    #[test]
    fn disks_are_known_by_their_serial_number() {
        let scsi = "0QEMU_QEMU_HARDDISK_log";
        let mounts = json!([
            {"name": "vdb", "mountpoint": "/data", "type": "xfs", "disk": [disk(-1, 0, Some("data"))]},
        ]);
        let devices = json!([
            {"name": "/dev/vdb", "partition": false, "address": disk(-1, 0, Some("data"))},
            {"name": "/dev/sda", "partition": false, "address": disk(-1, 0, Some(scsi))},
        ]);
        let known = known(mounts, devices, "");
        check(&known, "data", &[], "/dev/vdb: mounted on /data");
        check(&known, "log", &[], "/dev/sda: ");
        check(&known, "og", &[], "");
    }

    #[test]
    fn volumes_on_a_disk_use_it() {
        let mounts = json!([
            {"name": "dm-0", "mountpoint": "/srv", "type": "ext4", "disk": []},
        ]);
        let devices = json!([
            {"name": "/dev/vdb", "partition": false, "address": disk(1, 0, None)},
            {"name": "/dev/vdb1", "partition": true, "dependencies": ["/dev/vdb"]},
            {"name": "/dev/dm-0", "partition": false, "alias": "vg-srv", "dependencies": ["/dev/vdb1"]},
            {"name": "/dev/dm-1", "partition": false, "dependencies": ["/dev/vdb1"]},
        ]);
        let known = known(mounts, devices, "/dev/dm-1 partition 65532 0 -2");
        let expected = "/dev/vdb: mounted on /srv, swap on /dev/dm-1, part of /dev/dm-0 (vg-srv), \
                        part of /dev/dm-1";
        check(&known, "data", &[("data", 1, None)], expected);
    }

    #[test]
    fn only_plain_names_become_paths() {
        assert_eq!(node("/dev/vdb"), Some("vdb"));
        for wrong in ["vdb", "/dev/", "/dev/../etc/shadow", "/dev/mapper/a b"] {
            assert_eq!(node(wrong), None, "{wrong}");
        }
    }
}
