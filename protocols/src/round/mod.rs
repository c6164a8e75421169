//! One round of a secure sum, from its opening to its result: the state machines that every protocol
//! here shares.
//!
//! Roles: **authorities** (`m`, 1 to 4; hold keys shared with parties), **aggregator** (sees
//! ciphertexts, opens one sum per round), **parties** (`n`), and in threshold protocols **holders**
//! (parties with a share of the decryption key).
//! A round: one upload per party; a promise of every authority for the frozen set; then, in
//! [`hybrid_alpha`](crate::hybrid_alpha), one functional key per authority, or, in
//! [`threshold`](crate::threshold), the authority's partial decryption and those of T holders.
//!
//! # Security
//! The aggregator learns the sum over the frozen set of each round, and who is in it. An authority
//! learns who takes part. No party learns another's input beyond what the sums show. All of this
//! fails if the aggregator and **all** authorities collude; parties up to `c` may collude with the
//! aggregator, leaving it the sum of at least `k_min` honest ones. A party can submit false
//! values: nothing here detects that.
//!
//! # The numbered checks
//! Authority, before a promise: A1 signatures of aggregator on freeze and round opening; A2 manifest
//! approved here; A3 label recomputed from its fields, dimensions and type as the manifest fixes;
//! A4 roster sorted, within n, hashed into the label, every entry enrolled here; A5 each member's
//! signature, label, scheme and length; A6 floor; A7 y is the indicator of the members; A8 the
//! round is the next; A9 one live attempt, tombstones of the attempt before from all; A10 the model
//! was not opened before; A11 not expired. Before a release: A12 promised here; A13 all m promises
//! agree. Party, before it trains: P1 aggregator's signature; P2 the job it joined; P3 label fields
//! as the manifest fixes; P4 roster holds its own keys and at least the floor; P5 model and last
//! result are those it computed; P6 tombstones of the attempt before; P7 one label per attempt;
//! P8 one plaintext and nonce per label, one plaintext per round, no plaintext twice in a job.
//! Aggregator: G1 header signature, roster, label, length; G2 not after the freeze; G3 one
//! submission per party; G4 promises and keys are of this attempt and signed; G5 check slots zero.

pub mod aggregator;
pub mod authority;
pub mod keying;
pub mod messages;
pub mod party;

use quorate_crypto::merkle::{Hash, hash_parts};
use quorate_crypto::sum::Label;

use crate::checks::{Check, holds};
use crate::job::{Manifest, RosterEntry, roster_root};
use crate::refusal::{Code, Culprit, Refusal};
use crate::wire::{Signed, Verified};
use crate::workload::Purpose;
use authority::KeyMember;
use messages::{Freeze, Promise, RoundOpen, SubmitHeader, Tombstone};

/// Number of this set of messages on the wire, whatever the protocol of the job.
pub const WIRE_ID: u16 = 1;
/// The step in which parties submit.
pub const STEP_SUBMIT: usize = 0;
/// The step in which authorities release keys, or the authority its partial decryption.
pub const STEP_KEY: usize = 1;
/// The step in which holders give partial decryptions; threshold schemes only.
pub const STEP_PARTIAL: usize = 2;

/// Refuses a job that has batches instead of rounds.
pub(crate) fn check_rounds(manifest: &Manifest) -> Result<(), Refusal> {
    if manifest.is_vertical() {
        return Err(Refusal::new(Code::BadManifest, "a vertical job has batches, not rounds"));
    }
    Ok(())
}

/// The model hash of a round's label. A plain sum has no model: its rounds are told apart by the
/// result before, so that "no model is opened twice" holds for it too.
pub(crate) fn model_field(purpose: Purpose, state: Hash, previous_result: Hash) -> Hash {
    match purpose {
        Purpose::Sum => hash_parts("quorate/sum-model/1", &[&state.0, &previous_result.0]),
        _ => state,
    }
}

/// A round opening all of whose public fields were checked: A1, A3, A4 (but enrolment), P1 to P4
/// (but the own keys), P6.
pub(crate) struct CheckedOpen {
    pub(crate) open: Verified<RoundOpen>,
    pub(crate) label: Label,
}

/// Checks all of a round opening that needs no state.
pub(crate) fn check_open(
    manifest: &Manifest,
    open: &Signed<RoundOpen>,
) -> Result<CheckedOpen, Refusal> {
    let open = open.verify(&manifest.aggregator)?;
    // From here on the aggregator's own signature stands under whatever is wrong.
    let blame = |code, why: &str| Refusal::new(code, why).blaming(Culprit::Aggregator);
    let fields = &open.fields;
    // An honest opening of another job may be delivered here by the network: nobody is blamed.
    if fields.manifest != manifest.hash() {
        return Err(Refusal::new(Code::UnknownJob, "the round belongs to another job"));
    }
    let payload = manifest.payload(fields.round)?;
    if fields.dim != payload.dim()
        || fields.payload_type != payload.type_id()
        || manifest.workload.purpose(fields.round) != Some(fields.purpose)
    {
        return Err(blame(
            Code::WrongLabel,
            "dimensions, type or purpose differ from the manifest",
        ));
    }
    let sorted = |pair: &[RosterEntry]| match pair {
        [a, b] => a.party < b.party,
        _ => true,
    };
    let size = u32::try_from(open.roster.len()).unwrap_or(u32::MAX);
    if size > manifest.max_parties || !open.roster.windows(2).all(sorted) {
        return Err(blame(Code::BadRoster, "the roster is too large or not sorted"));
    }
    if size < manifest.floor() && !holds(Check::Floor, false) {
        return Err(blame(manifest.floor_code(), "fewer parties are invited than the floor"));
    }
    if !holds(Check::Label, roster_root(&open.roster) == fields.roster_root) {
        return Err(blame(Code::WrongLabel, "the roster is not the one in the label"));
    }
    check_tombstones(manifest, &open)?;
    let label = fields.label(manifest);
    Ok(CheckedOpen { open, label })
}

