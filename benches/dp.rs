//! The time of one exact noise draw, for every kind of noise and several widths, and of the encoding.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use quorate_crypto::dp::{DiscreteGaussian, DiscreteLaplace, PolyaShare, Ratio, Rotation};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

/// Draws of one vector.
const DRAWS: usize = 1 << 12;

fn noise(criterion: &mut Criterion) {
    let mut rng = ChaCha20Rng::from_seed([1; 32]);
    let mut values = vec![0i64; DRAWS];
    let mut group = criterion.benchmark_group("noise");
    group.throughput(Throughput::Elements(DRAWS as u64));
    for sigma in [10u64, 13, 30, 100, 181, 1000, 3000, 10_000] {
        let noise = DiscreteGaussian::new(Ratio { num: sigma * sigma, den: 1 }).unwrap();
        group.bench_function(BenchmarkId::new("gaussian", sigma), |b| {
            b.iter(|| noise.add_to(&mut rng, black_box(&mut values)));
        });
    }
    for scale in [10, 1000] {
        let noise = DiscreteLaplace::new(Ratio { num: scale, den: 1 }).unwrap();
        group.bench_function(BenchmarkId::new("laplace", scale), |b| {
            b.iter(|| noise.add_to(&mut rng, black_box(&mut values)));
        });
    }
    let noise = PolyaShare::new(Ratio { num: 10, den: 1 }, 5).unwrap();
    group.bench_function(BenchmarkId::new("polya share of 5", 10), |b| {
        b.iter(|| noise.add_to(&mut rng, black_box(&mut values)));
    });
    group.finish();
}

fn rotation(criterion: &mut Criterion) {
    const DIM: usize = 1 << 14;
    let rotation = Rotation::new([2; 32], DIM as u64);
    let values = vec![0.01; DIM];
    let code = rotation.encode(&values, 20);
    let mut group = criterion.benchmark_group("rotation");
    group.throughput(Throughput::Elements(DIM as u64));
    group.bench_function("encode", |b| b.iter(|| rotation.encode(black_box(&values), 20)));
    group.bench_function("decode", |b| b.iter(|| rotation.decode(black_box(&code))));
    group.finish();
}

criterion_group!(benches, noise, rotation);
criterion_main!(benches);
