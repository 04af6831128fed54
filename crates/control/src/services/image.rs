//! Images: imported once, then read by many VMs' overlays.
//!
//! An image from an address is imported by a task at once. One that the client sends is made first
//! (`uploading`), gets its bytes in any number of pieces, and is imported when the last has come.

use std::sync::Arc;

use hostler_endpoint::ByteStream;
use hostler_store::Write;
use hostler_types::{
    ByteSize, Datastore, DatastoreKind, HostKind, Image, ImageCreate, ImageKind, ImageSource,
    ImageSpec, ImageState, ImageStatus, Ref, Role, Task, validate_labels,
};
use jiff::Timestamp;

use super::submit::{Ordered, Planned, order, order_with};
use super::{Changed, Options, Page, PageRequest, page};
use crate::actor::{Actor, authorize};
use crate::error::{Class, ServiceError};
use crate::inventory::Snapshot;
use crate::redact::Shown;
use crate::tasks::{image_delete, image_import};
use crate::world::World;

/// The largest image.
const LARGEST: ByteSize = ByteSize::gib(16 << 10);

/// Which images a list is to hold; all that is given must fit.
#[derive(Debug, Clone, Default)]
pub struct ImageFilter {
    pub state: Option<ImageState>,
    pub datastore: Option<Ref>,
}

/// # Errors
/// `forbidden`; `not_found` when the filter names what does not exist; `invalid` paging.
pub fn list(
    world: &World,
    actor: &Actor,
    filter: &ImageFilter,
    request: &PageRequest,
) -> Result<Page<Image>, ServiceError> {
    authorize(actor, Role::Viewer, "list images")?;
    let snapshot = world.snapshot();
    let datastore = filter.datastore.as_ref();
    let datastore = datastore.map(|r| snapshot.find::<DatastoreKind>(r)).transpose()?;
    page::<ImageKind>(&snapshot, request, |image| {
        filter.state.is_none_or(|state| image.status.state == state)
            && datastore.is_none_or(|datastore| image.spec.datastore == datastore.id())
    })
}

/// # Errors
/// `forbidden`, `not_found`.
pub fn show(world: &World, actor: &Actor, image: &Ref) -> Result<Arc<Image>, ServiceError> {
    authorize(actor, Role::Viewer, "see images")?;
    Ok(ImageKind::shown(world.snapshot().find(image)?))
}

/// Imports an image from an address, or makes one that [`upload`] fills.
///
/// # Errors
/// `forbidden`, `invalid`, `not_found`, `name_taken`, `no_datastore`, `host_disconnected`.
pub async fn create(
    world: &World,
    actor: &Actor,
    request: ImageCreate,
    options: &Options,
) -> Result<Changed<Image>, ServiceError> {
    authorize(actor, Role::Operator, "import images")?;
    validate(&request)?;
    if let ImageSource::Upload(_) = request.source {
        return expect_upload(world, actor, &request, options).await;
    }
    let ordered = order_with(world, actor, options, "image.import", &request, |snapshot| {
        let (image, explanation) = plan(snapshot, &request)?;
        let order = image_import::order(&image).with(Write::create(&image));
        Ok(Planned { order, object: Arc::new(image), explanation })
    })
    .await?;
    match ordered {
        Ordered::New(changed) => Ok(changed),
        Ordered::Before(task) => {
            let snapshot = world.snapshot();
            let image = task.spec.objects.first().and_then(|id| snapshot.get(id.typed()));
            let image = image.ok_or_else(|| {
                ServiceError::not_found(
                    hostler_types::KindName::Image,
                    &Ref::Name(request.name.clone()),
                )
            })?;
            Ok(Changed {
                object: ImageKind::shown(image),
                task: Some(task),
                explanation: Vec::new(),
                explained: Vec::new(),
            })
        }
    }
}

async fn expect_upload(
    world: &World,
    actor: &Actor,
    request: &ImageCreate,
    options: &Options,
) -> Result<Changed<Image>, ServiceError> {
    let _references = world.references.read().await;
    let (image, explanation) = plan(&world.snapshot(), request)?;
    if !options.dry_run {
        let batch = crate::world::Core::batch(actor, "image.create: waits for the upload");
        world.commit(batch.with(Write::create(&image))).await?;
    }
    let stored = world.snapshot().get(image.id()).cloned();
    let object = ImageKind::shown(&stored.unwrap_or_else(|| Arc::new(image)));
    Ok(Changed { object, task: None, explanation, explained: Vec::new() })
}

/// What has been received of an upload.
#[derive(Debug, Clone)]
pub struct Uploaded {
    pub received: ByteSize,
    /// Of this many.
    pub size: ByteSize,
}

