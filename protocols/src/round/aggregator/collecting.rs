//! Up to the frozen set: who joins, when an attempt opens, and who is in it.

use std::collections::BTreeMap;

use quorate_crypto::merkle::Hash;

use super::{AggregatorJob, AggregatorOutput, Attempt, Frozen, Gathering, Joined, Outcome, Phase};
use crate::checks::{Check, holds};
use crate::job::{RosterEntry, roster_root};
use crate::machine::{Context, Fact, Output, Peer};
use crate::refusal::{Code, Culprit, Refusal};
use crate::round::keying::JobKey;
use crate::round::messages::{
    Freeze, Join, Message, Receipt, RoundFields, RoundOpen, SubmitHeader, Tombstone,
};
use crate::round::{check_header, model_field};
use crate::wire::{Signed, Verified};
use crate::workload::Workload;

impl AggregatorJob {
    pub(super) fn join(
        &mut self,
        cx: &Context<'_>,
        join: &Signed<Join>,
    ) -> Result<Vec<AggregatorOutput>, Refusal> {
        let claimed = join.peek()?;
        let join = join.verify(&claimed.entry.verify)?;
        let entry = &join.entry;
        if self.outcome().is_some() {
            return Err(Refusal::new(Code::WrongState, "the job is over"));
        }
        join.check(&self.manifest)?;
        if let Workload::Payments(spec) = &self.manifest.workload
            && !spec.names(&entry.party)
        {
            return Err(Refusal::new(Code::UnknownParty, "the job names no such party"));
        }
        match self.parties.get(&entry.party) {
            Some(known) if known.entry.epoch > entry.epoch => {
                return Err(Refusal::new(Code::LabelReuse, "these keys were rotated away"));
            }
            None if self.parties.len() >= self.manifest.max_parties as usize => {
                return Err(Refusal::new(Code::BadRoster, "the job is full"));
            }
            Some(known) if known.broke_key => {
                return Err(Refusal::new(
                    Code::BadKey,
                    "this party broke the job's threshold key and is out of the job",
                ));
            }
            Some(known) if known.barred && known.entry == *entry => {
                return Err(Refusal::new(
                    Code::UnknownParty,
                    "an authority knows newer keys of this party; finish the rotation everywhere",
                ));
            }
            Some(known) if known.active && known.entry == *entry => return Ok(Vec::new()),
            _ => {}
        }
        let failed_calls = self.parties.get(&entry.party).map_or(0, |known| known.failed_calls);
        let joined = Joined {
            entry: entry.clone(),
            active: true,
            barred: false,
            failed_calls,
            broke_key: false,
        };
        self.parties.insert(entry.party.clone(), joined);
        let mut outputs = vec![Output::Log(Fact::job(
            "party.joined",
            format!("{} epoch {}", entry.party, entry.epoch),
        ))];
        outputs.extend(self.try_open(cx));
        Ok(outputs)
    }

    pub(super) fn gather(
        &mut self,
        cx: &Context<'_>,
        round: u32,
        attempt: u16,
        tombstones: Vec<Signed<Tombstone>>,
    ) -> Vec<AggregatorOutput> {
        self.phase = Phase::Gathering(Gathering { round, attempt, tombstones, ready_ms: None });
        self.try_open(cx)
    }

    /// Opens the next attempt if enough parties are there: at once if it is not the first round or
    /// all are, else when the grace after reaching the floor is over.
    pub(super) fn try_open(&mut self, cx: &Context<'_>) -> Vec<AggregatorOutput> {
        let Phase::Gathering(gathering) = &mut self.phase else {
            return Vec::new();
        };
        let roster: Vec<RosterEntry> =
            self.parties.values().filter(|j| j.active).map(|j| j.entry.clone()).collect();
        let size = u32::try_from(roster.len()).unwrap_or(u32::MAX);
        if size < self.manifest.floor() {
            return Vec::new();
        }
        let holders = self.manifest.threshold.map_or(0, |spec| spec.holders);
        if self.key.is_none() && size < holders {
            return Vec::new();
        }
        if self.manifest.is_payments() {
            // All that the manifest names, and no others, take part.
            return match self.key {
                None if size < self.manifest.max_parties => Vec::new(),
                None => self.call_key(cx, roster),
                Some(_) => self.carry(),
            };
        }
        let ready = *gathering.ready_ms.get_or_insert(cx.now_ms);
        let wait_until = ready.saturating_add(self.manifest.deadlines.grace_ms);
        let first = gathering.round == 0 && gathering.attempt == 0;
        if first && size < self.manifest.max_parties && cx.now_ms < wait_until {
            return Vec::new();
        }
        if self.manifest.is_threshold() && self.key.is_none() {
            return self.call_key(cx, roster);
        }
        let (round, attempt) = (gathering.round, gathering.attempt);
        let tombstones = core::mem::take(&mut gathering.tombstones);
        let payload = self.manifest.payload(round).ok();
        let Some((payload, purpose)) = payload.zip(self.manifest.workload.purpose(round)) else {
            return self.finish(Outcome::Done);
        };
        let previous = self.results.last().map_or(Hash([0; 32]), Verified::hash);
        let model = model_field(purpose, self.state, previous);
        if self.opened_models.contains(&(purpose, model)) {
            // The model did not change: training converged, and authorities would refuse.
            let mut outputs = vec![Output::Log(Fact::job("job.converged", format!("{model}")))];
            outputs.extend(self.finish(Outcome::Done));
            return outputs;
        }
        let fields = RoundFields {
            manifest: self.hash,
            round,
            attempt,
            purpose,
            roster_root: roster_root(&roster),
            previous_result: previous,
            model,
            dim: payload.dim(),
            payload_type: payload.type_id(),
            key: self.key.as_ref().map_or(Hash([0; 32]), JobKey::id),
        };
        let label = fields.label(&self.manifest);
        let deadline_ms = cx.now_ms.saturating_add(self.manifest.deadlines.collect_ms);
        let open = Signed::sign(RoundOpen { fields, roster, deadline_ms, tombstones }, cx.identity);
        self.phase = Phase::Collecting(Attempt {
            open,
            label,
            headers: BTreeMap::new(),
            freeze_ms: deadline_ms,
        });
        vec![Output::Log(Fact::of("round.opened", round, attempt, format!("{size} invited")))]
    }

