//! One command before every push.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::{cargo, openapi, root, run};

const GRAPH: &str = "xtask/crate-graph.txt";
/// A file longer than this is to be split by concept.
const MOST_LINES: usize = 1_000;

pub(crate) fn check(bless: bool) -> Result<()> {
    step("formatting", run(cargo().args(["fmt", "--all", "--check"])))?;
    step("crate graph", crate_graph(bless))?;
    step("file limits", file_limits())?;
    step("OpenAPI document", if bless { openapi::write() } else { openapi::check() })?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"];
    step("clippy", run(cargo().args(clippy)))
}

fn step(name: &str, result: Result<()>) -> Result<()> {
    println!("check: {name}: {}", if result.is_ok() { "ok" } else { "FAILED" });
    result
}

/// `A -> B` means "A may use B". A new arrow is a design change: ADR, then `--bless`.
fn crate_graph(bless: bool) -> Result<()> {
    let output = cargo().args(["metadata", "--no-deps", "--format-version", "1"]).output()?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let mut lines = Vec::new();
    for package in metadata["packages"].as_array().context("no packages in cargo metadata")? {
        let mut uses: Vec<_> = (package["dependencies"].as_array().into_iter().flatten())
            .filter(|dependency| dependency["kind"].is_null())
            .filter_map(|dependency| dependency["name"].as_str())
            .filter_map(|name| name.strip_prefix("hostler-"))
            .collect();
        uses.sort_unstable();
        uses.dedup();
        let name = package["name"].as_str().unwrap_or_default();
        let arrow = if uses.is_empty() { "" } else { " -> " };
        lines.push(format!("{}{arrow}{}", name.trim_start_matches("hostler-"), uses.join(", ")));
    }
    lines.sort_unstable();
    let graph = lines.join("\n") + "\n";
    let path = root().join(GRAPH);
    if bless {
        return Ok(fs::write(path, graph)?);
    }
    let golden = fs::read_to_string(path).unwrap_or_default();
    if golden != graph {
        bail!(
            "the crates' arrows are not those of {GRAPH}; write an ADR, then `cargo xtask check --bless`\n\
             now:\n{graph}"
        );
    }
    Ok(())
}

fn file_limits() -> Result<()> {
    let mut long = String::new();
    for folder in ["crates", "tests", "xtask"] {
        visit(&root().join(folder), &mut |path, text| {
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text);
            let lines = code.lines().count();
            if lines > MOST_LINES {
                let _ = writeln!(long, "{}: {lines} lines", path.display());
            }
            if !text.starts_with("//!") {
                let _ = writeln!(long, "{}: does not open with `//!`", path.display());
            }
        })?;
    }
    if !long.is_empty() {
        bail!(
            "files over {MOST_LINES} lines are split by concept, and each says what it is for:\n{long}"
        );
    }
    Ok(())
}

fn visit(folder: &Path, found: &mut dyn FnMut(&Path, &str)) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            visit(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found(&path, &fs::read_to_string(&path)?);
        }
    }
    Ok(())
}
