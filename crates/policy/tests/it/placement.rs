//! Placement against the checker.

use hostler_policy::cluster::{Cluster, ClusterVm, HostCondition};
use hostler_policy::placement::{BatchRefusal, Choosing, explain, place_all, why_not};
use proptest::prelude::*;

use crate::checker::{all_possible, faults, possible, with_placed, worse};
use crate::tape::{Tape, cluster, disorder, new_vm, tape};

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(2_000))]

    #[test]
    fn a_vm_is_placed_soundly_whenever_a_host_can_take_it(numbers in tape(), messy in any::<bool>()) {
        let mut tape = Tape::new(numbers);
        let mut snapshot = if messy { disorder(&mut tape, 8) } else { cluster(&mut tape, 8) };
        for number in 0..4 {
            let vm = new_vm(&mut tape, format!("new{number}"), 100 + number);
            let mut index = Cluster::build(&snapshot).unwrap();
            let options = possible(&snapshot, &vm);
            let choosing = Choosing { seed: tape.next(100), window: 1 + usize::try_from(tape.next(3)).unwrap() };
            match place_all(&mut index, std::slice::from_ref(&vm), choosing) {
                Ok(placed) => {
                    let at = (placed[0].host, placed[0].datastore);
                    prop_assert!(options.contains(&at), "{at:?} is none of {options:?}");
                    snapshot = with_placed(&snapshot, &vm, at.0, at.1).unwrap();
                }
                Err(BatchRefusal::NoHost { .. }) => prop_assert!(options.is_empty(), "{options:?}"),
                Err(other) => prop_assert!(false, "{other}"),
            }
        }
    }

    /// The part that a record keeps decides as the whole, also about several VMs.
    #[test]
    fn a_part_decides_as_the_whole(numbers in tape(), messy in any::<bool>()) {
        let mut tape = Tape::new(numbers);
        let snapshot = if messy { disorder(&mut tape, 8) } else { cluster(&mut tape, 8) };
        let vms: Vec<_> =
            (0..3).map(|number| new_vm(&mut tape, format!("new{number}"), 100 + number)).collect();
        let mut whole = Cluster::build(&snapshot).unwrap();
        let concerned = whole.concerned(&vms).unwrap();
        let listed = snapshot.vms.iter().filter(|vm| concerned.vms.contains(&vm.id)).cloned();
        let mut frame = snapshot.clone();
        frame.rules.retain(|rule| concerned.rules.contains(&rule.name));
        let part = whole.part(frame, listed.collect(), &vms);
        let mut part = Cluster::build(&part).unwrap();
        let choosing = Choosing { seed: tape.next(100), window: 1 + usize::try_from(tape.next(3)).unwrap() };
        let (from_whole, from_part) =
            (place_all(&mut whole, &vms, choosing), place_all(&mut part, &vms, choosing));
        prop_assert_eq!(from_whole.is_ok(), from_part.is_ok());
        if let Ok(placed) = from_whole {
            prop_assert_eq!(placed, from_part.unwrap());
        }
    }

    /// Hosts and datastores that are taken over are as if the cluster were built anew.
    #[test]
    fn what_is_taken_over_counts_as_what_is_built(numbers in tape()) {
        let mut tape = Tape::new(numbers);
        let mut snapshot = cluster(&mut tape, 8);
        let vm = new_vm(&mut tape, "new0".to_owned(), 100);
        let mut kept = Cluster::build(&snapshot).unwrap();
        // What was found about hosts before must not be answered from.
        let before = kept.adopt(&vm).unwrap();
        let _ = explain(&kept, before, Choosing::thorough());
        kept.remove(before);
        for at in 0..snapshot.hosts.len() {
            let host = &mut snapshot.hosts[at];
            match tape.next(5) {
                0 => host.condition = HostCondition::Maintenance,
                1 => host.memory.0 /= 2,
                2 => host.networks.clear(),
                3 => host.datastores.iter_mut().for_each(|own| own.ready = !own.ready),
                _ => drop(host.datastores.pop()),
            }
            prop_assert!(kept.refresh_host(&snapshot.hosts[at]));
        }
        for store in &mut snapshot.datastores {
            store.maintenance = tape.next(2) == 0;
            prop_assert!(kept.refresh_store(store));
        }
        let mut built = Cluster::build(&snapshot).unwrap();
        let (own, other) = (kept.adopt(&vm).unwrap(), built.adopt(&vm).unwrap());
        let thorough = Choosing::thorough();
        prop_assert_eq!(explain(&kept, own, thorough), explain(&built, other, thorough));
    }

    #[test]
    fn explanations_say_what_the_checker_says(numbers in tape(), messy in any::<bool>()) {
        let mut tape = Tape::new(numbers);
        let snapshot = if messy { disorder(&mut tape, 8) } else { cluster(&mut tape, 8) };
        let vm = new_vm(&mut tape, "new0".to_owned(), 100);
        let mut index = Cluster::build(&snapshot).unwrap();
        let options = possible(&snapshot, &vm);
        let listed = index.adopt(&vm).unwrap();
        let explained = explain(&index, listed, Choosing::thorough());
        for host in &snapshot.hosts {
            let why = why_not(&index, listed, index.host(host.id).unwrap());
            let can = options.iter().any(|(own, _)| *own == host.id);
            prop_assert_eq!(why.obstacles.is_empty(), can, "{}: {:?}", host.name, why);
            prop_assert_eq!(why.sentences.len(), why.obstacles.len());
            // Whatever it says would make room does.
            if !why.would_fit_without.is_empty() {
                let mut without = snapshot.clone();
                without.vms.retain(|own| !why.would_fit_without.contains(&own.name));
                prop_assert!(possible(&without, &vm).iter().any(|(own, _)| *own == host.id), "{:?}", why);
            }
        }
        prop_assert_eq!(explained.chosen.is_some(), explained.possible > 0);
        // The best of all is chosen when all are looked at.
        if let (Some(chosen), Some(best)) = (&explained.chosen, explained.candidates.first()) {
            prop_assert_eq!(chosen, &best.host);
        }
    }

    #[test]
    fn the_order_of_hosts_and_vms_changes_nothing(numbers in tape(), seed in any::<u64>()) {
        let mut tape = Tape::new(numbers);
        let snapshot = cluster(&mut tape, 8);
        let vms: Vec<_> = (0..3).map(|n| new_vm(&mut tape, format!("new{n}"), 100 + n)).collect();
        let decided = |snapshot| {
            let mut index = Cluster::build(snapshot).unwrap();
            let placed = place_all(&mut index, &vms, Choosing { seed, window: 2 });
            serde_json::to_string(&placed.map_err(|refusal| refusal.to_string())).unwrap()
        };
        let mut turned = snapshot.clone();
        turned.hosts.reverse();
        turned.vms.reverse();
        turned.datastores.reverse();
        prop_assert_eq!(decided(&snapshot), decided(&snapshot));
        prop_assert_eq!(decided(&snapshot), decided(&turned));
    }

    /// With other ids the hosts are in another order, and only equal hosts may change places.
    #[test]
    fn the_ids_of_hosts_decide_only_between_equals(numbers in tape()) {
        let mut tape = Tape::new(numbers);
        let snapshot = cluster(&mut tape, 8);
        let vm = new_vm(&mut tape, "new0".to_owned(), 100);
        let mut renamed = snapshot.clone();
        let ids: Vec<_> = snapshot.hosts.iter().map(|host| host.id).rev().collect();
        let new_id = |id| ids[snapshot.hosts.iter().position(|host| host.id == id).unwrap()];
        for host in &mut renamed.hosts {
            host.id = new_id(host.id);
        }
        for vm in &mut renamed.vms {
            vm.host = vm.host.map(new_id);
        }
        let cost = |snapshot| {
            let mut index = Cluster::build(snapshot).unwrap();
            let listed = index.adopt(&vm).unwrap();
            let explained = explain(&index, listed, Choosing::thorough());
            let chosen = explained.candidates.iter().find(|host| Some(&host.host) == explained.chosen.as_ref());
            (explained.possible, chosen.map(|host| host.cost))
        };
        prop_assert_eq!(cost(&snapshot), cost(&renamed));
    }
}

