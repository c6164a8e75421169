//! Bulk transfer over real connections that a proxy cuts.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post, put};
use quorate_client::bulk::{
    Bulk, BulkError, BulkInfo, BulkReader, BulkWriter, Spool, Transfer, download, upload,
};
use quorate_client::store::{Batch, Store};
use quorate_crypto::merkle::CHUNK_BYTES;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::problem::Answer;
use super::tests::Running;
use super::*;

/// A receiver of one upload, as a route would be: the leaf list is a record, the rest is on disk.
#[derive(Clone)]
struct Receiver {
    store: Store,
    expected_len: u64,
    spool: Arc<Mutex<Option<Spool>>>,
}

impl Receiver {
    fn new(store: &Store, expected_len: u64) -> Self {
        Self { store: store.clone(), expected_len, spool: Arc::default() }
    }

    /// What a restart does to memory.
    fn forget(&self) {
        *self.spool.lock().unwrap() = None;
    }

    async fn spool(&self) -> Answer<Spool> {
        if let Some(spool) = self.spool.lock().unwrap().clone() {
            return Ok(spool);
        }
        let unknown = || Problem::new(StatusCode::NOT_FOUND, "NO_UPLOAD", "open it first");
        let record = self.store.get_record("upload", "one").await?.ok_or_else(unknown)?;
        let spool = Spool::open(self.store.blobs(), "in", Bulk::from_record(&record)?).await?;
        Ok(self.spool.lock().unwrap().get_or_insert(spool).clone())
    }

    async fn object(&self) -> Answer<BulkReader> {
        let incomplete = || Problem::new(StatusCode::CONFLICT, "INCOMPLETE", "chunks are missing");
        self.spool().await?.complete().ok_or_else(incomplete)
    }

    fn routes(self) -> Router {
        Router::new()
            .route("/up", post(open))
            .route("/up/missing", get(missing))
            .route("/up/complete", post(complete))
            .route("/up/chunks/{i}", put(receive).get(send))
            .route("/up/leaves", get(leaves))
            .with_state(self)
    }
}

async fn open(State(r): State<Receiver>, body: Body) -> Answer {
    let opening = bulk::receive_opening(body, 200, r.expected_len).await?;
    let bad = |_| Problem::new(StatusCode::BAD_REQUEST, "BAD_HEADER", "not a header");
    let info: BulkInfo = serde_json::from_slice(&opening.header).map_err(bad)?;
    let bulk = Bulk::parse(info, r.expected_len, &opening.leaves)?;
    r.store.commit(Batch::new().put_record("upload", "one", bulk.to_record())).await?;
    Ok(bulk::missing_response(&r.spool().await?))
}

async fn missing(State(r): State<Receiver>) -> Answer {
    Ok(bulk::missing_response(&r.spool().await?))
}

async fn receive(State(r): State<Receiver>, Path(i): Path<u64>, body: Body) -> Answer<StatusCode> {
    bulk::receive_chunk(&r.spool().await?, i, body).await
}

async fn complete(State(r): State<Receiver>) -> Answer<String> {
    Ok(format!("received {}", r.object().await?.bulk().info().root))
}

async fn leaves(State(r): State<Receiver>) -> Answer {
    Ok(bulk::leaves_response(r.object().await?.bulk()))
}

async fn send(State(r): State<Receiver>, Path(i): Path<u64>) -> Answer<Response> {
    bulk::chunk_response(&r.object().await?, i).await
}

/// Forwards connections; the n-th one is cut after `cut(n)` bytes upwards and downwards.
async fn proxy(
    to: SocketAddr,
    cut: impl Fn(u64) -> Option<(u64, u64)> + Send + Sync + 'static,
) -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/up", listener.local_addr().unwrap());
    let cuts = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&cuts);
    tokio::spawn(async move {
        let mut n = 0;
        while let Ok((client, _)) = listener.accept().await {
            let (limits, count) = (cut(n), Arc::clone(&count));
            n += 1;
            tokio::spawn(async move {
                let Ok(server) = TcpStream::connect(to).await else { return };
                // Else each small message waits for a delayed acknowledgement.
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let (up, down) = limits.unwrap_or((u64::MAX, u64::MAX));
                // Returning drops both connections. A peer's own close is not a cut.
                let cut = tokio::select! {
                    cut = pump(&mut from_client, &mut to_server, up) => cut,
                    cut = pump(&mut from_server, &mut to_client, down) => cut,
                };
                count.fetch_add(u64::from(cut), Ordering::Relaxed);
            });
        }
    });
    (url, cuts)
}

