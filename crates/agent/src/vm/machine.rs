//! A running QEMU as its VM's actor holds it: process, monitor, guest agent, console.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream as BlockingStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hostler_host::VmUid;
use hostler_qemu::{GUEST_AGENT_PORT, Process};
use hostler_qmp::event::Event;
use hostler_qmp::guest::{GuestAgent, GuestOptions, sanitize};
use hostler_qmp::{Events, EventsError, Options, Qmp};
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::console::Console;
use super::exit::Ending;
use super::guest::Port;
use super::record::ProcessId;
use crate::fault::{Fault, chain};

/// Connecting to a QEMU that runs already.
const GREETING: Duration = Duration::from_secs(5);
/// What of QEMU's last words is passed on, in bytes and in characters.
const LAST_WORDS: u64 = 4 << 10;
const SHOWN: usize = 500;

/// A QEMU and all connections to it.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(super) process: Process,
    pub(super) live: Arc<Live>,
    events: Events,
    /// The monitor's connection is gone; only the process's end is waited for.
    deaf: bool,
    port: watch::Sender<Port>,
    sockets: Sockets,
    pub(super) ending: Option<Ending>,
    /// Why the guest is about to stand still.
    pub(super) pause_reason: Option<String>,
    /// Pauses of our own, which are nobody's business.
    expected_pauses: u32,
}

/// A process whose monitor answers.
#[derive(Debug)]
pub(super) struct Launched {
    pub(super) process: Process,
    pub(super) monitor: (Qmp, Events),
    pub(super) guest_agent: UnixStream,
    pub(super) serial: UnixStream,
    pub(super) sockets: Sockets,
    pub(super) console_log: PathBuf,
}

impl Launched {
    pub(super) fn id(&self) -> ProcessId {
        process_id(&self.process, &self.sockets)
    }

    pub(super) fn qmp(&self) -> &Qmp {
        &self.monitor.0
    }
}

fn process_id(process: &Process, sockets: &Sockets) -> ProcessId {
    let (pid, start_time, place) = (process.pid(), process.start_time(), sockets.place);
    ProcessId { pid, start_time, place }
}

/// What others than the actor may use of a running VM.
#[derive(Debug)]
pub(crate) struct Live {
    pub(super) qmp: Qmp,
    pub(super) agent: GuestAgent,
    pub(super) console: Console,
    vnc: PathBuf,
}

#[derive(Debug)]
pub(super) enum MachineEvent {
    Qmp(Event),
    /// The monitor's connection broke.
    Lost,
    Exited,
}

impl Machine {
    /// Takes over the connections to a process.
    pub(super) fn new(launched: Launched, port_open: Option<bool>) -> Self {
        let console = |serial, log| Console::open(serial, log);
        Self::with_console(launched, port_open, console)
    }

    /// Takes over the connections to a process that has taken this one's place: who looks at the
    /// console goes on looking at it.
    pub(super) fn succeeded_by(&self, launched: Launched) -> Self {
        let console = |serial, _| {
            self.live.console.go_on(serial);
            self.live.console.clone()
        };
        Self::with_console(launched, self.port_open(), console)
    }

    fn with_console(
        launched: Launched,
        port_open: Option<bool>,
        console: impl FnOnce(UnixStream, PathBuf) -> Console,
    ) -> Self {
        let Launched { process, monitor, guest_agent, serial, sockets, console_log } = launched;
        let (qmp, events) = monitor;
        let live = Live {
            qmp,
            agent: GuestAgent::new(guest_agent, GuestOptions::default()),
            console: console(serial, console_log),
            vnc: sockets.vnc(),
        };
        let (port, _) = watch::channel(Port { open: port_open, hints: 0, becoming: false });
        Self {
            process,
            live: Arc::new(live),
            events,
            deaf: false,
            port,
            sockets,
            ending: None,
            pause_reason: None,
            expected_pauses: 0,
        }
    }

    /// Connects to a QEMU that the agent's predecessor started.
    pub(super) async fn attach(
        process: Process,
        sockets: Sockets,
        console_log: PathBuf,
    ) -> Result<Self, Fault> {
        let monitor = sockets.monitor().await?;
        let guest_agent = connect(&sockets.guest_agent()).await?;
        let serial = connect(&sockets.serial()).await?;
        let launched = Launched { process, monitor, guest_agent, serial, sockets, console_log };
        Ok(Self::new(launched, None))
    }

