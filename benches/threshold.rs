//! Each role's work under every threshold scheme, a Paillier key over known primes.
//!
//! `quorate bench sum` gives the figures for the cards; these benches follow changes over time.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use curve25519_dalek::ristretto::{RistrettoBasepointTable, RistrettoPoint};
use curve25519_dalek::scalar::Scalar;
use quorate_crypto::schemes;
use quorate_crypto::secret::Secret;
use quorate_crypto::sum::{Ring, SumShape};
use quorate_crypto::threshold::conformance::KeyFixture;
use quorate_crypto::threshold::elgamal::ElGamal;
use quorate_crypto::threshold::elgamal::choice::{ChoiceKey, Ciphers};
use quorate_crypto::threshold::paillier::PAILLIER;
use quorate_crypto::threshold::paillier::testkit::{INSECURE_TEST_PRIMES, dealer_from_primes};
use quorate_crypto::threshold::{ReplyBinding, ThresholdScheme};
use zeroize::Zeroizing;

/// Few parties and values: one pass over all benches, as tests make it, takes seconds.
const SHAPE: SumShape =
    SumShape { ring: Ring::Z32, dim: 100, parties: 3, authorities: 1, bits: 20 };

fn key_of(scheme: &dyn ThresholdScheme) -> KeyFixture {
    if scheme.info() != PAILLIER.info() {
        return KeyFixture::run(scheme, 3, 2, 1);
    }
    KeyFixture::run_with(scheme, 3, 2, 1, &|setup, _, _, _, _, seed| {
        dealer_from_primes(PAILLIER, setup, INSECURE_TEST_PRIMES, seed)
    })
}

fn sums(criterion: &mut Criterion) {
    for scheme in schemes::threshold() {
        let fixture = key_of(*scheme);
        let key = scheme.load(&fixture.public).unwrap();
        let mut group = criterion.benchmark_group(scheme.info().name);
        group.sample_size(10).throughput(Throughput::Elements(SHAPE.dim));
        let id = |what| BenchmarkId::new(what, format!("{}x{}", SHAPE.parties, SHAPE.dim));

        let seed = || Secret::new([3; 32]);
        let (binding, context) = (ReplyBinding([1; 32]), [2; 32]);
        let most = (1i64 << (SHAPE.bits - 1)) - 1;
        let values: Vec<i64> = (0..SHAPE.dim.cast_signed()).map(|j| most - 7919 * j).collect();
        let mut reply = vec![0; scheme.reply_bytes(&SHAPE).unwrap()];
        group.bench_function(id("party"), |b| {
            b.iter(|| key.encrypt(&SHAPE, &binding, &values, &seed(), &mut reply).unwrap());
        });
        let mut sum = key.sum(&SHAPE);
        for _ in 0..SHAPE.parties {
            sum.add(&reply).unwrap();
        }
        group.bench_function(id("check-and-add"), |b| {
            b.iter(|| {
                key.verify_reply(&SHAPE, &binding, &reply).unwrap();
                key.sum(&SHAPE).add(&reply).unwrap();
            });
        });
        let mut partials = vec![vec![0; scheme.partial_bytes(&SHAPE).unwrap()]; 3];
        for (share, partial) in fixture.shares.iter().zip(&mut partials) {
            key.partial(&SHAPE, &context, share, sum.as_ref(), &seed(), partial).unwrap();
        }
        group.bench_function(id("partial"), |b| {
            let mut partial = partials[1].clone();
            b.iter(|| {
                let share = &fixture.shares[1];
                key.partial(&SHAPE, &context, share, sum.as_ref(), &seed(), &mut partial).unwrap();
            });
        });
        let partials: Vec<&[u8]> = partials.iter().map(Vec::as_slice).collect();
        group.bench_function(id("open"), |b| {
            let mut opened = Default::default();
            b.iter(|| {
                for partial in &partials {
                    key.verify_partial(&SHAPE, &context, sum.as_ref(), partial).unwrap();
                }
                key.open(&SHAPE, SHAPE.parties, sum.as_ref(), &partials, &mut opened).unwrap();
            });
            let expected: Vec<i64> =
                values.iter().map(|value| value * i64::from(SHAPE.parties)).collect();
            assert_eq!(*opened, expected);
        });
    }
}

