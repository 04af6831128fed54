//! A network namespace of one's own: bridges, taps and packet filters in it end with it.

use std::ffi::OsStr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A named network namespace; removed on drop.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

/// Enters the namespace and gives it a `/sys` that shows its own interfaces, with the cgroups of
/// the machine. (`ip netns exec` would hide the cgroups.)
const ENTER: &str = r#"
set -e
keep=$(mktemp -d)
mount --make-rprivate /
mount --rbind /sys/fs/cgroup "$keep"
mount -t sysfs sysfs /sys
mount --rbind "$keep" /sys/fs/cgroup
umount -l "$keep"
rmdir "$keep"
exec "$@"
"#;

impl Namespace {
    /// # Panics
    /// When the kernel refuses.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("hostler-e2e-{}-{count}", std::process::id());
        ip(&["netns", "add", &name]);
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        Self { name }
    }

    /// A command that runs in the namespace.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.name))
            .args(["unshare", "--mount", "sh", "-c", ENTER, "sh"])
            .arg(program);
        command
    }

    /// A command that needs the network only: quicker than [`Self::command`].
    pub fn network_command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg(program);
        command
    }

    /// The names of the interfaces in it.
    pub fn interfaces(&self) -> Vec<String> {
        let output = self.network_command("ip").args(["-j", "link"]).output().expect("ip runs");
        let links: Vec<serde_json::Value> =
            serde_json::from_slice(&output.stdout).unwrap_or_default();
        links.iter().filter_map(|link| link["ifname"].as_str().map(str::to_owned)).collect()
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().expect("ip runs");
    assert!(status.success(), "ip {arguments:?} failed: {status}");
}
