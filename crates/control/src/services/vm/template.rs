//! What a VM takes from the template that it is made from, and a template from the VM that it is
//! copied from.

use std::sync::Arc;

use hostler_policy::cluster::{ClusterVm, Reach, ReachOf};
use hostler_types::{
    ByteSize, CopySource, DatastoreKind, DiskSource, DiskSpec, LayerFile, Name, NicSpec,
    Provisioning, Ref, Template, TemplateRef, VersionOf, Vm, VmCreate, VmId, VmNic, VmSpec,
};
use jiff::Timestamp;

use super::create::{disk_spec, in_the_making, nics, numbered};
use super::mac::ReservedMacs;
use crate::error::ServiceError;
use crate::inventory::Snapshot;
use crate::placement::Place;
use crate::services::datastore::require_room;
use crate::services::template::find_version;

/// A version of a template, as the base of a VM.
pub(super) struct Base<'a> {
    template: &'a Arc<Template>,
    vm: &'a Arc<Vm>,
    version: u32,
    full: bool,
}

impl<'a> Base<'a> {
    pub(super) fn find(
        snapshot: &'a Snapshot,
        reference: &TemplateRef,
        request: &VmCreate,
    ) -> Result<Self, ServiceError> {
        if request.image.is_some() {
            let reason = "a VM is made from an image or from a template; give one of them";
            return Err(ServiceError::invalid("template", reason));
        }
        let (template, vm) = find_version(snapshot, reference)?;
        let version = vm.spec.template.as_ref().map_or(0, |of| of.version);
        Ok(Self { template, vm, version, full: request.full })
    }

    pub(super) fn spec(&self) -> &VmSpec {
        &self.vm.spec
    }

    /// On the template's networks, with addresses of their own.
    pub(super) fn nics(&self) -> Vec<VmNic> {
        self.vm.spec.nics.iter().map(like).collect()
    }

    /// How many it has.
    pub(super) fn disks(&self) -> usize {
        self.vm.spec.disks.len()
    }

    /// The template's disks, and those that are asked for beside them.
    pub(super) fn with_disks(
        &self,
        snapshot: &Snapshot,
        request: &VmCreate,
    ) -> Result<Vec<DiskSpec>, ServiceError> {
        let own = self.vm.spec.disks.iter().enumerate();
        let mut disks = own
            .map(|(index, disk)| self.disk(disk, request.disk_size.filter(|_| index == 0)))
            .collect::<Result<Vec<_>, _>>()?;
        let mut free = (0..).map(|index| numbered("disk", index));
        for (index, disk) in request.disks.iter().enumerate() {
            let taken = |name: &Name| disks.iter().any(|disk| disk.name == *name);
            let name = match &disk.name {
                Some(name) => name.clone(),
                None => free.find(|name| !taken(name)).unwrap_or_else(|| numbered("disk", index)),
            };
            let fields = (format!("disks[{index}].image"), format!("disks[{index}].size"));
            disks.push(disk_spec(snapshot, disk, name, &fields)?);
        }
        Ok(disks)
    }

    fn disk(&self, disk: &DiskSpec, size: Option<ByteSize>) -> Result<DiskSpec, ServiceError> {
        let least = disk.size;
        if let Some(size) = size.filter(|size| *size < least) {
            let reason = format!(
                "{size} is less than the {least} of template `{self}`; a disk cannot be smaller than \
                 what it is made from"
            );
            return Err(ServiceError::invalid("disk_size", reason));
        }
        let file = self.file(&disk.name)?;
        let source = match self.full {
            true => DiskSource::Copy(CopySource { datastore: self.vm.status.datastore, file }),
            false => DiskSource::Linked(file),
        };
        let (name, size) = (disk.name.clone(), size.unwrap_or(least));
        let provisioning = Provisioning::Thin;
        Ok(DiskSpec { name, size, source, bus: disk.bus, limits: disk.limits, provisioning })
    }

