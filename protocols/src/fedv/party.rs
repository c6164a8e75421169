//! The parties' side of a vertical job: the label holder and the passive parties.
//!
//! ```text
//! passive: Waiting -> Sealing -> Submitted -> Applying -> Waiting ...
//! holder:  Waiting -> Opening -> Asked -> Combining -> Answered -> Waiting ...
//! ```
//!
//! A party learns of everything by looking at the aggregator's [`PartyView`]; every look is handled the
//! same way, however often it comes.

use quorate_crypto::merkle::Hash;
use quorate_crypto::sum::{Label, Nonce};
use serde::{Deserialize, Serialize};

use super::align::AlignedRows;
use super::messages::{
    BatchFields, BatchFreeze, BatchOpen, BatchPurpose, Commit, EpochOpen, Gradient, PartyView,
    ProductAsk, ProductKey, Ready, ScoreKey, Scored, SeedShare, VerticalMessage, root_of,
    trained_hash,
};
use super::work::Own;
use super::{
    Shown, check_batch, check_certificates, check_epoch, check_members, check_stored,
    features_label, spec,
};
use crate::checks::{Check, holds};
use crate::enrol::Enrolled;
use crate::job::{JobPackage, Manifest, Minima, RosterEntry};
use crate::machine::{Bug, Context, Fact, Output, Peer};
use crate::refusal::{Code, Culprit, Refusal};
use crate::round::messages::{BulkRef, Message, SubmitHeader};
use crate::wire::{Name, Signed, Verified};
use crate::workload::VerticalSpec;

/// An epoch as a party knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mixed {
    /// Its opening.
    pub open: Signed<EpochOpen>,
    /// All commitments, in roster order.
    pub commits: Vec<Signed<Commit>>,
    /// What the others sealed to this party.
    pub shares: Vec<Signed<SeedShare>>,
}

/// Work outside the machine. Every piece gives the same bytes when it is repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PartyWork {
    /// Encrypt all features once, for jobs that store them: [`Own::encrypt_features`].
    EncryptFeatures {
        /// Their label.
        label: Label,
        /// Fresh randomness of this label.
        nonce: Nonce,
        /// The label holder, with the keys that the cover is for.
        holder: RosterEntry,
    },
    /// Encrypt the party's part of a batch: [`Own::encrypt`].
    Encrypt {
        /// The epoch.
        epoch: Mixed,
        /// The batch.
        fields: BatchFields,
        /// Fresh randomness of this label.
        nonce: Nonce,
    },
    /// Open a gradient and move the weights: [`Own::apply`].
    Apply {
        /// The epoch.
        epoch: Mixed,
        /// The batch.
        fields: BatchFields,
        /// The nonce of the submission.
        nonce: Nonce,
        /// The masked gradient.
        gradient: Signed<Gradient>,
    },
    /// Open the scores of a batch: [`Own::open`]; for training, also the residuals and
    /// [`Own::product_asks`].
    Open {
        /// The epoch.
        epoch: Mixed,
        /// The frozen batch.
        freeze: Signed<BatchFreeze>,
        /// The batch.
        fields: BatchFields,
        /// Every authority's key.
        keys: Vec<Signed<ScoreKey>>,
    },
    /// Open the masked products and move the own weights: [`Own::gradients`], [`Own::step_holder`].
    Combine {
        /// The epoch.
        epoch: Mixed,
        /// The frozen batch.
        freeze: Signed<BatchFreeze>,
        /// The batch.
        fields: BatchFields,
        /// Every authority's score key.
        score_keys: Vec<Signed<ScoreKey>>,
        /// Every authority's product key.
        product_keys: Vec<Signed<ProductKey>>,
    },
}

