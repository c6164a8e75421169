//! The authority's side: it promises one frozen set per round, then releases one functional key.
//!
//! ```text
//! attempt:  unseen --promise request--> Promised --all m promises--> Released
//!             \______ tombstone ______/  |
//!              `--> Tombstoned <---------'         (Released refuses a tombstone)
//! ```

use std::collections::{BTreeMap, BTreeSet};

use quorate_crypto::keys::ExchangeKey;
use quorate_crypto::merkle::Hash;
use quorate_crypto::sum::{Label, Nonce};
use quorate_crypto::threshold::{AUTHORITY, KeyPost};
use serde::{Deserialize, Serialize};

use super::keying::{JobKey, Keying, PostWork};
use super::messages::{
    BulkRef, FuncKey, KeyPosted, KeyRequest, KeyTranscript, Message, Promise, PromiseRequest,
    Tombstone, TombstoneRequest, request_hash, y_hash,
};
use super::{STEP_KEY, check_members, check_open, check_rounds, indicator, promises_agree};
use crate::checks::{Check, holds};
use crate::job::{Approval, Manifest, Minima, RosterEntry};
use crate::machine::{Bug, Context, Fact, Output, Peer};
use crate::refusal::{Code, Culprit, Refusal};
use crate::wire::{Name, Signed, Verified};
use crate::workload::Purpose;

/// How far the aggregator's clock may be ahead of this authority's.
const CLOCK_SKEW_MS: u64 = 60_000;

/// Who is enrolled at this authority.
pub trait Directory {
    /// The keys of the current epoch of `party`.
    fn enrolled(&self, party: &Name) -> Option<RosterEntry>;
}

impl Directory for BTreeMap<Name, RosterEntry> {
    fn enrolled(&self, party: &Name) -> Option<RosterEntry> {
        self.get(party).cloned()
    }
}

/// One member whose pad enters a functional key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyMember {
    /// The party.
    pub party: Name,
    /// Epoch of its keys.
    pub epoch: u32,
    /// Its exchange key.
    pub exchange: ExchangeKey,
    /// Nonce of its submission.
    pub nonce: Nonce,
    /// Its ciphertext, which a participant of a threshold key reads.
    pub ciphertext: BulkRef,
}

/// Work outside the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthorityWork {
    /// Compute the functional key, or the authority's partial decryption, and store its bytes.
    Key(ComputeKey),
    /// Make a post of the threshold key, and store the secret it leaves.
    Post(PostWork),
}

/// What a functional key is computed from. In a threshold job it is the authority's partial
/// decryption: every reply is fetched, its proof is checked, and only then are they added up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComputeKey {
    /// Round.
    pub round: u32,
    /// The label.
    pub label: Label,
    /// Members in roster order.
    pub members: Vec<KeyMember>,
}

/// What an authority handles.
#[derive(Clone, Debug)]
pub enum Event {
    /// A message of the aggregator.
    Message(Box<Message>),
    /// [`AuthorityWork::Post`] is done and the secret it left is stored with this event.
    Posted {
        /// Hash of the call.
        call: Hash,
        /// The step.
        step: u16,
        /// The post.
        bytes: Vec<u8>,
    },
    /// [`ComputeKey`] is done and the key's bytes are durable.
    KeyReady {
        /// Its label.
        label: Label,
        /// The key.
        key: BulkRef,
    },
}

/// An output of this machine.
pub type AuthorityOutput = Output<Message, AuthorityWork>;

/// A frozen set this authority is bound to.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Promised {
    attempt: u16,
    label: Label,
    purpose: Purpose,
    model: Hash,
    freeze: Hash,
    y: Hash,
    members: Vec<KeyMember>,
    promise: Verified<Promise>,
}

/// A set whose functional key may leave; there is no way back.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Released {
    promised: Promised,
    key: Option<Verified<FuncKey>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "one per round, and most end as the larger one")]
enum Live {
    Promised(Promised),
    Released(Released),
}

impl Live {
    const fn promised(&self) -> &Promised {
        match self {
            Self::Promised(promised) => promised,
            Self::Released(released) => &released.promised,
        }
    }
}

/// All this authority ever decided about one round.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct RoundLedger {
    live: Option<Live>,
    tombstones: BTreeMap<u16, Verified<Tombstone>>,
}

/// One job at one authority.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuthorityJob {
    me: Name,
    manifest: Manifest,
    approval: Verified<Approval>,
    rounds: BTreeMap<u32, RoundLedger>,
    opened_models: BTreeSet<(Purpose, Hash)>,
    keying: Option<Calling>,
}

