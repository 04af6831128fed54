//! VMs: made when they are not there, changed where they differ.

use hostler_api::image::{ImagePath, Show as ImageShow};
use hostler_api::network::{NetworkPath, Show as NetworkShow};
use hostler_api::template::{Show as TemplateShow, TemplatePath};
use hostler_api::vm::{Create, Show, Update, VmCreateQuery, VmPath};
use hostler_endpoint::{CallOptions, NoParams};
use hostler_types::{
    Customization, DiskSource, ImageId, KindName, LayerOwner, MigrationTerms, Name, Ref,
    TemplateRef, Vm, VmCreate, VmNic, VmUpdate, counted,
};
use serde_json::{Map, Value};

use super::simple::find;
use super::{Action, fixed};
use crate::commands::vm::from_document;
use crate::error::{CliError, Exit};
use crate::session::{Session, once};
use crate::wait;

/// The fields that an existing VM can be given, as documents name them.
const CHANGEABLE: [&str; 12] = [
    "labels",
    "description",
    "cpus",
    "memory",
    "firmware",
    "boot_order",
    "nics",
    "iso",
    "customization",
    "restart",
    "migration",
    "protected",
];

#[derive(Debug)]
pub(super) struct Document {
    /// The whole, for a VM that is not there.
    create: VmCreate,
    /// What it names and can be changed, for one that is.
    update: VmUpdate,
    names_disks: bool,
}

impl Document {
    pub(super) fn new(document: Map<String, Value>, place: &str) -> Result<Self, CliError> {
        let create = from_document(document.clone(), None, place)?;
        let names_disks = document.contains_key("disks");
        let named: Map<_, _> =
            document.into_iter().filter(|(key, _)| CHANGEABLE.contains(&key.as_str())).collect();
        let mut update: VmUpdate = serde_json::from_value(named.into())
            .map_err(|error| CliError::new(Exit::Failed, format!("{place}: {error}")))?;
        if create.customization_spec.is_some() {
            // It was laid over the spec's; `hostler vm customize` does that again.
            update.customization = None;
        }
        Ok(Self { create, update, names_disks })
    }

    pub(super) fn name(&self) -> &Name {
        &self.create.name
    }

    pub(super) async fn apply(self, session: &Session, dry_run: bool) -> Result<Action, CliError> {
        let path = VmPath { vm: self.create.name.clone().into() };
        let Some(vm) = find::<Show>(session, &path).await? else {
            let query = VmCreateQuery { dry_run };
            let call = session.call_with::<Create>(&NoParams {}, &query, self.create, once());
            if let Some(task) = call.await?.task {
                wait::task(session, task).await?;
            }
            return Ok(Action::Created);
        };
        self.refuse_fixed(session, &vm).await?;
        let update = self.difference(session, &vm).await?;
        if update == VmUpdate::default() {
            return Ok(Action::Unchanged);
        }
        if !dry_run {
            let options = CallOptions { if_match: Some(vm.metadata.revision.0), ..once() };
            let task = session.call_with::<Update>(&path, &NoParams {}, update, options).await?;
            wait::task(session, task).await?;
        }
        Ok(Action::Updated)
    }

    /// Disks are made once.
    async fn refuse_fixed(&self, session: &Session, vm: &Vm) -> Result<(), CliError> {
        let name = self.create.name.as_str();
        let first = vm.spec.disks.first();
        if let Some(image) = &self.create.image {
            let wanted = DiskSource::Image(image_id(session, image).await?);
            if first.is_none_or(|disk| disk.source != wanted) {
                return Err(fixed(KindName::Vm, name, "another image"));
            }
        }
        if let Some(template) = &self.create.template
            && !is_made_from(session, vm, template).await?
        {
            return Err(fixed(KindName::Vm, name, "another template"));
        }
        if let (Some(size), Some(disk)) = (self.create.disk_size, first)
            && disk.size != size
        {
            return Err(fixed(KindName::Vm, name, &format!("a first disk of {}", disk.size)));
        }
        let wanted = self.create.disks.len() + usize::from(self.create.image.is_some());
        let checked = self.names_disks && self.create.template.is_none();
        if checked && wanted != vm.spec.disks.len() {
            return Err(fixed(KindName::Vm, name, &counted(vm.spec.disks.len(), "disk")));
        }
        Ok(())
    }

