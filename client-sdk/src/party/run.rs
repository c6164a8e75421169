//! One job at one party: the machine's driver.
//!
//! Every change of the machine is committed before anything leaves; what the stored state still
//! waits for, [`PartyJob::requests`] says. Each turn asks the aggregator for news, takes the key,
//! results, openings and questions to holders, and then does one piece of work, so that none of them
//! is missed for long. Training runs beside the turns: a holder answers meanwhile.

use std::sync::Arc;
use std::time::Instant;

use quorate_crypto::keys::Identity;
use quorate_crypto::merkle::Hash;
use quorate_crypto::sum::Label;
use quorate_protocols::job::Manifest;
use quorate_protocols::machine::{Bug, Context, Fact, Output};
use quorate_protocols::model::ModelState;
use quorate_protocols::refusal::{Code, Refusal};
use quorate_protocols::round::messages::{BulkRef, Message, ResultRecord, RoundOpen};
use quorate_protocols::round::party::{Event, PartyJob, PartyOutput, PartyWork};
use quorate_protocols::wire::{MAX_MESSAGE_BYTES, Signed, decode, encode};
use quorate_protocols::workload::Purpose;

use super::contribute::Training;
use super::{Finished, Inner, PartyError, PartyEvent, SumResult, fetch_package};
use crate::api::{Hex32, MAX_VIEW_RESULTS, MAX_WAIT_MS, PartyView, ViewQuery, key_mark};
use crate::bulk::{Bulk, BulkReader, Transfer, download};
use crate::engine::{
    self, EngineError, bulk_info, log_line, now_ms, os_rng, state_from_bulk, state_to_bulk,
};
use crate::ledger::LedgerError;
use crate::store::{Batch, StoreError};
use crate::trainer::LocalTraining;
use crate::transport::{Ask, Backoff, CallError};

const MACHINE: &str = "party";
/// Leaf lists of stored vectors, by namespace and root.
const BULK: &str = "bulk";
/// Accepted result records, by job and round.
const RESULT: &str = "result";
/// Namespaces to erase, written in the commit that makes them garbage.
pub(super) const GARBAGE: &str = "garbage";

pub(super) const AGGREGATOR: &str = "the aggregator";

/// Few attempts per request: between them the run looks whether the attempt is still open.
pub(super) fn quick() -> Transfer {
    Transfer { attempts: 3, ..Transfer::default() }
}

/// What became of a message to the aggregator.
pub(super) enum Told {
    /// It was taken.
    Taken,
    /// It was refused.
    Refused,
    /// The aggregator is away; to be sent again.
    Later,
}

