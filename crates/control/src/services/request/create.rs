//! Asking for a VM.

use std::sync::Arc;

use hostler_store::Write;
use hostler_types::{
    ApprovalDecision, ByteSize, CustomizationSpecKind, ImageKind, Labels, Lease, Name, NetworkKind,
    NetworkSpec, Request, RequestEvent, RequestImage, RequestKind, RequestNetwork, RequestOrder,
    RequestProgress, RequestSpec, RequestState, RequestStatus, RequestTemplate, Role, SecretText,
    TemplateRef, VmCreate, VmSpec,
};
use jiff::Timestamp;

use super::{decided, happen, requester};
use crate::actor::{Actor, authorize};
use crate::customize;
use crate::error::ServiceError;
use crate::inventory::Snapshot;
use crate::redact::Shown;
use crate::services::template::find_version;
use crate::services::vm::specified;
use crate::world::{Core, World};

/// Asks for a VM. All that can be checked now is checked now, but for room: there may be some when
/// it is approved.
///
/// # Errors
/// `forbidden`, `invalid`, `not_found`, `name_taken`, `naming_rule`, `image_not_ready`,
/// `already_requested`.
pub async fn create(
    world: &World,
    actor: &Actor,
    order: RequestOrder,
) -> Result<Arc<Request>, ServiceError> {
    authorize(actor, Role::Viewer, "ask for VMs")?;
    order.validate()?;
    check_webhooks(world, &order)?;
    if let Some(seconds) = order.vm.lease_seconds {
        Lease::begin(seconds, world.settings.lease_grace, Timestamp::now())
            .map_err(|error| ServiceError::invalid("vm.lease_seconds", error.reason))?;
    }
    let order = sealed(world, order)?;
    let _references = world.references.read().await;
    let snapshot = world.snapshot();
    require_first(&snapshot, &order.vm.name)?;
    let spec = spec(world, &snapshot, actor, order)?;
    let now = Timestamp::now();
    let status = RequestStatus {
        state: RequestState::Pending { until: now + world.settings.approval_wait },
        since: now,
        approvals: Vec::new(),
        decision: ApprovalDecision::default(),
        progress: RequestProgress::default(),
    };
    let mut request = Request::new(spec.order.vm.name.clone(), Labels::new(), now, spec, status);
    request.metadata.name = name(&request);
    request.status.decision = decided(world, &snapshot, &request);
    if request.status.decision.approved {
        happen(&mut request, RequestEvent::Approve)?;
    }
    let batch = Core::batch(actor, "request.create").with(Write::create(&request));
    let snapshot = world.commit(batch).await?;
    Ok(RequestKind::shown(snapshot.find(&request.reference())?))
}

fn check_webhooks(world: &World, order: &RequestOrder) -> Result<(), ServiceError> {
    let mut order = order.clone();
    for webhook in order.webhooks_mut() {
        if webhook.url.ends_with(SecretText::REDACTED) {
            let reason = format!("`{}` stands for what is not shown", SecretText::REDACTED);
            return Err(ServiceError::invalid("webhook.url", reason));
        }
        world.settings.webhooks.parse(&webhook.url).map_err(|why| {
            let shown = webhook.shown_url();
            ServiceError::invalid("webhook.url", format!("`{shown}` cannot be called: {why}"))
        })?;
        if webhook.secret.as_ref().is_some_and(SecretText::is_redacted) {
            let reason =
                format!("`{}` stands for a secret that is not shown", SecretText::REDACTED);
            return Err(ServiceError::invalid("webhook.secret", reason));
        }
    }
    Ok(())
}

/// With its secrets sealed.
fn sealed(world: &World, mut order: RequestOrder) -> Result<RequestOrder, ServiceError> {
    let asked = order.vm.customization.as_ref();
    order.vm.customization =
        asked.map(|asked| customize::sealed(&world.vault, asked, None)).transpose()?;
    for webhook in order.webhooks_mut() {
        webhook.secret = webhook.secret.as_ref().map(|secret| world.vault.seal(secret));
    }
    Ok(order)
}

