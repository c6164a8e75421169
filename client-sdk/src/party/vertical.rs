//! One vertical job at one party: the machine's driver.
//!
//! Rows are aligned first; then every look at the aggregator is handed to the machine, every change is
//! committed before anything leaves, and what the stored machine still wants to send or to compute,
//! [`PartyJob::requests`] says. Work that is repeated after a crash gives the same bytes.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use quorate_crypto::fe::product::pick;
use quorate_crypto::keys::Identity;
use quorate_crypto::merkle::{Hash, hash_parts};
use quorate_crypto::oprf::{Blinder, Evaluated, PublicKey};
use quorate_crypto::psi::{PartyRows, PartyTags};
use quorate_crypto::sum::{Label, Nonce};
use quorate_protocols::fedv::align::{self, AlignedRows, Next, Tags};
use quorate_protocols::fedv::linear::{Features, Targets, Weights};
use quorate_protocols::fedv::messages::{
    BatchFields, BatchFreeze, BatchPurpose, EpochOpen, Evaluate, PartyView, ScoreKey,
    VerticalMessage,
};
use quorate_protocols::fedv::party::{Event, Mixed, PartyJob, PartyWork};
use quorate_protocols::fedv::work::{self, Order, Own, row_bits, with_stored};
use quorate_protocols::fedv::{shape_of, spec};
use quorate_protocols::job::{JobPackage, Manifest, RosterEntry};
use quorate_protocols::machine::{Context, Output};
use quorate_protocols::refusal::{Code, Culprit, Refusal};
use quorate_protocols::round::aggregator::Outcome;
use quorate_protocols::round::messages::{BulkRef, Message, SubmitHeader};
use quorate_protocols::wire::{MAX_MESSAGE_BYTES, Name, Signed, decode, encode};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use zeroize::Zeroizing;

use super::run::{AGGREGATOR, quick};
use super::{Inner, PartyError, PartyEvent, fetch_package};
use crate::api::{Hex32, MAX_WAIT_MS, VerticalQuery, VerticalView};
use crate::bulk::{Bulk, BulkReader, BulkWriter, download, upload};
use crate::engine::{EngineError, bulk_info, bulk_ref, log_line, now_ms, os_rng};
use crate::learn::LearnError;
use crate::learn::data::Table;
use crate::store::{Batch, StoreError};
use crate::transport::{Ask, Backoff, CallError};
use crate::vertical::block;
use crate::vertical::identify::IdentifierRule;
use crate::vertical::replay::Replay;

/// Kind of the records that hold a vertical machine.
const MACHINE: &str = "vertical-party";
/// Kind of the records of a party's aligned rows, written once with the first state of its machine.
const ROWS: &str = "vertical-rows";
/// Kind of the records with a party's own weights.
const WEIGHTS: &str = "vertical-weights";
/// Kind of the records with the leaf list of the ciphertext under way.
const CIPHERTEXT: &str = "vertical-ciphertext";
/// Kind of the record of the features sent once.
const STORED: &str = "vertical-features";
/// Kind of the records with opened scores, by job and batch.
const SCORES: &str = "vertical-scores";
/// Kind of the records with the seeds of orders, by job and epoch: of replayable jobs only.
const ORDERS: &str = "vertical-orders";
/// Bits of a batch's number among the evaluations of one alignment.
const BATCH_BITS: u32 = 20;

/// What a vertical job left at a party.
#[derive(Clone)]
pub struct VerticalFinished {
    /// How the job ended.
    pub outcome: Outcome,
    /// The party's own weights.
    pub weights: Weights,
    /// For each aligned row, in the shared order, its row in the party's table, from 0.
    pub rows: Vec<u32>,
    /// At the label holder: summed scores at scale 2^36 of the rows without a label, one per output, by
    /// position in the shared order.
    pub scores: BTreeMap<u32, Vec<i64>>,
    /// Batches this party finished.
    pub batches: u64,
    /// What repeats the job, where [`PartyConfig::replayable`](super::PartyConfig::replayable) asked
    /// for it.
    pub replay: Option<Replay>,
}

/// A party's machine, and its aligned rows.
struct Aligned {
    machine: PartyJob,
    rows: Vec<u32>,
}

/// A vertical job this party takes part in.
struct Run<'a> {
    party: &'a Inner,
    job: Hex32,
    id: String,
    manifest: Arc<Manifest>,
    machine: PartyJob,
    version: u64,
    rows: Vec<u32>,
    data: Arc<Data>,
    weights: Weights,
    /// The order of the epoch it was computed for.
    order: Option<(Hash, Arc<Order>)>,
    /// The scores and residuals of the batch that the label holder is at.
    opened: Option<(Label, Arc<Opening>)>,
    /// Others' stored features, at the label holder of a job that has them sent once.
    stored: BTreeMap<Name, BulkReader>,
    /// Messages that the aggregator took.
    sent: HashSet<Hash>,
    backoff: Backoff,
}

/// A party's aligned rows.
struct Data {
    features: Features,
    targets: Option<Targets>,
}

