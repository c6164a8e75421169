use std::collections::BTreeSet;

use super::Shown;
use super::sim::{
    Faults, Plan, job, refusal_of_other_rows, refusal_of_rotated_keys, refusals_of_other_keys, run,
};
use crate::refusal::{Code, Culprit};
use crate::round::aggregator::Outcome;
use crate::wire::Name;
use crate::workload::{LabelPrivacy, VerticalModel};

fn plan(model: VerticalModel, classes: usize, features: &[usize]) -> Plan {
    Plan {
        model,
        classes,
        features: features.to_vec(),
        rows: (50, 7),
        epochs: 3,
        batch: 16,
        authorities: 2,
        labels: LabelPrivacy::Visible,
        static_features: false,
        lone_changes: true,
        given: None,
        selection: 0.0,
        faults: Faults::NONE,
    }
}

const NOISE: LabelPrivacy = LabelPrivacy::Noise { epsilon: 4.0, delta: 1e-5 };

/// Every model, with 2, 3 and 5 passive parties: weights and scores are those of plain training on the
/// joined rows, to the bit, with label noise and without.
#[test]
fn training_equals_the_plain_twin_to_the_bit() {
    let cases = [
        (VerticalModel::Linear, 0, vec![2, 3, 4]),
        (VerticalModel::Logistic { taylor: false }, 2, vec![1, 4, 2, 3]),
        (VerticalModel::Logistic { taylor: true }, 2, vec![0, 2, 2]),
        (VerticalModel::Logistic { taylor: false }, 3, vec![2, 1, 3]),
        (VerticalModel::Svm, 2, vec![3, 1, 2, 3, 4, 1]),
        (VerticalModel::Svm, 4, vec![1, 2, 2]),
    ];
    for (seed, (model, classes, features)) in (0u64..).zip(cases) {
        for labels in [LabelPrivacy::Visible, NOISE] {
            let plan = Plan { labels, ..plan(model, classes, &features) };
            let report = run(seed, plan.clone());
            assert_eq!(report.outcome, Outcome::Done, "{plan:?}");
            assert_eq!(report.weights, report.twin, "{plan:?}");
            assert_eq!(report.scores.0, report.scores.1, "{plan:?}");
            let outputs = if classes > 2 { classes } else { 1 };
            assert_eq!(report.scores.0.len(), 7 * outputs);
            // 50 rows are three batches of 16 in each epoch, 7 rows are one more.
            assert_eq!(report.epochs, [0, 1, 2].map(|epoch| (epoch, features.len(), 3)));
            assert_eq!((report.opened, report.burned), (10, 0));
        }
    }
}

/// Under loss, repetition, reordering, crashes and absent parties: still the twin's weights; no batch
/// under two labels, no request answered twice (asserted in the run).
#[test]
fn faults_change_nothing_but_the_time() {
    let count = std::env::var("QUORATE_VERTICAL_SEEDS").map_or(12, |text| text.parse().unwrap());
    let (mut burned, mut short, mut done) = (0, 0, 0);
    for seed in 0..count {
        let labels = if seed % 2 == 0 { NOISE } else { LabelPrivacy::Visible };
        let model = VerticalModel::Logistic { taylor: seed % 3 == 0 };
        let base = plan(model, 2, &[1, 2, 3, 1]);
        let report = run(seed, Plan { labels, faults: Faults::ALL, ..base });
        assert_eq!(report.weights, report.twin, "seed {seed}");
        burned += report.burned;
        short += u32::from(report.epochs.iter().any(|(_, parties, _)| *parties < 4));
        match report.outcome {
            Outcome::Done => {
                done += 1;
                assert_eq!(report.scores.0, report.scores.1, "seed {seed}");
            }
            Outcome::Failed(refusal) => assert_eq!(refusal.code, Code::BelowFloor, "seed {seed}"),
            Outcome::Cancelled => panic!("seed {seed}"),
        }
    }
    // The faults are there at all: batches were repeated, epochs ran without a party.
    assert!(burned > 0 && short > 0 && done > count / 3, "{burned} {short} {done}");
}

