//! The division against its definition, unit by unit, and against the conditions of fairness.

use proptest::prelude::*;

use super::*;
use crate::pools::MOST;

fn claim(weight: u64, low: u64, high: u64) -> Claim {
    Claim { weight, low, high }
}

fn divide(capacity: u64, claims: &[Claim]) -> Vec<u64> {
    Divider::default().divide(capacity, claims).to_vec()
}

fn total(amounts: impl IntoIterator<Item = u64>) -> u128 {
    amounts.into_iter().map(u128::from).sum()
}

/// The definition taken literally: each unit to whom it brings least beyond what the others have
/// for their weight.
fn unit_by_unit(capacity: u64, claims: &[Claim]) -> Vec<u64> {
    let mut given: Vec<u64> = claims.iter().map(|claim| claim.low).collect();
    for _ in given.iter().sum()..capacity {
        let mut next: Option<usize> = None;
        for (at, claim) in claims.iter().enumerate() {
            if claim.weight == 0 || given[at] >= claim.high {
                continue;
            }
            let before = |other: usize| {
                (2 * given[at] + 1) * claims[other].weight < (2 * given[other] + 1) * claim.weight
            };
            if next.is_none_or(before) {
                next = Some(at);
            }
        }
        let Some(next) = next else { break };
        given[next] += 1;
    }
    given
}

/// Whether a division is exact, within bounds and weighted max–min fair up to half a unit: nobody
/// can be given a unit of somebody who has more for his weight.
fn check(capacity: u64, claims: &[Claim], given: &[u64]) -> Result<(), TestCaseError> {
    prop_assert_eq!(claims.len(), given.len());
    for (claim, given) in claims.iter().zip(given) {
        prop_assert!((claim.low..=claim.high).contains(given), "{} for {:?}", given, claim);
    }
    let low = total(claims.iter().map(|claim| claim.low));
    let high = total(claims.iter().map(Claim::most));
    prop_assert_eq!(total(given.iter().copied()), u128::from(capacity).clamp(low, high));
    for (poor, less) in claims.iter().zip(given).filter(|(claim, less)| **less < claim.most()) {
        for (rich, more) in claims.iter().zip(given).filter(|(claim, more)| **more > claim.low) {
            let last = (2 * u128::from(*more) - 1) * u128::from(poor.weight);
            let next = (2 * u128::from(*less) + 1) * u128::from(rich.weight);
            prop_assert!(last <= next, "{rich:?} has {more}, {poor:?} only {less}");
        }
    }
    Ok(())
}

/// What each would get if units could be cut, by halving an interval of levels.
fn ideal(capacity: f64, claims: &[Claim]) -> Vec<f64> {
    let at = |level: f64| {
        let each = move |claim: &Claim| {
            (claim.weight as f64 * level).clamp(claim.low as f64, claim.high as f64)
        };
        claims.iter().map(each).collect::<Vec<_>>()
    };
    let (mut from, mut to) = (0.0, 1e12);
    for _ in 0..200 {
        let middle = f64::midpoint(from, to);
        if at(middle).iter().sum::<f64>() <= capacity { from = middle } else { to = middle }
    }
    at(from)
}

fn any_claim(most: u64) -> impl Strategy<Value = Claim> {
    let weight = prop_oneof![Just(0), 1..4_u64, 1..=most];
    (weight, 0..=most, 0..=most)
        .prop_map(|(weight, one, other)| claim(weight, one.min(other), one.max(other)))
}