    /// Whether a submission with this header would be taken now (G1 to G3); asked before its bytes
    /// are spooled, and again when it is complete.
    ///
    /// # Errors
    /// [`Code::Late`], [`Code::UnknownParty`], [`Code::WrongLabel`], [`Code::WrongLength`],
    /// [`Code::Duplicate`], [`Code::BadSignature`].
    pub fn admit(
        &self,
        now_ms: u64,
        header: &Signed<SubmitHeader>,
    ) -> Result<Verified<SubmitHeader>, Refusal> {
        let Some(attempt) = self.attempt() else {
            return Err(Refusal::new(Code::Late, "no round is open"));
        };
        let header = check_header(&self.manifest, &attempt.open, &attempt.label, header)?;
        match attempt.headers.get(&header.party) {
            Some(stored) if stored.signed() == header.signed() => return Ok(header),
            Some(_) => {
                return Err(Refusal::new(
                    Code::Duplicate,
                    "this party submitted other bytes before",
                )
                .blaming(Culprit::Party(header.party.clone())));
            }
            None => {}
        }
        let open = matches!(self.phase, Phase::Collecting(_)) && now_ms <= attempt.freeze_ms;
        if !holds(Check::Late, open) {
            return Err(Refusal::new(Code::Late, "the set is frozen or the deadline passed"));
        }
        Ok(header)
    }

    pub(super) fn submit(
        &mut self,
        cx: &Context<'_>,
        header: &Signed<SubmitHeader>,
    ) -> Result<Vec<AggregatorOutput>, Refusal> {
        let header = self.admit(cx.now_ms, header)?;
        let receipt =
            Receipt { label: header.label, party: header.party.clone(), header: header.hash() };
        let receipt = Signed::sign(receipt, cx.identity);
        let mut outputs = vec![Output::Send {
            to: Peer::Party(header.party.clone()),
            message: Message::Receipt(receipt.signed().clone()),
        }];
        let Phase::Collecting(attempt) = &mut self.phase else {
            return Ok(outputs);
        };
        let RoundFields { round, attempt: number, .. } = attempt.open.fields;
        let party = header.party.clone();
        if attempt.headers.insert(party.clone(), header).is_some() {
            return Ok(outputs);
        }
        outputs.push(Output::Log(Fact::of("party.submitted", round, number, party.to_string())));
        let count = u32::try_from(attempt.headers.len()).unwrap_or(u32::MAX);
        if attempt.headers.len() == attempt.open.roster.len() {
            outputs.extend(self.freeze(cx));
        } else if count == self.manifest.floor() {
            let grace = cx.now_ms.saturating_add(self.manifest.deadlines.grace_ms);
            attempt.freeze_ms = attempt.freeze_ms.min(grace);
        }
        Ok(outputs)
    }

    /// Freezes the set of those that submitted: no way back to collecting.
    pub(super) fn freeze(&mut self, cx: &Context<'_>) -> Vec<AggregatorOutput> {
        let Phase::Collecting(attempt) = &self.phase else {
            return Vec::new();
        };
        let attempt = attempt.clone();
        for (name, joined) in &mut self.parties {
            // A party that joined again with new keys meanwhile stays.
            let invited = attempt.open.roster.contains(&joined.entry);
            if invited && !attempt.headers.contains_key(name) {
                joined.active = false;
            }
        }
        let RoundFields { round, attempt: number, .. } = attempt.open.fields;
        let y: Vec<u8> = attempt
            .open
            .roster
            .iter()
            .map(|entry| u8::from(attempt.headers.contains_key(&entry.party)))
            .collect();
        let freeze = Freeze {
            open: attempt.open.signed().clone(),
            members: attempt.headers.values().map(|header| header.signed().clone()).collect(),
            log_proof: Vec::new(),
        };
        let freeze = Signed::sign(freeze, cx.identity);
        let mut outputs = vec![Output::Log(Fact::of(
            "round.frozen",
            round,
            number,
            format!("{} members, freeze {}", attempt.headers.len(), freeze.hash()),
        ))];
        self.phase = Phase::Promising(Frozen { attempt, freeze, y, promises: BTreeMap::new() });
        outputs.extend(self.requests());
        outputs
    }
}
