use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use super::bloom::{
    BloomError, BloomParams, Encoder, Filter, MatchRule, decode_filters, encode_filters, link,
    match_pair,
};
use super::*;
use crate::oprf::{Blinder, Evaluated, EvaluationKey};

const SESSION: [u8; 32] = [9; 32];
const NAMES: [&str; 4] = ["bank", "bureau", "network", "shop"];

fn rng(seed: u64) -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(seed)
}

fn group(seed: u64) -> GroupKey {
    let mut rng = rng(seed);
    let contributions = NAMES.map(|name| (name, Contribution::generate(&mut rng)));
    let members: Vec<_> =
        contributions.iter().map(|(name, c)| (*name, c.commitment(&SESSION, name), c)).collect();
    GroupKey::combine(&SESSION, &members).unwrap()
}

fn identifiers(rows: &[Option<u8>]) -> Vec<Option<Identifier>> {
    rows.iter().map(|row| row.map(|id| Identifier::of(&[&[id]]))).collect()
}

/// The party's and the authorities' part: from rows to tags.
fn party_tags(rows: &PartyRows, group: &GroupKey, seed: u64) -> PartyTags {
    let authorities =
        [b"a", b"b"].map(|info| EvaluationKey::derive(&Secret::new([1; 32]), info).unwrap());
    let keys = authorities.each_ref().map(EvaluationKey::public);
    let blinder = Blinder::generate(&mut rng(seed));
    let mut tags = Vec::new();
    for inputs in rows.batches() {
        let blinded = blinder.blind(inputs).unwrap();
        let answers = authorities.each_ref().map(|authority| {
            let answer = authority.evaluate(&blinded).unwrap();
            Evaluated::check(&authority.public(), &blinded, &answer).unwrap()
        });
        let outputs = blinder.finalise(inputs, &blinded, &keys, &answers).unwrap();
        tags.extend(group.tags(outputs.expose()));
    }
    PartyTags::new(rows, &tags).unwrap()
}

/// A whole job: each party's alignment.
fn run(parties: &[Vec<Option<u8>>], declared: u32) -> Vec<Alignment> {
    let group = group(1);
    let tags: Vec<_> = (10..)
        .zip(parties)
        .map(|(seed, rows)| {
            let rows = PartyRows::new(&identifiers(rows), declared, &mut rng(seed)).unwrap();
            party_tags(&rows, &group, 100 + seed)
        })
        .collect();
    let lists: Vec<_> =
        tags.iter().map(|tags| TagList::decode(&tags.encode(), declared).unwrap()).collect();
    let common = encode_tags(&common(&lists));
    let aligned: Vec<_> = tags.iter().map(|tags| tags.align(&common, 0).unwrap()).collect();
    let roots: BTreeSet<_> = aligned.iter().map(|a| a.root(&group)).collect();
    assert_eq!(roots.len(), 1, "all parties bind the same order");
    aligned
}

/// Each identifier's row, of those that a party has once.
fn once(rows: &[Option<u8>]) -> BTreeMap<u8, u32> {
    let mut found: BTreeMap<u8, Vec<u32>> = BTreeMap::new();
    for (row, id) in (0..).zip(rows) {
        if let Some(id) = id {
            found.entry(*id).or_default().push(row);
        }
    }
    found.into_iter().filter(|(_, rows)| rows.len() == 1).map(|(id, rows)| (id, rows[0])).collect()
}

#[test]
fn three_parties_find_their_common_rows_in_one_order() {
    let a = vec![Some(1), Some(2), None, Some(3), Some(4), Some(5), Some(4)];
    let b = vec![Some(5), Some(4), Some(3), Some(1)];
    let c = vec![Some(9), Some(1), Some(3), Some(8), Some(5), None, None];
    let aligned = run(&[a.clone(), b.clone(), c.clone()], 8);
    let ids = |rows: &[Option<u8>], alignment: &Alignment| -> Vec<u8> {
        alignment.rows().iter().map(|row| rows[*row as usize].unwrap()).collect()
    };
    let order = ids(&a, &aligned[0]);
    assert_eq!(order.iter().copied().collect::<BTreeSet<_>>(), BTreeSet::from([1, 3, 5]));
    assert_eq!(order.len(), 3);
    assert_eq!(ids(&b, &aligned[1]), order);
    assert_eq!(ids(&c, &aligned[2]), order);
}

