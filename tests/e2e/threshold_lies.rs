//! Lies in threshold jobs: wrong replies, and an aggregator that wants a second sum of one round.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use quorate_client::api::{AuthorityInfo, PartyView};
use quorate_client::bulk::Opening;
use quorate_client::engine::{StoredIdentity, key_post, now_ms};
use quorate_crypto::merkle::{Hash, leaf_hash, root};
use quorate_crypto::secret::Secret;
use quorate_crypto::sum::{Label, Nonce};
use quorate_crypto::threshold::KeyPost;
use quorate_protocols::job::{JobPackage, Manifest, RosterEntry, roster_root};
use quorate_protocols::round::STEP_SUBMIT;
use quorate_protocols::round::keying::{JobKey, Keying, PostWork};
use quorate_protocols::round::messages::{
    BulkRef, Freeze, Join, KeyCall, KeyPosted, KeyRequest, Message, PromiseRequest, RoundFields,
    RoundOpen, reply_binding,
};
use quorate_protocols::wire::{Name, Signed, decode};
use quorate_protocols::workload::Purpose;

use crate::harness::{Answered, Gate, World, all_equal, check_exact, logged, name, until, vector};
use crate::hostile::RawParty;
use crate::threshold::elgamal;

const DIM: u64 = 6;
/// Nonce of the headers that [`RawParty`] signs.
const NONCE: Nonce = Nonce([7; 16]);

/// A party that the test plays, in a round that is open.
pub(crate) struct Sender {
    party: RawParty,
    base: String,
    manifest: Manifest,
    label: Label,
    key: JobKey,
}

impl Sender {
    /// Enrols and asks to be invited.
    pub(crate) async fn join(
        world: &World,
        job: Hash,
        id: &str,
    ) -> Result<(RawParty, String, Manifest)> {
        let base = format!("{}/v1/jobs/{job}", world.aggregator.url());
        let package = format!("{base}/package");
        until(async || reqwest::get(&package).await.is_ok_and(|a| a.status().is_success())).await?;
        let package: JobPackage = decode(&reqwest::get(&package).await?.bytes().await?)?;
        let party = RawParty::new(id);
        let certificates = vec![party.enrol(&world.authorities[0].url()).await?];
        let join = Join { manifest: job, entry: party.entry.clone(), certificates };
        let join = Signed::sign(join, &party.keys.identity).signed().clone();
        let answer = Answered::post(format!("{base}/parties"), Message::Join(join).to_wire());
        assert_eq!(answer.await?.status, 204);
        Ok((party, base, package.manifest))
    }

    /// Waits for the round.
    async fn open((party, base, manifest): (RawParty, String, Manifest)) -> Result<Self> {
        let view = async || -> Result<PartyView> {
            Ok(decode(&reqwest::get(format!("{base}/view")).await?.bytes().await?)?)
        };
        until(async || view().await.is_ok_and(|view| view.open.is_some())).await?;
        let view = view().await?;
        let key = JobKey::read(&manifest, &view.key.context("no key is shown")?)?;
        let open = view.open.context("no round is open")?.verify(&manifest.aggregator)?;
        let label = open.fields.label(&manifest);
        Ok(Self { party, base, manifest, label, key })
    }

    /// A reply with this party's vector, bound to `bound`.
    fn reply(&self, bound: &Name) -> Result<Vec<u8>> {
        let scheme = self.manifest.threshold_scheme()?;
        let shape = self.manifest.shape(0)?;
        let binding = reply_binding(&self.label, bound, &NONCE);
        let head = [1];
        let values = [&head[..], &vector(self.party.entry.party.as_str(), 0, DIM)].concat();
        let mut out = vec![0; scheme.reply_bytes(&shape).context("no length")?];
        let seed = Secret::new([5; 32]);
        scheme.load(self.key.public())?.encrypt(&shape, &binding, &values, &seed, &mut out)?;
        Ok(out)
    }

    fn place(&self) -> String {
        format!("{}/submissions/{:?}/{}", self.base, self.label, self.party.entry.party)
    }

    /// Uploads a reply whole and asks for its receipt.
    async fn submit(&self, reply: &[u8]) -> Result<Answered> {
        let leaf = leaf_hash(reply);
        let ciphertext = BulkRef { len: reply.len() as u64, root: root(&[leaf]) };
        let header = self.party.header(&self.manifest, self.label, ciphertext);
        let opening = Opening { header: header.to_wire(), leaves: leaf.0.to_vec() }.encode()?;
        let answer = Answered::post(self.place(), opening).await?;
        ensure!(answer.status == 200, "{}", answer.code());
        let put = reqwest::Client::new().put(format!("{}/chunks/0", self.place()));
        ensure!(Answered::of(put.body(reply.to_vec())).await?.status == 204);
        Answered::post(format!("{}/complete", self.place()), Vec::new()).await
    }

