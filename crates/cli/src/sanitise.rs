//! Makes text from guests and other strangers harmless to a terminal.
//!
//! A guest chooses its host name, what it prints and what its commands answer. Escape sequences in
//! them could rewrite the screen, set the clipboard or type for the user. Here sequences are taken
//! out as a whole, so that what they framed stays readable.

/// One line of text: sequences and control characters are gone, and so is what would reorder it.
pub(crate) fn line(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    Filter::default().feed(text.as_bytes(), &mut bytes);
    let reorders = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    String::from_utf8_lossy(&bytes)
        .chars()
        .filter(|&c| !reorders(c))
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// A filter for a stream of bytes, cut anywhere. Lets through text, tabs and line ends.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    state: State,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// After ESC and an intermediate byte, such as in `ESC ( B`.
    Intermediate,
    /// In `ESC [ …`, until its final byte.
    Control,
    /// In `ESC ] …` and its like, until BEL or `ESC \`.
    String,
    StringEscape,
    /// After the first byte of U+0080 to U+00BF, which begins with the C1 controls.
    Latin,
}

impl Filter {
    /// Appends to `clean` what of `bytes` is harmless.
    pub(crate) fn feed(&mut self, bytes: &[u8], clean: &mut Vec<u8>) {
        for &byte in bytes {
            self.state = self.step(byte, clean);
        }
    }

    fn step(&self, byte: u8, clean: &mut Vec<u8>) -> State {
        const ESC: u8 = 0x1b;
        match (self.state, byte) {
            (State::String, ESC) => State::StringEscape,
            // Line ends do not occur in honest strings: one that never ends must not hide the rest.
            (State::String, 0x07 | b'\n') | (State::StringEscape, b'\\') => State::Text,
            (State::String | State::StringEscape, _) => State::String,
            (_, ESC) => State::Escape,
            (State::Escape, b'[') => State::Control,
            (State::Escape, b']' | b'P' | b'X' | b'^' | b'_') => State::String,
            (State::Escape | State::Intermediate, 0x20..=0x2f) => State::Intermediate,
            (State::Escape | State::Intermediate, 0x30..=0x7e) => State::Text,
            (State::Control, 0x20..=0x3f) => State::Control,
            (State::Control, 0x40..=0x7e) => State::Text,
            (State::Latin, 0x80..=0x9f) => State::Text,
            (State::Latin, _) => {
                clean.push(0xc2);
                Self { state: State::Text }.step(byte, clean)
            }
            (_, 0xc2) => State::Latin,
            (_, b'\n' | b'\t' | b'\r' | 0x20..=0x7e | 0x80..) => {
                clean.push(byte);
                State::Text
            }
            (_, 0x00..=0x1f | 0x7f) => State::Text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_are_taken_out() {
        let check = |dirty: &str, clean: &str| assert_eq!(line(dirty), clean, "{dirty:?}");
        check("web01", "web01");
        check("\x1b[31mred\x1b[0m", "red");
        check("\x1b]0;title\x07after", "after");
        check("\x1b]52;c;ZXZpbA==\x1b\\after", "after");
        check("\x1bPq#0\x1b\\after", "after");
        check("\x1b(Btext", "text");
        check("a\u{9b}31mb", "a31mb");
        check("a\rb\nc\x08", "a b c");
        check("user\u{202e}gpj.exe", "usergpj.exe");
        check("größer £5 日本", "größer £5 日本");
    }

    #[test]
    fn streams_may_be_cut_anywhere() {
        let text = "a\x1b[1;31mb\u{9b}c\x1b]0;t\x1b\\d\u{a3}é\n".as_bytes();
        for cut in 0..text.len() {
            let (mut filter, mut clean) = (Filter::default(), Vec::new());
            filter.feed(&text[..cut], &mut clean);
            filter.feed(&text[cut..], &mut clean);
            assert_eq!(String::from_utf8(clean).unwrap(), "abcd\u{a3}é\n", "cut at {cut}");
        }
    }

    #[test]
    fn a_string_that_never_ends_hides_one_line_only() {
        let (mut filter, mut clean) = (Filter::default(), Vec::new());
        filter.feed(b"\x1b]0;open\nnext", &mut clean);
        assert_eq!(clean, b"next");
    }
}
