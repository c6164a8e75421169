//! How well a vertical model fits rows whose labels are known.

use quorate_crypto::merkle::hash_parts;
use quorate_crypto::secret::Secret;
use quorate_protocols::fedv::linear::{Targets, decisions};
use quorate_protocols::workload::{Block, VerticalSpec};

use super::block::{features, targets};
use super::twin::{Joined, Seeds};
use crate::learn::LearnError;
use crate::learn::data::Table;
use crate::learn::metrics::{auc, macro_auc};
use crate::learn::split::hold_out;

/// AUC and accuracy of scores at scale 2^36, one output after the other, on rows of class numbers
/// `labels`; for more than two classes the mean AUC of one class against the rest.
#[must_use]
pub fn metrics(spec: &VerticalSpec, scores: &[i64], labels: &[usize]) -> (f64, f64) {
    let outputs = spec.outputs();
    let rows = labels.len().max(1);
    let mut by_output = vec![Vec::with_capacity(rows); outputs];
    for row in 0..labels.len() {
        let own: Vec<i64> = scores.iter().skip(row).step_by(rows).copied().collect();
        let values = decisions(spec.model, &own);
        by_output.iter_mut().zip(values).for_each(|(output, value)| output.push(value));
    }
    let mut right = 0usize;
    for (row, label) in labels.iter().enumerate() {
        let named = if outputs == 1 {
            usize::from(scores[row] > 0)
        } else {
            (1..outputs).fold(0, |best, class| {
                if scores[class * rows + row] > scores[best * rows + row] { class } else { best }
            })
        };
        right += usize::from(named == *label);
    }
    let area = if outputs == 1 {
        let positive: Vec<bool> = labels.iter().map(|label| *label == 1).collect();
        auc(&by_output[0], &positive)
    } else {
        macro_auc(&by_output, labels)
    };
    (area, right as f64 / rows as f64)
}

/// AUC and accuracy on one fold of `table` of the plain twin trained on the others: what a job over these
/// rows reaches, in plain arithmetic. Its random choices follow from `seed`.
///
/// # Errors
/// [`LearnError::Data`] when the table lacks folds, a column or a class, or the target is a number.
pub fn held_out(
    table: &Table,
    spec: &VerticalSpec,
    fold: u32,
    seed: u64,
) -> Result<(f64, f64), LearnError> {
    let data = |error: &dyn core::fmt::Display| LearnError::Data(error.to_string());
    let (train, test) = hold_out(table, fold)?;
    let rows: Vec<usize> = train.iter().chain(&test).copied().collect();
    let all = vec![true; rows.len()];
    let of_block = |block: &Block| features(table, block, &rows, &all);
    let blocks = spec.blocks.iter().map(of_block).collect::<Result<Vec<_>, _>>()?;
    let (targets, _) = targets(table, spec, &rows)?;
    let of = |what: &str, parts: &[u32]| {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.to_le_bytes()).collect();
        let parts: [&[u8]; 4] = [&seed.to_le_bytes(), what.as_bytes(), &fold.to_le_bytes(), &bytes];
        Secret::new(hash_parts("quorate/held-out/1", &parts).0)
    };
    let weights: Vec<_> = (0u32..).zip(&blocks).map(|(i, _)| of("weights", &[i])).collect();
    let seeds = Seeds {
        weights: &weights,
        order: &|epoch| of("order", &[epoch]),
        noise: &|epoch, batch| of("noise", &[epoch, batch]),
    };
    let split = u32::try_from(train.len()).map_err(|e| data(&e))?;
    let count = u32::try_from(rows.len()).map_err(|e| data(&e))?;
    let trained: Vec<u32> = (0..split).collect();
    let joined = Joined { spec, blocks: &blocks, targets: &targets, trained: &trained };
    let models = joined.train(&seeds).map_err(|e| data(&e))?;
    let tested: Vec<u32> = (split..count).collect();
    let scores = joined.scores(&models, &tested);
    let Targets::Classes(classes) = &targets else {
        return Err(LearnError::Data("the target is a number: it has no AUC".to_owned()));
    };
    let labels: Vec<usize> =
        classes.iter().skip(train.len()).map(|class| *class as usize).collect();
    Ok(metrics(spec, &scores, &labels))
}
