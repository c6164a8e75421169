//! Boxes of letters: on the disk before a letter counts as taken, erased once its receiver has handled
//! it.
//!
//! A box numbers its letters from 1, and never gives a number twice. A letter that waits already is not
//! put again. What one role may have waiting for another is bounded; who is over it sends later. Nothing
//! is put for a job that is over.

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
/// Kind of the records with what one role ever sent another, by job, receiver and sender.
const TAKEN: &str = "letter-taken";

/// Most letters, and bytes of letters, that one role has waiting for another.
const MAX_WAITING: usize = if cfg!(test) { 5 } else { 4096 };
const MAX_WAITING_BYTES: u64 = if cfg!(test) { 6 << 20 } else { 128 << 20 };
/// Bytes of letters in one answer: a single letter may have more.
const ANSWER_BYTES: u64 = MAX_MESSAGE_BYTES as u64 - (256 << 10);
/// Letters of one role to another that have a fact each; of later ones every fact counts as many as all
/// before. Facts stay, and whoever may send letters could fill a disk with them.
const FACTS_EACH: u64 = if cfg!(test) { 4 } else { 4096 };

/// A letter that waits.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Waiting {
    hash: Hash,
    from: Name,
    bytes: u64,
}

/// Letters that one role ever sent another.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Taken {
    letters: u64,
    bytes: u64,
}

impl Taken {
    /// Whether the last letter has a fact.
    const fn has_fact(self) -> bool {
        self.letters <= FACTS_EACH || self.letters.is_power_of_two()
    }
}

#[derive(Debug, Default)]
struct Box {
    last: u64,
    letters: BTreeMap<u64, Waiting>,
    taken: BTreeMap<Name, Taken>,
}

type AllBoxes = BTreeMap<Name, Box>;

/// What is known of a job's boxes.
#[derive(Debug, Default)]
enum Known {
    /// What the store holds is not known: they were not needed yet, or a write failed.
    #[default]
    Unread,
    /// They are as in the store.
    Read(AllBoxes),
    /// The job is over: there are none any more.
    Over,
}

/// The boxes of one job, by receiver.
#[derive(Debug)]
struct Boxes {
    known: tokio::sync::Mutex<Known>,
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

async fn read(store: &Store, job: &Hash) -> Result<AllBoxes, StoreError> {
    let mut boxes = AllBoxes::new();
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
    for (key, taken) in store.list_records(TAKEN, &prefix).await? {
        let mut parts = key.split('/').skip(1);
        let (to, from) = (name(parts.next())?, name(parts.next())?);
        let taken = decode(&taken).map_err(|_| StoreError::BadNumber)?;
        boxes.entry(to).or_default().taken.insert(from, taken);
    }
    Ok(boxes)
}

/// A letter on its way into a box.
struct Put<'a> {
    letter: &'a Verified<Envelope>,
    number: u64,
    waiting: Waiting,
    body: Vec<u8>,
    taken: Taken,
}

/// What a step does to a job's boxes. It is made from them and done to them only once its writes are on
/// the disk, so that a refusal touches neither.
#[derive(Default)]
struct Change<'a> {
    /// Letters that go: receiver and number.
    erased: Vec<(Name, u64)>,
    put: Vec<Put<'a>>,
}

impl<'a> Change<'a> {
    /// Erases the letters of a box up to a number.
    fn erase(&mut self, boxes: &AllBoxes, (of, up_to): (&Name, u64)) {
        let own = boxes.get(of).into_iter().flat_map(|own| own.letters.range(..=up_to));
        self.erased.extend(own.map(|(number, _)| (of.clone(), *number)));
    }

    /// Puts a letter under the next number of its box; nothing, when it waits already.
    fn put(&mut self, boxes: &AllBoxes, letter: &'a Verified<Envelope>) -> Result<(), Refusal> {
        let (to, from) = (&letter.to, &letter.from);
        let own = boxes.get(to);
        let body = encode(letter.signed());
        let waiting = Waiting { hash: letter.hash(), from: from.clone(), bytes: body.len() as u64 };
        let new = self.put.iter().filter(|put| put.letter.to == *to);
        let (mut count, mut bytes) = (0, waiting.bytes);
        let stays = own.into_iter().flat_map(|own| own.letters.values());
        let all = stays.chain(new.clone().map(|put| &put.waiting));
        for other in all.filter(|other| other.from == *from) {
            if other.hash == waiting.hash {
                return Ok(());
            }
            count += 1;
            bytes += other.bytes;
        }
        if count >= MAX_WAITING || (count > 0 && bytes > MAX_WAITING_BYTES) {
            let why = format!("{to} has letters enough of {from} waiting: send later");
            return Err(Refusal::new(Code::RateLimited, why));
        }
        let last = new.clone().map(|put| put.number).max();
        let number = last.or(own.map(|own| own.last)).unwrap_or(0) + 1;
        let mut before = new.filter(|put| put.letter.from == *from).map(|put| put.taken);
        let before = before.next_back();
        let before = before.or_else(|| own.and_then(|own| own.taken.get(from)).copied());
        let before = before.unwrap_or_default();
        let taken = Taken {
            letters: before.letters + 1,
            bytes: before.bytes.saturating_add(waiting.bytes),
        };
        self.put.push(Put { letter, number, waiting, body, taken });
        Ok(())
    }

