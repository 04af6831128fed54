//! The agent contract, carried out on a simulated host.

use async_trait::async_trait;
use futures::StreamExt as _;
use hostler_agent_api::{
    AgentEvent, ConsoleKind, DatastoreCheck, DatastoreReport, FactsAnswer, FileOwner, FileUser,
    FoundFiles, HostResources, ImageContentAnswer, ImageImportRequest, ImageImportSource,
    ImageImported, ImageRemoveRequest, OperationProgress, RemoveFilesRequest, RemovedFile,
    VmCommand, VmCreateRequest, VmDefineRequest, VmDefinition, VmDiskTakeRequest,
    VmDisksMoveRequest, VmEpoch, VmExportRequest, VmFlattenRequest, VmForkAnswer, VmForkRequest,
    VmFreezeRequest, VmFrozen, VmMigrateRequest, VmMigrationMeasureRequest, VmMigrationMeasured,
    VmMigrationPrepareRequest, VmMoved, VmOffer, VmRemoveRequest, VmReport, VmRevertRequest,
    VmSnapshotDeleteRequest, VmSnapshotRequest, VmSnapshotUpdateRequest, VmStartRequest,
    VmStopRequest, code,
};
use hostler_control::{AgentError, AgentLink};
use hostler_endpoint::{ByteStream, EventStream, Item, Problem};
use hostler_types::{
    ByteSize, Consistency, DatastoreId, DiskSpec, DiskStatus, ExecAnswer, ExecRequest,
    ExportManifest, ImageFormat, ImageId, ImageMedia, Name, NetworkId, NetworkSpec, OperationId,
    PowerState, Removed, Seal, SealWay, Sha256, Snapshot, SnapshotDisk, Vm, VmId, VmSpec,
};
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_stream::wrappers::BroadcastStream;

use crate::faults::Fault;
use crate::host::{SimHost, SimVm, State};
use crate::storage::Taking;

impl SimHost {
    /// Carries a command out once, whatever goes wrong on the way.
    async fn command<T: Serialize + DeserializeOwned>(
        &self,
        method: &'static str,
        op: Option<OperationId>,
        act: impl FnOnce(&mut State) -> Result<T, Problem> + Send,
    ) -> Result<T, AgentError> {
        // As with a real connection, others run meanwhile.
        tokio::task::yield_now().await;
        let fault = {
            let mut state = self.lock();
            if !state.reachable {
                return Err(self.broken("connection refused"));
            }
            state.faults.get_mut(method).and_then(std::collections::VecDeque::pop_front)
        };
        match fault {
            None => self.carry_out(method, op, act),
            Some(Fault::Refuse(problem)) => {
                let mut state = self.lock();
                if let Some(answer) = op.and_then(|op| state.journal.get(&op)) {
                    let answer = answer.clone()?;
                    return Ok(serde_json::from_value(answer).expect("the journal is ours"));
                }
                state.journal.extend(op.map(|op| (op, Err(problem.clone()))));
                Err(problem.into())
            }
            Some(Fault::Unheard) => Err(self.broken("connection reset")),
            Some(Fault::AnswerLost) => {
                self.carry_out(method, op, act)?;
                Err(self.broken("connection reset"))
            }
            Some(Fault::Held(mut gate)) => {
                let op = op.expect("only operations are held");
                tokio::select! {
                    // Nothing is ever sent: it ends when the gate is gone.
                    _ = gate.changed() => self.carry_out(method, Some(op), act),
                    cancelled = self.until_cancelled(op) => {
                        cancelled?;
                        Err(Problem::new(409, code::CANCELLED, "it was cancelled").into())
                    }
                }
            }
            Some(Fault::Hang) => {
                let op = op.expect("only operations hang");
                self.until_cancelled(op).await?;
                Err(Problem::new(409, code::CANCELLED, "it was cancelled").into())
            }
        }
    }