#[test]
fn missing_and_duplicated_rows_are_left_out_and_counted() {
    let rows = [Some(1), Some(2), None, Some(1), Some(1), Some(3), None, Some(3), Some(4)];
    let party = PartyRows::new(&identifiers(&rows), 2, &mut rng(1)).unwrap();
    let expected = RowCounts { rows: 9, missing: 2, duplicated: 5, distinct: 2 };
    assert_eq!(party.counts(), expected);
    let small = PartyRows::new(&identifiers(&rows), 1, &mut rng(1)).err();
    assert_eq!(small, Some(PsiError::Declared { distinct: 2, declared: 1 }));
    assert_eq!(PartyRows::new(&[], 0, &mut rng(1)).unwrap().batches().len(), 0);
}

/// Padding hides the number of rows and matches nothing, not even other padding.
#[test]
fn padding_fills_up_to_the_declared_size() {
    let party = PartyRows::new(&identifiers(&[Some(1), None]), 5000, &mut rng(1)).unwrap();
    let sizes: Vec<_> = party.batches().map(<[_]>::len).collect();
    assert_eq!(sizes, [4096, 904]);
    let aligned = run(&[vec![Some(1)], vec![Some(1), Some(2)]], 6);
    assert_eq!(aligned[0].rows(), [0]);
    assert_eq!(aligned[1].rows(), [0]);
}

#[test]
fn identifiers_are_injective_in_their_columns() {
    let all = [
        Identifier::of(&[b"ab", b"c"]).0,
        Identifier::of(&[b"a", b"bc"]).0,
        Identifier::of(&[b"abc"]).0,
        Identifier::of(&[b"abc", b""]).0,
    ];
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 4);
}

/// The aggregator compares tags under two secrets: with another group key nothing matches.
#[test]
fn tags_need_the_group_key() {
    let rows = PartyRows::new(&identifiers(&[Some(1), Some(2)]), 2, &mut rng(1)).unwrap();
    let [first, same, other] = [(1, 5), (1, 6), (2, 5)]
        .map(|(key, blinds)| party_tags(&rows, &group(key), blinds).encode());
    assert_eq!(first, same);
    let lists = [&first, &other].map(|bytes| TagList::decode(bytes, 2).unwrap());
    assert_eq!(common(&lists), []);
    assert_eq!(common(&lists[..1]).len(), 2);
    assert_eq!(common(&[]), []);
}

fn tag(byte: u8) -> Tag {
    Tag([byte; TAG_BYTES])
}

#[test]
fn a_wrong_list_of_tags_is_refused() {
    let decode = |tags: &[Tag], declared| TagList::decode(&encode_tags(tags), declared).err();
    assert_eq!(decode(&[tag(1), tag(2)], 2), None);
    assert_eq!(decode(&[tag(2), tag(1)], 2), Some(PsiError::Order(1)));
    assert_eq!(decode(&[tag(1), tag(2), tag(2)], 3), Some(PsiError::Order(2)));
    assert_eq!(decode(&[tag(1)], 2), Some(PsiError::Length { expected: 32, got: 16 }));
    let short = TagList::decode(&[0; 31], 2).err();
    assert_eq!(short, Some(PsiError::Length { expected: 32, got: 31 }));
    assert_eq!(decode(&[], 0), None);
}

