//! The aggregator's side: one attempt after another until each round is opened once.
//!
//! ```text
//! Registering -> Gathering -> Collecting -> Promising -> Releasing -> Opening -> Gathering ... Finished
//!                    ^             |            |
//!                    `--- Tombstoning <---------'      (no way back from Releasing)
//! ```

use std::collections::{BTreeMap, BTreeSet};

use quorate_crypto::merkle::Hash;
use quorate_crypto::sum::Label;
use serde::{Deserialize, Serialize};

use super::messages::{
    BulkRef, Freeze, FuncKey, Join, KeyRequest, Message, Promise, PromiseRequest, Receipt,
    ResultRecord, RoundFields, RoundOpen, SubmitHeader, Tombstone, TombstoneRequest, request_hash,
    y_hash,
};
use super::{STEP_KEY, check_header, model_field};
use crate::checks::{Check, holds};
use crate::job::{Approval, JobPackage, Manifest, RosterEntry, roster_root};
use crate::machine::{Bug, Context, Fact, Output, Peer};
use crate::refusal::{Code, Culprit, Refusal};
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
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct GivingUp {
    round: u32,
    attempt: u16,
    request: Verified<TombstoneRequest>,
    tombstones: BTreeMap<Name, Verified<Tombstone>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Phase {
    Registering,
    Gathering(Gathering),
    Collecting(Attempt),
    Promising(Frozen),
    Releasing(Bound),
    Opening(Bound),
    Tombstoning(GivingUp),
    Finished(Outcome),
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
    phase: Phase,
}

/// What the aggregator shows about a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Name of the phase.
    pub phase: String,
    /// Round that is open or next.
    pub round: u32,
    /// Attempt of it.
    pub attempt: u16,
    /// Rounds opened so far.
    pub opened: u32,
    /// Rounds of the whole job.
    pub rounds: u32,
    /// Parties that joined; the active ones are invited next.
    pub joined: Vec<Name>,
    /// Members of the current attempt so far.
    pub submitted: Vec<Name>,
    /// Set at the end.
    pub outcome: Option<Outcome>,
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

    /// Manifest and approvals, once every authority approved.
    #[must_use]
    pub fn package(&self) -> Option<JobPackage> {
        let approvals: Option<Vec<_>> = self
            .manifest
            .authorities
            .iter()
            .map(|a| self.approvals.get(&a.name).map(|approval| approval.signed().clone()))
            .collect();
        Some(JobPackage { manifest: self.manifest.clone(), approvals: approvals? })
    }

    /// The attempt that takes submissions now.
    #[must_use]
    pub const fn open_round(&self) -> Option<&Verified<RoundOpen>> {
        match &self.phase {
            Phase::Collecting(attempt) => Some(&attempt.open),
            _ => None,
        }
    }

    /// The attempt that is open, frozen or being opened, and its label.
    #[must_use]
    pub fn live_attempt(&self) -> Option<(&Verified<RoundOpen>, Label)> {
        self.attempt().map(|attempt| (&attempt.open, attempt.label))
    }

    /// Results so far, oldest first.
    #[must_use]
    pub fn results(&self) -> &[Verified<ResultRecord>] {
        &self.results
    }

    /// How the job ended, if it did.
    #[must_use]
    pub const fn outcome(&self) -> Option<&Outcome> {
        match &self.phase {
            Phase::Finished(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// Name of the phase, for reports.
    #[must_use]
    pub const fn state_name(&self) -> &'static str {
        match &self.phase {
            Phase::Registering => "Registering",
            Phase::Gathering(_) => "Gathering",
            Phase::Collecting(_) => "Collecting",
            Phase::Promising(_) => "Promising",
            Phase::Releasing(_) => "Releasing",
            Phase::Opening(_) => "Opening",
            Phase::Tombstoning(_) => "Tombstoning",
            Phase::Finished(_) => "Finished",
        }
    }

    /// What to show about the job.
    #[must_use]
    pub fn status(&self) -> Status {
        let opened = u32::try_from(self.results.len()).unwrap_or(u32::MAX);
        let (round, attempt) = match &self.phase {
            Phase::Gathering(g) => (g.round, g.attempt),
            Phase::Tombstoning(t) => (t.round, t.attempt),
            _ => {
                self.attempt().map_or((opened, 0), |a| (a.open.fields.round, a.open.fields.attempt))
            }
        };
        Status {
            phase: self.state_name().to_owned(),
            round,
            attempt,
            opened,
            rounds: self.manifest.workload.rounds(),
            joined: self.parties.iter().filter(|(_, j)| j.active).map(|(n, _)| n.clone()).collect(),
            submitted: self
                .attempt()
                .map(|a| a.headers.keys().cloned().collect())
                .unwrap_or_default(),
            outcome: self.outcome().cloned(),
        }
    }

    const fn attempt(&self) -> Option<&Attempt> {
        match &self.phase {
            Phase::Collecting(attempt) => Some(attempt),
            Phase::Promising(frozen) => Some(&frozen.attempt),
            Phase::Releasing(bound) | Phase::Opening(bound) => Some(&bound.frozen.attempt),
            _ => None,
        }
    }

    /// Whether a submission with this header would be taken now (G1 to G3); asked before its bytes
    /// are spooled, and again when it is complete.
    ///
    /// # Errors
    /// [`Code::Late`], [`Code::UnknownParty`], [`Code::WrongLabel`], [`Code::WrongLength`],
    /// [`Code::Duplicate`], [`Code::BadSignature`].
    pub fn admit(
        &self,
        now_ms: u64,
        header: &Signed<SubmitHeader>,
    ) -> Result<Verified<SubmitHeader>, Refusal> {
        let Some(attempt) = self.attempt() else {
            return Err(Refusal::new(Code::Late, "no round is open"));
        };
        let header = check_header(&self.manifest, &attempt.open, &attempt.label, header)?;
        match attempt.headers.get(&header.party) {
            Some(stored) if stored.signed() == header.signed() => return Ok(header),
            Some(_) => {
                return Err(Refusal::new(
                    Code::Duplicate,
                    "this party submitted other bytes before",
                )
                .blaming(Culprit::Party(header.party.clone())));
            }
            None => {}
        }
        let open = matches!(self.phase, Phase::Collecting(_)) && now_ms <= attempt.freeze_ms;
        if !holds(Check::Late, open) {
            return Err(Refusal::new(Code::Late, "the set is frozen or the deadline passed"));
        }
        Ok(header)
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
            Message::Promise(promise) => self.promise(&promise),
            Message::FuncKey(key) => self.func_key(&key),
            Message::Tombstone(tombstone) => self.tombstone(cx, &tombstone),
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

    fn join(
        &mut self,
        cx: &Context<'_>,
        join: &Signed<Join>,
    ) -> Result<Vec<AggregatorOutput>, Refusal> {
        let claimed = join.peek()?;
        let join = join.verify(&claimed.entry.verify)?;
        let entry = &join.entry;
        if self.outcome().is_some() {
            return Err(Refusal::new(Code::WrongState, "the job is over"));
        }
        let certified = join.manifest == self.hash
            && join.certificates.len() == self.manifest.authorities.len()
            && self.manifest.authorities.iter().zip(&join.certificates).all(|(key, signed)| {
                signed.verify(&key.verify).is_ok_and(|certificate| {
                    certificate.authority == key.name
                        && certificate.tenant == self.manifest.tenant
                        && certificate.entry == *entry
                })
            });
        if !certified {
            return Err(Refusal::new(
                Code::UnknownParty,
                "joining needs every authority's certificate of these keys; enrol first",
            ));
        }
        match self.parties.get(&entry.party) {
            Some(known) if known.entry.epoch > entry.epoch => {
                return Err(Refusal::new(Code::LabelReuse, "these keys were rotated away"));
            }
            None if self.parties.len() >= self.manifest.max_parties as usize => {
                return Err(Refusal::new(Code::BadRoster, "the job is full"));
            }
            Some(known) if known.barred && known.entry == *entry => {
                return Err(Refusal::new(
                    Code::UnknownParty,
                    "an authority knows newer keys of this party; finish the rotation everywhere",
                ));
            }
            Some(known) if known.active && known.entry == *entry => return Ok(Vec::new()),
            _ => {}
        }
        self.parties.insert(
            entry.party.clone(),
            Joined { entry: entry.clone(), active: true, barred: false },
        );
        let mut outputs = vec![Output::Log(Fact::job(
            "party.joined",
            format!("{} epoch {}", entry.party, entry.epoch),
        ))];
        outputs.extend(self.try_open(cx));
        Ok(outputs)
    }

    fn gather(
        &mut self,
        cx: &Context<'_>,
        round: u32,
        attempt: u16,
        tombstones: Vec<Signed<Tombstone>>,
    ) -> Vec<AggregatorOutput> {
        self.phase = Phase::Gathering(Gathering { round, attempt, tombstones, ready_ms: None });
        self.try_open(cx)
    }

    /// Opens the next attempt if enough parties are there: at once if it is not the first round or
    /// all are, else when the grace after reaching the floor is over.
    fn try_open(&mut self, cx: &Context<'_>) -> Vec<AggregatorOutput> {
        let Phase::Gathering(gathering) = &mut self.phase else {
            return Vec::new();
        };
        let roster: Vec<RosterEntry> =
            self.parties.values().filter(|j| j.active).map(|j| j.entry.clone()).collect();
        let size = u32::try_from(roster.len()).unwrap_or(u32::MAX);
        if size < self.manifest.floor() {
            return Vec::new();
        }
        let ready = *gathering.ready_ms.get_or_insert(cx.now_ms);
        let wait_until = ready.saturating_add(self.manifest.deadlines.grace_ms);
        let first = gathering.round == 0 && gathering.attempt == 0;
        if first && size < self.manifest.max_parties && cx.now_ms < wait_until {
            return Vec::new();
        }
        let (round, attempt) = (gathering.round, gathering.attempt);
        let tombstones = core::mem::take(&mut gathering.tombstones);
        let Some((payload, purpose)) =
            self.manifest.workload.payload(round).zip(self.manifest.workload.purpose(round))
        else {
            return self.finish(Outcome::Done);
        };
        let previous = self.results.last().map_or(Hash([0; 32]), Verified::hash);
        let model = model_field(purpose, self.state, previous);
        if self.opened_models.contains(&(purpose, model)) {
            // The model did not change: training converged, and authorities would refuse.
            let mut outputs = vec![Output::Log(Fact::job("job.converged", format!("{model}")))];
            outputs.extend(self.finish(Outcome::Done));
            return outputs;
        }
        let fields = RoundFields {
            manifest: self.hash,
            round,
            attempt,
            purpose,
            roster_root: roster_root(&roster),
            previous_result: previous,
            model,
            dim: payload.dim(),
            payload_type: payload.type_id(),
        };
        let label = fields.label(&self.manifest);
        let deadline_ms = cx.now_ms.saturating_add(self.manifest.deadlines.collect_ms);
        let open = Signed::sign(RoundOpen { fields, roster, deadline_ms, tombstones }, cx.identity);
        self.phase = Phase::Collecting(Attempt {
            open,
            label,
            headers: BTreeMap::new(),
            freeze_ms: deadline_ms,
        });
        vec![Output::Log(Fact::of("round.opened", round, attempt, format!("{size} invited")))]
    }

    fn submit(
        &mut self,
        cx: &Context<'_>,
        header: &Signed<SubmitHeader>,
    ) -> Result<Vec<AggregatorOutput>, Refusal> {
        let header = self.admit(cx.now_ms, header)?;
        let receipt =
            Receipt { label: header.label, party: header.party.clone(), header: header.hash() };
        let receipt = Signed::sign(receipt, cx.identity);
        let mut outputs = vec![Output::Send {
            to: Peer::Party(header.party.clone()),
            message: Message::Receipt(receipt.signed().clone()),
        }];
        let Phase::Collecting(attempt) = &mut self.phase else {
            return Ok(outputs);
        };
        let RoundFields { round, attempt: number, .. } = attempt.open.fields;
        let party = header.party.clone();
        if attempt.headers.insert(party.clone(), header).is_some() {
            return Ok(outputs);
        }
        outputs.push(Output::Log(Fact::of("party.submitted", round, number, party.to_string())));
        let count = u32::try_from(attempt.headers.len()).unwrap_or(u32::MAX);
        if attempt.headers.len() == attempt.open.roster.len() {
            outputs.extend(self.freeze(cx));
        } else if count == self.manifest.floor() {
            let grace = cx.now_ms.saturating_add(self.manifest.deadlines.grace_ms);
            attempt.freeze_ms = attempt.freeze_ms.min(grace);
        }
        Ok(outputs)
    }

    /// Freezes the set of those that submitted: no way back to collecting.
    fn freeze(&mut self, cx: &Context<'_>) -> Vec<AggregatorOutput> {
        let Phase::Collecting(attempt) = &self.phase else {
            return Vec::new();
        };
        let attempt = attempt.clone();
        for (name, joined) in &mut self.parties {
            // A party that joined again with new keys meanwhile stays.
            let invited = attempt.open.roster.contains(&joined.entry);
            if invited && !attempt.headers.contains_key(name) {
                joined.active = false;
            }
        }
        let RoundFields { round, attempt: number, .. } = attempt.open.fields;
        let y: Vec<u8> = attempt
            .open
            .roster
            .iter()
            .map(|entry| u8::from(attempt.headers.contains_key(&entry.party)))
            .collect();
        let freeze = Freeze {
            open: attempt.open.signed().clone(),
            members: attempt.headers.values().map(|header| header.signed().clone()).collect(),
            log_proof: Vec::new(),
        };
        let freeze = Signed::sign(freeze, cx.identity);
        let mut outputs = vec![Output::Log(Fact::of(
            "round.frozen",
            round,
            number,
            format!("{} members, freeze {}", attempt.headers.len(), freeze.hash()),
        ))];
        self.phase = Phase::Promising(Frozen { attempt, freeze, y, promises: BTreeMap::new() });
        outputs.extend(self.requests());
        outputs
    }

    fn wake(&mut self, cx: &Context<'_>) -> Result<Vec<AggregatorOutput>, Refusal> {
        match &self.phase {
            Phase::Gathering(_) => Ok(self.try_open(cx)),
            Phase::Collecting(attempt) if cx.now_ms >= attempt.freeze_ms => {
                let count = u32::try_from(attempt.headers.len()).unwrap_or(u32::MAX);
                if holds(Check::Floor, count >= self.manifest.floor()) {
                    Ok(self.freeze(cx))
                } else {
                    Ok(self.give_up(
                        cx,
                        &format!("{count} replies, the floor is {}", self.manifest.floor()),
                    ))
                }
            }
            Phase::Promising(frozen) => {
                let end = frozen.attempt.open.deadline_ms;
                if cx.now_ms >= end.saturating_add(self.manifest.deadlines.key_ms) {
                    return Ok(self.give_up(cx, "not every authority promised in time"));
                }
                Ok(Vec::new())
            }
            _ => Ok(Vec::new()),
        }
    }

    fn give_up(&mut self, cx: &Context<'_>, why: &str) -> Vec<AggregatorOutput> {
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
        let (round, attempt) = (giving_up.round, giving_up.attempt);
        let tombstones = giving_up.tombstones.values().map(|t| t.signed().clone()).collect();
        let next = attempt.saturating_add(1);
        if next >= self.manifest.deadlines.max_attempts {
            let why = Refusal::new(
                Code::BelowFloor,
                format!("round {round} was given up after {next} attempts"),
            );
            return Ok(self.finish(Outcome::Failed(why)));
        }
        Ok(self.gather(cx, round, next, tombstones))
    }

    fn promise(&mut self, promise: &Signed<Promise>) -> Result<Vec<AggregatorOutput>, Refusal> {
        let claimed = promise.peek()?;
        let key = self.authority_key(&claimed.authority)?;
        let promise = promise.verify(&key)?;
        let Phase::Promising(frozen) = &mut self.phase else {
            return Ok(Vec::new());
        };
        if promise.label != frozen.attempt.label {
            return Ok(Vec::new());
        }
        if promise.freeze != frozen.freeze.hash() || promise.y != y_hash(&frozen.y) {
            return Err(Refusal::new(Code::BadPromises, "a promise for another set")
                .blaming(Culprit::Authority(promise.authority.clone())));
        }
        frozen.promises.insert(promise.authority.clone(), promise);
        if frozen.promises.len() < self.manifest.authorities.len() {
            return Ok(Vec::new());
        }
        let frozen = frozen.clone();
        let RoundFields { round, attempt, .. } = frozen.attempt.open.fields;
        let mut outputs =
            vec![Output::Log(Fact::of("round.promised", round, attempt, "by every authority"))];
        self.phase = Phase::Releasing(Bound { frozen, keys: BTreeMap::new() });
        outputs.extend(self.requests());
        Ok(outputs)
    }

    fn func_key(&mut self, key: &Signed<FuncKey>) -> Result<Vec<AggregatorOutput>, Refusal> {
        let claimed = key.peek()?;
        let verify = self.authority_key(&claimed.authority)?;
        let key = key.verify(&verify)?;
        let Phase::Releasing(bound) = &mut self.phase else {
            return Ok(Vec::new());
        };
        let attempt = &bound.frozen.attempt;
        if key.label != attempt.label {
            return Ok(Vec::new());
        }
        let fields = attempt.open.fields;
        let expected =
            request_hash(&key.label, &bound.frozen.freeze.hash(), &y_hash(&bound.frozen.y));
        if key.request != expected
            || key.key.len != self.manifest.step_bytes(fields.round, STEP_KEY)?
        {
            return Err(Refusal::new(Code::BadPromises, "a functional key for another request")
                .blaming(Culprit::Authority(key.authority.clone())));
        }
        bound.keys.insert(key.authority.clone(), key);
        if bound.keys.len() < self.manifest.authorities.len() {
            return Ok(Vec::new());
        }
        let bound = bound.clone();
        self.phase = Phase::Opening(bound);
        let mut outputs = vec![Output::Log(Fact::of(
            "round.keys",
            fields.round,
            fields.attempt,
            "all keys are here",
        ))];
        outputs.extend(self.requests());
        Ok(outputs)
    }

    fn opened(
        &mut self,
        cx: &Context<'_>,
        label: Label,
        outcome: Result<Opened, Refusal>,
    ) -> Result<Vec<AggregatorOutput>, Bug> {
        let Phase::Opening(bound) = &self.phase else {
            // Work that was repeated after a restart, or whose job was cancelled.
            return Ok(Vec::new());
        };
        let attempt = &bound.frozen.attempt;
        if attempt.label != label {
            return Ok(Vec::new());
        }
        let fields = attempt.open.fields;
        self.opened_models.insert((fields.purpose, fields.model));
        let opened = match outcome {
            Ok(opened) => opened,
            Err(refusal) => {
                // The round, once opened, is never opened again. Bytes that are no element of the
                // scheme name their signer; of a garbage pad, value or key nothing signed tells who
                // sent it, so all members and authorities are suspects.
                let mut why = refusal;
                if why.culprits.is_empty() {
                    let suspects: Vec<&str> =
                        attempt.headers.keys().chain(bound.keys.keys()).map(Name::as_str).collect();
                    why.detail = format!("{}; suspects: {}", why.detail, suspects.join(", "));
                }
                let mut outputs = vec![Output::Log(Fact::of(
                    "round.discarded",
                    fields.round,
                    fields.attempt,
                    why.detail.clone(),
                ))];
                outputs.extend(self.finish(Outcome::Failed(why)));
                return Ok(outputs);
            }
        };
        let record = ResultRecord {
            manifest: self.hash,
            label,
            round: fields.round,
            attempt: fields.attempt,
            previous: fields.previous_result,
            freeze: bound.frozen.freeze.hash(),
            members: attempt.headers.keys().cloned().collect(),
            sum: opened.sum,
        };
        let members = record.members.len();
        self.results.push(Signed::sign(record, cx.identity));
        self.state = opened.state;
        let mut outputs = vec![Output::Log(Fact::of(
            "round.result",
            fields.round,
            fields.attempt,
            format!("{members} members, sum {}", opened.sum.root),
        ))];
        let next = fields.round.saturating_add(1);
        if next >= self.manifest.workload.rounds() {
            outputs.extend(self.finish(Outcome::Done));
        } else {
            outputs.extend(self.gather(cx, next, 0, Vec::new()));
        }
        Ok(outputs)
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
        if let Phase::Promising(frozen) = &self.phase {
            // Someone's keys changed at an authority: whoever it names is out until it joins with a
            // later epoch, or every further attempt would be refused as well.
            for entry in &frozen.attempt.open.roster {
                if refusal.concerns.contains(&entry.party)
                    && let Some(joined) = self.parties.get_mut(&entry.party)
                    && joined.entry == *entry
                {
                    joined.active = false;
                    joined.barred = true;
                }
            }
            return self.give_up(cx, &why);
        }
        self.finish(Outcome::Failed(Refusal::new(refusal.code, why)))
    }

    /// What this state still waits for: requests to authorities without an answer, or the work of
    /// opening. A driver sends these after every change and again after a restart: the stored state
    /// is its own outbox.
    #[must_use]
    pub fn requests(&self) -> Vec<AggregatorOutput> {
        let unanswered = |answered: &dyn Fn(&Name) -> bool, message: Message| {
            self.manifest
                .authorities
                .iter()
                .filter(|authority| !answered(&authority.name))
                .map(|authority| Output::Send {
                    to: Peer::Authority(authority.name.clone()),
                    message: message.clone(),
                })
                .collect()
        };
        match &self.phase {
            Phase::Registering => unanswered(
                &|name| self.approvals.contains_key(name),
                Message::Register(Box::new(self.manifest.clone())),
            ),
            Phase::Promising(frozen) => unanswered(
                &|name| frozen.promises.contains_key(name),
                Message::PromiseRequest(PromiseRequest {
                    freeze: frozen.freeze.signed().clone(),
                    y: frozen.y.clone(),
                }),
            ),
            Phase::Releasing(bound) => unanswered(
                &|name| bound.keys.contains_key(name),
                Message::KeyRequest(KeyRequest {
                    manifest: self.hash,
                    label: bound.frozen.attempt.label,
                    promises: bound.frozen.promises.values().map(|p| p.signed().clone()).collect(),
                }),
            ),
            Phase::Tombstoning(giving_up) => unanswered(
                &|name| giving_up.tombstones.contains_key(name),
                Message::TombstoneRequest(giving_up.request.signed().clone()),
            ),
            Phase::Opening(bound) => {
                let attempt = &bound.frozen.attempt;
                let ciphertexts =
                    attempt.headers.iter().map(|(name, h)| (name.clone(), h.ciphertext)).collect();
                vec![Output::Work(OpenSum {
                    round: attempt.open.fields.round,
                    label: attempt.label,
                    ciphertexts,
                    keys: bound.keys.iter().map(|(name, key)| (name.clone(), key.key)).collect(),
                })]
            }
            Phase::Gathering(_) | Phase::Collecting(_) | Phase::Finished(_) => Vec::new(),
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
