//! What the parties of a vertical job compute outside their machines: pure functions of keys, rows and
//! messages, so that work repeated after a restart gives the same bytes.

use quorate_crypto::fe::product::{
    ProductContext, ProductShape, open_products, open_scores, pick, unmask_products,
};
use quorate_crypto::keys::{Identity, SharedKey};
use quorate_crypto::merkle::{Hash, hash_parts};
use quorate_crypto::psi::{Contribution, GroupKey};
use quorate_crypto::secret::Secret;
use quorate_crypto::sum::{KeyedNonce, Label, Nonce};
use zeroize::{Zeroize, Zeroizing};

use super::linear::{Features, Targets, Weights, batches, own_products, residuals};
use super::messages::{
    BatchFields, BatchFreeze, BatchOpen, BatchPurpose, Commit, EpochOpen, EpochSecret, Gradient,
    ProductAsk, ProductKey, ScoreKey, SeedShare, root_of, trained_hash,
};
use super::{
    WORD, authority_pair, check_members, open_words, passive, seal, seal_info, shape_of, spec,
    word_bytes,
};
use crate::job::{Manifest, RosterEntry};
use crate::refusal::{Code, Culprit, Refusal};
use crate::round::messages::SubmitHeader;
use crate::wire::{Name, Signed, decode, encode};
use crate::workload::VerticalSpec;

/// A party's keys and the job.
#[derive(Clone, Copy)]
pub struct Own<'a> {
    /// Its name.
    pub me: &'a Name,
    /// Its keys.
    pub identity: &'a Identity,
    /// The job.
    pub manifest: &'a Manifest,
}

