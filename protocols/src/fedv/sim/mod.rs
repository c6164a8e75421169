//! A vertical job in memory: all roles, a network that loses, repeats, delays and reorders, processes
//! that crash between any two of their stored states, parties that go away. A run is a function of its
//! seed.
//!
//! Failures: loss, repetition, delay and reordering of every message, stale looks, crashes before a
//! state is stored and after it with all outputs lost, absent parties. Not simulated: lying
//! parties (each check has a test of its own), broken disks. The only randomness is the seed's.

pub mod fuzz;
mod rows;

pub use rows::Given;

use std::collections::{BTreeMap, BTreeSet};

use quorate_crypto::fixed::FixedPoint;
use quorate_crypto::keys::Identity;
use quorate_crypto::merkle::{Hash, hash_parts};
use quorate_crypto::oprf::{Blinder, Evaluated};
use quorate_crypto::psi::{self, Identifier, PartyRows, PartyTags, TAG_BYTES, TagList};
use quorate_crypto::sum::{Label, Nonce, PadSuite, Ring};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use serde::de::DeserializeOwned;

use super::aggregator::{self, AggregatorJob, Intersect};
use super::align::{self, AlignedRows, Next, Tags};
use super::authority::{AuthorityJob, EvaluateBatch};
use super::linear::{FEATURE_BITS, Features, Targets, Weights, residuals};
use super::messages::{BatchFields, BatchPurpose, Evaluate, PartyView, VerticalMessage};
use super::party::{self, Mixed, PartyJob, PartyWork};
use super::work::{Batch, Order, Own, row_bits, stored_rows, with_stored};
use super::{check_epoch, shape_of, spec};
use crate::enrol::Enrolled;
use crate::job::{
    AuthorityKey, Deadlines, JobPackage, MANIFEST_VERSION, Manifest, Minima, Privacy, RosterEntry,
};
use crate::machine::{Context, Output, Peer};
use crate::refusal::{Code, Refusal};
use crate::round::aggregator::Outcome;
use crate::round::messages::{BulkRef, Join, Message, SubmitHeader};
use crate::wire::{Name, Signed, decode, encode};
use crate::workload::{
    Block, Column, ColumnKind, LabelPrivacy, TargetKind, VerticalModel, VerticalSpec, Workload,
};
use rows::MadeUp;

/// How unkind a run is, in percent.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Messages that are lost.
    pub loss: u32,
    /// Messages that come twice.
    pub repeat: u32,
    /// Steps after which a process crashes, its outputs lost.
    pub crash: u32,
    /// Chance, per thousand steps, that a passive party goes away for a while.
    pub away: u32,
}

impl Faults {
    /// None.
    pub const NONE: Self = Self { loss: 0, repeat: 0, crash: 0, away: 0 };
    /// All of them.
    pub const ALL: Self = Self { loss: 15, repeat: 15, crash: 10, away: 2 };
}

/// What a run does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The model.
    pub model: VerticalModel,
    /// Classes of the target; 0 for numbers.
    pub classes: usize,
    /// Features of every party, the label holder's first.
    pub features: Vec<usize>,
    /// Rows with and without a label.
    pub rows: (u32, u32),
    /// Epochs.
    pub epochs: u32,
    /// Rows of a batch.
    pub batch: u32,
    /// Authorities.
    pub authorities: usize,
    /// Label noise.
    pub labels: LabelPrivacy,
    /// Whether features are sent once.
    pub static_features: bool,
    /// Whether epochs may differ in one party.
    pub lone_changes: bool,
    /// Weight of the feature selection.
    pub selection: f64,
    /// Rows to use instead of made-up ones.
    pub given: Option<Given>,
    /// Faults.
    pub faults: Faults,
}

/// Scores by row and output.
pub type Scores = BTreeMap<(u32, u32), i64>;

/// What came out of a run.
#[derive(Debug)]
pub struct Report {
    /// How the job ended.
    pub outcome: Outcome,
    /// Hash of every party's weights.
    pub weights: Vec<(Name, Hash)>,
    /// The same of the twin, trained on joined plaintext rows in the order of the opened batches.
    pub twin: Vec<(Name, Hash)>,
    /// Scores of the rows without a label, by row and output, and the twin's.
    pub scores: (Scores, Scores),
    /// Batches opened.
    pub opened: u64,
    /// Attempts that were burned.
    pub burned: u32,
    /// Epochs, in order, with the number of their parties and batches opened.
    pub epochs: Vec<(u32, usize, u32)>,
    /// Features that a party still sends at the end.
    pub kept: Vec<usize>,
}

struct PartySim {
    name: Name,
    identity: Identity,
    entry: RosterEntry,
    machine: Option<Vec<u8>>,
    weights: Weights,
    /// Of its own rows, then, once aligned, of the common ones in the shared order.
    features: Features,
    targets: Option<Targets>,
    /// The identifier of each of its own rows.
    identifiers: Vec<u32>,
    /// The identifiers of the common rows in the shared order, once aligned.
    aligned: Option<(Vec<u32>, Hash)>,
    /// Tags that were computed, for one opening of the alignment.
    tags: Option<(Hash, PartyTags)>,
    nonce: Option<(Label, Nonce)>,
    uploads: BTreeMap<Label, Vec<u8>>,
    /// Away until this time.
    away_until: u64,
    /// A look from before, to be seen late.
    stale: Option<PartyView>,
}

struct AuthoritySim {
    name: Name,
    identity: Identity,
    machine: Option<Vec<u8>>,
}

/// A batch that the label holder finished: what the twin repeats.
struct Opened {
    fields: BatchFields,
    roster: Vec<Name>,
    rows: Vec<u32>,
}

enum Parcel {
    ToAggregator(Message),
    ToAuthority(usize, Message),
}

struct World {
    plan: Plan,
    rng: ChaCha20Rng,
    now_ms: u64,
    aggregator_identity: Identity,
    /// As it was stored and read back.
    aggregator: AggregatorJob,
    authorities: Vec<AuthoritySim>,
    parties: Vec<PartySim>,
    manifest: Manifest,
    parcels: Vec<Parcel>,
    opened: Vec<Opened>,
    scores: Scores,
    /// The common tags.
    common: Vec<u8>,
    burned: u32,
    /// Labels with a score key, by authority and position: one each.
    keyed: BTreeMap<(usize, u32, u32), Label>,
    /// Requests answered with product keys, by authority and label.
    asked: BTreeMap<(usize, Label), Hash>,
    nonces: BTreeSet<(Name, Label, [u8; 16])>,
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap_or_else(|_| unreachable!("a legal name"))
}

