//! One job at one party: the machine's driver.
//!
//! Every change of the machine is committed before anything leaves; what the stored state still
//! waits for, [`PartyJob::requests`] says. Each turn asks the aggregator for news, takes results and
//! openings, and then does one piece of work, so that a result or a new attempt is never missed for
//! long.

use std::sync::Arc;
use std::time::Instant;

use quorate_crypto::keys::KeyBinding;
use quorate_crypto::merkle::Hash;
use quorate_crypto::sum::{Label, Nonce};
use quorate_protocols::job::Manifest;
use quorate_protocols::machine::{Bug, Context, Fact, Output};
use quorate_protocols::model::ModelState;
use quorate_protocols::policy::noise::noised;
use quorate_protocols::refusal::{Code, Refusal};
use quorate_protocols::round::messages::{BulkRef, Message, ResultRecord, RoundOpen, SubmitHeader};
use quorate_protocols::round::party::{Event, PartyJob, PartyOutput, PartyWork};
use quorate_protocols::wire::{MAX_MESSAGE_BYTES, Signed, decode, encode};
use quorate_protocols::workload::Purpose;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::{Finished, Inner, PartyError, PartyEvent, SumResult, fetch_package};
use crate::api::{Hex32, MAX_VIEW_RESULTS, MAX_WAIT_MS, PartyView, ViewQuery};
use crate::bulk::{Bulk, BulkReader, Transfer, download, upload};
use crate::engine::{
    self, bulk_info, bulk_ref, encrypt_to_bulk, log_line, now_ms, os_rng, secret_to_bulk,
    state_from_bulk, state_to_bulk, sum_context,
};
use crate::store::{Batch, StoreError};
use crate::trainer::LocalTraining;
use crate::transport::{Ask, Backoff, CallError};

const MACHINE: &str = "party";
/// Leaf lists of stored vectors, by namespace and root.
const BULK: &str = "bulk";
/// Accepted result records, by job and round.
const RESULT: &str = "result";
/// The job a plaintext was given to, by the plaintext's root; kept for good.
const PLAINTEXT: &str = "plaintext";
/// Namespaces to erase, written in the commit that makes them garbage.
const GARBAGE: &str = "garbage";

const AGGREGATOR: &str = "the aggregator";

/// Few attempts per request: between them the run looks whether the attempt is still open.
fn quick() -> Transfer {
    Transfer { attempts: 3, ..Transfer::default() }
}

/// A job this party has joined.
pub(super) struct Run<'a> {
    party: &'a Inner,
    job: Hex32,
    id: String,
    manifest: Arc<Manifest>,
    machine: PartyJob,
    version: u64,
    model: Arc<ModelState>,
    /// The open attempt as last handled: its label, and whether it was entered.
    open: Option<(Label, bool)>,
    /// A round this party has nothing new for.
    sits_out: Option<u32>,
    backoff: Backoff,
}

/// Results accepted in memory, to be committed once the model after the last of them is known.
struct Ahead {
    machine: PartyJob,
    model: Arc<ModelState>,
    batch: Batch,
    events: Vec<PartyEvent>,
}

impl<'a> Run<'a> {
    /// Takes up a stored job, or joins it.
    pub(super) async fn load_or_join(party: &'a Inner, job: Hex32) -> Result<Self, PartyError> {
        let id = job.to_string();
        let mut run = match party.store.load_machine(MACHINE, &id).await? {
            Some((version, state)) => {
                let machine: PartyJob =
                    postcard::from_bytes(&state).map_err(|_| StoreError::BadNumber)?;
                party.minima.check(machine.manifest())?;
                Self::with(party, job, machine, version)
            }
            None => {
                let package = fetch_package(party, &job).await?;
                // Before anything of the size it declares is allocated.
                party.minima.check(&package.manifest)?;
                package.verify()?;
                let manifest = &package.manifest;
                let initial = ModelState::of_job(manifest);
                let entry = party.entry.clone();
                let machine = PartyJob::join(entry, &party.minima, &package, initial.hash())?;
                let batch = Batch::new().put_machine(MACHINE, &id, 0, encode(&machine));
                party.store.commit(batch).await?;
                Self::with(party, job, machine, 1)
            }
        };
        run.load_model().await?;
        run.erase_garbage().await?;
        if *run.machine.me() != party.entry {
            run.apply(Event::Rotated(party.entry.clone()), Batch::new()).await?;
        }
        party.report(&PartyEvent::Joined {
            job,
            title: run.manifest.title.clone(),
            round: run.machine.next_round(),
            rounds: run.manifest.workload.rounds(),
        });
        Ok(run)
    }

