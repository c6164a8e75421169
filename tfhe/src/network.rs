//! The network: it looks up the answers of its payments under encryption and has them opened masked.

use std::collections::BTreeMap;

use quorate_protocols::pv4fad::Side;
use quorate_protocols::pv4fad::forest::CLASSES;
use quorate_protocols::refusal::{Code, Refusal};
use rand_core::CryptoRng;
use rayon::prelude::*;
use tfhe::core_crypto::prelude::{
    LweCiphertext, LweCiphertextCount, LweCiphertextList, LweCiphertextListOwned,
    LweCompactCiphertextList, LweDimension, expand_lwe_compact_ciphertext_list,
};
use tfhe::shortint::atomic_pattern::AtomicPattern as _;
use tfhe::shortint::ciphertext::{Degree, NoiseLevel};
use tfhe::shortint::{Ciphertext, ServerKey};
use zeroize::Zeroizing;

use crate::bank::PublicKey;
use crate::evaluation;
use crate::parameters::{DIMENSION, INPUTS, PARAMETERS, modulus};
use crate::table::{Answers, Table};
use crate::wire::{
    AskedAccount, Header, Kind, OPEN_ROW_BYTES, QueryId, exact, flag_answer_bytes, flag_ask,
    side_byte, words,
};

/// How much nearer than half the way to the next answer the flood of noise keeps, in units of 2^-64: room
/// for the noise of a bootstrap, whose standard deviation is some 2^50.
const ROOM: u64 = 1 << 56;

/// The network's keys, both public.
pub struct Network {
    server: ServerKey,
    public: PublicKey,
}

impl Network {
    /// Reads the key holder's messages.
    ///
    /// # Errors
    /// [`Code::Malformed`], [`Code::UnsupportedVersion`], [`Code::WrongLength`]; [`Code::WrongLabel`]
    /// when they are damaged or do not belong together.
    ///
    /// # Security
    /// Whoever makes the keys can make them such that answers are wrong, or that masks cancel: they come from the
    /// key holder, over a channel that authenticates it, and it is trusted to follow the protocol.
    pub fn new(public_key: &[u8], evaluation_key: &[u8]) -> Result<Self, Refusal> {
        let public = PublicKey::from_bytes(public_key)?;
        let server = evaluation::read(evaluation_key, &public)?;
        Ok(Self { server, public })
    }

    /// The place on the torus of a row's masked answer, hidden in a fresh ciphertext: look-up of the pair's
    /// number `3 ordering + beneficiary`, plus an encryption of 0 made for this row alone, plus a flood of
    /// noise.
    fn masked(&self, row: &Prepared<'_>) -> Vec<u64> {
        let pair = row.ordering.iter().zip(row.beneficiary);
        let pair = pair.map(|(o, b)| o.wrapping_mul(CLASSES as u64).wrapping_add(*b)).collect();
        let mut ciphertext = Ciphertext::new(
            LweCiphertext::from_container(pair, modulus()),
            Degree::new(INPUTS as u64 - 1),
            NoiseLevel::NOMINAL,
            PARAMETERS.message_modulus,
            PARAMETERS.carry_modulus,
            self.server.atomic_pattern.kind(),
        );
        let answers = self.public.answers();
        let table = self.server.generate_lookup_table(|pair| {
            let answer = row.table.answer(usize::try_from(pair).unwrap_or(INPUTS));
            u64::from((answer + row.mask) % answers.count() * answers.step())
        });
        self.server.apply_lookup_table_assign(&mut ciphertext, &table);
        let mut words = ciphertext.ct.into_container();
        // A list of its own: rows of one list share a mask but for its rotation, and whoever takes two of them
        // apart finds how the masks of their look-ups differ, which are 0 where the table is.
        let zero = expanded(&self.public.encrypt(&[0]), 1);
        for (word, zero) in words.iter_mut().zip(zero.as_ref()) {
            *word = word.wrapping_add(*zero);
        }
        if let Some(body) = words.last_mut() {
            *body = body.wrapping_add(row.flood);
        }
        words
    }
}

/// What one bank is asked for of one payment.
pub struct RowSide {
    /// The bank, by the network's own number.
    pub bank: u32,
    /// What it is asked.
    pub account: AskedAccount,
}

/// A payment.
pub struct Row {
    /// Its answer for each pair of classes.
    pub table: Table,
    /// Ordering and beneficiary side.
    pub sides: [RowSide; 2],
}

/// All that is ready to evaluate a row.
struct Prepared<'a> {
    table: &'a Table,
    ordering: &'a [u64],
    beneficiary: &'a [u64],
    mask: u8,
    flood: u64,
}

/// A bank and its side, and the rows that it is asked about.
type Lists = BTreeMap<(u32, u8), Vec<usize>>;

