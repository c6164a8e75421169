//! A payments job in memory: network, banks, authority and aggregator, every message sealed and
//! every state written and read back between two steps. A run is a function of its seed.
//!
//! Failures: banks that stop answering at a chosen message, messages altered by their sender
//! (signed again with its key) or on the way. Not simulated: loss and repetition, which the
//! services' drivers mend.

pub mod fuzz;
mod strict;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use quorate_crypto::keys::Identity;
use quorate_crypto::merkle::{Hash, hash_parts};
use quorate_crypto::threshold::conformance::KeyFixture;
use quorate_crypto::threshold::elgamal::ElGamal;
use quorate_crypto::threshold::elgamal::choice::ChoiceKey;
use quorate_crypto::threshold::{ThresholdKey, ThresholdScheme};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::aggregator::AggregatorJob;
use super::authority::{AuthorityJob, AuthorityWorld};
use super::bank::{Accounts, BankJob, BankWorld};
use super::messages::{Account, Assigned, Message};
use super::network::{Asked, CellAssignment, Layout, NetworkJob, NetworkWorld, Payment, Phase};
use super::{Blobs, Envelope, Figures, Job, Keep, QueryLimits, Side, Terms, World};
use crate::job::{AuthorityKey, Minima, RosterEntry};
use crate::machine::{Context, Fact, Output, Peer};
use crate::policy::{Charge, NoiseSpec};
use crate::refusal::Refusal;
use crate::wire::{Name, Signed, decode, encode};

/// A name.
#[must_use]
pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// The keys of a role: a function of its name.
#[must_use]
pub fn identity(of: &Name) -> Identity {
    let half = |what: &str| hash_parts(what, &[of.as_str().as_bytes()]).0;
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(&half("sim signing"));
    bytes[32..].copy_from_slice(&half("sim exchange"));
    Identity::from_bytes(&bytes)
}

fn entry(of: &Name) -> RosterEntry {
    let keys = identity(of);
    RosterEntry {
        party: of.clone(),
        epoch: 0,
        verify: keys.verify_key(),
        exchange: keys.exchange_key(),
    }
}

/// Terms for `banks` banks of which `threshold` open, without noise: two class bits, 3 trees of 8
/// cells.
#[must_use]
pub fn terms(banks: u32, threshold: u32) -> Terms {
    let authority = name("authority");
    let keys = identity(&authority);
    Terms {
        manifest: Hash([7; 32]),
        aggregator: identity(&name("aggregator")).verify_key(),
        authority: AuthorityKey {
            name: authority,
            epoch: 0,
            verify: keys.verify_key(),
            exchange: keys.exchange_key(),
        },
        network: entry(&name("network")),
        banks: (0..banks).map(|i| entry(&bank(i))).collect(),
        figures: figures(banks, threshold),
    }
}

fn figures(banks: u32, threshold: u32) -> Figures {
    Figures {
        holders: banks,
        threshold,
        quorum: 3,
        k_min: 2,
        colluders: 1,
        class_bits: 2,
        trees: 3,
        cells: 8,
        part_rows: 8,
        rows_per_account: 100,
        max_rows: 1000,
        versions: 1,
        noise: None,
        queries: QueryLimits { total: 100, per_window: 50, window_ms: 1000, per_account: 3 },
        strict: false,
    }
}

/// These terms with other figures.
#[must_use]
pub fn with(mut terms: Terms, change: impl FnOnce(&mut Figures)) -> Terms {
    change(&mut terms.figures);
    terms
}

/// The name of a bank.
#[must_use]
pub fn bank(i: u32) -> Name {
    name(&format!("bank-{i}"))
}

/// Noise of this multiplier, with a budget that is never in the way.
#[must_use]
pub fn noise(multiplier: f64) -> NoiseSpec {
    NoiseSpec {
        unit: crate::policy::Unit::Record,
        mechanism: crate::policy::Mechanism::Gaussian,
        multiplier,
        clip: 1.0,
        epsilon: 1e6,
        delta: 1e-6,
        data_set: name("accounts"),
    }
}

