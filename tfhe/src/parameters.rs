//! The one set of parameters, and what follows from it.

use quorate_protocols::pv4fad::forest::CLASSES;
use tfhe::core_crypto::prelude::CiphertextModulus;
use tfhe::shortint::ClassicPBSParameters;
use tfhe::shortint::parameters::ModulusSwitchType;
use tfhe::shortint::parameters::v1_8::V1_8_PARAM_MESSAGE_2_CARRY_2_KS_PBS_TUNIFORM_2M128;

/// The set, by the name that `tfhe` gives it: 128 bits of security, and a bootstrap that goes wrong with
/// a probability below 2^-128, so that no opened answer tells anything about noise.
///
/// Banks' public key is under the same secret key, of dimension 2048 with noise uniform in +-2^17 of
/// 2^64, as in the crate's own sets for public keys.
pub const PARAMETERS: ClassicPBSParameters = V1_8_PARAM_MESSAGE_2_CARRY_2_KS_PBS_TUNIFORM_2M128;

/// [`PARAMETERS`] by name.
pub const NAME: &str = "V1_8_PARAM_MESSAGE_2_CARRY_2_KS_PBS_TUNIFORM_2M128";

/// The number of [`PARAMETERS`] in messages.
pub const ID: u8 = 1;

/// Dimension of ciphertexts of banks and for the key holder.
pub const DIMENSION: usize = 2048;

/// Bits that are the whole secret key: those of its smaller part, under which the evaluation key has the
/// larger one.
///
/// # Security
/// A network that has so many bits of its choice opened reads every flag under the key. Each bit before that is
/// one dimension less for whoever attacks the rest: roughly a seventh of a bit of the 128.
pub const KEY_BITS: u64 = PARAMETERS.lwe_dimension.0 as u64;

/// Numbers that a look-up tells apart.
pub(crate) const INPUTS: usize = 16;

/// Steps of 2^59 around the torus: what `tfhe` encodes the values of a look-up in.
pub(crate) const STEPS: u8 = 32;

/// Pairs of classes.
pub const PAIRS: usize = CLASSES * CLASSES;

const _: () = assert!(PAIRS <= INPUTS);
const _: () = assert!(KEY_BITS == 918);
const _: () = assert!(PARAMETERS.glwe_dimension.0 * PARAMETERS.polynomial_size.0 == DIMENSION);
const _: () = assert!(matches!(
    PARAMETERS.modulus_switch_noise_reduction_params,
    ModulusSwitchType::CenteredMeanNoiseReduction
));
const _: () = assert!(
    PARAMETERS.message_modulus.0 * PARAMETERS.carry_modulus.0 == INPUTS as u64
        && STEPS as usize == 2 * INPUTS
);

/// Words are numbers modulo 2^64.
pub(crate) const fn modulus() -> CiphertextModulus<u64> {
    CiphertextModulus::new_native()
}
