//! What the network makes of its payments: columns of integers for the forest.
//!
//! Averages and counts come from the training days only. A training payment is compared with all
//! training payments but itself, as a later payment is, so that its own trace does not give it away.

use std::collections::HashMap;
use std::hash::Hash;
use std::ops::Range as Days;

use quorate_protocols::pv4fad::forest::Range;

use super::civil::{DAY_SECONDS, weekday};
use super::money::Currency;
use super::record::Payment;

/// Fractional bits of columns.
pub const FRACTION_BITS: i32 = 12;

/// A real number as columns hold it.
#[must_use]
pub fn fixed(x: f64) -> i32 {
    let scaled = libm::rint(libm::scalbn(x, FRACTION_BITS)).clamp(-1e9, 1e9);
    #[expect(clippy::cast_possible_truncation, reason = "a whole number within +-10^9")]
    let fixed = scaled as i32;
    fixed
}

/// Rows x columns of integers.
#[derive(Clone, Default)]
pub struct Columns {
    /// The columns, each with the public range that random splits are drawn from.
    pub ranges: Vec<Range>,
    /// Row by row.
    values: Vec<i32>,
}

impl std::fmt::Debug for Columns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Columns").field("rows", &self.rows()).finish_non_exhaustive()
    }
}

impl Columns {
    /// Rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.values.len() / self.ranges.len().max(1)
    }

    /// One row.
    #[must_use]
    pub fn row(&self, row: usize) -> &[i32] {
        let width = self.ranges.len();
        self.values.get(row * width..(row + 1) * width).unwrap_or_default()
    }

    /// The column of a number, row by row.
    pub fn column(&self, column: usize) -> impl Iterator<Item = i32> {
        self.values.iter().skip(column).step_by(self.ranges.len().max(1)).copied()
    }

    /// The same rows with one more column; one column, where there was none.
    #[must_use]
    pub fn with(&self, range: Range, values: &[i32]) -> Self {
        let mut ranges = self.ranges.clone();
        ranges.push(range);
        let all = (0..).zip(values).flat_map(|(row, value)| self.row(row).iter().chain([value]));
        Self { ranges, values: all.copied().collect() }
    }
}

/// Columns by name: the public range of each, and how often random trees split it.
const COLUMNS: [(&str, f64, f64, u32); 19] = [
    ("log_amount", 2.0, 16.0, 2),
    ("amount_score", -4.0, 8.0, 4),
    ("log_gap", -7.0, 0.0, 4),
    ("currencies_differ", 0.0, 1.0, 1),
    ("hour_sin", -1.0, 1.0, 1),
    ("hour_cos", -1.0, 1.0, 1),
    ("hour_distance", 0.0, 2.0, 4),
    ("delay", 0.0, 7.0, 4),
    ("weekday", 0.0, 6.0, 0),
    ("log_pair_seen", 0.0, 4.0, 2),
    ("log_payments_today", 0.0, 3.0, 2),
    ("log_corridor_share", -7.0, 0.0, 2),
    ("log_currencies_share", -9.0, 0.0, 1),
    ("log_payer_count", 0.0, 7.0, 1),
    ("log_payee_count", 0.0, 7.0, 1),
    ("sender_bank", 0.0, 63.0, 0),
    ("receiver_bank", 0.0, 63.0, 0),
    ("log_fresh_today", 0.0, 3.0, 2),
    ("log_alike_today", 0.0, 3.0, 2),
];

/// Weight of the pooled spread of amounts in that of one payer.
const POOLED_WEIGHT: f64 = 3.0;

/// Amounts whose logarithms differ by less than this are alike.
const ALIKE: f64 = 0.2;

/// A number for each text, in the order of their first appearance.
fn numbers<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<usize> {
    let mut numbers = HashMap::new();
    let number = |text| {
        let next = numbers.len();
        *numbers.entry(text).or_insert(next)
    };
    texts.map(number).collect()
}

/// Counts of keys, less one for a payment that is counted itself.
struct Counts<K>(HashMap<K, u32>);

impl<K: Eq + Hash> Counts<K> {
    fn new(keys: impl Iterator<Item = K>) -> Self {
        let mut counts = HashMap::new();
        keys.for_each(|key| *counts.entry(key).or_insert(0) += 1);
        Self(counts)
    }

