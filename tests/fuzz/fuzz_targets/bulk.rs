//! Bulk openings, leaf lists and their stored records.
#![no_main]
use libfuzzer_sys::fuzz_target;
use quorate_client::bulk::{Bulk, BulkInfo, Opening};
use quorate_crypto::merkle::{Hash, root};

fuzz_target!(|data: &[u8]| {
    if let Ok(opening) = Opening::decode(data) {
        assert_eq!(opening.encode().expect("short"), data);
        let leaves: Vec<Hash> = opening.leaves.as_chunks::<32>().0.iter().copied().map(Hash).collect();
        let info = BulkInfo { len: (leaves.len() as u64) << 20, root: root(&leaves) };
        if let Ok(bulk) = Bulk::parse(info, info.len, &opening.leaves) {
            assert_eq!(bulk.leaf_bytes(), opening.leaves);
        }
    }
    if let Ok(bulk) = Bulk::from_record(data) {
        assert_eq!(bulk.to_record(), data);
    }
});