/// A query that banks are being asked about.
pub struct Query<'a> {
    network: &'a Network,
    id: QueryId,
    rows: Vec<Row>,
    lists: Lists,
    /// The compact lists that banks sent.
    flags: BTreeMap<(u32, u8), Vec<u64>>,
}

impl<'a> Query<'a> {
    /// A query about `rows`, 1 to [`MAX_ROWS`](crate::wire::MAX_ROWS); `id` is random and never used again.
    ///
    /// # Errors
    /// [`Code::WrongLength`] for no rows or too many; [`Code::WrongState`] for a table of other answers than the
    /// key opens.
    ///
    /// # Security
    /// A row whose table does not depend on banks can be left out, and saves two flags and an opening; but
    /// then banks see for which of their payments they matter.
    pub fn new(network: &'a Network, id: QueryId, rows: Vec<Row>) -> Result<Self, Refusal> {
        if rows.iter().any(|row| row.table.answers() != network.public.answers()) {
            return Err(Refusal::new(
                Code::WrongState,
                "the key opens other answers than a table has",
            ));
        }
        Header::of_query(Kind::OpenAsk, 0, network.public.id(), id, rows.len())?;
        let mut lists = Lists::new();
        for (place, row) in rows.iter().enumerate() {
            for (side, of) in Side::BOTH.into_iter().zip(&row.sides) {
                lists.entry((of.bank, side_byte(side))).or_default().push(place);
            }
        }
        Ok(Self { network, id, rows, lists, flags: BTreeMap::new() })
    }

    /// The questions that are not answered yet: bank, side, message.
    ///
    /// # Errors
    /// [`Code::WrongLength`] for an account or name over [`MAX_TEXT`](crate::wire::MAX_TEXT) bytes.
    pub fn asks(&self) -> Result<Vec<(u32, Side, Vec<u8>)>, Refusal> {
        let mut asks = Vec::new();
        for side in Side::BOTH {
            let open = self
                .lists
                .iter()
                .filter(|(place, _)| place.1 == side_byte(side) && !self.flags.contains_key(place));
            for ((bank, _), rows) in open {
                let rows: Vec<&AskedAccount> =
                    rows.iter().filter_map(|row| self.side(*row, side)).collect();
                let ask = flag_ask(self.network.public.id(), self.id, side, &rows)?;
                asks.push((*bank, side, ask));
            }
        }
        Ok(asks)
    }

    fn side(&self, row: usize, side: Side) -> Option<&AskedAccount> {
        let sides = self.rows.get(row)?.sides.get(usize::from(side_byte(side)))?;
        Some(&sides.account)
    }

    /// Takes a bank's answer.
    ///
    /// # Errors
    /// [`Code::Malformed`], [`Code::UnsupportedVersion`], [`Code::WrongLength`], [`Code::WrongLabel`]: not an
    /// answer to this query under this key; [`Code::UnknownParty`]: this bank was not asked on this side;
    /// [`Code::Duplicate`]: it has answered with other bytes, as it does when it was asked twice. The first
    /// answer stands.
    pub fn accept(&mut self, bank: u32, side: Side, answer: &[u8]) -> Result<(), Refusal> {
        let key = self.network.public.id();
        let (header, payload) = Header::parse(answer, Kind::FlagAnswer, Some(key))?;
        if header.query != self.id || header.side() != side {
            return Err(Refusal::new(Code::WrongLabel, "flags of another query or side"));
        }
        let place = (bank, side_byte(side));
        let rows = self.lists.get(&place).map(Vec::len);
        let rows = rows.ok_or_else(|| {
            Refusal::new(Code::UnknownParty, "this bank was not asked on this side")
        })?;
        if header.len() != rows {
            let detail = format!("{} flags, not {rows}", header.len());
            return Err(Refusal::new(Code::WrongLength, detail));
        }
        exact(payload, flag_answer_bytes(rows))?;
        let words = words(payload);
        if *self.flags.entry(place).or_insert_with(|| words.clone()) != words {
            return Err(Refusal::new(Code::Duplicate, "this bank has sent other flags"));
        }
        Ok(())
    }