    fn carry_out<T: Serialize + DeserializeOwned>(
        &self,
        method: &'static str,
        op: Option<OperationId>,
        act: impl FnOnce(&mut State) -> Result<T, Problem>,
    ) -> Result<T, AgentError> {
        let mut state = self.lock();
        if let Some(answer) = op.and_then(|op| state.journal.get(&op)) {
            let answer = answer.clone()?;
            return Ok(serde_json::from_value(answer).expect("the journal is ours"));
        }
        let before = state.vms.clone();
        let answer = match act(&mut state) {
            Ok(answer) => answer,
            Err(problem) => {
                state.journal.extend(op.map(|op| (op, Err(problem.clone()))));
                return Err(problem.into());
            }
        };
        state.done.push(method);
        if let Some(op) = op {
            let stored = serde_json::to_value(&answer).expect("answers have a JSON form");
            state.journal.insert(op, Ok(stored));
        }
        for (id, vm) in &state.vms {
            if before.get(id).is_none_or(|before| before.report() != vm.report()) {
                self.tell(AgentEvent::Vm(Box::new(vm.report())));
            }
        }
        for id in before.keys().filter(|id| !state.vms.contains_key(id)) {
            self.tell(AgentEvent::VmGone { vm: *id });
        }
        Ok(answer)
    }

    async fn until_cancelled(&self, op: OperationId) -> Result<(), AgentError> {
        let mut cancelled = self.cancelled.subscribe();
        let mut connections = self.connections.subscribe();
        tokio::select! {
            _ = cancelled.wait_for(|cancelled| cancelled.contains(&op)) => Ok(()),
            _ = connections.changed() => Err(self.broken("connection reset")),
        }
    }

    fn broken(&self, reason: &str) -> AgentError {
        AgentError::Unreachable { host: self.id.to_string(), reason: reason.to_owned() }
    }

    async fn power(
        &self,
        method: &'static str,
        vm: VmId,
        command: VmCommand,
        from: &[PowerState],
        to: PowerState,
    ) -> Result<VmReport, AgentError> {
        self.command(method, Some(command.op), |state| {
            let vm = state.owned(vm, command.epoch)?;
            if vm.power != to {
                if !from.contains(&vm.power) {
                    let detail = format!("the vm is {}", vm.power);
                    return Err(Problem::new(409, code::WRONG_STATE, detail));
                }
                vm.become_(to);
            }
            Ok(vm.report())
        })
        .await
    }
}

/// The disks as they are at this instant.
fn held(disks: Vec<DiskStatus>, spec: &VmSpec) -> Vec<SnapshotDisk> {
    let held = |disk: DiskStatus| {
        let size = spec.disks.iter().find(|spec| spec.name == disk.name)?.size;
        let layers = disk.layers.into_iter().map(|layer| layer.file).collect();
        Some(SnapshotDisk { name: disk.name, size, layers })
    };
    disks.into_iter().filter_map(held).collect()
}

impl SimVm {
    /// As the real one: the file decides whose the disk is.
    fn take_disk(&mut self, name: &Name, lender: &mut Self, disk: &Name) -> Result<(), Problem> {
        let refuse = |detail: &str| Err(Problem::new(409, code::WRONG_STATE, detail));
        let theirs = lender.detached(disk).cloned();
        match (self.detached(name).is_some(), theirs) {
            (true, None) => Ok(()),
            (true, Some(_)) => refuse("it has such a disk already"),
            (false, None) => refuse("there is no such detached disk"),
            (false, Some(mut spec)) => {
                let lender_id = lender.definition.vm.id();
                let beneath = lender.storage.give(lender_id, disk);
                let id = self.definition.vm.id();
                self.storage.receive(id, name, beneath);
                spec.name = name.clone();
                let detached = &mut self.definition.vm.spec.detached;
                detached.retain(|known| known.name != *name);
                detached.push(spec);
                Ok(())
            }
        }
    }

    /// A detached disk whose file is there.
    fn detached(&self, disk: &Name) -> Option<&DiskSpec> {
        let found = self.definition.vm.spec.detached.iter().find(|known| known.name == *disk);
        found.filter(|_| self.storage.has(disk))
    }

    fn snapshot(&mut self, request: VmSnapshotRequest) -> Result<(), Problem> {
        if request.memory && !self.power.is_live() {
            return Err(Problem::new(409, code::WRONG_STATE, "it does not run"));
        }
        let agent = self.guest.as_ref().is_some_and(|guest| guest.agent);
        if request.quiesce && !agent {
            return Err(Problem::new(409, code::GUEST_AGENT_UNAVAILABLE, "its agent is silent"));
        }
        let spec = &self.definition.vm.spec;
        let taking = Taking {
            snapshot: request.snapshot,
            name: request.name,
            description: request.description,
            by: request.by,
            consistency: match request.quiesce {
                true => Consistency::Application,
                false => Consistency::Crash,
            },
            memory: request.memory.then_some(spec.memory),
        };
        self.storage.take(self.definition.vm.id(), spec, taking);
        Ok(())
    }
}

