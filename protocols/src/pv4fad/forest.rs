//! The forest without its cryptography, in integers only, so that training under encryption can equal
//! it bit for bit.
//!
//! The network draws random trees from public ranges, without data. Every split is on a column of the
//! network; what the banks know is the last split of each tree, below its leaves. Leaf and label of a
//! row are known to the network, the class of a row to the two banks together.
//!
//! # Classes and bits
//! A bank finds one of three severities at its side of a payment (see [`Severity`]). The class of a
//! payment is the greater one of its two sides. Each side is sent as [`BITS`] thermometer bits:
//!
//! | severity | bit 0, at least soft | bit 1, at least hard |
//! |---|---|---|
//! | clean | 0 | 0 |
//! | soft | 1 | 0 |
//! | hard | 1 | 1 |
//!
//! The OR of the two sides, bit by bit, is the thermometer of the greater severity.
//!
//! # Cells
//! For each tree, leaf, label and bit one count is opened: of the payments in that leaf with that label
//! whose bit is 1 ([`Forest::cell`] is its place). The counts where the bit is 0 are the network's own
//! totals minus these. So a payment adds 1 to at most [`BITS`] cells of each tree, and replacing the
//! severity of one account, which counts in at most K payments, moves the opened counts by at most
//! K sqrt(2 T) in the Euclidean norm, for T trees and two bits ([`Forest::sensitivity_squared`]).
//!
//! # Source
//! Random decision trees with private leaf counts, as in PV4FAD (arXiv 2310.19304); classes, tables and
//! the shrinking of leaf scores are our own.

mod pooled;

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

pub use pooled::{Pool, PooledRule};

/// Bits that a side of a payment is sent as.
pub const BITS: usize = 2;

/// Classes of a payment.
pub const CLASSES: usize = BITS + 1;

/// Values of the label: 0 normal, 1 anomalous.
pub const LABELS: usize = 2;

/// Fractional bits of scores, which are probabilities.
pub const SCORE_BITS: u32 = 32;

/// The score 1.
pub const ONE: u64 = 1 << SCORE_BITS;

/// Fractional bits of the prior's weight.
pub const WEIGHT_BITS: u32 = 8;

/// Most trees.
pub const MAX_TREES: u32 = 1024;
/// Most splits between a root and a leaf.
pub const MAX_DEPTH: u32 = 12;
/// Most columns of the network.
pub const MAX_COLUMNS: usize = 256;
/// Most opened counts.
pub const MAX_CELLS: u64 = 1 << 22;

/// What a bank finds at its side of a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Severity {
    /// Nothing.
    Clean,
    /// A sign that is common among normal payments, too.
    Soft,
    /// A sign that normal payments hardly ever have.
    Hard,
}

impl Severity {
    /// All of them, in order.
    pub const ALL: [Self; CLASSES] = [Self::Clean, Self::Soft, Self::Hard];

    /// Its number, below [`CLASSES`].
    #[must_use]
    pub const fn class(self) -> usize {
        self as usize
    }

    /// Its thermometer bits.
    #[must_use]
    pub const fn bits(self) -> [bool; BITS] {
        [self.class() >= 1, self.class() >= 2]
    }
}

/// Why a forest was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ForestError {
    /// More or fewer trees, levels, columns or cells than allowed.
    #[error("{what} must be within 1 to {most}")]
    Size {
        /// What there are too many or too few of.
        what: &'static str,
        /// The most that is allowed.
        most: u64,
    },
    /// A column that cannot be split: its range has fewer than two values, or no column has a weight.
    #[error("column {0:?} cannot be split")]
    Range(String),
    /// Counts or features whose number does not fit the forest.
    #[error("{0} values where the forest has {1}")]
    Shape(usize, usize),
}

/// A column of the network, as the forest splits it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Its name.
    pub name: String,
    /// The least value that is told apart.
    pub low: i32,
    /// The greatest value that is told apart.
    pub high: i32,
    /// How often it is drawn, against the other columns.
    pub weight: u32,
}

/// A forest before it is drawn: public.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForestSpec {
    /// Trees T.
    pub trees: u32,
    /// Splits between the root and a leaf D; a tree has 2^D leaves.
    pub depth: u32,
    /// Columns of the network.
    pub columns: Vec<Range>,
    /// What the structure is drawn from.
    pub seed: [u8; 32],
}

