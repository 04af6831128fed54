//! Who moves a VM now: a host sends and receives only a few at once, and the others wait for their turn.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use hostler_tasks::{StepContext, StepError};
use hostler_types::{HostId, HostKind};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::world::Core;

/// More would share the same link and the same processors, and all of them take longer.
const AT_ONCE: usize = 2;

/// The places of each host.
#[derive(Debug, Default)]
pub(crate) struct Migrations(Mutex<HashMap<HostId, Arc<Semaphore>>>);

/// A place at each of the hosts, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn(#[expect(dead_code, reason = "held")] Vec<OwnedSemaphorePermit>);

impl Migrations {
    /// Waits for a place at both hosts.
    ///
    /// # Errors
    /// The task is cancelled meanwhile.
    pub(crate) async fn turn(
        &self,
        step: &StepContext<Core>,
        mut hosts: [HostId; 2],
    ) -> Result<Turn, StepError> {
        // All in the same order, so that no two wait for each other.
        hosts.sort();
        let mut places = Vec::new();
        for host in hosts {
            let semaphore = self.places(host);
            let place = match semaphore.clone().try_acquire_owned() {
                Ok(place) => place,
                Err(_) => {
                    step.progress(None, waiting(step, host));
                    tokio::select! {
                        () = step.cancelled().cancelled() => return Err(StepError::cancelled()),
                        place = semaphore.acquire_owned() => {
                            place.map_err(|error| StepError::internal(error.to_string()))?
                        }
                    }
                }
            };
            places.push(place);
        }
        Ok(Turn(places))
    }

    fn places(&self, host: HostId) -> Arc<Semaphore> {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.entry(host).or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE))).clone()
    }
}

fn waiting(step: &StepContext<Core>, host: HostId) -> String {
    let snapshot = step.world().snapshot();
    let name = snapshot.get::<HostKind>(host).map(|host| host.name().to_string());
    format!("waiting: host `{}` moves {AT_ONCE} VMs already", name.unwrap_or_default())
}
