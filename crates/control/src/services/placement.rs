//! Questions about where VMs are and could be: why, why not, what if, and past decisions. Nothing
//! here changes anything.

use hostler_policy::cluster::{ClusterVm, HostIndex, VmIndex};
use hostler_policy::placement::{score, why_not as policy_why_not};
use hostler_policy::record::{Input, Record};
use hostler_policy::whatif::{Edit, Question, simulate as policy_simulate};
use hostler_store::KeptDecision;
use hostler_types::{
    Decision, DecisionId, DecisionRecord, DecisionReplay, HostKind, InventoryExport,
    PlacementExplanation, PlacementWhy, PlacementWhyNot, Ref, Role, Simulation, Vm, VmKind,
};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::actor::{Actor, authorize};
use crate::error::{Class, ServiceError};
use crate::placement;
use crate::world::World;

/// Of exports that this version writes and reads.
const FORMAT: u32 = 1;
/// Decisions of a VM that are looked at for the one that put it where it is.
const LOOKED_AT: usize = 50;
const LONGEST_LIST: usize = 1_000;

/// Why a VM is where it is: the decision that put it there.
///
/// # Errors
/// `forbidden`, `not_found`.
pub async fn why(world: &World, actor: &Actor, vm: &Ref) -> Result<PlacementWhy, ServiceError> {
    authorize(actor, Role::Viewer, "see VMs")?;
    let snapshot = world.snapshot();
    let vm = snapshot.find::<VmKind>(vm)?;
    let decisions = world.store.decisions(Some(vm.id()), None, LOOKED_AT).await?;
    let put = |decision: &Decision| {
        let own = decision.vms.iter().find(|decided| decided.id == vm.id());
        own.is_some_and(|own| own.host == vm.status.host)
    };
    let decision = decisions.into_iter().find(put);
    let mut then = None;
    if let Some(decision) = &decision
        && let Some(kept) = world.store.decision(decision.id).await?
    {
        then = seen(&kept, vm);
    }
    let host = snapshot.get::<HostKind>(vm.status.host);
    Ok(PlacementWhy {
        vm: vm.called().to_string(),
        host: host.map_or_else(|| vm.status.host.to_string(), |host| host.name().to_string()),
        decision,
        then,
        lines: vm.status.placement.clone(),
    })
}

/// What was seen of one VM when it was decided about.
fn seen(kept: &KeptDecision, vm: &Vm) -> Option<PlacementExplanation> {
    let record: Record = serde_json::from_str(&kept.record).ok()?;
    let Input::PlaceAll { vms, .. } = &record.input else { return None };
    let at = vms.iter().position(|placed| placed.id == vm.id())?;
    let explained = record.explain().ok()?.into_iter().nth(at)?;
    Some(placement::explanation(explained))
}

/// Why a VM is not, or could not be, on a host: as things are now.
///
/// # Errors
/// `forbidden`, `not_found`, `wrong_state` for a template and for what is in the recycle bin.
pub fn why_not(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    host: &Ref,
) -> Result<PlacementWhyNot, ServiceError> {
    authorize(actor, Role::Viewer, "see VMs")?;
    let snapshot = world.snapshot();
    let (vm, host) = (snapshot.find::<VmKind>(vm)?, snapshot.find::<HostKind>(host)?);
    let current = snapshot.get::<HostKind>(vm.status.host);
    let current = current.map_or_else(String::new, |host| host.name().to_string());
    let names = (vm.called().to_string(), host.name().to_string(), current);
    let told = world.placement.on_board(&world.inventory, |board| {
        let (cluster, _) = board.cluster();
        let (vm, at): (VmIndex, HostIndex) = (cluster.vm(vm.id())?, cluster.host(host.id())?);
        let told = policy_why_not(cluster, vm, at);
        let own = cluster.host_of(vm).and_then(|own| cluster.host(own));
        let mut scores = Vec::new();
        if told.obstacles.is_empty() {
            scores.push(score(cluster, vm, at));
        }
        if let Some(own) = own.filter(|own| *own != at) {
            scores.push(score(cluster, vm, own));
        }
        Some(placement::why_not(names, told, scores))
    });
    told.ok_or_else(|| {
        let message = format!("vm `{}` has no place that could be another", vm.called());
        ServiceError::conflict("wrong_state", message)
            .hint("templates and what is in the recycle bin take no host's memory")
    })
}

/// The inventory as decisions see it, for a file: hosts, datastores, VMs, rules and groups; no secret
/// and nothing that says who may do what.
///
/// # Errors
/// `forbidden`.
pub fn export(world: &World, actor: &Actor) -> Result<InventoryExport, ServiceError> {
    authorize(actor, Role::Viewer, "export the inventory")?;
    let snapshot = world.snapshot();
    Ok(InventoryExport {
        format: FORMAT,
        revision: snapshot.revision,
        exported_at: Timestamp::now(),
        snapshot: json(&placement::measured(&snapshot, &world.demands))?,
    })
}

