//! Keys, manifests and the bulk arithmetic of every role, without a network: what the simulator's
//! drivers, the scripted scenarios and the attacks share.

use std::collections::BTreeMap;

use quorate_crypto::conformance::{open, write_message};
use quorate_crypto::fixed::FixedPoint;
use quorate_crypto::keys::{Identity, KeyBinding, SharedKey};
use quorate_crypto::merkle::{CHUNK_BYTES, Hash, hash_parts, leaf_hash, root};
use quorate_crypto::schemes;
use quorate_crypto::secret::Secret;
use quorate_crypto::sum::{
    KeyedNonce, Label, Nonce, PadSuite, Ring, SchemeError, StepInput, SumContext, SumScheme,
};
use quorate_crypto::threshold::{AUTHORITY, HolderInput, KeySecret, PartyInput, ThresholdScheme};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use crate::enrol::{Enroll, EnrollRequest, Enrolled};
use crate::job::{
    AuthorityKey, Deadlines, MANIFEST_VERSION, Manifest, Privacy, RosterEntry, ThresholdSpec,
};
use crate::machine::Context;
use crate::payload::{MOMENT_BITS, OpenedSum, PayloadKind, plaintext_bytes, read_sum};
use crate::policy::{Mechanism, NoiseSpec, Unit};
use crate::refusal::{Code, Culprit, Refusal};
use crate::round::authority::{ComputeKey, KeyMember};
use crate::round::keying::{JobKey, Keying, PostWork};
use crate::round::messages::{BulkRef, SubmitHeader, reply_binding};
use crate::round::{STEP_KEY, STEP_PARTIAL, STEP_SUBMIT};
use crate::wire::{Name, Signed};
use crate::workload::{Column, ColumnKind, LocalSpec, ModelSpec, Schema, TrainSpec, Workload};

/// A name from a literal.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// Seeded randomness for one purpose: streams of different words never meet.
#[must_use]
pub fn stream(seed: u64, what: &str, parts: &[&[u8]]) -> ChaCha20Rng {
    let mut all: Vec<&[u8]> = vec![what.as_bytes()];
    let seed = seed.to_le_bytes();
    all.push(&seed);
    all.extend_from_slice(parts);
    ChaCha20Rng::from_seed(hash_parts("quorate/sim/1", &all).0)
}

/// Uniform enough in `low..=high` for a simulation.
pub fn draw(rng: &mut ChaCha20Rng, low: u64, high: u64) -> u64 {
    low + rng.next_u64() % (high - low + 1)
}

/// Length and tree hash of `bytes`.
#[must_use]
pub fn bulk(bytes: &[u8]) -> BulkRef {
    let leaves: Vec<Hash> = bytes.chunks(CHUNK_BYTES).map(leaf_hash).collect();
    BulkRef { len: bytes.len() as u64, root: root(&leaves) }
}

/// One authority's keys and its enrolled parties.
pub struct AuthorityKeys {
    /// Its id.
    pub name: Name,
    /// Its keys.
    pub identity: Identity,
    /// Who is enrolled.
    pub directory: BTreeMap<Name, RosterEntry>,
}

/// One party's keys.
pub struct PartyKeys {
    /// Its keys as in rosters.
    pub entry: RosterEntry,
    /// Its secrets.
    pub identity: Identity,
    /// Certificates of these keys, in manifest order.
    pub certificates: Vec<Signed<Enrolled>>,
}

/// What kind of sums a lab runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Plain sums of integer vectors.
    Sum,
    /// A moments round, then rounds of weights.
    Train,
}

/// The size of a lab.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// n.
    pub parties: u32,
    /// m.
    pub authorities: u32,
    /// Replies wanted.
    pub quorum: u32,
    /// c.
    pub colluders: u32,
    /// Sums.
    pub rounds: u32,
    /// Scheme id.
    pub scheme: u16,
    /// Kind of sums.
    pub kind: Kind,
    /// N and T; with a threshold scheme only.
    pub threshold: Option<ThresholdSpec>,
    /// Rounds that the privacy budget of the data set allows, all its jobs together.
    pub budget: Option<u32>,
}

