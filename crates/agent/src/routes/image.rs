//! Images.

use hostler_agent_api as api;
use hostler_agent_api::{ImageContentAnswer, ImageImported};
use hostler_endpoint::{Call, Problem};

use super::Service;

pub(super) async fn image_upload(
    service: Service,
    call: Call<api::ImageUpload>,
) -> Result<ImageContentAnswer, Problem> {
    let (image, query) = (call.path.image, call.query);
    Ok(service.images.upload(image, query.datastore, query.offset, call.body).await?)
}

pub(super) async fn image_content(
    service: Service,
    call: Call<api::ImageContent>,
) -> Result<ImageContentAnswer, Problem> {
    Ok(service.images.received(call.path.image, call.query.datastore).await?)
}

pub(super) async fn image_import(
    service: Service,
    call: Call<api::ImageImport>,
) -> Result<ImageImported, Problem> {
    service.images.import(call.path.image, call.body).await
}

pub(super) async fn image_remove(
    service: Service,
    call: Call<api::ImageRemove>,
) -> Result<(), Problem> {
    Ok(service.images.remove(call.path.image, call.body.datastore).await?)
}
