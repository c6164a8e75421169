//! A random forest that sees its data: the network's own model, and the pooled reference.
//!
//! Trees split on the best of a few columns by Gini impurity, over rows that are drawn with
//! replacement. All rows of one group (a payer) are drawn together, so that the trees which did not
//! see a row saw none of its group either; their mean is a score of the row that is not fitted to it.

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};

use super::binned::{BINS, Binned};
use super::features::Columns;

/// How trees grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    /// Trees.
    pub trees: u32,
    /// Splits between root and leaf, at most.
    pub depth: u32,
    /// Drawn rows in a leaf, at least.
    pub leaf_rows: u32,
    /// Columns tried at each split.
    pub tries: usize,
    /// What is drawn from.
    pub seed: u64,
}

impl Growth {
    /// 100 trees of depth 12 with leaves of at least 5 rows, trying the square root of the columns.
    #[must_use]
    pub const fn standard(columns: usize, seed: u64) -> Self {
        Self { trees: 100, depth: 12, leaf_rows: 5, tries: columns.isqrt(), seed }
    }
}

struct Node {
    /// Column, last bin of the first child, and the first child; the second follows it.
    split: Option<(usize, u8, usize)>,
    /// Share of anomalous rows.
    share: f64,
}

/// Scores of all rows by a forest grown on `training`: for the training rows the mean over the trees
/// that saw none of their group (the overall share where all did), for others over all trees.
///
/// `labels` and `groups` have one entry for each row.
#[must_use]
pub fn scores(
    columns: &Columns,
    labels: &[bool],
    groups: &[u64],
    training: &[usize],
    growth: Growth,
) -> Vec<f64> {
    let binned = Binned::all(columns, training);
    let rows = columns.rows();
    let mut in_training = vec![false; rows];
    training.iter().for_each(|row| in_training[*row] = true);
    let (mut sums, mut counts) = (vec![0.0; rows], vec![0u32; rows]);
    let mut rng = ChaCha20Rng::from_seed({
        let mut seed = [0x47; 32];
        seed[..8].copy_from_slice(&growth.seed.to_be_bytes());
        seed
    });
    for _ in 0..growth.trees {
        let salt = rng.next_u64();
        let weight = |row: usize| poisson(mix(groups[row] ^ salt));
        let drawn: Vec<(u32, u32)> = training
            .iter()
            .filter_map(|row| {
                let weight = weight(*row);
                (weight > 0).then_some((u32::try_from(*row).unwrap_or(0), weight))
            })
            .collect();
        let tree = grow(&binned, labels, drawn, growth, &mut rng);
        for row in 0..rows {
            if !in_training[row] || weight(row) == 0 {
                let mut node = &tree[0];
                while let Some((column, bin, first)) = node.split {
                    node = &tree[first + usize::from(binned[column].bins[row] > bin)];
                }
                sums[row] += node.share;
                counts[row] += 1;
            }
        }
    }
    let anomalous = training.iter().filter(|row| labels[**row]).count();
    let overall = anomalous as f64 / training.len().max(1) as f64;
    let mean =
        |(sum, count): (&f64, &u32)| if *count == 0 { overall } else { sum / f64::from(*count) };
    sums.iter().zip(&counts).map(mean).collect()
}

/// The finalizer of SplitMix64.
fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number with the Poisson distribution of mean 1, up to 7, from a uniform word.
fn poisson(word: u64) -> u32 {
    let unit = (word >> 11) as f64 / (1u64 << 53) as f64;
    let (mut sum, mut term) = (0.0, core::f64::consts::E.recip());
    for k in 0..7u32 {
        sum += term;
        if unit < sum {
            return k;
        }
        term /= f64::from(k + 1);
    }
    7
}

