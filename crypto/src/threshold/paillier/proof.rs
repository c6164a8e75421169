//! Proofs of a reply and of a partial decryption, one for all their ciphertexts each.
//!
//! Both live in the group of units modulo n^2 up to sign: every element is written by the lesser of
//! x and n^2 - x, so -x is not another way to write x, and -1 is not an element to be clever with.
//! Both are made non-interactive by hashing everything they speak of (Fiat and Shamir), commitments
//! included, and carry the hash in place of the commitments.
//!
//! # Replies: knowledge of all plaintexts
//! For ciphertexts c_1 to c_L the prover commits to A = (1 + r_M n) h_s^(r_a); the hash gives
//! rho_1 to rho_L of 128 bits; it answers z_M = r_M + sum rho_j M_j mod n and, over the integers,
//! z_a = r_a + sum rho_j a_j. The check is A prod c_j^(rho_j) = (1 + z_M n) h_s^(z_a).
//!
//! Soundness. Whoever answers one A for random challenges can be rewound to L + 1 answers, equations
//! whose differences in rho form an integer L x L matrix R of determinant D. With its adjugate, c_j^D =
//! (1 + n)^(mu_j) h_s^(alpha_j) for known mu and alpha. The class of a ciphertext (its plaintext) is
//! a homomorphism to the integers modulo n that is 0 on h_s, an n-th power, and on -1; so the
//! plaintext of c_j is mu_j / D modulo n. D has a factor in common with n with probability about
//! 2^-128 per challenge, as the next row would lie in the span of the others modulo p or q. So the
//! proof shows knowledge of every plaintext, under no assumption but that the hash is a random
//! oracle. It shows the randomness only up to D: that c_j is a power of h_s apart from the plaintext
//! would need the strong RSA assumption, and nothing here needs it. It shows no range: a slot can
//! hold a value of more bits, which distorts the sum but shows nobody's value.
//!
//! Zero knowledge. z_M is uniform; r_a has 128 bits more than sum rho_j a_j can have. Two answers to
//! one challenge would differ by a multiple of the order of h_s and so give the factors; hence
//! answers are as good as unique and the proof is simulation sound (Faust, Kohlweiss, Marson and
//! Venturi 2012): seeing others' replies does not help to make one on a ciphertext derived from
//! theirs, be it copied, inverted, raised or re-randomised.
//!
//! # Partial decryptions: the right exponent on every ciphertext
//! For c_i,j = c_j^(2 Delta s_i) the hash of all of them gives rho_j; with C = prod c_j^(rho_j) and
//! C_i = prod c_i,j^(rho_j) the prover shows that the logarithm of C_i^2 to base C^4 equals that of
//! v_i to base v (Damgard and Jurik 2001, section 4.1, after Shoup): commitments C^(4 r) and v^r,
//! challenge e of 128 bits, answer z = r + e Delta s_i. Squares modulo n^2 form a group whose order
//! n p' q' has only prime factors of far more than 128 bits, so a wrong c_i,j leaves the batch right,
//! or a wrong batch the proof, with probability 2^-128 for each guess of a hash, whoever proves.

use chacha20::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use rug::Integer;

use super::super::ReplyBinding;
use super::number::{
    SecretInteger, from_le, product_of_powers_vartime, random_limbs, times, to_le, without_sign,
    words, write_le,
};
use super::public::PublicKey;
use super::share::Share;
use super::size::CHALLENGE_BYTES;
use super::table::{FixedBase, power};
use crate::merkle::hash_parts;
use crate::sum::{SchemeError, SumShape};

/// What is fixed about a sum, as hashed.
pub(super) fn shape_bytes(shape: &SumShape) -> [u8; 24] {
    let mut out = [0; 24];
    let [ring, dim, parties, authorities, bits] = [
        u64::from(shape.ring.bits()),
        shape.dim,
        shape.parties.into(),
        shape.authorities.into(),
        shape.bits.into(),
    ];
    let packed = [ring | bits << 32, dim, parties | authorities << 32];
    for (chunk, word) in out.as_chunks_mut::<8>().0.iter_mut().zip(packed) {
        *chunk = word.to_le_bytes();
    }
    out
}