/// A bank's accounts: severity of their flags and their holder's name.
#[derive(Clone, Debug, Default)]
pub struct Ledger(pub BTreeMap<String, (u8, String)>);

impl Accounts for Ledger {
    fn severity(&self, side: Side, account: &Account) -> u8 {
        match self.0.get(&account.account) {
            None => 2,
            Some((flags, holder)) => {
                let mismatch = side == Side::Beneficiary && *holder != account.name;
                (*flags).max(u8::from(mismatch))
            }
        }
    }
}

/// Leaves by tree and payment, and labels.
#[derive(Clone, Debug)]
pub struct Cells {
    /// Leaf of each payment, tree by tree.
    pub leaves: Vec<Vec<u16>>,
    /// Label of each payment.
    pub labels: Vec<bool>,
}

impl CellAssignment for Cells {
    fn cell(&self, tree: u16, payment: usize) -> u16 {
        2 * self.leaves[usize::from(tree)][payment] + u16::from(self.labels[payment])
    }
}

/// What a test does to a message between its sender and its envelope.
pub type Tamper = Box<dyn FnMut(&Name, &Name, &mut Message) + Send + Sync>;

/// All roles.
pub struct Sim {
    /// The job.
    pub job: Job,
    /// Its key, prepared.
    pub key: ChoiceKey,
    /// The same.
    pub values: Arc<dyn ThresholdKey>,
    /// Shares by number.
    pub fixture: KeyFixture,
    /// What banks know.
    pub ledgers: BTreeMap<Name, Ledger>,
    /// The network's payments.
    pub payments: Vec<Payment>,
    /// Their order.
    pub layout: Layout,
    /// Their cells.
    pub cells: Cells,
    /// The network's machine.
    pub network: NetworkJob,
    /// The banks' machines.
    pub banks: BTreeMap<Name, BankJob>,
    /// The authority's machine.
    pub authority: AuthorityJob,
    /// The aggregator's machine.
    pub aggregator: AggregatorJob,
    /// Kept bytes by role.
    pub blobs: BTreeMap<Name, BTreeMap<Hash, Vec<u8>>>,
    /// The assignment that was last to be logged.
    pub assigned: Option<Signed<Assigned>>,
    /// Sealed messages on their way.
    pub queue: VecDeque<Envelope>,
    /// Every envelope that ever travelled.
    pub wire: Vec<Envelope>,
    /// Every message that a role read, in order.
    pub seen: BTreeMap<Name, Vec<Message>>,
    /// Every refusal, by who refused.
    pub rejects: Vec<(Name, Refusal)>,
    /// Operators' logs.
    pub facts: Vec<(Name, Fact)>,
    /// Charges by role.
    pub charges: Vec<(Name, Charge)>,
    /// Banks that stop answering from this kind of message on.
    pub leaves_at: BTreeMap<Name, &'static str>,
    /// Banks that are gone.
    pub away: BTreeSet<Name>,
    /// Alters messages before they are sealed.
    pub tamper: Option<Tamper>,
    /// The clock.
    pub now_ms: u64,
    rng: ChaCha20Rng,
}

/// Writes and reads a state, as a restart does.
fn stored<T: Serialize + DeserializeOwned>(state: &T) -> T {
    decode(&encode(state)).unwrap()
}

