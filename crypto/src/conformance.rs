//! Checks that hold for every scheme, to be run over the registry: a scheme passes them or does not
//! enter it.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a failed check panics, as tests do"
)]

use core::ops::Range;

use crate::fixed::{from_ring, to_ring};
use crate::keys::SharedKey;
use crate::merkle::hash_parts;
use crate::sum::{
    EncodedLen, KeyedNonce, Label, Nonce, PadSuite, Ring, Role, SchemeError, StepInput, SumContext,
    SumScheme, SumShape,
};

/// Deterministic keys and nonces for a roster of parties and its authorities.
pub struct Fixture {
    /// `keys[i][a]`: key between party i and authority a.
    pub keys: Vec<Vec<SharedKey>>,
    /// `nonces[i]`: nonce of party i's submission.
    pub nonces: Vec<Nonce>,
}

impl Fixture {
    /// Keys and nonces drawn from `seed` for every party and authority of `shape`.
    #[must_use]
    pub fn new(shape: &SumShape, seed: u8) -> Self {
        let draw = |what: &str, i: u32, a: u32| {
            hash_parts(what, &[&[seed], &i.to_le_bytes(), &a.to_le_bytes()]).0
        };
        let keys = (0..shape.parties)
            .map(|i| {
                (0..shape.authorities)
                    .map(|a| SharedKey::from_bytes(draw("fixture key", i, a)))
                    .collect()
            })
            .collect();
        let nonces = (0..shape.parties)
            .map(|i| Nonce(draw("fixture nonce", i, 0)[..16].try_into().unwrap()))
            .collect();
        Self { keys, nonces }
    }

    /// What party `i` brings to its step: one key per authority.
    #[must_use]
    pub fn party(&self, i: usize) -> Vec<KeyedNonce<'_>> {
        self.keys[i].iter().map(|key| KeyedNonce { key, nonce: self.nonces[i] }).collect()
    }

    /// What authority `a` brings for the set `members`: one key per member.
    #[must_use]
    pub fn authority(&self, a: usize, members: &[usize]) -> Vec<KeyedNonce<'_>> {
        members
            .iter()
            .map(|&i| KeyedNonce { key: &self.keys[i][a], nonce: self.nonces[i] })
            .collect()
    }
}

/// `0..dim` cut into ranges of at most `chunk` coordinates.
pub fn ranges(dim: u64, chunk: u64) -> impl Iterator<Item = Range<u64>> {
    let chunk = chunk.max(1);
    (0..dim.div_ceil(chunk)).map(move |k| k * chunk..dim.min((k + 1) * chunk))
}

/// One contributor's whole message of `step`, written `chunk` coordinates at a time.
///
/// `plain` holds the contributor's `dim` ring words, or nothing.
///
/// # Errors
/// The scheme's.
pub fn write_message(
    scheme: &dyn SumScheme,
    step: usize,
    context: &SumContext,
    keys: &[KeyedNonce<'_>],
    plain: &[u8],
    chunk: u64,
) -> Result<Vec<u8>, SchemeError> {
    let input = StepInput { keys, ..StepInput::default() };
    let mut contributor = scheme.contributor(step, context, &input)?;
    let shape = &context.shape;
    match scheme.encoded_len(shape, step).ok_or(SchemeError::WrongStep)? {
        EncodedLen::Fixed(len) => {
            let mut out = vec![0; len];
            contributor.write(0..shape.dim, plain, &mut out)?;
            Ok(out)
        }
        EncodedLen::PerCoordinate(width) => {
            let mut out = vec![0; usize::try_from(shape.dim).unwrap() * width];
            for range in ranges(shape.dim, chunk) {
                let words = if plain.is_empty() {
                    plain
                } else {
                    slice(plain, &range, shape.ring.word_bytes())
                };
                let span = bytes_of(&range, width);
                contributor.write(range, words, &mut out[span])?;
            }
            Ok(out)
        }
    }
}

/// Opens a sum over `members` parties from every step's messages, `chunk` coordinates at a time.
///
/// # Errors
/// The scheme's.
pub fn open(
    scheme: &dyn SumScheme,
    context: &SumContext,
    members: u32,
    messages: &[Vec<Vec<u8>>],
    chunk: u64,
) -> Result<Vec<u8>, SchemeError> {
    let shape = &context.shape;
    let word = shape.ring.word_bytes();
    let mut out = vec![0; usize::try_from(shape.dim).unwrap() * word];
    let mut opener = scheme.opener(context, members)?;
    for range in ranges(shape.dim, chunk) {
        opener.begin(range.clone());
        for (step, all) in messages.iter().enumerate() {
            let len = scheme.encoded_len(shape, step).ok_or(SchemeError::WrongStep)?;
            for message in all {
                opener.absorb(
                    step,
                    match len {
                        EncodedLen::Fixed(_) => message,
                        EncodedLen::PerCoordinate(width) => slice(message, &range, width),
                    },
                )?;
            }
        }
        opener.finish(&mut out[bytes_of(&range, word)])?;
    }
    Ok(out)
}

fn bytes_of(range: &Range<u64>, width: usize) -> Range<usize> {
    usize::try_from(range.start).unwrap() * width..usize::try_from(range.end).unwrap() * width
}

fn slice<'a>(bytes: &'a [u8], range: &Range<u64>, width: usize) -> &'a [u8] {
    &bytes[bytes_of(range, width)]
}

