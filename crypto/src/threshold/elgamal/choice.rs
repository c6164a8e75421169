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

mod pooled;

use core::fmt;
use core::iter::repeat_n;
use core::ops::RangeInclusive;
use std::sync::LazyLock;

use curve25519_dalek::constants::RISTRETTO_BASEPOINT_POINT as G;
use curve25519_dalek::ristretto::RistrettoPoint;
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::Identity;
use subtle::{ConditionallySelectable, ConstantTimeEq};
use zeroize::Zeroizing;

use super::key::{CIPHER_BYTES, Cipher, ElGamalKey, POINT_BYTES, partial_len, solve};
use super::proof::{
    Draw, Transcript, half_generator, point, proper_point, scalar, weighted_sum_vartime, weights,
};
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

/// A list of ciphertexts, or of sums of them.
#[derive(Clone)]
pub struct Ciphers(Vec<Cipher>);

impl fmt::Debug for Ciphers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ciphers({})", self.0.len())
    }
}

impl Ciphers {
    /// `count` empty sums.
    #[must_use]
    pub fn empty(count: usize) -> Self {
        Self(vec![[RistrettoPoint::identity(); 2]; count])
    }

    /// Ciphertexts as a party sent them.
    ///
    /// # Errors
    /// [`ChoiceError::Length`], [`ChoiceError::Malformed`]; a first half of nothing, which would
    /// show its plaintext, is malformed.
    pub fn decode(bytes: &[u8]) -> Result<Self, ChoiceError> {
        Self::decode_by(bytes, proper_point)
    }

    /// Sums as [`Ciphers::to_bytes`] wrote them: a sum of nothing is legal.
    ///
    /// # Errors
    /// As [`Ciphers::decode`].
    pub fn decode_sums(bytes: &[u8]) -> Result<Self, ChoiceError> {
        Self::decode_by(bytes, point)
    }

    fn decode_by(
        bytes: &[u8],
        first: impl Fn(&[u8; 32]) -> Option<RistrettoPoint>,
    ) -> Result<Self, ChoiceError> {
        let (halves, rest) = bytes.as_chunks::<POINT_BYTES>();
        let (pairs, odd) = halves.as_chunks::<2>();
        if !rest.is_empty() || !odd.is_empty() {
            let expected = bytes.len().next_multiple_of(CIPHER_BYTES);
            return Err(ChoiceError::Length { expected, got: bytes.len() });
        }
        let decode = |(index, [c1, c2]): (usize, &[[u8; 32]; 2])| {
            let points = first(c1).zip(point(c2));
            points.map(|(c1, c2)| [c1, c2]).ok_or(ChoiceError::Malformed(index))
        };
        pairs.iter().enumerate().map(decode).collect::<Result<_, _>>().map(Self)
    }

    /// Their canonical encodings.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.as_flattened().iter().flat_map(|point| point.compress().to_bytes()).collect()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends others.
    pub fn append(&mut self, mut others: Self) {
        self.0.append(&mut others.0);
    }

    /// Ciphertexts at `start..start + count`; fewer where the list ends.
    #[must_use]
    pub fn slice(&self, start: usize, count: usize) -> Self {
        Self(self.0.iter().skip(start).take(count).copied().collect())
    }

    /// Adds `others`, one to one.
    ///
    /// # Errors
    /// [`ChoiceError::Length`].
    pub fn add(&mut self, others: &Self) -> Result<(), ChoiceError> {
        if self.len() != others.len() {
            return Err(ChoiceError::Length { expected: self.len(), got: others.len() });
        }
        for (sum, point) in self.0.as_flattened_mut().iter_mut().zip(others.0.as_flattened()) {
            *sum += point;
        }
        Ok(())
    }

