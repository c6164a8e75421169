//! The pooled rule: one score from the rows of all leaves that a payment reaches, added up over the
//! trees. It needs two counts for a payment's class and no leaf's own, so it serves jobs whose tables
//! stay closed.
//!
//! The share of anomalous rows in the pool, (n1 + w p) / (n1 + n0 + w), would be the plain rule; it
//! finds less than the network finds alone, since pools drown small leaves in large ones. What banks
//! add, however, survives pooling: how much more frequent the class is among the pool's anomalous rows
//! than among its normal ones. So the network's own score keeps the leaves, and its odds are multiplied
//! by this lift.

use serde::{Deserialize, Serialize};

use super::{BITS, CLASSES, Cells, Forest, LABELS, ONE, SCORE_BITS, Totals, WEIGHT_BITS};

/// Fractional bits of a class's shares.
const SHARE_BITS: u32 = 40;
/// Rows of a pool, and of a weight, are taken to be at most so many: what is computed fits 128 bits.
const MOST: u64 = 1 << 32;
/// How many deviations, or rows of each tree, pull a class's shares towards each other.
const CAUTION: u64 = 30;

/// How pooled counts and a score of the network's own become a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PooledRule {
    /// w, in units of 2^-[`WEIGHT_BITS`] pooled rows: a row counts once in every tree.
    pub weight: u64,
}

impl PooledRule {
    /// The rule for a forest of `trees` trees: its weight is thirty times one row of every tree, or thirty
    /// times the deviation `sigma` of a pooled count, whichever is more; rounded up.
    #[must_use]
    pub fn new(trees: u32, sigma: Option<f64>) -> Self {
        let wide = libm::ceil(sigma.unwrap_or(0.0) * f64::from(1u32 << WEIGHT_BITS));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a cast of floats saturates, and a deviation is not negative"
        )]
        let weight = (wide as u64).max(u64::from(trees) << WEIGHT_BITS);
        Self { weight: weight.saturating_mul(CAUTION) }
    }

    /// The score of a payment, with [`SCORE_BITS`] fractional bits, rounded down.
    ///
    /// `own` is the network's own score of it, a probability with as many bits; `counts` are the pooled
    /// rows of its class, anomalous and normal; noise can make them negative, or more than the `rows`
    /// that its leaves have at all: they are clipped to 0 and to these. With s the class's share of all
    /// rows, a = (n1 + w s) / (all1 + w) and b = (n0 + w s) / (all0 + w), it is
    /// q a / (q a + (1 - q) b); `own` where nothing counts.
    #[must_use]
    pub fn score(&self, own: u64, counts: [i64; LABELS], rows: [u64; LABELS]) -> u64 {
        let own = own.min(ONE);
        let rows = rows.map(|rows| rows.min(MOST));
        let clipped = |count: i64, most: u64| u64::try_from(count).unwrap_or(0).min(most);
        let ([n1, n0], [all1, all0]) = (counts, rows);
        let (n1, n0) = (clipped(n1, all1), clipped(n0, all0));
        let weight = self.weight.min(MOST << WEIGHT_BITS);
        let (class, all) = (n1 + n0, all1 + all0);
        // Both sides of a share are multiplied by the rows of the pool.
        let share = |count: u64, most: u64| {
            let count = (u128::from(count) * u128::from(all)) << WEIGHT_BITS;
            let above = count + u128::from(weight) * u128::from(class);
            let below = ((u128::from(most) << WEIGHT_BITS) + u128::from(weight)) * u128::from(all);
            (above << SHARE_BITS).checked_div(below)
        };
        let Some((a, b)) = share(n1, all1).zip(share(n0, all0)) else { return own };
        let anomalous = a * u128::from(own);
        let normal = b * u128::from(ONE - own);
        let score = (anomalous << SCORE_BITS).checked_div(anomalous + normal);
        score.map_or(own, |score| u64::try_from(score).unwrap_or(ONE))
    }
}

/// What a payment's leaves hold together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Rows of each class: anomalous, normal; noise can make them negative.
    pub classes: [[i64; LABELS]; CLASSES],
    /// Rows of all classes: anomalous, normal.
    pub rows: [u64; LABELS],
}

