//! The authority's side of a vertical job: one score key and one product key per batch.

use std::collections::{BTreeMap, BTreeSet};

use quorate_crypto::fe::product::{ProductContext, StoredFeatures};
use quorate_crypto::keys::Identity;
use quorate_crypto::merkle::{Hash, hash_parts};
use quorate_crypto::oprf::{ELEMENT_BYTES, MAX_BATCH};
use quorate_crypto::sum::{KeyedNonce, Label, SchemeError};
use serde::{Deserialize, Serialize};

use super::messages::{
    BatchFields, BatchFreeze, BatchPurpose, Evaluate, ProductAsk, ProductKey, ScoreKey,
    VerticalMessage,
};
use super::{
    Shown, authority_pair, check_batch, check_epoch, check_members, check_stored, open_words,
    passive, seal, seal_info, shape_of, spec, word_bytes,
};
use crate::checks::{Check, holds};
use crate::job::{Approval, Manifest, Minima, evaluation_key};
use crate::machine::{Bug, Context, Fact, Output, Peer};
use crate::refusal::{Code, Culprit, Refusal};
use crate::round::authority::Directory;
use crate::round::messages::{Message, SubmitHeader};
use crate::wire::{Name, Signed, Verified};

/// Alignments for which a party's identifiers are evaluated: one, and one that began again after a
/// party was lost.
const ALIGNMENTS: u32 = 2;

/// The last batch for which a score key left.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Issued {
    freeze: Verified<BatchFreeze>,
    epoch: Verified<super::messages::EpochOpen>,
    open: Verified<super::messages::BatchOpen>,
    label: Label,
    members: Vec<Verified<SubmitHeader>>,
    /// The members' stored features, where features are sent once.
    features: Vec<Verified<SubmitHeader>>,
    ask: Option<Verified<ProductAsk>>,
}

/// Work outside the machine: evaluate a batch of identifiers with
/// [`evaluation_key`] and answer with
/// [`VerticalMessage::Evaluated`]. The same batch gets the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvaluateBatch {
    /// Number of the batch.
    pub batch: u32,
    /// Blinded identifiers.
    pub blinded: Vec<u8>,
}

impl EvaluateBatch {
    /// Does it.
    ///
    /// # Errors
    /// [`Code::Malformed`] when the bytes are no blinded identifiers.
    pub fn answer(&self, identity: &Identity, job: &Hash) -> Result<Message, Refusal> {
        let answer = evaluation_key(identity, job)?
            .evaluate(&self.blinded)
            .map_err(|e| Refusal::new(Code::Malformed, e.to_string()))?;
        Ok(Message::Vertical(VerticalMessage::Evaluated { batch: self.batch, answer }))
    }
}

/// An output of this machine.
pub type AuthorityOutput = Output<Message, EvaluateBatch>;

/// What a party had evaluated: by batch, the hash of its content, and identifiers in all.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Evaluations {
    batches: BTreeMap<u32, Hash>,
    identifiers: u64,
}

/// One vertical job at one authority.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuthorityJob {
    me: Name,
    manifest: Manifest,
    approval: Verified<Approval>,
    issued: Option<Issued>,
    shown: Shown,
    /// Passive parties that had columns in the last batch they were in.
    with_columns: BTreeSet<Name>,
    /// The features that each party stored: one upload for the whole job.
    stored: BTreeMap<Name, Hash>,
    evaluations: BTreeMap<Name, Evaluations>,
}

impl AuthorityJob {
    /// Checks a manifest and signs it off (V2).
    ///
    /// # Errors
    /// [`Code::BadManifest`], [`Code::BelowMinima`], or [`Code::UnknownJob`] when this authority's
    /// current keys are not in the manifest.
    pub fn register(
        cx: &Context<'_>,
        me: &Name,
        epoch: u32,
        minima: &Minima,
        manifest: Manifest,
    ) -> Result<(Self, Vec<AuthorityOutput>), Refusal> {
        let approval = Approval::of(cx, me, epoch, minima, &manifest)?;
        spec(&manifest)?;
        let outputs = vec![
            Output::Log(Fact::job("job.approved", manifest.title.clone())),
            reply(Message::Approval(approval.signed().clone())),
        ];
        let job = Self {
            me: me.clone(),
            manifest,
            approval,
            issued: None,
            shown: Shown::default(),
            with_columns: BTreeSet::new(),
            stored: BTreeMap::new(),
            evaluations: BTreeMap::new(),
        };
        Ok((job, outputs))
    }

    /// The approved manifest.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The stored approval.
    #[must_use]
    pub const fn approval(&self) -> &Verified<Approval> {
        &self.approval
    }