/// Claims, some of them alike, and an amount that is often between all low and all high.
fn instance(most: u64, count: usize) -> impl Strategy<Value = (Vec<Claim>, u64)> {
    let claims = prop::collection::vec(any_claim(most), 0..count);
    let alike = (any_claim(most), 0..count).prop_map(|(claim, count)| vec![claim; count]);
    (claims, alike, 0..=1_000_u64).prop_map(move |(mut claims, alike, part)| {
        claims.extend(alike);
        let low = total(claims.iter().map(|claim| claim.low));
        let high = total(claims.iter().map(|claim| claim.high));
        let capacity = low + (high - low) * u128::from(part) / 990;
        (claims, u64::try_from(capacity).unwrap_or(MOST).min(MOST))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn is_the_definition_unit_by_unit((claims, capacity) in instance(12, 8)) {
        prop_assert_eq!(divide(capacity, &claims), unit_by_unit(capacity, &claims));
    }

    #[test]
    fn is_exact_bounded_and_fair((claims, capacity) in instance(1 << 20, 40)) {
        check(capacity, &claims, &divide(capacity, &claims))?;
    }

    #[test]
    fn does_not_overflow((claims, capacity) in instance(MOST, 20)) {
        check(capacity, &claims, &divide(capacity, &claims))?;
    }

    #[test]
    fn is_near_the_ideal((claims, capacity) in instance(100_000, 40)) {
        let claims: Vec<_> = claims.into_iter().filter(|claim| claim.weight > 0).collect();
        let low = total(claims.iter().map(|claim| claim.low));
        let high = total(claims.iter().map(|claim| claim.high));
        let capacity = u64::try_from(u128::from(capacity).clamp(low, high)).unwrap();
        let most = claims.len() as f64 / 2.0 + 1e-3;
        for (given, ideal) in divide(capacity, &claims).iter().zip(ideal(capacity as f64, &claims)) {
            prop_assert!((*given as f64 - ideal).abs() <= most, "{} instead of {}", given, ideal);
        }
    }

    #[test]
    fn more_takes_nothing_from_anybody((claims, capacity) in instance(50, 12), more in 0..40_u64) {
        let (before, after) = (divide(capacity, &claims), divide(capacity + more, &claims));
        for (before, after) in before.iter().zip(&after) {
            prop_assert!(before <= after, "{} became {}", before, after);
        }
    }

    #[test]
    fn only_the_ratio_of_weights_counts((claims, capacity) in instance(10_000, 20), times in 1..50_u64) {
        let heavier: Vec<_> =
            claims.iter().map(|c| claim(c.weight * times, c.low, c.high)).collect();
        prop_assert_eq!(divide(capacity, &claims), divide(capacity, &heavier));
    }

    #[test]
    fn in_a_finer_unit_it_is_the_same((claims, capacity) in instance(10_000, 20), times in 2..1_000_u64) {
        let finer: Vec<_> =
            claims.iter().map(|c| claim(c.weight, c.low * times, c.high * times)).collect();
        let given = divide(capacity, &claims);
        // Each is off its ideal by at most half as many units as there are claims.
        let most = (times + 1) * (claims.len() as u64) / 2 + 1;
        for (coarse, fine) in given.iter().zip(divide(capacity * times, &finer)) {
            prop_assert!((coarse * times).abs_diff(fine) <= most, "{coarse} · {times}, {fine}");
        }
    }
}

/// Bounds in a geometric row, rising and falling, are what a bracket narrows down most slowly.
#[test]
fn long_rows_are_divided_right() {
    let mut claims = Vec::new();
    for step in 0..600_u64 {
        let size = 1_u64 << (step % 60);
        claims.push(claim(1 + step % 7, size / 3, size));
        claims.push(claim(size, 0, 5 + step));
    }
    let most = total(claims.iter().map(|claim| claim.high)).min(MOST.into());
    for part in 1..40 {
        let capacity = u64::try_from(most * part / 40).unwrap();
        check(capacity, &claims, &divide(capacity, &claims)).unwrap();
    }
}

#[test]
fn shares_of_two_to_one_give_two_to_one() {
    let free = |weight| claim(weight, 0, 1_000);
    assert_eq!(divide(900, &[free(1), free(2)]), [300, 600]);
    assert_eq!(divide(100, &[free(1_000), free(500)]), [67, 33]);
    // Low, normal, high.
    assert_eq!(divide(700, &[free(500), free(1_000), free(2_000)]), [100, 200, 400]);
}

#[test]
fn bounds_hold_and_the_others_share_the_rest() {
    let free = claim(1, 0, 1_000);
    let (limited, reserved) = (claim(1, 0, 10), claim(1, 60, 1_000));
    assert_eq!(divide(100, &[free, limited, free]), [45, 10, 45]);
    assert_eq!(divide(100, &[free, reserved, free]), [20, 60, 20]);
    assert_eq!(divide(100, &[claim(0, 5, 1_000), free]), [5, 95]);
}

#[test]
fn of_equals_the_first_get_what_cannot_be_cut() {
    let alike = vec![claim(3, 0, 10); 5];
    assert_eq!(divide(8, &alike), [2, 2, 2, 1, 1]);
    assert_eq!(divide(11, &alike), [3, 2, 2, 2, 2]);
}

/// With largest remainders, the third would get 2 of 10 units but only 1 of 11.
#[test]
fn there_is_no_alabama_paradox() {
    let free = |weight| claim(weight, 0, 100);
    let claims = [free(6), free(6), free(2)];
    assert_eq!(divide(10, &claims)[2], 1);
    assert!((10..60).all(|units| divide(units, &claims)[2] <= divide(units + 1, &claims)[2]));
}

#[test]
fn nothing_and_too_much_are_divided_as_well() {
    assert_eq!(divide(10, &[]), [0; 0]);
    assert_eq!(divide(0, &[claim(1, 0, 5), claim(2, 0, 0)]), [0, 0]);
    assert_eq!(divide(1_000, &[claim(1, 0, 5), claim(2, 3, 7)]), [5, 7]);
    assert_eq!(divide(2, &[claim(1, 2, 5), claim(2, 3, 7)]), [2, 3]);
    // The second's ideal is a hair below one.
    assert_eq!(divide(MOST, &[claim(MOST, 0, MOST), claim(1, 0, MOST)]), [MOST - 1, 1]);
}

/// Rounded by itself, the large one gets 30 of 48 and the small ones nothing; or 70, and they one
/// each, of 112. What is off is all its own, before any of theirs.
#[test]
fn one_may_be_off_by_many_units() {
    let mut claims = vec![claim(1, 0, 100); 60];
    claims.push(claim(100, 0, 100));
    for (capacity, large, small) in [(48, 48, 0), (112, 52, 1)] {
        let given = divide(capacity, &claims);
        assert_eq!((given[60], given[0]), (large, small));
        assert_eq!(given, unit_by_unit(capacity, &claims));
    }
}
