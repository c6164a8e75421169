//! Honest authorities and parties, and an aggregator's keys in the hands of an adversary: what the
//! scripted attacks play on. There is no network here, and the adversary holds every submission.

use std::collections::BTreeMap;

use quorate_crypto::merkle::Hash;
use quorate_crypto::sum::Label;
use quorate_crypto::threshold::AUTHORITY;
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

use super::lab::{Lab, Size, bulk, context, stream};
use crate::job::{JobPackage, Minima, RosterEntry, roster_root};
use crate::machine::{Fact, Output};
use crate::model::ModelState;
use crate::policy::Ledger;
use crate::refusal::Refusal;
use crate::round::authority::{self, AuthorityJob, AuthorityWork, ComputeKey};
use crate::round::keying::{JobKey, Keying, PostWork};
use crate::round::messages::{
    Freeze, KeyCall, KeyPosted, KeyRequest, KeyTranscript, Message, Partial, Promise,
    PromiseRequest, Receipt, ResultRecord, RoundFields, RoundOpen, ShareAsk, SubmitHeader,
    Tombstone, TombstoneRequest, y_hash,
};
use crate::round::model_field;
use crate::round::party::{self, PartyJob, PartyWork};
use crate::wire::Signed;

/// A submission as it reaches the adversary.
#[derive(Clone, Debug)]
pub struct Submission {
    /// The signed header.
    pub header: Signed<SubmitHeader>,
    /// Its bytes.
    pub ciphertext: Vec<u8>,
}

/// The honest side of one job.
pub struct Stage {
    /// Keys and manifest; the aggregator's are the adversary's.
    pub lab: Lab,
    /// Honest authorities.
    pub authorities: Vec<AuthorityJob>,
    /// Honest parties.
    pub parties: Vec<PartyJob>,
    /// Everybody's model.
    pub model: ModelState,
    /// Hash of the last result.
    pub head: Hash,
    /// What the honest wrote in their logs.
    pub facts: Vec<Fact>,
    /// Functional keys of the last opened set, by authority.
    pub released: Vec<Vec<u8>>,
    /// The time.
    pub now_ms: u64,
    /// The job's threshold key, where it has one.
    pub key: Option<JobKey>,
    /// Ledgers of the authorities, all for one data set.
    pub authority_ledgers: Vec<Ledger>,
    /// Ledgers of the parties.
    pub party_ledgers: Vec<Ledger>,
    /// Every ciphertext that can be fetched, by root.
    pub spool: BTreeMap<Hash, Vec<u8>>,
    /// What each participant of a key keeps, by call and number.
    secrets: BTreeMap<(Hash, u32), Vec<u8>>,
    /// Partial decryptions by root.
    partials: BTreeMap<Hash, Vec<u8>>,
    rng: ChaCha20Rng,
}

impl Stage {
    /// A job that every authority approved and every party joined.
    #[must_use]
    pub fn new(seed: u64, size: &Size) -> Self {
        let lab = Lab::new(seed, size);
        let mut rng = stream(seed, "stage", &[]);
        let model = ModelState::of_job(&lab.manifest);
        let authorities: Vec<AuthorityJob> = lab
            .authorities
            .iter()
            .map(|keys| {
                let cx = context(1, &keys.identity, &mut rng);
                let manifest = lab.manifest.clone();
                AuthorityJob::register(&cx, &keys.name, 1, &Minima::default(), manifest).unwrap().0
            })
            .collect();
        let package = JobPackage {
            manifest: lab.manifest.clone(),
            approvals: authorities.iter().map(|a| a.approval().signed().clone()).collect(),
        };
        let parties: Vec<PartyJob> = lab
            .parties
            .iter()
            .map(|keys| {
                let me = keys.entry.clone();
                PartyJob::join(me, &Minima::default(), &package, model.hash()).unwrap()
            })
            .collect();
        let head = Hash([0; 32]);
        let authority_ledgers = authorities.iter().map(|_| Ledger::default()).collect();
        let party_ledgers = lab.parties.iter().map(|_| Ledger::default()).collect();
        Self {
            lab,
            authorities,
            parties,
            model,
            head,
            facts: Vec::new(),
            released: Vec::new(),
            now_ms: 1,
            key: None,
            authority_ledgers,
            party_ledgers,
            spool: BTreeMap::new(),
            secrets: BTreeMap::new(),
            partials: BTreeMap::new(),
            rng,
        }
    }

