//! The party's driver, and the rotation of a party's keys.

use quorate_crypto::keys::{Identity, SharedKey};

use super::drivers::{CRASHES, load_party, stored};
use super::lab::{PartyKeys, bulk, context, draw, entry};
use super::liar::PartyLie;
use super::world::{Item, Node, Packet, Rotation, Work, World};
use crate::job::{JobPackage, Minima};
use crate::machine::Output;
use crate::model::ModelState;
use crate::refusal::Refusal;
use crate::round::messages::{Message, ResultRecord, RoundOpen};
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
        self.send(Packet::Poll { party, next_round });
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
        if crash == Some(0) {
            self.crash(node, CRASHES[0]);
            return None;
        }
        let model = if job.next_round() > before { next_model.unwrap_or(model) } else { model };
        self.processes.get_mut(&node).unwrap().disk.state = Some(stored(&(job, model)));
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
                    self.audit.broken(format!("a party sends {message:?}"));
                }
                Output::Log(_) | Output::Reject(_) | Output::Charge(_) | Output::Refund(_) => {}
            }
        }
    }

    /// What a party really sends in place of its submission.
    fn submissions(&mut self, party: usize, honest: (Vec<u8>, Vec<u8>)) -> Vec<(Vec<u8>, Vec<u8>)> {
        match self.lies.party(party) {
            Some(lie) => {
                let keys = self.rotations.get(&party).map_or(&self.lab.parties[party], |r| &r.keys);
                lie.submissions(&self.lab, keys, &mut self.lies.kept, honest)
            }
            None => vec![honest],
        }
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
                let bytes = match self.lies.party(party) {
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
            PartyWork::Post(_) | PartyWork::Share { .. } => {
                self.audit.broken("a share is wanted in a job without a threshold key");
            }
        }
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
