//! The twin, the network's columns and the models it is compared with, at the size of CI.

use std::num::NonZeroU32;
use std::sync::LazyLock;

use quorate_protocols::pv4fad::forest::{BITS, LABELS, Prior, Severity};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;

use super::bank::Finding;
use super::features::{Columns, fixed};
use super::generate::PaymentsSpec;
use super::twin::{DEPTH, MOST_ROWS, Sample, Side, TREES, Trained, forest_spec, sigma};

static SAMPLE: LazyLock<Sample> = LazyLock::new(|| {
    let spec = PaymentsSpec { rows: 20_000, banks: 12, seed: 3, anomaly_rate: 0.01 };
    Sample::generate(spec).unwrap()
});

static STACKED: LazyLock<Columns> =
    LazyLock::new(|| SAMPLE.stacked(&SAMPLE.forest_scores(&SAMPLE.columns, 1)));

fn trained(most_rows: Option<NonZeroU32>) -> Trained {
    let spec = forest_spec(&STACKED, TREES, DEPTH, [5; 32]);
    Trained::new(&spec, &SAMPLE, &STACKED, &SAMPLE.asked([6; 32]), most_rows).unwrap()
}

fn area(trained: &Trained, class: impl Fn(usize) -> Severity) -> f64 {
    SAMPLE.average_precision(&trained.predict(&STACKED, class))
}

#[test]
fn training_and_test_days_are_apart_and_columns_stay_in_range() {
    let sample = &*SAMPLE;
    assert_eq!(sample.training.len() + sample.test.len(), 20_000);
    assert!(sample.training.last() < sample.test.first());
    let asked = sample.asked([6; 32]);
    assert_ne!(asked, sample.training);
    let mut sorted = asked.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, sample.training);
    let names: Vec<&str> = STACKED.ranges.iter().map(|range| &*range.name).collect();
    for (column, range) in STACKED.ranges.iter().enumerate() {
        // Few values are beyond what splits tell apart, and every column tells something apart.
        let values: Vec<i32> = STACKED.column(column).collect();
        let outside = values.iter().filter(|value| !(range.low..=range.high).contains(*value));
        assert!(outside.count() < 400, "{}", range.name);
        assert!(values.iter().any(|value| *value != values[0]), "{}", range.name);
    }
    // Half of the payments settle on the same day, and the second column of time is periodic.
    let delay = names.iter().position(|name| *name == "delay").unwrap();
    let prompt = STACKED.column(delay).filter(|value| *value == 0).count();
    assert!((10_500..11_500).contains(&prompt), "{prompt}");
    assert_eq!(fixed(1.5), 6144);
}

#[test]
fn a_training_payment_leaves_no_trace_in_its_own_history() {
    // A fresh pair looks alike on training and on test days.
    let names: Vec<&str> = STACKED.ranges.iter().map(|range| &*range.name).collect();
    let pair = names.iter().position(|name| *name == "log_pair_seen").unwrap();
    let fresh = |rows: &[usize]| {
        let fresh = rows.iter().filter(|row| STACKED.row(**row)[pair] == 0).count();
        fresh as f64 / rows.len() as f64
    };
    let (training, test) = (fresh(&SAMPLE.training), fresh(&SAMPLE.test));
    assert!((0.1..0.5).contains(&training) && (training - test).abs() < 0.05, "{training} {test}");
}

#[test]
fn banks_add_what_the_network_cannot_see() {
    let with_banks = trained(None);
    let private = area(&with_banks, |row| SAMPLE.class(row));
    let network = area(&with_banks.without_banks(), |_| Severity::Clean);
    let pooled =
        SAMPLE.average_precision(&SAMPLE.forest_scores(&SAMPLE.pooled(&SAMPLE.columns), 2));
    assert!(private - network >= 0.1, "{private} {network}");
    assert!((pooled - private).abs() <= 0.05, "{private} {pooled}");

    // Control: the same findings at each bank, but of other payments.
    let mut shuffled = Sample {
        columns: SAMPLE.columns.clone(),
        labels: SAMPLE.labels.clone(),
        sides: SAMPLE.sides.clone(),
        training: SAMPLE.training.clone(),
        test: SAMPLE.test.clone(),
    };
    for (side, name) in ["sender_bank", "receiver_bank"].into_iter().enumerate() {
        let column = STACKED.ranges.iter().position(|range| range.name == name).unwrap();
        let banks: Vec<i32> = STACKED.column(column).collect();
        for bank in 0..12 {
            let own = |row: &usize| banks[*row] == fixed(f64::from(bank));
            let rows: Vec<usize> = (0..banks.len()).filter(own).collect();
            for (place, row) in rows.iter().enumerate() {
                let other = rows[(place + rows.len() / 2) % rows.len()];
                shuffled.sides[*row][side] = SAMPLE.sides[other][side];
            }
        }
    }
    let spec = forest_spec(&STACKED, TREES, DEPTH, [5; 32]);
    let control = Trained::new(&spec, &shuffled, &STACKED, &shuffled.asked([6; 32]), None).unwrap();
    let scores = control.predict(&STACKED, |row| shuffled.class(row));
    let control = SAMPLE.average_precision(&scores);
    assert!((control - network).abs() < 0.03, "{control} {network}");
}

