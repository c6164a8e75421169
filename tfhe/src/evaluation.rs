//! The evaluation key as bytes: the seeds of its masks and its bodies. The public key has its hash.
//!
//! All lengths follow from [`PARAMETERS`](crate::parameters::PARAMETERS), so nothing is deserialised whose shape
//! a message could choose: 16 bytes of seed and 918 x 2 x 2048 words of the bootstrapping key, 16 bytes of seed and
//! 2048 x 4 words of the key-switching key.

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

use crate::bank::PublicKey;
use crate::parameters::{DIMENSION, PARAMETERS, modulus};
use crate::wire::{Header, Kind, exact, take, words};

const BOOTSTRAP_WORDS: usize = PARAMETERS.lwe_dimension.0
    * PARAMETERS.pbs_level.0
    * (PARAMETERS.glwe_dimension.0 + 1)
    * PARAMETERS.polynomial_size.0;
const SWITCH_WORDS: usize = DIMENSION * PARAMETERS.ks_level.0;
const PAYLOAD: usize = 16 + 8 * BOOTSTRAP_WORDS + 16 + 8 * SWITCH_WORDS;

/// The payload of an evaluation key's message.
///
/// # Errors
/// `InvalidData` when it is of other parameters than ours.
pub(crate) fn payload(server: CompressedServerKey) -> io::Result<Vec<u8>> {
    let other = || io::Error::new(io::ErrorKind::InvalidData, "a key of other parameters");
    let CompressedAtomicPatternServerKey::Standard(server) = server.into_raw_parts().0 else {
        return Err(other());
    };
    let (switch, bootstrap, _) = server.into_raw_parts();
    let ShortintCompressedBootstrappingKey::Classic { bsk: bootstrap, .. } = bootstrap else {
        return Err(other());
    };
    let mut bytes = Vec::with_capacity(PAYLOAD);
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
    Ok(bytes)
}

/// What a public key names its evaluation key by.
pub(crate) fn hash(payload: &[u8]) -> [u8; 32] {
    Sha256::new_with_prefix("quorate/tfhe-evaluation/2").chain_update(payload).finalize().into()
}

/// The key-switching and the bootstrapping key.
type Parts = (SeededLweKeyswitchKey<Vec<u64>>, SeededLweBootstrapKey<Vec<u64>>);

/// Takes the evaluation key of `public` apart.
///
/// # Errors
/// As [`Header::parse`]; [`Code::WrongLength`]; [`Code::WrongLabel`] when it is not the one that `public` names.
pub(crate) fn parts(bytes: &[u8], public: &PublicKey) -> Result<Parts, Refusal> {
    let (_, payload) = Header::parse(bytes, Kind::EvaluationKey, Some(public.id()))?;
    exact(payload, PAYLOAD)?;
    let other =
        || Refusal::new(Code::WrongLabel, "not the evaluation key that the public key names");
    if hash(payload) != public.evaluation() {
        return Err(other());
    }
    let mut rest = payload;
    let mut part = |count: usize| {
        let seed = u128::from_le_bytes(take(&mut rest)?);
        let (body, left) = rest.split_at_checked(8 * count)?;
        rest = left;
        Some((CompressionSeed::from(Seed(seed)), words(body)))
    };
    let (seed, body) = part(BOOTSTRAP_WORDS).ok_or_else(other)?;
    let bootstrap = SeededLweBootstrapKey::from_container(
        body,
        PARAMETERS.glwe_dimension.to_glwe_size(),
        PARAMETERS.polynomial_size,
        PARAMETERS.pbs_base_log,
        PARAMETERS.pbs_level,
        seed,
        modulus(),
    );
    let (seed, body) = part(SWITCH_WORDS).ok_or_else(other)?;
    let switch = SeededLweKeyswitchKey::from_container(
        body,
        PARAMETERS.ks_base_log,
        PARAMETERS.ks_level,
        LweSize(PARAMETERS.lwe_dimension.0 + 1),
        seed,
        modulus(),
    );
    Ok((switch, bootstrap))
}

/// Reads the evaluation key of `public`.
///
/// # Errors
/// As [`parts`].
pub(crate) fn read(bytes: &[u8], public: &PublicKey) -> Result<ServerKey, Refusal> {
    let (switch, bootstrap) = parts(bytes, public)?;
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