/// Random payments of `terms`, with flags, mistyped and mismatched accounts.
#[must_use]
pub fn payments(
    terms: &Terms,
    count: usize,
    seed: u64,
) -> (BTreeMap<Name, Ledger>, Vec<Payment>, Cells) {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let mut below = |n: u64| rng.next_u64() % n;
    let mut ledgers = BTreeMap::new();
    for entry in &terms.banks {
        let mut ledger = Ledger::default();
        for i in 0..8 {
            let flags = [0, 0, 1, 2][usize::try_from(below(4)).unwrap()];
            ledger.0.insert(format!("CANARY-{}-{i}", entry.party), (flags, format!("holder {i}")));
        }
        ledgers.insert(entry.party.clone(), ledger);
    }
    let banks = terms.banks.len() as u64;
    let made = (0..count)
        .map(|_| {
            let mut side = || {
                let bank = terms.banks[usize::try_from(below(banks)).unwrap()].party.clone();
                let i = below(9);
                let holder = if below(5) == 0 { 99 } else { i };
                let account = Account {
                    account: format!("CANARY-{bank}-{i}"),
                    name: format!("holder {holder}"),
                };
                (bank, account)
            };
            let (a, b) = (side(), side());
            Payment { banks: [a.0, b.0], accounts: [a.1, b.1] }
        })
        .collect();
    let leaves = u64::from(terms.cells / 2);
    let cells = Cells {
        leaves: (0..terms.trees)
            .map(|_| (0..count).map(|_| u16::try_from(below(leaves)).unwrap()).collect())
            .collect(),
        labels: (0..count).map(|_| below(4) == 0).collect(),
    };
    (ledgers, made, cells)
}

impl Sim {
    /// A job of these terms over `count` random payments.
    #[must_use]
    pub fn new(terms: Terms, count: usize, seed: u64) -> Self {
        let (ledgers, payments, cells) = payments(&terms, count, seed);
        Self::with(terms, ledgers, payments, cells, 0)
    }

    /// A job over given payments, at a model version.
    #[must_use]
    pub fn with(
        terms: Terms,
        ledgers: BTreeMap<Name, Ledger>,
        payments: Vec<Payment>,
        cells: Cells,
        version: u32,
    ) -> Self {
        let banks = u32::try_from(terms.banks.len()).unwrap();
        let fixture = KeyFixture::run(&ElGamal, banks, terms.threshold, 3);
        let job = Job::new(terms, fixture.public.clone()).unwrap();
        let key = ChoiceKey::parse(job.public()).unwrap();
        let values = ElGamal.load(job.public()).unwrap();
        let keys = identity(&job.network.party);
        let layout = Layout::new(&job, &keys, version, &payments).unwrap();
        let mut rng = ChaCha20Rng::seed_from_u64(9);
        let nothing = BTreeMap::new();
        let (network, outputs) = {
            let world = NetworkWorld {
                world: World { key: &key, values: values.as_ref(), blobs: &nothing },
                payments: &payments,
                layout: &layout,
                cells: &cells,
            };
            let cx = Context { now_ms: 0, identity: &keys, rng: &mut rng };
            NetworkJob::start(&cx, &world, job.clone(), version).unwrap()
        };
        let minima = Minima::default();
        let machines = job.banks.iter().map(|bank| {
            let keys = identity(&bank.party);
            let cx = Context { now_ms: 0, identity: &keys, rng: &mut rng };
            (
                bank.party.clone(),
                BankJob::new(&cx, bank.party.clone(), job.clone(), &minima).unwrap(),
            )
        });
        let mut sim = Self {
            banks: machines.collect(),
            authority: AuthorityJob::new(job.clone()),
            aggregator: AggregatorJob::new(job.clone()),
            job,
            key,
            values,
            fixture,
            ledgers,
            payments,
            layout,
            cells,
            network,
            blobs: BTreeMap::new(),
            assigned: None,
            queue: VecDeque::new(),
            wire: Vec::new(),
            seen: BTreeMap::new(),
            rejects: Vec::new(),
            facts: Vec::new(),
            charges: Vec::new(),
            leaves_at: BTreeMap::new(),
            away: BTreeSet::new(),
            tamper: None,
            now_ms: 0,
            rng: ChaCha20Rng::seed_from_u64(11),
        };
        let from = sim.job.network.party.clone();
        sim.outputs(&from, outputs);
        sim
    }

    /// What machines work with, for one role's kept bytes.
    fn kept(&self, role: &Name) -> BTreeMap<Hash, Vec<u8>> {
        self.blobs.get(role).cloned().unwrap_or_default()
    }

    /// Exchange key of any role.
    fn exchange(&self, role: &Name) -> quorate_crypto::keys::ExchangeKey {
        identity(role).exchange_key()
    }