/// How much of an upload has been received: where to go on after an interruption.
///
/// # Errors
/// `forbidden`, `not_found`, `wrong_state`, or the host's problem.
pub async fn received(world: &World, actor: &Actor, image: &Ref) -> Result<Uploaded, ServiceError> {
    authorize(actor, Role::Operator, "upload images")?;
    let (image, size) = uploading(&world.snapshot(), image)?;
    let link = world.link(host_of(&world.snapshot(), &image)?)?;
    let answer = world.limited(link.image_content(image.id(), image.spec.datastore)).await?;
    Ok(Uploaded { received: answer.received, size })
}

/// Appends bytes to an upload, from `offset` on. When all are there, [`import`] is next.
///
/// # Errors
/// `forbidden`, `not_found`, `wrong_state`, or the host's problem (such as a wrong offset or
/// `no_space`).
pub async fn upload(
    world: &World,
    actor: &Actor,
    image: &Ref,
    offset: u64,
    content: ByteStream,
) -> Result<Uploaded, ServiceError> {
    authorize(actor, Role::Operator, "upload images")?;
    let (image, size) = uploading(&world.snapshot(), image)?;
    if offset > size.0 {
        let reason = format!("{offset} is beyond the {} bytes announced", size.0);
        return Err(ServiceError::invalid("offset", reason));
    }
    let link = world.link(host_of(&world.snapshot(), &image)?)?;
    let content = bounded(content, size.0 - offset);
    // As long as the client sends; the server ends connections that send nothing.
    let answer = link.image_upload(image.id(), image.spec.datastore, offset, content).await?;
    Ok(Uploaded { received: answer.received, size })
}

/// Checks an image that was uploaded as a whole, and makes it ready.
///
/// # Errors
/// `forbidden`, `not_found`, `busy`; `wrong_state` also while bytes are missing.
pub async fn import(
    world: &World,
    actor: &Actor,
    image: &Ref,
    options: &Options,
) -> Result<Arc<Task>, ServiceError> {
    authorize(actor, Role::Operator, "import images")?;
    let uploaded = received(world, actor, image).await;
    if let Ok(Uploaded { received, size }) = uploaded
        && received < size
    {
        let message = format!("only {} of the image's {} bytes were sent", received.0, size.0);
        return Err(ServiceError::conflict("wrong_state", message).hint("send the rest first"));
    }
    order(world, actor, options, "image.import", &image, |snapshot| {
        let (image, _) = uploading(snapshot, image)?;
        let mut image = Image::clone(&image);
        image.status.state = ImageState::Importing;
        Ok(image_import::order(&image).with(Write::update(&image)))
    })
    .await
}

/// Ends a stream with an error when it is longer than announced.
fn bounded(content: ByteStream, most: u64) -> ByteStream {
    use futures::StreamExt as _;
    let mut left = most;
    Box::pin(content.map(move |piece| {
        let piece = piece?;
        left = left.checked_sub(piece.len() as u64).ok_or_else(|| {
            std::io::Error::other("more bytes were sent than the image was announced to have")
        })?;
        Ok(piece)
    }))
}

/// Deletes an image that no VM uses.
///
/// # Errors
/// `forbidden`, `not_found`, `in_use`, `busy`.
pub async fn delete(
    world: &World,
    actor: &Actor,
    image: &Ref,
    options: &Options,
) -> Result<Arc<Task>, ServiceError> {
    authorize(actor, Role::Operator, "delete images")?;
    order(world, actor, options, "image.delete", &image, |snapshot| {
        let image = snapshot.find::<ImageKind>(image)?;
        require_unused(snapshot, image)?;
        Ok(image_delete::order(image))
    })
    .await
}

pub(crate) fn require_unused(snapshot: &Snapshot, image: &Image) -> Result<(), ServiceError> {
    let users: Vec<_> = snapshot.vms_with_image(image.id()).collect();
    if users.is_empty() {
        return Ok(());
    }
    let message = format!(
        "image `{}` is used by vm {}: their disks lie on it",
        image.name(),
        super::vm::told_names(&users)
    );
    Err(ServiceError::conflict("in_use", message).hint("delete these VMs first"))
}

fn validate(request: &ImageCreate) -> Result<(), ServiceError> {
    validate_labels(&request.labels)
        .map_err(|reason| ServiceError::invalid_as_told("labels", reason))?;
    match &request.source {
        ImageSource::Url(address) => validate_address(address),
        ImageSource::Upload(size) if size.0 == 0 || *size > LARGEST => {
            let reason = format!("{size} is not possible; 1 byte to {LARGEST}");
            Err(ServiceError::invalid("source.upload", reason))
        }
        ImageSource::Upload(_) => Ok(()),
        ImageSource::Found => {
            let reason = "an image that lies on a datastore is adopted, not imported";
            Err(ServiceError::invalid("source", reason)
                .hint("see `hostler datastore check --help`"))
        }
    }
}

