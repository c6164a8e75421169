//! What must hold in every run, checked as it happens, and what the run covered.

use std::collections::{BTreeMap, BTreeSet};

use quorate_crypto::merkle::Hash;
use quorate_crypto::sum::{Label, Nonce};

use super::world::Node;
use crate::machine::Fact;
use crate::refusal::{Code, Culprit, Refusal};
use crate::round::authority::ComputeKey;
use crate::round::messages::SubmitHeader;
use crate::wire::{Name, Signed};

/// A pair of a role's state and something that happened to it there.
pub type Pair = (&'static str, &'static str, &'static str);

/// Facts, violations and coverage of one run.
#[derive(Debug, Default)]
pub struct Audit {
    /// The first broken invariants, each a sentence.
    pub violations: Vec<String>,
    /// (role, state, fault) pairs met.
    pub covered: BTreeSet<Pair>,
    /// What happened, for reading after a failure.
    pub log: Vec<String>,
    /// Simulated milliseconds.
    pub now_ms: u64,
    /// The one who lies in this run.
    pub liar: Option<Culprit>,
    /// Refusal codes met.
    pub codes: BTreeSet<Code>,
    /// Facts by their name.
    pub facts: BTreeSet<String>,
    submissions: BTreeMap<(Name, Label), Vec<u8>>,
    nonces: BTreeMap<(Name, Label), Nonce>,
    contributions: BTreeMap<(Name, u32), Hash>,
    released: BTreeMap<(usize, u32), ComputeKey>,
    answers: BTreeMap<(usize, Vec<u8>), Vec<u8>>,
    shares: BTreeMap<(Name, u32), ComputeKey>,
    shares_sent: BTreeMap<(Name, Label), Vec<u8>>,
    posts_sent: BTreeMap<(Name, (Hash, u16)), Vec<u8>>,
    charged: BTreeMap<Node, BTreeSet<u32>>,
}

impl Audit {
    /// The audit of a run with this liar.
    #[must_use]
    pub fn of(liar: Option<Culprit>) -> Self {
        Self { liar, ..Self::default() }
    }

    /// Notes a line.
    pub fn note(&mut self, line: impl AsRef<str>) {
        self.log.push(format!("{:>6} {}", self.now_ms, line.as_ref()));
    }

    /// Notes a broken invariant.
    pub fn broken(&mut self, why: impl Into<String>) {
        let why = why.into();
        self.note(format!("BROKEN {why}"));
        self.violations.push(why);
    }

    /// A pair was met.
    pub fn hit(&mut self, role: &'static str, state: &'static str, fault: &'static str) {
        self.note(format!("{role}/{state}: {fault}"));
        self.covered.insert((role, state, fault));
    }

    /// A machine's committed fact.
    pub fn fact(&mut self, who: &str, fact: &Fact) {
        self.facts.insert(fact.what.clone());
        let place = match (fact.round, fact.attempt) {
            (Some(round), Some(attempt)) => format!("{round}.{attempt} "),
            _ => String::new(),
        };
        self.note(format!("{who} {} {place}{}", fact.what, fact.note));
    }

    /// A machine refused: only the liar may be named.
    pub fn refusal(&mut self, who: &str, refusal: &Refusal) {
        self.codes.insert(refusal.code);
        for culprit in &refusal.culprits {
            if self.liar.as_ref() != Some(culprit) {
                self.broken(format!("{who} blames the honest {culprit:?}: {refusal}"));
            }
        }
    }

    /// A party's stored plaintext of a round: one, whatever its attempts.
    pub fn contribution(&mut self, party: &Name, round: u32, root: Hash) {
        let known = *self.contributions.entry((party.clone(), round)).or_insert(root);
        if known != root {
            self.broken(format!("{party} has a second plaintext in round {round}"));
        }
    }

    /// The root of a party's stored plaintext.
    #[must_use]
    pub fn contribution_of(&self, party: &Name, round: u32) -> Hash {
        self.contributions[&(party.clone(), round)]
    }

    /// Every header signed under a label so far, by party.
    #[must_use]
    pub fn headers(&self, label: Label) -> Vec<Signed<SubmitHeader>> {
        self.submissions
            .iter()
            .filter(|((_, of), _)| *of == label)
            .map(|(_, bytes)| Signed::from_wire(bytes).unwrap())
            .collect()
    }

    /// A party is about to put `plaintext` under a pad.
    pub fn pad(&mut self, party: &Name, label: Label, nonce: Nonce) {
        let known = *self.nonces.entry((party.clone(), label)).or_insert(nonce);
        if known != nonce {
            self.broken(format!("{party} uses a second nonce under {label:?}"));
        }
    }

    /// An honest party sends this header: one per label, always the same bytes.
    pub fn submission(&mut self, header: &SubmitHeader, bytes: &[u8]) {
        let key = (header.party.clone(), header.label);
        let known = self.submissions.entry(key).or_insert_with(|| bytes.to_vec()).clone();
        if known != bytes {
            self.broken(format!("{} signs a second submission of one label", header.party));
        }
    }

    /// An authority computes a functional key: one set per round, at least the floor.
    pub fn key(&mut self, authority: usize, work: &ComputeKey, floor: u32) {
        let known =
            self.released.entry((authority, work.round)).or_insert_with(|| work.clone()).clone();
        if known.label != work.label || known.members != work.members {
            self.broken(format!("authority {authority} opens round {} twice", work.round));
        }
        if (work.members.len() as u64) < u64::from(floor) {
            self.broken(format!("authority {authority} opens a set below the floor"));
        }
        let others: Vec<_> = self
            .released
            .iter()
            .filter(|((_, round), other)| *round == work.round && other.label == work.label)
            .map(|(_, other)| other.members.clone())
            .collect();
        if others.iter().any(|members| *members != work.members) {
            self.broken(format!("authorities open different sets of round {}", work.round));
        }
        for member in &work.members {
            let submitted = self.nonces.get(&(member.party.clone(), work.label));
            let lies = self.liar.as_ref() == Some(&Culprit::Party(member.party.clone()));
            if !lies && submitted != Some(&member.nonce) {
                self.broken(format!("{} never submitted what is opened", member.party));
            }
        }
    }

    /// A holder computes a partial decryption: one set per round, at least the floor, and the same as
    /// every other releaser of the round.
    pub fn share(&mut self, holder: &Name, work: &ComputeKey, floor: u32) {
        let place = (holder.clone(), work.round);
        let known = self.shares.entry(place).or_insert_with(|| work.clone()).clone();
        if known != *work {
            self.broken(format!("{holder} opens round {} twice", work.round));
        }
        if (work.members.len() as u64) < u64::from(floor) {
            self.broken(format!("{holder} opens a set below the floor"));
        }
        let shares = self.shares.iter().filter(|((_, round), _)| *round == work.round);
        let keys = self.released.iter().filter(|((_, round), _)| *round == work.round);
        let mut others = shares.map(|(_, other)| other).chain(keys.map(|(_, other)| other));
        if others.any(|other| other != work) {
            self.broken(format!("releasers open different sets of round {}", work.round));
        }
    }

    /// The set that holders answered for in a round, once one did.
    #[must_use]
    pub fn shared_set(&self, round: u32) -> Option<Vec<Name>> {
        let (_, work) = self.shares.iter().find(|((_, of), _)| *of == round)?;
        Some(work.members.iter().map(|member| member.party.clone()).collect())
    }

    /// A holder sends its partial decryption: one per label, always the same bytes.
    pub fn share_sent(&mut self, holder: &Name, label: Label, bytes: &[u8]) {
        let place = (holder.clone(), label);
        let known = self.shares_sent.entry(place).or_insert_with(|| bytes.to_vec()).clone();
        if known != bytes {
            self.broken(format!("{holder} gives a second share of one label"));
        }
    }

    /// A holder sends its post to the threshold key: one per call and step.
    pub fn post_sent(&mut self, holder: &Name, place: (Hash, u16), bytes: &[u8]) {
        let key = (holder.clone(), place);
        let known = self.posts_sent.entry(key).or_insert_with(|| bytes.to_vec()).clone();
        if known != bytes {
            self.broken(format!("{holder} makes a second post of one step"));
        }
    }

    /// A step with this charge was committed.
    pub fn charge(&mut self, node: Node, round: u32) {
        self.charged.entry(node).or_default().insert(round);
    }

    /// A step with this refund was committed.
    pub fn refund(&mut self, node: Node, round: u32) {
        self.facts.insert("charge.refunded".to_owned());
        self.charged.entry(node).or_default().remove(&round);
    }

    /// Rounds that were charged and not refunded.
    #[must_use]
    pub fn charged(&self, node: Node) -> BTreeSet<u32> {
        self.charged.get(&node).cloned().unwrap_or_default()
    }

    /// An authority's answer to a request: the same bytes each time, or a late refusal.
    pub fn answer(&mut self, authority: usize, request: &[u8], answer: &[u8]) {
        let key = (authority, request.to_vec());
        let known = self.answers.entry(key).or_insert_with(|| answer.to_vec()).clone();
        if known != answer {
            self.broken(format!("authority {authority} answers one request in two ways"));
        }
    }

    /// The label every authority of `m` released in `round`, if any.
    #[must_use]
    pub fn opened(&self, round: u32, m: usize) -> Option<&ComputeKey> {
        let first = self.released.get(&(0, round))?;
        (0..m)
            .all(|a| self.released.get(&(a, round)).is_some_and(|key| key.label == first.label))
            .then_some(first)
    }
}
