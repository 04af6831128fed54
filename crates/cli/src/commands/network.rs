//! `hostler network`.

use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;

use clap::{ArgGroup, Args, Subcommand};
use hostler_api::network::{self, NetworkCreate, NetworkListQuery, NetworkPath, PoolRequest};
use hostler_endpoint::NoParams;
use hostler_types::{
    AddressPool, AddressRange, Ipv4Net, Name, Network, NetworkSpec, NetworkState, Ref,
};

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

    Set(Set),

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

    #[command(flatten)]
    pool: Pool,

    /// Label; repeat it for several
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE")]
    labels: Vec<Label>,
}

/// Static addresses for NICs.
#[derive(Debug, Args)]
struct Pool {
    /// Addresses that NICs may be given, each to one, such as 10.0.0.50-10.0.0.99
    #[arg(long = "pool", value_name = "FIRST-LAST", help_heading = "Address pool")]
    range: Option<AddressRange>,

    /// Length of the network's prefix [default: that of the NAT subnet]
    #[arg(long, value_name = "BITS", requires = "range", help_heading = "Address pool")]
    prefix: Option<u8>,

    /// Gateway [default: the host's address in a NAT network]
    #[arg(long, value_name = "ADDRESS", requires = "range", help_heading = "Address pool")]
    gateway: Option<Ipv4Addr>,

    /// Name server; repeat it for several [default: the gateway of a NAT network]
    #[arg(long, value_name = "ADDRESS", requires = "range", help_heading = "Address pool")]
    dns: Vec<IpAddr>,

    /// Search domain; repeat it for several
    #[arg(long, value_name = "DOMAIN", requires = "range", help_heading = "Address pool")]
    search: Vec<String>,
}

impl Pool {
    fn wanted(self) -> Option<AddressPool> {
        let Self { range, prefix, gateway, dns, search } = self;
        Some(AddressPool { range: range?, prefix, gateway, dns, search })
    }
}

/// Give a network an address pool, or take it away
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler network set default --pool 10.77.0.100-10.77.0.199
  hostler network set office --pool 192.168.7.50-192.168.7.99 --prefix 24 --gateway 192.168.7.1
  hostler network set office --no-pool")]
struct Set {
    #[command(flatten)]
    which: Which,

    #[command(flatten)]
    pool: Pool,

    /// Take the pool away; addresses that NICs have stay theirs
    #[arg(long, conflicts_with = "range", required_unless_present = "range")]
    no_pool: bool,
}

impl Set {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let path = NetworkPath { network: self.which.network };
        let request = PoolRequest { pool: self.pool.wanted() };
        let call = session.call_with::<network::SetPool>(&path, &NoParams {}, request, once());
        let network = call.await?;
        session.output.done("changed", "network", network.metadata.name.as_str(), &network)
    }
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
            NetworkCommand::Set(set) => set.run(session).await?,
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

fn pool(spec: &NetworkSpec) -> Vec<Cell> {
    let Some(pool) = spec.pool() else { return Vec::new() };
    let gateway = pool.gateway.map(|gateway| format!("gateway {gateway}"));
    let dns = pool.dns.iter().map(|server| format!("DNS {server}"));
    let search = pool.search.iter().map(|domain| format!("search {domain}"));
    let more = gateway.into_iter().chain(dns).chain(search);
    std::iter::once(pool.range.to_string()).chain(more).map(Cell::new).collect()
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
            ("Address pool", pool(&network.spec)),
            ("Created", one(time::show(network.metadata.created_at))),
        ];
        fields.retain(|(_, values)| !values.is_empty());
        fields
    };
    session.output.object(network, network.metadata.name.as_str(), fields)
}

impl Create {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let pool = self.pool.wanted();
        let spec = match (self.nat, self.bridge) {
            (Some(subnet), _) => NetworkSpec::Nat { subnet, pool },
            (None, bridge) => {
                NetworkSpec::Bridge { bridge: bridge.unwrap_or_default(), vlan: self.vlan, pool }
            }
        };
        let labels = self.labels.iter().map(Label::pair).collect();
        let request = NetworkCreate { name: self.name, labels, spec };
        let call =
            session.call_with::<network::Create>(&NoParams {}, &NoParams {}, request, once());
        let network = call.await?;
        session.output.done("created", "network", network.metadata.name.as_str(), &network)
    }
}
