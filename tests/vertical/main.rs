//! Vertical training on real data: whole jobs in memory equal training on joined rows to the bit, and the
//! fit is that of central training.

use std::path::Path;

use quorate_client::learn::data::{Hints, Table, infer_schema};
use quorate_client::vertical::block::{features, targets};
use quorate_client::vertical::fit::held_out;
use quorate_protocols::fedv::sim::{Faults, Given, Plan, run};
use quorate_protocols::round::aggregator::Outcome;
use quorate_protocols::wire::Name;
use quorate_protocols::workload::{Block, LabelPrivacy, TargetKind, VerticalModel, VerticalSpec};

const NOISE: LabelPrivacy = LabelPrivacy::Noise { epsilon: 4.0, delta: 1e-5 };

/// A data set, its target, and how many rows a simulated job takes of it.
const SETS: [(&str, &str, u32); 3] = [
    ("ionosphere.csv", "good", 280),
    ("credit_default.csv.gz", "default", 320),
    ("landsat.csv.gz", "soil", 320),
];

fn read(file: &str) -> Table {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data").join(file);
    Table::read(&own).unwrap()
}

/// A job over the columns of `table`, cut evenly among the label holder and `passive` others.
fn spec(
    table: &Table,
    set: &str,
    target: &str,
    model: VerticalModel,
    passive: usize,
) -> VerticalSpec {
    let name = set.split('.').next().unwrap();
    let schema = infer_schema(table, target, &Hints::named(name)).unwrap();
    let share = schema.columns.len().div_ceil(passive + 1);
    let blocks: Vec<Block> = schema
        .columns
        .chunks(share)
        .enumerate()
        .map(|(i, columns)| Block {
            party: Name::new(&format!("party-{i}")).unwrap(),
            columns: columns.to_vec(),
        })
        .collect();
    assert_eq!(blocks.len(), passive + 1, "{set}");
    VerticalSpec {
        holder: blocks[0].party.clone(),
        blocks,
        target: target.to_owned(),
        target_kind: TargetKind::Classes(schema.classes),
        identifiers: vec!["id".to_owned()],
        model,
        l2: 1e-3,
        selection: 0.0,
        epochs: 1,
        batch: 128,
        learning_rate: 0.1,
        momentum: 0.9,
        labels: LabelPrivacy::Visible,
        static_features: false,
        lone_changes: false,
        max_rows: 1 << 15,
    }
}

fn models(table: &Table, target: &str) -> [VerticalModel; 3] {
    let position = table.position(target).unwrap();
    let mut classes: Vec<&str> = (0..table.rows()).map(|row| table.text(row, position)).collect();
    classes.sort_unstable();
    classes.dedup();
    let logistic = match classes.len() {
        2 => VerticalModel::Logistic { taylor: false },
        _ => VerticalModel::Softmax,
    };
    [VerticalModel::Linear, logistic, VerticalModel::Svm]
}

/// Linear, logistic and SVM, three data sets, 2, 3 and 5 passive parties, with and without label noise:
/// every party's weights and the label holder's scores are those of the plain twin.
#[test]
fn jobs_over_real_columns_equal_training_on_joined_rows() {
    let mut jobs = 0u64;
    for (set, target, count) in SETS {
        let table = read(set);
        for (number, model) in models(&table, target).into_iter().enumerate() {
            for passive in [2, 3, 5] {
                let spec = spec(&table, set, target, model, passive);
                let rows: Vec<usize> = (0..count as usize).collect();
                let all = vec![true; rows.len()];
                let blocks: Vec<_> = spec
                    .blocks
                    .iter()
                    .map(|block| features(&table, block, &rows, &all).unwrap())
                    .collect();
                let TargetKind::Classes(classes) = &spec.target_kind else { unreachable!() };
                let plan = Plan {
                    model,
                    classes: classes.len(),
                    features: blocks.iter().map(|block| block.columns()).collect(),
                    rows: (count - 5, 5),
                    epochs: 1,
                    batch: spec.batch,
                    authorities: 1 + passive % 2,
                    labels: if (number + passive) % 2 == 0 { NOISE } else { LabelPrivacy::Visible },
                    selection: 0.0,
                    static_features: passive == 3,
                    lone_changes: false,
                    given: Some(Given {
                        blocks,
                        targets: targets(&table, &spec, &rows).unwrap().0,
                    }),
                    faults: Faults::NONE,
                };
                jobs += 1;
                let report = run(jobs, plan);
                let what = format!("{set} {model:?} {passive}");
                assert_eq!(report.outcome, Outcome::Done, "{what}");
                assert_eq!(report.weights.len(), passive + 1);
                assert_eq!(report.weights, report.twin, "{what}");
                assert_eq!(report.scores.0, report.scores.1, "{what}");
                assert_eq!(report.scores.0.len(), 5 * spec.outputs(), "{what}");
                // Two batches of 128 rows, and the rows to score.
                assert_eq!((report.opened, report.burned), (3, 0), "{what}");
            }
        }
    }
    assert_eq!(jobs, 27);
}

/// The fit of central training, the mean over the five folds, which the three cuts share. The references are
/// scikit-learn's logistic regression and linear SVM, run to convergence on the same folds, and for the
/// linear model the exact solution of the least squares on classes as 1 and -1.
#[test]
fn the_fit_is_that_of_central_training() {
    // Set, model by position, epochs, batch, step, what is compared (area or share), reference.
    let cases = [
        (0, 0, 60, 112, 0.02, "AUC", 0.9066),
        (1, 0, 20, 512, 0.02, "AUC", 0.7196),
        (2, 0, 20, 512, 0.02, "accuracy", 0.7608),
        (0, 1, 30, 112, 0.1, "AUC", 0.8933),
        (0, 2, 30, 112, 0.1, "accuracy", 0.8834),
        (1, 1, 20, 512, 0.1, "AUC", 0.7253),
        (1, 2, 20, 512, 0.02, "accuracy", 0.8027),
        (2, 1, 40, 256, 0.3, "accuracy", 0.8547),
        (2, 2, 40, 256, 0.1, "accuracy", 0.8311),
    ];
    for (set, model, epochs, batch, learning_rate, measure, reference) in cases {
        let (file, target, _) = SETS[set];
        let table = read(file);
        let model = models(&table, target)[model];
        let mut sum = 0.0;
        for (fold, passive) in (0..).zip([2, 3, 5, 2, 3]) {
            let base = spec(&table, file, target, model, passive);
            let spec = VerticalSpec { epochs, batch, learning_rate, ..base };
            let (area, share) = held_out(&table, &spec, fold, 1).unwrap();
            sum += if measure == "AUC" { area } else { share };
        }
        let mean = sum / 5.0;
        println!("{file} {model:?}: {measure} {mean:.4}, central {reference}");
        assert!(mean > reference - 0.01, "{file} {model:?}: {measure} {mean}, central {reference}");
    }
}