    /// The writes.
    fn batch(&self, job: &Hash) -> Batch {
        let mut batch = Batch::new();
        for (of, number) in &self.erased {
            let key = key(job, of, *number);
            batch = batch.del_record(LETTER, &key).del_record(BODY, &key);
        }
        for put in &self.put {
            let (to, from) = (&put.letter.to, &put.letter.from);
            let key = key(job, to, put.number);
            batch = batch
                .put_record(LETTER, &key, encode(&put.waiting))
                .put_record(BODY, &key, put.body.clone())
                .put_record(LAST, &format!("{job}/{to}"), put.number.to_le_bytes().to_vec())
                .put_record(TAKEN, &format!("{job}/{to}/{from}"), encode(&put.taken));
            if put.taken.has_fact() {
                batch = batch.fact(Fact {
                    at_ms: now_ms(),
                    job: job.to_string(),
                    actor: "aggregator".to_owned(),
                    predicate: "letter.taken".to_owned(),
                    body: json!({
                        "from": from,
                        "to": to,
                        "bytes": put.waiting.bytes,
                        "letters_so_far": put.taken.letters,
                        "bytes_so_far": put.taken.bytes,
                    }),
                });
            }
        }
        batch
    }

    /// Does in memory what was written.
    fn done(self, boxes: &mut AllBoxes) {
        for (of, number) in &self.erased {
            boxes.get_mut(of).and_then(|own| own.letters.remove(number));
        }
        for Put { letter, number, waiting, taken, .. } in self.put {
            let own = boxes.entry(letter.to.clone()).or_default();
            own.last = number;
            own.letters.insert(number, waiting);
            own.taken.insert(letter.from.clone(), taken);
        }
    }
}

fn over() -> Failure {
    Refusal::new(Code::WrongState, "the job is over").into()
}

/// Nothing, where a look was refused: the job is over.
fn or_none<T: Default>(looked: Result<T, Failure>) -> Result<T, Failure> {
    match looked {
        Err(Failure::Refused(_)) => Ok(T::default()),
        looked => looked,
    }
}

