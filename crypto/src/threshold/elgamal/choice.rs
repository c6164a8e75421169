//! Ciphertexts chosen in secret: a bit, the OR of a bit with an encrypted one, a row of a table;
//! and sums of such ciphertexts, opened by the key's participants.
//!
//! All three are one statement. Candidates are K rows of W ciphertexts; the prover takes row k,
//! adds a fresh encryption of zero to each of its ciphertexts, and proves for the outcome that
//!
//! > there are k and r_0 .. r_(W-1) with out_j - candidate_kj = (r_j G, r_j Y) for every j,
//!
//! without showing k:
//!
//! | | candidates | K | W |
//! |---|---|---|---|
//! | [`encrypt_bits`](ChoiceKey::encrypt_bits) | (O, O), (O, G): trivial encryptions of 0 and 1 | 2 | 1 |
//! | [`or_bits`](ChoiceKey::or_bits) | the ciphertext received, (O, G) | 2 | 1 |
//! | [`select`](ChoiceKey::select) | the rows of a table of ciphertexts | 2 to 64 | 1 to 64 |
//!
//! So an OR with a bit 0 is the ciphertext received, re-randomised, and with a bit 1 a fresh
//! encryption of 1; whoever knows neither the key nor the randomness cannot tell which (decisional
//! Diffie-Hellman).
//!
//! **The proof** is the disjunction of Cramer, Damgard, Schoenmakers (CRYPTO 1994) over K proofs by
//! Chaum, Pedersen (CRYPTO 1992) that D_k = out - candidate_k is an encryption of zero: for each
//! branch commitments A_j = z_j G - c_j D_j1 and B_j = z_j Y - c_j D_j2, the challenges adding up
//! to the hash of everything, modulo 2^128. For W > 1, D_k is the sum of the row's differences
//! under weights of 128 bits that are hashed from key, binding, candidates and outcome: if one
//! difference is no encryption of zero, then neither is their sum, but with probability 2^-128.
//!
//! | bytes | content |
//! |---|---|
//! | ciphertext | C1, C2 (32 each); C1 is never the identity |
//! | proof | for each branch: challenge (16), response (32) |
//!
//! **The transcript** hashes, length-prefixed: domain (bit, or, select), the public key's id, the
//! caller's binding (label, party, side, row, place), K and W, the candidates' bytes as they were
//! received (none for a bit: they are constants), the outcome's bytes, then A_j and B_j of every
//! branch, each doubled, since batch encoding doubles and doubling is one-to-one.
//!
//! # Security
//! *Soundness*: two accepting proofs with the same commitments and different hashes differ in the
//! challenge of some branch, and give r for it; a challenge has 128 bits.
//! *Simulation soundness* (Faust, Kohlweiss, Marson, Venturi, INDOCRYPT 2012): the whole statement
//! is hashed, and two different answers to the same commitments and hash give a witness of two
//! branches at once; so nobody who lacks a witness turns a proof he saw into another. A ciphertext
//! that is copied, negated, scaled, re-randomised, swapped or replayed has another statement and no
//! witness: it is refused, and its index named.
//! *Constant time*: making is constant time in k, the bits and the randomness: every candidate is
//! read and every branch computed the same way, as if simulated; only the final scalars are
//! selected. Checking and opening work on public values and are not constant time.
//!
//! What the proof does not say: that a thermometer's bits are in order, that the bit is the true
//! one, or, for an OR and a selection, what the candidates hold: each candidate needs its own
//! proof.

mod ciphers;
mod menu;
mod pooled;

use core::fmt;
use core::iter::repeat_n;
use core::ops::RangeInclusive;

use zeroize::Zeroizing;

pub use self::ciphers::Ciphers;
use self::menu::{
    Menu, bit_menu, encode_doubled, make, or_candidates, or_menus, settle, table_menu,
};
use super::key::{CIPHER_BYTES, ElGamalKey, partial_len, solve};
use super::proof::{Draw, Transcript};
use crate::secret::Secret;
use crate::sum::SchemeError;
use crate::threshold::KeySecret;

/// Bytes of a ciphertext.
pub const CIPHERTEXT_BYTES: usize = CIPHER_BYTES;
/// Bytes of a proof's part for one branch.
const BRANCH_BYTES: usize = 48;
/// Bytes of the proof of a bit or of an OR.
pub const BIT_PROOF_BYTES: usize = 2 * BRANCH_BYTES;
/// Most rows and most columns of a table to select from.
pub const MAX_TABLE: usize = 64;
/// Choices whose points are encoded together.
const TOGETHER: usize = 32;

/// What a chosen ciphertext is bound to: a hash over its label, party, row and place, made by the
/// protocol. One binding serves one ciphertext (or one selected row).
pub type Binding = [u8; 32];

