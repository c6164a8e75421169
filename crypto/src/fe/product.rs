//! Labelled inner products: the functional encryption of vertical training.
//!
//! In one batch party p encrypts, mod 2^64 and under one pad R per authority,
//!
//! - its scores z_ic (rows x outputs), of which only the sum over all parties is ever opened;
//! - its features x_ij (rows x columns);
//! - one fresh mask m_jc per column and output.
//!
//! The **score key** is the sum of all parties' pads on the scores, as in [`pad`](super::pad). The
//! **product key** for vectors v_c (one word per row) is
//! K_jc = sum_i v_ic R_ij + R_jc, with R_jc the pad of the mask; with it
//!
//! sum_i v_ic c_ij + c_jc - sum_a K_a,jc = sum_i v_ic x_ij + m_jc.
//!
//! The label holder asks for v = u + rho, where u are its residuals and rho is a keystream that it
//! shares with p; p takes m_jc + sum_i rho_ic x_ij off what is opened and has sum_i u_ic x_ij, its
//! own gradient.
//!
//! Over all this lies a **cover**, one more pad under the key that p shares with the label holder, who
//! takes it off first: whoever else comes by a ciphertext, authorities too, has nothing without it.
//!
//! Source: the two function queries of FedV (Xu et al., arXiv 2103.03918, section 4), with a
//! one-time key per label in place of the reusable single-input scheme, whose keys add up to its
//! master secret, and with masked vectors and products.
//!
//! # Security
//! With the generator replaced by a random function, ciphertexts are uniform; a score key shows the
//! sum of the scores and no more; a product key shows, to whoever has the ciphertext, the products
//! plus uniform masks, that is nothing; v is uniform for whoever does not know rho. One key of each
//! kind per (party, label): two product keys of one label show the difference of their products.
//! The label holder and all authorities together open everything, as in every scheme of this family;
//! all authorities without it do not, thanks to the cover, if p has the label holder's true key; p and
//! an authority together learn u.

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::keystream::{BLOCK_BYTES, Keystream, Scratch, sub};
use crate::keys::SharedKey;
use crate::secret::Secret;
use crate::sum::{KeyedNonce, Label, PadSuite, Ring, SchemeError};

/// Bytes of a word.
const WORD: usize = 8;

/// Sizes of one party's part of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProductShape {
    /// s, rows of the batch.
    pub rows: usize,
    /// f, feature columns of the party.
    pub columns: usize,
    /// C, outputs of the model.
    pub outputs: usize,
}

impl ProductShape {
    /// Words of the scores: rows x outputs, one output after the other.
    #[must_use]
    pub const fn scores(&self) -> usize {
        self.rows.saturating_mul(self.outputs)
    }

    /// Words of the features: rows x columns, one column after the other.
    #[must_use]
    pub const fn features(&self) -> usize {
        self.rows.saturating_mul(self.columns)
    }

    /// Words of the masks and of a product key: columns x outputs, one column after the other.
    #[must_use]
    pub const fn products(&self) -> usize {
        self.columns.saturating_mul(self.outputs)
    }

    /// Bytes of a ciphertext whose scores and products may both be opened.
    #[must_use]
    pub const fn train_bytes(&self) -> usize {
        self.scores()
            .saturating_add(self.features())
            .saturating_add(self.products())
            .saturating_mul(WORD)
    }

    /// Bytes of a ciphertext of scores and masks, when the features were sent before.
    #[must_use]
    pub const fn stored_bytes(&self) -> usize {
        self.scores().saturating_add(self.products()).saturating_mul(WORD)
    }

    /// Bytes of a ciphertext that holds scores alone.
    #[must_use]
    pub const fn score_bytes(&self) -> usize {
        self.scores().saturating_mul(WORD)
    }
}

/// A party's features of all rows, sent once under a label of their own and used in every batch: one
/// column after the other.
#[derive(Clone, Copy)]
pub struct StoredFeatures<'a> {
    /// Their label.
    pub label: Label,
    /// What they are padded with.
    pub keyed: KeyedNonce<'a>,
    /// Rows of a column.
    pub rows: usize,
    /// The rows of the batch.
    pub batch: &'a [u32],
}

/// One batch of one party under one label.
#[derive(Clone, Copy, Debug)]
pub struct ProductContext {
    /// The label: used once.
    pub label: Label,
    /// The pad generator.
    pub suite: PadSuite,
}