/// A deployment: all keys, and one job's manifest.
pub struct Lab {
    /// The seed everything follows from.
    pub seed: u64,
    /// The aggregator's keys.
    pub aggregator: Identity,
    /// The authorities, in manifest order.
    pub authorities: Vec<AuthorityKeys>,
    /// The parties, by name.
    pub parties: Vec<PartyKeys>,
    /// The job.
    pub manifest: Manifest,
}

/// The public keys of a party's epoch.
#[must_use]
pub fn entry(party: &Name, epoch: u32, identity: &Identity) -> RosterEntry {
    RosterEntry {
        party: party.clone(),
        epoch,
        verify: identity.verify_key(),
        exchange: identity.exchange_key(),
    }
}

impl Lab {
    /// All keys and the manifest; every party is enrolled at every authority.
    #[must_use]
    pub fn new(seed: u64, size: &Size) -> Self {
        let mut rng = stream(seed, "keys", &[]);
        let aggregator = Identity::generate(&mut rng);
        let authorities: Vec<AuthorityKeys> = (0..size.authorities)
            .map(|a| AuthorityKeys {
                name: name(&format!("authority-{a}")),
                identity: Identity::generate(&mut rng),
                directory: BTreeMap::new(),
            })
            .collect();
        let manifest = manifest(seed, size, &aggregator, &authorities);
        let mut lab = Self { seed, aggregator, authorities, parties: Vec::new(), manifest };
        for p in 0..size.parties {
            let party = name(&format!("bank-{p}"));
            let identity = Identity::generate(&mut rng);
            let entry = entry(&party, 1, &identity);
            lab.parties.push(PartyKeys { entry, identity, certificates: Vec::new() });
            let party = p as usize;
            let request = lab.enrolment(party, None);
            lab.parties[party].certificates =
                (0..lab.authorities.len()).map(|a| lab.enrol(a, &request).unwrap()).collect();
        }
        lab
    }

    /// The enrolment request of a party's present keys.
    #[must_use]
    pub fn enrolment(&self, party: usize, previous: Option<&Identity>) -> EnrollRequest {
        let keys = &self.parties[party];
        let enroll = Enroll { tenant: self.manifest.tenant.clone(), entry: keys.entry.clone() };
        EnrollRequest::new(enroll, &keys.identity, previous)
    }

    /// Authority `a` checks a request, enrols the keys and certifies them.
    ///
    /// # Errors
    /// Those of [`EnrollRequest::check`].
    pub fn enrol(
        &mut self,
        a: usize,
        request: &EnrollRequest,
    ) -> Result<Signed<Enrolled>, Refusal> {
        let authority = &mut self.authorities[a];
        let party = request.enroll.peek()?.entry.party;
        let checked = request.check(&self.manifest.tenant, authority.directory.get(&party))?;
        authority.directory.insert(party, checked.entry.clone());
        let certificate = Enrolled {
            authority: authority.name.clone(),
            verify: authority.identity.verify_key(),
            exchange: authority.identity.exchange_key(),
            authority_epoch: 1,
            tenant: self.manifest.tenant.clone(),
            entry: checked.entry.clone(),
        };
        Ok(Signed::sign(certificate, &authority.identity).signed().clone())
    }