    /// Adds rows to the cells of one tree. Row i of `rows` has `width` ciphertexts and goes to cell
    /// `cells[i]`; cell j's sums are at `base + j * width`.. of this list.
    ///
    /// # Errors
    /// [`ChoiceError::Length`] when a cell lies outside this list or the lists do not fit.
    pub fn add_rows(
        &mut self,
        base: usize,
        cells: &[Option<u16>],
        rows: &Self,
        width: usize,
    ) -> Result<(), ChoiceError> {
        let expected = cells.len().saturating_mul(width);
        if width == 0 || rows.len() != expected {
            return Err(ChoiceError::Length { expected, got: rows.len() });
        }
        for (cell, row) in cells.iter().zip(rows.0.chunks_exact(width)) {
            let Some(cell) = cell else { continue };
            let start = usize::from(*cell).saturating_mul(width).saturating_add(base);
            let length = self.len();
            let sums =
                self.0.get_mut(start..start.saturating_add(width)).ok_or(ChoiceError::Length {
                    expected: start.saturating_add(width),
                    got: length,
                })?;
            for (sum, cipher) in sums.iter_mut().zip(row) {
                sum.iter_mut().zip(cipher).for_each(|(sum, point)| *sum += point);
            }
        }
        Ok(())
    }
}

/// A public key for choices, with its tables.
pub struct ChoiceKey(ElGamalKey);

/// What is chosen from and how it is said in the transcript.
#[derive(Clone, Copy)]
struct Menu<'a> {
    domain: &'static str,
    rows: usize,
    width: usize,
    /// Row by row.
    candidates: &'a [Cipher],
    /// The candidates' bytes; none for constants.
    said: &'a [u8],
}

/// The trivial encryptions of 0 and 1.
static CONSTANTS: LazyLock<[Cipher; 2]> = LazyLock::new(|| trivial(G));
/// Half of each.
static HALF_CONSTANTS: LazyLock<[Cipher; 2]> = LazyLock::new(|| trivial(half_generator()));

fn trivial(one: RistrettoPoint) -> [Cipher; 2] {
    let nothing = RistrettoPoint::identity();
    [[nothing; 2], [nothing, one]]
}

fn same_len(expected: usize, got: usize) -> Result<(), ChoiceError> {
    if expected == got { Ok(()) } else { Err(ChoiceError::Length { expected, got }) }
}

/// A row that was chosen and re-randomised, not encoded yet.
struct Picked {
    choice: u8,
    /// The randomness of each of its ciphertexts.
    blinds: Zeroizing<Vec<Scalar>>,
    /// The outcome; of constants half of it, since encoding them together doubles.
    out: Vec<Cipher>,
    /// What the proof's branches draw.
    drawn: Drawn,
}

/// Challenge and response of every branch.
type Drawn = Zeroizing<Vec<(u128, Scalar)>>;

/// What one choice leaves until its challenge is known.
struct Pending {
    statement: Transcript,
    choice: u8,
    blind: Zeroizing<Scalar>,
    drawn: Drawn,
}

