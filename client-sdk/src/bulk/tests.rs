use bytes::Bytes;
use proptest::prelude::*;
use quorate_crypto::merkle::leaf_hash;

use super::*;
use crate::store::Store;

fn sample(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}

async fn written(store: &Store, bytes: &[u8], step: usize) -> Bulk {
    let mut writer = BulkWriter::new(store.blobs(), "own");
    for part in bytes.chunks(step) {
        writer.write(part).await.unwrap();
    }
    writer.finish().await.unwrap()
}

async fn open() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    (dir, store)
}

#[tokio::test]
async fn what_is_written_is_read_at_every_boundary() {
    let (_dir, store) = open().await;
    for len in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 5] {
        let bytes = sample(len, len as u64);
        let bulk = written(&store, &bytes, 300_007).await;
        let leaves: Vec<Hash> = bytes.chunks(CHUNK_BYTES).map(leaf_hash).collect();
        assert_eq!(bulk.info(), BulkInfo { len: len as u64, root: root(&leaves) });
        assert_eq!(bulk, written(&store, &bytes, len.max(1)).await);
        assert_eq!(bulk, Bulk::from_record(&bulk.to_record()).unwrap());
        let reader = BulkReader::new(store.blobs(), "own", bulk);
        let end = len as u64;
        let edge = (CHUNK_BYTES as u64).min(end);
        for range in
            [0..end, 0..0, end..end, edge.saturating_sub(3)..end.min(edge + 3), end / 2..end]
        {
            let expected =
                &bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
            assert!(reader.read_range(range).await.unwrap() == expected);
        }
        assert!(matches!(reader.read_range(0..end + 1).await, Err(BulkError::OutOfRange)));
        assert!(matches!(reader.chunk(chunk_count(end)).await, Err(BulkError::OutOfRange)));
    }
}

#[tokio::test]
async fn a_spool_takes_chunks_in_any_order_and_survives_a_restart() {
    let (dir, store) = open().await;
    let mut bytes = sample(3 * CHUNK_BYTES + 17, 5);
    // Two equal chunks: one arrival serves both places.
    bytes.copy_within(0..CHUNK_BYTES, CHUNK_BYTES);
    let bulk = written(&store, &bytes, CHUNK_BYTES).await;
    let chunk = |i: usize| Bytes::from(bytes.chunks(CHUNK_BYTES).nth(i).unwrap().to_vec());
    let spool = Spool::open(store.blobs(), "in", bulk.clone()).await.unwrap();
    assert_eq!(spool.missing(9), [(0, 4)]);
    assert!(spool.complete().is_none());
    spool.put(2, chunk(2)).await.unwrap();
    spool.put(2, chunk(2)).await.unwrap();
    assert_eq!(spool.missing(9), [(0, 2), (3, 4)]);
    assert_eq!(spool.missing(1), [(0, 2)]);

    let wrong = spool.put(0, chunk(2)).await;
    assert!(matches!(wrong, Err(BulkError::WrongChunk { index: 0 })));
    for len in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES + 1] {
        let refused = spool.put(0, Bytes::from(vec![0; len])).await;
        assert!(matches!(refused, Err(BulkError::ChunkLength { .. })), "{len}");
    }
    for index in [4, u64::MAX, u64::MAX / CHUNK_BYTES as u64] {
        assert!(matches!(spool.put(index, chunk(0)).await, Err(BulkError::OutOfRange)));
    }
    drop(spool);
    store.close().await;

    let store = Store::open(dir.path()).await.unwrap();
    let spool = Spool::open(store.blobs(), "in", bulk).await.unwrap();
    assert_eq!(spool.missing(9), [(0, 2), (3, 4)]);
    spool.put(1, chunk(1)).await.unwrap();
    assert_eq!(spool.missing(9), [(3, 4)]);
    spool.put(3, chunk(3)).await.unwrap();
    let reader = spool.complete().unwrap();
    assert!(reader.read_range(0..bytes.len() as u64).await.unwrap() == bytes);
}

#[test]
fn a_declared_length_is_refused_before_allocation() {
    let ten_gb = BulkInfo { len: 10_000_000_000, root: Hash([0; 32]) };
    let refused = Bulk::parse(ten_gb, 4_000_000, &[]);
    assert!(matches!(refused, Err(BulkError::WrongLength { declared: 10_000_000_000, .. })));
    // Even where the protocol would expect it, nothing is allocated beyond the bytes that came.
    assert!(matches!(Bulk::parse(ten_gb, ten_gb.len, &[0; 64]), Err(BulkError::LeafCount)));
    let huge = BulkInfo { len: u64::MAX, root: Hash([0; 32]) };
    assert!(matches!(Bulk::parse(huge, u64::MAX, &[]), Err(BulkError::LeafCount)));
    let empty = BulkInfo { len: 0, root: root(&[]) };
    assert_eq!(Bulk::parse(empty, 0, &[]).unwrap().leaves(), []);
    assert!(Bulk::parse(empty, 0, &[0; 32]).is_err());
    // A short last chunk with the leaf of a full one.
    let twice = [leaf_hash(b"x"); 2];
    let info = BulkInfo { len: CHUNK_BYTES as u64 + 1, root: root(&twice) };
    let bytes = [twice[0].0, twice[1].0].concat();
    assert!(matches!(Bulk::parse(info, info.len, &bytes), Err(BulkError::LeafCount)));
    let full = BulkInfo { len: 2 * CHUNK_BYTES as u64, ..info };
    assert!(Bulk::parse(full, full.len, &bytes).is_ok());
}

proptest! {
    #[test]
    fn any_change_of_the_leaves_is_noticed(seed: u64, byte in 0usize..96, bit in 0u32..8) {
        let leaves: Vec<Hash> = (0..3u8).map(|i| leaf_hash(&[i, seed.to_le_bytes()[0]])).collect();
        let info = BulkInfo { len: 2 * CHUNK_BYTES as u64 + 1, root: root(&leaves) };
        let mut bytes: Vec<u8> = leaves.iter().flat_map(|l| l.0).collect();
        prop_assert!(Bulk::parse(info, info.len, &bytes).is_ok());
        prop_assert!(matches!(Bulk::parse(info, info.len, &bytes[..95]), Err(BulkError::LeafCount)));
        bytes[byte] ^= 1 << bit;
        prop_assert!(matches!(Bulk::parse(info, info.len, &bytes), Err(BulkError::WrongRoot)));
    }

    #[test]
    fn hostile_bytes_do_not_panic(bytes: Vec<u8>) {
        let _ = Bulk::from_record(&bytes);
        if let Ok(opening) = Opening::decode(&bytes) {
            prop_assert_eq!(opening.encode().unwrap(), bytes);
        }
    }
}
