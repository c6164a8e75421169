//! A party's side of the alignment of rows: what it does next is a function of what the aggregator
//! shows, so nothing has to be stored but the nonce of its submission.
//!
//! The cryptography and what each role learns: [`quorate_crypto::psi`]. Here the parties mix the group
//! key as they later mix the order of every epoch, and submit their tags as they later submit batches.

use quorate_crypto::merkle::{Hash, hash_parts};
use quorate_crypto::psi::GroupKey;
use quorate_crypto::sum::{Label, Nonce};
use serde::{Deserialize, Serialize};

use super::messages::{PartyView, SeedShare, VerticalMessage};
use super::party::check_commits;
use super::work::Own;
use super::{check_certificates, check_epoch, spec};
use crate::job::RosterEntry;
use crate::refusal::{Code, Culprit, Refusal};
use crate::round::messages::{BulkRef, Message, SubmitHeader};
use crate::wire::Signed;

/// The label under which tags are submitted in the alignment of this opening.
#[must_use]
pub fn align_label(epoch: &Hash) -> Label {
    Label(hash_parts("quorate/align-label/1", &[&epoch.0]).0)
}

/// What a party does next.
pub enum Next {
    /// Look again later.
    Wait,
    /// Send these to the aggregator.
    Send(Vec<Message>),
    /// Have the identifiers evaluated, and submit their tags under this label.
    Tags(Tags),
    /// Fetch the common tags and find the own rows by them.
    Align(Tags, BulkRef),
}

/// What tags are made with.
pub struct Tags {
    /// Hash of the alignment's opening: names its blinds.
    pub epoch: Hash,
    /// The label.
    pub label: Label,
    /// The parties' key.
    pub group: GroupKey,
    /// The label holder, with the keys it aligned its rows under.
    pub holder: RosterEntry,
}

/// What a party knows of its rows after the alignment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlignedRows {
    /// How many rows all parties have.
    pub count: u32,
    /// Salted root of their order.
    pub order: Hash,
    /// The label holder of the alignment: stored features are covered for its keys.
    pub holder: RosterEntry,
}

/// What a party with `identifiers` identifiers, padding included, does after a look at the aggregator.
///
/// # Errors
/// Refusals of what the aggregator shows; [`Code::Malformed`] blames a party whose contribution is not
/// the one it committed to.
pub fn next(
    own: &Own<'_>,
    entry: &RosterEntry,
    identifiers: u32,
    view: &PartyView,
) -> Result<Next, Refusal> {
    let Some(open) = &view.epoch else {
        return Ok(Next::Wait);
    };
    let open = check_epoch(own.manifest, open)?;
    let blame = |code, why: &str| Refusal::new(code, why).blaming(Culprit::Aggregator);
    if !open.align {
        return Err(blame(Code::OutOfOrder, "an epoch before this party's rows are aligned"));
    }
    if !open.roster.contains(entry) {
        return Err(blame(Code::BadRoster, "this party's keys are not in the alignment's roster"));
    }
    check_certificates(own.manifest, &open, &view.certificates)?;
    let epoch = open.hash();
    let commitment = Signed::sign(own.commitment(&epoch, identifiers), own.identity);
    let wrap = |message| Message::Vertical(message);
    if view.commits.is_empty() {
        let commit = VerticalMessage::Commit(commitment.signed().clone());
        return Ok(Next::Send(vec![wrap(commit)]));
    }
    check_commits(&open, &view.commits)?;
    if !view.commits.contains(commitment.signed()) {
        return Err(blame(Code::WrongLabel, "this party's commitment was left out"));
    }
    if view.shares.is_empty() {
        let shares = own.seed_shares((&epoch, &open), &view.commits, &[])?;
        let sign = |share: SeedShare| Signed::sign(share, own.identity).signed().clone();
        let messages = shares.into_iter().map(sign).map(VerticalMessage::SeedShare).map(wrap);
        return Ok(Next::Send(messages.collect()));
    }
    let group = own.group_key((&epoch, &open), &view.commits, &view.shares)?;
    let holder = &spec(own.manifest)?.holder;
    let holder = open.roster.iter().find(|entry| entry.party == *holder).cloned();
    let holder = holder.ok_or_else(|| blame(Code::BadRoster, "no label holder"))?;
    let tags = Tags { epoch, label: align_label(&epoch), group, holder };
    Ok(match view.common {
        Some(common) => Next::Align(tags, common),
        None => Next::Tags(tags),
    })
}

/// The header of a party's tags.
#[must_use]
pub fn tags_header(
    own: &Own<'_>,
    entry: &RosterEntry,
    label: Label,
    nonce: Nonce,
    tags: BulkRef,
) -> Signed<SubmitHeader> {
    let header = SubmitHeader {
        scheme: own.manifest.scheme,
        manifest: own.manifest.hash(),
        label,
        party: own.me.clone(),
        epoch: entry.epoch,
        nonce,
        ciphertext: tags,
    };
    Signed::sign(header, own.identity).signed().clone()
}