    /// What of the document is not so already.
    async fn difference(&self, session: &Session, vm: &Vm) -> Result<VmUpdate, CliError> {
        let mut update = self.update.clone();
        drop_same(&mut update.labels, &vm.metadata.labels);
        drop_same(&mut update.description, &vm.spec.description);
        drop_same(&mut update.cpus, &vm.spec.cpus);
        drop_same(&mut update.memory, &vm.spec.memory);
        drop_same(&mut update.firmware, &vm.spec.firmware);
        drop_same(&mut update.boot_order, &vm.spec.boot_order);
        drop_same(&mut update.restart, &vm.spec.restart);
        if update.migration.or(vm.spec.migration) == vm.spec.migration {
            update.migration = MigrationTerms::default();
        }
        drop_same(&mut update.protected, &vm.spec.protected);
        drop_same_customization(&mut update, vm);
        if let Some(iso) = &update.iso {
            let there = vm.spec.cdroms.first().and_then(|drive| drive.image);
            let wanted = match iso.as_str() {
                "" => None,
                name => Some(image_id(session, &reference(name)?).await?),
            };
            if wanted == there {
                update.iso = None;
            }
        }
        if let Some(nics) = &update.nics
            && same_nics(session, nics, vm).await?
        {
            update.nics = None;
        }
        Ok(update)
    }
}

/// Whether its first disk was made from a version of the template (the one that is named, or any). Of
/// a template that is gone nobody can tell.
async fn is_made_from(
    session: &Session,
    vm: &Vm,
    template: &TemplateRef,
) -> Result<bool, CliError> {
    let path = TemplatePath { template: template.clone() };
    let Some(template) = find::<TemplateShow>(session, &path).await? else { return Ok(true) };
    let file = match vm.spec.disks.first().map(|disk| &disk.source) {
        Some(DiskSource::Linked(file)) => file,
        Some(DiskSource::Copy(copy)) => &copy.file,
        _ => return Ok(false),
    };
    let versions = &template.status.versions;
    Ok(versions.iter().any(|version| file.owner() == LayerOwner::Vm(version.vm)))
}

fn drop_same<T: PartialEq>(wanted: &mut Option<T>, there: &T) {
    if wanted.as_ref() == Some(there) {
        *wanted = None;
    }
}

/// Secrets are never shown, so what is there cannot be compared: given on both sides, they count as
/// the same.
fn drop_same_customization(update: &mut VmUpdate, vm: &Vm) {
    let there = vm.spec.customization.clone().unwrap_or_default();
    let Some(wanted) = &update.customization else { return };
    // What the server has set is not the document's.
    let there = Customization { origin: None, run: 0, ..*there };
    if wanted.clone().redacted() == there.redacted() {
        update.customization = None;
    }
}

/// NICs are compared by what the document says of them: the network always, name and MAC if given.
async fn same_nics(session: &Session, wanted: &[VmNic], vm: &Vm) -> Result<bool, CliError> {
    if wanted.len() != vm.spec.nics.len() {
        return Ok(false);
    }
    for (wanted, there) in wanted.iter().zip(&vm.spec.nics) {
        let path = NetworkPath { network: wanted.network.clone() };
        let network = session.call::<NetworkShow>(&path, &NoParams {}, ()).await?;
        let same = network.id() == there.network
            && wanted.mac.is_none_or(|mac| mac == there.mac)
            && wanted.name.as_ref().is_none_or(|name| *name == there.name);
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn image_id(session: &Session, image: &Ref) -> Result<ImageId, CliError> {
    let path = ImagePath { image: image.clone() };
    Ok(session.call::<ImageShow>(&path, &NoParams {}, ()).await?.id())
}

fn reference(text: &str) -> Result<Ref, CliError> {
    text.parse().map_err(|error: hostler_types::NameError| {
        CliError::new(Exit::Failed, format!("iso: {error}"))
    })
}
