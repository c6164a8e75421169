//! Known answers, computed by other implementations: OpenSSL keystreams under an HMAC-SHA-256
//! expansion for `pad`, a script after RFC 9496 in big integers for `ddh-mcfe`.

use super::ddh::DdhMcfe;
use super::pad::Pad;
use crate::conformance::write_message;
use crate::keys::SharedKey;
use crate::sum::{KeyedNonce, Label, Nonce, PadSuite, Ring, SumContext, SumScheme, SumShape};

fn inputs() -> (SharedKey, Nonce) {
    let key = SharedKey::from_bytes(core::array::from_fn(|i| u8::try_from(i).unwrap()));
    (key, Nonce(core::array::from_fn(|i| 0xa0 + u8::try_from(i).unwrap())))
}

fn context(suite: PadSuite, ring: Ring, dim: u64) -> SumContext {
    let shape = SumShape { ring, dim, parties: 2, authorities: 1, bits: ring.bits() };
    SumContext { label: Label([0x11; 32]), shape, suite, public: std::sync::Arc::default() }
}

fn submit(scheme: &dyn SumScheme, context: &SumContext, plain: &[u8]) -> Vec<u8> {
    let (key, nonce) = inputs();
    write_message(scheme, 0, context, &[KeyedNonce { key: &key, nonce }], plain, 4096).unwrap()
}

/// The encryption of zeros is the pad: its first 16 bytes and those at byte 16384.
#[test]
fn pad_streams() {
    for (suite, ring, first, later) in [
        (
            PadSuite::Aes256Ctr,
            Ring::Z32,
            "d5ef912d1ef9314936418da326e5bcfb",
            "9417cffc1f38ac18272cdf20e7e00cc1",
        ),
        (
            PadSuite::Aes256Ctr,
            Ring::Z64,
            "082aa73f564d537e118792c93b4e189f",
            "70bf3b51cd838e5392e3fe784956c5e6",
        ),
        (
            PadSuite::ChaCha20,
            Ring::Z32,
            "664528bc4713b534114349fa35be24c9",
            "2d7dea847f7b7f58cb6af201e43cce48",
        ),
        (
            PadSuite::ChaCha20,
            Ring::Z64,
            "294e54f288c702f7e434147e3fc66af3",
            "8af3644db0be07a25474ffa0a8767afb",
        ),
    ] {
        let bytes = 16400;
        let context = context(suite, ring, bytes / ring.word_bytes() as u64);
        let pad = submit(&Pad, &context, &vec![0; usize::try_from(bytes).unwrap()]);
        assert_eq!(hex::encode(&pad[..16]), first, "{suite:?} {ring:?}");
        assert_eq!(hex::encode(&pad[16384..]), later, "{suite:?} {ring:?}");
    }
}

/// Words -5 and 98304 have the digits (-5, 0) and (-32768, 2).
#[test]
fn ddh_ciphertext() {
    let context = context(PadSuite::Aes256Ctr, Ring::Z32, 2);
    let plain = [(-5i32).to_le_bytes(), 98_304i32.to_le_bytes()].concat();
    let points: Vec<_> = submit(&DdhMcfe, &context, &plain).chunks(32).map(hex::encode).collect();
    assert_eq!(
        points,
        [
            "82688658fea37945a0f4949d3a8f06256859f62f1f56315c8d0849423e3f091a",
            "32aad06b54c674d4f86b3fcaef1016702266c4cf83622aea1c499880b457ea1f",
            "84e347e08404b19247d6d0a3921b52326f1f0f97097b4bf90cfc07890ca64006",
            "7018217de4c0665d69bc5a5bab74afffe15b8bbb763675c010d4b17a0102cc66",
        ]
    );
}

/// Two members with the same key and nonce: twice s_i.
#[test]
fn ddh_functional_key() {
    let context = context(PadSuite::Aes256Ctr, Ring::Z32, 2);
    let (key, nonce) = inputs();
    let keys = [KeyedNonce { key: &key, nonce }; 2];
    let bytes = write_message(&DdhMcfe, 1, &context, &keys, &[], 2).unwrap();
    let expected = [
        "61e1ee54c0e19fc559304771ef44260d91bece9f3151c63be67efde34597af00",
        "9cc3c82533dbb3b49e264c5d8152fed83b7e7c42a9c0c5b690a11c073ad1000f",
    ];
    assert_eq!(bytes.chunks(32).map(hex::encode).collect::<Vec<_>>(), expected);
}
