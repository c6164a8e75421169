//! The two kinds of system under attack: the published scheme with its authority, and a served
//! scheme behind the real state machines. Both hide the same updates.

use curve25519_dalek::ristretto::RistrettoPoint;
use quorate_crypto::fe::mife::{
    Ciphertext, FunctionKey, Master, PartyKey, decrypt_vartime, solve_vartime,
};
use quorate_crypto::fixed::from_ring;
use quorate_protocols::model::ModelState;
use quorate_protocols::refusal::{Code, Refusal};
use quorate_protocols::round::messages::RoundOpen;
use quorate_protocols::sim::lab::{Kind, Lab};
use quorate_protocols::sim::scenario::size;
use quorate_protocols::sim::stage::{Stage, Submission};
use quorate_protocols::wire::Signed;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

/// Everyone.
pub(crate) const ALL: [usize; 5] = [0, 1, 2, 3, 4];
/// The last of them.
pub(crate) const VICTIM: usize = 4;
const SEED: u64 = 11;
/// Values are below 2^27 in magnitude, sums of five and differences below this.
const BOUND: i64 = 1 << 30;

/// What an aggregator can do to a deployment, whatever the scheme.
pub(crate) trait System {
    /// d.
    fn dim(&self) -> usize;
    /// Everyone submits in a new round; its number.
    fn submit(&mut self) -> Result<usize, Refusal>;
    /// Asks for the key of a set of `round`, and opens its sum.
    fn sum(&mut self, round: usize, set: &[usize]) -> Result<Vec<i64>, Refusal>;
    /// Says that `round` was lost and has the same updates encrypted again; the new number.
    fn claim_crash(&mut self, round: usize) -> Result<usize, Refusal>;
    /// Applies the key it got for everyone in `keyed` to one party's ciphertexts of `target`:
    /// what comes out at coordinate `j` less what comes out at coordinate `k`.
    fn residue(&self, keyed: usize, target: usize, party: usize, j: usize, k: usize)
    -> Option<i64>;
    /// The truth: a party's update of a round.
    fn update(&self, party: usize, round: u32) -> Vec<i64>;
}

fn words(lab: &Lab, bytes: &[u8]) -> Vec<i64> {
    let mut out = Vec::new();
    from_ring(bytes, lab.manifest.ring, &mut out).expect("ring words");
    out
}

/// The scheme and the authority of the paper.
pub(crate) struct Published {
    lab: Lab,
    rng: ChaCha20Rng,
    master: Master,
    parties: Vec<PartyKey>,
    /// Of each submission: the update's round, and `[party][coordinate]`.
    rounds: Vec<(u32, Vec<Vec<Ciphertext>>)>,
    keys: Vec<Option<FunctionKey>>,
    next: u32,
}

impl Published {
    pub(crate) fn new() -> Self {
        let lab = Lab::new(SEED, &size(Kind::Sum, 1));
        let mut rng = ChaCha20Rng::seed_from_u64(SEED);
        let master = Master::setup(&mut rng, ALL.len(), lab.manifest.floor() as usize);
        let parties = ALL.iter().map(|i| master.party_key(*i).expect("a slot")).collect();
        Self { lab, rng, master, parties, rounds: Vec::new(), keys: Vec::new(), next: 0 }
    }

    fn encrypt(&mut self, round: u32) -> usize {
        let updates: Vec<Vec<i64>> = ALL.iter().map(|p| self.update(*p, round)).collect();
        let rng = &mut self.rng;
        let ciphertexts = self
            .parties
            .iter()
            .zip(updates)
            .map(|(key, update)| update.iter().map(|x| key.encrypt(rng, *x)).collect())
            .collect();
        self.rounds.push((round, ciphertexts));
        self.keys.push(None);
        self.rounds.len() - 1
    }
}

impl System for Published {
    fn dim(&self) -> usize {
        usize::try_from(self.lab.manifest.payload(0).expect("a round").dim()).expect("small")
    }

    fn submit(&mut self) -> Result<usize, Refusal> {
        self.next += 1;
        Ok(self.encrypt(self.next - 1))
    }

    fn sum(&mut self, round: usize, set: &[usize]) -> Result<Vec<i64>, Refusal> {
        let y: Vec<u8> = ALL.iter().map(|p| u8::from(set.contains(p))).collect();
        let key = self
            .master
            .function_key(&y)
            .map_err(|filtered| Refusal::new(Code::BadY, filtered.to_string()))?;
        let column = |j: usize| -> Vec<Ciphertext> {
            self.rounds[round].1.iter().map(|party| party[j]).collect()
        };
        let sum = (0..self.dim())
            .map(|j| decrypt_vartime(&key, &column(j), BOUND).expect("a legal sum"))
            .collect();
        self.keys[round] = Some(key);
        Ok(sum)
    }

    fn claim_crash(&mut self, round: usize) -> Result<usize, Refusal> {
        Ok(self.encrypt(self.rounds[round].0))
    }

