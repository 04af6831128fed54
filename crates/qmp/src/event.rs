//! What QEMU reports of its own accord.
//!
//! An event this crate does not know, or whose data has another form than expected, arrives as
//! [`Event::Other`]: a newer QEMU must not break the connection.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

use crate::command::{JobStatus, MigrationStatus};

/// An event and when QEMU saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct TimedEvent {
    /// By the host's clock.
    pub timestamp: Timestamp,
    /// What happened.
    pub event: Event,
}

/// The host's wall clock as QEMU read it. Both are -1 if it could not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Timestamp {
    /// Since the epoch.
    pub seconds: i64,
    /// 0 to 999999.
    pub microseconds: i64,
}

impl Default for Timestamp {
    fn default() -> Self {
        Self { seconds: -1, microseconds: -1 }
    }
}

impl Timestamp {
    /// As the standard library's type, if QEMU could read the clock.
    #[must_use]
    pub fn to_system_time(self) -> Option<SystemTime> {
        let seconds = u64::try_from(self.seconds).ok()?;
        let micros = u32::try_from(self.microseconds).ok().filter(|micros| *micros < 1_000_000)?;
        UNIX_EPOCH.checked_add(Duration::new(seconds, micros * 1000))
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The guest has ended; QEMU follows unless it was told to stay.
    Shutdown(Shutdown),
    /// ACPI power-down was signalled to the guest.
    Powerdown,
    /// The guest was reset.
    Reset(Reset),
    /// The CPUs stand still.
    Stop,
    /// The CPUs run again.
    Resume,
    /// The guest went to sleep (ACPI S3).
    Suspend,
    /// The guest woke up.
    Wakeup,
    /// The guest told its pvpanic device that its kernel is lost.
    GuestPanicked(GuestPanicked),
    /// A disk failed to read or write.
    BlockIoError(BlockIoError),
    /// A block job is done, or failed if it has an error.
    BlockJobCompleted(BlockJobCompleted),
    /// A block job was cancelled.
    BlockJobCancelled(BlockJobCompleted),
    /// A block job met an I/O error.
    BlockJobError(BlockJobError),
    /// A mirror or active commit has caught up.
    BlockJobReady(BlockJobCompleted),
    /// A block job waits to be finalized.
    BlockJobPending(BlockJobPending),
    /// A job changed its state.
    JobStatusChange(JobStatusChange),
    /// A device is gone and its back end may be removed.
    DeviceDeleted(DeviceDeleted),
    /// The guest refused to let a device go.
    DeviceUnplugGuestError(DeviceDeleted),
    /// A migration changed its state. Sent only with the capability `events`.
    Migration(MigrationEvent),
    /// A guest's memory has been looked through for what it has written meanwhile. Only with the
    /// capability `events`.
    MigrationPass(MigrationPass),
    /// A guest program opened or closed a virtio-serial port: the guest agent came or went.
    VserportChange(VserportChange),
    /// The guest changed a NIC's receive filter.
    NicRxFilterChanged(NicRxFilterChanged),
    /// The guest set its clock.
    RtcChange(RtcChange),
    /// The watchdog fired.
    Watchdog(Watchdog),
    /// A virtio-mem device changed its size.
    MemoryDeviceSizeChange(MemoryDeviceSizeChange),
    /// The balloon changed its size.
    BalloonChange(BalloonChange),
    /// The guest's firmware answered a hot-plug request.
    AcpiDeviceOst(AcpiDeviceOst),
    /// A removable medium's tray moved.
    DeviceTrayMoved(DeviceTrayMoved),
    /// Any other event, or one with data of an unexpected form.
    Other {
        /// QEMU's name for it.
        name: String,
        /// Its data, or null.
        data: Value,
    },
}

/// Data of [`Event::Shutdown`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Shutdown {
    /// Whether the guest did it.
    pub guest: bool,
    /// How it came about.
    pub reason: ShutdownCause,
}

/// Data of [`Event::Reset`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Reset {
    /// Whether the guest did it.
    pub guest: bool,
    /// How it came about.
    pub reason: ShutdownCause,
}

/// How a shutdown or reset came about.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShutdownCause {
    /// Not said.
    None,
    /// An error in QEMU.
    HostError,
    /// The QMP command `quit`.
    HostQmpQuit,
    /// The QMP command `system_reset`.
    HostQmpSystemReset,
    /// SIGINT, SIGTERM or the like.
    HostSignal,
    /// The window was closed.
    HostUi,
    /// The guest powered itself off.
    GuestShutdown,
    /// The guest reset itself.
    GuestReset,
    /// The guest panicked.
    GuestPanic,
    /// A subsystem reset, on machines that have such.
    SubsystemReset,
    /// A snapshot was loaded.
    SnapshotLoad,
    /// A cause this version does not know.
    #[serde(untagged)]
    Other(String),
}

