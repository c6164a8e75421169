//! Tests of chosen ciphertexts: exact results against plain booleans, every forgery named by its
//! index, unchanged bytes.

use std::sync::OnceLock;

use curve25519_dalek::ristretto::{CompressedRistretto, RistrettoPoint};
use curve25519_dalek::scalar::Scalar;
use proptest::prelude::*;
use zeroize::Zeroizing;

use super::choice::*;
use super::*;
use crate::merkle::hash_parts;
use crate::threshold::conformance::KeyFixture;

/// A key of five holders of whom three open.
fn fixture() -> &'static (KeyFixture, ChoiceKey) {
    static FIXTURE: OnceLock<(KeyFixture, ChoiceKey)> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let fixture = KeyFixture::run(&ElGamal, 5, 3, 1);
        let key = ChoiceKey::parse(&fixture.public).unwrap();
        (fixture, key)
    })
}

fn key() -> &'static ChoiceKey {
    &fixture().1
}

fn seed(number: u8) -> Secret<[u8; 32]> {
    Secret::new([number; 32])
}

fn bindings(of: &str, count: usize) -> Vec<Binding> {
    (0..count).map(|i| hash_parts(of, &[&i.to_le_bytes()]).0).collect()
}

fn secret(bits: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(bits.to_vec())
}

const CONTEXT: [u8; 32] = [5; 32];

/// Opens with the authority and holders 2, 4 and 5.
fn open(ciphers: &Ciphers, most: i64) -> Vec<i64> {
    let (fixture, key) = fixture();
    let partials: Vec<Vec<u8>> = [0, 2, 4, 5]
        .iter()
        .map(|number| {
            let share = &fixture.shares[*number];
            let partial = key.partial(&CONTEXT, ciphers, share, &seed(9)).unwrap();
            let number = u32::try_from(*number).unwrap();
            assert_eq!(key.check_partial(&CONTEXT, ciphers, &partial), Ok(number));
            partial
        })
        .collect();
    let partials: Vec<&[u8]> = partials.iter().map(Vec::as_slice).collect();
    key.open(ciphers, &partials, -most..=most).unwrap().to_vec()
}

fn encrypt(of: &str, bits: &[u8], drawn: u8) -> Chosen {
    key().encrypt_bits(&bindings(of, bits.len()), &secret(bits), &seed(drawn)).unwrap()
}

fn point_of(bytes: &[u8]) -> RistrettoPoint {
    CompressedRistretto(bytes.try_into().unwrap()).decompress().unwrap()
}

/// Changes both halves of ciphertext `at`.
fn map(
    chosen: &mut Chosen,
    at: usize,
    change: impl Fn(RistrettoPoint, RistrettoPoint) -> [RistrettoPoint; 2],
) {
    let place = &mut chosen.ciphers[64 * at..64 * at + 64];
    let changed = change(point_of(&place[..32]), point_of(&place[32..]));
    place[..32].copy_from_slice(changed[0].compress().as_bytes());
    place[32..].copy_from_slice(changed[1].compress().as_bytes());
}

#[test]
fn both_bits_are_proven_and_open_to_themselves() {
    let bits = [0, 1, 1, 0, 1];
    let chosen = encrypt("a", &bits, 1);
    assert_eq!((chosen.ciphers.len(), chosen.proofs.len()), (5 * 64, 5 * 96));
    let ciphers = key().check_bits(&bindings("a", 5), &chosen).unwrap();
    assert_eq!(open(&ciphers, 1), [0, 1, 1, 0, 1]);
    assert_eq!(ciphers.to_bytes(), chosen.ciphers);
}

#[test]
fn an_or_is_fresh_and_opens_to_the_or() {
    let inputs = encrypt("a", &[0, 0, 1, 1], 1);
    let names = bindings("b", 4);
    let bits = secret(&[0, 1, 0, 1]);
    let outs = key().or_bits(&names, &inputs.ciphers, &bits, &seed(2)).unwrap();
    let ciphers = key().check_or(&names, &inputs.ciphers, &outs).unwrap();
    assert_eq!(open(&ciphers, 1), [0, 1, 1, 1]);
    let old = inputs.ciphers.as_chunks::<32>().0;
    assert!(outs.ciphers.as_chunks::<32>().0.iter().all(|half| !old.contains(half)));
}