/// What a party handles.
#[derive(Clone, Debug)]
pub enum Event {
    /// A look at the aggregator's state.
    View(Box<PartyView>),
    /// [`PartyWork::Encrypt`] or [`PartyWork::EncryptFeatures`] is done and the ciphertext is durable.
    Encrypted {
        /// Its label.
        label: Label,
        /// The ciphertext.
        ciphertext: BulkRef,
    },
    /// The aggregator holds this submission.
    Received {
        /// Its label.
        label: Label,
    },
    /// [`PartyWork::Apply`] is done; the new weights are stored with this event.
    Applied {
        /// Its label.
        label: Label,
    },
    /// [`PartyWork::Open`] is done: the requests for products, none for rows that are only scored.
    Opened {
        /// Its label.
        label: Label,
        /// One per authority.
        asks: Vec<ProductAsk>,
    },
    /// [`PartyWork::Combine`] is done; the new weights are stored with this event.
    Combined {
        /// Its label.
        label: Label,
        /// One per passive party.
        gradients: Vec<Gradient>,
    },
}

/// An output of this machine.
pub type PartyOutput = Output<Message, PartyWork>;

/// What a party is doing about the open batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Step {
    Waiting,
    Sealing {
        nonce: Nonce,
    },
    Submitted {
        header: Signed<SubmitHeader>,
        nonce: Nonce,
        received: bool,
    },
    Applying {
        nonce: Nonce,
        gradient: Signed<Gradient>,
    },
    Opening {
        freeze: Signed<BatchFreeze>,
        keys: Vec<Signed<ScoreKey>>,
    },
    Asked {
        freeze: Signed<BatchFreeze>,
        keys: Vec<Signed<ScoreKey>>,
        asks: Vec<Signed<ProductAsk>>,
    },
    Combining {
        freeze: Signed<BatchFreeze>,
        keys: Vec<Signed<ScoreKey>>,
        products: Vec<Signed<ProductKey>>,
    },
    Answered {
        gradients: Vec<Signed<Gradient>>,
    },
    Scored {
        scored: Signed<Scored>,
    },
}

impl Step {
    /// Whether keys of the batch were released, as far as this party knows.
    const fn is_released(&self) -> bool {
        !matches!(self, Self::Waiting | Self::Sealing { .. } | Self::Submitted { .. })
    }
}

/// The upload of features that serves all batches.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Stored {
    nonce: Nonce,
    header: Option<Signed<SubmitHeader>>,
    received: bool,
}

/// The batch a party is at.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Working {
    open: Verified<BatchOpen>,
    label: Label,
    step: Step,
}

/// The epoch a party is in.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Current {
    open: Verified<EpochOpen>,
    mixed: Mixed,
    /// The next batch, and what it must follow.
    counter: u32,
    previous: Hash,
}

/// One vertical job at one party.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PartyJob {
    me: Name,
    package: JobPackage,
    entry: RosterEntry,
    ready: Verified<Ready>,
    /// The label holder's rows to train on, one bit per aligned row.
    trained: Vec<u8>,
    /// What the first epoch bound the rows to train on by: the same in every later one.
    bound: Option<Hash>,
    /// The label holder, with the keys that stored features are covered for.
    holder: RosterEntry,
    /// The features sent once, at a passive party of a job that has it so.
    stored: Option<Stored>,
    epoch: Option<Current>,
    /// Over the epochs whose scores were opened, as far as this party knows.
    shown: Shown,
    working: Option<Working>,
    /// Batches finished here.
    done: u64,
}

