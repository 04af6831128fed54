//! Disks. Every node has a name, the one of the file beneath too: jobs and reopening need it.

use hostler_types::{BootDevice, DiskBus, disk_serial};
use serde_json::{Map, Value, json};

use super::{boot_index, ports::Ports};
use crate::{
    argument::{Arguments, path_text},
    names::{disk_id, layer_file_node},
    plan::{DiskAio, DiskCache, DiskPlan, LaunchPlan, LayerPlan, PlanError},
};

/// The controller of the virtio-scsi disks.
pub(crate) const SCSI: &str = "scsi0";

pub(crate) fn add(args: &mut Arguments, plan: &LaunchPlan, ports: &Ports) -> Result<(), PlanError> {
    if plan.disks.iter().any(|disk| disk.bus == DiskBus::VirtioScsi) {
        let mut controller = json!({
            "driver": "virtio-scsi-pci", "id": SCSI, "num_queues": plan.room.queues,
        });
        match ports.port_if_any(SCSI) {
            Some(port) => controller["bus"] = port.into(),
            None => {
                controller["bus"] = "pcie.0".into();
                controller["addr"] = "0x8".into();
            }
        }
        args.device(&controller);
    }
    let mut scsi = 0;
    for (nth, disk) in plan.disks.iter().enumerate() {
        layer_nodes(disk)?.iter().for_each(|node| args.blockdev(node));
        let mut device = device(disk)?;
        match disk.bus {
            DiskBus::VirtioBlk => {
                device.insert("driver".to_owned(), "virtio-blk-pci".into());
                device.insert("num-queues".to_owned(), plan.room.queues.into());
                device.insert("bus".to_owned(), ports.port(&disk_id(&disk.name))?.into());
            }
            DiskBus::VirtioScsi => {
                device.insert("driver".to_owned(), "scsi-hd".into());
                device.insert("bus".to_owned(), "scsi0.0".into());
                let lun = disk.lun.unwrap_or(scsi);
                device.insert("lun".to_owned(), lun.into());
                scsi = scsi.max(lun) + 1;
            }
        }
        if let Some(index) = boot_index(plan, BootDevice::Disk, nth) {
            device.insert("bootindex".to_owned(), index.into());
        }
        args.device(&Value::Object(device));
    }
    seed(args, plan)
}

/// Disks on virtio-blk, wherever there is a slot.
pub(crate) fn plain(args: &mut Arguments, disks: &[DiskPlan]) -> Result<(), PlanError> {
    for disk in disks {
        layer_nodes(disk)?.iter().for_each(|node| args.blockdev(node));
        let mut device = device(disk)?;
        device.insert("driver".to_owned(), "virtio-blk-pci".into());
        args.device(&Value::Object(device));
    }
    Ok(())
}

/// What both buses have in common.
pub(crate) fn device(disk: &DiskPlan) -> Result<Map<String, Value>, PlanError> {
    let active = disk.layers.first().ok_or_else(|| PlanError::NoLayer(disk.name.clone()))?;
    let fields = [
        ("id", disk_id(&disk.name).into()),
        ("drive", active.node.as_str().into()),
        ("serial", disk_serial(&disk.name).into()),
    ];
    Ok(fields.map(|(key, value)| (key.to_owned(), value)).into_iter().collect())
}

/// The nodes of a disk's layers, from the lowest to the active one.
pub(crate) fn layer_nodes(disk: &DiskPlan) -> Result<Vec<Value>, PlanError> {
    let (mut beneath, mut nodes) = (Value::Null, Vec::new());
    for (depth, layer) in disk.layers.iter().enumerate().rev() {
        let read_only = disk.read_only || depth > 0;
        let cache = if layer.shared { DiskCache::PageCache } else { disk.cache };
        nodes.push(file_node(layer, cache, read_only)?);
        nodes.push(layer_options(layer, cache, read_only, &beneath));
        beneath = layer.node.as_str().into();
    }
    Ok(nodes)
}

/// The node of a layer's file. One that is read-only is opened for writing when a merge needs it.
pub(crate) fn file_node(
    layer: &LayerPlan,
    cache: DiskCache,
    read_only: bool,
) -> Result<Value, PlanError> {
    let (direct, aio) = match cache {
        DiskCache::Direct(DiskAio::Native) => (true, "native"),
        DiskCache::Direct(DiskAio::Ring) => (true, "io_uring"),
        DiskCache::PageCache => (false, "threads"),
    };
    Ok(json!({
        "driver": "file", "node-name": layer_file_node(&layer.node),
        "filename": path_text(&layer.path)?, "read-only": read_only, "auto-read-only": false,
        "discard": "unmap", "cache": { "direct": direct }, "aio": aio,
    }))
}

/// The node of a layer's format, on top of the node `beneath` (or null).
pub(crate) fn layer_options(
    layer: &LayerPlan,
    cache: DiskCache,
    read_only: bool,
    beneath: &Value,
) -> Value {
    json!({
        "driver": "qcow2", "node-name": layer.node, "file": layer_file_node(&layer.node),
        "backing": beneath, "read-only": read_only, "discard": "unmap",
        "detect-zeroes": if read_only { "off" } else { "unmap" },
        "cache": { "direct": matches!(cache, DiskCache::Direct(_)) },
    })
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
        "serial": "hostler-seed", "num-queues": plan.room.queues,
    }));
    Ok(())
}