/// A job this party has joined.
pub(super) struct Run<'a> {
    pub(super) party: &'a Inner,
    pub(super) job: Hex32,
    pub(super) id: String,
    pub(super) manifest: Arc<Manifest>,
    pub(super) machine: PartyJob,
    version: u64,
    pub(super) model: Arc<ModelState>,
    /// The open attempt as last handled: its label, and whether it was entered.
    open: Option<(Label, bool)>,
    /// The threshold key's posts as last handled.
    pub(super) key: Option<Hex32>,
    /// The question to holders that was refused here: hash of its frozen set.
    pub(super) refused_ask: Option<Hash>,
    /// Call and step of the threshold key for which no post could be made.
    pub(super) no_post: Option<(Hash, u16)>,
    /// A round this party has nothing new for.
    pub(super) sits_out: Option<u32>,
    pub(super) backoff: Backoff,
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
            let forgotten = run.forget_key(Batch::new()).await?;
            run.apply(Event::Rotated(party.entry.clone()), forgotten).await?;
            if run.manifest.is_threshold() {
                party.store.scrub().await?;
            }
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
        let key = machine.job_key().map(|key| key_mark(&key.keying().transcript()));
        Self {
            party,
            job,
            id: job.to_string(),
            manifest,
            machine,
            version,
            model,
            open: None,
            key,
            refused_ask: None,
            no_post: None,
            sits_out: None,
            backoff: Backoff::new(),
        }
    }

    /// Takes part until the job ends.
    pub(super) async fn until_end(
        &mut self,
        trainer: Box<dyn LocalTraining>,
    ) -> Result<Finished, PartyError> {
        let mut training = Training::new(trainer);
        self.party.ask_in(&self.job, &self.manifest).await?;
        let (mut known, mut busy) = (None, true);
        loop {
            let wait_ms = if busy { 0 } else { MAX_WAIT_MS };
            let view = tokio::select! {
                biased;
                done = training.done() => {
                    self.trained(done?).await?;
                    busy = true;
                    continue;
                }
                view = self.view(self.machine.next_round(), known, wait_ms) => view?,
            };
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
            if let Some(transcript) = view.key {
                self.take_key(transcript).await?;
            }
            known = match &view.open {
                Some(open) => Some(self.take_open(open).await?.into()),
                None => {
                    self.open = None;
                    None
                }
            };
            if let Some(ask) = view.share {
                self.take_share(ask).await?;
            }
            // Whoever missed an attempt is not invited to the next, until it asks again.
            let invited = self.open.is_some_and(|(_, entered)| entered);
            if !invited {
                self.party.ask_in(&self.job, &self.manifest).await?;
            }
            busy = self.work(&mut training, known.map(Label::from)).await?;
        }
    }

    /// News beyond `results` results and the attempt `open`.
    pub(super) async fn view(
        &self,
        results: u32,
        open: Option<Hex32>,
        wait_ms: u64,
    ) -> Result<PartyView, PartyError> {
        let results = usize::try_from(results).unwrap_or(usize::MAX);
        let me = self.machine.name();
        let holder = self.manifest.is_threshold().then(|| me.clone());
        let query = ViewQuery { results, open, key: self.key, holder, wait_ms };
        let ask = Ask::view(format!("{}/view", self.party.job_url(&self.job)), query);
        let sent = now_ms();
        let answer = self.party.http.insist(AGGREGATOR, &ask, MAX_MESSAGE_BYTES).await?;
        let view: PartyView = decode(&answer).map_err(|e| CallError::bad_answer(AGGREGATOR, &e))?;
        self.party.check_clock(AGGREGATOR, sent, view.now_ms);
        Ok(view)
    }

    /// One step of a machine, in memory.
    fn step(&self, machine: PartyJob, event: Event) -> Result<(PartyJob, Vec<PartyOutput>), Bug> {
        step(machine, &self.party.keys.identity, event)
    }

    fn log(&self, mut batch: Batch, outputs: &[PartyOutput]) -> Batch {
        for output in outputs {
            if let Output::Log(fact) = output {
                batch = batch.fact(log_line(&self.id, self.party.name.as_str(), fact));
            }
        }
        batch
    }

    /// Handles an event and commits the new state with `also` and what it charges; a refused event
    /// commits only its log line and returns the refusal.
    ///
    /// # Errors
    /// [`Code::BudgetSpent`] when a charge would pass the budget: nothing of the step is stored.
    pub(super) async fn apply(
        &mut self,
        event: Event,
        also: Batch,
    ) -> Result<Option<Refusal>, PartyError> {
        // The checks of a threshold key take their time.
        let (machine, identity) = (self.machine.clone(), Arc::clone(&self.party.keys.identity));
        let stepped = tokio::task::spawn_blocking(move || step(machine, &identity, event)).await;
        let (next, outputs) = stepped.map_err(|_| EngineError::Interrupted)??;
        if let Some(refusal) = rejected(&outputs) {
            self.party.store.commit(self.log(Batch::new(), &outputs)).await?;
            self.party.report(&PartyEvent::Refused {
                code: refusal.code.as_str().to_owned(),
                detail: refusal.detail.clone(),
            });
            return Ok(Some(refusal));
        }
        let batch = self.log(also, &outputs);
        let settled = self.party.ledgers.settle(&self.party.store, &outputs, batch).await;
        let (batch, turn) = match settled {
            Ok(settled) => settled,
            Err(error) => return Err(self.unpaid(self.machine.next_round(), error).await?),
        };
        self.commit(next, batch).await?;
        drop(turn);
        Ok(None)
    }

    /// Why a round is not charged; logged and reported when the budget is spent.
    pub(super) async fn unpaid(
        &self,
        round: u32,
        error: LedgerError,
    ) -> Result<PartyError, PartyError> {
        let refusal = match error {
            LedgerError::Refused(refusal) => refusal,
            LedgerError::Store(error) => return Err(error.into()),
        };
        let mut fact = Fact::job("budget.spent", refusal.detail.clone());
        fact.round = Some(round);
        let fact = log_line(&self.id, self.party.name.as_str(), &fact);
        self.party.store.commit(Batch::new().fact(fact)).await?;
        self.party.report(&PartyEvent::BudgetSpent { round, detail: refusal.detail.clone() });
        Ok(refusal.into())
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
    /// A party that was away skips the sums between the moments and the newest, where the model
    /// follows from the two alone; the whole chain of records is checked in any case.
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
            let spaces =
                [self.round_space(round), self.model_space(round), self.share_space(round)];
            for space in spaces {
                batch = batch.put_record(GARBAGE, &space, Vec::new());
            }
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
        let every = self.manifest.workload.needs_every_sum();
        if newest || every || purpose != Some(Purpose::Train) {
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

    /// Does one piece of what the state waits for, a holder's part first; says whether there may be
    /// more. What a round asks of a party waits until its attempt is open here.
    async fn work(
        &mut self,
        training: &mut Training,
        open: Option<Label>,
    ) -> Result<bool, PartyError> {
        let entered = self.open.is_some_and(|(label, entered)| entered && Some(label) == open);
        for output in self.machine.requests() {
            let more = match output {
                Output::Work(PartyWork::Post(work)) => self.post(work).await?,
                Output::Work(PartyWork::Share { round, label, members }) => {
                    self.share(round, label, &members).await?
                }
                Output::Work(PartyWork::Train { round, .. }) if entered => {
                    if self.sits_out != Some(round) {
                        self.train(training, round).await?;
                    }
                    false
                }
                Output::Work(PartyWork::Seal { round, label, nonce, plaintext }) if entered => {
                    self.seal(round, label, nonce, &plaintext).await?;
                    true
                }
                Output::Send { message, .. } => match message {
                    Message::KeyPost(_) => self.send_key_post(&message).await?,
                    Message::Partial(partial, _) => self.send_partial(partial).await?,
                    Message::ShareRefused(refused) => self.send_share_refused(refused).await?,
                    Message::Submit(header) if entered => self.submit(&header).await?,
                    _ => false,
                },
                _ => false,
            };
            if more {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Sends one message to a route of this job, once.
    pub(super) async fn tell(&mut self, route: &str, body: Vec<u8>) -> Result<Told, PartyError> {
        let ask = Ask::post(format!("{}/{route}", self.party.job_url(&self.job)), body);
        match self.party.http.once(AGGREGATOR, &ask, MAX_MESSAGE_BYTES).await {
            Ok(_) => {
                self.backoff.reset();
                Ok(Told::Taken)
            }
            Err(CallError::Refused { problem, .. }) => {
                let (code, detail) = (problem.code, problem.detail);
                self.party.report(&PartyEvent::Refused { code, detail });
                Ok(Told::Refused)
            }
            Err(error) if error.is_transient() => {
                self.party.report(&PartyEvent::Waiting { why: error.to_string() });
                self.backoff.wait().await;
                Ok(Told::Later)
            }
            Err(error) => Err(error.into()),
        }
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
    pub(super) async fn reader(
        &self,
        space: &str,
        vector: &BulkRef,
    ) -> Result<BulkReader, PartyError> {
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
    pub(super) fn round_space(&self, round: u32) -> String {
        format!("{}/round-{round}", self.id)
    }

    /// Replies and this holder's partial decryption of it.
    pub(super) fn share_space(&self, round: u32) -> String {
        format!("{}/share-{round}", self.id)
    }

    /// Its opened sum.
    fn sum_space(&self, round: u32) -> String {
        format!("{}/sum-{round}", self.id)
    }

    /// The model before it.
    fn model_space(&self, round: u32) -> String {
        format!("{}/model-{round}", self.id)
    }

    /// Erases what belongs to the round under way, and the share of the key, when the job is over.
    async fn sweep(&self) -> Result<(), PartyError> {
        let round = self.machine.next_round();
        let mut batch = self.forget_key(Batch::new()).await?;
        for space in [self.round_space(round), self.share_space(round)] {
            batch = batch.put_record(GARBAGE, &space, Vec::new());
        }
        self.party.store.commit(batch).await?;
        if self.manifest.is_threshold() {
            self.party.store.scrub().await?;
        }
        self.erase_garbage().await
    }

    /// Erases what the last commits made garbage; what a crash leaves is erased by the next start.
    pub(super) async fn erase_garbage(&self) -> Result<(), PartyError> {
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
pub(super) fn keep(space: &str, bulk: &Bulk) -> Batch {
    Batch::new().put_record(BULK, &format!("{space}/{}", bulk.info().root), bulk.to_record())
}

fn step(
    machine: PartyJob,
    identity: &Identity,
    event: Event,
) -> Result<(PartyJob, Vec<PartyOutput>), Bug> {
    let mut rng = os_rng();
    let mut cx = Context { now_ms: now_ms(), identity, rng: &mut rng };
    machine.handle(&mut cx, event)
}

fn rejected(outputs: &[PartyOutput]) -> Option<Refusal> {
    outputs.iter().find_map(|output| match output {
        Output::Reject(refusal) => Some(refusal.clone()),
        _ => None,
    })
}

pub(super) fn elapsed_ms(start: Instant) -> u64 {
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
