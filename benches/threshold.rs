//! Each role's work under every threshold scheme, a Paillier key over known primes.
//!
//! `quorate bench sum` gives the figures for the cards; these benches follow changes over time.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use quorate_crypto::schemes;
use quorate_crypto::secret::Secret;
use quorate_crypto::sum::{Ring, SumShape};
use quorate_crypto::threshold::conformance::KeyFixture;
use quorate_crypto::threshold::paillier::PAILLIER;
use quorate_crypto::threshold::paillier::testkit::{INSECURE_TEST_PRIMES, dealer_from_primes};
use quorate_crypto::threshold::{ReplyBinding, ThresholdScheme};

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

criterion_group!(benches, sums);
criterion_main!(benches);