/// What became of a machine's outputs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Pursued {
    /// There was nothing to compute.
    Nothing,
    /// Something was computed.
    Worked,
    /// Something was not taken: to be tried again soon.
    TryAgain,
}

/// What the label holder reads in a frozen batch.
struct Opening {
    ciphertexts: Vec<Vec<u8>>,
    scores: Zeroizing<Vec<i64>>,
    residuals: Zeroizing<Vec<i64>>,
}

/// Takes part in a vertical job until it ends.
pub(super) async fn run(
    party: &Inner,
    job: Hash,
    table: Table,
) -> Result<VerticalFinished, PartyError> {
    let job = Hex32::from(job);
    let mut run = match party.store.load_machine(MACHINE, &job.to_string()).await? {
        Some((version, state)) => {
            let machine: PartyJob =
                postcard::from_bytes(&state).map_err(|_| StoreError::BadNumber)?;
            party.minima.check(machine.manifest())?;
            let rows = party.store.get_record(ROWS, &job.to_string()).await?;
            let rows = postcard::from_bytes(&rows.ok_or(StoreError::BadNumber)?)
                .map_err(|_| StoreError::BadNumber)?;
            Run::with(party, job, Aligned { machine, rows }, version, &table).await?
        }
        None => {
            let package = fetch_package(party, &job).await?;
            party.minima.check(&package.manifest)?;
            package.verify()?;
            let aligned = align_rows(party, job, &package, &table).await?;
            let encoded = |of: postcard::Result<Vec<u8>>| of.map_err(|_| StoreError::BadNumber);
            let state = encoded(postcard::to_allocvec(&aligned.machine))?;
            let rows = encoded(postcard::to_allocvec(&aligned.rows))?;
            let batch = Batch::new().put_record(ROWS, &job.to_string(), rows).put_machine(
                MACHINE,
                &job.to_string(),
                0,
                state,
            );
            party.store.commit(batch).await?;
            Run::with(party, job, aligned, 1, &table).await?
        }
    };
    run.until_end().await
}

fn learn(error: LearnError) -> PartyError {
    PartyError::Training(error.into())
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, PartyError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| EngineError::Interrupted.into())
}

async fn look(
    party: &Inner,
    job: &Hex32,
    seen: Option<Hex32>,
    wait_ms: u64,
) -> Result<VerticalView, PartyError> {
    let query = VerticalQuery { party: party.name.clone(), seen, wait_ms };
    let ask = Ask::vertical_view(format!("{}/vertical/view", party.job_url(job)), query);
    let sent = now_ms();
    let answer = party.http.insist(AGGREGATOR, &ask, MAX_MESSAGE_BYTES).await?;
    let view: VerticalView = decode(&answer).map_err(|e| CallError::bad_answer(AGGREGATOR, &e))?;
    party.check_clock(AGGREGATOR, sent, view.now_ms);
    Ok(view)
}

fn mark(view: &PartyView) -> Hex32 {
    hash_parts("view", &[&encode(view)]).into()
}

