//! Customization specs: named rules of what guests are made to be, and customizing a VM anew.

use hostler_endpoint::{Empty, Endpoint, Json, Method, NoParams, Page};
use hostler_types::{
    Customization, CustomizationRules, CustomizationSpec, Labels, Name, NicAddressing, Ref, Task,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::vm::VmPath;

/// Which customization spec.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct CustomizationSpecPath {
    /// Its name or its id.
    #[param(value_type = String)]
    pub spec: Ref,
}

/// Which ones, and how many at a time.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct CustomizationSpecListQuery {
    /// At most this many, 1 to 10000; absent: 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 10000)]
    pub limit: Option<u32>,
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Only those with this label, `key=value`, or `key` for any value. Several: all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub label: Vec<String>,
    /// Only those whose name begins with this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A customization spec to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CustomizationSpecCreate {
    pub name: Name,
    #[serde(default)]
    #[schema(inline)]
    pub labels: Labels,
    #[serde(default)]
    pub spec: CustomizationRules,
}

/// What is to change; absent fields stay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CustomizationSpecUpdate {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(inline)]
    pub labels: Option<Labels>,
    /// The whole of it. A secret that is `[redacted]`, as views show it, stays what it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec: Option<CustomizationRules>,
}

/// For which guest to render.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct RenderQuery {
    /// A VM; absent: an example.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub vm: Option<Ref>,
}

/// The files that a guest would find, without their secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rendered {
    /// Of the file system that the files lie in.
    pub label: String,
    pub files: Vec<RenderedFile>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RenderedFile {
    pub path: String,
    pub text: String,
}

/// What a VM's guest is to be told anew.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CustomizeRequest {
    /// A customization spec; absent: what the VM was told before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub customization_spec: Option<Ref>,
    /// Laid over it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub customization: Option<Customization>,
    /// For each NIC, in their order; absent or null: as the spec says, else as it is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Option<NicAddressing>>,
    /// Stop a running guest and start it again, so that it is told now; else at its next start.
    pub reboot: bool,
}

/// List customization specs, sorted by name.
#[derive(Debug)]
pub struct List;

impl Endpoint for List {
    const ID: &'static str = "customization_spec_list";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/customization-specs";
    const SUMMARY: &'static str = "List customization specs, sorted by name";
    const TAG: &'static str = "customization-spec";
    const ACCESS: &'static str = "viewer";
    type Path = NoParams;
    type Query = CustomizationSpecListQuery;
    type Body = Empty;
    type Answer = Json<Page<CustomizationSpec>>;
}
/// Make a customization spec.
#[derive(Debug)]
pub struct Create;

impl Endpoint for Create {
    const ID: &'static str = "customization_spec_create";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/customization-specs";
    const SUMMARY: &'static str = "Make a customization spec";
    const TAG: &'static str = "customization-spec";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 201;
    type Path = NoParams;
    type Query = NoParams;
    type Body = Json<CustomizationSpecCreate>;
    type Answer = Json<CustomizationSpec>;

    fn revision(answer: &CustomizationSpec) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}
/// Show a customization spec.
#[derive(Debug)]
pub struct Show;

impl Endpoint for Show {
    const ID: &'static str = "customization_spec_show";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/customization-specs/{spec}";
    const SUMMARY: &'static str = "Show a customization spec";
    const TAG: &'static str = "customization-spec";
    const ACCESS: &'static str = "viewer";
    type Path = CustomizationSpecPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<CustomizationSpec>;

    fn revision(answer: &CustomizationSpec) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}
/// Change a customization spec.
#[derive(Debug)]
pub struct Update;

impl Endpoint for Update {
    const ID: &'static str = "customization_spec_update";
    const METHOD: Method = Method::Patch;
    const PATH: &'static str = "/v1/customization-specs/{spec}";
    const SUMMARY: &'static str = "Change a customization spec; VMs keep what they were made with";
    const TAG: &'static str = "customization-spec";
    const ACCESS: &'static str = "operator";
    const CONDITIONAL: bool = true;
    type Path = CustomizationSpecPath;
    type Query = NoParams;
    type Body = Json<CustomizationSpecUpdate>;
    type Answer = Json<CustomizationSpec>;

    fn revision(answer: &CustomizationSpec) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}
/// Delete a customization spec.
#[derive(Debug)]
pub struct Delete;

impl Endpoint for Delete {
    const ID: &'static str = "customization_spec_delete";
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/v1/customization-specs/{spec}";
    const SUMMARY: &'static str = "Delete a customization spec; VMs keep what they were made with";
    const TAG: &'static str = "customization-spec";
    const ACCESS: &'static str = "operator";
    type Path = CustomizationSpecPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Empty;
}
/// Show what a guest would be told.
#[derive(Debug)]
pub struct Render;

impl Endpoint for Render {
    const ID: &'static str = "customization_spec_render";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/customization-specs/{spec}/render";
    const SUMMARY: &'static str = "Show what a guest would be told, without the secrets";
    const TAG: &'static str = "customization-spec";
    const ACCESS: &'static str = "viewer";
    type Path = CustomizationSpecPath;
    type Query = RenderQuery;
    type Body = Empty;
    type Answer = Json<Rendered>;
}
/// Customize a VM's guest anew.
#[derive(Debug)]
pub struct Customize;

impl Endpoint for Customize {
    const ID: &'static str = "vm_customize";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/vms/{vm}/customize";
    const SUMMARY: &'static str = "Tell a VM's guest anew who it is, at its next start";
    const TAG: &'static str = "customization-spec";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<CustomizeRequest>;
    type Answer = Json<Task>;
}
