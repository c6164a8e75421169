//! One liar per run: a party, an authority, or an aggregator that is honest but also sends forged
//! messages, signed with its own real key, to whoever it likes.

use std::collections::BTreeMap;

use quorate_crypto::keys::Identity;
use quorate_crypto::merkle::Hash;
use quorate_crypto::sum::Label;
use rand_chacha::ChaCha20Rng;

use super::lab::{Lab, PartyKeys, bulk, draw};
use super::world::{Node, World};
use crate::job::{RosterEntry, roster_root};
use crate::refusal::{Code, Culprit, Refusal};
use crate::round::messages::{
    Freeze, FuncKey, KeyCall, KeyPosted, KeyRequest, KeyTranscript, Message, Partial, Promise,
    PromiseRequest, Receipt, ResultRecord, RoundFields, RoundOpen, ShareAsk, ShareRefused,
    SubmitHeader, Tombstone, y_hash,
};
use crate::round::party::{self, PartyJob};
use crate::wire::{Body, Signature, Signed};

/// What a lying party does to its submissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartyLie {
    /// Signs another label.
    WrongLabel,
    /// Sends an earlier round's submission again.
    Replay,
    /// Declares and sends another length.
    WrongLength,
    /// Declares another scheme.
    WrongScheme,
    /// Breaks its signature.
    BadSignature,
    /// Sends a second, different submission after the first.
    Second,
    /// Encrypts under keys nobody shares.
    GarbagePad,
    /// Encrypts a value out of bounds.
    HugeValue,
    /// Sends bytes that are not those of its header.
    OtherBytes,
    /// In threshold jobs: sends another party's reply to the same attempt as its own.
    CopiedReply,
    /// In threshold jobs: sends its reply of an earlier attempt under the new label.
    ReplayedReply,
    /// In threshold jobs: changes its ciphertext and keeps the proof.
    AlteredReply,
}

impl PartyLie {
    /// All.
    pub const ALL: [Self; 12] = [
        Self::WrongLabel,
        Self::Replay,
        Self::WrongLength,
        Self::WrongScheme,
        Self::BadSignature,
        Self::Second,
        Self::GarbagePad,
        Self::HugeValue,
        Self::OtherBytes,
        Self::CopiedReply,
        Self::ReplayedReply,
        Self::AlteredReply,
    ];

    /// Whether the lie is one in a job of this kind.
    #[must_use]
    pub const fn fits(self, threshold: bool) -> bool {
        match self {
            Self::GarbagePad | Self::HugeValue => !threshold,
            Self::CopiedReply | Self::ReplayedReply | Self::AlteredReply => threshold,
            _ => true,
        }
    }

    /// In the coverage table.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::WrongLabel => "party signs another label",
            Self::Replay => "party replays an old round",
            Self::WrongLength => "party declares a wrong length",
            Self::WrongScheme => "party declares another scheme",
            Self::BadSignature => "party's signature is broken",
            Self::Second => "party submits twice",
            Self::GarbagePad => "party uses a garbage pad",
            Self::HugeValue => "party submits a huge value",
            Self::OtherBytes => "party's bytes are not its header's",
            Self::CopiedReply => "party copies another's reply",
            Self::ReplayedReply => "party replays an old reply",
            Self::AlteredReply => "party alters its reply",
        }
    }

    /// What the party sends instead of `honest`.
    #[must_use]
    pub fn submissions(
        self,
        lab: &Lab,
        keys: &PartyKeys,
        kept: &mut Option<(Vec<u8>, Vec<u8>)>,
        honest: (Vec<u8>, Vec<u8>),
    ) -> Vec<(Vec<u8>, Vec<u8>)> {
        let header = Signed::<SubmitHeader>::from_wire(&honest.0).unwrap();
        let said = header.peek().unwrap();
        let resign = |change: &dyn Fn(&mut SubmitHeader)| {
            let mut said = said.clone();
            change(&mut said);
            Signed::sign(said, &keys.identity).signed().to_wire()
        };
        match self {
            Self::WrongLabel => {
                vec![(resign(&|header| header.label.0[0] ^= 1), honest.1)]
            }
            Self::Replay => vec![kept.get_or_insert(honest).clone()],
            Self::WrongLength => {
                let mut longer = honest.1;
                longer.push(0);
                vec![(resign(&|header| header.ciphertext = bulk(&longer)), longer)]
            }
            Self::WrongScheme => {
                vec![(resign(&|header| header.scheme = lab.manifest.scheme + 1), honest.1)]
            }
            Self::BadSignature => {
                let mut signature = header.signature().0;
                signature[3] ^= 1;
                let broken =
                    Signed::<SubmitHeader>::from_parts(said.to_bytes(), Signature(signature));
                vec![(broken.to_wire(), honest.1)]
            }
            Self::Second => {
                let second = resign(&|header| header.nonce.0[0] ^= 1);
                vec![honest.clone(), (second, honest.1)]
            }
            Self::OtherBytes => {
                let mut other = honest.1;
                other[0] ^= 1;
                vec![(honest.0, other)]
            }
            Self::ReplayedReply => {
                let (_, old) = kept.get_or_insert_with(|| honest.clone()).clone();
                vec![(resign(&|header| header.ciphertext = bulk(&old)), old)]
            }
            Self::AlteredReply => {
                let mut other = honest.1;
                other[0] ^= 1;
                vec![(resign(&|header| header.ciphertext = bulk(&other)), other)]
            }
            Self::GarbagePad | Self::HugeValue | Self::CopiedReply => vec![honest],
        }
    }
}