    /// The same, whose threshold key is made and known to everyone, where the job has one.
    #[must_use]
    pub fn keyed(seed: u64, size: &Size) -> Self {
        let mut stage = Self::new(seed, size);
        if let Some(spec) = size.threshold {
            let holders: Vec<usize> = (0..spec.holders as usize).collect();
            let transcript = stage.make_key(0, &holders).unwrap();
            stage.accept_key(&transcript).unwrap();
        }
        stage
    }

    /// A call for a threshold key among these parties.
    #[must_use]
    pub fn call(&self, number: u16, holders: &[usize]) -> Signed<KeyCall> {
        let manifest = self.lab.manifest.hash();
        let call = KeyCall { manifest, number, holders: self.roster(holders), network: None };
        Signed::sign(call, &self.lab.aggregator).signed().clone()
    }

    /// A whole key: every post of a call among these parties.
    ///
    /// # Errors
    /// The first refusal.
    pub fn make_key(&mut self, number: u16, holders: &[usize]) -> Result<KeyTranscript, Refusal> {
        let call = self.call(number, holders);
        let mut keying = Keying::new(&self.lab.manifest, &call)?;
        let scheme = self.lab.manifest.threshold_scheme()?;
        while let Some((_, waits)) = keying.waits_for(scheme) {
            for number in waits {
                let transcript = keying.transcript();
                let post = match number {
                    AUTHORITY => self.ask_key(&transcript)?,
                    holder => {
                        let holder = holders[holder as usize - 1];
                        self.show_key(holder, &transcript)?.unwrap()
                    }
                };
                keying.push(&self.lab.manifest, &post)?;
            }
        }
        Ok(keying.transcript())
    }

    /// Everyone is shown a complete key, which becomes the job's.
    ///
    /// # Errors
    /// The first refusal.
    pub fn accept_key(&mut self, transcript: &KeyTranscript) -> Result<(), Refusal> {
        for party in 0..self.parties.len() {
            self.show_key(party, transcript)?;
        }
        self.key = Some(JobKey::read(&self.lab.manifest, transcript)?);
        Ok(())
    }

    /// A party is shown posts; its own, if it makes one.
    ///
    /// # Errors
    /// The party's refusal.
    pub fn show_key(
        &mut self,
        party: usize,
        transcript: &KeyTranscript,
    ) -> Result<Option<Signed<KeyPosted>>, Refusal> {
        let mut outputs = self.party_handles(party, party::Event::Key(transcript.clone()))?;
        while let Some(output) = outputs.pop() {
            match output {
                Output::Work(PartyWork::Post(work)) => {
                    let (call, bytes) = self.post(Some(party), &work);
                    let event = party::Event::Posted { call, step: work.step, bytes };
                    outputs = self.party_handles(party, event)?;
                }
                Output::Send { message: Message::KeyPost(post), .. } => return Ok(Some(post)),
                _ => {}
            }
        }
        Ok(None)
    }

    /// The authority is asked for its post.
    ///
    /// # Errors
    /// Its refusal.
    pub fn ask_key(&mut self, transcript: &KeyTranscript) -> Result<Signed<KeyPosted>, Refusal> {
        let message = Box::new(Message::KeyAsk(Box::new(transcript.clone())));
        let mut outputs = self.authority_handles(0, authority::Event::Message(message))?;
        loop {
            match outputs.pop() {
                Some(Output::Work(AuthorityWork::Post(work))) => {
                    let (call, bytes) = self.post(None, &work);
                    let event = authority::Event::Posted { call, step: work.step, bytes };
                    outputs = self.authority_handles(0, event)?;
                }
                Some(Output::Send { message: Message::KeyPost(post), .. }) => return Ok(post),
                other => panic!("an authority that was asked for its post does {other:?}"),
            }
        }
    }

