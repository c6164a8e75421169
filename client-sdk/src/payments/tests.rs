//! The generator against its specification.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use super::PaymentsError;
use super::bank::{AccountBook, Finding};
use super::civil::{DAY_SECONDS, weekday};
use super::generate::{DAYS, FIRST_DAY, Payments, PaymentsSpec, write};
use super::record::{AccountRow, Anomaly, Payment, read_accounts, read_payments};

const SMALL: PaymentsSpec = PaymentsSpec { rows: 20_000, banks: 12, seed: 7, anomaly_rate: 0.01 };

/// The default size, with more anomalies so that their shares can be told.
const DEFAULT: PaymentsSpec =
    PaymentsSpec { rows: 200_000, banks: 12, seed: 8, anomaly_rate: 0.02 };

static WORLD: LazyLock<World> = LazyLock::new(|| World::new(DEFAULT));

struct Row {
    payment: Payment,
    anomaly: Option<Anomaly>,
    ordering: Finding,
    beneficiary: Finding,
}

struct World {
    rows: Vec<Row>,
    tables: Vec<(String, Vec<AccountRow>)>,
}

impl World {
    fn new(spec: PaymentsSpec) -> Self {
        let payments = Payments::new(spec).unwrap();
        let tables: Vec<_> = payments.banks().collect();
        let books: HashMap<&str, AccountBook> =
            tables.iter().map(|(bank, rows)| (&**bank, AccountBook::new(rows))).collect();
        let row = |(payment, anomaly): (Payment, Option<Anomaly>)| {
            let ordering = books[&*payment.sender_bank].ordering(&payment.ordering_account);
            let (account, name) = (&payment.beneficiary_account, &payment.beneficiary_name);
            let beneficiary = books[&*payment.receiver_bank].beneficiary(account, name);
            Row { payment, anomaly, ordering, beneficiary }
        };
        Self { rows: payments.days().flatten().map(row).collect(), tables }
    }

    /// How many of the rows that `choose` chooses there are, and for which share of them `holds` holds.
    fn count(&self, choose: impl Fn(&Row) -> bool, holds: impl Fn(&Row) -> bool) -> (f64, f64) {
        let chosen: Vec<&Row> = self.rows.iter().filter(|row| choose(row)).collect();
        let count = chosen.len() as f64;
        (count, chosen.iter().filter(|row| holds(row)).count() as f64 / count)
    }
}

/// Whether `holds` holds for the share `expected` of the rows that `choose` chooses, up to five
/// standard deviations of independent rows.
#[track_caller]
fn assert_share(choose: impl Fn(&Row) -> bool, holds: impl Fn(&Row) -> bool, expected: f64) {
    let (count, share) = WORLD.count(choose, holds);
    let room = 5.0 * (expected * (1.0 - expected) / count).sqrt();
    assert!((share - expected).abs() < room, "{share} of {count}, not {expected} +- {room}");
}

fn normal(row: &Row) -> bool {
    row.anomaly.is_none()
}

fn of(anomaly: Anomaly) -> impl Fn(&Row) -> bool {
    move |row| row.anomaly == Some(anomaly)
}

fn flag(finding: Finding) -> u8 {
    match finding {
        Finding::Known { flag, .. } => flag,
        Finding::Unknown => 0,
    }
}

fn worst(row: &Row) -> u8 {
    flag(row.ordering).max(flag(row.beneficiary))
}

fn mismatch(row: &Row) -> bool {
    matches!(row.beneficiary, Finding::Known { mismatch: true, .. })
}

#[track_caller]
fn assert_within(value: f64, low: f64, high: f64) {
    assert!((low..=high).contains(&value), "{value} is not within {low} to {high}");
}

#[test]
fn files_hold_the_payments_and_are_the_same_for_the_same_seed() {
    let folder = tempfile::tempdir().unwrap();
    let [one, two, three] = ["one", "two", "three"].map(|name| folder.path().join(name));
    let written = write(&SMALL, &one).unwrap();
    assert_eq!((written.rows, written.accounts, written.anomalies), (20_000, 1000, 200));
    assert_eq!(written.bank_tables.len(), 12);
    write(&SMALL, &two).unwrap();
    write(&PaymentsSpec { seed: 9, ..SMALL }, &three).unwrap();
    let names: Vec<_> = std::fs::read_dir(&one).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 14);
    for name in &names {
        let bytes = |folder: &std::path::Path| std::fs::read(folder.join(name)).unwrap();
        assert_eq!(bytes(&one), bytes(&two), "{name:?}");
        assert_ne!(bytes(&one), bytes(&three), "{name:?}");
    }

    let world = World::new(SMALL);
    let read = read_payments(&written.network).unwrap();
    assert!(read.iter().eq(world.rows.iter().map(|row| &row.payment)));
    for (path, (_, rows)) in written.bank_tables.iter().zip(&world.tables) {
        assert!(read_accounts(path).unwrap() == *rows, "{}", path.display());
    }
    let types = std::fs::read_to_string(&written.anomaly_types).unwrap();
    let expected: Vec<String> = world
        .rows
        .iter()
        .filter_map(|row| {
            row.anomaly.map(|anomaly| format!("{},{}", row.payment.message_id, anomaly.code()))
        })
        .collect();
    assert_eq!(types.lines().skip(1).collect::<Vec<_>>(), expected);

    let refused = write(&SMALL, &one);
    assert!(matches!(refused, Err(PaymentsError::NotEmpty(_))), "{refused:?}");
}