/// Without lone changes a job waits for who is missing: with three passive parties all its epochs are over
/// the same ones.
#[test]
fn epochs_do_not_differ_in_a_lone_party() {
    let base = Plan { lone_changes: false, ..plan(VerticalModel::Svm, 2, &[1, 2, 2, 2]) };
    let mut burned = 0;
    for seed in 0..6 {
        let report = run(seed, Plan { faults: Faults::ALL, ..base.clone() });
        assert_eq!(report.weights, report.twin, "seed {seed}");
        let parties: BTreeSet<usize> = report.epochs.iter().map(|epoch| epoch.1).collect();
        assert!(parties.len() <= 1, "seed {seed}: {:?}", report.epochs);
        burned += report.burned;
    }
    assert!(burned > 0);
}

/// Sums over rosters whose combinations would single out fewer than k_min + c parties are refused.
#[test]
fn combinations_of_epochs_show_no_lone_party() {
    let base = plan(VerticalModel::Svm, 2, &[1, 1, 1, 1, 1, 1, 1]);
    let (manifest, parties) = job(1, Plan { lone_changes: false, ..base.clone() });
    let roster = |members: &[usize]| -> Vec<_> {
        [0].iter().chain(members).map(|i: &usize| parties[*i].clone()).collect()
    };
    let pair = |rosters: &[&[usize]]| {
        rosters.iter().try_fold(Shown::default(), |shown, own| shown.with(&manifest, &roster(own)))
    };
    // The same again; two more; two others; two of four and the other two.
    for allowed in [
        &[&[1, 2][..], &[1, 2]][..],
        &[&[1, 2], &[1, 2, 3, 4]],
        &[&[1, 2], &[3, 4]],
        &[&[1, 2, 3, 4], &[1, 2], &[3, 4, 5, 6], &[1, 2, 5, 6]],
    ] {
        assert!(pair(allowed).is_ok(), "{allowed:?}");
    }
    // One more; one less; one exchanged. Of the last three no two differ in a lone party, and together
    // they show each one.
    for refused in [
        &[&[1, 2][..], &[1, 2, 3]][..],
        &[&[1, 2, 3], &[1, 2]],
        &[&[1, 2], &[1, 3]],
        &[&[1, 2, 3, 4], &[1, 2], &[3, 4, 5, 6], &[1, 3, 5, 6]],
        &[&[1, 2], &[1, 2, 3, 4], &[1, 3]],
    ] {
        let refusal = pair(refused).unwrap_err();
        assert_eq!(refusal.code, Code::BelowFloor, "{refused:?}");
        assert_eq!(refusal.culprits, [Culprit::Aggregator]);
    }
    let (manifest, _) = job(1, base);
    let lone = Shown::default().with(&manifest, &roster(&[1, 2])).unwrap();
    assert!(lone.with(&manifest, &roster(&[1, 2, 3])).is_ok());
}

/// Parties without columns hide nobody: the sets that sums tell of count those that have some.
#[test]
fn parties_without_columns_hide_nobody() {
    let base = plan(VerticalModel::Svm, 2, &[1, 1, 1, 1, 1]);
    let (manifest, parties) = job(1, Plan { lone_changes: false, ..base.clone() });
    let roster = |members: &[usize]| -> Vec<_> {
        [0].iter().chain(members).map(|i: &usize| parties[*i].clone()).collect()
    };
    let names = |members: &[usize]| -> BTreeSet<Name> {
        members.iter().map(|i| parties[*i].party.clone()).collect()
    };
    let all = Shown::default().with(&manifest, &roster(&[1, 2, 3, 4])).unwrap();
    // All four were in, 2 has no columns left: three stand behind the scores.
    assert_eq!(all.check_columns(&manifest, &names(&[1, 3, 4])), Ok(()));
    // One alone; nobody at all, whose scores are zero.
    let refusal = all.check_columns(&manifest, &names(&[3])).unwrap_err();
    assert_eq!((refusal.code, refusal.culprits), (Code::BelowFloor, Vec::new()));
    assert_eq!(all.check_columns(&manifest, &names(&[])), Ok(()));
    // Then an epoch, or the rows to be scored, over 1 and 2 alone, or over the two others: what differs is 1.
    for later in [&[1, 2][..], &[3, 4]] {
        let shown = all.with(&manifest, &roster(later)).unwrap();
        assert!(shown.check_columns(&manifest, &names(&[1, 3, 4])).is_err(), "{later:?}");
        assert_eq!(shown.check_columns(&manifest, &names(&[1, 2, 3, 4])), Ok(()));
    }
    let (manifest, _) = job(1, base);
    assert_eq!(all.check_columns(&manifest, &names(&[3])), Ok(()));
}

