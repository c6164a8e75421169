//! What every driver shares: clock, randomness, stored keys, and the heavy work on vectors.
//!
//! Vectors are worked on one range of coordinates at a time: a range is what one chunk of the
//! widest vector involved holds, so memory does not grow with d, and the bytes written per range
//! end at chunk boundaries. Cryptography runs on the blocking pool.

use std::ops::Range;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use getrandom::SysRng;
use quorate_crypto::keys::{Identity, SharedKey};
use quorate_crypto::merkle::{CHUNK_BYTES, Hash, leaf_hash, root};
use quorate_crypto::secret::Secret;
use quorate_crypto::sum::{
    EncodedLen, KeyedNonce, Label, Nonce, SchemeError, StepInput, SumContext, SumScheme,
};
use quorate_crypto::threshold::{HolderInput, KeyPost, KeySecret, PartyInput, ReplyBinding};
use quorate_protocols::job::Manifest;
use quorate_protocols::machine;
use quorate_protocols::model::{ModelState, mean_loss};
use quorate_protocols::payload::{self, OpenedSum, PayloadKind, PayloadSpec};
use quorate_protocols::policy::noise::replayable_seed;
use quorate_protocols::refusal::{Code, Culprit, Refusal};
use quorate_protocols::round::authority::KeyMember;
use quorate_protocols::round::keying::{JobKey, Keying, PostWork};
use quorate_protocols::round::messages::{BulkRef, SubmitHeader, reply_binding};
use quorate_protocols::round::{STEP_KEY, STEP_PARTIAL, STEP_SUBMIT};
use quorate_protocols::wire::Name;
use quorate_protocols::workload::Purpose;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _, UnwrapErr};
use zeroize::{Zeroize, Zeroizing};

use crate::bulk::{Bulk, BulkError, BulkInfo, BulkReader, BulkWriter};
use crate::store::{Batch, Blobs, Fact, Store, StoreError};

/// Kind of the records that hold secret keys.
const IDENTITY: &str = "identity";

/// Ciphertexts read ahead while a sum is opened.
const READ_AHEAD: usize = 4;

/// Milliseconds since 1970.
#[must_use]
pub fn now_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

/// The operating system's randomness.
#[must_use]
pub const fn os_rng() -> UnwrapErr<SysRng> {
    UnwrapErr(SysRng)
}

/// A machine's fact as a line of the store's log; `job` is empty for facts of no job.
#[must_use]
pub fn log_line(job: &str, actor: &str, fact: &machine::Fact) -> Fact {
    let machine::Fact { what, round, attempt, note } = fact;
    let mut body = serde_json::Map::new();
    if let Some(round) = round {
        body.insert("round".to_owned(), (*round).into());
    }
    if let Some(attempt) = attempt {
        body.insert("attempt".to_owned(), (*attempt).into());
    }
    if !note.is_empty() {
        body.insert("note".to_owned(), note.as_str().into());
    }
    Fact {
        at_ms: now_ms(),
        job: job.to_owned(),
        actor: actor.to_owned(),
        predicate: what.clone(),
        body: body.into(),
    }
}

/// The randomness of one party's noise in one round: drawn from the system's, or from `seed` where a
/// run must be repeatable by whoever knows it.
///
/// # Security
/// A given seed hides nothing from who knows it: demonstrations and tests only.
#[must_use]
pub fn noise_rng(seed: Option<&[u8; 32]>, job: &Hash, round: u32, party: &Name) -> ChaCha20Rng {
    let mut start = Zeroizing::new([0; 32]);
    match seed {
        Some(seed) => *start = replayable_seed(&noise_seed(seed, job), round, party),
        None => os_rng().fill_bytes(start.as_mut()),
    }
    ChaCha20Rng::from_seed(*start)
}

/// The bytes from which a party with this seed derives all its noise in `job`, for whoever repeats it:
/// see [`Draws::Shares`](crate::learn::sweep::Draws::Shares).
#[must_use]
pub fn noise_seed(seed: &[u8; 32], job: &Hash) -> Vec<u8> {
    [*seed, job.0].concat()
}