#[test]
fn settings_out_of_bounds_are_refused() {
    for bad in [
        PaymentsSpec { rows: 239, ..SMALL },
        PaymentsSpec { rows: 100_000_001, ..SMALL },
        PaymentsSpec { banks: 2, ..SMALL },
        PaymentsSpec { banks: 65, ..SMALL },
        PaymentsSpec { anomaly_rate: f64::NAN, ..SMALL },
        PaymentsSpec { anomaly_rate: -0.1, ..SMALL },
        PaymentsSpec { anomaly_rate: 0.6, ..SMALL },
    ] {
        assert!(matches!(bad.check(), Err(PaymentsError::Setting(_))), "{bad:?}");
    }
    let least = PaymentsSpec { rows: 240, ..SMALL };
    assert_eq!(Payments::new(least).unwrap().days().flatten().count(), 240);
}

#[test]
fn tables_that_are_not_of_their_kind_are_refused_with_the_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.csv");
    let read = |text: &str| {
        std::fs::write(&path, text).unwrap();
        read_accounts(&path).map(|rows| rows.len()).map_err(|error| error.to_string())
    };
    assert_eq!(read("account,name,address,flag\nQ1,A B,1 C,7\n"), Ok(1));
    assert!(read("account,name,flag\n").unwrap_err().contains("columns account, name, flag"));
    for flag in ["8", "", "-1", "07", "x"] {
        let refusal = read(&format!("account,name,address,flag\nQ1,A,C,0\nQ2,A,C,{flag}\n"));
        assert!(refusal.unwrap_err().contains(&format!("line 3: {flag:?} is not a flag")));
    }
    assert!(read("account,name,address,flag\nQ1,A\n").unwrap_err().contains("CSV"));
}

#[test]
fn payments_cover_the_days_in_order_and_accounts_belong_to_their_banks() {
    let world = World::new(SMALL);
    let rows = &world.rows;
    assert_eq!(rows.len(), 20_000);
    assert!(rows.is_sorted_by_key(|row| row.payment.timestamp));
    let ids: HashSet<&str> = rows.iter().map(|row| &*row.payment.message_id).collect();
    assert_eq!(ids.len(), rows.len());
    assert_eq!(weekday(FIRST_DAY), 0);
    for day in FIRST_DAY..FIRST_DAY + u64::from(DAYS) {
        let on_day = rows.iter().filter(|row| row.payment.timestamp / DAY_SECONDS == day);
        // 667 on the mean, with a standard deviation of 25.
        assert_within(on_day.count() as f64, 540.0, 800.0);
    }
    let accounts: HashSet<&str> =
        world.tables.iter().flat_map(|(_, rows)| rows).map(|row| &*row.account).collect();
    assert_eq!(accounts.len(), 1000);
    for Row { payment, ordering, .. } in rows {
        assert_ne!(payment.ordering_account, payment.beneficiary_account);
        assert_ne!(*ordering, Finding::Unknown);
    }
}

#[test]
fn banks_have_their_share_of_accounts_and_most_payments_cross_banks() {
    let share = |bank: usize| WORLD.tables[bank].1.len() as f64 / 10_000.0;
    // 1 / rank^0.8 over its sum: 0.260 and 0.036, with standard deviations of 0.004 and 0.002.
    assert_within(share(0), 0.24, 0.28);
    assert_within(share(11), 0.027, 0.045);
    let crosses = |row: &Row| row.payment.sender_bank != row.payment.receiver_bank;
    // About 0.87, but corridors are drawn.
    assert_within(WORLD.count(|_| true, crosses).1, 0.78, 0.95);
    let flags = |low, high| {
        let all = WORLD.tables.iter().flat_map(|(_, rows)| rows);
        all.filter(|row| (low..=high).contains(&row.flag)).count() as f64 / 10_000.0
    };
    // 0.033 and 0.013, with standard deviations of 0.0018 and 0.0011.
    assert_within(flags(1, 5), 0.026, 0.040);
    assert_within(flags(6, 7), 0.009, 0.017);
}

