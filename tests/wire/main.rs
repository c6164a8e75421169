//! The wire format, and what hostile bytes may do to it: nothing.

use proptest::prelude::*;
use quorate_protocols::fedv::sim::fuzz as vertical;
use quorate_protocols::pv4fad::sim::fuzz as payments;
use quorate_protocols::round::messages::{Message, SubmitHeader};
use quorate_protocols::sim::fuzz;
use quorate_protocols::wire::Signed;

/// One line per message: its name and its bytes in hex.
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/wire.txt");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn present() -> String {
    let mut lines = vec![format!("submit-header {}", hex(fuzz::header_sample()))];
    lines.extend(fuzz::samples().iter().map(|(name, bytes)| format!("{name} {}", hex(bytes))));
    let all = vertical::samples().iter();
    lines.extend(all.map(|(name, bytes)| format!("{name} {}", hex(bytes))));
    let all = payments::samples().iter();
    lines.extend(all.map(|(name, bytes)| format!("{name} {}", hex(bytes))));
    let all = payments::inner_samples().iter();
    lines.extend(all.map(|(name, bytes)| format!("payments/{name} {}", hex(bytes))));
    lines.join("\n") + "\n"
}

/// A difference here is a new wire version. `QUORATE_BLESS=1` writes the file anew.
#[test]
fn the_wire_format_is_the_committed_one() {
    if std::env::var_os("QUORATE_BLESS").is_some() {
        std::fs::write(GOLDEN, present()).expect("the file can be written");
    }
    let golden = std::fs::read_to_string(GOLDEN).expect("vectors are committed");
    for (golden, present) in golden.lines().zip(present().lines()) {
        assert_eq!(golden, present);
    }
    assert_eq!(golden.lines().count(), present().lines().count());
    assert_eq!(fuzz::samples().len(), 18, "one of each message");
    assert_eq!(vertical::samples().len(), 11, "one of each message of vertical jobs");
    assert_eq!(payments::samples().len(), 7, "one of each message of payments jobs");
    assert_eq!(payments::inner_samples().len(), 22, "one of each message in letters");
}

