//! A party as participant of a job's threshold key: its posts, its share, and one partial decryption
//! per round.

use std::sync::Arc;
use std::time::Instant;

use futures_util::{StreamExt, TryStreamExt, stream};
use quorate_crypto::secret::Secret;
use quorate_crypto::sum::{Label, SchemeError};
use quorate_crypto::threshold::KeySecret;
use quorate_protocols::machine::Bug;
use quorate_protocols::refusal::{Code, Culprit, Refusal};
use quorate_protocols::round::STEP_PARTIAL;
use quorate_protocols::round::authority::KeyMember;
use quorate_protocols::round::keying::PostWork;
use quorate_protocols::round::messages::{KeyTranscript, Message, Partial, ShareAsk, ShareRefused};
use quorate_protocols::round::party::Event;
use quorate_protocols::wire::Signed;

use super::run::{AGGREGATOR, Run, Told, elapsed_ms, keep, quick};
use super::{PartyError, PartyEvent};
use crate::api::{Hex32, key_mark};
use crate::bulk::{BulkReader, Transfer, download};
use crate::engine::{
    EngineError, bulk_info, bulk_ref, key_post, key_share, partial_to_bulk, reply_fault,
    sum_context,
};
use crate::store::Batch;
use crate::transport::CallError;

/// What the last post to a threshold key left, by job and number of the call; erased once the share
/// is known.
const KEY_SECRET: &str = "key-secret";
/// This party's share of a job's key, by job; erased with the end of the job.
const KEY_SHARE: &str = "key-share";

/// Replies fetched at a time.
const FETCHES: usize = 4;

