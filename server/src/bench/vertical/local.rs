//! A vertical job within one process: the machines that the services and the SDK drive. Every message is
//! encoded by its sender and decoded by its receiver, every ciphertext is hashed by who sends it, who
//! takes it and who fetches it, and every state is encoded as it would be stored.
//!
//! Not in it: HTTP, disks, failures, and the alignment's cryptography (its messages are): rows are in one
//! order from the start. Passive parties work at the same time, on a thread each.

use std::borrow::Cow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::hint::black_box;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use quorate_client::vertical::twin::Joined;
use quorate_crypto::fixed::FixedPoint;
use quorate_crypto::keys::Identity;
use quorate_crypto::merkle::{CHUNK_BYTES, Hash, hash_parts, leaf_hash, root};
use quorate_crypto::psi::TAG_BYTES;
use quorate_crypto::secret::Secret;
use quorate_crypto::sum::{Label, Nonce, PadSuite, Ring};
use quorate_protocols::enrol::Enrolled;
use quorate_protocols::fedv::aggregator::{self, AggregatorJob, AggregatorOutput};
use quorate_protocols::fedv::align::{self, AlignedRows, Next};
use quorate_protocols::fedv::authority::AuthorityJob;
use quorate_protocols::fedv::linear::{Features, Targets, Weights};
use quorate_protocols::fedv::messages::{
    BatchFields, BatchFreeze, EpochOpen, PartyView, VerticalMessage,
};
use quorate_protocols::fedv::party::{self, Mixed, PartyJob, PartyWork};
use quorate_protocols::fedv::work::{Batch, Order, Own, row_bits, stored_rows, with_stored};
use quorate_protocols::fedv::{PROTOCOL_ID, shape_of, spec};
use quorate_protocols::job::{
    AuthorityKey, Deadlines, JobPackage, MANIFEST_VERSION, Manifest, Minima, Privacy, RosterEntry,
};
use quorate_protocols::machine::{Context, Output, Peer};
use quorate_protocols::round::aggregator::Outcome;
use quorate_protocols::round::messages::{BulkRef, Join, Message, SubmitHeader};
use quorate_protocols::wire::{Name, Signed, decode, encode};
use quorate_protocols::workload::{VerticalSpec, Workload};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;
use serde::Serialize;

use super::super::cpu_ns;

/// Looks of a passive party that one batch may take: one to finish the batch before, one to begin the
/// next, and one to spare.
const LOOKS: usize = 3;
/// Rounds of messages that an alignment or the opening of an epoch may take.
const ROUNDS: usize = 16;

/// Where the rows come from. A job asks for one batch's rows at a time, by their numbers.
pub trait Rows: Sync {
    /// The features of `rows` at the party of this number in the spec's blocks.
    fn features(&self, party: usize, rows: &[u32]) -> Features;

    /// The targets of `rows`.
    fn targets(&self, rows: &[u32]) -> Targets;

    /// Whether the rows are in memory, so that gathering them is the parties' own work.
    fn in_memory(&self) -> bool;
}

/// Who sends what to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// Ciphertexts, their headers, commitments and contributions.
    PassiveToAggregator,
    /// Views with their gradients, and receipts.
    AggregatorToPassive,
    /// Requests for products, and masked gradients.
    HolderToAggregator,
    /// Views with keys, and the passive parties' ciphertexts.
    AggregatorToHolder,
    /// Frozen batches, and requests for products.
    AggregatorToAuthority,
    /// Keys.
    AuthorityToAggregator,
}

/// What a stretch of a job cost. Times are CPU time in nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct Costs {
    /// The label holder's.
    pub holder_ns: u64,
    /// All passive parties'.
    pub passive_ns: u64,
    /// All authorities'.
    pub authority_ns: u64,
    /// The aggregator's.
    pub aggregator_ns: u64,
    /// The longest chain of work that has to be done one after the other: passive parties work at the
    /// same time, and so do authorities.
    pub critical_ns: u64,
    /// Bytes by link, without what HTTP adds.
    pub bytes: BTreeMap<Link, u64>,
}

impl Costs {
    /// All roles together.
    #[must_use]
    pub const fn total_ns(&self) -> u64 {
        self.holder_ns + self.passive_ns + self.authority_ns + self.aggregator_ns
    }

    /// All links together.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.bytes.values().sum()
    }

    fn sent(&mut self, link: Link, bytes: usize) {
        *self.bytes.entry(link).or_default() += bytes as u64;
    }
}

/// A job to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The model and who holds which columns. The order of blocks is that of [`Rows`].
    pub spec: VerticalSpec,
    /// Authorities.
    pub authorities: usize,
    /// Rows, all of which have a label.
    pub rows: u32,
    /// Seed of every key and of all randomness.
    pub seed: u64,
}