fn load<T: DeserializeOwned>(bytes: &[u8]) -> T {
    decode(bytes).unwrap_or_else(|refusal| panic!("a stored machine does not load: {refusal}"))
}

impl World {
    fn new(seed: u64, plan: Plan) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let aggregator_identity = Identity::generate(&mut rng);
        let authorities: Vec<AuthoritySim> = (0..plan.authorities)
            .map(|i| AuthoritySim {
                name: name(&format!("authority-{i}")),
                identity: Identity::generate(&mut rng),
                machine: None,
            })
            .collect();
        let keys: Vec<(Name, Identity)> = (0..plan.features.len())
            .map(|i| (name(&format!("party-{i}")), Identity::generate(&mut rng)))
            .collect();
        let columns = |party: usize, count: usize| -> Vec<Column> {
            (0..count)
                .map(|j| Column {
                    name: format!("column-{party}-{j}"),
                    kind: ColumnKind::Numeric { offset: 0.0, scale_log2: 0 },
                })
                .collect()
        };
        let blocks: Vec<Block> = keys
            .iter()
            .zip(&plan.features)
            .enumerate()
            .map(|(i, ((party, _), count))| Block {
                party: party.clone(),
                columns: columns(i, *count),
            })
            .collect();
        let target_kind = match plan.classes {
            0 => TargetKind::Real { offset: 0.0, scale: 1.0 },
            count => TargetKind::Classes((0..count).map(|c| format!("class-{c}")).collect()),
        };
        let spec = VerticalSpec {
            blocks,
            holder: name("party-0"),
            target: "target".into(),
            target_kind,
            identifiers: vec!["id".into()],
            model: plan.model,
            l2: 1e-3,
            selection: plan.selection,
            epochs: plan.epochs,
            batch: plan.batch,
            learning_rate: 0.5,
            momentum: 0.5,
            labels: plan.labels,
            static_features: plan.static_features,
            lone_changes: plan.lone_changes,
            max_rows: 4096,
        };
        let mut salt = [0; 16];
        rng.fill_bytes(&mut salt);
        let manifest = Manifest {
            version: MANIFEST_VERSION,
            tenant: name("lab"),
            title: "simulated".into(),
            salt,
            aggregator: aggregator_identity.verify_key(),
            authorities: authorities
                .iter()
                .map(|authority| AuthorityKey {
                    name: authority.name.clone(),
                    epoch: 1,
                    verify: authority.identity.verify_key(),
                    exchange: authority.identity.exchange_key(),
                })
                .collect(),
            protocol: super::PROTOCOL_ID,
            scheme: 1,
            suite: PadSuite::Aes256Ctr,
            ring: Ring::Z64,
            code: FixedPoint { frac_bits: 24, clip: 64.0 },
            max_parties: u32::try_from(plan.features.len()).unwrap_or(u32::MAX),
            quorum: 2,
            k_min: 2,
            colluders: 0,
            threshold: None,
            privacy: Privacy::None,
            verified_sum: false,
            deadlines: Deadlines {
                collect_ms: 8_000,
                grace_ms: 2_000,
                key_ms: 60_000,
                max_attempts: 3,
            },
            workload: Workload::Vertical(spec),
        };
        // Every party has the common rows and some of its own, in an order of its own.
        let count = plan.rows.0 + plan.rows.1;
        let identifiers: Vec<Vec<u32>> = (0..plan.features.len())
            .map(|i| {
                let i = u32::try_from(i).unwrap_or(0);
                let own = count + 100 * i..count + 100 * i + 3 + i;
                let mut all: Vec<u32> = (0..count).chain(own).collect();
                for last in (1..all.len()).rev() {
                    all.swap(last, rng.next_u32() as usize % (last + 1));
                }
                all
            })
            .collect();
        let made_up = MadeUp { seed, features: &plan.features, classes: plan.classes };
        // Rows that one party alone has repeat those of others.
        let given = |ids: &[u32]| -> Vec<u32> { ids.iter().map(|id| id % count).collect() };
        let features_of = |party: usize, ids: &[u32]| match &plan.given {
            Some(rows) => rows.blocks[party].select(&given(ids)),
            None => made_up.features(party, ids),
        };
        let targets_of = |ids: &[u32]| match &plan.given {
            Some(rows) => rows.targets.select(&given(ids)),
            None => made_up.targets(ids),
        };
        let outputs = spec_of(&manifest).outputs();
        let parties = keys
            .into_iter()
            .zip(&plan.features)
            .zip(identifiers)
            .enumerate()
            .map(|(i, (((party, identity), columns), identifiers))| {
                let entry = RosterEntry {
                    party: party.clone(),
                    epoch: 1,
                    verify: identity.verify_key(),
                    exchange: identity.exchange_key(),
                };
                let own = Own { me: &party, identity: &identity, manifest: &manifest };
                let weights = Weights::initial(&own.weights_seed(), *columns, outputs, i == 0);
                PartySim {
                    weights,
                    features: features_of(i, &identifiers),
                    targets: (i == 0).then(|| targets_of(&identifiers)),
                    name: party,
                    identity,
                    entry,
                    machine: None,
                    identifiers,
                    aligned: None,
                    tags: None,
                    nonce: None,
                    uploads: BTreeMap::new(),
                    away_until: 0,
                    stale: None,
                }
            })
            .collect();
        let mut cx = Context { now_ms: 0, identity: &aggregator_identity, rng: &mut rng };
        let (job, _) = AggregatorJob::create(&cx_now(&mut cx, 0), manifest.clone())
            .unwrap_or_else(|refusal| panic!("the job is refused: {refusal}"));
        let aggregator = load(&encode(&job));
        Self {
            plan,
            rng,
            now_ms: 0,
            aggregator_identity,
            aggregator,
            authorities,
            parties,
            manifest,
            parcels: Vec::new(),
            opened: Vec::new(),
            scores: BTreeMap::new(),
            common: Vec::new(),
            burned: 0,
            keyed: BTreeMap::new(),
            asked: BTreeMap::new(),
            nonces: BTreeSet::new(),
        }
    }

    fn percent(&mut self, chance: u32) -> bool {
        self.rng.next_u32() % 100 < chance
    }

    fn send(&mut self, parcel: Parcel) {
        if !self.percent(self.plan.faults.loss) {
            self.parcels.push(parcel);
        }
    }

    const fn job(&self) -> &AggregatorJob {
        &self.aggregator
    }

    fn aggregator_event(&mut self, event: aggregator::Event) -> Option<Refusal> {
        let mut cx = Context {
            now_ms: self.now_ms,
            identity: &self.aggregator_identity,
            rng: &mut self.rng,
        };
        let before = self.aggregator.clone();
        let (job, outputs) = before.handle(&mut cx, event).unwrap_or_else(|bug| panic!("{bug}"));
        if self.percent(self.plan.faults.crash / 2) {
            // Down before the state was stored.
            return None;
        }
        self.aggregator = load(&encode(&job));
        let mut refused = None;
        let lost = self.percent(self.plan.faults.crash / 2);
        for output in outputs {
            match output {
                Output::Send { to: Peer::Party(party), message: Message::Receipt(receipt) } => {
                    if let Ok(receipt) = receipt.peek()
                        && !lost
                    {
                        let index = self.parties.iter().position(|p| p.name == party);
                        let event = party::Event::Received { label: receipt.label };
                        index.into_iter().for_each(|index| self.party_event(index, event.clone()));
                    }
                }
                Output::Send { to: Peer::Authority(to), message } if !lost => {
                    let index = self.authorities.iter().position(|a| a.name == to);
                    index.into_iter().for_each(|index| {
                        self.send(Parcel::ToAuthority(index, message.clone()));
                    });
                }
                Output::Log(fact) if fact.what == "batch.burned" => self.burned += 1,
                Output::Reject(refusal) => refused = Some(refusal),
                _ => {}
            }
        }
        refused
    }

    /// Which try of the alignment is open.
    fn mix(&self) -> u32 {
        let name = self.parties.first().map(|party| party.name.clone());
        let view = name.map(|name| self.job().view(&name)).unwrap_or_default();
        view.epoch.map_or(0, |open| open.peek().map_or(0, |open| u32::from(open.mix)))
    }

    fn pump(&mut self) {
        for output in self.job().requests() {
            match output {
                Output::Send { to: Peer::Authority(to), message } => {
                    let index = self.authorities.iter().position(|a| a.name == to);
                    index.into_iter().for_each(|index| {
                        self.send(Parcel::ToAuthority(index, message.clone()));
                    });
                }
                Output::Work(work) => self.intersect(&work),
                _ => {}
            }
        }
    }

    fn authority_message(&mut self, index: usize, message: Message) -> Option<EvaluateBatch> {
        let directory: BTreeMap<Name, RosterEntry> =
            self.parties.iter().map(|party| (party.name.clone(), party.entry.clone())).collect();
        let authority = self.authorities.get(index)?;
        let mut cx =
            Context { now_ms: self.now_ms, identity: &authority.identity, rng: &mut self.rng };
        let done = match (&authority.machine, message) {
            (None, Message::Register(manifest)) => {
                let registered =
                    AuthorityJob::register(&cx, &authority.name, 1, &Minima::default(), *manifest);
                registered.unwrap_or_else(|refusal| panic!("not approved: {refusal}"))
            }
            (None, _) => return None,
            (Some(machine), message) => load::<AuthorityJob>(machine)
                .handle(&mut cx, &directory, message)
                .unwrap_or_else(|bug| panic!("{bug}")),
        };
        let (job, outputs) = done;
        // Nothing that comes later changes this answer; others may be to a message repeated late.
        let below_floor = outputs.iter().find_map(|output| match output {
            Output::Reject(refusal) if refusal.code == Code::BelowFloor => Some(refusal.clone()),
            _ => None,
        });
        if let Some(refusal) = below_floor {
            let by = authority.name.clone();
            let _ = self.aggregator_event(aggregator::Event::Refused { by, refusal });
            return None;
        }
        if self.percent(self.plan.faults.crash / 2) {
            return None;
        }
        if let Some(authority) = self.authorities.get_mut(index) {
            authority.machine = Some(encode(&job));
        }
        let mut work = None;
        for output in outputs {
            match output {
                Output::Send { message, .. } => {
                    self.watch(index, &message);
                    self.send(Parcel::ToAggregator(message));
                }
                Output::Work(batch) => work = Some(batch),
                _ => {}
            }
        }
        work
    }

    /// What left an authority: one label per position, one request per label.
    fn watch(&mut self, index: usize, message: &Message) {
        match message {
            Message::Vertical(VerticalMessage::ScoreKey(key)) => {
                let key = key.peek().unwrap_or_else(|e| panic!("{e}"));
                let fields = self.job().status();
                let position = (index, fields.epoch, fields.batch);
                // A late answer is of an older batch; its label is then known already.
                let known = self.keyed.values().any(|label| *label == key.label);
                if !known {
                    let before = self.keyed.insert(position, key.label);
                    assert!(before.is_none(), "two labels of one batch were given score keys");
                }
            }
            Message::Vertical(VerticalMessage::ProductKey(key)) => {
                let key = key.peek().unwrap_or_else(|e| panic!("{e}"));
                let before = self.asked.insert((index, key.label), key.ask);
                assert!(before.is_none_or(|ask| ask == key.ask), "two requests were answered");
            }
            _ => {}
        }
    }

    fn party_event(&mut self, index: usize, event: party::Event) {
        let Some(party) = self.parties.get(index) else { return };
        let Some(machine) = &party.machine else { return };
        let mut cx = Context { now_ms: self.now_ms, identity: &party.identity, rng: &mut self.rng };
        let (job, outputs) =
            load::<PartyJob>(machine).handle(&mut cx, event).unwrap_or_else(|bug| panic!("{bug}"));
        if self.percent(self.plan.faults.crash / 2) {
            return;
        }
        if let Some(party) = self.parties.get_mut(index) {
            party.machine = Some(encode(&job));
        }
        if self.percent(self.plan.faults.crash / 2) {
            return;
        }
        for output in outputs {
            match output {
                Output::Send { message, .. } => {
                    if let Message::Submit(header) = &message {
                        let header = header.peek().unwrap_or_else(|e| panic!("{e}"));
                        self.nonces.insert((header.party, header.label, header.nonce.0));
                    }
                    self.send(Parcel::ToAggregator(message));
                }
                Output::Work(work) => self.work(index, work),
                Output::Reject(refusal) => {
                    panic!("party {index}: {refusal}");
                }
                _ => {}
            }
        }
    }

    fn order(&self, index: usize, epoch: &Mixed) -> (super::messages::EpochOpen, Order) {
        let Some(party) = self.parties.get(index) else { unreachable!("a party") };
        let own = Own { me: &party.name, identity: &party.identity, manifest: &self.manifest };
        let open = check_epoch(&self.manifest, &epoch.open).unwrap_or_else(|e| panic!("{e}"));
        let bits = self.trained();
        let trained = (index == 0).then_some(bits.as_slice());
        let seen = (&open.hash(), &*open);
        let order = own.order(seen, &epoch.commits, &epoch.shares, trained);
        ((*open).clone(), order.unwrap_or_else(|e| panic!("{e}")))
    }

    /// Which aligned rows have a label: those whose identifier is at least the number of those without.
    fn trained(&self) -> Vec<u8> {
        let without = self.plan.rows.1;
        let aligned = self.parties.first().and_then(|party| party.aligned.as_ref());
        row_bits(aligned.map_or(&[][..], |(ids, _)| ids.as_slice()).iter().map(|id| *id >= without))
    }

    fn work(&mut self, index: usize, work: PartyWork) {
        let manifest = self.manifest.clone();
        let fail = |e: Refusal| -> ! { panic!("party {index}: {e}") };
        match work {
            PartyWork::EncryptFeatures { label, nonce, holder } => {
                let Some(party) = self.parties.get_mut(index) else { return };
                let own = Own { me: &party.name, identity: &party.identity, manifest: &manifest };
                let keys = (&party.entry, &holder);
                let words = own.encrypt_features(keys, (label, nonce), &party.features);
                let words = words.unwrap_or_else(|e| fail(e));
                let root = hash_parts("test", &[&words]);
                let ciphertext = BulkRef { len: words.len() as u64, root };
                party.uploads.insert(label, words);
                self.party_event(index, party::Event::Encrypted { label, ciphertext });
            }
            PartyWork::Encrypt { epoch, fields, nonce } => {
                let (open, order) = self.order(index, &epoch);
                let Some(party) = self.parties.get_mut(index) else { return };
                let own = Own { me: &party.name, identity: &party.identity, manifest: &manifest };
                let label = fields.label(&manifest);
                let rows = order.rows(fields.counter).unwrap_or(&[]);
                let batch = Batch { fields: &fields, label, rows };
                let data = (&party.features, &party.weights);
                let words = own.encrypt(&open.roster, &batch, nonce, data);
                let words = words.unwrap_or_else(|e| fail(e));
                let root = hash_parts("test", &[&words]);
                let ciphertext = BulkRef { len: words.len() as u64, root };
                party.uploads.insert(label, words);
                self.party_event(index, party::Event::Encrypted { label, ciphertext });
            }
            PartyWork::Apply { epoch, fields, nonce, gradient } => {
                let (open, order) = self.order(index, &epoch);
                let Some(party) = self.parties.get_mut(index) else { return };
                let own = Own { me: &party.name, identity: &party.identity, manifest: &manifest };
                let label = fields.label(&manifest);
                let rows = order.rows(fields.counter).unwrap_or(&[]);
                let batch = Batch { fields: &fields, label, rows };
                let mut weights = party.weights.clone();
                let data = (&party.features, &mut weights);
                own.apply(&open.roster, &batch, nonce, data, &gradient).unwrap_or_else(|e| fail(e));
                self.commit(index, weights, party::Event::Applied { label });
            }
            PartyWork::Open { epoch, freeze, fields, keys } => {
                let opened = self.open(index, &epoch, &freeze, &fields, &keys);
                let (open, rows, scores, residuals) = opened;
                let Some(party) = self.parties.get(index) else { return };
                let own = Own { me: &party.name, identity: &party.identity, manifest: &manifest };
                let label = fields.label(&manifest);
                let batch = Batch { fields: &fields, label, rows: &rows };
                let asks = match fields.purpose {
                    BatchPurpose::Train => own
                        .product_asks(&open.roster, &batch, &residuals)
                        .unwrap_or_else(|e| fail(e)),
                    BatchPurpose::Score => {
                        let outputs = spec_of(&manifest).outputs();
                        assert_eq!(scores.len(), rows.len() * outputs);
                        for (output, scores) in (0u32..).zip(scores.chunks(rows.len())) {
                            let keys = rows.iter().map(|row| (*row, output));
                            self.scores.extend(keys.zip(scores.iter().copied()));
                        }
                        Vec::new()
                    }
                };
                self.party_event(index, party::Event::Opened { label, asks });
            }
            PartyWork::Combine { epoch, freeze, fields, score_keys, product_keys } => {
                let opened = self.open(index, &epoch, &freeze, &fields, &score_keys);
                let (open, rows, _, residuals) = opened;
                let ciphertexts = self.ciphertexts(&freeze, &fields, &rows);
                let parts: Vec<&[u8]> = ciphertexts.iter().map(Vec::as_slice).collect();
                let Some(party) = self.parties.get(index) else { return };
                let own = Own { me: &party.name, identity: &party.identity, manifest: &manifest };
                let label = fields.label(&manifest);
                let frozen = freeze.peek().unwrap_or_else(|e| fail(e));
                let batch_open = frozen.open.peek().unwrap_or_else(|e| fail(e));
                let pair = (&batch_open, &frozen);
                let gradients = own
                    .gradients(&open, pair, &parts, &residuals, &product_keys)
                    .unwrap_or_else(|e| fail(e));
                let mut weights = party.weights.clone();
                let batch = Batch { fields: &fields, label, rows: &rows };
                own.step_holder(&batch, (&party.features, &mut weights), &residuals)
                    .unwrap_or_else(|e| fail(e));
                let roster = open.roster.iter().map(|entry| entry.party.clone()).collect();
                let done = Opened { fields, roster, rows };
                let event = party::Event::Combined { label, gradients };
                if self.commit(index, weights, event) {
                    self.opened.push(done);
                }
            }
        }
    }

    /// Weights and event in one transaction: both are stored, or neither.
    fn commit(&mut self, index: usize, weights: Weights, event: party::Event) -> bool {
        let state = |party: &PartySim| party.machine.as_deref().map(load::<PartyJob>);
        let before = self.parties.get(index).and_then(state).map(|job| job.state_name());
        self.party_event(index, event);
        let Some(party) = self.parties.get_mut(index) else { return false };
        let after = party.machine.as_deref().map(load::<PartyJob>).map(|job| job.state_name());
        let stored = before != after;
        if stored {
            party.weights = weights;
        }
        stored
    }

    fn ciphertexts(
        &self,
        freeze: &Signed<super::messages::BatchFreeze>,
        fields: &BatchFields,
        rows: &[u32],
    ) -> Vec<Vec<u8>> {
        let frozen = freeze.peek().unwrap_or_else(|e| panic!("{e}"));
        let epoch = frozen.epoch.peek().unwrap_or_else(|e| panic!("{e}"));
        let Some(holder) = self.parties.first() else { unreachable!("the label holder") };
        let own = Own { me: &holder.name, identity: &holder.identity, manifest: &self.manifest };
        let upload = |header: &Signed<SubmitHeader>| {
            let header = header.peek().unwrap_or_else(|e| panic!("{e}"));
            let party = self.parties.iter().find(|party| party.name == header.party);
            let bytes = party.and_then(|party| party.uploads.get(&header.label)).cloned();
            let mut bytes = bytes.unwrap_or_default();
            own.uncover(&epoch.roster, &header, (0, &mut bytes)).unwrap_or_else(|e| panic!("{e}"));
            (header, bytes)
        };
        let members = frozen.members.iter().map(upload);
        if frozen.features.is_empty() || fields.purpose == BatchPurpose::Score {
            return members.map(|(_, bytes)| bytes).collect();
        }
        members
            .zip(frozen.features.iter().map(upload))
            .map(|((header, bytes), (_, stored))| {
                let spec = spec_of(&self.manifest);
                let len = bytes.len() as u64;
                let shape = shape_of(spec, fields, &header.party, len).unwrap();
                let features = stored_rows(&shape, &stored, rows).unwrap();
                with_stored(&shape, &bytes, &features).unwrap()
            })
            .collect()
    }

    fn open(
        &self,
        index: usize,
        epoch: &Mixed,
        freeze: &Signed<super::messages::BatchFreeze>,
        fields: &BatchFields,
        keys: &[Signed<super::messages::ScoreKey>],
    ) -> (super::messages::EpochOpen, Vec<u32>, Vec<i64>, Vec<i64>) {
        let (open, order) = self.order(index, epoch);
        let Some(party) = self.parties.get(index) else { unreachable!("a party") };
        let own = Own { me: &party.name, identity: &party.identity, manifest: &self.manifest };
        let rows = order.rows(fields.counter).unwrap_or(&[]).to_vec();
        let ciphertexts = self.ciphertexts(freeze, fields, &rows);
        let parts: Vec<&[u8]> = ciphertexts.iter().map(Vec::as_slice).collect();
        let batch = Batch { fields, label: fields.label(&self.manifest), rows: &rows };
        let data = (&party.features, &party.weights);
        let scores = own.open(&batch, data, &parts, keys).unwrap_or_else(|e| panic!("{e}"));
        let residuals = match (&party.targets, fields.purpose) {
            (Some(targets), BatchPurpose::Train) => {
                own.residuals(&batch, targets, &scores).unwrap_or_else(|e| panic!("{e}")).to_vec()
            }
            _ => Vec::new(),
        };
        (open, rows, scores.to_vec(), residuals)
    }

    fn look(&mut self, index: usize) {
        let Some(party) = self.parties.get(index) else { return };
        if party.away_until > self.now_ms {
            return;
        }
        if party.machine.is_none() {
            self.align(index);
            return;
        }
        // Joining and saying what rows there are is repeated until both are known.
        let status = self.job().status();
        let own = self.parties.get(index).map(|party| party.name.clone());
        if status.phase == "gathering" && own.is_some_and(|own| status.missing.contains(&own)) {
            self.announce(index);
        }
        let view = self.job().view(&self.parties.get(index).map_or(name("x"), |p| p.name.clone()));
        let stale = self.percent(self.plan.faults.repeat);
        let seen = match self.parties.get_mut(index) {
            Some(party) => {
                let old = party.stale.replace(view.clone());
                if stale { old.unwrap_or(view) } else { view }
            }
            None => return,
        };
        if !self.percent(self.plan.faults.loss) {
            self.party_event(index, party::Event::View(Box::new(seen)));
        }
    }

    /// One look at the alignment; once the rows are aligned, the party's machine is made.
    fn align(&mut self, index: usize) {
        let Some(approvals) = self.job().approvals() else { return };
        self.announce(index);
        let Some(party) = self.parties.get(index) else { return };
        let manifest = self.manifest.clone();
        let own = Own { me: &party.name, identity: &party.identity, manifest: &manifest };
        let view = self.job().view(&party.name);
        let count = u32::try_from(party.identifiers.len()).unwrap_or(0) + 2;
        let package = JobPackage { manifest: manifest.clone(), approvals };
        let next = align::next(&own, &party.entry, count, &view).unwrap_or_else(|e| panic!("{e}"));
        match next {
            Next::Wait => {}
            Next::Send(messages) => {
                messages.into_iter().for_each(|message| self.send(Parcel::ToAggregator(message)));
            }
            Next::Tags(tags) => self.tags(index, &package, &tags),
            Next::Align(tags, common) => {
                if party.tags.as_ref().is_none_or(|(of, _)| *of != tags.epoch) {
                    return self.tags(index, &package, &tags);
                }
                let Some((_, own_tags)) = &party.tags else { return };
                assert_eq!(common.len, self.common.len() as u64);
                let aligned = own_tags
                    .align(&self.common, 1)
                    .unwrap_or_else(|e| panic!("party {index}: {e}"));
                let rows = aligned.rows().to_vec();
                let ids = rows.iter().map(|row| party.identifiers[*row as usize]).collect();
                let root = aligned.root(&tags.group);
                let Some(party) = self.parties.get_mut(index) else { return };
                party.features = party.features.select(&rows);
                party.targets = party.targets.as_ref().map(|targets| targets.select(&rows));
                party.aligned = Some((ids, root));
                let trained = if index == 0 { self.trained() } else { Vec::new() };
                let Some(party) = self.parties.get_mut(index) else { return };
                let mut rng = ChaCha20Rng::seed_from_u64(0);
                let cx = Context { now_ms: self.now_ms, identity: &party.identity, rng: &mut rng };
                let count = u32::try_from(rows.len()).unwrap_or(0);
                let minima = Minima::default();
                let entry = party.entry.clone();
                let aligned = AlignedRows { count, order: root, holder: tags.holder };
                let joined = PartyJob::join(&cx, entry, &minima, package, aligned, trained);
                let (machine, _) = joined.unwrap_or_else(|refusal| panic!("not joined: {refusal}"));
                party.machine = Some(encode(&machine));
            }
        }
    }

    /// Has identifiers evaluated and submits their tags.
    fn tags(&mut self, index: usize, package: &JobPackage, tags: &Tags) {
        let manifest = self.manifest.clone();
        let job = manifest.hash();
        let known = self.parties.get(index).and_then(|party| party.tags.as_ref());
        if known.is_none_or(|(of, _)| *of != tags.epoch) {
            let Some(party) = self.parties.get(index) else { return };
            let own = Own { me: &party.name, identity: &party.identity, manifest: &manifest };
            let identifiers: Vec<Option<Identifier>> = party
                .identifiers
                .iter()
                .map(|id| Some(Identifier::of(&[&id.to_le_bytes()])))
                .collect();
            let declared = u32::try_from(identifiers.len()).unwrap_or(0) + 2;
            let seed = own.blinds_seed(&tags.epoch);
            let mut rng = ChaCha20Rng::from_seed(*seed.expose());
            let rows = PartyRows::new(&identifiers, declared, &mut rng).unwrap();
            let blinder = Blinder::new(own.blinds_seed(&tags.epoch));
            let keys: Vec<_> = package
                .approvals
                .iter()
                .map(|approval| approval.peek().unwrap().evaluation.unwrap())
                .collect();
            let mut all = Vec::new();
            let name = party.name.clone();
            let batches: Vec<Vec<[u8; 32]>> = rows.batches().map(<[_]>::to_vec).collect();
            for (batch, inputs) in (0u32..).zip(&batches) {
                let blinded = blinder.blind(inputs).unwrap();
                let mut answers = Vec::new();
                for (at, key) in keys.iter().enumerate() {
                    let Some(party) = self.parties.get(index) else { return };
                    let ask = Evaluate {
                        authority: self.authorities[at].name.clone(),
                        manifest: job,
                        party: name.clone(),
                        batch: batch + 1000 * self.mix(),
                        blinded: blinded.clone(),
                    };
                    let ask = Signed::sign(ask, &party.identity).signed().clone();
                    let message = Message::Vertical(VerticalMessage::Evaluate(ask));
                    // Lost or crashed on the way: the party asks again at its next look.
                    let Some(work) = self.authority_message(at, message) else { return };
                    let identity = &self.authorities[at].identity;
                    match work.answer(identity, &job).unwrap_or_else(|e| panic!("{e}")) {
                        Message::Vertical(VerticalMessage::Evaluated { answer, .. }) => {
                            answers.push(Evaluated::check(key, &blinded, &answer).unwrap());
                        }
                        other => panic!("{other:?}"),
                    }
                }
                let values = blinder.finalise(inputs, &blinded, &keys, &answers).unwrap();
                all.extend(tags.group.tags(values.expose()));
            }
            let made = PartyTags::new(&rows, &all).unwrap();
            if let Some(party) = self.parties.get_mut(index) {
                party.tags = Some((tags.epoch, made));
            }
        }
        let mut nonce = Nonce([0; 16]);
        self.rng.fill_bytes(&mut nonce.0);
        let Some(party) = self.parties.get_mut(index) else { return };
        let Some((_, made)) = &party.tags else { return };
        let nonce = match party.nonce {
            Some((label, nonce)) if label == tags.label => nonce,
            _ => nonce,
        };
        party.nonce = Some((tags.label, nonce));
        let bytes = made.encode();
        let list = BulkRef { len: bytes.len() as u64, root: hash_parts("test", &[&bytes]) };
        party.uploads.insert(tags.label, bytes);
        let own = Own { me: &party.name, identity: &party.identity, manifest: &manifest };
        let header = align::tags_header(&own, &party.entry, tags.label, nonce, list);
        self.send(Parcel::ToAggregator(Message::Submit(header)));
    }

    fn intersect(&mut self, work: &Intersect) {
        let lists: Vec<TagList> = work
            .lists
            .iter()
            .map(|(name, list)| {
                let party = self.parties.iter().find(|party| party.name == *name).unwrap();
                let bytes = &party.uploads[&work.label];
                assert_eq!(bytes.len() as u64, list.len);
                let declared = u32::try_from(bytes.len() / TAG_BYTES).unwrap();
                TagList::decode(bytes, declared).unwrap()
            })
            .collect();
        self.common = psi::encode_tags(&psi::common(&lists));
        let root = hash_parts("test", &[&self.common]);
        let common = BulkRef { len: self.common.len() as u64, root };
        let event = aggregator::Event::Intersected { label: work.label, outcome: Ok(common) };
        self.aggregator_event(event);
    }

    fn announce(&mut self, index: usize) {
        let Some(party) = self.parties.get(index) else { return };
        let join = self.join(&party.entry, &party.identity);
        let ready = party.machine.as_deref().map(|m| load::<PartyJob>(m).ready().signed().clone());
        self.send(Parcel::ToAggregator(join));
        if let Some(ready) = ready {
            self.send(Parcel::ToAggregator(Message::Vertical(VerticalMessage::Ready(ready))));
        }
    }

    /// The request of a party with these keys, certified by all authorities.
    fn join(&self, entry: &RosterEntry, identity: &Identity) -> Message {
        let certificates = self.authorities.iter().map(|authority| {
            let certificate = Enrolled {
                authority: authority.name.clone(),
                verify: authority.identity.verify_key(),
                exchange: authority.identity.exchange_key(),
                authority_epoch: 1,
                tenant: self.manifest.tenant.clone(),
                entry: entry.clone(),
            };
            Signed::sign(certificate, &authority.identity).signed().clone()
        });
        let (manifest, entry) = (self.manifest.hash(), entry.clone());
        Join { manifest, entry, certificates: certificates.collect() }.signed(identity)
    }

    fn deliver(&mut self) {
        if self.parcels.is_empty() {
            return;
        }
        let index = self.rng.next_u32() as usize % self.parcels.len();
        let parcel = self.parcels.swap_remove(index);
        match parcel {
            Parcel::ToAggregator(message) => {
                if self.percent(self.plan.faults.repeat) {
                    self.parcels.push(Parcel::ToAggregator(message.clone()));
                }
                // Out of order, some messages are refused and sent again; nobody here lies.
                let refused = self.aggregator_event(aggregator::Event::Message(Box::new(message)));
                if let Some(refusal) = refused {
                    assert!(refusal.culprits.is_empty(), "{refusal}: {:?}", refusal.culprits);
                }
            }
            Parcel::ToAuthority(index, message) => {
                if self.percent(self.plan.faults.repeat) {
                    self.parcels.push(Parcel::ToAuthority(index, message.clone()));
                }
                let _ = self.authority_message(index, message);
            }
        }
    }

    fn step(&mut self) {
        self.now_ms += 10;
        let count = self.parties.len();
        match self.rng.next_u32() % 8 {
            0..=2 => {
                let index = self.rng.next_u32() as usize % count;
                self.look(index);
            }
            3 => self.pump(),
            // A look may send a message to every other party.
            _ => (0..4).for_each(|_| self.deliver()),
        }
        if self.rng.next_u32() % 1000 < self.plan.faults.away {
            let index = 1 + self.rng.next_u32() as usize % (count - 1);
            let until = self.now_ms + u64::from(self.rng.next_u32() % 22_000);
            if let Some(party) = self.parties.get_mut(index) {
                party.away_until = until;
            }
        }
        if self.job().deadline_ms().is_some_and(|at| self.now_ms >= at) {
            self.aggregator_event(aggregator::Event::Wake);
        }
    }

    /// The same training on joined plaintext rows, batch by batch: a second, plain computation of
    /// scores and products, in wide integers.
    fn twin(&self) -> (Vec<(Name, Hash)>, Scores) {
        let spec = spec_of(&self.manifest);
        let outputs = spec.outputs();
        let holder = self.parties.first();
        let Some((holder, targets)) = holder.and_then(|h| Some((h, h.targets.as_ref()?))) else {
            return (Vec::new(), BTreeMap::new());
        };
        let own = Own { me: &holder.name, identity: &holder.identity, manifest: &self.manifest };
        let mut models: Vec<Weights> = self
            .parties
            .iter()
            .enumerate()
            .map(|(i, party)| {
                let own =
                    Own { me: &party.name, identity: &party.identity, manifest: &self.manifest };
                let columns = party.features.columns();
                Weights::initial(&own.weights_seed(), columns, outputs, i == 0)
            })
            .collect();
        let score = |models: &[Weights], roster: &[Name], row: u32, output: usize| -> i64 {
            let mut sum = 0i128;
            for (party, model) in self.parties.iter().zip(models) {
                if !roster.contains(&party.name) {
                    continue;
                }
                for (j, x) in party.features.row(row).iter().enumerate() {
                    let weight = model.fixed().get(j * outputs + output).copied().unwrap_or(0);
                    sum += i128::from(*x) * i128::from(weight);
                }
                let bias = model.bias().get(output).copied().unwrap_or(0);
                sum += i128::from(bias) << FEATURE_BITS;
            }
            i64::try_from(sum).unwrap_or_else(|_| panic!("a score leaves 64 bits"))
        };
        for batch in &self.opened {
            let mut scores = Vec::new();
            for output in 0..outputs {
                for row in &batch.rows {
                    scores.push(score(&models, &batch.roster, *row, output));
                }
            }
            let seed = own.noise_seed(batch.fields.position());
            let residuals = residuals(spec, targets, &batch.rows, &scores, &seed)
                .unwrap_or_else(|e| panic!("{e}"));
            for (party, model) in self.parties.iter().zip(&mut models) {
                if !batch.roster.contains(&party.name) {
                    continue;
                }
                let mut products = Vec::new();
                for j in 0..party.features.columns() {
                    for own in residuals.chunks(batch.rows.len()) {
                        let sum: i128 = batch
                            .rows
                            .iter()
                            .zip(own)
                            .map(|(row, u)| {
                                let x = party.features.row(*row).get(j).copied().unwrap_or(0);
                                i128::from(x) * i128::from(*u)
                            })
                            .sum();
                        products.push(i64::try_from(sum).unwrap_or_else(|_| panic!("too wide")));
                    }
                }
                model.step(spec, batch.rows.len(), &products, &residuals);
            }
        }
        let all: Vec<Name> = self
            .scores_roster()
            .unwrap_or_else(|| self.parties.iter().map(|party| party.name.clone()).collect());
        let without = self.plan.rows.1;
        let ids = holder.aligned.as_ref().map_or(&[][..], |(ids, _)| ids.as_slice());
        let scores = (0u32..)
            .zip(ids)
            .filter(|(_, id)| **id < without)
            .flat_map(|(row, _)| (0u32..).take(outputs).map(move |output| (row, output)))
            .map(|(row, output)| ((row, output), score(&models, &all, row, output as usize)))
            .collect();
        let hashes = self
            .parties
            .iter()
            .zip(&models)
            .map(|(party, model)| (party.name.clone(), model.hash()))
            .collect();
        (hashes, scores)
    }

    /// Who took part in the scoring epoch.
    fn scores_roster(&self) -> Option<Vec<Name>> {
        let machine: PartyJob = load(self.parties.first()?.machine.as_deref()?);
        machine.roster()
    }
}

