//! The conformance checks, attacks of this scheme's own and vectors.

use std::sync::OnceLock;

use proptest::prelude::*;
use rug::Integer;
use zeroize::Zeroizing;

use super::number::{from_le, to_le, without_sign};
use super::testkit::{INSECURE_TEST_PRIMES, dealer_from_primes};
use super::*;
use crate::schemes;
use crate::sum::Ring;
use crate::threshold::ReplyBinding;
use crate::threshold::conformance::{self as checks, KeyFixture, Summed};

const SMALL: Paillier = PAILLIER_512_INSECURE;

fn small(holders: u32, threshold: u32, drawn: u8) -> KeyFixture {
    KeyFixture::run(&SMALL, holders, threshold, drawn)
}

/// A key of full size over the test vector's primes.
fn full(holders: u32, threshold: u32, drawn: u8) -> KeyFixture {
    let post = |setup: &KeySetup<'_>,
                _: usize,
                _: (u32, &Identity),
                _: &KeySecret,
                _: &[KeyPost],
                seed: &Secret<[u8; 32]>| {
        dealer_from_primes(PAILLIER, setup, INSECURE_TEST_PRIMES, seed)
    };
    KeyFixture::run_with(&PAILLIER, holders, threshold, drawn, &post)
}

fn shape(dim: u64, parties: u32, bits: u32) -> SumShape {
    SumShape { ring: Ring::Z64, dim, parties, authorities: 1, bits }
}

#[test]
fn every_quorum_opens_and_no_other_set() {
    for (holders, threshold) in [(5, 3), (1, 1), (4, 4)] {
        let fixture = small(holders, threshold, 1);
        checks::check_opens(&SMALL, &fixture, shape(30, 3, 40));
    }
    checks::check_part(&SMALL, &small(5, 2, 1), shape(20, 5, 64));
}

#[test]
fn altered_replayed_and_foreign_bytes_are_refused() {
    let (fixture, other) = (small(4, 2, 1), small(4, 2, 2));
    let shape = shape(25, 3, 33);
    checks::check_reply_attacks(&SMALL, &fixture, &other, shape);
    checks::check_encrypt_refusals(&SMALL, &fixture, shape);
    checks::check_partial_attacks(&SMALL, &fixture, &other, shape);
    checks::check_key_attacks(&SMALL, &fixture);
}

#[test]
fn shapes_and_the_sum_scheme_conform() {
    let shape = shape(25, 3, 33);
    for scheme in [PAILLIER, SMALL] {
        checks::check_shapes(&scheme, shape);
        let most = SumShape { dim: 100_000, parties: 1024, bits: 64, ..shape };
        let many = SumShape { dim: 100_001, ..shape };
        assert_eq!(scheme.check(&most).is_ok(), scheme.size == PAILLIER.size);
        assert!(scheme.check(&many).is_err());
        for shape in [shape, SumShape { dim: 9_999, ..shape }] {
            assert!(scheme.partial_bytes(&shape).unwrap() <= 3_500_000);
        }
        let sum = schemes::by_name(scheme.info.name).unwrap();
        assert_eq!(sum.info(), scheme.info);
        assert_eq!(schemes::threshold_by_id(scheme.info.id).unwrap().info(), scheme.info);
    }
    let sum = schemes::by_id(SMALL.info.id).unwrap();
    checks::check_sum_scheme(sum, &small(3, 2, 1), shape);
    checks::check_sum_scheme(sum, &small(3, 2, 1), SumShape { ring: Ring::Z32, bits: 32, ..shape });
}

