//! Tree hash of a long byte string over 1 MiB chunks (RFC 6962 hashing), so that each chunk of an
//! upload is checked as it arrives.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Bytes of one chunk; the last one may be shorter.
pub const CHUNK_BYTES: usize = 1 << 20;

/// A SHA-256 value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Hash(pub [u8; 32]);

impl core::fmt::Debug for Hash {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl core::fmt::Display for Hash {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Debug::fmt(self, f)
    }
}

/// Hash of one leaf: SHA-256(0x00 || bytes).
#[must_use]
pub fn leaf_hash(bytes: &[u8]) -> Hash {
    let mut hash = Sha256::new();
    hash.update([0]);
    hash.update(bytes);
    Hash(hash.finalize().into())
}

/// Root over leaf hashes; SHA-256 of nothing when there is none.
#[must_use]
pub fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Hash(Sha256::digest([]).into()),
        [one] => *one,
        _ => {
            // The largest power of two below the number of leaves.
            let middle = 1usize << (usize::BITS - 1 - (leaves.len() - 1).leading_zeros());
            let (left, right) = leaves.split_at(middle);
            let mut hash = Sha256::new();
            hash.update([1]);
            hash.update(root(left).0);
            hash.update(root(right).0);
            Hash(hash.finalize().into())
        }
    }
}

/// Number of chunks of `len` bytes.
#[must_use]
pub const fn chunk_count(len: u64) -> u64 {
    len.div_ceil(CHUNK_BYTES as u64)
}

/// SHA-256 over a domain and length-prefixed parts: injective in the list of parts.
#[must_use]
pub fn hash_parts(domain: &str, parts: &[&[u8]]) -> Hash {
    let mut hash = Sha256::new();
    hash.update((domain.len() as u64).to_le_bytes());
    hash.update(domain.as_bytes());
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    Hash(hash.finalize().into())
}
