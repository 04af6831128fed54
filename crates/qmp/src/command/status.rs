//! The run state: query it, stop and start the CPUs, reset, end.

use serde::{Deserialize, Serialize};

use super::{Command, Empty};
use crate::wire::QemuVersion;

/// Leaves negotiation mode; sent by [`Qmp::connect`](crate::Qmp::connect).
#[derive(Debug, Serialize)]
pub struct QmpCapabilities;
impl Command for QmpCapabilities {
    const NAME: &'static str = "qmp_capabilities";
    type Return = Empty;
}

/// The run state.
#[derive(Debug, Serialize)]
pub struct QueryStatus;
impl Command for QueryStatus {
    const NAME: &'static str = "query-status";
    type Return = Status;
}

/// Answer of [`QueryStatus`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Status {
    /// Whether the CPUs run.
    pub running: bool,
    /// What the machine is doing.
    pub status: RunState,
}

/// What the machine is doing.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// Stopped by a debugger.
    Debug,
    /// Waits for an incoming migration.
    Inmigrate,
    /// Stopped by an internal error of the accelerator.
    InternalError,
    /// Stopped by a disk error.
    IoError,
    /// Stopped by `stop`.
    Paused,
    /// Stopped after an outgoing migration.
    Postmigrate,
    /// Not started yet (`-S`).
    Prelaunch,
    /// Stopped to finish a migration.
    FinishMigrate,
    /// Stopped while a snapshot is restored.
    RestoreVm,
    /// The CPUs run.
    Running,
    /// Stopped while a snapshot is saved.
    SaveVm,
    /// The guest has shut down and QEMU stays (`-no-shutdown`).
    Shutdown,
    /// The guest sleeps (ACPI S3).
    Suspended,
    /// Stopped by the watchdog.
    Watchdog,
    /// The guest panicked.
    GuestPanicked,
    /// Stopped by a COLO failover.
    Colo,
    /// A state this version does not know.
    #[serde(untagged)]
    Other(String),
}

/// QEMU's version; the greeting holds it too, see [`Qmp::version`](crate::Qmp::version).
#[derive(Debug, Serialize)]
pub struct QueryVersion;
impl Command for QueryVersion {
    const NAME: &'static str = "query-version";
    type Return = Version;
}

/// Answer of [`QueryVersion`].
#[derive(Debug, Clone, Deserialize)]
pub struct Version {
    /// The version proper.
    pub qemu: QemuVersion,
    /// The distribution's addition.
    #[serde(default)]
    pub package: String,
}

/// Whether the accelerator KVM is compiled in and used.
#[derive(Debug, Serialize)]
pub struct QueryKvm;
impl Command for QueryKvm {
    const NAME: &'static str = "query-kvm";
    type Return = Kvm;
}

/// Answer of [`QueryKvm`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Kvm {
    /// In use.
    pub enabled: bool,
    /// Compiled in.
    pub present: bool,
}

/// Stops the CPUs.
#[derive(Debug, Serialize)]
pub struct Stop;
impl Command for Stop {
    const NAME: &'static str = "stop";
    type Return = Empty;
}

/// Lets the CPUs run.
#[derive(Debug, Serialize)]
pub struct Cont;
impl Command for Cont {
    const NAME: &'static str = "cont";
    type Return = Empty;
}

/// Resets the machine.
#[derive(Debug, Serialize)]
pub struct SystemReset;
impl Command for SystemReset {
    const NAME: &'static str = "system_reset";
    type Return = Empty;
}

/// Presses the power button; the guest decides what it does about it.
#[derive(Debug, Serialize)]
pub struct SystemPowerdown;
impl Command for SystemPowerdown {
    const NAME: &'static str = "system_powerdown";
    type Return = Empty;
}

/// Wakes a guest that sleeps (ACPI S3).
#[derive(Debug, Serialize)]
pub struct SystemWakeup;
impl Command for SystemWakeup {
    const NAME: &'static str = "system_wakeup";
    type Return = Empty;
}

/// Ends QEMU in an orderly way. The connection may close before the answer comes.
#[derive(Debug, Serialize)]
pub struct Quit;
impl Command for Quit {
    const NAME: &'static str = "quit";
    type Return = Empty;
}

/// Says what happens at a reboot, shutdown, panic or watchdog alarm; `None` leaves it as it is.
#[derive(Debug, Default, Serialize)]
pub struct SetAction {
    /// `reset` or `shutdown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reboot: Option<String>,
    /// `poweroff` or `pause`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shutdown: Option<String>,
    /// `pause`, `shutdown`, `exit-failure` or `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub panic: Option<String>,
}
impl Command for SetAction {
    const NAME: &'static str = "set-action";
    type Return = Empty;
}

/// The names of all commands of this QEMU.
#[derive(Debug, Serialize)]
pub struct QueryCommands;
impl Command for QueryCommands {
    const NAME: &'static str = "query-commands";
    type Return = Vec<CommandInfo>;
}

/// Part of [`QueryCommands`]' answer.
#[derive(Debug, Clone, Deserialize)]
pub struct CommandInfo {
    /// The command's name.
    pub name: String,
}