    fn with(party: &'a Inner, job: Hex32, machine: PartyJob, version: u64) -> Self {
        let manifest = Arc::new(machine.manifest().clone());
        let model = Arc::new(ModelState::of_job(&manifest));
        let (id, backoff) = (job.to_string(), Backoff::new());
        let (open, sits_out) = (None, None);
        Self { party, job, id, manifest, machine, version, model, open, sits_out, backoff }
    }

    /// Takes part until the job ends.
    pub(super) async fn until_end(
        &mut self,
        mut trainer: Box<dyn LocalTraining>,
    ) -> Result<Finished, PartyError> {
        self.ask_in().await?;
        let (mut known, mut busy) = (None, true);
        loop {
            let wait_ms = if busy { 0 } else { MAX_WAIT_MS };
            let view = self.view(self.machine.next_round(), known, wait_ms).await?;
            let view = self.take_results(view).await?;
            if let Some(outcome) = view.outcome {
                let rounds = self.machine.next_round();
                self.party.report(&PartyEvent::Finished {
                    outcome: (&outcome).into(),
                    rounds,
                    state: self.machine.state().into(),
                });
                self.sweep().await?;
                return Ok(Finished { outcome, rounds, model: Arc::clone(&self.model) });
            }
            known = match &view.open {
                Some(open) => Some(self.take_open(open).await?.into()),
                None => {
                    self.open = None;
                    None
                }
            };
            // Whoever missed an attempt is not invited to the next, until it asks again.
            let invited = self.open.is_some_and(|(_, entered)| entered);
            if !invited {
                self.ask_in().await?;
            }
            (busy, trainer) = self.work(trainer, known.map(Label::from)).await?;
        }
    }

    /// Asks to be invited from the next attempt on.
    async fn ask_in(&self) -> Result<(), PartyError> {
        let certificates = self.manifest.authorities.iter().map(|authority| {
            self.party.certificates.get(&authority.name).cloned().ok_or_else(|| {
                PartyError::Config(format!("not enrolled at authority {}", authority.name))
            })
        });
        let certificates = certificates.collect::<Result<Vec<_>, _>>()?;
        let ask = Ask::post(
            format!("{}/parties", self.party.job_url(&self.job)),
            self.join_bytes(certificates),
        );
        match self.party.http.insist(AGGREGATOR, &ask, MAX_MESSAGE_BYTES).await {
            // The job is over, as the next view will say.
            Err(error) if error.is(Code::WrongState) => Ok(()),
            done => Ok(done.map(drop)?),
        }
    }

    fn join_bytes(&self, certificates: Vec<Signed<quorate_protocols::enrol::Enrolled>>) -> Vec<u8> {
        let mut rng = os_rng();
        let identity = &self.party.keys.identity;
        let cx = Context { now_ms: now_ms(), identity, rng: &mut rng };
        self.machine.join_message(&cx, certificates).to_wire()
    }

    /// News beyond `results` results and the attempt `open`.
    async fn view(
        &self,
        results: u32,
        open: Option<Hex32>,
        wait_ms: u64,
    ) -> Result<PartyView, PartyError> {
        let results = usize::try_from(results).unwrap_or(usize::MAX);
        let query = ViewQuery { results, open, wait_ms, ..ViewQuery::default() };
        let ask = Ask::view(format!("{}/view", self.party.job_url(&self.job)), query);
        let sent = now_ms();
        let answer = self.party.http.insist(AGGREGATOR, &ask, MAX_MESSAGE_BYTES).await?;
        let view: PartyView = decode(&answer).map_err(|e| CallError::bad_answer(AGGREGATOR, &e))?;
        self.party.check_clock(AGGREGATOR, sent, view.now_ms);
        Ok(view)
    }

