//! Chores of the repository: `cargo xtask check|openapi|bench|lab|dist`.
#![expect(clippy::print_stdout, reason = "chores talk to the person who runs them")]

mod check;
mod dist;
mod openapi;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Chores of the repository")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Formatting, clippy, crate graph, OpenAPI document, file limits: before every push
    Check {
        /// Write the crate graph and the OpenAPI document anew instead of comparing them
        #[arg(long)]
        bless: bool,
    },
    /// Write openapi/hostler-v1.json
    Openapi,
    /// Measure the figures, each as a ratio to the raw command in the same run
    Bench {
        /// Passed to the benchmark; see `cargo xtask bench -- --help`
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Several hosts on this machine: up, down, status, exec, link; needs root
    Lab {
        /// Passed on; see `cargo xtask lab help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Make a tarball and a .deb in target/dist
    Dist {
        /// Package this binary instead of building one for release
        #[arg(long, value_name = "FILE")]
        binary: Option<PathBuf>,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().chore {
        Chore::Check { bless } => check::check(bless),
        Chore::Openapi => openapi::write(),
        Chore::Bench { arguments } => bench(&arguments),
        Chore::Lab { arguments } => lab(&arguments),
        Chore::Dist { binary } => dist::dist(binary),
    }
}

/// The benchmark measures the release build, and is itself one.
fn bench(arguments: &[String]) -> Result<()> {
    run(cargo().args([
        "build",
        "--release",
        "--package",
        "hostler",
        "--package",
        "hostler-e2e",
        "--package",
        "hostler-sim",
    ]))?;
    run(Command::new(target().join("release/hostler-bench")).args(arguments))
}

/// The lab runs the binary of development.
fn lab(arguments: &[String]) -> Result<()> {
    run(cargo().args(["build", "--quiet", "--package", "hostler", "--package", "hostler-e2e"]))?;
    run(Command::new(target().join("debug/hostler-lab")).args(arguments))
}

/// The checkout's top folder.
fn root() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    folder.parent().map_or_else(|| folder.to_owned(), Path::to_owned)
}

/// Where cargo puts what it builds.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a command that must succeed.
fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}