#[test]
fn a_selected_row_opens_to_itself_and_two_banks_choose_one_cell() {
    // s[o][b] as bits, so that the table itself can be made here: 3 rows of 2.
    let plain = [[0, 1], [1, 0], [1, 1]];
    let table = encrypt("t", &plain.concat(), 1);
    let name = bindings("row", 2);
    for (o, row) in (0u32..).zip(&plain) {
        let picked = key().select(&name[0], &table.ciphers, 3, o, &seed(2)).unwrap();
        assert_eq!(picked.proofs.len(), 3 * 48);
        let ciphers = key().check_select(&name[0], &table.ciphers, 3, &picked).unwrap();
        assert_eq!(open(&ciphers, 1), row.map(i64::from));
        for (b, value) in (0u32..).zip(row) {
            let last = key().select(&name[1], &picked.ciphers, 2, b, &seed(3)).unwrap();
            let ciphers = key().check_select(&name[1], &picked.ciphers, 2, &last).unwrap();
            assert_eq!(open(&ciphers, 1), [i64::from(*value)]);
        }
    }
}

#[test]
fn a_wrong_bit_is_refused_by_index() {
    let bits = [0, 1, 0, 1, 0];
    let honest = encrypt("a", &bits, 1);
    let names = bindings("a", 5);
    let refused = |chosen: &Chosen| key().check_bits(&names, chosen).err();
    let g = RistrettoPoint::mul_base(&Scalar::ONE);
    for at in 0..5 {
        // Two, minus one, negated, doubled, scaled by 2^40, re-randomised.
        let changes: [&dyn Fn(RistrettoPoint, RistrettoPoint) -> [RistrettoPoint; 2]; 6] = [
            &|a, b| [a, b + g + g],
            &|a, b| [a, b - g - g],
            &|a, b| [-a, -b],
            &|a, b| [a + a, b + b],
            &|a, b| [a * Scalar::from(1u64 << 40), b * Scalar::from(1u64 << 40)],
            &|a, b| [a + g, b],
        ];
        for change in changes {
            let mut chosen = honest.clone();
            map(&mut chosen, at, change);
            assert_eq!(refused(&chosen), Some(ChoiceError::BadProof(at)));
        }
        // A true re-randomisation: a bit still, but not this sender's.
        let mut chosen = honest.clone();
        let zero = point_of(&honest.ciphers[..32]);
        map(&mut chosen, at, |a, b| [a + zero, b + point_of(&honest.ciphers[32..64])]);
        assert_eq!(refused(&chosen), Some(ChoiceError::BadProof(at)));
        // Any flipped bit of a proof.
        for byte in (0..96).step_by(5) {
            let mut chosen = honest.clone();
            chosen.proofs[96 * at + byte] ^= 1;
            assert_eq!(refused(&chosen), Some(ChoiceError::BadProof(at)), "{byte}");
        }
        // No point; a first half of nothing.
        let mut chosen = honest.clone();
        chosen.ciphers[64 * at..64 * at + 32].fill(255);
        assert_eq!(refused(&chosen), Some(ChoiceError::Malformed(at)));
        chosen.ciphers[64 * at..64 * at + 32].fill(0);
        assert_eq!(refused(&chosen), Some(ChoiceError::Malformed(at)));
    }
    let mut longer = names.clone();
    longer.push([0; 32]);
    let length = Some(ChoiceError::Length { expected: 384, got: 320 });
    assert_eq!(key().check_bits(&longer, &honest).err(), length);
    let two = key().encrypt_bits(&names, &secret(&[0, 1, 2, 0, 0]), &seed(1));
    assert_eq!(two, Err(ChoiceError::Choice(2)));
}

