//! `hostler apply -f`: makes the inventory be as files say, document by document, in their order.
//!
//! A document names what it wants; what it does not name stays as it is. All documents are read
//! before the first is applied. What cannot be changed (a network, an image, a VM's disks) and
//! differs is an error, never silently left.

mod simple;
mod vm;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use hostler_types::KindName;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::{CliError, Exit};
use crate::options::Format;
use crate::session::Session;
use crate::{input, output};

/// Make VMs, networks, datastores and images be as files say
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler apply -f web.yaml
  hostler apply -f network.yaml -f web.yaml --dry-run
  cat web.json | hostler apply -f -

A document has a `kind` (vm, network, datastore or image), a `name`, and the fields of the API's
create request, at the top or below `spec`:
  kind: vm
  name: web01
  image: debian-12
  memory: 2GiB
  start: true")]
pub(crate) struct Apply {
    /// YAML or JSON with one document or several (`-`: standard input); repeat it for several files
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,

    /// Tell what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// A document that has been understood, and where it stands.
#[derive(Debug)]
enum Document {
    Vm(Box<vm::Document>),
    Network(hostler_api::network::NetworkCreate),
    Datastore(hostler_api::datastore::DatastoreCreate),
    Image(hostler_types::ImageCreate),
}

impl Document {
    fn describe(&self) -> (KindName, String) {
        match self {
            Self::Vm(document) => (KindName::Vm, document.name().to_string()),
            Self::Network(wanted) => (KindName::Network, wanted.name.to_string()),
            Self::Datastore(wanted) => (KindName::Datastore, wanted.name.to_string()),
            Self::Image(wanted) => (KindName::Image, wanted.name.to_string()),
        }
    }
}

/// What was done, or would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Created,
    Updated,
    Unchanged,
}

#[derive(Debug, Serialize)]
struct Applied {
    kind: KindName,
    name: String,
    action: Action,
    dry_run: bool,
}