#[test]
fn an_account_counts_in_as_many_payments_as_allowed() {
    let all = trained(None);
    let most = NonZeroU32::new(2).unwrap();
    let limited = trained(Some(most));
    assert_eq!(all.totals, limited.totals);
    let sum = |trained: &Trained, label: bool, bit: usize| -> i64 {
        let cells = trained.cells.counts().iter().skip(usize::from(label) * BITS + bit);
        cells.step_by(LABELS * BITS).sum::<i64>() / i64::from(TREES)
    };
    // Soft sides of normal payments come from few accounts.
    assert!(sum(&limited, false, 0) * 3 < sum(&all, false, 0));
    // By hand: an account's first two sides in the order of asking.
    let mut times = std::collections::HashMap::new();
    let mut expected = [[0i64; BITS]; LABELS];
    for row in SAMPLE.asked([6; 32]) {
        let mut worst = Severity::Clean;
        for Side { account, finding } in SAMPLE.sides[row] {
            let times: &mut u32 = times.entry(account).or_default();
            *times += 1;
            if *times <= 2 {
                worst = worst.max(finding.severity());
            }
        }
        for (bit, set) in worst.bits().into_iter().enumerate() {
            expected[usize::from(SAMPLE.labels[row])][bit] += i64::from(set);
        }
    }
    for (label, bits) in [false, true].into_iter().zip(expected) {
        assert_eq!([0, 1].map(|bit| sum(&limited, label, bit)), bits);
    }
}

#[test]
fn noise_has_its_size_and_follows_the_seed() {
    let exact = trained(Some(MOST_ROWS));
    let sigma = sigma(&exact.forest, MOST_ROWS, 1.0, 1e-6);
    // K sqrt(2 T) times the sigma of one release at sensitivity 1.
    assert!(
        (sigma / 20.0 - quorate_crypto::dp::account::sigma_for_zcdp(1.0, 1, 1e-6)).abs() < 1e-9
    );
    let noisy = |seed| exact.with_noise(sigma, &mut ChaCha20Rng::from_seed([seed; 32])).unwrap();
    let one = noisy(1);
    assert_eq!(one.cells, noisy(1).cells);
    assert_ne!(one.cells, noisy(2).cells);
    assert_eq!(one.prior, Prior::new(1, Some(sigma)));
    let counts = one.cells.counts().iter().zip(exact.cells.counts());
    let squares: f64 = counts.map(|(noisy, exact)| ((noisy - exact) as f64).powi(2)).sum();
    // 12,800 draws: the variance is within 5 %, four standard deviations.
    let ratio = squares / one.cells.counts().len() as f64 / (sigma * sigma);
    assert!((0.95..1.05).contains(&ratio), "{ratio}");
    // Noise of any size leaves the network what it knows itself, and nothing of the banks'.
    let drowned = exact.with_noise(1e6, &mut ChaCha20Rng::from_seed([3; 32])).unwrap();
    let class = |row| SAMPLE.class(row);
    let (exact, drowned) = (area(&exact, class), area(&drowned, class));
    assert!(exact - drowned > 0.1 && drowned > 0.2, "{exact} {drowned}");
}

#[test]
fn closed_tables_cost_little_beside_what_banks_add() {
    let (exact, class) = (trained(None), |row| SAMPLE.class(row));
    let pooled = |trained: &Trained, sigma| {
        SAMPLE.average_precision(&trained.predict_pooled(&STACKED, class, sigma))
    };
    let (forest, closed) = (area(&exact, class), pooled(&exact, None));
    let none = exact.without_banks();
    let alone = none.predict(&STACKED, |_| Severity::Clean);
    let network = SAMPLE.average_precision(&alone);
    assert!((forest - closed).abs() < 0.03, "{forest} {closed}");
    assert!(closed - network > 0.1, "{closed} {network}");
    // Without banks all rows are clean, which tells nothing: the network's own scores, to the bit.
    assert_eq!(none.predict_pooled(&STACKED, |_| Severity::Clean, None), alone);
    // Noise that drowns every count leaves what the network finds by itself, too.
    let drowned = exact.with_noise(1e6, &mut ChaCha20Rng::from_seed([3; 32])).unwrap();
    let drowned = pooled(&drowned, Some(1e6));
    assert!((drowned - network).abs() < 0.1, "{drowned} {network}");
}

#[test]
fn a_bank_without_book_knows_nothing() {
    let spec = PaymentsSpec { rows: 300, banks: 3, seed: 3, anomaly_rate: 0.01 };
    let payments = super::generate::Payments::new(spec).unwrap();
    let rows: Vec<_> = payments.days().flatten().map(|(payment, _)| payment).collect();
    let sample = Sample::new(&rows, &std::collections::HashMap::new());
    assert!(sample.sides.iter().flatten().all(|side| side.finding == Finding::Unknown));
}