/// What a lying holder of the threshold key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HolderLie {
    /// Posts bytes that are no post.
    BrokenPost,
    /// Deals other values than it committed to.
    BadDealing,
    /// Posts twice in one step.
    TwoPosts,
    /// Posts under another's number.
    ForeignPost,
    /// Never posts.
    NoPost,
    /// Flips a byte of its partial decryption.
    FlippedShare,
    /// Decrypts the sum of another set.
    OtherSum,
    /// Sends another holder's partial decryption.
    AnothersShare,
    /// Sends two partial decryptions.
    TwoShares,
    /// Never answers.
    NoShare,
    /// Refuses, and blames an honest party for it.
    Accuses,
}

impl HolderLie {
    /// All.
    pub const ALL: [Self; 11] = [
        Self::BrokenPost,
        Self::BadDealing,
        Self::TwoPosts,
        Self::ForeignPost,
        Self::NoPost,
        Self::FlippedShare,
        Self::OtherSum,
        Self::AnothersShare,
        Self::TwoShares,
        Self::NoShare,
        Self::Accuses,
    ];

    /// In the coverage table.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::BrokenPost => "holder's post is broken",
            Self::BadDealing => "holder's dealing is wrong",
            Self::TwoPosts => "holder posts twice",
            Self::ForeignPost => "holder posts as another",
            Self::NoPost => "holder does not post",
            Self::FlippedShare => "holder's share is flipped",
            Self::OtherSum => "holder's share is of another sum",
            Self::AnothersShare => "holder sends another's share",
            Self::TwoShares => "holder sends two shares",
            Self::NoShare => "holder does not answer",
            Self::Accuses => "holder accuses an honest party",
        }
    }

    /// Whether the holder is left out of the key that is made in the end.
    #[must_use]
    pub const fn breaks_key(self) -> bool {
        matches!(self, Self::BrokenPost | Self::BadDealing | Self::ForeignPost | Self::NoPost)
    }

    /// The aggregator's states in which the lie is found, and what it is found to be.
    #[must_use]
    pub const fn found(self) -> Option<(&'static str, Code)> {
        match self {
            Self::BrokenPost | Self::BadDealing | Self::ForeignPost => {
                Some(("Keying", Code::BadKey))
            }
            Self::TwoPosts => Some(("Keying", Code::Duplicate)),
            Self::FlippedShare | Self::OtherSum | Self::AnothersShare => {
                Some(("Opening", Code::BadShare))
            }
            Self::TwoShares => Some(("Releasing", Code::Duplicate)),
            Self::NoPost | Self::NoShare | Self::Accuses => None,
        }
    }

    /// What it sends instead of `honest`; `blobs` are all that reached the aggregator.
    #[must_use]
    pub fn messages(
        self,
        lab: &Lab,
        keys: &PartyKeys,
        blobs: &BTreeMap<Hash, Vec<u8>>,
        honest: Message,
    ) -> Vec<Message> {
        let repost = |posted: &KeyPosted, change: &dyn Fn(&mut KeyPosted)| {
            let mut posted = posted.clone();
            change(&mut posted);
            Message::KeyPost(Signed::sign(posted, &keys.identity).signed().clone())
        };
        let share = |partial: &Partial, bytes: Vec<u8>| {
            let partial = Partial { partial: bulk(&bytes), ..partial.clone() };
            Message::Partial(Signed::sign(partial, &keys.identity).signed().clone(), bytes)
        };
        match &honest {
            Message::KeyPost(post) => {
                let said = post.peek().unwrap();
                match self {
                    Self::BrokenPost => vec![repost(&said, &|p| p.post.bytes.truncate(5))],
                    // Behind the commitments lie the values dealt to others.
                    Self::BadDealing if said.post.step == 1 => vec![repost(&said, &|p| {
                        if let Some(last) = p.post.bytes.last_mut() {
                            *last ^= 1;
                        }
                    })],
                    Self::TwoPosts => {
                        let second = repost(&said, &|p| p.post.bytes.push(0));
                        vec![honest.clone(), second]
                    }
                    Self::ForeignPost => vec![repost(&said, &|p| p.post.from += 1)],
                    Self::NoPost => Vec::new(),
                    _ => vec![honest],
                }
            }
            Message::Partial(partial, bytes) => {
                let said = partial.peek().unwrap();
                let mut other = bytes.clone();
                match self {
                    Self::FlippedShare => {
                        let middle = other.len() / 2;
                        other[middle] ^= 1;
                        vec![share(&said, other)]
                    }
                    Self::AnothersShare => {
                        // One that the aggregator has already, or the own one under another number.
                        let own = &bytes[..4];
                        let found = blobs.values().find(|blob| {
                            blob.len() == bytes.len() && blob[..4] != *own && blob[1..4] == [0; 3]
                        });
                        other[0] = other[0].wrapping_add(1);
                        vec![share(&said, found.cloned().unwrap_or(other))]
                    }
                    Self::TwoShares => {
                        other[4] ^= 1;
                        vec![honest.clone(), share(&said, other)]
                    }
                    Self::NoShare => Vec::new(),
                    Self::Accuses => {
                        let victim = lab.parties.last().unwrap().entry.party.clone();
                        let refusal = Refusal::new(Code::BadCiphertext, "invented")
                            .blaming(Culprit::Party(victim));
                        let (holder, label) = (said.holder, said.label);
                        let refused = ShareRefused { holder, label, refusal };
                        let refused = Signed::sign(refused, &keys.identity).signed().clone();
                        vec![Message::ShareRefused(refused)]
                    }
                    _ => vec![honest],
                }
            }
            _ => vec![honest],
        }
    }
}