    /// One step of a machine, in memory.
    fn step(&self, machine: PartyJob, event: Event) -> Result<(PartyJob, Vec<PartyOutput>), Bug> {
        let mut rng = os_rng();
        let identity = &self.party.keys.identity;
        let mut cx = Context { now_ms: now_ms(), identity, rng: &mut rng };
        machine.handle(&mut cx, event)
    }

    fn log(&self, mut batch: Batch, outputs: &[PartyOutput]) -> Batch {
        for output in outputs {
            if let Output::Log(fact) = output {
                batch = batch.fact(log_line(&self.id, self.party.name.as_str(), fact));
            }
        }
        batch
    }

    /// Handles an event and commits the new state with `also`; a refused event commits only its
    /// log line and returns the refusal.
    async fn apply(&mut self, event: Event, also: Batch) -> Result<Option<Refusal>, PartyError> {
        let (next, outputs) = self.step(self.machine.clone(), event)?;
        if let Some(refusal) = rejected(&outputs) {
            self.party.store.commit(self.log(Batch::new(), &outputs)).await?;
            self.party.report(&PartyEvent::Refused {
                code: refusal.code.as_str().to_owned(),
                detail: refusal.detail.clone(),
            });
            return Ok(Some(refusal));
        }
        self.commit(next, self.log(also, &outputs)).await?;
        Ok(None)
    }

    async fn commit(&mut self, next: PartyJob, batch: Batch) -> Result<(), PartyError> {
        let batch = batch.put_machine(MACHINE, &self.id, self.version, encode(&next));
        self.party.store.commit(batch).await?;
        self.version += 1;
        self.machine = next;
        Ok(())
    }

    /// Takes the results of `view`, fetching the pages after it, and returns the last page.
    ///
    /// A party that was away skips the sums between the moments and the newest: it checks the
    /// whole chain of records, and the model that follows from the two.
    async fn take_results(&mut self, mut view: PartyView) -> Result<PartyView, PartyError> {
        if view.results.is_empty() {
            return Ok(view);
        }
        let before = self.machine.next_round();
        let mut ahead = Ahead {
            machine: self.machine.clone(),
            model: Arc::clone(&self.model),
            batch: Batch::new(),
            events: Vec::new(),
        };
        let mut held: Option<Signed<ResultRecord>> = None;
        loop {
            let page = core::mem::take(&mut view.results);
            let full = page.len() >= MAX_VIEW_RESULTS;
            for record in page {
                if let Some(earlier) = held.replace(record) {
                    self.link(&mut ahead, earlier, false).await?;
                }
            }
            if !full {
                break;
            }
            // The one held back is not linked yet.
            let next = ahead.machine.next_round().saturating_add(1);
            view = self.view(next, None, 0).await?;
        }
        if let Some(newest) = held {
            self.link(&mut ahead, newest, true).await?;
        }
        let model_space = self.model_space(ahead.machine.next_round());
        let bulk = state_to_bulk(&ahead.model, (self.party.store.blobs(), &model_space)).await?;
        let mut batch = ahead.batch.put_record(BULK, &model_space, bulk.to_record());
        for round in before..ahead.machine.next_round() {
            batch = batch.put_record(GARBAGE, &self.round_space(round), Vec::new()).put_record(
                GARBAGE,
                &self.model_space(round),
                Vec::new(),
            );
        }
        self.commit(ahead.machine, batch).await?;
        self.model = ahead.model;
        for event in &ahead.events {
            self.party.report(event);
        }
        self.erase_garbage().await?;
        Ok(view)
    }

