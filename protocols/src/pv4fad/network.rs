//! The network's side: it draws row ids, carries ciphertexts from bank to bank, assigns cells, adds
//! up, and reads what is opened to it alone.

mod strict;

use std::collections::{BTreeMap, BTreeSet};

use quorate_crypto::keys::Identity;
use quorate_crypto::merkle::Hash;
use quorate_crypto::threshold::elgamal::ElGamal;
use quorate_crypto::threshold::elgamal::choice::{CIPHERTEXT_BYTES, Chosen, Ciphers};
use quorate_crypto::threshold::{AUTHORITY, ThresholdScheme};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::messages::{
    Account, Assigned, Evidence, FlagAsk, FlagPart, FreezeAsk, JoinEnd, JoinPart, JoinRow, Joined,
    Logged, Message, NO_CELL, NoiseAsk, NoiseShare, OpenAsk, Opens, Partial, Picked, QueryAccounts,
    QueryFields, QueryTable, Refused, Release, SumAsk, Summed, assignment_hash,
};
use super::strict::Closed;
use super::{
    Job, Keep, MAX_QUERY_ROWS, RowId, Side, World, bad_ciphertext, blob_hash, ciphers_hash,
    reply_ciphers, rows_hash, seed,
};
use crate::checks::{Check, holds};
use crate::machine::{Bug, Context, Fact, Output, Peer};
use crate::refusal::{Code, Culprit, Refusal};
use crate::wire::{Name, Signed, Verified, decode, encode};

pub use strict::Reaching;

/// Parts worked on in one step: what a step keeps and sends stays in memory until it is stored.
const STEP_PARTS: usize = if cfg!(test) { 3 } else { 64 };

/// Times that an authority which is not able to answer is asked again in one model version.
const MAX_RETRIES: u32 = 16;

/// An output of this machine.
pub type NetworkOutput = Output<Message, Keep>;

/// A payment's two sides.
#[derive(Clone, Debug)]
pub struct Payment {
    /// The ordering side's bank and the beneficiary side's.
    pub banks: [Name; 2],
    /// The accounts, in the same order.
    pub accounts: [Account; 2],
}

/// Where payments fall in the forest. A cell is a leaf with a label: the network knows both.
pub trait CellAssignment {
    /// The cell of a payment in a tree, below [`Figures::cells`](super::Figures::cells).
    fn cell(&self, tree: u16, payment: usize) -> u16;
}

/// A row of a join list, and its payment if it is no padding.
type Slot = (RowId, Option<usize>);

/// Payments of a model version in the order that banks see them: a function of the network's keys,
/// so that it is made again after a restart.
pub struct Layout {
    /// Rows of a part.
    length: usize,
    /// Row ids by payment.
    rows: Vec<RowId>,
    /// Slots of every bank and side, in whole parts; padding has no payment.
    slots: BTreeMap<(Name, Side), Vec<Slot>>,
    /// Real tree by random number.
    trees: Vec<u16>,
    /// Random cell by real tree and cell.
    cells: Vec<Vec<u16>>,
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

    fn parts(&self, bank: &Name, side: Side) -> &[Slot] {
        self.slots.get(&(bank.clone(), side)).map_or(&[], Vec::as_slice)
    }

    fn part(&self, bank: &Name, side: Side, part: u16) -> &[Slot] {
        self.parts(bank, side).chunks(self.length).nth(usize::from(part)).unwrap_or_default()
    }

    fn part_rows(&self, bank: &Name, side: Side, part: u16) -> Vec<RowId> {
        self.part(bank, side, part).iter().map(|(row, _)| *row).collect()
    }

    fn count(&self, bank: &Name, side: Side) -> u16 {
        u16::try_from(self.parts(bank, side).len().div_ceil(self.length)).unwrap_or(u16::MAX)
    }

    /// The row id of a payment.
    #[must_use]
    pub fn row(&self, payment: usize) -> Option<RowId> {
        self.rows.get(payment).copied()
    }
}

/// What the network uses besides its state.
#[derive(Clone, Copy)]
pub struct NetworkWorld<'a> {
    /// Key and kept bytes.
    pub world: World<'a>,
    /// The payments of the model version.
    pub payments: &'a [Payment],
    /// Their order.
    pub layout: &'a Layout,
    /// Their cells.
    pub cells: &'a dyn CellAssignment,
}

/// Where a model version stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// Join lists are on their way.
    Setup,
    /// All banks have their rows; bits are collected.
    Joined,
    /// All bits are here; the assignment is logged and checked.
    Flagged,
    /// The authority signed the cell sums; noise is collected.
    Summed,
    /// The authority released the noised sums; partial decryptions are collected.
    Frozen,
    /// The counts are known.
    Trained,
    /// Payments were scored.
    Serving,
    /// Nothing more is opened.
    Failed,
}

/// An opening under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Opening {
    release: Verified<Release>,
    /// Where the ciphertexts are kept.
    ciphers: Hash,
    /// Checked partial decryptions: the authority's under no name.
    authority: Vec<u8>,
    partials: BTreeMap<Name, Vec<u8>>,
    asked: BTreeSet<Name>,
    failed: BTreeSet<Name>,
}

/// A payment to score.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Asked {
    /// Its accounts, ordering side first.
    pub accounts: [Account; 2],
    /// Scores by class of the ordering side and of the beneficiary side: (L + 1) x (L + 1). Nothing
    /// in a strict job, see [`Reaching`].
    pub scores: Vec<f64>,
}

/// A query under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Query {
    table: Verified<QueryTable>,
    asked: Vec<Asked>,
    picked: Vec<Signed<Picked>>,
    /// What the ordering bank picked.
    first: Vec<u8>,
    /// Where the last picks are kept.
    last: Option<Hash>,
    scores: Option<Vec<f64>>,
    /// Why it is not answered, or not yet.
    refused: Option<Refusal>,
    /// In a strict job.
    pooled: Option<strict::Pooled>,
}

impl Query {
    fn new(table: Verified<QueryTable>, asked: Vec<Asked>) -> Self {
        let (picked, first, last, scores, refused, pooled) = Default::default();
        Self { table, asked, picked, first, last, scores, refused, pooled }
    }
}

/// One model version of a payments job at the network.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NetworkJob {
    job: Job,
    version: u32,
    phase: Phase,
    lost: BTreeSet<Name>,
    joined: BTreeSet<Name>,
    /// Hash of the end of every bank's join list.
    ends: BTreeMap<Name, Hash>,
    /// Where the parts that came are kept.
    flags: BTreeMap<(Side, Name, u16), Hash>,
    /// Where the inputs of beneficiaries' parts are kept, once ordering sides are complete.
    inputs: BTreeMap<(Name, u16), Hash>,
    /// Whether all beneficiary banks were asked.
    chained: bool,
    /// Parts that are in the evidence, or left out of it.
    assigned: usize,
    evidence: Vec<Hash>,
    /// Evidence that was sent.
    sent: usize,
    asked_sums: bool,
    sums: Option<Hash>,
    logged: Option<Verified<Logged>>,
    summed: Option<Verified<Summed>>,
    shares: BTreeMap<Name, Hash>,
    frozen: bool,
    openings: BTreeMap<Hash, Opening>,
    counts: Option<Vec<i64>>,
    /// In a strict job, instead of counts.
    closed: Option<Closed>,
    queries: BTreeMap<u64, Query>,
    failure: Option<Refusal>,
    /// Times that the authority asked to be asked again.
    retries: u32,
}

