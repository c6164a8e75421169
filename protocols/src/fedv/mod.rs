//! FedV: one linear model over columns that different parties hold.
//!
//! Source: Xu, Baracaldo, Zhou, Anwar, Joshi, Ludwig, *FedV: Privacy-Preserving Federated Learning
//! over Vertically Partitioned Data* (arXiv 2103.03918), with its leaks closed: parties keep their own
//! weights; scores open to the label holder alone; products stay masked, so that only their owner
//! reads a gradient; the order of the rows comes from all parties; labels are kept by noise; and every
//! key serves one label. The paper has two queries per batch, on the feature dimension (the summed
//! scores) and on the sample dimension (the products of features and residuals); so has this.
//!
//! Roles: **authorities** (`m`, 1 to 4), **aggregator** (passes on, counts, orders; it can open
//! nothing), the **label holder** and at least two **passive parties**, who upload once per batch and
//! talk to the aggregator alone.
//!
//! Before the first batch the parties find their common rows ([`align`]).
//!
//! A batch: each passive party p uploads its scores z_p = X_p w_p, its features X_p and fresh masks,
//! all under pads and a cover ([`product`]). When all are there, every
//! authority seals its score key to the label holder L, who opens z = sum_p z_p + z_L, computes the
//! residuals u, adds label noise, and asks every authority for the products with v_p = u + rho_p, where
//! rho_p is a keystream that L shares with p. L opens <v_p, x_j> + m_pj and sends it, sealed, to p, who
//! takes both masks off and has its gradient.
//!
//! A job may have features sent once, before the first epoch, under a label of their own
//! (`static_features`); a batch then brings scores and fresh masks alone, and the label holder names its
//! rows to the authorities.
//!
//! # Security
//! The aggregator sees ciphertexts, sealed messages and who takes part. An authority sees uniform
//! vectors v_p. L sees the summed scores of every batch, and so over the epochs the Gram matrix of the
//! passive parties' joint features; `Shown` keeps differences of sums over rosters from showing a lone
//! party, as long as it sends true gradients. Authorities that come by ciphertexts open nothing: over their pads lies the cover, which the label holder
//! takes off. A passive party sees its own gradients: without label noise it
//! learns the labels from them, of small batches from the first on (measured in `attack_tests`). All of this fails if L and all authorities collude
//! (they open every feature), or a passive party and one authority (they open u).
//!
//! # The numbered checks
//! Authority, before a score key: V1 signatures of aggregator and members; V2 manifest approved
//! here; V3 label recomputed, epoch and batch within the job; V4 roster sorted, enrolled, in the manifest,
//! with the label holder and at least k_min + c passive parties; V5 every passive party of the roster is
//! in, each once; V6 the batch is later than every one before, its epoch differs from those before in
//! no passive party or in k_min + c at least that still have columns. Before a product key: V7 the ask is
//! signed by the label holder of that batch; V8 it is the only one of the label. Party: V9 the aggregator's
//! signature, the job's epoch, order and roster, its own keys in it, all of them certified by all authorities; V10 every contribution is the one
//! committed to; V11 the batch is the next of the epoch, its permutation the one mixed; V12 one
//! plaintext per batch, one nonce per label.
//!
//! [`product`]: quorate_crypto::fe::product

pub mod aggregator;
pub mod align;
#[cfg(test)]
mod attack_tests;
pub mod authority;
pub mod linear;
pub mod messages;
pub mod party;
#[cfg(any(test, feature = "testkit"))]
#[expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "test code"
)]
pub mod sim;
#[cfg(test)]
mod tests;
pub mod work;

use std::collections::BTreeSet;

