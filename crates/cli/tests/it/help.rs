//! The tree of commands: whole, documented, with an example each.

use expect_test::{expect, expect_file};

use crate::process::{Run, command};

fn run(arguments: &[&str]) -> Run {
    let home = tempfile::tempdir().unwrap();
    command(home.path(), arguments).env("COLUMNS", "100").output().unwrap().into()
}

fn walk(command: &clap::Command, path: &str, visit: &mut dyn FnMut(&clap::Command, &str)) {
    visit(command, path);
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        walk(sub, &format!("{path} {}", sub.get_name()), visit);
    }
}

#[test]
fn the_tree_is_consistent() {
    hostler_cli::command().debug_assert();
}

#[test]
fn every_command_has_a_sentence_and_an_example_and_every_flag_a_help() {
    let mut seen = 0;
    walk(&hostler_cli::command(), "hostler", &mut |command, path| {
        seen += 1;
        assert!(command.get_about().is_some(), "{path} does not say what it does");
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let example = format!("  {path}");
        assert!(
            after.contains("Examples:") && after.contains(example.trim_end()),
            "{path} has no example of its own"
        );
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{path}: {} has no help", argument.get_id());
        }
    });
    assert!(seen > 60, "only {seen} commands");
}

#[test]
fn every_example_is_understood() {
    let mut examples = Vec::new();
    walk(&hostler_cli::command(), "hostler", &mut |command, _| {
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let lines = after.replace("\\\n", " ");
        let lines = lines.lines().filter_map(|line| line.strip_prefix("  hostler "));
        examples.extend(lines.map(str::to_owned));
    });
    for example in examples {
        let plain = example.split([';', '|', '<', '>']).next().unwrap_or_default();
        let plain = plain.replace("TASK", "01890a5d-ac96-774b-bcce-b302099a8057");
        let plain = plain.replace("0123…cdef", &"ab".repeat(32));
        if plain.contains('\'') {
            continue;
        }
        let words = ["hostler"].into_iter().chain(plain.split_whitespace());
        if let Err(error) = hostler_cli::command().try_get_matches_from(words) {
            panic!("hostler {example}: {error}");
        }
    }
}

#[test]
fn help_reads_well() {
    expect_file!["help/root.txt"].assert_eq(&run(&["--help"]).ok());
    expect_file!["help/vm-create.txt"].assert_eq(&run(&["vm", "create", "--help"]).ok());
    expect_file!["help/server.txt"].assert_eq(&run(&["server", "--help"]).ok());
}

#[test]
fn completion_and_manual_cover_the_tree() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completion", shell]).ok();
        for word in ["screenshot", "force-after-timeout", "datastore"] {
            assert!(script.contains(word), "{shell}: no {word}");
        }
    }
    let home = tempfile::tempdir().unwrap();
    run(&["man", home.path().to_str().unwrap()]).ok();
    let page = std::fs::read_to_string(home.path().join("hostler-vm-create.1")).unwrap();
    assert!(page.contains("ssh\\-key"), "{page}");
}

#[test]
fn versions_are_told_without_a_server_too() {
    let version = run(&["version", "--client"]).ok();
    assert_eq!(version, format!("Client:  {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn typing_errors_get_a_proposal() {
    let error = run(&["vm", "crate"]).fails(2);
    expect![[r#"
        error: unrecognized subcommand 'crate'

          tip: some similar subcommands exist: 'rename', 'migrate', 'create'

        Usage: hostler vm [OPTIONS] <COMMAND>

        For more information, try '--help'.
    "#]]
    .assert_eq(&error);
}
