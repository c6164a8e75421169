//! A driver per role: it loads the last committed state, handles one event, commits, then sends;
//! it may die before the commit, before it sends, or after.

use quorate_crypto::conformance::plain_sum;
use quorate_crypto::threshold::AUTHORITY;
use rand_core::Rng;
use serde::{Serialize, de::DeserializeOwned};

use super::lab::{bulk, context, draw};
use super::liar::{AuthorityLie, HolderLie};
use super::world::{Item, Node, Packet, Work, World};
use crate::job::Minima;
use crate::machine::{Output, Peer};
use crate::model::ModelState;
use crate::policy::Ledger;
use crate::refusal::{Code, Refusal};
use crate::round::aggregator::{self, AggregatorJob, Opened};
use crate::round::authority::{self, AuthorityJob, AuthorityWork};
use crate::round::authority::{ComputeKey, KeyMember};
use crate::round::keying::PostWork;
use crate::round::messages::{KeyTranscript, Message, Partial, SubmitHeader};
use crate::round::party::{self, PartyJob, PartyWork};
use crate::wire::{Name, Signed, decode, encode};

/// The three moments at which a driver dies.
pub const CRASHES: [&str; 3] = ["crash before commit", "crash before send", "crash after send"];

/// An encoded message, with the bytes of a functional key if it describes one.
type Answer = (Vec<u8>, Option<Vec<u8>>);

/// Encodes a state, and proves that it reads back as itself.
pub(super) fn stored<T: Serialize + DeserializeOwned>(value: &T) -> Vec<u8> {
    let bytes = encode(value);
    let back: T = decode(&bytes).unwrap();
    assert_eq!(encode(&back), bytes, "a state does not survive its own encoding");
    bytes
}

/// A party's job and the model it computed, as committed.
#[must_use]
pub fn load_party(bytes: &[u8]) -> (PartyJob, ModelState) {
    decode(bytes).unwrap()
}

/// The aggregator's job and the model it computed, as committed.
#[must_use]
pub fn load_aggregator(bytes: &[u8]) -> (AggregatorJob, ModelState) {
    decode(bytes).unwrap()
}

/// Whether the open step of a key waits for this holder.
fn waits_for(shown: &KeyTranscript, name: &Name) -> bool {
    let posts: Vec<Name> = shown.posts.iter().map(|post| post.peek().unwrap().from).collect();
    let count = |name: &Name| posts.iter().filter(|from| *from == name).count();
    let holders = shown.call.peek().unwrap().holders;
    let least = holders.iter().map(|holder| count(&holder.party)).min();
    holders.iter().any(|holder| holder.party == *name) && least == Some(count(name))
}

impl World {
    pub(super) fn crash_point(&mut self) -> Option<usize> {
        self.trouble().then(|| usize::try_from(draw(&mut self.rng, 0, 2)).unwrap())
    }

    pub(super) fn initial_model(&self) -> ModelState {
        ModelState::of_job(&self.lab.manifest)
    }

    /// Schedules heavy work, unless it is under way.
    pub(super) fn begin(&mut self, node: Node, work: Work) {
        let process = self.processes.get_mut(&node).unwrap();
        if process.up && !core::mem::replace(&mut process.working, true) {
            let life = process.life;
            let key = matches!(work, Work::Party(PartyWork::Post(_) | PartyWork::Share { .. }));
            let takes = draw(&mut self.rng, 1, if key { 150 } else { 60 });
            self.at(takes, Item::Work { node, life, work });
        }
    }

    /// A process begins a life.
    pub(super) fn started(&mut self, node: Node) {
        if node != Node::Aggregator || self.processes[&node].disk.state.is_some() {
            return;
        }
        let model = self.initial_model();
        let identity = &self.lab.aggregator;
        let cx = context(self.now_ms, identity, &mut self.nonces);
        let (job, outputs) =
            AggregatorJob::create(&cx, self.lab.manifest.clone(), model.hash()).unwrap();
        self.commit_aggregator(&(job, model), outputs);
    }