/// Answers a what-if question about the inventory as it is.
///
/// # Errors
/// `forbidden`, `invalid` with the edit that makes no sense.
pub async fn simulate(
    world: &World,
    actor: &Actor,
    request: Simulation,
) -> Result<Value, ServiceError> {
    authorize(actor, Role::Viewer, "simulate")?;
    let balance = request.balance.map(|balance| read("balance", balance)).transpose()?;
    let question = Question {
        snapshot: placement::measured(&world.snapshot(), &world.demands),
        edits: read_all::<Edit>("edits", request.edits)?,
        balance: balance.unwrap_or_default(),
        headroom: read_all::<ClusterVm>("headroom", request.headroom)?,
    };
    let answer = tokio::task::spawn_blocking(move || policy_simulate(&question)).await;
    let answer = answer.map_err(|error| ServiceError::internal("the simulation ended", error))?;
    json(&answer.map_err(|error| ServiceError::invalid("edits", error.to_string()))?)
}

/// The decisions that are still kept, newest first.
///
/// # Errors
/// `forbidden`, `not_found`, `invalid`.
pub async fn list_decisions(
    world: &World,
    actor: &Actor,
    vm: Option<&Ref>,
    before: Option<DecisionId>,
    limit: Option<u32>,
) -> Result<Vec<Decision>, ServiceError> {
    authorize(actor, Role::Viewer, "list decisions")?;
    let limit = limit.map_or(100, |limit| limit as usize);
    if !(1..=LONGEST_LIST).contains(&limit) {
        let reason = format!("{limit} is not possible; 1 to {LONGEST_LIST}");
        return Err(ServiceError::invalid("limit", reason));
    }
    let snapshot = world.snapshot();
    let vm = match vm {
        // Also of a VM that is gone.
        Some(Ref::Id(id)) => Some(hostler_types::VmId::from_uuid(*id)),
        Some(name) => Some(snapshot.find::<VmKind>(name)?.id()),
        None => None,
    };
    Ok(world.store.decisions(vm, before, limit).await?)
}

/// # Errors
/// `forbidden`, `not_found`.
pub async fn show_decision(
    world: &World,
    actor: &Actor,
    decision: DecisionId,
) -> Result<DecisionRecord, ServiceError> {
    authorize(actor, Role::Viewer, "see decisions")?;
    let kept = kept(world, decision).await?;
    Ok(DecisionRecord { decision: kept.decision, record: kept.record })
}

/// Makes a decision again, from its record alone, and says whether the same bytes come out.
///
/// # Errors
/// `forbidden`, `not_found`, `unknown_format` for the record of another version.
pub async fn replay_decision(
    world: &World,
    actor: &Actor,
    decision: DecisionId,
) -> Result<DecisionReplay, ServiceError> {
    authorize(actor, Role::Viewer, "replay decisions")?;
    let kept = kept(world, decision).await?;
    let replayed = tokio::task::spawn_blocking(move || {
        let record: Record = serde_json::from_str(&kept.record)?;
        let bytes = record.replay().map_err(std::io::Error::other)?.record.bytes();
        let bytes = bytes.map_err(std::io::Error::other)?;
        Ok::<_, std::io::Error>((bytes == kept.record.as_bytes(), bytes.len()))
    });
    let unreadable = |error: &dyn std::fmt::Display| {
        let message = format!("decision {decision} cannot be made again: {error}");
        ServiceError::conflict("unknown_format", message)
            .hint("replay it with the version that made it")
    };
    let replayed =
        replayed.await.map_err(|error| ServiceError::internal("the replay ended", error))?;
    let (same, bytes) = replayed.map_err(|error| unreadable(&error))?;
    Ok(DecisionReplay { id: decision, same, bytes: u64::try_from(bytes).unwrap_or(u64::MAX) })
}

async fn kept(world: &World, decision: DecisionId) -> Result<KeptDecision, ServiceError> {
    world.store.decision(decision).await?.ok_or_else(|| {
        let message = format!("there is no decision {decision}, or it is kept no more");
        ServiceError::new(Class::NotFound, "not_found", message)
            .hint("see `hostler decision list`; the newest 10,000 are kept, or 256 MiB of them")
    })
}

fn json(value: &impl serde::Serialize) -> Result<Value, ServiceError> {
    serde_json::to_value(value)
        .map_err(|error| ServiceError::internal("the answer has no JSON form", error))
}

fn read<T: DeserializeOwned>(field: &'static str, value: Value) -> Result<T, ServiceError> {
    serde_json::from_value(value).map_err(|error| ServiceError::invalid(field, error.to_string()))
}

fn read_all<T: DeserializeOwned>(
    field: &'static str,
    values: Vec<Value>,
) -> Result<Vec<T>, ServiceError> {
    let numbered = |(at, value)| {
        serde_json::from_value(value)
            .map_err(|error| ServiceError::invalid(format!("{field}[{at}]"), error.to_string()))
    };
    values.into_iter().enumerate().map(numbered).collect()
}