/// Disks have their size of then; those that came later are unplugged.
fn go_back(spec: &mut VmSpec, snapshot: &Snapshot) {
    let all: Vec<_> = spec.disks.drain(..).chain(spec.detached.drain(..)).collect();
    for mut disk in all {
        match snapshot.disks.iter().find(|held| held.name == disk.name) {
            Some(held) => {
                disk.size = held.size;
                spec.disks.push(disk);
            }
            None => spec.detached.push(disk),
        }
    }
}

fn no_snapshot() -> Problem {
    Problem::new(404, code::NOT_FOUND, "there is no such snapshot")
}

fn text(bytes: &'static str) -> ByteStream {
    Box::pin(futures::stream::iter([Ok(bytes::Bytes::from_static(bytes.as_bytes()))]))
}

#[async_trait]
impl AgentLink for SimHost {
    async fn facts(&self) -> Result<FactsAnswer, AgentError> {
        let host = self.id;
        self.command("facts", None, |state| {
            let contract = state.contract;
            Ok(FactsAnswer { host, contract, facts: state.facts.clone() })
        })
        .await
    }

    async fn events(&self) -> Result<EventStream<AgentEvent>, AgentError> {
        let connection = self.connections.subscribe();
        let (live, inventory) = {
            let state = self.lock();
            if !state.reachable {
                return Err(self.broken("connection refused"));
            }
            (self.events.subscribe(), state.inventory())
        };
        let live = BroadcastStream::new(live)
            .take_while(|event| futures::future::ready(event.is_ok()))
            .filter_map(|event| futures::future::ready(event.ok()));
        let all = futures::stream::iter([AgentEvent::Inventory(inventory)]).chain(live);
        let numbered = all.enumerate().map(|(id, data)| Ok(Item { id: id as u64, data }));
        let mut connection = connection;
        let connected = numbered.take_until(async move {
            // An error: the host itself is gone.
            let _gone = connection.changed().await;
        });
        // Like the real one, it must not be asked again when it has ended.
        let strict = futures::stream::unfold(Box::pin(connected), |mut stream| async move {
            let item = stream.next().await?;
            Some((item, stream))
        });
        Ok(Box::pin(strict))
    }

    async fn operation_cancel(&self, op: OperationId) -> Result<(), AgentError> {
        self.cancelled.send_modify(|cancelled| {
            cancelled.insert(op);
        });
        Ok(())
    }

    async fn vm_create(&self, vm: VmId, request: VmCreateRequest) -> Result<VmReport, AgentError> {
        let command = request.command;
        self.command("vm_create", Some(command.op), |state| {
            if !state.vms.contains_key(&vm) {
                state.place(request.definition, command.epoch, PowerState::Stopped);
            }
            Ok(state.owned(vm, command.epoch)?.report())
        })
        .await
    }

    async fn vm_define(&self, vm: VmId, request: VmDefineRequest) -> Result<VmReport, AgentError> {
        let command = request.command;
        self.command("vm_define", Some(command.op), |state| {
            let found = state.owned(vm, command.epoch)?;
            found.definition = request.definition.clone();
            let report = found.report();
            let vm = request.definition.vm;
            state.files.insert((vm.status.datastore, vm.id()), vm);
            Ok(report)
        })
        .await
    }

    async fn vm_defined(&self, vm: VmId) -> Result<VmDefinition, AgentError> {
        self.command("vm_defined", None, |state| {
            let found = state.vms.get(&vm).map(|vm| vm.definition.clone());
            found.ok_or_else(|| Problem::new(404, code::NOT_FOUND, "the vm is not there"))
        })
        .await
    }

    async fn vm_register(
        &self,
        vm: VmId,
        request: VmCreateRequest,
    ) -> Result<VmReport, AgentError> {
        let command = request.command;
        self.command("vm_register", Some(command.op), |state| {
            let datastore = request.definition.vm.status.datastore;
            if !state.files.contains_key(&(datastore, vm)) {
                return Err(Problem::new(404, code::NOT_FOUND, "its files are not there"));
            }
            state.place(request.definition, command.epoch, PowerState::Stopped);
            Ok(state.owned(vm, command.epoch)?.report())
        })
        .await
    }

