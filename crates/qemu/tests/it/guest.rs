//! A guest from power-on to power-off, with a suspension between, as an unprivileged user.

use std::{
    fs::{self, File, OpenOptions},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            fs::{OpenOptionsExt, PermissionsExt},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use hostler_qemu::{
    CdromPlan, Credentials, DiskAio, DiskCache, DiskPlan, Exit, FirmwarePlan, GUEST_AGENT_PORT,
    InheritedFds, LaunchPlan, LayerPlan, Lifetime, MemoryPlan, MonitorError, Probe, ProbeOptions,
    Process, QEMU, SavedState, Spawn, Start, command_line, power_off, probe, resume_from,
    screenshot, suspend_to,
};
use hostler_qmp::{
    CloseReason, Events, EventsError, Options, Qmp,
    command::{
        Cont, DeviceAdd, QueryChardev, QueryCpusFast, QueryNamedBlockNodes, QueryStatus, RunState,
        Stop, SystemPowerdown,
    },
    event::{Event, ShutdownCause},
    guest::{ExecRequest, GetOsinfo, GuestAgent, GuestOptions, Ping, ShutdownMode},
};
use hostler_types::{BootDevice, ByteSize, DiskBus};
use serde_json::json;
use tempfile::TempDir;
use tokio::{io::AsyncReadExt, net::UnixStream};

use crate::command_line::small;

/// A boot under emulation takes 4 s alone, and more beside other tests.
pub(crate) const BOOT: Duration = Duration::from_secs(120);

fn tiny_image() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || Path::new(&std::env::var_os("HOME").unwrap()).join(".cache"),
        PathBuf::from,
    );
    let image = cache.join("hostler/images/tiny.qcow2");
    assert!(image.exists(), "no {}: run scripts/build-image tiny", image.display());
    image
}

/// A VM's files, and the sockets of its present process.
pub(crate) struct Machine {
    pub(crate) dir: TempDir,
    pub(crate) probe: Probe,
    pub(crate) process: Process,
    pub(crate) qmp: Qmp,
    events: Events,
    pub(crate) guest: GuestAgent,
    serial: UnixStream,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.process.kill();
    }
}

fn credentials() -> Credentials {
    if rustix::process::geteuid().is_root() {
        Credentials::User { uid: 1_900_000_010, gid: 1_900_000_010, groups: Vec::new() }
    } else {
        Credentials::Inherit
    }
}

impl Machine {
    pub(crate) async fn boot() -> Self {
        let (dir, probe) = Self::prepare().await;
        Self::launch(dir, probe, |_, _| {}).await
    }

    /// The disk, and what the host can do.
    pub(crate) async fn prepare() -> (TempDir, Probe) {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        // The cache lies in a home directory that QEMU's user cannot enter.
        fs::copy(tiny_image(), dir.path().join("base.qcow2")).unwrap();
        let created = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "base.qcow2", "root.qcow2"])
            .current_dir(dir.path())
            .status()
            .unwrap();
        assert!(created.success());
        for file in ["base.qcow2", "root.qcow2"] {
            let mode = fs::Permissions::from_mode(0o666);
            fs::set_permissions(dir.path().join(file), mode).unwrap();
        }
        let options = ProbeOptions {
            credentials: credentials(),
            limit: Duration::from_secs(3),
            ..ProbeOptions::default()
        };
        let probe = probe(&options).await.unwrap();
        (dir, probe)
    }

    pub(crate) async fn launch(
        dir: TempDir,
        probe: Probe,
        change: impl FnOnce(&mut LaunchPlan, &Path),
    ) -> Self {
        let mut fds = InheritedFds::default();
        let mut sockets = Vec::new();
        for name in ["qmp", "agent", "serial"] {
            let path = dir.path().join(name);
            let _ = fs::remove_file(&path);
            let listener = UnixListener::bind(&path).unwrap();
            let stream = UnixStream::connect(&path).await.unwrap();
            sockets.push((fds.add(listener).unwrap(), stream));
        }
        let [(qmp_fd, qmp), (agent_fd, agent), (serial_fd, serial)] = sockets.try_into().unwrap();
        let path = dir.path().join("root.qcow2");
        let uid = match credentials() {
            Credentials::User { uid, .. } => Some(uid),
            Credentials::Inherit => None,
        };
        let mut plan = LaunchPlan {
            accelerator: probe.accelerator,
            memory: ByteSize::mib(256),
            disks: vec![DiskPlan {
                name: "root".parse().unwrap(),
                bus: DiskBus::VirtioBlk,
                lun: None,
                read_only: false,
                cache: DiskCache::for_file(&path, DiskAio::Native),
                layers: vec![
                    layer("root", path, false),
                    layer("base", dir.path().join("base.qcow2"), true),
                ],
            }],
            nics: vec![],
            seed: None,
            qmp: qmp_fd,
            guest_agent: agent_fd,
            serial: serial_fd,
            vnc: dir.path().join("vnc"),
            ..small()
        };
        change(&mut plan, dir.path());
        let memory = hostler_qemu::fork::memory_file(plan.memory, uid).unwrap();
        plan.memory_file = MemoryPlan::Shared(fds.add(memory).unwrap());
        let log = dir.path().join("qemu.log");
        let spawn = Spawn {
            program: QEMU.into(),
            args: command_line(&plan).unwrap(),
            credentials: credentials(),
            lifetime: Lifetime::Detached,
            huge_pages: true,
            fds,
            cgroup_files: Vec::new(),
            log: OpenOptions::new().create(true).append(true).open(&log).unwrap(),
        };
        let process = spawn.start().unwrap();
        let connected = Qmp::connect(qmp, Options::default()).await;
        let Ok((qmp, events)) = connected else {
            panic!("{connected:?}: {}", fs::read_to_string(log).unwrap())
        };
        let guest = GuestAgent::new(agent, GuestOptions::default());
        Self { dir, probe, process, qmp, events, guest, serial }
    }

    pub(crate) async fn agent_opens(&mut self) {
        self.events
            .wait_for(BOOT, |event| match event {
                Event::VserportChange(port) if port.open => {
                    assert_eq!(port.id, GUEST_AGENT_PORT);
                    Some(())
                }
                _ => None,
            })
            .await
            .unwrap();
        self.guest.execute_within(Ping, BOOT).await.unwrap();
    }

    pub(crate) async fn run(&self, program: &str, args: &[&str]) -> String {
        let request = ExecRequest::new(program).args(args.iter().copied());
        let output = self.guest.exec(request).await.unwrap();
        assert_eq!(output.exit_code, Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Waits until the guest has shut down, and ends QEMU.
    async fn end(&mut self) -> ShutdownCause {
        let cause = self.events.wait_for(BOOT, |event| match event {
            Event::Shutdown(shutdown) => Some(shutdown.reason.clone()),
            _ => None,
        });
        let cause = cause.await.unwrap();
        assert_eq!(self.process.try_exited(), None);
        assert_eq!(self.qmp.execute(QueryStatus).await.unwrap().status, RunState::Shutdown);
        power_off(&self.qmp, &self.process).await.unwrap();
        assert_eq!(self.process.exited().await, Exit::Code(0));
        cause
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("qemu.log")).unwrap()
    }
}

