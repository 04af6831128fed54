//! `request.probe`: Looks whether a VM is what it has to be before it is delivered.
//!
//! 1. `look`: tries until it is so, or the tries are over. Changes nothing.
//!
//! TCP and HTTP probes come from the server, on behalf of people who may not reach what it reaches: it
//! calls only addresses that are the VM's for sure.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepError, StepResult};
use hostler_types::{
    ExecRequest, HttpCheck, NetworkKind, NetworkSpec, NicSpec, Probe, ProbeCheck, Request, Vm, VmId,
};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::command::{Step, vm};
use super::guest::{self, ExecError};
use crate::inventory::Snapshot;
use crate::services::Order;
use crate::world::Core;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Input {
    vm: VmId,
    probe: Probe,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("request.probe").step(TaskStep::new("look", look))
}

pub(crate) fn order(request: &Request, vm: VmId, probe: &Probe) -> Order {
    let input = Input { vm, probe: probe.clone() };
    let mut order = Order::new("request.probe", request, &input);
    order.objects.clear();
    order.target = probe.title();
    order
}

async fn look(step: Step) -> StepResult {
    let Input { vm, probe } = step.input()?;
    let (begin, title) = (Instant::now(), probe.title());
    let mut tries = 0;
    loop {
        tries += 1;
        let limit = Duration::from_secs(probe.timeout_seconds.into());
        let seen = tokio::select! {
            seen = once(&step, vm, &probe.check, limit) => seen?,
            () = step.cancelled().cancelled() => return Err(StepError::cancelled()),
        };
        let why = match seen {
            Ok(seen) => {
                let took = begin.elapsed().as_secs_f32();
                step.message(format!("{title}: {seen} (try {tries}, after {took:.1} s)"));
                return Ok(Outcome::none());
            }
            Err(why) => why,
        };
        if tries > probe.retries {
            let message = format!("{title}: {why} ({tries} tries)");
            return Err(StepError::failed("probe_failed", message));
        }
        step.progress(None, format!("{title}: {why}; try {tries}"));
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(probe.pause_seconds.into())) => {}
            () = step.cancelled().cancelled() => return Err(StepError::cancelled()),
        }
    }
}

/// What was seen, or why it is not so yet.
async fn once(
    step: &Step,
    vm: VmId,
    check: &ProbeCheck,
    limit: Duration,
) -> Result<Result<String, String>, StepError> {
    match check {
        ProbeCheck::Agent => Ok(match guest::agent(step, vm, limit).await? {
            true => Ok("the agent answers".to_owned()),
            false => Err("the agent does not answer".to_owned()),
        }),
        ProbeCheck::Command(run) => command(step, vm, run, limit).await,
        ProbeCheck::Tcp(port) => {
            let port = *port;
            each(step, vm, limit, |address| async move {
                let connected = TcpStream::connect((address, port)).await;
                connected.map(|_| "it is open".to_owned()).map_err(|error| error.to_string())
            })
            .await
        }
        ProbeCheck::Http(check) => each(step, vm, limit, |address| http(address, check)).await,
    }
}

async fn command(
    step: &Step,
    vm: VmId,
    run: &[String],
    limit: Duration,
) -> Result<Result<String, String>, StepError> {
    let timeout_seconds = u32::try_from(limit.as_secs()).unwrap_or(u32::MAX);
    let request = ExecRequest { command: run.to_vec(), stdin: String::new(), timeout_seconds };
    match guest::exec(step, vm, request).await {
        Ok(answer) => Ok(guest::ended(&answer).map(|()| "it ended with 0".to_owned())),
        Err(ExecError::Refused(why)) => Ok(Err(why)),
        Err(ExecError::Step(error)) => Err(error),
    }
}

/// Tries the VM's addresses one after the other; the first good answer counts.
async fn each<F, R>(
    step: &Step,
    id: VmId,
    limit: Duration,
    look: F,
) -> Result<Result<String, String>, StepError>
where
    F: Fn(IpAddr) -> R,
    R: Future<Output = Result<String, String>>,
{
    let vm = vm(step, id).await?;
    let (world, snapshot) = (step.world(), step.world().snapshot());
    let mut last = match addresses(world, &snapshot, &vm).first() {
        None => "the guest has no address yet".to_owned(),
        Some(address) => format!(
            "{address} is on a bridged network, where the server calls only addresses of the \
             network's pool that the VM was given, and those of `hostler server --webhook-network`; \
             ask for an address of the pool, or look with an `agent` or `command` probe"
        ),
    };
    for address in reachable(world, &snapshot, &vm) {
        let seen = timeout(limit, look(address)).await;
        let seen = seen.unwrap_or_else(|_| Err(format!("no answer in {} s", limit.as_secs())));
        match seen {
            Ok(seen) => return Ok(Ok(format!("{seen} at {address}"))),
            Err(why) => last = format!("{address}: {why}"),
        }
    }
    Ok(Err(last))
}

