//! Tests of what is this scheme's own; the conformance checks of all threshold schemes run beside.

use zeroize::Zeroizing;

use super::*;
use crate::keys::ExchangeKey;
use crate::merkle::hash_parts;
use crate::sum::{Ring, Role};
use crate::threshold::{CipherSum, ReplyBinding};

const CONTEXT: [u8; 32] = [3; 32];

fn seed(what: &str, number: u32) -> Secret<[u8; 32]> {
    Secret::new(hash_parts(what, &[&number.to_le_bytes()]).0)
}

fn binding(party: u32) -> ReplyBinding {
    ReplyBinding(hash_parts("binding", &[&party.to_le_bytes()]).0)
}

/// The participants of one key: the authority first.
struct Keys {
    identities: Vec<Identity>,
    holders: Vec<ExchangeKey>,
    threshold: u32,
    posts: Vec<KeyPost>,
    secrets: Vec<KeySecret>,
}

impl Keys {
    fn new(holders: u32, threshold: u32) -> Self {
        let identities: Vec<_> = (0..=holders)
            .map(|number| {
                let mut bytes = [0; 64];
                bytes[..32].copy_from_slice(seed("signing", number).expose());
                bytes[32..].copy_from_slice(seed("exchange", number).expose());
                Identity::from_bytes(&bytes)
            })
            .collect();
        Self {
            holders: identities[1..].iter().map(Identity::exchange_key).collect(),
            secrets: identities.iter().map(|_| Secret::new(Vec::new())).collect(),
            identities,
            threshold,
            posts: Vec::new(),
        }
    }

    fn setup(&self) -> KeySetup<'_> {
        KeySetup {
            context: [9; 32],
            authority: self.identities[0].exchange_key(),
            holders: &self.holders,
            threshold: self.threshold,
        }
    }

    fn make(&self, step: usize, number: u32) -> Result<(Vec<u8>, KeySecret), SchemeError> {
        let at = number as usize;
        let me = (number, &self.identities[at]);
        let seed = seed("step", number * 8 + u32::try_from(step).unwrap());
        ElGamal.key_post(&self.setup(), step, me, &self.secrets[at], &self.posts, &seed)
    }

    /// Everyone's post of a step, checked by nobody yet.
    fn step(&mut self, step: usize) {
        let numbers = match ElGamal.key_steps()[step].by {
            Role::Authority => 0..=0,
            _ => 1..=u32::try_from(self.holders.len()).unwrap(),
        };
        let mut made = Vec::new();
        for from in numbers {
            let (bytes, secret) = self.make(step, from).unwrap();
            self.secrets[from as usize] = secret;
            made.push(KeyPost { step: u16::try_from(step).unwrap(), from, bytes });
        }
        self.posts.append(&mut made);
    }

    fn until(holders: u32, threshold: u32, step: usize) -> Self {
        let mut keys = Self::new(holders, threshold);
        (0..step).for_each(|step| keys.step(step));
        keys
    }

    fn complete(holders: u32, threshold: u32) -> Self {
        Self::until(holders, threshold, ElGamal.key_steps().len())
    }

    fn post(&mut self, step: u16, from: u32) -> &mut Vec<u8> {
        let found = self.posts.iter_mut().find(|post| post.step == step && post.from == from);
        &mut found.unwrap().bytes
    }

    fn check(&self) -> Result<(), KeyFault> {
        ElGamal.key_check(&self.setup(), &self.posts)
    }

    /// Who is blamed.
    fn culprit(&self) -> Option<u32> {
        self.check().err().map(|fault| fault.from)
    }

    fn public(&self) -> Result<Vec<u8>, KeyFault> {
        ElGamal.public_key(&self.setup(), &self.posts)
    }

    fn share(&self, number: u32) -> Result<KeySecret, SchemeError> {
        let at = number as usize;
        let me = (number, &self.identities[at]);
        ElGamal.key_share(&self.setup(), me, &self.secrets[at], &self.posts)
    }

    fn load(&self) -> Arc<dyn ThresholdKey> {
        ElGamal.load(&self.public().unwrap()).unwrap()
    }
}

fn shape(dim: u64, parties: u32, bits: u32) -> SumShape {
    SumShape { ring: Ring::Z32, dim, parties, authorities: 1, bits }
}

fn reply(key: &dyn ThresholdKey, shape: &SumShape, party: u32, values: &[i64]) -> Vec<u8> {
    let mut out = vec![0; ElGamal.reply_bytes(shape).unwrap()];
    key.encrypt(shape, &binding(party), values, &seed("reply", party), &mut out).unwrap();
    out
}

fn sum_of(key: &dyn ThresholdKey, shape: &SumShape, all: &[Vec<i64>]) -> Box<dyn CipherSum> {
    let mut sum = key.sum(shape);
    for (party, values) in (0u32..).zip(all) {
        let bytes = reply(key, shape, party, values);
        key.verify_reply(shape, &binding(party), &bytes).unwrap();
        sum.add(&bytes).unwrap();
    }
    sum
}

fn partial(
    key: &dyn ThresholdKey,
    shape: &SumShape,
    sum: &dyn CipherSum,
    share: &KeySecret,
) -> Vec<u8> {
    let mut out = vec![0; ElGamal.partial_bytes(shape).unwrap()];
    key.partial(shape, &CONTEXT, share, sum, &seed("partial", 0), &mut out).unwrap();
    out
}

fn open(
    key: &dyn ThresholdKey,
    shape: &SumShape,
    members: u32,
    sum: &dyn CipherSum,
    partials: &[&[u8]],
) -> Result<Vec<i64>, SchemeError> {
    let mut out = Zeroizing::new(Vec::new());
    key.open(shape, members, sum, partials, &mut out).map(|()| out.to_vec())
}

fn plain(all: &[Vec<i64>]) -> Vec<i64> {
    (0..all[0].len()).map(|j| all.iter().map(|values| values[j]).sum()).collect()
}

#[test]
fn every_t_subset_of_five_opens_and_no_other_set() {
    let keys = Keys::complete(5, 3);
    let key = keys.load();
    let shape = shape(3, 4, 20);
    let all = vec![vec![-(1 << 19), (1 << 19) - 1, 7], vec![1, -1, 0], vec![5, 6, -7]];
    let sum = sum_of(key.as_ref(), &shape, &all);
    let partials: Vec<Vec<u8>> = (0..=5)
        .map(|number| {
            let share = keys.share(number).unwrap();
            let bytes = partial(key.as_ref(), &shape, sum.as_ref(), &share);
            let by = key.verify_partial(&shape, &CONTEXT, sum.as_ref(), &bytes);
            assert_eq!(by, Ok(number));
            bytes
        })
        .collect();
    for set in 0u32..64 {
        let chosen: Vec<&[u8]> =
            (0..6).filter(|i| set >> i & 1 == 1).map(|i| partials[i].as_slice()).collect();
        let opened = open(key.as_ref(), &shape, 3, sum.as_ref(), &chosen);
        let holders = (set >> 1).count_ones();
        match (set & 1, holders) {
            (1, 3) => assert_eq!(opened, Ok(plain(&all))),
            (1, got) => {
                assert_eq!(opened, Err(SchemeError::Messages { step: 2, expected: 3, got }));
            }
            _ => {
                assert_eq!(opened, Err(SchemeError::Messages { step: 1, expected: 1, got: 0 }));
            }
        }
    }
}
