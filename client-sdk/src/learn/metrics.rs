//! Scores of a model on held-out rows.

use quorate_crypto::fixed::FixedPoint;
use quorate_protocols::model::ModelState;
use quorate_protocols::workload::{TrainSpec, Workload};
use serde::Serialize;

use super::LearnError;
use super::counts::{self, Bayes, Values, strongest};
use super::data::Dataset;
use super::features::Design;
use super::model::{Net, decode};

/// A class with fewer held-out rows is left out of the mean AUC.
const MIN_CLASS_ROWS: usize = 10;

/// How well a model does on some rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metrics {
    /// Area under the ROC curve; for more than two classes the unweighted one-versus-rest mean over
    /// classes with at least 10 rows. NaN when no class has both kinds of rows.
    pub auc: f64,
    /// Share of rows whose most probable class is right.
    pub accuracy: f64,
    /// Mean log-loss.
    pub log_loss: f64,
}

/// Scores the model of `state` on `data`.
///
/// # Errors
/// [`LearnError::State`] when the state does not fit the workload.
pub fn evaluate(
    spec: &TrainSpec,
    code: &FixedPoint,
    state: &ModelState,
    data: &Dataset,
) -> Result<Metrics, LearnError> {
    let net = Net::new(spec);
    let w = decode(&net, code, state)?;
    Ok(score(&net, &Design::new(spec, state, data)?, &w))
}

/// How well the classes that a model names fit some rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Fit {
    /// Share of rows whose class is right.
    pub accuracy: f64,
    /// Unweighted mean, over the classes with at least 10 rows (all classes where there are fewer
    /// rows), of F1 = 2 tp / (2 tp + fp + fn).
    pub macro_f1: f64,
}

/// The classes that the model of `state` names for the rows of `data`.
///
/// # Errors
/// [`LearnError::State`] when the state does not fit the workload.
pub fn predict(
    workload: &Workload,
    code: &FixedPoint,
    state: &ModelState,
    data: &Dataset,
) -> Result<Vec<u32>, LearnError> {
    match workload {
        Workload::Sum { .. } | Workload::Vertical(_) | Workload::Payments(_) => {
            Err(LearnError::State)
        }
        Workload::Train(spec) => {
            let net = Net::new(spec);
            let w = decode(&net, code, state)?;
            let design = Design::new(spec, state, data)?;
            let mut scratch = net.scratch();
            let mut class = |index: usize| {
                strongest(&net.leanings(net.scores(&w, &design.row(index), &mut scratch)))
            };
            Ok((0..design.rows).map(&mut class).collect())
        }
        Workload::Tree(spec) => {
            let tree = counts::tree(state)?;
            Ok(Values::new(&spec.table, data)?.rows().map(|row| tree.class(row)).collect())
        }
        Workload::Bayes(spec) => {
            let bayes = Bayes::new(spec, state)?;
            Ok(Values::new(&spec.table, data)?.rows().map(|row| bayes.class(row)).collect())
        }
    }
}

/// How well `named` fits `labels`, class numbers below `classes`.
#[must_use]
pub fn fit(named: &[u32], labels: &[u32], classes: usize) -> Fit {
    let mut cells = vec![(0u32, 0u32, 0u32); classes];
    let mut right = 0u32;
    for (named, label) in named.iter().zip(labels) {
        right += u32::from(named == label);
        for (class, (both, said, is)) in (0u32..).zip(cells.iter_mut()) {
            *both += u32::from(*named == class && *label == class);
            *said += u32::from(*named == class);
            *is += u32::from(*label == class);
        }
    }
    let least = if labels.len() < MIN_CLASS_ROWS { 1 } else { MIN_CLASS_ROWS };
    let scores: Vec<f64> = cells
        .iter()
        .filter(|(_, _, is)| *is as usize >= least)
        .map(|(both, said, is)| 2.0 * f64::from(*both) / f64::from(said + is))
        .collect();
    let macro_f1 = scores.iter().sum::<f64>() / scores.len().max(1) as f64;
    Fit { accuracy: f64::from(right) / labels.len().max(1) as f64, macro_f1 }
}

