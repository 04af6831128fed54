//! Run-once commands as a shell script that says which of them failed.

/// Where the guest keeps why its run-once commands failed; nothing is there when they worked. It
/// lies on the disk: a guest that was started again meanwhile must not forget.
pub const FAILED_FILE: &str = "/var/lib/hostler/customization-failed";
/// Where a domain's password waits for the joining, which removes it; in memory.
pub(crate) const JOIN_PASSWORD_FILE: &str = "/run/hostler-join";

/// Runs one command, with what it is called first. What it prints goes to cloud-init's log; the
/// last line of it is the reason if it fails. A file, not `$(…)`, which would wait for whatever the
/// command leaves running.
const FUNCTION: &str = r#"hostler_run() {
  sh -c "$2" >/run/hostler-command.log 2>&1 </dev/null && code=0 || code=$?
  cat /run/hostler-command.log
  [ "$code" -ne 0 ] || return 0
  last=$(tail -n 1 /run/hostler-command.log | head -c 400)
  echo "$1 failed with exit code $code${last:+: $last}" >/var/lib/hostler/customization-failed
  exit "$code"
}"#;

/// The script's lines for commands, each with what it is called; none for no command.
pub(crate) fn script_lines(commands: impl Iterator<Item = (String, String)>) -> Vec<String> {
    let runs: Vec<_> = commands
        .map(|(what, command)| {
            format!("hostler_run {} {}", shell_quote(&what), shell_quote(&command))
        })
        .collect();
    if runs.is_empty() {
        return runs;
    }
    let begin = [format!("mkdir -p /var/lib/hostler && rm -f {FAILED_FILE}"), FUNCTION.to_owned()];
    begin.into_iter().chain(runs).collect()
}

/// One word for a POSIX shell, whatever is in it.
pub(crate) fn shell_quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_holds_against_a_shell() {
        for text in ["", "a b", "it's", "'; touch /tmp/x; '", "$(id)`id`\\", "a\nb"] {
            let script = format!("printf %s {}", shell_quote(text));
            let output = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
        }
    }
}
