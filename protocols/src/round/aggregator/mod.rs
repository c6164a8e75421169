//! The aggregator's side: one attempt after another until each round is opened once.
//!
//! ```text
//! Registering -> Gathering -> Collecting -> Promising -> Releasing -> Opening -> Gathering ... Finished
//!                 |  ^   ^         |            |             ^         |
//!                 v  |   `--- Tombstoning <-----'             `---------' a bad share
//!               Keying                          (no way back from Releasing)
//! ```
//!
//! A threshold job makes its key once, before round 0. In the words of the paper's job, Registering
//! is CREATED, Keying leads to KEYED, Collecting is OPEN, Promising is FROZEN, Releasing and Opening
//! are DECRYPTING; FROZEN never goes back to OPEN for one query but against the authority's tombstone.

mod collecting;
mod keying;
mod opening;
mod payments;
mod requests;
mod sharing;
mod status;

pub use status::{Holding, Status};

use std::collections::{BTreeMap, BTreeSet};

use quorate_crypto::merkle::Hash;
use quorate_crypto::sum::Label;
use serde::{Deserialize, Serialize};

use super::check_rounds;
use super::keying::{JobKey, Keying};
use super::messages::{
    BulkRef, Freeze, FuncKey, Message, Partial, Promise, ResultRecord, RoundFields, RoundOpen,
    SubmitHeader, Tombstone, TombstoneRequest,
};
use crate::checks::{Check, holds};
use crate::job::{Approval, Manifest, RosterEntry};
use crate::machine::{Bug, Context, Fact, Output, Peer};
use crate::pv4fad;
use crate::refusal::{Code, Refusal};
use crate::wire::{Name, Signed, Verified};
use crate::workload::Purpose;

/// Work outside the machine: add the ciphertexts, subtract the keys, store the sum, and compute the
/// model that follows from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSum {
    /// Round.
    pub round: u32,
    /// The label.
    pub label: Label,
    /// Ciphertexts by party, in roster order.
    pub ciphertexts: Vec<(Name, BulkRef)>,
    /// Functional keys by authority, in manifest order.
    pub keys: Vec<(Name, BulkRef)>,
    /// Partial decryptions by holder; in threshold jobs only.
    pub partials: Vec<(Name, BulkRef)>,
}

/// A sum as the driver opened it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The sum's ring words.
    pub sum: BulkRef,
    /// Hash of the model state after this round.
    pub state: Hash,
}

/// What the aggregator handles.
#[derive(Clone, Debug)]
pub enum Event {
    /// A message of a party or an authority.
    Message {
        /// Who sent it, as the transport knows.
        from: Peer,
        /// The message.
        message: Box<Message>,
    },
    /// An authority refused a request for good.
    Refused {
        /// Who.
        by: Name,
        /// What it was asked.
        request: Box<Message>,
        /// Its answer.
        refusal: Refusal,
    },
    /// Time passed.
    Wake,
    /// [`OpenSum`] is done: the sum, or why it is no legal sum.
    Opened {
        /// Its label.
        label: Label,
        /// The sum, or the refusal of its check slots or range.
        outcome: Result<Opened, Refusal>,
    },
    /// The operator ends the job.
    Cancel,
}

/// An output of this machine.
pub type AggregatorOutput = Output<Message, OpenSum>;

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Every round was opened.
    Done,
    /// The operator ended it.
    Cancelled,
    /// It cannot go on.
    Failed(Refusal),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Joined {
    entry: RosterEntry,
    /// Invited to the next attempt: a party that missed a round is not, until it joins again.
    active: bool,
    /// An authority no longer knows these keys: only others may join under this name.
    barred: bool,
    /// Calls for a threshold key that failed by this party. Kept whatever keys it joins with, so that
    /// it is called after those by whom fewer failed.
    failed_calls: u16,
    /// It signed a post that broke the threshold key: it is out of the job, whatever keys it has.
    broke_key: bool,
}

/// Waiting for enough parties to open an attempt.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Gathering {
    round: u32,
    attempt: u16,
    tombstones: Vec<Signed<Tombstone>>,
    /// When the floor was first reached.
    ready_ms: Option<u64>,
}

/// A threshold key in the making.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct KeyingPhase {
    keying: Keying,
    /// When holders that did not post are left out.
    until_ms: u64,
}

/// An attempt that takes submissions.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Attempt {
    open: Verified<RoundOpen>,
    label: Label,
    headers: BTreeMap<Name, Verified<SubmitHeader>>,
    /// When it is frozen, if not all submit before.
    freeze_ms: u64,
}

