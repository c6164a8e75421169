//! The public key and its encoding.

use rug::Integer;

use super::super::{AUTHORITY, MAX_HOLDERS};
use super::number::{from_le, write_le};
use super::pair::Pairs;
use super::size::Size;
use crate::merkle::hash_parts;
use crate::sum::SchemeError;

/// Version of the encoding.
const VERSION: u8 = 1;
/// Version, threshold, holders.
const HEADER_BYTES: usize = 9;

/// n, h_s, v and what the shares raise v to.
pub(super) struct PublicKey {
    pub(super) size: Size,
    pub(super) n: Integer,
    pub(super) n_squared: Integer,
    /// Arithmetic modulo n^2.
    pub(super) pairs: Pairs,
    /// h^n with h = -x^2: its powers are encryptions of zero.
    pub(super) h_s: Integer,
    /// A random square.
    pub(super) v: Integer,
    /// v^(Delta s_i), the authority's first.
    pub(super) verifiers: Vec<Integer>,
    pub(super) threshold: u32,
    /// N!.
    pub(super) delta: Integer,
    /// Of the encoding.
    pub(super) hash: [u8; 32],
}

impl PublicKey {
    /// Bytes of a key with `holders` holders.
    pub(super) const fn bytes(size: Size, holders: usize) -> usize {
        HEADER_BYTES + size.modulus_bytes() + (3 + holders) * size.square_bytes()
    }

    /// The encoding of these values: version, T, N, n, h_s, v, verifiers, all little-endian.
    pub(super) fn encode(
        size: Size,
        threshold: u32,
        n: &Integer,
        [h_s, v]: [&Integer; 2],
        verifiers: &[Integer],
    ) -> Option<Vec<u8>> {
        let holders = u32::try_from(verifiers.len().checked_sub(1)?).ok()?;
        let mut out = vec![0; Self::bytes(size, verifiers.len() - 1)];
        let (header, rest) = out.split_at_mut_checked(HEADER_BYTES)?;
        let (modulus, rest) = rest.split_at_mut_checked(size.modulus_bytes())?;
        let (version, counts) = header.split_first_mut()?;
        let (first, second) = counts.split_at_mut_checked(4)?;
        *version = VERSION;
        first.copy_from_slice(&threshold.to_le_bytes());
        second.copy_from_slice(&holders.to_le_bytes());
        write_le(n, modulus);
        let elements = [h_s, v].into_iter().chain(verifiers);
        for (out, element) in rest.chunks_exact_mut(size.square_bytes()).zip(elements) {
            write_le(element, out);
        }
        Some(out)
    }

    /// Parses the canonical encoding of a key of exactly this size.
    ///
    /// What cannot be seen from outside (that n is a product of two safe primes, that h_s is an n-th
    /// power and v a square, that the shares are those of one polynomial) rests on the dealer.
    pub(super) fn parse(size: Size, bytes: &[u8]) -> Result<Self, SchemeError> {
        let refuse = |why| Err(SchemeError::Key(why));
        let header = bytes.split_first_chunk::<HEADER_BYTES>();
        let Some((&[VERSION, t0, t1, t2, t3, n0, n1, n2, n3], rest)) = header else {
            return refuse("unknown version of a public key");
        };
        let threshold = u32::from_le_bytes([t0, t1, t2, t3]);
        let holders = u32::from_le_bytes([n0, n1, n2, n3]);
        if !(1..=MAX_HOLDERS).contains(&holders) || !(1..=holders).contains(&threshold) {
            return refuse("the public key has no such threshold");
        }
        if bytes.len() != Self::bytes(size, holders as usize) {
            return refuse("the public key has the wrong length");
        }
        let Some((modulus, rest)) = rest.split_at_checked(size.modulus_bytes()) else {
            return refuse("the public key has the wrong length");
        };
        let n = from_le(modulus);
        if n.significant_bits() != size.0 || n.is_even() || n.is_perfect_power() {
            return refuse("the modulus is not of the right size and odd");
        }
        let n_squared = n.clone().square();
        let mut elements: Vec<Integer> =
            rest.chunks_exact(size.square_bytes()).map(from_le).collect();
        // All are squares, or the negative of one, modulo both primes, so their symbol is 1.
        if !elements.iter().all(|x| *x > 1 && *x < n_squared && x.jacobi(&n) == 1) {
            return refuse("an element of the public key is out of its group");
        }
        let verifiers = elements.split_off(2);
        let Ok([h_s, v]) = <[Integer; 2]>::try_from(elements) else {
            return refuse("the public key has the wrong length");
        };
        let hash = hash_parts("quorate/paillier/key/1", &[bytes]).0;
        let delta = Integer::from(Integer::factorial(holders));
        let pairs = Pairs::new(&n);
        Ok(Self { size, n, n_squared, pairs, h_s, v, verifiers, threshold, delta, hash })
    }

