//! Integers: bytes, randomness, wiping, products of powers of public values.

use rand_core::Rng;
use rug::Integer;
use rug::integer::Order;
use zeroize::Zeroizing;

use super::pair::{Pair, Pairs, Scratch};

/// A secret integer.
///
/// # Security
/// Its limbs are overwritten on drop. The library frees without wiping what it moved on growth and
/// its own temporaries, so this is the best effort that safe code can make. The library's division
/// and multiplication are not promised to be constant time; powers with secret exponents and
/// encryptions of secrets, which are not the library's, are ([`super::pair`]). The dealer's powers
/// are the library's silent ones.
pub(super) struct SecretInteger(pub(super) Integer);

impl SecretInteger {
    pub(super) fn from_limbs(limbs: &[u64]) -> Self {
        Self(Integer::from_digits(limbs, Order::Lsf))
    }

    pub(super) fn from_le(bytes: &[u8]) -> Self {
        Self(from_le(bytes))
    }

    /// Of `bits` bits, the top one set, so that all have the same size.
    pub(super) fn random_with_top_bit(rng: &mut impl Rng, bits: u32) -> Self {
        Self::from_limbs(&random_limbs_with_top_bit(rng, bits))
    }

    /// Within 2^-128 of uniform below `bound`.
    pub(super) fn random_below(rng: &mut impl Rng, bound: &Integer) -> Self {
        let mut value = Self::from_limbs(&random_limbs(rng, bound.significant_bits() + 128));
        value.0 %= bound;
        value
    }
}

impl Drop for SecretInteger {
    fn drop(&mut self) {
        let limbs = self.0.capacity().div_ceil(64);
        // Importing zeros writes all of them before the length is set to zero.
        self.0.assign_digits(&vec![0u64; limbs], Order::Lsf);
    }
}

/// `bits` random bits, least significant limb first.
pub(super) fn random_limbs(rng: &mut impl Rng, bits: u32) -> Zeroizing<Vec<u64>> {
    let mut limbs = Zeroizing::new(vec![0u64; bits.div_ceil(64) as usize]);
    limbs.iter_mut().for_each(|limb| *limb = rng.next_u64());
    if let Some(top) = limbs.last_mut() {
        *top &= u64::MAX >> ((64 - bits % 64) % 64);
    }
    limbs
}

/// As [`random_limbs`], with the highest of the bits set.
pub(super) fn random_limbs_with_top_bit(rng: &mut impl Rng, bits: u32) -> Zeroizing<Vec<u64>> {
    let mut limbs = random_limbs(rng, bits);
    if let Some(top) = limbs.last_mut() {
        *top |= 1 << ((bits - 1) % 64);
    }
    limbs
}

/// A number from little-endian bytes.
pub(super) fn from_le(bytes: &[u8]) -> Integer {
    Integer::from_digits(bytes, Order::Lsf)
}

/// `number`, of at most `bits` bits, in as many words as hold them, the least significant first.
pub(super) fn words(number: &Integer, bits: u32) -> Zeroizing<Vec<u64>> {
    let mut words = Zeroizing::new(vec![0; bits.div_ceil(64) as usize]);
    number.write_digits(&mut words, Order::Lsf);
    words
}

/// Little-endian bytes of `number`, which fits `out` by the ranges it comes from.
pub(super) fn write_le(number: &Integer, out: &mut [u8]) {
    number.write_digits(out, Order::Lsf);
}

/// As [`write_le`], in a new buffer.
pub(super) fn to_le(number: &Integer, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    write_le(number, &mut out);
    out
}

/// The lesser of x and modulus - x.
///
/// Ciphertexts and partial decryptions live in the group modulo +-1, in which -1 cannot be used to
/// write one element twice; decryption only ever raises to even powers.
pub(super) fn without_sign(x: Integer, modulus: &Integer) -> Integer {
    let other = Integer::from(modulus - &x);
    if other < x { other } else { x }
}

/// `bits` bits of `limbs` from bit `at`, at most 16.
pub(super) fn window(limbs: &[u64], at: usize, bits: usize) -> usize {
    let limb = |k: usize| u128::from(limbs.get(k).copied().unwrap_or(0));
    let pair = limb(at / 64) | limb(at / 64 + 1) << 64;
    let low = (pair >> (at % 64)) & ((1 << bits) - 1);
    // The mask keeps at most 16 bits.
    usize::try_from(low).unwrap_or(0)
}

/// The product of `bases[k] ^ exponents[k]` modulo n^2, exponents not negative.
///
/// # Security
/// Variable time: all arguments are public.
pub(super) fn product_of_powers_vartime(
    pairs: &Pairs,
    bases: &[Integer],
    exponents: &[Integer],
) -> Integer {
    let scratch = &mut pairs.scratch();
    let bases: Vec<Pair> = bases.iter().map(|base| pairs.pair(base, scratch)).collect();
    let digits: Vec<Vec<u64>> =
        exponents.iter().map(|exponent| exponent.to_digits(Order::Lsf)).collect();
    let bits = exponents.iter().map(Integer::significant_bits).max().unwrap_or(0) as usize;
    // Buckets (Pippenger): of the sensible widths, the one with the fewest products.
    let cost = |width: usize| bits.div_ceil(width) * (bases.len() + (2 << width));
    let width = (1..=12).min_by_key(|&width| cost(width)).unwrap_or(1);
    let mut product: Option<Pair> = None;
    for step in (0..bits.div_ceil(width)).rev() {
        if let Some(product) = &mut product {
            (0..width).for_each(|_| pairs.square(product, scratch));
        }
        let mut buckets: Vec<Option<Pair>> = vec![None; (1 << width) - 1];
        for (base, digits) in bases.iter().zip(&digits) {
            let digit = window(digits, step * width, width);
            if let Some(bucket) = digit.checked_sub(1).and_then(|at| buckets.get_mut(at)) {
                multiply(pairs, bucket, base, scratch);
            }
        }
        // The sum of k times bucket k, as running products from the top.
        let mut running: Option<Pair> = None;
        for bucket in buckets.into_iter().rev() {
            if let Some(bucket) = bucket {
                multiply(pairs, &mut running, &bucket, scratch);
            }
            if let Some(running) = &running {
                multiply(pairs, &mut product, running, scratch);
            }
        }
    }
    let mut product = product.unwrap_or_else(|| pairs.one().clone());
    pairs.integer(&mut product, &[], scratch)
}

/// `x` times `y`, `x` being 1 if there is none.
fn multiply(pairs: &Pairs, x: &mut Option<Pair>, y: &Pair, scratch: &mut Scratch) {
    match x {
        Some(x) => pairs.multiply(x, y, scratch),
        None => *x = Some(y.clone()),
    }
}

/// `x` times `y` modulo `modulus`.
pub(super) fn times(x: &mut Integer, y: &Integer, modulus: &Integer) {
    *x *= y;
    *x %= modulus;
}