/// Why work on vectors failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The scheme refused: a malformed element or an illegal sum.
    #[error(transparent)]
    Scheme(#[from] SchemeError),
    /// One contributor's bytes are no elements of the scheme.
    #[error("message {index}: {error}")]
    Message {
        /// Its position: ciphertexts first, then functional keys.
        index: usize,
        /// What is wrong.
        error: SchemeError,
    },
    /// A vector could not be read or written.
    #[error(transparent)]
    Bulk(#[from] BulkError),
    /// An opened sum is not legal.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A background task ended early (the runtime is shutting down).
    #[error("interrupted")]
    Interrupted,
}

impl From<StoreError> for EngineError {
    fn from(error: StoreError) -> Self {
        Self::Bulk(error.into())
    }
}

impl EngineError {
    /// The refusal, when peers' bytes are at fault and trying again cannot help.
    ///
    /// # Errors
    /// The error itself, when it is this side's.
    pub fn into_refusal(self) -> Result<Refusal, Self> {
        match self {
            Self::Scheme(error @ (SchemeError::Malformed(_) | SchemeError::OutOfRange(_))) => {
                Ok(Refusal::new(Code::CheckSlot, error.to_string()))
            }
            Self::Message { error: error @ SchemeError::Malformed(_), .. } => {
                Ok(Refusal::new(Code::CheckSlot, error.to_string()))
            }
            Self::Message {
                error: error @ (SchemeError::BadProof | SchemeError::Length { .. }),
                ..
            } => Ok(Refusal::new(Code::BadCiphertext, error.to_string())),
            Self::Refused(refusal) => Ok(refusal),
            other => Err(other),
        }
    }
}

/// Long-term keys and their epoch.
#[derive(Clone)]
pub struct StoredIdentity {
    /// The keys.
    pub identity: Arc<Identity>,
    /// Their epoch, from 0.
    pub epoch: u32,
}

impl StoredIdentity {
    /// Fresh keys of an epoch.
    #[must_use]
    pub fn generate(epoch: u32) -> Self {
        Self { identity: Arc::new(Identity::generate(&mut os_rng())), epoch }
    }

    /// The record: epoch in 4 bytes, then the 64 secret bytes.
    fn to_record(&self) -> Vec<u8> {
        let secret = self.identity.to_bytes();
        let mut out = Vec::with_capacity(68);
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(secret.expose());
        out
    }

    fn from_record(record: &[u8]) -> Result<Self, StoreError> {
        let (epoch, secret) = record.split_first_chunk::<4>().ok_or(StoreError::BadNumber)?;
        let secret: &[u8; 64] = secret.try_into().map_err(|_| StoreError::BadNumber)?;
        let identity = Arc::new(Identity::from_bytes(secret));
        Ok(Self { identity, epoch: u32::from_le_bytes(*epoch) })
    }

    /// The write that stores these keys under `name`.
    pub fn put(&self, batch: Batch, name: &str) -> Batch {
        batch.put_record(IDENTITY, name, self.to_record())
    }

    /// The write that erases the keys stored under `name`.
    pub fn erase(batch: Batch, name: &str) -> Batch {
        batch.del_record(IDENTITY, name)
    }

    /// The keys stored under `name`.
    ///
    /// # Errors
    /// Failures of the store.
    pub async fn load(store: &Store, name: &str) -> Result<Option<Self>, StoreError> {
        let record = store.get_record(IDENTITY, name).await?.map(Zeroizing::new);
        record.map(|record| Self::from_record(&record)).transpose()
    }
}

/// The keys stored under `name`, made on first use as epoch 0; on the disk when this returns.
///
/// # Errors
/// Failures of the store.
///
/// # Security
/// The secret bytes lie in the store's database, which only its owner reads. Buffers of this
/// process are zeroized where they are ours; the database driver's copies are not.
pub async fn load_or_create_identity(
    store: &Store,
    name: &str,
) -> Result<StoredIdentity, StoreError> {
    if let Some(known) = StoredIdentity::load(store, name).await? {
        return Ok(known);
    }
    let fresh = StoredIdentity::generate(0);
    let batch = Batch::new().insert_new_record(IDENTITY, name, fresh.to_record());
    match store.commit(batch).await {
        // Another task was first: its keys are the ones.
        Err(StoreError::Exists { .. }) => {
            StoredIdentity::load(store, name).await?.ok_or(StoreError::BadNumber)
        }
        done => done.map(|_| fresh),
    }
}

/// A machine's reference to a bulk object.
#[must_use]
pub const fn bulk_ref(bulk: &Bulk) -> BulkRef {
    let BulkInfo { len, root } = bulk.info();
    BulkRef { len, root }
}

/// The name of the object a machine refers to.
#[must_use]
pub const fn bulk_info(reference: &BulkRef) -> BulkInfo {
    BulkInfo { len: reference.len, root: reference.root }
}

/// What all contributors of a round's sum agree on.
///
/// # Errors
/// As [`Manifest::shape`].
pub fn sum_context(
    manifest: &Manifest,
    key: Option<&JobKey>,
    round: u32,
    label: Label,
) -> Result<SumContext, Refusal> {
    let public = key.map(|key| Arc::from(key.public())).unwrap_or_default();
    Ok(SumContext { label, shape: manifest.shape(round)?, suite: manifest.suite, public })
}

/// Runs `work` on the blocking pool.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, EngineError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| EngineError::Interrupted)
}

