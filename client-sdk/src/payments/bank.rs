//! What a bank finds out about its side of a payment.

use std::collections::HashMap;

use quorate_protocols::pv4fad::Side;
use quorate_protocols::pv4fad::bank::Accounts;
use quorate_protocols::pv4fad::forest::Severity;
use quorate_protocols::pv4fad::messages::Account;
use zeroize::Zeroizing;

use super::record::AccountRow;
use crate::vertical::identify::{Case, Characters, ColumnRule};

/// The least flag that is hard: suspended, and closed.
pub const HARD_FLAG: u8 = 6;

/// A bank's accounts: its secret.
pub struct AccountBook(HashMap<String, (u8, Zeroizing<String>)>);

/// What a bank knows about the account at its side of a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The account's flag, 0 to 7, and whether another name was written than the holder's.
    Known {
        /// The flag.
        flag: u8,
        /// Whether the name differs in more than case, blanks and punctuation; never so at the
        /// payer's side, where no name is written.
        mismatch: bool,
    },
    /// The bank has no such account.
    Unknown,
}

impl Finding {
    /// How severe it is: hard for an account that is suspended or closed, soft for any other flag, for
    /// another name and for an account that does not exist.
    ///
    /// A wrong name is soft, however telling, because normal payments have it a hundred times as often
    /// as a hard flag.
    #[must_use]
    pub fn severity(self) -> Severity {
        match self {
            Self::Known { flag, .. } if flag >= HARD_FLAG => Severity::Hard,
            Self::Known { flag: 0, mismatch: false } => Severity::Clean,
            Self::Known { .. } | Self::Unknown => Severity::Soft,
        }
    }
}

impl AccountBook {
    /// A book of `rows`; of several rows for one account the last counts.
    #[must_use]
    pub fn new(rows: &[AccountRow]) -> Self {
        let entry = |row: &AccountRow| (row.account.clone(), (row.flag, plain(&row.name)));
        Self(rows.iter().map(entry).collect())
    }

    /// What the payer's bank finds.
    #[must_use]
    pub fn ordering(&self, account: &str) -> Finding {
        self.0
            .get(account)
            .map_or(Finding::Unknown, |(flag, _)| Finding::Known { flag: *flag, mismatch: false })
    }

    /// What the payee's bank finds.
    #[must_use]
    pub fn beneficiary(&self, account: &str, name: &str) -> Finding {
        self.0.get(account).map_or(Finding::Unknown, |(flag, holder)| Finding::Known {
            flag: *flag,
            mismatch: plain(name) != *holder,
        })
    }
}

impl Accounts for AccountBook {
    fn severity(&self, side: Side, account: &Account) -> u8 {
        let finding = match side {
            Side::Ordering => self.ordering(&account.account),
            Side::Beneficiary => self.beneficiary(&account.account, &account.name),
        };
        u8::try_from(finding.severity().class()).unwrap_or(u8::MAX)
    }
}

/// A name without what people write differently.
fn plain(name: &str) -> Zeroizing<String> {
    let rule = ColumnRule {
        column: String::new(),
        case: Case::Lower,
        characters: Characters::Alphanumeric,
    };
    rule.apply(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn banks_find_flags_wrong_names_and_unknown_accounts() {
        let row = |account: &str, flag| AccountRow {
            account: account.to_owned(),
            name: "Ada Bauer-Ito".to_owned(),
            address: String::new(),
            flag,
        };
        let book = AccountBook::new(&[row("Q1", 0), row("Q2", 5), row("Q3", 6)]);
        let known = |flag, mismatch| Finding::Known { flag, mismatch };
        assert_eq!(book.ordering("Q2"), known(5, false));
        assert_eq!(book.ordering("Q9"), Finding::Unknown);
        assert_eq!(book.beneficiary("Q1", "ada  BAUER ito"), known(0, false));
        assert_eq!(book.beneficiary("Q3", "Ada Bauer"), known(6, true));
        assert_eq!(book.beneficiary("Q9", "Ada Bauer-Ito"), Finding::Unknown);
        let severities = [known(0, false), known(0, true), Finding::Unknown, known(5, true)];
        assert_eq!(
            severities.map(Finding::severity),
            [Severity::Clean, Severity::Soft, Severity::Soft, Severity::Soft]
        );
        assert_eq!([known(6, false), known(7, true)].map(Finding::severity), [Severity::Hard; 2]);
    }
}
