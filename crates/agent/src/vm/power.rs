//! Starting a guest, and pressing its reset button.
//!
//! Everything QEMU needs is opened here, before and for it; what a failed start has made is gone
//! when it is answered.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hostler_host::uid::{IMAGE_GID, USERFAULT_GID};
use hostler_host::{TapName, VmDir, VmUid};
use hostler_qemu::fork::memory_file;
use hostler_qemu::{
    CdromPlan, ChildFd, Credentials, DiskAio, DiskCache, DiskPlan, FirmwarePlan, InheritedFds,
    LaunchPlan, Lifetime, MemoryPlan, NicPlan, Process, QEMU, Spawn, Start, command_line, disk_id,
};
use hostler_qmp::command::{Cont, QueryStatus, SystemReset};
use hostler_qmp::{Events, Options, Qmp};
use hostler_types::{Accelerator, CpuBaseline, DiskSpec, Firmware, PowerState, VmSpec};
use jiff::Timestamp;
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use super::actor::Actor;
use super::change::cpu_limits;
use super::create::{end_processes, image_path, vm_dir};
use super::guest::watch_guest;
use super::hardware::Running;
use super::layers;
use super::machine::{Bound, Launched, Machine, Sockets};
use super::migrate::reclaim;
use super::proof::prove;
use super::record::{RecordedState, VmRecord};
use crate::blocking::blocking;
use crate::context::HostContext;
use crate::fault::{Fault, chain};

/// From the process's start to its monitor's greeting. A loaded host needs seconds, not minutes.
const COME_UP: Duration = Duration::from_secs(30);

/// What is ready for QEMU before its taps are.
struct Prepared {
    dir: VmDir,
    sockets: Sockets,
    qmp: Bound,
    guest_agent: Bound,
    serial: Bound,
    cgroup_files: Vec<std::os::fd::OwnedFd>,
    log: std::fs::File,
    disks: Vec<DiskPlan>,
    cdroms: Vec<CdromPlan>,
    firmware: FirmwarePlan,
    seed: Option<PathBuf>,
}

impl Actor {
    /// What CPU its guest sees from the next start on. What runs, or is to resume, keeps its own.
    pub(super) fn see(&mut self, cpu: Option<CpuBaseline>) {
        if self.machine.is_none() {
            self.record.cpu_baseline = cpu;
        }
    }

    /// Starts or resumes the guest; its CPUs run when this returns.
    pub(super) async fn start(&mut self) -> Result<(), Fault> {
        if self.record.definition.vm.is_recycled() {
            return Err(Fault::WrongState(
                "it is in the recycle bin and is not started".to_owned(),
            ));
        }
        match (&self.machine, self.power) {
            (Some(_), PowerState::Running) => return Ok(()),
            (Some(machine), PowerState::Paused) => {
                machine.live.qmp.execute(Cont).await.map_err(|e| Fault::Qemu(chain(&e)))?;
                self.set_power(PowerState::Running, None);
                return Ok(());
            }
            (Some(_), power) => {
                return Err(Fault::Power { action: "starting it", power, needed: "stopped" });
            }
            (None, _) => {}
        }
        self.restart_at = None;
        let resume = self.record.state == RecordedState::Suspended;
        let before = (self.power, self.message.clone());
        self.guest = None;
        self.set_power(PowerState::Starting, None);
        if let Err(fault) = self.come_up(resume).await {
            self.machine = None;
            if self.record.state != RecordedState::Suspended {
                self.record.running = None;
            }
            let (host, id) = (self.host.clone(), self.record.id());
            if let Err(error) = blocking(move || end_processes(&host, id)).await {
                tracing::error!(vm = %id, %error, "cannot clean up after a failed start");
            }
            self.set_power(before.0, before.1);
            return Err(fault);
        }
        Ok(())
    }