#[test]
fn every_quorum_opens_fifty_parties_at_their_extremes_in_full_size() {
    let fixture = full(5, 3, 1);
    let shape = shape(6, 50, 64);
    // Both extremes in every party: sums of 50 times the least and the most 64-bit number.
    let plains: Vec<Vec<i64>> =
        (0..50).map(|party| vec![i64::MIN, i64::MAX, -1, 0, 1, i64::from(party)]).collect();
    let key = PAILLIER.load(&fixture.public).unwrap();
    let mut sum = key.sum(&shape);
    for (party, values) in (0..).zip(&plains) {
        let mut reply = vec![0; PAILLIER.reply_bytes(&shape).unwrap()];
        let binding = checks::binding(party);
        key.encrypt(&shape, &binding, values, &Secret::new([9; 32]), &mut reply).unwrap();
        key.verify_reply(&shape, &binding, &reply).unwrap();
        sum.add(&reply).unwrap();
    }
    let expected = checks::plain_sum(&plains);
    // 50 * 2^63 is a multiple of 2^64.
    assert_eq!(expected, [0, -50, -50, 0, 50, 1225]);
    let summed = Summed::of(&PAILLIER, &fixture, shape, plains, sum, 1);
    let mut opened = 0;
    for (a, b, c) in (1..=5).flat_map(|a| (1..a).flat_map(move |b| (1..b).map(move |c| (a, b, c))))
    {
        assert_eq!(summed.open(&[0, a, b, c]).as_ref(), Ok(&expected));
        assert!(summed.open(&[0, a, b]).is_err() && summed.open(&[a, b, c]).is_err());
        opened += 1;
    }
    assert_eq!(opened, 10);
    assert!(summed.open(&[1, 2, 3, 4, 5]).is_err(), "all holders without the authority");
}

#[test]
fn sums_of_the_full_size_reach_beyond_32_bits() {
    let fixture = full(1, 1, 1);
    let shape = shape(4, 50, 40);
    let (low, high) = (-(1i64 << 39), (1i64 << 39) - 1);
    let plains = vec![vec![low, high, low + 1, -1]; 50];
    let summed = Summed::run(&PAILLIER, &fixture, shape, plains, 1);
    assert_eq!(summed.open(&[0, 1]), Ok(vec![50 * low, 50 * high, 50 * (low + 1), -50]));
}

#[test]
fn many_holders_open() {
    for (holders, threshold) in [(20, 16), (64, 33)] {
        let fixture = small(holders, threshold, 1);
        let shape = shape(3, 2, 20);
        let plains = (0..2).map(|party| checks::values(&shape, party, 1)).collect();
        let summed = Summed::run(&SMALL, &fixture, shape, plains, 1);
        let (holders, threshold) = (holders as usize, threshold as usize);
        let last: Vec<usize> = (holders - threshold + 1..=holders).chain([0]).collect();
        let spread: Vec<usize> = (0..threshold).chain([holders]).collect();
        for set in [last, spread] {
            assert_eq!(summed.open(&set), Ok(checks::plain_sum(&summed.plains)), "{set:?}");
        }
    }
}