/// The rows of the batch in hand.
struct Block {
    position: (u32, u32),
    /// Numbers within [`Block::features`], in order.
    numbers: Vec<u32>,
    features: Features,
    targets: Option<Targets>,
}

/// What the label holder read in the batch in hand.
struct Opening {
    label: Label,
    /// Uncovered.
    uploads: Vec<Vec<u8>>,
    residuals: Secret<Vec<i64>>,
}

struct Member {
    /// Its place in the spec's blocks.
    at: usize,
    name: Name,
    identity: Identity,
    entry: RosterEntry,
    machine: Option<PartyJob>,
    weights: Weights,
    rng: ChaCha20Rng,
    order: Option<(Hash, Arc<Order>)>,
    block: Option<Block>,
    opening: Option<Opening>,
    /// Others' stored features, uncovered, at the label holder.
    stored: BTreeMap<Name, Vec<u8>>,
    upload: Option<Vec<u8>>,
    sent: HashSet<Hash>,
    /// CPU time spent on making rows, which is none of the protocol's.
    rows_ns: u64,
}

/// What every party can reach.
#[derive(Clone, Copy)]
struct Desk<'a> {
    manifest: &'a Manifest,
    rows: &'a dyn Rows,
    aggregator: &'a AggregatorJob,
    /// The ciphertexts of the batch.
    uploads: &'a BTreeMap<Name, Vec<u8>>,
    /// The features that were sent once, where the job has it so.
    stored: &'a BTreeMap<Name, Vec<u8>>,
    trained: &'a [u8],
    /// Rows of the job.
    rows_count: u32,
}

/// What one turn of a party came to.
#[derive(Default)]
struct Turn {
    messages: Vec<Vec<u8>>,
    /// Bytes that the party read.
    read: usize,
    own_ns: u64,
    /// What serving it took the aggregator.
    served_ns: u64,
}

struct Authority {
    name: Name,
    identity: Identity,
    machine: Option<AuthorityJob>,
}

/// One vertical job, all roles of it.
pub struct LocalJob<'a> {
    manifest: Manifest,
    rows: &'a dyn Rows,
    trained: Vec<u8>,
    identity: Identity,
    rng: ChaCha20Rng,
    aggregator: AggregatorJob,
    authorities: Vec<Authority>,
    directory: BTreeMap<Name, RosterEntry>,
    holder: Member,
    passive: Vec<Member>,
    uploads: BTreeMap<Name, Vec<u8>>,
    stored: BTreeMap<Name, Vec<u8>>,
    asked: HashSet<Hash>,
    costs: Costs,
    count: u32,
}

fn name(text: &str) -> anyhow::Result<Name> {
    Ok(Name::new(text)?)
}

fn bulk(bytes: &[u8]) -> BulkRef {
    let leaves: Vec<Hash> = bytes.chunks(CHUNK_BYTES).map(leaf_hash).collect();
    BulkRef { len: bytes.len() as u64, root: root(&leaves) }
}

/// A manifest of this plan by these services.
fn manifest(
    plan: &Plan,
    aggregator: &Identity,
    authorities: &[Authority],
) -> anyhow::Result<Manifest> {
    let authorities = authorities.iter().map(|authority| AuthorityKey {
        name: authority.name.clone(),
        epoch: 1,
        verify: authority.identity.verify_key(),
        exchange: authority.identity.exchange_key(),
    });
    let Hash(salt) = hash_parts("bench salt", &[&plan.seed.to_le_bytes()]);
    Ok(Manifest {
        version: MANIFEST_VERSION,
        tenant: name("bench")?,
        title: "bench".into(),
        salt: *salt.first_chunk().context("a hash has 32 bytes")?,
        aggregator: aggregator.verify_key(),
        authorities: authorities.collect(),
        protocol: PROTOCOL_ID,
        scheme: 1,
        suite: PadSuite::Aes256Ctr,
        ring: Ring::Z64,
        code: FixedPoint { frac_bits: 24, clip: 64.0 },
        max_parties: u32::try_from(plan.spec.blocks.len())?,
        quorum: 2,
        k_min: 2,
        colluders: 0,
        threshold: None,
        privacy: Privacy::None,
        verified_sum: false,
        deadlines: Deadlines {
            collect_ms: 600_000,
            grace_ms: 60_000,
            key_ms: 60_000,
            max_attempts: 3,
        },
        workload: Workload::Vertical(plan.spec.clone()),
    })
}