    /// Seals a message as if `from` had sent it.
    pub fn send(&mut self, from: &Name, to: &Name, mut message: Message) {
        let mut tamper = self.tamper.take();
        if let Some(tamper) = &mut tamper {
            tamper(from, to, &mut message);
        }
        self.tamper = tamper;
        let key = self.exchange(to);
        let sender = (&identity(from), from);
        let letter = Envelope::seal(self.job.manifest, sender, (&key, to), &message).unwrap();
        let (_, envelope) = self.aggregator.route(letter.signed()).unwrap();
        self.wire.push((*envelope).clone());
        self.queue.push_back((*envelope).clone());
    }

    fn outputs(&mut self, from: &Name, outputs: Vec<Output<Message, Keep>>) {
        for output in outputs {
            match output {
                Output::Send { to: Peer::Aggregator, message: Message::Assigned(assigned) } => {
                    self.assigned = Some(assigned.clone());
                    let keys = identity(&name("aggregator"));
                    let cx = Context { now_ms: self.now_ms, identity: &keys, rng: &mut self.rng };
                    match self.aggregator.log(&cx, &assigned) {
                        Ok((_, logged)) => {
                            // Records of the log are public: they are not sealed.
                            let to = self.job.network.party.clone();
                            self.deliver(&to, Message::Logged(logged));
                        }
                        Err(refusal) => self.rejects.push((name("aggregator"), refusal)),
                    }
                }
                Output::Send { to: Peer::Party(to) | Peer::Authority(to), message } => {
                    self.send(from, &to, message);
                }
                Output::Send { to: Peer::Aggregator, .. } => panic!("not for the aggregator"),
                Output::Work(keep) => {
                    let (hash, bytes) = (keep.hash, keep.bytes.clone());
                    self.blobs.entry(from.clone()).or_default().insert(hash, bytes);
                }
                Output::Charge(charge) => self.charges.push((from.clone(), charge)),
                Output::Refund(_) => panic!("nothing is refunded"),
                Output::Log(fact) => self.facts.push((from.clone(), fact)),
                Output::Reject(refusal) => self.rejects.push((from.clone(), refusal)),
            }
        }
    }

    /// Runs one step of the network's machine.
    pub(super) fn network_step(
        &mut self,
        step: impl FnOnce(
            NetworkJob,
            &mut Context<'_>,
            &NetworkWorld<'_>,
        ) -> (NetworkJob, Vec<Output<Message, Keep>>),
    ) -> usize {
        let me = self.job.network.party.clone();
        let (keys, kept) = (identity(&me), self.kept(&me));
        let before = self.network.clone();
        let (mut next, outputs) = {
            let world = NetworkWorld {
                world: World { key: &self.key, values: self.values.as_ref(), blobs: &kept },
                payments: &self.payments,
                layout: &self.layout,
                cells: &self.cells,
            };
            let mut cx = Context { now_ms: self.now_ms, identity: &keys, rng: &mut self.rng };
            step(before, &mut cx, &world)
        };
        // In pieces, as drivers store it; as a whole it is the same.
        let (training, queries) = next.to_pieces();
        self.network = NetworkJob::from_pieces(&training, queries).unwrap();
        assert_eq!(encode(&self.network), encode(&next));
        let count = outputs.len();
        self.outputs(&me, outputs);
        count
    }

    /// Goes on until the network waits for others.
    pub fn advance(&mut self) {
        while self.network_step(NetworkJob::advance) > 0 {}
    }

