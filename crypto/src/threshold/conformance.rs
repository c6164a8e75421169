//! Checks that hold for every threshold scheme: a scheme passes them or does not enter the registry.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a failed check panics, as tests do"
)]

use std::sync::Arc;

use zeroize::Zeroizing;

use super::{
    AUTHORITY, CipherSum, HolderInput, KeyPost, KeySecret, KeySetup, PartyInput, ReplyBinding,
    ThresholdKey, ThresholdScheme,
};
use crate::fe::pad::Pad;
use crate::fixed::to_ring;
use crate::keys::{ExchangeKey, Identity};
use crate::merkle::hash_parts;
use crate::secret::Secret;
use crate::sum::{
    KeyedNonce, Label, PadSuite, Ring, Role, SchemeError, StepInput, SumContext, SumScheme,
    SumShape,
};

/// How a participant makes its post: [`ThresholdScheme::key_post`], or a stand-in for tests that
/// already have the secret values.
pub type MakePost<'a> = dyn Fn(
        &KeySetup<'_>,
        usize,
        (u32, &Identity),
        &KeySecret,
        &[KeyPost],
        &Secret<[u8; 32]>,
    ) -> Result<(Vec<u8>, KeySecret), SchemeError>
    + 'a;

/// A key with all its participants.
pub struct KeyFixture {
    /// Hash of the call.
    pub context: [u8; 32],
    /// Participants by number, the authority first.
    pub identities: Vec<Identity>,
    /// Exchange keys of the holders.
    pub holders: Vec<ExchangeKey>,
    /// T.
    pub threshold: u32,
    /// All posts, sorted.
    pub posts: Vec<KeyPost>,
    /// What each participant's last step returned.
    pub secrets: Vec<KeySecret>,
    /// The public key.
    pub public: Vec<u8>,
    /// Shares by number.
    pub shares: Vec<KeySecret>,
}

fn seed(what: &str, seed: u8, number: u32) -> Secret<[u8; 32]> {
    Secret::new(hash_parts(what, &[&[seed], &number.to_le_bytes()]).0)
}

impl KeyFixture {
    /// Makes a key for `holders` holders, `threshold` of whom open, everything drawn from `drawn`.
    #[must_use]
    pub fn run(scheme: &dyn ThresholdScheme, holders: u32, threshold: u32, drawn: u8) -> Self {
        let post = |setup: &KeySetup<'_>,
                    step: usize,
                    me: (u32, &Identity),
                    secret: &KeySecret,
                    posts: &[KeyPost],
                    seed: &Secret<[u8; 32]>| {
            scheme.key_post(setup, step, me, secret, posts, seed)
        };
        Self::run_with(scheme, holders, threshold, drawn, &post)
    }

    /// As [`KeyFixture::run`], with posts made by `post`.
    #[must_use]
    pub fn run_with(
        scheme: &dyn ThresholdScheme,
        holders: u32,
        threshold: u32,
        drawn: u8,
        post: &MakePost<'_>,
    ) -> Self {
        let identities: Vec<Identity> = (0..=holders)
            .map(|number| {
                let mut bytes = [0; 64];
                bytes[..32].copy_from_slice(seed("fixture signing", drawn, number).expose());
                bytes[32..].copy_from_slice(seed("fixture exchange", drawn, number).expose());
                Identity::from_bytes(&bytes)
            })
            .collect();
        let mut fixture = Self {
            context: hash_parts("fixture call", &[&[drawn]]).0,
            holders: identities[1..].iter().map(Identity::exchange_key).collect(),
            secrets: identities.iter().map(|_| Secret::new(Vec::new())).collect(),
            identities,
            threshold,
            posts: Vec::new(),
            public: Vec::new(),
            shares: Vec::new(),
        };
        for (step, what) in scheme.key_steps().iter().enumerate() {
            let numbers = match what.by {
                Role::Authority => 0..=0,
                Role::Decryptor => 1..=holders,
                Role::Party => panic!("parties have no part in a key"),
            };
            let mut posted = Vec::new();
            for number in numbers {
                let at = number as usize;
                let (bytes, secret) = post(
                    &fixture.setup(),
                    step,
                    (number, &fixture.identities[at]),
                    &fixture.secrets[at],
                    &fixture.posts,
                    &seed("fixture step", drawn ^ (u8::try_from(step).unwrap() << 5), number),
                )
                .unwrap();
                fixture.secrets[at] = secret;
                posted.push(KeyPost { step: u16::try_from(step).unwrap(), from: number, bytes });
            }
            fixture.posts.append(&mut posted);
            fixture.posts.sort();
            scheme.key_check(&fixture.setup(), &fixture.posts).unwrap();
        }
        fixture.public = scheme.public_key(&fixture.setup(), &fixture.posts).unwrap();
        fixture.shares =
            (0..=holders).map(|number| fixture.share(scheme, number).unwrap()).collect();
        fixture
    }

