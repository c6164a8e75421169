//! Messages: a header of fixed length, then a payload whose length follows from it.
//!
//! | bytes | content |
//! |---|---|
//! | 0..3 | "QTF" |
//! | 3 | version, 2 |
//! | 4 | [`Kind`] |
//! | 5 | parameters, [`ID`] |
//! | 6 | public and secret key: 0 labels, 1 scores; to and from banks: 0 ordering side, 1 beneficiary; else 0 |
//! | 7 | 0 |
//! | 8..24 | [`KeyId`] |
//! | 24..40 | [`QueryId`]; 0 in keys |
//! | 40..44 | rows, little-endian; 0 in keys |
//!
//! Words and lengths are little-endian. Every length is known before anything is read or allocated, and
//! left-over bytes are refused.

use quorate_protocols::pv4fad::Side;
use quorate_protocols::refusal::{Code, Refusal};
use sha2::{Digest as _, Sha256};

use crate::parameters::{DIMENSION, ID};
use crate::table::Answers;

/// Version of all messages and stored keys.
pub const VERSION: u8 = 2;

/// Bytes of a header.
pub const HEADER: usize = 44;

/// Most rows of one query.
pub const MAX_ROWS: usize = 1024;

/// Most bytes of an account or a name.
pub const MAX_TEXT: usize = 256;

const MAGIC: [u8; 3] = *b"QTF";

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Key holder to banks and network: 2 x 2048 words of 64 bits, a compact public key, then the SHA-256 of the
    /// evaluation key.
    PublicKey,
    /// Key holder to network: a compressed server key, 30 MB of seeds and words.
    EvaluationKey,
    /// Network to bank: per row the account and, at the beneficiary's side, the name, each with its
    /// length in two bytes.
    FlagAsk,
    /// Bank to network: 2048 words of 64 bits, then one per row: a compact list of ciphertexts.
    FlagAnswer,
    /// Network to key holder: per row 2048 + 1 words of 32 bits.
    OpenAsk,
    /// Key holder to network: per row one byte.
    Opened,
    /// Never sent: the key holder's stored secret.
    Secret,
}

impl Kind {
    const fn byte(self) -> u8 {
        match self {
            Self::PublicKey => 1,
            Self::EvaluationKey => 2,
            Self::FlagAsk => 3,
            Self::FlagAnswer => 4,
            Self::OpenAsk => 5,
            Self::Opened => 6,
            Self::Secret => 7,
        }
    }
}

/// Names a key: the first half of the hash of what it opens, its public key and its evaluation key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyId(pub [u8; 16]);

impl KeyId {
    /// The id of the key with this payload in its public message.
    pub(crate) fn of(answers: Answers, payload: &[u8]) -> Self {
        let hash = Sha256::new_with_prefix("quorate/tfhe-key/2").chain_update([ID, answers.byte()]);
        Self(half(hash.chain_update(payload)))
    }
}

/// Names a query: 128 random bits of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueryId(pub [u8; 16]);

/// The first half of a hash: enough where whoever chooses what is hashed gains nothing by two things of one name.
pub(crate) fn half(hash: Sha256) -> [u8; 16] {
    let hash: [u8; 32] = hash.finalize().into();
    hash.first_chunk().copied().unwrap_or_default()
}

/// What stands before each payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) detail: u8,
    pub(crate) key: KeyId,
    pub(crate) query: QueryId,
    pub(crate) rows: u32,
}

impl Header {
    /// The header of a key.
    pub(crate) const fn of_key(kind: Kind, detail: u8, key: KeyId) -> Self {
        Self { kind, detail, key, query: QueryId([0; 16]), rows: 0 }
    }

    /// The header of a message of a query.
    ///
    /// # Errors
    /// [`Code::WrongLength`] for no rows or more than [`MAX_ROWS`].
    pub(crate) fn of_query(
        kind: Kind,
        detail: u8,
        key: KeyId,
        query: QueryId,
        rows: usize,
    ) -> Result<Self, Refusal> {
        checked_rows(rows)?;
        Ok(Self { kind, detail, key, query, rows: u32::try_from(rows).unwrap_or(u32::MAX) })
    }

