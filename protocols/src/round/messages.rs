//! The messages of a round, in the order they travel.
//!
//! `RoundOpen` -> `SubmitHeader` -> `Receipt` -> `Freeze` + y -> `Promise` (all m) -> `KeyRequest` ->
//! `FuncKey` (all m) -> `ResultRecord`; or `TombstoneRequest` -> `Tombstone` (all m) -> the next attempt.
//! Threshold jobs make a key before round 0: `KeyCall` -> `KeyPosted` (each participant, step by
//! step); and besides the `FuncKey`, which is then the authority's partial decryption, they take
//! `ShareAsk` -> `Partial` from T holders.

use quorate_crypto::keys::Identity;
use quorate_crypto::merkle::{Hash, hash_parts};
use quorate_crypto::sum::{Label, Nonce};
use quorate_crypto::threshold::{KeyPost, ReplyBinding};
use serde::{Deserialize, Serialize};

use crate::enrol::Enrolled;
use crate::fedv::messages::VerticalMessage;
use crate::job::{Approval, Manifest, RosterEntry};
use crate::postcard_body;
use crate::pv4fad::letters::PaymentsMessage;
use crate::refusal::{Code, Refusal};
use crate::wire::{Body, Name, Signature, Signed};
use crate::workload::Purpose;

/// Length and tree hash of a vector that travels apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkRef {
    /// Bytes.
    pub len: u64,
    /// Root over its 1 MiB chunks.
    pub root: Hash,
}

/// A purpose's number in a label; never reused.
const fn purpose_id(purpose: Purpose) -> u8 {
    match purpose {
        Purpose::Moments => 1,
        Purpose::Train => 2,
        Purpose::Sum => 3,
        Purpose::Steps => 4,
        Purpose::Counts => 5,
    }
}

/// The fields a label is the hash of, besides those in the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundFields {
    /// Hash of the manifest.
    pub manifest: Hash,
    /// Round, from 0.
    pub round: u32,
    /// Attempt, from 0.
    pub attempt: u16,
    /// What the sum is for.
    pub purpose: Purpose,
    /// Root of the invited parties.
    pub roster_root: Hash,
    /// Hash of the last opened result record; zero before the first.
    pub previous_result: Hash,
    /// Hash of the model this round starts from.
    pub model: Hash,
    /// d, coordinates.
    pub dim: u64,
    /// Type of the payload.
    pub payload_type: u16,
    /// Id of the job's threshold key; zero where there is none.
    pub key: Hash,
}

impl RoundFields {
    /// The label: SHA-256 of all fields, length-prefixed, with tenant and key epochs.
    #[must_use]
    pub fn label(&self, manifest: &Manifest) -> Label {
        let epochs: Vec<u8> =
            manifest.authorities.iter().flat_map(|a| a.epoch.to_le_bytes()).collect();
        let hash = hash_parts(
            "quorate/label/2",
            &[
                manifest.tenant.as_str().as_bytes(),
                &self.manifest.0,
                &epochs,
                &self.round.to_le_bytes(),
                &self.attempt.to_le_bytes(),
                &[purpose_id(self.purpose)],
                &self.roster_root.0,
                &self.previous_result.0,
                &self.model.0,
                &self.dim.to_le_bytes(),
                &self.payload_type.to_le_bytes(),
                &self.key.0,
            ],
        );
        Label(hash.0)
    }
}

/// A party asks to take part from the next round on; sent again, it is invited again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Join {
    /// The job.
    pub manifest: Hash,
    /// The party's keys.
    pub entry: RosterEntry,
    /// Every authority's certificate of these keys, in manifest order.
    pub certificates: Vec<Signed<Enrolled>>,
}
postcard_body!(Join, "quorate/join/1");

impl Join {
    /// The message that a party sends.
    #[must_use]
    pub fn signed(self, identity: &Identity) -> Message {
        Message::Join(Signed::sign(self, identity).signed().clone())
    }