/// The values that a row's table tells apart, ascending.
fn distinct(scores: &[f64]) -> Vec<f64> {
    let mut values = scores.to_vec();
    values.sort_by(f64::total_cmp);
    values.dedup_by(|a, b| a.to_bits() == b.to_bits());
    values
}

impl NetworkJob {
    /// Opens a model version: join lists for every bank.
    ///
    /// # Errors
    /// [`Code::UnknownParty`] when the job names other keys of the network; [`Code::UnknownRound`].
    pub fn start(
        cx: &Context<'_>,
        world: &NetworkWorld<'_>,
        job: Job,
        version: u32,
    ) -> Result<(Self, Vec<NetworkOutput>), Refusal> {
        if job.network.verify != cx.identity.verify_key() {
            return Err(Refusal::new(
                Code::UnknownParty,
                "the job names other keys of the network",
            ));
        }
        if version >= job.versions {
            return Err(Refusal::new(Code::UnknownRound, "the job has no such model version"));
        }
        let mut outputs = Vec::new();
        let mut announced = BTreeMap::new();
        for bank in &job.banks {
            let mut ends = [Vec::new(), Vec::new()];
            for (side, end) in Side::BOTH.into_iter().zip(&mut ends) {
                for part in 0..world.layout.count(&bank.party, side) {
                    let rows = world.layout.part(&bank.party, side, part).iter();
                    let rows = rows.map(|(row, payment)| JoinRow {
                        row: *row,
                        account: account_of(world.payments, side, *payment, row),
                    });
                    let part = JoinPart {
                        job: job.id(),
                        version,
                        bank: bank.party.clone(),
                        side,
                        part,
                        rows: rows.collect(),
                    };
                    let part = Signed::sign(part, cx.identity).signed().clone();
                    end.push(part.hash());
                    outputs.push(to_bank(&bank.party, Message::JoinPart(part)));
                }
            }
            let end = join_end(cx, &job, version, &bank.party, ends);
            announced.insert(bank.party.clone(), end.hash());
            outputs.push(to_bank(&bank.party, Message::JoinEnd(end)));
        }
        let next = Self {
            job,
            version,
            phase: Phase::Setup,
            lost: BTreeSet::new(),
            joined: BTreeSet::new(),
            ends: announced,
            flags: BTreeMap::new(),
            inputs: BTreeMap::new(),
            chained: false,
            assigned: 0,
            evidence: Vec::new(),
            sent: 0,
            asked_sums: false,
            sums: None,
            logged: None,
            summed: None,
            shares: BTreeMap::new(),
            frozen: false,
            openings: BTreeMap::new(),
            counts: None,
            closed: None,
            queries: BTreeMap::new(),
            failure: None,
            retries: 0,
        };
        Ok((next, outputs))
    }

    /// Where it stands.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// Why nothing more is opened.
    #[must_use]
    pub const fn failure(&self) -> Option<&Refusal> {
        self.failure.as_ref()
    }

    /// The opened counts: by tree, then cell, then class bit.
    #[must_use]
    pub fn counts(&self) -> Option<&[i64]> {
        self.counts.as_deref()
    }

    /// The scores of a query, once they are opened.
    #[must_use]
    pub fn scores(&self, query: u64) -> Option<&[f64]> {
        self.queries.get(&query)?.scores.as_deref()
    }

    /// Why a query is not answered, or not yet.
    #[must_use]
    pub fn query_refusal(&self, query: u64) -> Option<&Refusal> {
        self.queries.get(&query)?.refused.as_ref()
    }

    /// Whether a query was asked.
    #[must_use]
    pub fn has_asked(&self, query: u64) -> bool {
        self.queries.contains_key(&query)
    }

    /// The job.
    #[must_use]
    pub const fn job(&self) -> &Job {
        &self.job
    }

    /// Banks that are left out.
    #[must_use]
    pub const fn lost(&self) -> &BTreeSet<Name> {
        &self.lost
    }

    /// Banks behind the noise of the opened counts.
    #[must_use]
    pub fn noise_shares(&self) -> usize {
        self.shares.len()
    }

    /// Whether a payment of the model version counts in its cells: its ordering side came, and all
    /// parts of its beneficiary bank.
    #[must_use]
    pub fn counts_payment(&self, world: &NetworkWorld<'_>, payment: usize) -> bool {
        let Some(Payment { banks: [_, beneficiary], .. }) = world.payments.get(payment) else {
            return false;
        };
        let row = world.layout.row(payment);
        row.and_then(|row| self.ordering_place(world, payment, &row)).is_some()
            && self.is_complete(world, Side::Beneficiary, beneficiary)
    }

    /// Banks whose answer the model version waits for.
    #[must_use]
    pub fn waits_for(&self, world: &NetworkWorld<'_>) -> Vec<Name> {
        let present = self.present();
        let flags = if self.chained { Side::Beneficiary } else { Side::Ordering };
        let waits = |bank: &Name| match self.phase {
            Phase::Setup => !self.joined.contains(bank),
            Phase::Joined => !self.is_complete(world, flags, bank),
            Phase::Summed => !self.frozen && !self.shares.contains_key(bank),
            Phase::Frozen | Phase::Trained | Phase::Serving => {
                self.openings.values().any(|opening| {
                    opening.partials.len() < self.job.threshold as usize
                        && opening.asked.contains(bank)
                        && !opening.failed.contains(bank)
                        && !opening.partials.contains_key(bank)
                })
            }
            Phase::Flagged | Phase::Failed => false,
        };
        present.into_iter().filter(|bank| waits(bank)).collect()
    }

    /// Handles a message of a bank, the authority or the aggregator.
    ///
    /// # Errors
    /// None: a wrong message is refused.
    pub fn handle(
        self,
        cx: &mut Context<'_>,
        world: &NetworkWorld<'_>,
        message: &Message,
    ) -> Result<(Self, Vec<NetworkOutput>), Bug> {
        let mut next = self.clone();
        let outcome = match message {
            Message::Joined(joined) => next.join(joined),
            Message::FlagPart(part) => next.flag_part(world, part),
            Message::Logged(logged) => next.log(cx, logged),
            Message::Summed(summed) => next.summed(world, summed),
            Message::NoiseShare(share) => next.noise(world, share),
            Message::Released(release, partial) => next.released(world, release, partial),
            Message::Frozen(record) => next.frozen(world, record),
            Message::Partial(partial) => next.partial(world, partial),
            Message::Picked(picked) => next.picked(cx, picked),
            Message::Refused(refused) => next.refused(world, refused),
            other => Err(Refusal::new(Code::WrongState, format!("a network takes no {other:?}"))),
        };
        Ok(self.settle(next, outcome))
    }

    /// A bank did not answer in time: it is left out, nobody is accused.
    ///
    /// # Errors
    /// [`Bug`] for a bank outside the job.
    pub fn lose(mut self, bank: &Name) -> Result<(Self, Vec<NetworkOutput>), Bug> {
        self.job.bank(bank).map_err(|refusal| Bug(refusal.detail))?;
        self.lost.insert(bank.clone());
        let fact = Fact::of("bank.lost", self.version, 0, bank.as_str());
        Ok((self, vec![Output::Log(fact)]))
    }

