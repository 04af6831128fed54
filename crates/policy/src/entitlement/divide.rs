//! Divides an amount among claims by weight, within bounds, in whole units.
//!
//! # What is computed
//! Ideally, claim *i* gets `clamp(weightᵢ · λ, lowᵢ, highᵢ)` with the level λ at which everything is
//! given out. In whole units it is a divisor method (Webster's, also Sainte-Laguë's) with bounds:
//! starting from `low`, the units go one by one to the claim with the smallest
//! `(what it has + ½) / weight` that is below its `high`; the earlier claim first, if equal. So each
//! gets its ideal amount at some common level, rounded to the nearest whole.
//!
//! Of the usual ways to round shares, the method of largest remainders (Hamilton's) would stay
//! within one unit of the ideal, but with it a claim can *lose* a unit when there is one more to
//! give out (the Alabama paradox). A divisor method cannot: more capacity never takes anything
//! from anybody. See Balinski and Young, *Fair Representation*, 1982. The price: a claim may be off
//! its ideal by up to half as many units as there are claims. Units are MHz and bytes.
//!
//! # How
//! The level is found by narrowing a bracket of two bounds `low/weight` or `high/weight` down until
//! no other lies between; there the sum is a straight line. Each step looks only at claims that
//! still have a bound inside, and halves their bounds, so that it takes time in proportion to their
//! number. Rounding at that level leaves at most half a unit a claim to be put right
//! (`rounding.rs`). Everything is exact: fractions are compared by cross-multiplying in 128
//! bits.

use super::rounding::Settler;

/// One who gets a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    /// At most [`crate::pools::MOST`], as are the others, and the capacity. One without weight gets `low`.
    pub weight: u64,
    /// Never less than this, unless all `low` together are more than there is.
    pub low: u64,
    /// Never more than this; not below `low`.
    pub high: u64,
}

/// An exact amount per unit of weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    pub amount: u64,
    /// Not zero.
    pub weight: u128,
}

/// How claims come to an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fill {
    /// There is no more than all `low`: everybody gets that.
    Low,
    /// By weight, within the bounds.
    Level(Level),
    /// There is at least all `high`: everybody gets that.
    High,
}

/// Divides again and again in the same memory.
#[derive(Debug, Default)]
pub(super) struct Divider {
    given: Vec<u64>,
    open: Vec<Claim>,
    pivots: Vec<Bound>,
    settler: Settler,
}

impl Divider {
    /// Divides `capacity` among claims; the answer is in their order. What is beyond all `high` is
    /// given to nobody. If it is less than all `low`, everybody gets `low` all the same: the caller
    /// lowers them first.
    pub(super) fn divide(&mut self, capacity: u64, claims: &[Claim]) -> &[u64] {
        self.given.clear();
        let level = match self.fill(capacity, claims) {
            Fill::Level(level) => level,
            Fill::Low => {
                self.given.extend(claims.iter().map(|claim| claim.low));
                return &self.given;
            }
            Fill::High => {
                self.given.extend(claims.iter().map(Claim::most));
                return &self.given;
            }
        };
        let mut sum: u128 = 0;
        self.given.extend(claims.iter().map(|claim| {
            let given = level.rounded(claim);
            sum += u128::from(given);
            given
        }));
        self.settler.settle(capacity.into(), sum, claims, &mut self.given);
        &self.given
    }

    /// At what level claims come to `capacity`.
    pub(super) fn fill(&mut self, capacity: u64, claims: &[Claim]) -> Fill {
        let mut bracket = Bracket::default();
        let (mut low, mut high) = (0_u128, 0_u128);
        self.open.clear();
        for claim in claims {
            low += u128::from(claim.low);
            high += u128::from(claim.most());
            if claim.low < claim.most() {
                self.open.push(*claim);
            } else {
                bracket.settled += u128::from(claim.low);
            }
        }
        if u128::from(capacity) <= low {
            return Fill::Low;
        }
        if u128::from(capacity) >= high {
            return Fill::High;
        }
        let mut stride = 1 + self.open.len() / SAMPLE;
        while let Some(pivot) = self.pivot(&bracket, stride) {
            let before = self.open.len();
            bracket.narrow(pivot, capacity, &mut self.open);
            // A sample that was of no use, by chance or by malice: the next one is of everything.
            let useless = self.open.len() > before - before / 8;
            stride = if useless { 1 } else { 1 + self.open.len() / SAMPLE };
        }
        // The sum grows over `capacity` from one end of the bracket to the other, along a line: so
        // something has weight, and what is settled is less than the capacity.
        debug_assert!(bracket.weight > 0, "a sum that grows along a line has a slope");
        let rest = u128::from(capacity).saturating_sub(bracket.settled);
        let amount = u64::try_from(rest).expect("it is less than the capacity");
        Fill::Level(Level { amount, weight: bracket.weight.max(1) })
    }

