//! The figures of `docs/benchmarks.md`: `cargo xtask bench`.
//!
//! Each is measured beside the raw command in the same run, contenders interleaved, and reported as
//! a ratio of medians. Runs on the release build of `hostler` that lies beside this program.
#![expect(clippy::print_stdout, reason = "a program for people")]

mod api;
mod change;
mod clone;
mod create;
mod figure;
mod footprint;
mod instant;
mod inventory;
mod migration;
mod ping;
mod placement;
mod raw_qemu;
mod scale;
mod snapshot;
mod stall;
mod start;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;

use figure::Figure;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench --", about = "Measure Hostler beside raw QEMU")]
struct Arguments {
    /// Repetitions of each measurement; the median counts
    #[arg(long, default_value_t = 11)]
    runs: usize,
    /// Only figures whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Where the figures are kept
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
}

type Measure = fn(usize) -> Result<Vec<Figure>>;

fn main() -> Result<()> {
    let given: Vec<_> = std::env::args().collect();
    if let [_, ping, address] = given.as_slice()
        && ping == ping::ARGUMENT
    {
        return ping::ask(address);
    }
    let arguments = Arguments::parse();
    rustls::crypto::ring::default_provider().install_default().ok();
    let measures: [(&str, Measure); 11] = [
        ("start", start::measure),
        ("create", create::measure),
        ("footprint", footprint::measure),
        ("inventory", inventory::measure),
        ("change", change::measure),
        ("snapshot", snapshot::measure),
        ("clone", clone::measure),
        ("instant", instant::measure),
        ("migration", migration::measure),
        ("policy-placement", placement::measure),
        ("scale", scale::measure),
    ];
    let mut figures = Vec::new();
    for (name, measure) in measures {
        if arguments.only.as_deref().is_none_or(|only| name.contains(only)) {
            println!("measuring: {name}");
            figures.extend(measure(arguments.runs).with_context(|| format!("measuring {name}"))?);
        }
    }
    println!("{}", figure::table(&figures));
    let text = serde_json::to_string_pretty(&figures)? + "\n";
    std::fs::write(&arguments.json, text)
        .with_context(|| format!("cannot write {}", arguments.json.display()))?;
    println!("kept as {}", arguments.json.display());
    Ok(())
}
