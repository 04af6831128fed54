//! What may be shown of each object. Whatever leaves `control` passes through here.
//!
//! Secrets are: what a customization says in secret (user data, passwords), password hashes, hashes of token secrets, tasks' input and
//! step results, what stands behind the `?` of an image's address (signed addresses), and all but scheme
//! and host of a webhook's.

use std::sync::Arc;

use hostler_store::Record;
use hostler_types::{
    ApprovalRuleKind, ClusterKind, Customization, CustomizationSpecKind, DatastoreKind, GroupKind,
    HostKind, Image, ImageKind, ImageSource, JoinTokenKind, KindName, NamingRuleKind, NetworkKind,
    Object, PoolKind, RequestKind, RuleKind, SecretText, SnapshotPolicyKind, TaskKind,
    TemplateKind, TokenKind, UserKind, VmKind, Webhook,
};
use serde_json::{Value, json};

use crate::inventory::Held;

/// A kind whose objects can be shown.
pub trait Shown: Held {
    /// The object as it may be shown; the same `Arc` when there is nothing to hide.
    fn shown(object: &Arc<Object<Self>>) -> Arc<Object<Self>>;
}

impl Shown for VmKind {
    fn shown(vm: &Arc<Object<Self>>) -> Arc<Object<Self>> {
        if !vm.spec.customization.as_ref().is_some_and(|it| it.has_secrets()) {
            return vm.clone();
        }
        let mut shown = Object::clone(vm);
        shown.spec = shown.spec.redacted();
        Arc::new(shown)
    }
}

impl Shown for NamingRuleKind {
    fn shown(rule: &Arc<Object<Self>>) -> Arc<Object<Self>> {
        rule.clone()
    }
}

impl Shown for SnapshotPolicyKind {
    fn shown(policy: &Arc<Object<Self>>) -> Arc<Object<Self>> {
        policy.clone()
    }
}

impl Shown for TemplateKind {
    fn shown(template: &Arc<Object<Self>>) -> Arc<Object<Self>> {
        template.clone()
    }
}

impl Shown for RuleKind {
    fn shown(rule: &Arc<Object<Self>>) -> Arc<Object<Self>> {
        rule.clone()
    }
}

impl Shown for GroupKind {
    fn shown(group: &Arc<Object<Self>>) -> Arc<Object<Self>> {
        group.clone()
    }
}

impl Shown for ApprovalRuleKind {
    fn shown(rule: &Arc<Object<Self>>) -> Arc<Object<Self>> {
        rule.clone()
    }
}

impl Shown for ClusterKind {
    fn shown(cluster: &Arc<Object<Self>>) -> Arc<Object<Self>> {
        cluster.clone()
    }
}

impl Shown for PoolKind {
    fn shown(pool: &Arc<Object<Self>>) -> Arc<Object<Self>> {
        pool.clone()
    }
}

impl Shown for RequestKind {
    fn shown(request: &Arc<Object<Self>>) -> Arc<Object<Self>> {
        let mut shown = Object::clone(request);
        let order = &mut shown.spec.order;
        order.vm.customization = order.vm.customization.take().map(Customization::redacted);
        for webhook in order.webhooks_mut() {
            webhook.url = webhook.shown_url();
            webhook.secret = webhook.secret.take().map(|_| SecretText::redacted());
        }
        Arc::new(shown)
    }
}

impl Shown for CustomizationSpecKind {
    fn shown(spec: &Arc<Object<Self>>) -> Arc<Object<Self>> {
        if !spec.spec.guest.has_secrets() {
            return spec.clone();
        }
        let mut shown = Object::clone(spec);
        shown.spec.guest = shown.spec.guest.redacted();
        Arc::new(shown)
    }
}

impl Shown for ImageKind {
    fn shown(image: &Arc<Image>) -> Arc<Image> {
        let ImageSource::Url(address) = &image.spec.source else { return image.clone() };
        let Some(address) = shown_address(address) else { return image.clone() };
        let mut shown = Object::clone(image);
        shown.spec.source = ImageSource::Url(address);
        Arc::new(shown)
    }
}

impl Shown for TaskKind {
    fn shown(task: &Arc<Object<Self>>) -> Arc<Object<Self>> {
        let mut shown = Object::clone(task);
        shown.spec.input = Value::Null;
        for step in &mut shown.status.steps {
            step.result = Value::Null;
        }
        Arc::new(shown)
    }
}

