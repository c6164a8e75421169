//! Training end to end, in process.

use std::collections::BTreeMap;
use std::path::PathBuf;

use quorate_crypto::merkle::Hash;
use quorate_crypto::sum::Ring;
use quorate_protocols::model::ModelState;
use quorate_protocols::payload::{plaintext_bytes, read_sum};
use quorate_protocols::workload::{
    ColumnKind, DEFAULT_CODE as CODE, LocalSpec, ModelSpec, TrainSpec, Workload,
};

use super::LearnError;
use super::data::{Dataset, Hints, Table, infer_schema};
use super::features::{Design, local_moments};
use super::metrics::auc;
use super::metrics::evaluate;
use super::model::Net;
use super::pooled::{export_model_json, pooled_logistic};
use super::split::{Split, hold_out, share_out};
use super::train::contribution;
use super::twin::{FrozenSet, replay};

const JOB: Hash = Hash([9; 32]);

struct Federation {
    workload: Workload,
    datasets: BTreeMap<String, Dataset>,
    sets: Vec<FrozenSet>,
}

impl Federation {
    /// A run in which party `1 + round mod (k - 1)` misses each odd round.
    fn new(spec: TrainSpec, datasets: BTreeMap<String, Dataset>) -> Self {
        let workload = Workload::Train(spec);
        let sets = (0..workload.rounds())
            .map(|round| {
                let k = datasets.len();
                let absent = 1 + (round as usize / 2) % (k - 1);
                let members = datasets
                    .keys()
                    .enumerate()
                    .filter(|(index, _)| round % 2 == 0 || *index != absent)
                    .map(|(_, name)| name.clone())
                    .collect();
                FrozenSet { round, attempt: 0, members }
            })
            .collect();
        Self { workload, datasets, sets }
    }

    /// The federated run: ring words in, wrapping sums, integer averages.
    fn run(&self, mut each: impl FnMut(u32, &ModelState)) -> ModelState {
        let mut state = ModelState::initial(&self.workload, &CODE, &JOB);
        let max_rows = self.workload.max_rows();
        for set in &self.sets {
            let payload = self.workload.payload(set.round).unwrap();
            let mut total = vec![0u64; usize::try_from(payload.dim()).unwrap()];
            for member in &set.members {
                let data = &self.datasets[member];
                let (rows, body) =
                    contribution(&self.workload, &CODE, &state, data, member, set.round).unwrap();
                let bytes =
                    plaintext_bytes(&payload, Ring::Z64, &CODE, max_rows, rows, &body).unwrap();
                for (sum, word) in total.iter_mut().zip(bytes.chunks(8)) {
                    *sum = sum.wrapping_add(u64::from_le_bytes(word.try_into().unwrap()));
                }
            }
            let bytes: Vec<u8> = total.iter().flat_map(|word| word.to_le_bytes()).collect();
            let members = set.members.len() as u64;
            let sum = read_sum(&payload, Ring::Z64, &CODE, max_rows, members, &bytes).unwrap();
            state = state.advance(&self.workload, set.round, &sum).unwrap();
            each(set.round, &state);
        }
        state
    }
}

fn data_file(name: &str) -> PathBuf {
    let root = std::env::var("QUORATE_DATA").map_or_else(
        |_| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../data")),
        Into::into,
    );
    let plain = root.join(format!("{name}.csv"));
    if plain.exists() { plain } else { root.join(format!("{name}.csv.gz")) }
}

fn shares(
    table: &Table,
    spec: &TrainSpec,
    train: &[usize],
    k: usize,
    split: &Split,
) -> BTreeMap<String, Dataset> {
    share_out(table, train, k, split)
        .unwrap()
        .iter()
        .enumerate()
        .map(|(i, rows)| (format!("bank-{i}"), Dataset::new(table, &spec.schema, rows).unwrap()))
        .collect()
}