    /// The registered scheme.
    #[must_use]
    pub fn scheme(&self) -> &'static dyn SumScheme {
        self.manifest.sum_scheme().unwrap()
    }

    fn context(&self, round: u32, label: Label) -> SumContext {
        let shape = self.manifest.shape(round).unwrap();
        SumContext { label, shape, suite: self.manifest.suite, public: Default::default() }
    }

    fn key_context(&self, key: &JobKey, round: u32, label: Label) -> SumContext {
        SumContext { public: key.public().into(), ..self.context(round, label) }
    }

    /// One post to the threshold key, and the secret it leaves.
    ///
    /// # Errors
    /// The scheme's.
    pub fn key_post(
        &self,
        identity: &Identity,
        secret: &[u8],
        work: &PostWork,
        seed: [u8; 32],
    ) -> Result<(Vec<u8>, Vec<u8>), SchemeError> {
        let keying = Keying::read(&self.manifest, &work.transcript).unwrap();
        let scheme = self.manifest.threshold_scheme().unwrap();
        let (secret, seed) = (Secret::new(secret.to_vec()), Secret::new(seed));
        keying.with_setup(&self.manifest, |setup, posts| {
            let before: Vec<_> = posts.iter().filter(|p| p.step < work.step).cloned().collect();
            let me = (work.number, identity);
            scheme
                .key_post(setup, usize::from(work.step), me, &secret, &before, &seed)
                .map(|(post, kept)| (post, kept.expose().clone()))
        })
    }

    /// A participant's share, from what its last post left.
    ///
    /// # Errors
    /// The scheme's.
    pub fn key_share(
        &self,
        key: &JobKey,
        (number, identity): (u32, &Identity),
        secret: &[u8],
    ) -> Result<KeySecret, SchemeError> {
        let scheme = self.manifest.threshold_scheme().unwrap();
        let secret = Secret::new(secret.to_vec());
        key.keying().with_setup(&self.manifest, |setup, posts| {
            scheme.key_share(setup, (number, identity), &secret, posts)
        })
    }

    /// What party `party` encrypts of `plaintext` under the job's threshold key.
    #[must_use]
    pub fn reply(
        &self,
        party: &PartyKeys,
        key: &JobKey,
        round: u32,
        (label, nonce): (Label, Nonce),
        plaintext: &[u8],
    ) -> Vec<u8> {
        let binding = reply_binding(&label, &party.entry.party, &nonce);
        let message = [binding.0, bulk(plaintext).root.0].concat();
        let seed = *party.identity.derive_seed("quorate/reply-seed/1", &message).expose();
        let state = PartyInput { seed: Secret::new(seed), binding }.to_state();
        let context = self.key_context(key, round, label);
        self.contribute(STEP_SUBMIT, &context, state.expose(), plaintext, &[]).unwrap()
    }

    /// Whether the aggregator takes a reply: its form and proof.
    ///
    /// # Errors
    /// [`Code::BadCiphertext`], naming the sender.
    pub fn verify_reply(
        &self,
        key: &JobKey,
        round: u32,
        header: &SubmitHeader,
        reply: &[u8],
    ) -> Result<(), Refusal> {
        let binding = reply_binding(&header.label, &header.party, &header.nonce);
        let shape = self.manifest.shape(round).unwrap();
        let scheme = self.manifest.threshold_scheme().unwrap();
        let checked =
            scheme.load(key.public()).and_then(|key| key.verify_reply(&shape, &binding, reply));
        checked.map_err(|error| bad_reply(&header.party, &error))
    }

    /// The partial decryption of the sum of `replies`, of the authority or of a holder: every proof is
    /// checked first.
    ///
    /// # Errors
    /// [`Code::BadCiphertext`], naming the sender of a wrong reply.
    pub fn partial(
        &self,
        key: &JobKey,
        (number, identity): (u32, &Identity),
        secret: &[u8],
        work: &ComputeKey,
        replies: &[Vec<u8>],
    ) -> Result<Vec<u8>, Refusal> {
        let label = work.label;
        let share = self.key_share(key, (number, identity), secret).unwrap();
        let binding = |m: &KeyMember| reply_binding(&label, &m.party, &m.nonce);
        let input = HolderInput {
            share: Secret::new(share.expose().clone()),
            seed: identity.derive_seed("quorate/share-seed/1", &label.0),
            bindings: work.members.iter().map(binding).collect(),
        };
        let step = if number == AUTHORITY { STEP_KEY } else { STEP_PARTIAL };
        let context = self.key_context(key, work.round, label);
        let state = input.to_state();
        self.contribute(step, &context, state.expose(), &[], replies)
            .map_err(|(at, error)| bad_reply(&work.members[at].party, &error))
    }

    /// One contributor's bytes of fixed length, or the message of its inbox that it refuses.
    fn contribute(
        &self,
        step: usize,
        context: &SumContext,
        state: &[u8],
        plaintext: &[u8],
        inbox: &[Vec<u8>],
    ) -> Result<Vec<u8>, (usize, SchemeError)> {
        let scheme = self.scheme();
        let input = StepInput { state, ..StepInput::default() };
        let mut contributor = scheme.contributor(step, context, &input).unwrap();
        for (at, message) in inbox.iter().enumerate() {
            contributor.absorb(0..context.shape.dim, message).map_err(|error| (at, error))?;
        }
        let len = scheme.encoded_len(&context.shape, step).unwrap();
        let len = len.total(context.shape.dim).unwrap();
        let mut out = vec![0; usize::try_from(len).unwrap()];
        contributor.write(0..context.shape.dim, plaintext, &mut out).unwrap();
        Ok(out)
    }

    /// The ring words that replies and partial decryptions open to.
    ///
    /// # Errors
    /// [`Code::BadShare`], naming whose partial decryption is wrong; [`Code::Overflow`].
    pub fn open_shares(
        &self,
        key: &JobKey,
        round: u32,
        label: Label,
        replies: &[Vec<u8>],
        authority: &[u8],
        partials: &[(Name, Vec<u8>)],
    ) -> Result<Vec<u8>, Refusal> {
        let context = self.key_context(key, round, label);
        let all = 0..context.shape.dim;
        let members = u32::try_from(replies.len()).unwrap();
        let mut opener = self.scheme().opener(&context, members).unwrap();
        opener.begin(all);
        for reply in replies {
            opener.absorb(STEP_SUBMIT, reply).unwrap();
        }
        let wrong = |culprit: Culprit, why: &dyn core::fmt::Display| {
            Refusal::new(Code::BadShare, format!("a partial decryption is wrong: {why}"))
                .blaming(culprit)
        };
        let name = self.authorities[0].name.clone();
        opener
            .absorb(STEP_KEY, authority)
            .map_err(|error| wrong(Culprit::Authority(name), &error))?;
        for (holder, partial) in partials {
            let blame = |why: &dyn core::fmt::Display| wrong(Culprit::Party(holder.clone()), why);
            // The opener takes any holder's partial decryption: it must be the sender's own.
            let number = key.holder(holder).unwrap().to_le_bytes();
            if partial.first_chunk() != Some(&number) {
                return Err(blame(&"another holder's number"));
            }
            opener.absorb(STEP_PARTIAL, partial).map_err(|error| blame(&error))?;
        }
        let word = self.manifest.ring.word_bytes();
        let mut out = vec![0; usize::try_from(context.shape.dim).unwrap() * word];
        let opened = opener.finish(&mut out);
        opened.map_err(|error| Refusal::new(Code::Overflow, error.to_string()))?;
        Ok(out)
    }

    fn binding<'a>(&'a self, a: usize, member: &'a RosterEntry) -> KeyBinding<'a> {
        KeyBinding {
            tenant: self.manifest.tenant.as_str(),
            authority: self.authorities[a].name.as_str(),
            party: member.party.as_str(),
            authority_key: self.authorities[a].identity.exchange_key(),
            party_key: member.exchange,
            epoch: member.epoch,
        }
    }

    /// What party `party` encrypts of `plaintext`.
    #[must_use]
    pub fn seal(
        &self,
        party: &PartyKeys,
        round: u32,
        label: Label,
        nonce: Nonce,
        plaintext: &[u8],
    ) -> Vec<u8> {
        let PartyKeys { entry, identity, .. } = party;
        let keys: Vec<SharedKey> = (0..self.authorities.len())
            .map(|a| {
                let peer = self.authorities[a].identity.exchange_key();
                identity.shared_key(&peer, &self.binding(a, entry)).unwrap()
            })
            .collect();
        self.seal_with(&keys, round, label, nonce, plaintext)
    }

    /// What someone with these shared keys encrypts of `plaintext`.
    #[must_use]
    pub fn seal_with(
        &self,
        keys: &[SharedKey],
        round: u32,
        label: Label,
        nonce: Nonce,
        plaintext: &[u8],
    ) -> Vec<u8> {
        let keyed: Vec<_> = keys.iter().map(|key| KeyedNonce { key, nonce }).collect();
        let context = self.context(round, label);
        write_message(self.scheme(), STEP_SUBMIT, &context, &keyed, plaintext, 3).unwrap()
    }

    /// The functional key authority `a` computes.
    #[must_use]
    pub fn functional_key(&self, a: usize, work: &ComputeKey) -> Vec<u8> {
        let shared: Vec<SharedKey> = work
            .members
            .iter()
            .map(|member| {
                let binding = KeyBinding {
                    tenant: self.manifest.tenant.as_str(),
                    authority: self.authorities[a].name.as_str(),
                    party: member.party.as_str(),
                    authority_key: self.authorities[a].identity.exchange_key(),
                    party_key: member.exchange,
                    epoch: member.epoch,
                };
                self.authorities[a].identity.shared_key(&member.exchange, &binding).unwrap()
            })
            .collect();
        let keyed: Vec<_> = shared
            .iter()
            .zip(&work.members)
            .map(|(key, member)| KeyedNonce { key, nonce: member.nonce })
            .collect();
        let context = self.context(work.round, work.label);
        write_message(self.scheme(), STEP_KEY, &context, &keyed, &[], 5).unwrap()
    }

    /// The ring words that ciphertexts and keys open to.
    ///
    /// # Errors
    /// The scheme's.
    pub fn open(
        &self,
        round: u32,
        label: Label,
        ciphertexts: Vec<Vec<u8>>,
        keys: Vec<Vec<u8>>,
    ) -> Result<Vec<u8>, SchemeError> {
        let members = u32::try_from(ciphertexts.len()).unwrap();
        let context = self.context(round, label);
        open(self.scheme(), &context, members, &[ciphertexts, keys], 4)
    }

    /// What `members` contributions opened to `sum` say.
    ///
    /// # Errors
    /// [`Code::CheckSlot`] when no honest contributions add up to it.
    pub fn read(&self, round: u32, members: usize, sum: &[u8]) -> Result<OpenedSum, Refusal> {
        let Manifest { ring, code, workload, .. } = &self.manifest;
        let payload = self.manifest.payload(round)?;
        read_sum(&payload, *ring, code, workload.max_rows(), members as u64, sum)
            .map_err(|e| Refusal::new(Code::CheckSlot, e.to_string()))
    }

    /// The contribution of `party` in `round`, a function of the model state, as training is.
    #[must_use]
    pub fn plaintext(&self, party: usize, round: u32, state: Hash) -> Vec<u8> {
        let mut rng = stream(
            self.seed,
            "plaintext",
            &[&(party as u64).to_le_bytes(), &round.to_le_bytes(), &state.0],
        );
        let Manifest { ring, code, workload, .. } = &self.manifest;
        let payload = self.manifest.payload(round).unwrap();
        let max_rows = workload.max_rows();
        let rows = draw(&mut rng, 1, max_rows);
        let signed = |rng: &mut ChaCha20Rng, bound: u128| {
            let bound = i128::try_from(bound).unwrap();
            i64::try_from(i128::from(rng.next_u64()) % (2 * bound + 1) - bound).unwrap()
        };
        let body: Vec<i64> = match payload.kind {
            PayloadKind::Moments { columns } => {
                let values: Vec<Vec<i64>> = (0..columns)
                    .map(|_| (0..rows).map(|_| signed(&mut rng, 1 << MOMENT_BITS)).collect())
                    .collect();
                let first = values.iter().map(|column| column.iter().sum());
                let second = values.iter().map(|column| column.iter().map(|q| q * q).sum());
                first.chain(second).collect()
            }
            _ => {
                let bound = payload.unit(code).unwrap() * u128::from(rows);
                (0..payload.body_len()).map(|_| signed(&mut rng, bound)).collect()
            }
        };
        plaintext_bytes(&payload, *ring, code, max_rows, rows, &body).unwrap()
    }
}

