//! Partial decryptions of a frozen set: T holders are asked first, others step in for whoever is late
//! or wrong.

use quorate_crypto::merkle::Hash;

use super::{AggregatorJob, AggregatorOutput, Bound, Frozen, Outcome, Phase, Shares};
use crate::machine::{Context, Fact, Output};
use crate::refusal::{Code, Culprit, Refusal};
use crate::round::STEP_PARTIAL;
use crate::round::keying::JobKey;
use crate::round::messages::{
    BulkRef, Partial, RoundFields, ShareAsk, ShareRefused, request_hash, y_hash,
};
use crate::wire::{Name, Signed};

impl AggregatorJob {
    /// What holders are asked now, if anything.
    #[must_use]
    pub fn share_ask(&self) -> Option<ShareAsk> {
        let Phase::Releasing(bound) = &self.phase else {
            return None;
        };
        self.key.as_ref()?;
        Some(ShareAsk {
            freeze: bound.frozen.freeze.signed().clone(),
            promises: bound.frozen.promises.values().map(|p| p.signed().clone()).collect(),
            asked: bound.shares.asked.iter().cloned().collect(),
        })
    }

    /// Whether this holder's answer to the share ask of `label` is still wanted.
    #[must_use]
    pub fn wants_share(&self, holder: &Name) -> bool {
        let Phase::Releasing(bound) = &self.phase else {
            return false;
        };
        bound.shares.asked.contains(holder)
            && !bound.shares.partials.contains_key(holder)
            && !bound.shares.bad.contains(holder)
    }

    /// The holders in the order in which they are asked: members of the set first, since they are
    /// known to be there.
    fn holders_in_order(&self, frozen: &Frozen) -> Vec<Name> {
        let holders = self.key.as_ref().map(|key| key.keying().holders()).unwrap_or_default();
        let names = holders.iter().map(|holder| holder.party.clone());
        let (mut first, rest): (Vec<_>, Vec<_>) =
            names.partition(|name| frozen.attempt.headers.contains_key(name));
        first.extend(rest);
        first
    }

    pub(super) fn first_shares(&self, cx: &Context<'_>, frozen: &Frozen) -> Shares {
        let Some(spec) = self.manifest.threshold else {
            return Shares::default();
        };
        let limits = &self.manifest.deadlines;
        let asked = self.holders_in_order(frozen).into_iter().take(spec.threshold as usize);
        Shares {
            asked: asked.collect(),
            more_ms: cx.now_ms.saturating_add(limits.grace_ms.max(1)),
            end_ms: cx.now_ms.saturating_add(limits.collect_ms).saturating_add(limits.key_ms),
            ..Shares::default()
        }
    }

    /// The T partial decryptions that open the sum.
    pub(super) fn chosen_partials(&self, bound: &Bound) -> Vec<(Name, BulkRef)> {
        let needed = self.manifest.threshold.map_or(0, |spec| spec.threshold as usize);
        let partials = bound.shares.partials.iter().take(needed);
        partials.map(|(name, partial)| (name.clone(), partial.partial)).collect()
    }

    fn holder_key(&self, name: &Name) -> Result<quorate_crypto::keys::VerifyKey, Refusal> {
        let holders = self.key.as_ref().map(|key| key.keying().holders()).unwrap_or_default();
        let holder = holders.iter().find(|holder| holder.party == *name);
        holder
            .map(|holder| holder.verify)
            .ok_or_else(|| Refusal::new(Code::UnknownParty, "no holder of this job's key"))
    }

    /// Whether a partial decryption would be taken now; asked before its bytes are stored.
    ///
    /// # Errors
    /// [`Code::UnknownParty`], [`Code::BadSignature`], [`Code::WrongState`], [`Code::WrongLabel`],
    /// [`Code::WrongLength`], [`Code::Duplicate`].
    pub fn admit_partial(&self, partial: &Signed<Partial>) -> Result<Partial, Refusal> {
        let claimed = partial.peek()?;
        let verified = partial.verify(&self.holder_key(&claimed.holder)?)?;
        let (Phase::Releasing(bound) | Phase::Opening(bound)) = &self.phase else {
            return Err(Refusal::new(Code::WrongState, "no round waits for shares"));
        };
        let attempt = &bound.frozen.attempt;
        if verified.label != attempt.label {
            return Err(Refusal::new(Code::WrongLabel, "the share is for another label"));
        }
        let blame = |code, why: &str| {
            Refusal::new(code, why).blaming(Culprit::Party(claimed.holder.clone()))
        };
        let request =
            request_hash(&attempt.label, &bound.frozen.freeze.hash(), &y_hash(&bound.frozen.y));
        if verified.request != request {
            return Err(blame(Code::Difference, "a share for another set of this round"));
        }
        let expected = self.manifest.step_bytes(attempt.open.fields.round, STEP_PARTIAL)?;
        if verified.partial.len != expected {
            return Err(blame(Code::WrongLength, "a share has another length than the job fixes"));
        }
        if let Some(known) = bound.shares.partials.get(&claimed.holder)
            && known.signed() != partial
        {
            return Err(blame(Code::Duplicate, "a second share of one sum"));
        }
        if bound.shares.bad.contains(&claimed.holder) {
            return Err(Refusal::new(Code::WrongState, "this holder was passed over"));
        }
        Ok(claimed)
    }