use quorate_crypto::fe::product::ProductShape;
use quorate_crypto::keys::{ExchangeKey, Identity, KeyBinding, SharedKey, ZeroSharedSecret};
use quorate_crypto::merkle::{Hash, hash_parts};
use quorate_crypto::secret::Secret;
use quorate_crypto::sum::Label;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::card::{Card, Guarantee};
use crate::checks::{Check, holds};
use crate::enrol::Enrolled;
use crate::job::{Manifest, RosterEntry, roster_root};
use crate::refusal::{Code, Culprit, Refusal};
use crate::round::messages::{SubmitHeader, certified};
use crate::wire::{Name, Signed, Verified};
use crate::workload::{Block, VerticalSpec, Workload};
use messages::{BatchFields, BatchFreeze, BatchOpen, BatchPurpose, EpochOpen};

/// Number of this protocol in manifests.
pub const PROTOCOL_ID: u16 = 3;

/// Bytes of a word.
const WORD: usize = 8;

/// What FedV promises.
pub const CARD: Card = Card {
    protocol: "FedV (Xu et al., arXiv 2103.03918), with own weights at every party, masked products, \
               keys bound to one batch and label noise",
    phase: "training and scoring of a linear model over columns that different parties hold",
    guarantees: &[
        Guarantee {
            role: "aggregator",
            learns: "who takes part, the number of common rows, batch sizes, how many columns each \
                     party still sends; no identifier, feature, label, score, weight or gradient, \
                     nor which rows a batch holds",
        },
        Guarantee {
            role: "authority",
            learns: "who takes part and sizes; vectors that are uniform to it; with static features \
                     which rows a batch holds, and so which are trained on",
        },
        Guarantee {
            role: "label holder",
            learns: "the summed score of every row in every epoch, and from these over the epochs the \
                     Gram matrix of the passive parties' joint features; no party's own score, \
                     weight, feature or gradient",
        },
        Guarantee {
            role: "passive party",
            learns: "its own gradients, which tell of labels no more than the label noise lets \
                     through; which aligned rows have a label",
        },
    ],
    utility: "exact: training equals training on the joined rows in fixed point to the bit; one upload \
              per party and batch, no traffic between parties",
    leakage: "see the label holder's line; a label holder that sends false gradients learns from the next \
              scores a passive party's features; a job that allows lone changes shows the label holder about \
              the scores of a party that an epoch is without, and those of one that feature selection leaves \
              alone; with the label noise off a passive party learns labels from its \
              gradients, of small batches from the first on",
    assumptions: &[
        "the label holder and at least one authority do not collude",
        "at least one authority certifies no false keys of a party",
        "no passive party colludes with an authority: together they read the residuals",
        "at least k_min passive parties behind every opened score are honest",
        "parties follow the protocol: a false feature, score or gradient is not detected",
        "every store is durable and is not rolled back behind its process",
    ],
};

/// The spec of a vertical job.
///
/// # Errors
/// [`Code::BadManifest`] when the job is another.
pub fn spec(manifest: &Manifest) -> Result<&VerticalSpec, Refusal> {
    match &manifest.workload {
        Workload::Vertical(spec) => Ok(spec),
        _ => Err(Refusal::new(Code::BadManifest, "not a vertical job")),
    }
}

/// The roster without the label holder, in order.
pub(crate) fn passive<'a>(
    spec: &'a VerticalSpec,
    roster: &'a [RosterEntry],
) -> impl Iterator<Item = &'a RosterEntry> {
    roster.iter().filter(|entry| entry.party != spec.holder)
}

/// The label under which parties store their features, where a job has them sent once.
pub(crate) fn features_label(manifest: &Hash, order: &Hash) -> Label {
    Label(hash_parts("quorate/vertical-features/1", &[&manifest.0, &order.0]).0)
}

/// The length of a passive party's stored features of `rows` rows.
pub(crate) fn features_bytes(spec: &VerticalSpec, party: &Name, rows: u32) -> u64 {
    let features = spec.block(party).map_or(0, Block::features);
    features.saturating_mul(u64::from(rows)).saturating_mul(WORD as u64)
}

