//! Pad generators: seekable keystreams of ring words, added in cache-sized blocks.

use aes::Aes256;
use chacha20::ChaCha20;
use cipher::{KeyIvInit, StreamCipher, StreamCipherError, StreamCipherSeek};
use ctr::Ctr64BE;

use crate::secret::Secret;
use crate::sum::{PadSuite, Ring};

/// Bytes of keystream produced at a time: the block and what it is added to stay in the first-level
/// cache together.
pub const BLOCK_BYTES: usize = 8192;

/// One keystream, positioned anywhere: word j of the pad is the little-endian word at byte
/// j * word length.
///
/// The key is used for one keystream only, so the initial counter block is zero.
pub struct Keystream(Cipher);

enum Cipher {
    Aes(Box<Ctr64BE<Aes256>>),
    ChaCha(Box<ChaCha20>),
}

impl Keystream {
    /// A keystream from its 32-byte key.
    #[must_use]
    pub fn new(suite: PadSuite, key: &[u8; 32]) -> Self {
        Self(match suite {
            PadSuite::Aes256Ctr => {
                Cipher::Aes(Box::new(Ctr64BE::new(key.into(), &[0u8; 16].into())))
            }
            PadSuite::ChaCha20 => {
                Cipher::ChaCha(Box::new(ChaCha20::new(key.into(), &[0u8; 12].into())))
            }
        })
    }

    /// Moves to byte `position`.
    ///
    /// # Errors
    /// When the position is past the generator's period (2^38 bytes for ChaCha20).
    pub fn seek(&mut self, position: u64) -> Result<(), StreamCipherError> {
        match &mut self.0 {
            Cipher::Aes(cipher) => cipher.try_seek(position),
            Cipher::ChaCha(cipher) => cipher.try_seek(position),
        }
    }

    /// Writes the next bytes.
    ///
    /// # Errors
    /// When the generator's period ends within `out`.
    pub fn write(&mut self, out: &mut [u8]) -> Result<(), StreamCipherError> {
        match &mut self.0 {
            Cipher::Aes(cipher) => cipher.try_write_keystream(out),
            Cipher::ChaCha(cipher) => cipher.try_write_keystream(out),
        }
    }
}

/// A reusable block for keystream, zeroized on drop.
pub struct Scratch(Secret<Vec<u8>>);

impl Default for Scratch {
    fn default() -> Self {
        Self(Secret::new(vec![0; BLOCK_BYTES]))
    }
}

impl Scratch {
    /// Adds the pads of all `streams` from byte `position` on to the words of `out`.
    ///
    /// # Errors
    /// As [`Keystream::seek`] and [`Keystream::write`].
    pub fn add_pads(
        &mut self,
        streams: &mut [Keystream],
        ring: Ring,
        position: u64,
        out: &mut [u8],
    ) -> Result<(), StreamCipherError> {
        for stream in &mut *streams {
            stream.seek(position)?;
        }
        for block in out.chunks_mut(BLOCK_BYTES) {
            // Chunks are never longer than the buffer.
            let Some((pad, _)) = self.0.expose_mut().split_at_mut_checked(block.len()) else {
                return Err(StreamCipherError);
            };
            for stream in &mut *streams {
                stream.write(pad)?;
                add(ring, block, pad);
            }
        }
        Ok(())
    }
}

/// Adds `words` to `sum`, word by word mod 2^k; both have the same whole number of words.
pub fn add(ring: Ring, sum: &mut [u8], words: &[u8]) {
    // Byte arrays need no alignment and compile to vector adds.
    match ring {
        Ring::Z32 => {
            for (s, w) in sum.as_chunks_mut::<4>().0.iter_mut().zip(words.as_chunks::<4>().0) {
                *s = u32::from_le_bytes(*s).wrapping_add(u32::from_le_bytes(*w)).to_le_bytes();
            }
        }
        Ring::Z64 => {
            for (s, w) in sum.as_chunks_mut::<8>().0.iter_mut().zip(words.as_chunks::<8>().0) {
                *s = u64::from_le_bytes(*s).wrapping_add(u64::from_le_bytes(*w)).to_le_bytes();
            }
        }
    }
}

/// Subtracts `words` from `sum`, as [`add`].
pub fn sub(ring: Ring, sum: &mut [u8], words: &[u8]) {
    match ring {
        Ring::Z32 => {
            for (s, w) in sum.as_chunks_mut::<4>().0.iter_mut().zip(words.as_chunks::<4>().0) {
                *s = u32::from_le_bytes(*s).wrapping_sub(u32::from_le_bytes(*w)).to_le_bytes();
            }
        }
        Ring::Z64 => {
            for (s, w) in sum.as_chunks_mut::<8>().0.iter_mut().zip(words.as_chunks::<8>().0) {
                *s = u64::from_le_bytes(*s).wrapping_sub(u64::from_le_bytes(*w)).to_le_bytes();
            }
        }
    }
}