/// What a lying authority does to its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorityLie {
    /// Promises another set.
    OtherPromise,
    /// Promises in another authority's name.
    ForgedPromise,
    /// Sends a functional key of random bytes.
    GarbageKey,
    /// Sends a functional key for another request.
    OtherRequest,
    /// Sends a tombstone after it released.
    LateTombstone,
}

impl AuthorityLie {
    /// All.
    pub const ALL: [Self; 5] = [
        Self::OtherPromise,
        Self::ForgedPromise,
        Self::GarbageKey,
        Self::OtherRequest,
        Self::LateTombstone,
    ];

    /// In the coverage table.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::OtherPromise => "authority promises another set",
            Self::ForgedPromise => "authority promises in another's name",
            Self::GarbageKey => "authority's key is garbage",
            Self::OtherRequest => "authority's key is for another request",
            Self::LateTombstone => "authority gives up what it released",
        }
    }

    /// The aggregator's state in which the lie arrives.
    #[must_use]
    pub const fn meets(self) -> &'static str {
        match self {
            Self::OtherPromise | Self::ForgedPromise => "Promising",
            Self::GarbageKey | Self::OtherRequest | Self::LateTombstone => "Releasing",
        }
    }

    /// What authority `a` answers instead of `message`, if it lies about this one.
    #[must_use]
    pub fn answer(
        self,
        lab: &Lab,
        a: usize,
        message: &Message,
        key: Option<&[u8]>,
    ) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
        let me = &lab.authorities[a].identity;
        let promise = |change: &dyn Fn(&mut Promise)| match message {
            Message::Promise(signed) => {
                let mut promise = signed.peek().unwrap();
                change(&mut promise);
                let lie = Message::Promise(Signed::sign(promise, me).signed().clone());
                Some((lie.to_wire(), None))
            }
            _ => None,
        };
        let func_key = |change: &dyn Fn(&mut FuncKey), bytes: Vec<u8>| match message {
            Message::FuncKey(signed) => {
                let mut key = signed.peek().unwrap();
                change(&mut key);
                let lie = Message::FuncKey(Signed::sign(key, me).signed().clone());
                Some((lie.to_wire(), Some(bytes)))
            }
            _ => None,
        };
        match self {
            Self::OtherPromise => promise(&|promise| promise.freeze.0[0] ^= 1),
            Self::ForgedPromise => {
                let other = &lab.authorities.last()?.name;
                promise(&|promise| promise.authority = other.clone())
            }
            Self::GarbageKey => {
                let bytes: Vec<u8> = key?.iter().map(|byte| byte ^ 0x55).collect();
                let of = bulk(&bytes);
                func_key(&|key| key.key = of, bytes)
            }
            Self::OtherRequest => func_key(&|key| key.request.0[0] ^= 1, key?.to_vec()),
            Self::LateTombstone => match message {
                Message::FuncKey(_) => {
                    let tombstone = Tombstone {
                        authority: lab.authorities[a].name.clone(),
                        manifest: lab.manifest.hash(),
                        round: 0,
                        attempt: 0,
                    };
                    let lie = Message::Tombstone(Signed::sign(tombstone, me).signed().clone());
                    Some((lie.to_wire(), None))
                }
                _ => None,
            },
        }
    }
}

/// Who lies, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Liar {
    Nobody,
    Party(PartyLie),
    Holder(HolderLie),
    Authority(AuthorityLie),
    Aggregator,
}

/// The lies of one run.
#[derive(Debug)]
pub struct Lies {
    liar: Liar,
    /// A submission kept for a replay.
    pub kept: Option<(Vec<u8>, Vec<u8>)>,
    /// The last attempt that was open.
    open: Option<RoundOpen>,
}

