//! Making a VM: the request by names becomes a spec by ids, gets a place, and is ordered.

use std::sync::Arc;

use hostler_policy::cluster::ClusterVm;
use hostler_store::Write;
use hostler_types::{
    Automation, BootDevice, ByteSize, CdromSpec, Customization, DatastoreId, DatastoreKind,
    DiskSource, DiskSpec, Epoch, HostKind, Image, ImageKind, ImageMedia, ImageState, IoLimits,
    Lease, LinkState, MigrationTerms, Name, NetworkKind, NicSpec, PowerState, Provisioning, Ref,
    Role, Vm, VmCreate, VmDisk, VmId, VmKind, VmNic, VmSpec, VmStatus, validate_labels,
};
use jiff::Timestamp;

use super::mac::ReservedMacs;
use super::resources::resources;
use super::template::Base;
use crate::actor::{Actor, authorize};
use crate::customize::{self, Customizing, GuestWish};
use crate::error::ServiceError;
use crate::inventory::{Snapshot, images};
use crate::placement::{self, Decided, Place, Placing};
use crate::redact::Shown;
use crate::services::submit::{Ordered, Planned, order_with};
use crate::services::template::find_version;
use crate::services::{Changed, Options, Order};
use crate::services::{datastore, naming_rule};
use crate::tasks::vm_create;
use crate::world::{Core, World};

/// The smallest disk.
const SMALLEST_DISK: u64 = 1 << 20;

/// Makes a VM from an image, from blank disks and an ISO, or from nothing but its spec.
///
/// # Errors
/// `forbidden`, `invalid`, `not_found`, `name_taken`, `mac_taken`, `image_not_ready`, `no_host`,
/// `no_capacity`, `idempotency_mismatch`.
pub async fn create(
    world: &World,
    actor: &Actor,
    request: VmCreate,
    options: &Options,
) -> Result<Changed<Vm>, ServiceError> {
    authorize(actor, Role::Operator, "create VMs")?;
    let mut explained = Vec::new();
    let mut macs = world.macs.begin();
    let mut customizing = world.customizing();
    let mut placing = world.placing();
    let customization = request.customization.as_ref();
    let customization =
        customization.map(|asked| customize::sealed(&world.vault, asked, None)).transpose()?;
    let key = keyed(&request);
    let ordered = order_with(world, actor, options, "vm.create", &key, |snapshot| {
        macs.release();
        customizing.release();
        placing.release();
        let mut taking =
            Taking { macs: &mut macs, customizing: &mut customizing, placing: &mut placing };
        let over = customization.as_ref();
        let (vm, order, decided) = planned(world, snapshot, &mut taking, &request, over)?;
        let explanation = vm.status.placement.clone();
        explained = if options.dry_run { decided.explained() } else { Vec::new() };
        if !options.dry_run && request.host.is_none() {
            require_automatic(snapshot, &vm)?;
        }
        Ok(Planned { order, object: Arc::new(vm), explanation })
    })
    .await?;
    match ordered {
        Ordered::New(changed) => Ok(Changed { explained, ..changed }),
        Ordered::Before(task) => {
            let snapshot = world.snapshot();
            let object =
                task.spec.objects.first().and_then(|id| snapshot.get::<VmKind>(id.typed()));
            let object = object.map(VmKind::shown).ok_or_else(|| {
                ServiceError::conflict(
                    "gone",
                    format!("this request made a VM before (task {}), which is gone", task.id()),
                )
                .hint("use a new idempotency key to make it again")
            })?;
            let explanation = object.status.placement.clone();
            Ok(Changed { object, task: Some(task), explanation, explained })
        }
    }
}