impl Apply {
    pub(super) async fn run(self, session: &Session) -> Result<ExitCode, CliError> {
        let mut documents = Vec::new();
        for file in &self.files {
            let found = input::documents(file)?;
            if found.is_empty() {
                let message = format!("{} has no document", file.display());
                return Err(CliError::new(Exit::Failed, message));
            }
            for (index, document) in found.into_iter().enumerate() {
                documents.push(understand(
                    document,
                    &format!("{}, document {}", file.display(), index + 1),
                )?);
            }
        }
        let mut all: Vec<Applied> = Vec::new();
        for document in documents {
            let (kind, name) = document.describe();
            let action = match self.apply(session, document).await {
                // What it refers to may be what a document before it would have created.
                Err(error)
                    if self.dry_run
                        && error.exit() == Exit::NotFound
                        && all.iter().any(|applied| applied.action == Action::Created) =>
                {
                    session.output.remark(&format!("{kind} {name} is not checked: {error} yet"));
                    Action::Created
                }
                action => action?,
            };
            let applied = Applied { kind, name, action, dry_run: self.dry_run };
            self.tell(session, &applied)?;
            all.push(applied);
        }
        if matches!(session.output.format, Format::Json | Format::Yaml) {
            session.output.data(&all)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn apply(&self, session: &Session, document: Document) -> Result<Action, CliError> {
        match document {
            Document::Vm(document) => document.apply(session, self.dry_run).await,
            Document::Network(wanted) => simple::network(session, wanted, self.dry_run).await,
            Document::Datastore(wanted) => simple::datastore(session, wanted, self.dry_run).await,
            Document::Image(wanted) => simple::image(session, wanted, self.dry_run).await,
        }
    }

    fn tell(&self, session: &Session, applied: &Applied) -> Result<(), CliError> {
        let word = match (applied.action, self.dry_run) {
            (Action::Created, false) => "created",
            (Action::Created, true) => "would be created",
            (Action::Updated, false) => "updated",
            (Action::Updated, true) => "would be updated",
            (Action::Unchanged, _) => "unchanged",
        };
        match session.output.format {
            Format::Table if session.output.is_quiet() => Ok(()),
            Format::Table => output::print(&format!("{} {} {word}\n", applied.kind, applied.name)),
            Format::Name => output::print(&format!("{}/{}\n", applied.kind, applied.name)),
            Format::Json | Format::Yaml => Ok(()),
        }
    }
}

/// Reads a document by its `kind`.
fn understand(document: Map<String, Value>, place: &str) -> Result<Document, CliError> {
    let failed = |reason: String| CliError::new(Exit::Failed, format!("{place}: {reason}"));
    let mut document = input::flatten(document);
    let kind = match document.remove("kind") {
        Some(Value::String(kind)) => kind.to_ascii_lowercase(),
        _ => {
            return Err(failed("`kind` is missing".to_owned())
                .hint("kind: vm, network, datastore or image"));
        }
    };
    let name = document.get("name").and_then(Value::as_str).unwrap_or("without a name");
    let place = format!("{place} ({kind} {name})");
    let failed =
        |error: serde_json::Error| CliError::new(Exit::Failed, format!("{place}: {error}"));
    match kind.as_str() {
        "vm" => Ok(Document::Vm(Box::new(vm::Document::new(document, &place)?))),
        "network" => {
            let mut whole = Map::new();
            for key in ["name", "labels"] {
                whole.extend(document.remove_entry(key));
            }
            whole.insert("spec".to_owned(), document.into());
            serde_json::from_value(whole.into()).map(Document::Network).map_err(failed)
        }
        "datastore" => {
            serde_json::from_value(document.into()).map(Document::Datastore).map_err(failed)
        }
        "image" => serde_json::from_value(document.into()).map(Document::Image).map_err(failed),
        _ => Err(CliError::new(Exit::Failed, format!("{place}: this kind cannot be applied"))
            .hint("kind: vm, network, datastore or image")),
    }
}

/// Something that exists, differs and cannot be changed.
fn fixed(kind: KindName, name: &str, what: &str) -> CliError {
    CliError::new(Exit::Conflict, format!("{kind} {name} exists with {what}"))
        .hint(format!("that cannot be changed: delete the {kind} first, or correct the file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Document, CliError> {
        let Value::Object(document) = serde_saphyr::from_str(text).unwrap() else { panic!("map") };
        understand(document, "web.yaml, document 1")
    }

    #[test]
    fn fields_stand_at_the_top_or_below_spec() {
        let flat = "kind: vm\nname: web01\nimage: tiny\nmemory: 256MiB\n";
        let nested = "kind: vm\nname: web01\nspec:\n  image: tiny\n  memory: 256MiB\n";
        for text in [flat, nested] {
            let Ok(Document::Vm(vm)) = read(text) else { panic!("{text}") };
            assert_eq!(vm.name().as_str(), "web01");
        }
        let lab =
            "kind: network\nname: lab\nlabels: {a: b}\nspec: {mode: nat, subnet: 10.8.0.0/24}";
        let Ok(Document::Network(network)) = read(lab) else { panic!("network") };
        assert_eq!(network.labels["a"], "b");
        let fast = "kind: datastore\nname: fast\npath: /mnt/fast\n";
        assert!(matches!(read(fast), Ok(Document::Datastore(_))));
        let image = "kind: image\nname: deb\nsource:\n  url: https://a/b\n";
        assert!(matches!(read(image), Ok(Document::Image(_))));
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let check = |text: &str, words: &[&str]| {
            let error = read(text).map(drop).expect_err(text);
            assert_eq!(error.exit(), Exit::Failed);
            for word in words {
                assert!(error.to_string().contains(word), "no `{word}` in: {error}");
            }
        };
        check(
            "kind: vm\nname: web01\nmemroy: 1GiB\n",
            &["web.yaml, document 1", "web01", "memroy"],
        );
        check("kind: vm\nname: Web_01\n", &["Web_01", "a-z"]);
        check("name: web01\n", &["kind"]);
        check("kind: pool\nname: a\n", &["pool"]);
        check("kind: network\nname: a\nmode: nat\n", &["subnet"]);
        check("kind: vm\nname: a\nmemory: lots\n", &["lots", "8GiB"]);
    }
}
