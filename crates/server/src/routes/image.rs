//! Images.

use hostler_api::image::{
    Create, Delete, ImageCreated, Import, List, Show, Upload, UploadProgress, UploadStatus,
};
use hostler_control::services::Changed;
use hostler_control::services::image::{self, ImageFilter};
use hostler_endpoint::{Call, Page, Problem, Routes};
use hostler_types::{Image, Task};

use crate::app::{App, actor, keyed, page, paged, shown};
use crate::problem::problem;

pub(crate) fn add(routes: Routes<App>) -> Routes<App> {
    routes
        .serve::<List, _>(list)
        .serve::<Create, _>(create)
        .serve::<Show, _>(show)
        .serve::<Delete, _>(delete)
        .serve::<Upload, _>(upload)
        .serve::<UploadProgress, _>(upload_status)
        .serve::<Import, _>(import)
}

async fn list(app: App, call: Call<List>) -> Result<Page<Image>, Problem> {
    let query = call.query;
    let request = paged(query.limit, query.after, query.label, query.name);
    let filter = ImageFilter { state: query.state, datastore: query.datastore };
    let actor = actor(&call.extensions)?;
    image::list(&app.world, actor, &filter, &request).map(page).map_err(problem)
}

async fn create(app: App, call: Call<Create>) -> Result<ImageCreated, Problem> {
    let options = keyed(call.idempotency_key);
    let actor = actor(&call.extensions)?;
    let Changed { object, task, .. } =
        image::create(&app.world, actor, call.body, &options).await.map_err(problem)?;
    Ok(ImageCreated { image: shown(object), task: task.map(shown) })
}

async fn show(app: App, call: Call<Show>) -> Result<Image, Problem> {
    let actor = actor(&call.extensions)?;
    image::show(&app.world, actor, &call.path.image).map(shown).map_err(problem)
}

async fn delete(app: App, call: Call<Delete>) -> Result<Task, Problem> {
    let options = keyed(call.idempotency_key);
    let actor = actor(&call.extensions)?;
    image::delete(&app.world, actor, &call.path.image, &options).await.map(shown).map_err(problem)
}

async fn upload(app: App, call: Call<Upload>) -> Result<UploadStatus, Problem> {
    let actor = actor(&call.extensions)?;
    let content = app.steady(call.body);
    let uploaded =
        image::upload(&app.world, actor, &call.path.image, call.query.offset, content).await;
    Ok(UploadStatus { received: uploaded.map_err(problem)?.received })
}

async fn upload_status(app: App, call: Call<UploadProgress>) -> Result<UploadStatus, Problem> {
    let actor = actor(&call.extensions)?;
    let uploaded = image::received(&app.world, actor, &call.path.image).await;
    Ok(UploadStatus { received: uploaded.map_err(problem)?.received })
}

async fn import(app: App, call: Call<Import>) -> Result<Task, Problem> {
    let options = keyed(call.idempotency_key);
    let actor = actor(&call.extensions)?;
    image::import(&app.world, actor, &call.path.image, &options).await.map(shown).map_err(problem)
}
