//! Names for the ids that objects hold, so that tables read well. Asked for only when people read.

use std::collections::HashMap;

use hostler_api::pool::{self, PoolPath};
use hostler_api::template::{self, TemplatePath};
use hostler_api::vm::{self, VmPath};
use hostler_api::{datastore, group, host, image, network, user};
use hostler_endpoint::{NoParams, PageQuery};
use hostler_types::{
    DiskSource, Id, Kind, LayerFile, LayerOwner, Name, Object, Ref, TemplateRef, Vm, VmId,
};

use crate::error::{CliError, Exit};
use crate::session::Session;
use crate::table::{Cell, Tone};

/// Names by id. What has no name here is shown by its id.
#[derive(Debug, Default)]
pub(crate) struct Names {
    names: HashMap<uuid::Uuid, String>,
    /// Of VMs that are versions of templates, as `golden:3`.
    versions: HashMap<VmId, String>,
}

impl Names {
    fn add<K: Kind>(mut self, objects: &[Object<K>]) -> Self {
        let names = objects.iter().map(|o| (o.id().uuid(), o.metadata.name.to_string()));
        self.names.extend(names);
        self
    }

    /// A VM as people call it: a template's version is `template golden:3`.
    fn vm(&self, id: VmId) -> String {
        match self.versions.get(&id) {
            Some(version) => format!("template {version}"),
            None => format!("vm {}", self.of(id)),
        }
    }

    pub(crate) fn of<K>(&self, id: Id<K>) -> String {
        self.names.get(&id.uuid()).cloned().unwrap_or_else(|| id.to_string())
    }

    pub(crate) fn reference(&self, reference: &Ref) -> String {
        match reference {
            Ref::Id(id) => self.names.get(id).cloned().unwrap_or_else(|| id.to_string()),
            Ref::Name(name) => name.to_string(),
        }
    }

    /// Of all that placement rules and groups name.
    pub(crate) async fn around_rules(session: &Session) -> Result<Self, CliError> {
        if !session.output.is_table() {
            return Ok(Self::default());
        }
        let (vms, groups) = (vm::VmListQuery::default(), PageQuery::default());
        let (hosts, vms, groups) = futures::try_join!(
            Self::hosts(session),
            session.call::<vm::List>(&NoParams {}, &vms, ()),
            session.call::<group::List>(&NoParams {}, &groups, ()),
        )?;
        Ok(hosts.add(&vms.items).add(&groups.items))
    }

    /// What a disk was made from.
    pub(crate) fn source(&self, source: &DiskSource) -> String {
        let owner = |file: &LayerFile| match file.owner() {
            LayerOwner::Vm(vm) => self.vm(vm),
            LayerOwner::Image(image) => format!("image {}", self.of(image)),
        };
        match source {
            DiskSource::Image(image) => format!("on image {}", self.of(*image)),
            DiskSource::Blank => "blank".to_owned(),
            DiskSource::Linked(file) => format!("linked to {}", owner(file)),
            DiskSource::Copy(copy) => format!("copied from {}", owner(&copy.file)),
        }
    }