impl Lies {
    /// Draws who lies.
    #[must_use]
    pub fn plan(rng: &mut ChaCha20Rng, lab: &Lab) -> Self {
        let pick =
            |rng: &mut ChaCha20Rng, n: usize| usize::try_from(draw(rng, 0, n as u64 - 1)).unwrap();
        let keyed = lab.manifest.is_threshold();
        let fit: Vec<PartyLie> = PartyLie::ALL.into_iter().filter(|lie| lie.fits(keyed)).collect();
        let liar = match draw(rng, 0, if keyed { 13 } else { 9 }) {
            0..=3 => Liar::Nobody,
            4 | 5 => Liar::Party(fit[pick(rng, fit.len())]),
            10..=13 => Liar::Holder(HolderLie::ALL[pick(rng, HolderLie::ALL.len())]),
            6 => {
                let lie = AuthorityLie::ALL[pick(rng, AuthorityLie::ALL.len())];
                if lie == AuthorityLie::ForgedPromise && lab.authorities.len() < 2 {
                    Liar::Nobody
                } else {
                    Liar::Authority(lie)
                }
            }
            _ => Liar::Aggregator,
        };
        Self { liar, kept: None, open: None }
    }

    /// The first party lies as holder of the threshold key.
    #[must_use]
    pub const fn of_holder(lie: HolderLie) -> Self {
        Self { liar: Liar::Holder(lie), kept: None, open: None }
    }

    /// The liar as refusals name it.
    #[must_use]
    pub fn liar(&self, lab: &Lab) -> Option<Culprit> {
        match self.liar {
            Liar::Nobody => None,
            Liar::Party(_) | Liar::Holder(_) => {
                Some(Culprit::Party(lab.parties[0].entry.party.clone()))
            }
            Liar::Authority(_) => Some(Culprit::Authority(lab.authorities[0].name.clone())),
            Liar::Aggregator => Some(Culprit::Aggregator),
        }
    }

    /// The lie of this party.
    #[must_use]
    pub fn party(&self, party: usize) -> Option<PartyLie> {
        match self.liar {
            Liar::Party(lie) if party == 0 => Some(lie),
            _ => None,
        }
    }

    /// The lie of this party as holder of the threshold key.
    #[must_use]
    pub fn holder(&self, party: usize) -> Option<HolderLie> {
        match self.liar {
            Liar::Holder(lie) if party == 0 => Some(lie),
            _ => None,
        }
    }

    /// The lie of this authority.
    #[must_use]
    pub fn authority(&self, authority: usize) -> Option<AuthorityLie> {
        match self.liar {
            Liar::Authority(lie) if authority == 0 => Some(lie),
            _ => None,
        }
    }

    /// Whether the aggregator lies.
    #[must_use]
    pub fn aggregator(&self) -> bool {
        self.liar == Liar::Aggregator
    }

    /// Whether the job must end whatever the liar does: one party cannot stop it by bad messages.
    #[must_use]
    pub fn must_end(&self) -> bool {
        !matches!(self.liar, Liar::Authority(_) | Liar::Aggregator)
    }

    /// Whether the lying party's submissions never count.
    #[must_use]
    pub fn never_counts(&self) -> bool {
        matches!(self.liar, Liar::Party(_) | Liar::Holder(_))
    }
}

/// Lies of an aggregator to an authority.
pub const TO_AUTHORITY: [&str; 12] = [
    "y adds a stranger",
    "y of a subset",
    "second freeze, one less",
    "set frozen by another key",
    "set below the floor",
    "member's signature broken",
    "retry without tombstones",
    "retry with forged tombstones",
    "roster not in the label",
    "sybil in the roster",
    "no promises",
    "forged promises",
];

/// Lies of an aggregator to a party.
pub const TO_PARTY: [&str; 13] = [
    "wrong model",
    "second label of an attempt",
    "retry without tombstones",
    "retry with forged tombstones",
    "roster not in the label",
    "roster below the floor",
    "round skipped",
    "opening by another key",
    "forked result",
    "result below the floor",
    "result with members twice",
    "result of a second label",
    "receipt not honoured",
];

/// Lies of an aggregator to a holder of the threshold key.
pub const TO_HOLDER: [&str; 9] = [
    "ask for a second set",
    "ask below the floor",
    "ask without promises",
    "ask for a changed list",
    "ask under another key",
    "ask about another model",
    "ask for a set frozen by another key",
    "posts to another call",
    "other posts than before",
];

/// A round opening with changed roster and fields, signed by `key`.
fn opening(
    key: &Identity,
    open: &RoundOpen,
    roster: Vec<RosterEntry>,
    change: impl Fn(&mut RoundFields),
    tombstones: Vec<Signed<Tombstone>>,
) -> Signed<RoundOpen> {
    let mut fields = open.fields;
    fields.roster_root = roster_root(&roster);
    change(&mut fields);
    let open = RoundOpen { fields, roster, deadline_ms: open.deadline_ms, tombstones };
    Signed::sign(open, key).signed().clone()
}

/// Tombstones of an attempt that no authority signed.
fn forged_tombstones(lab: &Lab, fields: &RoundFields) -> Vec<Signed<Tombstone>> {
    let tombstone = |authority: &super::lab::AuthorityKeys| Tombstone {
        authority: authority.name.clone(),
        manifest: fields.manifest,
        round: fields.round,
        attempt: fields.attempt,
    };
    lab.authorities
        .iter()
        .map(|a| Signed::sign(tombstone(a), &lab.aggregator).signed().clone())
        .collect()
}