/// A table with every kind of column; the target is a noisy function of them.
fn toy(rows: u32, classes: u32) -> Table {
    let levels =
        ["plain", "two words", "\"a \"\"quoted\"\" one\"", "\"<50K, or more\"", "+", "-", "é&ü"];
    let mut text = String::from("id,amount,rate,group,constant,fold,\"the target\"\n");
    let mut state = 12_345u32;
    let mut draw = |bound: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % bound
    };
    for row in 0..rows {
        let (amount, rate, level) = (draw(2_000_000), draw(1000), draw(7));
        let signal = amount / 400_000 + rate / 250 + level + draw(4);
        let label = (signal * classes / 20).min(classes - 1);
        let level = levels[level as usize];
        text += &format!("r{row},{amount},-0.{rate:03},{level},7,{},{label}\n", row % 5);
    }
    Table::parse(text.as_bytes()).unwrap()
}

fn toy_federation(model: ModelSpec, classes: u32) -> Federation {
    let table = toy(400, classes);
    let schema = infer_schema(&table, "the target", &Hints::default()).unwrap();
    let mut spec = TrainSpec::default_for(schema, model);
    spec.rounds = 3;
    let (train, _) = hold_out(&table, 0).unwrap();
    let datasets = shares(&table, &spec, &train, 4, &Split::Dominant(70));
    Federation::new(spec, datasets)
}

fn train_spec(federation: &Federation) -> &TrainSpec {
    let Workload::Train(spec) = &federation.workload else { unreachable!() };
    spec
}

#[test]
fn the_twin_equals_the_federated_run_bit_for_bit() {
    for model in [ModelSpec::LOGISTIC, ModelSpec::Mlp { hidden: 5, l2: 1e-4 }] {
        for classes in [2, 3] {
            let federation = toy_federation(model, classes);
            federation.workload.check().unwrap();
            let state = federation.run(|_, _| {});
            let twin = |sets: &[FrozenSet]| {
                replay(&federation.workload, &CODE, &JOB, sets, &federation.datasets)
            };
            assert_eq!(twin(&federation.sets).unwrap(), state);
            let mut others = federation.sets.clone();
            others[2].members.pop();
            assert_ne!(twin(&others).unwrap().hash(), state.hash());
            assert!(matches!(twin(&others[1..]), Err(LearnError::Round(1))));
            others[1].members.push("stranger".to_owned());
            assert!(matches!(twin(&others), Err(LearnError::UnknownParty(_))));
        }
    }
}

/// These change only with the training arithmetic, and then every running job must end first.
#[test]
fn golden_hashes_of_short_runs() {
    let golden = [
        (
            ModelSpec::LOGISTIC,
            2,
            "0eb20db6bfa811628398d35e700af81813b46896c28151e60d01faa43d2679da",
        ),
        (
            ModelSpec::LOGISTIC,
            3,
            "0140681376b3ea76e41ecb01b84bd5c84ae82869d650374d336548b7c2bbf312",
        ),
        (
            ModelSpec::Mlp { hidden: 5, l2: 1e-4 },
            2,
            "af76c0026e4e07c857d6bf6ca71f607c63a250ffee989049a29740ba9d519927",
        ),
        (
            ModelSpec::Mlp { hidden: 5, l2: 1e-4 },
            3,
            "f16f651d1ec592c1fe093d8f4a0b8fbb8645a5c0fd0a7812c5ab07d9ff0d3803",
        ),
    ];
    let hash = |model, classes| toy_federation(model, classes).run(|_, _| {}).hash().to_string();
    let got = golden.map(|(model, classes, _)| hash(model, classes));
    assert_eq!(got, golden.map(|(_, _, hash)| hash.to_owned()));
}

#[test]
fn gradients_are_the_slopes_of_the_loss() {
    for (hidden, classes) in [(0, 2), (0, 3), (4, 2), (4, 3)] {
        let model =
            if hidden == 0 { ModelSpec::LOGISTIC } else { ModelSpec::Mlp { hidden, l2: 1e-3 } };
        let federation = toy_federation(model, classes);
        let spec = train_spec(&federation);
        let state = federation.run(|_, _| {});
        let net = Net::new(spec);
        let design = Design::new(spec, &state, &federation.datasets["bank-1"]).unwrap();
        let w = super::model::decode(&net, &CODE, &state).unwrap();
        let mut scratch = net.scratch();
        for index in 0..5 {
            let row = design.row(index);
            let mut gradient = vec![0.0; w.len()];
            net.add_gradient(&w, &row, &mut scratch, &mut gradient);
            for (at, slope) in gradient.iter().enumerate() {
                let mut loss = |shift: f64| {
                    let mut w = w.clone();
                    w[at] += shift;
                    net.loss(&w, &row, &mut scratch)
                };
                let measured = (loss(1e-5) - loss(-1e-5)) / 2e-5;
                assert!((measured - slope).abs() < 1e-6, "{hidden} {classes} {at}");
            }
        }
    }
}

