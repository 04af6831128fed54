//! A lab of several hosts on one machine: for development, demonstrations and tests.
//!
//! ```text
//!   netns NAME-net                     netns NAME-host1
//!   server ── br-lab 10.99.0.1/24 ── h1 ════ uplink ── br0 10.99.0.11/24 ── agent
//!                │                                  └── taps of its guests
//!                └──────────────── h2 ════ uplink ── br0 10.99.0.12/24 ── agent   (netns NAME-host2)
//! ```
//!
//! Each host has its own network, its own `/sys/class/net`, its own cgroups and directories, as far as
//! one kernel can give them; it joins the server with a token, as hosts of users do. `shared` is a
//! datastore of all of them, `local-hostN` one of each; the network `lab` is the bridge `br0` of every
//! host, so a guest keeps its address wherever it goes.
//!
//! Everything is found by names and paths, so that a lab can be torn down whole by who knows nothing of
//! how it was made, also when its maker was killed in the middle.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::appliance_dir;
use crate::instance::kill;
use crate::leftovers::processes;

/// More would need other addresses.
pub(crate) const MOST_HOSTS: usize = 9;
const READY: Duration = Duration::from_secs(60);
const ENDED: Duration = Duration::from_secs(20);
/// What one sends that is over its speed waits for no longer than that.
const LATENCY: &str = "50ms";

/// Enters a host: a `/sys` of its own network, and groups that nobody else has.
const ENTER: &str = r#"
set -e
lab=$1; host=$2; shift 2
mount --make-rprivate /
keep=$(mktemp -d)
mount --rbind /sys/fs/cgroup "$keep"
mount -t sysfs sysfs /sys
mount --rbind "$keep" /sys/fs/cgroup
umount -l "$keep"
rmdir "$keep"
for tree in cpu cpuacct cpu,cpuacct memory blkio pids freezer cpuset unified; do
  tree=/sys/fs/cgroup/$tree
  [ -d "$tree" ] && [ ! -L "$tree" ] || continue
  mkdir -p "$tree/$lab/$host"
  case $tree in */cpuset) for f in cpus mems; do
    cat "$tree/cpuset.$f" >"$tree/$lab/cpuset.$f"; cat "$tree/cpuset.$f" >"$tree/$lab/$host/cpuset.$f"
  done;; esac
  mount --bind "$tree/$lab/$host" "$tree"
done
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
  mkdir -p "/sys/fs/cgroup/$lab/$host"
  mount --bind "/sys/fs/cgroup/$lab/$host" /sys/fs/cgroup
fi
exec "$@"
"#;

/// A lab, there or not.
#[derive(Debug, Clone)]
pub struct Lab {
    folder: PathBuf,
    name: String,
    binary: PathBuf,
}

/// What a host's cable is to be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// No faster than that in either direction, as `tc` writes it: `1gbit`, `50mbit`.
    Rate(String),
    /// As fast as it goes.
    Unlimited,
    /// Nothing comes through in either direction; who sends does not notice.
    Cut,
    /// Nothing comes from the host any more, but everything comes to it.
    CutOut,
    /// Everything comes through.
    Heal,
}

impl Lab {
    /// The lab of a directory. Several can be there at once if their names differ.
    pub fn new(folder: impl Into<PathBuf>, name: impl Into<String>, binary: PathBuf) -> Self {
        Self { folder: folder.into(), name: name.into(), binary }
    }

    /// Makes a lab of so many hosts. What was there of it goes first.
    ///
    /// # Errors
    /// What did not work; the rest is torn down again.
    pub fn up(&self, hosts: usize) -> Result<()> {
        ensure!((1..=MOST_HOSTS).contains(&hosts), "a lab has 1 to {MOST_HOSTS} hosts");
        ensure!(rustix::process::geteuid().is_root(), "the lab needs root, as agents do");
        self.down()?;
        let made = self.make(hosts);
        if made.is_err() {
            let _as_far_as_it_goes = self.down();
        }
        made
    }