    /// Handles a message of the aggregator.
    ///
    /// # Errors
    /// [`Bug`] for an event no correct driver sends.
    pub fn handle(
        self,
        cx: &mut Context<'_>,
        directory: &dyn Directory,
        message: Message,
    ) -> Result<(Self, Vec<AuthorityOutput>), Bug> {
        let mut next = self.clone();
        let outcome = match message {
            Message::Register(manifest) if *manifest == self.manifest => {
                Ok(vec![reply(Message::Approval(self.approval.signed().clone()))])
            }
            Message::Vertical(VerticalMessage::Evaluate(ask)) => next.evaluate(directory, &ask),
            Message::Vertical(VerticalMessage::ScoreAsk(freeze)) => {
                next.score_key(cx, directory, &freeze)
            }
            Message::Vertical(VerticalMessage::ProductAsk(ask)) => next.product_key(cx, &ask),
            _ => Err(Refusal::new(
                Code::WrongState,
                "an authority of a vertical job takes score and product requests",
            )),
        };
        Ok(match outcome {
            Ok(outputs) => (next, outputs),
            Err(refusal) => {
                let fact = Fact::job("refused", refusal.to_string());
                (self, vec![Output::Log(fact), Output::Reject(refusal)])
            }
        })
    }

    /// Evaluates identifiers of an enrolled party of the job, as many as the job has rows for and no
    /// more: each value of the function lets its owner test one guess.
    fn evaluate(
        &mut self,
        directory: &dyn Directory,
        ask: &Signed<Evaluate>,
    ) -> Result<Vec<AuthorityOutput>, Refusal> {
        let claimed = ask.peek()?;
        let spec = spec(&self.manifest)?;
        let entry = directory
            .enrolled(&claimed.party)
            .filter(|entry| spec.block(&entry.party).is_some())
            .ok_or_else(|| Refusal::new(Code::UnknownParty, "not a party of this job"))?;
        let ask = ask.verify(&entry.verify)?;
        if ask.authority != self.me || ask.manifest != self.approval.manifest {
            return Err(Refusal::new(Code::WrongLabel, "a request to another authority or job"));
        }
        let count = ask.blinded.len() / ELEMENT_BYTES;
        if count == 0 || count > MAX_BATCH || !ask.blinded.len().is_multiple_of(ELEMENT_BYTES) {
            return Err(Refusal::new(
                Code::WrongLength,
                format!("a batch has 1 to {MAX_BATCH} identifiers of {ELEMENT_BYTES} bytes"),
            ));
        }
        let content = hash_parts("quorate/evaluated-batch/1", &[&ask.blinded]);
        let tries = self.manifest.deadlines.max_attempts;
        let known = self.evaluations.entry(ask.party.clone()).or_default();
        match known.batches.get(&ask.batch) {
            Some(before) if *before == content => {}
            Some(_) => {
                return Err(Refusal::new(
                    Code::LabelUsed,
                    "this batch had other identifiers before",
                ));
            }
            None => {
                let all = known.identifiers.saturating_add(count as u64);
                let whole = spec.max_rows.div_ceil(MAX_BATCH as u64).saturating_add(1);
                let batches = known.batches.len() as u64;
                if all > spec.max_rows.saturating_mul(u64::from(ALIGNMENTS))
                    || batches >= whole.saturating_mul(u64::from(tries))
                {
                    return Err(Refusal::new(
                        Code::BudgetSpent,
                        format!("this party had {} identifiers evaluated", known.identifiers),
                    ));
                }
                known.identifiers = all;
                known.batches.insert(ask.batch, content);
            }
        }
        let (batch, blinded) = (ask.batch, ask.blinded.clone());
        Ok(vec![Output::Work(EvaluateBatch { batch, blinded })])
    }

