//! Networks on the agent's host.

use hostler_endpoint::{Empty, Endpoint, Json, Method, NoParams};
use hostler_types::{NetworkId, NetworkSpec};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct NetworkPath {
    #[param(value_type = String)]
    pub network: NetworkId,
}

/// A network as an agent needs to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkDefinition {
    pub id: NetworkId,
    pub spec: NetworkSpec,
}

/// `PUT /agent/v1/networks/{network}`: makes bridge, address translation and DHCP (NAT), or checks
/// that the bridge is there. Idempotent. A VM's start does the same for the networks it needs.
#[derive(Debug)]
pub struct NetworkEnsure;

impl Endpoint for NetworkEnsure {
    const ID: &'static str = "network_ensure";
    const METHOD: Method = Method::Put;
    const PATH: &'static str = "/agent/v1/networks/{network}";
    const SUMMARY: &'static str = "Set a network up on this host";
    const TAG: &'static str = "network";
    const STATUS: u16 = 204;
    type Path = NetworkPath;
    type Query = NoParams;
    type Body = Json<NetworkSpec>;
    type Answer = Empty;
}

/// `DELETE /agent/v1/networks/{network}`: takes down what `network_ensure` made. Idempotent;
/// refused while a VM runs on it.
#[derive(Debug)]
pub struct NetworkRemove;

impl Endpoint for NetworkRemove {
    const ID: &'static str = "network_remove";
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/agent/v1/networks/{network}";
    const SUMMARY: &'static str = "Take a network down on this host";
    const TAG: &'static str = "network";
    const STATUS: u16 = 204;
    type Path = NetworkPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Empty;
}