    /// Evaluates the rows for which both banks have answered, on all cores, and writes the question to the
    /// key holder; the other rows stay without answer.
    ///
    /// # Errors
    /// [`Code::SetTooSmall`] when there is no such row.
    ///
    /// # Security
    /// `rng` draws the masks and the floods. A mask is used once: a query that is not opened is lost, and its
    /// rows are asked for in a new one.
    pub fn evaluate<R: CryptoRng>(&self, rng: &mut R) -> Result<(Vec<u8>, Pending), Refusal> {
        let answered = self.lists.iter().filter_map(|((bank, side), rows)| {
            let list = self.flags.get(&(*bank, *side))?;
            Some((usize::from(*side), rows, expanded(list, rows.len())))
        });
        let answered: Vec<(usize, &Vec<usize>, LweCiphertextListOwned<u64>)> = answered.collect();
        let mut ready: Vec<[Option<&[u64]>; 2]> = vec![[None; 2]; self.rows.len()];
        for (side, rows, flags) in &answered {
            for (row, flag) in rows.iter().zip(flags.as_ref().chunks_exact(DIMENSION + 1)) {
                let slot = ready.get_mut(*row).and_then(|row| row.get_mut(*side));
                if let Some(slot) = slot {
                    *slot = Some(flag);
                }
            }
        }
        let places: Vec<usize> = (0..)
            .zip(&ready)
            .filter(|(_, row)| row.iter().all(Option::is_some))
            .map(|(place, _)| place)
            .collect();
        if places.is_empty() {
            return Err(Refusal::new(Code::SetTooSmall, "no row has the flags of both banks"));
        }
        let answers = self.network.public.answers();
        let mut masks = Zeroizing::new(Vec::with_capacity(places.len()));
        let mut prepared = Vec::with_capacity(places.len());
        for place in &places {
            let row = self.rows.get(*place).zip(ready.get(*place));
            let Some((row, [Some(ordering), Some(beneficiary)])) = row else { continue };
            let mask = u8::try_from(rng.next_u32() % u32::from(answers.count())).unwrap_or(0);
            masks.push(mask);
            let flood = flood(answers, rng.next_u64());
            prepared.push(Prepared { table: &row.table, ordering, beneficiary, mask, flood });
        }
        let key = self.network.public.id();
        let header = Header::of_query(Kind::OpenAsk, 0, key, self.id, prepared.len())?;
        let mut ask = header.begin(prepared.len() * OPEN_ROW_BYTES);
        let rows: Vec<Vec<u8>> = prepared
            .par_iter()
            .map(|row| {
                let words = self.network.masked(row).into_iter().map(rounded);
                words.flat_map(u32::to_le_bytes).collect()
            })
            .collect();
        ask.extend(rows.into_iter().flatten());
        Ok((ask, Pending { header, answers, masks, places, rows: self.rows.len() }))
    }
}

/// The ciphertexts of a compact list, one after the other.
fn expanded(list: &[u64], rows: usize) -> LweCiphertextListOwned<u64> {
    let size = LweDimension(DIMENSION).to_lwe_size();
    let count = LweCiphertextCount(rows);
    let list = LweCompactCiphertextList::from_container(list, size, count, modulus());
    let mut expanded = LweCiphertextList::new(0, size, count, modulus());
    expand_lwe_compact_ciphertext_list(&mut expanded, &list);
    expanded
}

/// Noise that hides that of a bootstrap: uniform within half the way to the next answer, less [`ROOM`]; drawn
/// from 64 uniform bits.
fn flood(answers: Answers, uniform: u64) -> u64 {
    // Half the way is 2^63 / answers; answers are a power of two.
    let reach = (1 << 63 >> answers.bits()) - ROOM;
    let offset = (u128::from(uniform) * u128::from(2 * reach + 1)) >> 64;
    u64::try_from(offset).unwrap_or(0).wrapping_sub(reach)
}

/// A word modulo 2^32, to the nearest.
fn rounded(word: u64) -> u32 {
    let nearest = word.wrapping_add(1 << 31) >> 32;
    u32::try_from(nearest).unwrap_or(0)
}

/// A query that the key holder is asked about: the masks.
pub struct Pending {
    header: Header,
    answers: Answers,
    masks: Zeroizing<Vec<u8>>,
    /// The row of each mask.
    places: Vec<usize>,
    rows: usize,
}

impl Pending {
    /// The answer of each row, below [`Answers::count`]; `None` where a bank did not answer.
    ///
    /// # Errors
    /// [`Code::Malformed`], [`Code::UnsupportedVersion`], [`Code::WrongLength`], [`Code::WrongLabel`]: not the
    /// opening of this query.
    pub fn finish(&self, opened: &[u8]) -> Result<Vec<Option<u8>>, Refusal> {
        let (header, payload) = Header::parse(opened, Kind::Opened, Some(self.header.key))?;
        if header != (Header { kind: Kind::Opened, ..self.header }) {
            return Err(Refusal::new(Code::WrongLabel, "the opening of another query"));
        }
        exact(payload, self.masks.len())?;
        let count = self.answers.count();
        let mut answers = vec![None; self.rows];
        for ((masked, mask), place) in payload.iter().zip(&*self.masks).zip(&self.places) {
            if *masked >= count {
                return Err(Refusal::new(Code::Malformed, "an answer that there is not"));
            }
            if let Some(answer) = answers.get_mut(*place) {
                *answer = Some((masked + count - mask) % count);
            }
        }
        Ok(answers)
    }
}
