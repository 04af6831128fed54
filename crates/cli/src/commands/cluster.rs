//! `hostler cluster`.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use hostler_api::cluster;
use hostler_endpoint::NoParams;
use hostler_types::{
    Automation, BaselineHost, Cluster, ClusterUpdate, CpuBaselineReport, Strategy,
};
use serde::Serialize;

use crate::error::{CliError, Exit};
use crate::session::{Session, once};
use crate::table::Cell;

/// The cluster: what holds for all hosts together
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  hostler cluster get
  hostler cluster set --strategy spread --vcpus-per-cpu 8"
)]
pub(crate) struct ClusterArgs {
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Show what holds for all hosts
    #[command(visible_alias = "show", after_help = "Examples:\n  hostler cluster get -o json")]
    Get,

    Set(Set),
}

/// Change what holds for all hosts
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler cluster set --strategy pack --drs full --drs-aggressiveness 3
  hostler cluster set --memory-overcommit 150 --vcpus-per-cpu 8
  hostler cluster set --memory-overcommit any
  hostler cluster set --cpu-baseline Haswell-noTSX,+spec-ctrl")]
struct Set {
    /// Which host a VM gets of those that can take it
    #[arg(long, value_enum, value_name = "STRATEGY")]
    strategy: Option<StrategyArg>,

    /// What balancing may do by itself
    #[arg(long, alias = "automation", value_enum, value_name = "LEVEL")]
    drs: Option<AutomationArg>,

    /// How readily it moves VMs: 1 only what must be, to 5 as even as is worth the moves
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(u8).range(1..=5))]
    drs_aggressiveness: Option<u8>,

    /// Memory that may be promised to a host's VMs, in percent of what it has, or `any`
    #[arg(long, value_name = "PERCENT", value_parser = number_or_any)]
    memory_overcommit: Option<Bound>,

    /// vCPUs for each logical CPU of a host, or `any`
    #[arg(long, value_name = "COUNT", value_parser = number_or_any)]
    vcpus_per_cpu: Option<Bound>,

    /// What VMs see of their host's CPU that start from now on: `auto` is the most that all hosts have, `none`
    /// all that the host has, or a model with features beyond it
    #[arg(long, value_name = "auto|none|MODEL[,+FEATURE]")]
    cpu_baseline: Option<String>,

    /// What it is for, in words
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
}

/// 0 is any.
#[derive(Debug, Clone, Copy)]
struct Bound(u32);

