//! A clone: everything of its own but the memory and the disks that it begins with.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use hostler_host::{Replacement, VmDir, volume};
use hostler_qemu::hotplug::set_link;
use hostler_qemu::{Start, fork};
use hostler_qmp::Qmp;
use hostler_qmp::command::Cont;
use hostler_types::{
    ByteSize, DiskSource, DiskSpec, Layer, LayerFile, LinkState, OperationId, PowerState,
};

use super::{Base, ForkSeat, STATE, not_forked, settled};
use crate::blocking::blocking;
use crate::fault::{Fault, chain};
use crate::vm::actor::{Actor, Next, Reply};
use crate::vm::create::{end_processes, undo_create, vm_dir, write_seed};
use crate::vm::hardware::{MemoryKind, Running};
use crate::vm::layers;
use crate::vm::machine::{Launched, Machine};
use crate::vm::nics::plug_all;
use crate::vm::power::{Launch, launch};
use crate::vm::record::{RecordedState, VmRecord};

impl Actor {
    pub(in crate::vm) async fn be_forked(
        &mut self,
        op: OperationId,
        seat: ForkSeat,
        reply: Reply,
    ) -> Next {
        if self.record.state != RecordedState::Forking {
            let fault = Fault::WrongState("a VM with this id is here already".to_owned());
            self.finish(op, Err(fault), reply).await;
            return Next::Go;
        }
        match Box::pin(self.fork_from(op, seat)).await {
            Ok(()) => {
                let _ = reply.send(Ok(self.report()));
                Next::Go
            }
            Err(fault) => {
                self.undo_fork().await;
                let _ = reply.send(Err(fault.into()));
                Next::End
            }
        }
    }

    /// Takes back all that there is of a clone.
    pub(in crate::vm) async fn undo_fork(&mut self) {
        self.machine = None;
        let (host, id) = (self.host.clone(), self.record.id());
        match blocking(move || end_processes(&host, id)).await {
            Ok(()) => undo_create(&self.host, &self.record).await,
            Err(error) => tracing::error!(vm = %id, %error, "a clone that failed runs on"),
        }
    }

    async fn fork_from(&mut self, op: OperationId, seat: ForkSeat) -> Result<(), Fault> {
        let ForkSeat { base, ready, state, go, silent } = seat;
        let (launched, written) = match Box::pin(self.get_ready(op, base)).await {
            Ok(prepared) => prepared,
            Err(fault) => {
                let _ = ready.send(Err(fault.to_string()));
                return Err(fault);
            }
        };
        let _ = ready.send(Ok(()));
        let qmp = launched.qmp().clone();
        let loaded = async {
            let state: Arc<OwnedFd> = state.await.map_err(not_forked)?;
            let failed = |error| Fault::Qemu(format!("the clone cannot begin: {}", chain(&error)));
            fork::load(&qmp, &state, STATE).await.map_err(failed)?;
            self.pull_cables(&qmp).await?;
            // It must not run before nobody writes to the disks that it lies on.
            go.await.map_err(not_forked)
        };
        tokio::select! {
            loaded = loaded => loaded?,
            _ = launched.process.exited() => {
                return Err(Fault::Qemu(format!("QEMU ended{}", launched.sockets.last_words())));
            }
        }
        // Before its guest runs: what runs is never forgotten. After a power loss nothing runs, and
        // whichever of the two records is found then is right.
        let failed = |error: std::io::Error| Fault::internal("replace the VM's record", &error);
        blocking(move || written.put().map_err(failed)).await?;
        qmp.execute(Cont).await.map_err(|error| Fault::Qemu(chain(&error)))?;
        self.silent = Some(silent);
        self.hold(Machine::new(launched, None));
        self.set_power(PowerState::Running, None);
        fork::finish(&qmp).await;
        if let Err(fault) = self.dress().await {
            tracing::warn!(vm = %self.record.id(), %fault, "limits are not set");
        }
        Ok(())
    }