impl ForestSpec {
    /// Whether a forest can be drawn.
    ///
    /// # Errors
    /// [`ForestError::Size`] or [`ForestError::Range`].
    pub fn check(&self) -> Result<(), ForestError> {
        let within = |value: u64, most: u64, what| {
            if (1..=most).contains(&value) { Ok(()) } else { Err(ForestError::Size { what, most }) }
        };
        within(self.trees.into(), MAX_TREES.into(), "trees")?;
        within(self.depth.into(), MAX_DEPTH.into(), "levels")?;
        within(self.columns.len() as u64, MAX_COLUMNS as u64, "columns")?;
        within(self.cells(), MAX_CELLS, "cells")?;
        for column in &self.columns {
            if column.low >= column.high {
                return Err(ForestError::Range(column.name.clone()));
            }
        }
        match self.columns.first() {
            Some(first) if self.columns.iter().all(|column| column.weight == 0) => {
                Err(ForestError::Range(first.name.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Leaves of one tree.
    #[must_use]
    pub const fn leaves(&self) -> u64 {
        1 << self.depth
    }

    /// Counts that training opens: trees x leaves x labels x bits.
    #[must_use]
    pub const fn cells(&self) -> u64 {
        self.trees as u64 * self.leaves() * (LABELS * BITS) as u64
    }
}

/// A split: values above the threshold go to the second child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Split {
    column: usize,
    threshold: i32,
}

/// A drawn forest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forest {
    spec: ForestSpec,
    /// The splits of each tree: the root, then both children of node i at 2 i + 1 and 2 i + 2.
    splits: Vec<Split>,
}

impl Forest {
    /// Draws the forest of `spec`: the same on every machine.
    ///
    /// Columns are drawn by weight, thresholds uniformly from what the splits above leave of the
    /// column's range, so no leaf is out of reach by its range alone.
    ///
    /// # Errors
    /// As [`ForestSpec::check`].
    pub fn draw(spec: &ForestSpec) -> Result<Self, ForestError> {
        spec.check()?;
        let mut rng = ChaCha20Rng::from_seed(spec.seed);
        let mut splits = Vec::new();
        for _ in 0..spec.trees {
            let whole: Vec<(i32, i32)> =
                spec.columns.iter().map(|column| (column.low, column.high)).collect();
            // Level by level, with the ranges that are left at each node.
            let mut level = vec![whole];
            for _ in 0..spec.depth {
                let mut below = Vec::with_capacity(2 * level.len());
                for ranges in level {
                    let split = draw_split(spec, &ranges, &mut rng);
                    let mut narrowed = [ranges.clone(), ranges];
                    let [first, second] = &mut narrowed;
                    if let Some((_, high)) = first.get_mut(split.column) {
                        *high = split.threshold;
                    }
                    if let Some((low, _)) = second.get_mut(split.column) {
                        *low = split.threshold.saturating_add(1).min(
                            spec.columns.get(split.column).map_or(i32::MAX, |column| column.high),
                        );
                    }
                    below.extend(narrowed);
                    splits.push(split);
                }
                level = below;
            }
        }
        Ok(Self { spec: spec.clone(), splits })
    }

    /// What it was drawn from.
    #[must_use]
    pub const fn spec(&self) -> &ForestSpec {
        &self.spec
    }

    /// The leaf, below 2^D, of a row with these columns in tree `tree`. A missing column counts as 0;
    /// a tree beyond the last has leaf 0 alone.
    #[must_use]
    pub fn leaf(&self, tree: u32, features: &[i32]) -> u32 {
        let nodes = (1usize << self.spec.depth) - 1;
        let start = (tree as usize).saturating_mul(nodes);
        let Some(splits) = self.splits.get(start..start.saturating_add(nodes)) else { return 0 };
        let mut node = 0;
        while let Some(split) = splits.get(node) {
            let value = features.get(split.column).copied().unwrap_or(0);
            node = 2 * node + 1 + usize::from(value > split.threshold);
        }
        u32::try_from(node - nodes).unwrap_or(0)
    }

    /// The leaf of a row in each tree.
    pub fn leaves<'a>(&'a self, features: &'a [i32]) -> impl Iterator<Item = u32> + 'a {
        (0..self.spec.trees).map(move |tree| self.leaf(tree, features))
    }

    /// The place, below [`ForestSpec::cells`], of the count of `tree`, `leaf`, `label` and `bit`: they
    /// are ordered in this way, `bit` changing fastest.
    #[must_use]
    pub const fn cell(&self, tree: u32, leaf: u32, label: bool, bit: usize) -> usize {
        self.group(tree, leaf, label) * BITS + bit
    }

    /// The place of the total of `tree`, `leaf` and `label`.
    const fn group(&self, tree: u32, leaf: u32, label: bool) -> usize {
        (((tree as usize) << self.spec.depth) + leaf as usize) * LABELS + label as usize
    }

    /// Squared Euclidean distance that the opened counts move by, at most, when the severity of one
    /// account is replaced, which counts in at most `rows` payments: `rows`^2 x bits x trees.
    ///
    /// In each tree all of them may fall into one leaf and label, and move both of its bits.
    #[must_use]
    pub const fn sensitivity_squared(&self, rows: u32) -> u64 {
        (rows as u64).pow(2).saturating_mul(BITS as u64 * self.spec.trees as u64)
    }
}

/// A split of one of the columns that still have two values, by weight; where none has, one that sends
/// everything to its first child.
fn draw_split(spec: &ForestSpec, ranges: &[(i32, i32)], rng: &mut ChaCha20Rng) -> Split {
    let weight = |column: &Range, (low, high): &(i32, i32)| {
        if low < high { u64::from(column.weight) } else { 0 }
    };
    let weights = || spec.columns.iter().zip(ranges).map(|(column, range)| weight(column, range));
    let mut left = below(rng, weights().sum());
    for (column, weight) in weights().enumerate() {
        if left < weight {
            let (low, high) = ranges.get(column).copied().unwrap_or_default();
            let step = below(rng, high.abs_diff(low).into());
            let threshold = i64::from(low) + i64::try_from(step).unwrap_or(0);
            return Split { column, threshold: i32::try_from(threshold).unwrap_or(i32::MAX) };
        }
        left -= weight;
    }
    Split { column: 0, threshold: i32::MAX }
}

/// A number below `bound`, uniform but for a bias below `bound` / 2^64; 0 where there is none.
fn below(rng: &mut ChaCha20Rng, bound: u64) -> u64 {
    let product = u128::from(rng.next_u64()) * u128::from(bound);
    u64::try_from(product >> 64).unwrap_or(0)
}

/// The network's own counts: rows of each tree, leaf and label, whatever their class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals(Vec<u64>);

impl Totals {
    /// No rows.
    #[must_use]
    pub fn new(forest: &Forest) -> Self {
        Self(vec![0; (forest.spec.trees as usize * LABELS) << forest.spec.depth])
    }

    /// Adds a row.
    pub fn add(&mut self, forest: &Forest, features: &[i32], label: bool) {
        for (tree, leaf) in (0..).zip(forest.leaves(features)) {
            if let Some(total) = self.0.get_mut(forest.group(tree, leaf, label)) {
                *total += 1;
            }
        }
    }
}

/// The counts that training opens, in the order of [`Forest::cell`]; noise can make them negative.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cells(Vec<i64>);

impl Cells {
    /// No rows.
    #[must_use]
    pub fn new(forest: &Forest) -> Self {
        Self(vec![0; forest.cell_count()])
    }

    /// Opened counts.
    ///
    /// # Errors
    /// [`ForestError::Shape`] when there are more or fewer than the forest has cells.
    pub fn opened(forest: &Forest, counts: Vec<i64>) -> Result<Self, ForestError> {
        let cells = forest.cell_count();
        if counts.len() == cells {
            Ok(Self(counts))
        } else {
            Err(ForestError::Shape(counts.len(), cells))
        }
    }

    /// Adds a row in the clear.
    pub fn add(&mut self, forest: &Forest, features: &[i32], label: bool, bits: [bool; BITS]) {
        for (tree, leaf) in (0..).zip(forest.leaves(features)) {
            for (bit, set) in bits.into_iter().enumerate() {
                if let Some(count) = self.0.get_mut(forest.cell(tree, leaf, label, bit)) {
                    *count += i64::from(set);
                }
            }
        }
    }

    /// The counts.
    #[must_use]
    pub fn counts(&self) -> &[i64] {
        &self.0
    }

    /// The counts, to add noise to.
    pub fn counts_mut(&mut self) -> &mut [i64] {
        &mut self.0
    }
}

impl Forest {
    fn cell_count(&self) -> usize {
        usize::try_from(self.spec.cells()).unwrap_or(usize::MAX)
    }
}

/// Rows of one leaf, by class: anomalous and normal, each at least 0.
type ByClass = [(u64, u64); CLASSES];

/// From the opened counts of thermometer bits to the rows of each class, clipped at 0.
fn by_class(totals: &[u64], bits: &[i64]) -> ByClass {
    let of = |label: usize, class: usize| -> u64 {
        let total = totals.get(label).and_then(|total| i64::try_from(*total).ok()).unwrap_or(0);
        // Rows of at least a class: all for class 0, none beyond the last.
        let at_least = |class: usize| match class.checked_sub(1) {
            None => total,
            Some(bit) if bit < BITS => bits.get(label * BITS + bit).copied().unwrap_or(0),
            Some(_) => 0,
        };
        let rows = at_least(class).saturating_sub(at_least(class + 1));
        u64::try_from(rows).unwrap_or(0).min(total.unsigned_abs())
    };
    std::array::from_fn(|class| (of(1, class), of(0, class)))
}

/// (n1 + w p) / (n1 + n0 + w) with [`SCORE_BITS`] fractional bits, rounded down, for w with
/// [`WEIGHT_BITS`] of them; p where nothing counts.
fn shrunk(rows: (u64, u64), weight: u64, prior: u64) -> u64 {
    let (anomalous, normal) = (u128::from(rows.0), u128::from(rows.1));
    let weight = u128::from(weight);
    let numerator = (anomalous << (WEIGHT_BITS + SCORE_BITS)) + weight * u128::from(prior);
    let denominator = ((anomalous + normal) << WEIGHT_BITS) + weight;
    let score = numerator.checked_div(denominator).unwrap_or(u128::from(prior));
    u64::try_from(score).unwrap_or(ONE)
}

/// Variance of the logarithm of a class's odds around what is expected of them without its own rows: flags
/// are so telling that odds may differ by a factor of e^8, or 3,000, either way.
const ODDS_VARIANCE: u128 = 64;

/// What a node's own rows are weighed against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prior {
    /// Rows that what is known without the node counts for, in units of 2^-[`WEIGHT_BITS`] rows.
    pub weight: u64,
    /// Variance of the noise in every opened count, in squared rows; 0 where counts are exact.
    pub variance: u64,
}

impl Prior {
    /// A prior of `rows` rows where opened counts have noise of deviation `sigma`; its variance is rounded
    /// up.
    #[must_use]
    pub fn new(rows: u32, sigma: Option<f64>) -> Self {
        let sigma = sigma.unwrap_or(0.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a cast of floats saturates, and a square is not negative"
        )]
        let variance = libm::ceil(sigma * sigma) as u64;
        Self { weight: u64::from(rows) << WEIGHT_BITS, variance }
    }

    /// The share of anomalous rows where a class's counts are sums of `counts` opened ones, shrunk
    /// towards the share `above` and, for what noise takes, towards the share `expected` without them.
    ///
    /// Credibility as in Bühlmann's model. Among N rows of the class the observed share has variance
    /// p (1 - p) / N by chance and v / N^2 by the noise, v being the noise's variance in the count. Against
    /// chance `above` has the weight of w rows, as without noise. Against the noise p, the share expected, has
    /// that of v / (N d) rows, d being the variance of true shares around it: [`ODDS_VARIANCE`] p^2 (1 - p)^2,
    /// as if they had odds of that variance on the scale of logarithms.
    fn share(self, rows: (u64, u64), counts: u64, above: u64, expected: u64) -> u64 {
        let noise = u128::from(self.variance) * u128::from(counts);
        if noise == 0 {
            return shrunk(rows, self.weight, above);
        }
        let class = u128::from(rows.0.saturating_add(rows.1));
        let spread = u128::from(expected) * u128::from(ONE.saturating_sub(expected));
        // Over the spread twice, which has 64 fractional bits.
        let over = |x: u128| (x.min(1 << 63) << (2 * SCORE_BITS)).checked_div(spread);
        let Some(more) = over(noise).and_then(over) else { return expected };
        let Some(more) = (more.min(1 << 96) << WEIGHT_BITS).checked_div(class * ODDS_VARIANCE)
        else {
            return expected;
        };
        let (more, weight) = (more.min(1 << 64), u128::from(self.weight));
        let numerator = (u128::from(rows.0) << (WEIGHT_BITS + SCORE_BITS))
            + weight * u128::from(above)
            + more * u128::from(expected);
        let denominator = (class << WEIGHT_BITS) + weight + more;
        let share = numerator.checked_div(denominator).unwrap_or(u128::from(expected));
        u64::try_from(share).unwrap_or(ONE).min(ONE)
    }
}

/// The share of a class that is expected in a node from those of the node above, where the shares of all
/// rows, which are known without noise, are `own` in the node and `all` above it: the class's odds change
/// as those of all rows do.
fn carried(above: u64, all: u64, own: u64) -> u64 {
    let no = |share: u64| u128::from(ONE.saturating_sub(share));
    // Three shares have 96 bits, and 88 without their lowest eight, so that 32 more fit.
    let odds = |a: u128, b: u128, c: u128| (a * b * c) >> 8;
    let anomalous = odds(own.into(), above.into(), no(all));
    let normal = odds(no(own), no(above), all.into());
    let share = (anomalous << SCORE_BITS).checked_div(anomalous + normal);
    share.map_or(above, |share| u64::try_from(share).unwrap_or(ONE).min(ONE))
}

/// How many opened counts make the rows of a class: one at either end of the thermometer, else two.
const fn counts_of(class: usize) -> u64 {
    if class == 0 || class == BITS { 1 } else { 2 }
}

/// The score of each tree, leaf and class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scores(Vec<[u64; CLASSES]>);

impl Scores {
    /// Scores of the leaves, from what training opened.
    ///
    /// A leaf's score for a class is its share of anomalous rows, shrunk as `prior` says towards
    /// the score of the node above for the same class, whose rows are those of the leaves below it;
    /// the root's is shrunk towards the base rate of the class over all trees. What noise takes from a
    /// node's counts is made up from what the network knows exactly, the node's rows of all classes.
    #[must_use]
    pub fn new(forest: &Forest, totals: &Totals, cells: &Cells, prior: Prior) -> Self {
        let leaves = 1usize << forest.spec.depth;
        let mut scores = Vec::with_capacity(forest.spec.trees as usize * leaves);
        let trees = totals.0.chunks_exact(LABELS * leaves);
        let trees = trees.zip(cells.0.chunks_exact(LABELS * BITS * leaves));
        let trees: Vec<Tree> = trees.map(|(totals, bits)| Tree::new(totals, bits)).collect();
        let base = base_rates(&trees, leaves as u64, prior);
        for tree in &trees {
            let mut above = vec![base];
            for level in &tree.levels {
                let below = (leaves as u64).checked_div(level.len() as u64).unwrap_or(1);
                let scored = level.iter().enumerate().map(|(number, node)| {
                    above.get(number / 2).copied().unwrap_or(base).of(node, below, prior)
                });
                above = scored.collect();
            }
            scores.extend(above.iter().map(|rates| rates.classes));
        }
        Self(scores)
    }

