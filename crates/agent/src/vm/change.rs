//! A running guest becomes what its definition asks for, as far as it can without a power-off.
//!
//! ```text
//!  definition (recorded: the intent) ─> plan ─> each live change: QEMU, guest ─> what runs now
//!                                          └─> the rest is pending
//! ```
//!
//! Nothing here fails the command: what does not come about is pending, with the reason, and the
//! guest goes on with what it has. Every wait for a guest is bounded. Changes compare what is asked
//! for with what runs, so all of this may be repeated, and a repetition goes on where it stopped.

mod cdrom;
mod cpu;
mod disk;
mod limits;
mod memory;
mod nic;

pub(super) use limits::cpu_limits;

use std::time::Duration;

use hostler_qmp::Qmp;
use hostler_qmp::event::Event;
use hostler_qmp::guest::GuestAgent;
use hostler_types::{ChangeWhen, PowerState, VmSpec};
use tokio::time::Instant;

use super::actor::Actor;
use super::guest;
use super::hardware::Running;
use crate::fault::{Fault, chain};

/// How long a guest may take to let a device go, or to notice one.
const GUEST: Duration = Duration::from_secs(10);
/// How long a guest agent may take to answer that it is there.
const ANSWER: Duration = Duration::from_secs(3);
/// How long the guest may take until its own words agree with what was done.
const REPORT: Duration = Duration::from_secs(5);

/// Why a change did not come about, for people.
type Refusal = String;

impl Actor {
    /// Makes all changes that can be made now. Disks that the guest uses are unplugged with `force` only.
    pub(super) async fn change(&mut self, force: bool) {
        let runs = matches!(self.power, PowerState::Running | PowerState::Paused);
        let (Some(machine), true) = (&self.machine, runs) else { return };
        let qmp = machine.live.qmp.clone();
        let agent = self.guest_agent().await;
        if let Some(running) = &mut self.record.running {
            running.refused.clear();
        }
        let disks = self.disks_differ();
        // What is taken out first makes room for what is put in.
        self.unplug_nics(&qmp).await;
        self.unplug_disks(&qmp, agent.as_ref().filter(|_| !force)).await;
        self.change_cpus(&qmp, agent.as_ref()).await;
        self.change_memory(&qmp, agent.as_ref()).await;
        self.change_nics(&qmp).await;
        self.change_disks(&qmp).await;
        self.change_media(&qmp).await;
        self.change_limits(&qmp).await;
        self.hear_guest(&qmp, agent.as_ref(), disks).await;
    }

    /// Whether a change of this subject is wanted, and possible now.
    fn is_live(&self, subject: &str) -> bool {
        let Some(running) = &self.record.running else { return false };
        let plan = running.plan(&self.record.definition.vm.spec);
        plan.iter().any(|change| change.subject == subject && change.when != ChangeWhen::PowerOff)
    }

    /// What runs, what is asked for.
    fn compared(&self) -> Option<(&Running, &VmSpec)> {
        Some((self.record.running.as_ref()?, &self.record.definition.vm.spec))
    }

    fn refuse(&mut self, subject: &str, why: impl Into<Refusal>) {
        let why = why.into();
        tracing::warn!(vm = %self.record.id(), subject, why, "a change did not come about");
        if let Some(running) = &mut self.record.running {
            running.refused.insert(subject.to_owned(), why);
        }
    }

    fn refuse_error(&mut self, subject: &str, error: &(dyn std::error::Error + 'static)) {
        self.refuse(subject, chain(error));
    }

    /// The guest's agent, if it answers.
    async fn guest_agent(&self) -> Option<GuestAgent> {
        let machine = self.machine.as_ref()?;
        let agent = machine.live.agent.clone();
        if machine.port_open() == Some(false) || self.power != PowerState::Running {
            return None;
        }
        agent.answers(ANSWER).await.ok().map(|()| agent)
    }

    /// Asks the guest what it has now, a few times if need be: it may just be finding out. Of its disks
    /// only when they have changed.
    async fn hear_guest(&mut self, qmp: &Qmp, agent: Option<&GuestAgent>, disks: bool) {
        let Some(agent) = agent else { return };
        let deadline = Instant::now() + REPORT;
        loop {
            self.guest_asked = Some(Instant::now());
            self.guest = guest::ask(agent, self.guest.take()).await;
            if disks {
                self.guest_disks = self.ask_of_disks(qmp, agent).await;
            }
            let Some((running, _)) = self.compared() else { return };
            let agrees = self.guest.as_ref().is_none_or(|guest| {
                let cpus = guest.cpus.is_none_or(|cpus| cpus == running.spec.cpus.count());
                let nics = &running.spec.nics;
                let sees =
                    |nic: &hostler_types::NicSpec| guest.nics.iter().any(|g| g.mac == nic.mac);
                cpus && (guest.nics.is_empty() || nics.iter().all(sees))
            });
            if (agrees && self.sees_disks()) || Instant::now() >= deadline {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What a guest does on its own, or later than it was waited for.
    pub(super) async fn hardware_event(&mut self, event: &Event) {
        let changed = match event {
            // What an event tells may be history by now: a change that was waited for has seen more
            // steps than those whose events have been looked at.
            Event::MemoryDeviceSizeChange(_) | Event::DeviceDeleted(_) => self.observe().await,
            _ => false,
        };
        if changed {
            self.free_nics().await;
            if let Some(qmp) = self.machine.as_ref().map(|machine| machine.live.qmp.clone()) {
                self.close_disks(&qmp).await;
            }
            self.save_or_log().await;
            self.publish();
        }
    }

    /// Corrects the record by what QEMU says; whether anything was different.
    pub(super) async fn observe(&mut self) -> bool {
        let Some(machine) = &self.machine else { return false };
        let qmp: Qmp = machine.live.qmp.clone();
        let asked = self.record.definition.vm.spec.clone();
        let Some(running) = &mut self.record.running else { return false };
        let before = running.clone();
        if let Err(error) = running.observe(&qmp, &asked).await {
            tracing::warn!(error = chain(&error), "cannot ask QEMU what it has");
            *running = before;
            return false;
        }
        *running != before
    }

    /// Everything of a fresh QEMU that its command line cannot say.
    pub(super) async fn dress(&mut self) -> Result<(), Fault> {
        let Some(machine) = &self.machine else { return Ok(()) };
        let qmp = machine.live.qmp.clone();
        let Some(running) = &self.record.running else { return Ok(()) };
        let spec = running.spec.clone();
        limits::dress(&qmp, &spec, running.plugged_memory())
            .await
            .map_err(|error| Fault::Qemu(chain(&error)))
    }
}