impl Menu<'_> {
    fn statement(&self, key: &ElGamalKey, binding: &Binding, out: &[u8]) -> Transcript {
        Transcript::new(self.domain)
            .with(key.id())
            .with(binding)
            .with(&(self.rows as u64).to_le_bytes())
            .with(&(self.width as u64).to_le_bytes())
            .with(self.said)
            .with(out)
    }

    /// D_k of every branch, weighted over the row. Variable time: all of it is public.
    fn differences(&self, statement: &Transcript, out: &[Cipher]) -> Vec<Cipher> {
        let rows = self.candidates.chunks_exact(self.width.max(1));
        if let [out] = out {
            let difference =
                |row: &[Cipher]| row.first().map_or(*out, |[c1, c2]| [out[0] - c1, out[1] - c2]);
            return rows.map(difference).collect();
        }
        let seed = statement.clone().with(b"weights").digest();
        rows.map(|row| {
            let side = |of: fn(&Cipher) -> &RistrettoPoint| {
                let points: Vec<_> = out.iter().zip(row).map(|(o, c)| of(o) - of(c)).collect();
                weighted_sum_vartime(&seed, points.iter())
            };
            [side(|[c1, _]| c1), side(|[_, c2]| c2)]
        })
        .collect()
    }

    /// Whether the candidates are constants, of which the halves are known.
    const fn is_constant(&self) -> bool {
        self.said.is_empty()
    }

    /// Row `choice`, re-randomised.
    fn pick(&self, key: &ElGamalKey, choice: u8, draw: &mut Draw) -> Picked {
        let halved = self.is_constant();
        let candidates = if halved { HALF_CONSTANTS.as_slice() } else { self.candidates };
        let mut blinds = Zeroizing::new(Vec::with_capacity(self.width));
        let mut out = Vec::with_capacity(self.width);
        for column in 0..self.width {
            let mut chosen = [RistrettoPoint::identity(); 2];
            for (row, candidates) in (0u8..).zip(candidates.chunks_exact(self.width)) {
                let taken = row.ct_eq(&choice);
                let candidate = candidates.get(column).into_iter().flatten();
                for (to, from) in chosen.iter_mut().zip(candidate) {
                    to.conditional_assign(from, taken);
                }
            }
            let blind = draw.scalar();
            blinds.push(blind);
            let factor = Zeroizing::new(if halved { blind.div_by_2() } else { blind });
            out.push([
                chosen[0] + RistrettoPoint::mul_base(&factor),
                chosen[1] + &*factor * key.table(),
            ]);
        }
        Picked { choice, blinds, out, drawn: Zeroizing::new(Vec::new()) }
    }

    /// The bytes of what was picked from menus of this kind.
    fn encode(&self, picked: &[Picked]) -> Vec<[u8; POINT_BYTES]> {
        let points = || picked.iter().flat_map(|item| item.out.as_flattened());
        if self.is_constant() {
            return encode_doubled(&points().copied().collect::<Vec<_>>()).collect();
        }
        points().map(|point| point.compress().to_bytes()).collect()
    }

    /// The first half of the proof that `picked` is a row of this menu: its commitments are
    /// appended to `commitments`.
    fn commit(
        &self,
        key: &ElGamalKey,
        statement: Transcript,
        picked: Picked,
        commitments: &mut Vec<RistrettoPoint>,
    ) -> Pending {
        let Picked { choice, blinds, out, drawn } = picked;
        let mut blind = Zeroizing::new(Scalar::ZERO);
        match blinds.as_slice() {
            [one] => *blind = *one,
            many => {
                let seed = statement.clone().with(b"weights").digest();
                for (weight, one) in weights(&seed).zip(many) {
                    *blind += weight * one;
                }
            }
        }
        match (self.candidates, drawn.as_slice()) {
            ([first, second], [a, b]) => {
                commitments.extend(self.commit_pair([first, second], choice, &blind, [a, b], key));
            }
            _ => {
                let differences = self.differences(&statement, &out);
                for ([d1, d2], (challenge, response)) in differences.iter().zip(drawn.iter()) {
                    let minus = Zeroizing::new(-Scalar::from(*challenge));
                    commitments.push(RistrettoPoint::mul_base(response) + *minus * d1);
                    commitments.push(response * key.table() + *minus * d2);
                }
            }
        }
        Pending { statement, choice, blind, drawn }
    }

    /// The commitments of both branches where there are two candidates of one ciphertext, as the
    /// general way gives them, with fewer products of foreign points.
    ///
    /// With k the choice and delta = candidate_1 - candidate_0, D_j = r (G, Y) + (k - j) delta; so
    /// branch j commits to (z_j - c_j r) (G, Y), and the branch that is not chosen to c_1 delta or
    /// -c_0 delta more.
    fn commit_pair(
        &self,
        [first, second]: [&Cipher; 2],
        choice: u8,
        blind: &Scalar,
        drawn: [&(u128, Scalar); 2],
        key: &ElGamalKey,
    ) -> [RistrettoPoint; 4] {
        let one = choice.ct_eq(&1);
        let challenges = drawn.map(|(challenge, _)| Zeroizing::new(Scalar::from(*challenge)));
        let [c0, c1] = &challenges;
        let shift = Zeroizing::new(Scalar::conditional_select(c1, &-**c0, one));
        let more = if self.is_constant() {
            // The constants differ by (O, G).
            [RistrettoPoint::identity(), RistrettoPoint::mul_base(&shift)]
        } else {
            [*shift * (second[0] - first[0]), *shift * (second[1] - first[1])]
        };
        let nothing = RistrettoPoint::identity();
        let branch = |(_, response): &(u128, Scalar), challenge: &Scalar, other| {
            let blinded = Zeroizing::new(response - challenge * blind);
            let extra =
                more.map(|point| RistrettoPoint::conditional_select(&nothing, &point, other));
            [RistrettoPoint::mul_base(&blinded) + extra[0], &*blinded * key.table() + extra[1]]
        };
        let [[a0, b0], [a1, b1]] = [branch(drawn[0], c0, one), branch(drawn[1], c1, !one)];
        [a0, b0, a1, b1]
    }

    /// The commitments of a proof, appended, its statement and the challenge that it claims; `None`
    /// when it is malformed. Variable time.
    fn reopen(
        &self,
        key: &ElGamalKey,
        binding: &Binding,
        (bytes, out): (&[u8], &[Cipher]),
        proof: &[u8],
        commitments: &mut Vec<RistrettoPoint>,
    ) -> Option<(Transcript, u128)> {
        let statement = self.statement(key, binding, bytes);
        let (branches, rest) = proof.as_chunks::<BRANCH_BYTES>();
        if branches.len() != self.rows || !rest.is_empty() {
            return None;
        }
        let mut sum = 0u128;
        for (branch, [d1, d2]) in branches.iter().zip(self.differences(&statement, out)) {
            let (challenge, response) = branch.split_first_chunk()?;
            let challenge = u128::from_le_bytes(*challenge);
            let response = scalar(response.try_into().ok()?)?;
            let short = Scalar::from(challenge);
            let product = |d: RistrettoPoint| {
                RistrettoPoint::vartime_double_scalar_mul_basepoint(&short, &-d, &Scalar::ZERO)
            };
            commitments.push(RistrettoPoint::mul_base(&response) + product(d1));
            commitments.push(&response * key.table() + product(d2));
            sum = sum.wrapping_add(challenge);
        }
        Some((statement, sum))
    }
}