#[test]
fn moments_agree_with_direct_computation() {
    let federation = toy_federation(ModelSpec::LOGISTIC, 2);
    let spec = train_spec(&federation);
    let table = toy(400, 2);
    let (train, _) = hold_out(&table, 0).unwrap();
    let mut moments = None;
    federation.run(|round, state| {
        if round == 0 {
            moments.clone_from(&state.moments);
        }
    });
    let moments = moments.unwrap();
    assert_eq!(moments.rows, train.len() as u64);
    let numeric = spec.schema.columns.iter().filter_map(|column| match column.kind {
        ColumnKind::Numeric { offset, scale_log2 } => Some((&column.name, offset, scale_log2)),
        ColumnKind::Category { .. } => None,
    });
    for ((name, offset, scale_log2), moment) in numeric.zip(&moments.columns) {
        let column = table.position(name).unwrap();
        let x: Vec<f64> =
            train.iter().map(|row| table.text(*row, column).parse().unwrap()).collect();
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
        let unit = 2f64.powi(i32::from(scale_log2)) / 2f64.powi(38);
        let error = (offset + moment.mean as f64 * unit - mean).abs();
        assert!(error <= 1e-5 * variance.sqrt(), "{name} {error}");
        assert!((moment.std as f64 * unit - variance.sqrt()).abs() <= 1e-5 * variance.sqrt());
        assert_eq!(moment.std == 0, name == "constant");
    }
}

#[test]
fn moments_of_any_scale_are_resolved() {
    // Tiny, huge, far from zero, and with one value far out.
    for (scale, shift, outlier) in
        [(1e-200, 0.0, 0.0), (1e200, 0.0, 0.0), (1.0, 1e9, 0.0), (1.0, 0.0, 1e7)]
    {
        let mut text = String::from("x,t\n");
        for i in 0..2000u32 {
            let x = shift + scale * f64::from(i % 100) + if i == 7 { outlier } else { 0.0 };
            text += &format!("{x:e},{}\n", i % 2);
        }
        let table = Table::parse(text.as_bytes()).unwrap();
        let schema = infer_schema(&table, "t", &Hints::default()).unwrap();
        let all: Vec<usize> = (0..table.rows()).collect();
        let data = Dataset::new(&table, &schema, &all).unwrap();
        let sum = quorate_protocols::payload::OpenedSum {
            rows: 2000,
            body: local_moments(&schema, &data),
        };
        let moments = quorate_protocols::model::MomentTable::from_sum(&sum).unwrap();
        let design = Design::with_moments(&schema, &moments, &data).unwrap();
        let mean: f64 = design.dense.iter().sum::<f64>() / 2000.0;
        let square: f64 = design.dense.iter().map(|z| z * z).sum::<f64>() / 2000.0;
        assert!(mean.abs() < 1e-3 && (square - 1.0).abs() < 1e-3, "{mean} {square}");
    }
}

#[test]
fn auc_equals_the_share_of_ordered_pairs() {
    let mut state = 1u32;
    for rows in [2usize, 7, 40, 200] {
        let mut draw = |bound: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % bound
        };
        let scores: Vec<f64> = (0..rows).map(|_| f64::from(draw(12)) / 4.0 - 1.0).collect();
        let mut positive: Vec<bool> = (0..rows).map(|_| draw(3) == 0).collect();
        (positive[0], positive[1]) = (true, false);
        let (mut wins, mut pairs) = (0.0, 0.0);
        for (a, _) in scores.iter().zip(&positive).filter(|(_, is)| **is) {
            for (b, _) in scores.iter().zip(&positive).filter(|(_, is)| !**is) {
                pairs += 1.0;
                wins += if a > b {
                    1.0
                } else if a == b {
                    0.5
                } else {
                    0.0
                };
            }
        }
        assert!((auc(&scores, &positive) - wins / pairs).abs() < 1e-12);
    }
    assert!(auc(&[1.0, 2.0], &[true, true]).is_nan());
}