    async fn come_up(&mut self, resume: bool) -> Result<(), Fault> {
        // A header that says otherwise than the record, after a merge that was cut off.
        self.finish_recovery().await;
        self.require_not_flattening()?;
        self.require_not_moving()?;
        self.settle_move_or_log(None).await;
        self.put_variables_back().await?;
        let (host, record) = (self.host.clone(), self.record.clone());
        blocking(move || reclaim(&host, &record)).await?;
        let disks = self.record.definition.vm.spec.disks.iter().map(|disk| disk.name.clone());
        self.own_active(disks.collect()).await?;
        if !resume {
            self.settle().await?;
            self.record.layering.memory_of = None;
        }
        self.break_seal().await?;
        let (machine, running) = Box::pin(self.launch(resume)).await?;
        self.record.running = Some(running);
        if resume {
            self.resume(machine).await?;
            return self.dress().await;
        }
        self.hold(machine);
        self.dress().await?;
        self.set_power(PowerState::Running, None);
        Ok(())
    }

    pub(super) async fn reset(&mut self) -> Result<(), Fault> {
        let power = self.power;
        let machine = self.machine.as_ref().ok_or(Fault::Power {
            action: "resetting it",
            power,
            needed: "running",
        })?;
        machine.live.qmp.execute(SystemReset).await.map_err(|e| Fault::Qemu(chain(&e)))?;
        machine.port_hint();
        Ok(())
    }

    /// QEMU runs the guest: from here on the actor reacts to it.
    pub(super) fn running(&mut self, machine: Machine) {
        self.hold(machine);
        self.set_power(PowerState::Running, None);
    }

    /// Takes a machine whose guest may not run yet.
    pub(super) fn hold(&mut self, machine: Machine) {
        let process = machine.id();
        self.record.state = RecordedState::Running { process };
        self.record.since = Timestamp::now();
        self.record.begin_customization();
        if let Some(to_self) = self.to_self.upgrade() {
            let (agent, port) = (machine.live.agent.clone(), machine.port());
            let (first, answers) = oneshot::channel();
            if self.record.identity_due {
                machine.becomes(true);
                let answers = (answers, self.silent.take());
                self.begin_identity(agent.clone(), answers, port.clone(), to_self.clone());
            } else if let Some(expected) = self.record.expected() {
                tokio::spawn(prove(agent.clone(), port.clone(), to_self.clone(), expected));
            }
            tokio::spawn(watch_guest(agent, port, to_self, self.guest.clone(), first));
        }
        self.live.send_replace(Some(machine.live.clone()));
        self.machine = Some(machine);
    }

    async fn launch(&self, resume: bool) -> Result<(Machine, Running), Fault> {
        let (accelerator, disk_aio) = self.host.facts.engines().await?;
        let running = self.record.to_launch(accelerator, disk_aio, resume);
        let how = if resume { Launch::RESUME } else { Launch::BOOT };
        let launched = launch(&self.host, &self.record, &running, how).await?;
        let port_open = (!resume).then_some(false);
        Ok((Machine::new(launched, port_open), running))
    }
}

/// How a process is started.
#[derive(Debug)]
pub(super) struct Launch {
    pub(super) start: Start,
    /// See [`Sockets`].
    pub(super) place: u32,
    /// What its memory begins with; `None`: nothing.
    pub(super) memory: Option<Arc<OwnedFd>>,
    /// Taps by their names, where another process of the VM has them open.
    pub(super) taps: BTreeMap<String, OwnedFd>,
}

impl Launch {
    const BOOT: Self = Self::first(Start::Boot);
    const RESUME: Self = Self::first(Start::Resume);

    /// For a VM that has no process.
    pub(super) const fn first(start: Start) -> Self {
        Self { start, place: 0, memory: None, taps: BTreeMap::new() }
    }
}

