//! Templates: VMs that others are made from, in versions.
//!
//! ```text
//!  a VM, off -- create --> version 1, 2, … of a template -- to_vm --> a VM
//!                                   |  ^
//!                            vm::create  `- nothing is deleted or made a VM that a disk lies on
//! ```
//!
//! The version is the VM's own record, flagged and hidden; see `hostler_types::Template`. Every other
//! service refuses such a record (`require_idle`).

use std::sync::Arc;

use hostler_store::{StoreError, Write};
use hostler_types::{
    Name, PlannedDisk, PowerState, Ref, Revision, Role, Task, Template, TemplateCreate,
    TemplateKind, TemplateRef, TemplateSpec, TemplateStatus, TemplateUpdate, TemplateVersion,
    VersionOf, Vm, VmKind, validate_labels,
};
use jiff::Timestamp;

use super::datastore::require_room_for_copies;
use super::submit::order;
use super::vm::{
    copied, dependents, expect, name_taken, require_free, require_host, require_idle,
    require_power, require_unused,
};
use super::{Options, Page, PageRequest, page, require_revision};
use crate::actor::{Actor, authorize};
use crate::error::{Class, ServiceError};
use crate::inventory::Snapshot;
use crate::redact::Shown;
use crate::tasks::{template_copy, template_create, template_delete, template_to_vm, vm_seal};
use crate::world::{Core, World};

/// # Errors
/// `forbidden`, `invalid` paging.
pub fn list(
    world: &World,
    actor: &Actor,
    request: &PageRequest,
) -> Result<Page<Template>, ServiceError> {
    authorize(actor, Role::Viewer, "list templates")?;
    let snapshot = world.snapshot();
    let mut page = page::<TemplateKind>(&snapshot, request, |_| true)?;
    for template in &mut page.items {
        *template = with_versions(&snapshot, template, None);
    }
    Ok(page)
}

/// A template with its versions, or with the one that is asked for.
///
/// # Errors
/// `forbidden`, `not_found`.
pub fn show(
    world: &World,
    actor: &Actor,
    reference: &TemplateRef,
) -> Result<Arc<Template>, ServiceError> {
    authorize(actor, Role::Viewer, "see templates")?;
    let snapshot = world.snapshot();
    let template = snapshot.find::<TemplateKind>(&reference.template)?;
    if reference.version.is_some() {
        find_version(&snapshot, reference)?;
    }
    Ok(with_versions(&snapshot, &TemplateKind::shown(template), reference.version))
}

/// Makes the first version of a new template, or the next one of a template that is there: of a VM
/// itself, which is no VM any more then, or of a copy.
///
/// # Errors
/// `forbidden`, `not_found`, `invalid`, `protected`, `wrong_state`, `in_use`, `busy`.
pub async fn create(
    world: &World,
    actor: &Actor,
    request: &TemplateCreate,
    options: &Options,
) -> Result<Arc<Task>, ServiceError> {
    authorize(actor, Role::Operator, "make templates")?;
    described(&request.description)?;
    validate_labels(&request.labels)
        .map_err(|reason| ServiceError::invalid_as_told("labels", reason))?;
    let mut macs = world.macs.begin();
    order(world, actor, options, "template.create", request, |snapshot| {
        macs.release();
        let vm = snapshot.find::<VmKind>(&request.vm)?;
        require_idle(snapshot, vm)?;
        require_host(snapshot, vm)?;
        require_fit(vm, request.moves)?;
        let now = Timestamp::now();
        let there = snapshot.all::<TemplateKind>().get_by_name(&request.name);
        let mut template = there.map_or_else(
            || {
                let (name, labels) = (request.name.clone(), hostler_types::Labels::new());
                let spec = TemplateSpec { description: request.description.clone() };
                let status = TemplateStatus::default();
                Template::new(name, labels, now, spec, status)
            },
            |there| Template::clone(there),
        );
        template.metadata.labels.extend(request.labels.clone());
        validate_labels(&template.metadata.labels)
            .map_err(|reason| ServiceError::invalid_as_told("labels", reason))?;
        template.status.last = template.status.last.saturating_add(1);
        let version = VersionOf {
            template: template.id(),
            version: template.status.last,
            description: request.description.clone(),
            name: vm.name().clone(),
            at: now,
            by: actor.name.clone(),
        };
        let is_new = there.is_none();
        let mut order = match request.moves {
            true => template_create::order(vm, &template, version, is_new),
            false => {
                let copy = copied(snapshot, &mut macs, vm, template.name(), &version)?;
                require_room_for_copies(snapshot, std::slice::from_ref(&copy))?;
                template_copy::order(vm, copy, &template, is_new)
            }
        };
        order.writes.push(match there {
            Some(_) => Write::update(&template),
            None => Write::create(&template),
        });
        order.writes.push(expect(vm));
        Ok(order)
    })
    .await
}