    /// What happens next. Cancel safe.
    pub(super) async fn next(&mut self) -> MachineEvent {
        if self.deaf {
            self.process.exited().await;
            return MachineEvent::Exited;
        }
        loop {
            tokio::select! {
                biased;
                event = self.events.recv() => match event {
                    Ok(event) => return MachineEvent::Qmp(event.event),
                    Err(EventsError::Lagged { missed }) => {
                        tracing::warn!(missed, "QEMU talks faster than we listen");
                    }
                    Err(_) => {
                        self.deaf = true;
                        // Its end closes the connection; give it a moment to be seen as such.
                        let moment = Duration::from_millis(500);
                        let exited = tokio::time::timeout(moment, self.process.exited());
                        return match exited.await {
                            Ok(_) => MachineEvent::Exited,
                            Err(_) => MachineEvent::Lost,
                        };
                    }
                },
                _ = self.process.exited() => return MachineEvent::Exited,
            }
        }
    }

    /// QEMU stands still after its guest has ended; this ends it too. Its process's end is seen
    /// by [`Machine::next`].
    pub(super) fn end_in_background(&self) {
        let (qmp, process) = (self.live.qmp.clone(), self.process.clone());
        tokio::spawn(async move {
            if let Err(error) = hostler_qemu::power_off(&qmp, &process).await {
                tracing::error!(pid = process.pid(), error = chain(&error), "QEMU does not end");
            }
        });
    }

    /// Connects to the monitor anew.
    pub(super) async fn reconnect(&mut self) -> Result<(), Fault> {
        let (qmp, events) = self.sockets.monitor().await?;
        let live = Live {
            qmp,
            agent: self.live.agent.clone(),
            console: self.live.console.clone(),
            vnc: self.live.vnc.clone(),
        };
        self.live = Arc::new(live);
        self.events = events;
        self.deaf = false;
        Ok(())
    }

    /// The guest will stand still for a moment.
    pub(super) fn expect_pause(&mut self) {
        self.expected_pauses += 1;
    }

    /// What was expected does not come any more.
    pub(super) fn forget_expected_pauses(&mut self) {
        self.expected_pauses = 0;
    }

    /// Whether the guest's standing still was expected.
    pub(super) fn is_expected_pause(&mut self) -> bool {
        let expected = self.expected_pauses > 0;
        self.expected_pauses = self.expected_pauses.saturating_sub(1);
        expected
    }

    pub(super) fn id(&self) -> ProcessId {
        process_id(&self.process, &self.sockets)
    }

    pub(super) fn port(&self) -> watch::Receiver<Port> {
        self.port.subscribe()
    }

    pub(super) fn port_open(&self) -> Option<bool> {
        self.port.borrow().open
    }

    pub(super) fn port_changed(&self, port: &str, open: bool) {
        if port == GUEST_AGENT_PORT {
            self.port.send_if_modified(|port| port.open.replace(open) != Some(open));
        }
    }

    /// The guest takes, or has taken, an identity of its own.
    pub(super) fn becomes(&self, becoming: bool) {
        self.port.send_modify(|port| port.becoming = becoming);
    }

    /// Something happened that may have changed the guest's addresses.
    pub(super) fn port_hint(&self) {
        self.port.send_modify(|port| port.hints += 1);
    }

    /// What QEMU said before it ended, ready to be appended to a sentence.
    pub(super) fn last_words(&self) -> String {
        self.sockets.last_words()
    }
}

impl Live {
    /// Connects to QEMU's VNC server. Its socket lies where QEMU can write, so a QEMU that a guest
    /// has taken over could put something else there.
    pub(super) async fn connect_vnc(&self) -> Result<UnixStream, Fault> {
        connect_without_links(&self.vnc).await
    }
}

/// Connects to a socket by a path whose last part nobody can turn into a link meanwhile: the path
/// is opened without following any, and what was opened is connected to, if it is a socket.
async fn connect_without_links(path: &Path) -> Result<UnixStream, Fault> {
    use rustix::fs::{FileType, Mode, OFlags, fstat, open};
    let failed = |error: io::Error| Fault::Qemu(format!("the screen cannot be reached: {error}"));
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = open(path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
    let mode = fstat(&fd).map_err(|error| failed(error.into()))?.st_mode;
    if FileType::from_raw_mode(mode) != FileType::Socket {
        return Err(failed(io::Error::other("it is not a socket")));
    }
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    connect(Path::new(&path)).await
}

/// The runtime directory of one VM.
///
/// ```text
/// <vm-id>/            root, others may pass
///   monitor/          root alone: qmp.sock, qga.sock, serial.sock, qemu.log
///   screen/           the VM's user alone: vnc.sock, screenshots
///   1/                the same for a process that took the first one's place, and so on
/// ```
#[derive(Debug, Clone)]
pub(super) struct Sockets {
    dir: PathBuf,
    place: u32,
}

/// The listening ends that QEMU gets, each with a connection that is made already: QEMU answers on
/// it as soon as it is up, and nobody has to try again and again.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) listener: OwnedFd,
    pub(super) stream: BlockingStream,
}

impl Sockets {
    /// In the VM's directory, for its process of this place.
    pub(super) fn new(vm: PathBuf, place: u32) -> Self {
        let dir = if place == 0 { vm } else { vm.join(place.to_string()) };
        Self { dir, place }
    }

