//! Bytes for the decoders and machines of payments jobs: samples of every message, and live machines in
//! every state that take what decodes, or refuse it.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use quorate_crypto::keys::Identity;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{
    AggregatorJob, AuthorityJob, AuthorityWorld, BankJob, BankWorld, Blobs, Context, NetworkJob,
    NetworkWorld, Sim, World, bank, decode, encode, identity, name, payments, terms, with,
};
use crate::pv4fad::forest::{ONE, PooledRule};
use crate::pv4fad::letters::{Close, Collect, Mail, PaymentsMessage};
use crate::pv4fad::messages::{Message as Inner, ReleaseAsk};
use crate::pv4fad::network::Asked;
use crate::pv4fad::strict::PooledAsk;
use crate::round::aggregator::Outcome;
use crate::round::messages::Message;
use crate::wire::{Body, Signature, Signed};

struct Fixture {
    sim: Sim,
    /// One of each message inside letters.
    inner: BTreeMap<&'static str, Vec<u8>>,
    /// One of each message that the services read.
    outer: BTreeMap<&'static str, Vec<u8>>,
    /// Stored machines, by state.
    networks: BTreeMap<String, Vec<u8>>,
    banks: BTreeMap<String, Vec<u8>>,
    authorities: BTreeMap<String, Vec<u8>>,
    aggregators: BTreeMap<String, Vec<u8>>,
}

impl Fixture {
    fn record(&mut self) {
        let sim = &self.sim;
        for message in sim.seen.values().flatten() {
            self.inner.entry(message.name()).or_insert_with(|| encode(message));
        }
        let phase = format!("{:?}", sim.network.phase());
        // Where most is waited for.
        if !matches!(phase.as_str(), "Joined" | "Summed" | "Serving") {
            return;
        }
        self.networks.entry(phase.clone()).or_insert_with(|| encode(&sim.network));
        self.banks.entry(phase.clone()).or_insert_with(|| encode(&sim.banks[&bank(0)]));
        self.authorities.entry(phase.clone()).or_insert_with(|| encode(&sim.authority));
        self.aggregators.entry(phase).or_insert_with(|| encode(&sim.aggregator));
    }

    /// Delivers until nothing is on its way.
    fn run(&mut self) {
        while let Some(envelope) = self.sim.queue.pop_front() {
            let message = envelope.open(&identity(&envelope.to)).unwrap();
            self.sim.deliver(&envelope.to, message);
            self.record();
        }
    }

    fn letters(&mut self) {
        let sim = &self.sim;
        let keys = identity(&name("network"));
        let job = sim.job.manifest;
        let letter = sim.wire.iter().find(|letter| letter.from == name("network")).unwrap();
        let letter = Signed::sign(letter.clone(), &keys).signed().clone();
        let collect = Collect { job, party: name("network"), after: 3, wait_ms: 500 };
        let mail = Mail { letters: vec![(4, letter.clone())], outcome: Some(Outcome::Done) };
        let decoded = |kind: &str| -> Inner { decode(&self.inner[kind]).unwrap() };
        let (Inner::Assigned(assigned), Inner::Logged(logged)) =
            (self.sim.assigned.clone().map(Inner::Assigned).unwrap(), decoded("Logged"))
        else {
            unreachable!("two records of the log")
        };
        self.inner.insert("Assigned", encode(&Inner::Assigned(assigned.clone())));
        let close = Signed::sign(Close { job, failure: None }, &keys).signed().clone();
        let all = [
            ("payments-letter", PaymentsMessage::Letter(letter.clone())),
            ("payments-answers", PaymentsMessage::Answers(vec![letter])),
            (
                "payments-collect",
                PaymentsMessage::Collect(Signed::sign(collect, &keys).signed().clone()),
            ),
            ("payments-mail", PaymentsMessage::Mail(mail)),
            ("payments-assigned", PaymentsMessage::Assigned(assigned)),
            ("payments-logged", PaymentsMessage::Logged(logged)),
            ("payments-close", PaymentsMessage::Close(close)),
        ];
        self.outer = all.map(|(kind, message)| (kind, Message::Payments(message).to_wire())).into();
    }
}

/// A job that opens its counts, and a strict one.
fn fixtures() -> &'static [Fixture; 2] {
    static FIXTURES: OnceLock<[Fixture; 2]> = OnceLock::new();
    FIXTURES.get_or_init(|| [false, true].map(Fixture::new))
}

