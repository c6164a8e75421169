//! Wrong partial decryptions over HTTP: each names its holder, another one steps in, and the sum is
//! still exact.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quorate_client::api::{PartyView, ThresholdStatus};
use quorate_client::engine::{key_post, key_share};
use quorate_crypto::merkle::{Hash, leaf_hash, root};
use quorate_crypto::secret::Secret;
use quorate_crypto::threshold::{KeyPost, KeySecret};
use quorate_protocols::job::Manifest;
use quorate_protocols::round::keying::{JobKey, Keying, PostWork};
use quorate_protocols::round::messages::{
    BulkRef, KeyPosted, Message, Partial, ShareAsk, request_hash, y_hash,
};
use quorate_protocols::wire::{Signed, decode};
use serde_json::{Value, json};

use crate::harness::{Answered, World, all_equal, check_exact, until};
use crate::hostile::RawParty;
use crate::threshold::elgamal;
use crate::threshold_lies::Sender;

const DIM: u64 = 6;

/// A holder that the test plays. It submits nothing, and is honest while the key is made.
struct Holder {
    party: RawParty,
    base: String,
    manifest: Arc<Manifest>,
    secret: KeySecret,
}

impl Holder {
    async fn join(world: &World, job: Hash, id: &str) -> Result<Self> {
        let (party, base, manifest) = Sender::join(world, job, id).await?;
        let secret = Secret::new(Vec::new());
        Ok(Self { party, base, manifest: Arc::new(manifest), secret })
    }

    async fn view(&self) -> Result<PartyView> {
        let url = format!("{}/view?holder={}", self.base, self.party.entry.party);
        Ok(decode(&reqwest::get(url).await?.error_for_status()?.bytes().await?)?)
    }

