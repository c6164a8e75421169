//! Moving bulk objects over HTTP.
//!
//! An upload to `BASE` is: `POST BASE` with an [`Opening`], answered by [`Missing`]; `PUT
//! BASE/chunks/I` for each missing chunk, raw; `GET BASE/missing` to see that none is left; `POST
//! BASE/complete`, whose answer is the receiver's receipt. A download is `GET BASE/leaves` and `GET
//! BASE/chunks/I`. Every step may be repeated.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::{Bulk, BulkError, BulkInfo, BulkReader, Spool};
use crate::store::Blobs;

/// Most bytes kept of an answer that is not a chunk or a leaf list.
pub const MAX_ANSWER_BYTES: usize = 64 << 10;

/// How hard to try.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// Chunks in flight, each of 1 MiB.
    pub concurrency: usize,
    /// Attempts per request.
    pub attempts: u32,
    /// Wait after the first failure; doubles with each further one.
    pub first_delay: Duration,
    /// Longest wait.
    pub max_delay: Duration,
    /// Longest time for one request.
    pub timeout: Duration,
}

impl Default for Transfer {
    /// 4 chunks in flight; 12 attempts, which bridge half a minute without the peer.
    fn default() -> Self {
        Self {
            concurrency: 4,
            attempts: 12,
            first_delay: Duration::from_millis(50),
            max_delay: Duration::from_secs(5),
            timeout: Duration::from_secs(60),
        }
    }
}

/// First message of an upload: the sender's header and the leaf list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The protocol's header, which names and signs the object.
    pub header: Vec<u8>,
    /// 32 bytes per chunk.
    pub leaves: Vec<u8>,
}

impl Opening {
    /// Length of the header in 4 bytes, header, leaves.
    ///
    /// # Errors
    ///
    /// [`BulkError::BadOpening`] for a header of 4 GiB or more.
    pub fn encode(&self) -> Result<Vec<u8>, BulkError> {
        let len = u32::try_from(self.header.len()).map_err(|_| BulkError::BadOpening)?;
        Ok([&len.to_le_bytes()[..], &self.header, &self.leaves].concat())
    }

    /// Reads [`Opening::encode`]; bounds on both lengths come with the protocol's own checks.
    ///
    /// # Errors
    ///
    /// [`BulkError::BadOpening`].
    pub fn decode(bytes: &[u8]) -> Result<Self, BulkError> {
        let (len, rest) = bytes.split_first_chunk::<4>().ok_or(BulkError::BadOpening)?;
        let len = usize::try_from(u32::from_le_bytes(*len)).map_err(|_| BulkError::BadOpening)?;
        let (header, leaves) = rest.split_at_checked(len).ok_or(BulkError::BadOpening)?;
        Ok(Self { header: header.to_vec(), leaves: leaves.to_vec() })
    }
}

/// What the receiver of an upload still needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Half-open ranges of chunk numbers; perhaps only the first of them. Empty: all have arrived.
    pub missing: Vec<(u64, u64)>,
}

impl Missing {
    /// Ranges listed in one answer.
    pub const MAX_RANGES: usize = 1000;

    /// What a spool still needs.
    #[must_use]
    pub fn of(spool: &Spool) -> Self {
        Self { missing: spool.missing(Self::MAX_RANGES) }
    }
}

/// Uploads an object and returns the answer to its completion.
///
/// # Errors
///
/// [`BulkError::Refused`] with the peer's problem, [`BulkError::Transport`], failures of the store.
pub async fn upload(
    client: &Client,
    base_url: &str,
    header: &[u8],
    reader: &BulkReader,
    how: &Transfer,
) -> Result<Bytes, BulkError> {
    let bulk = reader.bulk();
    let opening = Opening { header: header.to_vec(), leaves: bulk.leaf_bytes() };
    let opening = Bytes::from(opening.encode()?);
    let mut attempt = 0;
    loop {
        match upload_once(client, base_url, &opening, reader, how).await {
            // The receiver forgot the upload, for instance with its disk: begin again.
            Err(BulkError::Refused { status: 404 | 409, .. }) if attempt + 1 < how.attempts => {
                attempt += 1;
                wait(how, attempt).await;
            }
            done => return done,
        }
    }
}