    /// What was fixed before the key.
    #[must_use]
    pub fn setup(&self) -> KeySetup<'_> {
        KeySetup {
            context: self.context,
            authority: self.identities[0].exchange_key(),
            holders: &self.holders,
            threshold: self.threshold,
        }
    }

    /// The share of a participant.
    ///
    /// # Errors
    /// The scheme's.
    pub fn share(
        &self,
        scheme: &dyn ThresholdScheme,
        number: u32,
    ) -> Result<KeySecret, SchemeError> {
        let at = number as usize;
        let me = (number, &self.identities[at]);
        scheme.key_share(&self.setup(), me, &self.secrets[at], &self.posts)
    }

    /// A copy of a share, which [`Secret`] does not give by itself.
    #[must_use]
    pub fn copied_share(&self, number: u32) -> KeySecret {
        Secret::new(self.shares[number as usize].expose().clone())
    }

    fn holders(&self) -> u32 {
        u32::try_from(self.holders.len()).unwrap()
    }
}

/// What party `party` binds its reply to.
#[must_use]
pub fn binding(party: u32) -> ReplyBinding {
    ReplyBinding(hash_parts("fixture binding", &[&party.to_le_bytes()]).0)
}

/// Context of the partial decryptions in these checks.
pub const CONTEXT: [u8; 32] = [7; 32];

/// Values of party `party`: the extremes of `shape.bits` bits, -1, 0 and 1 first, then pseudo-random.
#[must_use]
pub fn values(shape: &SumShape, party: u32, drawn: u8) -> Vec<i64> {
    let low = i64::MIN >> (64 - shape.bits);
    let edges = [low, !low, -1, 0, 1];
    (0..shape.dim)
        .map(|k| {
            edges.get(usize::try_from(k).unwrap()).copied().unwrap_or_else(|| {
                let hash = hash_parts(
                    "fixture value",
                    &[&[drawn], &party.to_le_bytes(), &k.to_le_bytes()],
                );
                i64::from_le_bytes(hash.0[..8].try_into().unwrap()) >> (64 - shape.bits)
            })
        })
        .collect()
}

/// Column sums in wide arithmetic, reduced to 64 bits.
#[must_use]
pub fn plain_sum(all: &[Vec<i64>]) -> Vec<i64> {
    let dim = all.first().map_or(0, Vec::len);
    (0..dim)
        .map(|k| {
            let sum: i128 = all.iter().map(|values| i128::from(values[k])).sum();
            #[expect(clippy::cast_possible_truncation, reason = "sums are words of the ring")]
            let word = sum as i64;
            word
        })
        .collect()
}

/// One sum, checked and added up, with the partial decryption of every participant.
pub struct Summed {
    /// The key.
    pub key: Arc<dyn ThresholdKey>,
    /// The shape.
    pub shape: SumShape,
    /// Plaintexts by party.
    pub plains: Vec<Vec<i64>>,
    /// Replies by party.
    pub replies: Vec<Vec<u8>>,
    /// Their sum.
    pub sum: Box<dyn CipherSum>,
    /// Partial decryptions by participant.
    pub partials: Vec<Vec<u8>>,
}

impl core::fmt::Debug for Summed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Summed").field("shape", &self.shape).finish_non_exhaustive()
    }
}

impl Summed {
    /// Encrypts, verifies and adds the replies of all `shape.parties` parties and decrypts in part
    /// for every participant of the key.
    #[must_use]
    pub fn run(
        scheme: &dyn ThresholdScheme,
        fixture: &KeyFixture,
        shape: SumShape,
        plains: Vec<Vec<i64>>,
        drawn: u8,
    ) -> Self {
        scheme.check(&shape).unwrap();
        let key = scheme.load(&fixture.public).unwrap();
        let mut sum = key.sum(&shape);
        let mut replies = Vec::new();
        for (party, values) in (0..).zip(&plains) {
            let mut reply = vec![0; scheme.reply_bytes(&shape).unwrap()];
            let drawn = seed("fixture reply", drawn, party);
            key.encrypt(&shape, &binding(party), values, &drawn, &mut reply).unwrap();
            key.verify_reply(&shape, &binding(party), &reply).unwrap();
            sum.add(&reply).unwrap();
            replies.push(reply);
        }
        let mut summed = Self::of(scheme, fixture, shape, plains, sum, drawn);
        summed.replies = replies;
        summed
    }

