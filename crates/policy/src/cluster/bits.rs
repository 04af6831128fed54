//! Sets of hosts, one bit each: what filters are combined with.

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bits {
    words: Vec<u64>,
    len: usize,
}

impl Bits {
    pub(crate) fn none(len: usize) -> Self {
        Self { words: vec![0; len.div_ceil(64)], len }
    }

    pub(crate) fn all(len: usize) -> Self {
        let mut bits = Self { words: vec![u64::MAX; len.div_ceil(64)], len };
        if let Some(last) = bits.words.last_mut().filter(|_| !len.is_multiple_of(64)) {
            *last = (1 << (len % 64)) - 1;
        }
        bits
    }

    pub(crate) fn of(len: usize, members: impl IntoIterator<Item = u32>) -> Self {
        let mut bits = Self::none(len);
        members.into_iter().for_each(|at| bits.insert(at as usize));
        bits
    }

    pub(crate) fn insert(&mut self, at: usize) {
        self.words[at / 64] |= 1 << (at % 64);
    }

    pub(crate) fn has(&self, at: usize) -> bool {
        self.words[at / 64] >> (at % 64) & 1 == 1
    }

    pub(crate) fn and(&mut self, other: &Self) {
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word &= other;
        }
    }

    pub(crate) fn and_not(&mut self, other: &Self) {
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word &= !other;
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub(crate) fn ones(&self) -> impl Iterator<Item = usize> {
        self.range(0, self.len)
    }

    /// All members once, beginning at `start` and going round.
    pub(crate) fn ones_from(&self, start: usize) -> impl Iterator<Item = usize> {
        let start = start.min(self.len);
        self.range(start, self.len).chain(self.range(0, start))
    }

    fn range(&self, from: usize, to: usize) -> impl Iterator<Item = usize> {
        let mut at = from / 64;
        let mut word = self.words.get(at).copied().unwrap_or(0) & (u64::MAX << (from % 64));
        std::iter::from_fn(move || {
            while word == 0 {
                at += 1;
                if at * 64 >= to {
                    return None;
                }
                word = self.words[at];
            }
            let found = at * 64 + word.trailing_zeros() as usize;
            word &= word - 1;
            (found < to).then_some(found)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_come_once_and_in_order_from_anywhere() {
        for len in [0, 1, 63, 64, 65, 200] {
            let mut bits = Bits::none(len);
            let members: Vec<_> = (0..len).filter(|at| at % 3 == 1).collect();
            members.iter().for_each(|at| bits.insert(*at));
            assert_eq!(bits.ones().collect::<Vec<_>>(), members);
            assert_eq!(bits.count(), members.len());
            assert_eq!(Bits::all(len).count(), len);
            for start in 0..=len {
                let (before, after): (Vec<_>, Vec<_>) =
                    members.iter().copied().partition(|at| *at < start);
                let expected: Vec<_> = after.into_iter().chain(before).collect();
                assert_eq!(bits.ones_from(start).collect::<Vec<_>>(), expected, "{len} {start}");
            }
        }
    }
}
