//! Is every file on a datastore accounted for? And what becomes of those that are not.

use std::sync::Arc;
use std::time::Duration;

use hostler_store::Write;
use hostler_types::{
    ByteSize, Datastore, DatastoreFindings, DatastoreId, DatastoreKind, HostId, HostKind,
    HostState, Image, ImageId, ImageKind, ImageSource, ImageSpec, ImageState, ImageStatus,
    KindName, Labels, Name, Orphan, OrphanKind, Ref, Role, Task, VmId,
};
use jiff::Timestamp;

use super::judge::Judge;
use super::owners::Owners;
use crate::actor::{Actor, authorize};
use crate::error::{Class, ServiceError};
use crate::inventory::Snapshot;
use crate::services::Options;
use crate::services::submit::order;
use crate::services::vm::{VmRegister, register};
use crate::tasks::{datastore_clean, image_adopt};
use crate::world::{Core, World};

/// For a host to walk through half a million files.
const PATIENCE: Duration = Duration::from_secs(120);
/// Paths that are removed with one task.
const MOST: usize = 1000;

/// Holds all files of a datastore against the inventory. Changes nothing.
///
/// # Errors
/// `forbidden`, `not_found`, `host_disconnected`, or the host's problem, such as
/// `datastore_missing`.
pub async fn check(
    world: &World,
    actor: &Actor,
    datastore: &Ref,
) -> Result<DatastoreFindings, ServiceError> {
    authorize(actor, Role::Operator, "look through datastores")?;
    let datastore = world.snapshot().find::<DatastoreKind>(datastore)?.clone();
    let judge = |judge: &Judge<'_>| judge.findings();
    look(world, &datastore, &Owners::last_told(world), judge).await
}

