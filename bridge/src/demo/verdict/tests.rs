//! Planted errors: each kind of wrong that the verdict exists for must be found, and named.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

const MDT: &str = "demo-MDT0000";
const CLEARED: u64 = 1_000_000;

fn emitted(life: u32, index: u64) -> Emitted {
    Emitted {
        life,
        index,
        kind: 1,
        time_ns: u64::from(life) * 1_000_000 + index,
        tfid: (0x400, index as u32, 0),
        wall_ns: index,
    }
}

fn clear(upto: u64) -> Entry {
    Entry::Event(Event::Clear {
        received_ns: CLEARED,
        at_ns: CLEARED + 1,
        id: 1,
        text: format!("clear:cl1:{upto}"),
        user: Some(1),
        index: Some(upto),
        before: Some(0),
        after: Some(upto),
        errno: 0,
        life: 1,
    })
}

fn taken_back(from: u64, to: u64) -> Entry {
    Entry::Event(Event::TakenBack { at_ns: 0, life: 2, from, to, reason: "crash".into(), clears: vec![] })
}

fn written(incarnation: u32, e: &Emitted, at_ns: u64) -> Written {
    let object = format!("object {}", e.index % 2);
    Written { at_ns, mdt: MDT.into(), incarnation, index: e.index, object, what: What::Record(Content::of(e)) }
}

fn retraction(incarnation: u32, from: u64, to: u64) -> Written {
    Written {
        at_ns: 0,
        mdt: MDT.into(),
        incarnation: incarnation + 1,
        index: from,
        object: String::new(),
        what: What::Retraction { incarnation, from, to },
    }
}

/// Ten records, written out by two groups, then cleared.
fn good() -> Evidence {
    let records: Vec<Emitted> = (1..=10).map(|i| emitted(1, i)).collect();
    let history = records.iter().map(|e| Entry::Emitted(*e)).chain([clear(10)]).collect();
    let group = |name: &str| GroupEvidence {
        name: name.into(),
        members: vec![records.iter().map(|e| written(1, e, CLEARED - 1)).collect()],
        in_order: true,
    };
    Evidence {
        mdts: vec![MdtEvidence { name: MDT.into(), history, backlog: 0 }],
        groups: vec![group("robinhood"), group("lake")],
        log_starts: vec![LogStart { topic: "lustre.demo-MDT0000".into(), partition: 0, began: 1, now: 1 }],
        exactly_once: true,
        one_sequence: false,
    }
}

/// Record 8 to 10 are taken back after they were published; two others get indexes 8 and 9.
fn crashed() -> Evidence {
    let mut evidence = good();
    let (first, second): (Vec<_>, Vec<_>) =
        ((1..=10).map(|i| emitted(1, i)).collect(), (8..=9).map(|i| emitted(2, i)).collect());
    evidence.mdts[0].history = first.iter().map(|e| Entry::Emitted(*e)).collect();
    evidence.mdts[0].history.push(taken_back(8, 10));
    evidence.mdts[0].history.extend(second.iter().map(|e| Entry::Emitted(*e)));
    evidence.mdts[0].history.push(clear(9));
    for group in &mut evidence.groups {
        group.members[0].push(retraction(1, 8, 10));
        group.members[0].extend(second.iter().map(|e| written(2, e, CLEARED - 1)));
    }
    evidence
}

fn problem(evidence: &Evidence) -> String {
    let problems = judge(evidence).problems;
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems[0].clone()
}

#[test]
fn a_run_in_which_all_went_well_has_no_problem() {
    let verdict = judge(&good());
    assert_eq!(verdict.problems, Vec::<String>::new());
    assert_eq!((verdict.mdts[0].surviving, verdict.mdts[0].clears, verdict.groups[1].records), (10, 1, 10));
}

#[test]
fn a_crash_with_reused_indexes_is_good_when_it_was_retracted_and_told_anew() {
    let verdict = judge(&crashed());
    assert_eq!(verdict.problems, Vec::<String>::new());
    assert_eq!((verdict.mdts[0].taken_back, verdict.mdts[0].surviving, verdict.groups[0].void), (3, 9, 3));
}

#[test]
fn a_record_that_one_group_never_got_is_found() {
    let mut evidence = good();
    // Cleared only up to it, so that only the loss is wrong.
    evidence.mdts[0].history.pop();
    evidence.mdts[0].history.push(clear(4));
    evidence.groups[1].members[0].remove(4);
    assert!(problem(&evidence).starts_with("a record never reached lake: demo-MDT0000 index 5 "));
}

#[test]
fn a_clear_before_a_group_had_written_the_record_out_is_found() {
    let mut evidence = good();
    evidence.groups[0].members[0][6].at_ns = CLEARED + 1;
    assert!(problem(&evidence).starts_with("cleared before robinhood had written it out: demo-MDT0000 index 7 "));
}

#[test]
fn an_acknowledgement_of_a_record_that_was_taken_back_does_not_clear_the_one_with_its_index() {
    let mut evidence = crashed();
    let late = evidence.groups[1].members[0].last_mut().unwrap();
    late.at_ns = CLEARED + 1;
    assert!(problem(&evidence).starts_with("cleared before lake had written it out: demo-MDT0000 index 9 "));
}

#[test]
fn a_clear_that_a_crash_took_back_is_judged_again() {
    let mut evidence = good();
    let history = &mut evidence.mdts[0].history;
    history.push(taken_back(8, 10));
    history.extend((8..=10).map(|i| Entry::Emitted(emitted(2, i))));
    history.push(clear(10));
    let problems = judge(&evidence).problems;
    assert!(problems.iter().any(|p| p.starts_with("cleared before lake had written it out: 3 times")), "{problems:?}");
}