    /// Whether every authority certified these keys for the tenant of this job.
    ///
    /// # Errors
    /// [`Code::UnknownParty`].
    pub(crate) fn check(&self, manifest: &Manifest) -> Result<(), Refusal> {
        let same = self.manifest == manifest.hash();
        if same && certified(manifest, &self.entry, &self.certificates) {
            return Ok(());
        }
        Err(Refusal::new(
            Code::UnknownParty,
            "joining needs every authority's certificate of these keys; enrol first",
        ))
    }
}

/// Whether these are every authority's certificates of a party's keys for the tenant of this job, in
/// manifest order.
pub(crate) fn certified(
    manifest: &Manifest,
    entry: &RosterEntry,
    certificates: &[Signed<Enrolled>],
) -> bool {
    certificates.len() == manifest.authorities.len()
        && manifest.authorities.iter().zip(certificates).all(|(key, signed)| {
            signed.verify(&key.verify).is_ok_and(|certificate| {
                certificate.authority == key.name
                    && certificate.tenant == manifest.tenant
                    && certificate.entry == *entry
            })
        })
}

/// The aggregator opens an attempt of a round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RoundOpen {
    /// What the label is made of.
    pub fields: RoundFields,
    /// The invited, sorted by name.
    pub roster: Vec<RosterEntry>,
    /// When submissions end, by the aggregator's clock (milliseconds since 1970).
    pub deadline_ms: u64,
    /// All m tombstones of the attempt before; empty in attempt 0.
    pub tombstones: Vec<Signed<Tombstone>>,
}
postcard_body!(RoundOpen, "quorate/round-open/2");

/// Bytes of an encoded [`SubmitHeader`], without its signature.
pub const SUBMIT_HEADER_BYTES: usize = 192;
const SUBMIT_VERSION: u16 = 1;

/// What a party signs about its ciphertext. Encoded in exactly 192 bytes:
///
/// | bytes | field |
/// |---|---|
/// | 0..2 | version = 1, little-endian |
/// | 2..4 | scheme id |
/// | 4..36 | manifest hash |
/// | 36..68 | label |
/// | 68..132 | party name, padded with zeros |
/// | 132..136 | epoch |
/// | 136..152 | nonce |
/// | 152..160 | ciphertext length in bytes |
/// | 160..192 | tree hash of the ciphertext |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubmitHeader {
    /// Scheme of the ciphertext.
    pub scheme: u16,
    /// The job.
    pub manifest: Hash,
    /// Label it is encrypted under.
    pub label: Label,
    /// Its sender.
    pub party: Name,
    /// Epoch of the sender's keys.
    pub epoch: u32,
    /// Fresh randomness that enters the pad.
    pub nonce: Nonce,
    /// The ciphertext.
    pub ciphertext: BulkRef,
}