impl World {
    /// After a liar's message reached the aggregator in `state`.
    pub(super) fn lied(
        &mut self,
        state: &'static str,
        lie: &'static str,
        refused: Option<&Refusal>,
    ) {
        self.audit.hit("aggregator", state, lie);
        if let Some(refusal) = refused
            && matches!(
                refusal.code,
                Code::WrongLength
                    | Code::Duplicate
                    | Code::BadPromises
                    | Code::BadCiphertext
                    | Code::BadShare
                    | Code::BadKey
            )
            && refusal.culprits.is_empty()
        {
            self.audit.broken(format!("a provable lie blames nobody: {refusal}"));
        }
    }

    /// The aggregator's keys are used for a forged message to someone.
    pub(super) fn lie(&mut self) {
        if let Some(open) = self.aggregator_job().and_then(|job| job.open_round().cloned()) {
            self.lies.open = Some((*open).clone());
        }
        self.lie_about_the_key();
        let Some(open) = self.lies.open.clone() else { return };
        // A liar delivers its own lies: the network's faults are the other runs' subject.
        let trouble = core::mem::take(&mut self.trouble);
        let n = self.lab.parties.len() as u64;
        let m = self.lab.authorities.len() as u64;
        let holders = self.lab.manifest.is_threshold() && draw(&mut self.rng, 0, 1) == 0;
        if holders {
            // Those that are just answering first: it takes them only a moment.
            let busy =
                |party: &usize| matches!(self.holder_state(*party), Some("Sharing" | "Answered"));
            let party = (0..self.lab.parties.len()).find(busy);
            let any = usize::try_from(draw(&mut self.rng, 0, n - 1)).unwrap();
            // The last two are told before round 0.
            let lie = usize::try_from(draw(&mut self.rng, 0, TO_HOLDER.len() as u64 - 3));
            self.lie_to_holder(party.unwrap_or(any), TO_HOLDER[lie.unwrap()], &open);
        } else if draw(&mut self.rng, 0, 1) == 0 {
            let a = usize::try_from(draw(&mut self.rng, 0, m - 1)).unwrap();
            let lie = usize::try_from(draw(&mut self.rng, 0, TO_AUTHORITY.len() as u64 - 1));
            self.lie_to_authority(a, TO_AUTHORITY[lie.unwrap()], &open);
        } else {
            let party = usize::try_from(draw(&mut self.rng, 0, n - 1)).unwrap();
            let lie = usize::try_from(draw(&mut self.rng, 0, TO_PARTY.len() as u64 - 1));
            self.lie_to_party(party, TO_PARTY[lie.unwrap()], &open);
        }
        self.trouble = trouble;
    }

    fn lie_to_authority(&mut self, a: usize, lie: &'static str, open: &RoundOpen) {
        let node = Node::Authority(a);
        if !self.processes[&node].up || self.processes[&node].disk.state.is_none() {
            return;
        }
        let label = open.fields.label(&self.lab.manifest);
        let headers = self.audit.headers(label);
        let Some(message) = self.build_for_authority(lie, open, &headers, label) else { return };
        let (role, state) = self.state(node);
        let Some(answers) = self.authority_request(a, &message.to_wire()) else {
            return self.audit.broken("an authority died without a fault");
        };
        self.audit.hit(role, state, lie);
        let key_lie = matches!(lie, "no promises" | "forged promises");
        for (bytes, _) in answers {
            match Message::from_wire(&bytes).unwrap() {
                Message::Refused(refusal) => self.must_blame(lie, &refusal),
                // Bytes that were given before are given again.
                Message::FuncKey(_) if key_lie && state == "Released" => {}
                // Before the honest set is asked for, any frozen set may come first.
                Message::Promise(_) if lie == "second freeze, one less" => {}
                other => self.audit.broken(format!("{role}/{state} believes {lie}: {other:?}")),
            }
        }
    }

    /// Lies that signed bytes show must name the aggregator.
    fn must_blame(&mut self, lie: &str, refusal: &Refusal) {
        let provable = match refusal.code {
            Code::BelowFloor
            | Code::SetTooSmall
            | Code::LabelUsed
            | Code::Difference
            | Code::MissingTombstones
            | Code::ReceiptBroken
            | Code::ModelMismatch => true,
            Code::WrongLabel => lie != "round skipped",
            Code::OutOfOrder => lie == "forked result",
            _ => false,
        };
        if provable && refusal.culprits.is_empty() {
            self.audit.broken(format!("{lie} blames nobody: {refusal}"));
        }
    }