#[test]
fn copied_swapped_and_replayed_ciphertexts_are_refused_by_index() {
    // The same bit everywhere: only the binding tells them apart.
    let honest = encrypt("a", &[1; 4], 1);
    let names = bindings("a", 4);
    let mut copied = honest.clone();
    copied.ciphers.copy_within(0..64, 128);
    copied.proofs.copy_within(0..96, 192);
    assert_eq!(key().check_bits(&names, &copied).err(), Some(ChoiceError::BadProof(2)));
    let mut swapped = honest.clone();
    let (a, b) = swapped.ciphers.split_at_mut(192);
    a[64..128].swap_with_slice(&mut b[..64]);
    let (a, b) = swapped.proofs.split_at_mut(288);
    a[96..192].swap_with_slice(&mut b[..96]);
    assert_eq!(key().check_bits(&names, &swapped).err(), Some(ChoiceError::BadProof(1)));
    let elsewhere = key().check_bits(&bindings("other", 4), &honest);
    assert_eq!(elsewhere.err(), Some(ChoiceError::BadProof(0)));
    let other = KeyFixture::run(&ElGamal, 3, 2, 2);
    let other = ChoiceKey::parse(&other.public).unwrap();
    assert_eq!(other.check_bits(&names, &honest).err(), Some(ChoiceError::BadProof(0)));
    // The proof of a bit is none of an OR, and the other way round.
    let outs = key().or_bits(&names, &honest.ciphers, &secret(&[1; 4]), &seed(3)).unwrap();
    assert_eq!(key().check_bits(&names, &outs).err(), Some(ChoiceError::BadProof(0)));
    let zero = encrypt("a", &[0; 4], 4);
    assert_eq!(
        key().check_or(&names, &zero.ciphers, &honest).err(),
        Some(ChoiceError::BadProof(0))
    );
}

#[test]
fn a_wrong_or_is_refused_by_index() {
    let inputs = encrypt("a", &[0, 1, 0, 1], 1);
    let names = bindings("b", 4);
    let honest = key().or_bits(&names, &inputs.ciphers, &secret(&[0, 0, 1, 1]), &seed(2)).unwrap();
    assert!(key().check_or(&names, &inputs.ciphers, &honest).is_ok());
    let refused = |inputs: &[u8], outs: &Chosen| key().check_or(&names, inputs, outs).err();
    // An answer to another row's input, the input itself, twice the input, a fresh 0.
    let mut moved = inputs.ciphers.clone();
    moved.copy_within(0..64, 128);
    assert_eq!(refused(&moved, &honest), Some(ChoiceError::BadProof(2)));
    for at in 0..4 {
        let place = 64 * at..64 * at + 64;
        let mut outs = honest.clone();
        outs.ciphers[place.clone()].copy_from_slice(&inputs.ciphers[place.clone()]);
        assert_eq!(refused(&inputs.ciphers, &outs), Some(ChoiceError::BadProof(at)));
        map(&mut outs, at, |a, b| [a + a, b + b]);
        assert_eq!(refused(&inputs.ciphers, &outs), Some(ChoiceError::BadProof(at)));
        let fresh = encrypt("b", &[0; 4], 7);
        outs.ciphers[place.clone()].copy_from_slice(&fresh.ciphers[place.clone()]);
        let proof = 96 * at..96 * at + 96;
        outs.proofs[proof.clone()].copy_from_slice(&fresh.proofs[proof]);
        assert_eq!(refused(&inputs.ciphers, &outs), Some(ChoiceError::BadProof(at)));
        let mut broken = inputs.ciphers.clone();
        broken[place].fill(255);
        assert_eq!(refused(&broken, &honest), Some(ChoiceError::Malformed(at)));
        let made = key().or_bits(&names, &broken, &secret(&[0; 4]), &seed(2));
        assert_eq!(made, Err(ChoiceError::Malformed(at)));
    }
}

#[test]
fn a_row_put_together_from_two_rows_is_refused() {
    let table = encrypt("t", &[0, 1, 1, 0, 1, 1], 1);
    let [name, other] = [[1; 32], [2; 32]];
    let first = key().select(&name, &table.ciphers, 3, 0, &seed(2)).unwrap();
    let second = key().select(&name, &table.ciphers, 3, 1, &seed(3)).unwrap();
    let refused = |binding: &Binding, table: &[u8], rows, chosen: &Chosen| {
        key().check_select(binding, table, rows, chosen).err()
    };
    let mut mixed = first.clone();
    mixed.ciphers[64..].copy_from_slice(&second.ciphers[64..]);
    for proofs in [&first.proofs, &second.proofs] {
        mixed.proofs.clone_from(proofs);
        assert_eq!(refused(&name, &table.ciphers, 3, &mixed), Some(ChoiceError::BadProof(0)));
    }
    assert_eq!(refused(&other, &table.ciphers, 3, &first), Some(ChoiceError::BadProof(0)));
    let turned = [&table.ciphers[128..], &table.ciphers[..128]].concat();
    assert_eq!(refused(&name, &turned, 3, &first), Some(ChoiceError::BadProof(0)));
    let mut short = first.clone();
    short.proofs.truncate(96);
    assert_eq!(refused(&name, &table.ciphers, 3, &short), Some(ChoiceError::BadProof(0)));
    assert_eq!(
        refused(&name, &table.ciphers, 2, &first),
        Some(ChoiceError::Length { expected: 192, got: 128 })
    );
    let out = key().select(&name, &table.ciphers, 3, 3, &seed(2));
    assert_eq!(out, Err(ChoiceError::Choice(0)));
    assert!(key().select(&name, &table.ciphers, 1, 0, &seed(2)).is_err());
    assert!(key().select(&name, &table.ciphers, 4, 0, &seed(2)).is_err());
}