    /// Goes on where everything that was waited for is there. Drivers call it after every other
    /// step, once what that step gave to be kept is kept, until it has no outputs.
    #[must_use]
    pub fn advance(
        self,
        cx: &mut Context<'_>,
        world: &NetworkWorld<'_>,
    ) -> (Self, Vec<NetworkOutput>) {
        let mut next = self.clone();
        let outcome = next.progress(cx, world);
        self.settle(next, outcome)
    }

    fn settle(
        self,
        next: Self,
        outcome: Result<Vec<NetworkOutput>, Refusal>,
    ) -> (Self, Vec<NetworkOutput>) {
        match outcome {
            Ok(outputs) => (next, outputs),
            Err(refusal) => {
                let fact = Fact::of("refused", self.version, 0, refusal.to_string());
                (self, vec![Output::Log(fact), Output::Reject(refusal)])
            }
        }
    }

    fn fail(&mut self, refusal: Refusal) -> Vec<NetworkOutput> {
        let fact = Fact::of("version.failed", self.version, 0, refusal.to_string());
        self.phase = Phase::Failed;
        self.failure = Some(refusal);
        vec![Output::Log(fact)]
    }

    /// A bank that refuses is left out; a model version that the authority refuses is over. Who is not
    /// able to answer now is asked again, or left out by the driver in its time.
    fn refused(
        &mut self,
        world: &NetworkWorld<'_>,
        signed: &Signed<Refused>,
    ) -> Result<Vec<NetworkOutput>, Refusal> {
        let claimed = signed.peek()?;
        let by_authority = claimed.bank == self.job.authority.name;
        let refused =
            if by_authority { self.job.by_authority(signed)? } else { self.job.by_bank(signed)? };
        self.is_of_version(refused.version)?;
        if self.job.is_too_long(&refused.refusal) {
            return Err(Refusal::new(Code::TooLarge, "a reason that is too long"));
        }
        let note = format!("{}: {}", refused.bank, refused.refusal);
        let mut outputs = vec![Output::Log(Fact::of("was.refused", self.version, 0, note))];
        if let Some(query) = refused.query {
            // Of banks only the one that is to pick ends a query; where an opener refuses, another steps in.
            if by_authority || self.query_waits_for(query).as_ref() == Some(&refused.bank) {
                if let Some(known) = self.queries.get_mut(&query).filter(|q| q.scores.is_none()) {
                    known.refused = Some(refused.refusal.clone());
                }
            } else if refused.refusal.code != Code::Unavailable {
                let of = |opening: &&mut Opening| {
                    matches!(opening.release.opens,
                        Opens::Query { query: of, .. } | Opens::Pooled { query: of, .. } if of == query)
                        && opening.asked.contains(&refused.bank)
                };
                if let Some(opening) = self.openings.values_mut().find(of) {
                    opening.failed.insert(refused.bank.clone());
                    outputs.extend(self.ask_openers(world)?);
                }
            }
            return Ok(outputs);
        }
        if self.phase >= Phase::Trained {
            return Ok(outputs);
        }
        let later = refused.refusal.code == Code::Unavailable;
        if by_authority && later && self.retries < MAX_RETRIES {
            self.retries = self.retries.saturating_add(1);
            outputs.extend(self.repeat(world)?);
        } else if by_authority {
            outputs.extend(self.fail(refused.refusal.clone()));
        } else if !later {
            self.lost.insert(refused.bank.clone());
        }
        Ok(outputs)
    }

    /// What the authority was given for its next answer is given again.
    fn repeat(&mut self, world: &NetworkWorld<'_>) -> Result<Vec<NetworkOutput>, Refusal> {
        if self.phase == Phase::Flagged {
            (self.sent, self.asked_sums) = (0, false);
        }
        let mut outputs = Vec::new();
        if self.phase == Phase::Summed && self.frozen {
            let to = Peer::Authority(self.job.authority.name.clone());
            for hash in self.shares.values() {
                let share = decode::<Signed<NoiseShare>>(&world.world.blob(hash)?)?;
                let message = Message::NoiseShare(share);
                outputs.push(Output::Send { to: to.clone(), message });
            }
            self.frozen = false;
        }
        Ok(outputs)
    }

    fn present(&self) -> Vec<Name> {
        let banks = self.job.banks.iter().map(|bank| &bank.party);
        banks.filter(|bank| !self.lost.contains(bank)).cloned().collect()
    }

    fn is_of_version(&self, version: u32) -> Result<(), Refusal> {
        if version == self.version {
            Ok(())
        } else {
            Err(Refusal::new(Code::WrongLabel, "of another model version"))
        }
    }

    fn join(&mut self, signed: &Signed<Joined>) -> Result<Vec<NetworkOutput>, Refusal> {
        let joined = self.job.by_bank(signed)?;
        self.is_of_version(joined.version)?;
        // W2 at the network: it is this list that the bank fixed.
        if self.ends.get(&joined.bank) != Some(&joined.end) {
            let why = "the bank joined another list than it was given";
            return Err(
                Refusal::new(Code::WrongLabel, why).blaming(Culprit::Party(joined.bank.clone()))
            );
        }
        self.joined.insert(joined.bank.clone());
        Ok(Vec::new())
    }

    /// W4: signed by its bank, for the part that was asked for, every ciphertext proven.
    fn flag_part(
        &mut self,
        world: &NetworkWorld<'_>,
        signed: &Signed<FlagPart>,
    ) -> Result<Vec<NetworkOutput>, Refusal> {
        let part = self.job.by_bank(signed)?;
        self.is_of_version(part.version)?;
        let bank = Culprit::Party(part.bank.clone());
        let rows = world.layout.part_rows(&part.bank, part.side, part.part);
        let known = self.flags.get(&(part.side, part.bank.clone(), part.part));
        let bytes = encode(signed);
        let hash = blob_hash(&bytes);
        if let Some(known) = known {
            if *known == hash {
                return Ok(Vec::new());
            }
            return Err(Refusal::new(Code::Duplicate, "a second answer for one part").blaming(bank));
        }
        let open = match part.side {
            Side::Ordering => self.inputs.is_empty(),
            Side::Beneficiary => self.inputs.contains_key(&(part.bank.clone(), part.part)),
        };
        if self.phase != Phase::Joined || !open {
            return Err(Refusal::new(Code::Late, "parts of this side are not collected now"));
        }
        let inputs = match part.side {
            Side::Ordering => Vec::new(),
            Side::Beneficiary => self.kept_inputs(world, &part.bank, part.part)?,
        };
        if rows.len() != self.job.part_len()
            || part.rows != rows_hash(&rows)
            || part.inputs != ciphers_hash(&inputs)
        {
            let why = "an answer for other rows or inputs";
            return Err(Refusal::new(Code::WrongLabel, why).blaming(bank));
        }
        let bindings = self.job.bit_bindings(self.version, part.side, &part.bank, &rows);
        let chosen = Chosen { ciphers: part.ciphers.clone(), proofs: part.proofs.clone() };
        let key = world.world.key;
        match part.side {
            Side::Ordering => key.check_bits(&bindings, &chosen),
            Side::Beneficiary => key.check_or(&bindings, &inputs, &chosen),
        }
        .map_err(|error| bad_ciphertext(&error, bank))?;
        self.flags.insert((part.side, part.bank.clone(), part.part), hash);
        Ok(vec![Output::Work(Keep { hash, bytes })])
    }

