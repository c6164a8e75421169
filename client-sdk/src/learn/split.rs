//! Splitting one file into held-out rows and the rows of each party, for demos and tests.

use super::LearnError;
use super::data::{Table, natural_order};

/// How training rows are shared out among parties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Split {
    /// Row i to party i mod k.
    Even,
    /// This percentage to the first party, the rest evenly.
    Dominant(u32),
    /// Rows in the order of this column, cut into bands of about equal size, equal values together.
    Bands(String),
}

impl Split {
    /// The skewed split suggested for a named data set; one party with 70 % for any other.
    #[must_use]
    pub fn named(name: &str) -> Self {
        match name {
            "ionosphere" => Self::Dominant(60),
            _ => Self::Dominant(70),
        }
    }
}

/// Row numbers outside and inside fold `fold`.
///
/// # Errors
/// [`LearnError::Data`] when either part is empty.
pub fn hold_out(table: &Table, fold: u32) -> Result<(Vec<usize>, Vec<usize>), LearnError> {
    let folds = table.folds()?;
    let (test, train): (Vec<usize>, Vec<usize>) =
        (0..table.rows()).partition(|row| folds.get(*row) == Some(&fold));
    if test.is_empty() || train.is_empty() {
        return Err(LearnError::Data(format!("fold {fold} holds none or all of the rows")));
    }
    Ok((train, test))
}

/// Shares `rows` out among `parties` parties; every party's rows stay in file order.
///
/// # Errors
/// [`LearnError::Data`] when a party would have no rows, or the column does not exist.
pub fn share_out(
    table: &Table,
    rows: &[usize],
    parties: usize,
    split: &Split,
) -> Result<Vec<Vec<usize>>, LearnError> {
    let mut shares = vec![Vec::new(); parties];
    let mut give = |party: usize, row: usize| {
        if let Some(share) = shares.get_mut(party) {
            share.push(row);
        }
    };
    let k = parties.max(1);
    match split {
        Split::Dominant(percent) if k > 1 => {
            let percent = usize::try_from(*percent).unwrap_or(0).min(100);
            let mut others = 0;
            for (i, &row) in rows.iter().enumerate() {
                // Every 100 consecutive rows hold the percentage, whatever the file's order.
                if (i * percent) / 100 != ((i + 1) * percent) / 100 {
                    give(0, row);
                } else {
                    give(1 + others % (k - 1), row);
                    others += 1;
                }
            }
        }
        Split::Even | Split::Dominant(_) => {
            rows.iter().enumerate().for_each(|(i, &row)| give(i % k, row));
        }
        Split::Bands(name) => {
            let column = table.position(name)?;
            let mut ordered = rows.to_vec();
            ordered.sort_by(|a, b| natural_order(table.text(*a, column), table.text(*b, column)));
            let mut start = 0;
            for run in ordered.chunk_by(|a, b| table.text(*a, column) == table.text(*b, column)) {
                // A run of equal values goes where its middle falls.
                let party = (2 * start + run.len()) * k / (2 * ordered.len());
                run.iter().for_each(|&row| give(party, row));
                start += run.len();
            }
        }
    }
    for (party, share) in shares.iter_mut().enumerate() {
        share.sort_unstable();
        if share.is_empty() {
            return Err(LearnError::Data(format!("party {party} of {parties} would have no rows")));
        }
    }
    Ok(shares)
}