impl Forest {
    /// The leaves of a payment, added up over the trees.
    #[must_use]
    pub fn pool(&self, totals: &Totals, cells: &Cells, features: &[i32]) -> Pool {
        let mut pool = Pool { classes: [[0; LABELS]; CLASSES], rows: [0; LABELS] };
        for (lane, label) in [true, false].into_iter().enumerate() {
            let mut at_least = [0i64; CLASSES + 1];
            for (tree, leaf) in (0..).zip(self.leaves(features)) {
                let rows = totals.0.get(self.group(tree, leaf, label)).copied().unwrap_or(0);
                let counts = (0..BITS).map(|bit| cells.0.get(self.cell(tree, leaf, label, bit)));
                let counts = counts.map(|count| count.copied().unwrap_or(0));
                let rows = core::iter::once(i64::try_from(rows).unwrap_or(i64::MAX));
                let sums = at_least.iter_mut().zip(rows.chain(counts));
                sums.for_each(|(sum, count)| *sum = sum.saturating_add(count));
            }
            if let (Some(rows), [all, ..]) = (pool.rows.get_mut(lane), at_least) {
                *rows = all.unsigned_abs();
            }
            for (class, pair) in pool.classes.iter_mut().zip(at_least.windows(2)) {
                if let (Some(count), [own, beyond]) = (class.get_mut(lane), pair) {
                    *count = own.saturating_sub(*beyond);
                }
            }
        }
        pool
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ForestSpec, Range, Severity};
    use super::*;

    #[test]
    fn pools_add_up_over_trees_and_scores_are_shrunk_once() {
        // One column of two values: every tree splits it in the same way.
        let columns = vec![Range { name: "bit".to_owned(), low: 0, high: 1, weight: 1 }];
        let forest =
            Forest::draw(&ForestSpec { trees: 3, depth: 1, columns, seed: [7; 32] }).unwrap();
        let (mut totals, mut cells) = (Totals::new(&forest), Cells::new(&forest));
        let mut add = |value, label, severity: Severity, times| {
            for _ in 0..times {
                totals.add(&forest, &[value], label);
                cells.add(&forest, &[value], label, severity.bits());
            }
        };
        add(0, false, Severity::Clean, 90);
        add(0, true, Severity::Clean, 2);
        add(1, false, Severity::Soft, 6);
        add(1, true, Severity::Hard, 2);
        let pool = forest.pool(&totals, &cells, &[1]);
        assert_eq!(pool, Pool { classes: [[0, 0], [0, 18], [6, 0]], rows: [6, 18] });
        let pool = forest.pool(&totals, &cells, &[0]);
        assert_eq!(pool, Pool { classes: [[6, 270], [0, 0], [0, 0]], rows: [6, 270] });
        let rule = PooledRule { weight: 4 << WEIGHT_BITS };
        // By hand: all rows are of the class, so it tells nothing; then half of the anomalous and a ninth
        // of the normal ones are, each with 4 rows of the class's share of all, 5 in 24.
        assert_eq!(rule.score(ONE / 5, [6, 18], [6, 18]), ONE / 5);
        let (a, b) = ((3.0 + 4.0 * 5.0 / 24.0) / 10.0, (2.0 + 4.0 * 5.0 / 24.0) / 22.0);
        let (expected, got) = (0.2 * a / (0.2 * a + 0.8 * b), rule.score(ONE / 5, [3, 2], [6, 18]));
        assert!((got as f64 / ONE as f64 - expected).abs() < 1e-9, "{got} {expected}");
        // Clipped, on both sides.
        assert_eq!(rule.score(ONE / 5, [-7, 40], [6, 18]), rule.score(ONE / 5, [0, 18], [6, 18]));
        assert!(rule.score(ONE / 5, [-7, 40], [6, 18]) < ONE / 5);
        // Nothing counts; nothing is of the class; certainties stay.
        assert_eq!(rule.score(ONE / 3, [5, 5], [0, 0]), ONE / 3);
        assert_eq!(rule.score(ONE / 3, [0, 0], [6, 18]), ONE / 3);
        assert_eq!(rule.score(0, [6, 0], [6, 18]), 0);
        assert_eq!(rule.score(ONE + 9, [6, 1], [6, 18]), ONE);
        // Whatever was opened, a score is a probability.
        for most in [u64::MAX, 1 << 31] {
            for counts in [[i64::MAX; 2], [i64::MIN; 2], [i64::MAX, 0], [0, i64::MAX]] {
                for weight in [0, 1, u64::MAX] {
                    let rule = PooledRule { weight };
                    assert!(rule.score(ONE / 2, counts, [most; 2]) <= ONE);
                    assert!(rule.score(ONE / 2, counts, [0, most]) <= ONE);
                }
            }
        }
        assert_eq!(PooledRule::new(3, None).weight, 90 << WEIGHT_BITS);
        assert_eq!(PooledRule::new(3, Some(3.001)).weight, 30 * 769);
        assert_eq!(PooledRule::new(3, Some(2.9)).weight, 90 << WEIGHT_BITS);
    }
}
