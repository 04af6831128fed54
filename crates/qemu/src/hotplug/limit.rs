//! Limits of a disk's I/O.

use hostler_qmp::{Qmp, command::BlockSetIoThrottle};
use hostler_types::{ByteSize, DiskBus, IoLimits, Name};

use crate::names::disk_id;
use crate::vm::MonitorError;

/// Sets a disk's limits, whatever they were.
///
/// # Errors
/// See [`MonitorError`].
pub async fn limit_disk(
    qmp: &Qmp,
    name: &Name,
    bus: DiskBus,
    limits: &IoLimits,
) -> Result<(), MonitorError> {
    let device = disk_id(name);
    let id = match bus {
        // The card in the port has the disk itself as a child.
        DiskBus::VirtioBlk => format!("/machine/peripheral/{device}/virtio-backend"),
        DiskBus::VirtioScsi => device,
    };
    let throttle = BlockSetIoThrottle {
        id,
        bps: limits.bytes_per_second.map_or(0, ByteSize::bytes),
        bps_rd: 0,
        bps_wr: 0,
        iops: limits.iops.unwrap_or(0),
        iops_rd: 0,
        iops_wr: 0,
        bps_max: limits.bytes_per_second_burst.map(ByteSize::bytes),
        iops_max: limits.iops_burst,
    };
    qmp.execute(throttle).await?;
    Ok(())
}