    async fn vm_remove(&self, vm: VmId, request: VmRemoveRequest) -> Result<(), AgentError> {
        let command = request.command;
        self.command("vm_remove", Some(command.op), |state| {
            if state.vms.contains_key(&vm) {
                let found = state.owned(vm, command.epoch)?;
                if found.power.is_live() && !request.force {
                    return Err(Problem::new(409, code::WRONG_STATE, "the vm runs"));
                }
                state.vms.remove(&vm);
            }
            if request.keep_files {
                state.unregistered.insert(vm);
            } else {
                state.files.remove(&(request.datastore, vm));
            }
            Ok(())
        })
        .await
    }

    async fn vm_start(&self, vm: VmId, request: VmStartRequest) -> Result<VmReport, AgentError> {
        let command = request.command;
        if self.vm(vm).is_some_and(|vm| vm.definition.vm.is_recycled()) {
            return Err(Problem::new(409, code::WRONG_STATE, "it is in the recycle bin").into());
        }
        if self.vm(vm).is_some_and(|vm| vm.definition.vm.is_template()) {
            return Err(Problem::new(409, code::WRONG_STATE, "it is a template").into());
        }
        let from = [PowerState::Stopped, PowerState::Suspended, PowerState::Failed];
        if let Some(vm) = self.lock().vms.get_mut(&vm).filter(|vm| !vm.power.is_live()) {
            let asks = vm.definition.vm.spec.cpu_model.is_some();
            vm.cpu = vm.cpu.take().or(request.cpu.filter(|_| !asks));
        }
        self.power("vm_start", vm, command, &from, PowerState::Running).await
    }

    async fn vm_migration_offer(
        &self,
        vm: VmId,
        command: VmCommand,
    ) -> Result<VmOffer, AgentError> {
        // In no journal: it tells what is.
        self.command("vm_migration_offer", None, |state| {
            if let Some(moved) = state.given.get(&vm) {
                let moved = Some(moved.clone());
                return Ok(VmOffer { luggage: serde_json::Value::Null, moved });
            }
            let found = state.owned(vm, command.epoch)?;
            if found.power != PowerState::Running {
                return Err(Problem::new(409, code::WRONG_STATE, "the vm does not run"));
            }
            Ok(VmOffer { luggage: serde_json::json!({}), moved: None })
        })
        .await
    }

    async fn vm_migration_prepare(
        &self,
        vm: VmId,
        request: VmMigrationPrepareRequest,
    ) -> Result<(), AgentError> {
        self.command("vm_migration_prepare", Some(request.command.op), |state| {
            if state.vms.contains_key(&vm) {
                return Err(Problem::new(409, code::WRONG_STATE, "the vm is here"));
            }
            state.given.remove(&vm);
            state.awaited.insert(vm, (request.definition, request.command.epoch));
            Ok(())
        })
        .await
    }

    /// The other host is not told; the server does it.
    async fn vm_migrate(&self, vm: VmId, request: VmMigrateRequest) -> Result<VmMoved, AgentError> {
        let (op, activity) = (request.command.op, "sending memory".to_owned());
        self.tell(AgentEvent::Progress(OperationProgress { op, percent: Some(50), activity }));
        self.command("vm_migrate", Some(op), |state| {
            let found = state.owned(vm, request.command.epoch)?;
            if found.power != PowerState::Running {
                return Err(Problem::new(409, code::WRONG_STATE, "the vm does not run"));
            }
            state.vms.remove(&vm);
            let moved = VmMoved {
                to: request.to,
                epoch: request.epoch,
                taken: false,
                paused_microseconds: 42_000,
                total_microseconds: 1_000_000,
                transferred: 100 << 20,
                report: None,
            };
            state.given.insert(vm, moved.clone());
            Ok(moved)
        })
        .await
    }

    async fn vm_migration_measure(
        &self,
        vm: VmId,
        _: VmMigrationMeasureRequest,
    ) -> Result<VmMigrationMeasured, AgentError> {
        self.command("vm_migration_measure", None, |state| {
            state.vms.get(&vm).ok_or_else(|| Problem::new(404, code::NOT_FOUND, "no such vm"))?;
            Ok(state.measured)
        })
        .await
    }