proptest! {
    #![proptest_config(cases(600))]

    #[test]
    fn a_batch_is_placed_as_a_whole_or_not_at_all(numbers in tape()) {
        let mut tape = Tape::new(numbers);
        let snapshot = cluster(&mut tape, 6);
        let vms: Vec<ClusterVm> =
            (0..1 + tape.next(4)).map(|n| new_vm(&mut tape, format!("new{n}"), 100 + n)).collect();
        let mut index = Cluster::build(&snapshot).unwrap();
        let before = faults(&snapshot);
        match place_all(&mut index, &vms, Choosing::seeded(tape.next(100))) {
            Ok(placed) => {
                prop_assert_eq!(placed.len(), vms.len());
                let mut after = snapshot.clone();
                for placed in placed {
                    let vm = vms.iter().find(|vm| vm.id == placed.vm).unwrap();
                    let next = with_placed(&after, vm, placed.host, placed.datastore);
                    after = next.expect("the datastore takes it");
                }
                prop_assert_eq!(worse(&before, &faults(&after)), Vec::<String>::new());
            }
            Err(refusal) => {
                prop_assert_eq!(index.vms(), snapshot.vms.len());
                let proved = !matches!(refusal, BatchRefusal::NotFound { .. });
                prop_assert!(!(proved && all_possible(&snapshot, &vms)), "{}", refusal);
                // Nothing is left behind: a second try on the same index says the same.
                let again = place_all(&mut index, &vms, Choosing::seeded(1));
                prop_assert_eq!(again.is_err(), true);
            }
        }
    }
}
