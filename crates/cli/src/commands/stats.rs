//! How measurements of VMs and hosts are shown.

use hostler_types::{ByteSize, DiskUse, HostStats, HostUse, MeanDemand, VmStats};

use crate::error::CliError;
use crate::output::Listing;
use crate::session::Session;
use crate::table::{Cell, Tone};

/// Parts of time from which on something is worth a look, in thousandths: a twentieth.
const NOTICED: u16 = 50;
/// A fifth.
const BAD: u16 = 200;

pub(super) fn vm_fields(stats: &VmStats) -> Vec<(&'static str, Vec<Cell>)> {
    let one = |text: String| vec![Cell::new(text)];
    let mut fields = vec![("Name", one(stats.name.clone()))];
    let Some(used) = &stats.used else { return fields };
    let ready = stats.cpu_ready_permille.unwrap_or(0);
    let ready_text = format!(
        "{} CPU, {} of the time it could run",
        cpus(used.cpu_ready_millicpus),
        percent(ready)
    );
    fields.extend([
        ("CPU", one(format!("{} CPU", cpus(used.cpu_millicpus)))),
        ("CPU ready", vec![Cell::new(ready_text).tone(tone(ready))]),
        (
            "CPU kept back",
            amount(used.cpu_limited_millicpus, |it| format!("{} CPU by its limit", cpus(it))),
        ),
        ("Memory", one(ByteSize(used.memory).to_string())),
        ("Active", amount(used.memory_active, size)),
        ("Swapped", amount(used.memory_swapped, size)),
        ("Ballooned", amount(used.memory_ballooned, size)),
        (
            "Memory stall",
            amount(used.memory_stall_permille.into(), |it| {
                percent(u16::try_from(it).unwrap_or(u16::MAX))
            }),
        ),
        ("Reads", disk(&used.reads)),
        ("Writes", disk(&used.writes)),
        ("Demand, 5 min", stats.demand.iter().map(demand).collect()),
        ("Demand, 1 h", stats.demand_hour.iter().map(demand).collect()),
    ]);
    fields.retain(|(_, values)| !values.is_empty());
    fields
}

pub(super) fn print_host(session: &Session, stats: &HostStats) -> Result<(), CliError> {
    if session.output.is_data() {
        return session.output.data(stats);
    }
    session.output.object(stats, &stats.name, || host_fields(stats))?;
    if stats.used.is_none() && session.output.is_table() {
        session.output.remark("nothing was measured: it is away, or its agent has just begun");
    }
    if !session.output.is_table() || stats.vms.is_empty() {
        return Ok(());
    }
    crate::output::print("\n")?;
    let used = |of: fn(&hostler_types::ResourceUse) -> u64| {
        move |vm: &VmStats| vm.used.as_ref().map_or(0, of)
    };
    session.output.list(
        &stats.vms,
        &Listing {
            header: &["VM", "CPU", "READY", "MEMORY", "SWAPPED", "BALLOONED", "LATENCY"],
            empty: "no VMs",
            name: &|vm| vm.name.clone(),
            row: &|vm| {
                let ready = vm.cpu_ready_permille.unwrap_or(0);
                let latency = vm
                    .used
                    .as_ref()
                    .map_or(0, |used| used.reads.latency_us.max(used.writes.latency_us));
                vec![
                    Cell::new(&vm.name),
                    Cell::number(cpus(used(|it| it.cpu_millicpus)(vm))),
                    Cell::number(percent(ready)).tone(tone(ready)),
                    Cell::number(ByteSize(used(|it| it.memory)(vm))),
                    Cell::number(ByteSize(used(|it| it.memory_swapped)(vm))),
                    Cell::number(ByteSize(used(|it| it.memory_ballooned)(vm))),
                    Cell::number(milliseconds(latency)),
                ]
            },
        },
    )
}

fn host_fields(stats: &HostStats) -> Vec<(&'static str, Vec<Cell>)> {
    let one = |text: String| vec![Cell::new(text)];
    let mut fields = vec![("Name", one(stats.name.clone()))];
    let Some(used) = &stats.used else { return fields };
    let part = |permille: u16| vec![Cell::new(percent(permille)).tone(tone(permille))];
    let HostUse { cpu_pressure_permille, memory_pressure_permille, .. } = *used;
    fields.extend([
        ("CPU", one(format!("{} CPU", cpus(used.cpu_millicpus)))),
        ("CPU pressure", part(cpu_pressure_permille)),
        ("Memory", one(ByteSize(used.memory).to_string())),
        ("Memory pressure", part(memory_pressure_permille)),
        ("Memory stall", part(used.memory_stall_permille)),
        ("Swapped", one(ByteSize(used.swapped).to_string())),
        ("Swapped in", amount(used.swapped_in_per_second, |it| format!("{}/s", ByteSize(it)))),
        ("Disk pressure", part(used.io_pressure_permille)),
    ]);
    fields.retain(|(_, values)| !values.is_empty());
    fields
}

/// Nothing is not shown.
fn amount(number: u64, text: impl Fn(u64) -> String) -> Vec<Cell> {
    (number > 0).then(|| Cell::new(text(number))).into_iter().collect()
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

fn disk(disk: &DiskUse) -> Vec<Cell> {
    amount(disk.per_second.into(), |operations| {
        let (speed, latency) = (ByteSize(disk.bytes_per_second), milliseconds(disk.latency_us));
        format!("{operations}/s, {speed}/s, {latency} each")
    })
}

fn demand(demand: &MeanDemand) -> Cell {
    Cell::new(format!("{} MHz, {}", demand.cpu_mhz, ByteSize(demand.memory)))
}

/// Thousandths of a CPU.
fn cpus(millicpus: u64) -> String {
    format!("{}.{:02}", millicpus / 1000, millicpus % 1000 / 10)
}

fn percent(permille: u16) -> String {
    format!("{}.{} %", permille / 10, permille % 10)
}

fn milliseconds(microseconds: u32) -> String {
    format!("{}.{} ms", microseconds / 1000, microseconds % 1000 / 100)
}

fn tone(permille: u16) -> Tone {
    match permille {
        ..NOTICED => Tone::Plain,
        NOTICED..BAD => Tone::Busy,
        BAD.. => Tone::Bad,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_units() {
        assert_eq!(
            (cpus(1234), cpus(50), percent(1000), percent(7)),
            ("1.23".into(), "0.05".into(), "100.0 %".into(), "0.7 %".into())
        );
        assert_eq!(milliseconds(12_345), "12.3 ms");
    }
}