    fn post(&mut self, party: Option<usize>, work: &PostWork) -> (Hash, Vec<u8>) {
        let identity = match party {
            Some(party) => &self.lab.parties[party].identity,
            None => &self.lab.authorities[0].identity,
        };
        let call = work.transcript.call.hash();
        let secret = self.secrets.entry((call, work.number)).or_default();
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let (bytes, kept) = self.lab.key_post(identity, secret, work, seed).unwrap();
        *secret = kept;
        (call, bytes)
    }

    /// What a participant of the job's key keeps.
    #[must_use]
    pub fn secret(&self, number: u32) -> &[u8] {
        let call = self.key.as_ref().unwrap().keying().call().hash();
        // A holder that posts nothing keeps nothing until the key is complete.
        self.secrets.get(&(call, number)).map_or(&[], |secret| secret.as_slice())
    }

    /// An ask for partial decryptions of a frozen set.
    #[must_use]
    pub fn ask(&self, freeze: &Signed<Freeze>, promises: &[Signed<Promise>]) -> ShareAsk {
        let asked = self.lab.parties.iter().map(|keys| keys.entry.party.clone()).collect();
        ShareAsk { freeze: freeze.clone(), promises: promises.to_vec(), asked }
    }

    /// A promise for this set in the authority's name, by someone who has its keys.
    #[must_use]
    pub fn stolen_promise(&self, freeze: &Signed<Freeze>) -> Signed<Promise> {
        let set = freeze.peek().unwrap();
        let open = set.open.peek().unwrap();
        let members: Vec<_> = set.members.iter().map(|one| one.peek().unwrap().party).collect();
        let y: Vec<u8> =
            open.roster.iter().map(|entry| u8::from(members.contains(&entry.party))).collect();
        let authority = &self.lab.authorities[0];
        let promise = Promise {
            authority: authority.name.clone(),
            manifest: open.fields.manifest,
            round: open.fields.round,
            attempt: open.fields.attempt,
            label: open.fields.label(&self.lab.manifest),
            freeze: freeze.hash(),
            y: y_hash(&y),
        };
        Signed::sign(promise, &authority.identity).signed().clone()
    }

    /// A holder is asked for its partial decryption.
    ///
    /// # Errors
    /// Its refusal, also of a member's reply.
    pub fn share(
        &mut self,
        party: usize,
        ask: &ShareAsk,
    ) -> Result<(Signed<Partial>, Vec<u8>), Refusal> {
        let mut outputs = self.party_handles(party, party::Event::Share(ask.clone()))?;
        loop {
            let output = outputs.iter().position(|output| {
                matches!(
                    output,
                    Output::Work(PartyWork::Share { .. })
                        | Output::Send {
                            message: Message::Partial(..) | Message::ShareRefused(_),
                            ..
                        }
                )
            });
            match outputs.swap_remove(output.unwrap()) {
                Output::Work(PartyWork::Share { round, label, members }) => {
                    let key = self.parties[party].job_key().unwrap();
                    let number = key.holder(self.parties[party].name()).unwrap();
                    let work = ComputeKey { round, label, members };
                    let me = (number, &self.lab.parties[party].identity);
                    let secret = self.secret(number);
                    let replies = self.fetch(&work);
                    let outcome = self.lab.partial(key, me, secret, &work, &replies).map(|bytes| {
                        let partial = bulk(&bytes);
                        self.partials.insert(partial.root, bytes);
                        partial
                    });
                    let event = party::Event::Shared { label, outcome };
                    outputs = self.party_handles(party, event)?;
                }
                Output::Send { message: Message::Partial(partial, _), .. } => {
                    let bytes = self.partials[&partial.peek().unwrap().partial.root].clone();
                    return Ok((partial, bytes));
                }
                Output::Send { message: Message::ShareRefused(refused), .. } => {
                    return Err(refused.peek().unwrap().refusal);
                }
                _ => unreachable!("searched for"),
            }
        }
    }

    fn fetch(&self, work: &ComputeKey) -> Vec<Vec<u8>> {
        work.members.iter().map(|member| self.spool[&member.ciphertext.root].clone()).collect()
    }

    /// The roster of these parties.
    #[must_use]
    pub fn roster(&self, parties: &[usize]) -> Vec<RosterEntry> {
        parties.iter().map(|p| self.lab.parties[*p].entry.clone()).collect()
    }

