//! The key holder: it makes the keys once, and from then on opens masked answers, counted.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use quorate_crypto::secret::Secret;
use quorate_protocols::refusal::{Code, Refusal};
use sha2::{Digest as _, Sha256};
use tfhe::shortint::client_key::atomic_pattern::AtomicPatternClientKey;
use tfhe::shortint::{ClientKey, CompactPublicKey, CompressedServerKey};
use zeroize::{Zeroize as _, Zeroizing};

use crate::bank::PublicKey;
use crate::evaluation;
use crate::journal::{Journal, write_new};
use crate::parameters::{DIMENSION, KEY_BITS, PARAMETERS};
use crate::table::Answers;
use crate::wire::{Header, KeyId, Kind, OPEN_ROW_BYTES, QueryId, exact, half, take};

/// Where the public key lies in a key holder's folder.
pub const PUBLIC_KEY_FILE: &str = "public.key";
/// Where the evaluation key lies.
pub const EVALUATION_KEY_FILE: &str = "evaluation.key";
const SECRET_FILE: &str = "secret.key";
const JOURNAL_FILE: &str = "opened";

/// What a key opens, fixed when it is made.
///
/// # Security
/// Against a network that does not follow the protocol these bounds are all there is: each bit may be one of
/// any flag that it holds, or of the key, and [`KEY_BITS`] of them are the whole key. So `bits_in_all` protects
/// the key only where it is well below that, at some hundred payments per key; beyond, the network is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// What is opened, and nothing else: labels at one bit each, or scores at four.
    pub answers: Answers,
    /// Bits in all; then a new key is needed.
    pub bits_in_all: u64,
    /// Bits within any window.
    pub bits_per_window: u64,
    /// Length of a window in seconds, at least 1.
    pub window_s: u64,
    /// Whether `bits_in_all` may be [`KEY_BITS`] or more.
    pub network_may_extract_key: bool,
}

impl Limits {
    fn check(&self) -> Result<(), &'static str> {
        if self.window_s == 0 {
            return Err("a window of no length limits nothing");
        }
        if self.bits_in_all >= KEY_BITS && !self.network_may_extract_key {
            return Err(
                "so many bits are the whole key, and nothing says that the network may have it",
            );
        }
        Ok(())
    }

    /// Reads what is stored of limits after a header with `answers`.
    fn read(answers: Answers, rest: &mut &[u8]) -> Option<Self> {
        let mut number = || take(rest).map(u64::from_le_bytes);
        let (bits_in_all, bits_per_window, window_s) = (number()?, number()?, number()?);
        let network_may_extract_key = match take(rest)? {
            [0] => false,
            [1] => true,
            _ => return None,
        };
        let limits =
            Self { answers, bits_in_all, bits_per_window, window_s, network_may_extract_key };
        limits.check().is_ok().then_some(limits)
    }
}

/// A query that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The query.
    pub query: QueryId,
    /// Answers.
    pub rows: u32,
    /// When, in seconds since 1970.
    pub at_s: u64,
}

/// What was opened so far.
#[derive(Default)]
struct Opened {
    log: Vec<Opening>,
    /// Hashes of questions, whole, since the network chooses what is hashed.
    asks: HashMap<QueryId, [u8; 32]>,
    rows: u64,
}

impl Opened {
    /// A record: query, hash of the question, answers, time.
    fn record(opening: &Opening, hash: [u8; 32]) -> Vec<u8> {
        let mut record = opening.query.0.to_vec();
        record.extend(hash);
        record.extend(opening.rows.to_le_bytes());
        record.extend(opening.at_s.to_le_bytes());
        record
    }

    fn replay(&mut self, mut record: &[u8]) -> Option<()> {
        let query = QueryId(take(&mut record)?);
        let hash = take(&mut record)?;
        let rows = u32::from_le_bytes(take(&mut record)?);
        let at_s = u64::from_le_bytes(take(&mut record)?);
        self.add(Opening { query, rows, at_s }, hash);
        record.is_empty().then_some(())
    }

    fn add(&mut self, opening: Opening, hash: [u8; 32]) {
        self.log.push(opening);
        self.asks.insert(opening.query, hash);
        self.rows = self.rows.saturating_add(opening.rows.into());
    }

    /// Rows of the last `window_s` seconds.
    fn rows_in_window(&self, now_s: u64, window_s: u64) -> u64 {
        let recent = |opening: &&Opening| now_s.saturating_sub(opening.at_s) < window_s;
        self.log.iter().rev().take_while(recent).map(|opening| u64::from(opening.rows)).sum()
    }
}

