//! The network's side: it trains one model version with its banks, scores payments of later days, and
//! ends the job.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate_crypto::keys::Identity;
use quorate_protocols::machine::{Context, Output};
use quorate_protocols::pv4fad::forest::{
    BITS, Cells, Forest, ONE, PooledRule, Prior, Scores, Totals,
};
use quorate_protocols::pv4fad::letters::{Close, PaymentsMessage};
use quorate_protocols::pv4fad::messages::{Account, Message};
use quorate_protocols::pv4fad::network::{
    Asked, CellAssignment, Layout, NetworkJob, NetworkWorld, Payment, Phase, Reaching,
};
use quorate_protocols::pv4fad::{Job, MAX_QUERY_ROWS, World};
use quorate_protocols::refusal::{Code, Culprit, Refusal};
use quorate_protocols::round::aggregator::Outcome;
use quorate_protocols::wire::{Name, Signed};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};

use super::super::run::{Run, elapsed_ms};
use super::super::{PartyError, PartyEvent};
use super::office::{Committed, Office, Said, Sent};
use super::{Keys, NetworkFinished, NetworkTask, PaymentsFinished, off_thread};
use crate::api::MAX_WAIT_MS;
use crate::engine::{now_ms, os_rng};
use crate::payments::bank_name;
use crate::payments::features::Columns;
use crate::payments::kept::Kept;
use crate::payments::replay::{Replay, network_columns, result_hash};
use crate::payments::twin::{PRIOR_ROWS, Sample, forest_spec};
use crate::store::Batch;

/// Kind of the stored machine, by job.
const NETWORK: &str = "payments-network";
/// The model version that a run trains.
const VERSION: u32 = 0;
/// Queries under way at a time.
const QUERIES: usize = 8;

/// What the network makes of its payments before it asks anybody: a function of its keys, the job and
/// the payments, so that it is made again after a restart.
struct Plan {
    sample: Sample,
    columns: Columns,
    forest: Forest,
    forest_seed: [u8; 32],
    model_seed: u64,
    /// The training payments.
    payments: Vec<Payment>,
    layout: Layout,
    /// Leaves of the training payments, payment by payment.
    leaves: Vec<u16>,
    trees: usize,
    /// Queries by number: banks, and payments by their place in the table.
    queries: Vec<([Name; 2], Vec<usize>)>,
    /// All payments.
    all: Vec<crate::payments::record::Payment>,
}

impl CellAssignment for Plan {
    fn cell(&self, tree: u16, payment: usize) -> u16 {
        let leaf = self.leaves.get(payment * self.trees + usize::from(tree)).copied().unwrap_or(0);
        let row = self.sample.training.get(payment).copied().unwrap_or(usize::MAX);
        let label = self.sample.labels.get(row).copied().unwrap_or(false);
        2 * leaf + u16::from(label)
    }
}

fn of_record(payment: &crate::payments::record::Payment) -> Result<Payment, Refusal> {
    let account =
        |account: &str, name: &str| Account { account: account.into(), name: name.into() };
    Ok(Payment {
        banks: [bank_name(&payment.sender_bank)?, bank_name(&payment.receiver_bank)?],
        accounts: [
            account(&payment.ordering_account, ""),
            account(&payment.beneficiary_account, &payment.beneficiary_name),
        ],
    })
}