/// Asking twice for one VM would only let the second fail in the end.
fn require_first(snapshot: &Snapshot, vm: &Name) -> Result<(), ServiceError> {
    let same = snapshot.open_requests().find(|request| request.spec.order.vm.name == *vm);
    let Some(same) = same else { return Ok(()) };
    let (name, state) = (same.name(), same.status.state.as_str());
    let message = format!("a vm `{vm}` is asked for already: request `{name}` is {state}");
    Err(ServiceError::conflict("already_requested", message)
        .hint(format!("choose another name, or cancel it with `hostler request cancel {name}`")))
}

fn spec(
    world: &World,
    snapshot: &Snapshot,
    actor: &Actor,
    mut order: RequestOrder,
) -> Result<RequestSpec, ServiceError> {
    let (mut macs, mut customizing) = (world.macs.begin(), world.customizing());
    let over = order.vm.customization.as_ref();
    let (_, vm) = specified(snapshot, &mut macs, &mut customizing, &order.vm, over)?;
    let requester = requester(actor);
    let owner = order.owner.clone().unwrap_or_else(|| requester.name.clone());
    let template = template(snapshot, &order.vm)?;
    // What is approved is what is made, whatever becomes of the template.
    order.vm.cpus = Some(vm.cpus);
    order.vm.memory = Some(vm.memory);
    order.vm.template = template.as_ref().map(|pinned| TemplateRef {
        template: pinned.name.clone().into(),
        version: Some(pinned.version),
    });
    let named = order.vm.customization_spec.as_ref();
    let named = named.map(|named| snapshot.find::<CustomizationSpecKind>(named)).transpose()?;
    Ok(RequestSpec {
        images: images(snapshot, &vm),
        template,
        customization_spec: named.map(|named| named.name().clone()),
        networks: networks(snapshot, &vm),
        cpus: vm.cpus,
        memory: vm.memory,
        disk: ByteSize(vm.disks.iter().map(|disk| disk.size.bytes()).sum()),
        order,
        requester,
        owner,
    })
}

fn images(snapshot: &Snapshot, vm: &VmSpec) -> Vec<RequestImage> {
    let disks = vm.own_disks().filter_map(|disk| disk.source.image());
    let all = disks.chain(vm.cdroms.iter().filter_map(|cdrom| cdrom.image));
    let mut images: Vec<RequestImage> = Vec::new();
    for image in all.filter_map(|id| snapshot.get::<ImageKind>(id)) {
        if images.iter().all(|known| known.id != image.id()) {
            images.push(RequestImage { name: image.name().clone(), id: image.id() });
        }
    }
    images
}

fn networks(snapshot: &Snapshot, vm: &VmSpec) -> Vec<RequestNetwork> {
    let mut networks: Vec<RequestNetwork> = Vec::new();
    for network in vm.nics.iter().filter_map(|nic| snapshot.get::<NetworkKind>(nic.network)) {
        if networks.iter().all(|known| known.name != *network.name()) {
            let bridge = matches!(network.spec, NetworkSpec::Bridge { .. });
            networks.push(RequestNetwork { name: network.name().clone(), bridge });
        }
    }
    networks
}

fn template(
    snapshot: &Snapshot,
    asked: &VmCreate,
) -> Result<Option<RequestTemplate>, ServiceError> {
    let Some(reference) = &asked.template else { return Ok(None) };
    let (template, vm) = find_version(snapshot, reference)?;
    let version = vm.spec.template.as_ref().map_or(0, |of| of.version);
    Ok(Some(RequestTemplate { name: template.name().clone(), version, id: vm.id() }))
}

/// The VM's name and the random end of the request's id: one may be asked for again.
fn name(request: &Request) -> Name {
    let id = request.id().uuid().simple().to_string();
    let vm: String = request.spec.order.vm.name.as_str().chars().take(50).collect();
    let name = format!("{}-{}", vm.trim_end_matches('-'), &id[id.len() - 6..]);
    name.parse().unwrap_or_else(|_| request.spec.order.vm.name.clone())
}
