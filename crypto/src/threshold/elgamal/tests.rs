//! Tests of what is this scheme's own; the conformance checks of all threshold schemes run beside.

use curve25519_dalek::constants::RISTRETTO_BASEPOINT_POINT as G;
use curve25519_dalek::ristretto::{CompressedRistretto, RistrettoPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::Identity as _;
use proptest::prelude::*;
use zeroize::Zeroizing;

use super::*;
use crate::keys::ExchangeKey;
use crate::merkle::hash_parts;
use crate::sum::{Ring, Role};
use crate::threshold::{AUTHORITY, CipherSum, ReplyBinding};

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

#[test]
fn extremes_of_fifty_parties_are_exact() {
    let keys = Keys::complete(1, 1);
    let key = keys.load();
    let shape = shape(3, 50, 12);
    let low = -(1i64 << 11);
    let mut all = vec![vec![low, -low - 1, 0]; 50];
    all[7][2] = -1;
    let mut sum = sum_of(key.as_ref(), &shape, &all);
    let bytes: Vec<Vec<u8>> = (0..2)
        .map(|i| partial(key.as_ref(), &shape, sum.as_ref(), &keys.share(i).unwrap()))
        .collect();
    let partials = [bytes[0].as_slice(), &bytes[1]];
    let opened = open(key.as_ref(), &shape, 50, sum.as_ref(), &partials);
    assert_eq!(opened, Ok(vec![50 * low, 50 * (-low - 1), -1]));
    // One value more than 49 members could have had is refused by its coordinate.
    let refused = open(key.as_ref(), &shape, 49, sum.as_ref(), &partials);
    assert_eq!(refused, Err(SchemeError::Messages { step: 0, expected: 49, got: 50 }));
    sum.add(&reply(key.as_ref(), &shape, 0, &[0; 3])).unwrap();
    let refused = open(key.as_ref(), &shape, 51, sum.as_ref(), &partials);
    assert!(matches!(refused, Err(SchemeError::OutOfRange(0))), "shares of another sum");
    let mut out = vec![0; ElGamal.reply_bytes(&shape).unwrap()];
    for (at, value) in [(0, low - 1), (2, -low), (1, i64::MIN), (1, i64::MAX)] {
        let mut values = [0; 3];
        values[at] = value;
        let made = key.encrypt(&shape, &binding(0), &values, &seed("x", 0), &mut out);
        assert_eq!(made, Err(SchemeError::OutOfRange(at as u64)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn sums_equal_plain_arithmetic(
        bits in 2u32..=18,
        words in proptest::collection::vec(proptest::collection::vec(any::<i64>(), 4), 2..6),
    ) {
        let keys = Keys::complete(2, 1);
        let key = keys.load();
        let shape = shape(4, 5, bits);
        let all: Vec<Vec<i64>> =
            words.iter().map(|words| words.iter().map(|w| w >> (64 - bits)).collect()).collect();
        let members = u32::try_from(all.len()).unwrap();
        let sum = sum_of(key.as_ref(), &shape, &all);
        let bytes: Vec<Vec<u8>> = [0, 2]
            .map(|i| partial(key.as_ref(), &shape, sum.as_ref(), &keys.share(i).unwrap()))
            .to_vec();
        let opened = open(key.as_ref(), &shape, members, sum.as_ref(), &[&bytes[0], &bytes[1]]);
        prop_assert_eq!(opened, Ok(plain(&all)));
    }
}

fn point_at(bytes: &[u8], at: usize) -> RistrettoPoint {
    CompressedRistretto::from_slice(&bytes[at * 32..][..32]).unwrap().decompress().unwrap()
}

fn put(bytes: &mut [u8], at: usize, point: RistrettoPoint) {
    bytes[at * 32..][..32].copy_from_slice(point.compress().as_bytes());
}

#[test]
fn replies_made_of_another_are_refused() {
    let keys = Keys::complete(3, 2);
    let key = keys.load();
    let shape = shape(2, 3, 16);
    let honest = reply(key.as_ref(), &shape, 1, &[5, -6]);
    let check = |by: u32, bytes: &[u8]| key.verify_reply(&shape, &binding(by), bytes);
    assert_eq!(check(1, &honest), Ok(()));
    assert_eq!(check(2, &honest), Err(SchemeError::BadProof), "copied, or under another label");
    let y = point_at(&keys.public().unwrap()[9..], 0) + point_at(&keys.public().unwrap()[9..], 1);
    let change = |with: &dyn Fn(RistrettoPoint, usize) -> RistrettoPoint| {
        let mut bytes = honest.clone();
        (0..4).for_each(|at| put(&mut bytes, at, with(point_at(&honest, at), at)));
        bytes
    };
    let blind = Scalar::from(77u8);
    let negated = change(&|point, _| -point);
    let scaled = change(&|point, _| point * Scalar::from(1u64 << 40));
    let shifted = change(&|point, at| if at == 1 { point + G } else { point });
    let blinded = change(&|point, at| point + if at % 2 == 0 { G } else { y } * blind);
    let swapped = change(&|_, at| point_at(&honest, (at + 2) % 4));
    for bytes in [&negated, &scaled, &shifted, &blinded, &swapped] {
        for by in [1, 2] {
            assert_eq!(check(by, bytes), Err(SchemeError::BadProof));
        }
    }
    // The homomorphism carries the proof's responses too, but not its challenge.
    let mut doubled = change(&|point, _| point + point);
    for at in [5, 6] {
        let response: [u8; 32] = honest[at * 32..][..32].try_into().unwrap();
        let twice = Scalar::from_canonical_bytes(response).unwrap() * Scalar::from(2u8);
        doubled[at * 32..][..32].copy_from_slice(twice.as_bytes());
    }
    assert_eq!(check(1, &doubled), Err(SchemeError::BadProof));
    for other in [SumShape { bits: 17, ..shape }, SumShape { parties: 4, ..shape }] {
        let refused = key.verify_reply(&other, &binding(1), &honest);
        assert_eq!(refused, Err(SchemeError::BadProof), "of another shape");
    }
    let other = Keys::complete(3, 1).load();
    assert_eq!(other.verify_reply(&shape, &binding(1), &honest), Err(SchemeError::BadProof));
}

#[test]
fn replies_have_one_encoding() {
    let key = Keys::complete(1, 1).load();
    let shape = shape(2, 2, 16);
    let honest = reply(key.as_ref(), &shape, 1, &[5, -6]);
    let check = |bytes: &[u8]| key.verify_reply(&shape, &binding(1), bytes);
    for bit in (0..honest.len() * 8).step_by(37) {
        let mut bytes = honest.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(check(&bytes).is_err(), "bit {bit}");
    }
    let got = honest.len() - 1;
    assert_eq!(check(&honest[1..]), Err(SchemeError::Length { expected: got + 1, got }));
    let mut hollow = honest.clone();
    put(&mut hollow, 2, RistrettoPoint::identity());
    assert_eq!(check(&hollow), Err(SchemeError::Malformed(1)));
    // The same scalar plus the group's order.
    let mut high = honest;
    let order = -Scalar::ONE;
    let mut carry = 1u16;
    for (byte, order) in high[5 * 32..6 * 32].iter_mut().zip(order.to_bytes()) {
        carry += u16::from(*byte) + u16::from(order);
        *byte = u8::try_from(carry & 255).unwrap();
        carry >>= 8;
    }
    assert_eq!(check(&high), Err(SchemeError::BadProof));
}

/// What was checked last is only a shortcut for what is added next.
#[test]
fn adding_does_not_depend_on_what_was_checked() {
    let key = Keys::complete(1, 1).load();
    let shape = shape(2, 3, 16);
    let replies: Vec<_> =
        (0..3).map(|party| reply(key.as_ref(), &shape, party, &[i64::from(party), -1])).collect();
    let mut plainly = key.sum(&shape);
    replies.iter().for_each(|bytes| plainly.add(bytes).unwrap());
    let mut checked = key.sum(&shape);
    for (party, bytes) in (0u32..).zip(&replies) {
        key.verify_reply(&shape, &binding(party), bytes).unwrap();
        checked.add(bytes).unwrap();
    }
    let mut crossed = key.sum(&shape);
    key.verify_reply(&shape, &binding(2), &replies[2]).unwrap();
    replies.iter().for_each(|bytes| crossed.add(bytes).unwrap());
    assert_eq!(plainly.to_bytes(), checked.to_bytes());
    assert_eq!(plainly.to_bytes(), crossed.to_bytes());
    assert!(crossed.add(&replies[0][..64]).is_err());
}

#[test]
fn a_lying_partial_decryption_is_refused() {
    let keys = Keys::complete(3, 2);
    let key = keys.load();
    let shape = shape(2, 3, 16);
    let all = vec![vec![1, 2], vec![3, 4]];
    let sum = sum_of(key.as_ref(), &shape, &all);
    let share = keys.share(2).unwrap();
    let honest = partial(key.as_ref(), &shape, sum.as_ref(), &share);
    let check = |bytes: &[u8]| key.verify_partial(&shape, &CONTEXT, sum.as_ref(), bytes);
    assert_eq!(check(&honest), Ok(2));
    for number in [0u32, 1, 3, 4, u32::MAX] {
        let mut bytes = honest.clone();
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        assert_eq!(check(&bytes), Err(SchemeError::BadProof));
    }
    // Errors that cancel out in an unweighted sum.
    let mut bytes = honest.clone();
    for (at, shift) in [(0, G), (1, -G)] {
        let moved = point_at(&honest[4..], at) + shift;
        put(&mut bytes[4..], at, moved);
    }
    assert_eq!(check(&bytes), Err(SchemeError::BadProof));
    let other = key.verify_partial(&shape, &[4; 32], sum.as_ref(), &honest);
    assert_eq!(other, Err(SchemeError::BadProof), "of another label");
    let less = sum_of(key.as_ref(), &shape, &all[..1]);
    let other = key.verify_partial(&shape, &CONTEXT, less.as_ref(), &honest);
    assert_eq!(other, Err(SchemeError::BadProof), "of another sum");

    let mut out = honest.clone();
    let mut forged = Secret::new(share.expose().clone());
    forged.expose_mut()[0] = 1;
    let lent = Secret::new(share.expose()[1..].to_vec());
    for wrong in [&forged, &lent, &Secret::new(Vec::new())] {
        let made = key.partial(&shape, &CONTEXT, wrong, sum.as_ref(), &seed("", 0), &mut out);
        assert!(matches!(made, Err(SchemeError::Key(_))));
    }
    // One holder twice is not two holders.
    let authority = partial(key.as_ref(), &shape, sum.as_ref(), &keys.share(AUTHORITY).unwrap());
    let twice = open(key.as_ref(), &shape, 2, sum.as_ref(), &[&authority, &honest, &honest]);
    assert_eq!(twice, Err(SchemeError::Messages { step: 2, expected: 2, got: 1 }));
}

#[test]
fn public_keys_have_one_encoding_and_fit_together() {
    let keys = Keys::complete(3, 2);
    let bytes = keys.public().unwrap();
    assert!(ElGamal.load(&bytes).is_ok());
    let refused = |bytes: &[u8]| matches!(ElGamal.load(bytes), Err(SchemeError::Key(_)));
    assert!((0..bytes.len()).all(|len| refused(&bytes[..len])));
    for at in (0..9).chain((9..bytes.len()).step_by(16)) {
        let mut bytes = bytes.clone();
        bytes[at] ^= 2;
        // Y_A stands alone: any other point in its place is another key.
        let authority = (9..41).contains(&at) && ElGamal.load(&bytes).is_ok();
        assert!(authority || refused(&bytes), "{at}");
    }
    for at in 0..5 {
        let mut bytes = bytes.clone();
        put(&mut bytes[9..], at, RistrettoPoint::identity());
        assert!(refused(&bytes));
    }
    let mut cancelling = bytes.clone();
    put(&mut cancelling[9..], 0, -point_at(&bytes[9..], 1));
    assert!(refused(&cancelling));
    for at in 1..5 {
        let mut bytes = bytes.clone();
        let moved = point_at(&bytes[9..], at) + G;
        put(&mut bytes[9..], at, moved);
        assert!(refused(&bytes), "{at}");
    }
}

#[test]
fn shapes_beyond_the_solver_are_refused() {
    for good in [shape(10_000, 10, 20), shape(100_000, 2, 16), shape(1, 2, 32), shape(1, 1024, 23)]
    {
        assert_eq!(ElGamal.check(&good), Ok(()), "{good:?}");
        assert!(ElGamal.partial_bytes(&good).unwrap() <= 3_500_000);
        assert!(ElGamal.reply_bytes(&good).is_some());
    }
    for bad in [
        shape(0, 10, 20),
        shape(100_001, 10, 20),
        shape(10, 1, 20),
        shape(10, 1025, 8),
        shape(10, 10, 1),
        shape(10, 10, 33),
        shape(1, 3, 32),
        shape(1, 1024, 24),
        shape(100_000, 2, 32),
    ] {
        assert!(ElGamal.check(&bad).is_err(), "{bad:?}");
    }
    assert_eq!(ElGamal.reply_bytes(&shape(u64::MAX, 2, 8)), None);
}

#[test]
fn posts_do_not_depend_on_order_and_are_bound_to_their_call() {
    let mut keys = Keys::complete(4, 3);
    let public = keys.public().unwrap();
    keys.posts.reverse();
    assert_eq!(keys.check(), Ok(()));
    assert_eq!(keys.public().unwrap(), public);
    let shares: Vec<_> = (0..=4).map(|i| keys.share(i).unwrap()).collect();
    keys.posts.sort();
    for (i, share) in (0..).zip(&shares) {
        assert!(keys.share(i).unwrap().ct_eq(share));
    }
    for setup in [
        KeySetup { context: [8; 32], ..keys.setup() },
        KeySetup { threshold: 2, ..keys.setup() },
        KeySetup { holders: &keys.holders[..3], ..keys.setup() },
        KeySetup { threshold: 0, ..keys.setup() },
        KeySetup { threshold: 5, ..keys.setup() },
    ] {
        assert!(ElGamal.key_check(&setup, &keys.posts).is_err());
    }
    // A stranger's identity, and the secret of another holder.
    let strange = (1, &keys.identities[2]);
    let refused = ElGamal.key_share(&keys.setup(), strange, &keys.secrets[1], &keys.posts);
    assert!(matches!(refused, Err(SchemeError::Key(_))));
    keys.secrets.swap(1, 2);
    assert!(matches!(keys.share(1), Err(SchemeError::Key(_))));
}

/// Every single altered byte of every post names its sender.
#[test]
fn altered_posts_name_their_sender() {
    for step in 0..4u16 {
        let mut keys = Keys::until(3, 2, usize::from(step) + 1);
        assert_eq!(keys.culprit(), None);
        let from = if step == 3 { AUTHORITY } else { 2 };
        let honest = keys.post(step, from).clone();
        // The padded shares at a dealing's end are checked by their receivers alone.
        let checked = if step == 1 { 2 * 32 + 64 } else { honest.len() };
        // A commitment hash is only seen to be wrong in the next step.
        let checked = if step == 0 { checked - 32 } else { checked };
        for at in (0..checked).step_by(5).chain([checked - 1]) {
            keys.post(step, from)[at] ^= 1;
            assert_eq!(keys.culprit(), Some(from), "step {step}, byte {at}");
            *keys.post(step, from) = honest.clone();
        }
        keys.post(step, from).pop();
        assert_eq!(keys.culprit(), Some(from));
        *keys.post(step, from) = honest.clone();
        keys.post(step, from).push(0);
        assert_eq!(keys.culprit(), Some(from));
        *keys.post(step, from) = honest.clone();
        keys.post(step, from).clear();
        assert_eq!(keys.culprit(), Some(from));
    }
}

#[test]
fn posts_out_of_turn_name_their_sender() {
    let keys = Keys::until(3, 2, 3);
    let with = |post: KeyPost| {
        let mut posts = keys.posts.clone();
        posts.push(post);
        ElGamal.key_check(&keys.setup(), &posts).unwrap_err().from
    };
    let post = |step, from| KeyPost { step, from, bytes: Vec::new() };
    assert_eq!(with(post(0, 4)), 4, "no participant");
    assert_eq!(with(post(4, 1)), 1, "no step");
    assert_eq!(with(post(3, 2)), 2, "not its step");
    assert_eq!(with(post(0, AUTHORITY)), AUTHORITY);
    assert_eq!(with(keys.posts[1].clone()), 2, "twice");
    assert_eq!(keys.public().unwrap_err().from, AUTHORITY, "missing");
    let mut early = Keys::until(3, 2, 2);
    early.posts.retain(|post| (post.step, post.from) != (0, 3));
    assert_eq!(early.public().unwrap_err().from, 1, "dealt before the step was open");
    early.posts.retain(|post| post.step == 0);
    assert_eq!(early.culprit(), None);
    assert_eq!(early.public().unwrap_err().from, 3, "missing");
    assert!(matches!(early.make(1, 1), Err(SchemeError::Key(_))));
    assert!(matches!(early.make(1, AUTHORITY), Err(SchemeError::WrongStep)));
    assert!(matches!(early.make(3, 1), Err(SchemeError::WrongStep)));
    assert!(matches!(early.make(4, 1), Err(SchemeError::WrongStep)));
}

#[test]
fn a_dealing_after_sight_of_others_names_the_dealer() {
    let mut keys = Keys::until(3, 2, 1);
    // Holder 2 forgets its polynomial and deals another.
    let other = Keys::new(3, 2);
    let me = (2, &other.identities[2]);
    let (late, secret) =
        ElGamal.key_post(&other.setup(), 0, me, &other.secrets[2], &[], &seed("late", 2)).unwrap();
    let early = std::mem::replace(keys.post(0, 2), late);
    keys.secrets[2] = secret;
    keys.step(1);
    let late = std::mem::replace(keys.post(0, 2), early);
    assert_eq!(keys.culprit(), Some(2));
    *keys.post(0, 2) = late;
    assert_eq!(keys.culprit(), None);
    // The secret does not fit the post: the holder itself notices.
    let mut torn = Keys::until(3, 2, 1);
    torn.secrets[2] = Secret::new(torn.secrets[1].expose().clone());
    assert!(matches!(torn.make(1, 2), Err(SchemeError::Key(_))));
}

#[test]
fn a_bad_share_is_complained_of_and_names_the_dealer() {
    for holder in 1..=3u32 {
        let mut keys = Keys::until(3, 2, 2);
        // Holder 2 cheats on one share: no one else can see it.
        let at = 2 * 32 + 64 + 32 * (holder as usize - 1);
        keys.post(1, 2)[at] ^= 1;
        assert_eq!(keys.culprit(), None);
        keys.step(2);
        assert_eq!(keys.post(2, holder)[0], 1, "a complaint");
        assert!(keys.secrets[holder as usize].expose().is_empty(), "nothing to keep");
        assert_eq!(keys.culprit(), Some(2));
        assert_eq!(keys.public().unwrap_err().from, 2);
        assert!(matches!(keys.make(3, AUTHORITY), Err(SchemeError::Key(_))));
    }
}

#[test]
fn false_complaints_name_the_one_who_complains() {
    let mut cheated = Keys::until(3, 2, 2);
    cheated.post(1, 2)[2 * 32 + 64 + 32 * 2] ^= 1;
    cheated.step(2);
    let complaint = cheated.post(2, 3).clone();
    // The same complaint, where the dealer was honest.
    let mut keys = Keys::until(3, 2, 2);
    keys.step(2);
    *keys.post(2, 3) = complaint.clone();
    assert_eq!(keys.culprit(), Some(3));
    // Against another dealer, nobody, oneself; by another; with another point.
    for (at, byte) in [(1, 1), (1, 0), (1, 4), (1, 3)] {
        let mut bytes = complaint.clone();
        bytes[at] = byte;
        *cheated.post(2, 3) = bytes;
        assert_eq!(cheated.culprit(), Some(3), "{byte}");
    }
    let mut bytes = complaint.clone();
    put(&mut bytes[5..], 0, G);
    *cheated.post(2, 3) = bytes;
    assert_eq!(cheated.culprit(), Some(3));
    let confirmation = keys.post(2, 3).clone();
    *cheated.post(2, 1) = complaint;
    *cheated.post(2, 3) = confirmation;
    assert_eq!(cheated.culprit(), Some(1));
}

#[test]
fn a_confirmation_of_other_posts_names_its_sender() {
    let mut keys = Keys::until(3, 2, 3);
    let honest = keys.post(2, 1).clone();
    assert_eq!(*keys.post(2, 2), honest, "all say the same");
    let mut other = Keys::until(3, 2, 2);
    other.post(1, 3)[2 * 32 + 64 + 2 * 32] ^= 1;
    // Holder 1 saw another dealing of holder 3 to itself.
    *keys.post(2, 1) = other.make(2, 1).unwrap().0;
    assert_eq!(keys.culprit(), Some(1));
}

#[test]
fn secrets_of_the_key_are_wiped_step_by_step() {
    let scalars = |keys: &Keys| (keys.secrets[1].expose().len() - 1) / 32;
    let mut keys = Keys::new(3, 2);
    let left: Vec<_> = (0..3)
        .map(|step| {
            keys.step(step);
            (keys.secrets[1].expose()[0], scalars(&keys))
        })
        .collect();
    assert_eq!(left, [(1, 3), (2, 1), (3, 1)], "r and f; r; x");
    // A step made from another step's secret is refused.
    assert!(matches!(keys.make(2, 1), Err(SchemeError::Key(_))));
}

#[test]
fn the_same_inputs_give_the_same_reply_and_others_other_randomness() {
    let key = Keys::complete(1, 1).load();
    let shape = shape(2, 2, 16);
    let make = |party, values: &[i64]| {
        let mut out = vec![0; ElGamal.reply_bytes(&shape).unwrap()];
        key.encrypt(&shape, &binding(party), values, &seed("one", 1), &mut out).unwrap();
        out
    };
    let first = make(1, &[1, 2]);
    assert_eq!(first, make(1, &[1, 2]));
    for other in [make(1, &[1, 3]), make(2, &[1, 2])] {
        // C1 of coordinate 0 is its randomness alone.
        assert_ne!(first[..32], other[..32]);
    }
}