impl Plan {
    fn new(job: &Job, identity: &Identity, task: NetworkTask) -> Result<Self, PartyError> {
        let config = |why: String| PartyError::Config(why);
        if usize::from(job.class_bits) != BITS {
            return Err(config(format!("this build's forest has {BITS} class bits")));
        }
        let seed = |domain| identity.derive_seed(domain, &job.id().0);
        let forest_seed = *seed("quorate/pv-forest/1").expose();
        let mut rng = ChaCha20Rng::from_seed(*seed("quorate/pv-model/1").expose());
        let (model_seed, NetworkTask { payments: all, score }) = (rng.next_u64(), task);
        let sample = Sample::new(&all, &HashMap::new());
        let columns = network_columns(&sample, model_seed);
        let depth = u32::from(job.cells / 2).ilog2();
        let spec = forest_spec(&columns, job.trees.into(), depth, forest_seed);
        let forest = Forest::draw(&spec).map_err(|error| config(error.to_string()))?;
        let record = |row: &usize| -> Result<_, PartyError> {
            let payment = all.get(*row).ok_or_else(|| config("no such payment".to_owned()))?;
            Ok(of_record(payment)?)
        };
        let payments = sample.training.iter().map(record).collect::<Result<Vec<_>, _>>()?;
        let layout = Layout::new(job, identity, VERSION, &payments)?;
        let mut leaves = Vec::with_capacity(payments.len() * usize::from(job.trees));
        for row in &sample.training {
            let own = forest.leaves(columns.row(*row));
            leaves.extend(own.map(|leaf| u16::try_from(leaf).unwrap_or(0)));
        }
        // A sample of the later payments, in the order of the table.
        let mut scored = sample.test.clone();
        let most = score.min(usize::try_from(job.queries.total).unwrap_or(usize::MAX));
        for last in (1..scored.len()).rev() {
            let product = u128::from(rng.next_u64()) * (last as u128 + 1);
            scored.swap(last, usize::try_from(product >> 64).unwrap_or(last));
        }
        scored.truncate(most);
        scored.sort_unstable();
        let mut pairs: BTreeMap<[Name; 2], Vec<usize>> = BTreeMap::new();
        for row in scored {
            pairs.entry(record(&row)?.banks).or_default().push(row);
        }
        let window = usize::try_from(job.queries.per_window).unwrap_or(usize::MAX);
        let most = MAX_QUERY_ROWS.min(window).max(1);
        let chunks = pairs.iter().flat_map(|(pair, rows)| {
            rows.chunks(most).map(move |rows| (pair.clone(), rows.to_vec()))
        });
        let queries = chunks.collect();
        let trees = usize::from(job.trees);
        Ok(Self {
            sample,
            columns,
            forest,
            forest_seed,
            model_seed,
            payments,
            layout,
            leaves,
            trees,
            queries,
            all,
        })
    }

    /// What the network asks about the payments of a query.
    fn asked(&self, scored: &Scored, query: u64) -> Result<([Name; 2], Rows), Refusal> {
        let no_query = || Refusal::new(Code::WrongState, "no such query is planned");
        let number = usize::try_from(query).map_err(|_| no_query())?;
        let (pair, rows) = self.queries.get(number).ok_or_else(no_query)?;
        let payment = |row: &usize| of_record(self.all.get(*row).ok_or_else(no_query)?);
        let rows = match scored {
            // The scores of each pair of severities, which depend on the greater one.
            Scored::Open(scores) => {
                let row = |row: &usize| {
                    let table = scores.of(&self.forest, self.columns.row(*row));
                    let table = table.map(|score| score as f64 / ONE as f64);
                    let of = move |a: usize| {
                        table.into_iter().enumerate().map(move |(b, score)| {
                            if a > b { table.get(a).copied().unwrap_or(score) } else { score }
                        })
                    };
                    let scores = (0..table.len()).flat_map(of).collect();
                    Ok(Asked { accounts: payment(row)?.accounts, scores })
                };
                Rows::Open(rows.iter().map(row).collect::<Result<_, Refusal>>()?)
            }
            Scored::Strict { own, rule } => {
                let row = |row: &usize| {
                    let features = self.columns.row(*row);
                    let cells = |leaf: u32| {
                        let leaf = u16::try_from(leaf).unwrap_or(0);
                        [2 * leaf + 1, 2 * leaf]
                    };
                    let [own, ..] = own.of(&self.forest, features);
                    let leaves = self.forest.leaves(features).map(cells).collect();
                    Ok(Reaching { accounts: payment(row)?.accounts, leaves, own })
                };
                Rows::Strict(rows.iter().map(row).collect::<Result<_, Refusal>>()?, *rule)
            }
        };
        Ok((pair.clone(), rows))
    }
}

