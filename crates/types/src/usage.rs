//! What VMs and hosts were measured to use, and what they had to do without. None of it is stored.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::{HostId, VmId};

/// What a VM used over the last few seconds, and what it had to do without.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResourceUse {
    /// CPU time, in thousandths of a CPU.
    pub cpu_millicpus: u64,
    /// CPU time that its vCPUs were ready to use and did not get because others had the CPUs, in
    /// thousandths of a CPU.
    pub cpu_ready_millicpus: u64,
    /// CPU time that its own limit kept from it, in thousandths of a CPU.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cpu_limited_millicpus: u64,
    /// Memory that its processes hold, in bytes.
    pub memory: u64,
    /// Of that, what the host's kernel saw used lately, in bytes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub memory_active: u64,
    /// Its memory on the host's swap, in bytes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub memory_swapped: u64,
    /// Memory that the balloon has taken from the guest, in bytes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub memory_ballooned: u64,
    /// Of the time, how much it stood still for memory, in thousandths, 0 to 1,000 (cgroup v2 only).
    #[serde(default, skip_serializing_if = "is_none_of")]
    pub memory_stall_permille: u16,
    /// What it read from its disks.
    #[serde(default, skip_serializing_if = "DiskUse::is_idle")]
    pub reads: DiskUse,
    /// What it wrote to its disks.
    #[serde(default, skip_serializing_if = "DiskUse::is_idle")]
    pub writes: DiskUse,
}

/// What went to or came from disks, all of a VM together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskUse {
    /// Operations per second.
    pub per_second: u32,
    /// Bytes per second.
    pub bytes_per_second: u64,
    /// How long one took on average, in microseconds.
    pub latency_us: u32,
}

impl DiskUse {
    pub fn is_idle(&self) -> bool {
        *self == Self::default()
    }
}

/// What a host used over the last few seconds, guests and all else, and how short it was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostUse {
    /// CPU time, in thousandths of a CPU.
    pub cpu_millicpus: u64,
    /// Of the time, how much something waited for a CPU, in thousandths, 0 to 1,000.
    pub cpu_pressure_permille: u16,
    /// Memory that is in use and could not be had without writing it somewhere, in bytes.
    pub memory: u64,
    /// Of the time, how much something waited for memory, in thousandths, 0 to 1,000.
    pub memory_pressure_permille: u16,
    /// Of the time, how much everything waited for memory, in thousandths, 0 to 1,000.
    pub memory_stall_permille: u16,
    /// Memory on swap, in bytes.
    pub swapped: u64,
    /// Memory that came back from swap, in bytes per second: what hurts, where `swapped` only did.
    pub swapped_in_per_second: u64,
    /// Of the time, how much something waited for a disk, in thousandths, 0 to 1,000.
    pub io_pressure_permille: u16,
}

/// What `hostler vm stats` shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmStats {
    #[schema(value_type = String, format = "uuid")]
    pub vm: VmId,
    pub name: String,
    /// Absent: it does not run, its host is away, or it has not been measured yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<ResourceUse>,
    /// What it asked for over the last 5 minutes, with what it had to wait for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub demand: Option<MeanDemand>,
    /// The same over the last hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub demand_hour: Option<MeanDemand>,
    /// Of the time that its vCPUs could have run, how much they waited for a CPU, in thousandths, 0 to
    /// 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_ready_permille: Option<u16>,
}

/// A mean in which what was longer ago counts less.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MeanDemand {
    /// In MHz.
    pub cpu_mhz: u64,
    /// In bytes.
    pub memory: u64,
}

/// What `hostler host stats` shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostStats {
    #[schema(value_type = String, format = "uuid")]
    pub host: HostId,
    pub name: String,
    /// Absent: it is away, or its agent does not measure it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<HostUse>,
    /// Its VMs that run and have been measured, those that waited most for a CPU first.
    pub vms: Vec<VmStats>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_none_of(permille: &u16) -> bool {
    *permille == 0
}

impl ResourceUse {
    /// Of the time that it could have run, how much it waited for a CPU, in thousandths, 0 to 1,000.
    pub fn cpu_ready_permille(&self) -> u16 {
        let could = self.cpu_millicpus.saturating_add(self.cpu_ready_millicpus).max(1);
        let permille = u128::from(self.cpu_ready_millicpus) * 1000 / u128::from(could);
        u16::try_from(permille).unwrap_or(1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_nothing_is_not_written_and_what_an_older_agent_writes_is_read() {
        let used = ResourceUse { cpu_millicpus: 5, memory: 7, ..ResourceUse::default() };
        let old = r#"{"cpu_millicpus":5,"cpu_ready_millicpus":0,"memory":7}"#;
        assert_eq!(serde_json::to_string(&used).unwrap(), old);
        assert_eq!(serde_json::from_str::<ResourceUse>(old).unwrap(), used);
    }

    #[test]
    fn readiness_is_a_part_of_the_time_that_it_could_run() {
        let part = |cpu_millicpus, cpu_ready_millicpus| {
            let used = ResourceUse { cpu_millicpus, cpu_ready_millicpus, ..ResourceUse::default() };
            used.cpu_ready_permille()
        };
        assert_eq!((part(0, 0), part(500, 500), part(0, 9)), (0, 500, 1000));
    }
}