/// The key holder.
///
/// # Security
/// It sees uniformly random answers, but its key opens every flag: it must not get a bank's answer, and must
/// not collude with the network. Its secret is kept in its folder, readable by its user alone, and in
/// memory until it is dropped.
pub struct KeyHolder {
    /// One word per bit of the secret key.
    secret: Secret<Vec<u32>>,
    key: KeyId,
    limits: Limits,
    opened: Opened,
    journal: Journal,
}

impl KeyHolder {
    /// Makes a key in the existing, empty `folder`, and writes the files [`PUBLIC_KEY_FILE`] and
    /// [`EVALUATION_KEY_FILE`], to be given to everyone. The secret is written last: a folder without it is of a
    /// process that ended before, and of no use.
    ///
    /// # Errors
    /// The system's; `AlreadyExists` when there is a key; `InvalidInput` for a window of no length, and for
    /// limits at which the network could extract the key unless they say that it may.
    ///
    /// # Security
    /// `tfhe` leaves copies of the secret in the memory of this process: it should end now, and another
    /// [`open`](Self::open) the key.
    pub fn create(folder: &Path, limits: Limits) -> io::Result<()> {
        limits.check().map_err(|what| io::Error::new(io::ErrorKind::InvalidInput, what))?;
        for file in [SECRET_FILE, JOURNAL_FILE, PUBLIC_KEY_FILE, EVALUATION_KEY_FILE] {
            if folder.join(file).try_exists()? {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a key already"));
            }
        }
        let client = ClientKey::new(PARAMETERS);
        let public = CompactPublicKey::new(&client);
        let server = CompressedServerKey::new(&client);
        let bits: Zeroizing<Vec<u8>> = Zeroizing::new(packed(client.encryption_key().as_ref()));
        wipe(client)?;
        let payload = evaluation::payload(server)?;
        let words = public.into_raw_parts().0.into_container();
        let (key, public) = PublicKey::message(limits.answers, &words, evaluation::hash(&payload));
        let mut evaluation = Header::of_key(Kind::EvaluationKey, 0, key).begin(payload.len());
        evaluation.extend(payload);
        write_new(&folder.join(EVALUATION_KEY_FILE), &evaluation, 0o644)?;
        write_new(&folder.join(PUBLIC_KEY_FILE), &public, 0o644)?;
        Self::store(folder, key, limits, &bits)
    }

    /// Writes an empty journal and then the secret, eight bits to a byte.
    pub(crate) fn store(folder: &Path, key: KeyId, limits: Limits, bits: &[u8]) -> io::Result<()> {
        let header = Header::of_key(Kind::Secret, limits.answers.byte(), key);
        let mut stored = Zeroizing::new(header.begin(2 * DIMENSION));
        for number in [limits.bits_in_all, limits.bits_per_window, limits.window_s] {
            stored.extend(number.to_le_bytes());
        }
        stored.push(limits.network_may_extract_key.into());
        stored.extend(bits);
        let sum = checksum(&stored);
        stored.extend(sum);
        Journal::create(&folder.join(JOURNAL_FILE), &key.0)?;
        write_new(&folder.join(SECRET_FILE), &stored, 0o600)
    }

