//! What commands read from flags, files and standard input.

use std::io::Read as _;
use std::path::Path;

use hostler_types::Cores;
use serde_json::{Map, Value};

use crate::error::{CliError, Exit};

/// The longest file that is read into memory.
const LIMIT: u64 = 4 << 20;

/// `KEY=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) key: String,
    pub(crate) value: String,
}

impl Label {
    pub(crate) fn pair(&self) -> (String, String) {
        (self.key.clone(), self.value.clone())
    }
}

impl std::str::FromStr for Label {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => {
                Ok(Self { key: key.to_owned(), value: value.to_owned() })
            }
            _ => Err(format!("`{}` is not a label; write KEY=VALUE", text.escape_debug())),
        }
    }
}

/// A number of CPUs.
pub(crate) fn cores(text: &str) -> Result<Cores, String> {
    let count: u32 =
        text.parse().map_err(|_| format!("`{}` is not a number", text.escape_debug()))?;
    Cores::try_from(count)
}

/// The text of a file; `-` is standard input.
pub(crate) fn text(path: &Path) -> Result<String, CliError> {
    let failed = |error: std::io::Error| {
        CliError::new(Exit::Failed, format!("cannot read {}: {error}", path.display()))
    };
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().lock().take(LIMIT + 1).read_to_string(&mut text)
    } else {
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(LIMIT + 1).read_to_string(&mut text)
    };
    let length = read.map_err(failed)?;
    if u64::try_from(length).unwrap_or(u64::MAX) > LIMIT {
        let message = format!("{} is longer than the 4 MiB it may be", path.display());
        return Err(CliError::new(Exit::Failed, message));
    }
    Ok(text)
}

/// The keys that an argument is or names: a public key itself, or a file with one a line.
pub(crate) fn ssh_keys(argument: &str) -> Result<Vec<String>, CliError> {
    const TYPES: [&str; 5] = ["ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-", "cert-"];
    let is_key = |line: &str| TYPES.iter().any(|kind| line.starts_with(kind)) && line.contains(' ');
    if is_key(argument) {
        return Ok(vec![argument.trim().to_owned()]);
    }
    let content = text(Path::new(argument))
        .map_err(|error| error.hint("--ssh-key takes a public key, or a file with public keys"))?;
    if content.contains("PRIVATE KEY") {
        return Err(CliError::new(Exit::Usage, format!("{argument} is a private key"))
            .hint(format!("give the public one: {argument}.pub")));
    }
    let lines = content.lines().map(str::trim);
    let keys: Vec<_> = lines.filter(|line| is_key(line)).map(str::to_owned).collect();
    if keys.is_empty() {
        return Err(CliError::new(Exit::Usage, format!("{argument} has no SSH public key")));
    }
    Ok(keys)
}

/// The documents of a YAML or JSON file, each a map.
pub(crate) fn documents(path: &Path) -> Result<Vec<Map<String, Value>>, CliError> {
    parse_documents(&text(path)?, &path.display().to_string())
}

/// The only document of a file.
pub(crate) fn one_document(path: &Path) -> Result<Map<String, Value>, CliError> {
    let mut documents = documents(path)?;
    match (documents.pop(), documents.is_empty()) {
        (Some(document), true) => Ok(flatten(document)),
        _ => {
            let message = format!("{} must have exactly one document", path.display());
            Err(CliError::new(Exit::Failed, message)
                .hint("`hostler apply -f` takes files with several"))
        }
    }
}

fn parse_documents(text: &str, place: &str) -> Result<Vec<Map<String, Value>>, CliError> {
    let failed = |reason: String| CliError::new(Exit::Failed, format!("{place}: {reason}"));
    let values: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|error| failed(error.to_string()))?;
    let mut documents = Vec::new();
    for (index, value) in values.into_iter().enumerate() {
        match value {
            Value::Object(map) => documents.push(map),
            Value::Null => {}
            _ => return Err(failed(format!("document {} is not a map", index + 1))),
        }
    }
    Ok(documents)
}

/// A document whose `spec` may stand in a map of its own: its fields come to the top.
pub(crate) fn flatten(mut document: Map<String, Value>) -> Map<String, Value> {
    match document.remove("spec") {
        Some(Value::Object(spec)) => document.extend(spec),
        Some(other) => {
            document.insert("spec".to_owned(), other);
        }
        None => {}
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_pairs() {
        let label: Label = "tier=web=1".parse().unwrap();
        assert_eq!(label.pair(), ("tier".to_owned(), "web=1".to_owned()));
        assert_eq!("a=".parse::<Label>().unwrap().value, "");
        assert!("tier".parse::<Label>().is_err());
        assert!("=x".parse::<Label>().is_err());
    }

    #[test]
    fn keys_are_given_as_text_or_file() {
        assert_eq!(ssh_keys("ssh-ed25519 AAAA me").unwrap(), ["ssh-ed25519 AAAA me"]);
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("keys.pub");
        std::fs::write(&file, "# mine\nssh-ed25519 AAAA me\n\necdsa-sha2-nistp256 BBBB\n").unwrap();
        assert_eq!(ssh_keys(file.to_str().unwrap()).unwrap().len(), 2);
        std::fs::write(&file, "-----BEGIN OPENSSH PRIVATE KEY-----\n").unwrap();
        let error = ssh_keys(file.to_str().unwrap()).unwrap_err();
        assert!(error.to_string().contains("private"), "{error}");
        assert!(ssh_keys("/does/not/exist").is_err());
    }

    #[test]
    fn documents_are_yaml_or_json() {
        let yaml = "kind: vm\nname: a\n---\nkind: network\nname: b\nspec:\n  mode: nat\n---\n";
        let documents = parse_documents(yaml, "x").unwrap();
        assert_eq!(documents.len(), 2);
        assert_eq!(flatten(documents[1].clone())["mode"], "nat");
        let json = "{\"kind\": \"vm\", \"cpus\": 2}";
        assert_eq!(parse_documents(json, "x").unwrap()[0]["cpus"], 2);
        assert!(parse_documents("- 1\n", "x").is_err());
        assert!(parse_documents("a: [", "web.yaml").unwrap_err().to_string().contains("web.yaml"));
    }
}