    fn build_for_authority(
        &self,
        lie: &str,
        open: &RoundOpen,
        headers: &[Signed<SubmitHeader>],
        label: Label,
    ) -> Option<Message> {
        let lab = &self.lab;
        let aggregator = &lab.aggregator;
        let floor = lab.manifest.floor() as usize;
        let stranger = Identity::from_bytes(&[9; 64]);
        let same =
            || opening(aggregator, open, open.roster.clone(), |_| {}, open.tombstones.clone());
        let y_of = |members: &[Signed<SubmitHeader>]| -> Vec<u8> {
            let names: Vec<_> =
                members.iter().filter_map(|h| h.peek().ok()).map(|h| h.party).collect();
            open.roster.iter().map(|entry| u8::from(names.contains(&entry.party))).collect()
        };
        let request = |key: &Identity, open, members: Vec<Signed<SubmitHeader>>, y| {
            let freeze = Freeze { open, members, log_proof: Vec::new() };
            let freeze = Signed::sign(freeze, key).signed().clone();
            Some(Message::PromiseRequest(PromiseRequest { freeze, y }))
        };
        let all = headers.to_vec();
        let (enough, y) = (all.len() >= floor, y_of(headers));
        match lie {
            "y adds a stranger" if enough => {
                let mut more = y;
                match more.iter_mut().find(|y| **y == 0) {
                    Some(zero) => *zero = 1,
                    None => more.push(1),
                }
                request(aggregator, same(), all, more)
            }
            "y of a subset" if enough => {
                let mut less = y;
                *less.iter_mut().find(|y| **y == 1)? = 0;
                request(aggregator, same(), all, less)
            }
            "second freeze, one less" if all.len() > floor => {
                let some = headers[1..].to_vec();
                let y = y_of(&some);
                request(aggregator, same(), some, y)
            }
            "set frozen by another key" if enough => request(&stranger, same(), all, y),
            "set below the floor" if all.len() >= floor - 1 => {
                let some = headers[..floor - 1].to_vec();
                let y = y_of(&some);
                request(aggregator, same(), some, y)
            }
            "member's signature broken" if enough => {
                let mut all = all;
                let mut signature = *all[0].signature();
                signature.0[1] ^= 1;
                all[0] = Signed::from_parts(all[0].body().to_vec(), signature);
                request(aggregator, same(), all, y)
            }
            "retry without tombstones" | "retry with forged tombstones" if enough => {
                let tombstones = match lie {
                    "retry without tombstones" => Vec::new(),
                    _ => forged_tombstones(lab, &open.fields),
                };
                let retry = opening(
                    aggregator,
                    open,
                    open.roster.clone(),
                    |fields| fields.attempt += 1,
                    tombstones,
                );
                request(aggregator, retry, all, y)
            }
            "roster not in the label" if enough && open.roster.len() > floor => {
                let root = open.fields.roster_root;
                let roster = open.roster[1..].to_vec();
                let other = opening(
                    aggregator,
                    open,
                    roster,
                    |fields| fields.roster_root = root,
                    open.tombstones.clone(),
                );
                request(aggregator, other, all, y)
            }
            "sybil in the roster" => {
                let mut roster = open.roster.clone();
                let last = roster.last_mut()?;
                last.verify = stranger.verify_key();
                last.exchange = stranger.exchange_key();
                let other = opening(aggregator, open, roster, |_| {}, open.tombstones.clone());
                request(aggregator, other, all, y)
            }
            "no promises" | "forged promises" => {
                let promise = |authority: &super::lab::AuthorityKeys| Promise {
                    authority: authority.name.clone(),
                    manifest: open.fields.manifest,
                    round: open.fields.round,
                    attempt: open.fields.attempt,
                    label,
                    freeze: Hash([1; 32]),
                    y: y_hash(&y),
                };
                let promises = lab
                    .authorities
                    .iter()
                    .filter(|_| lie == "forged promises")
                    .map(|a| Signed::sign(promise(a), aggregator).signed().clone())
                    .collect();
                let manifest = open.fields.manifest;
                Some(Message::KeyRequest(KeyRequest { manifest, label, promises }))
            }
            _ => None,
        }
    }

    fn lie_to_party(&mut self, party: usize, lie: &'static str, open: &RoundOpen) {
        let node = Node::Party(party);
        let (Some(job), true) = (self.party_job(party), self.processes[&node].up) else { return };
        // The lie must be about what this party waits for, or it is only late.
        if job.next_round() != open.fields.round || !open.roster.contains(job.me()) {
            return;
        }
        let Some(event) = self.build_for_party(lie, open, &job) else {
            return;
        };
        let entered = job.entered() == Some(open.fields.label(&self.lab.manifest));
        let (role, state) = self.state(node);
        let committed = self.processes[&node].disk.state.clone();
        let refused = self.party_event(party, event, None);
        self.audit.hit(role, state, lie);
        match refused {
            Some(refusal) => self.must_blame(lie, &refusal),
            // The first label this party sees of the attempt: the honest one comes second.
            None if lie == "second label of an attempt" && !entered => {}
            None if self.processes[&node].disk.state == committed => {}
            None => self.audit.broken(format!("{role}/{state} believes {lie}")),
        }
    }

    /// Before round 0 a participant of the key is shown other posts, or another call.
    fn lie_about_the_key(&mut self) {
        if self.aggregator_job().is_none_or(|job| job.state_name() != "Keying") {
            return;
        }
        let trouble = core::mem::take(&mut self.trouble);
        let n = self.lab.parties.len() as u64;
        let party = usize::try_from(draw(&mut self.rng, 0, n - 1)).unwrap();
        let lie = usize::try_from(draw(&mut self.rng, 7, 8)).unwrap();
        self.tell_holder(party, TO_HOLDER[lie]);
        self.trouble = trouble;
    }

