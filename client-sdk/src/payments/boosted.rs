//! Gradient boosting of small trees on the logistic loss: the other pooled reference.

use super::binned::{BINS, Binned};
use super::features::Columns;

/// Trees, their levels, and how much of each is added.
const ROUNDS: usize = 100;
const DEPTH: usize = 4;
const RATE: f64 = 0.1;

/// Second derivatives of the loss that count for 0 in every leaf, and the least of them in a child.
const SHRINKAGE: f64 = 1.0;
const LEAST: f64 = 0.1;

/// Sums of the first and second derivatives of the loss.
#[derive(Clone, Copy, Default)]
struct Slope {
    first: f64,
    second: f64,
}

impl Slope {
    fn add(&mut self, other: Self) {
        self.first += other.first;
        self.second += other.second;
    }

    fn less(self, other: Self) -> Self {
        Self { first: self.first - other.first, second: self.second - other.second }
    }

    /// What the loss falls by when the leaf takes its best value, doubled.
    fn gain(self) -> f64 {
        self.first * self.first / (self.second + SHRINKAGE)
    }

    fn value(self) -> f64 {
        -RATE * self.first / (self.second + SHRINKAGE)
    }
}

/// Log-odds of all rows by boosted trees grown on `training`.
#[must_use]
pub fn scores(columns: &Columns, labels: &[bool], training: &[usize]) -> Vec<f64> {
    let binned = Binned::all(columns, training);
    let anomalous = training.iter().filter(|row| labels[**row]).count() as f64;
    let base = libm::log((anomalous + 0.5) / (training.len() as f64 - anomalous + 0.5));
    let mut scores = vec![base; columns.rows()];
    for _ in 0..ROUNDS {
        let slopes: Vec<Slope> = training
            .iter()
            .map(|row| {
                let p = 1.0 / (1.0 + libm::exp(-scores[*row]));
                Slope { first: p - f64::from(u8::from(labels[*row])), second: p * (1.0 - p) }
            })
            .collect();
        let splits = grow(&binned, training, &slopes);
        for (row, score) in scores.iter_mut().enumerate() {
            let mut node = 0;
            while let Some(Split::At { column, bin }) = splits.get(node) {
                node = 2 * node + 1 + usize::from(binned[*column].bins[row] > *bin);
            }
            if let Some(Split::Leaf(value)) = splits.get(node) {
                *score += value;
            }
        }
    }
    scores
}

/// A node of a tree; the children of node i are 2 i + 1 and 2 i + 2.
#[derive(Clone, Copy)]
enum Split {
    At { column: usize, bin: u8 },
    Leaf(f64),
}

/// One tree, level by level.
fn grow(binned: &[Binned], training: &[usize], slopes: &[Slope]) -> Vec<Split> {
    let nodes = (2 << DEPTH) - 1;
    let mut splits = vec![Split::Leaf(0.0); nodes];
    let mut at = vec![0usize; training.len()];
    for level in 0..=DEPTH {
        let (first, width) = ((1 << level) - 1, 1 << level);
        let mut totals = vec![Slope::default(); width];
        for (node, slope) in at.iter().zip(slopes) {
            if let Some(total) = node.checked_sub(first).and_then(|place| totals.get_mut(place)) {
                total.add(*slope);
            }
        }
        let mut best: Vec<(f64, Split)> =
            totals.iter().map(|total| (total.gain() + 1e-9, Split::Leaf(total.value()))).collect();
        for (column, values) in
            binned.iter().enumerate().take(if level < DEPTH { binned.len() } else { 0 })
        {
            let mut bins = vec![Slope::default(); width * BINS];
            for ((row, node), slope) in training.iter().zip(&at).zip(slopes) {
                if let Some(place) = node.checked_sub(first) {
                    bins[place * BINS + usize::from(values.bins[*row])].add(*slope);
                }
            }
            for ((bins, total), best) in bins.chunks(BINS).zip(&totals).zip(&mut best) {
                let mut below = Slope::default();
                for (bin, slope) in (0..=u8::MAX).zip(&bins[..BINS - 1]) {
                    below.add(*slope);
                    let above = total.less(below);
                    let gain = below.gain() + above.gain();
                    if gain > best.0 && below.second >= LEAST && above.second >= LEAST {
                        *best = (gain, Split::At { column, bin });
                    }
                }
            }
        }
        for (place, (_, split)) in best.into_iter().enumerate() {
            splits[first + place] = split;
        }
        for (row, node) in training.iter().zip(&mut at) {
            if let Some(Split::At { column, bin }) = splits.get(*node).filter(|_| *node >= first) {
                *node = 2 * *node + 1 + usize::from(binned[*column].bins[*row] > *bin);
            }
        }
    }
    splits
}

#[cfg(test)]
mod tests {
    use quorate_protocols::pv4fad::forest::Range;

    use super::*;

    #[test]
    fn boosting_finds_what_two_columns_tell_together() {
        let range = |name: &str| Range { name: name.to_owned(), low: 0, high: 100, weight: 1 };
        let rows = 4000;
        let first: Vec<i32> = (0..rows).map(|row| row * 37 % 101).collect();
        let second: Vec<i32> = (0..rows).map(|row| row * 53 % 89).collect();
        let both = first.iter().zip(&second);
        let labels: Vec<bool> = both.map(|(a, b)| (*a > 60) ^ (*b > 30)).collect();
        let columns =
            Columns::default().with(range("first"), &first).with(range("second"), &second);
        let training: Vec<usize> = (0..2000).collect();
        let scores = scores(&columns, &labels, &training);
        let right = scores.iter().zip(&labels).skip(2000);
        let right = right.filter(|(score, label)| (**score > 0.0) == **label).count();
        assert!(right > 1960, "{right} of 2000");
    }
}
