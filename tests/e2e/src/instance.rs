//! A server with its local agent, started as users start it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::leftovers::{Leftovers, processes};
use crate::{Namespace, appliance_dir, eventually, tiny_image};

/// What a test wants otherwise than usual.
#[derive(Debug, Default)]
pub struct Settings {
    /// Environment of the server.
    pub environment: Vec<(String, String)>,
    /// The default datastore, instead of a directory in the instance's own.
    pub datastore: Option<PathBuf>,
}

/// A running Hostler. Everything of it ends with the value.
#[derive(Debug)]
pub struct Instance {
    folder: TempDir,
    namespace: Namespace,
    settings: Settings,
    server: Option<Child>,
}

impl Instance {
    pub fn start() -> Self {
        Self::start_with(Settings::default())
    }

    /// # Panics
    /// When it does not get ready within 30 s.
    pub fn start_with(settings: Settings) -> Self {
        let mut instance = Self::prepare(settings);
        instance.start_server();
        instance
    }

    /// Everything but the server's start.
    pub fn prepare(settings: Settings) -> Self {
        let folder =
            tempfile::Builder::new().prefix("hostler-e2e-").tempdir().expect("a directory");
        // QEMU runs as another user and must get through to its disks.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        fs::set_permissions(folder.path(), open).expect("the directory is ours");
        Self { folder, namespace: Namespace::new(), settings, server: None }
    }

    pub fn start_server(&mut self) {
        self.spawn_server();
        self.wait_ready();
    }

    /// Starts the server without waiting for anything.
    pub fn spawn_server(&mut self) {
        assert!(self.server.is_none(), "the server runs already");
        let log = File::options().create(true).append(true).open(self.log()).expect("a log");
        let child = self
            .namespace
            .command(binary())
            .args(["server", "--with-agent"])
            .arg("--state-dir")
            .arg(self.state())
            .arg("--runtime-dir")
            .arg(self.runtime())
            .arg("--datastore")
            .arg(self.datastore())
            .arg("--appliance")
            .arg(appliance_dir())
            .envs(self.settings.environment.iter().map(|(name, value)| (name, value)))
            .env_remove("HOSTLER_SERVER")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("the server starts");
        self.server = Some(child);
    }

