//! One party's, one authority's and the aggregator's work, for every scheme of functional encryption.
//!
//! `quorate bench sum` gives the figures for the cards; these benches follow changes over time.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use quorate_crypto::conformance::{
    Fixture, all_messages, context, open, plaintexts, write_message,
};
use quorate_crypto::schemes;
use quorate_crypto::sum::{EncodedLen, Family, PadSuite, Ring, SumScheme, SumShape};

const PARTIES: u32 = 10;

/// Vectors short enough that one pass over all benches, as tests make it, takes a second.
fn dim(scheme: &dyn SumScheme, shape: &SumShape) -> u64 {
    match scheme.encoded_len(shape, 0) {
        Some(EncodedLen::PerCoordinate(width)) if width <= 8 => 1 << 16,
        _ => 64,
    }
}

fn sums(criterion: &mut Criterion) {
    let functional =
        |scheme: &&&dyn SumScheme| scheme.info().family == Family::FunctionalEncryption;
    for scheme in schemes::all().iter().filter(functional) {
        let name = scheme.info().name;
        let mut group = criterion.benchmark_group(name);
        group.sample_size(10);
        for ring in [Ring::Z32, Ring::Z64] {
            for suite in [PadSuite::Aes256Ctr, PadSuite::ChaCha20] {
                let mut shape =
                    SumShape { ring, dim: 1, parties: PARTIES, authorities: 1, bits: ring.bits() };
                shape.dim = dim(*scheme, &shape);
                let context = context(shape, suite, 1);
                let fixture = Fixture::new(&shape, 1);
                let plains = plaintexts(&shape, 1);
                let members: Vec<usize> = (0..plains.len()).collect();
                let id = |role| BenchmarkId::new(role, format!("{ring:?}/suite{}", suite.number()));
                group.throughput(Throughput::Elements(shape.dim));
                group.bench_function(id("party"), |b| {
                    let keys = fixture.party(0);
                    b.iter(|| {
                        write_message(*scheme, 0, &context, &keys, &plains[0], shape.dim).unwrap()
                    });
                });
                group.bench_function(id("authority"), |b| {
                    let keys = fixture.authority(0, &members);
                    b.iter(|| write_message(*scheme, 1, &context, &keys, &[], shape.dim).unwrap());
                });
                let messages =
                    all_messages(*scheme, &context, &fixture, &members, &plains, shape.dim)
                        .unwrap();
                group.bench_function(id("open"), |b| {
                    b.iter(|| {
                        open(*scheme, &context, PARTIES, black_box(&messages), shape.dim).unwrap()
                    });
                });
            }
        }
    }
}

criterion_group!(benches, sums);
criterion_main!(benches);
