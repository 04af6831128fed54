//! Huge pages for guests' memory.
//!
//! A guest's memory is a memfd. Kernels give those huge pages only where
//! `/sys/kernel/mm/transparent_hugepage/shmem_enabled` allows it, and most come with `never`. With
//! `advise` whoever asks for them gets them (`madvise(2)`, `MADV_HUGEPAGE`), as QEMU does: fewer faults
//! when memory is first touched, and under KVM fewer steps from a guest's address to the host's.

use std::fs;
use std::io;
use std::path::Path;

const SWITCH: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

/// Lets shared memory have huge pages where it asks for them, until the next boot; what an
/// administrator has chosen in place of `never` stays. Whether they can be had.
///
/// # Errors
/// The kernel has the switch, but it cannot be read or turned.
pub fn allow() -> io::Result<bool> {
    allow_at(Path::new(SWITCH))
}

fn allow_at(switch: &Path) -> io::Result<bool> {
    let text = match fs::read_to_string(switch) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match chosen(&text) {
        Some("never") => fs::write(switch, "advise").map(|()| true),
        Some("deny") | None => Ok(false),
        Some(_) => Ok(true),
    }
}

/// Of `always within_size advise [never] deny force`, the one in brackets.
fn chosen(text: &str) -> Option<&str> {
    text.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_never_is_changed() {
        let dir = tempfile::tempdir().unwrap();
        let switch = dir.path().join("shmem_enabled");
        let check = |before: &str, allowed, after: &str| {
            fs::write(&switch, before).unwrap();
            assert_eq!(allow_at(&switch).unwrap(), allowed, "{before}");
            assert_eq!(fs::read_to_string(&switch).unwrap(), after);
        };
        check("always within_size advise [never] deny force\n", true, "advise");
        for (kept, allowed) in [
            ("always within_size [advise] never deny force\n", true),
            ("[always] within_size advise never deny force\n", true),
            ("always within_size advise never [deny] force\n", false),
            ("what is this\n", false),
        ] {
            check(kept, allowed, kept);
        }
        assert!(!allow_at(&dir.path().join("none")).unwrap());
    }
}
