//! CD drives, on the board's SATA controller: every installer has a driver for it.

use hostler_types::BootDevice;
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
            let (file, node) = (cdrom_node(&cdrom.name, "-file"), cdrom_node(&cdrom.name, ""));
            args.blockdev(&json!({
                "driver": "file", "node-name": file, "filename": path_text(path)?,
                "read-only": true, "auto-read-only": false,
            }));
            args.blockdev(&json!({
                "driver": "raw", "node-name": node, "file": file, "read-only": true,
            }));
            device["drive"] = Value::from(node);
        }
        if let Some(index) = boot_index(plan, BootDevice::Cdrom, nth) {
            device["bootindex"] = index.into();
        }
        args.device(&device);
    }
    Ok(())
}
