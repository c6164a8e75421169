//! The server's half of [bulk transfer](quorate_client::bulk): what routes call.
//!
//! A route checks the protocol's header and who calls; these functions move the bytes.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Response};
use quorate_client::bulk::{Bulk, BulkReader, Missing, Opening, Spool};
use quorate_crypto::merkle::chunk_count;

use super::limits::collect;
use super::problem::Answer;

/// Longest silence in the body of an upload.
const STALL: Duration = Duration::from_secs(15);

/// Reads the opening of an upload whose header has at most `max_header` bytes and whose object has
/// `expected_len` bytes.
///
/// The route then verifies the header, takes the object's name from it, and calls [`Bulk::parse`]
/// with the leaves.
///
/// # Errors
///
/// `BODY_TOO_LARGE`, `TIMED_OUT`, `BODY_CUT`, `BULK_BAD_OPENING`.
pub async fn receive_opening(body: Body, max_header: usize, expected_len: u64) -> Answer<Opening> {
    let leaves = chunk_count(expected_len).saturating_mul(32);
    let leaves = usize::try_from(leaves).unwrap_or(usize::MAX);
    let max = leaves.saturating_add(max_header).saturating_add(4);
    Ok(Opening::decode(&collect(body, max, STALL).await?)?)
}

/// Reads chunk `index` of an upload and stores it. On the disk when this returns.
///
/// # Errors
///
/// `BULK_OUT_OF_RANGE`, `BULK_CHUNK_LENGTH`, `BULK_WRONG_CHUNK`, `BODY_TOO_LARGE`, `TIMED_OUT`,
/// `BODY_CUT`.
pub async fn receive_chunk(spool: &Spool, index: u64, body: Body) -> Answer<StatusCode> {
    let len = spool.bulk().chunk_len(index)?;
    spool.put(index, collect(body, len, STALL).await?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Tells an uploader what has not arrived.
#[must_use]
pub fn missing_response(spool: &Spool) -> Response {
    Json(Missing::of(spool)).into_response()
}

/// The leaf list of an object.
#[must_use]
pub fn leaves_response(bulk: &Bulk) -> Response {
    binary(bulk.leaf_bytes())
}

/// Chunk `index` of an object.
///
/// # Errors
///
/// `BULK_OUT_OF_RANGE`, `BULK_NO_CHUNK`.
pub async fn chunk_response(reader: &BulkReader, index: u64) -> Answer {
    Ok(binary(reader.chunk(index).await?))
}

fn binary(body: impl Into<Body>) -> Response {
    let kind = HeaderValue::from_static("application/octet-stream");
    ([(CONTENT_TYPE, kind)], body.into()).into_response()
}
