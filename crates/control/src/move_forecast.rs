//! What a move of a running VM is expected to take: measured by its host, reckoned by `policy`.

use hostler_agent_api::VmMigrationMeasureRequest;
use hostler_policy::migration::{Forecast, Measured, forecast};
use hostler_types::{HostId, HostKind, MigrationPolicy, VmId};

use crate::agents::{AgentError, AgentLink};
use crate::inventory::Snapshot;

/// A move that might be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Move {
    pub(crate) vm: VmId,
    pub(crate) to: HostId,
    pub(crate) budget_ms: u64,
    /// Bytes a second.
    pub(crate) max_bandwidth: Option<u64>,
}

/// Measures, which takes about a second, and reckons. `None`: the target is gone.
///
/// # Errors
/// The host does not answer, is of a version that cannot measure, or did not reach the target.
pub(crate) async fn of_move(
    snapshot: &Snapshot,
    source: &dyn AgentLink,
    planned: Move,
) -> Result<Option<Forecast>, AgentError> {
    let Move { vm, to, budget_ms, max_bandwidth } = planned;
    let Some(host) = snapshot.get::<HostKind>(to) else { return Ok(None) };
    let request = VmMigrationMeasureRequest { to, address: host.spec.address.clone() };
    let told = source.vm_migration_measure(vm, request).await?;
    let measured = Measured {
        resident: told.resident,
        dirty_rate: told.dirty_rate,
        bandwidth: max_bandwidth.map_or(told.bandwidth, |most| most.min(told.bandwidth)),
    };
    Ok(Some(forecast(measured, budget_ms)))
}

/// What follows from it, in a sentence; `None`: it can be kept.
pub(crate) fn consequence(
    forecast: Forecast,
    budget_ms: u64,
    policy: MigrationPolicy,
) -> Option<String> {
    let then = match policy {
        MigrationPolicy::Wait => "it would be sent on until it writes less (policy `wait`)",
        MigrationPolicy::Throttle => "it would be slowed down (policy `throttle`)",
        MigrationPolicy::Refuse => "it would not be moved (policy `refuse`)",
    };
    (!forecast.fits(budget_ms)).then(|| format!("only {budget_ms} ms are allowed: {then}"))
}
