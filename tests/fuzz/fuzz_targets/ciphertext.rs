//! Ciphertexts and functional keys of every served scheme of functional encryption: any bytes open to
//! a refusal or a value.
#![no_main]
use libfuzzer_sys::fuzz_target;
use quorate_crypto::schemes;
use quorate_crypto::sum::{
    EncodedLen, Family, Label, PadSuite, Ring, SchemeInfo, SumContext, SumShape,
};

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    let ring = if kind & 1 == 0 { Ring::Z32 } else { Ring::Z64 };
    let shape = SumShape { ring, dim: 2, parties: 2, authorities: 1, bits: ring.bits() };
    let cx = SumContext {
        label: Label([7; 32]),
        shape,
        suite: PadSuite::Aes256Ctr,
        public: Default::default(),
    };
    let functional = |info: &SchemeInfo| info.family == Family::FunctionalEncryption && info.served;
    for scheme in schemes::all().iter().filter(|scheme| functional(scheme.info())) {
        let mut opener = scheme.opener(&cx, 2).expect("a small shape");
        opener.begin(0..2);
        let mut rest = rest;
        let mut absorbed = true;
        for step in [0, 0, 1] {
            let len = match scheme.encoded_len(&shape, step).expect("a step") {
                EncodedLen::PerCoordinate(each) => each * 2,
                EncodedLen::Fixed(all) => all,
            };
            let (bytes, tail) = rest.split_at(len.min(rest.len()));
            rest = tail;
            absorbed &= opener.absorb(step, bytes).is_ok();
        }
        let mut out = vec![0; 2 * ring.word_bytes()];
        if absorbed {
            let _ = opener.finish(&mut out);
        }
    }
});
