//! Customization specs: named rules of what guests are made to be.

use std::sync::Arc;

use hostler_customize::{Guest, Seed, render as render_seed};
use hostler_store::Write;
use hostler_types::{
    Customization, CustomizationRules, CustomizationSpec, CustomizationSpecKind,
    CustomizationSpecStatus, Labels, MacAddress, Name, NetworkId, NicAddress, NicAddressing,
    NicSpec, Ref, Revision, Role, VmId, VmKind, validate_labels,
};
use jiff::Timestamp;

use super::{Page, PageRequest, page, require_revision};
use crate::actor::{Actor, authorize};
use crate::customize::{GuestWish, sealed};
use crate::error::ServiceError;
use crate::redact::Shown;
use crate::world::{Core, World};

/// A customization spec to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomizationSpecCreate {
    pub name: Name,
    pub labels: Labels,
    pub spec: CustomizationRules,
}

/// What is to change; absent fields stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CustomizationSpecUpdate {
    pub labels: Option<Labels>,
    /// The whole of it; a secret that is the placeholder of views stays what it was.
    pub spec: Option<CustomizationRules>,
}

/// # Errors
/// `forbidden`, `invalid` paging.
pub fn list(
    world: &World,
    actor: &Actor,
    request: &PageRequest,
) -> Result<Page<CustomizationSpec>, ServiceError> {
    authorize(actor, Role::Viewer, "list customization specs")?;
    page::<CustomizationSpecKind>(&world.snapshot(), request, |_| true)
}

/// # Errors
/// `forbidden`, `not_found`.
pub fn show(
    world: &World,
    actor: &Actor,
    spec: &Ref,
) -> Result<Arc<CustomizationSpec>, ServiceError> {
    authorize(actor, Role::Viewer, "see customization specs")?;
    Ok(CustomizationSpecKind::shown(world.snapshot().find(spec)?))
}

/// # Errors
/// `forbidden`, `invalid`, `name_taken`.
pub async fn create(
    world: &World,
    actor: &Actor,
    request: CustomizationSpecCreate,
) -> Result<Arc<CustomizationSpec>, ServiceError> {
    authorize(actor, Role::Operator, "create customization specs")?;
    validate_labels(&request.labels)
        .map_err(|reason| ServiceError::invalid_as_told("labels", reason))?;
    let rules = checked(world, request.spec, None)?;
    if world.snapshot().all::<CustomizationSpecKind>().get_by_name(&request.name).is_some() {
        let message = format!("there is already a customization spec named `{}`", request.name);
        return Err(ServiceError::conflict("name_taken", message).hint("choose another name"));
    }
    let status = CustomizationSpecStatus::default();
    let now = Timestamp::now();
    let spec = CustomizationSpec::new(request.name, request.labels, now, rules, status);
    let batch = Core::batch(actor, "customization-spec.create").with(Write::create(&spec));
    let snapshot = world.commit(batch).await?;
    Ok(CustomizationSpecKind::shown(snapshot.find(&spec.reference())?))
}

/// Changes a spec, which becomes its next generation. VMs keep what they were made with.
///
/// # Errors
/// `forbidden`, `not_found`, `invalid`, `stale_revision`.
pub async fn update(
    world: &World,
    actor: &Actor,
    spec: &Ref,
    request: CustomizationSpecUpdate,
    expected: Option<Revision>,
) -> Result<Arc<CustomizationSpec>, ServiceError> {
    authorize(actor, Role::Operator, "change customization specs")?;
    let snapshot = world.snapshot();
    let old = snapshot.find::<CustomizationSpecKind>(spec)?;
    require_revision::<CustomizationSpecKind>(old, expected)?;
    let mut new = CustomizationSpec::clone(old);
    if let Some(labels) = request.labels {
        validate_labels(&labels)
            .map_err(|reason| ServiceError::invalid_as_told("labels", reason))?;
        new.metadata.labels = labels;
    }
    if let Some(rules) = request.spec {
        new.spec = checked(world, rules, Some(&old.spec.guest))?;
    }
    let batch = Core::batch(actor, "customization-spec.update").with(Write::update(&new));
    let snapshot = world.commit(batch).await?;
    Ok(CustomizationSpecKind::shown(snapshot.find(&new.reference())?))
}

