//! Boxes of letters: on the disk before a letter counts as taken, erased once its receiver has handled
//! it.
//!
//! A box numbers its letters from 1, and never gives a number twice. A letter that waits already is not
//! put again. What one role may have waiting for another is bounded; who is over it sends later.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use quorate_client::engine::now_ms;
use quorate_client::store::{Batch, Fact, Store, StoreError};
use quorate_crypto::merkle::Hash;
use quorate_protocols::pv4fad::Envelope;
use quorate_protocols::refusal::{Code, Refusal};
use quorate_protocols::wire::{MAX_MESSAGE_BYTES, Name, Signed, Verified, decode, encode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;

use crate::driver::Failure;

/// Kind of the records that say what waits, by job, receiver and number.
const LETTER: &str = "letter";
/// Kind of the records with the letters themselves, under the same keys.
const BODY: &str = "letter-body";
/// Kind of the records with the last number that a box gave, by job and receiver.
const LAST: &str = "letter-last";

/// Most letters, and bytes of letters, that one role has waiting for another.
const MAX_WAITING: usize = if cfg!(test) { 5 } else { 4096 };
const MAX_WAITING_BYTES: u64 = if cfg!(test) { 6 << 20 } else { 128 << 20 };
/// Bytes of letters in one answer: a single letter may have more.
const ANSWER_BYTES: u64 = MAX_MESSAGE_BYTES as u64 - (256 << 10);

/// A letter that waits.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Waiting {
    hash: Hash,
    from: Name,
    bytes: u64,
}

#[derive(Debug, Default)]
struct Box {
    last: u64,
    letters: BTreeMap<u64, Waiting>,
}

/// The boxes of one job, by receiver; read from the store when they are first needed.
#[derive(Debug)]
struct Boxes {
    boxes: tokio::sync::Mutex<Option<BTreeMap<Name, Box>>>,
    changed: watch::Sender<()>,
}

/// The boxes of all jobs.
#[derive(Debug, Default)]
pub(in crate::aggregator) struct Mailboxes {
    jobs: Mutex<HashMap<Hash, Arc<Boxes>>>,
}

/// Letters with their numbers.
pub(super) type Letters = Vec<(u64, Signed<Envelope>)>;

fn key(job: &Hash, to: &Name, number: u64) -> String {
    format!("{job}/{to}/{number:012}")
}

async fn read(store: &Store, job: &Hash) -> Result<BTreeMap<Name, Box>, StoreError> {
    let mut boxes: BTreeMap<Name, Box> = BTreeMap::new();
    let prefix = format!("{job}/");
    let name = |text: Option<&str>| {
        text.and_then(|text| Name::new(text).ok()).ok_or(StoreError::BadNumber)
    };
    for (key, last) in store.list_records(LAST, &prefix).await? {
        let last = last.try_into().map_err(|_| StoreError::BadNumber)?;
        boxes.entry(name(key.split('/').nth(1))?).or_default().last = u64::from_le_bytes(last);
    }
    for (key, waiting) in store.list_records(LETTER, &prefix).await? {
        let mut parts = key.split('/').skip(1);
        let to = name(parts.next())?;
        let number = parts.next().and_then(|n| n.parse().ok()).ok_or(StoreError::BadNumber)?;
        let waiting = decode(&waiting).map_err(|_| StoreError::BadNumber)?;
        boxes.entry(to).or_default().letters.insert(number, waiting);
    }
    Ok(boxes)
}

/// The writes that put a letter under the next number of a box; none when it waits already.
fn put(
    job: &Hash,
    boxes: &mut BTreeMap<Name, Box>,
    letter: &Verified<Envelope>,
    batch: Batch,
) -> Result<Batch, Refusal> {
    let own = boxes.entry(letter.to.clone()).or_default();
    let body = encode(letter.signed());
    let waiting =
        Waiting { hash: letter.hash(), from: letter.from.clone(), bytes: body.len() as u64 };
    let (mut count, mut bytes) = (0, waiting.bytes);
    for other in own.letters.values().filter(|other| other.from == waiting.from) {
        if other.hash == waiting.hash {
            return Ok(batch);
        }
        count += 1;
        bytes += other.bytes;
    }
    if count >= MAX_WAITING || (count > 0 && bytes > MAX_WAITING_BYTES) {
        let why =
            format!("{} has letters enough of {} waiting: send later", letter.to, letter.from);
        return Err(Refusal::new(Code::RateLimited, why));
    }
    let number = own.last + 1;
    let (to, from) = (&letter.to, &letter.from);
    let last = format!("{job}/{to}");
    let fact = Fact {
        at_ms: now_ms(),
        job: job.to_string(),
        actor: "aggregator".to_owned(),
        predicate: "letter.taken".to_owned(),
        body: json!({ "from": from, "to": to, "bytes": waiting.bytes }),
    };
    let key = key(job, to, number);
    let batch = batch
        .put_record(LETTER, &key, encode(&waiting))
        .put_record(BODY, &key, body)
        .put_record(LAST, &last, number.to_le_bytes().to_vec())
        .fact(fact);
    own.last = number;
    own.letters.insert(number, waiting);
    Ok(batch)
}

