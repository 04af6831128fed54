//! Finds out which accelerator really runs guests on this host.
//!
//! A `/dev/kvm` that is there, opens and makes machines proves nothing: on some nested hosts the
//! guest then makes no progress. So a guest is run: a firmware of a few instructions that counts
//! for a while and then ends QEMU with a code of its own, under a time limit.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    time::Duration,
};

use hostler_qmp::{
    Options, QemuVersion, Qmp, QmpError,
    command::{BlockdevAdd, Cont, CpuModelInfo, QueryCpuDefinitions, QueryCpuModelExpansion},
};
use hostler_types::{Accelerator, GuestCpu, cpu};
use rustix::fs::MemfdFlags;
use serde_json::json;
use thiserror::Error;
use tokio::{net::UnixStream, time::timeout};
use tracing::debug;

use crate::{
    machine::{MACHINE_TYPE, SANDBOX},
    plan::DiskAio,
    process::{Exit, Process},
    spawn::{Credentials, InheritedFds, Lifetime, Spawn, SpawnError},
};

/// What the guest writes to the exit port; QEMU ends with twice that and one.
const GUEST_CODE: u8 = 0x15;
const EXIT_CODE: i32 = (GUEST_CODE as i32) * 2 + 1;

const EXIT_PORT: u8 = 0xf4;

/// How long a killed process may take to be gone. One that the kernel holds in a device's call
/// may take for ever, and is left to end when it can.
const KILL_TIMEOUT: Duration = Duration::from_secs(1);

/// How the probe runs QEMU.
#[derive(Debug, Clone)]
pub struct ProbeOptions {
    /// The emulator.
    pub program: PathBuf,
    /// As VMs will run: what root can do with `/dev/kvm` proves nothing for them.
    pub credentials: Credentials,
    /// How long the few instructions may take, QEMU's start included.
    pub limit: Duration,
}

impl Default for ProbeOptions {
    fn default() -> Self {
        Self {
            program: PathBuf::from(crate::QEMU),
            credentials: Credentials::Inherit,
            limit: Duration::from_secs(5),
        }
    }
}

/// What the probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The fastest accelerator that works.
    pub accelerator: Accelerator,
    /// QEMU's version, from its monitor.
    pub version: QemuVersion,
    /// How disks are best read and written here.
    pub disk_aio: DiskAio,
    /// What guests can be given of the CPU. Who made it QEMU does not tell.
    pub guest_cpu: GuestCpu,
    /// Why it is not KVM, as a sentence for the operator.
    pub warning: Option<String>,
}