fn one_key() -> &'static (KeyFixture, Arc<dyn ThresholdKey>) {
    static KEY: OnceLock<(KeyFixture, Arc<dyn ThresholdKey>)> = OnceLock::new();
    KEY.get_or_init(|| {
        let fixture = small(3, 2, 7);
        let key = SMALL.load(&fixture.public).unwrap();
        (fixture, key)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn sums_equal_plain_arithmetic(
        bits in 2u32..=64,
        parties in 2u32..=9,
        dim in 1u64..=40,
        drawn in any::<u8>(),
    ) {
        let shape = shape(dim, parties, bits);
        let plains: Vec<Vec<i64>> =
            (0..parties).map(|party| checks::values(&shape, party, drawn)).collect();
        let expected = checks::plain_sum(&plains);
        let summed = Summed::run(&SMALL, &one_key().0, shape, plains, drawn);
        prop_assert_eq!(summed.open(&[0, 1, 3]).unwrap(), expected);
    }

    #[test]
    fn hostile_bytes_are_errors(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let (fixture, key) = one_key();
        let shape = shape(3, 2, 16);
        prop_assert!(SMALL.load(&bytes).is_err());
        prop_assert!(key.verify_reply(&shape, &checks::binding(0), &bytes).is_err());
        let sum = key.sum(&shape);
        prop_assert!(key.verify_partial(&shape, &[0; 32], sum.as_ref(), &bytes).is_err());
        let posts = [KeyPost { step: 0, from: 0, bytes }];
        prop_assert!(SMALL.key_check(&fixture.setup(), &posts).is_err());
    }
}

fn stream(seed: u8) -> chacha20::ChaCha20Rng {
    <chacha20::ChaCha20Rng as rand_core::SeedableRng>::from_seed([seed; 32])
}

fn naive_power(base: &Integer, exponent: &Integer, modulus: &Integer) -> Integer {
    base.clone().pow_mod(exponent, modulus).unwrap()
}

#[test]
fn tables_and_products_of_powers_agree_with_the_library() {
    let (fixture, _) = one_key();
    let key = PublicKey::parse(SMALL.size, &fixture.public).unwrap();
    let modulus = &key.n_squared;
    let table = table::FixedBase::new(&key.pairs, &key.h_s, 130);
    let exponents: [[u64; 3]; 5] =
        [[0; 3], [1, 0, 0], [63, 0, 0], [u64::MAX, u64::MAX, 3], [0x0123_4567_89ab_cdef, 77, 2]];
    let last = Integer::from(&key.n - 1);
    for m in [Integer::new(), Integer::from(1), last] {
        let plain = number::words(&m, SMALL.size.0);
        let inputs: Vec<(&[u64], &[u64])> =
            exponents.iter().map(|limbs| (plain.as_slice(), limbs.as_slice())).collect();
        for (limbs, got) in exponents.iter().zip(table.encryptions(&inputs, 130)) {
            let exponent = Integer::from_digits(limbs, rug::integer::Order::Lsf);
            let power = naive_power(&key.h_s, &exponent, modulus);
            assert_eq!(got, (Integer::from(&m * &key.n) + 1) * power % modulus, "{exponent}");
            let got = table::power(&key.pairs, &key.h_s, &exponent, 130);
            assert_eq!(got, naive_power(&key.h_s, &exponent, modulus), "{exponent}");
        }
    }
    // Fewer digits than the table has.
    let short = table.encryptions(&[(&[], &[12_345])], 20);
    assert_eq!(short, [naive_power(&key.h_s, &Integer::from(12_345), modulus)]);

    let rng = &mut stream(5);
    for (count, bits) in [(0, 128), (1, 128), (2, 300), (7, 1), (33, 300), (200, 128)] {
        let mut draw = |bits: u32| {
            number::SecretInteger::random_below(rng, &(Integer::from(1) << bits)).0.clone()
        };
        let bases: Vec<Integer> = (0..count).map(|_| draw(1000)).collect();
        let mut exponents: Vec<Integer> = (0..count).map(|_| draw(bits)).collect();
        if let Some(first) = exponents.first_mut() {
            *first = Integer::new();
        }
        let mut expected = Integer::from(1);
        for (base, exponent) in bases.iter().zip(&exponents) {
            expected = expected * naive_power(base, exponent, modulus) % modulus;
        }
        let product = number::product_of_powers_vartime(&key.pairs, &bases, &exponents);
        assert_eq!(product, expected, "{count} bases, {bits} bits");
    }
}

#[test]
fn lagrange_integers_recombine_any_polynomial() {
    let fixture = small(6, 4, 1);
    let key = PublicKey::parse(SMALL.size, &fixture.public).unwrap();
    // 3 x^3 - 5 x^2 + 2 x + 11, and the authority's part 100.
    let f = |x: i64| Integer::from(3 * x * x * x - 5 * x * x + 2 * x + 11);
    for numbers in [[0, 1, 2, 3, 4], [6, 2, 0, 5, 3], [3, 4, 5, 6, 0]] {
        let (factors, common) = key.lagrange(&numbers).unwrap();
        let mut sum = Integer::new();
        for (&number, factor) in numbers.iter().zip(&factors) {
            sum += factor * if number == AUTHORITY { Integer::from(100) } else { f(number.into()) };
        }
        assert_eq!(sum, Integer::from(&common * 111u32), "{numbers:?}");
        assert!(common > 0);
    }
    let wrong: [&[u32]; 7] = [
        &[],
        &[0, 1, 2, 3],
        &[0, 1, 2, 3, 4, 5],
        &[1, 2, 3, 4],
        &[1, 2, 3, 4, 5],
        &[0, 1, 2, 3, 3],
        &[0, 1, 2, 3, 7],
    ];
    for numbers in wrong {
        assert!(key.lagrange(numbers).is_none(), "{numbers:?}");
    }
    assert!(
        key.lagrange(&[0, 0, 1, 2, 3]).is_none() && key.lagrange(&[0, 0, 1, 2, 3, 4]).is_none()
    );
}

/// A party's reply and the parts that an attacker works on.
struct Target {
    key: PublicKey,
    shape: SumShape,
    layout: Layout,
    reply: Vec<u8>,
}

impl Target {
    fn new() -> Self {
        let (fixture, loaded) = one_key();
        let shape = shape(25, 3, 33);
        let mut reply = vec![0; SMALL.reply_bytes(&shape).unwrap()];
        let values = checks::values(&shape, 0, 3);
        let seed = Secret::new([1; 32]);
        loaded.encrypt(&shape, &checks::binding(0), &values, &seed, &mut reply).unwrap();
        let key = PublicKey::parse(SMALL.size, &fixture.public).unwrap();
        let layout = Layout::new(SMALL.size, &shape).unwrap();
        assert!(layout.count > 1);
        Self { key, shape, layout, reply }
    }

    /// The reply with every ciphertext mapped, its proof unchanged.
    fn mapped(&self, map: impl Fn(Integer) -> Integer) -> Vec<u8> {
        let mut out = self.reply.clone();
        let each = SMALL.size.square_bytes();
        let ciphers = self.layout.cipher_bytes(SMALL.size);
        for chunk in out[..ciphers].chunks_exact_mut(each) {
            let mapped = map(from_le(chunk)) % &self.key.n_squared;
            chunk.copy_from_slice(&to_le(&mapped, each));
        }
        out
    }

    fn verify(&self, binding: &ReplyBinding, reply: &[u8]) -> Result<(), SchemeError> {
        one_key().1.verify_reply(&self.shape, binding, reply)
    }
}

#[test]
fn derived_ciphertexts_are_refused() {
    let target = Target::new();
    let (mine, theirs) = (checks::binding(1), checks::binding(0));
    assert_eq!(target.verify(&theirs, &target.reply), Ok(()));
    let n_squared = target.key.n_squared.clone();
    let canonical = |x: Integer| without_sign(x % &n_squared, &n_squared);
    let fresh = target.key.raise(&target.key.h_s, &Integer::from(12_345));
    let derived = [
        ("copied", target.reply.clone()),
        ("negated", target.mapped(|c| canonical(c.invert(&n_squared).unwrap()))),
        ("doubled", target.mapped(|c| canonical(c.square()))),
        ("scaled", target.mapped(|c| canonical(target.key.raise(&c, &(Integer::from(1) << 40))))),
        ("re-randomised", target.mapped(|c| canonical(c * &fresh))),
        ("shifted", target.mapped(|c| canonical(c * (Integer::from(&target.key.n) + 1)))),
    ];
    for (case, reply) in &derived {
        // Under the attacker's name, and, but for the copy, under the victim's.
        assert_eq!(target.verify(&mine, reply), Err(SchemeError::BadProof), "{case}");
        if *case != "copied" {
            assert_eq!(target.verify(&theirs, reply), Err(SchemeError::BadProof), "{case}");
        }
    }
    // Of c and -c only the lesser is an encoding, so a flipped sign cannot dress up a copy.
    let flipped = target.mapped(|c| Integer::from(&n_squared - &c));
    for binding in [&mine, &theirs] {
        assert_eq!(target.verify(binding, &flipped), Err(SchemeError::Malformed(0)));
    }
    assert_eq!(one_key().1.sum(&target.shape).add(&flipped), Err(SchemeError::Malformed(0)));
    // No units: zero, a multiple of n; the second ciphertext alone, by its first coordinate.
    let slots = target.layout.slots as u64;
    for bad in [Integer::new(), target.key.n.clone()] {
        let all = target.mapped(|_| bad.clone());
        assert_eq!(target.verify(&theirs, &all), Err(SchemeError::Malformed(0)));
        let each = SMALL.size.square_bytes();
        let mut second = target.reply.clone();
        second[each..2 * each].copy_from_slice(&to_le(&bad, each));
        assert_eq!(target.verify(&theirs, &second), Err(SchemeError::Malformed(slots)));
        assert_eq!(one_key().1.sum(&target.shape).add(&second), Err(SchemeError::Malformed(slots)));
    }
    // Ciphertexts in another order, proof unchanged.
    let mut swapped = target.reply.clone();
    let each = SMALL.size.square_bytes();
    swapped[..2 * each].rotate_left(each);
    assert_eq!(target.verify(&theirs, &swapped), Err(SchemeError::BadProof));
    // The answer moved by the modulus is another encoding of the same proof.
    let at = target.layout.cipher_bytes(SMALL.size) + size::CHALLENGE_BYTES;
    let mut moved = target.reply.clone();
    let z = &mut moved[at..at + SMALL.size.modulus_bytes()];
    let sum = from_le(z) + &target.key.n;
    if sum.significant_bits() <= SMALL.size.0 {
        z.copy_from_slice(&to_le(&sum, z.len()));
        assert_eq!(target.verify(&theirs, &moved), Err(SchemeError::BadProof));
    }
}

#[test]
fn a_wrong_exponent_on_one_ciphertext_is_caught_whoever_proves() {
    use super::proof::PartialStatement;
    let (fixture, loaded) = one_key();
    let target = Target::new();
    let mut sum = loaded.sum(&target.shape);
    sum.add(&target.reply).unwrap();
    let sum_bytes = sum.to_bytes();
    let elements = target.key.elements(&sum_bytes).unwrap();
    let share = Share::parse(&target.key, &fixture.copied_share(1)).unwrap();
    let exponent = Integer::from(&share.value.0 * &target.key.delta) * 2;
    let honest: Vec<Integer> = elements
        .iter()
        .map(|c| without_sign(target.key.raise(c, &exponent), &target.key.n_squared))
        .collect();
    let answer = |raised: &[Integer]| {
        let each = SMALL.size.square_bytes();
        let bytes: Vec<u8> = raised.iter().flat_map(|x| to_le(x, each)).collect();
        let mut proof = vec![0; size::CHALLENGE_BYTES + SMALL.size.share_answer_bytes()];
        let statement = PartialStatement {
            key: &target.key,
            shape: &target.shape,
            context: &checks::CONTEXT,
            number: 1,
            sum: &elements,
            sum_bytes: &sum_bytes,
            raised_bytes: &bytes,
        };
        statement.prove(&share, &mut stream(4), &mut proof).unwrap();
        let partial = [1u32.to_le_bytes().as_slice(), &bytes, &proof].concat();
        loaded.verify_partial(&target.shape, &checks::CONTEXT, sum.as_ref(), &partial)
    };
    assert_eq!(answer(&honest), Ok(1));
    let n_squared = &target.key.n_squared;
    let wrong = |at: usize, factor: &Integer| {
        let mut raised = honest.clone();
        let product = Integer::from(&raised[at] * factor) % n_squared;
        raised[at] = without_sign(product, n_squared);
        raised
    };
    for at in 0..honest.len() {
        // A shifted plaintext, another exponent.
        let one_more = Integer::from(&target.key.n) + 1;
        for factor in [&one_more, &elements[at]] {
            assert_eq!(answer(&wrong(at, factor)), Err(SchemeError::BadProof), "{at}");
        }
        let mut flipped = honest.clone();
        flipped[at] = Integer::from(n_squared - &flipped[at]);
        let coordinate = target.layout.coordinate(at);
        assert_eq!(answer(&flipped), Err(SchemeError::Malformed(coordinate)), "{at}");
    }
}

#[test]
fn forged_partial_decryptions_open_nothing() {
    let (fixture, key) = one_key();
    let shape = shape(25, 3, 33);
    let plains = (0..3).map(|party| checks::values(&shape, party, 2)).collect();
    let summed = Summed::run(&SMALL, fixture, shape, plains, 2);
    let partial = |number: usize| summed.partials[number].clone();
    let renumbered = |number: usize, to: u32| {
        let mut forged = partial(number);
        forged[..4].copy_from_slice(&to.to_le_bytes());
        forged
    };
    // The partial decryption of someone whose share is zero.
    let neutral = |number: u32| {
        let mut forged = renumbered(0, number);
        for c in forged[4..].chunks_exact_mut(SMALL.size.square_bytes()) {
            c.fill(0);
            c[0] = 1;
        }
        forged
    };
    // Opening does not check proofs again, so what stops these is the arithmetic alone.
    let open = |partials: [Vec<u8>; 3]| {
        let partials: Vec<&[u8]> = partials.iter().map(Vec::as_slice).collect();
        let mut out = Zeroizing::new(Vec::new());
        key.open(&shape, 3, summed.sum.as_ref(), &partials, &mut out)
    };
    assert_eq!(open([partial(0), partial(1), partial(2)]), Ok(()));
    let one_holder_short = [renumbered(1, 2), renumbered(0, 2), neutral(2)];
    for forged in one_holder_short {
        let opened = open([partial(0), partial(1), forged]);
        assert_eq!(opened, Err(SchemeError::OutOfRange(0)));
    }
    for forged in [renumbered(3, 0), renumbered(1, 0), neutral(0)] {
        let opened = open([forged, partial(1), partial(2)]);
        assert_eq!(opened, Err(SchemeError::OutOfRange(0)), "without the authority");
    }
}

/// Fails to compile when a type has one of these traits: two candidates for one call are ambiguous.
macro_rules! lacks {
    ($type:ty: $($bound:path),*) => {$(
        const _: fn() = || {
            trait Ambiguous<A> {
                fn call() {}
            }
            struct Has;
            impl<T: ?Sized> Ambiguous<()> for T {}
            impl<T: ?Sized + $bound> Ambiguous<Has> for T {}
            let _ = <$type as Ambiguous<_>>::call;
        };
    )*};
}
lacks!(number::SecretInteger: Clone, core::fmt::Debug, serde::Serialize, PartialEq);
lacks!(Share: Clone, core::fmt::Debug, serde::Serialize, PartialEq);
lacks!(KeySecret: Clone, serde::Serialize, PartialEq);

#[test]
fn sums_that_no_members_have_are_refused() {
    let (fixture, key) = one_key();
    let shape = shape(20, 3, 16);
    let plains = vec![vec![i64::from(i16::MAX); 20]; 3];
    let summed = Summed::run(&SMALL, fixture, shape, plains, 1);
    let open = |members: u32| {
        let partials: Vec<&[u8]> =
            [0, 1, 2].into_iter().map(|i: usize| summed.partials[i].as_slice()).collect();
        let mut out = Zeroizing::new(Vec::new());
        key.open(&shape, members, summed.sum.as_ref(), &partials, &mut out).map(|()| out[0])
    };
    assert_eq!(open(3), Ok(3 * i64::from(i16::MAX)));
    assert_eq!(open(2), Err(SchemeError::OutOfRange(0)));
    assert!(open(0).is_err() && open(4).is_err());
    // A sum of another shape or key is no sum of this one.
    let other = SumShape { dim: 19, ..shape };
    let mut out = Zeroizing::new(Vec::new());
    let refused = key.open(&other, 3, summed.sum.as_ref(), &[], &mut out);
    assert!(matches!(refused, Err(SchemeError::Key(_))), "{refused:?}");
}

#[test]
fn keys_of_other_sizes_and_broken_elements_do_not_load() {
    let (fixture, _) = one_key();
    assert!(PAILLIER.load(&fixture.public).is_err());
    let key = PublicKey::parse(SMALL.size, &fixture.public).unwrap();
    let each = SMALL.size.square_bytes();
    let first = 9 + SMALL.size.modulus_bytes();
    let with = |at: usize, bytes: &[u8]| {
        let mut public = fixture.public.clone();
        public[at..at + bytes.len()].copy_from_slice(bytes);
        SMALL.load(&public).map(|_| ())
    };
    assert_eq!(with(9, &to_le(&key.n, SMALL.size.modulus_bytes())), Ok(()));
    for n in [Integer::from(&key.n + 1), Integer::from(&key.n >> 1), Integer::from(3)] {
        assert!(with(9, &to_le(&n, SMALL.size.modulus_bytes())).is_err());
    }
    let square = (Integer::from(1) << (SMALL.size.prime_bits() - 1)) + 3u32;
    let mut perfect = square.square();
    perfect.set_bit(SMALL.size.0 - 1, true);
    assert!(with(9, &to_le(&perfect, SMALL.size.modulus_bytes())).is_err());
    // h_s, v and the verifiers: not zero, not one, below n^2, coprime, of symbol 1.
    let no_square = (2u32..).find(|x| Integer::from(*x).jacobi(&key.n) == -1).unwrap();
    for slot in 0..6 {
        for x in [
            Integer::new(),
            Integer::from(1),
            key.n_squared.clone(),
            key.n.clone(),
            Integer::from(no_square),
        ] {
            assert!(with(first + slot * each, &to_le(&x, each)).is_err(), "{slot} {x}");
        }
    }
    for (at, counts) in [(1, [0, 0, 0, 0]), (1, [4, 0, 0, 0]), (5, [0, 0, 0, 0]), (5, [255; 4])] {
        assert!(with(at, &counts).is_err());
    }
}

#[test]
fn keys_come_from_their_seed_and_seal_each_share_to_its_holder() {
    let [first, again, other] = [1, 1, 2].map(|drawn| small(3, 2, drawn));
    assert!(first.posts == again.posts && first.public == again.public);
    assert!(first.public != other.public);
    // The sealed part shows no share, and another holder's key opens none.
    let post = &first.posts[0].bytes;
    for share in &first.shares {
        let value = &share.expose()[4..];
        assert!(!post.windows(16).any(|piece| value.chunks(16).any(|secret| secret == piece)));
    }
    let setup = first.setup();
    let elsewhere = KeySetup { context: [0; 32], ..setup };
    let me = (1, &first.identities[1]);
    let share = SMALL.key_share(&elsewhere, me, &Secret::new(Vec::new()), &first.posts);
    assert!(matches!(share, Err(SchemeError::Key(_))), "a share of another call");
    let mut posts = first.posts.clone();
    *posts[0].bytes.last_mut().unwrap() ^= 1;
    for number in [1, 3] {
        let me = (number, &first.identities[number as usize]);
        let share = SMALL.key_share(&setup, me, &Secret::new(Vec::new()), &posts);
        assert_eq!(share.is_ok(), number == 1, "only the last sealed share was altered");
    }
}

#[test]
fn the_dealer_refuses_what_gives_no_key() {
    let fixture = small(3, 2, 1);
    let setup = fixture.setup();
    let seed = Secret::new([1; 32]);
    let deal = |setup: &KeySetup<'_>, primes| {
        dealer_from_primes(PAILLIER, setup, primes, &seed).map(|_| ())
    };
    let [p, q] = INSECURE_TEST_PRIMES;
    for primes in [[p, p], ["", q], ["xyz", q], ["7", "b"]] {
        assert!(matches!(deal(&setup, primes), Err(SchemeError::Key(_))), "{primes:?}");
    }
    for threshold in [0, 4] {
        assert!(deal(&KeySetup { threshold, ..setup }, [p, q]).is_err());
    }
    let small_order = [crate::keys::ExchangeKey([0; 32])];
    let hostile = KeySetup { holders: &small_order, threshold: 1, ..setup };
    let key = SMALL.key_post(
        &hostile,
        0,
        (AUTHORITY, &fixture.identities[0]),
        &Secret::new(Vec::new()),
        &[],
        &seed,
    );
    assert!(matches!(key, Err(SchemeError::Key(_))));
    let me = (1, &fixture.identities[1]);
    let post = SMALL.key_post(&setup, 0, me, &Secret::new(Vec::new()), &[], &seed);
    assert!(matches!(post, Err(SchemeError::WrongStep)), "a holder deals no key");
}

