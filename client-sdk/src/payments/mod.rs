//! Payments whose evidence is split between a payment network and its banks.
//!
//! The network sees every payment and knows which ones were anomalous; each bank sees the names and
//! flags of its own accounts, and nobody else's. This module holds what both sides do outside the
//! cryptography: the generator of synthetic payments, the columns of the two kinds of table, what a bank
//! finds out about one side of a payment, what the network makes of its payments, and the twin of the
//! protocol in the clear.

pub mod bank;
mod binned;
pub mod boosted;
pub mod civil;
mod draw;
pub mod features;
pub mod generate;
pub mod grove;
pub mod kept;
pub mod money;
pub mod record;
pub mod replay;
mod traffic;
pub mod twin;
mod world;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod twin_tests;

use quorate_protocols::refusal::Refusal;
use quorate_protocols::wire::Name;

/// The party behind a bank's name in payments: the same in small letters.
///
/// # Errors
/// [`Code::Malformed`](quorate_protocols::refusal::Code::Malformed) when that is no party's name.
pub fn bank_name(text: &str) -> Result<Name, Refusal> {
    Name::new(&text.to_lowercase())
}

/// Why payments could not be made or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PaymentsError {
    /// A generator setting outside its domain.
    #[error("{0}")]
    Setting(String),
    /// A file or folder could not be used.
    #[error("cannot use {path}: {source}")]
    Io {
        /// The file or folder.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The folder to write to has files already.
    #[error("{0} is not empty; choose another folder")]
    NotEmpty(String),
    /// The file is not a table.
    #[error("{path} is not a readable CSV table: {source}")]
    Csv {
        /// The file.
        path: String,
        /// What is wrong, with the line.
        source: csv::Error,
    },
    /// A table does not have the columns of its kind.
    #[error("{path} has the columns {found}, not {expected}")]
    Columns {
        /// The file.
        path: String,
        /// The columns it has.
        found: String,
        /// The columns it should have.
        expected: String,
    },
    /// A value is not one of its column.
    #[error("{path}, line {line}: {value:?} is not a {what}")]
    Value {
        /// The file.
        path: String,
        /// Its line, the header being line 1.
        line: u64,
        /// What stands there.
        value: String,
        /// What should stand there.
        what: &'static str,
    },
}
