//! The cluster: what holds for all its hosts together.

use hostler_endpoint::{Empty, Endpoint, Json, Method, NoParams};
use hostler_types::{Cluster, ClusterUpdate, CpuBaselineReport};

/// Show the cluster.
#[derive(Debug)]
pub struct Show;

impl Endpoint for Show {
    const ID: &'static str = "cluster_show";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/cluster";
    const SUMMARY: &'static str = "Show the cluster";
    const TAG: &'static str = "cluster";
    const ACCESS: &'static str = "viewer";
    type Path = NoParams;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Cluster>;

    fn revision(answer: &Cluster) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}
/// Change the cluster.
#[derive(Debug)]
pub struct Update;

impl Endpoint for Update {
    const ID: &'static str = "cluster_update";
    const METHOD: Method = Method::Patch;
    const PATH: &'static str = "/v1/cluster";
    const SUMMARY: &'static str = "Change the cluster";
    const TAG: &'static str = "cluster";
    const ACCESS: &'static str = "admin";
    const CONDITIONAL: bool = true;
    type Path = NoParams;
    type Query = NoParams;
    type Body = Json<ClusterUpdate>;
    type Answer = Json<Cluster>;

    fn revision(answer: &Cluster) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}
/// What VMs see of their host's CPU that start now, and how that comes about.
#[derive(Debug)]
pub struct CpuBaseline;

impl Endpoint for CpuBaseline {
    const ID: &'static str = "cluster_cpu_baseline";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/cluster/cpu-baseline";
    const SUMMARY: &'static str = "What VMs get of the hosts' CPUs, and which hosts hold it back";
    const TAG: &'static str = "cluster";
    const ACCESS: &'static str = "viewer";
    type Path = NoParams;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<CpuBaselineReport>;
}