    /// Everything until the parent's guest may be stopped.
    async fn get_ready(
        &mut self,
        op: OperationId,
        base: tokio::sync::oneshot::Receiver<Base>,
    ) -> Result<(Launched, Replacement), Fault> {
        let base = base.await.map_err(not_forked)?;
        self.inherit(&base)?;
        // First of all, so that whatever follows is known to be ours.
        self.save().await?;
        let (host, record) = (self.host.clone(), self.record.clone());
        let files = blocking(move || make_files(&host, &record));
        let (files, plugged) = tokio::join!(files, plug_all(&self.host, &self.record));
        files.and(plugged)?;
        let running = self.record.running.clone();
        let running = running.ok_or_else(|| Fault::internal("fork", &std::fmt::Error))?;
        let how = Launch { memory: Some(base.memory), ..Launch::first(Start::Fork) };
        let launched = launch(&self.host, &self.record, &running, how).await?;
        let prepared = fork::prepare(launched.qmp()).await;
        prepared.map_err(|error| Fault::Qemu(chain(&error)))?;
        fork::open_settled(launched.qmp(), settled(&self.record)).await;
        self.cables_are_out();
        self.record.state = RecordedState::Running { process: launched.id() };
        self.record.journal.add(op, &Ok(()));
        let (host, record) = (self.host.clone(), self.record.clone());
        let written = blocking(move || host.records.prepare(&record)).await?;
        Ok((launched, written))
    }

    /// Takes over what the parent runs with and the files beneath its disks.
    fn inherit(&mut self, base: &Base) -> Result<(), Fault> {
        let id = self.record.id();
        let vm = &mut self.record.definition.vm;
        if base.running.spec.customization.is_some() && vm.spec.customization.is_none() {
            let text = "the VM that it is cloned from has a seed, so it needs one too".to_owned();
            return Err(Fault::Invalid(text));
        }
        for disk in &base.disks {
            let spec = vm.spec.disks.iter().find(|spec| spec.name == disk.name);
            let beneath = disk.layers.first().map(|layer| &layer.file);
            let linked = |spec: &&DiskSpec| matches!((&spec.source, beneath), (DiskSource::Linked(of), Some(file)) if of == file);
            if spec.filter(linked).is_none() {
                return Err(Fault::WrongState(format!(
                    "the files of the disk `{}` have changed meanwhile; try again",
                    disk.name
                )));
            }
            let own = Layer { file: LayerFile::disk(id, &disk.name, 0), allocated: ByteSize(0) };
            let status = vm.status.disks.iter_mut().find(|status| status.name == disk.name);
            if let Some(status) = status {
                status.layers = [own].into_iter().chain(disk.layers.iter().cloned()).collect();
            }
        }
        self.record.running = Some(inherited(&base.running, &self.record));
        Ok(())
    }

    /// Its NICs still have the parent's addresses; nobody may hear of that.
    async fn pull_cables(&self, qmp: &Qmp) -> Result<(), Fault> {
        for nic in self.record.running.iter().flat_map(|running| &running.spec.nics) {
            let pulled = set_link(qmp, &nic.name, false).await;
            pulled.map_err(|error| Fault::Qemu(chain(&error)))?;
        }
        Ok(())
    }

    /// In the record, before it is so.
    fn cables_are_out(&mut self) {
        let nics = self.record.running.iter_mut().flat_map(|running| &mut running.spec.nics);
        nics.for_each(|nic| nic.link = LinkState::Down);
    }
}

/// What a clone's QEMU is like: as the parent's, device by device. What is the clone's own of it
/// differs in nothing that a machine could see.
fn inherited(parent: &Running, record: &VmRecord) -> Running {
    let own = &record.definition.vm.spec;
    let mut running = Running { memory: MemoryKind::Own, ..parent.clone() };
    running.refused.clear();
    for disk in &mut running.spec.disks {
        if let Some(own) = own.disks.iter().find(|own| own.name == disk.name) {
            disk.source = own.source.clone();
            disk.limits = own.limits;
        }
    }
    if running.spec.customization.is_some() {
        running.spec.customization.clone_from(&own.customization);
    }
    running.spec = running.spec.without_secrets();
    running
}

fn make_files(host: &crate::context::HostContext, record: &VmRecord) -> Result<(), Fault> {
    let dir: VmDir = vm_dir(host, record)?;
    if dir.exists() && dir.read_definition().is_ok_and(|found| found.is_some()) {
        let path = dir.path().display();
        return Err(Fault::WrongState(format!("{path} holds a VM already")));
    }
    dir.create()?;
    // What lies beneath is not lent yet; the parent's actor, which waits for this, sees to it.
    for disk in record.definition.vm.spec.own_disks() {
        let [file, beneath, ..] = layers::of(record, &disk.name) else { continue };
        volume::create_layer(&dir, &file.file, disk.size, &beneath.file, record.uid)?;
    }
    write_seed(&dir, record)?;
    Ok(dir.write_definition(&record.definition.vm)?)
}
