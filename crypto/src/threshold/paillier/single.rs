//! Paillier with one key holder, as protocols between two parties and a coordinator use it. No service
//! does: it is what vertical training is measured against.
//!
//! Source: Paillier (EUROCRYPT 1999), decryption by the Chinese remainder theorem as in its section 7;
//! randomness h_s^a with a short exponent as in the threshold scheme beside it (Damgard, Jurik and
//! Nielsen, 2010), from the same table of powers.
//!
//! # Security
//! As the threshold scheme's, but whoever has the private key opens everything. Sums of products raise
//! to their weights in variable time, which published implementations do, too; decryption is by the
//! library's silent powers.

use rand_core::CryptoRng;
use rug::Integer;
use zeroize::Zeroizing;

use super::number::{
    SecretInteger, from_le, product_of_powers_vartime, random_limbs, random_limbs_with_top_bit,
    times, to_le, words, write_le,
};
use super::pair::Pairs;
use super::size::Size;
use super::table::FixedBase;
use crate::sum::SchemeError;

/// Bits of a mask: what it hides has fewer than 88, so that 2^-128 is the most that a sum can tell.
const MASK_BITS: u32 = 216;
/// Bytes of a masked number.
pub const MASKED_BYTES: usize = 28;

/// What encrypts, with the table of powers.
pub struct PublicKey {
    size: Size,
    n: Integer,
    n_squared: Integer,
    table: FixedBase,
}

/// One prime, and what decrypts modulo it.
struct Side {
    prime: SecretInteger,
    square: SecretInteger,
    exponent: SecretInteger,
    /// 1 / L((1 + n)^(p - 1)) mod p.
    scale: SecretInteger,
}

/// What decrypts.
pub struct PrivateKey {
    n: Integer,
    p: Side,
    q: Side,
    /// 1 / p mod q.
    inverse: SecretInteger,
}

/// An encrypted number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cipher(Integer);

/// A random number that hides what it is added to.
pub struct Mask(SecretInteger);

impl Side {
    fn new(prime: Integer, n: &Integer) -> Option<Self> {
        let square = prime.clone().square();
        let exponent = Integer::from(&prime - 1);
        let opened = Self::quotient(&Integer::from(n + 1), &exponent, &square, &prime);
        let scale = opened.invert(&prime).ok()?;
        let [prime, square, exponent, scale] = [prime, square, exponent, scale].map(SecretInteger);
        Some(Self { prime, square, exponent, scale })
    }

    /// L(c^(p - 1) mod p^2), L(x) = (x - 1) / p.
    fn quotient(c: &Integer, exponent: &Integer, square: &Integer, prime: &Integer) -> Integer {
        let power = Integer::from(c % square).secure_pow_mod(exponent, square);
        (power - 1u32) / prime
    }

    fn open(&self, c: &Integer) -> Integer {
        let quotient = Self::quotient(c, &self.exponent.0, &self.square.0, &self.prime.0);
        quotient * &self.scale.0 % &self.prime.0
    }
}

/// A key over two primes of half of `bits` bits, given as hexadecimal numbers.
///
/// # Errors
/// [`SchemeError::Key`] when they are no two such primes.
pub fn from_primes(
    bits: u32,
    primes: [&str; 2],
    rng: &mut impl CryptoRng,
) -> Result<(PublicKey, PrivateKey), SchemeError> {
    let bad =
        || SchemeError::Key("two primes of half of the modulus's bits, as hexadecimal numbers");
    let [p, q] = primes.map(|prime| Integer::from_str_radix(prime, 16).map_err(|_| bad()));
    let (p, q) = (p?, q?);
    let n = Integer::from(&p * &q);
    if n.significant_bits() != bits || p == q {
        return Err(bad());
    }
    let size = Size(bits);
    let n_squared = n.clone().square();
    let mut x = Integer::from_digits(&random_limbs(rng, bits + 128), rug::integer::Order::Lsf);
    x %= &n;
    let h_s = (&n - x.square() % &n).secure_pow_mod(&n, &n_squared);
    let table = FixedBase::new(&Pairs::new(&n), &h_s, size.exponent_bits());
    let inverse = SecretInteger(Integer::from(p.invert_ref(&q).ok_or_else(bad)?));
    let sides = (Side::new(p, &n), Side::new(q, &n));
    let (Some(p), Some(q)) = sides else { return Err(bad()) };
    Ok((PublicKey { size, n: n.clone(), n_squared, table }, PrivateKey { n, p, q, inverse }))
}