impl Fixture {
    fn new(strict: bool) -> Self {
        let terms = with(terms(3, 2), |figures| {
            (figures.class_bits, figures.trees, figures.cells, figures.part_rows) = (1, 1, 2, 2);
            figures.strict = strict;
        });
        // Every bank is behind a payment.
        let (ledgers, mut made, cells) = payments(&terms, 3, 1);
        for (payment, sides) in made.iter_mut().zip([[0, 1], [2, 0], [1, 2]]) {
            payment.banks = sides.map(bank);
        }
        let sim = Sim::with(terms, ledgers, made, cells, 0);
        let (inner, outer) = Default::default();
        let (networks, banks, authorities, aggregators) = Default::default();
        let mut fixture = Self { sim, inner, outer, networks, banks, authorities, aggregators };
        fixture.record();
        fixture.run();
        let payment = fixture.sim.payments[0].clone();
        let banks = payment.banks.each_ref();
        let scores = if strict {
            let row = Sim::reaching(&payment, fixture.sim.cells.leaves_of(0), ONE / 4);
            fixture.sim.query_pooled(0, banks, vec![row], PooledRule::new(1, None))
        } else {
            let scores = vec![0.1, 0.5, 0.5, 0.5];
            let row = Asked { accounts: payment.accounts.clone(), scores };
            fixture.sim.query(0, banks, vec![row])
        };
        assert!(scores.unwrap().is_some());
        // Nobody takes another's request.
        let strange: Inner = decode(&fixture.inner["SumAsk"]).unwrap();
        fixture.sim.deliver(&bank(0), strange);
        fixture.run();
        fixture.record();
        fixture.letters();
        fixture
    }
}

/// One encoded message of each kind that travels in letters, by name; the same in every build of one wire
/// version.
#[must_use]
pub fn inner_samples() -> &'static BTreeMap<&'static str, Vec<u8>> {
    static SAMPLES: OnceLock<BTreeMap<&'static str, Vec<u8>>> = OnceLock::new();
    SAMPLES.get_or_init(|| {
        let [open, strict] = fixtures();
        let mut samples = open.inner.clone();
        let others = strict.inner.iter().filter(|(name, _)| !open.inner.contains_key(*name));
        samples.extend(others.map(|(name, bytes)| (*name, bytes.clone())));
        samples
    })
}

/// One encoded message of each kind that services read, by name.
#[must_use]
pub fn samples() -> &'static BTreeMap<&'static str, Vec<u8>> {
    let [open, _] = fixtures();
    &open.outer
}

/// Stored machines of all roles, in every state.
#[must_use]
pub fn states() -> Vec<&'static [u8]> {
    let of = |fixture: &'static Fixture| {
        let Fixture { networks, banks, authorities, aggregators, .. } = fixture;
        let parties = networks.values().chain(banks.values());
        parties.chain(authorities.values()).chain(aggregators.values()).map(Vec::as_slice)
    };
    fixtures().iter().flat_map(of).collect()
}

/// Bytes as a control message: what decodes encodes back, and the aggregator's machine takes or refuses it.
pub fn fuzz_message(bytes: &[u8]) {
    let Ok(message) = Message::from_wire(bytes) else { return };
    assert_eq!(Message::from_wire(&message.to_wire()).unwrap().to_wire(), message.to_wire());
    let Message::Payments(message) = message else { return };
    carried(&message);
}

fn carried(message: &PaymentsMessage) {
    let keys = identity(&name("aggregator"));
    let mut rng = ChaCha20Rng::seed_from_u64(7);
    for machine in fixtures().iter().flat_map(|fixture| fixture.aggregators.values()) {
        let mut machine: AggregatorJob = decode(machine).unwrap();
        let cx = Context { now_ms: 1, identity: &keys, rng: &mut rng };
        match message {
            PaymentsMessage::Letter(letter) => {
                if let Ok((_, letter)) = machine.route(letter) {
                    let _ = letter.open(&identity(&letter.to));
                }
            }
            PaymentsMessage::Answers(letters) => letters.iter().for_each(|letter| {
                let _ = machine.route(letter);
            }),
            PaymentsMessage::Collect(collect) => drop(machine.collects(collect)),
            PaymentsMessage::Mail(mail) => mail.letters.iter().for_each(|(_, letter)| {
                let _ = letter.peek().map(|letter| letter.open(&keys));
            }),
            PaymentsMessage::Assigned(assigned) => drop(machine.log(&cx, assigned)),
            PaymentsMessage::Logged(logged) => drop(logged.peek()),
            PaymentsMessage::Close(close) => drop(machine.close(close)),
        }
    }
}

/// Bytes as what a letter holds: what decodes encodes back, and no machine panics on it.
pub fn fuzz_inner(bytes: &[u8]) {
    let Ok(message) = decode::<Inner>(bytes) else { return };
    assert_eq!(encode(&decode::<Inner>(&encode(&message)).unwrap()), encode(&message));
    handle_everywhere(&message);
}