    /// Whether every bank that is left sent all its parts of a side.
    fn flags_complete(&self, world: &NetworkWorld<'_>, side: Side) -> bool {
        self.present().iter().all(|bank| self.is_complete(world, side, bank))
    }

    fn is_complete(&self, world: &NetworkWorld<'_>, side: Side, bank: &Name) -> bool {
        let mut parts = 0..world.layout.count(bank, side);
        parts.all(|part| self.flags.contains_key(&(side, bank.clone(), part)))
    }

    fn kept_part(
        &self,
        world: &NetworkWorld<'_>,
        hash: &Hash,
    ) -> Result<Signed<FlagPart>, Refusal> {
        decode(&world.world.blob(hash)?)
    }

    fn progress(
        &mut self,
        cx: &Context<'_>,
        world: &NetworkWorld<'_>,
    ) -> Result<Vec<NetworkOutput>, Refusal> {
        let present = self.present();
        let few = u32::try_from(present.len()).unwrap_or(u32::MAX) < self.job.floor();
        if few && self.phase < Phase::Frozen && !holds(Check::Floor, false) {
            let mut refusal = Refusal::new(Code::SetTooSmall, "fewer banks are left than r_min");
            refusal.concerns = self.lost.iter().cloned().collect();
            return Ok(self.fail(refusal));
        }
        match self.phase {
            Phase::Setup if present.iter().all(|bank| self.joined.contains(bank)) => {
                self.phase = Phase::Joined;
                let mut outputs = vec![Output::Log(Fact::of(
                    "banks.joined",
                    self.version,
                    0,
                    format!("{} banks", present.len()),
                ))];
                for bank in &present {
                    for part in 0..world.layout.count(bank, Side::Ordering) {
                        outputs.push(self.ask_flags(cx, bank, Side::Ordering, part, Vec::new()));
                    }
                }
                Ok(outputs)
            }
            Phase::Joined if !self.chained && self.flags_complete(world, Side::Ordering) => {
                self.chain(cx, world)
            }
            Phase::Joined if self.chained && self.flags_complete(world, Side::Beneficiary) => {
                self.assign(cx, world)
            }
            Phase::Flagged if self.logged.is_none() && self.sums.is_some() => {
                self.assign(cx, world)
            }
            Phase::Flagged if self.logged.is_some() => self.send_evidence(cx, world),
            Phase::Summed
                if !self.frozen && present.iter().all(|bank| self.shares.contains_key(bank)) =>
            {
                self.freeze(cx)
            }
            Phase::Frozen | Phase::Trained | Phase::Serving => self.ask_openers(world),
            _ => Ok(Vec::new()),
        }
    }

    fn ask_flags(
        &self,
        cx: &Context<'_>,
        bank: &Name,
        side: Side,
        part: u16,
        inputs: Vec<u8>,
    ) -> NetworkOutput {
        let (job, version) = (self.job.id(), self.version);
        let ask = FlagAsk { job, version, bank: bank.clone(), side, part, inputs };
        to_bank(bank, Message::FlagAsk(Signed::sign(ask, cx.identity).signed().clone()))
    }

    /// Asks the next beneficiary banks, all of them in steps.
    fn chain(
        &mut self,
        cx: &Context<'_>,
        world: &NetworkWorld<'_>,
    ) -> Result<Vec<NetworkOutput>, Refusal> {
        let mut open = Vec::new();
        for bank in self.present() {
            let parts = 0..world.layout.count(&bank, Side::Beneficiary);
            open.extend(parts.map(|part| (bank.clone(), part)));
        }
        open.retain(|place| !self.inputs.contains_key(place));
        self.chained = open.len() <= STEP_PARTS;
        let mut ordering = BTreeMap::new();
        for ((side, ..), hash) in &self.flags {
            if *side == Side::Ordering {
                ordering.insert(*hash, self.kept_part(world, hash)?.peek()?.ciphers);
            }
        }
        let mut outputs = Vec::new();
        for (bank, part) in open.into_iter().take(STEP_PARTS) {
            let inputs = self.make_inputs(cx, world, &ordering, (&bank, part))?;
            let keep = Keep::of(inputs.clone());
            outputs.push(self.ask_flags(cx, &bank, Side::Beneficiary, part, inputs));
            self.inputs.insert((bank, part), keep.hash);
            outputs.push(Output::Work(keep));
        }
        Ok(outputs)
    }

    fn kept_inputs(
        &self,
        world: &NetworkWorld<'_>,
        bank: &Name,
        part: u16,
    ) -> Result<Vec<u8>, Refusal> {
        let hash = self.inputs.get(&(bank.clone(), part));
        let hash = hash.ok_or_else(|| Refusal::new(Code::WrongState, "a part not asked for"))?;
        world.world.blob(hash)
    }

    /// The other side's ciphertexts for a beneficiary's part: the ordering bank's where it
    /// answered, fresh encryptions of 0 for padding and for rows that were lost.
    fn make_inputs(
        &self,
        cx: &Context<'_>,
        world: &NetworkWorld<'_>,
        ordering: &BTreeMap<Hash, Vec<u8>>,
        (bank, part): (&Name, u16),
    ) -> Result<Vec<u8>, Refusal> {
        let row_bytes = usize::from(self.job.class_bits).saturating_mul(CIPHERTEXT_BYTES);
        let slots = world.layout.part(bank, Side::Beneficiary, part);
        let mut inputs = vec![0; slots.len().saturating_mul(row_bytes)];
        let mut holes = Vec::new();
        for ((row, payment), to) in slots.iter().zip(inputs.chunks_mut(row_bytes.max(1))) {
            let from = payment.and_then(|payment| {
                let (hash, at) = self.ordering_place(world, payment, row)?;
                ordering.get(&hash)?.chunks(row_bytes.max(1)).nth(at)
            });
            match from {
                Some(from) => to.copy_from_slice(from),
                None => holes.push((*row, to)),
            }
        }
        let label = self.job.label("padding", self.version);
        let parts: [&[u8]; 3] = [&label.0, bank.as_str().as_bytes(), &part.to_le_bytes()];
        let seed = seed(cx.identity, "quorate/pv-padding/1", &parts);
        let rows: Vec<RowId> = holes.iter().map(|(row, _)| *row).collect();
        let network = &self.job.network.party;
        let bindings = self.job.bit_bindings(self.version, Side::Ordering, network, &rows);
        let zeros = Zeroizing::new(vec![0; bindings.len()]);
        let padding = world
            .world
            .key
            .encrypt_bits(&bindings, &zeros, &seed)
            .map_err(|error| bad_ciphertext(&error, self.job.network_culprit()))?;
        for ((_, to), from) in holes.into_iter().zip(padding.ciphers.chunks(row_bytes.max(1))) {
            to.copy_from_slice(from);
        }
        Ok(inputs)
    }

