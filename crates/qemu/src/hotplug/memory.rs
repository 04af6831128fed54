//! Memory: what a virtio-mem device gives, and what the balloon takes.

use std::time::Duration;

use hostler_qmp::{
    EventsError, Qmp,
    command::{Balloon, QomGet, QomSet, QueryBalloon},
    event::Event,
};
use hostler_types::ByteSize;
use serde_json::Value;
use tokio::time::Instant;

use crate::vm::MonitorError;

/// The id of the device through which memory is added.
pub const MEMORY_DEVICE: &str = "memory0";

/// What has been added to the memory that the machine was started with, as far as the guest has
/// taken it. `None` for a machine without room.
///
/// # Errors
/// See [`MonitorError`].
pub async fn memory(qmp: &Qmp) -> Result<Option<ByteSize>, MonitorError> {
    property(qmp, "size").await
}

/// What the guest was last asked to have beside the memory it was started with.
///
/// # Errors
/// See [`MonitorError`].
pub async fn plugged_memory(qmp: &Qmp) -> Result<Option<ByteSize>, MonitorError> {
    property(qmp, "requested-size").await
}

async fn property(qmp: &Qmp, property: &str) -> Result<Option<ByteSize>, MonitorError> {
    let get = QomGet { path: path(), property: property.to_owned() };
    match qmp.execute(get).await {
        Ok(value) => Ok(value.as_u64().map(ByteSize)),
        Err(error) if error.is_device_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Asks the guest to take (or give back) memory until it has `size` beside what it was started
/// with. Waits as long as it goes on, each time at most `pause`, and at most `within` in all. What
/// it has then.
///
/// # Errors
/// See [`MonitorError`].
pub async fn set_memory(
    qmp: &Qmp,
    size: ByteSize,
    pause: Duration,
    within: Duration,
) -> Result<ByteSize, MonitorError> {
    let mut events = qmp.subscribe();
    let deadline = Instant::now() + within;
    let property = "requested-size".to_owned();
    let value = Value::from(size.bytes());
    qmp.execute(QomSet { path: path(), property, value }).await?;
    loop {
        let now = memory(qmp).await?.unwrap_or_default();
        let left = deadline.saturating_duration_since(Instant::now());
        if now == size || left.is_zero() {
            return Ok(now);
        }
        let step = events.wait_for(pause.min(left), |event| match event {
            Event::MemoryDeviceSizeChange(_) => Some(()),
            _ => None,
        });
        match step.await {
            Ok(()) | Err(EventsError::Lagged { .. }) => {}
            Err(EventsError::Timeout { .. }) => return Ok(now),
            Err(error) => return Err(error.into()),
        }
    }
}

/// What the balloon leaves the guest of all its memory.
///
/// # Errors
/// See [`MonitorError`].
pub async fn balloon(qmp: &Qmp) -> Result<ByteSize, MonitorError> {
    Ok(ByteSize(qmp.execute(QueryBalloon).await?.actual))
}

/// Sets what the balloon shall leave the guest, and waits until it does, at most `within`. What it
/// leaves then.
///
/// # Errors
/// See [`MonitorError`].
pub async fn set_balloon(
    qmp: &Qmp,
    size: ByteSize,
    within: Duration,
) -> Result<ByteSize, MonitorError> {
    let mut events = qmp.subscribe();
    qmp.execute(Balloon { value: size.bytes() }).await?;
    let deadline = Instant::now() + within;
    loop {
        let now = balloon(qmp).await?;
        let left = deadline.saturating_duration_since(Instant::now());
        if now == size || left.is_zero() {
            return Ok(now);
        }
        let step = events.wait_for(left, |event| match event {
            Event::BalloonChange(_) => Some(()),
            _ => None,
        });
        match step.await {
            Ok(()) | Err(EventsError::Lagged { .. } | EventsError::Timeout { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn path() -> String {
    format!("/machine/peripheral/{MEMORY_DEVICE}")
}
