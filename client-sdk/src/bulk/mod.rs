//! Long vectors as verified chunks: writing, reading, resumable upload and download.
//!
//! A *bulk object* is a byte string cut into chunks of 1 MiB. Its name is its length and the tree
//! hash over the chunks; the leaf hashes in between let every chunk be checked on its own, in any
//! order. Chunks live in [`Blobs`](crate::store::Blobs) under their leaf hash, so what has arrived
//! of an interrupted transfer is read off the disk and no progress has to be recorded.

mod client;
mod reader;
mod spool;
mod writer;

use quorate_crypto::merkle::{CHUNK_BYTES, Hash, chunk_count, root};
use serde::{Deserialize, Serialize};

use crate::store::StoreError;

pub use client::{MAX_ANSWER_BYTES, Missing, Opening, Transfer, download, upload};
pub use reader::BulkReader;
pub use spool::Spool;
pub use writer::BulkWriter;

/// Why a bulk object was refused or could not be moved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BulkError {
    /// The declared length is not the one the protocol expects; nothing was allocated for it.
    #[error("declared length {declared}, expected {expected}")]
    WrongLength {
        /// Bytes declared by the peer.
        declared: u64,
        /// Bytes the protocol expects.
        expected: u64,
    },
    /// The leaf list is not 32 bytes per chunk.
    #[error("the leaf list does not fit the declared length")]
    LeafCount,
    /// The leaf list does not hash to the root.
    #[error("the leaf list does not hash to the root")]
    WrongRoot,
    /// There is no such chunk, or no such range of bytes.
    #[error("out of range")]
    OutOfRange,
    /// A chunk is shorter or longer than its place allows.
    #[error("chunk {index} has {found} bytes, expected {expected}")]
    ChunkLength {
        /// Which chunk.
        index: u64,
        /// Bytes that came.
        found: u64,
        /// Bytes its place holds.
        expected: u64,
    },
    /// A chunk does not hash to its leaf.
    #[error("chunk {index} does not match its leaf")]
    WrongChunk {
        /// Which chunk.
        index: u64,
    },
    /// The message that opens an upload is malformed.
    #[error("malformed opening of an upload")]
    BadOpening,
    /// The peer refused, for good.
    #[error("refused with status {status}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The start of the body, usually a problem document.
        body: Vec<u8>,
    },
    /// The peer could not be reached, or kept failing, until the attempts ran out.
    #[error("transfer failed: {0}")]
    Transport(String),
    /// The peer answered with something that is not an answer.
    #[error("malformed answer")]
    BadAnswer,
    /// The local store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl BulkError {
    /// The stable code of this error on the wire.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::WrongLength { .. } => "BULK_WRONG_LENGTH",
            Self::LeafCount => "BULK_LEAF_COUNT",
            Self::WrongRoot => "BULK_WRONG_ROOT",
            Self::OutOfRange => "BULK_OUT_OF_RANGE",
            Self::ChunkLength { .. } => "BULK_CHUNK_LENGTH",
            Self::WrongChunk { .. } => "BULK_WRONG_CHUNK",
            Self::BadOpening => "BULK_BAD_OPENING",
            Self::Refused { .. } => "BULK_REFUSED",
            Self::Transport(_) => "BULK_TRANSPORT",
            Self::BadAnswer => "BULK_BAD_ANSWER",
            Self::Store(StoreError::NoChunk(_)) => "BULK_NO_CHUNK",
            Self::Store(_) => "STORE_FAILED",
        }
    }

    /// The peer's own code, where it refused with a problem document.
    #[must_use]
    pub fn refusal_code(&self) -> Option<String> {
        let Self::Refused { body, .. } = self else { return None };
        let document: serde_json::Value = serde_json::from_slice(body).ok()?;
        document.get("code")?.as_str().map(str::to_owned)
    }

    /// Whether the peer's bytes are at fault, rather than this side or the network.
    #[must_use]
    pub const fn is_peer_fault(&self) -> bool {
        match self {
            Self::WrongLength { .. }
            | Self::LeafCount
            | Self::WrongRoot
            | Self::OutOfRange
            | Self::ChunkLength { .. }
            | Self::WrongChunk { .. }
            | Self::BadOpening
            | Self::BadAnswer => true,
            Self::Refused { .. } | Self::Transport(_) | Self::Store(_) => false,
        }
    }
}

