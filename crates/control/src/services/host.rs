//! Hosts: how they join, and who they are.

use std::sync::Arc;

use hostler_store::Write;
use hostler_types::{
    DatastoreKind, Host, HostKind, HostSpec, HostState, HostStatus, Join, JoinAnswer,
    JoinTokenKind, Labels, Ref, Revision, Role, validate_labels,
};
use jiff::Timestamp;

use super::{Page, PageRequest, counted, page, require_revision, rule};
use crate::actor::{Actor, authorize};
use crate::error::{Class, ServiceError};
use crate::redact::Shown;
use crate::secret;
use crate::world::{Core, World};

mod maintenance;

pub use maintenance::{Left, maintenance_enter, maintenance_exit};

/// Which hosts a list is to hold.
#[derive(Debug, Clone, Default)]
pub struct HostFilter {
    pub state: Option<HostState>,
}

/// # Errors
/// `forbidden`, `invalid` paging.
pub fn list(
    world: &World,
    actor: &Actor,
    filter: &HostFilter,
    request: &PageRequest,
) -> Result<Page<Host>, ServiceError> {
    authorize(actor, Role::Viewer, "list hosts")?;
    page::<HostKind>(&world.snapshot(), request, |host| {
        filter.state.is_none_or(|state| host.status.state == state)
    })
}

/// # Errors
/// `forbidden`, `not_found`.
pub fn show(world: &World, actor: &Actor, host: &Ref) -> Result<Arc<Host>, ServiceError> {
    authorize(actor, Role::Viewer, "see hosts")?;
    Ok(HostKind::shown(world.snapshot().find(host)?))
}

/// What is to change; absent fields stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostUpdate {
    /// All of them anew.
    pub labels: Option<Labels>,
}

/// Changes a host. Where VMs are does not change: rules that select by other labels now are told as
/// violations.
///
/// # Errors
/// `forbidden`, `not_found`, `invalid`, `stale_revision`.
pub async fn update(
    world: &World,
    actor: &Actor,
    host: &Ref,
    request: HostUpdate,
    expected: Option<Revision>,
) -> Result<Arc<Host>, ServiceError> {
    authorize(actor, Role::Admin, "change hosts")?;
    let _references = world.references.write().await;
    let snapshot = world.snapshot();
    let old = snapshot.find::<HostKind>(host)?;
    require_revision::<HostKind>(old, expected)?;
    let mut new = Host::clone(old);
    if let Some(labels) = request.labels {
        validate_labels(&labels)
            .map_err(|reason| ServiceError::invalid_as_told("labels", reason))?;
        new.metadata.labels = labels;
    }
    let batch = Core::batch(actor, "host.update").with(Write::update(&new));
    let snapshot = world.commit(batch).await?;
    Ok(HostKind::shown(snapshot.find(&new.reference())?))
}

/// Takes a host out of the inventory. Its certificate no longer opens anything, because the server
/// calls hosts and no longer calls this one.
///
/// # Errors
/// `forbidden`, `not_found`, `in_use` while it owns VMs or datastores.
pub async fn delete(world: &World, actor: &Actor, host: &Ref) -> Result<(), ServiceError> {
    authorize(actor, Role::Admin, "delete hosts")?;
    let _references = world.references.write().await;
    let snapshot = world.snapshot();
    let host = snapshot.find::<HostKind>(host)?;
    let vms = snapshot.vms_on(host.id()).count();
    let datastores = snapshot.all::<DatastoreKind>().iter();
    let datastores = datastores.filter(|datastore| datastore.spec.is_on(host.id())).count();
    if vms + datastores > 0 {
        let message = format!(
            "host `{}` still has {} and {} in the inventory",
            host.name(),
            counted(vms, "VM"),
            counted(datastores, "datastore"),
        );
        return Err(ServiceError::conflict("in_use", message).hint(
            "delete or unregister its VMs, delete its images and datastores, then try again",
        ));
    }
    // Rules and groups that name it go on without it.
    let without = rule::without(&snapshot, &host.reference()).into_iter().map(|(_, write)| write);
    let batch = Core::batch(actor, "host.delete")
        // Not while it is on its way into maintenance, or out of it.
        .with(Write::ExpectUnlocked { object: host.id().untyped() })
        .with(Write::delete(host))
        .with_all(without);
    world.commit(batch).await?;
    world.agents.forget(host.id());
    world.demands.forget_host(host.id());
    world.reports.forget_host(host.id());
    Ok(())
}

