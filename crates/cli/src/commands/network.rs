//! `hostler network`.

use std::process::ExitCode;

use clap::{ArgGroup, Args, Subcommand};
use hostler_api::network::{self, NetworkCreate, NetworkListQuery, NetworkPath};
use hostler_endpoint::NoParams;
use hostler_types::{Ipv4Net, Name, Network, NetworkSpec, NetworkState, Ref};

use crate::error::CliError;
use crate::input::Label;
use crate::output::Listing;
use crate::session::{Session, once};
use crate::table::{Cell, Tone};
use crate::terminal::confirm;
use crate::time;

/// Networks that NICs are plugged into
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  hostler network list
  hostler network create lab --nat 10.88.0.0/24
  hostler network create office --bridge br0 --vlan 20"
)]
pub(crate) struct NetworkArgs {
    #[command(subcommand)]
    command: NetworkCommand,
}

#[derive(Debug, Subcommand)]
enum NetworkCommand {
    /// List networks
    #[command(visible_alias = "ls", after_help = "Examples:\n  hostler network list")]
    List,

    /// Show a network
    #[command(after_help = "Examples:\n  hostler network show default")]
    Show(Which),

    Create(Create),

    /// Delete a network that no VM uses
    #[command(visible_alias = "rm", after_help = "Examples:\n  hostler network delete lab --yes")]
    Delete(Delete),
}

#[derive(Debug, Args)]
struct Which {
    /// Name or id of the network
    #[arg(value_name = "NETWORK")]
    network: Ref,
}

/// Make a network
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("mode").required(true).args(["nat", "bridge"]),
    after_help = "\
Examples:
  hostler network create lab --nat 10.88.0.0/24
  hostler network create office --bridge br0 --vlan 20"
)]
struct Create {
    /// Name for the network
    #[arg(value_name = "NAME")]
    name: Name,

    /// A private network of this subnet on each host, with DHCP, DNS and address translation
    #[arg(long, value_name = "SUBNET")]
    nat: Option<Ipv4Net>,

    /// An existing Linux bridge of the hosts
    #[arg(long, value_name = "BRIDGE")]
    bridge: Option<String>,

    /// VLAN tag on the bridge, 1 to 4094
    #[arg(long, value_name = "TAG", requires = "bridge", value_parser = clap::value_parser!(u16).range(1..=4094))]
    vlan: Option<u16>,

    /// Label; repeat it for several
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE")]
    labels: Vec<Label>,
}

#[derive(Debug, Args)]
struct Delete {
    #[command(flatten)]
    which: Which,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

impl NetworkArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<ExitCode, CliError> {
        match self.command {
            NetworkCommand::List => list(session).await?,
            NetworkCommand::Show(which) => {
                let path = NetworkPath { network: which.network };
                let network = session.call::<network::Show>(&path, &NoParams {}, ()).await?;
                print(session, &network)?;
            }
            NetworkCommand::Create(create) => create.run(session).await?,
            NetworkCommand::Delete(delete) => {
                let name = delete.which.network.to_string();
                confirm(delete.yes, &format!("Delete the network {name}?"))?;
                let path = NetworkPath { network: delete.which.network };
                session.call::<network::Delete>(&path, &NoParams {}, ()).await?;
                session.output.done("deleted", "network", &name, &())?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn list(session: &Session) -> Result<(), CliError> {
    let query = NetworkListQuery::default();
    let networks = session.call::<network::List>(&NoParams {}, &query, ()).await?.items;
    session.output.list(
        &networks,
        &Listing {
            header: &["NAME", "STATE", "MODE", "DETAIL", "MESSAGE"],
            empty: "no networks",
            name: &|network| network.metadata.name.to_string(),
            row: &|network| {
                let (mode, detail) = describe(&network.spec);
                vec![
                    Cell::new(network.metadata.name.as_str()),
                    state(network),
                    Cell::new(mode),
                    Cell::new(detail),
                    Cell::maybe(network.status.message.as_ref()),
                ]
            },
        },
    )
}

fn describe(spec: &NetworkSpec) -> (&'static str, String) {
    match spec {
        NetworkSpec::Nat { subnet, .. } => ("nat", subnet.to_string()),
        NetworkSpec::Bridge { bridge, vlan: None, .. } => ("bridge", bridge.clone()),
        NetworkSpec::Bridge { bridge, vlan: Some(tag), .. } => {
            ("bridge", format!("{bridge}, VLAN {tag}"))
        }
    }
}

fn state(network: &Network) -> Cell {
    match network.status.state {
        NetworkState::Ready => Cell::new("ready").tone(Tone::Good),
        NetworkState::Failed => Cell::new("failed").tone(Tone::Bad),
    }
}

fn print(session: &Session, network: &Network) -> Result<(), CliError> {
    let fields = || {
        let one = |text: String| vec![Cell::new(text)];
        let (mode, detail) = describe(&network.spec);
        let labels = network.metadata.labels.iter();
        let mut fields = vec![
            ("Name", one(network.metadata.name.to_string())),
            ("Id", one(network.metadata.id.to_string())),
            ("Labels", labels.map(|(key, value)| Cell::new(format!("{key}={value}"))).collect()),
            ("State", vec![state(network)]),
            ("Message", network.status.message.iter().map(Cell::new).collect()),
            ("Mode", one(mode.to_owned())),
            (if mode == "nat" { "Subnet" } else { "Bridge" }, one(detail)),
            ("Created", one(time::show(network.metadata.created_at))),
        ];
        fields.retain(|(_, values)| !values.is_empty());
        fields
    };
    session.output.object(network, network.metadata.name.as_str(), fields)
}

impl Create {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let spec = match (self.nat, self.bridge) {
            (Some(subnet), _) => NetworkSpec::Nat { subnet, pool: None },
            (None, bridge) => NetworkSpec::Bridge {
                bridge: bridge.unwrap_or_default(),
                vlan: self.vlan,
                pool: None,
            },
        };
        let labels = self.labels.iter().map(Label::pair).collect();
        let request = NetworkCreate { name: self.name, labels, spec };
        let call =
            session.call_with::<network::Create>(&NoParams {}, &NoParams {}, request, once());
        let network = call.await?;
        session.output.done("created", "network", network.metadata.name.as_str(), &network)
    }
}