    /// Where the ordering side of a payment is: the kept part and the place in it.
    fn ordering_place(
        &self,
        world: &NetworkWorld<'_>,
        payment: usize,
        row: &RowId,
    ) -> Option<(Hash, usize)> {
        let [bank, _] = &world.payments.get(payment)?.banks;
        let slots = world.layout.parts(bank, Side::Ordering);
        let at = slots.binary_search_by_key(row, |(row, _)| *row).ok()?;
        let part = u16::try_from(at / world.layout.length).ok()?;
        let hash = self.flags.get(&(Side::Ordering, bank.clone(), part))?;
        Some((*hash, at % world.layout.length))
    }

    /// Puts evidence together and adds up, part by part; after the last has the assignment logged.
    fn assign(
        &mut self,
        cx: &Context<'_>,
        world: &NetworkWorld<'_>,
    ) -> Result<Vec<NetworkOutput>, Refusal> {
        if self.assigned == self.flags.len() {
            return Ok(Vec::new());
        }
        self.phase = Phase::Flagged;
        let mut outputs = Vec::new();
        let mut sums = match &self.sums {
            None => Ciphers::empty(self.job.coordinates()),
            Some(kept) => Ciphers::decode_sums(&world.world.blob(kept)?)
                .map_err(|error| bad_ciphertext(&error, self.job.network_culprit()))?,
        };
        let next = self.flags.iter().skip(self.assigned).take(STEP_PARTS);
        let next: Vec<_> = next.map(|(place, hash)| (place.clone(), *hash)).collect();
        self.assigned = self.assigned.saturating_add(next.len());
        for ((side, bank, number), hash) in next {
            let rows = world.layout.part_rows(&bank, side, number);
            let part = self.kept_part(world, &hash)?;
            let evidence = match side {
                Side::Ordering => Evidence::Ordering { rows, part },
                // A bank that was lost when it had answered for some of its parts: none of them
                // counts.
                Side::Beneficiary if !self.is_complete(world, side, &bank) => continue,
                Side::Beneficiary => {
                    let inputs = self.kept_inputs(world, &bank, number)?;
                    let cells = self.cells(world, &bank, number);
                    self.add(&mut sums, &part.peek()?, &cells)?;
                    Evidence::Beneficiary { rows, inputs, part, cells }
                }
            };
            let keep = Keep::of(encode(&evidence));
            self.evidence.push(keep.hash);
            outputs.push(Output::Work(keep));
        }
        let keep = Keep::of(sums.to_bytes());
        self.sums = Some(keep.hash);
        outputs.push(Output::Work(keep));
        if self.assigned == self.flags.len() {
            let salt = self.salt(cx);
            let hash = assignment_hash(&self.job.id(), self.version, &salt, &self.evidence);
            let assigned = Assigned { job: self.job.id(), version: self.version, hash };
            let assigned = Signed::sign(assigned, cx.identity).signed().clone();
            let message = Message::Assigned(assigned);
            outputs.push(Output::Send { to: Peer::Aggregator, message });
        }
        Ok(outputs)
    }

    fn salt(&self, cx: &Context<'_>) -> [u8; 32] {
        let label = self.job.label("assignment", self.version);
        *seed(cx.identity, "quorate/pv-salt/1", &[&label.0]).expose()
    }

    /// Random cells of a beneficiary's part, tree by tree; none for rows that do not count.
    fn cells(&self, world: &NetworkWorld<'_>, bank: &Name, part: u16) -> Vec<u16> {
        let slots = world.layout.part(bank, Side::Beneficiary, part);
        let mut cells = Vec::with_capacity(slots.len().saturating_mul(usize::from(self.job.trees)));
        let counted: Vec<Option<usize>> = slots
            .iter()
            .map(|(row, payment)| {
                payment.filter(|payment| self.ordering_place(world, *payment, row).is_some())
            })
            .collect();
        for tree in &world.layout.trees {
            let random = world.layout.cells.get(usize::from(*tree)).map_or(&[][..], Vec::as_slice);
            cells.extend(counted.iter().map(|payment| {
                let cell = payment.map(|payment| usize::from(world.cells.cell(*tree, payment)));
                cell.and_then(|cell| random.get(cell)).copied().unwrap_or(NO_CELL)
            }));
        }
        cells
    }

    fn add(&self, sums: &mut Ciphers, part: &FlagPart, cells: &[u16]) -> Result<(), Refusal> {
        let bad = |error| bad_ciphertext(&error, Culprit::Party(part.bank.clone()));
        let ciphers = Ciphers::decode(&part.ciphers).map_err(bad)?;
        for (tree, cells) in cells.chunks(self.job.part_len()).enumerate() {
            let cells: Vec<Option<u16>> =
                cells.iter().map(|cell| Some(*cell).filter(|cell| *cell != NO_CELL)).collect();
            let base = tree.saturating_mul(self.job.tree_width());
            sums.add_rows(base, &cells, &ciphers, usize::from(self.job.class_bits)).map_err(bad)?;
        }
        Ok(())
    }

    /// The assignment is logged.
    fn log(
        &mut self,
        cx: &Context<'_>,
        signed: &Signed<Logged>,
    ) -> Result<Vec<NetworkOutput>, Refusal> {
        let logged = self.job.by_aggregator(signed)?;
        self.is_of_version(logged.version)?;
        let salt = self.salt(cx);
        let own = assignment_hash(&self.job.id(), self.version, &salt, &self.evidence);
        if self.phase != Phase::Flagged || logged.hash != own {
            return Err(Refusal::new(Code::WrongState, "not the assignment that was to be logged"));
        }
        self.logged = Some(logged);
        Ok(Vec::new())
    }

    /// Once the assignment is logged the authority gets the evidence, in steps, then the request.
    fn send_evidence(
        &mut self,
        cx: &Context<'_>,
        world: &NetworkWorld<'_>,
    ) -> Result<Vec<NetworkOutput>, Refusal> {
        let Some(logged) = self.logged.as_ref().filter(|_| !self.asked_sums) else {
            return Ok(Vec::new());
        };
        let to = Peer::Authority(self.job.authority.name.clone());
        let mut outputs = Vec::new();
        for hash in self.evidence.iter().skip(self.sent).take(STEP_PARTS) {
            let evidence = Box::new(decode::<Evidence>(&world.world.blob(hash)?)?);
            outputs.push(Output::Send { to: to.clone(), message: Message::Evidence(evidence) });
        }
        self.sent = self.sent.saturating_add(outputs.len());
        if self.sent == self.evidence.len() {
            self.asked_sums = true;
            let ask = SumAsk {
                job: self.job.id(),
                version: self.version,
                logged: logged.signed().clone(),
                salt: self.salt(cx),
                evidence: self.evidence.clone(),
            };
            let ask = Signed::sign(ask, cx.identity).signed().clone();
            outputs.push(Output::Send { to, message: Message::SumAsk(ask) });
        }
        Ok(outputs)
    }

    /// The authority signed the sums: banks are asked for noise.
    fn summed(
        &mut self,
        world: &NetworkWorld<'_>,
        signed: &Signed<Summed>,
    ) -> Result<Vec<NetworkOutput>, Refusal> {
        let summed = self.job.by_authority(signed)?;
        self.is_of_version(summed.version)?;
        let logged = self
            .logged
            .as_ref()
            .filter(|logged| self.phase == Phase::Flagged && logged.hash == summed.assigned)
            .ok_or_else(|| Refusal::new(Code::WrongState, "no sums are waited for"))?;
        let own = self.sums.map(|sums| world.world.blob(&sums)).transpose()?.unwrap_or_default();
        if ciphers_hash(&own) != summed.sums {
            return Err(Refusal::new(Code::WrongLabel, "the authority signed other sums")
                .blaming(Culprit::Authority(self.job.authority.name.clone())));
        }
        let ask = NoiseAsk { summed: signed.clone(), logged: logged.signed().clone() };
        let ask = |bank: &Name| to_bank(bank, Message::NoiseAsk(ask.clone()));
        let outputs = self.present().iter().map(ask).collect();
        self.phase = Phase::Summed;
        self.summed = Some(summed);
        Ok(outputs)
    }