fn bad_reply(party: &Name, error: &SchemeError) -> Refusal {
    Refusal::new(Code::BadCiphertext, format!("the reply of {party}: {error}"))
        .blaming(Culprit::Party(party.clone()))
}

/// Whether this scheme's keys are made and used by holders.
#[must_use]
pub fn is_threshold(scheme: u16) -> bool {
    schemes::threshold_by_id(scheme).is_some()
}

/// A privacy table whose budget allows `rounds` rounds.
#[must_use]
pub fn noise(rounds: u32) -> NoiseSpec {
    let table = NoiseSpec {
        unit: Unit::Party,
        mechanism: Mechanism::Gaussian,
        multiplier: 4.0,
        clip: 1.0,
        epsilon: 1.0,
        delta: 1e-6,
        data_set: name("customers"),
    };
    // Between what this many rounds cost and what one more would.
    let epsilon = f64::midpoint(table.epsilon_of(rounds), table.epsilon_of(rounds + 1));
    NoiseSpec { epsilon, ..table }
}

/// A driver's context.
pub fn context<'a>(now_ms: u64, identity: &'a Identity, rng: &'a mut ChaCha20Rng) -> Context<'a> {
    Context { now_ms, identity, rng }
}

fn manifest(
    seed: u64,
    size: &Size,
    aggregator: &Identity,
    authorities: &[AuthorityKeys],
) -> Manifest {
    let mut rng = stream(seed, "manifest", &[]);
    let mut salt = [0; 16];
    rng.fill_bytes(&mut salt);
    let ddh = size.scheme == 2;
    let threshold = is_threshold(size.scheme);
    let workload = match size.kind {
        // Short sums of values that a discrete logarithm is quickly found for.
        Kind::Sum if threshold => Workload::Sum { dim: 3, rounds: size.rounds, max_abs: 1 << 13 },
        // Wide values: two plaintexts of one run are never equal by chance.
        Kind::Sum => Workload::Sum {
            dim: if ddh { 2 } else { draw(&mut rng, 3, 7) },
            rounds: size.rounds,
            max_abs: 1 << 27,
        },
        Kind::Train => Workload::Train(TrainSpec {
            schema: Schema {
                columns: vec![Column {
                    name: "amount".into(),
                    kind: ColumnKind::Numeric { offset: 0.0, scale_log2: 4 },
                }],
                target: "default".into(),
                classes: vec!["no".into(), "yes".into()],
            },
            model: ModelSpec::Logistic { l2: 0.0 },
            rounds: size.rounds.saturating_sub(1).max(1),
            local: LocalSpec { epochs: 1, batch: 0, learning_rate: 0.5, prox_mu: 0.0 },
            steps: None,
            max_rows: 6,
            seed,
        }),
    };
    let small = size.kind == Kind::Sum && seed.is_multiple_of(2);
    Manifest {
        version: MANIFEST_VERSION,
        tenant: name("lab"),
        title: "simulated".into(),
        salt,
        aggregator: aggregator.verify_key(),
        authorities: authorities
            .iter()
            .map(|authority| AuthorityKey {
                name: authority.name.clone(),
                epoch: 1,
                verify: authority.identity.verify_key(),
                exchange: authority.identity.exchange_key(),
            })
            .collect(),
        protocol: match threshold {
            true => crate::threshold::PROTOCOL_ID,
            false => crate::hybrid_alpha::PROTOCOL_ID,
        },
        scheme: size.scheme,
        suite: if seed.is_multiple_of(3) { PadSuite::ChaCha20 } else { PadSuite::Aes256Ctr },
        ring: if small { Ring::Z32 } else { Ring::Z64 },
        code: FixedPoint { frac_bits: 20, clip: 8.0 },
        max_parties: size.parties,
        quorum: size.quorum,
        k_min: 2,
        colluders: size.colluders,
        threshold: size.threshold,
        privacy: size.budget.map_or(Privacy::None, |rounds| Privacy::Noise(noise(rounds))),
        verified_sum: false,
        deadlines: Deadlines { collect_ms: 1500, grace_ms: 150, key_ms: 900, max_attempts: 60 },
        workload,
    }
}

/// Threshold schemes that a test can make many keys of: the full-size Paillier key, which takes a
/// search for primes, is stood in for by its small laboratory twin of the same code.
pub fn quick_threshold_schemes() -> impl Iterator<Item = &'static dyn ThresholdScheme> {
    schemes::threshold().iter().copied().filter(|scheme| scheme.info().name != "paillier")
}