/// Starts a QEMU, which answers when this returns. What a failure leaves in the VM's group the
/// caller ends.
pub(super) async fn launch(
    host: &Arc<HostContext>,
    record: &VmRecord,
    running: &Running,
    how: Launch,
) -> Result<Launched, Fault> {
    let Launch { start, place, memory, taps } = how;
    let prepare = {
        let (host, record, running) = (host.clone(), record.clone(), running.clone());
        blocking(move || prepare(&host, &record, &running, place))
    };
    let taps = open_taps(host, record, &running.spec, taps);
    let (prepared, taps) = tokio::try_join!(prepare, taps)?;
    let (record, running) = (record.clone(), running.clone());
    let (process, connected) =
        blocking(move || spawn(&record, &running, prepared, taps, memory, start)).await?;
    let Connected { sockets, dir, qmp, guest_agent, serial } = connected;
    let monitor = greet(&process, qmp, &sockets).await?;
    let console_log = dir.console_log();
    Ok(Launched { process, monitor, guest_agent, serial, sockets, console_log })
}

struct Connected {
    sockets: Sockets,
    dir: VmDir,
    qmp: UnixStream,
    guest_agent: UnixStream,
    serial: UnixStream,
}

/// Checks and opens all that does not need the network. Blocks.
fn prepare(
    host: &HostContext,
    record: &VmRecord,
    running: &Running,
    place: u32,
) -> Result<Prepared, Fault> {
    let spec = &running.spec;
    let id = record.id();
    let failed = |error: std::io::Error| Fault::internal("prepare QEMU's sockets", &error);
    let dir = vm_dir(host, record)?;
    let processes = host.cgroups.pids(id).map_err(|error| Fault::internal("cgroup", &error))?;
    if place == 0 && !processes.is_empty() {
        let text = format!("processes of the VM run already: {processes:?}");
        return Err(Fault::WrongState(text));
    }
    let sockets = Sockets::new(host.vm_runtime(id), place);
    sockets.create(record.uid).map_err(failed)?;
    let disks = disk_plans(&dir, record, running)?;
    let cdroms = cdrom_plans(host, record, spec)?;
    let firmware = firmware_plan(host, &dir, record, spec)?;
    let seed = spec.customization.as_ref().map(|_| dir.seed());
    host.cgroups.create(id).map_err(|error| Fault::internal("cgroup", &error))?;
    host.cgroups
        .set_cpu(id, cpu_limits(spec.cpu_limit))
        .map_err(|error| Fault::internal("cgroup", &error))?;
    let cgroup_files =
        host.cgroups.join_files(id).map_err(|error| Fault::internal("cgroup", &error))?;
    Ok(Prepared {
        qmp: sockets.bind(&sockets.qmp()).map_err(failed)?,
        guest_agent: sockets.bind(&sockets.guest_agent()).map_err(failed)?,
        serial: sockets.bind(&sockets.serial()).map_err(failed)?,
        log: sockets.log_file().map_err(failed)?,
        cgroup_files,
        sockets,
        dir,
        disks,
        cdroms,
        firmware,
        seed,
    })
}

async fn open_taps(
    host: &HostContext,
    record: &VmRecord,
    spec: &VmSpec,
    mut known: BTreeMap<String, OwnedFd>,
) -> Result<Vec<OwnedFd>, Fault> {
    let mut taps = Vec::new();
    let plugs = record.plugs();
    for nic in &spec.nics {
        let found = plugs.iter().find(|p| p.nic == nic.name && p.network.id == nic.network);
        let plug = found.ok_or(Fault::NoNetwork(nic.network))?;
        let (network, tap) = (&plug.network, TapName::of(record.id(), plug.slot));
        taps.push(match known.remove(tap.as_str()) {
            Some(tap) => tap,
            None => host.networks.open_tap(network.id, &network.spec, &tap).await?.fd,
        });
    }
    Ok(taps)
}

