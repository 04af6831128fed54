//! `cargo xtask lab`: several hosts on one machine, with real QEMU. See [`hostler_e2e::Lab`].
#![expect(clippy::print_stdout, reason = "a program for people")]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use hostler_e2e::{Lab, Link};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask lab --", about = "A lab of several hosts on this machine")]
struct Arguments {
    #[command(subcommand)]
    action: Action,
    /// Where all of it lies
    #[arg(long, global = true, default_value = "/tmp/hostler-lab")]
    dir: PathBuf,
    /// Tells labs apart that are there at once; at most 8 letters
    #[arg(long, global = true, default_value = "lab")]
    name: String,
    /// The binary under test [default: the one beside this program]
    #[arg(long, global = true, value_name = "FILE")]
    binary: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a lab; what was there of it goes first
    Up {
        /// How many hosts, 1 to 9
        #[arg(default_value_t = 3)]
        hosts: usize,
    },
    /// Remove all of it, also what a crash has left
    Down,
    /// What is there
    Status,
    /// Run a command in the network of a host (`host1`) or of the server (`net`)
    Exec {
        place: String,
        #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Make the cable of a host slow, cut it, or heal it
    Link {
        host: String,
        #[command(flatten)]
        what: What,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct What {
    /// No faster than that, both ways: 1gbit, 50mbit
    #[arg(long, value_name = "RATE")]
    rate: Option<String>,
    /// As fast as it goes
    #[arg(long)]
    unlimited: bool,
    /// Nothing comes through
    #[arg(long)]
    cut: bool,
    /// Nothing comes from the host any more
    #[arg(long)]
    cut_out: bool,
    /// Everything comes through again
    #[arg(long)]
    heal: bool,
}

impl What {
    fn link(&self) -> Link {
        match (&self.rate, self.unlimited, self.cut, self.cut_out) {
            (Some(rate), ..) => Link::Rate(rate.clone()),
            (_, true, ..) => Link::Unlimited,
            (_, _, true, _) => Link::Cut,
            (_, _, _, true) => Link::CutOut,
            _ => Link::Heal,
        }
    }
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let name = &arguments.name;
    if name.is_empty() || name.len() > 8 || !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        bail!("--name: at most 8 letters and digits");
    }
    let binary = arguments.binary.map_or_else(beside, Ok)?;
    let lab = Lab::new(arguments.dir, name, binary);
    match arguments.action {
        Action::Up { hosts } => {
            lab.up(hosts)?;
            println!("{hosts} hosts are up.\n{}", lab.how_to());
        }
        Action::Down => lab.down()?,
        Action::Status => println!("{}", lab.status()?),
        Action::Exec { place, command } => {
            let [program, rest @ ..] = command.as_slice() else { bail!("no command") };
            let mut command = lab.command_in(&place, program);
            command.args(rest).stdin(std::process::Stdio::inherit());
            let code = command.status()?.code().and_then(|code| u8::try_from(code).ok());
            return Ok(code.map_or(ExitCode::FAILURE, ExitCode::from));
        }
        Action::Link { host, what } => lab.link(&host, &what.link())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn beside() -> Result<PathBuf> {
    let own = std::env::current_exe().context("find this program")?;
    Ok(own.with_file_name("hostler"))
}
