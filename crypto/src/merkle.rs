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

#[cfg(test)]
mod tests {
    use super::*;

    /// The eight leaves that Certificate Transparency implementations share, and their roots.
    #[test]
    fn roots_of_the_common_leaves() {
        let leaves: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let roots = [
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let hashes: Vec<Hash> = leaves.iter().map(|leaf| leaf_hash(leaf)).collect();
        for (n, expected) in roots.iter().enumerate() {
            assert_eq!(root(&hashes[..n]).to_string(), *expected, "{n} leaves");
        }
    }

    #[test]
    fn parts_are_length_prefixed() {
        assert_eq!(
            hash_parts("quorate/label/1", &[b"tenant", b"", b"\x01\x02"]).to_string(),
            "cd195485189cdb9552444c49e703acaffcb46058450974ad2f4a429174ee3d29"
        );
        assert_ne!(hash_parts("d", &[b"ab", b"c"]), hash_parts("d", &[b"a", b"bc"]));
        assert_ne!(hash_parts("d", &[b"a"]), hash_parts("d", &[b"a", b""]));
    }

    #[test]
    fn chunks_are_counted_up() {
        let chunk = CHUNK_BYTES as u64;
        let counts = [0, 1, chunk, chunk + 1, u64::MAX].map(chunk_count);
        assert_eq!(counts, [0, 1, 1, 2, 1 << 44]);
    }
}