/// The ranges of coordinates whose widest vector fills one chunk.
fn ranges(dim: u64, widest: usize) -> impl Iterator<Item = Range<u64>> {
    let step = (CHUNK_BYTES / widest.max(1)).max(1) as u64;
    (0..dim.div_ceil(step)).map(move |index| {
        let start = index * step;
        start..dim.min(start + step)
    })
}

/// Bytes per coordinate; 0 for a message of fixed length.
const fn width(len: EncodedLen) -> usize {
    match len {
        EncodedLen::PerCoordinate(each) => each,
        EncodedLen::Fixed(_) => 0,
    }
}

fn encoded_len(
    scheme: &dyn SumScheme,
    context: &SumContext,
    step: usize,
) -> Result<EncodedLen, EngineError> {
    Ok(scheme.encoded_len(&context.shape, step).ok_or(SchemeError::WrongStep)?)
}

/// Bytes of coordinates `range` where each takes `width`.
async fn read_coordinates(
    reader: &BulkReader,
    range: &Range<u64>,
    width: usize,
) -> Result<Vec<u8>, BulkError> {
    let width = width as u64;
    let at = |coordinate: u64| coordinate.checked_mul(width).ok_or(BulkError::OutOfRange);
    reader.read_range(at(range.start)?..at(range.end)?).await
}

/// Encrypts a stored plaintext under one label.
///
/// `keys` are shared with the authorities, in manifest order.
///
/// # Errors
/// [`EngineError::Scheme`] when the plaintext has another length than the shape,
/// [`EngineError::Bulk`].
///
/// # Security
/// (keys, label, nonce) must encrypt one plaintext only.
pub async fn encrypt_to_bulk(
    scheme: &'static dyn SumScheme,
    context: SumContext,
    keys: Vec<SharedKey>,
    nonce: Nonce,
    plaintext: &BulkReader,
    output: (&Blobs, &str),
) -> Result<Bulk, EngineError> {
    let keys: Vec<_> = keys.into_iter().map(|key| (key, nonce)).collect();
    let input = Input { keys, state: Secret::new(Vec::new()), plaintext: Some(plaintext) };
    contribute(scheme, context, STEP_SUBMIT, input, &[], output).await
}

