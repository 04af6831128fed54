//! The machine's devices, one module per kind. Each adds its part of the command line.

pub(crate) mod basics;
pub(crate) mod cdroms;
pub(crate) mod channels;
pub(crate) mod disks;
pub(crate) mod nics;
pub(crate) mod ports;
pub(crate) mod screen;

use hostler_types::BootDevice;

use crate::plan::LaunchPlan;

/// The boot index of the `nth` device of a kind, if the firmware shall try it. Every kind has 100
/// indices.
pub(crate) fn boot_index(plan: &LaunchPlan, kind: BootDevice, nth: usize) -> Option<usize> {
    let place = plan.boot_order.iter().position(|device| *device == kind)?;
    Some(place * 100 + nth + 1)
}
