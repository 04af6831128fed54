//! The server itself.

use hostler_api::code;
use hostler_api::system::{
    Features, Health, ListFeatures, ShowDocument, ShowHealth, ShowReady, ShowVersion, Version,
};
use hostler_endpoint::{Call, Problem, Routes};

use crate::app::App;

pub(crate) fn add(routes: Routes<App>) -> Routes<App> {
    routes
        .serve::<ShowVersion, _>(version)
        .serve::<ShowHealth, _>(health)
        .serve::<ShowReady, _>(ready)
        .serve::<ListFeatures, _>(features)
        .serve::<ShowDocument, _>(openapi)
}

async fn version(_: App, _: Call<ShowVersion>) -> Result<Version, Problem> {
    Ok(Version { version: env!("CARGO_PKG_VERSION").to_owned(), api: "v1".to_owned() })
}

async fn health(_: App, _: Call<ShowHealth>) -> Result<Health, Problem> {
    Ok(Health { status: "ok".to_owned() })
}

/// The server listens only when its inventory is loaded; from then on it is ready until it ends.
async fn ready(app: App, _: Call<ShowReady>) -> Result<Health, Problem> {
    if app.closing.is_cancelled() {
        return Err(code::UNAVAILABLE.problem("the server is about to end"));
    }
    Ok(Health { status: "ok".to_owned() })
}

/// What was added to `/v1` since its first release.
async fn features(_: App, _: Call<ListFeatures>) -> Result<Features, Problem> {
    Ok(Features {
        features: [
            "customization-specs",
            "address-pools",
            "templates",
            "sealing",
            "requests",
            "datastore-check",
            "vm-export",
            "template-clones",
            "approval-choices",
            "disk-from-vm",
            "vm-from-host",
            "pools",
            "placement-rules",
            "decisions",
            "simulate",
            "stats",
            "live-migration",
            "balancing",
            "downtime-budget",
            "host-maintenance",
            "storage-migration",
            "cpu-baseline",
        ]
        .map(str::to_owned)
        .to_vec(),
    })
}

async fn openapi(_: App, _: Call<ShowDocument>) -> Result<serde_json::Value, Problem> {
    Ok(hostler_api::document())
}