    fn tell_holder(&mut self, party: usize, lie: &'static str) {
        let Some(state) = self.holder_state(party) else { return };
        let Some(transcript) = self.aggregator_job().and_then(|job| job.key_transcript()) else {
            return;
        };
        let call = transcript.call.peek().unwrap();
        let told = match lie {
            "posts to another call" => {
                let mut holders = call.holders;
                let last = holders.last_mut().unwrap();
                let stranger = Identity::from_bytes(&[9; 64]);
                last.verify = stranger.verify_key();
                // Not a later one, which would be the aggregator's right.
                let call = KeyCall { holders, number: 0, ..call };
                let call = Signed::sign(call, &self.lab.aggregator).signed().clone();
                KeyTranscript { call, posts: Vec::new() }
            }
            // All that can be done with what others signed: leave some of it out.
            _ => {
                let mut posts = transcript.posts;
                posts.pop();
                KeyTranscript { call: transcript.call, posts }
            }
        };
        self.deceive_holder(party, state, lie, party::Event::Key(told));
    }

    fn lie_to_holder(&mut self, party: usize, lie: &'static str, open: &RoundOpen) {
        let Some(state) = self.holder_state(party) else { return };
        let Some(job) = self.party_job(party).filter(|job| job.job_key().is_some()) else {
            return;
        };
        if job.next_round() != open.fields.round {
            return;
        }
        let label = open.fields.label(&self.lab.manifest);
        let headers = self.audit.headers(label);
        let Some(ask) = self.build_for_holder(lie, state, open, &headers) else { return };
        self.deceive_holder(party, state, lie, party::Event::Share(ask));
    }

    /// A holder is told a lie: its state must stay as it was.
    fn deceive_holder(
        &mut self,
        party: usize,
        state: &'static str,
        lie: &'static str,
        event: party::Event,
    ) {
        let node = Node::Party(party);
        if !self.processes[&node].up {
            return;
        }
        let committed = self.processes[&node].disk.state.clone();
        let refused = self.party_event(party, event, None);
        self.audit.hit("holder", state, lie);
        match refused {
            Some(refusal) => self.must_blame(lie, &refusal),
            None if self.processes[&node].disk.state == committed => {}
            // Some posts left out again are no contradiction before the own step depends on them.
            None if lie == "other posts than before" => {}
            None => self.audit.broken(format!("holder/{state} believes {lie}")),
        }
    }

    fn build_for_holder(
        &self,
        lie: &str,
        state: &str,
        open: &RoundOpen,
        headers: &[Signed<SubmitHeader>],
    ) -> Option<ShareAsk> {
        let lab = &self.lab;
        let floor = lab.manifest.floor() as usize;
        let stranger = Identity::from_bytes(&[9; 64]);
        let opened = |change: &dyn Fn(&mut RoundFields)| {
            let tombstones = open.tombstones.clone();
            opening(&lab.aggregator, open, open.roster.clone(), change, tombstones)
        };
        let freeze = |key: &Identity, open, members: &[Signed<SubmitHeader>]| {
            let freeze = Freeze { open, members: members.to_vec(), log_proof: Vec::new() };
            Signed::sign(freeze, key).signed().clone()
        };
        let ask = |freeze: Signed<Freeze>, promises| {
            Some(ShareAsk { freeze, promises, asked: Vec::new() })
        };
        // The authority's own promise for this set, as someone with its keys would make it.
        let promise = |set: &Signed<Freeze>| {
            let Freeze { open, members, .. } = set.peek().unwrap();
            let open = open.peek().unwrap();
            let names: Vec<_> = members.iter().map(|one| one.peek().unwrap().party).collect();
            let y: Vec<u8> =
                open.roster.iter().map(|entry| u8::from(names.contains(&entry.party))).collect();
            let authority = &lab.authorities[0];
            let promise = Promise {
                authority: authority.name.clone(),
                manifest: open.fields.manifest,
                round: open.fields.round,
                attempt: open.fields.attempt,
                label: open.fields.label(&lab.manifest),
                freeze: set.hash(),
                y: y_hash(&y),
            };
            Signed::sign(promise, &authority.identity).signed().clone()
        };
        let enough = headers.len() >= floor;
        let less = headers.get(1..).unwrap_or_default();
        let bound = matches!(state, "Sharing" | "Answered" | "Taken");
        // A late submission is no member: without the first of all, the set may be the honest one.
        let names: Vec<_> = less.iter().map(|one| one.peek().unwrap().party).collect();
        if self.audit.shared_set(open.fields.round) == Some(names) {
            return None;
        }
        match lie {
            "ask for a second set" if bound && less.len() >= floor => {
                let second = freeze(&lab.aggregator, opened(&|_| {}), less);
                let promise = promise(&second);
                ask(second, vec![promise])
            }
            "ask below the floor" => {
                let few = headers.get(..floor - 1)?;
                let few = freeze(&lab.aggregator, opened(&|_| {}), few);
                let promise = promise(&few);
                ask(few, vec![promise])
            }
            "ask without promises" if enough && !bound => {
                ask(freeze(&lab.aggregator, opened(&|_| {}), headers), Vec::new())
            }
            "ask for a changed list" if less.len() >= floor => {
                let whole = freeze(&lab.aggregator, opened(&|_| {}), headers);
                let promise = promise(&whole);
                ask(freeze(&lab.aggregator, opened(&|_| {}), less), vec![promise])
            }
            "ask under another key" if enough => {
                let other = opened(&|fields| fields.key.0[0] ^= 1);
                ask(freeze(&lab.aggregator, other, headers), Vec::new())
            }
            "ask about another model" if enough => {
                let other = opened(&|fields| fields.model.0[0] ^= 1);
                ask(freeze(&lab.aggregator, other, headers), Vec::new())
            }
            "ask for a set frozen by another key" if enough => {
                let set = freeze(&stranger, opened(&|_| {}), headers);
                let promise = promise(&set);
                ask(set, vec![promise])
            }
            _ => None,
        }
    }

