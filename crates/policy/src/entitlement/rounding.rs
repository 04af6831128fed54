//! Puts right what rounding each claim by itself left over or gave too much.
//!
//! A *mark* is where a claim's next unit stands: `(units + ½) / weight`. A division is right if the
//! marks of all units given lie before the marks of all units not given; rounding at one level makes
//! it so, and adding the units with the first marks, or taking those with the last, keeps it so.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use super::divide::Claim;

/// Settles again and again in the same memory.
#[derive(Debug, Default)]
pub(super) struct Settler {
    marks: Vec<Mark>,
}

impl Settler {
    /// Makes `given`, of which the sum is `sum`, come to `capacity`; it has to be possible. Takes
    /// time by the number of claims, and at worst by its logarithm for each unit that is off.
    pub(super) fn settle(
        &mut self,
        capacity: u128,
        sum: u128,
        claims: &[Claim],
        given: &mut [u64],
    ) {
        let units = usize::try_from(capacity.abs_diff(sum)).unwrap_or(usize::MAX);
        match sum.cmp(&capacity) {
            Ordering::Equal => {}
            Ordering::Less => raise(units, claims, given, &mut self.marks),
            Ordering::Greater => lower(units, claims, given, &mut self.marks),
        }
    }
}

/// `odd / (2 · weight)`, of a unit of a claim. Of equal marks, the earlier claim's is first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    /// Twice the units before it, and one.
    odd: u64,
    weight: u64,
    claim: usize,
}

impl Ord for Mark {
    fn cmp(&self, other: &Self) -> Ordering {
        (u128::from(self.odd) * u128::from(other.weight))
            .cmp(&(u128::from(other.odd) * u128::from(self.weight)))
            .then(self.claim.cmp(&other.claim))
    }
}

impl PartialOrd for Mark {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Gives the units with the first marks.
fn raise(units: usize, claims: &[Claim], given: &mut [u64], marks: &mut Vec<Mark>) {
    let open = |claim: &Claim, given: u64| given < claim.high;
    mark(claims, given, marks, |claim, given| open(claim, given).then(|| 2 * given + 1));
    keep_nearest(units, marks, |mark| Reverse(*mark));
    // Mostly, no claim gets two before another gets one.
    let last = marks.iter().max().copied();
    let again = |mark: &Mark| Some(Mark { odd: mark.odd.saturating_add(2), ..*mark }) < last;
    if marks.len() == units && !marks.iter().any(again) {
        marks.iter().for_each(|mark| given[mark.claim] += 1);
        return;
    }
    let mut first: BinaryHeap<_> = marks.drain(..).map(Reverse).collect();
    for _ in 0..units {
        let Some(mut next) = first.peek_mut() else { return };
        let Mark { claim, .. } = next.0;
        given[claim] += 1;
        if open(&claims[claim], given[claim]) {
            next.0.odd += 2;
        } else {
            PeekMut::pop(next);
        }
    }
}

/// Takes back the units with the last marks.
fn lower(units: usize, claims: &[Claim], given: &mut [u64], marks: &mut Vec<Mark>) {
    let open = |claim: &Claim, given: u64| given > claim.low;
    mark(claims, given, marks, |claim, given| open(claim, given).then(|| 2 * given - 1));
    keep_nearest(units, marks, |mark| *mark);
    let first = marks.iter().min().copied();
    let again = |mark: &Mark| mark.odd > 1 && Some(Mark { odd: mark.odd - 2, ..*mark }) > first;
    if marks.len() == units && !marks.iter().any(again) {
        marks.iter().for_each(|mark| given[mark.claim] -= 1);
        return;
    }
    let mut last: BinaryHeap<_> = marks.drain(..).collect();
    for _ in 0..units {
        let Some(mut next) = last.peek_mut() else { return };
        let Mark { claim, .. } = *next;
        given[claim] -= 1;
        if open(&claims[claim], given[claim]) {
            next.odd -= 2;
        } else {
            PeekMut::pop(next);
        }
    }
}

/// Finds the next mark of each claim that has one.
fn mark(
    claims: &[Claim],
    given: &[u64],
    marks: &mut Vec<Mark>,
    odd: impl Fn(&Claim, u64) -> Option<u64>,
) {
    marks.clear();
    let all = claims.iter().zip(given).enumerate();
    let weighed = all.filter(|(_, (claim, _))| claim.weight > 0);
    marks.extend(weighed.filter_map(|(at, (claim, given))| {
        Some(Mark { odd: odd(claim, *given)?, weight: claim.weight, claim: at })
    }));
}

/// Keeps as many marks as there are units, the greatest by `key`. No other claim can get a unit:
/// these alone are as many marks as units, and all before any of its own.
fn keep_nearest<K: Ord>(units: usize, marks: &mut Vec<Mark>, key: impl Fn(&Mark) -> K) {
    if units < marks.len() {
        marks.select_nth_unstable_by(units, |one, other| key(other).cmp(&key(one)));
        marks.truncate(units);
    }
}
