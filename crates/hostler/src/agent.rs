//! `hostler agent run` and `hostler agent join`.

use std::io::Read;

use anyhow::{Context, Result};
use hostler_agent::{AgentConfig, JoinRequest};
use hostler_cli::{AgentJoinOptions, AgentOptions};
use hostler_types::Name;

pub(crate) fn run(options: AgentOptions) -> Result<()> {
    if options.exit_with_parent {
        end_with_parent();
    }
    let config = AgentConfig {
        state_dir: options.state_dir,
        runtime_dir: options.runtime_dir,
        listen: options.listen,
        appliance: options.appliance,
    };
    Ok(hostler_agent::run_until_signalled(config)?)
}

/// The server holds the other end of the standard input; when it is gone, so is this agent. Guests
/// run on, and the next agent finds them.
fn end_with_parent() {
    std::thread::spawn(|| {
        let mut nothing = [0; 64];
        while matches!(std::io::stdin().read(&mut nothing), Ok(1..)) {}
        tracing::info!("the server that started this agent has ended");
        std::process::exit(0);
    });
}

pub(crate) async fn join(options: AgentJoinOptions) -> Result<()> {
    let mut token: hostler_pki::JoinToken = options.token.parse()?;
    if let Some(server) = options.server {
        let address = server.strip_prefix("https://").unwrap_or(&server);
        token.server = address.trim_end_matches('/').to_owned();
    }
    let name = match options.name {
        Some(name) => name,
        None => own_name()?,
    };
    let request =
        JoinRequest { token, name, address: options.address, state_dir: options.state_dir };
    let host = hostler_agent::join(request).await?;
    tracing::info!(%host, "joined; start the agent with: systemctl enable --now hostler-agent");
    Ok(())
}

fn own_name() -> Result<Name> {
    let system = rustix::system::uname();
    let name = system.nodename().to_string_lossy().to_lowercase();
    let label = name.split('.').next().unwrap_or_default().to_owned();
    label.parse().with_context(|| {
        format!("this machine's host name `{name}` cannot be a host's name; give one with --name")
    })
}
