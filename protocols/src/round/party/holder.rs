//! A party as participant of the threshold key: its posts, and one partial decryption per round.

use quorate_crypto::merkle::Hash;
use quorate_crypto::sum::Label;
use quorate_crypto::threshold::KeyPost;
use serde::{Deserialize, Serialize};

use super::{PartyJob, PartyOutput, PartyWork, Phase};
use crate::checks::{Check, holds};
use crate::machine::{Bug, Context, Fact, Output, Peer};
use crate::refusal::{Code, Culprit, Refusal};
use crate::round::authority::KeyMember;
use crate::round::keying::{JobKey, Keying, PostWork};
use crate::round::messages::{
    BulkRef, KeyPosted, KeyTranscript, Message, Partial, ShareAsk, ShareRefused, request_hash,
    y_hash,
};
use crate::round::{
    STEP_PARTIAL, check_members, check_open, indicator, model_field, promises_agree,
};
use crate::wire::{Signed, Verified};

/// The latest call for a threshold key that this party holds a share of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Calling {
    keying: Keying,
    number: u32,
    /// Own posts, by step.
    posted: Vec<Verified<KeyPosted>>,
    /// The step whose post is being made.
    making: Option<u16>,
}

/// The one frozen set of a round that this holder answers for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Sharing {
    round: u32,
    label: Label,
    freeze: Hash,
    request: Hash,
    members: Vec<KeyMember>,
    answer: Option<Answer>,
    /// The aggregator has the answer.
    taken: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Answer {
    Partial(Verified<Partial>),
    Refused(Verified<ShareRefused>),
}

impl PartyJob {
    /// The job's threshold key, once it is complete and checked here.
    #[must_use]
    pub const fn job_key(&self) -> Option<&JobKey> {
        self.key.as_ref()
    }

    /// The id of the threshold key that labels must carry; zero where there is none.
    pub(super) fn key_id(&self) -> Hash {
        self.key.as_ref().map_or(Hash([0; 32]), JobKey::id)
    }