#[test]
fn anomalies_have_their_number_and_types() {
    assert_eq!(SMALL.anomalies(), [52, 28, 72, 20, 28]);
    let default = PaymentsSpec { rows: 200_000, anomaly_rate: 0.001, ..SMALL };
    assert_eq!(default.anomalies(), [52, 28, 72, 20, 28]);
    assert_eq!(PaymentsSpec { anomaly_rate: 0.0, ..SMALL }.anomalies(), [0; 5]);
    assert_eq!(PaymentsSpec { anomaly_rate: 0.000_5, ..SMALL }.anomalies(), [3, 1, 5, 0, 1]);
    let world = World::new(SMALL);
    for (anomaly, count) in Anomaly::ALL.into_iter().zip(SMALL.anomalies()) {
        let found = world.rows.iter().filter(|row| row.anomaly == Some(anomaly)).count();
        assert_eq!(found as u64, count, "{anomaly:?}");
    }
    assert!(world.rows.iter().all(|row| row.payment.anomalous == row.anomaly.is_some()));
}

#[test]
fn flags_touch_payments_as_often_as_specified() {
    // 6 to 7 % and 0.003 %, 70 % and 33 %; some move with the few accounts that have a flag, and a
    // small bank may have none.
    let share = |choose: fn(&Row) -> bool, least| WORLD.count(choose, |row| worst(row) >= least).1;
    let anomalous = |row: &Row| !normal(row);
    assert_within(share(normal, 1), 0.05, 0.085);
    assert_within(share(normal, 6), 0.000_01, 0.000_1);
    assert_within(share(anomalous, 1), 0.66, 0.78);
    assert_within(share(anomalous, 6), 0.29, 0.40);
    let beneficiary = |number| move |row: &Row| flag(row.beneficiary) == number;
    let share = |anomaly, number| WORLD.count(of(anomaly), beneficiary(number)).1;
    assert_within(share(Anomaly::Status, 7), 0.39, 0.51);
    assert_within(share(Anomaly::Status, 5), 0.05, 0.13);
    assert_within(share(Anomaly::Structuring, 2), 0.35, 0.50);
    assert_within(share(Anomaly::Combined, 5), 0.24, 0.40);
    let ordering = |row: &Row| flag(row.ordering) >= 6;
    assert_within(WORLD.count(of(Anomaly::Status), ordering).1, 0.04, 0.12);
}

#[test]
fn names_and_accounts_are_wrong_as_often_as_specified() {
    assert_share(|row| normal(row) && flag(row.beneficiary) != 4, mismatch, 0.003);
    assert_share(|row| normal(row) && flag(row.beneficiary) == 4, mismatch, 0.5);
    let other = |anomaly| move |row: &Row| of(anomaly)(row) && flag(row.beneficiary) != 4;
    for (anomaly, extra) in
        [(Anomaly::Combined, 0.6), (Anomaly::Status, 0.3), (Anomaly::Amount, 0.15)]
    {
        assert_share(other(anomaly), mismatch, 1.0 - (1.0 - 0.003) * (1.0 - extra));
    }
    assert_share(|_| true, |row| row.beneficiary == Finding::Unknown, 0.000_5);
}

#[test]
fn delays_currencies_and_gaps_are_as_specified() {
    let delay = |days| {
        move |row: &Row| {
            let Payment { settlement_date, timestamp, .. } = row.payment;
            settlement_date - timestamp / DAY_SECONDS == days
        }
    };
    for (days, share) in [(0, 0.55), (1, 0.30), (2, 0.12), (3, 0.027), (5, 0.003)] {
        assert_share(normal, delay(days), share);
    }
    for days in [3, 5, 7] {
        assert_share(of(Anomaly::Corridor), delay(days), 1.0 / 3.0);
    }
    let gap = |row: &Row| (row.payment.instructed.log_eur() - row.payment.settled.log_eur()).abs();
    let differ = |row: &Row| row.payment.instructed.currency != row.payment.settled.currency;
    // Another currency in 10 %, unless the sender's home currency is the same.
    assert_within(WORLD.count(normal, differ).1, 0.06, 0.1);
    assert_share(|row| normal(row) && !differ(row), |row| gap(row) > 1e-3, 0.000_5);
    assert_share(of(Anomaly::Amount), |row| gap(row) > 0.28, 0.5);
}

#[test]
fn hours_and_structured_groups_are_as_specified() {
    let mut groups: HashMap<(&str, u64), Vec<&Payment>> = HashMap::new();
    for row in WORLD.rows.iter().filter(|row| of(Anomaly::Structuring)(row)) {
        let payment = &row.payment;
        let day = payment.timestamp / DAY_SECONDS;
        groups.entry((&payment.ordering_account, day)).or_default().push(payment);
    }
    assert_eq!(groups.values().map(Vec::len).sum::<usize>() as u64, DEFAULT.anomalies()[3]);
    for group in groups.values() {
        assert_eq!(group.len() % 4, 0);
        for payment in group {
            assert_within(payment.settled.log_eur().exp(), 8_499.9, 9_999.1);
        }
    }
    let night = |row: &Row| row.payment.timestamp % DAY_SECONDS < 6 * 3600;
    assert_within(WORLD.count(normal, night).1, 0.001, 0.06);
    assert_within(WORLD.count(of(Anomaly::Corridor), night).1, 0.5, 0.95);
}