/// Refuses to place a VM by itself where people want to be asked: at the level `manual`, with several hosts. The
/// recommended host is told.
fn require_automatic(snapshot: &Snapshot, vm: &Vm) -> Result<(), ServiceError> {
    let of_cluster = snapshot.cluster().map(|cluster| cluster.spec.automation);
    let level = vm.spec.automation.or(of_cluster.ok());
    if level != Some(Automation::Manual) || snapshot.all::<HostKind>().len() < 2 {
        return Ok(());
    }
    let host = snapshot.get::<HostKind>(vm.status.host).map(|host| host.name().to_string());
    let (name, host) = (vm.name(), host.unwrap_or_default());
    let message = format!(
        "vm `{name}` is not placed without being asked, its automation level is manual; host `{host}` is recommended"
    );
    Err(ServiceError::conflict("host_needed", message).hint(format!(
        "say `--host {host}`, or see all with `--dry-run --explain`; with the level partial VMs are placed by \
         themselves: `hostler cluster set --drs partial`"
    )))
}

/// What a request takes of what there is once only, each held until the VM is in the inventory.
#[derive(Debug)]
pub(crate) struct Taking<'a, 'b> {
    pub(crate) macs: &'a mut ReservedMacs<'b>,
    pub(crate) customizing: &'a mut Customizing<'b>,
    pub(crate) placing: &'a mut Placing<'b>,
}

/// The VM as it is stored first, and the task that makes it. `over` is the request's customization,
/// sealed.
///
/// # Errors
/// As [`create`].
pub(crate) fn planned(
    core: &Core,
    snapshot: &Snapshot,
    taking: &mut Taking<'_, '_>,
    request: &VmCreate,
    over: Option<&Customization>,
) -> Result<(Vm, Order, Decided), ServiceError> {
    let (mut vm, decided) = plan(snapshot, taking, request, over)?;
    vm.spec.lease = (request.lease_seconds)
        .map(|seconds| Lease::begin(seconds, core.settings.lease_grace, Timestamp::now()))
        .transpose()
        .map_err(|error| ServiceError::invalid("lease_seconds", error.reason))?;
    datastore::require_room_for_copies(snapshot, std::slice::from_ref(&vm))?;
    if request.start {
        // Early; it is promised when it is started.
        drop(core.admissions.admit(&core.inventory, [&vm])?);
    }
    let mut order = vm_create::order(&vm, request.start);
    if let Some(template) = &request.template {
        // The commit is refused if it is being deleted, or made a VM again.
        let (_, version) = find_version(snapshot, template)?;
        order.writes.push(Write::ExpectUnlocked { object: version.id().untyped() });
    }
    order.writes.push(Write::create(&vm));
    order.writes.extend(images(&vm).map(expect_image));
    order.writes.extend(decided.writes("vm.create"));
    Ok((vm, order, decided))
}

/// What an idempotency key stands for. Its hash is stored, and would let secrets be guessed.
fn keyed(request: &VmCreate) -> VmCreate {
    let customization = request.customization.clone().map(Customization::redacted);
    VmCreate { customization, ..request.clone() }
}

/// The commit is refused if an image is being deleted.
pub(super) fn expect_image(image: hostler_types::ImageId) -> Write {
    Write::ExpectUnlocked { object: image.untyped() }
}