/// One passive party's header of stored features.
pub(crate) fn check_features(
    manifest: &Manifest,
    (rows, order): (u32, &Hash),
    entry: &RosterEntry,
    header: &Signed<SubmitHeader>,
) -> Result<Verified<SubmitHeader>, Refusal> {
    let header = header.verify(&entry.verify)?;
    let spec = spec(manifest)?;
    let hash = manifest.hash();
    let right = spec.static_features
        && header.label == features_label(&hash, order)
        && header.manifest == hash
        && header.party == entry.party
        && header.epoch == entry.epoch
        && header.scheme == manifest.scheme;
    if !right {
        return Err(Refusal::new(
            Code::WrongLabel,
            "the features are of another job, order or epoch",
        ));
    }
    let expected = features_bytes(spec, &entry.party, rows);
    if header.ciphertext.len != expected {
        let why = format!("{} bytes of features, {expected} expected", header.ciphertext.len);
        return Err(
            Refusal::new(Code::WrongLength, why).blaming(Culprit::Party(entry.party.clone()))
        );
    }
    Ok(header)
}

/// The headers of the features that a frozen batch uses, of all passive parties in order; none where they
/// come with the batch.
pub(crate) fn check_stored(
    manifest: &Manifest,
    epoch: &EpochOpen,
    freeze: &BatchFreeze,
) -> Result<Vec<Verified<SubmitHeader>>, Refusal> {
    let spec = spec(manifest)?;
    let wrong = || {
        Refusal::new(Code::BadY, "not the stored features of all passive parties, each once")
            .blaming(Culprit::Aggregator)
    };
    if !spec.static_features {
        return if freeze.features.is_empty() { Ok(Vec::new()) } else { Err(wrong()) };
    }
    if freeze.features.len() != passive(spec, &epoch.roster).count() {
        return Err(wrong());
    }
    passive(spec, &epoch.roster)
        .zip(&freeze.features)
        .map(|(entry, header)| {
            check_features(manifest, (epoch.rows, &epoch.order), entry, header)
                .map_err(|refusal| refusal.blaming(Culprit::Aggregator))
        })
        .collect()
}

/// The sizes of a passive party's part of a batch, from the length of its ciphertext: columns that
/// feature selection dropped are not sent.
///
/// # Errors
/// [`Code::WrongLength`].
pub fn shape_of(
    spec: &VerticalSpec,
    fields: &BatchFields,
    party: &Name,
    bytes: u64,
) -> Result<ProductShape, Refusal> {
    let wrong = || Refusal::new(Code::WrongLength, "not the length of a batch of this party");
    let features = spec.block(party).ok_or_else(wrong)?.features();
    let mut shape =
        ProductShape { rows: fields.rows as usize, columns: 0, outputs: spec.outputs() };
    let bytes = usize::try_from(bytes).map_err(|_| wrong())?;
    let rest = bytes.checked_sub(shape.score_bytes()).ok_or_else(wrong)?;
    // Stored features are not sent again, and those of rows that are only scored not at all.
    let scored = fields.purpose == BatchPurpose::Score;
    let sent = if spec.static_features || scored { 0 } else { shape.rows };
    let column = sent.saturating_add(shape.outputs).saturating_mul(WORD);
    let columns = rest.checked_div(column).unwrap_or(0);
    let all = !spec.static_features || columns as u64 == features;
    let whole = columns.saturating_mul(column) == rest && columns as u64 <= features && all;
    if !whole {
        return Err(wrong());
    }
    shape.columns = columns;
    Ok(shape)
}

/// What the scores opened so far can be told apart to: passive parties that were in and out of the same
/// epochs. A linear combination of the opened sums weighs all parties of a group alike.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shown {
    groups: Vec<BTreeSet<Name>>,
}

impl Shown {
    /// Whether the party was in an opened epoch.
    pub(crate) fn has(&self, party: &Name) -> bool {
        self.groups.iter().any(|group| group.contains(party))
    }