impl Body for SubmitHeader {
    const DOMAIN: &'static str = "quorate/submit/1";

    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SUBMIT_HEADER_BYTES);
        out.extend_from_slice(&SUBMIT_VERSION.to_le_bytes());
        out.extend_from_slice(&self.scheme.to_le_bytes());
        out.extend_from_slice(&self.manifest.0);
        out.extend_from_slice(&self.label.0);
        out.extend_from_slice(self.party.as_str().as_bytes());
        out.resize(132, 0);
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.nonce.0);
        out.extend_from_slice(&self.ciphertext.len.to_le_bytes());
        out.extend_from_slice(&self.ciphertext.root.0);
        out
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, Refusal> {
        fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Result<&'a [u8; N], Refusal> {
            let (head, tail) = rest
                .split_first_chunk::<N>()
                .ok_or_else(|| Refusal::new(Code::Malformed, "the header is cut short"))?;
            *rest = tail;
            Ok(head)
        }
        if bytes.len() != SUBMIT_HEADER_BYTES {
            return Err(Refusal::new(Code::Malformed, "a submit header has 192 bytes"));
        }
        let mut rest = bytes;
        if u16::from_le_bytes(*take(&mut rest)?) != SUBMIT_VERSION {
            return Err(Refusal::new(Code::UnsupportedVersion, "unknown submit header version"));
        }
        let scheme = u16::from_le_bytes(*take(&mut rest)?);
        let manifest = Hash(*take(&mut rest)?);
        let label = Label(*take(&mut rest)?);
        let name: &[u8; 64] = take(&mut rest)?;
        let used = name.iter().position(|b| *b == 0).unwrap_or(name.len());
        let (text, padding) = name.split_at(used);
        if padding.iter().any(|b| *b != 0) {
            return Err(Refusal::new(Code::Malformed, "the name's padding is not zero"));
        }
        let text = core::str::from_utf8(text)
            .map_err(|_| Refusal::new(Code::Malformed, "the name is not text"))?;
        Ok(Self {
            scheme,
            manifest,
            label,
            party: Name::new(text)?,
            epoch: u32::from_le_bytes(*take(&mut rest)?),
            nonce: Nonce(*take(&mut rest)?),
            ciphertext: BulkRef {
                len: u64::from_le_bytes(*take(&mut rest)?),
                root: Hash(*take(&mut rest)?),
            },
        })
    }
}

impl Signed<SubmitHeader> {
    /// Header and signature in 256 bytes.
    #[must_use]
    pub fn to_wire(&self) -> Vec<u8> {
        let mut out = self.body().to_vec();
        out.extend_from_slice(&self.signature().0);
        out
    }

    /// Reads 256 bytes.
    ///
    /// # Errors
    /// [`Code::Malformed`].
    pub fn from_wire(bytes: &[u8]) -> Result<Self, Refusal> {
        let (body, signature) = bytes
            .split_at_checked(SUBMIT_HEADER_BYTES)
            .ok_or_else(|| Refusal::new(Code::Malformed, "a signed submit header has 256 bytes"))?;
        let signature: [u8; 64] = signature
            .try_into()
            .map_err(|_| Refusal::new(Code::Malformed, "a signed submit header has 256 bytes"))?;
        Ok(Self::from_parts(body.to_vec(), Signature(signature)))
    }
}

/// What the proof in a reply of a threshold scheme is bound to.
#[must_use]
pub fn reply_binding(label: &Label, party: &Name, nonce: &Nonce) -> ReplyBinding {
    ReplyBinding(hash_parts("quorate/reply/1", &[&label.0, party.as_str().as_bytes(), &nonce.0]).0)
}

/// The aggregator holds this submission, durably and in full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The label.
    pub label: Label,
    /// The party.
    pub party: Name,
    /// Hash of the signed header.
    pub header: Hash,
}
postcard_body!(Receipt, "quorate/receipt/1");

/// The set whose sum is to be opened, with every member's own signature.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Freeze {
    /// The attempt.
    pub open: Signed<RoundOpen>,
    /// Members' headers, sorted by party.
    pub members: Vec<Signed<SubmitHeader>>,
    /// Reserved for a log's inclusion proof; empty in this version.
    pub log_proof: Vec<u8>,
}
postcard_body!(Freeze, "quorate/freeze/1");

/// The aggregator asks an authority to bind itself to a frozen set.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PromiseRequest {
    /// The frozen set.
    pub freeze: Signed<Freeze>,
    /// One byte per roster entry: 1 for members, 0 for others.
    pub y: Vec<u8>,
}

/// Hash of a y vector.
#[must_use]
pub fn y_hash(y: &[u8]) -> Hash {
    hash_parts("quorate/y/1", &[y])
}

/// An authority will release a key for this set and no other of this round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// The authority.
    pub authority: Name,
    /// The job.
    pub manifest: Hash,
    /// Round.
    pub round: u32,
    /// Attempt.
    pub attempt: u16,
    /// The label.
    pub label: Label,
    /// Hash of the signed freeze record.
    pub freeze: Hash,
    /// Hash of y.
    pub y: Hash,
}
postcard_body!(Promise, "quorate/promise/1");

