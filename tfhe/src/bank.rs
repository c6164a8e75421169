//! The bank: it encrypts the classes of its accounts under the key holder's public key.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use quorate_client::payments::bank::AccountBook;
use quorate_crypto::secret::Secret;
use quorate_protocols::pv4fad::Side;
use quorate_protocols::refusal::{Code, Refusal};
use rand_core::CryptoRng;
use sha2::{Digest as _, Sha256};
use tfhe::core_crypto::prelude::LweCompactPublicKey;
use tfhe::shortint::CompactPublicKey;
use tfhe::shortint::parameters::CompactPublicKeyEncryptionParameters;
use zeroize::Zeroizing;

use crate::journal::{Journal, write_new};
use crate::parameters::{DIMENSION, PARAMETERS, modulus};
use crate::table::Answers;
use crate::wire::{
    Header, KeyId, Kind, QueryId, asked_accounts, exact, flag_answer_bytes, half, side_byte, take,
    words,
};

const TAG_KEY_FILE: &str = "tag.key";
const JOURNAL_FILE: &str = "answered";

/// The key that banks encrypt under, and the network blinds with.
///
/// # Security
/// Whoever holds it can encrypt and nothing more: no bank reads another's flags.
pub struct PublicKey {
    id: KeyId,
    answers: Answers,
    evaluation: [u8; 32],
    key: CompactPublicKey,
}

impl PublicKey {
    /// Reads a key holder's message.
    ///
    /// # Errors
    /// [`Code::Malformed`], [`Code::UnsupportedVersion`], [`Code::WrongLength`]; [`Code::WrongLabel`]
    /// when it is not what its id names.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Refusal> {
        let (header, payload) = Header::parse(bytes, Kind::PublicKey, None)?;
        exact(payload, 8 * 2 * DIMENSION + 32)?;
        let answers = header.answers();
        let other = || Refusal::new(Code::WrongLabel, "the public key is not the one it names");
        if KeyId::of(answers, payload) != header.key {
            return Err(other());
        }
        let (payload, evaluation) = payload.split_last_chunk().ok_or_else(other)?;
        let parameters = CompactPublicKeyEncryptionParameters::try_from(PARAMETERS)
            .map_err(|error| Refusal::new(Code::Unavailable, error.to_string()))?;
        let key = LweCompactPublicKey::from_container(words(payload), modulus());
        let key = CompactPublicKey::from_raw_parts(key, parameters);
        Ok(Self { id: header.key, answers, evaluation: *evaluation, key })
    }

    /// Writes the public key of these words, to an evaluation key of this hash.
    pub(crate) fn message(
        answers: Answers,
        words: &[u64],
        evaluation: [u8; 32],
    ) -> (KeyId, Vec<u8>) {
        let words = words.iter().flat_map(|word| word.to_le_bytes());
        let payload: Vec<u8> = words.chain(evaluation).collect();
        let id = KeyId::of(answers, &payload);
        let mut bytes = Header::of_key(Kind::PublicKey, answers.byte(), id).begin(payload.len());
        bytes.extend(payload);
        (id, bytes)
    }

    /// Its name.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// What is opened under it: nothing else ever is.
    #[must_use]
    pub const fn answers(&self) -> Answers {
        self.answers
    }

    /// The hash of its evaluation key.
    pub(crate) const fn evaluation(&self) -> [u8; 32] {
        self.evaluation
    }

    /// A compact list of fresh encryptions of `values`: 2048 words, then one per value, at most 2048.
    ///
    /// Randomness is drawn from the processor or the operating system by `tfhe`.
    pub(crate) fn encrypt(&self, values: &[u64]) -> Vec<u64> {
        let list = self.key.encrypt_slice(values);
        list.into_raw_parts().0.into_container()
    }
}