    /// A driver's timer: time-outs, and everything that still waits for an answer.
    pub(super) fn tick(&mut self, node: Node) {
        match node {
            Node::Aggregator => {
                let Some(job) = self.aggregator_job() else { return };
                if job.deadline_ms().is_some_and(|deadline| deadline <= self.now_ms) {
                    self.aggregator_event(aggregator::Event::Wake);
                }
                if self.processes[&node].up
                    && let Some(job) = self.aggregator_job()
                {
                    self.send_aggregator(job.requests());
                }
            }
            Node::Authority(_) => {}
            Node::Party(party) => self.party_tick(party),
        }
    }

    /// A packet arrives at a running process.
    pub(super) fn arrive(&mut self, packet: Packet) {
        match packet {
            Packet::Request { authority, bytes } => {
                if let Some(answers) = self.authority_request(authority, &bytes) {
                    for (bytes_out, key) in answers {
                        self.answer(authority, bytes.clone(), bytes_out, key);
                    }
                }
            }
            Packet::Answer { authority, request, bytes, key } => {
                self.answered(authority, &request, &bytes, key);
            }
            Packet::Poll { party, next_round, keyed } => self.polled(party, next_round, keyed),
            Packet::News { party, package, open, results, joined, key, ask } => {
                self.news(party, &package, open, results, joined, (key, ask));
            }
            Packet::Taken { party, label } => {
                self.party_event(party, party::Event::ShareTaken { label }, None);
            }
            Packet::Control { bytes, party } => self.controlled(party, &bytes),
            Packet::Submit { party, header, ciphertext } => {
                self.submitted(party, &header, ciphertext);
            }
            Packet::Reply { party, bytes } => match Message::from_wire(&bytes).unwrap() {
                Message::Receipt(receipt) => {
                    self.party_event(party, party::Event::Receipt(receipt), None);
                }
                Message::Refused(refusal) => {
                    self.audit.note(format!("party {party} is refused: {refusal}"));
                }
                other => self.audit.broken(format!("a party is sent {other:?}")),
            },
        }
    }

    /// Heavy work ends.
    pub(super) fn worked(&mut self, node: Node, work: Work) {
        match (node, work) {
            (Node::Aggregator, Work::Open(work)) => self.opened(&work),
            (Node::Authority(a), Work::Post(work, request)) => {
                self.authority_post(a, &work, &request);
            }
            (Node::Authority(a), Work::Key(work, request)) => {
                self.audit.key(a, &work, self.lab.manifest.floor());
                let bytes = if self.lab.manifest.is_threshold() {
                    // The replies come from the aggregator, which asks again if it was away.
                    let Some(replies) = self.replies(&work.members) else { return };
                    self.authority_partial(a, &work, &replies)
                } else {
                    self.lab.functional_key(a, &work)
                };
                let key = bulk(&bytes);
                self.processes.get_mut(&node).unwrap().disk.blobs.insert(key.root, bytes);
                let event = authority::Event::KeyReady { label: work.label, key };
                for (bytes, key) in self.authority_event(a, event, &request).unwrap_or_default() {
                    self.answer(a, request.clone(), bytes, key);
                }
            }
            (Node::Party(party), Work::Party(work)) => self.party_worked(party, &work),
            other => self.audit.broken(format!("work of another role: {other:?}")),
        }
    }

    /// The replies of a frozen set, as the aggregator serves them.
    pub(super) fn replies(&self, members: &[KeyMember]) -> Option<Vec<Vec<u8>>> {
        let aggregator = &self.processes[&Node::Aggregator];
        let reply = |m: &KeyMember| aggregator.disk.blobs.get(&m.ciphertext.root).cloned();
        if aggregator.up { members.iter().map(reply).collect() } else { None }
    }