    /// Takes up the key of `folder`, with all that it has opened.
    ///
    /// # Errors
    /// The system's, `NotFound` among them when the journal is missing; `InvalidData` for files that are
    /// damaged, of another version, or do not belong together; `WouldBlock` when another process uses them.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the secret key is damaged");
        let stored = Zeroizing::new(std::fs::read(folder.join(SECRET_FILE))?);
        let (content, sum) = stored.split_last_chunk::<16>().ok_or_else(damaged)?;
        if *sum != checksum(content) {
            return Err(damaged());
        }
        let (header, mut rest) = Header::parse(content, Kind::Secret, None)
            .map_err(|refusal| io::Error::new(io::ErrorKind::InvalidData, refusal.to_string()))?;
        let limits = Limits::read(header.answers(), &mut rest).ok_or_else(damaged)?;
        if rest.len() != DIMENSION / 8 {
            return Err(damaged());
        }
        let mut secret = Secret::new(Vec::with_capacity(DIMENSION));
        for byte in rest {
            secret.expose_mut().extend((0..8).map(|bit| u32::from(byte >> bit & 1)));
        }
        let mut opened = Opened::default();
        let journal = Journal::open(&folder.join(JOURNAL_FILE), &header.key.0, |record| {
            opened.replay(record)
        })?;
        Ok(Self { secret, key: header.key, limits, opened, journal })
    }

    /// The name of its key.
    #[must_use]
    pub const fn key(&self) -> KeyId {
        self.key
    }

    /// What the key opens.
    #[must_use]
    pub const fn limits(&self) -> Limits {
        self.limits
    }

    /// All that was opened, in order.
    #[must_use]
    pub fn log(&self) -> &[Opening] {
        &self.opened.log
    }

    /// Opens the masked answers of a query, at `now_s` seconds since 1970.
    ///
    /// A query is opened once: the same question gets the same bytes and is not counted again.
    ///
    /// # Errors
    /// - [`Code::Malformed`], [`Code::UnsupportedVersion`], [`Code::WrongLength`], [`Code::WrongLabel`]:
    ///   not a question to this key.
    /// - [`Code::LabelReuse`]: another question of the same query was opened.
    /// - [`Code::BudgetSpent`], [`Code::RateLimited`]: more than the limits allow.
    /// - [`Code::Unavailable`]: the journal failed; nothing was opened.
    pub fn answer(&mut self, now_s: u64, ask: &[u8]) -> Result<Vec<u8>, Refusal> {
        let (header, payload) = Header::parse(ask, Kind::OpenAsk, Some(self.key))?;
        exact(payload, header.len() * OPEN_ROW_BYTES)?;
        let hash: [u8; 32] = Sha256::digest(ask).into();
        match self.opened.asks.get(&header.query) {
            Some(before) if *before == hash => {}
            Some(_) => {
                return Err(Refusal::new(Code::LabelReuse, "another question of this query"));
            }
            None => self.charge(now_s, &header, hash)?,
        }
        let mut bytes = Header { kind: Kind::Opened, ..header }.begin(header.len());
        let answers = self.limits.answers;
        let rows = payload.chunks_exact(OPEN_ROW_BYTES);
        bytes.extend(rows.map(|row| opened_answer(answers, phase(self.secret.expose(), row))));
        Ok(bytes)
    }

    /// Counts a new question and has it on disk.
    fn charge(&mut self, now_s: u64, header: &Header, hash: [u8; 32]) -> Result<(), Refusal> {
        // A clock that went back opens no second window.
        let latest = self.opened.log.last().map_or(0, |opening| opening.at_s);
        let opening = Opening { query: header.query, rows: header.rows, at_s: now_s.max(latest) };
        let rows_in_window = self.opened.rows_in_window(opening.at_s, self.limits.window_s);
        let bits = |rows_before: u64| {
            let rows = rows_before.saturating_add(header.rows.into());
            rows.saturating_mul(self.limits.answers.bits().into())
        };
        if bits(self.opened.rows) > self.limits.bits_in_all {
            return Err(Refusal::new(Code::BudgetSpent, "this key has opened all that it may"));
        }
        if bits(rows_in_window) > self.limits.bits_per_window {
            return Err(Refusal::new(Code::RateLimited, "more bits than a window allows"));
        }
        self.journal
            .append(&Opened::record(&opening, hash))
            .map_err(|error| Refusal::new(Code::Unavailable, format!("journal: {error}")))?;
        self.opened.add(opening, hash);
        Ok(())
    }
}

/// The body of a ciphertext without its mask, modulo 2^32: the answer's place on the torus, and noise. The
/// same steps whatever the key.
pub(crate) fn phase(secret: &[u32], row: &[u8]) -> u32 {
    let mut words = row.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word));
    let mask = secret
        .iter()
        .zip(&mut words)
        .fold(0u32, |sum, (bit, word)| sum.wrapping_add(word & bit.wrapping_neg()));
    words.next().unwrap_or(0).wrapping_sub(mask)
}

/// The answer nearest to a place on the torus.
fn opened_answer(answers: Answers, phase: u32) -> u8 {
    let shift = u32::BITS - u32::from(answers.bits());
    let nearest = phase.wrapping_add(1 << (shift - 1)) >> shift;
    u8::try_from(nearest).unwrap_or(0)
}

/// Eight bits of a secret key to a byte.
fn packed(bits: &[u64]) -> Vec<u8> {
    let byte = |bits: &[u64]| {
        (0..).zip(bits).fold(0u8, |byte, (place, bit)| byte | u8::from(*bit == 1) << place)
    };
    let mut packed = Vec::with_capacity(bits.len().div_ceil(8));
    packed.extend(bits.chunks(8).map(byte));
    packed
}

/// Wipes the key as `tfhe` made it.
fn wipe(client: ClientKey) -> io::Result<()> {
    let AtomicPatternClientKey::Standard(client) = client.atomic_pattern else {
        return Err(io::Error::other("a key of other parameters"));
    };
    let (large, small, ..) = client.into_raw_parts();
    large.into_container().zeroize();
    small.into_container().zeroize();
    Ok(())
}

fn checksum(content: &[u8]) -> [u8; 16] {
    half(Sha256::new_with_prefix("quorate/tfhe-secret/1").chain_update(content))
}