    fn score_key(
        &mut self,
        cx: &Context<'_>,
        directory: &dyn Directory,
        freeze: &Signed<BatchFreeze>,
    ) -> Result<Vec<AuthorityOutput>, Refusal> {
        if let Some(issued) = self.issued.as_ref().filter(|i| i.freeze.signed() == freeze) {
            return Ok(vec![reply(Message::Vertical(VerticalMessage::ScoreKey(
                self.make_score_key(cx, issued)?,
            )))]);
        }
        // V1, V3, V4
        let freeze = freeze.verify(&self.manifest.aggregator).map_err(|refusal| {
            Refusal::new(Code::NotFrozen, format!("not a frozen batch: {}", refusal.detail))
        })?;
        let epoch = check_epoch(&self.manifest, &freeze.epoch)?;
        let (open, label) = check_batch(&self.manifest, &epoch, &freeze.open)?;
        for entry in &epoch.roster {
            let known = directory.enrolled(&entry.party).is_some_and(|known| known == *entry);
            if !holds(Check::Enrolled, known) {
                return Err(Refusal::new(
                    Code::UnknownParty,
                    format!("{} is not enrolled here with these keys", entry.party),
                )
                .concerning(entry.party.clone()));
            }
        }
        // V5
        let members = check_members(&self.manifest, &epoch, (&open.fields, &label), &freeze)?;
        let features = check_stored(&self.manifest, &epoch, &freeze)?;
        for header in &features {
            if self.stored.get(&header.party).is_some_and(|known| *known != header.hash()) {
                return Err(Refusal::new(Code::LabelUsed, "other features were used before")
                    .blaming(Culprit::Party(header.party.clone())));
            }
        }
        // V6
        let later = self
            .issued
            .as_ref()
            .is_none_or(|issued| open.fields.position() > issued.open.fields.position());
        if !holds(Check::OneOpening, later) {
            return Err(Refusal::new(
                Code::LabelUsed,
                "a key of this batch, or of a later one, was released",
            )
            .blaming(Culprit::Aggregator));
        }
        let shown = self.shown.with(&self.manifest, &epoch.roster)?;
        let with_columns = self.with_columns(&open.fields, &members)?;
        shown.check_columns(&self.manifest, &with_columns)?;
        let before = match open.fields.counter.checked_sub(1) {
            None => Some(epoch.hash()),
            Some(before) => self
                .issued
                .as_ref()
                .filter(|issued| issued.open.fields.position() == (epoch.epoch, before))
                .map(|issued| issued.open.hash()),
        };
        if before != Some(open.fields.previous) {
            return Err(Refusal::new(
                Code::OutOfOrder,
                "the batch does not follow the last one here",
            ));
        }
        let fact = Fact::of(
            "scores.released",
            open.fields.epoch,
            open.fields.attempt,
            format!("batch {} of {} parties", open.fields.counter, members.len()),
        );
        let issued = Issued { freeze, epoch, open, label, members, features, ask: None };
        let key = self.make_score_key(cx, &issued)?;
        let stored = issued.features.iter();
        self.stored.extend(stored.map(|header| (header.party.clone(), header.hash())));
        self.issued = Some(issued);
        self.shown = shown;
        self.with_columns = with_columns;
        Ok(vec![Output::Log(fact), reply(Message::Vertical(VerticalMessage::ScoreKey(key)))])
    }

    /// Passive parties with columns, as far as their last uploads say, once these members' are known.
    fn with_columns(
        &self,
        fields: &BatchFields,
        members: &[Verified<SubmitHeader>],
    ) -> Result<BTreeSet<Name>, Refusal> {
        let spec = spec(&self.manifest)?;
        let mut with_columns = self.with_columns.clone();
        for header in members {
            let shape = shape_of(spec, fields, &header.party, header.ciphertext.len)?;
            if shape.columns > 0 {
                with_columns.insert(header.party.clone());
            } else {
                with_columns.remove(&header.party);
            }
        }
        Ok(with_columns)
    }

    /// The keys shared with the members of a batch, in order.
    fn pairs(
        &self,
        cx: &Context<'_>,
        issued: &Issued,
    ) -> Result<Vec<quorate_crypto::keys::SharedKey>, Refusal> {
        let spec = spec(&self.manifest)?;
        passive(spec, &issued.epoch.roster)
            .map(|entry| {
                let own = (&self.me, cx.identity.exchange_key());
                authority_pair(cx.identity, &entry.exchange, &self.manifest, own, entry)
                    .map_err(|e| Refusal::new(Code::BadRoster, e.to_string()))
            })
            .collect()
    }

    fn context(&self, label: Label) -> ProductContext {
        ProductContext { label, suite: self.manifest.suite }
    }

    fn seal_to_holder(
        &self,
        cx: &Context<'_>,
        issued: &Issued,
        kind: &str,
        words: &[u64],
    ) -> Result<Vec<u8>, Refusal> {
        let holder = &spec(&self.manifest)?.holder;
        let entry = issued.epoch.roster.iter().find(|entry| entry.party == *holder);
        let entry = entry.ok_or_else(|| Refusal::new(Code::BadRoster, "no label holder"))?;
        let info = seal_info(kind, &issued.label.0, &self.me, holder);
        seal(cx.identity, &entry.exchange, &info, &word_bytes(words))
    }

    fn make_score_key(
        &self,
        cx: &Context<'_>,
        issued: &Issued,
    ) -> Result<Signed<ScoreKey>, Refusal> {
        let pairs = self.pairs(cx, issued)?;
        let keyed: Vec<KeyedNonce<'_>> = pairs
            .iter()
            .zip(&issued.members)
            .map(|(key, header)| KeyedNonce { key, nonce: header.nonce })
            .collect();
        let outputs = spec(&self.manifest)?.outputs();
        let scores = (issued.open.fields.rows as usize).saturating_mul(outputs);
        let key = self.context(issued.label).score_key(&keyed, scores).map_err(scheme)?;
        let sealed = self.seal_to_holder(cx, issued, "score-key", &key)?;
        let (authority, freeze) = (self.me.clone(), issued.freeze.hash());
        let key = ScoreKey { authority, label: issued.label, freeze, sealed };
        Ok(Signed::sign(key, cx.identity).signed().clone())
    }

