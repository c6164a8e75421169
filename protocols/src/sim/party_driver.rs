//! The party's driver, and the rotation of a party's keys.

use quorate_crypto::keys::{Identity, SharedKey};

use super::drivers::{CRASHES, load_party, stored};
use super::lab::{PartyKeys, bulk, context, draw, entry};
use super::liar::{HolderLie, PartyLie};
use super::world::{Item, Node, Packet, Rotation, Work, World};
use crate::job::{JobPackage, Minima};
use crate::machine::Output;
use crate::model::ModelState;
use crate::refusal::Refusal;
use crate::round::authority::ComputeKey;
use crate::round::keying::PostWork;
use crate::round::messages::{Message, ResultRecord, RoundOpen, SubmitHeader};
use crate::round::party::{self, PartyJob, PartyWork};
use crate::wire::{Signed, decode};

impl World {
    pub(super) fn party_tick(&mut self, party: usize) {
        let node = Node::Party(party);
        if let Some(job) = self.party_job(party)
            && *job.me() != *self.entry(party)
        {
            let entry = self.entry(party).clone();
            self.party_event(party, party::Event::Rotated(entry), None);
        }
        if !self.processes[&node].up {
            return;
        }
        let job = self.party_job(party);
        let next_round = job.as_ref().map_or(0, PartyJob::next_round);
        let keyed = job.as_ref().is_some_and(|job| job.job_key().is_some());
        self.send(Packet::Poll { party, next_round, keyed });
        if let Some(job) = job {
            self.send_party(party, job.requests());
        }
    }

    pub(super) fn news(
        &mut self,
        party: usize,
        package: &[u8],
        open: Option<Vec<u8>>,
        results: Vec<(Vec<u8>, Vec<u8>)>,
        joined: bool,
        (key, ask): (Option<Vec<u8>>, Option<Vec<u8>>),
    ) {
        let node = Node::Party(party);
        let life = self.processes[&node].life;
        let alive = |world: &Self| world.processes[&node].life == life;
        if self.processes[&node].disk.state.is_none() {
            let package: JobPackage = decode(package).unwrap();
            let model = self.initial_model();
            let me = self.entry(party).clone();
            let job = PartyJob::join(me, &Minima::default(), &package, model.hash()).unwrap();
            if let Some(crash) = self.crash_point() {
                if crash > 0 {
                    let process = self.processes.get_mut(&node).unwrap();
                    process.disk.state = Some(stored(&(job, model)));
                }
                return self.crash(node, CRASHES[crash]);
            }
            let process = self.processes.get_mut(&node).unwrap();
            process.disk.state = Some(stored(&(job, model)));
        }
        for (record, sum) in results {
            let record: Signed<ResultRecord> = decode(&record).unwrap();
            let (job, model) = load_party(self.processes[&node].disk.state.as_ref().unwrap());
            let Ok(said) = record.peek() else { continue };
            if said.round != job.next_round() || said.sum != bulk(&sum) {
                continue;
            }
            let next = self.lab.read(said.round, said.members.len(), &sum).ok().and_then(|read| {
                model.advance(&self.lab.manifest.workload, said.round, &read).ok()
            });
            let Some(next) = next else { continue };
            let event = party::Event::Result { record, state: next.hash() };
            self.party_event(party, event, Some(next));
            if !alive(self) {
                return;
            }
        }
        let shown = key.map(|bytes| party::Event::Key(decode(&bytes).unwrap()));
        let asked = ask.map(|bytes| party::Event::Share(decode(&bytes).unwrap()));
        for event in shown.into_iter().chain(asked) {
            self.party_event(party, event, None);
            if !alive(self) {
                return;
            }
        }
        let mut joined = joined;
        if let Some(open) = open {
            let open: Signed<RoundOpen> = decode(&open).unwrap();
            // Invited by keys that were rotated away: join again with the new ones.
            let me = self.entry(party);
            joined &= open.peek().is_ok_and(|open| {
                open.roster.iter().all(|known| known.party != me.party || known == me)
            });
            self.party_event(party, party::Event::Open(open), None);
            if !alive(self) {
                return;
            }
        }
        if !joined {
            let keys = self.keys(party);
            if keys.certificates.len() < self.lab.authorities.len() {
                return;
            }
            let (job, _) = load_party(self.processes[&node].disk.state.as_ref().unwrap());
            if *job.me() != keys.entry {
                return;
            }
            let certificates = keys.certificates.clone();
            let mut unused = self.nonces.clone();
            let cx = context(self.now_ms, &keys.identity, &mut unused);
            let bytes = job.join_message(&cx, certificates).to_wire();
            self.send(Packet::Control { party, bytes });
        }
    }

