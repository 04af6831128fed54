//! Network namespaces for tests: one for the host's side, which the test's thread enters, and one
//! for each guest or outside machine. They vanish with their processes, and many tests run at once.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// Runs commands, of the test's own making, which must succeed.
pub(crate) fn sh(script: &str) -> String {
    text(&Command::new("sh").args(["-ec", script]).output().unwrap(), script)
}

fn text(output: &Output, what: &str) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {text}{errors}");
    text
}

/// A machine with one network interface, `eth0`, whose other end is here.
pub(crate) struct Machine {
    process: Child,
}

impl Machine {
    /// `port` is the name of the end that is here.
    pub(crate) fn new(port: &str) -> Self {
        let mut process = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo ready; exec sleep 1000"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let machine = Self { process };
        let pid = machine.process.id();
        sh(&format!("ip link add {port} type veth peer name eth0 netns {pid}"));
        sh(&format!("ip link set {port} up"));
        machine.sh("ip link set lo up; ip link set eth0 up");
        machine
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        let namespace = format!("--net=/proc/{}/ns/net", self.process.id());
        command.arg(namespace).args(["sh", "-ec", script]);
        command
    }

    pub(crate) fn sh(&self, script: &str) -> String {
        text(&self.command(script).output().unwrap(), script)
    }

    /// Waits long for the answer, because the tests' machine may be busy.
    pub(crate) fn reaches(&self, address: &str) -> bool {
        self.pings(address, 5)
    }

    pub(crate) fn is_cut_off_from(&self, address: &str) -> bool {
        !self.pings(address, 1)
    }

    fn pings(&self, address: &str, seconds: u32) -> bool {
        let script = format!("busybox ping -c 1 -W {seconds} {address} >/dev/null 2>&1");
        self.command(&script).status().unwrap().success()
    }

    /// Gets an address and a default route as a guest does. Returns address, router and DNS.
    pub(crate) fn dhcp(&self, scratch: &Path) -> Option<(String, String, String)> {
        let (script, answer) = (scratch.join("udhcpc.sh"), scratch.join("answer"));
        let body = format!(
            "#!/bin/sh\n[ $1 = bound ] || exit 0\nip addr flush dev $interface\n\
             ip addr add $ip/$mask dev $interface\nip route replace default via $router\n\
             echo $ip $router $dns > {}\n",
            answer.display()
        );
        std::fs::write(&script, body).unwrap();
        sh(&format!("chmod +x {}; rm -f {}", script.display(), answer.display()));
        let client = format!("busybox udhcpc -f -i eth0 -n -q -t 3 -T 1 -s {}", script.display());
        let _ = self.command(&client).output().unwrap();
        let text = std::fs::read_to_string(&answer).ok()?;
        let mut fields = text.split_whitespace().map(str::to_owned);
        Some((fields.next()?, fields.next()?, fields.next()?))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
