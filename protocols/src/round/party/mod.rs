//! A party's side: it trains once per round, encrypts once per label, and resends stored bytes.
//!
//! ```text
//! Idle --open--> Training --trained--> Sealing --sealed--> Sent --receipt--> Sent
//!   ^               \___ (stored plaintext: a retry skips training) ___/      |
//!   `------------------------------ result ------------------------------------'
//! ```
//!
//! In a threshold job it may also hold a share of the key: see `holder.rs`.

mod holder;

use std::collections::{BTreeMap, BTreeSet};

use quorate_crypto::merkle::Hash;
use quorate_crypto::sum::{Label, Nonce};
use serde::{Deserialize, Serialize};

use super::authority::KeyMember;
use super::keying::{JobKey, PostWork};
use super::messages::{
    BulkRef, Join, KeyTranscript, Message, Receipt, ResultRecord, RoundOpen, ShareAsk, SubmitHeader,
};
use super::{STEP_SUBMIT, check_open, check_rounds, model_field};
use crate::checks::{Check, holds};
use crate::enrol::Enrolled;
use crate::job::{JobPackage, Manifest, Minima, RosterEntry};
use crate::machine::{Bug, Context, Fact, Output, Peer};
use crate::refusal::{Code, Culprit, Refusal};
use crate::wire::{Name, Signed, Verified};

/// Work outside the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PartyWork {
    /// Compute this round's plaintext and store it durably.
    Train {
        /// Round.
        round: u32,
        /// Hash of the model state to start from.
        state: Hash,
    },
    /// Encrypt a stored plaintext and store the ciphertext durably.
    Seal {
        /// Round.
        round: u32,
        /// The label.
        label: Label,
        /// The nonce.
        nonce: Nonce,
        /// The plaintext.
        plaintext: BulkRef,
    },
    /// Make a post of the threshold key, and store the secret it leaves.
    Post(PostWork),
    /// Fetch the members' replies, check every proof, add them up, and store the partial decryption
    /// of their sum.
    Share {
        /// Round.
        round: u32,
        /// The label.
        label: Label,
        /// The frozen set, in roster order.
        members: Vec<KeyMember>,
    },
}

/// What a party handles.
#[derive(Clone, Debug)]
pub enum Event {
    /// The aggregator opened an attempt.
    Open(Signed<RoundOpen>),
    /// [`PartyWork::Train`] is done.
    Trained {
        /// Round.
        round: u32,
        /// The plaintext: ring words, check slots included.
        plaintext: BulkRef,
    },
    /// [`PartyWork::Seal`] is done.
    Sealed {
        /// The label.
        label: Label,
        /// The ciphertext.
        ciphertext: BulkRef,
    },
    /// The aggregator's receipt.
    Receipt(Signed<Receipt>),
    /// A round's result. `state` is the hash of the model state the driver computed from the sum.
    Result {
        /// The aggregator's record.
        record: Signed<ResultRecord>,
        /// Hash of the model state after the round.
        state: Hash,
    },
    /// What was posted to the threshold key so far.
    Key(KeyTranscript),
    /// [`PartyWork::Post`] is done and the secret it left is stored with this event.
    Posted {
        /// Hash of the call.
        call: Hash,
        /// The step.
        step: u16,
        /// The post.
        bytes: Vec<u8>,
    },
    /// The aggregator asks for a partial decryption.
    Share(ShareAsk),
    /// [`PartyWork::Share`] is done: the partial decryption, or which reply is wrong.
    Shared {
        /// The label.
        label: Label,
        /// The scheme's bytes, or the refusal of a reply.
        outcome: Result<BulkRef, Refusal>,
    },
    /// The aggregator has this party's answer to its last [`Event::Share`].
    ShareTaken {
        /// The label.
        label: Label,
    },
    /// The party's keys were rotated: every open label is burned.
    Rotated(RosterEntry),
}

/// An output of this machine.
pub type PartyOutput = Output<Message, PartyWork>;

