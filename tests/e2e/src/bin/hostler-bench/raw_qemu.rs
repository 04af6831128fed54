//! QEMU with the arguments that Hostler gave it, in a lab's host, without Hostler.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hostler_e2e::Lab;
use serde_json::{Value, json};

use crate::start::without_descriptors;

const ANSWER: Duration = Duration::from_secs(20);
/// For a guest to boot.
const BOOT: Duration = Duration::from_secs(60);

/// Ends with the value.
pub(crate) struct Raw {
    pub(crate) monitor: Monitor,
    sockets: PathBuf,
    child: Child,
}

impl Raw {
    /// Starts it on a host of the lab (`host1`), with its sockets in `folder`.
    pub(crate) fn start(
        lab: &Lab,
        host: &str,
        line: &[String],
        folder: &Path,
        more: &[&str],
    ) -> Result<Self> {
        let sockets = folder.join(host);
        std::fs::create_dir(&sockets)?;
        let (program, arguments) = line.split_first().context("a command line")?;
        let arguments = arguments.iter().map(|argument| {
            let argument = without_descriptors(argument, &sockets);
            // No guest of it is seen from outside.
            match argument.strip_prefix("tap,id=").and_then(|rest| rest.split(',').next()) {
                Some(id) => format!("hubport,id={id},hubid=0"),
                None => argument,
            }
        });
        let qmp = sockets.join("bench-qmp");
        let child = lab
            .command_in(host, program)
            .args(arguments)
            .args(["-qmp", &format!("unix:{},server=on,wait=off", qmp.display())])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()?;
        let monitor = Monitor::connect(&qmp)?;
        Ok(Self { monitor, sockets, child })
    }

    /// Waits for the guest's agent, and lets the guest do something.
    pub(crate) fn exec(&self, script: &str) -> Result<()> {
        let begin = Instant::now();
        let mut agent = connect(&self.sockets.join(AGENT))?;
        let ping = json!({"execute": "guest-exec", "arguments": {
            "path": "/bin/sh", "arg": ["-c", script],
        }});
        loop {
            // What was asked before the guest had an agent may be answered later.
            agent.write_all(format!("{ping}\n").as_bytes())?;
            agent.set_read_timeout(Some(Duration::from_secs(2)))?;
            let mut answer = [0; 512];
            match agent.read(&mut answer) {
                Ok(1..) => break,
                _ => ensure!(begin.elapsed() < BOOT, "the raw guest's agent does not answer"),
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        std::thread::sleep(Duration::from_secs(4));
        Ok(())
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As [`without_descriptors`] calls the guest agent's socket.
const AGENT: &str = "agent0";

/// QEMU's monitor.
pub(crate) struct Monitor(Mutex<BufReader<UnixStream>>);

impl Monitor {
    fn connect(path: &Path) -> Result<Self> {
        let stream = connect(path)?;
        stream.set_read_timeout(Some(ANSWER))?;
        let monitor = Self(Mutex::new(BufReader::new(stream)));
        monitor.execute("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    pub(crate) fn execute(&self, command: &str, arguments: &Value) -> Result<Value> {
        let mut stream = self.0.lock().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
        let line = json!({"execute": command, "arguments": arguments}).to_string() + "\n";
        stream.get_mut().write_all(line.as_bytes())?;
        loop {
            let mut line = String::new();
            ensure!(stream.read_line(&mut line)? > 0, "raw QEMU has ended");
            let mut answer: Value = serde_json::from_str(&line)?;
            if answer.get("error").is_some() {
                bail!("raw QEMU, {command}: {line}");
            }
            if answer.get("return").is_some() {
                return Ok(answer["return"].take());
            }
        }
    }

    pub(crate) fn status(&self) -> Result<String> {
        let status = self.execute("query-status", &json!({}))?;
        Ok(status["status"].as_str().unwrap_or_default().to_owned())
    }
}

fn connect(path: &Path) -> Result<UnixStream> {
    let begin = Instant::now();
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(_) if begin.elapsed() < ANSWER => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => {
                return Err(error).with_context(|| format!("raw QEMU: {}", path.display()));
            }
        }
    }
}
