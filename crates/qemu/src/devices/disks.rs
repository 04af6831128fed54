//! Disks. Every node has a name, the one of the file beneath too: jobs and reopening need it.

use hostler_types::{BootDevice, DiskBus};
use serde_json::{Map, Value, json};

use super::{boot_index, ports::Ports};
use crate::{
    argument::{Arguments, path_text},
    names::{disk_id, disk_node, disk_serial, node},
    plan::{DiskCache, DiskPlan, LaunchPlan, PlanError},
};

pub(crate) fn add(args: &mut Arguments, plan: &LaunchPlan, ports: &Ports) -> Result<(), PlanError> {
    if plan.disks.iter().any(|disk| disk.bus == DiskBus::VirtioScsi) {
        args.device(
            &json!({ "driver": "virtio-scsi-pci", "id": "scsi0", "bus": "pcie.0", "addr": "0x8" }),
        );
    }
    let (mut blk, mut scsi) = (0, 0);
    for (nth, disk) in plan.disks.iter().enumerate() {
        nodes(args, disk)?;
        let mut device = device(disk);
        match disk.bus {
            DiskBus::VirtioBlk => {
                device.insert("driver".to_owned(), "virtio-blk-pci".into());
                device.insert("bus".to_owned(), ports.disk(blk).into());
                blk += 1;
            }
            DiskBus::VirtioScsi => {
                device.insert("driver".to_owned(), "scsi-hd".into());
                device.insert("bus".to_owned(), "scsi0.0".into());
                device.insert("lun".to_owned(), scsi.into());
                scsi += 1;
            }
        }
        if let Some(index) = boot_index(plan, BootDevice::Disk, nth) {
            device.insert("bootindex".to_owned(), index.into());
        }
        args.device(&Value::Object(device));
    }
    seed(args, plan)
}

/// What both buses have in common.
fn device(disk: &DiskPlan) -> Map<String, Value> {
    let fields = [
        ("id", disk_id(&disk.name).into()),
        ("drive", disk_node(&disk.name).into()),
        ("serial", disk_serial(&disk.name).into()),
    ];
    fields.map(|(key, value)| (key.to_owned(), value)).into_iter().collect()
}

fn nodes(args: &mut Arguments, disk: &DiskPlan) -> Result<(), PlanError> {
    let backing = match &disk.backing {
        None => Value::Null,
        Some(path) => {
            let (file, node) = (node(&disk.name, "-bfile"), node(&disk.name, "-base"));
            // Shared by many VMs, so the page cache pays.
            args.blockdev(&json!({
                "driver": "file", "node-name": file, "filename": path_text(path)?,
                "read-only": true, "auto-read-only": false,
            }));
            args.blockdev(&json!({
                "driver": "qcow2", "node-name": node, "file": file, "backing": null,
                "read-only": true,
            }));
            node.into()
        }
    };
    let file = node(&disk.name, "-file");
    let (direct, aio) = match disk.cache {
        DiskCache::Direct => (true, "native"),
        DiskCache::PageCache => (false, "threads"),
    };
    args.blockdev(&json!({
        "driver": "file", "node-name": file, "filename": path_text(&disk.path)?,
        "read-only": disk.read_only, "auto-read-only": false, "discard": "unmap",
        "cache": { "direct": direct }, "aio": aio,
    }));
    args.blockdev(&json!({
        "driver": "qcow2", "node-name": disk_node(&disk.name), "file": file, "backing": backing,
        "read-only": disk.read_only, "discard": "unmap",
        "detect-zeroes": if disk.read_only { "off" } else { "unmap" },
        "cache": { "direct": direct },
    }));
    Ok(())
}

/// The NoCloud seed: found by its label, never booted from.
fn seed(args: &mut Arguments, plan: &LaunchPlan) -> Result<(), PlanError> {
    let Some(path) = &plan.seed else { return Ok(()) };
    args.blockdev(&json!({
        "driver": "file", "node-name": "seed-file", "filename": path_text(path)?,
        "read-only": true, "auto-read-only": false,
    }));
    args.blockdev(&json!({
        "driver": "raw", "node-name": "seed", "file": "seed-file", "read-only": true,
    }));
    args.device(&json!({
        "driver": "virtio-blk-pci", "id": "seed", "bus": "pcie.0", "addr": "0x9", "drive": "seed",
        "serial": "hostler-seed",
    }));
    Ok(())
}
