//! Synthetic payments, as `payments-spec.md` of the project's shared notes describes them.
//!
//! The same settings give the same bytes on every machine. Payments are made one day after the other,
//! so only the accounts and one day's payments are held in memory.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::PaymentsError;
use super::civil::DAY_SECONDS;
use super::draw::Draw;
use super::record::{
    ACCOUNT_COLUMNS, ANOMALY_COLUMNS, AccountRow, Anomaly, NETWORK_COLUMNS, Payment,
};
use super::traffic::{Sketch, Traffic};
use super::world::{World, account_text, bank_text};

/// Days that payments spread over.
pub const DAYS: u32 = 30;

/// Days, from the first, whose payments train models; the later days test them.
pub const TRAINING_DAYS: u32 = 21;

/// The first day, 2026-06-01, a Monday, counted from 1970-01-01.
pub const FIRST_DAY: u64 = 20_605;

/// Bounds of the settings.
pub const BANKS: std::ops::RangeInclusive<u32> = 3..=64;
/// Most payments.
pub const MAX_ROWS: u64 = 100_000_000;
/// Most of the payments that may be anomalous.
pub const MAX_ANOMALY_RATE: f64 = 0.5;

/// Payments for each account.
const ROWS_PER_ACCOUNT: u64 = 20;

/// Payments in one group of structured ones.
const GROUP: u64 = 4;

/// What to generate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PaymentsSpec {
    /// Payments.
    pub rows: u64,
    /// Banks.
    pub banks: u32,
    /// Settings that differ in the seed alone give unrelated payments.
    pub seed: u64,
    /// Share of anomalous payments.
    pub anomaly_rate: f64,
}

impl PaymentsSpec {
    /// Whether payments can be generated so.
    ///
    /// # Errors
    /// [`PaymentsError::Setting`] saying what is out of bounds.
    pub fn check(&self) -> Result<(), PaymentsError> {
        let refuse = |why: String| Err(PaymentsError::Setting(why));
        if !BANKS.contains(&self.banks) {
            return refuse(format!("banks must be within {} to {}", BANKS.start(), BANKS.end()));
        }
        let least = u64::from(self.banks) * ROWS_PER_ACCOUNT;
        if !(least..=MAX_ROWS).contains(&self.rows) {
            return refuse(format!("{} banks need {least} to {MAX_ROWS} rows", self.banks));
        }
        // False for NaN.
        if !(0.0..=MAX_ANOMALY_RATE).contains(&self.anomaly_rate) {
            return refuse(format!("the anomaly rate must be within 0 and {MAX_ANOMALY_RATE}"));
        }
        Ok(())
    }

    /// Accounts of all banks.
    #[must_use]
    pub const fn accounts(&self) -> u64 {
        self.rows / ROWS_PER_ACCOUNT
    }

    /// Anomalous payments of each type. Structured ones come in whole groups; what rounding leaves
    /// over is of type C.
    #[must_use]
    pub fn anomalies(&self) -> [u64; Anomaly::ALL.len()] {
        let whole = |x: f64| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "at most half of the rows, checked in `check`"
            )]
            let whole = libm::rint(x) as u64;
            whole
        };
        let total = self.rows as f64 * self.anomaly_rate;
        let mut counts = Anomaly::ALL.map(|anomaly| whole(total * anomaly.share()));
        let structured = &mut counts[Anomaly::Structuring as usize];
        *structured = whole(*structured as f64 / GROUP as f64) * GROUP;
        counts[Anomaly::Status as usize] = 0;
        let others: u64 = counts.iter().sum();
        counts[Anomaly::Status as usize] = whole(total).saturating_sub(others);
        counts
    }
}

/// Anomalies of one day: types, and groups of structured payments.
#[derive(Clone, Default)]
struct Day {
    normal: u64,
    single: Vec<Anomaly>,
    groups: u64,
}

/// The payments and accounts of one setting.
pub struct Payments {
    spec: PaymentsSpec,
    world: World,
    days: Vec<Day>,
}

impl Payments {
    /// Draws banks, accounts and the number of payments of each day.
    ///
    /// # Errors
    /// As [`PaymentsSpec::check`].
    pub fn new(spec: PaymentsSpec) -> Result<Self, PaymentsError> {
        spec.check()?;
        let mut days = vec![Day::default(); DAYS as usize];
        let mut draw = Draw::new(spec.seed, "days", 0);
        let mut any = |days: &mut Vec<Day>, add: &dyn Fn(&mut Day)| {
            if let Some(day) = days.get_mut(draw.below(DAYS as usize)) {
                add(day);
            }
        };
        let counts = spec.anomalies();
        for (anomaly, count) in Anomaly::ALL.into_iter().zip(counts) {
            if anomaly == Anomaly::Structuring {
                (0..count / GROUP).for_each(|_| any(&mut days, &|day| day.groups += 1));
            } else {
                (0..count).for_each(|_| any(&mut days, &|day| day.single.push(anomaly)));
            }
        }
        let anomalous: u64 = counts.iter().sum();
        (anomalous..spec.rows).for_each(|_| any(&mut days, &|day| day.normal += 1));
        Ok(Self { spec, world: World::new(&spec), days })
    }

    /// The settings.
    #[must_use]
    pub const fn spec(&self) -> &PaymentsSpec {
        &self.spec
    }