    /// Rows, as a length.
    pub(crate) const fn len(&self) -> usize {
        self.rows as usize
    }

    /// A buffer that begins with this header and has room for `payload` bytes more.
    pub(crate) fn begin(&self, payload: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + payload);
        bytes.extend(MAGIC);
        bytes.extend([VERSION, self.kind.byte(), ID, self.detail, 0]);
        bytes.extend(self.key.0);
        bytes.extend(self.query.0);
        bytes.extend(self.rows.to_le_bytes());
        bytes
    }

    /// Takes a message of `kind` apart; of `key`, where one is expected.
    ///
    /// # Errors
    /// - [`Code::Malformed`]: no message of this kind.
    /// - [`Code::UnsupportedVersion`]: another version or other parameters.
    /// - [`Code::WrongLabel`]: of another key.
    /// - [`Code::WrongLength`]: no rows or too many, in a message of a query.
    pub(crate) fn parse(
        bytes: &[u8],
        kind: Kind,
        key: Option<KeyId>,
    ) -> Result<(Self, &[u8]), Refusal> {
        let malformed = |what: &str| Refusal::new(Code::Malformed, format!("{what}: {kind:?}"));
        let mut rest = bytes;
        let [first, second, third, version, tag, parameters, detail, zero] =
            take::<8>(&mut rest).ok_or_else(|| malformed("shorter than a header"))?;
        if [first, second, third] != MAGIC {
            return Err(malformed("no message of this protocol"));
        }
        if version != VERSION {
            return Err(Refusal::new(Code::UnsupportedVersion, format!("version {version}")));
        }
        if tag != kind.byte() || zero != 0 {
            return Err(malformed("not a message of the expected kind"));
        }
        if parameters != ID {
            let other = format!("ciphertexts of parameters {parameters}, not {ID}");
            return Err(Refusal::new(Code::UnsupportedVersion, other));
        }
        let short = || malformed("shorter than a header");
        let of = KeyId(take(&mut rest).ok_or_else(short)?);
        let query = QueryId(take(&mut rest).ok_or_else(short)?);
        let rows = u32::from_le_bytes(take(&mut rest).ok_or_else(short)?);
        if key.is_some_and(|key| key != of) {
            return Err(Refusal::new(Code::WrongLabel, "a message of another key"));
        }
        let header = Self { kind, detail, key: of, query, rows };
        let details = match kind {
            Kind::PublicKey | Kind::Secret | Kind::FlagAsk | Kind::FlagAnswer => 2,
            Kind::EvaluationKey | Kind::OpenAsk | Kind::Opened => 1,
        };
        if detail >= details {
            return Err(malformed("neither answers nor side"));
        }
        match kind {
            Kind::PublicKey | Kind::EvaluationKey | Kind::Secret => {
                if header != Self::of_key(kind, detail, of) {
                    return Err(malformed("a key with a query"));
                }
            }
            Kind::FlagAsk | Kind::FlagAnswer | Kind::OpenAsk | Kind::Opened => {
                checked_rows(header.len())?;
            }
        }
        Ok((header, rest))
    }

    /// The side that the message is about.
    pub(crate) const fn side(&self) -> Side {
        if self.detail == 0 { Side::Ordering } else { Side::Beneficiary }
    }

    /// What a key opens.
    pub(crate) fn answers(&self) -> Answers {
        Answers::of(self.detail).unwrap_or(Answers::Labels)
    }
}

/// A side in a header.
pub(crate) const fn side_byte(side: Side) -> u8 {
    match side {
        Side::Ordering => 0,
        Side::Beneficiary => 1,
    }
}

