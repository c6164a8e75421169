//! From the frozen set to the result: promises, functional keys, the opened sum.

use std::collections::BTreeMap;

use quorate_crypto::sum::Label;

use super::{AggregatorJob, AggregatorOutput, Bound, Opened, Outcome, Phase};
use crate::machine::{Bug, Context, Fact, Output};
use crate::refusal::{Code, Culprit, Refusal};
use crate::round::STEP_KEY;
use crate::round::messages::{FuncKey, Promise, ResultRecord, RoundFields, request_hash, y_hash};
use crate::wire::{Name, Signed};

impl AggregatorJob {
    pub(super) fn promise(
        &mut self,
        cx: &Context<'_>,
        promise: &Signed<Promise>,
    ) -> Result<Vec<AggregatorOutput>, Refusal> {
        let claimed = promise.peek()?;
        let key = self.authority_key(&claimed.authority)?;
        let promise = promise.verify(&key)?;
        let Phase::Promising(frozen) = &mut self.phase else {
            return Ok(Vec::new());
        };
        if promise.label != frozen.attempt.label {
            return Ok(Vec::new());
        }
        if promise.freeze != frozen.freeze.hash() || promise.y != y_hash(&frozen.y) {
            return Err(Refusal::new(Code::BadPromises, "a promise for another set")
                .blaming(Culprit::Authority(promise.authority.clone())));
        }
        frozen.promises.insert(promise.authority.clone(), promise);
        if frozen.promises.len() < self.manifest.authorities.len() {
            return Ok(Vec::new());
        }
        let frozen = frozen.clone();
        let RoundFields { round, attempt, .. } = frozen.attempt.open.fields;
        let mut outputs =
            vec![Output::Log(Fact::of("round.promised", round, attempt, "by every authority"))];
        let shares = self.first_shares(cx, &frozen);
        self.phase = Phase::Releasing(Bound { frozen, keys: BTreeMap::new(), shares });
        outputs.extend(self.requests());
        Ok(outputs)
    }

    pub(super) fn func_key(
        &mut self,
        key: &Signed<FuncKey>,
    ) -> Result<Vec<AggregatorOutput>, Refusal> {
        let claimed = key.peek()?;
        let verify = self.authority_key(&claimed.authority)?;
        let key = key.verify(&verify)?;
        let Phase::Releasing(bound) = &mut self.phase else {
            return Ok(Vec::new());
        };
        let attempt = &bound.frozen.attempt;
        if key.label != attempt.label {
            return Ok(Vec::new());
        }
        let fields = attempt.open.fields;
        let expected =
            request_hash(&key.label, &bound.frozen.freeze.hash(), &y_hash(&bound.frozen.y));
        if key.request != expected
            || key.key.len != self.manifest.step_bytes(fields.round, STEP_KEY)?
        {
            return Err(Refusal::new(Code::BadPromises, "a functional key for another request")
                .blaming(Culprit::Authority(key.authority.clone())));
        }
        bound.keys.insert(key.authority.clone(), key);
        Ok(self.try_opening())
    }

    /// Opens the sum once every authority's key is there and, in threshold jobs, T holders' partial
    /// decryptions.
    pub(super) fn try_opening(&mut self) -> Vec<AggregatorOutput> {
        let Phase::Releasing(bound) = &self.phase else {
            return Vec::new();
        };
        let needed = self.manifest.threshold.map_or(0, |spec| spec.threshold as usize);
        if bound.keys.len() < self.manifest.authorities.len()
            || bound.shares.partials.len() < needed
        {
            return Vec::new();
        }
        let fields = bound.frozen.attempt.open.fields;
        self.phase = Phase::Opening(bound.clone());
        let mut outputs = vec![Output::Log(Fact::of(
            "round.keys",
            fields.round,
            fields.attempt,
            "all keys are here",
        ))];
        outputs.extend(self.requests());
        outputs
    }

    pub(super) fn opened(
        &mut self,
        cx: &Context<'_>,
        label: Label,
        outcome: Result<Opened, Refusal>,
    ) -> Result<Vec<AggregatorOutput>, Bug> {
        let Phase::Opening(bound) = &self.phase else {
            // Work that was repeated after a restart, or whose job was cancelled.
            return Ok(Vec::new());
        };
        let attempt = &bound.frozen.attempt;
        if attempt.label != label {
            return Ok(Vec::new());
        }
        let fields = attempt.open.fields;
        // A wrong partial decryption opens nothing: another holder steps in.
        if let Err(refusal) = &outcome
            && refusal.code == Code::BadShare
            && let [Culprit::Party(holder)] = refusal.culprits.as_slice()
        {
            let bound = bound.clone();
            return Ok(self.bad_share(cx, bound, holder, refusal));
        }
        self.opened_models.insert((fields.purpose, fields.model));
        let opened = match outcome {
            Ok(opened) => opened,
            Err(refusal) => {
                // The round, once opened, is never opened again. Bytes that are no element of the
                // scheme name their signer; of a garbage pad, value or key nothing signed tells who
                // sent it, so all members and authorities are suspects.
                let mut why = refusal;
                if why.culprits.is_empty() {
                    let suspects: Vec<&str> =
                        attempt.headers.keys().chain(bound.keys.keys()).map(Name::as_str).collect();
                    why.detail = format!("{}; suspects: {}", why.detail, suspects.join(", "));
                }
                let mut outputs = vec![Output::Log(Fact::of(
                    "round.discarded",
                    fields.round,
                    fields.attempt,
                    why.detail.clone(),
                ))];
                outputs.extend(self.finish(Outcome::Failed(why)));
                return Ok(outputs);
            }
        };
        let record = ResultRecord {
            manifest: self.hash,
            label,
            round: fields.round,
            attempt: fields.attempt,
            previous: fields.previous_result,
            freeze: bound.frozen.freeze.hash(),
            members: attempt.headers.keys().cloned().collect(),
            sum: opened.sum,
        };
        let members = record.members.len();
        self.results.push(Signed::sign(record, cx.identity));
        self.state = opened.state;
        let mut outputs = vec![Output::Log(Fact::of(
            "round.result",
            fields.round,
            fields.attempt,
            format!("{members} members, sum {}", opened.sum.root),
        ))];
        let next = fields.round.saturating_add(1);
        if next >= self.manifest.workload.rounds() {
            outputs.extend(self.finish(Outcome::Done));
        } else {
            outputs.extend(self.gather(cx, next, 0, Vec::new()));
        }
        Ok(outputs)
    }
}
