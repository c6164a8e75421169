//! Bytes for the decoders and machines of vertical jobs: samples of every message, and live machines in
//! every state that take what decodes, or refuse it.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use quorate_crypto::keys::Identity;
use quorate_crypto::oprf::Blinder;
use quorate_crypto::secret::Secret;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::messages::{Evaluate, PartyView, VerticalMessage};
use super::{
    AggregatorJob, AuthorityJob, Context, Faults, LabelPrivacy, Message, Name, Parcel, PartyJob,
    Plan, RosterEntry, Signed, VerticalModel, World, aggregator, decode, encode, load, party,
};
use crate::round::messages::SubmitHeader;
use crate::wire::{Body, Signature};

struct Fixture {
    world: World,
    samples: BTreeMap<&'static str, Vec<u8>>,
    /// Stored machines, by state.
    aggregators: BTreeMap<String, Vec<u8>>,
    authorities: BTreeMap<String, Vec<u8>>,
    /// With the number of the party.
    parties: BTreeMap<(usize, &'static str), Vec<u8>>,
    views: BTreeMap<String, Vec<u8>>,
}

const fn kind(message: &VerticalMessage) -> &'static str {
    match message {
        VerticalMessage::Ready(_) => "vertical-ready",
        VerticalMessage::Commit(_) => "vertical-commit",
        VerticalMessage::SeedShare(_) => "vertical-seed-share",
        VerticalMessage::Evaluate(_) => "vertical-evaluate",
        VerticalMessage::Evaluated { .. } => "vertical-evaluated",
        VerticalMessage::ScoreAsk(_) => "vertical-score-ask",
        VerticalMessage::ScoreKey(_) => "vertical-score-key",
        VerticalMessage::ProductAsk(_) => "vertical-product-ask",
        VerticalMessage::ProductKey(_) => "vertical-product-key",
        VerticalMessage::Gradient(_) => "vertical-gradient",
        VerticalMessage::Scored(_) => "vertical-scored",
    }
}

impl Fixture {
    fn record(&mut self) {
        let world = &self.world;
        for parcel in &world.parcels {
            let (Parcel::ToAggregator(message) | Parcel::ToAuthority(_, message)) = parcel;
            if let Message::Vertical(own) = message {
                self.samples.entry(kind(own)).or_insert_with(|| message.to_wire());
            }
        }
        let phase = world.job().status().phase;
        self.aggregators.entry(phase.clone()).or_insert_with(|| encode(world.job()));
        if let Some(machine) = world.authorities.first().and_then(|a| a.machine.as_ref()) {
            self.authorities.entry(phase.clone()).or_insert_with(|| machine.clone());
        }
        for (index, party) in world.parties.iter().enumerate() {
            if let Some(machine) = &party.machine {
                let state = load::<PartyJob>(machine).state_name();
                self.parties.entry((index, state)).or_insert_with(|| machine.clone());
            }
            let view = world.job().view(&party.name);
            let key = format!("{index} {phase} {}", view.shares.len());
            self.views.entry(key).or_insert_with(|| encode(&view));
        }
    }

    /// The two messages between a party and an authority that the simulated network does not carry.
    fn evaluations(&mut self) {
        let world = &mut self.world;
        let job = world.manifest.hash();
        let blinder = Blinder::new(Secret::new([3; 32]));
        let party = &world.parties[1];
        let ask = Evaluate {
            authority: world.authorities[0].name.clone(),
            manifest: job,
            party: party.name.clone(),
            batch: 900,
            blinded: blinder.blind(&[[1; 32], [2; 32]]).unwrap(),
        };
        let ask = Signed::sign(ask, &party.identity).signed().clone();
        let ask = Message::Vertical(VerticalMessage::Evaluate(ask));
        self.samples.insert("vertical-evaluate", ask.to_wire());
        let work = world.authority_message(0, ask).unwrap();
        let answer = work.answer(&world.authorities[0].identity, &job).unwrap();
        self.samples.insert("vertical-evaluated", answer.to_wire());
    }
}

fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let plan = Plan {
            model: VerticalModel::Svm,
            classes: 2,
            features: vec![1, 1, 2],
            rows: (18, 2),
            epochs: 2,
            batch: 8,
            authorities: 2,
            labels: LabelPrivacy::Noise { epsilon: 4.0, delta: 1e-5 },
            selection: 0.0,
            static_features: true,
            lone_changes: false,
            given: None,
            faults: Faults::NONE,
        };
        let mut fixture = Fixture {
            world: World::new(1, plan),
            samples: BTreeMap::new(),
            aggregators: BTreeMap::new(),
            authorities: BTreeMap::new(),
            parties: BTreeMap::new(),
            views: BTreeMap::new(),
        };
        while fixture.world.job().outcome().is_none() {
            fixture.world.step();
            fixture.record();
        }
        fixture.evaluations();
        fixture
    })
}

/// One encoded message of each kind, by name; the same in every build of one wire version.
#[must_use]
pub fn samples() -> &'static BTreeMap<&'static str, Vec<u8>> {
    &fixture().samples
}