/// Features that were sent once give the same weights, with and without faults.
#[test]
fn stored_features_train_the_same_model() {
    let base = plan(VerticalModel::Logistic { taylor: false }, 3, &[2, 1, 3]);
    for (seed, faults) in [(1, Faults::NONE), (2, Faults::ALL), (3, Faults::ALL), (4, Faults::ALL)]
    {
        let plan = Plan { static_features: true, labels: NOISE, faults, ..base.clone() };
        let report = run(seed, plan);
        assert_eq!(report.weights, report.twin, "seed {seed}");
        if seed == 1 {
            assert_eq!(report.outcome, Outcome::Done);
            assert_eq!(report.scores.0, report.scores.1);
            assert_eq!((report.opened, report.burned), (10, 0));
        }
    }
}

/// What is sealed and covered for others is for keys that authorities certified, not for those that an
/// aggregator makes up.
#[test]
fn parties_check_whose_keys_they_use() {
    for refusal in refusals_of_other_keys(1, plan(VerticalModel::Svm, 2, &[2, 1, 3])) {
        assert_eq!(refusal.code, Code::BadRoster, "{refusal}");
        assert_eq!(refusal.culprits, [Culprit::Aggregator]);
        assert!(refusal.detail.contains("certified"), "{refusal}");
    }
}

/// Stored features serve the whole job: their owner does not come back to it with other keys, and does with
/// those it had.
#[test]
fn stored_features_bind_a_party_to_its_keys() {
    let base = plan(VerticalModel::Svm, 2, &[2, 1, 3]);
    let refusal = refusal_of_rotated_keys(1, Plan { static_features: true, ..base });
    assert_eq!(refusal.code, Code::LabelUsed, "{refusal}");
}

/// A feature that explains nothing is dropped and sent no more; the weights stay the twin's.
#[test]
fn feature_selection_drops_columns() {
    let base = plan(VerticalModel::Logistic { taylor: false }, 2, &[2, 4, 4]);
    let report = run(3, Plan { epochs: 20, rows: (64, 4), selection: 0.06, ..base });
    assert_eq!(report.weights, report.twin);
    let kept: usize = report.kept.iter().sum();
    assert!((1..10).contains(&kept), "{:?}", report.kept);
}

/// Where selection drops all columns of all parties but one, no score of that one is opened.
#[test]
fn feature_selection_leaves_no_party_alone_behind_a_score() {
    let base = plan(VerticalModel::Logistic { taylor: false }, 2, &[2, 4, 4]);
    let strong = Plan { epochs: 40, rows: (64, 4), selection: 0.2, ..base };
    let report = run(3, Plan { lone_changes: false, ..strong.clone() });
    let Outcome::Failed(refusal) = &report.outcome else { panic!("{:?}", report.outcome) };
    assert_eq!(refusal.code, Code::BelowFloor);
    assert!(refusal.detail.contains("feature selection"), "{refusal}");
    assert_eq!(report.weights, report.twin);
    // Allowed, the same job goes on.
    let report = run(3, strong);
    assert_eq!(report.outcome, Outcome::Done);
    assert!(report.kept.iter().skip(1).filter(|kept| **kept > 0).count() < 2, "{:?}", report.kept);
}

/// A label holder cannot give one party other rows to train on: a batch would then mix rows, and
/// differences of such sums show one party's part.
#[test]
fn the_rows_to_train_on_are_bound_for_the_job() {
    let refusal = refusal_of_other_rows(5, plan(VerticalModel::Svm, 2, &[1, 2, 2]));
    assert_eq!(refusal.code, Code::Malformed);
    assert_eq!(refusal.culprits, [Culprit::Party(Name::new("party-0").unwrap())]);
}