    async fn get(&self, what: &str) -> Result<Answered> {
        Answered::of(reqwest::Client::new().get(format!("{}/{what}", self.place()))).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_reply_names_its_sender_who_may_send_a_right_one() -> Result<()> {
    let world = World::one(None).await?;
    let job = world.create(&elgamal(4, 1, 3, 2)).await?;
    // The liar is last by name, so the holders are the others.
    let joined = Sender::join(&world, job, "p3").await?;
    let others = Gate::default();
    let mut running = Vec::new();
    for party in ["p0", "p1", "p2"] {
        let others = others.clone();
        let hold = move |_| {
            others.pass();
            Ok(())
        };
        running.push(world.sum(party, job, DIM, hold).await?);
    }
    let sender = Sender::open(joined).await?;
    let right = sender.reply(&sender.party.entry.party)?;
    let mut tampered = right.clone();
    *tampered.last_mut().context("empty")? ^= 1;
    let mut foreign = right.clone();
    foreign[40] ^= 1;
    let copied = sender.reply(&name("p0"))?;
    for wrong in [tampered, foreign, copied] {
        let answer = sender.submit(&wrong).await?;
        assert_eq!((answer.code().as_str(), answer.status), ("BAD_CT", 422));
        let problem: serde_json::Value = serde_json::from_slice(&answer.body)?;
        assert_eq!(problem["culprits"], serde_json::json!(["party:p3"]));
        // Nothing of it is kept.
        assert_eq!(sender.get("missing").await?.code(), "UNKNOWN_ROUND");
        ensure!(world.status(job).await?.submitted.is_empty());
    }
    ensure!(logged(&world.aggregator.url(), "BAD_CT").await?);
    let receipt = sender.submit(&right).await?;
    ensure!(matches!(Message::from_wire(&receipt.body)?, Message::Receipt(_)));
    let again = Answered::post(format!("{}/complete", sender.place()), Vec::new()).await?;
    assert_eq!(again.body, receipt.body);
    // While the round is open, nobody reads another's reply.
    for what in ["leaves", "chunks/0"] {
        assert_eq!(sender.get(what).await?.code(), "UNKNOWN_ROUND");
    }
    others.open();
    check_exact(&all_equal(running).await?, 1, DIM, 4)
}

/// The test in the role of the aggregator, with a complete threshold key.
struct Liar {
    keys: StoredIdentity,
    manifest: Arc<Manifest>,
    parties: Vec<RawParty>,
    url: String,
    key: JobKey,
}

impl Liar {
    async fn start(world: &World) -> Result<Self> {
        let url = world.authorities[0].url();
        let keys = StoredIdentity::generate(0);
        let info: AuthorityInfo = reqwest::get(format!("{url}/v1/authority")).await?.json().await?;
        let verify = keys.identity.verify_key();
        let manifest =
            elgamal(3, 3, 3, 2).into_manifest(name("t"), verify, vec![info.key()], [3; 16])?;
        let manifest = Arc::new(manifest);
        let parties: Vec<RawParty> = ["p0", "p1", "p2", "p3"].map(RawParty::new).into();
        for party in &parties {
            party.enrol(&url).await?;
        }
        let register = Message::Register(Box::new((*manifest).clone())).to_wire();
        let answer = Answered::post(format!("{url}/v1/jobs"), register).await?;
        ensure!(matches!(Message::from_wire(&answer.body)?, Message::Approval(_)));
        let key = make_key(&url, &keys, &manifest, &parties).await?;
        Ok(Self { keys, manifest, parties, url, key })
    }

    fn request(&self, members: usize, key: Hash) -> (PromiseRequest, Label) {
        let roster: Vec<RosterEntry> = self.parties.iter().map(|p| p.entry.clone()).collect();
        let payload = self.manifest.payload(0).unwrap();
        let fields = RoundFields {
            manifest: self.manifest.hash(),
            round: 0,
            attempt: 0,
            purpose: Purpose::Sum,
            roster_root: roster_root(&roster),
            previous_result: Hash([0; 32]),
            model: Hash([1; 32]),
            dim: payload.dim(),
            payload_type: payload.type_id(),
            key,
        };
        let label = fields.label(&self.manifest);
        let deadline_ms = now_ms() + 60_000;
        let open = RoundOpen { fields, roster, deadline_ms, tombstones: Vec::new() };
        let open = Signed::sign(open, &self.keys.identity).signed().clone();
        let len = self.manifest.step_bytes(0, STEP_SUBMIT).unwrap();
        let ciphertext = BulkRef { len, root: Hash([9; 32]) };
        let header = |party: &RawParty| party.header(&self.manifest, label, ciphertext);
        let members: Vec<_> = self.parties[..members].iter().map(header).collect();
        let y = (0..self.parties.len()).map(|i| u8::from(i < members.len())).collect();
        let freeze = Freeze { open, members, log_proof: Vec::new() };
        let freeze = Signed::sign(freeze, &self.keys.identity).signed().clone();
        (PromiseRequest { freeze, y }, label)
    }

    async fn ask(&self, what: &str, message: Message) -> Result<Answered> {
        let url = format!("{}/v1/jobs/{}/{what}", self.url, self.manifest.hash());
        Answered::post(url, message.to_wire()).await
    }
}

/// Plays all holders, and asks the authority for its post.
async fn make_key(
    url: &str,
    keys: &StoredIdentity,
    manifest: &Arc<Manifest>,
    parties: &[RawParty],
) -> Result<JobKey> {
    let holders: Vec<RosterEntry> = parties[..3].iter().map(|p| p.entry.clone()).collect();
    let call = KeyCall { manifest: manifest.hash(), number: 0, holders, network: None };
    let call = Signed::sign(call, &keys.identity);
    let mut keying = Keying::new(manifest, call.signed())?;
    let mut secrets: Vec<Secret<Vec<u8>>> = (0..3).map(|_| Secret::new(Vec::new())).collect();
    let scheme = manifest.threshold_scheme()?;
    let ask = format!("{url}/v1/jobs/{}/key-posts", manifest.hash());
    let ask = |keying: &Keying| {
        Answered::post(ask.clone(), Message::KeyAsk(Box::new(keying.transcript())).to_wire())
    };
    assert_eq!(ask(&keying).await?.code(), "OUT_OF_ORDER", "the holders have not posted");
    while let Some((step, waits)) = keying.waits_for(scheme) {
        if waits == [0] {
            break;
        }
        for number in waits {
            let index = usize::try_from(number)? - 1;
            let identity = &parties[index].keys.identity;
            let work = PostWork { transcript: keying.transcript(), number, step };
            let secret = std::mem::replace(&mut secrets[index], Secret::new(Vec::new()));
            let (bytes, secret) = key_post(manifest, work, identity, secret).await?;
            secrets[index] = secret;
            let post = KeyPosted {
                call: call.hash(),
                from: parties[index].entry.party.clone(),
                seen: keying.seen(step),
                post: KeyPost { step, from: number, bytes },
            };
            keying.push(manifest, Signed::sign(post, identity).signed())?;
        }
    }
    let answer = ask(&keying).await?;
    let Message::KeyPost(post) = Message::from_wire(&answer.body)? else {
        bail!("no post");
    };
    assert_eq!(ask(&keying).await?.body, answer.body, "the same post again");
    keying.push(manifest, &post)?;
    Ok(keying.complete(manifest)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_opens_one_set_of_a_round_and_fetches_only_where_it_was_told() -> Result<()> {
    let world = World::one(None).await?;
    let liar = Liar::start(&world).await?;
    let promise = async |members: usize, key: Hash| {
        liar.ask("promises", Message::PromiseRequest(liar.request(members, key).0)).await
    };
    let id = liar.key.id();
    let answer = promise(2, id).await?;
    assert_eq!((answer.code().as_str(), answer.status), ("SET_TOO_SMALL", 403));
    let answer = promise(4, Hash([0; 32])).await?;
    assert_eq!((answer.code().as_str(), answer.status), ("BAD_KEY", 422));
    let (all, label) = liar.request(4, id);
    let answer = liar.ask("promises", Message::PromiseRequest(all.clone())).await?;
    let Message::Promise(promised) = Message::from_wire(&answer.body)? else {
        bail!("no promise");
    };
    let answer = promise(3, id).await?;
    assert_eq!((answer.code().as_str(), answer.status), ("DIFFERENCE", 409));
    ensure!(logged(&liar.url, "DIFFERENCE").await?);
    // The replies are at no address that the operator gave: nothing leaves.
    let manifest = liar.manifest.hash();
    let request = KeyRequest { manifest, label, promises: vec![promised] };
    let answer = liar.ask("keys", Message::KeyRequest(request)).await?;
    assert_eq!((answer.code().as_str(), answer.status), ("UNAVAILABLE", 503));
    let bytes = format!("{}/v1/jobs/{manifest}/keys/{label:?}/leaves", liar.url);
    let bytes = Answered::of(reqwest::Client::new().get(bytes)).await?;
    assert_eq!(bytes.code(), "UNKNOWN_ROUND");
    // A later call would make another key, under which the round could be opened again.
    let holders = liar.parties[..3].iter().map(|p| p.entry.clone()).collect();
    let call = KeyCall { manifest, number: 1, holders, network: None };
    let call = Signed::sign(call, &liar.keys.identity);
    let keying = Keying::new(&liar.manifest, call.signed())?;
    let answer = liar.ask("key-posts", Message::KeyAsk(Box::new(keying.transcript()))).await?;
    assert_eq!((answer.code().as_str(), answer.status), ("WRONG_STATE", 409));
    Ok(())
}
