//! What the agent tells of a VM.

use std::sync::Arc;

use hostler_agent_api::{AgentEvent, VmReport};
use hostler_host::network::TapName;
use hostler_types::{NicStatus, PowerState};
use jiff::Timestamp;

use super::actor::Actor;
use super::layers;
use super::record::VmRecord;
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
        let report = self.report();
        if **self.report.borrow() == report {
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
    let nic = |(index, nic): (usize, &hostler_types::NicSpec)| {
        let tap = TapName::of(id, index);
        NicStatus {
            name: nic.name.clone(),
            reserved: host.networks.reserved(nic.network, &tap).map(std::net::IpAddr::V4),
            tap: live.then(|| tap.as_str().to_owned()),
        }
    };
    VmReport {
        vm: id,
        epoch: record.epoch,
        power: PowerState::Unknown,
        since: record.since,
        message: None,
        disks: vm.status.disks.iter().map(|disk| layers::measured(dir.as_ref(), disk)).collect(),
        nics: vm.spec.nics.iter().enumerate().map(nic).collect(),
        guest: None,
    }
}