async fn upload_once(
    client: &Client,
    base_url: &str,
    opening: &Bytes,
    reader: &BulkReader,
    how: &Transfer,
) -> Result<Bytes, BulkError> {
    let open = || client.post(base_url).body(opening.clone());
    let mut needed = read_missing(send(how, open, MAX_ANSWER_BYTES).await?)?;
    // Each pass closes the ranges listed, so an object of any size ends; a receiver that asks for
    // the same chunks again and again does not.
    let passes = reader.bulk().leaves().len() / Missing::MAX_RANGES + 4;
    for _ in 0..passes {
        if needed.missing.is_empty() {
            let complete = || client.post(format!("{base_url}/complete"));
            return send(how, complete, MAX_ANSWER_BYTES).await;
        }
        let count = reader.bulk().leaves().len() as u64;
        let indices = needed.missing.into_iter().flat_map(move |(from, to)| from..to.min(count));
        let indices = indices.take(reader.bulk().leaves().len());
        // Each transfer owns what it uses: borrowed, the whole could not move between threads.
        let put = (client.clone(), base_url.to_owned(), reader.clone(), how.clone());
        stream::iter(indices)
            .map(move |index| {
                let (client, base, reader, how) = put.clone();
                async move {
                    let chunk = reader.chunk(index).await?;
                    let url = format!("{base}/chunks/{index}");
                    let put = || client.put(&url).body(chunk.clone());
                    send(&how, put, MAX_ANSWER_BYTES).await.map(drop)
                }
            })
            .buffer_unordered(how.concurrency.max(1))
            .try_collect::<()>()
            .await?;
        let ask = || client.get(format!("{base_url}/missing"));
        needed = read_missing(send(how, ask, MAX_ANSWER_BYTES).await?)?;
    }
    Err(BulkError::BadAnswer)
}

fn read_missing(answer: Bytes) -> Result<Missing, BulkError> {
    serde_json::from_slice(&answer).map_err(|_| BulkError::BadAnswer)
}

/// Downloads an object into a namespace, taking up where an earlier download stopped.
///
/// # Errors
///
/// As [`Bulk::parse`] and [`Spool::put`] for what the peer sends; [`BulkError::Refused`],
/// [`BulkError::Transport`], failures of the store.
pub async fn download(
    client: &Client,
    base_url: &str,
    expected: &BulkInfo,
    blobs: &Blobs,
    namespace: &str,
    how: &Transfer,
) -> Result<BulkReader, BulkError> {
    let leaves_len = quorate_crypto::merkle::chunk_count(expected.len).saturating_mul(32);
    let leaves_len = usize::try_from(leaves_len).map_err(|_| BulkError::LeafCount)?;
    let ask = || client.get(format!("{base_url}/leaves"));
    let leaves = send(how, ask, leaves_len).await?;
    let bulk = Bulk::parse(*expected, expected.len, &leaves)?;
    let spool = Spool::open(blobs, namespace, bulk).await?;
    let indices = spool.missing(usize::MAX).into_iter().flat_map(|(from, to)| from..to);
    // As above.
    let fetch = (client.clone(), base_url.to_owned(), spool.clone(), how.clone());
    stream::iter(indices)
        .map(move |index| {
            let (client, base, spool, how) = fetch.clone();
            async move {
                let url = format!("{base}/chunks/{index}");
                let chunk = send(&how, || client.get(&url), spool.bulk().chunk_len(index)?).await?;
                spool.put(index, chunk).await
            }
        })
        .buffer_unordered(how.concurrency.max(1))
        .try_collect::<()>()
        .await?;
    spool.complete().ok_or(BulkError::BadAnswer)
}

/// Sends a request until it is answered for good, and reads at most `max` bytes of the answer.
async fn send(
    how: &Transfer,
    request: impl Fn() -> RequestBuilder,
    max: usize,
) -> Result<Bytes, BulkError> {
    let mut attempt = 0;
    loop {
        let failure = match request().timeout(how.timeout).send().await {
            Ok(response) => match read(response, max).await {
                Ok(answer) => return answer,
                Err(failure) => failure,
            },
            Err(error) => error.without_url().to_string(),
        };
        attempt += 1;
        if attempt >= how.attempts {
            return Err(BulkError::Transport(failure));
        }
        wait(how, attempt).await;
    }
}

/// The outer error is one to try again after.
async fn read(mut response: Response, max: usize) -> Result<Result<Bytes, BulkError>, String> {
    let status = response.status();
    let again = status.is_server_error()
        || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
    if again {
        return Err(format!("status {status}"));
    }
    let max = if status.is_success() { max } else { MAX_ANSWER_BYTES };
    let mut body = BytesMut::with_capacity(max.min(MAX_ANSWER_BYTES));
    while let Some(part) = response.chunk().await.map_err(|e| e.without_url().to_string())? {
        if body.len() + part.len() > max {
            return Ok(Err(BulkError::BadAnswer));
        }
        body.extend_from_slice(&part);
    }
    if status.is_success() {
        Ok(Ok(body.freeze()))
    } else {
        Ok(Err(BulkError::Refused { status: status.as_u16(), body: body.to_vec() }))
    }
}

async fn wait(how: &Transfer, attempt: u32) {
    let delay = how.first_delay.saturating_mul(1u32.checked_shl(attempt - 1).unwrap_or(u32::MAX));
    tokio::time::sleep(delay.min(how.max_delay)).await;
}