    pub(super) fn partial(
        &mut self,
        partial: &Signed<Partial>,
    ) -> Result<Vec<AggregatorOutput>, Refusal> {
        let said = self.admit_partial(partial)?;
        let verified = partial.verify(&self.holder_key(&said.holder)?)?;
        let Phase::Releasing(bound) = &mut self.phase else {
            // Enough shares are being opened already.
            return Ok(Vec::new());
        };
        let RoundFields { round, attempt, .. } = bound.frozen.attempt.open.fields;
        if bound.shares.partials.insert(said.holder.clone(), verified).is_some() {
            return Ok(Vec::new());
        }
        let mut outputs =
            vec![Output::Log(Fact::of("share.held", round, attempt, said.holder.to_string()))];
        outputs.extend(self.try_opening());
        Ok(outputs)
    }

    /// A holder will not answer: it is passed over.
    pub(super) fn share_refused(
        &mut self,
        cx: &Context<'_>,
        refused: &Signed<ShareRefused>,
    ) -> Result<Vec<AggregatorOutput>, Refusal> {
        let claimed = refused.peek()?;
        let refused = refused.verify(&self.holder_key(&claimed.holder)?)?;
        let Phase::Releasing(bound) = &mut self.phase else {
            return Ok(Vec::new());
        };
        if refused.label != bound.frozen.attempt.label
            || !bound.shares.bad.insert(refused.holder.clone())
        {
            return Ok(Vec::new());
        }
        let RoundFields { round, attempt, .. } = bound.frozen.attempt.open.fields;
        bound.shares.partials.remove(&refused.holder);
        let note = format!("{}: {}", refused.holder, refused.refusal);
        let mut outputs = vec![Output::Log(Fact::of("share.refused", round, attempt, note))];
        outputs.extend(self.ask_more(cx));
        Ok(outputs)
    }

    /// A share was found wrong while the sum was opened: its holder is named and another steps in.
    pub(super) fn bad_share(
        &mut self,
        cx: &Context<'_>,
        mut bound: Bound,
        holder: &Name,
        refusal: &Refusal,
    ) -> Vec<AggregatorOutput> {
        let RoundFields { round, attempt, .. } = bound.frozen.attempt.open.fields;
        bound.shares.partials.remove(holder);
        bound.shares.bad.insert(holder.clone());
        self.phase = Phase::Releasing(bound);
        let mut outputs = vec![Output::Log(Fact::of(
            "share.bad",
            round,
            attempt,
            format!("{holder}: {refusal}"),
        ))];
        outputs.extend(self.ask_more(cx));
        // Others may have answered already.
        outputs.extend(self.try_opening());
        outputs
    }

    /// Asks as many further holders as answers are missing; without any left the round is lost.
    fn ask_more(&mut self, cx: &Context<'_>) -> Vec<AggregatorOutput> {
        let Phase::Releasing(bound) = &self.phase else {
            return Vec::new();
        };
        let order = self.holders_in_order(&bound.frozen);
        let needed = self.manifest.threshold.map_or(0, |spec| spec.threshold as usize);
        let usable = order.len().saturating_sub(bound.shares.bad.len());
        if usable < needed {
            let culprits = bound.shares.bad.iter().cloned().collect::<Vec<_>>();
            let mut why =
                Refusal::new(Code::QuorumLost, "too few holders are left to open the sum");
            why.concerns = culprits;
            return self.finish(Outcome::Failed(why));
        }
        let grace_ms = self.manifest.deadlines.grace_ms.max(1);
        let Phase::Releasing(bound) = &mut self.phase else {
            return Vec::new();
        };
        let shares = &mut bound.shares;
        let waiting = needed.saturating_sub(shares.partials.len());
        let fresh: Vec<Name> =
            order.into_iter().filter(|name| !shares.asked.contains(name)).take(waiting).collect();
        shares.more_ms = cx.now_ms.saturating_add(grace_ms);
        let RoundFields { round, attempt, .. } = bound.frozen.attempt.open.fields;
        let names: Vec<String> = fresh.iter().map(Name::to_string).collect();
        shares.asked.extend(fresh);
        if names.is_empty() {
            return Vec::new();
        }
        vec![Output::Log(Fact::of("share.stepping-in", round, attempt, names.join(", ")))]
    }

    /// Time passed while shares are missing.
    pub(super) fn shares_late(&mut self, cx: &Context<'_>) -> Vec<AggregatorOutput> {
        let (Phase::Releasing(bound), Some(spec)) = (&self.phase, self.manifest.threshold) else {
            return Vec::new();
        };
        if bound.shares.partials.len() >= spec.threshold as usize {
            return Vec::new();
        }
        if cx.now_ms >= bound.shares.end_ms {
            let why = Refusal::new(Code::QuorumLost, "too few holders answered in time");
            return self.finish(Outcome::Failed(why));
        }
        if cx.now_ms >= bound.shares.more_ms { self.ask_more(cx) } else { Vec::new() }
    }

    /// When further holders are asked, or the round is lost.
    pub(super) fn share_deadline(&self, bound: &Bound) -> Option<u64> {
        let spec = self.manifest.threshold?;
        let shares = &bound.shares;
        if shares.partials.len() >= spec.threshold as usize {
            return None;
        }
        let all = self.key.as_ref().map_or(0, |key| key.keying().holders().len());
        if shares.asked.len() < all {
            Some(shares.more_ms.min(shares.end_ms))
        } else {
            Some(shares.end_ms)
        }
    }

    /// The id of the job's threshold key; zero where there is none.
    #[must_use]
    pub fn key_id(&self) -> Hash {
        self.key.as_ref().map_or(Hash([0; 32]), JobKey::id)
    }
}