impl Own<'_> {
    fn seed(&self, domain: &str, parts: &[&[u8]]) -> Secret<[u8; 32]> {
        let mut message = self.manifest.hash().0.to_vec();
        parts.iter().for_each(|part| message.extend_from_slice(part));
        self.identity.derive_seed(domain, &message)
    }

    /// The seed of this party's initial weights.
    #[must_use]
    pub fn weights_seed(&self) -> Secret<[u8; 32]> {
        self.seed("quorate/vertical-weights-seed/1", &[])
    }

    /// The seed of the label noise of one batch, whatever its attempt.
    #[must_use]
    pub fn noise_seed(&self, (epoch, counter): (u32, u32)) -> Secret<[u8; 32]> {
        let parts: [&[u8]; 2] = [&epoch.to_le_bytes(), &counter.to_le_bytes()];
        self.seed("quorate/vertical-label-noise/1", &parts)
    }

    /// This party's contribution to the order of an epoch, or to the key of an alignment.
    #[must_use]
    pub fn contribution(&self, epoch: &Hash) -> Contribution {
        Contribution::from_bytes(self.seed("quorate/vertical-contribution/1", &[&epoch.0]))
    }

    /// The commitment to it, with the number of `identifiers` to be evaluated, 0 in epochs.
    #[must_use]
    pub fn commitment(&self, epoch: &Hash, identifiers: u32) -> Commit {
        let commitment = self.contribution(epoch).commitment(&epoch.0, self.me.as_str());
        Commit { epoch: *epoch, party: self.me.clone(), commitment, identifiers }
    }

    /// The seed of the blinds of an alignment.
    #[must_use]
    pub fn blinds_seed(&self, epoch: &Hash) -> Secret<[u8; 32]> {
        self.seed("quorate/vertical-blinds/1", &[&epoch.0])
    }

    /// The salt under which the label holder binds itself to the rows that it trains on.
    #[must_use]
    pub fn trained_salt(&self) -> Secret<[u8; 32]> {
        self.seed("quorate/vertical-trained-salt/1", &[])
    }

    fn mask_seed(&self, label: &Label, nonce: &Nonce) -> Secret<[u8; 32]> {
        self.seed("quorate/vertical-product-masks/1", &[&label.0, &nonce.0])
    }

    /// The key between the label holder and a passive party, by either of them.
    fn pair_in(&self, roster: &[RosterEntry], passive: &Name) -> Result<SharedKey, Refusal> {
        self.pair(entry(roster, &spec(self.manifest)?.holder)?, entry(roster, passive)?)
    }

    fn pair(&self, holder: &RosterEntry, other: &RosterEntry) -> Result<SharedKey, Refusal> {
        let peer = if *self.me == holder.party { other } else { holder };
        authority_pair(
            self.identity,
            &peer.exchange,
            self.manifest,
            (&holder.party, holder.exchange),
            other,
        )
        .map_err(|e| Refusal::new(Code::BadRoster, e.to_string()))
    }

    const fn context(&self, label: Label) -> ProductContext {
        ProductContext { label, suite: self.manifest.suite }
    }

    /// What this party seals to every other one once all commitments are there; `trained` is the label
    /// holder's row of bits, empty for others.
    ///
    /// # Errors
    /// [`Code::BadRoster`].
    pub fn seed_shares(
        &self,
        (epoch, open): (&Hash, &EpochOpen),
        commits: &[Signed<Commit>],
        trained: &[u8],
    ) -> Result<Vec<SeedShare>, Refusal> {
        let secret = EpochSecret {
            contribution: *self.contribution(epoch).expose(),
            trained: trained.to_vec(),
            salt: if trained.is_empty() { [0; 32] } else { *self.trained_salt().expose() },
        };
        let plain = Zeroizing::new(encode(&secret));
        let commits = root_of(commits);
        let others = open.roster.iter().filter(|entry| entry.party != *self.me);
        others
            .map(|to| {
                let info = seal_info("seed-share", &epoch.0, self.me, &to.party);
                Ok(SeedShare {
                    epoch: *epoch,
                    commits,
                    from: self.me.clone(),
                    to: to.party.clone(),
                    sealed: seal(self.identity, &to.exchange, &info, &plain)?,
                })
            })
            .collect()
    }

    /// The batches of an epoch, from what all others sealed to this party (V10).
    ///
    /// `trained` is given by the label holder, who knows it; others take it from the holder's share.
    ///
    /// # Errors
    /// [`Code::Malformed`], blaming who sealed something other than it committed to.
    pub fn order(
        &self,
        (epoch, open): (&Hash, &EpochOpen),
        commits: &[Signed<Commit>],
        shares: &[Signed<SeedShare>],
        trained: Option<&[u8]>,
    ) -> Result<Order, Refusal> {
        let spec = spec(self.manifest)?;
        let (contributions, of_holder) = self.contributions((epoch, open), commits, shares)?;
        let bits = trained.map_or(of_holder, <[u8]>::to_vec);
        Order::new(spec, open, &bits, &mixed(&contributions))
            .map_err(|refusal| refusal.blaming(Culprit::Party(spec.holder.clone())))
    }

    /// The seed from which [`Own::order`] shuffles the rows of an epoch.
    ///
    /// # Errors
    /// As [`Own::order`].
    ///
    /// # Security
    /// Whoever has it knows which rows share a batch: for who repeats a job in the clear, no other.
    pub fn order_seed(
        &self,
        (epoch, open): (&Hash, &EpochOpen),
        commits: &[Signed<Commit>],
        shares: &[Signed<SeedShare>],
    ) -> Result<Secret<[u8; 32]>, Refusal> {
        Ok(mixed(&self.contributions((epoch, open), commits, shares)?.0))
    }

    /// The key that all parties of an alignment share and no service has (V10).
    ///
    /// # Errors
    /// [`Code::Malformed`], blaming who sealed something other than it committed to.
    pub fn group_key(
        &self,
        (epoch, open): (&Hash, &EpochOpen),
        commits: &[Signed<Commit>],
        shares: &[Signed<SeedShare>],
    ) -> Result<GroupKey, Refusal> {
        let (contributions, _) = self.contributions((epoch, open), commits, shares)?;
        let members: Vec<_> = contributions
            .iter()
            .map(|(party, commitment, own)| (party.as_str(), *commitment, own))
            .collect();
        GroupKey::combine(&epoch.0, &members)
            .map_err(|e| Refusal::new(Code::Malformed, e.to_string()))
    }

    /// Everybody's contribution with its commitment, in roster order, and the rows that the label
    /// holder trains on.
    #[expect(clippy::type_complexity, reason = "a list and what comes with one of its entries")]
    fn contributions(
        &self,
        (epoch, open): (&Hash, &EpochOpen),
        commits: &[Signed<Commit>],
        shares: &[Signed<SeedShare>],
    ) -> Result<(Vec<(Name, Hash, Contribution)>, Vec<u8>), Refusal> {
        let spec = spec(self.manifest)?;
        let mut contributions = Vec::with_capacity(commits.len());
        let (mut trained, root) = (Vec::new(), root_of(commits));
        for (entry, commit) in open.roster.iter().zip(commits) {
            let commit = commit.verify(&entry.verify)?;
            let blame = |why: &str| {
                Refusal::new(Code::Malformed, why).blaming(Culprit::Party(entry.party.clone()))
            };
            let own = if entry.party == *self.me {
                self.contribution(epoch)
            } else {
                let share = shares
                    .iter()
                    .find(|share| share.peek().is_ok_and(|share| share.from == entry.party))
                    .ok_or_else(|| Refusal::new(Code::OutOfOrder, "a contribution is missing"))?
                    .verify(&entry.verify)?;
                if share.commits != root {
                    return Err(blame("a contribution revealed after other commitments"));
                }
                let info = seal_info("seed-share", &epoch.0, &entry.party, self.me);
                let plain = self
                    .identity
                    .open_sealed(&info.0, &share.sealed)
                    .ok_or_else(|| blame("a contribution that does not open"))?;
                let mut secret: EpochSecret =
                    decode(plain.expose()).map_err(|_| blame("a contribution that is none"))?;
                if entry.party == spec.holder && !open.align {
                    if trained_hash(&secret.salt, &secret.trained) != open.trained {
                        return Err(blame("other rows to train on than those of the job"));
                    }
                    trained = core::mem::take(&mut secret.trained);
                }
                Contribution::from_bytes(Secret::new(secret.contribution))
            };
            let right = own.commitment(&epoch.0, entry.party.as_str()) == commit.commitment
                && commit.party == entry.party
                && commit.epoch == *epoch;
            if !right {
                return Err(blame("a contribution other than the one committed to"));
            }
            contributions.push((entry.party.clone(), commit.commitment, own));
        }
        Ok((contributions, trained))
    }

    /// A passive party's ciphertext of one batch: words to upload.
    ///
    /// # Errors
    /// [`Code::Malformed`] when the scheme refuses.
    pub fn encrypt(
        &self,
        roster: &[RosterEntry],
        batch: &Batch<'_>,
        nonce: Nonce,
        (features, weights): (&Features, &Weights),
    ) -> Result<Vec<u8>, Refusal> {
        let keys = (entry(roster, self.me)?, entry(roster, &spec(self.manifest)?.holder)?);
        let scores = weights.scores(features, batch.rows);
        let train = batch.fields.purpose == BatchPurpose::Train;
        let spec = spec(self.manifest)?;
        let columns = weights.kept(spec);
        let shape = ProductShape {
            rows: batch.rows.len(),
            columns: columns.len(),
            outputs: weights.outputs(),
        };
        let mut words = Vec::with_capacity(shape.train_bytes());
        scores.iter().for_each(|score| words.extend_from_slice(&score.to_le_bytes()));
        if train && !spec.static_features {
            features.write_columns(&columns, batch.rows, &mut words);
        }
        // Of rows that are only scored, too: the length says how many columns stand behind the scores.
        let seed = self.mask_seed(&batch.label, &nonce);
        let masks = self.context(batch.label).product_masks(&seed, shape.products());
        words.extend_from_slice(&word_bytes(&masks));
        self.pad(keys, (batch.label, nonce), &mut words)?;
        Ok(words)
    }

    /// A passive party's features of all aligned rows, for jobs that have them sent once: words to
    /// upload under `label`, one column after the other. `keys` are the party's own entry and the label
    /// holder's.
    ///
    /// # Errors
    /// [`Code::Malformed`] when the scheme refuses.
    pub fn encrypt_features(
        &self,
        keys: (&RosterEntry, &RosterEntry),
        (label, nonce): (Label, Nonce),
        features: &Features,
    ) -> Result<Vec<u8>, Refusal> {
        let rows: Vec<u32> = (0..u32::try_from(features.rows()).unwrap_or(u32::MAX)).collect();
        let columns: Vec<usize> = (0..features.columns()).collect();
        let mut words =
            Vec::with_capacity(rows.len().saturating_mul(columns.len()).saturating_mul(WORD));
        features.write_columns(&columns, &rows, &mut words);
        self.pad(keys, (label, nonce), &mut words)?;
        Ok(words)
    }

    /// Adds every authority's pads, and the cover; words that cannot be padded are wiped.
    fn pad(
        &self,
        (entry, holder): (&RosterEntry, &RosterEntry),
        (label, nonce): (Label, Nonce),
        words: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let own = &self.identity;
        let keys = self
            .manifest
            .authorities
            .iter()
            .map(|authority| {
                let by = (&authority.name, authority.exchange);
                authority_pair(own, &authority.exchange, self.manifest, by, entry)
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| Refusal::new(Code::BadManifest, e.to_string()));
        let sealed = keys.and_then(|keys| {
            let cover = self.pair(holder, entry)?;
            let keyed: Vec<KeyedNonce<'_>> =
                keys.iter().map(|key| KeyedNonce { key, nonce }).collect();
            let context = self.context(label);
            context
                .seal(&keyed, words)
                .and_then(|()| context.cover(&KeyedNonce { key: &cover, nonce }, words))
                .map_err(|e| Refusal::new(Code::Malformed, e.to_string()))
        });
        if sealed.is_err() {
            words.zeroize();
        }
        sealed
    }

    /// Takes the cover off what a passive party of the roster uploaded under this header, of a batch or
    /// stored features: `words` begin at byte `at` of it. The label holder does so before anything else.
    ///
    /// # Errors
    /// [`Code::UnknownParty`], or [`Code::WrongLength`] when the bytes are no words.
    pub fn uncover(
        &self,
        roster: &[RosterEntry],
        header: &SubmitHeader,
        (at, words): (u64, &mut [u8]),
    ) -> Result<(), Refusal> {
        let pair = self.pair_in(roster, &header.party)?;
        let keyed = KeyedNonce { key: &pair, nonce: header.nonce };
        self.context(header.label)
            .uncover(&keyed, at, words)
            .map_err(|e| Refusal::new(Code::WrongLength, e.to_string()))
    }

    /// A passive party's step after one batch: opens its gradient and moves its weights.
    ///
    /// # Errors
    /// [`Code::Malformed`], blaming the label holder.
    pub fn apply(
        &self,
        roster: &[RosterEntry],
        batch: &Batch<'_>,
        nonce: Nonce,
        (features, weights): (&Features, &mut Weights),
        gradient: &Signed<Gradient>,
    ) -> Result<(), Refusal> {
        let spec = spec(self.manifest)?;
        let holder = entry(roster, &spec.holder)?;
        let gradient = gradient.verify(&holder.verify)?;
        let blame = |refusal: Refusal| refusal.blaming(Culprit::Party(spec.holder.clone()));
        if gradient.label != batch.label || gradient.to != *self.me {
            return Err(Refusal::new(Code::WrongLabel, "a gradient of another batch or party"));
        }
        let columns = weights.kept(spec);
        let outputs = weights.outputs();
        let shape = ProductShape { rows: batch.rows.len(), columns: columns.len(), outputs };
        let info = seal_info("gradient", &batch.label.0, &spec.holder, self.me);
        let opened = open_words(self.identity, &info, &gradient.sealed, shape.products());
        let opened = opened.map_err(blame)?;
        let context = self.context(batch.label);
        let seed = self.mask_seed(&batch.label, &nonce);
        let masks = context.product_masks(&seed, shape.products());
        let rho = context.vector_masks(&self.pair_in(roster, self.me)?, shape.scores());
        let mut plain = Zeroizing::new(Vec::with_capacity(shape.features().saturating_mul(WORD)));
        features.write_columns(&columns, batch.rows, &mut plain);
        let products = unmask_products(&shape, &opened, &plain, &masks, &rho)
            .map_err(|e| Refusal::new(Code::Malformed, e.to_string()))?;
        weights.step_columns(spec, batch.rows.len(), &columns, &products);
        Ok(())
    }

    /// Opens the scores of a frozen batch: the label holder's own are added to the sum of all others'.
    ///
    /// `ciphertexts` are those of the freeze's members, in order, [uncovered](Self::uncover).
    ///
    /// # Errors
    /// [`Code::Malformed`], blaming an authority whose key does not open.
    pub fn open(
        &self,
        batch: &Batch<'_>,
        own: (&Features, &Weights),
        ciphertexts: &[&[u8]],
        keys: &[Signed<ScoreKey>],
    ) -> Result<Zeroizing<Vec<i64>>, Refusal> {
        let spec = spec(self.manifest)?;
        let scores = batch.rows.len().saturating_mul(spec.outputs());
        let keys = self
            .manifest
            .authorities
            .iter()
            .zip(keys)
            .map(|(authority, key)| {
                let key = key.verify(&authority.verify)?;
                let info = seal_info("score-key", &batch.label.0, &authority.name, self.me);
                open_words(self.identity, &info, &key.sealed, scores)
                    .map_err(|r| r.blaming(Culprit::Authority(authority.name.clone())))
            })
            .collect::<Result<Vec<_>, Refusal>>()?;
        let parts: Vec<&[u8]> = ciphertexts
            .iter()
            .map(|bytes| bytes.get(..scores.saturating_mul(WORD)).unwrap_or(&[]))
            .collect();
        let keys: Vec<&[u64]> = keys.iter().map(|key| key.as_slice()).collect();
        let mut sum = Zeroizing::new(
            open_scores(scores, &parts, &keys)
                .map_err(|e| Refusal::new(Code::Malformed, e.to_string()))?,
        );
        let (features, weights) = own;
        let mine = weights.scores(features, batch.rows);
        sum.iter_mut().zip(mine.iter()).for_each(|(sum, own)| *sum = sum.wrapping_add(*own));
        Ok(sum)
    }

    /// The residuals of a batch, with their noise.
    ///
    /// # Errors
    /// [`Code::BadManifest`] when no sampler has the job's deviation.
    pub fn residuals(
        &self,
        batch: &Batch<'_>,
        targets: &Targets,
        scores: &[i64],
    ) -> Result<Zeroizing<Vec<i64>>, Refusal> {
        let seed = self.noise_seed(batch.fields.position());
        residuals(spec(self.manifest)?, targets, batch.rows, scores, &seed)
            .map_err(|e| Refusal::new(Code::BadManifest, e.to_string()))
    }

    /// The masked vectors of every passive party, in order.
    fn masked(
        &self,
        roster: &[RosterEntry],
        label: Label,
        residuals: &[i64],
    ) -> Result<Zeroizing<Vec<u64>>, Refusal> {
        let spec = spec(self.manifest)?;
        let mut vectors = Zeroizing::new(Vec::new());
        for entry in passive(spec, roster) {
            let pair = self.pair_in(roster, &entry.party)?;
            let rho = self.context(label).vector_masks(&pair, residuals.len());
            let masked = residuals.iter().zip(rho.iter());
            vectors.extend(masked.map(|(u, mask)| u.cast_unsigned().wrapping_add(*mask)));
        }
        Ok(vectors)
    }

    /// The label holder's requests for products, one per authority.
    ///
    /// # Errors
    /// [`Code::BadRoster`].
    pub fn product_asks(
        &self,
        roster: &[RosterEntry],
        batch: &Batch<'_>,
        residuals: &[i64],
    ) -> Result<Vec<ProductAsk>, Refusal> {
        let label = batch.label;
        let named = if spec(self.manifest)?.static_features { batch.rows } else { &[] };
        let mut words = Zeroizing::new(named.iter().map(|row| u64::from(*row)).collect::<Vec<_>>());
        words.extend_from_slice(&self.masked(roster, label, residuals)?);
        let vectors = word_bytes(&words);
        self.manifest
            .authorities
            .iter()
            .map(|authority| {
                let info = seal_info("product-ask", &label.0, self.me, &authority.name);
                let sealed = seal(self.identity, &authority.exchange, &info, &vectors)?;
                Ok(ProductAsk { authority: authority.name.clone(), label, sealed })
            })
            .collect()
    }

    /// The passive parties' masked gradients of a frozen batch, out of `ciphertexts` as for
    /// [`Own::open`].
    ///
    /// # Errors
    /// [`Code::Malformed`], blaming an authority whose key does not open.
    pub fn gradients(
        &self,
        epoch: &EpochOpen,
        (open, freeze): (&BatchOpen, &BatchFreeze),
        ciphertexts: &[&[u8]],
        residuals: &[i64],
        keys: &[Signed<ProductKey>],
    ) -> Result<Vec<Gradient>, Refusal> {
        let spec = spec(self.manifest)?;
        let (fields, roster) = (&open.fields, &epoch.roster);
        let label = fields.label(self.manifest);
        let vectors = self.masked(roster, label, residuals)?;
        let members = check_members(self.manifest, epoch, (fields, &label), freeze)?;
        let shapes = members
            .iter()
            .map(|header| shape_of(spec, fields, &header.party, header.ciphertext.len))
            .collect::<Result<Vec<_>, _>>()?;
        let count = shapes.iter().map(ProductShape::products).sum();
        let keys = self
            .manifest
            .authorities
            .iter()
            .zip(keys)
            .map(|(authority, key)| {
                let key = key.verify(&authority.verify)?;
                let info = seal_info("product-key", &label.0, &authority.name, self.me);
                open_words(self.identity, &info, &key.sealed, count)
                    .map_err(|r| r.blaming(Culprit::Authority(authority.name.clone())))
            })
            .collect::<Result<Vec<_>, Refusal>>()?;
        let mut offset = 0usize;
        let vectors = vectors.chunks(residuals.len().max(1));
        let mut gradients = Vec::with_capacity(members.len());
        for (((header, shape), vectors), ciphertext) in
            members.iter().zip(&shapes).zip(vectors).zip(ciphertexts)
        {
            let end = offset.saturating_add(shape.products());
            let own: Vec<&[u64]> =
                keys.iter().map(|key| key.get(offset..end).unwrap_or(&[])).collect();
            offset = end;
            let opened = open_products(shape, ciphertext, vectors, &own)
                .map_err(|e| Refusal::new(Code::Malformed, e.to_string()))?;
            let to = entry(roster, &header.party)?;
            let info = seal_info("gradient", &label.0, self.me, &header.party);
            let sealed = seal(self.identity, &to.exchange, &info, &word_bytes(&opened))?;
            gradients.push(Gradient { label, to: header.party.clone(), sealed });
        }
        Ok(gradients)
    }

    /// The label holder's own step.
    ///
    /// # Errors
    /// [`Code::BadManifest`] when the job is no vertical one.
    pub fn step_holder(
        &self,
        batch: &Batch<'_>,
        (features, weights): (&Features, &mut Weights),
        residuals: &[i64],
    ) -> Result<(), Refusal> {
        let products = own_products(features, batch.rows, residuals);
        weights.step(spec(self.manifest)?, batch.rows.len(), &products, residuals);
        Ok(())
    }
}