/// Why QEMU cannot run guests here at all.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// It does not start.
    #[error("QEMU does not start")]
    Spawn(#[from] SpawnError),
    /// Its monitor does not work.
    #[error("QEMU's monitor does not answer{}", said(log))]
    Monitor {
        /// What QEMU wrote.
        log: String,
        /// What the monitor's client says.
        #[source]
        source: QmpError,
    },
    /// The guest did not get to its end in time.
    #[error("a guest of a few instructions made no progress within {} s", limit.as_secs_f32())]
    Hang {
        /// The limit.
        limit: Duration,
    },
    /// QEMU ended otherwise than the guest makes it.
    #[error("QEMU ended with {exit:?}{}", said(log))]
    Ended {
        /// How it ended.
        exit: Exit,
        /// What QEMU wrote.
        log: String,
    },
    /// The sockets and files for it could not be made.
    #[error("cannot prepare the probe")]
    Prepare(#[source] io::Error),
}

fn said(log: &str) -> String {
    match log.lines().rfind(|line| !line.trim().is_empty()) {
        Some(line) => format!(", saying: {}", hostler_qmp::guest::sanitize(line, 300)),
        None => String::new(),
    }
}

/// Tries KVM, then emulation.
///
/// # Errors
/// [`ProbeError`] of the emulation, if not even that works.
pub async fn probe(options: &ProbeOptions) -> Result<Probe, ProbeError> {
    let kvm = Path::new("/dev/kvm");
    let warning = if !kvm.exists() {
        "This host has no /dev/kvm: guests are emulated, about 10 times slower.".to_owned()
    } else {
        match run(Accelerator::Kvm, options).await {
            Ok(Ran { version, disk_aio, guest_cpu }) => {
                let accelerator = Accelerator::Kvm;
                return Ok(Probe { accelerator, version, disk_aio, guest_cpu, warning: None });
            }
            Err(error) => format!(
                "/dev/kvm exists but does not run guests ({}): guests are emulated, about 10 \
                 times slower.",
                chain(&error),
            ),
        }
    };
    let Ran { version, disk_aio, guest_cpu } = run(Accelerator::Tcg, options).await?;
    let (accelerator, warning) = (Accelerator::Tcg, Some(warning));
    Ok(Probe { accelerator, version, disk_aio, guest_cpu, warning })
}

/// An error and its sources in one line, for a sentence that is shown.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// What a QEMU that runs guests has told.
#[derive(Debug)]
struct Ran {
    version: QemuVersion,
    disk_aio: DiskAio,
    guest_cpu: GuestCpu,
}

/// Runs the guest on one accelerator.
async fn run(accelerator: Accelerator, options: &ProbeOptions) -> Result<Ran, ProbeError> {
    let mut log = memory_file("probe-log").map_err(ProbeError::Prepare)?;
    let (spawn, stream) = prepare(accelerator, options, &log).map_err(ProbeError::Prepare)?;
    let process = spawn.start()?;
    let outcome = timeout(options.limit, talk(stream, options, &process)).await;
    if process.try_exited().is_none() {
        end(&process).await;
    }
    let limit = options.limit;
    let text = read_log(&mut log);
    match outcome {
        Err(_) | Ok(Err(QmpError::NoGreeting { .. } | QmpError::Timeout { .. })) => {
            Err(ProbeError::Hang { limit })
        }
        Ok(Ok((ran, Exit::Code(EXIT_CODE)))) => Ok(ran),
        Ok(Ok((_, exit))) => Err(ProbeError::Ended { exit, log: text }),
        Ok(Err(source)) => Err(ProbeError::Monitor { log: text, source }),
    }
}

async fn talk(
    stream: UnixStream,
    options: &ProbeOptions,
    process: &Process,
) -> Result<(Ran, Exit), QmpError> {
    let limits = Options { greeting_timeout: options.limit, ..Options::default() };
    let (qmp, _events) = Qmp::connect(stream, limits).await?;
    let (disk_aio, guest_cpu) = (disk_aio(&qmp).await?, guest_cpu(&qmp).await?);
    match qmp.execute_within(Cont, options.limit).await {
        Ok(_) => {}
        // The guest may end QEMU before the answer.
        Err(error) if error.is_closed() => {}
        Err(error) => return Err(error),
    }
    Ok((Ran { version: qmp.version(), disk_aio, guest_cpu }, process.exited().await))
}

/// What a guest gets of `max`, which is all that there is, and the models that it gets wholly.
async fn guest_cpu(qmp: &Qmp) -> Result<GuestCpu, QmpError> {
    let model = CpuModelInfo { name: "max".to_owned(), props: serde_json::Map::new() };
    let all = qmp.execute(QueryCpuModelExpansion { kind: "full", model }).await?.model.props;
    let features = all.into_iter().filter(|(name, has)| has == &json!(true) && cpu::is_known(name));
    let mut features: Vec<_> = features.map(|(name, _)| name).collect();
    features.sort_unstable();
    let models = qmp.execute(QueryCpuDefinitions).await?.into_iter().filter(|definition| {
        let lacking = definition.unavailable_features.as_ref();
        lacking.is_some_and(Vec::is_empty) && cpu::model(&definition.name).is_some()
    });
    let mut models: Vec<_> = models.map(|definition| definition.name).collect();
    models.sort_unstable();
    Ok(GuestCpu { vendor: String::new(), features, models })
}

/// Whether this QEMU is built with `io_uring`. Where the kernel keeps it from QEMU, QEMU itself falls
/// back to a pool of threads.
async fn disk_aio(qmp: &Qmp) -> Result<DiskAio, QmpError> {
    let node = json!({
        "driver": "file", "node-name": "probe", "filename": "/proc/self/exe", "read-only": true,
        "auto-read-only": false, "aio": "io_uring",
    });
    match qmp.execute(BlockdevAdd(node)).await {
        Ok(_) => Ok(DiskAio::Ring),
        Err(QmpError::Refused { description, .. }) => {
            debug!(description, "no io_uring");
            Ok(DiskAio::Native)
        }
        Err(error) => Err(error),
    }
}

/// Kills, and waits for the end as long as that is reasonable. Afterwards a task waits, so that
/// no zombie is left.
pub(crate) async fn end(process: &Process) {
    if let Err(error) = process.kill() {
        debug!(error = &error as &dyn std::error::Error, "cannot kill the probe");
    }
    if timeout(KILL_TIMEOUT, process.exited()).await.is_err() {
        let process = process.clone();
        tokio::spawn(async move { process.exited().await });
    }
}

fn prepare(
    accelerator: Accelerator,
    options: &ProbeOptions,
    log: &File,
) -> io::Result<(Spawn, UnixStream)> {
    let (listener, stream) = listening_socket("probe")?;
    let mut blob = memory_file("probe-firmware")?;
    blob.write_all(&firmware())?;
    let mut fds = InheritedFds::default();
    let qmp = fds.add(listener)?.number();
    let blob = fds.add(blob)?.number();
    let args = [
        "-nodefaults".to_owned(),
        "-no-user-config".to_owned(),
        "-sandbox".to_owned(),
        SANDBOX.to_owned(),
        "-S".to_owned(),
        "-display".to_owned(),
        "none".to_owned(),
        "-machine".to_owned(),
        MACHINE_TYPE.to_owned(),
        "-accel".to_owned(),
        accelerator.as_str().to_owned(),
        "-m".to_owned(),
        "16M".to_owned(),
        "-chardev".to_owned(),
        format!("socket,id=qmp,fd={qmp},server=on,wait=off"),
        "-mon".to_owned(),
        "chardev=qmp,mode=control".to_owned(),
        // A memfd's name under /proc can be opened again by its number.
        "-bios".to_owned(),
        format!("/proc/self/fd/{blob}"),
        "-device".to_owned(),
        format!(r#"{{"driver":"isa-debug-exit","iobase":{EXIT_PORT},"iosize":4}}"#),
    ];
    let spawn = Spawn {
        program: options.program.clone(),
        args: args.into_iter().map(OsString::from).collect(),
        credentials: options.credentials.clone(),
        lifetime: Lifetime::WithParent,
        huge_pages: true,
        fds,
        cgroup_files: Vec::new(),
        log: log.try_clone()?,
    };
    Ok((spawn, stream))
}

/// A listening socket and a client connected to it. The kernel chooses an abstract name, so
/// nothing is left in any directory.
pub(crate) fn listening_socket(what: &str) -> io::Result<(UnixListener, UnixStream)> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen};
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let name = format!("hostler-{what}-{}", uuid::Uuid::now_v7());
    bind(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
    listen(&socket, 1)?;
    let listener = UnixListener::from(socket);
    let client = std::os::unix::net::UnixStream::connect_addr(&listener.local_addr()?)?;
    client.set_nonblocking(true)?;
    Ok((listener, UnixStream::from_std(client)?))
}

pub(crate) fn memory_file(name: &str) -> io::Result<File> {
    let file = File::from(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?);
    // QEMU's user opens it by name.
    rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o666))?;
    Ok(file)
}

