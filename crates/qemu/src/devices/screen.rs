//! The screen, its VNC socket, and a pointer that follows the viewer's.

use serde_json::json;

use crate::{
    argument::{Arguments, escape, path_text},
    plan::{LaunchPlan, PlanError},
};

/// The kernel's limit for the path of a Unix socket, without the closing zero.
const MAX_SOCKET_PATH: usize = 107;

pub(crate) fn add(args: &mut Arguments, plan: &LaunchPlan) -> Result<(), PlanError> {
    let path = path_text(&plan.vnc)?;
    if path.len() > MAX_SOCKET_PATH {
        return Err(PlanError::SocketPath(plan.vnc.clone()));
    }
    args.device(&json!({ "driver": "VGA", "id": "video0", "bus": "pcie.0", "addr": "0x2" }));
    args.device(&json!({
        "driver": "virtio-tablet-pci", "id": "tablet0", "bus": "pcie.0", "addr": "0x7",
    }));
    // The agent lets viewers in; whoever comes through it may share the screen.
    args.plain("-vnc", format!("unix:{},share=ignore", escape(path)));
    Ok(())
}
