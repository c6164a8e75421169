//! Training end to end, in process.

use std::collections::BTreeMap;
use std::path::PathBuf;

use quorate_crypto::fixed::FixedPoint;
use quorate_crypto::sum::Ring;
use quorate_protocols::model::ModelState;
use quorate_protocols::payload::{plaintext_bytes, read_sum};
use quorate_protocols::workload::{LocalSpec, ModelSpec, TrainSpec, Workload};

use super::data::{Dataset, Hints, Table, infer_schema};
use super::metrics::evaluate;
use super::pooled::pooled_logistic;
use super::split::{Split, hold_out, share_out};
use super::train::contribution;
use super::twin::{FrozenSet, replay};

const CODE: FixedPoint = FixedPoint { frac_bits: 24, clip: 64.0 };

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
        let mut state = ModelState::initial(&self.workload, &CODE);
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
    let root = std::env::var("QUORATE_DATA")
        .map_or_else(|_| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../data")), Into::into);
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

/// Prints, per round, how far a federated run is from the pooled reference.
///
/// `QUORATE_DATA=DIR TUNE="set,target[,key=value..]" cargo test --release tune -- --ignored`
#[test]
#[ignore = "a tool for choosing defaults"]
fn tune() {
    let settings = std::env::var("TUNE").unwrap();
    let mut parts = settings.split(',');
    let (name, target) = (parts.next().unwrap(), parts.next().unwrap());
    let options: BTreeMap<&str, &str> = parts.filter_map(|part| part.split_once('=')).collect();
    let number = |key: &str, default: f64| options.get(key).map_or(default, |v| v.parse().unwrap());
    let table = Table::read(&data_file(name)).unwrap();
    let schema = infer_schema(&table, target, &Hints::named(name)).unwrap();
    let model = if number("hidden", 0.0) > 0.0 {
        ModelSpec::Mlp { hidden: number("hidden", 0.0) as u32, l2: number("l2", 1e-3) }
    } else {
        ModelSpec::Logistic { l2: number("l2", 1e-3) }
    };
    let mut spec = TrainSpec::default_for(schema, model);
    spec.local = LocalSpec {
        epochs: number("epochs", f64::from(spec.local.epochs)) as u32,
        batch: number("batch", f64::from(spec.local.batch)) as u32,
        learning_rate: number("lr", spec.local.learning_rate),
        prox_mu: number("mu", spec.local.prox_mu),
    };
    spec.rounds = number("rounds", 15.0) as u32;
    let split = match options.get("split") {
        Some(&"even") => Split::Even,
        Some(column) => Split::Bands((*column).to_owned()),
        None => Split::named(name),
    };
    for fold in 0..number("folds", 1.0) as u32 {
        let (train, test) = hold_out(&table, fold).unwrap();
        let test = Dataset::new(&table, &spec.schema, &test).unwrap();
        let all = Dataset::new(&table, &spec.schema, &train).unwrap();
        let begun = std::time::Instant::now();
        let pooled = pooled_logistic(&spec.schema, &all, &test).unwrap();
        println!("fold {fold} pooled {pooled:?} in {:?}", begun.elapsed());
        let k = number("k", 5.0) as usize;
        let datasets = shares(&table, &spec, &train, k, &split);
        println!("rows {:?}", datasets.values().map(|d| d.rows).collect::<Vec<_>>());
        let federation = Federation::new(spec.clone(), datasets);
        let begun = std::time::Instant::now();
        let mut trace = String::new();
        let last = federation.run(|round, state| {
            if round > 0 {
                let got = evaluate(&spec, &CODE, state, &test).unwrap();
                trace += &format!(" {:+.4}", got.auc - pooled.auc);
            }
        });
        let got = evaluate(&spec, &CODE, &last, &test).unwrap();
        let peak = last.params.iter().map(|p| p.abs()).max().unwrap() as f64 / 2f64.powi(24);
        println!("gap{trace}\nlast {got:?} in {:?} largest {peak}", begun.elapsed());
    }
    let _ = replay;
}
