//! A job's manifest: everything that is fixed before its first round, and hashed into every label.

use std::collections::BTreeSet;

use quorate_crypto::fixed::{CodecError, FixedPoint, bits_needed};
use quorate_crypto::keys::{ExchangeKey, Identity, VerifyKey};
use quorate_crypto::merkle::{Hash, hash_parts};
use quorate_crypto::oprf::{EvaluationKey, PublicKey as EvaluationPublicKey};
use quorate_crypto::schemes;
use quorate_crypto::sum::{Family, PadSuite, Ring, SumScheme, SumShape};
use quorate_crypto::threshold::{MAX_HOLDERS, ThresholdScheme};
use serde::{Deserialize, Serialize};

use crate::checks::{Check, holds};
use crate::machine::Context;
use crate::payload::PayloadSpec;
use crate::policy::noise::{self, word_room};
use crate::policy::{Charge, MAX_NOISED_ROUNDS, NoiseSpec};
use crate::postcard_body;
use crate::refusal::{Code, Refusal};
use crate::round::STEP_PARTIAL;
use crate::wire::{MAX_MESSAGE_BYTES, Name, Signed, Verified, encode};
use crate::workload::Workload;

/// Version of manifests this build writes and reads.
pub const MANIFEST_VERSION: u16 = 2;
/// Most authorities of one job.
pub const MAX_AUTHORITIES: usize = 4;
/// Most bytes of a holder's partial decryption, which travels in one message.
const MAX_PARTIAL_BYTES: u64 = MAX_MESSAGE_BYTES as u64 - (64 << 10);
/// Most parties of one round.
pub const MAX_PARTIES: u32 = 1024;

/// One key authority as a manifest names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityKey {
    /// Its id.
    pub name: Name,
    /// Epoch of its keys.
    pub epoch: u32,
    /// Its signature key.
    pub verify: VerifyKey,
    /// Its key for key agreement.
    pub exchange: ExchangeKey,
}

/// How long things take. The aggregator's clock decides; authorities only refuse by theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadlines {
    /// Time for parties to train and submit, from the opening of a round, in milliseconds.
    pub collect_ms: u64,
    /// Once the floor is reached, how long stragglers are still waited for, in milliseconds.
    pub grace_ms: u64,
    /// After a round's deadline, how long authorities still promise, in milliseconds.
    pub key_ms: u64,
    /// Attempts of one round before the job fails.
    pub max_attempts: u16,
}

/// Differential privacy of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Privacy {
    /// No noise: the opened sums are exact.
    None,
    /// Every party adds its share of the noise.
    Noise(NoiseSpec),
}

impl Privacy {
    /// The noise, if there is any.
    #[must_use]
    pub const fn noise(&self) -> Option<&NoiseSpec> {
        match self {
            Self::None => None,
            Self::Noise(noise) => Some(noise),
        }
    }
}

/// The key holders of a threshold job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThresholdSpec {
    /// N, parties that hold a share of the key: the first to join.
    pub holders: u32,
    /// T, those needed to open, besides the authority; over c.
    pub threshold: u32,
}

/// All that is fixed before round 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`MANIFEST_VERSION`].
    pub version: u16,
    /// Tenant of the deployment.
    pub tenant: Name,
    /// For people; at most 200 bytes.
    pub title: String,
    /// Random: two jobs are never the same.
    pub salt: [u8; 16],
    /// The aggregator's signature key.
    pub aggregator: VerifyKey,
    /// 1 to 4 authorities, all needed to open, sorted by name.
    pub authorities: Vec<AuthorityKey>,
    /// Registered protocol.
    pub protocol: u16,
    /// Registered scheme.
    pub scheme: u16,
    /// Pad generator.
    pub suite: PadSuite,
    /// Ring of the sums.
    pub ring: Ring,
    /// Code of reals.
    pub code: FixedPoint,
    /// Most parties of one round: n in every overflow bound.
    pub max_parties: u32,
    /// Replies wanted.
    pub quorum: u32,
    /// Honest contributors that must stand behind an opened sum; at least 2.
    pub k_min: u32,
    /// c, colluders tolerated among the parties.
    pub colluders: u32,
    /// Key holders; in threshold protocols only.
    pub threshold: Option<ThresholdSpec>,
    /// Noise.
    pub privacy: Privacy,
    /// Verified sum; not offered by this version.
    pub verified_sum: bool,
    /// Time limits.
    pub deadlines: Deadlines,
    /// What is summed.
    pub workload: Workload,
}