/// A tree over rows with weights; the root first.
fn grow(
    binned: &[Binned],
    labels: &[bool],
    mut rows: Vec<(u32, u32)>,
    growth: Growth,
    rng: &mut ChaCha20Rng,
) -> Vec<Node> {
    let mut nodes = vec![Node { split: None, share: 0.0 }];
    let mut open = vec![(0usize, 0usize, rows.len(), 0u32)];
    let mut order: Vec<usize> = (0..binned.len()).collect();
    let mut bins = [(0u32, 0u32); BINS];
    while let Some((node, start, end, depth)) = open.pop() {
        let own = &mut rows[start..end];
        let (mut all, mut anomalous) = (0u32, 0u32);
        for (row, weight) in own.iter() {
            all += weight;
            anomalous += if labels[*row as usize] { *weight } else { 0 };
        }
        nodes[node].share = f64::from(anomalous) / f64::from(all.max(1));
        if depth == growth.depth || anomalous == 0 || anomalous == all || all < 2 * growth.leaf_rows
        {
            continue;
        }
        let impurity = |all: u32, anomalous: u32| {
            let (all, anomalous) = (f64::from(all), f64::from(anomalous));
            anomalous * (all - anomalous) / all
        };
        let mut best: Option<(f64, usize, u8)> = None;
        for tried in 0..growth.tries.min(order.len()) {
            let other =
                tried + usize::try_from(rng.next_u64() % (order.len() - tried) as u64).unwrap_or(0);
            order.swap(tried, other);
            let column = order[tried];
            bins.fill((0, 0));
            let values = &binned[column].bins;
            for (row, weight) in own.iter() {
                let bin = &mut bins[usize::from(values[*row as usize])];
                bin.0 += weight;
                bin.1 += if labels[*row as usize] { *weight } else { 0 };
            }
            let (mut below, mut found) = (0u32, 0u32);
            for (bin, (count, count_anomalous)) in (0..=u8::MAX).zip(&bins[..BINS - 1]) {
                below += count;
                found += count_anomalous;
                if *count == 0 || below < growth.leaf_rows || all - below < growth.leaf_rows {
                    continue;
                }
                let left = impurity(below, found) + impurity(all - below, anomalous - found);
                if best.is_none_or(|(least, ..)| left < least) {
                    best = Some((left, column, bin));
                }
            }
        }
        let Some((left, column, bin)) = best else { continue };
        if left >= impurity(all, anomalous) {
            continue;
        }
        let values = &binned[column].bins;
        let mut middle = 0;
        for at in 0..own.len() {
            if values[own[at].0 as usize] <= bin {
                own.swap(at, middle);
                middle += 1;
            }
        }
        let first = nodes.len();
        nodes[node].split = Some((column, bin, first));
        nodes.extend([Node { split: None, share: 0.0 }, Node { split: None, share: 0.0 }]);
        open.push((first, start, start + middle, depth + 1));
        open.push((first + 1, start + middle, end, depth + 1));
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::super::features::fixed;
    use super::*;
    use quorate_protocols::pv4fad::forest::Range;

    #[test]
    fn scores_find_what_columns_tell_and_do_not_remember_training_rows() {
        let rows = 3000u64;
        let column = |salt: u64| -> Vec<i32> {
            (0..rows)
                .map(|row| fixed((mix(row ^ salt) >> 40) as f64 / (1u64 << 24) as f64))
                .collect()
        };
        let range =
            |name: &str| Range { name: name.to_owned(), low: 0, high: fixed(1.0), weight: 1 };
        let columns = Columns::default().with(range("first"), &column(1 << 60));
        let columns = columns.with(range("second"), &column(1 << 61));
        let training: Vec<usize> = (0..2000).collect();
        let groups: Vec<u64> = (0..rows).map(|row| row / 4).collect();
        let growth = Growth { tries: 2, ..Growth::standard(2, 1) };
        let area = |labels: &[bool], rows: std::ops::Range<usize>| {
            let scores = scores(&columns, labels, &groups, &training, growth);
            crate::learn::metrics::auc(&scores[rows.clone()], &labels[rows])
        };
        // A corner of the square is anomalous.
        let corner: Vec<bool> =
            (0..3000).map(|row| columns.row(row).iter().all(|value| *value > fixed(0.8))).collect();
        assert!(area(&corner, 0..2000) > 0.98 && area(&corner, 2000..3000) > 0.98);
        // Whole groups are anomalous at random: neither part can be told.
        let random: Vec<bool> =
            (0..rows).map(|row| mix((row / 4) ^ (1 << 62)).is_multiple_of(20)).collect();
        for part in [0..2000, 2000..3000] {
            let area = area(&random, part);
            assert!((0.4..0.6).contains(&area), "{area}");
        }
    }
}