impl Shown for UserKind {
    fn shown(user: &Arc<Object<Self>>) -> Arc<Object<Self>> {
        let mut shown = Object::clone(user);
        shown.status.password_hash = None;
        Arc::new(shown)
    }
}

impl Shown for TokenKind {
    fn shown(token: &Arc<Object<Self>>) -> Arc<Object<Self>> {
        let mut shown = Object::clone(token);
        shown.status.secret_hash = String::new();
        Arc::new(shown)
    }
}

impl Shown for JoinTokenKind {
    fn shown(token: &Arc<Object<Self>>) -> Arc<Object<Self>> {
        let mut shown = Object::clone(token);
        shown.status.secret_hash = String::new();
        Arc::new(shown)
    }
}

impl Shown for HostKind {
    fn shown(host: &Arc<Object<Self>>) -> Arc<Object<Self>> {
        host.clone()
    }
}

impl Shown for DatastoreKind {
    fn shown(datastore: &Arc<Object<Self>>) -> Arc<Object<Self>> {
        datastore.clone()
    }
}

impl Shown for NetworkKind {
    fn shown(network: &Arc<Object<Self>>) -> Arc<Object<Self>> {
        network.clone()
    }
}

/// A stored object of any kind as JSON that may be shown: `metadata`, `spec` and `status`.
pub(crate) fn record(record: &Record) -> Value {
    let mut spec = record.spec.value();
    let mut status = record.status.value();
    match record.kind {
        KindName::Vm => {
            if let Some(customization) = spec.get_mut("customization") {
                hide_secrets(customization);
            }
        }
        KindName::CustomizationSpec => hide_secrets(&mut spec),
        KindName::Request => hide_request_secrets(&mut spec),
        KindName::Image => {
            if let Some(address) = spec.pointer_mut("/source/url")
                && let Some(shown) = address.as_str().and_then(shown_address)
            {
                *address = shown.into();
            }
        }
        KindName::Task => {
            remove(&mut spec, "input");
            let steps = status.get_mut("steps").and_then(Value::as_array_mut);
            for step in steps.into_iter().flatten() {
                remove(step, "result");
            }
        }
        KindName::User => remove(&mut status, "password_hash"),
        KindName::Token | KindName::JoinToken => remove(&mut status, "secret_hash"),
        KindName::Host
        | KindName::Datastore
        | KindName::Network
        | KindName::NamingRule
        | KindName::SnapshotPolicy
        | KindName::Template
        | KindName::ApprovalRule
        | KindName::Cluster
        | KindName::Pool
        | KindName::Rule
        | KindName::Group => {}
    }
    json!({
        "metadata": {
            "id": record.id,
            "name": record.name,
            "labels": record.labels,
            "generation": record.generation,
            "revision": record.revision,
            "created_at": record.created_at,
            "updated_at": record.updated_at,
        },
        "spec": spec,
        "status": status,
    })
}

/// The customization of the VM, and webhooks, wherever they stand.
fn hide_request_secrets(spec: &mut Value) {
    if let Some(customization) = spec.pointer_mut("/order/vm/customization") {
        hide_secrets(customization);
    }
    hide_webhook_secrets(spec.pointer_mut("/order/post"));
    hide_webhook_secrets(spec.pointer_mut("/order/notify"));
}

fn hide_webhook_secrets(list: Option<&mut Value>) {
    let list = list.and_then(Value::as_array_mut).into_iter().flatten();
    for item in list {
        let is_action = item.get("webhook").is_some();
        let webhook = if is_action { &mut item["webhook"] } else { item };
        if let Some(address) = webhook.get("url").and_then(Value::as_str) {
            webhook["url"] = Webhook::shown_address(address).into();
        }
        if let Some(secret) = webhook.get_mut(Webhook::SECRET_FIELD) {
            *secret = SecretText::REDACTED.into();
        }
    }
}

/// Replaces what stands in a field that is named as a secret's.
fn hide_secrets(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let secret = Customization::SECRET_FIELDS.contains(&key.as_str());
                match value {
                    Value::String(text) if secret => SecretText::REDACTED.clone_into(text),
                    value => hide_secrets(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide_secrets),
        _ => {}
    }
}

fn remove(value: &mut Value, field: &str) {
    if let Some(map) = value.as_object_mut() {
        map.remove(field);
    }
}

/// An image's, without what follows the `?` or `#`; `None` when nothing does. It holds no user or
/// password: such addresses are refused.
fn shown_address(address: &str) -> Option<String> {
    let (plain, _) = address.split_once(['?', '#'])?;
    Some(format!("{plain}?{}", SecretText::REDACTED))
}