impl PublicKey {
    /// Bytes of a ciphertext.
    #[must_use]
    pub const fn cipher_bytes(&self) -> usize {
        self.size.square_bytes()
    }

    fn encrypt_all(&self, plain: &[Integer], rng: &mut impl CryptoRng) -> Vec<Cipher> {
        let bits = self.size.exponent_bits();
        let exponents: Vec<Zeroizing<Vec<u64>>> =
            plain.iter().map(|_| random_limbs_with_top_bit(rng, bits)).collect();
        let reduced = |m: &Integer| words(&SecretInteger(m.clone().modulo(&self.n)).0, self.size.0);
        let plain: Vec<Zeroizing<Vec<u64>>> = plain.iter().map(reduced).collect();
        let inputs: Vec<(&[u64], &[u64])> =
            plain.iter().zip(&exponents).map(|(m, a)| (m.as_slice(), a.as_slice())).collect();
        self.table.encryptions(&inputs, bits).into_iter().map(Cipher).collect()
    }

    /// Encrypts numbers, each with fresh randomness.
    #[must_use]
    pub fn encrypt(&self, values: &[i128], rng: &mut impl CryptoRng) -> Vec<Cipher> {
        let plain: Vec<Integer> = values.iter().map(|value| Integer::from(*value)).collect();
        self.encrypt_all(&plain, rng)
    }

    /// Encrypts masks, each with fresh randomness.
    #[must_use]
    pub fn encrypt_masks(&self, masks: &[Mask], rng: &mut impl CryptoRng) -> Vec<Cipher> {
        let plain: Vec<Integer> = masks.iter().map(|mask| mask.0.0.clone()).collect();
        self.encrypt_all(&plain, rng)
    }

    /// An encryption of the sum, with the randomness of both.
    #[must_use]
    pub fn add(&self, a: &Cipher, b: &Cipher) -> Cipher {
        let mut sum = a.0.clone();
        times(&mut sum, &b.0, &self.n_squared);
        Cipher(sum)
    }

    /// An encryption of sum_i weights_i m_i, with no randomness of its own.
    ///
    /// # Errors
    /// [`SchemeError::Key`] when a ciphertext has a factor in common with the modulus.
    ///
    /// # Security
    /// Variable time in the weights.
    pub fn inner_product_vartime(
        &self,
        ciphers: &[Cipher],
        weights: &[i64],
    ) -> Result<Cipher, SchemeError> {
        let power = |sign: i64| {
            let (bases, exponents): (Vec<Integer>, Vec<Integer>) = ciphers
                .iter()
                .zip(weights)
                .filter(|(_, weight)| weight.signum() == sign)
                .map(|(cipher, weight)| (cipher.0.clone(), Integer::from(weight.unsigned_abs())))
                .unzip();
            product_of_powers_vartime(self.table.pairs(), &bases, &exponents)
        };
        let mut sum = power(1);
        let below = power(-1).invert(&self.n_squared);
        let below = below.map_err(|_| SchemeError::Key("a ciphertext that is not a unit"))?;
        times(&mut sum, &below, &self.n_squared);
        Ok(Cipher(sum))
    }

    /// Little-endian ciphertexts, one after the other.
    #[must_use]
    pub fn encode(&self, ciphers: &[Cipher]) -> Vec<u8> {
        let mut out = vec![0; ciphers.len() * self.cipher_bytes()];
        for (out, cipher) in out.chunks_exact_mut(self.cipher_bytes()).zip(ciphers) {
            write_le(&cipher.0, out);
        }
        out
    }

    /// Reads what [`PublicKey::encode`] wrote.
    ///
    /// # Errors
    /// [`SchemeError::Malformed`] for the first that is out of range; [`SchemeError::Length`].
    pub fn decode(&self, bytes: &[u8]) -> Result<Vec<Cipher>, SchemeError> {
        let (width, got) = (self.cipher_bytes(), bytes.len());
        if !got.is_multiple_of(width) {
            return Err(SchemeError::Length { expected: got / width * width, got });
        }
        (0u64..)
            .zip(bytes.chunks_exact(width))
            .map(|(at, bytes)| {
                let number = from_le(bytes);
                if number < 1 || number >= self.n_squared {
                    return Err(SchemeError::Malformed(at));
                }
                Ok(Cipher(number))
            })
            .collect()
    }
}