/// Encrypts a stored plaintext under a threshold key, with its proof.
///
/// The randomness follows from the party's keys, the binding and the plaintext's own root: a restart
/// makes the same reply, and no other plaintext shares it.
///
/// # Errors
/// As [`encrypt_to_bulk`].
pub async fn reply_to_bulk(
    scheme: &'static dyn SumScheme,
    context: SumContext,
    identity: &Identity,
    binding: ReplyBinding,
    plaintext: &BulkReader,
    output: (&Blobs, &str),
) -> Result<Bulk, EngineError> {
    let message = [binding.0, plaintext.bulk().info().root.0].concat();
    let seed = identity.derive_seed("quorate/reply-seed/1", &message);
    let state = PartyInput { seed, binding }.to_state();
    let input = Input { keys: Vec::new(), state, plaintext: Some(plaintext) };
    contribute(scheme, context, STEP_SUBMIT, input, &[], output).await
}

/// Computes a functional key over `members`: shared key and nonce of each, in roster order.
///
/// # Errors
/// [`EngineError::Scheme`], [`EngineError::Bulk`].
pub async fn key_to_bulk(
    scheme: &'static dyn SumScheme,
    context: SumContext,
    members: Vec<(SharedKey, Nonce)>,
    output: (&Blobs, &str),
) -> Result<Bulk, EngineError> {
    let input = Input { keys: members, state: Secret::new(Vec::new()), plaintext: None };
    contribute(scheme, context, STEP_KEY, input, &[], output).await
}

/// Checks every reply of a frozen set, adds them up and stores this participant's partial decryption
/// of the sum: in [`STEP_KEY`] the authority's, in `STEP_PARTIAL` a holder's.
///
/// `members` and `replies` are in roster order; `share` is the participant's share of the key.
///
/// # Errors
/// [`EngineError::Message`] with the position of a reply whose form or proof is wrong;
/// [`EngineError::Scheme`], [`EngineError::Bulk`].
///
/// # Security
/// The caller answers once per label: see the machines.
pub async fn partial_to_bulk(
    scheme: &'static dyn SumScheme,
    context: SumContext,
    step: usize,
    (identity, share): (&Identity, &KeySecret),
    members: &[KeyMember],
    replies: &[BulkReader],
    output: (&Blobs, &str),
) -> Result<Bulk, EngineError> {
    let label = context.label;
    let seed = identity.derive_seed("quorate/share-seed/1", &label.0);
    let bindings = members.iter().map(|m| reply_binding(&label, &m.party, &m.nonce)).collect();
    let state =
        HolderInput { share: Secret::new(share.expose().clone()), seed, bindings }.to_state();
    let input = Input { keys: Vec::new(), state, plaintext: None };
    contribute(scheme, context, step, input, replies, output).await
}

/// Checks form and proof of one reply of a threshold scheme.
///
/// # Errors
/// [`EngineError::Refused`] with [`Code::BadCiphertext`] when it is wrong; [`EngineError::Bulk`].
pub async fn verify_reply(
    manifest: &Manifest,
    key: &JobKey,
    round: u32,
    header: &SubmitHeader,
    reply: &BulkReader,
) -> Result<(), EngineError> {
    let scheme = manifest.threshold_scheme()?;
    let shape = manifest.shape(round)?;
    let binding = reply_binding(&header.label, &header.party, &header.nonce);
    let public = key.public().to_vec();
    let bytes = reply.read_range(0..reply.bulk().info().len).await?;
    let party = header.party.clone();
    blocking(move || {
        let checked =
            scheme.load(&public).and_then(|key| key.verify_reply(&shape, &binding, &bytes));
        checked.map_err(|error| {
            Refusal::new(Code::BadCiphertext, format!("the reply of {party}: {error}"))
                .blaming(Culprit::Party(party))
                .into()
        })
    })
    .await?
}

