//! The threshold key, made once before round 0: a call, posts step by step, and another call without
//! whoever broke it.

use super::{AggregatorJob, AggregatorOutput, KeyingPhase, Outcome, Phase};
use crate::job::RosterEntry;
use crate::machine::{Context, Fact, Output, Peer};
use crate::refusal::{Code, Culprit, Refusal};
use crate::round::keying::{JobKey, Keying};
use crate::round::messages::{KeyCall, KeyPosted, KeyTranscript, Message};
use crate::wire::{Name, Signed};
use crate::workload::Workload;

impl AggregatorJob {
    /// The job's threshold key, once it is made.
    #[must_use]
    pub const fn job_key(&self) -> Option<&JobKey> {
        self.key.as_ref()
    }

    /// What parties are shown of the key: posts so far, or the complete key.
    #[must_use]
    pub fn key_transcript(&self) -> Option<KeyTranscript> {
        match (&self.key, &self.phase) {
            (Some(key), _) => Some(key.keying().transcript()),
            (None, Phase::Keying(keying)) => Some(keying.keying.transcript()),
            (None, _) => None,
        }
    }

    /// Calls for a key among N of `roster`: those by whom the fewest calls failed, and of those the
    /// first by name. The signed call names them, and the log says by whom each call failed.
    pub(super) fn call_key(
        &mut self,
        cx: &Context<'_>,
        roster: Vec<RosterEntry>,
    ) -> Vec<AggregatorOutput> {
        let number = self.key_calls;
        if number >= self.manifest.deadlines.max_attempts {
            let why = format!("no threshold key was made in {number} calls");
            return self.finish(Outcome::Failed(Refusal::new(Code::QuorumLost, why)));
        }
        let count = self.manifest.threshold.map_or(0, |spec| spec.holders as usize);
        let mut holders = roster;
        let network = match &self.manifest.workload {
            Workload::Payments(spec) => holders
                .iter()
                .position(|entry| entry.party == spec.network)
                .map(|place| holders.swap_remove(place)),
            _ => None,
        };
        let failed = |name: &Name| self.parties.get(name).map_or(0, |joined| joined.failed_calls);
        holders.sort_by_cached_key(|holder| (failed(&holder.party), holder.party.clone()));
        holders.truncate(count);
        holders.sort_unstable_by(|a, b| a.party.cmp(&b.party));
        let names: Vec<&str> = holders.iter().map(|holder| holder.party.as_str()).collect();
        let fact = Fact::job("key.called", format!("call {number}: {}", names.join(", ")));
        let call =
            Signed::sign(KeyCall { manifest: self.hash, number, holders, network }, cx.identity);
        match Keying::new(&self.manifest, call.signed()) {
            Ok(keying) => {
                self.key_calls = number.saturating_add(1);
                let until_ms = cx.now_ms.saturating_add(self.manifest.deadlines.collect_ms);
                self.phase = Phase::Keying(KeyingPhase { keying, until_ms });
                let mut outputs = vec![Output::Log(fact)];
                outputs.extend(self.requests());
                outputs
            }
            Err(refusal) => self.finish(Outcome::Failed(refusal)),
        }
    }

    /// Takes a participant's post. When a step is complete its posts are checked; a culprit is left
    /// out of the next call.
    pub(super) fn key_post(
        &mut self,
        cx: &Context<'_>,
        post: &Signed<KeyPosted>,
    ) -> Result<Vec<AggregatorOutput>, Refusal> {
        let Phase::Keying(phase) = &mut self.phase else {
            // Late, or repeated after the key was complete.
            return Ok(Vec::new());
        };
        let scheme = self.manifest.threshold_scheme()?;
        let before = phase.keying.waits_for(scheme).map(|(step, _)| step);
        if !phase.keying.push(&self.manifest, post)? {
            return Ok(Vec::new());
        }
        let after = phase.keying.waits_for(scheme).map(|(step, _)| step);
        let said = post.peek()?;
        let mut outputs = vec![Output::Log(Fact::job(
            "key.posted",
            format!("{} step {}", said.from, said.post.step),
        ))];
        if after == before {
            return Ok(outputs);
        }
        phase.until_ms = cx.now_ms.saturating_add(self.manifest.deadlines.collect_ms);
        let keying = phase.keying.clone();
        let checked = match after {
            Some(_) => keying.check(&self.manifest).map(|()| None),
            None => keying.complete(&self.manifest).map(Some),
        };
        match checked {
            Ok(None) => outputs.extend(self.requests()),
            Ok(Some(key)) => {
                let note = format!("threshold key {}", key.id());
                outputs.push(Output::Log(Fact::job("key.made", note)));
                self.key = Some(key);
                outputs.extend(self.gather(cx, 0, 0, Vec::new()));
            }
            Err(refusal) => outputs.extend(self.key_fault(cx, &refusal)),
        }
        Ok(outputs)
    }

