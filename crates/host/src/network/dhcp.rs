//! One dnsmasq per NAT network: addresses for the NICs that have a reservation, and DNS.
//!
//! It belongs to the network, not to the agent: it goes on while the agent is away, and is found
//! again by the configuration file in its command line. It runs as a user without privileges but
//! those it needs for its sockets.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hostler_types::MacAddress;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::error::{IoContext, Kernel, NetworkError};
use super::reservations::make_directory;
use super::{BridgeName, NatNetwork};
use crate::file::{Access, first_closed_directory, remove_if_there, write_atomic};
use crate::process::Run;

const ACCESS: Access = Access { mode: 0o644, uid: 0, gid: 0 };
const START: Duration = Duration::from_secs(10);
const STOP: Duration = Duration::from_secs(5);

pub(super) fn hosts_directory(network: &Path) -> PathBuf {
    network.join("hosts")
}

/// The DHCP server of one network.
#[derive(Debug)]
pub(super) struct Dhcp<'a> {
    nat: &'a NatNetwork,
    directory: PathBuf,
}

impl<'a> Dhcp<'a> {
    pub(super) fn new(directory: PathBuf, nat: &'a NatNetwork) -> Self {
        Self { nat, directory }
    }

    /// Starts it, unless it runs with the configuration it should have.
    pub(super) async fn ensure(&self) -> Result<(), NetworkError> {
        let wanted = self.configuration()?;
        let path = self.configuration_path();
        let unchanged = fs::read_to_string(&path).is_ok_and(|text| text == wanted);
        if unchanged && self.process()?.is_some() {
            return Ok(());
        }
        self.stop().await?;
        make_directory(&hosts_directory(&self.directory))?;
        self.check_reachable()?;
        write_atomic(&path, wanted.as_bytes(), ACCESS).doing("write", &path)?;
        self.start().await
    }

    /// Stops it, if it runs.
    pub(super) async fn stop(&self) -> Result<(), NetworkError> {
        let Some(process) = self.process()? else { return Ok(()) };
        let subject = &self.nat.bridge;
        signal(&process, Signal::TERM, subject)?;
        let ended = watch(process).kernel("watch the DHCP server of", subject)?;
        if tokio::time::timeout(STOP, ended.readable()).await.is_err() {
            signal(ended.get_ref(), Signal::KILL, subject)?;
            let _ = tokio::time::timeout(STOP, ended.readable()).await;
        }
        let pid_file = self.pid_path();
        remove_if_there(&pid_file).doing("remove", &pid_file)
    }

    /// Makes it forget reservations whose files are gone; new ones it sees by itself.
    pub(super) fn reload(&self) -> Result<(), NetworkError> {
        match self.process()? {
            Some(process) => signal(&process, Signal::HUP, &self.nat.bridge),
            None => Ok(()),
        }
    }

    /// Whether a NIC that is gone still holds a lease of the address.
    pub(super) fn is_leased_to_another(
        &self,
        address: Ipv4Addr,
        mac: MacAddress,
    ) -> Result<bool, NetworkError> {
        let leases = self.leases()?;
        Ok(leases.lines().any(|lease| {
            lease_address(lease) == Some(address)
                && lease.split(' ').nth(1) != Some(mac.to_string().as_str())
        }))
    }

    /// Frees an address that a removed NIC had; dnsmasq would keep it until the lease ends.
    pub(super) async fn forget_lease(&self, address: Ipv4Addr) -> Result<(), NetworkError> {
        let running = self.process()?.is_some();
        self.stop().await?;
        let path = self.lease_path();
        let leases = self.leases()?;
        let kept: String = leases
            .split_inclusive('\n')
            .filter(|line| lease_address(line) != Some(address))
            .collect();
        // In place, because the file belongs to dnsmasq's user.
        fs::write(&path, kept).doing("write", &path)?;
        if running { self.start().await } else { Ok(()) }
    }

