use std::os::unix::fs::PermissionsExt;

use bytes::Bytes;
use quorate_crypto::merkle::{Hash, leaf_hash};
use serde_json::json;

use super::*;

fn fact(predicate: &str) -> Fact {
    Fact {
        at_ms: 1_700_000_000_123,
        job: "job".into(),
        actor: "bank-1".into(),
        predicate: predicate.into(),
        body: json!({"round": 3, "reals": [0.1, -1e-9]}),
    }
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b");
    let store = Store::open(&path).await.unwrap();
    store
        .commit(
            Batch::new()
                .put_machine("party", "job", 0, vec![0, 255, 0])
                .fact(fact("joined"))
                .fact(fact("submitted"))
                .put_record("peer", "bank-1", b"key".to_vec()),
        )
        .await
        .unwrap();
    store.close().await;

    let store = Store::open(&path).await.unwrap();
    assert_eq!(store.load_machine("party", "job").await.unwrap(), Some((1, vec![0, 255, 0])));
    assert_eq!(store.load_machine("authority", "job").await.unwrap(), None);
    assert_eq!(store.list_machines("party").await.unwrap(), ["job"]);
    let facts = store.facts_since(1, 10).await.unwrap();
    assert_eq!(facts, [LoggedFact { seq: 2, fact: fact("submitted") }]);
    assert_eq!(store.facts_since(0, 1).await.unwrap().len(), 1);
    assert_eq!(store.job_facts_since("job", 0, 9).await.unwrap().len(), 2);
    assert!(store.job_facts_since("another", 0, 9).await.unwrap().is_empty());
    assert_eq!(store.get_record("peer", "bank-1").await.unwrap().as_deref(), Some(&b"key"[..]));
}

#[tokio::test]
async fn a_conflict_stores_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    let put = |version| Batch::new().fact(fact("f")).put_machine("m", "x", version, vec![1]);
    store.commit(put(0)).await.unwrap();
    store.commit(put(1)).await.unwrap();
    for (stale, expected) in [(put(1), 1), (put(0), 0), (put(3), 3)] {
        match store.commit(stale).await {
            Err(StoreError::Conflict { expected: e, found: 2, .. }) => assert_eq!(e, expected),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(store.facts_since(0, 10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn only_one_of_two_concurrent_writers_wins() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    let tasks: Vec<_> = (0..8u8)
        .map(|i| {
            let store = store.clone();
            tokio::spawn(async move {
                store.commit(Batch::new().put_machine("m", "x", 0, vec![i])).await.is_ok()
            })
        })
        .collect();
    let mut wins = 0;
    for task in tasks {
        wins += usize::from(task.await.unwrap());
    }
    assert_eq!(wins, 1);
}

#[tokio::test]
async fn a_new_record_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    store.commit(Batch::new().insert_new_record("r", "a_1", vec![1])).await.unwrap();
    let again = Batch::new().put_record("r", "b", vec![9]).insert_new_record("r", "a_1", vec![2]);
    assert!(matches!(store.commit(again).await, Err(StoreError::Exists { .. })));
    store
        .commit(Batch::new().put_record("r", "a%1", vec![3]).put_record("r", "a_2", vec![4]))
        .await
        .unwrap();
    let keys = |rows: Vec<(String, Vec<u8>)>| rows.into_iter().map(|r| r.0).collect::<Vec<_>>();
    assert_eq!(keys(store.list_records("r", "").await.unwrap()), ["a%1", "a_1", "a_2"]);
    assert_eq!(keys(store.list_records("r", "a_").await.unwrap()), ["a_1", "a_2"]);
    store
        .commit(Batch::new().put_record("r", "a_1", vec![7]).del_record("r", "a_2"))
        .await
        .unwrap();
    assert_eq!(store.list_records("r", "a_").await.unwrap(), [("a_1".into(), vec![7])]);
}

#[tokio::test]
async fn a_second_opening_is_refused_and_modes_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = Store::open(&path).await.unwrap();
    assert!(matches!(Store::open(&path).await, Err(StoreError::Locked(_))));
    let mode = |p: &Path| p.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&path.join("blobs")), 0o700);
    store.commit(Batch::new().fact(fact("f"))).await.unwrap();
    for file in [DATABASE, "store.sqlite-wal"] {
        assert_eq!(mode(&path.join(file)), 0o600, "{file}");
    }
    store.close().await;
    Store::open(&path).await.unwrap();
}

