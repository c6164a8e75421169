//! Prints what noise costs a model under every regime: a tool for choosing defaults.
//!
//! ```text
//! cargo run --release --example sweep -- id3 nursery rank [epsilon=0.5 parties=10 depth=3 ..]
//! ```
//!
//! Models: id3, bayes, logistic, svm, nn. `window=4` mean-pools square images first. Data sets are
//! read from `QUORATE_DATA`, else from the folder `data`. All figures are simulated: plain sums with
//! exact noise.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, bail};
use quorate_client::learn::data::{Dataset, Hints, Table, infer_schema};
use quorate_client::learn::split::{Split, hold_out, share_out};
use quorate_client::learn::sweep::{Regime, Setting, spread};
use quorate_crypto::merkle::Hash;
use quorate_protocols::wire::Name;
use quorate_protocols::workload::{
    BayesSpec, ColumnKind, DEFAULT_CODE as CODE, ModelSpec, TrainSpec, TreeSpec, Workload,
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
    let usage = "usage: sweep MODEL SET TARGET [key=value ..]";
    let model = args.next().context(usage)?;
    let (name, target) = (args.next().context(usage)?, args.next().context(usage)?);
    let options = args.map(|arg| {
        let (key, value) = arg.split_once('=').context(usage)?;
        anyhow::Ok((key.to_owned(), value.to_owned()))
    });
    let options = Options(options.collect::<Result<_, _>>()?);

    let root = std::env::var("QUORATE_DATA").map_or_else(|_| PathBuf::from("data"), Into::into);
    let plain = root.join(format!("{name}.csv"));
    let file = if plain.exists() { plain } else { root.join(format!("{name}.csv.gz")) };
    let mut table = Table::read(&file)?;
    let window = options.get("window", 1)?;
    if window > 1 {
        table = table.pooled(options.get("side", 28)?, window)?;
    }
    let mut schema = infer_schema(&table, &target, &Hints::named(&name))?;
    if let Some(scale) = options.0.get("scale") {
        for column in &mut schema.columns {
            column.kind = ColumnKind::Numeric {
                offset: options.get("offset", 0.0)?,
                scale_log2: scale.parse()?,
            };
        }
    }
    let workload = match model.as_str() {
        "id3" => {
            let mut spec = TreeSpec::default_for(schema);
            spec.depth = options.get("depth", spec.depth)?;
            spec.max_frontier = options.get("frontier", spec.max_frontier)?;
            spec.min_rows = options.get("min", spec.min_rows)?;
            spec.ignored = options.get("ignored", spec.ignored)?;
            spec.table.bins = options.get("bins", spec.table.bins)?;
            Workload::Tree(spec)
        }
        "bayes" => {
            let mut spec = BayesSpec::default_for(schema);
            spec.table.bins = options.get("bins", spec.table.bins)?;
            spec.smoothing = options.get("smoothing", spec.smoothing)?;
            Workload::Bayes(spec)
        }
        kind => {
            let l2 = options.get("l2", 0.0)?;
            let model = match kind {
                "logistic" => ModelSpec::Logistic { l2 },
                "svm" => ModelSpec::Svm { l2 },
                "nn" => ModelSpec::Mlp { hidden: options.get("hidden", 16)?, l2 },
                _ => bail!("unknown model {kind:?}"),
            };
            let mut spec = TrainSpec::steps_for(schema, model);
            if let Some(steps) = &mut spec.steps {
                steps.clip = options.get("clip", steps.clip)?;
                steps.learning_rate = options.get("lr", steps.learning_rate)?;
                steps.momentum = options.get("momentum", steps.momentum)?;
            }
            spec.rounds = options.get("rounds", spec.rounds)?;
            spec.seed = options.get("init", spec.seed)?;
            println!("{} parameters", spec.params());
            Workload::Train(spec)
        }
    };
    workload.check()?;

    let count = options.get("parties", 10)?;
    let (train, test) = hold_out(&table, options.get("fold", 0)?)?;
    let rows = |rows: &[usize]| {
        Dataset::new(&table, workload.schema().context("no schema")?, rows).context("bad rows")
    };
    let test = rows(&test)?;
    let parties = share_out(&table, &train, count, &Split::Even)?
        .iter()
        .enumerate()
        .map(|(i, own)| anyhow::Ok((Name::new(&format!("party-{i}"))?, rows(own)?)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let setting = Setting {
        workload: &workload,
        code: CODE,
        job: Hash([0; 32]),
        parties: &parties,
        test: &test,
        epsilon: options.get("epsilon", 0.5)?,
        delta: options.get("delta", 1e-6)?,
        colluders: options.get("colluders", 1)?,
        quorum: options.get("quorum", u32::try_from(count)?)?,
    };
    println!("h = {}, {} training rows, {} held out", setting.shares(), train.len(), test.rows);
    for regime in Regime::ALL {
        let seeds = if regime == Regime::NoPrivacy { 1 } else { options.get("seeds", 5)? };
        let cells =
            (0..seeds).map(|seed| setting.cell(regime, seed)).collect::<Result<Vec<_>, _>>()?;
        let f1 = spread(&cells.iter().map(|cell| cell.fit.macro_f1).collect::<Vec<_>>());
        let accuracy = spread(&cells.iter().map(|cell| cell.fit.accuracy).collect::<Vec<_>>());
        println!(
            "{regime:<12?} macro-F1 {:.4} +- {:.4}  accuracy {:.4} +- {:.4}  (simulated)",
            f1.0, f1.1, accuracy.0, accuracy.1
        );
    }
    Ok(())
}
