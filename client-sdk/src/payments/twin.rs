//! The protocol in the clear: what the network and its banks train and predict together, without any
//! cryptography, and the models that it is compared with.
//!
//! Training under encryption opens the same counts, so it equals this to the bit.

use std::collections::HashMap;
use std::num::NonZeroU32;

use quorate_crypto::dp::account::sigma_for_zcdp;
use quorate_crypto::dp::{DiscreteGaussian, DpError, Ratio};
use quorate_protocols::pv4fad::forest::{
    BITS, CLASSES, Cells, Forest, ForestError, ForestSpec, ONE, PooledRule, Prior, Range, Scores,
    Severity, Totals,
};
use rand_chacha::ChaCha20Rng;
use rand_core::{CryptoRng, Rng as _, SeedableRng as _};

use super::PaymentsError;
use super::bank::{AccountBook, Finding};
use super::boosted;
use super::civil::DAY_SECONDS;
use super::features::{Columns, columns, fixed};
use super::generate::{Payments, PaymentsSpec, TRAINING_DAYS};
use super::grove::{self, Growth};
use super::record::Payment;

/// Trees and levels of the forest, and weight of the prior in rows, without noise.
pub const TREES: u32 = 50;
/// See [`TREES`].
pub const DEPTH: u32 = 6;
/// See [`TREES`].
pub const PRIOR_ROWS: u32 = 1;

/// Payments that an account counts in, at most, when there is noise: fewer leave evidence out, more
/// need more noise.
pub const MOST_ROWS: NonZeroU32 = NonZeroU32::new(2).expect("2 is not 0");

/// How often trees split the score of the network's own model, against the weights of its columns.
const SCORE_WEIGHT: u32 = 20;

/// Scores of the network's own model are told apart between these log-odds.
const LOG_ODDS: (f64, f64) = (-11.5, 2.0);

/// One side of a payment at its bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side {
    /// A number for the account.
    pub account: u32,
    /// What the bank finds.
    pub finding: Finding,
}

/// Payments with what the network makes of them and what the banks find.
pub struct Sample {
    /// The network's columns.
    pub columns: Columns,
    /// Whether each payment was anomalous.
    pub labels: Vec<bool>,
    /// Ordering and beneficiary side of each payment.
    pub sides: Vec<[Side; 2]>,
    /// Payments of the training days.
    pub training: Vec<usize>,
    /// The later ones.
    pub test: Vec<usize>,
}

impl Sample {
    /// The sample of `payments` of 30 days, in order of time, and the banks' `books`. The side of a
    /// payment at a bank without book is unknown.
    #[must_use]
    pub fn new(payments: &[Payment], books: &HashMap<String, AccountBook>) -> Self {
        let day = |payment: &Payment| payment.timestamp / DAY_SECONDS;
        let first = payments.first().map_or(0, day);
        let training = first..first + u64::from(TRAINING_DAYS);
        let mut accounts: HashMap<&str, u32> = HashMap::new();
        let mut number = |account| {
            let next = u32::try_from(accounts.len()).unwrap_or(u32::MAX);
            *accounts.entry(account).or_insert(next)
        };
        let sides = payments.iter().map(|payment| {
            let book = |bank| books.get(bank);
            let (payer, payee) = (&payment.ordering_account, &payment.beneficiary_account);
            let ordering = book(&payment.sender_bank).map(|book| book.ordering(payer));
            let beneficiary = book(&payment.receiver_bank)
                .map(|book| book.beneficiary(payee, &payment.beneficiary_name));
            let side = |account, finding: Option<Finding>| Side {
                account,
                finding: finding.unwrap_or(Finding::Unknown),
            };
            [side(number(&**payer), ordering), side(number(&**payee), beneficiary)]
        });
        let sides = sides.collect();
        let (early, late) =
            (0..payments.len()).partition(|row| training.contains(&day(&payments[*row])));
        Self {
            columns: columns(payments, training),
            labels: payments.iter().map(|payment| payment.anomalous).collect(),
            sides,
            training: early,
            test: late,
        }
    }

    /// The sample of generated payments.
    ///
    /// # Errors
    /// As [`PaymentsSpec::check`].
    pub fn generate(spec: PaymentsSpec) -> Result<Self, PaymentsError> {
        let source = Payments::new(spec)?;
        let books = source.banks().map(|(bank, rows)| (bank, AccountBook::new(&rows))).collect();
        let payments: Vec<Payment> = source.days().flatten().map(|(payment, _)| payment).collect();
        Ok(Self::new(&payments, &books))
    }

