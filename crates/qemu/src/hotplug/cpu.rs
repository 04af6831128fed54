//! Virtual CPUs. They come from the lowest core up and go from the highest down, so that a machine
//! with a given number of them is always the same machine.

use std::time::Duration;

use hostler_qmp::{
    EventsError, Qmp, QmpError,
    command::{DeviceAdd, DeviceDel, HotpluggableCpu, QueryCpusFast, QueryHotpluggableCpus},
    event::Event,
};
use serde_json::Value;
use tokio::time::Instant;

use super::device::Removal;
use crate::vm::MonitorError;

/// How many CPUs are plugged in.
///
/// # Errors
/// See [`MonitorError`].
pub async fn cpus(qmp: &Qmp) -> Result<u32, MonitorError> {
    let cpus = qmp.execute(QueryCpusFast).await?;
    Ok(u32::try_from(cpus.len()).unwrap_or(u32::MAX))
}

/// Plugs CPUs in until there are `wanted`, and waits a moment for the guest to have noticed each:
/// one without the driver never says so. How many there are then.
///
/// # Errors
/// See [`MonitorError`]; those plugged in before the error stay.
pub async fn plug_cpus(qmp: &Qmp, wanted: u32, within: Duration) -> Result<u32, MonitorError> {
    let mut events = qmp.subscribe();
    let mut added = 0;
    while cpus(qmp).await? < wanted {
        let slots = qmp.execute(QueryHotpluggableCpus).await?;
        // The highest core comes first.
        let free = slots.into_iter().rev().find(|slot| slot.qom_path.is_none());
        let Some(HotpluggableCpu { driver, mut props, .. }) = free else { break };
        let core = props.get("core-id").and_then(Value::as_u64).unwrap_or_default();
        props.insert("driver".to_owned(), driver.into());
        props.insert("id".to_owned(), format!("cpu-{core}").into());
        qmp.execute(DeviceAdd(Value::Object(props))).await?;
        added += 1;
    }
    let deadline = Instant::now() + within;
    for _ in 0..added {
        let left = deadline.saturating_duration_since(Instant::now());
        let noticed = events.wait_for(left, |event| match event {
            Event::AcpiDeviceOst(ost) if ost.info.slot_type == "CPU" => Some(()),
            _ => None,
        });
        match noticed.await {
            Ok(()) => {}
            Err(EventsError::Closed(reason)) => return Err(EventsError::Closed(reason).into()),
            Err(_) => break,
        }
    }
    cpus(qmp).await
}

/// Asks the guest to let CPUs go until there are `wanted`; each may take `within`. The first CPU
/// always stays. What is said of the last one asked for; it tells nothing of the ones before.
///
/// # Errors
/// See [`MonitorError`].
pub async fn unplug_cpus(
    qmp: &Qmp,
    wanted: u32,
    within: Duration,
) -> Result<Removal, MonitorError> {
    while cpus(qmp).await? > wanted.max(1) {
        let slots = qmp.execute(QueryHotpluggableCpus).await?;
        let Some(last) = slots.into_iter().find_map(|slot| slot.qom_path) else { break };
        match unplug(qmp, last, within).await? {
            Removal::Gone => {}
            kept => return Ok(kept),
        }
    }
    Ok(Removal::Gone)
}

/// Its end is seen by counting: the event that tells of it names a part of the CPU, not the CPU.
async fn unplug(qmp: &Qmp, path: String, within: Duration) -> Result<Removal, MonitorError> {
    let before = cpus(qmp).await?;
    let mut events = qmp.subscribe();
    match qmp.execute(DeviceDel { id: path }).await {
        Ok(_) => {}
        // Its operating system has not said yet that it could.
        Err(QmpError::Refused { .. }) => return Ok(Removal::Refused),
        Err(error) => return Err(error.into()),
    }
    let deadline = Instant::now() + within;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Source 3 is an ejection; status 0 its success.
        let said = events.wait_for(left, |event| match event {
            Event::DeviceDeleted(_) => Some(false),
            Event::AcpiDeviceOst(ost) if ost.info.slot_type == "CPU" => {
                // 0x84: the ejection is under way.
                Some(ost.info.source == 3 && !matches!(ost.info.status, 0 | 0x84))
            }
            _ => None,
        });
        let said = said.await;
        if cpus(qmp).await? < before {
            return Ok(Removal::Gone);
        }
        match said {
            Ok(true) => return Ok(Removal::Refused),
            Ok(false) | Err(EventsError::Lagged { .. }) => {}
            Err(EventsError::Timeout { .. }) => return Ok(Removal::Waiting),
            Err(error) => return Err(error.into()),
        }
    }
}
