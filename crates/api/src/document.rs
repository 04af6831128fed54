//! The API document, `openapi/hostler-v1.json`.

use hostler_endpoint::Document;

use crate::{
    approval_rule, cluster, console, customization_spec, datastore, disk, event, export, host,
    image, naming_rule, network, pool, recycle_bin, request, snapshot, snapshot_policy, system,
    task, template, token, user, vm,
};

const DESCRIPTION: &str = "Manages virtual machines on Linux hosts. Long work answers `202` with a \
    task: follow it at `/v1/tasks/{task}/watch`. Errors are problem details (RFC 9457) with a \
    stable `code`. Objects carry a `revision`, which is their `ETag`.";

/// All endpoints.
pub fn endpoints() -> Document {
    let document = Document::new("Hostler", "v1").description(DESCRIPTION);
    pools(requests(inventory(vms(document))))
        .endpoint::<task::List>()
        .endpoint::<task::Show>()
        .endpoint::<task::Cancel>()
        .endpoint::<task::Retry>()
        .endpoint::<task::Abandon>()
        .endpoint::<task::Watch>()
        .endpoint::<event::List>()
        .endpoint::<event::Watch>()
        .endpoint::<user::Login>()
        .endpoint::<user::Logout>()
        .endpoint::<user::Whoami>()
        .endpoint::<user::List>()
        .endpoint::<user::Create>()
        .endpoint::<user::Delete>()
        .endpoint::<user::SetPassword>()
        .endpoint::<token::List>()
        .endpoint::<token::Create>()
        .endpoint::<token::Delete>()
        .endpoint::<system::ShowVersion>()
        .endpoint::<system::ShowHealth>()
        .endpoint::<system::ShowReady>()
        .endpoint::<system::ListFeatures>()
        .endpoint::<system::ShowDocument>()
}

fn vms(document: Document) -> Document {
    document
        .endpoint::<vm::List>()
        .endpoint::<vm::Create>()
        .endpoint::<vm::Clone>()
        .endpoint::<vm::Flatten>()
        .endpoint::<vm::Migrate>()
        .endpoint::<vm::Show>()
        .endpoint::<vm::Update>()
        .endpoint::<vm::Renew>()
        .endpoint::<vm::PlanDeletion>()
        .endpoint::<vm::Plan>()
        .endpoint::<disk::Add>()
        .endpoint::<disk::Update>()
        .endpoint::<disk::Detach>()
        .endpoint::<disk::Attach>()
        .endpoint::<disk::Remove>()
        .endpoint::<snapshot::List>()
        .endpoint::<snapshot::Create>()
        .endpoint::<snapshot::Show>()
        .endpoint::<snapshot::Update>()
        .endpoint::<snapshot::Delete>()
        .endpoint::<snapshot::DeleteSeveral>()
        .endpoint::<snapshot::PlanDeletion>()
        .endpoint::<snapshot::Revert>()
        .endpoint::<snapshot::Consolidate>()
        .endpoint::<vm::Delete>()
        .endpoint::<recycle_bin::List>()
        .endpoint::<recycle_bin::Undelete>()
        .endpoint::<recycle_bin::Purge>()
        .endpoint::<vm::Start>()
        .endpoint::<vm::Stop>()
        .endpoint::<vm::Reset>()
        .endpoint::<vm::Suspend>()
        .endpoint::<vm::Seal>()
        .endpoint::<vm::Resume>()
        .endpoint::<vm::Rename>()
        .endpoint::<vm::Unregister>()
        .endpoint::<vm::Exec>()
        .endpoint::<vm::Log>()
        .endpoint::<vm::Screenshot>()
        .endpoint::<vm::Why>()
        .endpoint::<vm::History>()
        .endpoint::<console::CreateTicket>()
        .endpoint::<console::Attach>()
}

fn inventory(document: Document) -> Document {
    document
        .endpoint::<image::List>()
        .endpoint::<image::Create>()
        .endpoint::<image::Show>()
        .endpoint::<image::Delete>()
        .endpoint::<image::Upload>()
        .endpoint::<image::UploadProgress>()
        .endpoint::<image::Import>()
        .endpoint::<export::Export>()
        .endpoint::<export::Content>()
        .endpoint::<export::Remove>()
        .endpoint::<datastore::List>()
        .endpoint::<datastore::Create>()
        .endpoint::<datastore::Show>()
        .endpoint::<datastore::Update>()
        .endpoint::<datastore::Delete>()
        .endpoint::<datastore::Unregistered>()
        .endpoint::<datastore::Register>()
        .endpoint::<datastore::Check>()
        .endpoint::<datastore::Adopt>()
        .endpoint::<datastore::RemoveOrphans>()
        .endpoint::<naming_rule::List>()
        .endpoint::<naming_rule::Create>()
        .endpoint::<naming_rule::Show>()
        .endpoint::<naming_rule::Delete>()
        .endpoint::<naming_rule::Next>()
        .endpoint::<snapshot_policy::List>()
        .endpoint::<snapshot_policy::Create>()
        .endpoint::<snapshot_policy::Show>()
        .endpoint::<snapshot_policy::Update>()
        .endpoint::<snapshot_policy::Delete>()
        .endpoint::<network::List>()
        .endpoint::<network::Create>()
        .endpoint::<network::Show>()
        .endpoint::<network::SetPool>()
        .endpoint::<network::Delete>()
        .endpoint::<customization_spec::List>()
        .endpoint::<customization_spec::Create>()
        .endpoint::<customization_spec::Show>()
        .endpoint::<customization_spec::Update>()
        .endpoint::<customization_spec::Delete>()
        .endpoint::<customization_spec::Render>()
        .endpoint::<customization_spec::Customize>()
        .endpoint::<template::List>()
        .endpoint::<template::Create>()
        .endpoint::<template::Show>()
        .endpoint::<template::Update>()
        .endpoint::<template::Delete>()
        .endpoint::<template::Seal>()
        .endpoint::<template::ToVm>()
        .endpoint::<host::List>()
        .endpoint::<host::Show>()
        .endpoint::<host::Delete>()
        .endpoint::<host::Unregistered>()
        .endpoint::<host::Register>()
        .endpoint::<host::CreateJoinToken>()
        .endpoint::<host::JoinHost>()
}

fn pools(document: Document) -> Document {
    document
        .endpoint::<cluster::Show>()
        .endpoint::<cluster::Update>()
        .endpoint::<pool::List>()
        .endpoint::<pool::Create>()
        .endpoint::<pool::Show>()
        .endpoint::<pool::Update>()
        .endpoint::<pool::Delete>()
        .endpoint::<pool::Tree>()
        .endpoint::<pool::Explain>()
}

fn requests(document: Document) -> Document {
    document
        .endpoint::<request::List>()
        .endpoint::<request::Create>()
        .endpoint::<request::Show>()
        .endpoint::<request::Why>()
        .endpoint::<request::Approve>()
        .endpoint::<request::Reject>()
        .endpoint::<request::Cancel>()
        .endpoint::<request::Retry>()
        .endpoint::<approval_rule::List>()
        .endpoint::<approval_rule::Create>()
        .endpoint::<approval_rule::Show>()
        .endpoint::<approval_rule::Update>()
        .endpoint::<approval_rule::Delete>()
}

/// The OpenAPI 3.1 document.
pub fn document() -> serde_json::Value {
    endpoints().build()
}