impl Manifest {
    /// The job's id: a hash of all fields.
    #[must_use]
    pub fn hash(&self) -> Hash {
        hash_parts("quorate/manifest/2", &[&encode(self)])
    }

    /// r_min = max(quorum, k_min + c): fewer replies open nothing.
    #[must_use]
    pub fn floor(&self) -> u32 {
        self.quorum.max(self.k_min.saturating_add(self.colluders))
    }

    /// h = r_min - c - 1, which divides the noise.
    #[must_use]
    pub fn noise_divisor(&self) -> u32 {
        self.floor().saturating_sub(self.colluders).saturating_sub(1)
    }

    /// The authority of this name.
    #[must_use]
    pub fn authority(&self, name: &Name) -> Option<&AuthorityKey> {
        self.authorities.iter().find(|authority| authority.name == *name)
    }

    /// The registered scheme.
    ///
    /// # Errors
    /// [`Code::BadManifest`] when the scheme is unknown or never served.
    pub fn sum_scheme(&self) -> Result<&'static dyn SumScheme, Refusal> {
        schemes::by_id(self.scheme)
            .filter(|scheme| scheme.info().served || cfg!(feature = "testkit"))
            .ok_or_else(|| Refusal::new(Code::BadManifest, "unknown scheme"))
    }

    /// Payload of a round.
    ///
    /// # Errors
    /// [`Code::OutOfOrder`] past the last round.
    pub fn payload(&self, round: u32) -> Result<PayloadSpec, Refusal> {
        let payload = self
            .workload
            .payload(round)
            .ok_or_else(|| Refusal::new(Code::OutOfOrder, "the job has no such round"))?;
        let (noise, proven) = (word_room(self, round), self.is_threshold());
        Ok(PayloadSpec { noise, proven, ..payload })
    }

    /// Shape of the sum of a round.
    ///
    /// # Errors
    /// [`Code::OutOfOrder`] past the last round.
    pub fn shape(&self, round: u32) -> Result<SumShape, Refusal> {
        Ok(SumShape {
            ring: self.ring,
            dim: self.payload(round)?.dim(),
            parties: self.max_parties,
            authorities: u32::try_from(self.authorities.len()).unwrap_or(u32::MAX),
            bits: self.value_bits(round)?,
        })
    }

    /// Bits of one party's value in a round, its noise included.
    ///
    /// # Errors
    /// [`Code::OutOfOrder`] past the last round, [`Code::BadManifest`] when the code is invalid.
    pub fn value_bits(&self, round: u32) -> Result<u32, Refusal> {
        let bad = |e: CodecError| Refusal::new(Code::BadManifest, e.to_string());
        let bound =
            self.payload(round)?.bound(&self.code, self.workload.max_rows()).map_err(bad)?;
        Ok(bits_needed(1, bound).min(self.ring.bits()))
    }

    /// Whether holders of key shares open this job's sums.
    #[must_use]
    pub const fn is_threshold(&self) -> bool {
        self.protocol == crate::threshold::PROTOCOL_ID
    }

    /// Whether parties of this job hold different columns.
    #[must_use]
    pub const fn is_vertical(&self) -> bool {
        self.protocol == crate::fedv::PROTOCOL_ID
    }

    /// Whether a payment network and its banks take part in this job.
    #[must_use]
    pub const fn is_payments(&self) -> bool {
        self.protocol == crate::pv4fad::PROTOCOL_ID
    }

    /// The code that refuses a set below the floor.
    #[must_use]
    pub const fn floor_code(&self) -> Code {
        if self.is_threshold() { Code::SetTooSmall } else { Code::BelowFloor }
    }

    /// The code that refuses a second set of one round.
    #[must_use]
    pub const fn second_set_code(&self) -> Code {
        if self.is_threshold() { Code::Difference } else { Code::LabelUsed }
    }

    /// The charge of a round, if the job adds noise.
    #[must_use]
    pub fn charge(&self, round: u32) -> Option<Charge> {
        let noise = self.privacy.noise()?.clone();
        Some(Charge { job: self.hash(), round, noise })
    }

    /// The threshold scheme of a threshold job.
    ///
    /// # Errors
    /// [`Code::BadManifest`] when the scheme is unknown or never served.
    pub fn threshold_scheme(&self) -> Result<&'static dyn ThresholdScheme, Refusal> {
        schemes::threshold_by_id(self.scheme)
            .filter(|scheme| scheme.info().served || cfg!(feature = "testkit"))
            .ok_or_else(|| Refusal::new(Code::BadManifest, "no threshold scheme"))
    }

    /// Bytes of one party's ciphertext in a round.
    ///
    /// # Errors
    /// [`Code::BadManifest`] when the scheme has no such step or the length overflows.
    pub fn step_bytes(&self, round: u32, step: usize) -> Result<u64, Refusal> {
        let shape = self.shape(round)?;
        self.sum_scheme()?
            .encoded_len(&shape, step)
            .and_then(|len| len.total(shape.dim))
            .ok_or_else(|| Refusal::new(Code::BadManifest, "the scheme has no such step"))
    }

    /// Whether the manifest is consistent, supported and cannot overflow.
    ///
    /// # Errors
    /// [`Code::BadManifest`] with the reason.
    pub fn check(&self) -> Result<(), Refusal> {
        let bad = |why: String| Err(Refusal::new(Code::BadManifest, why));
        if self.version != MANIFEST_VERSION {
            return Err(Refusal::new(Code::UnsupportedVersion, "unknown manifest version"));
        }
        if self.title.len() > 200 || self.title.contains(char::is_control) {
            return bad("the title has over 200 bytes or a control character".into());
        }
        if !(1..=MAX_AUTHORITIES).contains(&self.authorities.len()) {
            return bad("a job has 1 to 4 authorities".into());
        }
        let sorted = self.authorities.is_sorted_by(|a, b| a.name < b.name);
        let verify: BTreeSet<_> = self.authorities.iter().map(|a| a.verify).collect();
        let exchange: BTreeSet<_> = self.authorities.iter().map(|a| a.exchange).collect();
        if !sorted || verify.len().min(exchange.len()) != self.authorities.len() {
            return bad("authorities must be distinct and sorted by name".into());
        }
        let scheme = self.sum_scheme()?;
        let family = match self.protocol {
            crate::hybrid_alpha::PROTOCOL_ID => Family::FunctionalEncryption,
            crate::threshold::PROTOCOL_ID => Family::Threshold,
            crate::fedv::PROTOCOL_ID => Family::FunctionalEncryption,
            crate::pv4fad::PROTOCOL_ID => Family::Threshold,
            other => return bad(format!("unknown protocol {other}")),
        };
        if scheme.info().family != family {
            return bad(format!("scheme {} belongs to another protocol", scheme.info().name));
        }
        self.check_threshold()?;
        self.check_vertical()?;
        self.check_payments()?;
        if self.verified_sum {
            return bad("verified sums are not offered by this version".into());
        }
        if self.k_min < 2 {
            return bad("k_min must be at least 2".into());
        }
        if self.max_parties > MAX_PARTIES || self.floor() > self.max_parties {
            return bad(format!(
                "the floor max(quorum, k_min + c) = {} must not exceed max_parties = {}, itself at most {MAX_PARTIES}",
                self.floor(),
                self.max_parties
            ));
        }
        if self.noise_divisor() < 1 {
            return bad("h = floor - c - 1 must be at least 1".into());
        }
        let limits = &self.deadlines;
        let day = 24 * 3_600_000;
        if [limits.collect_ms, limits.grace_ms, limits.key_ms].iter().any(|ms| *ms > 30 * day)
            || limits.collect_ms == 0
            || limits.key_ms == 0
            || limits.max_attempts == 0
        {
            return bad("deadlines must be positive and at most 30 days".into());
        }
        self.workload.check().map_err(|e| Refusal::new(Code::BadManifest, e.to_string()))?;
        self.check_privacy()?;
        for round in self.workload.distinct_rounds() {
            let (parties, rows) = (u64::from(self.max_parties), self.workload.max_rows());
            self.payload(round)?
                .check_ring(self.ring, parties, &self.code, rows)
                .map_err(|e| Refusal::new(Code::BadManifest, e.to_string()))?;
            scheme
                .check(&self.shape(round)?)
                .map_err(|e| Refusal::new(Code::BadManifest, e.to_string()))?;
            self.step_bytes(round, 0)?;
            if self.is_threshold() && self.step_bytes(round, STEP_PARTIAL)? > MAX_PARTIAL_BYTES {
                return bad("a partial decryption would pass 4 MiB: sum fewer values".into());
            }
        }
        Ok(())
    }
}

