//! The aggregator's side of a vertical job: it orders epochs and batches, and passes on what it cannot
//! read.
//!
//! ```text
//! Registering -> Gathering -> Mixing -> Aligning -> Gathering
//!
//!                Gathering -> Mixing -> Collecting -> Bound -> Collecting ... -> Gathering ... Finished
//!                    ^           |          |  ^
//!                    `-----------'----------'  `--- the same batch again, under a new label
//! ```
//!
//! A batch whose set is frozen is never given up: its keys may have left. One that waits for a party
//! too long is repeated under a new label; after the last attempt the epoch ends, and the next begins
//! without that party.

use std::collections::BTreeMap;

use quorate_crypto::fe::product::ProductShape;
use quorate_crypto::keys::VerifyKey;
use quorate_crypto::merkle::Hash;
use quorate_crypto::psi::TAG_BYTES;
use quorate_crypto::sum::Label;
use serde::{Deserialize, Serialize};

use super::align::align_label;
use super::messages::{
    BatchFields, BatchFreeze, BatchOpen, BatchPurpose, Commit, EpochOpen, Gradient, PartyView,
    ProductAsk, ProductKey, Ready, ScoreKey, Scored, SeedShare, VerticalMessage, root_of,
};
use super::{Shown, batch_rows, check_features, check_header, features_label, passive, spec};
use crate::checks::{Check, holds};
use crate::enrol::Enrolled;
use crate::job::{Approval, JobPackage, Manifest, RosterEntry, roster_root};
use crate::machine::{Bug, Context, Fact, Output, Peer};
use crate::refusal::{Code, Culprit, Refusal};
use crate::round::aggregator::Outcome;
use crate::round::messages::{BulkRef, Join, Message, Receipt, SubmitHeader};
use crate::wire::{Name, Signed, Verified};
use crate::workload::VerticalSpec;

/// Most bytes of one sealed message.
const MAX_SEALED: usize = 3 << 20;

/// Work outside the machine: find the tags that are in every list, and store them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intersect {
    /// The label the lists were submitted under.
    pub label: Label,
    /// Every party's list, with the number of tags it announced.
    pub lists: Vec<(Name, BulkRef)>,
}

/// An output of this machine.
pub type AggregatorOutput = Output<Message, Intersect>;

/// What the aggregator handles.
#[derive(Clone, Debug)]
pub enum Event {
    /// A message of a party or an authority.
    Message(Box<Message>),
    /// An authority refused a request for good.
    Refused {
        /// Who.
        by: Name,
        /// Its answer.
        refusal: Refusal,
    },
    /// [`Intersect`] is done: the common tags, or who submitted a list that is none.
    Intersected {
        /// The label.
        label: Label,
        /// The common tags.
        outcome: Result<BulkRef, Refusal>,
    },
    /// Time passed.
    Wake,
    /// The operator ends the job.
    Cancel,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Joined {
    entry: RosterEntry,
    /// All authorities' of these keys.
    certificates: Vec<Signed<Enrolled>>,
    active: bool,
    ready: Option<Verified<Ready>>,
    /// The features it stored, where a job has them sent once.
    features: Option<Verified<SubmitHeader>>,
    gradient: Option<Signed<Gradient>>,
}

/// An epoch whose order is being mixed, or was.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Epoch {
    open: Verified<EpochOpen>,
    /// Of all parties in the roster.
    certificates: Vec<Signed<Enrolled>>,
    commits: BTreeMap<Name, Verified<Commit>>,
    /// By receiver, then sender.
    shares: BTreeMap<Name, BTreeMap<Name, Verified<SeedShare>>>,
    until_ms: u64,
}

impl Epoch {
    fn committed(&self) -> bool {
        self.commits.len() == self.open.roster.len()
    }

    fn signed_commits(&self) -> Vec<Signed<Commit>> {
        self.commits.values().map(|commit| commit.signed().clone()).collect()
    }

    /// Root over all commitments: what fixes the permutation.
    fn permutation(&self) -> Hash {
        root_of(&self.signed_commits())
    }

    fn complete(&self) -> bool {
        let others = self.open.roster.len().saturating_sub(1);
        self.shares.len() == self.open.roster.len()
            && self.shares.values().all(|shares| shares.len() == others)
    }

    /// Whether a party owes nothing to this epoch's order.
    fn has(&self, party: &Name) -> bool {
        self.commits.contains_key(party)
            && (!self.committed()
                || self.open.roster.iter().filter(|to| to.party != *party).all(|to| {
                    self.shares.get(&to.party).is_some_and(|shares| shares.contains_key(party))
                }))
    }
}

/// A batch that takes submissions, or did.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Batch {
    epoch: Epoch,
    open: Verified<BatchOpen>,
    label: Label,
    headers: BTreeMap<Name, Verified<SubmitHeader>>,
}

/// A batch whose set is frozen.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Bound {
    batch: Batch,
    freeze: Verified<BatchFreeze>,
    score_keys: BTreeMap<Name, Verified<ScoreKey>>,
    asks: BTreeMap<Name, Verified<ProductAsk>>,
    product_keys: BTreeMap<Name, Verified<ProductKey>>,
    gradients: BTreeMap<Name, Verified<Gradient>>,
}

impl Bound {
    /// Bytes of the sealed messages of this batch: keys, requests and gradients.
    fn sealed(&self) -> usize {
        let scores = self.score_keys.values().map(|key| key.sealed.len());
        let asks = self.asks.values().map(|ask| ask.sealed.len());
        let products = self.product_keys.values().map(|key| key.sealed.len());
        let gradients = self.gradients.values().map(|gradient| gradient.sealed.len());
        scores.chain(asks).chain(products).chain(gradients).sum()
    }
}

/// An alignment in which the parties submit their tags.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Aligning {
    epoch: Epoch,
    label: Label,
    headers: BTreeMap<Name, Verified<SubmitHeader>>,
}

/// An alignment that is done.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Aligned {
    epoch: Epoch,
    common: BulkRef,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "one per job, and mostly the largest one")]
enum Phase {
    Registering,
    /// Waiting for parties; when enough were there.
    Gathering(Option<u64>),
    Mixing(Epoch),
    Aligning(Aligning),
    Collecting(Batch),
    Bound(Bound),
    Finished(Outcome),
}