/// What a lying aggregator may send.
#[test]
fn a_wrong_common_list_is_refused() {
    let rows = PartyRows::new(&identifiers(&[Some(1), Some(2), Some(3)]), 4, &mut rng(1)).unwrap();
    let own: Vec<_> = (1..=4).map(|byte| tag(2 * byte)).collect();
    let party = PartyTags::new(&rows, &own).unwrap();
    let align = |tags: &[Tag]| party.align(&encode_tags(tags), 1);
    assert_eq!(align(&own[..3]).unwrap().rows().len(), 3);
    assert_eq!(align(&[own[1]]).unwrap().rows(), [rows.rows[1]]);
    // One that nobody holds, below, between and above; the padding's; repeated; turned round.
    for byte in [1, 3, 99] {
        assert_eq!(align(&[tag(byte)]).err(), Some(PsiError::NotHeld(0)));
    }
    assert_eq!(align(&own).err(), Some(PsiError::NotHeld(3)));
    assert_eq!(align(&[own[0], own[0]]).err(), Some(PsiError::Order(1)));
    assert_eq!(align(&[own[1], own[0]]).err(), Some(PsiError::Order(1)));
    assert_eq!(align(&[]).err(), Some(PsiError::TooFew { least: 1, got: 0 }));
    assert_eq!(party.align(&[0; 17], 1).err(), Some(PsiError::Length { expected: 16, got: 17 }));
    // And a wrong list of one's own.
    assert_eq!(
        PartyTags::new(&rows, &own[..3]).err(),
        Some(PsiError::Length { expected: 64, got: 48 })
    );
    assert_eq!(PartyTags::new(&rows, &[tag(1); 4]).err(), Some(PsiError::Order(1)));
}

#[test]
fn the_root_binds_the_order_and_the_salt() {
    let handles: Vec<_> = (1..=5).map(tag).collect();
    let linked = |handles: &[Tag]| {
        let rows = (0..u32::try_from(handles.len()).unwrap()).collect();
        Alignment::linked(handles.to_vec(), rows, 5, 1).unwrap()
    };
    let root = linked(&handles).root(&group(1));
    assert_eq!(linked(&handles).root(&group(1)), root);
    assert_ne!(linked(&handles).root(&group(2)), root);
    assert_ne!(linked(&handles[..4]).root(&group(1)), root);
    assert_ne!(linked(&handles[1..]).root(&group(1)), root);
    // Other rows under the same handles: the order is shared, the rows are each party's own.
    let other = Alignment::linked(handles, vec![4, 3, 2, 1, 0], 5, 1).unwrap();
    assert_eq!(other.root(&group(1)), root);
}

#[test]
fn a_wrong_linkage_is_refused() {
    let linked = |handles: &[u8], rows: &[u32]| {
        let handles = handles.iter().map(|byte| tag(*byte)).collect();
        Alignment::linked(handles, rows.to_vec(), 3, 2).err()
    };
    assert_eq!(linked(&[1, 2], &[2, 0]), None);
    assert_eq!(linked(&[1, 2], &[2, 3]), Some(PsiError::Row(1)));
    assert_eq!(linked(&[1, 2], &[2, 2]), Some(PsiError::Row(1)));
    assert_eq!(linked(&[2, 1], &[0, 1]), Some(PsiError::Order(1)));
    assert_eq!(linked(&[1, 2], &[0]), Some(PsiError::Length { expected: 2, got: 1 }));
    assert_eq!(linked(&[1], &[0]), Some(PsiError::TooFew { least: 2, got: 1 }));
}