    /// The file that a disk of a clone lies on.
    fn file(&self, disk: &Name) -> Result<LayerFile, ServiceError> {
        let told = self.vm.status.disks.iter().find(|told| told.name == *disk);
        let file = told.and_then(|told| told.layers.first()).map(|layer| layer.file.clone());
        file.ok_or_else(|| {
            let message = format!("the host of template `{self}` has not told what it is made of");
            ServiceError::conflict("template_not_ready", message).hint("try again in a moment")
        })
    }

    /// What the template means for where the VM goes: its host must reach the template's files, and
    /// an overlay lies beside what is beneath it.
    pub(super) fn wishes(
        &self,
        snapshot: &Snapshot,
        wish: &mut ClusterVm,
    ) -> Result<(), ServiceError> {
        let own = self.vm.status.datastore;
        wish.reach.push(Reach { datastore: own, what: ReachOf::Template(self.to_string()) });
        if self.full {
            return Ok(());
        }
        if wish.datastore.is_some_and(|asked| asked != own) {
            let place = snapshot.get::<DatastoreKind>(own);
            let place = place.map_or_else(|| own.to_string(), |place| place.name().to_string());
            let reason = format!(
                "template `{self}` lies on datastore `{place}`, and so do VMs that lie on it; ask for \
                 a full copy to have it elsewhere"
            );
            return Err(ServiceError::invalid("datastore", reason));
        }
        wish.datastore = Some(own);
        Ok(())
    }
}

impl std::fmt::Display for Base<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.template.name(), self.version)
    }
}

/// A version of a template that is to be a copy of a VM, where that one is.
pub(in crate::services) fn copied(
    snapshot: &Snapshot,
    macs: &mut ReservedMacs<'_>,
    source: &Vm,
    template: &Name,
    version: &VersionOf,
) -> Result<Vm, ServiceError> {
    let id = VmId::generate();
    let here = (source.status.host, source.status.datastore);
    let datastore = snapshot.find::<DatastoreKind>(&Ref::by_id(here.1))?;
    let sizes: Vec<_> = source.spec.disks.iter().map(|disk| disk.size).collect();
    require_room(snapshot, datastore, &sizes)?;
    let copy = |disk: &DiskSpec| {
        let told = source.status.disks.iter().find(|told| told.name == disk.name);
        let told = told.and_then(|told| told.layers.first()).map(|layer| layer.file.clone());
        // Its host tells the task what it really is.
        let file = told.unwrap_or_else(|| LayerFile::disk(source.id(), &disk.name, 0));
        let source = DiskSource::Copy(CopySource { datastore: here.1, file });
        DiskSpec { source, provisioning: Provisioning::Thin, ..disk.clone() }
    };
    let wanted: Vec<_> = source.spec.nics.iter().map(like).collect();
    let spec = VmSpec {
        balloon: None,
        disks: source.spec.disks.iter().map(copy).collect(),
        detached: Vec::new(),
        cdroms: Vec::new(),
        nics: nics(snapshot, macs, id, Some(&wanted))?,
        customization: None,
        protected: false,
        lease: None,
        snapshot_limits: hostler_types::SnapshotLimits::default(),
        template: Some(version.clone()),
        ..source.spec.clone()
    };
    let name = VersionOf::record_name(template, version.version, id);
    let place = Place { host: here.0, datastore: here.1 };
    let status = in_the_making(place, vec![format!("where `{}` is", source.name())]);
    let labels = source.metadata.labels.clone();
    let mut vm = Vm::new(name, labels, Timestamp::now(), spec, status);
    vm.metadata.id = id;
    Ok(vm)
}

/// On the same network, with a MAC address of its own.
fn like(nic: &NicSpec) -> VmNic {
    VmNic {
        name: Some(nic.name.clone()),
        network: Ref::by_id(nic.network),
        mac: None,
        address: None,
        link: nic.link,
    }
}
