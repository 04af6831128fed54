//! From `policy`'s explanations to those that are shown.

use hostler_policy::cluster::Cluster;
use hostler_policy::placement::{Explained, FilterCount, Scored, WhyNot};
use hostler_policy::rules::{Strength, Violation};
use hostler_types::{
    PlacementExplanation, PlacementFilter, PlacementObstacle, PlacementScore, PlacementWhyNot,
    RuleStrength, RuleViolation,
};

pub(crate) fn explanation(explained: Explained) -> PlacementExplanation {
    let sentences = explained.sentences();
    let Explained { vm, chosen, current: _, hosts, filters, candidates, possible } = explained;
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let filter = |FilterCount { filter, hosts, example }| PlacementFilter {
        filter,
        hosts: count(hosts),
        example,
    };
    PlacementExplanation {
        vm,
        chosen,
        hosts: count(hosts),
        possible: count(possible),
        filters: filters.into_iter().map(filter).collect(),
        candidates: candidates.into_iter().map(score).collect(),
        sentences,
    }
}

pub(crate) fn score(scored: Scored) -> PlacementScore {
    PlacementScore {
        host: scored.host,
        cost: scored.cost,
        room: scored.room,
        broken_wishes: scored.broken_wishes,
        deficit: scored.deficit,
        memory_left: scored.memory_left,
        vcpus_left: scored.vcpus_left,
        datastore: scored.datastore,
        datastore_free: scored.datastore_free,
    }
}

/// `scores` are those of the host, if it can take the VM, and of the one where it is.
pub(crate) fn why_not(
    names: (String, String, String),
    told: WhyNot,
    scores: Vec<Scored>,
) -> PlacementWhyNot {
    let (vm, host, current) = names;
    let obstacles = told.obstacles.iter().zip(told.sentences);
    let obstacles = obstacles.map(|(obstacle, sentence)| PlacementObstacle {
        filter: obstacle.filter().to_owned(),
        sentence,
    });
    PlacementWhyNot {
        vm,
        host,
        current,
        fits: told.obstacles.is_empty(),
        obstacles: obstacles.collect(),
        would_fit_without: told.would_fit_without,
        smallest_change: told.smallest_change,
        scores: scores.into_iter().map(score).collect(),
    }
}

pub(crate) fn violation(cluster: &Cluster, violation: Violation) -> RuleViolation {
    let names = violation.vms.iter();
    let names = names.map(|vm| cluster.vm_name(*vm).map_or_else(|| vm.to_string(), str::to_owned));
    RuleViolation {
        vms: names.collect(),
        rule: violation.rule,
        strength: match violation.strength {
            Strength::Must => RuleStrength::Must,
            Strength::Should => RuleStrength::Should,
        },
        sentence: violation.sentence,
    }
}