    /// Scores of all payments by a random forest that sees `columns`: for training payments by trees
    /// that saw none of the payer's.
    #[must_use]
    pub fn forest_scores(&self, columns: &Columns, seed: u64) -> Vec<f64> {
        let payers: Vec<u64> = self.sides.iter().map(|sides| sides[0].account.into()).collect();
        let growth = Growth::standard(columns.ranges.len(), seed);
        grove::scores(columns, &self.labels, &payers, &self.training, growth)
    }

    /// Scores of all payments by boosted trees that see `columns`.
    #[must_use]
    pub fn boosted_scores(&self, columns: &Columns) -> Vec<f64> {
        boosted::scores(columns, &self.labels, &self.training)
    }

    /// `columns` and all that the banks find, in one place.
    #[must_use]
    pub fn pooled(&self, columns: &Columns) -> Columns {
        let flag = |side: usize| {
            let flag = move |sides: &[Side; 2]| match sides[side].finding {
                Finding::Known { flag, .. } => i32::from(flag),
                Finding::Unknown => 8,
            };
            self.sides.iter().map(flag).collect::<Vec<i32>>()
        };
        let mismatch = |sides: &[Side; 2]| match sides[1].finding {
            Finding::Known { mismatch, .. } => i32::from(mismatch),
            Finding::Unknown => 2,
        };
        let mismatch: Vec<i32> = self.sides.iter().map(mismatch).collect();
        let range = |name: &str| Range { name: name.to_owned(), low: 0, high: 8, weight: 1 };
        let columns = columns.with(range("ordering_flag"), &flag(0));
        let columns = columns.with(range("beneficiary_flag"), &flag(1));
        columns.with(range("name_mismatch"), &mismatch)
    }

    /// The network's columns and the log-odds of its own model's scores.
    #[must_use]
    pub fn stacked(&self, scores: &[f64]) -> Columns {
        let log_odds = |score: &f64| {
            let score = score.clamp(1e-5, 1.0 - 1e-5);
            fixed(libm::log(score / (1.0 - score)))
        };
        let range = Range {
            name: "network_score".to_owned(),
            low: fixed(LOG_ODDS.0),
            high: fixed(LOG_ODDS.1),
            weight: SCORE_WEIGHT,
        };
        self.columns.with(range, &scores.iter().map(log_odds).collect::<Vec<_>>())
    }

    /// The training payments in the order in which banks are asked, drawn from `seed`.
    #[must_use]
    pub fn asked(&self, seed: [u8; 32]) -> Vec<usize> {
        let mut rng = ChaCha20Rng::from_seed(seed);
        let mut order = self.training.clone();
        for last in (1..order.len()).rev() {
            let product = u128::from(rng.next_u64()) * (last as u128 + 1);
            order.swap(last, usize::try_from(product >> 64).unwrap_or(last));
        }
        order
    }

    /// The class of a payment whose both banks answer fully, as at inference.
    #[must_use]
    pub fn class(&self, row: usize) -> Severity {
        let [ordering, beneficiary] = self.sides[row];
        ordering.finding.severity().max(beneficiary.finding.severity())
    }

    /// The precision-recall area of scores of all payments, over the test payments.
    #[must_use]
    pub fn average_precision(&self, scores: &[f64]) -> f64 {
        let own: Vec<f64> = self.test.iter().map(|row| scores[*row]).collect();
        let labels: Vec<bool> = self.test.iter().map(|row| self.labels[*row]).collect();
        crate::learn::metrics::average_precision(&own, &labels)
    }
}

/// The forest over `columns` of `trees` trees of `depth` levels, drawn from `seed`.
#[must_use]
pub fn forest_spec(columns: &Columns, trees: u32, depth: u32, seed: [u8; 32]) -> ForestSpec {
    ForestSpec { trees, depth, columns: columns.ranges.clone(), seed }
}

/// What training in the clear counts.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The forest.
    pub forest: Forest,
    /// The network's own counts.
    pub totals: Totals,
    /// What banks and network open together.
    pub cells: Cells,
    /// What leaves' scores are shrunk towards, and how far.
    pub prior: Prior,
}

