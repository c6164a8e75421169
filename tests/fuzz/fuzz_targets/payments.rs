//! Messages, letters and stored states of payments jobs at live machines of all roles.
#![no_main]
use libfuzzer_sys::fuzz_target;
use quorate_protocols::pv4fad::sim::fuzz;

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    match kind % 4 {
        0 => fuzz::fuzz_message(rest),
        1 => fuzz::fuzz_inner(rest),
        2 => fuzz::fuzz_signed(rest),
        _ => fuzz::fuzz_state(rest),
    }
});
