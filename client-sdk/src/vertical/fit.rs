//! How well a vertical model fits rows whose labels are known.

use quorate_protocols::fedv::linear::decision;
use quorate_protocols::workload::VerticalSpec;

use crate::learn::metrics::{auc, macro_auc};

/// AUC and accuracy of scores at scale 2^36, one output after the other, on rows of class numbers
/// `labels`; for more than two classes the mean AUC of one class against the rest.
#[must_use]
pub fn metrics(spec: &VerticalSpec, scores: &[i64], labels: &[usize]) -> (f64, f64) {
    let outputs = spec.outputs();
    let rows = labels.len().max(1);
    let by_output: Vec<Vec<f64>> = scores
        .chunks(rows)
        .map(|own| own.iter().map(|score| decision(spec.model, *score)).collect())
        .collect();
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