/// Where a vertical job stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Name of the phase.
    pub phase: String,
    /// Epoch, from 0.
    pub epoch: u32,
    /// Batch of the epoch.
    pub batch: u32,
    /// Attempt of the batch.
    pub attempt: u16,
    /// Batches opened so far.
    pub opened: u64,
    /// Parties that take part.
    pub parties: Vec<Name>,
    /// Parties waited for.
    pub missing: Vec<Name>,
}

/// One vertical job at the aggregator.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AggregatorJob {
    manifest: Manifest,
    hash: Hash,
    approvals: BTreeMap<Name, Verified<Approval>>,
    parties: BTreeMap<Name, Joined>,
    aligned: Option<Aligned>,
    shown: Shown,
    epoch: u32,
    mix: u16,
    opened: u64,
    phase: Phase,
}

impl AggregatorJob {
    /// A new job; asks every authority to approve it.
    ///
    /// # Errors
    /// [`Code::BadManifest`].
    pub fn create(
        cx: &Context<'_>,
        manifest: Manifest,
    ) -> Result<(Self, Vec<AggregatorOutput>), Refusal> {
        manifest.check()?;
        spec(&manifest)?;
        if manifest.aggregator != cx.identity.verify_key() {
            return Err(Refusal::new(Code::BadManifest, "the manifest names another aggregator"));
        }
        let mut outputs = vec![Output::Log(Fact::job("job.created", manifest.title.clone()))];
        let job = Self {
            hash: manifest.hash(),
            manifest,
            approvals: BTreeMap::new(),
            parties: BTreeMap::new(),
            aligned: None,
            shown: Shown::default(),
            epoch: 0,
            mix: 0,
            opened: 0,
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

    /// Every authority's approval, in manifest order; `None` before all are there.
    #[must_use]
    pub fn approvals(&self) -> Option<Vec<Signed<Approval>>> {
        let all = self.approvals.len() == self.manifest.authorities.len();
        all.then(|| self.approvals.values().map(|approval| approval.signed().clone()).collect())
    }

    /// The manifest with every authority's approval; `None` before all are there.
    #[must_use]
    pub fn package(&self) -> Option<JobPackage> {
        Some(JobPackage { manifest: self.manifest.clone(), approvals: self.approvals()? })
    }

    /// How the job ended, if it did.
    #[must_use]
    pub const fn outcome(&self) -> Option<&Outcome> {
        match &self.phase {
            Phase::Finished(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// When [`Event::Wake`] is due.
    #[must_use]
    pub fn deadline_ms(&self) -> Option<u64> {
        match &self.phase {
            Phase::Gathering(ready) => {
                ready.map(|at| at.saturating_add(self.manifest.deadlines.grace_ms))
            }
            Phase::Mixing(epoch) => Some(epoch.until_ms),
            // Once all tags are there, nobody is waited for.
            Phase::Aligning(aligning) => {
                let waits = aligning.headers.len() < aligning.epoch.open.roster.len();
                waits.then_some(aligning.epoch.until_ms)
            }
            Phase::Collecting(batch) => Some(batch.open.deadline_ms),
            Phase::Registering | Phase::Bound(_) | Phase::Finished(_) => None,
        }
    }

    /// The labels whose ciphertexts are needed: the open batch's, and that of stored features.
    #[must_use]
    pub fn live_labels(&self) -> Vec<Label> {
        let own = self.batch_label();
        let finished = self.outcome().is_some();
        own.into_iter().chain(self.features_label().filter(|_| !finished)).collect()
    }

    /// The label of stored features, once the label holder's rows are known.
    fn features_label(&self) -> Option<Label> {
        let spec = spec(&self.manifest).ok().filter(|spec| spec.static_features)?;
        let ready = self.parties.get(&spec.holder)?.ready.as_ref()?;
        Some(features_label(&self.hash, &ready.order))
    }

    fn batch_label(&self) -> Option<Label> {
        match &self.phase {
            Phase::Aligning(aligning) => Some(aligning.label),
            Phase::Collecting(batch) => Some(batch.label),
            Phase::Bound(bound) => Some(bound.batch.label),
            _ => None,
        }
    }

    /// Whether this batch is frozen with a submission of `party`, or these are its stored features.
    #[must_use]
    pub fn is_frozen(&self, label: &Label, party: &Name) -> bool {
        let features = self.parties.get(party).and_then(|joined| joined.features.as_ref());
        if features.is_some_and(|header| header.label == *label) {
            return true;
        }
        match &self.phase {
            Phase::Bound(bound) => {
                bound.batch.label == *label && bound.batch.headers.contains_key(party)
            }
            _ => false,
        }
    }

    /// Most bytes of one submission: of a batch of the widest party, or of tags.
    #[must_use]
    pub fn most_bytes(&self) -> u64 {
        let Ok(spec) = spec(&self.manifest) else {
            return 0;
        };
        let widest = spec.passive().map(crate::workload::Block::features).max().unwrap_or(0);
        let shape = ProductShape {
            rows: spec.batch as usize,
            columns: usize::try_from(widest).unwrap_or(usize::MAX),
            outputs: spec.outputs(),
        };
        let tags = spec.max_rows.saturating_mul(TAG_BYTES as u64);
        let stored = match spec.static_features {
            true => spec.max_rows.saturating_mul(widest).saturating_mul(8),
            false => 0,
        };
        tags.max(shape.train_bytes() as u64).max(stored)
    }

    /// Where the job stands.
    #[must_use]
    pub fn status(&self) -> Status {
        let names = |entries: &[RosterEntry]| -> Vec<Name> {
            entries.iter().map(|entry| entry.party.clone()).collect()
        };
        let all = spec(&self.manifest).map_or(Vec::new(), |spec| {
            spec.blocks.iter().map(|block| block.party.clone()).collect()
        });
        let active = || {
            self.parties.iter().filter(|(_, j)| j.active).map(|(name, _)| name.clone()).collect()
        };
        let (phase, parties, missing): (_, Vec<Name>, Vec<Name>) = match &self.phase {
            Phase::Registering => ("registering", Vec::new(), Vec::new()),
            Phase::Gathering(_) => {
                let aligned = self.aligned.is_some();
                let here = |name: &Name| {
                    self.parties.get(name).is_some_and(|j| {
                        j.active && (!aligned || (j.ready.is_some() && self.has_features(name, j)))
                    })
                };
                ("gathering", active(), all.into_iter().filter(|name| !here(name)).collect())
            }
            Phase::Mixing(epoch) => {
                let roster = names(&epoch.open.roster);
                let missing = roster.iter().filter(|name| !epoch.has(name)).cloned().collect();
                ("mixing", roster, missing)
            }
            Phase::Aligning(aligning) => {
                let roster = names(&aligning.epoch.open.roster);
                let missing = |name: &&Name| !aligning.headers.contains_key(*name);
                let missing = roster.iter().filter(missing).cloned().collect();
                ("aligning", roster, missing)
            }
            Phase::Collecting(batch) => (
                "collecting",
                names(&batch.epoch.open.roster),
                self.waited(batch).cloned().collect(),
            ),
            Phase::Bound(bound) => (
                "opening",
                names(&bound.batch.epoch.open.roster),
                spec(&self.manifest).map_or(Vec::new(), |spec| vec![spec.holder.clone()]),
            ),
            Phase::Finished(_) => ("finished", active(), Vec::new()),
        };
        let fields = match &self.phase {
            Phase::Collecting(batch) => Some(batch.open.fields),
            Phase::Bound(bound) => Some(bound.batch.open.fields),
            _ => None,
        };
        Status {
            phase: phase.to_owned(),
            epoch: self.epoch,
            batch: fields.map_or(0, |fields| fields.counter),
            attempt: fields.map_or(0, |fields| fields.attempt),
            opened: self.opened,
            parties,
            missing,
        }
    }

    /// Whether a party stored its features, or need not.
    fn has_features(&self, name: &Name, joined: &Joined) -> bool {
        spec(&self.manifest).is_ok_and(|spec| {
            !spec.static_features || spec.holder == *name || joined.features.is_some()
        })
    }

    fn waited<'a>(&'a self, batch: &'a Batch) -> impl Iterator<Item = &'a Name> {
        let missing = |entry: &&RosterEntry| !batch.headers.contains_key(&entry.party);
        spec(&self.manifest)
            .into_iter()
            .flat_map(move |spec| passive(spec, &batch.epoch.open.roster).filter(missing))
            .map(|entry| &entry.party)
    }

    /// What the stored machine still waits for.
    #[must_use]
    pub fn requests(&self) -> Vec<AggregatorOutput> {
        let ask = |name: &Name, message: Message| Output::Send {
            to: Peer::Authority(name.clone()),
            message,
        };
        let names = self.manifest.authorities.iter().map(|authority| &authority.name);
        match &self.phase {
            Phase::Registering => names
                .filter(|name| !self.approvals.contains_key(*name))
                .map(|name| ask(name, Message::Register(Box::new(self.manifest.clone()))))
                .collect(),
            Phase::Bound(bound) => {
                let scores = names
                    .clone()
                    .filter(|name| !bound.score_keys.contains_key(*name))
                    .map(|name| {
                        let freeze = Box::new(bound.freeze.signed().clone());
                        ask(name, Message::Vertical(VerticalMessage::ScoreAsk(freeze)))
                    });
                let products = names
                    .filter(|name| !bound.product_keys.contains_key(*name))
                    .filter_map(|name| {
                        let signed = bound.asks.get(name)?.signed().clone();
                        Some(ask(name, Message::Vertical(VerticalMessage::ProductAsk(signed))))
                    });
                scores.chain(products).collect()
            }
            Phase::Aligning(aligning)
                if aligning.headers.len() == aligning.epoch.open.roster.len() =>
            {
                let lists = aligning.headers.values();
                let lists = lists.map(|header| (header.party.clone(), header.ciphertext));
                vec![Output::Work(Intersect { label: aligning.label, lists: lists.collect() })]
            }
            _ => Vec::new(),
        }
    }

    /// What a party needs to go on.
    #[must_use]
    pub fn view(&self, party: &Name) -> PartyView {
        let mut view = PartyView::default();
        let holder = spec(&self.manifest).is_ok_and(|spec| spec.holder == *party);
        view.gradient = self.parties.get(party).and_then(|joined| joined.gradient.clone());
        let ready = self.parties.get(party).is_some_and(|joined| joined.ready.is_some());
        let epoch = match (&self.phase, &self.aligned) {
            (_, Some(aligned)) if !ready => {
                view.common = Some(aligned.common);
                &aligned.epoch
            }
            (phase, _) => match phase {
                Phase::Mixing(epoch) => epoch,
                Phase::Aligning(aligning) => &aligning.epoch,
                Phase::Collecting(batch) => &batch.epoch,
                Phase::Bound(bound) => &bound.batch.epoch,
                _ => return view,
            },
        };
        if !epoch.open.roster.iter().any(|entry| entry.party == *party) {
            return view;
        }
        view.epoch = Some(epoch.open.signed().clone());
        // With its part in the first batch every party showed that it has stored the order. Who still aligns its
        // rows needs all of the alignment.
        let begins = match &self.phase {
            _ if view.common.is_some() => true,
            Phase::Collecting(batch) => batch.open.fields.counter == 0,
            Phase::Bound(bound) => bound.batch.open.fields.counter == 0,
            _ => true,
        };
        if begins {
            view.certificates.clone_from(&epoch.certificates);
        }
        if epoch.committed() && begins {
            view.commits = epoch.signed_commits();
        }
        if epoch.complete() && begins {
            let shares = epoch.shares.get(party).into_iter().flat_map(BTreeMap::values);
            view.shares = shares.map(|share| share.signed().clone()).collect();
        }
        if view.common.is_some() {
            return view;
        }
        match &self.phase {
            Phase::Collecting(batch) => view.batch = Some(batch.open.signed().clone()),
            Phase::Bound(bound) => {
                view.batch = Some(bound.batch.open.signed().clone());
                let authorities = self.manifest.authorities.len();
                if holder {
                    view.freeze = Some(bound.freeze.signed().clone());
                    if bound.score_keys.len() == authorities {
                        let keys = bound.score_keys.values();
                        view.score_keys = keys.map(|key| key.signed().clone()).collect();
                    }
                    if bound.product_keys.len() == authorities {
                        let keys = bound.product_keys.values();
                        view.product_keys = keys.map(|key| key.signed().clone()).collect();
                    }
                }
            }
            _ => {}
        }
        view
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
            Event::Message(message) => next.message(cx, *message),
            Event::Refused { by, refusal } => Ok(next.refused(&by, refusal)),
            Event::Intersected { label, outcome } => Ok(next.intersected(cx, label, outcome)),
            Event::Wake => next.wake(cx),
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
            Message::Approval(approval) => self.approval(cx, &approval),
            Message::Join(join) => self.join(cx, &join),
            Message::Submit(header) => self.submit(cx, &header),
            Message::Vertical(message) => match message {
                VerticalMessage::Ready(ready) => self.ready(cx, &ready),
                VerticalMessage::Commit(commit) => self.commit(&commit),
                VerticalMessage::SeedShare(share) => self.seed_share(cx, &share),
                VerticalMessage::ScoreKey(key) => self.score_key(&key),
                VerticalMessage::ProductAsk(ask) => self.product_ask(&ask),
                VerticalMessage::ProductKey(key) => self.product_key(&key),
                VerticalMessage::Gradient(gradient) => self.gradient(cx, &gradient),
                VerticalMessage::Scored(scored) => self.scored(cx, &scored),
                VerticalMessage::ScoreAsk(_)
                | VerticalMessage::Evaluate(_)
                | VerticalMessage::Evaluated { .. } => {
                    Err(Refusal::new(Code::WrongState, "no message for an aggregator"))
                }
            },
            _ => Err(Refusal::new(Code::WrongState, "no message for this job's aggregator")),
        }
    }

    fn finish(&mut self, outcome: Outcome) -> Vec<AggregatorOutput> {
        if self.outcome().is_some() {
            return Vec::new();
        }
        let note = match &outcome {
            Outcome::Done => "done".to_owned(),
            Outcome::Cancelled => "cancelled".to_owned(),
            Outcome::Failed(refusal) => refusal.to_string(),
        };
        self.phase = Phase::Finished(outcome);
        vec![Output::Log(Fact::job("job.finished", note))]
    }

    fn authority_key(&self, name: &Name) -> Result<VerifyKey, Refusal> {
        self.manifest
            .authority(name)
            .map(|authority| authority.verify)
            .ok_or_else(|| Refusal::new(Code::UnknownParty, "not an authority of this job"))
    }

    fn approval(
        &mut self,
        cx: &Context<'_>,
        approval: &Signed<Approval>,
    ) -> Result<Vec<AggregatorOutput>, Refusal> {
        let key = self.authority_key(&approval.peek()?.authority)?;
        let approval = approval.verify(&key)?;
        if approval.manifest != self.hash {
            return Err(Refusal::new(Code::UnknownJob, "an approval of another job"));
        }
        self.approvals.insert(approval.authority.clone(), approval);
        let complete = self.approvals.len() == self.manifest.authorities.len();
        if !matches!(self.phase, Phase::Registering) || !complete {
            return Ok(Vec::new());
        }
        self.phase = Phase::Gathering(None);
        let mut outputs = vec![Output::Log(Fact::job("job.approved", "by every authority"))];
        outputs.extend(self.try_epoch(cx));
        Ok(outputs)
    }

    fn join(
        &mut self,
        cx: &Context<'_>,
        join: &Signed<Join>,
    ) -> Result<Vec<AggregatorOutput>, Refusal> {
        let claimed = join.peek()?;
        let join = join.verify(&claimed.entry.verify)?;
        if self.outcome().is_some() {
            return Err(Refusal::new(Code::WrongState, "the job is over"));
        }
        join.check(&self.manifest)?;
        let entry = &join.entry;
        if spec(&self.manifest)?.block(&entry.party).is_none() {
            return Err(Refusal::new(Code::UnknownParty, "the job names no columns of this party"));
        }
        match self.parties.get_mut(&entry.party) {
            Some(known) if known.entry.epoch > entry.epoch => {
                return Err(Refusal::new(Code::LabelReuse, "these keys were rotated away"));
            }
            Some(known) if known.entry == *entry => {
                if core::mem::replace(&mut known.active, true) {
                    return Ok(Vec::new());
                }
            }
            // Authorities take one upload of a party's features for the whole job.
            Some(known) if known.features.is_some() => {
                return Err(Refusal::new(
                    Code::LabelUsed,
                    "this party stored its features under other keys: it can take part in a new job",
                ));
            }
            _ => {
                let joined = Joined {
                    entry: entry.clone(),
                    certificates: join.certificates.clone(),
                    active: true,
                    ready: None,
                    features: None,
                    gradient: None,
                };
                self.parties.insert(entry.party.clone(), joined);
            }
        }
        let note = format!("{} epoch {}", entry.party, entry.epoch);
        let mut outputs = vec![Output::Log(Fact::job("party.joined", note))];
        outputs.extend(self.try_epoch(cx));
        Ok(outputs)
    }

    fn sender(&self, name: &Name) -> Result<VerifyKey, Refusal> {
        let known = self.parties.get(name);
        known
            .map(|joined| joined.entry.verify)
            .ok_or_else(|| Refusal::new(Code::UnknownParty, "the sender has not joined"))
    }

    fn ready(
        &mut self,
        cx: &Context<'_>,
        ready: &Signed<Ready>,
    ) -> Result<Vec<AggregatorOutput>, Refusal> {
        let key = self.sender(&ready.peek()?.party)?;
        let ready = ready.verify(&key)?;
        let spec = spec(&self.manifest)?;
        if ready.manifest != self.hash {
            return Err(Refusal::new(Code::UnknownJob, "the rows are of another job"));
        }
        let split = ready.split.map(|(trained, scored)| trained.checked_add(scored));
        let right = match (ready.party == spec.holder, split) {
            (true, Some(sum)) => sum == Some(ready.rows),
            (false, None) => true,
            _ => false,
        };
        if !right {
            return Err(Refusal::new(
                Code::WrongLength,
                "the label holder, and no other, splits its rows into those with a label and the rest",
            ));
        }
        let Some(joined) = self.parties.get_mut(&ready.party) else {
            return Ok(Vec::new());
        };
        if let Some(known) = &joined.ready {
            let same = known.signed() == ready.signed();
            let why = "this party's rows are fixed for the job";
            return if same { Ok(Vec::new()) } else { Err(Refusal::new(Code::Duplicate, why)) };
        }
        let note = format!("{} has {} common rows", ready.party, ready.rows);
        joined.ready = Some(ready);
        let mut outputs = vec![Output::Log(Fact::job("party.aligned", note))];
        outputs.extend(self.try_epoch(cx));
        Ok(outputs)
    }

    /// Opens the alignment, or the next epoch, once all parties of the job are there, or the floor and
    /// the label holder are, nobody's scores would stand alone, and the grace is over.
    fn try_epoch(&mut self, cx: &Context<'_>) -> Vec<AggregatorOutput> {
        let Phase::Gathering(since) = &mut self.phase else {
            return Vec::new();
        };
        // The grace runs from when enough parties were last there.
        let before = since.take();
        let Ok(spec) = spec(&self.manifest) else {
            return Vec::new();
        };
        let Some(holder) = self.parties.get(&spec.holder).filter(|joined| joined.active) else {
            return Vec::new();
        };
        let rows = match (&self.aligned, holder.ready.as_deref()) {
            (None, _) => None,
            (Some(_), Some(rows)) => Some(rows),
            (Some(_), None) => return Vec::new(),
        };
        // Only who aligned the same rows, and stored their features if that is asked for, can take part.
        let agrees = |(name, joined): &(&Name, &Joined)| {
            joined.active
                && rows.is_none_or(|rows| {
                    let own = joined.ready.as_ref();
                    own.is_some_and(|own| (own.rows, own.order) == (rows.rows, rows.order))
                        && self.has_features(name, joined)
                })
        };
        let mut roster: Vec<RosterEntry> =
            self.parties.iter().filter(agrees).map(|(_, joined)| joined.entry.clone()).collect();
        // A late comer whose scores would stand alone stays out of the job.
        if self.shown.with(&self.manifest, &roster).is_err() {
            roster.retain(|entry| entry.party == spec.holder || self.shown.has(&entry.party));
        }
        let passives = u32::try_from(passive(spec, &roster).count()).unwrap_or(u32::MAX);
        if passives < self.manifest.floor() || self.shown.with(&self.manifest, &roster).is_err() {
            return Vec::new();
        }
        let ready = before.unwrap_or(cx.now_ms);
        self.phase = Phase::Gathering(Some(ready));
        let wait_until = ready.saturating_add(self.manifest.deadlines.grace_ms);
        if roster.len() < spec.blocks.len() && cx.now_ms < wait_until {
            return Vec::new();
        }
        let split = rows.and_then(|rows| rows.split).unwrap_or_default();
        let open = EpochOpen {
            manifest: self.hash,
            epoch: self.epoch,
            mix: self.mix,
            align: rows.is_none(),
            roster,
            rows: rows.map_or(0, |rows| rows.rows),
            order: rows.map_or(Hash([0; 32]), |rows| rows.order),
            split,
            trained: rows.map_or(Hash([0; 32]), |rows| rows.trained),
        };
        if !open.align && split.0 < spec.batch {
            let why = format!(
                "{} common rows have a label, and one batch takes {}: lower batch, or add rows",
                split.0, spec.batch
            );
            return self.finish(Outcome::Failed(Refusal::new(Code::BelowFloor, why)));
        }
        if !open.align && batch_rows(spec, &open, 0).is_none() {
            // Nothing is left to score.
            return self.finish(Outcome::Done);
        }
        let what = if open.align { "alignment.opened" } else { "epoch.opened" };
        let note = format!("{} parties, {} rows", open.roster.len(), open.rows);
        let fact = Fact::of(what, self.epoch, self.mix, note);
        let open = Signed::sign(open, cx.identity);
        let until_ms = cx.now_ms.saturating_add(self.manifest.deadlines.collect_ms);
        let certificates = open
            .roster
            .iter()
            .filter_map(|entry| self.parties.get(&entry.party))
            .flat_map(|joined| joined.certificates.iter().cloned())
            .collect();
        self.phase = Phase::Mixing(Epoch {
            open,
            certificates,
            commits: BTreeMap::new(),
            shares: BTreeMap::new(),
            until_ms,
        });
        vec![Output::Log(fact)]
    }

    /// The lists of tags are compared: every party learns the common ones.
    fn intersected(
        &mut self,
        cx: &Context<'_>,
        label: Label,
        outcome: Result<BulkRef, Refusal>,
    ) -> Vec<AggregatorOutput> {
        let Phase::Aligning(aligning) = &self.phase else {
            return Vec::new();
        };
        if aligning.label != label {
            return Vec::new();
        }
        match outcome {
            Ok(common) => {
                let note = format!("{} common rows", common.len / TAG_BYTES as u64);
                self.aligned = Some(Aligned { epoch: aligning.epoch.clone(), common });
                self.mix = 0;
                self.phase = Phase::Gathering(None);
                let mut outputs = vec![Output::Log(Fact::job("rows.aligned", note))];
                outputs.extend(self.try_epoch(cx));
                outputs
            }
            Err(refusal) => self.finish(Outcome::Failed(refusal)),
        }
    }

    fn mixing(&mut self, epoch: &Hash) -> Option<&mut Epoch> {
        match &mut self.phase {
            Phase::Mixing(mixing) if mixing.open.hash() == *epoch => Some(mixing),
            _ => None,
        }
    }

    fn commit(&mut self, commit: &Signed<Commit>) -> Result<Vec<AggregatorOutput>, Refusal> {
        let claimed = commit.peek()?;
        let key = self.sender(&claimed.party)?;
        let commit = commit.verify(&key)?;
        let most = spec(&self.manifest)?.max_rows;
        let Some(epoch) = self.mixing(&commit.epoch) else {
            return Ok(Vec::new());
        };
        in_roster(&epoch.open.roster, &commit.party)?;
        let most = if epoch.open.align { most } else { 0 };
        if u64::from(commit.identifiers) > most || (epoch.open.align && commit.identifiers == 0) {
            return Err(Refusal::new(
                Code::WrongLength,
                format!("a party aligns 1 to {most} identifiers, and none in an epoch"),
            ));
        }
        match epoch.commits.get(&commit.party) {
            Some(known) if known.signed() == commit.signed() => {}
            Some(_) => {
                return Err(Refusal::new(
                    Code::Duplicate,
                    "this party committed to something else",
                )
                .blaming(Culprit::Party(commit.party.clone())));
            }
            None => {
                epoch.commits.insert(commit.party.clone(), commit);
            }
        }
        Ok(Vec::new())
    }

    fn seed_share(
        &mut self,
        cx: &Context<'_>,
        share: &Signed<SeedShare>,
    ) -> Result<Vec<AggregatorOutput>, Refusal> {
        let claimed = share.peek()?;
        let key = self.sender(&claimed.from)?;
        let share = share.verify(&key)?;
        check_sealed(&share.sealed)?;
        let Some(epoch) = self.mixing(&share.epoch) else {
            return Ok(Vec::new());
        };
        in_roster(&epoch.open.roster, &share.from)?;
        in_roster(&epoch.open.roster, &share.to)?;
        if share.from == share.to || !epoch.committed() || share.commits != epoch.permutation() {
            return Err(Refusal::new(
                Code::OutOfOrder,
                "contributions are revealed to others once all commitments are there",
            ));
        }
        epoch
            .shares
            .entry(share.to.clone())
            .or_default()
            .entry(share.from.clone())
            .or_insert(share);
        if !epoch.complete() {
            return Ok(Vec::new());
        }
        let mut epoch = epoch.clone();
        if epoch.open.align {
            let label = align_label(&epoch.open.hash());
            epoch.until_ms = cx.now_ms.saturating_add(self.manifest.deadlines.collect_ms);
            self.phase = Phase::Aligning(Aligning { epoch, label, headers: BTreeMap::new() });
            return Ok(Vec::new());
        }
        Ok(self.open_batch(cx, epoch, 0, 0, None))
    }

    /// Opens an attempt of a batch; `before` is the hash of the opening of the batch before.
    fn open_batch(
        &mut self,
        cx: &Context<'_>,
        epoch: Epoch,
        counter: u32,
        attempt: u16,
        before: Option<Hash>,
    ) -> Vec<AggregatorOutput> {
        let Ok(spec) = spec(&self.manifest) else {
            return Vec::new();
        };
        let Some(rows) = batch_rows(spec, &epoch.open, counter) else {
            return self.end_epoch(cx);
        };
        let purpose =
            if epoch.open.epoch < spec.epochs { BatchPurpose::Train } else { BatchPurpose::Score };
        let fields = BatchFields {
            manifest: self.hash,
            epoch: epoch.open.epoch,
            counter,
            attempt,
            purpose,
            rows,
            roster_root: roster_root(&epoch.open.roster),
            order: epoch.open.order,
            permutation: epoch.permutation(),
            previous: before.unwrap_or_else(|| epoch.open.hash()),
        };
        let label = fields.label(&self.manifest);
        let deadline_ms = cx.now_ms.saturating_add(self.manifest.deadlines.collect_ms);
        let open = Signed::sign(BatchOpen { fields, deadline_ms }, cx.identity);
        let fact = Fact::of("batch.opened", fields.epoch, attempt, format!("batch {counter}"));
        self.phase = Phase::Collecting(Batch { epoch, open, label, headers: BTreeMap::new() });
        vec![Output::Log(fact)]
    }

    fn end_epoch(&mut self, cx: &Context<'_>) -> Vec<AggregatorOutput> {
        let epochs = spec(&self.manifest).map_or(0, |spec: &VerticalSpec| spec.epochs);
        if self.epoch >= epochs {
            return self.finish(Outcome::Done);
        }
        self.epoch = self.epoch.saturating_add(1);
        self.mix = 0;
        self.phase = Phase::Gathering(None);
        self.try_epoch(cx)
    }

    /// Whether a submission with this header would be taken now.
    ///
    /// # Errors
    /// [`Code::Late`], [`Code::UnknownParty`], [`Code::WrongLabel`], [`Code::WrongLength`],
    /// [`Code::Duplicate`], [`Code::BadSignature`].
    pub fn admit(&self, header: &Signed<SubmitHeader>) -> Result<Verified<SubmitHeader>, Refusal> {
        if let Some(label) = self.features_label()
            && header.peek()?.label == label
        {
            return self.admit_features(header);
        }
        if let Phase::Aligning(aligning) = &self.phase {
            return self.admit_tags(aligning, header);
        }
        let (batch, open) = match &self.phase {
            Phase::Collecting(batch) => (batch, true),
            Phase::Bound(bound) => (&bound.batch, false),
            _ => return Err(Refusal::new(Code::Late, "no batch is open")),
        };
        let expected = (&batch.open.fields, &batch.label);
        let header = check_header(&self.manifest, &batch.epoch.open, expected, header)?;
        match batch.headers.get(&header.party) {
            Some(stored) if stored.signed() == header.signed() => Ok(header),
            Some(_) => {
                Err(Refusal::new(Code::Duplicate, "this party submitted other bytes before")
                    .blaming(Culprit::Party(header.party.clone())))
            }
            None if !holds(Check::Late, open) => {
                Err(Refusal::new(Code::Late, "the batch is frozen"))
            }
            None => Ok(header),
        }
    }

    fn admit_features(
        &self,
        header: &Signed<SubmitHeader>,
    ) -> Result<Verified<SubmitHeader>, Refusal> {
        let claimed = header.peek()?;
        let known = self.parties.get(&claimed.party);
        let rows = known.and_then(|joined| Some((joined, joined.ready.as_ref()?)));
        let (joined, ready) = rows.filter(|_| self.outcome().is_none()).ok_or_else(|| {
            Refusal::new(Code::UnknownParty, "features come from who joined and aligned its rows")
        })?;
        let rows = (ready.rows, &ready.order);
        let header = check_features(&self.manifest, rows, &joined.entry, header)?;
        match &joined.features {
            Some(stored) if stored.signed() != header.signed() => {
                Err(Refusal::new(Code::Duplicate, "this party stored other features before")
                    .blaming(Culprit::Party(header.party.clone())))
            }
            _ => Ok(header),
        }
    }

    fn admit_tags(
        &self,
        aligning: &Aligning,
        header: &Signed<SubmitHeader>,
    ) -> Result<Verified<SubmitHeader>, Refusal> {
        let claimed = header.peek()?;
        in_roster(&aligning.epoch.open.roster, &claimed.party)?;
        let header = header.verify(&self.sender(&claimed.party)?)?;
        if header.label != aligning.label || header.manifest != self.hash {
            return Err(Refusal::new(Code::WrongLabel, "the submission is for another label"));
        }
        let announced = aligning.epoch.commits.get(&header.party).map_or(0, |c| c.identifiers);
        let expected = u64::from(announced).saturating_mul(TAG_BYTES as u64);
        if header.ciphertext.len != expected {
            let why = format!("{} bytes of tags, {expected} announced", header.ciphertext.len);
            return Err(
                Refusal::new(Code::WrongLength, why).blaming(Culprit::Party(header.party.clone()))
            );
        }
        match aligning.headers.get(&header.party) {
            Some(stored) if stored.signed() != header.signed() => {
                Err(Refusal::new(Code::Duplicate, "this party submitted other tags before"))
            }
            _ => Ok(header),
        }
    }

    fn submit(
        &mut self,
        cx: &Context<'_>,
        header: &Signed<SubmitHeader>,
    ) -> Result<Vec<AggregatorOutput>, Refusal> {
        let header = self.admit(header)?;
        let receipt =
            Receipt { label: header.label, party: header.party.clone(), header: header.hash() };
        let receipt = Signed::sign(receipt, cx.identity);
        let mut outputs = vec![Output::Send {
            to: Peer::Party(header.party.clone()),
            message: Message::Receipt(receipt.signed().clone()),
        }];
        if self.features_label() == Some(header.label) {
            let note = format!("{}, {} bytes", header.party, header.ciphertext.len);
            outputs.push(Output::Log(Fact::job("features.stored", note)));
            if let Some(joined) = self.parties.get_mut(&header.party) {
                joined.features = Some(header);
            }
            outputs.extend(self.try_epoch(cx));
            return Ok(outputs);
        }
        if let Phase::Aligning(aligning) = &mut self.phase {
            aligning.headers.insert(header.party.clone(), header);
            outputs.extend(self.requests());
            return Ok(outputs);
        }
        let known = match &self.phase {
            Phase::Collecting(batch) => {
                Some((batch.open.fields, batch.headers.contains_key(&header.party)))
            }
            Phase::Bound(bound) => Some((bound.batch.open.fields, true)),
            _ => None,
        };
        if let Some((BatchFields { epoch, counter, attempt, .. }, known)) = known {
            let what = if known { "party.repeated" } else { "party.submitted" };
            let note =
                format!("batch {counter}, {}, {} bytes", header.party, header.ciphertext.len);
            outputs.push(Output::Log(Fact::of(what, epoch, attempt, note)));
        }
        let Phase::Collecting(batch) = &mut self.phase else {
            return Ok(outputs);
        };
        batch.headers.insert(header.party.clone(), header);
        let expected = passive(spec(&self.manifest)?, &batch.epoch.open.roster).count();
        if batch.headers.len() < expected {
            return Ok(outputs);
        }
        let batch = batch.clone();
        self.shown = self.shown.with(&self.manifest, &batch.epoch.open.roster)?;
        let freeze = BatchFreeze {
            epoch: batch.epoch.open.signed().clone(),
            open: batch.open.signed().clone(),
            members: batch.headers.values().map(|header| header.signed().clone()).collect(),
            features: batch
                .headers
                .keys()
                .filter_map(|name| self.parties.get(name)?.features.as_ref())
                .map(|header| header.signed().clone())
                .collect(),
        };
        let fields = batch.open.fields;
        let freeze = Signed::sign(freeze, cx.identity);
        outputs.push(Output::Log(Fact::of(
            "batch.frozen",
            fields.epoch,
            fields.attempt,
            format!("batch {}, freeze {}", fields.counter, freeze.hash()),
        )));
        self.phase = Phase::Bound(Bound {
            batch,
            freeze,
            score_keys: BTreeMap::new(),
            asks: BTreeMap::new(),
            product_keys: BTreeMap::new(),
            gradients: BTreeMap::new(),
        });
        outputs.extend(self.requests());
        Ok(outputs)
    }

    fn bound(&mut self, label: &Label) -> Option<&mut Bound> {
        match &mut self.phase {
            Phase::Bound(bound) if bound.batch.label == *label => Some(bound),
            _ => None,
        }
    }

    fn score_key(&mut self, key: &Signed<ScoreKey>) -> Result<Vec<AggregatorOutput>, Refusal> {
        let verify = self.authority_key(&key.peek()?.authority)?;
        let key = key.verify(&verify)?;
        check_sealed(&key.sealed)?;
        let Some(bound) = self.bound(&key.label) else {
            return Ok(Vec::new());
        };
        if key.freeze != bound.freeze.hash() {
            return Err(Refusal::new(Code::NotFrozen, "a key for another frozen batch")
                .blaming(Culprit::Authority(key.authority.clone())));
        }
        bound.score_keys.entry(key.authority.clone()).or_insert(key);
        Ok(Vec::new())
    }

    /// A message of the label holder.
    fn of_holder<T: crate::wire::Body>(&self, message: &Signed<T>) -> Result<Verified<T>, Refusal> {
        let holder = &spec(&self.manifest)?.holder;
        message.verify(&self.sender(holder)?)
    }

    fn product_ask(&mut self, ask: &Signed<ProductAsk>) -> Result<Vec<AggregatorOutput>, Refusal> {
        let ask = self.of_holder(ask)?;
        self.authority_key(&ask.authority)?;
        check_sealed(&ask.sealed)?;
        let Some(bound) = self.bound(&ask.label) else {
            return Ok(Vec::new());
        };
        match bound.asks.get(&ask.authority) {
            Some(known) if known.signed() == ask.signed() => Ok(Vec::new()),
            Some(_) => {
                Err(Refusal::new(Code::LabelUsed, "other products of this batch were asked for")
                    .blaming(Culprit::Party(spec(&self.manifest)?.holder.clone())))
            }
            None => {
                bound.asks.insert(ask.authority.clone(), ask);
                Ok(self.requests())
            }
        }
    }

    fn product_key(&mut self, key: &Signed<ProductKey>) -> Result<Vec<AggregatorOutput>, Refusal> {
        let verify = self.authority_key(&key.peek()?.authority)?;
        let key = key.verify(&verify)?;
        check_sealed(&key.sealed)?;
        let Some(bound) = self.bound(&key.label) else {
            return Ok(Vec::new());
        };
        if bound.asks.get(&key.authority).is_none_or(|ask| ask.hash() != key.ask) {
            return Err(Refusal::new(Code::NotFrozen, "a key for another request")
                .blaming(Culprit::Authority(key.authority.clone())));
        }
        bound.product_keys.entry(key.authority.clone()).or_insert(key);
        Ok(Vec::new())
    }

    fn gradient(
        &mut self,
        cx: &Context<'_>,
        gradient: &Signed<Gradient>,
    ) -> Result<Vec<AggregatorOutput>, Refusal> {
        let gradient = self.of_holder(gradient)?;
        check_sealed(&gradient.sealed)?;
        let authorities = self.manifest.authorities.len();
        let Some(bound) = self.bound(&gradient.label) else {
            return Ok(Vec::new());
        };
        if !bound.batch.headers.contains_key(&gradient.to) {
            return Err(Refusal::new(Code::UnknownParty, "a gradient for nobody of this batch"));
        }
        if bound.product_keys.len() < authorities {
            return Err(Refusal::new(Code::OutOfOrder, "not all product keys are there"));
        }
        bound.gradients.entry(gradient.to.clone()).or_insert(gradient);
        if bound.gradients.len() < bound.batch.headers.len() {
            return Ok(Vec::new());
        }
        let bound = bound.clone();
        let sealed = bound.sealed();
        for (name, gradient) in bound.gradients {
            if let Some(joined) = self.parties.get_mut(&name) {
                joined.gradient = Some(gradient.signed().clone());
            }
        }
        Ok(self.next_batch(cx, bound.batch, sealed))
    }

    fn scored(
        &mut self,
        cx: &Context<'_>,
        scored: &Signed<Scored>,
    ) -> Result<Vec<AggregatorOutput>, Refusal> {
        let scored = self.of_holder(scored)?;
        let authorities = self.manifest.authorities.len();
        let Some(bound) = self.bound(&scored.label) else {
            return Ok(Vec::new());
        };
        if bound.batch.open.fields.purpose != BatchPurpose::Score
            || bound.score_keys.len() < authorities
        {
            return Err(Refusal::new(Code::OutOfOrder, "the batch is not open"));
        }
        let (batch, sealed) = (bound.batch.clone(), bound.sealed());
        Ok(self.next_batch(cx, batch, sealed))
    }

    /// Goes on after a batch for which `sealed` bytes were passed on.
    fn next_batch(
        &mut self,
        cx: &Context<'_>,
        batch: Batch,
        sealed: usize,
    ) -> Vec<AggregatorOutput> {
        let fields = batch.open.fields;
        self.opened = self.opened.saturating_add(1);
        let mut outputs = vec![Output::Log(Fact::of(
            "batch.done",
            fields.epoch,
            fields.attempt,
            format!("batch {}, {sealed} sealed bytes passed on", fields.counter),
        ))];
        let before = batch.open.hash();
        let next = fields.counter.saturating_add(1);
        outputs.extend(self.open_batch(cx, batch.epoch, next, 0, Some(before)));
        outputs
    }

    fn refused(&mut self, by: &Name, refusal: Refusal) -> Vec<AggregatorOutput> {
        // A key that an authority refuses for good will never open this batch, and what another
        // authority released cannot be taken back: the job ends.
        let mut outputs =
            vec![Output::Log(Fact::job("authority.refused", format!("{by}: {refusal}")))];
        outputs.extend(self.finish(Outcome::Failed(refusal)));
        outputs
    }

    fn wake(&mut self, cx: &Context<'_>) -> Result<Vec<AggregatorOutput>, Refusal> {
        match &self.phase {
            Phase::Gathering(_) => Ok(self.try_epoch(cx)),
            Phase::Mixing(epoch) if cx.now_ms >= epoch.until_ms => {
                let late: Vec<Name> = epoch
                    .open
                    .roster
                    .iter()
                    .map(|entry| entry.party.clone())
                    .filter(|party| !epoch.has(party))
                    .collect();
                Ok(self.mix_again(cx, &late))
            }
            Phase::Aligning(aligning)
                if cx.now_ms >= aligning.epoch.until_ms
                    && aligning.headers.len() < aligning.epoch.open.roster.len() =>
            {
                let late: Vec<Name> = aligning
                    .epoch
                    .open
                    .roster
                    .iter()
                    .map(|entry| entry.party.clone())
                    .filter(|party| !aligning.headers.contains_key(party))
                    .collect();
                Ok(self.mix_again(cx, &late))
            }
            Phase::Collecting(batch) if cx.now_ms >= batch.open.deadline_ms => {
                let batch = batch.clone();
                let fields = batch.open.fields;
                let late: Vec<Name> = self.waited(&batch).cloned().collect();
                let note = format!("batch {}, {} missing", fields.counter, late.len());
                let mut outputs =
                    vec![Output::Log(Fact::of("batch.burned", fields.epoch, fields.attempt, note))];
                let next = fields.attempt.saturating_add(1);
                if next < self.manifest.deadlines.max_attempts {
                    let before = Some(fields.previous);
                    outputs.extend(self.open_batch(cx, batch.epoch, fields.counter, next, before));
                    return Ok(outputs);
                }
                // The rows that this epoch has not reached sit it out. Rows that are only scored are
                // not scored again without the party: the two sums would show its part.
                outputs.extend(self.leave_out(&late));
                if fields.purpose == BatchPurpose::Score {
                    if fields.counter > 0 {
                        let why = "rows are left unscored: a party is missing";
                        let failed = Refusal::new(self.manifest.floor_code(), why);
                        outputs.extend(self.finish(Outcome::Failed(failed)));
                        return Ok(outputs);
                    }
                    self.mix = self.mix.saturating_add(1);
                    self.phase = Phase::Gathering(None);
                    outputs.extend(self.try_epoch(cx));
                    return Ok(outputs);
                }
                outputs.extend(self.end_epoch(cx));
                Ok(outputs)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Begins a mixing, or the alignment, again without those who were waited for in vain.
    fn mix_again(&mut self, cx: &Context<'_>, late: &[Name]) -> Vec<AggregatorOutput> {
        let mut outputs = self.leave_out(late);
        self.mix = self.mix.saturating_add(1);
        if self.mix >= self.manifest.deadlines.max_attempts {
            let why = "the parties did not get together in time for an epoch";
            let failed = Refusal::new(self.manifest.floor_code(), why);
            outputs.extend(self.finish(Outcome::Failed(failed)));
            return outputs;
        }
        self.phase = Phase::Gathering(None);
        outputs.extend(self.try_epoch(cx));
        outputs
    }

    /// Parties that were waited for in vain are not in the next epoch, unless they join again.
    fn leave_out(&mut self, late: &[Name]) -> Vec<AggregatorOutput> {
        let mut outputs = Vec::new();
        for name in late {
            if let Some(joined) = self.parties.get_mut(name) {
                joined.active = false;
                outputs.push(Output::Log(Fact::job("party.left-out", name.to_string())));
            }
        }
        outputs
    }
}

fn in_roster(roster: &[RosterEntry], party: &Name) -> Result<(), Refusal> {
    if roster.iter().any(|entry| entry.party == *party) {
        Ok(())
    } else {
        Err(Refusal::new(Code::UnknownParty, "not a party of this epoch"))
    }
}

fn check_sealed(sealed: &[u8]) -> Result<(), Refusal> {
    if sealed.len() > MAX_SEALED {
        return Err(Refusal::new(Code::TooLarge, "a sealed message over 3 MiB"));
    }
    Ok(())
}
