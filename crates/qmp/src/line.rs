//! Cuts a byte stream into lines of bounded length, holding no more than one line and one chunk.

use bytes::BytesMut;

/// How many bytes are asked of the socket at once, and how far a line may overshoot its limit
/// before that is noticed.
const CHUNK: usize = 16 * 1024;

/// An empty buffer that has grown beyond this is given back.
const KEEP: usize = 256 * 1024;

/// The line at the front is longer than allowed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LineTooLong;

/// Bytes read so far that do not make a whole line yet.
#[derive(Debug)]
pub(crate) struct LineBuffer {
    bytes: BytesMut,
    /// No newline is among the first `searched` bytes: a long line is searched once, not once per
    /// chunk.
    searched: usize,
    limit: usize,
}

impl LineBuffer {
    /// A buffer for lines of at most `limit` bytes, the newline not counted.
    pub(crate) fn new(limit: usize) -> Self {
        Self { bytes: BytesMut::new(), searched: 0, limit }
    }

    /// Changes the limit for the lines still to come.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Room for the next read. Never empty, at most one chunk.
    pub(crate) fn spare(&mut self) -> bytes::buf::Limit<&mut BytesMut> {
        if self.bytes.is_empty() && self.bytes.capacity() > KEEP {
            self.bytes = BytesMut::new();
        }
        self.bytes.reserve(CHUNK);
        bytes::BufMut::limit(&mut self.bytes, CHUNK)
    }

    /// The next whole line without its newline, if there is one.
    pub(crate) fn next_line(&mut self) -> Result<Option<BytesMut>, LineTooLong> {
        match self.bytes[self.searched..].iter().position(|byte| *byte == b'\n') {
            Some(offset) => {
                let length = self.searched + offset;
                if length > self.limit {
                    return Err(LineTooLong);
                }
                self.searched = 0;
                let mut line = self.bytes.split_to(length + 1);
                line.truncate(length);
                Ok(Some(line))
            }
            None => {
                self.searched = self.bytes.len();
                if self.searched > self.limit { Err(LineTooLong) } else { Ok(None) }
            }
        }
    }

    /// Throws away the line at the front, or as much of it as has been read. Returns whether its
    /// end was seen.
    pub(crate) fn discard_line(&mut self) -> bool {
        let end = self.bytes.iter().position(|byte| *byte == b'\n');
        self.searched = 0;
        match end {
            Some(offset) => drop(self.bytes.split_to(offset + 1)),
            None => self.bytes.clear(),
        }
        end.is_some()
    }

    /// Whether no unread byte is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;
    use proptest::prelude::*;

    use super::*;

    fn feed(buffer: &mut LineBuffer, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let mut spare = buffer.spare();
            let count = bytes.len().min(spare.remaining_mut());
            spare.put_slice(&bytes[..count]);
            bytes = &bytes[count..];
        }
    }

    #[test]
    fn a_line_may_be_as_long_as_the_limit_and_no_longer() {
        let mut buffer = LineBuffer::new(4);
        feed(&mut buffer, b"1234\n12345");
        assert_eq!(buffer.next_line().unwrap().unwrap(), b"1234"[..]);
        assert_eq!(buffer.next_line(), Err(LineTooLong));
        assert!(!buffer.discard_line());
        feed(&mut buffer, b"678\nok\n");
        assert!(buffer.discard_line());
        assert_eq!(buffer.next_line().unwrap().unwrap(), b"ok"[..]);
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_large_buffer_is_given_back() {
        let mut buffer = LineBuffer::new(4 << 20);
        feed(&mut buffer, &vec![b'x'; 2 << 20]);
        feed(&mut buffer, b"\n");
        assert_eq!(buffer.next_line().unwrap().unwrap().len(), 2 << 20);
        buffer.spare();
        assert!(buffer.bytes.capacity() <= KEEP);
    }

    proptest! {
        /// However the stream is cut, the same lines come out.
        #[test]
        fn cutting_does_not_matter(
            lines in prop::collection::vec("[^\n]{0,40}", 0..20),
            cuts in prop::collection::vec(1usize..50, 1..50),
        ) {
            let stream: Vec<u8> = lines.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect();
            let mut buffer = LineBuffer::new(1024);
            let (mut rest, mut seen, mut cut) = (&stream[..], Vec::new(), cuts.iter().cycle());
            while !rest.is_empty() {
                let count = (*cut.next().unwrap()).min(rest.len());
                feed(&mut buffer, &rest[..count]);
                rest = &rest[count..];
                while let Some(line) = buffer.next_line().unwrap() {
                    seen.push(String::from_utf8(line.to_vec()).unwrap());
                }
            }
            prop_assert_eq!(seen, lines);
            prop_assert!(buffer.is_empty());
        }
    }
}
