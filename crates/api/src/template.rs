//! Templates: what VMs are made from, in versions.

use hostler_endpoint::{Empty, Endpoint, Json, Method, NoParams, Page};
use hostler_types::{Name, Task, Template, TemplateCreate, TemplateRef, TemplateUpdate, VmClone};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::vm::VmCloned;

/// Which template, or which version of it.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct TemplatePath {
    /// Its name or its id; with `:3`, that version of it.
    #[param(value_type = String)]
    pub template: TemplateRef,
}

/// Which templates.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct TemplateListQuery {
    /// 1 to 10,000.
    pub limit: Option<u32>,
    /// The `next` of the page before.
    pub after: Option<String>,
    /// Only those with this label: `KEY` or `KEY=VALUE`; repeat it for several.
    #[serde(default)]
    pub label: Vec<String>,
}

/// How a request for VMs is carried out.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct TemplateCloneQuery {
    /// Decide and check, but make nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// What the VM is to be called.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ToVmRequest {
    /// Absent: the name that it had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
}

/// List templates with their versions.
#[derive(Debug)]
pub struct List;

impl Endpoint for List {
    const ID: &'static str = "template_list";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/templates";
    const SUMMARY: &'static str = "List templates with their versions";
    const TAG: &'static str = "template";
    const ACCESS: &'static str = "viewer";
    type Path = NoParams;
    type Query = TemplateListQuery;
    type Body = Empty;
    type Answer = Json<Page<Template>>;
}
/// Make a template, or its next version, from a VM.
#[derive(Debug)]
pub struct Create;

impl Endpoint for Create {
    const ID: &'static str = "template_create";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/templates";
    const SUMMARY: &'static str = "Make a template, or its next version, from a VM";
    const TAG: &'static str = "template";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = NoParams;
    type Query = NoParams;
    type Body = Json<TemplateCreate>;
    type Answer = Json<Task>;
}
/// Show a template with its versions, or with one of them.
#[derive(Debug)]
pub struct Show;

impl Endpoint for Show {
    const ID: &'static str = "template_show";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/templates/{template}";
    const SUMMARY: &'static str = "Show a template with its versions, or with one of them";
    const TAG: &'static str = "template";
    const ACCESS: &'static str = "viewer";
    type Path = TemplatePath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Template>;
}
/// Make VMs from a template, in one task: all of them or none. `linked` ones lie on its disks. What the
/// request says of the parent is said of the template's version.
#[derive(Debug)]
pub struct Clone;

impl Endpoint for Clone {
    const ID: &'static str = "template_clone";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/templates/{template}/clone";
    const SUMMARY: &'static str = "Make VMs from a template, all of them or none";
    const TAG: &'static str = "template";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = TemplatePath;
    type Query = TemplateCloneQuery;
    type Body = Json<VmClone>;
    type Answer = Json<VmCloned>;
}
/// Change a template's description or labels.
#[derive(Debug)]
pub struct Update;

impl Endpoint for Update {
    const ID: &'static str = "template_update";
    const METHOD: Method = Method::Patch;
    const PATH: &'static str = "/v1/templates/{template}";
    const SUMMARY: &'static str = "Change a template's description or labels";
    const TAG: &'static str = "template";
    const ACCESS: &'static str = "operator";
    type Path = TemplatePath;
    type Query = NoParams;
    type Body = Json<TemplateUpdate>;
    type Answer = Json<Template>;
}
/// Delete a template with all its versions, or one of them; refused while VMs lie on it.
#[derive(Debug)]
pub struct Delete;

impl Endpoint for Delete {
    const ID: &'static str = "template_delete";
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/v1/templates/{template}";
    const SUMMARY: &'static str = "Delete a template with all its versions, or one of them";
    const TAG: &'static str = "template";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = TemplatePath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Task>;
}
/// Take out of a version's guest what must not be the same in two machines; absent a number, of the
/// latest.
#[derive(Debug)]
pub struct Seal;

impl Endpoint for Seal {
    const ID: &'static str = "template_seal";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/templates/{template}/seal";
    const SUMMARY: &'static str = "Seal a version of a template";
    const TAG: &'static str = "template";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = TemplatePath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Task>;
}
/// Make a version a VM again; absent a number, the latest.
#[derive(Debug)]
pub struct ToVm;

impl Endpoint for ToVm {
    const ID: &'static str = "template_to_vm";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/templates/{template}/to-vm";
    const SUMMARY: &'static str = "Make a version of a template a VM again";
    const TAG: &'static str = "template";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = TemplatePath;
    type Query = NoParams;
    type Body = Json<ToVmRequest>;
    type Answer = Json<Task>;
}
