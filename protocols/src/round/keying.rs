//! The job's threshold key: a call, signed posts step by step, and the checks everyone makes of them.

use core::fmt;

use quorate_crypto::keys::{ExchangeKey, VerifyKey};
use quorate_crypto::merkle::{Hash, hash_parts};
use quorate_crypto::sum::Role;
use quorate_crypto::threshold::{AUTHORITY, KeyPost, KeySetup, ThresholdScheme};
use serde::{Deserialize, Serialize};

use super::messages::{KeyCall, KeyPosted, KeyTranscript};
use crate::checks::{Check, holds};
use crate::job::{Manifest, RosterEntry};
use crate::refusal::{Code, Culprit, Refusal};
use crate::wire::{Name, Signed, Verified, encode};
use crate::workload::Workload;

/// A call and posts, every signature and rule of which was checked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Keying {
    call: Verified<KeyCall>,
    posts: Vec<Verified<KeyPosted>>,
}

/// A complete threshold key of a job.
#[derive(Clone, Serialize, Deserialize)]
pub struct JobKey {
    keying: Keying,
    id: Hash,
    public: Vec<u8>,
}

impl fmt::Debug for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// One more post to be made, outside the machine: with fresh randomness, and the secret it leaves
/// stored in the same transaction as the event that brings the bytes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostWork {
    /// What was posted before.
    pub transcript: KeyTranscript,
    /// This participant's number.
    pub number: u32,
    /// The step.
    pub step: u16,
}

impl Keying {
    /// A call nobody answered yet. K1: signed by the aggregator for this job, holders as many as the
    /// manifest says, distinct and sorted; in a payments job the banks and the network it names.
    ///
    /// # Errors
    /// [`Code::BadSignature`], [`Code::UnknownJob`], [`Code::BadKey`].
    pub fn new(manifest: &Manifest, call: &Signed<KeyCall>) -> Result<Self, Refusal> {
        let call = call.verify(&manifest.aggregator)?;
        if call.manifest != manifest.hash() {
            return Err(Refusal::new(Code::UnknownJob, "the key call belongs to another job"));
        }
        let Some(spec) = &manifest.threshold else {
            return Err(Refusal::new(Code::WrongState, "this job has no threshold key"));
        };
        let sorted = call.holders.is_sorted_by(|a, b| a.party < b.party);
        let called = call.holders.iter().chain(&call.network);
        let mut keys: Vec<_> = called.map(|entry| entry.verify).collect();
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        let named = match &manifest.workload {
            Workload::Payments(spec) => {
                call.network.as_ref().is_some_and(|entry| entry.party == spec.network)
                    && call.holders.iter().map(|entry| &entry.party).eq(&spec.banks)
            }
            _ => call.network.is_none(),
        };
        if call.holders.len() != spec.holders as usize || !sorted || keys.len() != count || !named {
            return Err(Refusal::new(
                Code::BadKey,
                "the key call's holders are not as the job says",
            )
            .blaming(Culprit::Aggregator));
        }
        Ok(Self { call, posts: Vec::new() })
    }

    /// Checks a call with posts.
    ///
    /// # Errors
    /// As [`Keying::new`] and [`Keying::push`].
    pub fn read(manifest: &Manifest, transcript: &KeyTranscript) -> Result<Self, Refusal> {
        let mut keying = Self::new(manifest, &transcript.call)?;
        for post in &transcript.posts {
            keying.push(manifest, post)?;
        }
        Ok(keying)
    }

    /// The call.
    #[must_use]
    pub const fn call(&self) -> &Verified<KeyCall> {
        &self.call
    }

    /// The holders, in the order of their numbers.
    #[must_use]
    pub fn holders(&self) -> &[RosterEntry] {
        &self.call.holders
    }

    /// All that was said so far.
    #[must_use]
    pub fn transcript(&self) -> KeyTranscript {
        KeyTranscript {
            call: self.call.signed().clone(),
            posts: self.posts.iter().map(|post| post.signed().clone()).collect(),
        }
    }