/// What an address may be; where it leads is checked by the host that downloads.
fn validate_address(address: &str) -> Result<(), ServiceError> {
    let invalid = |reason: &str| Err(ServiceError::invalid("source.url", reason));
    let rest = address.strip_prefix("https://").or_else(|| address.strip_prefix("http://"));
    let Some(rest) = rest else {
        return invalid("it must begin with https:// or http://");
    };
    if address.len() > 2048 || address.chars().any(|c| c.is_control() || c == ' ') {
        return invalid("at most 2048 characters, without spaces and control characters");
    }
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.is_empty() {
        return invalid("it names no host");
    }
    if host.contains('@') {
        return invalid("it must hold no user name or password: everyone can read it");
    }
    Ok(())
}

fn plan(snapshot: &Snapshot, request: &ImageCreate) -> Result<(Image, Vec<String>), ServiceError> {
    if snapshot.all::<ImageKind>().get_by_name(&request.name).is_some() {
        let message = format!("there is already an image named `{}`", request.name);
        return Err(ServiceError::conflict("name_taken", message)
            .hint("choose another name, or delete the other one first"));
    }
    let (datastore, why) = choose_datastore(snapshot, request.datastore.as_ref())?;
    let source = request.source.clone();
    let state = match source {
        ImageSource::Url(_) | ImageSource::Found => ImageState::Importing,
        ImageSource::Upload(_) => ImageState::Uploading,
    };
    let spec = ImageSpec { datastore: datastore.id(), source, sha256: request.sha256.clone() };
    let status = ImageStatus {
        state,
        message: None,
        format: None,
        media: None,
        virtual_size: ByteSize(0),
        allocated: ByteSize(0),
        sha256: None,
    };
    let labels = request.labels.clone();
    Ok((Image::new(request.name.clone(), labels, Timestamp::now(), spec, status), vec![why]))
}

/// The datastore asked for, or the ready one of a connected host with the most free space.
fn choose_datastore<'a>(
    snapshot: &'a Snapshot,
    wanted: Option<&Ref>,
) -> Result<(&'a Arc<Datastore>, String), ServiceError> {
    let connected = |datastore: &Datastore| {
        let host = snapshot.find::<HostKind>(&Ref::by_id(datastore.spec.host))?;
        super::host::require_connected(host)
    };
    if let Some(wanted) = wanted {
        let datastore = snapshot.find::<DatastoreKind>(wanted)?;
        connected(datastore)?;
        super::datastore::require_room(snapshot, datastore, &[])?;
        return Ok((datastore, format!("datastore `{}`: as asked for", datastore.name())));
    }
    let usable = snapshot.all::<DatastoreKind>().iter().filter(|datastore| {
        connected(datastore).is_ok()
            && super::datastore::require_room(snapshot, datastore, &[]).is_ok()
    });
    let best = usable.max_by_key(|datastore| datastore.status.free);
    let best = best.ok_or_else(|| no_datastore(snapshot))?;
    let why = format!("datastore `{}`: the most free space, {}", best.name(), best.status.free);
    Ok((best, why))
}

fn no_datastore(snapshot: &Snapshot) -> ServiceError {
    let reasons = snapshot.all::<DatastoreKind>().iter().filter_map(|datastore| {
        if let Some(why) = &datastore.status.message {
            return Some(format!("; datastore `{}`: {why}", datastore.name()));
        }
        let refused = super::datastore::require_room(snapshot, datastore, &[]).err()?;
        Some(format!("; {}", refused.message))
    });
    let reasons: String = reasons.collect();
    let message = format!("no datastore is ready on a host that answers{reasons}");
    ServiceError::new(Class::Unavailable, "no_datastore", message)
        .hint("see `hostler datastore list` and `hostler host list`")
}

fn uploading(snapshot: &Snapshot, image: &Ref) -> Result<(Arc<Image>, ByteSize), ServiceError> {
    let image = snapshot.find::<ImageKind>(image)?;
    match (&image.spec.source, image.status.state) {
        (ImageSource::Upload(size), ImageState::Uploading) => Ok((image.clone(), *size)),
        _ => Err(ServiceError::conflict(
            "wrong_state",
            format!("image `{}` does not wait for an upload", image.name()),
        )),
    }
}

fn host_of(snapshot: &Snapshot, image: &Image) -> Result<hostler_types::HostId, ServiceError> {
    let datastore = snapshot.find::<DatastoreKind>(&Ref::by_id(image.spec.datastore))?;
    Ok(datastore.spec.host)
}
