//! Keys for tests and benches, dealt from given primes: no service uses them.

use rug::Integer;

use super::Paillier;
use super::dealer::deal;
use super::number::SecretInteger;
use crate::secret::Secret;
use crate::sum::SchemeError;
use crate::threshold::{KeySecret, KeySetup};

/// Two safe primes of 1536 bits. Test vector: everybody knows them, so keys over them are worth
/// nothing.
pub const INSECURE_TEST_PRIMES: [&str; 2] = [
    "eb5ced27b18202e7c6f29ddaef4b8a4b8a437ac3074e4e6cd28b8d2b78c0ea8d\
     bb95ca9cbc3c58ebfffc072d9f45eb08cf7c3d0da9179de6c0849554bdb66dfd\
     5db0bb5ec5bdec4e787296733e0a38ff3944e01ee9868ca51f66fe48234f66e4\
     8c28c46b172d3b36af70e6b3b38c9395f2015d5a447bdba645a9f59635ed748c\
     57a58e6b68a2e05f79c28bffecf10f447d11b50f91ea9d5d18c4b85399cc9c83\
     0e914a33fde0a30d357fdbe46de2f52ed2aa0c8e7f5746fc03f5621b26ec05cb",
    "c743b5c7f765f23d0388e16d55da5592ad919ab2cd3467fb4cf34cce3ac91991\
     5e0caec19515eb09959648377ffa2ad51d3fb00a827400c4ca17b7c24e0f6c12\
     c382e39392cf469a790836d1f3f239856f5cec583cb092ad8aa75a2957cde474\
     727b42499236c694d7864831fe9b41819acbd5bcfff628b4ce605e6253b57b33\
     69aa798e6bb680dc23ee3946ae55c7b59902030454fe25216ab30e2cf4fd4c6c\
     fe5a3e3933dda57ac193d5ddf7596565faa86adf09990adb129e8e78278da14b",
];

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
