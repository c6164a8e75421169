//! Uploads by hand: cut and resumed, across a restart, with wrong lengths, contents and jobs.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use quorate_client::api::{JobOutcome, JobSpec, PartyView};
use quorate_client::bulk::{Missing, Opening};
use quorate_crypto::merkle::{CHUNK_BYTES, Hash, leaf_hash, root};
use quorate_crypto::sum::Label;
use quorate_protocols::job::{JobPackage, Manifest};
use quorate_protocols::round::STEP_SUBMIT;
use quorate_protocols::round::messages::{BulkRef, Join, Message, SubmitHeader};
use quorate_protocols::wire::{Signed, decode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Answered, World, logged, spec, until};
use crate::hostile::RawParty;

/// Coordinates of the job: ciphertexts of three chunks.
const DIM: u64 = 300_000;

/// A job whose first round is open for three parties that this test plays.
struct Open {
    world: World,
    base: String,
    manifest: Manifest,
    label: Label,
    parties: Vec<RawParty>,
}

impl Open {
    async fn start() -> Result<Self> {
        Self::of(&spec(3, 3, DIM, 1)).await
    }

    async fn of(spec: &JobSpec) -> Result<Self> {
        let world = World::start().await?;
        let job = world.create(spec).await?;
        let base = format!("{}/v1/jobs/{job}", world.aggregator.url());
        let package = format!("{base}/package");
        until(async || reqwest::get(&package).await.is_ok_and(|a| a.status().is_success())).await?;
        let package: JobPackage = decode(&reqwest::get(&package).await?.bytes().await?)?;
        let manifest = package.manifest;
        let parties: Vec<RawParty> = ["p0", "p1", "p2"].map(RawParty::new).into();
        for party in &parties {
            let mut certificates = Vec::new();
            for authority in &world.authorities {
                certificates.push(party.enrol(&authority.url()).await?);
            }
            let entry = party.entry.clone();
            let join = Join { manifest: manifest.hash(), entry, certificates };
            let join = Signed::sign(join, &party.keys.identity).signed().clone();
            let answer =
                Answered::post(format!("{base}/parties"), Message::Join(join).to_wire()).await?;
            ensure!(answer.status == 204, "{}", answer.code());
        }
        let view = reqwest::get(format!("{base}/view?wait_ms=20000")).await?.bytes().await?;
        let view: PartyView = decode(&view)?;
        let open = view.open.context("no round is open")?.verify(&manifest.aggregator)?;
        let label = open.fields.label(&manifest);
        Ok(Self { world, base, manifest, label, parties })
    }

    fn place(&self, party: usize) -> String {
        let party = &self.parties[party].entry.party;
        format!("{}/submissions/{:?}/{party}", self.base, self.label)
    }

    /// An opening of an upload of these chunks, as party `party` signs it.
    fn opening(
        &self,
        party: usize,
        len: u64,
        chunks: &[Vec<u8>],
    ) -> (Signed<SubmitHeader>, Vec<u8>) {
        let leaves: Vec<Hash> = chunks.iter().map(|chunk| leaf_hash(chunk)).collect();
        let ciphertext = BulkRef { len, root: root(&leaves) };
        let header = self.parties[party].header(&self.manifest, self.label, ciphertext);
        let leaves = leaves.iter().flat_map(|leaf| leaf.0).collect();
        let opening = Opening { header: header.to_wire(), leaves }.encode().unwrap();
        (header, opening)
    }

    async fn missing(&self, party: usize) -> Result<Vec<(u64, u64)>> {
        let answer = reqwest::get(format!("{}/missing", self.place(party))).await?;
        let missing: Missing = answer.error_for_status()?.json().await?;
        Ok(missing.missing)
    }

    async fn put(&self, party: usize, index: usize, chunk: &[u8]) -> Result<Answered> {
        let url = format!("{}/chunks/{index}", self.place(party));
        Answered::of(reqwest::Client::new().put(url).body(chunk.to_vec())).await
    }

    async fn complete(&self, party: usize) -> Result<Answered> {
        Answered::post(format!("{}/complete", self.place(party)), Vec::new()).await
    }
}

/// The ciphertext of a party, which here is noise.
fn chunks(len: u64, seed: u8) -> Vec<Vec<u8>> {
    // Multiplicative hashing: no two chunks are alike.
    let noise = |i: u64| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_le_bytes()[7] ^ seed;
    let bytes: Vec<u8> = (0..len).map(noise).collect();
    bytes.chunks(CHUNK_BYTES).map(<[u8]>::to_vec).collect()
}