#[test]
fn cells_add_up_and_a_cell_outside_is_refused() {
    let rows = [[1, 0], [1, 1], [0, 0], [1, 0]];
    let chosen = encrypt("a", &rows.concat(), 1);
    let ciphers = Ciphers::decode(&chosen.ciphers).unwrap();
    // Two trees of three cells.
    let mut sums = Ciphers::empty(12);
    let cells = [Some(2), Some(0), None, Some(2)];
    sums.add_rows(0, &cells, &ciphers, 2).unwrap();
    sums.add_rows(6, &[Some(1); 4], &ciphers, 2).unwrap();
    let expected = [1, 1, 0, 0, 2, 0, 0, 0, 3, 1, 0, 0];
    assert_eq!(open(&sums, 4), expected);
    let same = Ciphers::decode_sums(&sums.to_bytes()).unwrap();
    assert_eq!(open(&same, 4), expected);
    sums.add(&same).unwrap();
    assert_eq!(open(&sums, 8), expected.map(|count| 2 * count));
    let outside = sums.add_rows(6, &[Some(3); 4], &ciphers, 2);
    assert_eq!(outside, Err(ChoiceError::Length { expected: 14, got: 12 }));
    assert!(sums.add_rows(0, &cells[..3], &ciphers, 2).is_err());
    assert!(sums.add(&ciphers).is_err());
}

#[test]
fn a_wrong_share_of_an_opening_names_itself() {
    let (fixture, key) = fixture();
    let chosen = encrypt("a", &[1, 0, 1], 1);
    let ciphers = Ciphers::decode(&chosen.ciphers).unwrap();
    let partial = key.partial(&CONTEXT, &ciphers, &fixture.shares[3], &seed(1)).unwrap();
    for byte in [0, 5, 40, 100, partial.len() - 1] {
        let mut wrong = partial.clone();
        wrong[byte] ^= 1;
        assert!(key.check_partial(&CONTEXT, &ciphers, &wrong).is_err(), "{byte}");
    }
    let bad = Err(SchemeError::BadProof);
    assert_eq!(key.check_partial(&[6; 32], &ciphers, &partial), bad);
    let other = Ciphers::decode(&encrypt("a", &[1, 0, 1], 2).ciphers).unwrap();
    assert_eq!(key.check_partial(&CONTEXT, &other, &partial), bad);
    let foreign = KeyFixture::run(&ElGamal, 3, 2, 2);
    assert!(key.partial(&CONTEXT, &ciphers, &foreign.shares[1], &seed(1)).is_err());
    // Fewer than T holders, the authority missing, a sum outside its range.
    let part =
        |number: usize| key.partial(&CONTEXT, &ciphers, &fixture.shares[number], &seed(1)).unwrap();
    let [a, b, c, d] = [part(0), part(1), part(2), part(4)];
    let few = key.open(&ciphers, &[&a, &b, &c], 0..=1);
    assert_eq!(few.unwrap_err(), SchemeError::Messages { step: 2, expected: 3, got: 2 });
    let alone = key.open(&ciphers, &[&b, &c, &d], 0..=1);
    assert_eq!(alone.unwrap_err(), SchemeError::Messages { step: 1, expected: 1, got: 0 });
    let twice = key.open(&ciphers, &[&a, &b, &c, &c], 0..=1);
    assert_eq!(twice.unwrap_err(), SchemeError::Messages { step: 2, expected: 3, got: 2 });
    let range = key.open(&ciphers, &[&a, &b, &c, &d], 0..=0);
    assert_eq!(range.unwrap_err(), SchemeError::OutOfRange(0));
}

