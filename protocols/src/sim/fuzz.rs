//! Plain functions that take hostile bytes, for property tests and fuzzers, and one sample of every
//! message to start from. None may panic, whatever the bytes.

use std::sync::OnceLock;

use quorate_crypto::keys::Identity;
use serde::{Serialize, de::DeserializeOwned};

use super::lab::{Kind, bulk, context, stream};
use super::scenario::size;
use super::stage::{Stage, indicator};
use super::world::threshold_scheme;
use crate::machine::Peer;
use crate::refusal::{Code, Culprit, Refusal};
use crate::round::aggregator::{self, AggregatorJob};
use crate::round::authority::{self, AuthorityJob};
use crate::round::messages::{
    Freeze, FuncKey, KeyRequest, KeyTranscript, Message, PromiseRequest, Receipt, RoundOpen,
    ShareAsk, ShareRefused, SubmitHeader, TombstoneRequest, request_hash, y_hash,
};
use crate::round::party::{self, PartyJob};
use crate::wire::{Body, Signature, Signed, decode, encode};

/// Honest machines in several states, and a sample of every message.
struct Fixture {
    stage: Stage,
    authorities: Vec<AuthorityJob>,
    aggregators: Vec<AggregatorJob>,
    parties: Vec<PartyJob>,
    samples: Vec<(&'static str, Vec<u8>)>,
    header: Vec<u8>,
    keyed: Keyed,
}

/// A threshold job's machines.
struct Keyed {
    stage: Stage,
    authorities: Vec<AuthorityJob>,
    parties: Vec<PartyJob>,
    transcript: KeyTranscript,
    ask: ShareAsk,
}

fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(build)
}

