//! Decision trees grown from opened counts, in integers.

use serde::{Deserialize, Serialize};

use super::ModelError;
use crate::workload::TreeSpec;

/// Fractional bits of logarithms.
const LOG_BITS: u32 = 32;

/// A tree, and the nodes whose counts the next round opens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    /// Levels opened so far.
    pub level: u32,
    /// The root first; children of one node side by side.
    pub nodes: Vec<Node>,
    /// Nodes that may still be split, ascending.
    pub frontier: Vec<u32>,
}

/// A node of a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Rows of each class, as far as the counts tell: noise can make them negative.
    pub counts: Vec<i64>,
    /// The most frequent class; that of the parent where the counts tell too little.
    pub class: u32,
    /// Columns that the path from the root has split, ascending.
    pub used: Vec<u32>,
    /// Column of this node's split, and its first child.
    pub split: Option<(u32, u32)>,
}

impl Tree {
    pub(super) fn new(spec: &TreeSpec) -> Self {
        let root = Node { counts: vec![0; spec.table.schema.classes.len()], ..Node::default() };
        Self { level: 0, nodes: vec![root], frontier: vec![0] }
    }

    /// The node that a row ends in, from its values of all columns.
    #[must_use]
    pub fn leaf(&self, values: &[u32]) -> usize {
        let mut at = 0;
        while let Some((column, first)) = self.nodes.get(at).and_then(|node| node.split) {
            let value = values.get(column as usize).copied().unwrap_or(0);
            at = (first as usize).saturating_add(value as usize);
        }
        at
    }

    /// The class of a row.
    #[must_use]
    pub fn class(&self, values: &[u32]) -> u32 {
        self.nodes.get(self.leaf(values)).map_or(0, |node| node.class)
    }

    /// The tree one level deeper, from the opened counts of its frontier.
    ///
    /// Each node takes the column of most information; of equal ones the first.
    pub(super) fn grow(&self, spec: &TreeSpec, body: &[i64]) -> Result<Self, ModelError> {
        let mut next = self.clone();
        next.level = self.level.saturating_add(1);
        let cells = usize::try_from(spec.table.cells()).unwrap_or(usize::MAX);
        let classes = spec.table.schema.classes.len();
        let mut candidates = Vec::new();
        for (index, counts) in self.frontier.iter().zip(body.chunks_exact(cells.max(1))) {
            let node = self.nodes.get(*index as usize).ok_or(ModelError::NotASum)?;
            let columns = Columns { spec, node, counts, classes };
            let totals = columns.totals();
            let class = strongest(&totals).unwrap_or(node.class);
            let best = columns.best();
            let first = next.nodes.len();
            if let Some((column, cells)) = best {
                let mut used = node.used.clone();
                used.push(column);
                used.sort_unstable();
                for counts in cells.chunks_exact(classes) {
                    let rows: i64 = counts.iter().fold(0, |sum: i64, n| sum.saturating_add(*n));
                    let known = strongest(counts).filter(|_| rows > i64::from(spec.ignored));
                    if rows >= i64::from(spec.min_rows) && next.level < spec.depth {
                        candidates.push((core::cmp::Reverse(rows), number(next.nodes.len())));
                    }
                    next.nodes.push(Node {
                        counts: counts.to_vec(),
                        class: known.unwrap_or(class),
                        used: used.clone(),
                        split: None,
                    });
                }
            }
            let node = next.nodes.get_mut(*index as usize).ok_or(ModelError::NotASum)?;
            (node.counts, node.class) = (totals, class);
            node.split = best.map(|(column, _)| (column, number(first)));
        }
        candidates.sort_unstable();
        candidates.truncate(usize::try_from(spec.nodes(next.level)).unwrap_or(usize::MAX));
        next.frontier = candidates.into_iter().map(|(_, node)| node).collect();
        next.frontier.sort_unstable();
        Ok(next)
    }
}

/// A node's number: payload bounds keep it far below 2^32.
fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// The first class of most rows; `None` where no class has any.
fn strongest(counts: &[i64]) -> Option<u32> {
    let most = counts.iter().copied().max().filter(|most| *most > 0)?;
    counts.iter().position(|count| *count == most).map(number)
}

/// The opened counts of one node.
struct Columns<'a> {
    spec: &'a TreeSpec,
    node: &'a Node,
    counts: &'a [i64],
    classes: usize,
}