impl Manifest {
    fn check_threshold(&self) -> Result<(), Refusal> {
        let bad = |why: &str| Err(Refusal::new(Code::BadManifest, why));
        match (&self.threshold, self.is_threshold() || self.is_payments()) {
            (None, false) => Ok(()),
            (Some(_), false) => bad("only threshold protocols have key holders"),
            (None, true) => bad("a threshold job names its key holders: [threshold]"),
            (Some(spec), true) => {
                if self.authorities.len() != 1 {
                    return bad("a threshold job has one authority");
                }
                let size = spec.threshold..=spec.holders;
                if spec.threshold <= self.colluders || size.is_empty() {
                    return bad("T must be over c and at most the number of holders");
                }
                if spec.holders > MAX_HOLDERS.min(self.max_parties) {
                    return bad("holders must be at most 64 and at most max_parties");
                }
                Ok(())
            }
        }
    }

    fn check_vertical(&self) -> Result<(), Refusal> {
        let bad = |why: &str| Err(Refusal::new(Code::BadManifest, why));
        let vertical = self.is_vertical();
        let Workload::Vertical(spec) = &self.workload else {
            return if vertical {
                bad("the protocol trains over columns: [vertical]")
            } else {
                Ok(())
            };
        };
        if !vertical {
            return bad("only the protocol fedv trains over columns of different parties");
        }
        if self.sum_scheme()?.info().name != "pad" || self.ring != Ring::Z64 {
            return bad("vertical jobs are served with scheme pad and 64-bit words");
        }
        if self.max_parties as usize != spec.blocks.len() {
            return bad("max_parties must be the number of blocks");
        }
        if !spec.fits_messages(self.authorities.len()) {
            return bad(
                "a batch's scores, or the rows' bits, do not fit a message: lower batch, the number of \
                 classes or max_rows",
            );
        }
        if self.floor() >= self.max_parties {
            return bad(
                "max(quorum, k_min + c) passive parties must stand behind every opened score: name \
                 that many blocks besides the label holder's",
            );
        }
        Ok(())
    }