impl<'a> LocalJob<'a> {
    /// Creates the job, has every authority approve it and every party join it with its rows in one
    /// order, and mixes the order of the first epoch.
    ///
    /// # Errors
    /// What a machine refuses, such as a spec that no manifest may have.
    pub fn open(plan: &Plan, rows: &'a dyn Rows) -> anyhow::Result<Self> {
        let mut rng = ChaCha20Rng::seed_from_u64(plan.seed);
        let identity = Identity::generate(&mut rng);
        let authorities = (0..plan.authorities)
            .map(|i| {
                let name = name(&format!("authority-{i}"))?;
                Ok(Authority { name, identity: Identity::generate(&mut rng), machine: None })
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let manifest = manifest(plan, &identity, &authorities)?;
        let outputs = plan.spec.outputs();
        let mut members = Vec::new();
        for (at, block) in plan.spec.blocks.iter().enumerate() {
            let identity = Identity::generate(&mut rng);
            let name = block.party.clone();
            let own = Own { me: &name, identity: &identity, manifest: &manifest };
            let columns = usize::try_from(block.features())?;
            let holder = name == plan.spec.holder;
            let weights = Weights::initial(&own.weights_seed(), columns, outputs, holder);
            let entry = RosterEntry {
                party: name.clone(),
                epoch: 1,
                verify: identity.verify_key(),
                exchange: identity.exchange_key(),
            };
            members.push(Member {
                at,
                name,
                identity,
                entry,
                machine: None,
                weights,
                rng: ChaCha20Rng::seed_from_u64(plan.seed ^ (at as u64 + 1)),
                order: None,
                block: None,
                opening: None,
                stored: BTreeMap::new(),
                upload: None,
                sent: HashSet::new(),
                rows_ns: 0,
            });
        }
        let directory =
            members.iter().map(|member| (member.name.clone(), member.entry.clone())).collect();
        let at = members.iter().position(|member| member.name == plan.spec.holder);
        let holder = members.remove(at.context("no block of the label holder")?);
        let cx = Context { now_ms: 0, identity: &identity, rng: &mut rng };
        let (aggregator, requests) = AggregatorJob::create(&cx, manifest.clone())?;
        let trained = row_bits((0..plan.rows).map(|_| true));
        let mut job = Self {
            manifest,
            rows,
            trained,
            identity,
            rng,
            aggregator,
            authorities,
            directory,
            holder,
            passive: members,
            uploads: BTreeMap::new(),
            stored: BTreeMap::new(),
            asked: HashSet::new(),
            costs: Costs::default(),
            count: plan.rows,
        };
        job.follow(requests)?;
        job.align()?;
        Ok(job)
    }

    /// The label holder's number among the blocks.
    #[must_use]
    pub const fn holder(&self) -> usize {
        self.holder.at
    }

    /// The weights of every block's party.
    #[must_use]
    pub fn weights(&self) -> Vec<Weights> {
        let mut all: Vec<&Member> = self.passive.iter().chain([&self.holder]).collect();
        all.sort_unstable_by_key(|member| member.at);
        all.into_iter().map(|member| member.weights.clone()).collect()
    }

    /// What was spent since the last call.
    pub fn take_costs(&mut self) -> Costs {
        std::mem::take(&mut self.costs)
    }

    /// One batch from its opening to the label holder's gradients; `None` when the epoch has no more.
    /// The passive parties take theirs at the beginning of the next batch, or in [`LocalJob::finish`].
    ///
    /// # Errors
    /// What a machine refuses: nothing, unless there is a defect.
    pub fn batch(&mut self) -> anyhow::Result<Option<Vec<u32>>> {
        if self.aggregator.outcome().is_some() {
            return Ok(None);
        }
        let counter = self.aggregator.status().batch;
        self.passive_turns()?;
        // Scores are open to the label holder, who asks for products; then it has them.
        for _ in 0..2 {
            self.holder_turn()?;
        }
        let (_, order) = self.holder.order.as_ref().context("no order")?;
        let rows = order.rows(counter).context("no such batch in the order")?.to_vec();
        let after = self.aggregator.status().batch;
        ensure!(
            after == counter + 1 || self.aggregator.outcome().is_some(),
            "batch {counter} is not finished: {:?}",
            self.aggregator.status()
        );
        Ok(Some(rows))
    }

    /// Lets the passive parties take their last gradients.
    ///
    /// # Errors
    /// When the job did not end well.
    pub fn finish(&mut self) -> anyhow::Result<()> {
        ensure!(
            self.aggregator.outcome() == Some(&Outcome::Done),
            "the job is not over: {:?}",
            self.aggregator.status()
        );
        self.passive_turns()
    }

    /// The same batch on joined plaintext rows: moves `models`, every block's weights.
    ///
    /// # Errors
    /// When no sampler has the job's label noise.
    pub fn plain_batch(
        &self,
        models: &mut [Weights],
        position: (u32, u32),
        rows: &[u32],
    ) -> anyhow::Result<()> {
        let Workload::Vertical(spec) = &self.manifest.workload else { bail!("no vertical job") };
        let blocks: Vec<Features> =
            (0..spec.blocks.len()).map(|party| self.rows.features(party, rows)).collect();
        let targets = self.rows.targets(rows);
        let numbers: Vec<u32> = (0..u32::try_from(rows.len())?).collect();
        let joined = Joined { spec, blocks: &blocks, targets: &targets, trained: &numbers };
        let holder = &self.holder;
        let own = Own { me: &holder.name, identity: &holder.identity, manifest: &self.manifest };
        Ok(joined.step(models, &numbers, &own.noise_seed(position))?)
    }

    /// The parties, and what they can reach.
    fn split(&mut self) -> (Desk<'_>, &mut Member, &mut [Member], &mut Costs) {
        let desk = Desk {
            manifest: &self.manifest,
            rows: self.rows,
            aggregator: &self.aggregator,
            uploads: &self.uploads,
            stored: &self.stored,
            trained: &self.trained,
            rows_count: self.count,
        };
        (desk, &mut self.holder, &mut self.passive, &mut self.costs)
    }

    fn aggregate(&mut self, event: aggregator::Event) -> anyhow::Result<Vec<AggregatorOutput>> {
        let mut cx = Context { now_ms: 0, identity: &self.identity, rng: &mut self.rng };
        let (job, outputs) = self.aggregator.clone().handle(&mut cx, event)?;
        black_box(encode(&job));
        self.aggregator = job;
        for output in &outputs {
            if let Output::Reject(refusal) = output {
                bail!("the aggregator refuses: {refusal}");
            }
        }
        Ok(outputs)
    }

    /// Delivers messages to the aggregator, and what follows from them to the authorities.
    fn deliver(&mut self, link: Link, messages: &[Vec<u8>]) -> anyhow::Result<()> {
        let mut outputs = Vec::new();
        for wire in messages {
            self.costs.sent(link, wire.len());
            let start = cpu_ns();
            let message = Message::from_wire(wire)?;
            if let Message::Submit(header) = &message {
                self.take_upload(header)?;
            }
            outputs.extend(self.aggregate(aggregator::Event::Message(Box::new(message)))?);
            let spent = cpu_ns() - start;
            self.costs.aggregator_ns += spent;
            self.costs.critical_ns += spent;
        }
        self.follow(outputs)
    }

    /// The bytes that a header announces.
    /// Bytes of the features that were sent once, by all passive parties.
    #[must_use]
    pub fn stored_bytes(&self) -> usize {
        self.stored.values().map(Vec::len).sum()
    }

    fn take_upload(
        &mut self,
        header: &Signed<quorate_protocols::round::messages::SubmitHeader>,
    ) -> anyhow::Result<()> {
        let header = self.aggregator.admit(header)?;
        let member = self.passive.iter_mut().find(|member| member.name == header.party);
        // Tags are not made here: their header alone is delivered.
        let features =
            member.as_deref().and_then(|m| m.machine.as_ref()).map(PartyJob::features_label);
        if let Some(words) = member.and_then(|member| member.upload.take()) {
            let chunks = words.len().div_ceil(CHUNK_BYTES);
            self.costs.sent(Link::PassiveToAggregator, words.len() + 32 * chunks);
            ensure!(bulk(&words) == header.ciphertext, "another ciphertext than announced");
            let kept =
                if features == Some(header.label) { &mut self.stored } else { &mut self.uploads };
            kept.insert(header.party.clone(), words);
        }
        Ok(())
    }

    fn follow(&mut self, outputs: Vec<AggregatorOutput>) -> anyhow::Result<()> {
        let (mut replies, mut slowest) = (Vec::new(), 0);
        for output in outputs {
            match output {
                Output::Send { to: Peer::Authority(to), message } => {
                    let wire = message.to_wire();
                    let key = hash_parts("asked", &[to.as_str().as_bytes(), &wire]);
                    if !self.asked.insert(key) {
                        continue;
                    }
                    self.costs.sent(Link::AggregatorToAuthority, wire.len());
                    let authority = self.authorities.iter_mut().find(|known| known.name == to);
                    let authority = authority.context("no such authority")?;
                    let start = cpu_ns();
                    let reply = authority.answer(&wire, &self.directory, &mut self.rng)?;
                    let spent = cpu_ns() - start;
                    self.costs.authority_ns += spent;
                    slowest = spent.max(slowest);
                    replies.push(reply);
                }
                Output::Send { to: Peer::Party(party), message: message @ Message::Receipt(_) } => {
                    let wire = message.to_wire();
                    self.costs.sent(Link::AggregatorToPassive, wire.len());
                    self.received(&party, &wire)?;
                }
                Output::Work(work) => {
                    let len = u64::from(self.count) * TAG_BYTES as u64;
                    let common = BulkRef { len, root: Hash([1; 32]) };
                    let (label, outcome) = (work.label, Ok(common));
                    let more = self.aggregate(aggregator::Event::Intersected { label, outcome })?;
                    self.follow(more)?;
                }
                _ => {}
            }
        }
        self.costs.critical_ns += slowest;
        if replies.is_empty() {
            Ok(())
        } else {
            self.deliver(Link::AuthorityToAggregator, &replies)
        }
    }

    /// A receipt reaches its party.
    fn received(&mut self, party: &Name, wire: &[u8]) -> anyhow::Result<()> {
        let start = cpu_ns();
        let Message::Receipt(receipt) = Message::from_wire(wire)? else { bail!("no receipt") };
        let receipt = receipt.verify(&self.manifest.aggregator)?;
        let event = party::Event::Received { label: receipt.label };
        let member = self.passive.iter_mut().find(|member| member.name == *party);
        if let Some(member) = member.filter(|member| member.machine.is_some()) {
            member.event(event)?;
            self.costs.passive_ns += cpu_ns() - start;
        }
        Ok(())
    }

    /// Joins every party, and goes through the messages of an alignment and of the epoch's opening.
    fn align(&mut self) -> anyhow::Result<()> {
        let package = JobPackage {
            manifest: self.manifest.clone(),
            approvals: self.aggregator.approvals().context("not approved")?,
        };
        for at in 0..=self.passive.len() {
            let join = self.join(self.member(at))?.to_wire();
            self.deliver(Link::PassiveToAggregator, &[join])?;
        }
        for _ in 0..ROUNDS {
            for at in 0..=self.passive.len() {
                if self.aggregator.status().phase == "collecting" {
                    return Ok(());
                }
                let messages = match self.member(at).machine {
                    Some(_) => self.take_turn(at)?.messages,
                    None => self.align_member(at, &package)?,
                };
                self.deliver(Link::PassiveToAggregator, &messages)?;
            }
        }
        bail!("no epoch was opened: {:?}", self.aggregator.status())
    }

    /// The label holder is the first.
    fn member(&self, at: usize) -> &Member {
        at.checked_sub(1).and_then(|at| self.passive.get(at)).unwrap_or(&self.holder)
    }

    fn join(&self, member: &Member) -> anyhow::Result<Message> {
        let certificates = self.authorities.iter().map(|authority| {
            let certificate = Enrolled {
                authority: authority.name.clone(),
                verify: authority.identity.verify_key(),
                exchange: authority.identity.exchange_key(),
                authority_epoch: 1,
                tenant: self.manifest.tenant.clone(),
                entry: member.entry.clone(),
            };
            Signed::sign(certificate, &authority.identity).signed().clone()
        });
        let (manifest, entry) = (self.manifest.hash(), member.entry.clone());
        let join = Join { manifest, entry, certificates: certificates.collect() };
        Ok(join.signed(&member.identity))
    }

    fn align_member(&mut self, at: usize, package: &JobPackage) -> anyhow::Result<Vec<Vec<u8>>> {
        let member = self.member(at);
        let own = Own { me: &member.name, identity: &member.identity, manifest: &self.manifest };
        let view = self.aggregator.view(&member.name);
        let tags = BulkRef { len: u64::from(self.count) * TAG_BYTES as u64, root: Hash([1; 32]) };
        match align::next(&own, &member.entry, self.count, &view)? {
            Next::Wait => Ok(Vec::new()),
            Next::Send(messages) => Ok(messages.iter().map(Message::to_wire).collect()),
            Next::Tags(next) => {
                let nonce = Nonce([2; 16]);
                let header = align::tags_header(&own, &member.entry, next.label, nonce, tags);
                Ok(vec![Message::Submit(header).to_wire()])
            }
            Next::Align(tags, _) => {
                let order = hash_parts("bench order", &[&self.manifest.hash().0]);
                let holder = at == 0;
                let trained = if holder { self.trained.clone() } else { Vec::new() };
                let member = match at.checked_sub(1) {
                    Some(at) => self.passive.get_mut(at).context("no such party")?,
                    None => &mut self.holder,
                };
                let cx = Context { now_ms: 0, identity: &member.identity, rng: &mut member.rng };
                let entry = member.entry.clone();
                let rows = AlignedRows { count: self.count, order, holder: tags.holder };
                let minima = Minima::default();
                let (machine, _) =
                    PartyJob::join(&cx, entry, &minima, package.clone(), rows, trained)?;
                let ready = VerticalMessage::Ready(machine.ready().signed().clone());
                member.machine = Some(machine);
                Ok(vec![Message::Vertical(ready).to_wire()])
            }
        }
    }

    /// One look of one party, and what it sends.
    fn take_turn(&mut self, at: usize) -> anyhow::Result<Turn> {
        let (desk, holder, passive, costs) = self.split();
        let turn = match at.checked_sub(1) {
            Some(at) => passive.get_mut(at).context("no such party")?.turn(desk)?,
            None => holder.turn(desk)?,
        };
        let link = if at == 0 { Link::AggregatorToHolder } else { Link::AggregatorToPassive };
        costs.sent(link, turn.read);
        costs.aggregator_ns += turn.served_ns;
        let total = if at == 0 { &mut costs.holder_ns } else { &mut costs.passive_ns };
        *total += turn.own_ns;
        Ok(turn)
    }

    fn holder_turn(&mut self) -> anyhow::Result<()> {
        let turn = self.take_turn(0)?;
        self.costs.critical_ns += turn.own_ns + turn.served_ns;
        self.deliver(Link::HolderToAggregator, &turn.messages)
    }

    /// All passive parties at the same time: what is left of the batch before, then this one's ciphertext.
    fn passive_turns(&mut self) -> anyhow::Result<()> {
        let (desk, _, passive, costs) = self.split();
        let turns: Vec<anyhow::Result<Vec<Turn>>> = std::thread::scope(|scope| {
            let threads: Vec<_> = passive
                .iter_mut()
                .map(|member| {
                    scope.spawn(move || {
                        let mut turns = Vec::new();
                        for _ in 0..LOOKS {
                            turns.push(member.turn(desk)?);
                            let idle = desk.aggregator.outcome().is_some();
                            if member.upload.is_some() || idle {
                                return Ok(turns);
                            }
                        }
                        bail!("{} does not submit", member.name)
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| {
                    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
                .collect()
        });
        let (mut messages, mut slowest) = (Vec::new(), 0);
        for turns in turns {
            let mut spent = 0;
            for turn in turns? {
                costs.sent(Link::AggregatorToPassive, turn.read);
                costs.aggregator_ns += turn.served_ns;
                costs.passive_ns += turn.own_ns;
                spent += turn.own_ns + turn.served_ns;
                messages.extend(turn.messages);
            }
            slowest = spent.max(slowest);
        }
        costs.critical_ns += slowest;
        self.uploads.clear();
        self.deliver(Link::PassiveToAggregator, &messages)
    }
}

impl Authority {
    fn answer(
        &mut self,
        wire: &[u8],
        directory: &BTreeMap<Name, RosterEntry>,
        rng: &mut ChaCha20Rng,
    ) -> anyhow::Result<Vec<u8>> {
        let message = Message::from_wire(wire)?;
        let mut cx = Context { now_ms: 0, identity: &self.identity, rng };
        let (job, outputs) = match (&self.machine, message) {
            (None, Message::Register(manifest)) => {
                AuthorityJob::register(&cx, &self.name, 1, &Minima::default(), *manifest)?
            }
            (None, _) => bail!("no job at {}", self.name),
            (Some(machine), message) => machine.clone().handle(&mut cx, directory, message)?,
        };
        black_box(encode(&job));
        self.machine = Some(job);
        for output in outputs {
            match output {
                Output::Send { message, .. } => return Ok(message.to_wire()),
                Output::Reject(refusal) => bail!("{} refuses: {refusal}", self.name),
                _ => {}
            }
        }
        bail!("{} gives no answer", self.name)
    }
}

impl Member {
    /// A look at the aggregator, the work that follows, and the messages that come of it.
    fn turn(&mut self, desk: Desk<'_>) -> anyhow::Result<Turn> {
        let start = cpu_ns();
        let view = encode(&desk.aggregator.view(&self.name));
        // By this mark the service knows whether anything changed since the last look.
        black_box(hash_parts("view", &[&view]));
        let served_ns = cpu_ns() - start;
        let start = cpu_ns();
        self.rows_ns = 0;
        let mut turn = Turn { read: view.len(), served_ns, ..Turn::default() };
        let view: PartyView = decode(&view)?;
        let mut todo = VecDeque::from(self.event(party::Event::View(Box::new(view)))?);
        while let Some(output) = todo.pop_front() {
            match output {
                Output::Send { message, .. } => {
                    let wire = message.to_wire();
                    if self.sent.insert(hash_parts("sent", &[&wire])) {
                        turn.messages.push(wire);
                    }
                }
                Output::Work(work) => {
                    let event = self.work(desk, work, &mut turn.read)?;
                    todo.extend(self.event(event)?);
                }
                Output::Reject(refusal) => bail!("{} refuses: {refusal}", self.name),
                _ => {}
            }
        }
        turn.own_ns = cpu_ns() - start - self.rows_ns;
        Ok(turn)
    }

    fn event(&mut self, event: party::Event) -> anyhow::Result<Vec<party::PartyOutput>> {
        let machine = self.machine.as_ref().context("not joined")?.clone();
        let mut cx = Context { now_ms: 0, identity: &self.identity, rng: &mut self.rng };
        let (next, outputs) = machine.handle(&mut cx, event)?;
        black_box(encode(&next));
        self.machine = Some(next);
        Ok(outputs)
    }

    fn work(
        &mut self,
        desk: Desk<'_>,
        work: PartyWork,
        read: &mut usize,
    ) -> anyhow::Result<party::Event> {
        let manifest = desk.manifest;
        if let PartyWork::EncryptFeatures { label, nonce, holder } = work {
            let rows: Vec<u32> = (0..desk.rows_count).collect();
            let features = desk.rows.features(self.at, &rows);
            let own = Own { me: &self.name, identity: &self.identity, manifest };
            let words = own.encrypt_features((&self.entry, &holder), (label, nonce), &features)?;
            let ciphertext = bulk(&words);
            self.upload = Some(words);
            return Ok(party::Event::Encrypted { label, ciphertext });
        }
        let (epoch, fields) = match &work {
            PartyWork::Encrypt { epoch, fields, .. }
            | PartyWork::Apply { epoch, fields, .. }
            | PartyWork::Open { epoch, fields, .. }
            | PartyWork::Combine { epoch, fields, .. } => (epoch, *fields),
            PartyWork::EncryptFeatures { .. } => bail!("features were encrypted above"),
        };
        let open = self.prepare(desk, epoch, &fields)?;
        let Self { name, identity, block, weights, opening, order, stored, .. } = self;
        let own = Own { me: name, identity, manifest };
        let block = block.as_ref().context("no rows")?;
        let label = fields.label(manifest);
        let batch = Batch { fields: &fields, label, rows: &block.numbers };
        Ok(match work {
            PartyWork::EncryptFeatures { .. } => bail!("features were encrypted above"),
            PartyWork::Encrypt { nonce, .. } => {
                let data = (&block.features, &*weights);
                let words = own.encrypt(&open.roster, &batch, nonce, data)?;
                let ciphertext = bulk(&words);
                self.upload = Some(words);
                party::Event::Encrypted { label, ciphertext }
            }
            PartyWork::Apply { nonce, gradient, .. } => {
                let data = (&block.features, weights);
                own.apply(&open.roster, &batch, nonce, data, &gradient)?;
                black_box(encode(&self.weights));
                party::Event::Applied { label }
            }
            PartyWork::Open { freeze, keys, .. } => {
                let uploads = fetch(desk, (&own, &open.roster), &freeze, read)?;
                let parts: Vec<&[u8]> = uploads.iter().map(Vec::as_slice).collect();
                let scores = own.open(&batch, (&block.features, &*weights), &parts, &keys)?;
                let targets = block.targets.as_ref().context("no targets")?;
                let residuals = own.residuals(&batch, targets, &scores)?;
                // Rows are made for one batch at a time; authorities are told their true numbers.
                let (_, order) = order.as_ref().context("no order")?;
                let rows = order.rows(fields.counter).context("no such batch in the order")?;
                let named = Batch { rows, ..batch };
                let asks = own.product_asks(&open.roster, &named, &residuals)?;
                let residuals = Secret::new(residuals.to_vec());
                *opening = Some(Opening { label, uploads, residuals });
                party::Event::Opened { label, asks }
            }
            PartyWork::Combine { freeze, product_keys, .. } => {
                let known = opening.as_ref().filter(|opening| opening.label == label);
                let Opening { uploads, residuals, .. } = known.context("not opened")?;
                let residuals = residuals.expose();
                let frozen = freeze.peek()?;
                let batch_open = frozen.open.peek()?;
                let (_, order) = order.as_ref().context("no order")?;
                let rows = order.rows(fields.counter).context("no such batch in the order")?;
                uncover_stored(desk, (&own, &open.roster), &frozen, stored)?;
                let whole = with_features(desk, uploads, stored, &frozen, &fields, rows)?;
                let parts: Vec<&[u8]> = whole.iter().map(AsRef::as_ref).collect();
                let pair = (&batch_open, &frozen);
                let gradients = own.gradients(&open, pair, &parts, residuals, &product_keys)?;
                own.step_holder(&batch, (&block.features, weights), residuals)?;
                black_box(encode(&self.weights));
                party::Event::Combined { label, gradients }
            }
        })
    }

    /// Checks the epoch, and has its order and this batch's rows at hand.
    fn prepare(
        &mut self,
        desk: Desk<'_>,
        epoch: &Mixed,
        fields: &BatchFields,
    ) -> anyhow::Result<EpochOpen> {
        let open = epoch.open.verify(&desk.manifest.aggregator)?;
        let hash = open.hash();
        let order = match &self.order {
            Some((of, order)) if *of == hash => Arc::clone(order),
            _ => {
                let own = Own { me: &self.name, identity: &self.identity, manifest: desk.manifest };
                let holder = self.machine.as_ref().and_then(PartyJob::trained).is_some();
                let trained = holder.then_some(desk.trained);
                let order = own.order((&hash, &open), &epoch.commits, &epoch.shares, trained)?;
                let order = Arc::new(order);
                self.order = Some((hash, Arc::clone(&order)));
                order
            }
        };
        let position = fields.position();
        if self.block.as_ref().is_none_or(|block| block.position != position) {
            let start = cpu_ns();
            let rows = order.rows(fields.counter).context("no such batch in the order")?;
            let holder = self.machine.as_ref().and_then(PartyJob::trained).is_some();
            self.block = Some(Block {
                position,
                numbers: (0..u32::try_from(rows.len())?).collect(),
                features: desk.rows.features(self.at, rows),
                targets: holder.then(|| desk.rows.targets(rows)),
            });
            if !desk.rows.in_memory() {
                self.rows_ns += cpu_ns() - start;
            }
        }
        Ok((*open).clone())
    }
}

/// The ciphertexts of a frozen batch, checked as they are fetched and uncovered.
fn fetch(
    desk: Desk<'_>,
    (own, roster): (&Own<'_>, &[RosterEntry]),
    freeze: &Signed<BatchFreeze>,
    read: &mut usize,
) -> anyhow::Result<Vec<Vec<u8>>> {
    let frozen = freeze.peek()?;
    let mut parts = Vec::with_capacity(frozen.members.len());
    for header in &frozen.members {
        let header = header.peek()?;
        let mut words = desk.uploads.get(&header.party).context("a ciphertext is missing")?.clone();
        ensure!(bulk(&words) == header.ciphertext, "another ciphertext than frozen");
        *read += words.len() + 32 * words.len().div_ceil(CHUNK_BYTES);
        own.uncover(roster, &header, (0, &mut words))?;
        parts.push(words);
    }
    Ok(parts)
}

/// Features that were sent once are uncovered once.
fn uncover_stored(
    desk: Desk<'_>,
    (own, roster): (&Own<'_>, &[RosterEntry]),
    frozen: &BatchFreeze,
    stored: &mut BTreeMap<Name, Vec<u8>>,
) -> anyhow::Result<()> {
    for header in &frozen.features {
        let header = header.peek()?;
        if let Entry::Vacant(place) = stored.entry(header.party.clone()) {
            let words = desk.stored.get(&header.party).context("no stored features")?;
            let mut words = words.clone();
            own.uncover(roster, &header, (0, &mut words))?;
            place.insert(words);
        }
    }
    Ok(())
}

/// The ciphertexts of a frozen batch, with the batch's rows of features that were sent once.
fn with_features<'a>(
    desk: Desk<'_>,
    uploads: &'a [Vec<u8>],
    stored: &BTreeMap<Name, Vec<u8>>,
    frozen: &BatchFreeze,
    fields: &BatchFields,
    rows: &[u32],
) -> anyhow::Result<Vec<Cow<'a, [u8]>>> {
    if frozen.features.is_empty() {
        return Ok(uploads.iter().map(|words| Cow::Borrowed(words.as_slice())).collect());
    }
    let whole = |(upload, header): (&Vec<u8>, &Signed<SubmitHeader>)| {
        let party = header.peek()?.party;
        let stored = stored.get(&party).context("no stored features")?;
        let shape = shape_of(spec(desk.manifest)?, fields, &party, upload.len() as u64)?;
        let features = stored_rows(&shape, stored, rows)?;
        Ok(Cow::Owned(with_stored(&shape, upload, &features)?))
    };
    uploads.iter().zip(&frozen.features).map(whole).collect()
}