    /// The partial decryption of every participant for a sum that is there already.
    #[must_use]
    pub fn of(
        scheme: &dyn ThresholdScheme,
        fixture: &KeyFixture,
        shape: SumShape,
        plains: Vec<Vec<i64>>,
        sum: Box<dyn CipherSum>,
        drawn: u8,
    ) -> Self {
        let key = scheme.load(&fixture.public).unwrap();
        let mut partials = Vec::new();
        for (number, share) in (0..).zip(&fixture.shares) {
            let mut out = vec![0; scheme.partial_bytes(&shape).unwrap()];
            let drawn = seed("fixture partial", drawn, number);
            key.partial(&shape, &CONTEXT, share, sum.as_ref(), &drawn, &mut out).unwrap();
            let from = key.verify_partial(&shape, &CONTEXT, sum.as_ref(), &out).unwrap();
            assert_eq!((from, &out[..4]), (number, number.to_le_bytes().as_slice()));
            partials.push(out);
        }
        Self { key, shape, plains, replies: Vec::new(), sum, partials }
    }

    /// Opens with the partial decryptions of these participants.
    ///
    /// # Errors
    /// The scheme's.
    pub fn open(&self, participants: &[usize]) -> Result<Vec<i64>, SchemeError> {
        let partials: Vec<&[u8]> =
            participants.iter().map(|&number| self.partials[number].as_slice()).collect();
        let mut out = Zeroizing::new(Vec::new());
        let members = u32::try_from(self.plains.len()).unwrap();
        self.key.open(&self.shape, members, self.sum.as_ref(), &partials, &mut out)?;
        Ok(core::mem::take(&mut out))
    }
}

fn subsets(holders: u32, size: u32) -> impl Iterator<Item = Vec<usize>> {
    (0u64..1 << holders).filter(move |set| set.count_ones() == size).map(move |set| {
        (1..=holders as usize).filter(|number| set >> (number - 1) & 1 == 1).collect()
    })
}

/// Every T holders together with the authority open the plain sum, in any order; no T - 1, no T + 1,
/// nobody without the authority and nobody twice does.
pub fn check_opens(scheme: &dyn ThresholdScheme, fixture: &KeyFixture, shape: SumShape) {
    let plains = (0..shape.parties).map(|party| values(&shape, party, 1)).collect();
    let summed = Summed::run(scheme, fixture, shape, plains, 1);
    let expected = plain_sum(&summed.plains);
    let (holders, threshold) = (fixture.holders(), fixture.threshold);
    let refused = |case: &str, set: &[usize]| {
        let opened = summed.open(set);
        assert!(matches!(opened, Err(SchemeError::Messages { .. })), "{case} {set:?}: {opened:?}");
    };
    for size in 0..=holders {
        for set in subsets(holders, size) {
            refused("no authority", &set);
            let with: Vec<usize> = core::iter::once(0).chain(set.iter().copied()).collect();
            if size == threshold {
                assert_eq!(summed.open(&with).as_ref(), Ok(&expected), "{with:?}");
                let backwards: Vec<usize> = with.iter().rev().copied().collect();
                assert_eq!(summed.open(&backwards).as_ref(), Ok(&expected), "{backwards:?}");
            } else {
                refused("wrong number of holders", &with);
            }
            if size + 1 == threshold {
                for &again in &with {
                    let twice: Vec<usize> = with.iter().copied().chain([again]).collect();
                    refused("one twice", &twice);
                }
            }
        }
    }
}

/// What opens is the sum over a part of the parties, if only their replies were added.
pub fn check_part(scheme: &dyn ThresholdScheme, fixture: &KeyFixture, shape: SumShape) {
    let plains: Vec<Vec<i64>> =
        (0..shape.parties.div_ceil(2)).map(|party| values(&shape, party, 2)).collect();
    let summed = Summed::run(scheme, fixture, shape, plains, 2);
    let set: Vec<usize> = (0..=fixture.threshold as usize).collect();
    assert_eq!(summed.open(&set), Ok(plain_sum(&summed.plains)));
}