/// Why chosen ciphertexts were refused; every index is that of the first wrong one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    /// Lists that do not fit together, or a table of no legal size.
    #[error("wrong length: expected {expected}, got {got}")]
    Length {
        /// Bytes or items expected.
        expected: usize,
        /// Bytes or items received.
        got: usize,
    },
    /// Bytes that are no ciphertext.
    #[error("ciphertext {0} is malformed")]
    Malformed(usize),
    /// A proof that does not verify.
    #[error("the proof of ciphertext {0} does not verify")]
    BadProof(usize),
    /// A bit that is neither 0 nor 1, or a choice outside the table.
    #[error("choice {0} is out of range")]
    Choice(usize),
}

/// Ciphertexts with their proofs, as they travel.
#[derive(Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The ciphertexts, [`CIPHERTEXT_BYTES`] each.
    pub ciphers: Vec<u8>,
    /// The proofs, as many bytes each.
    pub proofs: Vec<u8>,
}

impl fmt::Debug for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chosen({} + {} bytes)", self.ciphers.len(), self.proofs.len())
    }
}
/// A public key for choices, with its tables.
pub struct ChoiceKey(ElGamalKey);
fn same_len(expected: usize, got: usize) -> Result<(), ChoiceError> {
    if expected == got { Ok(()) } else { Err(ChoiceError::Length { expected, got }) }
}
impl ChoiceKey {
    /// Parses a public key of the scheme `elgamal`.
    ///
    /// # Errors
    /// [`SchemeError::Key`].
    pub fn parse(public: &[u8]) -> Result<Self, SchemeError> {
        ElGamalKey::parse(public).map(Self)
    }

    /// N, the holders of the key besides the authority.
    #[must_use]
    pub fn holders(&self) -> u32 {
        self.0.participants().0
    }

    /// T, those needed to open, besides the authority.
    #[must_use]
    pub fn threshold(&self) -> u32 {
        self.0.participants().1
    }

    /// Encrypts bits, each with the proof that it is 0 or 1.
    ///
    /// # Errors
    /// [`ChoiceError::Length`], [`ChoiceError::Choice`].
    ///
    /// # Security
    /// `seed` must be fresh for each list of bindings and bits; the same inputs give the same
    /// bytes, so that a restart repeats an answer and does not make a second one.
    pub fn encrypt_bits(
        &self,
        bindings: &[Binding],
        bits: &Zeroizing<Vec<u8>>,
        seed: &Secret<[u8; 32]>,
    ) -> Result<Chosen, ChoiceError> {
        let menus = repeat_n(bit_menu(), bindings.len());
        self.bits(menus, bindings, bits, seed, b"bit")
    }

    /// Checks what [`ChoiceKey::encrypt_bits`] gave and returns the ciphertexts.
    ///
    /// # Errors
    /// [`ChoiceError`] with the first wrong index.
    pub fn check_bits(
        &self,
        bindings: &[Binding],
        chosen: &Chosen,
    ) -> Result<Ciphers, ChoiceError> {
        self.check(repeat_n(bit_menu(), bindings.len()), bindings, chosen)
    }

    /// For each input the OR of what it holds with a bit: a fresh encryption of 1 where the bit is
    /// 1, else the input re-randomised; each with the proof that it is one or the other.
    ///
    /// # Errors
    /// As [`ChoiceKey::encrypt_bits`]; [`ChoiceError::Malformed`] for an input.
    ///
    /// # Security
    /// As [`ChoiceKey::encrypt_bits`]. Nothing is shown by an input that is no encryption of a bit.
    pub fn or_bits(
        &self,
        bindings: &[Binding],
        inputs: &[u8],
        bits: &Zeroizing<Vec<u8>>,
        seed: &Secret<[u8; 32]>,
    ) -> Result<Chosen, ChoiceError> {
        let decoded = Ciphers::decode(inputs)?;
        same_len(bindings.len(), decoded.len())?;
        let candidates = or_candidates(&decoded);
        self.bits(or_menus(inputs, &candidates), bindings, bits, seed, inputs)
    }

    /// Checks what [`ChoiceKey::or_bits`] gave for `inputs` and returns the ciphertexts.
    ///
    /// # Errors
    /// [`ChoiceError`] with the first wrong index.
    pub fn check_or(
        &self,
        bindings: &[Binding],
        inputs: &[u8],
        chosen: &Chosen,
    ) -> Result<Ciphers, ChoiceError> {
        let decoded = Ciphers::decode(inputs)?;
        same_len(bindings.len(), decoded.len())?;
        let candidates = or_candidates(&decoded);
        self.check(or_menus(inputs, &candidates), bindings, chosen)
    }

