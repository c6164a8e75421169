//! Openings at the network: what the authority releases is read with its share and those of T banks.

use std::collections::{BTreeMap, BTreeSet};

use quorate_crypto::merkle::Hash;
use quorate_crypto::threshold::AUTHORITY;
use quorate_crypto::threshold::elgamal::choice::Ciphers;
use serde::{Deserialize, Serialize};

use super::queries::Query;
use super::{NetworkJob, NetworkOutput, NetworkWorld, Phase, to_bank};
use crate::machine::{Fact, Output};
use crate::pv4fad::messages::{Message, OpenAsk, Opens, Partial, Release};
use crate::pv4fad::{Keep, bad_ciphertext, ciphers_hash};
use crate::refusal::{Code, Culprit, Refusal};
use crate::wire::{Name, Signed, Verified};

/// An opening under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Opening {
    pub(super) release: Verified<Release>,
    /// Where the ciphertexts are kept.
    ciphers: Hash,
    /// Checked partial decryptions: the authority's under no name.
    authority: Vec<u8>,
    partials: BTreeMap<Name, Vec<u8>>,
    asked: BTreeSet<Name>,
    failed: BTreeSet<Name>,
}

impl Opening {
    /// Whether a bank's share is waited for.
    pub(super) fn waits_for(&self, bank: &Name) -> bool {
        self.asked.contains(bank)
            && !self.failed.contains(bank)
            && !self.partials.contains_key(bank)
    }

    /// A bank that was asked does not open; says whether it was asked.
    pub(super) fn refused_by(&mut self, bank: &Name) -> bool {
        let asked = self.asked.contains(bank);
        if asked {
            self.failed.insert(bank.clone());
        }
        asked
    }

    /// Asks as many banks as are still needed; says whether there are enough.
    fn ask(
        &mut self,
        world: &NetworkWorld<'_>,
        present: &[Name],
        needed: usize,
        outputs: &mut Vec<NetworkOutput>,
    ) -> Result<bool, Refusal> {
        let waited = present.iter().filter(|bank| self.waits_for(bank)).count();
        let mut missing = needed.saturating_sub(self.partials.len().saturating_add(waited));
        for bank in present {
            if missing == 0 {
                break;
            }
            if !self.asked.insert(bank.clone()) {
                continue;
            }
            let ciphers = world.world.blob(&self.ciphers)?;
            let ask = OpenAsk { release: self.release.signed().clone(), ciphers };
            outputs.push(to_bank(bank, Message::OpenAsk(ask)));
            missing = missing.saturating_sub(1);
        }
        Ok(missing == 0)
    }
}

impl NetworkJob {
    /// W16: the authority released: its share is checked, T banks are asked for theirs.
    pub(super) fn released(
        &mut self,
        world: &NetworkWorld<'_>,
        signed: &Signed<Release>,
        partial: &Signed<Partial>,
    ) -> Result<Vec<NetworkOutput>, Refusal> {
        let release = self.job.by_authority(signed)?;
        self.is_of_version(release.version)?;
        let hash = release.hash();
        if self.is_used_up(&hash) || self.opening_of(&hash).is_some() {
            return Ok(Vec::new());
        }
        let authority = Culprit::Authority(self.job.authority.name.clone());
        if !self.job.opens(&release.opens) {
            let why = "a release of what this job never opens";
            return Err(Refusal::new(Code::WrongState, why).blaming(authority));
        }
        let (bytes, known) = match &release.opens {
            Opens::Model { summed, .. } => {
                let own = self.summed.as_ref().map(Verified::hash);
                let waits = self.frozen && self.opening.is_none() && self.opened.is_none();
                if !waits || own != Some(*summed) {
                    return Err(Refusal::new(Code::WrongState, "no release is waited for"));
                }
                (self.total(world)?, None)
            }
            Opens::Query { query, table } | Opens::Pooled { query, table, .. } => {
                self.is_of_frozen(&release.opens)?;
                let known = self.open_query(*query).filter(|known| known.table.hash() == *table);
                let last = known.filter(|known| known.opening.is_none()).and_then(|k| k.last);
                let last = last.ok_or_else(|| {
                    Refusal::new(Code::WrongState, "no release of this query is waited for")
                })?;
                (world.world.blob(&last)?, Some(last))
            }
        };
        if ciphers_hash(&bytes) != release.ciphers {
            return Err(Refusal::new(Code::WrongLabel, "the authority released other ciphertexts")
                .blaming(authority));
        }
        let partial = self.job.by_authority(partial)?;
        let ciphers = Ciphers::decode_sums(&bytes)
            .map_err(|error| bad_ciphertext(&error, authority.clone()))?;
        let right = partial.release == hash
            && world.world.key.check_partial(&hash.0, &ciphers, &partial.bytes) == Ok(AUTHORITY);
        if !right {
            return Err(Refusal::new(Code::BadShare, "the authority's share does not verify")
                .blaming(authority));
        }
        let keep = Keep::of(bytes);
        let opening = Opening {
            release,
            ciphers: known.unwrap_or(keep.hash),
            authority: partial.bytes.clone(),
            partials: BTreeMap::new(),
            asked: BTreeSet::new(),
            failed: BTreeSet::new(),
        };
        match opening.release.opens {
            Opens::Model { .. } => {
                self.phase = Phase::Frozen;
                self.opening = Some(opening);
            }
            Opens::Query { query, .. } | Opens::Pooled { query, .. } => {
                if let Some(known) = self.open_query_mut(query) {
                    known.opening = Some(opening);
                }
            }
        }
        Ok(vec![Output::Work(keep)])
    }