impl Mailboxes {
    fn of(&self, job: &Hash) -> Arc<Boxes> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh =
            || Arc::new(Boxes { known: Default::default(), changed: watch::Sender::new(()) });
        Arc::clone(jobs.entry(*job).or_insert_with(fresh))
    }

    /// Changes a job's boxes with the store: after writes that fail, or whose outcome is not known, the
    /// store is read again.
    async fn change_quietly<'a, T>(
        &self,
        store: &Store,
        job: &Hash,
        plan: impl FnOnce(&AllBoxes, &mut Change<'a>) -> Result<T, Refusal>,
    ) -> Result<T, Failure> {
        let of = self.of(job);
        let mut known = of.known.lock().await;
        if matches!(*known, Known::Unread) {
            *known = Known::Read(read(store, job).await?);
        }
        let Known::Read(boxes) = &*known else { return Err(over()) };
        let mut change = Change::default();
        let planned = plan(boxes, &mut change)?;
        let batch = change.batch(job);
        if !batch.is_empty() {
            let Known::Read(mut boxes) = core::mem::take(&mut *known) else { return Err(over()) };
            store.commit(batch).await?;
            change.done(&mut boxes);
            *known = Known::Read(boxes);
        }
        Ok(planned)
    }

    /// As [`Mailboxes::change_quietly`], with a signal of news.
    async fn change<'a, T>(
        &self,
        store: &Store,
        job: &Hash,
        plan: impl FnOnce(&AllBoxes, &mut Change<'a>) -> Result<T, Refusal>,
    ) -> Result<T, Failure> {
        let done = self.change_quietly(store, job, plan).await?;
        self.of(job).changed.send_replace(());
        Ok(done)
    }

    /// Takes a letter; returns once it is on the disk. None is taken after [`Mailboxes::forget`].
    pub(super) async fn put(
        &self,
        store: &Store,
        job: &Hash,
        letter: &Verified<Envelope>,
    ) -> Result<(), Failure> {
        self.change(store, job, |boxes, change| change.put(boxes, letter)).await
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
        let next: Result<Vec<u64>, Failure> = self
            .change_quietly(store, job, |boxes, change| {
                change.erase(boxes, (party, after));
                let mut left = ANSWER_BYTES;
                let own = boxes.get(party).into_iter();
                let own = own.flat_map(|own| own.letters.iter().filter(|(n, _)| **n > after));
                let fits = own.enumerate().take_while(|(at, (_, letter))| {
                    let fits = *at == 0 || letter.bytes <= left;
                    left = left.saturating_sub(letter.bytes);
                    fits
                });
                Ok(fits.map(|(_, (number, _))| *number).collect())
            })
            .await;
        let next = or_none(next)?;
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
            .change_quietly(store, job, |boxes, _| {
                let own = boxes.get(authority);
                Ok(own.and_then(|own| own.letters.first_key_value()).map(|(number, _)| *number))
            })
            .await;
        let Some(number) = or_none(first)? else { return Ok((None, news)) };
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
        self.change(store, job, |boxes, change| {
            change.erase(boxes, (authority, number));
            answers.iter().try_for_each(|answer| change.put(boxes, answer))
        })
        .await
    }

    /// Erases all letters of a job that is over, and takes none for it from now on.
    pub(super) async fn forget(&self, store: &Store, job: &Hash) -> Result<(), Failure> {
        let prefix = format!("{job}/");
        let of = self.of(job);
        let mut known = of.known.lock().await;
        // Before the writes: a letter that waits for this lock is not taken even if they fail.
        *known = Known::Over;
        let kinds = [LETTER, BODY, LAST, TAKEN];
        let batch = kinds.into_iter().fold(Batch::new(), |b, kind| b.del_records(kind, &prefix));
        store.commit(batch).await?;
        drop(known);
        of.changed.send_replace(());
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
        // Nor is one taken that comes too late.
        let late = mail.put(&store, &JOB, &letter("bank", "network", 10, 8)).await;
        assert_eq!(code(late), Some(Code::WrongState));
        assert_eq!(numbers(&mail, &store, "network", 0).await, []);
        for kind in [LETTER, BODY, LAST, TAKEN] {
            assert_eq!(store.list_keys(kind, "").await.unwrap(), Vec::<String>::new());
        }
    }

    #[tokio::test]
    async fn a_refused_letter_does_not_make_the_boxes_be_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let mail = Mailboxes::default();
        for fill in 0..5 {
            mail.put(&store, &JOB, &letter("a", "network", 10, fill)).await.unwrap();
        }
        mail.put(&store, &JOB, &letter("network", "authority", 10, 0)).await.unwrap();
        // What is known of the boxes is not what the store says now: a second look would show it.
        let gone = Batch::new().del_records(LETTER, "").del_records(LAST, "");
        store.commit(gone).await.unwrap();
        let more = letter("a", "network", 10, 5);
        assert_eq!(code(mail.put(&store, &JOB, &more).await), Some(Code::RateLimited));
        let place = (&name("authority"), 1);
        let answered = mail.answered(&store, &JOB, place, std::slice::from_ref(&more)).await;
        assert_eq!(code(answered), Some(Code::RateLimited));
        assert_eq!(code(mail.put(&store, &JOB, &more).await), Some(Code::RateLimited));
        // Nor was anything of the refused steps done: the answered letter still waits.
        assert_eq!(numbers(&mail, &store, "authority", 0).await, [(1, 0)]);
        mail.put(&store, &JOB, &letter("b", "network", 10, 6)).await.unwrap();
        assert_eq!(numbers(&mail, &store, "network", 5).await, [(6, 6)]);
    }

    #[tokio::test]
    async fn the_first_letters_have_a_fact_each_and_later_ones_share_them() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let mut mail = Mailboxes::default();
        for number in 1..=20u8 {
            if number == 10 {
                mail = Mailboxes::default();
            }
            mail.put(&store, &JOB, &letter("a", "network", 10, number)).await.unwrap();
            numbers(&mail, &store, "network", number.into()).await;
        }
        mail.put(&store, &JOB, &letter("b", "network", 10, 0)).await.unwrap();
        let facts = store.facts_since(0, 100).await.unwrap();
        let seen: Vec<_> = facts
            .iter()
            .map(|logged| &logged.fact.body)
            .map(|body| (body["from"].as_str().unwrap(), body["letters_so_far"].as_u64().unwrap()))
            .collect();
        let all = [("a", 1), ("a", 2), ("a", 3), ("a", 4), ("a", 8), ("a", 16), ("b", 1)];
        assert_eq!(seen, all);
        let bytes = |at: usize, what| facts[at].fact.body[what].as_u64().unwrap();
        assert_eq!(bytes(5, "bytes_so_far"), 16 * bytes(5, "bytes"));
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
