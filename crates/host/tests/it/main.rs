//! Tests of `hostler-host` against a real file system, network namespaces and cgroups. They need
//! root, as the agent does.

#![expect(clippy::unwrap_used, reason = "helpers of tests panic as the tests do")]

mod datastore;
mod enter;
mod guest;
mod image;
mod netns;
mod network;
mod seed;
mod volume;