/// The name of a bulk object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BulkInfo {
    /// Bytes in all.
    pub len: u64,
    /// Tree hash over its chunks.
    pub root: Hash,
}

/// A bulk object's name with its leaf hashes, which are known to hash to the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bulk {
    info: BulkInfo,
    leaves: Vec<Hash>,
}

impl Bulk {
    /// Checks a peer's leaf list (32 bytes per chunk) against the name, and the declared length
    /// against the one the protocol expects, before anything is allocated.
    ///
    /// # Errors
    ///
    /// [`BulkError::WrongLength`], [`BulkError::LeafCount`], [`BulkError::WrongRoot`].
    pub fn parse(info: BulkInfo, expected_len: u64, leaves: &[u8]) -> Result<Self, BulkError> {
        if info.len != expected_len {
            return Err(BulkError::WrongLength { declared: info.len, expected: expected_len });
        }
        let (hashes, rest) = leaves.as_chunks::<32>();
        if !rest.is_empty() || hashes.len() as u64 != chunk_count(info.len) {
            return Err(BulkError::LeafCount);
        }
        let leaves: Vec<Hash> = hashes.iter().copied().map(Hash).collect();
        // A short last chunk cannot equal a full one. A sender who says so wants the arrival of the
        // one to count for the other.
        if let Some((last, full)) = leaves.split_last()
            && !info.len.is_multiple_of(CHUNK_BYTES as u64)
            && full.contains(last)
        {
            return Err(BulkError::LeafCount);
        }
        if root(&leaves) != info.root {
            return Err(BulkError::WrongRoot);
        }
        Ok(Self { info, leaves })
    }

    /// Length and root.
    #[must_use]
    pub const fn info(&self) -> BulkInfo {
        self.info
    }

    /// One hash per chunk.
    #[must_use]
    pub fn leaves(&self) -> &[Hash] {
        &self.leaves
    }

    /// The leaf list as it goes over the wire: 32 bytes per chunk.
    #[must_use]
    pub fn leaf_bytes(&self) -> Vec<u8> {
        self.leaves.iter().flat_map(|leaf| leaf.0).collect()
    }

    /// Bytes of chunk `index`.
    ///
    /// # Errors
    ///
    /// [`BulkError::OutOfRange`].
    pub fn chunk_len(&self, index: u64) -> Result<usize, BulkError> {
        let size = CHUNK_BYTES as u64;
        let start = index.checked_mul(size).filter(|start| *start < self.info.len);
        let left = self.info.len - start.ok_or(BulkError::OutOfRange)?;
        usize::try_from(left.min(size)).map_err(|_| BulkError::OutOfRange)
    }

    /// Hash of chunk `index`.
    ///
    /// # Errors
    ///
    /// [`BulkError::OutOfRange`].
    pub fn leaf(&self, index: u64) -> Result<Hash, BulkError> {
        let index = usize::try_from(index).map_err(|_| BulkError::OutOfRange)?;
        self.leaves.get(index).copied().ok_or(BulkError::OutOfRange)
    }

    /// The value to store as a record: length in 8 bytes, root, leaves.
    #[must_use]
    pub fn to_record(&self) -> Vec<u8> {
        let mut record = Vec::with_capacity(40 + 32 * self.leaves.len());
        record.extend(self.info.len.to_le_bytes());
        record.extend(self.info.root.0);
        record.extend(self.leaf_bytes());
        record
    }

    /// Reads [`Bulk::to_record`].
    ///
    /// # Errors
    ///
    /// [`BulkError::LeafCount`], [`BulkError::WrongRoot`].
    pub fn from_record(record: &[u8]) -> Result<Self, BulkError> {
        let (len, rest) = record.split_first_chunk::<8>().ok_or(BulkError::LeafCount)?;
        let (hash, leaves) = rest.split_first_chunk::<32>().ok_or(BulkError::LeafCount)?;
        let len = u64::from_le_bytes(*len);
        Self::parse(BulkInfo { len, root: Hash(*hash) }, len, leaves)
    }
}

#[cfg(test)]
mod tests;
