//! Facts, inventory, events, datastores and networks.

use std::path::PathBuf;

use hostler_agent_api as api;
use hostler_agent_api::{
    AgentEvent, DatastoreReport, FactsAnswer, FileOwner, FileUser, FoundFiles, Inventory,
    RemovedFile,
};
use hostler_endpoint::{Call, EventStream, Problem};
use hostler_types::{DatastoreSpec, HostId, LayerFile, Vm};

use super::Service;
use crate::blocking::blocking;
use crate::fault::{Fault, chain};
use crate::references::users;

impl Service {
    fn current_inventory(&self) -> Inventory {
        // First of all, so that one that comes here meanwhile is told of once at least.
        let elsewhere = self.vms.elsewhere();
        let (used, host_used) = self.measured.all();
        let datastores = self.host.datastores.reports();
        Inventory { vms: self.vms.reports(), datastores, used, host_used, elsewhere }
    }
}

pub(super) async fn facts(service: Service, _: Call<api::Facts>) -> Result<FactsAnswer, Problem> {
    let facts = service.host.facts.get().await?;
    Ok(FactsAnswer { host: service.host.id, contract: api::VERSION, facts })
}

pub(super) async fn inventory(
    service: Service,
    _: Call<api::HostInventory>,
) -> Result<Inventory, Problem> {
    Ok(service.current_inventory())
}

pub(super) async fn events(
    service: Service,
    _: Call<api::HostEvents>,
) -> Result<EventStream<AgentEvent>, Problem> {
    Ok(service.host.hub.stream(|| service.current_inventory()))
}

pub(super) async fn operation_cancel(
    service: Service,
    call: Call<api::OperationCancel>,
) -> Result<(), Problem> {
    let op = call.path.op;
    let known =
        service.images.cancel(op) || service.exports.cancel(op) || service.host.cancels.cancel(op);
    if !known {
        service.vms.cancel(call.path.op);
    }
    Ok(())
}

pub(super) async fn datastore_ensure(
    service: Service,
    call: Call<api::DatastoreEnsure>,
) -> Result<DatastoreReport, Problem> {
    // The server has checked the path as well; a root daemon trusts nobody with paths.
    let api::DatastoreCheck { path, create, shared } = call.body;
    let spec = DatastoreSpec::local(HostId::from_uuid(uuid::Uuid::nil()), path);
    spec.validate().map_err(Fault::Invalid)?;
    let path = PathBuf::from(spec.path);
    Ok(service.host.datastores.ensure(call.path.datastore, path, create, shared).await?)
}

pub(super) async fn datastore_remove(
    service: Service,
    call: Call<api::DatastoreRemove>,
) -> Result<(), Problem> {
    let id = call.path.datastore;
    if let Some(vm) = service.vms.on_datastore(id) {
        return Err(Fault::WrongState(format!("the VM {vm} lies on this datastore")).into());
    }
    Ok(service.host.datastores.remove(id, call.query.release).await?)
}

pub(super) async fn datastore_users(
    service: Service,
    call: Call<api::DatastoreUsers>,
) -> Result<Vec<FileUser>, Problem> {
    let (id, owner) = (call.path.datastore, call.body);
    let users = blocking(move || {
        let datastore = service.host.datastores.get(id)?;
        let files = match owner {
            FileOwner::Vm(vm) => datastore.vm(vm).layer_files()?,
            FileOwner::Image(image) => vec![LayerFile::image(image)],
            FileOwner::File(file) => vec![file],
        };
        users(&datastore, &files)
    });
    Ok(users.await?)
}

pub(super) async fn datastore_files(
    service: Service,
    call: Call<api::DatastoreFiles>,
) -> Result<FoundFiles, Problem> {
    Ok(blocking(move || service.files(call.path.datastore)).await?)
}

pub(super) async fn datastore_remove_files(
    service: Service,
    call: Call<api::DatastoreRemoveFiles>,
) -> Result<Vec<RemovedFile>, Problem> {
    let (id, paths) = (call.path.datastore, call.body.paths);
    Ok(blocking(move || service.remove_files(id, &paths)).await?)
}

pub(super) async fn datastore_unregistered(
    service: Service,
    call: Call<api::DatastoreUnregistered>,
) -> Result<Vec<Vm>, Problem> {
    let id = call.path.datastore;
    let found = blocking(move || {
        let found = service.host.datastores.get(id)?.scan()?;
        let unknown = found.into_iter().filter(|vm| !service.vms.contains(vm.id));
        let usable = unknown.filter_map(|found| match found.definition {
            Ok(vm) => Some(vm),
            Err(error) => {
                tracing::warn!(vm = %found.id, error = chain(&error), "an unusable definition");
                None
            }
        });
        Ok(usable.collect())
    });
    Ok(found.await?)
}

pub(super) async fn resources_set(
    service: Service,
    call: Call<api::ResourcesSet>,
) -> Result<(), Problem> {
    Ok(blocking(move || service.resources.set(call.body)).await?)
}

pub(super) async fn network_ensure(
    service: Service,
    call: Call<api::NetworkEnsure>,
) -> Result<(), Problem> {
    Ok(service.host.networks.ensure(call.path.network, &call.body).await?)
}

pub(super) async fn network_remove(
    service: Service,
    call: Call<api::NetworkRemove>,
) -> Result<(), Problem> {
    if let Some(vm) = service.vms.user_of(call.path.network) {
        let text = format!("the VM {vm} runs on this network");
        return Err(Fault::WrongState(text).into());
    }
    Ok(service.host.networks.remove(call.path.network).await?)
}
