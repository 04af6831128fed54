//! Changes to a machine that runs: what is plugged in, taken out, moved and limited.
//!
//! Everything can be repeated: what is there already is not plugged in again, what is gone already
//! counts as taken out. What a guest must agree to is waited for by event, for a bounded time, and
//! the answer says how far it went.

mod cdrom;
mod cpu;
mod device;
mod disk;
mod limit;
mod memory;
mod nic;
mod place;

pub use cdrom::{MediumChange, change_medium};
pub use cpu::{cpus, plug_cpus, unplug_cpus};
pub use device::{Devices, Removal, remove_device};
pub use disk::{clear_disk, lun_of, open_disk, plug_disk, resize_disk, unplug_disk};
pub use limit::limit_disk;
pub use memory::{MEMORY_DEVICE, balloon, memory, plugged_memory, set_balloon, set_memory};
pub use nic::{NicPlug, clear_nic, plug_nic, set_link, unplug_nic};
pub use place::{DiskPlace, PciAddress, disk_places};