/// Fifty parties at the extremes: all at the least value, all at the greatest, all at -1, 0 and 1, and
/// both extremes in one sum; the opened words are exact.
pub fn check_extremes(scheme: &dyn ThresholdScheme, fixture: &KeyFixture, bits: u32) {
    let shape = SumShape { ring: Ring::Z64, dim: 6, parties: 50, authorities: 1, bits };
    let low = i64::MIN >> (64 - bits);
    let plains: Vec<Vec<i64>> = (0..50)
        .map(|party| vec![low, !low, -1, 0, 1, if party % 2 == 0 { low } else { !low }])
        .collect();
    let summed = Summed::run(scheme, fixture, shape, plains, 7);
    let set: Vec<usize> = (0..=fixture.threshold as usize).collect();
    let opened = summed.open(&set).unwrap();
    assert_eq!(opened, plain_sum(&summed.plains));
    let fifty = |value: i64| 50i64.wrapping_mul(value);
    assert_eq!(opened, [fifty(low), fifty(!low), -50, 0, 50, -25]);
}

/// The opened words are those that `pad` opens from the same plaintexts, bit for bit.
pub fn check_equals_pad(scheme: &dyn ThresholdScheme, fixture: &KeyFixture, shape: SumShape) {
    let plains: Vec<Vec<i64>> = (0..shape.parties).map(|party| values(&shape, party, 8)).collect();
    let words = |values: &[i64]| {
        let mut out = Vec::new();
        to_ring(values, shape.ring, &mut out);
        out
    };
    let padded: Vec<Vec<u8>> = plains.iter().map(|plain| words(plain)).collect();
    let members: Vec<usize> = (0..plains.len()).collect();
    let keys = crate::conformance::Fixture::new(&shape, 8);
    let context = crate::conformance::context(shape, PadSuite::Aes256Ctr, 8);
    let by_pad =
        crate::conformance::run_sum(&Pad, &context, &keys, &members, &padded, shape.dim).unwrap();
    let summed = Summed::run(scheme, fixture, shape, plains, 8);
    let set: Vec<usize> = (0..=fixture.threshold as usize).collect();
    assert!(words(&summed.open(&set).unwrap()) == by_pad, "the opened words are not those of pad");
}

/// Positions spread over `len` bytes, the first and last few included.
fn positions(len: usize) -> impl Iterator<Item = usize> {
    (0..len).filter(move |&at| at < 3 || at + 3 > len || at % (len / 16).max(1) == 0)
}

fn no_proof<T: core::fmt::Debug>(case: &str, result: Result<T, SchemeError>) {
    let refused = matches!(
        result,
        Err(SchemeError::Length { .. } | SchemeError::Malformed(_) | SchemeError::BadProof)
    );
    assert!(refused, "{case}: {result:?}");
}

/// A reply with any byte altered, cut, grown, under another binding, another shape or another key is
/// refused; so are constants.
pub fn check_reply_attacks(
    scheme: &dyn ThresholdScheme,
    fixture: &KeyFixture,
    other: &KeyFixture,
    shape: SumShape,
) {
    let key = scheme.load(&fixture.public).unwrap();
    let len = scheme.reply_bytes(&shape).unwrap();
    let mut reply = vec![0; len];
    let plain = values(&shape, 0, 3);
    let drawn = seed("fixture reply", 3, 0);
    key.encrypt(&shape, &binding(0), &plain, &drawn, &mut reply).unwrap();
    assert_eq!(key.verify_reply(&shape, &binding(0), &reply), Ok(()));

    no_proof("replayed by another", key.verify_reply(&shape, &binding(1), &reply));
    for at in positions(len) {
        for flip in [1, 0x80] {
            let mut altered = reply.clone();
            altered[at] ^= flip;
            no_proof(&format!("byte {at}"), key.verify_reply(&shape, &binding(0), &altered));
        }
    }
    for fill in [0, 1, 0xff] {
        no_proof("constant", key.verify_reply(&shape, &binding(0), &vec![fill; len]));
    }
    no_proof("cut", key.verify_reply(&shape, &binding(0), &reply[1..]));
    no_proof("empty", key.verify_reply(&shape, &binding(0), &[]));
    let grown = [reply.as_slice(), &[0]].concat();
    no_proof("grown", key.verify_reply(&shape, &binding(0), &grown));
    let wider = SumShape { parties: shape.parties + 1, ..shape };
    no_proof("other shape", key.verify_reply(&wider, &binding(0), &reply));
    let other = scheme.load(&other.public).unwrap();
    no_proof("other key", other.verify_reply(&shape, &binding(0), &reply));
    for bytes in [&reply[1..], &[], &grown] {
        no_proof("length to add", key.sum(&shape).add(bytes));
    }

    // Randomness: the same inputs give the same bytes; another seed, binding or plaintext does not.
    let again = |binding: &ReplyBinding, values: &[i64], number: u32| {
        let mut out = vec![0; len];
        let drawn = seed("fixture reply", 3, number);
        key.encrypt(&shape, binding, values, &drawn, &mut out).unwrap();
        out
    };
    assert!(again(&binding(0), &plain, 0) == reply);
    let mut changed = plain.clone();
    changed[0] = 0;
    for other in [
        again(&binding(0), &plain, 1),
        again(&binding(1), &plain, 0),
        again(&binding(0), &changed, 0),
    ] {
        let equal = reply.chunks(32).zip(other.chunks(32)).filter(|(a, b)| a == b).count();
        assert_eq!(equal, 0, "randomness repeats");
    }
}

