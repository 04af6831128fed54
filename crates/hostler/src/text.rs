//! Gives program text back that only the start needed.
//!
//! Most of a binary's pages are touched once at most: the command line's definition, the set-up of
//! tables, migrations. They stay mapped, though, and count as the process's memory. A daemon drops
//! them once it has started; what is needed again comes from the page cache.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use rustix::mm::{Advice, madvise};

/// A start, with all that goes on right after it, is over by then.
const STARTED: Duration = Duration::from_secs(3);

/// Does so a while from now, on a thread of its own.
pub(crate) fn give_back_later() {
    let thread = std::thread::Builder::new().name("text".to_owned()).stack_size(64 << 10);
    // Without it, the process is just larger.
    let _ = thread.spawn(|| {
        std::thread::sleep(STARTED);
        give_back();
    });
}

#[expect(unsafe_code, reason = "there is no safe way to drop pages")]
fn give_back() {
    let Ok(program) = fs::read_link("/proc/self/exe") else { return };
    let Ok(maps) = fs::read_to_string("/proc/self/maps") else { return };
    for text in maps.lines().filter_map(|line| text_of(line, &program)) {
        let length = text.end - text.start;
        // SAFETY: The mapping is the program's own file, private, and has never been writable: the text
        // has no relocations (the linker refuses them), so every page of it is as in the file, and the
        // kernel reads it from there again when it is needed. Nothing unmaps it while the program runs.
        let given = unsafe { madvise(text.start as *mut _, length, Advice::LinuxDontNeed) };
        if let Err(error) = given {
            tracing::debug!(%error, "cannot give program text back");
        }
    }
}

/// The addresses of a line of `/proc/PID/maps` (proc_pid_maps(5)), if it is the program's text.
fn text_of(line: &str, program: &Path) -> Option<Range<usize>> {
    let mut fields = line.splitn(6, ' ');
    let (addresses, access) = (fields.next()?, fields.next()?);
    let file = fields.nth(3)?.trim_start();
    if access != "r-xp" || Path::new(file) != program {
        return None;
    }
    let (start, end) = addresses.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some(address(start)?..address(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_programs_own_text_is_given_back() {
        let program = Path::new("/usr/bin/hostler");
        let text = "55d0c7800000-55d0c9a00000 r-xp 007cd000 fe:00 1234       /usr/bin/hostler";
        assert_eq!(text_of(text, program), Some(0x55d0_c780_0000..0x55d0_c9a0_0000));
        for other in [
            "55d0c9a00000-55d0c9b00000 r--p 02a00000 fe:00 1234       /usr/bin/hostler",
            "55d0c9b00000-55d0c9b10000 rw-p 02b00000 fe:00 1234       /usr/bin/hostler",
            "7f0000000000-7f0000100000 r-xp 00000000 fe:00 99         /usr/lib/libc.so.6",
            "7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0          [vdso]",
            "7f0000200000-7f0000300000 r-xp 00000000 00:00 0 ",
            "",
        ] {
            assert_eq!(text_of(other, program), None, "{other}");
        }
    }

    #[test]
    fn the_program_goes_on_without_most_of_its_text() {
        let mapped = || {
            let program = fs::read_link("/proc/self/exe").unwrap();
            let maps = fs::read_to_string("/proc/self/smaps").unwrap();
            let mut lines = maps.lines().skip_while(|line| text_of(line, &program).is_none());
            let line = lines.find(|line| line.starts_with("Rss:")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        let before = mapped();
        give_back();
        let after = mapped();
        assert!(after < before, "{after} of {before} KiB");
    }
}
