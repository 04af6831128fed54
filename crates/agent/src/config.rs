//! Where the agent keeps what, and where it listens.
//!
//! ```text
//! <state>/agent/tls/agent.pem        who the agent is (key, certificate, CA)
//!               vms/<vm-id>.json     one record per VM
//!               images/<id>.json     what is known of an image's import
//!               datastores.json  networks.json  accelerator.json
//!               networks/            DHCP: reservations, leases, configuration
//! <runtime>/agent/vms/<vm-id>/       QEMU's sockets and log
//!                 agent.ready        the address, once the agent listens
//! ```

use std::fs::{self, DirBuilder};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// How to run an agent.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Usually `/var/lib/hostler`; shared with a server on the same machine.
    pub state_dir: PathBuf,
    /// Usually `/run/hostler`.
    pub runtime_dir: PathBuf,
    /// Where the server reaches the agent; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The directory of the machine that seals disks: `vmlinuz` and `initrd`.
    pub appliance: PathBuf,
}

/// The file in `state_dir` that says who the agent is: where `join` stores the credentials, and
/// where a server puts those of the agent it starts itself.
pub fn identity_path(state_dir: &Path) -> PathBuf {
    state_dir.join("agent/tls/agent.pem")
}

/// The file that holds the agent's address while it listens.
pub fn ready_path(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("agent/agent.ready")
}

impl AgentConfig {
    pub(crate) fn state(&self) -> PathBuf {
        self.state_dir.join("agent")
    }
    pub(crate) fn vm_records(&self) -> PathBuf {
        self.state().join("vms")
    }
    pub(crate) fn image_records(&self) -> PathBuf {
        self.state().join("images")
    }
    pub(crate) fn networks(&self) -> PathBuf {
        self.state().join("networks")
    }
    pub(crate) fn vm_runtime(&self) -> PathBuf {
        self.runtime_dir.join("agent/vms")
    }

    /// Makes the directories. Those that guests' processes and DHCP servers must pass are open for
    /// passing, not for listing.
    pub(crate) fn create_directories(&self) -> io::Result<()> {
        let passable = [
            self.state_dir.clone(),
            self.state(),
            self.networks(),
            self.runtime_dir.clone(),
            self.runtime_dir.join("agent"),
            self.vm_runtime(),
        ];
        for path in &passable {
            DirBuilder::new().recursive(true).mode(0o711).create(path)?;
            let mode = fs::metadata(path)?.permissions().mode();
            fs::set_permissions(path, fs::Permissions::from_mode(mode | 0o111))?;
        }
        for path in [self.vm_records(), self.image_records()] {
            DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
        }
        Ok(())
    }
}
