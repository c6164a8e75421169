//! The order in which banks see a model version's payments.

use std::collections::BTreeMap;

use quorate_crypto::keys::Identity;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use super::Payment;
use crate::pv4fad::messages::Account;
use crate::pv4fad::{Job, RowId, Side, seed};
use crate::refusal::{Code, Refusal};
use crate::wire::Name;

/// A row of a join list, and its payment if it is no padding.
type Slot = (RowId, Option<usize>);

/// Payments of a model version in the order that banks see them: a function of the network's keys,
/// so that it is made again after a restart.
pub struct Layout {
    /// Rows of a part.
    pub(super) length: usize,
    /// Row ids by payment.
    rows: Vec<RowId>,
    /// Slots of every bank and side, in whole parts; padding has no payment.
    slots: BTreeMap<(Name, Side), Vec<Slot>>,
    /// Real tree by random number.
    pub(super) trees: Vec<u16>,
    /// Random cell by real tree and cell.
    pub(super) cells: Vec<Vec<u16>>,
}

fn shuffled(count: u16, rng: &mut ChaCha20Rng) -> Vec<u16> {
    let mut order: Vec<u16> = (0..count).collect();
    for last in (1..order.len()).rev() {
        // 64 random bits for at most 2^16 places: the bias is below 2^-48.
        let other = rng.next_u64() % (last as u64).saturating_add(1);
        order.swap(last, usize::try_from(other).unwrap_or(0));
    }
    order
}

impl Layout {
    /// Shuffles and pads: every list is sorted by its random ids, padding included.
    ///
    /// # Errors
    /// [`Code::UnknownParty`] for a payment of a bank outside the job; [`Code::WrongLength`] for
    /// too many payments; [`Code::TooLarge`] for an account whose number or name is too long.
    pub fn new(
        job: &Job,
        identity: &Identity,
        version: u32,
        payments: &[Payment],
    ) -> Result<Self, Refusal> {
        if payments.len() as u64 > job.max_rows {
            return Err(Refusal::new(Code::WrongLength, "more payments than the job allows"));
        }
        payments.iter().flat_map(|payment| &payment.accounts).try_for_each(Account::check)?;
        let length = job.part_len();
        let label = job.label("layout", version);
        let drawn = seed(identity, "quorate/pv-layout/1", &[&label.0]);
        let mut rng = ChaCha20Rng::from_seed(*drawn.expose());
        let mut id = || {
            let mut row = RowId([0; 16]);
            rng.fill_bytes(&mut row.0);
            row
        };
        let rows: Vec<RowId> = payments.iter().map(|_| id()).collect();
        let mut slots: BTreeMap<(Name, Side), Vec<Slot>> = BTreeMap::new();
        for bank in &job.banks {
            for side in Side::BOTH {
                slots.insert((bank.party.clone(), side), Vec::new());
            }
        }
        for (payment, (row, sides)) in rows.iter().zip(payments).enumerate() {
            for (side, bank) in Side::BOTH.into_iter().zip(&sides.banks) {
                slots
                    .get_mut(&(bank.clone(), side))
                    .ok_or_else(|| Refusal::new(Code::UnknownParty, "a payment of another bank"))?
                    .push((*row, Some(payment)));
            }
        }
        for list in slots.values_mut() {
            let whole = list.len().max(1).next_multiple_of(length);
            while list.len() < whole {
                list.push((id(), None));
            }
            list.sort_unstable_by_key(|(row, _)| *row);
        }
        let trees = shuffled(job.trees, &mut rng);
        let cells = (0..job.trees).map(|_| shuffled(job.cells, &mut rng)).collect();
        Ok(Self { length, rows, slots, trees, cells })
    }

    pub(super) fn parts(&self, bank: &Name, side: Side) -> &[Slot] {
        self.slots.get(&(bank.clone(), side)).map_or(&[], Vec::as_slice)
    }

    pub(super) fn part(&self, bank: &Name, side: Side, part: u16) -> &[Slot] {
        self.parts(bank, side).chunks(self.length).nth(usize::from(part)).unwrap_or_default()
    }

    pub(super) fn part_rows(&self, bank: &Name, side: Side, part: u16) -> Vec<RowId> {
        self.part(bank, side, part).iter().map(|(row, _)| *row).collect()
    }

    pub(super) fn count(&self, bank: &Name, side: Side) -> u16 {
        u16::try_from(self.parts(bank, side).len().div_ceil(self.length)).unwrap_or(u16::MAX)
    }

    /// The row id of a payment.
    #[must_use]
    pub fn row(&self, payment: usize) -> Option<RowId> {
        self.rows.get(payment).copied()
    }
}

/// The account of a slot; padding names one that nobody has.
pub(super) fn account_of(
    payments: &[Payment],
    side: Side,
    payment: Option<usize>,
    row: &RowId,
) -> Account {
    let real = payment.and_then(|payment| payments.get(payment)).map(|payment| {
        let [ordering, beneficiary] = &payment.accounts;
        if side == Side::Ordering { ordering.clone() } else { beneficiary.clone() }
    });
    real.unwrap_or_else(|| Account { account: format!("{row:?}"), name: String::new() })
}
