//! CD drives, on the board's SATA controller: every installer has a driver for it.

use hostler_types::{BootDevice, Name};
use serde_json::{Value, json};

use super::boot_index;
use crate::{
    argument::{Arguments, path_text},
    names::{cdrom_id, cdrom_node},
    plan::{LaunchPlan, PlanError},
};

/// The controller's ports.
const MAX_CDROMS: usize = 6;

pub(crate) fn add(args: &mut Arguments, plan: &LaunchPlan) -> Result<(), PlanError> {
    let count = plan.cdroms.len();
    if count > MAX_CDROMS {
        return Err(PlanError::TooMany { what: "CD drives", count, most: MAX_CDROMS });
    }
    for (nth, cdrom) in plan.cdroms.iter().enumerate() {
        let mut device = json!({
            "driver": "ide-cd", "id": cdrom_id(&cdrom.name), "bus": format!("ide.{nth}"),
        });
        if let Some(path) = &cdrom.image {
            for node in medium_nodes(&cdrom.name, path_text(path)?) {
                args.blockdev(&node);
            }
            let node = cdrom_node(&cdrom.name, "");
            device["drive"] = Value::from(node);
        }
        if let Some(index) = boot_index(plan, BootDevice::Cdrom, nth) {
            device["bootindex"] = index.into();
        }
        args.device(&device);
    }
    Ok(())
}

/// The nodes of an ISO image, the file's first.
pub(crate) fn medium_nodes(drive: &Name, path: &str) -> [Value; 2] {
    let (file, node) = (cdrom_node(drive, "-file"), cdrom_node(drive, ""));
    [
        json!({
            "driver": "file", "node-name": file, "filename": path,
            "read-only": true, "auto-read-only": false,
        }),
        json!({ "driver": "raw", "node-name": node, "file": file, "read-only": true }),
    ]
}
