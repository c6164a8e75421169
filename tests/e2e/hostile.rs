//! An aggregator that lies to its authorities: each lie is refused with its code and logged.

use anyhow::{Result, ensure};
use quorate_client::api::{AuthorityInfo, SumTable};
use quorate_client::engine::{StoredIdentity, now_ms};
use quorate_crypto::merkle::Hash;
use quorate_crypto::sum::{Label, Nonce};
use quorate_protocols::enrol::{Enroll, EnrollRequest, Enrolled};
use quorate_protocols::job::{Manifest, RosterEntry, roster_root};
use quorate_protocols::round::STEP_SUBMIT;
use quorate_protocols::round::messages::{
    BulkRef, Freeze, KeyRequest, Message, Promise, PromiseRequest, RoundFields, RoundOpen,
    SubmitHeader, TombstoneRequest,
};
use quorate_protocols::wire::{Signed, decode, encode};
use quorate_protocols::workload::Purpose;

use crate::harness::{Answered, World, logged, name, spec};

/// A party's keys, held by the test.
pub(crate) struct RawParty {
    pub(crate) keys: StoredIdentity,
    pub(crate) entry: RosterEntry,
}

impl RawParty {
    pub(crate) fn new(id: &str) -> Self {
        let keys = StoredIdentity::generate(0);
        let entry = RosterEntry {
            party: name(id),
            epoch: 0,
            verify: keys.identity.verify_key(),
            exchange: keys.identity.exchange_key(),
        };
        Self { keys, entry }
    }

    /// Enrols at an authority.
    pub(crate) async fn enrol(&self, url: &str) -> Result<Signed<Enrolled>> {
        let enroll = Enroll { tenant: name("t"), entry: self.entry.clone() };
        let request = EnrollRequest::new(enroll, &self.keys.identity, None);
        let answer = Answered::post(format!("{url}/v1/enrollments"), encode(&request)).await?;
        ensure!(answer.status == 200, "{}", answer.code());
        Ok(decode(&answer.body)?)
    }

    pub(crate) fn header(
        &self,
        manifest: &Manifest,
        label: Label,
        ciphertext: BulkRef,
    ) -> Signed<SubmitHeader> {
        let header = SubmitHeader {
            scheme: manifest.scheme,
            manifest: manifest.hash(),
            label,
            party: self.entry.party.clone(),
            epoch: 0,
            nonce: Nonce([7; 16]),
            ciphertext,
        };
        Signed::sign(header, &self.keys.identity).signed().clone()
    }
}

/// The test in the role of the aggregator, against the authorities of a [`World`].
struct Liar {
    keys: StoredIdentity,
    manifest: Manifest,
    parties: Vec<RawParty>,
    urls: Vec<String>,
}

impl Liar {
    /// Four enrolled parties and a job with a floor of three, signed off by every authority.
    async fn start(world: &World) -> Result<Self> {
        let urls: Vec<String> = world.authorities.iter().map(|a| a.url()).collect();
        let keys = StoredIdentity::generate(0);
        let mut authorities = Vec::new();
        for url in &urls {
            let info: AuthorityInfo =
                reqwest::get(format!("{url}/v1/authority")).await?.json().await?;
            authorities.push(info.key());
        }
        let mut spec = spec(4, 3, 8, 3);
        spec.sum = Some(SumTable { dim: 8, rounds: 3, max_abs: 1000 });
        let verify = keys.identity.verify_key();
        let manifest = spec.into_manifest(name("t"), verify, authorities, [3; 16])?;
        let parties: Vec<RawParty> = ["p0", "p1", "p2", "p3"].map(RawParty::new).into();
        for url in &urls {
            for party in &parties {
                let first = party.enrol(url).await?;
                ensure!(first == party.enrol(url).await?, "enrolment is not idempotent");
            }
            let register = Message::Register(Box::new(manifest.clone())).to_wire();
            let answer = Answered::post(format!("{url}/v1/jobs"), register).await?;
            ensure!(matches!(Message::from_wire(&answer.body)?, Message::Approval(_)));
        }
        Ok(Self { keys, manifest, parties, urls })
    }

