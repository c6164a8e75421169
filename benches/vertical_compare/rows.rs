//! Rows of `credit_default` split over three parties, and rows of any width.

use std::path::PathBuf;

use anyhow::{Context, Result};
use quorate_client::learn::data::{Hints, Table, infer_schema};
use quorate_client::vertical::block;
use quorate_protocols::fedv::linear::{Features, Targets};
use quorate_protocols::wire::Name;
use quorate_protocols::workload::{
    Block, Column, ColumnKind, LabelPrivacy, TargetKind, VerticalModel, VerticalSpec,
};
use quorate_server::bench::vertical::local::Rows;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Who holds a column of `credit_default`.
fn party_of(column: &str) -> &'static str {
    match column {
        name if name.starts_with("pay_amt") || name.starts_with("bill_amt") => "network",
        name if name.starts_with("pay_") => "bureau",
        _ => "lender",
    }
}

/// A job and its rows, all in memory.
pub(crate) struct Joined {
    pub(crate) spec: VerticalSpec,
    pub(crate) blocks: Vec<Features>,
    pub(crate) targets: Targets,
    pub(crate) count: u32,
}

impl Joined {
    /// The data set `credit_default`: the lender has the label.
    pub(crate) fn credit_default(batch: u32) -> Result<Self> {
        let root = std::env::var("QUORATE_DATA").map_or_else(
            |_| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../data")),
            Into::into,
        );
        let table = Table::read(&root.join("credit_default.csv.gz"))?;
        let schema = infer_schema(&table, "default", &Hints::named("credit_default"))?;
        let blocks: Vec<Block> = ["bureau", "lender", "network"]
            .into_iter()
            .map(|party| {
                let own = |column: &&Column| party_of(&column.name) == party;
                let columns = schema.columns.iter().filter(own).cloned().collect();
                Ok(Block { party: Name::new(party)?, columns })
            })
            .collect::<Result<_>>()?;
        let spec = spec(blocks, "lender", "default", schema.classes, batch)?;
        let rows: Vec<usize> = (0..table.rows()).collect();
        let (targets, trained) = block::targets(&table, &spec, &rows)?;
        let blocks = spec
            .blocks
            .iter()
            .map(|block| Ok(block::features(&table, block, &rows, &trained)?))
            .collect::<Result<_>>()?;
        Ok(Self { spec, blocks, targets, count: u32::try_from(rows.len())? })
    }

    /// `count` random rows: `holder` columns at the label holder and `passive` at two other parties
    /// together.
    pub(crate) fn random(holder: usize, passive: usize, count: u32, batch: u32) -> Result<Self> {
        let widths = [passive / 2, holder, passive - passive / 2];
        let names = ["bureau", "lender", "network"];
        let blocks = names
            .into_iter()
            .zip(widths)
            .map(|(party, width)| {
                let kind = ColumnKind::Numeric { offset: 0.0, scale_log2: 0 };
                let column = |j| Column { name: format!("{party}-{j}"), kind: kind.clone() };
                Ok(Block { party: Name::new(party)?, columns: (0..width).map(column).collect() })
            })
            .collect::<Result<_>>()?;
        let classes = vec!["0".to_owned(), "1".to_owned()];
        let spec = spec(blocks, "lender", "default", classes, batch)?;
        let mut rng = ChaCha20Rng::seed_from_u64(passive as u64);
        let mut unit = || f64::from(rng.next_u32()) / f64::from(u32::MAX) * 3.0 - 1.5;
        let features = |width: usize| {
            let values: Vec<f64> = (0..width * count as usize).map(|_| unit()).collect();
            Features::new(width, values.into_iter())
        };
        let blocks = widths.map(features).into_iter().collect();
        let targets = Targets::Classes((0..count).map(|row| row % 2).collect());
        Ok(Self { spec, blocks, targets, count })
    }

    /// The label holder's number among the blocks.
    pub(crate) fn holder(&self) -> Result<usize> {
        let at = self.spec.blocks.iter().position(|block| block.party == self.spec.holder);
        at.context("no block of the label holder")
    }

    /// 1 for rows of the positive class, else 0.
    pub(crate) fn labels(&self, rows: &[u32]) -> Vec<i64> {
        match &self.targets.select(rows) {
            Targets::Classes(classes) => classes.iter().map(|class| i64::from(*class)).collect(),
            Targets::Real(_) => Vec::new(),
        }
    }
}

impl Rows for Joined {
    fn features(&self, party: usize, rows: &[u32]) -> Features {
        self.blocks[party].select(rows)
    }

    fn targets(&self, rows: &[u32]) -> Targets {
        self.targets.select(rows)
    }

    fn in_memory(&self) -> bool {
        true
    }
}

/// Logistic regression by its second-order approximation, which all three schemes can train.
fn spec(
    blocks: Vec<Block>,
    holder: &str,
    target: &str,
    classes: Vec<String>,
    batch: u32,
) -> Result<VerticalSpec> {
    Ok(VerticalSpec {
        blocks,
        holder: Name::new(holder)?,
        target: target.into(),
        target_kind: TargetKind::Classes(classes),
        identifiers: vec!["id".into()],
        model: VerticalModel::Logistic { taylor: true },
        l2: 1e-3,
        selection: 0.0,
        epochs: 1,
        batch,
        learning_rate: 0.1,
        momentum: 0.0,
        labels: LabelPrivacy::Noise { epsilon: 4.0, delta: 1e-5 },
        static_features: false,
        lone_changes: false,
        max_rows: 100_000,
    })
}