/// # Errors
/// [`Code::WrongLength`] for no rows or more than [`MAX_ROWS`].
fn checked_rows(rows: usize) -> Result<(), Refusal> {
    if (1..=MAX_ROWS).contains(&rows) {
        Ok(())
    } else {
        Err(Refusal::new(Code::WrongLength, format!("{rows} rows, not 1 to {MAX_ROWS}")))
    }
}

/// # Errors
/// [`Code::WrongLength`] when `payload` has another length.
pub(crate) fn exact(payload: &[u8], bytes: usize) -> Result<(), Refusal> {
    if payload.len() == bytes {
        Ok(())
    } else {
        let detail = format!("{} bytes of payload, not {bytes}", payload.len());
        Err(Refusal::new(Code::WrongLength, detail))
    }
}

/// The next `N` bytes, which `rest` loses.
pub(crate) fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, left) = rest.split_first_chunk()?;
    *rest = left;
    Some(*first)
}

/// The words of 64 bits of a payload.
pub(crate) fn words(payload: &[u8]) -> Vec<u64> {
    payload.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect()
}

/// A row of a question to a bank.
#[derive(Clone, PartialEq, Eq)]
pub struct AskedAccount {
    /// The account.
    pub account: String,
    /// The name that the payment gives its payee; empty at the ordering side.
    pub name: String,
}

/// Writes a question to a bank.
///
/// # Errors
/// [`Code::WrongLength`] for no rows, too many, or a text over [`MAX_TEXT`] bytes.
pub(crate) fn flag_ask(
    key: KeyId,
    query: QueryId,
    side: Side,
    rows: &[&AskedAccount],
) -> Result<Vec<u8>, Refusal> {
    let header = Header::of_query(Kind::FlagAsk, side_byte(side), key, query, rows.len())?;
    let mut bytes = header.begin(0);
    for row in rows {
        for text in texts(side, row) {
            let length = u16::try_from(text.len()).ok().filter(|_| text.len() <= MAX_TEXT);
            let length = length
                .ok_or_else(|| Refusal::new(Code::WrongLength, "an account or name is too long"))?;
            bytes.extend(length.to_le_bytes());
            bytes.extend(text.as_bytes());
        }
    }
    Ok(bytes)
}

/// What is sent of a row.
fn texts(side: Side, row: &AskedAccount) -> impl Iterator<Item = &str> {
    let name = (side == Side::Beneficiary).then_some(&*row.name);
    [Some(&*row.account), name].into_iter().flatten()
}

/// Reads the rows of a question to a bank.
///
/// # Errors
/// [`Code::WrongLength`] or [`Code::Malformed`].
pub(crate) fn asked_accounts(
    header: &Header,
    payload: &[u8],
) -> Result<Vec<AskedAccount>, Refusal> {
    let mut rest = payload;
    let mut rows = Vec::with_capacity(header.len());
    for _ in 0..header.len() {
        let account = text(&mut rest)?;
        let name = match header.side() {
            Side::Ordering => String::new(),
            Side::Beneficiary => text(&mut rest)?,
        };
        rows.push(AskedAccount { account, name });
    }
    exact(rest, 0)?;
    Ok(rows)
}

fn text(rest: &mut &[u8]) -> Result<String, Refusal> {
    let short = || Refusal::new(Code::WrongLength, "the question ends within a row");
    let length = usize::from(u16::from_le_bytes(take(rest).ok_or_else(short)?));
    if length > MAX_TEXT {
        return Err(Refusal::new(Code::WrongLength, "an account or name is too long"));
    }
    let (text, left) = rest.split_at_checked(length).ok_or_else(short)?;
    *rest = left;
    let text = std::str::from_utf8(text);
    let text = text.map_err(|_| Refusal::new(Code::Malformed, "a text that is not UTF-8"))?;
    Ok(text.to_owned())
}

/// Bytes of a bank's answer for `rows` rows.
pub(crate) const fn flag_answer_bytes(rows: usize) -> usize {
    8 * (DIMENSION + rows)
}

/// Bytes of one row for the key holder.
pub(crate) const OPEN_ROW_BYTES: usize = 4 * (DIMENSION + 1);
