//! From tags to a shared order of the common rows.

use hmac::Mac;

use super::{GroupKey, PartyRows, PsiError, TAG_BYTES, Tag, keyed};
use crate::merkle::{self, Hash};

/// Where tags do not ascend strictly.
fn check_order(tags: &[Tag]) -> Result<(), PsiError> {
    let fault = tags.windows(2).position(|pair| matches!(pair, [a, b] if a >= b));
    fault.map_or(Ok(()), |at| Err(PsiError::Order(at + 1)))
}

fn decode_tags(bytes: &[u8]) -> Result<Vec<Tag>, PsiError> {
    let (tags, rest) = bytes.as_chunks::<TAG_BYTES>();
    if !rest.is_empty() {
        return Err(PsiError::Length { expected: tags.len() * TAG_BYTES, got: bytes.len() });
    }
    let tags: Vec<_> = tags.iter().map(|bytes| Tag(*bytes)).collect();
    check_order(&tags)?;
    Ok(tags)
}

/// Tags as they travel: 16 bytes each.
#[must_use]
pub fn encode_tags(tags: &[Tag]) -> Vec<u8> {
    tags.iter().flat_map(|tag| tag.0).collect()
}

/// One party's tags at the aggregator: as many as declared, strictly ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagList(Vec<Tag>);

impl TagList {
    /// Decodes the tags of a party that declared `declared` identifiers.
    ///
    /// # Errors
    /// [`PsiError::Length`] and [`PsiError::Order`] are that party's fault.
    pub fn decode(bytes: &[u8], declared: u32) -> Result<Self, PsiError> {
        let expected = (declared as usize).saturating_mul(TAG_BYTES);
        if bytes.len() != expected {
            return Err(PsiError::Length { expected, got: bytes.len() });
        }
        decode_tags(bytes).map(Self)
    }
}

/// The tags that are in every list, ascending; none when there is no list. Linear in all tags.
#[must_use]
pub fn common(lists: &[TagList]) -> Vec<Tag> {
    let Some((first, others)) = lists.split_first() else {
        return Vec::new();
    };
    let mut common = first.0.clone();
    for TagList(other) in others {
        let mut rest = other.iter().peekable();
        common.retain(|tag| {
            while rest.next_if(|next| *next < tag).is_some() {}
            rest.next_if_eq(&tag).is_some()
        });
    }
    common
}

/// A party's own tags, and the row of each.
pub struct PartyTags {
    /// Ascending by tag; padding has no row.
    entries: Vec<(Tag, Option<u32>)>,
}

impl PartyTags {
    /// Of the tags of all inputs, in the order of [`PartyRows::batches`].
    ///
    /// # Errors
    /// [`PsiError::Length`] when there is not one tag for each input; [`PsiError::Order`] when two inputs
    /// have one tag, which does not happen by chance.
    pub fn new(rows: &PartyRows, tags: &[Tag]) -> Result<Self, PsiError> {
        let expected = rows.inputs.expose().len();
        if tags.len() != expected {
            let bytes = |tags: usize| tags.saturating_mul(TAG_BYTES);
            return Err(PsiError::Length { expected: bytes(expected), got: bytes(tags.len()) });
        }
        let rows = rows.rows.iter().copied().map(Some).chain(std::iter::repeat(None));
        let mut entries: Vec<_> = tags.iter().copied().zip(rows).collect();
        entries.sort_unstable();
        let sorted: Vec<_> = entries.iter().map(|(tag, _)| *tag).collect();
        check_order(&sorted)?;
        Ok(Self { entries })
    }

    /// What goes to the aggregator: the tags alone, ascending, so that nothing of the party's own order
    /// or of its padding is in them.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.entries.iter().flat_map(|(tag, _)| tag.0).collect()
    }

    /// The alignment by the aggregator's `common` tags; `least` rows must be common, or nothing is
    /// aligned.
    ///
    /// # Errors
    /// [`PsiError::NotHeld`], [`PsiError::Order`] and [`PsiError::Length`] are the aggregator's fault;
    /// [`PsiError::TooFew`] is nobody's.
    pub fn align(&self, common: &[u8], least: u32) -> Result<Alignment, PsiError> {
        let tags = decode_tags(common)?;
        if tags.len() < least as usize {
            return Err(PsiError::TooFew { least, got: tags.len() });
        }
        let mut entries = self.entries.iter().peekable();
        let mut rows = Vec::with_capacity(tags.len());
        for (at, tag) in tags.iter().enumerate() {
            while entries.next_if(|(own, _)| own < tag).is_some() {}
            let row = entries.next_if(|(own, _)| own == tag).and_then(|(_, row)| *row);
            rows.push(row.ok_or(PsiError::NotHeld(at))?);
        }
        Ok(Alignment { handles: tags, rows })
    }
}

/// The common rows in the order that all parties share, as one party sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alignment {
    handles: Vec<Tag>,
    rows: Vec<u32>,
}

impl Alignment {
    /// The alignment by what the aggregator of a linkage over Bloom filters gave to a party of
    /// `party_rows` rows: a random handle for each common row, the same for all, and this party's rows.
    ///
    /// # Errors
    /// [`PsiError::Length`] when there are not as many rows as handles, [`PsiError::Order`],
    /// [`PsiError::Row`] and [`PsiError::TooFew`].
    ///
    /// # Security
    /// Unlike [`PartyTags::align`] it has to believe the aggregator which rows belong together.
    pub fn linked(
        handles: Vec<Tag>,
        rows: Vec<u32>,
        party_rows: u32,
        least: u32,
    ) -> Result<Self, PsiError> {
        if handles.len() != rows.len() {
            return Err(PsiError::Length { expected: handles.len(), got: rows.len() });
        }
        check_order(&handles)?;
        if rows.len() < least as usize {
            return Err(PsiError::TooFew { least, got: rows.len() });
        }
        let mut used = vec![false; party_rows as usize];
        for (at, row) in rows.iter().enumerate() {
            match used.get_mut(*row as usize) {
                Some(used) if !*used => *used = true,
                _ => return Err(PsiError::Row(at)),
            }
        }
        Ok(Self { handles, rows })
    }

    /// This party's row for each position of the shared order, counted from 0 in its own data.
    #[must_use]
    pub fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// The root of a tree over the shared order, for labels: the same at all parties exactly when their
    /// orders are.
    ///
    /// Leaf i is HMAC(salt, i) and the tag at position i.
    ///
    /// # Security
    /// Salted by a secret of the parties: authorities, which see labels, learn nothing of the tags, and
    /// a proof that opens one leaf says nothing of others.
    #[must_use]
    pub fn root(&self, group: &GroupKey) -> Hash {
        let salt = keyed(&group.derive(b"row order"));
        let leaf = |(position, tag): (u64, &Tag)| {
            let salt = salt.clone().chain_update(position.to_le_bytes()).finalize().into_bytes();
            merkle::leaf_hash(&[salt.as_slice(), &tag.0].concat())
        };
        let leaves: Vec<_> = (0..).zip(&self.handles).map(leaf).collect();
        merkle::root(&leaves)
    }
}
