//! Threshold schemes: public keys, ciphertexts with their proofs, partial decryptions, posts to a key
//! and kept secrets. Any bytes end in a refusal or a value. The first byte picks the scheme.
#![no_main]
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use quorate_crypto::schemes;
use quorate_crypto::sum::{Ring, SumShape};
use quorate_crypto::threshold::ThresholdScheme;
use quorate_crypto::threshold::conformance::{
    KeyFixture, check_hostile_bytes, check_hostile_state,
};

const SHAPE: SumShape = SumShape { ring: Ring::Z32, dim: 2, parties: 2, authorities: 1, bits: 8 };

type Keyed = (&'static dyn ThresholdScheme, KeyFixture);

/// A key of each scheme whose key is made in moments.
fn keys() -> &'static [Keyed] {
    static KEYS: OnceLock<Vec<Keyed>> = OnceLock::new();
    KEYS.get_or_init(|| {
        let quick = schemes::threshold().iter().filter(|scheme| scheme.info().name != "paillier");
        quick.map(|scheme| (*scheme, KeyFixture::run(*scheme, 3, 2, 9))).collect()
    })
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    let (scheme, fixture) = &keys()[usize::from(*kind) % keys().len()];
    check_hostile_bytes(*scheme, fixture, SHAPE, rest);
    let sum = schemes::by_id(scheme.info().id).expect("registered");
    check_hostile_state(sum, &fixture.public, SHAPE, rest);
});