    /// Makes the directories anew. Blocks.
    pub(super) fn create(&self, owner: VmUid) -> io::Result<()> {
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        DirBuilder::new().mode(0o711).create(&self.dir)?;
        // The umask may have taken the right to pass away.
        fs::set_permissions(&self.dir, fs::Permissions::from_mode(0o711))?;
        DirBuilder::new().mode(0o700).create(self.private())?;
        DirBuilder::new().mode(0o700).create(self.screen())?;
        std::os::unix::fs::chown(self.screen(), Some(owner.uid()), Some(owner.gid()))
    }

    pub(super) fn bind(&self, socket: &Path) -> io::Result<Bound> {
        let listener = UnixListener::bind(socket)?;
        fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
        let stream = BlockingStream::connect(socket)?;
        stream.set_nonblocking(true)?;
        Ok(Bound { listener: listener.into(), stream })
    }

    pub(super) fn log_file(&self) -> io::Result<fs::File> {
        OpenOptions::new().create(true).append(true).mode(0o600).open(self.log())
    }

    pub(super) fn qmp(&self) -> PathBuf {
        self.private().join("qmp.sock")
    }
    pub(super) fn guest_agent(&self) -> PathBuf {
        self.private().join("qga.sock")
    }
    pub(super) fn serial(&self) -> PathBuf {
        self.private().join("serial.sock")
    }
    pub(super) fn vnc(&self) -> PathBuf {
        self.screen().join("vnc.sock")
    }
    pub(super) fn screen(&self) -> PathBuf {
        self.dir.join("screen")
    }
    fn private(&self) -> PathBuf {
        self.dir.join("monitor")
    }
    fn log(&self) -> PathBuf {
        self.private().join("qemu.log")
    }

    /// `: …` with the end of QEMU's log, or nothing. QEMU may be repeating what a guest made it
    /// say, so it is cleaned.
    pub(super) fn last_words(&self) -> String {
        let read = || -> io::Result<String> {
            let mut file = fs::File::open(self.log())?;
            let length = file.metadata()?.len();
            io::Seek::seek(&mut file, io::SeekFrom::Start(length.saturating_sub(LAST_WORDS)))?;
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut io::Read::take(file, LAST_WORDS), &mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let text = sanitize(&read().unwrap_or_default(), usize::MAX);
        let skip = text.chars().count().saturating_sub(SHOWN);
        let text: String = text.chars().skip(skip).collect();
        if text.is_empty() { text } else { format!(": {text}") }
    }

    async fn monitor(&self) -> Result<(Qmp, Events), Fault> {
        let options = Options { greeting_timeout: GREETING, ..Options::default() };
        Qmp::connect(connect(&self.qmp()).await?, options)
            .await
            .map_err(|error| Fault::Qemu(chain(&error)))
    }
}

async fn connect(path: &Path) -> Result<UnixStream, Fault> {
    match tokio::time::timeout(GREETING, UnixStream::connect(path)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(Fault::Qemu(format!("cannot connect to QEMU: {error}"))),
        Err(_) => Err(Fault::Timeout { what: "connecting to QEMU".to_owned(), after: GREETING }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_short_and_clean() {
        let dir = tempfile::tempdir().unwrap();
        let sockets = Sockets::new(dir.path().join("vm"), 0);
        assert_eq!(sockets.last_words(), "");
        sockets.create(VmUid::from_slot(0).unwrap()).unwrap();
        let noise = format!("{}\x1b[31mqemu: no such disk\x1b[0m\n", "x\n".repeat(10_000));
        fs::write(sockets.log(), noise).unwrap();
        let words = sockets.last_words();
        assert!(words.ends_with("qemu: no such disk"), "{words}");
        assert!(words.chars().count() <= SHOWN + 2 && !words.contains('\x1b'), "{words}");
    }

    #[tokio::test]
    async fn a_socket_swapped_for_a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, link) = (dir.path().join("socket"), dir.path().join("link"));
        let file = dir.path().join("file");
        let _listener = UnixListener::bind(&socket).unwrap();
        std::os::unix::fs::symlink(&socket, &link).unwrap();
        fs::write(&file, "").unwrap();
        assert!(connect_without_links(&socket).await.is_ok());
        for bad in [&link, &file, &dir.path().join("nothing")] {
            assert!(connect_without_links(bad).await.is_err(), "{}", bad.display());
        }
    }

    #[test]
    fn only_root_reaches_the_monitor() {
        let dir = tempfile::tempdir().unwrap();
        let sockets = Sockets::new(dir.path().join("vm"), 0);
        sockets.create(VmUid::from_slot(0).unwrap()).unwrap();
        sockets.bind(&sockets.qmp()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&sockets.private()), mode(&sockets.qmp())), (0o700, 0o600));
    }
}