/// A retry carries the tombstones of the attempt before, one per authority.
fn check_tombstones(manifest: &Manifest, open: &RoundOpen) -> Result<(), Refusal> {
    let fields = &open.fields;
    let missing = || {
        Refusal::new(
            Code::MissingTombstones,
            "an attempt needs every authority's tombstone of the attempt before",
        )
        .blaming(Culprit::Aggregator)
    };
    let Some(before) = fields.attempt.checked_sub(1) else {
        return if open.tombstones.is_empty() { Ok(()) } else { Err(missing()) };
    };
    let complete = open.tombstones.len() == manifest.authorities.len()
        && manifest.authorities.iter().zip(&open.tombstones).all(|(authority, signed)| {
            let Ok(tombstone) = signed.verify(&authority.verify) else {
                return false;
            };
            *tombstone
                == Tombstone {
                    authority: authority.name.clone(),
                    manifest: fields.manifest,
                    round: fields.round,
                    attempt: before,
                }
        });
    if holds(Check::Tombstones, complete) { Ok(()) } else { Err(missing()) }
}

/// A5: every member signed a submission of this label, each party once, in roster order.
pub(crate) fn check_members(
    manifest: &Manifest,
    freeze: &Freeze,
    open: &RoundOpen,
    label: &Label,
) -> Result<Vec<KeyMember>, Refusal> {
    let mut members: Vec<KeyMember> = Vec::with_capacity(freeze.members.len());
    for header in &freeze.members {
        // The aggregator checked each header before it signed the set; a party that signed
        // provably wrong bytes under this label is named as well.
        let header = check_header(manifest, open, label, header)
            .map_err(|refusal| refusal.blaming(Culprit::Aggregator))?;
        if members.last().is_some_and(|last| last.party >= header.party) {
            return Err(Refusal::new(Code::NotFrozen, "members are not sorted and distinct")
                .blaming(Culprit::Aggregator));
        }
        let exchange = open
            .roster
            .iter()
            .find(|entry| entry.party == header.party)
            .map(|entry| entry.exchange)
            .ok_or_else(|| Refusal::new(Code::UnknownParty, "not in the roster"))?;
        members.push(KeyMember {
            party: header.party.clone(),
            epoch: header.epoch,
            exchange,
            nonce: header.nonce,
            ciphertext: header.ciphertext,
        });
    }
    Ok(members)
}

/// y: one byte per roster entry, 1 for members.
pub(crate) fn indicator(roster: &[RosterEntry], members: &[KeyMember]) -> Vec<u8> {
    let is_member = |entry: &RosterEntry| members.iter().any(|member| member.party == entry.party);
    roster.iter().map(|entry| u8::from(is_member(entry))).collect()
}

/// A13: every authority promised this label, freeze record and y.
pub(crate) fn promises_agree(
    manifest: &Manifest,
    promises: &[Signed<Promise>],
    (label, freeze, y): (&Label, &Hash, &Hash),
) -> bool {
    promises.len() == manifest.authorities.len()
        && manifest.authorities.iter().zip(promises).all(|(key, signed)| {
            signed.verify(&key.verify).is_ok_and(|promise| {
                promise.authority == key.name
                    && promise.label == *label
                    && promise.freeze == *freeze
                    && promise.y == *y
            })
        })
}

/// Checks one submission header against the attempt it must belong to: A5, G1.
pub(crate) fn check_header(
    manifest: &Manifest,
    open: &RoundOpen,
    label: &Label,
    header: &Signed<SubmitHeader>,
) -> Result<Verified<SubmitHeader>, Refusal> {
    let claimed = header.peek()?;
    let entry = open.roster.iter().find(|entry| entry.party == claimed.party).ok_or_else(|| {
        Refusal::new(Code::UnknownParty, "the sender is not invited to this attempt")
    })?;
    let header = header.verify(&entry.verify)?;
    let blame =
        |code, why: &str| Refusal::new(code, why).blaming(Culprit::Party(entry.party.clone()));
    // A header of an earlier attempt may be late, or replayed by anyone: nobody is blamed for it.
    if !holds(Check::Label, header.label == *label) {
        return Err(Refusal::new(Code::WrongLabel, "the submission is for another label"));
    }
    // Under the right label, job, epoch, scheme and length are fixed.
    if header.manifest != open.fields.manifest
        || header.epoch != entry.epoch
        || header.scheme != manifest.scheme
    {
        return Err(blame(Code::WrongLabel, "the submission is of another job, epoch or scheme"));
    }
    let expected = manifest.step_bytes(open.fields.round, STEP_SUBMIT)?;
    if header.ciphertext.len != expected {
        return Err(blame(
            Code::WrongLength,
            &format!("the ciphertext has {} bytes, {expected} expected", header.ciphertext.len),
        ));
    }
    Ok(header)
}