/// An attempt this party takes part in, all of whose fields were checked.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Task {
    open: Verified<RoundOpen>,
    label: Label,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Sealing {
    task: Task,
    nonce: Nonce,
    plaintext: BulkRef,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Sent {
    task: Task,
    header: Verified<SubmitHeader>,
    receipt: Option<Verified<Receipt>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Phase {
    Idle,
    Training(Task),
    Sealing(Sealing),
    Sent(Box<Sent>),
}

/// One job at one party.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PartyJob {
    me: RosterEntry,
    manifest: Manifest,
    hash: Hash,
    /// Hash of the last result record; zero before the first.
    head: Hash,
    next_round: u32,
    state: Hash,
    /// Plaintext of the current round, kept for its retries.
    plaintext: Option<(u32, BulkRef)>,
    /// Roots of all plaintexts ever submitted in this job.
    plaintexts: BTreeSet<Hash>,
    /// The one label this party accepted per attempt of the current round.
    labels: BTreeMap<u16, Label>,
    phase: Phase,
    /// The job's threshold key; never replaced.
    key: Option<JobKey>,
    calling: Option<holder::Calling>,
    sharing: Option<holder::Sharing>,
}

impl PartyJob {
    /// Joins a job whose manifest meets this party's minima and is signed off by every authority.
    /// `state` is the hash of the initial model.
    ///
    /// # Errors
    /// [`Code::BelowMinima`], [`Code::BadManifest`], [`Code::BadSignature`].
    pub fn join(
        me: RosterEntry,
        minima: &Minima,
        package: &JobPackage,
        state: Hash,
    ) -> Result<Self, Refusal> {
        minima.check(&package.manifest)?;
        package.verify()?;
        check_rounds(&package.manifest)?;
        Ok(Self {
            me,
            hash: package.manifest.hash(),
            manifest: package.manifest.clone(),
            head: Hash([0; 32]),
            next_round: 0,
            state,
            plaintext: None,
            plaintexts: BTreeSet::new(),
            labels: BTreeMap::new(),
            phase: Phase::Idle,
            key: None,
            calling: None,
            sharing: None,
        })
    }

    /// The message that asks to be invited.
    #[must_use]
    pub fn join_message(&self, cx: &Context<'_>, certificates: Vec<Signed<Enrolled>>) -> Message {
        let join = Join { manifest: self.hash, entry: self.me.clone(), certificates };
        join.signed(cx.identity)
    }

    /// The manifest.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// This party's keys.
    #[must_use]
    pub const fn me(&self) -> &RosterEntry {
        &self.me
    }

    /// The first round without a result yet.
    #[must_use]
    pub const fn next_round(&self) -> u32 {
        self.next_round
    }

    /// Hash of the model state after the last result.
    #[must_use]
    pub const fn state(&self) -> Hash {
        self.state
    }

    /// The label of the attempt this party takes part in.
    #[must_use]
    pub fn entered(&self) -> Option<Label> {
        match &self.phase {
            Phase::Idle => None,
            Phase::Training(task) => Some(task.label),
            Phase::Sealing(sealing) => Some(sealing.task.label),
            Phase::Sent(sent) => Some(sent.task.label),
        }
    }

    /// Name of the state, for reports.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        match &self.phase {
            Phase::Idle => "Idle",
            Phase::Training(_) => "Training",
            Phase::Sealing(_) => "Sealing",
            Phase::Sent(sent) if sent.receipt.is_none() => "Sent",
            Phase::Sent(_) => "Acked",
        }
    }

    /// Work or a submission this state still waits for: done after every change and again after a
    /// restart.
    #[must_use]
    pub fn requests(&self) -> Vec<PartyOutput> {
        let mut outputs = self.holder_requests();
        outputs.extend(self.round_requests());
        outputs
    }

    fn round_requests(&self) -> Vec<PartyOutput> {
        match &self.phase {
            Phase::Idle => Vec::new(),
            Phase::Training(task) => vec![Output::Work(PartyWork::Train {
                round: task.open.fields.round,
                state: self.state,
            })],
            Phase::Sealing(sealing) => vec![Output::Work(PartyWork::Seal {
                round: sealing.task.open.fields.round,
                label: sealing.task.label,
                nonce: sealing.nonce,
                plaintext: sealing.plaintext,
            })],
            Phase::Sent(sent) if sent.receipt.is_none() => vec![Output::Send {
                to: Peer::Aggregator,
                message: Message::Submit(sent.header.signed().clone()),
            }],
            Phase::Sent(_) => Vec::new(),
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
    ) -> Result<(Self, Vec<PartyOutput>), Bug> {
        let mut next = self.clone();
        let outcome = match event {
            Event::Open(open) => next.open(cx, &open),
            Event::Trained { round, plaintext } => next.trained(cx, round, plaintext),
            Event::Sealed { label, ciphertext } => {
                return next.sealed(cx, label, ciphertext).map(|outputs| (next, outputs));
            }
            Event::Receipt(receipt) => next.receipt(&receipt),
            Event::Result { record, state } => next.result(&record, state),
            Event::Key(transcript) => next.key(&transcript),
            Event::Posted { call, step, bytes } => Ok(next.posted(cx, call, step, bytes)),
            Event::Share(ask) => next.share(&ask),
            Event::Shared { label, outcome } => {
                return next.shared(cx, label, outcome).map(|outputs| (next, outputs));
            }
            Event::ShareTaken { label } => {
                next.share_taken(label);
                Ok(Vec::new())
            }
            Event::Rotated(entry) => {
                return next.rotated(entry).map(|outputs| (next, outputs));
            }
        };
        Ok(match outcome {
            Ok(outputs) => (next, outputs),
            Err(refusal) => {
                let fact = Fact::job("refused", refusal.to_string());
                (self, vec![Output::Log(fact), Output::Reject(refusal)])
            }
        })
    }

    fn open(
        &mut self,
        cx: &mut Context<'_>,
        open: &Signed<RoundOpen>,
    ) -> Result<Vec<PartyOutput>, Refusal> {
        let checked = check_open(&self.manifest, open)?;
        let (open, label) = (checked.open, checked.label);
        let fields = open.fields;
        let blame = |code, why: &str| Refusal::new(code, why).blaming(Culprit::Aggregator);
        // P4
        if !open.roster.contains(&self.me) {
            return Err(Refusal::new(Code::BadRoster, "this party is not invited with its keys"));
        }
        if fields.round != self.next_round {
            return Err(Refusal::new(
                Code::OutOfOrder,
                format!("round {} is open, round {} is next here", fields.round, self.next_round),
            ));
        }
        // P5
        let model = model_field(fields.purpose, self.state, self.head);
        let same = fields.model == model && fields.previous_result == self.head;
        if !holds(Check::ModelHash, same) {
            return Err(blame(
                Code::ModelMismatch,
                "the model is not the one that follows from the last opened sum",
            ));
        }
        // P9: under the threshold key this party checked itself.
        if !holds(Check::Label, fields.key == self.key_id()) {
            return Err(Refusal::new(
                Code::BadKey,
                "the round is under a key not checked here yet",
            ));
        }
        // P7
        match self.labels.get(&fields.attempt) {
            Some(known) if *known == label => return Ok(self.requests()),
            Some(_) if !holds(Check::LabelOnce, false) => {
                return Err(blame(Code::LabelUsed, "a second label for one attempt"));
            }
            _ => {}
        }
        if self.labels.keys().next_back().is_some_and(|last| fields.attempt < *last) {
            return Err(Refusal::new(Code::OutOfOrder, "a later attempt was opened before"));
        }
        self.labels.insert(fields.attempt, label);
        let task = Task { open, label };
        self.phase = match self.plaintext {
            Some((round, plaintext)) if round == fields.round => {
                Phase::Sealing(Sealing { task, nonce: fresh_nonce(cx), plaintext })
            }
            _ => Phase::Training(task),
        };
        let mut outputs = vec![Output::Log(Fact::of(
            "round.entered",
            fields.round,
            fields.attempt,
            format!("{label:?}"),
        ))];
        outputs.extend(self.requests());
        Ok(outputs)
    }

    fn trained(
        &mut self,
        cx: &mut Context<'_>,
        round: u32,
        plaintext: BulkRef,
    ) -> Result<Vec<PartyOutput>, Refusal> {
        let Phase::Training(task) = &self.phase else {
            return Ok(Vec::new());
        };
        if task.open.fields.round != round {
            return Ok(Vec::new());
        }
        // P8: no second sum over the same plaintexts, whatever the round.
        if !holds(Check::LabelOnce, !self.plaintexts.contains(&plaintext.root)) {
            return Err(Refusal::new(
                Code::LabelReuse,
                "this plaintext was submitted in an earlier round of the job",
            ));
        }
        self.plaintexts.insert(plaintext.root);
        self.plaintext = Some((round, plaintext));
        self.phase =
            Phase::Sealing(Sealing { task: task.clone(), nonce: fresh_nonce(cx), plaintext });
        // The noise of this round is drawn and stored with the plaintext: from here on it counts.
        let mut outputs: Vec<PartyOutput> =
            self.manifest.charge(round).map(Output::Charge).into_iter().collect();
        outputs.extend(self.requests());
        Ok(outputs)
    }

    fn sealed(
        &mut self,
        cx: &Context<'_>,
        label: Label,
        ciphertext: BulkRef,
    ) -> Result<Vec<PartyOutput>, Bug> {
        let Phase::Sealing(sealing) = &self.phase else {
            return Ok(Vec::new());
        };
        if sealing.task.label != label {
            return Ok(Vec::new());
        }
        let round = sealing.task.open.fields.round;
        if self.manifest.step_bytes(round, STEP_SUBMIT) != Ok(ciphertext.len) {
            return Err(Bug("the ciphertext has another length than the job fixes".into()));
        }
        let header = SubmitHeader {
            scheme: self.manifest.scheme,
            manifest: self.hash,
            label,
            party: self.me.party.clone(),
            epoch: self.me.epoch,
            nonce: sealing.nonce,
            ciphertext,
        };
        let header = Signed::sign(header, cx.identity);
        self.phase =
            Phase::Sent(Box::new(Sent { task: sealing.task.clone(), header, receipt: None }));
        Ok(self.requests())
    }

    fn receipt(&mut self, receipt: &Signed<Receipt>) -> Result<Vec<PartyOutput>, Refusal> {
        let receipt = receipt.verify(&self.manifest.aggregator)?;
        let Phase::Sent(sent) = &mut self.phase else {
            return Ok(Vec::new());
        };
        if receipt.label != sent.task.label || receipt.party != self.me.party {
            return Ok(Vec::new());
        }
        if receipt.header != sent.header.hash() {
            return Err(Refusal::new(Code::WrongLabel, "a receipt for another submission")
                .blaming(Culprit::Aggregator));
        }
        sent.receipt = Some(receipt);
        let fields = sent.task.open.fields;
        Ok(vec![Output::Log(Fact::of("receipt.held", fields.round, fields.attempt, ""))])
    }

    fn result(
        &mut self,
        record: &Signed<ResultRecord>,
        state: Hash,
    ) -> Result<Vec<PartyOutput>, Refusal> {
        let record = record.verify(&self.manifest.aggregator)?;
        if record.hash() == self.head {
            return Ok(Vec::new());
        }
        let blame = |code, why: &str| Refusal::new(code, why).blaming(Culprit::Aggregator);
        // Old links come again on a bad network; only a second link in one place is a lie.
        if record.manifest != self.hash || record.round != self.next_round {
            return Err(Refusal::new(
                Code::OutOfOrder,
                "the result is not the next link of the chain",
            ));
        }
        if record.previous != self.head {
            return Err(blame(Code::OutOfOrder, "the result follows another one than ours"));
        }
        // An attempt is known by the one label entered for it, and all before the last one entered
        // were given up by every authority.
        let entered = self.labels.get(&record.attempt);
        if entered.is_some_and(|label| *label != record.label) {
            return Err(blame(Code::WrongLabel, "the sum is of a second label of its attempt"));
        }
        if self.labels.keys().next_back().is_some_and(|last| record.attempt < *last) {
            return Err(blame(Code::Tombstoned, "the sum is of an attempt that was given up"));
        }
        if !record.members.is_sorted_by(|a, b| a < b) {
            return Err(blame(Code::BadRoster, "members are not sorted and distinct"));
        }
        let size = u32::try_from(record.members.len()).unwrap_or(u32::MAX);
        if !holds(Check::Floor, size >= self.manifest.floor()) {
            return Err(blame(self.manifest.floor_code(), "a sum of fewer members than the floor"));
        }
        if let Phase::Sent(sent) = &self.phase
            && sent.receipt.is_some()
            && sent.task.label == record.label
            && !record.members.contains(&self.me.party)
        {
            return Err(blame(Code::ReceiptBroken, "a receipt was given, yet the sum omits us"));
        }
        self.head = record.hash();
        self.next_round = record.round.saturating_add(1);
        self.state = state;
        self.labels = BTreeMap::new();
        self.plaintext = None;
        self.phase = Phase::Idle;
        self.sharing = None;
        Ok(vec![Output::Log(Fact::of(
            "result.accepted",
            record.round,
            record.attempt,
            format!("{size} members"),
        ))])
    }

    fn rotated(&mut self, entry: RosterEntry) -> Result<Vec<PartyOutput>, Bug> {
        if entry == self.me {
            return Ok(Vec::new());
        }
        if entry.party != self.me.party || entry.epoch <= self.me.epoch {
            return Err(Bug("a rotation keeps the name and raises the epoch".into()));
        }
        let note = format!("epoch {}", entry.epoch);
        self.me = entry;
        // A share belongs to the keys it was sealed to: this party answers for it no more.
        self.sharing = None;
        self.calling = None;
        // The labels stay burned: only a later attempt, with the new keys in its roster, is entered.
        self.phase = Phase::Idle;
        Ok(vec![Output::Log(Fact::job("key.rotated", note))])
    }
}

fn fresh_nonce(cx: &mut Context<'_>) -> Nonce {
    let mut nonce = [0; 16];
    cx.rng.fill_bytes(&mut nonce);
    Nonce(nonce)
}

/// Name of a party, for drivers that only hold its job.
impl PartyJob {
    /// This party's id.
    #[must_use]
    pub const fn name(&self) -> &Name {
        &self.me.party
    }
}