/// A participant's post of one step of a threshold key, and the secret that it keeps for its next.
///
/// `secret` is what its step before left; empty at first.
///
/// # Errors
/// [`EngineError::Scheme`] when the posts leave no way on, [`EngineError::Refused`] when they are no
/// posts of this job.
///
/// # Security
/// The secret must be on the disk before the post leaves: see [`PostWork`].
pub async fn key_post(
    manifest: &Arc<Manifest>,
    work: PostWork,
    identity: &Arc<Identity>,
    secret: KeySecret,
) -> Result<(Vec<u8>, KeySecret), EngineError> {
    let (manifest, identity) = (Arc::clone(manifest), Arc::clone(identity));
    blocking(move || {
        let PostWork { transcript, number, step } = work;
        let scheme = manifest.threshold_scheme()?;
        let keying = Keying::read(&manifest, &transcript)?;
        let mut seed = Secret::new([0; 32]);
        os_rng().fill_bytes(seed.expose_mut());
        let made = keying.with_setup(&manifest, |setup, posts| {
            // Others may have posted in this step already.
            let before: Vec<KeyPost> = posts.iter().filter(|p| p.step < step).cloned().collect();
            let me = (number, identity.as_ref());
            scheme.key_post(setup, usize::from(step), me, &secret, &before, &seed)
        });
        Ok(made?)
    })
    .await?
}

/// A participant's share of a complete key, from what its last step left.
///
/// # Errors
/// [`EngineError::Scheme`] when the share does not match the public key.
pub async fn key_share(
    manifest: &Arc<Manifest>,
    key: &JobKey,
    number: u32,
    identity: &Arc<Identity>,
    secret: KeySecret,
) -> Result<KeySecret, EngineError> {
    let (manifest, identity, key) = (Arc::clone(manifest), Arc::clone(identity), key.clone());
    blocking(move || {
        let scheme = manifest.threshold_scheme()?;
        let share = key.keying().with_setup(&manifest, |setup, posts| {
            scheme.key_share(setup, (number, identity.as_ref()), &secret, posts)
        });
        Ok(share?)
    })
    .await?
}

/// The refusal that names the sender of a wrong reply, when one is at fault in the work of
/// [`partial_to_bulk`] over `members`.
///
/// # Errors
/// The error itself, when no reply is at fault.
pub fn reply_fault(error: EngineError, members: &[KeyMember]) -> Result<Refusal, EngineError> {
    let EngineError::Message { index, error: fault } = &error else {
        return Err(error);
    };
    let named = members.get(*index).filter(|_| {
        matches!(
            fault,
            SchemeError::Malformed(_) | SchemeError::BadProof | SchemeError::Length { .. }
        )
    });
    let Some(KeyMember { party, .. }) = named else {
        return Err(error);
    };
    let why = format!("the reply of {party}: {fault}");
    Ok(Refusal::new(Code::BadCiphertext, why).blaming(Culprit::Party(party.clone())))
}

/// What one contributor brings to a step.
struct Input<'a> {
    keys: Vec<(SharedKey, Nonce)>,
    state: Secret<Vec<u8>>,
    plaintext: Option<&'a BulkReader>,
}

/// One contributor's bytes of one step, range by range; where a step's length is fixed, all at once.
/// `inbox` are big messages of an earlier step, which it takes in first.
async fn contribute(
    scheme: &'static dyn SumScheme,
    context: SumContext,
    step: usize,
    input: Input<'_>,
    inbox: &[BulkReader],
    (blobs, namespace): (&Blobs, &str),
) -> Result<Bulk, EngineError> {
    let Input { keys, state, plaintext } = input;
    let shared = context.clone();
    let mut contributor = blocking(move || {
        let keyed: Vec<_> =
            keys.iter().map(|(key, nonce)| KeyedNonce { key, nonce: *nonce }).collect();
        let input = StepInput { keys: &keyed, state: state.expose(), ..StepInput::default() };
        scheme.contributor(step, &shared, &input)
    })
    .await??;
    let dim = context.shape.dim;
    for (index, reader) in inbox.iter().enumerate() {
        let bytes = reader.read_range(0..reader.bulk().info().len).await?;
        contributor = blocking(move || contributor.absorb(0..dim, &bytes).map(|()| contributor))
            .await?
            .map_err(|error| EngineError::Message { index, error })?;
    }
    let mut writer = BulkWriter::new(blobs, namespace);
    let word = context.shape.ring.word_bytes();
    let len = encoded_len(scheme, &context, step)?;
    let parts: Box<dyn Iterator<Item = Range<u64>> + Send> = match len {
        EncodedLen::PerCoordinate(each) => Box::new(ranges(dim, each.max(word))),
        EncodedLen::Fixed(_) => Box::new(std::iter::once(0..dim)),
    };
    for range in parts {
        let plain = match plaintext {
            Some(reader) => read_secret(reader, &range, word).await?,
            None => Zeroizing::default(),
        };
        let size = match len {
            EncodedLen::PerCoordinate(each) => usize::try_from(range.end - range.start)
                .ok()
                .and_then(|count| count.checked_mul(each))
                .ok_or(BulkError::OutOfRange)?,
            EncodedLen::Fixed(all) => all,
        };
        let (back, out) = blocking(move || {
            let mut out = vec![0; size];
            contributor.write(range, &plain, &mut out).map(|()| (contributor, out))
        })
        .await??;
        contributor = back;
        writer.write(&out).await?;
    }
    Ok(writer.finish().await?)
}