    async fn vm_migration_take(&self, vm: VmId, epoch: VmEpoch) -> Result<VmReport, AgentError> {
        self.command("vm_migration_take", None, |state| {
            if let Some((definition, awaited)) = state.awaited.get(&vm).cloned() {
                if awaited != epoch.epoch {
                    return Err(Problem::new(409, code::STALE_EPOCH, "another epoch"));
                }
                state.awaited.remove(&vm);
                state.place(definition, awaited, PowerState::Running);
            }
            Ok(state.owned(vm, epoch.epoch)?.report())
        })
        .await
    }

    async fn vm_migration_abandon(&self, vm: VmId, command: VmCommand) -> Result<(), AgentError> {
        self.command("vm_migration_abandon", Some(command.op), |state| {
            if state.vms.contains_key(&vm) {
                return Err(Problem::new(409, code::WRONG_STATE, "the vm is here"));
            }
            state.awaited.remove(&vm);
            Ok(())
        })
        .await
    }

    async fn vm_migration_forget(&self, vm: VmId, command: VmCommand) -> Result<(), AgentError> {
        self.command("vm_migration_forget", Some(command.op), |state| {
            state.given.remove(&vm);
            if state.vms.get(&vm).is_some_and(|found| found.epoch >= command.epoch) {
                return Err(Problem::new(409, code::WRONG_STATE, "the vm is this host's"));
            }
            state.vms.remove(&vm);
            Ok(())
        })
        .await
    }

    async fn vm_seal(&self, vm: VmId, command: VmCommand) -> Result<VmReport, AgentError> {
        self.command("vm_seal", Some(command.op), |state| {
            let vm = state.owned(vm, command.epoch)?;
            let way = match vm.power {
                PowerState::Running => SealWay::Guest,
                PowerState::Stopped => SealWay::Offline,
                power => {
                    let detail = format!("the vm is {power}");
                    return Err(Problem::new(409, code::WRONG_STATE, detail));
                }
            };
            if vm.power == PowerState::Running {
                vm.become_(PowerState::Stopped);
            }
            let removed = Removed {
                what: "machine id".to_owned(),
                path: "/etc/machine-id".to_owned(),
                files: 1,
                size: ByteSize(33),
            };
            let (at, os) = (jiff::Timestamp::now(), "Debian".to_owned());
            vm.seal = Some(Seal { at, way, os, removed: vec![removed] });
            Ok(vm.report())
        })
        .await
    }

    async fn vm_stop(&self, vm: VmId, request: VmStopRequest) -> Result<VmReport, AgentError> {
        let from = [PowerState::Running, PowerState::Paused];
        self.power("vm_stop", vm, request.command, &from, PowerState::Stopped).await
    }

    async fn vm_reset(&self, vm: VmId, command: VmCommand) -> Result<VmReport, AgentError> {
        let from = [PowerState::Running, PowerState::Paused];
        self.power("vm_reset", vm, command, &from, PowerState::Running).await
    }

    async fn vm_suspend(&self, vm: VmId, command: VmCommand) -> Result<VmReport, AgentError> {
        let from = [PowerState::Running, PowerState::Paused];
        self.power("vm_suspend", vm, command, &from, PowerState::Suspended).await
    }

    async fn vm_snapshot(
        &self,
        vm: VmId,
        request: VmSnapshotRequest,
    ) -> Result<VmReport, AgentError> {
        let command = request.command;
        self.command("vm_snapshot", Some(command.op), |state| {
            let found = state.owned(vm, command.epoch)?;
            found.snapshot(request)?;
            Ok(found.report())
        })
        .await
    }

    async fn vm_export(
        &self,
        vm: VmId,
        request: VmExportRequest,
    ) -> Result<ExportManifest, AgentError> {
        let VmCommand { op, epoch } = request.command;
        self.command("vm_export", Some(op), |state| {
            let found = state.owned(vm, epoch)?;
            let manifest = ExportManifest {
                format: ExportManifest::FORMAT.to_owned(),
                at: Timestamp::UNIX_EPOCH,
                vm: found.definition.vm.clone(),
                networks: request.networks,
                disks: Vec::new(),
            };
            state.exports.insert(vm);
            Ok(manifest)
        })
        .await
    }

