//! The rows that a simulated job is over: made up, or given.

use super::super::linear::{Features, Targets};
use quorate_crypto::merkle::hash_parts;

/// Given rows: every party's features of the same rows, the label holder's first, and their targets.
#[derive(Clone, Debug)]
pub struct Given {
    /// One block per party.
    pub blocks: Vec<Features>,
    /// One target per row.
    pub targets: Targets,
}

/// Made-up rows: features and target of a row follow from its identifier.
pub(super) struct MadeUp<'a> {
    pub(super) seed: u64,
    /// Features of every party.
    pub(super) features: &'a [usize],
    /// Classes of the target; 0 for numbers.
    pub(super) classes: usize,
}

impl MadeUp<'_> {
    fn value(&self, party: usize, id: u32, column: usize) -> f64 {
        let parts: [&[u8]; 4] = [
            &self.seed.to_le_bytes(),
            &party.to_le_bytes(),
            &column.to_le_bytes(),
            &id.to_le_bytes(),
        ];
        let hash = hash_parts("value", &parts);
        let word = u32::from_le_bytes(*hash.0.first_chunk().unwrap());
        f64::from(word) / f64::from(u32::MAX) * 4.0 - 2.0
    }

    /// What the target depends on: every second column of every party.
    fn hidden(&self, id: u32) -> f64 {
        let of = |(party, columns): (usize, &usize)| -> f64 {
            (0..*columns).step_by(2).map(|column| self.value(party, id, column)).sum()
        };
        self.features.iter().enumerate().map(of).sum()
    }

    /// A party's features of rows.
    pub(super) fn features(&self, party: usize, ids: &[u32]) -> Features {
        let columns = self.features[party];
        let row = |id: &u32| {
            let id = *id;
            (0..columns).map(move |column| self.value(party, id, column))
        };
        Features::new(columns, ids.iter().flat_map(row))
    }

    /// The targets of rows.
    pub(super) fn targets(&self, ids: &[u32]) -> Targets {
        if self.classes == 0 {
            return Targets::real(ids.iter().map(|id| self.hidden(*id) / 4.0));
        }
        let most = f64::from(u32::try_from(self.classes).unwrap() - 1);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small")]
        let class =
            |id: &u32| ((self.hidden(*id) / 2.0 + most / 2.0).round().clamp(0.0, most)) as u32;
        Targets::Classes(ids.iter().map(class).collect())
    }
}