impl ProductContext {
    fn stream(&self, domain: &'static [u8], key: &SharedKey, nonce: &[u8]) -> Keystream {
        // Unambiguous: the domain is a constant, and for one domain all other lengths are fixed.
        let info: [&[u8]; 4] = [domain, &[self.suite.number()], &self.label.0, nonce];
        let mut seed = Secret::new([0u8; 32]);
        Hkdf::<Sha256>::from_prk(key.0.expose())
            .unwrap_or_else(|_| unreachable!("32 bytes is a legal HKDF key"))
            .expand_multi_info(&info, seed.expose_mut())
            .unwrap_or_else(|_| unreachable!("a legal HKDF length"));
        Keystream::new(self.suite, seed.expose())
    }

    fn pad(&self, keyed: &KeyedNonce<'_>) -> Keystream {
        self.stream(b"quorate/product-pad/1", keyed.key, &keyed.nonce.0)
    }

    fn cover_of(&self, keyed: &KeyedNonce<'_>) -> Keystream {
        self.stream(b"quorate/product-cover/1", keyed.key, &keyed.nonce.0)
    }

    /// Encrypts in place: adds the pad of every authority to `words`, little-endian words laid out as
    /// [`ProductShape`] says.
    ///
    /// # Errors
    /// [`SchemeError::Length`] when the bytes are no whole words, [`SchemeError::Keys`] without a key,
    /// [`SchemeError::Shape`] when the batch is longer than the generator's period.
    pub fn seal(&self, keys: &[KeyedNonce<'_>], words: &mut [u8]) -> Result<(), SchemeError> {
        if !words.len().is_multiple_of(WORD) {
            return Err(SchemeError::Length {
                expected: words.len() / WORD * WORD,
                got: words.len(),
            });
        }
        if keys.is_empty() {
            return Err(SchemeError::Keys { expected: 1, got: 0 });
        }
        let mut streams: Vec<Keystream> = keys.iter().map(|keyed| self.pad(keyed)).collect();
        Scratch::default().add_pads(&mut streams, Ring::Z64, 0, words).map_err(|_| {
            // Half-padded words must not leave.
            words.fill(0);
            LONG
        })
    }

    /// Adds the cover, from the key shared with the label holder, to a ciphertext.
    ///
    /// # Errors
    /// As [`ProductContext::seal`].
    pub fn cover(&self, keyed: &KeyedNonce<'_>, words: &mut [u8]) -> Result<(), SchemeError> {
        check(words.len() % WORD, 0)?;
        let mut stream = [self.cover_of(keyed)];
        Scratch::default().add_pads(&mut stream, Ring::Z64, 0, words).map_err(|_| {
            words.fill(0);
            LONG
        })
    }

    /// Takes the cover off a part of a ciphertext that begins at byte `at`.
    ///
    /// # Errors
    /// [`SchemeError::Length`] when the bytes are no whole words, [`SchemeError::Shape`] when they are past
    /// the generator's period.
    pub fn uncover(
        &self,
        keyed: &KeyedNonce<'_>,
        at: u64,
        words: &mut [u8],
    ) -> Result<(), SchemeError> {
        check(words.len() % WORD, 0)?;
        let mut stream = self.cover_of(keyed);
        stream.seek(at).map_err(|_| LONG)?;
        let mut pad = Zeroizing::new([0u8; BLOCK_BYTES]);
        for block in words.chunks_mut(BLOCK_BYTES) {
            let (pad, _) = pad.split_at_mut(block.len());
            stream.write(pad).map_err(|_| LONG)?;
            sub(Ring::Z64, block, pad);
        }
        Ok(())
    }

    /// The score key over `members`: one word per score.
    ///
    /// # Errors
    /// [`SchemeError::Keys`] for fewer than two members: their scores would open.
    pub fn score_key(
        &self,
        members: &[KeyedNonce<'_>],
        scores: usize,
    ) -> Result<Zeroizing<Vec<u64>>, SchemeError> {
        if members.len() < 2 {
            return Err(SchemeError::Keys { expected: 2, got: members.len() });
        }
        let mut key = Zeroizing::new(vec![0u8; scores.saturating_mul(WORD)]);
        let mut streams: Vec<Keystream> = members.iter().map(|keyed| self.pad(keyed)).collect();
        Scratch::default().add_pads(&mut streams, Ring::Z64, 0, &mut key).map_err(|_| LONG)?;
        Ok(Zeroizing::new(words(&key).collect()))
    }

    /// The product key of one member for `vectors`, outputs x rows: one word per column and output.
    ///
    /// # Errors
    /// [`SchemeError::Length`] when the vectors do not fit the shape.
    pub fn product_key(
        &self,
        keyed: &KeyedNonce<'_>,
        shape: &ProductShape,
        vectors: &[u64],
    ) -> Result<Zeroizing<Vec<u64>>, SchemeError> {
        check(vectors.len(), shape.scores())?;
        let mut stream = self.pad(keyed);
        let first = shape.scores().saturating_mul(WORD) as u64;
        stream.seek(first).map_err(|_| LONG)?;
        let mut key = Zeroizing::new(Vec::with_capacity(shape.products()));
        let mut column = Zeroizing::new(vec![0u8; shape.rows.saturating_mul(WORD)]);
        for _ in 0..shape.columns {
            stream.write(&mut column).map_err(|_| LONG)?;
            key.extend(products(&column, vectors, shape.rows));
        }
        add_pads(&mut stream, &mut key)?;
        Ok(key)
    }

    /// The same where the features were sent before: sum_i v_ic R_ij over the batch's rows of the stored
    /// pads, plus the pad of this label's mask.
    ///
    /// # Errors
    /// [`SchemeError::Length`] when vectors or rows do not fit the shape, [`SchemeError::Shape`] when a
    /// row is past the stored ones.
    ///
    /// # Security
    /// The pads R serve many keys; each key is uniform because the pad of its mask is fresh. Two keys
    /// under one label and nonce show sum_i (v - v')_i R_ij, and so the products of the difference.
    pub fn stored_product_key(
        &self,
        keyed: &KeyedNonce<'_>,
        stored: &StoredFeatures<'_>,
        shape: &ProductShape,
        vectors: &[u64],
    ) -> Result<Zeroizing<Vec<u64>>, SchemeError> {
        check(vectors.len(), shape.scores())?;
        check(stored.batch.len(), shape.rows)?;
        let of_features = Self { label: stored.label, suite: self.suite };
        let mut stream = of_features.pad(&stored.keyed);
        let mut key = Zeroizing::new(Vec::with_capacity(shape.products()));
        let mut all = Zeroizing::new(vec![0u8; stored.rows.saturating_mul(WORD)]);
        let mut column = Zeroizing::new(Vec::with_capacity(shape.rows.saturating_mul(WORD)));
        for _ in 0..shape.columns {
            stream.write(&mut all).map_err(|_| LONG)?;
            column.clear();
            pick(&all, stored.batch, &mut column)?;
            key.extend(products(&column, vectors, shape.rows));
        }
        let mut stream = self.pad(keyed);
        stream.seek(shape.score_bytes() as u64).map_err(|_| LONG)?;
        add_pads(&mut stream, &mut key)?;
        Ok(key)
    }

    /// rho: outputs x rows words that the label holder and one party share, from the key of the two.
    #[must_use]
    pub fn vector_masks(&self, pair: &SharedKey, scores: usize) -> Zeroizing<Vec<u64>> {
        let mut stream = self.stream(b"quorate/vector-mask/1", pair, b"");
        fill(&mut stream, scores)
    }

    /// The masks m of a party's products, from a seed that it alone can make again.
    #[must_use]
    pub fn product_masks(&self, seed: &Secret<[u8; 32]>, products: usize) -> Zeroizing<Vec<u64>> {
        fill(&mut Keystream::new(self.suite, seed.expose()), products)
    }
}

/// The sum of all members' scores.
///
/// `ciphertexts` holds the scores of every member's ciphertext, `keys` the score key of every
/// authority.
///
/// # Errors
/// [`SchemeError::Length`] when one has another length than `scores` words.
pub fn open_scores(
    scores: usize,
    ciphertexts: &[&[u8]],
    keys: &[&[u64]],
) -> Result<Vec<i64>, SchemeError> {
    let mut sum = vec![0u64; scores];
    for ciphertext in ciphertexts {
        check(ciphertext.len(), scores.saturating_mul(WORD))?;
        add_words(&mut sum, ciphertext);
    }
    for key in keys {
        check(key.len(), scores)?;
        sum.iter_mut().zip(*key).for_each(|(sum, word)| *sum = sum.wrapping_sub(*word));
    }
    Ok(sum.into_iter().map(u64::cast_signed).collect())
}

/// The masked products of one member: columns x outputs words.
///
/// `ciphertext` is the whole of the member's ciphertext, `keys` the product key of every authority
/// for these `vectors`.
///
/// # Errors
/// [`SchemeError::Length`] when something does not fit the shape.
pub fn open_products(
    shape: &ProductShape,
    ciphertext: &[u8],
    vectors: &[u64],
    keys: &[&[u64]],
) -> Result<Vec<u64>, SchemeError> {
    check(ciphertext.len(), shape.train_bytes())?;
    check(vectors.len(), shape.scores())?;
    let (_, rest) = ciphertext.split_at(shape.score_bytes());
    let (features, masks) = rest.split_at(shape.features().saturating_mul(WORD));
    let mut opened = Vec::with_capacity(shape.products());
    for column in features.chunks_exact(shape.rows.saturating_mul(WORD).max(WORD)) {
        opened.extend(products(column, vectors, shape.rows));
    }
    add_words(&mut opened, masks);
    for key in keys {
        check(key.len(), shape.products())?;
        opened.iter_mut().zip(*key).for_each(|(word, key)| *word = word.wrapping_sub(*key));
    }
    Ok(opened)
}

/// A party's own products: takes off `opened` what the party alone, and it with the label holder,
/// put on. `features` are its own words, one column after the other.
///
/// # Errors
/// [`SchemeError::Length`] when something does not fit the shape.
pub fn unmask_products(
    shape: &ProductShape,
    opened: &[u64],
    features: &[u8],
    masks: &[u64],
    vector_masks: &[u64],
) -> Result<Zeroizing<Vec<i64>>, SchemeError> {
    check(opened.len(), shape.products())?;
    check(masks.len(), shape.products())?;
    check(vector_masks.len(), shape.scores())?;
    check(features.len(), shape.features().saturating_mul(WORD))?;
    let columns = features.chunks_exact(shape.rows.saturating_mul(WORD).max(WORD));
    let blinds = columns.flat_map(|column| products(column, vector_masks, shape.rows));
    // Filled in place: a vector that grows leaves copies of itself behind.
    let mut own = Zeroizing::new(Vec::with_capacity(shape.products()));
    let masked = opened.iter().zip(masks).zip(blinds);
    own.extend(
        masked.map(|((word, mask), blind)| {
            word.wrapping_sub(*mask).wrapping_sub(blind).cast_signed()
        }),
    );
    Ok(own)
}

/// Appends the words of `rows` out of a column.
///
/// # Errors
/// [`SchemeError::Shape`] when a row is past the column's end.
pub fn pick(column: &[u8], rows: &[u32], out: &mut Vec<u8>) -> Result<(), SchemeError> {
    let words = column.as_chunks::<WORD>().0;
    for row in rows {
        let word = words.get(*row as usize);
        out.extend_from_slice(word.ok_or(SchemeError::Shape("a row past the stored features"))?);
    }
    Ok(())
}

fn add_pads(stream: &mut Keystream, sum: &mut [u64]) -> Result<(), SchemeError> {
    let mut pads = Zeroizing::new(vec![0u8; sum.len().saturating_mul(WORD)]);
    stream.write(&mut pads).map_err(|_| LONG)?;
    add_words(sum, &pads);
    Ok(())
}

const LONG: SchemeError = SchemeError::Shape("a batch longer than one keystream covers");

/// sum_i vector_i column_i for each of the vectors.
fn products<'a>(
    column: &'a [u8],
    vectors: &'a [u64],
    rows: usize,
) -> impl Iterator<Item = u64> + 'a {
    vectors.chunks_exact(rows.max(1)).map(move |vector| {
        words(column)
            .zip(vector)
            .fold(0u64, |sum, (word, weight)| sum.wrapping_add(word.wrapping_mul(*weight)))
    })
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes.as_chunks::<WORD>().0.iter().map(|word| u64::from_le_bytes(*word))
}