    /// The mean over the trees of the scores of a row's leaves, for each class of the row: all that
    /// inference needs, and what the banks pick from under encryption.
    #[must_use]
    pub fn of(&self, forest: &Forest, features: &[i32]) -> [u64; CLASSES] {
        let mut sums = [0u64; CLASSES];
        for (tree, leaf) in (0usize..).zip(forest.leaves(features)) {
            let place = (tree << forest.spec.depth) + leaf as usize;
            if let Some(scores) = self.0.get(place) {
                sums.iter_mut().zip(scores).for_each(|(sum, score)| *sum += score);
            }
        }
        sums.map(|sum| sum / u64::from(forest.spec.trees.max(1)))
    }
}

/// The rows of a node: of all classes, which the network knows, and of each, as opened.
struct Node {
    all: (u64, u64),
    classes: ByClass,
}

/// Shares of anomalous rows in a node.
#[derive(Clone, Copy)]
struct Rates {
    all: u64,
    classes: [u64; CLASSES],
}

impl Rates {
    /// Those of a node below this one, which has `leaves` leaves.
    fn of(self, node: &Node, leaves: u64, prior: Prior) -> Self {
        let all = shrunk(node.all, prior.weight, self.all);
        let classes = std::array::from_fn(|class| {
            let (rows, above) = (node.classes.get(class), self.classes.get(class));
            let (rows, above) = (rows.copied().unwrap_or_default(), above.copied().unwrap_or(0));
            let expected = carried(above, self.all, all);
            prior.share(rows, leaves * counts_of(class), above, expected)
        });
        Self { all, classes }
    }
}

/// A tree's nodes, level by level from the root.
struct Tree {
    levels: Vec<Vec<Node>>,
    /// The root's own counts: rows by label, and bits.
    root: (Vec<u64>, Vec<i64>),
}

impl Tree {
    fn new(totals: &[u64], bits: &[i64]) -> Self {
        let (mut totals, mut bits) = (totals.to_vec(), bits.to_vec());
        let mut levels = Vec::new();
        loop {
            let nodes = totals.chunks_exact(LABELS).zip(bits.chunks_exact(LABELS * BITS));
            let node = |(totals, bits): (&[u64], &[i64])| {
                let rows = |label: usize| totals.get(label).copied().unwrap_or(0);
                Node { all: (rows(1), rows(0)), classes: by_class(totals, bits) }
            };
            let rows: Vec<Node> = nodes.map(node).collect();
            let last = rows.len() <= 1;
            levels.push(rows);
            if last {
                break;
            }
            totals = joined(&totals, LABELS, u64::saturating_add);
            bits = joined(&bits, LABELS * BITS, i64::saturating_add);
        }
        levels.reverse();
        Self { levels, root: (totals, bits) }
    }
}

/// The sums of neighbouring nodes of `width` counts each.
fn joined<T: Copy>(counts: &[T], width: usize, add: impl Fn(T, T) -> T) -> Vec<T> {
    let pairs = counts.chunks_exact(2 * width).map(|pair| pair.split_at(width));
    pairs.flat_map(|(first, second)| first.iter().zip(second).map(|(a, b)| add(*a, *b))).collect()
}

/// The base rate of each class over the roots of all trees, shrunk towards that of all rows.
///
/// Every tree's root counts the same rows, each with noise of its own: the mean over the trees is taken
/// first, and what is below 0 clipped after it, since clipping makes rare classes look frequent.
fn base_rates(trees: &[Tree], leaves: u64, prior: Prior) -> Rates {
    let count = (trees.len() as u64).max(1);
    let mut totals = [0u64; LABELS];
    let mut bits = [0i64; LABELS * BITS];
    for (own, counts) in trees.iter().map(|tree| &tree.root) {
        totals.iter_mut().zip(own).for_each(|(sum, own)| *sum = sum.saturating_add(*own));
        bits.iter_mut().zip(counts).for_each(|(sum, own)| *sum = sum.saturating_add(*own));
    }
    let totals = totals.map(|sum| sum / count);
    let bits = bits.map(|sum| sum.div_euclid(i64::try_from(count).unwrap_or(i64::MAX)));
    let [normal, anomalous] = totals;
    let rate = shrunk((anomalous, normal), 0, 0);
    let rows = by_class(&totals, &bits);
    let noise = leaves.div_ceil(count);
    let classes = std::array::from_fn(|class| {
        let rows = rows.get(class).copied().unwrap_or_default();
        prior.share(rows, noise * counts_of(class), rate, rate)
    });
    Rates { all: rate, classes }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(trees: u32, depth: u32) -> ForestSpec {
        let column =
            |name: &str, low, high, weight| Range { name: name.to_owned(), low, high, weight };
        ForestSpec {
            trees,
            depth,
            columns: vec![
                column("amount", 0, 1000, 2),
                column("delay", -3, 3, 1),
                column("same_day", 0, 1, 1),
                column("unused", 0, 9, 0),
            ],
            seed: [7; 32],
        }
    }

    fn rows(count: i32) -> impl Iterator<Item = [i32; 4]> {
        (0..count).map(|i| [i * 397 % 1001, i * 5 % 7 - 3, i % 2, i % 10])
    }

    #[test]
    fn the_or_of_both_sides_is_the_greater_severity() {
        for ordering in Severity::ALL {
            for beneficiary in Severity::ALL {
                let (a, b) = (ordering.bits(), beneficiary.bits());
                assert_eq!([a[0] | b[0], a[1] | b[1]], ordering.max(beneficiary).bits());
            }
        }
        assert_eq!(
            Severity::ALL.map(Severity::bits),
            [[false, false], [true, false], [true, true]]
        );
    }

    #[test]
    fn a_forest_is_drawn_from_its_seed_alone() {
        let forest = Forest::draw(&spec(4, 3)).unwrap();
        assert_eq!(forest, Forest::draw(&spec(4, 3)).unwrap());
        let other = Forest::draw(&ForestSpec { seed: [8; 32], ..spec(4, 3) }).unwrap();
        assert_ne!(forest.splits, other.splits);
        // Recorded: a change would part networks of two versions.
        let first: Vec<(usize, i32)> =
            forest.splits.iter().take(7).map(|split| (split.column, split.threshold)).collect();
        assert_eq!(first, GOLDEN_SPLITS);
        let leaves: Vec<u32> = forest.leaves(&[400, 0, 1, 0]).collect();
        assert_eq!(leaves, GOLDEN_LEAVES);
    }

    const GOLDEN_SPLITS: [(usize, i32); 7] =
        [(0, 439), (0, 393), (0, 699), (1, -1), (2, 0), (0, 448), (2, 0)];
    const GOLDEN_LEAVES: [u32; 4] = [3, 6, 4, 0];

    #[test]
    fn splits_stay_within_what_is_left_of_a_columns_range() {
        let spec = spec(20, 5);
        let forest = Forest::draw(&spec).unwrap();
        let nodes = (1 << spec.depth) - 1;
        for tree in forest.splits.chunks(nodes) {
            for (node, split) in tree.iter().enumerate() {
                let column = &spec.columns[split.column];
                assert!(column.weight > 0);
                let (mut low, mut high) = (column.low, column.high);
                let mut at = node;
                while at > 0 {
                    let (above, second) = ((at - 1) / 2, at % 2 == 0);
                    if tree[above].column == split.column {
                        let threshold = tree[above].threshold;
                        if second {
                            low = low.max(threshold + 1)
                        } else {
                            high = high.min(threshold)
                        }
                    }
                    at = above;
                }
                assert!((low..high).contains(&split.threshold), "{split:?} in {low}..{high}");
            }
        }
    }

    #[test]
    fn columns_without_two_values_left_end_in_the_first_child() {
        let mut narrow = spec(1, 3);
        narrow.columns = vec![Range { name: "bit".to_owned(), low: 0, high: 1, weight: 1 }];
        let forest = Forest::draw(&narrow).unwrap();
        assert_eq!([0, 1].map(|value| forest.leaf(0, &[value])), [0, 4]);
        // A missing column counts as 0.
        assert_eq!(forest.leaf(0, &[]), 0);
        assert_eq!(forest.leaf(1, &[1]), 0);
    }

    #[test]
    fn every_row_adds_to_the_cells_of_its_leaves_only() {
        let forest = Forest::draw(&spec(5, 4)).unwrap();
        let (mut totals, mut cells) = (Totals::new(&forest), Cells::new(&forest));
        let (mut expected, mut all) = (vec![0i64; 5 * 16 * 2 * 2], vec![0u64; 5 * 16 * 2]);
        for (i, row) in rows(300).enumerate() {
            let (label, severity) = (i % 9 == 0, Severity::ALL[i % 3]);
            totals.add(&forest, &row, label);
            cells.add(&forest, &row, label, severity.bits());
            for (tree, leaf) in (0..5).zip(forest.leaves(&row)) {
                let place = (tree * 16 + leaf as usize) * 2 + usize::from(label);
                all[place] += 1;
                expected[place * 2] += i64::from(severity >= Severity::Soft);
                expected[place * 2 + 1] += i64::from(severity >= Severity::Hard);
            }
        }
        assert_eq!(cells.counts(), expected);
        assert_eq!(totals.0, all);
        assert_eq!(forest.spec().cells(), 320);
        assert_eq!(forest.cell(4, 15, true, 1), 319);
        assert_eq!(Cells::opened(&forest, expected).unwrap(), cells);
        assert_eq!(Cells::opened(&forest, vec![0; 319]), Err(ForestError::Shape(319, 320)));
    }

    #[test]
    fn replacing_an_account_moves_the_cells_by_the_sensitivity_at_most() {
        let forest = Forest::draw(&spec(6, 4)).unwrap();
        let counts = |severity: Severity, same: bool| {
            let mut cells = Cells::new(&forest);
            for row in rows(3) {
                let row = if same { [1, 1, 1, 1] } else { row };
                cells.add(&forest, &row, true, severity.bits());
            }
            cells
        };
        let distance = |from, to, same| -> u64 {
            let (a, b) = (counts(from, same), counts(to, same));
            a.0.iter().zip(&b.0).map(|(a, b)| a.abs_diff(*b).pow(2)).sum()
        };
        let bound = forest.sensitivity_squared(3);
        assert_eq!(bound, 9 * 2 * 6);
        // The bound is met where all rows share their leaves.
        assert_eq!(distance(Severity::Clean, Severity::Hard, true), bound);
        for (from, to) in [(Severity::Clean, Severity::Soft), (Severity::Soft, Severity::Hard)] {
            assert_eq!(distance(from, to, true), bound / 2);
            assert!(distance(from, to, false) < bound / 2);
        }
    }

    #[test]
    fn rows_of_a_class_are_differences_of_thermometer_counts_clipped_at_zero() {
        // Normal: 100 rows, 7 soft or hard, 2 hard. Anomalous: 5 rows, 4 and 3.
        assert_eq!(by_class(&[100, 5], &[7, 2, 4, 3]), [(1, 93), (1, 5), (3, 2)]);
        // Noise: below zero, and beyond the total.
        assert_eq!(by_class(&[100, 5], &[-3, 2, 9, -1]), [(0, 100), (5, 0), (0, 2)]);
        assert_eq!(by_class(&[0, 0], &[i64::MAX, i64::MIN, i64::MIN, i64::MAX]), [(0, 0); 3]);
    }

    #[test]
    fn shares_are_shrunk_towards_the_prior() {
        let one = 1u64 << WEIGHT_BITS;
        assert_eq!(shrunk((3, 1), 0, 0), 3 * ONE / 4);
        assert_eq!(shrunk((3, 1), 4 * one, ONE / 2), 5 * ONE / 8);
        assert_eq!(shrunk((0, 0), 4 * one, ONE / 3), ONE / 3);
        assert_eq!(shrunk((0, 0), 0, ONE / 3), ONE / 3);
        assert_eq!(shrunk((1, 0), one / 2, 0), ONE * 2 / 3);
    }

    #[test]
    fn scores_are_means_over_trees_of_shrunk_shares() {
        // One column of two values: every tree splits it in the same way.
        let mut narrow = spec(3, 1);
        narrow.columns = vec![Range { name: "bit".to_owned(), low: 0, high: 1, weight: 1 }];
        let forest = Forest::draw(&narrow).unwrap();
        let (mut totals, mut cells) = (Totals::new(&forest), Cells::new(&forest));
        let mut add = |value, label, severity: Severity, times| {
            for _ in 0..times {
                totals.add(&forest, &[value], label);
                cells.add(&forest, &[value], label, severity.bits());
            }
        };
        add(0, false, Severity::Clean, 90);
        add(0, true, Severity::Clean, 2);
        add(1, false, Severity::Clean, 6);
        add(1, true, Severity::Hard, 2);
        let weight = 2u64 << WEIGHT_BITS;
        let prior = Prior { weight, variance: 0 };
        let scores = Scores::new(&forest, &totals, &cells, prior);
        let shrink =
            |anomalous: u64, normal: u64, prior| shrunk((anomalous, normal), weight, prior);
        let base = 4 * ONE / 100;
        // The class over all trees, then the root, then the leaf.
        let clean = shrink(2, 96, shrink(2, 96, base));
        let soft = shrink(0, 0, base);
        let hard = shrink(2, 0, shrink(2, 0, base));
        let first = [shrink(2, 90, clean), soft, hard];
        let second = [shrink(0, 6, clean), soft, shrink(2, 0, hard)];
        assert_eq!(scores.of(&forest, &[0]), first);
        assert_eq!(scores.of(&forest, &[1]), second);

        // Whatever was opened, a score is a probability.
        for extreme in [i64::MIN, i64::MAX] {
            for variance in [0, 1, u64::MAX] {
                let cells = Cells::opened(&forest, vec![extreme; cells.counts().len()]).unwrap();
                let prior = Prior { weight, variance };
                let scores = Scores::new(&forest, &totals, &cells, prior);
                let legal = |bit| scores.of(&forest, &[bit]).iter().all(|score| *score <= ONE);
                assert!([0, 1].into_iter().all(legal));
            }
        }
    }

    #[test]
    fn noise_pulls_a_share_to_its_prior_the_more_the_fewer_its_rows_and_the_rarer_it_is() {
        let weight = 2u64 << WEIGHT_BITS;
        let exact = Prior { weight, variance: 0 };
        assert_eq!(exact.share((3, 5), 7, ONE / 4, ONE / 2), shrunk((3, 5), weight, ONE / 4));
        let noisy = |variance| Prior { weight, variance };
        let share = |anomalous: u64, rows: u64| ONE / 4 * anomalous / rows;
        // 2 rows of the node above; of what is expected 2 x 64 / (8 x 64 x 1/16) = 4, with a quarter of the
        // rows 16.
        let got = noisy(64).share((3, 5), 2, ONE / 4, ONE / 2);
        assert_eq!(got, share(4 * 3 + 2 + 2 * 4, 8 + 2 + 4));
        let got = noisy(64).share((1, 1), 2, ONE / 4, ONE / 2);
        assert_eq!(got, share(4 + 2 + 2 * 16, 2 + 2 + 16));
        // Rarer: 2 x 72 / (8 x 64 x 9/256) = 8.
        let got = noisy(72).share((3, 5), 2, ONE / 2, ONE / 4);
        assert_eq!(got, share(4 * 3 + 2 * 2 + 8, 8 + 2 + 8));
        let noisy = noisy(3);
        // Nothing counts, or nothing varies.
        assert_eq!(noisy.share((0, 0), 2, ONE / 2, ONE / 4), ONE / 4);
        assert_eq!(noisy.share((3, 5), 2, ONE / 2, 0), 0);
        assert_eq!(noisy.share((3, 5), 2, ONE / 2, ONE), ONE);
        assert_eq!(Prior::new(1, Some(2.5)), Prior { weight: 1 << WEIGHT_BITS, variance: 7 });
        assert_eq!(Prior::new(3, None), Prior { weight: 3 << WEIGHT_BITS, variance: 0 });
        assert_eq!([0, 1, 2].map(counts_of), [1, 2, 1]);
    }

    #[test]
    fn a_classes_odds_are_carried_down_as_those_of_all_rows_change() {
        // Odds of all rows from 1/3 to 1, those of the class from 1 to 3.
        let near =
            |got: u64, expected: u64| assert!(got.abs_diff(expected) < 8, "{got} {expected}");
        near(carried(ONE / 2, ONE / 4, ONE / 2), 3 * (ONE / 4));
        near(carried(ONE / 5, ONE / 5, ONE / 7), ONE / 7);
        near(carried(ONE / 5, ONE / 3, ONE / 3), ONE / 5);
        // Rare classes among rare labels lose no bits: odds of 300 / 2^32, a third of all rows' odds.
        near(carried(300, ONE / 1000, ONE / 3000), 100);
        near(carried(4096, ONE / 1000, ONE / 2000), 2047);
        assert_eq!(carried(0, ONE / 3, ONE / 2), 0);
        assert_eq!(carried(ONE, ONE / 3, ONE / 2), ONE);
        // Nothing is known of the node above, or it contradicts itself.
        assert_eq!(carried(ONE / 5, 0, 0), ONE / 5);
        assert_eq!(carried(ONE, ONE, ONE), ONE);
    }

    #[test]
    fn base_rates_are_means_over_the_trees_before_anything_is_clipped() {
        let mut narrow = spec(2, 1);
        narrow.columns = vec![Range { name: "bit".to_owned(), low: 0, high: 1, weight: 1 }];
        let forest = Forest::draw(&narrow).unwrap();
        let mut totals = Totals::new(&forest);
        for row in 0..100 {
            totals.add(&forest, &[row % 2], row < 20);
        }
        // 4 of 80 normal and 4 of 20 anomalous rows are hard; noise takes 9 in one tree, adds 9 in the
        // other.
        let cells = |noise: i64| {
            let tree = |noise: i64| [4 + noise, 4 + noise, 4 + noise, 4 + noise, 0, 0, 0, 0];
            Cells::opened(&forest, [tree(-noise), tree(noise)].concat()).unwrap()
        };
        let trees = |cells: &Cells| -> Vec<Tree> {
            let halves = totals.0.chunks(4).zip(cells.0.chunks(8));
            halves.map(|(totals, bits)| Tree::new(totals, bits)).collect()
        };
        let prior = Prior { weight: 1 << WEIGHT_BITS, variance: 0 };
        let plain = base_rates(&trees(&cells(0)), 2, prior);
        assert_eq!(base_rates(&trees(&cells(9)), 2, prior).classes, plain.classes);
        assert_eq!(plain.classes[2], shrunk((4, 4), prior.weight, ONE / 5));
    }

    #[test]
    fn forests_out_of_bounds_are_refused() {
        let size = |what, most| Err(ForestError::Size { what, most });
        assert_eq!(spec(0, 3).check(), size("trees", 1024));
        assert_eq!(spec(1025, 3).check(), size("trees", 1024));
        assert_eq!(spec(1, 0).check(), size("levels", 12));
        assert_eq!(spec(1, 13).check(), size("levels", 12));
        assert_eq!(spec(1024, 12).check(), size("cells", MAX_CELLS));
        assert_eq!(ForestSpec { columns: Vec::new(), ..spec(1, 1) }.check(), size("columns", 256));
        let mut bad = spec(1, 1);
        bad.columns[1].high = -3;
        assert_eq!(bad.check(), Err(ForestError::Range("delay".to_owned())));
        let mut bad = spec(1, 1);
        bad.columns.iter_mut().for_each(|column| column.weight = 0);
        assert_eq!(bad.check(), Err(ForestError::Range("amount".to_owned())));
    }
}