/// The payments of a query, as the job scores them.
enum Rows {
    Open(Vec<Asked>),
    Strict(Vec<Reaching>, PooledRule),
}

/// What scores are made of once the version is trained.
enum Scored {
    /// The forest's scores by class.
    Open(Scores),
    /// In a strict job: the forest's scores without banks, and how pooled counts move them.
    Strict { own: Scores, rule: PooledRule },
}

impl Scored {
    fn new(
        plan: &Plan,
        job: &Job,
        machine: &NetworkJob,
        counted: &[bool],
    ) -> Result<Self, Refusal> {
        let wrong = |why: String| Refusal::new(Code::WrongState, why);
        let mut totals = Totals::new(&plan.forest);
        for (row, _) in plan.sample.training.iter().zip(counted).filter(|(_, counts)| **counts) {
            let label = plan.sample.labels.get(*row).copied().unwrap_or(false);
            totals.add(&plan.forest, plan.columns.row(*row), label);
        }
        if job.strict {
            let none = Cells::new(&plan.forest);
            let own = Scores::new(&plan.forest, &totals, &none, Prior::new(PRIOR_ROWS, None));
            let sigma = job.pooled_sigma(machine.noise_shares());
            return Ok(Self::Strict { own, rule: PooledRule::new(job.trees.into(), sigma) });
        }
        let counts = machine.counts().ok_or_else(|| wrong("no counts are opened".to_owned()))?;
        let cells = Cells::opened(&plan.forest, counts.to_vec());
        let cells = cells.map_err(|error| wrong(error.to_string()))?;
        let sigma = job.sigma().map(|sigma| {
            let shares = machine.noise_shares() as f64 / f64::from(job.noise_divisor().max(1));
            sigma * libm::sqrt(shares)
        });
        Ok(Self::Open(Scores::new(&plan.forest, &totals, &cells, Prior::new(PRIOR_ROWS, sigma))))
    }
}

/// A query under way.
struct Flight {
    since: Instant,
    /// When it is asked again, if it was refused for now.
    again: Option<Instant>,
}

/// One run of the network.
struct Course<'a> {
    office: Office<'a, NetworkJob>,
    plan: Arc<Plan>,
    keys: Arc<Keys>,
    job: Job,
    /// How long a bank may take.
    patience: Duration,
    /// When a letter came last.
    last: Instant,
    phase: Phase,
    scored: Option<Arc<Scored>>,
    counted: Vec<bool>,
    flying: BTreeMap<u64, Flight>,
    /// Queries that will not be answered.
    failed: BTreeSet<u64>,
}

/// Trains and scores until the job ends.
pub(super) async fn run(
    run: &Run<'_>,
    job: Job,
    keys: Arc<Keys>,
    task: NetworkTask,
) -> Result<PaymentsFinished, PartyError> {
    let party = run.party;
    let (identity, of) = (Arc::clone(&party.keys.identity), job.clone());
    let plan = Arc::new(off_thread(move || Plan::new(&of, &identity, task)).await??);
    let kept = Kept::new(&party.store, &run.id);
    let (planned, prepared, of) = (Arc::clone(&plan), Arc::clone(&keys), job.clone());
    let fresh = move || {
        let mut rng = os_rng();
        let cx = Context { now_ms: now_ms(), identity: &party.keys.identity, rng: &mut rng };
        let world = world(&planned, &prepared, &kept);
        Ok(NetworkJob::start(&cx, &world, of, VERSION)?)
    };
    let office = Office::open(party, (NETWORK, &run.id), job.clone(), fresh).await?;
    let mut course = Course {
        office,
        plan,
        keys,
        job,
        patience: Duration::from_millis(run.manifest.deadlines.collect_ms),
        last: Instant::now(),
        phase: Phase::Setup,
        scored: None,
        counted: Vec::new(),
        flying: BTreeMap::new(),
        failed: BTreeSet::new(),
    };
    let outcome = course.until_end().await?;
    course.finish(outcome).await
}

fn world<'a>(plan: &'a Plan, keys: &'a Keys, kept: &'a Kept) -> NetworkWorld<'a> {
    NetworkWorld {
        world: World { key: &keys.choice, values: keys.values.as_ref(), blobs: kept },
        payments: &plan.payments,
        layout: &plan.layout,
        cells: plan,
    }
}