impl<'a> Columns<'a> {
    /// The columns still to be split, each with its counts: values x classes.
    fn unused(&self) -> impl Iterator<Item = (u32, &'a [i64])> {
        let mut rest = self.counts;
        let (node, classes) = (self.node, self.classes);
        (0u32..).zip(self.spec.table.widths()).filter_map(move |(column, width)| {
            let cells = usize::try_from(width).unwrap_or(usize::MAX).saturating_mul(classes);
            let (own, after) = rest.split_at_checked(cells)?;
            rest = after;
            (!node.used.contains(&column)).then_some((column, own))
        })
    }

    /// Rows of each class: the mean over the columns, each of which counts every row once.
    fn totals(&self) -> Vec<i64> {
        let mut totals = vec![0i128; self.classes];
        let mut columns = 0;
        for (_, cells) in self.unused() {
            columns += 1;
            for counts in cells.chunks_exact(self.classes) {
                totals.iter_mut().zip(counts).for_each(|(sum, n)| *sum += i128::from(*n));
            }
        }
        let mean = |sum: i128| sum.checked_div_euclid(columns).unwrap_or(0);
        totals.into_iter().map(|sum| i64::try_from(mean(sum)).unwrap_or(0)).collect()
    }

    /// The column of most information about the class, if any has some.
    fn best(&self) -> Option<(u32, &'a [i64])> {
        let mut best = None;
        let mut most = 0;
        for (column, cells) in self.unused() {
            let gain = gain(cells, self.classes, i64::from(self.spec.ignored));
            if gain > most {
                (best, most) = (Some((column, cells)), gain);
            }
        }
        best
    }
}

/// Information gain per row in units of 2^-[`LOG_BITS`] bits, of counts values x classes, read as 0
/// up to `ignored`.
fn gain(cells: &[i64], classes: usize, ignored: i64) -> i128 {
    let mut totals = vec![0u64; classes];
    let (mut inside, mut rows) = (0i128, 0u64);
    for counts in cells.chunks_exact(classes) {
        let mut here = 0u64;
        for (count, total) in counts.iter().zip(&mut totals) {
            let count = if *count > ignored { count.unsigned_abs() } else { 0 };
            here = here.saturating_add(count);
            *total = total.saturating_add(count);
            inside -= weighted_log(count);
        }
        rows = rows.saturating_add(here);
        inside += weighted_log(here);
    }
    let before = weighted_log(rows) - totals.iter().map(|n| weighted_log(*n)).sum::<i128>();
    (before - inside).checked_div_euclid(i128::from(rows)).unwrap_or(0)
}

/// n x log2(n) in units of 2^-[`LOG_BITS`], rounded down; 0 for 0.
fn weighted_log(n: u64) -> i128 {
    i128::from(n) * i128::from(log2(n))
}

/// log2(n) in units of 2^-[`LOG_BITS`], rounded down, by repeated squaring; 0 for 0.
const fn log2(n: u64) -> u64 {
    let Some(whole) = n.checked_ilog2() else { return 0 };
    // The mantissa in [1, 2) with 63 fractional bits.
    let mut mantissa = (n << (63 - whole)) as u128;
    let mut log = (whole as u64) << LOG_BITS;
    let mut bit = LOG_BITS;
    while bit > 0 {
        bit -= 1;
        mantissa = (mantissa * mantissa) >> 63;
        if mantissa >> 64 == 1 {
            log |= 1 << bit;
            mantissa >>= 1;
        }
    }
    log
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_rounded_down() {
        for n in [1u64, 2, 3, 5, 1000, 4_294_967_295, 1 << 40] {
            let expected = (n as f64).log2() * 2f64.powi(32);
            let difference = expected - log2(n) as f64;
            assert!((-0.01..2.0).contains(&difference), "{n}: {difference}");
        }
        assert_eq!((log2(0), log2(1), log2(8)), (0, 0, 3 << 32));
    }

    #[test]
    fn gain_is_that_of_the_definition() {
        // Two values: (4, 0) and (1, 3).
        let entropy = |p: f64| -p * p.log2() - (1.0 - p) * (1.0 - p).log2();
        let expected = entropy(5.0 / 8.0) - 0.5 * entropy(0.25);
        let got = gain(&[4, -9, 1, 3], 2, 0) as f64 / 2f64.powi(32);
        assert!((got - expected).abs() < 1e-8, "{got} {expected}");
        assert_eq!(gain(&[2, 2, 2, 2], 2, 2), 0);
        assert_eq!(gain(&[3, 3, 3, 3], 2, 2), 0);
        assert_eq!(gain(&[], 2, 0), 0);
    }
}
