//! Entity resolution: each role's work per identifier.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use quorate_crypto::oprf::{Blinder, Evaluated, EvaluationKey};
use quorate_crypto::psi::bloom::{BloomParams, Encoder, Filter, MatchRule, match_pair};
use quorate_crypto::psi::{
    Contribution, GroupKey, PartyRows, PartyTags, Tag, TagList, common, encode_tags,
};
use quorate_crypto::secret::Secret;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Identifiers of one batch.
const BATCH: usize = 256;
/// Tags of one party.
const TAGS: u32 = 10_000;
/// Records of one party in a linkage.
const RECORDS: usize = 200;

fn group_key(rng: &mut ChaCha20Rng) -> GroupKey {
    let parts = ["a", "b"].map(|name| (name, Contribution::generate(rng)));
    let members: Vec<_> =
        parts.iter().map(|(name, part)| (*name, part.commitment(&[1; 32], name), part)).collect();
    GroupKey::combine(&[1; 32], &members).unwrap()
}

fn exact(criterion: &mut Criterion) {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let group_key = group_key(&mut rng);
    let key = EvaluationKey::derive(&Secret::new([1; 32]), b"bench").unwrap();
    let blinder = Blinder::generate(&mut rng);
    let inputs: Vec<[u8; 32]> = (0..BATCH)
        .map(|_| {
            let mut input = [0; 32];
            rng.fill_bytes(&mut input);
            input
        })
        .collect();
    let blinded = blinder.blind(&inputs).unwrap();
    let answer = key.evaluate(&blinded).unwrap();
    let check = || Evaluated::check(&key.public(), &blinded, &answer).unwrap();

    let mut group = criterion.benchmark_group("psi");
    group.sample_size(10).throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("blind", |b| b.iter(|| blinder.blind(&inputs).unwrap()));
    group.bench_function("evaluate", |b| b.iter(|| key.evaluate(&blinded).unwrap()));
    group.bench_function("check", |b| b.iter(check));
    let checked = [check()];
    let finalise = || blinder.finalise(&inputs, &blinded, &[key.public()], &checked).unwrap();
    group.bench_function("finalise", |b| b.iter(finalise));
    let outputs = finalise();
    group.bench_function("tags", |b| b.iter(|| group_key.tags(outputs.expose())));

    // Three parties that share half of their tags.
    let lists: Vec<TagList> = (0..3u32)
        .map(|party| {
            let mut tags: Vec<Tag> = (0..TAGS)
                .map(|i| {
                    let holder = if i % 2 == 0 { 0 } else { u64::from(party) << 32 };
                    let mut tag = Tag([0; 16]);
                    ChaCha20Rng::seed_from_u64(holder | u64::from(i)).fill_bytes(&mut tag.0);
                    tag
                })
                .collect();
            tags.sort_unstable();
            TagList::decode(&encode_tags(&tags), TAGS).unwrap()
        })
        .collect();
    group.throughput(Throughput::Elements(3 * u64::from(TAGS)));
    group.bench_function("intersect", |b| b.iter(|| common(&lists)));
    assert_eq!(common(&lists).len(), 5000);

    let rows = PartyRows::new(&[], TAGS, &mut rng).unwrap();
    let tags: Vec<Tag> = (0..TAGS).map(|i| Tag(u128::from(i).to_be_bytes())).collect();
    group.throughput(Throughput::Elements(TAGS.into()));
    group.bench_function("sort", |b| b.iter(|| PartyTags::new(&rows, &tags).unwrap()));
}

fn linkage(criterion: &mut Criterion) {
    let mut rng = ChaCha20Rng::seed_from_u64(2);
    let params = BloomParams { bits: 1024, gram: 2, hashes: vec![20, 20, 12] };
    let encoder = Encoder::new(Secret::new([1; 32]), params).unwrap();
    let mut word = |letters: usize| -> String {
        (0..letters).map(|_| char::from(b'a' + (rng.next_u32() % 26).to_le_bytes()[0])).collect()
    };
    let records: Vec<[String; 3]> = (0..RECORDS).map(|_| [word(5), word(9), word(14)]).collect();
    let encode = || -> Vec<Filter> {
        let fields = |record: &[String; 3]| encoder.encode("", &record.each_ref().map(|f| &f[..]));
        records.iter().map(|record| fields(record).unwrap()).collect()
    };
    let mut group = criterion.benchmark_group("bloom");
    group.sample_size(10).throughput(Throughput::Elements(RECORDS as u64));
    group.bench_function("encode", |b| b.iter(encode));
    let filters = encode();
    let rule = MatchRule {
        threshold_permille: 800,
        bands: 0,
        band_bits: 16,
        block_pairs: u64::MAX,
        seed: 1,
    };
    group.throughput(Throughput::Elements((RECORDS * RECORDS) as u64));
    group.bench_function("compare", |b| b.iter(|| match_pair(&filters, &filters, &rule).unwrap()));
    assert_eq!(match_pair(&filters, &filters, &rule).unwrap().pairs.len(), RECORDS);
}

criterion_group!(benches, exact, linkage);
criterion_main!(benches);