    fn make(&self, hosts: usize) -> Result<()> {
        for folder in [self.folder.clone(), self.shared()] {
            fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
            // QEMU runs as another user and must get through to its disks.
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o711))?;
        }
        // One that only the lab's hosts have, as a shared file system is.
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "mode=0711", "hostler-lab"]).arg(self.shared());
        succeeded(&mount.output().context("run mount")?, "mount the shared file system")?;
        self.make_center()?;
        self.start_server()?;
        for host in 1..=hosts {
            self.make_host(host)?;
            self.join(host)?;
            self.start_agent(host)?;
        }
        self.wait_connected(hosts)?;
        self.make_objects(hosts)
    }

    fn make_center(&self) -> Result<()> {
        let center = self.center();
        ip(&["netns", "add", &center])?;
        ip(&["-n", &center, "link", "set", "lo", "up"])?;
        ip(&["-n", &center, "link", "add", "br-lab", "type", "bridge"])?;
        ip(&["-n", &center, "addr", "add", "10.99.0.1/24", "dev", "br-lab"])?;
        ip(&["-n", &center, "link", "set", "br-lab", "up"])
    }

    fn make_host(&self, host: usize) -> Result<()> {
        let (center, netns, port) = (self.center(), self.netns(host), format!("h{host}"));
        ip(&["netns", "add", &netns])?;
        let veth =
            ["link", "add", &port, "type", "veth", "peer", "name", "uplink", "netns", &netns];
        ip(&[&["-n", center.as_str()], &veth[..]].concat())?;
        ip(&["-n", &center, "link", "set", &port, "master", "br-lab", "up"])?;
        for command in [
            &["link", "set", "lo", "up"][..],
            &["link", "add", "br0", "type", "bridge"],
            &["link", "set", "uplink", "master", "br0", "up"],
            &["addr", "add", &format!("{}/24", address(host)), "dev", "br0"],
            &["link", "set", "br0", "up"],
            &["route", "add", "default", "via", "10.99.0.1"],
        ] {
            ip(&[&["-n", netns.as_str()], command].concat())?;
        }
        let folder = self.host_folder(host);
        fs::create_dir_all(&folder)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o711))?;
        Ok(())
    }

    /// kill -9 of the server; hosts and guests go on.
    pub fn kill_server(&self) {
        let folder = self.folder.join("server");
        processes("hostler", &folder).into_iter().for_each(kill);
    }

    /// Starts the server, and waits until it answers.
    ///
    /// # Errors
    /// It does not.
    pub fn start_server(&self) -> Result<()> {
        let mut server = self.in_netns(&self.center(), &self.binary);
        server.args(["server", "--listen", "0.0.0.0:8443", "--tls-name", "10.99.0.1"]);
        server.arg("--state-dir").arg(self.folder.join("server"));
        server.arg("--runtime-dir").arg(self.folder.join("run"));
        detach(server, &self.folder.join("server.log"))?;
        let begin = Instant::now();
        while !self.hostler(&["host", "list"])?.status.success() {
            ensure!(begin.elapsed() < READY, "the server does not get ready; see server.log");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn join(&self, host: usize) -> Result<()> {
        let token = self.json(&["host", "join-token"])?;
        let token = token["token"].as_str().context("a join token")?.to_owned();
        let mut join = self.in_netns(&self.netns(host), &self.binary);
        join.args(["agent", "join", &token, "--server", "https://10.99.0.1:8443"]);
        join.args(["--address", &format!("{}:8444", address(host))]);
        join.args(["--name", &host_name(host), "--state-dir"]).arg(self.state(host));
        succeeded(&join.output()?, "hostler agent join")
    }

    /// Starts the agent of a host that has joined.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn start_agent(&self, host: usize) -> Result<()> {
        let mut agent = Command::new("nsenter");
        agent.arg(format!("--net=/run/netns/{}", self.netns(host)));
        agent.args(["unshare", "--mount", "--uts", "sh", "-c", ENTER, "sh"]);
        agent.arg(format!("hostler-lab-{}", self.name)).arg(host_name(host)).arg(&self.binary);
        agent.args(["agent", "run", "--listen", "0.0.0.0:8444", "--state-dir"]);
        agent.arg(self.state(host)).arg("--runtime-dir").arg(self.host_folder(host).join("run"));
        agent.arg("--appliance").arg(appliance_dir());
        detach(agent, &self.host_folder(host).join("agent.log"))
    }

    fn wait_connected(&self, hosts: usize) -> Result<()> {
        let begin = Instant::now();
        loop {
            let found = self.json(&["host", "list"])?;
            let found = items(&found);
            let connected = |host: &&Value| host["status"]["state"] == "connected";
            if found.iter().filter(connected).count() == hosts {
                return Ok(());
            }
            ensure!(
                begin.elapsed() < READY,
                "not all hosts get connected; see agent.log in {}",
                self.folder.display()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn make_objects(&self, hosts: usize) -> Result<()> {
        let shared = self.shared().display().to_string();
        let names: Vec<_> = (1..=hosts).map(host_name).collect();
        let mut create = vec!["datastore", "create", "shared", "--shared", "--path", &shared];
        create.extend(names.iter().flat_map(|name| ["--host", name]));
        self.ok(&create)?;
        for (host, name) in (1..=hosts).zip(&names) {
            let path = self.host_folder(host).join("datastore").display().to_string();
            let called = format!("local-{name}");
            self.ok(&["datastore", "create", &called, "--path", &path, "--host", name])?;
        }
        let network = ["network", "create", "lab", "--bridge", "br0"];
        let pool = ["--pool", "10.99.0.100-10.99.0.199", "--prefix", "24"];
        self.ok(&[&network[..], &pool, &["--gateway", "10.99.0.1"]].concat()).map(drop)
    }

    /// Nothing of it is left: processes, namespaces, groups, files.
    ///
    /// # Errors
    /// What could not be removed. It can be asked again.
    pub fn down(&self) -> Result<()> {
        let begin = Instant::now();
        loop {
            let left = self.processes();
            if left.is_empty() {
                break;
            }
            ensure!(begin.elapsed() < ENDED, "processes do not end: {left:?}");
            left.into_iter().for_each(kill);
            std::thread::sleep(Duration::from_millis(20));
        }
        for netns in self.namespaces() {
            ip(&["netns", "del", &netns])?;
        }
        self.remove_groups()?;
        self.unmount();
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", self.folder.display()))
            }
            _ => Ok(()),
        }
    }

    /// As often as it is mounted; that it is not is as good.
    fn unmount(&self) {
        let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let place = format!(" {} ", self.shared().display());
        for _ in 0..mounts().matches(&place).count() {
            let _tried = Command::new("umount").arg("--lazy").arg(self.shared()).output();
        }
    }

    /// All that run for it: daemons, guests, DHCP servers.
    pub fn processes(&self) -> Vec<u32> {
        let programs = ["hostler", "qemu-system", "dnsmasq"];
        let found = programs.into_iter().flat_map(|program| processes(program, &self.folder));
        found.filter(|pid| *pid != std::process::id()).collect()
    }

    /// Its network namespaces that are there.
    pub fn namespaces(&self) -> Vec<String> {
        let prefix = format!("{}-", self.prefix());
        let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with(&prefix)).collect()
    }

    fn remove_groups(&self) -> Result<()> {
        let name = format!("hostler-lab-{}", self.name);
        let trees = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let trees = trees.map(|entry| entry.path()).chain([PathBuf::from("/sys/fs/cgroup")]);
        for group in trees.map(|tree| tree.join(&name)).filter(|group| group.is_dir()) {
            remove_group(&group).with_context(|| format!("remove {}", group.display()))?;
        }
        Ok(())
    }

    /// What is there of it, for people.
    ///
    /// # Errors
    /// None of its hosts is there.
    pub fn status(&self) -> Result<String> {
        let names = self.namespaces();
        if names.is_empty() {
            bail!(
                "no lab is up in {}; make one with `cargo xtask lab up 3`",
                self.folder.display()
            );
        }
        let hosts = self.ok(&["host", "list"])?;
        let vms = self.ok(&["vm", "list"])?;
        Ok(format!("{}\n{hosts}\n{vms}", self.how_to()))
    }

    /// How to talk to it.
    pub fn how_to(&self) -> String {
        let socket = self.socket().display().to_string();
        format!(
            "export HOSTLER_SOCKET={socket}\n\
             # the server is at https://10.99.0.1:8443 for its hosts; host N is at 10.99.0.1N\n\
             # datastores: shared, local-hostN; network: lab (10.99.0.0/24, pool .100 to .199)\n"
        )
    }

    /// A command in the network of a host (`host1`), or of the server (`net`).
    pub fn command_in(&self, place: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let netns = format!("{}-{place}", self.prefix());
        let mut command = self.in_netns(&netns, program);
        command.env("HOSTLER_SOCKET", self.socket()).env_remove("HOSTLER_SERVER");
        command
    }

    /// Makes the cable of a host what it is to be.
    ///
    /// # Errors
    /// The host is not there, or the kernel refuses.
    pub fn link(&self, host: &str, link: &Link) -> Result<()> {
        let number = host.strip_prefix("host").and_then(|number| number.parse::<usize>().ok());
        let number = number.filter(|number| self.namespaces().contains(&self.netns(*number)));
        let number = number.with_context(|| format!("there is no host `{host}` in the lab"))?;
        let (center, netns, port) = (self.center(), self.netns(number), format!("h{number}"));
        match link {
            Link::Rate(rate) => {
                for (netns, device) in [(&center, port.as_str()), (&netns, "uplink")] {
                    let tbf = ["root", "tbf", "rate", rate, "burst", "256kb", "latency", LATENCY];
                    tc(netns, &[&["qdisc", "replace", "dev", device], &tbf[..]].concat())?;
                }
                Ok(())
            }
            Link::Unlimited => {
                for (netns, device) in [(&center, port.as_str()), (&netns, "uplink")] {
                    // There is none to delete if none was set.
                    let _none = tc(netns, &["qdisc", "del", "dev", device, "root"]);
                }
                Ok(())
            }
            Link::Cut | Link::CutOut | Link::Heal => {
                self.filter(number, *link == Link::Cut, *link != Link::Heal)
            }
        }
    }

    /// Drops what comes to a host, or from it, at its port of the lab's bridge.
    fn filter(&self, host: usize, to: bool, from: bool) -> Result<()> {
        let port = format!("h{host}");
        let mut rules = format!("add table netdev cut{host}\ndelete table netdev cut{host}\n");
        if from || to {
            rules += &format!("add table netdev cut{host}\n");
        }
        for (wanted, chain) in [(from, "ingress"), (to, "egress")] {
            if wanted {
                rules += &format!(
                    "add chain netdev cut{host} {chain} {{ type filter hook {chain} device {port} \
                     priority 0; policy drop; }}\n"
                );
            }
        }
        let file = self.folder.join(format!("cut{host}.nft"));
        fs::write(&file, rules)?;
        let output = self.in_netns(&self.center(), "nft").arg("-f").arg(&file).output()?;
        succeeded(&output, "nft")
    }

    fn in_netns(&self, netns: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{netns}")).arg(program);
        command.stdin(Stdio::null());
        command
    }

    /// `hostler ARGUMENTS`, as root on the server.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn hostler(&self, arguments: &[&str]) -> Result<Output> {
        Ok(self.command_in("net", &self.binary).args(arguments).output()?)
    }

    /// As [`Self::hostler`]: what it prints.
    ///
    /// # Errors
    /// It fails.
    pub fn ok(&self, arguments: &[&str]) -> Result<String> {
        let output = self.hostler(arguments)?;
        succeeded(&output, &format!("hostler {}", arguments.join(" ")))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// As [`Self::ok`], with `-o json`.
    ///
    /// # Errors
    /// It fails, or prints no JSON.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.ok(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("{arguments:?} printed {text}"))
    }

    /// The daemon and the guests of one host.
    pub fn processes_of(&self, program: &str, host: usize) -> Vec<u32> {
        processes(program, &self.host_folder(host))
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }
    pub fn socket(&self) -> PathBuf {
        self.folder.join("run/server.sock")
    }
    fn shared(&self) -> PathBuf {
        self.folder.join("shared")
    }
    fn host_folder(&self, host: usize) -> PathBuf {
        self.folder.join(host_name(host))
    }
    fn state(&self, host: usize) -> PathBuf {
        self.host_folder(host).join("state")
    }
    fn prefix(&self) -> String {
        format!("hlab-{}", self.name)
    }
    fn center(&self) -> String {
        format!("{}-net", self.prefix())
    }
    fn netns(&self, host: usize) -> String {
        format!("{}-{}", self.prefix(), host_name(host))
    }
}