fn add_words(sum: &mut [u64], bytes: &[u8]) {
    sum.iter_mut().zip(words(bytes)).for_each(|(sum, word)| *sum = sum.wrapping_add(word));
}

fn fill(stream: &mut Keystream, count: usize) -> Zeroizing<Vec<u64>> {
    let mut bytes = Zeroizing::new(vec![0u8; count.saturating_mul(WORD)]);
    stream.write(&mut bytes).unwrap_or_else(|_| unreachable!("far shorter than the period"));
    Zeroizing::new(words(&bytes).collect())
}

const fn check(got: usize, expected: usize) -> Result<(), SchemeError> {
    if got == expected { Ok(()) } else { Err(SchemeError::Length { expected, got }) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    use super::*;
    use crate::sum::Nonce;

    struct Batch {
        context: ProductContext,
        shapes: Vec<ProductShape>,
        /// By party, then authority.
        keys: Vec<Vec<SharedKey>>,
        nonces: Vec<Nonce>,
        plain: Vec<Vec<u64>>,
        sealed: Vec<Vec<u8>>,
    }

    fn bytes(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn batch(
        seed: u64,
        rows: usize,
        columns: &[usize],
        outputs: usize,
        authorities: usize,
    ) -> Batch {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let mut key = || {
            let mut bytes = [0; 32];
            rng.fill_bytes(&mut bytes);
            bytes
        };
        let context = ProductContext { label: Label(key()), suite: PadSuite::Aes256Ctr };
        let shapes: Vec<_> = columns
            .iter()
            .map(|columns| ProductShape { rows, columns: *columns, outputs })
            .collect();
        let keys: Vec<Vec<_>> = shapes
            .iter()
            .map(|_| (0..authorities).map(|_| SharedKey::from_bytes(key())).collect())
            .collect();
        let nonces: Vec<_> =
            shapes.iter().map(|_| Nonce(*key().first_chunk::<16>().unwrap())).collect();
        let plain: Vec<Vec<u64>> = shapes
            .iter()
            .map(|shape| (0..shape.train_bytes() / WORD).map(|_| rng.next_u64()).collect())
            .collect();
        let sealed = (0..shapes.len())
            .map(|p| {
                let keyed: Vec<_> =
                    keys[p].iter().map(|key| KeyedNonce { key, nonce: nonces[p] }).collect();
                let mut words = bytes(&plain[p]);
                context.seal(&keyed, &mut words).unwrap();
                words
            })
            .collect();
        Batch { context, shapes, keys, nonces, plain, sealed }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Scores and products opened are those of plain arithmetic mod 2^64, and a party that knows
        /// its masks finds its own products.
        #[test]
        fn opens_what_plain_arithmetic_says(
            seed: u64, rows in 1usize..40, outputs in 1usize..4, authorities in 1usize..4,
            columns in prop::collection::vec(1usize..7, 2..5),
        ) {
            let b = batch(seed, rows, &columns, outputs, authorities);
            let scores = rows * outputs;
            let mut keys = Vec::new();
            for a in 0..authorities {
                let members: Vec<_> = (0..columns.len())
                    .map(|p| KeyedNonce { key: &b.keys[p][a], nonce: b.nonces[p] })
                    .collect();
                keys.push(b.context.score_key(&members, scores).unwrap());
            }
            let parts: Vec<&[u8]> = b.sealed.iter().map(|s| &s[..scores * WORD]).collect();
            let keys: Vec<&[u64]> = keys.iter().map(|key| key.as_slice()).collect();
            let opened = open_scores(scores, &parts, &keys).unwrap();
            for (i, opened) in opened.iter().enumerate() {
                let sum = b.plain.iter().fold(0u64, |sum, words| sum.wrapping_add(words[i]));
                prop_assert_eq!(opened.cast_unsigned(), sum);
            }
            let mut rng = ChaCha20Rng::seed_from_u64(!seed);
            let residuals: Vec<u64> = (0..scores).map(|_| rng.next_u64()).collect();
            for (p, shape) in b.shapes.iter().enumerate() {
                let pair = SharedKey::from_bytes([9; 32]);
                let rho = b.context.vector_masks(&pair, scores);
                let asked: Vec<u64> =
                    residuals.iter().zip(rho.iter()).map(|(u, r)| u.wrapping_add(*r)).collect();
                let keys: Vec<_> = (0..authorities)
                    .map(|a| {
                        let keyed = KeyedNonce { key: &b.keys[p][a], nonce: b.nonces[p] };
                        b.context.product_key(&keyed, shape, &asked).unwrap()
                    })
                    .collect();
                let keys: Vec<&[u64]> = keys.iter().map(|key| key.as_slice()).collect();
                let opened = open_products(shape, &b.sealed[p], &asked, &keys).unwrap();
                let (features, masks) =
                    b.plain[p][scores..].split_at(shape.features());
                let own =
                    unmask_products(shape, &opened, &bytes(features), masks, &rho).unwrap();
                for j in 0..shape.columns {
                    for c in 0..outputs {
                        let plain = (0..rows).fold(0u64, |sum, i| {
                            let (x, u) = (features[j * rows + i], residuals[c * rows + i]);
                            sum.wrapping_add(x.wrapping_mul(u))
                        });
                        prop_assert_eq!(own[j * outputs + c].cast_unsigned(), plain);
                    }
                }
            }
        }
    }

    /// A covered ciphertext is another one, and uncovered the one it was; any other key, label or nonce
    /// leaves it closed. The length is over one block, with a rest.
    #[test]
    fn a_cover_comes_off_with_its_own_key_only() {
        let words: Vec<u64> = (0..1500).collect();
        let (authority, pair) = (SharedKey::from_bytes([1; 32]), SharedKey::from_bytes([2; 32]));
        let nonce = Nonce([3; 16]);
        let context = ProductContext { label: Label([4; 32]), suite: PadSuite::Aes256Ctr };
        let bare = KeyedNonce { key: &authority, nonce };
        let cover = KeyedNonce { key: &pair, nonce };
        let (mut plain, mut covered) = (bytes(&words), bytes(&words));
        context.seal(&[bare], &mut plain).unwrap();
        context.seal(&[bare], &mut covered).unwrap();
        context.cover(&cover, &mut covered).unwrap();
        assert_ne!(plain, covered);
        // A cover is no pad, should one key ever have both uses.
        let mut twice = bytes(&words);
        context.seal(&[bare, bare], &mut twice).unwrap();
        let mut both = plain.clone();
        context.cover(&bare, &mut both).unwrap();
        assert_ne!(twice, both);
        let off = |context: ProductContext, keyed: KeyedNonce<'_>| {
            let mut words = covered.clone();
            // In two parts, the second from the middle of a block of the generator.
            let (first, second) = words.split_at_mut(8 * 1027);
            context.uncover(&keyed, 8 * 1027, second).unwrap();
            context.uncover(&keyed, 0, first).unwrap();
            words
        };
        assert_eq!(off(context, cover), plain);
        assert_ne!(off(context, bare), plain);
        assert_ne!(off(context, KeyedNonce { nonce: Nonce([5; 16]), ..cover }), plain);
        let other = ProductContext { label: Label([6; 32]), ..context };
        assert_ne!(off(other, cover), plain);
        assert!(context.uncover(&cover, 0, &mut [0; 9]).is_err());
        assert!(context.cover(&cover, &mut [0; 9]).is_err());
    }

    /// Features sent once open in every batch to what those sent with the batch do.
    #[test]
    fn stored_features_give_the_same_products() {
        let (rows, columns, outputs) = (9usize, 3usize, 2usize);
        let key = SharedKey::from_bytes([1; 32]);
        let (stored_nonce, nonce) = (Nonce([2; 16]), Nonce([3; 16]));
        let suite = PadSuite::Aes256Ctr;
        let label = Label([4; 32]);
        let mut rng = ChaCha20Rng::seed_from_u64(5);
        let plain: Vec<u64> = (0..rows * columns).map(|_| rng.next_u64()).collect();
        let mut features = bytes(&plain);
        let keyed = KeyedNonce { key: &key, nonce: stored_nonce };
        ProductContext { label, suite }.seal(&[keyed], &mut features).unwrap();
        for (number, batch) in [[0u32, 3, 8, 5], [7, 1, 2, 0], [0, 3, 8, 5]].iter().enumerate() {
            let shape = ProductShape { rows: batch.len(), columns, outputs };
            let context =
                ProductContext { label: Label([10 + u8::try_from(number).unwrap(); 32]), suite };
            let masks: Vec<u64> = (0..shape.products()).map(|_| rng.next_u64()).collect();
            let mut upload = bytes(&[vec![0; shape.scores()], masks.clone()].concat());
            assert_eq!(upload.len(), shape.stored_bytes());
            let own = KeyedNonce { key: &key, nonce };
            context.seal(&[own], &mut upload).unwrap();
            let vectors: Vec<u64> = (0..shape.scores()).map(|_| rng.next_u64()).collect();
            let stored = StoredFeatures { label, keyed, rows, batch };
            let product = context.stored_product_key(&own, &stored, &shape, &vectors).unwrap();
            // What the label holder puts together: scores, the batch's rows, masks.
            let mut whole = upload[..shape.score_bytes()].to_vec();
            for column in features.chunks(rows * WORD) {
                pick(column, batch, &mut whole).unwrap();
            }
            whole.extend_from_slice(&upload[shape.score_bytes()..]);
            let opened = open_products(&shape, &whole, &vectors, &[&product]).unwrap();
            for j in 0..columns {
                for c in 0..outputs {
                    let sum = (0..batch.len()).fold(masks[j * outputs + c], |sum, i| {
                        let x = plain[j * rows + batch[i] as usize];
                        sum.wrapping_add(x.wrapping_mul(vectors[c * batch.len() + i]))
                    });
                    assert_eq!(opened[j * outputs + c], sum);
                }
            }
            let past = StoredFeatures { batch: &[0, 1, 2, 9], ..stored };
            assert!(context.stored_product_key(&own, &past, &shape, &vectors).is_err());
            let short = StoredFeatures { batch: &[0, 1, 2], ..stored };
            assert!(context.stored_product_key(&own, &short, &shape, &vectors).is_err());
        }
    }

    /// The mean of the bits of many words, as a share of ones.
    fn ones(words: &[u64]) -> f64 {
        let ones: u32 = words.iter().map(|word| word.count_ones()).sum();
        f64::from(ones) / (words.len() as f64 * 64.0)
    }

    #[test]
    fn what_travels_looks_uniform_for_plain_zeros() {
        let shape = ProductShape { rows: 64, columns: 16, outputs: 1 };
        let key = SharedKey::from_bytes([1; 32]);
        let context = ProductContext { label: Label([2; 32]), suite: PadSuite::ChaCha20 };
        let mut sealed = vec![0u8; shape.train_bytes()];
        context.seal(&[KeyedNonce { key: &key, nonce: Nonce([3; 16]) }], &mut sealed).unwrap();
        let sealed: Vec<u64> = words(&sealed).collect();
        // 1,104 words: five standard deviations of the share of ones are 0.0094.
        assert!((ones(&sealed) - 0.5).abs() < 0.0094, "{}", ones(&sealed));
        let mut distinct = sealed.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), sealed.len());
    }

    #[test]
    fn labels_nonces_and_uses_have_streams_of_their_own() {
        let key = SharedKey::from_bytes([1; 32]);
        let of = |label: u8, nonce: u8, suite| {
            let context = ProductContext { label: Label([label; 32]), suite };
            let mut words = vec![0u8; 64];
            context
                .seal(&[KeyedNonce { key: &key, nonce: Nonce([nonce; 16]) }], &mut words)
                .unwrap();
            words
        };
        let base = of(1, 1, PadSuite::Aes256Ctr);
        assert_eq!(base, of(1, 1, PadSuite::Aes256Ctr));
        for other in [
            of(2, 1, PadSuite::Aes256Ctr),
            of(1, 2, PadSuite::Aes256Ctr),
            of(1, 1, PadSuite::ChaCha20),
        ] {
            assert_ne!(base, other);
        }
        let context = ProductContext { label: Label([1; 32]), suite: PadSuite::Aes256Ctr };
        let rho = context.vector_masks(&key, 8);
        assert_ne!(bytes(&rho), base);
    }

    #[test]
    fn lone_members_and_wrong_lengths_are_refused() {
        let b = batch(7, 4, &[2, 3], 1, 1);
        let keyed = KeyedNonce { key: &b.keys[0][0], nonce: b.nonces[0] };
        assert_eq!(
            b.context.score_key(&[keyed], 4).err(),
            Some(SchemeError::Keys { expected: 2, got: 1 })
        );
        let shape = &b.shapes[0];
        assert!(b.context.product_key(&keyed, shape, &[0; 3]).is_err());
        assert!(open_products(shape, &b.sealed[0][1..], &[0; 4], &[]).is_err());
        assert!(open_products(shape, &b.sealed[0], &[0; 4], &[&[0]]).is_err());
        assert!(open_scores(4, &[&[0; 31]], &[]).is_err());
        assert!(b.context.seal(&[keyed], &mut [0; 9]).is_err());
        assert!(b.context.seal(&[], &mut [0; 8]).is_err());
    }
}
