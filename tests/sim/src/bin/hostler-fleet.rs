//! Thousands of simulated hosts for a real server.
//!
//! Writes a server's state with hosts and VMs, then answers for the hosts' agents until it is
//! ended. All their addresses are in 127.0.0.0/8, port 7444.
#![expect(clippy::print_stdout, reason = "a program for people")]

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use hostler_sim::bulk::{Plan, record};
use hostler_sim::serve::Agents;

#[derive(Debug, Parser)]
#[command(
    about = "Simulate the hosts of a large fleet",
    after_help = "Then start the server: hostler server --state-dir DIRECTORY …"
)]
struct Arguments {
    /// The state directory of the server that is to be started then; must not exist
    #[arg(long, value_name = "DIRECTORY")]
    state_dir: PathBuf,
    #[arg(long, default_value_t = 1_000)]
    hosts: usize,
    /// In all
    #[arg(long, default_value_t = 20_000)]
    vms: usize,
    /// How many VMs change in a second, in all
    #[arg(long, default_value_t = 0.0)]
    changes: f64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Arguments { state_dir, hosts, vms, changes } = Arguments::parse();
    ensure!(hosts > 0 && hosts <= 60_000, "--hosts must be 1 to 60000");
    ensure!(vms < 1 << 24, "--vms must be less than {}", 1 << 24);
    ensure!(!state_dir.exists(), "{} exists already", state_dir.display());
    std::fs::create_dir_all(&state_dir)
        .with_context(|| format!("cannot make {}", state_dir.display()))?;
    let recorded = record(&state_dir, Plan { hosts, vms }).await?;
    let agents = Agents::new(&state_dir, recorded)?;
    agents.serve(changes, || println!("ready")).await
}