/// What is asked for, by ids, whether or not there is room for it now.
///
/// # Errors
/// As [`create`], but for what only time can change.
pub(crate) fn specified(
    snapshot: &Snapshot,
    macs: &mut ReservedMacs<'_>,
    customizing: &mut Customizing<'_>,
    request: &VmCreate,
    over: Option<&Customization>,
) -> Result<(VmId, VmSpec), ServiceError> {
    validate_labels(&request.labels)
        .map_err(|reason| ServiceError::invalid_as_told("labels", reason))?;
    if snapshot.all::<VmKind>().get_by_name(&request.name).is_some() {
        return Err(name_taken(&request.name));
    }
    naming_rule::require_allowed(snapshot, &request.name, &request.labels)?;
    let vm = VmId::generate();
    let base = request.template.as_ref().map(|template| Base::find(snapshot, template, request));
    let base = base.transpose()?;
    let has_system = base.is_some()
        || request.image.is_some()
        || request.disks.iter().any(|disk| disk.image.is_some());
    let wanted = request.nics.clone().or(base.as_ref().map(Base::nics));
    let mut nics = nics(snapshot, macs, vm, wanted.as_deref())?;
    let addressing: Vec<_> = request.nics.iter().flatten().map(|nic| nic.address.clone()).collect();
    let wish = GuestWish {
        vm,
        name: &request.name,
        called: None,
        spec: request.customization_spec.as_ref(),
        over,
        addressing: &addressing,
    };
    let customization = customizing.resolve(snapshot, &wish, &mut nics)?;
    let own = base.as_ref().map(Base::spec);
    let spec = VmSpec {
        detached: Vec::new(),
        description: request.description.clone(),
        cpus: request.cpus.or(own.map(|spec| spec.cpus)).unwrap_or(VmCreate::default_cpus()),
        memory: request
            .memory
            .or(own.map(|spec| spec.memory))
            .unwrap_or(VmCreate::default_memory()),
        // It was chosen for the template's memory.
        max_memory: request.max_memory.or(own
            .and_then(|spec| spec.max_memory)
            .filter(|max| request.memory.is_none_or(|memory| memory <= *max))),
        balloon: None,
        cpu_limit: request.cpu_limit.or(own.and_then(|spec| spec.cpu_limit)),
        resources: resources(
            snapshot,
            own.map(|spec| spec.resources.clone()).unwrap_or_default(),
            &request.resources,
        )?,
        automation: own.and_then(|spec| spec.automation),
        migration: migration_terms(
            request.migration,
            own.map(|spec| spec.migration).unwrap_or_default(),
        )?,
        firmware: request.firmware.or(own.map(|spec| spec.firmware)).unwrap_or_default(),
        cpu_model: request.cpu_model.clone().or(own.and_then(|spec| spec.cpu_model.clone())),
        boot_order: (request.boot_order.clone())
            .or(own.map(|spec| spec.boot_order.clone()))
            .unwrap_or_else(BootDevice::default_order),
        disks: disks(snapshot, request, base.as_ref())?,
        cdroms: cdroms(snapshot, request.iso.as_ref())?,
        nics,
        // A guest that has a system is told its name even if nothing else was asked for.
        customization: customization.or(has_system.then(Customization::default)).map(Box::new),
        restart: request.restart,
        protected: request.protected,
        recycled: None,
        lease: None,
        snapshot_limits: hostler_types::SnapshotLimits::default(),
        template: None,
    };
    let given = base.as_ref().map_or(usize::from(request.image.is_some()), Base::disks);
    validate(&spec).map_err(|error| as_asked(error, given))?;
    Ok((vm, spec))
}

/// What is asked for, else what was before.
///
/// # Errors
/// `invalid`.
pub(super) fn migration_terms(
    asked: MigrationTerms,
    before: MigrationTerms,
) -> Result<MigrationTerms, ServiceError> {
    let wrong = |reason| ServiceError::invalid_as_told("migration.downtime_ms", reason);
    asked.validate().map_err(wrong)?;
    Ok(asked.or(before))
}