    /// Hands a message to a role.
    pub fn deliver(&mut self, to: &Name, message: Message) {
        if self.leaves_at.get(to).is_some_and(|kind| *kind == message.name()) {
            self.away.insert(to.clone());
        }
        if self.away.contains(to) {
            return;
        }
        self.seen.entry(to.clone()).or_default().push(message.clone());
        if *to == self.job.network.party {
            self.network_step(|network, cx, world| network.handle(cx, world, &message).unwrap());
            self.advance();
            return;
        }
        let (keys, kept) = (identity(to), self.kept(to));
        let blobs: &dyn Blobs = &kept;
        let world = World { key: &self.key, values: self.values.as_ref(), blobs };
        let mut cx = Context { now_ms: self.now_ms, identity: &keys, rng: &mut self.rng };
        let outputs = if *to == self.job.authority.name {
            let world = AuthorityWorld { world, share: &self.fixture.shares[0] };
            let (next, outputs) = self.authority.clone().handle(&mut cx, &world, &message).unwrap();
            self.authority = stored(&next);
            outputs
        } else {
            let number = self.job.holder(to).unwrap() as usize;
            let (share, accounts) = (&self.fixture.shares[number], &self.ledgers[to]);
            let world = BankWorld { world, share, accounts };
            let (next, outputs) = self.banks[to].clone().handle(&mut cx, &world, &message).unwrap();
            self.banks.insert(to.clone(), stored(&next));
            outputs
        };
        self.outputs(to, outputs);
    }

    /// Delivers until nothing is on its way; then banks that are away are given up.
    pub fn run(&mut self) {
        loop {
            while let Some(envelope) = self.queue.pop_front() {
                let message = envelope.open(&identity(&envelope.to)).unwrap();
                self.deliver(&envelope.to, message);
            }
            let phase = self.network.phase();
            let lost = std::mem::take(&mut self.leaves_at);
            let gone: Vec<Name> =
                lost.keys().filter(|bank| self.away.contains(*bank)).cloned().collect();
            self.leaves_at = lost.into_iter().filter(|(bank, _)| !gone.contains(bank)).collect();
            if gone.is_empty() || phase >= Phase::Trained {
                return;
            }
            for bank in gone {
                self.network_step(|network, _, _| network.lose(&bank).unwrap());
                self.advance();
            }
        }
    }

    /// Asks for scores and runs.
    ///
    /// # Errors
    /// As [`NetworkJob::query`].
    pub fn query(
        &mut self,
        query: u64,
        banks: [&Name; 2],
        asked: Vec<Asked>,
    ) -> Result<Option<Vec<f64>>, Refusal> {
        let mut failed = None;
        self.network_step(|network, cx, world| {
            match network.clone().query(cx, world, query, banks, asked) {
                Ok(done) => done,
                Err(refusal) => {
                    failed = Some(refusal);
                    (network, Vec::new())
                }
            }
        });
        if let Some(refusal) = failed {
            return Err(refusal);
        }
        self.run();
        Ok(self.network.scores(query).map(<[f64]>::to_vec))
    }

    /// The classes of a payment's sides, in the clear.
    #[must_use]
    pub fn classes(&self, payment: &Payment) -> [u8; 2] {
        let class = |side: usize| {
            let ledger = &self.ledgers[&payment.banks[side]];
            ledger.severity(Side::BOTH[side], &payment.accounts[side])
        };
        [class(0), class(1)]
    }

    /// The counts in the clear, of payments that `counts` says.
    #[must_use]
    pub fn plain_counts(&self, counts: impl Fn(&Payment) -> bool) -> Vec<i64> {
        let (cells, bits) = (usize::from(self.job.cells), usize::from(self.job.class_bits));
        let mut plain = vec![0; self.job.coordinates()];
        for (i, payment) in self.payments.iter().enumerate().filter(|(_, p)| counts(p)) {
            let [a, b] = self.classes(payment);
            for tree in 0..self.job.trees {
                let cell = usize::from(self.cells.cell(tree, i));
                for bit in 0..bits {
                    let place = (usize::from(tree) * cells + cell) * bits + bit;
                    plain[place] += i64::from(usize::from(a.max(b)) > bit);
                }
            }
        }
        plain
    }

    /// Codes of all refusals with who refused.
    #[must_use]
    pub fn codes(&self) -> Vec<(String, String)> {
        self.rejects
            .iter()
            .map(|(who, refusal)| (who.to_string(), refusal.code.to_string()))
            .collect()
    }
}
