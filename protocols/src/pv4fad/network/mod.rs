//! The network's side: it draws row ids, carries ciphertexts from bank to bank, assigns cells, adds
//! up, and reads what is opened to it alone.

mod layout;
mod opening;
mod queries;
mod strict;
mod training;

use std::collections::{BTreeMap, BTreeSet};

use quorate_crypto::merkle::Hash;
use serde::{Deserialize, Serialize};

use super::messages::{Account, Logged, Message, Refused, Summed};
use super::strict::Closed;
use super::{Job, Keep, Side, World};
use crate::checks::{Check, holds};
use crate::machine::{Bug, Context, Fact, Output, Peer};
use crate::refusal::{Code, Refusal};
use crate::wire::{Name, Signed, Verified, decode_own, encode};

pub use layout::Layout;
use opening::Opening;
pub use queries::Asked;
use queries::Query;
pub use strict::Reaching;

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
    /// The opening of the sums, while it is under way.
    opening: Option<Opening>,
    /// Hash of the release whose counts are open.
    opened: Option<Hash>,
    counts: Option<Vec<i64>>,
    /// In a strict job, instead of counts.
    closed: Option<Closed>,
    queries: BTreeMap<u64, Query>,
    failure: Option<Refusal>,
    /// Times that the authority asked to be asked again.
    retries: u32,
}

impl NetworkJob {
    /// The state in pieces, encoded: training with all that is fixed, and each query under its number. A
    /// store that writes only pieces that changed writes little with a letter of a query.
    #[must_use]
    pub fn to_pieces(&mut self) -> (Vec<u8>, BTreeMap<u64, Vec<u8>>) {
        let queries = core::mem::take(&mut self.queries);
        let training = encode(self);
        self.queries = queries;
        let queries = self.queries.iter().map(|(number, query)| (*number, encode(query)));
        (training, queries.collect())
    }

    /// The state of these pieces.
    ///
    /// # Errors
    /// [`Code::Malformed`] for bytes that are none.
    pub fn from_pieces(
        training: &[u8],
        queries: impl IntoIterator<Item = (u64, Vec<u8>)>,
    ) -> Result<Self, Refusal> {
        let mut whole: Self = decode_own(training)?;
        for (number, query) in queries {
            whole.queries.insert(number, decode_own(&query)?);
        }
        Ok(whole)
    }

    /// Openings under way.
    fn openings(&self) -> impl Iterator<Item = &Opening> {
        let queries = self.queries.keys().filter_map(|query| self.open_query(*query));
        self.opening.iter().chain(queries.filter_map(|query| query.opening.as_ref()))
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
                self.openings().any(|opening| opening.waits_for(bank))
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
        (self.phase, self.opening) = (Phase::Failed, None);
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
                self.query_refused(query, &refused.refusal);
            } else if refused.refusal.code != Code::Unavailable {
                let opening = self.open_query_mut(query).and_then(|q| q.opening.as_mut());
                if opening.is_some_and(|opening| opening.refused_by(&refused.bank)) {
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

    fn progress(
        &mut self,
        cx: &Context<'_>,
        world: &NetworkWorld<'_>,
    ) -> Result<Vec<NetworkOutput>, Refusal> {
        let present = self.present();
        let few = u32::try_from(present.len()).unwrap_or(u32::MAX) < self.job.floor();
        // What was frozen stands: whether it opens is a question of the holders that are left.
        if few && self.phase < Phase::Frozen && !self.frozen && !holds(Check::Floor, false) {
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
}

fn to_bank(bank: &Name, message: Message) -> NetworkOutput {
    Output::Send { to: Peer::Party(bank.clone()), message }
}
