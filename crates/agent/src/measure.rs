//! Measures what the VMs and the host use and have to do without, every few seconds, and tells what
//! has become something else.
//!
//! ```text
//!  cgroups, /proc, QMP ──> counters ──(difference)──> rates ──(deadband.rs)──> Hub
//! ```
//!
//! A fleet has hundreds of thousands of guests, most of which do the same as a moment ago: what has not
//! changed by what anybody would act on is not told. Who listens anew gets all of it with the inventory.

mod counters;
mod deadband;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hostler_agent_api::{AgentEvent, VmUse};
use hostler_types::HostUse;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::blocking::blocking;
use crate::events::Hub;
use crate::resources::Resources;
use crate::vm::Vms;
use counters::Counters;
use deadband::Told;

pub(crate) use counters::{DiskCounters, Monitored};

const PERIOD: Duration = Duration::from_secs(5);
/// All is told again after this long: so whatever was not taken up is, some time.
const WHOLE: Duration = Duration::from_mins(5);

/// What was told last. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measured(Arc<Mutex<Told>>);

impl Measured {
    /// All that was told and still holds.
    pub(crate) fn all(&self) -> (Vec<VmUse>, Option<HostUse>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).all()
    }

    fn news(&self, vms: Vec<VmUse>, host: Option<HostUse>, whole: bool) -> Option<AgentEvent> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (vms, host) = told.news(vms, host, whole);
        (!vms.is_empty() || host.is_some()).then_some(AgentEvent::Usage { vms, host })
    }
}

/// Measures and tells, and lets `resources` do what it could not do before, until told to stop.
pub(crate) async fn run(
    (resources, vms, measured): (Resources, Vms, Measured),
    hub: Hub,
    stop: CancellationToken,
) {
    let mut before = Counters::default();
    let mut whole_at = Instant::now();
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let monitors = vms.measure().await;
        let resources = resources.clone();
        let read = blocking(move || {
            resources.go_on();
            Ok(Counters::read(resources.cgroups(), monitors))
        });
        let now = match read.await {
            Ok(now) => now,
            Err(error) => {
                tracing::debug!(%error, "what guests use cannot be measured");
                continue;
            }
        };
        let whole = whole_at.elapsed() >= WHOLE;
        if whole {
            whole_at = Instant::now();
        }
        let (used, host) = now.since(&before);
        if let Some(news) = measured.news(used, host, whole) {
            hub.tell(news);
        }
        before = now;
    }
}