/// Refused plaintexts: too many, too few, a value of more bits; refused buffers.
pub fn check_encrypt_refusals(scheme: &dyn ThresholdScheme, fixture: &KeyFixture, shape: SumShape) {
    assert!(shape.bits < 64, "a value of more bits must exist");
    let key = scheme.load(&fixture.public).unwrap();
    let len = scheme.reply_bytes(&shape).unwrap();
    let encrypt = |plain: &[i64], len: usize| {
        let drawn = seed("fixture reply", 4, 0);
        key.encrypt(&shape, &binding(0), plain, &drawn, &mut vec![0; len])
    };
    let plain = values(&shape, 0, 4);
    assert_eq!(encrypt(&plain, len), Ok(()));
    for (plain, len) in [
        (&plain[1..], len),
        (&[plain.as_slice(), &[0]].concat(), len),
        (&[], len),
        (&plain, len - 1),
        (&plain, len + 1),
        (&plain, 0),
    ] {
        assert!(matches!(encrypt(plain, len), Err(SchemeError::Length { .. })));
    }
    let low = i64::MIN >> (64 - shape.bits);
    for value in [low - 1, !low + 1, i64::MIN, i64::MAX] {
        let at = plain.len() - 1;
        let mut wide = plain.clone();
        wide[at] = value;
        assert_eq!(encrypt(&wide, len), Err(SchemeError::OutOfRange(at as u64)), "{value}");
    }
}

/// A partial decryption with any byte altered, under another number, context or sum is refused, and
/// nobody answers with another's share or one of another key.
pub fn check_partial_attacks(
    scheme: &dyn ThresholdScheme,
    fixture: &KeyFixture,
    other: &KeyFixture,
    shape: SumShape,
) {
    let plains = (0..shape.parties).map(|party| values(&shape, party, 5)).collect();
    let summed = Summed::run(scheme, fixture, shape, plains, 5);
    let (key, sum) = (&summed.key, summed.sum.as_ref());
    let verify = |partial: &[u8]| key.verify_partial(&shape, &CONTEXT, sum, partial);
    let len = scheme.partial_bytes(&shape).unwrap();
    for number in [0, 1] {
        let partial = &summed.partials[number];
        for at in positions(len) {
            for flip in [1, 0x80] {
                let mut altered = partial.clone();
                altered[at] ^= flip;
                no_proof(&format!("{number}, byte {at}"), verify(&altered));
            }
        }
        for other in [0, 1, 2, fixture.holders() + 1, u32::MAX] {
            if other as usize != number {
                let mut renamed = partial.clone();
                renamed[..4].copy_from_slice(&other.to_le_bytes());
                no_proof(&format!("{number} as {other}"), verify(&renamed));
            }
        }
        for fill in [0, 1, 0xff] {
            let mut constant = vec![fill; len];
            constant[..4].copy_from_slice(&partial[..4]);
            no_proof("constant", verify(&constant));
        }
        no_proof("cut", verify(&partial[..len - 1]));
        no_proof("empty", verify(&[]));
        no_proof("grown", verify(&[partial.as_slice(), &[0]].concat()));
        no_proof("other context", key.verify_partial(&shape, &[8; 32], sum, partial));
        let mut shorter = key.sum(&shape);
        for reply in &summed.replies[1..] {
            shorter.add(reply).unwrap();
        }
        no_proof("other sum", key.verify_partial(&shape, &CONTEXT, shorter.as_ref(), partial));
    }
    let partial = |share: &KeySecret, len: usize| {
        let drawn = seed("fixture partial", 5, 1);
        key.partial(&shape, &CONTEXT, share, sum, &drawn, &mut vec![0; len])
    };
    assert_eq!(partial(&fixture.shares[1], len), Ok(()));
    let length = partial(&fixture.shares[1], len - 1);
    assert!(matches!(length, Err(SchemeError::Length { .. })), "{length:?}");
    let mut hostile = vec![other.copied_share(1), Secret::new(Vec::new())];
    for at in [4, fixture.shares[1].expose().len() - 1] {
        let mut altered = fixture.copied_share(1);
        altered.expose_mut()[at] ^= 1;
        hostile.push(altered);
    }
    let mut grown = fixture.copied_share(1);
    grown.expose_mut().push(0);
    hostile.push(grown);
    for share in &hostile {
        let refused = partial(share, len);
        assert!(matches!(refused, Err(SchemeError::Key(_))), "{refused:?}");
    }
}