    fn build_for_party(&self, lie: &str, open: &RoundOpen, job: &PartyJob) -> Option<party::Event> {
        let (me, state) = (job.me(), job.state_name());
        let lab = &self.lab;
        let aggregator = &lab.aggregator;
        let floor = lab.manifest.floor() as usize;
        let label = open.fields.label(&lab.manifest);
        let tombstones = open.tombstones.clone();
        let others: Vec<RosterEntry> =
            open.roster.iter().filter(|entry| *entry != me).cloned().collect();
        // The roster cut to `size`, with this party in it.
        let cut = |size: usize| {
            let mut roster = others[..size.checked_sub(1)?.min(others.len())].to_vec();
            roster.push(me.clone());
            roster.sort_by(|a, b| a.party.cmp(&b.party));
            Some(roster)
        };
        let record = |change: &dyn Fn(&mut ResultRecord)| {
            let mut record = ResultRecord {
                manifest: open.fields.manifest,
                label,
                round: open.fields.round,
                attempt: open.fields.attempt,
                previous: open.fields.previous_result,
                freeze: Hash([3; 32]),
                members: open.roster.iter().map(|entry| entry.party.clone()).collect(),
                sum: bulk(&[1]),
            };
            change(&mut record);
            let record = Signed::sign(record, aggregator).signed().clone();
            Some(party::Event::Result { record, state: Hash([4; 32]) })
        };
        let opened = |open| Some(party::Event::Open(open));
        // What contradicts nothing that this party saw is not yet a lie to it.
        let entered = job.entered() == Some(label);
        let full = open.roster.clone();
        match lie {
            "wrong model" => {
                opened(opening(aggregator, open, full, |f| f.model.0[0] ^= 1, tombstones))
            }
            "second label of an attempt" if full.len() > floor => {
                let roster = cut(full.len() - 1)?;
                opened(opening(aggregator, open, roster, |_| {}, tombstones))
            }
            "retry without tombstones" => {
                opened(opening(aggregator, open, full, |f| f.attempt += 1, Vec::new()))
            }
            "retry with forged tombstones" => {
                let forged = forged_tombstones(lab, &open.fields);
                opened(opening(aggregator, open, full, |f| f.attempt += 1, forged))
            }
            "roster not in the label" if full.len() > floor => {
                let root = open.fields.roster_root;
                let roster = cut(full.len() - 1)?;
                opened(opening(aggregator, open, roster, |f| f.roster_root = root, tombstones))
            }
            "roster below the floor" => {
                opened(opening(aggregator, open, cut(floor - 1)?, |_| {}, tombstones))
            }
            "round skipped" => {
                let next = open.fields.round + 1;
                let payload = lab.manifest.payload(next).ok()?;
                let purpose = lab.manifest.workload.purpose(next)?;
                let skip = |fields: &mut RoundFields| {
                    (fields.round, fields.attempt, fields.purpose) = (next, 0, purpose);
                    (fields.dim, fields.payload_type) = (payload.dim(), payload.type_id());
                };
                opened(opening(aggregator, open, full, skip, Vec::new()))
            }
            "opening by another key" => {
                let stranger = Identity::from_bytes(&[9; 64]);
                opened(opening(&stranger, open, full, |_| {}, tombstones))
            }
            "forked result" => record(&|record| record.previous.0[0] ^= 1),
            "result below the floor" => record(&|record| record.members.truncate(floor - 1)),
            "result with members twice" => record(&|record| {
                let first = record.members[0].clone();
                record.members.fill(first);
            }),
            "result of a second label" if entered => record(&|record| record.label.0[0] ^= 1),
            "receipt not honoured" if state == "Acked" && entered && others.len() >= floor => {
                record(&|record| record.members.retain(|member| *member != me.party))
            }
            "receipt not honoured" if matches!(state, "Sent" | "Training" | "Sealing") => {
                // No receipt was given yet: one for bytes that were never sent.
                let receipt = Receipt { label, party: me.party.clone(), header: Hash([5; 32]) };
                Some(party::Event::Receipt(Signed::sign(receipt, aggregator).signed().clone()))
            }
            _ => None,
        }
    }
}