    /// The accounts of each bank, in the order of account numbers.
    pub fn banks(&self) -> impl Iterator<Item = (String, Vec<AccountRow>)> {
        (0..self.world.bank_count()).map(|bank| (bank_text(bank), self.world.table(bank)))
    }

    /// The payments of each day in the order of time, each with what makes it anomalous.
    pub fn days(&self) -> impl Iterator<Item = Vec<(Payment, Option<Anomaly>)>> {
        let traffic = Traffic::new(&self.world);
        let mut number = 0u64;
        (0u64..).zip(&self.days).map(move |(index, day)| {
            let mut draw = Draw::new(self.spec.seed, "day", index);
            let mut sketches: Vec<Sketch> =
                (0..day.normal).map(|_| traffic.normal(&mut draw)).collect();
            for anomaly in &day.single {
                sketches.push(traffic.anomalous(&mut draw, *anomaly, None));
            }
            for _ in 0..day.groups {
                let payer = traffic.structurer(&mut draw);
                for _ in 0..GROUP {
                    sketches.push(traffic.anomalous(&mut draw, Anomaly::Structuring, Some(payer)));
                }
            }
            sketches.sort_by_key(|sketch| sketch.second);
            let record = |sketch| {
                number += 1;
                self.record(&mut draw, sketch, FIRST_DAY + index, number)
            };
            sketches.into_iter().map(record).collect()
        })
    }

    fn record(
        &self,
        draw: &mut Draw,
        sketch: Sketch,
        day: u64,
        number: u64,
    ) -> (Payment, Option<Anomaly>) {
        let bank = |account| self.world.account(account).bank;
        let (sender, receiver) = (bank(sketch.payer), bank(sketch.payee));
        let payee = if sketch.mistyped {
            self.world.mistyped(draw, sketch.payee)
        } else {
            World::number(sketch.payee)
        };
        let payment = Payment {
            message_id: format!("P{number:09}"),
            timestamp: day * DAY_SECONDS + sketch.second,
            sender_bank: bank_text(sender),
            receiver_bank: bank_text(receiver),
            ordering_account: account_text(sender, World::number(sketch.payer)),
            beneficiary_account: account_text(receiver, payee),
            beneficiary_name: self.world.name(draw, sketch.payee, sketch.wrong_name),
            settlement_date: day + sketch.delay,
            settled: sketch.settled,
            instructed: sketch.instructed,
            anomalous: sketch.anomaly.is_some(),
        };
        (payment, sketch.anomaly)
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Payments.
    pub rows: u64,
    /// Banks.
    pub banks: u32,
    /// The seed.
    pub seed: u64,
    /// Accounts of all banks.
    pub accounts: u64,
    /// Anomalous payments.
    pub anomalies: u64,
    /// The network's table.
    pub network: PathBuf,
    /// The banks' tables.
    pub bank_tables: Vec<PathBuf>,
    /// Which payment is anomalous in which way: for evaluation only.
    pub anomaly_types: PathBuf,
}

/// Generates payments into `folder`, which is made if need be: `network.csv`, `bank-01.csv` and so on,
/// and `anomalies.csv` with the types of the anomalies.
///
/// # Errors
/// [`PaymentsError::Setting`], [`PaymentsError::NotEmpty`] when the folder has files already, or
/// [`PaymentsError::Io`].
pub fn write(spec: &PaymentsSpec, folder: &Path) -> Result<Written, PaymentsError> {
    let payments = Payments::new(*spec)?;
    let io = |path: &Path, source| PaymentsError::Io { path: path.display().to_string(), source };
    std::fs::create_dir_all(folder).map_err(|source| io(folder, source))?;
    if std::fs::read_dir(folder).map_err(|source| io(folder, source))?.next().is_some() {
        return Err(PaymentsError::NotEmpty(folder.display().to_string()));
    }
    let file = |name: &str, lines: &mut dyn FnMut(&mut dyn Write) -> std::io::Result<()>| {
        let path = folder.join(name);
        let written = File::create_new(&path).and_then(|file| {
            let mut out = BufWriter::with_capacity(1 << 16, file);
            lines(&mut out)?;
            out.flush()
        });
        written.map_err(|source| io(&path, source))?;
        Ok(path)
    };

    let mut bank_tables = Vec::new();
    for (number, (_, rows)) in (1..).zip(payments.banks()) {
        bank_tables.push(file(&format!("bank-{number:02}.csv"), &mut |out| {
            writeln!(out, "{}", ACCOUNT_COLUMNS.join(","))?;
            rows.iter().try_for_each(|row| row.write(out))
        })?);
    }
    let mut types: Vec<(String, Anomaly)> = Vec::new();
    let network = file("network.csv", &mut |out| {
        writeln!(out, "{}", NETWORK_COLUMNS.join(","))?;
        for (payment, anomaly) in payments.days().flatten() {
            payment.write(out)?;
            types.extend(anomaly.map(|anomaly| (payment.message_id, anomaly)));
        }
        Ok(())
    })?;
    let anomaly_types = file("anomalies.csv", &mut |out| {
        writeln!(out, "{}", ANOMALY_COLUMNS.join(","))?;
        types.iter().try_for_each(|(id, anomaly)| writeln!(out, "{id},{}", anomaly.code()))
    })?;
    Ok(Written {
        rows: spec.rows,
        banks: spec.banks,
        seed: spec.seed,
        accounts: spec.accounts(),
        anomalies: types.len() as u64,
        network,
        bank_tables,
        anomaly_types,
    })
}