/// Scores parameters `w` on the rows of `design`.
#[must_use]
pub fn score(net: &Net, design: &Design, w: &[f64]) -> Metrics {
    let mut scratch = net.scratch();
    let (mut right, mut log_loss) = (0usize, 0.0);
    let mut by_class: Vec<Vec<f64>> = vec![Vec::new(); net.outputs.max(2)];
    for index in 0..design.rows {
        let row = design.row(index);
        let probability = net.leanings(net.scores(w, &row, &mut scratch));
        let mut best = 0;
        for (class, value) in probability.iter().enumerate() {
            if *value > probability[best] {
                best = class;
            }
            by_class[class].push(*value);
        }
        right += usize::from(best == row.label);
        log_loss += net.loss(w, &row, &mut scratch);
    }
    let rows = design.rows.max(1) as f64;
    let auc = if net.outputs == 1 {
        let positive: Vec<bool> = design.labels.iter().map(|label| *label == 1).collect();
        auc(&by_class[1], &positive)
    } else {
        macro_auc(&by_class, &design.labels)
    };
    Metrics { auc, accuracy: right as f64 / rows, log_loss: log_loss / rows }
}

/// The mean AUC of one class against the rest, over classes with at least 10 rows.
#[must_use]
pub fn macro_auc(by_class: &[Vec<f64>], labels: &[usize]) -> f64 {
    let mut areas = Vec::new();
    for (class, scores) in by_class.iter().enumerate() {
        let positive: Vec<bool> = labels.iter().map(|label| *label == class).collect();
        let count = positive.iter().filter(|is| **is).count();
        if count >= MIN_CLASS_ROWS && count < labels.len() {
            areas.push(auc(scores, &positive));
        }
    }
    areas.iter().sum::<f64>() / areas.len() as f64
}

/// Area under the ROC curve: the share of (positive, negative) pairs in the right order, ties
/// counting half. NaN without both kinds.
#[must_use]
pub fn auc(scores: &[f64], positive: &[bool]) -> f64 {
    let mut order: Vec<(f64, bool)> =
        scores.iter().copied().zip(positive.iter().copied()).collect();
    order.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let (mut below, mut twice_wins) = (0u64, 0u64);
    let (mut positives, mut negatives) = (0u64, 0u64);
    // -0 and 0 are equal scores though they sort apart; they do sort next to each other.
    for ties in order.chunk_by(|a, b| a.0 == b.0) {
        let up = ties.iter().filter(|(_, is)| *is).count() as u64;
        let down = ties.len() as u64 - up;
        twice_wins += up * (2 * below + down);
        below += down;
        positives += up;
        negatives += down;
    }
    twice_wins as f64 / (2.0 * positives as f64 * negatives as f64)
}

/// Average precision, the area under the precision-recall curve: the mean over the positives of the
/// precision among all that score at least as high. NaN without positives.
#[must_use]
pub fn average_precision(scores: &[f64], positive: &[bool]) -> f64 {
    let mut order: Vec<(f64, bool)> =
        scores.iter().copied().zip(positive.iter().copied()).collect();
    order.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
    let (mut found, mut taken, mut area) = (0usize, 0usize, 0.0);
    for ties in order.chunk_by(|a, b| a.0 == b.0) {
        let new = ties.iter().filter(|(_, is)| *is).count();
        found += new;
        taken += ties.len();
        area += new as f64 * found as f64 / taken as f64;
    }
    area / found as f64
}

#[cfg(test)]
mod tests {
    use super::average_precision;

    #[test]
    fn average_precision_is_that_of_the_definition() {
        let of = |pairs: &[(f64, bool)]| {
            let (scores, positive): (Vec<f64>, Vec<bool>) = pairs.iter().copied().unzip();
            average_precision(&scores, &positive)
        };
        assert_eq!(of(&[(0.1, false), (0.9, true), (0.5, true)]), 1.0);
        // Positives at places 1 and 3.
        assert_eq!(
            of(&[(0.9, true), (0.5, false), (0.4, true), (0.1, false)]),
            (1.0 + 2.0 / 3.0) / 2.0
        );
        // Equal scores are taken together, -0 and 0 among them.
        assert_eq!(of(&[(0.0, true), (-0.0, false), (0.0, false), (0.0, false)]), 0.25);
        assert!(of(&[(0.5, false)]).is_nan());
    }
}