    /// An opening of `round` as the rules want it.
    #[must_use]
    pub fn opening(&self, round: u32, attempt: u16, parties: &[usize]) -> RoundOpen {
        let manifest = &self.lab.manifest;
        let payload = manifest.payload(round).unwrap();
        let purpose = manifest.workload.purpose(round).unwrap();
        let roster = self.roster(parties);
        let fields = RoundFields {
            manifest: manifest.hash(),
            round,
            attempt,
            purpose,
            roster_root: roster_root(&roster),
            previous_result: self.head,
            model: model_field(purpose, self.model.hash(), self.head),
            dim: payload.dim(),
            payload_type: payload.type_id(),
            key: self.key.as_ref().map_or(Hash([0; 32]), JobKey::id),
        };
        let deadline_ms = self.now_ms + manifest.deadlines.collect_ms;
        RoundOpen { fields, roster, deadline_ms, tombstones: Vec::new() }
    }

    /// Signed by the aggregator.
    #[must_use]
    pub fn sign(&self, open: RoundOpen) -> Signed<RoundOpen> {
        Signed::sign(open, &self.lab.aggregator).signed().clone()
    }

    fn party_handles(
        &mut self,
        party: usize,
        event: party::Event,
    ) -> Result<Vec<party::PartyOutput>, Refusal> {
        let identity = &self.lab.parties[party].identity;
        let mut cx = context(self.now_ms, identity, &mut self.rng);
        let (job, outputs) = self.parties[party].clone().handle(&mut cx, event).unwrap();
        settle(&mut self.facts, &mut self.party_ledgers[party], &outputs)?;
        self.parties[party] = job;
        keep(&mut self.facts, outputs)
    }

    /// A party is shown an opening, and trains, encrypts and submits if it believes it.
    ///
    /// # Errors
    /// The party's refusal.
    pub fn submit(
        &mut self,
        party: usize,
        open: &Signed<RoundOpen>,
    ) -> Result<Submission, Refusal> {
        let mut outputs = self.party_handles(party, party::Event::Open(open.clone()))?;
        let mut plain = self.stored_plaintext(party, open);
        let mut sealed = Vec::new();
        loop {
            let event = match outputs.pop() {
                Some(Output::Work(PartyWork::Train { round, state })) => {
                    plain = self.lab.plaintext(party, round, state);
                    party::Event::Trained { round, plaintext: bulk(&plain) }
                }
                Some(Output::Work(PartyWork::Seal { round, label, nonce, .. })) => {
                    let keys = &self.lab.parties[party];
                    sealed = match self.parties[party].job_key() {
                        Some(key) => self.lab.reply(keys, key, round, (label, nonce), &plain),
                        None => self.lab.seal(keys, round, label, nonce, &plain),
                    };
                    self.spool.insert(bulk(&sealed).root, sealed.clone());
                    party::Event::Sealed { label, ciphertext: bulk(&sealed) }
                }
                Some(Output::Send { message: Message::Submit(header), .. }) => {
                    return Ok(Submission { header, ciphertext: sealed });
                }
                other => panic!("a party that entered a round does {other:?}"),
            };
            outputs = self.party_handles(party, event)?;
        }
    }

    fn stored_plaintext(&self, party: usize, open: &Signed<RoundOpen>) -> Vec<u8> {
        let round = open.peek().unwrap().fields.round;
        self.lab.plaintext(party, round, self.parties[party].state())
    }

    /// Every one of `parties` submits.
    ///
    /// # Errors
    /// The first refusal.
    pub fn submit_all(
        &mut self,
        parties: &[usize],
        open: &Signed<RoundOpen>,
    ) -> Result<Vec<Submission>, Refusal> {
        parties.iter().map(|party| self.submit(*party, open)).collect()
    }

    /// A party is given a receipt for its submission.
    ///
    /// # Errors
    /// The party's refusal.
    pub fn receipt(&mut self, party: usize, submission: &Submission) -> Result<(), Refusal> {
        let header = submission.header.peek().unwrap();
        let receipt =
            Receipt { label: header.label, party: header.party, header: submission.header.hash() };
        let receipt = Signed::sign(receipt, &self.lab.aggregator).signed().clone();
        self.party_handles(party, party::Event::Receipt(receipt)).map(|_| ())
    }