    async fn vm_snapshot_update(
        &self,
        vm: VmId,
        request: VmSnapshotUpdateRequest,
    ) -> Result<VmReport, AgentError> {
        let command = request.command;
        self.command("vm_snapshot_update", Some(command.op), |state| {
            let found = state.owned(vm, command.epoch)?;
            let all = &mut found.storage.tree.snapshots;
            let snapshot = all.iter_mut().find(|snapshot| snapshot.id == request.snapshot);
            let snapshot = snapshot.ok_or_else(no_snapshot)?;
            snapshot.name = request.name.unwrap_or(snapshot.name.clone());
            snapshot.description = request.description.unwrap_or(snapshot.description.clone());
            Ok(found.report())
        })
        .await
    }

    /// Faults of `vm_snapshot_forget` come before anything is done, those of `vm_snapshot_delete` when
    /// the names are gone and nothing is merged yet.
    async fn vm_snapshot_delete(
        &self,
        vm: VmId,
        request: VmSnapshotDeleteRequest,
    ) -> Result<VmReport, AgentError> {
        let command = request.command;
        self.command("vm_snapshot_forget", None, |state| {
            state.owned(vm, command.epoch)?.storage.forget(&request.snapshots);
            Ok(())
        })
        .await?;
        let (op, activity) = (command.op, "merging".to_owned());
        self.tell(AgentEvent::Progress(OperationProgress { op, percent: Some(50), activity }));
        self.command("vm_snapshot_delete", Some(command.op), |state| {
            let found = state.owned(vm, command.epoch)?;
            found.storage.merge(vm, &found.definition.vm.spec);
            Ok(found.report())
        })
        .await
    }

    async fn vm_revert(&self, vm: VmId, request: VmRevertRequest) -> Result<VmReport, AgentError> {
        let command = request.command;
        self.command("vm_revert", Some(command.op), |state| {
            let found = state.owned(vm, command.epoch)?;
            let snapshot = found.storage.tree.get(request.snapshot).cloned();
            let snapshot = snapshot.ok_or_else(no_snapshot)?;
            found.storage.revert(vm, &found.definition.vm.spec, &snapshot);
            go_back(&mut found.definition.vm.spec, &snapshot);
            let before = found.power.is_live();
            let runs = request.start.unwrap_or(before || snapshot.memory.is_some());
            found.become_(if runs { PowerState::Running } else { PowerState::Stopped });
            Ok(found.report())
        })
        .await
    }

    async fn vm_freeze(&self, vm: VmId, request: VmFreezeRequest) -> Result<VmFrozen, AgentError> {
        let command = request.command;
        self.command("vm_freeze", Some(command.op), |state| {
            let found = state.owned(vm, command.epoch)?;
            let report = found.report();
            let disks = match request.snapshot {
                None => held(report.disks.clone(), &found.definition.vm.spec),
                Some(id) => match report.snapshots.get(id) {
                    Some(snapshot) => snapshot.disks.clone(),
                    None => return Err(Problem::new(409, code::WRONG_STATE, "no such snapshot")),
                },
            };
            Ok(VmFrozen { report, disks })
        })
        .await
    }

    async fn vm_flatten(
        &self,
        vm: VmId,
        request: VmFlattenRequest,
    ) -> Result<VmReport, AgentError> {
        let command = request.command;
        self.command("vm_flatten", Some(command.op), |state| {
            let found = state.owned(vm, command.epoch)?;
            let asked = |name: &Name| request.disks.is_empty() || request.disks.contains(name);
            let disks = found.definition.vm.spec.disks.iter().map(|disk| disk.name.clone());
            for name in disks.filter(asked).collect::<Vec<_>>() {
                found.storage.flatten(vm, &name);
            }
            Ok(found.report())
        })
        .await
    }

    async fn vm_disks_move(
        &self,
        vm: VmId,
        request: VmDisksMoveRequest,
    ) -> Result<VmReport, AgentError> {
        let command = request.command;
        self.command("vm_disks_move", Some(command.op), |state| {
            let found = state.owned(vm, command.epoch)?;
            if found.definition.vm.status.datastore != request.datastore {
                found.definition.vm.status.datastore = request.datastore;
                let disks = found.definition.vm.spec.own_disks().map(|disk| disk.name.clone());
                for name in disks.collect::<Vec<_>>() {
                    found.storage.flatten(vm, &name);
                }
            }
            Ok(found.report())
        })
        .await
    }