/// `count` exponents of 128 bits from a hash.
fn exponents(hash: [u8; 32], count: usize) -> Vec<Integer> {
    let mut rng = ChaCha20Rng::from_seed(hash);
    let mut next = || u128::from(rng.next_u64()) | u128::from(rng.next_u64()) << 64;
    (0..count).map(|_| Integer::from(next())).collect()
}

/// What a reply's proof speaks of.
pub(super) struct ReplyStatement<'a> {
    pub(super) key: &'a PublicKey,
    pub(super) table: &'a FixedBase,
    pub(super) shape: &'a SumShape,
    pub(super) binding: &'a ReplyBinding,
    /// Encoded ciphertexts.
    pub(super) ciphers: &'a [u8],
}

impl ReplyStatement<'_> {
    fn challenge(&self, commitment: &Integer) -> [u8; 32] {
        let bytes = to_le(commitment, self.key.size.square_bytes());
        let shape = shape_bytes(self.shape);
        let parts: [&[u8]; 5] = [&self.key.hash, &shape, &self.binding.0, self.ciphers, &bytes];
        hash_parts("quorate/paillier/reply-proof/1", &parts).0
    }

    /// (1 + m n) h_s^a.
    fn encrypted(&self, m: &Integer, a: &[u64], bits: u32) -> Result<Integer, SchemeError> {
        let m = words(m, self.key.size.0);
        self.table.encryptions(&[(&m, a)], bits).pop().ok_or(SchemeError::BadProof)
    }

    /// Writes challenge, z_M and z_a for the plaintexts and exponents of the ciphertexts.
    pub(super) fn prove(
        &self,
        plaintexts: &[SecretInteger],
        randomness: &[SecretInteger],
        rng: &mut impl Rng,
        out: &mut [u8],
    ) -> Result<(), SchemeError> {
        let size = self.key.size;
        let mut z_m = SecretInteger::random_below(rng, &self.key.n);
        let mask = random_limbs(rng, size.mask_bits());
        let mut z_a = SecretInteger::from_limbs(&mask);
        let commitment = self.encrypted(&z_m.0, &mask, size.mask_bits())?;
        let commitment = without_sign(commitment, &self.key.n_squared);
        let challenge = self.challenge(&commitment);
        let rho = exponents(challenge, plaintexts.len());
        for ((rho, m), a) in rho.iter().zip(plaintexts).zip(randomness) {
            z_m.0 += rho * &m.0;
            z_a.0 += rho * &a.0;
        }
        z_m.0 %= &self.key.n;
        let (first, rest) =
            out.split_at_mut_checked(CHALLENGE_BYTES).ok_or(SchemeError::BadProof)?;
        let (second, third) =
            rest.split_at_mut_checked(size.modulus_bytes()).ok_or(SchemeError::BadProof)?;
        first.copy_from_slice(&challenge);
        write_le(&z_m.0, second);
        write_le(&z_a.0, third);
        Ok(())
    }

    /// Checks a proof against the parsed ciphertexts.
    pub(super) fn verify(&self, ciphers: &[Integer], proof: &[u8]) -> Result<(), SchemeError> {
        let size = self.key.size;
        let (challenge, rest) =
            proof.split_first_chunk::<CHALLENGE_BYTES>().ok_or(SchemeError::BadProof)?;
        let (z_m, z_a) =
            rest.split_at_checked(size.modulus_bytes()).ok_or(SchemeError::BadProof)?;
        let (z_m, z_a) = (from_le(z_m), from_le(z_a));
        if z_m >= self.key.n || z_a.significant_bits() > size.answer_bits() {
            return Err(SchemeError::BadProof);
        }
        let rho = exponents(*challenge, ciphers.len());
        let product = product_of_powers_vartime(&self.key.pairs, ciphers, &rho);
        let inverse = product.invert(&self.key.n_squared).map_err(|_| SchemeError::BadProof)?;
        let digits: Vec<u64> = z_a.to_digits(rug::integer::Order::Lsf);
        let mut commitment = self.encrypted(&z_m, &digits, size.answer_bits())?;
        times(&mut commitment, &inverse, &self.key.n_squared);
        let commitment = without_sign(commitment, &self.key.n_squared);
        if self.challenge(&commitment) == *challenge { Ok(()) } else { Err(SchemeError::BadProof) }
    }
}