impl Trained {
    /// Counts the training payments of `sample` on `columns` in the order `asked`.
    ///
    /// With a limit each bank answers clean at a side of an account that was asked for `most_rows`
    /// times before, whichever side of the payment it was.
    ///
    /// # Errors
    /// As [`ForestSpec::check`].
    pub fn new(
        spec: &ForestSpec,
        sample: &Sample,
        columns: &Columns,
        asked: &[usize],
        most_rows: Option<NonZeroU32>,
    ) -> Result<Self, ForestError> {
        let forest = Forest::draw(spec)?;
        let (mut totals, mut cells) = (Totals::new(&forest), Cells::new(&forest));
        let mut times: HashMap<u32, u32> = HashMap::new();
        for row in asked.iter().copied() {
            let mut bits = [false; BITS];
            for side in sample.sides[row] {
                let times = times.entry(side.account).or_default();
                *times += 1;
                if most_rows.is_none_or(|most| *times <= most.get()) {
                    let own = side.finding.severity().bits();
                    bits.iter_mut().zip(own).for_each(|(bit, own)| *bit |= own);
                }
            }
            let (features, label) = (columns.row(row), sample.labels[row]);
            totals.add(&forest, features, label);
            cells.add(&forest, features, label, bits);
        }
        Ok(Self { forest, totals, cells, prior: Prior::new(PRIOR_ROWS, None) })
    }

    /// The same with noise in every opened count, drawn from `rng`, which the prior knows of.
    ///
    /// # Errors
    /// [`DpError`] when the samplers cannot draw such noise.
    pub fn with_noise<R: CryptoRng>(&self, sigma: f64, rng: &mut R) -> Result<Self, DpError> {
        let mut noisy = self.clone();
        let noise = DiscreteGaussian::new(Ratio::above(sigma * sigma, 8)?)?;
        noise.add_to(rng, noisy.cells.counts_mut());
        noisy.prior = Prior::new(PRIOR_ROWS, Some(sigma));
        Ok(noisy)
    }

    /// The same as if no bank had answered.
    #[must_use]
    pub fn without_banks(&self) -> Self {
        Self { cells: Cells::new(&self.forest), ..self.clone() }
    }

    /// The scores of all leaves.
    #[must_use]
    pub fn scores(&self) -> Scores {
        Scores::new(&self.forest, &self.totals, &self.cells, self.prior)
    }

    /// The score of every payment for its class; `class` says which.
    pub fn predict(&self, columns: &Columns, class: impl Fn(usize) -> Severity) -> Vec<f64> {
        let scores = self.scores();
        let score = |row| {
            let table: [u64; CLASSES] = scores.of(&self.forest, columns.row(row));
            table[class(row).class()] as f64 / ONE as f64
        };
        (0..columns.rows()).map(score).collect()
    }

    /// The same by the pooled rule, as in a strict job, in which no leaf is opened: the forest's score
    /// without banks, with the lift of the payment's class in the pool of its leaves. `sigma` is the
    /// standard deviation of the noise in every count, if there is any.
    pub fn predict_pooled(
        &self,
        columns: &Columns,
        class: impl Fn(usize) -> Severity,
        sigma: Option<f64>,
    ) -> Vec<f64> {
        let score = pooled_score((&self.forest, &self.totals, &self.cells), sigma);
        (0..columns.rows()).map(|row| score(columns.row(row), class(row).class())).collect()
    }
}

/// The score of a payment's features for its class by the pooled rule, as [`Trained::predict_pooled`].
pub(super) fn pooled_score<'a>(
    (forest, totals, cells): (&'a Forest, &'a Totals, &'a Cells),
    sigma: Option<f64>,
) -> impl Fn(&[i32], usize) -> f64 + 'a {
    let trees = forest.spec().trees;
    // A class between others is the difference of two counts in every tree.
    let sigma = sigma.map(|sigma| sigma * libm::sqrt(2.0 * f64::from(trees)));
    let rule = PooledRule::new(trees, sigma);
    let alone = Scores::new(forest, totals, &Cells::new(forest), Prior::new(PRIOR_ROWS, None));
    move |features, class| {
        let own = alone.of(forest, features)[Severity::Clean.class()];
        let pool = forest.pool(totals, cells, features);
        rule.score(own, pool.classes[class], pool.rows) as f64 / ONE as f64
    }
}

/// The standard deviation of noise in opened counts with which one account's severity has
/// (`epsilon`, `delta`)-differential privacy, when it counts in at most `most_rows` payments and
/// whatever it is replaced by.
#[must_use]
pub fn sigma(forest: &Forest, most_rows: NonZeroU32, epsilon: f64, delta: f64) -> f64 {
    let sensitivity = libm::sqrt(forest.sensitivity_squared(most_rows.get()) as f64);
    sigma_for_zcdp(epsilon, 1, delta) * sensitivity
}
