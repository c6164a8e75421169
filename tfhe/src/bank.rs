//! The bank: it encrypts the classes of its accounts under the key holder's public key.

use std::collections::HashMap;
use std::path::Path;

use quorate_client::payments::bank::AccountBook;
use quorate_protocols::pv4fad::Side;
use quorate_protocols::refusal::{Code, Refusal};
use sha2::{Digest as _, Sha256};
use tfhe::core_crypto::prelude::LweCompactPublicKey;
use tfhe::shortint::CompactPublicKey;
use tfhe::shortint::parameters::CompactPublicKeyEncryptionParameters;
use zeroize::{Zeroize as _, Zeroizing};

use crate::journal::Journal;
use crate::parameters::{DIMENSION, PARAMETERS, modulus};
use crate::wire::{
    Header, KeyId, Kind, QueryId, asked_accounts, exact, flag_answer_bytes, half, side_byte, take,
    words,
};

/// The key that banks encrypt under, and the network blinds with.
///
/// # Security
/// Whoever holds it can encrypt and nothing more: no bank reads another's flags.
pub struct PublicKey {
    id: KeyId,
    key: CompactPublicKey,
}

impl PublicKey {
    /// Reads a key holder's message.
    ///
    /// # Errors
    /// [`Code::Malformed`], [`Code::UnsupportedVersion`], [`Code::WrongLength`]; [`Code::WrongLabel`]
    /// when its words are not those that its id names.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Refusal> {
        let (header, payload) = Header::parse(bytes, Kind::PublicKey, None)?;
        exact(payload, 8 * 2 * DIMENSION)?;
        if KeyId::of(payload) != header.key {
            return Err(Refusal::new(Code::WrongLabel, "the public key is not the one it names"));
        }
        let parameters = CompactPublicKeyEncryptionParameters::try_from(PARAMETERS)
            .map_err(|error| Refusal::new(Code::Unavailable, error.to_string()))?;
        let key = LweCompactPublicKey::from_container(words(payload), modulus());
        Ok(Self { id: header.key, key: CompactPublicKey::from_raw_parts(key, parameters) })
    }

    /// Writes the public key of these words.
    pub(crate) fn message(words: &[u64]) -> (KeyId, Vec<u8>) {
        let payload: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let id = KeyId::of(&payload);
        let mut bytes = Header::of_key(Kind::PublicKey, id).begin(payload.len());
        bytes.extend(payload);
        (id, bytes)
    }

    /// Its name.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// A compact list of fresh encryptions of `values`: 2048 words, then one per value, at most 2048.
    ///
    /// Randomness is drawn from the processor or the operating system by `tfhe`.
    pub(crate) fn encrypt(&self, values: &[u64]) -> Vec<u64> {
        let list = self.key.encrypt_slice(values);
        list.into_raw_parts().0.into_container()
    }
}

/// How much a bank answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BankLimits {
    /// Answers about one account, both sides together. Two labels of a network's own tables are enough
    /// to learn an account's class.
    pub per_account: u32,
    /// Answers in all: what the memory of them is bounded by.
    pub in_all: u64,
}

/// A question as it was answered.
type Asked = HashMap<(QueryId, u8), [u8; 16]>;

/// What a bank has answered so far.
#[derive(Default)]
struct Answered {
    asked: Asked,
    /// Answers by hash of the account.
    times: HashMap<[u8; 16], u32>,
    in_all: u64,
}

impl Answered {
    /// A record: query, side, hash of the question, then the hash of each account.
    fn replay(&mut self, mut record: &[u8]) -> Option<()> {
        let query = QueryId(take(&mut record)?);
        let [side] = take(&mut record)?;
        self.asked.insert((query, side), take(&mut record)?);
        while let Some(account) = take(&mut record) {
            self.add(account);
        }
        record.is_empty().then_some(())
    }

    fn add(&mut self, account: [u8; 16]) {
        let times = self.times.entry(account).or_default();
        *times = times.saturating_add(1);
        self.in_all = self.in_all.saturating_add(1);
    }
}

/// A bank.
pub struct Bank {
    book: AccountBook,
    key: PublicKey,
    limits: BankLimits,
    answered: Answered,
    journal: Journal,
}

impl Bank {
    /// A bank with the accounts of `book`, whose journal is in the existing `folder`.
    ///
    /// # Errors
    /// A public key that [`PublicKey::from_bytes`] refuses; [`Code::Unavailable`] when the journal cannot
    /// be used.
    pub fn open(
        folder: &Path,
        book: AccountBook,
        public_key: &[u8],
        limits: BankLimits,
    ) -> Result<Self, Refusal> {
        let key = PublicKey::from_bytes(public_key)?;
        let mut answered = Answered::default();
        let journal = Journal::open(&folder.join("answered"), |record| answered.replay(record))
            .map_err(|error| Refusal::new(Code::Unavailable, format!("journal: {error}")))?;
        Ok(Self { book, key, limits, answered, journal })
    }

    /// Answers a question of the network: the class of each account, encrypted.
    ///
    /// A question may be repeated, for instance after a loss; it is then encrypted anew and not counted
    /// again.
    ///
    /// # Errors
    /// - [`Code::Malformed`], [`Code::UnsupportedVersion`], [`Code::WrongLength`], [`Code::WrongLabel`]:
    ///   not a question under this bank's public key.
    /// - [`Code::LabelReuse`]: another question of the same query and side was answered.
    /// - [`Code::BudgetSpent`]: an account, or the bank, was asked for often enough.
    /// - [`Code::Unavailable`]: the journal failed; nothing was answered.
    pub fn answer(&mut self, ask: &[u8]) -> Result<Vec<u8>, Refusal> {
        let (header, payload) = Header::parse(ask, Kind::FlagAsk, Some(self.key.id))?;
        let rows = asked_accounts(&header, payload)?;
        let place = (header.query, side_byte(header.side()));
        let hash = half(Sha256::new_with_prefix("quorate/tfhe-ask/1").chain_update(ask));
        match self.answered.asked.get(&place) {
            Some(before) if *before == hash => {}
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
        hash: [u8; 16],
        accounts: &[&str],
    ) -> Result<(), Refusal> {
        let spent =
            |what| Refusal::new(Code::BudgetSpent, format!("{what} was asked for often enough"));
        let in_all = self.answered.in_all.saturating_add(accounts.len() as u64);
        if in_all > self.limits.in_all {
            return Err(spent("this bank"));
        }
        let tags: Vec<[u8; 16]> = accounts.iter().map(|account| tag(account)).collect();
        let mut more: HashMap<[u8; 16], u32> = HashMap::new();
        for tag in &tags {
            let before = self.answered.times.get(tag).copied().unwrap_or(0);
            let times = more.entry(*tag).or_insert(before);
            *times = times.saturating_add(1);
            if *times > self.limits.per_account {
                return Err(spent("an account"));
            }
        }
        let (query, side) = place;
        let mut record = query.0.to_vec();
        record.push(side);
        record.extend(hash);
        record.extend(tags.as_flattened());
        let written = self.journal.append(&record);
        record.zeroize();
        written.map_err(|error| Refusal::new(Code::Unavailable, format!("journal: {error}")))?;
        self.answered.asked.insert(place, hash);
        tags.into_iter().for_each(|tag| self.answered.add(tag));
        Ok(())
    }
}

/// What an account is counted by.
fn tag(account: &str) -> [u8; 16] {
    half(Sha256::new_with_prefix("quorate/tfhe-account/1").chain_update(account))
}
