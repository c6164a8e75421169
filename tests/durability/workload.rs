//! A service's use of its store, with a state after each step that can be computed.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use quorate_client::bulk::{Bulk, BulkError, BulkInfo, Spool};
use quorate_client::store::{Batch, Blobs, Fact, Store, StoreError};
use quorate_crypto::merkle::{Hash, leaf_hash};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use serde_json::json;

/// Chunks stored before each commit, which names them.
const CHUNKS: u64 = 3;
/// Steps of one job; its chunks are erased when the job after the next begins.
const JOB: u64 = 10;

fn namespace(step: u64) -> String {
    format!("job{}/round{}", step / JOB, step % 2)
}

fn chunk(step: u64, which: u64) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(step * CHUNKS + which);
    let len = usize::try_from(1 + rng.next_u32() % 20_000).unwrap();
    let mut bytes = vec![0; len];
    rng.fill_bytes(&mut bytes);
    bytes
}

fn state(step: u64) -> Vec<u8> {
    step.to_le_bytes().repeat(usize::try_from(1 + step * 37 % 900).unwrap())
}

fn machine(step: u64) -> String {
    format!("m{}", step % 5)
}

/// The job whose chunks step `step` gives up.
fn erased(step: u64) -> Option<u64> {
    (step.is_multiple_of(JOB) && step >= 2 * JOB).then(|| step / JOB - 2)
}

fn batch(step: u64) -> Batch {
    let id = machine(step);
    let batch = Batch::new().put_machine("machine", &id, step / 5, state(step)).fact(Fact {
        at_ms: step,
        job: format!("job{}", step / JOB),
        actor: id,
        predicate: "stepped".into(),
        body: json!({ "step": step }),
    });
    let leaves: Vec<u8> = (0..CHUNKS).flat_map(|i| leaf_hash(&chunk(step, i)).0).collect();
    let mut batch = batch.insert_new_record("chunks", &format!("{step:06}"), leaves);
    for old in erased(step).into_iter().flat_map(|job| job * JOB..(job + 1) * JOB) {
        batch = batch.del_record("chunks", &format!("{old:06}"));
    }
    batch
}

/// Carries on in `dir` up to step `until`, writing a line to `ack` after each commit.
pub(crate) async fn run(dir: &Path, ack: &Path, until: u64) {
    let store = Store::open(dir).await.unwrap();
    let done = verify(&store).await.unwrap();
    let mut ack = std::fs::OpenOptions::new().append(true).create(true).open(ack).unwrap();
    // What was found may be acted on, so it is an acknowledgement too.
    writeln!(ack, "{done}").unwrap();
    for step in done..until {
        let (name, blobs) = (namespace(step), store.blobs());
        let puts: Vec<_> = (0..CHUNKS)
            .map(|i| {
                let (name, blobs, bytes) = (name.clone(), blobs.clone(), chunk(step, i));
                tokio::spawn(async move { receive(&blobs, &name, bytes).await.unwrap() })
            })
            .collect();
        for put in puts {
            put.await.unwrap();
        }
        store.commit(batch(step)).await.unwrap();
        writeln!(ack, "{}", step + 1).unwrap();
        if let Some(job) = erased(step) {
            blobs.delete_namespace(&format!("job{job}")).await.unwrap();
        }
        if step % 23 == 22 {
            store.scrub().await.unwrap();
        }
    }
    store.close().await;
}

/// Takes a chunk as an upload does: not again if it has arrived before.
async fn receive(blobs: &Blobs, namespace: &str, bytes: Vec<u8>) -> Result<(), BulkError> {
    let (len, leaf) = (bytes.len() as u64, leaf_hash(&bytes));
    let bulk = Bulk::parse(BulkInfo { len, root: leaf }, len, &leaf.0)?;
    let spool = Spool::open(blobs, namespace, bulk).await?;
    if spool.complete().is_none() {
        spool.put(0, bytes.into()).await?;
    }
    Ok(())
}

/// Steps that are in a store, if it holds exactly what that number of commits wrote.
pub(crate) async fn verify(store: &Store) -> Result<u64, String> {
    let text = |error: StoreError| error.to_string();
    let check = |good: bool, what: &str| if good { Ok(()) } else { Err(what.to_owned()) };
    let facts = store.facts_since(0, u32::MAX).await.map_err(text)?;
    let done = facts.len() as u64;
    for (step, logged) in (0..).zip(&facts) {
        check(logged.seq == step + 1 && logged.fact.body == json!({ "step": step }), "facts")?;
    }

    let mut last = BTreeMap::new();
    for step in 0..done {
        last.insert(machine(step), (step / 5 + 1, state(step)));
    }
    let ids = store.list_machines("machine").await.map_err(text)?;
    check(ids.iter().eq(last.keys()), "machines")?;
    for id in &ids {
        check(store.load_machine("machine", id).await.map_err(text)? == last.remove(id), id)?;
    }

    let mut named: BTreeMap<String, u64> = BTreeMap::new();
    for step in 0..done {
        named.insert(format!("{step:06}"), step);
        for old in erased(step).into_iter().flat_map(|job| job * JOB..(job + 1) * JOB) {
            named.remove(&format!("{old:06}"));
        }
    }
    let records = store.list_records("chunks", "").await.map_err(text)?;
    check(records.iter().map(|r| &r.0).eq(named.keys()), "records")?;
    for ((key, leaves), step) in records.iter().zip(named.values()) {
        for (leaf, which) in leaves.as_chunks::<32>().0.iter().zip(0..) {
            let read = store.blobs().get_chunk(&namespace(*step), &Hash(*leaf)).await;
            check(read.map_err(text)? == chunk(*step, which), key)?;
        }
    }
    Ok(done)
}