fn spec_of(manifest: &Manifest) -> &VerticalSpec {
    spec(manifest).unwrap_or_else(|_| unreachable!("a vertical job"))
}

fn cx_now<'a>(cx: &'a mut Context<'_>, now_ms: u64) -> Context<'a> {
    Context { now_ms, identity: cx.identity, rng: &mut *cx.rng }
}

/// A job's manifest and its parties, the label holder first.
#[must_use]
pub fn job(seed: u64, plan: Plan) -> (Manifest, Vec<RosterEntry>) {
    let world = World::new(seed, plan);
    (world.manifest, world.parties.into_iter().map(|party| party.entry).collect())
}

/// What a passive party says of a label holder that seals other rows to train on to it than it bound
/// itself to, but as many.
///
/// # Panics
/// When the party accepts them.
#[must_use]
pub fn refusal_of_other_rows(seed: u64, plan: Plan) -> Refusal {
    let (with, without) = plan.rows;
    let world = World::new(seed, plan);
    let [holder, passive, ..] = world.parties.as_slice() else { panic!("two parties") };
    let of = |party: &PartySim,
              act: &dyn Fn(&Own<'_>) -> Vec<Signed<super::messages::SeedShare>>| {
        act(&Own { me: &party.name, identity: &party.identity, manifest: &world.manifest })
    };
    let right = row_bits((0..with + without).map(|row| row < with).collect::<Vec<_>>().into_iter());
    let other =
        row_bits((0..with + without).map(|row| row >= without).collect::<Vec<_>>().into_iter());
    assert_ne!(right, other);
    let salt = Own { me: &holder.name, identity: &holder.identity, manifest: &world.manifest }
        .trained_salt();
    let open = super::messages::EpochOpen {
        manifest: world.manifest.hash(),
        epoch: 0,
        mix: 0,
        align: false,
        roster: world.parties.iter().map(|party| party.entry.clone()).collect(),
        rows: with + without,
        order: Hash([7; 32]),
        split: world.plan.rows,
        trained: super::messages::trained_hash(salt.expose(), &right),
    };
    let open = Signed::sign(open, &world.aggregator_identity);
    let epoch = open.hash();
    let commits: Vec<_> = world
        .parties
        .iter()
        .map(|party| {
            let own = Own { me: &party.name, identity: &party.identity, manifest: &world.manifest };
            Signed::sign(own.commitment(&epoch, 0), &party.identity).signed().clone()
        })
        .collect();
    let shares = |bits: &[u8]| -> Vec<Signed<super::messages::SeedShare>> {
        let sealed = world.parties.iter().flat_map(|party| {
            of(party, &|own| {
                let bits = if party.name == holder.name { bits } else { &[] };
                let shares = own.seed_shares((&epoch, &open), &commits, bits).unwrap();
                shares
                    .into_iter()
                    .filter(|share| share.to == passive.name)
                    .map(|share| Signed::sign(share, &party.identity).signed().clone())
                    .collect()
            })
        });
        sealed.collect()
    };
    let me = Own { me: &passive.name, identity: &passive.identity, manifest: &world.manifest };
    assert!(me.order((&epoch, &open), &commits, &shares(&right), None).is_ok());
    me.order((&epoch, &open), &commits, &shares(&other), None).unwrap_err()
}

