//! The clock, the network and the disks of one run.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use quorate_crypto::merkle::Hash;
use quorate_crypto::schemes;
use quorate_crypto::sum::Label;
use rand_chacha::ChaCha20Rng;

use super::audit::Audit;
use super::lab::{Kind, Lab, Size, draw, stream};
use super::liar::{HolderLie, Lies};
use crate::job::{Privacy, RosterEntry, ThresholdSpec};
use crate::model::ModelState;
use crate::policy::{Charge, Ledger};
use crate::refusal::{Code, Culprit, Refusal};
use crate::round::aggregator::{AggregatorJob, Outcome};
use crate::round::authority::{AuthorityJob, ComputeKey};
use crate::round::keying::PostWork;
use crate::round::messages::ResultRecord;
use crate::round::party::PartyJob;
use crate::wire::{self, Name};

/// Who acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Node {
    /// The aggregator.
    Aggregator,
    /// An authority, in manifest order.
    Authority(usize),
    /// A party, by name.
    Party(usize),
}

/// What survives a crash.
#[derive(Debug, Default)]
pub struct Disk {
    /// The last committed state.
    pub state: Option<Vec<u8>>,
    /// Bulk objects by root, durable before the state that names them.
    pub blobs: BTreeMap<Hash, Vec<u8>>,
    /// What posts to a threshold key left, by call and step, committed with the post.
    pub secrets: BTreeMap<(Hash, u16), Vec<u8>>,
    /// The ledger of the job's data set, committed with the state.
    pub ledger: Ledger,
}

impl Disk {
    /// What the last post before `step` left; empty at first.
    #[must_use]
    pub fn secret(&self, call: Hash, step: u16) -> Vec<u8> {
        let kept = self.secrets.range((call, 0)..(call, step)).next_back();
        kept.map(|(_, secret)| secret.clone()).unwrap_or_default()
    }
}

/// One role's process.
#[derive(Debug, Default)]
pub struct Process {
    /// Its disk.
    pub disk: Disk,
    /// Counts crashes: what was in memory belongs to one life.
    pub life: u32,
    /// Whether it runs.
    pub up: bool,
    /// Whether heavy work is under way.
    pub working: bool,
}

/// A message on the network.
#[derive(Clone, Debug)]
pub enum Packet {
    /// Aggregator to authority, a control message.
    Request {
        /// Receiver.
        authority: usize,
        /// The message.
        bytes: Vec<u8>,
    },
    /// Authority to aggregator.
    Answer {
        /// Sender.
        authority: usize,
        /// What was asked.
        request: Vec<u8>,
        /// The message.
        bytes: Vec<u8>,
        /// The functional key's bytes, with its message.
        key: Option<Vec<u8>>,
    },
    /// Party to aggregator: what is new since this round?
    Poll {
        /// Sender.
        party: usize,
        /// First round without a result.
        next_round: u32,
        /// Whether it knows the job's threshold key.
        keyed: bool,
    },
    /// Aggregator to party: what a poll finds.
    News {
        /// Receiver.
        party: usize,
        /// The approved job.
        package: Vec<u8>,
        /// The open attempt.
        open: Option<Vec<u8>>,
        /// Records with their sums.
        results: Vec<(Vec<u8>, Vec<u8>)>,
        /// Whether the party is invited next.
        joined: bool,
        /// What was posted to the threshold key.
        key: Option<Vec<u8>>,
        /// What holders are asked.
        ask: Option<Vec<u8>>,
    },
    /// Party to aggregator, a control message.
    Control {
        /// Sender.
        party: usize,
        /// The message.
        bytes: Vec<u8>,
    },
    /// Party to aggregator: 256 bytes of header, then the ciphertext.
    Submit {
        /// Sender.
        party: usize,
        /// Header.
        header: Vec<u8>,
        /// Ciphertext.
        ciphertext: Vec<u8>,
    },
    /// Aggregator to party, a control message.
    Reply {
        /// Receiver.
        party: usize,
        /// The message.
        bytes: Vec<u8>,
    },
    /// Aggregator to holder: its answer arrived.
    Taken {
        /// Receiver.
        party: usize,
        /// The label answered for.
        label: Label,
    },
}