    /// Takes row `choice` of a table of `rows` rows, re-randomised, with the proof that it is one
    /// of them.
    ///
    /// # Errors
    /// [`ChoiceError::Length`] for a table over [`MAX_TABLE`] rows or columns or of one row;
    /// [`ChoiceError::Malformed`], [`ChoiceError::Choice`].
    ///
    /// # Security
    /// As [`ChoiceKey::encrypt_bits`].
    pub fn select(
        &self,
        binding: &Binding,
        table: &[u8],
        rows: usize,
        choice: u32,
        seed: &Secret<[u8; 32]>,
    ) -> Result<Chosen, ChoiceError> {
        let decoded = Ciphers::decode(table)?;
        let menu = table_menu(table, &decoded, rows)?;
        let row = u8::try_from(choice).ok().filter(|row| usize::from(*row) < rows);
        let row = row.ok_or(ChoiceError::Choice(0))?;
        let mut draw = self.draw(seed, b"select", &[*binding], table, &choice.to_le_bytes());
        let mut chosen = Chosen { ciphers: Vec::new(), proofs: Vec::new() };
        make(&self.0, &[(menu, binding)], &[row], &mut draw, &mut chosen);
        Ok(chosen)
    }

    /// Checks what [`ChoiceKey::select`] gave for a table and returns the row.
    ///
    /// # Errors
    /// [`ChoiceError`]; the index of a wrong proof is 0.
    pub fn check_select(
        &self,
        binding: &Binding,
        table: &[u8],
        rows: usize,
        chosen: &Chosen,
    ) -> Result<Ciphers, ChoiceError> {
        let decoded = Ciphers::decode(table)?;
        let menu = table_menu(table, &decoded, rows)?;
        same_len(menu.width.saturating_mul(CIPHER_BYTES), chosen.ciphers.len())?;
        let out = Ciphers::decode(&chosen.ciphers)?;
        let mut commitments = Vec::new();
        let place = (chosen.ciphers.as_slice(), out.0.as_slice());
        let claimed = menu
            .reopen(&self.0, binding, place, &chosen.proofs, &mut commitments)
            .ok_or(ChoiceError::BadProof(0))?;
        settle(vec![(0, claimed)], &commitments, rows.saturating_mul(2))?;
        Ok(out)
    }

    fn draw(
        &self,
        seed: &Secret<[u8; 32]>,
        domain: &[u8],
        bindings: &[Binding],
        inputs: &[u8],
        secret: &[u8],
    ) -> Draw {
        let parts = [domain, self.0.id(), bindings.as_flattened(), inputs, secret];
        Draw::new(seed, "choice", &parts)
    }