/// Looks through the datastore and lets `judge` say what is to be known.
async fn look<T>(
    core: &Core,
    datastore: &Datastore,
    owners: &Owners,
    judge: impl FnOnce(&Judge<'_>) -> T,
) -> Result<T, ServiceError> {
    let before = core.snapshot();
    let link = core.link(from(&before, datastore)?)?;
    let found = core.limited_to(PATIENCE, link.datastore_files(datastore.id())).await?;
    // Whatever was made or deleted while the host looked is in the log by now.
    let after = core.inventory.at_least(core.store.revision().await?).await;
    let now = Timestamp::now();
    let (found, before, after) = (&found, &*before, &*after);
    Ok(judge(&Judge { datastore, found, owners, before, after, now }))
}

/// A host that can look: the first one that answers and has the datastore.
fn from(snapshot: &Snapshot, datastore: &Datastore) -> Result<HostId, ServiceError> {
    let connected = |host: &HostId| {
        let host = snapshot.get::<HostKind>(*host);
        host.is_some_and(|host| host.status.state == HostState::Connected)
    };
    let ready = |host: &HostId| datastore.status.is_ready_on(&datastore.spec, *host);
    let mut hosts = datastore.spec.all_hosts().filter(connected);
    let first = hosts.next().ok_or_else(|| {
        let message = format!("no host that has datastore `{}` is connected", datastore.name());
        ServiceError::new(Class::Unavailable, "host_disconnected", message)
            .hint("see `hostler host list`")
    })?;
    Ok(std::iter::once(first).chain(hosts).find(ready).unwrap_or(first))
}

/// Makes an object of the inventory of what lies on a datastore: a VM is registered, an image is
/// inspected as if it were imported.
///
/// # Errors
/// `forbidden`, `not_found` when there is no such orphan, `wrong_state` when it cannot be adopted,
/// `host_disconnected` when one of the datastore's hosts does not say what it has, `name_taken`, and
/// what [`register`] refuses.
pub async fn adopt(
    world: &World,
    actor: &Actor,
    datastore: &Ref,
    path: &str,
    name: Option<&Name>,
    options: &Options,
) -> Result<Arc<Task>, ServiceError> {
    authorize(actor, Role::Operator, "adopt files of datastores")?;
    let store = world.snapshot().find::<DatastoreKind>(datastore)?.clone();
    let owners = Owners::asked(world, &store).await?;
    let findings = look(world, &store, &owners, |judge| judge.findings()).await?;
    let orphan = orphan(&findings, path)?;
    let refused = |why: &str| {
        let message = format!("`{path}` cannot be adopted: {why}");
        ServiceError::conflict("wrong_state", message)
    };
    if !orphan.adoptable {
        return Err(refused(orphan.note.as_deref().unwrap_or("it is neither a VM nor an image")));
    }
    let id = path.rsplit('/').next().and_then(|name| name.split('.').next()).unwrap_or_default();
    if orphan.kind == OrphanKind::Vm {
        let vm: VmId = id.parse().map_err(|_| refused("it has no VM's id"))?;
        let request =
            VmRegister { datastore: datastore.clone(), vm: Ref::by_id(vm), name: name.cloned() };
        let changed = register(world, actor, request, options).await?;
        return changed.task.ok_or_else(|| ServiceError::invalid("dry_run", "not possible here"));
    }
    let image: ImageId = id.parse().map_err(|_| refused("it has no image's id"))?;
    let name = match name {
        Some(name) => name.clone(),
        // Nothing on the disk says what it was called.
        None => format!("image-{}", &image.to_string()[24..])
            .parse()
            .map_err(|_| refused("say what it is to be called"))?,
    };
    order(world, actor, options, "image.adopt", &(path, &name), |snapshot| {
        if snapshot.all::<ImageKind>().get_by_name(&name).is_some() {
            let message = format!("there is already an image named `{name}`");
            return Err(ServiceError::conflict("name_taken", message)
                .hint("give it another name with `--name`"));
        }
        let image = found_image(image, name.clone(), store.id());
        let unlocked = Write::ExpectUnlocked { object: store.id().untyped() };
        Ok(image_adopt::order(&image).with(Write::create(&image)).with(unlocked))
    })
    .await
}

fn found_image(id: ImageId, name: Name, datastore: DatastoreId) -> Image {
    let status = ImageStatus {
        state: ImageState::Importing,
        message: None,
        format: None,
        media: None,
        virtual_size: ByteSize(0),
        allocated: ByteSize(0),
        sha256: None,
    };
    let spec = ImageSpec { datastore, source: ImageSource::Found, sha256: None };
    let mut image = Image::new(name, Labels::new(), Timestamp::now(), spec, status);
    // Disks may lie on it by this id.
    image.metadata.id = id;
    image
}

/// Removes files that nobody owns, for good. Each must be an orphan that nothing lies on; the host
/// looks once more.
///
/// # Errors
/// `forbidden`, `invalid`, `not_found` when one is no orphan, `in_use`, `busy`, `host_disconnected`
/// when one of the datastore's hosts does not say what it has.
pub async fn remove_orphans(
    world: &World,
    actor: &Actor,
    datastore: &Ref,
    paths: &[String],
    options: &Options,
) -> Result<Arc<Task>, ServiceError> {
    authorize(actor, Role::Admin, "remove files from datastores")?;
    if paths.is_empty() || paths.len() > MOST {
        return Err(ServiceError::invalid("paths", format!("1 to {MOST} at a time")));
    }
    let store = world.snapshot().find::<DatastoreKind>(datastore)?.clone();
    removable(world, &store, paths).await?;
    order(world, actor, options, "datastore.clean", &(datastore, paths), |snapshot| {
        let store = snapshot.find::<DatastoreKind>(&Ref::by_id(store.id()))?;
        Ok(datastore_clean::order(store, paths))
    })
    .await
}

/// What the host is to remove so that these orphans are gone; an error for one that is none. One
/// that is not there any more is done already.
pub(crate) async fn removable(
    core: &Core,
    datastore: &Datastore,
    paths: &[String],
) -> Result<Vec<String>, ServiceError> {
    let owners = Owners::asked(core, datastore).await?;
    look(core, datastore, &owners, |judge| {
        let findings = judge.findings();
        let mut all = Vec::new();
        for path in paths {
            if !judge.is_there(path) {
                continue;
            }
            let orphan = orphan(&findings, path)?;
            if let Some(host) = &orphan.host {
                let message = format!("`{path}` is in use: host `{host}` has this VM");
                return Err(ServiceError::conflict("in_use", message)
                    .hint("perhaps the store was restored from a backup older than the VM"));
            }
            if let Some(user) = orphan.used_by.first() {
                let message = format!("`{path}` is in use: `{user}` lies on it");
                return Err(ServiceError::conflict("in_use", message)
                    .hint("adopt it, or remove what lies on it first"));
            }
            all.extend(judge.paths(orphan));
        }
        Ok(all)
    })
    .await?
}

fn orphan<'a>(findings: &'a DatastoreFindings, path: &str) -> Result<&'a Orphan, ServiceError> {
    let found = findings.orphans.iter().find(|orphan| orphan.path == path);
    found.ok_or_else(|| {
        let message = format!(
            "`{path}` is not among the files of datastore `{}` that nobody owns",
            findings.datastore
        );
        ServiceError::new(Class::NotFound, "not_found", message).hint(format!(
            "see `hostler {} check {}`",
            KindName::Datastore,
            findings.datastore
        ))
    })
}