/// Blocks for the time of a fork.
fn spawn(
    record: &VmRecord,
    running: &Running,
    prepared: Prepared,
    taps: Vec<OwnedFd>,
    memory: Option<Arc<OwnedFd>>,
    start: Start,
) -> Result<(Process, Connected), Fault> {
    let mut fds = InheritedFds::default();
    let mut inherit = |fd| fds.add(fd).map_err(|error| Fault::internal("pass a socket", &error));
    let qmp = inherit(prepared.qmp.listener)?;
    let guest_agent = inherit(prepared.guest_agent.listener)?;
    let serial = inherit(prepared.serial.listener)?;
    let mut nics = Vec::new();
    for (nic, tap) in running.spec.nics.iter().zip(taps) {
        nics.push(NicPlan { name: nic.name.clone(), mac: nic.mac, tap: inherit(tap)? });
    }
    let no_memory = |error: std::io::Error| Fault::internal("make the guest's memory", &error);
    let memory = match memory {
        Some(frozen) => MemoryPlan::Frozen(inherit(frozen.try_clone().map_err(no_memory)?)?),
        None => {
            let file = memory_file(running.boot_memory, Some(record.uid.uid()));
            MemoryPlan::Shared(inherit(file.map_err(no_memory)?)?)
        }
    };
    // A clone shares what it can; the little that is its own lies scattered. A guest that comes from
    // another host has each of its pages looked at as they come, and is held up for as long as the kernel
    // makes room for huge ones: 0.5 to 0.9 s for 512 MiB on a host with little memory in one piece. To an
    // emulated guest they are not worth that.
    let comes = start == Start::Fork && running.accelerator == Accelerator::Tcg;
    let huge_pages = matches!(memory, MemoryPlan::Shared(_)) && !comes;
    let channels = [qmp, guest_agent, serial];
    let files = Files {
        disks: prepared.disks,
        cdroms: prepared.cdroms,
        firmware: prepared.firmware,
        seed: prepared.seed,
        vnc: prepared.sockets.vnc(),
        memory,
    };
    let plan = launch_plan(record, running, files, channels, nics, start);
    let args = command_line(&plan).map_err(|error| Fault::Invalid(chain(&error)))?;
    let spawn = Spawn {
        program: PathBuf::from(QEMU),
        args,
        credentials: credentials(record.uid, running.accelerator),
        lifetime: Lifetime::Detached,
        huge_pages,
        fds,
        cgroup_files: prepared.cgroup_files,
        log: prepared.log,
    };
    let process = spawn.start().map_err(|error| Fault::Qemu(chain(&error)))?;
    let stream = |stream| {
        UnixStream::from_std(stream).map_err(|error| Fault::internal("use a socket", &error))
    };
    let connected = Connected {
        sockets: prepared.sockets,
        dir: prepared.dir,
        qmp: stream(prepared.qmp.stream)?,
        guest_agent: stream(prepared.guest_agent.stream)?,
        serial: stream(prepared.serial.stream)?,
    };
    Ok((process, connected))
}

/// The VM's own user, which may read images, write protect its memory, and use KVM if that is what
/// runs guests.
pub(super) fn credentials(uid: VmUid, accelerator: Accelerator) -> Credentials {
    let mut groups = vec![IMAGE_GID, USERFAULT_GID];
    if accelerator == Accelerator::Kvm {
        groups.extend(crate::facts::kvm_group());
    }
    Credentials::User { uid: uid.uid(), gid: uid.gid(), groups }
}

/// What of a plan lies in files.
struct Files {
    disks: Vec<DiskPlan>,
    cdroms: Vec<CdromPlan>,
    firmware: FirmwarePlan,
    seed: Option<PathBuf>,
    vnc: PathBuf,
    memory: MemoryPlan,
}

fn launch_plan(
    record: &VmRecord,
    running: &Running,
    files: Files,
    [qmp, guest_agent, serial]: [ChildFd; 3],
    nics: Vec<NicPlan>,
    start: Start,
) -> LaunchPlan {
    let (vm, spec) = (&record.definition.vm, &running.spec);
    LaunchPlan {
        vm: vm.id(),
        name: vm.name().clone(),
        accelerator: running.accelerator,
        cpu_model: spec.cpu_model.clone(),
        cpu_baseline: running.cpu.clone(),
        cpus: spec.cpus,
        memory: running.boot_memory,
        memory_file: files.memory,
        max_memory: running.max_memory,
        room: running.room(),
        firmware: files.firmware,
        boot_order: spec.boot_order.clone(),
        disks: files.disks,
        cdroms: files.cdroms,
        nics,
        seed: files.seed,
        qmp,
        guest_agent,
        serial,
        vnc: files.vnc,
        start,
        generation_id: record.generation(),
    }
}

