//! Safe primes from a random stream.

use rand_core::Rng;
use rug::Integer;
use rug::integer::IsPrime;

use super::number::{SecretInteger, random_limbs};

/// Odd candidates looked at before a new random start.
const CANDIDATES: usize = 1 << 17;
/// Rounds of the final test, the library's count: 24 stand for a strong Lucas and Fermat test
/// (Baillie-PSW), the other 40 are Miller-Rabin.
const ROUNDS: u32 = 64;

/// A prime p = 2 p' + 1 of `bits` bits, its two top bits set, with p' prime.
///
/// Candidates follow a random start; p' and 2 p' + 1 are sieved together by small primes.
///
/// # Security
/// The search is variable time. It runs once, at the dealer, before the key is used, on candidates
/// that nobody else influences.
pub(super) fn safe_prime(bits: u32, rng: &mut impl Rng) -> SecretInteger {
    let small = odd_primes(if bits >= 1024 { 1 << 20 } else { 1 << 13 });
    loop {
        let mut limbs = random_limbs(rng, bits - 1);
        if let Some(first) = limbs.first_mut() {
            *first |= 1;
        }
        let mut start = SecretInteger::from_limbs(&limbs);
        start.0.set_bit(bits - 2, true).set_bit(bits - 3, true);
        let sieved = sieve(&start.0, &small);
        for (k, _) in (0u32..).zip(sieved).filter(|(_, struck)| !struck) {
            let half = SecretInteger(Integer::from(&start.0 + 2 * k));
            if half.0.is_probably_prime(1) == IsPrime::No {
                continue;
            }
            let prime = SecretInteger(Integer::from(&half.0 * 2) + 1);
            let sure = |x: &Integer| x.is_probably_prime(ROUNDS) != IsPrime::No;
            if prime.0.significant_bits() == bits && sure(&prime.0) && sure(&half.0) {
                return prime;
            }
        }
    }
}

/// For every k below [`CANDIDATES`], whether a small prime divides start + 2 k or twice that plus 1.
fn sieve(start: &Integer, small: &[u32]) -> Vec<bool> {
    let mut struck = vec![false; CANDIDATES];
    for &prime in small {
        let modulus = u64::from(prime);
        let rest = u64::from(start.mod_u(prime));
        let half = modulus.div_ceil(2);
        let quarter = half * half % modulus;
        // start + 2 k = 0 and 2 start + 4 k + 1 = 0 modulo the prime.
        let first = (modulus - rest) * half % modulus;
        let second = (modulus - (2 * rest + 1) % modulus) * quarter % modulus;
        for from in [first, second] {
            let from = usize::try_from(from).unwrap_or(usize::MAX);
            struck.iter_mut().skip(from).step_by(prime as usize).for_each(|hit| *hit = true);
        }
    }
    struck
}

/// The odd primes below `limit`.
fn odd_primes(limit: usize) -> Vec<u32> {
    let mut composite = vec![false; limit];
    let mut primes = Vec::new();
    for k in (3..limit).step_by(2) {
        if composite.get(k).is_some_and(|hit| !hit) {
            primes.extend(u32::try_from(k));
            composite.iter_mut().skip(k * k).step_by(2 * k).for_each(|hit| *hit = true);
        }
    }
    primes
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng;

    use super::*;

    #[test]
    fn small_primes_are_listed() {
        assert_eq!(odd_primes(32), [3, 5, 7, 11, 13, 17, 19, 23, 29, 31]);
        assert_eq!(odd_primes(1 << 13).len(), 1027);
    }

    #[test]
    fn the_sieve_strikes_exactly_what_small_primes_divide() {
        let start = Integer::from(Integer::u_pow_u(7, 90)) * 2 + 1;
        let small = [3, 5, 7, 97, 8191];
        for (k, struck) in sieve(&start, &small).into_iter().enumerate().take(20_000) {
            let half = Integer::from(&start + 2 * k as u64);
            let prime: Integer = Integer::from(&half * 2) + 1;
            let divided = small.iter().any(|&s| half.is_divisible_u(s) || prime.is_divisible_u(s));
            assert_eq!(struck, divided, "{k}");
        }
    }

    #[test]
    fn safe_primes_have_their_size_and_come_from_the_stream() {
        let draw = |seed: u8, bits| {
            safe_prime(bits, &mut chacha20::ChaCha20Rng::from_seed([seed; 32])).0.clone()
        };
        for bits in [128, 256] {
            let prime = draw(1, bits);
            assert_eq!(prime.significant_bits(), bits);
            assert!(prime.get_bit(bits - 2));
            let half = Integer::from(&prime >> 1);
            for prime in [&prime, &half] {
                assert_ne!(prime.is_probably_prime(60), IsPrime::No);
            }
            assert!(draw(1, bits) == prime && draw(2, bits) != prime);
        }
    }
}