/// The writes that erase letters of a box up to a number.
fn erase(
    job: &Hash,
    boxes: &mut BTreeMap<Name, Box>,
    (of, up_to): (&Name, u64),
    mut batch: Batch,
) -> Batch {
    let Some(own) = boxes.get_mut(of) else { return batch };
    while let Some(first) = own.letters.first_entry().filter(|first| *first.key() <= up_to) {
        let key = key(job, of, *first.key());
        batch = batch.del_record(LETTER, &key).del_record(BODY, &key);
        first.remove();
    }
    batch
}

impl Mailboxes {
    fn of(&self, job: &Hash) -> Arc<Boxes> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || {
            let (boxes, changed) = (tokio::sync::Mutex::default(), watch::Sender::new(()));
            Arc::new(Boxes { boxes, changed })
        };
        Arc::clone(jobs.entry(*job).or_insert_with(fresh))
    }

    /// Changes a job's boxes with the store: what `change` does in memory is undone, by reading the
    /// store again, when its writes fail or their outcome is not known.
    async fn change_quietly<T>(
        &self,
        store: &Store,
        job: &Hash,
        change: impl FnOnce(&mut BTreeMap<Name, Box>) -> Result<(Batch, T), Refusal>,
    ) -> Result<T, Failure> {
        let of = self.of(job);
        let mut guard = of.boxes.lock().await;
        let mut boxes = match guard.take() {
            Some(boxes) => boxes,
            None => read(store, job).await?,
        };
        let (batch, done) = change(&mut boxes)?;
        if !batch.is_empty() {
            store.commit(batch).await?;
        }
        *guard = Some(boxes);
        Ok(done)
    }

    /// As [`Mailboxes::change_quietly`], with a signal of news.
    async fn change<T>(
        &self,
        store: &Store,
        job: &Hash,
        change: impl FnOnce(&mut BTreeMap<Name, Box>) -> Result<(Batch, T), Refusal>,
    ) -> Result<T, Failure> {
        let of = self.of(job);
        let done = self.change_quietly(store, job, change).await?;
        of.changed.send_replace(());
        Ok(done)
    }

    /// Takes a letter; returns once it is on the disk.
    pub(super) async fn put(
        &self,
        store: &Store,
        job: &Hash,
        letter: &Verified<Envelope>,
    ) -> Result<(), Failure> {
        self.change(store, job, |boxes| Ok((put(job, boxes, letter, Batch::new())?, ()))).await
    }

    /// Erases a party's letters up to `after` and reads the next ones; with a signal of news.
    pub(super) async fn collect(
        &self,
        store: &Store,
        job: &Hash,
        party: &Name,
        after: u64,
    ) -> Result<(Letters, watch::Receiver<()>), Failure> {
        let news = self.of(job).changed.subscribe();
        // Letters that are gone are no news.
        let next: Vec<u64> = self
            .change_quietly(store, job, |boxes| {
                let batch = erase(job, boxes, (party, after), Batch::new());
                let mut left = ANSWER_BYTES;
                let own = boxes.get(party).map(|own| &own.letters);
                let fits = own.into_iter().flatten().enumerate().take_while(|(at, (_, letter))| {
                    let fits = *at == 0 || letter.bytes <= left;
                    left = left.saturating_sub(letter.bytes);
                    fits
                });
                let next = fits.map(|(_, (number, _))| *number).collect();
                Ok((batch, next))
            })
            .await?;
        let mut letters = Vec::with_capacity(next.len());
        for number in next {
            if let Some(body) = store.get_record(BODY, &key(job, party, number)).await? {
                letters.push((number, decode(&body)?));
            }
        }
        Ok((letters, news))
    }

    /// The authority's first letter; with a signal of news.
    pub(super) async fn first(
        &self,
        store: &Store,
        job: &Hash,
        authority: &Name,
    ) -> Result<(Option<(u64, Signed<Envelope>)>, watch::Receiver<()>), Failure> {
        let news = self.of(job).changed.subscribe();
        let first = self
            .change_quietly(store, job, |boxes| {
                let own = boxes.get(authority);
                let first = own.and_then(|own| own.letters.first_key_value());
                Ok((Batch::new(), first.map(|(number, _)| *number)))
            })
            .await?;
        let Some(number) = first else { return Ok((None, news)) };
        let body = store.get_record(BODY, &key(job, authority, number)).await?;
        let body = body.ok_or(StoreError::BadNumber)?;
        Ok((Some((number, decode(&body)?)), news))
    }

    /// The authority answered a letter: it goes, and the answers are taken, in one commit.
    pub(super) async fn answered(
        &self,
        store: &Store,
        job: &Hash,
        (authority, number): (&Name, u64),
        answers: &[Verified<Envelope>],
    ) -> Result<(), Failure> {
        self.change(store, job, |boxes| {
            let mut batch = erase(job, boxes, (authority, number), Batch::new());
            for answer in answers {
                batch = put(job, boxes, answer, batch)?;
            }
            Ok((batch, ()))
        })
        .await
    }

    /// Erases all letters of a job that is over.
    pub(super) async fn forget(&self, store: &Store, job: &Hash) -> Result<(), Failure> {
        let prefix = format!("{job}/");
        let batch = Batch::new().del_records(LETTER, &prefix).del_records(BODY, &prefix);
        let of = self.of(job);
        let mut guard = of.boxes.lock().await;
        store.commit(batch.del_records(LAST, &prefix)).await?;
        *guard = None;
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).remove(job);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use quorate_crypto::keys::Identity;

    use super::*;

    const JOB: Hash = Hash([7; 32]);

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn letter(from: &str, to: &str, bytes: usize, fill: u8) -> Verified<Envelope> {
        let sealed = vec![fill; bytes];
        let letter = Envelope { job: JOB, from: name(from), to: name(to), sealed };
        Signed::sign(letter, &Identity::from_bytes(&[3; 64]))
    }

    fn code(done: Result<(), Failure>) -> Option<Code> {
        match done {
            Ok(()) => None,
            Err(Failure::Refused(refusal)) => Some(refusal.code),
            Err(error) => panic!("{error}"),
        }
    }

    async fn numbers(mail: &Mailboxes, store: &Store, of: &str, after: u64) -> Vec<(u64, u8)> {
        let (letters, _) = mail.collect(store, &JOB, &name(of), after).await.unwrap();
        letters.iter().map(|(n, l)| (*n, l.peek().unwrap().sealed[0])).collect()
    }

    #[tokio::test]
    async fn letters_are_numbered_once_kept_until_handled_and_survive() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let mail = Mailboxes::default();
        for fill in 1..=3 {
            mail.put(&store, &JOB, &letter("network", "bank", 10, fill)).await.unwrap();
        }
        // The same letter again is the same letter.
        mail.put(&store, &JOB, &letter("network", "bank", 10, 2)).await.unwrap();
        assert_eq!(numbers(&mail, &store, "bank", 0).await, [(1, 1), (2, 2), (3, 3)]);
        assert_eq!(numbers(&mail, &store, "network", 0).await, []);
        assert_eq!(numbers(&mail, &store, "bank", 3).await, []);
        // After a restart an empty box goes on where it was.
        store.close().await;
        let store = Store::open(folder.path()).await.unwrap();
        let mail = Mailboxes::default();
        mail.put(&store, &JOB, &letter("network", "bank", 10, 2)).await.unwrap();
        let (first, _) = mail.first(&store, &JOB, &name("bank")).await.unwrap();
        assert_eq!(first.map(|(number, _)| number), Some(4));
        // An answer and the end of what it answers are one commit.
        let answer = letter("bank", "network", 10, 9);
        mail.answered(&store, &JOB, (&name("bank"), 4), &[answer]).await.unwrap();
        assert_eq!(numbers(&mail, &store, "bank", 0).await, []);
        store.close().await;
        let store = Store::open(folder.path()).await.unwrap();
        let mail = Mailboxes::default();
        assert_eq!(numbers(&mail, &store, "network", 0).await, [(1, 9)]);
        mail.forget(&store, &JOB).await.unwrap();
        for kind in [LETTER, BODY, LAST] {
            assert_eq!(store.list_keys(kind, "").await.unwrap(), Vec::<String>::new());
        }
    }

    #[tokio::test]
    async fn what_waits_for_one_receiver_is_bounded_for_each_sender() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let mail = Mailboxes::default();
        for fill in 0..5 {
            mail.put(&store, &JOB, &letter("a", "network", 10, fill)).await.unwrap();
        }
        let more = mail.put(&store, &JOB, &letter("a", "network", 10, 5)).await;
        assert_eq!(code(more), Some(Code::RateLimited));
        // Another sender's letters are not in its way, and bytes count too.
        let long = |fill| letter("b", "network", 2 << 20, fill);
        for (fill, expected) in [(0, None), (1, None), (2, Some(Code::RateLimited))] {
            assert_eq!(code(mail.put(&store, &JOB, &long(fill)).await), expected, "{fill}");
        }
        // An answer has at most so many bytes, and one letter in any case.
        let short: Vec<(u64, u8)> = (1..=5).zip(0..5).collect();
        let seen = numbers(&mail, &store, "network", 0).await;
        assert_eq!(seen, [&short[..], &[(6, 0)]].concat());
        assert_eq!(numbers(&mail, &store, "network", 6).await, [(7, 1)]);
        // Room again, under the next number.
        assert_eq!(code(mail.put(&store, &JOB, &long(2)).await), None);
        assert_eq!(numbers(&mail, &store, "network", 7).await, [(8, 2)]);
    }
}