    /// The groups once an epoch over `roster` is opened, too.
    ///
    /// # Errors
    /// [`Code::BelowFloor`] when a group would have fewer than k_min + c parties and the job does not
    /// allow lone changes.
    pub(crate) fn with(
        &self,
        manifest: &Manifest,
        roster: &[RosterEntry],
    ) -> Result<Self, Refusal> {
        let spec = spec(manifest)?;
        let mut rest: BTreeSet<Name> =
            passive(spec, roster).map(|entry| entry.party.clone()).collect();
        let mut groups = Vec::with_capacity(self.groups.len().saturating_add(1));
        for group in &self.groups {
            let (inside, outside) = group.iter().cloned().partition(|party| rest.contains(party));
            groups.extend([inside, outside]);
        }
        groups.iter().flatten().for_each(|party| {
            rest.remove(party);
        });
        groups.push(rest);
        groups.retain(|group| !group.is_empty());
        let least = manifest.k_min.saturating_add(manifest.colluders) as usize;
        let shown = Self { groups };
        if !spec.lone_changes && shown.groups.iter().any(|group| group.len() < least) {
            return Err(Refusal::new(
                Code::BelowFloor,
                format!(
                    "the scores of this epoch and of those before would tell of fewer than {least} \
                     parties: wait for who is missing, or allow lone_changes in a new job"
                ),
            )
            .blaming(Culprit::Aggregator));
        }
        Ok(shown)
    }

    /// Whether no combination of the opened sums tells of fewer than k_min + c parties that have columns: a
    /// party whose columns feature selection dropped adds nothing to a sum, and hides nobody.
    ///
    /// # Errors
    /// [`Code::BelowFloor`], unless the job allows lone changes.
    pub(crate) fn check_columns(
        &self,
        manifest: &Manifest,
        with_columns: &BTreeSet<Name>,
    ) -> Result<(), Refusal> {
        let least = manifest.k_min.saturating_add(manifest.colluders) as usize;
        let lone =
            |group: &BTreeSet<Name>| (1..least).contains(&group.intersection(with_columns).count());
        if spec(manifest)?.lone_changes || !self.groups.iter().any(lone) {
            return Ok(());
        }
        Err(Refusal::new(
            Code::BelowFloor,
            format!(
                "feature selection left columns to fewer than {least} of the passive parties that these \
                 scores would tell of: lower selection in a new job, or allow lone_changes"
            ),
        ))
    }
}

/// An epoch opening whose public fields were checked: V1, V4 but enrolment.
pub(crate) fn check_epoch(
    manifest: &Manifest,
    open: &Signed<EpochOpen>,
) -> Result<Verified<EpochOpen>, Refusal> {
    let open = open.verify(&manifest.aggregator)?;
    if open.manifest != manifest.hash() {
        return Err(Refusal::new(Code::UnknownJob, "the epoch belongs to another job"));
    }
    let blame = |code, why: &str| Refusal::new(code, why).blaming(Culprit::Aggregator);
    let spec = spec(manifest)?;
    if open.epoch > spec.epochs || open.mix >= manifest.deadlines.max_attempts {
        return Err(blame(Code::UnknownRound, "the job has no such epoch"));
    }
    let known = open.roster.iter().all(|entry| spec.block(&entry.party).is_some());
    if !known || !open.roster.is_sorted_by(|a, b| a.party < b.party) {
        return Err(blame(
            Code::BadRoster,
            "the roster is not sorted or names others than the job",
        ));
    }
    if !open.roster.iter().any(|entry| entry.party == spec.holder) {
        return Err(blame(Code::BadRoster, "the label holder is not in the roster"));
    }
    let members = u32::try_from(passive(spec, &open.roster).count()).unwrap_or(u32::MAX);
    if !holds(Check::Floor, members >= manifest.floor()) {
        return Err(blame(
            Code::BelowFloor,
            "fewer passive parties than the floor max(quorum, k_min + c)",
        ));
    }
    if open.align {
        return Ok(open);
    }
    let (trained, scored) = open.split;
    if u64::from(open.rows) > spec.max_rows || trained.checked_add(scored) != Some(open.rows) {
        return Err(blame(Code::WrongLength, "more rows than the job allows, or a wrong split"));
    }
    if trained < spec.batch {
        return Err(Refusal::new(
            Code::BelowFloor,
            format!("{trained} common rows have a label, a batch takes {}", spec.batch),
        ));
    }
    Ok(open)
}