/// A key with a post missing, doubled, moved, altered or from a stranger is refused; participants
/// get only their own shares; no bytes but a public key load.
pub fn check_key_attacks(scheme: &dyn ThresholdScheme, fixture: &KeyFixture) {
    let setup = fixture.setup();
    assert_eq!(scheme.key_check(&setup, &fixture.posts), Ok(()));
    assert_eq!(scheme.public_key(&setup, &fixture.posts).as_ref(), Ok(&fixture.public));
    for at in 0..fixture.posts.len() {
        let mut fewer = fixture.posts.clone();
        let gone = fewer.remove(at);
        let fault = scheme.public_key(&setup, &fewer).unwrap_err();
        assert_eq!(fault.from, gone.from, "a missing post");
        let mut doubled = fixture.posts.clone();
        doubled.insert(at, gone.clone());
        assert_eq!(scheme.public_key(&setup, &doubled).unwrap_err().from, gone.from);
        let alter = |bytes: Vec<u8>| {
            let mut posts = fixture.posts.clone();
            posts[at].bytes = bytes;
            scheme.key_check(&setup, &posts)
        };
        for bytes in [
            Vec::new(),
            vec![0; gone.bytes.len()],
            vec![0xff; gone.bytes.len()],
            gone.bytes[..gone.bytes.len() - 1].to_vec(),
            [gone.bytes.as_slice(), &[0]].concat(),
        ] {
            assert_eq!(alter(bytes).unwrap_err().from, gone.from, "an altered post");
        }
        for (step, from) in [(gone.step, fixture.holders() + 1), (u16::MAX, gone.from)] {
            let mut posts = fixture.posts.clone();
            posts.push(KeyPost { step, from, bytes: gone.bytes.clone() });
            posts.sort();
            assert_eq!(scheme.key_check(&setup, &posts).unwrap_err().from, from, "a stray post");
        }
    }
    let other_threshold = KeySetup { threshold: fixture.threshold - 1, ..setup };
    assert!(scheme.key_check(&other_threshold, &fixture.posts).is_err());
    let fewer_holders = KeySetup { holders: &fixture.holders[1..], ..setup };
    assert!(scheme.key_check(&fewer_holders, &fixture.posts).is_err());

    let as_other = |number: u32, identity: usize| {
        let me = (number, &fixture.identities[identity]);
        scheme.key_share(&setup, me, &fixture.secrets[identity], &fixture.posts)
    };
    for (number, identity) in [(1, 2), (2, 1), (fixture.holders() + 1, 1)] {
        let refused = as_other(number, identity);
        assert!(matches!(refused, Err(SchemeError::Key(_))), "{number} by {identity}");
    }
    let late = scheme.key_steps().len();
    let me = (AUTHORITY, &fixture.identities[0]);
    let drawn = seed("fixture step", 0, 0);
    let post = scheme.key_post(&setup, late, me, &fixture.secrets[0], &fixture.posts, &drawn);
    assert!(matches!(post, Err(SchemeError::WrongStep)), "a step too many");

    assert!(scheme.load(&fixture.public).is_ok());
    let len = fixture.public.len();
    for bytes in [
        Vec::new(),
        vec![0; len],
        vec![0xff; len],
        fixture.public[..len - 1].to_vec(),
        fixture.public[1..].to_vec(),
        [fixture.public.as_slice(), &[0]].concat(),
    ] {
        let loaded = scheme.load(&bytes).map(|_| ());
        assert!(matches!(loaded, Err(SchemeError::Key(_))), "{loaded:?}");
    }
}

/// Shapes that no scheme can sum are refused, and have no lengths that overflow.
pub fn check_shapes(scheme: &dyn ThresholdScheme, good: SumShape) {
    assert_eq!(scheme.check(&good), Ok(()));
    let bad = [
        SumShape { dim: 0, ..good },
        SumShape { dim: u64::MAX, ..good },
        SumShape { parties: 0, ..good },
        SumShape { parties: 1, ..good },
        SumShape { parties: u32::MAX, ..good },
        SumShape { bits: 0, ..good },
        SumShape { bits: 65, ..good },
        SumShape { bits: u32::MAX, ..good },
        SumShape { ring: Ring::Z32, bits: 33, ..good },
    ];
    for shape in bad {
        let refused = scheme.check(&shape);
        assert!(matches!(refused, Err(SchemeError::Shape(_))), "{shape:?}: {refused:?}");
        let _ = (scheme.reply_bytes(&shape), scheme.partial_bytes(&shape));
    }
}