fn build() -> Fixture {
    let mut stage = Stage::new(11, &size(Kind::Sum, 1));
    let all = [0, 1, 2, 3, 4];
    let (mut authorities, mut parties) = (Vec::new(), Vec::new());
    let mut aggregators = Vec::new();
    let mut samples = Vec::new();
    let mut rng = stream(11, "fuzz", &[]);
    let identity = Identity::from_bytes(stage.lab.aggregator.to_bytes().expose());
    let manifest = stage.lab.manifest.clone();
    samples.push(("register", Message::Register(Box::new(manifest.clone()))));
    let cx = context(1, &identity, &mut rng);
    let mut job = AggregatorJob::create(&cx, manifest.clone(), stage.model.hash()).unwrap().0;
    let mut tell = |job: &mut AggregatorJob, message: Message| {
        let event =
            aggregator::Event::Message { from: Peer::Aggregator, message: Box::new(message) };
        let next = job.clone().handle(&mut context(1, &identity, &mut rng), event).unwrap().0;
        aggregators.push(core::mem::replace(job, next));
    };
    for authority in &stage.authorities {
        let approval = Message::Approval(authority.approval().signed().clone());
        tell(&mut job, approval.clone());
        samples.push(("approval", approval));
    }
    for (keys, party) in stage.lab.parties.iter().zip(&stage.parties) {
        let mut rng = stream(12, "fuzz", &[]);
        let cx = context(1, &keys.identity, &mut rng);
        let join = party.join_message(&cx, keys.certificates.clone());
        tell(&mut job, join.clone());
        samples.push(("join", join));
    }
    parties.push(stage.parties[0].clone());
    authorities.push(stage.authorities[0].clone());

    let open = job.open_round().unwrap().signed().clone();
    samples.push(("round-open", Message::RoundOpen(open.clone())));
    let members = stage.submit_all(&all, &open).unwrap();
    let header = members[0].header.clone();
    parties.push(stage.parties[0].clone());
    for one in &members {
        tell(&mut job, Message::Submit(one.header.clone()));
    }
    samples.push(("submit", Message::Submit(header.clone())));
    let said = header.peek().unwrap();
    let receipt = Receipt { label: said.label, party: said.party.clone(), header: header.hash() };
    let receipt = Signed::sign(receipt, &stage.lab.aggregator).signed().clone();
    samples.push(("receipt", Message::Receipt(receipt)));
    stage.receipt(0, &members[0]).unwrap();
    parties.push(stage.parties[0].clone());

    let freeze = stage.freeze(&open, &members);
    let y = indicator(&open.peek().unwrap().roster, &members);
    let request = PromiseRequest { freeze: freeze.clone(), y: y.clone() };
    samples.push(("promise-request", Message::PromiseRequest(request)));
    let promises = [0, 1].map(|a| stage.promise(a, &freeze, &y).unwrap());
    authorities.push(stage.authorities[0].clone());
    for promise in &promises {
        tell(&mut job, Message::Promise(promise.clone()));
    }
    samples.push(("promise", Message::Promise(promises[0].clone())));
    let (manifest, label) = (manifest.hash(), said.label);
    let request = KeyRequest { manifest, label, promises: promises.to_vec() };
    samples.push(("key-request", Message::KeyRequest(request)));
    for (a, keys) in stage.lab.authorities.iter().enumerate() {
        let key = FuncKey {
            authority: keys.name.clone(),
            label,
            request: request_hash(&label, &freeze.hash(), &y_hash(&y)),
            key: bulk(&vec![0; usize::try_from(said.ciphertext.len).unwrap()]),
        };
        let key = Message::FuncKey(Signed::sign(key, &keys.identity).signed().clone());
        if a == 0 {
            samples.push(("func-key", key.clone()));
        }
        tell(&mut job, key);
    }
    stage.key(0, label, &promises).unwrap();
    authorities.push(stage.authorities[0].clone());
    let request = TombstoneRequest { manifest, round: 1, attempt: 0 };
    let request = Signed::sign(request, &stage.lab.aggregator).signed().clone();
    samples.push(("tombstone-request", Message::TombstoneRequest(request)));
    let tombstone = stage.tombstone(0, 1, 0).unwrap();
    samples.push(("tombstone", Message::Tombstone(tombstone)));
    authorities.push(stage.authorities[0].clone());
    samples.push(("result", Message::Result(stage.record(&open, &members))));
    samples.push(("refused", Message::Refused(Refusal::new(Code::Late, "too late"))));
    aggregators.push(job);
    samples.dedup_by_key(|(name, _)| *name);
    let keyed = keyed_samples(&mut samples);
    let samples = samples.into_iter().map(|(name, m)| (name, m.to_wire())).collect();
    Fixture { stage, authorities, aggregators, parties, samples, header: header.to_wire(), keyed }
}

/// A threshold job: its machines in several states, and the messages that only such jobs send.
fn keyed_samples(samples: &mut Vec<(&'static str, Message)>) -> Keyed {
    let scheme = threshold_scheme().unwrap();
    let mut stage = Stage::new(11, &size(Kind::Sum, scheme));
    let all = [0, 1, 2, 3, 4];
    let (mut parties, mut authorities) = (Vec::new(), Vec::new());
    parties.push(stage.parties[0].clone());
    authorities.push(stage.authorities[0].clone());
    let transcript = stage.make_key(0, &all).unwrap();
    parties.push(stage.parties[0].clone());
    authorities.push(stage.authorities[0].clone());
    let ask = KeyTranscript { posts: transcript.posts[..1].to_vec(), ..transcript.clone() };
    samples.push(("key-ask", Message::KeyAsk(Box::new(ask))));
    samples.push(("key-post", Message::KeyPost(transcript.posts[0].clone())));
    stage.accept_key(&transcript).unwrap();
    parties.push(stage.parties[0].clone());
    let open = stage.sign(stage.opening(0, 0, &all));
    let members = stage.submit_all(&all, &open).unwrap();
    let freeze = stage.freeze(&open, &members);
    let y = indicator(&open.peek().unwrap().roster, &members);
    let promise = stage.promise(0, &freeze, &y).unwrap();
    let ask = stage.ask(&freeze, &[promise]);
    let (partial, bytes) = stage.share(0, &ask).unwrap();
    parties.push(stage.parties[0].clone());
    let said = partial.peek().unwrap();
    samples.push(("partial", Message::Partial(partial, bytes)));
    let refusal = Refusal::new(Code::BadCiphertext, "a wrong reply")
        .blaming(Culprit::Party(stage.lab.parties[1].entry.party.clone()));
    let refused = ShareRefused { holder: said.holder, label: said.label, refusal };
    let refused = Signed::sign(refused, &stage.lab.parties[0].identity).signed().clone();
    samples.push(("share-refused", Message::ShareRefused(refused)));
    Keyed { stage, authorities, parties, transcript, ask }
}

/// One encoded message of each kind, by name; the same in every build of one wire version.
#[must_use]
pub fn samples() -> &'static [(&'static str, Vec<u8>)] {
    &fixture().samples
}