/// All messages of one sum, by step: those of the parties in `members`, then one per authority.
///
/// `plains[i]` holds party i's little-endian ring words.
///
/// # Errors
/// The scheme's.
pub fn all_messages(
    scheme: &dyn SumScheme,
    context: &SumContext,
    fixture: &Fixture,
    members: &[usize],
    plains: &[Vec<u8>],
    chunk: u64,
) -> Result<Vec<Vec<Vec<u8>>>, SchemeError> {
    let write = |step, keys: Vec<KeyedNonce<'_>>, plain: &[u8]| {
        write_message(scheme, step, context, &keys, plain, chunk)
    };
    let steps = scheme.info().steps.iter().enumerate();
    steps
        .map(|(step, what)| match what.by {
            Role::Party => {
                members.iter().map(|&i| write(step, fixture.party(i), &plains[i])).collect()
            }
            Role::Authority => (0..context.shape.authorities as usize)
                .map(|a| write(step, fixture.authority(a, members), &[]))
                .collect(),
            // The registry has no scheme with decryptors yet.
            Role::Decryptor => Err(SchemeError::WrongStep),
        })
        .collect()
}

/// Runs one whole sum over the parties in `members` and returns the opened ring words.
///
/// # Errors
/// The scheme's.
pub fn run_sum(
    scheme: &dyn SumScheme,
    context: &SumContext,
    fixture: &Fixture,
    members: &[usize],
    plains: &[Vec<u8>],
    chunk: u64,
) -> Result<Vec<u8>, SchemeError> {
    let messages = all_messages(scheme, context, fixture, members, plains, chunk)?;
    open(scheme, context, u32::try_from(members.len()).unwrap(), &messages, chunk)
}

/// Plain wrapping sum of the words of `members`: what every scheme must open.
#[must_use]
pub fn plain_sum(ring: Ring, members: &[usize], plains: &[Vec<u8>]) -> Vec<u8> {
    let mut total: Vec<i128> = Vec::new();
    for &i in members {
        let mut values = Vec::new();
        from_ring(&plains[i], ring, &mut values).unwrap();
        total.resize(values.len(), 0);
        total.iter_mut().zip(values).for_each(|(t, v)| *t += i128::from(v));
    }
    #[expect(clippy::cast_possible_truncation, reason = "reduction mod 2^64 is the point")]
    let words: Vec<i64> = total.into_iter().map(|t| t as i64).collect();
    let mut out = Vec::new();
    to_ring(&words, ring, &mut out);
    out
}

/// Plaintexts of all parties of `shape`: pseudo-random words, with the ring's extremes, +-1 and
/// zero in the first coordinates.
#[must_use]
pub fn plaintexts(shape: &SumShape, seed: u8) -> Vec<Vec<u8>> {
    let (low, high) = match shape.ring {
        Ring::Z32 => (i64::from(i32::MIN), i64::from(i32::MAX)),
        Ring::Z64 => (i64::MIN, i64::MAX),
    };
    let edges = [low, high, -1, 1, 0];
    (0..shape.parties)
        .map(|i| {
            let mut state = u64::from(seed) << 32 | u64::from(i);
            let values: Vec<i64> = (0..usize::try_from(shape.dim).unwrap())
                .map(|j| edges.get(j).copied().unwrap_or_else(|| split_mix(&mut state)))
                .collect();
            let mut out = Vec::new();
            to_ring(&values, shape.ring, &mut out);
            out
        })
        .collect()
}

fn split_mix(state: &mut u64) -> i64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)).cast_signed()
}

/// A context over `shape` with a label of one repeated byte.
#[must_use]
pub fn context(shape: SumShape, suite: PadSuite, label: u8) -> SumContext {
    SumContext { label: Label([label; 32]), shape, suite, public: std::sync::Arc::default() }
}

