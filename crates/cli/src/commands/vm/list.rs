//! `hostler vm list|show`.

use clap::Args;
use hostler_api::vm::{self, VmPath};
use hostler_endpoint::NoParams;
use hostler_types::{CustomizationState, LastMove, Name, PowerState, Ref, Vm, counted};
use jiff::Timestamp;

use super::VmName;
use crate::error::CliError;
use crate::names::Names;
use crate::output::Listing;
use crate::session::Session;
use crate::table::{Cell, Tone};
use crate::time;

/// List VMs
#[derive(Debug, Args)]
#[command(
    visible_alias = "ls",
    after_help = "\
Examples:
  hostler vm list
  hostler vm list --power running --label tier=web
  hostler vm list -o json"
)]
pub(crate) struct List {
    /// Only VMs with this label; repeat it for several
    #[arg(long = "label", short = 'l', value_name = "KEY[=VALUE]")]
    labels: Vec<String>,

    /// Only VMs in this power state, such as running or stopped
    #[arg(long, value_name = "STATE", value_parser = parse_power)]
    power: Option<PowerState>,

    /// Only VMs of this host
    #[arg(long, value_name = "HOST")]
    host: Option<Ref>,

    /// Only VMs on this datastore
    #[arg(long, value_name = "DATASTORE")]
    datastore: Option<Ref>,

    /// Only VMs whose name begins with this
    #[arg(long, value_name = "PREFIX")]
    name: Option<String>,
}

fn parse_power(text: &str) -> Result<PowerState, String> {
    let names = PowerState::ALL.map(PowerState::as_str).join(", ");
    (PowerState::ALL.into_iter().find(|state| state.as_str() == text))
        .ok_or_else(|| format!("a power state is one of {names}"))
}

impl List {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let query = vm::VmListQuery {
            label: self.labels,
            name: self.name,
            power: self.power,
            host: self.host,
            datastore: self.datastore,
            ..vm::VmListQuery::default()
        };
        let (vms, names) = futures::try_join!(all(session, query), Names::hosts(session))?;
        // Where nobody has a lease or a snapshot, nobody needs the column.
        let leases = vms.iter().any(|vm| vm.spec.lease.is_some());
        let snapshots = vms.iter().any(|vm| !vm.status.snapshots.is_empty());
        let mut header = vec!["NAME", "STATE", "CPUS", "MEMORY", "HOST", "ADDRESS", "GUEST"];
        header.extend(snapshots.then_some("SNAPSHOTS"));
        header.extend(leases.then_some("LEASE"));
        let now = Timestamp::now();
        session.output.list(
            &vms,
            &Listing {
                header: &header,
                empty: "no VMs",
                name: &|vm| vm.metadata.name.to_string(),
                row: &|vm| {
                    let mut row = row(vm, &names);
                    row.extend(snapshots.then(|| super::snapshot::count(vm)));
                    row.extend(leases.then(|| super::lease::left(vm.spec.lease.as_ref(), now)));
                    row
                },
            },
        )
    }
}

/// Every page of the list.
pub(super) async fn all(
    session: &Session,
    mut query: vm::VmListQuery,
) -> Result<Vec<Vm>, CliError> {
    let mut vms = Vec::new();
    loop {
        let page = session.call::<vm::List>(&NoParams {}, &query, ()).await?;
        vms.extend(page.items);
        match page.next {
            Some(next) => query.after = Some(next),
            None => return Ok(vms),
        }
    }
}

fn row(vm: &Vm, names: &Names) -> Vec<Cell> {
    let guest = vm.status.guest.as_ref();
    vec![
        Cell::new(vm.metadata.name.as_str()),
        power(vm.status.power),
        Cell::number(vm.spec.cpus),
        Cell::number(vm.spec.memory),
        names.cell(vm.status.host),
        Cell::maybe(address(vm)),
        Cell::maybe(guest.and_then(|guest| guest.os.as_ref())),
    ]
}

/// What the guest reports, or else what its network reserves for it.
pub(super) fn address(vm: &Vm) -> Option<std::net::IpAddr> {
    let reported = vm.status.guest.iter().flat_map(|guest| guest.addresses.iter().copied());
    let reserved = vm.status.nics.iter().filter_map(|nic| nic.reserved);
    reported.chain(reserved).next()
}

fn power(state: PowerState) -> Cell {
    let tone = match state {
        PowerState::Running => Tone::Good,
        PowerState::Stopped | PowerState::Suspended => Tone::Dim,
        PowerState::Failed | PowerState::Unknown => Tone::Bad,
        PowerState::Creating
        | PowerState::Starting
        | PowerState::Paused
        | PowerState::Stopping
        | PowerState::Suspending => Tone::Busy,
    };
    Cell::new(state.as_str()).tone(tone)
}

/// Show a VM: what was asked for, what is, and what the guest reports
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm show web01
  hostler vm show web01 -o yaml")]
pub(crate) struct ShowVm {
    #[command(flatten)]
    vm: VmName,
}