/// The 256 bytes in front of a ciphertext.
#[must_use]
pub fn header_sample() -> &'static [u8] {
    &fixture().header
}

/// Bytes as a control message: what decodes encodes back, and no machine panics on it.
pub fn fuzz_message(bytes: &[u8]) {
    let Ok(message) = Message::from_wire(bytes) else { return };
    let again = Message::from_wire(&message.to_wire()).unwrap();
    assert_eq!(again.to_wire(), message.to_wire(), "an encoding that does not read back");
    handle_everywhere(&message);
}

/// Bytes as the header of a submission: what decodes encodes back to the same bytes.
pub fn fuzz_submit_header(bytes: &[u8]) {
    let Ok(header) = Signed::<SubmitHeader>::from_wire(bytes) else { return };
    assert_eq!(header.to_wire(), bytes);
    if let Ok(said) = header.peek() {
        assert_eq!(said.to_bytes(), header.body(), "a second encoding of one header");
    }
    for job in &fixture().aggregators {
        let _ = job.admit(1, &header);
    }
    handle_everywhere(&Message::Submit(header));
}

/// Bytes as the body of every message that the aggregator or a party signs, with a good
/// signature: what lies behind the check of signatures.
pub fn fuzz_signed(bytes: &[u8]) {
    let Fixture { stage, .. } = fixture();
    let (aggregator, party) = (&stage.lab.aggregator, &stage.lab.parties[0].identity);
    let open = sign_raw::<RoundOpen>(aggregator, bytes);
    handle_everywhere(&Message::RoundOpen(open));
    handle_everywhere(&Message::Submit(sign_raw(party, bytes)));
    handle_everywhere(&Message::Receipt(sign_raw(aggregator, bytes)));
    handle_everywhere(&Message::Result(sign_raw(aggregator, bytes)));
    handle_everywhere(&Message::TombstoneRequest(sign_raw(aggregator, bytes)));
    handle_everywhere(&Message::Join(sign_raw(party, bytes)));
    let freeze = sign_raw::<Freeze>(aggregator, bytes);
    let request = PromiseRequest { freeze, y: vec![1; 5] };
    handle_everywhere(&Message::PromiseRequest(request));
    let authority = &stage.lab.authorities[0].identity;
    handle_everywhere(&Message::Approval(sign_raw(authority, bytes)));
    handle_everywhere(&Message::Promise(sign_raw(authority, bytes)));
    handle_everywhere(&Message::FuncKey(sign_raw(authority, bytes)));
    handle_everywhere(&Message::Tombstone(sign_raw(authority, bytes)));
    handle_everywhere(&Message::KeyPost(sign_raw(party, bytes)));
    handle_everywhere(&Message::Partial(sign_raw(party, bytes), Vec::new()));
    handle_everywhere(&Message::ShareRefused(sign_raw(party, bytes)));
    let Keyed { stage, transcript, ask, .. } = &fixture().keyed;
    let call = sign_raw(&stage.lab.aggregator, bytes);
    show_key(&KeyTranscript { call, posts: Vec::new() });
    let mut posts = transcript.posts.clone();
    posts[0] = sign_raw(&stage.lab.parties[0].identity, bytes);
    show_key(&KeyTranscript { posts, ..transcript.clone() });
    let freeze = sign_raw::<Freeze>(&stage.lab.aggregator, bytes);
    ask_share(&ShareAsk { freeze, ..ask.clone() });
    let promises = vec![sign_raw(&stage.lab.authorities[0].identity, bytes)];
    ask_share(&ShareAsk { promises, ..ask.clone() });
}

