//! The kernel's `name value` files.

use std::fs;
use std::path::Path;

/// One, read once.
pub(crate) struct Stat(String);

impl From<String> for Stat {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl Stat {
    pub(crate) fn read(path: &Path) -> Option<Self> {
        fs::read_to_string(path).ok().map(Self)
    }

    /// The sum of the lines with these names, without their units; none of them there: 0.
    pub(crate) fn sum(&self, names: &[&str]) -> u64 {
        let lines = self.0.lines().map(|line| {
            let mut words = line.split_whitespace();
            (words.next(), words.next())
        });
        let wanted = lines.filter(|(name, _)| name.is_some_and(|name| names.contains(&name)));
        wanted.filter_map(|(_, value)| value?.parse::<u64>().ok()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listed_is_nothing() {
        let stat = Stat::from("anon 5\nshmem   7 kB\nshmem_thp 1\n".to_owned());
        assert_eq!((stat.sum(&["anon", "shmem"]), stat.sum(&["swap"])), (12, 0));
    }
}