    /// Name of the state as participant of the threshold key, for reports; `None` for others.
    #[must_use]
    pub fn holder_state_name(&self) -> Option<&'static str> {
        match (&self.key, &self.calling, &self.sharing) {
            (_, _, Some(sharing)) if sharing.answer.is_none() => Some("Sharing"),
            (_, _, Some(sharing)) if !sharing.taken => Some("Answered"),
            (_, _, Some(_)) => Some("Taken"),
            (Some(key), _, None) => key.keying().holders().contains(&self.me).then_some("Keyed"),
            (None, Some(calling), None) if calling.making.is_some() => Some("Posting"),
            (None, Some(_), None) => Some("Posted"),
            (None, None, None) => None,
        }
    }

    /// What a participant of the key still has to do.
    pub(super) fn holder_requests(&self) -> Vec<PartyOutput> {
        let mut outputs = Vec::new();
        let open_call = self.calling.as_ref().filter(|_| self.key.is_none());
        if let Some(calling) = open_call {
            if let Some(step) = calling.making {
                outputs.push(Output::Work(PartyWork::Post(PostWork {
                    transcript: calling.keying.transcript(),
                    number: calling.number,
                    step,
                })));
            }
            outputs.extend(calling.posted.iter().filter(|p| calling.unseen(p)).map(|posted| {
                Output::Send {
                    to: Peer::Aggregator,
                    message: Message::KeyPost(posted.signed().clone()),
                }
            }));
        }
        if let Some(sharing) = &self.sharing {
            let send = |message| Output::Send { to: Peer::Aggregator, message };
            match &sharing.answer {
                None => outputs.push(Output::Work(PartyWork::Share {
                    round: sharing.round,
                    label: sharing.label,
                    members: sharing.members.clone(),
                })),
                Some(_) if sharing.taken => {}
                Some(Answer::Partial(partial)) => {
                    outputs.push(send(Message::Partial(partial.signed().clone(), Vec::new())));
                }
                Some(Answer::Refused(refused)) => {
                    outputs.push(send(Message::ShareRefused(refused.signed().clone())));
                }
            }
        }
        outputs
    }

    /// What was posted to the key so far. A holder posts when its step is open; a complete
    /// transcript is the job's key, for every party, once and for all.
    pub(super) fn key(&mut self, transcript: &KeyTranscript) -> Result<Vec<PartyOutput>, Refusal> {
        if self.key.is_some() {
            return Ok(Vec::new());
        }
        let keying = Keying::read(&self.manifest, transcript)?;
        let scheme = self.manifest.threshold_scheme()?;
        let Some((step, waits)) = keying.waits_for(scheme) else {
            let key = keying.complete(&self.manifest)?;
            let fact = Fact::job("key.accepted", format!("threshold key {}", key.id()));
            self.key = Some(key);
            return Ok(vec![Output::Log(fact)]);
        };
        let me = keying.holders().contains(&self.me);
        let Some(number) = keying.number(&self.manifest, &self.me.party).filter(|_| me) else {
            // Whoever posts nothing checks the complete key.
            return Ok(Vec::new());
        };
        let call = keying.call().hash();
        // Only what this party's post is made from, and once: a transcript grows by one post at a time,
        // and the scheme's checks of many posts are slow. A wrong post of the open step keeps nobody
        // from posting: the step must be complete for its sender to be named.
        let checked = self.calling.as_ref().is_some_and(|known| {
            known.keying.call().hash() == call && known.keying.seen(step) == keying.seen(step)
        });
        if !checked {
            keying.check_before(&self.manifest, step)?;
        }
        let mut posted = Vec::new();
        let mut making = None;
        if let Some(known) = &self.calling {
            if known.keying.call().hash() == call {
                // Older posts come again on a bad network: they say nothing new.
                let before = known.keying.transcript().posts;
                let (shown, seen) = (transcript.posts.len(), before.len());
                if shown < seen && transcript.posts.iter().all(|post| before.contains(post)) {
                    return Ok(self.holder_requests());
                }
                posted.clone_from(&known.posted);
                making = known.making;
            } else if keying.call().number <= known.keying.call().number {
                return Err(Refusal::new(Code::OutOfOrder, "a later key call was answered before"));
            }
        }
        let mine = |step: u16| posted.iter().any(|p: &Verified<KeyPosted>| p.post.step == step);
        // What was seen when a post was begun stays what it is made from.
        if let (Some(making), Some(known)) = (making, &self.calling) {
            if known.keying.seen(making) != keying.seen(making) {
                return Err(Refusal::new(Code::BadKey, "other posts are shown than before")
                    .blaming(Culprit::Aggregator));
            }
        } else if waits.contains(&number) && !mine(step) {
            making = Some(step);
        }
        self.calling = Some(Calling { keying, number, posted, making });
        Ok(self.holder_requests())
    }

    pub(super) fn posted(
        &mut self,
        cx: &Context<'_>,
        call: Hash,
        step: u16,
        bytes: Vec<u8>,
    ) -> Vec<PartyOutput> {
        let from = self.me.party.clone();
        let Some(calling) = self
            .calling
            .as_mut()
            .filter(|c| c.keying.call().hash() == call && c.making == Some(step))
        else {
            return Vec::new();
        };
        let post = KeyPost { step, from: calling.number, bytes };
        let posted = KeyPosted { call, from, seen: calling.keying.seen(step), post };
        calling.posted.push(Signed::sign(posted, cx.identity));
        calling.making = None;
        self.holder_requests()
    }

    /// The aggregator asks for a partial decryption (H1 to H6). One frozen set per round is answered
    /// for, with the same bytes each time.
    pub(super) fn share(&mut self, ask: &ShareAsk) -> Result<Vec<PartyOutput>, Refusal> {
        let blame = |code, why: &str| Refusal::new(code, why).blaming(Culprit::Aggregator);
        // H1: the aggregator's word for a frozen set of this job.
        let freeze = ask.freeze.verify(&self.manifest.aggregator).map_err(|refusal| {
            Refusal::new(Code::NotFrozen, format!("not a frozen set: {}", refusal.detail))
        })?;
        let hash = freeze.hash();
        if let Some(known) = &mut self.sharing
            && known.freeze == hash
        {
            known.taken = false;
            return Ok(self.holder_requests());
        }
        let checked = check_open(&self.manifest, &freeze.open)?;
        let (open, label) = (checked.open, checked.label);
        let fields = open.fields;
        // H2: under the key this party holds a share of.
        let holder = |key: &JobKey| key.keying().holders().contains(&self.me);
        if !self.key.as_ref().is_some_and(holder) || fields.key != self.key_id() {
            return Err(Refusal::new(Code::BadKey, "no share of this round's key is held here"));
        }
        // H3: the next round of the chain, from the same model.
        if fields.round != self.next_round {
            return Err(Refusal::new(Code::OutOfOrder, "the round is not the next one here"));
        }
        let model = model_field(fields.purpose, self.state, self.head);
        let same = fields.model == model && fields.previous_result == self.head;
        if !holds(Check::ModelHash, same) {
            return Err(blame(Code::ModelMismatch, "the set is of another model than ours"));
        }
        // H4: signed members, over the floor, with everyone's promise.
        let members = check_members(&self.manifest, &freeze, &open, &label)?;
        let size = u32::try_from(members.len()).unwrap_or(u32::MAX);
        if !holds(Check::Floor, size >= self.manifest.floor()) {
            return Err(blame(self.manifest.floor_code(), "a set of fewer members than the floor"));
        }
        let y = y_hash(&indicator(&open.roster, &members));
        let agree = promises_agree(&self.manifest, &ask.promises, (&label, &hash, &y));
        if !holds(Check::AllPromises, agree) {
            return Err(Refusal::new(
                Code::BadPromises,
                "a share needs the authority's promise for the frozen set",
            ));
        }
        // H5: one set per round.
        let other = self.sharing.as_ref().is_some_and(|known| known.round == fields.round);
        if !holds(Check::OneShare, !other) {
            return Err(blame(
                Code::Difference,
                "another set of this round was answered for: two sums would show parties",
            ));
        }
        // H6: a receipt binds the aggregator.
        if let Phase::Sent(sent) = &self.phase
            && sent.receipt.is_some()
            && sent.task.label == label
            && !members.iter().any(|member| member.party == self.me.party)
        {
            return Err(blame(Code::ReceiptBroken, "a receipt was given, yet the set omits us"));
        }
        self.sharing = Some(Sharing {
            round: fields.round,
            label,
            freeze: hash,
            request: request_hash(&label, &hash, &y),
            members,
            answer: None,
            taken: false,
        });
        let mut outputs: Vec<PartyOutput> =
            self.manifest.charge(fields.round).map(Output::Charge).into_iter().collect();
        outputs.push(Output::Log(Fact::of(
            "share.bound",
            fields.round,
            fields.attempt,
            format!("{size} members, freeze {hash}"),
        )));
        outputs.extend(self.holder_requests());
        Ok(outputs)
    }

    pub(super) fn shared(
        &mut self,
        cx: &Context<'_>,
        label: Label,
        outcome: Result<BulkRef, Refusal>,
    ) -> Result<Vec<PartyOutput>, Bug> {
        let holder = self.me.party.clone();
        let Some(sharing) =
            self.sharing.as_mut().filter(|known| known.label == label && known.answer.is_none())
        else {
            return Ok(Vec::new());
        };
        let request = sharing.request;
        let (answer, fact) = match outcome {
            Ok(partial) => {
                if self.manifest.step_bytes(sharing.round, STEP_PARTIAL) != Ok(partial.len) {
                    return Err(Bug("the partial decryption has another length".into()));
                }
                let body = Partial { holder, label, request, partial };
                (Answer::Partial(Signed::sign(body, cx.identity)), "share.given".to_owned())
            }
            Err(refusal) => {
                let fact = format!("share refused: {refusal}");
                let body = ShareRefused { holder, label, refusal };
                (Answer::Refused(Signed::sign(body, cx.identity)), fact)
            }
        };
        sharing.answer = Some(answer);
        let mut outputs = vec![Output::Log(Fact::job("share.answered", fact))];
        outputs.extend(self.holder_requests());
        Ok(outputs)
    }

    /// The aggregator has the answer for this label.
    pub(super) fn share_taken(&mut self, label: Label) {
        if let Some(sharing) = self.sharing.as_mut().filter(|known| known.label == label) {
            sharing.taken = true;
        }
    }
}

impl Calling {
    /// Whether the aggregator did not show this post yet.
    fn unseen(&self, posted: &Verified<KeyPosted>) -> bool {
        !self.keying.transcript().posts.contains(posted.signed())
    }
}
