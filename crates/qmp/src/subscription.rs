//! A bounded subscription to QEMU's events.

use std::time::Duration;

use thiserror::Error;
use tokio::sync::{broadcast, watch};

use crate::{
    error::CloseReason,
    event::{Event, TimedEvent},
};

/// Why there is no next event.
#[derive(Debug, Clone, Error)]
pub enum EventsError {
    /// The reader was too slow; the oldest events are lost. The next call goes on with those that
    /// are left, so ask QEMU for its state now.
    #[error("{missed} QMP events were missed")]
    Lagged {
        /// How many were lost.
        missed: u64,
    },
    /// The connection is gone and every event of it has been delivered.
    #[error("the QMP connection is closed")]
    Closed(#[source] CloseReason),
    /// [`Events::wait_for`] did not see what it waited for.
    #[error("QEMU did not report what was expected within {} ms", after.as_millis())]
    Timeout {
        /// The limit that passed.
        after: Duration,
    },
}

/// The events of one connection from the moment of subscribing, in order.
#[derive(Debug)]
pub struct Events {
    pub(crate) events: broadcast::Receiver<TimedEvent>,
    pub(crate) closed: watch::Receiver<Option<CloseReason>>,
}

impl Events {
    /// The next event. Cancel safe: a dropped future loses nothing.
    ///
    /// # Errors
    /// [`EventsError::Lagged`] if events were lost before the next one, [`EventsError::Closed`]
    /// after the last one.
    pub async fn recv(&mut self) -> Result<TimedEvent, EventsError> {
        match self.events.recv().await {
            Ok(event) => Ok(event),
            Err(broadcast::error::RecvError::Lagged(missed)) => Err(EventsError::Lagged { missed }),
            Err(broadcast::error::RecvError::Closed) => {
                Err(EventsError::Closed(close_reason(&mut self.closed).await))
            }
        }
    }

    /// Waits until `pick` returns something for an event. Earlier events are consumed.
    ///
    /// # Errors
    /// As [`Events::recv`], and [`EventsError::Timeout`] if `within` passes.
    pub async fn wait_for<T>(
        &mut self,
        within: Duration,
        mut pick: impl FnMut(&Event) -> Option<T>,
    ) -> Result<T, EventsError> {
        let picked = async {
            loop {
                if let Some(found) = pick(&self.recv().await?.event) {
                    return Ok(found);
                }
            }
        };
        tokio::time::timeout(within, picked)
            .await
            .unwrap_or(Err(EventsError::Timeout { after: within }))
    }
}

/// Waits for the connection's end and says why it ended.
pub(crate) async fn close_reason(closed: &mut watch::Receiver<Option<CloseReason>>) -> CloseReason {
    match closed.wait_for(Option::is_some).await {
        Ok(reason) => reason.clone().unwrap_or(CloseReason::Released),
        // The owner task sets the reason before it ends, unless its runtime was shut down.
        Err(_) => CloseReason::Released,
    }
}