/// Sends a message to the aggregator; says whether it was taken.
async fn tell(party: &Inner, job: &Hex32, message: &Message) -> Result<bool, PartyError> {
    let ask = Ask::post(format!("{}/vertical/messages", party.job_url(job)), message.to_wire());
    match party.http.insist(AGGREGATOR, &ask, MAX_MESSAGE_BYTES).await {
        Ok(_) => Ok(true),
        Err(CallError::Refused { problem, .. }) => {
            // Overtaken by what the next look shows.
            let (code, detail) = (problem.code, problem.detail);
            party.report(&PartyEvent::Refused { code, detail });
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Uploads an object under a signed header.
async fn submit(
    party: &Inner,
    job: &Hex32,
    header: &Signed<SubmitHeader>,
    reader: &BulkReader,
) -> Result<bool, PartyError> {
    let fields = header.peek()?;
    let (label, name) = (Hex32::from(fields.label), &fields.party);
    let url = format!("{}/submissions/{label}/{name}", party.job_url(job));
    match upload(party.http.client(), &url, &header.to_wire(), reader, &quick()).await {
        Ok(answer) => {
            let Message::Receipt(receipt) = Message::from_wire(&answer)? else {
                let why = "no receipt".to_owned();
                return Err(CallError::BadAnswer { peer: AGGREGATOR.to_owned(), why }.into());
            };
            let receipt = receipt.verify(&party.aggregator)?;
            Ok(receipt.label == fields.label && receipt.header == header.hash())
        }
        Err(error) => {
            let error = CallError::of_bulk(AGGREGATOR, error)?;
            party.report(&PartyEvent::Waiting { why: error.to_string() });
            Ok(false)
        }
    }
}

/// Finds the rows that all parties have, and makes the party's machine.
async fn align_rows(
    party: &Inner,
    job: Hex32,
    package: &JobPackage,
    table: &Table,
) -> Result<Aligned, PartyError> {
    let manifest = Arc::new(package.manifest.clone());
    let spec = spec(&manifest)?;
    if spec.block(&party.name).is_none() {
        return Err(Refusal::new(
            Code::UnknownParty,
            format!("the job names no columns of {}: check --name", party.name),
        )
        .into());
    }
    let identifiers = IdentifierRule::of(spec).identifiers(table).map_err(learn)?;
    let declared = u32::try_from(identifiers.len())
        .map_err(|_| PartyError::Config("over 2^32 rows".to_owned()))?;
    if u64::from(declared) > spec.max_rows {
        let why = format!("{declared} rows, the job allows {}", spec.max_rows);
        return Err(PartyError::Config(why));
    }
    let identity = Arc::clone(&party.keys.identity);
    let mut made: Option<(Hash, PartyTags)> = None;
    let (mut seen, mut sent, mut backoff) = (None, HashSet::new(), Backoff::new());
    let mut submitted: Option<Label> = None;
    party.ask_in(&job, &manifest).await?;
    loop {
        let shown = look(party, &job, seen, MAX_WAIT_MS).await?;
        if let Some(outcome) = &shown.outcome {
            return Err(PartyError::Ended(outcome.into()));
        }
        let view = shown.view;
        seen = Some(mark(&view));
        if view.epoch.is_none() {
            party.ask_in(&job, &manifest).await?;
        }
        let own = Own { me: &party.name, identity: &identity, manifest: &manifest };
        let (tags, common) = match align::next(&own, &party.entry, declared, &view)? {
            Next::Wait => continue,
            Next::Send(messages) => {
                for message in messages {
                    let hash = hash_parts("sent", &[&message.to_wire()]);
                    if !sent.contains(&hash) && tell(party, &job, &message).await? {
                        sent.insert(hash);
                    }
                }
                continue;
            }
            Next::Tags(tags) => (tags, None),
            Next::Align(tags, common) => (tags, Some(common)),
        };
        if made.as_ref().is_none_or(|(of, _)| *of != tags.epoch) {
            let mix = view.epoch.as_ref().map(Signed::peek).transpose()?.map_or(0, |open| open.mix);
            let rows = evaluate(party, &job, package, (&tags, mix), &identifiers).await?;
            made = Some((tags.epoch, rows));
        }
        let Some((_, own_tags)) = &made else { continue };
        let Some(common) = common else {
            if submitted != Some(tags.label) {
                let space = format!("{job}/vertical/tags");
                let bulk = write(party, &space, &own_tags.encode()).await?;
                // A list of tags has no pad: its nonce has no role, and a fixed one makes a repeated
                // upload the same upload.
                let nonce = Nonce([0; 16]);
                let reference = bulk_ref(&bulk);
                let header = align::tags_header(&own, &party.entry, tags.label, nonce, reference);
                let reader = BulkReader::new(party.store.blobs(), &space, bulk);
                if submit(party, &job, &header, &reader).await? {
                    submitted = Some(tags.label);
                    backoff.reset();
                } else {
                    seen = None;
                    backoff.wait().await;
                }
            }
            continue;
        };
        return aligned(party, job, package, table, (own_tags, &tags, common)).await;
    }
}

/// The tags of all identifiers, evaluated at every authority batch by batch.
async fn evaluate(
    party: &Inner,
    job: &Hex32,
    package: &JobPackage,
    (tags, mix): (&Tags, u16),
    identifiers: &[Option<quorate_crypto::psi::Identifier>],
) -> Result<PartyTags, PartyError> {
    let manifest = &package.manifest;
    let own = Own { me: &party.name, identity: &party.keys.identity, manifest };
    let keys: Vec<PublicKey> = package
        .approvals
        .iter()
        .map(|approval| approval.peek().map(|approval| approval.evaluation))
        .collect::<Result<Option<Vec<_>>, _>>()?
        .ok_or_else(|| Refusal::new(Code::BadManifest, "an authority names no evaluation key"))?;
    let count = u32::try_from(identifiers.len()).unwrap_or(u32::MAX);
    let mut rng = ChaCha20Rng::from_seed(*own.blinds_seed(&tags.epoch).expose());
    let bad = |e: &dyn std::fmt::Display| Refusal::new(Code::Malformed, e.to_string());
    let rows = PartyRows::new(identifiers, count, &mut rng).map_err(|e| bad(&e))?;
    let blinder = Arc::new(Blinder::new(own.blinds_seed(&tags.epoch)));
    let mut all = Vec::with_capacity(identifiers.len());
    for (index, inputs) in (0u32..).zip(rows.batches()) {
        let inputs = Arc::new(Zeroizing::new(inputs.to_vec()));
        let (b, i) = (Arc::clone(&blinder), Arc::clone(&inputs));
        let blinded = off_thread(move || b.blind(&i)).await?.map_err(|e| bad(&e))?;
        let mut answers = Vec::with_capacity(keys.len());
        for (authority, key) in manifest.authorities.iter().zip(&keys) {
            let ask = Evaluate {
                authority: authority.name.clone(),
                manifest: manifest.hash(),
                party: party.name.clone(),
                batch: (u32::from(mix) << BATCH_BITS) | index,
                blinded: blinded.clone(),
            };
            let ask = Signed::sign(ask, &party.keys.identity).signed().clone();
            let message = Message::Vertical(VerticalMessage::Evaluate(ask));
            let known = party.authorities.iter().find(|known| known.key == *authority);
            let url = known.map(|known| known.url.clone()).ok_or_else(|| {
                PartyError::Config(format!("not enrolled at authority {}", authority.name))
            })?;
            let peer = format!("authority {}", authority.name);
            let ask = Ask::post(format!("{url}/v1/jobs/{job}/vertical"), message.to_wire());
            let answer = party.http.insist(&peer, &ask, MAX_MESSAGE_BYTES).await?;
            let Message::Vertical(VerticalMessage::Evaluated { answer, .. }) =
                Message::from_wire(&answer)?
            else {
                let why = "no evaluation".to_owned();
                return Err(CallError::BadAnswer { peer, why }.into());
            };
            let (key, sent) = (*key, blinded.clone());
            let checked = off_thread(move || Evaluated::check(&key, &sent, &answer)).await?;
            answers.push(
                checked.map_err(|e| bad(&e).blaming(Culprit::Authority(authority.name.clone())))?,
            );
        }
        let (b, keys) = (Arc::clone(&blinder), keys.clone());
        let values = off_thread(move || b.finalise(&inputs, &blinded, &keys, &answers)).await?;
        all.extend(tags.group.tags(values.map_err(|e| bad(&e))?.expose()));
    }
    Ok(PartyTags::new(&rows, &all).map_err(|e| bad(&e))?)
}

/// The party's rows by the common tags, and its machine.
async fn aligned(
    party: &Inner,
    job: Hex32,
    package: &JobPackage,
    table: &Table,
    (own_tags, tags, common): (&PartyTags, &Tags, BulkRef),
) -> Result<Aligned, PartyError> {
    let spec = spec(&package.manifest)?;
    let most = spec.max_rows.saturating_mul(quorate_crypto::psi::TAG_BYTES as u64);
    if common.len > most {
        return Err(Refusal::new(Code::TooLarge, "more common rows than the job allows")
            .blaming(Culprit::Aggregator)
            .into());
    }
    let base = format!("{}/vertical/common", party.job_url(&job));
    let space = format!("{job}/vertical/common");
    let blobs = party.store.blobs();
    let info = bulk_info(&common);
    let reader = download(party.http.client(), &base, &info, blobs, &space, &quick()).await?;
    let bytes = reader.read_range(0..common.len).await?;
    let aligned = own_tags.align(&bytes, spec.batch).map_err(|e| {
        let refusal = Refusal::new(Code::BelowFloor, e.to_string());
        match e {
            quorate_crypto::psi::PsiError::TooFew { .. } => refusal,
            _ => refusal.blaming(Culprit::Aggregator),
        }
    })?;
    let rows = aligned.rows().to_vec();
    let root = aligned.root(&tags.group);
    let trained = if spec.holder == party.name {
        let own: Vec<usize> = rows.iter().map(|row| *row as usize).collect();
        let (_, trained) = block::targets(table, spec, &own).map_err(learn)?;
        row_bits(trained.into_iter())
    } else {
        Vec::new()
    };
    let count = u32::try_from(rows.len()).unwrap_or(u32::MAX);
    let entry = party.entry.clone();
    let aligned = AlignedRows { count, order: root, holder: tags.holder.clone() };
    let machine = {
        let mut rng = os_rng();
        let cx = Context { now_ms: now_ms(), identity: &party.keys.identity, rng: &mut rng };
        PartyJob::join(&cx, entry, &party.minima, package.clone(), aligned, trained)?.0
    };
    for space in ["tags", "common"] {
        blobs.delete_namespace(&format!("{job}/vertical/{space}")).await?;
    }
    Ok(Aligned { machine, rows })
}

async fn write(party: &Inner, space: &str, bytes: &[u8]) -> Result<Bulk, PartyError> {
    let mut writer = BulkWriter::new(party.store.blobs(), space);
    writer.write(bytes).await?;
    Ok(writer.finish().await?)
}

impl<'a> Run<'a> {
    async fn with(
        party: &'a Inner,
        job: Hex32,
        aligned: Aligned,
        version: u64,
        table: &Table,
    ) -> Result<Self, PartyError> {
        let Aligned { machine, rows } = aligned;
        let manifest = Arc::new(machine.manifest().clone());
        let spec = spec(&manifest)?;
        let own: Vec<usize> = rows.iter().map(|row| *row as usize).collect();
        let block = spec
            .block(&party.name)
            .ok_or_else(|| Refusal::new(Code::UnknownParty, "the job names no columns of mine"))?;
        // Standardised over all aligned rows: a party does not know which have a label.
        let all = vec![true; own.len()];
        let features = block::features(table, block, &own, &all).map_err(learn)?;
        let holder = spec.holder == party.name;
        let targets = match holder {
            true => Some(block::targets(table, spec, &own).map_err(learn)?.0),
            false => None,
        };
        let id = job.to_string();
        let weights = match party.store.get_record(WEIGHTS, &id).await? {
            Some(bytes) => postcard::from_bytes(&bytes).map_err(|_| StoreError::BadNumber)?,
            None => {
                let own =
                    Own { me: &party.name, identity: &party.keys.identity, manifest: &manifest };
                let columns = features.columns();
                Weights::initial(&own.weights_seed(), columns, spec.outputs(), holder)
            }
        };
        party.report(&PartyEvent::Joined {
            job,
            title: manifest.title.clone(),
            round: 0,
            rounds: spec.epochs,
        });
        Ok(Self {
            party,
            job,
            id,
            machine,
            version,
            rows,
            data: Arc::new(Data { features, targets }),
            weights,
            order: None,
            opened: None,
            stored: BTreeMap::new(),
            sent: HashSet::new(),
            backoff: Backoff::new(),
            manifest,
        })
    }

    async fn until_end(&mut self) -> Result<VerticalFinished, PartyError> {
        self.party.ask_in(&self.job, &self.manifest).await?;
        let mut seen = None;
        loop {
            let shown = look(self.party, &self.job, seen, MAX_WAIT_MS).await?;
            seen = Some(mark(&shown.view));
            if shown.outcome.is_none() && shown.view.epoch.is_none() {
                self.party.ask_in(&self.job, &self.manifest).await?;
            }
            let outputs = self.apply(Event::View(Box::new(shown.view)), Batch::new()).await?;
            match self.pursue(outputs).await? {
                Pursued::Nothing => self.backoff.reset(),
                // What was seen may hold the next step, too.
                Pursued::Worked => {
                    seen = None;
                    self.backoff.reset();
                }
                Pursued::TryAgain => {
                    seen = None;
                    self.backoff.wait().await;
                }
            }
            if let Some(outcome) = shown.outcome {
                return self.finished(outcome).await;
            }
        }
    }

    async fn finished(&self, outcome: Outcome) -> Result<VerticalFinished, PartyError> {
        let prefix = format!("{}/", self.id);
        let mut scores = BTreeMap::new();
        for (_, bytes) in self.party.store.list_records(SCORES, &prefix).await? {
            let batch: Vec<(u32, Vec<i64>)> =
                postcard::from_bytes(&bytes).map_err(|_| StoreError::BadNumber)?;
            scores.extend(batch);
        }
        self.party.report(&PartyEvent::Finished {
            outcome: (&outcome).into(),
            rounds: u32::try_from(self.machine.done()).unwrap_or(u32::MAX),
            state: self.weights.hash().into(),
        });
        let blobs = self.party.store.blobs();
        for space in ["own", "frozen", "covered", "stored", "features"] {
            blobs.delete_namespace(&format!("{}/vertical/{space}", self.job)).await?;
        }
        let replay = if self.party.replayable { Some(self.replay().await?) } else { None };
        Ok(VerticalFinished {
            outcome,
            weights: self.weights.clone(),
            rows: self.rows.clone(),
            scores,
            batches: self.machine.done(),
            replay,
        })
    }

    /// What repeats this party's part of the job in the clear.
    async fn replay(&self) -> Result<Replay, PartyError> {
        let (own, spec) = (self.own(), spec(&self.manifest)?);
        let prefix = format!("{}/", self.id);
        let mut orders = Vec::new();
        for (_, seed) in self.party.store.list_records(ORDERS, &prefix).await? {
            let seed: [u8; 32] = seed.try_into().map_err(|_| StoreError::BadNumber)?;
            orders.push(Hex32(seed));
        }
        // The order of the rows that are only scored is none.
        orders.truncate(spec.epochs as usize);
        let mut noise = Vec::new();
        if spec.holder == self.party.name {
            let trained = self.machine.trained().unwrap_or(&[]);
            let rows = trained.iter().map(|byte| byte.count_ones()).sum::<u32>();
            let batches = rows.checked_div(spec.batch).unwrap_or(0);
            let of_epoch = |epoch| {
                let seed = |batch| Hex32(*own.noise_seed((epoch, batch)).expose());
                (0..batches).map(seed).collect()
            };
            noise = (0..spec.epochs).map(of_epoch).collect();
        }
        Ok(Replay {
            party: self.party.name.clone(),
            rows: self.rows.clone(),
            weights: Hex32(*own.weights_seed().expose()),
            orders,
            noise,
        })
    }

    /// Handles an event and commits the new state with `also`.
    async fn apply(
        &mut self,
        event: Event,
        mut also: Batch,
    ) -> Result<Vec<Output<Message, PartyWork>>, PartyError> {
        let (machine, identity) = (self.machine.clone(), Arc::clone(&self.party.keys.identity));
        let (next, outputs) = off_thread(move || step(machine, &identity, event)).await??;
        let mut refused = None;
        for output in &outputs {
            match output {
                Output::Log(fact) => {
                    also = also.fact(log_line(&self.id, self.party.name.as_str(), fact));
                }
                Output::Reject(refusal) => refused = Some(refusal.clone()),
                _ => {}
            }
        }
        if let Some(refusal) = refused {
            self.party.store.commit(also).await?;
            let (code, detail) = (refusal.code.as_str().to_owned(), refusal.detail.clone());
            self.party.report(&PartyEvent::Refused { code, detail });
            return Err(refusal.into());
        }
        let state = postcard::to_allocvec(&next).map_err(|_| StoreError::BadNumber)?;
        also = also.put_machine(MACHINE, &self.id, self.version, state);
        self.party.store.commit(also).await?;
        self.version += 1;
        self.machine = next;
        Ok(outputs)
    }

    /// Sends and computes what outputs ask for, and what follows from it.
    async fn pursue(
        &mut self,
        outputs: Vec<Output<Message, PartyWork>>,
    ) -> Result<Pursued, PartyError> {
        let mut todo = outputs;
        let mut done = Pursued::Nothing;
        loop {
            let mut next = Vec::new();
            for output in todo {
                match output {
                    Output::Send { message: Message::Submit(header), .. } => {
                        let label = header.peek()?.label;
                        let (kind, space) = self.place(&label);
                        let record = self.party.store.get_record(kind, &self.id).await?;
                        let record = record.ok_or(StoreError::BadNumber)?;
                        let bulk = Bulk::from_record(&record)?;
                        let reader = BulkReader::new(self.party.store.blobs(), &space, bulk);
                        if submit(self.party, &self.job, &header, &reader).await? {
                            let event = Event::Received { label };
                            next.extend(self.apply(event, Batch::new()).await?);
                        } else {
                            done = Pursued::TryAgain;
                        }
                    }
                    Output::Send { message, .. } => {
                        let hash = hash_parts("sent", &[&message.to_wire()]);
                        if self.sent.contains(&hash) {
                            continue;
                        }
                        if tell(self.party, &self.job, &message).await? {
                            self.sent.insert(hash);
                        } else {
                            done = Pursued::TryAgain;
                        }
                    }
                    Output::Work(work) => {
                        next.extend(self.work(work).await?);
                        done = done.max(Pursued::Worked);
                    }
                    _ => {}
                }
            }
            if next.is_empty() {
                return Ok(done);
            }
            todo = next;
        }
    }

    /// The opening of an epoch and its batches.
    async fn order(&mut self, epoch: &Mixed) -> Result<(EpochOpen, Arc<Order>), PartyError> {
        let open = epoch.open.verify(&self.manifest.aggregator)?;
        let hash = open.hash();
        if let Some((of, order)) = &self.order
            && *of == hash
        {
            return Ok(((*open).clone(), Arc::clone(order)));
        }
        let own = self.own();
        let trained = self.machine.trained();
        let order = own.order((&hash, &open), &epoch.commits, &epoch.shares, trained)?;
        let order = Arc::new(order);
        if self.party.replayable {
            let seed = own.order_seed((&hash, &open), &epoch.commits, &epoch.shares)?;
            let key = format!("{}/{:010}", self.id, open.epoch);
            let record = Batch::new().put_record(ORDERS, &key, seed.expose().to_vec());
            self.party.store.commit(record).await?;
        }
        self.order = Some((hash, Arc::clone(&order)));
        Ok(((*open).clone(), order))
    }

    fn own(&self) -> Own<'_> {
        Own { me: &self.party.name, identity: &self.party.keys.identity, manifest: &self.manifest }
    }

    async fn work(
        &mut self,
        work: PartyWork,
    ) -> Result<Vec<Output<Message, PartyWork>>, PartyError> {
        match work {
            PartyWork::EncryptFeatures { label, nonce, holder } => {
                let (identity, data) =
                    (Arc::clone(&self.party.keys.identity), Arc::clone(&self.data));
                let (manifest, entry) = (Arc::clone(&self.manifest), self.party.entry.clone());
                let words = off_thread(move || {
                    let own = Own { me: &entry.party, identity: &identity, manifest: &manifest };
                    own.encrypt_features((&entry, &holder), (label, nonce), &data.features)
                })
                .await??;
                self.encrypted(label, &words).await
            }
            PartyWork::Encrypt { epoch, fields, nonce } => {
                let label = fields.label(&self.manifest);
                let (open, order) = self.order(&epoch).await?;
                let weights = self.weights.clone();
                let words = self
                    .compute(order, fields, move |own, batch, data| {
                        own.encrypt(&open.roster, batch, nonce, (&data.features, &weights))
                    })
                    .await??;
                self.encrypted(label, &words).await
            }
            PartyWork::Apply { epoch, fields, nonce, gradient } => {
                let label = fields.label(&self.manifest);
                let (open, order) = self.order(&epoch).await?;
                let mut weights = self.weights.clone();
                let moved = self
                    .compute(order, fields, move |own, batch, data| {
                        let own_data = (&data.features, &mut weights);
                        own.apply(&open.roster, batch, nonce, own_data, &gradient)?;
                        Ok::<_, Refusal>(weights)
                    })
                    .await??;
                self.moved(moved, Event::Applied { label }).await
            }
            PartyWork::Open { epoch, freeze, fields, keys } => {
                let label = fields.label(&self.manifest);
                let (open, order) = self.order(&epoch).await?;
                let opening = self.open(&order, &freeze, fields, &keys).await?;
                if fields.purpose == BatchPurpose::Score {
                    let rows = order.rows(fields.counter).unwrap_or(&[]).to_vec();
                    let of = |at: usize| -> Vec<i64> {
                        opening.scores.iter().skip(at).step_by(rows.len().max(1)).copied().collect()
                    };
                    let scores: Vec<(u32, Vec<i64>)> =
                        rows.iter().enumerate().map(|(at, row)| (*row, of(at))).collect();
                    let key = format!("{}/{:010}", self.id, fields.counter);
                    let bytes =
                        postcard::to_allocvec(&scores).map_err(|_| StoreError::BadNumber)?;
                    let record = Batch::new().put_record(SCORES, &key, bytes);
                    return self.apply(Event::Opened { label, asks: Vec::new() }, record).await;
                }
                let asks = self
                    .compute(order, fields, move |own, batch, _| {
                        own.product_asks(&open.roster, batch, &opening.residuals)
                    })
                    .await??;
                self.apply(Event::Opened { label, asks }, Batch::new()).await
            }
            PartyWork::Combine { epoch, freeze, fields, score_keys, product_keys } => {
                let label = fields.label(&self.manifest);
                let (open, order) = self.order(&epoch).await?;
                let opening = self.open(&order, &freeze, fields, &score_keys).await?;
                let mut weights = self.weights.clone();
                let (gradients, weights) = self
                    .compute(order, fields, move |own, batch, data| {
                        let frozen = freeze.peek()?;
                        let batch_open = frozen.open.peek()?;
                        let parts: Vec<&[u8]> =
                            opening.ciphertexts.iter().map(Vec::as_slice).collect();
                        let pair = (&batch_open, &frozen);
                        let residuals = &opening.residuals;
                        let gradients =
                            own.gradients(&open, pair, &parts, residuals, &product_keys)?;
                        own.step_holder(batch, (&data.features, &mut weights), residuals)?;
                        Ok::<_, Refusal>((gradients, weights))
                    })
                    .await??;
                self.moved(weights, Event::Combined { label, gradients }).await
            }
        }
    }

    /// Commits new weights together with the event that they belong to.
    async fn moved(
        &mut self,
        weights: Weights,
        event: Event,
    ) -> Result<Vec<Output<Message, PartyWork>>, PartyError> {
        let bytes = postcard::to_allocvec(&weights).map_err(|_| StoreError::BadNumber)?;
        let record = Batch::new().put_record(WEIGHTS, &self.id, bytes);
        let outputs = self.apply(event, record).await?;
        self.weights = weights;
        Ok(outputs)
    }

    /// Runs a computation on one batch off the event loop.
    async fn compute<T: Send + 'static>(
        &self,
        order: Arc<Order>,
        fields: BatchFields,
        compute: impl FnOnce(&Own<'_>, &work::Batch<'_>, &Data) -> T + Send + 'static,
    ) -> Result<T, PartyError> {
        let (manifest, me) = (Arc::clone(&self.manifest), self.party.name.clone());
        let (identity, data) = (Arc::clone(&self.party.keys.identity), Arc::clone(&self.data));
        off_thread(move || {
            let own = Own { me: &me, identity: &identity, manifest: &manifest };
            let label = fields.label(&manifest);
            let rows = order.rows(fields.counter).unwrap_or(&[]);
            compute(&own, &work::Batch { fields: &fields, label, rows }, &data)
        })
        .await
    }

    /// Where an own ciphertext is kept: the kind of its record, and its chunks.
    fn place(&self, label: &Label) -> (&'static str, String) {
        if *label == self.machine.features_label() {
            (STORED, format!("{}/vertical/features", self.job))
        } else {
            (CIPHERTEXT, format!("{}/vertical/own", self.job))
        }
    }

    /// Stores a ciphertext and then tells the machine.
    async fn encrypted(
        &mut self,
        label: Label,
        words: &[u8],
    ) -> Result<Vec<Output<Message, PartyWork>>, PartyError> {
        let (kind, space) = self.place(&label);
        self.party.store.blobs().delete_namespace(&space).await?;
        let bulk = write(self.party, &space, words).await?;
        let record = Batch::new().put_record(kind, &self.id, bulk.to_record());
        let ciphertext = bulk_ref(&bulk);
        self.apply(Event::Encrypted { label, ciphertext }, record).await
    }

    /// Fetches what another party submitted.
    async fn fetch(&self, header: &SubmitHeader, space: &str) -> Result<BulkReader, PartyError> {
        let (label, name) = (Hex32::from(header.label), &header.party);
        let base = format!("{}/submissions/{label}/{name}", self.party.job_url(&self.job));
        let (client, blobs) = (self.party.http.client(), self.party.store.blobs());
        let info = bulk_info(&header.ciphertext);
        Ok(download(client, &base, &info, blobs, space, &quick()).await?)
    }

    /// Fetches a party's stored features and takes the cover off, column by column.
    async fn uncovered(
        &self,
        roster: &[RosterEntry],
        header: &SubmitHeader,
        column: u64,
    ) -> Result<BulkReader, PartyError> {
        let blobs = self.party.store.blobs();
        let (covered, space) = (
            format!("{}/vertical/covered", self.job),
            format!("{}/vertical/stored/{}", self.job, header.party),
        );
        blobs.delete_namespace(&covered).await?;
        blobs.delete_namespace(&space).await?;
        let reader = self.fetch(header, &covered).await?;
        let mut writer = BulkWriter::new(blobs, &space);
        let mut at = 0;
        while at < header.ciphertext.len {
            let end = at.saturating_add(column.max(8)).min(header.ciphertext.len);
            let mut words = reader.read_range(at..end).await?;
            self.own().uncover(roster, header, (at, &mut words))?;
            writer.write(&words).await?;
            at = end;
        }
        let bulk = writer.finish().await?;
        blobs.delete_namespace(&covered).await?;
        Ok(BulkReader::new(blobs, &space, bulk))
    }

    /// Puts the batch's rows of the stored features into the ciphertexts, where a job has them sent once.
    /// The stored ones are fetched and uncovered once a run and read column by column.
    async fn add_stored(
        &mut self,
        order: &Order,
        freeze: &Signed<BatchFreeze>,
        fields: &BatchFields,
        ciphertexts: &mut [Vec<u8>],
    ) -> Result<(), PartyError> {
        let manifest = Arc::clone(&self.manifest);
        let rows = order.rows(fields.counter).unwrap_or(&[]);
        let frozen = freeze.peek()?;
        let roster = frozen.epoch.peek()?.roster;
        for (header, upload) in frozen.features.iter().zip(ciphertexts) {
            let header = header.peek()?;
            let name = &header.party;
            let shape = shape_of(spec(&manifest)?, fields, name, upload.len() as u64)?;
            let column = header.ciphertext.len.checked_div(shape.columns as u64).unwrap_or(0);
            if !self.stored.contains_key(name) {
                let reader = self.uncovered(&roster, &header, column).await?;
                self.stored.insert(name.clone(), reader);
            }
            let Some(reader) = self.stored.get(name) else { continue };
            let mut features = Vec::with_capacity(shape.features().saturating_mul(8));
            for number in 0..shape.columns as u64 {
                let all = reader.read_range(number * column..(number + 1) * column).await?;
                pick(&all, rows, &mut features)
                    .map_err(|e| Refusal::new(Code::Malformed, e.to_string()))?;
            }
            *upload = with_stored(&shape, upload, &features)?;
        }
        Ok(())
    }

    /// What the label holder reads in a frozen batch: fetched and opened once.
    async fn open(
        &mut self,
        order: &Arc<Order>,
        freeze: &Signed<BatchFreeze>,
        fields: BatchFields,
        keys: &[Signed<ScoreKey>],
    ) -> Result<Arc<Opening>, PartyError> {
        let label = fields.label(&self.manifest);
        if let Some((of, opening)) = &self.opened
            && *of == label
        {
            return Ok(Arc::clone(opening));
        }
        let mut ciphertexts = Vec::new();
        let space = format!("{}/vertical/frozen", self.job);
        self.party.store.blobs().delete_namespace(&space).await?;
        let frozen = freeze.peek()?;
        let roster = frozen.epoch.peek()?.roster;
        for header in &frozen.members {
            let header = header.peek()?;
            let reader = self.fetch(&header, &space).await?;
            let mut words = reader.read_range(0..header.ciphertext.len).await?;
            self.own().uncover(&roster, &header, (0, &mut words))?;
            ciphertexts.push(words);
        }
        if fields.purpose == BatchPurpose::Train {
            self.add_stored(order, freeze, &fields, &mut ciphertexts).await?;
        }
        let (weights, keys) = (self.weights.clone(), keys.to_vec());
        let opening = self
            .compute(Arc::clone(order), fields, move |own, batch, data| {
                let parts: Vec<&[u8]> = ciphertexts.iter().map(Vec::as_slice).collect();
                let scores = own.open(batch, (&data.features, &weights), &parts, &keys)?;
                let residuals = match (&data.targets, batch.fields.purpose) {
                    (Some(targets), BatchPurpose::Train) => {
                        own.residuals(batch, targets, &scores)?
                    }
                    _ => Zeroizing::new(Vec::new()),
                };
                Ok::<_, Refusal>(Opening { ciphertexts, scores, residuals })
            })
            .await??;
        let opening = Arc::new(opening);
        self.opened = Some((label, Arc::clone(&opening)));
        Ok(opening)
    }
}

fn step(
    machine: PartyJob,
    identity: &Identity,
    event: Event,
) -> Result<(PartyJob, Vec<Output<Message, PartyWork>>), quorate_protocols::machine::Bug> {
    let mut rng = os_rng();
    let mut cx = Context { now_ms: now_ms(), identity, rng: &mut rng };
    machine.handle(&mut cx, event)
}
