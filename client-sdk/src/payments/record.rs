//! The rows of the network's table and of a bank's, and how they are written and read.

use std::io::Write;
use std::path::Path;

use quorate_protocols::pv4fad::messages::{MAX_ACCOUNT_BYTES, MAX_NAME_BYTES};

use super::PaymentsError;
use super::civil::{format_date, format_time, parse_date, parse_time};
use super::money::{Amount, Currency};

/// Columns of the network's table.
pub const NETWORK_COLUMNS: [&str; 13] = [
    "message_id",
    "timestamp",
    "sender_bank",
    "receiver_bank",
    "ordering_account",
    "beneficiary_account",
    "beneficiary_name",
    "settlement_date",
    "settlement_currency",
    "settlement_amount",
    "instructed_currency",
    "instructed_amount",
    "label",
];

/// Columns of a bank's table.
pub const ACCOUNT_COLUMNS: [&str; 4] = ["account", "name", "address", "flag"];

/// Columns of the table of anomaly types.
pub const ANOMALY_COLUMNS: [&str; 2] = ["message_id", "type"];

/// The ways in which a generated payment is anomalous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Anomaly {
    /// A: amount and currency.
    Amount,
    /// B: time and corridor.
    Corridor,
    /// C: the status of an account, which the network does not see.
    Status,
    /// D: several payments just below a limit.
    Structuring,
    /// E: a little of everything.
    Combined,
}

impl Anomaly {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Amount, Self::Corridor, Self::Status, Self::Structuring, Self::Combined];

    /// Its letter.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Amount => "A",
            Self::Corridor => "B",
            Self::Status => "C",
            Self::Structuring => "D",
            Self::Combined => "E",
        }
    }

    /// Its share of the anomalies.
    #[must_use]
    pub const fn share(self) -> f64 {
        match self {
            Self::Amount => 0.26,
            Self::Corridor | Self::Combined => 0.14,
            Self::Status => 0.36,
            Self::Structuring => 0.10,
        }
    }

    /// The probability that it has a wrong name, besides that of every payment.
    pub(super) const fn extra_mismatch(self) -> f64 {
        match self {
            Self::Amount | Self::Corridor | Self::Structuring => 0.15,
            Self::Status => 0.30,
            Self::Combined => 0.60,
        }
    }
}

/// A payment as the network sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payment {
    /// The network's name for it.
    pub message_id: String,
    /// Seconds since 1970.
    pub timestamp: u64,
    /// The payer's bank.
    pub sender_bank: String,
    /// The payee's bank.
    pub receiver_bank: String,
    /// The payer's account.
    pub ordering_account: String,
    /// The payee's account, as the payer wrote it.
    pub beneficiary_account: String,
    /// The payee's name, as the payer wrote it.
    pub beneficiary_name: String,
    /// Days since 1970.
    pub settlement_date: u64,
    /// What the payee gets.
    pub settled: Amount,
    /// What the payer ordered.
    pub instructed: Amount,
    /// Whether it was found to be anomalous.
    pub anomalous: bool,
}

impl Payment {
    /// Writes its line. Generated texts need no quotes.
    pub(super) fn write(&self, out: &mut (impl Write + ?Sized)) -> std::io::Result<()> {
        writeln!(
            out,
            "{},{},{},{},{},{},{},{},{},{},{},{},{}",
            self.message_id,
            format_time(self.timestamp),
            self.sender_bank,
            self.receiver_bank,
            self.ordering_account,
            self.beneficiary_account,
            self.beneficiary_name,
            format_date(self.settlement_date),
            self.settled.currency.code(),
            self.settled.format(),
            self.instructed.currency.code(),
            self.instructed.format(),
            u8::from(self.anomalous),
        )
    }

    fn parse(fields: &Fields<'_>) -> Result<Self, PaymentsError> {
        let currency = |column| fields.parse(column, "currency", Currency::parse);
        let amount = |column, currency| {
            fields.parse(column, "positive amount with two decimals", |text| {
                Amount::parse(text, currency)
            })
        };
        Ok(Self {
            message_id: fields.text(0).to_owned(),
            timestamp: fields.parse(1, "time such as 2026-06-01T09:30:00Z", parse_time)?,
            sender_bank: fields.text(2).to_owned(),
            receiver_bank: fields.text(3).to_owned(),
            ordering_account: fields.account(4)?,
            beneficiary_account: fields.account(5)?,
            beneficiary_name: fields.name(6)?,
            settlement_date: fields.parse(7, "date such as 2026-06-01", parse_date)?,
            settled: amount(9, currency(8)?)?,
            instructed: amount(11, currency(10)?)?,
            anomalous: fields.parse(12, "label, 0 or 1", |text| match text {
                "0" => Some(false),
                "1" => Some(true),
                _ => None,
            })?,
        })
    }
}