/// Lets a host in that proves to have a join token: makes its record and its certificate, and uses
/// the token up. Asked by hosts that are nobody yet, so there is no actor: the secret is the proof.
///
/// # Errors
/// `join_refused`: unknown, used or expired; `invalid`; `name_taken`.
pub async fn join(world: &World, request: Join) -> Result<JoinAnswer, ServiceError> {
    let refused = || {
        ServiceError::new(Class::Unauthenticated, "join_refused", "the join token is not valid")
            .hint("a token lets one host join, once, before it expires; make a new one with `hostler host join-token`")
    };
    validate_address(&request.address)?;
    let _references = world.references.read().await;
    let snapshot = world.snapshot();
    // All are compared, so that the time does not tell which one was nearly right.
    let tokens = snapshot.all::<JoinTokenKind>().iter();
    let matching = tokens.fold(None, |found, token| {
        let same = secret::matches(&request.secret, &token.status.secret_hash);
        if same { Some(token) } else { found }
    });
    let token = matching.ok_or_else(refused)?;
    let now = Timestamp::now();
    if token.status.used_by.is_some() || token.spec.expires_at <= now {
        return Err(refused());
    }
    let spec = HostSpec::new(request.address.clone());
    let status = HostStatus::joined(now);
    let host = Host::new(request.name.clone(), Labels::new(), now, spec, status);
    let certificate = certificate(world, &host, &request)?;
    let mut used = hostler_types::JoinToken::clone(token);
    used.status.used_by = Some(host.id());
    // The token's revision makes sure that of two hosts with one token, one is let in.
    let batch = Core::batch(&Actor::system(), format!("host.join with the token {}", token.name()))
        .with(Write::update(&used))
        .with(Write::create(&host));
    match world.commit(batch).await {
        Ok(_) => {}
        Err(hostler_store::StoreError::Stale { .. }) => return Err(refused()),
        Err(error) => return Err(error.into()),
    }
    tracing::info!(host = %host.name(), address = host.spec.address, "a host has joined");
    Ok(JoinAnswer { host: host.id(), certificate, ca: world.ca.pem().to_owned() })
}

fn certificate(world: &World, host: &Host, request: &Join) -> Result<String, ServiceError> {
    let address = request.address.rsplit_once(':').map_or("", |(address, _)| address);
    let addresses = [address.trim_matches(['[', ']']).to_owned()];
    world.ca.issue_host(host.id(), &addresses, &request.csr).map_err(|error| match error {
        hostler_pki::CaError::Request(_) => {
            ServiceError::invalid("csr", "it is not a certificate request that we accept")
                .caused_by(error)
        }
        hostler_pki::CaError::Address(_) => ServiceError::invalid("address", error.to_string()),
        error => ServiceError::internal("the certificate cannot be made", error),
    })
}

/// `address:port`.
pub(crate) fn validate_address(text: &str) -> Result<(), ServiceError> {
    let valid = text.rsplit_once(':').is_some_and(|(address, port)| {
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
        !address.is_empty()
            && address.len() <= 255
            && address.chars().all(plain)
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if valid {
        return Ok(());
    }
    let reason =
        format!("`{}` is not an address and port, such as 10.0.0.5:7444", text.escape_debug());
    Err(ServiceError::invalid("address", reason))
}

pub(crate) fn require_connected(host: &Host) -> Result<(), ServiceError> {
    let since = host.status.since;
    let message = match host.status.state {
        HostState::Connected => return Ok(()),
        HostState::Joined => format!("the host `{}` has not connected yet", host.name()),
        HostState::Disconnected => {
            format!("the host `{}` does not answer since {since:.0}", host.name())
        }
    };
    Err(ServiceError::new(Class::Unavailable, "host_disconnected", message)
        .hint("start its agent, or look into why the server cannot reach it"))
}
