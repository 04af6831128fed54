//! What was on its way when an agent, a QEMU or both of them died.
//!
//! | on its way        | QEMU runs                                  | QEMU is gone                        |
//! |-------------------|--------------------------------------------|-------------------------------------|
//! | a snapshot        | it says whether its disks have new layers; | the new layers count, if all have   |
//! |                   | they count then                            | been made: they are empty or newer  |
//! | a thaw            | it is asked for again                      | nothing is frozen any more          |
//! | an active merge   | recorded: brought to its end;              | recorded: it counts;                |
//! |                   | not: given up                              | not: nothing has happened           |
//! | any other merge   | its job is concluded: it counts;           | the headers say again what the      |
//! |                   | not: given up                              | record says                         |
//! | a return          | recorded: it counts, and the UEFI variables are put back; not: nothing has      |
//! |                   | happened                                                                        |
//!
//! A snapshot itself is not there then: nobody can say of which instant it would be. Its layers are
//! merged again by the next deletion.

use std::collections::BTreeSet;

use hostler_qemu::{BlockJob, close_nodes, jobs};
use hostler_qmp::Qmp;
use hostler_qmp::command::{JobStatus, MigrateCancel, QueryNamedBlockNodes};
use hostler_qmp::guest::GuestAgent;

use super::copy::job_id;
use super::freeze::thaw;
use super::{Merging, Taking};
use crate::fault::{Fault, chain};
use crate::vm::actor::Actor;
use crate::vm::layers;

impl Actor {
    /// After a QEMU has been found that another agent has started.
    pub(in crate::vm) async fn recover_with_qemu(&mut self, qmp: &Qmp) {
        if self.record.layering.frozen
            && let Some(machine) = &self.machine
        {
            self.thaw_again(machine.live.agent.clone());
        }
        if let Some(taking) = self.record.layering.taking.take() {
            self.recover_taking(qmp, &taking).await;
        }
        if let Some(merging) = self.record.layering.merging.take()
            && let Err(error) = self.recover_merging(qmp, &merging).await
        {
            tracing::error!(vm = %self.record.id(), %error, "a merge cannot be taken up again");
            self.record.layering.merging = Some(merging);
        }
        if let Err(error) = self.close_unknown_layers(qmp).await {
            tracing::warn!(vm = %self.record.id(), error = chain(&error), "layers stay open");
        }
        self.recovered().await;
    }

    /// After QEMU's end, or when there is none.
    pub(in crate::vm) async fn recover_without_qemu(&mut self) {
        if self.record.layering == super::Layering::default() {
            return;
        }
        self.record.layering.frozen = false;
        if let Some(taking) = self.record.layering.taking.take()
            && self.layers_are_there(&taking).await
        {
            self.record.put_layers(&taking);
        }
        if let Some(Merging { merge, switched: false }) = &self.record.layering.merging {
            let merge = merge.clone();
            let on = self.record.branches_on(&merge);
            let restored = self.set_backing(on.into_iter(), |_| merge.from.first().cloned()).await;
            if let Err(error) = restored {
                // It stays recorded: without this nothing is started on these files.
                tracing::error!(vm = %self.record.id(), %error, "cannot restore a disk's header");
                return;
            }
        }
        self.record.layering.merging = None;
        if let Err(error) = self.put_variables_back().await {
            // Nothing is started without.
            tracing::error!(vm = %self.record.id(), %error, "a return is not complete");
        }
        self.recovered().await;
    }

    /// What could not be done at QEMU's end is tried again.
    pub(in crate::vm) async fn finish_recovery(&mut self) {
        let layering = &self.record.layering;
        if self.machine.is_none() && (layering.merging.is_some() || layering.taking.is_some()) {
            self.recover_without_qemu().await;
        }
    }