/// Data of [`Event::GuestPanicked`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct GuestPanicked {
    /// `pause`, `poweroff` or `run`.
    pub action: String,
    /// What the guest left, by operating system.
    pub info: Option<Value>,
}

/// Data of [`Event::BlockIoError`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockIoError {
    /// The drive's legacy name; empty with `-blockdev`.
    pub device: String,
    /// The device's path in QOM.
    pub qom_path: Option<String>,
    /// The node.
    pub node_name: Option<String>,
    /// `read` or `write`.
    pub operation: String,
    /// `ignore`, `report` or `stop`: with the last the guest stands still now.
    pub action: String,
    /// Whether the file system is full.
    #[serde(default)]
    pub nospace: bool,
    /// The sentence for people.
    pub reason: String,
}

/// Data of [`Event::BlockJobCompleted`], `BlockJobCancelled` and `BlockJobReady`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BlockJobCompleted {
    /// `mirror`, `commit`, `stream` or `backup`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The job's id.
    pub device: String,
    /// The work in total, in bytes.
    pub len: u64,
    /// The work done, in bytes.
    pub offset: u64,
    /// The limit in bytes a second; 0 is none.
    pub speed: u64,
    /// Why it failed, for people.
    pub error: Option<String>,
}

/// Data of [`Event::BlockJobError`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BlockJobError {
    /// The job's id.
    pub device: String,
    /// `read` or `write`.
    pub operation: String,
    /// `ignore`, `report` or `stop`.
    pub action: String,
}

/// Data of [`Event::BlockJobPending`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BlockJobPending {
    /// `mirror`, `commit`, `stream` or `backup`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The job's id.
    pub id: String,
}

/// Data of [`Event::JobStatusChange`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct JobStatusChange {
    /// The job's id.
    pub id: String,
    /// Its new state.
    pub status: JobStatus,
}

/// Data of [`Event::DeviceDeleted`] and [`Event::DeviceUnplugGuestError`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct DeviceDeleted {
    /// The device's id, if it had one.
    pub device: Option<String>,
    /// Its path in QOM.
    pub path: String,
}

/// Data of [`Event::Migration`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct MigrationEvent {
    /// The new state.
    pub status: MigrationStatus,
}

/// Data of [`Event::MigrationPass`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct MigrationPass {
    /// How often, this time included; 1: at the beginning.
    pub pass: u64,
}

/// Data of [`Event::VserportChange`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct VserportChange {
    /// The port's device id.
    pub id: String,
    /// Whether a program in the guest has it open now.
    pub open: bool,
}

/// Data of [`Event::NicRxFilterChanged`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NicRxFilterChanged {
    /// The NIC's device id.
    pub name: Option<String>,
    /// Its path in QOM.
    pub path: String,
}

/// Data of [`Event::RtcChange`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RtcChange {
    /// Seconds between the guest's clock and the host's.
    pub offset: i64,
}

/// Data of [`Event::Watchdog`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Watchdog {
    /// `reset`, `shutdown`, `poweroff`, `pause`, `debug`, `none` or `inject-nmi`.
    pub action: String,
}

/// Data of [`Event::MemoryDeviceSizeChange`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MemoryDeviceSizeChange {
    /// The device's id.
    pub id: Option<String>,
    /// Its size now, in bytes.
    pub size: u64,
    /// Its path in QOM.
    pub qom_path: String,
}

/// Data of [`Event::BalloonChange`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BalloonChange {
    /// What the guest has left, in bytes.
    pub actual: u64,
}

/// Data of [`Event::AcpiDeviceOst`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct AcpiDeviceOst {
    /// The answer.
    pub info: AcpiOst,
}

/// What the guest's firmware said about a hot-plug request.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct AcpiOst {
    /// The device's id, if it has one.
    pub device: Option<String>,
    /// The slot.
    pub slot: String,
    /// `CPU` or `DIMM`.
    pub slot_type: String,
    /// What was asked: 3 is an ejection.
    pub source: i64,
    /// 0 is success.
    pub status: i64,
}

/// Data of [`Event::DeviceTrayMoved`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DeviceTrayMoved {
    /// The drive's legacy name; empty with `-blockdev`.
    pub device: String,
    /// The device's id or path.
    pub id: String,
    /// Whether it is open now.
    pub tray_open: bool,
}