fn disk_plans(dir: &VmDir, record: &VmRecord, running: &Running) -> Result<Vec<DiskPlan>, Fault> {
    let plan = |disk: &DiskSpec| {
        layers::check(dir, layers::of(record, &disk.name))?;
        let lun = running.luns.get(&disk_id(&disk.name)).copied();
        Ok(DiskPlan { lun, ..disk_plan(dir, record, disk, running.disk_aio) })
    };
    running.spec.disks.iter().map(plan).collect()
}

/// A disk as QEMU is told of it.
pub(super) fn disk_plan(dir: &VmDir, record: &VmRecord, disk: &DiskSpec, aio: DiskAio) -> DiskPlan {
    let layers = layers::of(record, &disk.name);
    let active =
        layers.first().map(|layer| hostler_host::layers::path(dir.datastore(), &layer.file));
    DiskPlan {
        name: disk.name.clone(),
        cache: active.map_or(DiskCache::PageCache, |path| DiskCache::for_file(&path, aio)),
        layers: layers.iter().map(|layer| layers::plan(dir, record, &disk.name, layer)).collect(),
        bus: disk.bus,
        lun: None,
        read_only: false,
    }
}

fn cdrom_plans(
    host: &HostContext,
    record: &VmRecord,
    spec: &VmSpec,
) -> Result<Vec<CdromPlan>, Fault> {
    let plan = |cdrom: &hostler_types::CdromSpec| {
        let image = cdrom.image.map(|image| image_path(host, record, image)).transpose()?;
        Ok(CdromPlan { name: cdrom.name.clone(), image })
    };
    spec.cdroms.iter().map(plan).collect()
}

/// The firmware's code is the host's; the variables are a copy of the VM's own, made at the first
/// start.
fn firmware_plan(
    host: &HostContext,
    dir: &VmDir,
    record: &VmRecord,
    spec: &VmSpec,
) -> Result<FirmwarePlan, Fault> {
    if spec.firmware == Firmware::Bios {
        return Ok(FirmwarePlan::Bios);
    }
    let (code, template) = host.facts.uefi()?;
    let vars = dir.nvram();
    if !vars.exists() {
        let failed = |error: std::io::Error| Fault::internal("make UEFI variables", &error);
        let bytes = std::fs::read(&template).map_err(failed)?;
        let access =
            hostler_host::Access { mode: 0o600, uid: record.uid.uid(), gid: record.uid.gid() };
        hostler_host::write_atomic(&vars, &bytes, access).map_err(failed)?;
    }
    Ok(FirmwarePlan::Uefi { code, vars })
}

/// Waits for QEMU's greeting, or for its end.
async fn greet(
    process: &Process,
    stream: UnixStream,
    sockets: &Sockets,
) -> Result<(Qmp, Events), Fault> {
    let options = Options { greeting_timeout: COME_UP, ..Options::default() };
    let connected = tokio::select! {
        biased;
        connected = Qmp::connect(stream, options) => connected,
        _ = process.exited() => Err(hostler_qmp::QmpError::NoGreeting { after: COME_UP }),
    };
    let failed = |what: String| Fault::Qemu(format!("{what}{}", sockets.last_words()));
    match connected {
        Ok((qmp, events)) => {
            qmp.execute(QueryStatus).await.map_err(|error| failed(chain(&error)))?;
            Ok((qmp, events))
        }
        // Its last words say more than that it went.
        Err(_) if process.try_exited().is_some() => Err(failed("QEMU did not start".to_owned())),
        Err(error) => Err(failed(chain(&error))),
    }
}
