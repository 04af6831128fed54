//! The console in a terminal: a pty whose settings must be as before, however it ends.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use crate::fake::Fake;
use crate::process::Run;
use crate::world;

/// `hostler vm console web01` on a terminal.
struct Terminal {
    _fake: Fake,
    child: Child,
    keys: File,
    screen: mpsc::Receiver<Vec<u8>>,
    shown: String,
    handle: OwnedFd,
    before: LocalModes,
}

impl Terminal {
    fn start() -> Self {
        let fake = Fake::start().with_vm(world::vm("web01", 0x10));
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let name = ptsname(&controller, Vec::new()).unwrap();
        let handle = open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let before = tcgetattr(&handle).unwrap().local_modes;
        let end = || Stdio::from(handle.try_clone().unwrap());
        let child = fake
            .command(&["vm", "console", "web01"])
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        let keys = File::from(controller);
        let mut reader = keys.try_clone().unwrap();
        let (sender, screen) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            while let Ok(length) = reader.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { _fake: fake, child, keys, screen, shown: String::new(), handle, before }
    }

    /// Waits until the screen shows this.
    fn shows(&mut self, text: &str) {
        while !self.shown.contains(text) {
            let bytes = self.screen.recv_timeout(Duration::from_secs(10));
            let bytes = bytes.unwrap_or_else(|_| panic!("no `{text}` in {:?}", self.shown));
            self.shown.push_str(&String::from_utf8_lossy(&bytes));
        }
    }

    fn types(&mut self, keys: &[u8]) {
        self.keys.write_all(keys).unwrap();
    }

    fn modes(&self) -> LocalModes {
        tcgetattr(&self.handle).unwrap().local_modes
    }

    fn ended(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        assert_eq!(self.modes(), self.before, "the terminal is not as it was");
        while let Ok(bytes) = self.screen.recv_timeout(Duration::from_millis(200)) {
            self.shown.push_str(&String::from_utf8_lossy(&bytes));
        }
        (status, self.shown)
    }
}

#[test]
fn keys_go_to_the_guest_and_ctrl_bracket_leaves() {
    let mut terminal = Terminal::start();
    terminal.shows("Ctrl-] leaves");
    terminal.shows("login: ");
    assert!(!terminal.modes().intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));
    // Ctrl-C and Ctrl-D are the guest's.
    terminal.types(b"abc\x03\x04");
    terminal.shows("ABC");
    terminal.types(b"\x1d");
    let (status, shown) = terminal.ended();
    assert!(status.success(), "{status}: {shown}");
    assert!(!shown.contains("\x1b]"), "the window's title was touched: {shown:?}");
}

#[test]
fn a_signal_leaves_the_terminal_as_it_was() {
    for signal in [Signal::TERM, Signal::HUP, Signal::INT, Signal::QUIT] {
        let mut terminal = Terminal::start();
        terminal.shows("login: ");
        let pid = Pid::from_raw(i32::try_from(terminal.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        let (status, shown) = terminal.ended();
        assert_eq!(status.code(), Some(128 + signal.as_raw()), "{shown}");
    }
}

#[test]
fn a_console_that_the_server_ends_leaves_the_terminal_as_it_was() {
    let mut terminal = Terminal::start();
    terminal.shows("login: ");
    terminal.types(b"bye");
    let (_, shown) = terminal.ended();
    assert!(shown.contains("console was"), "{shown}");
}

#[test]
fn a_script_may_use_a_console_too() {
    let fake = Fake::start().with_vm(world::vm("web01", 0x10));
    let mut command = fake.command(&["vm", "console", "web01"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keys = child.stdin.take().unwrap();
    keys.write_all(b"hello").unwrap();
    let mut shown = [0; 12];
    child.stdout.as_mut().unwrap().read_exact(&mut shown).unwrap();
    assert_eq!(&shown, b"login: HELLO");
    keys.write_all(b"\x1d").unwrap();
    assert_eq!(Run::from(child.wait_with_output().unwrap()).ok(), "");
}