    /// A participant broke the key: it is named, and left out of the next call.
    fn key_fault(&mut self, cx: &Context<'_>, refusal: &Refusal) -> Vec<AggregatorOutput> {
        let mut outputs = vec![Output::Log(Fact::job("key.broken", refusal.to_string()))];
        let named: Vec<Name> = refusal
            .culprits
            .iter()
            .filter_map(|culprit| match culprit {
                Culprit::Party(name) => Some(name.clone()),
                Culprit::Authority(_) | Culprit::Aggregator => None,
            })
            .collect();
        if named.is_empty() {
            // The authority's own post, which no other can replace.
            outputs.extend(self.finish(Outcome::Failed(refusal.clone())));
            return outputs;
        }
        if let Phase::Keying(phase) = &self.phase {
            let holders = phase.keying.holders().to_vec();
            self.failed_call(&named);
            self.bar(&holders, &named);
            for name in &named {
                if let Some(joined) = self.parties.get_mut(name) {
                    joined.broke_key = true;
                }
            }
        }
        outputs.extend(self.gather(cx, 0, 0, Vec::new()));
        outputs
    }

    /// Counts a failed call against those by whom it failed.
    pub(super) fn failed_call(&mut self, by: &[Name]) {
        for name in by {
            if let Some(joined) = self.parties.get_mut(name) {
                joined.failed_calls = joined.failed_calls.saturating_add(1);
            }
        }
    }

    /// Holders that did not post in time are left out until they join again, and are then the last to
    /// be called.
    pub(super) fn key_late(&mut self, cx: &Context<'_>) -> Vec<AggregatorOutput> {
        let Phase::Keying(phase) = &self.phase else {
            return Vec::new();
        };
        if self.key_deadline(phase).is_none_or(|at| cx.now_ms < at) {
            return Vec::new();
        }
        let Ok(scheme) = self.manifest.threshold_scheme() else {
            return Vec::new();
        };
        let missing = phase.keying.missing(&self.manifest, scheme);
        let mut late = phase.keying.holders().to_vec();
        late.retain(|holder| missing.contains(&Culprit::Party(holder.party.clone())));
        for entry in &late {
            if let Some(joined) = self.parties.get_mut(&entry.party)
                && joined.entry == *entry
            {
                joined.active = false;
            }
        }
        let late: Vec<Name> = late.into_iter().map(|holder| holder.party).collect();
        self.failed_call(&late);
        let names: Vec<&str> = late.iter().map(Name::as_str).collect();
        let note = format!("no post of {}", names.join(", "));
        let mut outputs = vec![Output::Log(Fact::job("key.late", note))];
        outputs.extend(self.gather(cx, 0, 0, Vec::new()));
        outputs
    }

    /// When holders are late. The authority's step has no end: nobody can replace it, and a dealer
    /// takes its time.
    pub(super) fn key_deadline(&self, phase: &KeyingPhase) -> Option<u64> {
        let scheme = self.manifest.threshold_scheme().ok()?;
        let missing = phase.keying.missing(&self.manifest, scheme);
        let holder = |culprit: &Culprit| matches!(culprit, Culprit::Party(_));
        missing.iter().any(holder).then_some(phase.until_ms)
    }

    pub(super) fn key_requests(&self, phase: &KeyingPhase) -> Vec<AggregatorOutput> {
        let Ok(scheme) = self.manifest.threshold_scheme() else {
            return Vec::new();
        };
        let missing = phase.keying.missing(&self.manifest, scheme);
        let ask = |culprit: Culprit| match culprit {
            Culprit::Authority(name) => Some(Output::Send {
                to: Peer::Authority(name),
                message: Message::KeyAsk(Box::new(phase.keying.transcript())),
            }),
            Culprit::Party(_) | Culprit::Aggregator => None,
        };
        missing.into_iter().filter_map(ask).collect()
    }
}