    fn check_payments(&self) -> Result<(), Refusal> {
        let bad = |why: &str| Err(Refusal::new(Code::BadManifest, why));
        let Workload::Payments(spec) = &self.workload else {
            return match self.is_payments() {
                true => bad("the protocol is one of a payment network and its banks: [payments]"),
                false => Ok(()),
            };
        };
        if !self.is_payments() {
            return bad("only the protocol pv4fad takes a payment network and its banks");
        }
        if self.sum_scheme()?.info().name != "elgamal" || self.ring != Ring::Z32 {
            return bad("jobs on payments are served with scheme elgamal and 32-bit words");
        }
        self.workload.check().map_err(|e| Refusal::new(Code::BadManifest, e.to_string()))?;
        let banks = u32::try_from(spec.banks.len()).unwrap_or(u32::MAX);
        if Some(self.max_parties) != banks.checked_add(1)
            || self.threshold.is_none_or(|holding| holding.holders != banks)
        {
            return bad("every bank holds a share of the key, and the network is one party more");
        }
        crate::pv4fad::Figures::of(self)?.check()
    }

    fn check_privacy(&self) -> Result<(), Refusal> {
        let bad = |why: &str| Err(Refusal::new(Code::BadManifest, why));
        // The noise of model versions is checked with their figures.
        let Some(noise) = self.privacy.noise().filter(|_| !self.is_payments()) else {
            return Ok(());
        };
        if let Some(fault) = noise.fault() {
            return bad(fault);
        }
        if let Some(fault) = noise::fault(&self.workload, noise) {
            return bad(fault);
        }
        if !noise::can_be_drawn(self) {
            return bad("noise of this size cannot be drawn");
        }
        let rounds = self.workload.rounds();
        if rounds > MAX_NOISED_ROUNDS {
            return bad("a job with noise has at most 10,000 rounds");
        }
        let epsilon = noise.epsilon_of(rounds);
        if epsilon > noise.epsilon {
            return bad(&format!(
                "{rounds} rounds cost epsilon {epsilon:.4} at delta {:e}, over the budget of {}: raise \
                 the noise multiplier or take fewer rounds",
                noise.delta, noise.epsilon
            ));
        }
        Ok(())
    }
}