/// The batch's `rows` out of a party's `stored` features, one column after the other.
///
/// # Errors
/// [`Code::Malformed`] when a row is past them.
pub fn stored_rows(shape: &ProductShape, stored: &[u8], rows: &[u32]) -> Result<Vec<u8>, Refusal> {
    let column = stored.len().checked_div(shape.columns).unwrap_or(0).max(1);
    let mut features = Vec::with_capacity(shape.features().saturating_mul(WORD));
    for column in stored.chunks(column) {
        pick(column, rows, &mut features)
            .map_err(|e| Refusal::new(Code::Malformed, e.to_string()))?;
    }
    Ok(features)
}

/// A passive party's ciphertext of a batch as if its features had come with it: `upload` holds scores and
/// masks, `features` the batch's rows of the stored words, one column after the other.
///
/// # Errors
/// [`Code::WrongLength`] when something does not fit the shape.
pub fn with_stored(
    shape: &ProductShape,
    upload: &[u8],
    features: &[u8],
) -> Result<Vec<u8>, Refusal> {
    let parts = upload.split_at_checked(shape.score_bytes());
    let whole = parts.map(|(scores, masks)| [scores, features, masks].concat());
    whole.filter(|whole| whole.len() == shape.train_bytes()).ok_or_else(|| {
        Refusal::new(Code::WrongLength, "not the scores, features and masks of this batch")
    })
}