    fn open(&self, round: u32, attempt: u16) -> (Signed<RoundOpen>, Label) {
        let roster: Vec<RosterEntry> = self.parties.iter().map(|p| p.entry.clone()).collect();
        let fields = RoundFields {
            manifest: self.manifest.hash(),
            round,
            attempt,
            purpose: Purpose::Sum,
            roster_root: roster_root(&roster),
            previous_result: Hash([0; 32]),
            model: Hash([u8::try_from(round).unwrap() + 1; 32]),
            dim: self.manifest.payload(round).unwrap().dim(),
            payload_type: self.manifest.payload(round).unwrap().type_id(),
            key: Hash([0; 32]),
        };
        let label = fields.label(&self.manifest);
        let deadline_ms = now_ms() + 60_000;
        let open = RoundOpen { fields, roster, deadline_ms, tombstones: Vec::new() };
        (Signed::sign(open, &self.keys.identity).signed().clone(), label)
    }

    /// A request for a promise on the first `members` parties of an attempt.
    fn request(
        &self,
        (open, label): &(Signed<RoundOpen>, Label),
        members: usize,
        signer: &StoredIdentity,
    ) -> PromiseRequest {
        let len = self.manifest.step_bytes(0, STEP_SUBMIT).unwrap();
        let ciphertext = BulkRef { len, root: Hash([9; 32]) };
        let members: Vec<_> = self.parties[..members]
            .iter()
            .map(|party| party.header(&self.manifest, *label, ciphertext))
            .collect();
        let y = (0..self.parties.len()).map(|i| u8::from(i < members.len())).collect();
        let freeze = Freeze { open: open.clone(), members, log_proof: Vec::new() };
        PromiseRequest { freeze: Signed::sign(freeze, &signer.identity).signed().clone(), y }
    }

    async fn ask(&self, authority: usize, what: &str, message: Message) -> Result<Answered> {
        let url = format!("{}/v1/jobs/{}/{what}", self.urls[authority], self.manifest.hash());
        Answered::post(url, message.to_wire()).await
    }

    async fn promise(&self, authority: usize, request: &PromiseRequest) -> Result<Answered> {
        self.ask(authority, "promises", Message::PromiseRequest(request.clone())).await
    }

    async fn key(
        &self,
        authority: usize,
        label: Label,
        promises: &[Signed<Promise>],
    ) -> Result<Answered> {
        let manifest = self.manifest.hash();
        let request = KeyRequest { manifest, label, promises: promises.to_vec() };
        self.ask(authority, "keys", Message::KeyRequest(request)).await
    }