    async fn recovered(&mut self) {
        if self.machine.is_some()
            && let Some(reverting) = &mut self.record.layering.reverting
        {
            // Nothing has come of it but files.
            reverting.layers.clear();
        }
        self.sweep().await;
        if let Err(error) = self.save_chains().await {
            tracing::error!(vm = %self.record.id(), %error, "cannot write the VM's record");
        }
    }

    /// Asks the guest to thaw until it says that it is.
    pub(in crate::vm) fn thaw_again(&self, agent: GuestAgent) {
        let to_self = self.to_self.clone();
        tokio::spawn(async move { thaw(&agent, Some(&to_self)).await });
    }

    async fn recover_taking(&mut self, qmp: &Qmp, taking: &Taking) {
        if taking.quiesce
            && let Some(machine) = &self.machine
        {
            self.thaw_again(machine.live.agent.clone());
            // Until it says that it is thawed, whoever dies.
            self.record.layering.frozen = true;
        }
        // Of its memory, if that was being saved.
        let _ = qmp.execute(MigrateCancel).await;
        if self.has_new_layers(taking).await {
            self.record.put_layers(taking);
        }
    }

    async fn recover_merging(&mut self, qmp: &Qmp, merging: &Merging) -> Result<(), Fault> {
        let qemu = |error| Fault::Qemu(chain(&error));
        let Merging { merge, switched } = merging;
        let id = job_id(&merge.disk);
        let found = jobs(qmp).await.map_err(qemu)?.into_iter().find(|job| job.id == id);
        let mut job = BlockJob::found(qmp, &id);
        let done = found
            .as_ref()
            .is_some_and(|job| job.status == JobStatus::Concluded && job.error.is_none());
        match (found, switched) {
            // The guest's writes wait for this.
            (Some(job_found), true) if !done => {
                tracing::info!(status = ?job_found.status, "an agent left a merge at its end");
                job.finish().await.map_err(qemu)?;
                job.forget().await.map_err(qemu)
            }
            (Some(_), true) => job.forget().await.map_err(qemu),
            (None, true) => Ok(()),
            // Its files are merged; the headers of branches, and the record, may not say so yet.
            (Some(_), false) if done => {
                self.record.layering.merging = Some(merging.clone());
                self.merged_files(merge).await?;
                job.forget().await.map_err(qemu)
            }
            (Some(_), false) => job.give_up().await.map_err(qemu),
            (None, false) => Ok(()),
        }
    }

    /// Closes layers that are in no chain, which an agent had no time to close.
    pub(in crate::vm) async fn close_unknown_layers(
        &self,
        qmp: &Qmp,
    ) -> Result<(), hostler_qemu::MonitorError> {
        let status = &self.record.definition.vm.status;
        let node = |disk: &hostler_types::DiskStatus| {
            let layers = layers::of(&self.record, &disk.name);
            layers
                .iter()
                .map(|layer| layers::node(&self.record, &disk.name, &layer.file))
                .collect::<Vec<_>>()
        };
        let known: Vec<String> = status.disks.iter().flat_map(node).collect();
        let nodes = qmp.execute(QueryNamedBlockNodes { flat: Some(true) }).await?;
        let names = nodes.into_iter().filter_map(|node| node.node_name);
        // Of one that was just being opened only the file's node may be there.
        let layers =
            names.map(|name| name.strip_suffix("-file").map(str::to_owned).unwrap_or(name));
        let unknown = |name: &String| name.starts_with("l-") && !known.contains(name);
        let unknown: BTreeSet<String> = layers.filter(unknown).collect();
        let mut unknown: Vec<String> = unknown.into_iter().collect();
        // Each is held by the one on top of it; how they lie is not known.
        for _ in 0..unknown.len() {
            let before = unknown.len();
            let mut left = Vec::new();
            for name in unknown {
                if close_nodes(qmp, [name.as_str()].into_iter()).await.is_err() {
                    left.push(name);
                }
            }
            unknown = left;
            if unknown.len() == before {
                break;
            }
        }
        Ok(())
    }
}