/// The opened sum equals plain arithmetic mod 2^k for every word, whole and in ranges of
/// `chunk` coordinates, over all parties and over a part of them.
pub fn check_exact(scheme: &dyn SumScheme, shape: SumShape, suite: PadSuite, chunk: u64) {
    let context = context(shape, suite, 1);
    let fixture = Fixture::new(&shape, 1);
    let plains = plaintexts(&shape, 1);
    let all: Vec<usize> = (0..plains.len()).collect();
    let some: Vec<usize> = all.iter().copied().filter(|i| all.len() == 2 || i % 3 != 1).collect();
    for members in [&all, &some] {
        let whole = run_sum(scheme, &context, &fixture, members, &plains, shape.dim).unwrap();
        assert!(whole == plain_sum(shape.ring, members, &plains), "{shape:?} {suite:?}");
    }
    let whole = all_messages(scheme, &context, &fixture, &all, &plains, shape.dim).unwrap();
    let parts = all_messages(scheme, &context, &fixture, &all, &plains, chunk).unwrap();
    assert!(whole == parts, "messages differ by range: {shape:?} {suite:?}");
    let opened = open(scheme, &context, shape.parties, &whole, chunk).unwrap();
    assert!(opened == plain_sum(shape.ring, &all, &plains), "{shape:?} {suite:?} by {chunk}");
}

/// A wrong label, a wrong nonce, a missing authority's key, another authority's key, or the key of
/// another set opens nothing: an error or words unrelated to the sum.
pub fn check_sealed(scheme: &dyn SumScheme, shape: SumShape, suite: PadSuite) {
    let right = context(shape, suite, 1);
    let fixture = Fixture::new(&shape, 2);
    let plains = plaintexts(&shape, 2);
    let all: Vec<usize> = (0..plains.len()).collect();
    let good = all_messages(scheme, &right, &fixture, &all, &plains, shape.dim).unwrap();
    let expected = plain_sum(shape.ring, &all, &plains);
    let sealed = |case: &str, members: u32, messages: &[Vec<Vec<u8>>], truth: &[u8]| {
        let opened = open(scheme, &right, members, messages, shape.dim);
        if let Ok(words) = opened {
            let width = shape.ring.word_bytes();
            let equal = words.chunks(width).zip(truth.chunks(width)).filter(|(a, b)| a == b);
            // A chance hit has probability 2^-32 per word.
            assert_eq!(equal.count(), 0, "{case} opened a word: {shape:?} {suite:?}");
        }
    };
    let key = |context: &SumContext, fixture: &Fixture, a: usize, members: &[usize]| {
        let keys = fixture.authority(a, members);
        write_message(scheme, 1, context, &keys, &[], shape.dim).unwrap()
    };
    let with_key = |a: usize, bytes: Vec<u8>| {
        let mut messages = good.clone();
        messages[1][a] = bytes;
        messages
    };
    assert!(open(scheme, &right, shape.parties, &good, shape.dim).unwrap() == expected);

    let other_label = context(shape, suite, 2);
    sealed("label", shape.parties, &with_key(0, key(&other_label, &fixture, 0, &all)), &expected);
    let mut other_nonce = Fixture::new(&shape, 2);
    other_nonce.nonces[0].0[15] ^= 1;
    sealed("nonce", shape.parties, &with_key(0, key(&right, &other_nonce, 0, &all)), &expected);
    let none = vec![0; good[1][0].len()];
    sealed("zero key", shape.parties, &with_key(0, none), &expected);
    for a in 0..shape.authorities as usize {
        let mut messages = good.clone();
        messages[1].remove(a);
        let opened = open(scheme, &right, shape.parties, &messages, shape.dim);
        assert!(opened.is_err(), "authority {a} is not needed");
        if a > 0 {
            sealed("copied key", shape.parties, &with_key(0, good[1][a].clone()), &expected);
        }
    }
    // The key of S opens no part of S, and a part's key opens neither S nor S minus the part.
    if all.len() > 2 {
        let subset = &all[1..];
        let truth = plain_sum(shape.ring, subset, &plains);
        let mut messages = good.clone();
        messages[0].remove(0);
        sealed("smaller set", shape.parties - 1, &messages, &truth);
        let mut messages = good.clone();
        for (a, message) in messages[1].iter_mut().enumerate() {
            *message = key(&right, &fixture, a, subset);
        }
        sealed("subset key", shape.parties, &messages, &expected);
    }
    let mut messages = good.clone();
    messages[0].remove(0);
    let opened = open(scheme, &right, shape.parties, &messages, shape.dim);
    assert!(opened.is_err(), "a missing ciphertext went unnoticed");
}

