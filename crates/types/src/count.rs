//! How many of something, in words that agree: `1 image`, `2 images`.

use std::fmt::Display;

/// A number and a noun whose plural ends in `s`.
///
/// ```
/// assert_eq!(hostler_types::counted(1, "image"), "1 image");
/// assert_eq!(hostler_types::counted(0, "CPU"), "0 CPUs");
/// ```
pub fn counted(count: impl Display, noun: &str) -> String {
    let count = count.to_string();
    let plural = if count == "1" { "" } else { "s" };
    format!("{count} {noun}{plural}")
}