impl Packet {
    const fn to(&self) -> Node {
        match self {
            Self::Request { authority, .. } => Node::Authority(*authority),
            Self::Answer { .. }
            | Self::Poll { .. }
            | Self::Control { .. }
            | Self::Submit { .. } => Node::Aggregator,
            Self::News { party, .. } | Self::Reply { party, .. } | Self::Taken { party, .. } => {
                Node::Party(*party)
            }
        }
    }
}

/// What happens at some time.
#[derive(Clone, Debug)]
pub enum Item {
    /// A packet arrives, or would have.
    Arrive {
        /// The packet.
        packet: Packet,
        /// What the network did to it.
        fault: Option<&'static str>,
    },
    /// Heavy work of one life ends.
    Work {
        /// Whose.
        node: Node,
        /// Its life.
        life: u32,
        /// What.
        work: Work,
    },
    /// A driver's timer.
    Tick {
        /// Whose.
        node: Node,
        /// Its life.
        life: u32,
    },
    /// A process starts (again).
    Start(Node),
    /// A process dies.
    Kill(Node),
    /// A party makes new keys and enrols them at one authority after the other.
    Rotate {
        /// Party.
        party: usize,
        /// Authorities done.
        done: usize,
    },
    /// A holder is gone for good, once its share of the threshold key is in this state.
    Lose {
        /// Party.
        party: usize,
        /// State, as [`World::holder_state`] names it.
        state: &'static str,
    },
    /// The operator cancels the job.
    Cancel,
    /// The liar acts.
    Lie,
    /// An authority's clock is set right.
    Clocks,
}

/// Heavy work.
#[derive(Clone, Debug)]
pub enum Work {
    /// Aggregator.
    Open(crate::round::aggregator::OpenSum),
    /// Authority.
    Key(ComputeKey, Vec<u8>),
    /// Authority.
    Post(PostWork, Vec<u8>),
    /// Party.
    Party(crate::round::party::PartyWork),
}

/// A rotation under way.
pub struct Rotation {
    /// The keys before.
    pub keys: super::lab::PartyKeys,
}

/// One run.
pub struct World {
    /// Keys and manifest.
    pub lab: Lab,
    /// Invariants and coverage.
    pub audit: Audit,
    /// Randomness of the schedule.
    pub rng: ChaCha20Rng,
    /// Randomness of the machines.
    pub nonces: ChaCha20Rng,
    /// Now.
    pub now_ms: u64,
    /// Faults end here.
    pub calm_ms: u64,
    /// Error of each authority's clock.
    pub skew_ms: Vec<u64>,
    /// The processes.
    pub processes: BTreeMap<Node, Process>,
    /// Rotations: keys before, until every authority certified the new ones.
    pub rotations: BTreeMap<usize, Rotation>,
    /// Lies of this run.
    pub lies: Lies,
    /// Probability of a fault per event, in 1/1000.
    pub trouble: u64,
    /// Sums opened: round -> bytes.
    pub sums: BTreeMap<u32, Vec<u8>>,
    /// What a post leaves, until the event that brings it is committed.
    pub(super) kept: Option<((Hash, u16), Vec<u8>)>,
    /// Whose data set has budget left for how many rounds, if not for all.
    pub(super) short: Option<(Node, u32)>,
    /// Parties that were, or will be, away for a while.
    away: BTreeSet<usize>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    items: BTreeMap<u64, Item>,
    count: u64,
    cancelled: bool,
    /// When the job's outcome was committed.
    over_ms: Option<u64>,
}

impl core::fmt::Debug for World {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("World").field("now_ms", &self.now_ms).finish_non_exhaustive()
    }
}

/// The threshold scheme that runs use: the first one, whose keys are made fast.
#[must_use]
pub fn threshold_scheme() -> Option<u16> {
    schemes::threshold().first().map(|scheme| scheme.info().id)
}

/// Simulated time of the start.
pub const START_MS: u64 = 1_000_000;
/// How long a run goes on after its job ended.
const LINGER_MS: u64 = 150;
/// Longest run.
const END_MS: u64 = START_MS + 120_000;

