//! How well a vertical model fits rows whose labels are known.

use quorate_protocols::fedv::linear::{self, Targets};
use quorate_protocols::workload::{Block, VerticalModel, VerticalSpec};

use super::block::{features, targets};
use super::twin::Joined;
use crate::learn::LearnError;
use crate::learn::data::Table;
use crate::learn::metrics::{auc, macro_auc};
use crate::learn::split::hold_out;

/// Probabilities or decision values of scores at scale 2^36: per output one for each of `rows` rows.
#[must_use]
pub fn decisions(spec: &VerticalSpec, scores: &[i64], rows: usize) -> Vec<Vec<f64>> {
    let mut by_output = vec![Vec::with_capacity(rows); spec.outputs()];
    for row in 0..rows {
        let own: Vec<i64> = scores.iter().skip(row).step_by(rows).copied().collect();
        let values = linear::decisions(spec.model, &own);
        by_output.iter_mut().zip(values).for_each(|(output, value)| output.push(value));
    }
    by_output
}

/// AUC and accuracy of scores at scale 2^36, one output after the other, on rows of class numbers
/// `labels`; for more than two classes the mean AUC of one class against the rest.
#[must_use]
pub fn metrics(spec: &VerticalSpec, scores: &[i64], labels: &[usize]) -> (f64, f64) {
    classified(spec.model, &decisions(spec, scores, labels.len()), labels)
}

/// The same of [`decisions`].
#[must_use]
pub fn classified(model: VerticalModel, by_output: &[Vec<f64>], labels: &[usize]) -> (f64, f64) {
    let value = |output: usize, row: usize| {
        by_output.get(output).and_then(|own| own.get(row)).copied().unwrap_or(f64::NAN)
    };
    let middle = if matches!(model, VerticalModel::Logistic { .. }) { 0.5 } else { 0.0 };
    let named = |row: usize| match by_output.len() {
        0 | 1 => usize::from(value(0, row) > middle),
        outputs => (1..outputs)
            .fold(0, |best, class| if value(class, row) > value(best, row) { class } else { best }),
    };
    let right = labels.iter().enumerate().filter(|(row, label)| named(*row) == **label).count();
    let area = match by_output {
        [only] => {
            let positive: Vec<bool> = labels.iter().map(|label| *label == 1).collect();
            auc(only, &positive)
        }
        several => macro_auc(several, labels),
    };
    (area, right as f64 / labels.len().max(1) as f64)
}

/// R^2: the share of the variance of `truth` that `predicted` explains; NaN for a constant truth.
#[must_use]
pub fn explained(predicted: &[f64], truth: &[f64]) -> f64 {
    let mean = truth.iter().sum::<f64>() / truth.len() as f64;
    let all: f64 = truth.iter().map(|y| (y - mean) * (y - mean)).sum();
    let rest: f64 = truth.iter().zip(predicted).map(|(y, p)| (y - p) * (y - p)).sum();
    1.0 - rest / all
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
    let split = u32::try_from(train.len()).map_err(|e| data(&e))?;
    let count = u32::try_from(rows.len()).map_err(|e| data(&e))?;
    let trained: Vec<u32> = (0..split).collect();
    let joined = Joined { spec, blocks: &blocks, targets: &targets, trained: &trained };
    let seed = seed.wrapping_mul(1 << 8).wrapping_add(fold.into());
    let models = joined.simulate(seed).map_err(|e| data(&e))?;
    let tested: Vec<u32> = (split..count).collect();
    let scores = joined.scores(&models, &tested);
    let Targets::Classes(classes) = &targets else {
        return Err(LearnError::Data("the target is a number: it has no AUC".to_owned()));
    };
    let labels: Vec<usize> =
        classes.iter().skip(train.len()).map(|class| *class as usize).collect();
    Ok(metrics(spec, &scores, &labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_output_is_compared_with_the_middle_and_several_with_each_other() {
        let logistic = VerticalModel::Logistic { taylor: false };
        let labels = [1, 0, 1, 0];
        let fit = |model, values: &[f64]| classified(model, &[values.to_vec()], &labels);
        assert_eq!(fit(logistic, &[0.9, 0.1, 0.4, 0.2]), (1.0, 0.75));
        assert_eq!(fit(VerticalModel::Svm, &[0.9, 0.1, -0.4, -0.2]), (0.5, 0.5));
        let by_output = [vec![0.1, 0.6], vec![0.2, 0.5], vec![0.9, 0.4]];
        assert_eq!(classified(logistic, &by_output, &[2, 1]).1, 0.5);
    }

    #[test]
    fn a_mean_explains_nothing_and_the_truth_all() {
        let truth = [1.0, 2.0, 6.0];
        assert_eq!(explained(&truth, &truth), 1.0);
        assert_eq!(explained(&[3.0; 3], &truth), 0.0);
    }
}
