//! What the agent tells of a VM.

use std::sync::Arc;

use hostler_agent_api::{AgentEvent, VmReport};
use hostler_types::{NicSpec, NicStatus, PowerState};
use jiff::Timestamp;

use super::actor::Actor;
use super::hardware::Running;
use super::layers;
use super::record::VmRecord;
use super::snapshot;
use crate::context::HostContext;

impl Actor {
    /// Moves to another power state. What happened decides, not what ought to be possible: an
    /// illegal transition is a bug worth a log line, but hiding the truth would be worse.
    pub(super) fn set_power(&mut self, power: PowerState, message: Option<String>) {
        if let Err(error) = self.power.transition(power) {
            tracing::debug!(vm = %self.record.id(), %error, "an unusual change of state");
        }
        if self.power != power {
            self.power = power;
            self.since = Timestamp::now();
        }
        self.message = message;
        self.publish();
    }

    pub(super) fn report(&self) -> VmReport {
        let mut report = report(&self.host, &self.record, self.power.is_live());
        report.power = self.power;
        report.since = self.since;
        report.message.clone_from(&self.message);
        report.guest.clone_from(&self.guest);
        report
    }

    /// Tells the report if it is news.
    pub(super) fn publish(&self) {
        self.networks.send_if_modified(|networks| {
            let now = self.record.networks();
            std::mem::replace(networks, now.clone()) != now
        });
        self.datastores.send_if_modified(|datastores| {
            let now = self.record.datastores();
            std::mem::replace(datastores, now.clone()) != now
        });
        let report = self.report();
        let (elsewhere, id) = (self.record.elsewhere(), self.record.id());
        let was_elsewhere = self.elsewhere.send_replace(elsewhere).is_some();
        if elsewhere.is_some() {
            self.report.send_replace(Arc::new(report));
            if !was_elsewhere {
                self.host.hub.tell(AgentEvent::VmGone { vm: id });
            }
            return;
        }
        if !was_elsewhere && **self.report.borrow() == report {
            return;
        }
        self.report.send_replace(Arc::new(report.clone()));
        self.host.hub.tell(AgentEvent::Vm(Box::new(report)));
    }
}

/// The part of a report that follows from the record.
pub(super) fn report(host: &HostContext, record: &VmRecord, live: bool) -> VmReport {
    let vm = &record.definition.vm;
    let id = vm.id();
    let dir = host.datastores.peek(record.datastore()).map(|datastore| datastore.vm(id));
    let plugged = |nic: &NicSpec| match &record.running {
        Some(running) => running.spec.nics.iter().any(|known| known.name == nic.name),
        None => true,
    };
    let nic = |nic: &NicSpec| {
        let tap = record.tap(&nic.name);
        let reserved = tap.as_ref().and_then(|tap| host.networks.reserved(nic.network, tap));
        NicStatus {
            name: nic.name.clone(),
            reserved: reserved.map(std::net::IpAddr::V4),
            tap: tap.filter(|_| live && plugged(nic)).map(|tap| tap.as_str().to_owned()),
        }
    };
    VmReport {
        vm: id,
        epoch: record.epoch,
        power: PowerState::Unknown,
        since: record.since,
        message: None,
        disks: vm.status.disks.iter().map(|disk| layers::measured(dir.as_ref(), disk)).collect(),
        nics: vm.spec.nics.iter().map(nic).collect(),
        guest: None,
        hardware: record.running.as_ref().map(Running::hardware),
        cpu: record.running.as_ref().and_then(|running| running.cpu.clone()),
        pending: record.pending(),
        customization: record.customization_status(),
        snapshots: snapshot::measured(dir.as_ref(), &vm.status.snapshots, &vm.status.disks),
        guest_disks: None,
        datastore: Some(record.datastore()),
        seal: record.seal.clone().filter(|_| record.sealing.is_none()),
    }
}