async fn pump(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    mut left: u64,
) -> bool {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        if room == 0 {
            return true;
        }
        match from.read(&mut buffer[..room]).await {
            Ok(n) if n > 0 && to.write_all(&buffer[..n]).await.is_ok() => left -= n as u64,
            _ => return false,
        }
    }
}

fn eager() -> Transfer {
    Transfer {
        attempts: 200,
        first_delay: Duration::from_millis(1),
        max_delay: Duration::from_millis(4),
        timeout: Duration::from_secs(20),
        ..Transfer::default()
    }
}

async fn object(store: &Store, len: usize, seed: u64) -> (Vec<u8>, BulkReader) {
    let mut bytes = vec![0; len];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
    let mut writer = BulkWriter::new(store.blobs(), "own");
    writer.write(&bytes).await.unwrap();
    (bytes, BulkReader::new(store.blobs(), "own", writer.finish().await.unwrap()))
}

fn header(reader: &BulkReader) -> Vec<u8> {
    serde_json::to_vec(&reader.bulk().info()).unwrap()
}

fn addr(server: &Running) -> SocketAddr {
    server.url.trim_start_matches("http://").parse().unwrap()
}

async fn stores() -> (tempfile::TempDir, Store, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("sender")).await.unwrap();
    let other = Store::open(&dir.path().join("receiver")).await.unwrap();
    (dir, store, other)
}

#[tokio::test]
async fn transfers_resume_after_cuts_inside_chunks_and_a_forgetful_server() {
    let (_dir, own, other) = stores().await;
    let (bytes, reader) = object(&own, 5 * CHUNK_BYTES + 12_345, 1).await;
    let receiver = Receiver::new(&other, bytes.len() as u64);
    let server = Running::start(receiver.clone().routes(), Limits::default()).await;
    let client = reqwest::Client::new();
    let mut cut_in_all = 0;
    for seed in 0..6 {
        other.blobs().delete_namespace("in").await.unwrap();
        receiver.forget();
        let forgetful = receiver.clone();
        let cut = move |n: u64| {
            if n % 5 == 4 {
                forgetful.forget();
            }
            let mut rng = ChaCha8Rng::seed_from_u64(seed << 32 | n);
            let mut draw = || rng.next_u64() % (5 * CHUNK_BYTES as u64 / 2);
            (n < 25).then(|| (draw(), draw()))
        };
        let (url, cuts) = proxy(addr(&server), cut.clone()).await;
        let answer = upload(&client, &url, &header(&reader), &reader, &eager()).await.unwrap();
        assert_eq!(answer, format!("received {}", reader.bulk().info().root));
        let received = receiver.object().await.unwrap();
        assert!(received.read_range(0..bytes.len() as u64).await.unwrap() == bytes);

        let (url_down, cuts_down) = proxy(addr(&server), cut).await;
        let (info, blobs) = (reader.bulk().info(), own.blobs());
        let back = format!("back{seed}");
        let copy = download(&client, &url_down, &info, blobs, &back, &eager()).await.unwrap();
        assert!(copy.read_range(0..bytes.len() as u64).await.unwrap() == bytes);
        cut_in_all += cuts.load(Ordering::Relaxed) + cuts_down.load(Ordering::Relaxed);
    }
    // How many connections a transfer opens, and so how many are cut, depends on timing: at least
    // one each way and seed must have been.
    assert!(cut_in_all >= 12, "the proxy cut {cut_in_all} connections only");
    server.stop().await;
}

#[tokio::test]
async fn a_small_upload_resumes_after_a_cut_at_any_byte() {
    // Each worker takes every eighth byte of one direction until cuts lie beyond the exchange.
    async fn worker(first: u64, upwards: bool) -> u64 {
        let (_dir, own, other) = stores().await;
        let (bytes, reader) = object(&own, 200, 2).await;
        let receiver = Receiver::new(&other, 200);
        let server = Running::start(receiver.clone().routes(), Limits::default()).await;
        let (mut at, mut uncut) = (first, 0);
        while uncut < 8 {
            other.blobs().delete_namespace("in").await.unwrap();
            receiver.forget();
            let limits = if upwards { (at, u64::MAX) } else { (u64::MAX, at) };
            let (url, cuts) = proxy(addr(&server), move |n| (n == 0).then_some(limits)).await;
            let client = reqwest::Client::new();
            upload(&client, &url, &header(&reader), &reader, &eager()).await.unwrap();
            let received = receiver.object().await.unwrap();
            assert_eq!(received.read_range(0..200).await.unwrap(), bytes);
            uncut = if cuts.load(Ordering::Relaxed) == 0 { uncut + 1 } else { 0 };
            at += 8;
        }
        server.stop().await;
        at
    }
    let workers = (0..16).map(|w| worker(w / 2, w % 2 == 0));
    for reached in futures_util::future::join_all(workers).await {
        assert!(reached > 400, "the exchange had only {reached} bytes");
    }
}