impl PartyJob {
    /// Joins a job with aligned rows. The label holder names the rows it trains on, one bit each; others
    /// pass nothing.
    ///
    /// # Errors
    /// [`Code::BadManifest`], [`Code::BelowMinima`], or [`Code::UnknownParty`] when the job names no
    /// columns of this party.
    pub fn join(
        cx: &Context<'_>,
        entry: RosterEntry,
        minima: &Minima,
        package: JobPackage,
        aligned: AlignedRows,
        trained: Vec<u8>,
    ) -> Result<(Self, Vec<PartyOutput>), Refusal> {
        package.verify()?;
        let manifest = &package.manifest;
        minima.check(manifest)?;
        let spec = spec(manifest)?;
        let me = entry.party.clone();
        if spec.block(&me).is_none() {
            return Err(Refusal::new(
                Code::UnknownParty,
                format!("the job names no columns of {me}: check --name, or the job's blocks"),
            ));
        }
        let AlignedRows { count: rows, order, holder } = aligned;
        let count = trained.iter().map(|byte| byte.count_ones()).sum::<u32>();
        let split = (me == spec.holder).then(|| (count, rows.saturating_sub(count)));
        let own = Own { me: &me, identity: cx.identity, manifest };
        let bound = match split {
            Some(_) => trained_hash(own.trained_salt().expose(), &trained),
            None => Hash([0; 32]),
        };
        let (manifest, party) = (manifest.hash(), me.clone());
        let ready = Ready { manifest, party, rows, order, split, trained: bound };
        let ready = Signed::sign(ready, cx.identity);
        let job = Self {
            me,
            package,
            entry,
            ready,
            trained,
            bound: None,
            holder,
            stored: None,
            epoch: None,
            shown: Shown::default(),
            working: None,
            done: 0,
        };
        let outputs = vec![
            Output::Log(Fact::job("job.joined", job.manifest().title.clone())),
            send(VerticalMessage::Ready(job.ready.signed().clone())),
        ];
        Ok((job, outputs))
    }

