//! Objects that are made once and never changed: networks, datastores, images.

use hostler_api::{datastore, image, network};
use hostler_endpoint::{Answer, Endpoint, NoParams, Receive};
use hostler_types::{HostId, ImageCreate, ImageSource, KindName, Labels, Ref};

use super::{Action, fixed};
use crate::error::{CliError, Exit};
use crate::session::{Session, once};
use crate::wait;

/// The object, if there is one.
pub(super) async fn find<E>(
    session: &Session,
    path: &E::Path,
) -> Result<Option<<E::Answer as Answer>::Value>, CliError>
where
    E: Endpoint<Query = NoParams, Body = hostler_endpoint::Empty>,
    E::Answer: Receive,
{
    match session.call::<E>(path, &NoParams {}, ()).await {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.exit() == Exit::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Labels that a document does not name are not looked at.
fn same_labels(wanted: &Labels, there: &Labels) -> bool {
    wanted.is_empty() || wanted == there
}

pub(super) async fn network(
    session: &Session,
    wanted: network::NetworkCreate,
    dry_run: bool,
) -> Result<Action, CliError> {
    let path = network::NetworkPath { network: wanted.name.clone().into() };
    if let Some(there) = find::<network::Show>(session, &path).await? {
        if there.spec != wanted.spec {
            return Err(fixed(KindName::Network, wanted.name.as_str(), "another specification"));
        }
        if !same_labels(&wanted.labels, &there.metadata.labels) {
            return Err(fixed(KindName::Network, wanted.name.as_str(), "other labels"));
        }
        return Ok(Action::Unchanged);
    }
    if !dry_run {
        let none = NoParams {};
        session.call_with::<network::Create>(&none, &none, wanted, once()).await?;
    }
    Ok(Action::Created)
}

pub(super) async fn datastore(
    session: &Session,
    wanted: datastore::DatastoreCreate,
    dry_run: bool,
) -> Result<Action, CliError> {
    let path = datastore::DatastorePath { datastore: wanted.name.clone().into() };
    let name = wanted.name.as_str();
    if let Some(there) = find::<datastore::Show>(session, &path).await? {
        if there.spec.path.trim_end_matches('/') != wanted.path.trim_end_matches('/') {
            return Err(fixed(KindName::Datastore, name, &format!("the path {}", there.spec.path)));
        }
        if let Some(host) = &wanted.host
            && host_id(session, host).await? != there.spec.host
        {
            return Err(fixed(KindName::Datastore, name, "another host"));
        }
        if !same_labels(&wanted.labels, &there.metadata.labels) {
            return Err(fixed(KindName::Datastore, name, "other labels"));
        }
        return Ok(Action::Unchanged);
    }
    if !dry_run {
        let none = NoParams {};
        session.call_with::<datastore::Create>(&none, &none, wanted, once()).await?;
    }
    Ok(Action::Created)
}

async fn host_id(session: &Session, host: &Ref) -> Result<HostId, CliError> {
    let path = hostler_api::host::HostPath { host: host.clone() };
    Ok(session.call::<hostler_api::host::Show>(&path, &NoParams {}, ()).await?.id())
}

pub(super) async fn image(
    session: &Session,
    wanted: ImageCreate,
    dry_run: bool,
) -> Result<Action, CliError> {
    let name = wanted.name.as_str();
    if matches!(wanted.source, ImageSource::Upload(_)) {
        let message = format!("image {name}: only images with an address can be applied");
        return Err(CliError::new(Exit::Failed, message)
            .hint(format!("upload it with `hostler image import {name} FILE`")));
    }
    let path = image::ImagePath { image: wanted.name.clone().into() };
    if let Some(there) = find::<image::Show>(session, &path).await? {
        if there.spec.source != wanted.source {
            return Err(fixed(KindName::Image, name, "another source"));
        }
        if wanted.sha256.is_some() && wanted.sha256 != there.spec.sha256 {
            return Err(fixed(KindName::Image, name, "another checksum"));
        }
        return Ok(Action::Unchanged);
    }
    if !dry_run {
        let none = NoParams {};
        let created = session.call_with::<image::Create>(&none, &none, wanted, once()).await?;
        if let Some(task) = created.task {
            wait::task(session, task).await?;
        }
    }
    Ok(Action::Created)
}