/// What parties saw, in every state of the job.
#[must_use]
pub fn views() -> Vec<&'static [u8]> {
    fixture().views.values().map(Vec::as_slice).collect()
}

/// Stored machines of all roles, in every state.
#[must_use]
pub fn states() -> Vec<&'static [u8]> {
    let Fixture { aggregators, authorities, parties, .. } = fixture();
    let services = aggregators.values().chain(authorities.values());
    services.chain(parties.values()).map(Vec::as_slice).collect()
}

/// Bytes as a control message: what decodes encodes back, and no machine panics on it.
pub fn fuzz_message(bytes: &[u8]) {
    let Ok(message) = Message::from_wire(bytes) else { return };
    let again = Message::from_wire(&message.to_wire()).unwrap();
    assert_eq!(again.to_wire(), message.to_wire(), "an encoding that does not read back");
    handle_everywhere(&message);
}

/// Bytes as the body of every message that a role signs, with a good signature: what lies behind the
/// check of signatures.
pub fn fuzz_signed(bytes: &[u8]) {
    let world = &fixture().world;
    let authority = &world.authorities[0].identity;
    let [holder, passive, ..] = world.parties.as_slice() else { unreachable!("two parties") };
    let aggregator = &world.aggregator_identity;
    for party in [&holder.identity, &passive.identity] {
        show(VerticalMessage::Ready(sign_raw(party, bytes)));
        show(VerticalMessage::Commit(sign_raw(party, bytes)));
        show(VerticalMessage::SeedShare(sign_raw(party, bytes)));
        show(VerticalMessage::Evaluate(sign_raw(party, bytes)));
        handle_everywhere(&Message::Submit(sign_raw::<SubmitHeader>(party, bytes)));
    }
    show(VerticalMessage::ScoreAsk(Box::new(sign_raw(aggregator, bytes))));
    show(VerticalMessage::ScoreKey(sign_raw(authority, bytes)));
    show(VerticalMessage::ProductAsk(sign_raw(&holder.identity, bytes)));
    show(VerticalMessage::ProductKey(sign_raw(authority, bytes)));
    show(VerticalMessage::Gradient(sign_raw(&holder.identity, bytes)));
    show(VerticalMessage::Scored(sign_raw(&holder.identity, bytes)));
    // What a party looks at, with one part replaced.
    for view in views() {
        let mut view: PartyView = decode(view).unwrap();
        view.epoch = view.epoch.map(|_| sign_raw(aggregator, bytes));
        look(&view);
        let mut view: PartyView = PartyView { epoch: None, ..view };
        view.gradient = Some(sign_raw(&holder.identity, bytes));
        look(&view);
    }
}

/// Bytes as what a party sees.
pub fn fuzz_view(bytes: &[u8]) {
    if let Ok(view) = decode::<PartyView>(bytes) {
        assert_eq!(decode::<PartyView>(&encode(&view)).unwrap(), view);
        look(&view);
    }
}

/// Bytes as a stored machine: what decodes encodes to something that decodes.
pub fn fuzz_state(bytes: &[u8]) {
    fn state<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
        if let Ok(state) = decode::<T>(bytes) {
            assert!(decode::<T>(&encode(&state)).is_ok());
        }
    }
    state::<AuthorityJob>(bytes);
    state::<AggregatorJob>(bytes);
    state::<PartyJob>(bytes);
}

fn sign_raw<T: Body>(identity: &Identity, body: &[u8]) -> Signed<T> {
    Signed::from_parts(body.to_vec(), Signature(identity.sign(T::DOMAIN, body)))
}

fn show(message: VerticalMessage) {
    handle_everywhere(&Message::Vertical(message));
}

/// Both services' machines in every state take the message, or refuse it.
fn handle_everywhere(message: &Message) {
    let Fixture { world, aggregators, authorities, .. } = fixture();
    let mut rng = ChaCha20Rng::seed_from_u64(7);
    let identity = &world.aggregator_identity;
    for machine in aggregators.values() {
        let mut cx = Context { now_ms: 1, identity, rng: &mut rng };
        let event = aggregator::Event::Message(Box::new(message.clone()));
        assert!(load::<AggregatorJob>(machine).handle(&mut cx, event).is_ok());
    }
    let directory: BTreeMap<Name, RosterEntry> =
        world.parties.iter().map(|party| (party.name.clone(), party.entry.clone())).collect();
    let identity = &world.authorities[0].identity;
    for machine in authorities.values() {
        let mut cx = Context { now_ms: 1, identity, rng: &mut rng };
        let job: AuthorityJob = load(machine);
        assert!(job.handle(&mut cx, &directory, message.clone()).is_ok());
    }
}

/// Every party in every state looks, and refuses or goes on.
fn look(view: &PartyView) {
    let Fixture { world, parties, .. } = fixture();
    let mut rng = ChaCha20Rng::seed_from_u64(7);
    for ((index, _), machine) in parties {
        let identity = &world.parties[*index].identity;
        let mut cx = Context { now_ms: 1, identity, rng: &mut rng };
        let event = party::Event::View(Box::new(view.clone()));
        assert!(load::<PartyJob>(machine).handle(&mut cx, event).is_ok());
    }
}
