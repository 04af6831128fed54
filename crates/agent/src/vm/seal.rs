//! Sealing: takes out of a guest what must not be the same in two machines.
//!
//! ```text
//!  running  script through its agent -> the record says what went -> freeze, pull the plug
//!  off      a fresh layer over each disk -> the appliance works on those -> they become the disks'
//! ```
//!
//! A kill at any instant leaves a guest that is sealed and known to be, or one that is not: off, the
//! layers are the VM's only once the record says so, in the same write that says what went. Running,
//! the record is written before the plug is pulled, with the operation whose seal it is: until the plug
//! is pulled, anything else that is asked of the VM, and whatever the guest does, breaks it.
//!
//! What the guest or the appliance says is as hostile as the guest: see [`report`].

mod offline;
mod report;
mod windows;

use std::time::Duration;

use hostler_qmp::guest::{ExecRequest, FsfreezeFreeze, FsfreezeThaw, GetOsinfo, GuestAgent};
use hostler_types::{OperationId, PowerState, SealWay};
use jiff::Timestamp;

use super::actor::Actor;
use super::record::VmRecord;
use crate::fault::{Fault, chain};
use report::Report;

/// Takes out of a Linux guest what must go; also what the appliance runs.
const GUEST_SCRIPT: &str = include_str!("seal/guest.sh");
/// How long the script may take: it deletes, and trims the file systems.
const IN_GUEST: Duration = Duration::from_secs(600);
/// What it may say, in bytes.
const MAX_REPORT: usize = 1 << 20;

impl Actor {
    pub(super) async fn seal(&mut self, op: OperationId) -> Result<(), Fault> {
        match self.power {
            PowerState::Running => self.seal_in_guest(op).await,
            // Asked again after a crash: it has not run since.
            PowerState::Stopped if self.record.seal.is_some() => {
                self.record.sealing = None;
                Ok(())
            }
            PowerState::Stopped => self.seal_offline(op).await,
            power => {
                Err(Fault::Power { action: "sealing it", power, needed: "running or stopped" })
            }
        }
    }

    /// Before the guest runs: what it makes anew is not known.
    pub(super) async fn break_seal(&mut self) -> Result<(), Fault> {
        self.record.sealing = None;
        if self.record.seal.take().is_some() {
            self.save().await?;
        }
        Ok(())
    }

    /// The guest has ended otherwise than by its plug, and has written what a seal says is not there;
    /// unless that is how it is sealed.
    pub(super) fn end_unsealed(&mut self) {
        if !self.record.seal.as_ref().is_some_and(windows::ends_by_itself) {
            self.record.forget_pending_seal();
        }
    }

    async fn seal_in_guest(&mut self, op: OperationId) -> Result<(), Fault> {
        let machine =
            self.machine.as_ref().ok_or_else(|| Fault::Qemu("QEMU is gone".to_owned()))?;
        let agent = machine.live.agent.clone();
        if self.record.layering.frozen {
            // By who began this, and died before the plug was pulled.
            let _it_says_so_below = agent.execute(FsfreezeThaw).await;
        }
        // Asked again after a crash, a Windows guest is about to shut down; another may have made anew
        // what went.
        let begun = self.record.seal.take();
        let seal = match begun {
            Some(begun) if windows::ends_by_itself(&begun) => begun,
            begun => {
                let os = agent.execute(GetOsinfo).await.map_err(|error| guest_fault(&error))?;
                let report = match os.id.as_deref() {
                    Some("mswindows") => windows::seal(&agent, &os).await?,
                    _ => linux(&agent).await?,
                };
                let mut seal = report.into_seal(SealWay::Guest, Timestamp::now());
                seal.removed.splice(..0, begun.map(|begun| begun.removed).unwrap_or_default());
                seal
            }
        };
        self.record.seal = Some(seal);
        self.record.sealing = Some(op);
        // Whoever comes after an agent that dies from here on thaws the guest.
        let freezes = !self.record.seal.as_ref().is_some_and(windows::ends_by_itself);
        self.record.layering.frozen |= freezes;
        self.save().await?;
        if self.record.seal.as_ref().is_some_and(windows::ends_by_itself) {
            self.ended_by_itself().await?;
            self.record.sealing = None;
            return Ok(());
        }
        // All is on the disks, and nothing more gets there: a guest that shut down in its own way
        // would write logs, a random seed and more.
        let _not_every_guest_can = agent.execute(FsfreezeFreeze).await;
        if let Err(fault) = self.power_off().await {
            self.thaw_again(agent);
            return Err(fault);
        }
        self.record.sealing = None;
        Ok(())
    }

    /// Waits for QEMU's end, which the guest brings about.
    async fn ended_by_itself(&mut self) -> Result<(), Fault> {
        let end = tokio::time::Instant::now() + windows::SHUTDOWN;
        while let Some(machine) = &mut self.machine {
            let Ok(event) = tokio::time::timeout_at(end, machine.next()).await else {
                let what = "the guest's shutdown after sysprep".to_owned();
                return Err(Fault::Timeout { what, after: windows::SHUTDOWN });
            };
            self.react(event).await;
        }
        Ok(())
    }
}

impl VmRecord {
    /// A guest that was to have its plug pulled has gone on.
    pub(super) fn forget_pending_seal(&mut self) {
        if self.sealing.take().is_some() {
            self.seal = None;
        }
    }
}

async fn linux(agent: &GuestAgent) -> Result<Report, Fault> {
    let script = format!("{GUEST_SCRIPT}\necho done\n");
    let exec = ExecRequest::new("/bin/sh")
        .args(["-c", &script])
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .within(IN_GUEST)
        .max_output(MAX_REPORT);
    let output = agent.exec(exec).await.map_err(|error| guest_fault(&error))?;
    Report::parse(&output.stdout)
}

fn guest_fault(error: &hostler_qmp::guest::GuestError) -> Fault {
    Fault::GuestAgent(format!("the guest cannot be sealed through its agent: {}", chain(error)))
}