/// Bytes as a transcript of a key and as an ask for shares, which parties find at the aggregator.
pub fn fuzz_holder(bytes: &[u8]) {
    if let Ok(transcript) = decode(bytes) {
        show_key(&transcript);
    }
    if let Ok(ask) = decode(bytes) {
        ask_share(&ask);
    }
}

/// Seeds for [`fuzz_holder`].
#[must_use]
pub fn holder_samples() -> [Vec<u8>; 2] {
    let Keyed { transcript, ask, .. } = &fixture().keyed;
    [encode(transcript), encode(ask)]
}

fn show_key(transcript: &KeyTranscript) {
    tell_parties(&party::Event::Key(transcript.clone()));
    let message = Message::KeyAsk(Box::new(transcript.clone()));
    handle_everywhere(&message);
}

fn ask_share(ask: &ShareAsk) {
    tell_parties(&party::Event::Share(ask.clone()));
}

fn tell_parties(event: &party::Event) {
    let Keyed { stage, parties, .. } = &fixture().keyed;
    let mut rng = stream(14, "fuzz", &[]);
    for job in parties {
        let mut cx = context(1, &stage.lab.parties[0].identity, &mut rng);
        let handled = job.clone().handle(&mut cx, event.clone());
        assert!(handled.is_ok(), "a peer's message is a bug of ours");
    }
}

/// Bytes as a stored state of each role: what decodes encodes to something that reads back.
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

/// Seeds for [`fuzz_state`].
#[must_use]
pub fn state_samples() -> Vec<Vec<u8>> {
    let Fixture { authorities, aggregators, parties, .. } = fixture();
    let mut all: Vec<Vec<u8>> = authorities.iter().map(encode).collect();
    all.extend(aggregators.iter().map(encode));
    all.extend(parties.iter().map(encode));
    all
}

fn sign_raw<T: Body>(identity: &Identity, body: &[u8]) -> Signed<T> {
    Signed::from_parts(body.to_vec(), Signature(identity.sign(T::DOMAIN, body)))
}

/// Every machine in every state takes the message, or refuses it.
fn handle_everywhere(message: &Message) {
    let Fixture { stage, authorities, aggregators, parties, keyed, .. } = fixture();
    let mut rng = stream(13, "fuzz", &[]);
    let keys = &keyed.stage.lab.authorities[0];
    for job in &keyed.authorities {
        let event = authority::Event::Message(Box::new(message.clone()));
        let mut cx = context(1, &keys.identity, &mut rng);
        let handled = job.clone().handle(&mut cx, &keys.directory, event);
        assert!(handled.is_ok(), "a peer's message is a bug of ours");
    }
    let keys = &stage.lab.authorities[0];
    for job in authorities {
        let event = authority::Event::Message(Box::new(message.clone()));
        let mut cx = context(1, &keys.identity, &mut rng);
        let handled = job.clone().handle(&mut cx, &keys.directory, event);
        assert!(handled.is_ok(), "a peer's message is a bug of ours");
    }
    for job in aggregators {
        let from = Peer::Party(stage.lab.parties[0].entry.party.clone());
        let event = aggregator::Event::Message { from, message: Box::new(message.clone()) };
        let mut cx = context(1, &stage.lab.aggregator, &mut rng);
        assert!(job.clone().handle(&mut cx, event).is_ok(), "a peer's message is a bug of ours");
    }
    let event = match message {
        Message::RoundOpen(open) => party::Event::Open(open.clone()),
        Message::Receipt(receipt) => party::Event::Receipt(receipt.clone()),
        Message::Result(record) => {
            party::Event::Result { record: record.clone(), state: stage.model.hash() }
        }
        _ => return,
    };
    for job in parties {
        let mut cx = context(1, &stage.lab.parties[0].identity, &mut rng);
        let handled = job.clone().handle(&mut cx, event.clone());
        assert!(handled.is_ok(), "a peer's message is a bug of ours");
    }
}