    /// W9 at the network.
    fn noise(
        &mut self,
        world: &NetworkWorld<'_>,
        signed: &Signed<NoiseShare>,
    ) -> Result<Vec<NetworkOutput>, Refusal> {
        let share = self.job.by_bank(signed)?;
        self.is_of_version(share.version)?;
        let summed = self.summed.as_ref().filter(|_| self.phase == Phase::Summed && !self.frozen);
        let summed =
            summed.ok_or_else(|| Refusal::new(Code::Late, "noise is not collected now"))?;
        let bank = || Culprit::Party(share.bank.clone());
        if share.summed != summed.hash() {
            return Err(Refusal::new(Code::WrongLabel, "noise for other sums").blaming(bank()));
        }
        let bytes = encode(signed);
        let hash = blob_hash(&bytes);
        match self.shares.get(&share.bank) {
            Some(known) if *known == hash => return Ok(Vec::new()),
            Some(_) => {
                let why = "a second noise share for one version";
                return Err(Refusal::new(Code::Duplicate, why).blaming(bank()));
            }
            None => {}
        }
        let binding = self.job.noise_binding(self.version, &share.summed, &share.bank);
        world
            .world
            .values
            .verify_reply(&self.job.noise_shape(), &binding, &share.reply)
            .map_err(|e| Refusal::new(Code::BadCiphertext, e.to_string()).blaming(bank()))?;
        self.shares.insert(share.bank.clone(), hash);
        let to = Peer::Authority(self.job.authority.name.clone());
        Ok(vec![
            Output::Work(Keep { hash, bytes }),
            Output::Send { to, message: Message::NoiseShare(signed.clone()) },
        ])
    }

    fn freeze(&mut self, cx: &Context<'_>) -> Result<Vec<NetworkOutput>, Refusal> {
        let summed = self.summed.as_ref().map(Verified::hash);
        let ask = FreezeAsk {
            job: self.job.id(),
            version: self.version,
            summed: summed.ok_or_else(|| Refusal::new(Code::WrongState, "no sums"))?,
            shares: self.shares.values().copied().collect(),
        };
        self.frozen = true;
        let to = Peer::Authority(self.job.authority.name.clone());
        let ask = Signed::sign(ask, cx.identity).signed().clone();
        Ok(vec![Output::Send { to, message: Message::FreezeAsk(ask) }])
    }

    /// W16: the authority released: its share is checked, T banks are asked for theirs.
    fn released(
        &mut self,
        world: &NetworkWorld<'_>,
        signed: &Signed<Release>,
        partial: &Signed<Partial>,
    ) -> Result<Vec<NetworkOutput>, Refusal> {
        let release = self.job.by_authority(signed)?;
        self.is_of_version(release.version)?;
        let hash = release.hash();
        if self.openings.contains_key(&hash) {
            return Ok(Vec::new());
        }
        let authority = Culprit::Authority(self.job.authority.name.clone());
        if !self.job.opens(&release.opens) {
            let why = "a release of what this job never opens";
            return Err(Refusal::new(Code::WrongState, why).blaming(authority));
        }
        let (bytes, known) = match &release.opens {
            Opens::Model { summed, .. } => {
                let own = self.summed.as_ref().map(Verified::hash);
                if !self.frozen || own != Some(*summed) {
                    return Err(Refusal::new(Code::WrongState, "no release is waited for"));
                }
                (self.total(world)?, None)
            }
            Opens::Query { query, table } | Opens::Pooled { query, table, .. } => {
                self.is_of_frozen(&release.opens)?;
                let last = self.queries.get(query).filter(|known| known.table.hash() == *table);
                let last = last.and_then(|known| known.last);
                let last = last.ok_or_else(|| {
                    Refusal::new(Code::WrongState, "no release of this query is waited for")
                })?;
                (world.world.blob(&last)?, Some(last))
            }
        };
        if ciphers_hash(&bytes) != release.ciphers {
            return Err(Refusal::new(Code::WrongLabel, "the authority released other ciphertexts")
                .blaming(authority));
        }
        let partial = self.job.by_authority(partial)?;
        let ciphers = Ciphers::decode_sums(&bytes)
            .map_err(|error| bad_ciphertext(&error, authority.clone()))?;
        let right = partial.release == hash
            && world.world.key.check_partial(&hash.0, &ciphers, &partial.bytes) == Ok(AUTHORITY);
        if !right {
            return Err(Refusal::new(Code::BadShare, "the authority's share does not verify")
                .blaming(authority));
        }
        let keep = Keep::of(bytes);
        let opening = Opening {
            release,
            ciphers: known.unwrap_or(keep.hash),
            authority: partial.bytes.clone(),
            partials: BTreeMap::new(),
            asked: BTreeSet::new(),
            failed: BTreeSet::new(),
        };
        if matches!(opening.release.opens, Opens::Model { .. }) {
            self.phase = Phase::Frozen;
        }
        self.openings.insert(hash, opening);
        Ok(vec![Output::Work(keep)])
    }

    /// The sums with all frozen noise.
    fn total(&self, world: &NetworkWorld<'_>) -> Result<Vec<u8>, Refusal> {
        let missing = || Refusal::new(Code::Unavailable, "no sums are kept");
        let sums = world.world.blob(&self.sums.ok_or_else(missing)?)?;
        let mut total = Ciphers::decode_sums(&sums)
            .map_err(|error| bad_ciphertext(&error, self.job.network_culprit()))?;
        for hash in self.shares.values() {
            let share = decode::<Signed<NoiseShare>>(&world.world.blob(hash)?)?.peek()?;
            let bad = |error| bad_ciphertext(&error, Culprit::Party(share.bank.clone()));
            let noise = reply_ciphers(&share.reply, self.job.coordinates());
            total.add(&Ciphers::decode(noise).map_err(bad)?).map_err(bad)?;
        }
        Ok(total.to_bytes())
    }

    /// Asks as many banks as are still needed for every opening; without enough of them it is over.
    fn ask_openers(&mut self, world: &NetworkWorld<'_>) -> Result<Vec<NetworkOutput>, Refusal> {
        let needed = self.job.threshold as usize;
        let present = self.present();
        let mut outputs = Vec::new();
        let mut lost = false;
        for opening in self.openings.values_mut() {
            let done = opening.partials.len();
            let waited = opening
                .asked
                .iter()
                .filter(|bank| {
                    present.contains(bank)
                        && !opening.failed.contains(*bank)
                        && !opening.partials.contains_key(*bank)
                })
                .count();
            let mut missing = needed.saturating_sub(done.saturating_add(waited));
            for bank in &present {
                if missing == 0 {
                    break;
                }
                if opening.asked.contains(bank) {
                    continue;
                }
                let ciphers = world.world.blob(&opening.ciphers)?;
                let ask = OpenAsk { release: opening.release.signed().clone(), ciphers };
                outputs.push(to_bank(bank, Message::OpenAsk(ask)));
                opening.asked.insert(bank.clone());
                missing = missing.saturating_sub(1);
            }
            lost |= missing > 0;
        }
        if lost && self.phase == Phase::Frozen {
            let mut refusal =
                Refusal::new(Code::QuorumLost, "too few key holders are left to open");
            refusal.concerns = self.lost.iter().cloned().collect();
            outputs.extend(self.fail(refusal));
        }
        Ok(outputs)
    }