    /// Checks one result and appends it to what lies ahead; `newest` if no later one is known.
    async fn link(
        &self,
        ahead: &mut Ahead,
        record: Signed<ResultRecord>,
        newest: bool,
    ) -> Result<(), PartyError> {
        let event = |state| Event::Result { record: record.clone(), state };
        // The record is checked before its sum is fetched.
        let (mut next, mut outputs) = self.step(ahead.machine.clone(), event(Hash([0; 32])))?;
        if let Some(refusal) = rejected(&outputs) {
            self.party.store.commit(self.log(Batch::new(), &outputs)).await?;
            return Err(refusal.into());
        }
        let fields = record.verify(&self.manifest.aggregator)?;
        let round = fields.round;
        let (members, purpose) = (fields.members.len(), self.manifest.workload.purpose(round));
        let mut advanced = None;
        if newest || purpose != Some(Purpose::Train) {
            let sum = self.fetch_sum(round, &fields.sum).await?;
            let (manifest, model) = (&self.manifest, &ahead.model);
            let step = engine::advance(manifest, model, round, members, &sum).await;
            let step = match step {
                Ok(step) => step,
                Err(error) => return Err(error.into_refusal()?.into()),
            };
            (next, outputs) = self.step(ahead.machine.clone(), event(step.hash))?;
            ahead.model = Arc::clone(&step.state);
            let key = self.sum_space(round);
            // The sums of vectors are the party's results; those of a model live on in it.
            let batch = core::mem::take(&mut ahead.batch);
            ahead.batch = match purpose {
                Some(Purpose::Sum) => batch.put_record(BULK, &key, sum.bulk().to_record()),
                _ => batch.put_record(GARBAGE, &key, Vec::new()),
            };
            advanced = Some(step);
        }
        let key = format!("{}/{round:010}", self.id);
        let batch = core::mem::take(&mut ahead.batch).put_record(RESULT, &key, encode(&record));
        ahead.batch = self.log(batch, &outputs);
        ahead.machine = next;
        ahead.events.push(PartyEvent::Result {
            round,
            attempt: fields.attempt,
            members,
            included: fields.members.contains(&self.party.name),
            rows: advanced.as_ref().map(|step| step.rows),
            loss: advanced.as_ref().and_then(|step| step.loss),
            state: advanced.as_ref().map(|step| step.hash.into()),
        });
        Ok(())
    }

    /// Downloads a round's sum, resuming an earlier try.
    async fn fetch_sum(&self, round: u32, sum: &BulkRef) -> Result<BulkReader, PartyError> {
        let width = self.manifest.ring.word_bytes() as u64;
        if Some(sum.len) != self.manifest.payload(round)?.dim().checked_mul(width) {
            let why = "the result's sum has another length than the job fixes";
            return Err(Refusal::new(Code::WrongLength, why).into());
        }
        let url = format!("{}/results/{round}", self.party.job_url(&self.job));
        let (client, blobs) = (self.party.http.client(), self.party.store.blobs());
        let space = self.sum_space(round);
        let start = Instant::now();
        loop {
            let how = Transfer::default();
            match download(client, &url, &bulk_info(sum), blobs, &space, &how).await {
                Ok(reader) => return Ok(reader),
                Err(error) => {
                    let error = CallError::of_bulk(AGGREGATOR, error)?;
                    if !error.is_transient() || start.elapsed() > self.party.http.patience() {
                        return Err(error.into());
                    }
                    self.party.report(&PartyEvent::Waiting { why: error.to_string() });
                }
            }
        }
    }

