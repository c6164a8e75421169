//! Keys for tests: dealt from given primes.

use rug::Integer;

use super::Paillier;
use super::dealer::deal;
use super::number::SecretInteger;
use crate::secret::Secret;
use crate::sum::SchemeError;
use crate::threshold::{KeySecret, KeySetup};

/// As the scheme's [`key_post`](crate::threshold::ThresholdScheme::key_post), from given safe primes,
/// as hexadecimal numbers.
///
/// # Errors
/// [`SchemeError::Key`] when they are no numbers that give a modulus of the scheme's size.
pub fn dealer_from_primes(
    scheme: Paillier,
    setup: &KeySetup<'_>,
    primes: [&str; 2],
    seed: &Secret<[u8; 32]>,
) -> Result<(Vec<u8>, KeySecret), SchemeError> {
    let [p, q] = primes.map(|prime| Integer::from_str_radix(prime, 16));
    let (Ok(p), Ok(q)) = (p, q) else {
        return Err(SchemeError::Key("primes are hexadecimal numbers"));
    };
    deal(scheme.size, setup, &[SecretInteger(p), SecretInteger(q)], seed)
}