#[test]
fn contributions_are_checked_against_their_commitments() {
    let [a, b, c] = [1, 2, 3].map(|seed| Contribution::generate(&mut rng(seed)));
    let of = |name: &str, c: &Contribution| c.commitment(&SESSION, name);
    let combine = |members: &[(&str, Hash, &Contribution)]| {
        GroupKey::combine(&SESSION, members).map(|key| *key.0.expose())
    };
    let key = combine(&[("a", of("a", &a), &a), ("b", of("b", &b), &b)]).unwrap();
    assert_eq!(combine(&[("b", of("b", &b), &b), ("a", of("a", &a), &a)]), Ok(key));
    let received = Contribution::from_bytes(Secret::new(*b.expose()));
    assert_eq!(combine(&[("a", of("a", &a), &a), ("b", of("b", &b), &received)]), Ok(key));
    assert_ne!(combine(&[("a", of("a", &a), &a), ("b", of("b", &c), &c)]), Ok(key));
    let blamed = Err(PsiError::Contribution("b".to_owned()));
    assert_eq!(combine(&[("a", of("a", &a), &a), ("b", of("b", &b), &c)]), blamed);
    assert_eq!(combine(&[("a", of("a", &a), &a), ("b", of("a", &b), &b)]), blamed);
    let other = b.commitment(&[8; 32], "b");
    assert_eq!(combine(&[("a", of("a", &a), &a), ("b", other, &b)]), blamed);
    assert_eq!(combine(&[("a", of("a", &a), &a)]), Err(PsiError::Group));
    assert_eq!(combine(&[("a", of("a", &a), &a), ("a", of("a", &b), &b)]), Err(PsiError::Group));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Exactly the plain intersection of what each party has once, in one order, whatever the rows.
    #[test]
    fn the_intersection_is_the_plain_one(
        parties in proptest::collection::vec(
            proptest::collection::vec(proptest::option::weighted(0.9, 0u8..20), 0..24), 2..5),
    ) {
        let aligned = run(&parties, 24);
        let plain: Vec<_> = parties.iter().map(|rows| once(rows)).collect();
        let expected: BTreeSet<u8> = plain[0]
            .keys()
            .copied()
            .filter(|id| plain.iter().all(|party| party.contains_key(id)))
            .collect();
        let ids: Vec<Vec<u8>> = aligned
            .iter()
            .zip(&parties)
            .map(|(a, rows)| a.rows().iter().map(|row| rows[*row as usize].unwrap()).collect())
            .collect();
        prop_assert_eq!(ids[0].len(), expected.len());
        prop_assert_eq!(ids[0].iter().copied().collect::<BTreeSet<_>>(), expected);
        prop_assert!(ids.iter().all(|other| *other == ids[0]));
    }

    #[test]
    fn any_tags_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        for declared in [0, 1, 3, u32::MAX] {
            if let Ok(list) = TagList::decode(&bytes, declared) {
                prop_assert_eq!(encode_tags(&common(&[list])), bytes.clone());
            }
        }
        let rows = PartyRows::new(&identifiers(&[Some(1)]), 1, &mut rng(1)).unwrap();
        let party = PartyTags::new(&rows, &[tag(1)]).unwrap();
        prop_assert_eq!(party.align(&bytes, 0).is_ok(), bytes.is_empty());
    }
}

// Bloom filters.

fn params(fields: usize) -> BloomParams {
    BloomParams { bits: 1024, gram: 2, hashes: vec![20; fields] }
}

fn encoder(key: u8) -> Encoder {
    Encoder::new(Secret::new([key; 32]), params(2)).unwrap()
}

fn rule(bands: u16) -> MatchRule {
    MatchRule { threshold_permille: 800, bands, band_bits: 16, block_pairs: 10_000, seed: 1 }
}

#[test]
fn similar_records_have_similar_filters() {
    let encode = |key, salt, fields: [&str; 2]| encoder(key).encode(salt, &fields).unwrap();
    let anna = encode(1, "", ["anna schmidt", "12 long street"]);
    let typo = encode(1, "", ["ana schmidt", "12 long street"]);
    let other = encode(1, "", ["peter miller", "7 high road"]);
    assert!(anna.dice(&anna).reaches(1000));
    assert!(anna.dice(&typo).reaches(900) && !anna.dice(&typo).reaches(1000));
    assert!(!anna.dice(&other).reaches(700));
    // Another key, salt or field: as different as strangers are.
    let fields = ["anna schmidt", "12 long street"];
    let strangers = [
        encode(2, "", fields),
        encode(1, "1970", fields),
        encode(1, "", ["12 long street", "anna schmidt"]),
    ];
    for filter in strangers {
        assert!(!anna.dice(&filter).reaches(700));
    }
    assert!(anna.dice(&typo) > anna.dice(&other));
    assert_eq!(anna.dice(&other), other.dice(&anna));
}