/// One invited party, as hashed into the roster root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterEntry {
    /// Its id.
    pub party: Name,
    /// Epoch of its keys.
    pub epoch: u32,
    /// Its signature key.
    pub verify: VerifyKey,
    /// Its key for key agreement.
    pub exchange: ExchangeKey,
}

/// Root over a roster's entries, in order.
#[must_use]
pub fn roster_root(roster: &[RosterEntry]) -> Hash {
    let leaves: Vec<Hash> = roster
        .iter()
        .map(|entry| hash_parts("quorate/roster-entry/1", &[&encode(entry)]))
        .collect();
    hash_parts("quorate/roster/1", &[&quorate_crypto::merkle::root(&leaves).0])
}

/// An authority's word that it accepts a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// The authority.
    pub authority: Name,
    /// Hash of the manifest.
    pub manifest: Hash,
    /// Its key for evaluating identifiers, in jobs that align rows.
    pub evaluation: Option<EvaluationPublicKey>,
}
postcard_body!(Approval, "quorate/approval/2");

impl Approval {
    /// Checks a manifest and signs it off as authority `me`.
    ///
    /// # Errors
    /// [`Code::BadManifest`], [`Code::BelowMinima`], or [`Code::UnknownJob`] when this authority's
    /// current keys, of key epoch `epoch`, are not in the manifest.
    pub(crate) fn of(
        cx: &Context<'_>,
        me: &Name,
        epoch: u32,
        minima: &Minima,
        manifest: &Manifest,
    ) -> Result<Verified<Self>, Refusal> {
        manifest.check()?;
        minima.check(manifest)?;
        let mine = manifest.authority(me).is_some_and(|key| {
            key.epoch == epoch
                && key.verify == cx.identity.verify_key()
                && key.exchange == cx.identity.exchange_key()
        });
        if !mine {
            return Err(Refusal::new(Code::UnknownJob, "the manifest names other keys for me"));
        }
        let evaluation = match manifest.is_vertical() {
            true => Some(evaluation_key(cx.identity, &manifest.hash())?.public()),
            false => None,
        };
        let approval = Self { authority: me.clone(), manifest: manifest.hash(), evaluation };
        Ok(Signed::sign(approval, cx.identity))
    }
}

/// An authority's key for evaluating the identifiers of one job: the same after a restart.
///
/// # Errors
/// [`Code::Unavailable`] with negligible probability.
pub fn evaluation_key(identity: &Identity, job: &Hash) -> Result<EvaluationKey, Refusal> {
    let seed = identity.derive_seed("quorate/evaluation-key/1", &job.0);
    EvaluationKey::derive(&seed, &job.0).map_err(|e| Refusal::new(Code::Unavailable, e.to_string()))
}