    /// A party handles one event; the refusal, if it refused.
    pub(super) fn party_event(
        &mut self,
        party: usize,
        event: party::Event,
        next_model: Option<ModelState>,
    ) -> Option<Refusal> {
        let node = Node::Party(party);
        let (job, model) = load_party(self.processes[&node].disk.state.as_ref()?);
        let before = job.next_round();
        let crash = self.crash_point();
        // Field by field: the keys are borrowed while the randomness is used.
        let keys = self.rotations.get(&party).map_or(&self.lab.parties[party], |r| &r.keys);
        let mut cx = context(self.now_ms, &keys.identity, &mut self.nonces);
        let (job, outputs) = match job.handle(&mut cx, event) {
            Ok(done) => done,
            Err(bug) => {
                self.audit.broken(format!("party {party}: {bug}"));
                return None;
            }
        };
        let ledger = match self.settle(node, &format!("party {party}"), &outputs) {
            Ok(ledger) => ledger,
            // A step that passes the budget does not happen.
            Err(refusal) => return Some(refusal),
        };
        if crash == Some(0) {
            self.kept = None;
            self.crash(node, CRASHES[0]);
            return None;
        }
        let model = if job.next_round() > before { next_model.unwrap_or(model) } else { model };
        self.commit(node, stored(&(job, model)), ledger, &outputs);
        let refused = if self.lies.party(party).is_some() {
            // A liar's own opinions about others count for nothing.
            None
        } else {
            self.facts(&format!("party {party}"), &outputs)
        };
        if crash == Some(1) {
            self.crash(node, CRASHES[1]);
            return refused;
        }
        self.send_party(party, outputs);
        if crash == Some(2) {
            self.crash(node, CRASHES[2]);
        }
        refused
    }

    fn send_party(&mut self, party: usize, outputs: Vec<party::PartyOutput>) {
        for output in outputs {
            match output {
                Output::Work(work) => self.begin(Node::Party(party), Work::Party(work)),
                Output::Send { message: Message::Submit(header), .. } => {
                    let said = header.peek().unwrap();
                    self.audit.submission(&said, &header.to_wire());
                    let blobs = &self.processes[&Node::Party(party)].disk.blobs;
                    let ciphertext = blobs[&said.ciphertext.root].clone();
                    let honest = (header.to_wire(), ciphertext);
                    for (header, ciphertext) in self.submissions(party, honest) {
                        self.send(Packet::Submit { party, header, ciphertext });
                    }
                }
                Output::Send { message, .. } => {
                    for message in self.holder_messages(party, message) {
                        self.send(Packet::Control { party, bytes: message.to_wire() });
                    }
                }
                Output::Log(_) | Output::Reject(_) | Output::Charge(_) | Output::Refund(_) => {}
            }
        }
    }

    /// What a participant of the threshold key really sends.
    fn holder_messages(&mut self, party: usize, message: Message) -> Vec<Message> {
        let name = self.lab.parties[party].entry.party.clone();
        let message = match message {
            Message::Partial(partial, _) => {
                let said = partial.peek().unwrap();
                let bytes = &self.processes[&Node::Party(party)].disk.blobs[&said.partial.root];
                let message = Message::Partial(partial, bytes.clone());
                self.audit.share_sent(&name, said.label, &message.to_wire());
                message
            }
            Message::KeyPost(post) => {
                let said = post.peek().unwrap();
                let place = (said.call, said.post.step);
                let message = Message::KeyPost(post);
                self.audit.post_sent(&name, place, &message.to_wire());
                message
            }
            Message::ShareRefused(_) => message,
            other => {
                self.audit.broken(format!("a party sends {other:?}"));
                return Vec::new();
            }
        };
        match self.lies.holder(party) {
            Some(lie) => {
                let others = &self.processes[&Node::Aggregator].disk.blobs;
                lie.messages(&self.lab, self.keys(party), others, message)
            }
            None => vec![message],
        }
    }