    /// Looks at an opening and returns its label. Each is handled once: an attempt that does not
    /// invite this party is left alone until the next.
    async fn take_open(&mut self, open: &Signed<RoundOpen>) -> Result<Label, PartyError> {
        let fields = open.verify(&self.manifest.aggregator)?.fields;
        let label = fields.label(&self.manifest);
        if self.open.is_some_and(|(known, _)| known == label) {
            return Ok(label);
        }
        let refusal = self.apply(Event::Open(open.clone()), Batch::new()).await?;
        self.open = Some((label, refusal.is_none()));
        match refusal {
            None => {
                let (round, attempt) = (fields.round, fields.attempt);
                self.party.report(&PartyEvent::RoundEntered { round, attempt });
            }
            // The aggregator's own signature stands under a lie.
            Some(refusal) if !refusal.culprits.is_empty() => return Err(refusal.into()),
            Some(_) => {}
        }
        Ok(label)
    }

    /// Does one piece of what the state waits for, if the attempt it belongs to is open; says
    /// whether there may be more.
    async fn work(
        &mut self,
        trainer: Box<dyn LocalTraining>,
        open: Option<Label>,
    ) -> Result<(bool, Box<dyn LocalTraining>), PartyError> {
        let entered = self.open.is_some_and(|(label, entered)| entered && Some(label) == open);
        let output = self.machine.requests().into_iter().next().filter(|_| entered);
        let busy = match output {
            Some(Output::Work(PartyWork::Train { round, .. })) if self.sits_out != Some(round) => {
                return Ok((true, self.train(trainer, round).await?));
            }
            Some(Output::Work(PartyWork::Seal { round, label, nonce, plaintext })) => {
                self.seal(round, label, nonce, &plaintext).await?;
                true
            }
            Some(Output::Send { message: Message::Submit(header), .. }) => {
                self.submit(&header).await?
            }
            _ => false,
        };
        Ok((busy, trainer))
    }

    async fn train(
        &mut self,
        mut trainer: Box<dyn LocalTraining>,
        round: u32,
    ) -> Result<Box<dyn LocalTraining>, PartyError> {
        let start = Instant::now();
        let (manifest, model) = (Arc::clone(&self.manifest), Arc::clone(&self.model));
        let work = tokio::task::spawn_blocking(move || {
            let local = trainer.contribution(&manifest, round, &model)?;
            let bytes = match trainer.noise_seed(round) {
                Some(seed) => noised(&manifest, round, local, &mut ChaCha20Rng::from_seed(seed))?,
                None => noised(&manifest, round, local, &mut os_rng())?,
            };
            anyhow::Ok((trainer, bytes))
        });
        let done = work.await.map_err(|e| PartyError::Training(e.into()))?;
        let (trainer, bytes) = done.map_err(PartyError::Training)?;
        let space = self.round_space(round);
        let bulk = secret_to_bulk(&bytes, (self.party.store.blobs(), &space)).await?;
        drop(bytes);
        let event = Event::Trained { round, plaintext: bulk_ref(&bulk) };
        let root = bulk.info().root.to_string();
        let (batch, this) = (keep(&space, &bulk), self.id.clone().into_bytes());
        let batch = if self.party.allow_repeated_plaintexts {
            batch.put_record(PLAINTEXT, &root, this)
        } else {
            batch.insert_new_record(PLAINTEXT, &root, this)
        };
        let applied = match self.apply(event, batch).await {
            Err(PartyError::Store(StoreError::Exists { .. })) => {
                return Err(self.repeated(round, &root).await?);
            }
            applied => applied?,
        };
        if let Some(refusal) = applied {
            // Training that has converged here repeats its update to the bit. It stands behind a
            // sum already, so it enters no second one: this party sits the round out.
            let trains = self.manifest.workload.purpose(round) != Some(Purpose::Sum);
            if trains && refusal.code == Code::LabelReuse {
                self.sits_out = Some(round);
                return Ok(trainer);
            }
            return Err(refusal.into());
        }
        let ms = elapsed_ms(start);
        self.party.report(&PartyEvent::Trained { round, ms });
        Ok(trainer)
    }