    /// Makes its posts as their steps open, until the key is complete.
    async fn make_key(&mut self) -> Result<JobKey> {
        let identity = &self.party.keys.identity;
        loop {
            if let Some(transcript) = self.view().await?.key {
                let keying = Keying::read(&self.manifest, &transcript)?;
                let Some((step, waits)) = keying.waits_for(self.manifest.threshold_scheme()?)
                else {
                    return Ok(keying.complete(&self.manifest)?);
                };
                let from = &self.party.entry.party;
                let number = keying.number(&self.manifest, from).context("no holder")?;
                if waits.contains(&number) {
                    let work = PostWork { transcript, number, step };
                    let secret = std::mem::replace(&mut self.secret, Secret::new(Vec::new()));
                    let (bytes, secret) = key_post(&self.manifest, work, identity, secret).await?;
                    self.secret = secret;
                    let (call, seen) = (keying.call().hash(), keying.seen(step));
                    let post = KeyPost { step, from: number, bytes };
                    let post = KeyPosted { call, from: from.clone(), seen, post };
                    let post = Message::KeyPost(Signed::sign(post, identity).signed().clone());
                    let url = format!("{}/key-posts", self.base);
                    let answer = Answered::post(url, post.to_wire()).await?;
                    ensure!(answer.status == 204, "{}", answer.code());
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until a share is wanted from this holder.
    async fn asked(&self) -> Result<ShareAsk> {
        until(async || self.view().await.is_ok_and(|view| view.share.is_some())).await?;
        self.view().await?.share.context("asked no more")
    }

    /// This holder's right partial decryption.
    async fn partial(&self, key: &JobKey, ask: &ShareAsk) -> Result<Vec<u8>> {
        let scheme = self.manifest.threshold_scheme()?;
        let shape = self.manifest.shape(0)?;
        let label = ask.freeze.peek()?.open.peek()?.fields.label(&self.manifest);
        let public = scheme.load(key.public())?;
        let mut sum = public.sum(&shape);
        for member in ask.freeze.peek()?.members {
            let party = member.peek()?.party;
            let url = format!("{}/submissions/{label:?}/{party}/chunks/0", self.base);
            sum.add(&reqwest::get(url).await?.error_for_status()?.bytes().await?)?;
        }
        let number = key.holder(&self.party.entry.party).context("no holder")?;
        let secret = Secret::new(self.secret.expose().clone());
        let identity = &self.party.keys.identity;
        let share = key_share(&self.manifest, key, number, identity, secret).await?;
        let mut out = vec![0; scheme.partial_bytes(&shape).context("no length")?];
        let seed = Secret::new([3; 32]);
        public.partial(&shape, &label.0, &share, sum.as_ref(), &seed, &mut out)?;
        Ok(out)
    }

    /// Sends `sent` as the share that this holder signed as `signed`.
    async fn send(&self, ask: &ShareAsk, signed: &[u8], sent: Vec<u8>) -> Result<Answered> {
        let freeze = ask.freeze.peek()?;
        let open = freeze.open.peek()?;
        let label = open.fields.label(&self.manifest);
        let members: Vec<_> =
            freeze.members.iter().map(|m| Ok(m.peek()?.party)).collect::<Result<_>>()?;
        let y: Vec<u8> =
            open.roster.iter().map(|entry| u8::from(members.contains(&entry.party))).collect();
        let partial = Partial {
            holder: self.party.entry.party.clone(),
            label,
            request: request_hash(&label, &ask.freeze.hash(), &y_hash(&y)),
            partial: BulkRef { len: signed.len() as u64, root: root(&[leaf_hash(signed)]) },
        };
        let partial = Signed::sign(partial, &self.party.keys.identity).signed().clone();
        let message = Message::Partial(partial, sent).to_wire();
        Answered::post(format!("{}/shares", self.base), message).await
    }
}

/// The bodies of the aggregator's facts that say `what`.
async fn bodies(world: &World, what: &str) -> Result<Vec<Value>> {
    let facts = world.facts(&world.aggregator).await?;
    let of_kind = facts.into_iter().filter(|fact| fact["predicate"] == what);
    Ok(of_kind.map(|fact| fact["body"].clone()).collect())
}

async fn shares(world: &World, job: Hash) -> Result<ThresholdStatus> {
    world.status(job).await?.threshold.context("a threshold job")
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_and_copied_shares_name_their_holder_and_the_sum_is_still_exact() -> Result<()> {
    let world = World::one(None).await?;
    // The first three by name hold the key, two of whom open; only the last two submit.
    let job = world.create(&elgamal(2, 1, 3, 2)).await?;
    let mut liar = Holder::join(&world, job, "p0").await?;
    let mut honest = Holder::join(&world, job, "p1").await?;
    let real = world.sum("p2", job, DIM, |_| Ok(())).await?;
    until(async || shares(&world, job).await.is_ok_and(|s| s.key_calls == 1)).await?;
    let running = vec![real, world.sum("p3", job, DIM, |_| Ok(())).await?];
    until(async || world.status(job).await.is_ok_and(|s| s.joined.len() == 4)).await?;
    let (key, _) = tokio::try_join!(liar.make_key(), honest.make_key())?;

    // p2, a member, is asked first, and p0 beside it.
    let ask = liar.asked().await?;
    assert_eq!(shares(&world, job).await?.asked, ["p0", "p2"].map(crate::harness::name));
    let (own, copied) = (liar.partial(&key, &ask).await?, honest.partial(&key, &ask).await?);
    let named = json!(["party:p0"]);
    // Another's share under one's own signature.
    let answer = liar.send(&ask, &copied, copied.clone()).await?;
    assert_eq!((answer.code().as_str(), answer.status), ("BAD_SHARE", 422));
    let problem: Value = serde_json::from_slice(&answer.body)?;
    assert_eq!(problem["culprits"], named);
    // Other bytes than those signed could come from anyone: nobody is named.
    let answer = liar.send(&ask, &own, copied).await?;
    assert_eq!(answer.code(), "MALFORMED");
    // Of another length than the job fixes.
    let answer = liar.send(&ask, &own[1..], own[1..].to_vec()).await?;
    assert_eq!(answer.code(), "WRONG_LENGTH");
    // Nothing of these is kept.
    ensure!(!shares(&world, job).await?.held.contains(&liar.party.entry.party));

    // One's own number with a wrong decryption: it shows when the sum is opened.
    let mut wrong = own.clone();
    *wrong.last_mut().context("empty")? ^= 1;
    assert_eq!(liar.send(&ask, &wrong, wrong.clone()).await?.status, 204);
    until(async || shares(&world, job).await.is_ok_and(|s| !s.passed_over.is_empty())).await?;
    assert_eq!(shares(&world, job).await?.passed_over, [crate::harness::name("p0")]);
    let bad = bodies(&world, "share.bad").await?;
    assert_eq!(bad.len(), 1, "{bad:?}");
    ensure!(bad[0]["note"].as_str().is_some_and(|note| note.starts_with("p0: ")), "{bad:?}");
    let refused = bodies(&world, "refused").await?;
    let of_shares: Vec<_> = refused.iter().filter(|body| body["code"] == "BAD_SHARE").collect();
    ensure!(!of_shares.is_empty() && of_shares.iter().all(|body| body["culprits"] == named));
    // It has no second try.
    let answer = liar.send(&ask, &own, own.clone()).await?;
    assert_eq!(answer.code(), "WRONG_STATE");

    // p1 steps in.
    let ask = honest.asked().await?;
    let stepping = bodies(&world, "share.stepping-in").await?;
    assert_eq!(stepping.iter().map(|body| &body["note"]).collect::<Vec<_>>(), ["p1"]);
    let right = honest.partial(&key, &ask).await?;
    assert_eq!(honest.send(&ask, &right, right.clone()).await?.status, 204);
    let sums = all_equal(running).await?;
    check_exact(&sums, 1, DIM, 2)?;
    assert_eq!(sums[0].members, ["p2", "p3"].map(crate::harness::name));
    Ok(())
}