/// The challenge over a statement and its encoded commitments.
fn challenge(
    mut statement: Transcript,
    encoded: &mut impl Iterator<Item = [u8; 32]>,
    count: usize,
) -> u128 {
    encoded.take(count).for_each(|bytes| statement.add(&bytes));
    statement.short_challenge()
}

fn encode_doubled(commitments: &[RistrettoPoint]) -> impl Iterator<Item = [u8; 32]> + use<> {
    RistrettoPoint::double_and_compress_batch(commitments)
        .into_iter()
        .map(|encoding| encoding.to_bytes())
}

/// The proof whose challenge is now known, appended.
fn finish(item: &Pending, challenge: u128, proofs: &mut Vec<u8>) {
    let mut own = challenge;
    for (drawn, _) in item.drawn.iter() {
        own = own.wrapping_sub(*drawn);
    }
    for (row, (drawn, response)) in (0u8..).zip(item.drawn.iter()) {
        // The chosen branch takes what the others leave of the challenge; all others keep what
        // was drawn.
        let taken = row.ct_eq(&item.choice);
        let extra = Zeroizing::new(u128::conditional_select(&0, &own, taken));
        let more = Zeroizing::new(Scalar::from(drawn.wrapping_add(*extra)) - Scalar::from(*drawn));
        let response = response + *more * *item.blind;
        proofs.extend(drawn.wrapping_add(*extra).to_le_bytes());
        proofs.extend(response.to_bytes());
    }
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
        self.make(&[(menu, binding)], &[row], &mut draw, &mut chosen);
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
        let (statement, sum) = menu
            .reopen(&self.0, binding, place, &chosen.proofs, &mut commitments)
            .ok_or(ChoiceError::BadProof(0))?;
        let count = commitments.len();
        if challenge(statement, &mut encode_doubled(&commitments), count) != sum {
            return Err(ChoiceError::BadProof(0));
        }
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

    /// Chooses from each menu and proves it; ciphertexts and proofs are appended to `chosen`. All
    /// menus are of one kind.
    fn make(
        &self,
        items: &[(Menu<'_>, &Binding)],
        choices: &[u8],
        draw: &mut Draw,
        chosen: &mut Chosen,
    ) {
        let Some((first, _)) = items.first() else { return };
        let mut picked = Vec::with_capacity(items.len());
        for ((menu, _), choice) in items.iter().zip(choices) {
            let mut item = menu.pick(&self.0, *choice, draw);
            item.drawn.reserve_exact(menu.rows);
            item.drawn.extend((0..menu.rows).map(|_| (draw.word(), draw.scalar())));
            picked.push(item);
        }
        let encoded = first.encode(&picked);
        let mut commitments = Vec::with_capacity(items.len().saturating_mul(2 * first.rows));
        let mut pending = Vec::with_capacity(items.len());
        for (((menu, binding), item), out) in
            items.iter().zip(picked).zip(encoded.chunks_exact(2 * first.width))
        {
            let statement = menu.statement(&self.0, binding, out.as_flattened());
            pending.push(menu.commit(&self.0, statement, item, &mut commitments));
        }
        chosen.ciphers.extend_from_slice(encoded.as_flattened());
        let mut encoded = encode_doubled(&commitments);
        for item in pending {
            let count = item.drawn.len().saturating_mul(2);
            let challenge = challenge(item.statement.clone(), &mut encoded, count);
            finish(&item, challenge, &mut chosen.proofs);
        }
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
            self.make(items, bits, &mut draw, &mut chosen);
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
                    settle(open, &commitments)?;
                    return Err(ChoiceError::BadProof(*index));
                };
                open.push((*index, claimed));
            }
            settle(open, &commitments)?;
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

/// Checks the challenges of proofs in order.
fn settle(
    open: Vec<(usize, (Transcript, u128))>,
    commitments: &[RistrettoPoint],
) -> Result<(), ChoiceError> {
    let mut encoded = encode_doubled(commitments);
    for (index, (statement, sum)) in open {
        if challenge(statement, &mut encoded, 4) != sum {
            return Err(ChoiceError::BadProof(index));
        }
    }
    Ok(())
}

fn bit_menu() -> Menu<'static> {
    Menu { domain: "bit", rows: 2, width: 1, candidates: CONSTANTS.as_slice(), said: &[] }
}

/// For every input itself and the trivial encryption of 1.
fn or_candidates(decoded: &Ciphers) -> Vec<[Cipher; 2]> {
    let [_, one] = *CONSTANTS;
    decoded.0.iter().map(|input| [*input, one]).collect()
}

fn or_menus<'a>(inputs: &'a [u8], candidates: &'a [[Cipher; 2]]) -> impl Iterator<Item = Menu<'a>> {
    let bytes = inputs.as_chunks::<CIPHER_BYTES>().0;
    candidates.iter().zip(bytes).map(|(candidates, said)| Menu {
        domain: "or",
        rows: 2,
        width: 1,
        candidates,
        said,
    })
}

fn table_menu<'a>(
    said: &'a [u8],
    decoded: &'a Ciphers,
    rows: usize,
) -> Result<Menu<'a>, ChoiceError> {
    let width = decoded.len().checked_div(rows).unwrap_or(0);
    let legal = (2..=MAX_TABLE).contains(&rows) && (1..=MAX_TABLE).contains(&width);
    same_len(rows.saturating_mul(width), decoded.len())?;
    if !legal {
        return Err(ChoiceError::Length { expected: 2, got: rows });
    }
    Ok(Menu { domain: "select", rows, width, candidates: &decoded.0, said })
}