fn host_name(host: usize) -> String {
    format!("host{host}")
}

fn address(host: usize) -> String {
    format!("10.99.0.{}", 10 + host)
}

fn items(list: &Value) -> Vec<Value> {
    list["items"].as_array().or(list.as_array()).cloned().unwrap_or_default()
}

/// Starts what lives on when we end.
fn detach(mut command: Command, log: &Path) -> Result<()> {
    let log = File::options().create(true).append(true).open(log)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    command.spawn().context("start a daemon")?;
    Ok(())
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("run ip")?;
    succeeded(&output, &format!("ip {}", arguments.join(" ")))
}

fn tc(netns: &str, arguments: &[&str]) -> Result<()> {
    let output =
        Command::new("tc").args(["-n", netns]).args(arguments).output().context("run tc")?;
    succeeded(&output, &format!("tc {}", arguments.join(" ")))
}

fn succeeded(output: &Output, what: &str) -> Result<()> {
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("{what}: {}\n{}{text}", output.status, String::from_utf8_lossy(&output.stdout));
    }
    Ok(())
}

/// From the innermost outwards. Its last processes may still be leaving it.
fn remove_group(group: &Path) -> Result<()> {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_group(&entry.path())?;
        }
    }
    let begin = Instant::now();
    loop {
        match fs::remove_dir(group) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(_) if begin.elapsed() < ENDED => std::thread::sleep(Duration::from_millis(50)),
            other => return Ok(other?),
        }
    }
}
