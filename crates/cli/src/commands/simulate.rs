//! `hostler simulate`: what would be, if the inventory were another.
//!
//! The question is answered here, by the functions that the server decides with, on what the server
//! exports or on a file of it: so the same file gives the same answer with and without a server.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use hostler_api::placement;
use hostler_endpoint::NoParams;
use hostler_policy::cluster::{ClusterSnapshot, ClusterVm};
use hostler_policy::whatif::{Edit, Question, edited, simulate};
use hostler_types::{InventoryExport, Simulation};
use serde::de::DeserializeOwned;

use crate::error::{CliError, Exit};
use crate::input;
use crate::options::GlobalOptions;
use crate::output::Output;
use crate::session::Session;
use edits::{HostCount, Reservation, VmCount, VmSize};

mod edits;
mod show;

/// Exports of another format are of another version.
const FORMAT: u32 = 1;
/// The longest export that is read: 400,000 VMs fit.
const LONGEST: u64 = 1 << 30;

/// Show what would be with other hosts, VMs, rules or reservations: moves, what would not fit and why
///
/// Reads the server's inventory, or a file that `hostler inventory export` wrote; changes nothing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler simulate --remove-host host03
  hostler simulate --fail-host host01 --fail-host host02
  hostler simulate --add-vms 20:2:4GiB --headroom 2:4GiB --memory-overcommit 100
  hostler simulate --inventory inventory.json --add-hosts 2:host01 --edits what-if.yaml -o json

A file of edits holds `edits`, and if need be `balance` and `headroom`:
  edits:
    - remove_hosts: [host03]
    - set_rule:
        name: apart
        strength: must
        kind: {anti_affinity: {vms: {labels: {tier: db}}, scope: {label: rack}}}
    - baseline: [avx2]

Where any memory may be promised, only the size of a host, rules and datastores bound what fits: ask with
--memory-overcommit. Edits are made in this order: the file's, then --drop-rule, --baseline, --reserve, --add-hosts,
--add-vms, --fail-host, --remove-host.")]
pub(crate) struct Simulate {
    /// An exported inventory [default: the server's, as it is now]
    #[arg(long, value_name = "FILE")]
    inventory: Option<PathBuf>,

    /// Edits from a YAML or JSON file (`-`: standard input)
    #[arg(long, value_name = "FILE", help_heading = "Edits")]
    edits: Option<PathBuf>,

    /// Take a host away, its VMs first; repeat it for several
    #[arg(long = "remove-host", value_name = "HOST", help_heading = "Edits")]
    remove_hosts: Vec<String>,

    /// Let a host fail: its VMs start elsewhere; repeat it for several
    #[arg(long = "fail-host", value_name = "HOST", help_heading = "Edits")]
    fail_hosts: Vec<String>,

    /// More hosts like one that is there, such as 2:host01
    #[arg(long, value_name = "COUNT:HOST", help_heading = "Edits")]
    add_hosts: Vec<HostCount>,

    /// More VMs, such as 20:2:4GiB, or 20:2:4GiB:50GiB with a disk
    #[arg(long, value_name = "COUNT:CPUS:MEMORY[:DISK]", help_heading = "Edits")]
    add_vms: Vec<VmCount>,

    /// Reserve for a VM, such as web01:memory=2GiB or web01:cpu=2000 (MHz)
    #[arg(long, value_name = "VM:WHAT=AMOUNT", help_heading = "Edits")]
    reserve: Vec<Reservation>,

    /// Leave out a rule; repeat it for several
    #[arg(long = "drop-rule", value_name = "RULE", help_heading = "Edits")]
    drop_rules: Vec<String>,

    /// CPU features that VMs start with, such as avx2,aes
    #[arg(long, value_name = "FEATURES", value_delimiter = ',', help_heading = "Edits")]
    baseline: Option<Vec<String>>,

    /// Memory that may be promised on a host, in percent of what it has [default: as it is]
    #[arg(long, value_name = "PERCENT", help_heading = "Edits", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    memory_overcommit: Option<u32>,

    /// vCPUs that may be promised for each CPU of a host [default: as it is]
    #[arg(long, value_name = "COUNT", help_heading = "Edits", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    vcpus_per_cpu: Option<u32>,

    /// How many more VMs of this size would fit, such as 2:4GiB; repeat it for several
    #[arg(long, value_name = "CPUS:MEMORY[:DISK]")]
    headroom: Vec<VmSize>,
}