    /// Asks as many banks as are still needed for every opening; without enough of them it is over, and a
    /// query with it or the whole version.
    pub(super) fn ask_openers(
        &mut self,
        world: &NetworkWorld<'_>,
    ) -> Result<Vec<NetworkOutput>, Refusal> {
        let needed = self.job.threshold as usize;
        let present = self.present();
        let (mut outputs, mut lost) = (Vec::new(), Vec::new());
        let model = self.opening.as_mut().map(|opening| (None, opening));
        let queries = self.queries.iter_mut().filter_map(|(number, query)| {
            Some((Some(*number), query.open_mut()?.opening.as_mut()?))
        });
        for (query, opening) in model.into_iter().chain(queries) {
            if !opening.ask(world, &present, needed, &mut outputs)? {
                lost.push(query);
            }
        }
        for query in lost {
            let mut refusal =
                Refusal::new(Code::QuorumLost, "too few key holders are left to open");
            refusal.concerns = self.lost.iter().cloned().collect();
            outputs.extend(match query {
                Some(query) => self.give_up(query, "query.failed", refusal),
                None => self.fail(refusal),
            });
        }
        Ok(outputs)
    }

    /// The opening of a release.
    fn opening_of(&mut self, release: &Hash) -> Option<&mut Opening> {
        let queries = self.queries.values_mut();
        let queries = queries.filter_map(|query| query.open_mut()?.opening.as_mut());
        let mut all = self.opening.as_mut().into_iter().chain(queries);
        all.find(|opening| opening.release.hash() == *release)
    }

    /// Whether what was released is open already, or is not opened any more.
    fn is_used_up(&self, release: &Hash) -> bool {
        let queries = self.queries.values().map(Query::used_up);
        self.phase == Phase::Failed
            || core::iter::once(self.opened).chain(queries).any(|used| used == Some(*release))
    }

    /// W16: a bank's share: a wrong one names it, and another steps in.
    pub(super) fn partial(
        &mut self,
        world: &NetworkWorld<'_>,
        signed: &Signed<Partial>,
    ) -> Result<Vec<NetworkOutput>, Refusal> {
        let partial = self.job.by_bank(signed)?;
        let number = self.job.holder(&partial.bank);
        let needed = self.job.threshold as usize;
        if self.is_used_up(&partial.release) {
            return Ok(Vec::new());
        }
        let opening = self
            .opening_of(&partial.release)
            .filter(|opening| opening.asked.contains(&partial.bank))
            .ok_or_else(|| Refusal::new(Code::WrongState, "no share of this bank is waited for"))?;
        if opening.failed.contains(&partial.bank) {
            return Ok(Vec::new());
        }
        let bytes = world.world.blob(&opening.ciphers)?;
        let ciphers = Ciphers::decode_sums(&bytes)
            .map_err(|error| bad_ciphertext(&error, Culprit::Aggregator))?;
        let checked = world.world.key.check_partial(&partial.release.0, &ciphers, &partial.bytes);
        if checked.ok() != number {
            // Remembered, so that another holder is asked in its place: the refusal is an output.
            opening.failed.insert(partial.bank.clone());
            let refusal = Refusal::new(Code::BadShare, "a share does not verify")
                .blaming(Culprit::Party(partial.bank.clone()));
            let fact = Fact::of("refused", self.version, 0, refusal.to_string());
            let mut outputs = vec![Output::Log(fact), Output::Reject(refusal)];
            outputs.extend(self.ask_openers(world)?);
            return Ok(outputs);
        }
        opening.partials.insert(partial.bank.clone(), partial.bytes.clone());
        if opening.partials.len() < needed {
            return Ok(Vec::new());
        }
        let opening = opening.clone();
        self.open(world, &opening, &ciphers)
    }

    /// Reads what was opened; the shares are used up.
    fn open(
        &mut self,
        world: &NetworkWorld<'_>,
        opening: &Opening,
        ciphers: &Ciphers,
    ) -> Result<Vec<NetworkOutput>, Refusal> {
        let partials: Vec<&[u8]> = [opening.authority.as_slice()]
            .into_iter()
            .chain(opening.partials.values().map(Vec::as_slice))
            .collect();
        let range = match &opening.release.opens {
            Opens::Model { .. } => self.job.range(),
            Opens::Query { .. } => 0..=i64::from(u8::MAX >> 1),
            Opens::Pooled { query, .. } => self.pooled_range(*query),
        };
        let opened = match world.world.key.open(ciphers, &partials, range) {
            Ok(opened) => opened,
            Err(error) => {
                let refusal = Refusal::new(Code::Overflow, error.to_string());
                return Ok(match &opening.release.opens {
                    Opens::Pooled { query, .. } => self.unreadable(*query, refusal),
                    Opens::Model { .. } | Opens::Query { .. } => self.fail(refusal),
                });
            }
        };
        match &opening.release.opens {
            Opens::Model { .. } => {
                self.counts = Some(self.unshuffled(world, &opened));
                (self.opening, self.opened) = (None, Some(opening.release.hash()));
                self.phase = Phase::Trained;
                Ok(vec![Output::Log(Fact::of("version.trained", self.version, 0, ""))])
            }
            Opens::Query { query, .. } | Opens::Pooled { query, .. } => {
                self.score(*query, opening.release.hash(), &opened)
            }
        }
    }
}