    /// Why the plaintext `root` is not contributed; erases it. The round has no other stored bytes.
    async fn repeated(&self, round: u32, root: &str) -> Result<PartyError, PartyError> {
        let before = self.party.store.get_record(PLAINTEXT, root).await?;
        let before = String::from_utf8(before.unwrap_or_default());
        let before = before.map_err(|_| StoreError::BadNumber)?;
        let note = format!("round {round}: the plaintext was given to job {before}");
        let fact = Fact::job("plaintext.repeated", note);
        let fact = log_line(&self.id, self.party.name.as_str(), &fact);
        let batch =
            Batch::new().fact(fact).put_record(GARBAGE, &self.round_space(round), Vec::new());
        self.party.store.commit(batch).await?;
        self.erase_garbage().await?;
        Ok(PartyError::Repeated { round, before })
    }

    async fn seal(
        &mut self,
        round: u32,
        label: Label,
        nonce: Nonce,
        plaintext: &BulkRef,
    ) -> Result<(), PartyError> {
        let start = Instant::now();
        let me = self.machine.me().clone();
        let shared = self.manifest.authorities.iter().map(|authority| {
            let binding = KeyBinding {
                tenant: self.manifest.tenant.as_str(),
                authority: authority.name.as_str(),
                party: me.party.as_str(),
                authority_key: authority.exchange,
                party_key: me.exchange,
                epoch: me.epoch,
            };
            let shared = self.party.keys.identity.shared_key(&authority.exchange, &binding);
            shared.map_err(|e| {
                Refusal::new(Code::BadManifest, format!("authority {}: {e}", authority.name))
            })
        });
        let keys = shared.collect::<Result<Vec<_>, _>>()?;
        let context = sum_context(&self.manifest, None, round, label)?;
        let (scheme, space) = (self.manifest.sum_scheme()?, self.round_space(round));
        let blobs = self.party.store.blobs();
        let plain = self.reader(&space, plaintext).await?;
        let sealed = encrypt_to_bulk(scheme, context, keys, nonce, &plain, (blobs, &space));
        let bulk = sealed.await?;
        let event = Event::Sealed { label, ciphertext: bulk_ref(&bulk) };
        self.apply(event, keep(&space, &bulk)).await?;
        let (bytes, ms) = (bulk.info().len, elapsed_ms(start));
        self.party.report(&PartyEvent::Sealed { round, bytes, ms });
        Ok(())
    }

    /// Uploads the ciphertext and takes the receipt; says whether to try again at once.
    async fn submit(&mut self, header: &Signed<SubmitHeader>) -> Result<bool, PartyError> {
        let start = Instant::now();
        let fields = header.peek()?;
        let round = self.machine.next_round();
        let reader = self.reader(&self.round_space(round), &fields.ciphertext).await?;
        let (label, party) = (Hex32::from(fields.label), &fields.party);
        let url = format!("{}/submissions/{label}/{party}", self.party.job_url(&self.job));
        let wire = header.to_wire();
        let sent = upload(self.party.http.client(), &url, &wire, &reader, &quick()).await;
        let answer = match sent {
            Ok(answer) => answer,
            Err(error) => {
                let error = CallError::of_bulk(AGGREGATOR, error)?;
                if error.is_transient() {
                    self.party.report(&PartyEvent::Waiting { why: error.to_string() });
                    self.backoff.wait().await;
                    return Ok(true);
                }
                // Too late, or not wanted: the next attempt or result will tell.
                self.ask_in().await?;
                let detail = error.to_string();
                let code = match error {
                    CallError::Refused { problem, .. } => problem.code,
                    _ => String::new(),
                };
                self.party.report(&PartyEvent::Refused { code, detail });
                return Ok(false);
            }
        };
        self.backoff.reset();
        let Message::Receipt(receipt) = Message::from_wire(&answer)? else {
            let why = "no receipt".to_owned();
            return Err(CallError::BadAnswer { peer: AGGREGATOR.to_owned(), why }.into());
        };
        if let Some(refusal) = self.apply(Event::Receipt(receipt), Batch::new()).await? {
            return Err(refusal.into());
        }
        let bytes = fields.ciphertext.len + wire.len() as u64;
        self.party.report(&PartyEvent::Receipt { round, bytes, ms: elapsed_ms(start) });
        Ok(false)
    }