fn full_file() -> OwnedFd {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = memfd_create("full", flags).unwrap();
    fcntl_add_seals(&memory, SealFlags::GROW).unwrap();
    let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
    OpenOptions::new().write(true).open(path).unwrap().into()
}

#[tokio::test]
async fn qemu_guest_boots_suspends_resumes_and_powers_off() {
    let mut machine = Machine::boot().await;
    machine.agent_opens().await;
    assert_eq!(machine.qmp.execute(QueryStatus).await.unwrap().status, RunState::Running);
    let chardevs = machine.qmp.execute(QueryChardev).await.unwrap();
    assert!(chardevs.iter().any(|chardev| chardev.label == "agent0" && chardev.frontend_open));
    assert!(machine.guest.execute(GetOsinfo).await.unwrap().kernel_release.is_some());
    let mut serial = [0; 64];
    let read = tokio::time::timeout(BOOT, machine.serial.read(&mut serial)).await;
    assert!(read.unwrap().unwrap() > 0);
    let picture = screenshot(&machine.qmp).await.unwrap();
    assert_eq!(picture[1..4], *b"PNG");
    machine.run("/bin/busybox", &["sh", "-c", "echo kept > /tmp/kept"]).await;

    // A file that cannot grow, as on a full disk: the guest goes on.
    let failed = suspend_to(&machine.qmp, full_file(), BOOT).await.unwrap_err();
    assert!(matches!(failed, MonitorError::Transfer(_)), "{failed:?}");
    assert_eq!(machine.qmp.execute(QueryStatus).await.unwrap().status, RunState::Running);
    assert_eq!(machine.run("/bin/busybox", &["cat", "/tmp/kept"]).await, "kept\n");

    // Into a file that QEMU's user could not open, and out of it into another process.
    let state = machine.dir.path().join("suspend.state");
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&state).unwrap();
    suspend_to(&machine.qmp, written.into(), BOOT).await.unwrap();
    power_off(&machine.qmp, &machine.process).await.unwrap();
    assert_eq!(machine.process.try_exited(), Some(Exit::Code(0)), "{}", machine.log());

    let (dir, probe) =
        (std::mem::replace(&mut machine.dir, tempfile::tempdir().unwrap()), machine.probe.clone());
    let mut machine = Machine::launch(dir, probe, |plan, _| plan.start = Start::Resume).await;
    assert_eq!(machine.qmp.execute(QueryStatus).await.unwrap().status, RunState::Inmigrate);
    resume_from(&machine.qmp, File::open(&state).unwrap().into(), SavedState::Mapped, BOOT)
        .await
        .unwrap();
    machine.guest.execute_within(Ping, BOOT).await.unwrap();
    assert_eq!(machine.run("/bin/busybox", &["cat", "/tmp/kept"]).await, "kept\n");

    machine.guest.shutdown(ShutdownMode::Powerdown).await.unwrap();
    assert_eq!(machine.end().await, ShutdownCause::GuestShutdown);
    // QEMU complains of the file that could not grow, and of nothing that it was started with.
    let log = machine.log();
    let complaints = log.lines().filter(|line| !line.contains("ram_save_setup failed"));
    assert_eq!(complaints.collect::<Vec<_>>(), Vec::<&str>::new());
}