    fn without(&self, key: &K, own: f64) -> f64 {
        f64::from(self.0.get(key).copied().unwrap_or(0)) - own
    }
}

/// Sums over a payer's training payments.
#[derive(Clone, Copy, Default)]
struct Habit {
    count: f64,
    sum: f64,
    squares: f64,
    sine: f64,
    cosine: f64,
}

impl Habit {
    fn of(glance: &Glance) -> Self {
        let (sine, cosine) = (libm::sin(glance.angle), libm::cos(glance.angle));
        let x = glance.log_eur;
        Self { count: 1.0, sum: x, squares: x * x, sine, cosine }
    }

    fn plus(self, other: Self, sign: f64) -> Self {
        Self {
            count: self.count + sign * other.count,
            sum: self.sum + sign * other.sum,
            squares: self.squares + sign * other.squares,
            sine: self.sine + sign * other.sine,
            cosine: self.cosine + sign * other.cosine,
        }
    }

    /// Sum of squared distances from the mean.
    fn spread(&self) -> f64 {
        (self.squares - self.sum * self.sum / self.count.max(1.0)).max(0.0)
    }
}

/// What columns need of a payment.
struct Glance {
    payer: usize,
    payee: usize,
    banks: (usize, usize),
    currencies: (Currency, Currency),
    day: u64,
    log_eur: f64,
    gap: f64,
    /// The time of day as an angle.
    angle: f64,
    delay: u64,
    training: bool,
}

/// The columns of `payments`, whose training days are `training`, counted from 1970-01-01.
#[must_use]
pub fn columns(payments: &[Payment], training: Days<u64>) -> Columns {
    let accounts = payments.iter().flat_map(|p| [&*p.ordering_account, &*p.beneficiary_account]);
    let accounts = numbers(accounts);
    let mut banks: Vec<&str> =
        payments.iter().flat_map(|p| [&*p.sender_bank, &*p.receiver_bank]).collect();
    banks.sort_unstable();
    banks.dedup();
    let bank = |name: &str| banks.binary_search(&name).unwrap_or(0);
    let glances: Vec<Glance> = payments
        .iter()
        .zip(accounts.chunks_exact(2))
        .map(|(payment, accounts)| {
            let day = payment.timestamp / DAY_SECONDS;
            let of_day = (payment.timestamp % DAY_SECONDS) as f64 / DAY_SECONDS as f64;
            let log_eur = payment.settled.log_eur();
            Glance {
                payer: accounts[0],
                payee: accounts[1],
                banks: (bank(&payment.sender_bank), bank(&payment.receiver_bank)),
                currencies: (payment.settled.currency, payment.instructed.currency),
                day,
                log_eur,
                gap: (payment.instructed.log_eur() - log_eur).abs(),
                angle: core::f64::consts::TAU * of_day,
                delay: payment.settlement_date.saturating_sub(day),
                training: training.contains(&day),
            }
        })
        .collect();
    let history = History::new(&glances);
    let mut values = Vec::with_capacity(glances.len() * COLUMNS.len());
    glances.iter().for_each(|glance| values.extend(history.row(glance).map(fixed)));
    let last_bank = banks.len().saturating_sub(1).max(1) as f64;
    let range = |(name, low, high, weight): (&str, f64, f64, u32)| {
        let high = if name.ends_with("_bank") { last_bank } else { high };
        Range { name: name.to_owned(), low: fixed(low), high: fixed(high), weight }
    };
    Columns { ranges: COLUMNS.map(range).to_vec(), values }
}

/// What the training days say, and each day about its own payments.
struct History {
    habits: HashMap<usize, Habit>,
    all: Habit,
    /// Variance of log amounts around their payers' means.
    pooled: f64,
    pairs: Counts<(usize, usize)>,
    payees: Counts<usize>,
    senders: Counts<usize>,
    corridors: Counts<(usize, usize)>,
    currencies: Counts<(Currency, Currency)>,
    today: Counts<(usize, u64)>,
    fresh_today: Counts<(usize, u64)>,
    amounts_today: HashMap<(usize, u64), Vec<f64>>,
}

