//! The one that is forked: its guest goes on in a new process.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hostler_host::{Replacement, VmDir, volume};
use hostler_qemu::{Process, Start, fork};
use hostler_qmp::Qmp;
use hostler_qmp::command::{Cont, QueryStatus, RunState};
use hostler_types::{ByteSize, DiskStatus, Layer, LayerFile, LayerOwner, OperationId, PowerState};
use tokio::time::timeout;

use super::{Base, CloneLink, ForkOrder, READY, STATE, settled};
use crate::blocking::blocking;
use crate::fault::{Fault, chain};
use crate::vm::actor::Actor;
use crate::vm::create::vm_dir;
use crate::vm::hardware::{MemoryKind, Running};
use crate::vm::machine::Launched;
use crate::vm::power::{Launch, launch};
use crate::vm::record::{RecordedState, VmRecord};

/// At the slowest memory we accept, 200 MB/s, plus a minute.
fn limit(memory: ByteSize) -> Duration {
    Duration::from_secs(60 + memory.bytes() / 200_000_000)
}

impl Actor {
    pub(in crate::vm) async fn fork(
        &mut self,
        op: OperationId,
        order: ForkOrder,
    ) -> Result<(), Fault> {
        let running = self.may_be_forked()?;
        if running.memory == MemoryKind::Own {
            Box::pin(self.move_to_file(running.clone())).await?;
        }
        let mut next = self.with_new_layers(&running).await?;
        // Done is what the successor's record says: forked is forked, whoever dies then.
        next.journal.add(op, &Ok(()));
        // The intent: whoever finds these files without a chain that has them removes them.
        self.record.forking.clone_from(&next.forking);
        let forked = match self.save().await {
            Ok(()) => Box::pin(self.fork_into(next, order)).await,
            Err(fault) => Err(fault),
        };
        self.settle_forking().await;
        forked
    }

    /// What it runs with, if it can be forked.
    fn may_be_forked(&self) -> Result<Running, Fault> {
        if self.power != PowerState::Running {
            let (action, power) = ("cloning it as it runs", self.power);
            return Err(Fault::Power { action, power, needed: "running" });
        }
        if self.record.identity_due {
            let text = "it is an instant clone itself, and still becoming one";
            return Err(Fault::WrongState(text.to_owned()));
        }
        let running = self.record.running.clone();
        let running = running.ok_or_else(|| Fault::Qemu("QEMU is gone".to_owned()))?;
        let plugged = running.plugged_memory();
        if plugged > ByteSize(0) {
            return Err(Fault::WrongState(format!(
                "{plugged} of its memory was added while it ran, and added memory cannot be \
                 shared with clones; restart it first, it then starts with all of its memory"
            )));
        }
        Ok(running)
    }

    /// The record with another file on top of each disk that the guest has, and these files.
    async fn with_new_layers(&self, running: &Running) -> Result<VmRecord, Fault> {
        let (host, mut next) = (self.host.clone(), self.record.clone());
        let names: Vec<_> = running.spec.disks.iter().map(|disk| disk.name.clone()).collect();
        blocking(move || {
            let dir = vm_dir(&host, &next)?;
            for name in names {
                let file = next.new_file(&dir, &name);
                let disks = &mut next.definition.vm.status.disks;
                let Some(disk) = disks.iter_mut().find(|disk| disk.name == name) else { continue };
                disk.layers.insert(0, Layer { file: file.clone(), allocated: ByteSize(0) });
                next.forking.push(file);
            }
            Ok(next)
        })
        .await
    }

