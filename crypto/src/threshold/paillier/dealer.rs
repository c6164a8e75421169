//! The dealer: primes, the split of the secret exponent, sealed shares.

use chacha20::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use rug::Integer;
use zeroize::Zeroizing;

use super::super::{AUTHORITY, KeySecret, KeySetup, MAX_HOLDERS};
use super::number::{SecretInteger, random_limbs};
use super::primes::safe_prime;
use super::public::PublicKey;
use super::share::{SEALED_OVERHEAD, Share, seal_info};
use super::size::Size;
use crate::merkle::hash_parts;
use crate::secret::Secret;
use crate::sum::SchemeError;

fn stream(domain: &str, seed: &[u8; 32]) -> ChaCha20Rng {
    ChaCha20Rng::from_seed(*Zeroizing::new(hash_parts(domain, &[seed]).0))
}

/// Both primes of a key, each searched on a thread of its own from its own stream.
pub(super) fn primes(size: Size, seed: &Secret<[u8; 32]>) -> [SecretInteger; 2] {
    let search = |domain| safe_prime(size.prime_bits(), &mut stream(domain, seed.expose()));
    std::thread::scope(|scope| {
        let other = scope.spawn(|| search("quorate/paillier/dealer/q/1"));
        let p = search("quorate/paillier/dealer/p/1");
        match other.join() {
            Ok(q) => [p, q],
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Deals a key over the safe primes p and q: the post, which is the public key and every holder's
/// sealed share, and the authority's own share.
///
/// d is 0 modulo m = p' q' and 1 modulo n; it is the sum modulo n m of d_KA, uniform, and d_B, which
/// alone is shared, on a polynomial of degree T - 1. What is secret is wiped on return but for the
/// authority's share.
///
/// # Security
/// Whoever runs this knows the factors until it returns.
pub(super) fn deal(
    size: Size,
    setup: &KeySetup<'_>,
    [p, q]: &[SecretInteger; 2],
    seed: &Secret<[u8; 32]>,
) -> Result<(Vec<u8>, KeySecret), SchemeError> {
    let holders = u32::try_from(setup.holders.len()).unwrap_or(u32::MAX);
    if !(1..=MAX_HOLDERS).contains(&holders) || !(1..=holders).contains(&setup.threshold) {
        return Err(SchemeError::Key("no such threshold among these holders"));
    }
    let rng = &mut stream("quorate/paillier/dealer/shares/1", seed.expose());
    let n = Integer::from(&p.0 * &q.0);
    if n.significant_bits() != size.0 || p.0 == q.0 {
        return Err(SchemeError::Key("the primes give no modulus of this size"));
    }
    let n_squared = n.clone().square();
    let half = |prime: &SecretInteger| SecretInteger(Integer::from(&prime.0 >> 1));
    let m = SecretInteger(Integer::from(&half(p).0 * &half(q).0));
    let order = SecretInteger(Integer::from(&n * &m.0));
    let Some(inverse) = m.0.invert_ref(&n).map(|inverse| SecretInteger(Integer::from(inverse)))
    else {
        return Err(SchemeError::Key("the primes give no modulus of this size"));
    };
    let d = SecretInteger(Integer::from(&m.0 * &inverse.0));

    let own = SecretInteger::random_below(rng, &order.0);
    let mut shared = SecretInteger(Integer::from(&d.0 - &own.0));
    shared.0.modulo_mut(&order.0);
    let mut coefficients = vec![shared];
    for _ in 1..setup.threshold {
        coefficients.push(SecretInteger::random_below(rng, &order.0));
    }
    let mut shares = vec![own];
    for i in 1..=holders {
        let mut share = SecretInteger(Integer::new());
        for coefficient in coefficients.iter().rev() {
            share.0 *= i;
            share.0 += &coefficient.0;
            share.0 %= &order.0;
        }
        shares.push(share);
    }

    let x = unit(size, rng, &n);
    let h_s = (&n - x.square() % &n).secure_pow_mod(&n, &n_squared);
    let v = unit(size, rng, &n_squared).square() % &n_squared;
    let delta = Integer::from(Integer::factorial(holders));
    let raised = v.clone().secure_pow_mod(&delta, &n_squared);
    let mut verifiers = Vec::with_capacity(shares.len());
    let floor = Integer::from(1) << (size.share_bits() - 1);
    for share in &mut shares {
        // The least share + j n m with its top bit at the place that all shares have it.
        let steps = SecretInteger(Integer::from(&floor - &share.0) + &order.0 - 1u32);
        let steps = SecretInteger(Integer::from(&steps.0 / &order.0));
        share.0 += &steps.0 * &order.0;
        verifiers.push(Integer::from(raised.secure_pow_mod_ref(&share.0, &n_squared)));
    }
    let public = PublicKey::encode(size, setup.threshold, &n, [&h_s, &v], &verifiers)
        .ok_or(SchemeError::Key("no such threshold among these holders"))?;
    let key = hash_parts("quorate/paillier/key/1", &[&public]).0;

    let mut post = public;
    let mut kept = None;
    for (number, value) in (AUTHORITY..).zip(shares) {
        let share = Share { number, value };
        if let Some(holder) = number.checked_sub(1).and_then(|at| setup.holders.get(at as usize)) {
            let info = seal_info(&setup.context, &key, number);
            let bytes = share.to_bytes(size);
            let sealed = holder
                .seal(&info, bytes.expose(), rng)
                .filter(|sealed| sealed.len() == bytes.expose().len() + SEALED_OVERHEAD)
                .ok_or(SchemeError::Key("a holder's exchange key is of small order"))?;
            post.extend_from_slice(&sealed);
        } else {
            kept = Some(share.to_bytes(size));
        }
    }
    kept.map(|kept| (post, kept)).ok_or(SchemeError::Key("no share for the authority"))
}

/// A random number below `modulus`, which is coprime to it but for a chance of 2^-`prime_bits`.
fn unit(size: Size, rng: &mut impl Rng, modulus: &Integer) -> Integer {
    let limbs = random_limbs(rng, modulus.significant_bits() + size.prime_bits());
    let mut x = Integer::from_digits(&limbs, rug::integer::Order::Lsf);
    x %= modulus;
    x
}