/// A party's refusals of an alignment, and of an epoch, in whose roster the aggregator gave the label holder
/// keys of its own.
///
/// # Panics
/// When the party accepts them, or none comes within the steps.
#[must_use]
pub fn refusals_of_other_keys(seed: u64, plan: Plan) -> [Refusal; 2] {
    let mut world = World::new(seed, plan);
    let other = Identity::generate(&mut world.rng);
    let mut refusals = Vec::new();
    for _ in 0..100_000 {
        world.step();
        let Some(party) = world.parties.get(1) else { unreachable!("a passive party") };
        let mut view = world.job().view(&party.name);
        let Some(open) = view.epoch.as_ref().and_then(|open| open.peek().ok()) else { continue };
        let swapped = |open: &super::messages::EpochOpen| {
            let mut open = open.clone();
            open.roster[0].exchange = other.exchange_key();
            Signed::sign(open, &world.aggregator_identity).signed().clone()
        };
        if open.align != refusals.is_empty() || view.certificates.is_empty() {
            continue;
        }
        view.epoch = Some(swapped(&open));
        let refused = match party.machine.as_deref() {
            None => {
                let own =
                    Own { me: &party.name, identity: &party.identity, manifest: &world.manifest };
                align::next(&own, &party.entry, 1, &view).err()
            }
            Some(machine) => {
                let mut rng = ChaCha20Rng::seed_from_u64(0);
                let mut cx =
                    Context { now_ms: world.now_ms, identity: &party.identity, rng: &mut rng };
                let event = party::Event::View(Box::new(view));
                let outputs = load::<PartyJob>(machine).handle(&mut cx, event).unwrap().1;
                outputs.into_iter().find_map(|output| match output {
                    Output::Reject(refusal) => Some(refusal),
                    _ => None,
                })
            }
        };
        refusals.push(refused.unwrap_or_else(|| panic!("keys that nobody certified")));
        if let [first, second] = refusals.as_slice() {
            return [first.clone(), second.clone()];
        }
    }
    panic!("no epoch was opened")
}