    /// The manifest.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.package.manifest
    }

    /// What this party said about its rows.
    #[must_use]
    pub const fn ready(&self) -> &Verified<Ready> {
        &self.ready
    }

    /// The label holder's rows to train on; `None` at others.
    #[must_use]
    pub fn trained(&self) -> Option<&[u8]> {
        self.is_holder().then_some(self.trained.as_slice())
    }

    /// The parties of the epoch this party is in.
    #[must_use]
    pub fn roster(&self) -> Option<Vec<Name>> {
        let epoch = self.epoch.as_ref()?;
        Some(epoch.open.roster.iter().map(|entry| entry.party.clone()).collect())
    }

    /// Batches finished here.
    #[must_use]
    pub const fn done(&self) -> u64 {
        self.done
    }

    /// Name of what the party is doing.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        match self.working.as_ref().map(|working| &working.step) {
            None | Some(Step::Waiting) => "Waiting",
            Some(Step::Sealing { .. }) => "Sealing",
            Some(Step::Submitted { .. }) => "Submitted",
            Some(Step::Applying { .. }) => "Applying",
            Some(Step::Opening { .. }) => "Opening",
            Some(Step::Asked { .. }) => "Asked",
            Some(Step::Combining { .. }) => "Combining",
            Some(Step::Answered { .. }) => "Answered",
            Some(Step::Scored { .. }) => "Scored",
        }
    }

    fn spec(&self) -> Result<&VerticalSpec, Refusal> {
        spec(self.manifest())
    }

    fn is_holder(&self) -> bool {
        self.spec().is_ok_and(|spec| spec.holder == self.me)
    }

    /// What the stored machine still has to send or to compute.
    #[must_use]
    pub fn requests(&self) -> Vec<PartyOutput> {
        let mut outputs = self.stored_requests();
        outputs.extend(self.batch_requests());
        outputs
    }

    /// The label of stored features, of a job that has them sent once.
    #[must_use]
    pub fn features_label(&self) -> Label {
        features_label(&self.manifest().hash(), &self.ready.order)
    }

    fn stored_requests(&self) -> Vec<PartyOutput> {
        match &self.stored {
            Some(Stored { nonce, header: None, .. }) => {
                let (label, nonce, holder) = (self.features_label(), *nonce, self.holder.clone());
                vec![Output::Work(PartyWork::EncryptFeatures { label, nonce, holder })]
            }
            Some(Stored { header: Some(header), received: false, .. }) => {
                let message = Message::Submit(header.clone());
                vec![Output::Send { to: Peer::Aggregator, message }]
            }
            _ => Vec::new(),
        }
    }

    fn batch_requests(&self) -> Vec<PartyOutput> {
        let (Some(epoch), Some(working)) = (&self.epoch, &self.working) else {
            return Vec::new();
        };
        let (epoch, fields) = (epoch.mixed.clone(), working.open.fields);
        match &working.step {
            Step::Waiting => Vec::new(),
            Step::Sealing { nonce } => {
                vec![Output::Work(PartyWork::Encrypt { epoch, fields, nonce: *nonce })]
            }
            Step::Submitted { header, received, .. } => {
                let to = Peer::Aggregator;
                let message = Message::Submit(header.clone());
                if *received { Vec::new() } else { vec![Output::Send { to, message }] }
            }
            Step::Applying { nonce, gradient } => {
                let (nonce, gradient) = (*nonce, gradient.clone());
                vec![Output::Work(PartyWork::Apply { epoch, fields, nonce, gradient })]
            }
            Step::Opening { freeze, keys } => {
                let (freeze, keys) = (freeze.clone(), keys.clone());
                vec![Output::Work(PartyWork::Open { epoch, freeze, fields, keys })]
            }
            Step::Asked { asks, .. } => {
                asks.iter().map(|ask| send(VerticalMessage::ProductAsk(ask.clone()))).collect()
            }
            Step::Combining { freeze, keys, products } => {
                vec![Output::Work(PartyWork::Combine {
                    epoch,
                    freeze: freeze.clone(),
                    fields,
                    score_keys: keys.clone(),
                    product_keys: products.clone(),
                })]
            }
            Step::Answered { gradients } => gradients
                .iter()
                .map(|gradient| send(VerticalMessage::Gradient(gradient.clone())))
                .collect(),
            Step::Scored { scored } => vec![send(VerticalMessage::Scored(scored.clone()))],
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
            Event::View(view) => next.view(cx, &view),
            Event::Encrypted { label, ciphertext } => Ok(next.encrypted(cx, label, ciphertext)),
            Event::Received { label } => {
                if label == next.features_label()
                    && let Some(stored) = &mut next.stored
                {
                    stored.received = true;
                }
                if let Some(Working { label: own, step: Step::Submitted { received, .. }, .. }) =
                    &mut next.working
                    && *own == label
                {
                    *received = true;
                }
                Ok(Vec::new())
            }
            Event::Applied { label } => Ok(next.applied(label)),
            Event::Opened { label, asks } => Ok(next.opened(cx, label, asks)),
            Event::Combined { label, gradients } => Ok(next.combined(cx, label, gradients)),
        };
        Ok(match outcome {
            Ok(outputs) => (next, outputs),
            Err(refusal) => {
                let fact = Fact::job("refused", refusal.to_string());
                (self, vec![Output::Log(fact), Output::Reject(refusal)])
            }
        })
    }

    fn view(
        &mut self,
        cx: &mut Context<'_>,
        view: &PartyView,
    ) -> Result<Vec<PartyOutput>, Refusal> {
        let mut outputs = Vec::new();
        if self.stored.is_none() && !self.is_holder() && self.spec()?.static_features {
            let mut nonce = Nonce([0; 16]);
            cx.rng.fill_bytes(&mut nonce.0);
            self.stored = Some(Stored { nonce, header: None, received: false });
        }
        if let Some(gradient) = &view.gradient {
            self.take_gradient(gradient)?;
        }
        let Some(epoch) = &view.epoch else {
            outputs.extend(self.requests());
            return Ok(outputs);
        };
        if self.epoch.as_ref().is_none_or(|current| current.open.signed() != epoch) {
            self.enter(epoch, &view.certificates)?;
        }
        // A late look at an epoch that is over, or one at the next while this one is unfinished.
        if self.epoch.as_ref().is_none_or(|current| current.open.signed() != epoch) {
            if self.epoch.is_none() {
                outputs.push(send(VerticalMessage::Ready(self.ready.signed().clone())));
            }
            outputs.extend(self.requests());
            return Ok(outputs);
        }
        outputs.extend(self.mix(cx, view)?);
        if let Some(batch) = &view.batch {
            self.batch(cx, batch)?;
        }
        self.keys(view)?;
        outputs.extend(self.requests());
        Ok(outputs)
    }

    /// V9: an epoch of this job, over this party's rows, with its own keys in the roster.
    fn enter(
        &mut self,
        epoch: &Signed<EpochOpen>,
        certificates: &[Signed<Enrolled>],
    ) -> Result<(), Refusal> {
        let open = check_epoch(self.manifest(), epoch)?;
        // The alignment is shown until this party is known to be ready; an epoch whose first batch is over
        // began without it.
        if open.align || certificates.is_empty() {
            return Ok(());
        }
        check_certificates(self.manifest(), &open, certificates)?;
        let blame = |code, why: &str| Refusal::new(code, why).blaming(Culprit::Aggregator);
        let turn = |open: &EpochOpen| (open.epoch, open.mix);
        if let Some(current) = &self.epoch {
            if turn(&open) < turn(&current.open) {
                return Ok(());
            }
            // An epoch is mixed again only while nothing of it was opened.
            let opened = current.counter > 0
                || self.working.as_ref().is_some_and(|working| working.step.is_released());
            if open.epoch == current.open.epoch && opened {
                return Err(blame(
                    Code::LabelUsed,
                    "an epoch whose batches were opened begins again",
                ));
            }
            if turn(&open) == turn(&current.open) {
                return Err(blame(
                    Code::WrongLabel,
                    "another opening of this epoch was shown before",
                ));
            }
        }
        if !open.roster.contains(&self.entry) {
            return Err(blame(Code::BadRoster, "this party's keys are not in the epoch's roster"));
        }
        if self.spec()?.static_features && !open.roster.contains(&self.holder) {
            return Err(Refusal::new(
                Code::BadRoster,
                "the label holder has other keys than those the stored features are covered for: start \
                 a new job",
            ));
        }
        let own = &self.ready;
        let same = open.rows == own.rows
            && open.order == own.order
            && own.split.is_none_or(|split| (split, own.trained) == (open.split, open.trained))
            && self.bound.is_none_or(|bound| bound == open.trained);
        if !same {
            return Err(blame(Code::WrongLabel, "the epoch is over other rows than this party's"));
        }
        self.shown.with(self.manifest(), &open.roster)?;
        // An unanswered batch that is still this party's to finish holds the epoch up.
        if self.working.as_ref().is_some_and(|working| {
            matches!(working.step, Step::Applying { .. } | Step::Combining { .. })
        }) {
            return Ok(());
        }
        self.working = None;
        self.bound = Some(open.trained);
        let previous = open.hash();
        let mixed = Mixed { open: open.signed().clone(), commits: Vec::new(), shares: Vec::new() };
        self.epoch = Some(Current { open, mixed, counter: 0, previous });
        Ok(())
    }

    fn mix(&mut self, cx: &Context<'_>, view: &PartyView) -> Result<Vec<PartyOutput>, Refusal> {
        let (me, manifest) = (self.me.clone(), self.package.manifest.clone());
        let own = Own { me: &me, identity: cx.identity, manifest: &manifest };
        let Some(current) = &mut self.epoch else {
            return Ok(Vec::new());
        };
        // After an epoch's first batch its order is shown no more.
        if view.commits.is_empty() && !current.mixed.shares.is_empty() {
            return Ok(Vec::new());
        }
        let epoch = current.open.hash();
        let commitment = Signed::sign(own.commitment(&epoch, 0), cx.identity);
        if view.commits.is_empty() {
            return Ok(vec![send(VerticalMessage::Commit(commitment.signed().clone()))]);
        }
        if current.mixed.commits.is_empty() {
            check_commits(&current.open, &view.commits)?;
            if !view.commits.contains(commitment.signed()) {
                return Err(Refusal::new(Code::WrongLabel, "this party's commitment was left out")
                    .blaming(Culprit::Aggregator));
            }
            current.mixed.commits.clone_from(&view.commits);
        } else if current.mixed.commits != view.commits {
            return Err(Refusal::new(Code::WrongLabel, "other commitments than were shown before")
                .blaming(Culprit::Aggregator));
        }
        if view.shares.is_empty() {
            let seen = (&epoch, &*current.open);
            let shares = own.seed_shares(seen, &current.mixed.commits, &self.trained)?;
            let sign = |share: SeedShare| Signed::sign(share, cx.identity).signed().clone();
            return Ok(shares
                .into_iter()
                .map(|share| send(VerticalMessage::SeedShare(sign(share))))
                .collect());
        }
        if current.mixed.shares.is_empty() {
            let given = spec(&manifest)?.holder == me;
            let trained = given.then_some(self.trained.as_slice());
            // V10, before anything is encrypted in this order.
            own.order((&epoch, &current.open), &current.mixed.commits, &view.shares, trained)?;
            current.mixed.shares.clone_from(&view.shares);
        }
        Ok(Vec::new())
    }

    /// V11: the next batch of the epoch, or another attempt of it.
    fn batch(&mut self, cx: &mut Context<'_>, batch: &Signed<BatchOpen>) -> Result<(), Refusal> {
        let holder = self.is_holder();
        let manifest = self.package.manifest.clone();
        let Some(current) = &mut self.epoch else {
            return Ok(());
        };
        if current.mixed.shares.is_empty()
            || self.working.as_ref().is_some_and(|working| working.open.signed() == batch)
        {
            return Ok(());
        }
        let (open, label) = check_batch(&manifest, &current.open, batch)?;
        let blame = |code, why: &str| Refusal::new(code, why).blaming(Culprit::Aggregator);
        let fields = open.fields;
        if fields.permutation != root_of(&current.mixed.commits) {
            return Err(blame(
                Code::WrongLabel,
                "the batch is of another order than the one mixed",
            ));
        }
        if fields.counter < current.counter {
            // A late look.
            return Ok(());
        }
        if let Some(working) = &self.working {
            let before = working.open.fields;
            if fields.position() == before.position() {
                if fields.attempt < before.attempt {
                    return Ok(());
                }
                if working.step.is_released() || fields.attempt == before.attempt {
                    return Err(blame(
                        Code::LabelUsed,
                        "a batch is not opened again once its keys were released",
                    ));
                }
            } else {
                let over = match working.step {
                    // This party's own work comes first.
                    Step::Applying { .. } | Step::Combining { .. } => return Ok(()),
                    // Nothing comes back for rows that are only scored.
                    Step::Submitted { .. } => before.purpose == BatchPurpose::Score,
                    Step::Answered { .. } | Step::Scored { .. } => true,
                    _ => false,
                };
                if !over {
                    return Err(blame(Code::OutOfOrder, "the batch before is not finished here"));
                }
                current.counter = before.counter.saturating_add(1);
                current.previous = working.open.hash();
                self.done = self.done.saturating_add(1);
            }
        }
        if !holds(
            Check::OneOpening,
            fields.counter == current.counter && fields.previous == current.previous,
        ) {
            return Err(blame(Code::OutOfOrder, "not the next batch of the epoch"));
        }
        // V12: the nonce is drawn once and stored before anything is encrypted under it.
        let step = if holder {
            Step::Waiting
        } else {
            let mut nonce = Nonce([0; 16]);
            cx.rng.fill_bytes(&mut nonce.0);
            Step::Sealing { nonce }
        };
        self.working = Some(Working { open, label, step });
        Ok(())
    }

    fn encrypted(
        &mut self,
        cx: &Context<'_>,
        label: Label,
        ciphertext: BulkRef,
    ) -> Vec<PartyOutput> {
        let manifest = self.manifest().hash();
        let (party, epoch) = (self.me.clone(), self.entry.epoch);
        let scheme = self.manifest().scheme;
        if label == self.features_label() {
            if let Some(Stored { nonce, header: header @ None, .. }) = &mut self.stored {
                let nonce = *nonce;
                let made =
                    SubmitHeader { scheme, manifest, label, party, epoch, nonce, ciphertext };
                *header = Some(Signed::sign(made, cx.identity).signed().clone());
            }
            return self.stored_requests();
        }
        let Some(working) = self.working.as_mut().filter(|working| working.label == label) else {
            return Vec::new();
        };
        let Step::Sealing { nonce } = working.step else {
            return Vec::new();
        };
        let header = SubmitHeader { scheme, manifest, label, party, epoch, nonce, ciphertext };
        let header = Signed::sign(header, cx.identity).signed().clone();
        working.step = Step::Submitted { header, nonce, received: false };
        self.requests()
    }

    fn take_gradient(&mut self, gradient: &Signed<Gradient>) -> Result<(), Refusal> {
        let Some(working) = &mut self.working else {
            return Ok(());
        };
        let Step::Submitted { nonce, .. } = working.step else {
            return Ok(());
        };
        let claimed = gradient.peek()?;
        // An older one stays in view until the next comes.
        if claimed.label != working.label || claimed.to != self.me {
            return Ok(());
        }
        let holder = &spec(&self.package.manifest)?.holder;
        let roster = self.epoch.as_ref().map_or(&[][..], |current| &current.open.roster);
        let entry = roster.iter().find(|entry| entry.party == *holder);
        let entry = entry.ok_or_else(|| Refusal::new(Code::UnknownParty, "no label holder"))?;
        gradient.verify(&entry.verify)?;
        self.shown = self.shown.with(&self.package.manifest, roster)?;
        working.step = Step::Applying { nonce, gradient: gradient.clone() };
        Ok(())
    }

    fn applied(&mut self, label: Label) -> Vec<PartyOutput> {
        let Some(working) = self.working.as_ref().filter(|working| working.label == label) else {
            return Vec::new();
        };
        if !matches!(working.step, Step::Applying { .. }) {
            return Vec::new();
        }
        if let Some(current) = &mut self.epoch {
            current.counter = working.open.fields.counter.saturating_add(1);
            current.previous = working.open.hash();
        }
        let fields = working.open.fields;
        self.working = None;
        self.done = self.done.saturating_add(1);
        let note = format!("batch {}", fields.counter);
        vec![Output::Log(Fact::of("batch.applied", fields.epoch, fields.attempt, note))]
    }

    /// The label holder takes the keys of the frozen batch.
    fn keys(&mut self, view: &PartyView) -> Result<(), Refusal> {
        if !self.is_holder() {
            return Ok(());
        }
        let authorities = self.manifest().authorities.len();
        let manifest = &self.package.manifest;
        let (Some(current), Some(working)) = (&self.epoch, &mut self.working) else {
            return Ok(());
        };
        if view.batch.as_ref() != Some(working.open.signed()) {
            return Ok(());
        }
        match (&working.step, &view.freeze) {
            (Step::Waiting, Some(freeze)) if view.score_keys.len() == authorities => {
                let checked = freeze.verify(&manifest.aggregator)?;
                let same = checked.epoch == *current.open.signed()
                    && checked.open == *working.open.signed();
                if !same {
                    return Err(Refusal::new(Code::WrongLabel, "another batch was frozen")
                        .blaming(Culprit::Aggregator));
                }
                let expected = (&working.open.fields, &working.label);
                check_members(manifest, &current.open, expected, &checked)?;
                check_stored(manifest, &current.open, &checked)?;
                for (authority, key) in manifest.authorities.iter().zip(&view.score_keys) {
                    let key = key.verify(&authority.verify)?;
                    let right = key.authority == authority.name
                        && key.label == working.label
                        && key.freeze == checked.hash();
                    if !right {
                        return Err(Refusal::new(Code::NotFrozen, "a key for another batch"));
                    }
                }
                let (freeze, keys) = (freeze.clone(), view.score_keys.clone());
                working.step = Step::Opening { freeze, keys };
            }
            (Step::Asked { freeze, keys, asks }, _) if view.product_keys.len() == authorities => {
                let answers = manifest.authorities.iter().zip(&view.product_keys).zip(asks);
                for ((authority, key), ask) in answers {
                    let key = key.verify(&authority.verify)?;
                    let right = key.authority == authority.name
                        && key.label == working.label
                        && key.ask == ask.hash();
                    if !right {
                        return Err(Refusal::new(Code::NotFrozen, "a key for another request"));
                    }
                }
                working.step = Step::Combining {
                    freeze: freeze.clone(),
                    keys: keys.clone(),
                    products: view.product_keys.clone(),
                };
            }
            _ => {}
        }
        Ok(())
    }

    fn opened(
        &mut self,
        cx: &Context<'_>,
        label: Label,
        asks: Vec<ProductAsk>,
    ) -> Vec<PartyOutput> {
        let Some(working) = self.working.as_mut().filter(|working| working.label == label) else {
            return Vec::new();
        };
        let Step::Opening { freeze, keys } = &working.step else {
            return Vec::new();
        };
        let (freeze, keys) = (freeze.clone(), keys.clone());
        working.step = match working.open.fields.purpose {
            BatchPurpose::Train => {
                let sign = |ask: ProductAsk| Signed::sign(ask, cx.identity).signed().clone();
                Step::Asked { freeze, keys, asks: asks.into_iter().map(sign).collect() }
            }
            BatchPurpose::Score => {
                let scored = Signed::sign(Scored { label }, cx.identity).signed().clone();
                Step::Scored { scored }
            }
        };
        self.requests()
    }

    fn combined(
        &mut self,
        cx: &Context<'_>,
        label: Label,
        gradients: Vec<Gradient>,
    ) -> Vec<PartyOutput> {
        let Some(working) = self.working.as_mut().filter(|working| working.label == label) else {
            return Vec::new();
        };
        if !matches!(working.step, Step::Combining { .. }) {
            return Vec::new();
        }
        let sign = |gradient: Gradient| Signed::sign(gradient, cx.identity).signed().clone();
        working.step = Step::Answered { gradients: gradients.into_iter().map(sign).collect() };
        let fields = working.open.fields;
        let note = format!("batch {}", fields.counter);
        let mut outputs =
            vec![Output::Log(Fact::of("batch.answered", fields.epoch, fields.attempt, note))];
        outputs.extend(self.requests());
        outputs
    }
}

/// Every party of the roster committed, each once and in order.
pub(super) fn check_commits(open: &EpochOpen, commits: &[Signed<Commit>]) -> Result<(), Refusal> {
    if commits.len() != open.roster.len() {
        return Err(Refusal::new(Code::WrongLength, "another number of commitments than parties"));
    }
    for (entry, commit) in open.roster.iter().zip(commits) {
        let commit = commit.verify(&entry.verify)?;
        if commit.party != entry.party {
            return Err(Refusal::new(Code::BadRoster, "commitments are not in roster order")
                .blaming(Culprit::Aggregator));
        }
    }
    Ok(())
}

const fn send(message: VerticalMessage) -> PartyOutput {
    Output::Send { to: Peer::Aggregator, message: Message::Vertical(message) }
}