#[test]
fn a_table_with_awkward_texts_is_read_as_written() {
    let table = toy(400, 2);
    let schema = infer_schema(&table, "the target", &Hints::default()).unwrap();
    let names: Vec<&str> = schema.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["amount", "rate", "group", "constant"]);
    assert_eq!(schema.classes, ["0", "1"]);
    let ColumnKind::Category { levels } = &schema.columns[2].kind else { panic!("not a category") };
    assert_eq!(
        levels.as_slice(),
        ["+", "-", "<50K, or more", "a \"quoted\" one", "plain", "two words", "é&ü"]
    );
    assert_eq!(schema.features(), 3 + 8);
}

#[test]
fn categories_missing_values_and_bad_targets() {
    let infer = |text: &str, hints: &Hints| {
        infer_schema(&Table::parse(text.as_bytes())?, "t", hints).map(|schema| (schema, text.len()))
    };
    let message = |text: &str| infer(text, &Hints::default()).unwrap_err().to_string();
    assert!(message("x,t\n1,1\n,0\n").contains("row 3: numeric column \"x\""));
    assert!(message("x,t\n1,1\n2,\n").contains("target \"t\" is missing in row 3"));
    assert!(message("x,t\n1,1\n2,1\n").contains("1 distinct"));
    assert!(message("x,y\n1,1\n").contains("no column \"t\"; there are x, y"));
    assert!(message("x,x,t\n1,1,1\n").contains("appears twice"));
    assert!(message("id,fold,t\n1,1,1\n2,2,0\n").contains("no column can serve"));
    assert!(message("x,t\n").contains("no rows"));
    assert!(matches!(infer("x,t\n1,1,1\n", &Hints::default()), Err(LearnError::Csv(_))));

    // Declared codes; one missing, one never seen, one spelled otherwise.
    let hints = Hints { categorical: vec!["x".to_owned()], ignored: Vec::new() };
    let text = "\u{feff}x , t\n 1 ,yes\n2,no\n?,no\n";
    let (schema, _) = infer(text, &hints).unwrap();
    assert_eq!(schema.classes, ["no", "yes"]);
    let party = Table::parse(b"t,x\nyes,1.0\nno,3\nno,?\nno,+2\n").unwrap();
    let data = Dataset::new(&party, &schema, &[0, 1, 2, 3]).unwrap();
    assert_eq!(data.levels, [0, 2, 2, 1]);
    assert_eq!(data.labels, [1, 0, 0, 0]);
    let stranger = Table::parse(b"t,x\nmaybe,1\n").unwrap();
    let error = Dataset::new(&stranger, &schema, &[0]).unwrap_err().to_string();
    assert!(error.contains("row 2: target \"maybe\" is not a class"));
}

#[test]
fn classes_are_in_natural_order() {
    let table = Table::parse(b"x,t\n1,10\n2,9\n3,10.0\n4,-1\n").unwrap();
    let schema = infer_schema(&table, "t", &Hints::default()).unwrap();
    assert_eq!(schema.classes, ["-1", "9", "10"]);
}

#[test]
fn splits_share_out_every_row_once() {
    let table = toy(400, 3);
    let (train, test) = hold_out(&table, 2).unwrap();
    assert_eq!((train.len(), test.len()), (320, 80));
    assert!(hold_out(&table, 9).is_err());
    for split in [
        Split::Even,
        Split::Dominant(70),
        Split::Bands("amount".into()),
        Split::Bands("the target".into()),
    ] {
        let shares = share_out(&table, &train, 3, &split).unwrap();
        let mut all: Vec<usize> = shares.concat();
        all.sort_unstable();
        assert_eq!(all, train);
        if split == Split::Dominant(70) {
            assert_eq!(shares.iter().map(Vec::len).collect::<Vec<_>>(), [224, 48, 48]);
        }
    }
    assert!(share_out(&table, &train[..2], 3, &Split::Even).is_err());
}

