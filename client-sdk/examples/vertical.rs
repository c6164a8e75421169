//! Trains a vertical model on joined rows, block by block as its parties would, and prints how well it
//! fits: a tool for choosing defaults.
//!
//! ```text
//! cargo run --release --example vertical -- credit_default logistic 3 [epochs=10 batch=256 rate=0.5 ..]
//! ```
//!
//! Models: linear, logistic, taylor, softmax, svm. The number is that of the passive parties, among whom the
//! columns are shared out evenly; the label holder has the rest. Data sets are read from
//! `QUORATE_DATA`, else from the folder `data`. All five folds are run.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use quorate_client::learn::data::{Hints, Table, infer_schema};
use quorate_client::learn::sweep::spread;
use quorate_client::vertical::fit::held_out;
use quorate_protocols::wire::Name;
use quorate_protocols::workload::{Block, LabelPrivacy, TargetKind, VerticalModel, VerticalSpec};

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: vertical SET MODEL PASSIVE [key=value ..]";
    let (name, model) = (args.next().context(usage)?, args.next().context(usage)?);
    let passive: usize = args.next().context(usage)?.parse()?;
    let options: BTreeMap<String, f64> = args
        .map(|arg| {
            let (key, value) = arg.split_once('=').context(usage)?;
            anyhow::Ok((key.to_owned(), value.parse()?))
        })
        .collect::<Result<_, _>>()?;
    let get = |key: &str, default: f64| options.get(key).copied().unwrap_or(default);
    let root = std::env::var("QUORATE_DATA").map_or_else(|_| PathBuf::from("data"), Into::into);
    let plain = root.join(format!("{name}.csv"));
    let file = if plain.exists() { plain } else { root.join(format!("{name}.csv.gz")) };
    let table = Table::read(&file)?;
    let target = match name.as_str() {
        "credit_default" => "default",
        "adult" => "income_gt_50k",
        "ionosphere" => "good",
        "landsat" => "soil",
        "nursery" => "rank",
        "digits" | "mnist" | "mnist7" => "digit",
        _ => bail!("no target is known for {name}"),
    };
    let schema = infer_schema(&table, target, &Hints::named(&name))?;
    let model = match model.as_str() {
        "linear" => VerticalModel::Linear,
        "logistic" => VerticalModel::Logistic { taylor: false },
        "taylor" => VerticalModel::Logistic { taylor: true },
        "softmax" => VerticalModel::Softmax,
        "svm" => VerticalModel::Svm,
        other => bail!("unknown model {other}"),
    };
    let share = schema.columns.len().div_ceil(passive + 1);
    let mut blocks: Vec<Block> = schema
        .columns
        .chunks(share)
        .enumerate()
        .map(|(i, columns)| {
            Ok(Block { party: Name::new(&format!("party-{i}"))?, columns: columns.to_vec() })
        })
        .collect::<anyhow::Result<_>>()?;
    blocks.truncate(passive + 1);
    let epsilon = get("epsilon", 0.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small numbers")]
    let spec = VerticalSpec {
        holder: blocks[0].party.clone(),
        blocks,
        target: target.to_owned(),
        target_kind: TargetKind::Classes(schema.classes.clone()),
        identifiers: vec!["id".to_owned()],
        model,
        l2: get("l2", 1e-3),
        selection: get("selection", 0.0),
        epochs: get("epochs", 10.0) as u32,
        batch: get("batch", 256.0) as u32,
        learning_rate: get("rate", 0.5),
        momentum: get("momentum", 0.9),
        labels: if epsilon > 0.0 {
            LabelPrivacy::Noise { epsilon, delta: 1e-5 }
        } else {
            LabelPrivacy::Visible
        },
        static_features: false,
        lone_changes: false,
        max_rows: 1 << 20,
    };
    let (mut areas, mut shares) = (Vec::new(), Vec::new());
    for fold in 0..5 {
        let (area, share) = held_out(&table, &spec, fold, 1)?;
        areas.push(area);
        shares.push(share);
    }
    let features: Vec<u64> = spec.blocks.iter().map(Block::features).collect();
    let (area, share) = (spread(&areas), spread(&shares));
    println!("features {features:?}");
    println!("AUC {:.4} +- {:.4}  accuracy {:.4} +- {:.4}", area.0, area.1, share.0, share.1);
    println!("by fold: {areas:.4?}");
    Ok(())
}