/// The scheme as a [`SumScheme`]: parties reply, every participant answers, the opener gives the
/// plain sum; a reply under another binding stops a participant, a second answer of one participant
/// and an answer in the wrong step stop the opener.
pub fn check_sum_scheme(scheme: &dyn SumScheme, fixture: &KeyFixture, shape: SumShape) {
    let context = SumContext {
        label: Label(CONTEXT),
        shape,
        suite: PadSuite::Aes256Ctr,
        public: fixture.public.clone().into(),
    };
    let keys: [KeyedNonce<'_>; 0] = [];
    let contributor = |step: usize, state: &[u8]| {
        scheme.contributor(step, &context, &StepInput { keys: &keys, state, inbox: &[] })
    };
    let length = |step: usize| {
        let total = scheme.encoded_len(&shape, step).and_then(|len| len.total(shape.dim));
        usize::try_from(total.unwrap()).unwrap()
    };
    let width = shape.ring.word_bytes();
    let plains: Vec<Vec<i64>> = (0..shape.parties).map(|party| values(&shape, party, 6)).collect();
    let words = |values: &[i64]| -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()[..width].to_vec()).collect()
    };
    let bindings: Vec<ReplyBinding> = (0..shape.parties).map(binding).collect();
    let replies: Vec<Vec<u8>> = (0..shape.parties)
        .map(|party| {
            let at = party as usize;
            let seed = seed("fixture reply", 6, party);
            let state = PartyInput { seed, binding: bindings[at] }.to_state();
            let mut out = vec![0; length(0)];
            let mut party = contributor(0, state.expose()).unwrap();
            party.write(0..shape.dim, &words(&plains[at]), &mut out).unwrap();
            out
        })
        .collect();
    let holder = |number: u32| {
        HolderInput {
            share: fixture.copied_share(number),
            seed: seed("fixture partial", 6, number),
            bindings: bindings.clone(),
        }
        .to_state()
    };
    let step_of = |number: u32| if number == AUTHORITY { 1 } else { 2 };
    let answer = |number: u32| {
        let mut at_work = contributor(step_of(number), holder(number).expose()).unwrap();
        for reply in &replies {
            at_work.absorb(0..shape.dim, reply).unwrap();
        }
        let mut out = vec![0; length(step_of(number))];
        at_work.write(0..shape.dim, &[], &mut out).unwrap();
        out
    };
    let numbers: Vec<u32> = (0..=fixture.threshold).collect();
    let answers: Vec<Vec<u8>> = numbers.iter().map(|&number| answer(number)).collect();

    let mut swapped = contributor(1, holder(0).expose()).unwrap();
    assert_eq!(swapped.absorb(0..shape.dim, &replies[1]), Err(SchemeError::BadProof));

    let mut opener = scheme.opener(&context, shape.parties).unwrap();
    opener.begin(0..shape.dim);
    let mut out = vec![0; length_of(&shape)];
    for reply in &replies {
        opener.absorb(0, reply).unwrap();
    }
    assert!(opener.finish(&mut out).is_err(), "opened by nobody");
    assert_eq!(opener.absorb(2, &answers[0]), Err(SchemeError::BadProof), "the wrong step");
    for (&number, bytes) in numbers.iter().zip(&answers) {
        opener.absorb(step_of(number), bytes).unwrap();
        assert_eq!(opener.absorb(step_of(number), bytes), Err(SchemeError::BadProof), "twice");
    }
    opener.finish(&mut out).unwrap();
    assert!(out == words(&plain_sum(&plains)), "the opened words are not the sum");
}

fn length_of(shape: &SumShape) -> usize {
    usize::try_from(shape.dim).unwrap() * shape.ring.word_bytes()
}

/// What hostile bytes may be made of: a public key, a reply, a partial decryption, every post, a
/// share and what a step left secret.
#[must_use]
pub fn hostile_samples(
    scheme: &dyn ThresholdScheme,
    fixture: &KeyFixture,
    shape: SumShape,
) -> Vec<Vec<u8>> {
    let plains = (0..shape.parties).map(|party| values(&shape, party, 9)).collect();
    let mut summed = Summed::run(scheme, fixture, shape, plains, 9);
    let mut samples = vec![fixture.public.clone()];
    samples.append(&mut summed.replies);
    samples.append(&mut summed.partials);
    samples.extend(fixture.posts.iter().map(|post| post.bytes.clone()));
    samples.extend(fixture.shares.iter().map(|share| share.expose().clone()));
    samples.extend(fixture.secrets.iter().map(|secret| secret.expose().clone()));
    samples
}