/// Refuses a VM that would be no good template.
fn require_fit(vm: &Vm, moves: bool) -> Result<(), ServiceError> {
    let name = vm.name();
    if vm.spec.disks.is_empty() {
        let message = format!("vm `{name}` has no disk, so there is nothing to make VMs from");
        return Err(ServiceError::conflict("wrong_state", message));
    }
    if !moves {
        let fit = [PowerState::Stopped, PowerState::Running, PowerState::Paused];
        return require_power(vm, "copied into a template", &fit);
    }
    require_power(vm, "made a template", &[PowerState::Stopped])?;
    if vm.spec.protected {
        let message = format!("vm `{name}` is protected, and would be no VM any more");
        return Err(ServiceError::conflict("protected", message)
            .hint(format!("first run `hostler vm set {name} --no-protect`")));
    }
    if let Some(snapshot) = vm.status.snapshots.snapshots.first() {
        let message = format!(
            "vm `{name}` has snapshots, such as `{}`; a template has only what it is",
            snapshot.name
        );
        return Err(ServiceError::conflict("wrong_state", message).hint("delete them first"));
    }
    Ok(())
}

/// # Errors
/// `forbidden`, `not_found`, `invalid`, `stale_revision`.
pub async fn update(
    world: &World,
    actor: &Actor,
    template: &Ref,
    request: &TemplateUpdate,
    expected: Option<Revision>,
) -> Result<Arc<Template>, ServiceError> {
    authorize(actor, Role::Operator, "change templates")?;
    const ATTEMPTS: usize = 8;
    for _ in 0..ATTEMPTS {
        let snapshot = world.snapshot();
        let old = snapshot.find::<TemplateKind>(template)?;
        require_revision::<TemplateKind>(old, expected)?;
        let mut new = Template::clone(old);
        if let Some(labels) = &request.labels {
            validate_labels(labels)
                .map_err(|reason| ServiceError::invalid_as_told("labels", reason))?;
            new.metadata.labels.clone_from(labels);
        }
        if let Some(description) = &request.description {
            described(description)?;
            new.spec.description.clone_from(description);
        }
        let batch = Core::batch(actor, "template.update").with(Write::update(&new));
        match world.commit(batch).await {
            Ok(snapshot) => {
                let found = snapshot.find::<TemplateKind>(&new.reference())?;
                return Ok(with_versions(&snapshot, &TemplateKind::shown(found), None));
            }
            // It has just got another version.
            Err(StoreError::Stale { actual, .. }) => {
                world.inventory.at_least(actual).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(ServiceError::conflict("contended", "it changes faster than it can be changed")
        .hint("try again"))
}

/// Takes out of a version's guest what must not be the same in two machines, without starting it. VMs
/// that were made from it before stay as they are.
///
/// # Errors
/// `forbidden`, `not_found`, `busy`.
pub async fn seal(
    world: &World,
    actor: &Actor,
    reference: &TemplateRef,
    options: &Options,
) -> Result<Arc<Task>, ServiceError> {
    authorize(actor, Role::Operator, "seal templates")?;
    order(world, actor, options, "template.seal", reference, |snapshot| {
        let (template, vm) = find_version(snapshot, reference)?;
        require_free(snapshot, vm)?;
        require_host(snapshot, vm)?;
        let mut order = vm_seal::order(vm);
        order.target = target(template, vm);
        order.writes.push(expect(vm));
        Ok(order)
    })
    .await
}

/// Makes a version a VM again, under the name that it had or another one. The template stays.
///
/// # Errors
/// `forbidden`, `not_found`, `in_use`, `name_taken`, `busy`.
pub async fn to_vm(
    world: &World,
    actor: &Actor,
    reference: &TemplateRef,
    name: Option<&Name>,
    options: &Options,
) -> Result<Arc<Task>, ServiceError> {
    authorize(actor, Role::Operator, "make VMs of templates")?;
    order(world, actor, options, "template.to_vm", &(reference, name), |snapshot| {
        let (_, vm) = find_version(snapshot, reference)?;
        require_free(snapshot, vm)?;
        require_host(snapshot, vm)?;
        require_unused(snapshot, vm)?;
        let name = name.unwrap_or(vm.called());
        if snapshot.all::<VmKind>().get_by_name(name).is_some() {
            return Err(name_taken(name).hint("give it another name with `--name`"));
        }
        super::naming_rule::require_allowed(snapshot, name, &vm.metadata.labels)?;
        let mut restored = Vm::clone(vm);
        restored.metadata.name = name.clone();
        restored.spec.template = None;
        Ok(template_to_vm::order(vm, &restored).with(Write::update(&restored)))
    })
    .await
}

/// Deletes a template with all its versions, or the one that is named, for good.
///
/// # Errors
/// `forbidden`, `not_found`, `in_use`, `busy`.
pub async fn delete(
    world: &World,
    actor: &Actor,
    reference: &TemplateRef,
    options: &Options,
) -> Result<Arc<Task>, ServiceError> {
    authorize(actor, Role::Operator, "delete templates")?;
    order(world, actor, options, "template.delete", reference, |snapshot| {
        let template = snapshot.find::<TemplateKind>(&reference.template)?;
        let versions = match reference.version {
            Some(_) => vec![find_version(snapshot, reference)?.1],
            None => versions(snapshot, template),
        };
        for vm in &versions {
            require_free(snapshot, vm)?;
            require_host(snapshot, vm)?;
            require_unused(snapshot, vm)?;
        }
        let vms: Vec<&Vm> = versions.iter().map(|vm| &***vm).collect();
        let mut order = template_delete::order(template, &vms, reference.version.is_none());
        if let Some(version) = reference.version {
            order.target = format!("{}:{version}", order.target);
        }
        order.writes.extend(versions.iter().map(|vm| expect(vm)));
        order.writes.push(unchanged(template));
        Ok(order)
    })
    .await
}

/// The commit is refused if the template has got another version since.
fn unchanged(template: &Template) -> Write {
    Write::Expect {
        kind: hostler_types::KindName::Template,
        id: template.id().untyped(),
        revision: Some(template.metadata.revision),
    }
}

fn target(template: &Template, vm: &Vm) -> String {
    let version = vm.spec.template.as_ref().map_or(0, |version| version.version);
    format!("{}/{}:{version}", hostler_types::KindName::Template, template.name())
}

fn described(description: &str) -> Result<(), ServiceError> {
    if description.chars().count() > 1024 {
        return Err(ServiceError::invalid("description", "at most 1024 characters"));
    }
    Ok(())
}

/// The records of a template's versions, the oldest first. One that is just being made, or made a VM
/// again, is not among them.
fn versions<'a>(snapshot: &'a Snapshot, template: &Template) -> Vec<&'a Arc<Vm>> {
    let of = |vm: &&Arc<Vm>| {
        let made = vm.status.power != PowerState::Creating;
        made && version_of(vm).is_some_and(|of| of.template == template.id())
    };
    let mut found: Vec<_> = snapshot.all::<VmKind>().iter().filter(of).collect();
    found.sort_by_key(|vm| version_of(vm).map(|of| of.version));
    found
}

fn version_of(vm: &Vm) -> Option<&VersionOf> {
    vm.spec.template.as_ref()
}

/// The version that is named, or the latest.
///
/// # Errors
/// `not_found`, with the versions that there are.
pub(crate) fn find_version<'a>(
    snapshot: &'a Snapshot,
    reference: &TemplateRef,
) -> Result<(&'a Arc<Template>, &'a Arc<Vm>), ServiceError> {
    let template = snapshot.find::<TemplateKind>(&reference.template)?;
    let all = versions(snapshot, template);
    let wanted = |vm: &&&Arc<Vm>| version_of(vm).map(|of| of.version) == reference.version;
    let found = match reference.version {
        Some(_) => all.iter().find(wanted),
        None => all.last(),
    };
    found.map(|vm| (template, *vm)).ok_or_else(|| {
        let name = template.name();
        let message = match reference.version {
            Some(version) => format!("template `{name}` has no version {version}"),
            None => format!("template `{name}` has no version"),
        };
        let numbers: Vec<_> =
            all.iter().filter_map(|vm| Some(version_of(vm)?.version.to_string())).collect();
        let hint = match numbers.is_empty() {
            true => format!("make one with `hostler template create {name} --from VM`"),
            false => format!("it has {}", numbers.join(", ")),
        };
        ServiceError::new(Class::NotFound, "not_found", message).hint(hint)
    })
}