    /// W16: a bank's share: a wrong one names it, and another steps in.
    fn partial(
        &mut self,
        world: &NetworkWorld<'_>,
        signed: &Signed<Partial>,
    ) -> Result<Vec<NetworkOutput>, Refusal> {
        let partial = self.job.by_bank(signed)?;
        let number = self.job.holder(&partial.bank);
        let needed = self.job.threshold as usize;
        let opening = self
            .openings
            .get_mut(&partial.release)
            .filter(|opening| opening.asked.contains(&partial.bank))
            .ok_or_else(|| Refusal::new(Code::WrongState, "no share of this bank is waited for"))?;
        if opening.partials.len() == needed || opening.failed.contains(&partial.bank) {
            return Ok(Vec::new());
        }
        let bytes = world.world.blob(&opening.ciphers)?;
        let ciphers = Ciphers::decode_sums(&bytes)
            .map_err(|error| bad_ciphertext(&error, Culprit::Aggregator))?;
        let checked = world.world.key.check_partial(&partial.release.0, &ciphers, &partial.bytes);
        if checked.ok() != number {
            // Remembered, so that another holder is asked in its place: the refusal is an output.
            opening.failed.insert(partial.bank.clone());
            let refusal = Refusal::new(Code::BadShare, "a share does not verify")
                .blaming(Culprit::Party(partial.bank.clone()));
            let fact = Fact::of("refused", self.version, 0, refusal.to_string());
            let mut outputs = vec![Output::Log(fact), Output::Reject(refusal)];
            outputs.extend(self.ask_openers(world)?);
            return Ok(outputs);
        }
        opening.partials.insert(partial.bank.clone(), partial.bytes.clone());
        if opening.partials.len() < needed {
            return Ok(Vec::new());
        }
        let whole = opening.clone();
        // Who answered stays known; the answers are used up.
        opening.authority = Vec::new();
        opening.partials.values_mut().for_each(|partial| *partial = Vec::new());
        let opening = whole;
        self.open(world, &opening, &ciphers)
    }

    fn open(
        &mut self,
        world: &NetworkWorld<'_>,
        opening: &Opening,
        ciphers: &Ciphers,
    ) -> Result<Vec<NetworkOutput>, Refusal> {
        let partials: Vec<&[u8]> = [opening.authority.as_slice()]
            .into_iter()
            .chain(opening.partials.values().map(Vec::as_slice))
            .collect();
        let range = match &opening.release.opens {
            Opens::Model { .. } => self.job.range(),
            Opens::Query { .. } => 0..=i64::from(u8::MAX >> 1),
            Opens::Pooled { query, .. } => self.pooled_range(*query),
        };
        let opened = match world.world.key.open(ciphers, &partials, range) {
            Ok(opened) => opened,
            Err(error) => {
                let refusal = Refusal::new(Code::Overflow, error.to_string());
                return Ok(match &opening.release.opens {
                    Opens::Pooled { query, .. } => self.unreadable(*query, refusal),
                    Opens::Model { .. } | Opens::Query { .. } => self.fail(refusal),
                });
            }
        };
        match &opening.release.opens {
            Opens::Model { .. } => {
                self.counts = Some(self.unshuffled(world, &opened));
                self.phase = Phase::Trained;
                Ok(vec![Output::Log(Fact::of("version.trained", self.version, 0, ""))])
            }
            Opens::Query { query, .. } | Opens::Pooled { query, .. } => {
                let pooled = self.score_pooled(*query, &opened);
                let known = self
                    .queries
                    .get_mut(query)
                    .ok_or_else(|| Refusal::new(Code::WrongState, "no such query"))?;
                let indices = known.asked.iter().zip(opened.iter()).map(|(asked, index)| {
                    distinct(&asked.scores).get(usize::try_from(*index).ok()?).copied()
                });
                let Some(scores) = pooled.or_else(|| indices.collect()) else {
                    return Err(Refusal::new(Code::Overflow, "an entry that no table holds"));
                };
                known.scores = Some(scores);
                known.refused = None;
                self.phase = Phase::Serving;
                let note = format!("query {query}");
                Ok(vec![Output::Log(Fact::of("query.scored", self.version, 0, note))])
            }
        }
    }

    /// Opened coordinates in the order of the real trees and cells.
    fn unshuffled(&self, world: &NetworkWorld<'_>, opened: &[i64]) -> Vec<i64> {
        let bits = usize::from(self.job.class_bits);
        let cells = usize::from(self.job.cells);
        let mut counts = vec![0; opened.len()];
        for (place, tree) in world.layout.trees.iter().enumerate() {
            let random = world.layout.cells.get(usize::from(*tree)).map_or(&[][..], Vec::as_slice);
            for (cell, random) in random.iter().enumerate() {
                let from = (place * cells + usize::from(*random)) * bits;
                let to = (usize::from(*tree) * cells + cell) * bits;
                let pair = counts.get_mut(to..to + bits).zip(opened.get(from..from + bits));
                if let Some((to, from)) = pair {
                    to.copy_from_slice(from);
                }
            }
        }
        counts
    }

    /// Asks for the scores of payments of one pair of banks.
    ///
    /// # Errors
    /// [`Code::WrongState`] before the version is trained, or in a strict job; [`Code::WrongLength`]
    /// for tables of another size or more than 256 payments; [`Code::UnknownParty`];
    /// [`Code::TooLarge`] for an account whose number or name is too long.
    pub fn query(
        self,
        cx: &mut Context<'_>,
        world: &NetworkWorld<'_>,
        query: u64,
        banks: [&Name; 2],
        asked: Vec<Asked>,
    ) -> Result<(Self, Vec<NetworkOutput>), Refusal> {
        let mut next = self;
        let entries = next.job.classes().saturating_mul(next.job.classes());
        let sized = asked.iter().all(|row| row.scores.len() == entries);
        asked.iter().flat_map(|row| &row.accounts).try_for_each(Account::check)?;
        next.may_ask(query, banks, asked.len(), sized)?;
        if next.job.strict {
            let why = "a strict job's tables are made of cells";
            return Err(Refusal::new(Code::WrongState, why));
        }
        let label = next.job.label("query", next.version);
        let fields = next.query_fields(cx, query, banks, asked.len());
        let values: Zeroizing<Vec<i64>> = Zeroizing::new(
            asked
                .iter()
                .flat_map(|row| {
                    let known = distinct(&row.scores);
                    let index = move |score: &f64| {
                        let same = |value: &f64| value.to_bits() == score.to_bits();
                        i64::try_from(known.iter().position(same).unwrap_or(0)).unwrap_or(0)
                    };
                    row.scores.iter().map(index).collect::<Vec<_>>()
                })
                .collect(),
        );
        let shape = next.job.table_shape(fields.rows.len());
        let mut reply = vec![0; ElGamal.reply_bytes(&shape).unwrap_or(0)];
        // The values are part of what randomness is for: of two tables under one number, neither
        // tells of the other.
        let plain = Zeroizing::new(encode(&*values));
        let parts: [&[u8]; 3] = [&label.0, &encode(&fields), &plain];
        let seed = seed(cx.identity, "quorate/pv-table-seed/2", &parts);
        let binding = next.job.table_binding(&fields);
        world
            .world
            .values
            .encrypt(&shape, &binding, &values, &seed, &mut reply)
            .map_err(|e| Refusal::new(Code::BadManifest, e.to_string()))?;
        let table = QueryTable { job: next.job.id(), version: next.version, fields, reply };
        let table = Signed::sign(table, cx.identity);
        let state = Query::new(table, asked);
        let output = next.ask_pick(cx, &state, Side::Ordering, Vec::new());
        next.queries.insert(query, state);
        Ok((next, vec![output]))
    }