fn plan(
    snapshot: &Snapshot,
    taking: &mut Taking<'_, '_>,
    request: &VmCreate,
    over: Option<&Customization>,
) -> Result<(Vm, Decided), ServiceError> {
    let (vm, spec) = specified(snapshot, taking.macs, taking.customizing, request, over)?;
    let (name, labels) = (request.name.clone(), request.labels.clone());
    let mut wish = placement::wish(snapshot, vm, name.as_str(), &labels, &spec);
    if !request.start {
        wish = placement::at_rest(wish);
    }
    let (host, datastore) = (request.host.as_ref(), request.datastore.as_ref());
    wish.wanted = host.map(|host| snapshot.find::<HostKind>(host)).transpose()?.map(|it| it.id());
    let datastore = datastore.map(|r| snapshot.find::<DatastoreKind>(r)).transpose()?;
    wish.datastore = datastore.map(|datastore| datastore.id());
    beside_images(snapshot, &spec, &mut wish)?;
    if let Some(template) = &request.template {
        Base::find(snapshot, template, request)?.wishes(snapshot, &mut wish)?;
    }
    let decided = taking.placing.place(vec![wish])?;
    let status = in_the_making(decided.place(0)?, decided.sentences[0].clone());
    let mut object = Vm::new(name, labels, Timestamp::now(), spec, status);
    object.metadata.id = vm;
    Ok((object, decided))
}

/// The status of a VM that has a place and nothing else yet.
pub(super) fn in_the_making(place: Place, explanation: Vec<String>) -> VmStatus {
    VmStatus {
        power: PowerState::Creating,
        power_since: Timestamp::now(),
        message: None,
        host: place.host,
        epoch: Epoch(1),
        datastore: place.datastore,
        disks: Vec::new(),
        nics: Vec::new(),
        guest: None,
        customization: None,
        hardware: None,
        cpu: None,
        pending: Vec::new(),
        snapshots: hostler_types::SnapshotTree::default(),
        snapshot_warnings: Vec::new(),
        seal: None,
        placement: explanation,
        moved_at: None,
        last_move: None,
    }
}

/// The first `given` of the spec's disks are the image's or the template's, and none of the request's.
fn as_asked(mut error: ServiceError, given: usize) -> ServiceError {
    let Some(field) = error.fields.first_mut().filter(|_| given > 0) else {
        return error;
    };
    let index = field.field.strip_prefix("disks[").and_then(|rest| rest.strip_suffix("].size"));
    let asked = match index.and_then(|index| index.parse::<usize>().ok()) {
        Some(0) => "disk_size".to_owned(),
        Some(index) if index >= given => format!("disks[{}].size", index - given),
        _ => return error,
    };
    error.message = format!("{asked}: {}", field.reason);
    field.field = asked;
    error
}

/// Beyond what the types check by themselves.
pub(super) fn validate(spec: &VmSpec) -> Result<(), ServiceError> {
    spec.validate()?;
    if spec.description.chars().count() > 1024 {
        return Err(ServiceError::invalid("description", "at most 1024 characters"));
    }
    Ok(())
}

pub(in crate::services) fn name_taken(name: &Name) -> ServiceError {
    ServiceError::conflict("name_taken", format!("there is already a vm named `{name}`"))
        .hint("choose another name, or delete the other one first")
}

fn disks(
    snapshot: &Snapshot,
    request: &VmCreate,
    base: Option<&Base<'_>>,
) -> Result<Vec<DiskSpec>, ServiceError> {
    if let Some(base) = base {
        return base.with_disks(snapshot, request);
    }
    let first = request.image.as_ref().map(|image| VmDisk {
        name: None,
        size: request.disk_size,
        image: Some(image.clone()),
        bus: hostler_types::DiskBus::default(),
        limits: IoLimits::default(),
        provisioning: Provisioning::Thin,
    });
    if first.is_none() && request.disk_size.is_some() {
        return Err(ServiceError::invalid(
            "disk_size",
            "it is the size of the image's or template's disk, and neither is given; use `disks`",
        ));
    }
    let offset = usize::from(first.is_some());
    let all = first.iter().chain(&request.disks).enumerate();
    all.map(|(index, disk)| {
        // Fields are named as the client knows them.
        let field = match index.checked_sub(offset) {
            Some(index) => (format!("disks[{index}].image"), format!("disks[{index}].size")),
            None => ("image".to_owned(), "disk_size".to_owned()),
        };
        let name = match &disk.name {
            Some(name) => name.clone(),
            None => numbered("disk", index),
        };
        disk_spec(snapshot, disk, name, &field)
    })
    .collect()
}