fn with_versions(
    snapshot: &Snapshot,
    template: &Arc<Template>,
    only: Option<u32>,
) -> Arc<Template> {
    let mut shown = Template::clone(template);
    let all = versions(snapshot, template).into_iter();
    let all = all.filter_map(|vm| version(snapshot, vm));
    shown.status.versions =
        all.filter(|version| only.is_none_or(|only| only == version.version)).collect();
    Arc::new(shown)
}

fn version(snapshot: &Snapshot, vm: &Vm) -> Option<TemplateVersion> {
    let of = version_of(vm)?;
    let disks = vm.spec.disks.iter().map(|disk| PlannedDisk {
        name: disk.name.clone(),
        size: disk.size,
        allocated: (vm.status.disks.iter())
            .find(|told| told.name == disk.name)
            .map(|told| told.allocated),
    });
    Some(TemplateVersion {
        version: of.version,
        vm: vm.id(),
        description: of.description.clone(),
        made_from: of.name.clone(),
        at: of.at,
        by: of.by.clone(),
        cpus: vm.spec.cpus,
        memory: vm.spec.memory,
        firmware: vm.spec.firmware,
        disks: disks.collect(),
        datastore: vm.status.datastore,
        seal: vm.status.seal.clone(),
        used_by: dependents(snapshot, vm),
    })
}
