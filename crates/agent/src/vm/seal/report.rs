//! What a sealing script says it did. It comes out of a guest, or of a machine that has looked at a
//! guest's disks: it is bounded, cleaned, and refused if it is anything but expected.

use hostler_qmp::guest::sanitize;
use hostler_types::{ByteSize, Removed, Seal, SealWay};
use jiff::Timestamp;

use crate::fault::Fault;

/// They are kept in the VM's record and reported with it. What is more is told in one line: by then it
/// is gone, and nothing is won by a refusal.
const MOST: usize = 1000;
/// Of a name or path, in characters.
const LONGEST: usize = 300;

/// What a script said that has come to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) os: String,
    pub(super) removed: Vec<Removed>,
    /// The serial numbers of the disks that it has written to.
    pub(super) changed: Vec<String>,
}

impl Report {
    /// # Errors
    /// The script has refused, with its reason; or it has not come to its end, or says what none of
    /// ours does.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let text = String::from_utf8_lossy(bytes);
        let mut report = Self { os: String::new(), removed: Vec::new(), changed: Vec::new() };
        let mut whole = false;
        for line in text.lines() {
            let fields: Vec<_> = line.split('\t').collect();
            match fields.as_slice() {
                _ if whole => return Err(strange(line)),
                ["refused", reason] => return Err(refused(reason)),
                ["os", name] => report.os = sanitize(name, LONGEST),
                ["removed", what, path, files, size] => {
                    report.tell(removed(what, path, files, size)?);
                }
                ["changed", serial] => report.changed.push(sanitize(serial, LONGEST)),
                ["done"] => whole = true,
                _ => return Err(strange(line)),
            }
            if report.changed.len() > MOST {
                let text = format!("sealing changes more than {MOST} disks, which no VM has");
                return Err(Fault::WrongState(text));
            }
        }
        if !whole || report.os.is_empty() {
            let text = "sealing did not come to its end; the guest is not sealed".to_owned();
            return Err(Fault::WrongState(text));
        }
        Ok(report)
    }

    fn tell(&mut self, removed: Removed) {
        let count = self.removed.len();
        match self.removed.get_mut(MOST) {
            Some(rest) => {
                rest.files = rest.files.saturating_add(removed.files);
                rest.size = ByteSize(rest.size.bytes().saturating_add(removed.size.bytes()));
            }
            None if count == MOST => {
                let (what, path) = ("more".to_owned(), "in other places".to_owned());
                self.removed.push(Removed { what, path, ..removed });
            }
            None => self.removed.push(removed),
        }
    }

    pub(super) fn into_seal(self, way: SealWay, at: Timestamp) -> Seal {
        Seal { at, way, os: self.os, removed: self.removed }
    }
}

fn removed(what: &str, path: &str, files: &str, size: &str) -> Result<Removed, Fault> {
    let number = |text: &str| text.trim().parse::<u64>().map_err(|_| strange(text));
    Ok(Removed {
        what: sanitize(what, LONGEST),
        path: sanitize(path, LONGEST),
        files: number(files)?,
        size: ByteSize(number(size)?),
    })
}

fn refused(reason: &str) -> Fault {
    Fault::WrongState(format!("the guest is not sealed: {}", sanitize(reason, LONGEST)))
}

fn strange(line: &str) -> Fault {
    let text = sanitize(line, 80);
    Fault::WrongState(format!(
        "the guest is not sealed: sealing said `{text}`, which means nothing"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "os\tDebian\nremoved\tSSH host key\t/etc/ssh/k\t1\t 411\nchanged\tdisk0\ndone\n";

    #[test]
    fn a_whole_report_is_taken() {
        let report = Report::parse(GOOD.as_bytes()).unwrap();
        assert_eq!(
            (report.os.as_str(), report.changed.as_slice()),
            ("Debian", &["disk0".into()][..])
        );
        let removed = &report.removed[0];
        assert_eq!((removed.what.as_str(), removed.path.as_str()), ("SSH host key", "/etc/ssh/k"));
        assert_eq!((removed.files, removed.size), (1, ByteSize(411)));
    }

    #[test]
    fn what_a_hostile_guest_says_is_refused_or_cleaned() {
        let refused = |text: &str| Report::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(refused("refused\tit is \u{1b}[31mPlan 9\n").contains("it is "));
        assert!(!refused("refused\tit is \u{1b}[31mPlan 9\n").contains('\u{1b}'));
        for cut in ["", "os\tDebian\n", &GOOD[..GOOD.len() - 5], "done\n"] {
            assert!(refused(cut).contains("not come to its end"), "{cut:?}");
        }
        for strange in [
            "hello\n".to_owned(),
            format!("{GOOD}more\n"),
            "os\tx\nremoved\ta\tb\t-1\t0\ndone\n".to_owned(),
            "os\tx\nremoved\ta\tb\t1\n".to_owned(),
            "\u{0}\u{0}\n".to_owned(),
        ] {
            assert!(refused(&strange).contains("means nothing"), "{strange:?}");
        }
    }

    #[test]
    fn however_much_was_removed_it_is_sealed() {
        let flood = format!("os\tx\n{}done\n", "removed\ta\tb\t1\t2\n".repeat(MOST + 5));
        let report = Report::parse(flood.as_bytes()).unwrap();
        assert_eq!(report.removed.len(), MOST + 1);
        let rest = &report.removed[MOST];
        assert_eq!((rest.what.as_str(), rest.files, rest.size), ("more", 5, ByteSize(10)));
    }
}