    async fn vm_disk_take(
        &self,
        vm: VmId,
        request: VmDiskTakeRequest,
    ) -> Result<VmReport, AgentError> {
        let VmDiskTakeRequest { command, from, disk, name } = request;
        self.command("vm_disk_take", Some(command.op), |state| {
            let mut taker = state.owned(vm, command.epoch)?.clone();
            let no_vm =
                || Problem::new(404, code::NOT_FOUND, format!("there is no vm {from} here"));
            let lender = state.vms.get_mut(&from).ok_or_else(no_vm)?;
            taker.take_disk(&name, lender, &disk)?;
            let report = taker.report();
            state.vms.insert(vm, taker);
            Ok(report)
        })
        .await
    }

    async fn vm_fork(&self, vm: VmId, request: VmForkRequest) -> Result<VmForkAnswer, AgentError> {
        let command = request.command;
        self.command("vm_fork", Some(command.op), |state| {
            let parent = state.owned(vm, command.epoch)?;
            if parent.power != PowerState::Running {
                let detail = format!("the vm is {}", parent.power);
                return Err(Problem::new(409, code::WRONG_STATE, detail));
            }
            let parent = parent.report();
            let mut clones = Vec::new();
            for clone in request.clones {
                let (id, epoch) = (clone.definition.vm.id(), clone.command.epoch);
                state.place(clone.definition, epoch, PowerState::Running);
                clones.push(state.owned(id, epoch)?.report());
            }
            Ok(VmForkAnswer { parent, clones, paused_microseconds: 20_000 })
        })
        .await
    }

    async fn vm_export_content(&self, vm: VmId) -> Result<ByteStream, AgentError> {
        self.command("vm_export_content", None, |state| match state.exports.contains(&vm) {
            true => Ok(()),
            false => Err(Problem::new(409, code::WRONG_STATE, "there is no finished export")),
        })
        .await?;
        Ok(Box::pin(futures::stream::iter([Ok(bytes::Bytes::from_static(b"archive"))])))
    }

    async fn vm_export_remove(&self, vm: VmId) -> Result<(), AgentError> {
        self.command("vm_export_remove", None, |state| {
            state.exports.remove(&vm);
            Ok(())
        })
        .await
    }

    async fn vm_exec(&self, _: VmId, request: ExecRequest) -> Result<ExecAnswer, AgentError> {
        self.command("vm_exec", None, |_| {
            Ok(ExecAnswer {
                exit_code: Some(0),
                signal: None,
                stdout: request.command.join(" "),
                stderr: String::new(),
                truncated: false,
            })
        })
        .await
    }

    async fn vm_screenshot(&self, _: VmId) -> Result<ByteStream, AgentError> {
        self.command("vm_screenshot", None, |_| Ok(())).await?;
        Ok(text("\u{89}PNG"))
    }

    /// Echoes.
    async fn vm_console(
        &self,
        _: VmId,
        _: ConsoleKind,
        input: ByteStream,
    ) -> Result<ByteStream, AgentError> {
        self.command("vm_console", None, |_| Ok(())).await?;
        Ok(input)
    }

    async fn vm_log(&self, _: VmId, _: bool) -> Result<ByteStream, AgentError> {
        self.command("vm_log", None, |_| Ok(())).await?;
        Ok(text("login: "))
    }

    async fn image_upload(
        &self,
        image: ImageId,
        _: DatastoreId,
        offset: u64,
        mut content: ByteStream,
    ) -> Result<ImageContentAnswer, AgentError> {
        self.command("image_upload", None, |state| {
            let received = state.uploads.entry(image).or_default();
            if *received == offset {
                return Ok(());
            }
            Err(Problem::new(409, "wrong_offset", format!("{received} bytes have been received")))
        })
        .await?;
        while let Some(piece) = content.next().await {
            let piece = piece.map_err(|error| self.broken(&error.to_string()))?;
            *self.lock().uploads.entry(image).or_default() += piece.len() as u64;
        }
        Ok(ImageContentAnswer { received: ByteSize(self.lock().uploads[&image]) })
    }

