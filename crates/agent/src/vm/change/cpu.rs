//! More CPUs, or fewer.

use std::cmp::Ordering;

use hostler_qemu::hotplug::{self, Removal, plug_cpus, unplug_cpus};
use hostler_qmp::Qmp;
use hostler_qmp::guest::{GetVcpus, GuestAgent, SetVcpus, Vcpu};
use hostler_types::Cores;

use super::GUEST;
use crate::vm::actor::Actor;

const CPUS: &str = "cpus";

impl Actor {
    pub(super) async fn change_cpus(&mut self, qmp: &Qmp, agent: Option<&GuestAgent>) {
        let Some((running, asked)) = self.compared() else { return };
        let (now, wanted) = (running.spec.cpus.count(), asked.cpus.count());
        match wanted.cmp(&now) {
            Ordering::Greater if self.is_live(CPUS) => self.add_cpus(qmp, wanted).await,
            Ordering::Less if self.is_live(CPUS) => self.remove_cpus(qmp, agent, wanted).await,
            _ => {}
        }
        // Whoever plugged the last ones in may not have come to this.
        if let (Some(agent), true) = (agent, wanted >= now) {
            online(agent).await;
        }
        if now == wanted {
            return;
        }
        if let Ok(cpus) = hotplug::cpus(qmp).await
            && let Ok(cpus) = Cores::try_from(cpus)
            && let Some(running) = &mut self.record.running
        {
            running.spec.cpus = cpus;
            running.cpus_ever = running.cpus_ever.max(cpus.count());
        }
    }

    async fn add_cpus(&mut self, qmp: &Qmp, wanted: u32) {
        match plug_cpus(qmp, wanted, GUEST).await {
            Ok(cpus) if cpus < wanted => self.refuse(CPUS, "the board takes no more"),
            Ok(_) => {}
            Err(error) => self.refuse_error(CPUS, &error),
        }
    }

    async fn remove_cpus(&mut self, qmp: &Qmp, agent: Option<&GuestAgent>, wanted: u32) {
        // How many there were has to be known before one goes (`cpus_ever`): an emulated machine ends
        // when it is given more again.
        if let Err(error) = self.save().await {
            return self.refuse_error(CPUS, &error);
        }
        // A guest that cannot do without a CPU says so at once.
        let offline = match agent {
            Some(agent) => offline(agent, wanted).await,
            None => Vec::new(),
        };
        let why = match unplug_cpus(qmp, wanted, GUEST).await {
            Ok(Removal::Gone) => return,
            Ok(Removal::Refused) => "the guest does not let a CPU go".to_owned(),
            Ok(Removal::Waiting) => {
                format!("the guest did not let a CPU go within {} s", GUEST.as_secs())
            }
            Err(error) => return self.refuse_error(CPUS, &error),
        };
        self.refuse(CPUS, why);
        // It keeps them, so it may use them.
        if let (Some(agent), false) = (agent, offline.is_empty()) {
            let vcpus = offline.into_iter().map(|vcpu| Vcpu { online: true, ..vcpu }).collect();
            let _best_effort = agent.execute(SetVcpus { vcpus }).await;
        }
    }
}

/// Switches on what the guest left off.
async fn online(agent: &GuestAgent) {
    let Ok(vcpus) = agent.execute(GetVcpus).await else { return };
    let off = vcpus.into_iter().filter(|vcpu| !vcpu.online);
    let vcpus: Vec<_> = off.map(|vcpu| Vcpu { online: true, ..vcpu }).collect();
    if !vcpus.is_empty()
        && let Err(error) = agent.execute(SetVcpus { vcpus }).await
    {
        // A rule of the guest's may have been faster.
        tracing::debug!(%error, "the guest agent does not switch CPUs on");
    }
}

/// Switches the last CPUs off, as far as the guest agrees; those it did.
async fn offline(agent: &GuestAgent, wanted: u32) -> Vec<Vcpu> {
    let Ok(mut vcpus) = agent.execute(GetVcpus).await else { return Vec::new() };
    vcpus.sort_by_key(|vcpu| vcpu.logical_id);
    let last = vcpus.into_iter().skip(wanted as usize);
    let last: Vec<_> = last
        .filter(|vcpu| vcpu.online && vcpu.can_offline)
        .map(|vcpu| Vcpu { online: false, ..vcpu })
        .collect();
    if last.is_empty() {
        return last;
    }
    let done = agent.execute(SetVcpus { vcpus: last.clone() }).await.unwrap_or(0);
    let done = usize::try_from(done).unwrap_or(0);
    last.into_iter().take(done).collect()
}
