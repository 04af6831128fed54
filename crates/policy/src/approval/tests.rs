//! Approval rules: which fit, whose approvals count, and that nobody approves alone what he asks for.

use hostler_types::{UserId, VmCreate};
use jiff::Timestamp;
use proptest::prelude::*;

use super::*;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn requester(name: &str) -> Requester {
    Requester { name: name.to_owned(), user: None }
}

fn facts() -> RequestFacts {
    RequestFacts {
        requester: requester("anna"),
        cpus: 4,
        memory: ByteSize::gib(8),
        disk: ByteSize::gib(20),
        labels: Labels::from([("tier".to_owned(), "web".to_owned())]),
        images: vec![name("tiny")],
        templates: Vec::new(),
        customization_specs: Vec::new(),
        networks: vec![name("default")],
        bridges: Vec::new(),
        scripts: false,
        addresses: false,
        placement: false,
    }
}

fn by(name: &str, role: Role) -> Approval {
    Approval { by: requester(name), role, at: Timestamp::UNIX_EPOCH, comment: None }
}

fn rule(when: &str, need: &str) -> ApprovalRuleSpec {
    ApprovalRuleSpec {
        when: serde_json::from_str(when).unwrap(),
        need: serde_json::from_str(need).unwrap(),
    }
}

fn missing(rules: &[(Name, ApprovalRuleSpec)], approvals: &[Approval]) -> u32 {
    let decision = decide(&facts(), rules, &ApprovalNeed::default(), approvals);
    let missing = decision.rules.iter().map(|verdict| verdict.missing).max().unwrap();
    assert_eq!(decision.approved, missing == 0);
    missing
}

#[test]
fn without_rules_one_admin_decides_who_has_not_asked() {
    assert_eq!(missing(&[], &[]), 1);
    assert_eq!(missing(&[], &[by("olga", Role::Operator)]), 1);
    assert_eq!(missing(&[], &[by("anna", Role::Admin)]), 1, "her own");
    assert_eq!(missing(&[], &[by("bert", Role::Admin)]), 0);
}

