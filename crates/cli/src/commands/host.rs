//! `hostler host`.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use hostler_api::host::{self, HostListQuery, HostPath, HostUpdate, HostVm, JoinTokenRequest};
use hostler_endpoint::{CallOptions, NoParams};
use hostler_types::{Host, HostState, Ref};

use crate::error::{CliError, Exit};
use crate::input::Label;
use crate::options::Format;
use crate::output::{self, Listing};
use crate::session::{Session, once};
use crate::table::{Cell, Tone};
use crate::terminal::confirm;
use crate::time;

mod maintenance;

use maintenance::Maintenance;

/// VMs of a host that are named one by one.
const SOME: usize = 5;

/// Hosts: the machines that VMs run on
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:\n  hostler host list\n  hostler host set host01 --label rack=r1\n  hostler host join-token"
)]
pub(crate) struct HostArgs {
    #[command(subcommand)]
    command: HostCommand,
}

#[derive(Debug, Subcommand)]
enum HostCommand {
    /// List hosts
    #[command(visible_alias = "ls", after_help = "Examples:\n  hostler host list")]
    List,

    /// Show a host
    #[command(after_help = "Examples:\n  hostler host show host01")]
    Show(Which),

    /// Show what a host and its VMs use now, and what they have to do without
    #[command(after_help = "\
Examples:
  hostler host stats host01
  hostler host stats host01 -o json

Pressure is the part of the time for which something on the host had to wait; VMs that waited most for
a CPU come first. Measured every 5 seconds by the host's agent.")]
    Stats(Which),

    Set(Set),

    Maintenance(Maintenance),

    JoinToken(JoinToken),

    /// Forget a host that has no VMs; its certificate is refused from then on
    #[command(visible_alias = "rm", after_help = "Examples:\n  hostler host delete host01 --yes")]
    Delete(Delete),
}

#[derive(Debug, Args)]
struct Which {
    /// Name or id of the host
    #[arg(value_name = "HOST")]
    host: Ref,
}

/// Change a host: its labels, which placement rules select by
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler host set host01 --label rack=r1 --label licence=oracle
  hostler host set host01 --unlabel licence")]
struct Set {
    #[command(flatten)]
    which: Which,

    /// Give it this label; repeat it for several
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE")]
    labels: Vec<Label>,

    /// Take this label from it; repeat it for several
    #[arg(long = "unlabel", value_name = "KEY")]
    unlabels: Vec<String>,
}

/// Make a token with which one machine may join as a host, once
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler host join-token
  hostler host join-token --expires 10m

On the new host: hostler agent join TOKEN --address 10.0.0.5:8444")]
struct JoinToken {
    /// How long it may be used, 1m to 7d
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = crate::duration::parse)]
    expires: Duration,
}

