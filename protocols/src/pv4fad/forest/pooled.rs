//! The pooled rule: one score from the rows of all leaves that a payment reaches, added up over the
//! trees. It needs two counts for a payment's class and no leaf's own, so it serves jobs whose tables
//! stay closed.

use serde::{Deserialize, Serialize};

use super::{BITS, CLASSES, Cells, Forest, LABELS, ONE, Totals, WEIGHT_BITS, shrunk};

/// How pooled counts become a score: (n1 + w p) / (n1 + n0 + w), where p is the share of anomalous rows
/// among all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PooledRule {
    /// w, in units of 2^-[`WEIGHT_BITS`] pooled rows: a row counts once in every tree.
    pub weight: u64,
    /// p, with [`SCORE_BITS`](super::SCORE_BITS) fractional bits.
    pub prior: u64,
}

impl PooledRule {
    /// The rule with the share of anomalous rows in `totals`.
    #[must_use]
    pub fn new(totals: &Totals, weight: u64) -> Self {
        let of = |label: usize| totals.0.iter().skip(label).step_by(LABELS).sum::<u64>();
        Self { weight, prior: shrunk((of(1), of(0)), 0, 0) }
    }

    /// Prior weight for a forest of `trees` trees: `rows` rows, each counted once in every tree, or the
    /// deviation `sigma` of a pooled count, whichever is more; in the units of
    /// [`weight`](Self::weight), rounded up.
    #[must_use]
    pub fn weight_of(trees: u32, rows: u64, sigma: Option<f64>) -> u64 {
        let least = rows.saturating_mul(trees.into()) << WEIGHT_BITS;
        let wide = libm::ceil(sigma.unwrap_or(0.0) * f64::from(1u32 << WEIGHT_BITS));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a cast of floats saturates, and a deviation is not negative"
        )]
        least.max(wide as u64)
    }

    /// The score of a payment from the pooled counts of its class, anomalous and normal; noise can make
    /// them negative, or more than the `rows` that its leaves have at all: they are clipped to 0 and to
    /// these.
    #[must_use]
    pub fn score(&self, counts: [i64; LABELS], rows: [u64; LABELS]) -> f64 {
        let clipped = |count: i64, most: u64| u64::try_from(count).unwrap_or(0).min(most);
        let ([n1, n0], [most1, most0]) = (counts, rows);
        let rows = (clipped(n1, most1), clipped(n0, most0));
        shrunk(rows, self.weight, self.prior) as f64 / ONE as f64
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
        let one = 1u64 << WEIGHT_BITS;
        let rule = PooledRule::new(&totals, 12 * one);
        assert_eq!(rule.prior, 4 * ONE / 100);
        // By hand, rounded down: 12 rows of the prior beside 276.
        let expected = ((6u128 << 40) + 12 * 256 * u128::from(rule.prior)) / (288 << 8);
        assert_eq!(rule.score([6, 270], [6, 270]), expected as f64 / ONE as f64);
        assert_eq!(rule.score([-5, -1], [6, 270]), rule.prior as f64 / ONE as f64);
        // Noise beyond what the leaves have.
        assert_eq!(rule.score([i64::MAX, i64::MIN], [12, 4]), {
            let expected = ((12u128 << 40) + 12 * 256 * u128::from(rule.prior)) / (24 << 8);
            expected as f64 / ONE as f64
        });
        assert_eq!(PooledRule::weight_of(3, 2, None), 6 * one);
        assert_eq!(PooledRule::weight_of(3, 2, Some(6.001)), 1537);
        assert_eq!(PooledRule::weight_of(3, 2, Some(5.9)), 6 * one);
    }
}
