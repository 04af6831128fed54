//! What the hosts last measured of each VM: kept in memory only, told anew every few seconds.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hostler_types::{ResourceUse, VmId};

/// A measurement older than this says nothing: its host may be away.
const FRESH: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(crate) struct Demands(Mutex<HashMap<VmId, (Instant, ResourceUse)>>);

impl Demands {
    pub(crate) fn note(&self, measured: impl IntoIterator<Item = (VmId, ResourceUse)>) {
        let now = Instant::now();
        let mut demands = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        demands.extend(measured.into_iter().map(|(vm, used)| (vm, (now, used))));
    }

    /// Everything that is fresh; what is not is forgotten.
    pub(crate) fn all(&self) -> HashMap<VmId, ResourceUse> {
        let mut demands = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        demands.retain(|_, (at, _)| at.elapsed() < FRESH);
        demands.iter().map(|(vm, (_, used))| (*vm, *used)).collect()
    }
}