    /// What a party really sends in place of its submission.
    fn submissions(&mut self, party: usize, honest: (Vec<u8>, Vec<u8>)) -> Vec<(Vec<u8>, Vec<u8>)> {
        if self.lies.party(party) == Some(PartyLie::CopiedReply) {
            return self.copied_reply(party, &honest.0).into_iter().collect();
        }
        match self.lies.party(party) {
            Some(lie) => {
                let keys = self.rotations.get(&party).map_or(&self.lab.parties[party], |r| &r.keys);
                lie.submissions(&self.lab, keys, &mut self.lies.kept, honest)
            }
            None => vec![honest],
        }
    }

    /// Another party's reply to the same attempt, under an own header.
    fn copied_reply(&self, party: usize, honest: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let mine = Signed::<SubmitHeader>::from_wire(honest).unwrap().peek().unwrap();
        let others = self.audit.headers(mine.label);
        let blobs = &self.processes[&Node::Aggregator].disk.blobs;
        others.iter().find_map(|header| {
            let said = header.peek().unwrap();
            let copied = blobs.get(&said.ciphertext.root).filter(|_| said.party != mine.party)?;
            let header =
                SubmitHeader { nonce: said.nonce, ciphertext: said.ciphertext, ..mine.clone() };
            let header = Signed::sign(header, &self.keys(party).identity);
            Some((header.signed().to_wire(), copied.clone()))
        })
    }

    pub(super) fn party_worked(&mut self, party: usize, work: &PartyWork) {
        let node = Node::Party(party);
        match work {
            PartyWork::Train { round, state } => {
                let bytes = self.lab.plaintext(party, *round, *state);
                let plaintext = bulk(&bytes);
                let name = self.lab.parties[party].entry.party.clone();
                self.audit.contribution(&name, *round, plaintext.root);
                self.processes.get_mut(&node).unwrap().disk.blobs.insert(plaintext.root, bytes);
                let event = party::Event::Trained { round: *round, plaintext };
                self.party_event(party, event, None);
            }
            PartyWork::Seal { round, label, nonce, plaintext } => {
                let keys = self.keys(party);
                self.audit.pad(&keys.entry.party.clone(), *label, *nonce);
                let keys = self.keys(party);
                let plain = &self.processes[&node].disk.blobs[&plaintext.root];
                let (job, _) = load_party(self.processes[&node].disk.state.as_ref().unwrap());
                let bytes = match self.lies.party(party) {
                    _ if job.job_key().is_some() => {
                        let key = job.job_key().unwrap();
                        self.lab.reply(keys, key, *round, (*label, *nonce), plain)
                    }
                    Some(PartyLie::GarbagePad) => {
                        let wrong: Vec<SharedKey> = self
                            .lab
                            .authorities
                            .iter()
                            .map(|_| SharedKey::from_bytes([7; 32]))
                            .collect();
                        self.lab.seal_with(&wrong, *round, *label, *nonce, plain)
                    }
                    Some(PartyLie::HugeValue) => {
                        let mut huge = plain.clone();
                        let word = self.lab.manifest.ring.word_bytes();
                        let from = huge.len() - word;
                        huge[from..].fill(0xff);
                        *huge.last_mut().unwrap() = 0x7f;
                        self.lab.seal(keys, *round, *label, *nonce, &huge)
                    }
                    _ => self.lab.seal(keys, *round, *label, *nonce, plain),
                };
                let ciphertext = bulk(&bytes);
                self.processes.get_mut(&node).unwrap().disk.blobs.insert(ciphertext.root, bytes);
                let event = party::Event::Sealed { label: *label, ciphertext };
                self.party_event(party, event, None);
            }
            PartyWork::Post(work) => self.holder_post(party, work),
            PartyWork::Share { round, label, members } => {
                let work = ComputeKey { round: *round, label: *label, members: members.clone() };
                self.holder_share(party, work);
            }
        }
    }