    /// Randomness of a post to the threshold key.
    pub(super) fn fresh_seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.nonces.fill_bytes(&mut seed);
        seed
    }

    /// Charges and refunds among `outputs`, to be committed with them: all or none.
    pub(super) fn settle<M, W>(
        &mut self,
        node: Node,
        who: &str,
        outputs: &[Output<M, W>],
    ) -> Result<Ledger, Refusal> {
        let mut ledger = self.processes[&node].disk.ledger.clone();
        for output in outputs {
            match output {
                Output::Charge(charge) => {
                    if let Err(refusal) = ledger.charge(charge, None) {
                        self.audit.refusal(who, &refusal);
                        return Err(refusal);
                    }
                }
                Output::Refund(charge) => ledger.refund(&charge.job, charge.round),
                _ => {}
            }
        }
        Ok(ledger)
    }

    /// Commits a state, its ledger and, after a post, the secret it left.
    pub(super) fn commit<M, W>(
        &mut self,
        node: Node,
        state: Vec<u8>,
        ledger: Ledger,
        outputs: &[Output<M, W>],
    ) {
        let kept = self.kept.take();
        let disk = &mut self.processes.get_mut(&node).unwrap().disk;
        disk.state = Some(state);
        disk.ledger = ledger;
        if let Some((place, secret)) = kept {
            // A post that was made before is not made again: its secret stays.
            disk.secrets.entry(place).or_insert(secret);
        }
        for output in outputs {
            match output {
                Output::Charge(charge) => self.audit.charge(node, charge.round),
                Output::Refund(charge) => self.audit.refund(node, charge.round),
                _ => {}
            }
        }
    }

    // --- aggregator ---

    pub(super) fn cancel(&mut self) {
        self.aggregator_event(aggregator::Event::Cancel);
    }

    fn aggregator_event(&mut self, event: aggregator::Event) -> Option<Refusal> {
        self.aggregator_event_with(event, None)
    }

    fn aggregator_event_with(
        &mut self,
        event: aggregator::Event,
        next_model: Option<ModelState>,
    ) -> Option<Refusal> {
        let node = Node::Aggregator;
        let bytes = self.processes[&node].disk.state.clone()?;
        let (job, model): (AggregatorJob, ModelState) = decode(&bytes).unwrap();
        let before = job.results().len();
        let crash = self.crash_point();
        let mut cx = context(self.now_ms, &self.lab.aggregator, &mut self.nonces);
        let (job, outputs) = match job.handle(&mut cx, event) {
            Ok(done) => done,
            Err(bug) => {
                self.audit.broken(format!("aggregator: {bug}"));
                return None;
            }
        };
        if crash == Some(0) {
            self.crash(node, CRASHES[0]);
            return None;
        }
        let model = if job.results().len() > before { next_model.unwrap() } else { model };
        if job.outcome().is_some() {
            self.over();
        }
        self.processes.get_mut(&node).unwrap().disk.state = Some(stored(&(job, model)));
        let refused = self.facts("aggregator", &outputs);
        if crash == Some(1) {
            self.crash(node, CRASHES[1]);
            return refused;
        }
        self.send_aggregator(outputs);
        if crash == Some(2) {
            self.crash(node, CRASHES[2]);
        }
        refused
    }

    fn commit_aggregator(
        &mut self,
        state: &(AggregatorJob, ModelState),
        outputs: Vec<aggregator::AggregatorOutput>,
    ) {
        let process = self.processes.get_mut(&Node::Aggregator).unwrap();
        process.disk.state = Some(stored(state));
        self.facts("aggregator", &outputs);
        if self.crash_point().is_some() {
            return self.crash(Node::Aggregator, CRASHES[1]);
        }
        self.send_aggregator(outputs);
    }

    /// Logs committed facts and checks refusals.
    pub(super) fn facts<M, W>(&mut self, who: &str, outputs: &[Output<M, W>]) -> Option<Refusal> {
        let mut refused = None;
        for output in outputs {
            match output {
                Output::Log(fact) => self.audit.fact(who, fact),
                Output::Reject(refusal) => {
                    self.audit.refusal(who, refusal);
                    refused = Some(refusal.clone());
                }
                _ => {}
            }
        }
        refused
    }

    fn send_aggregator(&mut self, outputs: Vec<aggregator::AggregatorOutput>) {
        for output in outputs {
            match output {
                Output::Send { to: Peer::Authority(name), message } => {
                    let authority =
                        self.lab.authorities.iter().position(|a| a.name == name).unwrap();
                    self.send(Packet::Request { authority, bytes: message.to_wire() });
                }
                Output::Send { to: Peer::Party(name), message } => {
                    let party =
                        self.lab.parties.iter().position(|p| p.entry.party == name).unwrap();
                    self.send(Packet::Reply { party, bytes: message.to_wire() });
                }
                Output::Send { to: Peer::Aggregator, .. } => {
                    self.audit.broken("the aggregator writes to itself");
                }
                Output::Work(work) => self.begin(Node::Aggregator, Work::Open(work)),
                Output::Log(_) | Output::Reject(_) | Output::Charge(_) | Output::Refund(_) => {}
            }
        }
    }

    fn answered(&mut self, authority: usize, request: &[u8], bytes: &[u8], key: Option<Vec<u8>>) {
        let by = self.lab.authorities[authority].name.clone();
        let message = Message::from_wire(bytes).unwrap();
        if let Some(key) = key {
            let disk = &mut self.processes.get_mut(&Node::Aggregator).unwrap().disk;
            disk.blobs.insert(bulk(&key).root, key);
        }
        let event = match message {
            Message::Refused(refusal) if refusal.code == Code::Unavailable => return,
            Message::Refused(refusal) => {
                let request = Box::new(Message::from_wire(request).unwrap());
                aggregator::Event::Refused { by, request, refusal }
            }
            Message::FuncKey(signed) => {
                // A key counts once its bytes are here.
                let root = signed.peek().map(|key| key.key.root);
                let blobs = &self.processes[&Node::Aggregator].disk.blobs;
                if !root.is_ok_and(|root| blobs.contains_key(&root)) {
                    return;
                }
                aggregator::Event::Message {
                    from: Peer::Authority(by),
                    message: Box::new(Message::FuncKey(signed)),
                }
            }
            message => {
                aggregator::Event::Message { from: Peer::Authority(by), message: Box::new(message) }
            }
        };
        let (_, state) = self.state(Node::Aggregator);
        let refused = self.aggregator_event(event);
        if let Some(lie) = self.lies.authority(authority)
            && lie.meets() == state
        {
            self.lied(state, lie.text(), refused.as_ref());
        }
    }

    /// A control message of a party arrives.
    fn controlled(&mut self, party: usize, bytes: &[u8]) {
        let from = Peer::Party(self.lab.parties[party].entry.party.clone());
        let Some(job) = self.aggregator_job() else { return };
        let state = job.state_name();
        let message = Message::from_wire(bytes).unwrap();
        let holder = matches!(
            message,
            Message::KeyPost(_) | Message::Partial(..) | Message::ShareRefused(_)
        );
        let label = match &message {
            Message::Partial(partial, _) => partial.peek().ok().map(|said| said.label),
            Message::ShareRefused(refused) => refused.peek().ok().map(|said| said.label),
            _ => None,
        };
        let refusal = match message {
            Message::Partial(partial, bytes) => self.partial(&job, from, partial, bytes),
            message => self
                .aggregator_event(aggregator::Event::Message { from, message: Box::new(message) }),
        };
        if let Some(lie) = self.lies.holder(party).filter(|_| holder) {
            self.lied(state, lie.text(), refusal.as_ref());
        }
        if let Some(label) = label.filter(|_| self.processes[&Node::Aggregator].up) {
            self.send(Packet::Taken { party, label });
        }
    }

    /// A partial decryption: its bytes are stored before the machine hears of it.
    fn partial(
        &mut self,
        job: &AggregatorJob,
        from: Peer,
        partial: Signed<Partial>,
        bytes: Vec<u8>,
    ) -> Option<Refusal> {
        let early = job.admit_partial(&partial).and_then(|said| match bulk(&bytes) {
            bulk if bulk == said.partial => Ok(bulk.root),
            _ => Err(Refusal::new(Code::Malformed, "the bytes are not those of the message")),
        });
        match early {
            Ok(root) => {
                let disk = &mut self.processes.get_mut(&Node::Aggregator).unwrap().disk;
                disk.blobs.insert(root, bytes);
                let message = Box::new(Message::Partial(partial, Vec::new()));
                self.aggregator_event(aggregator::Event::Message { from, message })
            }
            Err(refusal) => {
                self.audit.refusal("aggregator", &refusal);
                Some(refusal)
            }
        }
    }

    fn polled(&mut self, party: usize, next_round: u32, keyed: bool) {
        let Some(job) = self.aggregator_job() else { return };
        let Some(package) = job.package() else { return };
        let blobs = &self.processes[&Node::Aggregator].disk.blobs;
        let results = job
            .results()
            .iter()
            .skip(next_round as usize)
            .map(|record| (encode(record.signed()), blobs[&record.sum.root].clone()))
            .collect();
        let open = job.open_round().map(|open| encode(open.signed()));
        let name = &self.lab.parties[party].entry.party;
        let joined = job.status().joined.contains(name);
        let package = encode(&package);
        let key = job
            .key_transcript()
            .filter(|shown| !keyed && (job.job_key().is_some() || waits_for(shown, name)))
            .map(|key| encode(&key));
        let ask = job.share_ask().filter(|_| job.wants_share(name)).map(|ask| encode(&ask));
        self.send(Packet::News { party, package, open, results, joined, key, ask });
    }

    fn submitted(&mut self, party: usize, header: &[u8], ciphertext: Vec<u8>) {
        let header = Signed::<SubmitHeader>::from_wire(header).unwrap();
        let Some(job) = self.aggregator_job() else { return };
        let state = job.state_name();
        let early = job.admit(self.now_ms, &header).err().or_else(|| {
            let claimed = header.peek().map(|header| header.ciphertext).ok();
            (claimed != Some(bulk(&ciphertext)))
                .then(|| Refusal::new(Code::Malformed, "the bytes are not those of the header"))
        });
        // Only replies with a good proof count.
        let early = early.or_else(|| {
            let (key, said) = (job.job_key()?, header.peek().ok()?);
            let round = job.live_attempt()?.0.fields.round;
            self.lab.verify_reply(key, round, &said, &ciphertext).err()
        });
        let refusal = if let Some(refusal) = early {
            self.audit.refusal("aggregator", &refusal);
            Some(refusal)
        } else {
            let disk = &mut self.processes.get_mut(&Node::Aggregator).unwrap().disk;
            disk.blobs.insert(bulk(&ciphertext).root, ciphertext);
            let from = Peer::Party(self.lab.parties[party].entry.party.clone());
            let message = Box::new(Message::Submit(header));
            self.aggregator_event(aggregator::Event::Message { from, message })
        };
        if let Some(lie) = self.lies.party(party) {
            self.lied(state, lie.text(), refusal.as_ref());
        }
        if let Some(refusal) = refusal {
            self.send(Packet::Reply { party, bytes: Message::Refused(refusal).to_wire() });
        }
    }

    fn opened(&mut self, work: &aggregator::OpenSum) {
        let blobs = &self.processes[&Node::Aggregator].disk.blobs;
        let of = |list: &[(crate::wire::Name, _)]| -> Vec<Vec<u8>> {
            let bulk = |(_, bulk): &(_, crate::round::messages::BulkRef)| bulk.root;
            list.iter().map(|one| blobs[&bulk(one)].clone()).collect()
        };
        let (ciphertexts, keys) = (of(&work.ciphertexts), of(&work.keys));
        let holders = work.partials.iter().map(|(name, _)| name.clone());
        let partials: Vec<(Name, Vec<u8>)> = holders.zip(of(&work.partials)).collect();
        let (job, model): (AggregatorJob, ModelState) =
            decode(self.processes[&Node::Aggregator].disk.state.as_ref().unwrap()).unwrap();
        let lab = &self.lab;
        let (round, label) = (work.round, work.label);
        let outcome = match job.job_key() {
            Some(key) => lab.open_shares(key, round, label, &ciphertexts, &keys[0], &partials),
            None => lab
                .open(round, label, ciphertexts, keys)
                .map_err(|e| Refusal::new(Code::CheckSlot, e.to_string())),
        };
        let outcome = outcome.and_then(|sum| {
            let read = lab.read(work.round, work.ciphertexts.len(), &sum)?;
            let next = model
                .advance(&lab.manifest.workload, work.round, &read)
                .map_err(|e| Refusal::new(Code::CheckSlot, e.to_string()))?;
            Ok((sum, next))
        });
        let mut next_model = None;
        let outcome = match outcome {
            Ok((sum, next)) => {
                self.check_sum(work, &sum);
                let opened = Opened { sum: bulk(&sum), state: next.hash() };
                let disk = &mut self.processes.get_mut(&Node::Aggregator).unwrap().disk;
                disk.blobs.insert(opened.sum.root, sum);
                next_model = Some(next);
                Ok(opened)
            }
            Err(refusal) if refusal.code == Code::BadShare => {
                let liar = self.lies.holder(0).map(HolderLie::text);
                self.lied("Opening", liar.unwrap_or("authority's key is garbage"), Some(&refusal));
                self.audit.refusal("aggregator", &refusal);
                Err(refusal)
            }
            Err(refusal) => {
                self.strike(Node::Aggregator, "garbage sum");
                Err(refusal)
            }
        };
        let event = aggregator::Event::Opened { label: work.label, outcome };
        self.aggregator_event_with(event, next_model);
    }

    /// The sum equals plain arithmetic over the stored plaintexts of its members.
    fn check_sum(&mut self, work: &aggregator::OpenSum, sum: &[u8]) {
        let plains: Vec<Vec<u8>> = work
            .ciphertexts
            .iter()
            .map(|(name, _)| {
                let party = self.lab.parties.iter().position(|p| p.entry.party == *name).unwrap();
                let root = self.audit.contribution_of(name, work.round);
                self.processes[&Node::Party(party)].disk.blobs[&root].clone()
            })
            .collect();
        let members: Vec<usize> = (0..plains.len()).collect();
        if plain_sum(self.lab.manifest.ring, &members, &plains) != sum {
            self.audit.broken(format!("the sum of round {} is not exact", work.round));
        }
    }

    // --- authority ---

    /// Hands a request to an authority; its answers, unless it died before it sent them.
    pub(super) fn authority_request(&mut self, a: usize, bytes: &[u8]) -> Option<Vec<Answer>> {
        let node = Node::Authority(a);
        let message = Message::from_wire(bytes).unwrap();
        if self.processes[&node].disk.state.is_none() {
            let Message::Register(manifest) = message else {
                let refusal = Refusal::new(Code::Unavailable, "no such job yet");
                return Some(vec![(Message::Refused(refusal).to_wire(), None)]);
            };
            let crash = self.crash_point();
            let authority = &self.lab.authorities[a];
            let cx = context(self.now_ms, &authority.identity, &mut self.nonces);
            let (job, outputs) =
                AuthorityJob::register(&cx, &authority.name, 1, &Minima::default(), *manifest)
                    .unwrap();
            return self.commit_authority(a, crash, &job, outputs, bytes);
        }
        self.authority_event(a, authority::Event::Message(Box::new(message)), bytes)
    }

    fn authority_event(
        &mut self,
        a: usize,
        event: authority::Event,
        request: &[u8],
    ) -> Option<Vec<Answer>> {
        let node = Node::Authority(a);
        let job: AuthorityJob = decode(self.processes[&node].disk.state.as_ref()?).unwrap();
        let crash = self.crash_point();
        let authority = &self.lab.authorities[a];
        let now_ms = self.now_ms + self.skew_ms[a];
        let mut cx = context(now_ms, &authority.identity, &mut self.nonces);
        match job.handle(&mut cx, &authority.directory, event) {
            Ok((job, outputs)) => self.commit_authority(a, crash, &job, outputs, request),
            Err(bug) => {
                self.audit.broken(format!("authority {a}: {bug}"));
                None
            }
        }
    }

    fn commit_authority(
        &mut self,
        a: usize,
        crash: Option<usize>,
        job: &AuthorityJob,
        outputs: Vec<authority::AuthorityOutput>,
        request: &[u8],
    ) -> Option<Vec<Answer>> {
        let node = Node::Authority(a);
        let ledger = match self.settle(node, &format!("authority {a}"), &outputs) {
            Ok(ledger) => ledger,
            // A step that passes the budget does not happen.
            Err(refusal) => return Some(vec![(Message::Refused(refusal).to_wire(), None)]),
        };
        if crash == Some(0) {
            self.kept = None;
            self.crash(node, CRASHES[0]);
            return None;
        }
        self.commit(node, stored(job), ledger, &outputs);
        self.facts(&format!("authority {a}"), &outputs);
        if crash == Some(1) {
            self.crash(node, CRASHES[1]);
            return None;
        }
        let mut answers = Vec::new();
        for output in outputs {
            match output {
                Output::Send { message, .. } => {
                    let bytes = message.to_wire();
                    self.audit.answer(a, request, &bytes);
                    let key = match &message {
                        Message::FuncKey(key) => {
                            let root = key.peek().unwrap().key.root;
                            Some(self.processes[&node].disk.blobs[&root].clone())
                        }
                        _ => None,
                    };
                    answers.push((bytes, key));
                }
                Output::Work(AuthorityWork::Key(work)) => {
                    self.begin(node, Work::Key(work, request.to_vec()));
                }
                Output::Work(AuthorityWork::Post(work)) => {
                    self.begin(node, Work::Post(work, request.to_vec()));
                }
                Output::Reject(refusal) => {
                    answers.push((Message::Refused(refusal).to_wire(), None));
                }
                Output::Log(_) | Output::Charge(_) | Output::Refund(_) => {}
            }
        }
        if crash == Some(2) {
            self.crash(node, CRASHES[2]);
        }
        Some(answers)
    }

    /// The authority's post to the threshold key.
    fn authority_post(&mut self, a: usize, work: &PostWork, request: &[u8]) {
        let node = Node::Authority(a);
        let call = work.transcript.call.hash();
        let seed = self.fresh_seed();
        let secret = self.processes[&node].disk.secret(call, work.step);
        let identity = &self.lab.authorities[a].identity;
        let (bytes, kept) = self.lab.key_post(identity, &secret, work, seed).unwrap();
        self.kept = Some(((call, work.step), kept));
        let event = authority::Event::Posted { call, step: work.step, bytes };
        for (bytes, key) in self.authority_event(a, event, request).unwrap_or_default() {
            self.answer(a, request.to_vec(), bytes, key);
        }
    }

    fn authority_partial(&self, a: usize, work: &ComputeKey, replies: &[Vec<u8>]) -> Vec<u8> {
        let disk = &self.processes[&Node::Authority(a)].disk;
        let job: AuthorityJob = decode(disk.state.as_ref().unwrap()).unwrap();
        let key = job.job_key().unwrap();
        let call = key.keying().call().hash();
        let secret = disk.secret(call, u16::MAX);
        let me = (AUTHORITY, &self.lab.authorities[a].identity);
        self.lab.partial(key, me, &secret, work, replies).unwrap()
    }

    fn answer(&mut self, a: usize, request: Vec<u8>, bytes: Vec<u8>, key: Option<Vec<u8>>) {
        let (bytes, key) = match self.lies.authority(a) {
            Some(lie) => self.lying_answer(lie, a, bytes, key),
            None => (bytes, key),
        };
        self.send(Packet::Answer { authority: a, request, bytes, key });
    }

    fn lying_answer(
        &mut self,
        lie: AuthorityLie,
        a: usize,
        bytes: Vec<u8>,
        key: Option<Vec<u8>>,
    ) -> Answer {
        let message = Message::from_wire(&bytes).unwrap();
        let lied = lie.answer(&self.lab, a, &message, key.as_deref());
        lied.unwrap_or((bytes, key))
    }
}