#[test]
fn training_that_leaves_the_real_numbers_is_an_error() {
    let mut federation = toy_federation(ModelSpec::Mlp { hidden: 5, l2: 1e-4 }, 3);
    let Workload::Train(spec) = &mut federation.workload else { unreachable!() };
    spec.local = LocalSpec { epochs: 40, batch: 1, learning_rate: 1e3, prox_mu: 1e3 };
    let error = replay(&federation.workload, &CODE, &JOB, &federation.sets, &federation.datasets);
    assert!(matches!(error, Err(LearnError::Diverged(_))));
}

#[test]
fn a_ring_too_small_for_the_job_is_refused() {
    let federation = toy_federation(ModelSpec::LOGISTIC, 2);
    assert!(federation.workload.check_ring(Ring::Z64, 64, &CODE).is_ok());
    let error = federation.workload.check_ring(Ring::Z32, 5, &CODE).unwrap_err();
    assert_eq!(error.to_string(), "sums of 5 parties need 58 bits, the ring has 32");
}

#[test]
fn the_exported_model_gives_the_same_scores() {
    let federation = toy_federation(ModelSpec::LOGISTIC, 2);
    let spec = train_spec(&federation);
    let state = federation.run(|_, _| {});
    let model = export_model_json(&state, spec, &CODE).unwrap();
    let real = |value: &serde_json::Value| value.as_f64().unwrap();
    let data = &federation.datasets["bank-2"];
    let design = Design::new(spec, &state, data).unwrap();
    let net = Net::new(spec);
    let w = super::model::decode(&net, &CODE, &state).unwrap();
    let weights = model["weights"][0].as_array().unwrap();
    assert_eq!(weights.len(), model["columns"].as_array().unwrap().len());
    // Rows of one feature each: the file's weights are the model's, in the order of its columns.
    assert_eq!(weights.iter().map(real).collect::<Vec<_>>(), w[..net.features]);
    assert_eq!(real(&model["bias"][0]), w[net.features]);
    // The first number, from the file's own unit.
    let ColumnKind::Numeric { offset, scale_log2 } = spec.schema.columns[0].kind else { panic!() };
    let x = offset + data.numeric[0] * 2f64.powi(i32::from(scale_log2));
    let z = (x - real(&model["numeric"]["amount"][0])) / real(&model["numeric"]["amount"][1]);
    assert!((z - design.dense[0]).abs() < 1e-9);
}

#[test]
fn federated_reaches_pooled_on_ionosphere() {
    let table = Table::read(&data_file("ionosphere")).unwrap();
    let schema = infer_schema(&table, "good", &Hints::named("ionosphere")).unwrap();
    let spec = TrainSpec::default_for(schema, ModelSpec::LOGISTIC);
    let (mut federated, mut pooled) = (0.0, 0.0);
    for fold in 0..5 {
        let (train, test) = hold_out(&table, fold).unwrap();
        let test = Dataset::new(&table, &spec.schema, &test).unwrap();
        let all = Dataset::new(&table, &spec.schema, &train).unwrap();
        pooled += pooled_logistic(&spec.schema, &all, &test).unwrap().auc / 5.0;
        let datasets = shares(&table, &spec, &train, 5, &Split::named("ionosphere"));
        let state = Federation::new(spec.clone(), datasets).run(|_, _| {});
        federated += evaluate(&spec, &CODE, &state, &test).unwrap().auc / 5.0;
    }
    // The reference of the data set's description.
    assert!((pooled - 0.8933).abs() < 1e-3, "{pooled}");
    assert!((federated - pooled).abs() < 0.01, "{federated} {pooled}");
}

#[test]
fn one_value_far_off_does_not_flatten_its_column() {
    let mut text = String::from("b,y\n");
    for row in 0..400 {
        let b = if row == 5 { 1e9 } else { f64::from(row % 40) / 10.0 - 2.0 };
        text += &format!("{b},{}\n", row % 2);
    }
    let table = Table::parse(text.as_bytes()).unwrap();
    let schema = infer_schema(&table, "y", &Hints::default()).unwrap();
    let ColumnKind::Numeric { offset, scale_log2 } = schema.columns[0].kind else {
        panic!("a numeric column");
    };
    assert!(offset.abs() < 1.0, "offset {offset}");
    assert!((8..=12).contains(&scale_log2), "2^{scale_log2} around 1024 deviations of about 1.15");
}