    /// dnsmasq goes to the background when its sockets are open, so its exit means that it is up.
    async fn start(&self) -> Result<(), NetworkError> {
        let argument = format!("--conf-file={}", self.configuration_path().display());
        let dhcp = |source| NetworkError::Dhcp { bridge: self.nat.bridge.to_string(), source };
        Run::new("dnsmasq", [argument], START).output().await.map(drop).map_err(dhcp)
    }

    /// The process, if it runs. The pid may have been given to another since, which the command
    /// line tells; the handle is opened before looking, so that it cannot change in between.
    fn process(&self) -> Result<Option<OwnedFd>, NetworkError> {
        let pid_file = self.pid_path();
        let text = match fs::read_to_string(&pid_file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.doing("read", &pid_file)?,
        };
        let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) else { return Ok(None) };
        let process = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Err(Errno::SRCH | Errno::INVAL) => return Ok(None),
            process => process.kernel("watch the DHCP server of", &self.nat.bridge)?,
        };
        let command = format!("/proc/{}/cmdline", pid.as_raw_nonzero());
        let argument = format!("--conf-file={}", self.configuration_path().display());
        // A zombie's is empty.
        let ours = fs::read(command).is_ok_and(|line| {
            line.split(|byte| *byte == 0).any(|part| part == argument.as_bytes())
        });
        Ok(ours.then_some(process))
    }

    fn configuration(&self) -> Result<String, NetworkError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "/._+-@".contains(c);
        let directory = self
            .directory
            .to_str()
            .filter(|text| text.chars().all(allowed))
            .ok_or_else(|| NetworkError::UnusablePath(self.directory.clone()))?;
        let NatNetwork { bridge, subnet, gateway } = self.nat;
        let (network, netmask) = (subnet.network, subnet.netmask());
        let user = user();
        // `bind-dynamic` survives the bridge going away and coming back. Names that guests give
        // themselves are ignored: only reservations name a host.
        Ok(format!(
            "# Written by the Hostler agent; changes are lost.
user={user}
interface={bridge}
except-interface=lo
bind-dynamic
listen-address={gateway}
no-hosts
domain-needed
bogus-priv
cache-size=1000
dhcp-range={network},static,{netmask},12h
dhcp-hostsdir={directory}/hosts
dhcp-leasefile={directory}/leases
dhcp-authoritative
dhcp-ignore=tag:!known
dhcp-ignore-names
no-ping
pid-file={directory}/dnsmasq.pid
quiet-dhcp
"
        ))
    }

    fn check_reachable(&self) -> Result<(), NetworkError> {
        let path = hosts_directory(&self.directory);
        match first_closed_directory(&path).doing("look at", &path)? {
            Some(directory) => Err(NetworkError::NotTraversable { path, directory }),
            None => Ok(()),
        }
    }

    fn leases(&self) -> Result<String, NetworkError> {
        let path = self.lease_path();
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            text => text.doing("read", &path),
        }
    }

    fn configuration_path(&self) -> PathBuf {
        self.directory.join("dnsmasq.conf")
    }
    fn pid_path(&self) -> PathBuf {
        self.directory.join("dnsmasq.pid")
    }
    fn lease_path(&self) -> PathBuf {
        self.directory.join("leases")
    }
}

fn signal(process: &OwnedFd, signal: Signal, bridge: &BridgeName) -> Result<(), NetworkError> {
    match pidfd_send_signal(process.as_fd(), signal) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error).kernel("signal the DHCP server of", bridge),
    }
}

/// Becomes readable when the process has ended.
#[expect(unsafe_code, reason = "tokio cannot see that the descriptor stays the same")]
fn watch(process: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open and the same until it is dropped, and it is not replaced.
    let watched = unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) };
    Ok(watched?)
}

/// `<expiry> <mac> <address> <name> <client id>`
fn lease_address(lease: &str) -> Option<Ipv4Addr> {
    lease.split(' ').nth(2)?.parse().ok()
}

/// The user that Debian's package makes for it.
fn user() -> &'static str {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    if passwd.lines().any(|line| line.starts_with("dnsmasq:")) { "dnsmasq" } else { "nobody" }
}
