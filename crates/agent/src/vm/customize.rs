//! What the agent knows of a VM's customization, and how long it keeps its secrets.

use hostler_customize::instance_id;
use hostler_types::{Customization, CustomizationState, CustomizationStatus, VmSpec};
use jiff::Timestamp;

use super::actor::Actor;
use super::create::{vm_dir, write_seed};
use super::proof::{Expected, Verdict};
use super::record::VmRecord;
use crate::blocking::blocking;

impl VmRecord {
    /// What is told of the customization, if there is one.
    pub(super) fn customization_status(&self) -> Option<CustomizationStatus> {
        let customization = self.definition.vm.spec.customization.as_ref()?;
        let known = self.customization.as_ref().filter(|known| known.run == customization.run);
        Some(known.cloned().unwrap_or_else(|| {
            let reason = "the guest has not been started since".to_owned();
            self.customization_becomes(
                customization,
                CustomizationState::Pending,
                Some(reason),
                self.definition.vm.metadata.updated_at,
            )
        }))
    }

    fn customization_becomes(
        &self,
        customization: &Customization,
        state: CustomizationState,
        reason: Option<String>,
        at: Timestamp,
    ) -> CustomizationStatus {
        let hash = self.definition.customization_hash.clone().unwrap_or_default();
        let (run, spec) = (customization.run, customization.origin.clone());
        CustomizationStatus { state, reason, hash, run, spec, at }
    }

    /// What the guest has to prove; `None` when it has, or cannot any more.
    pub(super) fn expected(&self) -> Option<Expected> {
        let vm = &self.definition.vm;
        let customization = vm.spec.customization.as_ref()?;
        let run = customization.run;
        let concluded = self
            .customization
            .as_ref()
            .is_some_and(|known| known.run == run && known.state != CustomizationState::Pending);
        if concluded {
            return None;
        }
        let addresses = vm.spec.nics.iter().filter_map(|nic| nic.address.as_ref());
        let addresses = addresses.map(|address| address.address).collect();
        let hostname = customization.hostname.as_ref().unwrap_or(vm.name());
        let own = customization.user_data.is_some();
        Some(Expected {
            run,
            os: customization.os,
            instance: instance_id(vm.id(), run),
            hash: self.definition.customization_hash.clone().unwrap_or_default(),
            hostname: (!own).then(|| hostname.clone()),
            addresses: if customization.network_config.is_some() { Vec::new() } else { addresses },
        })
    }

    /// A new run begins with a guest that has not said anything.
    pub(super) fn begin_customization(&mut self) {
        let Some(customization) = &self.definition.vm.spec.customization else { return };
        if self.customization.as_ref().is_some_and(|known| known.run == customization.run) {
            return;
        }
        let (state, reason) = (CustomizationState::Pending, "the guest has not said yet");
        let begun = self.customization_becomes(
            customization,
            state,
            Some(reason.to_owned()),
            Timestamp::now(),
        );
        self.customization = Some(begun);
    }

    /// Leaves out of a spec what the guest has proved to have and needs no more.
    pub(super) fn settle(&self, spec: &mut VmSpec) {
        let Some(customization) = &mut spec.customization else { return };
        let proved = self.customization.as_ref().is_some_and(|known| {
            known.run == customization.run && known.state == CustomizationState::Applied
        });
        if proved {
            **customization = settled(customization);
        }
    }
}

/// What a guest that has been customized is still told at each boot. User data that has work for
/// every boot has to stay.
fn settled(customization: &Customization) -> Customization {
    let kept = customization.user_data.clone().filter(|text| {
        let each_boot = ["bootcmd", "boothook", "always"];
        each_boot.iter().any(|word| text.reveal().contains(word))
    });
    Customization { user_data: kept, ..customization.clone().without_secrets() }
}

impl Actor {
    /// The guest has said something of its customization.
    pub(super) async fn customized(&mut self, verdict: Verdict) {
        let Some(customization) = &self.record.definition.vm.spec.customization else { return };
        if self.machine.is_none()
            || customization.run != verdict.run
            || self.record.expected().is_none()
        {
            return;
        }
        let now = Timestamp::now();
        let before = self.record.customization.as_ref().filter(|known| known.run == verdict.run);
        let at = before.filter(|known| known.state == verdict.state).map_or(now, |known| known.at);
        let status =
            self.record.customization_becomes(customization, verdict.state, verdict.reason, at);
        if status.state != CustomizationState::Pending {
            tracing::info!(
                vm = %self.record.id(), state = %status.state, reason = status.reason, "customization"
            );
        }
        self.record.customization = Some(status);
        self.save_or_log().await;
        self.forget_secrets().await;
        self.publish();
    }

    /// Takes the secrets of a proved customization away: first from the seed, then from the record.
    /// A crash in between is made up for at the agent's next start.
    pub(super) async fn forget_secrets(&mut self) {
        let mut record = self.record.clone();
        self.record.settle(&mut record.definition.vm.spec);
        if record.definition.vm.spec == self.record.definition.vm.spec {
            return;
        }
        let (host, written) = (self.host.clone(), record.clone());
        let seed = blocking(move || write_seed(&vm_dir(&host, &written)?, &written)).await;
        match seed {
            Ok(()) => {
                self.record = record;
                self.save_or_log().await;
            }
            Err(error) => {
                tracing::warn!(vm = %self.record.id(), %error, "a seed keeps its secrets for now");
            }
        }
    }
}
