//! The evaluation key as bytes: the seeds of its masks, its bodies, and a checksum.
//!
//! All lengths follow from [`PARAMETERS`](crate::parameters::PARAMETERS), so nothing is deserialised whose shape
//! a message could choose: 16 bytes of seed and 918 x 2 x 2048 words of the bootstrapping key, 16 bytes of seed and
//! 2048 x 4 words of the key-switching key, the first half of the SHA-256 of all that.

use std::io;

use quorate_protocols::refusal::{Code, Refusal};
use sha2::{Digest as _, Sha256};
use tfhe::core_crypto::commons::math::random::CompressionSeed;
use tfhe::core_crypto::prelude::{LweSize, SeededLweBootstrapKey, SeededLweKeyswitchKey};
use tfhe::shortint::atomic_pattern::compressed::{
    CompressedAtomicPatternServerKey, CompressedStandardAtomicPatternServerKey,
};
use tfhe::shortint::ciphertext::MaxDegree;
use tfhe::shortint::server_key::{
    CompressedModulusSwitchConfiguration, ShortintCompressedBootstrappingKey,
};
use tfhe::shortint::{CompressedServerKey, ServerKey};
use tfhe_csprng::seeders::{Seed, SeedKind};

use crate::parameters::{DIMENSION, PARAMETERS, modulus};
use crate::wire::{Header, KeyId, Kind, exact, half, take, words};

const BOOTSTRAP_WORDS: usize = PARAMETERS.lwe_dimension.0
    * PARAMETERS.pbs_level.0
    * (PARAMETERS.glwe_dimension.0 + 1)
    * PARAMETERS.polynomial_size.0;
const SWITCH_WORDS: usize = DIMENSION * PARAMETERS.ks_level.0;
const PAYLOAD: usize = 16 + 8 * BOOTSTRAP_WORDS + 16 + 8 * SWITCH_WORDS + 16;

/// Writes the evaluation key of `key`.
///
/// # Errors
/// `InvalidData` when it is of other parameters than ours.
pub(crate) fn write(key: KeyId, server: CompressedServerKey) -> io::Result<Vec<u8>> {
    let other = || io::Error::new(io::ErrorKind::InvalidData, "a key of other parameters");
    let CompressedAtomicPatternServerKey::Standard(server) = server.into_raw_parts().0 else {
        return Err(other());
    };
    let (switch, bootstrap, _) = server.into_raw_parts();
    let ShortintCompressedBootstrappingKey::Classic { bsk: bootstrap, .. } = bootstrap else {
        return Err(other());
    };
    let header = Header::of_key(Kind::EvaluationKey, key);
    let mut bytes = header.begin(PAYLOAD);
    let start = bytes.len();
    let parts = [
        (bootstrap.compression_seed(), bootstrap.as_ref(), BOOTSTRAP_WORDS),
        (switch.compression_seed(), switch.as_ref(), SWITCH_WORDS),
    ];
    for (seed, words, count) in parts {
        let SeedKind::Ctr(value) = seed.inner.seed else { return Err(other()) };
        // A seed is a number from which masks begin at once.
        if words.len() != count || CompressionSeed::from(value) != seed {
            return Err(other());
        }
        bytes.extend(value.0.to_le_bytes());
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }
    let sum = checksum(bytes.get(start..).unwrap_or_default());
    bytes.extend(sum);
    Ok(bytes)
}

/// Reads the evaluation key of `key`.
///
/// # Errors
/// As [`Header::parse`]; [`Code::WrongLength`]; [`Code::Malformed`] when its checksum is wrong.
pub(crate) fn read(bytes: &[u8], key: KeyId) -> Result<ServerKey, Refusal> {
    let (_, payload) = Header::parse(bytes, Kind::EvaluationKey, Some(key))?;
    exact(payload, PAYLOAD)?;
    let damaged = || Refusal::new(Code::Malformed, "the evaluation key is damaged");
    let (content, sum) = payload.split_last_chunk::<16>().ok_or_else(damaged)?;
    if *sum != checksum(content) {
        return Err(damaged());
    }
    let mut rest = content;
    let mut part = |count: usize| {
        let seed = u128::from_le_bytes(take(&mut rest)?);
        let (body, left) = rest.split_at_checked(8 * count)?;
        rest = left;
        Some((CompressionSeed::from(Seed(seed)), words(body)))
    };
    let (seed, body) = part(BOOTSTRAP_WORDS).ok_or_else(damaged)?;
    let bootstrap = SeededLweBootstrapKey::from_container(
        body,
        PARAMETERS.glwe_dimension.to_glwe_size(),
        PARAMETERS.polynomial_size,
        PARAMETERS.pbs_base_log,
        PARAMETERS.pbs_level,
        seed,
        modulus(),
    );
    let (seed, body) = part(SWITCH_WORDS).ok_or_else(damaged)?;
    let switch = SeededLweKeyswitchKey::from_container(
        body,
        PARAMETERS.ks_base_log,
        PARAMETERS.ks_level,
        LweSize(PARAMETERS.lwe_dimension.0 + 1),
        seed,
        modulus(),
    );
    let bootstrap = ShortintCompressedBootstrappingKey::Classic {
        bsk: bootstrap,
        modulus_switch_noise_reduction_key:
            CompressedModulusSwitchConfiguration::CenteredMeanNoiseReduction,
    };
    let order = PARAMETERS.encryption_key_choice.into();
    let server = CompressedStandardAtomicPatternServerKey::from_raw_parts(switch, bootstrap, order);
    let server = CompressedServerKey::from_raw_parts(
        CompressedAtomicPatternServerKey::Standard(server),
        PARAMETERS.message_modulus,
        PARAMETERS.carry_modulus,
        MaxDegree::from_msg_carry_modulus(PARAMETERS.message_modulus, PARAMETERS.carry_modulus),
        PARAMETERS.max_noise_level,
    );
    Ok(server.decompress())
}

fn checksum(content: &[u8]) -> [u8; 16] {
    half(Sha256::new_with_prefix("quorate/tfhe-evaluation/1").chain_update(content))
}