/// Bytes as the body of every message that a role signs, with a good signature: what lies behind the check
/// of signatures.
pub fn fuzz_signed(bytes: &[u8]) {
    let [network, first, authority, aggregator] =
        ["network", "bank-0", "authority", "aggregator"].map(|role| identity(&name(role)));
    carried(&PaymentsMessage::Letter(sign_raw(&network, bytes)));
    carried(&PaymentsMessage::Collect(sign_raw(&network, bytes)));
    carried(&PaymentsMessage::Assigned(sign_raw(&network, bytes)));
    carried(&PaymentsMessage::Close(sign_raw(&network, bytes)));
    let messages = [
        Inner::JoinPart(sign_raw(&network, bytes)),
        Inner::JoinEnd(sign_raw(&network, bytes)),
        Inner::FlagAsk(sign_raw(&network, bytes)),
        Inner::SumAsk(sign_raw(&network, bytes)),
        Inner::FreezeAsk(sign_raw(&network, bytes)),
        Inner::QueryAsk(sign_raw(&network, bytes), sign_raw(&network, bytes)),
        Inner::Joined(sign_raw(&first, bytes)),
        Inner::FlagPart(sign_raw(&first, bytes)),
        Inner::NoiseShare(sign_raw(&first, bytes)),
        Inner::Partial(sign_raw(&first, bytes)),
        Inner::Picked(sign_raw(&first, bytes)),
        Inner::Refused(sign_raw(&first, bytes)),
        Inner::Summed(sign_raw(&authority, bytes)),
        Inner::Refused(sign_raw(&authority, bytes)),
        Inner::Released(sign_raw(&authority, bytes), sign_raw(&authority, bytes)),
        Inner::Logged(sign_raw(&aggregator, bytes)),
        Inner::Frozen(sign_raw(&authority, bytes)),
        Inner::PooledAsk(Box::new(PooledAsk {
            ask: ReleaseAsk {
                table: sign_raw(&network, bytes),
                ordering: sign_raw(&first, bytes),
                beneficiary: sign_raw(&first, bytes),
            },
            reached: sign_raw(&network, bytes),
        })),
    ];
    messages.iter().for_each(handle_everywhere);
}

/// Bytes as a stored machine: what decodes encodes to something that decodes.
pub fn fuzz_state(bytes: &[u8]) {
    fn state<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
        if let Ok(state) = decode::<T>(bytes) {
            assert!(decode::<T>(&encode(&state)).is_ok());
        }
    }
    state::<NetworkJob>(bytes);
    state::<BankJob>(bytes);
    state::<AuthorityJob>(bytes);
    state::<AggregatorJob>(bytes);
}

fn sign_raw<T: Body>(identity: &Identity, body: &[u8]) -> Signed<T> {
    Signed::from_parts(body.to_vec(), Signature(identity.sign(T::DOMAIN, body)))
}

/// All roles' machines in every state take the message, or refuse it.
fn handle_everywhere(message: &Inner) {
    fixtures().iter().for_each(|fixture| handle_in(fixture, message));
}

fn handle_in(fixture: &Fixture, message: &Inner) {
    let Fixture { sim, networks, banks, authorities, .. } = fixture;
    let mut rng = ChaCha20Rng::seed_from_u64(7);
    let nothing = BTreeMap::new();
    let kept = |role: &str| sim.blobs.get(&name(role)).unwrap_or(&nothing);
    let world = |blobs| World { key: &sim.key, values: sim.values.as_ref(), blobs };
    let keys = identity(&name("network"));
    let blobs: &dyn Blobs = kept("network");
    for machine in networks.values() {
        let network = NetworkWorld {
            world: world(blobs),
            payments: &sim.payments,
            layout: &sim.layout,
            cells: &sim.cells,
        };
        let mut cx = Context { now_ms: 1, identity: &keys, rng: &mut rng };
        let machine: NetworkJob = decode(machine).unwrap();
        let (next, _) = machine.handle(&mut cx, &network, message).unwrap();
        let _ = next.advance(&mut cx, &network);
    }
    let (keys, blobs): (_, &dyn Blobs) = (identity(&bank(0)), kept("bank-0"));
    for machine in banks.values() {
        let (share, accounts) = (&sim.fixture.shares[1], &sim.ledgers[&bank(0)]);
        let own = BankWorld { world: world(blobs), share, accounts };
        let mut cx = Context { now_ms: 1, identity: &keys, rng: &mut rng };
        let machine: BankJob = decode(machine).unwrap();
        assert!(machine.handle(&mut cx, &own, message).is_ok());
    }
    let (keys, blobs): (_, &dyn Blobs) = (identity(&name("authority")), kept("authority"));
    for machine in authorities.values() {
        let own = AuthorityWorld { world: world(blobs), share: &sim.fixture.shares[0] };
        let mut cx = Context { now_ms: 1, identity: &keys, rng: &mut rng };
        let machine: AuthorityJob = decode(machine).unwrap();
        assert!(machine.handle(&mut cx, &own, message).is_ok());
    }
}
