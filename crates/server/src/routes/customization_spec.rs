//! Customization specs.

use hostler_api::customization_spec::{
    Create, Customize, Delete, List, Render, Rendered, RenderedFile, Show, Update,
};
use hostler_control::services::customization_spec::{
    self, CustomizationSpecCreate, CustomizationSpecUpdate,
};
use hostler_control::services::vm::{self, VmCustomize};
use hostler_endpoint::{Call, Page, Problem, Routes};
use hostler_types::{CustomizationSpec, Revision, Task};

use crate::app::{App, actor, keyed, page, paged, shown};
use crate::problem::problem;

pub(crate) fn add(routes: Routes<App>) -> Routes<App> {
    routes
        .serve::<List, _>(list)
        .serve::<Create, _>(create)
        .serve::<Show, _>(show)
        .serve::<Update, _>(update)
        .serve::<Delete, _>(delete)
        .serve::<Render, _>(render)
        .serve::<Customize, _>(customize)
}

async fn list(app: App, call: Call<List>) -> Result<Page<CustomizationSpec>, Problem> {
    let query = call.query;
    let request = paged(query.limit, query.after, query.label, query.name);
    let actor = actor(&call.extensions)?;
    customization_spec::list(&app.world, actor, &request).map(page).map_err(problem)
}

async fn create(app: App, call: Call<Create>) -> Result<CustomizationSpec, Problem> {
    let body = call.body;
    let request = CustomizationSpecCreate { name: body.name, labels: body.labels, spec: body.spec };
    let actor = actor(&call.extensions)?;
    customization_spec::create(&app.world, actor, request).await.map(shown).map_err(problem)
}

async fn show(app: App, call: Call<Show>) -> Result<CustomizationSpec, Problem> {
    let actor = actor(&call.extensions)?;
    customization_spec::show(&app.world, actor, &call.path.spec).map(shown).map_err(problem)
}

async fn update(app: App, call: Call<Update>) -> Result<CustomizationSpec, Problem> {
    let expected = call.if_match.map(Revision);
    let actor = actor(&call.extensions)?;
    let request = CustomizationSpecUpdate { labels: call.body.labels, spec: call.body.spec };
    let spec = &call.path.spec;
    let changed = customization_spec::update(&app.world, actor, spec, request, expected);
    changed.await.map(shown).map_err(problem)
}

async fn delete(app: App, call: Call<Delete>) -> Result<(), Problem> {
    let actor = actor(&call.extensions)?;
    customization_spec::delete(&app.world, actor, &call.path.spec).await.map_err(problem)
}

async fn render(app: App, call: Call<Render>) -> Result<Rendered, Problem> {
    let actor = actor(&call.extensions)?;
    let vm = call.query.vm.as_ref();
    let seed = customization_spec::render(&app.world, actor, &call.path.spec, vm);
    let seed = seed.map_err(problem)?;
    let files = seed.files.into_iter();
    let files = files.map(|file| RenderedFile { path: file.path.to_owned(), text: file.text });
    Ok(Rendered { label: seed.label.to_owned(), files: files.collect() })
}

async fn customize(app: App, call: Call<Customize>) -> Result<Task, Problem> {
    let options = keyed(call.idempotency_key);
    let actor = actor(&call.extensions)?;
    let body = call.body;
    let request = VmCustomize {
        spec: body.customization_spec,
        customization: body.customization,
        addresses: body.addresses,
        reboot: body.reboot,
    };
    let task = vm::customize(&app.world, actor, &call.path.vm, request, &options).await;
    task.map(shown).map_err(problem)
}