    /// A party is told a result.
    ///
    /// # Errors
    /// The party's refusal.
    pub fn tell(
        &mut self,
        party: usize,
        record: &Signed<ResultRecord>,
        state: Hash,
    ) -> Result<(), Refusal> {
        let event = party::Event::Result { record: record.clone(), state };
        self.party_handles(party, event).map(|_| ())
    }

    /// A freeze record signed by the aggregator.
    #[must_use]
    pub fn freeze(&self, open: &Signed<RoundOpen>, members: &[Submission]) -> Signed<Freeze> {
        let freeze = Freeze {
            open: open.clone(),
            members: members.iter().map(|one| one.header.clone()).collect(),
            log_proof: Vec::new(),
        };
        Signed::sign(freeze, &self.lab.aggregator).signed().clone()
    }

    fn authority_handles(
        &mut self,
        a: usize,
        event: authority::Event,
    ) -> Result<Vec<authority::AuthorityOutput>, Refusal> {
        let keys = &self.lab.authorities[a];
        let mut cx = context(self.now_ms, &keys.identity, &mut self.rng);
        let (job, outputs) =
            self.authorities[a].clone().handle(&mut cx, &keys.directory, event).unwrap();
        settle(&mut self.facts, &mut self.authority_ledgers[a], &outputs)?;
        self.authorities[a] = job;
        keep(&mut self.facts, outputs)
    }

    /// Asks authority `a` to promise.
    ///
    /// # Errors
    /// Its refusal.
    pub fn promise(
        &mut self,
        a: usize,
        freeze: &Signed<Freeze>,
        y: &[u8],
    ) -> Result<Signed<Promise>, Refusal> {
        let request = PromiseRequest { freeze: freeze.clone(), y: y.to_vec() };
        let message = Box::new(Message::PromiseRequest(request));
        let outputs = self.authority_handles(a, authority::Event::Message(message))?;
        outputs
            .into_iter()
            .find_map(|output| match output {
                Output::Send { message: Message::Promise(promise), .. } => Some(promise),
                _ => None,
            })
            .ok_or_else(|| unreachable!("neither promise nor refusal"))
    }

    /// Asks authority `a` for a functional key.
    ///
    /// # Errors
    /// Its refusal.
    pub fn key(
        &mut self,
        a: usize,
        label: Label,
        promises: &[Signed<Promise>],
    ) -> Result<Vec<u8>, Refusal> {
        let manifest = self.lab.manifest.hash();
        let request = KeyRequest { manifest, label, promises: promises.to_vec() };
        let message = Box::new(Message::KeyRequest(request));
        let outputs = self.authority_handles(a, authority::Event::Message(message))?;
        for output in outputs {
            if let Output::Work(AuthorityWork::Key(work)) = output {
                let bytes = match self.authorities[a].job_key() {
                    Some(key) => {
                        let me = (AUTHORITY, &self.lab.authorities[a].identity);
                        let replies = self.fetch(&work);
                        self.lab.partial(key, me, self.secret(AUTHORITY), &work, &replies)?
                    }
                    None => self.lab.functional_key(a, &work),
                };
                let event = authority::Event::KeyReady { label, key: bulk(&bytes) };
                self.authority_handles(a, event)?;
                return Ok(bytes);
            }
        }
        Ok(Vec::new())
    }

    /// Asks authority `a` to give an attempt up.
    ///
    /// # Errors
    /// Its refusal.
    pub fn tombstone(
        &mut self,
        a: usize,
        round: u32,
        attempt: u16,
    ) -> Result<Signed<Tombstone>, Refusal> {
        let request = TombstoneRequest { manifest: self.lab.manifest.hash(), round, attempt };
        let request = Signed::sign(request, &self.lab.aggregator).signed().clone();
        let message = Box::new(Message::TombstoneRequest(request));
        let outputs = self.authority_handles(a, authority::Event::Message(message))?;
        outputs
            .into_iter()
            .find_map(|output| match output {
                Output::Send { message: Message::Tombstone(tombstone), .. } => Some(tombstone),
                _ => None,
            })
            .ok_or_else(|| unreachable!("neither tombstone nor refusal"))
    }