    /// The number of a participant.
    #[must_use]
    pub fn number(&self, manifest: &Manifest, name: &Name) -> Option<u32> {
        if manifest.authorities.iter().any(|authority| authority.name == *name) {
            return Some(AUTHORITY);
        }
        let position = self.call.holders.iter().position(|h| h.party == *name)?;
        u32::try_from(position).ok()?.checked_add(1)
    }

    /// The culprit behind a participant's number.
    fn culprit(&self, manifest: &Manifest, number: u32) -> Culprit {
        let holder = number.checked_sub(1).and_then(|i| self.call.holders.get(i as usize));
        match (holder, manifest.authorities.first()) {
            (Some(holder), _) => Culprit::Party(holder.party.clone()),
            (None, Some(authority)) => Culprit::Authority(authority.name.clone()),
            (None, None) => Culprit::Aggregator,
        }
    }

    fn verify_key(&self, manifest: &Manifest, number: u32) -> Option<VerifyKey> {
        match number.checked_sub(1) {
            None => manifest.authorities.first().map(|authority| authority.verify),
            Some(index) => self.call.holders.get(index as usize).map(|holder| holder.verify),
        }
    }

    /// Numbers that post in a step.
    fn posters(&self, role: Role) -> Vec<u32> {
        match role {
            Role::Authority => vec![AUTHORITY],
            Role::Decryptor => (1..).take(self.call.holders.len()).collect(),
            Role::Party => Vec::new(),
        }
    }

    /// The step that is not complete yet and the numbers it still waits for; `None` when all are
    /// there.
    #[must_use]
    pub fn waits_for(&self, scheme: &dyn ThresholdScheme) -> Option<(u16, Vec<u32>)> {
        (0u16..).zip(scheme.key_steps()).find_map(|(step, kind)| {
            let there = |number: &u32| {
                self.posts.iter().any(|p| p.post.step == step && p.post.from == *number)
            };
            let missing: Vec<u32> =
                self.posters(kind.by).into_iter().filter(|number| !there(number)).collect();
            (!missing.is_empty()).then_some((step, missing))
        })
    }

    /// Names of the participants that the next step waits for.
    #[must_use]
    pub fn missing(&self, manifest: &Manifest, scheme: &dyn ThresholdScheme) -> Vec<Culprit> {
        let waits = self.waits_for(scheme).map(|(_, numbers)| numbers).unwrap_or_default();
        waits.into_iter().map(|number| self.culprit(manifest, number)).collect()
    }

    /// Hash of the posts before `step`.
    #[must_use]
    pub fn seen(&self, step: u16) -> Hash {
        let before: Vec<Hash> =
            self.posts.iter().filter(|p| p.post.step < step).map(Verified::hash).collect();
        hash_parts("quorate/key-seen/1", &[&self.call.hash().0, &encode(&before)])
    }

    /// Takes a post. K2: signed by the participant it names; K3: of this call, for the step that is
    /// open, made from the same posts as seen here; K4: one per participant and step.
    ///
    /// Says whether it was new.
    ///
    /// # Errors
    /// [`Code::UnknownParty`], [`Code::BadSignature`], [`Code::BadKey`], [`Code::Duplicate`],
    /// [`Code::OutOfOrder`].
    pub fn push(&mut self, manifest: &Manifest, post: &Signed<KeyPosted>) -> Result<bool, Refusal> {
        let claimed = post.peek()?;
        let number = self
            .number(manifest, &claimed.from)
            .ok_or_else(|| Refusal::new(Code::UnknownParty, "not a participant of this key"))?;
        let key = self
            .verify_key(manifest, number)
            .ok_or_else(|| Refusal::new(Code::UnknownParty, "not a participant of this key"))?;
        let post = post.verify(&key)?;
        let blame =
            |code, why: &str| Refusal::new(code, why).blaming(self.culprit(manifest, number));
        if post.call != self.call.hash() {
            return Err(Refusal::new(Code::OutOfOrder, "the post answers another call"));
        }
        if post.post.from != number {
            return Err(blame(Code::BadKey, "the post carries another participant's number"));
        }
        let same = |p: &&Verified<KeyPosted>| {
            p.post.step == post.post.step && p.post.from == post.post.from
        };
        if let Some(known) = self.posts.iter().find(same) {
            if known.signed() == post.signed() {
                return Ok(false);
            }
            return Err(blame(Code::Duplicate, "a second post in one step"));
        }
        let scheme = manifest.threshold_scheme()?;
        let open = self.waits_for(scheme);
        if !open.is_some_and(|(step, who)| step == post.post.step && who.contains(&number)) {
            return Err(Refusal::new(Code::OutOfOrder, "this step of the key is not open"));
        }
        if !holds(Check::KeyPosts, post.seen == self.seen(post.post.step)) {
            return Err(Refusal::new(
                Code::BadKey,
                "the post was made from other posts than those seen here",
            ));
        }
        let place = self
            .posts
            .partition_point(|p| (p.post.step, p.post.from) < (post.post.step, post.post.from));
        self.posts.insert(place, post);
        Ok(true)
    }