async fn refusal(error: Result<impl Sized, BulkError>) -> (u16, String) {
    match error {
        Err(error @ BulkError::Refused { status, .. }) => (status, error.refusal_code().unwrap()),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("accepted"),
    }
}

#[tokio::test]
async fn ten_gigabytes_wrong_leaves_and_wrong_chunks_are_refused() {
    let (_dir, own, other) = stores().await;
    let (bytes, reader) = object(&own, CHUNK_BYTES + 10, 3).await;
    let receiver = Receiver::new(&other, bytes.len() as u64);
    let server = Running::start(receiver.clone().routes(), Limits::default()).await;
    let (client, url) = (reqwest::Client::new(), format!("{}/up", server.url));
    let how = Transfer { attempts: 1, ..eager() };
    let put = async |i: u64, body: Vec<u8>| {
        let answer = client.put(format!("{url}/chunks/{i}")).body(body).send().await.unwrap();
        let status = answer.status().as_u16();
        let body: serde_json::Value = answer.json().await.unwrap_or_default();
        (status, body["code"].as_str().unwrap_or_default().to_owned())
    };
    let refused = |status: u16, code: &str| (status, code.to_owned());

    assert_eq!(put(0, vec![]).await, refused(404, "NO_UPLOAD"));
    let huge = BulkInfo { len: 10_000_000_000, root: reader.bulk().info().root };
    let huge = serde_json::to_vec(&huge).unwrap();
    let error = upload(&client, &url, &huge, &reader, &how).await;
    assert_eq!(refusal(error).await, refused(422, "BULK_WRONG_LENGTH"));
    let wrong = BulkInfo { root: quorate_crypto::merkle::leaf_hash(b""), ..reader.bulk().info() };
    let wrong = serde_json::to_vec(&wrong).unwrap();
    let error = upload(&client, &url, &wrong, &reader, &how).await;
    assert_eq!(refusal(error).await, refused(422, "BULK_WRONG_ROOT"));
    // A leaf list for ten gigabytes is cut at the size of the expected one.
    let long = client.post(&url).body(vec![0; 32 * 10_000]).send().await.unwrap();
    assert_eq!(long.status(), 413);

    upload(&client, &url, &header(&reader), &reader, &how).await.unwrap();
    other.blobs().delete_namespace("in").await.unwrap();
    receiver.forget();
    assert_eq!(put(2, vec![]).await, refused(404, "BULK_OUT_OF_RANGE"));
    assert_eq!(put(1, bytes[..9].to_vec()).await, refused(422, "BULK_CHUNK_LENGTH"));
    assert_eq!(put(1, bytes[..11].to_vec()).await, refused(413, "BODY_TOO_LARGE"));
    assert_eq!(put(0, vec![0; CHUNK_BYTES + 1]).await, refused(413, "BODY_TOO_LARGE"));
    assert_eq!(put(1, bytes[..10].to_vec()).await, refused(422, "BULK_WRONG_CHUNK"));
    let early = client.post(format!("{url}/complete")).send().await.unwrap();
    assert_eq!(early.status(), 409);
    assert_eq!(put(1, bytes[CHUNK_BYTES..].to_vec()).await, (204, String::new()));
    assert_eq!(put(0, bytes[..CHUNK_BYTES].to_vec()).await, (204, String::new()));
    let done = client.post(format!("{url}/complete")).send().await.unwrap();
    assert_eq!(done.status(), 200);

    // A download is checked against the expected name, not against what the server says.
    let other_name =
        BulkInfo { root: quorate_crypto::merkle::leaf_hash(b"x"), ..reader.bulk().info() };
    let error = download(&client, &url, &other_name, own.blobs(), "back", &how).await;
    assert!(matches!(error, Err(BulkError::WrongRoot)));
    let shorter = BulkInfo { len: 10, ..reader.bulk().info() };
    let error = download(&client, &url, &shorter, own.blobs(), "back", &how).await;
    assert!(matches!(error, Err(BulkError::BadAnswer)));
    server.stop().await;
}

#[tokio::test]
async fn a_dead_peer_is_given_up() {
    let (_dir, own, _other) = stores().await;
    let (_, reader) = object(&own, 10, 4).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/up", listener.local_addr().unwrap());
    drop(listener);
    let how = Transfer { attempts: 3, ..eager() };
    let error = upload(&reqwest::Client::new(), &url, &header(&reader), &reader, &how).await;
    assert!(matches!(error, Err(BulkError::Transport(_))));
}