/// Bytes never change: they are part of what is signed and logged.
#[test]
fn the_bytes_are_those_of_before() {
    let bits = encrypt("a", &[0, 1], 1);
    let names = bindings("b", 2);
    let outs = key().or_bits(&names, &bits.ciphers, &secret(&[0, 1]), &seed(2)).unwrap();
    let row = key().select(&names[0], &bits.ciphers, 2, 1, &seed(3)).unwrap();
    let hash = |chosen: &Chosen| {
        hash_parts("vector", &[&chosen.ciphers, &chosen.proofs]).to_string()[..16].to_owned()
    };
    assert_eq!(
        [&bits, &outs, &row].map(hash),
        ["512d3487bad94fdb", "99319c130a3bd2a5", "a0b3ba021186d922"]
    );
    let again = encrypt("a", &[0, 1], 1);
    assert_eq!(again, bits);
    assert_ne!(encrypt("a", &[1, 1], 1).ciphers[64..], bits.ciphers[64..]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    /// The chain of two banks gives the OR, and cells the counts, of plain booleans.
    #[test]
    fn chains_and_cells_follow_plain_booleans(
        rows in prop::collection::vec((0u8..2, 0u8..2, 0u16..4), 1..40),
        drawn in any::<u8>(),
    ) {
        let first: Vec<u8> = rows.iter().map(|row| row.0).collect();
        let second: Vec<u8> = rows.iter().map(|row| row.1).collect();
        let [a, b] = [bindings("a", rows.len()), bindings("b", rows.len())];
        let inputs = key().encrypt_bits(&a, &secret(&first), &seed(drawn)).unwrap();
        key().check_bits(&a, &inputs).unwrap();
        let outs = key().or_bits(&b, &inputs.ciphers, &secret(&second), &seed(drawn)).unwrap();
        let ciphers = key().check_or(&b, &inputs.ciphers, &outs).unwrap();
        let mut sums = Ciphers::empty(4);
        let cells: Vec<_> = rows.iter().map(|row| Some(row.2)).collect();
        sums.add_rows(0, &cells, &ciphers, 1).unwrap();
        let mut expected = vec![0i64; 4];
        for (o, b, cell) in rows {
            expected[usize::from(cell)] += i64::from(o | b);
        }
        prop_assert_eq!(open(&sums, 40), expected);
    }
}

#[test]
fn classes_are_differences_of_thermometer_sums() {
    let key = key();
    // Five rows: severities 0, 1, 1, 2, 3 of 3.
    let bits = [[0, 0, 0], [1, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]];
    let mut sums = Ciphers::empty(3);
    for (row, bits) in (1u8..).zip(bits) {
        let chosen = key.encrypt_bits(&bindings("classes", 3), &secret(&bits), &seed(row)).unwrap();
        sums.add(&Ciphers::decode(&chosen.ciphers).unwrap()).unwrap();
    }
    assert_eq!(open(&sums, 10), [4, 2, 1]);
    assert_eq!(open(&sums.classes(5), 10), [1, 2, 1, 1]);
    assert_eq!(open(&sums.classes(0), 10), [-4, 2, 1, 1]);
    // No bit at all: everything is of class 0.
    assert_eq!(open(&Ciphers::empty(0).classes(7), 10), [7]);
    assert_eq!(open(&Ciphers::empty(2).classes(7), 10), [7, 0, 0]);
}

#[test]
fn refreshed_ciphertexts_hold_the_same_and_follow_from_the_seed() {
    let key = key();
    // A sum of nothing, whose first half is the identity, becomes a proper ciphertext.
    let plain = Ciphers::empty(1).classes(9);
    assert!(Ciphers::decode(&plain.to_bytes()).is_err());
    let binding = bindings("refresh", 2);
    let fresh =
        |binding: &Binding, of: &Ciphers, by| key.refreshed(binding, of, &seed(by)).to_bytes();
    let once = fresh(&binding[0], &plain, 1);
    assert_eq!(open(&Ciphers::decode(&once).unwrap(), 10), [9, 0]);
    assert_eq!(fresh(&binding[0], &plain, 1), once);
    let mut halves: Vec<Vec<u8>> = [
        once,
        fresh(&binding[1], &plain, 1),
        fresh(&binding[0], &plain, 2),
        fresh(&binding[0], &Ciphers::empty(1).classes(8), 1),
    ]
    .iter()
    .flat_map(|bytes| bytes.chunks(32).map(<[u8]>::to_vec))
    .collect();
    halves.sort();
    halves.dedup();
    assert_eq!(halves.len(), 16, "no half occurs twice");
}