/// How much a bank answers, over all keys, counted in the bits that a key opens per answer: one for labels, four
/// for scores.
///
/// # Security
/// They bound a network that follows the protocol and opens each answer once. One that does not can have one
/// answer opened again and again, with other tables: only the key holder's [`Limits`](crate::holder::Limits)
/// bound that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BankLimits {
    /// Bits about one account, both sides together. Two labels of a network's own tables are enough to learn
    /// an account's class, and one score is enough for both accounts of a payment.
    pub bits_per_account: u32,
    /// Bits in all: what the memory of answers is bounded by.
    pub bits_in_all: u64,
}

/// What a bank has answered so far.
#[derive(Default)]
struct Answered {
    /// By query and side, the hash of the question; none if it was answered before the bank was opened, when
    /// its book may have been another.
    asked: HashMap<(QueryId, u8), Option<[u8; 32]>>,
    /// Bits by tag of the account.
    bits: HashMap<[u8; 16], u32>,
    bits_in_all: u64,
}

impl Answered {
    /// A record: query, side, bits per answer, then the tag of each account.
    fn replay(&mut self, mut record: &[u8]) -> Option<()> {
        let query = QueryId(take(&mut record)?);
        let [side, bits] = take(&mut record)?;
        self.asked.insert((query, side), None);
        while let Some(account) = take(&mut record) {
            self.add(account, bits);
        }
        record.is_empty().then_some(())
    }

    fn add(&mut self, account: [u8; 16], bits: u8) {
        let sum = self.bits.entry(account).or_default();
        *sum = sum.saturating_add(bits.into());
        self.bits_in_all = self.bits_in_all.saturating_add(bits.into());
    }
}

/// A bank.
pub struct Bank {
    book: AccountBook,
    key: PublicKey,
    limits: BankLimits,
    answered: Answered,
    journal: Journal,
    /// What accounts are counted by is keyed, so that the journal alone does not show whose they are.
    tag_key: Secret<[u8; 32]>,
}

impl Bank {
    /// Makes the journal of a bank that has answered nothing, in the existing, empty `folder`.
    ///
    /// # Errors
    /// The system's; `AlreadyExists` when there is one.
    ///
    /// # Security
    /// Nothing is counted in a new folder yet: a bank makes one folder, and keeps it over all keys and books.
    pub fn create<R: CryptoRng>(folder: &Path, rng: &mut R) -> io::Result<()> {
        let mut key = Secret::new([0; 32]);
        rng.fill_bytes(key.expose_mut());
        write_new(&folder.join(TAG_KEY_FILE), key.expose(), 0o600)?;
        Journal::create(&folder.join(JOURNAL_FILE), &tag_key_name(&key))
    }

    /// A bank with the accounts of `book`, that goes on in the folder of [`Self::create`].
    ///
    /// # Errors
    /// A public key that [`PublicKey::from_bytes`] refuses; [`Code::Unavailable`] when the folder's files are
    /// missing, damaged or in use.
    pub fn open(
        folder: &Path,
        book: AccountBook,
        public_key: &[u8],
        limits: BankLimits,
    ) -> Result<Self, Refusal> {
        let key = PublicKey::from_bytes(public_key)?;
        let mut answered = Answered::default();
        let (tag_key, journal) =
            Self::resume(folder, |record| answered.replay(record)).map_err(unavailable)?;
        Ok(Self { book, key, limits, answered, journal, tag_key })
    }