impl ShowVm {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let path = self.vm.path();
        let (vm, names) =
            futures::try_join!(super::show(session, &path), Names::around_vms(session))?;
        let names = names.with_parents(session, &vm).await?;
        let needed_by = needed_by(session, &vm).await?;
        session.output.object(&vm, vm.metadata.name.as_str(), || {
            let mut fields = fields(&vm, &names, Timestamp::now());
            if !needed_by.is_empty() {
                let after = fields.iter().position(|(name, _)| *name == "Disks");
                fields.insert(after.map_or(fields.len(), |at| at + 1), ("Needed by", needed_by));
            }
            fields
        })
    }
}

/// The VMs whose disks lie on this one's.
async fn needed_by(session: &Session, vm: &Vm) -> Result<Vec<Cell>, CliError> {
    if !session.output.is_table() {
        return Ok(Vec::new());
    }
    let path = VmPath { vm: Ref::by_id(vm.id()) };
    let plan = session.call::<vm::PlanDeletion>(&path, &NoParams {}, ()).await?;
    Ok(plan.used_by.iter().map(|user| Cell::new(&user.name)).collect())
}

/// Its place in the resource pools, as far as it is not what every VM has.
fn resources(vm: &Vm, names: &Names) -> Vec<Cell> {
    let given = &vm.spec.resources;
    let mut lines = Vec::new();
    lines.extend(given.pool.map(|pool| format!("in pool {}", names.of(pool))));
    if !given.cpu_shares.is_normal() || given.cpu_reservation.0 > 0 {
        let (shares, reserved) = (given.cpu_shares, given.cpu_reservation);
        lines.push(format!("CPU: {shares} shares, {reserved} reserved"));
    }
    if !given.memory_shares.is_normal() || given.memory_reservation.0 > 0 {
        let (shares, reserved) = (given.memory_shares, given.memory_reservation);
        lines.push(format!("memory: {shares} shares, {reserved} reserved"));
    }
    lines.iter().map(Cell::new).collect()
}

pub(super) fn print(session: &Session, vm: &Vm, names: &Names) -> Result<(), CliError> {
    session.output.object(vm, vm.metadata.name.as_str(), || fields(vm, names, Timestamp::now()))
}

/// What the VM says of its own moves; nothing if it says nothing.
fn downtime(vm: &Vm) -> Vec<Cell> {
    let terms = vm.spec.migration;
    if terms.is_default() {
        return Vec::new();
    }
    let policy = terms.policy.unwrap_or_default();
    vec![Cell::new(format!("{} ms, else {policy}", terms.downtime()))]
}

fn last_move(last: &LastMove, names: &Names) -> String {
    format!(
        "{} from {}: stood still for {} ms of {} ms, {} ms in total, {} MiB sent",
        time::show(last.at),
        names.of(last.from),
        last.paused_microseconds / 1000,
        last.allowed_ms,
        last.total_microseconds / 1000,
        last.transferred >> 20
    )
}

pub(super) fn fields(vm: &Vm, names: &Names, now: Timestamp) -> Vec<(&'static str, Vec<Cell>)> {
    let one = |text: String| vec![Cell::new(text)];
    let (spec, status) = (&vm.spec, &vm.status);
    let labels = vm.metadata.labels.iter().map(|(key, value)| Cell::new(format!("{key}={value}")));
    let mut fields = vec![
        ("Name", one(vm.metadata.name.to_string())),
        ("Id", one(vm.metadata.id.to_string())),
        ("Description", optional(&spec.description)),
        ("Labels", labels.collect()),
        ("Owner", vm.metadata.labels.get("owner").iter().map(Cell::new).collect()),
        ("State", vec![power(status.power)]),
        (
            "Since",
            one(format!(
                "{} ({} ago)",
                time::show(status.power_since),
                time::age(status.power_since, now)
            )),
        ),
        ("Message", optional(status.message.as_deref().unwrap_or_default())),
        ("Lease", spec.lease.iter().map(super::lease::sentence).collect()),
        ("Recycle bin", spec.recycled.iter().map(|bin| recycled(bin, now)).collect()),
        ("Host", one(names.of(status.host))),
        ("Datastore", one(names.of(status.datastore))),
        ("CPUs", one(spec.cpus.to_string())),
        ("Memory", one(memory(vm))),
        ("CPU limit", spec.cpu_limit.iter().map(|l| Cell::new(counted(l, "CPU"))).collect()),
        ("Resources", resources(vm, names)),
        ("Firmware", one(word(&spec.firmware))),
        ("DRS", spec.automation.iter().map(|level| Cell::new(level.as_str())).collect()),
        ("Restart", one(word(&spec.restart))),
        ("Downtime budget", downtime(vm)),
        (
            "Last move",
            status.last_move.iter().map(|last| Cell::new(last_move(last, names))).collect(),
        ),
        ("Protected", one(if spec.protected { "yes" } else { "no" }.to_owned())),
        ("Disks", disks(vm, names)),
        (
            "CD-ROMs",
            spec.cdroms
                .iter()
                .map(|drive| {
                    let image =
                        drive.image.map_or_else(|| "empty".to_owned(), |image| names.of(image));
                    Cell::new(format!("{}: {image}", drive.name))
                })
                .collect(),
        ),
        ("NICs", nics(vm, names)),
    ];
    fields.extend(super::snapshot::lines(vm, now));
    fields.push(("Pending", pending(vm)));
    fields.extend(guest(vm, now));
    fields.push(("Customization", customization(vm, now)));
    let seal = vm.status.seal.as_ref().map(crate::commands::template::seal_cells);
    fields.push(("Sealed", seal.unwrap_or_default()));
    fields.retain(|(_, values)| !values.is_empty());
    fields
}