    /// A bound inside the bracket with about as many above as below it; none if there is none.
    fn pivot(&mut self, bracket: &Bracket, stride: usize) -> Option<Bound> {
        self.pivots.clear();
        for claim in self.open.iter().step_by(stride) {
            let bounds =
                [claim.low, claim.high].map(|amount| Bound { amount, weight: claim.weight });
            self.pivots.extend(bounds.into_iter().filter(|bound| bracket.holds(*bound)));
        }
        if self.pivots.is_empty() {
            return None;
        }
        let middle = self.pivots.len() / 2;
        let (_, median, _) = self.pivots.select_nth_unstable_by(middle, |one, other| {
            (u128::from(one.amount) * u128::from(other.weight))
                .cmp(&(u128::from(other.amount) * u128::from(one.weight)))
        });
        Some(*median)
    }
}

impl Claim {
    /// The most it can get: without weight, there is nothing to say how much more than `low`.
    fn most(&self) -> u64 {
        if self.weight > 0 { self.high } else { self.low }
    }
}

/// How many claims are looked at for a pivot. Enough that it lies near the middle; few enough that
/// choosing it costs less than using it.
const SAMPLE: usize = 16;

impl Level {
    /// What a claim gets at this level, to the nearest whole; a half is rounded up.
    fn rounded(self, claim: &Claim) -> u64 {
        // At most 2·2⁶³·2⁶³ + 2⁶³·2³² claims: no overflow.
        let twice = 2 * u128::from(claim.weight) * u128::from(self.amount) + self.weight;
        let whole = twice / (2 * self.weight);
        u64::try_from(whole).unwrap_or(u64::MAX).clamp(claim.low, claim.high)
    }
}

/// The level at which a claim reaches its `low` or its `high`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bound {
    amount: u64,
    weight: u64,
}

impl Bound {
    /// Whether a claim of `weight` has at least `amount` at this level.
    fn reaches(self, amount: u64, weight: u64) -> bool {
        u128::from(self.amount) * u128::from(weight) >= u128::from(amount) * u128::from(self.weight)
    }

    /// Whether it has no more than `amount`.
    fn within(self, amount: u64, weight: u64) -> bool {
        u128::from(self.amount) * u128::from(weight) <= u128::from(amount) * u128::from(self.weight)
    }
}

/// Between which bounds the level lies, and what the claims without a bound in there come to.
#[derive(Debug)]
struct Bracket {
    /// The sum here is at most the capacity …
    from: Bound,
    /// … and here it is more.
    to: Option<Bound>,
    /// Of those that are at their `low` or `high` all through.
    settled: u128,
    /// Of those that are between theirs all through.
    weight: u128,
}

impl Default for Bracket {
    fn default() -> Self {
        Self { from: Bound { amount: 0, weight: 1 }, to: None, settled: 0, weight: 0 }
    }
}

impl Bracket {
    /// Whether a bound lies strictly inside.
    fn holds(&self, bound: Bound) -> bool {
        !self.from.reaches(bound.amount, bound.weight)
            && self.to.is_none_or(|to| !to.within(bound.amount, bound.weight))
    }

    /// Makes the bracket end at a bound inside it, and takes out the claims that have none left.
    fn narrow(&mut self, pivot: Bound, capacity: u64, open: &mut Vec<Claim>) {
        if self.fits(pivot, capacity, open) {
            self.from = pivot;
        } else {
            self.to = Some(pivot);
        }
        let (from, to) = (self.from, self.to);
        open.retain(|claim| {
            let Claim { weight, low, high } = *claim;
            if from.reaches(high, weight) {
                self.settled += u128::from(high);
            } else if to.is_some_and(|to| to.within(low, weight)) {
                self.settled += u128::from(low);
            } else if from.reaches(low, weight) && to.is_some_and(|to| to.within(high, weight)) {
                self.weight += u128::from(weight);
            } else {
                return true;
            }
            false
        });
    }

    /// Whether the sum at a level is at most the capacity.
    fn fits(&self, pivot: Bound, capacity: u64, open: &[Claim]) -> bool {
        let (mut fixed, mut weight) = (self.settled, self.weight);
        for claim in open {
            if pivot.within(claim.low, claim.weight) {
                fixed += u128::from(claim.low);
            } else if pivot.reaches(claim.high, claim.weight) {
                fixed += u128::from(claim.high);
            } else {
                weight += u128::from(claim.weight);
            }
        }
        let Some(rest) = u128::from(capacity).checked_sub(fixed) else { return false };
        // A product beyond 128 bits is beyond the other side, which is below 2¹²⁶.
        let needed = weight.checked_mul(pivot.amount.into());
        needed.is_some_and(|needed| needed <= rest * u128::from(pivot.weight))
    }
}

#[cfg(test)]
mod tests;
