//! What VMs may be called, and names that are counted up.

use std::collections::HashSet;

use expect_test::expect;
use hostler_control::services::naming_rule::{self, NamingRuleCreate};
use hostler_control::services::{Options, vm};
use hostler_control::{Actor, ServiceError};
use hostler_sim::{Fleet, vm_request};
use hostler_types::{Labels, NamingRuleSpec, Ref, VmUpdate};

fn root() -> Actor {
    Actor::root()
}

fn plain() -> Options {
    Options::default()
}

async fn rule(
    fleet: &Fleet,
    name: &str,
    label: Option<(&str, &str)>,
    pattern: &str,
    template: Option<&str>,
) -> Result<Ref, ServiceError> {
    let selector: Labels =
        label.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let template = template.map(str::to_owned);
    let spec = NamingRuleSpec { selector, pattern: pattern.to_owned(), template };
    let request = NamingRuleCreate { name: name.parse().unwrap(), spec };
    naming_rule::create(&fleet.world, &root(), request).await.map(|rule| rule.reference())
}

#[tokio::test]
async fn a_name_that_a_rule_does_not_allow_is_refused() {
    let fleet = Fleet::new().await;
    let old = fleet.vm("old").await;
    rule(&fleet, "web", Some(("tier", "web")), "web-[0-9]+", Some("web-{nn}")).await.unwrap();
    let create = |name: &'static str, web: bool| {
        let world = fleet.world.clone();
        async move {
            let mut request = vm_request(name);
            if web {
                request.labels.insert("tier".to_owned(), "web".to_owned());
            }
            vm::create(&world, &root(), request, &plain()).await
        }
    };
    let error = create("webserver-1x", true).await.unwrap_err();
    assert_eq!(error.code, "naming_rule");
    expect!["the naming rule `web` does not allow `webserver-1x`: it must match web-[0-9]+"]
        .assert_eq(&error.message);
    create("webserver-1x", false).await.unwrap();
    let made = create("web-7", true).await.unwrap();
    fleet.done(&made.task.unwrap()).await;
    let (web, other) = ("web-7".parse().unwrap(), "other".parse().unwrap());
    let error = vm::rename(&fleet.world, &root(), &web, other, None, &plain()).await.unwrap_err();
    assert_eq!(error.code, "naming_rule");
    // A VM that was there keeps its name, whatever rules come.
    rule(&fleet, "all", None, "[a-z]+-[0-9]+", None).await.unwrap();
    let update = VmUpdate { description: Some("old".to_owned()), ..VmUpdate::default() };
    vm::update(&fleet.world, &root(), &old.reference(), update, None, &plain()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_counted_up_and_given_once() {
    let fleet = Fleet::new().await;
    fleet.vm("web-02").await;
    let web = rule(&fleet, "web", None, "web-[0-9]{2,}", Some("web-{nn}")).await.unwrap();
    let takers = (0..20).map(|_| {
        let (world, web) = (fleet.world.clone(), web.clone());
        tokio::spawn(async move { naming_rule::next(&world, &root(), &web).await.unwrap() })
    });
    let takers: Vec<_> = takers.collect();
    let mut names = HashSet::new();
    for taker in takers {
        names.insert(taker.await.unwrap().to_string());
    }
    assert_eq!(names.len(), 20, "{names:?}");
    assert!(!names.contains("web-02") && names.contains("web-01") && names.contains("web-21"));
    let fleet = fleet.restart(true).await;
    let next = naming_rule::next(&fleet.world, &root(), &web).await.unwrap();
    assert_eq!(next.as_str(), "web-22");
}

#[tokio::test]
async fn rules_that_make_no_sense_are_refused() {
    let fleet = Fleet::new().await;
    let long = "a".repeat(2000);
    let mut text = String::new();
    for (pattern, template) in [
        ("(", None),
        ("", None),
        (long.as_str(), None),
        ("(a{500}){500}", None),
        ("web-[0-9]+", Some("db-{nn}")),
        ("web-[0-9]+", Some("web")),
        ("web-[0-9]+", Some("web-{nn}{nn}")),
    ] {
        let error = rule(&fleet, "bad", None, pattern, template).await.unwrap_err();
        text += &format!("{}: {}\n", error.code, error.message);
    }
    expect![[r#"
        invalid: pattern: it is no regular expression: error: unclosed group
        invalid: pattern: a pattern is 1 to 1024 bytes
        invalid: pattern: a pattern is 1 to 1024 bytes
        invalid: pattern: it is no regular expression: Compiled regex exceeds size limit of 1048576 bytes.
        invalid: template: its first name, `db-01`, does not match the pattern
        invalid: template: it holds one counter, one to six `n` in braces, such as web-{nn}
        invalid: template: it holds one counter, one to six `n` in braces, such as web-{nn}
    "#]]
    .assert_eq(&text);
    let only = rule(&fleet, "only", None, "[a-z]+", None).await.unwrap();
    let error = naming_rule::next(&fleet.world, &root(), &only).await.unwrap_err();
    assert_eq!(error.message, "template: the rule has none: it only checks names");
}

#[tokio::test]
async fn a_label_that_brings_a_rule_is_checked() {
    let fleet = Fleet::new().await;
    let old = fleet.vm("n1").await;
    rule(&fleet, "web", Some(("tier", "web")), "web-[0-9]+", None).await.unwrap();
    let label = async |pairs: &[(&str, &str)]| {
        let labels = pairs.iter().map(|(key, value)| (key.to_string(), value.to_string()));
        let update = VmUpdate { labels: Some(labels.collect()), ..VmUpdate::default() };
        let (actor, vm, options) = (root(), old.reference(), plain());
        let changed = vm::update(&fleet.world, &actor, &vm, update, None, &options).await?;
        fleet.done(&changed.task.unwrap()).await;
        Ok::<_, ServiceError>(())
    };
    let error = label(&[("tier", "web")]).await.unwrap_err();
    assert_eq!(error.code, "naming_rule");
    assert!(error.message.contains("`n1`"), "{}", error.message);
    label(&[("tier", "db")]).await.unwrap();
    // Under a rule that came after the VM its labels go on to change.
    rule(&fleet, "db", Some(("tier", "db")), "db-[0-9]+", None).await.unwrap();
    label(&[("tier", "db"), ("owner", "anna")]).await.unwrap();
}