#[tokio::test]
async fn qemu_guest_obeys_the_power_button() {
    let mut machine = Machine::boot().await;
    machine.agent_opens().await;
    machine.qmp.execute(Stop).await.unwrap();
    machine.qmp.execute(Cont).await.unwrap();
    let qmp = machine.qmp.clone();
    let pressing = async {
        // A guest that is busy booting may miss a press.
        loop {
            qmp.execute(SystemPowerdown).await.unwrap();
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    };
    let cause = tokio::select! {
        cause = machine.end() => cause,
        never = pressing => never,
    };
    assert_eq!(cause, ShutdownCause::GuestShutdown);
}

pub(crate) fn layer(node: &str, path: PathBuf, shared: bool) -> LayerPlan {
    LayerPlan { node: format!("l-{node}"), path, shared }
}

/// Everything that a plan can have but network cards, whose taps only root can make.
fn everything(plan: &mut LaunchPlan, dir: &Path) {
    let blank = |name: &str, size: &str| {
        let path = dir.join(name);
        let create = ["create", "-q", "-f", if name.ends_with("iso") { "raw" } else { "qcow2" }];
        assert!(
            Command::new("qemu-img").args(create).arg(&path).arg(size).status().unwrap().success()
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        path
    };
    let disk = |name: &str, bus, read_only| DiskPlan {
        name: name.parse().unwrap(),
        layers: vec![layer(&name[..4], blank(&format!("{name}.qcow2"), "8M"), false)],
        bus,
        lun: None,
        read_only,
        cache: DiskCache::PageCache,
    };
    // What the header says is beneath it must not be opened.
    plan.disks[0].layers.truncate(1);
    plan.disks.push(disk("data", DiskBus::VirtioBlk, true));
    plan.disks.push(disk(&"long".repeat(15), DiskBus::VirtioScsi, false));
    plan.disks.push(disk("fixed", DiskBus::VirtioScsi, true));
    plan.cdroms = vec![
        CdromPlan { name: "cd0".parse().unwrap(), image: Some(blank("cd.iso", "1M")) },
        CdromPlan { name: "cd1".parse().unwrap(), image: None },
    ];
    plan.seed = Some(blank("seed.iso", "64K"));
    plan.cpus = 3.try_into().unwrap();
    plan.memory = ByteSize::mib(3072);
    plan.max_memory = LaunchPlan::free_max_memory(plan.memory);
    plan.boot_order = vec![BootDevice::Cdrom, BootDevice::Disk, BootDevice::Network];
    let vars = dir.join("nvram.fd");
    fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", &vars).unwrap();
    fs::set_permissions(&vars, fs::Permissions::from_mode(0o666)).unwrap();
    plan.firmware = FirmwarePlan::Uefi { code: "/usr/share/OVMF/OVMF_CODE_4M.fd".into(), vars };
    plan.start = Start::Resume;
}

#[tokio::test]
async fn qemu_accepts_everything_at_once() {
    let (dir, probe) = Machine::prepare().await;
    let machine = Machine::launch(dir, probe, everything).await;
    let qmp = &machine.qmp;
    let nodes = qmp.execute(QueryNamedBlockNodes { flat: Some(true) }).await.unwrap();
    let files: Vec<&str> = nodes.iter().map(|node| node.file.as_str()).collect();
    assert!(files.iter().any(|file| file.ends_with("root.qcow2")), "{files:?}");
    assert!(!files.iter().any(|file| file.contains("base.qcow2")), "{files:?}");
    assert!(nodes.iter().any(|node| node.node_name.as_deref() == Some("l-long")));
    // Where hot-plug will put what is added.
    let spare =
        json!({ "driver": "virtio-rng-pci", "rng": "rng-source0", "id": "more", "bus": "spare7" });
    qmp.execute(DeviceAdd(spare)).await.unwrap();
    assert_eq!(qmp.execute(QueryCpusFast).await.unwrap().len(), 3);
    power_off(qmp, &machine.process).await.unwrap();
    assert_eq!(machine.process.exited().await, Exit::Code(0), "{}", machine.log());
}

#[tokio::test]
async fn qemu_that_is_killed_is_gone_without_a_word() {
    let (dir, probe) = Machine::prepare().await;
    let mut machine = Machine::launch(dir, probe, |_, _| {}).await;
    machine.process.kill().unwrap();
    assert_eq!(machine.process.exited().await, Exit::Signal(9));
    assert!(matches!(machine.qmp.closed().await, CloseReason::Ended));
    let shutdown = |event: &Event| matches!(event, Event::Shutdown(_)).then_some(());
    let heard = machine.events.wait_for(BOOT, shutdown).await;
    assert!(matches!(heard, Err(EventsError::Closed(_))), "{heard:?}");
    power_off(&machine.qmp, &machine.process).await.unwrap();
}