/// An attempt whose set is frozen.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Frozen {
    attempt: Attempt,
    freeze: Verified<Freeze>,
    y: Vec<u8>,
    promises: BTreeMap<Name, Verified<Promise>>,
}

/// A frozen attempt that every authority promised: it will be opened or nothing ever will be.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Bound {
    frozen: Frozen,
    keys: BTreeMap<Name, Verified<FuncKey>>,
    shares: Shares,
}

/// Partial decryptions of a threshold job's round.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Shares {
    /// Answers not found wrong.
    partials: BTreeMap<Name, Verified<Partial>>,
    /// Holders asked so far.
    asked: BTreeSet<Name>,
    /// Holders whose answer was wrong, or who refused.
    bad: BTreeSet<Name>,
    /// When further holders are asked.
    more_ms: u64,
    /// When the round is lost.
    end_ms: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct GivingUp {
    round: u32,
    attempt: u16,
    request: Verified<TombstoneRequest>,
    tombstones: BTreeMap<Name, Verified<Tombstone>>,
    /// Why no further attempt can do better, if none can: the job then ends.
    hopeless: Option<Refusal>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Phase {
    Registering,
    Gathering(Gathering),
    Keying(KeyingPhase),
    Collecting(Attempt),
    Promising(Frozen),
    Releasing(Bound),
    Opening(Bound),
    Tombstoning(GivingUp),
    Finished(Outcome),
    /// A payments job whose key is made: letters are carried.
    Carrying(pv4fad::aggregator::AggregatorJob),
}

/// One job at the aggregator.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AggregatorJob {
    manifest: Manifest,
    hash: Hash,
    approvals: BTreeMap<Name, Verified<Approval>>,
    parties: BTreeMap<Name, Joined>,
    results: Vec<Verified<ResultRecord>>,
    opened_models: BTreeSet<(Purpose, Hash)>,
    state: Hash,
    key: Option<JobKey>,
    /// Calls for a threshold key so far.
    key_calls: u16,
    phase: Phase,
}

impl AggregatorJob {
    /// A new job; asks every authority to approve it. `state` is the hash of the initial model.
    ///
    /// # Errors
    /// [`Code::BadManifest`].
    pub fn create(
        cx: &Context<'_>,
        manifest: Manifest,
        state: Hash,
    ) -> Result<(Self, Vec<AggregatorOutput>), Refusal> {
        manifest.check()?;
        check_rounds(&manifest)?;
        if manifest.aggregator != cx.identity.verify_key() {
            return Err(Refusal::new(Code::BadManifest, "the manifest names another aggregator"));
        }
        let mut outputs = vec![Output::Log(Fact::job("job.created", manifest.title.clone()))];
        let job = Self {
            hash: manifest.hash(),
            manifest,
            approvals: BTreeMap::new(),
            parties: BTreeMap::new(),
            results: Vec::new(),
            opened_models: BTreeSet::new(),
            state,
            key: None,
            key_calls: 0,
            phase: Phase::Registering,
        };
        outputs.extend(job.requests());
        Ok((job, outputs))
    }