/// Keys, replies and partial decryptions are a function of their seeds.
#[test]
fn bytes_of_seeds_stay_the_same() {
    let digests = [
        "637455be8da4dace98c2dcccd97e188f35f407384c9f8a3ca77a9f74bee2108e",
        "f33245bea0d4e97d0377d01b9a27c5f4918e4d51b679b6542481dbc707b3c54e",
    ];
    let shape = shape(20, 3, 33);
    let schemes = [(SMALL, small(3, 2, 7)), (PAILLIER, full(3, 2, 7))];
    for ((scheme, fixture), digest) in schemes.into_iter().zip(digests) {
        let key = scheme.load(&fixture.public).unwrap();
        let mut reply = vec![0; scheme.reply_bytes(&shape).unwrap()];
        let values = checks::values(&shape, 0, 3);
        let seed = Secret::new([5; 32]);
        key.encrypt(&shape, &checks::binding(0), &values, &seed, &mut reply).unwrap();
        let mut sum = key.sum(&shape);
        sum.add(&reply).unwrap();
        let mut partial = vec![0; scheme.partial_bytes(&shape).unwrap()];
        let share = &fixture.shares[1];
        key.partial(&shape, &[6; 32], share, sum.as_ref(), &seed, &mut partial).unwrap();
        let parts: [&[u8]; 3] = [&fixture.public, &reply, &partial];
        let hash = crate::merkle::hash_parts("quorate/test/paillier/1", &parts);
        assert_eq!(hex::encode(hash.0), digest, "{}", scheme.info.name);
    }
}

#[test]
fn the_test_primes_are_safe_primes() {
    for prime in INSECURE_TEST_PRIMES {
        let prime = Integer::from_str_radix(prime, 16).unwrap();
        assert_eq!(prime.significant_bits(), PAILLIER.size.prime_bits());
        let half: Integer = Integer::from(&prime >> 1);
        for prime in [prime, half] {
            assert!(prime.is_probably_prime(25) != rug::integer::IsPrime::No);
        }
    }
}