    /// A holder's post to the threshold key.
    fn holder_post(&mut self, party: usize, work: &PostWork) {
        let node = Node::Party(party);
        let holders = work.transcript.call.peek().unwrap().holders;
        if holders.get(work.number as usize - 1) != Some(self.entry(party)) {
            // Rotated meanwhile: these keys are no participant's.
            return;
        }
        let call = work.transcript.call.hash();
        let seed = self.fresh_seed();
        let secret = self.processes[&node].disk.secret(call, work.step);
        let identity = &self.keys(party).identity;
        match self.lab.key_post(identity, &secret, work, seed) {
            Ok((bytes, kept)) => {
                self.kept = Some(((call, work.step), kept));
                let event = party::Event::Posted { call, step: work.step, bytes };
                self.party_event(party, event, None);
            }
            // A liar's secret is not that of its post.
            Err(_) if self.lies.holder(party).is_some() => {}
            Err(error) => self.audit.broken(format!("party {party} cannot post: {error}")),
        }
    }

    /// A holder's partial decryption of a frozen set's sum.
    fn holder_share(&mut self, party: usize, mut work: ComputeKey) {
        let node = Node::Party(party);
        // The replies come from the aggregator; if it is away the work is wanted again.
        let Some(mut replies) = self.replies(&work.members) else { return };
        let name = self.lab.parties[party].entry.party.clone();
        if self.lies.holder(party) == Some(HolderLie::OtherSum) {
            // One member twice: two members less one would be a sum that no scheme gives.
            work.members.push(work.members[0].clone());
            replies.push(replies[0].clone());
        } else {
            self.audit.share(&name, &work, self.lab.manifest.floor());
        }
        let disk = &self.processes[&node].disk;
        let (job, _) = load_party(disk.state.as_ref().unwrap());
        let key = job.job_key().unwrap();
        // A rotation may have come between: then the machine drops the answer.
        let Some(number) = key.holder(&name).filter(|_| job.me() == self.entry(party)) else {
            return;
        };
        if !key.keying().holders().contains(job.me()) {
            return;
        }
        let secret = disk.secret(key.keying().call().hash(), u16::MAX);
        let me = (number, &self.keys(party).identity);
        let outcome = self.lab.partial(key, me, &secret, &work, &replies).map(|bytes| {
            let partial = bulk(&bytes);
            (partial, bytes)
        });
        let outcome = match outcome {
            Ok((partial, bytes)) => {
                let disk = &mut self.processes.get_mut(&node).unwrap().disk;
                disk.blobs.insert(partial.root, bytes);
                Ok(partial)
            }
            Err(refusal) => {
                self.audit.broken(format!("{name} refuses a reply the aggregator took: {refusal}"));
                Err(refusal)
            }
        };
        let event = party::Event::Shared { label: work.label, outcome };
        self.party_event(party, event, None);
    }

    /// One step of a rotation: make the keys, then one authority after the other certifies them.
    pub(super) fn rotate_step(&mut self, party: usize, done: usize) {
        if done == 0 && !self.rotations.contains_key(&party) {
            let old = &self.lab.parties[party].entry;
            let identity = Identity::generate(&mut self.nonces);
            let entry = entry(&old.party, old.epoch + 1, &identity);
            let fresh = PartyKeys { entry, identity, certificates: Vec::new() };
            let keys = core::mem::replace(&mut self.lab.parties[party], fresh);
            self.rotations.insert(party, Rotation { keys });
        }
        if done == self.lab.authorities.len() {
            self.audit.note(format!("party {party} has new keys"));
            self.rotations.remove(&party);
            return;
        }
        let pause = draw(&mut self.rng, 1, 80);
        if !self.processes[&Node::Authority(done)].up {
            return self.at(pause, Item::Rotate { party, done });
        }
        let request = self.lab.enrolment(party, Some(&self.rotations[&party].keys.identity));
        let certificate = self.lab.enrol(done, &request).unwrap();
        self.lab.parties[party].certificates.push(certificate);
        self.at(pause, Item::Rotate { party, done: done + 1 });
    }
}