impl History {
    fn new(glances: &[Glance]) -> Self {
        let training = || glances.iter().filter(|glance| glance.training);
        let mut habits: HashMap<usize, Habit> = HashMap::new();
        let mut all = Habit::default();
        for glance in training() {
            let own = Habit::of(glance);
            let habit = habits.entry(glance.payer).or_default();
            *habit = habit.plus(own, 1.0);
            all = all.plus(own, 1.0);
        }
        // In the order of payments, so that the sum is the same each time.
        let mut seen = std::collections::HashSet::new();
        let (mut squares, mut degrees) = (0.0, 0.0);
        for glance in training().filter(|glance| seen.insert(glance.payer)) {
            if let Some(habit) = habits.get(&glance.payer) {
                squares += habit.spread();
                degrees += habit.count - 1.0;
            }
        }
        let pairs = Counts::new(training().map(|glance| (glance.payer, glance.payee)));
        let fresh = |glance: &&Glance| {
            let own = f64::from(u8::from(glance.training));
            pairs.without(&(glance.payer, glance.payee), own) < 0.5
        };
        let fresh_today = Counts::new(glances.iter().filter(fresh).map(|g| (g.payer, g.day)));
        let mut amounts_today: HashMap<_, Vec<f64>> = HashMap::new();
        for glance in glances {
            amounts_today.entry((glance.payer, glance.day)).or_default().push(glance.log_eur);
        }
        Self {
            pooled: if degrees > 0.0 { squares / degrees } else { 1.0 },
            payees: Counts::new(training().map(|glance| glance.payee)),
            senders: Counts::new(training().map(|glance| glance.banks.0)),
            corridors: Counts::new(training().map(|glance| glance.banks)),
            currencies: Counts::new(training().map(|glance| glance.currencies)),
            today: Counts::new(glances.iter().map(|glance| (glance.payer, glance.day))),
            fresh_today,
            amounts_today,
            habits,
            all,
            pairs,
        }
    }

    /// The columns of one payment.
    fn row(&self, glance: &Glance) -> [f64; COLUMNS.len()] {
        let own = f64::from(u8::from(glance.training));
        let habit = self.habits.get(&glance.payer).copied().unwrap_or_default();
        let habit = habit.plus(Habit::of(glance), -own);
        let mean = if habit.count > 0.5 {
            habit.sum / habit.count
        } else {
            self.all.sum / self.all.count.max(1.0)
        };
        let variance =
            (habit.spread() + POOLED_WEIGHT * self.pooled) / (habit.count + POOLED_WEIGHT);
        let score = (glance.log_eur - mean) / libm::sqrt(variance.max(1e-6));
        let (sine, cosine) = (libm::sin(glance.angle), libm::cos(glance.angle));
        let length = libm::hypot(habit.sine, habit.cosine);
        let along = (sine * habit.sine + cosine * habit.cosine) / length.max(1e-9);
        let distance = if habit.count > 0.5 { 1.0 - along } else { 0.5 };
        let share = |count: f64, of: f64| libm::log((count + 0.5) / (of + 1.0));
        let more = |count: f64| libm::log1p(count.max(0.0));
        let (sender, receiver) = glance.banks;
        let today = (glance.payer, glance.day);
        let alike = self.amounts_today.get(&today).map_or(0, |amounts| {
            amounts.iter().filter(|amount| (**amount - glance.log_eur).abs() < ALIKE).count()
        });
        let differ = glance.currencies.0 != glance.currencies.1;
        [
            glance.log_eur,
            score,
            libm::log(glance.gap + 0.001),
            f64::from(u8::from(differ)),
            sine,
            cosine,
            distance,
            glance.delay as f64,
            weekday(glance.day) as f64,
            more(self.pairs.without(&(glance.payer, glance.payee), own)),
            more(self.today.without(&today, 1.0)),
            share(self.corridors.without(&glance.banks, own), self.senders.without(&sender, own)),
            share(self.currencies.without(&glance.currencies, own), self.all.count - own),
            more(habit.count),
            more(self.payees.without(&glance.payee, own)),
            sender as f64,
            receiver as f64,
            more(self.fresh_today.without(&today, 0.0)),
            more(alike as f64 - 1.0),
        ]
    }
}