#[test]
fn a_clear_of_index_0_clears_everything_and_is_judged_so() {
    let mut evidence = good();
    evidence.mdts[0].history.pop();
    evidence.mdts[0].history.push(clear(0));
    assert_eq!(judge(&evidence).problems, Vec::<String>::new());
    evidence.groups[0].members[0][9].at_ns = CLEARED + 1;
    assert!(problem(&evidence).starts_with("cleared before robinhood"));
}

#[test]
fn what_did_not_happen_and_was_not_retracted_is_found() {
    let mut evidence = crashed();
    evidence.groups[0].members[0].retain(|w| !matches!(w.what, What::Retraction { .. }));
    let text = problem(&evidence);
    assert!(text.starts_with("robinhood was told what did not happen") && text.contains("3 times"), "{text}");
}

#[test]
fn a_retraction_that_takes_back_what_stands_is_a_loss() {
    let mut evidence = good();
    evidence.groups[0].members[0].push(retraction(1, 10, 10));
    assert!(problem(&evidence).starts_with("a record never reached robinhood"));
}

#[test]
fn one_identity_with_two_contents_is_found() {
    let mut evidence = good();
    let mut other = evidence.groups[0].members[0][0].clone();
    other.what = What::Record(Content { kind: 2, time: String::new(), tfid: String::new() });
    evidence.groups[0].members[0].push(other);
    assert!(problem(&evidence).starts_with("robinhood got two different records with one identity"));
}

#[test]
fn a_repetition_is_counted_and_is_no_problem() {
    let mut evidence = good();
    let again = evidence.groups[0].members[0][0].clone();
    evidence.groups[0].members[0].push(again);
    let verdict = judge(&evidence);
    assert_eq!((verdict.problems.len(), verdict.groups[0].repeated, verdict.groups[0].records), (0, 1, 10));
}

#[test]
fn an_object_s_records_in_another_order_are_found_in_what_one_member_wrote() {
    let mut evidence = good();
    // Records 3 and 5 are one object's, record 4 another one's.
    evidence.groups[1].members[0].swap(2, 4);
    assert!(problem(&evidence).starts_with("lake got records out of order: demo-MDT0000 1:3 came behind 1:5"));
    evidence.groups[1].in_order = false;
    let verdict = judge(&evidence);
    assert_eq!((verdict.problems, verdict.groups[0].in_order, verdict.groups[1].in_order), (vec![], true, false));
}

#[test]
fn other_objects_records_may_overtake_unless_the_topic_is_one_sequence() {
    let mut evidence = good();
    evidence.groups[0].members[0].swap(2, 3);
    assert_eq!(judge(&evidence).problems, Vec::<String>::new());
    evidence.one_sequence = true;
    assert!(problem(&evidence).starts_with("robinhood got records out of order: demo-MDT0000 1:3 came behind 1:4"));
}

#[test]
fn what_a_member_gets_once_more_and_what_another_member_gets_is_no_disorder() {
    let mut evidence = good();
    let robinhood = &mut evidence.groups[0].members;
    let again = robinhood[0][2].clone();
    robinhood[0].push(again.clone());
    robinhood.push(vec![again]);
    evidence.one_sequence = true;
    assert_eq!(judge(&evidence).problems, Vec::<String>::new());
}

/// Records 6 and 7 stand, were retracted beside those that the MDT took back, and were published again.
fn told_again() -> Evidence {
    let mut evidence = crashed();
    for group in &mut evidence.groups {
        let lines = &mut group.members[0];
        lines.retain(|w| w.incarnation == 1);
        lines.push(retraction(1, 6, 10));
        lines.extend([6, 7].map(|i| written(2, &emitted(1, i), CLEARED - 1)));
        lines.extend([8, 9].map(|i| written(2, &emitted(2, i), CLEARED - 1)));
    }
    evidence
}

#[test]
fn what_stands_and_was_published_again_is_counted_where_a_sink_declares_that_this_may_be() {
    let mut evidence = told_again();
    evidence.exactly_once = false;
    let verdict = judge(&evidence);
    assert_eq!(verdict.problems, Vec::<String>::new());
    assert_eq!((verdict.groups[0].void, verdict.groups[0].again, verdict.groups[1].again), (5, 2, 2));
}

#[test]
fn what_stands_and_was_published_again_is_found_where_a_sink_declares_that_this_cannot_be() {
    let told = problem(&told_again());
    assert!(told.contains("publishes nothing twice") && told.contains("robinhood was told 2 records again"), "{told}");
}

#[test]
fn a_changelog_that_was_not_cleared_to_its_end_is_found() {
    let mut evidence = good();
    evidence.mdts[0].backlog = 3;
    assert!(problem(&evidence).contains("demo-MDT0000 still holds 3 records"));
}

#[test]
fn records_that_the_broker_dropped_are_found() {
    let mut evidence = good();
    evidence.log_starts[0].now = 17;
    assert!(problem(&evidence).contains("lustre.demo-MDT0000 partition 0 began at position 1 and begins at 17"));
}

#[test]
fn a_run_without_records_without_clears_or_without_groups_proves_nothing() {
    let problems = judge(&Evidence::default()).problems;
    assert_eq!(problems.len(), 3, "{problems:?}");
    let mut evidence = good();
    evidence.mdts[0].history.pop();
    assert!(problem(&evidence).starts_with("nothing was cleared"));
}