    fn resume(
        folder: &Path,
        replay: impl FnMut(&[u8]) -> Option<()>,
    ) -> io::Result<(Secret<[u8; 32]>, Journal)> {
        let stored = Zeroizing::new(std::fs::read(folder.join(TAG_KEY_FILE))?);
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "a damaged tag key");
        let mut tag_key = Secret::new([0; 32]);
        let bytes = stored.as_array::<32>().ok_or_else(damaged)?;
        tag_key.expose_mut().copy_from_slice(bytes);
        let journal = Journal::open(&folder.join(JOURNAL_FILE), &tag_key_name(&tag_key), replay)?;
        Ok((tag_key, journal))
    }

    /// Answers a question of the network: the class of each account, encrypted.
    ///
    /// A question may be repeated, for instance after a loss, until the bank is opened anew, perhaps with
    /// another book; it is then encrypted anew and not counted again.
    ///
    /// # Errors
    /// - [`Code::Malformed`], [`Code::UnsupportedVersion`], [`Code::WrongLength`], [`Code::WrongLabel`]:
    ///   not a question under this bank's public key.
    /// - [`Code::LabelReuse`]: another question of the same query and side was answered, or any before the bank
    ///   was opened.
    /// - [`Code::BudgetSpent`]: an account, or the bank, was asked for often enough.
    /// - [`Code::Unavailable`]: the journal failed; nothing was answered.
    pub fn answer(&mut self, ask: &[u8]) -> Result<Vec<u8>, Refusal> {
        let (header, payload) = Header::parse(ask, Kind::FlagAsk, Some(self.key.id))?;
        let rows = asked_accounts(&header, payload)?;
        let place = (header.query, side_byte(header.side()));
        let hash: [u8; 32] = Sha256::digest(ask).into();
        match self.answered.asked.get(&place) {
            Some(before) if *before == Some(hash) => {}
            Some(_) => {
                return Err(Refusal::new(Code::LabelReuse, "another question of this query"));
            }
            None => {
                self.charge(place, hash, &rows.iter().map(|row| &*row.account).collect::<Vec<_>>())?
            }
        }
        let class = |row: &crate::wire::AskedAccount| {
            let finding = match header.side() {
                Side::Ordering => self.book.ordering(&row.account),
                Side::Beneficiary => self.book.beneficiary(&row.account, &row.name),
            };
            finding.severity().class() as u64
        };
        let classes: Zeroizing<Vec<u64>> = Zeroizing::new(rows.iter().map(class).collect());
        let list = self.key.encrypt(&classes);
        let answer = Header::of_query(
            Kind::FlagAnswer,
            header.detail,
            header.key,
            header.query,
            rows.len(),
        )?;
        let mut bytes = answer.begin(flag_answer_bytes(rows.len()));
        bytes.extend(list.iter().flat_map(|word| word.to_le_bytes()));
        Ok(bytes)
    }

    /// Counts a new question and has it on disk.
    fn charge(
        &mut self,
        place: (QueryId, u8),
        hash: [u8; 32],
        accounts: &[&str],
    ) -> Result<(), Refusal> {
        let spent =
            |what| Refusal::new(Code::BudgetSpent, format!("{what} was asked for often enough"));
        let bits = self.key.answers.bits();
        let in_all = accounts.len() as u64 * u64::from(bits);
        if self.answered.bits_in_all.saturating_add(in_all) > self.limits.bits_in_all {
            return Err(spent("this bank"));
        }
        let tags: Vec<[u8; 16]> =
            accounts.iter().map(|account| tag(&self.tag_key, account)).collect();
        let mut more: HashMap<[u8; 16], u32> = HashMap::new();
        for tag in &tags {
            let before = self.answered.bits.get(tag).copied().unwrap_or(0);
            let sum = more.entry(*tag).or_insert(before);
            *sum = sum.saturating_add(bits.into());
            if *sum > self.limits.bits_per_account {
                return Err(spent("an account"));
            }
        }
        let (query, side) = place;
        let mut record = query.0.to_vec();
        record.extend([side, bits]);
        record.extend(tags.as_flattened());
        self.journal.append(&record).map_err(unavailable)?;
        self.answered.asked.insert(place, Some(hash));
        tags.into_iter().for_each(|tag| self.answered.add(tag, bits));
        Ok(())
    }
}

fn unavailable(error: io::Error) -> Refusal {
    Refusal::new(Code::Unavailable, format!("journal: {error}"))
}

/// What an account is counted by.
fn tag(key: &Secret<[u8; 32]>, account: &str) -> [u8; 16] {
    let keyed = Sha256::new_with_prefix("quorate/tfhe-account/2").chain_update(key.expose());
    half(keyed.chain_update(account))
}

/// What a tag key's journal begins with.
fn tag_key_name(key: &Secret<[u8; 32]>) -> [u8; 32] {
    Sha256::new_with_prefix("quorate/tfhe-tags/1").chain_update(key.expose()).finalize().into()
}