/// Deletes a spec. VMs keep what they were made with.
///
/// # Errors
/// `forbidden`, `not_found`.
pub async fn delete(world: &World, actor: &Actor, spec: &Ref) -> Result<(), ServiceError> {
    authorize(actor, Role::Operator, "delete customization specs")?;
    let snapshot = world.snapshot();
    let spec = snapshot.find::<CustomizationSpecKind>(spec)?;
    let batch = Core::batch(actor, "customization-spec.delete").with(Write::delete(spec));
    world.commit(batch).await?;
    Ok(())
}

/// What a guest would be told, without the secrets: of a VM that is there, or of an example with a
/// NIC for each of the spec's networks.
///
/// # Errors
/// `forbidden`, `not_found`, `invalid`.
pub fn render(
    world: &World,
    actor: &Actor,
    spec: &Ref,
    vm: Option<&Ref>,
) -> Result<Seed, ServiceError> {
    authorize(actor, Role::Viewer, "see customization specs")?;
    let snapshot = world.snapshot();
    let found = snapshot.find::<CustomizationSpecKind>(spec)?;
    let vm = vm.map(|vm| snapshot.find::<VmKind>(vm)).transpose()?;
    let (id, name) = match vm {
        Some(vm) => (vm.id(), vm.name().clone()),
        None => (VmId::from_uuid(uuid::Uuid::nil()), example_name()),
    };
    let mut nics = vm.map_or_else(|| example_nics(&found.spec), |vm| vm.spec.nics.clone());
    // What is reserved for this is given back at once.
    let mut customizing = world.customizing();
    let addressing: Vec<_> = match vm {
        Some(_) => Vec::new(),
        // Those of the example are made up.
        None => nics.iter().map(|_| Some(NicAddressing::Dhcp)).collect(),
    };
    let wish = GuestWish {
        vm: id,
        name: &name,
        called: vm.and_then(|vm| vm.spec.customization.as_ref()?.hostname.as_ref()),
        spec: Some(spec),
        over: None,
        addressing: &addressing,
    };
    let mut resolved = nics.clone();
    let customization = customizing.resolve(&snapshot, &wish, &mut resolved)?;
    if vm.is_some() {
        nics = resolved;
    }
    let customization = customization.map(readable).unwrap_or_default();
    let hash = "0".repeat(24);
    let guest =
        Guest { vm: id, name: &name, customization: &customization, nics: &nics, hash: &hash };
    render_seed(&guest).map_err(|error| ServiceError::invalid("spec", error.to_string()))
}

/// With placeholders for secrets, such as can be rendered.
fn readable(customization: Customization) -> Customization {
    let mut shown = customization.redacted();
    if let Some(user_data) = &mut shown.user_data {
        let text = format!("#cloud-config\n# {}\n", user_data.reveal());
        *user_data = hostler_types::SecretText::new(text);
    }
    shown
}

fn example_name() -> Name {
    "example".parse().expect("`example` is a name")
}

fn example_nics(rules: &CustomizationRules) -> Vec<NicSpec> {
    let count = rules.networks.len().max(1);
    let numbers = (0..count).filter_map(|index| u8::try_from(index).ok());
    numbers
        .map(|index| {
            let way = rules.networks.get(usize::from(index));
            // Addresses for documentation.
            let address = way.filter(|way| **way == NicAddressing::Pool).map(|_| NicAddress {
                address: [192, 0, 2, 10 + index].into(),
                prefix: 24,
                gateway: Some([192, 0, 2, 1].into()),
                dns: vec![std::net::Ipv4Addr::new(192, 0, 2, 1).into()],
                search: Vec::new(),
            });
            NicSpec {
                name: format!("nic{index}").parse().expect("letters and digits are a name"),
                network: NetworkId::from_uuid(uuid::Uuid::nil()),
                mac: MacAddress::from_suffix([0, 0, index]),
                address,
                link: hostler_types::LinkState::Up,
            }
        })
        .collect()
}

/// As it may be stored.
fn checked(
    world: &World,
    mut rules: CustomizationRules,
    before: Option<&Customization>,
) -> Result<CustomizationRules, ServiceError> {
    rules.validate()?;
    rules.guest = sealed(&world.vault, &rules.guest, before)?;
    Ok(rules)
}
