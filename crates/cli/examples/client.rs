//! The command line without daemons: what the tests run.

use std::process::ExitCode;

use hostler_cli::{AgentJoinOptions, AgentOptions, Daemons, ServerOptions};

struct None;

impl Daemons for None {
    fn server(&self, _: ServerOptions) -> anyhow::Result<()> {
        anyhow::bail!("this program has no server")
    }
    fn agent(&self, _: AgentOptions) -> anyhow::Result<()> {
        anyhow::bail!("this program has no agent")
    }
    fn agent_join(&self, _: AgentJoinOptions) -> anyhow::Result<()> {
        anyhow::bail!("this program has no agent")
    }
}

fn main() -> ExitCode {
    hostler_cli::main(&None)
}