/// A manifest with every authority's approval: what a party joins.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobPackage {
    /// The manifest.
    pub manifest: Manifest,
    /// One per authority, in manifest order.
    pub approvals: Vec<Signed<Approval>>,
}

impl JobPackage {
    /// Checks the manifest and that each authority signed it off.
    ///
    /// # Errors
    /// [`Code::BadManifest`], [`Code::BadSignature`].
    pub fn verify(&self) -> Result<Vec<Verified<Approval>>, Refusal> {
        self.manifest.check()?;
        let hash = self.manifest.hash();
        if self.approvals.len() != self.manifest.authorities.len() {
            return Err(Refusal::new(Code::BadManifest, "an authority's approval is missing"));
        }
        let mut verified = Vec::with_capacity(self.approvals.len());
        for (authority, approval) in self.manifest.authorities.iter().zip(&self.approvals) {
            let approval = approval.verify(&authority.verify)?;
            if approval.manifest != hash || approval.authority != authority.name {
                return Err(Refusal::new(Code::BadManifest, "an approval is of another manifest"));
            }
            verified.push(approval);
        }
        Ok(verified)
    }
}

/// The least a party or authority accepts, pinned in its own configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Minima {
    /// Least k_min.
    pub k_min: u32,
    /// Least c.
    pub colluders: u32,
    /// Least number of authorities.
    pub authorities: u32,
    /// Signature keys of accepted authorities; empty accepts any (an authority checks only that it
    /// is itself in the list).
    pub accepted: Vec<VerifyKey>,
    /// Whether a job must add noise: the sums of one that does not are exact, and no account bounds
    /// them.
    pub require_noise: bool,
    /// Data sets that jobs with noise may charge; empty accepts any.
    ///
    /// # Security
    /// Whoever creates a job chooses the name. Where accounts are kept under it, only a list keeps
    /// a new name from opening a fresh account for the same data.
    pub data_sets: Vec<Name>,
}

impl Default for Minima {
    fn default() -> Self {
        Self {
            k_min: 2,
            colluders: 0,
            authorities: 1,
            accepted: Vec::new(),
            require_noise: false,
            data_sets: Vec::new(),
        }
    }
}

impl Minima {
    /// Whether a manifest meets them.
    ///
    /// # Errors
    /// [`Code::BelowMinima`] with the minimum that is missed.
    pub fn check(&self, manifest: &Manifest) -> Result<(), Refusal> {
        let accepted = |key: &VerifyKey| self.accepted.is_empty() || self.accepted.contains(key);
        let charged = |name: &Name| self.data_sets.is_empty() || self.data_sets.contains(name);
        let authorities = u32::try_from(manifest.authorities.len()).unwrap_or(u32::MAX);
        let why = if manifest.k_min < self.k_min {
            format!("k_min is {}, at least {} is required here", manifest.k_min, self.k_min)
        } else if manifest.colluders < self.colluders {
            format!("c is {}, at least {} is required here", manifest.colluders, self.colluders)
        } else if authorities < self.authorities {
            format!("{authorities} authorities, at least {} are required here", self.authorities)
        } else if !manifest.authorities.iter().all(|a| accepted(&a.verify)) {
            "an authority of the manifest is not accepted here".to_owned()
        } else {
            match manifest.privacy.noise() {
                None if self.require_noise => {
                    "the job adds no noise, and only jobs with noise are taken here: give it a \
                     [privacy] table"
                        .to_owned()
                }
                Some(noise) if !charged(&noise.data_set) => {
                    let names: Vec<&str> = self.data_sets.iter().map(Name::as_str).collect();
                    format!(
                        "data set {} has no account here: let privacy.data_set name one of {}",
                        noise.data_set,
                        names.join(", ")
                    )
                }
                _ => return Ok(()),
            }
        };
        if holds(Check::Minima, false) {
            return Ok(());
        }
        Err(Refusal::new(Code::BelowMinima, why))
    }
}
