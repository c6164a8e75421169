//! Repeats a payments job in the clear: for demonstrations and tests, which compare.

use std::collections::{BTreeMap, HashMap};

use quorate_crypto::merkle::{Hash, hash_parts};
use quorate_protocols::pv4fad::PvSpec;
use quorate_protocols::pv4fad::forest::{BITS, Cells, Forest, ONE, Prior, Scores, Totals};
use quorate_protocols::refusal::Refusal;
use quorate_protocols::wire::{Name, encode};
use serde::{Deserialize, Serialize};

use super::bank::AccountBook;
use super::record::Payment;
use super::twin::{PRIOR_ROWS, Sample, forest_spec, pooled_score};
use super::{PaymentsError, bank_name};
use crate::api::Hex32;

/// What repeats a job without noise: what the network drew, and whom it lost.
///
/// # Security
/// Whoever has it knows which row id belongs to which payment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Replay {
    /// What the forest was drawn from.
    pub forest_seed: Hex32,
    /// Seed of the network's own model.
    pub model_seed: u64,
    /// Random id of each training payment, in order, in hex: banks count an account's rows in the
    /// order of these.
    pub rows: Vec<String>,
    /// Whether each of them counts: false where a bank was lost.
    pub counted: Vec<bool>,
    /// Payments that were scored, by their place in the table.
    pub scored: Vec<usize>,
}

/// What training and scoring in the clear give.
pub struct Repeated {
    /// The counts; none of a strict job, which opens none.
    pub counts: Vec<i64>,
    /// Scores by payment.
    pub scores: Vec<(usize, f64)>,
}

/// Hash of counts and scores, by which two processes compare them.
#[must_use]
pub fn result_hash(counts: &[i64], scores: &[(usize, f64)]) -> Hash {
    let scores: Vec<(u64, u64)> =
        scores.iter().map(|(row, score)| (*row as u64, score.to_bits())).collect();
    hash_parts("quorate/pv-result/1", &[&encode(&counts), &encode(&scores)])
}

/// The network's columns for its forest, the score of its own model among them.
#[must_use]
pub fn network_columns(sample: &Sample, model_seed: u64) -> super::features::Columns {
    sample.stacked(&sample.forest_scores(&sample.columns, model_seed))
}

/// The scores of rows for the classes that `class` gives, from what was opened.
pub fn scores_of(
    (forest, totals, cells): (&Forest, &Totals, &Cells),
    columns: &super::features::Columns,
    rows: &[usize],
    class: impl Fn(usize) -> usize,
) -> Vec<(usize, f64)> {
    let scores = Scores::new(forest, totals, cells, Prior::new(PRIOR_ROWS, None));
    let score = |row: usize| {
        let table = scores.of(forest, columns.row(row));
        table.get(class(row)).map_or(0.0, |score| *score as f64 / ONE as f64)
    };
    rows.iter().map(|row| (*row, score(*row))).collect()
}

/// Trains and scores in the clear, as the parties of the job did under encryption and without noise.
///
/// # Errors
/// [`PaymentsError::Setting`] when payments, job and replay do not fit.
pub fn repeat(
    spec: &PvSpec,
    payments: &[Payment],
    books: BTreeMap<Name, AccountBook>,
    replay: &Replay,
) -> Result<Repeated, PaymentsError> {
    let bad = |why: String| PaymentsError::Setting(why);
    let refused = |refusal: Refusal| PaymentsError::Setting(refusal.detail);
    // Books by the names of banks in payments.
    let mut by_text: HashMap<String, AccountBook> = HashMap::new();
    let mut books = books;
    for text in payments.iter().flat_map(|p| [&p.sender_bank, &p.receiver_bank]) {
        if let Some(book) = books.remove(&bank_name(text).map_err(refused)?) {
            by_text.insert(text.clone(), book);
        }
    }
    let sample = Sample::new(payments, &by_text);
    if sample.training.len() != replay.rows.len() || replay.counted.len() != replay.rows.len() {
        return Err(bad("the replay is of other payments".to_owned()));
    }
    let columns = network_columns(&sample, replay.model_seed);
    let forest = forest_spec(&columns, spec.trees.into(), spec.depth.into(), replay.forest_seed.0);
    let forest = Forest::draw(&forest).map_err(|error| bad(error.to_string()))?;
    // Banks see an account's rows on the ordering side first, on each side by random id.
    let mut order: Vec<usize> = (0..replay.rows.len()).collect();
    order.sort_unstable_by_key(|place| replay.rows.get(*place));
    let mut bits = vec![[false; BITS]; order.len()];
    let mut times: HashMap<u32, u32> = HashMap::new();
    for side in 0..2 {
        for place in &order {
            let own = sample.sides[sample.training[*place]][side];
            let times = times.entry(own.account).or_default();
            *times += 1;
            if *times <= spec.rows_per_account {
                let found = own.finding.severity().bits();
                bits[*place].iter_mut().zip(found).for_each(|(bit, found)| *bit |= found);
            }
        }
    }
    let (mut totals, mut cells) = (Totals::new(&forest), Cells::new(&forest));
    for (place, row) in sample.training.iter().enumerate().filter(|(p, _)| replay.counted[*p]) {
        let (features, label) = (columns.row(*row), sample.labels[*row]);
        totals.add(&forest, features, label);
        cells.add(&forest, features, label, bits[place]);
    }
    let class = |row: usize| sample.class(row).class();
    let what = (&forest, &totals, &cells);
    if spec.strict {
        let score = pooled_score(what, None);
        let scored = replay.scored.iter().map(|row| (*row, score(columns.row(*row), class(*row))));
        let scores = scored.collect();
        return Ok(Repeated { counts: Vec::new(), scores });
    }
    let scores = scores_of(what, &columns, &replay.scored, class);
    Ok(Repeated { counts: cells.counts().to_vec(), scores })
}