fn recycled(bin: &hostler_types::Recycled, now: Timestamp) -> Cell {
    let (age, left) = (time::age(bin.at, now), time::age(now, bin.until));
    Cell::new(format!("was {}; put there {age} ago by {}, {left} left", bin.name, bin.by))
}

fn memory(vm: &Vm) -> String {
    let max = vm.status.hardware.map(|hardware| hardware.max_memory).or(vm.spec.max_memory);
    let max = max.filter(|max| *max > vm.spec.memory);
    let max = max.map(|max| format!(", up to {max} while it runs")).unwrap_or_default();
    let balloon = vm.spec.balloon.map(|left| format!(", the balloon leaves {left}"));
    format!("{}{max}{}", vm.spec.memory, balloon.unwrap_or_default())
}

/// What was asked for and does not run yet.
fn pending(vm: &Vm) -> Vec<Cell> {
    let changes = vm.status.pending.iter();
    changes.map(|change| Cell::new(change.to_string()).tone(Tone::Busy)).collect()
}

fn optional(text: &str) -> Vec<Cell> {
    if text.is_empty() { Vec::new() } else { vec![Cell::new(text)] }
}

/// A unit variant as the API writes it.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

fn disks(vm: &Vm, names: &Names) -> Vec<Cell> {
    let allocated = |name: &Name| vm.status.disks.iter().find(|disk| disk.name == *name);
    let show = |disk: &hostler_types::DiskSpec| {
        let source = names.source(&disk.source);
        let used = allocated(&disk.name).map(|d| format!(", {} written", d.allocated));
        let used = used.unwrap_or_default();
        Cell::new(format!("{}: {}, {source}{used}", disk.name, disk.size))
    };
    vm.spec.disks.iter().map(show).collect()
}

fn nics(vm: &Vm, names: &Names) -> Vec<Cell> {
    let reserved = |name: &Name| {
        let nic = vm.status.nics.iter().find(|nic| nic.name == *name)?;
        nic.reserved.map(|address| format!(", reserved {address}"))
    };
    let show = |nic: &hostler_types::NicSpec| {
        let reserved = reserved(&nic.name).unwrap_or_default();
        let address = nic.address.as_ref().map(|address| format!(", static {address}"));
        let address = address.unwrap_or(reserved);
        let link = if nic.link.is_up() { "" } else { ", link down" };
        Cell::new(format!("{}: {}, {}{address}{link}", nic.name, names.of(nic.network), nic.mac))
    };
    vm.spec.nics.iter().map(show).collect()
}

fn customization(vm: &Vm, now: Timestamp) -> Vec<Cell> {
    let Some(status) = &vm.status.customization else { return Vec::new() };
    let tone = match status.state {
        CustomizationState::Applied => Tone::Good,
        CustomizationState::Failed => Tone::Bad,
        CustomizationState::Pending => Tone::Dim,
    };
    let by = status.spec.as_ref().map(|spec| format!(", by {}:{}", spec.name, spec.generation));
    let age = time::age(status.at, now);
    let state = format!("{}{}, for {age}", status.state, by.unwrap_or_default());
    let reason = status.reason.iter().map(|reason| Cell::new(crate::sanitise::line(reason)));
    std::iter::once(Cell::new(state).tone(tone)).chain(reason).collect()
}

fn guest(vm: &Vm, now: Timestamp) -> Vec<(&'static str, Vec<Cell>)> {
    let Some(guest) = &vm.status.guest else {
        return vec![("Guest", vec![Cell::new("never heard of").tone(Tone::Dim)])];
    };
    let age = time::age(guest.since, now);
    let agent = if guest.agent {
        Cell::new(format!("the agent answers, for {age}")).tone(Tone::Good)
    } else {
        Cell::new(format!("the agent does not answer, for {age}")).tone(Tone::Dim)
    };
    vec![
        ("Guest", vec![agent]),
        ("  Host name", optional(guest.hostname.as_deref().unwrap_or_default())),
        ("  System", optional(guest.os.as_deref().unwrap_or_default())),
        ("  Kernel", optional(guest.kernel.as_deref().unwrap_or_default())),
        ("  CPUs online", guest.cpus.iter().map(|cpus| Cell::new(cpus.to_string())).collect()),
        ("  Memory", guest.memory.iter().map(|memory| Cell::new(memory.to_string())).collect()),
        ("  Addresses", guest.addresses.iter().map(|a| Cell::new(a.to_string())).collect()),
    ]
}