/// Opens a sum: adds the members' ciphertexts and removes the authorities' keys, or decrypts with the
/// authority's partial decryption and those of holders.
///
/// # Errors
/// [`EngineError::Scheme`] when no legal sum comes of it, [`EngineError::Message`] with the position
/// of a wrong message (ciphertexts, then keys, then partials), [`EngineError::Bulk`].
pub async fn open_to_bulk(
    scheme: &'static dyn SumScheme,
    context: SumContext,
    ciphertexts: &[BulkReader],
    keys: &[BulkReader],
    partials: &[BulkReader],
    (blobs, namespace): (&Blobs, &str),
) -> Result<Bulk, EngineError> {
    let members = u32::try_from(ciphertexts.len()).unwrap_or(u32::MAX);
    let shared = context.clone();
    let mut opener = blocking(move || scheme.opener(&shared, members)).await??;
    let (submit, key) =
        (encoded_len(scheme, &context, STEP_SUBMIT)?, encoded_len(scheme, &context, STEP_KEY)?);
    let word = context.shape.ring.word_bytes();
    let widest = word.max(width(submit)).max(width(key));
    let submitted = ciphertexts.iter().map(|reader| (STEP_SUBMIT, submit, reader.clone()));
    let released = keys.iter().map(|reader| (STEP_KEY, key, reader.clone()));
    let mut messages: Vec<_> = submitted.chain(released).collect();
    if !partials.is_empty() {
        let len = encoded_len(scheme, &context, STEP_PARTIAL)?;
        messages.extend(partials.iter().map(|reader| (STEP_PARTIAL, len, reader.clone())));
    }
    // A message of fixed length is about all coordinates at once.
    let whole = messages.iter().any(|(_, len, _)| matches!(len, EncodedLen::Fixed(_)));
    let dim = context.shape.dim;
    let parts: Box<dyn Iterator<Item = Range<u64>> + Send> =
        if whole { Box::new(std::iter::once(0..dim)) } else { Box::new(ranges(dim, widest)) };
    let mut writer = BulkWriter::new(blobs, namespace);
    for range in parts {
        opener.begin(range.clone());
        let part = range.clone();
        let mut parts = stream::iter(messages.clone().into_iter().enumerate())
            .map(move |(index, (step, len, reader))| {
                let part = part.clone();
                async move {
                    let bytes = match len {
                        EncodedLen::PerCoordinate(each) => {
                            read_coordinates(&reader, &part, each).await
                        }
                        EncodedLen::Fixed(_) => {
                            reader.read_range(0..reader.bulk().info().len).await
                        }
                    };
                    bytes.map(|bytes| (index, step, bytes))
                }
            })
            .buffered(READ_AHEAD);
        while let Some((index, step, bytes)) = parts.try_next().await? {
            opener = blocking(move || opener.absorb(step, &bytes).map(|()| opener))
                .await?
                .map_err(|error| EngineError::Message { index, error })?;
        }
        let count = usize::try_from(range.end - range.start).map_err(|_| BulkError::OutOfRange)?;
        let (back, out) = blocking(move || {
            let mut out = vec![0; count * word];
            opener.finish(&mut out).map(|()| (opener, out))
        })
        .await??;
        opener = back;
        writer.write(&out).await?;
    }
    Ok(writer.finish().await?)
}

