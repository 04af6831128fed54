//! The commands of the user guide are typed as they stand there.

use std::fs;
use std::path::Path;

use hostler_e2e::{Instance, build_appliance, tiny_image};

/// Fenced blocks in order: language and text.
fn blocks(document: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in document.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => open = Some((language.to_owned(), String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some((_, text)), None) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, None) => {}
        }
    }
    blocks
}

#[test]
fn qemu_the_guides_commands_work_as_they_stand() {
    build_appliance();
    let hostler = Instance::start();
    let folder = hostler.path().join("guide");
    fs::create_dir(&folder).unwrap();
    fs::copy(tiny_image(), folder.join("tiny.qcow2")).unwrap();
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide.md");
    let guide = fs::read_to_string(guide).unwrap();
    let mut typed = 0;
    for (language, text) in blocks(&guide) {
        match language.as_str() {
            "yaml" => {
                let name = text.lines().next().and_then(|line| line.strip_prefix("# ")).unwrap();
                fs::write(folder.join(name), &text).unwrap();
            }
            "sh" => {
                for line in text.replace("\\\n", " ").lines().filter(|line| !line.starts_with('#'))
                {
                    run(&hostler, &folder, line);
                    typed += 1;
                }
            }
            _ => {}
        }
    }
    assert!(typed > 30, "only {typed} commands were found in the guide");
}

fn run(hostler: &Instance, folder: &Path, line: &str) {
    let output = hostler.shell(line).current_dir(folder).output().unwrap();
    assert!(
        output.status.success(),
        "{line}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