    /// Checks a refusal's code, and that it is in the log of authority 0.
    async fn refused(&self, answer: Answered, status: u16, code: &str) -> Result<()> {
        assert_eq!((answer.code().as_str(), answer.status), (code, status));
        ensure!(logged(&self.urls[0], code).await?, "{code} is not in the log");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_gives_one_key_for_one_frozen_set_and_says_why_not_another() -> Result<()> {
    let world = World::start().await?;
    let liar = Liar::start(&world).await?;
    let first = liar.open(0, 0);
    let all = liar.request(&first, 4, &liar.keys);

    // A set below the floor.
    let few = liar.request(&first, 2, &liar.keys);
    liar.refused(liar.promise(0, &few).await?, 403, "BELOW_FLOOR").await?;
    // A set that the aggregator never froze: signed by another key.
    let forged = liar.request(&first, 4, &StoredIdentity::generate(0));
    liar.refused(liar.promise(0, &forged).await?, 403, "NOT_FROZEN").await?;
    // A key for a label whose set was never promised.
    liar.refused(liar.key(0, first.1, &[]).await?, 403, "NOT_FROZEN").await?;
    // A y that leaves a member out.
    let subset = PromiseRequest { y: vec![1, 1, 1, 0], ..all.clone() };
    liar.refused(liar.promise(0, &subset).await?, 400, "BAD_Y").await?;

    // The honest course: both promise, the same request gets the same bytes.
    let mut promises = Vec::new();
    for authority in 0..2 {
        let answer = liar.promise(authority, &all).await?;
        assert_eq!(answer.body, liar.promise(authority, &all).await?.body);
        let Message::Promise(promise) = Message::from_wire(&answer.body)? else {
            anyhow::bail!("no promise");
        };
        promises.push(promise);
    }
    // A key against one promise of two, and against one promise twice.
    liar.refused(liar.key(0, first.1, &promises[..1]).await?, 403, "BAD_PROMISES").await?;
    let twice = [promises[0].clone(), promises[0].clone()];
    liar.refused(liar.key(0, first.1, &twice).await?, 403, "BAD_PROMISES").await?;
    let key = liar.key(0, first.1, &promises).await?;
    ensure!(matches!(Message::from_wire(&key.body)?, Message::FuncKey(_)));
    assert_eq!(key.body, liar.key(0, first.1, &promises).await?.body);
    let bytes = format!("{}/v1/jobs/{}/keys/{:?}", liar.urls[0], liar.manifest.hash(), first.1);
    let chunk = reqwest::get(format!("{bytes}/chunks/0")).await?.bytes().await?;
    assert_eq!(chunk.len() as u64, liar.manifest.step_bytes(0, 1)?);

    // A second key for a subset under the same label, and under a fresh attempt.
    let subset = liar.request(&first, 3, &liar.keys);
    liar.refused(liar.promise(0, &subset).await?, 409, "LABEL_USED").await?;
    let retry = liar.request(&liar.open(0, 1), 3, &liar.keys);
    liar.refused(liar.promise(0, &retry).await?, 409, "MISSING_TOMBSTONES").await?;
    let bury = TombstoneRequest { manifest: liar.manifest.hash(), round: 0, attempt: 0 };
    let bury = Signed::sign(bury, &liar.keys.identity).signed().clone();
    let answer = liar.ask(0, "tombstones", Message::TombstoneRequest(bury)).await?;
    liar.refused(answer, 409, "RELEASED").await?;
    // The round after the next.
    let early = liar.request(&liar.open(2, 0), 4, &liar.keys);
    liar.refused(liar.promise(0, &early).await?, 409, "OUT_OF_ORDER").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_requests_to_an_authority_are_problems() -> Result<()> {
    let world = World::start().await?;
    let liar = Liar::start(&world).await?;
    let url = &liar.urls[0];
    let job = liar.manifest.hash();
    let unknown = format!("{url}/v1/jobs/{}/keys", Hash([5; 32]));
    let request = Message::KeyRequest(KeyRequest {
        manifest: job,
        label: Label([1; 32]),
        promises: Vec::new(),
    });
    assert_eq!(Answered::post(unknown, request.to_wire()).await?.code(), "UNKNOWN_JOB");
    ensure!(logged(url, "UNKNOWN_JOB").await?);
    let keys = format!("{url}/v1/jobs/{job}/keys");
    for body in [vec![], vec![0xff; 100], b"{}".to_vec()] {
        let code = Answered::post(keys.clone(), body).await?.code();
        assert!(["MALFORMED", "UNSUPPORTED_VERSION"].contains(&code.as_str()), "{code}");
    }
    let wrong = format!("{url}/v1/jobs/{job}/promises");
    assert_eq!(Answered::post(wrong, request.to_wire()).await?.code(), "MALFORMED");
    // Other keys under a name that is enrolled.
    let impostor = RawParty::new("p0");
    let enroll = Enroll { tenant: name("t"), entry: impostor.entry.clone() };
    let request = EnrollRequest::new(enroll, &impostor.keys.identity, None);
    let answer = Answered::post(format!("{url}/v1/enrollments"), encode(&request)).await?;
    assert_eq!(answer.code(), "LABEL_REUSE");
    ensure!(logged(url, "LABEL_REUSE").await?);
    Ok(())
}