/// One batch at a party.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Its fields.
    pub fields: &'a BatchFields,
    /// Its label.
    pub label: Label,
    /// The aligned rows in it.
    pub rows: &'a [u32],
}

/// The rows of an epoch, in batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    batches: Vec<Vec<u32>>,
}

impl Order {
    fn new(
        spec: &VerticalSpec,
        open: &EpochOpen,
        trained: &[u8],
        seed: &Secret<[u8; 32]>,
    ) -> Result<Self, Refusal> {
        let bit =
            |row: u32| trained.get(row as usize / 8).is_some_and(|byte| byte >> (row % 8) & 1 == 1);
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for row in 0..open.rows {
            if bit(row) { with.push(row) } else { without.push(row) }
        }
        let count = |rows: &[u32]| u32::try_from(rows.len()).unwrap_or(u32::MAX);
        let bytes = (open.rows as usize).div_ceil(8);
        if trained.len() != bytes || (count(&with), count(&without)) != open.split {
            return Err(Refusal::new(
                Code::WrongLength,
                "the rows to train on are not those announced",
            ));
        }
        let size = spec.batch as usize;
        if open.epoch >= spec.epochs {
            return Ok(Self { batches: without.chunks(size).map(<[u32]>::to_vec).collect() });
        }
        Ok(Self { batches: batches(&with, size, seed) })
    }