    async fn fork_into(&mut self, mut next: VmRecord, order: ForkOrder) -> Result<(), Fault> {
        let ForkOrder { mut clones, paused } = order;
        let mut frozen = self.record.definition.vm.status.disks.clone();
        let has = |running: &Running, disk: &DiskStatus| {
            running.spec.disks.iter().any(|known| known.name == disk.name)
        };
        frozen.retain(|disk| self.record.running.as_ref().is_some_and(|r| has(r, disk)));
        self.make_new_layers(&next, &frozen).await?;
        let (process, running) = self.process()?;
        let failed = |error: std::io::Error| Fault::internal("freeze the guest's memory", &error);
        let memory = Arc::new(fork::freeze_memory_file(&process).map_err(failed)?);
        for clone in &mut clones {
            if let Some(to) = clone.base.take() {
                let (running, disks) = (running.clone(), frozen.clone());
                // One whose clone has given up meanwhile is told by `ready`.
                drop(to.send(Base { running, disks, memory: memory.clone() }));
            }
        }
        next.running = Some(Running { memory: MemoryKind::Own, ..running });
        let successor = self.successor(&next, Some(memory)).await?;
        let stopped = async {
            let written = self.named(&mut next, &successor).await?;
            for clone in &mut clones {
                let vm = clone.vm;
                match timeout(READY, &mut clone.ready).await {
                    Ok(Ok(Ok(()))) => {}
                    Ok(Ok(Err(why))) => {
                        return Err(Fault::Qemu(format!("the clone {vm} cannot be made: {why}")));
                    }
                    _ => return Err(Fault::Qemu(format!("the clone {vm} did not get ready"))),
                }
            }
            let stopped = self.freeze_into(&next, &successor, &mut clones).await?;
            Ok((written, stopped))
        };
        let (written, (stopped, state)) = match stopped.await {
            Ok(stopped) => stopped,
            Err(fault) => {
                end(&successor.process).await;
                return Err(fault);
            }
        };
        let goes_on = self.succeed(next, written, successor).await?;
        let _ = paused.send(goes_on.duration_since(stopped).unwrap_or_default());
        for clone in &mut clones {
            clone.go.take().map(|go| go.send(()));
            clone.state.take().map(|to| to.send(state.clone()));
        }
        self.settle_in().await;
        self.write_definition().await;
        Ok(())
    }

    /// Makes the new files, and opens those beneath to others. A guest that runs does not notice.
    async fn make_new_layers(&self, next: &VmRecord, frozen: &[DiskStatus]) -> Result<(), Fault> {
        let (host, record, frozen) = (self.host.clone(), next.clone(), frozen.to_vec());
        blocking(move || {
            let dir = vm_dir(&host, &record)?;
            let own = |layer: &&Layer| layer.file.owner() == LayerOwner::Vm(dir.id());
            for layer in frozen.iter().flat_map(|disk| disk.layers.iter().filter(own)) {
                let path = hostler_host::layers::path(dir.datastore(), &layer.file);
                if !volume::is_lent(&path)? {
                    volume::show(&path, record.uid)?;
                }
            }
            let disks = record.definition.vm.status.disks.iter();
            let new = |file: &LayerFile| record.forking.contains(file);
            for disk in disks.filter(|disk| disk.layers.first().is_some_and(|l| new(&l.file))) {
                let [file, beneath, ..] = disk.layers.as_slice() else { continue };
                let path = hostler_host::layers::path(dir.datastore(), &beneath.file);
                let size = volume::virtual_size(&path)?;
                volume::create_layer(&dir, &file.file, size, &beneath.file, record.uid)?;
            }
            Ok(())
        })
        .await
    }

    fn process(&self) -> Result<(Process, Running), Fault> {
        let machine = self.machine.as_ref().map(|machine| machine.process.clone());
        machine
            .zip(self.record.running.clone())
            .ok_or_else(|| Fault::Qemu("QEMU is gone".to_owned()))
    }

    fn qmp(&self) -> Result<Qmp, Fault> {
        let machine =
            self.machine.as_ref().ok_or_else(|| Fault::Qemu("QEMU is gone".to_owned()))?;
        Ok(machine.live.qmp.clone())
    }

