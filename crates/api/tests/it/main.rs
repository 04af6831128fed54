//! The contract as a whole: the document is what is checked in, refers to nothing that it does not
//! hold, and every endpoint keeps the rules.

use std::collections::BTreeSet;
use std::path::PathBuf;

use hostler_endpoint::Method;
use serde_json::Value;

fn checked_in() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../openapi/hostler-v1.json")
}

#[test]
fn the_document_is_fresh() {
    let text = serde_json::to_string_pretty(&hostler_api::document()).unwrap() + "\n";
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(checked_in(), &text).unwrap();
    }
    let known = std::fs::read_to_string(checked_in()).unwrap();
    assert!(known == text, "openapi/hostler-v1.json is stale: run `cargo xtask openapi`");
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(target) if name == "$ref" => drop(found.insert(target.clone())),
                    _ => references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let document = hostler_api::document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.len() > 40);
    for target in found {
        let pointer = target.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{target} is missing");
    }
    assert_eq!(hostler_api::endpoints().conflicts(), &[] as &[String]);
}

#[test]
fn every_endpoint_keeps_the_rules() {
    let endpoints = hostler_api::endpoints();
    let mut ids = BTreeSet::new();
    for meta in endpoints.endpoints() {
        assert!(ids.insert(meta.id), "{} twice", meta.id);
        assert!(meta.path.starts_with("/v1/"), "{}", meta.path);
        assert!(["", "viewer", "operator", "admin"].contains(&meta.access), "{}", meta.id);
        // A question that is too long for an address.
        let asking = meta.id == "simulate";
        let changing = meta.method != Method::Get && meta.id != "user_set_password" && !asking;
        let own = ["logout", "token_create", "token_delete"].contains(&meta.id);
        // A request makes nothing until those agree whom the approval rules name; who may agree,
        // cancel and retry is decided per request (ADR 15).
        let ruled = [
            "request_create",
            "request_approve",
            "request_reject",
            "request_cancel",
            "request_retry",
        ];
        let own = own || ruled.contains(&meta.id);
        assert!(!changing || own || meta.access != "viewer", "{} changes something", meta.id);
    }
}

#[test]
fn the_parameters_are_those_of_the_path() {
    let document = hostler_api::document();
    for (path, operations) in document["paths"].as_object().unwrap() {
        let in_path: BTreeSet<&str> =
            path.split('/').filter_map(|s| s.strip_prefix('{')?.strip_suffix('}')).collect();
        for (method, operation) in operations.as_object().unwrap() {
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let declared: BTreeSet<&str> = parameters
                .iter()
                .filter(|p| p["in"] == "path")
                .filter_map(|p| p["name"].as_str())
                .collect();
            assert_eq!(declared, in_path, "{method} {path}");
            let queries = parameters.iter().filter(|p| p["in"] == "query");
            for parameter in queries {
                assert!(parameter["description"].is_string(), "{method} {path} {parameter}");
            }
        }
    }
}

#[test]
fn public_endpoints_are_the_documented_ones() {
    let endpoints = hostler_api::endpoints();
    let public: Vec<_> =
        endpoints.endpoints().iter().filter(|m| m.access.is_empty()).map(|m| m.id).collect();
    assert_eq!(
        public,
        [
            "console_attach",
            "host_join",
            "login",
            "version",
            "health",
            "ready",
            "features",
            "openapi"
        ]
    );
}
