//! The tree of commands below `hostler`, one file per resource.

mod agent;
mod apply;
mod approval_rule;
mod cluster;
mod completion;
mod context;
mod customization;
mod datastore;
mod decision;
mod drs;
mod event;
mod group;
mod host;
mod image;
mod import;
mod inventory;
mod login;
mod manual;
mod naming_rule;
mod network;
mod pool;
mod recycle_bin;
mod request;
mod rule;
mod server;
mod simulate;
mod snapshot_policy;
mod stats;
mod task;
mod template;
mod token;
mod upload;
mod user;
mod version;
mod vm;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::daemon::Daemons;
use crate::error::{CliError, Exit};
use crate::options::GlobalOptions;
use crate::session::Session;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  wrong usage
  3  not found
  4  conflict: wrong state, name taken, or changed by someone else meanwhile
  5  not logged in, or not allowed
  6  cannot connect
  7  timeout
  8  no capacity
  130  interrupted
`hostler vm exec` passes the exit code of the guest's command.

Examples:
  hostler server --with-agent
  hostler image import debian-12 ./debian-12-genericcloud-amd64.qcow2
  hostler vm create web01 --image debian-12 --ssh-key ~/.ssh/id_ed25519.pub --start --wait=guest
  hostler vm ssh web01";

/// Manage virtual machines on Linux hosts.
#[derive(Debug, Parser)]
#[command(
    name = "hostler",
    bin_name = "hostler",
    version,
    after_help = EXIT_CODES,
    arg_required_else_help = true,
    subcommand_required = true,
    propagate_version = false,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: GlobalOptions,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Vm(vm::VmArgs),
    Image(image::ImageArgs),
    Template(template::TemplateArgs),
    Apply(apply::Apply),
    Network(network::NetworkArgs),
    #[command(visible_alias = "spec", alias = "customization-spec")]
    Customization(Box<customization::CustomizationArgs>),
    Datastore(datastore::DatastoreArgs),
    RecycleBin(recycle_bin::RecycleBinArgs),
    NamingRule(naming_rule::NamingRuleArgs),
    SnapshotPolicy(snapshot_policy::SnapshotPolicyArgs),
    Request(Box<request::RequestArgs>),
    ApprovalRule(approval_rule::ApprovalRuleArgs),
    Rule(Box<rule::RuleArgs>),
    Group(group::GroupArgs),
    Simulate(Box<simulate::Simulate>),
    Inventory(inventory::InventoryArgs),
    Decision(decision::DecisionArgs),
    Drs(drs::DrsArgs),
    Host(host::HostArgs),
    Cluster(cluster::ClusterArgs),
    Pool(Box<pool::PoolArgs>),
    Task(task::TaskArgs),
    Event(event::EventArgs),
    User(user::UserArgs),
    Token(token::TokenArgs),
    Login(login::Login),
    Logout(login::Logout),
    Whoami(login::Whoami),
    Context(context::ContextArgs),
    Server(Box<server::Server>),
    Agent(agent::Agent),
    Version(version::Version),
    Completion(completion::Completion),
    Man(manual::Manual),
}

/// The whole tree, for help, completion and man pages.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Does what was parsed.
pub(crate) fn run(cli: Cli, daemons: &dyn Daemons) -> Result<ExitCode, CliError> {
    match cli.command {
        Command::Server(server) => server.run(daemons),
        Command::Agent(agent) => agent.run(&cli.globals, daemons),
        Command::Completion(completion) => completion.run(),
        Command::Man(manual) => manual.run(),
        Command::Context(context) => context.run(&cli.globals),
        client => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| CliError::new(Exit::Failed, format!("cannot start: {error}")))?;
            let result = runtime.block_on(run_client(client, &cli.globals));
            // What still reads a file or a terminal must not keep us.
            runtime.shutdown_background();
            result
        }
    }
}

async fn run_client(command: Command, globals: &GlobalOptions) -> Result<ExitCode, CliError> {
    let open = || Session::open(globals);
    match command {
        Command::Vm(command) => command.run(&open()?).await,
        Command::Image(command) => command.run(&open()?).await,
        Command::Template(command) => command.run(&open()?).await,
        Command::Apply(command) => command.run(&open()?).await,
        Command::Network(command) => command.run(&open()?).await,
        Command::Customization(command) => command.run(&open()?).await,
        Command::Datastore(command) => command.run(&open()?).await,
        Command::RecycleBin(command) => command.run(&open()?).await,
        Command::NamingRule(command) => command.run(&open()?).await,
        Command::SnapshotPolicy(command) => command.run(&open()?).await,
        Command::Request(command) => command.run(&open()?).await,
        Command::ApprovalRule(command) => command.run(&open()?).await,
        Command::Rule(command) => command.run(&open()?).await,
        Command::Group(command) => command.run(&open()?).await,
        Command::Simulate(command) => command.run(globals).await,
        Command::Inventory(command) => command.run(&open()?).await,
        Command::Decision(command) => command.run(&open()?).await,
        Command::Drs(command) => command.run(&open()?).await,
        Command::Host(command) => command.run(&open()?).await,
        Command::Cluster(command) => command.run(&open()?).await,
        Command::Pool(command) => command.run(&open()?).await,
        Command::Task(command) => command.run(&open()?).await,
        Command::Event(command) => command.run(&open()?).await,
        Command::User(command) => command.run(&open()?).await,
        Command::Token(command) => command.run(&open()?).await,
        Command::Whoami(command) => command.run(&open()?).await,
        Command::Login(command) => command.run(globals).await,
        Command::Logout(command) => command.run(globals).await,
        Command::Version(command) => command.run(globals).await,
        Command::Server(_)
        | Command::Agent(_)
        | Command::Completion(_)
        | Command::Man(_)
        | Command::Context(_) => unreachable!("these need no runtime and were run above"),
    }
}
