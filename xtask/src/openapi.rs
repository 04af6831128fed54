//! The committed OpenAPI document must be what the endpoint types say.

use anyhow::{Context, Result, bail};

use crate::root;

const PATH: &str = "openapi/hostler-v1.json";

pub(crate) fn write() -> Result<()> {
    let path = root().join(PATH);
    std::fs::write(&path, text()?).with_context(|| format!("cannot write {}", path.display()))
}

pub(crate) fn check() -> Result<()> {
    let path = root().join(PATH);
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    if committed != text()? {
        bail!("{PATH} is not what the endpoint types say; run `cargo xtask openapi`");
    }
    Ok(())
}

fn text() -> Result<String> {
    Ok(serde_json::to_string_pretty(&hostler_api::document())? + "\n")
}