/// Bytes of coordinates `range` of a plaintext, in buffers that are wiped.
async fn read_secret(
    reader: &BulkReader,
    range: &Range<u64>,
    width: usize,
) -> Result<Zeroizing<Vec<u8>>, BulkError> {
    let (size, width) = (CHUNK_BYTES as u64, width as u64);
    let at = |coordinate: u64| coordinate.checked_mul(width).ok_or(BulkError::OutOfRange);
    let to_usize = |n: u64| usize::try_from(n).map_err(|_| BulkError::OutOfRange);
    let (mut from, to) = (at(range.start)?, at(range.end)?);
    if from > to || to > reader.bulk().info().len {
        return Err(BulkError::OutOfRange);
    }
    let mut out = Zeroizing::new(Vec::with_capacity(to_usize(to - from)?));
    while from < to {
        let chunk = reader.chunk(from / size).await?;
        let start = from - from % size;
        let end = to.min(start + chunk.len() as u64);
        let part = to_usize(from - start)?..to_usize(end - start)?;
        out.extend_from_slice(chunk.get(part).ok_or(BulkError::OutOfRange)?);
        // The only handle, so its memory can be taken back and wiped.
        if let Ok(mut chunk) = chunk.try_into_mut() {
            chunk.as_mut().zeroize();
        }
        from = end;
    }
    Ok(out)
}

/// Stores secret bytes as a bulk object, through buffers that are wiped.
///
/// # Errors
/// Failures of the store.
///
/// # Security
/// The bytes lie in the clear in the owner's store: its folder is private to its owner, and
/// deployments encrypt the volume.
pub async fn secret_to_bulk(
    bytes: &Zeroizing<Vec<u8>>,
    (blobs, namespace): (&Blobs, &str),
) -> Result<Bulk, EngineError> {
    let mut leaves: Vec<Hash> = Vec::new();
    for chunk in bytes.chunks(CHUNK_BYTES) {
        let chunk = Bytes::from_owner(Zeroizing::new(chunk.to_vec()));
        let copy = chunk.clone();
        let leaf = blocking(move || leaf_hash(&copy)).await?;
        blobs.put_chunk(namespace, &leaf, chunk).await?;
        leaves.push(leaf);
    }
    let info = BulkInfo { len: bytes.len() as u64, root: root(&leaves) };
    let list: Vec<u8> = leaves.iter().flat_map(|leaf| leaf.0).collect();
    Ok(Bulk::parse(info, info.len, &list)?)
}

/// Stores a model state; of the same state always the same object.
///
/// # Errors
/// Failures of the store.
pub async fn state_to_bulk(
    state: &ModelState,
    (blobs, namespace): (&Blobs, &str),
) -> Result<Bulk, EngineError> {
    let mut writer = BulkWriter::new(blobs, namespace);
    writer.write(&quorate_protocols::wire::encode(state)).await?;
    Ok(writer.finish().await?)
}

/// Reads a model state that this process's own store holds.
///
/// # Errors
/// Failures of the store; [`BulkError::BadAnswer`] when the object is no model state.
pub async fn state_from_bulk(reader: &BulkReader) -> Result<ModelState, EngineError> {
    let bytes = reader.read_range(0..reader.bulk().info().len).await?;
    let state = blocking(move || postcard::from_bytes(&bytes)).await?;
    Ok(state.map_err(|_| BulkError::BadAnswer)?)
}

