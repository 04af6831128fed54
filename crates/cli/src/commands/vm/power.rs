//! `hostler vm start|stop|reset|suspend|resume`.

use std::time::Duration;

use clap::Args;
use hostler_api::vm;
use hostler_endpoint::NoParams;
use hostler_types::StopMode;

use super::{VmName, finish};
use crate::error::CliError;
use crate::session::{Session, once};
use crate::wait::{self, StartWaitOptions, WaitOptions};

/// Start a VM, or resume a suspended one
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm start web01
  hostler vm start web01 --wait=guest --timeout 2m")]
pub(crate) struct Start {
    #[command(flatten)]
    vm: VmName,
    #[command(flatten)]
    wait: StartWaitOptions,
}

impl Start {
    pub(super) async fn run(&self, session: &Session) -> Result<(), CliError> {
        let path = self.vm.path();
        let task = session.call_with::<vm::Start>(&path, &NoParams {}, (), once()).await?;
        if !self.wait.waits() {
            return crate::commands::task::print_ordered(session, &task);
        }
        let started = async {
            wait::task(session, task).await?;
            self.wait.guest(session, &path).await
        };
        let vm = self.wait.limit(session, &path, started).await?;
        session.output.done("started", "vm", vm.metadata.name.as_str(), &vm)
    }
}

/// Stop a VM: asks the guest agent, then presses the power button, and waits
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm stop web01
  hostler vm stop web01 --timeout 90s --force-after-timeout
  hostler vm stop web01 --power-off")]
pub(crate) struct Stop {
    #[command(flatten)]
    vm: VmName,

    /// How long the guest may take to shut down, such as 90s; at most 1h [default: 2m]
    #[arg(long, value_name = "DURATION", value_parser = crate::duration::parse)]
    timeout: Option<Duration>,

    /// Pull the plug when the guest has not shut down in time
    #[arg(long, conflicts_with = "power_off")]
    force_after_timeout: bool,

    /// Pull the plug at once
    #[arg(long, conflicts_with = "timeout")]
    power_off: bool,

    #[command(flatten)]
    wait: WaitOptions,
}

impl Stop {
    pub(super) async fn run(&self, session: &Session) -> Result<(), CliError> {
        let mode = match (self.power_off, self.force_after_timeout) {
            (true, _) => StopMode::PowerOff,
            (false, true) => StopMode::GracefulThenOff,
            (false, false) => StopMode::Graceful,
        };
        let seconds = |limit: Duration| u32::try_from(limit.as_secs()).unwrap_or(u32::MAX);
        let request = vm::StopRequest { mode, timeout_seconds: self.timeout.map(seconds) };
        let path = self.vm.path();
        let task = session.call_with::<vm::Stop>(&path, &NoParams {}, request, once()).await?;
        finish(session, task, self.wait.waits(), "stopped", &path).await
    }
}

/// Reset a running VM, as the button on a case does
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  hostler vm reset web01")]
pub(crate) struct Reset {
    #[command(flatten)]
    vm: VmName,
    #[command(flatten)]
    wait: WaitOptions,
}

impl Reset {
    pub(super) async fn run(&self, session: &Session) -> Result<(), CliError> {
        let path = self.vm.path();
        let task = session.call_with::<vm::Reset>(&path, &NoParams {}, (), once()).await?;
        finish(session, task, self.wait.waits(), "reset", &path).await
    }
}

/// Write a VM's memory to its datastore and free it
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  hostler vm suspend web01")]
pub(crate) struct Suspend {
    #[command(flatten)]
    vm: VmName,
    #[command(flatten)]
    wait: WaitOptions,
}

impl Suspend {
    pub(super) async fn run(&self, session: &Session) -> Result<(), CliError> {
        let path = self.vm.path();
        let task = session.call_with::<vm::Suspend>(&path, &NoParams {}, (), once()).await?;
        finish(session, task, self.wait.waits(), "suspended", &path).await
    }
}

/// Go on with a suspended or paused VM
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  hostler vm resume web01")]
pub(crate) struct Resume {
    #[command(flatten)]
    vm: VmName,
    #[command(flatten)]
    wait: WaitOptions,
}

impl Resume {
    pub(super) async fn run(&self, session: &Session) -> Result<(), CliError> {
        let path = self.vm.path();
        let task = session.call_with::<vm::Resume>(&path, &NoParams {}, (), once()).await?;
        finish(session, task, self.wait.waits(), "resumed", &path).await
    }
}
