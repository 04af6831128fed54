//! The OpenAPI 3.1 document, collected from endpoint types.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use utoipa::openapi::path::ParameterIn;
use utoipa::{IntoParams as _, ToSchema};

use crate::answer::Answer as _;
use crate::body::Body as _;
use crate::{Endpoint, Meta, Problem};

/// The schemas that the document refers to, by name.
#[derive(Debug, Default)]
pub struct Schemas {
    known: BTreeMap<String, Value>,
    conflicts: Vec<String>,
}

impl Schemas {
    /// Adds `T` and all it is made of, and answers the reference to it.
    pub(crate) fn reference<T: ToSchema>(&mut self) -> Value {
        let name = T::name().into_owned();
        let mut found = vec![(name.clone(), T::schema())];
        T::schemas(&mut found);
        for (name, schema) in found {
            let schema = serde_json::to_value(schema).unwrap_or_default();
            match self.known.get(&name) {
                Some(known) if *known != schema => self.conflicts.push(name),
                Some(_) => {}
                None => drop(self.known.insert(name, schema)),
            }
        }
        json!({"$ref": format!("#/components/schemas/{name}")})
    }
}

/// Collects endpoints into a document whose order depends on nothing but the endpoints.
#[derive(Debug)]
pub struct Document {
    title: String,
    version: String,
    description: String,
    tags: BTreeMap<&'static str, ()>,
    paths: BTreeMap<&'static str, Map<String, Value>>,
    schemas: Schemas,
    endpoints: Vec<Meta>,
}

impl Document {
    pub fn new(title: &str, version: &str) -> Self {
        Self {
            title: title.to_owned(),
            version: version.to_owned(),
            description: String::new(),
            tags: BTreeMap::new(),
            paths: BTreeMap::new(),
            schemas: Schemas::default(),
            endpoints: Vec::new(),
        }
    }

    /// What the whole API is for, in Markdown.
    #[must_use]
    pub fn description(mut self, text: &str) -> Self {
        text.clone_into(&mut self.description);
        self
    }

    #[must_use]
    pub fn endpoint<E: Endpoint>(mut self) -> Self {
        let operation = self.operation::<E>();
        let method = http::Method::from(E::METHOD).as_str().to_ascii_lowercase();
        self.paths.entry(E::PATH).or_default().insert(method, operation);
        self.tags.insert(E::TAG, ());
        self.endpoints.push(E::meta());
        self
    }

    /// All endpoints, in the order in which they were added.
    pub fn endpoints(&self) -> &[Meta] {
        &self.endpoints
    }

    /// Names of schemas that two different types claim: a document with one is wrong.
    pub fn conflicts(&self) -> &[String] {
        &self.schemas.conflicts
    }

    fn operation<E: Endpoint>(&mut self) -> Value {
        let mut operation = json!({
            "operationId": E::ID,
            "tags": [E::TAG],
            "summary": E::SUMMARY,
            "responses": self.responses::<E>(),
        });
        let path = E::Path::into_params(|| Some(ParameterIn::Path));
        let query = E::Query::into_params(|| Some(ParameterIn::Query));
        let mut parameters = path.iter().chain(&query).map(|p| json!(p)).collect::<Vec<_>>();
        if E::REPEATABLE {
            parameters.push(json!({"$ref": "#/components/parameters/IdempotencyKey"}));
        }
        if E::CONDITIONAL {
            parameters.push(json!({"$ref": "#/components/parameters/IfMatch"}));
        }
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        if let Some(body) = E::Body::describe(&mut self.schemas) {
            operation["requestBody"] = body;
        }
        if E::ACCESS.is_empty() {
            operation["security"] = json!([]);
        } else {
            operation["x-required-role"] = E::ACCESS.into();
        }
        operation
    }

    fn responses<E: Endpoint>(&mut self) -> Value {
        let (status, answer) = E::Answer::describe(&E::meta(), &mut self.schemas);
        let schema = self.schemas.reference::<Problem>();
        let content = json!({crate::problem::MEDIA_TYPE: {"schema": schema}});
        let problem =
            json!({"description": "What went wrong, and the way out.", "content": content});
        json!({status.to_string(): answer, "default": problem})
    }

    /// The document as JSON, its keys sorted.
    pub fn build(self) -> Value {
        let tags: Vec<Value> = self.tags.keys().map(|tag| json!({"name": tag})).collect();
        let text = json!({"type": "string"});
        sorted(json!({
            "openapi": "3.1.0",
            "info": {
                "title": self.title,
                "version": self.version,
                "description": self.description,
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "tags": tags,
            "paths": self.paths,
            "security": [{"bearer": []}],
            "components": {
                "schemas": self.schemas.known,
                "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
                "parameters": {
                    "IdempotencyKey": {
                        "name": "Idempotency-Key",
                        "in": "header",
                        "schema": text,
                        "description": "1 to 128 visible ASCII characters. The same request with \
                                        the same key is carried out once.",
                    },
                    "IfMatch": {
                        "name": "If-Match",
                        "in": "header",
                        "schema": text,
                        "description": "The `ETag` that the object had; the request is refused \
                                        when the object has changed since.",
                    },
                },
            },
        }))
    }
}

/// The same value with the keys of every object in order, whatever map `serde_json` is built with.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields: BTreeMap<String, Value> =
                fields.into_iter().map(|(name, value)| (name, sorted(value))).collect();
            Value::Object(fields.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        scalar => scalar,
    }
}
