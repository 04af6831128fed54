//! `hostler vm ssh`.

use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;
use hostler_types::Vm;

use super::VmName;
use crate::error::{CliError, Exit};
use crate::session::Session;

/// Log in to a guest with ssh, at the address that it reports
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm ssh web01
  hostler vm ssh web01 --user debian -- uptime")]
pub(crate) struct Ssh {
    #[command(flatten)]
    vm: VmName,

    /// User in the guest [default: the one given at `vm create --user`, else root]
    #[arg(short, long, value_name = "NAME")]
    user: Option<String>,

    /// Private key to log in with
    #[arg(short, long, value_name = "FILE")]
    identity: Option<PathBuf>,

    /// Command to run instead of a shell, and its arguments
    #[arg(value_name = "COMMAND", last = true)]
    command: Vec<String>,
}

impl Ssh {
    pub(super) async fn run(&self, session: &Session) -> Result<(), CliError> {
        let vm = super::show(session, &self.vm.path()).await?;
        let address = reachable(&vm).ok_or_else(|| {
            let name = &vm.metadata.name;
            CliError::new(Exit::Conflict, format!("no address of vm {name} is known")).hint(
                format!("it is {}; `hostler vm console {name}` works without", vm.status.power),
            )
        })?;
        // Replaces this process: ssh has the terminal, and its exit code is ours.
        let error = Command::new("ssh").args(self.arguments(&vm, address)).exec();
        Err(CliError::new(Exit::Failed, format!("cannot run ssh: {error}"))
            .hint(format!("install the OpenSSH client, or use another one with {address}")))
    }

    fn arguments(&self, vm: &Vm, address: IpAddr) -> Vec<String> {
        let user = self.user.clone().unwrap_or_else(|| default_user(vm));
        // Addresses are used again by other VMs: keys are remembered under the VM's id.
        let alias = format!("HostKeyAlias=hostler-{}", vm.metadata.id);
        let mut arguments: Vec<String> =
            ["-o", "StrictHostKeyChecking=accept-new", "-o", &alias].map(str::to_owned).to_vec();
        if let Some(identity) = &self.identity {
            arguments.extend(["-i".to_owned(), identity.display().to_string()]);
        }
        arguments.extend(["-l".to_owned(), user, "--".to_owned(), address.to_string()]);
        arguments.extend(self.command.iter().cloned());
        arguments
    }
}

fn default_user(vm: &Vm) -> String {
    let users = vm.spec.customization.iter().flat_map(|guest| &guest.users);
    users.map(|user| user.name.clone()).next().unwrap_or_else(|| "root".to_owned())
}

/// What the guest reports, IPv4 first; else what its network reserves for it.
fn reachable(vm: &Vm) -> Option<IpAddr> {
    let reported = || vm.status.guest.iter().flat_map(|guest| guest.addresses.iter().copied());
    reported().find(IpAddr::is_ipv4).or_else(|| super::list::address(vm))
}