/// Every party of the roster has keys that all authorities certified (V9): whom others seal to and whose
/// cover they put on is not the aggregator's word alone.
pub(crate) fn check_certificates(
    manifest: &Manifest,
    open: &EpochOpen,
    certificates: &[Signed<Enrolled>],
) -> Result<(), Refusal> {
    let each = manifest.authorities.len().max(1);
    let right = certificates.len() == open.roster.len().saturating_mul(each)
        && open
            .roster
            .iter()
            .zip(certificates.chunks(each))
            .all(|(entry, own)| certified(manifest, entry, own));
    if holds(Check::Enrolled, right) {
        return Ok(());
    }
    Err(Refusal::new(Code::BadRoster, "keys in the roster that not all authorities certified")
        .blaming(Culprit::Aggregator))
}

/// Rows of a batch of an epoch, or `None` when the epoch has no such batch.
pub(crate) fn batch_rows(spec: &VerticalSpec, epoch: &EpochOpen, counter: u32) -> Option<u32> {
    let (trained, scored) = epoch.split;
    let start = counter.checked_mul(spec.batch)?;
    if epoch.epoch < spec.epochs {
        let end = start.checked_add(spec.batch)?;
        return (end <= trained).then_some(spec.batch);
    }
    scored.checked_sub(start).filter(|left| *left > 0).map(|left| left.min(spec.batch))
}

/// A batch opening of an epoch: V1, V3.
pub(crate) fn check_batch(
    manifest: &Manifest,
    epoch: &EpochOpen,
    open: &Signed<BatchOpen>,
) -> Result<(Verified<BatchOpen>, Label), Refusal> {
    let open = open.verify(&manifest.aggregator)?;
    let spec = spec(manifest)?;
    let fields = &open.fields;
    let purpose = if epoch.epoch < spec.epochs { BatchPurpose::Train } else { BatchPurpose::Score };
    let right = !epoch.align
        && fields.manifest == epoch.manifest
        && fields.epoch == epoch.epoch
        && fields.purpose == purpose
        && batch_rows(spec, epoch, fields.counter) == Some(fields.rows)
        && fields.roster_root == roster_root(&epoch.roster)
        && fields.order == epoch.order;
    if !holds(Check::Label, right) {
        return Err(Refusal::new(Code::WrongLabel, "the batch is none of its epoch's")
            .blaming(Culprit::Aggregator));
    }
    let label = fields.label(manifest);
    Ok((open, label))
}

/// One passive party's submission header under the label it must have.
pub(crate) fn check_header(
    manifest: &Manifest,
    epoch: &EpochOpen,
    (fields, label): (&BatchFields, &Label),
    header: &Signed<SubmitHeader>,
) -> Result<Verified<SubmitHeader>, Refusal> {
    let claimed = header.peek()?;
    let spec = spec(manifest)?;
    let entry = passive(spec, &epoch.roster)
        .find(|entry| entry.party == claimed.party)
        .ok_or_else(|| Refusal::new(Code::UnknownParty, "the sender is not in this epoch"))?;
    let header = header.verify(&entry.verify)?;
    if !holds(Check::Label, header.label == *label) {
        return Err(Refusal::new(Code::WrongLabel, "the submission is for another label"));
    }
    let blame = |refusal: Refusal| refusal.blaming(Culprit::Party(entry.party.clone()));
    if header.manifest != fields.manifest
        || header.epoch != entry.epoch
        || header.scheme != manifest.scheme
    {
        let why = "the submission is of another job, epoch or scheme";
        return Err(blame(Refusal::new(Code::WrongLabel, why)));
    }
    shape_of(spec, fields, &header.party, header.ciphertext.len).map_err(blame)?;
    Ok(header)
}