fn number_or_any(text: &str) -> Result<Bound, String> {
    match text.parse() {
        Ok(number @ 1..) => Ok(Bound(number)),
        _ if text == "any" => Ok(Bound(0)),
        _ => Err(format!("`{text}` is not possible; use a number from 1 on, or any")),
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StrategyArg {
    /// Fill hosts up, so that others stay free for large VMs
    Pack,
    /// The host whose scarcest resource is used the least
    Spread,
    /// The host with the most memory not promised to VMs
    FreeMemory,
}

impl From<StrategyArg> for Strategy {
    fn from(strategy: StrategyArg) -> Self {
        match strategy {
            StrategyArg::Pack => Self::Pack,
            StrategyArg::Spread => Self::Spread,
            StrategyArg::FreeMemory => Self::FreeMemory,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum AutomationArg {
    /// Not even recommend a move
    #[value(alias = "off")]
    Disabled,
    /// Recommend only, also a host for a new VM: `vm create` asks for --host
    Manual,
    /// Place new VMs by itself, recommend moves
    Partial,
    /// Place and move by itself
    Full,
}

impl From<AutomationArg> for Automation {
    fn from(automation: AutomationArg) -> Self {
        match automation {
            AutomationArg::Disabled => Self::Disabled,
            AutomationArg::Manual => Self::Manual,
            AutomationArg::Partial => Self::Partial,
            AutomationArg::Full => Self::Full,
        }
    }
}

/// The cluster as it is, and beside it what its CPU baseline comes from.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    cluster: &'a Cluster,
    cpu_baseline: &'a CpuBaselineReport,
}

impl ClusterArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<ExitCode, CliError> {
        let none = NoParams {};
        match self.command {
            ClusterCommand::Get => {
                let cluster = session.call::<cluster::Show>(&none, &none, ()).await?;
                let name = cluster.metadata.name.to_string();
                let baseline = session.call::<cluster::CpuBaseline>(&none, &none, ()).await?;
                let shown = Shown { cluster: &cluster, cpu_baseline: &baseline };
                session.output.object(&shown, &name, || {
                    let mut all = fields(&cluster);
                    all.extend(baseline_fields(&baseline));
                    all
                })?;
            }
            ClusterCommand::Set(set) => {
                let update = set.update();
                if update == ClusterUpdate::default() {
                    return Err(CliError::new(Exit::Usage, "nothing to change")
                        .hint("see `hostler cluster set --help`"));
                }
                let asks_for_baseline = update.cpu_baseline.is_some();
                let call = session.call_with::<cluster::Update>(&none, &none, update, once());
                let cluster = call.await?;
                let name = cluster.metadata.name.to_string();
                session.output.done("changed", "cluster", &name, &cluster)?;
                if asks_for_baseline {
                    let report = session.call::<cluster::CpuBaseline>(&none, &none, ()).await?;
                    remarks(&report).iter().for_each(|told| session.output.remark(told));
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Set {
    fn update(self) -> ClusterUpdate {
        ClusterUpdate {
            description: self.description,
            strategy: self.strategy.map(Strategy::from),
            automation: self.drs.map(Automation::from),
            aggressiveness: self.drs_aggressiveness,
            memory_overcommit_percent: self.memory_overcommit.map(|bound| bound.0),
            vcpus_per_cpu: self.vcpus_per_cpu.map(|bound| bound.0),
            cpu_baseline: self.cpu_baseline,
        }
    }
}

fn fields(cluster: &Cluster) -> Vec<(&'static str, Vec<Cell>)> {
    let one = |text: String| vec![Cell::new(text)];
    let spec = &cluster.spec;
    let bound = |bound: Option<u32>, unit: &str| {
        bound.map_or_else(|| "any".to_owned(), |bound| format!("{bound}{unit}"))
    };
    vec![
        ("Name", one(cluster.metadata.name.to_string())),
        ("Id", one(cluster.metadata.id.to_string())),
        ("Description", one(spec.description.clone())),
        ("Strategy", one(spec.strategy.as_str().replace('_', "-"))),
        ("DRS", one(spec.automation.as_str().to_owned())),
        ("DRS aggressiveness", one(format!("{} of 5", spec.aggressiveness))),
        ("Memory overcommit", one(bound(spec.memory_overcommit_percent, " %"))),
        ("vCPUs per CPU", one(bound(spec.vcpus_per_cpu, ""))),
    ]
}

fn baseline_fields(report: &CpuBaselineReport) -> Vec<(&'static str, Vec<Cell>)> {
    let one = |text: String| vec![Cell::new(text)];
    let baseline = match (&report.baseline, &report.message) {
        (Some(baseline), _) => baseline.to_string(),
        (None, Some(message)) => format!("none: {message}"),
        (None, None) => "none: VMs see all that their host has".to_owned(),
    };
    let mut fields =
        vec![("CPU baseline", one(report.setting.to_string())), ("VMs get", one(baseline))];
    let hosts: Vec<_> = report.hosts.iter().map(|host| Cell::new(host_told(host))).collect();
    if !hosts.is_empty() {
        fields.push(("Held back by", hosts));
    }
    if report.other_vms > 0 {
        fields.push(("Other CPU", one(others(report))));
    }
    fields
}

fn host_told(host: &BaselineHost) -> String {
    let missing = host.missing.join(", ");
    match host.below {
        true => format!("{} is below it and takes no VMs that get it: lacks {missing}", host.host),
        false => format!("{} lacks {missing}", host.host),
    }
}

/// Names that are shown.
const SOME: usize = 5;

fn others(report: &CpuBaselineReport) -> String {
    let names = &report.other_vm_names;
    let mut told = names.iter().take(SOME).cloned().collect::<Vec<_>>().join(", ");
    let shown = u64::try_from(names.len().min(SOME)).unwrap_or(u64::MAX);
    if report.other_vms > shown {
        told = format!("{told} and {} more", report.other_vms - shown);
    }
    format!("{told}, until power is cycled")
}

/// What follows from a new baseline.
fn remarks(report: &CpuBaselineReport) -> Vec<String> {
    let mut told: Vec<_> = report.hosts.iter().filter(|host| host.below).map(host_told).collect();
    if report.other_vms > 0 {
        told.push(format!("keep the CPU that they have: {}", others(report)));
    }
    told
}