/// The encoding is part of a job's agreement: pinned, and computed here a second way.
#[test]
fn the_encoding_is_pinned() {
    let params = BloomParams { bits: 256, gram: 2, hashes: vec![20] };
    let filter = Encoder::new(Secret::new([7; 32]), params).unwrap().encode("s", &["ab"]).unwrap();
    let mac = |key: &[u8; 32], message: &[u8]| -> [u8; 32] {
        keyed(&Secret::new(*key)).chain_update(message).finalize().into_bytes().into()
    };
    let field = mac(&[7; 32], b"\x00s");
    let mut expected = [0u8; 32];
    for gram in [b"\x1fa", b"ab", b"b\x1f"] {
        let [first, second] = [0, 1].map(|block| mac(&field, &[&[block][..], gram].concat()));
        for position in first.chunks(2).chain(second[..8].chunks(2)) {
            // The low byte alone counts mod 256.
            expected[usize::from(position[0] / 8)] |= 1 << (position[0] % 8);
        }
    }
    assert_eq!(encode_filters(&[filter]), expected);
}

#[test]
fn filters_have_limits() {
    for (wrong, why) in [
        (BloomParams { bits: 1000, ..params(1) }, "bits are a power of two from 256 to 8192"),
        (BloomParams { bits: 128, ..params(1) }, "bits are a power of two from 256 to 8192"),
        (BloomParams { bits: 16_384, ..params(1) }, "bits are a power of two from 256 to 8192"),
        (BloomParams { gram: 0, ..params(1) }, "a q-gram has 1 to 4 characters"),
        (BloomParams { gram: 5, ..params(1) }, "a q-gram has 1 to 4 characters"),
        (params(0), "a record has 1 to 64 fields"),
        (params(65), "a record has 1 to 64 fields"),
        (BloomParams { hashes: vec![1, 0], ..params(1) }, "a q-gram sets 1 to 64 bits"),
        (BloomParams { hashes: vec![65], ..params(1) }, "a q-gram sets 1 to 64 bits"),
    ] {
        assert_eq!(wrong.check(), Err(BloomError::Params(why)), "{wrong:?}");
        assert!(Encoder::new(Secret::new([1; 32]), wrong.clone()).is_err());
        assert!(decode_filters(&[], &wrong, 0).is_err());
    }
    let encode = |fields: &[&str]| encoder(1).encode("", fields).err();
    assert_eq!(encode(&["a", ""]), None);
    assert_eq!(encode(&["", ""]), Some(BloomError::Empty));
    assert_eq!(encode(&["a"]), Some(BloomError::Fields { expected: 2, got: 1 }));
    for rule in [
        MatchRule { threshold_permille: 0, ..rule(1) },
        MatchRule { threshold_permille: 1001, ..rule(1) },
        rule(257),
        MatchRule { band_bits: 3, ..rule(1) },
        MatchRule { band_bits: 33, ..rule(1) },
    ] {
        assert!(matches!(match_pair(&[], &[], &rule), Err(BloomError::Params(_))), "{rule:?}");
    }
}

#[test]
fn filters_come_back_from_their_bytes() {
    let shape = params(2);
    let filters: Vec<_> =
        ["anna", "peter"].map(|name| encoder(1).encode("", &[name, ""]).unwrap()).to_vec();
    let bytes = encode_filters(&filters);
    assert_eq!(bytes.len(), 2 * shape.filter_bytes());
    assert!(decode_filters(&bytes, &shape, 2).unwrap() == filters);
    let refused = |bytes: &[u8], declared| decode_filters(bytes, &shape, declared).err();
    assert_eq!(refused(&bytes, 3), Some(BloomError::Length { expected: 384, got: 256 }));
    assert_eq!(refused(&bytes[1..], 2), Some(BloomError::Length { expected: 256, got: 255 }));
    let blank = [&bytes[..128], &[0; 128]].concat();
    assert_eq!(refused(&blank, 2), Some(BloomError::NoBit(1)));
}

fn filters(names: &[&str]) -> Vec<Filter> {
    names.iter().map(|name| encoder(1).encode("", &[name, ""]).unwrap()).collect()
}