    /// Starts the process that is to take the place of the one there is, with all that `next` says.
    async fn successor(
        &self,
        next: &VmRecord,
        memory: Option<Arc<OwnedFd>>,
    ) -> Result<Launched, Fault> {
        let (process, running) = self.process()?;
        let running = next.running.clone().unwrap_or(running);
        let taps = if running.spec.nics.is_empty() {
            BTreeMap::new()
        } else {
            fork::share_taps(&process).map_err(|error| Fault::internal("share taps", &error))?
        };
        let place = match self.record.state {
            RecordedState::Running { process } => process.place + 1,
            _ => 1,
        };
        let how = Launch { start: Start::Fork, place, memory, taps };
        let launched = launch(&self.host, next, &running, how).await;
        if launched.is_err() {
            self.end_others(&process).await;
        }
        launched
    }

    /// Ends whatever runs for the VM beside one process.
    async fn end_others(&self, kept: &Process) {
        let (host, id, kept) = (self.host.clone(), self.record.id(), kept.pid());
        let ended = blocking(move || {
            let failed = |error: hostler_qemu::ProcessError| Fault::internal("processes", &error);
            let pids = host.cgroups.pids(id);
            let pids = pids.map_err(|error| Fault::internal("cgroup", &error))?;
            for pid in pids.into_iter().filter_map(|pid| u32::try_from(pid).ok()) {
                if pid != kept
                    && let Some(start) = hostler_qemu::start_time(pid).map_err(failed)?
                    && let Some(other) = Process::attach(pid, start).map_err(failed)?
                {
                    other.kill().map_err(failed)?;
                }
            }
            Ok(())
        });
        if let Err(error) = ended.await {
            tracing::error!(vm = %self.record.id(), %error, "a process of a fork that failed runs on");
        }
    }

    /// Stops the guest and loads its devices into the successor, and into as many clones as there are
    /// processors free. All stand still afterwards; on failure the guest runs on. Since when it stands
    /// still, and the state.
    async fn freeze_into(
        &self,
        next: &VmRecord,
        successor: &Launched,
        clones: &mut [CloneLink],
    ) -> Result<(SystemTime, Arc<OwnedFd>), Fault> {
        let (old, new) = (self.qmp()?, successor.qmp());
        let qemu = |error| Fault::Qemu(format!("the guest cannot be frozen: {}", chain(&error)));
        fork::prepare(&old).await.map_err(qemu)?;
        fork::prepare(new).await.map_err(qemu)?;
        fork::open_settled(new, settled(next)).await;
        self.runs(&old).await?;
        // The old process has nothing to do any more, and the successor needs one processor.
        let free = std::thread::available_parallelism().map_or(0, |all| all.get() - 1);
        let mut state = None;
        let written = |file: OwnedFd| {
            let file = state.insert(Arc::new(file));
            for clone in clones.iter_mut().take(free) {
                clone.state.take().map(|to| to.send(file.clone()));
            }
        };
        let moved = match fork::hand_over(&old, new, STATE, written).await.map_err(qemu) {
            Ok(stopped) => stands_still(new).await.map(|()| stopped),
            Err(fault) => Err(fault),
        };
        let no_state = || Fault::Qemu("its state has not been written".to_owned());
        match moved.and_then(|stopped| Ok((stopped, state.ok_or_else(no_state)?))) {
            Ok(moved) => Ok(moved),
            Err(fault) => {
                // First: it may have the guest's disks already.
                end(&successor.process).await;
                Err(self.go_on(&old, fault).await)
            }
        }
    }

    /// A guest that was already stopping by itself must not be taken for one that runs.
    async fn runs(&self, qmp: &Qmp) -> Result<(), Fault> {
        match qmp.execute(QueryStatus).await {
            Ok(status) if status.status == RunState::Running => Ok(()),
            Ok(_) => Err(Fault::WrongState("its guest has just stopped".to_owned())),
            Err(error) => Err(Fault::Qemu(chain(&error))),
        }
    }

    /// Lets the guest go on where it was, in its old process.
    async fn go_on(&self, old: &Qmp, fault: Fault) -> Fault {
        match fork::thaw(old).await {
            Ok(()) => fault,
            Err(error) => {
                tracing::error!(vm = %self.record.id(), error = chain(&error), "the guest stands still");
                Fault::Qemu(format!("{fault}; and its guest cannot go on: {}", chain(&error)))
            }
        }
    }