impl Run<'_> {
    /// Looks at what was posted to the threshold key; each state of it is handled once.
    pub(super) async fn take_key(&mut self, transcript: KeyTranscript) -> Result<(), PartyError> {
        let mark = key_mark(&transcript);
        if self.key == Some(mark) || self.machine.job_key().is_some() {
            self.key = Some(mark);
            return Ok(());
        }
        let refusal = self.apply(Event::Key(transcript), Batch::new()).await?;
        self.key = Some(mark);
        if let Some(refusal) = refusal.filter(|r| r.culprits.contains(&Culprit::Aggregator)) {
            return Err(refusal.into());
        }
        if let Some(key) = self.machine.job_key() {
            let holder = key.holder(self.machine.name()).is_some();
            self.party.report(&PartyEvent::KeyAccepted { key: key.id().into(), holder });
        }
        Ok(())
    }

    /// Makes a post and stores it with the secret it leaves; says whether it did.
    pub(super) async fn post(&mut self, work: PostWork) -> Result<bool, PartyError> {
        let (start, step) = (Instant::now(), work.step);
        let call = work.transcript.call.hash();
        if self.no_post == Some((call, step)) {
            return Ok(false);
        }
        let slot = self.secret_slot(work.transcript.call.peek()?.number);
        let store = &self.party.store;
        let secret = store.get_record(KEY_SECRET, &slot).await?.unwrap_or_default();
        let identity = &self.party.keys.identity;
        let made = key_post(&self.manifest, work, identity, Secret::new(secret)).await;
        let (bytes, secret) = match made {
            // Another call may follow, without whoever left no way on.
            Err(EngineError::Scheme(error @ SchemeError::Key(_))) => {
                let (code, detail) = (Code::BadKey.as_str().to_owned(), error.to_string());
                self.party.report(&PartyEvent::Refused { code, detail });
                self.no_post = Some((call, step));
                return Ok(false);
            }
            made => made?,
        };
        // What earlier calls left is of no use any more.
        let batch = self.forget_key(Batch::new()).await?;
        let batch = batch.put_record(KEY_SECRET, &slot, secret.expose().clone());
        self.apply(Event::Posted { call, step, bytes }, batch).await?;
        self.party.report(&PartyEvent::KeyPosted { step, ms: elapsed_ms(start) });
        Ok(true)
    }

    /// Sends a post, until a transcript shows it: once per turn.
    pub(super) async fn send_key_post(&mut self, post: &Message) -> Result<bool, PartyError> {
        let told = self.tell("key-posts", post.to_wire()).await?;
        Ok(matches!(told, Told::Later))
    }

    /// Looks at a question to holders. A refused one is answered too, so that another holder is
    /// asked.
    pub(super) async fn take_share(&mut self, ask: ShareAsk) -> Result<(), PartyError> {
        let freeze = ask.freeze.hash();
        if self.refused_ask == Some(freeze) {
            // It is shown for as long as the round waits.
            self.backoff.wait().await;
            return Ok(());
        }
        let said = ask.freeze.clone();
        let (refusal, end) = match self.apply(Event::Share(ask), Batch::new()).await {
            Ok(None) => return Ok(()),
            Ok(Some(refusal)) => (refusal, None),
            Err(PartyError::Refused(refusal)) => (refusal.clone(), Some(refusal)),
            Err(error) => return Err(error),
        };
        self.refused_ask = Some(freeze);
        if let Ok(freeze) = said.verify(&self.manifest.aggregator) {
            let label = freeze.open.peek()?.fields.label(&self.manifest);
            let holder = self.machine.name().clone();
            let answer = ShareRefused { holder, label, refusal };
            let answer = Signed::sign(answer, &self.party.keys.identity);
            let answer = Message::ShareRefused(answer.signed().clone());
            if matches!(self.tell("shares", answer.to_wire()).await?, Told::Later) {
                self.refused_ask = None;
            }
        }
        end.map_or(Ok(()), |refusal| Err(refusal.into()))
    }

    /// Fetches the members' replies, checks and adds them, and stores the partial decryption of
    /// their sum, or who sent a wrong one; says whether it did.
    pub(super) async fn share(
        &mut self,
        round: u32,
        label: Label,
        members: &[KeyMember],
    ) -> Result<bool, PartyError> {
        let start = Instant::now();
        let space = self.share_space(round);
        let Some(replies) = self.fetch_replies(label, members, &space).await? else {
            // The round may be over, or the aggregator away: the next view tells.
            self.backoff.wait().await;
            return Ok(false);
        };
        let mut batch = Batch::new();
        let outcome = match self.key_share().await? {
            Err(refusal) => Err(refusal),
            Ok(share) => {
                let scheme = self.manifest.sum_scheme()?;
                let context = sum_context(&self.manifest, self.machine.job_key(), round, label)?;
                let mine = (self.party.keys.identity.as_ref(), &share);
                let output = (self.party.store.blobs(), space.as_str());
                let made =
                    partial_to_bulk(scheme, context, STEP_PARTIAL, mine, members, &replies, output);
                match made.await {
                    Ok(bulk) => {
                        batch = keep(&space, &bulk);
                        Ok(bulk_ref(&bulk))
                    }
                    Err(error) => Err(reply_fault(error, members)?),
                }
            }
        };
        match &outcome {
            Ok(partial) => {
                let (members, bytes, ms) = (members.len(), partial.len, elapsed_ms(start));
                self.party.report(&PartyEvent::Shared { round, members, bytes, ms });
            }
            Err(Refusal { code, detail, .. }) => {
                let (code, detail) = (code.as_str().to_owned(), detail.clone());
                self.party.report(&PartyEvent::Refused { code, detail });
            }
        }
        self.apply(Event::Shared { label, outcome }, batch).await?;
        Ok(true)
    }

    /// Sends the stored partial decryption until it was answered.
    pub(super) async fn send_partial(
        &mut self,
        partial: Signed<Partial>,
    ) -> Result<bool, PartyError> {
        let Partial { label, partial: bulk, .. } = partial.peek()?;
        let reader = self.reader(&self.share_space(self.machine.next_round()), &bulk).await?;
        let bytes = reader.read_range(0..bulk.len).await?;
        self.send_share(label, &Message::Partial(partial, bytes)).await
    }

    /// Sends the stored refusal until it was answered.
    pub(super) async fn send_share_refused(
        &mut self,
        refused: Signed<ShareRefused>,
    ) -> Result<bool, PartyError> {
        let label = refused.peek()?.label;
        self.send_share(label, &Message::ShareRefused(refused)).await
    }

    async fn send_share(&mut self, label: Label, message: &Message) -> Result<bool, PartyError> {
        match self.tell("shares", message.to_wire()).await? {
            Told::Later => return Ok(true),
            Told::Taken => {}
            // It is wanted no more, or asked for again in a moment.
            Told::Refused => self.backoff.wait().await,
        }
        self.apply(Event::ShareTaken { label }, Batch::new()).await?;
        Ok(true)
    }

    /// The members' replies, in order; `None` when they cannot be had now.
    async fn fetch_replies(
        &self,
        label: Label,
        members: &[KeyMember],
        space: &str,
    ) -> Result<Option<Vec<BulkReader>>, PartyError> {
        let base = format!("{}/submissions/{}", self.party.job_url(&self.job), Hex32::from(label));
        let wanted: Vec<_> = members
            .iter()
            .map(|member| (format!("{base}/{}", member.party), bulk_info(&member.ciphertext)))
            .collect();
        // Each transfer owns what it uses: borrowed, the whole could not move between threads.
        let tools = (self.party.http.client().clone(), self.party.store.blobs().clone());
        let space = space.to_owned();
        let fetched = stream::iter(wanted)
            .map(move |(url, info)| {
                let ((client, blobs), space) = (tools.clone(), space.clone());
                async move {
                    let how = Transfer { concurrency: 1, ..quick() };
                    download(&client, &url, &info, &blobs, &space, &how).await
                }
            })
            .buffered(FETCHES)
            .try_collect::<Vec<BulkReader>>()
            .await;
        match fetched {
            Ok(replies) => Ok(Some(replies)),
            Err(error) => {
                let error = if error.is_peer_fault() {
                    CallError::BadAnswer { peer: AGGREGATOR.to_owned(), why: error.to_string() }
                } else {
                    CallError::of_bulk(AGGREGATOR, error)?
                };
                self.party.report(&PartyEvent::Waiting { why: error.to_string() });
                Ok(None)
            }
        }
    }

    /// This party's share of the job's key, computed when it is first needed.
    pub(super) async fn key_share(&self) -> Result<Result<KeySecret, Refusal>, PartyError> {
        let store = &self.party.store;
        if let Some(share) = store.get_record(KEY_SHARE, &self.id).await? {
            return Ok(Ok(Secret::new(share)));
        }
        let no_key = || Bug("a share is wanted of a key not held here".to_owned());
        let key = self.machine.job_key().ok_or_else(no_key)?;
        let number = key.holder(self.machine.name()).ok_or_else(no_key)?;
        let slot = self.secret_slot(key.keying().call().number);
        let secret = Secret::new(store.get_record(KEY_SECRET, &slot).await?.unwrap_or_default());
        let identity = Arc::clone(&self.party.keys.identity);
        let share = match key_share(&self.manifest, key, number, &identity, secret).await {
            Err(EngineError::Scheme(error @ SchemeError::Key(_))) => {
                return Ok(Err(Refusal::new(Code::BadKey, error.to_string())));
            }
            share => share?,
        };
        let batch = self.forget_key(Batch::new()).await?;
        store.commit(batch.put_record(KEY_SHARE, &self.id, share.expose().clone())).await?;
        store.scrub().await?;
        Ok(Ok(share))
    }

    /// The writes that erase all secrets of this job's key.
    pub(super) async fn forget_key(&self, mut batch: Batch) -> Result<Batch, PartyError> {
        let secrets = self.party.store.list_records(KEY_SECRET, &format!("{}/", self.id)).await?;
        for (slot, _) in secrets {
            batch = batch.del_record(KEY_SECRET, &slot);
        }
        Ok(batch.del_record(KEY_SHARE, &self.id))
    }

    fn secret_slot(&self, call: u16) -> String {
        format!("{}/{call:05}", self.id)
    }
}