impl World {
    /// The run of a seed, before its first event.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut rng = stream(seed, "schedule", &[]);
        // One thread of two runs them all: the scheme keeps the tables of its last key.
        let keyed = if seed % 4 == 1 { threshold_scheme() } else { None };
        let parties = draw(&mut rng, 3, if keyed.is_some() { 5 } else { 8 });
        let colluders = draw(&mut rng, 0, 1).min(parties - 3);
        let quorum = draw(&mut rng, 2, parties - 1);
        let number = |drawn: u64| u32::try_from(drawn).unwrap();
        let mut size = Size {
            parties: number(parties),
            authorities: number(draw(&mut rng, 1, 4)),
            quorum: number(quorum),
            colluders: number(colluders),
            rounds: number(draw(&mut rng, 2, 3)),
            scheme: 1,
            kind: if draw(&mut rng, 0, 1) == 0 { Kind::Sum } else { Kind::Train },
            threshold: None,
            budget: None,
        };
        if let Some(scheme) = keyed {
            let holders = draw(&mut rng, colluders + 1, parties - 1);
            let threshold = draw(&mut rng, colluders + 1, holders);
            (size.authorities, size.scheme, size.kind) = (1, scheme, Kind::Sum);
            size.threshold =
                Some(ThresholdSpec { holders: number(holders), threshold: number(threshold) });
        }
        if size.kind == Kind::Sum && draw(&mut rng, 0, 2) == 0 {
            size.budget = Some(size.rounds);
        }
        let lab = Lab::new(seed, &size);
        let lies = Lies::plan(&mut rng, &lab);
        let trouble = match keyed {
            None => [0, 10, 40, 90],
            Some(_) => [0, 40, 90, 130],
        }[usize::try_from(draw(&mut rng, 0, 3)).unwrap()];
        let mut world = Self::of(lab, lies, trouble, rng);
        world.plan();
        world
    }

    /// A run without faults, in which the first party lies as holder of the threshold key.
    #[must_use]
    pub fn calm(lab: Lab, lie: HolderLie) -> Self {
        let rng = stream(lab.seed, "schedule", &[]);
        let mut world = Self::of(lab, Lies::of_holder(lie), 0, rng);
        world.start();
        world
    }

    fn of(lab: Lab, lies: Lies, trouble: u64, rng: ChaCha20Rng) -> Self {
        Self {
            audit: Audit::of(lies.liar(&lab)),
            skew_ms: vec![0; lab.authorities.len()],
            nonces: stream(lab.seed, "nonces", &[]),
            lab,
            now_ms: START_MS,
            calm_ms: START_MS + 4_000,
            processes: BTreeMap::new(),
            rotations: BTreeMap::new(),
            lies,
            trouble,
            sums: BTreeMap::new(),
            kept: None,
            short: None,
            away: BTreeSet::new(),
            queue: BinaryHeap::new(),
            items: BTreeMap::new(),
            count: 0,
            cancelled: false,
            over_ms: None,
            rng,
        }
    }

    fn chance(&mut self, percent: u64) -> bool {
        draw(&mut self.rng, 0, 99) < percent
    }

    /// Starts every process.
    fn start(&mut self) {
        let mut nodes = vec![Node::Aggregator];
        nodes.extend((0..self.lab.authorities.len()).map(Node::Authority));
        nodes.extend((0..self.lab.parties.len()).map(Node::Party));
        for node in nodes {
            self.processes.entry(node).or_default();
            self.at(0, Item::Start(node));
        }
    }

    /// When each process starts, dies and returns.
    fn plan(&mut self) {
        let n = self.lab.parties.len();
        let floor = self.lab.manifest.floor() as usize;
        self.start();
        let spec = self.lab.manifest.threshold;
        let holders = spec.map_or(0, |spec| spec.holders as usize);
        let mut spare =
            n.saturating_sub(floor.max(holders) + usize::from(self.lies.never_counts()));
        self.plan_budget(&mut spare);
        for party in 0..n {
            if self.chance(12) {
                // Late: the process is not there yet.
                let start = draw(&mut self.rng, 100, 1500);
                self.away.insert(party);
                self.at(0, Item::Kill(Node::Party(party)));
                self.at(start, Item::Start(Node::Party(party)));
            }
            if self.chance(15) {
                let from = draw(&mut self.rng, 50, 2500);
                self.away.insert(party);
                self.at(from, Item::Kill(Node::Party(party)));
                if spare > 0 && self.chance(40) {
                    // Gone for good.
                    spare -= 1;
                } else {
                    let back = from + draw(&mut self.rng, 100, 3000);
                    self.at(back, Item::Start(Node::Party(party)));
                }
            } else if self.chance(10) {
                let when = draw(&mut self.rng, 50, 2500);
                self.away.insert(party);
                self.at(when, Item::Rotate { party, done: 0 });
            } else if spec.is_some() && spare > 0 && self.chance(15) {
                // Gone for good with its share of the key.
                let when = draw(&mut self.rng, 100, 2500);
                spare -= 1;
                self.away.insert(party);
                let state = usize::try_from(draw(&mut self.rng, 0, 3)).unwrap();
                let state = ["Keyed", "Sharing", "Answered", "Taken"][state];
                self.at(when, Item::Lose { party, state });
            }
        }
        for a in 0..self.lab.authorities.len() {
            if self.chance(12) {
                let from = draw(&mut self.rng, 50, 1500);
                self.at(from, Item::Kill(Node::Authority(a)));
                let back = from + draw(&mut self.rng, 200, 4500);
                self.at(back, Item::Start(Node::Authority(a)));
            }
            if self.chance(12) {
                let start = draw(&mut self.rng, 100, 900);
                self.at(0, Item::Kill(Node::Authority(a)));
                self.at(start, Item::Start(Node::Authority(a)));
            }
            if self.chance(6) {
                self.skew_ms[a] = draw(&mut self.rng, 500, 4_000);
            }
        }
        if self.chance(8) {
            let from = draw(&mut self.rng, 50, 2500);
            self.at(from, Item::Kill(Node::Aggregator));
            let back = from + draw(&mut self.rng, 100, 2500);
            self.at(back, Item::Start(Node::Aggregator));
        }
        if self.chance(3) {
            let when = draw(&mut self.rng, 10, 1500);
            self.at(when, Item::Cancel);
        }
        self.at(4_000, Item::Clocks);
        if self.lies.aggregator() {
            self.at(20, Item::Lie);
        }
    }

    /// An earlier job on the same data set left budget for some rounds only, at one authority or at
    /// one party.
    fn plan_budget(&mut self, spare: &mut usize) {
        let Privacy::Noise(noise) = self.lab.manifest.privacy.clone() else { return };
        if !self.chance(30) {
            return;
        }
        let rounds = self.lab.manifest.workload.rounds();
        let left = u32::try_from(draw(&mut self.rng, 0, u64::from(rounds) - 1)).unwrap();
        let node = if *spare > 0 && self.chance(40) {
            *spare -= 1;
            Node::Party(self.lab.parties.len() - 1)
        } else {
            Node::Authority(0)
        };
        let ledger = &mut self.processes.entry(node).or_default().disk.ledger;
        for round in left..rounds {
            let job = Hash([7; 32]);
            ledger.charge(&Charge { job, round, noise: noise.clone() }, None).unwrap();
        }
        self.short = Some((node, left));
    }

    /// Schedules an item.
    pub fn at(&mut self, in_ms: u64, item: Item) {
        self.queue.push(Reverse((self.now_ms + in_ms, self.count)));
        self.items.insert(self.count, item);
        self.count += 1;
    }

    /// Whether a fault strikes now.
    pub fn trouble(&mut self) -> bool {
        self.now_ms < self.calm_ms && draw(&mut self.rng, 0, 999) < self.trouble
    }

    /// Puts a packet on the network, which may lose, repeat or hold it.
    pub fn send(&mut self, packet: Packet) {
        let latency = draw(&mut self.rng, 1, 20);
        if !self.trouble() {
            return self.at(latency, Item::Arrive { packet, fault: None });
        }
        match draw(&mut self.rng, 0, 2) {
            0 => self.at(latency, Item::Arrive { packet, fault: Some("loss") }),
            1 => {
                let again = draw(&mut self.rng, 1, 600);
                self.at(latency, Item::Arrive { packet: packet.clone(), fault: None });
                self.at(again, Item::Arrive { packet, fault: Some("repetition") });
            }
            _ => {
                let late = draw(&mut self.rng, 50, 1200);
                self.at(late, Item::Arrive { packet, fault: Some("delay") });
            }
        }
    }

    /// Role and committed state of a node, for the coverage table.
    #[must_use]
    pub fn state(&self, node: Node) -> (&'static str, &'static str) {
        let state = self.processes[&node].disk.state.as_ref();
        match node {
            Node::Aggregator => {
                let job = state.map(|bytes| super::drivers::load_aggregator(bytes).0);
                ("aggregator", job.map_or("Absent", |job| job.state_name()))
            }
            Node::Authority(_) => {
                let job = state.map(|bytes| wire::decode::<AuthorityJob>(bytes).unwrap());
                ("authority", job.map_or("Unregistered", |job| job.state_name()))
            }
            Node::Party(_) => {
                let job = state.map(|bytes| super::drivers::load_party(bytes).0);
                ("party", job.map_or("Joining", |job| job.state_name()))
            }
        }
    }

    /// A party's job as stored.
    #[must_use]
    pub fn party_job(&self, party: usize) -> Option<PartyJob> {
        let state = self.processes[&Node::Party(party)].disk.state.as_ref()?;
        Some(super::drivers::load_party(state).0)
    }

    /// The aggregator's job as stored.
    #[must_use]
    pub fn aggregator_job(&self) -> Option<AggregatorJob> {
        let state = self.processes[&Node::Aggregator].disk.state.as_ref()?;
        Some(super::drivers::load_aggregator(state).0)
    }

    /// The model the aggregator computed.
    #[must_use]
    pub fn aggregator_model(&self) -> ModelState {
        let state = self.processes[&Node::Aggregator].disk.state.as_ref().unwrap();
        super::drivers::load_aggregator(state).1
    }

    /// Notes a fault at a node, with the state it strikes.
    pub fn strike(&mut self, node: Node, fault: &'static str) {
        let (role, state) = self.state(node);
        self.audit.hit(role, state, fault);
        if let Node::Party(party) = node
            && let Some(state) = self.holder_state(party)
        {
            self.audit.hit("holder", state, fault);
        }
    }

    /// What a party does as participant of the threshold key.
    #[must_use]
    pub fn holder_state(&self, party: usize) -> Option<&'static str> {
        self.party_job(party)?.holder_state_name()
    }

    /// Kills a process; it starts again by itself unless something else was planned.
    pub fn crash(&mut self, node: Node, fault: &'static str) {
        self.strike(node, fault);
        self.kill(node);
        let down = draw(&mut self.rng, 5, 300);
        self.at(down, Item::Start(node));
    }

    fn kill(&mut self, node: Node) {
        let process = self.processes.get_mut(&node).unwrap();
        process.up = false;
        process.life += 1;
        process.working = false;
    }

    /// Runs to the end.
    pub fn run(&mut self) {
        while let Some(Reverse((time, id))) = self.queue.pop() {
            let item = self.items.remove(&id).unwrap();
            let end = if self.lies.must_end() { END_MS } else { self.calm_ms + 2_000 };
            if time > end {
                break;
            }
            self.now_ms = time;
            self.audit.now_ms = time - START_MS;
            self.step(item);
            if !self.audit.violations.is_empty() || (self.over_ms.is_some() && self.settled()) {
                break;
            }
        }
        self.verdict();
    }

    fn step(&mut self, item: Item) {
        match item {
            Item::Arrive { packet, fault } => {
                let node = packet.to();
                if !self.processes[&node].up {
                    return;
                }
                if let Some(fault) = fault {
                    self.strike(node, fault);
                    if fault == "loss" {
                        return;
                    }
                }
                self.arrive(packet);
            }
            Item::Work { node, life, work } => {
                if self.processes[&node].life == life {
                    self.processes.get_mut(&node).unwrap().working = false;
                    self.worked(node, work);
                }
            }
            Item::Tick { node, life } => {
                let process = &self.processes[&node];
                if process.up && process.life == life {
                    self.tick(node);
                    let pause = draw(&mut self.rng, 60, 120);
                    let life = self.processes[&node].life;
                    if self.processes[&node].up {
                        self.at(pause, Item::Tick { node, life });
                    }
                }
            }
            Item::Start(node) => {
                let process = self.processes.get_mut(&node).unwrap();
                if !process.up {
                    process.up = true;
                    let life = process.life;
                    self.started(node);
                    self.at(1, Item::Tick { node, life });
                }
            }
            Item::Kill(node) => self.kill(node),
            Item::Rotate { party, done } => self.rotate(party, done),
            Item::Lose { party, state } => {
                if self.holder_state(party) == Some(state) {
                    self.strike(Node::Party(party), "gone for good");
                    self.kill(Node::Party(party));
                } else if self.now_ms < self.calm_ms {
                    self.at(8, Item::Lose { party, state });
                }
            }
            Item::Cancel => {
                if self.processes[&Node::Aggregator].up {
                    self.cancelled = true;
                    self.cancel();
                }
            }
            Item::Clocks => self.skew_ms.fill(0),
            Item::Lie => {
                self.lie();
                if self.now_ms < self.calm_ms {
                    let pause = draw(&mut self.rng, 5, 60);
                    self.at(pause, Item::Lie);
                }
            }
        }
    }

    /// The job's outcome is committed. An operator who has not seen it may still cancel.
    pub(super) fn over(&mut self) {
        if self.over_ms.is_none() {
            self.over_ms = Some(self.now_ms);
            if self.trouble > 0 {
                for _ in 0..draw(&mut self.rng, 0, 2) {
                    let when = draw(&mut self.rng, 5, LINGER_MS);
                    self.at(when, Item::Cancel);
                }
            }
        }
    }

    /// The job is over and everyone who is up has heard of it.
    fn settled(&self) -> bool {
        let process = &self.processes[&Node::Aggregator];
        let Some(job) = process.up.then(|| self.aggregator_job()).flatten() else {
            return false;
        };
        if job.outcome().is_none() {
            return false;
        }
        // Stale messages still arrive at a finished job for a while.
        if self.trouble > 0 && self.now_ms < self.over_ms.unwrap_or(0) + LINGER_MS {
            return false;
        }
        let opened = job.results().len();
        (0..self.lab.parties.len()).all(|party| {
            !self.processes[&Node::Party(party)].up
                || self.party_job(party).is_some_and(|job| job.next_round() as usize >= opened)
        }) || self.lies.liar(&self.lab).is_some()
    }

    /// What must hold at the end.
    fn verdict(&mut self) {
        let Some(job) = self.aggregator_job() else {
            return self.audit.broken("the aggregator never stored a job");
        };
        let rounds = self.lab.manifest.workload.rounds();
        let outcome = job.outcome().cloned();
        self.audit.note(format!("end {outcome:?}, {} results", job.results().len()));
        match &outcome {
            Some(Outcome::Done) => {
                if job.results().len() != rounds as usize {
                    self.audit.broken("done before the last round");
                }
            }
            Some(Outcome::Cancelled) if self.cancelled => {}
            Some(Outcome::Failed(why)) if why.code == Code::CheckSlot => {
                let garbage = match self.audit.liar.clone() {
                    Some(Culprit::Party(name) | Culprit::Authority(name)) => {
                        why.detail.contains(name.as_str())
                    }
                    _ => false,
                };
                if !garbage {
                    self.audit.broken(format!("a sum was discarded without its liar: {why}"));
                }
            }
            Some(Outcome::Failed(why)) if why.code == Code::BudgetSpent => {
                let left = match self.short {
                    Some((Node::Authority(_), left)) => Some(left as usize),
                    _ => None,
                };
                if left != Some(job.results().len()) {
                    self.audit.broken(format!("budget for {left:?} rounds: {why}"));
                }
            }
            Some(Outcome::Failed(why)) if why.code == Code::QuorumLost => self.quorum_lost(why),
            _ if !self.lies.must_end() => {}
            other => self.audit.broken(format!("the job does not end: {other:?}")),
        }
        let results: Vec<ResultRecord> = job.results().iter().map(|one| (**one).clone()).collect();
        self.check_ledgers(&results);
        let m = self.lab.authorities.len();
        for result in job.results() {
            let Some(key) = self.audit.opened(result.round, m) else {
                self.audit.broken(format!("round {} has a sum without keys", result.round));
                continue;
            };
            let keyed: Vec<_> = key.members.iter().map(|member| &member.party).collect();
            if key.label != result.label || keyed != result.members.iter().collect::<Vec<_>>() {
                self.audit.broken(format!("round {}: keys and record differ", result.round));
            }
        }
        if outcome == Some(Outcome::Done) && self.audit.liar.is_none() {
            let head = self.aggregator_model().hash();
            for party in 0..self.lab.parties.len() {
                let Some(job) = self.party_job(party) else { continue };
                if job.next_round() == rounds && job.state() != head {
                    self.audit.broken(format!("party {party} has another model"));
                }
            }
        }
    }

    /// A job that ends for want of holders: enough of them may have been away.
    fn quorum_lost(&mut self, why: &Refusal) {
        let spec = self.lab.manifest.threshold.unwrap();
        let Some(key) = self.aggregator_job().and_then(|job| job.job_key().cloned()) else {
            return;
        };
        let away = |name: &Name| {
            let party = self.lab.parties.iter().position(|p| p.entry.party == *name).unwrap();
            self.away.contains(&party)
                || self.lies.holder(party).is_some()
                || self.short == Some((Node::Party(party), 0))
                || matches!(self.short, Some((Node::Party(short), _)) if short == party)
        };
        let holders = key.keying().holders();
        let there = holders.iter().filter(|holder| !away(&holder.party)).count();
        let calm = self.trouble == 0 && self.processes[&Node::Aggregator].life == 0;
        if calm && !self.lies.aggregator() && there >= spec.threshold as usize {
            self.audit.broken(format!("{there} holders were there all the time: {why}"));
        }
    }

    /// The ledgers hold what was charged, once per round, and no more than the budget.
    fn check_ledgers(&mut self, results: &[ResultRecord]) {
        let Privacy::Noise(noise) = self.lab.manifest.privacy.clone() else { return };
        let rounds = self.lab.manifest.workload.rounds();
        let nodes: Vec<Node> = self.processes.keys().copied().collect();
        for node in nodes {
            let before = match self.short {
                Some((short, left)) if short == node => rounds - left,
                _ => 0,
            };
            let spent =
                self.processes[&node].disk.ledger.spent(noise.data_set.clone(), noise.delta);
            let charged = self.audit.charged(node);
            if spent.rounds != u64::from(before) + charged.len() as u64 {
                self.audit.broken(format!("{node:?} spent {} rounds, {charged:?}", spent.rounds));
            }
            if spent.zcdp > noise.epsilon {
                self.audit.broken(format!("{node:?} spent epsilon {}", spent.zcdp));
            }
            for result in results {
                let concerned = match node {
                    Node::Aggregator => false,
                    Node::Authority(_) => true,
                    Node::Party(party) => {
                        result.members.contains(&self.lab.parties[party].entry.party)
                    }
                };
                if concerned && !charged.contains(&result.round) {
                    self.audit.broken(format!("{node:?} was not charged for {}", result.round));
                }
            }
        }
    }

    /// New keys of a party, enrolled at `done` authorities so far.
    fn rotate(&mut self, party: usize, done: usize) {
        if done == 0 && self.party_job(party).is_none() {
            return;
        }
        self.rotate_step(party, done);
    }

    /// The entry a party's driver uses now.
    #[must_use]
    pub fn entry(&self, party: usize) -> &RosterEntry {
        &self.keys(party).entry
    }

    /// The keys a party's driver uses now: the old ones until a rotation is done.
    #[must_use]
    pub fn keys(&self, party: usize) -> &super::lab::PartyKeys {
        self.rotations.get(&party).map_or(&self.lab.parties[party], |rotation| &rotation.keys)
    }
}