    /// With the VMs and templates that a VM's disks were made from, or lie on, as far as they are still there.
    pub(crate) async fn with_parents(
        mut self,
        session: &Session,
        vm: &Vm,
    ) -> Result<Self, CliError> {
        if !session.output.is_table() {
            return Ok(self);
        }
        if let Some(pool) = vm.spec.resources.pool {
            let path = PoolPath { pool: Ref::by_id(pool) };
            match session.call::<pool::Show>(&path, &NoParams {}, ()).await {
                Ok(pool) => self = self.add(&[pool]),
                Err(error) if error.exit() == Exit::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let of_vm = |file: &LayerFile| match file.owner() {
            LayerOwner::Vm(owner) if owner != vm.id() => Some(owner),
            _ => None,
        };
        let layers = vm.status.disks.iter().flat_map(|disk| &disk.layers);
        let mut parents: Vec<_> = layers.filter_map(|layer| of_vm(&layer.file)).collect();
        parents.extend(vm.spec.own_disks().filter_map(|disk| match &disk.source {
            DiskSource::Linked(file) => of_vm(file),
            DiskSource::Copy(copy) => of_vm(&copy.file),
            DiskSource::Image(_) | DiskSource::Blank => None,
        }));
        parents.sort_unstable();
        parents.dedup();
        for parent in parents {
            let path = VmPath { vm: Ref::by_id(parent) };
            match session.call::<vm::Show>(&path, &NoParams {}, ()).await {
                Ok(found) => {
                    let version = version(session, &found).await?;
                    self.versions.extend(version.map(|version| (parent, version)));
                    self = self.add(&[found]);
                }
                Err(error) if error.exit() == Exit::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self)
    }

    /// What lies beneath the VM's own files of a disk, the nearest first.
    pub(crate) fn beneath(&self, vm: &Vm, disk: &Name) -> Option<String> {
        let status = vm.status.disks.iter().find(|status| status.name == *disk)?;
        let others = status.layers.iter().map(|layer| layer.file.owner());
        let mut others: Vec<_> = others.filter(|owner| *owner != LayerOwner::Vm(vm.id())).collect();
        others.dedup();
        let called = others.into_iter().map(|owner| match owner {
            LayerOwner::Vm(vm) => self.vm(vm),
            LayerOwner::Image(image) => format!("image {}", self.of(image)),
        });
        let called: Vec<_> = called.collect();
        (!called.is_empty()).then(|| called.join(", "))
    }

    pub(crate) fn cell<K>(&self, id: Id<K>) -> Cell {
        match self.names.get(&id.uuid()) {
            Some(name) => Cell::new(name),
            None => Cell::new(id.to_string()).tone(Tone::Dim),
        }
    }

    pub(crate) async fn hosts(session: &Session) -> Result<Self, CliError> {
        if !session.output.is_table() {
            return Ok(Self::default());
        }
        let query = host::HostListQuery::default();
        let hosts = session.call::<host::List>(&NoParams {}, &query, ()).await?;
        Ok(Self::default().add(&hosts.items))
    }

    pub(crate) async fn datastores(session: &Session) -> Result<Self, CliError> {
        if !session.output.is_table() {
            return Ok(Self::default());
        }
        let query = datastore::DatastoreListQuery::default();
        let datastores = session.call::<datastore::List>(&NoParams {}, &query, ()).await?;
        Ok(Self::default().add(&datastores.items))
    }

    /// Of users, for those who may see them.
    pub(crate) async fn users(session: &Session) -> Result<Self, CliError> {
        if !session.output.is_table() {
            return Ok(Self::default());
        }
        let query = user::UserListQuery::default();
        match session.call::<user::List>(&NoParams {}, &query, ()).await {
            Ok(users) => Ok(Self::default().add(&users.items)),
            Err(error) if error.exit() == Exit::Unauthorised => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Of all that a VM refers to.
    pub(crate) async fn around_vms(session: &Session) -> Result<Self, CliError> {
        if !session.output.is_table() {
            return Ok(Self::default());
        }
        let images = image::ImageListQuery::default();
        let networks = network::NetworkListQuery::default();
        let (hosts, datastores, images, networks) = futures::try_join!(
            Self::hosts(session),
            Self::datastores(session),
            session.call::<image::List>(&NoParams {}, &images, ()),
            session.call::<network::List>(&NoParams {}, &networks, ()),
        )?;
        let mut names = Self::default().add(&images.items).add(&networks.items);
        names.names.extend(hosts.names);
        names.names.extend(datastores.names);
        Ok(names)
    }
}

/// Which version of a template a VM is, if it is one.
async fn version(session: &Session, vm: &Vm) -> Result<Option<String>, CliError> {
    let Some(version) = &vm.spec.template else { return Ok(None) };
    let template = TemplateRef { template: Ref::by_id(version.template), version: None };
    let path = TemplatePath { template };
    let template = session.call::<template::Show>(&path, &NoParams {}, ()).await?;
    Ok(Some(format!("{}:{}", template.metadata.name, version.version)))
}