/// An account as its bank sees it.
#[derive(Clone, PartialEq, Eq)]
pub struct AccountRow {
    /// The account.
    pub account: String,
    /// Its holder.
    pub name: String,
    /// The holder's address.
    pub address: String,
    /// 0 for none; 1 address changed, 2 opened lately, 3 dormant, 4 mismatch reported, 5 monitored,
    /// 6 suspended, 7 closed.
    pub flag: u8,
}

/// A bank's secret: logs never see it.
impl std::fmt::Debug for AccountRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccountRow").finish_non_exhaustive()
    }
}

impl AccountRow {
    /// Writes its line. Generated texts need no quotes.
    pub(super) fn write(&self, out: &mut (impl Write + ?Sized)) -> std::io::Result<()> {
        writeln!(out, "{},{},{},{}", self.account, self.name, self.address, self.flag)
    }

    fn parse(fields: &Fields<'_>) -> Result<Self, PaymentsError> {
        Ok(Self {
            account: fields.account(0)?,
            name: fields.name(1)?,
            address: fields.text(2).to_owned(),
            flag: fields.parse(3, "flag, 0 to 7", |text| {
                text.parse().ok().filter(|flag| *flag < 8 && text.len() == 1)
            })?,
        })
    }
}

/// One line of a table.
struct Fields<'a> {
    path: &'a Path,
    line: u64,
    record: &'a csv::StringRecord,
}

impl Fields<'_> {
    fn text(&self, column: usize) -> &str {
        self.record.get(column).unwrap_or_default()
    }

    /// An account's number, as long as its bank and the network take one.
    fn account(&self, column: usize) -> Result<String, PaymentsError> {
        let fits = |text: &str| (text.len() <= MAX_ACCOUNT_BYTES).then(|| text.to_owned());
        self.parse(column, "account of at most 128 bytes", fits)
    }

    fn name(&self, column: usize) -> Result<String, PaymentsError> {
        let fits = |text: &str| (text.len() <= MAX_NAME_BYTES).then(|| text.to_owned());
        self.parse(column, "name of at most 512 bytes", fits)
    }

    fn parse<T>(
        &self,
        column: usize,
        what: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, PaymentsError> {
        parse(self.text(column)).ok_or_else(|| PaymentsError::Value {
            path: self.path.display().to_string(),
            line: self.line,
            value: self.text(column).to_owned(),
            what,
        })
    }
}

/// Reads the network's table.
///
/// # Errors
/// [`PaymentsError::Csv`], [`PaymentsError::Columns`], or [`PaymentsError::Value`] with the line.
pub fn read_payments(path: &Path) -> Result<Vec<Payment>, PaymentsError> {
    read(path, &NETWORK_COLUMNS, Payment::parse)
}

/// Reads a bank's table.
///
/// # Errors
/// As [`read_payments`].
pub fn read_accounts(path: &Path) -> Result<Vec<AccountRow>, PaymentsError> {
    read(path, &ACCOUNT_COLUMNS, AccountRow::parse)
}

fn read<T>(
    path: &Path,
    columns: &[&str],
    parse: impl Fn(&Fields<'_>) -> Result<T, PaymentsError>,
) -> Result<Vec<T>, PaymentsError> {
    let wrong = |source| PaymentsError::Csv { path: path.display().to_string(), source };
    let mut reader = csv::Reader::from_path(path).map_err(wrong)?;
    let header = reader.headers().map_err(wrong)?;
    if header.iter().ne(columns.iter().copied()) {
        return Err(PaymentsError::Columns {
            path: path.display().to_string(),
            found: header.iter().collect::<Vec<_>>().join(", "),
            expected: columns.join(", "),
        });
    }
    let mut rows = Vec::new();
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).map_err(wrong)? {
        let line = record.position().map_or(0, csv::Position::line);
        rows.push(parse(&Fields { path, line, record: &record })?);
    }
    Ok(rows)
}