/// The headers of a frozen batch: of all passive parties of the epoch, each once, in order (V5).
pub(crate) fn check_members(
    manifest: &Manifest,
    epoch: &EpochOpen,
    expected: (&BatchFields, &Label),
    freeze: &BatchFreeze,
) -> Result<Vec<Verified<SubmitHeader>>, Refusal> {
    let members = freeze
        .members
        .iter()
        .map(|header| check_header(manifest, epoch, expected, header))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|refusal| refusal.blaming(Culprit::Aggregator))?;
    let all = passive(spec(manifest)?, &epoch.roster).map(|entry| &entry.party);
    if !holds(Check::Indicator, all.eq(members.iter().map(|header| &header.party))) {
        return Err(Refusal::new(Code::BadY, "a batch opens over all passive parties, each once")
            .blaming(Culprit::Aggregator));
    }
    Ok(members)
}

/// The key that a party and an authority share.
pub(crate) fn authority_pair(
    identity: &Identity,
    peer: &ExchangeKey,
    manifest: &Manifest,
    (authority, authority_key): (&Name, ExchangeKey),
    entry: &RosterEntry,
) -> Result<SharedKey, ZeroSharedSecret> {
    let binding = KeyBinding {
        tenant: manifest.tenant.as_str(),
        authority: authority.as_str(),
        party: entry.party.as_str(),
        authority_key,
        party_key: entry.exchange,
        epoch: entry.epoch,
    };
    identity.shared_key(peer, &binding)
}

/// What a sealed message is bound to: its kind, label or epoch, sender and receiver.
fn seal_info(kind: &str, under: &[u8; 32], from: &Name, to: &Name) -> Hash {
    let parts: [&[u8]; 4] =
        [kind.as_bytes(), under, from.as_str().as_bytes(), to.as_str().as_bytes()];
    hash_parts("quorate/vertical-seal/1", &parts)
}

/// Seals `plain` to `to`. The same plaintext gives the same bytes, so that an answer can be made again
/// after a restart; the randomness is a function of the sender's secret keys, `info` and plaintext.
///
/// # Errors
/// [`Code::BadRoster`] when the receiver's key is of small order.
pub(crate) fn seal(
    identity: &Identity,
    to: &ExchangeKey,
    info: &Hash,
    plain: &[u8],
) -> Result<Vec<u8>, Refusal> {
    let message = Zeroizing::new([&info.0, &to.0, plain].concat());
    let seed = identity.derive_seed("quorate/vertical-seal-randomness/1", &message);
    let mut rng = ChaCha20Rng::from_seed(*seed.expose());
    to.seal(&info.0, plain, &mut rng)
        .ok_or_else(|| Refusal::new(Code::BadRoster, "an exchange key of small order"))
}

/// Opens sealed little-endian words.
///
/// # Errors
/// [`Code::Malformed`] when they were sealed to somebody else or are not `expected` words.
pub(crate) fn open_words(
    identity: &Identity,
    info: &Hash,
    sealed: &[u8],
    expected: usize,
) -> Result<Zeroizing<Vec<u64>>, Refusal> {
    let bad = |why| Refusal::new(Code::Malformed, why);
    let plain: Secret<Vec<u8>> = identity
        .open_sealed(&info.0, sealed)
        .ok_or_else(|| bad("sealed to another receiver, or for another batch"))?;
    let (words, []) = plain.expose().as_chunks::<WORD>() else {
        return Err(bad("sealed bytes that are no words"));
    };
    if words.len() != expected {
        return Err(bad("another number of sealed words"));
    }
    Ok(Zeroizing::new(words.iter().map(|word| u64::from_le_bytes(*word)).collect()))
}

/// Words as little-endian bytes.
pub(crate) fn word_bytes(words: &[u64]) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(words.len().saturating_mul(WORD)));
    words.iter().for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
    bytes
}