/// The aggregator asks for the functional key, against all m promises.
///
/// # Security
/// Anyone may send it, and needs nothing of the aggregator's: it decides nothing. The label must have
/// been promised here (A12), which took a frozen set signed by the aggregator and its members, and
/// which is where the budget is charged; and every authority must have signed a promise for that same
/// set (A13), after which the aggregator, too, can only ask for the key. Whoever holds all promises
/// and sends this first gets the key of a sum that was going to be opened, which whoever reaches the
/// services sees in any case. If it comes before a tombstone that the aggregator asks for because the
/// last promise did not reach it, the round is decided, the tombstone is refused with
/// [`Code::Released`], and the job ends: whoever holds messages back can end it without this one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyRequest {
    /// The job.
    pub manifest: Hash,
    /// The label.
    pub label: Label,
    /// One per authority, in manifest order.
    pub promises: Vec<Signed<Promise>>,
}

/// A functional key's signed description; its bytes travel apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FuncKey {
    /// The authority.
    pub authority: Name,
    /// The label.
    pub label: Label,
    /// Hash of what was asked: label, freeze record, y.
    pub request: Hash,
    /// The key.
    pub key: BulkRef,
}
postcard_body!(FuncKey, "quorate/func-key/1");

/// Hash of a key request's meaning.
#[must_use]
pub fn request_hash(label: &Label, freeze: &Hash, y: &Hash) -> Hash {
    hash_parts("quorate/key-request/1", &[&label.0, &freeze.0, &y.0])
}

/// The aggregator gives an attempt up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TombstoneRequest {
    /// The job.
    pub manifest: Hash,
    /// Round.
    pub round: u32,
    /// Attempt.
    pub attempt: u16,
}
postcard_body!(TombstoneRequest, "quorate/tombstone-request/1");

/// An authority will never release a key for this attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The authority.
    pub authority: Name,
    /// The job.
    pub manifest: Hash,
    /// Round.
    pub round: u32,
    /// Attempt.
    pub attempt: u16,
}
postcard_body!(Tombstone, "quorate/tombstone/1");

/// What was opened, signed by the aggregator; results form a chain by `previous`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultRecord {
    /// The job.
    pub manifest: Hash,
    /// The label.
    pub label: Label,
    /// Round.
    pub round: u32,
    /// Attempt.
    pub attempt: u16,
    /// Hash of the result record before; zero for the first.
    pub previous: Hash,
    /// Hash of the signed freeze record.
    pub freeze: Hash,
    /// Members of the frozen set.
    pub members: Vec<Name>,
    /// The opened sum as ring words.
    pub sum: BulkRef,
}
postcard_body!(ResultRecord, "quorate/result/1");

/// The aggregator calls for a threshold key among these participants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyCall {
    /// The job.
    pub manifest: Hash,
    /// Which call this is, from 0: a call that fails is followed by another without the culprit.
    pub number: u16,
    /// The holders, sorted by name; holder i of the key is at position i - 1.
    pub holders: Vec<RosterEntry>,
    /// The network of a payments job, which holds no share; none in other jobs.
    pub network: Option<RosterEntry>,
}
postcard_body!(KeyCall, "quorate/key-call/2");

/// What one participant of a key posts in one step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPosted {
    /// Hash of the signed call.
    pub call: Hash,
    /// Its name: the authority's or a holder's.
    pub from: Name,
    /// Hash of the signed posts of the steps before, in order: what this one was made from.
    pub seen: Hash,
    /// The scheme's bytes.
    pub post: KeyPost,
}
postcard_body!(KeyPosted, "quorate/key-post/1");

/// A call and the posts made to it so far, sorted by step and number. Complete, it is the job's
/// threshold key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyTranscript {
    /// The call.
    pub call: Signed<KeyCall>,
    /// The posts.
    pub posts: Vec<Signed<KeyPosted>>,
}

