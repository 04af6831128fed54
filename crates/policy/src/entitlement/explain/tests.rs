//! The sentences, word for word, and that their numbers are those of the division.

use hostler_types::ByteSize;

use super::super::tests::{Case, case, pool, vm};
use super::*;

fn pools(case: &Case) -> Vec<String> {
    let (tree, entitlements) = (case.tree(), case.entitle());
    let all = (0..tree.pools().len()).map(|at| explain_pool(&tree, &entitlements, at).unwrap());
    all.map(|explanation| explanation.to_string()).collect()
}

fn vms(case: &Case) -> Vec<NodeExplanation> {
    let (tree, entitlements) = (case.tree(), case.entitle());
    (0..tree.vms().len()).map(|at| explain_vm(&tree, &entitlements, at).unwrap()).collect()
}

/// Two pools; in the first one reservation that matters and one demand that is met.
fn contended() -> Case {
    let pools = vec![pool(0, None, 1, 0), pool(1, Some(0), 2_000, 0), pool(2, Some(0), 1_000, 0)];
    let vms = vec![
        vm(1, 1, 100, 3_000, 8_000),
        vm(2, 1, 1_000, 0, 8_000),
        vm(3, 1, 1_000, 0, 8_000),
        vm(4, 2, 1_000, 0, 8_000),
    ];
    case(pools, vms, &[8_000, 300, 8_000, 8_000], 9_000)
}

#[test]
fn the_arithmetic_of_contention_is_told() {
    assert_eq!(
        pools(&contended()),
        [
            "resource pool `root` is entitled to 9000MHz of CPU: what the cluster has, and it can use \
             32000MHz; it demands 24300MHz, 15300MHz more",
            "resource pool `gold` is entitled to 6000MHz of CPU: resource pool `root` has 9000MHz for 2 \
             children with 3000MHz reserved and 24300MHz in demand: by shares, 3000MHz for 1000; its 2000 \
             shares give 6000MHz; it demands 16300MHz, 10300MHz more",
            "resource pool `silver` is entitled to 3000MHz of CPU: resource pool `root` has 9000MHz for \
             2 children with 3000MHz reserved and 24300MHz in demand: by shares, 3000MHz for 1000; its \
             1000 shares give 3000MHz; it demands 8000MHz, 5000MHz more",
        ]
    );
    let explanations = vms(&contended());
    let held: Vec<_> = explanations.iter().map(|explanation| explanation.held).collect();
    assert_eq!(held, [Held::AtReservation, Held::AtDemand, Held::Shares, Held::Shares]);
    assert_eq!(
        explanations[0].to_string(),
        "VM 1 is entitled to 3000MHz of CPU: resource pool `gold` has 6000MHz for 3 children with \
         3000MHz reserved and 16300MHz in demand: by shares, 2700MHz for 1000; its reservation of 3000MHz \
         is more than its 100 shares give; it demands 8000MHz, 5000MHz more"
    );
    let division = explanations[2].division.as_ref().unwrap();
    assert_eq!(
        (division.level, division.reserved),
        (Some(Level { amount: 2_700, weight: 1_000 }), 3_000)
    );
}

#[test]
fn spare_and_scaled_capacity_are_told() {
    let spare = Case { capacity: 31_000, ..contended() };
    assert_eq!(
        vms(&spare)[3].to_string(),
        "VM 4 is entitled to 8000MHz of CPU: resource pool `silver` has 8000MHz for 1 child with \
         0MHz reserved and 8000MHz in demand; its 1000 shares give what it demands"
    );
    let held: Vec<_> = vms(&spare).iter().map(|explanation| explanation.held).collect();
    assert_eq!(held, [Held::AtCeiling, Held::Shares, Held::AtCeiling, Held::AtDemand]);
    let short = Case { capacity: 1_000, ..contended() };
    assert_eq!(
        vms(&short)[0].to_string(),
        "VM 1 is entitled to 1000MHz of CPU: resource pool `gold` has 1000MHz for 3 children with \
         3000MHz reserved: each gets 33.3 % of its reservation; it reserves 3000MHz; it demands \
         8000MHz, 7000MHz more"
    );
    assert_eq!(vms(&short)[0].held, Held::Scaled);
}

#[test]
fn amounts_have_their_unit_and_there_is_nothing_to_explain_elsewhere() {
    let tree = contended().tree();
    let entitlements =
        super::super::entitle(&tree, Resource::Memory, ByteSize::gib(4).bytes(), |_| 0);
    let root = explain_pool(&tree, &entitlements, 0).unwrap().to_string();
    assert!(root.contains("entitled to 0B of memory"), "{root}");
    assert_eq!(explain_pool(&tree, &entitlements, 3), None);
    assert_eq!(explain_vm(&tree, &entitlements, 4), None);
}