    fn scheme_posts(&self) -> Vec<KeyPost> {
        self.posts.iter().map(|post| post.post.clone()).collect()
    }

    /// Runs `with` on the setup of this call.
    pub fn with_setup<T>(
        &self,
        manifest: &Manifest,
        with: impl FnOnce(&KeySetup<'_>, &[KeyPost]) -> T,
    ) -> T {
        let holders: Vec<ExchangeKey> = self.call.holders.iter().map(|h| h.exchange).collect();
        let setup = KeySetup {
            context: self.call.hash().0,
            authority: manifest.authorities.first().map_or(ExchangeKey([0; 32]), |a| a.exchange),
            holders: &holders,
            threshold: manifest.threshold.map_or(0, |spec| spec.threshold),
        };
        with(&setup, &self.scheme_posts())
    }

    /// Checks what the posts say (K5).
    ///
    /// # Errors
    /// [`Code::BadKey`] with the culprit.
    pub fn check(&self, manifest: &Manifest) -> Result<(), Refusal> {
        self.check_before(manifest, u16::MAX)
    }

    /// Checks what the posts of the steps before `step` say (K5).
    ///
    /// # Errors
    /// As [`Keying::check`].
    pub fn check_before(&self, manifest: &Manifest, step: u16) -> Result<(), Refusal> {
        let scheme = manifest.threshold_scheme()?;
        let checked = self.with_setup(manifest, |setup, posts| {
            let before = posts.partition_point(|post| post.step < step);
            scheme.key_check(setup, posts.get(..before).unwrap_or_default())
        });
        match checked {
            Err(fault) if !holds(Check::KeyPosts, false) => {
                Err(Refusal::new(Code::BadKey, fault.why)
                    .blaming(self.culprit(manifest, fault.from)))
            }
            _ => Ok(()),
        }
    }

    /// The key, once every post is there.
    ///
    /// # Errors
    /// [`Code::BadKey`] with the culprit, also when a post is missing.
    pub fn complete(self, manifest: &Manifest) -> Result<JobKey, Refusal> {
        self.check(manifest)?;
        let scheme = manifest.threshold_scheme()?;
        let public = self
            .with_setup(manifest, |setup, posts| scheme.public_key(setup, posts))
            .map_err(|fault| {
                Refusal::new(Code::BadKey, fault.why).blaming(self.culprit(manifest, fault.from))
            })?;
        let id = hash_parts("quorate/job-key/1", &[&self.seen(u16::MAX).0, &public]);
        Ok(JobKey { keying: self, id, public })
    }
}

impl JobKey {
    /// Checks a complete transcript.
    ///
    /// # Errors
    /// As [`Keying::read`] and [`Keying::complete`].
    pub fn read(manifest: &Manifest, transcript: &KeyTranscript) -> Result<Self, Refusal> {
        Keying::read(manifest, transcript)?.complete(manifest)
    }

    /// The id that labels bind.
    #[must_use]
    pub const fn id(&self) -> Hash {
        self.id
    }

    /// The public key's bytes.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// How it was made.
    #[must_use]
    pub const fn keying(&self) -> &Keying {
        &self.keying
    }

    /// The number of a holder.
    #[must_use]
    pub fn holder(&self, name: &Name) -> Option<u32> {
        let position = self.keying.call.holders.iter().position(|h| h.party == *name)?;
        u32::try_from(position).ok()?.checked_add(1)
    }
}
