//! Text from the guest, made safe to show.

use std::{borrow::Cow, fmt, ops::Deref};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{IgnoredAny, SeqAccess, Visitor},
};

/// The longest text kept, in characters.
const MAX_CHARS: usize = 256;

/// A string from the guest: at most 256 characters, none of which commands a terminal or reorders
/// text. It is still the guest's word, and still needs escaping within HTML.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct GuestText(String);

impl GuestText {
    /// Makes a string safe.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(sanitize(text, MAX_CHARS))
    }

    /// The text if it has the form of a host name: letters, digits, hyphens and dots, at most 253.
    #[must_use]
    pub fn as_host_name(&self) -> Option<&str> {
        let label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        (self.0.len() <= 253 && self.0.split('.').all(label)).then_some(&*self.0)
    }

    /// The text as a plain string.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}

impl Deref for GuestText {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GuestText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for GuestText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::new(&Cow::<'de, str>::deserialize(deserializer)?))
    }
}

/// Removes terminal escape sequences, control characters and invisible characters that change the
/// order or look of text, turns line breaks and tabs into spaces, trims, and keeps at most
/// `max_chars` characters.
#[must_use]
pub fn sanitize(text: &str, max_chars: usize) -> String {
    let mut chars = text.chars();
    let mut safe = String::new();
    let mut kept = 0;
    while kept < max_chars
        && let Some(c) = chars.next()
    {
        match c {
            '\x1b' => match chars.next() {
                Some('[') => skip_control_sequence(&mut chars),
                Some(']' | 'P' | 'X' | '^' | '_') => skip_control_string(&mut chars),
                _ => {}
            },
            '\u{9b}' => skip_control_sequence(&mut chars),
            '\u{9d}' | '\u{90}' | '\u{98}' | '\u{9e}' | '\u{9f}' => skip_control_string(&mut chars),
            // No space at the beginning.
            c if c.is_whitespace() && safe.is_empty() => {}
            c if c.is_whitespace() => {
                safe.push(' ');
                kept += 1;
            }
            c if c.is_control() || is_invisible(c) => {}
            c => {
                safe.push(c);
                kept += 1;
            }
        }
    }
    safe.truncate(safe.trim_end().len());
    safe
}

/// Skips the rest of `ESC [ … final`.
fn skip_control_sequence(chars: &mut impl Iterator<Item = char>) {
    chars.find(|c| matches!(c, '\x40'..='\x7e'));
}

/// Skips the rest of `ESC ] … BEL` or `ESC ] … ESC \`.
fn skip_control_string(chars: &mut impl Iterator<Item = char>) {
    if chars.find(|c| matches!(c, '\x07' | '\x1b' | '\u{9c}')) == Some('\x1b') {
        chars.next();
    }
}

/// Format characters: zero-width ones, directional overrides and isolates, tags.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

/// How many entries of a list are kept.
const MAX_ENTRIES: usize = 64;

/// Reads a list and keeps its first 64 entries: what the guest reports is stored and shown, so a
/// line's limit alone is not bound enough.
pub(super) fn short_list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct ShortList<T>(std::marker::PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for ShortList<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while list.len() < MAX_ENTRIES {
                match entries.next_element()? {
                    Some(entry) => list.push(entry),
                    None => return Ok(list),
                }
            }
            while entries.next_element::<IgnoredAny>()?.is_some() {}
            Ok(list)
        }
    }
    deserializer.deserialize_seq(ShortList(std::marker::PhantomData))
}

/// A list as a whole answer, of which the first 64 entries are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShortList<T>(pub Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for ShortList<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        short_list(deserializer).map(Self)
    }
}

impl<T> Deref for ShortList<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> IntoIterator for ShortList<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_that_commands_a_terminal_is_left() {
        let check =
            |text: &str, expected: &str| assert_eq!(sanitize(text, 40), expected, "{text:?}");
        check("web01", "web01");
        check("Débian ünder 漢字", "Débian ünder 漢字");
        check("\x1b[31mred\x1b[0m", "red");
        check("\x1b]0;title\x07after", "after");
        check("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link");
        check("\x1bPq#0\x1b\\six", "six");
        check("\u{9b}2Jclear", "clear");
        check("\x1b]52;c;cm0gLXJm", "");
        check("a\r\nb\tc\0d\x08\x7f", "a  b cd");
        check("\u{202e}gnp.exe\u{202c}\u{200b}", "gnp.exe");
        check("  \n x \n ", "x");
        check(&"x".repeat(1000), &"x".repeat(40));
        check("\x1b", "");
        check("\x1b[", "");
        check("<b>&", "<b>&");
    }

    #[test]
    fn only_host_names_are_host_names() {
        for good in ["web01", "web01.example.org", "WIN-4711"] {
            assert_eq!(GuestText::new(good).as_host_name(), Some(good));
        }
        for bad in ["", ".", "a..b", "-rf", "a b", "a/b", "é", "$(x)", &"a.".repeat(200)] {
            assert_eq!(GuestText::new(bad).as_host_name(), None, "{bad:?}");
        }
    }

    #[test]
    fn a_list_is_cut_but_must_be_well_formed() {
        let long = format!("[{}0]", "1,".repeat(10_000));
        let list: ShortList<u8> = serde_json::from_str(&long).unwrap();
        assert_eq!(list.len(), MAX_ENTRIES);
        assert!(serde_json::from_str::<ShortList<u8>>("[1,2").is_err());
    }

    proptest! {
        #[test]
        fn whatever_comes_in_safe_text_comes_out(text in any::<String>(), max in 0usize..50) {
            let safe = sanitize(&text, max);
            prop_assert!(safe.chars().count() <= max);
            prop_assert!(!safe.chars().any(|c| c.is_control() || is_invisible(c)));
            prop_assert_eq!(&sanitize(&safe, max), &safe);
        }
    }
}
