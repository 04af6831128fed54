//! VMs that go to other hosts, and come from them.

use hostler_agent_api as api;
use hostler_agent_api::{VmMoved, VmOffer, VmReport};
use hostler_endpoint::{Call, Endpoint, Problem};
use hostler_pki::Identity;
use hostler_types::HostId;

use super::Service;
use crate::listener::Peer;

pub(super) async fn offer(
    service: Service,
    call: Call<api::VmMigrationOffer>,
) -> Result<VmOffer, Problem> {
    service.vms.offer(&service.host, call.path.vm, call.body).await
}

pub(super) async fn prepare(
    service: Service,
    call: Call<api::VmMigrationPrepare>,
) -> Result<(), Problem> {
    Box::pin(service.vms.prepare(call.path.vm, call.body)).await
}

pub(super) async fn migrate(
    service: Service,
    call: Call<api::VmMigrate>,
) -> Result<VmMoved, Problem> {
    service.vms.migrate(&service.host, call.path.vm, call.body).await
}

pub(super) async fn measure(
    service: Service,
    call: Call<api::VmMigrationMeasure>,
) -> Result<api::VmMigrationMeasured, Problem> {
    Ok(service.vms.measure_move(&service.host, call.path.vm, &call.body).await?)
}

pub(super) async fn ready(
    service: Service,
    call: Call<api::VmMigrationReady>,
) -> Result<(), Problem> {
    let from = sender(&call);
    service.vms.claim(call.path.vm, from, call.body.epoch, false).await.map(drop)
}

pub(super) async fn take(
    service: Service,
    call: Call<api::VmMigrationTake>,
) -> Result<VmReport, Problem> {
    let from = sender(&call);
    service.vms.claim(call.path.vm, from, call.body.epoch, true).await
}

pub(super) async fn abandon(
    service: Service,
    call: Call<api::VmMigrationAbandon>,
) -> Result<(), Problem> {
    service.vms.abandon(call.path.vm, call.body).await
}

pub(super) async fn forget(
    service: Service,
    call: Call<api::VmMigrationForget>,
) -> Result<(), Problem> {
    service.vms.disown(call.path.vm, call.body).await
}

/// The host that asks; `None`: the server. The gate lets nobody else in.
fn sender<E: Endpoint>(call: &Call<E>) -> Option<HostId> {
    match call.extensions.get::<Peer>() {
        Some(Peer(Ok(Identity::Host(host)))) => Some(*host),
        _ => None,
    }
}
