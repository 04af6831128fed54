//! The terminal: questions, passwords, and raw mode that is always taken back.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};

use hostler_types::SecretText;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::error::{CliError, Exit};

/// A terminal whose settings were changed; has its old ones again when this is dropped, whatever
/// the reason: return, error, panic. (Signals must be turned into returns.)
#[derive(Debug)]
pub(crate) struct Changed {
    terminal: OwnedFd,
    before: Termios,
}

impl Changed {
    /// Passes every key on as it is, and shows what arrives as it is.
    pub(crate) fn raw(terminal: impl AsFd) -> std::io::Result<Self> {
        Self::with(terminal, |termios| termios.make_raw())
    }

    /// Keys one by one, none shown, none a signal.
    fn unseen(terminal: impl AsFd) -> std::io::Result<Self> {
        Self::with(terminal, |termios| {
            termios.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        })
    }

    fn with(terminal: impl AsFd, change: impl FnOnce(&mut Termios)) -> std::io::Result<Self> {
        // A handle of our own: the terminal must be there at the end, whatever was closed before.
        let terminal = terminal.as_fd().try_clone_to_owned()?;
        let before = tcgetattr(&terminal)?;
        let mut after = before.clone();
        change(&mut after);
        tcsetattr(&terminal, OptionalActions::Drain, &after)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        // A terminal that hung up needs no settings.
        let _ = tcsetattr(&self.terminal, OptionalActions::Drain, &self.before);
    }
}

/// Refuses what will have to be confirmed when nobody can be asked.
pub(crate) fn require_answers(yes: bool) -> Result<(), CliError> {
    if yes || is_interactive() {
        return Ok(());
    }
    Err(CliError::new(Exit::Usage, "this needs a confirmation, and nobody can be asked")
        .hint("add --yes"))
}

/// Asks before something that cannot be taken back; without a terminal, `--yes` must have said so.
pub(crate) fn confirm(yes: bool, question: &str) -> Result<(), CliError> {
    require_answers(yes)?;
    if yes {
        return Ok(());
    }
    match ask(&format!("{question} [y/N] "))?.to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(CliError::new(Exit::Failed, "left as it is")),
    }
}

/// Someone is there to answer.
pub(crate) fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// A line of text.
pub(crate) fn ask(question: &str) -> Result<String, CliError> {
    prompt(question).map_err(unreadable)?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(unreadable)?;
    Ok(answer.trim().to_owned())
}

/// A password, unseen from a terminal, or the first line of standard input.
pub(crate) fn password(question: &str) -> Result<SecretText, CliError> {
    if !std::io::stdin().is_terminal() {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map_err(unreadable)?;
        let line = line.trim_end_matches(['\r', '\n']);
        if line.is_empty() {
            return Err(CliError::new(Exit::Usage, "no password on standard input"));
        }
        return Ok(SecretText::new(line));
    }
    prompt(question).map_err(unreadable)?;
    let typed = {
        let _unseen = Changed::unseen(std::io::stdin()).map_err(unreadable)?;
        typed(&mut std::io::stdin().lock())
    };
    prompt("\n").map_err(unreadable)?;
    match typed.map_err(unreadable)? {
        Some(bytes) => String::from_utf8(bytes)
            .map(SecretText::new)
            .map_err(|_| CliError::new(Exit::Usage, "the password is not UTF-8")),
        None => Err(CliError::new(Exit::Interrupted, "interrupted")),
    }
}

/// What is typed up to the end of the line; nothing when it was interrupted.
fn typed(keys: &mut impl std::io::BufRead) -> std::io::Result<Option<Vec<u8>>> {
    let mut typed: Vec<u8> = Vec::new();
    for key in keys.bytes() {
        match key? {
            b'\r' | b'\n' => return Ok(Some(typed)),
            // Ctrl-C, and Ctrl-D on an empty line.
            0x03 => return Ok(None),
            0x04 if typed.is_empty() => return Ok(None),
            // Ctrl-U.
            0x15 => typed.clear(),
            0x08 | 0x7f => {
                while let Some(byte) = typed.pop() {
                    // Bytes 10xxxxxx continue a character.
                    if byte & 0xc0 != 0x80 {
                        break;
                    }
                }
            }
            other => typed.push(other),
        }
    }
    Ok(None)
}

fn prompt(text: &str) -> std::io::Result<()> {
    let mut stderr = std::io::stderr().lock();
    stderr.write_all(text.as_bytes())?;
    stderr.flush()
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unreadable(error: std::io::Error) -> CliError {
    CliError::new(Exit::Failed, format!("cannot ask: {error}"))
}

#[cfg(test)]
mod tests {
    use rustix::fs::{Mode, OFlags, open};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    use super::*;

    fn pty() -> (OwnedFd, OwnedFd) {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let name = ptsname(&controller, Vec::new()).unwrap();
        let terminal = open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        (controller, terminal)
    }

    fn modes(terminal: &OwnedFd) -> LocalModes {
        tcgetattr(terminal).unwrap().local_modes
    }

    #[test]
    fn raw_mode_is_taken_back() {
        let (_controller, terminal) = pty();
        let before = modes(&terminal);
        assert!(before.contains(LocalModes::ECHO | LocalModes::ICANON));
        {
            let _raw = Changed::raw(&terminal).unwrap();
            assert!(!modes(&terminal).intersects(LocalModes::ECHO | LocalModes::ICANON));
        }
        assert_eq!(modes(&terminal), before);
    }

    #[test]
    fn raw_mode_is_taken_back_in_a_panic() {
        let (_controller, terminal) = pty();
        let before = modes(&terminal);
        let ours = terminal.try_clone().unwrap();
        let thread = std::thread::spawn(move || {
            let _raw = Changed::raw(&ours).unwrap();
            drop(ours);
            panic!("on purpose");
        });
        assert!(thread.join().is_err());
        assert_eq!(modes(&terminal), before);
    }

    #[test]
    fn passwords_are_typed_with_corrections() {
        let check = |keys: &str, expected: Option<&str>| {
            let typed = typed(&mut keys.as_bytes()).unwrap();
            assert_eq!(typed.as_deref(), expected.map(str::as_bytes), "{keys:?}");
        };
        check("secret\r", Some("secret"));
        check("sä\u{7f}ecret\n", Some("secret"));
        check("wrong\u{15}right\r", Some("right"));
        check("half\u{3}", None);
        check("\u{4}", None);
        check("cut", None);
    }
}