    /// Makes the record name the successor, ready to take the place of the one there is.
    async fn named(&self, next: &mut VmRecord, successor: &Launched) -> Result<Replacement, Fault> {
        next.state = RecordedState::Running { process: successor.id() };
        let (host, next) = (self.host.clone(), next.clone());
        blocking(move || host.records.prepare(&next)).await
    }

    /// The successor becomes the VM's process, and the guest goes on in it. On failure it goes on in
    /// the old one.
    ///
    /// The record is not waited for to be on the disk, because a guest stands still: should the power
    /// fail before it is, the processes are gone, and the new layers are found by the intent.
    async fn succeed(
        &mut self,
        next: VmRecord,
        written: Replacement,
        successor: Launched,
    ) -> Result<SystemTime, Fault> {
        let old = self.qmp()?;
        let before = std::mem::replace(&mut self.record, next);
        let went_on = async {
            let failed = |error: std::io::Error| Fault::internal("replace the VM's record", &error);
            blocking(move || written.put().map_err(failed)).await?;
            let cont = successor.qmp().execute(Cont).await;
            cont.map_err(|error| Fault::Qemu(format!("the guest cannot go on: {}", chain(&error))))
        };
        if let Err(fault) = went_on.await {
            // It may have run for a moment. What it did is in files that nobody will look at.
            end(&successor.process).await;
            self.record = before;
            self.save_or_log().await;
            self.settle_forking().await;
            return Err(self.go_on(&old, fault).await);
        }
        let goes_on = SystemTime::now();
        if let Some(machine) = &self.machine {
            let ended = machine.process.clone();
            let successor = machine.succeeded_by(successor);
            self.hold(successor);
            // Its disks and its memory are others' now, and it has written all it had: it need not,
            // and must not, end in an orderly way, which would take the screen's socket along.
            end_in_background(ended);
        }
        self.publish();
        Ok(goes_on)
    }

    /// What a successor needs that nobody waits for.
    async fn settle_in(&mut self) {
        if let Ok(new) = self.qmp() {
            fork::finish(&new).await;
        }
        if let Err(fault) = self.dress().await {
            tracing::warn!(vm = %self.record.id(), %fault, "limits are not set again");
        }
    }

    /// Brings the guest, while it runs, into a process whose memory lies in a file.
    async fn move_to_file(&mut self, running: Running) -> Result<(), Fault> {
        let old = self.qmp()?;
        let within = limit(running.spec.memory);
        let running = Running { memory: MemoryKind::File, ..running };
        let next = VmRecord { running: Some(running), ..self.record.clone() };
        let successor = self.successor(&next, None).await?;
        let mut next = next;
        let written = self.named(&mut next, &successor).await;
        let written = match written {
            Ok(written) => written,
            Err(fault) => {
                end(&successor.process).await;
                return Err(fault);
            }
        };
        let moved = fork::move_live(&old, successor.qmp(), within).await;
        let moved = moved
            .map_err(|error| Fault::Qemu(format!("the guest cannot be moved: {}", chain(&error))));
        match moved.and(stands_still(successor.qmp()).await) {
            Ok(()) => {
                self.succeed(next, written, successor).await?;
                self.settle_in().await;
                // On the disk, too.
                self.save_or_log().await;
                Ok(())
            }
            Err(fault) => {
                end(&successor.process).await;
                Err(self.go_on(&old, fault).await)
            }
        }
    }