/// Files with chunks under a folder.
fn chunk_files(dir: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            count += chunk_files(&path)?;
        } else if path.extension().is_some_and(|ext| ext == "chunk") {
            count += 1;
        }
    }
    Ok(count)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_resumed_after_a_cut_and_a_restart_and_noise_opens_nothing() -> Result<()> {
    let mut open = Open::start().await?;
    let len = open.manifest.step_bytes(0, STEP_SUBMIT)?;
    let parts = chunks(len, 1);
    assert_eq!(parts.len(), 3);
    let (header, opening) = open.opening(0, len, &parts);
    let answer = Answered::post(open.place(0), opening.clone()).await?;
    let missing: Missing = serde_json::from_slice(&answer.body)?;
    assert_eq!(missing.missing, [(0, 3)]);
    assert_eq!(open.put(0, 1, &parts[1]).await?.status, 204);
    assert_eq!(open.missing(0).await?, [(0, 1), (2, 3)]);

    // A connection that is cut in the middle of a chunk.
    let path = open.place(0).replace(&open.world.aggregator.url(), "");
    let mut stream = TcpStream::connect(open.world.aggregator.addr()).await?;
    let head = format!(
        "PUT {path}/chunks/0 HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        parts[0].len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&parts[0][..parts[0].len() / 2]).await?;
    drop(stream);
    // Wrong content, wrong length, no such chunk, and too early to complete.
    assert_eq!(open.put(0, 0, &parts[1]).await?.code(), "BULK_WRONG_CHUNK");
    assert_eq!(open.put(0, 2, &parts[1]).await?.code(), "BODY_TOO_LARGE");
    assert_eq!(open.put(0, 0, &parts[0][1..]).await?.code(), "BULK_CHUNK_LENGTH");
    assert_eq!(open.put(0, 3, &parts[2]).await?.code(), "BULK_OUT_OF_RANGE");
    assert_eq!(open.complete(0).await?.code(), "BULK_INCOMPLETE");
    assert_eq!(open.missing(0).await?, [(0, 1), (2, 3)]);

    open.world.aggregator.restart().await?;
    assert_eq!(open.missing(0).await?, [(0, 1), (2, 3)]);
    for index in [0, 2] {
        assert_eq!(open.put(0, index, &parts[index]).await?.status, 204);
    }
    let receipt = open.complete(0).await?;
    let Message::Receipt(signed) = Message::from_wire(&receipt.body)? else {
        bail!("no receipt");
    };
    assert_eq!(signed.verify(&open.manifest.aggregator)?.header, header.hash());
    assert_eq!(open.complete(0).await?.body, receipt.body, "the same receipt again");

    // A party that opens other bytes before the first are complete is refused: what is there stays.
    let first = chunks(len, 3);
    let (_, opening) = open.opening(1, len, &first);
    assert_eq!(Answered::post(open.place(1), opening).await?.status, 200);
    assert_eq!(open.put(1, 0, &first[0]).await?.status, 204);
    let stored = || chunk_files(&open.world.aggregator_blobs());
    assert_eq!(stored()?, 4);
    let (_, opening) = open.opening(1, len, &chunks(len, 8));
    assert_eq!(Answered::post(open.place(1), opening).await?.code(), "DUPLICATE");
    assert_eq!(stored()?, 4);

    // Other bytes by a party that has a receipt.
    let (_, other) = open.opening(0, len, &chunks(len, 2));
    assert_eq!(Answered::post(open.place(0), other).await?.code(), "DUPLICATE");
    ensure!(logged(&open.world.aggregator.url(), "DUPLICATE").await?);

    // The others submit noise as well: no legal sum comes of it, and nothing is opened.
    for party in [1, 2] {
        let parts = chunks(len, 3);
        let (_, opening) = open.opening(party, len, &parts);
        assert_eq!(Answered::post(open.place(party), opening).await?.status, 200);
        for (index, part) in parts.iter().enumerate() {
            assert_eq!(open.put(party, index, part).await?.status, 204);
        }
        assert_eq!(open.complete(party).await?.status, 200);
    }
    let job = open.manifest.hash();
    until(async || open.world.status(job).await.is_ok_and(|s| s.outcome.is_some())).await?;
    match open.world.status(job).await?.outcome {
        Some(JobOutcome::Failed { code, .. }) => assert_eq!(code, "CHECK_SLOT"),
        other => bail!("{other:?}"),
    }
    ensure!(logged(&open.world.aggregator.url(), "CHECK_SLOT").await?);
    let leaves =
        Answered::of(reqwest::Client::new().get(format!("{}/results/0/leaves", open.base)));
    assert_eq!(leaves.await?.code(), "UNKNOWN_ROUND");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_group_elements_name_their_party() -> Result<()> {
    let open = Open::of(&JobSpec { scheme: "ddh-mcfe".to_owned(), ..spec(3, 3, 8, 1) }).await?;
    let len = open.manifest.step_bytes(0, STEP_SUBMIT)?;
    // Zeros are the neutral element's encoding; 255s encode nothing.
    for (party, byte) in [0, 255, 0].into_iter().enumerate() {
        let parts = [vec![byte; usize::try_from(len)?]];
        let (_, opening) = open.opening(party, len, &parts);
        assert_eq!(Answered::post(open.place(party), opening).await?.status, 200);
        assert_eq!(open.put(party, 0, &parts[0]).await?.status, 204);
        assert_eq!(open.complete(party).await?.status, 200);
    }
    let job = open.manifest.hash();
    until(async || open.world.status(job).await.is_ok_and(|s| s.outcome.is_some())).await?;
    let outcome = open.world.status(job).await?.outcome;
    ensure!(matches!(outcome, Some(JobOutcome::Failed { .. })), "{outcome:?}");
    let facts = open.world.facts(&open.world.aggregator).await?;
    let named: Vec<_> = facts
        .iter()
        .filter(|fact| fact["predicate"] == "refused")
        .map(|fact| fact["body"]["culprits"].to_string())
        .collect();
    assert_eq!(named, [r#"["party:p1"]"#]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_openings_are_refused_before_anything_is_stored() -> Result<()> {
    let open = Open::start().await?;
    let len = open.manifest.step_bytes(0, STEP_SUBMIT)?;
    let parts = chunks(len, 1);
    // 10 GB, declared in a header that is signed and otherwise right.
    let (_, huge) = open.opening(0, 10 << 30, &parts);
    let answer = Answered::post(open.place(0), huge).await?;
    assert_eq!((answer.code().as_str(), answer.status), ("WRONG_LENGTH", 400));
    // 10 GB, declared as the length of the body; the answer comes before any of it is sent.
    let path = open.place(0).replace(&open.world.aggregator.url(), "");
    for path in [&path, "/v1/jobs"] {
        let mut stream = TcpStream::connect(open.world.aggregator.addr()).await?;
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 10737418240\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut answer = vec![0; 16];
        stream.read_exact(&mut answer).await?;
        assert_eq!(std::str::from_utf8(&answer)?, "HTTP/1.1 413 Pay");
    }
    // Leaves that are not those of the signed root.
    let (header, _) = open.opening(0, len, &parts);
    let leaves = (0..96).collect();
    let opening = Opening { header: header.to_wire(), leaves }.encode()?;
    assert_eq!(Answered::post(open.place(0), opening).await?.code(), "BULK_WRONG_ROOT");
    // One party's header in another party's place, and one whose signature is broken.
    let (header, opening) = open.opening(0, len, &parts);
    assert_eq!(Answered::post(open.place(1), opening).await?.code(), "WRONG_LABEL");
    let mut forged = header.to_wire();
    forged[200] ^= 1;
    let opening = Opening { header: forged, leaves: Vec::new() }.encode()?;
    assert_eq!(Answered::post(open.place(0), opening).await?.code(), "BAD_SIGNATURE");
    // A job and a party that nobody knows.
    let (_, opening) = open.opening(0, len, &parts);
    let job = open.manifest.hash().to_string();
    let unknown = open.place(0).replace(&job, &"ab".repeat(32));
    assert_eq!(Answered::post(unknown, opening).await?.code(), "UNKNOWN_JOB");
    let stranger = RawParty::new("p9");
    let reference = BulkRef { len, root: Hash([1; 32]) };
    let header = stranger.header(&open.manifest, open.label, reference);
    let opening = Opening { header: header.to_wire(), leaves: Vec::new() }.encode()?;
    let place = open.place(0).replace("/p0", "/p9");
    assert_eq!(Answered::post(place, opening).await?.code(), "UNKNOWN_PARTY");
    assert_eq!(open.put(0, 0, &parts[0]).await?.code(), "UNKNOWN_ROUND");

    ensure!(!open.world.aggregator_blobs().join(&job).exists(), "something was stored");
    for code in ["WRONG_LENGTH", "WRONG_LABEL", "BAD_SIGNATURE", "UNKNOWN_PARTY"] {
        ensure!(logged(&open.world.aggregator.url(), code).await?, "{code} is not in the log");
    }
    Ok(())
}