#[test]
fn all_fitting_rules_count_and_one_person_counts_once_in_each() {
    let rules = [
        (name("large"), rule(r#"{"min_cpus": 4}"#, r#"{"approvals": 2, "role": "operator"}"#)),
        (name("none"), rule(r#"{"max_cpus": 64}"#, r#"{"approvals": 0}"#)),
        (name("other"), rule(r#"{"selector": {"tier": "db"}}"#, r#"{"approvals": 9}"#)),
        (
            name("web"),
            rule(r#"{"images": ["tiny"]}"#, r#"{"approvers": ["carl"], "role": "viewer"}"#),
        ),
    ];
    assert_eq!(missing(&rules, &[by("bert", Role::Admin), by("bert", Role::Admin)]), 1);
    let two = [by("bert", Role::Admin), by("olga", Role::Operator)];
    assert_eq!(missing(&rules, &two), 1, "carl is missing");
    let three = [two[0].clone(), two[1].clone(), by("carl", Role::Viewer)];
    assert_eq!(missing(&rules, &three), 0);
    assert_eq!(missing(&rules[1..2], &[]), 0, "a rule for no approval replaces the default");
    assert_eq!(missing(&rules[2..3], &[]), 1, "a rule that does not fit does not");
}

#[test]
fn it_is_told_which_rules_fit_and_why() {
    let check = |when: &str, fits: bool, why: &str| {
        let rules = [(name("r"), rule(when, "{}"))];
        let decision = decide(&facts(), &rules, &ApprovalNeed::default(), &[]);
        let verdict = &decision.rules[0];
        assert_eq!((verdict.fits, verdict.why.as_str()), (fits, why), "{when}");
    };
    check("{}", true, "it is about every request");
    check(r#"{"min_memory": "8GiB", "max_disk": "20GiB"}"#, true, "8GiB memory, 20GiB disk");
    check(r#"{"min_memory": "9GiB"}"#, false, "8GiB memory are less than 9GiB");
    check(r#"{"max_disk": "19GiB"}"#, false, "20GiB disk are more than 19GiB");
    check(r#"{"max_cpus": 2}"#, false, "4 CPUs are more than 2");
    check(r#"{"selector": {"tier": "db"}}"#, false, "the VM has no label tier=db");
    check(r#"{"images": ["debian"]}"#, false, "it uses none of the rule's images");
    check(r#"{"requesters": ["bert"]}"#, false, "`anna` is none of the rule's requesters");
    check(r#"{"requesters": ["anna"]}"#, true, "asked for by anna");
}

/// What a rule that asks for nobody does not name, it does not let through.
#[test]
fn a_rule_for_nobody_fits_only_what_it_names() {
    let all = RequestFacts {
        templates: vec![name("golden")],
        customization_specs: vec![name("domain")],
        networks: vec![name("default"), name("office"), name("dmz")],
        bridges: vec![name("office"), name("dmz")],
        scripts: true,
        ..facts()
    };
    let check = |when: &str, approvals: u32, expected: &str| {
        let need = format!(r#"{{"approvals": {approvals}}}"#);
        let rules = [(name("r"), rule(when, &need))];
        let decision = decide(&all, &rules, &ApprovalNeed::default(), &[]);
        assert_eq!(decision.rules[0].why, expected, "{when}");
        assert_eq!(decision.approved, approvals == 0 && decision.rules[0].fits, "{when}");
        decision.rules[0].fits
    };
    let lacks = |what: &str| format!("it asks for nobody, and does not name the {what}");
    assert!(!check("{}", 0, &lacks("template `golden`")));
    let when = r#"{"templates": ["golden"]}"#;
    assert!(!check(when, 0, &lacks("customization spec `domain`")));
    let two = r#""templates": ["golden"], "customization_specs": ["domain"]"#;
    let when = format!(r#"{{{two}, "networks": ["office"]}}"#);
    assert!(!check(&when, 0, &lacks("bridged network `dmz`")));
    let three = format!(r#"{two}, "networks": ["dmz", "office"]"#);
    let silent = "it asks for nobody, and is not about what runs in the guest";
    assert!(!check(&format!("{{{three}}}"), 0, silent));
    let when = format!(r#"{{{three}, "scripts": true}}"#);
    let told = "template golden, customization spec domain, network office, network dmz, it runs \
                something in the guest";
    assert!(check(&when, 0, told));
    assert!(check("{}", 1, "it is about every request"), "one that asks for somebody fits");
    assert!(check(r#"{"networks": ["office"]}"#, 1, "network office"));
    assert!(!check(r#"{"networks": ["lab"]}"#, 1, "it uses none of the rule's networks"));
    assert!(!check(r#"{"templates": ["lab"]}"#, 1, "it uses none of the rule's templates"));
    let when = r#"{"customization_specs": ["lab"]}"#;
    assert!(!check(when, 1, "it uses none of the rule's customization specs"));
}

/// Each is seen by itself, and named by itself.
#[test]
fn what_a_request_does_is_named_by_a_rule_for_nobody() {
    let check = |field: &str, all: RequestFacts, unnamed: &str, absent: &str, told: &str| {
        let why = |facts: &RequestFacts, when: &str| {
            let rules = [(name("r"), rule(when, r#"{"approvals": 0}"#))];
            let decision = decide(facts, &rules, &ApprovalNeed::default(), &[]);
            (decision.approved, decision.rules[0].why.clone())
        };
        let when = format!("{{\"{field}\": true}}");
        assert_eq!(
            why(&all, "{}"),
            (false, format!("it asks for nobody, and is not about {unnamed}"))
        );
        assert_eq!(why(&facts(), &when), (false, absent.to_owned()));
        assert_eq!(why(&all, &when), (true, told.to_owned()));
    };
    check(
        "scripts",
        RequestFacts { scripts: true, ..facts() },
        "what runs in the guest",
        "it runs nothing in the guest",
        "it runs something in the guest",
    );
    check(
        "addresses",
        RequestFacts { addresses: true, ..facts() },
        "addresses that are chosen",
        "it chooses no address",
        "it chooses addresses",
    );
    check(
        "placement",
        RequestFacts { placement: true, ..facts() },
        "hosts, datastores and resources that are chosen",
        "it chooses no host, datastore, pool, shares or reservation",
        "it chooses a host, a datastore, a pool, shares or a reservation",
    );
}

#[test]
fn whoever_may_not_approve_is_told_why() {
    let ask = |rules: &[(Name, ApprovalRuleSpec)], approval: &Approval| {
        may_approve(&facts(), rules, &ApprovalNeed::default(), approval)
    };
    let reason = |rules: &[_], approval: &Approval| ask(rules, approval).unwrap_err().join("; ");
    assert_eq!(reason(&[], &by("anna", Role::Admin)), "the default: `anna` has asked for it");
    assert_eq!(reason(&[], &by("olga", Role::Operator)), "the default: the role admin is needed");
    let own = [(name("own"), rule("{}", r#"{"self_approval": true, "role": "viewer"}"#))];
    assert_eq!(ask(&own, &by("anna", Role::Viewer)), Ok(()));
    let boss = [(name("boss"), rule("{}", r#"{"approvers": ["carl"]}"#))];
    let told = reason(&boss, &by("bert", Role::Admin));
    assert_eq!(told, "rule `boss`: `bert` is none of its approvers (carl)");
    // Renamed or made anew, it is the same person.
    let user = Some(UserId::generate());
    let facts = RequestFacts { requester: Requester { name: "a".into(), user }, ..facts() };
    let approval = Approval { by: Requester { name: "b".into(), user }, ..by("", Role::Admin) };
    assert!(may_approve(&facts, &[], &ApprovalNeed::default(), &approval).is_err());
}

fn any_rule() -> impl Strategy<Value = ApprovalRuleSpec> {
    let role = prop_oneof![Just(Role::Viewer), Just(Role::Operator), Just(Role::Admin)];
    let cores = || proptest::option::of((1_u32..8).prop_map(|n| n.try_into().unwrap()));
    let approvers = prop_oneof![Just(vec![]), Just(vec![name("u1"), name("u2"), name("u3")])];
    (cores(), cores(), 0_u32..4, role, approvers, any::<bool>()).prop_map(
        |(min_cpus, max_cpus, approvals, role, approvers, self_approval)| ApprovalRuleSpec {
            when: ApprovalConditions { min_cpus, max_cpus, ..ApprovalConditions::default() },
            need: ApprovalNeed { approvals, role, approvers, self_approval },
        },
    )
}

fn any_approval() -> impl Strategy<Value = Approval> {
    let role = prop_oneof![Just(Role::Viewer), Just(Role::Operator), Just(Role::Admin)];
    (0_u32..5, role).prop_map(|(user, role)| match user {
        0 => by("anna", role),
        user => by(&format!("u{user}"), role),
    })
}

proptest! {
    #[test]
    fn more_approvals_never_hurt_and_more_rules_never_help(
        rules in proptest::collection::vec(any_rule(), 0..4),
        more in any_rule(),
        approvals in proptest::collection::vec(any_approval(), 0..6),
        another in any_approval(),
    ) {
        let named = |rules: &[ApprovalRuleSpec]| -> Vec<(Name, ApprovalRuleSpec)> {
            let named = rules.iter().enumerate();
            named.map(|(index, rule)| (name(&format!("r{index}")), rule.clone())).collect()
        };
        let default = ApprovalNeed::default();
        let before = decide(&facts(), &named(&rules), &default, &approvals);
        let mut plus = approvals.clone();
        plus.push(another);
        prop_assert!(!before.approved || decide(&facts(), &named(&rules), &default, &plus).approved);

        let fitting = before.rules.iter().any(|verdict| verdict.fits && verdict.rule.is_some());
        let mut rules = rules;
        rules.push(more);
        let after = decide(&facts(), &named(&rules), &default, &approvals);
        prop_assert!(!(fitting && after.approved) || before.approved, "{:?} {:?}", before, after);
    }

    #[test]
    fn nobody_approves_their_own_unless_a_rule_says_so(
        mut rules in proptest::collection::vec(any_rule(), 0..4),
        approvals in proptest::collection::vec(any_approval(), 0..6),
    ) {
        for rule in &mut rules {
            rule.need.self_approval = false;
        }
        let rules: Vec<_> =
            rules.into_iter().enumerate().map(|(i, rule)| (name(&format!("r{i}")), rule)).collect();
        let others: Vec<_> =
            approvals.iter().filter(|approval| approval.by.name != "anna").cloned().collect();
        let default = ApprovalNeed::default();
        let decision = decide(&facts(), &rules, &default, &approvals);
        prop_assert_eq!(&decision, &decide(&facts(), &rules, &default, &others));
        for verdict in &decision.rules {
            prop_assert!(!verdict.given.contains(&"anna".to_owned()));
        }
    }
}

#[test]
fn a_vm_of_the_defaults_is_what_rules_see() {
    let (cpus, memory) = (VmCreate::default_cpus().count(), VmCreate::default_memory());
    let facts = RequestFacts { cpus, memory, ..facts() };
    let rules =
        [(name("small"), rule(r#"{"max_cpus": 1, "max_memory": "1GiB"}"#, r#"{"approvals": 0}"#))];
    assert!(decide(&facts, &rules, &ApprovalNeed::default(), &[]).approved);
}