/// The aggregator asks holders for partial decryptions of a frozen set that the authority promised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareAsk {
    /// The frozen set.
    pub freeze: Signed<Freeze>,
    /// The authority's promise for it.
    pub promises: Vec<Signed<Promise>>,
    /// Holders asked so far.
    pub asked: Vec<Name>,
}

/// A holder's partial decryption of a frozen set's sum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partial {
    /// The holder.
    pub holder: Name,
    /// The label.
    pub label: Label,
    /// Hash of what was asked: label, freeze record, y.
    pub request: Hash,
    /// The scheme's bytes, which travel beside it.
    pub partial: BulkRef,
}
postcard_body!(Partial, "quorate/partial/1");

/// A holder will not give a partial decryption: who asks learns why, and whom it blames.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareRefused {
    /// The holder.
    pub holder: Name,
    /// The label.
    pub label: Label,
    /// Why.
    pub refusal: Refusal,
}
postcard_body!(ShareRefused, "quorate/share-refused/1");

/// Every control message of the protocol.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Message {
    /// Aggregator to authority: register a job.
    Register(Box<Manifest>),
    /// Authority to aggregator.
    Approval(Signed<Approval>),
    /// Party to aggregator.
    Join(Signed<Join>),
    /// Aggregator to party.
    RoundOpen(Signed<RoundOpen>),
    /// Party to aggregator, once the ciphertext is there.
    Submit(Signed<SubmitHeader>),
    /// Aggregator to party.
    Receipt(Signed<Receipt>),
    /// Aggregator to authority.
    PromiseRequest(PromiseRequest),
    /// Authority to aggregator.
    Promise(Signed<Promise>),
    /// Aggregator to authority.
    KeyRequest(KeyRequest),
    /// Authority to aggregator.
    FuncKey(Signed<FuncKey>),
    /// Aggregator to authority.
    TombstoneRequest(Signed<TombstoneRequest>),
    /// Authority to aggregator.
    Tombstone(Signed<Tombstone>),
    /// Aggregator to party.
    Result(Signed<ResultRecord>),
    /// Anyone: the request was refused.
    Refused(Refusal),
    /// Aggregator to authority: what was posted to the threshold key so far.
    KeyAsk(Box<KeyTranscript>),
    /// Authority or holder to aggregator.
    KeyPost(Signed<KeyPosted>),
    /// Holder to aggregator, with the scheme's bytes; the driver keeps them and hands the machine
    /// the signed part alone.
    Partial(Signed<Partial>, Vec<u8>),
    /// Holder to aggregator.
    ShareRefused(Signed<ShareRefused>),
    /// A message that only vertical jobs have.
    Vertical(VerticalMessage),
    /// A message that only payments jobs have.
    Payments(PaymentsMessage),
}

/// Version byte in front of every control message.
pub const WIRE_VERSION: u8 = 1;

impl Message {
    /// Version, protocol id and message.
    #[must_use]
    pub fn to_wire(&self) -> Vec<u8> {
        let mut out = vec![WIRE_VERSION];
        out.extend_from_slice(&super::WIRE_ID.to_le_bytes());
        out.extend_from_slice(&crate::wire::encode(self));
        out
    }

    /// Reads what [`Message::to_wire`] wrote.
    ///
    /// # Errors
    /// [`Code::UnsupportedVersion`], [`Code::Malformed`], [`Code::TooLarge`].
    pub fn from_wire(bytes: &[u8]) -> Result<Self, Refusal> {
        let Some((head, body)) = bytes.split_first_chunk::<3>() else {
            return Err(Refusal::new(Code::Malformed, "empty message"));
        };
        let [version, low, high] = *head;
        if version != WIRE_VERSION || u16::from_le_bytes([low, high]) != super::WIRE_ID {
            return Err(Refusal::new(Code::UnsupportedVersion, "unknown wire version or protocol"));
        }
        crate::wire::decode(body)
    }
}