/// Reads an opened sum of `members` parties whole and checks it.
///
/// # Errors
/// [`EngineError::Refused`] with [`Code::CheckSlot`] when it is not legal; [`EngineError::Bulk`].
pub async fn read_sum(
    manifest: &Arc<Manifest>,
    round: u32,
    members: usize,
    sum: &BulkReader,
) -> Result<OpenedSum, EngineError> {
    let bytes = sum.read_range(0..sum.bulk().info().len).await?;
    let manifest = Arc::clone(manifest);
    blocking(move || {
        let spec = manifest.payload(round)?;
        checked(&manifest, &spec, members, &bytes)
    })
    .await?
}

fn checked(
    manifest: &Manifest,
    spec: &PayloadSpec,
    members: usize,
    bytes: &[u8],
) -> Result<OpenedSum, EngineError> {
    let max_rows = manifest.workload.max_rows();
    let (ring, code, members) = (manifest.ring, &manifest.code, members as u64);
    payload::read_sum(spec, ring, code, max_rows, members, bytes)
        .map_err(|error| Refusal::new(Code::CheckSlot, error.to_string()).into())
}

/// A model state and the sum it followed from.
#[derive(Clone, Debug)]
pub struct Advanced {
    /// The state after the round.
    pub state: Arc<ModelState>,
    /// Its hash.
    pub hash: Hash,
    /// Rows behind the sum.
    pub rows: u64,
    /// Mean loss of the state before the round on the members' rows, in rounds of training.
    pub loss: Option<f64>,
}

/// Checks an opened sum of `members` parties and computes the model state that follows from it.
///
/// Sums of plain vectors, which have no model, are checked a chunk at a time.
///
/// # Errors
/// As [`read_sum`]; also [`Code::CheckSlot`] when no state follows from the sum.
pub async fn advance(
    manifest: &Arc<Manifest>,
    state: &Arc<ModelState>,
    round: u32,
    members: usize,
    sum: &BulkReader,
) -> Result<Advanced, EngineError> {
    let spec = manifest.payload(round)?;
    if let PayloadKind::Vector { len, max_abs } = spec.kind {
        let rows = check_vector(manifest, &spec, (len, max_abs), members, sum).await?;
        let state = Arc::clone(state);
        return Ok(Advanced { hash: state.hash(), state, rows, loss: None });
    }
    let opened = read_sum(manifest, round, members, sum).await?;
    let (manifest, state) = (Arc::clone(manifest), Arc::clone(state));
    blocking(move || {
        let next = state
            .advance(&manifest.workload, round, &opened)
            .map_err(|error| Refusal::new(Code::CheckSlot, error.to_string()))?;
        let trained = manifest.workload.purpose(round) == Some(Purpose::Train);
        let loss = if trained { mean_loss(&opened, &manifest.code) } else { None };
        Ok(Advanced { hash: next.hash(), state: Arc::new(next), rows: opened.rows, loss })
    })
    .await?
}

/// Checks a summed vector and returns the rows behind it: every part is read behind the sum's own
/// head, as a shorter vector.
async fn check_vector(
    manifest: &Arc<Manifest>,
    whole: &PayloadSpec,
    (len, max_abs): (u64, u64),
    members: usize,
    sum: &BulkReader,
) -> Result<u64, EngineError> {
    let word = manifest.ring.word_bytes();
    let expected = whole.dim();
    if Some(sum.bulk().info().len) != expected.checked_mul(word as u64) {
        return Err(Refusal::new(Code::CheckSlot, "the opened sum has a wrong length").into());
    }
    let before = whole.head_words();
    let head = read_coordinates(sum, &(0..before), word).await?;
    let mut rows = 0;
    for range in ranges(len, word) {
        let len = range.end - range.start;
        let part = range.start + before..range.end + before;
        let mut bytes = head.clone();
        bytes.extend(read_coordinates(sum, &part, word).await?);
        let manifest = Arc::clone(manifest);
        let spec = PayloadSpec { kind: PayloadKind::Vector { len, max_abs }, ..*whole };
        rows = blocking(move || checked(&manifest, &spec, members, &bytes)).await??.rows;
    }
    Ok(rows)
}

#[cfg(test)]
mod tests;
