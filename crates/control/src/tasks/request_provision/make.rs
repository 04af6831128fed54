//! From a request to a VM that runs.

use hostler_store::Write;
use hostler_tasks::{Outcome, StepError, StepResult};
use hostler_types::{ImageKind, OnFailure, Request, RequestProgress, Task, VmCreate, VmId, VmKind};

use super::record;
use crate::services::vm::{Taking, planned};
use crate::tasks::command::{Step, from_service, vm, vm_if_there};
use crate::tasks::vm_recycle::Down;
use crate::tasks::{vm_delete, vm_start};

/// The label that says from which request a VM comes.
const REQUEST: &str = "request";
/// What a step calls the task that makes the VM.
const CHILD: &str = "vm";

pub(super) async fn select(step: Step) -> StepResult {
    let request = record(&step).await?;
    let world = step.world();
    let snapshot = world.inventory.at_least(world.store.revision().await?).await;
    for image in &request.spec.images {
        let found = snapshot.all::<ImageKind>().get(image.id);
        if found.is_none_or(|found| *found.name() != image.name) {
            let message = format!(
                "image `{}` is not the one that was asked for: it was deleted or renamed since",
                image.name
            );
            return Err(StepError::failed("image_changed", message));
        }
    }
    if let Some(pinned) = &request.spec.template {
        let found = snapshot.all::<VmKind>().get(pinned.id);
        let version = found.and_then(|vm| vm.spec.template.as_ref());
        if version.is_none_or(|of| of.version != pinned.version) {
            let message = format!(
                "version {} of template `{}`, which was asked for, is gone",
                pinned.version, pinned.name
            );
            return Err(StepError::failed("template_changed", message));
        }
    }
    if made(&step, &request).await?.is_some() {
        step.message("the VM of the try before is taken");
        return Ok(Outcome::none());
    }
    let (mut macs, mut customizing) = (world.macs.begin(), world.customizing());
    let mut placing = world.placing();
    let mut taking =
        Taking { macs: &mut macs, customizing: &mut customizing, placing: &mut placing };
    let wish = wish(&request);
    let over = wish.customization.as_ref();
    let (vm, _, _) = planned(world, &snapshot, &mut taking, &wish, over).map_err(from_service)?;
    for line in vm.status.placement {
        step.message(line);
    }
    Ok(Outcome::none())
}

pub(super) async fn create(step: Step) -> StepResult {
    let mut request = record(&step).await?;
    if made(&step, &request).await?.is_some() {
        return Ok(Outcome::none());
    }
    if step.child(CHILD).await?.is_none() {
        order(&step, &request).await?;
    }
    let child = step.wait_child(CHILD).await?;
    let vm = Some(vm_of(&child)?);
    request.status.progress = RequestProgress { vm, ..without_vm(request.status.progress) };
    Ok(Outcome::none().with(Write::update(&request)))
}

/// Plans and submits as a client's request would be; what it takes (name, MACs, addresses) is held
/// until the VM is in the inventory.
async fn order(step: &Step, request: &Request) -> Result<(), StepError> {
    let world = step.world();
    let _references = world.references.read().await;
    let snapshot = world.inventory.at_least(world.store.revision().await?).await;
    let (mut macs, mut customizing) = (world.macs.begin(), world.customizing());
    let mut placing = world.placing();
    let mut taking =
        Taking { macs: &mut macs, customizing: &mut customizing, placing: &mut placing };
    let wish = wish(request);
    let over = wish.customization.as_ref();
    let (_, order, _) =
        planned(world, &snapshot, &mut taking, &wish, over).map_err(from_service)?;
    if let Some(child) = step.submit_child(CHILD, order.submit(step.actor())).await? {
        world.inventory.at_least(child.metadata.revision).await;
    }
    Ok(())
}

pub(super) async fn uncreate(step: Step) -> StepResult {
    let mut request = record(&step).await?;
    let before = step.child(CHILD).await?.map(|child| vm_of(&child)).transpose()?;
    let vm = match request.status.progress.vm.or(before) {
        Some(vm) => vm_if_there(&step, vm).await?,
        None => None,
    };
    let Some(vm) = vm else {
        request.status.progress = without_vm(request.status.progress);
        return Ok(Outcome::none().with(Write::update(&request)));
    };
    match request.spec.order.on_failure {
        OnFailure::Keep => {
            step.message(format!("vm `{}` stays as it is, to be looked at", vm.name()));
            request.status.progress.vm = Some(vm.id());
        }
        OnFailure::Remove => {
            let order = vm_delete::order(&vm, Some(Down::new(true, None)));
            match step.run_child("remove", order.submit(step.actor())).await {
                Ok(_) => request.status.progress = without_vm(request.status.progress),
                Err(StepError::Failed { message, .. }) => {
                    let name = vm.name();
                    step.message(format!("vm `{name}` stays: it cannot be removed: {message}"));
                    request.status.progress.vm = Some(vm.id());
                }
                Err(error @ StepError::Retry { .. }) => return Err(error),
            }
        }
    }
    Ok(Outcome::none().with(Write::update(&request)))
}

/// What was done to the VM has gone with it.
fn without_vm(progress: RequestProgress) -> RequestProgress {
    RequestProgress { vm: None, actions: 0, ..progress }
}

pub(super) async fn power_on(step: Step) -> StepResult {
    let request = record(&step).await?;
    let vm = vm(&step, super::vm_of(&request)?).await?;
    if request.spec.order.leave_off || vm.status.power.is_live() {
        return Ok(Outcome::none());
    }
    vm_start::below(&step, "start", &vm).await?;
    Ok(Outcome::none())
}

/// The VM of this request, if there is one still.
async fn made(step: &Step, request: &Request) -> Result<Option<VmId>, StepError> {
    match request.status.progress.vm {
        Some(vm) => {
            let vm = vm_if_there(step, vm).await?;
            Ok(vm.filter(|vm| !vm.is_recycled()).map(|vm| vm.id()))
        }
        None => Ok(None),
    }
}

/// The VM that a task `vm.create` makes.
fn vm_of(child: &Task) -> Result<VmId, StepError> {
    let vm = child.spec.objects.first().map(|object| object.typed());
    vm.ok_or_else(|| StepError::internal("a task that makes a VM works on one"))
}

fn wish(request: &Request) -> VmCreate {
    let mut wish = request.spec.order.vm.clone();
    wish.start = false;
    wish.labels.insert(REQUEST.to_owned(), request.name().to_string());
    wish
}