#[test]
fn samples_read_back() {
    for (name, bytes) in fuzz::samples() {
        let message = Message::from_wire(bytes).expect(name);
        assert_eq!(message.to_wire(), *bytes, "{name}");
        fuzz::fuzz_message(bytes);
        for cut in 0..bytes.len() {
            assert!(Message::from_wire(&bytes[..cut]).is_err(), "{name} cut at {cut}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(Message::from_wire(&longer).is_err(), "{name} with a byte more");
    }
    for (name, bytes) in vertical::samples() {
        assert_eq!(Message::from_wire(bytes).expect(name).to_wire(), *bytes, "{name}");
        vertical::fuzz_message(bytes);
        // What a seed share or a key seals, 100 bytes and more, is cut anywhere to the same effect.
        for cut in (0..bytes.len()).step_by(1 + bytes.len() / 400) {
            assert!(Message::from_wire(&bytes[..cut]).is_err(), "{name} cut at {cut}");
        }
    }
    for (name, bytes) in payments::samples() {
        assert_eq!(Message::from_wire(bytes).expect(name).to_wire(), *bytes, "{name}");
        payments::fuzz_message(bytes);
        for cut in (0..bytes.len()).step_by(1 + bytes.len() / 400) {
            assert!(Message::from_wire(&bytes[..cut]).is_err(), "{name} cut at {cut}");
        }
    }
    payments::inner_samples().values().for_each(|bytes| payments::fuzz_inner(bytes));
    vertical::views().into_iter().for_each(vertical::fuzz_view);
    let header = fuzz::header_sample();
    assert_eq!(header.len(), 256);
    fuzz::fuzz_submit_header(header);
    for cut in 0..header.len() {
        assert!(Signed::<SubmitHeader>::from_wire(&header[..cut]).is_err());
    }
}

/// A length that promises more than the bytes hold is refused before anything is allocated for it.
#[test]
fn declared_lengths_allocate_nothing() {
    for (_, bytes) in fuzz::samples() {
        for at in 3..bytes.len().min(64) {
            let mut hostile = bytes.clone();
            hostile.truncate(at);
            hostile.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
            fuzz::fuzz_message(&hostile);
        }
    }
}

/// A sample with some bytes changed, inserted or cut: this reaches far behind the first decoder.
fn mutated(bytes: &[u8], edits: &[(usize, u8)], cut: usize) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for (at, value) in edits {
        let at = at % out.len();
        out[at] = *value;
    }
    if cut < out.len() {
        out.truncate(cut);
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        fuzz::fuzz_message(&bytes);
        fuzz::fuzz_submit_header(&bytes);
        fuzz::fuzz_signed(&bytes);
        fuzz::fuzz_state(&bytes);
        fuzz::fuzz_holder(&bytes);
    }

    #[test]
    fn mutated_asks_and_transcripts_never_panic(
        which in 0usize..2,
        edits in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..4),
        cut in 0usize..20_000,
    ) {
        fuzz::fuzz_holder(&mutated(&fuzz::holder_samples()[which], &edits, cut));
    }

    #[test]
    fn mutated_messages_never_panic(
        which in 0usize..18,
        edits in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..4),
        cut in 0usize..8_000,
    ) {
        let (_, bytes) = &fuzz::samples()[which];
        fuzz::fuzz_message(&mutated(bytes, &edits, cut));
        // The body of a signed sample, signed again: 3 bytes of frame and 1 of variant come first.
        fuzz::fuzz_signed(&mutated(&bytes[4..], &edits, cut));
    }

    #[test]
    fn mutated_vertical_messages_never_panic(
        which in any::<usize>(),
        edits in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..4),
        cut in 0usize..4_000,
    ) {
        let samples = vertical::samples();
        let bytes = samples.values().nth(which % samples.len()).expect("a sample");
        vertical::fuzz_message(&mutated(bytes, &edits, cut));
        // The body of a signed sample: 3 bytes of frame and 2 of variants come first.
        vertical::fuzz_signed(&mutated(&bytes[5..], &edits, cut));
        let views = vertical::views();
        vertical::fuzz_view(&mutated(views[which % views.len()], &edits, cut));
        let states = vertical::states();
        vertical::fuzz_state(&mutated(states[which % states.len()], &edits, usize::MAX));
    }

    #[test]
    fn mutated_headers_never_panic(
        edits in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..4),
    ) {
        let bytes = mutated(fuzz::header_sample(), &edits, usize::MAX);
        fuzz::fuzz_submit_header(&bytes);
        fuzz::fuzz_signed(&bytes[..192]);
    }

    #[test]
    fn mutated_states_never_panic(
        which in any::<usize>(),
        edits in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..4),
    ) {
        let states = fuzz::state_samples();
        fuzz::fuzz_state(&mutated(&states[which % states.len()], &edits, usize::MAX));
    }
}

proptest! {
    // Each goes to nine machines, with real keys.
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn mutated_payments_messages_never_panic(
        which in any::<usize>(),
        edits in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..4),
        cut in 0usize..4_000,
    ) {
        let samples = payments::samples();
        let bytes = samples.values().nth(which % samples.len()).expect("a sample");
        payments::fuzz_message(&mutated(bytes, &edits, cut));
        let samples = payments::inner_samples();
        let bytes = samples.values().nth(which % samples.len()).expect("a sample");
        payments::fuzz_inner(&mutated(bytes, &edits, cut));
        // The body of a signed sample: a byte of its variant and its length come first.
        payments::fuzz_signed(&mutated(&bytes[3..], &edits, cut));
        let states = payments::states();
        payments::fuzz_state(&mutated(states[which % states.len()], &edits, usize::MAX));
    }
}
