//! Control messages: whatever decodes encodes again to a message that decodes to the same bytes.
#![no_main]
use libfuzzer_sys::fuzz_target;
use quorate_protocols::round::messages::Message;

fuzz_target!(|data: &[u8]| {
    if let Ok(message) = Message::from_wire(data) {
        let bytes = message.to_wire();
        let again = Message::from_wire(&bytes).expect("our own encoding decodes");
        assert_eq!(again.to_wire(), bytes);
        if let Message::Register(manifest) = &message {
            let _ = manifest.check();
            let _ = manifest.hash();
        }
    }
});