    /// N.
    pub(super) fn holders(&self) -> u32 {
        u32::try_from(self.verifiers.len()).unwrap_or(u32::MAX).saturating_sub(1)
    }

    /// `x` to the power of an exponent that is public and not negative.
    pub(super) fn raise(&self, x: &Integer, exponent: &Integer) -> Integer {
        Integer::from(
            x.pow_mod_ref(exponent, &self.n_squared).unwrap_or_else(|| {
                unreachable!("an exponent that is not negative always has a power")
            }),
        )
    }

    /// v^(Delta s) of a participant.
    pub(super) fn verifier(&self, number: u32) -> Option<&Integer> {
        self.verifiers.get(number as usize)
    }

    /// The Lagrange integers at 0 of exactly these participants, divided by what they have in
    /// common, and the factor by which they and the shares multiply d. The authority's is that
    /// factor itself.
    ///
    /// `None` unless they are the authority and T different holders.
    pub(super) fn lagrange(&self, numbers: &[u32]) -> Option<(Vec<Integer>, Integer)> {
        let holders: Vec<u32> = numbers.iter().copied().filter(|&i| i != AUTHORITY).collect();
        let distinct = holders.iter().enumerate().all(|(k, i)| {
            (1..=self.holders()).contains(i) && !holders.iter().take(k).any(|j| j == i)
        });
        if !distinct
            || holders.len() != self.threshold as usize
            || numbers.len() != holders.len() + 1
        {
            return None;
        }
        let mut factors: Vec<Integer> = numbers
            .iter()
            .map(|&i| {
                let mut factor = self.delta.clone();
                if i != AUTHORITY {
                    let others = || holders.iter().filter(|&&j| j != i);
                    others().for_each(|&j| factor *= -i64::from(j));
                    let below: Integer =
                        others().map(|&j| Integer::from(i64::from(i) - i64::from(j))).product();
                    factor.div_exact_mut(&below);
                }
                factor
            })
            .collect();
        let common = factors.iter().fold(self.delta.clone(), |common, factor| common.gcd(factor));
        factors.iter_mut().for_each(|factor| factor.div_exact_mut(&common));
        Some((factors, Integer::from(self.delta.div_exact_ref(&common))))
    }

    /// Numbers below n^2 and coprime to n in their lesser form, from consecutive encodings; the
    /// position of the first that is none as the error.
    pub(super) fn elements(&self, bytes: &[u8]) -> Result<Vec<Integer>, usize> {
        let elements: Vec<Integer> =
            bytes.chunks_exact(self.size.square_bytes()).map(from_le).collect();
        let bad = |x: &Integer| *x < 1 || Integer::from(x + x) > self.n_squared;
        if let Some(at) = elements.iter().position(bad) {
            return Err(at);
        }
        // One common divisor for all; the product is coprime exactly if each element is.
        let mut product = Integer::from(1);
        for x in &elements {
            product *= Integer::from(x % &self.n);
            product %= &self.n;
        }
        if product.gcd(&self.n) != 1 {
            let shares = |x: &Integer| Integer::from(x.gcd_ref(&self.n)) != 1;
            return Err(elements.iter().position(shares).unwrap_or(0));
        }
        Ok(elements)
    }
}
