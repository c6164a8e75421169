use quorate_crypto::fixed::to_ring;
use quorate_crypto::keys::{ExchangeKey, VerifyKey};
use quorate_crypto::schemes;
use quorate_crypto::sum::{Label, PadSuite, Ring, SumShape};
use quorate_protocols::model::Progress;
use quorate_protocols::wire::Name;

use super::*;
use crate::api::{JobSpec, SumTable};

async fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    (dir, store)
}

/// Two parties, two authorities: seal, release, open; the sum of plain words comes out.
async fn sum_over(scheme: &'static dyn SumScheme, dim: u64) {
    let (_dir, store) = store().await;
    let blobs = store.blobs();
    let shape = SumShape { ring: Ring::Z32, dim, parties: 3, authorities: 2, bits: 32 };
    let context = SumContext {
        label: Label([3; 32]),
        shape,
        suite: PadSuite::Aes256Ctr,
        public: Default::default(),
    };
    let key = |party: u8, authority: u8| SharedKey::from_bytes([party * 16 + authority; 32]);
    let nonce = |party: u8| Nonce([party; 16]);
    let count = i64::try_from(dim).unwrap();
    let mut ciphertexts = Vec::new();
    for party in 0..2u8 {
        let values: Vec<i64> = (0..count).map(|i| i % 1000 - 500 * i64::from(party)).collect();
        let mut plain = Zeroizing::new(Vec::new());
        to_ring(&values, shape.ring, &mut plain);
        let bulk = secret_to_bulk(&plain, (blobs, "plain")).await.unwrap();
        let reader = BulkReader::new(blobs, "plain", bulk);
        let keys = vec![key(party, 0), key(party, 1)];
        let sealed =
            encrypt_to_bulk(scheme, context.clone(), keys, nonce(party), &reader, (blobs, "c"));
        ciphertexts.push(BulkReader::new(blobs, "c", sealed.await.unwrap()));
    }
    let mut keys = Vec::new();
    for authority in 0..2u8 {
        let members = (0..2u8).map(|party| (key(party, authority), nonce(party))).collect();
        let bulk = key_to_bulk(scheme, context.clone(), members, (blobs, "k")).await.unwrap();
        keys.push(BulkReader::new(blobs, "k", bulk));
    }
    let sum = open_to_bulk(scheme, context.clone(), &ciphertexts, &keys, &[], (blobs, "s"))
        .await
        .unwrap();
    let bytes = BulkReader::new(blobs, "s", sum).read_range(0..4 * dim).await.unwrap();
    let words = bytes.as_chunks::<4>().0.iter().map(|word| i64::from(i32::from_le_bytes(*word)));
    assert!(words.eq((0..count).map(|i| 2 * (i % 1000) - 500)));
    // With a key missing nothing opens.
    let open =
        open_to_bulk(scheme, context.clone(), &ciphertexts, &keys[..1], &[], (blobs, "s")).await;
    assert!(matches!(open, Err(EngineError::Scheme(SchemeError::Messages { .. }))));
}

#[tokio::test]
async fn sums_open_over_several_chunks() {
    // One full chunk and a short one.
    sum_over(schemes::by_name("pad").unwrap(), (CHUNK_BYTES as u64) / 4 + 5).await;
}

#[tokio::test]
async fn schemes_with_short_keys_open() {
    sum_over(schemes::by_name("ddh-mcfe").unwrap(), 7).await;
}

#[test]
fn ranges_cover_everything_once_and_fill_chunks() {
    let covered: Vec<_> = ranges(300_000, 8).collect();
    assert_eq!(covered, [0..131_072, 131_072..262_144, 262_144..300_000]);
    assert_eq!(ranges(3, 2 << 20).collect::<Vec<_>>(), [0..1, 1..2, 2..3]);
    assert_eq!(ranges(0, 8).count(), 0);
}

#[tokio::test]
async fn an_identity_is_made_once() {
    let (_dir, store) = store().await;
    let first = load_or_create_identity(&store, "bank-1").await.unwrap();
    let again = load_or_create_identity(&store, "bank-1").await.unwrap();
    let other = load_or_create_identity(&store, "bank-2").await.unwrap();
    assert_eq!(first.identity.verify_key(), again.identity.verify_key());
    assert_eq!((first.epoch, again.epoch), (0, 0));
    assert_ne!(first.identity.verify_key(), other.identity.verify_key());
}

fn manifest(dim: u64) -> Arc<Manifest> {
    let authority = quorate_protocols::job::AuthorityKey {
        name: Name::new("a").unwrap(),
        epoch: 0,
        verify: VerifyKey([1; 32]),
        exchange: ExchangeKey([1; 32]),
    };
    let spec = JobSpec::of_sum("test", 3, SumTable { dim, rounds: 1, max_abs: 10 });
    let tenant = Name::new("t").unwrap();
    Arc::new(spec.into_manifest(tenant, VerifyKey([2; 32]), vec![authority], [0; 16]).unwrap())
}

#[tokio::test]
async fn a_long_vector_is_checked_to_its_last_word() {
    let (_dir, store) = store().await;
    let blobs = store.blobs();
    let dim = 140_000;
    let manifest = manifest(dim);
    let initial = Arc::new(ModelState::of_job(&manifest));
    let mut words = vec![0i64; usize::try_from(dim + HEAD_WORDS).unwrap()];
    words[4] = 2;
    words[5..].fill(20);
    for (index, value, legal) in
        [(5, 20, true), (140_004, 21, false), (0, 1, false), (4, 4, false), (5, -21, false)]
    {
        let mut spoiled = words.clone();
        spoiled[index] = value;
        let mut bytes = Vec::new();
        to_ring(&spoiled, Ring::Z64, &mut bytes);
        let bulk = secret_to_bulk(&Zeroizing::new(bytes), (blobs, "s")).await.unwrap();
        let sum = BulkReader::new(blobs, "s", bulk);
        match advance(&manifest, &initial, 0, 2, &sum).await {
            Ok(advanced) => {
                assert!(legal, "word {index} = {value}");
                assert_eq!((advanced.rows, advanced.hash), (2, initial.hash()));
            }
            Err(error) => {
                assert!(!legal, "{error}");
                assert_eq!(error.into_refusal().unwrap().code, Code::CheckSlot);
            }
        }
    }
}

#[tokio::test]
async fn model_states_are_stored_under_their_content() {
    let (_dir, store) = store().await;
    let state =
        ModelState { moments: None, params: vec![1, -2, i64::MIN], progress: Progress::None };
    let bulk = state_to_bulk(&state, (store.blobs(), "m")).await.unwrap();
    let again = state_to_bulk(&state, (store.blobs(), "m")).await.unwrap();
    assert_eq!(bulk, again);
    let reader = BulkReader::new(store.blobs(), "m", bulk);
    assert_eq!(state_from_bulk(&reader).await.unwrap(), state);
}