impl Course<'_> {
    async fn until_end(&mut self) -> Result<Outcome, PartyError> {
        self.advance().await?;
        loop {
            // Before anything is sent: what it asks is not to wait for a letter.
            self.serve().await?;
            let mut sent = self.office.send().await?;
            while let Sent::Answer(message, also) = sent {
                self.take(*message, None, also).await?;
                sent = self.office.send().await?;
            }
            if let Some(refusal) = self.office.machine().failure().cloned() {
                self.close(Some(refusal.clone())).await?;
                return Err(refusal.into());
            }
            if self.is_done() {
                self.close(None).await?;
                return Ok(Outcome::Done);
            }
            let mail = self.office.collect(self.wait(), &sent).await?;
            if let Some(outcome) = mail.outcome {
                return Ok(outcome);
            }
            for (number, letter) in &mail.letters {
                let start = Instant::now();
                if let Some(message) = self.office.read(*number, letter).await? {
                    let name = message.name().to_owned();
                    self.take(message, Some(*number), Batch::new()).await?;
                    let ms = elapsed_ms(start);
                    self.office.party.report(&PartyEvent::Handled { message: name, ms });
                }
                // What the network itself takes is nobody's delay.
                self.last = Instant::now();
            }
            if mail.letters.is_empty() {
                self.look_at_clock().await?;
            }
        }
    }

    fn is_done(&self) -> bool {
        let asked = |query: u64| {
            self.failed.contains(&query) || self.office.machine().scores(query).is_some()
        };
        self.scored.is_some() && (0..self.plan.queries.len() as u64).all(asked)
    }

    /// How long to wait for a letter.
    fn wait(&self) -> Duration {
        let mut wait = Duration::from_millis(MAX_WAIT_MS);
        let now = Instant::now();
        let again = self.flying.values().filter_map(|flight| flight.again);
        for at in again.chain([self.last + self.patience]) {
            wait = wait.min(at.saturating_duration_since(now));
        }
        wait.max(Duration::from_millis(20))
    }

    /// Runs one step of the machine on the blocking pool.
    async fn step<T: Send + 'static>(
        &self,
        step: impl FnOnce(NetworkJob, &mut Context<'_>, &NetworkWorld<'_>) -> T + Send + 'static,
    ) -> Result<T, PartyError> {
        let (plan, keys) = (Arc::clone(&self.plan), Arc::clone(&self.keys));
        let (kept, machine) = (self.office.kept.clone(), self.office.machine().clone());
        let identity = Arc::clone(&self.office.party.keys.identity);
        off_thread(move || {
            let mut rng = os_rng();
            let mut cx = Context { now_ms: now_ms(), identity: &identity, rng: &mut rng };
            step(machine, &mut cx, &world(&plan, &keys, &kept))
        })
        .await
    }

    /// Handles a message and goes on as far as that leads. A bank whose own bytes are wrong is left
    /// out while that is possible.
    async fn take(
        &mut self,
        message: Message,
        letter: Option<u64>,
        also: Batch,
    ) -> Result<(), PartyError> {
        let stepped = self.step(move |machine, cx, world| machine.handle(cx, world, &message));
        let (next, said) = stepped.await??;
        let culprits: Vec<Name> = said.iter().flat_map(culprits).collect();
        self.commit(next, said, letter, also).await?;
        for bank in culprits {
            self.lose(&bank).await?;
        }
        self.advance().await
    }

    async fn commit(
        &mut self,
        next: NetworkJob,
        said: Vec<Said>,
        letter: Option<u64>,
        also: Batch,
    ) -> Result<(), PartyError> {
        match self.office.commit(next, said, letter, also).await? {
            Committed::Done => Ok(()),
            // The network's machine charges nothing.
            Committed::Spent(refusal) => Err(refusal.into()),
        }
    }

    async fn lose(&mut self, bank: &Name) -> Result<(), PartyError> {
        let machine = self.office.machine();
        if machine.lost().contains(bank) || self.job.bank(bank).is_err() {
            return Ok(());
        }
        let (next, said) = machine.clone().lose(bank)?;
        self.commit(next, said, None, Batch::new()).await
    }

    async fn advance(&mut self) -> Result<(), PartyError> {
        loop {
            let (next, said) = self.step(NetworkJob::advance).await?;
            if said.is_empty() {
                break;
            }
            self.commit(next, said, None, Batch::new()).await?;
        }
        let phase = self.office.machine().phase();
        if phase != self.phase {
            self.phase = phase;
            self.last = Instant::now();
            let lost = self.office.machine().lost().iter().cloned().collect();
            let phase = format!("{phase:?}").to_lowercase();
            self.office.party.report(&PartyEvent::Phase { phase, lost });
        }
        Ok(())
    }

    /// Asks the next queries and looks at those under way.
    async fn serve(&mut self) -> Result<(), PartyError> {
        if !matches!(self.office.machine().phase(), Phase::Trained | Phase::Serving) {
            return Ok(());
        }
        let scored = match &self.scored {
            Some(scored) => Arc::clone(scored),
            None => {
                let (plan, job) = (Arc::clone(&self.plan), self.job.clone());
                let made = self.step(move |machine, _, world| {
                    let rows = 0..world.payments.len();
                    let counted: Vec<bool> =
                        rows.map(|row| machine.counts_payment(world, row)).collect();
                    let scored = Scored::new(&plan, &job, &machine, &counted);
                    scored.map(|scored| (Arc::new(scored), counted))
                });
                let (scored, counted) = made.await??;
                self.counted = counted;
                self.scored.insert(scored).clone()
            }
        };
        self.land();
        for query in 0..self.plan.queries.len() as u64 {
            let machine = self.office.machine();
            let known = self.failed.contains(&query) || machine.scores(query).is_some();
            if known || self.flying.contains_key(&query) {
                continue;
            }
            if self.flying.len() >= QUERIES {
                break;
            }
            let (pair, asked) = self.plan.asked(&scored, query)?;
            if pair.iter().any(|bank| machine.lost().contains(bank)) {
                self.failed.insert(query);
                continue;
            }
            self.flying.insert(query, Flight { since: Instant::now(), again: None });
            if machine.has_asked(query) {
                // Asked before a restart: what it waits for was stored then.
                continue;
            }
            let stepped = self.step(move |machine, cx, world| match asked {
                Rows::Open(rows) => machine.query(cx, world, query, pair.each_ref(), rows),
                Rows::Strict(rows, rule) => {
                    machine.query_pooled(cx, world, query, pair.each_ref(), rows, rule)
                }
            });
            let (next, said) = stepped.await??;
            self.commit(next, said, None, Batch::new()).await?;
        }
        Ok(())
    }

    /// Takes scored and refused queries off the list.
    fn land(&mut self) {
        let machine = self.office.machine();
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        let window = Duration::from_millis(self.job.queries.window_ms);
        for (query, flight) in &mut self.flying {
            if let Some(scores) = machine.scores(*query) {
                done.push((*query, scores.len(), elapsed_ms(flight.since)));
            } else if let Some(refusal) = machine.query_refusal(*query) {
                match refusal.code {
                    Code::RateLimited => {
                        flight.again.get_or_insert(Instant::now() + window);
                    }
                    Code::Unavailable => {
                        flight.again.get_or_insert(Instant::now() + Duration::from_secs(1));
                    }
                    _ => failed.push((*query, refusal.clone())),
                }
            }
        }
        for (query, rows, ms) in done {
            self.flying.remove(&query);
            self.office.party.report(&PartyEvent::Scored { query, rows, ms });
        }
        for (query, refusal) in failed {
            self.flying.remove(&query);
            self.failed.insert(query);
            let (code, detail) = (refusal.code.as_str().to_owned(), refusal.detail);
            self.office.party.report(&PartyEvent::Refused { code, detail });
        }
    }

    /// Asks again what was refused for now; leaves out banks that took too long.
    async fn look_at_clock(&mut self) -> Result<(), PartyError> {
        let now = Instant::now();
        let due = |flight: &Flight| flight.again.is_some_and(|at| at <= now);
        let again: Vec<u64> =
            self.flying.iter().filter(|(_, f)| due(f)).map(|(query, _)| *query).collect();
        for query in again {
            let stepped = self.step(move |machine, cx, _| machine.query_again(cx, query)).await?;
            self.commit(stepped.0, stepped.1, None, Batch::new()).await?;
            if let Some(flight) = self.flying.get_mut(&query) {
                flight.again = None;
                self.last = now;
            }
        }
        if self.last.elapsed() < self.patience {
            return Ok(());
        }
        let mut late = self.step(|machine, _, world| machine.waits_for(world)).await?;
        for query in self.flying.keys() {
            late.extend(self.office.machine().query_waits_for(*query));
        }
        for bank in late {
            self.lose(&bank).await?;
        }
        // What a lost bank was to answer is not scored.
        let lost = self.office.machine().lost().clone();
        let stuck: Vec<u64> = self
            .flying
            .keys()
            .filter(|query| {
                let waits = self.office.machine().query_waits_for(**query);
                waits.is_some_and(|bank| lost.contains(&bank))
            })
            .copied()
            .collect();
        for query in stuck {
            self.flying.remove(&query);
            self.failed.insert(query);
        }
        let present = self.job.banks.len().saturating_sub(lost.len());
        if self.scored.is_some() && present < self.job.threshold as usize {
            // Nobody can open any more.
            self.flying.clear();
            let open = |query: &u64| self.office.machine().scores(*query).is_none();
            self.failed = (0..self.plan.queries.len() as u64).filter(open).collect();
        }
        self.last = now;
        self.advance().await
    }

    /// Ends the job: the banks leave.
    async fn close(&self, failure: Option<Refusal>) -> Result<(), PartyError> {
        let close = Close { job: self.office.manifest(), failure };
        let close = Signed::sign(close, &self.office.party.keys.identity).signed().clone();
        self.office.tell(PaymentsMessage::Close(close)).await
    }

    /// What the run leaves.
    async fn finish(self, outcome: Outcome) -> Result<PaymentsFinished, PartyError> {
        let machine = self.office.machine();
        let (mut scores, mut unscored) = (Vec::new(), Vec::new());
        for (query, (_, rows)) in (0u64..).zip(&self.plan.queries) {
            match machine.scores(query) {
                Some(own) => scores.extend(rows.iter().copied().zip(own.iter().copied())),
                None => unscored.extend(rows),
            }
        }
        scores.sort_unstable_by_key(|(row, _)| *row);
        unscored.sort_unstable();
        let counts = machine.counts().unwrap_or_default().to_vec();
        self.office.party.report(&PartyEvent::Finished {
            outcome: (&outcome).into(),
            rounds: VERSION + 1,
            state: result_hash(&counts, &scores).into(),
        });
        let replay = self.office.party.replayable.then(|| Replay {
            forest_seed: crate::api::Hex32(self.plan.forest_seed),
            model_seed: self.plan.model_seed,
            rows: (0..self.plan.payments.len())
                .filter_map(|payment| self.plan.layout.row(payment))
                .map(|row| hex::encode(row.0))
                .collect(),
            counted: self.counted.clone(),
            scored: scores.iter().map(|(row, _)| *row).collect(),
        });
        // Evidence and ciphertexts have served; the machine keeps counts and scores.
        self.office.party.store.commit(self.office.erase(Batch::new())).await?;
        let network = NetworkFinished { counts, scores, unscored, replay };
        Ok(PaymentsFinished { outcome, network: Some(network) })
    }
}

/// Banks whose own bytes were refused.
fn culprits(output: &Said) -> Vec<Name> {
    let Output::Reject(refusal) = output else { return Vec::new() };
    let party = |culprit: &Culprit| match culprit {
        Culprit::Party(name) => Some(name.clone()),
        _ => None,
    };
    refusal.culprits.iter().filter_map(party).collect()
}