    /// The rows of one batch.
    #[must_use]
    pub fn rows(&self, counter: u32) -> Option<&[u32]> {
        self.batches.get(counter as usize).map(Vec::as_slice)
    }

    /// All batches in order.
    #[must_use]
    pub fn batches(&self) -> &[Vec<u32>] {
        &self.batches
    }
}

/// Bits, one per row, from who has a label.
#[must_use]
pub fn row_bits(trained: impl ExactSizeIterator<Item = bool>) -> Vec<u8> {
    let mut bits = vec![0u8; trained.len().div_ceil(8)];
    for (row, on) in trained.enumerate() {
        if let Some(byte) = bits.get_mut(row / 8) {
            *byte |= u8::from(on) << (row % 8);
        }
    }
    bits
}

/// The seed of an epoch's order, out of all contributions.
fn mixed(contributions: &[(Name, Hash, Contribution)]) -> Secret<[u8; 32]> {
    let mut parts = Zeroizing::new(Vec::new());
    contributions.iter().for_each(|(_, _, own)| parts.extend_from_slice(own.expose()));
    Secret::new(hash_parts("quorate/vertical-order/1", &[&parts]).0)
}

fn entry<'a>(roster: &'a [RosterEntry], party: &Name) -> Result<&'a RosterEntry, Refusal> {
    roster
        .iter()
        .find(|entry| entry.party == *party)
        .ok_or_else(|| Refusal::new(Code::UnknownParty, "not a party of this epoch"))
}