    /// All sums of a job of plain vectors.
    pub(super) async fn sums(&self) -> Result<Vec<SumResult>, PartyError> {
        let mut sums = Vec::new();
        for record in records(self.party, &self.job).await? {
            let fields = record.verify(&self.manifest.aggregator)?;
            let round = fields.round;
            if self.manifest.workload.purpose(round) != Some(Purpose::Sum) {
                continue;
            }
            let reader = self.stored(&self.sum_space(round), &self.sum_space(round)).await?;
            let members = fields.members.len();
            let opened = engine::read_sum(&self.manifest, round, members, &reader).await?;
            let members = fields.members.clone();
            sums.push(SumResult { round, members, values: opened.body });
        }
        Ok(sums)
    }

    async fn load_model(&mut self) -> Result<(), PartyError> {
        let space = self.model_space(self.machine.next_round());
        if self.machine.next_round() > 0 {
            let reader = self.stored(&space, &space).await?;
            self.model = Arc::new(state_from_bulk(&reader).await?);
        }
        Ok(())
    }

    /// A stored vector of this round.
    async fn reader(&self, space: &str, vector: &BulkRef) -> Result<BulkReader, PartyError> {
        self.stored(space, &format!("{space}/{}", vector.root)).await
    }

    /// The vector whose leaf list is stored under `key`.
    async fn stored(&self, space: &str, key: &str) -> Result<BulkReader, PartyError> {
        let record = self.party.store.get_record(BULK, key).await?;
        let record = record.ok_or(StoreError::BadNumber)?;
        let bulk = Bulk::from_record(&record)?;
        Ok(BulkReader::new(self.party.store.blobs(), space, bulk))
    }

    /// Plaintext and ciphertexts of a round.
    fn round_space(&self, round: u32) -> String {
        format!("{}/round-{round}", self.id)
    }

    /// Its opened sum.
    fn sum_space(&self, round: u32) -> String {
        format!("{}/sum-{round}", self.id)
    }

    /// The model before it.
    fn model_space(&self, round: u32) -> String {
        format!("{}/model-{round}", self.id)
    }

    /// Erases the namespace of the round under way, when the job is over.
    async fn sweep(&self) -> Result<(), PartyError> {
        let space = self.round_space(self.machine.next_round());
        let batch = Batch::new().put_record(GARBAGE, &space, Vec::new());
        self.party.store.commit(batch).await?;
        self.erase_garbage().await
    }

    /// Erases what the last commits made garbage; what a crash leaves is erased by the next start.
    async fn erase_garbage(&self) -> Result<(), PartyError> {
        let store = &self.party.store;
        for (space, _) in store.list_records(GARBAGE, &format!("{}/", self.id)).await? {
            store.blobs().delete_namespace(&space).await?;
            let mut batch = Batch::new().del_record(GARBAGE, &space).del_record(BULK, &space);
            for (key, _) in store.list_records(BULK, &format!("{space}/")).await? {
                batch = batch.del_record(BULK, &key);
            }
            store.commit(batch).await?;
        }
        Ok(())
    }
}

/// The write that keeps a vector's leaf list.
fn keep(space: &str, bulk: &Bulk) -> Batch {
    Batch::new().put_record(BULK, &format!("{space}/{}", bulk.info().root), bulk.to_record())
}

fn rejected(outputs: &[PartyOutput]) -> Option<Refusal> {
    outputs.iter().find_map(|output| match output {
        Output::Reject(refusal) => Some(refusal.clone()),
        _ => None,
    })
}

fn elapsed_ms(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The accepted result records of a job, oldest first.
pub(super) async fn records(
    party: &Inner,
    job: &Hex32,
) -> Result<Vec<Signed<ResultRecord>>, PartyError> {
    let records = party.store.list_records(RESULT, &format!("{job}/")).await?;
    records.iter().map(|(_, bytes)| Ok(decode(bytes)?)).collect()
}