/// The latest call for a threshold key that this authority took part in.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Calling {
    /// Complete once this authority, which posts last, has posted.
    keying: Keying,
    posted: Option<Verified<KeyPosted>>,
    key: Option<JobKey>,
}

impl AuthorityJob {
    /// Checks a manifest and signs it off (A2).
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
        check_rounds(&manifest)?;
        let approval = Approval::of(cx, me, epoch, minima, &manifest)?;
        let outputs = vec![
            Output::Log(Fact::job("job.approved", manifest.title.clone())),
            reply(Message::Approval(approval.signed().clone())),
        ];
        let job = Self {
            me: me.clone(),
            manifest,
            approval,
            rounds: BTreeMap::new(),
            opened_models: BTreeSet::new(),
            keying: None,
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

    /// The job's threshold key, once it is complete.
    #[must_use]
    pub fn job_key(&self) -> Option<&JobKey> {
        self.keying.as_ref().and_then(|calling| calling.key.as_ref())
    }

    /// The released functional key of a label, if any.
    #[must_use]
    pub fn func_key(&self, label: &Label) -> Option<&FuncKey> {
        self.rounds.values().find_map(|ledger| match &ledger.live {
            Some(Live::Released(released)) if released.promised.label == *label => {
                released.key.as_deref()
            }
            _ => None,
        })
    }

    /// Names of the states of all attempts, for reports.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        match self.rounds.values().next_back() {
            None => match &self.keying {
                None => "Approved",
                Some(calling) if calling.key.is_none() => "Keying",
                Some(_) => "Keyed",
            },
            Some(ledger) => match &ledger.live {
                None => "Tombstoned",
                Some(Live::Promised(_)) => "Promised",
                Some(Live::Released(released)) if released.key.is_none() => "Releasing",
                Some(Live::Released(_)) => "Released",
            },
        }
    }

    /// Handles one event.
    ///
    /// # Errors
    /// [`Bug`] for an event no correct driver sends.
    pub fn handle(
        self,
        cx: &mut Context<'_>,
        directory: &dyn Directory,
        event: Event,
    ) -> Result<(Self, Vec<AuthorityOutput>), Bug> {
        let mut next = self.clone();
        let outcome = match event {
            Event::Message(message) => match *message {
                Message::Register(manifest) if *manifest == self.manifest => {
                    Ok(vec![reply(Message::Approval(self.approval.signed().clone()))])
                }
                Message::KeyAsk(transcript) => next.key_ask(directory, &transcript),
                Message::PromiseRequest(request) => next.promise(cx, directory, &request),
                Message::KeyRequest(request) => next.release(&request),
                Message::TombstoneRequest(request) => next.tombstone(cx, &request),
                _ => Err(Refusal::new(
                    Code::WrongState,
                    "an authority takes promise, key and tombstone requests",
                )),
            },
            Event::Posted { call, step, bytes } => {
                return next.posted(cx, call, step, bytes).map(|o| (next, o));
            }
            Event::KeyReady { label, key } => {
                return next.key_ready(cx, label, key).map(|o| (next, o));
            }
        };
        Ok(match outcome {
            Ok(outputs) => (next, outputs),
            Err(refusal) => {
                let fact = Fact::job("refused", format!("{refusal}"));
                (self, vec![Output::Log(fact), Output::Reject(refusal)])
            }
        })
    }

    /// Takes part in a call for a threshold key: all holders are enrolled here, all posts before this
    /// authority's own are there and right (K1 to K5). A later call replaces an earlier one until the
    /// first set is promised under its key.
    fn key_ask(
        &mut self,
        directory: &dyn Directory,
        transcript: &KeyTranscript,
    ) -> Result<Vec<AuthorityOutput>, Refusal> {
        let keying = Keying::read(&self.manifest, transcript)?;
        let call = keying.call().hash();
        if let Some(known) = &self.keying {
            if known.keying.call().hash() == call {
                return Ok(match &known.posted {
                    Some(posted) => vec![reply(Message::KeyPost(posted.signed().clone()))],
                    None => self.post_work(),
                });
            }
            let later = keying.call().number > known.keying.call().number;
            if !later || !self.rounds.is_empty() {
                return Err(Refusal::new(Code::WrongState, "this job's key is already made"));
            }
        }
        for entry in keying.holders().iter().chain(&keying.call().network) {
            let known = directory.enrolled(&entry.party).is_some_and(|known| known == *entry);
            if !holds(Check::Enrolled, known) {
                return Err(Refusal::new(
                    Code::UnknownParty,
                    format!("{} is not enrolled here with these keys", entry.party),
                )
                .concerning(entry.party.clone()));
            }
        }
        let scheme = self.manifest.threshold_scheme()?;
        if keying.waits_for(scheme).is_none_or(|(_, who)| who != [AUTHORITY]) {
            return Err(Refusal::new(Code::OutOfOrder, "the holders have not all posted yet"));
        }
        keying.check(&self.manifest)?;
        self.keying = Some(Calling { keying, posted: None, key: None });
        Ok(self.post_work())
    }

    /// The post this authority still has to make.
    fn post_work(&self) -> Vec<AuthorityOutput> {
        let Some(calling) = &self.keying else {
            return Vec::new();
        };
        let step = self
            .manifest
            .threshold_scheme()
            .ok()
            .and_then(|scheme| calling.keying.waits_for(scheme))
            .map(|(step, _)| step);
        let work = step.map(|step| PostWork {
            transcript: calling.keying.transcript(),
            number: AUTHORITY,
            step,
        });
        work.map(|work| Output::Work(AuthorityWork::Post(work))).into_iter().collect()
    }

    fn posted(
        &mut self,
        cx: &Context<'_>,
        call: Hash,
        step: u16,
        bytes: Vec<u8>,
    ) -> Result<Vec<AuthorityOutput>, Bug> {
        let me = self.me.clone();
        let Some(calling) = self.keying.as_mut().filter(|c| c.keying.call().hash() == call) else {
            // Overtaken by a later call.
            return Ok(Vec::new());
        };
        if let Some(posted) = &calling.posted {
            return Ok(vec![reply(Message::KeyPost(posted.signed().clone()))]);
        }
        let post = KeyPost { step, from: AUTHORITY, bytes };
        let posted = KeyPosted { call, from: me, seen: calling.keying.seen(step), post };
        let posted = Signed::sign(posted, cx.identity);
        let key = calling
            .keying
            .push(&self.manifest, posted.signed())
            .and_then(|_| calling.keying.clone().complete(&self.manifest))
            .map_err(|refusal| Bug(format!("this authority's own post: {refusal}")))?;
        let fact = Fact::job("key.made", format!("threshold key {}", key.id()));
        calling.key = Some(key);
        let message = reply(Message::KeyPost(posted.signed().clone()));
        calling.posted = Some(posted);
        Ok(vec![Output::Log(fact), message])
    }

    fn promise(
        &mut self,
        cx: &Context<'_>,
        directory: &dyn Directory,
        request: &PromiseRequest,
    ) -> Result<Vec<AuthorityOutput>, Refusal> {
        // A1, A3, A4: the frozen set is the aggregator's word, and its opening is well-formed.
        let freeze = request.freeze.verify(&self.manifest.aggregator).map_err(|refusal| {
            Refusal::new(Code::NotFrozen, format!("not a frozen set: {}", refusal.detail))
        })?;
        // The same request gets the same bytes, whatever has changed since: enrolments, the clock.
        let (freeze_hash, y) = (freeze.hash(), y_hash(&request.y));
        let known = self.rounds.values().filter_map(|ledger| ledger.live.as_ref());
        if let Some(known) =
            known.map(Live::promised).find(|known| known.freeze == freeze_hash && known.y == y)
        {
            return Ok(vec![reply(Message::Promise(known.promise.signed().clone()))]);
        }
        let checked = check_open(&self.manifest, &freeze.open)?;
        let (open, label) = (checked.open, checked.label);
        let fields = open.fields;
        let key = self.job_key().map_or(Hash([0; 32]), JobKey::id);
        if !holds(Check::Label, fields.key == key) {
            return Err(Refusal::new(Code::BadKey, "the round is under another threshold key"));
        }
        // A request that was overtaken by its own tombstone is late, not a lie.
        let given_up = self
            .rounds
            .get(&fields.round)
            .is_some_and(|ledger| ledger.tombstones.contains_key(&fields.attempt));
        if given_up {
            return Err(Refusal::new(Code::Tombstoned, "this attempt was given up"));
        }
        for entry in &open.roster {
            let known = directory.enrolled(&entry.party).is_some_and(|known| known == *entry);
            if !holds(Check::Enrolled, known) {
                return Err(Refusal::new(
                    Code::UnknownParty,
                    format!("{} is not enrolled here with these keys", entry.party),
                )
                .concerning(entry.party.clone()));
            }
        }
        let members = check_members(&self.manifest, &freeze, &open, &label)?;
        // A6
        let size = u32::try_from(members.len()).unwrap_or(u32::MAX);
        if !holds(Check::Floor, size >= self.manifest.floor()) {
            return Err(Refusal::new(
                self.manifest.floor_code(),
                format!("{size} members, the floor is {}", self.manifest.floor()),
            )
            .blaming(Culprit::Aggregator));
        }
        // A7
        if !holds(Check::Indicator, indicator(&open.roster, &members) == request.y) {
            return Err(Refusal::new(Code::BadY, "y is not the indicator of the frozen set"));
        }
        let ledger = self.rounds.get(&fields.round);
        // A9: an honest aggregator freezes one set per attempt, and asks for the tombstone of an
        // attempt before it opens the next.
        let bound = ledger.is_some_and(|ledger| ledger.live.is_some());
        if !holds(Check::OneOpening, !bound) {
            return Err(Refusal::new(
                self.manifest.second_set_code(),
                "this round is already bound to another frozen set",
            )
            .blaming(Culprit::Aggregator));
        }
        let own_tombstone = fields
            .attempt
            .checked_sub(1)
            .is_none_or(|before| ledger.is_some_and(|l| l.tombstones.contains_key(&before)));
        if !holds(Check::Tombstones, own_tombstone) {
            return Err(Refusal::new(
                Code::MissingTombstones,
                "the attempt before was never given up here",
            ));
        }
        // A8
        if !self.released(fields.round.checked_sub(1)) {
            return Err(Refusal::new(Code::OutOfOrder, "the round before was not opened here"));
        }
        // A10
        let seen = self.opened_models.contains(&(fields.purpose, fields.model));
        if !holds(Check::ModelOnce, !seen) {
            return Err(Refusal::new(Code::LabelUsed, "a sum over this model was opened before")
                .blaming(Culprit::Aggregator));
        }
        // A11
        let end = open.deadline_ms.saturating_add(self.manifest.deadlines.key_ms);
        if cx.now_ms > end {
            return Err(Refusal::new(Code::Expired, "the label's time is over"));
        }
        // The deadline is the aggregator's own word: one further away than the manifest allows would
        // make a label that never expires.
        let latest = cx.now_ms.saturating_add(self.manifest.deadlines.collect_ms);
        if open.deadline_ms > latest.saturating_add(CLOCK_SKEW_MS) {
            return Err(Refusal::new(
                Code::Expired,
                "the deadline lies further ahead than the manifest allows; check the clocks",
            ));
        }
        let promise = Promise {
            authority: self.me.clone(),
            manifest: fields.manifest,
            round: fields.round,
            attempt: fields.attempt,
            label,
            freeze: freeze_hash,
            y,
        };
        let promise = Signed::sign(promise, cx.identity);
        let mut outputs = Vec::new();
        outputs.extend(self.manifest.charge(fields.round).map(Output::Charge));
        outputs.extend([
            Output::Log(Fact::of(
                "key.promised",
                fields.round,
                fields.attempt,
                format!("{label:?} for {size} members, freeze {freeze_hash}"),
            )),
            reply(Message::Promise(promise.signed().clone())),
        ]);
        self.rounds.entry(fields.round).or_default().live = Some(Live::Promised(Promised {
            attempt: fields.attempt,
            label,
            purpose: fields.purpose,
            model: fields.model,
            freeze: freeze_hash,
            y,
            members,
            promise,
        }));
        Ok(outputs)
    }

    /// Whether a round was opened here; there is none before the first.
    fn released(&self, round: Option<u32>) -> bool {
        round.is_none_or(|round| {
            matches!(
                self.rounds.get(&round),
                Some(RoundLedger { live: Some(Live::Released(_)), .. })
            )
        })
    }

    fn release(&mut self, request: &KeyRequest) -> Result<Vec<AuthorityOutput>, Refusal> {
        // A12
        let found = self.rounds.iter_mut().find_map(|(round, ledger)| {
            let matches = ledger.live.as_ref().is_some_and(|l| l.promised().label == request.label);
            matches.then_some((*round, ledger))
        });
        let Some((round, ledger)) = found else {
            return Err(Refusal::new(Code::NotFrozen, "no set was promised under this label"));
        };
        let promised = match &ledger.live {
            Some(Live::Released(released)) => {
                return Ok(match &released.key {
                    Some(key) => vec![reply(Message::FuncKey(key.signed().clone()))],
                    None => vec![work(round, &released.promised)],
                });
            }
            Some(Live::Promised(promised)) => promised.clone(),
            None => return Err(Refusal::new(Code::NotFrozen, "nothing is promised")),
        };
        // A13
        let agree = promises_agree(
            &self.manifest,
            &request.promises,
            (&promised.label, &promised.freeze, &promised.y),
        );
        if !holds(Check::AllPromises, agree) {
            return Err(Refusal::new(
                Code::BadPromises,
                "a key needs every authority's promise for the same frozen set",
            ));
        }
        self.opened_models.insert((promised.purpose, promised.model));
        let outputs = vec![
            Output::Log(Fact::of(
                "key.released",
                round,
                promised.attempt,
                format!("{:?} for {} members", promised.label, promised.members.len()),
            )),
            work(round, &promised),
        ];
        ledger.live = Some(Live::Released(Released { promised, key: None }));
        // Only the answer of an older round can still be asked for; its members are not needed.
        for (_, old) in self.rounds.range_mut(..round) {
            if let Some(Live::Released(released)) = &mut old.live
                && released.key.is_some()
            {
                released.promised.members = Vec::new();
            }
        }
        Ok(outputs)
    }

    fn key_ready(
        &mut self,
        cx: &Context<'_>,
        label: Label,
        key: BulkRef,
    ) -> Result<Vec<AuthorityOutput>, Bug> {
        let me = self.me.clone();
        let found = self.rounds.iter_mut().find_map(|(round, ledger)| match &mut ledger.live {
            Some(Live::Released(released)) if released.promised.label == label => {
                Some((*round, released))
            }
            _ => None,
        });
        let Some((round, released)) = found else {
            return Err(Bug("a key was computed for a label that was not released".into()));
        };
        let expected = self.manifest.step_bytes(round, STEP_KEY).unwrap_or(0);
        if key.len != expected {
            return Err(Bug(format!("a key of {} bytes, {expected} expected", key.len)));
        }
        let promised = &released.promised;
        let answer = FuncKey {
            authority: me,
            label,
            request: request_hash(&label, &promised.freeze, &promised.y),
            key,
        };
        let answer = match &released.key {
            Some(stored) if **stored == answer => stored.clone(),
            Some(_) => return Err(Bug("a functional key was computed with other bytes".into())),
            None => Signed::sign(answer, cx.identity),
        };
        let message = reply(Message::FuncKey(answer.signed().clone()));
        released.key = Some(answer);
        Ok(vec![message])
    }

    fn tombstone(
        &mut self,
        cx: &Context<'_>,
        request: &Signed<TombstoneRequest>,
    ) -> Result<Vec<AuthorityOutput>, Refusal> {
        let request = request.verify(&self.manifest.aggregator)?;
        if request.manifest != self.approval.manifest
            || self.manifest.workload.purpose(request.round).is_none()
            || request.attempt >= self.manifest.deadlines.max_attempts
        {
            return Err(Refusal::new(Code::UnknownRound, "the job has no such attempt"));
        }
        // Attempts follow one another, so that a ledger never holds more than was lived through.
        let before = request.attempt.checked_sub(1);
        let reached = self.released(request.round.checked_sub(1))
            && before.is_none_or(|before| {
                self.rounds.get(&request.round).is_some_and(|l| l.tombstones.contains_key(&before))
            });
        if !reached {
            return Err(Refusal::new(Code::OutOfOrder, "the attempt before is still undecided"));
        }
        let ledger = self.rounds.entry(request.round).or_default();
        // The same request gets the same bytes, also when a later attempt was released since.
        if let Some(stored) = ledger.tombstones.get(&request.attempt) {
            return Ok(vec![reply(Message::Tombstone(stored.signed().clone()))]);
        }
        let mut outputs = Vec::new();
        match &ledger.live {
            // A key that left cannot be taken back, so neither this attempt nor a later one of its
            // round is given up: whoever asks learns that the round is decided.
            Some(Live::Released(_)) => {
                return Err(Refusal::new(Code::Released, "the key of this round was released"));
            }
            Some(Live::Promised(promised)) if promised.attempt == request.attempt => {
                ledger.live = None;
                outputs.extend(self.manifest.charge(request.round).map(Output::Refund));
            }
            _ => {}
        }
        let stored = ledger.tombstones.entry(request.attempt).or_insert_with(|| {
            Signed::sign(
                Tombstone {
                    authority: self.me.clone(),
                    manifest: request.manifest,
                    round: request.round,
                    attempt: request.attempt,
                },
                cx.identity,
            )
        });
        let message = reply(Message::Tombstone(stored.signed().clone()));
        outputs.push(Output::Log(Fact::of("key.tombstoned", request.round, request.attempt, "")));
        outputs.push(message);
        Ok(outputs)
    }
}

const fn reply(message: Message) -> AuthorityOutput {
    Output::Send { to: Peer::Aggregator, message }
}

fn work(round: u32, promised: &Promised) -> AuthorityOutput {
    let (label, members) = (promised.label, promised.members.clone());
    Output::Work(AuthorityWork::Key(ComputeKey { round, label, members }))
}
