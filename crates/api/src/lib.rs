//! The public REST contract `/v1`: one type per endpoint, a module per resource.
//!
//! `server` serves these types, `cli` and tests call them through `hostler_endpoint::Client`, and
//! [`document`] is the OpenAPI document made from them. Objects are shown as `hostler_types` has
//! them, their secrets taken out by `control`. There is no logic here.

pub mod approval_rule;
pub mod cluster;
pub mod code;
pub mod console;
pub mod customization_spec;
pub mod datastore;
pub mod disk;
mod document;
pub mod drs;
pub mod event;
pub mod export;
pub mod group;
pub mod host;
pub mod image;
pub mod naming_rule;
pub mod network;
pub mod placement;
pub mod pool;
pub mod recycle_bin;
pub mod request;
pub mod rule;
pub mod snapshot;
pub mod snapshot_policy;
pub mod system;
pub mod task;
pub mod template;
pub mod token;
pub mod user;
pub mod vm;

pub use document::{document, endpoints};