/// Work per ciphertext and per addition where payments are trained on, proofs apart; beside it the bare
/// curve operations.
fn choices(criterion: &mut Criterion) {
    const ROWS: usize = 256;
    const TREES: usize = 50;
    let fixture = KeyFixture::run(&ElGamal, 3, 2, 1);
    let key = ChoiceKey::parse(&fixture.public).unwrap();
    let seed = || Secret::new([3; 32]);
    let bindings: Vec<[u8; 32]> = (0..ROWS)
        .map(|row| {
            let mut binding = [0; 32];
            binding[..8].copy_from_slice(&row.to_le_bytes());
            binding
        })
        .collect();
    let bits: Zeroizing<Vec<u8>> =
        Zeroizing::new((0..ROWS).map(|row| u8::from(row % 16 == 0)).collect());
    let mut group = criterion.benchmark_group("choice");
    group.sample_size(10).throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("bare-curve", |b| {
        let point = RistrettoPoint::mul_base(&Scalar::from(7u64));
        let table = RistrettoBasepointTable::create(&point);
        let scalar = Scalar::from_bytes_mod_order([77; 32]);
        b.iter(|| {
            let mut bytes = 0u64;
            for _ in 0..ROWS {
                let pair = [RistrettoPoint::mul_base(&scalar), &scalar * &table];
                bytes +=
                    pair.map(|point| u64::from(point.compress().as_bytes()[0])).iter().sum::<u64>();
            }
            bytes
        });
    });
    group.bench_function("bit-cipher", |b| b.iter(|| key.unproven(None, &bits, &seed())));
    group.bench_function("bit-with-proof", |b| {
        b.iter(|| key.encrypt_bits(&bindings, &bits, &seed()));
    });
    let inputs = key.encrypt_bits(&bindings, &bits, &seed()).unwrap();
    group.bench_function("or-cipher", |b| {
        b.iter(|| key.unproven(Some(&inputs.ciphers), &bits, &seed()));
    });
    group.bench_function("or-with-proof", |b| {
        b.iter(|| key.or_bits(&bindings, &inputs.ciphers, &bits, &seed()));
    });
    let outs = key.or_bits(&bindings, &inputs.ciphers, &bits, &seed()).unwrap();
    group.bench_function("check-bit", |b| {
        b.iter(|| key.check_bits(&bindings, &inputs).unwrap());
    });
    group.bench_function("check-or", |b| {
        b.iter(|| key.check_or(&bindings, &inputs.ciphers, &outs).unwrap());
    });
    group.bench_function("decode", |b| b.iter(|| Ciphers::decode(&outs.ciphers).unwrap()));
    let rows = Ciphers::decode(&outs.ciphers).unwrap();
    let cells: Vec<Option<u16>> = (0..ROWS).map(|row| u16::try_from(row * 37 % 128).ok()).collect();
    group.throughput(Throughput::Elements((ROWS * TREES) as u64));
    group.bench_function("cells", |b| {
        let mut sums = Ciphers::empty(TREES * 128);
        b.iter(|| {
            for tree in 0..TREES {
                sums.add_rows(tree * 128, &cells, &rows, 1).unwrap();
            }
        });
    });
    group.throughput(Throughput::Elements(1));
    let table = &inputs.ciphers[..9 * 64];
    group.bench_function("select-3x3", |b| {
        b.iter(|| key.select(&bindings[0], table, 3, 1, &seed()).unwrap());
    });
    let picked = key.select(&bindings[0], table, 3, 1, &seed()).unwrap();
    group.bench_function("check-select-3x3", |b| {
        b.iter(|| key.check_select(&bindings[0], table, 3, &picked).unwrap());
    });
}

criterion_group!(benches, sums, choices);
criterion_main!(benches);
