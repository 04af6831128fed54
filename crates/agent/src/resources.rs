//! What pools and VMs may use of this host: kept as the server last said it, in the host's control
//! groups.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use hostler_agent_api::{HostResources, Slice};
use hostler_host::{Cgroups, Layout, PoolGroup, Share, VmGroup};

use crate::fault::{Fault, chain};
use crate::state_file;

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

    pub(crate) fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }

    /// Does what could not be done before. Blocks.
    pub(crate) fn go_on(&self) {
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