/// Only the status is looked at; redirects are answers like others.
async fn http(address: IpAddr, check: &HttpCheck) -> Result<String, String> {
    let tls = hostler_pki::tls::web_client().map_err(|error| error.to_string())?;
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .pool_max_idle_per_host(0)
        .build()
        .map_err(|error| error.to_string())?;
    let url = format!("http://{}{}", SocketAddr::new(address, check.port), check.path);
    let answer = client.get(url).send().await.map_err(|error| {
        let error = error.without_url();
        std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string)
    })?;
    let status = answer.status().as_u16();
    let seen = format!("it answered {status}");
    if status == check.status { Ok(seen) } else { Err(format!("{seen}, not {}", check.status)) }
}

/// Where the server looks for the guest: what the platform has given it, and what the guest reports
/// as long as that leads nowhere but into a private network of the platform. A bridge is somebody
/// else's network: whoever asks for the VM may name any address there, or have the guest report it,
/// and would see through the server which machines and ports answer. Only the pool of such a network
/// is the platform's, and what the operator allows.
fn reachable(core: &Core, snapshot: &Snapshot, vm: &Vm) -> Vec<IpAddr> {
    let rules = &core.settings.webhooks;
    let named = |address: &IpAddr| matches!(address, IpAddr::V4(a) if rules.networks.iter().any(|n| n.contains(*a)));
    known(core, snapshot, vm, |network, address, is_given| match (network, address) {
        _ if named(&address) => true,
        (NetworkSpec::Bridge { pool: Some(pool), .. }, IpAddr::V4(address)) => {
            is_given && pool.range.contains(address)
        }
        (NetworkSpec::Bridge { .. }, _) => false,
        (NetworkSpec::Nat { .. }, _) => true,
    })
}

/// Which addresses a VM has, for telling: what the platform has given it, then what the guest says of
/// itself, if that may lie in one of its networks.
pub(super) fn addresses(core: &Core, snapshot: &Snapshot, vm: &Vm) -> Vec<IpAddr> {
    known(core, snapshot, vm, |_, _, _| true)
}

/// The addresses of a VM that lie in one of its networks and are `fine` there: given, or only
/// reported.
fn known(
    core: &Core,
    snapshot: &Snapshot,
    vm: &Vm,
    fine: impl Fn(&NetworkSpec, IpAddr, bool) -> bool,
) -> Vec<IpAddr> {
    let rules = &core.settings.webhooks;
    let may = |address: &IpAddr| rules.allow(*address).is_ok();
    let network = |nic: &NicSpec| snapshot.get::<NetworkKind>(nic.network).map(|it| &it.spec);
    let given = vm.spec.nics.iter().filter_map(|nic| {
        let address = IpAddr::from(nic.address.as_ref()?.address);
        fine(network(nic)?, address, true).then_some(address)
    });
    let reserved = vm.status.nics.iter().filter_map(|nic| nic.reserved);
    let mut all: Vec<IpAddr> = given.chain(reserved).filter(may).collect();
    let networks: Vec<&NetworkSpec> = vm.spec.nics.iter().filter_map(network).collect();
    let believed = |address: IpAddr| {
        let inside = networks.iter().any(|network| match (network, address) {
            // The first address is the host.
            (NetworkSpec::Nat { subnet, .. }, IpAddr::V4(address)) => {
                subnet.contains(address) && subnet.address(1) != Some(address)
            }
            (NetworkSpec::Nat { .. }, IpAddr::V6(_)) => false,
            (NetworkSpec::Bridge { .. }, address) => fine(network, address, false),
        });
        let named =
            matches!(address, IpAddr::V4(a) if rules.networks.iter().any(|n| n.contains(a)));
        may(&address) && (inside || named)
    };
    for address in vm.status.guest.iter().flat_map(|guest| &guest.addresses) {
        if !all.contains(address) && believed(*address) {
            all.push(*address);
        }
    }
    all
}