    async fn image_content(
        &self,
        image: ImageId,
        _: DatastoreId,
    ) -> Result<ImageContentAnswer, AgentError> {
        self.command("image_content", None, |state| {
            let received = state.uploads.get(&image).copied().unwrap_or_default();
            Ok(ImageContentAnswer { received: ByteSize(received) })
        })
        .await
    }

    async fn image_import(
        &self,
        image: ImageId,
        request: ImageImportRequest,
    ) -> Result<ImageImported, AgentError> {
        let progress =
            OperationProgress { op: request.op, percent: Some(50), activity: "downloading".into() };
        self.tell(AgentEvent::Progress(progress));
        self.command("image_import", Some(request.op), |state| {
            let (media, format) = match &request.source {
                ImageImportSource::Url(url) if url.ends_with(".iso") => {
                    (ImageMedia::Cdrom, ImageFormat::Iso)
                }
                _ => (ImageMedia::Disk, ImageFormat::Qcow2),
            };
            state.uploads.remove(&image);
            state.images.insert(image, ByteSize::gib(2));
            Ok(ImageImported {
                format,
                media,
                virtual_size: ByteSize::gib(2),
                allocated: ByteSize::mib(17),
                sha256: request.sha256.unwrap_or_else(|| Sha256::from_bytes([7; 32])),
            })
        })
        .await
    }

    async fn image_remove(
        &self,
        image: ImageId,
        request: ImageRemoveRequest,
    ) -> Result<(), AgentError> {
        self.command("image_remove", Some(request.op), |state| {
            state.images.remove(&image);
            state.uploads.remove(&image);
            Ok(())
        })
        .await
    }

    async fn datastore_ensure(
        &self,
        datastore: DatastoreId,
        check: DatastoreCheck,
    ) -> Result<DatastoreReport, AgentError> {
        self.command("datastore_ensure", None, |state| {
            Ok(state.datastore(datastore, &check.path, check.create))
        })
        .await
    }

    async fn datastore_remove(
        &self,
        datastore: DatastoreId,
        release: bool,
    ) -> Result<(), AgentError> {
        self.command("datastore_remove", None, |state| {
            if let Some((report, path)) = state.datastores.remove(&datastore)
                && release
            {
                state.unmark(report.datastore, &path);
            }
            Ok(())
        })
        .await
    }

    async fn datastore_unregistered(&self, datastore: DatastoreId) -> Result<Vec<Vm>, AgentError> {
        self.command("datastore_unregistered", None, |state| {
            let files = state
                .files
                .iter()
                .filter(|((at, vm), _)| *at == datastore && !state.vms.contains_key(vm));
            Ok(files.map(|(_, vm)| vm.clone()).collect())
        })
        .await
    }

    async fn datastore_users(
        &self,
        _: DatastoreId,
        owner: FileOwner,
    ) -> Result<Vec<FileUser>, AgentError> {
        self.command("datastore_users", None, |state| {
            Ok(state.users.get(&owner).cloned().unwrap_or_default())
        })
        .await
    }

    async fn datastore_files(&self, datastore: DatastoreId) -> Result<FoundFiles, AgentError> {
        self.command("datastore_files", None, |state| Ok(state.found(datastore))).await
    }

    async fn datastore_remove_files(
        &self,
        datastore: DatastoreId,
        request: RemoveFilesRequest,
    ) -> Result<Vec<RemovedFile>, AgentError> {
        self.command("datastore_remove_files", Some(request.op), |state| {
            let paths = request.paths.into_iter();
            Ok(paths.map(|path| state.remove_file(datastore, path)).collect())
        })
        .await
    }

    async fn resources_set(&self, resources: HostResources) -> Result<(), AgentError> {
        // Told by a controller whenever it likes: not one of the commands that tests count.
        let mut state = self.lock();
        if !state.reachable {
            return Err(self.broken("connection refused"));
        }
        state.resources = resources;
        Ok(())
    }

    async fn network_ensure(&self, network: NetworkId, _: NetworkSpec) -> Result<(), AgentError> {
        self.command("network_ensure", None, |state| {
            state.networks.insert(network);
            Ok(())
        })
        .await
    }

    async fn network_remove(&self, network: NetworkId) -> Result<(), AgentError> {
        self.command("network_remove", None, |state| {
            state.networks.remove(&network);
            Ok(())
        })
        .await
    }
}