/// Wrong lengths, ranges, steps, key counts and shapes are errors.
pub fn check_refusals(scheme: &dyn SumScheme, ring: Ring, suite: PadSuite) {
    let shape = SumShape { ring, dim: 3, parties: 3, authorities: 2, bits: ring.bits() };
    let context = context(shape, suite, 1);
    let fixture = Fixture::new(&shape, 3);
    let word = ring.word_bytes();
    let (party, authority) = (fixture.party(0), fixture.authority(0, &[0, 1, 2]));
    let contributor = |step: usize, keys: &[KeyedNonce<'_>]| {
        scheme.contributor(step, &context, &StepInput { keys, ..StepInput::default() })
    };
    let bytes = |step: usize, n: usize| match scheme.encoded_len(&shape, step).unwrap() {
        EncodedLen::Fixed(len) => len,
        EncodedLen::PerCoordinate(each) => each * n,
    };

    let mut out = vec![0; bytes(0, 3)];
    let mut writer = contributor(0, &party).unwrap();
    assert!(writer.write(0..3, &vec![0; 3 * word], &mut out).is_ok());
    assert!(writer.write(0..3, &vec![0; 3 * word - 1], &mut out).is_err());
    assert!(writer.write(0..3, &[], &mut out).is_err());
    assert!(writer.write(0..2, &vec![0; 3 * word], &mut out).is_err());
    assert!(writer.write(1..4, &vec![0; 3 * word], &mut out).is_err());
    #[expect(clippy::reversed_empty_ranges, reason = "hostile input")]
    let backwards = 3..1;
    assert!(writer.write(backwards.clone(), &[], &mut []).is_err());
    assert!(writer.write(u64::MAX - 1..u64::MAX, &vec![0; word], &mut out).is_err());
    assert!(writer.absorb(0..3, &out).is_err());

    let mut key = vec![0; bytes(1, 3)];
    let mut writer = contributor(1, &authority).unwrap();
    assert!(writer.write(0..3, &[], &mut key).is_ok());
    assert!(writer.write(0..3, &[0; 4], &mut key).is_err());
    assert!(writer.write(0..3, &[], &mut key[1..]).is_err());

    assert!(contributor(0, &party[..1]).is_err());
    assert!(contributor(0, &[]).is_err());
    assert!(contributor(1, &authority[..1]).is_err(), "a key over one member opens it");
    assert!(contributor(1, &[authority.clone(), authority.clone()].concat()).is_err());
    assert!(contributor(2, &party).is_err());
    assert!(scheme.encoded_len(&shape, 2).is_none());

    let mut opener = scheme.opener(&context, 3).unwrap();
    let mut words = vec![0; 3 * word];
    opener.begin(0..3);
    assert!(opener.absorb(0, &out[1..]).is_err());
    assert!(opener.absorb(0, &[]).is_err());
    assert!(opener.absorb(1, &key[1..]).is_err());
    assert!(opener.absorb(2, &out).is_err());
    assert!(opener.finish(&mut words).is_err());
    for range in [1..4, backwards, u64::MAX - 3..u64::MAX] {
        opener.begin(range);
        assert!(opener.absorb(0, &out).is_err());
        assert!(opener.finish(&mut words).is_err());
    }
    for members in [0, 1, 4] {
        assert!(scheme.opener(&context, members).is_err());
    }
    let bad = |shape: SumShape| assert!(scheme.check(&shape).is_err(), "{shape:?}");
    bad(SumShape { dim: 0, ..shape });
    bad(SumShape { dim: u64::MAX, ..shape });
    bad(SumShape { parties: 0, ..shape });
    bad(SumShape { parties: 1, ..shape });
    bad(SumShape { authorities: 0, ..shape });
    bad(SumShape { authorities: 5, ..shape });
}

/// Openers take any bytes of the right length without a panic, and what they open, if anything,
/// is not the sum.
pub fn check_hostile_bytes(scheme: &dyn SumScheme, ring: Ring, seed: u8) {
    let shape = SumShape { ring, dim: 5, parties: 3, authorities: 1, bits: ring.bits() };
    let context = context(shape, PadSuite::ChaCha20, seed);
    let fixture = Fixture::new(&shape, seed);
    let plains = plaintexts(&shape, seed);
    let members = [0, 1, 2];
    let good = all_messages(scheme, &context, &fixture, &members, &plains, 5).unwrap();
    let truth = plain_sum(ring, &members, &plains);
    let mut state = u64::from(seed);
    for step in [0, 1] {
        for fill in 0..4 {
            let mut messages = good.clone();
            for byte in &mut messages[step][0] {
                let random = split_mix(&mut state).to_le_bytes()[0];
                match fill {
                    0 => *byte = 0,
                    1 => *byte = 0xff,
                    2 => *byte = random,
                    _ => *byte ^= random & 1,
                }
            }
            let opened = open(scheme, &context, 3, &messages, 5);
            assert_ne!(opened.as_ref(), Ok(&truth), "step {step}, fill {fill}");
        }
    }
}