    /// The manifest.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    const fn attempt(&self) -> Option<&Attempt> {
        match &self.phase {
            Phase::Collecting(attempt) => Some(attempt),
            Phase::Promising(frozen) => Some(&frozen.attempt),
            Phase::Releasing(bound) | Phase::Opening(bound) => Some(&bound.frozen.attempt),
            _ => None,
        }
    }

    /// Handles one event.
    ///
    /// # Errors
    /// [`Bug`] for an event no correct driver sends.
    pub fn handle(
        self,
        cx: &mut Context<'_>,
        event: Event,
    ) -> Result<(Self, Vec<AggregatorOutput>), Bug> {
        let mut next = self.clone();
        let outcome = match event {
            Event::Message { message, .. } => next.message(cx, *message),
            Event::Refused { by, request, refusal } => {
                Ok(next.refused(cx, &by, &request, &refusal))
            }
            Event::Wake => next.wake(cx),
            Event::Opened { label, outcome } => {
                return next.opened(cx, label, outcome).map(|o| (next, o));
            }
            Event::Cancel => Ok(next.finish(Outcome::Cancelled)),
        };
        Ok(match outcome {
            Ok(outputs) => (next, outputs),
            Err(refusal) => {
                let fact = Fact::job("refused", refusal.to_string());
                (self, vec![Output::Log(fact), Output::Reject(refusal)])
            }
        })
    }

    fn message(
        &mut self,
        cx: &Context<'_>,
        message: Message,
    ) -> Result<Vec<AggregatorOutput>, Refusal> {
        match message {
            Message::Join(join) => self.join(cx, &join),
            Message::Submit(header) => self.submit(cx, &header),
            Message::Approval(approval) => self.approval(cx, &approval),
            Message::Promise(promise) => self.promise(cx, &promise),
            Message::FuncKey(key) => self.func_key(&key),
            Message::Tombstone(tombstone) => self.tombstone(cx, &tombstone),
            Message::KeyPost(post) => self.key_post(cx, &post),
            Message::Partial(partial, _) => self.partial(&partial),
            Message::ShareRefused(refused) => self.share_refused(cx, &refused),
            Message::Payments(message) => self.payments(cx, &message),
            _ => Err(Refusal::new(Code::WrongState, "no message for an aggregator")),
        }
    }

    fn approval(
        &mut self,
        cx: &Context<'_>,
        approval: &Signed<Approval>,
    ) -> Result<Vec<AggregatorOutput>, Refusal> {
        let claimed = approval.peek()?;
        let key = self.authority_key(&claimed.authority)?;
        let approval = approval.verify(&key)?;
        if approval.manifest != self.hash {
            return Err(Refusal::new(Code::UnknownJob, "an approval of another job"));
        }
        self.approvals.insert(approval.authority.clone(), approval);
        if !matches!(self.phase, Phase::Registering)
            || self.approvals.len() < self.manifest.authorities.len()
        {
            return Ok(Vec::new());
        }
        let mut outputs = vec![Output::Log(Fact::job("job.approved", "by every authority"))];
        outputs.extend(self.gather(cx, 0, 0, Vec::new()));
        Ok(outputs)
    }

    fn authority_key(&self, name: &Name) -> Result<quorate_crypto::keys::VerifyKey, Refusal> {
        self.manifest
            .authority(name)
            .map(|authority| authority.verify)
            .ok_or_else(|| Refusal::new(Code::UnknownParty, "not an authority of this job"))
    }

    fn wake(&mut self, cx: &Context<'_>) -> Result<Vec<AggregatorOutput>, Refusal> {
        match &self.phase {
            Phase::Gathering(_) => Ok(self.try_open(cx)),
            Phase::Collecting(attempt) if cx.now_ms >= attempt.freeze_ms => {
                let count = u32::try_from(attempt.headers.len()).unwrap_or(u32::MAX);
                if holds(Check::Floor, count >= self.manifest.floor()) {
                    Ok(self.freeze(cx))
                } else {
                    let why = format!("{count} replies, the floor is {}", self.manifest.floor());
                    Ok(self.give_up(cx, &why, None))
                }
            }
            Phase::Promising(frozen) => {
                let end = frozen.attempt.open.deadline_ms;
                if cx.now_ms >= end.saturating_add(self.manifest.deadlines.key_ms) {
                    return Ok(self.give_up(cx, "not every authority promised in time", None));
                }
                Ok(Vec::new())
            }
            Phase::Keying(_) => Ok(self.key_late(cx)),
            Phase::Releasing(_) => Ok(self.shares_late(cx)),
            _ => Ok(Vec::new()),
        }
    }

    fn give_up(
        &mut self,
        cx: &Context<'_>,
        why: &str,
        hopeless: Option<Refusal>,
    ) -> Vec<AggregatorOutput> {
        let Some(attempt) = self.attempt() else {
            return Vec::new();
        };
        let RoundFields { round, attempt: number, .. } = attempt.open.fields;
        let request = TombstoneRequest { manifest: self.hash, round, attempt: number };
        let request = Signed::sign(request, cx.identity);
        let mut outputs = vec![Output::Log(Fact::of("attempt.given-up", round, number, why))];
        self.phase = Phase::Tombstoning(GivingUp {
            round,
            attempt: number,
            request,
            tombstones: BTreeMap::new(),
            hopeless,
        });
        outputs.extend(self.requests());
        outputs
    }

    fn tombstone(
        &mut self,
        cx: &Context<'_>,
        tombstone: &Signed<Tombstone>,
    ) -> Result<Vec<AggregatorOutput>, Refusal> {
        let claimed = tombstone.peek()?;
        let key = self.authority_key(&claimed.authority)?;
        let tombstone = tombstone.verify(&key)?;
        let Phase::Tombstoning(giving_up) = &mut self.phase else {
            return Ok(Vec::new());
        };
        if tombstone.manifest != self.hash
            || tombstone.round != giving_up.round
            || tombstone.attempt != giving_up.attempt
        {
            return Ok(Vec::new());
        }
        giving_up.tombstones.insert(tombstone.authority.clone(), tombstone);
        if giving_up.tombstones.len() < self.manifest.authorities.len() {
            return Ok(Vec::new());
        }
        if let Some(refusal) = giving_up.hopeless.take() {
            return Ok(self.finish(Outcome::Failed(refusal)));
        }
        let (round, attempt) = (giving_up.round, giving_up.attempt);
        let tombstones = giving_up.tombstones.values().map(|t| t.signed().clone()).collect();
        let next = attempt.saturating_add(1);
        if next >= self.manifest.deadlines.max_attempts {
            let why = Refusal::new(
                self.manifest.floor_code(),
                format!("round {round} was given up after {next} attempts"),
            );
            return Ok(self.finish(Outcome::Failed(why)));
        }
        Ok(self.gather(cx, round, next, tombstones))
    }

    /// An authority refuses for good. A promise that is refused gives the attempt up; refusals that
    /// may pass are the driver's to repeat and never come here.
    fn refused(
        &mut self,
        cx: &Context<'_>,
        by: &Name,
        request: &Message,
        refusal: &Refusal,
    ) -> Vec<AggregatorOutput> {
        let current = self.requests().iter().any(|output| match output {
            Output::Send { to: Peer::Authority(name), message } => {
                name == by && message.to_wire() == request.to_wire()
            }
            _ => false,
        });
        if !current {
            return Vec::new();
        }
        let why = format!("{by} refuses: {refusal}");
        if let Phase::Keying(keying) = &self.phase {
            let holders = keying.keying.holders().to_vec();
            self.failed_call(&refusal.concerns);
            self.bar(&holders, &refusal.concerns);
            return self.gather(cx, 0, 0, Vec::new());
        }
        // A further attempt costs as much: a spent budget ends the job.
        if refusal.code == Code::BudgetSpent {
            return self.finish(Outcome::Failed(Refusal::new(refusal.code, why)));
        }
        if let Phase::Promising(frozen) = &self.phase {
            // Someone's keys changed at an authority: whoever it names is out until it joins with a
            // later epoch, or every further attempt would be refused as well.
            let roster = frozen.attempt.open.roster.clone();
            self.bar(&roster, &refusal.concerns);
            // A spent budget stays spent: the tombstones give the other authorities' charges back, and
            // the job ends.
            let hopeless = (refusal.code == Code::BudgetSpent).then(|| refusal.clone());
            return self.give_up(cx, &why, hopeless);
        }
        self.finish(Outcome::Failed(Refusal::new(refusal.code, why)))
    }

    /// Leaves out those of `named` that are still known by their entry in `roster`.
    fn bar(&mut self, roster: &[RosterEntry], named: &[Name]) {
        for entry in roster.iter().filter(|entry| named.contains(&entry.party)) {
            if let Some(joined) = self.parties.get_mut(&entry.party)
                && joined.entry == *entry
            {
                joined.active = false;
                joined.barred = true;
            }
        }
    }

    /// When this state wants to be woken, if time alone changes it.
    #[must_use]
    pub fn deadline_ms(&self) -> Option<u64> {
        let limits = &self.manifest.deadlines;
        match &self.phase {
            Phase::Gathering(g) => g.ready_ms.map(|ready| ready.saturating_add(limits.grace_ms)),
            Phase::Collecting(attempt) => Some(attempt.freeze_ms),
            Phase::Promising(frozen) => {
                Some(frozen.attempt.open.deadline_ms.saturating_add(limits.key_ms))
            }
            Phase::Keying(keying) => self.key_deadline(keying),
            Phase::Releasing(bound) => self.share_deadline(bound),
            _ => None,
        }
    }

    fn finish(&mut self, outcome: Outcome) -> Vec<AggregatorOutput> {
        if self.outcome().is_some() {
            return Vec::new();
        }
        let fact = match &outcome {
            Outcome::Done => Fact::job("job.done", ""),
            Outcome::Cancelled => Fact::job("job.cancelled", ""),
            Outcome::Failed(why) => Fact::job("job.failed", why.to_string()),
        };
        self.phase = Phase::Finished(outcome);
        vec![Output::Log(fact)]
    }
}