#[derive(Debug, Args)]
struct Delete {
    #[command(flatten)]
    which: Which,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

impl HostArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<ExitCode, CliError> {
        match self.command {
            HostCommand::List => list(session).await?,
            HostCommand::Show(which) => {
                let path = HostPath { host: which.host };
                let host = session.call::<host::Show>(&path, &NoParams {}, ()).await?;
                print(session, &host)?;
                if session.output.is_table() && host.status.state == HostState::Connected {
                    remark_unregistered(session, &path, &host).await;
                }
            }
            HostCommand::Stats(which) => {
                let path = HostPath { host: which.host };
                let told = session.call::<host::Stats>(&path, &NoParams {}, ()).await?;
                super::stats::print_host(session, &told)?;
            }
            HostCommand::Set(set) => set.run(session).await?,
            HostCommand::Maintenance(maintenance) => maintenance.run(session).await?,
            HostCommand::JoinToken(token) => token.run(session).await?,
            HostCommand::Delete(delete) => {
                let name = delete.which.host.to_string();
                confirm(delete.yes, &format!("Forget the host {name}?"))?;
                let path = HostPath { host: delete.which.host };
                session.call::<host::Delete>(&path, &NoParams {}, ()).await?;
                session.output.done("forgotten", "host", &name, &())?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn list(session: &Session) -> Result<(), CliError> {
    let query = HostListQuery::default();
    let hosts = session.call::<host::List>(&NoParams {}, &query, ()).await?.items;
    session.output.list(
        &hosts,
        &Listing {
            header: &["NAME", "STATE", "CPUS", "MEMORY", "ACCELERATOR", "QEMU", "ADDRESS"],
            empty: "no hosts",
            name: &|host| host.metadata.name.to_string(),
            row: &|host| {
                let facts = host.status.facts.as_ref();
                vec![
                    Cell::new(host.metadata.name.as_str()),
                    state(host),
                    facts.map_or(Cell::new(""), |facts| Cell::number(facts.cpus)),
                    facts.map_or(Cell::new(""), |facts| Cell::number(facts.memory)),
                    Cell::maybe(facts.map(|facts| facts.accelerator.as_str())),
                    Cell::maybe(facts.map(|facts| &facts.qemu_version)),
                    Cell::new(&host.spec.address),
                ]
            },
        },
    )
}

fn state(host: &Host) -> Cell {
    match host.status.state {
        HostState::Joined => Cell::new("joined").tone(Tone::Busy),
        HostState::Connected if host.spec.maintenance => Cell::new("maintenance").tone(Tone::Busy),
        HostState::Connected => Cell::new("connected").tone(Tone::Good),
        HostState::Disconnected => Cell::new("disconnected").tone(Tone::Bad),
    }
}

fn print(session: &Session, host: &Host) -> Result<(), CliError> {
    let fields = || {
        let one = |text: String| vec![Cell::new(text)];
        let labels = host.metadata.labels.iter();
        let mut fields = vec![
            ("Name", one(host.metadata.name.to_string())),
            ("Id", one(host.metadata.id.to_string())),
            ("Labels", labels.map(|(key, value)| Cell::new(format!("{key}={value}"))).collect()),
            ("State", vec![state(host)]),
            ("Since", one(time::show(host.status.since))),
            ("Message", host.status.message.iter().map(Cell::new).collect()),
            ("Address", one(host.spec.address.clone())),
        ];
        let away = host.status.evacuated.len();
        if host.spec.maintenance && away > 0 {
            let told = format!(
                "{away} VMs have left it; `host maintenance exit --bring-back` returns them"
            );
            fields.push(("Maintenance", one(told)));
        }
        if let Some(facts) = &host.status.facts {
            let warnings = facts.warnings.iter().map(|w| Cell::new(w).tone(Tone::Busy));
            fields.extend([
                ("Host name", one(facts.hostname.clone())),
                ("CPUs", one(format!("{} × {}", facts.cpus, facts.cpu_model))),
                ("Memory", one(facts.memory.to_string())),
                ("Kernel", one(facts.kernel.clone())),
                ("QEMU", one(facts.qemu_version.clone())),
                ("Accelerator", one(facts.accelerator.as_str().to_owned())),
                ("Control groups", one(format!("version {}", facts.cgroup_version))),
                ("Bridges", facts.bridges.iter().map(Cell::new).collect()),
                ("Agent", one(facts.agent_version.clone())),
                ("Warnings", warnings.collect()),
            ]);
        }
        fields.retain(|(_, values)| !values.is_empty());
        fields
    };
    session.output.object(host, host.metadata.name.as_str(), fields)
}

/// The host has told what it is, and that is what was asked for: who may not see its other VMs, or a
/// host that is slow to list them, makes this no failure.
async fn remark_unregistered(session: &Session, path: &HostPath, host: &Host) {
    let found = session.call::<host::Unregistered>(path, &NoParams {}, ()).await;
    let vms = found.map(|page| page.items).unwrap_or_default();
    if vms.is_empty() {
        return;
    }
    let called = |vm: &HostVm| {
        let name = vm.name.as_ref().map_or_else(|| vm.id.to_string(), ToString::to_string);
        format!("{name} ({})", vm.power)
    };
    let mut names: Vec<_> = vms.iter().take(SOME).map(called).collect();
    if vms.len() > SOME {
        names.push(format!("{} more", vms.len() - SOME));
    }
    let (names, host) = (names.join(", "), &host.metadata.name);
    session.output.remark(&format!(
        "it has VMs that are not in the inventory: {names}; see `hostler vm register --from-host {host}`"
    ));
}

impl Set {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        if self.labels.is_empty() && self.unlabels.is_empty() {
            return Err(CliError::new(Exit::Usage, "nothing to change")
                .hint("see `hostler host set --help`"));
        }
        let (path, none) = (HostPath { host: self.which.host }, NoParams {});
        let before = session.call::<host::Show>(&path, &none, ()).await?;
        let mut labels = before.metadata.labels;
        labels.retain(|key, _| !self.unlabels.contains(key));
        labels.extend(self.labels.iter().map(Label::pair));
        // All are replaced: what was read must still be there.
        let options = CallOptions { if_match: Some(before.metadata.revision.0), ..once() };
        let update = HostUpdate { labels: Some(labels) };
        let host = session.call_with::<host::Update>(&path, &none, update, options).await?;
        session.output.done("changed", "host", host.metadata.name.as_str(), &host)
    }
}

impl JoinToken {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let seconds = u32::try_from(self.expires.as_secs()).unwrap_or(u32::MAX);
        let request = JoinTokenRequest { lifetime_seconds: Some(seconds) };
        let call = session.call::<host::CreateJoinToken>(&NoParams {}, &NoParams {}, request);
        let created = call.await?;
        match session.output.format {
            Format::Json | Format::Yaml => session.output.data(&created),
            Format::Table | Format::Name => {
                output::print(&format!("{}\n", created.token))?;
                let until = time::show(created.expires_at);
                session.output.remark(&format!("for one host, until {until}; shown only now"));
                Ok(())
            }
        }
    }
}
