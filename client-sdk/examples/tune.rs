//! Prints, per round, how far federated training is from the pooled reference: a tool for choosing
//! defaults.
//!
//! ```text
//! cargo run --release --example tune -- ionosphere good [rounds=15 epochs=2 k=5 hidden=32 ..]
//! ```
//!
//! Data sets are read from `QUORATE_DATA`, else from the folder `data`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context as _;
use quorate_client::learn::data::{Dataset, Hints, Table, infer_schema};
use quorate_client::learn::metrics::evaluate;
use quorate_client::learn::pooled::pooled_logistic;
use quorate_client::learn::split::{Split, hold_out, share_out};
use quorate_client::learn::twin::{FrozenSet, plain_sum};
use quorate_crypto::merkle::Hash;
use quorate_protocols::model::ModelState;
use quorate_protocols::workload::{
    DEFAULT_CODE as CODE, LocalSpec, ModelSpec, TrainSpec, Workload,
};

struct Options(BTreeMap<String, String>);

impl Options {
    fn get<T: FromStr>(&self, key: &str, default: T) -> anyhow::Result<T>
    where
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        let value = self.0.get(key).map(|value| value.parse().context(format!("{key}={value}")));
        value.unwrap_or(Ok(default))
    }
}

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: tune SET TARGET [key=value ..]";
    let (name, target) = (args.next().context(usage)?, args.next().context(usage)?);
    let options = args.map(|arg| {
        let (key, value) = arg.split_once('=').context(usage)?;
        anyhow::Ok((key.to_owned(), value.to_owned()))
    });
    let options = Options(options.collect::<Result<_, _>>()?);

    let root = std::env::var("QUORATE_DATA").map_or_else(|_| PathBuf::from("data"), Into::into);
    let plain = root.join(format!("{name}.csv"));
    let file = if plain.exists() { plain } else { root.join(format!("{name}.csv.gz")) };
    let table = Table::read(&file)?;
    let schema = infer_schema(&table, &target, &Hints::named(&name))?;
    let model = match options.get("hidden", 0)? {
        0 => ModelSpec::Logistic { l2: options.get("l2", 1e-3)? },
        hidden => ModelSpec::Mlp { hidden, l2: options.get("l2", 1e-4)? },
    };
    let mut spec = TrainSpec::default_for(schema, model);
    spec.local = LocalSpec {
        epochs: options.get("epochs", spec.local.epochs)?,
        batch: options.get("batch", spec.local.batch)?,
        learning_rate: options.get("lr", spec.local.learning_rate)?,
        prox_mu: options.get("mu", spec.local.prox_mu)?,
    };
    spec.rounds = options.get("rounds", 15)?;
    let split = match options.0.get("split").map(String::as_str) {
        Some("even") => Split::Even,
        Some(column) => Split::Bands(column.to_owned()),
        None => Split::named(&name),
    };
    for fold in 0..options.get("folds", 1)? {
        let (train, test) = hold_out(&table, fold)?;
        let test = Dataset::new(&table, &spec.schema, &test)?;
        let all = Dataset::new(&table, &spec.schema, &train)?;
        let pooled = pooled_logistic(&spec.schema, &all, &test)?;
        println!("fold {fold} pooled {pooled:?}");
        let mut banks = BTreeMap::new();
        let shares = share_out(&table, &train, options.get("k", 5)?, &split)?;
        for (index, rows) in shares.iter().enumerate() {
            banks.insert(format!("bank-{index}"), Dataset::new(&table, &spec.schema, rows)?);
        }
        let workload = Workload::Train(spec.clone());
        let mut state = ModelState::initial(&workload, &CODE, &Hash([0; 32]));
        for round in 0..workload.rounds() {
            let members = banks.keys().cloned().collect();
            let set = FrozenSet { round, attempt: 0, members };
            let sum = plain_sum(&workload, &CODE, &state, &set, &banks)?;
            state = state.advance(&workload, round, &sum)?;
            if round > 0 {
                let got = evaluate(&spec, &CODE, &state, &test)?;
                println!("round {round}: gap {:+.4}, {got:?}", got.auc - pooled.auc);
            }
        }
    }
    Ok(())
}