    fn residue(
        &self,
        keyed: usize,
        target: usize,
        party: usize,
        j: usize,
        k: usize,
    ) -> Option<i64> {
        let [w0, w1] = self.keys[keyed].as_ref()?.d[party];
        let strip = |c: &Ciphertext| -> RistrettoPoint { c.c - w0 * c.t[0] - w1 * c.t[1] };
        let ciphertexts = &self.rounds[target].1[party];
        solve_vartime(strip(&ciphertexts[j]) - strip(&ciphertexts[k]), BOUND)
    }

    fn update(&self, party: usize, round: u32) -> Vec<i64> {
        let manifest = &self.lab.manifest;
        let state = ModelState::of_job(manifest).hash();
        words(&self.lab, &self.lab.plaintext(party, round, state))
    }
}

/// A served scheme behind honest authorities and parties.
pub(crate) struct Served {
    stage: Stage,
    rounds: Vec<(Signed<RoundOpen>, Vec<Submission>)>,
    keys: Vec<Option<Vec<Vec<u8>>>>,
    /// Codes of what was refused, in order.
    pub(crate) refused: Vec<Code>,
}

impl Served {
    pub(crate) fn new(scheme: u16) -> Self {
        let stage = Stage::new(SEED, &size(Kind::Sum, scheme));
        Self { stage, rounds: Vec::new(), keys: Vec::new(), refused: Vec::new() }
    }

    /// An honest service wrote this refusal in its log.
    pub(crate) fn assert_logged(&self, code: Code) {
        let facts = &self.stage.facts;
        let logged = facts.iter().any(|f| f.what == "refused" && f.note.starts_with(code.as_str()));
        assert!(logged, "{code} is not in {facts:?}");
    }

    fn note<T>(&mut self, outcome: Result<T, Refusal>) -> Result<T, Refusal> {
        if let Err(refusal) = &outcome {
            self.refused.push(refusal.code);
        }
        outcome
    }
}

impl System for Served {
    fn dim(&self) -> usize {
        usize::try_from(self.stage.lab.manifest.payload(0).expect("a round").dim()).expect("small")
    }

    fn submit(&mut self) -> Result<usize, Refusal> {
        let round = u32::try_from(self.rounds.len()).expect("few rounds");
        if let Some((open, members)) = self.rounds.last() {
            let record = self.stage.record(open, members);
            let model = self.stage.model.clone();
            let told = self.stage.advance(&record, model);
            self.note(told)?;
        }
        let open = self.stage.sign(self.stage.opening(round, 0, &ALL));
        let members = self.stage.submit_all(&ALL, &open);
        let members = self.note(members)?;
        self.rounds.push((open, members));
        self.keys.push(None);
        Ok(self.rounds.len() - 1)
    }

    fn sum(&mut self, round: usize, set: &[usize]) -> Result<Vec<i64>, Refusal> {
        let (open, members) = self.rounds[round].clone();
        let members: Vec<Submission> = set.iter().map(|p| members[*p].clone()).collect();
        let opened = self.stage.open_set(&open, &members);
        let opened = self.note(opened)?;
        // The keys again, as the authority gives them to whoever asks twice.
        self.keys[round].get_or_insert_with(|| self.stage.released.clone());
        Ok(words(&self.stage.lab, &opened))
    }

    fn claim_crash(&mut self, round: usize) -> Result<usize, Refusal> {
        let number = u32::try_from(round).expect("few rounds");
        let tombstone = self.stage.tombstone(0, number, 0);
        let tombstones: Vec<_> = self.note(tombstone).into_iter().collect();
        let mut retry = self.stage.opening(number, 1, &ALL);
        retry.tombstones = tombstones;
        let open = self.stage.sign(retry);
        let members = self.stage.submit_all(&ALL, &open);
        let members = self.note(members)?;
        self.rounds.push((open, members));
        self.keys.push(None);
        Ok(self.rounds.len() - 1)
    }

    fn residue(
        &self,
        keyed: usize,
        target: usize,
        party: usize,
        j: usize,
        k: usize,
    ) -> Option<i64> {
        let lab = &self.stage.lab;
        let keys = self.keys[keyed].clone()?;
        let (open, members) = &self.rounds[target];
        let open = open.peek().expect("ours");
        let alone = members[party].ciphertext.clone();
        // All-zero bytes are the neutral ciphertext of both schemes.
        let nobody = vec![0; alone.len()];
        let label = open.fields.label(&lab.manifest);
        let residue = lab.open(open.fields.round, label, vec![alone, nobody], keys).ok()?;
        let residue = words(lab, &residue);
        Some(residue[j].wrapping_sub(residue[k]))
    }

    fn update(&self, party: usize, round: u32) -> Vec<i64> {
        let state = self.stage.model.hash();
        words(&self.stage.lab, &self.stage.lab.plaintext(party, round, state))
    }
}