/// A disk as it is asked for; the `fields` are what the client calls its image and its size.
pub(super) fn disk_spec(
    snapshot: &Snapshot,
    disk: &VmDisk,
    name: Name,
    field: &(String, String),
) -> Result<DiskSpec, ServiceError> {
    let (source, size) = match &disk.image {
        Some(image) => {
            let image = usable(snapshot, &field.0, image, ImageMedia::Disk)?;
            (DiskSource::Image(image.id()), overlay_size(image, disk.size, &field.1)?)
        }
        None => {
            let missing = || ServiceError::invalid(field.1.clone(), "a blank disk needs a size");
            (DiskSource::Blank, disk.size.ok_or_else(missing)?)
        }
    };
    let (bus, limits, provisioning) = (disk.bus, disk.limits, disk.provisioning);
    Ok(DiskSpec { name, size, source, bus, limits, provisioning })
}

fn overlay_size(
    image: &Image,
    wanted: Option<ByteSize>,
    field: &str,
) -> Result<ByteSize, ServiceError> {
    let least = image.status.virtual_size;
    match wanted {
        None => Ok(ByteSize(least.0.max(SMALLEST_DISK).next_multiple_of(512))),
        Some(size) if size < least => Err(ServiceError::invalid(
            field,
            format!(
                "{size} is less than the {least} of image `{}`; a disk cannot be smaller than its image",
                image.name()
            ),
        )),
        Some(size) => Ok(size),
    }
}

/// An image that is ready and of the right media.
fn usable<'a>(
    snapshot: &'a Snapshot,
    field: &str,
    image: &Ref,
    media: ImageMedia,
) -> Result<&'a Arc<Image>, ServiceError> {
    let image = snapshot.find::<ImageKind>(image)?;
    let name = image.name();
    if image.status.state != ImageState::Ready {
        let state = match image.status.state {
            ImageState::Uploading => "still being uploaded",
            ImageState::Importing => "still being imported",
            ImageState::Failed => "not usable: its import has failed",
            ImageState::Ready => "ready",
        };
        return Err(ServiceError::conflict(
            "image_not_ready",
            format!("image `{name}` is {state}"),
        )
        .hint(format!("see `hostler image show {name}`")));
    }
    match (image.status.media, media) {
        (Some(ImageMedia::Cdrom), ImageMedia::Disk) => Err(ServiceError::invalid(
            field,
            format!("image `{name}` is an ISO; give it as `iso`, beside a blank disk"),
        )),
        (Some(ImageMedia::Disk), ImageMedia::Cdrom) => Err(ServiceError::invalid(
            field,
            format!("image `{name}` is a disk, not an ISO; give it as `image`"),
        )),
        _ => Ok(image),
    }
}

/// The ISO of the first drive, which stays when it is empty.
pub(super) fn first_cdrom(
    snapshot: &Snapshot,
    drives: &mut Vec<CdromSpec>,
    iso: Option<&Ref>,
) -> Result<(), ServiceError> {
    let image = iso.map(|iso| usable(snapshot, "iso", iso, ImageMedia::Cdrom)).transpose()?;
    let image = image.map(|image| image.id());
    match drives.first_mut() {
        Some(drive) => drive.image = image,
        None if image.is_some() => drives.push(CdromSpec { name: numbered("cdrom", 0), image }),
        None => {}
    }
    Ok(())
}

pub(super) fn cdroms(
    snapshot: &Snapshot,
    iso: Option<&Ref>,
) -> Result<Vec<CdromSpec>, ServiceError> {
    let Some(iso) = iso else { return Ok(Vec::new()) };
    let image = usable(snapshot, "iso", iso, ImageMedia::Cdrom)?;
    Ok(vec![CdromSpec { name: numbered("cdrom", 0), image: Some(image.id()) }])
}