/// The beginning of what QEMU wrote.
pub(crate) fn read_log(log: &mut File) -> String {
    let mut bytes = Vec::new();
    // What cannot be read is not shown.
    let _ = log.seek(SeekFrom::Start(0));
    let _ = log.take(16 << 10).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// 64 KiB of firmware, of which a few bytes run: the processor begins at the last 16.
fn firmware() -> Vec<u8> {
    const SIZE: usize = 64 << 10;
    const RESET: usize = SIZE - 16;
    // In 16-bit mode:
    let start = [
        0x66, 0xb9, 0x00, 0x00, 0x10, 0x00, // mov ecx, 1 << 20
        0x66, 0x49, //                         dec ecx
        0x75, 0xfc, //                         jnz to the dec
        0xb0, GUEST_CODE, //                   mov al, code
        0xe6, EXIT_PORT, //                    out port, al
        0xf4,      //                               hlt
        0xeb, 0xfd, //                         jmp to the hlt
    ];
    let reset = [0xea, 0x00, 0x00, 0x00, 0xf0]; // jmp far f000:0000, the blob's beginning
    let mut blob = vec![0xf4; SIZE];
    blob[..start.len()].copy_from_slice(&start);
    blob[RESET..RESET + reset.len()].copy_from_slice(&reset);
    blob
}