/// Bytes of a peer, or of a damaged store, in every place that a scheme reads: none panics, and what
/// is taken has the length that the shape fixes. The first byte chooses a participant and a post.
pub fn check_hostile_bytes(
    scheme: &dyn ThresholdScheme,
    fixture: &KeyFixture,
    shape: SumShape,
    bytes: &[u8],
) {
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    let setup = fixture.setup();
    if let Ok(key) = scheme.load(bytes) {
        assert!(scheme.load(bytes).is_ok(), "a key that loads once");
        let _ = key.sum(&shape).to_bytes();
    }
    let key = scheme.load(&fixture.public).unwrap();
    if key.verify_reply(&shape, &binding(0), bytes).is_ok() {
        assert_eq!(Some(bytes.len()), scheme.reply_bytes(&shape));
        key.sum(&shape).add(bytes).unwrap();
    }
    // Adding does not rest on the check before it.
    let mut sum = key.sum(&shape);
    let _ = sum.add(bytes);
    let mut out = vec![0; scheme.partial_bytes(&shape).unwrap()];
    let drawn = seed("fixture partial", 9, 0);
    key.partial(&shape, &CONTEXT, &fixture.shares[0], sum.as_ref(), &drawn, &mut out).unwrap();
    if let Ok(number) = key.verify_partial(&shape, &CONTEXT, sum.as_ref(), bytes) {
        assert!(number <= fixture.holders() && bytes.len() == out.len());
    }
    let mut opened = Zeroizing::new(Vec::new());
    for partials in [&[bytes][..], &[out.as_slice(), bytes], &[bytes, bytes, bytes]] {
        let _ = key.open(&shape, shape.parties, sum.as_ref(), partials, &mut opened);
    }

    // In the place of a post, whose step was the last or not, and as one more.
    let at = usize::from(choice) % fixture.posts.len();
    let mut posts = fixture.posts.clone();
    posts[at].bytes = bytes.to_vec();
    let _ = scheme.public_key(&setup, &posts);
    posts.truncate(at + 1);
    let _ = scheme.key_check(&setup, &posts);
    let number = u32::from(choice) % (fixture.holders() + 1);
    let me = (number, &fixture.identities[number as usize]);
    for step in 0..=scheme.key_steps().len() {
        let secret = &fixture.secrets[number as usize];
        let _ = scheme.key_post(&setup, step, me, secret, &posts, &drawn);
    }
    posts.push(KeyPost { step: u16::from(choice), from: number, bytes: bytes.to_vec() });
    let _ = scheme.key_check(&setup, &posts);

    // In the place of what its owner kept.
    let kept: KeySecret = Secret::new(bytes.to_vec());
    let _ = scheme.key_share(&setup, me, &kept, &fixture.posts);
    for step in 0..scheme.key_steps().len() {
        let before: Vec<KeyPost> =
            fixture.posts.iter().filter(|post| usize::from(post.step) < step).cloned().collect();
        let _ = scheme.key_post(&setup, step, me, &kept, &before, &drawn);
    }
    let _ = key.partial(&shape, &CONTEXT, &kept, sum.as_ref(), &drawn, &mut out);
}

/// As [`check_hostile_bytes`], in the place of what contributors and openers of the scheme as a
/// [`SumScheme`] read.
pub fn check_hostile_state(scheme: &dyn SumScheme, public: &[u8], shape: SumShape, bytes: &[u8]) {
    let public = public.to_vec().into();
    let context = SumContext { label: Label(CONTEXT), shape, suite: PadSuite::Aes256Ctr, public };
    for step in 0..scheme.info().steps.len() {
        let input = StepInput { keys: &[], state: bytes, inbox: &[] };
        if let Ok(mut contributor) = scheme.contributor(step, &context, &input) {
            let _ = contributor.absorb(0..shape.dim, bytes);
            let _ = contributor.write(0..shape.dim, bytes, &mut vec![0; bytes.len()]);
        }
        let mut opener = scheme.opener(&context, shape.parties).unwrap();
        opener.begin(0..shape.dim);
        let _ = opener.absorb(step, bytes);
        let _ = opener.finish(&mut vec![0; length_of(&shape)]);
    }
}