/// The aggregator's refusal of a passive party that comes back with other keys once its features are
/// stored under the old ones.
///
/// # Panics
/// When the aggregator takes it, or no features are stored within the steps.
#[must_use]
pub fn refusal_of_rotated_keys(seed: u64, plan: Plan) -> Refusal {
    let mut world = World::new(seed, plan);
    for _ in 0..100_000 {
        world.step();
        if world.job().status().opened > 0 {
            break;
        }
    }
    assert!(world.job().status().opened > 0, "no batch was opened");
    let identity = Identity::generate(&mut world.rng);
    let [_, party, ..] = world.parties.as_slice() else { panic!("two parties") };
    let entry = RosterEntry {
        party: party.name.clone(),
        epoch: party.entry.epoch + 1,
        verify: identity.verify_key(),
        exchange: identity.exchange_key(),
    };
    let join = Box::new(world.join(&entry, &identity));
    let refusal = world.aggregator_event(aggregator::Event::Message(join));
    refusal.unwrap_or_else(|| panic!("the aggregator took other keys"))
}

/// Runs one job to its end.
///
/// # Panics
/// When an invariant breaks, or the job does not end within its steps.
#[must_use]
pub fn run(seed: u64, plan: Plan) -> Report {
    let mut world = World::new(seed, plan);
    let mut steps = 0u32;
    let outcome = loop {
        world.step();
        steps += 1;
        assert!(
            steps < 2_000_000,
            "seed {seed} does not end: {:?}, parties {:?}",
            world.job().status(),
            world
                .parties
                .iter()
                .map(|party| party.machine.as_deref().map(|m| load::<PartyJob>(m).state_name()))
                .collect::<Vec<_>>()
        );
        if let Some(outcome) = world.job().outcome() {
            break outcome.clone();
        }
    };
    // The last gradients are still to be fetched.
    world.plan.faults = Faults::NONE;
    for party in &mut world.parties {
        (party.away_until, party.stale) = (0, None);
    }
    world.parcels.clear();
    for _ in 0..3 {
        (0..world.parties.len()).for_each(|index| {
            let Some(name) = world.parties.get(index).map(|party| party.name.clone()) else {
                return;
            };
            let view = world.job().view(&name);
            world.party_event(index, party::Event::View(Box::new(view)));
        });
    }
    for (party, label, nonce) in &world.nonces {
        let others = world.nonces.iter().filter(|(p, l, _)| p == party && l == label);
        assert!(
            others.count() == 1,
            "{party} used two nonces under a label, one of them {nonce:?}"
        );
    }
    let (twin, twin_scores) = world.twin();
    let mut epochs: Vec<(u32, usize, u32)> = Vec::new();
    for batch in &world.opened {
        match epochs.last_mut() {
            Some(last) if last.0 == batch.fields.epoch => last.2 += 1,
            _ => epochs.push((batch.fields.epoch, batch.roster.len(), 1)),
        }
    }
    let spec = spec_of(&world.manifest);
    Report {
        outcome,
        weights: world.parties.iter().map(|p| (p.name.clone(), p.weights.hash())).collect(),
        twin,
        scores: (world.scores.clone(), twin_scores),
        opened: world.job().status().opened,
        burned: world.burned,
        epochs,
        kept: world.parties.iter().map(|party| party.weights.kept(spec).len()).collect(),
    }
}