/// Two rings, or two suites, under the same keys, label and nonces share no message bytes.
pub fn check_domains(scheme: &dyn SumScheme) {
    let mut seen = Vec::new();
    for ring in [Ring::Z32, Ring::Z64] {
        for suite in [PadSuite::Aes256Ctr, PadSuite::ChaCha20] {
            let shape = SumShape { ring, dim: 64, parties: 2, authorities: 1, bits: ring.bits() };
            let fixture = Fixture::new(&shape, 4);
            let context = context(shape, suite, 1);
            let plain = vec![0; 64 * ring.word_bytes()];
            let keys = fixture.party(0);
            seen.push(write_message(scheme, 0, &context, &keys, &plain, 64).unwrap());
        }
    }
    for (i, a) in seen.iter().enumerate() {
        for b in &seen[..i] {
            assert!(!a.chunks(32).any(|piece| b.chunks(32).any(|other| other == piece)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schemes;
    use crate::sum::Family;

    /// The schemes of the family that these checks know to drive.
    fn functional() -> impl Iterator<Item = &'static dyn SumScheme> {
        let known = |scheme: &&dyn SumScheme| scheme.info().family == Family::FunctionalEncryption;
        schemes::all().iter().copied().filter(known)
    }

    const RINGS: [Ring; 2] = [Ring::Z32, Ring::Z64];
    const SUITES: [PadSuite; 2] = [PadSuite::Aes256Ctr, PadSuite::ChaCha20];

    /// Schemes with group operations per coordinate get smaller sums.
    fn costly(scheme: &dyn SumScheme) -> bool {
        scheme.info().name == "ddh-mcfe"
    }

    #[test]
    fn sums_are_exact() {
        for scheme in functional() {
            let dims: &[u64] = if costly(scheme) { &[1, 7] } else { &[1, 2047, 2048, 2049] };
            for ring in RINGS {
                for suite in SUITES {
                    for (parties, authorities) in [(2, 4), (10, 2), (64, 1)] {
                        for &dim in dims {
                            let shape =
                                SumShape { ring, dim, parties, authorities, bits: ring.bits() };
                            check_exact(scheme, shape, suite, (dim / 3).max(1));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn sums_are_exact_at_length() {
        for scheme in functional() {
            let dim = if costly(scheme) { 100 } else { 100_000 };
            for (ring, suite) in RINGS.into_iter().zip(SUITES) {
                let shape = SumShape { ring, dim, parties: 3, authorities: 3, bits: ring.bits() };
                check_exact(scheme, shape, suite, dim / 7);
            }
        }
    }

    #[test]
    fn nothing_opens_without_every_key() {
        for scheme in functional() {
            for (ring, suite) in RINGS.into_iter().zip(SUITES) {
                for (parties, authorities) in [(2, 1), (4, 3)] {
                    let shape = SumShape { ring, dim: 9, parties, authorities, bits: ring.bits() };
                    check_sealed(scheme, shape, suite);
                }
            }
        }
    }

    #[test]
    fn hostile_arguments_are_errors() {
        for scheme in functional() {
            for (ring, suite) in RINGS.into_iter().zip(SUITES) {
                check_refusals(scheme, ring, suite);
            }
        }
    }

    #[test]
    fn hostile_bytes_open_nothing() {
        for scheme in functional() {
            for ring in RINGS {
                (0..20).for_each(|seed| check_hostile_bytes(scheme, ring, seed));
            }
        }
    }

    #[test]
    fn domains_are_separate() {
        functional().for_each(check_domains);
    }

    #[test]
    fn registry_is_consistent() {
        for (i, scheme) in schemes::all().iter().enumerate() {
            let info = scheme.info();
            assert_eq!(schemes::by_id(info.id).unwrap().info(), info);
            assert_eq!(schemes::by_name(info.name).unwrap().info(), info);
            assert_eq!(info.served, info.id < 0x7f00, "laboratory ids start at 0x7f00");
            for other in &schemes::all()[..i] {
                assert!(other.info().id != info.id && other.info().name != info.name);
            }
        }
    }
}
