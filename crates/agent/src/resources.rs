//! What pools and VMs may use of this host: kept as the server last said it, in the host's control
//! groups; and what they use, told every few seconds.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hostler_agent_api::{AgentEvent, HostResources, Slice, VmUse};
use hostler_host::{Cgroups, Layout, PoolGroup, Share, Usage, VmGroup};
use hostler_types::{ResourceUse, VmId};
use tokio_util::sync::CancellationToken;

use crate::blocking::blocking;
use crate::events::Hub;
use crate::fault::{Fault, chain};
use crate::state_file;

/// How often what VMs use is measured.
const PERIOD: Duration = Duration::from_secs(5);

/// Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Resources {
    path: Arc<PathBuf>,
    cgroups: Cgroups,
    /// One arrangement at a time, and what was asked for last.
    last: Arc<Mutex<Last>>,
}

#[derive(Debug, Default)]
struct Last {
    asked: HostResources,
    /// Not all of it could be done yet.
    again: bool,
}

impl Resources {
    /// Takes up what the server said before this agent was started. Blocks.
    ///
    /// # Errors
    /// The file is not what we wrote.
    pub(crate) fn load(path: PathBuf, cgroups: Cgroups) -> Result<Self, Fault> {
        let known: Option<HostResources> = state_file::read(&path)?;
        let asked = known.unwrap_or_default();
        let last = Arc::new(Mutex::new(Last { asked, again: true }));
        let resources = Self { path: Arc::new(path), cgroups, last };
        resources.go_on();
        Ok(resources)
    }

    /// Does what could not be done before. Blocks.
    fn go_on(&self) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if !last.again || last.asked == HostResources::default() {
            return;
        }
        match self.cgroups.arrange(&layout(&last.asked)) {
            Ok(whole) => last.again = !whole,
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "guests may use more or less than they are to"
                );
            }
        }
    }

    /// Does as the server says from now on. Blocks.
    ///
    /// # Errors
    /// It cannot be kept, or the host's groups cannot be made so; what can be is done.
    pub(crate) fn set(&self, asked: HostResources) -> Result<(), Fault> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.asked != asked {
            state_file::write(&self.path, &asked)?;
            last.asked = asked;
        }
        last.again = true;
        // Also when it is the same: somebody may have changed the groups, or a guest has come.
        let whole = self.cgroups.arrange(&layout(&last.asked));
        let whole =
            whole.map_err(|error| Fault::internal("divide the host's resources", &error))?;
        last.again = !whole;
        Ok(())
    }
}

fn layout(resources: &HostResources) -> Layout {
    let pools = resources.pools.iter().map(|it| PoolGroup {
        pool: it.pool,
        parent: it.parent,
        share: share(&it.slice),
    });
    let vms = resources.vms.iter().map(|it| VmGroup {
        vm: it.vm,
        pool: it.pool,
        share: share(&it.slice),
    });
    Layout { pools: pools.collect(), vms: vms.collect() }
}

fn share(slice: &Slice) -> Share {
    Share {
        cpu_weight: slice.cpu_weight,
        cpu_limit_millicpus: slice.cpu_limit_millicpus,
        memory_min: slice.memory_reserved,
        memory_low: slice.memory_entitled,
    }
}

/// Measures what the VMs use and tells it, and does what could not be done before, until told to stop.
pub(crate) async fn measure(resources: Resources, hub: Hub, stop: CancellationToken) {
    let mut before: HashMap<VmId, (Instant, Usage)> = HashMap::new();
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let resources = resources.clone();
        let read = blocking(move || {
            resources.go_on();
            Ok(look(&resources.cgroups))
        });
        let read = read.await;
        let now = match read {
            Ok(now) => now,
            Err(error) => {
                tracing::debug!(%error, "what guests use cannot be measured");
                continue;
            }
        };
        let vms: Vec<VmUse> = now
            .iter()
            .filter_map(|(vm, now)| Some(VmUse { vm: *vm, used: between(before.get(vm)?, now) }))
            .collect();
        if !vms.is_empty() {
            hub.tell(AgentEvent::Usage { vms });
        }
        before = now;
    }
}

fn look(cgroups: &Cgroups) -> HashMap<VmId, (Instant, Usage)> {
    let vms = cgroups.list().unwrap_or_default();
    let usages = vms.into_iter().filter_map(|vm| {
        let usage = cgroups.usage(vm).ok()??;
        Some((vm, (Instant::now(), usage)))
    });
    usages.collect()
}

fn between(before: &(Instant, Usage), now: &(Instant, Usage)) -> ResourceUse {
    let span = now.0.duration_since(before.0).as_nanos().max(1);
    let rate = |before: u64, now: u64| {
        // A thread that has ended takes its waiting with it.
        let millicpus = u128::from(now.saturating_sub(before)) * 1000 / span;
        u64::try_from(millicpus).unwrap_or(u64::MAX)
    };
    ResourceUse {
        cpu_millicpus: rate(before.1.cpu_ns, now.1.cpu_ns),
        cpu_ready_millicpus: rate(before.1.ready_ns, now.1.ready_ns),
        memory: now.1.memory,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_is_a_rate_over_the_time_between_two_looks() {
        let begin = Instant::now();
        let usage = |cpu_ns, ready_ns, memory| Usage { cpu_ns, ready_ns, memory };
        let before = (begin, usage(1_000_000_000, 900, 10));
        let now = (begin + Duration::from_secs(4), usage(3_000_000_000, 100, 20));
        let used = between(&before, &now);
        assert_eq!(
            used,
            ResourceUse { cpu_millicpus: 500, cpu_ready_millicpus: 0, memory: 20 },
            "half a CPU; a thread that waited has ended"
        );
    }
}
