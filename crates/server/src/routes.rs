//! The API's handlers: a request in, a service called, a view out. One module per resource, as in
//! `hostler-api`, and one function per endpoint, named as its endpoint's id ends.

use axum::Router;
use hostler_endpoint::Routes;

use crate::app::App;
use crate::gate::gate;

mod approval_rule;
mod cluster;
mod console;
mod customization_spec;
mod datastore;
mod disk;
mod drs;
mod event;
mod export;
mod group;
mod host;
mod image;
mod naming_rule;
mod network;
mod placement;
mod pool;
mod recycle_bin;
mod request;
mod rule;
mod snapshot;
mod snapshot_policy;
mod system;
mod task;
mod template;
mod token;
mod user;
mod vm;

/// All endpoints behind the gate.
fn routes(app: App) -> Routes<App> {
    let routes = Routes::new(app).gate(gate);
    let routes = datastore::add(image::add(console::add(vm::add(routes))));
    let routes = customization_spec::add(disk::add(naming_rule::add(recycle_bin::add(routes))));
    let routes = approval_rule::add(request::add(pool::add(cluster::add(routes))));
    let routes = drs::add(rule::add(group::add(placement::add(routes))));
    let routes = snapshot_policy::add(snapshot::add(routes));
    let routes = template::add(export::add(routes));
    let routes = task::add(host::add(network::add(routes)));
    system::add(token::add(user::add(event::add(routes))))
}

/// The router of all endpoints.
pub(crate) fn router(app: App) -> Router {
    routes(app).build()
}