#[tokio::test]
async fn a_commit_outlives_its_caller() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    {
        let mut commit = Box::pin(store.commit(Batch::new().put_record("r", "k", vec![1])));
        // Polled once, so that its task exists, then dropped.
        let waker = std::task::Waker::noop();
        let _ = commit.as_mut().poll(&mut std::task::Context::from_waker(waker));
    }
    let stored = async {
        while store.get_record("r", "k").await.unwrap().is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), stored).await.expect("the commit was cancelled");
}

#[tokio::test]
async fn scrubbed_rows_leave_both_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    let secret = b"a-very-recognisable-secret-value".repeat(400);
    store.commit(Batch::new().put_record("r", "k", secret.clone())).await.unwrap();
    let holds = || {
        [DATABASE, "store.sqlite-wal"].iter().any(|f| {
            let bytes = std::fs::read(dir.path().join(f)).unwrap();
            bytes.windows(32).any(|w| w == &secret[..32])
        })
    };
    assert!(holds());
    store.commit(Batch::new().del_record("r", "k")).await.unwrap();
    store.scrub().await.unwrap();
    assert!(!holds());
}

#[tokio::test]
async fn chunks_come_back_or_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).await.unwrap();
    let blobs = store.blobs();
    let bytes = Bytes::from(vec![7u8; 1000]);
    let hash = leaf_hash(&bytes);
    assert!(!blobs.has_chunk("job/a", &hash, 1000).await.unwrap());
    assert!(matches!(blobs.get_chunk("job/a", &hash).await, Err(StoreError::NoChunk(_))));
    for namespace in ["job/a", "job/b", "job2", "job"] {
        blobs.put_chunk(namespace, &hash, bytes.clone()).await.unwrap();
        blobs.put_chunk(namespace, &hash, bytes.clone()).await.unwrap();
        assert_eq!(blobs.get_chunk(namespace, &hash).await.unwrap(), bytes);
    }
    // A flipped bit on the disk is noticed.
    let file = dir.path().join(format!("blobs/job/b/{hash}.chunk"));
    let mut damaged = std::fs::read(&file).unwrap();
    damaged[5] ^= 1;
    std::fs::write(&file, damaged).unwrap();
    assert!(matches!(blobs.get_chunk("job/b", &hash).await, Err(StoreError::Damaged(_))));
    blobs.delete_namespace("job").await.unwrap();
    blobs.delete_namespace("job").await.unwrap();
    assert!(!blobs.has_chunk("job/a", &hash, 1000).await.unwrap());
    assert!(blobs.has_chunk("job2", &hash, 1000).await.unwrap());
    assert!(!blobs.has_chunk("job2", &hash, 999).await.unwrap(), "another length is not it");
    blobs.put_chunk("job/a", &hash, bytes.clone()).await.unwrap();
    assert!(blobs.has_chunk("job/a", &hash, 1000).await.unwrap());
    let long = "x".repeat(129);
    for bad in ["", "/", "a//b", "../a", "a/..", "a b", "a.b", "/a", "a/", long.as_str()] {
        let refused = blobs.put_chunk(bad, &Hash([0; 32]), bytes.clone()).await;
        assert!(matches!(refused, Err(StoreError::BadNamespace)), "{bad}");
        assert!(matches!(blobs.delete_namespace(bad).await, Err(StoreError::BadNamespace)));
    }
}