pub(super) fn nics(
    snapshot: &Snapshot,
    macs: &mut ReservedMacs<'_>,
    vm: VmId,
    wanted: Option<&[VmNic]>,
) -> Result<Vec<NicSpec>, ServiceError> {
    let default_network: Name = "default".parse().expect("`default` is a name");
    let default = [VmNic {
        name: None,
        network: Ref::Name(default_network),
        mac: None,
        address: None,
        link: LinkState::Up,
    }];
    if wanted.is_none() && snapshot.find::<NetworkKind>(&default[0].network).is_err() {
        return Err(ServiceError::invalid(
            "nics",
            "there is no network `default`; say which network, or give an empty list for no NIC",
        ));
    }
    let nics = wanted.unwrap_or(&default).iter().enumerate();
    nics.map(|(index, nic)| {
        let network = snapshot.find::<NetworkKind>(&nic.network)?.id();
        let mac = match nic.mac {
            Some(mac) => macs.wanted(snapshot, vm, &format!("nics[{index}].mac"), mac)?,
            None => macs.any(snapshot),
        };
        let name = nic.name.clone().unwrap_or_else(|| numbered("nic", index));
        Ok(NicSpec { name, network, mac, address: None, link: nic.link })
    })
    .collect()
}

pub(super) fn numbered(prefix: &str, index: usize) -> Name {
    format!("{prefix}{index}").parse().expect("letters and digits are a name")
}

fn datastore_name(snapshot: &Snapshot, id: DatastoreId) -> String {
    let found = snapshot.get::<DatastoreKind>(id);
    found.map_or_else(|| id.to_string(), |store| store.name().to_string())
}

/// A further disk of a VM lies on the VM's datastore, and so does the image that it lies on.
///
/// # Errors
/// `invalid`: the image lies on another one.
pub(super) fn require_beside(
    snapshot: &Snapshot,
    vm: &Vm,
    disk: &DiskSpec,
) -> Result<(), ServiceError> {
    let Some(image) = disk.source.image().and_then(|id| snapshot.get::<ImageKind>(id)) else {
        return Ok(());
    };
    let (place, own) = (image.spec.datastore, vm.status.datastore);
    if place == own {
        return Ok(());
    }
    let (name, own) = (image.name(), datastore_name(snapshot, own));
    let reason = format!(
        "image `{name}` lies on datastore `{}`, and vm `{}` on `{own}`: a disk lies beside its image",
        datastore_name(snapshot, place),
        vm.name()
    );
    Err(ServiceError::invalid("image", reason).hint(format!(
        "import the image there as well: `hostler image import NAME FILE --datastore {own}`"
    )))
}

/// An overlay lies beside the image that it lies on, so the images of disks say where the VM goes.
///
/// # Errors
/// `invalid`: another datastore is asked for, or the images are on several.
fn beside_images(
    snapshot: &Snapshot,
    spec: &VmSpec,
    wish: &mut ClusterVm,
) -> Result<(), ServiceError> {
    let asked = wish.datastore.is_some();
    let images = spec.disks.iter().filter_map(|disk| snapshot.get(disk.source.image()?));
    for image in images {
        let image: &Image = image;
        let place = image.spec.datastore;
        if wish.datastore.is_none_or(|datastore| datastore == place) {
            wish.datastore = Some(place);
            continue;
        }
        let (name, called) = (image.name(), datastore_name(snapshot, place));
        let reason = match asked {
            true => format!(
                "image `{name}` lies on datastore `{called}`, and so do disks that lie on it"
            ),
            false => format!(
                "image `{name}` lies on datastore `{called}`, another one than that of the VM's other images"
            ),
        };
        return Err(ServiceError::invalid("datastore", reason).hint(
            "import the image there as well, or make a full copy of a template: `hostler vm create \
             --template TEMPLATE --full --datastore DATASTORE`",
        ));
    }
    Ok(())
}