    /// Promises, then keys, of every authority for a frozen set: the legal way to a sum's words.
    ///
    /// # Errors
    /// The first refusal.
    pub fn open_set(
        &mut self,
        open: &Signed<RoundOpen>,
        members: &[Submission],
    ) -> Result<Vec<u8>, Refusal> {
        let opened = open.peek().unwrap();
        let y = indicator(&opened.roster, members);
        let freeze = self.freeze(open, members);
        let label = opened.fields.label(&self.lab.manifest);
        let promises = (0..self.authorities.len())
            .map(|a| self.promise(a, &freeze, &y))
            .collect::<Result<Vec<_>, _>>()?;
        let keys = (0..self.authorities.len())
            .map(|a| self.key(a, label, &promises))
            .collect::<Result<Vec<_>, _>>()?;
        self.released.clone_from(&keys);
        let ciphertexts: Vec<Vec<u8>> = members.iter().map(|one| one.ciphertext.clone()).collect();
        if let Some(spec) = self.lab.manifest.threshold {
            let ask = self.ask(&freeze, &promises);
            let partials = (0..spec.threshold as usize)
                .map(|holder| {
                    let (_, bytes) = self.share(holder, &ask)?;
                    Ok((self.lab.parties[holder].entry.party.clone(), bytes))
                })
                .collect::<Result<Vec<_>, Refusal>>()?;
            let key = self.key.as_ref().unwrap();
            let round = opened.fields.round;
            return self.lab.open_shares(key, round, label, &ciphertexts, &keys[0], &partials);
        }
        Ok(self.lab.open(opened.fields.round, label, ciphertexts, keys).unwrap())
    }

    /// A result record signed by the aggregator.
    #[must_use]
    pub fn record(&self, open: &Signed<RoundOpen>, members: &[Submission]) -> Signed<ResultRecord> {
        let open = open.peek().unwrap();
        let record = ResultRecord {
            manifest: open.fields.manifest,
            label: open.fields.label(&self.lab.manifest),
            round: open.fields.round,
            attempt: open.fields.attempt,
            previous: self.head,
            freeze: Hash([0; 32]),
            members: members.iter().map(|one| one.header.peek().unwrap().party).collect(),
            sum: bulk(&[0]),
        };
        Signed::sign(record, &self.lab.aggregator).signed().clone()
    }

    /// Everyone is told this result and that `model` follows from it.
    ///
    /// # Errors
    /// The first refusal.
    pub fn advance(
        &mut self,
        record: &Signed<ResultRecord>,
        model: ModelState,
    ) -> Result<(), Refusal> {
        for party in 0..self.parties.len() {
            self.tell(party, record, model.hash())?;
        }
        self.head = record.hash();
        self.model = model;
        Ok(())
    }
}

/// y of a frozen set.
#[must_use]
pub fn indicator(roster: &[RosterEntry], members: &[Submission]) -> Vec<u8> {
    let names: Vec<_> = members.iter().map(|one| one.header.peek().unwrap().party).collect();
    roster.iter().map(|entry| u8::from(names.contains(&entry.party))).collect()
}

/// Charges and refunds of a step, all or none. A step that passes a budget does not happen.
fn settle<M, W>(
    facts: &mut Vec<Fact>,
    ledger: &mut Ledger,
    outputs: &[Output<M, W>],
) -> Result<(), Refusal> {
    let mut next = ledger.clone();
    for output in outputs {
        match output {
            Output::Charge(charge) => next.charge(charge, None).inspect_err(|refusal| {
                facts.push(Fact::job("refused", refusal.to_string()));
            })?,
            Output::Refund(charge) => next.refund(&charge.job, charge.round),
            _ => {}
        }
    }
    *ledger = next;
    Ok(())
}

/// Outputs without log lines, which are kept, or the refusal.
fn keep<M, W>(
    facts: &mut Vec<Fact>,
    outputs: Vec<Output<M, W>>,
) -> Result<Vec<Output<M, W>>, Refusal> {
    let mut rest = Vec::new();
    for output in outputs {
        match output {
            Output::Log(fact) => facts.push(fact),
            Output::Reject(refusal) => return Err(refusal),
            other => rest.push(other),
        }
    }
    Ok(rest)
}