    /// Chooses one of two for every binding.
    fn bits<'a>(
        &self,
        menus: impl Iterator<Item = Menu<'a>>,
        bindings: &[Binding],
        bits: &Zeroizing<Vec<u8>>,
        seed: &Secret<[u8; 32]>,
        inputs: &[u8],
    ) -> Result<Chosen, ChoiceError> {
        same_len(bindings.len(), bits.len())?;
        if let Some(index) = bits.iter().position(|bit| *bit > 1) {
            return Err(ChoiceError::Choice(index));
        }
        let mut draw = self.draw(seed, b"bits", bindings, inputs, bits);
        let mut chosen = Chosen {
            ciphers: Vec::with_capacity(bindings.len().saturating_mul(CIPHER_BYTES)),
            proofs: Vec::with_capacity(bindings.len().saturating_mul(BIT_PROOF_BYTES)),
        };
        let items: Vec<_> = menus.zip(bindings).collect();
        for (items, bits) in items.chunks(TOGETHER).zip(bits.chunks(TOGETHER)) {
            make(&self.0, items, bits, &mut draw, &mut chosen);
        }
        Ok(chosen)
    }

    fn check<'a>(
        &self,
        menus: impl Iterator<Item = Menu<'a>>,
        bindings: &[Binding],
        chosen: &Chosen,
    ) -> Result<Ciphers, ChoiceError> {
        same_len(bindings.len().saturating_mul(CIPHER_BYTES), chosen.ciphers.len())?;
        same_len(bindings.len().saturating_mul(BIT_PROOF_BYTES), chosen.proofs.len())?;
        let out = Ciphers::decode(&chosen.ciphers)?;
        let ciphers = chosen.ciphers.as_chunks::<CIPHER_BYTES>().0.iter().zip(&out.0);
        let proofs = chosen.proofs.as_chunks::<BIT_PROOF_BYTES>().0;
        let items: Vec<_> = (0usize..).zip(menus.zip(bindings)).zip(ciphers.zip(proofs)).collect();
        for items in items.chunks(TOGETHER) {
            let (mut commitments, mut open) = (Vec::new(), Vec::new());
            for ((index, (menu, binding)), ((bytes, out), proof)) in items {
                let place = (bytes.as_slice(), core::slice::from_ref(*out));
                let claimed = menu.reopen(&self.0, binding, place, *proof, &mut commitments);
                let Some(claimed) = claimed else {
                    // What came before it in this block is checked first.
                    commitments.truncate(open.len().saturating_mul(4));
                    settle(open, &commitments, 4)?;
                    return Err(ChoiceError::BadProof(*index));
                };
                open.push((*index, claimed));
            }
            settle(open, &commitments, 4)?;
        }
        Ok(out)
    }

    /// This participant's partial decryption of `ciphers`: its number (4 bytes), x C1 of each, a
    /// proof.
    ///
    /// # Errors
    /// [`SchemeError::Key`] when `share` is not one of this key.
    ///
    /// # Security
    /// Constant time in `share`. Whoever calls it made sure that these ciphertexts may be opened;
    /// the `context` says for what and is part of the proof.
    pub fn partial(
        &self,
        context: &[u8; 32],
        ciphers: &Ciphers,
        share: &KeySecret,
        seed: &Secret<[u8; 32]>,
    ) -> Result<Vec<u8>, SchemeError> {
        let mut out = vec![0; partial_len(ciphers.len())];
        let statement = self.partial_statement(context, ciphers);
        let of = |number: u32| statement.with(&number.to_le_bytes());
        self.0.write_partial(&ciphers.0, of, share, seed, &mut out)?;
        Ok(out)
    }

    /// Checks a partial decryption of `ciphers` and returns its participant's number.
    ///
    /// # Errors
    /// [`SchemeError::Length`], [`SchemeError::Malformed`], [`SchemeError::BadProof`].
    pub fn check_partial(
        &self,
        context: &[u8; 32],
        ciphers: &Ciphers,
        partial: &[u8],
    ) -> Result<u32, SchemeError> {
        let statement = self.partial_statement(context, ciphers);
        let of = |number: u32| statement.with(&number.to_le_bytes());
        self.0.check_partial(&ciphers.0, of, partial)
    }

    /// Opens `ciphers` with checked partial decryptions: the authority's and T of different
    /// holders.
    ///
    /// # Errors
    /// [`SchemeError::Messages`] with the wrong set of participants; [`SchemeError::OutOfRange`]
    /// for a value outside `range`.
    pub fn open(
        &self,
        ciphers: &Ciphers,
        partials: &[&[u8]],
        range: RangeInclusive<i64>,
    ) -> Result<Zeroizing<Vec<i64>>, SchemeError> {
        solve(&self.0.combine(&ciphers.0, partials)?, range)
    }

    fn partial_statement(&self, context: &[u8; 32], ciphers: &Ciphers) -> Transcript {
        let mut said = Transcript::new("chosen sums").with(self.0.id()).with(context);
        said.add(&(ciphers.len() as u64).to_le_bytes());
        for points in ciphers.0.chunks(TOGETHER) {
            encode_doubled(points.as_flattened()).for_each(|bytes| said.add(&bytes));
        }
        said
    }
}

#[cfg(any(test, feature = "testkit"))]
impl ChoiceKey {
    /// The ciphertexts of [`ChoiceKey::encrypt_bits`] (or, with inputs, of [`ChoiceKey::or_bits`])
    /// without their proofs, of other randomness: to measure what each of them costs.
    ///
    /// # Errors
    /// As [`ChoiceKey::or_bits`].
    pub fn unproven(
        &self,
        inputs: Option<&[u8]>,
        bits: &[u8],
        seed: &Secret<[u8; 32]>,
    ) -> Result<Vec<u8>, ChoiceError> {
        let mut draw = self.draw(seed, b"unproven", &[], inputs.unwrap_or_default(), bits);
        let mut ciphers = Vec::with_capacity(bits.len().saturating_mul(CIPHER_BYTES));
        let decoded = inputs.map(Ciphers::decode).transpose()?;
        let candidates = decoded.as_ref().map(or_candidates);
        let menus: Vec<_> = match (inputs, &candidates) {
            (Some(inputs), Some(candidates)) => or_menus(inputs, candidates).collect(),
            _ => vec![bit_menu(); bits.len()],
        };
        same_len(bits.len(), menus.len())?;
        for (menus, bits) in menus.chunks(TOGETHER).zip(bits.chunks(TOGETHER)) {
            let items = menus.iter().zip(bits);
            let picked: Vec<_> =
                items.map(|(menu, bit)| menu.pick(&self.0, *bit, &mut draw)).collect();
            menus.first().into_iter().for_each(|menu| {
                ciphers.extend_from_slice(menu.encode(&picked).as_flattened());
            });
        }
        Ok(ciphers)
    }
}