    fn product_key(
        &mut self,
        cx: &Context<'_>,
        ask: &Signed<ProductAsk>,
    ) -> Result<Vec<AuthorityOutput>, Refusal> {
        let claimed = ask.peek()?;
        let issued =
            self.issued.as_ref().filter(|issued| issued.label == claimed.label).ok_or_else(
                || Refusal::new(Code::NotFrozen, "no score key left under this label"),
            )?;
        if issued.open.fields.purpose != BatchPurpose::Train {
            return Err(Refusal::new(Code::WrongState, "the rows of this batch are only scored"));
        }
        // V7
        let spec = spec(&self.manifest)?;
        let holder = issued.epoch.roster.iter().find(|entry| entry.party == spec.holder);
        let holder = holder.ok_or_else(|| Refusal::new(Code::BadRoster, "no label holder"))?;
        let ask = ask.verify(&holder.verify)?;
        if ask.authority != self.me {
            return Err(Refusal::new(Code::WrongLabel, "a request to another authority"));
        }
        // V8
        let first = issued.ask.as_ref().is_none_or(|known| known.signed() == ask.signed());
        if !holds(Check::OneShare, first) {
            return Err(Refusal::new(
                Code::LabelUsed,
                "other products of this batch were asked for",
            )
            .blaming(Culprit::Party(spec.holder.clone())));
        }
        let blame = |refusal: Refusal| refusal.blaming(Culprit::Party(spec.holder.clone()));
        let info = seal_info("product-ask", &issued.label.0, &spec.holder, &self.me);
        let fields = &issued.open.fields;
        let scores = (fields.rows as usize).saturating_mul(spec.outputs());
        let named = if spec.static_features { fields.rows as usize } else { 0 };
        let count = scores.saturating_mul(issued.members.len()).saturating_add(named);
        let words = open_words(cx.identity, &info, &ask.sealed, count).map_err(blame)?;
        let (rows, vectors) = words.split_at_checked(named).unwrap_or_default();
        let rows = batch_rows_of(rows, issued.epoch.rows).map_err(blame)?;
        let pairs = self.pairs(cx, issued)?;
        let mut answer = zeroize::Zeroizing::new(Vec::new());
        let members = issued.members.iter().zip(&pairs).zip(vectors.chunks(scores.max(1)));
        for (index, ((header, key), vectors)) in members.enumerate() {
            let shape = shape_of(spec, fields, &header.party, header.ciphertext.len)?;
            let keyed = KeyedNonce { key, nonce: header.nonce };
            let context = self.context(issued.label);
            let own = match issued.features.get(index) {
                None => context.product_key(&keyed, &shape, vectors),
                Some(features) => {
                    let stored = StoredFeatures {
                        label: features.label,
                        keyed: KeyedNonce { key, nonce: features.nonce },
                        rows: issued.epoch.rows as usize,
                        batch: &rows,
                    };
                    context.stored_product_key(&keyed, &stored, &shape, vectors)
                }
            };
            answer.extend_from_slice(&own.map_err(scheme)?);
        }
        let sealed = self.seal_to_holder(cx, issued, "product-key", &answer)?;
        let key =
            ProductKey { authority: self.me.clone(), label: issued.label, ask: ask.hash(), sealed };
        let key = Signed::sign(key, cx.identity).signed().clone();
        let fact = Fact::of(
            "products.released",
            fields.epoch,
            fields.attempt,
            format!("batch {}", fields.counter),
        );
        if let Some(issued) = &mut self.issued {
            issued.ask = Some(ask);
        }
        Ok(vec![Output::Log(fact), reply(Message::Vertical(VerticalMessage::ProductKey(key)))])
    }
}

/// The rows that the label holder names, each once and all of the `count` aligned ones.
fn batch_rows_of(words: &[u64], count: u32) -> Result<Vec<u32>, Refusal> {
    let within = |row: &u64| u32::try_from(*row).ok().filter(|row| *row < count);
    // In the order of the vectors.
    let rows: Option<Vec<u32>> = words.iter().map(within).collect();
    let distinct = |rows: &Vec<u32>| rows.iter().collect::<BTreeSet<_>>().len() == rows.len();
    rows.filter(distinct)
        .ok_or_else(|| Refusal::new(Code::Malformed, "the rows of the batch are not distinct rows"))
}

fn scheme(error: SchemeError) -> Refusal {
    Refusal::new(Code::Malformed, error.to_string())
}

const fn reply(message: Message) -> AuthorityOutput {
    Output::Send { to: Peer::Aggregator, message }
}
