//! Keys, manifests and the bulk arithmetic of every role, without a network: what the simulator's
//! drivers, the scripted scenarios and the attacks share.

use std::collections::BTreeMap;

use quorate_crypto::conformance::{open, write_message};
use quorate_crypto::fixed::FixedPoint;
use quorate_crypto::keys::{Identity, KeyBinding, SharedKey};
use quorate_crypto::merkle::{CHUNK_BYTES, Hash, hash_parts, leaf_hash, root};
use quorate_crypto::sum::{
    KeyedNonce, Label, Nonce, PadSuite, Ring, SchemeError, SumContext, SumScheme,
};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use crate::enrol::{Enroll, EnrollRequest, Enrolled};
use crate::hybrid_alpha::PROTOCOL_ID;
use crate::job::{AuthorityKey, Deadlines, MANIFEST_VERSION, Manifest, Privacy, RosterEntry};
use crate::machine::Context;
use crate::payload::{MOMENT_BITS, OpenedSum, PayloadKind, plaintext_bytes, read_sum};
use crate::refusal::{Code, Refusal};
use crate::round::authority::ComputeKey;
use crate::round::messages::BulkRef;
use crate::round::{STEP_KEY, STEP_SUBMIT};
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
#[derive(Debug)]
pub struct AuthorityKeys {
    /// Its id.
    pub name: Name,
    /// Its keys.
    pub identity: Identity,
    /// Who is enrolled.
    pub directory: BTreeMap<Name, RosterEntry>,
}

/// One party's keys.
#[derive(Debug)]
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
}

/// A deployment: all keys, and one job's manifest.
#[derive(Debug)]
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
    let workload = match size.kind {
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
        protocol: PROTOCOL_ID,
        scheme: size.scheme,
        suite: if seed.is_multiple_of(3) { PadSuite::ChaCha20 } else { PadSuite::Aes256Ctr },
        ring: if small { Ring::Z32 } else { Ring::Z64 },
        code: FixedPoint { frac_bits: 20, clip: 8.0 },
        max_parties: size.parties,
        quorum: size.quorum,
        k_min: 2,
        colluders: size.colluders,
        threshold: None,
        privacy: Privacy::None,
        verified_sum: false,
        deadlines: Deadlines { collect_ms: 1500, grace_ms: 150, key_ms: 900, max_attempts: 60 },
        workload,
    }
}