    /// # Panics
    /// When it does not get ready within 30 s; shows the server's log.
    pub fn wait_ready(&self) {
        let begin = std::time::Instant::now();
        while !self.is_ready() {
            if begin.elapsed() > Duration::from_secs(30) {
                let log = fs::read_to_string(self.log()).unwrap_or_default();
                panic!("the server did not get ready within 30 s; its log:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The server answers and its host is connected.
    pub fn is_ready(&self) -> bool {
        let output = self.hostler(&["host", "list", "-o", "json"]);
        let hosts = serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default();
        let hosts = hosts["items"].as_array().or(hosts.as_array()).cloned().unwrap_or_default();
        hosts.iter().any(|host| host["status"]["state"] == "connected")
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }
    pub fn runtime(&self) -> PathBuf {
        self.folder.path().join("run")
    }
    pub fn socket(&self) -> PathBuf {
        self.runtime().join("server.sock")
    }
    pub fn log(&self) -> PathBuf {
        self.folder.path().join("server.log")
    }
    pub fn datastore(&self) -> PathBuf {
        self.settings.datastore.clone().unwrap_or_else(|| self.folder.path().join("datastore"))
    }
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }
    pub fn settings_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }

    /// `hostler ARGUMENTS`, as root on the machine.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.client(binary());
        command.args(arguments);
        command
    }

    /// `hostler ARGUMENTS`, as someone with a token, over the network.
    ///
    /// # Panics
    /// When the CA's certificate is not there.
    pub fn command_with_token(&self, token: &str, arguments: &[&str]) -> Command {
        let files = fs::read_dir(self.state().join("ca")).expect("the CA").flatten();
        let is_certificate = |path: &PathBuf| {
            path.extension().is_some_and(|ending| ending == "pem")
                && !path.to_string_lossy().contains("key")
        };
        let ca = files.map(|file| file.path()).find(is_certificate).expect("its certificate");
        let mut command = self.command(arguments);
        command
            .env_remove("HOSTLER_SOCKET")
            .env("HOSTLER_SERVER", "https://127.0.0.1:8443")
            .env("HOSTLER_CA", ca)
            .env("HOSTLER_TOKEN", token);
        command
    }

    /// A line typed into a shell that finds `hostler`.
    pub fn shell(&self, line: &str) -> Command {
        let folder = binary().parent().map(Path::to_owned).unwrap_or_default();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = self.client("sh");
        command.args(["-e", "-c", line]).env("PATH", format!("{}:{path}", folder.display()));
        command
    }

    fn client(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.namespace.network_command(program);
        command
            .env("HOSTLER_SOCKET", self.socket())
            .env("HOME", self.folder.path())
            .env_remove("HOSTLER_SERVER")
            .env_remove("XDG_CONFIG_HOME")
            .stdin(Stdio::null());
        command
    }

    pub fn hostler(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("hostler runs")
    }

    /// Runs a command that must succeed; returns what it printed.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.hostler(arguments);
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "hostler {arguments:?}: {}\n{stdout}{stderr}",
            output.status
        );
        stdout
    }

    /// Runs a command that must fail with this exit code; returns the error it printed.
    pub fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.hostler(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "hostler {arguments:?} printed:\n{stderr}");
        stderr
    }

    /// Runs a command that must succeed with `-o json`.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let mut arguments = arguments.to_vec();
        arguments.extend(["-o", "json"]);
        let text = self.ok(&arguments);
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{arguments:?}: {error}:\n{text}"))
    }

    /// Imports the tiny guest as image `tiny`.
    pub fn import_tiny(&self) {
        self.ok(&["image", "import", "tiny", &tiny_image().to_string_lossy()]);
    }

    /// Creates a VM from the tiny guest and waits until its agent answers.
    pub fn boot_tiny(&self, name: &str) {
        let create = ["vm", "create", name, "--image", "tiny", "--memory", "256MiB"];
        self.ok(&[&create[..], &["--start", "--wait=guest"]].concat());
    }

    pub fn power(&self, vm: &str) -> String {
        self.json(&["vm", "show", vm])["status"]["power"].as_str().unwrap_or_default().to_owned()
    }

    /// kill -9 of the server; its agent follows by itself, its guests do not.
    pub fn kill_server(&mut self) {
        if let Some(mut server) = self.server.take() {
            for pid in processes("hostler", self.folder.path()) {
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                if String::from_utf8_lossy(&line).contains("\0server\0") {
                    kill(pid);
                }
            }
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    /// Waits until the server has ended by itself (an injected abort).
    pub fn wait_server_ended(&mut self, limit: Duration) -> bool {
        let Some(server) = &mut self.server else { return true };
        let begin = std::time::Instant::now();
        while begin.elapsed() < limit {
            if server.try_wait().ok().flatten().is_some() {
                self.server = None;
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// Waits until the server is ready (true) or has ended (false).
    pub fn wait_ready_or_ended(&mut self) -> bool {
        loop {
            if self.wait_server_ended(Duration::from_millis(20)) {
                return false;
            }
            if self.is_ready() {
                return true;
            }
        }
    }

    pub fn agent_pids(&self) -> Vec<u32> {
        let is_agent = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains("\0agent\0")
        };
        processes("hostler", self.folder.path()).into_iter().filter(is_agent).collect()
    }

    /// The server's and the agent's processes.
    pub fn daemon_pids(&self) -> Vec<u32> {
        processes("hostler", self.folder.path())
    }

    pub fn kill_agent(&self) {
        self.agent_pids().into_iter().for_each(kill);
    }

    pub fn qemu_pids(&self) -> Vec<u32> {
        processes("qemu-system", &self.runtime())
    }

    pub fn leftovers(&self) -> Leftovers {
        let links = self.namespace.interfaces();
        Leftovers::look(&self.state(), &self.runtime(), &self.datastore(), &links)
    }

    /// # Panics
    /// When something of a VM is still there after 10 s.
    pub fn assert_clean(&self) {
        let begin = std::time::Instant::now();
        while !self.leftovers().is_empty() {
            assert!(
                begin.elapsed() < Duration::from_secs(10),
                "left behind: {:#?}",
                self.leftovers()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.log()).unwrap_or_default();
            let tail: Vec<_> = log.lines().rev().take(60).collect();
            let tail: Vec<_> = tail.into_iter().rev().collect();
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("--- server log ---\n{}\n", tail.join("\n")).as_bytes(),
            );
        }
        self.kill_server();
        for program in ["hostler", "qemu-system", "dnsmasq"] {
            processes(program, self.folder.path()).into_iter().for_each(kill);
        }
        let runtime = self.runtime();
        eventually("the end of all processes", Duration::from_secs(10), || {
            processes("qemu-system", &runtime).is_empty()
        });
    }
}

pub(crate) fn kill(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// The binary under test: beside the test's own, or `$HOSTLER_BINARY`.
fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("HOSTLER_BINARY") {
        return path.into();
    }
    let own = std::env::current_exe().expect("a test has an executable");
    let folder = own.ancestors().find(|folder| folder.join("hostler").is_file());
    folder.expect("the binary `hostler` is built: cargo build -p hostler").join("hostler")
}
