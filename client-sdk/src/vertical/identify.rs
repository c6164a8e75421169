//! From the columns of a table to what identifies a row: the same text at every party that spells it
//! alike.
//!
//! The rules are part of the job, since identifiers that parties normalise differently do not match.

use quorate_crypto::psi::Identifier;
use quorate_protocols::workload::VerticalSpec;
use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

use crate::learn::LearnError;
use crate::learn::data::Table;

/// Most columns of one identifier.
pub const MAX_COLUMNS: usize = 16;

/// What happens to upper case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Case {
    /// It counts.
    Keep,
    /// It becomes lower case, by Unicode's rules without those of any one language.
    #[default]
    Lower,
}

/// Which characters count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Characters {
    /// All; each run of blanks is one space.
    #[default]
    All,
    /// Letters, marks and digits of any script: `AB-12 3` is `AB123`.
    Alphanumeric,
    /// The digits 0 to 9: `+49 (30) 12` is `493012`.
    Digits,
}

/// One column of an identifier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnRule {
    /// Its name in the party's table.
    pub column: String,
    /// What happens to upper case.
    #[serde(default)]
    pub case: Case,
    /// Which characters count.
    #[serde(default)]
    pub characters: Characters,
}

impl ColumnRule {
    /// The normalised text; empty when nothing of it counts.
    ///
    /// Unicode's form NFKC (so that composed and decomposed letters, full-width digits and ligatures
    /// agree), blanks trimmed and joined, control characters dropped, then this rule.
    #[must_use]
    pub fn apply(&self, text: &str) -> Zeroizing<String> {
        let composed = Zeroizing::new(text.nfkc().collect::<String>());
        let cased = match self.case {
            Case::Keep => composed,
            // Lower case can be another composition.
            Case::Lower => Zeroizing::new(composed.to_lowercase().nfkc().collect()),
        };
        let counts = |c: &char| match self.characters {
            Characters::All => !c.is_control(),
            Characters::Alphanumeric => {
                c.is_alphanumeric() || unicode_normalization::char::is_combining_mark(*c)
            }
            Characters::Digits => c.is_ascii_digit(),
        };
        let separator = if self.characters == Characters::All { " " } else { "" };
        // Never longer than what it is made of, so that it does not grow and leave copies.
        let mut out = Zeroizing::new(String::with_capacity(cased.len()));
        for word in cased.split_whitespace() {
            let before = out.len();
            if !out.is_empty() {
                out.push_str(separator);
            }
            let start = out.len();
            out.extend(word.chars().filter(counts));
            if out.len() == start {
                out.truncate(before);
            }
        }
        out
    }
}

/// What identifies a row: some columns together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentifierRule {
    /// The columns, in the order that all parties use; their names may differ between parties.
    pub columns: Vec<ColumnRule>,
}

impl IdentifierRule {
    /// How the rows of a vertical job are identified.
    #[must_use]
    pub fn of(spec: &VerticalSpec) -> Self {
        Self::of_columns(&spec.identifiers)
    }

    /// By these columns together, all of their characters, without regard to case.
    #[must_use]
    pub fn of_columns(names: &[String]) -> Self {
        let column = |name: &String| ColumnRule {
            column: name.clone(),
            case: Case::Lower,
            characters: Characters::All,
        };
        Self { columns: names.iter().map(column).collect() }
    }

    /// The normalised texts of `row`, one for each column, empty where there is nothing.
    fn texts(&self, table: &Table, positions: &[usize], row: usize) -> Vec<Zeroizing<String>> {
        self.columns
            .iter()
            .zip(positions)
            .map(|(rule, position)| rule.apply(table.text(row, *position)))
            .collect()
    }

    fn positions(&self, table: &Table) -> Result<Vec<usize>, LearnError> {
        if !(1..=MAX_COLUMNS).contains(&self.columns.len()) {
            return Err(LearnError::Data(format!(
                "an identifier has 1 to {MAX_COLUMNS} columns, not {}",
                self.columns.len()
            )));
        }
        self.columns.iter().map(|rule| table.position(&rule.column)).collect()
    }

    /// The identifier of each row, `None` where one of its columns is empty.
    ///
    /// Columns are kept apart, so that `ab, c` and `a, bc` differ.
    ///
    /// # Errors
    /// [`LearnError::Data`] when a column is not in the table, or there are none or too many.
    pub fn identifiers(&self, table: &Table) -> Result<Vec<Option<Identifier>>, LearnError> {
        let positions = self.positions(table)?;
        Ok((0..table.rows())
            .map(|row| {
                let texts = self.texts(table, &positions, row);
                let columns: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
                (!columns.iter().any(|column| column.is_empty())).then(|| Identifier::of(&columns))
            })
            .collect())
    }

    /// The normalised fields of each row for [linkage](quorate_crypto::psi::bloom), empty where there is
    /// nothing.
    ///
    /// # Errors
    /// As [`IdentifierRule::identifiers`].
    pub fn fields(&self, table: &Table) -> Result<Vec<Vec<Zeroizing<String>>>, LearnError> {
        let positions = self.positions(table)?;
        Ok((0..table.rows()).map(|row| self.texts(table, &positions, row)).collect())
    }
}