impl Simulate {
    pub(crate) async fn run(self, globals: &GlobalOptions) -> Result<ExitCode, CliError> {
        let output = Output::new(globals);
        let snapshot = match &self.inventory {
            Some(path) => from_file(path)?,
            None => {
                let session = Session::open(globals)?;
                let none = NoParams {};
                let export = session.call::<placement::Export>(&none, &none, ()).await?;
                snapshot(export, "the server")?
            }
        };
        let question = self.question(snapshot)?;
        let failed = |error: &dyn std::fmt::Display| {
            CliError::new(Exit::Failed, format!("this cannot be simulated: {error}"))
        };
        let answer = simulate(&question).map_err(|error| failed(&error))?;
        if output.is_data() {
            output.data(&answer)?;
            return Ok(ExitCode::SUCCESS);
        }
        let after = edited(&question.snapshot, &question.edits).map_err(|error| failed(&error))?;
        show::print(&output, &after, &answer)?;
        Ok(ExitCode::SUCCESS)
    }

    fn question(self, mut snapshot: ClusterSnapshot) -> Result<Question, CliError> {
        let settings = &mut snapshot.settings;
        settings.memory_overcommit_percent =
            self.memory_overcommit.or(settings.memory_overcommit_percent);
        settings.vcpus_per_cpu = self.vcpus_per_cpu.or(settings.vcpus_per_cpu);
        let mut file = Simulation::default();
        if let Some(path) = &self.edits {
            let document = input::one_document(path)?;
            let place = path.display().to_string();
            file = parse(&place, document.into())?;
        }
        let mut edits: Vec<Edit> = parse_all("edits", file.edits)?;
        edits.extend(self.drop_rules.into_iter().map(Edit::RemoveRule));
        edits.extend(self.baseline.map(Edit::Baseline));
        edits.extend(self.reserve.into_iter().map(Reservation::edit));
        edits.extend(self.add_hosts.into_iter().map(HostCount::edit));
        for (number, vms) in (1..).zip(self.add_vms) {
            edits.push(vms.edit(&snapshot, number));
        }
        if !self.fail_hosts.is_empty() {
            edits.push(Edit::FailHosts(self.fail_hosts));
        }
        if !self.remove_hosts.is_empty() {
            edits.push(Edit::RemoveHosts(self.remove_hosts));
        }
        let mut headroom: Vec<ClusterVm> = parse_all("headroom", file.headroom)?;
        headroom.extend(self.headroom.iter().map(VmSize::vm));
        let balance = file.balance.map(|balance| parse("balance", balance)).transpose()?;
        Ok(Question { snapshot, edits, balance: balance.unwrap_or_default(), headroom })
    }
}

fn from_file(path: &Path) -> Result<ClusterSnapshot, CliError> {
    let place = path.display().to_string();
    let failed = |error: &dyn std::fmt::Display| {
        CliError::new(Exit::Failed, format!("cannot read {place}: {error}"))
    };
    let file = std::fs::File::open(path).map_err(|error| failed(&error))?;
    if file.metadata().map_err(|error| failed(&error))?.len() > LONGEST {
        return Err(failed(&"it is longer than the 1 GiB it may be"));
    }
    let export: InventoryExport =
        serde_json::from_reader(std::io::BufReader::new(file)).map_err(|error| {
            failed(&error).hint("it must be what `hostler inventory export` has written")
        })?;
    snapshot(export, &place)
}

fn snapshot(export: InventoryExport, place: &str) -> Result<ClusterSnapshot, CliError> {
    if export.format != FORMAT {
        let message = format!("{place}: an inventory of format {}, not of {FORMAT}", export.format);
        return Err(CliError::new(Exit::Failed, message)
            .hint("use the version of hostler that wrote it, or export it again"));
    }
    parse(place, export.snapshot)
}

fn parse<T: DeserializeOwned>(place: &str, value: serde_json::Value) -> Result<T, CliError> {
    serde_json::from_value(value)
        .map_err(|error| CliError::new(Exit::Failed, format!("{place}: {error}")))
}

fn parse_all<T: DeserializeOwned>(
    field: &str,
    values: Vec<serde_json::Value>,
) -> Result<Vec<T>, CliError> {
    let numbered = |(at, value)| parse(&format!("{field}[{at}]"), value);
    values.into_iter().enumerate().map(numbered).collect()
}
