//! Messages, views and stored states of vertical jobs, and lists of tags, at live machines of all roles.
#![no_main]
use libfuzzer_sys::fuzz_target;
use quorate_crypto::psi::TagList;
use quorate_protocols::fedv::sim::fuzz;

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    match kind % 5 {
        0 => fuzz::fuzz_message(rest),
        1 => fuzz::fuzz_signed(rest),
        2 => fuzz::fuzz_view(rest),
        3 => fuzz::fuzz_state(rest),
        _ => {
            let _ = TagList::decode(rest, u32::from(*kind));
        }
    }
});
