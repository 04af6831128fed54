//! What moving a VM would take, before anything moves: how much its guest holds, how fast it writes, and how
//! fast the other host is reached. The server makes a forecast of it.

use std::time::Duration;

use hostler_agent_api::{VmMigrationMeasureRequest, VmMigrationMeasured};
use hostler_qemu::migrate::dirty_rate;
use hostler_types::{PowerState, VmId};

use crate::blocking::blocking;
use crate::context::HostContext;
use crate::fault::{Fault, chain};
use crate::vm::registry::Vms;

/// Over how long a guest's writing is measured: about as long as sending a small guest's memory once
/// takes. Over a longer time, pages that are written again and again count for less than they will.
const OBSERVED: Duration = Duration::from_millis(400);

impl Vms {
    /// Measures; the guest does not notice.
    pub(crate) async fn measure_move(
        &self,
        host: &HostContext,
        vm: VmId,
        request: &VmMigrationMeasureRequest,
    ) -> Result<VmMigrationMeasured, Fault> {
        let handle = self.handle(vm)?;
        let (power, live) = (handle.report.borrow().power, handle.live.borrow().clone());
        let action = "measuring what moving it takes";
        let idle = Fault::Power { action, power, needed: "running" };
        let live = live.filter(|_| power == PowerState::Running).ok_or(idle)?;
        let cgroups = host.cgroups.clone();
        let resident = blocking(move || {
            let pids = cgroups.pids(vm).map_err(|error| Fault::internal("cgroup", &error))?;
            let held = pids.into_iter().filter_map(shared_memory);
            held.max().ok_or_else(|| Fault::Qemu("QEMU is gone".to_owned()))
        });
        let writing = async {
            let rate = dirty_rate(&live.qmp, OBSERVED).await;
            rate.map_err(|error| Fault::Qemu(format!("how fast it writes: {}", chain(&error))))
        };
        // One after the other: on a small host sending would slow the guest down that is measured.
        let dirty_rate = writing.await?;
        let bandwidth = host.peers.bandwidth(request.to, &request.address).await?;
        Ok(VmMigrationMeasured { resident: resident.await?, dirty_rate, bandwidth })
    }
}

/// The bytes of a guest's memory that its process has in use: the memory is a file without a name.
fn shared_memory(pid: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    of_status(&status)
}

fn of_status(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("RssShmem:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_shares_is_read_from_its_status() {
        let status = "VmRSS:\t  204800 kB\nRssAnon:\t   1024 kB\nRssShmem:\t  102400 kB\n";
        assert_eq!(of_status(status), Some(100 << 20));
        assert_eq!(of_status("VmRSS:\t 1 kB\n"), None);
        assert_eq!(of_status("RssShmem:\t many kB\n"), None);
    }
}