impl Event {
    /// Gives an event's data its type.
    pub(crate) fn parse(name: &str, data: Option<&RawValue>) -> Self {
        let known = match name {
            "POWERDOWN" => Some(Self::Powerdown),
            "STOP" => Some(Self::Stop),
            "RESUME" => Some(Self::Resume),
            "SUSPEND" => Some(Self::Suspend),
            "WAKEUP" => Some(Self::Wakeup),
            "SHUTDOWN" => typed(data, Self::Shutdown),
            "RESET" => typed(data, Self::Reset),
            "GUEST_PANICKED" => typed(data, Self::GuestPanicked),
            "BLOCK_IO_ERROR" => typed(data, Self::BlockIoError),
            "BLOCK_JOB_COMPLETED" => typed(data, Self::BlockJobCompleted),
            "BLOCK_JOB_CANCELLED" => typed(data, Self::BlockJobCancelled),
            "BLOCK_JOB_ERROR" => typed(data, Self::BlockJobError),
            "BLOCK_JOB_READY" => typed(data, Self::BlockJobReady),
            "BLOCK_JOB_PENDING" => typed(data, Self::BlockJobPending),
            "JOB_STATUS_CHANGE" => typed(data, Self::JobStatusChange),
            "DEVICE_DELETED" => typed(data, Self::DeviceDeleted),
            "DEVICE_UNPLUG_GUEST_ERROR" => typed(data, Self::DeviceUnplugGuestError),
            "MIGRATION" => typed(data, Self::Migration),
            "MIGRATION_PASS" => typed(data, Self::MigrationPass),
            "VSERPORT_CHANGE" => typed(data, Self::VserportChange),
            "NIC_RX_FILTER_CHANGED" => typed(data, Self::NicRxFilterChanged),
            "RTC_CHANGE" => typed(data, Self::RtcChange),
            "WATCHDOG" => typed(data, Self::Watchdog),
            "MEMORY_DEVICE_SIZE_CHANGE" => typed(data, Self::MemoryDeviceSizeChange),
            "BALLOON_CHANGE" => typed(data, Self::BalloonChange),
            "ACPI_DEVICE_OST" => typed(data, Self::AcpiDeviceOst),
            "DEVICE_TRAY_MOVED" => typed(data, Self::DeviceTrayMoved),
            _ => None,
        };
        known.unwrap_or_else(|| Self::Other {
            name: name.to_owned(),
            data: data
                .and_then(|data| serde_json::from_str(data.get()).ok())
                .unwrap_or(Value::Null),
        })
    }
}

fn typed<T: DeserializeOwned>(data: Option<&RawValue>, variant: fn(T) -> Event) -> Option<Event> {
    serde_json::from_str(data?.get()).ok().map(variant)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(name: &str, data: &str) -> Event {
        Event::parse(name, Some(&RawValue::from_string(data.to_owned()).unwrap()))
    }

    #[test]
    fn known_events_are_typed_and_unknown_fields_ignored() {
        assert_eq!(
            parse("SHUTDOWN", r#"{"guest":true,"reason":"guest-shutdown","new":1}"#),
            Event::Shutdown(Shutdown { guest: true, reason: ShutdownCause::GuestShutdown }),
        );
        assert_eq!(
            parse("SHUTDOWN", r#"{"guest":false,"reason":"host-meteor"}"#),
            Event::Shutdown(Shutdown {
                guest: false,
                reason: ShutdownCause::Other("host-meteor".to_owned()),
            }),
        );
        assert_eq!(
            parse("VSERPORT_CHANGE", r#"{"open":true,"id":"qga0"}"#),
            Event::VserportChange(VserportChange { id: "qga0".to_owned(), open: true }),
        );
        assert_eq!(
            parse("MIGRATION", r#"{"status":"completed"}"#),
            Event::Migration(MigrationEvent { status: MigrationStatus::Completed }),
        );
        assert_eq!(Event::parse("STOP", None), Event::Stop);
    }

    #[test]
    fn anything_else_is_kept_as_it_came() {
        let other = |name: &str, data| Event::Other { name: name.to_owned(), data };
        assert_eq!(parse("NEW_ONE", "[1]"), other("NEW_ONE", json!([1])));
        assert_eq!(parse("SHUTDOWN", r#"{"guest":7}"#), other("SHUTDOWN", json!({ "guest": 7 })));
        assert_eq!(Event::parse("SHUTDOWN", None), other("SHUTDOWN", Value::Null));
    }

    #[test]
    fn a_clock_that_could_not_be_read_has_no_time() {
        assert_eq!(Timestamp::default().to_system_time(), None);
        let time = Timestamp { seconds: 1, microseconds: 5 };
        assert_eq!(time.to_system_time(), Some(UNIX_EPOCH + Duration::new(1, 5000)));
        let wild = Timestamp { seconds: i64::MAX, microseconds: i64::MAX };
        assert_eq!(wild.to_system_time(), None);
    }
}