    /// Whether a query of this number may be asked now.
    fn may_ask(
        &self,
        query: u64,
        banks: [&Name; 2],
        rows: usize,
        sized: bool,
    ) -> Result<(), Refusal> {
        banks.iter().try_for_each(|bank| self.job.bank(bank).map(|_| ()))?;
        if !(1..=MAX_QUERY_ROWS).contains(&rows) || !sized {
            return Err(Refusal::new(Code::WrongLength, "1 to 256 payments with whole tables"));
        }
        if self.phase < Phase::Trained || self.phase == Phase::Failed {
            return Err(Refusal::new(Code::WrongState, "the model version is not trained"));
        }
        if self.queries.contains_key(&query) {
            return Err(Refusal::new(Code::LabelReuse, "a query of this number was asked"));
        }
        Ok(())
    }

    /// What identifies a query, with fresh row ids.
    fn query_fields(
        &self,
        cx: &Context<'_>,
        query: u64,
        [ordering, beneficiary]: [&Name; 2],
        count: usize,
    ) -> QueryFields {
        let label = self.job.label("query", self.version);
        let drawn = seed(cx.identity, "quorate/pv-query/1", &[&label.0, &query.to_le_bytes()]);
        let mut rng = ChaCha20Rng::from_seed(*drawn.expose());
        let mut rows = vec![RowId([0; 16]); count];
        rows.iter_mut().for_each(|row| rng.fill_bytes(&mut row.0));
        QueryFields {
            version: self.version,
            query,
            ordering: ordering.clone(),
            beneficiary: beneficiary.clone(),
            rows,
        }
    }

    fn ask_pick(
        &self,
        cx: &Context<'_>,
        query: &Query,
        side: Side,
        candidates: Vec<u8>,
    ) -> NetworkOutput {
        let fields = &query.table.fields;
        let of = |asked: &Asked| {
            let [ordering, beneficiary] = &asked.accounts;
            if side == Side::Ordering { ordering.clone() } else { beneficiary.clone() }
        };
        let accounts = QueryAccounts {
            job: self.job.id(),
            version: self.version,
            table: query.table.hash(),
            side,
            accounts: query.asked.iter().map(of).collect(),
            candidates,
        };
        let accounts = Signed::sign(accounts, cx.identity).signed().clone();
        let bank = if side == Side::Ordering { &fields.ordering } else { &fields.beneficiary };
        to_bank(bank, Message::QueryAsk(query.table.signed().clone(), accounts))
    }

    /// A bank picked: the other one is next, then the authority checks all of it and releases.
    fn picked(
        &mut self,
        cx: &Context<'_>,
        signed: &Signed<Picked>,
    ) -> Result<Vec<NetworkOutput>, Refusal> {
        let picked = self.job.by_bank(signed)?;
        let found = self.queries.iter_mut().find(|(_, known)| known.table.hash() == picked.table);
        let (_, known) =
            found.ok_or_else(|| Refusal::new(Code::WrongState, "no such query is open"))?;
        let fields = &known.table.fields;
        let (named, done) = match picked.side {
            Side::Ordering => (&fields.ordering, 0),
            Side::Beneficiary => (&fields.beneficiary, 1),
        };
        if *named != picked.bank {
            return Err(Refusal::new(Code::UnknownParty, "a pick of another bank"));
        }
        if known.picked.len() != done {
            return Ok(Vec::new());
        }
        known.picked.push(signed.clone());
        if picked.side == Side::Ordering {
            known.first.clone_from(&picked.ciphers);
            let known = known.clone();
            return Ok(vec![self.ask_pick(cx, &known, Side::Beneficiary, picked.ciphers.clone())]);
        }
        let keep = Keep::of(picked.ciphers.clone());
        known.last = Some(keep.hash);
        let [ordering, beneficiary] = known.picked.as_slice() else {
            return Err(Refusal::new(Code::WrongState, "picks out of order"));
        };
        let message = known.release_ask(ordering, beneficiary);
        let to = Peer::Authority(self.job.authority.name.clone());
        Ok(vec![Output::Work(keep), Output::Send { to, message }])
    }

    /// The bank that a query waits for, while one is to pick.
    #[must_use]
    pub fn query_waits_for(&self, query: u64) -> Option<Name> {
        let known = self.queries.get(&query).filter(|known| known.scores.is_none())?;
        match known.picked.len() {
            0 => Some(known.table.fields.ordering.clone()),
            1 => Some(known.table.fields.beneficiary.clone()),
            _ => None,
        }
    }

    /// Asks again what a query waits for, after a refusal that may pass.
    #[must_use]
    pub fn query_again(mut self, cx: &Context<'_>, query: u64) -> (Self, Vec<NetworkOutput>) {
        let Some(known) = self.queries.get_mut(&query).filter(|known| known.scores.is_none())
        else {
            return (self, Vec::new());
        };
        known.refused = None;
        let known = known.clone();
        let output = match known.picked.as_slice() {
            [] => self.ask_pick(cx, &known, Side::Ordering, Vec::new()),
            [ordering, beneficiary] => Output::Send {
                to: Peer::Authority(self.job.authority.name.clone()),
                message: known.release_ask(ordering, beneficiary),
            },
            _ => self.ask_pick(cx, &known, Side::Beneficiary, known.first.clone()),
        };
        (self, vec![output])
    }
}

fn join_end(
    cx: &Context<'_>,
    job: &Job,
    version: u32,
    bank: &Name,
    parts: [Vec<Hash>; 2],
) -> Signed<JoinEnd> {
    let end = JoinEnd { job: job.id(), version, bank: bank.clone(), parts };
    Signed::sign(end, cx.identity).signed().clone()
}

fn to_bank(bank: &Name, message: Message) -> NetworkOutput {
    Output::Send { to: Peer::Party(bank.clone()), message }
}

/// The account of a slot; padding names one that nobody has.
fn account_of(payments: &[Payment], side: Side, payment: Option<usize>, row: &RowId) -> Account {
    let real = payment.and_then(|payment| payments.get(payment)).map(|payment| {
        let [ordering, beneficiary] = &payment.accounts;
        if side == Side::Ordering { ordering.clone() } else { beneficiary.clone() }
    });
    real.unwrap_or_else(|| Account { account: format!("{row:?}"), name: String::new() })
}
