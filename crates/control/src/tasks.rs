//! The durable tasks, one file per verb; each opens with its steps.
//!
//! Each file has `order`, which the services hand to the engine, and `definition`, which the engine
//! runs. Steps give one command each to an agent, under the operation id that the engine derives:
//! a step that is repeated after a crash is answered from the agent's journal. What a step changes
//! in the inventory is committed together with its end.

use hostler_tasks::Registry;

use crate::world::Core;

mod command;
mod guest;
mod moves;
pub(crate) mod naming;

pub(crate) mod datastore_clean;
pub(crate) mod drs_apply;
pub(crate) mod host_bring_back;
pub(crate) mod host_maintenance;
pub(crate) mod image_adopt;
pub(crate) mod image_delete;
pub(crate) mod image_import;
pub(crate) mod request_action;
pub(crate) mod request_probe;
pub(crate) mod request_provision;
pub(crate) mod template_copy;
pub(crate) mod template_create;
pub(crate) mod template_delete;
pub(crate) mod template_to_vm;
pub(crate) mod vm_clone;
pub(crate) mod vm_create;
pub(crate) mod vm_customize;
pub(crate) mod vm_delete;
pub(crate) mod vm_disk;
pub(crate) mod vm_disk_take;
pub(crate) mod vm_export;
pub(crate) mod vm_flatten;
pub(crate) mod vm_fork;
pub(crate) mod vm_migrate;
pub(crate) mod vm_migrate_storage;
pub(crate) mod vm_recycle;
pub(crate) mod vm_register;
pub(crate) mod vm_register_from_host;
pub(crate) mod vm_reset;
pub(crate) mod vm_revert;
pub(crate) mod vm_seal;
pub(crate) mod vm_snapshot;
pub(crate) mod vm_snapshot_delete;
pub(crate) mod vm_start;
pub(crate) mod vm_stop;
pub(crate) mod vm_suspend;
pub(crate) mod vm_undelete;
pub(crate) mod vm_unregister;
pub(crate) mod vm_update;

/// All actions.
pub(crate) fn registry() -> Registry<Core> {
    let registry = Registry::new()
        .with(datastore_clean::definition())
        .with(drs_apply::definition())
        .with(host_bring_back::definition())
        .with(host_maintenance::definition())
        .with(image_adopt::definition())
        .with(image_delete::definition())
        .with(image_import::definition())
        .with(vm_clone::definition())
        .with(template_copy::definition())
        .with(template_create::definition())
        .with(template_delete::definition())
        .with(template_to_vm::definition())
        .with(request_action::definition())
        .with(request_probe::definition())
        .with(request_provision::definition())
        .with(vm_create::definition())
        .with(vm_customize::definition())
        .with(vm_delete::definition())
        .with(vm_flatten::definition())
        .with(vm_disk_take::definition())
        .with(vm_fork::definition())
        .with(vm_export::definition())
        .with(vm_migrate::definition())
        .with(vm_migrate_storage::definition())
        .with(vm_recycle::definition())
        .with(vm_register::definition())
        .with(vm_register_from_host::definition())
        .with(vm_reset::definition())
        .with(vm_revert::definition())
        .with(vm_snapshot::definition())
        .with(vm_snapshot::update_definition())
        .with(vm_snapshot_delete::definition())
        .with(vm_snapshot_delete::consolidate_definition())
        .with(vm_seal::definition())
        .with(vm_start::definition())
        .with(vm_stop::definition())
        .with(vm_suspend::definition())
        .with(vm_undelete::definition())
        .with(vm_unregister::definition())
        .with(vm_update::definition());
    vm_disk::definitions().fold(registry, Registry::with)
}
