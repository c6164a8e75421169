//! Decoded messages and stored states are handed to live machines of all three roles.
#![no_main]
use libfuzzer_sys::fuzz_target;
use quorate_protocols::sim::fuzz;

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    match kind % 5 {
        0 => fuzz::fuzz_message(rest),
        1 => fuzz::fuzz_submit_header(rest),
        2 => fuzz::fuzz_signed(rest),
        3 => fuzz::fuzz_state(rest),
        _ => fuzz::fuzz_holder(rest),
    }
});