/// One to one, the best pair first, ties to lower positions; every pair compared.
#[test]
fn matching_is_greedy_one_to_one_and_deterministic() {
    let a = filters(&["johnathan smithers", "maria gonzales", "johnathan smithers"]);
    let b = filters(&["peter", "johnathon smithers", "johnathan smithers", "maria gonzales"]);
    let found = match_pair(&a, &b, &rule(0)).unwrap();
    assert_eq!(found.pairs, [(0, 2), (1, 3), (2, 1)]);
    assert_eq!((found.compared, found.left_out), (12, 0));
    let strict = MatchRule { threshold_permille: 1000, ..rule(0) };
    assert_eq!(match_pair(&a, &b, &strict).unwrap().pairs, [(0, 2), (1, 3)]);
    assert_eq!(match_pair(&a, &[], &rule(0)).unwrap().pairs, []);
    assert_eq!(match_pair(&[], &b, &rule(4)).unwrap().pairs, []);
}

/// Blocking finds what comparing all finds, with far fewer comparisons; a block too large is counted.
#[test]
fn blocking_saves_comparisons() {
    let mut rng = rng(5);
    let mut name = || -> String {
        (0..24).map(|_| char::from(b'a' + u8::try_from(rng.next_u32() % 26).unwrap())).collect()
    };
    let names: Vec<String> = (0..300).map(|_| name()).collect();
    let a = filters(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let typos: Vec<String> = names.iter().rev().map(|name| format!("{}z", &name[1..])).collect();
    let b = filters(&typos.iter().map(String::as_str).collect::<Vec<_>>());
    let all = match_pair(&a, &b, &rule(0)).unwrap();
    let expected: Vec<_> = (0..300).map(|i| (i, 299 - i)).collect();
    assert_eq!((all.pairs.as_slice(), all.compared), (expected.as_slice(), 90_000));
    let blocked = match_pair(&a, &b, &rule(40)).unwrap();
    assert!(blocked.pairs.len() >= 290, "{}", blocked.pairs.len());
    assert!(blocked.pairs.iter().all(|pair| expected.contains(pair)));
    assert!(blocked.compared < 20_000, "{}", blocked.compared);
    assert_eq!(blocked.left_out, 0);
    let narrow = MatchRule { block_pairs: 0, ..rule(40) };
    let none = match_pair(&a, &b, &narrow).unwrap();
    assert_eq!((none.pairs.len(), none.compared), (0, 0));
    assert_eq!(none.left_out, blocked.compared);
}

#[test]
fn a_linkage_keeps_what_every_party_has() {
    let lists = [
        filters(&["anna schmidt", "maria gonzales", "lone walker", "peter miller"]),
        filters(&["peter miler", "anna schmidt", "maria gonzales"]),
        filters(&["maria gonzalez", "someone else", "peter miller"]),
    ];
    let linked = link(&lists, &rule(0), &mut rng(1)).unwrap();
    assert_eq!((linked.compared, linked.left_out), (24, 0));
    let rows: BTreeSet<Vec<u32>> =
        (0..2).map(|at| linked.rows.iter().map(|rows| rows[at]).collect()).collect();
    assert_eq!(rows, BTreeSet::from([vec![1, 2, 0], vec![3, 0, 2]]));
    assert_eq!(linked.rows.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 2]);
    for (rows, list) in linked.rows.iter().zip(&lists) {
        let size = u32::try_from(list.len()).unwrap();
        let aligned = Alignment::linked(linked.handles.clone(), rows.clone(), size, 2).unwrap();
        assert_eq!(aligned.rows(), rows);
    }
    assert!(matches!(link(&lists[..1], &rule(0), &mut rng(1)), Err(BloomError::Params(_))));
    let longer = Encoder::new(Secret::new([1; 32]), BloomParams { bits: 2048, ..params(2) })
        .unwrap()
        .encode("", &["anna", ""])
        .unwrap();
    let mixed = [lists[0].clone(), vec![longer]];
    assert!(matches!(link(&mixed, &rule(0), &mut rng(1)), Err(BloomError::Params(_))));
}
