//! Submission headers: decoding is the inverse of encoding, on every input.
#![no_main]
use libfuzzer_sys::fuzz_target;
use quorate_protocols::round::messages::SubmitHeader;
use quorate_protocols::wire::{Body, Signed};

fuzz_target!(|data: &[u8]| {
    if let Ok(header) = SubmitHeader::from_bytes(data) {
        assert_eq!(header.to_bytes(), data);
    }
    if let Ok(signed) = Signed::<SubmitHeader>::from_wire(data) {
        assert_eq!(signed.to_wire(), data);
        let _ = signed.peek();
    }
});
