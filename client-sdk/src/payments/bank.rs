//! What a bank finds out about its side of a payment.

use std::collections::HashMap;

use zeroize::Zeroizing;

use super::record::AccountRow;
use crate::vertical::identify::{Case, Characters, ColumnRule};

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

/// A name without what people write differently.
fn plain(name: &str) -> Zeroizing<String> {
    let rule = ColumnRule {
        column: String::new(),
        case: Case::Lower,
        characters: Characters::Alphanumeric,
    };
    rule.apply(name)
}