/// What a partial decryption's proof speaks of.
pub(super) struct PartialStatement<'a> {
    pub(super) key: &'a PublicKey,
    pub(super) shape: &'a SumShape,
    pub(super) context: &'a [u8; 32],
    pub(super) number: u32,
    /// c_j.
    pub(super) sum: &'a [Integer],
    /// c_j, encoded.
    pub(super) sum_bytes: &'a [u8],
    /// c_i,j, encoded.
    pub(super) raised_bytes: &'a [u8],
}

impl PartialStatement<'_> {
    fn hash(&self) -> [u8; 32] {
        let shape = shape_bytes(self.shape);
        let number = self.number.to_le_bytes();
        let parts: [&[u8]; 6] =
            [&self.key.hash, &shape, self.context, &number, self.sum_bytes, self.raised_bytes];
        hash_parts("quorate/paillier/partial-batch/1", &parts).0
    }

    fn challenge(&self, batch: &[u8; 32], commitments: [Integer; 2]) -> [u8; 32] {
        let [first, second] = commitments
            .map(|x| to_le(&without_sign(x, &self.key.n_squared), self.key.size.square_bytes()));
        hash_parts("quorate/paillier/partial-proof/1", &[batch, &first, &second]).0
    }

    /// C^4.
    fn base(&self, rho: &[Integer]) -> Integer {
        let product = product_of_powers_vartime(&self.key.pairs, self.sum, rho);
        self.key.raise(&product, &Integer::from(4))
    }

    /// Writes challenge and z.
    pub(super) fn prove(
        &self,
        share: &Share,
        rng: &mut impl Rng,
        out: &mut [u8],
    ) -> Result<(), SchemeError> {
        let batch = self.hash();
        let base = self.base(&exponents(batch, self.sum.len()));
        let bits = self.key.size.share_mask_bits();
        let mut z = SecretInteger::random_with_top_bit(rng, bits);
        let commitments = [&base, &self.key.v].map(|base| power(&self.key.pairs, base, &z.0, bits));
        let challenge = self.challenge(&batch, commitments);
        let mut secret = SecretInteger(Integer::from(&share.value.0 * &self.key.delta));
        secret.0 *= short(&challenge);
        z.0 += &secret.0;
        let (first, second) =
            out.split_at_mut_checked(CHALLENGE_BYTES).ok_or(SchemeError::BadProof)?;
        first.copy_from_slice(&challenge);
        write_le(&z.0, second);
        Ok(())
    }

    /// Checks a proof against the parsed c_i,j.
    pub(super) fn verify(&self, raised: &[Integer], proof: &[u8]) -> Result<(), SchemeError> {
        let n_squared = &self.key.n_squared;
        let (challenge, z) =
            proof.split_first_chunk::<CHALLENGE_BYTES>().ok_or(SchemeError::BadProof)?;
        let z = from_le(z);
        let verifier = self.key.verifier(self.number).ok_or(SchemeError::BadProof)?;
        let bits = self.key.size.share_mask_bits() + 1;
        if z.significant_bits() > bits {
            return Err(SchemeError::BadProof);
        }
        let batch = self.hash();
        let rho = exponents(batch, self.sum.len());
        let result = product_of_powers_vartime(&self.key.pairs, raised, &rho);
        let result = result.square() % n_squared;
        let e = Integer::from(short(challenge));
        let commitment = |base: &Integer, raised: &Integer| {
            let inverse = self.key.raise(raised, &e).invert(n_squared);
            let inverse = inverse.map_err(|_| SchemeError::BadProof)?;
            let answered = power(&self.key.pairs, base, &z, bits);
            Ok::<Integer, SchemeError>(answered * inverse % n_squared)
        };
        let commitments =
            [commitment(&self.base(&rho), &result)?, commitment(&self.key.v, verifier)?];
        if self.challenge(&batch, commitments) == *challenge {
            Ok(())
        } else {
            Err(SchemeError::BadProof)
        }
    }
}

/// The 128 bits of a hash that act as the challenge.
fn short(challenge: &[u8; 32]) -> u128 {
    u128::from_le_bytes(challenge.first_chunk().copied().unwrap_or_default())
}