impl Mask {
    /// A fresh one.
    #[must_use]
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        Self(SecretInteger::from_limbs(&random_limbs(rng, MASK_BITS)))
    }

    /// Takes the mask off; `None` when what is left has over 128 bits.
    #[must_use]
    pub fn take_off(&self, masked: &[u8; MASKED_BYTES]) -> Option<i128> {
        (from_le(masked) - &self.0.0).to_i128()
    }
}

impl PrivateKey {
    fn open(&self, cipher: &Cipher) -> Integer {
        let (low, high) = (self.p.open(&cipher.0), self.q.open(&cipher.0));
        let mut steps = (high - &low) * &self.inverse.0;
        steps.modulo_mut(&self.q.prime.0);
        steps * &self.p.prime.0 + low
    }

    /// The number, if it has at most 128 bits.
    #[must_use]
    pub fn decrypt(&self, cipher: &Cipher) -> Option<i128> {
        let open = self.open(cipher);
        let twice = Integer::from(&open * 2);
        if twice > self.n { (open - &self.n).to_i128() } else { open.to_i128() }
    }

    /// A number under a mask; `None` when it is too long to be one.
    #[must_use]
    pub fn decrypt_masked(&self, cipher: &Cipher) -> Option<[u8; MASKED_BYTES]> {
        let open = self.open(cipher);
        if open.significant_bits() as usize > 8 * MASKED_BYTES {
            return None;
        }
        to_le(&open, MASKED_BYTES).try_into().ok()
    }
}

#[cfg(test)]
mod tests {
    use chacha20::ChaCha20Rng;
    use rand_core::SeedableRng;

    use super::super::testkit::INSECURE_TEST_PRIMES;
    use super::*;

    /// Whatever is encrypted, added and weighted comes out, whatever its sign; a masked number shows
    /// itself to the mask's owner alone.
    #[test]
    fn sums_of_products_open_for_the_key_holder() {
        let rng = &mut ChaCha20Rng::from_seed([1; 32]);
        let (public, private) = from_primes(3072, INSECURE_TEST_PRIMES, rng).unwrap();
        let values = [0, 1, -1, 1 << 70, -(1 << 70), 12_345];
        let ciphers = public.decode(&public.encode(&public.encrypt(&values, rng))).unwrap();
        let opened: Vec<i128> = ciphers.iter().map(|c| private.decrypt(c).unwrap()).collect();
        assert_eq!(opened, values);
        assert_ne!(public.encrypt(&values, rng)[0], ciphers[0]);

        let weights = [5, -7, 0, 1 << 19, 3, -(1 << 19)];
        let expected = values.iter().zip(weights).map(|(v, w)| v * i128::from(w)).sum::<i128>();
        let product = public.inner_product_vartime(&ciphers, &weights).unwrap();
        assert_eq!(private.decrypt(&product), Some(expected));
        let none = public.inner_product_vartime(&ciphers, &[0; 6]).unwrap();
        assert_eq!(private.decrypt(&none), Some(0));

        let masks = [Mask::random(rng), Mask::random(rng)];
        let hidden = public.encrypt_masks(&masks, rng);
        let masked = private.decrypt_masked(&public.add(&product, &hidden[0])).unwrap();
        assert_eq!(masks[0].take_off(&masked), Some(expected));
        assert_ne!(masks[1].take_off(&masked), Some(expected));
    }

    #[test]
    fn wrong_keys_and_bytes_are_refused() {
        let rng = &mut ChaCha20Rng::from_seed([2; 32]);
        let [p, _] = INSECURE_TEST_PRIMES;
        assert!(from_primes(3072, [p, p], rng).is_err());
        assert!(from_primes(2048, INSECURE_TEST_PRIMES, rng).is_err());
        assert!(from_primes(3072, [p, "no number"], rng).is_err());
        let (public, private) = from_primes(3072, INSECURE_TEST_PRIMES, rng).unwrap();
        assert_eq!(public.decode(&[0; 768]), Err(SchemeError::Malformed(0)));
        assert_eq!(public.decode(&[255; 768]), Err(SchemeError::Malformed(0)));
        assert!(matches!(public.decode(&[1; 767]), Err(SchemeError::Length { .. })));
        let wide = public.encrypt(&[-1], rng);
        assert_eq!(private.decrypt_masked(&wide[0]), None);
    }
}