    /// When the guest has ended with all its processes in the middle of a fork, nobody knows whether
    /// it had gone on in the new one. The new files on top of the old ones are right either way:
    /// they are empty if it had not.
    pub(in crate::vm) async fn keep_forked_layers(&mut self) {
        let (host, mut record) = (self.host.clone(), self.record.clone());
        let kept = blocking(move || {
            let dir = vm_dir(&host, &record)?;
            for disk in &mut record.definition.vm.status.disks {
                let of_disk = |file: &&LayerFile| {
                    let known = disk.layers.iter().any(|layer| layer.file == **file);
                    let number = file.number().unwrap_or_default();
                    !known && **file == LayerFile::disk(dir.id(), &disk.name, number)
                };
                let made = record.forking.iter().find(of_disk).cloned();
                let there =
                    |file: &LayerFile| hostler_host::layers::path(dir.datastore(), file).exists();
                if let Some(file) = made.filter(there) {
                    disk.layers.insert(0, Layer { file, allocated: ByteSize(0) });
                }
            }
            Ok(record)
        });
        match kept.await {
            Ok(record) => self.record = record,
            Err(error) => tracing::error!(vm = %self.record.id(), %error, "a fork's files"),
        }
    }

    /// After a fork: what its clones lie on is lent. After one that did not come about: files that
    /// were made for it are removed, and the active ones are the VM's alone again.
    pub(in crate::vm) async fn settle_forking(&mut self) {
        if self.record.forking.is_empty() {
            return;
        }
        let (host, record) = (self.host.clone(), self.record.clone());
        match blocking(move || settle(&vm_dir(&host, &record)?, &record)).await {
            Ok(()) => {
                self.record.forking.clear();
                self.save_or_log().await;
            }
            Err(error) => {
                tracing::warn!(vm = %self.record.id(), %error, "a fork's files stay as they are for now");
            }
        }
    }

    /// What lies beside the disks; the record is the truth, so a failure is made up for by the next
    /// change.
    pub(super) async fn write_definition(&self) {
        let (host, record) = (self.host.clone(), self.record.clone());
        let written =
            blocking(move || Ok(vm_dir(&host, &record)?.write_definition(&record.definition.vm)?));
        if let Err(error) = written.await {
            tracing::warn!(vm = %self.record.id(), %error, "cannot write the definition");
        }
    }
}

fn settle(dir: &VmDir, record: &VmRecord) -> Result<(), Fault> {
    let place = |file: &LayerFile| hostler_host::layers::path(dir.datastore(), file);
    for file in &record.forking {
        let disks = record.definition.vm.status.disks.iter();
        let mut chains = disks.map(|disk| disk.layers.as_slice());
        let forked = chains.find_map(|chain| {
            let active = chain.iter().position(|layer| layer.file == *file)?;
            Some(&chain[active + 1..])
        });
        let Some(beneath) = forked else {
            volume::remove(dir, &place(file))?;
            continue;
        };
        let own = |layer: &&Layer| layer.file.owner() == LayerOwner::Vm(dir.id());
        // The lowest first: where one is lent, all beneath it can be read.
        for layer in beneath.iter().filter(own).rev() {
            volume::lend(&place(&layer.file))?;
        }
    }
    for disk in &record.definition.vm.status.disks {
        let active = disk.layers.first().map(|layer| place(&layer.file));
        let Some(active) = active.filter(|active| active.exists()) else { continue };
        // That of a disk which is not plugged in may be lent, and clones lie on it.
        if !volume::is_lent(&active)? {
            volume::set_owner(&active, record.uid)?;
        }
    }
    Ok(())
}

/// A machine that has loaded a guest which runs stands still only because it was not told to run.
async fn stands_still(qmp: &Qmp) -> Result<(), Fault> {
    match qmp.execute(QueryStatus).await {
        Ok(status) if matches!(status.status, RunState::Paused | RunState::Prelaunch) => Ok(()),
        Ok(status) => Err(Fault::Qemu(format!("its new process is in state {:?}", status.status))),
        Err(error) => Err(Fault::Qemu(chain(&error))),
    }
}

/// Ends a process that has nothing of its own, and waits until it is gone.
pub(in crate::vm) async fn end(process: &Process) {
    if let Err(error) = process.kill() {
        tracing::error!(pid = process.pid(), error = chain(&error), "a process cannot be ended");
    }
    if timeout(STATE, process.exited()).await.is_err() {
        tracing::error!(pid = process.pid(), "a killed process does not end");
    }
}

fn end_in_background(process: Process) {
    tokio::spawn(async move { end(&process).await });
}
